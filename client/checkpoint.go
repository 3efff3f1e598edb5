package client

import (
	"context"
	"time"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Checkpoint is a named LSN with an engine's own state: "my own storage holds
// everything up to here". It holds the records above it.
type Checkpoint struct {
	Name      string
	LSN       LSN    // 0 for nothing
	Version   uint64 // grows by 1 each time it is set, from 1; never the same again, also when it is deleted and set anew
	State     []byte // nil in listings and from SetCheckpoint
	StateSize int    // bytes of the state, also where State is nil
	Set       time.Time
}

func checkpoint(p *walsvcv1.Checkpoint) Checkpoint {
	return Checkpoint{
		Name: p.GetName(), LSN: LSN(p.GetLsn()), Version: p.GetVersion(), State: p.GetState(),
		StateSize: int(p.GetStateSize()), Set: p.GetSetTime().AsTime(),
	}
}

// A CheckpointOption says on what condition a checkpoint is set or deleted.
type CheckpointOption func(*checkpointOptions)

type checkpointOptions struct{ expected *uint64 }

// ExpectVersion has the call fail with ErrCheckpointConflict unless the
// checkpoint has that version; 0 means that it must not exist.
func ExpectVersion(version uint64) CheckpointOption {
	return func(o *checkpointOptions) { o.expected = &version }
}

func expected(opts []CheckpointOption) *uint64 {
	var o checkpointOptions
	for _, opt := range opts {
		opt(&o)
	}
	return o.expected
}

// SetCheckpoint sets a checkpoint to an LSN, with at most 1 MiB of state. Durable
// when it returns. A handle that acquired the log's writer sets it as that writer:
// ErrFenced once another one has begun. It returns ErrLSNAhead if lsn is beyond the durable end,
// ErrCheckpointBackwards if the checkpoint is above it, ErrCheckpointConflict,
// ErrTooManyCheckpoints, ErrTooLarge or ErrLogNotFound. When the service could
// not be reached the outcome is unknown: get the checkpoint, its version tells.
func (l *Log) SetCheckpoint(ctx context.Context, name string, lsn LSN, state []byte, opts ...CheckpointOption) (Checkpoint, error) {
	return l.setCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{
		Name: name, Lsn: uint64(lsn), State: state, ExpectedVersion: expected(opts), Epoch: l.epoch(),
	})
}

func (l *Log) setCheckpoint(ctx context.Context, req *walsvcv1.SetCheckpointRequest) (Checkpoint, error) {
	req.Log = l.name
	resp, err := l.client.checkpointService.SetCheckpoint(ctx, req)
	if err != nil {
		return Checkpoint{}, called(err, "set checkpoint %q of log %q to LSN %d", req.GetName(), l.name, req.GetLsn())
	}
	return checkpoint(resp.GetCheckpoint()), nil
}

// Checkpoint returns a checkpoint with its state, or ErrCheckpointNotFound.
func (l *Log) Checkpoint(ctx context.Context, name string) (Checkpoint, error) {
	resp, err := l.client.checkpointService.GetCheckpoint(ctx, &walsvcv1.GetCheckpointRequest{Log: l.name, Name: name})
	if err != nil {
		return Checkpoint{}, called(err, "get checkpoint %q of log %q", name, l.name)
	}
	return checkpoint(resp.GetCheckpoint()), nil
}

// Checkpoints returns the log's checkpoints by name, at most 64, without their
// states.
func (l *Log) Checkpoints(ctx context.Context) ([]Checkpoint, error) {
	resp, err := l.client.checkpointService.ListCheckpoints(ctx, &walsvcv1.ListCheckpointsRequest{Log: l.name})
	if err != nil {
		return nil, called(err, "list checkpoints of log %q", l.name)
	}
	all := make([]Checkpoint, len(resp.GetCheckpoints()))
	for i, p := range resp.GetCheckpoints() {
		all[i] = checkpoint(p)
	}
	return all, nil
}

// DeleteCheckpoint deletes a checkpoint, which holds nothing any more then.
// Durable when it returns. It returns ErrCheckpointNotFound or
// ErrCheckpointConflict.
func (l *Log) DeleteCheckpoint(ctx context.Context, name string, opts ...CheckpointOption) error {
	_, err := l.client.checkpointService.DeleteCheckpoint(ctx, &walsvcv1.DeleteCheckpointRequest{
		Log: l.name, Name: name, ExpectedVersion: expected(opts),
	})
	return called(err, "delete checkpoint %q of log %q", name, l.name)
}
