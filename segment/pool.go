package segment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

const (
	// zeroChunk is written at once, syncEvery bytes are synced at once: one sync
	// over a whole segment would hold up the commits of frames meanwhile.
	zeroChunk = 1 << 20
	syncEvery = 4 << 20

	// shrinkBy is how much of a file is given up at once before it is removed.
	shrinkBy = 4 << 20

	// shrinkPause is how long frames have the disk to themselves in between.
	shrinkPause = time.Millisecond

	// A preparation that failed is tried again after retryMin, and then after
	// twice the time each, up to retryMax; one that only asked how much room
	// there is, every retryMin.
	retryMin = time.Second
	retryMax = time.Minute
)

// errAsked is an ErrNoSpace that the disk was asked about before anything was
// written.
var errAsked = fmt.Errorf("%w", ErrNoSpace)

var zeroes = sync.OnceValue(func() []byte { return disk.AlignedBuffer(zeroChunk) })

// A releasing is a segment that was released and still has its file's name.
type releasing struct {
	file
	deadline time.Time // from then on pins do not count
	known    bool      // its header was seen to be its own
}

// createZeroed makes a file of size zeroes whose blocks are on disk, durably;
// its name is not durable. It calls pause after each sync with the bytes
// written so far. A failure leaves no file behind.
func (j *Journal) createZeroed(name string, size int64, pause func(written int64) error) (err error) {
	path := filepath.Join(j.o.Dir, name)
	f, err := j.o.FS.Create(path)
	if err != nil {
		return err
	}
	for at := int64(0); at < size && err == nil; {
		n := min(size-at, zeroChunk)
		if _, err = f.WriteAt(zeroes()[:n], at); err != nil {
			break
		}
		if at += n; at%syncEvery != 0 && at != size {
			continue
		}
		if err = f.Sync(); err == nil {
			err = pause(at)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, j.o.FS.Remove(path))
	}
	return nil
}

// pool is the journal's only goroutine: it keeps spares prepared, and recycles
// released segments once nothing pins them any more.
func (j *Journal) pool(ctx context.Context) {
	retry := retryMin
	for {
		var wake <-chan time.Time
		next, waiting := j.recycleReleased()
		if j.wantsSpare() {
			err := j.prepare(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				retry = retryMin
				continue
			}
			if errors.Is(err, errAsked) {
				retry = retryMin // asking costs nothing
			}
			if again := time.Now().Add(retry); !waiting || again.Before(next) {
				next, waiting = again, true
			}
			retry = min(2*retry, retryMax)
		}
		if waiting {
			wake = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-j.kick:
		case <-wake:
		}
	}
}

// kickPool makes the pool look again. It never blocks.
func (j *Journal) kickPool() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

func (j *Journal) wantsSpare() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.spares) < j.target && j.poison == nil
}

// prepare writes a spare and reports how that went.
func (j *Journal) prepare(ctx context.Context) error {
	began := time.Now()
	name, err := j.writeSpare(ctx, began)
	if ctx.Err() != nil {
		return err
	}
	j.mu.Lock()
	again := errors.Is(err, ErrNoSpace) && errors.Is(j.prepareErr, ErrNoSpace)
	j.prepareErr = err
	if err == nil {
		j.spares = append(j.spares, name)
	}
	j.announceLocked()
	j.mu.Unlock()
	switch {
	case err == nil && j.o.Events.Prepared != nil:
		j.o.Events.Prepared(j.volume.segmentSize, time.Since(began))
	case err != nil && !again && j.o.Events.PrepareFailed != nil:
		j.o.Events.PrepareFailed(err)
	}
	return err
}

