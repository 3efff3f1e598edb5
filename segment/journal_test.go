package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testOptions are for a small volume in dir "v" of fs, the same in every run.
func testOptions(fs disk.FS) Options {
	return Options{
		FS:          fs,
		Dir:         "v",
		SegmentSize: limits.MinSegmentSize,
		PrepareRate: -1,
		Rand:        rand.NewChaCha8([32]byte{1}),
		Now:         func() int64 { return 1_700_000_000_000_000_000 },
	}
}

// mustOpen opens and closes with the test.
func mustOpen(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// newJournal creates a volume, opens and resumes it.
func newJournal(t testing.TB, o Options) *Journal {
	t.Helper()
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, o)
	if _, err := j.Resume(Resume{}); err != nil {
		t.Fatal(err)
	}
	return j
}

// testDraft makes a frame of n raw block bytes that differ by sequence.
func testDraft(seq uint64, n int) *Draft {
	d := &Draft{Kind: KindCommands, Time: int64(seq), Meta: fmt.Appendf(nil, "meta %d", seq)}
	for n > 0 {
		raw := make([]byte, min(n, 10_000))
		for i := range raw {
			raw[i] = byte(seq) + byte(i/7)
		}
		c := codec.Codec(uint64(len(d.Blocks)) % 3)
		stored := c.Compress(nil, raw)
		d.Blocks = append(d.Blocks, Block{Codec: c, RawSize: uint32(len(raw)), Checksum: checksum(stored), Stored: stored})
		n -= len(raw)
	}
	return d
}

// sameFrame compares a frame as read with the draft it came from.
func sameFrame(r *Reader, f *Frame, d *Draft) error {
	if string(f.Meta) != string(d.Meta) || len(f.Blocks) != len(d.Blocks) || f.Header.Kind != d.Kind {
		return fmt.Errorf("frame at %s: %s with meta %q and %d blocks, want %s with %q and %d",
			f.Pos, f.Header.Kind, f.Meta, len(f.Blocks), d.Kind, d.Meta, len(d.Blocks))
	}
	for i := range f.Blocks {
		stored, err := r.Block(f, i, nil)
		if err != nil {
			return err
		}
		if string(stored) != string(d.Blocks[i].Stored) {
			return fmt.Errorf("frame at %s: block %d differs", f.Pos, i)
		}
		if _, err := Decompress(f.Blocks[i].Codec, stored, f.Blocks[i].RawSize, nil); err != nil {
			return err
		}
	}
	return nil
}

func appendSync(t testing.TB, j *Journal, d *Draft) Written {
	t.Helper()
	w, err := j.Append(d)
	if err == nil {
		err = j.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestAppendReadRoll appends over several segments and reads every frame back
// through the chain of headers.
func TestAppendReadRoll(t *testing.T) {
	j := newJournal(t, testOptions(disk.NewMem()))
	var drafts []*Draft
	rolls, last := 0, Written{}
	for seq := uint64(1); len(drafts) < 40; seq++ {
		d := testDraft(seq, int(seq)*700%30_000)
		before := j.Durable()
		w := appendSync(t, j, d)
		if w.Rolled {
			rolls++
			seq++
			before++
		}
		if w.Ref.Sequence != seq || w.Header.Promise != before || w.Header.Promise != seq-1 {
			t.Fatalf("frame %d promises %d, want %d and %d", w.Ref.Sequence, w.Header.Promise, seq, before)
		}
		if j.Durable() != seq {
			t.Fatalf("durable %d after frame %d", j.Durable(), seq)
		}
		drafts, last = append(drafts, d), w
	}
	if rolls < 3 {
		t.Fatalf("%d rolls", rolls)
	}

	seq, chain := uint64(0), uint32(0)
	for _, id := range j.Segments() {
		r, err := j.Reader(id)
		if err != nil {
			t.Fatal(err)
		}
		if cut := r.Header().Cut; cut.Sequence != seq || cut.Chain != chain {
			t.Fatalf("segment %s: cut %+v, want sequence %d chain %08x", id, cut, seq, chain)
		}
		for off := int64(limits.SegmentHeaderSize); ; {
			f, err := r.Frame(off)
			if errors.Is(err, ErrNoFrame) && seq == last.Header.Sequence {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Header.Sequence != seq+1 || f.Header.Chain != chain {
				t.Fatalf("frame at %s: sequence %d, chain %08x", f.Pos, f.Header.Sequence, f.Header.Chain)
			}
			seq, chain, off = f.Header.Sequence, f.Header.Checksum, f.End().Offset
			if f.Header.Kind == KindSeal {
				next, err := j.Header(id + 1)
				if err != nil || next.Cut.End != f.End() || next.Cut.Last != f.Pos {
					t.Fatalf("successor of %s: %+v, %v", id, next, err)
				}
				break
			}
			if err := sameFrame(r, f, drafts[0]); err != nil {
				t.Fatal(err)
			}
			drafts = drafts[1:]
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(drafts) != 0 {
		t.Fatalf("%d frames not read", len(drafts))
	}
}
