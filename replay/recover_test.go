package replay

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"syscall"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// TestReadErrorIsNoVerdict fails each operation of a recovery, of one that looks
// behind a hole, and of a walk: what cannot be read is never called torn.
func TestReadErrorIsNoVerdict(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	for i := range 20 {
		v.append(segment.KindCommands, fmt.Sprintf("c%d", i), 9000)
		v.sync()
	}
	w := v.append(segment.KindCommands, "torn", 9000)
	v.append(segment.KindCommands, "orphan", 9000)
	v.flip(w.Ref.Pos)
	v.close()
	for name, look := range map[string]func(Source) (*Recovery, error){
		"recover": func(src Source) (*Recovery, error) { return Recover(src, &history{}) },
		"walk": func(src Source) (*Recovery, error) {
			return Walk(src, WalkOptions{}, func(*segment.Frame, []error) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			v.open()
			want, err := look(v.j)
			must(t, err)
			v.close()
			for n := 0; ; n++ {
				faulty := disk.NewFaulty(v.fs)
				j, err := segment.Open(segment.Options{FS: faulty, Dir: "v", ReadOnly: true})
				must(t, err)
				faulty.Inject(disk.Fault{At: n, Kinds: []disk.OpKind{disk.OpOpen, disk.OpRead, disk.OpSize}})
				rec, err := look(j)
				must(t, j.Close())
				if faulty.Fired() == 0 {
					if err != nil || rec.Case != CaseOrphans {
						t.Errorf("without a fault: %+v, %v", rec, err)
					}
					if n < 20 {
						t.Errorf("only %d operations", n)
					}
					return
				}
				// One look is allowed to fail: that whether the segment was
				// released since, when something in it does not verify.
				if !errors.Is(err, syscall.EIO) && (err != nil || !reflect.DeepEqual(rec, want)) {
					t.Errorf("operation %d failed, and still: %v, %v", n, rec, err)
				}
			}
		})
	}
}

// failing is a handler that fails.
type failing struct {
	history
	frame, end error
}

func (h *failing) Frame(*segment.Frame, func(int) ([]byte, error)) error { return h.frame }
func (h *failing) End() error                                            { return h.end }

// TestHandlerErrors says which errors of a handler are a verdict.
func TestHandlerErrors(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	v.append(segment.KindCommands, "x", 100)
	v.sync()
	mine := errors.New("mine")
	none := fmt.Errorf("%w: because", ErrNoState)
	for _, h := range []*failing{{frame: mine}, {end: mine}} {
		if rec, err := Recover(v.j, h); !errors.Is(err, mine) {
			t.Errorf("%+v, %v", rec, err)
		}
	}
	for _, h := range []*failing{{frame: none}, {end: none}} {
		rec, err := Recover(v.j, h)
		must(t, err)
		if rec.Case != CaseNoSnapshot || rec.Verdict != VerdictDamaged || !rec.ReadOnly || len(rec.Damage) == 0 {
			t.Errorf("%+v", rec)
		}
	}
	_, err := Walk(v.j, WalkOptions{}, func(*segment.Frame, []error) error { return mine })
	if !errors.Is(err, mine) {
		t.Errorf("walk: %v", err)
	}
}

// growing is a source of a volume in use: the first look behind a hole finds
// what was written since the scan was there.
type growing struct {
	Source
	grow func()
}

func (g *growing) Segments() []segment.ID {
	ids := g.Source.Segments()
	if g.grow != nil {
		grow := g.grow
		g.grow = nil
		grow()
	}
	return ids
}

