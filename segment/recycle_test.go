package segment

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestRecycleWithoutRoomForAName: a directory that has no room for another name
// keeps a released segment's file for a while, and poisons nothing.
func TestRecycleWithoutRoomForAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewFaulty(disk.NewMem())
		o := testOptions(fs)
		o.Spares = 4
		j := newJournal(t, o)
		for n := uint64(1); len(j.Segments()) < 6; n++ {
			if _, err := j.Append(testDraft(n, 20_000)); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
		awaitPool(t, j)
		there := func() bool {
			entries, err := fs.List(o.Dir)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(entries, func(e disk.Entry) bool { return e.Name == segmentName(1) })
		}
		fs.Inject(disk.Fault{
			Kinds: []disk.OpKind{disk.OpRename}, Err: syscall.ENOSPC, Sticky: true,
			Only: func(op disk.Op) bool { return strings.HasSuffix(op.Name, segmentName(1)) },
		})
		if err := j.Release(2); err != nil {
			t.Fatalf("release: %v", err)
		}
		synctest.Wait()
		if !there() || j.Poisoned() != nil {
			t.Errorf("still there: %v; poisoned: %v", there(), j.Poisoned())
		}
		fs.Clear()
		<-time.After(2 * retryMin)
		synctest.Wait()
		if there() || j.Poisoned() != nil {
			t.Errorf("still there: %v; poisoned: %v", there(), j.Poisoned())
		}
		if _, err := j.Append(testDraft(1000, 100)); err != nil {
			t.Error(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}
