package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// benchOpenResult is what `walctl bench open` prints.
type benchOpenResult struct{ *bench.OpenReport }

func (r benchOpenResult) tables() []grid {
	t := grid{title: "After SIGKILL, with a cold page cache", head: []string{"journal", "logs", "opened in"}}
	for _, o := range r.Openings {
		t.rows = append(t.rows, []any{size(o.JournalBytes), o.Logs, latency(o.OpenUS)})
	}
	return []grid{t, goalsTable("What is wanted", r.Goals)}
}

func newBenchOpenCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	var (
		small   = sizeFlag(100 << 20)
		journal = sizeFlag(10 << 30)
		rounds  int
		logs    int
	)
	cmd := &cobra.Command{
		Use:   "open",
		Short: "Measure opening after a kill, with a small journal and with a large one",
		Long: `Append to many logs of a walsvc process on a temporary volume, uncompressed,
until its journal is small, and later until it is large. Each time, kill the
process, have what is cached of the volume go, start the process again and
measure until it is ready. Nothing is truncated: the disk needs room for the
large journal.

JSON: openings [], small and large, each with journal_bytes, logs, open_us (the
median) and rounds_us []; and goals [].`,
		Example: `  walctl bench open
  walctl bench open --journal 1GiB --logs 100 --dir /var/lib -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			switch {
			case small < 1 || journal <= small:
				return usagef("--small %s --journal %s: want the second one above the first", small.String(), journal.String())
			case rounds < 1 || logs < 1 || logs > limits.MaxLogs:
				return usagef("--rounds %d --logs %d: want 1 and more", rounds, logs)
			}
			return f.open(cmd, logs, bench.OpenLoad{Small: int64(small), Large: int64(journal), Size: int(f.size), Rounds: rounds})
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	cmd.Flags().Var(&small, "small", "bytes of the small journal's segments")
	cmd.Flags().Var(&journal, "journal", "bytes of the large journal's segments")
	cmd.Flags().IntVar(&rounds, "rounds", 5, "how often each is opened")
	cmd.Flags().IntVar(&logs, "logs", 10_000, "logs that are appended to")
	return cmd
}

func (f *benchFlags) open(cmd *cobra.Command, logs int, l bench.OpenLoad) (err error) {
	ctx := cmd.Context()
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	o, done, err := f.own(ctx, line)
	if err != nil {
		return err
	}
	defer done()
	o.Logs = logs
	o.Args = append(o.Args, "--codec", codec.None.String()) // what counts is how large the journal is
	t, err := bench.NewTarget(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	l.Progress = line.steps
	got, err := t.Openings(ctx, l)
	line.clear()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return f.g.print(cmd, benchOpenResult{got})
}
