package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/segment"
)

// A janitor gives segments back: those below every log's floor and below the
// older snapshot that the newest segment's header records. It works through the same commands as everybody else: what
// allows a segment to be recycled is durable before the segment is renamed.
//
//	floors     from the oldest segment on: may it go?
//	states     checkpoints' states in it are carried forward
//	truncate   each log that had records in it says so, durably
//	release    the files become spares
type janitor struct {
	v *Volume
	worker

	// What the last sweep stopped at: while that log keeps records below
	// needed, looking at all the others is in vain.
	blocker uint64
	needed  LSN
}

func (j *janitor) start(v *Volume) {
	j.v = v
	j.worker.start(j.turn)
}

// turn sweeps. What fails here fails loudly elsewhere (a poisoned volume), or is
// tried again at the next roll (a full disk, damage that a reader will name):
// keeping a segment too long loses nothing.
func (j *janitor) turn() (more bool) {
	if err := j.sweep(); err == nil {
		j.v.watchClock()
	}
	return true
}

// sweep releases what may go.
func (j *janitor) sweep() error {
	v := j.v
	limit, err := v.oldestNeeded()
	if err != nil || limit == 0 {
		return err
	}
	v.mu.RLock()
	if l := v.durable.logs[j.blocker]; l != nil && l.keep() < j.needed {
		v.mu.RUnlock()
		return nil
	}
	j.blocker = 0
	logs := make([]*logState, 0, len(v.durable.logs))
	for _, l := range v.durable.logs {
		c := *l
		c.checkpoints = slices.Clone(l.checkpoints)
		logs = append(logs, &c)
	}
	v.mu.RUnlock()

	// From the oldest on: how far each log had come at the end of the last
	// segment that may go.
	ends := map[uint64]logEnd{}
	var before segment.ID
	blind := false // there are segments at the end of what was looked at that say nothing
	for _, id := range v.journal.Segments() {
		if id >= limit {
			break
		}
		s, err := v.index.cache.get(id)
		if unreadable(err) {
			// Nobody reads what it held, and where each log was at its end a later
			// segment says, if that one knows of all of them.
			blind = true
			continue
		}
		if err != nil {
			return err
		}
		if blind && !s.complete {
			continue
		}
		blind = false
		if j.blocker, j.needed = blocking(logs, s); j.blocker != 0 {
			break
		}
		for n, e := range s.ends {
			ends[n] = e
		}
		before = id + 1
	}
	if before == 0 {
		return nil
	}
	if err := j.carryStates(before); err != nil {
		return err
	}
	for _, l := range logs {
		e, ok := ends[l.number]
		if !ok || e.next <= l.first {
			continue
		}
		if _, err := v.truncate(j.quit, l.name, l.number, e.next, e.total, false); err != nil {
			return err
		}
	}
	released := len(v.journal.Segments())
	if err := v.journal.Release(before); err != nil {
		return err
	}
	v.index.cache.release(before)
	released -= len(v.journal.Segments())
	if v.o.Events.Released != nil {
		v.o.Events.Released(released)
	}
	// A snapshot that had no room may have some now.
	if v.journal.Admit(snapshotPart, false) == nil {
		v.mu.RLock()
		due := v.snapshotDue(false)
		v.mu.RUnlock()
		if due {
			v.snapshots.kick()
		}
	}
	return nil
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
// it would have to give them up; 0 if there is none.
func blocking(logs []*logState, s *segmentIndex) (number uint64, needed LSN) {
	for _, l := range logs {
		if e, ok := s.ends[l.number]; ok && l.keep() < e.next {
			return l.number, e.next
		}
	}
	return 0, 0
}

// carryStates moves the states of checkpoints out of segments before before. One
// that does not verify stays behind: it is lost already, Checkpoint says so, and
// it must not keep its segment, and all behind it, for ever.
func (j *janitor) carryStates(before segment.ID) error {
	v := j.v
	type move struct {
		key stateKey
		at  statePlace
	}
	var moves []move
	oldest := v.journal.Segments()[0]
	v.mu.RLock()
	for k, at := range v.index.states {
		if oldest <= at.pos.Segment && at.pos.Segment < before {
			moves = append(moves, move{k, at})
		}
	}
	v.mu.RUnlock()
	for _, m := range moves {
		v.mu.RLock()
		l := v.durable.logs[m.key.log]
		var was checkpointState
		found := false
		if l != nil {
			var i int
			if i, found = l.findCheckpoint(m.key.name); found {
				was = l.checkpoints[i]
			}
		}
		v.mu.RUnlock()
		if !found || was.size == 0 {
			continue
		}
		state, err := readState(v.fetch, m.at, was.sum)
		if unreadable(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("carry forward the state of checkpoint %q: %w", m.key.name, err)
		}
		err = v.do(j.quit, len(state), true, func(s *State) (*Command, []byte, error) {
			l := s.logs[m.key.log]
			if l == nil {
				return nil, nil, nil
			}
			i, found := l.findCheckpoint(m.key.name)
			if !found || l.checkpoints[i].version != was.version {
				return nil, nil, nil // set again meanwhile: its state is elsewhere
			}
			return &Command{Kind: CommandMoveCheckpoint, Log: m.key.log, Name: m.key.name, Version: was.version}, state, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// truncate makes first the log's oldest record, durably, unless it already is
// or is beyond, and returns the log as it then was. start is how many framed bytes
// came before first. asked says that the log's owner wants it, who may give up
// what no checkpoint covers.
func (v *Volume) truncate(ctx context.Context, name string, number uint64, first LSN, start uint64, asked bool) (info LogInfo, err error) {
	err = v.do(ctx, 0, true, func(s *State) (*Command, []byte, error) {
		l := s.logs[number]
		if l == nil {
			return nil, nil, notFound(name)
		}
		info = l.info()
		switch {
		case first <= l.first:
			return nil, nil, nil
		case (len(l.checkpoints) > 0 || !asked) && first > l.keep():
			return nil, nil, held(name, first, l.keep())
		}
		info.First, info.LiveBytes = first, min(l.totalBytes-start, l.liveBytes)
		return &Command{Kind: CommandTruncate, Log: number, First: first, LiveBytes: info.LiveBytes}, nil, nil
	})
	return info, err
}

func held(name string, first, keep LSN) error {
	return fmt.Errorf("log %q: truncate below LSN %d: %w: the lowest needs %d", name, first, ErrHeld, keep)
}

// Truncate gives up a log's records below first, durably, and returns the log.
// It never passes the lowest checkpoint (ErrHeld) nor the end (a *RangeError);
// at or below the oldest record it changes nothing. Space comes back when whole
// segments hold nothing that anybody keeps.
func (v *Volume) Truncate(ctx context.Context, name string, first LSN) (LogInfo, error) {
	v.mu.RLock()
	l, err := v.lookup(name)
	if err != nil {
		v.mu.RUnlock()
		return LogInfo{}, err
	}
	was := *l
	keep := l.next
	if len(l.checkpoints) > 0 {
		keep = l.keep()
	}
	v.mu.RUnlock()
	switch {
	case first > was.next:
		return LogInfo{}, &RangeError{Log: name, Asked: first, First: was.first, Next: was.next, Err: ErrLSNAhead}
	case first > keep:
		return LogInfo{}, held(name, first, keep)
	case first <= was.first:
		return was.info(), nil
	}
	start := was.totalBytes
	at := first
	if lost, ok := was.lostFrom(first); ok && lost.First <= first {
		at = lost.Last + 1 // where a lost record began is not known
	}
	if at < was.next {
		start, err = v.offsetAt(name, was.number, at)
		if errors.Is(err, ErrLSNTruncated) {
			return v.Log(name) // the janitor was faster
		}
		if err != nil {
			return LogInfo{}, err
		}
	}
	info, err := v.truncate(ctx, name, was.number, first, start, true)
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
