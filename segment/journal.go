package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

const (
	// shortSegment is the least size of a segment that is made when opening
	// finds no spare: small enough to be written at once.
	shortSegment = 4 << 20

	// minBuffer and keepBuffer bound the write buffer that is kept between
	// frames; a larger frame has one of its own.
	minBuffer  = 64 << 10
	keepBuffer = 8 << 20
)

// A Journal is the open run of segments of a volume.
//
// Resume, Append and Sync are for one goroutine at a time; everything else may
// be called by anybody at any time.
type Journal struct {
	o         Options
	volume    *volumeFile
	strangers []string
	unread    map[ID]error // of gaps' files; not changed once it is open
	target    int          // spares that are kept prepared
	lock      io.Closer

	randMu sync.Mutex // guards o.Rand

	// releaseMu makes recycling one after the other. Taken before mu, never
	// while mu is held.
	releaseMu sync.Mutex
	reclaimed ID // reclaim has looked at the segments below. Guarded by releaseMu

	// names is held from a rename until the directory is synced. A sync that fails
	// may take renames of others with it, whose own sync then succeeds and proves
	// nothing:
	//
	//	roll                       preparer
	//	rename 5.wal
	//	                           sync the directory: fails, 5.wal counts as clean
	//	sync the directory: fine, 5.wal is not durable
	//
	// Taken after releaseMu, never while mu is held. A channel with room for one,
	// and no Mutex: who waits for it waits for the disk.
	names chan struct{}

	mu         sync.Mutex
	segments   []file    // oldest first
	gaps       []gapFile // oldest first; all have a segment before them
	obsolete   []Gap     // whose files are to be removed
	headers    map[ID]*SegmentHeader
	pins       map[ID]int  // open Readers
	released   []releasing // oldest first
	spares     []string    // oldest first
	rolling    bool        // a spare was taken whose room is not in remaining yet
	unnamed    error       // why a file cannot get its segment's name now; nil if none waits for that
	drained    bool        // nobody waits for room any more
	ended      bool        // the current segment takes no more than was admitted: see EndSegment
	prepareErr error
	snapshot   FrameRef
	older      FrameRef
	resumed    bool
	closed     bool
	poison     *PoisonedError
	changed    chan struct{} // closed by announceLocked

	// ready is len(spares), or 0 once the journal is unusable.
	ready atomic.Int64
	// remaining is what the current segment still takes, 0 once it is ended, and
	// room what it took when it was begun. They are written with mu held.
	remaining, room atomic.Int64
	// durable is what Durable returns, written by the appender.
	durable atomic.Uint64

	tail tail // the appender's own

	kick     chan struct{} // capacity 1
	stop     context.CancelFunc
	stopping <-chan struct{} // closed by stop
	wg       sync.WaitGroup
}

// A tail is where frames are appended.
type tail struct {
	id   ID
	file disk.File
	life life
	off  int64 // where the next frame goes
	last Pos   // of the last frame, which may be in the segment before
	// noted: the file ends at off, with a note that says so. No frame goes there.
	noted bool

	sequence uint64 // of the last frame; above durable: written, not yet synced
	chain    uint32 // its checksum
	time     int64  // its commit time

	buf []byte // aligned, for frames that bring no image
}

// Written says where a frame went.
type Written struct {
	Ref    FrameRef
	Header Header
	// Rolled: the frame begins a new segment, and the seal of the one before is
	// durable.
	Rolled bool
}

// Resume says how a journal goes on after recovery looked at its end.
type Resume struct {
	// Cut ends what is kept where it lies; the fresh segment's header records
	// it, and everything behind it is dead for ever.
	Cut Cut
	// Rewrite holds frames from behind the cut whose payload is kept. They are
	// written into the fresh segment with sequences from Cut.Sequence+1. None
	// may be a seal.
	Rewrite []Draft
	// DeadFrom is where the last valid frame of the newest segment ends, kept or
	// rewritten: on a full disk the space behind it is given up to make room for
	// the fresh segment. Zero: nothing may be given up.
	DeadFrom Pos
	// Snapshot and OlderSnapshot go into the fresh segment's header; see
	// Journal.SetSnapshots. Neither may point behind the cut.
	Snapshot, OlderSnapshot FrameRef
}

// Space says what there is room for, in bytes of frames on disk.
type Space struct {
	Segments, Spares int
	// Remaining is what the current segment still takes, its seal's room
	// subtracted.
	Remaining int64
	// Usable is Remaining and what the spares take.
	Usable int64
	// PrepareError is why a segment cannot get its name, or why the last preparation
	// of a spare failed; nil before the first and after one that succeeded.
	PrepareError error
}

