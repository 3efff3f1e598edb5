package awake

import (
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake counts how often processors are kept awake.
type fake struct {
	held, made atomic.Int32
	fail       atomic.Bool
}

func (f *fake) hold() (io.Closer, error) {
	if f.fail.Load() {
		return nil, fs.ErrPermission
	}
	f.held.Add(1)
	f.made.Add(1)
	return f, nil
}

func (f *fake) Close() error {
	f.held.Add(-1)
	return nil
}

func TestHeldWhileThereIsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fake
		var work atomic.Uint64
		work.Store(7)
		k := Start(Options{Work: work.Load, Interval: 10 * time.Millisecond, Idle: time.Second, Log: slog.New(slog.DiscardHandler), hold: f.hold})
		after := func(d time.Duration, held int32) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := f.held.Load(); got != held {
				t.Errorf("held %d times, want %d", got, held)
			}
		}
		after(time.Minute, 0) // it began with seven, and they are done
		work.Add(1)
		after(11*time.Millisecond, 1)
		for range 5 {
			work.Add(1)
			after(900*time.Millisecond, 1)
		}
		after(200*time.Millisecond, 0)
		work.Add(1)
		after(20*time.Millisecond, 1)
		k.Stop()
		after(0, 0)
		if got := f.made.Load(); got != 2 {
			t.Errorf("held %d times in all, want two", got)
		}
	})
}

// A request that fails is told once, and nothing else happens.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fake
		var said strings.Builder
		var work atomic.Uint64
		f.fail.Store(true)
		k := Start(Options{Work: func() uint64 { return work.Add(1) }, Log: slog.New(slog.NewTextHandler(&said, nil)), hold: f.hold})
		time.Sleep(time.Minute)
		synctest.Wait()
		k.Stop()
		if n := strings.Count(said.String(), "no longer kept awake"); n != 1 {
			t.Errorf("told %d times: %s", n, said.String())
		}
	})
}
