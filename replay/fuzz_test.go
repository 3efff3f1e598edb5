package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// FuzzRecover changes bytes of a small volume of three segments. Whatever they
// are, recovery and a walk end without a panic, find no frame that was not
// written, and do not lose one silently that a header which is left promises.
//
// The input is a run of changes: segment (1 byte), a 64-byte unit of its file
// (2), an offset in that (1), a length (1), and what is added to each byte (1).
// A length of 0 cuts the file off.
func FuzzRecover(f *testing.F) {
	base := newVolume(f, 7)
	base.recover()
	for i := range 4 {
		base.append(segment.KindCommands, fmt.Sprintf("small %d", i), 100*i)
		base.append(segment.KindCommands, fmt.Sprintf("large %d", i), 9000)
		base.sync()
		base.append(segment.KindPromise, "", 0)
	}
	base.crash(nil, 1)
	base.recover() // and so a segment that has a cut in the middle of the one before
	for i := range 3 {
		base.append(segment.KindCommands, fmt.Sprintf("late %d", i), 100)
		base.sync()
	}
	base.append(segment.KindCommands, "last", 7000)
	base.close()
	base.open()
	var written []*segment.Frame
	if _, err := Walk(base.j, WalkOptions{}, func(fr *segment.Frame, _ []error) error {
		written = append(written, fr)
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	if newest := written[len(written)-1].Pos.Segment; newest != 3 {
		f.Fatalf("the volume has %d segments", newest)
	}

	at := func(fr *segment.Frame, off int64, n, add byte) []byte {
		off += fr.Pos.Offset
		b := []byte{byte(fr.Pos.Segment)}
		b = binary.LittleEndian.AppendUint16(b, uint16(off/64))
		return append(b, byte(off%64), n, add)
	}
	f.Add([]byte{})
	for _, fr := range written {
		f.Add(at(fr, 0, 255, 1))                                                  // header
		f.Add(at(fr, limits.FrameHeaderSize+int64(fr.Header.BlocksSize), 1, 1))   // directory
		f.Add(at(fr, limits.FrameHeaderSize, 1, 0x80))                            // a block, or the directory
		f.Add(append(at(fr, 0, 0, 0), at(written[0], 0, 1, 1)...))                // the end, and the beginning
		f.Add(append(at(fr, 64, 1, 4), at(written[len(written)-1], 64, 1, 4)...)) // two headers
		f.Add(append(at(fr, 0, 0, 0), byte(fr.Pos.Segment+1), 0, 0, 40, 1, 1))    // the end, and the next header
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		if len(changes) > 6*64 {
			return
		}
		v := &volume{t: t, fs: base.fs.CrashClone(nil, 1), seed: 9}
		defer v.close()
		v.mutate(changes)
		v.open()

		h := &history{}
		rec, err := Recover(v.j, h)
		must(t, err)
		last := uint64(0)
		for i, fr := range h.frames {
			if want := fr.Header.Sequence; want != last+1 {
				t.Fatalf("frame %d follows frame %d", want, last)
			}
			last = fr.Header.Sequence
			rewritten := fr.Header.Checksum == 0 // and so its sequence may be another
			if !rewritten && !same(&fr, written[i]) ||
				!slices.ContainsFunc(written[i:], func(w *segment.Frame) bool { return same(&fr, w) }) {
				t.Fatalf("frame %d was never written: %+v", last, fr)
			}
		}
		promised := v.promised(written)
		if rec.Verdict != VerdictDamaged && rec.Last < promised {
			t.Errorf("%s, %s: frames up to %d, where %d was promised", rec.Verdict, rec.Case, rec.Last, promised)
		}

		walked := 0
		found, err := Walk(v.j, WalkOptions{}, func(fr *segment.Frame, _ []error) error {
			walked++
			if !slices.ContainsFunc(written, func(w *segment.Frame) bool { return fr.Pos == w.Pos && same(fr, w) }) {
				t.Errorf("walk: frame %d was never written: %+v", fr.Header.Sequence, fr)
			}
			return nil
		})
		must(t, err)
		if rec.ReadOnly && !found.ReadOnly || found.Verdict == VerdictClean && walked != len(written) && rec.Verdict != VerdictClean {
			t.Errorf("recovery says %s, %s, a walk %s, %s", rec.Verdict, rec.Case, found.Verdict, found.Case)
		}

		if !rec.ReadOnly {
			_, err := v.j.Resume(rec.Resume)
			must(t, err)
			again, h2 := v.look()
			if again.Verdict != VerdictClean && len(rec.Damage) == 0 || !slices.Equal(h.kept, h2.kept) {
				t.Errorf("%s, %s with %q, then %s, %s with %q", rec.Verdict, rec.Case, h.kept, again.Verdict, again.Case, h2.kept)
			}
		}
	})
}

// same compares a frame with one that was written. A seal may have lost its
// index, which is a cache; the frame itself is where it was.
func same(f, w *segment.Frame) bool {
	if f.Header.Kind == segment.KindSeal && len(f.Meta) == 0 && f.Pos == w.Pos {
		return f.Header == w.Header
	}
	return f.Header.Kind == w.Header.Kind && string(f.Meta) == string(w.Meta) && slices.Equal(f.Blocks, w.Blocks)
}

// mutate changes the files of the volume.
func (v *volume) mutate(changes []byte) {
	for ; len(changes) >= 6; changes = changes[6:] {
		id := segment.ID(changes[0]%3) + 1
		off := int64(binary.LittleEndian.Uint16(changes[1:]))*64 + int64(changes[3]%64)
		file, err := v.fs.Open("v/"+fileName(id), true)
		must(v.t, err)
		size, err := file.Size()
		must(v.t, err)
		b := make([]byte, changes[4])
		switch {
		case off+int64(len(b)) > size:
		case len(b) == 0:
			must(v.t, file.Truncate(off))
		default:
			_, err = file.ReadAt(b, off)
			must(v.t, err)
			for i := range b {
				b[i] += changes[5]
			}
			_, err = file.WriteAt(b, off)
			must(v.t, err)
		}
		must(v.t, file.Close())
	}
}

// promised returns the highest sequence that a header which still verifies
// promises, of a frame that is not dead. It knows where they are, and so does
// without any of the scan's reasoning.
func (v *volume) promised(written []*segment.Frame) uint64 {
	var promised uint64
	for _, w := range written {
		r, err := v.j.Reader(w.Pos.Segment)
		if errors.Is(err, segment.ErrBadHeader) {
			continue
		}
		must(v.t, err)
		if f, _ := r.Frame(w.Pos.Offset); f != nil && f.Header == w.Header {
			promised = max(promised, w.Header.Promise)
		}
		must(v.t, r.Close())
	}
	return promised
}