// TestVolumeInUse appends and rolls while a volume is looked at: a frame that
// lands between the look at its place and the look behind it is no damage, and
// neither is a seal whose successor was begun since the segments were listed.
func TestVolumeInUse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		calls int // of Segments, before the volume grows
		n     int // frames it grows by
	}{
		{"frames land", 3, 2}, {"it rolls", 3, 20}, {"it rolls at once", 1, 20}, {"it rolls late", 4, 40},
	} {
		for _, walk := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, walk %v", tc.name, walk), func(t *testing.T) {
				v := newVolume(t, 1)
				v.recover()
				v.append(segment.KindCommands, "first", 100)
				v.sync()
				src := &growing{Source: v.j}
				calls := 0
				var grow func()
				grow = func() {
					if calls++; calls < tc.calls {
						src.grow = grow
						return
					}
					for range tc.n {
						v.append(segment.KindCommands, "more", 5000)
						v.sync()
					}
				}
				src.grow = grow
				var rec *Recovery
				var err error
				if walk {
					rec, err = Walk(src, WalkOptions{}, func(*segment.Frame, []error) error { return nil })
				} else {
					rec, err = Recover(src, &history{})
				}
				must(t, err)
				if rec.Verdict == VerdictDamaged || rec.Frames == 0 {
					t.Errorf("%s, %s: %v", rec.Verdict, rec.Case, rec.Damage)
				}
			})
		}
	}
}

// TestDanglingSnapshot names a frame as a snapshot's beginning that was cut off:
// recovery begins elsewhere.
func TestDanglingSnapshot(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	older := v.append(segment.KindSnapshot, "begin 0", 100).Ref
	v.append(segment.KindSnapshot, "end", 100)
	v.append(segment.KindCommands, "a", 100)
	v.sync()
	cut := v.append(segment.KindCommands, "b", 100).Ref
	dangling := v.append(segment.KindSnapshot, "begin 1", 100).Ref
	v.sync()
	if live, err := Live(v.j, dangling); !live || err != nil {
		t.Errorf("%+v is not live: %v", dangling, err)
	}
	v.crash(nil, 1)
	v.recover()
	moved := v.append(segment.KindSnapshot, "end", 100).Ref
	v.sync()
	for ref, want := range map[segment.FrameRef]bool{
		dangling: false, older: true, moved: true, cut: true, // what comes behind the cut is the same frame, moved
		{Pos: cut.Pos, Sequence: cut.Sequence, Chain: cut.Chain + 1}:                         false,
		{Pos: moved.Pos, Sequence: moved.Sequence, Chain: moved.Chain + 1}:                   false,
		{Pos: moved.Pos, Sequence: moved.Sequence + 1, Chain: moved.Chain}:                   false,
		{Pos: segment.Pos{Segment: 9, Offset: limits.BlockSize}, Sequence: 2, Chain: 1}:      false,
		{Pos: segment.Pos{Segment: 2, Offset: 16 * limits.BlockSize}, Sequence: 2, Chain: 1}: false,
	} {
		if live, err := Live(v.j, ref); live != want || err != nil {
			t.Errorf("%+v is live: %v, %v", ref, live, err)
		}
	}
	v.j.SetSnapshots(dangling, older)
	for len(v.j.Segments()) < 3 {
		v.append(segment.KindCommands, "b", 5000)
	}
	v.sync()
	rec, h := v.recover()
	if h.from != older || rec.ReadOnly || rec.Case != CaseDamagedSnapshot || len(rec.Damage) != 1 || rec.Resume.Snapshot != older {
		t.Errorf("began at %+v: %s, %+v", h.from, rec.Case, rec.Damage)
	}
}

// TestDamageIsBounded makes more damage than is listed.
func TestDamageIsBounded(t *testing.T) {
	rec := &Recovery{}
	for i := range limits.MaxDamage + 7 {
		d := Damage{Pos: segment.Pos{Segment: 1, Offset: int64(i)}, Case: CaseDamagedBlock}
		rec.add(d, d)
	}
	if len(rec.Damage) != limits.MaxDamage || rec.MoreDamage < 7 {
		t.Errorf("%d listed, %d more", len(rec.Damage), rec.MoreDamage)
	}
}

