package wal

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A straggler is a log whose few live records lie in segments that everybody else
// has given up, and that are released if it does not lie in them. The janitor copies all of them forward, in one frame, and the index
// then finds them there:
//
//	journal   ... 7 8 ...... | ... 9 ... | ... 7' 8' 9' ... 10 11 ...
//	index     7 to 9: the frame with the copies; 10 on: as ever, by bisecting
//
// Always all that the log has: so what is appended later lies behind the copies, in
// the journal as in the log, and two places are all there is to know. When their
// segment comes to be kept for little, they are moved again, with what came behind them.
//
// A copy is its batch as it was, with its epoch, LSNs, checksums and commit time. Of
// one that does not verify only that is told: it is lost already, and must not keep
// its segment for ever.
type straggler struct {
	number  uint64
	name    string
	from    LSN // first record that the log keeps
	start   uint64
	next    LSN
	history history
	size    int64 // of the batches from there on, in bytes of journal
	moves   []recordMove
}

// A recordMove is a batch on its way out of a segment.
type recordMove struct {
	command Command
	run     []byte // nil if it does not verify
}

// maxMoveBytes is more than a copy takes in a directory, and a log's truncation
// with it.
const maxMoveBytes = 128

// worthMoving returns how many of some segments, from the oldest on, it is worth to move
// records out of: as many as can be, so long as that frees limits.MoveGain times what is
// written for it. costs are the bytes that each of them adds to that, size is a
// segment's.
func worthMoving(costs []int64, size int64) (segments int) {
	var cost int64
	for i, c := range costs {
		if cost += c; cost <= int64(i+1)*size/limits.MoveGain {
			segments = i + 1
		}
	}
	return segments
}

// moveStragglers moves the records of logs that keep segments below limit, as far as
// that is worth it. A segment that a log keeps which cannot be moved is passed over: it
// stays, whatever becomes of the others.
//
// Nothing is released meanwhile, and thousands of stragglers take their time. So it leaves
// off, having moved a frame of them at least, when the journal has rolled; the roll has
// the rest looked at again behind a sweep.
func (j *janitor) moveStragglers(limit segment.ID) error {
	v := j.v
	s, err := j.survey(limit)
	if err != nil {
		return err
	}
	filling := v.filling()
	v.mu.RLock()
	maps.DeleteFunc(j.unmovable, func(number uint64, next LSN) bool {
		l := v.durable.logs.get(number)
		return l == nil || l.next != next
	})
	v.mu.RUnlock()
	fixed := map[uint64]bool{} // logs that cannot be moved
	ids := slices.DeleteFunc(v.journal.Below(limit), func(id segment.ID) bool {
		k, kept := j.kept[id]
		if _, known := fixed[k.log]; !known {
			fixed[k.log] = j.tooMuch(k.log)
		}
		return !kept || k == (keeper{}) || fixed[k.log]
	})
	if len(ids) == 0 {
		return nil
	}
	var costs []int64
	var found []straggler
	var until []int // of each of found, the segment that it keeps, as an index of costs
	seen := map[uint64]bool{}
	slices.SortFunc(s.logs, func(a, b surveyed) int {
		return cmp.Or(a.moved.pos.Compare(b.moved.pos), cmp.Compare(a.number, b.number))
	})
	for _, id := range ids {
		one, err := v.index.cache.get(id)
		if isUnread(err) {
			continue // it stays
		}
		if err != nil {
			return err
		}
		var cost int64
		var here []straggler
		ok := true
		for i := range s.logs {
			l := &s.logs[i]
			if seen[l.number] || l.needs(one) == 0 {
				continue
			}
			var strag straggler
			if ok = !fixed[l.number]; ok {
				if strag, ok, err = j.movable(l.number); err != nil {
					return err
				}
			}
			if !ok {
				fixed[l.number] = true
				j.kept[id] = keeper{l.number, l.needs(one), l.history.epoch, l.moved.pos}
				break
			}
			cost += strag.size
			here = append(here, strag)
		}
		if !ok {
			continue
		}
		for _, strag := range here {
			seen[strag.number] = true
			found, until = append(found, strag), append(until, len(costs))
		}
		costs = append(costs, cost)
	}
	n := worthMoving(costs, v.journal.SegmentTakes())
	some, size, batches := []straggler(nil), int64(0), 0
	var from moveSource
	flush := func() error {
		err := j.moveTogether(some, size)
		clear(some) // and the records with them
		some, size, batches = some[:0], 0, 0
		return err
	}
	for i := range found {
		if until[i] >= n {
			break
		}
		strag := found[i] // a copy: what is collected goes with the frame that it rides in
		ok, err := j.collect(&strag, &from)
		if isUnread(err) {
			continue // it stays where it is, and whatever else it may be read again
		}
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if len(some) > 0 && (size+strag.size > j.moveTakes() || batches+len(strag.moves) > limits.MaxMovedBatches) {
			if err := flush(); err != nil || v.filling() != filling {
				return err
			}
		}
		some, size, batches = append(some, strag), size+strag.size, batches+len(strag.moves)
	}
	if len(some) == 0 {
		return nil
	}
	return flush()
}

