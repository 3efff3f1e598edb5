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

// Throughput is what a load achieved.
type Throughput struct {
	Appends   int64
	PerSecond float64
	Latency   Latency
	// Late is how long after they were due appends were handed over, with a rate.
	// Latency has it in it.
	Late Latency
}

// A Log is what load is put on; *client.Log is one.
type Log interface {
	// Append appends a record and returns when it is durable.
	Append(ctx context.Context, record []byte) (client.LSN, error)
	// AppendAsyncFunc hands a record on and calls fn once, when it is durable
	// or cannot become so any more.
	AppendAsyncFunc(ctx context.Context, record []byte, fn func(client.Receipt, error))
}

// Load says what is appended. Callers, or appends, spread over the logs in turn.
type Load struct {
	Callers   int           // goroutines that wait for each append; for a pipeline, producers
	Size      int           // of a record in bytes
	Pipelined bool          // producers go on while appends are unacknowledged, up to the window
	Duration  time.Duration // of what is counted

	// Rate, if above 0, is how many appends per second are due, whether earlier
	// ones are acknowledged or not: an open loop; see arrivals. Callers and
	// Pipelined have no meaning then. Even spaces them evenly; else they come as
	// those of many callers who know nothing of each other do (Poisson).
	Rate float64
	Even bool

	stop    <-chan struct{} // ends a pipeline or an open loop early, in order; nil never
	grace   time.Duration   // see ErrBehind; 0 is ten seconds
	latency *recorder       // of callers and of an open loop, for who looks meanwhile; nil for one of its own
}

// Run puts a load on logs, of which there must be at least one.
func (l Load) Run(ctx context.Context, logs []Log) (Throughput, error) {
	switch {
	case l.Rate > 0:
		return l.open(ctx, logs)
	case l.Pipelined:
		return l.pipeline(ctx, logs)
	}
	return call(ctx, l, func(caller int) appender {
		log := logs[caller%len(logs)]
		return func(ctx context.Context, record []byte) error {
			_, err := log.Append(ctx, record)
			return err
		}
	})
}

// An appender appends a record and returns when it is durable.
type appender func(ctx context.Context, record []byte) error

// call runs callers that each append one record after the other until the
// duration is over, and counts those that were durable before it was. The first
// error ends it.
func call(ctx context.Context, l Load, appenderOf func(caller int) appender) (Throughput, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		all     sync.WaitGroup
		ready   sync.WaitGroup
		begin   = make(chan struct{})
		clock   = time.Now()  // what callers ask for is the time since: half of what the time of day costs
		end     time.Duration // set before begin is closed
		latency = l.recorder()
		counted atomic.Int64
	)
	ready.Add(l.Callers)
	for i := range l.Callers {
		all.Go(func() {
			cut, appendRecord, n := NewCutter(l.Size, i, l.Callers), appenderOf(i), int64(0)
			defer func() { counted.Add(n) }()
			ready.Done()
			<-begin
			for start := time.Since(clock); start < end; {
				if err := appendRecord(ctx, cut.Next()); err != nil {
					cancel(err)
					return
				}
				now := time.Since(clock)
				if now > end {
					return // landed too late to count
				}
				latency.record(i, now-start)
				n++
				start = now
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
	ready.Wait()
	end = time.Since(clock) + l.Duration
	close(begin)
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return Throughput{}, err
	}
	n := counted.Load()
	return Throughput{Appends: n, PerSecond: float64(n) / l.Duration.Seconds(), Latency: latencyOf(latency.take())}, nil
}

// recorder returns what the load's latencies go to.
func (l Load) recorder() *recorder {
	if l.latency != nil {
		return l.latency
	}
	return newRecorder()
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
