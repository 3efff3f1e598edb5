package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// Everything on disk is little-endian, and every checksum is CRC-32C. Where the
// magic number, the version and the checksum of a structure lie is the same in
// every version, so that a newer version is recognised as such and a flipped
// bit is not taken for one. docs/format.md has the tables; a test compares them
// with the offsets below.

// castagnoli is the polynomial that CPUs have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC-32C. Its initial value is all ones, so zeroes do not sum to zero.
func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Offsets in the VOLUME file.
const (
	volMagic       = 0  // 8
	volVersion     = 8  // 4
	volReserved0   = 12 // 4
	volVolume      = 16 // 16
	volSegmentSize = 32 // 8
	volCreated     = 40 // 8
	volReserved1   = 48 // 12
	volChecksum    = 60 // 4
	volSize        = 64
)

// Offsets in a segment's header.
const (
	segMagic         = 0   // 8
	segVersion       = 8   // 4
	segReserved0     = 12  // 4
	segVolume        = 16  // 16
	segID            = 32  // 8
	segSalt          = 40  // 16
	segSize          = 56  // 8
	segCreated       = 64  // 8
	segCutEndID      = 72  // 8
	segCutEndOffset  = 80  // 8
	segCutLastID     = 88  // 8
	segCutLastOffset = 96  // 8
	segCutSequence   = 104 // 8
	segCutTime       = 112 // 8
	segCutChain      = 120 // 4
	segReserved1     = 124 // 4
	segSnapshot      = 128 // 32
	segOlder         = 160 // 32
	segReserved2     = 192 // 3900
	segChecksum      = 4092
)

// Offsets in a reference to a frame, as a segment's header holds two.
const (
	refID       = 0  // 8
	refOffset   = 8  // 8
	refSequence = 16 // 8
	refChain    = 24 // 4
	refReserved = 28 // 4
	refSize     = 32
)

// Offsets in a frame's header.
const (
	frmMagic         = 0   // 4
	frmVersion       = 4   // 2
	frmKind          = 6   // 1
	frmFlags         = 7   // 1
	frmSequence      = 8   // 8
	frmPromise       = 16  // 8
	frmTerm          = 24  // 8
	frmIndex         = 32  // 8
	frmTime          = 40  // 8
	frmChain         = 48  // 4
	frmDirectorySize = 52  // 4
	frmDirectorySum  = 56  // 4
	frmBlocksSize    = 60  // 4
	frmBlocksRawSize = 64  // 4
	frmBlockCount    = 68  // 4
	frmReserved      = 72  // 52
	frmChecksum      = 124 // 4
)

// Offsets in an entry of a directory's block table.
const (
	blkCodec      = 0  // 1
	blkVersion    = 1  // 1
	blkKeyID      = 2  // 2, zero: for encryption
	blkStoredSize = 4  // 4
	blkRawSize    = 8  // 4
	blkChecksum   = 12 // 4
	blkSize       = 16
)

// Offsets in the note that a segment ends with whose dead space was given up.
const (
	noteMagic    = 0  // 8
	noteOffset   = 8  // 8
	noteReserved = 16 // 44
	noteChecksum = 60 // 4
	noteSize     = 64
)

// Offsets in the second disk block of a gap's file, behind a segment's header.
const (
	gapMagic     = 0  // 8
	gapVersion   = 8  // 4
	gapReserved0 = 12 // 4
	gapFrom      = 16 // 8
	gapTo        = 24 // 8
	gapHeaderSum = 32 // 4
	gapReserved1 = 36 // 4056
	gapChecksum  = 4092
	gapFileSize  = limits.SegmentHeaderSize + limits.BlockSize
)

const (
	deadMagic    = "WALDEAD\n"
	gapMagicText = "WALGAP\r\n"
	volumeMagic  = "WALSVC\r\n" // the line end shows a transfer that took it for text
	segmentMagic = "WALSEG\r\n"
	frameMagic   = 0x4d524657 // "WFRM"

	// blockVersion is how the inside of a block is spelled: a run of records.
	blockVersion = 1
)

