package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"

	proc "github.com/walsvc/walsvc/internal/process"
	"github.com/walsvc/walsvc/prove/power"
)

// A process is a running subject.
type process struct {
	*proc.Process
	in     io.Writer // its standard input, if it has one
	said   proc.Tail
	killed atomic.Bool // by us
}

// A program is what to start.
type program struct {
	name   string
	args   []string
	out    func(line string) // called for what it prints, or nil
	err    func(line string) // called for its standard error, or nil; said has it too
	silent bool              // out is not for people
	input  bool              // it can be told something
}

// startProcess starts a program.
func startProcess(g program) (*process, error) {
	p, cmd := &process{}, exec.Command(g.name, g.args...)
	cmd.Stdout, cmd.Stderr = p.hear(g.out, g.silent), p.hear(g.err, false)
	if g.input {
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		p.in = in
	}
	// A process group of its own, besides: an interrupt typed at the terminal must
	// not look like a power cut, nor like a refusal to start.
	started, err := proc.Start(cmd)
	if err != nil {
		return nil, err
	}
	p.Process = started
	return p, nil
}

// hear returns what a stream of the process goes to.
func (p *process) hear(line func(string), silent bool) io.Writer {
	switch {
	case line == nil:
		return &p.said
	case silent:
		return &lines{line: line}
	}
	return io.MultiWriter(&p.said, &lines{line: line})
}

// whenSaid returns what closes ready at the first line with a text.
func whenSaid(text string) (line func(string), ready chan struct{}) {
	ready = make(chan struct{})
	var once sync.Once
	return func(line string) {
		if strings.Contains(line, text) {
			once.Do(func() { close(ready) })
		}
	}, ready
}

// wait returns when a process that was started is ready; if it does not get
// there, it is dead.
func (p *process) wait(ctx context.Context, d *power.Disk, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-d.Off():
		return errors.Join(errCut, p.kill(d))
	case <-p.Exited():
		return fmt.Errorf("%w: %s", errRefused, p.tell())
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), p.kill(d))
	}
}

// kill takes the power away from a process and its disk, and returns when the
// process is gone. The signal comes before the disk lets go: it never runs on
// with an error that no power cut gives.
func (p *process) kill(d *power.Disk) error {
	d.Cut()
	p.killed.Store(true)
	err := p.Cmd.Process.Kill()
	d.Abandon()
	<-p.Exited()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// tell says how it ended.
func (p *process) tell() string {
	return fmt.Sprintf("%v%s", p.Cmd.ProcessState, &p.said)
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
