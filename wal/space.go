package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A purpose is what space is wanted for. On a full disk those that add to what is
// kept are refused first, those that lead to room last, so that a volume always
// has room for making room:
//
//	forRecords    appends, new logs and producers
//	forStates     checkpoints with a state of some size: they may lead to room,
//	              and could use up all there is if they are set again and again
//	forRoom       small checkpoints, writers, cursors; promises and the snapshots
//	              of every day
//	forTruncation truncations and deletions: each gives something up for good, so
//	              that nobody can do it again and again for nothing
//	forRelease    two snapshots and the commands that release segments
//
// The last takes what the others leave: two snapshots go into the current
// segment, then a segment is begun whose header records them, and everything
// before them that no log keeps is released. What it takes to begin that segment
// is the spare that records and states leave; if opening took that, it is what
// is left of the current segment (segment.Journal.Roll).
type purpose uint8

const (
	forRecords purpose = iota
	forStates
	forRoom
	forTruncation
	forRelease
)

// smallState is how large a checkpoint's state may be to count as one that leads
// to room: it rides in a frame of one disk block, like every small command.
const smallState = 2 << 10

// forState returns what a checkpoint with a state of size bytes is for.
func forState(size int) purpose {
	if size > smallState {
		return forStates
	}
	return forRoom
}

// splittable is the least a segment takes, in bytes, whose rest may have to
// become a segment of its own. Below it, the reserve is two spares' worth of luck:
// such segments are for tests.
const splittable = 8 * limits.MinSegmentSize

// leave returns what a purpose has to leave for those behind it.
func (v *Volume) leave(use purpose) segment.Reserve {
	each := v.journal.SegmentTakes()
	state := v.stateSize.Load()
	// Two snapshots, and what is truncated in every log, which takes less than the
	// logs take in them; then the promise behind the roll, and one before it.
	room := 2*snapshotTakes(state) + state/2 + 4*limits.BlockSize
	if each >= splittable {
		room += limits.MinSegmentSize + 4*limits.BlockSize
	}
	// Some truncations, whatever else is under way; three times over, see Reserve.Again.
	small := room + 3*4*limits.BlockSize
	states := small + min(each/16, 1<<20)
	records := states + min(each/8, 4<<20)
	// A state so large that its snapshots fill segments does not close the volume:
	// then the spare has to do.
	switch use {
	case forRecords:
		return segment.Reserve{Bytes: min(records, each/4), Spare: segment.LeaveSpare, Again: true}
	case forStates:
		return segment.Reserve{Bytes: min(states, each/4), Spare: segment.KeepSpare, Again: true}
	case forRoom:
		return segment.Reserve{Bytes: min(small, each/4), Spare: segment.TakeSpare, Again: true}
	case forTruncation:
		most := each / 4
		if each < splittable {
			most = each / 8 // else there were nothing that forRoom leaves
		}
		return segment.Reserve{Bytes: min(room, most), Spare: segment.TakeSpare, Again: true}
	default:
		return segment.Reserve{Spare: segment.TakeSpare, Again: true}
	}
}

// appendable returns how many bytes of records there is written space for.
func (v *Volume) appendable(s segment.Space) int64 {
	return max(0, s.Usable-v.journal.SegmentTakes()-v.leave(forRecords).Bytes)
}

// maxCommandBytes is more than any command without records takes, labels
// included; maxSmallCommand the same for all but the one that creates a log.
const (
	maxCommandBytes = 2*limits.MaxLabels*(limits.MaxLabelBytes+2) + 4*limits.MaxLogNameBytes
	maxSmallCommand = 2 * limits.MaxLogNameBytes
)

// blockTableEntry is more than a block takes in a directory, frameOverhead more
// than a frame takes besides what it carries, both in bytes.
const (
	blockTableEntry = 64
	frameOverhead   = limits.FrameHeaderSize + limits.BlockSize
)

// board boards the bus when there is written space for size more bytes, or it
// is known that there is none: then refusal is ErrFull. It waits for a segment
// that is being prepared, and for frames under way when they are too many for
// the segments that are ready.
func (v *Volume) board(ctx context.Context, size int, use purpose) (f *batcher.Frame, refusal, err error) {
	for {
		if f, err = v.bus.Board(); err != nil {
			return nil, nil, v.wrap(err)
		}
		refusal = v.admit(size, use)
		if errors.Is(refusal, ErrFull) {
			v.janitor.refused()
		}
		if refusal == nil || errors.Is(refusal, ErrFull) {
			return f, refusal, nil
		}
		v.bus.LeaveUnused()
		switch {
		case errors.Is(refusal, segment.ErrPreparing):
			err = v.journal.WaitSpace(ctx, v.pending(size), v.leave(use))
		case errors.Is(refusal, segment.ErrCrowded):
			err = v.bus.Flush(ctx)
		default:
			err = refusal
		}
		if err != nil {
			return nil, nil, v.wrap(err)
		}
	}
}

// pending returns what is under way to the journal, with size bytes more.
func (v *Volume) pending(size int) int64 {
	return v.admitted.Load() + int64(size) + frameOverhead
}

// admit says whether there is written space for size more bytes. It returns
// segment.ErrPreparing if there will be soon, segment.ErrCrowded if there is once
// what is under way has landed, ErrFull if there is none. REQUIRES: boarded.
func (v *Volume) admit(size int, use purpose) error {
	pending := v.pending(size)
	// As it was counted: what has landed since has made room, and whoever waits for it
	// finds that.
	underWay := pending > int64(size)+frameOverhead
	err := v.journal.Admit(pending, v.leave(use))
	switch {
	case err == nil, errors.Is(err, segment.ErrPreparing):
		return err
	case errors.Is(err, segment.ErrCrowded) && underWay:
		return err
	case errors.Is(err, segment.ErrNoSpace) && use == forTruncation && underWay:
		// Without a spare, what is under way counts for more than it will have taken.
		return segment.ErrCrowded
	case errors.Is(err, segment.ErrNoSpace), errors.Is(err, segment.ErrCrowded):
		return fmt.Errorf("%w: %w; truncate logs, set checkpoints, or make room on the file system", ErrFull, err)
	}
	return v.wrap(err)
}

// admitInserted takes written space for a frame that rides between those of
// commands; give is to be its cargo's. It returns ErrFull.
func (v *Volume) admitInserted(size int, use purpose) (give int64, err error) {
	give = int64(size) + frameOverhead
	if err := v.journal.Admit(v.admitted.Add(give), v.leave(use)); err != nil {
		v.admitted.Add(-give)
		return 0, fmt.Errorf("%w: %w", ErrFull, err)
	}
	return give, nil
}

// prepareFailed hears that the preparer has no room: what the janitor left
// because there was enough may be wanted now.
func (v *Volume) prepareFailed(err error) {
	if v.o.Events.PrepareFailed != nil {
		v.o.Events.PrepareFailed(err)
	}
	v.janitor.kick()
}
