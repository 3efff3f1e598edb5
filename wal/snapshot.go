package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// defaultSnapshotEvery is how many bytes of journal opening scans at most
// between two snapshots, give or take a frame.
const defaultSnapshotEvery = 32 << 20

// snapshotSegments is how many segments may have begun since the newest snapshot
// before opening takes one: a process that crashes soon after each start never
// comes to defaultSnapshotEvery, and its segments would add up.
const snapshotSegments = 4

// snapshotPart is how many bytes of state ride in one frame: small enough not
// to hold up the frames of commands between which the parts ride.
const snapshotPart = 256 << 10

// A snapshotter writes the durable state into the journal now and then, so that
// opening reads that and what follows instead of everything.
//
// A snapshot is one cut: the state behind one frame. It is frozen under the
// volume's lock, which costs a slice of pointers, and spelled part by part
// while commits go on; of a log that changes meanwhile what changes is copied
// first: a producer with some of its batches, not all of them. It counts when its
// last part is durable, and segments begun from then on say where it is.
//
// In memory it holds the largest log's state, spelled, one part, and what was copied
// of logs that it has not come to.
type snapshotter struct {
	v *Volume
	// worker may be stopped between two parts: a snapshot that is not complete is
	// never used.
	worker

	writing sync.Mutex // one snapshot at a time

	passed bool // opening passed over one that did not open, and may count on it again

	// newest and older are where opening would begin to scan: the frame behind
	// the cut. Guarded by the volume's mu.
	newest, older segment.FrameRef
	// size is that of the newest one, in bytes of journal. Guarded likewise.
	size int64
}

// snapshotDue reports whether a snapshot is worth its writing: when there is
// enough to scan, or the journal rolled, so that segments can be released; but
// of a large state not before seven times as much else was written, or, if that
// were much more to scan than usual, as much; its own frames count. REQUIRES: mu.
//
// What it costs is more than its bytes: every log that is appended to while it is
// spelled is copied first, and no commands commit in the frames of its parts. A scan is
// cheap beside that, and beside the reading of the snapshot itself.
func (v *Volume) snapshotDue(rolled bool) bool {
	size := v.snapshots.size
	enough := max(2*size, min(8*size, 4*v.o.SnapshotEvery))
	if !rolled {
		enough = max(enough, v.o.SnapshotEvery)
	}
	return v.bytes >= enough
}

func (s *snapshotter) start(v *Volume) {
	s.v = v
	s.worker.start(s.turn)
}

// turn takes a snapshot, if there is room for it or will be.
func (s *snapshotter) turn() (more bool) {
	err := s.write()
	for errors.Is(err, segment.ErrPreparing) { // there will be room
		if err = s.v.journal.WaitSpace(s.quit, s.v.admitted.Load()+s.needs(), s.v.leave(forRoom)); err == nil {
			err = s.write()
		}
	}
	if err == nil {
		s.v.janitor.kick()
	}
	// For room the janitor wakes it again. Anything else has poisoned or closed
	// the volume, which tells everybody.
	return err == nil || errors.Is(err, ErrFull)
}

// needs returns about how many bytes of journal the next snapshot takes.
func (s *snapshotter) needs() int64 {
	s.v.mu.RLock()
	defer s.v.mu.RUnlock()
	return snapshotTakes(s.size)
}

// snapshotTakes returns how many bytes of journal a snapshot of size bytes
// takes, grown by a quarter.
func snapshotTakes(size int64) int64 {
	size += size / 4
	return size + (size/snapshotPart+1)*2*limits.BlockSize
}

// snapshotAtOpen takes a snapshot before anything is served if opening had much
// to scan, or the newest one did not open: done later, a crash loop might never come
// to it.
func (v *Volume) snapshotAtOpen() error {
	v.mu.RLock()
	due := v.snapshots.passed || v.snapshotDue(v.last.Pos.Segment >= v.snapshots.newest.Pos.Segment+snapshotSegments)
	v.mu.RUnlock()
	if !due {
		return nil
	}
	if err := v.snapshots.write(); err != nil && !errors.Is(err, ErrFull) {
		return v.wrap(err)
	}
	return nil
}

