package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// TestResumeRefuses wants a Resume that cannot be right to change nothing, so
// that the right one still works.
func TestResumeRefuses(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	j := newJournal(t, o)
	for n := range 9 {
		appendSync(t, j, rawDraft(fmt.Sprintf("meta %d", n+1), 10_000))
	}
	if _, err := j.Resume(Resume{}); err == nil {
		t.Error("resumed twice")
	}
	if err := j.Release(j.Below(2)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, o)
	before := names(t, fs)
	large := rawDraft("x", 30_000)
	for name, r := range map[string]Resume{
		"the beginning, which was released": {},
		"behind the last segment":           {Cut: Cut{End: Pos{9, 4096}}},
		"two frames of which one fits":      {Cut: Cut{End: Pos{3, 4096}}, Rewrite: []Draft{*large, *large}},
		"a seal":                            {Cut: Cut{End: Pos{3, 4096}}, Rewrite: []Draft{{Kind: KindSeal}}},
	} {
		if _, err := j.Resume(r); err == nil {
			t.Errorf("resumed: %s", name)
		}
	}
	for what, err := range map[string]error{"Sync": j.Sync(), "Release": j.Release(j.Below(3)), "Admit": j.Admit(1, Reserve{Spare: TakeSpare})} {
		if !errors.Is(err, ErrNotResumed) {
			t.Errorf("%s before Resume: %v", what, err)
		}
	}
	if after := names(t, fs); !slices.Equal(before, after) {
		t.Errorf("the directory went from %q to %q", before, after)
	}
	_, r, err := survivors(j)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Resume(r); err != nil {
		t.Error(err)
	}
}