// TestHandlerBegins says how a handler is told where it begins, and that the
// frames which are rewritten come last and as they will lie.
func TestHandlerBegins(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	v.append(segment.KindCommands, "a", 100)
	v.sync()
	v.append(segment.KindPromise, "", 0)
	v.append(segment.KindCommands, "b", 100)
	v.append(segment.KindPromise, "", 0)
	v.append(segment.KindSnapshot, "s", 100)
	rec, h := v.recover()
	want := []segment.Pos{
		{Segment: 1, Offset: 1 * limits.BlockSize},
		{Segment: 2, Offset: 1 * limits.BlockSize},
		{Segment: 2, Offset: 2 * limits.BlockSize},
	}
	var got []segment.Pos
	var sequences []uint64
	for _, f := range h.frames {
		got = append(got, f.Pos)
		sequences = append(sequences, f.Header.Sequence)
	}
	if !slices.Equal(got, want) || !slices.Equal(sequences, []uint64{1, 2, 3}) || rec.Last != 5 || h.snapshot || h.scans != 1 {
		t.Errorf("got %v with sequences %v, last %d", got, sequences, rec.Last)
	}
	if h.from != firstFrame(1, segment.Cut{}) || rec.From != h.from {
		t.Errorf("began at %+v", h.from)
	}
}

// TestReleasedSnapshot says that a snapshot whose segment was released is not
// named again.
func TestReleasedSnapshot(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	var refs []segment.FrameRef
	for range 2 {
		refs = append(refs, v.append(segment.KindSnapshot, "begin 0", 100).Ref)
		v.append(segment.KindSnapshot, "end", 100)
		for n := len(v.j.Segments()); len(v.j.Segments()) == n; {
			v.append(segment.KindCommands, "x", 9000)
		}
		v.sync()
	}
	v.j.SetSnapshots(refs[1], refs[0])
	for n := len(v.j.Segments()); len(v.j.Segments()) == n; {
		v.append(segment.KindCommands, "x", 9000)
	}
	v.sync()
	must(t, v.j.Release(v.j.Below(refs[1].Pos.Segment)))
	rec, h := v.recover()
	if rec.Verdict != VerdictClean || h.from != refs[1] || rec.Resume.Snapshot != refs[1] || !rec.Resume.OlderSnapshot.IsZero() {
		t.Errorf("%s, %s: %+v", rec.Verdict, rec.Case, rec.Resume)
	}
}

// TestBadOwnHeader judges a scan that could not even begin.
func TestBadOwnHeader(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	v.append(segment.KindCommands, "x", 100)
	v.flip(segment.Pos{Segment: 1, Offset: 100})
	v.open()
	s := NewScanner(v.j, firstFrame(1, segment.Cut{}))
	if s.Next() {
		t.Fatal("found a frame")
	}
	e, err := gather(v.j, s, 0, true)
	must(t, err)
	if c := decide(e).Case; c != CaseDamagedSegmentHeader {
		t.Errorf("it is %s", c)
	}
	must(t, s.Close())
}

// reopening is a source of a volume that another process writes: it lists the
// segments anew, and hears of releases only by what it reads.
type reopening struct {
	*volume
	all []*segment.Journal
}

func (r *reopening) now() *segment.Journal { return r.all[len(r.all)-1] }

func (r *reopening) Segments() []segment.ID {
	o := r.options()
	o.ReadOnly = true
	j, err := segment.Open(o)
	must(r.t, err)
	r.all = append(r.all, j)
	return j.Segments()
}

func (r *reopening) Gaps() []segment.Gap                                  { return r.now().Gaps() }
func (r *reopening) Header(id segment.ID) (*segment.SegmentHeader, error) { return r.now().Header(id) }
func (r *reopening) Reader(id segment.ID) (*segment.Reader, error)        { return r.now().Reader(id) }

