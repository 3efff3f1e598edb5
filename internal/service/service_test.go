package service

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// asWalsvc makes the test binary be a walsvc that says late that it is ready.
const asWalsvc = "SERVICE_TEST_AS_WALSVC"

func TestMain(m *testing.M) {
	if os.Getenv(asWalsvc) != "" {
		fmt.Println(sayLate(os.Args[2])) // behind --data
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// sayLate serves health in dir, and says that it is ready when somebody has long
// heard of it.
func sayLate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "walsvc.sock"))
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	healthv1.RegisterHealthServer(s, late{})
	return s.Serve(l)
}

type late struct {
	healthv1.UnimplementedHealthServer
}

func (late) Watch(_ *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	if err := stream.Send(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}); err != nil {
		return err
	}
	<-time.After(100 * time.Millisecond)
	fmt.Print("rea")
	<-time.After(10 * time.Millisecond)
	fmt.Print("dy unix:here\nready tcp:there\n")
	<-stream.Context().Done()
	return nil
}

// TestStartHearsItSayReady: what walsvc says comes another way than that it is well,
// and who has started it looks there for its addresses.
func TestStartHearsItSayReady(t *testing.T) {
	t.Setenv(asWalsvc, "1")
	p, err := Start(t.Context(), Options{Binary: os.Args[0], Dir: shortDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	if said := p.Said(); !strings.Contains(said, "ready unix:here") || !strings.Contains(said, "ready tcp:there") {
		t.Errorf("it said%s", said)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}

func TestHerald(t *testing.T) {
	for _, tc := range []struct {
		said  []string
		heard bool
	}{
		{[]string{"ready unix:/v\n"}, true},
		{[]string{"admin http://x\nready unix:/v\n"}, true},
		{[]string{"recovered", " /v\nre", "ady", " ", "unix:/v\n"}, true},
		{[]string{"recovered\n", "ready unix:/v\nready tcp:x\n"}, true},
		{[]string{"already unix:/v\n", "get", "ready \n"}, false},
		{[]string{"ready\n", "\n", "not ready \n"}, false},
	} {
		h := newHerald()
		for _, s := range tc.said {
			if n, err := h.Write([]byte(s)); n != len(s) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		select {
		case <-h.heard:
			if !tc.heard {
				t.Errorf("heard of it in %q", tc.said)
			}
		default:
			if tc.heard {
				t.Errorf("did not hear of it in %q", tc.said)
			}
		}
	}
}

// shortDir makes a directory whose name is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

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
	dir := shortDir(t)
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
