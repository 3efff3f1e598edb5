package segment

import (
	"bytes"
	"errors"
	"io/fs"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// flip changes a byte of a file.
func flip(t *testing.T, fs disk.FS, name string, off int64) {
	t.Helper()
	f, err := fs.Open("v/"+name, true)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustReader(t *testing.T, j *Journal, id ID) *Reader {
	t.Helper()
	r, err := j.Reader(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// rawDraft makes a frame with one stored block for each size.
func rawDraft(meta string, sizes ...int) *Draft {
	d := &Draft{Kind: KindCommands, Meta: []byte(meta)}
	for i, n := range sizes {
		b := bytes.Repeat([]byte{byte(i + 1)}, n)
		d.Blocks = append(d.Blocks, Block{Codec: codec.None, RawSize: uint32(n), Checksum: checksum(b), Stored: b})
	}
	return d
}

// TestDamage changes a byte in each part of the middle one of three frames:
// the error says what is damaged and where, and nothing else suffers.
func TestDamage(t *testing.T) {
	const frame, size = 4096 + 4096, 3 * 4096
	for _, tc := range []struct {
		name      string
		off       int64
		frame     error // of Frame
		block0    error
		block1    error
		wantBlock int
	}{
		{"header", frame + 40, ErrNoFrame, nil, nil, 0},
		{"block 0", frame + 128, nil, ErrBadBlock, nil, 2},
		{"block 1", frame + 128 + 5000, nil, nil, ErrBadBlock, 2},
		{"block table", frame + 128 + 10_000, ErrBadDirectory, nil, nil, 0},
		{"meta", frame + 128 + 10_000 + 32, ErrBadDirectory, nil, nil, 0},
		{"padding", frame + size - 1, nil, nil, nil, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := disk.NewMem()
			j := newJournal(t, testOptions(fs))
			appendSync(t, j, rawDraft("a", 1))
			if w := appendSync(t, j, rawDraft("b", 5000, 5000)); w.Ref.Pos.Offset != frame || w.Header.Size() != size {
				t.Fatalf("%+v", w)
			}
			appendSync(t, j, rawDraft("c", 1))
			flip(t, fs, "0000000000000001.wal", tc.off)

			r := mustReader(t, j, 1)
			f, err := r.Frame(frame)
			if !errors.Is(err, tc.frame) {
				t.Fatalf("frame: %v, want %v", err, tc.frame)
			}
			var c *CorruptError
			if err != nil && (!errors.As(err, &c) || c.Path != "v/0000000000000001.wal" || c.Pos != (Pos{1, frame})) {
				t.Errorf("the place is missing: %v", err)
			}
			if tc.frame == ErrBadDirectory && (f == nil || f.Header.Sequence != 2 || f.Header.Promise != 1 || f.Blocks != nil || f.Meta != nil) {
				t.Errorf("bad directory: %+v, want the header alone", f)
			}
			if err == nil {
				for i, want := range []error{tc.block0, tc.block1} {
					if _, err := r.Block(f, i, nil); !errors.Is(err, want) {
						t.Errorf("block %d: %v, want %v", i, err, want)
					}
				}
			}
			for _, off := range []int64{4096, frame + size} {
				if _, err := r.Frame(off); err != nil {
					t.Errorf("the frame at %d suffers: %v", off, err)
				}
			}
			var seen []uint64
			if err := r.Lookahead(frame+1, func(h Header, off int64) bool {
				seen = append(seen, h.Sequence)
				return true
			}); err != nil || len(seen) != 1 || seen[0] != 3 {
				t.Errorf("behind it there are frames %d, %v", seen, err)
			}
		})
	}
}

// TestDamagedHeader wants a segment whose header does not verify told by path,
// and one in another's place too.
func TestDamagedHeader(t *testing.T) {
	fs := disk.NewMem()
	j := newJournal(t, testOptions(fs))
	for n := range 6 {
		appendSync(t, j, rawDraft("x", 10_000+n))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, fs, "0000000000000001.wal", 4000)
	if err := fs.Rename("v/0000000000000002.wal", "v/0000000000000003.wal"); err != nil {
		t.Fatal(err)
	}
	put(t, fs, "0000000000000002.wal", []byte("short"))
	j = mustOpen(t, testOptions(fs))
	for id := ID(1); id <= 3; id++ {
		_, err := j.Header(id)
		var c *CorruptError
		if !errors.Is(err, ErrBadHeader) || !errors.As(err, &c) || c.Path != "v/"+segmentName(id) || c.Pos != (Pos{Segment: id}) {
			t.Errorf("segment %s: %v", id, err)
		}
		if _, err2 := j.Reader(id); err2 == nil || err2.Error() != err.Error() {
			t.Errorf("reader of segment %s: %v", id, err2)
		}
	}
}

// TestReaderSeesWhatIsAppended wants a Reader that found nothing at the end to
// find the frame that is appended there, although its window has the old bytes.
func TestReaderSeesWhatIsAppended(t *testing.T) {
	j := newJournal(t, testOptions(disk.NewMem()))
	r := mustReader(t, j, 1)
	off := int64(limits.SegmentHeaderSize)
	for n := range 4 {
		if _, err := r.Frame(off); !errors.Is(err, ErrNoFrame) {
			t.Fatalf("before frame %d: %v", n, err)
		}
		d := rawDraft("x", 100+n)
		appendSync(t, j, d)
		f, err := r.Frame(off)
		if err != nil {
			t.Fatalf("frame %d: %v", n, err)
		}
		if err := sameFrame(r, f, d); err != nil {
			t.Fatal(err)
		}
		off = f.End().Offset
	}
}

// TestLargeFrames reads frames whose directories and blocks do not fit the
// window, and whose buffer is not kept.
func TestLargeFrames(t *testing.T) {
	o := testOptions(disk.NewMem())
	o.SegmentSize = 32 << 20
	j := newJournal(t, o)
	drafts := []*Draft{
		rawDraft("small", 10),
		rawDraft("block beyond the window", 100, readWindow, 100),
		rawDraft(string(bytes.Repeat([]byte("m"), 2*readWindow)), 100),
		rawDraft("many blocks", make([]int, 3000)...),
		rawDraft("beyond the buffer that is kept", keepBuffer, 1000),
		rawDraft("small again", 10),
		{Kind: KindPromise},
	}
	var at []Pos
	for _, d := range drafts {
		at = append(at, appendSync(t, j, d).Ref.Pos)
	}
	if n := len(j.tail.buf); n > keepBuffer {
		t.Errorf("a buffer of %d bytes is kept", n)
	}
	for i, d := range drafts {
		r := mustReader(t, j, at[i].Segment)
		f, err := r.Frame(at[i].Offset)
		if err == nil {
			err = sameFrame(r, f, d)
		}
		if err != nil {
			t.Errorf("frame %d: %v", i, err)
		}
	}
	r := mustReader(t, j, 1)
	for _, off := range []int64{-4096, 0, 4095, at[1].Offset + 1, at[1].Offset + 4096, 1 << 40} {
		if _, err := r.Frame(off); !errors.Is(err, ErrNoFrame) {
			t.Errorf("frame at %d: %v", off, err)
		}
	}
	if _, err := r.Block(&Frame{Pos: Pos{Segment: 2}, Blocks: make([]BlockInfo, 1)}, 0, nil); err == nil {
		t.Error("a block of another segment's frame was read")
	}
}

// TestForgedFrame has a client's record hold a whole frame, where a search for
// frames looks: it never verifies.
func TestForgedFrame(t *testing.T) {
	fs := disk.NewMem()
	j := newJournal(t, testOptions(fs))
	w := appendSync(t, j, rawDraft("victim", 100))
	f, err := fs.Open("v/0000000000000001.wal", false)
	if err != nil {
		t.Fatal(err)
	}
	forged := make([]byte, 3*4096-128)
	for _, at := range []int{4096 - 128, 2*4096 - 128} { // on boundaries behind the frame's header
		if _, err := f.ReadAt(forged[at:at+4096-128], w.Ref.Pos.Offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d := &Draft{Kind: KindCommands, Blocks: []Block{{RawSize: uint32(len(forged)), Checksum: checksum(forged), Stored: forged}}}
	appendSync(t, j, d)
	var seen []uint64
	r := mustReader(t, j, 1)
	if err := r.Lookahead(0, func(h Header, off int64) bool { seen = append(seen, h.Sequence); return true }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0] != 1 || seen[1] != 2 {
		t.Errorf("found frames %d", seen)
	}
	var first []uint64
	if err := r.Lookahead(0, func(h Header, off int64) bool { first = append(first, h.Sequence); return false }); err != nil || len(first) != 1 {
		t.Errorf("told to stop after one: %d, %v", first, err)
	}
}

// TestReleasedUnderReaders recycles a segment under Readers that never close:
// after limits.PinLimit they get ErrReleased, or what was there before, and
// never anything else. One of them is another process's.
func TestReleasedUnderReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := disk.NewMem()
		o := testOptions(fsys)
		o.Spares = 2 // so that what is released becomes a spare, and is used
		j := newJournal(t, o)
		for n := range 9 {
			appendSync(t, j, rawDraft("old", 10_000+n))
		}
		o.ReadOnly = true
		other := mustOpen(t, o)
		readers := []*Reader{mustReader(t, j, 1), mustReader(t, other, 1)}
		var frames []*Frame
		for _, r := range readers {
			f, err := r.Frame(4096)
			if err != nil {
				t.Fatal(err)
			}
			r.window = nil // read again, not from memory
			frames = append(frames, f)
		}
		if err := j.Release(j.Below(3)); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Reader(1); !errors.Is(err, ErrReleased) {
			t.Errorf("a released segment opens: %v", err)
		}
		if _, err := j.Header(1); !errors.Is(err, ErrReleased) {
			t.Errorf("a released segment has a header: %v", err)
		}
		if _, err := j.Header(99); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("segment 99: %v", err)
		}
		for i, r := range readers {
			if _, err := r.Block(frames[i], 0, nil); err != nil {
				t.Errorf("reader %d, while it pins: %v", i, err)
			}
		}
		if _, err := fsys.Open("v/0000000000000001.wal", false); err != nil {
			t.Errorf("a pinned segment went: %v", err)
		}
		<-time.After(limits.PinLimit)
		synctest.Wait()
		if _, err := fsys.Open("v/0000000000000001.wal", false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a segment is pinned for ever: %v", err)
		}
		for n := range 40 { // every spare begins another life
			appendSync(t, j, rawDraft("new", 1, 11_000+n))
		}
		for i, r := range readers {
			r.window = nil
			if _, err := r.Frame(4096); !errors.Is(err, ErrReleased) {
				t.Errorf("reader %d of a recycled segment, frame: %v", i, err)
			}
			if _, err := r.Block(frames[i], 0, nil); !errors.Is(err, ErrReleased) {
				t.Errorf("reader %d of a recycled segment, block: %v", i, err)
			}
			if _, err := r.Head(4096); !errors.Is(err, ErrReleased) {
				t.Errorf("reader %d of a recycled segment, head: %v", i, err)
			}
			if _, err := r.Directory(4096, frames[i].Header); !errors.Is(err, ErrReleased) {
				t.Errorf("reader %d of a recycled segment, directory: %v", i, err)
			}
			if err := r.Lookahead(0, func(Header, int64) bool { t.Error("found a frame"); return true }); !errors.Is(err, ErrReleased) {
				t.Errorf("reader %d of a recycled segment, lookahead: %v", i, err)
			}
		}
		if _, err := other.Reader(2); !errors.Is(err, ErrReleased) {
			t.Errorf("the other process opens what is gone: %v", err)
		}
	})
}

// TestHeadAndDirectory: a frame's header and its directory, read apart, are what Frame
// returns, and damage in either is told as Frame tells it.
func TestHeadAndDirectory(t *testing.T) {
	fsys := disk.NewMem()
	j := newJournal(t, testOptions(fsys))
	for n := range 5 {
		appendSync(t, j, rawDraft("frame", 1, 3_000*(n+1)))
	}
	r := mustReader(t, j, 1)
	var offs []int64
	for off := int64(limits.SegmentHeaderSize); len(offs) < 5; {
		f, err := r.Frame(off)
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.Head(off)
		if err != nil || h != f.Header {
			t.Fatalf("header at %d: %+v, %v; want %+v", off, h, err, f.Header)
		}
		if got, err := r.Directory(off, h); err != nil || !reflect.DeepEqual(got, f) {
			t.Fatalf("directory at %d: %+v, %v; want %+v", off, got, err, f)
		}
		offs = append(offs, off)
		off += f.Header.Size()
	}
	h, err := r.Head(offs[3])
	if err != nil {
		t.Fatal(err)
	}
	file, err := fsys.Open("v/0000000000000001.wal", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{offs[2] + 20, h.directory(offs[3]) + 3} {
		if _, err := file.WriteAt([]byte{0xee}, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	var bad *CorruptError
	if _, err := r.Head(offs[2]); !errors.Is(err, ErrNoFrame) || !errors.As(err, &bad) || bad.Pos.Offset != offs[2] {
		t.Errorf("a header that does not verify: %v", err)
	}
	if f, err := r.Directory(offs[3], h); !errors.Is(err, ErrBadDirectory) || !errors.As(err, &bad) || bad.Pos.Offset != offs[3] || f == nil {
		t.Errorf("a directory that does not verify: %v", err)
	}
}

// TestReleasedUnderItsHeader releases a segment when its header is about to be read: it is
// ErrReleased, and neither a file that is missing nor damage.
func TestReleasedUnderItsHeader(t *testing.T) {
	for name, when := range map[string]disk.OpKind{"opened": disk.OpOpen, "read": disk.OpRead} {
		t.Run(name, func(t *testing.T) {
			faulty := disk.NewFaulty(disk.NewMem())
			j := journalOf(t, testOptions(faulty), 4)
			j.mu.Lock()
			delete(j.headers, 2) // as behind a restart, when nobody has asked for it yet
			j.mu.Unlock()
			var begun atomic.Bool
			faulty.Inject(disk.Fault{Kinds: []disk.OpKind{when}, Only: func(op disk.Op) bool {
				if op.Name == segmentName(2) && begun.CompareAndSwap(false, true) {
					mustRelease(t, j, 2)
				}
				return false
			}})
			if _, err := j.Reader(2); !errors.Is(err, ErrReleased) {
				t.Errorf("a segment that is released when its header is %s: %v", name, err)
			}
		})
	}
}
