package linear

import (
	"context"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	process "github.com/walsvc/walsvc/internal/service"
)

// killTest is one run of TestKill.
type killTest struct {
	*world
	binary  string
	process *process.Process

	kills, early, tears, pauses int
}

// start starts walsvc and lets the clients through.
func (k *killTest) start() {
	k.t.Helper()
	for k.rng.IntN(4) == 0 { // killed before it is ready
		k.live(true)
		ctx, cancel := context.WithTimeout(k.ctx, time.Duration(k.rng.IntN(40_000))*time.Microsecond)
		p, err := process.Start(ctx, k.options())
		cancel()
		if err == nil {
			err = p.Kill()
		}
		if err == nil || ctx.Err() != nil {
			k.early++
			continue
		}
		k.t.Fatal(err)
	}
	k.live(true)
	ctx, cancel := context.WithTimeout(k.ctx, limit)
	defer cancel()
	var err error
	if k.process, err = process.Start(ctx, k.options()); err != nil {
		k.t.Fatal(err)
	}
	k.admit(filepath.Join(k.dir, "v", "walsvc.sock"))
}

func (k *killTest) options() process.Options {
	return process.Options{Binary: k.binary, Dir: filepath.Join(k.dir, "v"), Args: []string{
		"--segment-size", "256KiB", "--prepare-rate", "unlimited", "--log-level", "error",
	}}
}

// kill kills the service, at any moment, and starts it again.
func (k *killTest) kill() {
	k.t.Helper()
	if err := k.process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	k.hold()
	k.kills++
	k.audit(filepath.Join(k.dir, "v"))
	k.start()
}

// pause stops the process until its clients give up waiting for an answer, and lets it
// go on with what they asked for.
func (k *killTest) pause() {
	k.t.Helper()
	k.signal(syscall.SIGSTOP)
	select {
	case <-time.After(k.timeout + k.timeout/4):
	case err := <-k.failed:
		k.t.Error(err)
	}
	k.giveUp()
	k.signal(syscall.SIGCONT)
	k.pauses++
}

func (k *killTest) signal(s syscall.Signal) {
	k.t.Helper()
	if err := syscall.Kill(k.process.PID(), s); err != nil {
		k.t.Fatal(err)
	}
}

// build builds walsvc and returns the binary.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "walsvc")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/walsvc")
	cmd.Dir = "../.." // the service's module, which has what it is built of
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build walsvc: %v\n%s", err, out)
	}
	return binary
}

// TestKill kills walsvc as it is shipped under clients, again and again, also
// while it starts, breaks all of its connections, and stops it for a while.
func TestKill(t *testing.T) {
	rng := seeded(t)
	k := &killTest{world: newWorld(t, rng, 200*time.Millisecond), binary: build(t)}
	k.start()
	t.Cleanup(func() { _ = k.process.Kill() }) // it is gone already if all went well
	k.populate()
	for round := range *rounds {
		k.await(*between + rng.IntN(*between))
		switch round % 5 {
		case 1:
			k.proxy.tear()
			k.tears++
		case 3:
			k.pause()
		default:
			k.linger(k.rng.IntN(100), 20*time.Millisecond)
			if k.rng.IntN(2) == 0 {
				k.unstage()
				k.awaitWritten(20 * time.Millisecond) // between a write and its sync
			}
			k.kill()
		}
	}
	k.await(*between)
	k.makeUp()
	k.end()
	k.kill() // and what is found then is the last word
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := k.process.Stop(ctx); err != nil {
		t.Error(err)
	}
	c := k.judge()
	t.Logf("%d kills, %d of them while starting; %d times all connections broke, %d pauses", k.kills+k.early, k.early, k.tears, k.pauses)
	c.mustBeRich(t, *rounds >= 10)
	if k.kills == 0 || *rounds >= 4 && (k.tears == 0 || k.pauses == 0) {
		t.Errorf("%d kills, %d times all connections broke, %d pauses: want some of each", k.kills, k.tears, k.pauses)
	}
}