// TestResumeReplaces rewrites from a segment that is replaced, with others
// behind it, and cuts the power after every operation: what is kept is there,
// in the old place or in the new one, and the run of segments has no gap.
func TestResumeReplaces(t *testing.T) {
	first := disk.NewMem()
	j := newJournal(t, testOptions(first))
	for n := range 14 {
		appendSync(t, j, rawDraft(fmt.Sprintf("meta %d", n+1), 10_000))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	var clones []*disk.Mem
	mem := first.CrashClone(nil, 1)
	fs := disk.Record(mem, func(op disk.Op) {
		if mutates(op) {
			for i := range 4 {
				clones = append(clones, mem.CrashClone(rand.New(rand.NewPCG(op.Event, uint64(i))), 0.5))
			}
		}
	})
	o := testOptions(disk.NewFaulty(fs))
	o.Rand = rand.NewChaCha8([32]byte{9})
	faulty := o.FS.(*disk.Faulty)
	release := holdPreparer(faulty)
	j = mustOpen(t, o)
	found, r, err := survivors(j)
	if err != nil {
		t.Fatal(err)
	}
	// Draft 5 begins segment 2; 6 is to be the last one kept.
	r.Cut = found[3].end
	r.Rewrite = []Draft{found[5].d, found[6].d}
	if found[4].Kind != KindSeal || found[5].n != 5 {
		t.Fatalf("%+v", found[4:6])
	}
	refs, err := j.Resume(r)
	if err != nil {
		t.Fatal(err)
	}
	release()
	want := []FrameRef{{Pos: Pos{1 + 1, 4096}, Sequence: 5, Chain: r.Cut.Chain}}
	if len(refs) != 2 || refs[0] != want[0] || refs[1].Sequence != 6 || j.Durable() != 6 {
		t.Errorf("rewritten %+v, durable %d", refs, j.Durable())
	}
	rd := mustReader(t, j, 2)
	for _, ref := range refs {
		if f, err := rd.Frame(ref.Pos.Offset); err != nil || f.Header.Promise != 4 || f.Header.Chain != ref.Chain {
			t.Errorf("%+v, %v", f, err)
		}
	}
	if err := j.Close(); err != nil { // the preparer clones as well
		t.Fatal(err)
	}
	if len(clones) < 20 {
		t.Fatalf("%d clones", len(clones))
	}
	for i, mem := range clones {
		o := testOptions(mem)
		j, err := Open(o)
		if err != nil {
			t.Fatalf("clone %d: %v", i, err)
		}
		found, _, err := survivors(j)
		if err != nil {
			t.Fatalf("clone %d: %v", i, err)
		}
		if last, err := checkSurvivors(found, 0, 6); err != nil {
			t.Errorf("clone %d: drafts end at %d: %v", i, last, err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestResumeWithoutRoom wants a full disk without dead space to be ErrNoSpace,
// and Resume to work once there is room.
func TestResumeWithoutRoom(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, o)
	mem.SetCapacity(limits.BlockSize)
	for range 2 {
		if _, err := j.Resume(Resume{}); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("%v", err)
		}
	}
	if _, err := j.Append(testDraft(1, 1)); !errors.Is(err, ErrNotResumed) {
		t.Errorf("append: %v", err)
	}
	mem.SetCapacity(0)
	if _, err := j.Resume(Resume{}); err != nil {
		t.Fatal(err)
	}
	appendSync(t, j, testDraft(1, 1))
}

// TestResumeIntoWhatIsLeft wants opening on a full disk to make do with the
// dead space of the last segment, however little that is.
func TestResumeIntoWhatIsLeft(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	o.SegmentSize = 1 << 20
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	mem.SetCapacity(o.SegmentSize + 2*limits.BlockSize) // one segment, nothing for a spare
	j := mustOpen(t, o)
	if _, err := j.Resume(Resume{}); err != nil {
		t.Fatal(err)
	}
	w := appendSync(t, j, rawDraft("x", 300<<10))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	end := Pos{1, w.Ref.Pos.Offset + w.Header.Size()}
	j = mustOpen(t, o)
	r := Resume{Cut: Cut{End: end, Last: w.Ref.Pos, Sequence: 1, Chain: w.Header.Checksum, Time: w.Header.Time}, DeadFrom: end}
	if _, err := j.Resume(r); err != nil {
		t.Fatal(err)
	}
	if h, err := j.Header(2); err != nil || h.Size < o.SegmentSize*2/3 {
		t.Errorf("the fresh segment: %+v, %v", h, err)
	}
	appendSync(t, j, testDraft(2, 100))
}

// TestCutShort wants a file that ends early to be told from one whose dead
// space was given up.
func TestCutShort(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	j := newJournal(t, o)
	w := appendSync(t, j, testDraft(1, 100))
	end := w.Ref.Pos.Offset + w.Header.Size()
	cutShort := func() bool {
		t.Helper()
		r, err := j.Reader(1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		short, err := r.CutShort()
		if err != nil {
			t.Fatal(err)
		}
		return short
	}
	if cutShort() {
		t.Error("a whole file is called short")
	}
	f, err := mem.Open("v/"+segmentName(1), true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := j.shorten(f, Pos{1, end}); err != nil {
		t.Fatal(err)
	}
	if size, err := f.Size(); err != nil || size != end+noteSize || cutShort() {
		t.Errorf("dead space given up: %d bytes, want %d, %v; called short", size, end+noteSize, err)
	}
	for _, size := range []int64{end + noteSize - 1, end, limits.SegmentHeaderSize, 10} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if !cutShort() {
			t.Errorf("a file cut to %d bytes is not called short", size)
		}
	}
}

// TestAppendRefuses wants drafts over a limit, and malformed ones, refused
// before anything is written, and the journal to go on.
func TestAppendRefuses(t *testing.T) {
	o := testOptions(disk.NewMem())
	o.SegmentSize = 64 << 20
	j := newJournal(t, o)
	if got, want := j.MaxFrame(), int64(limits.MaxFrameSize); got != want {
		t.Errorf("largest frame %d, want %d", got, want)
	}
	many := rawDraft("x", make([]int, limits.MaxBlocksPerFrame+1)...)
	huge := rawDraft("x", 16<<20)
	huge.Blocks = append(huge.Blocks, huge.Blocks[0])
	raw := Block{Codec: codec.S2, RawSize: limits.MaxBlockRawSize, Stored: []byte("?")}
	for name, tc := range map[string]struct {
		d    *Draft
		want error
	}{
		"too many blocks":   {many, ErrTooLarge},
		"too large":         {huge, ErrTooLarge},
		"directory":         {&Draft{Kind: KindCommands, Meta: make([]byte, limits.MaxDirectorySize+1)}, ErrTooLarge},
		"raw block":         {&Draft{Kind: KindCommands, Blocks: []Block{{Codec: codec.S2, RawSize: limits.MaxBlockRawSize + 1}}}, ErrTooLarge},
		"4 GiB raw":         {&Draft{Kind: KindCommands, Blocks: slices.Repeat([]Block{raw}, 256)}, ErrTooLarge},
		"seal":              {&Draft{Kind: KindSeal}, nil},
		"no kind":           {&Draft{}, nil},
		"unknown codec":     {&Draft{Kind: KindCommands, Blocks: []Block{{Codec: 3}}}, nil},
		"raw is not stored": {&Draft{Kind: KindCommands, Blocks: []Block{{RawSize: 1}}}, nil},
	} {
		if w, err := j.Append(tc.d); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
	if w := appendSync(t, j, testDraft(1, 1)); w.Ref.Sequence != 1 {
		t.Errorf("a refusal took a sequence: %+v", w)
	}
}

// TestSeal wants the caller's index in the seal, asked for with its limit, and
// one over the limit refused, again and again, without harm.
func TestSeal(t *testing.T) {
	o := testOptions(disk.NewMem())
	var index []byte
	o.Seal = func(id ID, limit int) []byte {
		if want := 8192 - limits.FrameHeaderSize; limit != want {
			t.Errorf("limit %d, want %d", limit, want)
		}
		if index == nil {
			index = []byte(strings.Repeat("i", limit))
			return append(index, '!')
		}
		return index
	}
	j := newJournal(t, o)
	for range 4 {
		appendSync(t, j, rawDraft("x", 12_000))
	}
	if _, err := j.Append(rawDraft("x", 12_000)); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("an index over the limit: %v", err)
	}
	w := appendSync(t, j, rawDraft("x", 12_000))
	if !w.Rolled || w.Ref.Sequence != 6 {
		t.Fatalf("%+v", w)
	}
	h, err := j.Header(2)
	if err != nil {
		t.Fatal(err)
	}
	f, err := mustReader(t, j, 1).Frame(h.Cut.Last.Offset)
	if err != nil || f.Header.Kind != KindSeal || string(f.Meta) != string(index) {
		t.Errorf("%+v, %v", f, err)
	}
	if f.End().Offset > limits.MinSegmentSize {
		t.Errorf("the seal ends at %s", f.End())
	}
}

// TestTimesDoNotGoBack raises the time of a frame to the one before.
func TestTimesDoNotGoBack(t *testing.T) {
	j := newJournal(t, testOptions(disk.NewMem()))
	for _, tc := range []struct{ time, want int64 }{{100, 100}, {50, 100}, {101, 101}, {-1, 101}} {
		if w := appendSync(t, j, &Draft{Kind: KindPromise, Time: tc.time}); w.Header.Time != tc.want {
			t.Errorf("time %d became %d, want %d", tc.time, w.Header.Time, tc.want)
		}
	}
}

// TestSnapshots records in a header what was set when the segment was begun.
func TestSnapshots(t *testing.T) {
	o := testOptions(disk.NewMem())
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, o)
	ref := func(n uint64) FrameRef {
		return FrameRef{Pos: Pos{1, 4096 * int64(n)}, Sequence: n, Chain: uint32(n)}
	}
	if _, err := j.Resume(Resume{Snapshot: ref(1), OlderSnapshot: ref(2)}); err != nil {
		t.Fatal(err)
	}
	j.SetSnapshots(ref(3), ref(4))
	for range 5 {
		appendSync(t, j, rawDraft("x", 12_000))
	}
	for id, want := range map[ID][2]FrameRef{1: {ref(1), ref(2)}, 2: {ref(3), ref(4)}} {
		h, err := j.Header(id)
		if err != nil || h.Snapshot != want[0] || h.OlderSnapshot != want[1] {
			t.Errorf("segment %s: %+v, %v", id, h, err)
		}
	}
}

// TestShortSegments wants the short segment that the first opening makes to
// take small frames, to roll before one it is too short for, and to be removed
// when it is released: a spare is as long as a segment.
func TestShortSegments(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	o.SegmentSize = 8 << 20
	recycled := map[ID]bool{}
	o.Events.Released = func(id ID, r bool) { recycled[id] = r }
	j := newJournal(t, o)
	if h, err := j.Header(1); err != nil || h.Size != shortSegment {
		t.Fatalf("%+v, %v", h, err)
	}
	if w := appendSync(t, j, rawDraft("x", 1)); w.Rolled {
		t.Errorf("%+v", w)
	}
	for range 2 {
		if w := appendSync(t, j, rawDraft("x", 5<<20)); !w.Rolled {
			t.Errorf("%+v", w)
		}
	}
	if err := j.Release(j.Below(3)); err != nil {
		t.Fatal(err)
	}
	if r, ok := recycled[1]; !ok || r || !recycled[2] {
		t.Errorf("recycled %v", recycled)
	}
}

// TestPadding writes a small frame from the buffer that a large one was in:
// what follows it on disk is zeroes, no other client's bytes.
func TestPadding(t *testing.T) {
	fs := disk.NewMem()
	j := newJournal(t, testOptions(fs))
	appendSync(t, j, rawDraft("large", 20_000))
	w := appendSync(t, j, rawDraft("small", 10))
	f, err := fs.Open("v/0000000000000001.wal", false)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, w.Header.Size())
	if _, err := f.ReadAt(b, w.Ref.Pos.Offset); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if used := limits.FrameHeaderSize + int(w.Header.BlocksSize+w.Header.DirectorySize); !zero(b[used:]) {
		t.Errorf("padding %x", b[used:])
	}
}

// TestFirstCauseCounts poisons twice: everybody hears of the first cause, and
// of it once.
func TestFirstCauseCounts(t *testing.T) {
	o := testOptions(disk.NewMem())
	told := 0
	o.Events.Poisoned = func(error) { told++ }
	j := newJournal(t, o)
	first := errors.New("first")
	err1, err2 := j.poisoned("write", first), j.poisoned("sync", errors.New("second"))
	if err1 != err2 || err1 != j.Poisoned() || !errors.Is(err1, first) || told != 1 {
		t.Errorf("%v, %v, %v, told %d times", err1, err2, j.Poisoned(), told)
	}
}
