package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

const (
	// readWindow is what one read at a frame's beginning fetches: header and
	// directory of most frames, and all of the next small ones.
	readWindow = 64 << 10

	// lookaheadChunk is read at once when a segment is searched for frames.
	lookaheadChunk = 1 << 20
)

// A Reader reads the frames of one life of one segment, and pins it: the file
// is not recycled before Close, or limits.PinLimit after its release. It is
// for one goroutine at a time; several Readers of a segment are fine.
//
// What it returns is verified, so bytes of a later life of the file never pass
// for this one's: they end in ErrReleased. It does not know what is durable:
// that is for the caller, who reads no further than Journal.Durable.
type Reader struct {
	j    *Journal
	hdr  *SegmentHeader
	life life
	path string
	file disk.File
	size int64

	window []byte // what the last read fetched, from windowAt; may be stale
	buf    []byte // what window is a part of
	at     int64
	closed bool
}

// Reader opens segment id for reading. It returns what Header returns if the
// header cannot be had, ErrReleased among others.
func (j *Journal) Reader(id ID) (*Reader, error) {
	hdr, err := j.header(id)
	if err != nil {
		return nil, err
	}
	if err := j.pin(hdr); err != nil {
		return nil, err
	}
	r := &Reader{j: j, hdr: hdr, life: hdr.life(), path: filepath.Join(j.o.Dir, segmentName(id))}
	r.file, err = j.fileOf(segmentName(id), false)
	if err == nil {
		if r.size, err = r.file.Size(); err != nil {
			err = errors.Join(err, r.file.Close())
		}
	}
	if err != nil {
		j.unpin(id)
		return nil, j.openError(id, err)
	}
	return r, nil
}

// openError explains why the file of a segment of ours does not open.
func (j *Journal) openError(id ID, err error) error {
	if j.o.ReadOnly && errors.Is(err, fs.ErrNotExist) {
		// It was listed; the process that writes released it since.
		return fmt.Errorf("segment %s: %w", id, ErrReleased)
	}
	return fmt.Errorf("segment %s: %w", id, err)
}

// Header returns the header of segment id, verified; it must not be changed. That of
// a gap's first segment is known, too.
// It returns ErrReleased for a segment before the oldest or in a gap, fs.ErrNotExist for
// one behind the newest, a *CorruptError that Is ErrBadHeader, or an error
// that Is ErrNewerVersion, all wrapped.
func (j *Journal) Header(id ID) (*SegmentHeader, error) {
	j.mu.Lock()
	g, found := j.gapLocked(id)
	if found && g.From == id {
		hdr := g.header
		j.mu.Unlock()
		return hdr, nil
	}
	j.mu.Unlock()
	return j.header(id)
}

// header returns the header of a segment that is there.
func (j *Journal) header(id ID) (*SegmentHeader, error) {
	j.mu.Lock()
	hdr, err := j.headers[id], j.memberLocked(id)
	j.mu.Unlock()
	if err != nil || hdr != nil {
		return hdr, err
	}
	hdr, err = j.readHeader(id)
	j.mu.Lock()
	defer j.mu.Unlock()
	// If it was released meanwhile, its file may have gone, or be another one's: no damage.
	if gone := j.memberLocked(id); gone != nil {
		return nil, gone
	}
	if err != nil {
		return nil, err
	}
	if known := j.headers[id]; known != nil {
		return known, nil // somebody else was faster: one life, one pointer
	}
	j.headers[id] = hdr
	return hdr, nil
}

// readHeader reads and verifies the header of a listed segment.
func (j *Journal) readHeader(id ID) (*SegmentHeader, error) {
	hdr, err := j.headerIn(id)
	if err == nil && (hdr.ID != id || hdr.Volume != j.volume.volume) {
		err = placed(corrupt(ErrBadHeader, "it is the header of segment %s of volume %s", hdr.ID, hdr.Volume), filepath.Join(j.o.Dir, segmentName(id)), Pos{Segment: id})
	}
	if err != nil {
		return nil, err
	}
	return hdr, nil
}

