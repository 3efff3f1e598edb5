package disk

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatch hangs operations of every kind, alone and together, and asks the
// Watch over them: it tells of what is over the bound, from then on until it has
// returned, and of nothing else.
func TestWatch(t *testing.T) {
	const bound = time.Second
	type world struct {
		*Watch
		hang  func(OpKind) (release func())
		heard func() []string
	}
	newWorld := func(t *testing.T) world {
		var mu sync.Mutex
		var heard []string
		hung := map[OpKind]chan struct{}{}
		mem := NewMem()
		if err := mem.MkdirAll("/vol"); err != nil {
			t.Fatal(err)
		}
		faulty := NewFaulty(mem)
		faulty.Before(func(op Op) error {
			mu.Lock()
			wait := hung[op.Kind]
			mu.Unlock()
			if wait != nil {
				<-wait
			}
			return nil
		})
		hear := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, what)
		}
		return world{
			Watch: NewWatch(faulty, bound,
				func(s Stall) { hear("begins: " + s.Op.String()) },
				func(s Stall, took time.Duration) { hear(fmt.Sprintf("over after %s: %s", took, s.Op)) }),
			hang: func(kind OpKind) func() {
				mu.Lock()
				defer mu.Unlock()
				c := make(chan struct{})
				hung[kind] = c
				return func() {
					mu.Lock()
					delete(hung, kind)
					mu.Unlock()
					close(c)
				}
			},
			heard: func() []string {
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				out := heard
				heard = nil
				return out
			},
		}
	}
	want := func(t *testing.T, w world, heard ...string) {
		t.Helper()
		if got := w.heard(); !slices.Equal(got, heard) {
			t.Errorf("it told %q, want %q", got, heard)
		}
	}
	stalled := func(w world) string {
		s, stalled, _ := w.Stalled()
		if !stalled {
			return ""
		}
		return s.Op.String()
	}

	t.Run("every kind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			f, err := w.Create("/vol/f")
			if err != nil {
				t.Fatal(err)
			}
			g, err := w.Create("/vol/g")
			if err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct {
				kind OpKind
				name string
				do   func() error
			}{
				{OpCreate, "create h", func() error { _, err := w.Create("/vol/h"); return err }},
				{OpOpen, "open f for writing", func() error { _, err := w.Open("/vol/f", true); return err }},
				{OpRename, "rename h -> i", func() error { return w.Rename("/vol/h", "/vol/i") }},
				{OpRemove, "remove i", func() error { return w.Remove("/vol/i") }},
				{OpList, "list", func() error { _, err := w.List("/vol"); return err }},
				{OpMkdirAll, "mkdir-all", func() error { return w.MkdirAll("/vol") }},
				{OpSyncDir, "sync-dir", func() error { return w.SyncDir("/vol") }},
				{OpLock, "lock LOCK", func() error { _, err := w.Lock("/vol/LOCK"); return err }},
				{OpFree, "free", func() error { _, err := w.Free("/vol"); return err }},
				{OpWrite, "write f 4096+3", func() error { _, err := f.WriteAt([]byte("abc"), 4096); return err }},
				{OpRead, "read f 4096+3", func() error { _, err := f.ReadAt(make([]byte, 3), 4096); return err }},
				{OpSync, "sync f", f.Sync},
				{OpSize, "size f", func() error { _, err := f.Size(); return err }},
				{OpTruncate, "truncate f 10", func() error { return f.Truncate(10) }},
				{OpClose, "close g", g.Close},
			} {
				release := w.hang(tc.kind)
				done := make(chan error, 1)
				_, _, changed := w.Stalled()
				began := time.Now()
				go func() { done <- tc.do() }()
				time.Sleep(bound - 1)
				if synctest.Wait(); stalled(w) != "" {
					t.Errorf("%s: stalled before the bound", tc.name)
				}
				want(t, w)
				time.Sleep(time.Nanosecond)
				if synctest.Wait(); stalled(w) != tc.name {
					t.Errorf("%s hangs, and %q is told", tc.name, stalled(w))
				}
				<-changed
				s, _, changed := w.Stalled()
				if !s.Since.Equal(began) {
					t.Errorf("%s: since %s, want %s", tc.name, s.Since, began)
				}
				want(t, w, "begins: "+tc.name)
				time.Sleep(bound)
				release()
				if err := <-done; err != nil {
					t.Errorf("%s: %v", tc.name, err)
				}
				<-changed
				if stalled(w) != "" {
					t.Errorf("%s has returned, and %q is told", tc.name, stalled(w))
				}
				want(t, w, "over after 2s: "+tc.name)
			}
			if n := w.Stalls(); n != 15 {
				t.Errorf("%d stalls, want 15", n)
			}
		})
	})

	t.Run("several at once are one stall", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			f, err := w.Create("/vol/f")
			if err != nil {
				t.Fatal(err)
			}
			sync, dir := w.hang(OpSync), w.hang(OpSyncDir)
			done := make(chan error, 2)
			go func() { done <- f.Sync() }()
			time.Sleep(bound / 2)
			go func() { done <- w.SyncDir("/vol") }()
			time.Sleep(bound)
			want(t, w, "begins: sync f")
			sync()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if synctest.Wait(); stalled(w) != "sync-dir" {
				t.Errorf("sync-dir hangs, and %q is told", stalled(w))
			}
			want(t, w)
			dir()
			if err := <-done; err != nil {
				t.Error(err)
			}
			want(t, w, "over after 1.5s: sync f")
			if n := w.Stalls(); n != 1 {
				t.Errorf("%d stalls, want 1", n)
			}
		})
	})

	t.Run("what fails is over, too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			release := w.hang(OpRemove)
			done := make(chan error, 1)
			go func() { done <- w.Remove("/vol/none") }()
			time.Sleep(2 * bound)
			release()
			if err := <-done; err == nil {
				t.Error("it removed what is not there")
			}
			want(t, w, "begins: remove none", "over after 2s: remove none")
		})
	})

	t.Run("waits for whoever is told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			faulty, hang, hears := NewFaulty(NewMem()), make(chan struct{}), make(chan struct{})
			faulty.Before(func(Op) error { <-hang; return nil })
			var told bool
			w := NewWatch(faulty, bound, func(Stall) { <-hears; told = true }, nil)
			done := make(chan error, 1)
			go func() { done <- w.MkdirAll("/vol") }()
			time.Sleep(2 * bound)
			close(hang)
			if err := <-done; err != nil { // does not wait
				t.Error(err)
			}
			close(hears)
			if w.Quiesce(); !told {
				t.Error("it did not wait")
			}
		})
	})

	t.Run("takes no memory", func(t *testing.T) {
		w := NewWatch(NewMem(), time.Hour, nil, nil)
		if err := w.MkdirAll("/vol"); err != nil {
			t.Fatal(err)
		}
		f, err := w.Create("/vol/f")
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = f.Size() }); n != 0 {
			t.Errorf("%v allocations for an operation", n)
		}
	})
}