// sealRoom returns what is kept free at the end of a segment for its seal.
func sealRoom(size int64) int64 {
	return min(frameSize(limits.MaxSealSize, 0), size/8&^(limits.BlockSize-1))
}

// sealLimit returns how many bytes of Meta fit that room.
func sealLimit(size int64) int {
	return int(min(limits.MaxSealSize, sealRoom(size)-limits.FrameHeaderSize))
}

// usable returns what a fresh segment takes in frames, the seal apart.
func usable(size int64) int64 { return size - limits.SegmentHeaderSize - sealRoom(size) }

// Volume returns the volume's identity.
func (j *Journal) Volume() ulid.ULID { return j.volume.volume }

// SegmentSize returns the size of the volume's segments in bytes. Single ones
// may be shorter.
func (j *Journal) SegmentSize() int64 { return j.volume.segmentSize }

// SegmentTakes returns how many bytes of frames a fresh segment takes, as
// FrameSize counts them.
func (j *Journal) SegmentTakes() int64 { return usable(j.volume.segmentSize) }

// MaxFrame returns the size of the largest frame that may be appended, as
// FrameSize counts: what a fresh segment takes, but no more than
// limits.MaxFrameSize.
func (j *Journal) MaxFrame() int64 { return min(limits.MaxFrameSize, j.SegmentTakes()) }

// Strangers returns the names in the volume's directory that are not walsvc's,
// as Open found them. They are left alone.
func (j *Journal) Strangers() []string { return slices.Clone(j.strangers) }

// Segments returns the segments, oldest first. IDs that are missing between them,
// and in none of Gaps, are of segments that were removed or lost.
func (j *Journal) Segments() []ID {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := make([]ID, len(j.segments))
	for i, f := range j.segments {
		ids[i] = f.id
	}
	return ids
}

// Durable returns the sequence up to which every frame is durable: what was
// resumed from, and what Sync has confirmed since. Zero before Resume.
func (j *Journal) Durable() uint64 { return j.durable.Load() }

// SetSnapshots sets what the headers of segments begun from now on record:
// where the two newest complete snapshots begin, the newest first. What they
// point at must be durable.
func (j *Journal) SetSnapshots(newest, older FrameRef) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.snapshot, j.older = newest, older
}

// Poisoned returns nil, or the *PoisonedError that ended the journal for good.
func (j *Journal) Poisoned() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.poison == nil {
		return nil
	}
	return j.poison
}

// poisoned ends the journal for good and returns what everybody is told. Only
// the first cause counts.
func (j *Journal) poisoned(op string, cause error) error {
	j.mu.Lock()
	first := j.poison == nil
	if first {
		j.poison = &PoisonedError{Op: op, Cause: cause}
		j.announceLocked()
	}
	err := j.poison
	j.mu.Unlock()
	if first && j.o.Events.Poisoned != nil {
		j.o.Events.Poisoned(err)
	}
	return err
}

// usableLocked returns why nothing can be written, nil if it can.
func (j *Journal) usableLocked() error {
	switch {
	case j.o.ReadOnly:
		return ErrReadOnly
	case j.closed:
		return ErrClosed
	case j.poison != nil:
		return j.poison
	case !j.resumed:
		return ErrNotResumed
	}
	return nil
}

func (j *Journal) usable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.usableLocked()
}

