package segment

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// FormatVersion is the on-disk format this package writes, and the newest it reads.
const FormatVersion = 1

// ID names a segment of a volume: dense, from 1, never reused, also when the
// file beneath is recycled. Its file is named by String with the suffix ".wal".
type ID uint64

// String spells an ID as 16 hexadecimal digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseID is the inverse of ID.String. It accepts nothing else.
func ParseID(s string) (ID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 || ID(v).String() != s {
		return 0, fmt.Errorf("segment name %q: want 16 lower-case hexadecimal digits", s)
	}
	return ID(v), nil
}

// Pos is a place in the journal: where a frame begins, or where the run of
// frames ends. It means something in one volume only and never enters its state.
type Pos struct {
	Segment ID
	Offset  int64 // bytes from the beginning of the segment's file
}

// String spells a Pos as "000000000000002a/00001000".
func (p Pos) String() string { return fmt.Sprintf("%s/%08x", p.Segment, p.Offset) }

// ParsePos is the inverse of Pos.String. It accepts nothing else.
func ParsePos(s string) (Pos, error) {
	seg, off, ok := strings.Cut(s, "/")
	id, err := ParseID(seg)
	if !ok || err != nil {
		return Pos{}, fmt.Errorf("position %q: want segment/offset in hexadecimal", s)
	}
	v, err := strconv.ParseInt(off, 16, 64)
	if pos := (Pos{Segment: id, Offset: v}); err == nil && v >= 0 && pos.String() == s {
		return pos, nil
	}
	return Pos{}, fmt.Errorf("position %q: want the offset as at least 8 lower-case hexadecimal digits", s)
}

// Compare orders positions as the journal does: negative if p is before q.
func (p Pos) Compare(q Pos) int {
	switch {
	case p.Segment != q.Segment && p.Segment < q.Segment, p.Segment == q.Segment && p.Offset < q.Offset:
		return -1
	case p == q:
		return 0
	}
	return 1
}

// Kind says what a frame carries.
type Kind uint8

// The kinds of frames. Zero is no kind: zeroed space never reads as a frame.
const (
	// KindCommands carries accepted changes.
	KindCommands Kind = 1
	// KindSnapshot carries a part of the service's own state.
	KindSnapshot Kind = 2
	// KindPromise carries nothing: it exists for the promise in its header.
	KindPromise Kind = 3
	// KindSeal ends a segment; its directory carries the segment's index.
	KindSeal Kind = 4
)