// TestWalkOverReleases walks a volume whose segments are released and recycled
// under the walk's feet.
func TestWalkOverReleases(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	n := 0
	grow := func(frames int) {
		for range frames {
			n++
			v.append(segment.KindCommands, fmt.Sprintf("c%d", n), 9000)
			v.sync()
		}
	}
	grow(20)
	r := &reopening{volume: v}
	var seqs []uint64
	var progress []int64
	rec, err := Walk(r, WalkOptions{Progress: func(done, total int64) {
		if done > total || len(progress) > 0 && done < progress[len(progress)-1] {
			t.Errorf("progress %d of %d behind %v", done, total, progress)
		}
		progress = append(progress, done)
	}}, func(f *segment.Frame, _ []error) error {
		seqs = append(seqs, f.Header.Sequence)
		if len(seqs) == 2 {
			ids := v.j.Segments()
			must(t, v.j.Release(v.j.Below(ids[len(ids)-1])))
			grow(40) // so that the files have begun another life
		}
		return nil
	})
	must(t, err)
	for _, j := range r.all {
		must(t, j.Close())
	}
	if rec.Verdict != VerdictClean || !slices.IsSorted(seqs) || seqs[len(seqs)-1] < uint64(n) || len(seqs) >= n {
		t.Errorf("%s, %s: frames %v, %v", rec.Verdict, rec.Case, seqs, rec.Damage)
	}
}

// TestWalkPassesOverReleased walks a volume that another process released
// segments of since it was listed.
func TestWalkPassesOverReleased(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	for len(v.j.Segments()) < 4 {
		v.append(segment.KindCommands, "x", 9000)
		v.sync()
	}
	o := v.options()
	o.ReadOnly = true
	j, err := segment.Open(o)
	must(t, err)
	must(t, v.j.Release(v.j.Below(3)))
	first := segment.ID(0)
	rec, err := Walk(j, WalkOptions{}, func(f *segment.Frame, _ []error) error {
		if first == 0 {
			first = f.Pos.Segment
		}
		return nil
	})
	must(t, err)
	must(t, j.Close())
	if rec.Verdict != VerdictClean || first != 3 {
		t.Errorf("%s, %s: began in segment %d, %v", rec.Verdict, rec.Case, first, rec.Damage)
	}
}

// TestWalkLeavesTheDead damages a frame before a cut that dead frames lie behind:
// a walk that looks for where to go on does not take them for living ones.
func TestWalkLeavesTheDead(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	for i := range 3 {
		v.append(segment.KindCommands, fmt.Sprintf("kept %d", i), 100)
		v.sync()
	}
	lost := v.append(segment.KindCommands, "lost", 100)
	v.append(segment.KindCommands, "dead", 100)
	v.flip(lost.Ref.Pos)
	v.recover()
	v.append(segment.KindCommands, "after", 100)
	v.flip(segment.Pos{Segment: 1, Offset: 3 * limits.BlockSize})
	var texts []string
	rec, err := Walk(v.j, WalkOptions{}, func(f *segment.Frame, _ []error) error {
		if f.Header.Kind == segment.KindCommands {
			texts = append(texts, string(f.Meta))
		}
		return nil
	})
	must(t, err)
	if !slices.Equal(texts, []string{"kept 0", "kept 1", "after"}) || len(rec.Damage) != 1 {
		t.Errorf("found %q, %v", texts, rec.Damage)
	}
}

// TestStaleBytesAreNoTear ends a segment where a frame of the file's earlier
// life lies: its header does not verify, and was not written for the place.
func TestStaleBytesAreNoTear(t *testing.T) {
	v := newVolume(t, 1)
	v.recover()
	for range 400 {
		w := v.append(segment.KindCommands, "x", 0)
		v.sync()
		if !w.Rolled {
			continue
		}
		must(t, v.j.Release(v.j.Below(w.Ref.Pos.Segment)))
		r, err := v.j.Reader(w.Ref.Pos.Segment)
		must(t, err)
		_, _, stale, err := r.Peek(w.Ref.Pos.Offset + 2*limits.BlockSize)
		must(t, err)
		must(t, r.Close())
		if !stale {
			continue
		}
		v.append(segment.KindPromise, "", 0)
		v.open()
		rec, err := Walk(v.j, WalkOptions{}, func(*segment.Frame, []error) error { return nil })
		must(t, err)
		if rec.Case != CaseClean {
			t.Errorf("%s, %s", rec.Verdict, rec.Case)
		}
		return
	}
	t.Fatal("no segment was recycled")
}
