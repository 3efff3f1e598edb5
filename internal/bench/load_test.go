package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
)

// bus is a log that lands what has gathered whenever somebody lets it, and
// remembers the most that was ever unacknowledged.
type bus struct {
	mu      sync.Mutex
	waiting []func(client.Receipt, error)
	most    int
	taken   int
	refuse  int // the append that is refused, from 1; 0 for none
	fail    int // the append that fails later
	gather  chan struct{}
}

func newBus() *bus { return &bus{gather: make(chan struct{}, 1)} }

func (b *bus) Append(ctx context.Context, record []byte) (client.LSN, error) {
	landed := make(chan error, 1)
	b.AppendAsyncFunc(ctx, record, func(_ client.Receipt, err error) { landed <- err })
	return 1, <-landed
}

func (b *bus) AppendAsyncFunc(_ context.Context, _ []byte, fn func(client.Receipt, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken++; b.taken == b.refuse {
		fn(client.Receipt{}, errors.New("refused"))
		return
	}
	if b.taken == b.fail {
		inner := fn
		fn = func(r client.Receipt, _ error) { inner(r, errors.New("lost")) }
	}
	b.waiting = append(b.waiting, fn)
	b.most = max(b.most, len(b.waiting))
	select {
	case b.gather <- struct{}{}:
	default:
	}
}

// drive lands everything until the returned function is called.
func (b *bus) drive() (stop func()) {
	var driver sync.WaitGroup
	over := make(chan struct{})
	driver.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-b.gather:
			}
			b.mu.Lock()
			landed := b.waiting
			b.waiting = nil
			b.mu.Unlock()
			for _, done := range landed {
				done(client.Receipt{}, nil)
			}
		}
	})
	return func() {
		close(over)
		driver.Wait()
	}
}

// allUsed reports whether every log that the load reaches got an append:
// callers stay with one log each, producers share all.
func allUsed(buses []*bus, l Load) bool {
	for i, b := range buses {
		b.mu.Lock()
		taken := b.taken
		b.mu.Unlock()
		if taken == 0 && (l.Pipelined || i < l.Callers) {
			return false
		}
	}
	return true
}

func TestLoadCounts(t *testing.T) {
	for _, l := range []Load{
		{Callers: 1, Size: 400},
		{Callers: 16, Size: 400},
		{Callers: 1, Size: 400, Pipelined: true},
		{Callers: 3, Size: 400, Pipelined: true},
		{Callers: 1, Size: 1 << 20, Pipelined: true},
		{Callers: 1, Size: 3 << 20, Pipelined: true},
	} {
		for _, n := range []int{1, 5} {
			t.Run(fmt.Sprintf("callers=%d/size=%d/pipelined=%t/logs=%d", l.Callers, l.Size, l.Pipelined, n), func(t *testing.T) {
				buses, logs := make([]*bus, n), make([]Log, n)
				for i := range buses {
					buses[i] = newBus()
					t.Cleanup(buses[i].drive())
					logs[i] = buses[i]
				}
				// Which goroutine gets to run in so short a time is chance: longer, if need be.
				var got Throughput
				for l.Duration = 5 * time.Millisecond; (got.Appends == 0 || !allUsed(buses, l)) && l.Duration < 10*time.Second; l.Duration *= 2 {
					var err error
					if got, err = l.Run(t.Context(), logs); err != nil {
						t.Fatal(err)
					}
				}
				var taken, most int
				for i, b := range buses {
					b.mu.Lock()
					taken += b.taken
					most += b.most
					if len(b.waiting) != 0 {
						t.Errorf("log %d: %d appends left unacknowledged", i, len(b.waiting))
					}
					b.mu.Unlock()
				}
				if !allUsed(buses, l) {
					t.Error("a log got nothing")
				}
				if got.Appends == 0 || got.Appends > int64(taken) || got.PerSecond == 0 {
					t.Errorf("counted %d of %d appends, %.0f/s", got.Appends, taken, got.PerSecond)
				}
				if got.Latency.P50 == 0 {
					t.Error("no latency")
				}
				window := l.Callers
				if l.Pipelined {
					window *= max(min(PipelineRecords, PipelineBytes/l.Size), 1)
				}
				// The sum of each log's own peak is no less than the joint one.
				if n == 1 && most > window {
					t.Errorf("%d unacknowledged at once, the window is %d", most, window)
				}
			})
		}
	}
}

