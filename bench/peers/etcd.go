package main

import (
	"context"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/walsvc/walsvc/internal/bench"
)

// etcd is the journal of etcd: a library that a raft loop hands batches to. Its
// segments have 64 MiB, as in etcd, and are preallocated by itself.
type etcd struct {
	gathered bool

	w       *wal.WAL
	index   uint64
	entries []*raftpb.Entry
}

func (s *etcd) about() about {
	a := about{Name: "etcd WAL", Version: moduleVersion("go.etcd.io/etcd/server/v3"), Reached: inProcess,
		How: "a mutex and Save for each record"}
	if s.gathered {
		a.Name, a.How = "etcd WAL, gathered", "one goroutine Saves what arrived while it saved, as etcd's raft loop does"
	}
	return a
}

func (s *etcd) start(_ context.Context, dir string, _ bool) (err error) {
	dir = filepath.Join(dir, "wal") // made by Create
	s.index, s.entries = 0, nil
	if wal.Exist(dir) {
		s.w, err = wal.Open(zap.NewNop(), dir, &walpb.Snapshot{})
	} else {
		s.w, err = wal.Create(zap.NewNop(), dir, []byte("metadata"))
	}
	return err
}

func (s *etcd) logs(_ context.Context, _ int, pipelined bool) ([]bench.Log, error) {
	return library(s.save, s.gathered, pipelined)
}

// term is that of every entry: there is no election here.
var term = uint64(1)

func (s *etcd) save(_ context.Context, records [][]byte) error {
	entries := make([]raftpb.Entry, len(records))
	indices := make([]uint64, len(records))
	s.entries = s.entries[:0]
	for i, r := range records {
		s.index++
		indices[i] = s.index
		e := &entries[i]
		e.Term, e.Index, e.Data = &term, &indices[i], r
		s.entries = append(s.entries, e)
	}
	return s.w.Save(&raftpb.HardState{}, s.entries)
}

// replay reads everything, which is how etcd opens its journal: there is no
// iterator.
func (s *etcd) replay(_ context.Context, yield func([]byte) error) error {
	_, _, entries, err := s.w.ReadAll()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := yield(e.GetData()); err != nil {
			return err
		}
	}
	return nil
}

func (s *etcd) stop(context.Context) error {
	if s.w == nil {
		return nil
	}
	w := s.w
	s.w = nil
	return w.Close()
}
