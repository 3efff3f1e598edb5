package replay

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// TestFetcher reads frames of many segments from several goroutines.
func TestFetcher(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	var all []segment.Written
	text := func(seq uint64) string { return fmt.Sprintf("frame %d", seq) }
	for len(all) < 80 {
		w := v.append(segment.KindCommands, text(uint64(len(all))), 14_000)
		all = append(all, w)
	}
	v.sync()
	if n := len(v.j.Segments()); n <= limits.MaxOpenSegments {
		t.Fatalf("only %d segments", n)
	}
	f := NewFetcher(v.j)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var raw []byte
			for k := range all {
				i := (k*7 + g*13) % len(all)
				fr, err := f.Frame(all[i].Ref.Pos)
				if err != nil {
					t.Error(err)
					return
				}
				if string(fr.Meta) != text(uint64(i)) || fr.Header != all[i].Header {
					t.Errorf("frame at %s is %q", fr.Pos, fr.Meta)
				}
				for b, info := range fr.Blocks {
					stored, err := f.Stored(fr, b, nil)
					if err != nil || len(stored) != int(info.StoredSize) {
						t.Errorf("block %d of %s: %d bytes, %v", b, fr.Pos, len(stored), err)
					}
					raw, err = f.Open(fr, b, raw)
					if want := block(b, text(uint64(i)), int(info.RawSize)); err != nil || !bytes.Equal(want.Stored, stored) ||
						len(raw) != int(info.RawSize) || !bytes.HasPrefix(raw, fr.Meta) {
						t.Errorf("block %d of %s opens to %d bytes, %v", b, fr.Pos, len(raw), err)
					}
				}
			}
		})
	}
	wg.Wait()
	if f.open != limits.MaxOpenSegments || len(f.idle) != f.open {
		t.Errorf("%d readers are open, %d of them idle", f.open, len(f.idle))
	}
	must(t, f.Close())
	if f.open != 0 || f.timer != nil {
		t.Errorf("%d readers are open after Close, timer %v", f.open, f.timer)
	}
	if _, err := f.Frame(all[0].Ref.Pos); !errors.Is(err, ErrFetcherClosed) {
		t.Errorf("closed, and still: %v", err)
	}
}

// filled returns a volume of so many segments, and its first frame.
func filled(t *testing.T, segments int) (v *volume, first segment.Written) {
	v = newVolume(t, 1)
	v.recover()
	first = v.append(segment.KindCommands, "first", 9000)
	for len(v.j.Segments()) < segments {
		v.append(segment.KindCommands, "more", 9000)
	}
	v.sync()
	return v, first
}

// TestFetcherReleased says that a frame of a released segment is no damage, also
// when its segment was open.
func TestFetcherReleased(t *testing.T) {
	v, first := filled(t, 3)
	f := NewFetcher(v.j)
	defer func() { must(t, f.Close()) }()
	fr, err := f.Frame(first.Ref.Pos)
	must(t, err)
	must(t, v.j.Release(v.j.Below(3)))
	if _, err := f.Frame(first.Ref.Pos); !errors.Is(err, segment.ErrReleased) && err != nil {
		t.Errorf("frame: %v", err) // it is pinned, so either is fine
	}
	must(t, f.Close())
	f = NewFetcher(v.j)
	if _, err := f.Open(fr, 0, nil); !errors.Is(err, segment.ErrReleased) {
		t.Errorf("block: %v", err)
	}
	if f.open != 0 {
		t.Errorf("%d readers of a released segment are kept", f.open)
	}
}

// TestFetcherForgetsReleasedSegments says that nothing is kept of a segment that is
// released: it is recycled at once, or when the call that is under way ends.
func TestFetcherForgetsReleasedSegments(t *testing.T) {
	v, first := filled(t, 4)
	f := NewFetcher(v.j)
	defer func() { must(t, f.Close()) }()
	release := func(before segment.ID) (waiting int) {
		t.Helper()
		must(t, f.Forget(v.j.Below(before)))
		must(t, v.j.Release(v.j.Below(before)))
		_, waiting = v.j.Waiting()
		return waiting
	}
	_, err := f.Frame(first.Ref.Pos)
	must(t, err)
	if waiting := release(2); waiting != 0 || f.open != 0 {
		t.Errorf("%d segments wait for %d readers that nobody uses", waiting, f.open)
	}
	must(t, f.with(2, func(*segment.Reader) error {
		if waiting := release(3); waiting != 1 {
			t.Errorf("%d segments wait for the reader of one", waiting)
		}
		return nil
	}))
	if f.open != 0 {
		t.Errorf("%d readers of a released segment are kept", f.open)
	}
	must(t, f.with(3, func(*segment.Reader) error { return nil }))
	if f.open != 1 {
		t.Errorf("%d readers of a segment that is not released are kept", f.open)
	}
}

