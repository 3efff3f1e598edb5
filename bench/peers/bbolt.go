package main

import (
	"context"
	"encoding/binary"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/walsvc/walsvc/internal/bench"
)

// bbolt is a tree in one file. Pages are filled to the end, since keys only
// grow; the list of free pages is not synced, since it can be rebuilt.
type bbolt struct {
	gathered bool

	db *bolt.DB
}

var bboltBucket = []byte("log")

func (s *bbolt) about() about {
	a := about{Name: "bbolt, Batch", Version: moduleVersion("go.etcd.io/bbolt"), Reached: inProcess,
		How: "Batch, of as many as there are callers; Update for one caller; free list not synced"}
	if s.gathered {
		a.Name, a.How = "bbolt, gathered", "one goroutine Updates with what arrived while it updated; free list not synced"
	}
	return a
}

func (s *bbolt) start(_ context.Context, dir string, _ bool) (err error) {
	o := *bolt.DefaultOptions
	o.NoFreelistSync, o.FreelistType = true, bolt.FreelistMapType
	o.InitialMmapSize = 1 << 30 // growing it stops everybody
	if s.db, err = bolt.Open(filepath.Join(dir, "db"), 0o600, &o); err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bboltBucket)
		return err
	})
}

func (s *bbolt) logs(_ context.Context, callers int, pipelined bool) ([]bench.Log, error) {
	if s.gathered || pipelined || callers == 1 {
		return library(func(_ context.Context, records [][]byte) error {
			return s.db.Update(func(tx *bolt.Tx) error { return put(tx, records) })
		}, s.gathered, pipelined)
	}
	// A batch is then complete as soon as everybody waits, and not 10 ms later.
	s.db.MaxBatchSize = callers
	return []bench.Log{called(func(_ context.Context, record []byte) error {
		return s.db.Batch(func(tx *bolt.Tx) error { return put(tx, [][]byte{record}) })
	})}, nil
}

func put(tx *bolt.Tx, records [][]byte) error {
	b := tx.Bucket(bboltBucket)
	b.FillPercent = 1
	for _, r := range records {
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		if err := b.Put(binary.BigEndian.AppendUint64(nil, n), r); err != nil {
			return err
		}
	}
	return nil
}

func (s *bbolt) replay(_ context.Context, yield func([]byte) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bboltBucket).ForEach(func(_, record []byte) error { return yield(record) })
	})
}

func (s *bbolt) stop(context.Context) error {
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}