// frameSize returns the bytes a frame takes on disk, padding included.
func frameSize(directory, blocks int64) int64 {
	return roundUp(limits.FrameHeaderSize + directory + blocks)
}

// FrameSize returns the bytes on disk, padding included, of a frame of meta
// bytes of Meta and blocks blocks of together stored bytes: what Journal.Admit
// is asked for.
func FrameSize(meta, blocks int, stored int64) int64 {
	return frameSize(int64(meta)+int64(blocks)*blkSize, stored)
}

// roundUp rounds up to whole disk blocks.
func roundUp(n int64) int64 { return (n + limits.BlockSize - 1) &^ (limits.BlockSize - 1) }

// corrupt begins a CorruptError; whoever knows the place adds it.
func corrupt(err error, format string, args ...any) *CorruptError {
	return &CorruptError{Reason: fmt.Sprintf(format, args...), Err: err}
}

// newer is the error for a version above FormatVersion.
func newer(what string, found uint32) error {
	return fmt.Errorf("%s has format version %d, this walsvc knows up to %d: %w", what, found, FormatVersion, ErrNewerVersion)
}

// zero reports whether b holds zeroes only. Reserved bytes must: what a later
// version puts there must not be ignored by this one.
func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// A volumeFile is what the VOLUME file says.
type volumeFile struct {
	version     uint32
	volume      ulid.ULID
	segmentSize int64
	created     int64 // nanoseconds since 1970
}

func (v *volumeFile) encode() []byte {
	b := make([]byte, volSize)
	copy(b[volMagic:], volumeMagic)
	binary.LittleEndian.PutUint32(b[volVersion:], v.version)
	copy(b[volVolume:], v.volume[:])
	binary.LittleEndian.PutUint64(b[volSegmentSize:], uint64(v.segmentSize))
	binary.LittleEndian.PutUint64(b[volCreated:], uint64(v.created))
	binary.LittleEndian.PutUint32(b[volChecksum:], checksum(b[:volChecksum]))
	return b
}

// decodeVolume decodes a VOLUME file. Its errors wrap ErrBadVolumeFile or ErrNewerVersion.
func decodeVolume(b []byte) (*volumeFile, error) {
	switch {
	case len(b) != volSize:
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrBadVolumeFile, len(b), volSize)
	case string(b[volMagic:volMagic+len(volumeMagic)]) != volumeMagic:
		return nil, fmt.Errorf("%w: magic number %q", ErrBadVolumeFile, b[volMagic:volMagic+len(volumeMagic)])
	case binary.LittleEndian.Uint32(b[volChecksum:]) != checksum(b[:volChecksum]):
		return nil, fmt.Errorf("%w: checksum", ErrBadVolumeFile)
	}
	v := &volumeFile{
		version:     binary.LittleEndian.Uint32(b[volVersion:]),
		volume:      ulid.ULID(b[volVolume : volVolume+16]),
		segmentSize: int64(binary.LittleEndian.Uint64(b[volSegmentSize:])),
		created:     int64(binary.LittleEndian.Uint64(b[volCreated:])),
	}
	switch {
	case v.version > FormatVersion:
		return nil, newer("volume", v.version)
	case v.version == 0:
		return nil, fmt.Errorf("%w: version 0", ErrBadVolumeFile)
	case !zero(b[volReserved0:volVolume]), !zero(b[volReserved1:volChecksum]):
		return nil, fmt.Errorf("%w: reserved bytes are set", ErrBadVolumeFile)
	case checkSegmentSize(v.segmentSize) != nil:
		return nil, fmt.Errorf("%w: %w", ErrBadVolumeFile, checkSegmentSize(v.segmentSize))
	}
	return v, nil
}

// checkSegmentSize says what is wrong with the size of a segment.
func checkSegmentSize(size int64) error {
	if size < limits.MinSegmentSize || size > limits.MaxSegmentSize || size%limits.BlockSize != 0 {
		return fmt.Errorf("segment size %d: want a multiple of %d from %d to %d",
			size, limits.BlockSize, limits.MinSegmentSize, limits.MaxSegmentSize)
	}
	return nil
}

