package wal

import (
	"context"
	"fmt"
	"hash/crc32"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// SetCheckpoint sets a checkpoint's LSN and state, durably, and returns it with
// its new version. expected, unless nil, must be its present version, 0 if it
// must not exist. cp.Version, unless 0, must be its new one: that tells also whether one
// was deleted since. It returns ErrLogNotFound, ErrInvalidName, ErrTooLarge,
// ErrTooManyCheckpoints, a *RangeError for an LSN beyond the durable one or
// below what is kept, ErrCheckpointBackwards, a *ConflictError or ErrFull.
func (v *Volume) SetCheckpoint(ctx context.Context, log string, cp Checkpoint, expected *uint64) (Checkpoint, error) {
	return v.SetCheckpointIn(ctx, log, 0, cp, expected)
}

// SetCheckpointIn is SetCheckpoint for the writer of an epoch, 0 for anybody: it
// returns a *FencedError, too, if the log is in another epoch when the checkpoint is
// sequenced. A checkpoint says what the next recovery begins with, and a fenced
// writer's pages are not what its successor has.
func (v *Volume) SetCheckpointIn(ctx context.Context, log string, epoch Epoch, cp Checkpoint, expected *uint64) (Checkpoint, error) {
	if !validName(cp.Name, limits.MaxCheckpointNameBytes) {
		return Checkpoint{}, invalidName("checkpoint", cp.Name, limits.MaxCheckpointNameBytes)
	}
	if most := min(limits.MaxCheckpointState, max(v.maxBatch, 0)); len(cp.State) > most && v.readOnly == nil {
		return Checkpoint{}, fmt.Errorf("checkpoint %q: state of %d bytes: %w: it is %d", cp.Name, len(cp.State), ErrTooLarge, most)
	}
	info, err := v.Log(log)
	if err != nil {
		return Checkpoint{}, err
	}
	if epoch != 0 && epoch != info.Epoch {
		return Checkpoint{}, &FencedError{Log: log, Epoch: epoch, Current: info.Epoch, Holder: info.Holder}
	}
	if cp.LSN > info.Durable() {
		return Checkpoint{}, &RangeError{Log: log, Asked: cp.LSN, First: info.First, Next: info.Next, Err: ErrLSNAhead}
	}
	sum := crc32.Checksum(cp.State, castagnoli)
	var set Command
	err = v.do(ctx, maxSmallCommand+len(cp.State), forState(len(cp.State)), func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil || l.id != info.ID {
			return nil, nil, notFound(log)
		}
		if epoch != 0 && epoch != l.epoch {
			return nil, nil, l.fenced(epoch)
		}
		var was checkpointState
		i, found := l.findCheckpoint(cp.Name)
		if found {
			was = l.checkpoints[i]
		}
		version := l.nextVersion(i, found)
		switch err := l.moved(info.Epoch, cp.LSN); {
		case err != nil: // since it was looked at, above
			return nil, nil, err
		case expected != nil && *expected != was.version:
			return nil, nil, &ConflictError{Log: log, Checkpoint: cp.Name, Expected: *expected, Version: was.version}
		case cp.Version != 0 && cp.Version != version:
			return nil, nil, &ConflictError{Log: log, Checkpoint: cp.Name, Expected: cp.Version - 1, Version: was.version, Deleted: !found}
		case cp.LSN < was.lsn:
			return nil, nil, fmt.Errorf("log %q: checkpoint %q: %w: from LSN %d to %d", log, cp.Name, ErrCheckpointBackwards, was.lsn, cp.LSN)
		case cp.LSN+1 < l.first:
			return nil, nil, &RangeError{Log: log, Asked: cp.LSN, First: l.first, Next: l.next, Err: ErrLSNTruncated}
		case !found && len(l.checkpoints) >= limits.MaxCheckpointsPerLog:
			return nil, nil, fmt.Errorf("log %q: %w: the limit is %d", log, ErrTooManyCheckpoints, limits.MaxCheckpointsPerLog)
		}
		set = Command{
			Kind: CommandSetCheckpoint, Log: l.number, Name: cp.Name, LSN: cp.LSN, Version: version,
			Time: v.clock.now(), RunSum: sum,
		}
		if len(cp.State) == 0 {
			return &set, nil, nil
		}
		return &set, cp.State, nil
	})
	if err != nil {
		return Checkpoint{}, err
	}
	v.janitor.kick()
	return Checkpoint{Name: cp.Name, LSN: cp.LSN, Version: set.Version, StateSize: uint32(len(cp.State)), SetAt: timeOf(set.Time)}, nil
}

