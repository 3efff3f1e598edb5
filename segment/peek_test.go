package segment

import (
	"errors"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// TestPeek reads what headers state that do and do not verify, and none where
// there is none.
func TestPeek(t *testing.T) {
	fs := disk.NewMem()
	j := newJournal(t, testOptions(fs))
	first := appendSync(t, j, testDraft(1, 100))
	w := appendSync(t, j, testDraft(2, 100))
	f, err := fs.Open("v/"+segmentName(1), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, w.Ref.Pos.Offset+frmTime); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := j.Reader(1)
	if err != nil {
		t.Fatal(err)
	}
	for off, want := range map[int64]FrameRef{first.Ref.Pos.Offset: first.Ref, w.Ref.Pos.Offset: w.Ref} {
		sequence, chain, ok, err := r.Peek(off)
		if err != nil || !ok || sequence != want.Sequence || chain != want.Chain {
			t.Errorf("at %d: %d, %08x, %v, %v, want %+v", off, sequence, chain, ok, err, want)
		}
	}
	if _, err := r.Frame(w.Ref.Pos.Offset); !errors.Is(err, ErrNoFrame) {
		t.Errorf("the torn header reads as %v", err)
	}
	for _, off := range []int64{w.Ref.Pos.Offset + limits.BlockSize, limits.MinSegmentSize - 8, limits.MinSegmentSize + limits.BlockSize} {
		if sequence, _, ok, err := r.Peek(off); ok || err != nil {
			t.Errorf("at %d: frame %d, %v", off, sequence, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