// String names a kind as walctl prints it.
func (k Kind) String() string {
	switch k {
	case KindCommands:
		return "commands"
	case KindSnapshot:
		return "snapshot"
	case KindPromise:
		return "promise"
	case KindSeal:
		return "seal"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// A Block is a run of record bytes as a frame stores it.
type Block struct {
	Codec    codec.Codec
	RawSize  uint32 // bytes after decompression
	Checksum uint32 // CRC-32C of Stored
	Stored   []byte
}

// A Draft is a frame on its way to the disk. Journal.Append gives it its
// sequence, its promise and its place.
type Draft struct {
	Kind  Kind
	Term  uint64 // 0 until replicated
	Index uint64 // 0 until replicated
	// Time is the commit time in nanoseconds since 1970. Append raises it to
	// the previous frame's if it is lower.
	Time int64
	// Meta is the caller's part of the directory: commands, or whatever the
	// kind carries. This package only stores it.
	Meta   []byte
	Blocks []Block
	// Image, if it has them, is memory that already holds the blocks as they lie on disk: the
	// first one's Stored is at limits.FrameHeaderSize, and each further one's behind the one
	// before. Append then writes the frame from it, instead of copying the blocks, and fills
	// in what is in front of them and behind, up to its capacity. It should be from
	// disk.AlignedBuffer. If the blocks lie elsewhere, or it has no capacity for the whole
	// frame, it is not touched.
	Image []byte
}

// inPlace reports whether a frame of size bytes can be written from d's image.
func (d *Draft) inPlace(size int) bool {
	if cap(d.Image) < size {
		return false
	}
	image, at := d.Image[:size], limits.FrameHeaderSize
	for i := range d.Blocks {
		stored := d.Blocks[i].Stored
		if len(stored) > 0 && &stored[0] != &image[at] {
			return false
		}
		at += len(stored)
	}
	return true
}

// A Header is a frame's header, decoded and verified.
type Header struct {
	Version       uint16
	Kind          Kind
	Flags         uint8
	Checksum      uint32 // of the header and its identity; the next frame repeats it as its Chain
	Chain         uint32 // Checksum of the frame before; for a volume's first frame, 0
	Sequence      uint64 // dense, from 1
	Promise       uint64 // every frame up to this sequence was durable when this one was submitted
	Term, Index   uint64
	Time          int64 // nanoseconds since 1970, never decreasing
	DirectorySize uint32
	DirectorySum  uint32 // CRC-32C of the directory
	BlocksSize    uint32 // stored bytes of all blocks together
	BlocksRawSize uint32 // their bytes after decompression
	BlockCount    uint32
}

// Size returns the bytes the frame takes on disk, padding included.
func (h *Header) Size() int64 { return frameSize(int64(h.DirectorySize), int64(h.BlocksSize)) }

// A BlockInfo is an entry of a directory's block table.
type BlockInfo struct {
	Codec      codec.Codec
	StoredSize uint32
	RawSize    uint32
	Checksum   uint32 // CRC-32C of the stored bytes
	Offset     int64  // from the beginning of the frame; derived, not stored
}

// A Frame is a frame as read: header and directory are verified, blocks are
// read and verified one at a time with Reader.Block.
type Frame struct {
	Pos    Pos
	Header Header
	Blocks []BlockInfo
	Meta   []byte // the caller's own to keep
}

// End returns the position behind the frame.
func (f *Frame) End() Pos { return Pos{f.Pos.Segment, f.Pos.Offset + f.Header.Size()} }

// directory returns where the directory of the frame at off lies.
func (h *Header) directory(off int64) int64 {
	return off + limits.FrameHeaderSize + int64(h.BlocksSize)
}

// A FrameRef points at a frame together with what a scan that begins there has
// to expect of it.
type FrameRef struct {
	Pos      Pos
	Sequence uint64 // the frame's own
	Chain    uint32 // the Chain its header must carry
}

// IsZero reports whether the reference points nowhere.
func (r FrameRef) IsZero() bool { return r == FrameRef{} }

// A Cut says where a run of frames ends.
type Cut struct {
	// End is where the predecessor's last frame ends: bytes behind it are dead
	// for ever. Zero for a volume's first segment.
	End Pos
	// Last is where that frame begins; zero when the predecessor has none.
	Last Pos
	// Sequence is that frame's sequence, so a segment's first frame has
	// Sequence+1. Zero when there is none yet.
	Sequence uint64
	// Chain is that frame's header checksum.
	Chain uint32
	// Time is that frame's commit time.
	Time int64
}

// A SegmentHeader begins every segment. It is durable before the segment has
// its name, and never written again during that life of the file.
type SegmentHeader struct {
	Version uint32
	Volume  ulid.ULID
	ID      ID
	Salt    [16]byte // random for each life; never leaves the volume
	Size    int64    // of the file in bytes; short segments are legal
	Cut     Cut      // where the predecessor ends
	Created int64    // nanoseconds since 1970
	// Snapshot and OlderSnapshot point at the first frame after the cut of the
	// two newest complete snapshots when the segment was begun: what opening
	// scans from. Zero when there was none.
	Snapshot      FrameRef
	OlderSnapshot FrameRef
}

// Errors that readers tell apart. A *CorruptError wraps the first four.
var (
	// ErrNoFrame: there is no frame here: zeroes, another life's bytes, garbage.
	// Whether that is the end or damage is for the caller to say, by evidence.
	ErrNoFrame = errors.New("no frame of this segment's life")
	// ErrBadHeader: a segment's header does not verify.
	ErrBadHeader = errors.New("segment header does not verify")
	// ErrBadDirectory: the frame's header verifies, its directory does not.
	ErrBadDirectory = errors.New("directory does not verify")
	// ErrBadBlock: the block's checksum does not match, or it does not decompress.
	ErrBadBlock = errors.New("block does not verify")
	// ErrNewerVersion: the volume was written by a newer walsvc.
	ErrNewerVersion = errors.New("newer format version")
	// ErrReleased: the segment is gone, or its file has begun another life.
	ErrReleased = errors.New("segment released")
)

// A CorruptError says what does not verify, and where.
type CorruptError struct {
	Path   string
	Pos    Pos
	Reason string
	Err    error // one of the sentinels above
}

// Error implements error.
func (e *CorruptError) Error() string {
	if e.Path == "" { // from a decoder, which does not know the place
		return fmt.Sprintf("%s: %v", e.Reason, e.Err)
	}
	return fmt.Sprintf("%s at %s: %s: %v", e.Path, e.Pos, e.Reason, e.Err)
}

// Unwrap returns the sentinel.
func (e *CorruptError) Unwrap() error { return e.Err }
