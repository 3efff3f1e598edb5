package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/allocs"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// The fuzz targets want of every decoder that it does not panic, that it takes
// memory in proportion to what there is and not to what that says, that its
// errors are those it promises, and that what it accepts encodes to the same
// bytes again. Where a checksum would keep all but the seeds out, the target
// sets it right and tries once more.

// slack is the memory that errors and results of no length to speak of take.
const slack = 16 << 10

// FuzzHeaders decodes what has a place of its own: the VOLUME file and a
// segment's header, of which the zeroes at the end may be left out.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte{})
	f.Add(sampleVolume().encode())
	largest := sampleVolume()
	largest.version, largest.segmentSize, largest.created = FormatVersion+1, limits.MaxSegmentSize, -1
	f.Add(largest.encode())
	b := make([]byte, limits.SegmentHeaderSize)
	sampleSegment().encode(b)
	f.Add(bytes.Clone(b[:segReserved2])) // all of it would take minutes to minimize
	first := sampleSegment()
	first.ID, first.Cut, first.Snapshot, first.OlderSnapshot = 1, Cut{}, FrameRef{}, FrameRef{}
	first.encode(b)
	f.Add(bytes.Clone(b[:segReserved2]))
	f.Fuzz(func(t *testing.T, b []byte) {
		volume := func(b []byte) {
			v, err := decodeVolume(b)
			switch {
			case err != nil && !errors.Is(err, ErrBadVolumeFile) && !errors.Is(err, ErrNewerVersion):
				t.Fatalf("an error of no kind: %v", err)
			case err == nil && !bytes.Equal(v.encode(), b):
				t.Fatalf("accepted %x, which encodes as %x", b, v.encode())
			}
		}
		header := func(b []byte) {
			h, err := DecodeSegmentHeader(b)
			if err != nil {
				if !errors.Is(err, ErrBadHeader) && !errors.Is(err, ErrNewerVersion) {
					t.Fatalf("an error of no kind: %v", err)
				}
				return
			}
			again := make([]byte, limits.SegmentHeaderSize)
			if h.encode(again); !bytes.Equal(again, b) {
				t.Fatalf("accepted %x, which encodes as %x", b, again)
			}
		}
		allocs.AtMost(t, slack, func() { volume(b); header(b) })
		if len(b) == volSize {
			b := bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[volChecksum:], checksum(b[:volChecksum]))
			volume(b)
		}
		if len(b) < limits.SegmentHeaderSize {
			whole := make([]byte, limits.SegmentHeaderSize)
			copy(whole, b)
			binary.LittleEndian.PutUint32(whole[segChecksum:], checksum(whole[:segChecksum]))
			header(whole)
		}
	})
}

// FuzzGap decodes the file of a gap, put together from what a segment's header and the
// gap's own block begin with: their zeroes at the end, and what all files have in common,
// are left out.
func FuzzGap(f *testing.F) {
	for _, g := range []*gapFile{
		sampleGap(),
		{Gap: Gap{From: 1, To: 1<<64 - 1}, header: &SegmentHeader{Version: FormatVersion, ID: 1}},
		{Gap: Gap{From: 42, To: 41}, header: sampleSegment()},
		{Gap: Gap{From: 43, To: 43}, header: sampleSegment()},
	} {
		b := g.encode()
		f.Add(bytes.Clone(b[:segReserved2]), bytes.Clone(b[limits.SegmentHeaderSize:][:gapReserved1]), uint16(gapFileSize))
	}
	newer := sampleGap().encode()[limits.SegmentHeaderSize:]
	newer[gapVersion]++
	f.Add([]byte{}, bytes.Clone(newer[:gapReserved1]), uint16(gapFileSize))
	f.Add([]byte{}, []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, header, end []byte, size uint16) {
		decode := func(b []byte) {
			g, err := decodeGap(b)
			if err != nil {
				if !errors.Is(err, ErrBadHeader) && !errors.Is(err, ErrNewerVersion) {
					t.Fatalf("an error of no kind: %v", err)
				}
				return
			}
			if g.To < g.From || g.header.ID != g.From {
				t.Fatalf("accepted a gap of segments %s with the header of %s", g, g.header.ID)
			}
			if again := g.encode(); !bytes.Equal(again, b) {
				t.Fatalf("accepted %x, which encodes as %x", b, again)
			}
		}
		b := make([]byte, gapFileSize)
		copy(b[:limits.SegmentHeaderSize], header)
		copy(b[limits.SegmentHeaderSize:], end)
		allocs.AtMost(t, 2*slack, func() { decode(b[:min(int(size), len(b))]) }) // encoded again, it is 8 KiB
		resealGap(b)
		decode(b)
	})
}