// errStopped ends a snapshot when the volume closes.
var errStopped = errors.New("stopped")

// write takes one snapshot of every day. It returns ErrFull, with
// segment.ErrPreparing if there will be room, when there is none for it.
func (s *snapshotter) write() error { return s.writeFor(forRoom) }

// writeFor takes one snapshot, in space that use may take.
func (s *snapshotter) writeFor(use purpose) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	v := s.v
	began := time.Now()
	// Asked before the state is frozen, which makes every log that changes
	// afterwards pay for a clone.
	if err := v.journal.Admit(v.admitted.Load()+s.needs(), v.leave(use)); err != nil && !errors.Is(err, segment.ErrCrowded) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	c := v.cut()
	if c.from == s.newest {
		return nil
	}

	w := &snapshotWriter{s: s, from: c.from, use: use}
	w.buf = appendSnapshotStart(w.buf, c.next, len(c.logs))
	for i, l := range c.logs {
		w.buf = appendSnapshotLog(w.buf, l.logState, l.at)
		// What has changed since the cut is kept for as long as it is to be spelled.
		c.logs[i] = cutLog{}
		if err := w.flush(false); err != nil {
			return err
		}
	}
	if err := w.flush(true); err != nil {
		return err
	}

	v.mu.Lock()
	s.older, s.newest = s.newest, c.from
	s.size = w.written
	v.stateSize.Store(s.size)
	v.bytes -= c.bytes
	newest, older := s.newest, s.older
	v.mu.Unlock()
	v.journal.SetSnapshots(newest, older)
	v.counters.snapshots.Add(1)
	if v.o.Events.Snapshot != nil {
		v.o.Events.Snapshot(c.from.Sequence-1, w.written, time.Since(began))
	}
	return nil
}

// A cut is the durable state behind one frame.
type cut struct {
	from  segment.FrameRef // the frame behind it
	next  uint64           // number of the next log
	bytes int64            // of journal since the newest snapshot's cut
	logs  []cutLog         // by number
}

// A cutLog is a log with its places.
type cutLog struct {
	*logState
	at logPlaces
}

// cut takes the durable state as it is. Commits wait for no more than a look at
// each log's places.
func (v *Volume) cut() cut {
	v.mu.Lock()
	c := cut{from: v.last, next: v.durable.next, bytes: v.bytes, logs: make([]cutLog, 0, v.durable.logs.len())}
	for _, l := range v.durable.freeze() {
		c.logs = append(c.logs, cutLog{l, v.index.places.log(l.number)})
	}
	v.mu.Unlock()
	return c
}

// appendSnapshotStart spells what comes before the logs of a snapshot.
func appendSnapshotStart(dst []byte, next uint64, logs int) []byte {
	dst = append(dst, snapshotVersion)
	dst = binary.AppendUvarint(dst, next)
	return binary.AppendUvarint(dst, uint64(logs))
}

// appendSnapshotLog spells a log of a snapshot. The places could be a section for
// all logs at once, but a log's are wanted together with it.
func appendSnapshotLog(dst []byte, l *logState, places logPlaces) []byte {
	at := len(dst)
	from := at + binary.MaxVarintLen64
	dst = appendLogState(append(dst, make([]byte, binary.MaxVarintLen64)...), l)
	// How long it is comes first, and is known last: a log with many producers is a
	// megabyte, of which a second one would be garbage.
	n := binary.PutUvarint(dst[at:], uint64(len(dst)-from))
	dst = dst[:at+n+copy(dst[at+n:], dst[from:])]
	return appendMoved(appendPlaces(dst, l, places.states), places.moved)
}

