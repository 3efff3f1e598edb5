package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// flips calls try with each bit of b flipped in turn.
func flips(b []byte, try func(bit int)) {
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		try(bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
}

// TestEveryFlippedBitIsSeen flips each bit of each structure: a flip in the
// version must not pass for a newer version either.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	v := sampleVolume().encode()
	flips(v, func(bit int) {
		if _, err := decodeVolume(v); !errors.Is(err, ErrBadVolumeFile) {
			t.Errorf("VOLUME, bit %d: %v", bit, err)
		}
	})

	seg := make([]byte, limits.SegmentHeaderSize)
	sampleSegment().encode(seg)
	flips(seg, func(bit int) {
		if _, err := DecodeSegmentHeader(seg); !errors.Is(err, ErrBadHeader) {
			t.Errorf("segment header, bit %d: %v", bit, err)
		}
	})

	gap := sampleGap().encode()
	flips(gap, func(bit int) {
		if _, err := decodeGap(gap); !errors.Is(err, ErrBadHeader) {
			t.Errorf("gap, bit %d: %v", bit, err)
		}
	})

	h, dir := sampleFrame()
	frame := make([]byte, limits.FrameHeaderSize)
	l := sampleSegment().life()
	h.encode(frame, l, 8192)
	flips(frame, func(bit int) {
		if _, err := decodeFrameHeader(frame, l, 8192); !errors.Is(err, ErrNoFrame) {
			t.Errorf("frame header, bit %d: %v", bit, err)
		}
	})
	flips(dir, func(bit int) {
		if _, _, err := decodeDirectory(dir, h); !errors.Is(err, ErrBadDirectory) {
			t.Errorf("directory, bit %d: %v", bit, err)
		}
	})
}

// TestIdentity flips each bit of what a frame header is bound to and does not
// contain: volume, segment, salt, and place.
func TestIdentity(t *testing.T) {
	h, _ := sampleFrame()
	frame := make([]byte, limits.FrameHeaderSize)
	seg := sampleSegment()
	h.encode(frame, seg.life(), 8192)
	if got, err := decodeFrameHeader(frame, seg.life(), 8192); err != nil || got != *h {
		t.Fatalf("the frame itself: %+v, %v", got, err)
	}
	try := func(what string, off int64) func(bit int) {
		return func(bit int) {
			if _, err := decodeFrameHeader(frame, seg.life(), off); !errors.Is(err, ErrNoFrame) {
				t.Errorf("another %s (bit %d): %v", what, bit, err)
			}
		}
	}
	flips(seg.Volume[:], try("volume", 8192))
	flips(seg.Salt[:], try("salt", 8192))
	id := binary.LittleEndian.AppendUint64(nil, uint64(seg.ID))
	flips(id, func(bit int) {
		other := *seg
		other.ID = ID(binary.LittleEndian.Uint64(id))
		if _, err := decodeFrameHeader(frame, other.life(), 8192); !errors.Is(err, ErrNoFrame) {
			t.Errorf("another segment (bit %d): %v", bit, err)
		}
	})
	for bit := range 63 {
		try("place", 8192^1<<bit)(bit)
	}
}

// resealGap sets the checksums of a gap that a test has changed, also of its header.
func resealGap(b []byte) {
	header, end := b[:limits.SegmentHeaderSize], b[limits.SegmentHeaderSize:]
	binary.LittleEndian.PutUint32(header[segChecksum:], checksum(header[:segChecksum]))
	binary.LittleEndian.PutUint32(end[gapHeaderSum:], checksum(header[:segChecksum]))
	binary.LittleEndian.PutUint32(end[gapChecksum:], checksum(end[:gapChecksum]))
}

