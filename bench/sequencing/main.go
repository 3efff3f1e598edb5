package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/walsvc/walsvc/bench/table"
	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sequencing:", err)
		os.Exit(1)
	}
}

// callers are the numbers of them that are measured.
var callers = []int{1, 8, 64, 256}

func command(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("sequencing", flag.ContinueOnError)
	rounds := f.Int("rounds", 5, "`number` of interleaved rounds")
	length := f.Duration("duration", 300*time.Millisecond, "`time` of each way in each round, about")
	size := f.Int("size", 400, "`bytes` of a record")
	format := f.String("o", "table", "`format` printed: table, markdown or json")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	switch {
	case *rounds < 1 || *length <= 0:
		return errors.New("-rounds and -duration are more than nothing")
	case *size < 1 || *size > limits.MaxRecordSize:
		return fmt.Errorf("-size %d: want 1 to %d", *size, limits.MaxRecordSize)
	case !slices.Contains([]string{"table", "markdown", "json"}, *format):
		return fmt.Errorf("-o %s: want table, markdown or json", *format)
	}
	r, err := measure(ctx, *rounds, *size, *length)
	if err != nil {
		return err
	}
	if *format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.write(out, *format == "markdown")
}

// A report is what `-o json` prints.
type report struct {
	CPUs        int    `json:"cpus"`
	Go          string `json:"go"`
	RecordBytes int    `json:"record_bytes"`
	Rounds      int    `json:"rounds"`
	Cells       []cell `json:"cells"`
}

// A cell is one way with so many callers: medians over the rounds.
type cell struct {
	Callers   int     `json:"callers"`
	Way       string  `json:"way"`
	NS        float64 `json:"ns_per_append"`
	PerSecond float64 `json:"appends_per_second"`
	Allocs    float64 `json:"allocs_per_append"`
	// Base names the way that ToBase compares with: throughput over throughput, the
	// median of the ratios of a round each.
	Base   string  `json:"base"`
	ToBase float64 `json:"to_base"`
}

// measure takes the ways in turn, another one first in each round.
func measure(ctx context.Context, rounds, size int, length time.Duration) (*report, error) {
	r := &report{CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), RecordBytes: size, Rounds: rounds}
	for _, n := range callers {
		ns := make([][]float64, len(ways)) // a round each
		allocs := make([][]float64, len(ways))
		for i := range rounds {
			for k := range ways {
				if err := ctx.Err(); err != nil {
					return nil, context.Cause(ctx)
				}
				at := (i + k) % len(ways)
				a, b, err := ways[at].cost(n, size, length)
				if err != nil {
					return nil, fmt.Errorf("%s, %d callers: %w", ways[at].name, n, err)
				}
				ns[at], allocs[at] = append(ns[at], a), append(allocs[at], b)
			}
		}
		for at, w := range ways {
			base := slices.IndexFunc(ways, func(b way) bool { return b.name == w.base })
			ratios := make([]float64, rounds)
			for i := range ratios {
				ratios[i] = ns[base][i] / ns[at][i]
			}
			m := bench.Median(ns[at])
			r.Cells = append(r.Cells, cell{
				Callers: n, Way: w.name, NS: m, PerSecond: 1e9 / m, Allocs: bench.Median(allocs[at]), Base: w.base, ToBase: bench.Median(ratios),
			})
		}
	}
	return r, nil
}

// cost measures nanoseconds and allocations for an append. It finds out how many
// appends fill the time by a twentieth of them, which warms up as well.
func (w way) cost(callers, size int, length time.Duration) (ns, allocs float64, err error) {
	l, err := w.newLoad(callers, size)
	if err != nil {
		return 0, 0, err
	}
	defer l.stop()
	n := 1000
	took, err := l.run(n)
	for err == nil && took < length/20 {
		n *= 2
		took, err = l.run(n)
	}
	if err != nil {
		return 0, 0, err
	}
	n = max(1, int(float64(n)*float64(length)/float64(took)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	took, err = l.run(n)
	runtime.ReadMemStats(&after)
	return float64(took) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n), err
}

// A load is callers over one way.
type load struct {
	turn
	callers []*caller
	journal *journal
}

func (w way) newLoad(callers, size int) (*load, error) {
	j, err := newJournal(callers)
	if err != nil {
		return nil, err
	}
	l := &load{journal: j}
	for i := range callers {
		c := &caller{log: uint64(i) + 1, answered: make(chan struct{}, 1)}
		cut := bench.NewCutter(size, i, callers)
		for k := range c.batches {
			c.batches[k] = batch{from: c, run: records.Append(nil, cut.Next())}
		}
		l.callers = append(l.callers, c)
	}
	l.turn = w.start(j)
	return l, nil
}

// run has the callers make n appends together, evenly, and returns when all have
// their verdict.
func (l *load) run(n int) (time.Duration, error) {
	var all sync.WaitGroup
	errs := make([]error, len(l.callers))
	began := time.Now()
	for i, c := range l.callers {
		share := n / len(l.callers)
		if i < n%len(l.callers) {
			share++
		}
		all.Go(func() { errs[i] = l.call(c, share) })
	}
	all.Wait()
	took := time.Since(began)
	return took, errors.Join(errs...)
}

// call makes n appends of one caller.
func (l *load) call(c *caller, n int) error {
	for range n {
		if l.room != nil {
			l.room(c)
		}
		b := &c.batches[c.sequence%window]
		c.sequence++
		if err := b.check(c.sequence); err != nil {
			return err
		}
		l.enter(b)
	}
	if l.settle != nil {
		l.settle(c)
	}
	return l.verify(c)
}

// verify returns an error unless everything that a caller appended was sequenced,
// once and in order: what came out of order was refused, and all behind it.
func (l *load) verify(c *caller) error {
	at, last := l.journal.logs[c.log], &c.batches[(c.sequence-1)%window]
	if at.last != c.sequence || uint64(at.next) != c.sequence+1 || uint64(last.first) != c.sequence {
		return fmt.Errorf("log %d: %d appended, the last is sequence %d and LSN %d, and was answered %d", c.log, c.sequence, at.last, at.next-1, last.first)
	}
	return nil
}

// write prints the table.
func (r *report) write(out io.Writer, markdown bool) error {
	var rows [][]string
	for _, c := range r.Cells {
		rows = append(rows, []string{strconv.Itoa(c.Callers), c.Way, table.Grouped(c.NS), table.Grouped(c.PerSecond),
			strconv.FormatFloat(c.Allocs, 'f', 2, 64), fmt.Sprintf("%.2fx %s", c.ToBase, c.Base)})
	}
	_, err := fmt.Fprintf(out, "One record of %d B an append, %d CPUs, %s; medians of %d rounds, no disk.\n\n%s\n", r.RecordBytes, r.CPUs, r.Go, r.Rounds,
		table.Render([]string{"callers", "way", "ns/append", "appends/s", "allocs/append", "throughput"}, rows, markdown))
	return err
}