// appendPlaces spells where the states of a log's checkpoints lie, in the
// order of their names: a byte 1 and the place, or a byte 0 for none.
func appendPlaces(dst []byte, l *logState, places []namedPlace) []byte {
	for i := range l.checkpoints {
		k, ok := findPlace(places, l.checkpoints[i].name)
		if !ok || l.checkpoints[i].size == 0 {
			dst = append(dst, 0)
			continue
		}
		at := places[k]
		dst = append(dst, 1)
		dst = binary.AppendUvarint(dst, uint64(at.pos.Segment))
		dst = binary.AppendUvarint(dst, uint64(at.pos.Offset))
		dst = appendPlace(dst, at.place)
	}
	return dst
}

// appendMoved spells where the copies of a log's records lie, likewise.
func appendMoved(dst []byte, m movedPlace) []byte {
	if m.end == 0 {
		return append(dst, 0)
	}
	dst = append(dst, 1)
	dst = binary.AppendUvarint(dst, uint64(m.end))
	dst = binary.AppendUvarint(dst, m.total)
	dst = binary.AppendUvarint(dst, uint64(m.pos.Segment))
	return binary.AppendUvarint(dst, uint64(m.pos.Offset))
}

// A snapshotWriter cuts a snapshot's bytes into parts.
type snapshotWriter struct {
	s       *snapshotter
	from    segment.FrameRef
	use     purpose
	buf     []byte
	part    uint64
	sum     uint32
	written int64
}

// flush sends off whole parts, and with last set what is left.
func (w *snapshotWriter) flush(last bool) error {
	rest := w.buf
	for len(rest) >= snapshotPart || last {
		n := min(len(rest), snapshotPart, max(1, w.s.v.maxBatch))
		chunk := rest[:n]
		final := last && n == len(rest)
		w.sum = crc32.Update(w.sum, castagnoli, chunk)
		h := snapshotHeader{From: w.from, Part: w.part, Last: final, Sum: w.sum}
		if err := w.send(h, chunk); err != nil {
			return err
		}
		w.written += int64(n)
		w.part++
		rest = rest[n:]
		if final {
			return nil
		}
	}
	w.buf = w.buf[:copy(w.buf, rest)]
	return nil
}

// send puts one part on the bus and waits until it is durable: one part at a
// time is all the memory a snapshot takes.
func (w *snapshotWriter) send(h snapshotHeader, chunk []byte) error {
	v := w.s.v
	select {
	case <-w.s.quit.Done():
		return errStopped
	default:
	}
	give, err := w.admit(len(chunk) + maxSmallCommand)
	if err != nil {
		return err
	}
	wait := newWaiter()
	err = v.bus.Insert(tagSnapshot, func(f *batcher.Frame) {
		f.AddRecords(0, chunk)
		f.AddCommand(func(dst []byte) []byte { return appendSnapshotHeader(dst, &h) })
		cargoOf(f).admitted = give
		f.Ride(wait)
	})
	if err != nil {
		return err
	}
	return <-wait.landed
}

// admit takes space for a part. It waits for a segment that is being prepared, and
// for frames under way when they are too many for the segments that are ready.
func (w *snapshotWriter) admit(size int) (give int64, err error) {
	v := w.s.v
	for {
		if give, err = v.admitInserted(size, w.use); err == nil {
			return give, nil
		}
		wait := err
		switch {
		case errors.Is(err, segment.ErrPreparing):
			err = v.journal.WaitSpace(w.s.quit, v.pending(size), v.leave(w.use))
		case errors.Is(err, segment.ErrCrowded) && v.admitted.Load() > 0:
			err = v.bus.Flush(w.s.quit)
		default:
			return 0, err
		}
		if err != nil {
			return 0, errors.Join(err, wait)
		}
	}
}

// snapshotVersion is the version of a snapshot's layout: version, number of the
// next log, count of logs; for each log the length of its state, the state, and
// its places.
const snapshotVersion = 1