// encode writes the header into b, which is one whole disk block.
func (h *SegmentHeader) encode(b []byte) {
	clear(b[:limits.SegmentHeaderSize])
	copy(b[segMagic:], segmentMagic)
	binary.LittleEndian.PutUint32(b[segVersion:], h.Version)
	copy(b[segVolume:], h.Volume[:])
	binary.LittleEndian.PutUint64(b[segID:], uint64(h.ID))
	copy(b[segSalt:], h.Salt[:])
	binary.LittleEndian.PutUint64(b[segSize:], uint64(h.Size))
	binary.LittleEndian.PutUint64(b[segCreated:], uint64(h.Created))
	binary.LittleEndian.PutUint64(b[segCutEndID:], uint64(h.Cut.End.Segment))
	binary.LittleEndian.PutUint64(b[segCutEndOffset:], uint64(h.Cut.End.Offset))
	binary.LittleEndian.PutUint64(b[segCutLastID:], uint64(h.Cut.Last.Segment))
	binary.LittleEndian.PutUint64(b[segCutLastOffset:], uint64(h.Cut.Last.Offset))
	binary.LittleEndian.PutUint64(b[segCutSequence:], h.Cut.Sequence)
	binary.LittleEndian.PutUint64(b[segCutTime:], uint64(h.Cut.Time))
	binary.LittleEndian.PutUint32(b[segCutChain:], h.Cut.Chain)
	h.Snapshot.encode(b[segSnapshot : segSnapshot+refSize])
	h.OlderSnapshot.encode(b[segOlder : segOlder+refSize])
	binary.LittleEndian.PutUint32(b[segChecksum:], checksum(b[:segChecksum]))
}

// DecodeSegmentHeader decodes and verifies the first limits.SegmentHeaderSize
// bytes of a segment. It returns a *CorruptError that Is ErrBadHeader, without
// a place, or an error that Is ErrNewerVersion.
func DecodeSegmentHeader(b []byte) (*SegmentHeader, error) {
	switch {
	case len(b) != limits.SegmentHeaderSize:
		return nil, corrupt(ErrBadHeader, "%d bytes, want %d", len(b), limits.SegmentHeaderSize)
	case string(b[segMagic:segMagic+len(segmentMagic)]) != segmentMagic:
		return nil, corrupt(ErrBadHeader, "magic number %q", b[segMagic:segMagic+len(segmentMagic)])
	case binary.LittleEndian.Uint32(b[segChecksum:]) != checksum(b[:segChecksum]):
		return nil, corrupt(ErrBadHeader, "checksum")
	}
	h := &SegmentHeader{
		Version: binary.LittleEndian.Uint32(b[segVersion:]),
		Volume:  ulid.ULID(b[segVolume : segVolume+16]),
		ID:      ID(binary.LittleEndian.Uint64(b[segID:])),
		Salt:    [16]byte(b[segSalt : segSalt+16]),
		Size:    int64(binary.LittleEndian.Uint64(b[segSize:])),
		Created: int64(binary.LittleEndian.Uint64(b[segCreated:])),
		Cut: Cut{
			End:      decodePos(b[segCutEndID:]),
			Last:     decodePos(b[segCutLastID:]),
			Sequence: binary.LittleEndian.Uint64(b[segCutSequence:]),
			Time:     int64(binary.LittleEndian.Uint64(b[segCutTime:])),
			Chain:    binary.LittleEndian.Uint32(b[segCutChain:]),
		},
		Snapshot:      decodeRef(b[segSnapshot:]),
		OlderSnapshot: decodeRef(b[segOlder:]),
	}
	switch {
	case h.Version > FormatVersion:
		return nil, newer("segment", h.Version)
	case h.Version == 0:
		return nil, corrupt(ErrBadHeader, "version 0")
	case !zero(b[segReserved0:segVolume]), !zero(b[segReserved1:segSnapshot]), !zero(b[segReserved2:segChecksum]),
		!zero(b[segSnapshot+refReserved : segSnapshot+refSize]), !zero(b[segOlder+refReserved : segOlder+refSize]):
		return nil, corrupt(ErrBadHeader, "reserved bytes are set")
	case h.ID == 0:
		return nil, corrupt(ErrBadHeader, "segment ID 0")
	case checkSegmentSize(h.Size) != nil:
		return nil, corrupt(ErrBadHeader, "%v", checkSegmentSize(h.Size))
	case h.Cut.End.Segment != h.ID-1:
		return nil, corrupt(ErrBadHeader, "cut in segment %s, which is not the one before", h.Cut.End.Segment)
	case h.Cut.End.Offset < 0, h.Cut.Last.Offset < 0, h.Snapshot.Pos.Offset < 0, h.OlderSnapshot.Pos.Offset < 0:
		return nil, corrupt(ErrBadHeader, "negative offset")
	}
	return h, nil
}