// TestGapBounds feeds gaps whose checksums are right and whose content must not be
// believed.
func TestGapBounds(t *testing.T) {
	put32, put64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	for _, tc := range []struct {
		name   string
		change func(header, end []byte)
		want   error
	}{
		{"as it is", func(_, _ []byte) {}, nil},
		{"of one segment", func(_, end []byte) { put64(end[gapTo:], 42) }, nil},
		{"newer version", func(_, end []byte) { put32(end[gapVersion:], FormatVersion+1) }, ErrNewerVersion},
		{"version 0", func(_, end []byte) { put32(end[gapVersion:], 0) }, ErrBadHeader},
		{"another magic number", func(_, end []byte) { end[gapMagic] ^= 1 }, ErrBadHeader},
		{"reserved", func(_, end []byte) { end[gapReserved0] = 1 }, ErrBadHeader},
		{"reserved at the end", func(_, end []byte) { end[gapChecksum-1] = 1 }, ErrBadHeader},
		{"ends before it begins", func(_, end []byte) { put64(end[gapTo:], 41) }, ErrBadHeader},
		{"begins elsewhere than its header", func(_, end []byte) { put64(end[gapFrom:], 43) }, ErrBadHeader},
		{"no header", func(header, _ []byte) { clear(header) }, ErrBadHeader},
		{"newer header", func(header, _ []byte) { put32(header[segVersion:], FormatVersion+1) }, ErrNewerVersion},
	} {
		b := sampleGap().encode()
		tc.change(b[:limits.SegmentHeaderSize], b[limits.SegmentHeaderSize:])
		resealGap(b)
		if _, err := decodeGap(b); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	// A header that verifies, and not the one that the gap was written with.
	b := sampleGap().encode()
	other := sampleSegment()
	other.Created++
	other.encode(b)
	if _, err := decodeGap(b); !errors.Is(err, ErrBadHeader) {
		t.Errorf("another header: %v", err)
	}
	for _, b := range [][]byte{nil, make([]byte, gapFileSize-1), make([]byte, gapFileSize), append(sampleGap().encode(), 0)} {
		if _, err := decodeGap(b); !errors.Is(err, ErrBadHeader) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

// reseal sets the checksum of a frame header that a test has changed.
func reseal(b []byte, l life, off int64) {
	binary.LittleEndian.PutUint32(b[frmChecksum:], l.sum(off, b))
}

// TestFrameHeaderBounds feeds headers whose checksum is right and whose content
// must not be believed.
func TestFrameHeaderBounds(t *testing.T) {
	seg := sampleSegment()
	put16, put32, put64 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	for _, tc := range []struct {
		name   string
		change func(b []byte)
		want   error
	}{
		{"as it is", func([]byte) {}, nil},
		{"newer version", func(b []byte) { put16(b[frmVersion:], 2) }, ErrNewerVersion},
		{"version 0", func(b []byte) { put16(b[frmVersion:], 0) }, ErrNoFrame},
		{"kind 0", func(b []byte) { b[frmKind] = 0 }, ErrNoFrame},
		{"unknown kind", func(b []byte) { b[frmKind] = 5 }, ErrNewerVersion},
		{"flag", func(b []byte) { b[frmFlags] = 1 }, ErrNewerVersion},
		{"reserved", func(b []byte) { b[frmChecksum-1] = 1 }, ErrNewerVersion},
		{"sequence 0", func(b []byte) { put64(b[frmSequence:], 0); put64(b[frmPromise:], 0) }, ErrNoFrame},
		{"promises itself", func(b []byte) { put64(b[frmPromise:], 1001) }, ErrNoFrame},
		{"directory over the limit", func(b []byte) { put32(b[frmDirectorySize:], limits.MaxDirectorySize+1) }, ErrNoFrame},
		{"directory of 4 GiB", func(b []byte) { put32(b[frmDirectorySize:], 1<<32-1) }, ErrNoFrame},
		{"table longer than directory", func(b []byte) { put32(b[frmBlockCount:], 4096) }, ErrNoFrame},
		{"table length overflows", func(b []byte) { put32(b[frmBlockCount:], 1<<28) }, ErrNoFrame},
		{"bytes without a block", func(b []byte) { put32(b[frmBlockCount:], 0) }, ErrNoFrame},
		{"beyond the segment", func(b []byte) { put32(b[frmBlocksSize:], 1<<20) }, ErrNoFrame},
		{"blocks of 4 GiB", func(b []byte) { put32(b[frmBlocksSize:], 1<<32-1) }, ErrNoFrame},
	} {
		h, _ := sampleFrame()
		b := make([]byte, limits.FrameHeaderSize)
		h.encode(b, seg.life(), 8192)
		tc.change(b)
		reseal(b, seg.life(), 8192)
		if _, err := decodeFrameHeader(b, seg.life(), 8192); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	h, _ := sampleFrame()
	b := make([]byte, limits.FrameHeaderSize)
	wide := life{prefix: seg.life().prefix, size: limits.MaxSegmentSize}
	h.BlocksSize = limits.MaxFrameSize
	h.encode(b, wide, 8192)
	if _, err := decodeFrameHeader(b, wide, 8192); !errors.Is(err, ErrNoFrame) {
		t.Errorf("a frame over the limit in a segment that takes it: %v", err)
	}
	for _, b := range [][]byte{nil, make([]byte, limits.FrameHeaderSize-1), make([]byte, limits.FrameHeaderSize)} {
		if _, err := decodeFrameHeader(b, seg.life(), 8192); !errors.Is(err, ErrNoFrame) {
			t.Errorf("%d zeroes: %v", len(b), err)
		}
	}
}

// TestDirectoryBounds does the same to directories.
func TestDirectoryBounds(t *testing.T) {
	put32 := binary.LittleEndian.PutUint32
	for _, tc := range []struct {
		name   string
		change func(dir []byte, h *Header)
		want   error
	}{
		{"as it is", func([]byte, *Header) {}, nil},
		{"newer block", func(dir []byte, _ *Header) { dir[blkVersion] = 2 }, ErrNewerVersion},
		{"block version 0", func(dir []byte, _ *Header) { dir[blkVersion] = 0 }, ErrBadDirectory},
		{"key ID", func(dir []byte, _ *Header) { dir[blkKeyID+1] = 1 }, ErrBadDirectory},
		{"unknown codec", func(dir []byte, _ *Header) { dir[blkCodec] = 3 }, ErrBadDirectory},
		{"stored is not raw", func(dir []byte, _ *Header) { dir[blkCodec] = byte(codec.None) }, ErrBadDirectory},
		{"raw over the limit", func(dir []byte, h *Header) {
			put32(dir[blkRawSize:], limits.MaxBlockRawSize+1)
			h.BlocksRawSize = 100 + limits.MaxBlockRawSize + 1
		}, ErrBadDirectory},
		{"stored differs from header", func(_ []byte, h *Header) { h.BlocksSize++ }, ErrBadDirectory},
		{"raw differs from header", func(_ []byte, h *Header) { h.BlocksRawSize++ }, ErrBadDirectory},
	} {
		h, dir := sampleFrame()
		tc.change(dir, h)
		h.DirectorySum = checksum(dir)
		if _, _, err := decodeDirectory(dir, h); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// TestSegmentHeaderBounds does the same to segment headers, TestVolumeBounds
// to VOLUME files.
func TestSegmentHeaderBounds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(h *SegmentHeader)
		want   error
	}{
		{"as it is", func(*SegmentHeader) {}, nil},
		{"newer version", func(h *SegmentHeader) { h.Version = 7 }, ErrNewerVersion},
		{"version 0", func(h *SegmentHeader) { h.Version = 0 }, ErrBadHeader},
		{"ID 0", func(h *SegmentHeader) { h.ID = 0 }, ErrBadHeader},
		{"size 0", func(h *SegmentHeader) { h.Size = 0 }, ErrBadHeader},
		{"size not whole blocks", func(h *SegmentHeader) { h.Size++ }, ErrBadHeader},
		{"size over the limit", func(h *SegmentHeader) { h.Size = limits.MaxSegmentSize + limits.BlockSize }, ErrBadHeader},
		{"negative size", func(h *SegmentHeader) { h.Size = -limits.BlockSize }, ErrBadHeader},
		{"cut elsewhere", func(h *SegmentHeader) { h.Cut.End.Segment-- }, ErrBadHeader},
		{"negative cut", func(h *SegmentHeader) { h.Cut.End.Offset = -1 }, ErrBadHeader},
	} {
		h := sampleSegment()
		tc.change(h)
		b := make([]byte, limits.SegmentHeaderSize)
		h.encode(b)
		if _, err := DecodeSegmentHeader(b); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	for _, at := range []int{segReserved0, segReserved1, segReserved2, segChecksum - 1, segSnapshot + refReserved, segOlder + refReserved} {
		b := make([]byte, limits.SegmentHeaderSize)
		sampleSegment().encode(b)
		b[at] = 1
		binary.LittleEndian.PutUint32(b[segChecksum:], checksum(b[:segChecksum]))
		if _, err := DecodeSegmentHeader(b); !errors.Is(err, ErrBadHeader) {
			t.Errorf("reserved byte %d: %v", at, err)
		}
	}
	if _, err := DecodeSegmentHeader(nil); !errors.Is(err, ErrBadHeader) {
		t.Errorf("nothing: %v", err)
	}
}

func TestVolumeBounds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(v *volumeFile)
		want   error
	}{
		{"as it is", func(*volumeFile) {}, nil},
		{"newer version", func(v *volumeFile) { v.version = 3 }, ErrNewerVersion},
		{"version 0", func(v *volumeFile) { v.version = 0 }, ErrBadVolumeFile},
		{"segment size 0", func(v *volumeFile) { v.segmentSize = 0 }, ErrBadVolumeFile},
		{"segment size too large", func(v *volumeFile) { v.segmentSize = 2 * limits.MaxSegmentSize }, ErrBadVolumeFile},
	} {
		v := sampleVolume()
		tc.change(v)
		if _, err := decodeVolume(v.encode()); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, volSize), append(sampleVolume().encode(), 0)} {
		if _, err := decodeVolume(b); !errors.Is(err, ErrBadVolumeFile) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

// TestNewerVersionIsNamed wants both numbers in the message: the one thing the
// reader of it can act on.
func TestNewerVersionIsNamed(t *testing.T) {
	v := sampleVolume()
	v.version = 3
	_, err := decodeVolume(v.encode())
	if err == nil || !strings.Contains(err.Error(), "format version 3") || !strings.Contains(err.Error(), "knows up to 1") {
		t.Errorf("%v", err)
	}
}

func TestDecompressBounds(t *testing.T) {
	raw := bytes.Repeat([]byte("walsvc "), 1000)
	for _, c := range []codec.Codec{codec.None, codec.S2, codec.Zstd} {
		stored := c.Compress(nil, raw)
		got, err := Decompress(c, stored, uint32(len(raw)), []byte("x"))
		if err != nil || string(got) != "x"+string(raw) {
			t.Errorf("%s: %d bytes, %v", c, len(got), err)
		}
		for _, size := range []uint32{0, uint32(len(raw)) - 1, uint32(len(raw)) + 1, limits.MaxBlockRawSize + 1, 1<<32 - 1} {
			if _, err := Decompress(c, stored, size, nil); !errors.Is(err, ErrBadBlock) {
				t.Errorf("%s as %d bytes: %v", c, size, err)
			}
		}
	}
	if _, err := Decompress(9, raw, uint32(len(raw)), nil); !errors.Is(err, ErrBadBlock) {
		t.Errorf("unknown codec: %v", err)
	}
}
