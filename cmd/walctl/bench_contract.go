package main

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
)

func newBenchContractCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	var (
		pairs int
		stat  string
	)
	cmd := &cobra.Command{
		Use:   "contract",
		Short: "Measure what epochs, sequences and conditions cost",
		Long: `Append to two logs of a walsvc process on a temporary volume, in turn: to one
that is shared, with batches that say nothing about themselves, and to one that
has a writer, with batches that each state a producer's sequence, the writer's
epoch and the LSN they expect. Both speak the wire alike. Every other pair
begins with the other one, and ratios are taken within a pair. --benchstat
writes plain.txt and contract.txt for benchstat, which says how sure that is.

JSON: record_bytes; median and rounds [], each with the figures by name; goals []
with what, got, gate, aim, at_most, unit and beside.`,
		Example: `  walctl bench contract
  walctl bench contract --pairs 20 --duration 2s -o json
  walctl bench contract --benchstat . && benchstat plain.txt contract.txt`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := f.check(); err != nil {
				return err
			}
			if pairs < 1 {
				return usagef("--pairs %d: want 1 and more", pairs)
			}
			line := newStatusLine(cmd.ErrOrStderr())
			defer line.clear()
			own, done, err := f.own(cmd.Context(), line)
			if err != nil {
				return err
			}
			defer done()
			got, err := bench.CompareContract(cmd.Context(), bench.CompareOptions{
				Target: own, Size: int(f.size), Duration: f.duration, Rounds: pairs, Warm: benchTime, Progress: line.steps,
			})
			line.clear()
			if err != nil {
				return err
			}
			if stat != "" {
				if err := writeBenchstat(stat, got); err != nil {
					return err
				}
			}
			return g.print(cmd, benchCompareResult{got, "With epochs, sequences and conditions, and without"})
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	f.registerDuration(cmd, time.Second, "time of each measurement")
	cmd.Flags().IntVar(&pairs, "pairs", 10, "how often each is measured both ways")
	cmd.Flags().StringVar(&stat, "benchstat", "", "`directory` that files for benchstat are written to")
	return cmd
}

// writeBenchstat writes a file for each side.
func writeBenchstat(dir string, c *bench.Comparison) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for name, plain := range map[string]bool{"plain.txt": true, "contract.txt": false} {
		var b bytes.Buffer
		if err := bench.WriteContract(&b, c, plain); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o666); err != nil {
			return err
		}
	}
	return nil
}
