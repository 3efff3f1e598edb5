package replay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// gapped makes a volume of n segments, each of whose frames says in which it is, and
// releases some of them.
func gapped(t *testing.T, n segment.ID, released ...segment.ID) *volume {
	t.Helper()
	v := newVolume(t, 1)
	v.recover()
	for v.newest() < n {
		v.append(segment.KindCommands, fmt.Sprintf("in %d", v.newest()), 15_000)
		v.sync()
	}
	v.append(segment.KindPromise, "", 0)
	v.sync()
	must(t, v.j.Release(released))
	return v
}

func (v *volume) newest() segment.ID { ids := v.j.Segments(); return ids[len(ids)-1] }

// gapFile returns the name of the file of the gap that begins with a segment.
func gapFile(id segment.ID) string { return "v/" + id.String() + ".gap" }

// walked walks and returns which segments it found frames of, and the texts of those of
// commands.
func walked(t *testing.T, src Source) (rec *Recovery, in []segment.ID, texts []string) {
	t.Helper()
	var last uint64
	rec, err := Walk(src, WalkOptions{}, func(f *segment.Frame, blockErrs []error) error {
		if f.Header.Sequence <= last || blockErrs != nil {
			t.Errorf("frame %d behind %d: %v", f.Header.Sequence, last, blockErrs)
		}
		last = f.Header.Sequence
		if n := len(in); n == 0 || in[n-1] != f.Pos.Segment {
			in = append(in, f.Pos.Segment)
		}
		if f.Header.Kind == segment.KindCommands {
			texts = append(texts, string(f.Meta))
		}
		return nil
	})
	must(t, err)
	return rec, in, texts
}

// TestScannerEndsAtAGap scans up to a gap, from before it and to a place in it: a state
// is not rebuilt over it. Behind it, a scan goes on as ever.
func TestScannerEndsAtAGap(t *testing.T) {
	v := gapped(t, 7, 3, 4, 5)
	for round := range 2 { // as it was released, and as the files say
		s := NewScanner(v.j, firstFrame(1, segment.Cut{}))
		for s.Next() {
		}
		var c *segment.CorruptError
		if !errors.As(s.Err(), &c) || !errors.Is(c, segment.ErrMissingSegment) || c.Pos.Segment != 3 || c.Path != "v/"+fileName(3) {
			t.Errorf("round %d: ended with %v", round, s.Err())
		}
		if s.Frame().Header.Kind != segment.KindSeal || s.Frame().Pos.Segment != 2 || s.Next() {
			t.Errorf("round %d: the last frame is at %s", round, s.Frame().Pos)
		}
		e, err := gather(v.j, s, 0, true)
		must(t, err)
		if rule := decide(e); rule.Case != CaseMissingSegment || e.damage(rule, s.path).Pos.Segment != 3 {
			t.Errorf("round %d: it is %s, %+v", round, rule.Case, e.damage(rule, s.path))
		}
		end := s.Frame().End()
		ref := segment.FrameRef{Pos: end, Sequence: s.Frame().Header.Sequence + 1, Chain: s.Frame().Header.Checksum}
		must(t, s.Close())
		if live, err := Live(v.j, ref); live || err != nil {
			t.Errorf("round %d: a frame of the gap is live: %v, %v", round, live, err)
		}
		h, err := v.j.Header(6)
		must(t, err)
		s = NewScanner(v.j, firstFrame(6, h.Cut))
		if got := scan(s); s.Err() != nil || !slices.Contains(got, "in 6") {
			t.Errorf("round %d: behind the gap: %q, %v", round, got, s.Err())
		}
		must(t, s.Close())
		v.open()
	}
}