// writeSpare writes a file of zeroes, as fast as pace lets it, and makes it a spare, durably.
func (j *Journal) writeSpare(ctx context.Context, began time.Time) (string, error) {
	size := j.volume.segmentSize
	if err := j.askForRoom(size); err != nil {
		return "", fmt.Errorf("prepare spare: %w", err)
	}
	name, err := j.newSpareName()
	if err != nil {
		return "", fmt.Errorf("prepare spare: %w", err)
	}
	err = j.createZeroed(name+tmpSuffix, size, func(written int64) error {
		return j.pace(ctx, began, written)
	})
	if err == nil {
		j.lockNames()
		if err = j.rename(name+tmpSuffix, name); err != nil {
			err = errors.Join(err, j.o.FS.Remove(filepath.Join(j.o.Dir, name+tmpSuffix)))
		} else {
			// If this fails, the file keeps its name without being counted: whether
			// it survives is unknown, and the next open finds out.
			err = j.o.FS.SyncDir(j.o.Dir)
		}
		j.unlockNames()
	}
	if isFull(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if err != nil {
		return "", fmt.Errorf("prepare spare: %w", err)
	}
	return name, nil
}

// askForRoom says whether the disk has room for size bytes, after giving up dead
// space if it must. It is asked before they are written: filling a disk to its
// last byte to find out would take from its other users what they need.
func (j *Journal) askForRoom(size int64) error {
	free, err := j.o.FS.Free(j.o.Dir)
	if err != nil || free >= uint64(size) {
		return nil // who does not answer finds out
	}
	if err := j.reclaim(); err != nil {
		return err
	}
	if free, err = j.o.FS.Free(j.o.Dir); err != nil || free >= uint64(size) {
		return nil
	}
	return fmt.Errorf("%w: it takes %d bytes, the disk has %d", errAsked, size, free)
}

// reclaim gives up the dead space of segments that a restart ended early. A
// service that is started again and again would else fill a disk with segments
// of a few frames each. What a roll ended has little dead space, and stays whole:
// a file that was shortened cannot be recycled.
func (j *Journal) reclaim() error {
	j.releaseMu.Lock() // no file gets another name meanwhile
	defer j.releaseMu.Unlock()
	ids := j.Segments()
	for _, id := range ids[:max(len(ids), 1)-1] {
		if id < j.reclaimed {
			continue
		}
		end, size, known := j.deadSpace(id)
		if !known {
			continue // where the segment ends is not known, and a reader will tell why
		}
		if size-end.Offset >= max(size/4, limits.MinSegmentSize/2) {
			if _, err := j.giveUp(end); err != nil {
				return err
			}
		}
		j.reclaimed = id + 1
	}
	return nil
}

// deadSpace returns where the dead space of a segment begins that is not the newest, and
// the size of its file.
func (j *Journal) deadSpace(id ID) (from Pos, size int64, known bool) {
	next, err := j.Header(id + 1)
	if err != nil || next.Cut.End.Segment != id {
		return from, 0, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	at := slices.IndexFunc(j.segments, func(f file) bool { return f.id == id })
	if at < 0 {
		return from, 0, false
	}
	return next.Cut.End, j.segments[at].size, true
}

// roomForGap gives up the dead space of one segment, for the file of a gap on a full disk,
// and reports whether it did. One that stays, if any has enough: it cannot be recycled
// then. REQUIRES: j.releaseMu.
//
// Without it a volume could fill its own disk for good: what is begun in place of a
// segment's rest takes all that the disk has, and behind a segment that somebody keeps
// nothing would ever go again.
func (j *Journal) roomForGap(gone map[ID]bool) bool {
	if free, err := j.o.FS.Free(j.o.Dir); err != nil || free >= 2*gapFileSize {
		return false // it is something else that there is no room for
	}
	for _, going := range []bool{false, true} {
		for _, id := range j.Below(math.MaxUint64) {
			end, size, known := j.deadSpace(id)
			if gone[id] != going || !known || size-end.Offset < 2*gapFileSize {
				continue
			}
			if _, err := j.giveUp(end); err == nil {
				return true
			}
		}
	}
	return false
}

// paceCheck is how often a preparer that holds itself back looks whether it may.
const paceCheck = 5 * time.Millisecond

// pace holds the preparer back to PrepareRate, from began on, while there is
// time: it lets the spare grow at least twice as fast as the current segment
// fills, so that it is done before it is needed, however fast frames come. With
// the rate alone, a volume that recycles nothing could take no more than that.
func (j *Journal) pace(ctx context.Context, began time.Time, written int64) error {
	if j.o.PrepareRate < 0 {
		return ctx.Err()
	}
	due := began.Add(time.Duration(float64(written) / float64(j.o.PrepareRate) * float64(time.Second)))
	for {
		room, left := float64(j.room.Load()), time.Until(due)
		filled := (room - float64(j.remaining.Load())) / room
		if left <= 0 || float64(written) < 2*filled*float64(j.volume.segmentSize) {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, paceCheck)):
		}
	}
}

