package replay

import (
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// scan returns the texts that a scanner finds.
func scan(s *Scanner) []string {
	var texts []string
	for s.Next() {
		texts = append(texts, string(s.Frame().Meta))
	}
	return texts
}

// TestScannerCrossesAtTheCut scans from the beginning and from every frame, over
// rolls and over a cut with dead frames behind it.
func TestScannerCrossesAtTheCut(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	for _, text := range []string{"a", "b", "c"} {
		v.append(segment.KindCommands, text, 30_000)
		v.sync()
	}
	v.append(segment.KindCommands, "d", 100)
	v.append(segment.KindCommands, "e", 100)
	v.crash(nil, 1)
	v.recover() // d and e are dead where they were, and live in a fresh segment
	v.append(segment.KindCommands, "f", 100)
	want := []string{"a", "index", "b", "index", "c", "d", "e", "f"}

	from, err := OldestRef(v.j)
	must(t, err)
	s := NewScanner(v.j, from)
	var refs []segment.FrameRef
	var texts []string
	for refs = append(refs, s.End()); s.Next(); refs = append(refs, s.End()) {
		texts = append(texts, string(s.Frame().Meta))
		for i := range s.Frame().Blocks {
			if _, err := s.Reader().Block(s.Frame(), i, nil); err != nil {
				t.Error(err)
			}
		}
	}
	must(t, s.Err())
	must(t, s.Close())
	if !slices.Equal(texts, want) {
		t.Fatalf("scanned %q, want %q", texts, want)
	}
	for i, ref := range refs {
		s := NewScanner(v.j, ref)
		if got := scan(s); !slices.Equal(got, want[i:]) || s.Err() != nil {
			t.Errorf("from %d: scanned %q, %v, want %q", ref.Sequence, got, s.Err(), want[i:])
		}
		must(t, s.Close())
	}
}

// TestScannerFollows goes on where it ended, over a roll that came later.
func TestScannerFollows(t *testing.T) {
	v := newVolume(t, 1)
	v.open()
	from, err := OldestRef(v.j)
	must(t, err)
	s := NewScanner(v.j, from)
	defer func() { must(t, s.Close()) }()
	if s.Next() || s.Err() != nil {
		t.Fatalf("a new volume has %v, %v", s.Frame(), s.Err())
	}
	_, err = v.j.Resume(segment.Resume{})
	must(t, err)
	for range 40 {
		w := v.append(segment.KindCommands, "x", 9000)
		got := scan(s)
		want := []string{"x"}
		if w.Rolled {
			want = []string{"index", "x"}
		}
		if !slices.Equal(got, want) || s.Err() != nil {
			t.Fatalf("frame %d: scanned %q, %v", w.Ref.Sequence, got, s.Err())
		}
	}
}

// TestScannerErrors says what a scan that must not go on ends in.
func TestScannerErrors(t *testing.T) {
	newest := func(v *volume) segment.ID { ids := v.j.Segments(); return ids[len(ids)-1] }
	for _, tc := range []struct {
		name string
		do   func(v *volume, from *segment.FrameRef)
		want error
		n    int // frames before
	}{
		{"sequence", func(_ *volume, from *segment.FrameRef) { from.Sequence++ }, segment.ErrNoFrame, 0},
		{"chain", func(_ *volume, from *segment.FrameRef) { from.Chain++ }, segment.ErrNoFrame, 0},
		{"header", func(v *volume, _ *segment.FrameRef) {
			v.flip(segment.Pos{Segment: 1, Offset: 2 * limits.BlockSize})
		}, segment.ErrNoFrame, 1},
		{"directory", func(v *volume, _ *segment.FrameRef) {
			v.flip(segment.Pos{Segment: 1, Offset: 2*limits.BlockSize + limits.FrameHeaderSize})
		}, segment.ErrBadDirectory, 1},
		{"successor's header", func(v *volume, _ *segment.FrameRef) {
			v.flip(segment.Pos{Segment: 2, Offset: 100})
		}, segment.ErrBadHeader, 14},
		{"own header", func(v *volume, _ *segment.FrameRef) {
			v.flip(segment.Pos{Segment: 1, Offset: 100})
		}, segment.ErrBadHeader, 0},
		{"behind the newest", func(v *volume, from *segment.FrameRef) { from.Pos.Segment = newest(v) + 1 }, fs.ErrNotExist, 0},
		{"released", func(v *volume, _ *segment.FrameRef) { must(v.t, v.j.Release(v.j.Below(newest(v)))) }, segment.ErrReleased, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := newVolume(t, 1)
			v.recover()
			for range 30 {
				v.append(segment.KindCommands, "x", 0)
				v.sync()
			}
			v.crash(nil, 1)
			v.recover() // so that no header is known yet
			from := firstFrame(1, segment.Cut{})
			v.crash(nil, 1)
			v.recover()
			v.close()
			v.open()
			if tc.want == segment.ErrReleased {
				rec, _ := v.look()
				_, err := v.j.Resume(rec.Resume)
				must(t, err)
			}
			tc.do(v, &from)
			s := NewScanner(v.j, from)
			n := len(scan(s))
			if !errors.Is(s.Err(), tc.want) || n != tc.n {
				t.Errorf("ended after %d frames: %v, want after %d: %v", n, s.Err(), tc.n, tc.want)
			}
			if s.Next() || !errors.Is(s.Err(), tc.want) {
				t.Errorf("went on behind %v", tc.want)
			}
			must(t, s.Close())
		})
	}
}

// TestMisfit says what makes a frame that verifies another than the next.
func TestMisfit(t *testing.T) {
	s := &Scanner{next: segment.FrameRef{Sequence: 8, Chain: 5}, promise: 4, time: 100}
	fits := segment.Header{Sequence: 8, Chain: 5, Promise: 7, Time: 100}
	if reason := s.misfit(&fits); reason != "" {
		t.Errorf("%+v: %s", fits, reason)
	}
	for _, change := range []func(h *segment.Header){
		func(h *segment.Header) { h.Sequence++ },
		func(h *segment.Header) { h.Chain++ },
		func(h *segment.Header) { h.Promise = 8 },
		func(h *segment.Header) { h.Promise = 3 },
		func(h *segment.Header) { h.Time = 99 },
	} {
		h := fits
		change(&h)
		if s.misfit(&h) == "" {
			t.Errorf("%+v fits behind %+v", h, s.next)
		}
	}
}
