package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A janitor gives segments back: those below the older snapshot that the newest
// segment's header records of which no log keeps anything, be they the oldest or between
// others that somebody keeps. It works through the
// same commands as everybody else: what allows a segment to be recycled is
// durable before the segment is renamed.
//
//	evict      cursors over their caps hold nothing any more, durably
//	survey     which segments may go?
//	move       the last live records of stragglers are copied forward; see move.go
//	states     checkpoints' states in them are carried forward
//	truncate   each log that had records in them says so, durably
//	release    the files become spares
//
// A full disk does not roll, and without a roll no header records newer
// snapshots. If only that holds segments back that nobody keeps, and space is
// short, the janitor takes two snapshots and has a segment begun whose header
// records them: see makeRoom.
type janitor struct {
	v *Volume
	worker

	// kept says of segments why they stayed when they were looked at. While that is so,
	// they are not looked at again: however much one log keeps, it costs one look each.
	kept   map[segment.ID]keeper
	newest segment.ID // when the last sweep ended

	// unmovable are logs that were found to have more than may be moved, with the
	// next LSN that they had then.
	unmovable map[uint64]LSN

	// seen is the last durable frame when the last turn began.
	seen atomic.Uint64
	// lacked is when the last turn ended since there was no room for the file of a gap;
	// nil if it did not.
	lacked atomic.Pointer[time.Time]
}

// A keeper is why a segment stays: a log that keeps records of it. A zero one stands for a
// segment of which nobody knows what is in it.
type keeper struct {
	log    uint64
	needed LSN         // how far it would have to give its records up
	epoch  Epoch       // that it was in: a rewind may have taken what it kept
	moved  segment.Pos // where the copies of its records were
}

// lackedPause is how long after a turn that had no room for a gap's file it is worth
// another one.
const lackedPause = time.Second

// refused hears that there was no room for something. If anything has happened
// since the last turn, another one may make some; asked by everybody who is
// refused, it looks no more often than that. The room that a gap's file takes comes
// unnoticed: the preparer gives up dead space, or somebody removes something else.
func (j *janitor) refused() {
	lacked := j.lacked.Load()
	if j.seen.Load() != j.v.journal.Durable() || lacked != nil && time.Since(*lacked) >= lackedPause {
		j.kick()
	}
}

func (j *janitor) start(v *Volume) {
	j.v = v
	j.unmovable = map[uint64]LSN{}
	j.kept = map[segment.ID]keeper{}
	j.worker.start(j.turn)
}

// turn sweeps, and makes room while that is worth it. What fails here fails
// loudly elsewhere (a poisoned volume), or is tried again at the next roll, the
// next command that may give space back, when the disk has become full or
// somebody was refused (no room for it now, damage that a reader will name):
// keeping a segment too long loses nothing.
func (j *janitor) turn() (more bool) {
	j.seen.Store(j.v.journal.Durable())
	evicted := j.evict()
	err := j.sweep()
	for err == nil {
		var made bool
		if made, err = j.makeRoom(); !made {
			break
		}
		err = j.sweep()
	}
	if err == nil && errors.Is(evicted, ErrFull) {
		_ = j.evict() // there may be room for it now
	}
	if now := time.Now(); errors.Is(err, segment.ErrNoSpace) {
		j.lacked.Store(&now)
	} else {
		j.lacked.Store(nil)
	}
	if err == nil {
		j.v.watchClock()
	}
	return true
}

// A sweeping is what may be released, as the durable state has it.
type sweeping struct {
	free []segment.ID      // in order
	ends map[uint64]logEnd // how far each log had come that has records there
	logs []surveyed
	// behind has, of free segments that nobody knows the records of, one that says how far
	// every log had come when it ended.
	behind map[segment.ID]segment.ID
}

// A surveyed log is what of it decides what may be released. All that holds
// records is not: commits wait while the logs are looked at.
type surveyed struct {
	number      uint64
	first, keep LSN
	from        LSN        // first record that it keeps and that is anywhere
	live        uint64     // bytes
	moved       movedPlace // of copies
	history     history
}