// FuzzFrameHeader decodes a frame's header, read at an offset of a segment of a
// size. Whatever passes may be believed: there are that many bytes in the
// segment, and no more than a frame may have.
func FuzzFrameHeader(f *testing.F) {
	h, _ := sampleFrame()
	seal := &Header{Version: 1, Kind: KindSeal, Sequence: 1<<64 - 1, Promise: 1<<64 - 2, Time: -1, DirectorySize: limits.MaxDirectorySize}
	l := sampleSegment().life()
	b := make([]byte, limits.FrameHeaderSize)
	for _, h := range []*Header{h, seal} {
		h.encode(b, l, 8192)
		f.Add(bytes.Clone(b), int64(8192), int64(limits.MinSegmentSize))
		f.Add(bytes.Clone(b), int64(8192), int64(limits.MaxSegmentSize))
	}
	f.Add([]byte{}, int64(-1), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, off, size int64) {
		l := life{prefix: l.prefix, size: size}
		decode := func(b []byte) {
			h, err := decodeFrameHeader(b, l, off)
			if err != nil {
				if !errors.Is(err, ErrNoFrame) && !errors.Is(err, ErrNewerVersion) {
					t.Fatalf("an error of no kind: %v", err)
				}
				return
			}
			if h.Size() > size-off || h.Size() > limits.MaxFrameSize || h.DirectorySize > limits.MaxDirectorySize ||
				int64(h.BlockCount)*blkSize > int64(h.DirectorySize) || h.BlockCount > limits.MaxBlocksPerFrame {
				t.Fatalf("accepted a frame of %d bytes at %d of %d: %+v", h.Size(), off, size, h)
			}
			again := make([]byte, limits.FrameHeaderSize)
			if h.encode(again, l, off); !bytes.Equal(again, b[:limits.FrameHeaderSize]) {
				t.Fatalf("accepted %x, which encodes as %x", b, again)
			}
		}
		allocs.AtMost(t, slack, func() { decode(b) })
		if len(b) >= limits.FrameHeaderSize {
			b = bytes.Clone(b)
			reseal(b, l, off)
			decode(b)
		}
	})
}