// Resume begins a fresh segment behind r.Cut, writes the frames of r.Rewrite
// into it, and returns their references. It comes once, before the first
// Append, and starts the preparer.
//
// The fresh segment takes the ID after the cut's. Segments with that ID or a
// higher one are replaced or removed, once what is kept of them is durable in
// the fresh one: a crash in between leaves either. When Resume returns nil,
// everything it wrote is durable, its names included.
//
// An error that Is ErrNoSpace costs no more than dead space, and Resume may be
// tried again. So it may after one about r itself; any other poisons the journal.
func (j *Journal) Resume(r Resume) ([]FrameRef, error) {
	if err := j.usable(); !errors.Is(err, ErrNotResumed) {
		if err == nil {
			err = errors.New("journal resumed already")
		}
		return nil, err
	}
	id := r.Cut.End.Segment + 1
	size := int64(limits.SegmentHeaderSize)
	for i := range r.Rewrite {
		n, err := j.check(&r.Rewrite[i])
		if err != nil {
			return nil, fmt.Errorf("resume: rewrite frame %d: %w", r.Cut.Sequence+1+uint64(i), err)
		}
		size += n
	}
	if size+sealRoom(j.volume.segmentSize) > j.volume.segmentSize {
		return nil, fmt.Errorf("resume: %w: %d bytes to rewrite, a segment takes %d", ErrTooLarge,
			size-limits.SegmentHeaderSize, usable(j.volume.segmentSize))
	}
	j.mu.Lock()
	n := len(j.segments)
	released := ID(0) // the newest that was, and is in a gap
	if g := len(j.gaps); g > 0 {
		released = j.gaps[g-1].To
	}
	// The newest segment may be the one that is missing: then the cut is where it
	// would begin, so that its ID is not used again.
	fits := n == 0 && id == 1 || n > 0 && id >= j.segments[0].id && id <= max(j.segments[n-1].id, released)+2
	j.snapshot, j.older = r.Snapshot, r.OlderSnapshot
	j.mu.Unlock()
	if !fits {
		return nil, fmt.Errorf("resume: the cut at %s is not in the journal", r.Cut.End)
	}
	if id <= released {
		// The next opening would take the fresh segment for one that was released.
		return nil, fmt.Errorf("resume: the cut at %s is before segments that were released, up to %s", r.Cut.End, released)
	}
	for from, err := range j.unread {
		if ids := j.Segments(); n == 0 || ids[len(ids)-1] < from {
			return nil, fmt.Errorf("resume: segment %s may be one that was released: %w", id, err)
		}
	}
	refs, err := j.resume(id, size, r)
	if errors.Is(err, ErrNoSpace) {
		return nil, fmt.Errorf("resume: %w", err)
	}
	if err != nil {
		return nil, j.poisoned(fmt.Sprintf("resume: begin segment %s", id), err)
	}
	ctx, stop := context.WithCancel(context.Background())
	j.stop, j.stopping = stop, ctx.Done()
	j.mu.Lock()
	j.resumed = true
	j.announceLocked()
	j.mu.Unlock()
	j.wg.Go(func() { j.pool(ctx) })
	return refs, nil
}

// resume does the work of Resume for a fresh segment id that has to take size
// bytes before its seal.
func (j *Journal) resume(id ID, size int64, r Resume) ([]FrameRef, error) {
	name, fresh, err := j.freshFile(id, size, 0)
	if errors.Is(err, ErrNoSpace) {
		room, gerr := j.giveUpDeadSpace(id, r.DeadFrom)
		if gerr != nil {
			return nil, gerr
		}
		name, fresh, err = j.freshFile(id, size, max(room, 1))
	}
	if err != nil {
		return nil, err
	}
	refs, err := j.resumeIn(name, id, fresh, r)
	if errors.Is(err, ErrNoSpace) {
		err = errors.Join(err, j.putBack(name))
	}
	return refs, err
}

