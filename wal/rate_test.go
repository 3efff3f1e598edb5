package wal

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func TestSpend(t *testing.T) {
	const log, rate = 7, 1000 // a byte costs a millisecond
	now := 100 * time.Second
	r := rates{}
	spend := func(log uint64, size int) time.Duration {
		after := r.wait(log, int64(now))
		if after == 0 {
			r.spend(log, rate, size, int64(now))
		}
		return after
	}
	for i, step := range []struct {
		pass  time.Duration
		size  int
		after time.Duration
	}{
		{0, 600, 0},                    // of the second that was saved up
		{0, 500, 0},                    // more than what is left of it: the one before is paid for
		{0, 1, 100 * time.Millisecond}, // that one is not
		{99 * time.Millisecond, 1, time.Millisecond},           //
		{1 * time.Millisecond, 1, 0},                           //
		{0, 1, time.Millisecond},                               // nothing is left
		{time.Hour, 1000, 0},                                   // no more is saved up than a second's worth
		{0, 1, 0},                                              //
		{0, 1, time.Millisecond},                               //
		{time.Second, 5000, 0},                                 // larger than all that can be saved up
		{4 * time.Second, 1, time.Millisecond},                 //
		{1 * time.Millisecond, 1, 0},                           //
		{time.Second, 0, 0},                                    //
		{0, limits.MaxBatchSize, 0},                            //
		{time.Hour, 1, 4788609*time.Millisecond - time.Second}, // 8,388,608 bytes take more than two hours
		{4788609*time.Millisecond - time.Second, 1, 0},         //
	} {
		now += step.pass
		if after := spend(log, step.size); after != step.after {
			t.Errorf("step %d: %d bytes at %v: after %v, want %v", i, step.size, now, after, step.after)
		}
	}
	if after := spend(8, 1); after != 0 {
		t.Errorf("another log: after %v", after)
	}
	// A byte at the highest rate is less than a nanosecond, and not nothing.
	begin := rates{9: int64(now)}
	if begin.spend(9, limits.MaxLogRate, 1, int64(now)); begin[9] == int64(now) {
		t.Error("a byte costs nothing")
	}
	r.forget(log)
	if len(r) != 1 {
		t.Errorf("%d logs after one was forgotten", len(r))
	}
}

// TestRateQuota: what is over a log's rate is refused, used no sequence and says
// when to come again; repeats, other logs and what is refused for another reason
// have nothing to do with it.
func TestRateQuota(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	var now atomic.Int64
	now.Store(int64(time.Hour))
	o := testOptions(fs)
	o.Now = now.Load
	open := func() *Volume {
		v, err := Open(ctx, "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := open()
	create := func() {
		t.Helper()
		if _, _, err := v.CreateLog(ctx, "slow", LogOptions{RateBytes: limits.MinLogRate}); err != nil {
			t.Fatal(err)
		}
		if _, err := v.OpenProducer(ctx, "slow", producerID(1)); err != nil {
			t.Fatal(err)
		}
	}
	create()
	mustCreate(t, v, "other")
	second := run(strings.Repeat("x", limits.MinLogRate-3)) // with its length and tag
	if len(second) != limits.MinLogRate {
		t.Fatalf("%d bytes", len(second))
	}
	s := newSeat(t, v)
	slow, other := s.bind("slow", producerID(1)), s.bind("other", ulid.ULID{})
	take := func(b Batch, first LSN, again bool) {
		t.Helper()
		if got := s.verdicts(b)[0]; got.Err != nil || got.First != first || got.Repeated != again {
			t.Fatalf("%+v, want LSN %d, repeated %t", got, first, again)
		}
	}
	refuse := func(b Batch, after time.Duration, want error) {
		t.Helper()
		got := s.verdicts(b)[0]
		if !errors.Is(got.Err, want) {
			t.Fatalf("%v, want %v", got.Err, want)
		}
		if e, ok := errors.AsType[*RateError](got.Err); ok && (e.Log != "slow" || e.Rate != limits.MinLogRate || e.After != after) {
			t.Fatalf("%+v, want after %v", e, after)
		}
	}
	take(Batch{Binding: slow, Sequence: 1, Run: second}, 1, false)
	take(Batch{Binding: slow, Sequence: 2, Run: second}, 2, false)
	take(Batch{Binding: slow, Sequence: 2, Run: second}, 2, true)
	refuse(Batch{Binding: slow, Sequence: 3, Run: second}, time.Second, ErrRateQuota)
	refuse(Batch{Binding: slow, Sequence: 4, Run: second}, 0, ErrAfterRefusal)
	take(Batch{Binding: slow, Sequence: 1, Run: second}, 1, true)
	take(Batch{Binding: other, Run: second}, 1, false)
	s.Reset(slow)
	now.Add(int64(time.Second) - 1)
	refuse(Batch{Binding: slow, Sequence: 3, Run: second}, 1, ErrRateQuota)
	s.Reset(slow)
	now.Add(1)
	refuse(Batch{Binding: slow, Sequence: 3, Expected: 9, Run: second}, 0, ErrLSNMismatch)
	s.Reset(slow)
	take(Batch{Binding: slow, Sequence: 3, Run: second}, 3, false)
	refuse(Batch{Binding: slow, Sequence: 4, Run: second}, time.Second, ErrRateQuota)
	s.Close()

	// Opened again it is quiet, and has its rate.
	closeTest(t, v)
	v = open()
	if info, err := v.Log("slow"); err != nil || info.Options.RateBytes != limits.MinLogRate {
		t.Fatalf("%+v, %v", info.Options, err)
	}
	s = newSeat(t, v)
	slow = s.bind("slow", producerID(1))
	take(Batch{Binding: slow, Sequence: 4, Run: second}, 4, false)
	take(Batch{Binding: slow, Sequence: 5, Run: second}, 5, false)
	refuse(Batch{Binding: slow, Sequence: 6, Run: second}, time.Second, ErrRateQuota)
	s.Close()
	if err := v.DeleteLog(ctx, "slow", ulid.ULID{}); err != nil || len(v.rates) != 0 {
		t.Fatalf("deleted: %v; %d logs have a rate", err, len(v.rates))
	}
	for _, rate := range []uint64{1, limits.MinLogRate - 1, limits.MaxLogRate + 1, 1 << 63} {
		if _, _, err := v.CreateLog(ctx, "bad", LogOptions{RateBytes: rate}); !errors.Is(err, ErrInvalid) {
			t.Errorf("a rate of %d: %v", rate, err)
		}
	}
	create()
	if _, _, err := v.CreateLog(ctx, "slow", LogOptions{RateBytes: limits.MaxLogRate}); !errors.Is(err, ErrLogExists) {
		t.Errorf("with another rate: %v", err)
	}
	closeTest(t, v)
}
