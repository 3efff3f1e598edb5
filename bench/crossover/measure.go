package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/records"
)

// policies are what is measured; the automatic one is the last.
var policies = []batcher.CodecPolicy{batcher.Fixed(codec.None), batcher.Fixed(codec.S2), batcher.Fixed(codec.Zstd), batcher.Auto}

// auto is the index of the automatic policy.
const auto = 3

const (
	// recordSize is what callers append, in bytes.
	recordSize = 400
	// A caller appends a share of a frame, largestRun bytes at the most: larger
	// runs have blocks of their own size.
	shares     = 8
	largestRun = 32 << 10
	// deep is how many frames' worth of callers there are.
	deep = 3
	// leastFrames is how many a rate is taken over at the least.
	leastFrames = 6
)

// options say what is measured.
type options struct {
	dir      string
	disks    []string
	sizes    []int         // of frames, raw bytes
	rounds   int           // of all policies
	duration time.Duration // of each measurement
	settle   time.Duration // before the first one of each bus
	pairs    int           // of the automatic policy and the best fixed one
	segment  int64         // size of segments; 0 for the default
	open     func(disk string) (disk.FS, error)
	progress func(format string, args ...any)
}

// A cell is frames of one size on one disk.
type cell struct {
	Disk       string      `json:"disk"`
	FrameBytes int         `json:"frame_bytes"` // wanted, raw
	Policies   []outcome   `json:"policies"`
	Best       string      `json:"best"`           // the fixed codec with the best median
	Behind     float64     `json:"behind_percent"` // the automatic policy behind it, by the medians; below 0 if it is ahead
	Pairs      *comparison `json:"pairs,omitempty"`
}

// An outcome is what a policy achieved in a cell.
type outcome struct {
	Policy           string    `json:"policy"`
	BytesPerSecond   float64   `json:"bytes_per_second"` // raw, the median of the rounds
	Rounds           []float64 `json:"rounds_bytes_per_second"`
	AppendsPerSecond float64   `json:"appends_per_second"` // records
	FrameBytes       float64   `json:"frame_bytes"`        // raw, reached
	Compression      float64   `json:"compression_ratio"`
	// Blocks are the shares of all blocks that were stored with each codec.
	Blocks map[string]float64 `json:"blocks"`
}

// measure fills the cells, disk by disk. What was complete when an error ended it
// is returned with the error.
func measure(ctx context.Context, o options) (cells []cell, err error) {
	for i, name := range o.disks {
		some, err := o.on(ctx, name, func(what string, j int) {
			o.progress("%d of %d: %s, frames of %s", i*len(o.sizes)+j+1, len(o.disks)*len(o.sizes), what, bench.SizeName(int64(o.sizes[j])))
		})
		cells = append(cells, some...)
		if err != nil {
			return cells, fmt.Errorf("%s: %w", name, err)
		}
	}
	return cells, nil
}

func (o options) on(ctx context.Context, name string, progress func(what string, size int)) (cells []cell, err error) {
	fs, err := o.open(name)
	if err != nil {
		return nil, err
	}
	rig, err := bench.OpenRig(ctx, bench.RigOptions{FS: fs, Dir: o.dir, SegmentSize: o.segment})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	for i, size := range o.sizes {
		progress(name, i)
		c, err := o.cell(ctx, rig, name, size)
		if err != nil {
			return cells, fmt.Errorf("frames of %s: %w", bench.SizeName(int64(size)), err)
		}
		cells = append(cells, c)
	}
	return cells, nil
}

// cell measures the policies with frames of one size.
func (o options) cell(ctx context.Context, rig *bench.Rig, name string, size int) (_ cell, err error) {
	subjects := make([]*subject, len(policies))
	for i, p := range policies {
		subjects[i] = newSubject(rig, p, size)
	}
	defer func() {
		for _, s := range subjects {
			err = errors.Join(err, s.bus.Close())
		}
	}()
	for _, s := range subjects {
		if _, err := s.run(ctx, o.settle); err != nil {
			return cell{}, err
		}
	}
	runs := make([][]figures, len(policies))
	for i := range o.rounds {
		for k := range subjects {
			at := (i + k) % len(subjects)
			f, err := subjects[at].run(ctx, o.duration)
			if err != nil {
				return cell{}, err
			}
			runs[at] = append(runs[at], f)
		}
	}
	c := cell{Disk: name, FrameBytes: size}
	for i := range subjects {
		c.Policies = append(c.Policies, outcomeOf(policies[i], runs[i]))
	}
	best := 0
	for i := range auto {
		if c.Policies[i].BytesPerSecond > c.Policies[best].BytesPerSecond {
			best = i
		}
	}
	c.Best = c.Policies[best].Policy
	c.Behind = behind(c.Policies[auto].BytesPerSecond / c.Policies[best].BytesPerSecond)
	if o.pairs > 0 {
		c.Pairs, err = o.compare(ctx, subjects[auto], subjects[best])
	}
	return c, err
}

// behind is how many percent a ratio is below 1.
func behind(ratio float64) float64 { return 100 * (1 - ratio) }