// resumeIn does the work of Resume in a file of size bytes. It returns ErrNoSpace,
// wrapped, if the file cannot get its segment's name: it is still there then.
func (j *Journal) resumeIn(name string, id ID, size int64, r Resume) ([]FrameRef, error) {
	hdr, err := j.newHeader(id, size, r.Cut)
	if err != nil {
		return nil, err
	}
	f, err := j.fileOf(name, true)
	if err != nil {
		return nil, err
	}
	t := tail{
		id: id, file: f, life: hdr.life(), off: limits.SegmentHeaderSize,
		last: r.Cut.Last, sequence: r.Cut.Sequence, chain: r.Cut.Chain, time: r.Cut.Time,
	}
	err = writeHeader(f, hdr)
	refs := make([]FrameRef, 0, len(r.Rewrite))
	for i := 0; i < len(r.Rewrite) && err == nil; i++ {
		var w Written
		w, err = t.write(&r.Rewrite[i], r.Cut.Sequence)
		refs = append(refs, w.Ref)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	// Only now that the rewritten frames are durable may the segments go that
	// had them.
	if err := j.removeFrom(id + 1); err != nil {
		return nil, err
	}
	t.file, err = j.name(name, hdr)
	if errors.Is(err, errNoName) {
		if _, err := j.giveUpDeadSpace(id, r.DeadFrom); err != nil {
			return nil, err
		}
		t.file, err = j.name(name, hdr)
	}
	if err != nil {
		return nil, err
	}
	j.tail = t
	j.durable.Store(t.sequence)
	j.measure(true)
	return refs, nil
}

// putBack gives up a file that was to become a segment and has no room for the name.
func (j *Journal) putBack(name string) error {
	if !isSpareName(name) {
		return j.o.FS.Remove(filepath.Join(j.o.Dir, name))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spares = append(j.spares, name)
	j.announceLocked()
	return nil
}

// freshFile returns the name and size of a file for a segment that has to take
// need bytes before its seal: a spare, the reserve if it must be, or a short
// file written on the spot; if room bytes were given up for it, as large as they
// allow. It returns ErrNoSpace, wrapped, if there is none of these.
func (j *Journal) freshFile(id ID, need, room int64) (string, int64, error) {
	j.mu.Lock()
	if len(j.spares) > 0 {
		name := j.takeLocked()
		j.mu.Unlock()
		return name, j.volume.segmentSize, nil
	}
	j.mu.Unlock()
	if room > 0 {
		return j.shortFile(id, need, room)
	}
	size := max(shortSegment, roundUp(need+sealRoom(limits.MaxSegmentSize)))
	size = min(size, j.volume.segmentSize)
	name := segmentName(id) + tmpSuffix
	err := j.createZeroed(name, size, func(int64) error { return nil })
	if isFull(err) {
		err = fmt.Errorf("%w: a segment of %d bytes: %w", ErrNoSpace, size, err)
	}
	return name, size, err
}

// shortFile returns the name and size of a file, written on the spot, for
// segment id, which has to take need bytes before its seal. It is as large as
// the disk allows, since what is left of it cannot become a spare. room bytes
// were given up for it: what a file system keeps for the superuser, it does not
// say is free. It returns ErrNoSpace, wrapped, if the disk has too little.
func (j *Journal) shortFile(id ID, need, room int64) (string, int64, error) {
	free, err := j.o.FS.Free(j.o.Dir)
	if err != nil {
		return "", 0, fmt.Errorf("ask for room: %w", err)
	}
	name := segmentName(id) + tmpSuffix
	room = max(room, int64(min(free, limits.MaxSegmentSize)))
	size := min(room, j.volume.segmentSize) &^ (limits.BlockSize - 1)
	for again := true; size >= limits.MinSegmentSize && need+sealRoom(size) <= size; again = false {
		err := j.createZeroed(name, size, func(int64) error { return nil })
		if !isFull(err) {
			return name, size, err
		}
		// What was given up, and what this attempt took, is free for certain only
		// when that is durable. File systems take some of it for themselves.
		j.lockNames()
		err = j.o.FS.SyncDir(j.o.Dir)
		j.unlockNames()
		if err != nil {
			return "", 0, err
		}
		if !again {
			size = (size - size/8) &^ (limits.BlockSize - 1)
		}
	}
	return "", 0, fmt.Errorf("%w: a segment that takes %d bytes: the disk has %d", ErrNoSpace, need, room)
}

// giveUpDeadSpace frees what lies behind the last valid frame, but for a note
// that says so, and the segments from the one behind id on, which hold nothing
// that is kept. It returns how many bytes of the first that was.
func (j *Journal) giveUpDeadSpace(id ID, from Pos) (freed int64, err error) {
	if err := j.removeFrom(id + 1); err != nil {
		return 0, err
	}
	j.mu.Lock()
	known := slices.ContainsFunc(j.segments, func(f file) bool { return f.id == from.Segment })
	j.mu.Unlock()
	if !known || from.Offset < limits.SegmentHeaderSize {
		return 0, nil
	}
	return j.giveUp(from)
}

// giveUp frees what lies behind from in its segment, where a frame ends that no
// frame follows, but for a note that says so. It returns how many bytes that is.
func (j *Journal) giveUp(from Pos) (freed int64, err error) {
	f, err := j.fileOf(segmentName(from.Segment), true)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	if err == nil && size > from.Offset+noteSize {
		err = j.shorten(f, from)
		freed = size - roundUp(from.Offset+noteSize)
		size = from.Offset + noteSize
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("give up dead space of segment %s: %w", from.Segment, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.segments {
		if j.segments[i].id == from.Segment {
			j.segments[i].size = size
		}
	}
	for i := range j.released { // since it was looked for
		if j.released[i].id == from.Segment {
			j.released[i].size = size
		}
	}
	return freed, nil
}

// shorten ends a segment's file at from, with a note there: a file that became
// short without one has lost what it held.
func (j *Journal) shorten(f disk.File, from Pos) error {
	hdr, err := j.Header(from.Segment)
	if err != nil {
		return err
	}
	// The note takes no space: its block was written before.
	if _, err := f.WriteAt(hdr.life().appendNote(nil, from.Offset), from.Offset); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Truncate(from.Offset + noteSize); err != nil {
		return err
	}
	return f.Sync()
}

// removeFrom removes the segments from id on, which hold nothing that is kept: the
// newest first and each durably, so that a crash leaves no gap. It returns errNoName
// if there is no room for that, though they gave up all that they have.
func (j *Journal) removeFrom(id ID) error {
	for {
		j.mu.Lock()
		n := len(j.segments)
		if n == 0 || j.segments[n-1].id < id {
			j.mu.Unlock()
			return nil
		}
		last := j.segments[n-1]
		j.mu.Unlock()
		err := j.unname(last.name, last.name+tmpSuffix)
		if errors.Is(err, errNoName) {
			// A name that is removed at once, without another one, is not there to be
			// given back if that cannot be proven.
			if _, err := j.giveUp(Pos{last.id, limits.SegmentHeaderSize}); err != nil {
				return err
			}
			err = j.unname(last.name, last.name+tmpSuffix)
		}
		if err == nil {
			j.mu.Lock()
			delete(j.headers, last.id)
			j.segments = j.segments[:n-1]
			j.mu.Unlock()
			err = j.o.FS.Remove(filepath.Join(j.o.Dir, last.name+tmpSuffix))
		}
		if err != nil {
			return fmt.Errorf("remove segment %s: %w", last.id, err)
		}
	}
}

// newHeader makes the header of a life that begins now.
func (j *Journal) newHeader(id ID, size int64, cut Cut) (*SegmentHeader, error) {
	h := &SegmentHeader{
		Version: FormatVersion,
		Volume:  j.volume.volume,
		ID:      id,
		Size:    size,
		Cut:     cut,
		Created: j.o.Now(),
	}
	j.randMu.Lock()
	_, err := io.ReadFull(j.o.Rand, h.Salt[:])
	j.randMu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("draw salt: %w", err)
	}
	j.mu.Lock()
	h.Snapshot, h.OlderSnapshot = j.snapshot, j.older
	j.mu.Unlock()
	return h, nil
}

// writeHeader writes a segment's header over a file's first block.
func writeHeader(f disk.File, h *SegmentHeader) error {
	b := disk.AlignedBuffer(limits.SegmentHeaderSize)
	h.encode(b)
	_, err := f.WriteAt(b, 0)
	return err
}

func (j *Journal) lockNames()   { j.names <- struct{}{} }
func (j *Journal) unlockNames() { <-j.names }

// name gives the synced file of a new life its segment's name, replacing what
// has it, and makes that durable: from here on the segment exists. It returns
// the file under that name, or errNoName if nothing was changed for want of space.
func (j *Journal) name(from string, h *SegmentHeader) (disk.File, error) {
	to := segmentName(h.ID)
	j.lockNames()
	err := j.rename(from, to)
	if isFull(err) {
		err = fmt.Errorf("%w: %w", errNoName, err)
	}
	if err == nil {
		err = j.o.FS.SyncDir(j.o.Dir)
	}
	j.unlockNames()
	if err != nil {
		return nil, err
	}
	f, err := j.fileOf(to, true)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	if n := len(j.segments); n > 0 && j.segments[n-1].id == h.ID {
		j.segments = j.segments[:n-1]
	}
	j.segments = append(j.segments, file{id: h.ID, name: to, size: h.Size})
	j.headers[h.ID] = h
	j.mu.Unlock()
	if j.o.Events.Begun != nil {
		j.o.Events.Begun(h.ID, h.Size)
	}
	return f, nil
}

// check returns the size on disk of a frame that may be written.
func (j *Journal) check(d *Draft) (int64, error) {
	if d.Kind != KindCommands && d.Kind != KindSnapshot && d.Kind != KindPromise {
		return 0, fmt.Errorf("append: a %s is not the caller's to write", d.Kind)
	}
	if len(d.Blocks) > limits.MaxBlocksPerFrame {
		return 0, fmt.Errorf("%w: %d blocks, the limit is %d", ErrTooLarge, len(d.Blocks), limits.MaxBlocksPerFrame)
	}
	if dir := len(d.Blocks)*blkSize + len(d.Meta); dir > limits.MaxDirectorySize {
		return 0, fmt.Errorf("%w: directory of %d bytes, the limit is %d", ErrTooLarge, dir, limits.MaxDirectorySize)
	}
	var stored, raw int64
	for i := range d.Blocks {
		b := &d.Blocks[i]
		if b.RawSize > limits.MaxBlockRawSize {
			return 0, fmt.Errorf("%w: block %d of %d raw bytes, the limit is %d", ErrTooLarge, i, b.RawSize, limits.MaxBlockRawSize)
		}
		if !b.Codec.Valid() || b.Codec == codec.None && int(b.RawSize) != len(b.Stored) {
			return 0, fmt.Errorf("append: block %d: %d bytes stored with %s for %d raw ones", i, len(b.Stored), b.Codec, b.RawSize)
		}
		stored += int64(len(b.Stored))
		raw += int64(b.RawSize)
	}
	size := FrameSize(len(d.Meta), len(d.Blocks), stored)
	if size > j.MaxFrame() {
		return 0, fmt.Errorf("%w: %d bytes on disk, the limit is %d", ErrTooLarge, size, j.MaxFrame())
	}
	if raw != int64(uint32(raw)) {
		return 0, fmt.Errorf("%w: %d raw bytes do not fit 32 bits", ErrTooLarge, raw)
	}
	return size, nil
}

// Append writes one frame behind the last one, in one write, with the next
// sequence. It is durable only after Sync. It rolls into a new segment if it
// must: then everything before this frame is durable when it returns. If the
// frame was not admitted, it may have waited for a spare.
//
// The checksums of d's blocks are the caller's to get right. Errors that Are
// ErrTooLarge or ErrNoSpace, and those about a malformed draft, leave the
// journal as it was; every other one is for good.
func (j *Journal) Append(d *Draft) (Written, error) {
	if err := j.usable(); err != nil {
		return Written{}, err
	}
	size, err := j.check(d)
	if err != nil {
		return Written{}, err
	}
	rolled := size > j.tail.remaining()
	if rolled {
		if err := j.roll(); err != nil {
			return Written{}, err
		}
	}
	w, err := j.tail.write(d, j.durable.Load())
	if err != nil {
		return Written{}, j.poisoned(fmt.Sprintf("write frame %d at %s", j.tail.sequence+1, Pos{j.tail.id, j.tail.off}), err)
	}
	w.Rolled = rolled
	j.measure(false)
	return w, nil
}

// measure tells admission what the current segment still takes. begun: it is a
// fresh one.
func (j *Journal) measure(begun bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	left := j.tail.remaining()
	if begun {
		j.rolling, j.ended, j.unnamed = false, false, nil
		j.room.Store(left)
	}
	if !j.ended {
		j.remaining.Store(left)
	}
	if begun {
		j.announceLocked()
	}
}

// EndSegment makes admission count on the current segment no more, so that Roll
// can begin another one without taking the ground from what was admitted. When
// everything that was admitted before has been appended, Roll may come.
func (j *Journal) EndSegment() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended = true
	j.remaining.Store(0)
}

// Roll begins a new segment behind one that EndSegment ended, unless that
// happened already: its header records the snapshots that were set since the
// current one was begun, so that what only older ones need can be released. It
// comes from whoever calls Append, and takes the last spare. Without one, it
// gives up what is left of the current segment and begins a short one there.
//
// An error that Is ErrNoSpace means that there was no room for that either: the
// current segment goes on, or, if its space has gone to somebody else on the
// disk, takes nothing until there is room and Roll comes again. Every other
// error is for good.
func (j *Journal) Roll() error {
	if err := j.usable(); err != nil {
		return err
	}
	j.mu.Lock()
	ended := j.ended
	j.mu.Unlock()
	if !ended {
		return nil
	}
	err := j.roll()
	if errors.Is(err, ErrNoSpace) {
		j.mu.Lock()
		j.ended = false
		j.remaining.Store(j.tail.remaining())
		j.announceLocked()
		j.mu.Unlock()
	}
	return err
}

// Sync makes everything appended durable, or poisons the journal. With nothing
// appended since the last time it does not ask the disk.
func (j *Journal) Sync() error {
	if err := j.usable(); err != nil {
		return err
	}
	if j.tail.sequence == j.durable.Load() {
		return nil
	}
	if err := j.tail.file.Sync(); err != nil {
		return j.poisoned(fmt.Sprintf("sync segment %s", j.tail.id), err)
	}
	j.durable.Store(j.tail.sequence)
	return nil
}

// roll ends the current segment and goes on in a new one.
func (j *Journal) roll() error {
	if err := j.Sync(); err != nil {
		return err
	}
	t := &j.tail
	d := &Draft{Kind: KindSeal, Time: j.o.Now()}
	if !t.noted {
		limit := sealLimit(t.life.size)
		if d.Meta = j.o.Seal(t.id, limit); len(d.Meta) > limit {
			return fmt.Errorf("%w: index of %d bytes in the seal of segment %s, the limit is %d", ErrTooLarge, len(d.Meta), t.id, limit)
		}
	}
	name, size, err := j.successor()
	if err != nil {
		return err
	}
	if !t.noted {
		seal := t.assemble(d, j.durable.Load())
		if err = j.goOn(name, size, &seal); !errors.Is(err, errNoName) {
			return err
		}
		// What is left of the segment that ends makes room for the next one's name.
		if err := j.endWithNote(); err != nil {
			return err
		}
	}
	for {
		if err = j.goOn(name, size, nil); !errors.Is(err, errNoName) {
			return err
		}
		if err := j.awaitRoom(err); err != nil {
			return err
		}
	}
}

// endWithNote ends the current segment as one ends that a restart ends: with the
// last frame, which is durable, and without a seal. What is left of it is given up.
func (j *Journal) endWithNote() error {
	t := &j.tail
	if _, err := j.giveUp(Pos{t.id, t.off}); err != nil {
		return j.poisoned(fmt.Sprintf("end segment %s", t.id), err)
	}
	t.noted = true
	return nil
}

// awaitRoom waits before a file is named once more that had no room for its name.
// Frames that were admitted need it, and nothing of it has happened: so they wait,
// and nothing else is admitted meanwhile. The error is one of usable, or ErrClosed
// after Drain.
func (j *Journal) awaitRoom(why error) error {
	j.mu.Lock()
	first := j.unnamed == nil
	if j.unnamed = why; first {
		j.announceLocked()
	}
	err, changed := j.usableLocked(), j.changed
	if err == nil && j.drained {
		err = fmt.Errorf("%w: there was no room yet for a segment's name", ErrClosed)
	}
	j.mu.Unlock()
	if err != nil {
		return err
	}
	if first && j.o.Events.PrepareFailed != nil {
		j.o.Events.PrepareFailed(why)
	}
	again := time.NewTimer(retryMin)
	defer again.Stop()
	select {
	case <-changed:
	case <-again.C:
	}
	return nil
}

// Drain ends an Append or Roll that waits for room on a full disk, and lets none wait
// again: they return ErrClosed, and what they were to write was not written. It comes
// before Close, whose callers wait for Append to return.
func (j *Journal) Drain() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.drained = true
	j.announceLocked()
}

// successor returns a file for the segment that is begun next: a spare, or, if
// the current segment is ended, a short one in place of what is left of that.
func (j *Journal) successor() (name string, size int64, err error) {
	name, err = j.takeSpare()
	if err == nil {
		return name, j.volume.segmentSize, nil
	}
	t := &j.tail
	j.mu.Lock()
	ended := j.ended
	j.mu.Unlock()
	if !ended || !errors.Is(err, ErrNoSpace) {
		return "", 0, err
	}
	if !t.noted {
		free, ferr := j.o.FS.Free(j.o.Dir)
		if ferr != nil || int64(min(free, limits.MaxSegmentSize))+t.life.size-roundUp(t.off+noteSize) < limits.MinSegmentSize {
			return "", 0, err
		}
		if err := j.endWithNote(); err != nil {
			return "", 0, err
		}
	}
	name, size, err = j.shortFile(t.id+1, limits.SegmentHeaderSize, t.life.size-roundUp(t.off+noteSize))
	if err != nil && !errors.Is(err, ErrNoSpace) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err) // as when a spare cannot be prepared
	}
	return name, size, err
}