// BeganAnotherLife reports whether the file that has the name of segment id holds a later
// segment of the volume. Then id was released, and its name has come back.
func (j *Journal) BeganAnotherLife(id ID) bool {
	hdr, err := j.headerIn(id)
	return err == nil && hdr.Volume == j.volume.volume && hdr.ID > id
}

// headerIn reads the header in the file of a listed segment, whichever it is of.
func (j *Journal) headerIn(id ID) (*SegmentHeader, error) {
	f, err := j.fileOf(segmentName(id), false)
	if err != nil {
		return nil, j.openError(id, err)
	}
	b := make([]byte, limits.SegmentHeaderSize)
	n, err := readAt(f, b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("segment %s: read header: %w", id, err)
	}
	hdr, err := DecodeSegmentHeader(b[:n])
	if err != nil {
		return nil, placed(err, filepath.Join(j.o.Dir, segmentName(id)), Pos{Segment: id})
	}
	return hdr, nil
}

// memberLocked returns nil if id is a segment of the journal.
func (j *Journal) memberLocked(id ID) error {
	switch n := len(j.segments); {
	case n == 0 || id > j.segments[n-1].id:
		return fmt.Errorf("segment %s: %w", id, fs.ErrNotExist)
	case id < j.segments[0].id:
		return fmt.Errorf("segment %s: %w", id, ErrReleased)
	}
	if _, released := j.gapLocked(id); released {
		return fmt.Errorf("segment %s: %w", id, ErrReleased)
	}
	return nil
}

// writtenOf returns up to where a segment may have been written: its end, unless it
// is the current one.
func (j *Journal) writtenOf(hdr *SegmentHeader) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.segments); j.o.ReadOnly || n == 0 || j.segments[n-1].id != hdr.ID {
		return hdr.Size
	}
	return limits.SegmentHeaderSize + j.room.Load() - j.remaining.Load()
}

// pin keeps the life that hdr began from being recycled.
func (j *Journal) pin(hdr *SegmentHeader) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.headers[hdr.ID] != hdr {
		return fmt.Errorf("segment %s: %w", hdr.ID, ErrReleased)
	}
	j.pins[hdr.ID]++
	return nil
}

func (j *Journal) unpin(id ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pins[id]--; j.pins[id] == 0 {
		delete(j.pins, id)
		j.kickPool() // a release may have waited for this
	}
}

// placed adds the place to an error of a decoder.
func placed(err error, path string, pos Pos) error {
	if c, ok := errors.AsType[*CorruptError](err); ok {
		return &CorruptError{Path: path, Pos: pos, Reason: c.Reason, Err: c.Err}
	}
	return fmt.Errorf("%s at %s: %w", path, pos, err)
}