func decodePos(b []byte) Pos {
	return Pos{Segment: ID(binary.LittleEndian.Uint64(b)), Offset: int64(binary.LittleEndian.Uint64(b[8:]))}
}

func (r FrameRef) encode(b []byte) {
	binary.LittleEndian.PutUint64(b[refID:], uint64(r.Pos.Segment))
	binary.LittleEndian.PutUint64(b[refOffset:], uint64(r.Pos.Offset))
	binary.LittleEndian.PutUint64(b[refSequence:], r.Sequence)
	binary.LittleEndian.PutUint32(b[refChain:], r.Chain)
}

func decodeRef(b []byte) FrameRef {
	return FrameRef{
		Pos:      decodePos(b[refID:]),
		Sequence: binary.LittleEndian.Uint64(b[refSequence:]),
		Chain:    binary.LittleEndian.Uint32(b[refChain:]),
	}
}

// A life is what every frame header of one life of one segment is bound to.
type life struct {
	// prefix is the checksum of volume, segment ID and salt: what every header's
	// checksum begins with.
	prefix uint32
	// size is the segment's, in bytes: no frame reaches beyond it.
	size int64
}

// life returns the life that the header begins.
func (h *SegmentHeader) life() life {
	var b [16 + 8 + 16]byte
	copy(b[:], h.Volume[:])
	binary.LittleEndian.PutUint64(b[16:], uint64(h.ID))
	copy(b[24:], h.Salt[:])
	return life{prefix: checksum(b[:]), size: h.Size}
}

// sum returns the checksum of a frame header that begins at off.
func (l life) sum(off int64, header []byte) uint32 {
	var place [8]byte
	binary.LittleEndian.PutUint64(place[:], uint64(off))
	return crc32.Update(crc32.Update(l.prefix, castagnoli, place[:]), castagnoli, header[:frmChecksum])
}

// appendNote spells the note that at off the segment was cut short on purpose.
// Like a frame's header it is bound to the life and the place, so that no other
// way for a file to become shorter leaves one.
func (l life) appendNote(dst []byte, off int64) []byte {
	b := make([]byte, noteSize)
	copy(b[noteMagic:], deadMagic)
	binary.LittleEndian.PutUint64(b[noteOffset:], uint64(off))
	binary.LittleEndian.PutUint32(b[noteChecksum:], crc32.Update(l.prefix, castagnoli, b[:noteChecksum]))
	return append(dst, b...)
}

// encode writes the header for its place into b and sets h.Checksum.
func (h *Header) encode(b []byte, l life, off int64) {
	clear(b[:limits.FrameHeaderSize])
	binary.LittleEndian.PutUint32(b[frmMagic:], frameMagic)
	binary.LittleEndian.PutUint16(b[frmVersion:], h.Version)
	b[frmKind] = byte(h.Kind)
	b[frmFlags] = h.Flags
	binary.LittleEndian.PutUint64(b[frmSequence:], h.Sequence)
	binary.LittleEndian.PutUint64(b[frmPromise:], h.Promise)
	binary.LittleEndian.PutUint64(b[frmTerm:], h.Term)
	binary.LittleEndian.PutUint64(b[frmIndex:], h.Index)
	binary.LittleEndian.PutUint64(b[frmTime:], uint64(h.Time))
	binary.LittleEndian.PutUint32(b[frmChain:], h.Chain)
	binary.LittleEndian.PutUint32(b[frmDirectorySize:], h.DirectorySize)
	binary.LittleEndian.PutUint32(b[frmDirectorySum:], h.DirectorySum)
	binary.LittleEndian.PutUint32(b[frmBlocksSize:], h.BlocksSize)
	binary.LittleEndian.PutUint32(b[frmBlocksRawSize:], h.BlocksRawSize)
	binary.LittleEndian.PutUint32(b[frmBlockCount:], h.BlockCount)
	h.Checksum = l.sum(off, b)
	binary.LittleEndian.PutUint32(b[frmChecksum:], h.Checksum)
}

