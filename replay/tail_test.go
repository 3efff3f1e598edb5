package replay

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// TestTailRule plays the transcripts under testdata/tail, one for each row of
// the tail rule. Their commands:
//
//	append [n=N] [size=BYTES] [kind=commands|snapshot|promise] [meta=TEXT] [nosync]
//	roll                       appends until a new segment is begun
//	snapshots newest=SEQ [older=SEQ]
//	release before=SEGMENT
//	frames                     lists the frames as a Walk sees them
//	crash [survive=PROBABILITY]   the default is 1: SIGKILL
//	damage frame=SEQ [part=header|directory|blockN|all]   a bit, or all bytes
//	damage segment=ID          its header
//	lose segment=ID            from what recovery sees
//	recover                    what Recover finds; the journal is then resumed, if it may be
//	walk                       what Walk finds
//	crash-in-resume            a crash before each operation of Resume, and then one more
//	                           while recovering from that, end as no crash does
func TestTailRule(t *testing.T) {
	datadriven.Walk(t, "testdata/tail", func(t *testing.T, path string) {
		s := &script{t: t, v: newVolume(t, 1)}
		s.v.recover()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d) })
		c := Case(filepath.Base(path))
		if !s.seen[c] {
			t.Errorf("the transcript of %s never comes to that case", c)
		}
	})
}

// TestRulesHaveTranscripts says that no row of the tail rule goes untested.
func TestRulesHaveTranscripts(t *testing.T) {
	seen := map[Case]bool{}
	for _, r := range Rules() {
		if seen[r.Case] {
			t.Errorf("%s has two rows", r.Case)
		}
		seen[r.Case] = true
		if _, err := os.Stat(filepath.Join("testdata/tail", string(r.Case))); err != nil {
			t.Errorf("%s: %v", r.Case, err)
		}
		if r.Evidence == "" || r.Kept == "" || r.Means != r.Case.Means() || r.Verdict != r.Case.Verdict() {
			t.Errorf("%s: row is not whole: %+v", r.Case, r)
		}
	}
}

// A script is a transcript being played.
type script struct {
	t      *testing.T
	v      *volume
	n      int // frames appended, for their texts
	hidden []segment.ID
	seen   map[Case]bool
}

// hiding is a source that has lost segments.
type hiding struct {
	Source
	hidden []segment.ID
}

func (h hiding) Segments() []segment.ID {
	return slices.DeleteFunc(h.Source.Segments(), func(id segment.ID) bool { return slices.Contains(h.hidden, id) })
}

