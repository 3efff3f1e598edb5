package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A janitor gives segments back: those below every log's floor and below the
// older snapshot that the newest segment's header records. It works through the
// same commands as everybody else: what allows a segment to be recycled is
// durable before the segment is renamed.
//
//	evict      cursors over their caps hold nothing any more, durably
//	floors     from the oldest segment on: may it go?
//	move       the last live records of stragglers are copied forward; see move.go
//	states     checkpoints' states in it are carried forward
//	truncate   each log that had records in it says so, durably
//	release    the files become spares
//
// A full disk does not roll, and without a roll no header records newer
// snapshots. If only that holds segments back that nobody keeps, and space is
// short, the janitor takes two snapshots and has a segment begun whose header
// records them: see makeRoom.
type janitor struct {
	v *Volume
	worker

	// What the last sweep stopped at: while that log keeps records below
	// needed, and no segment has begun that moving them would gain, looking at all
	// the others is in vain.
	blocker uint64
	needed  LSN
	epoch   Epoch // that the blocker was in: a rewind may have taken what it kept
	newest  segment.ID

	// unmovable are logs that were found to have more than may be moved, with the
	// next LSN that they had then.
	unmovable map[uint64]LSN

	// seen is the last durable frame when the last turn began.
	seen atomic.Uint64
}

// refused hears that there was no room for something. If anything has happened
// since the last turn, another one may make some; asked by everybody who is
// refused, it looks no more often than that.
func (j *janitor) refused() {
	if j.seen.Load() != j.v.journal.Durable() {
		j.kick()
	}
}

func (j *janitor) start(v *Volume) {
	j.v = v
	j.unmovable = map[uint64]LSN{}
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
	if err == nil {
		j.v.watchClock()
	}
	return true
}

// A sweeping is what may be released, as the durable state has it.
type sweeping struct {
	before segment.ID        // the oldest segment that stays; 0 if none may go
	ends   map[uint64]logEnd // how far each log had come where that begins
	logs   []surveyed

	// blocker is the log that keeps the segment at before, 0 if that is not it,
	// and needed how far it would have to give its records up.
	blocker uint64
	needed  LSN
	epoch   Epoch // that the blocker is in
}

// A surveyed log is what of it decides what may be released. All that holds
// records is not: commits wait while the logs are looked at.
type surveyed struct {
	number      uint64
	first, keep LSN
	from        LSN        // first record that it keeps and that is anywhere
	moved       movedPlace // of copies
	history     history
}

// surveyed returns what there is to know of a durable log. REQUIRES: mu is held, for
// reading at least.
func (v *Volume) surveyed(l *logState) surveyed {
	s := surveyed{number: l.number, first: l.first, keep: l.keep(), history: l.history(), moved: v.index.places.moved[l.number]}
	s.from = s.keep
	if lost, ok := l.lostFrom(s.keep); ok && s.keep == l.first && lost.First == s.keep {
		s.from = lost.Last + 1
	}
	return s
}

// needs returns how far a log would have to give its records up for a segment and
// all before it to go; 0 if it needs none of them.
//
// A log that was moved has all that it had until then in the copies, in one segment,
// and everything else behind it. Records that a repair gave up are nowhere.
func (l *surveyed) needs(s *segmentIndex) LSN {
	if l.from < l.moved.end {
		if s.id < l.moved.pos.Segment {
			return 0
		}
		return l.moved.end
	}
	if e, ok := s.end(l.number); ok {
		if next := l.history.end(e).next; l.from < next {
			return next
		}
	}
	return 0
}