// TestWalkGoesOverGaps walks over gaps, and over damage at their edges: of what is kept
// it finds all that verifies, and it names what is damaged, and nothing that was released.
func TestWalkGoesOverGaps(t *testing.T) {
	remove := func(v *volume, name string) {
		must(v.t, v.fs.Remove(name))
		must(v.t, v.fs.SyncDir("v"))
	}
	type found struct {
		c  Case
		in segment.ID
	}
	for _, tc := range []struct {
		name     string
		do       func(v *volume)
		in       []segment.ID
		readOnly bool
		found    []found
	}{
		{name: "whole", in: []segment.ID{1, 4, 6, 9, 10}},
		{name: "a gap's file is missing", do: func(v *volume) { remove(v, gapFile(2)) },
			in: []segment.ID{1, 4, 6, 9, 10}, readOnly: true, found: []found{{CaseMissingSegment, 2}}},
		{name: "that of the newest gap", do: func(v *volume) { remove(v, gapFile(7)) },
			in: []segment.ID{1, 4, 6, 9, 10}, readOnly: true, found: []found{{CaseMissingSegment, 7}}},
		{name: "of the next segment the header", do: func(v *volume) { v.flip(segment.Pos{Segment: 4, Offset: 100}) },
			in: []segment.ID{1, 6, 9, 10}, readOnly: true, found: []found{{CaseDamagedSegmentHeader, 4}}},
		{name: "the next segment", do: func(v *volume) { remove(v, "v/"+fileName(4)) },
			in: []segment.ID{1, 6, 9, 10}, readOnly: true, found: []found{{CaseMissingSegment, 4}}},
		{name: "the next segment of the newest gap", do: func(v *volume) { remove(v, "v/"+fileName(9)) },
			in: []segment.ID{1, 4, 6, 10}, readOnly: true, found: []found{{CaseMissingSegment, 9}}},
		{name: "the segment before a gap", do: func(v *volume) { remove(v, "v/"+fileName(6)) },
			in: []segment.ID{1, 4, 9, 10}, readOnly: true, found: []found{{CaseMissingSegment, 6}}},
		{name: "its header", do: func(v *volume) { v.flip(segment.Pos{Segment: 6, Offset: 100}) },
			in: []segment.ID{1, 4, 9, 10}, readOnly: true, found: []found{{CaseDamagedSegmentHeader, 6}}},
		{name: "all before the gaps", do: func(v *volume) { remove(v, "v/"+fileName(1)) }, in: []segment.ID{4, 6, 9, 10}},
		{name: "a frame before a gap", do: func(v *volume) { v.flip(segment.Pos{Segment: 4, Offset: limits.SegmentHeaderSize}) },
			in: []segment.ID{1, 4, 6, 9, 10}, readOnly: true, found: []found{{CaseDamagedHeader, 4}}},
		{name: "a frame behind a gap", do: func(v *volume) { v.flip(segment.Pos{Segment: 6, Offset: limits.SegmentHeaderSize}) },
			in: []segment.ID{1, 4, 6, 9, 10}, readOnly: true, found: []found{{CaseDamagedHeader, 6}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := gapped(t, 10, 2, 3, 5, 7, 8)
			v.close()
			if tc.do != nil {
				tc.do(v)
			}
			o := v.options()
			o.ReadOnly = true
			j, err := segment.Open(o)
			must(t, err)
			rec, in, texts := walked(t, j)
			must(t, j.Close())
			var got []found
			for _, d := range rec.Damage {
				got = append(got, found{d.Case, d.Pos.Segment})
				if !strings.HasSuffix(d.Path, fileName(d.Pos.Segment)) || d.Path == "" {
					t.Errorf("%+v names another file", d)
				}
			}
			verdict := VerdictClean
			if len(tc.found) > 0 {
				verdict = VerdictDamaged
			}
			if rec.Verdict != verdict || rec.ReadOnly != tc.readOnly || !slices.Equal(got, tc.found) || !slices.Equal(in, tc.in) {
				t.Errorf("%s, %s: found %v in segments %v", rec.Verdict, rec.Case, rec.Damage, in)
			}
			for _, id := range tc.in[:len(tc.in)-1] {
				if !slices.Contains(texts, fmt.Sprintf("in %d", id)) {
					t.Errorf("no frame of segment %d among %q", id, texts)
				}
			}
		})
	}
}