// surveyed returns what there is to know of a durable log. REQUIRES: mu is held, for
// reading at least.
func (v *Volume) surveyed(l *logState) surveyed {
	s := surveyed{
		number: l.number, first: l.first, keep: l.keep(), live: l.liveBytes, history: l.history(), moved: v.index.places.moved[l.number],
	}
	s.from = s.keep
	if lost, ok := l.lostFrom(s.keep); ok && s.keep == l.first && lost.First == s.keep {
		s.from = lost.Last + 1
	}
	return s
}

// needs returns how far a log would have to give its records up for a segment to go;
// 0 if it needs none of it.
//
// A log that was moved has all that it had until then in the copies, in one segment,
// and everything else behind it. Records that a repair gave up are nowhere.
func (l *surveyed) needs(s *segmentIndex) LSN {
	if l.from < l.moved.end && s.id <= l.moved.pos.Segment {
		if s.id < l.moved.pos.Segment {
			return 0
		}
		return l.moved.end
	}
	own := s.logs.get(l.number)
	if own == nil || len(own.refs) == 0 {
		return 0
	}
	if next := l.history.end(own.end).next; max(l.from, own.refs[0].lsn) < next {
		return next
	}
	return 0
}

// needsUpTo is needs for a segment and all before it.
func (l *surveyed) needsUpTo(s *segmentIndex) bool {
	if l.from < l.moved.end {
		return s.id >= l.moved.pos.Segment
	}
	e, ok := s.end(l.number)
	return ok && l.from < l.history.end(e).next
}

// keeps returns why a segment stays; ok is false if it need not. It rather names a log
// that cannot be moved, which will keep it; of others one that its number is no reason
// for. Were it the first, who truncates thousands of logs one after the other would have
// every segment looked at anew for each.
func (j *janitor) keeps(logs []surveyed, s *segmentIndex) (k keeper, ok bool) {
	var most uint64
	for i := range logs {
		l := &logs[i]
		needed := l.needs(s)
		if needed == 0 {
			continue
		}
		fixed := int64(min(l.live, 1<<62)) > j.moveTakes()
		if at := scatter(l.number); !ok || fixed || at > most {
			k, ok, most = keeper{l.number, needed, l.history.epoch, l.moved.pos}, true, at
		}
		if fixed {
			break
		}
	}
	return k, ok
}

// scatter puts numbers into an order that has nothing to do with theirs: Fibonacci
// hashing (Knuth, The Art of Computer Programming 3, 6.4).
func scatter(number uint64) uint64 { return number * 0x9e3779b97f4a7c15 }

// still reports whether what kept a segment keeps it. REQUIRES: the volume's mu is held,
// for reading at least.
func (j *janitor) still(k keeper) bool {
	if k == (keeper{}) {
		return j.v.last.Pos.Segment == j.newest
	}
	l := j.v.durable.logs.get(k.log)
	return l != nil && l.keep() < k.needed && l.epoch == k.epoch && j.v.index.places.moved[k.log].pos == k.moved
}

// idle reports whether nothing has happened since the last sweep that would let a
// segment below limit go, or records be moved out of one.
func (j *janitor) idle(limit segment.ID) bool {
	v := j.v
	ids := v.journal.Below(limit)
	v.mu.RLock()
	defer v.mu.RUnlock()
	return j.newest == v.last.Pos.Segment && !slices.ContainsFunc(ids, func(id segment.ID) bool {
		k, known := j.kept[id]
		return !known || !j.still(k)
	})
}