// readAt reads until b is full or the file ends.
func readAt(f disk.File, b []byte, off int64) (int, error) {
	n, err := f.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Header returns the segment's header. It must not be changed.
func (r *Reader) Header() *SegmentHeader { return r.hdr }

// Path returns the path of the segment's file.
func (r *Reader) Path() string { return r.path }

// Size returns the length of the segment's file in bytes when the Reader was
// opened. It is less than the header's Size if dead space was given up.
func (r *Reader) Size() int64 { return r.size }

// CutShort reports whether the segment's file ends before the size that its
// header records, and not because dead space was given up: then what it held is
// lost, be it frames or nothing.
func (r *Reader) CutShort() (bool, error) {
	size, err := r.file.Size()
	if err != nil || size >= r.hdr.Size {
		return false, err
	}
	noted, err := r.Noted()
	return !noted, err
}

// Noted reports whether the segment's file ends in the note that dead space was given up:
// then every frame in it was kept, there or written once more.
func (r *Reader) Noted() (bool, error) {
	size, err := r.file.Size()
	if err != nil {
		return false, err
	}
	off := size - noteSize
	b := make([]byte, noteSize)
	n, err := readAt(r.file, b, max(off, 0))
	if err != nil {
		return false, r.fault(off, fmt.Errorf("read: %w", err))
	}
	return n == noteSize && bytes.Equal(b, r.life.appendNote(nil, off)), nil
}

// Frame reads the header and the directory of the frame at off. Its errors,
// wrapped in a *CorruptError: ErrNoFrame if there is no frame of this life at
// off; ErrBadDirectory if the header verifies and the directory does not, and
// then the Frame is returned as well, with Pos and Header only. ErrReleased
// and ErrNewerVersion come wrapped, and so do errors of the disk.
func (r *Reader) Frame(off int64) (*Frame, error) {
	// Frames may have been written since the window was read, so only a fresh
	// window proves that there is none.
	stale := off >= r.at && off < r.at+int64(len(r.window))
	f, err := r.frame(off)
	if err != nil && stale {
		r.window = nil
		f, err = r.frame(off)
	}
	if err != nil {
		return f, r.fault(off, err)
	}
	return f, nil
}

func (r *Reader) frame(off int64) (*Frame, error) {
	if off < limits.SegmentHeaderSize || off%limits.BlockSize != 0 {
		return nil, corrupt(ErrNoFrame, "frames begin on multiples of %d behind the header", limits.BlockSize)
	}
	b := r.cached(off, limits.FrameHeaderSize)
	if b == nil {
		if err := r.fill(off); err != nil {
			return nil, err
		}
		b = r.window[:min(len(r.window), limits.FrameHeaderSize)]
	}
	h, err := decodeFrameHeader(b, r.life, off)
	if err != nil {
		return nil, err
	}
	if dir := r.cached(h.directory(off), int(h.DirectorySize)); dir != nil {
		f := &Frame{Pos: Pos{r.hdr.ID, off}, Header: h}
		f.Blocks, f.Meta, err = decodeDirectory(dir, &f.Header)
		f.Meta = bytes.Clone(f.Meta)
		return f, err
	}
	return r.directory(off, h)
}

// directory reads and verifies the directory of the frame at off, which h heads.
func (r *Reader) directory(off int64, h Header) (*Frame, error) {
	dir := make([]byte, h.DirectorySize) // Meta stays in it
	n, err := readAt(r.file, dir, h.directory(off))
	if err != nil {
		return nil, fmt.Errorf("read directory: %w", err)
	}
	f := &Frame{Pos: Pos{r.hdr.ID, off}, Header: h}
	f.Blocks, f.Meta, err = decodeDirectory(dir[:n], &f.Header)
	return f, err
}

// Head reads the header of the frame at off and nothing else, and has the disk read
// ahead the frame's directory, for Directory. Frame does both at once; apart, who
// knows where several frames lie has the disk fetch the pieces of all of them at a
// time. Its errors are those of Frame that concern the header.
func (r *Reader) Head(off int64) (Header, error) {
	var b [limits.FrameHeaderSize]byte
	n, err := readAt(r.file, b[:], off)
	if err != nil {
		return Header{}, r.fault(off, fmt.Errorf("read: %w", err))
	}
	h, err := decodeFrameHeader(b[:n], r.life, off)
	if err != nil {
		return Header{}, r.fault(off, err)
	}
	r.Prefetch(h.directory(off), int64(h.DirectorySize))
	return h, nil
}

// Directory reads the directory of the frame at off, whose header Head returned. Its
// errors are those of Frame that concern the directory.
func (r *Reader) Directory(off int64, h Header) (*Frame, error) {
	f, err := r.directory(off, h)
	if err != nil {
		return f, r.fault(off, err)
	}
	return f, nil
}

// fill reads the window from off: one disk block of it, if the disk fails to read
// more. What lies ahead is not what was asked for.
func (r *Reader) fill(off int64) error {
	if r.buf == nil {
		r.buf = make([]byte, readWindow)
	}
	r.window = nil
	n, err := readAt(r.file, r.buf, off)
	if err != nil {
		n, err = readAt(r.file, r.buf[:limits.BlockSize], off)
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	r.at, r.window = off, r.buf[:n]
	return nil
}

// cached returns n bytes from off if the window has them all.
func (r *Reader) cached(off int64, n int) []byte {
	if off < r.at || off+int64(n) > r.at+int64(len(r.window)) {
		return nil
	}
	return r.window[off-r.at:][:n]
}

// Prefetch has the disk read ahead n bytes from off on, as far as they have been
// written, and returns where what it asked for ends. It does not wait for the disk.
func (r *Reader) Prefetch(off, n int64) (end int64) {
	end = min(off+n, r.j.writtenOf(r.hdr))
	if end > off {
		r.file.Prefetch(off, end-off)
	}
	return max(end, off)
}

// Block reads the stored bytes of block i of f, a frame that this Reader
// returned, verifies them, and returns them in dst, which grows as needed; its
// content is lost. The error is a *CorruptError that Is ErrBadBlock,
// ErrReleased, or one of the disk.
func (r *Reader) Block(f *Frame, i int, dst []byte) ([]byte, error) {
	if f.Pos.Segment != r.hdr.ID {
		return nil, fmt.Errorf("frame at %s is not of segment %s", f.Pos, r.hdr.ID)
	}
	info := &f.Blocks[i]
	off, size := f.Pos.Offset+info.Offset, int(info.StoredSize)
	if b := r.cached(off, size); b != nil && checksum(b) == info.Checksum {
		return append(dst[:0], b...), nil
	}
	dst = slices.Grow(dst[:0], size)[:size]
	n, err := readAt(r.file, dst, off)
	switch {
	case err != nil:
		err = fmt.Errorf("read block %d: %w", i, err)
	case n < size:
		err = corrupt(ErrBadBlock, "block %d of %d: the file ends inside it", i, len(f.Blocks))
	case checksum(dst) != info.Checksum:
		err = corrupt(ErrBadBlock, "block %d of %d: checksum", i, len(f.Blocks))
	}
	if err != nil {
		return nil, r.fault(f.Pos.Offset, err)
	}
	return dst, nil
}

// Lookahead calls fn for every frame header of this life that verifies between
// from and the end of the file, in order, until fn returns false. It knows
// nothing of frames' lengths: every multiple of limits.BlockSize is looked at,
// so that frames behind a bad one are found. Only headers are verified.
func (r *Reader) Lookahead(from int64, fn func(h Header, off int64) bool) error {
	from = roundUp(max(from, limits.SegmentHeaderSize))
	buf := make([]byte, min(lookaheadChunk, max(0, r.hdr.Size-from)))
	for ; from < r.hdr.Size; from += int64(len(buf)) {
		n, err := readAt(r.file, buf, from)
		if err != nil {
			return r.fault(from, fmt.Errorf("read: %w", err))
		}
		for at := 0; at < n; at += limits.BlockSize {
			if !mayBeFrame(buf[at:n]) {
				continue
			}
			h, err := decodeFrameHeader(buf[at:n], r.life, from+int64(at))
			if err == nil && !fn(h, from+int64(at)) {
				return nil
			}
		}
		if n < len(buf) {
			break
		}
	}
	if r.released() {
		return r.fault(from, ErrReleased)
	}
	return nil
}

// fault explains an error at off: nothing that is read from a file that has
// begun another life says anything about this one.
func (r *Reader) fault(off int64, err error) error {
	if r.released() {
		return fmt.Errorf("segment %s: %w", r.hdr.ID, ErrReleased)
	}
	return placed(err, r.path, Pos{r.hdr.ID, off})
}

// released reports whether the life this Reader reads is over.
func (r *Reader) released() bool {
	if !r.j.o.ReadOnly {
		r.j.mu.Lock()
		defer r.j.mu.Unlock()
		return r.j.memberLocked(r.hdr.ID) != nil || r.j.headers[r.hdr.ID] != r.hdr
	}
	// The process that writes does not tell. But it takes the name away first, for
	// good, whether the file is removed then, bit by bit, or begins a new life; and
	// that begins with a new header over the old one.
	f, err := r.j.o.FS.Open(r.path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err == nil {
		_ = f.Close() // it was only read
	}
	b := make([]byte, limits.SegmentHeaderSize)
	n, err := readAt(r.file, b, 0)
	if err != nil {
		return false
	}
	hdr, err := DecodeSegmentHeader(b[:n])
	return err == nil && hdr.Salt != r.hdr.Salt
}

// Close closes the file and unpins the segment.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.j.unpin(r.hdr.ID)
	return r.file.Close()
}