// A snapshotHeader is the Meta of a frame of a snapshot; the part's bytes are
// its only block.
type snapshotHeader struct {
	From segment.FrameRef // the frame behind the cut; the same in every part
	Part uint64           // from 0
	Last bool
	Sum  uint32 // CRC-32C over all parts up to this one
}

func appendSnapshotHeader(dst []byte, h *snapshotHeader) []byte {
	dst = append(dst, snapshotVersion)
	dst = binary.AppendUvarint(dst, uint64(h.From.Pos.Segment))
	dst = binary.AppendUvarint(dst, uint64(h.From.Pos.Offset))
	dst = binary.AppendUvarint(dst, h.From.Sequence)
	dst = binary.LittleEndian.AppendUint32(dst, h.From.Chain)
	dst = binary.AppendUvarint(dst, h.Part)
	if h.Last {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	return binary.LittleEndian.AppendUint32(dst, h.Sum)
}

func decodeSnapshotHeader(meta []byte) (h snapshotHeader, err error) {
	bad := fmt.Errorf("snapshot part: %w", ErrBadCommand)
	if len(meta) == 0 || meta[0] != snapshotVersion {
		return h, bad
	}
	d := decoder{buf: meta[1:]}
	h.From.Pos.Segment = segment.ID(d.uvarint())
	h.From.Pos.Offset = int64(d.uvarint())
	h.From.Sequence = d.uvarint()
	h.From.Chain = d.uint32()
	h.Part = d.uvarint()
	if d.bad || len(d.buf) == 0 || d.buf[0] > 1 {
		return h, bad
	}
	h.Last = d.buf[0] == 1
	d.buf = d.buf[1:]
	h.Sum = d.uint32()
	if d.bad || len(d.buf) != 0 {
		return h, bad
	}
	return h, nil
}

// decodeSnapshot restores what the parts of a snapshot, put together, say.
func decodeSnapshot(buf []byte) (*State, places, error) {
	bad := fmt.Errorf("snapshot: %w", ErrBadCommand)
	if len(buf) == 0 || buf[0] != snapshotVersion {
		return nil, places{}, bad
	}
	d := decoder{buf: buf[1:]}
	s := NewState()
	s.next = d.uvarint()
	count := d.uvarint()
	if d.bad || s.next == 0 || count > limits.MaxLogs {
		return nil, places{}, bad
	}
	at := newPlaces()
	for range count {
		n := d.uvarint()
		if d.bad || n > uint64(len(d.buf)) {
			return nil, places{}, bad
		}
		one := decoder{buf: d.buf[:n]}
		d.buf = d.buf[n:]
		l, err := decodeLogState(&one)
		if err != nil {
			return nil, places{}, err
		}
		if len(one.buf) != 0 {
			return nil, places{}, bad
		}
		if err := s.insert(l); err != nil {
			return nil, places{}, err
		}
		decodePlaces(&d, l, &at)
	}
	if d.bad || len(d.buf) != 0 {
		return nil, places{}, bad
	}
	return s, at, nil
}

// decodePlaces is the inverse of appendPlaces and appendMoved.
func decodePlaces(d *decoder, l *logState, at *places) {
	for i := range l.checkpoints {
		if d.flags(1) == 0 {
			continue
		}
		if l.checkpoints[i].size == 0 {
			d.fail()
		}
		at.set(stateKey{l.number, l.checkpoints[i].name}, statePlace{pos: d.pos(), place: d.place()})
	}
	if d.flags(1) == 0 {
		return
	}
	m := movedPlace{end: LSN(d.uvarint()), total: d.uvarint(), pos: d.pos()}
	if m.end <= l.first || m.end > l.next || m.total > l.totalBytes {
		d.fail()
	}
	at.moved[l.number] = m
}

func (d *decoder) pos() segment.Pos {
	return segment.Pos{Segment: segment.ID(d.uvarint()), Offset: int64(d.uvarint())}
}