// TestSealBeforeAGap damages the directory of the seal of the segment before a gap: that
// it was durable, the gap's file proves, and it is only an index. One that is not
// where that file says is damage.
func TestSealBeforeAGap(t *testing.T) {
	v := gapped(t, 6, 3, 4)
	h, err := v.j.Header(3)
	must(t, err)
	seal := h.Cut.Last
	v.close()
	v.flip(segment.Pos{Segment: seal.Segment, Offset: seal.Offset + limits.FrameHeaderSize})
	v.open()
	rec, in, _ := walked(t, v.j)
	if rec.ReadOnly || len(rec.Damage) != 1 || rec.Damage[0].Case != CaseDamagedSeal || rec.Damage[0].Pos != seal || !slices.Equal(in, []segment.ID{1, 2, 5, 6}) {
		t.Errorf("%s, %s: %v, segments %v", rec.Verdict, rec.Case, rec.Damage, in)
	}
	s := NewScanner(v.j, firstFrame(1, segment.Cut{}))
	for s.Next() {
	}
	if s.Frame().Pos != seal || s.BadSeal() == nil || !errors.Is(s.Err(), segment.ErrMissingSegment) {
		t.Errorf("a scan ended behind %s, %v, with %v", s.Frame().Pos, s.BadSeal(), s.Err())
	}
	must(t, s.Close())

	v.close()
	v.flip(seal)
	v.open()
	rec, in, _ = walked(t, v.j)
	if len(rec.Damage) != 1 || rec.Damage[0].Case != CaseShortPredecessor || rec.Damage[0].Pos != seal || !slices.Equal(in, []segment.ID{1, 2, 5, 6}) {
		t.Errorf("without the seal: %s, %s: %v, segments %v", rec.Verdict, rec.Case, rec.Damage, in)
	}
}

// TestTheDeadBeforeAGap releases the segment that cut frames off the one before it: where
// that one ends, the gap's file says.
func TestTheDeadBeforeAGap(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	for i := range 3 {
		v.append(segment.KindCommands, fmt.Sprintf("kept %d", i), 100)
		v.sync()
	}
	lost := v.append(segment.KindCommands, "lost", 100)
	v.append(segment.KindCommands, "dead", 100)
	v.flip(lost.Ref.Pos)
	v.recover() // segment 2 cuts it off, and promises what is before
	v.flip(lost.Ref.Pos)
	for v.newest() < 4 {
		v.append(segment.KindCommands, "gone", 9000)
		v.sync()
	}
	v.append(segment.KindCommands, "after", 100)
	v.sync()
	must(t, v.j.Release([]segment.ID{2, 3}))
	for round := range 2 {
		rec, in, texts := walked(t, v.j)
		if rec.Verdict == VerdictDamaged || slices.Contains(texts, "lost") || slices.Contains(texts, "dead") || !slices.Contains(texts, "kept 2") || !slices.Contains(texts, "after") || !slices.Equal(in, []segment.ID{1, 4}) {
			t.Errorf("round %d: found %q in %v, %v", round, texts, in, rec.Damage)
		}
		v.open()
	}
	v.close()
	v.flip(segment.Pos{Segment: 1, Offset: 2 * limits.BlockSize}) // "kept 1"
	v.open()
	if rec, _, texts := walked(t, v.j); len(rec.Damage) != 1 || slices.Contains(texts, "dead") || !slices.Contains(texts, "after") {
		t.Errorf("behind a hole: found %q, %v", texts, rec.Damage)
	}
}