// survey says which segments below limit may go.
func (j *janitor) survey(limit segment.ID) (sweeping, error) {
	v := j.v
	s := sweeping{ends: map[uint64]logEnd{}, behind: map[segment.ID]segment.ID{}}
	ids := v.journal.Below(limit)
	v.mu.RLock()
	s.logs = make([]surveyed, 0, v.durable.logs.len())
	for _, l := range v.durable.logs.all() {
		s.logs = append(s.logs, v.surveyed(l))
	}
	maps.DeleteFunc(j.kept, func(id segment.ID, k keeper) bool {
		return !j.still(k) || len(ids) > 0 && id < ids[0]
	})
	v.mu.RUnlock()
	var blind []segment.ID // segments at the end of what was looked at that say nothing
	for _, id := range ids {
		if k, known := j.kept[id]; known && k != (keeper{}) {
			blind = nil
			continue
		}
		one, err := v.index.cache.get(id)
		if unreadable(err) || isUnread(err) || err == nil && one.holed {
			// What it held, nobody knows. It goes when a later segment knows of all logs
			// that they keep nothing up to its own end.
			blind = append(blind, id)
			j.kept[id] = keeper{}
			continue
		}
		if err != nil {
			return s, err
		}
		if k, kept := j.keeps(s.logs, one); kept {
			j.kept[id] = k
			blind = nil
			continue
		}
		s.free = append(s.free, id)
		if len(blind) > 0 && one.complete && !slices.ContainsFunc(s.logs, func(l surveyed) bool { return l.needsUpTo(one) }) {
			for _, b := range blind {
				s.behind[b] = id
			}
			s.free = append(s.free, blind...)
			blind = nil
		}
	}
	slices.Sort(s.free)
	return s, nil
}

// endsOf notes up to where each log has to be truncated for the free segments to go: to the
// end of its records there. Not of those that a rewind discarded, and not where it keeps
// them elsewhere: they were moved, or lost.
func (j *janitor) endsOf(s *sweeping) error {
	logs := make(map[uint64]*surveyed, len(s.logs))
	for i := range s.logs {
		logs[s.logs[i].number] = &s.logs[i]
	}
	note := func(l *surveyed, e logEnd) {
		was, known := s.ends[l.number]
		if next := l.history.end(e).next; next <= l.keep && (!known || l.history.end(was).next < next) {
			s.ends[l.number] = e
		}
	}
	for _, id := range s.free {
		from, blind := s.behind[id]
		if !blind {
			from = id
		}
		one, err := j.v.index.cache.get(from)
		if err != nil {
			return err
		}
		for n, own := range one.logs.all() {
			l := logs[n]
			if l != nil && (blind || len(own.refs) > 0 && own.refs[0].lsn < l.history.end(own.end).next) {
				note(l, own.end)
			}
		}
		for i := range s.logs {
			// The segment need not say how far the logs had come whose copies lie in it: one
			// that a crash cut short knows of what was appended in it alone.
			if l := &s.logs[i]; l.moved.pos.Segment == id {
				note(l, logEnd{next: l.moved.end, total: l.moved.total, rewound: l.history.rewound()})
			}
		}
	}
	return nil
}

// filling returns the segment that the next durable frame goes into, unless it rolls.
func (v *Volume) filling() segment.ID {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.last.Pos.Segment
}

// sweep releases what may go.
func (j *janitor) sweep() error {
	v := j.v
	limit, err := v.oldestNeeded()
	if err != nil || limit == 0 || j.idle(limit) {
		return err
	}
	newest := v.filling()
	if err := j.moveStragglers(limit); err != nil {
		return err
	}
	if limit, err = v.oldestNeeded(); err != nil { // moving may have taken long
		return err
	}
	s, err := j.survey(limit)
	if err != nil {
		return err
	}
	j.newest = newest
	if s.free = j.worthwhile(&s); len(s.free) == 0 {
		return nil
	}
	if err := j.endsOf(&s); err != nil {
		return err
	}
	unread, err := j.carryStates(s.free)
	if err != nil {
		return err
	}
	s.free = slices.DeleteFunc(s.free, func(id segment.ID) bool { return unread[id] })
	if err := j.truncateAll(s); err != nil {
		return err
	}
	before := len(v.journal.Segments())
	_ = v.fetch.Forget(s.free) // they were only read
	err = v.journal.Release(s.free)
	v.index.cache.release(s.free)
	if released := before - len(v.journal.Segments()); v.o.Events.Released != nil && (released > 0 || err == nil) {
		v.o.Events.Released(released)
	}
	if err != nil {
		return err
	}
	// A snapshot that had no room may have some now.
	if v.journal.Admit(snapshotPart, v.leave(forRecords)) == nil {
		v.mu.RLock()
		due := v.snapshotDue(false)
		v.mu.RUnlock()
		if due {
			v.snapshots.kick()
		}
	}
	return nil
}