// mayBeFrame is the cheap first look at a place where a frame could begin.
func mayBeFrame(b []byte) bool {
	return len(b) >= limits.FrameHeaderSize && binary.LittleEndian.Uint32(b[frmMagic:]) == frameMagic
}

// decodeFrameHeader decodes the header at the beginning of b, which was read
// from off. Whatever it lets pass fits the segment and the limits, so that its
// lengths may be believed. Its errors are a *CorruptError that Is ErrNoFrame,
// without a place, or an error that Is ErrNewerVersion, also for a kind, a flag
// or a field that this version does not know.
func decodeFrameHeader(b []byte, l life, off int64) (Header, error) {
	switch {
	case len(b) < limits.FrameHeaderSize:
		return Header{}, corrupt(ErrNoFrame, "the file ends here")
	case !mayBeFrame(b):
		return Header{}, corrupt(ErrNoFrame, "magic number")
	case binary.LittleEndian.Uint32(b[frmChecksum:]) != l.sum(off, b):
		return Header{}, corrupt(ErrNoFrame, "header checksum")
	}
	h := Header{
		Version:       binary.LittleEndian.Uint16(b[frmVersion:]),
		Kind:          Kind(b[frmKind]),
		Flags:         b[frmFlags],
		Checksum:      binary.LittleEndian.Uint32(b[frmChecksum:]),
		Chain:         binary.LittleEndian.Uint32(b[frmChain:]),
		Sequence:      binary.LittleEndian.Uint64(b[frmSequence:]),
		Promise:       binary.LittleEndian.Uint64(b[frmPromise:]),
		Term:          binary.LittleEndian.Uint64(b[frmTerm:]),
		Index:         binary.LittleEndian.Uint64(b[frmIndex:]),
		Time:          int64(binary.LittleEndian.Uint64(b[frmTime:])),
		DirectorySize: binary.LittleEndian.Uint32(b[frmDirectorySize:]),
		DirectorySum:  binary.LittleEndian.Uint32(b[frmDirectorySum:]),
		BlocksSize:    binary.LittleEndian.Uint32(b[frmBlocksSize:]),
		BlocksRawSize: binary.LittleEndian.Uint32(b[frmBlocksRawSize:]),
		BlockCount:    binary.LittleEndian.Uint32(b[frmBlockCount:]),
	}
	switch {
	case h.Version > FormatVersion:
		return Header{}, newer("frame", uint32(h.Version))
	case h.Version == 0:
		return Header{}, corrupt(ErrNoFrame, "version 0")
	case h.Kind == 0:
		return Header{}, corrupt(ErrNoFrame, "%s", h.Kind)
	// The checksum says that a walsvc wrote it here, in this life of the file: to
	// take it for the end of the journal would cut off what somebody was
	// acknowledged.
	case h.Kind > KindSeal:
		return Header{}, fmt.Errorf("frame of unknown %s: %w", h.Kind, ErrNewerVersion)
	case h.Flags != 0, !zero(b[frmReserved:frmChecksum]):
		return Header{}, fmt.Errorf("frame with unknown flags or fields: %w", ErrNewerVersion)
	case h.Sequence == 0, h.Promise >= h.Sequence:
		return Header{}, corrupt(ErrNoFrame, "sequence %d promises %d", h.Sequence, h.Promise)
	case h.DirectorySize > limits.MaxDirectorySize, h.BlockCount > limits.MaxBlocksPerFrame,
		h.DirectorySize < h.BlockCount*blkSize, h.BlockCount == 0 && h.BlocksSize != 0:
		return Header{}, corrupt(ErrNoFrame, "%d blocks in a directory of %d bytes", h.BlockCount, h.DirectorySize)
	case h.Size() > limits.MaxFrameSize, h.Size() > l.size-off:
		return Header{}, corrupt(ErrNoFrame, "%d bytes, with %d left in the segment", h.Size(), l.size-off)
	}
	return h, nil
}

