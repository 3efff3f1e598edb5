// Package e2e_test runs the walsvc that is shipped, as a process, and does to it
// what happens to processes: it is killed at any moment, stopped and continued,
// drained, and started where it cannot work.
package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/service"
)

// walsvc is the path of the program under test.
var walsvc string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "walsvc-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is temporary anyway
	walsvc = filepath.Join(dir, "walsvc")
	if out, err := exec.Command("go", "build", "-o", walsvc, "github.com/walsvc/walsvc/cmd/walsvc").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build walsvc: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// limit bounds every wait for the process; it is only reached when something is broken.
const limit = 30 * time.Second

// newDir makes a directory whose name is short enough for a socket in it.
func newDir(t *testing.T) string {
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

// start starts walsvc on a directory's volume and kills it when the test ends.
func start(t *testing.T, dir string, args ...string) *service.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	p, err := service.Start(ctx, service.Options{Binary: walsvc, Dir: dir, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() }) // it may be gone already
	return p
}

// stop drains a process, which must end well.
func stop(t *testing.T, p *service.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// open connects to a process and disconnects when the test ends, before the
// process is killed: it must have been started before.
func open(t *testing.T, p *service.Process) *client.Client {
	t.Helper()
	c, err := client.Open(t.Context(), p.Addr(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

// create creates a log.
func create(t *testing.T, c *client.Client, name string) *client.Log {
	t.Helper()
	if _, _, err := c.CreateLog(t.Context(), name, client.LogOptions{}); err != nil {
		t.Fatal(err)
	}
	return c.Log(name)
}

// exits runs walsvc where it cannot work and returns its exit code and what it
// says on standard error.
func exits(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, walsvc, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = []string{"HOME=" + os.Getenv("HOME"), "PATH=" + os.Getenv("PATH")} // no WALSVC_*
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("walsvc %s: it went on running", strings.Join(args, " "))
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode(), stderr.String()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, stderr.String()
}