// TestRecoverBeforeAGap loses both snapshots that lie behind a gap: recovery that
// begins at an older one, before it, ends there, read-only, and says that segments are
// missing.
func TestRecoverBeforeAGap(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	var refs []segment.FrameRef
	snapshot := func() {
		refs = append(refs, v.append(segment.KindSnapshot, "begin", 100).Ref)
		v.append(segment.KindSnapshot, "end", 100)
		v.sync()
		if n := len(refs); n > 1 {
			v.j.SetSnapshots(refs[n-1], refs[n-2])
		} else {
			v.j.SetSnapshots(refs[0], segment.FrameRef{})
		}
	}
	roll := func() {
		for was := v.newest(); v.newest() == was; {
			v.append(segment.KindCommands, fmt.Sprintf("in %d", was), 9000)
			v.sync()
		}
	}
	snapshot()
	roll()
	roll()
	roll()
	snapshot()
	roll()
	snapshot()
	roll()
	v.append(segment.KindPromise, "", 0)
	v.sync()
	must(t, v.j.Release([]segment.ID{3}))
	if rec, h := v.recover(); rec.Verdict == VerdictDamaged || h.from != refs[2] {
		t.Fatalf("%s, %s: began at %s", rec.Verdict, rec.Case, h.from.Pos)
	}
	v.close()
	for _, ref := range refs[1:] {
		v.flip(segment.Pos{Segment: ref.Pos.Segment, Offset: ref.Pos.Offset + limits.FrameHeaderSize + 10})
	}
	rec, h := v.recover()
	if !rec.ReadOnly || rec.Case != CaseMissingSegment || h.from != refs[0] || !slices.Contains(h.kept, "in 2") || slices.Contains(h.kept, "in 4") {
		t.Errorf("%s, %s: began at %s, kept %q", rec.Verdict, rec.Case, h.from.Pos, h.kept)
	}
	i := slices.IndexFunc(rec.Damage, func(d Damage) bool { return d.Case == CaseMissingSegment })
	if i < 0 || rec.Damage[i].Path != "v/"+fileName(3) || !strings.Contains(rec.Damage[i].Detail, "were released") {
		t.Errorf("found %v", rec.Damage)
	}
}

// TestWalkOverReleasesInTheMiddle walks a volume whose segments are released from the
// middle under the walk's feet, at each frame of it: what is kept is found, whole. A
// segment that somebody has open keeps its name for a while, and is gone nevertheless.
func TestWalkOverReleasesInTheMiddle(t *testing.T) {
	for _, begun := range []segment.ID{3, 6} { // the newest when the walk begins
		for _, pinned := range []bool{false, true} {
			for at := range 24 {
				t.Run(fmt.Sprintf("%d segments, pinned %v, at %d", begun, pinned, at), func(t *testing.T) {
					walkWhileReleasing(t, begun, pinned, at)
				})
			}
		}
	}
}

func walkWhileReleasing(t *testing.T, begun segment.ID, pinned bool, at int) {
	v := newVolume(t, 1)
	v.recover()
	n := 0
	one := func() {
		n++
		v.append(segment.KindCommands, fmt.Sprintf("c%d in %d", n, v.newest()), 6000)
		v.sync()
	}
	grow := func(until segment.ID) {
		for v.newest() < until {
			one()
		}
	}
	grow(2)
	one()
	one() // the last in segment 2 that is promised, by the next one, which is dead there
	one()
	v.crash(nil, 1)
	v.recover()
	grow(begun)
	r := &reopening{volume: v}
	want, got := map[string]bool{}, map[string]bool{}
	for _, kept := range []segment.ID{1, 2, 5} {
		if kept < begun {
			must(t, allOf(v.j, kept, want))
		}
	}
	i := 0
	rec, err := Walk(r, WalkOptions{}, func(f *segment.Frame, _ []error) error {
		if f.Header.Kind == segment.KindCommands {
			got[string(f.Meta)] = true
		}
		if i++; i != at+1 {
			return nil
		}
		grow(6)
		if pinned {
			pin, err := v.j.Reader(3)
			must(t, err)
			t.Cleanup(func() { must(t, pin.Close()) })
		}
		must(t, v.j.Release([]segment.ID{3, 4}))
		grow(9) // so that the files have begun another life
		return nil
	})
	must(t, err)
	for _, j := range r.all {
		must(t, j.Close())
	}
	if rec.Verdict == VerdictDamaged {
		t.Errorf("%s, %s: %v", rec.Verdict, rec.Case, rec.Damage)
	}
	for text := range want {
		if !got[text] {
			t.Errorf("%s was not found", text)
		}
	}
}

// allOf adds the texts of a segment's frames of commands.
func allOf(src Source, id segment.ID, texts map[string]bool) error {
	h, err := src.Header(id)
	if err != nil {
		return err
	}
	s := NewScanner(src, firstFrame(id, h.Cut))
	for s.Next() && s.Frame().Pos.Segment == id {
		if s.Frame().Header.Kind == segment.KindCommands {
			texts[string(s.Frame().Meta)] = true
		}
	}
	return errors.Join(s.Err(), s.Close())
}
