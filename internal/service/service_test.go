package service

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFindExplicit(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(t.Context(), filepath.Join(dir, "missing"), dir, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing executable: %v", err)
	}
	path := filepath.Join(dir, "walsvc")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(t.Context(), path, dir, nil); err != nil || got != path {
		t.Errorf("found %q, %v; want %q", got, err, path)
	}
}

func TestFindBuildsWithinTheModule(t *testing.T) {
	dir := t.TempDir()
	built := 0
	path, err := Find(t.Context(), "", dir, func() { built++ })
	if err != nil || built != 1 || path != filepath.Join(dir, "walsvc") {
		t.Fatalf("found %q, %v, after %d builds", path, err, built)
	}

	// And what was built runs, is killed, runs again and stops in order.
	o := Options{Binary: path, Dir: filepath.Join(dir, "v"), Args: []string{"--segment-size", "1MiB"}}
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Said(), "ready unix:") {
		t.Errorf("it said %s", p.Said())
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if err := p.Kill(); err != nil {
		t.Errorf("killed again: %v", err)
	}
	if p, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestStartQuotesWhatEndsEarly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "walsvc")
	script := "#!/bin/sh\necho \"environment: $WALSVC_DATA\"\necho 'the disk is on fire' >&2\nexit 3\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WALSVC_DATA", "the user's own")
	_, err := Start(t.Context(), Options{Binary: path, Dir: dir})
	if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "\n  | the disk is on fire") {
		t.Errorf("started with %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "the user's own") {
		t.Errorf("the user's settings reached it: %v", err)
	}
}
