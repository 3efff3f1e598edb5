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
			if first := state.named("log").first; first <= last[oldest-1] {
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

// TestReleasedSegmentComesBack: a name that was taken away, and of which nothing proves
// it, may be there again after a power cut, although segments behind it are gone. That is
// no damage if that is what the file shows, and what came back is released again.
func TestReleasedSegmentComesBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		content func(first, last []byte) []byte // of the name that came back
		damaged bool
	}{
		{"as it was", func(first, _ []byte) []byte { return first }, false},
		{"as another segment", func(_, last []byte) []byte { return last }, false},
		{"as nothing that is known", func(first, _ []byte) []byte { return make([]byte, len(first)) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := disk.NewMem()
			v := openPlain(t, mem)
			mustCreate(t, v, "log")
			roll := func() {
				was := v.journal.Segments()
				for now := was; now[len(now)-1] == was[len(was)-1]; now = v.journal.Segments() {
					mustAppend(t, v, "log", strings.Repeat("x", 9000))
				}
				paceSnapshots(t, v)
			}
			giveUp := func() {
				roll()
				info, err := v.Log("log")
				if err != nil {
					t.Fatal(err)
				}
				mustCheckpoint(t, v, "log", "cp", info.Durable(), "")
			}
			roll()
			came := readFile(t, mem, nameOfSegment(1))
			for v.journal.Segments()[0] < 3 {
				giveUp()
			}
			pollUntil(t, "what was released is recycled", func() bool {
				_, waiting := v.journal.Waiting()
				return waiting == 0
			})
			closeTest(t, v) // before it the janitor may go on
			oldest := v.journal.Segments()[0]
			f, err := mem.Create("/vol/" + nameOfSegment(1))
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			writeFile(t, mem, nameOfSegment(1), c.content(came, readFile(t, mem, nameOfSegment(oldest))))
			v = openPlain(t, mem)
			defer func() { closeTest(t, v) }()
			if r := v.Recovery(); (r.Verdict == "damaged") != c.damaged {
				t.Fatalf("%+v", r)
			}
			if c.damaged {
				return
			}
			for v.journal.Segments()[0] == 1 {
				giveUp()
			}
			end := mustAppend(t, v, "log", "end").First
			closeTest(t, v)
			v = openPlain(t, mem)
			if r := v.Recovery(); r.Verdict == "damaged" {
				t.Errorf("released again: %+v", r)
			}
			equal(t, readAll(t, v, "log", end), []string{"end"})
		})
	}
}
