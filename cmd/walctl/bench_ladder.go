package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// benchLadderResult is what `walctl bench ladder` prints.
type benchLadderResult struct{ *bench.LadderReport }

func (r benchLadderResult) tables() []grid {
	var all []grid
	for _, d := range r.Disks {
		t := grid{
			title: fmt.Sprintf("%s: %d appends of %s outstanding, %s", bench.DescribeDisk(d.Disk), r.Callers, bench.SizeName(int64(r.RecordBytes)), r.Codec),
			head:  []string{"step", "appends", "gain", "frames", "records/frame", "MB/s", "fill", "compress", "write", "sync"},
		}
		for _, s := range d.Steps {
			t.rows = append(t.rows, []any{
				s.Step, rate(s.AppendsPerSecond), s.Gain, s.Frames, s.RecordsPerFrame, s.BytesPerSecond / 1e6,
				perFrame(s.FillUS), perFrame(s.CompressUS), perFrame(s.WriteUS), perFrame(s.SyncUS),
			})
		}
		all = append(all, t)
	}
	if len(r.Goals) > 0 {
		all = append(all, goalsTable("What is wanted", r.Goals))
	}
	return all
}

// perFrame is a time per frame given in microseconds.
func perFrame(us float64) time.Duration {
	return time.Duration(us * float64(time.Microsecond)).Round(time.Microsecond)
}

func newBenchLadderCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	var (
		disks   []string
		callers int
		packer  string
		svg     string
	)
	cmd := &cobra.Command{
		Use:   "ladder",
		Short: "Measure what merging, compressing and overlapping gain, step by step",
		Long: fmt.Sprintf(`Measure the engine's ideas one by one, each with those before it, under one
load: callers that each wait for their own append.

  lock and sync per append        a mutex, one append, one sync
  merged                          who came meanwhile shares the next sync
  merged, compressed              and blocks are compressed
  merged, compressed, overlapped  and the next frame fills meanwhile
  the same, and gathering         and waits for who was just told, if that pays:
                                  the engine as it is

on the real disk of --dir and on modelled ones: %s. A modelled disk takes the
time of its kind for each write and sync, and keeps its files, unsynced, in --dir
too. The whole takes about 40 seconds by default.

Times are means per frame. Where a frame fills while the one before is on its
way, filling includes the wait for the disk.

JSON: record_bytes, callers, codec, model_error_us, disks [] with disk and
steps [], each with appends_per_second, gain, frames, records_per_frame,
bytes_per_second, compression_ratio, fill_us, compress_us, write_us, sync_us and
timeline [] (microseconds at which a frame began to fill, was sealed, and so on);
and goals [].`, strings.Join(describeModelled(), "; ")),
		Example: `  walctl bench ladder
  walctl bench ladder --disk hdd --svg ladder.svg
  walctl bench ladder --disk real --dir /var/lib -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			o := bench.LadderOptions{Callers: callers, Size: int(f.size), Duration: f.duration}
			var err error
			switch o.Codec, err = codec.Parse(packer); {
			case err != nil || o.Codec == codec.None:
				return usagef("--codec %q: want s2 or zstd", packer)
			case callers < 1 || callers > limits.MaxCommandsPerFrame:
				return usagef("--callers %d: want 1 to %d", callers, limits.MaxCommandsPerFrame)
			}
			if !slices.Contains(disks, "all") {
				for _, name := range disks {
					if !slices.Contains(bench.Disks(), name) {
						return usagef("--disk %q: want all or some of %s", name, strings.Join(bench.Disks(), ", "))
					}
				}
				o.Disks = disks
			}
			return f.ladder(cmd, o, svg)
		},
	}
	f.register(cmd)
	f.registerDuration(cmd, time.Second, "time of each step")
	cmd.Flags().StringSliceVar(&disks, "disk", []string{"all"}, "`disks` to measure: all, or some of "+strings.Join(bench.Disks(), ", "))
	must(cmd.RegisterFlagCompletionFunc("disk", cobra.FixedCompletions(append([]string{"all"}, bench.Disks()...), cobra.ShellCompDirectiveNoFileComp)))
	cmd.Flags().IntVar(&callers, "callers", 1024, "appends outstanding")
	cmd.Flags().StringVar(&packer, "codec", codec.S2.String(), "what compresses: s2 or zstd")
	cmd.Flags().StringVar(&svg, "svg", "", "`file` to draw a picture into: bars, and what the frames of each step did when")
	return cmd
}

// describeModelled describes the modelled disks of a ladder.
func describeModelled() []string {
	var all []string
	for _, name := range bench.Disks() {
		if name != bench.RealDisk {
			all = append(all, bench.DescribeDisk(name))
		}
	}
	return all
}

func (f *benchFlags) ladder(cmd *cobra.Command, o bench.LadderOptions, svg string) (err error) {
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	var picture *os.File
	if svg != "" { // before anything is measured: it may be refused
		if picture, err = os.Create(svg); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, picture.Close()) }()
	}
	if o.Dir = f.dir; o.Dir == "" {
		o.Dir = os.TempDir()
	}
	o.Progress = line.steps
	got, err := bench.Ladder(cmd.Context(), o)
	line.clear()
	if err != nil {
		return err
	}
	if picture != nil {
		if err := got.WriteSVG(picture); err != nil {
			return fmt.Errorf("draw %s: %w", svg, err)
		}
	}
	return f.g.print(cmd, benchLadderResult{got})
}