// moveTakes returns how many bytes are moved in one frame at most.
func (j *janitor) moveTakes() int64 { return int64(min(limits.MaxMovedBytes, j.v.fullSize)) }

// tooMuch reports whether a log has more than may be moved, without looking for what it
// has.
func (j *janitor) tooMuch(number uint64) bool {
	_, known := j.unmovable[number]
	j.v.mu.RLock()
	defer j.v.mu.RUnlock()
	l := j.v.durable.logs.get(number)
	return known || l != nil && (l.cutBehind(l.keep()) || l.keep() == l.first && int64(min(l.liveBytes, 1<<62)) > j.moveTakes())
}

// cutBehind reports whether a rewind cut the log behind a record from lsn on: not all that
// a batch has is the log's own, until the log has given the place up.
func (l *logState) cutBehind(lsn LSN) bool {
	n := len(l.cuts)
	return n > 0 && l.cuts[n-1].LSN >= lsn // they increase
}

// movable returns a log as a straggler, if it may be one: with no more than fits
// in a frame, as far as sizes tell.
func (j *janitor) movable(number uint64) (s straggler, ok bool, err error) {
	v := j.v
	if _, known := j.unmovable[number]; known {
		return s, false, nil
	}
	v.mu.RLock()
	l := v.durable.logs.get(number)
	if l == nil || l.cutBehind(l.keep()) {
		v.mu.RUnlock()
		return s, l == nil, nil // one that was deleted has nothing
	}
	s = straggler{number: number, name: l.name, from: l.keep(), next: l.next, start: l.totalBytes - l.liveBytes}
	s.history = l.history()
	first, size, total := l.first, l.liveBytes, l.totalBytes
	v.mu.RUnlock()
	if s.from > first {
		// What is below the floor goes, and has to be counted out.
		if s.start = total; s.from < s.next { // not all: the log's owner may have given up the rest since the survey
			s.start, err = v.offsetAt(s.name, number, s.from, &s.history)
		}
		switch {
		case errors.Is(err, ErrDataLoss):
			return s, false, nil
		case errors.Is(err, ErrLSNTruncated), errors.Is(err, ErrLogNotFound), errors.Is(err, errLookAgain):
			return s, true, nil // it has changed, and will not be moved
		case isUnread(err):
			return s, false, nil
		case err != nil:
			return s, false, err
		}
		size = min(size, total-s.start)
	}
	s.size = int64(min(size, 1<<62)) + maxMoveBytes
	return s, s.size <= j.moveTakes(), nil
}

// A moveSource keeps the frame and the block that was read last: stragglers that were
// moved together lie together.
type moveSource struct {
	batches batchFrame
	pos     segment.Pos // of the frame that the block is of
	block   int
	raw     []byte // empty if it does not verify
}

// open reads a block of the frame.
func (s *moveSource) open(v *Volume, block int) error {
	if s.pos == s.batches.frame.Pos && s.block == block {
		return nil
	}
	raw, err := v.fetch.Open(s.batches.frame, block, s.raw[:0])
	switch {
	case unreadable(err):
		raw = s.raw[:0]
	case err != nil:
		s.pos = segment.Pos{} // of this block nothing is known
		return err
	}
	s.pos, s.block, s.raw = s.batches.frame.Pos, block, raw
	return nil
}

