package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
)

// diskResult is what `walctl disk` prints.
type diskResult struct{ *bench.DiskReport }

func (r diskResult) tables() []grid {
	t := grid{
		title: "Durable writes, one after the other, on " + r.Dir,
		head:  []string{"write", "how", "syncs/s", "MB/s", "p50", "p99", "gain"},
	}
	var last int64
	for _, c := range r.Cells {
		name := ""
		if c.Size != last {
			name, last = bench.SizeName(c.Size), c.Size
		}
		if c.Skipped != "" {
			t.rows = append(t.rows, []any{name, string(c.Mode), "-", "-", "-", "-", c.Skipped})
			continue
		}
		gain := ""
		if a := r.Cell(bench.Appended, c.Size); a != nil && c.Mode != bench.Appended {
			gain = fmt.Sprintf("%.1fx", c.SyncsPerSecond/a.SyncsPerSecond)
		}
		t.rows = append(t.rows, []any{name, string(c.Mode), int(c.SyncsPerSecond + 0.5), int(c.BytesPerSecond/1e6 + 0.5),
			latency(c.Latency.P50), latency(c.Latency.P99), gain})
	}
	return []grid{t}
}

// latency turns microseconds into a duration with about three digits.
func latency(us float64) time.Duration {
	d := time.Duration(us * float64(time.Microsecond))
	switch {
	case d < 10*time.Microsecond:
		return d.Round(10 * time.Nanosecond)
	case d < time.Millisecond:
		return d.Round(time.Microsecond)
	}
	return round(d)
}

// prose writes sentences, each a paragraph with a dash, wrapped to a terminal's width.
func prose(out io.Writer, sentences []string) error {
	const width = 78
	for _, s := range sentences {
		line := "-"
		for word := range strings.FieldsSeq(s) {
			if len(line)+1+len(word) > width {
				if _, err := fmt.Fprintln(out, line); err != nil {
					return err
				}
				line = " "
			}
			line += " " + word
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

func newDiskCommand(g *globals) *cobra.Command {
	var (
		o     bench.DiskOptions
		space = sizeFlag(512 << 20)
	)
	cmd := &cobra.Command{
		Use:   "disk DIR",
		Short: "Measure what durable writes cost on the disk of a directory",
		Long: `Measure durable writes of 4 KiB to 64 MiB on the disk of DIR, in four ways:

  appended      behind the end of a growing file, then fdatasync
  preallocated  into space that fallocate reserved, then fdatasync
  overwritten   over blocks that were written before, then fdatasync
  direct        the same with O_DIRECT

and say in words what that means for a walsvc volume there. A gain is syncs/s
beside those of appending at the same size.

Two files of together at most --space are made in DIR and removed again, also
when interrupted. The default takes 20 to 30 seconds; measure while nothing
else uses the disk.

JSON: dir, cells [] with mode, size, syncs, syncs_per_second, bytes_per_second,
latency_us {p50, p99, p999} and skipped (why nothing was measured), and verdict
with overwrite_gain, best_overwrite_gain, preallocate_gain, direct_gain,
best_direct_gain, lone_append_us, free_size, sync_too_fast and words [].`,
		Example: `  walctl disk /var/lib/walsvc
  walctl disk . --duration 2s --space 4GiB -o json`,
		GroupID: groupOffline,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.Duration <= 0:
				return usagef("--duration %v: want more than nothing", o.Duration)
			case space <= 0:
				return usagef("--space %s: want more than nothing", &space)
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("directory %q: %w", args[0], err)
			}
			o.Dir, o.Space = dir, int64(space)
			line := newStatusLine(cmd.ErrOrStderr())
			report, err := bench.Disk(cmd.Context(), o, line.steps)
			line.clear()
			if err != nil {
				return err
			}
			if err := g.print(cmd, diskResult{report}); err != nil || g.format == formatJSON {
				return err
			}
			out := cmd.OutOrStdout()
			if _, err := fmt.Fprintln(out); err != nil {
				return err
			}
			return prose(out, report.Verdict.Words)
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	}
	cmd.Flags().DurationVar(&o.Duration, "duration", 500*time.Millisecond, "time for each of the 32 cells")
	cmd.Flags().Var(&space, "space", "what the files may take together")
	return cmd
}
