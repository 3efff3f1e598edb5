package client

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// overRate refuses a batch for the log's rate.
func overRate(ms string) *walsvcv1.Refusal {
	r := refusal(codes.ResourceExhausted, "RATE_QUOTA")
	r.Metadata = map[string]string{"retry_ms": ms}
	return r
}

// TestRateIsWaitedFor: who appends to a log that is over its rate does not hear
// of it, what was behind comes behind, no sooner than the service says, and no
// longer as a pipeline.
func TestRateIsWaitedFor(t *testing.T) {
	const pause = 20 * time.Millisecond
	f := newFake()
	f.log("orders")
	var mu sync.Mutex
	var refused time.Time
	var tooSoon, pipelined bool
	refusals := 0
	started := make(chan struct{})
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if size(m) == 1 {
			<-started
		}
		mu.Lock()
		defer mu.Unlock()
		if refusals > 0 && len(m.Batches) > 1 {
			pipelined = true
		}
		return served
	}
	f.onBatch = func(_ string, b *wire.Batch) *walsvcv1.Refusal {
		mu.Lock()
		defer mu.Unlock()
		if refusals > 0 && time.Since(refused) < pause {
			tooSoon = true
		}
		if strings.Contains(string(b.Run), "much") && refusals < 2 {
			refusals++
			refused = time.Now()
			return overRate("20")
		}
		refused = time.Time{}
		return nil
	}
	l := f.serve(t, Options{}).Log("orders")
	futures := []*Future{own(t, l, 0, "a"), own(t, l, 0, "much"), own(t, l, 0, "b"), own(t, l, 4, "c"), own(t, l, 0, "d")}
	close(started)
	for i, want := range []struct {
		lsn LSN
		err error
	}{{1, nil}, {2, nil}, {3, nil}, {0, ErrAfterRefusal}, {4, nil}} {
		if r, err := futures[i].Wait(t.Context()); r.LSN != want.lsn || !errors.Is(err, want.err) {
			t.Errorf("append %d: LSN %d, %v; want %d, %v", i, r.LSN, err, want.lsn, want.err)
		}
	}
	if got := f.contents("orders"); !slices.Equal(got, []string{"a", "much", "b", "d"}) {
		t.Errorf("got %q", got)
	}
	if refusals != 2 || tooSoon || pipelined {
		t.Errorf("%d refusals; sent again too soon: %v, as a pipeline: %v", refusals, tooSoon, pipelined)
	}
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	if l.paced || l.resume != nil {
		t.Error("it is still held back when nothing waits")
	}
}

// TestRateWithAnExpectedLSN: the caller decides, and is told when.
func TestRateWithAnExpectedLSN(t *testing.T) {
	f := newFake()
	f.log("orders")
	f.onBatch = func(_ string, b *wire.Batch) *walsvcv1.Refusal {
		if b.Expected != 0 {
			return overRate("3600000")
		}
		return nil
	}
	l := f.serve(t, Options{}).Log("orders")
	_, err := l.AppendBatch(t.Context(), [][]byte{nil}, ExpectLSN(1))
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrRateQuota) || e.RetryAfter != time.Hour {
		t.Errorf("%v", err)
	}
	if lsn, err := l.Append(t.Context(), nil); lsn != 1 || err != nil {
		t.Errorf("the next one: LSN %d, %v", lsn, err)
	}
}

// TestPauseEndsWithTheStream: and with the client. Nothing was sent then whose
// outcome could be unknown.
func TestPauseEndsWithTheStream(t *testing.T) {
	for _, closed := range []bool{false, true} {
		f := newFake()
		f.log("orders")
		refusals := 0
		f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal {
			if refusals++; refusals == 1 {
				return overRate("3600000")
			}
			return nil
		}
		c := f.serve(t, Options{})
		l := c.Log("orders")
		future := l.AppendAsync(t.Context(), []byte("a"))
		for paused := false; !paused; runtime.Gosched() {
			l.stream.mu.Lock()
			paused = l.resume != nil
			l.stream.mu.Unlock()
		}
		if !closed {
			f.restart()
			if r, err := future.Wait(t.Context()); r.LSN != 1 || err != nil {
				t.Errorf("on the next stream: LSN %d, %v", r.LSN, err)
			}
			l.stream.mu.Lock()
			if l.resume != nil || l.pause != 0 {
				t.Error("the pause goes on, and would end somebody else's")
			}
			l.stream.mu.Unlock()
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Close(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
		if _, err := future.Wait(t.Context()); !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("closed while it waited: %v", err)
		}
	}
}

// TestRetryAfter: statuses and refusals say when to come again, and of nonsense
// nothing is believed.
func TestRetryAfter(t *testing.T) {
	for ms, want := range map[string]time.Duration{
		"": 0, "1500": 1500 * time.Millisecond, "-1": 0, "soon": 0, "99999999999999999999": 0,
		"9223372036854775807": math.MaxInt64 - math.MaxInt64%time.Millisecond,
	} {
		if e := fromRefusal(overRate(ms)); e.RetryAfter != want || !errors.Is(e, ErrRateQuota) {
			t.Errorf("%q: after %v, want %v", ms, e.RetryAfter, want)
		}
	}
	s, err := status.New(codes.ResourceExhausted, "over").WithDetails(
		&errdetails.ErrorInfo{Reason: "RATE_QUOTA"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if e := fromStatus(s.Err()); e.RetryAfter != 3*time.Second || !errors.Is(e, ErrRateQuota) {
		t.Errorf("status: %+v", e)
	}
}