// makeRoom moves what opening needs out of the way of segments that no log
// keeps, when space is short and that gains some, and reports whether it did.
//
//	snapshots   two, into the current segment: the header of the next one
//	            records both
//	end         admission counts on the current segment no more, and what was
//	            admitted lands
//	roll        the next one begins: in the reserve, or in what is left of this
//
// It gains at least an eighth of a segment, so that a full volume does not turn
// over for ever.
func (j *janitor) makeRoom() (made bool, err error) {
	v := j.v
	if !j.short() {
		return false, nil
	}
	ids := v.journal.Segments()
	current := ids[len(ids)-1]
	s, err := j.survey(current)
	if err != nil {
		return false, err
	}
	// What lies in there and has to be carried forward must fit in one segment.
	room := v.journal.SegmentTakes() / 2
	s.free = j.most(&s, func(carried, _ int64) bool { return carried <= room })
	if j.gain(s.free, current, s.logs) < v.journal.SegmentTakes()/8 {
		return false, nil
	}
	before := ids[0]
	if n := len(s.free); n > 0 {
		before = s.free[n-1] + 1
	}
	for range 2 {
		v.mu.RLock()
		enough := v.snapshots.older.Pos.Segment >= before
		v.mu.RUnlock()
		if enough {
			break
		}
		if err := v.snapshots.writeFor(forRelease); err != nil {
			return false, err
		}
	}
	if err := j.roll(); err != nil {
		return false, err
	}
	ids = v.journal.Segments()
	return ids[len(ids)-1] > current, nil
}

// gain returns how many bytes of journal there would be room for in addition if
// a segment were begun behind current and those that are free released.
func (j *janitor) gain(released []segment.ID, current segment.ID, logs []surveyed) int64 {
	v := j.v
	each, size := v.journal.SegmentTakes(), v.journal.SegmentSize()
	space := v.journal.Space()
	full, free := v.journal.Releasable(released)
	disk, err := v.fs.Free(v.dir)
	if err != nil {
		return 0
	}
	left := int64(min(disk, limits.MaxSegmentSize))
	if space.Spares == 0 {
		// The segment takes what is left of the current one, and of the disk.
		left = max(0, left+space.Remaining-size)
		return (int64(full) + (free+left)/size - left/size) * each
	}
	// What the disk has room for alone, it has without this.
	gain := (int64(full)+(free+left)/size-left/size)*each - space.Remaining
	if gain <= 0 && each >= splittable && !j.keepsCurrent(current, logs) {
		// Nothing but the current one is worth releasing. It goes when another one
		// has been begun, in two steps: into the spare, and then into what is left
		// of that, so that the file of this one becomes the spare.
		gain = each - space.Remaining
	}
	return gain
}

// keepsCurrent reports whether a log keeps records of the current segment.
func (j *janitor) keepsCurrent(current segment.ID, logs []surveyed) bool {
	v := j.v
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.index.active.id != current {
		return v.last.Pos.Segment != current // unless nothing was appended to it
	}
	_, kept := j.keeps(logs, v.index.active)
	return kept
}

// roll begins a segment, if there is room for one.
func (j *janitor) roll() error {
	v := j.v
	if _, err := v.bus.Board(); err != nil {
		return v.wrap(err)
	}
	v.journal.EndSegment()
	v.bus.LeaveUnused()
	if err := v.bus.Flush(j.quit); err != nil {
		return v.wrap(err)
	}
	w := newWaiter()
	if err := v.bus.Insert(tagRoll, func(f *batcher.Frame) { f.Ride(w) }); err != nil {
		return v.wrap(err)
	}
	return <-w.landed
}

// unreadable reports whether err is about bytes that do not verify, which no
// later attempt will mend.
func unreadable(err error) bool {
	var c *segment.CorruptError
	return errors.As(err, &c) && !errors.Is(err, segment.ErrReleased)
}

