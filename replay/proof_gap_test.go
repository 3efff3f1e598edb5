package replay

import (
	"fmt"
	"testing"

	"github.com/walsvc/walsvc/segment"
)

// TestNoStateOverAGap has recovery begin before a gap, as if no snapshot behind it
// opened: it says what is missing, and makes no state of the rest. A walk goes over it.
func TestNoStateOverAGap(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	n := 0
	for len(v.j.Segments()) < 4 {
		n++
		v.append(segment.KindCommands, fmt.Sprintf("c%d", n), 9000)
		v.sync()
	}
	must(t, v.j.Release([]segment.ID{2}))
	rec, h := v.look()
	if rec.Verdict != VerdictDamaged || rec.Case != CaseMissingSegment || !rec.ReadOnly {
		t.Errorf("%s, %s: %v", rec.Verdict, rec.Case, rec.Damage)
	}
	for _, f := range h.frames {
		if f.Pos.Segment > 1 {
			t.Errorf("it took the frame at %s", f.Pos)
		}
	}
	var met [4]int
	rec, err := Walk(v.j, WalkOptions{}, func(f *segment.Frame, _ []error) error {
		met[min(f.Pos.Segment, 4)-1]++
		return nil
	})
	must(t, err)
	if rec.Verdict != VerdictClean || met[0] == 0 || met[1] > 0 || met[2] == 0 || met[3] == 0 {
		t.Errorf("%s, %s: frames of each segment %v, %v", rec.Verdict, rec.Case, met, rec.Damage)
	}
}