func (s *script) run(d *datadriven.TestData) string {
	var n, size, seq, older uint64 = 1, 100, 0, 0
	survive := 1.0
	kind, meta, part := "commands", "", "header"
	d.MaybeScanArgs(s.t, "n", &n)
	d.MaybeScanArgs(s.t, "size", &size)
	d.MaybeScanArgs(s.t, "kind", &kind)
	d.MaybeScanArgs(s.t, "meta", &meta)
	d.MaybeScanArgs(s.t, "survive", &survive)
	d.MaybeScanArgs(s.t, "part", &part)
	switch d.Cmd {
	case "append":
		for range n {
			s.append(kind, meta, int(size))
			if !d.HasArg("nosync") {
				s.v.sync()
			}
		}
	case "roll":
		w := s.append("commands", "", 100)
		for !w.Rolled {
			s.v.sync()
			w = s.append("commands", "", 100)
		}
		return fmt.Sprintf("frame %d begins segment %d\n", w.Ref.Sequence, w.Ref.Pos.Segment)
	case "snapshots":
		d.ScanArgs(s.t, "newest", &seq)
		d.MaybeScanArgs(s.t, "older", &older)
		s.v.j.SetSnapshots(s.ref(seq), s.ref(older))
	case "release":
		d.ScanArgs(s.t, "before", &seq)
		must(s.t, s.v.j.Release(s.v.j.Below(segment.ID(seq))))
	case "frames":
		return s.frames()
	case "crash":
		s.v.crash(rand.New(rand.NewPCG(1, 2)), survive)
		s.v.open()
	case "damage":
		if d.MaybeScanArgs(s.t, "segment", &seq) {
			s.v.flip(segment.Pos{Segment: segment.ID(seq), Offset: 40})
			s.v.open() // headers are cached
			break
		}
		d.ScanArgs(s.t, "frame", &seq)
		s.damage(seq, part)
	case "cut":
		var at uint64
		d.ScanArgs(s.t, "segment", &seq)
		d.ScanArgs(s.t, "at", &at)
		s.v.cut(segment.Pos{Segment: segment.ID(seq), Offset: int64(at)})
	case "lose":
		d.ScanArgs(s.t, "segment", &seq)
		s.hidden = append(s.hidden, segment.ID(seq))
	case "recover":
		return s.recover()
	case "walk":
		return s.walk()
	case "crash-in-resume":
		return s.crashInResume()
	default:
		s.t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	return ""
}

func (s *script) source() Source { return hiding{s.v.j, s.hidden} }

func (s *script) append(kind, meta string, size int) segment.Written {
	kinds := map[string]segment.Kind{
		"commands": segment.KindCommands, "snapshot": segment.KindSnapshot, "promise": segment.KindPromise,
	}
	if kind == "promise" {
		size = 0
	} else if meta == "" {
		s.n++
		meta = fmt.Sprintf("c%d", s.n)
	}
	return s.v.append(kinds[kind], meta, size)
}

// all returns the frames of the journal that are not dead.
func (s *script) all() []*segment.Frame {
	var frames []*segment.Frame
	_, err := Walk(s.v.j, WalkOptions{}, func(f *segment.Frame, _ []error) error {
		frames = append(frames, f)
		return nil
	})
	must(s.t, err)
	return frames
}

func (s *script) frame(seq uint64) *segment.Frame {
	frames := s.all()
	i := slices.IndexFunc(frames, func(f *segment.Frame) bool { return f.Header.Sequence == seq })
	if i < 0 {
		s.t.Fatalf("there is no frame %d", seq)
	}
	return frames[i]
}

func (s *script) ref(seq uint64) segment.FrameRef {
	if seq == 0 {
		return segment.FrameRef{}
	}
	f := s.frame(seq)
	return segment.FrameRef{Pos: f.Pos, Sequence: seq, Chain: f.Header.Chain}
}

func (s *script) frames() string {
	var out strings.Builder
	for _, f := range s.all() {
		fmt.Fprintf(&out, "%d at %s: %s %q promises %d\n", f.Header.Sequence, f.Pos, f.Header.Kind, f.Meta, f.Header.Promise)
	}
	return out.String()
}

func (s *script) damage(seq uint64, part string) {
	f := s.frame(seq)
	pos := f.Pos
	var block int
	switch n, _ := fmt.Sscanf(part, "block%d", &block); {
	case n == 1:
		pos.Offset += f.Blocks[block].Offset + int64(f.Blocks[block].StoredSize)/2
	case part == "header":
		pos.Offset += 64
	case part == "directory":
		pos.Offset += limits.FrameHeaderSize + int64(f.Header.BlocksSize)
	case part == "all":
		s.v.flip(pos, make([]byte, f.Header.Size())...)
		return
	default:
		s.t.Fatalf("no part %q", part)
	}
	s.v.flip(pos)
}

// recover recovers and resumes.
func (s *script) recover() string {
	h := &history{}
	s.v.open()
	rec, err := Recover(s.source(), h)
	must(s.t, err)
	if !rec.ReadOnly {
		refs, err := s.v.j.Resume(rec.Resume)
		must(s.t, err)
		h.resumed(s.t, rec, refs)
	}
	s.hidden = nil
	out := s.report(rec)
	out += fmt.Sprintf("state from %d: %s\n", h.from.Sequence, short(h.kept))
	if rec.ReadOnly {
		return out
	}
	r := rec.Resume
	out += fmt.Sprintf("cut at %s behind frame %d, dead from %s\n", r.Cut.End, r.Cut.Sequence, r.DeadFrom)
	for _, d := range r.Rewrite {
		out += fmt.Sprintf("rewrite %s %q, %d blocks\n", d.Kind, d.Meta, len(d.Blocks))
	}
	if r.Snapshot.Sequence != 0 {
		out += fmt.Sprintf("snapshots %d, %d\n", r.Snapshot.Sequence, r.OlderSnapshot.Sequence)
	}
	return out
}

func (s *script) report(rec *Recovery) string {
	if s.seen == nil {
		s.seen = map[Case]bool{}
	}
	s.seen[rec.Case] = true
	out := fmt.Sprintf("%s, %s: frames %d, last %d, promised %d", rec.Verdict, rec.Case, rec.Frames, rec.Last, rec.Promised)
	if rec.ReadOnly {
		out += ", read-only"
	}
	if rec.DiscardedFrames > 0 || rec.DiscardedBytes > 0 {
		out += fmt.Sprintf(", discarded %d frames, %d bytes", rec.DiscardedFrames, rec.DiscardedBytes)
	}
	out += "\n"
	for _, d := range rec.Damage {
		s.seen[d.Case] = true
		out += d.Error() + "\n"
	}
	return out
}

func (s *script) walk() string {
	var texts []string
	s.v.open()
	rec, err := Walk(s.source(), WalkOptions{}, func(f *segment.Frame, blockErrs []error) error {
		if f.Header.Kind != segment.KindCommands {
			return nil
		}
		text := string(f.Meta)
		for i, err := range blockErrs {
			if err != nil {
				text += fmt.Sprintf("(block %d)", i)
			}
		}
		texts = append(texts, text)
		return nil
	})
	must(s.t, err)
	return s.report(rec) + "commands: " + short(texts) + "\n"
}

// short spells a dense run of texts as its ends.
func short(texts []string) string {
	var out []string
	for i := 0; i < len(texts); {
		k := i
		var n, m int
		for k+1 < len(texts) {
			if a, _ := fmt.Sscanf(texts[k], "c%d", &n); a != 1 || texts[k+1] != fmt.Sprintf("c%d", n+1) {
				break
			}
			k++
			m++
		}
		if m > 1 {
			out = append(out, texts[i]+".."+texts[k])
		} else {
			out = append(out, texts[i:k+1]...)
		}
		i = k + 1
	}
	return strings.Join(out, " ")
}

// crashInResume recovers a copy of the volume and cuts the power before each
// operation of that, and again in each recovery from there.
func (s *script) crashInResume() string {
	want := s.v.clone(nil, 1)
	_, h := want.recover()
	total := 0
	for _, c := range crashes(s.v, 3) {
		total++
		for _, c := range crashes(c, 1) {
			total++
			rec, got := c.recover()
			if !slices.Equal(got.kept, h.kept) {
				s.t.Fatalf("crash %d: %s, %s: kept %s, want %s", total, rec.Verdict, rec.Case, short(got.kept), short(h.kept))
			}
			if len(rec.Damage) > 0 {
				s.t.Fatalf("crash %d: %+v", total, rec.Damage)
			}
			c.append(segment.KindCommands, "next", 100)
			c.close()
		}
	}
	if total < 8 {
		s.t.Fatalf("only %d crashes", total)
	}
	return "every one ends as no crash\n"
}

// crashes recovers a copy of the volume and returns what a crash before each
// operation would have left, n times each, with chance.
func crashes(v *volume, n int) []*volume {
	v = v.clone(nil, 1)
	var mu sync.Mutex
	var all []*volume
	done := false
	rng := rand.New(rand.NewPCG(3, 4))
	v.before = func(op disk.Op) {
		switch op.Kind {
		case disk.OpWrite, disk.OpSync, disk.OpSyncDir, disk.OpRename, disk.OpRemove, disk.OpUnlock:
		default:
			return // leaves the disk as it was
		}
		mu.Lock()
		defer mu.Unlock()
		if done {
			return
		}
		for i := range n {
			all = append(all, v.clone(rng, []float64{0.5, 0, 1}[i%3]))
		}
	}
	v.recover()
	mu.Lock()
	defer mu.Unlock()
	done = true
	return all
}
