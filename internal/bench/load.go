package bench

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/walsvc/walsvc/client"
)

// The most that a pipeline has unacknowledged: whichever comes first.
const (
	PipelineRecords = 8192
	PipelineBytes   = 4 << 20
)

// sampleEvery is which of a pipeline's appends have their latency measured: at
// a million a second, two looks at the clock for each would be measured too.
const sampleEvery = 64

// Throughput is what callers that each wait for their own append achieved.
type Throughput struct {
	Appends   int64
	PerSecond float64
	Latency   Latency
}

// A Log is what load is put on; *client.Log is one.
type Log interface {
	// Append appends a record and returns when it is durable.
	Append(ctx context.Context, record []byte) (client.LSN, error)
	// AppendAsyncFunc hands a record on and calls fn once, when it is durable
	// or cannot become so any more.
	AppendAsyncFunc(ctx context.Context, record []byte, fn func(client.Receipt, error))
}

// Load says what is appended. Callers spread over the logs in turn.
type Load struct {
	Callers   int           // goroutines that wait for each append; for a pipeline, producers
	Size      int           // of a record in bytes
	Pipelined bool          // producers go on while appends are unacknowledged, up to the window
	Duration  time.Duration // of what is counted

	stop <-chan struct{} // ends a pipeline early, in order; nil never
}

// Run puts a load on logs, of which there must be at least one.
func (l Load) Run(ctx context.Context, logs []Log) (Throughput, error) {
	if l.Pipelined {
		return l.pipeline(ctx, logs)
	}
	return call(ctx, l.Callers, l.Size, l.Duration, func(caller int) appender {
		log := logs[caller%len(logs)]
		return func(ctx context.Context, record []byte) error {
			_, err := log.Append(ctx, record)
			return err
		}
	})
}

// An appender appends a record and returns when it is durable.
type appender func(ctx context.Context, record []byte) error

// shards is how many histograms callers share, so that 1,024 of them neither
// queue for one nor take 200 MB.
const shards = 16

// call runs callers that each append one record after the other until the
// duration is over, and counts those that were durable before it was. The first
// error ends it.
func call(ctx context.Context, callers, size int, duration time.Duration, appenderOf func(caller int) appender) (Throughput, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		all   sync.WaitGroup
		ready sync.WaitGroup
		begin = make(chan struct{})
		end   time.Time // set before begin is closed
		shard [shards]struct {
			sync.Mutex
			h *hdrhistogram.Histogram
		}
	)
	for i := range shard {
		shard[i].h = newHistogram()
	}
	ready.Add(callers)
	for i := range callers {
		all.Go(func() {
			cut, s, appendRecord := NewCutter(size, i, callers), &shard[i%shards], appenderOf(i)
			ready.Done()
			<-begin
			for start := time.Now(); start.Before(end); {
				if err := appendRecord(ctx, cut.Next()); err != nil {
					cancel(err)
					return
				}
				now := time.Now()
				if now.After(end) {
					return // landed too late to count
				}
				s.Lock()
				record(s.h, now.Sub(start))
				s.Unlock()
				start = now
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
	ready.Wait()
	end = time.Now().Add(duration)
	close(begin)
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return Throughput{}, err
	}
	h := newHistogram()
	for i := range shard {
		h.Merge(shard[i].h)
	}
	n := h.TotalCount()
	return Throughput{Appends: n, PerSecond: float64(n) / duration.Seconds(), Latency: latencyOf(h)}, nil
}

// pipeline runs producers that do not wait, but for room in their window.
func (l Load) pipeline(ctx context.Context, logs []Log) (Throughput, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	producers := make([]*producer, l.Callers)
	for i := range producers {
		p := &producer{
			cut: NewCutter(l.Size, i, l.Callers), fail: cancel, room: make(chan struct{}, 1),
			limit: max(min(PipelineRecords, PipelineBytes/int64(l.Size)), 1), latency: newHistogram(),
		}
		p.wakeAt.Store(math.MaxInt64)
		for j := i; j < max(len(logs), i+1); j += l.Callers {
			p.logs = append(p.logs, logs[j%len(logs)])
		}
		producers[i] = p
	}
	acked := func() (n int64) {
		for _, p := range producers {
			n += p.acked.Load()
		}
		return n
	}

	var (
		all    sync.WaitGroup
		over   = make(chan struct{})
		before = acked()
		start  = time.Now()
	)
	for _, p := range producers {
		all.Go(func() { p.run(ctx, over) })
	}
	clock := time.NewTimer(l.Duration)
	select {
	case <-clock.C:
	case <-l.stop:
	case <-ctx.Done():
	}
	clock.Stop()
	n, took := acked()-before, time.Since(start)
	close(over)
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return Throughput{}, err
	}
	h := newHistogram()
	for _, p := range producers {
		h.Merge(p.latency)
	}
	return Throughput{Appends: n, PerSecond: float64(n) / took.Seconds(), Latency: latencyOf(h)}, nil
}

// A producer keeps a window of appends unacknowledged. Per append it counts two
// numbers, and nothing is allocated but for those that are sampled.
type producer struct {
	logs  []Log
	cut   *Cutter
	limit int64 // appends unacknowledged at most
	fail  context.CancelCauseFunc
	sent  int64 // of the producing goroutine alone

	acked  atomic.Int64
	wakeAt atomic.Int64  // acknowledgements at which the producer wants to be woken
	room   chan struct{} // has one token then

	mu      sync.Mutex
	latency *hdrhistogram.Histogram
}

// run produces until over is closed or ctx ends, and returns when everything
// sent has been acknowledged or ctx has ended.
func (p *producer) run(ctx context.Context, over <-chan struct{}) {
	plain := func(_ client.Receipt, err error) { p.landed(err) }
	for {
		select {
		case <-over:
			p.wait(ctx, p.sent)
			return
		case <-ctx.Done():
			return
		default:
		}
		// A quarter of the window at a time: being woken for every single
		// acknowledgement would cost more than the appends.
		if p.sent-p.acked.Load() >= p.limit && !p.wait(ctx, p.sent-p.limit*3/4) {
			return
		}
		for range min(p.limit-(p.sent-p.acked.Load()), sampleEvery) {
			done := plain
			if p.sent%sampleEvery == 0 {
				start := time.Now()
				done = func(_ client.Receipt, err error) {
					p.sample(time.Since(start))
					p.landed(err)
				}
			}
			p.logs[p.sent%int64(len(p.logs))].AppendAsyncFunc(ctx, p.cut.Next(), done)
			p.sent++
		}
	}
}

// wait returns when so many appends were acknowledged; false if ctx ended first.
func (p *producer) wait(ctx context.Context, acked int64) bool {
	for p.acked.Load() < acked {
		p.wakeAt.Store(acked)
		if p.acked.Load() >= acked { // it may have happened before anybody knew
			break
		}
		select {
		case <-p.room:
		case <-ctx.Done():
			return false
		}
	}
	p.wakeAt.Store(math.MaxInt64)
	return true
}

// landed counts an acknowledgement.
func (p *producer) landed(err error) {
	if err != nil {
		p.fail(fmt.Errorf("pipelined append: %w", err))
	}
	if p.acked.Add(1) >= p.wakeAt.Load() {
		select {
		case p.room <- struct{}{}:
		default:
		}
	}
}

func (p *producer) sample(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	record(p.latency, d)
}
