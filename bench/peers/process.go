package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a server that is measured.
type process struct {
	cmd    *exec.Cmd
	said   *tail
	exited chan struct{}
}

// startProcess starts a program and returns when ready does, which is asked
// again and again. A program that is not ready leaves no process.
func startProcess(ctx context.Context, cmd *exec.Cmd, ready func(ctx context.Context) error) (*process, error) {
	p := &process{cmd: cmd, said: &tail{}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.said, p.said
	// The settings of whoever runs this are not those of the measurement.
	cmd.Env = slices.DeleteFunc(append(os.Environ(), cmd.Env...), func(v string) bool {
		return strings.HasPrefix(v, "WALSVC_") || strings.HasPrefix(v, "PG")
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A process group of its own: an interrupt typed at the terminal is for this
	// program, which ends its servers.
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		_ = cmd.Wait() // that it ended is what counts; said has why
		close(p.exited)
	}()
	if err := p.wait(ctx, ready); err != nil {
		p.kill()
		return nil, fmt.Errorf("%s: %w\n%s", cmd.Path, err, p.said)
	}
	return p, nil
}

// startBound bounds how long a server takes to be ready.
const startBound = 2 * time.Minute

// askAgain is how long after one question the next is asked: little beside the
// quickest start, and seldom enough not to slow it.
const askAgain = time.Millisecond

func (p *process) wait(ctx context.Context, ready func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(askAgain):
		case <-p.exited:
			return errors.New("it ended before it was ready")
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// kill ends the process and what is in its group, and returns when it is gone.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may be gone already
	<-p.exited
}

// tail keeps the last that was written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// tailSize is how much of it, in bytes.
const tailSize = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = slices.Clone(t.b[len(t.b)-tailSize:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