// collect reads what a straggler has. ok is false if it is no straggler after all.
func (j *janitor) collect(s *straggler, from *moveSource) (ok bool, err error) {
	v := j.v
	s.size = 0
	for lsn := s.from; lsn < s.next; {
		v.mu.RLock()
		l := v.durable.logs.get(s.number)
		if l == nil || l.rewound() != s.history.rewound() || l.next != s.next || l.keep() != s.from {
			v.mu.RUnlock()
			return false, nil // it is not idle; what it has given up need not be read
		}
		lost, isLost := l.lostFrom(lsn)
		v.mu.RUnlock()
		if isLost && lost.First <= lsn {
			lsn = lost.Last + 1
			continue
		}
		var m recordMove
		switch err := v.seek(&from.batches, s.name, s.number, lsn, &s.history); {
		case errors.Is(err, ErrDataLoss):
			next, err := v.index.firstFrom(v.journal.Segments(), s.number, lsn, s.next, &s.history)
			if err != nil {
				return false, fmt.Errorf("move the records of log %q: %w", s.name, err)
			}
			m.command = Command{First: lsn, Count: uint32(min(max(next, lsn+1)-lsn, 1<<31))}
		case errors.Is(err, ErrLSNTruncated), errors.Is(err, ErrLogNotFound), errors.Is(err, errLookAgain):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("move the records of log %q: %w", s.name, err)
		default:
			c, _ := from.batches.covering(lsn)
			m.command = *c
			m.command.Time = from.batches.committed(c)
			if err := from.open(v, int(c.Block)); err != nil {
				return false, fmt.Errorf("move the records of log %q: %w", s.name, err)
			}
			if run, err := c.slice(from.raw); err == nil && crc32.Checksum(run, castagnoli) == c.RunSum {
				m.run = slices.Clone(run) // a block may be much more than what is wanted of it
			}
		}
		m.command.Kind, m.command.Log = CommandMoveRecords, s.number
		m.command.Slot, m.command.Sequence, m.command.Place = 0, 0, Place{}
		m.command.Rewound = s.history.rewound()
		lsn = m.command.Last() + 1
		s.moves = append(s.moves, m)
		s.size += int64(len(m.run)) + maxMoveBytes
		if len(s.moves) > limits.MaxMovedBatches || s.size > j.moveTakes() {
			j.unmovable[s.number] = s.next
			return false, nil
		}
	}
	return true, nil
}

// moveTogether copies what stragglers have in one frame, those left out that have
// changed since. It then waits as long as so many bytes may take: moving is to be in
// nobody's way.
func (j *janitor) moveTogether(some []straggler, size int64) error {
	v := j.v
	var records, bytes uint64
	logs := 0
	err := v.doAll(j.quit, int(size)+len(some)*maxTruncateBytes, forRoom, func(state *State, put func(*Command, []byte)) {
		for i := range some {
			s := &some[i]
			l := state.logs.get(s.number)
			// All or nothing: beside what was appended since, or what somebody wants
			// kept in addition, the copies would not be all that the log has.
			if l == nil || l.rewound() != s.history.rewound() || l.next != s.next || l.keep() < s.from {
				continue
			}
			touched := false
			if cmd, err := l.truncation(s.from, s.start, false); err == nil && cmd != nil {
				put(cmd, nil)
				touched = true
			}
			first := state.logs.get(s.number).first
			if first < s.from {
				continue
			}
			for k := range s.moves {
				m := &s.moves[k]
				if m.command.Last() < first {
					continue
				}
				put(&m.command, m.run)
				touched = true
				bytes += uint64(len(m.run))
				if m.run != nil {
					records += uint64(m.command.Count)
				}
			}
			if touched {
				logs++
			}
		}
	})
	if errors.Is(err, ErrFull) {
		return nil // there may be room later; what nobody keeps goes first
	}
	if err != nil || logs == 0 {
		return err
	}
	if v.o.Events.Moved != nil {
		v.o.Events.Moved(logs, records, bytes)
	}
	pause := time.NewTimer(time.Duration(size * int64(time.Second) / limits.MoveRate))
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-j.quit.Done():
		return errStopped
	}
}
