package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/walsvc/walsvc/client"
)

// ErrBehind is returned when appends of an open loop were still to be handed
// over as long again after the load was meant to end as it was meant to last,
// and ten seconds more, which is longer than a busy machine keeps a process waiting. The
// service does not take the rate, and a latency would say only how long the load lasted.
var ErrBehind = errors.New("appends are due faster than they are taken")

// arrivals are an open loop: appends are due on a schedule that was there
// before, and the latency of each is counted from when it was due. Callers that
// wait for their own appends wait longer, and so ask less, exactly while
// something is slow; what they would have asked meanwhile is missing from their
// percentiles (coordinated omission). Here a stall of 10 ms is felt by
// everything that was due in it.
//
// One goroutine hands the appends over and waits for none. It is late by what
// it takes to wake up, which is measured too.
type arrivals struct {
	producer // counts what is handed over and what is acknowledged

	latency, late *recorder
	idle          sync.Pool // of *arrival
}

// An arrival is one append on its way. It is used again, so that an append
// costs no memory.
type arrival struct {
	due  time.Time
	done func(client.Receipt, error)
}

// schedule returns how long after one append the next is due. Every call
// returns the same sequence.
func (l Load) schedule() func() time.Duration {
	mean := float64(time.Second) / l.Rate
	if l.Even {
		// The error of rounding each to a nanosecond would add up.
		var n, at float64
		return func() time.Duration {
			n++
			before := at
			at = math.Round(n * mean)
			return time.Duration(at - before)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	return func() time.Duration { return time.Duration(random.ExpFloat64() * mean) }
}

// nap is how long the schedule is slept through at a time, so that the end of
// a context is noticed.
const nap = 5 * time.Millisecond

// doze is the least that is slept: waking for every append alone, many ten
// thousand times a second, takes a processor away from what is measured. What is
// due meanwhile is handed over together, late by that much at the most, and that
// counts.
const doze = 100 * time.Microsecond

// open runs an open loop and returns when everything that was due within the
// duration is acknowledged. The first error ends it.
func (l Load) open(ctx context.Context, logs []Log) (Throughput, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &arrivals{
		producer: producer{logs: logs, cut: NewCutter(l.Size, 0, 1), fail: cancel, room: make(chan struct{}, 1)},
		latency:  l.recorder(), late: newRecorder(),
	}
	a.wakeAt.Store(math.MaxInt64)
	a.idle.New = func() any {
		one := &arrival{}
		one.done = func(_ client.Receipt, err error) { a.arrived(one, err) }
		return one
	}
	l.grace = cmp.Or(l.grace, 10*time.Second)
	start := time.Now()
	var handing sync.WaitGroup
	handing.Go(func() {
		// A thread of its own, which ends with the goroutine: it sleeps more exactly
		// than the runtime's timers, which are late by up to a millisecond when
		// nothing else goes on.
		runtime.LockOSThread()
		a.hand(ctx, l, start)
	})
	handing.Wait()
	a.wait(ctx, a.sent)
	if err := context.Cause(ctx); err != nil {
		return Throughput{}, err
	}
	n := a.acked.Load()
	return Throughput{Appends: n, PerSecond: float64(n) / time.Since(start).Seconds(),
		Latency: latencyOf(a.latency.take()), Late: latencyOf(a.late.take())}, nil
}

// hand hands appends over until none is due any more.
func (a *arrivals) hand(ctx context.Context, l Load, start time.Time) {
	sleepExactly()
	next := l.schedule()
	end := start.Add(l.Duration)
	for due := start.Add(next()); due.Before(end); due = due.Add(next()) {
		now := time.Now()
		for ; now.Before(due); now = time.Now() {
			sleep(min(max(due.Sub(now), doze), nap))
			if a.over(ctx, l.stop) {
				return
			}
		}
		if now.Sub(end) > l.Duration+l.grace {
			a.fail(fmt.Errorf("%w: %d of %.0f in %v", ErrBehind, a.sent, l.Rate*l.Duration.Seconds(), now.Sub(start)))
			return
		}
		if a.sent%sampleEvery == 0 && a.over(ctx, l.stop) {
			return
		}
		one, _ := a.idle.Get().(*arrival)
		one.due = due
		a.late.record(0, now.Sub(due))
		a.logs[a.sent%int64(len(a.logs))].AppendAsyncFunc(ctx, a.cut.Next(), one.done)
		a.sent++
	}
}

func (*arrivals) over(ctx context.Context, stop <-chan struct{}) bool {
	select {
	case <-stop:
	case <-ctx.Done():
	default:
		return false
	}
	return true
}

// arrived counts an acknowledgement.
func (a *arrivals) arrived(one *arrival, err error) {
	a.latency.record(0, time.Since(one.due))
	a.idle.Put(one)
	a.landed(err)
}
