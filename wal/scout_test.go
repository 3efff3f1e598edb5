package wal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A coldFS is a file system whose page cache is empty: it notes which pages of its
// files were asked for ahead of being read, which were not, and which in vain.
type coldFS struct {
	disk.FS
	mu    sync.Mutex
	on    bool
	asked map[coldPage]bool // true once it has been read
	cold  []coldRead        // reads that had to wait for the disk
}

type coldPage struct {
	path string
	page int64
}

type coldRead struct {
	path      string
	off, size int64
}

func (c *coldFS) Open(path string, write bool) (disk.File, error) {
	f, err := c.FS.Open(path, write)
	if err != nil {
		return nil, err
	}
	return &coldFile{f, c, path}, nil
}

// start empties the cache.
func (c *coldFS) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on, c.asked, c.cold = true, map[coldPage]bool{}, nil
}

// late returns the reads that had to wait for the disk, those from the nth on.
func (c *coldFS) late(n int) []coldRead {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.cold[n:])
}

// vain counts the pages that were asked for and not read.
func (c *coldFS) vain() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, read := range c.asked {
		if !read {
			n++
		}
	}
	return n
}

type coldFile struct {
	disk.File
	fs   *coldFS
	path string
}

func (f *coldFile) pages(off, n int64) (pages []coldPage) {
	for p := off / limits.BlockSize; p*limits.BlockSize < off+n; p++ {
		pages = append(pages, coldPage{f.path, p})
	}
	return pages
}

func (f *coldFile) Prefetch(off, n int64) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	for _, p := range f.pages(off, n) {
		if _, ok := f.fs.asked[p]; !ok {
			f.fs.asked[p] = false
		}
	}
}

func (f *coldFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if !f.fs.on {
		return n, err
	}
	cold := false
	for _, p := range f.pages(off, int64(n)) {
		if _, ok := f.fs.asked[p]; !ok {
			cold = true
		}
		f.fs.asked[p] = true
	}
	if cold {
		f.fs.cold = append(f.fs.cold, coldRead{f.path, off, int64(n)})
	}
	return n, err
}

// thin fills a volume with so many frames, of which each has a batch of "thin" among
// those of 19 other logs.
func thin(t *testing.T, v *Volume, frames int) {
	t.Helper()
	a := newSeat(t, v)
	var bindings []*Binding
	for i := range 20 {
		name := fmt.Sprintf("other-%d", i)
		if i == 7 {
			name = "thin"
		}
		mustCreate(t, v, name)
		bindings = append(bindings, a.bind(name, ulid.ULID{}))
	}
	for n := range frames {
		var batches []Batch
		for i, b := range bindings {
			batches = append(batches, Batch{Binding: b, Run: run(thinRecord(i, n))})
		}
		if got := a.verdicts(batches...); len(got) != len(batches) || slices.ContainsFunc(got, func(v Verdict) bool { return v.Err != nil }) {
			t.Fatalf("%d verdicts on %d batches, or refusals", len(got), len(batches))
		}
	}
}

// thinRecord is what log i has in frame n: a block of its own.
func thinRecord(i, n int) string { return fmt.Sprintf("%d/%d ", i, n) + strings.Repeat("x", 40<<10) }

// thinVolume returns a volume of several segments filled by thin.
func thinVolume(t *testing.T, fs disk.FS, frames int) *Volume {
	t.Helper()
	v := openThin(t, fs)
	thin(t, v, frames)
	return v
}

