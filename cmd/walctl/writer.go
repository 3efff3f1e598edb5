package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// writerResult is a log's writer as walctl prints it.
type writerResult struct {
	Log         string     `json:"log"`
	Writer      string     `json:"writer"`
	Epoch       uint64     `json:"epoch"`
	NextLSN     client.LSN `json:"next_lsn"`
	LogChecksum string     `json:"log_checksum"`
}

// writerJSON is the text on its JSON, for the help.
const writerJSON = `log, writer (empty if the log is shared), epoch, next_lsn, log_checksum
(eight hex digits, behind the record before next_lsn)`

func newWriterResult(i client.LogInfo) writerResult {
	return writerResult{i.Name, i.Writer, i.Epoch, i.Next, fmt.Sprintf("%08x", i.LogChecksum)}
}

func (w writerResult) tables() []grid {
	who := w.Writer
	if who == "" {
		who = "none: the log is shared"
	}
	return []grid{{rows: [][]any{
		{"log", w.Log},
		{"writer", who},
		{"epoch", w.Epoch},
		{"next LSN", uint64(w.NextLSN)},
		{"checksum", w.LogChecksum},
	}}}
}

func newWriterCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "writer",
		Short: "Acquire, list, fence and release the writers of logs",
		Long: `Acquire, list, fence and release the writers of logs. A log whose writer
somebody holds takes appends of that writer's epoch alone; acquiring it begins a
new epoch, and whoever states an older one, or none, is FENCED.`,
		GroupID: groupOnline,
		Args:    noArgs,
		RunE:    help,
	}
	cmd.AddCommand(newWriterAcquireCommand(g), newWriterListCommand(g), newWriterFenceCommand(g), newWriterReleaseCommand(g))
	return cmd
}

// expectEpoch adds the flag --expect-epoch and returns what it says.
func expectEpoch(cmd *cobra.Command) func() []client.WriterOption {
	epoch := cmd.Flags().Uint64("expect-epoch", 0, "refuse unless the log is in this `epoch`")
	return func() []client.WriterOption {
		if !cmd.Flags().Changed("expect-epoch") {
			return nil
		}
		return []client.WriterOption{client.ExpectEpoch(*epoch)}
	}
}

func newWriterAcquireCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "acquire LOG HOLDER",
		Short: "Make somebody a log's writer, and fence who was before",
		Long: `Make HOLDER, a name for people to see, the writer of a log. A new epoch begins,
durable before it is printed: what was appended before lies below next_lsn, and
of older epochs nothing more is taken. Append in it with walctl append --epoch,
or state it as an engine does.

JSON: ` + writerJSON + `.`,
		Example:           "  walctl writer acquire orders db-2 --expect-epoch 7",
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeLog,
	}
	expected := expectEpoch(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			w, err := c.Log(args[0]).AcquireWriter(ctx, args[1], expected()...)
			if err != nil {
				return err
			}
			return g.print(cmd, newWriterResult(w.Log))
		})
	}
	return cmd
}

// writerList is what `walctl writer list` prints.
type writerList struct {
	Writers []writerResult `json:"writers"`
}

func (l writerList) tables() []grid {
	t := grid{head: []string{"LOG", "WRITER", "EPOCH", "NEXT"}, empty: "no writers"}
	for _, w := range l.Writers {
		t.rows = append(t.rows, []any{w.Log, w.Writer, w.Epoch, uint64(w.NextLSN)})
	}
	return []grid{t}
}

func newWriterListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the logs that have a writer",
		Long: `List the logs that have a writer, and whose names begin with a prefix, in the
order of their names.

JSON: writers [], each with ` + writerJSON + `.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				list := writerList{Writers: []writerResult{}}
				for info, err := range c.ListLogs(ctx, slices.Concat(args, []string{""})[0]) {
					if err != nil {
						return err
					}
					if info.Writer != "" {
						list.Writers = append(list.Writers, newWriterResult(info))
					}
				}
				return g.print(cmd, list)
			})
		},
		ValidArgsFunction: g.completeLog,
	}
}

func newWriterFenceCommand(g *globals) *cobra.Command {
	var yes bool
	var by string
	cmd := &cobra.Command{
		Use:   "fence LOG",
		Short: "Keep everybody from appending to a log",
		Long: `Keep everybody from appending to a log, until somebody acquires its writer or it
is released: the writer is acquired for an operator, who does not append. It asks
first, unless --yes is given.

JSON: ` + writerJSON + `.`,
		Example:           "  walctl writer fence orders --by on-call --yes",
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
	}
	flags := cmd.Flags()
	flags.StringVar(&by, "by", "operator", "`name` that the log's writer gets")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	expected := expectEpoch(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			info, err := c.GetLog(ctx, args[0])
			if err != nil {
				return err
			}
			if !yes {
				who := "everybody who appends to it"
				if info.Writer != "" {
					who = fmt.Sprintf("its writer %q", info.Writer)
				}
				if yes, err = confirm(cmd, fmt.Sprintf("Fence %s from log %q?", who, info.Name)); err != nil {
					return err
				}
				if !yes {
					return g.print(cmd, newWriterResult(info))
				}
			}
			w, err := c.Log(args[0]).AcquireWriter(ctx, by, expected()...)
			if err != nil {
				return err
			}
			return g.print(cmd, newWriterResult(w.Log))
		})
	}
	return cmd
}

func newWriterReleaseCommand(g *globals) *cobra.Command {
	var epoch uint64
	cmd := &cobra.Command{
		Use:   "release LOG --epoch EPOCH",
		Short: "End a log's writer, so that the log is shared again",
		Long: `End the writer that was acquired with an epoch. One more epoch begins, in which
nobody is the writer and everybody may append who states no other. A log without
a writer stays as it is.

JSON: ` + writerJSON + `.`,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&epoch, "epoch", 0, "`epoch` of the writer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !flags.Changed("epoch") {
			return usagef("--epoch is missing")
		}
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			info, err := c.Log(args[0]).ReleaseWriter(ctx, epoch)
			if err != nil {
				return err
			}
			return g.print(cmd, newWriterResult(info))
		})
	}
	return cmd
}
