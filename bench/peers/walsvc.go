package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/service"
)

// walsvc is the service as it is shipped, in a process of its own, through the
// SDK. Its logs are truncated while it is under load, so segments are recycled.
type walsvc struct {
	binary string
	each   bool // a connection and a log for each caller, instead of one for all
	awake  bool // args keep processors awake
	args   []string

	process *service.Process
	keep    bool
	client  *client.Client // with keep
	target  *bench.Target  // without
	callers int            // that target was made for
}

// walsvcLog is what the log is called that is read back.
const walsvcLog = "peers"

// warmBound bounds how long it takes until segments are recycled.
const warmBound = 2 * time.Minute

func (s *walsvc) about() about {
	a := about{Name: "walsvc", Version: "this tree", Reached: unixSocket,
		How: "as shipped; one SDK client and one log for all callers; segments recycled"}
	if s.each {
		a.Name, a.How = "walsvc, a connection each", "as shipped; a client and a log for each caller; segments recycled"
	}
	if s.awake {
		a.Name, a.How = "walsvc --keep-awake", "no processor halts while there are appends; otherwise as walsvc"
	}
	return a
}

func (s *walsvc) start(ctx context.Context, dir string, keep bool) (err error) {
	if s.process, err = service.Start(ctx, service.Options{Binary: s.binary, Dir: dir, Args: s.args}); err != nil {
		return err
	}
	s.keep = keep
	if !keep {
		return nil
	}
	if s.client, err = client.Open(ctx, s.process.Addr(), client.Options{}); err != nil {
		return err
	}
	_, _, err = s.client.CreateLog(ctx, walsvcLog, client.LogOptions{}) // or gets it
	return err
}

func (s *walsvc) warm(ctx context.Context) error {
	if err := s.aim(ctx, 1); err != nil {
		return err
	}
	return s.target.Warm(ctx, warmBound, nil)
}

// aim makes the connections and logs for so many callers.
func (s *walsvc) aim(ctx context.Context, callers int) error {
	if s.target != nil && s.callers == callers {
		return nil
	}
	if err := s.release(ctx); err != nil {
		return err
	}
	t, err := bench.NewTarget(ctx, bench.TargetOptions{Connections: callers, Logs: callers,
		Connect: func(ctx context.Context) (*client.Client, error) {
			return client.Open(ctx, s.process.Addr(), client.Options{})
		}})
	if err != nil {
		return err
	}
	t.Truncate(ctx)
	s.target, s.callers = t, callers
	return nil
}

// release gives up what aim made.
func (s *walsvc) release(ctx context.Context) error {
	if s.target == nil {
		return nil
	}
	err := s.target.Close(ctx)
	s.target = nil
	return err
}

func (s *walsvc) logs(ctx context.Context, callers int, pipelined bool) ([]bench.Log, error) {
	switch {
	case s.keep:
		return []bench.Log{s.client.Log(walsvcLog)}, nil
	case s.each && (pipelined || callers == 1):
		return nil, fmt.Errorf("%w: one connection is the other line", errors.ErrUnsupported)
	case !s.each:
		callers = 1
	}
	err := s.aim(ctx, callers)
	if err != nil {
		return nil, err
	}
	return s.target.Logs, nil
}

func (s *walsvc) stop(ctx context.Context) error {
	err := s.release(ctx)
	if s.client != nil {
		err = errors.Join(err, s.client.Close(ctx))
		s.client = nil
	}
	if s.process != nil {
		err = errors.Join(err, s.process.Kill())
		s.process = nil
	}
	return err
}

func (s *walsvc) replay(ctx context.Context, yield func([]byte) error) error {
	for record, err := range s.client.Log(walsvcLog).Replay(ctx, client.ReplayOptions{Reuse: true}) {
		if err != nil {
			return err
		}
		if err := yield(record.Data); err != nil {
			return err
		}
	}
	return nil
}