// Checkpoint returns a checkpoint with its state. It returns ErrLogNotFound, a
// *NoCheckpointError, a *DataLossError if the state does not verify, or
// ErrReadFailed if it could not be read.
func (v *Volume) Checkpoint(ctx context.Context, log, name string) (Checkpoint, error) {
	// The state may be carried forward, and its old segment recycled, between
	// looking up where it is and reading it: then look again.
	for {
		v.mu.RLock()
		l, err := v.lookup(log)
		if err != nil {
			v.mu.RUnlock()
			return Checkpoint{}, err
		}
		i, found := l.findCheckpoint(name)
		if !found {
			err := l.noCheckpoint(name)
			v.mu.RUnlock()
			return Checkpoint{}, err
		}
		was := l.checkpoints[i]
		at, placed := v.index.places.get(stateKey{l.number, name})
		v.mu.RUnlock()
		cp := was.describe()
		if was.size == 0 {
			return cp, nil
		}
		if !placed {
			return Checkpoint{}, &DataLossError{Log: log, Detail: fmt.Sprintf("the state of checkpoint %q is nowhere", name)}
		}
		cp.State, err = readState(v.fetch, at, was.sum)
		if err == nil {
			return cp, nil
		}
		v.mu.RLock()
		now, still := v.index.places.get(stateKey{l.number, name})
		v.mu.RUnlock()
		if failed := readFailed(log, was.lsn, err); failed != nil {
			return Checkpoint{}, failed
		}
		if still && now == at {
			return Checkpoint{}, &DataLossError{Log: log, Detail: fmt.Sprintf("the state of checkpoint %q does not verify", name), Err: err}
		}
		if err := ctx.Err(); err != nil {
			return Checkpoint{}, err
		}
	}
}

// readState reads a checkpoint's bytes.
func readState(fetch *replay.Fetcher, at statePlace, sum uint32) ([]byte, error) {
	r := stateReader{fetch: fetch}
	return r.read(at, sum)
}

// A stateReader reads checkpoints' bytes, and keeps the block that it opened last:
// those that were set together lie together.
type stateReader struct {
	fetch *replay.Fetcher
	pos   segment.Pos
	block uint32
	raw   []byte // nil if none is open
}

// read returns bytes that the next read overwrites nothing of.
func (r *stateReader) read(at statePlace, sum uint32) ([]byte, error) {
	if r.raw == nil || r.pos != at.pos || r.block != at.place.Block {
		r.raw = nil
		f, err := r.fetch.Frame(at.pos)
		if err != nil {
			return nil, err
		}
		if r.raw, err = r.fetch.Open(f, int(at.place.Block), nil); err != nil {
			return nil, err
		}
		r.pos, r.block = at.pos, at.place.Block
	}
	raw := r.raw
	if uint64(at.place.Offset)+uint64(at.place.Size) > uint64(len(raw)) {
		return nil, &segment.CorruptError{
			Pos: at.pos, Reason: fmt.Sprintf("state at %d of %d bytes in a block of %d", at.place.Offset, at.place.Size, len(raw)), Err: segment.ErrBadBlock,
		}
	}
	state := raw[at.place.Offset : at.place.Offset+at.place.Size : at.place.Offset+at.place.Size]
	if got := crc32.Checksum(state, castagnoli); got != sum {
		return nil, &segment.CorruptError{
			Pos: at.pos, Reason: fmt.Sprintf("checksum %08x where the state has %08x", got, sum), Err: segment.ErrBadBlock,
		}
	}
	return state, nil
}

func (c *checkpointState) describe() Checkpoint {
	return Checkpoint{Name: c.name, LSN: c.lsn, Version: c.version, StateSize: c.size, SetAt: timeOf(c.setAt)}
}

// noCheckpoint says that the log has no checkpoint of that name, and cannot have if it
// is none.
func (l *logState) noCheckpoint(name string) error {
	if !validName(name, limits.MaxCheckpointNameBytes) {
		return invalidName("checkpoint", name, limits.MaxCheckpointNameBytes)
	}
	return &NoCheckpointError{Log: l.name, Checkpoint: name, Next: l.nextVersion(0, false)}
}

// Checkpoints returns a log's checkpoints by name, without their states. It
// returns ErrLogNotFound.
func (v *Volume) Checkpoints(log string) ([]Checkpoint, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, err := v.lookup(log)
	if err != nil {
		return nil, err
	}
	list := make([]Checkpoint, len(l.checkpoints))
	for i := range l.checkpoints {
		list[i] = l.checkpoints[i].describe()
	}
	return list, nil
}

// DeleteCheckpoint deletes a checkpoint, durably. expected, unless nil, must be
// its present version. It returns ErrLogNotFound, a *NoCheckpointError or a
// *ConflictError.
func (v *Volume) DeleteCheckpoint(ctx context.Context, log, name string, expected *uint64) error {
	defer v.janitor.kick()
	return v.do(ctx, maxSmallCommand, forTruncation, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		i, found := l.findCheckpoint(name)
		if !found {
			return nil, nil, l.noCheckpoint(name)
		}
		if got := l.checkpoints[i].version; expected != nil && *expected != got {
			return nil, nil, &ConflictError{Log: log, Checkpoint: name, Expected: *expected, Version: got}
		}
		return &Command{Kind: CommandDeleteCheckpoint, Log: l.number, Name: name}, nil, nil
	})
}
