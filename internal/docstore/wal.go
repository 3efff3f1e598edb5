package docstore

import (
	"context"
	"iter"
)

// A WAL is one connection to the service that keeps the store's logs.
type WAL interface {
	// Log returns the log of that name, and creates it if there is none.
	Log(ctx context.Context, name string) (Log, error)
}

// A Log is the write-ahead log of one shard.
type Log interface {
	// Append hands a record on, and blocks only for back-pressure. done is called
	// once, from any goroutine, and must be quick: with the record's LSN when it
	// is durable, or with what kept it from being so; unless that is a refusal,
	// the record may be durable all the same. Records of one connection land in
	// the order of the calls, and none without those before it.
	Append(ctx context.Context, record []byte, done func(lsn uint64, err error))

	// Durable returns the last durable LSN; 0 if there is none.
	Durable(ctx context.Context) (uint64, error)

	// Follow returns the records from an LSN on, in order, and waits for more
	// at the end until ctx is done. A record is valid until the next one.
	Follow(ctx context.Context, from uint64) iter.Seq2[Record, error]

	// Checkpoint returns the state and LSN of the checkpoint of that name;
	// found is false if there is none.
	Checkpoint(ctx context.Context, name string) (lsn uint64, state []byte, found bool, err error)

	// SetCheckpoint sets it; what it says is durable when it returns nil, and
	// may be when it returns an error.
	SetCheckpoint(ctx context.Context, name string, lsn uint64, state []byte) error

	// Truncate gives up the records below first.
	Truncate(ctx context.Context, first uint64) error
}

// A Record is a record with its place in the log.
type Record struct {
	LSN  uint64
	Data []byte
}
