package replay

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A volume is a journal on a disk in memory, and what was asked of it.
type volume struct {
	t    testing.TB
	fs   *disk.Mem
	seed uint64
	j    *segment.Journal

	// before, if set when the journal is opened, is called before each of its
	// operations on the disk, by any goroutine.
	before func(disk.Op)
}

// options are the same in every run, but for what is random.
func (v *volume) options() segment.Options {
	v.seed++
	var key [32]byte
	key[0], key[1] = byte(v.seed), byte(v.seed>>8)
	fs := disk.NewFaulty(v.fs)
	if before := v.before; before != nil {
		fs.Before(func(op disk.Op) error { before(op); return nil })
	}
	return segment.Options{
		FS:          fs,
		Dir:         "v",
		SegmentSize: limits.MinSegmentSize,
		PrepareRate: -1,
		Rand:        rand.NewChaCha8(key),
		Seal:        func(segment.ID, int) []byte { return []byte("index") },
		Now:         func() int64 { return 1_700_000_000_000_000_000 },
	}
}

// newVolume creates a volume. It is not open yet.
func newVolume(t testing.TB, seed uint64) *volume {
	t.Helper()
	v := &volume{t: t, fs: disk.NewMem(), seed: seed}
	must(t, segment.Create(v.options()))
	t.Cleanup(v.close)
	return v
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens the journal, without resuming it.
func (v *volume) open() {
	v.t.Helper()
	v.close()
	j, err := segment.Open(v.options())
	must(v.t, err)
	v.j = j
}

func (v *volume) close() {
	if v.j != nil {
		if err := v.j.Close(); err != nil {
			v.t.Error(err)
		}
		v.j = nil
	}
}

// crash replaces the volume by what a power cut leaves of it.
func (v *volume) crash(rng *rand.Rand, survive float64) {
	clone := v.fs.CrashClone(rng, survive)
	v.close()
	v.fs = clone
}

// clone returns the volume as a power cut could leave it; v goes on.
func (v *volume) clone(rng *rand.Rand, survive float64) *volume {
	c := &volume{t: v.t, fs: v.fs.CrashClone(rng, survive), seed: v.seed + 1000}
	v.t.Cleanup(c.close)
	return c
}

// recover opens the journal, recovers and, if it may, resumes it.
func (v *volume) recover() (*Recovery, *history) {
	v.t.Helper()
	v.open()
	rec, h := v.look()
	if !rec.ReadOnly {
		refs, err := v.j.Resume(rec.Resume)
		must(v.t, err)
		h.resumed(v.t, rec, refs)
	}
	return rec, h
}

// look recovers without resuming.
func (v *volume) look() (*Recovery, *history) {
	v.t.Helper()
	h := &history{}
	rec, err := Recover(v.j, h)
	must(v.t, err)
	return rec, h
}

// append appends a frame of the kind, whose payload is the text, and of size
// bytes of blocks.
func (v *volume) append(kind segment.Kind, text string, size int) segment.Written {
	v.t.Helper()
	d := &segment.Draft{Kind: kind, Time: 1_700_000_000_000_000_000, Meta: []byte(text)}
	for n := size; n > 0; n -= 6000 {
		d.Blocks = append(d.Blocks, block(len(d.Blocks), text, min(n, 6000)))
	}
	w, err := v.j.Append(d)
	must(v.t, err)
	return w
}

// sync makes what was appended durable.
func (v *volume) sync() {
	v.t.Helper()
	must(v.t, v.j.Sync())
}

func block(i int, text string, size int) segment.Block {
	raw := raw(i, text, size)
	c := codec.Codec(i % 3)
	stored := c.Compress(nil, raw)
	return segment.Block{
		Codec: c, RawSize: uint32(len(raw)), Stored: stored,
		Checksum: crc32.Checksum(stored, crc32.MakeTable(crc32.Castagnoli)),
	}
}

// raw returns bytes that do not compress much and tell what they are of.
func raw(i int, text string, size int) []byte {
	b := make([]byte, size)
	rng := rand.New(rand.NewPCG(uint64(i), uint64(crc32.ChecksumIEEE([]byte(text)))))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	copy(b, text)
	return b
}

// flip changes bytes of a segment's file.
func (v *volume) flip(pos segment.Pos, bytes ...byte) {
	v.t.Helper()
	f, err := v.fs.Open("v/"+fileName(pos.Segment), true)
	must(v.t, err)
	b := make([]byte, max(len(bytes), 1))
	_, err = f.ReadAt(b, pos.Offset)
	must(v.t, err)
	if len(bytes) == 0 {
		b[0] ^= 0x40
	} else {
		copy(b, bytes)
	}
	_, err = f.WriteAt(b, pos.Offset)
	must(v.t, err)
	must(v.t, f.Sync())
	must(v.t, f.Close())
}

// cut ends a segment's file at pos.
func (v *volume) cut(pos segment.Pos) {
	v.t.Helper()
	f, err := v.fs.Open("v/"+fileName(pos.Segment), true)
	must(v.t, err)
	must(v.t, f.Truncate(pos.Offset))
	must(v.t, f.Sync())
	must(v.t, f.Close())
}

// A history is a Handler that keeps all it is given. Frames of kind snapshot
// make up a snapshot as follows: the Meta "begin" and anything behind it, any
// number of others, and "end". When it is told to begin from a snapshot, it
// wants the first one whole.
type history struct {
	from     segment.FrameRef
	snapshot bool
	scans    int
	frames   []segment.Frame
	kept     []string // texts of commands
	begun    []string // texts of the first frames of snapshots
	complete bool
}

func (h *history) Begin(from segment.FrameRef, fromSnapshot bool) {
	*h = history{from: from, snapshot: fromSnapshot, scans: h.scans + 1}
}

func (h *history) Frame(f *segment.Frame, open func(int) ([]byte, error)) error {
	h.frames = append(h.frames, *f)
	text := string(f.Meta)
	switch f.Header.Kind {
	case segment.KindCommands:
		h.kept = append(h.kept, text)
	case segment.KindSnapshot:
		if strings.HasPrefix(text, "begin") {
			h.begun = append(h.begun, text)
		}
		if !h.snapshot || len(h.begun) > 1 {
			return nil
		}
		for i := range f.Blocks {
			b, err := open(i)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrNoState, err)
			}
			if !bytes.Equal(b, raw(i, text, len(b))) {
				return fmt.Errorf("frame %d: block %d is another's", f.Header.Sequence, i)
			}
		}
		h.complete = h.complete || len(h.begun) == 1 && text == "end"
	}
	return nil
}

func (h *history) End() error {
	if h.snapshot && !h.complete {
		return ErrNoState
	}
	return nil
}

// resumed checks that rewritten frames lie where the handler was told that they would.
func (h *history) resumed(t testing.TB, rec *Recovery, refs []segment.FrameRef) {
	t.Helper()
	if len(refs) != len(rec.Resume.Rewrite) {
		t.Fatalf("%d references for %d rewritten frames", len(refs), len(rec.Resume.Rewrite))
	}
	if len(refs) == 1 && rec.Resume.Rewrite[0].Kind == segment.KindPromise {
		return
	}
	for i, f := range h.frames[len(h.frames)-len(refs):] {
		if f.Pos != refs[i].Pos || f.Header.Sequence != refs[i].Sequence {
			t.Errorf("frame %d at %s was told to the handler as %d at %s",
				refs[i].Sequence, refs[i].Pos, f.Header.Sequence, f.Pos)
		}
	}
}