// goOn begins the next segment in a file of size bytes, and then writes the
// current one's seal, if it gets one. The seal's bytes are known before they
// are written, so that the successor says where this segment ends before
// anything tells that it does: a sealed segment without a successor is damage,
// not a crash. It returns errNoName, with nothing changed, if there is no room for
// the name.
func (j *Journal) goOn(name string, size int64, seal *assembled) error {
	t := &j.tail
	cut := Cut{End: Pos{t.id, t.off}, Last: t.last, Sequence: t.sequence, Chain: t.chain, Time: t.time}
	if seal != nil {
		cut = Cut{
			End:      Pos{t.id, t.off + int64(len(seal.bytes))},
			Last:     Pos{t.id, t.off},
			Sequence: seal.header.Sequence,
			Chain:    seal.header.Checksum,
			Time:     seal.header.Time,
		}
	}
	next, err := j.begin(name, size, cut)
	if errors.Is(err, errNoName) {
		return err
	}
	if err != nil {
		return j.poisoned(fmt.Sprintf("begin segment %s", t.id+1), err)
	}
	next.buf = t.buf
	if seal != nil {
		if err = t.put(seal); err == nil {
			err = t.file.Sync()
		}
	}
	if err == nil {
		err = t.file.Close()
	} else {
		err = errors.Join(err, t.file.Close())
	}
	if err != nil {
		t.file = next.file // what Close closes
		return j.poisoned(fmt.Sprintf("seal segment %s", t.id), err)
	}
	sealed := t.id
	j.durable.Store(cut.Sequence)
	j.tail = next
	j.measure(true)
	if seal != nil && j.o.Events.Sealed != nil {
		j.o.Events.Sealed(sealed)
	}
	return nil
}

