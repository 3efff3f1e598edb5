package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/walsvc/walsvc/prove/power"
)

// peerLog is what the one log of a peer is called in the ledger.
const peerLog = "log"

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

// library is a journal in a process of its own; see child.
type library struct {
	journal string
	next    atomic.Uint32 // number of the next process

	process *process

	mu     sync.Mutex
	ledger *ledger
	found  []found
	units  map[uint64]*unit // sent by this process and not known to be durable
	broken error
}

// findLibraries returns the libraries, which are built in.
func findLibraries(options) ([]subject, error) {
	var out []subject
	for _, name := range slices.Sorted(maps.Keys(journals)) {
		out = append(out, &library{journal: name})
	}
	return out, nil
}

func (s *library) name() string { return s.journal }

func (*library) judged() bool { return false }

func (s *library) version(context.Context) string { return moduleVersion(journals[s.journal].module) }

func (*library) makesDirectory() bool { return false }

func (s *library) start(ctx context.Context, d *power.Disk, mount string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.ledger, s.found, s.units, s.broken = nil, nil, map[uint64]*unit{}, nil
	s.mu.Unlock()
	number := s.next.Add(1)
	ready := make(chan struct{})
	p, err := startProcess(program{name: self, args: []string{childCommand, s.journal, filepath.Join(mount, volume), fmt.Sprint(number)},
		out: func(line string) { s.line(line, number, ready) }, silent: true, input: true})
	if err != nil {
		return err
	}
	s.process = p
	return p.wait(ctx, d, ready)
}

// line takes note of what the process says.
func (s *library) line(line string, number uint32, ready chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line == "ready" {
		close(ready)
		return
	}
	word, rest, _ := strings.Cut(line, " ")
	var n, at uint64
	switch word {
	case "found":
		var text string
		if _, err := fmt.Sscanf(rest, "%d %s", &at, &text); err == nil {
			data, err := base64.StdEncoding.DecodeString(text)
			s.broken = errors.Join(s.broken, err)
			s.found = append(s.found, found{at, data})
		}
	case "sent":
		if _, err := fmt.Sscanf(rest, "%d", &n); err == nil {
			s.units[n] = s.ledger.submitted(peerLog, unitID{number, n}, 1)
		}
	case "durable":
		if _, err := fmt.Sscanf(rest, "%d %d", &n, &at); err == nil && s.units[n] != nil {
			s.ledger.acknowledged(s.units[n], at)
			delete(s.units, n)
		}
	}
}

func (s *library) verify(_ context.Context, l *ledger, say func(string, ...any)) (tally, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.compare(peerLog, true, 1, s.found, say), s.broken
}

func (s *library) load(ctx context.Context, l *ledger, _ uint64) error {
	s.mu.Lock()
	s.ledger = l
	s.mu.Unlock()
	if _, err := s.process.in.Write([]byte{'\n'}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-s.process.Exited():
		if ctx.Err() == nil && !s.process.killed.Load() {
			return errors.New("it ended by itself")
		}
	}
	return nil
}

func (s *library) kill(d *power.Disk) error { return s.process.kill(d) }

func (s *library) said() string { return s.process.tell() }
