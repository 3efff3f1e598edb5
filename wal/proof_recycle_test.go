package wal

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// TestRecycledAfterItsCommand cuts the power whenever a segment was given up,
// and looks at what an opening would begin with, before its janitor can make
// good for it: no log may have records where there is no segment any more.
func TestRecycledAfterItsCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		var mu sync.Mutex
		var cuts []*disk.Mem
		fs := disk.Record(mem, func(op disk.Op) {
			gone := op.Kind == disk.OpRename || op.Kind == disk.OpRemove
			if !gone || !op.Done() || !strings.HasSuffix(op.Name, ".wal") {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, mem.CrashClone(nil, 1))
		})
		v := openPlain(t, fs)
		mustCreate(t, v, "log")
		last := map[segment.ID]LSN{} // record of each segment
		given := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(cuts)
		}
		// What may go depends on how far snapshots have come: again, until
		// something goes while nobody looks on.
		for before := -1; given() <= before || before < 0; {
			for range 24 {
				got := mustAppend(t, v, "log", strings.Repeat("x", 9000))
				last[frameOf(t, v, "log", got.First).Pos.Segment] = got.First
			}
			// Whoever reads a segment holds it, and so hides what becomes of it: the
			// janitor gets the indexes it looks at beforehand, and everybody lets go.
			ids := v.journal.Segments()
			for _, id := range ids[:len(ids)-1] {
				if _, err := v.index.cache.get(id); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * limits.OpenSegmentIdle)
			info, err := v.Log("log")
			if err != nil {
				t.Fatal(err)
			}
			before = given()
			mustCheckpoint(t, v, "log", "cp", info.Durable(), "")
			synctest.Wait()
		}
		closeTest(t, v)
		for i, cut := range cuts {
			state, oldest := stateOf(t, cut)
			if first := state.names["log"].first; first <= last[oldest-1] {
				t.Errorf("power cut %d: the journal begins with segment %s, the log with LSN %d, and those up to %d are gone",
					i, oldest, first, last[oldest-1])
			}
		}
	})
}

// stateOf returns the state that opening what a power cut left would begin
// with, and the oldest segment.
func stateOf(t *testing.T, cut *disk.Mem) (*State, segment.ID) {
	t.Helper()
	state, oldest, err := recovered(cut)
	if err != nil {
		t.Fatal(err)
	}
	return state, oldest
}

// recovered is stateOf of any disk, and for those who are not on the test's goroutine.
func recovered(fs disk.FS) (state *State, oldest segment.ID, err error) {
	j, err := segment.Open(segment.Options{FS: fs, Dir: "/vol", ReadOnly: true})
	if err != nil {
		return nil, 0, err
	}
	defer j.Close()
	var r rebuilder
	if _, err := replay.Recover(j, &r); err != nil {
		return nil, 0, err
	}
	if r.state == nil { // nothing was ever written
		r.state = NewState()
	}
	return r.state, j.Segments()[0], nil
}
