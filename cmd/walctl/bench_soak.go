package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
)

// benchSoakResult is what `walctl bench soak` prints.
type benchSoakResult struct{ *bench.SoakReport }

// soakPeriods is how many lines the table of a soak has.
const soakPeriods = 10

func (r benchSoakResult) tables() []grid {
	over := grid{
		title: fmt.Sprintf("%s in a pipeline, followed, and %d callers: medians of each period", rate(r.RatePerSecond), r.Callers),
		head:  []string{"until", "appends", "p50", "p99", "server memory", "heap"},
	}
	for _, p := range r.Periods(soakPeriods) {
		over.rows = append(over.rows, []any{
			time.Duration(p.Second * float64(time.Second)).Round(time.Millisecond), rate(p.AppendsPerSecond),
			latency(p.P50US), latency(p.P99US), size(p.ServerRSSBytes), size(p.ServerHeapBytes),
		})
	}
	trends := grid{title: "Flat: the last quarter beside the first, after a tenth for warming up",
		head: []string{"what", "first", "last", "allowed", ""}}
	spell := map[bool]func(float64) any{
		false: func(v float64) any { return latency(v) },
		true:  func(v float64) any { return size(v) },
	}
	for _, t := range r.Trends {
		of, verdict := spell[t.Bytes], mood{"flat", false}
		if !t.Flat {
			verdict = mood{"not flat", true}
		}
		trends.rows = append(trends.rows, []any{t.What, of(t.First), of(t.Last), of(t.Bound), verdict})
	}
	return []grid{over, trends}
}

func newBenchSoakCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	var (
		callers int
		share   float64
		svg     string
	)
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Load a service for long, and watch its memory and latency",
		Long: `Load a walsvc process on a temporary volume for long: a producer that appends at
a fixed rate, a share of what a pipeline reaches alone; a follower that reads
what it appends; checkpoints behind the follower, five a second; and callers that
each wait for their own append, to a log that is truncated.

Each second is a sample: appends of both, the callers' latencies, and the
service's resident memory and heap. Whether they are flat is judged by medians:
the first tenth of the samples is left out, and of the rest, memory in the last
quarter may be 1.1 times that of the first (or 4 MiB more), the median latency
1.2 times, and the 99th percentile 1.5 times. A follower that misses a record, or
does not get to the end, is an error.

JSON: record_bytes, callers, peak_per_second, rate_per_second, checkpoints,
followed, segments_rolled, segments_recycled, samples [] with second,
appends_per_second, p50_us, p99_us, server_rss_bytes and server_heap_bytes;
trends [] with what, bytes, first, last, factor, bound and flat; and flat.`,
		Example: `  walctl bench soak
  walctl bench soak --duration 1h --svg soak.svg -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			switch {
			case callers < 1 || callers > 1<<16:
				return usagef("--callers %d: want 1 to %d", callers, 1<<16)
			case !(share > 0 && share <= 1): // nor NaN
				return usagef("--share %v: want more than 0 and at most 1", share)
			}
			return f.soak(cmd, bench.SoakOptions{Callers: callers, Share: share, Size: int(f.size), Duration: f.duration, Warm: benchTime}, svg)
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	f.registerDuration(cmd, 10*time.Minute, "time under load")
	cmd.Flags().IntVar(&callers, "callers", 64, "goroutines that wait for each append")
	cmd.Flags().Float64Var(&share, "share", 0.25, "of what a pipeline reaches alone, that the producer appends")
	cmd.Flags().StringVar(&svg, "svg", "", "`file` to draw a picture into: each figure over time")
	return cmd
}

func (f *benchFlags) soak(cmd *cobra.Command, o bench.SoakOptions, svg string) (err error) {
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	var picture *os.File
	if svg != "" { // before anything is measured: it may be refused
		if picture, err = os.Create(svg); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, picture.Close()) }()
	}
	var done func()
	if o.Target, done, err = f.own(cmd.Context(), line); err != nil {
		return err
	}
	defer done()
	o.Progress = line.steps
	got, err := bench.Soak(cmd.Context(), o)
	line.clear()
	if err != nil {
		return err
	}
	if picture != nil {
		if err := got.WriteSVG(picture); err != nil {
			return fmt.Errorf("draw %s: %w", svg, err)
		}
	}
	return f.g.print(cmd, benchSoakResult{got})
}
