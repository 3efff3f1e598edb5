package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/process"
)

// Options say what to run. Binary and Dir must be set.
type Options struct {
	Binary string    // path of walsvc; see Find
	Dir    string    // the volume; made if it is missing
	Args   []string  // further flags
	Log    io.Writer // what the process prints, besides what errors quote; nil for nobody
	// Reads has Start return when reads are served: a volume that opens read-only,
	// because of damage, takes nothing.
	Reads bool
}

// A Process is a running walsvc, listening on the Unix socket in its volume.
type Process struct {
	process *process.Process
	addr    string
	quote   *process.Tail
	said    *herald // that it is ready
}

// ErrExited is returned by Start when the process ends instead of getting ready.
var ErrExited = errors.New("walsvc ended before it was ready")

// Start starts walsvc and returns when it is ready, which is when recovery is
// over, it serves, and has said where; see also Options.Reads. If ctx ends first, or the process,
// there is no process left; the error then quotes the last it said.
func Start(ctx context.Context, o Options) (*Process, error) {
	socket, err := filepath.Abs(filepath.Join(o.Dir, "walsvc.sock"))
	if err != nil {
		return nil, err
	}
	p := &Process{addr: "unix:" + socket, quote: &process.Tail{}, said: newHerald()}
	out := io.MultiWriter(p.quote, p.said)
	if o.Log != nil {
		out = io.MultiWriter(p.quote, o.Log, p.said)
	}
	// Not CommandContext: the process outlives ctx, which only bounds the start.
	cmd := exec.Command(o.Binary, append([]string{"--data", o.Dir, "--create"}, o.Args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if p.process, err = process.Start(cmd); err != nil {
		return nil, err
	}
	if err := p.ready(ctx, o.Reads); err != nil {
		_ = p.Kill() // it may be gone already
		return nil, fmt.Errorf("start walsvc: %w%s", err, p.quote)
	}
	return p, nil
}

// readingService is the one whose health is that of reads.
const readingService = "walsvc.v1.ReplayService"

// ready waits until the health service says SERVING, of reads or of everything, and
// until the process has said where it serves: what it says comes another way, and may
// come later.
func (p *Process) ready(ctx context.Context, reads bool) error {
	name := ""
	if reads {
		name = readingService
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.process.Exited():
			cancel(ErrExited)
		case <-ctx.Done():
		}
	}()
	conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.3, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it was only there to ask for health
	for {
		err := watch(ctx, conn, name)
		if err == nil {
			select {
			case <-p.said.heard:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case status.Code(err) != codes.Unavailable:
			return err // it answers, but not as walsvc does
		}
	}
}

// A herald is written what walsvc says, and hears when it says that it is ready. It
// says so once for each address, all in one piece.
type herald struct {
	heard chan struct{} // closed then
	once  sync.Once
	line  []byte // as much of the present one as tells
}

const ready = "ready "

func newHerald() *herald { return &herald{heard: make(chan struct{})} }

// Write implements io.Writer. It is called by one goroutine.
func (h *herald) Write(b []byte) (int, error) {
	for part := range bytes.Lines(b) {
		if len(h.line) < len(ready) {
			h.line = append(h.line, part[:min(len(part), len(ready)-len(h.line))]...)
			if string(h.line) == ready {
				h.once.Do(func() { close(h.heard) })
			}
		}
		if bytes.HasSuffix(part, []byte{'\n'}) {
			h.line = h.line[:0]
		}
	}
	return len(b), nil
}

// watch returns nil when the service of that name is SERVING, and an error when
// the stream ends.
func watch(ctx context.Context, conn *grpc.ClientConn, name string) error {
	stream, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: name}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING {
			return nil
		}
	}
}

// Addr is where the service listens, as clients spell it.
func (p *Process) Addr() string { return p.addr }

// PID is the process's number.
func (p *Process) PID() int { return p.process.Cmd.Process.Pid }

// Exited is closed when the process has ended, for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.process.Exited() }

// Said returns the last that the process printed.
func (p *Process) Said() string { return p.quote.String() }

// Kill ends the process with SIGKILL and returns when it is gone: nothing of
// it runs any more, and its lock on the volume is free.
func (p *Process) Kill() error { return p.process.Kill() }

// Stop asks the process with SIGTERM to drain, and returns when it is gone. It
// returns an error if the process ends with one, or if ctx ends first; then
// the process is killed.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.process.Cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop walsvc: %w", err)
	}
	select {
	case <-p.process.Exited():
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop walsvc: %w", context.Cause(ctx)), p.Kill())
	}
	if err := p.process.Err(); err != nil {
		return fmt.Errorf("stop walsvc: %w%s", err, p.quote)
	}
	return nil
}