// TestFetcherErrors says that what does not verify is told, and where.
func TestFetcherErrors(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	w := v.append(segment.KindCommands, "x", 9000)
	f := NewFetcher(v.j)
	defer func() { must(t, f.Close()) }()
	fr, err := f.Frame(w.Ref.Pos)
	must(t, err)
	pos := w.Ref.Pos
	pos.Offset += limits.FrameHeaderSize
	v.flip(pos)
	v.flip(segment.Pos{Segment: 1, Offset: pos.Offset + 7000})
	must(t, f.Close())
	f = NewFetcher(v.j) // what was read with the frame is not read again
	for block := range fr.Blocks {
		_, err = f.Open(fr, block, nil)
		var c *segment.CorruptError
		if !errors.Is(err, segment.ErrBadBlock) || !errors.As(err, &c) || c.Pos != w.Ref.Pos || c.Path == "" {
			t.Errorf("block %d: %v", block, err)
		}
	}
	if _, err := f.Frame(fr.End()); !errors.Is(err, segment.ErrNoFrame) {
		t.Errorf("behind the end: %v", err)
	}
}

// TestFetcherForgetsIdleSegments says that a segment nobody asks for is closed,
// and not before.
func TestFetcherForgetsIdleSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 1)
		v.recover()
		w := v.append(segment.KindCommands, "x", 0)
		f := NewFetcher(v.j)
		ask := func() {
			t.Helper()
			if _, err := f.Frame(w.Ref.Pos); err != nil {
				t.Fatal(err)
			}
		}
		idle := func(want int) {
			t.Helper()
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.idle) != want || f.open != want {
				t.Errorf("%d of %d readers are idle, want %d", len(f.idle), f.open, want)
			}
		}
		ask()
		time.Sleep(limits.OpenSegmentIdle / 2)
		ask()
		time.Sleep(limits.OpenSegmentIdle * 3 / 4)
		idle(1)
		time.Sleep(limits.OpenSegmentIdle / 2)
		idle(0)
		ask()
		idle(1)
		must(t, f.Close())
		v.close()
	})
}

// TestFetcherIsBounded has as many segments in use as may be: the next call
// waits for one of them.
func TestFetcherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 1)
		v.recover()
		w := v.append(segment.KindCommands, "x", 0)
		f := NewFetcher(v.j)
		hold := make(chan struct{})
		for range limits.MaxOpenSegments {
			go func() {
				must(t, f.with(1, func(*segment.Reader) error { <-hold; return nil }))
			}()
		}
		synctest.Wait()
		got := false
		go func() {
			_, err := f.Frame(w.Ref.Pos)
			must(t, err)
			got = true
		}()
		synctest.Wait()
		if got || f.open != limits.MaxOpenSegments {
			t.Errorf("%d readers are open, and one more was served: %v", f.open, got)
		}
		hold <- struct{}{}
		synctest.Wait()
		if !got {
			t.Error("a reader was given back, and the call that waited was not served")
		}
		close(hold)
		synctest.Wait()
		if f.open != limits.MaxOpenSegments {
			t.Errorf("%d readers are kept", f.open)
		}
		gone := fmt.Errorf("wrapped: %w", segment.ErrReleased)
		if err := f.with(1, func(*segment.Reader) error { return gone }); err != gone || f.open != limits.MaxOpenSegments-1 {
			t.Errorf("%v; %d readers are kept, one of them of a segment that is gone", err, f.open)
		}
		must(t, f.Close())
		v.close()
	})
}

// TestFetcherCloseEndsWaiting closes a fetcher that is in use up to its bound.
func TestFetcherCloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVolume(t, 1)
		v.recover()
		v.append(segment.KindCommands, "x", 0)
		f := NewFetcher(v.j)
		hold := make(chan struct{})
		for range limits.MaxOpenSegments {
			go func() { must(t, f.with(1, func(*segment.Reader) error { <-hold; return nil })) }()
		}
		synctest.Wait()
		var waited error
		go func() { _, waited = f.Frame(segment.Pos{Segment: 1, Offset: limits.BlockSize}) }()
		synctest.Wait()
		must(t, f.Close())
		synctest.Wait()
		if !errors.Is(waited, ErrFetcherClosed) {
			t.Errorf("the call that waited: %v", waited)
		}
		close(hold)
		synctest.Wait()
		if f.open != 0 {
			t.Errorf("%d readers are open", f.open)
		}
		v.close()
	})
}
