package main

import (
	"context"
	"errors"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"

	"github.com/walsvc/walsvc/internal/bench"
)

// raftWAL is the journal of Consul and Vault: a library that a raft loop hands
// batches to. Its segments have 64 MiB by default and are preallocated.
type raftWAL struct {
	gathered bool

	w     *wal.WAL
	meta  *metadb.BoltMetaDB // which Close leaves open, and locked
	index uint64
}

func (s *raftWAL) about() about {
	a := about{Name: "hashicorp/raft-wal", Version: moduleVersion("github.com/hashicorp/raft-wal"), Reached: inProcess,
		How: "a mutex and StoreLogs for each record"}
	if s.gathered {
		a.Name, a.How = "hashicorp/raft-wal, gathered", "one goroutine StoreLogs what arrived while it stored, as hashicorp/raft does"
	}
	return a
}

func (s *raftWAL) start(_ context.Context, dir string, _ bool) (err error) {
	s.index = 0
	s.meta = &metadb.BoltMetaDB{} // the default
	s.w, err = wal.Open(dir, wal.WithLogger(hclog.NewNullLogger()), wal.WithMetaStore(s.meta))
	return err
}

func (s *raftWAL) logs(_ context.Context, _ int, pipelined bool) ([]bench.Log, error) {
	return library(s.storeLogs, s.gathered, pipelined)
}

func (s *raftWAL) storeLogs(_ context.Context, records [][]byte) error {
	logs := make([]*raft.Log, len(records))
	all := make([]raft.Log, len(records))
	for i, r := range records {
		s.index++
		all[i] = raft.Log{Index: s.index, Term: 1, Data: r}
		logs[i] = &all[i]
	}
	return s.w.StoreLogs(logs)
}

func (s *raftWAL) replay(_ context.Context, yield func([]byte) error) error {
	first, err := s.w.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.w.LastIndex()
	if err != nil {
		return err
	}
	var l raft.Log
	for i := first; i <= last; i++ {
		if err := s.w.GetLog(i, &l); err != nil {
			return err
		}
		if err := yield(l.Data); err != nil {
			return err
		}
	}
	return nil
}

func (s *raftWAL) stop(context.Context) error {
	if s.w == nil {
		return nil
	}
	w := s.w
	s.w = nil
	return errors.Join(w.Close(), s.meta.Close())
}
