package docstore

import (
	"context"
	"errors"
	"iter"

	"github.com/walsvc/walsvc/client"
)

// Over returns the WAL that a client's connection is.
func Over(c *client.Client) WAL { return connection{c} }

type connection struct{ client *client.Client }

func (c connection) Log(ctx context.Context, name string) (Log, error) {
	if _, _, err := c.client.CreateLog(ctx, name, client.LogOptions{}); err != nil {
		return nil, err
	}
	return log{c.client.Log(name)}, nil
}

type log struct{ log *client.Log }

func (l log) Append(ctx context.Context, record []byte, done func(lsn uint64, err error)) {
	l.log.AppendAsyncFunc(ctx, record, func(r client.Receipt, err error) { done(uint64(r.LSN), err) })
}

func (l log) Durable(ctx context.Context) (uint64, error) {
	info, err := l.log.Info(ctx)
	if err != nil {
		return 0, err
	}
	return uint64(info.Durable()), nil
}

func (l log) Follow(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for r, err := range l.log.Replay(ctx, client.ReplayOptions{From: client.LSN(from), Follow: true}) {
			if !yield(Record{LSN: uint64(r.LSN), Data: r.Data}, err) {
				return
			}
		}
	}
}

func (l log) Checkpoint(ctx context.Context, name string) (lsn uint64, state []byte, found bool, err error) {
	cp, err := l.log.Checkpoint(ctx, name)
	if errors.Is(err, client.ErrCheckpointNotFound) {
		return 0, nil, false, nil
	}
	return uint64(cp.LSN), cp.State, err == nil, err
}

func (l log) SetCheckpoint(ctx context.Context, name string, lsn uint64, state []byte) error {
	_, err := l.log.SetCheckpoint(ctx, name, client.LSN(lsn), state)
	return err
}

func (l log) Truncate(ctx context.Context, first uint64) error {
	_, err := l.log.Truncate(ctx, client.LSN(first))
	return err
}
