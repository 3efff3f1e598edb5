package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
)

// A work is a load that every subject is put under.
type work struct {
	Callers   int  `json:"callers"`
	Pipelined bool `json:"pipelined,omitempty"`
}

func (w work) String() string {
	switch {
	case w.Pipelined:
		return "pipelined"
	case w.Callers == 1:
		return "1 caller"
	}
	return fmt.Sprintf("%d callers", w.Callers)
}

// An entry is a subject in a run.
type entry struct {
	subject
	replays bool // is also filled and read back
}

// options say how a run measures.
type options struct {
	dir      string // where everything is made; it is the disk that is measured
	works    []work
	size     int // of a record in bytes
	rounds   int
	duration time.Duration // of each work
	warm     time.Duration // of load before the first work of a round
	records  int           // that are read back; 0 for none
	say      func(format string, args ...any)
}

// A run measures subjects in turn: in each round every subject is started in an
// empty directory, warmed, put under every work and stopped, so that nothing
// runs, and no page is dirty, but its own.
type run struct {
	options
	entries []entry
	results []*result // of entries
}

// measure runs all rounds. A subject that fails is reported with its error and
// left out of further rounds.
func (r *run) measure(ctx context.Context) error {
	for _, e := range r.entries {
		r.results = append(r.results, &result{about: e.about(), loads: map[work][]bench.Throughput{}})
	}
	for round := range r.rounds {
		for i := range r.entries {
			// Who comes first is another one each time.
			at := (i + round*len(r.entries)/r.rounds) % len(r.entries)
			e, res := r.entries[at], r.results[at]
			if res.err != nil {
				continue
			}
			r.say("round %d of %d: %s", round+1, r.rounds, res.Name)
			if err := r.load(ctx, e, res); err != nil {
				res.err = err
				r.say("%s: %v", res.Name, err)
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
		}
	}
	if r.records > 0 {
		return r.readBack(ctx)
	}
	return nil
}

// stopBound bounds how long a subject takes to end.
const stopBound = 30 * time.Second

// within starts a subject in a directory, and stops it when fn has returned.
func within(ctx context.Context, s subject, dir string, keep bool, fn func() error) (err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBound)
		defer cancel()
		err = errors.Join(err, s.stop(ctx))
	}()
	if err := s.start(ctx, dir, keep); err != nil {
		return err
	}
	return fn()
}

// load measures one subject under every work once.
func (r *run) load(ctx context.Context, e entry, res *result) (err error) {
	dir, err := r.directory()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.settle(dir)) }()
	return within(ctx, e, dir, false, func() error {
		if w, ok := e.subject.(warmer); ok {
			if err := w.warm(ctx); err != nil {
				return fmt.Errorf("warm up: %w", err)
			}
		}
		// The heaviest work that it knows brings it to where it stays.
		for _, w := range []work{{1, true}, {64, false}} {
			if _, err := r.once(ctx, e, w, r.warm); err == nil {
				break
			} else if !errors.Is(err, errors.ErrUnsupported) {
				return fmt.Errorf("warm up: %w", err)
			}
		}
		for _, w := range r.works {
			got, err := r.once(ctx, e, w, r.duration)
			if errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			if err != nil {
				return fmt.Errorf("%v: %w", w, err)
			}
			res.loads[w] = append(res.loads[w], got)
		}
		return nil
	})
}

// once puts a subject under one work.
func (r *run) once(ctx context.Context, s subject, w work, d time.Duration) (bench.Throughput, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what the logs have running
	logs, err := s.logs(ctx, w.Callers, w.Pipelined)
	if err != nil {
		return bench.Throughput{}, err
	}
	runtime.GC() // what is garbage by now is somebody else's
	return bench.Load{Callers: w.Callers, Pipelined: w.Pipelined, Size: r.size, Duration: d}.Run(ctx, logs)
}

