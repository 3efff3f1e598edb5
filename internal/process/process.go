// Package process runs programs beside this one: the service that commands and
// tests talk to, and the peers that it is measured and proven beside.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// A Process is a program that was started.
type Process struct {
	// Cmd is what was started. Its state may be read once Exited is closed.
	Cmd *exec.Cmd

	exited chan struct{}
	err    error // set before exited is closed
}

// Start starts cmd, which must not be waited for by anybody else.
//
// The settings of whoever runs this are not the program's: variables that begin
// with WALSVC_ or PG are taken from its environment. It has a process group of its
// own, since an interrupt typed at the terminal is for the caller, who ends it in
// good time.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.Env = slices.DeleteFunc(append(os.Environ(), cmd.Env...), func(v string) bool {
		return strings.HasPrefix(v, "WALSVC_") || strings.HasPrefix(v, "PG")
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &Process{Cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Exited is closed when the process has ended, for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err returns how the process ended, as exec.Cmd.Wait does. It must not be called
// before Exited is closed.
func (p *Process) Err() error { return p.err }

// Kill ends the process with SIGKILL and returns when it is gone: nothing of it
// runs any more, and its locks are free.
func (p *Process) Kill() error {
	err := p.Cmd.Process.Kill()
	<-p.exited
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// TailSize bounds what a Tail keeps, in bytes.
const TailSize = 8 << 10

// A Tail keeps the end of what is written to it, for an error to quote. The zero
// value is empty; it is safe for concurrent use.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b[max(0, len(b)-TailSize):]...)
	t.buf = t.buf[max(0, len(t.buf)-TailSize):]
	return len(b), nil
}

// String returns the whole lines kept, each behind a newline and a bar, so
// that they can be put behind an error.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out bytes.Buffer
	for line := range bytes.Lines(t.buf) {
		fmt.Fprintf(&out, "\n  | %s", bytes.TrimRight(line, "\n"))
	}
	return out.String()
}
