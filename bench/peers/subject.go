package main

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
)

// A subject is a log that is measured. Each is in a file of its own, which says
// how it is configured and why that is its best.
//
// A subject is started in an empty directory, put under load and stopped; or
// started, filled, stopped, and then started again and read back.
type subject interface {
	// about says what it is. Version is known once it has been started.
	about() about
	// start opens the log in dir, new or with what an earlier start left, and
	// returns when it takes and gives records. If keep is set, everything that is
	// appended is read back later; else it may be given up once it is durable.
	start(ctx context.Context, dir string, keep bool) error
	// logs returns what callers append to, each caller in turn one of them. With
	// pipelined there is one caller, who goes on while appends are
	// unacknowledged. It returns errors.ErrUnsupported for what the subject does
	// not offer.
	logs(ctx context.Context, callers int, pipelined bool) ([]bench.Log, error)
	// stop ends it: a server with SIGKILL, so that what is found afterwards is
	// what was durable. Something that was not started is not stopped.
	stop(ctx context.Context) error
}

// A warmer brings itself to where a running service is; a subject that is none
// is warmed by load alone.
type warmer interface {
	warm(ctx context.Context) error
}

// A replayer gives its records back.
type replayer interface {
	// replay yields all records in the order in which they were appended. A record
	// is valid until yield returns.
	replay(ctx context.Context, yield func(record []byte) error) error
}

// about is what a report says of a subject.
type about struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Reached string `json:"reached"` // how a caller reaches it
	How     string `json:"how"`     // configured, and by whom what is merged
}

// How callers reach a subject.
const (
	inProcess  = "in process"
	unixSocket = "Unix socket"
	loopback   = "TCP loopback"
)

// moduleVersion returns the version of a module that this program is built with,
// or nothing in a test.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

// acknowledge is called once, when a record is durable or cannot become so. It
// is the SDK's type, so that one load generator drives every subject.
type acknowledge = func(client.Receipt, error)

// called is a log whose callers wait, each for its own append.
type called func(ctx context.Context, record []byte) error

// Append implements bench.Log.
func (c called) Append(ctx context.Context, record []byte) (client.LSN, error) {
	return 0, c(ctx, record)
}

// AppendAsyncFunc implements bench.Log.
func (called) AppendAsyncFunc(_ context.Context, _ []byte, fn func(client.Receipt, error)) {
	fn(client.Receipt{}, errors.ErrUnsupported)
}

// sent is a log that goes on while records are unacknowledged. send may block,
// and acknowledges from any goroutine.
type sent func(ctx context.Context, record []byte, ack acknowledge)

// waiters are channels on which somebody who sent waits.
var waiters = sync.Pool{New: func() any { return make(chan error, 1) }}

// Append implements bench.Log: it sends, and waits.
func (s sent) Append(ctx context.Context, record []byte) (client.LSN, error) {
	done, _ := waiters.Get().(chan error)
	s(ctx, record, func(_ client.Receipt, err error) { done <- err })
	select {
	case err := <-done:
		waiters.Put(done)
		return 0, err
	case <-ctx.Done(): // done may yet be told, and is nobody else's
		return 0, context.Cause(ctx)
	}
}

// AppendAsyncFunc implements bench.Log.
func (s sent) AppendAsyncFunc(ctx context.Context, record []byte, fn func(client.Receipt, error)) {
	s(ctx, record, fn)
}
