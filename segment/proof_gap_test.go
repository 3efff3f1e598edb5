package segment

import (
	"errors"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestGapOutlivesNames gives up all segments before a gap, one of them while it is read:
// what still has its name is there after a crash, and so must be what says that those
// behind it are no more.
func TestGapOutlivesNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		j := newJournal(t, testOptions(mem))
		for range 17 {
			appendSync(t, j, rawDraft("x", 10_000))
		}
		synctest.Wait()
		release := func(ids ...ID) {
			if err := j.Release(ids); err != nil {
				t.Fatal(err)
			}
		}
		release(3, 4)
		want := []Gap{{3, 4}}
		if got := j.Gaps(); !slices.Equal(got, want) {
			t.Fatalf("gaps %v", got)
		}
		r := mustReader(t, j, 2)
		release(1, 2)
		if got := j.Gaps(); len(got) > 0 {
			t.Errorf("nothing lies before the gaps %v", got)
		}
		o := testOptions(mem.CrashClone(nil, 1))
		o.ReadOnly = true
		left := mustOpen(t, o)
		if ids, gaps := left.Segments(), left.Gaps(); ids[0] != 2 || ids[1] != 5 || !slices.Equal(gaps, want) {
			t.Errorf("a crash leaves segments %v, gaps %v", ids, gaps)
		}
		if err := left.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, err := mem.Open("v/"+gapName(3), false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("nothing needs the file of the gap: %v", err)
		}
	})
}
