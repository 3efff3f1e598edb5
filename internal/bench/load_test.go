package bench

import (
	"context"
	"errors"
	"fmt"
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
