package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/proofs"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// command runs a command of the machine.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		name = path // not everybody looks there
	}
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// ext4 mounts a file system of its own that can be frozen.
func ext4(t *testing.T) string {
	t.Helper()
	proofs.Need(t, proofs.Root, proofs.Mount, proofs.Loop, proofs.Ext4)
	image, dir := filepath.Join(newDir(t), "image"), newDir(t)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", image)
	command(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

// freeze has every write to a file system hang until thaw, as a disk does that
// went away: nothing fails, nothing returns.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	command(t, "fsfreeze", "--freeze", dir)
	thaw = sync.OnceFunc(func() {
		if out, err := exec.Command("fsfreeze", "--unfreeze", dir).CombinedOutput(); err != nil {
			t.Errorf("fsfreeze --unfreeze: %v\n%s", err, out)
		}
	})
	t.Cleanup(thaw) // before what hangs on it is killed, waited for and unmounted
	return thaw
}

// TestDiskHangs freezes the file system under a running service. What it takes
// meanwhile is neither acknowledged nor shown, it says that the disk hangs, and
// goes on when the disk does. Told to stop, it does not wait beyond its deadline.
func TestDiskHangs(t *testing.T) {
	root := ext4(t)
	dir := filepath.Join(root, "v")
	args := []string{"--segment-size", "1MiB", "--drain-deadline", "1s"}
	p := start(t, dir, args...)
	c := open(t, p)
	l := create(t, c, "orders")
	if _, err := l.Append(t.Context(), []byte("1")); err != nil {
		t.Fatal(err)
	}
	stalled := func() {
		t.Helper()
		for deadline := time.Now().Add(limit); ; {
			s, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s.GetState() == walsvcv1.VolumeState_VOLUME_STATE_DISK_STALLED {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the disk hangs, and the state is %s; it says%s", s.GetState(), p.Said())
			}
			<-time.After(50 * time.Millisecond) // only the process knows when
		}
	}
	ends := func(next client.LSN) {
		t.Helper()
		if info, err := l.Info(t.Context()); err != nil || info.Next != next {
			t.Errorf("the log is %+v, %v; want %d next", info, err, next)
		}
		if got, err := l.Read(t.Context(), 0, 0); err != nil || len(got) != int(next)-1 {
			t.Errorf("%d records are shown, %v; want %d", len(got), err, next-1)
		}
	}
	says := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(limit); !strings.Contains(p.Said(), what); {
			if time.Now().After(deadline) {
				t.Fatalf("it does not say %q, it says%s", what, p.Said())
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	waits := func(f *client.Future) {
		t.Helper()
		select {
		case <-f.Done():
			_, err := f.Wait(t.Context())
			t.Fatalf("acknowledged while the disk hangs: %v", err)
		default:
		}
	}

	thaw := freeze(t, root)
	second := l.AppendAsync(t.Context(), []byte("2"))
	stalled()
	waits(second)
	ends(2)
	thaw()
	if r, err := second.Wait(t.Context()); err != nil || r.LSN != 2 {
		t.Fatalf("%+v, %v; want LSN 2", r, err)
	}
	ends(3)
	says("disk stalled")
	says("disk answers again") // nothing waits for it to be told

	thaw = freeze(t, root)
	third := l.AppendAsync(t.Context(), []byte("3"))
	stalled()
	if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	says("stopped while the disk hangs") // it does not wait for the disk
	waits(third)
	thaw() // the kernel keeps a process until its writes have returned
	<-p.Exited()
	start(t, dir, args...)
	if _, err := third.Wait(t.Context()); err != nil {
		t.Errorf("what was pending: %v", err)
	}
	ends(4)
}
