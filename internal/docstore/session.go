package docstore

import (
	"context"
)

// A Session is one client's way into a store, over a connection of its own. It
// is for one goroutine. The operations of a session take effect, within a
// shard, in the order they were asked for, and none without those before it.
type Session struct {
	id   uint64
	logs []Log
	next []uint64 // number of the last operation, for each shard
}

// NewSession begins a session over a connection, which it does not close. An id
// is used once in the life of a store.
func (s *Store) NewSession(ctx context.Context, wal WAL, id uint64) (*Session, error) {
	n := &Session{id: id, next: make([]uint64, len(s.shards))}
	for i := range s.shards {
		log, err := wal.Log(ctx, s.options.LogName(i))
		if err != nil {
			return nil, err
		}
		n.logs = append(n.logs, log)
	}
	return n, nil
}

// A Pending is an operation that is about to be appended.
type Pending struct {
	Shard  int
	Number uint64 // of the session's operations on the shard, from 1
	Record []byte
	log    Log
}

// Prepare gives an operation its shard, number and record. Operations must be
// started in the order they were prepared in.
func (n *Session) Prepare(kind Kind, key string, doc []byte) Pending {
	shard := ShardOf(key, len(n.logs))
	n.next[shard]++
	op := Op{Kind: kind, Session: n.id, Number: n.next[shard], Key: key, Doc: doc}
	return Pending{Shard: shard, Number: op.Number, Record: op.AppendTo(nil), log: n.logs[shard]}
}

// Start appends the operation; see Log.Append for what done is told. The
// operation shows in the store soon after; Store.Wait waits for it.
func (p Pending) Start(ctx context.Context, done func(lsn uint64, err error)) {
	p.log.Append(ctx, p.Record, done)
}
