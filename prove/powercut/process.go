package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/walsvc/walsvc/prove/power"
)

// A process is a running subject.
type process struct {
	cmd    *exec.Cmd
	said   *tail
	exited chan struct{}
}

// startProcess starts a program, with out reading what it prints besides.
func startProcess(out io.Writer, env []string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), said: &tail{}, exited: make(chan struct{})}
	w := io.MultiWriter(p.said, out)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	// The settings of whoever runs this are not those of the proof.
	p.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WALSVC_") }), env...)
	// A process group of its own: an interrupt typed at the terminal must not
	// look like a power cut, nor like a refusal to start.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // that it ended is what counts; tell says how
		close(p.exited)
	}()
	return p, nil
}

// kill takes the power away from a process and its disk, and returns when the
// process is gone. The signal comes before the disk lets go: it never runs on
// with an error that no power cut gives.
func (p *process) kill(d *power.Disk) error {
	d.Cut()
	err := p.cmd.Process.Kill()
	d.Abandon()
	<-p.exited
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// tell says how it ended.
func (p *process) tell() string {
	return fmt.Sprintf("%v\n%s", p.cmd.ProcessState, p.said)
}

// tail keeps the last that was written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 8 << 10

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

// lines calls a function for each line written to it.
type lines struct {
	rest []byte
	line func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.line(string(line))
		l.rest = rest
	}
}
