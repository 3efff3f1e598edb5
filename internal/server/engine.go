package server

import (
	"context"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/wal"
)

// Volume is what the service needs of a *wal.Volume; Engine makes one. Methods
// are as package wal describes them.
type Volume interface {
	Status() wal.Status

	CreateLog(ctx context.Context, name string, o wal.LogOptions) (info wal.LogInfo, created bool, err error)
	Log(name string) (wal.LogInfo, error)
	ListLogs(prefix, after string, limit int) (logs []wal.LogInfo, more bool)
	DeleteLog(ctx context.Context, name string, id ulid.ULID) error
	Truncate(ctx context.Context, name string, first wal.LSN) (wal.LogInfo, error)

	OpenProducer(ctx context.Context, log string, producer ulid.ULID) (wal.ProducerInfo, error)
	NewAppender(notify func()) Appender
	Append(ctx context.Context, log string, producer ulid.ULID, epoch wal.Epoch, b wal.Batch) (wal.Verdict, error)

	CheckClaim(log string, c wal.Claim) error
	NewReader(log string, o wal.ReadOptions) (Reader, error)
	WaitDurable(ctx context.Context, log string, lsn wal.LSN) (wal.LSN, error)

	SetCheckpoint(ctx context.Context, log string, cp wal.Checkpoint, expected *uint64) (wal.Checkpoint, error)
	Checkpoint(ctx context.Context, log, name string) (wal.Checkpoint, error)
	Checkpoints(log string) ([]wal.Checkpoint, error)
	DeleteCheckpoint(ctx context.Context, log, name string, expected *uint64) error
}

// Appender is what an append stream needs of a *wal.Appender.
type Appender interface {
	Bind(log string, producer ulid.ULID, epoch wal.Epoch, c wal.Claim) (*wal.Binding, wal.LogInfo, wal.ProducerInfo, error)
	Reset(b *wal.Binding)
	Append(ctx context.Context, batches []wal.Batch) error
	Take(dst []wal.Verdict) []wal.Verdict
	Pending() int
}

// Reader is what a replay needs of a *wal.Reader.
type Reader interface {
	Next(ctx context.Context) (wal.Span, error)
	Close() error
}

// Engine returns v as a Volume.
func Engine(v *wal.Volume) Volume { return engine{v} }

type engine struct{ *wal.Volume }

func (e engine) NewAppender(notify func()) Appender { return e.Volume.NewAppender(notify) }

func (e engine) NewReader(log string, o wal.ReadOptions) (Reader, error) {
	r, err := e.Volume.NewReader(log, o)
	if err != nil {
		return nil, err // not r, which would be a Reader that is not nil
	}
	return r, nil
}