func openThin(t *testing.T, fs disk.FS) *Volume {
	t.Helper()
	o := testOptions(fs)
	o.SegmentSize, o.SnapshotEvery, o.Codec = 16<<20, 1<<30, "none"
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestScout: who reads a log that is spread thin, from a disk whose page cache is
// empty, waits for the first frames, for what is read once a segment, and for nothing
// else; and nothing is asked for that is not read.
func TestScout(t *testing.T) {
	const frames = 120
	fs := &coldFS{FS: disk.NewMem()}
	v := thinVolume(t, fs, frames)
	defer closeTest(t, v)
	if n := len(v.journal.Segments()); n < 6 {
		t.Fatalf("%d segments", n)
	}
	r, err := v.NewReader("thin", ReadOptions{From: 1, Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	fs.start()
	var late []coldRead // cold reads once it has got ahead
	scouted := 0
	for n := range frames {
		had := len(fs.late(0))
		span, err := r.Next(t.Context())
		if err != nil || span.First != LSN(n+1) || string(span.Run) != string(run(thinRecord(7, n))) {
			t.Fatalf("record %d: %+v, %v", n+1, span.First, err)
		}
		if n >= 4 {
			late = append(late, fs.late(had)...)
		}
		scouted = max(scouted, len(r.scouted.frames))
		asked := int64(0)
		for i, f := range r.scouted.frames {
			asked += f.asked
			if i > 0 && r.scouted.frames[i-1].pos.Compare(f.pos) >= 0 || i > 0 && r.scouted.frames[i-1].stage < f.stage {
				t.Fatalf("record %d: frame %d ahead is out of order", n+1, i)
			}
		}
		if asked != r.scouted.asked || len(r.scouted.frames) > limits.ReplayFramesAhead {
			t.Fatalf("record %d: %d frames ahead, %d bytes asked for, it says %d", n+1, len(r.scouted.frames), asked, r.scouted.asked)
		}
	}
	// Of each segment its seal's frame and the successor's header come from the disk, once.
	perSegment := map[string]int{}
	for _, c := range late {
		perSegment[c.path]++
	}
	for path, n := range perSegment {
		if n > 3 {
			t.Errorf("%s: %d reads waited for the disk: %v", path, n, late)
		}
	}
	if scouted < 32 {
		t.Errorf("at most %d frames ahead", scouted)
	}
	if n := fs.vain(); n > 0 {
		t.Errorf("%d pages were asked for and not read", n)
	}
}

// TestScoutEnds: what is behind the last record wanted is not asked for.
func TestScoutEnds(t *testing.T) {
	fs := &coldFS{FS: disk.NewMem()}
	v := thinVolume(t, fs, 40)
	defer closeTest(t, v)
	r, err := v.NewReader("thin", ReadOptions{From: 5, To: 12})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	fs.start()
	for n := 0; n < 8; {
		span, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += int(span.Count)
	}
	if n := fs.vain(); n > 0 {
		t.Errorf("%d pages were asked for and not read", n)
	}
}

// TestScoutIsBounded: of logs with much in each frame no more is asked for ahead than
// of one that is alone.
func TestScoutIsBounded(t *testing.T) {
	var s scouted
	for range limits.ReplayFramesAhead {
		s.add(segment.Pos{Segment: 1, Offset: int64(len(s.frames)) * limits.BlockSize})
	}
	if size := unsafe.Sizeof(Command{}); size > commandSize || size < commandSize/2 {
		t.Errorf("a command takes %d bytes", size)
	}
	const each = limits.ReplayReadAhead / 4
	for range 10 {
		s.step = 1
		s.advance(scoutHeader, func(f *scoutedFrame) error {
			s.ask(f, each)
			return nil
		})
	}
	if s.asked != limits.ReplayReadAhead {
		t.Errorf("%d bytes are asked for", s.asked)
	}
	s.drop(0, 1)
	if s.asked != limits.ReplayReadAhead-each {
		t.Errorf("%d bytes are asked for when one of the frames has been passed", s.asked)
	}
}

// TestScoutTakes: a frame is taken once its directory has been read, and with it all
// that the Reader has come past goes.
func TestScoutTakes(t *testing.T) {
	var s scouted
	var b batchFrame
	at := func(n int) segment.Pos { return segment.Pos{Segment: 1, Offset: int64(n) * limits.BlockSize} }
	for n := range 4 {
		s.add(at(n + 1))
		s.frames[n].stage = scoutStage(min(3-n, int(scoutBlocks)))
		s.frames[n].frame = &segment.Frame{Pos: at(n + 1)}
	}
	if s.take(at(3), &b) || s.take(at(4), &b) || s.take(at(9), &b) || b.frame != nil || len(s.frames) != 4 {
		t.Fatalf("it took %+v of what has not been read, and has %d", b.frame, len(s.frames))
	}
	if !s.take(at(2), &b) || b.frame.Pos != at(2) || len(s.frames) != 2 || s.take(at(1), &b) {
		t.Fatalf("it took %+v, and has %d", b.frame, len(s.frames))
	}
	if (*scouted)(nil).take(at(1), &b) {
		t.Error("it took what nobody has")
	}
}

// TestScoutLeavesDamage: a frame ahead that does not verify is the Reader's to tell of,
// when it comes to it, and those behind it are there.
func TestScoutLeavesDamage(t *testing.T) {
	for _, part := range []string{"header", "directory"} {
		mem := disk.NewMem()
		v := thinVolume(t, mem, 60)
		f := frameOf(t, v, "thin", 31)
		within := int64(16)
		if part == "directory" {
			within = limits.FrameHeaderSize + int64(f.Header.BlocksSize) + 8
		}
		closeTest(t, v)
		corrupt(t, mem, f.Pos, within)
		v = openThin(t, mem)
		r, err := v.NewReader("thin", ReadOptions{From: 1})
		if err != nil {
			t.Fatal(err)
		}
		var lost *DataLossError
		next := LSN(1)
		for lost == nil {
			span, err := r.Next(t.Context())
			if !errors.As(err, &lost) && (err != nil || span.First != next) {
				t.Fatalf("%s: LSN %d: %+v, %v", part, next, span.First, err)
			}
			next += LSN(span.Count)
		}
		if next != 31 || lost.First != 31 || lost.Last != 31 {
			t.Errorf("%s: LSN %d to %d are lost behind %d", part, lost.First, lost.Last, next-1)
		}
		if !slices.ContainsFunc(r.scouted.frames, func(s *scoutedFrame) bool { return s.pos.Compare(f.Pos) > 0 && s.stage == scoutBlocks }) {
			t.Errorf("%s: nothing behind the damage was read ahead", part)
		}
		_ = r.Close()
		if got := readAll(t, v, "thin", 32); len(got) != 29 {
			t.Errorf("%s: %d records behind it", part, len(got))
		}
		closeTest(t, v)
	}
}

// TestScoutAmongRewinds: a frame that was read ahead says what the log's history has of
// it when the Reader comes to it, and not when it was read.
func TestScoutAmongRewinds(t *testing.T) {
	v := thinVolume(t, disk.NewMem(), 60)
	defer closeTest(t, v)
	r, err := v.NewReader("thin", ReadOptions{From: 1, Max: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for n := range 30 {
		if span, err := r.Next(t.Context()); err != nil || span.First != LSN(n+1) {
			t.Fatalf("record %d: %+v, %v", n+1, span.First, err)
		}
	}
	if n := len(r.scouted.frames); n < 15 {
		t.Fatalf("%d frames were read ahead", n)
	}
	mustRewind(t, v, "thin", Rewind{After: 35})
	mustAppend(t, v, "thin", "new")
	for n := 30; n < 36; n++ {
		want := string(run(thinRecord(7, n)))
		if n == 35 {
			want = string(run("new"))
		}
		if span, err := r.Next(t.Context()); err != nil || span.First != LSN(n+1) || string(span.Run) != want {
			t.Fatalf("record %d: %+v, %v", n+1, span.First, err)
		}
	}
}
