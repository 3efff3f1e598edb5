package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// defaultAddr is where `walsvc` listens when it is started with no configuration.
const defaultAddr = "unix:./walsvc-data/walsvc.sock"

// globals are the flags that every command has, and what commands share.
type globals struct {
	format     format
	addr       string
	tls        bool
	tlsCA      string
	tlsCert    string
	tlsKey     string
	serverName string
	// written asks for a first stage of every append.
	written bool

	// page is what shows the help of the command that was called.
	page string

	// started is set once the arguments have been accepted: an error before
	// that is one of usage.
	started bool
}

// newRootCommand returns the whole command tree.
func newRootCommand() *cobra.Command {
	root, _ := newRoot()
	return root
}

func newRoot() (*cobra.Command, *globals) {
	g := &globals{format: formatTable}
	root := &cobra.Command{
		Use:   "walctl",
		Short: "Work with a walsvc service and its volumes",
		Long: `walctl works with a walsvc service and with the volumes it keeps.

Results go to standard output: tables for people or, with -o json, JSON whose
keys scripts may rely on. Progress and errors go to standard error.

With no service at hand, start with "walctl demo".`,
		Args:          noArgs,
		RunE:          help,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			// Cobra looks at these only later, when errors are no longer of usage.
			if err := cmd.ValidateFlagGroups(); err != nil {
				return err
			}
			g.started = true
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetFlagErrorFunc(flagError)
	flags := root.PersistentFlags()
	flags.VarP(&g.format, "output", "o", "what results are printed as: table or json")
	flags.StringVar(&g.addr, "addr", cmp.Or(os.Getenv("WALSVC_ADDR"), defaultAddr),
		"service to talk to: unix:PATH or HOST:PORT (WALSVC_ADDR)")
	flags.BoolVar(&g.tls, "tls", false, "use TLS with the system's certificate authorities")
	flags.StringVar(&g.tlsCA, "tls-ca", "", "use TLS and trust the certificate authorities in this PEM `file`")
	flags.StringVar(&g.tlsCert, "tls-cert", "", "use TLS and present the certificate in this PEM `file`")
	flags.StringVar(&g.tlsKey, "tls-key", "", "private key of --tls-cert, a PEM `file`")
	flags.StringVar(&g.serverName, "tls-server-name", "", "use TLS and expect this `name` in the service's certificate")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formatNames(), cobra.ShellCompDirectiveNoFileComp)))
	must(root.RegisterFlagCompletionFunc("addr", cobra.FixedCompletions([]string{"unix:"}, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp)))

	root.AddGroup(
		&cobra.Group{ID: groupTry, Title: "Try it:"},
		&cobra.Group{ID: groupOnline, Title: "With a service:"},
		&cobra.Group{ID: groupOffline, Title: "With a volume or a disk:"},
	)
	root.AddCommand(
		newDemoCommand(g),
		newLogCommand(g),
		newAppendCommand(g),
		newReplayCommand(g),
		newTailCommand(g),
		newCheckpointCommand(g),
		newCursorCommand(g),
		newHoldersCommand(g),
		newWriterCommand(g),
		newProducerCommand(g),
		newResolveCommand(g),
		newRewindCommand(g),
		newSealCommand(g),
		newTruncateCommand(g),
		newStatusCommand(g),
		newContractCommand(g),
		newVerifyCommand(g),
		newVerifyReceiptCommand(g),
		newDumpCommand(g),
		newRepairCommand(g),
		newBenchCommand(g),
		newDiskCommand(g),
		newCertifyCommand(g),
		newExplainCommand(g),
		newVersionCommand(g),
		exitCodesTopic(),
	)
	return root, g
}

// The groups that `walctl help` lists commands in.
const (
	groupTry     = "try"
	groupOnline  = "online"
	groupOffline = "offline"
)

// help is what a command does that only has commands below it.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// noArgs, exactArgs and maxArgs validate the number of arguments and answer
// with the command's own usage line, where cobra's would only count.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.HasAvailableSubCommands() {
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
	}
	return exactArgs(0)(cmd, args)
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("usage is: %s", cmd.UseLine())
		}
		return nil
	}
}

func maxArgs(n int) cobra.PositionalArgs { //nolint:unparam // a command says how many it takes
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("usage is: %s", cmd.UseLine())
		}
		return nil
	}
}

// flagError says what a flag takes whose value does not parse: the library that parses
// it speaks of functions of Go.
func flagError(_ *cobra.Command, err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	var want string
	switch flag := invalid.GetFlag(); flag.Value.Type() {
	case "uint64", "uint32":
		want = "a whole number from 0 on"
	case "int":
		want = "a whole number"
	case "float64":
		want = "a number"
	case "duration":
		want = "a time with its unit, such as 10s"
	default:
		return fmt.Errorf("--%s: %w", flag.Name, invalid.Unwrap()) // says by itself what it takes
	}
	return fmt.Errorf("--%s: want %s, not %q", invalid.GetFlag().Name, want, invalid.GetValue())
}

// must is for registrations that fail only if the program itself is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