// survey says which segments below limit may go, from the oldest on.
func (j *janitor) survey(limit segment.ID) (sweeping, error) {
	v := j.v
	s := sweeping{ends: map[uint64]logEnd{}}
	v.mu.RLock()
	s.logs = make([]surveyed, 0, len(v.durable.logs))
	for _, l := range v.durable.logs {
		s.logs = append(s.logs, v.surveyed(l))
	}
	v.mu.RUnlock()
	blind := false // there are segments at the end of what was looked at that say nothing
	for _, id := range v.journal.Segments() {
		if id >= limit {
			break
		}
		one, err := v.index.cache.get(id)
		if unreadable(err) {
			// Nobody reads what it held, and where each log was at its end a later
			// segment says, if that one knows of all of them.
			blind = true
			continue
		}
		if err != nil {
			return s, err
		}
		if blind && !one.complete {
			continue
		}
		blind = false
		if s.blocker, s.needed, s.epoch = blocking(s.logs, one); s.blocker != 0 {
			break
		}
		for n, l := range one.logs {
			s.ends[n] = l.end
		}
		s.addMoved(id)
		s.before = id + 1
	}
	return s, nil
}

// addMoved notes how far the logs had come whose copies lie in a segment. It need
// not say so itself: one that a crash cut short knows of what was appended in it alone,
// and what the log had before would go and not be given up.
func (s *sweeping) addMoved(id segment.ID) {
	for i := range s.logs {
		l := &s.logs[i]
		if l.moved.pos.Segment != id {
			continue
		}
		if was, known := s.ends[l.number]; !known || l.history.end(was).next < l.moved.end {
			s.ends[l.number] = logEnd{next: l.moved.end, total: l.moved.total, rewound: l.history.rewound()}
		}
	}
}

