package main

import (
	"context"
	"path/filepath"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/disk"
)

// loop is a mutex, a write behind the end of a file, and a sync: what is written
// by whoever needs a log in an afternoon.
type loop struct {
	f  disk.File
	at int64
}

func (*loop) about() about {
	return about{Name: "mutex, append, sync", Reached: inProcess, How: "a file that grows, fdatasync for each record"}
}

func (s *loop) start(_ context.Context, dir string, _ bool) (err error) {
	fsys := disk.OS(disk.OSOptions{Direct: disk.DirectNever})
	if s.f, err = fsys.Create(filepath.Join(dir, "log")); err != nil {
		return err
	}
	s.at = 0
	return fsys.SyncDir(dir)
}

func (s *loop) logs(_ context.Context, _ int, pipelined bool) ([]bench.Log, error) {
	return library(func(_ context.Context, records [][]byte) error {
		for _, r := range records {
			if _, err := s.f.WriteAt(r, s.at); err != nil {
				return err
			}
			s.at += int64(len(r))
		}
		return s.f.Sync()
	}, false, pipelined)
}

func (s *loop) stop(context.Context) error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}
