package main

import (
	"context"

	"github.com/tidwall/wal"

	"github.com/walsvc/walsvc/internal/bench"
)

// tidwall is tidwall/wal, which syncs every write by default.
type tidwall struct {
	gathered bool

	l     *wal.Log
	index uint64
}

func (s *tidwall) about() about {
	a := about{Name: "tidwall/wal", Version: moduleVersion("github.com/tidwall/wal"), Reached: inProcess,
		How: "a mutex and Write for each record"}
	if s.gathered {
		a.Name, a.How = "tidwall/wal, gathered", "one goroutine WriteBatches what arrived while it wrote"
	}
	return a
}

func (s *tidwall) start(_ context.Context, dir string, _ bool) (err error) {
	o := *wal.DefaultOptions
	o.NoCopy = true // what is read is compared and not kept
	s.index = 0
	s.l, err = wal.Open(dir, &o)
	return err
}

func (s *tidwall) logs(_ context.Context, _ int, pipelined bool) ([]bench.Log, error) {
	return library(s.write, s.gathered, pipelined)
}

func (s *tidwall) write(_ context.Context, records [][]byte) error {
	if len(records) == 1 {
		s.index++
		return s.l.Write(s.index, records[0])
	}
	var b wal.Batch
	for _, r := range records {
		s.index++
		b.Write(s.index, r)
	}
	return s.l.WriteBatch(&b)
}

func (s *tidwall) replay(_ context.Context, yield func([]byte) error) error {
	first, err := s.l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.l.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last; i++ {
		record, err := s.l.Read(i)
		if err != nil {
			return err
		}
		if err := yield(record); err != nil {
			return err
		}
	}
	return nil
}

func (s *tidwall) stop(context.Context) error {
	if s.l == nil {
		return nil
	}
	l := s.l
	s.l = nil
	return l.Close()
}