// sweep releases what may go.
func (j *janitor) sweep() error {
	v := j.v
	limit, err := v.oldestNeeded()
	if err != nil || limit == 0 {
		return err
	}
	v.mu.RLock()
	newest := v.last.Pos.Segment
	l := v.durable.logs[j.blocker]
	blocked := l != nil && l.keep() < j.needed && l.epoch == j.epoch && newest == j.newest
	v.mu.RUnlock()
	if blocked {
		return nil
	}
	j.blocker, j.newest = 0, newest
	if err := j.moveStragglers(limit); err != nil {
		return err
	}
	var s sweeping
	for {
		if limit = j.worthwhile(limit); limit == 0 {
			return nil
		}
		if s, err = j.survey(limit); err != nil {
			return err
		}
		if s.blocker != 0 {
			j.blocker, j.needed, j.epoch = s.blocker, s.needed, s.epoch
		}
		if s.before == 0 {
			return nil
		}
		if limit = s.before; j.worthwhile(limit) == limit {
			break
		}
	}
	if err := j.carryStates(s.before); err != nil {
		return err
	}
	if err := j.truncateAll(s); err != nil {
		return err
	}
	released := len(v.journal.Segments())
	_ = v.fetch.Forget(s.before) // they were only read
	if err := v.journal.Release(s.before); err != nil {
		return err
	}
	v.index.cache.release(s.before)
	released -= len(v.journal.Segments())
	if v.o.Events.Released != nil {
		v.o.Events.Released(released)
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
	s.before = max(ids[0], j.farthest(s.before, func(carried, _ int64) bool { return carried <= room }))
	if j.gain(s.before, current, s.logs) < v.journal.SegmentTakes()/8 {
		return false, nil
	}
	for range 2 {
		v.mu.RLock()
		enough := v.snapshots.older.Pos.Segment >= s.before
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
// a segment were begun behind current and everything below before released.
func (j *janitor) gain(before, current segment.ID, logs []surveyed) int64 {
	v := j.v
	each, size := v.journal.SegmentTakes(), v.journal.SegmentSize()
	space := v.journal.Space()
	full, free := v.journal.Releasable(before)
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
	if gain <= 0 && each >= splittable && !j.keeps(current, logs) {
		// Nothing but the current one is worth releasing. It goes when another one
		// has been begun, in two steps: into the spare, and then into what is left
		// of that, so that the file of this one becomes the spare.
		gain = each - space.Remaining
	}
	return gain
}

// keeps reports whether a log keeps records of the current segment.
func (j *janitor) keeps(current segment.ID, logs []surveyed) bool {
	v := j.v
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.index.active.id != current {
		return v.last.Pos.Segment != current // unless nothing was appended to it
	}
	blocker, _, _ := blocking(logs, v.index.active)
	return blocker != 0
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

// blocking returns a log that keeps records of a segment or before, and how far
// it would have to give them up, in its epoch; 0 if there is none.
func blocking(logs []surveyed, s *segmentIndex) (number uint64, needed LSN, epoch Epoch) {
	for i := range logs {
		if needed := logs[i].needs(s); needed > 0 {
			return logs[i].number, needed, logs[i].history.epoch
		}
	}
	return 0, 0, 0
}

// farthest returns the newest segment, up to before, below which everything can be
// released as far as fits says, by how many bytes of checkpoints' states would have
// to be carried out of there and how many the files have; 0 if there is none.
func (j *janitor) farthest(before segment.ID, fits func(carried, released int64) bool) (far segment.ID) {
	v := j.v
	ids := v.journal.Segments()
	var carried, released int64
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, id := range ids {
		if id >= before {
			break
		}
		carried += v.index.places.in[id]
		released += v.journal.SegmentSize()
		if fits(carried, released) {
			far = id + 1
		}
	}
	return far
}

// worthwhile returns up to which segment, before at most, releasing is worth what
// has to be carried forward; 0 if it is nowhere.
//
// What is carried goes in front of the next sweep. States that nobody sets again
// would go round and round, whether anybody appends or not. So no more than a quarter
// of what is released is carried: snapshots are up to half of what is written, so that
// a quarter is what was appended, and pays for the rest. The journal is no longer than
// four times the states that are kept, what logs keep aside. When space is short, an
// eighth has to be gained, as in makeRoom.
func (j *janitor) worthwhile(before segment.ID) segment.ID {
	most := int64(2)
	if j.short() {
		most = 7
	}
	return j.farthest(before, func(carried, released int64) bool { return carried <= released/8*most })
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

// carryStates moves the states of checkpoints out of segments before before,
// many in a frame: alone each would take a disk block. One that does not verify
// stays behind: it is lost already, Checkpoint says so, and it must not keep its
// segment, and all behind it, for ever.
func (j *janitor) carryStates(before segment.ID) error {
	v := j.v
	type source struct {
		key stateKey
		at  statePlace
	}
	var sources []source
	oldest := v.journal.Segments()[0]
	v.mu.RLock()
	for k, at := range v.index.places.all() {
		if oldest <= at.pos.Segment && at.pos.Segment < before {
			sources = append(sources, source{k, at})
		}
	}
	v.mu.RUnlock()
	// In the order of the journal: a block that has many is opened once.
	slices.SortFunc(sources, func(a, b source) int {
		return cmp.Or(a.at.pos.Compare(b.at.pos), cmp.Compare(a.at.place.Block, b.at.place.Block), cmp.Compare(a.at.place.Offset, b.at.place.Offset))
	})
	blocks := stateReader{fetch: v.fetch}
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
			case !unreadable(err):
				return fmt.Errorf("carry forward the state of checkpoint %q: %w", src.key.name, err)
			}
		}
		if len(moves) == 0 || size < min(v.fullSize, limits.TargetBlockSize) && i < len(sources)-1 {
			continue
		}
		if err := j.move(moves, size); err != nil {
			return err
		}
		clear(moves)
		moves, size = moves[:0], 0
	}
	return nil
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
	l := s.logs[k.log]
	if l == nil {
		return c, false
	}
	i, found := l.findCheckpoint(k.name)
	if found {
		c = l.checkpoints[i]
	}
	return c, found
}

// truncateAll truncates every log up to where it had come at the end of what is
// released, many in a frame; but not those whose records there were moved, or lost:
// they keep them.
func (j *janitor) truncateAll(s sweeping) error {
	const most = 512
	var due []surveyed
	for _, l := range s.logs {
		// Of a log that keeps some of it, the survey found that it keeps it elsewhere.
		if e, ok := s.ends[l.number]; ok && e.next > l.first && l.history.end(e).next <= l.keep {
			due = append(due, l)
		}
	}
	for some := range slices.Chunk(due, most) {
		var refused error
		err := j.v.doAll(j.quit, len(some)*maxTruncateBytes, forRelease, func(state *State, put func(*Command, []byte)) {
			for _, was := range some {
				l := state.logs[was.number]
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
		l := s.logs[number]
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