// begin makes a file of size bytes the segment behind cut, durably.
func (j *Journal) begin(spare string, size int64, cut Cut) (tail, error) {
	h, err := j.newHeader(cut.End.Segment+1, size, cut)
	if err != nil {
		return tail{}, err
	}
	f, err := j.fileOf(spare, true)
	if err != nil {
		return tail{}, err
	}
	if err = writeHeader(f, h); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return tail{}, err
	}
	if f, err = j.name(spare, h); err != nil {
		return tail{}, err
	}
	return tail{
		id: h.ID, file: f, life: h.life(), off: limits.SegmentHeaderSize,
		last: cut.Last, sequence: cut.Sequence, chain: cut.Chain, time: cut.Time,
	}, nil
}

// remaining returns what the segment still takes, the seal's room subtracted.
func (t *tail) remaining() int64 {
	if t.noted {
		return 0
	}
	return t.life.size - sealRoom(t.life.size) - t.off
}

// write appends one frame.
func (t *tail) write(d *Draft, promise uint64) (Written, error) {
	f := t.assemble(d, promise)
	ref := FrameRef{Pos: Pos{t.id, t.off}, Sequence: f.header.Sequence, Chain: f.header.Chain}
	if err := t.put(&f); err != nil {
		return Written{}, err
	}
	return Written{Ref: ref, Header: f.header}, nil
}