// oldestNeeded returns the oldest segment that opening may need, 0 for all of
// them. Newer snapshots than the newest segment's header records do not count:
// opening does not know of them.
func (v *Volume) oldestNeeded() (segment.ID, error) {
	ids := v.journal.Segments()
	h, err := v.journal.Header(ids[len(ids)-1])
	if err != nil {
		return 0, err
	}
	return h.OlderSnapshot.Pos.Segment, nil
}

// most returns as many segments as can be released as far as fits says, by how many
// bytes of checkpoints' states would have to be carried out of there and how many the
// files have: those with the least to be carried, in order. Of which nobody knows what
// is in them go with all before them, as the journal wants it.
func (j *janitor) most(s *sweeping, fits func(carried, released int64) bool) []segment.ID {
	v := j.v
	v.mu.RLock()
	defer v.mu.RUnlock()
	free := slices.Clone(s.free)
	slices.SortFunc(free, func(a, b segment.ID) int {
		return cmp.Or(cmp.Compare(v.index.places.in[a], v.index.places.in[b]), cmp.Compare(a, b))
	})
	var carried, released int64
	n := 0
	for i, id := range free {
		carried += v.index.places.in[id]
		released += v.journal.SegmentSize()
		if fits(carried, released) {
			n = i + 1
		}
	}
	free = free[:n]
	slices.Sort(free)
	ids := v.journal.Segments()
	n = 0
	for i, id := range free {
		if _, blind := s.behind[id]; !blind || ids[i] == id {
			free[n] = id
			n++
		}
	}
	return free[:n]
}

// worthwhile returns which segments releasing is worth what has to be carried forward
// of them.
//
// What is carried goes in front of the next sweep. States that nobody sets again
// would go round and round, whether anybody appends or not. So no more than a quarter
// of what is released is carried: snapshots are up to half of what is written, so that
// a quarter is what was appended, and pays for the rest. The journal is no longer than
// four times the states that are kept, what logs keep aside. When space is short, an
// eighth has to be gained, as in makeRoom.
func (j *janitor) worthwhile(s *sweeping) []segment.ID {
	most := int64(2)
	if j.short() {
		most = 7
	}
	return j.most(s, func(carried, released int64) bool { return carried <= released/8*most })
}

// short reports whether there is no room for a batch.
func (j *janitor) short() bool {
	v := j.v
	return errors.Is(v.journal.Admit(v.admitted.Load()+int64(v.maxBatch)+frameOverhead, v.leave(forRecords)), segment.ErrNoSpace)
}

// A stateMove is a checkpoint's state on its way out of a segment.
type stateMove struct {
	key   stateKey
	was   checkpointState
	state []byte
}

// carryStates moves the states of checkpoints out of segments, many in a frame: alone each would take a disk block. One that does not verify
// stays behind: it is lost already, Checkpoint says so, and it must not keep its
// segment for ever. Of one that the disk does not read nobody knows: its segment, which
// is in unread, has to stay.
func (j *janitor) carryStates(out []segment.ID) (unread map[segment.ID]bool, err error) {
	v := j.v
	type source struct {
		key stateKey
		at  statePlace
	}
	var sources []source
	v.mu.RLock()
	for k, at := range v.index.places.all() {
		// Of an empty state there is nothing to read, also if it is set to another one meanwhile.
		if _, found := slices.BinarySearch(out, at.pos.Segment); found && at.place.Size > 0 {
			sources = append(sources, source{k, at})
		}
	}
	v.mu.RUnlock()
	// In the order of the journal: a block that has many is opened once.
	slices.SortFunc(sources, func(a, b source) int {
		return cmp.Or(a.at.pos.Compare(b.at.pos), cmp.Compare(a.at.place.Block, b.at.place.Block), cmp.Compare(a.at.place.Offset, b.at.place.Offset))
	})
	blocks := stateReader{fetch: v.fetch}
	unread = map[segment.ID]bool{}
	var moves []stateMove
	size := 0
	for i, src := range sources {
		v.mu.RLock()
		was, found := v.durable.checkpoint(src.key)
		v.mu.RUnlock()
		if found && was.size > 0 {
			state, err := blocks.read(src.at, was.sum)
			switch {
			case err == nil:
				// A copy, which does not keep the block.
				moves = append(moves, stateMove{src.key, was, slices.Clone(state)})
				size += len(state) + maxSmallCommand
			case isUnread(err):
				unread[src.at.pos.Segment] = true
			case !unreadable(err):
				return nil, fmt.Errorf("carry forward the state of checkpoint %q: %w", src.key.name, err)
			}
		}
		if len(moves) == 0 || size < min(v.fullSize, limits.TargetBlockSize) && i < len(sources)-1 {
			continue
		}
		if err := j.move(moves, size); err != nil {
			return nil, err
		}
		clear(moves)
		moves, size = moves[:0], 0
	}
	return unread, nil
}

