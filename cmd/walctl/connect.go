package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// connectLimit bounds how long a command tries to reach the service.
const connectLimit = 10 * time.Second

// withClient connects as the flags say, calls f, and ends the connection.
func (g *globals) withClient(cmd *cobra.Command, f func(ctx context.Context, c *client.Client) error) (err error) {
	c, err := g.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer func() {
		// Whoever appended has waited for the outcome: nothing is left to wait for.
		ctx, cancel := context.WithCancel(cmd.Context())
		cancel()
		if e := c.Close(ctx); err == nil && e != nil && !errors.Is(e, context.Canceled) {
			err = e
		}
	}()
	return f(cmd.Context(), c)
}

// connect opens a client as the flags say.
func (g *globals) connect(ctx context.Context) (*client.Client, error) {
	config, err := g.tlsConfig()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	return client.Open(ctx, g.addr, client.Options{TLS: config, WrittenAcks: g.written})
}

// tlsConfig returns what the TLS flags say, nil if there are none.
func (g *globals) tlsConfig() (*tls.Config, error) {
	if !g.tls && g.tlsCA == "" && g.tlsCert == "" && g.tlsKey == "" && g.serverName == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: g.serverName}
	if g.tlsCA != "" {
		pem, err := os.ReadFile(g.tlsCA)
		if err != nil {
			return nil, usagef("--tls-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("--tls-ca: %s has no certificate in PEM", g.tlsCA)
		}
	}
	if (g.tlsCert == "") != (g.tlsKey == "") {
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	if g.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(g.tlsCert, g.tlsKey)
		if err != nil {
			return nil, usagef("--tls-cert: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// completionLimit bounds what the shell waits for when completing a name.
const completionLimit = 2 * time.Second

// maxCompletions bounds the names offered.
const maxCompletions = 200

// completeLog offers the names of the logs for a command's first argument, and
// nothing, silently, if the service cannot be asked.
func (g *globals) completeLog(cmd *cobra.Command, args []string, prefix string) (names []cobra.Completion, d cobra.ShellCompDirective) {
	d = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, d
	}
	g.completing(cmd, func(ctx context.Context, c *client.Client) {
		for info, err := range c.ListLogs(ctx, prefix) {
			if err != nil || len(names) == maxCompletions {
				return
			}
			names = append(names, cobra.CompletionWithDesc(info.Name, fmt.Sprintf("LSN %d to %d", info.First, info.Durable())))
		}
	})
	return names, d
}

// completeCheckpoint offers the names of the logs and then those of the log's
// checkpoints.
func (g *globals) completeCheckpoint(cmd *cobra.Command, args []string, prefix string) (names []cobra.Completion, d cobra.ShellCompDirective) {
	if len(args) != 1 {
		return g.completeLog(cmd, args, prefix)
	}
	return g.checkpointNames(cmd, args[0]), cobra.ShellCompDirectiveNoFileComp
}

// completeCheckpointFlag offers the checkpoints of the log in the first argument.
func (g *globals) completeCheckpointFlag(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.checkpointNames(cmd, args[0]), cobra.ShellCompDirectiveNoFileComp
}

func (g *globals) checkpointNames(cmd *cobra.Command, log string) (names []cobra.Completion) {
	g.completing(cmd, func(ctx context.Context, c *client.Client) {
		all, err := c.Log(log).Checkpoints(ctx)
		if err != nil {
			return
		}
		for _, cp := range all {
			names = append(names, cobra.CompletionWithDesc(cp.Name, fmt.Sprintf("LSN %d", cp.LSN)))
		}
	})
	return names
}

// completing connects for a completion. The shell has nowhere to show an error.
func (g *globals) completing(cmd *cobra.Command, f func(context.Context, *client.Client)) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
	defer cancel()
	c, err := g.connect(ctx)
	if err != nil {
		return
	}
	f(ctx, c)
	_ = c.Close(ctx)
}