// newSpareName draws a name that no spare has.
func (j *Journal) newSpareName() (string, error) {
	for {
		j.randMu.Lock()
		u, err := ulid.New(uint64(j.o.Now()/1e6), j.o.Rand)
		j.randMu.Unlock()
		if err != nil {
			return "", fmt.Errorf("draw name: %w", err)
		}
		name := spareName(u)
		j.mu.Lock()
		taken := slices.Contains(j.spares, name)
		j.mu.Unlock()
		if !taken {
			return name, nil
		}
	}
}

// announceLocked wakes whoever waits for a change of the spares, of the
// preparer's luck, or of the poison.
func (j *Journal) announceLocked() {
	close(j.changed)
	j.changed = make(chan struct{})
	j.ready.Store(int64(len(j.spares)))
	if j.unnamed != nil || j.usableLocked() != nil {
		j.ready.Store(0)
	}
}

// takeSpare takes a spare for a segment that frames roll into. What was admitted
// finds one; who did not ask waits for the preparer. It returns ErrNoSpace,
// wrapped, if there is none and none is being prepared.
func (j *Journal) takeSpare() (string, error) {
	for {
		j.mu.Lock()
		err, n, changed := j.usableLocked(), len(j.spares), j.changed
		switch {
		case err != nil:
		case n > 0:
			name := j.takeLocked()
			j.rolling = true
			j.mu.Unlock()
			return name, nil
		case j.prepareErr != nil:
			err = fmt.Errorf("%w: no spare segment: %w", ErrNoSpace, j.prepareErr)
		}
		j.mu.Unlock()
		if err != nil {
			return "", err
		}
		<-changed
	}
}

// writtenLocked returns how many segments are written and not counted in
// remaining: the spares, and the one that a roll is about to begin.
func (j *Journal) writtenLocked() int {
	if j.rolling {
		return len(j.spares) + 1
	}
	return len(j.spares)
}

// takeLocked takes the oldest spare, of which there must be one.
func (j *Journal) takeLocked() string {
	name := j.spares[0]
	j.spares = slices.Delete(j.spares, 0, 1)
	j.announceLocked()
	j.kickPool()
	return name
}

// A SpareUse says what frames may do to the last spare.
type SpareUse uint8

const (
	// LeaveSpare says that one spare has to stay. While the first one is being
	// prepared, the current segment may be filled without one.
	LeaveSpare SpareUse = iota
	// KeepSpare says that if there is one it has to stay, but the current segment may be
	// filled without one.
	KeepSpare
	// TakeSpare says that they may take it.
	TakeSpare
)

// A Reserve is what frames have to leave for what must go on when there is no
// room for more. Its zero value leaves one spare.
type Reserve struct {
	// Bytes of frames that have to fit behind them.
	Bytes int64
	Spare SpareUse
	// Again: without any spare, they have to fit once more. The next opening
	// rewrites the last frame, in what is left of the current segment.
	Again bool
}