// move carries states forward, those of checkpoints that were set again
// meanwhile left out.
func (j *janitor) move(moves []stateMove, size int) error {
	return j.v.doAll(j.quit, size, forRoom, func(s *State, put func(*Command, []byte)) {
		for i := range moves {
			m := &moves[i]
			if now, found := s.checkpoint(m.key); found && now.version == m.was.version {
				put(&Command{Kind: CommandMoveCheckpoint, Log: m.key.log, Name: m.key.name, Version: m.was.version}, m.state)
			}
		}
	})
}

// checkpoint returns a checkpoint.
func (s *State) checkpoint(k stateKey) (c checkpointState, found bool) {
	l := s.logs.get(k.log)
	if l == nil {
		return c, false
	}
	i, found := l.findCheckpoint(k.name)
	if found {
		c = l.checkpoints[i]
	}
	return c, found
}

// truncateAll truncates every log up to the last of its records in what is released,
// many in a frame.
func (j *janitor) truncateAll(s sweeping) error {
	const most = 512
	var due []surveyed
	for _, l := range s.logs {
		if e, ok := s.ends[l.number]; ok && e.next > l.first {
			due = append(due, l)
		}
	}
	for some := range slices.Chunk(due, most) {
		var refused error
		err := j.v.doAll(j.quit, len(some)*maxTruncateBytes, forRelease, func(state *State, put func(*Command, []byte)) {
			for _, was := range some {
				l := state.logs.get(was.number)
				if l == nil {
					continue // deleted meanwhile
				}
				h := l.history()
				e := h.end(s.ends[was.number]) // of a log that may have been rewound meanwhile
				cmd, err := l.truncation(e.next, e.total, false)
				switch {
				case err != nil:
					refused = err
				case cmd != nil:
					put(cmd, nil)
				}
			}
		})
		if err == nil {
			err = refused
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxTruncateBytes is more than a truncation takes in a directory.
const maxTruncateBytes = 64

// truncate makes first the log's oldest record, durably, unless it already is
// or is beyond, and returns the log as it then was. start is how many framed bytes
// came before first, as the log was in an epoch: if first was discarded since, it
// returns errLookAgain. The log's owner wants it, who may give up what no checkpoint
// covers.
func (v *Volume) truncate(ctx context.Context, name string, number uint64, first LSN, start uint64, epoch Epoch) (info LogInfo, err error) {
	err = v.do(ctx, maxTruncateBytes, forTruncation, func(s *State) (*Command, []byte, error) {
		l := s.logs.get(number)
		if l == nil {
			return nil, nil, notFound(name)
		}
		if l.moved(epoch, first-1) != nil {
			return nil, nil, errLookAgain
		}
		info = l.info()
		cmd, err := l.truncation(first, start, true)
		if cmd != nil {
			info.First, info.LiveBytes, info.Lost = first, cmd.LiveBytes, lostFrom(info.Lost, first)
		}
		return cmd, nil, err
	})
	return info, err
}

// truncation returns the command that makes first the log's oldest record, nil
// if it is needless. asked says that the log's owner wants it.
func (l *logState) truncation(first LSN, start uint64, asked bool) (*Command, error) {
	switch {
	case first <= l.first:
		return nil, nil
	case first > l.next: // it was rewound since somebody looked
		return nil, &RangeError{Log: l.name, Asked: first, First: l.first, Next: l.next, Err: ErrLSNAhead}
	}
	if err := l.held(first, asked); err != nil {
		return nil, err
	}
	live := min(l.totalBytes-start, l.liveBytes)
	if first == l.next {
		live = 0 // also if damage had it counted higher
	}
	return &Command{Kind: CommandTruncate, Log: l.number, First: first, LiveBytes: live}, nil
}

// doAll is do for many commands at once, of at most size bytes together, and at most
// limits.MaxCommandsTogether, that put takes one by one. They ride in one frame, and land together.
func (v *Volume) doAll(ctx context.Context, size int, use purpose, decide func(s *State, put func(*Command, []byte))) error {
	f, full, err := v.board(ctx, size, use)
	if err != nil {
		return err
	}
	if full != nil {
		v.bus.LeaveUnused()
		return full
	}
	decide(v.ahead, func(cmd *Command, payload []byte) { v.put(f, cmd, payload) })
	w := newWaiter()
	f.Ride(w)
	v.bus.Leave()
	select {
	case err := <-w.landed:
		return v.wrap(err)
	case <-ctx.Done():
		return fmt.Errorf("outcome unknown: %w", context.Cause(ctx))
	}
}

// held returns ErrHeld, and by whom, if somebody needs records below first. A log
// that nobody holds back keeps everything, unless its owner asks.
func (l *logState) held(first LSN, asked bool) error {
	keep, holder, held := l.floor()
	switch {
	case held && first > keep:
		return fmt.Errorf("log %q: truncate below LSN %d: %w: %s needs %d", l.name, first, ErrHeld, holder, keep)
	case !held && !asked && first > l.first:
		return fmt.Errorf("log %q: truncate below LSN %d: %w: nobody has given any up", l.name, first, ErrHeld)
	}
	return nil
}

// Truncate gives up a log's records below first, durably, and returns the log.
// It never passes the lowest checkpoint or cursor (ErrHeld) nor the end (a *RangeError);
// at or below the oldest record it changes nothing. Space comes back when whole
// segments hold nothing that anybody keeps.
func (v *Volume) Truncate(ctx context.Context, name string, first LSN) (LogInfo, error) {
	for {
		info, err := v.truncateTo(ctx, name, first)
		if !errors.Is(err, errLookAgain) {
			return info, err
		}
	}
}

// truncateTo is Truncate, and returns errLookAgain if the log was rewound meanwhile.
func (v *Volume) truncateTo(ctx context.Context, name string, first LSN) (LogInfo, error) {
	v.mu.RLock()
	l, err := v.lookup(name)
	if err != nil {
		v.mu.RUnlock()
		return LogInfo{}, err
	}
	was := *l
	refused := l.held(first, true)
	v.mu.RUnlock()
	switch {
	case first > was.next:
		return LogInfo{}, &RangeError{Log: name, Asked: first, First: was.first, Next: was.next, Err: ErrLSNAhead}
	case first <= was.first:
		return was.info(), nil
	case refused != nil:
		return LogInfo{}, refused
	}
	start := was.totalBytes
	at := first
	if lost, ok := was.lostFrom(first); ok && lost.First <= first {
		at = lost.Last + 1 // where a lost record began is not known
	}
	if at < was.next {
		h := was.history()
		start, err = v.offsetAt(name, was.number, at, &h)
		if errors.Is(err, ErrLSNTruncated) {
			return v.Log(name) // the janitor was faster
		}
		if err != nil {
			return LogInfo{}, err
		}
	}
	info, err := v.truncate(ctx, name, was.number, first, start, was.epoch)
	if err != nil {
		return LogInfo{}, err
	}
	v.janitor.kick()
	return info, nil
}

// clockJump is how far the wall clock may part from the volume's before that is
// worth a warning.
const clockJump = 5_000_000_000

// watchClock warns when somebody has set the wall clock.
func (v *Volume) watchClock() {
	if d := v.clock.drift(); v.o.Now == nil && v.o.Events.ClockJump != nil && (d > clockJump || d < -clockJump) {
		v.o.Events.ClockJump(d)
	}
}