func TestPipelineFillsItsWindow(t *testing.T) {
	b := newBus() // nothing lands
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() {
		_, err := Load{Callers: 1, Size: 400, Pipelined: true, Duration: time.Hour}.Run(ctx, []Log{b})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	for full := false; !full; {
		<-b.gather
		b.mu.Lock()
		full = len(b.waiting) == PipelineRecords
		b.mu.Unlock()
	}
	cancel()
	run.Wait()
}

func TestLoadEndsWithTheFirstError(t *testing.T) {
	for _, pipelined := range []bool{false, true} {
		for _, b := range []*bus{{refuse: 3}, {fail: 3}} {
			b.gather = make(chan struct{}, 1)
			stop := b.drive()
			_, err := Load{Callers: 2, Size: 400, Pipelined: pipelined, Duration: time.Hour}.Run(t.Context(), []Log{b})
			stop()
			if err == nil || errors.Is(err, context.Canceled) {
				t.Errorf("pipelined %t: error %v, want the log's", pipelined, err)
			}
		}
	}
}

func TestAppendUntil(t *testing.T) {
	b := newBus()
	defer b.drive()()
	l := Load{Callers: 1, Size: 400, Pipelined: true, Duration: time.Hour}
	asked := 0
	yes, err := appendUntil(t.Context(), l, []Log{b}, func() (bool, error) {
		asked++
		return asked == 2, nil
	})
	if !yes || err != nil || asked != 2 {
		t.Errorf("%t, %v after %d questions", yes, err, asked)
	}
	b.mu.Lock()
	if b.taken == 0 || len(b.waiting) != 0 {
		t.Errorf("%d appends, %d of them unacknowledged", b.taken, len(b.waiting))
	}
	b.mu.Unlock()
	broken := errors.New("broken")
	if yes, err := appendUntil(t.Context(), l, []Log{b}, func() (bool, error) { return false, broken }); yes || !errors.Is(err, broken) {
		t.Errorf("%t, %v of a question that fails", yes, err)
	}
	l.Duration = time.Millisecond
	if yes, err := appendUntil(t.Context(), l, []Log{b}, func() (bool, error) { return false, nil }); yes || err != nil {
		t.Errorf("%t, %v of a load that is over", yes, err)
	}
	if yes, err := appendUntil(t.Context(), l, []Log{&bus{refuse: 1, gather: make(chan struct{}, 1)}}, func() (bool, error) { return false, nil }); yes || err == nil {
		t.Errorf("%t, %v of a load that fails", yes, err)
	}
}

// BenchmarkPipeline measures the generator: it must be far ahead of any server.
func BenchmarkPipeline(b *testing.B) {
	var p producer
	plain := func(_ client.Receipt, err error) { p.landed(err) }
	p.cut, p.fail, p.room = NewCutter(400, 0, 1), func(error) {}, make(chan struct{}, 1)
	p.wakeAt.Store(1 << 62)
	b.ReportAllocs()
	for b.Loop() {
		p.cut.Next()
		plain(client.Receipt{}, nil)
	}
}

func TestScheduleKeepsItsRate(t *testing.T) {
	for _, even := range []bool{false, true} {
		const n = 100_000
		l := Load{Rate: 30_000, Even: even}
		next, again := l.schedule(), l.schedule()
		var sum, longest time.Duration
		for range n {
			d := next()
			if d < 0 || d != again() {
				t.Fatalf("even %t: after %v, the next append is due after %v, and another time elsewhere", even, sum, d)
			}
			sum += d
			longest = max(longest, d)
		}
		if rate := n / sum.Seconds(); rate < 0.99*l.Rate || rate > 1.01*l.Rate {
			t.Errorf("even %t: %.0f appends a second, want %.0f", even, rate, l.Rate)
		}
		if mean := sum / n; even != (longest <= mean+1) {
			t.Errorf("even %t: up to %v apart, %v in the mean", even, longest, mean)
		}
	}
}

func TestOpenLoop(t *testing.T) {
	b, other := newBus(), newBus()
	defer b.drive()()
	defer other.drive()()
	l := Load{Rate: 5000, Size: 400, Duration: 100 * time.Millisecond, Even: true, grace: time.Hour}
	got, err := l.Run(t.Context(), []Log{b, other})
	if err != nil {
		t.Fatal(err)
	}
	if got.Appends != 499 || b.taken != 250 || other.taken != 249 {
		t.Errorf("%d appends of 499, %d and %d in turn", got.Appends, b.taken, other.taken)
	}
	if got.PerSecond == 0 || got.Latency.P50 == 0 || got.Late.P50 > got.Latency.P50 {
		t.Errorf("%+v", got)
	}
}

// A stalling log takes its first append only after a while.
type stalling struct {
	*bus
	first sync.Once
	stall time.Duration
}

func (s *stalling) AppendAsyncFunc(ctx context.Context, record []byte, fn func(client.Receipt, error)) {
	s.first.Do(func() { <-time.NewTimer(s.stall).C })
	s.bus.AppendAsyncFunc(ctx, record, fn)
}

// TestOpenLoopOmitsNothing: what was due while nothing was taken has waited
// since then, although nobody was there to ask. 100 of 499 appends are due in
// the first stall, the slowest of which wait for nearly all of it.
func TestOpenLoopOmitsNothing(t *testing.T) {
	s := &stalling{bus: newBus(), stall: 10 * time.Millisecond}
	defer s.drive()()
	got, err := Load{Rate: 10_000, Size: 400, Duration: 50 * time.Millisecond, Even: true, grace: time.Hour}.Run(t.Context(), []Log{s})
	if err != nil {
		t.Fatal(err)
	}
	if least := 9000.0; got.Appends != 499 || got.Latency.P99 < least || got.Late.P99 < least {
		t.Errorf("%+v, want 499 appends and a hundredth of them at least %.0f us", got, least)
	}
}

// TestOpenLoopWaitsForNobody: appends go on while none is acknowledged.
func TestOpenLoopWaitsForNobody(t *testing.T) {
	b := newBus() // nothing lands
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var run sync.WaitGroup
	run.Go(func() {
		if _, err := (Load{Rate: 100_000, Size: 400, Duration: time.Hour}).Run(ctx, []Log{b}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	for full := false; !full; {
		<-b.gather
		b.mu.Lock()
		full = len(b.waiting) > 2*PipelineRecords
		b.mu.Unlock()
	}
	cancel()
	run.Wait()
}

func TestOpenLoopThatIsBehind(t *testing.T) {
	b := newBus()
	defer b.drive()()
	_, err := Load{Rate: 1e12, Size: 400, Duration: time.Millisecond, grace: time.Millisecond}.Run(t.Context(), []Log{b})
	if !errors.Is(err, ErrBehind) {
		t.Errorf("error %v", err)
	}
}

func TestOpenLoopEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Load{Rate: 1, Size: 400, Duration: time.Hour}).Run(ctx, []Log{newBus()}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	stop := make(chan struct{})
	close(stop)
	if got, err := (Load{Rate: 1, Size: 400, Duration: time.Hour, stop: stop}).Run(t.Context(), []Log{newBus()}); err != nil || got.Appends != 0 {
		t.Errorf("stopped: %+v, %v", got, err)
	}
	b := &bus{fail: 3, gather: make(chan struct{}, 1)}
	defer b.drive()()
	if _, err := (Load{Rate: 10_000, Size: 400, Duration: time.Hour}).Run(t.Context(), []Log{b}); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("error %v, want the log's", err)
	}
}

// An arrival allocates nothing, so that what is measured is not the collector.
func TestOpenLoopAllocatesNothing(t *testing.T) {
	a := &arrivals{producer: producer{fail: func(error) {}, room: make(chan struct{}, 1)}, latency: newRecorder(), late: newRecorder()}
	a.wakeAt.Store(1 << 62)
	one := &arrival{due: time.Now()}
	one.done = func(_ client.Receipt, err error) { a.arrived(one, err) }
	if n := testing.AllocsPerRun(1000, func() {
		a.late.record(0, time.Microsecond)
		one.done(client.Receipt{}, nil)
	}); n > 0.5 {
		t.Errorf("%.1f allocations an append", n)
	}
}
