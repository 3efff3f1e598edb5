package segment

import (
	"bytes"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A spy remembers the last write to a segment.
type spy struct {
	disk.File
	from    *byte // where the bytes lay
	written []byte
}

func (s *spy) WriteAt(p []byte, off int64) (int, error) {
	s.from, s.written = &p[0], bytes.Clone(p)
	return s.File.WriteAt(p, off)
}

// imageOf puts d's blocks where a frame has them, in memory of size bytes that was
// used before.
func imageOf(d *Draft, size int) {
	memory := disk.AlignedBuffer(size)
	for i := range memory {
		memory[i] = 0xa5
	}
	image := memory[:limits.FrameHeaderSize]
	for i := range d.Blocks {
		at := len(image)
		image = append(image, d.Blocks[i].Stored...)
		d.Blocks[i].Stored = image[at:len(image):len(image)]
	}
	d.Image = image
}

// TestImage: a frame is written from the memory its blocks lie in if it can be, and
// what is on the disk is the same in any case.
func TestImage(t *testing.T) {
	const plenty = 64 << 10
	for _, tc := range []struct {
		name    string
		n       int // bytes of blocks
		image   func(d *Draft)
		written bool // from the image
	}{
		{"none", 25_000, func(*Draft) {}, false},
		{"in place", 25_000, func(d *Draft) { imageOf(d, plenty) }, true},
		{"just enough room", 25_000, func(d *Draft) { imageOf(d, int(sizeOf(d))) }, true},
		{"room for the blocks alone", 0, func(d *Draft) {
			*d = *rawDraft("behind the end of the image", 2*limits.BlockSize-limits.FrameHeaderSize-10)
			imageOf(d, 2*limits.BlockSize)
		}, false},
		{"no blocks", 0, func(d *Draft) { imageOf(d, plenty) }, true},
		{"a block elsewhere", 25_000, func(d *Draft) {
			imageOf(d, plenty)
			d.Blocks[1].Stored = bytes.Clone(d.Blocks[1].Stored)
		}, false},
		{"blocks in another order", 25_000, func(d *Draft) {
			imageOf(d, plenty)
			d.Blocks[0], d.Blocks[1] = d.Blocks[1], d.Blocks[0]
		}, false},
		{"a gap in front", 25_000, func(d *Draft) {
			imageOf(d, plenty)
			d.Blocks = d.Blocks[1:]
		}, false},
		{"an empty block between", 25_000, func(d *Draft) {
			d.Blocks = append(d.Blocks[:1:1], append([]Block{{Checksum: checksum(nil)}}, d.Blocks[1:]...)...)
			imageOf(d, plenty)
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := newJournal(t, testOptions(disk.NewMem()))
			before := testDraft(1, 9000)
			first := appendSync(t, j, before)
			d := testDraft(2, tc.n)
			tc.image(d)
			image := bytes.Clone(d.Image[:cap(d.Image)])
			s := &spy{File: j.tail.file}
			j.tail.file = s
			w := appendSync(t, j, d)
			j.tail.file = s.File
			if got := cap(d.Image) > 0 && s.from == &d.Image[:1][0]; got != tc.written {
				t.Errorf("written from the image: %v, want %v", got, tc.written)
			}
			if !tc.written && !bytes.Equal(image, d.Image[:cap(d.Image)]) {
				t.Error("an image that was not written has changed")
			}
			if n := int64(len(s.written)); n != w.Header.Size() {
				t.Errorf("%d bytes written, the frame has %d", n, w.Header.Size())
			}
			after := testDraft(3, 9000)
			third := appendSync(t, j, after)
			r := mustReader(t, j, first.Ref.Pos.Segment)
			for _, f := range []struct {
				at   Pos
				want *Draft
			}{{first.Ref.Pos, before}, {w.Ref.Pos, d}, {third.Ref.Pos, after}} {
				got, err := r.Frame(f.at.Offset)
				if err != nil {
					t.Fatal(err)
				}
				if err := sameFrame(r, got, f.want); err != nil {
					t.Error(err)
				}
			}
			if padding := s.written[limits.FrameHeaderSize+int(w.Header.BlocksSize+w.Header.DirectorySize):]; !zero(padding) {
				t.Error("what was in the memory before is on the disk behind the frame")
			}
		})
	}
}

func sizeOf(d *Draft) int64 {
	stored := int64(0)
	for i := range d.Blocks {
		stored += int64(len(d.Blocks[i].Stored))
	}
	return FrameSize(len(d.Meta), len(d.Blocks), stored)
}