// assembled is a frame as it is written.
type assembled struct {
	header Header
	bytes  []byte
}

// assemble builds the next frame, in the draft's image if it has one and in the tail's
// buffer otherwise. Nothing counts before put.
func (t *tail) assemble(d *Draft, promise uint64) assembled {
	h := Header{
		Version:       FormatVersion,
		Kind:          d.Kind,
		Chain:         t.chain,
		Sequence:      t.sequence + 1,
		Promise:       promise,
		Term:          d.Term,
		Index:         d.Index,
		Time:          max(d.Time, t.time),
		DirectorySize: uint32(len(d.Blocks)*blkSize + len(d.Meta)),
		BlockCount:    uint32(len(d.Blocks)),
	}
	for i := range d.Blocks {
		h.BlocksSize += uint32(len(d.Blocks[i].Stored))
		h.BlocksRawSize += d.Blocks[i].RawSize
	}
	size := int(h.Size())
	b, at := d.Image, limits.FrameHeaderSize+int(h.BlocksSize)
	if d.inPlace(size) {
		b = b[:at]
	} else {
		b = t.buffer(size)[:limits.FrameHeaderSize]
		for i := range d.Blocks {
			b = append(b, d.Blocks[i].Stored...)
		}
	}
	b = appendDirectory(b, d.Blocks, d.Meta)
	h.DirectorySum = checksum(b[at:])
	clear(b[len(b):size])
	h.encode(b, t.life, t.off)
	return assembled{h, b[:size]}
}