// append appends the entry as the block table spells it.
func (b BlockInfo) append(dst []byte) []byte {
	dst = append(dst, byte(b.Codec), blockVersion, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, b.StoredSize)
	dst = binary.LittleEndian.AppendUint32(dst, b.RawSize)
	return binary.LittleEndian.AppendUint32(dst, b.Checksum)
}

// appendDirectory appends the block table and the caller's part.
func appendDirectory(dst []byte, blocks []Block, meta []byte) []byte {
	for i := range blocks {
		b := &blocks[i]
		dst = BlockInfo{Codec: b.Codec, StoredSize: uint32(len(b.Stored)), RawSize: b.RawSize, Checksum: b.Checksum}.append(dst)
	}
	return append(dst, meta...)
}

// decodeDirectory verifies the directory of the frame that h heads and takes
// it apart; meta aliases b. Its error is a *CorruptError that Is
// ErrBadDirectory, without a place, or one that Is ErrNewerVersion.
func decodeDirectory(b []byte, h *Header) (blocks []BlockInfo, meta []byte, err error) {
	switch {
	case len(b) != int(h.DirectorySize):
		return nil, nil, corrupt(ErrBadDirectory, "the file ends inside it")
	case checksum(b) != h.DirectorySum:
		return nil, nil, corrupt(ErrBadDirectory, "checksum")
	}
	if h.BlockCount > 0 {
		blocks = make([]BlockInfo, h.BlockCount)
	}
	var stored, raw uint64
	for i := range blocks {
		e := b[i*blkSize : (i+1)*blkSize]
		blocks[i] = BlockInfo{
			Codec:      codec.Codec(e[blkCodec]),
			StoredSize: binary.LittleEndian.Uint32(e[blkStoredSize:]),
			RawSize:    binary.LittleEndian.Uint32(e[blkRawSize:]),
			Checksum:   binary.LittleEndian.Uint32(e[blkChecksum:]),
			Offset:     limits.FrameHeaderSize + int64(stored),
		}
		switch bi := &blocks[i]; {
		case e[blkVersion] > blockVersion:
			return nil, nil, newer(fmt.Sprintf("block %d", i), uint32(e[blkVersion]))
		case e[blkVersion] == 0, e[blkKeyID] != 0, e[blkKeyID+1] != 0:
			return nil, nil, corrupt(ErrBadDirectory, "block %d: reserved bytes are set", i)
		case !bi.Codec.Valid():
			return nil, nil, corrupt(ErrBadDirectory, "block %d: unknown %s", i, bi.Codec)
		case bi.RawSize > limits.MaxBlockRawSize, bi.Codec == codec.None && bi.StoredSize != bi.RawSize:
			return nil, nil, corrupt(ErrBadDirectory, "block %d: %d stored bytes for %d raw ones", i, bi.StoredSize, bi.RawSize)
		}
		stored += uint64(blocks[i].StoredSize)
		raw += uint64(blocks[i].RawSize)
	}
	if stored != uint64(h.BlocksSize) || raw != uint64(h.BlocksRawSize) {
		return nil, nil, corrupt(ErrBadDirectory, "blocks of %d stored and %d raw bytes, the header says %d and %d",
			stored, raw, h.BlocksSize, h.BlocksRawSize)
	}
	return blocks, b[len(blocks)*blkSize:], nil
}

// Decompress appends to dst the raw bytes of a block, of which there must be
// exactly rawSize. It takes no more memory than that, and returns a
// *CorruptError that Is ErrBadBlock, without a place, for anything else.
func Decompress(c codec.Codec, stored []byte, rawSize uint32, dst []byte) ([]byte, error) {
	raw, err := c.Open(dst, stored, int(min(rawSize, limits.MaxBlockRawSize+1)))
	if err != nil {
		return dst, &CorruptError{Reason: err.Error(), Err: ErrBadBlock}
	}
	return raw, nil
}
