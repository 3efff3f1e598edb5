package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/limits"
)

func newBenchGoalsCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g, size: 400}
	var (
		rounds  int
		records int64
		logs    int
	)
	cmd := &cobra.Command{
		Use:   "goals",
		Short: "Measure what walsvc is to reach on its machine",
		Long: `Measure everything that walsvc is to reach on its machine, and what bounds it
there, in turn and in several rounds, and print it beside its gate, which has to
be passed, and its aim. Ratios are taken within a round. About three minutes by
default, and some gigabytes of the disk.

  1 caller                 to a bare gRPC round trip and an overwriting sync; and
                           to a bare stream that syncs before it answers
  64 callers               to callers that lock a mutex, append and sync
  64 connections           with a caller each, to bare gRPC streams like them
  pipelined                records of 400 and of 128 bytes
  1 MiB records            uncompressed, to the lower of what the disk and bare
                           gRPC take of writes and messages of that size
  replay                   of a log alone in its frames, and of one of 8 that
                           share theirs, every record compared; and the slowest
                           first record from many places
  many logs at once        pipelined, to one log
  open loop                99th percentile to median at half of what 64 callers
                           reach, while segments of 8 MiB roll
  server allocations       pipelined

JSON: record_bytes; median and rounds [], each with the figures by name; goals []
with what, got, gate, aim, at_most, unit and beside.`,
		Example: `  walctl bench goals
  walctl bench goals --rounds 9 --duration 2s --dir /var/lib -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if rounds < 1 || records < 1 || logs < 1 || logs > limits.MaxLogs {
				return usagef("--rounds %d --records %d --logs %d: want 1 and more", rounds, records, logs)
			}
			return f.withEcho(cmd, func(ctx context.Context, o bench.CompareOptions, line *statusLine) (err error) {
				var done func()
				if o.Target, done, err = f.own(ctx, line); err != nil {
					return err
				}
				defer done()
				o.Rounds, o.Records, o.Logs, o.Warm = rounds, records, logs, benchTime
				got, err := bench.CompareGoals(ctx, o)
				line.clear()
				if err != nil {
					return err
				}
				return g.print(cmd, benchCompareResult{got, "walsvc and its goals"})
			})
		},
	}
	f.registerDir(cmd)
	f.registerService(cmd)
	f.registerDuration(cmd, time.Second, "time of each measurement; the open loop takes four times that")
	cmd.Flags().IntVar(&rounds, "rounds", 5, "how often everything is measured")
	cmd.Flags().Int64Var(&records, "records", 1_000_000, "records that are read back of the log that is alone; a quarter of the one that is not")
	cmd.Flags().IntVar(&logs, "logs", 10_000, "logs that are written at once")
	return cmd
}