// directory makes a directory that a server of another user can be in.
func (r *run) directory() (string, error) {
	dir, err := os.MkdirTemp(r.dir, "peers-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// settle removes what a subject left, writes back what is dirty, and gives its
// memory back, so that the next one pays for nothing but itself.
func (r *run) settle(dir string) error {
	err := os.RemoveAll(dir)
	debug.FreeOSMemory()
	return errors.Join(err, syncFS(r.dir))
}

// readBack fills each subject that gives its records back, and then opens and
// reads them in turn.
func (r *run) readBack(ctx context.Context) (err error) {
	dirs := make([]string, len(r.entries))
	defer func() {
		for _, dir := range dirs {
			if dir != "" {
				err = errors.Join(err, r.settle(dir))
			}
		}
	}()
	try := func(i int, what string, fn func(res *result) error) {
		res := r.results[i]
		if !r.entries[i].replays || res.err != nil || ctx.Err() != nil {
			return
		}
		r.say("%s: %s", res.Name, what)
		if err := fn(res); err != nil {
			res.err = fmt.Errorf("%s: %w", what, err)
			r.say("%s: %v", res.Name, res.err)
		}
	}
	for i, e := range r.entries {
		try(i, fmt.Sprintf("fill with %d records", r.records), func(res *result) (err error) {
			if dirs[i], err = r.directory(); err != nil {
				return err
			}
			if err := within(ctx, e, dirs[i], true, func() error { return r.fill(ctx, e) }); err != nil {
				return err
			}
			res.disk, err = size(dirs[i])
			return errors.Join(err, syncFS(r.dir))
		})
	}
	for round := range r.rounds {
		for i, e := range r.entries {
			try(i, fmt.Sprintf("read back %d of %d", round+1, r.rounds), func(res *result) error {
				debug.FreeOSMemory()
				got, err := r.replay(ctx, e, dirs[i])
				if err == nil {
					res.replays = append(res.replays, got)
				}
				return err
			})
		}
	}
	return context.Cause(ctx)
}

// fill appends the records, within the window.
func (r *run) fill(ctx context.Context, s subject) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	logs, err := s.logs(ctx, 1, true)
	if err != nil {
		return err
	}
	window := make(chan struct{}, max(min(bench.PipelineRecords, bench.PipelineBytes/r.size), 1))
	ack := func(_ client.Receipt, err error) {
		if err != nil {
			cancel(err)
		}
		<-window
	}
	cut := bench.NewCutter(r.size, 0, 1)
	for i := range r.records + cap(window) { // the last ones only wait for those before them
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if i < r.records {
			logs[0].AppendAsyncFunc(ctx, cut.Next(), ack)
		}
	}
	return context.Cause(ctx)
}

// A replayed is one opening and reading back.
type replayed struct {
	OpenSeconds      float64 `json:"open_seconds"`  // from starting it until it takes and gives records
	FirstSeconds     float64 `json:"first_seconds"` // from asking for records to the first one
	RecordsPerSecond float64 `json:"records_per_second"`
}

// errReadBack says that what comes back is not what was appended.
var errReadBack = errors.New("other records come back than were appended")

// replay opens a filled subject, reads it back and compares every record.
func (r *run) replay(ctx context.Context, e entry, dir string) (got replayed, err error) {
	giver, ok := e.subject.(replayer)
	if !ok {
		return got, errors.ErrUnsupported
	}
	start := time.Now()
	err = within(ctx, e, dir, true, func() error {
		got.OpenSeconds = time.Since(start).Seconds()
		var n int64
		cut := bench.NewCutter(r.size, 0, 1)
		start := time.Now()
		err := giver.replay(ctx, func(record []byte) error {
			if n++; n == 1 {
				got.FirstSeconds = time.Since(start).Seconds()
			}
			if !bytes.Equal(record, cut.Next()) {
				return fmt.Errorf("record %d: %w", n, errReadBack)
			}
			return nil
		})
		got.RecordsPerSecond = float64(n) / time.Since(start).Seconds()
		if err == nil && n != int64(r.records) {
			err = fmt.Errorf("%d records of %d: %w", n, r.records, errReadBack)
		}
		return err
	})
	return got, err
}

// size returns the bytes of the files below a directory.
func size(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