// FuzzDirectory takes a directory apart, with what the frame's header says of it.
func FuzzDirectory(f *testing.F) {
	h, dir := sampleFrame()
	f.Add(dir, h.BlockCount, h.BlocksSize, h.BlocksRawSize)
	f.Add([]byte("only meta"), uint32(0), uint32(0), uint32(0))
	many := make([]Block, 12)
	for i := range many {
		many[i] = Block{Codec: codec.S2, RawSize: limits.MaxBlockRawSize, Stored: make([]byte, i)}
	}
	f.Add(appendDirectory(nil, many, nil), uint32(12), uint32(11*6), uint32(12*limits.MaxBlockRawSize))
	f.Fuzz(func(t *testing.T, dir []byte, count, stored, raw uint32) {
		// What decodeFrameHeader lets pass.
		if count > limits.MaxBlocksPerFrame || uint32(len(dir)) < count*blkSize || len(dir) > limits.MaxDirectorySize {
			return
		}
		h := &Header{DirectorySize: uint32(len(dir)), DirectorySum: checksum(dir), BlockCount: count, BlocksSize: stored, BlocksRawSize: raw}
		var blocks []BlockInfo
		var meta []byte
		var err error
		allocs.AtMost(t, slack+4*uint64(len(dir)), func() { blocks, meta, err = decodeDirectory(dir, h) })
		if err != nil {
			if !errors.Is(err, ErrBadDirectory) && !errors.Is(err, ErrNewerVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		var again []byte
		at := int64(limits.FrameHeaderSize)
		for _, b := range blocks {
			if b.Offset != at {
				t.Fatalf("block at %d, want %d", b.Offset, at)
			}
			if b.RawSize > limits.MaxBlockRawSize {
				t.Fatalf("accepted a block that opens to %d bytes", b.RawSize)
			}
			at += int64(b.StoredSize)
			again = b.append(again)
		}
		if again = append(again, meta...); !bytes.Equal(again, dir) {
			t.Fatalf("accepted %x, which encodes as %x", dir, again)
		}
		if h.DirectorySum++; len(dir) > 0 {
			if _, _, err := decodeDirectory(dir, h); !errors.Is(err, ErrBadDirectory) {
				t.Fatalf("with another checksum: %v", err)
			}
		}
	})
}

// FuzzNames reads names of files, and positions as tools spell them.
func FuzzNames(f *testing.F) {
	for _, name := range []string{
		"000000000000002a.wal", "000000000000002A.wal", "2a.wal", "0000000000000000.wal", "spare-01arz3ndektsv4rrffq69g5fav.seg",
		"spare-81arz3ndektsv4rrffq69g5fav.seg", "x.seg", "VOLUME", "VOLUME.tmp", "000000000000002a/00001000", "000000000000002a/-1", "a.tmp.tmp",
		"000000000000002a.wal.tmp", "spare-01arz3ndektsv4rrffq69g5fav.seg.tmp", "spare-01arz3ndektsv4rrffq69g5fao.seg", "LOCK", "LOCK.tmp",
		"000000000000002a.gap", "000000000000002a.gap.tmp", "2a.gap", "0000000000000000.gap", "gap", ".gap",
		"walsvc.sock", "ffffffffffffffff/7fffffffffffffff", "000000000000002a/0000000001000", "00000000000000+a.wal", "0x0000000000002a.wal",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 512 {
			return // no directory has names so long
		}
		allocs.AtMost(t, slack+128*uint64(len(name)), func() { // errors quote it, some twice, bytes as \x00
			if id, err := ParseID(name); err == nil && id.String() != name {
				t.Fatalf("ID %q spells itself %q", name, id)
			}
			if pos, err := ParsePos(name); err == nil && (pos.String() != name || pos.Offset < 0) {
				t.Fatalf("position %q spells itself %q", name, pos)
			}
			_, _, _ = classify(name)
		})
		r, id, err := classify(name)
		if err != nil {
			if !errors.Is(err, ErrBadName) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		// What is removed at the next open must be ours beyond doubt.
		of := name
		if r == roleTmp {
			of = strings.TrimSuffix(name, tmpSuffix)
			was, wasID, err := classify(of)
			if err != nil || was != roleVolume && was != roleSegment && was != roleGap && was != roleSpare || wasID != id {
				t.Fatalf("%q is taken for unfinished work, and what it would be is none: %d, %v", name, was, err)
			}
			r = was
		}
		switch r {
		case roleSegment:
			if id == 0 || segmentName(id) != of {
				t.Fatalf("segment %q is named %q", name, segmentName(id))
			}
		case roleGap:
			if id == 0 || gapName(id) != of {
				t.Fatalf("gap %q is named %q", name, gapName(id))
			}
		case roleSpare:
			if s := strings.TrimSuffix(strings.TrimPrefix(of, sparePrefix), spareSuffix); len(s) != 26 || strings.ToLower(s) != s || sparePrefix+s+spareSuffix != of {
				t.Fatalf("%q is taken for a spare", name)
			}
		case roleVolume, roleKnown:
			if of != volumeName && name != lockName && name != socketName {
				t.Fatalf("%q is taken for one of ours", name)
			}
		}
	})
}
