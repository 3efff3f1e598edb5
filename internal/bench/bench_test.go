package bench

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCutter(t *testing.T) {
	all := documents()
	const size = 400
	c, half := NewCutter(size, 0, 2), NewCutter(size, 1, 2)
	if !bytes.Equal(half.Next(), all[len(all)/2:][:size]) {
		t.Error("the second of two cutters does not begin in the middle")
	}
	for i := range len(all) / size {
		r := c.Next()
		if len(r) != size || &r[0] != &all[i*size] {
			t.Fatalf("record %d is not the next cut", i)
		}
		if cap(r) != size {
			t.Fatalf("record %d can be appended to", i)
		}
	}
	if r := c.Next(); &r[0] != &all[0] {
		t.Error("the end does not lead to the front")
	}
	if n := testing.AllocsPerRun(100, func() { c.Next() }); n != 0 {
		t.Errorf("%.0f allocations a record", n)
	}
}

func TestHistogramTakesEverything(t *testing.T) {
	h := newHistogram()
	for _, d := range []time.Duration{0, time.Nanosecond, 94 * time.Microsecond, time.Hour} {
		record(h, d)
	}
	if h.TotalCount() != 4 {
		t.Errorf("%d of 4 latencies counted", h.TotalCount())
	}
	h.Reset()
	for i := range 1000 {
		record(h, time.Duration(i+1)*time.Microsecond)
	}
	if l := latencyOf(h); l.P50 < 499 || l.P50 > 501 || l.P99 < 989 || l.P99 > 991 || l.P999 < 998 || l.P999 > 1000 {
		t.Errorf("percentiles of 1 to 1000 us: %+v", l)
	}
	if n := testing.AllocsPerRun(100, func() { record(h, time.Millisecond) }); n != 0 {
		t.Errorf("%.0f allocations a latency", n)
	}
}

