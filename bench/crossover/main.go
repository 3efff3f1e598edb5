package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/limits"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "crossover:", err)
		os.Exit(1)
	}
}

// The smallest and the largest frames, in KiB: a block of the disk, and what a bus
// takes for full.
const (
	smallest = limits.BlockSize >> 10
	largest  = limits.FrameFullSize >> 10
)

// allowed is how many percent the automatic choice may be behind.
const allowed = 10

func command(ctx context.Context, args []string, out io.Writer) error {
	var (
		f      = flag.NewFlagSet("crossover", flag.ContinueOnError)
		dir    = f.String("dir", "", "`directory` on the disk to measure; default the one for temporary files")
		disks  = f.String("disks", strings.Join(bench.Disks(), ","), "`disks` to measure, with commas")
		sizes  = f.String("sizes", "4,16,64,256,1024,4096", "`sizes` of frames in KiB, raw, with commas")
		rounds = f.Int("rounds", 3, "`number` of interleaved rounds")
		length = f.Duration("duration", 300*time.Millisecond, "`time` of each measurement")
		settle = f.Duration("settle", time.Second, "`time` under load before the first measurement of each codec")
		pairs  = f.Int("pairs", 0, "`number` of pairs of the automatic choice and the best fixed codec in each cell; 0 for none")
		save   = f.String("out", "", "`directory` for crossover.json, crossover.md, the plots, and what benchstat reads; default none")
		format = f.String("o", "table", "`format` printed: table, markdown or json")
	)
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	o := options{dir: *dir, rounds: *rounds, duration: *length, settle: *settle, pairs: *pairs, open: bench.OpenDisk, progress: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}}
	switch {
	case *rounds < 1 || *length <= 0 || *settle <= 0 || *pairs < 0:
		return errors.New("-rounds, -duration and -settle are more than nothing, -pairs is not less")
	case !slices.Contains([]string{"table", "markdown", "json"}, *format):
		return fmt.Errorf("-o %s: want table, markdown or json", *format)
	}
	for _, name := range strings.Split(*disks, ",") {
		if !slices.Contains(bench.Disks(), name) {
			return fmt.Errorf("-disks %s: want some of %s", *disks, strings.Join(bench.Disks(), ","))
		}
		o.disks = append(o.disks, name)
	}
	for _, text := range strings.Split(*sizes, ",") {
		kib, err := strconv.Atoi(text)
		if err != nil || kib < smallest || kib > largest {
			return fmt.Errorf("-sizes %s: want numbers from %d to %d", *sizes, smallest, largest)
		}
		o.sizes = append(o.sizes, kib<<10)
	}
	cells, err := measure(ctx, o)
	if len(cells) == 0 {
		return err
	}
	r := newReport(o, cells)
	if *format == "json" {
		err = errors.Join(err, r.writeJSON(out))
	} else {
		err = errors.Join(err, r.write(out, *format == "markdown"))
	}
	if *save != "" {
		err = errors.Join(err, r.save(*save))
	}
	return errors.Join(err, r.verdict())
}
