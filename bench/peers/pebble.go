package main

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walsvc/walsvc/internal/bench"
)

// pebbleDB is CockroachDB's storage engine: its own log merges what concurrent
// callers commit, and recycles its files. Memtables are large and compaction is
// put off, so that it is this log that is measured.
type pebbleDB struct {
	gathered bool

	db   *pebble.DB
	next atomic.Uint64
}

func (s *pebbleDB) about() about {
	a := about{Name: "Pebble, Sync", Version: moduleVersion("github.com/cockroachdb/pebble/v2"), Reached: inProcess,
		How: "Set with Sync by each caller; its own group commit; memtables of 64 MiB, compaction put off"}
	if s.gathered {
		a.Name, a.How = "Pebble, gathered", "one goroutine commits what arrived meanwhile as one batch, and begins the next while it syncs; otherwise the same"
	}
	return a
}

func (s *pebbleDB) start(_ context.Context, dir string, _ bool) (err error) {
	s.next.Store(0)
	s.db, err = pebble.Open(dir, &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             silent{},
		// As CockroachDB has it; the log is recycled at every flush.
		MemTableSize: 64 << 20, MemTableStopWritesThreshold: 4,
		L0CompactionThreshold: 64, L0CompactionFileThreshold: 4000, L0StopWritesThreshold: 1000,
	})
	return err
}

// silent keeps Pebble from printing, and from ending the process.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, _ ...any) {
	panic("pebble: " + format)
}

func (s *pebbleDB) logs(_ context.Context, _ int, pipelined bool) ([]bench.Log, error) {
	switch {
	case s.gathered:
		return []bench.Log{gatherAhead(s.commit, bench.PipelineRecords, 2)}, nil
	case pipelined:
		return nil, errNoPipeline
	}
	return []bench.Log{called(func(_ context.Context, record []byte) error {
		var key [8]byte
		binary.BigEndian.PutUint64(key[:], s.next.Add(1))
		return s.db.Set(key[:], record, pebble.Sync)
	})}, nil
}

func (s *pebbleDB) commit(_ context.Context, records [][]byte) (wait func() error, err error) {
	b := s.db.NewBatch()
	for _, r := range records {
		op := b.SetDeferred(8, len(r))
		binary.BigEndian.PutUint64(op.Key, s.next.Add(1))
		copy(op.Value, r)
		if err := op.Finish(); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	if err := s.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return func() error { return errors.Join(b.SyncWait(), b.Close()) }, nil
}

func (s *pebbleDB) replay(ctx context.Context, yield func([]byte) error) (err error) {
	it, err := s.db.NewIterWithContext(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		record, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := yield(record); err != nil {
			return err
		}
	}
	return it.Error()
}

func (s *pebbleDB) stop(context.Context) error {
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}
