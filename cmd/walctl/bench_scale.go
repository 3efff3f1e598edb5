package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/limits"
)

// benchScaleResult is what `walctl bench scale` prints.
type benchScaleResult struct{ *bench.ScaleReport }

func (r benchScaleResult) tables() []grid {
	t := grid{title: "Many logs and producers", head: []string{"what", "count", "rate", "p50", "p99", "allocated first", "last, each"}}
	for _, s := range r.Steps {
		t.rows = append(t.rows, []any{s.What, s.Count, rate(s.PerSecond), latency(s.Latency.P50), latency(s.Latency.P99), size(s.FirstBytes), size(s.LastBytes)})
	}
	return []grid{t, {title: "And then", rows: [][]any{
		{"opened after SIGKILL in", latency(r.OpenUS)},
		{"journal, written until then", fmt.Sprintf("%s, %s", size(r.JournalBytes), size(r.WrittenBytes))},
		{"snapshots", r.Snapshots},
		{"server memory, after opening", fmt.Sprintf("%s, %s", size(r.RSSBytes), size(r.OpenedBytes))},
	}}}
}

func newBenchScaleCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	state := sizeFlag(1 << 20)
	var l bench.ScaleLoad
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure with many logs and producers",
		Long: `Create many logs on a walsvc process of its own, open many producers on them,
have each append some batches, set checkpoints, read each log and each
checkpoint, list, kill the process and start it again.

What the service allocates for one of each in the first tenth and in the last
says whether it becomes dearer with what there is; it includes the snapshots that
are written meanwhile. With few operations the latter are most of it.

JSON: steps [], each with what, count, per_second, latency_us {p50, p99, p999},
first_bytes and last_bytes; open_us, journal_bytes, written_bytes (of segments),
snapshots, rss_bytes and opened_rss.`,
		Example: `  walctl bench scale
  walctl bench scale --logs 1000 --producers 100000 --batches 64 --dir /var/lib -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			l.Size, l.State = int(f.size), int(state)
			switch {
			case l.Logs < 1 || l.Logs > limits.MaxLogs:
				return usagef("--logs %d: want 1 to %d", l.Logs, limits.MaxLogs)
			case l.Producers < 1 || l.Producers > l.Logs*limits.MaxProducersPerLog:
				return usagef("--producers %d: want 1 to %d for each log", l.Producers, limits.MaxProducersPerLog)
			case l.Batches < 0 || l.Checkpoints < 0:
				return usagef("--batches %d --checkpoints %d: want 0 and more", l.Batches, l.Checkpoints)
			case state < 0 || state > limits.MaxCheckpointState:
				return usagef("--state %s: want at most %d bytes", state.String(), limits.MaxCheckpointState)
			}
			return f.scale(cmd, l)
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	cmd.Flags().IntVar(&l.Logs, "logs", 10_000, "logs that are created")
	cmd.Flags().IntVar(&l.Producers, "producers", 100_000, "producers of all logs together")
	cmd.Flags().IntVar(&l.Batches, "batches", 2, "batches that each producer appends")
	cmd.Flags().IntVar(&l.Checkpoints, "checkpoints", 1000, "checkpoints that are set, on one log after the other")
	cmd.Flags().Var(&state, "state", "bytes of a checkpoint's state")
	return cmd
}

func (f *benchFlags) scale(cmd *cobra.Command, l bench.ScaleLoad) (err error) {
	ctx := cmd.Context()
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	o, done, err := f.own(ctx, line)
	if err != nil {
		return err
	}
	defer done()
	o.Args = append(o.Args, "--admin-rate", "0") // creating and listing is what is measured
	t, err := bench.NewTarget(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	l.Progress = line.steps
	got, err := t.Scale(ctx, l)
	line.clear()
	if err != nil {
		return fmt.Errorf("scale: %w", err)
	}
	return f.g.print(cmd, benchScaleResult{got})
}