func TestCallCountsWhatItAppended(t *testing.T) {
	var calls atomic.Int64
	const duration = 20 * time.Millisecond
	got, err := call(t.Context(), Load{Callers: 8, Size: 100, Duration: duration}, func(int) appender {
		return func(_ context.Context, record []byte) error {
			if len(record) != 100 {
				t.Errorf("record of %d bytes", len(record))
			}
			calls.Add(1)
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// Each caller's last append may end behind the end.
	if late := calls.Load() - got.Appends; late < 0 || late > 8 {
		t.Errorf("%d appends counted of %d", got.Appends, calls.Load())
	}
	if want := float64(got.Appends) / duration.Seconds(); got.PerSecond != want {
		t.Errorf("%.0f/s, want %.0f", got.PerSecond, want)
	}
}

func TestCallStopsAtTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	var calls atomic.Int64
	_, err := call(t.Context(), Load{Callers: 8, Size: 100, Duration: time.Hour}, func(int) appender {
		return func(ctx context.Context, _ []byte) error {
			if calls.Add(1) == 100 {
				return broken
			}
			return ctx.Err()
		}
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// longEnough calls something that measures for a time, and for longer if so
// little of the machine was there that it measured nothing.
func longEnough(t *testing.T, what string, measure func(time.Duration) (float64, error)) {
	t.Helper()
	for d := 10 * time.Millisecond; d < 10*time.Second; d *= 2 {
		switch got, err := measure(d); {
		case err != nil:
			t.Fatalf("%s: %v", what, err)
		case got > 0:
			return
		}
	}
	t.Errorf("%s: nothing in seconds", what)
}

func TestLoop(t *testing.T) {
	dir := t.TempDir()
	longEnough(t, "loop", func(d time.Duration) (float64, error) {
		got, err := Loop(t.Context(), dir, 4, 400, d)
		return min(float64(got.Appends), got.Latency.P50), err
	})
	noFiles(t, dir)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Loop(ctx, dir, 4, 400, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	noFiles(t, dir)
}

func TestOverwrite(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{4 << 10, 1 << 20} {
		got, err := Overwrite(t.Context(), dir, size, time.Millisecond)
		if err != nil || got.Latency.P50 == 0 || got.BytesPerSecond == 0 || got.Size != size {
			t.Errorf("%+v, %v", got, err)
		}
		noFiles(t, dir)
	}
}

// echoes serves echoes until the returned function is called. Its files are in
// the directory.
func echoes(t *testing.T, dir string) (socket string, stop func()) {
	t.Helper()
	short, err := os.MkdirTemp("", "wb-") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) }) // it is temporary anyway
	socket = filepath.Join(short, "echo")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var server sync.WaitGroup
	server.Go(func() {
		if err := ServeEcho(ctx, l, dir); err != nil {
			t.Error(err)
		}
	})
	return socket, func() {
		cancel()
		server.Wait()
	}
}

func TestEcho(t *testing.T) {
	socket, stop := echoes(t, t.TempDir())
	defer stop()
	e, err := DialEcho(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()

	longEnough(t, "round trip", func(d time.Duration) (float64, error) {
		got, err := e.RoundTrip(t.Context(), 400, d)
		return min(got.P50, got.P999), err
	})
	if got, err := e.Bandwidth(t.Context(), 64<<10, 10*time.Millisecond); err != nil || got == 0 {
		t.Errorf("bandwidth: %.0f, %v", got, err)
	}
	stop() // the server is gone: an error, no hang
	if _, err := e.Bandwidth(t.Context(), 64<<10, time.Hour); err == nil {
		t.Error("bandwidth of a server that is gone")
	}
}

// A round trip with a sync leaves nothing behind, neither when it ends nor when
// it is ended, by either side.
func TestEchoThatSyncs(t *testing.T) {
	dir := t.TempDir()
	socket, stop := echoes(t, dir)
	defer stop()
	e, err := DialEcho(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	longEnough(t, "round trip with a sync", func(d time.Duration) (float64, error) {
		got, err := e.SyncRoundTrip(t.Context(), 400, d)
		return got.P50, err
	})
	noFiles(t, dir)

	ctx, cancel := context.WithCancel(t.Context())
	s, err := e.stream(ctx, echoSyncMethod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Header(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("while a stream syncs, there are %v, %v", left, err)
	}
	cancel()
	if s, err = e.stream(t.Context(), echoSyncMethod); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Header(); err != nil {
		t.Fatal(err)
	}
	stop()
	noFiles(t, dir)
}

func TestEchoStreams(t *testing.T) {
	socket, stop := echoes(t, t.TempDir())
	defer stop()
	s, err := DialEchoStreams(t.Context(), socket, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if len(s.Logs) != 4 {
		t.Fatalf("%d streams", len(s.Logs))
	}
	longEnough(t, "streams", func(d time.Duration) (float64, error) {
		got, err := Load{Callers: 4, Size: 400, Duration: d}.Run(t.Context(), s.Logs)
		return float64(got.Appends), err
	})
	if _, err := (Load{Callers: 1, Size: 400, Pipelined: true, Duration: time.Hour}).Run(t.Context(), s.Logs); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("pipelined: %v", err)
	}
	stop()
	if _, err := (Load{Callers: 4, Size: 400, Duration: time.Hour}).Run(t.Context(), s.Logs); err == nil {
		t.Error("streams of a server that is gone")
	}
	if _, err := DialEchoStreams(t.Context(), filepath.Join(t.TempDir(), "nobody"), 2); err == nil {
		t.Error("streams to nobody")
	}
}

// TestStuck: warming up ends, instead of filling the disk, when much was written and
// nothing recycled; not when it was little, or when some was.
func TestStuck(t *testing.T) {
	at := func(stored, rolls, recycles uint64) *walsvcv1.GetStatusResponse {
		return &walsvcv1.GetStatusResponse{StoredBytes: stored, Rolls: rolls, Recycles: recycles}
	}
	before := at(5<<30, 80, 7)
	for _, tc := range []struct {
		now  *walsvcv1.GetStatusResponse
		want bool
	}{
		{before, false},
		{at(9<<30+1, 97, 7), true},
		{at(9<<30, 97, 7), false},   // not so many bytes
		{at(9<<30+1, 96, 7), false}, // not so many segments, which are large
		{at(19<<30, 200, 8), false}, // there was one
	} {
		if got := stuck(before, tc.now); got != tc.want {
			t.Errorf("%v: stuck is %v", tc.now, got)
		}
	}
}