// buffer returns the tail's own memory for a frame of size bytes.
func (t *tail) buffer(size int) []byte {
	if len(t.buf) < size || len(t.buf) > max(size, keepBuffer) {
		// Doubled, so that frames that grow do not take a new one each.
		t.buf = disk.AlignedBuffer(max(size, minBuffer, min(2*len(t.buf), keepBuffer)))
	}
	return t.buf
}

// put writes the frame that was assembled.
func (t *tail) put(f *assembled) error {
	if _, err := t.file.WriteAt(f.bytes, t.off); err != nil {
		return err
	}
	t.last = Pos{t.id, t.off}
	t.off += int64(len(f.bytes))
	t.sequence, t.chain, t.time = f.header.Sequence, f.header.Checksum, f.header.Time
	return nil
}

// Close stops the preparer, closes the files and gives the lock back. It makes
// nothing durable: what was appended and not synced may be lost. It must not be
// called while Resume, Append or Sync runs, except to end an Append that waits
// for a spare. Readers stay open, and are their users' to close.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.announceLocked()
	j.mu.Unlock()
	if j.stop != nil {
		j.stop()
		j.wg.Wait()
	}
	var errs []error
	if j.tail.file != nil {
		errs = append(errs, j.tail.file.Close())
	}
	if j.lock != nil {
		errs = append(errs, j.lock.Close())
	}
	return errors.Join(errs...)
}
