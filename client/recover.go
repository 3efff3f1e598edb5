package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A PendingCheckpoint is a checkpoint that was begun and is not complete: the
// time in which an engine makes its own pages durable. Nothing of it is on the
// service yet, so one that is given up, or dies with its process, needs no
// cleaning up.
type PendingCheckpoint struct {
	log   *Log
	name  string
	lsn   LSN
	next  uint64 // version that it is to get: the one behind what there was at BeginCheckpoint
	epoch uint64 // that the handle had acquired by then; 0 for none
}

// BeginCheckpoint begins a checkpoint at lsn, the last record that the engine has
// applied, and waits until the log is durable up to there: pages that an engine
// writes from now on hold nothing that its log could still lose. The log holds
// its records as before until Complete. It returns ErrFenced if the handle acquired the
// log's writer and another one has begun, ErrCheckpointBackwards if the checkpoint
// is above lsn, ErrLogNotFound, ErrUnavailable when the service stops, or the context's
// error, also for an lsn that nobody appends.
func (l *Log) BeginCheckpoint(ctx context.Context, name string, lsn LSN) (*PendingCheckpoint, error) {
	p := &PendingCheckpoint{log: l, name: name, lsn: lsn, epoch: l.epoch()}
	// First, since a writer that was fenced should hear that, and not that its
	// successor's checkpoint is above its own.
	if _, err := l.waitDurable(ctx, p.epoch, lsn); err != nil {
		return nil, fmt.Errorf("begin checkpoint %q: %w", name, err)
	}
	now, err := l.Checkpoint(ctx, name)
	switch e, ok := errors.AsType[*Error](err); {
	case errors.Is(err, ErrCheckpointNotFound) && ok:
		if p.next, err = strconv.ParseUint(e.Metadata["next_version"], 10, 64); err != nil || p.next == 0 {
			return nil, fmt.Errorf("begin checkpoint %q of log %q: %w: next version %q", name, l.name, ErrProtocol, e.Metadata["next_version"])
		}
	case err != nil:
		return nil, fmt.Errorf("begin checkpoint %q: %w", name, err)
	case now.LSN > lsn:
		return nil, fmt.Errorf("begin checkpoint %q of log %q at LSN %d: %w: it is at LSN %d", name, l.name, lsn, ErrCheckpointBackwards, now.LSN)
	default:
		p.next = now.Version + 1
	}
	return p, nil
}

// LSN returns where the checkpoint will be.
func (p *PendingCheckpoint) LSN() LSN { return p.lsn }

// Complete sets the checkpoint, with at most 1 MiB of the engine's state, unless
// somebody else has set or deleted it since it was begun, or deleted another of the log's
// if there was none: ErrCheckpointConflict, and it changed nothing. So with ErrFenced: a handle that acquired the log's writer
// completes it as that writer. What the state refers to, pages say, must be durable
// before. Durable when it returns; records up to its LSN may be given up then. It
// may be called again, with the same state, after any error: what an earlier call
// did is found.
func (p *PendingCheckpoint) Complete(ctx context.Context, state []byte) (Checkpoint, error) {
	set, err := p.log.setCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{
		Name: p.name, Lsn: uint64(p.lsn), State: state, NextVersion: p.next, Epoch: p.epoch,
	})
	if !errors.Is(err, ErrCheckpointConflict) {
		return set, err
	}
	now, gerr := p.log.Checkpoint(ctx, p.name)
	if gerr == nil && now.Version == p.next && now.LSN == p.lsn && bytes.Equal(now.State, state) {
		return now, nil // the answer to an earlier call was lost
	}
	return Checkpoint{}, err
}

// Recover returns where an engine goes on after a crash: its checkpoint, the zero
// one if it never completed any, and the records behind it, in order, as Replay
// yields them. Applied to what the checkpoint's state says, they make the state
// that the log's end stands for. Records that are neither covered by the
// checkpoint nor kept are an error that the loop gets, ErrLSNTruncated, and never
// a gap. An engine that wants the speed of ReplayOptions.Reuse asks for its Checkpoint
// and replays from behind it itself. err is ErrLogNotFound, ErrUnavailable or the context's.
func (l *Log) Recover(ctx context.Context, name string) (cp Checkpoint, behind iter.Seq2[Record, error], err error) {
	if cp, err = l.checkpointOrNone(ctx, name); err != nil {
		return Checkpoint{}, nil, err
	}
	return cp, l.Replay(ctx, ReplayOptions{From: cp.LSN + 1}), nil
}

// checkpointOrNone returns a checkpoint with its state, or the zero one.
func (l *Log) checkpointOrNone(ctx context.Context, name string) (Checkpoint, error) {
	cp, err := l.Checkpoint(ctx, name)
	if errors.Is(err, ErrCheckpointNotFound) {
		return Checkpoint{}, nil
	}
	return cp, err
}