// WaitSpace waits while Admit says ErrPreparing, and returns nil when it says
// something else. The error is ctx's.
func (j *Journal) WaitSpace(ctx context.Context, pending int64, leave Reserve) error {
	for {
		j.mu.Lock()
		err, changed := j.admitLocked(pending, leave), j.changed
		j.mu.Unlock()
		if !errors.Is(err, ErrPreparing) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Space says what there is room for. Before Resume only spares count.
func (j *Journal) Space() Space {
	j.mu.Lock()
	defer j.mu.Unlock()
	one := j.SegmentTakes()
	remaining := j.remaining.Load()
	return Space{
		Segments:     len(j.segments),
		Spares:       len(j.spares),
		Remaining:    remaining,
		Usable:       remaining + int64(j.writtenLocked())*one,
		PrepareError: cmp.Or(j.unnamed, j.prepareErr),
	}
}

// Admit says whether frames of together at most pending bytes can be appended,
// FrameSize of each: everything the caller has admitted and not yet appended,
// and what it is about to admit. It is asked before anything is decided, so that
// a full disk is a refusal, never a hole. Only space that is written counts, in
// the worst order of frames, so Append of what was admitted never waits and never
// fails for space.
//
// It returns nil; ErrPreparing if there is not enough now, but the preparer, or a
// Roll, is at work (WaitSpace, then ask again); ErrCrowded if all spares are there and
// what is pending has to be appended first; ErrNoSpace, wrapped, if there is not
// enough and the preparer failed; or what makes the journal unusable. It never
// blocks.
func (j *Journal) Admit(pending int64, leave Reserve) error {
	if pending+leave.Bytes <= j.remaining.Load() && j.ready.Load() > 0 {
		return nil // the common case costs two loads
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.admitLocked(pending, leave)
}

func (j *Journal) admitLocked(pending int64, leave Reserve) error {
	if err := j.usableLocked(); err != nil {
		return err
	}
	if j.unnamed != nil {
		return j.unnamed
	}
	remaining, written := j.remaining.Load(), j.writtenLocked()
	if written == 0 && leave.Again {
		pending += pending + pending/4 + 4*limits.BlockSize // a segment's header and seal
	}
	need, own := segmentsFor(pending+leave.Bytes, remaining, j.SegmentTakes()), written
	switch leave.Spare {
	case LeaveSpare:
		if own--; own < 0 && j.prepareErr == nil {
			own = 0 // the first one is being prepared
		}
	case KeepSpare:
		own = max(0, own-1)
	case TakeSpare:
	}
	switch {
	case need > 0 && len(j.segments)+need > limits.MaxSegments:
		return fmt.Errorf("%w: %d segments, the limit is %d", ErrNoSpace, len(j.segments), limits.MaxSegments)
	case need <= own:
		return nil
	case j.ended:
		return ErrPreparing // Roll is on its way
	case j.prepareErr != nil:
		return fmt.Errorf("%w: %d bytes pending, %d to be left, %d left in the segment, %d spares: %w",
			ErrNoSpace, pending, leave.Bytes, remaining, written, j.prepareErr)
	case len(j.spares) < j.target:
		return ErrPreparing
	}
	return ErrCrowded
}

// segmentsFor bounds the fresh segments that frames of together pending bytes
// may take, if the current one has remaining bytes left and a fresh one takes
// each. Of two segments that are filled one behind the other, the frames that
// went into them are more than one segment takes: else there were no second.
func segmentsFor(pending, remaining, each int64) int {
	switch {
	case pending <= remaining:
		return 0
	case pending <= each:
		return 1
	}
	return int(2*((pending+each-1)/each) - 1)
}

// Release gives up segments: their files become spares, or are removed if there
// are spares enough. Whatever allows that must be durable. What is not a segment of the
// journal is passed over, and the one that is being written is never given up. Nor is
// one in the middle of the journal if its header cannot be had: it stays until those
// before it have gone.
//
// When it returns, the others are not part of the journal any more, and what
// no Reader pins is durably gone; the rest goes when it is unpinned, or after
// limits.PinLimit. They go oldest first, and those with segments before them that stay
// after the file of a Gap is durable. It returns ErrNoSpace, wrapped, if there was no room
// for such a file, and what it would have spoken of stays. Any other error that is no
// poison has released nothing.
func (j *Journal) Release(ids []ID) error {
	if err := j.usable(); err != nil {
		return err
	}
	err := j.release(ids)
	if _, waiting := j.recycleReleased(); waiting {
		j.kickPool() // so that it sets its clock
	}
	return cmp.Or(j.Poisoned(), err)
}

// release takes segments out of the journal.
func (j *Journal) release(ids []ID) error {
	j.releaseMu.Lock()
	defer j.releaseMu.Unlock()
	gone, asked := map[ID]bool{}, setOf(ids)
	for _, id := range j.Below(math.MaxUint64) {
		if asked[id] {
			gone[id] = true
		}
	}
	if len(gone) == 0 {
		return nil
	}
	gaps := j.gapsBehind(gone)
	j.mu.Lock()
	was := j.gaps // nobody else changes them
	j.mu.Unlock()
	ends := make(map[ID]ID, len(was))
	for _, w := range was {
		ends[w.From] = w.To
	}
	var now []gapFile
	var full error
	for i := range gaps {
		g := &gaps[i]
		var err error
		if ends[g.From] != g.To {
			err = j.writeGap(g)
		}
		if errors.Is(err, ErrNoSpace) && j.roomForGap(gone) {
			err = j.writeGap(g)
		}
		switch {
		case err == nil:
			now = append(now, *g)
			continue
		case !errors.Is(err, ErrNoSpace):
			return err
		}
		full = err
		for id := range gone {
			if g.covers(id) {
				delete(gone, id)
			}
		}
		for _, w := range was {
			if g.covers(w.From) {
				now = append(now, w)
			}
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	deadline := time.Now().Add(limits.PinLimit)
	j.segments = slices.DeleteFunc(j.segments, func(f file) bool {
		if !gone[f.id] {
			return false
		}
		j.released = append(j.released, releasing{file: f, deadline: deadline, known: j.headers[f.id] != nil})
		delete(j.headers, f.id)
		return true
	})
	// Those with nothing before them go before what was in gaps: with them goes the gap,
	// whose file may not be durable.
	slices.SortFunc(j.released, func(a, b releasing) int { return cmp.Compare(a.id, b.id) })
	j.gaps = now
	for _, w := range was {
		switch g, covered := j.gapLocked(w.From); {
		case !covered:
			j.obsolete = append(j.obsolete, w.Gap)
		case g.From != w.From:
			j.obsolete = append(j.obsolete, Gap{w.From, g.To})
		}
	}
	return full
}

// Below returns the segments before before, oldest first, that one left out that is
// being written.
func (j *Journal) Below(before ID) []ID {
	ids := j.Segments()
	ids = ids[:max(len(ids), 1)-1]
	i, _ := slices.BinarySearch(ids, before)
	return ids[:i]
}

// Releasable says what releasing segments would give back: full segments, which
// become spares, and the bytes on disk of those that are shorter.
func (j *Journal) Releasable(ids []ID) (full int, bytes int64) {
	asked := setOf(ids)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.segments[:max(len(j.segments), 1)-1] {
		switch {
		case !asked[f.id]:
		case f.size == j.volume.segmentSize:
			full++
		default:
			bytes += roundUp(f.size)
		}
	}
	return full, bytes
}

func setOf(ids []ID) map[ID]bool {
	set := make(map[ID]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// Waiting returns how many released segments are not recycled yet, since a Reader
// pins the oldest of them, and which that is.
func (j *Journal) Waiting() (oldest ID, segments int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.released) == 0 {
		return 0, 0
	}
	return j.released[0].id, len(j.released)
}

// recycleReleased recycles released segments, in order, up to one that is pinned, and
// says when that one's time is over.
func (j *Journal) recycleReleased() (next time.Time, waiting bool) {
	j.releaseMu.Lock()
	defer j.releaseMu.Unlock()
	defer j.removeGaps()
	for {
		j.mu.Lock()
		if len(j.released) == 0 || j.poison != nil {
			j.mu.Unlock()
			return time.Time{}, false
		}
		r := j.released[0]
		if j.pins[r.id] > 0 && time.Now().Before(r.deadline) {
			j.mu.Unlock()
			return r.deadline, true
		}
		keep := r.size == j.volume.segmentSize && len(j.spares) < limits.MaxSpares
		j.mu.Unlock()
		err := j.proveGap(r.id)
		if err == nil {
			err = j.recycle(r, keep)
		}
		if errors.Is(err, ErrNoSpace) {
			// Nothing has changed. What took the room, often a spare that is being
			// prepared at that moment, may give it back.
			return time.Now().Add(retryMin), true
		}
		if err != nil {
			_ = j.poisoned(fmt.Sprintf("recycle segment %s", r.id), err) // Release asks Poisoned
			return time.Time{}, false
		}
	}
}

// recycle takes the name of a released segment away, durably before the next
// one's and before the file begins another life. A file whose header is not the
// segment's own loses the name and nothing else: it may have another one. REQUIRES:
// j.releaseMu.
//
//	one process                               the next one            a power cut
//	1.wal becomes a spare, which is not
//	proven, and undoing that fails as well    fills it as 9.wal       both names are there
func (j *Journal) recycle(f releasing, keep bool) error {
	if !f.known {
		_, err := j.readHeader(f.id)
		f.known = err == nil
	}
	keep = keep && f.known
	name := f.name + tmpSuffix
	if keep {
		var err error
		if name, err = j.newSpareName(); err != nil {
			return err
		}
	}
	if err := j.unname(f.name, name); err != nil {
		return err
	}
	if !keep {
		if f.known {
			j.shrink(name)
		}
		if err := j.o.FS.Remove(filepath.Join(j.o.Dir, name)); err != nil {
			return err
		}
	}
	j.mu.Lock()
	j.released = slices.Delete(j.released, 0, 1)
	if keep {
		j.spares = append(j.spares, name)
	}
	if len(j.spares) >= j.target {
		j.prepareErr = nil // nobody will ask the disk before one is taken
	}
	j.announceLocked()
	j.mu.Unlock()
	j.kickPool()
	if j.o.Events.Released != nil {
		j.o.Events.Released(f.id, keep)
	}
	return nil
}

// shrink gives up the blocks of a file that is about to be removed, some at a
// time. Removing a large file at once holds up the commits of frames: on ext4 for
// 12 to 26 ms where it has 64 MiB, and as long without pauses: each part waits for
// the commit of one frame, and is in the way of the next. An error is for Remove to find.
func (j *Journal) shrink(name string) {
	f, err := j.o.FS.Open(filepath.Join(j.o.Dir, name), true)
	if err != nil {
		return
	}
	size, err := f.Size()
	for ; err == nil && size > shrinkBy; size -= shrinkBy {
		err = f.Truncate(size - shrinkBy)
		select {
		case <-j.stopping:
		case <-time.After(shrinkPause):
		}
	}
	_ = f.Close()
}

// errNoName is an ErrNoSpace that says that a full disk has no room for another name
// in the directory: xfs takes blocks for one before it gives up the old one. Nothing
// was changed.
var errNoName = fmt.Errorf("%w: no room for another name", ErrNoSpace)

// unname takes a segment's name away and gives its file another, durably. It
// returns errNoName if nothing was changed for want of space. If the change
// cannot be proven, it is undone: a later sync would not prove it either, and a
// segment that seems to be gone and comes back after a power cut lies beyond a
// gap by then.
func (j *Journal) unname(from, to string) error {
	j.lockNames()
	defer j.unlockNames()
	err := j.rename(from, to)
	if isFull(err) {
		return fmt.Errorf("%w: %w", errNoName, err)
	}
	if err != nil {
		return err
	}
	if err := j.o.FS.SyncDir(j.o.Dir); err != nil {
		return errors.Join(err, j.rename(to, from))
	}
	return nil
}

func (j *Journal) rename(from, to string) error {
	return j.o.FS.Rename(filepath.Join(j.o.Dir, from), filepath.Join(j.o.Dir, to))
}
