package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	proc "github.com/walsvc/walsvc/internal/process"
)

// A process is a server that is measured.
type process struct{ *proc.Process }

// startProcess starts a program and returns when ready does, which is asked
// again and again. A program that is not ready leaves no process.
func startProcess(ctx context.Context, cmd *exec.Cmd, ready func(ctx context.Context) error) (*process, error) {
	var said proc.Tail
	cmd.Stdout, cmd.Stderr = &said, &said
	started, err := proc.Start(cmd)
	if err != nil {
		return nil, err
	}
	p := &process{started}
	if err := p.wait(ctx, ready); err != nil {
		p.kill()
		return nil, fmt.Errorf("%s: %w%s", cmd.Path, err, &said)
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
		case <-p.Exited():
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
	_ = syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL) // it may be gone already
	<-p.Exited()
}