// outcomeOf sums runs up.
func outcomeOf(p batcher.CodecPolicy, runs []figures) outcome {
	out := outcome{Policy: p.String(), Blocks: map[string]float64{}}
	var sum figures
	for _, f := range runs {
		out.Rounds = append(out.Rounds, f.rate())
		sum.frames += f.frames
		sum.raw += f.raw
		sum.stored += f.stored
		for c, n := range f.blocks {
			sum.blocks[c] += n
		}
	}
	out.BytesPerSecond = bench.Median(out.Rounds)
	out.AppendsPerSecond = out.BytesPerSecond / float64(records.Size(recordSize))
	out.FrameBytes = float64(sum.raw) / float64(sum.frames)
	out.Compression = float64(sum.raw) / float64(sum.stored)
	var all uint64
	for _, n := range sum.blocks {
		all += n
	}
	for c, n := range sum.blocks {
		out.Blocks[codec.Codec(c).String()] = float64(n) / float64(all)
	}
	return out
}

// A comparison is pairs of measurements, one of each behind the other.
type comparison struct {
	Auto   []float64 `json:"auto_bytes_per_second"`
	Best   []float64 `json:"best_bytes_per_second"`
	Behind float64   `json:"behind_percent"` // by the median of the pairs' ratios
}

// compare measures pairs, the other one first in each.
func (o options) compare(ctx context.Context, auto, best *subject) (*comparison, error) {
	var c comparison
	var ratios []float64
	for i := range o.pairs {
		var rates [2]float64
		for k := range rates {
			at := (i + k) % 2
			f, err := []*subject{auto, best}[at].run(ctx, o.duration)
			if err != nil {
				return nil, err
			}
			rates[at] = f.rate()
		}
		c.Auto, c.Best = append(c.Auto, rates[0]), append(c.Best, rates[1])
		ratios = append(ratios, rates[0]/rates[1])
	}
	c.Behind = behind(bench.Median(ratios))
	return &c, nil
}

// figures are what landed between the first and the last landing of a run.
type figures struct {
	frames, raw, stored int64
	blocks              [codec.Zstd + 1]uint64 // by codec, of the whole run
	took                time.Duration
}

// rate is raw bytes per second.
func (f figures) rate() float64 { return float64(f.raw) / f.took.Seconds() }

// A subject is a bus with callers that fill its frames.
type subject struct {
	rig     *bench.Rig
	bus     *batcher.Bus
	callers []*bench.Caller
	share   int // records that a caller appends at once

	mu    sync.Mutex
	count bool
	first time.Time // landing, that is not counted
	last  figures
	there chan struct{} // closed when enough have landed
}

func newSubject(rig *bench.Rig, p batcher.CodecPolicy, size int) *subject {
	record := records.Size(recordSize)
	s := &subject{rig: rig, share: max(1, min(size/shares, largestRun)/record)}
	s.bus = batcher.New(batcher.Options{
		FullSize: size,
		Codec:    p,
		Submit: func(f *batcher.Frame) {
			_, err := rig.Commit(f)
			s.bus.Landed(f.Ticket, err)
		},
		Events: batcher.Events{FrameLanded: s.landed},
	})
	run := s.share * record
	for range (deep*size + run - 1) / run {
		s.callers = append(s.callers, bench.NewCaller())
	}
	return s
}

// landed counts a frame. It is told of one after the other.
func (s *subject) landed(i batcher.FrameInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.count {
		return
	}
	now := time.Now()
	if s.first.IsZero() {
		s.first = now
		return
	}
	f := &s.last
	f.frames++
	f.raw += int64(i.RawSize)
	f.stored += int64(i.StoredSize)
	f.took = now.Sub(s.first)
	if f.frames == leastFrames {
		close(s.there)
	}
}

// run has the callers append for a time, after a quarter of it that does not
// count, and until enough frames have landed.
func (s *subject) run(ctx context.Context, d time.Duration) (f figures, err error) {
	s.mu.Lock()
	s.first, s.last, s.there = time.Time{}, figures{}, make(chan struct{})
	s.mu.Unlock()
	before := s.bus.Stats().Blocks
	var (
		stop atomic.Bool
		all  sync.WaitGroup
	)
	for i, c := range s.callers {
		all.Go(func() {
			if err := s.call(c, i, &stop); err != nil {
				s.rig.Fail(err)
			}
		})
	}
	err = s.rig.Sleep(ctx, d/4)
	s.counting(true)
	if err == nil {
		err = s.rig.Sleep(ctx, d)
	}
	if err == nil {
		err = s.rig.Wait(ctx, s.there)
	}
	s.counting(false)
	stop.Store(true)
	all.Wait()
	if err != nil {
		return figures{}, err
	}
	f = s.last
	for c, n := range s.bus.Stats().Blocks {
		f.blocks[c] = n - before[c]
	}
	return f, nil
}

func (s *subject) counting(count bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count = count
}

// streamRecords is how many records there are: more than the largest frames on
// board and on their way hold, so that no frame has anything twice.
const streamRecords = 1 << 15

// stream is one run of records to append parts of, so that a caller has nothing
// to do but that.
var stream = sync.OnceValue(func() (run []byte) {
	cut := bench.NewCutter(recordSize, 0, 1)
	for range streamRecords {
		run = records.Append(run, cut.Next())
	}
	return run
})

// call appends until it is to stop.
func (s *subject) call(c *bench.Caller, i int, stop *atomic.Bool) error {
	for at := streamRecords / len(s.callers) * i; !stop.Load(); at += s.share {
		if at+s.share > streamRecords {
			at = 0
		}
		record := records.Size(recordSize)
		c.Run = stream()[at*record : (at+s.share)*record]
		f, err := s.bus.Board()
		if err != nil {
			return err
		}
		c.Board(f)
		s.bus.Leave()
		if err := c.Wait(); err != nil {
			return err
		}
	}
	return nil
}
