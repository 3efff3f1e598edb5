package e2e_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/proofs"
)

// tmpfs mounts a file system of a size of its own.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	proofs.Need(t, proofs.Mount)
	dir := newDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestReadOnlyFileSystem starts walsvc where it may not write, with a volume
// and without.
func TestReadOnlyFileSystem(t *testing.T) {
	root := tmpfs(t, "16m")
	volume(t, filepath.Join(root, "v"))
	if err := syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--data", filepath.Join(root, "v")}, {"--data", filepath.Join(root, "new"), "--create"}} {
		code, said := exits(t, args...)
		if code != 7 || !strings.Contains(said, "read-only file system") || !strings.Contains(said, "\nnext: mount the file system for writing") {
			t.Errorf("%v: exit code %d; it says\n%s", args, code, said)
		}
	}
}

// TestNoRoomForAVolume starts walsvc on a disk too small for a segment.
func TestNoRoomForAVolume(t *testing.T) {
	root := tmpfs(t, "64k")
	code, said := exits(t, "--data", filepath.Join(root, "v"), "--create", "--segment-size", "1MiB")
	if code != 7 || !strings.Contains(said, "no space") || !strings.Contains(said, "\nnext: make room on the disk") {
		t.Errorf("exit code %d; it says\n%s", code, said)
	}
}

// TestFullDisk fills the disk under a service: appends are refused as FULL
// before the acknowledgement, reads and checkpoints work, a restart opens the
// volume while the disk is full, a truncation makes room by itself, and
// everything acknowledged is there, in order, once.
func TestFullDisk(t *testing.T) {
	root := tmpfs(t, "12m")
	dir := filepath.Join(root, "v")
	p := start(t, dir, "--segment-size", "1MiB", "--prepare-rate", "unlimited", "--codec", "none")
	c := open(t, p)
	l := create(t, c, "orders")
	var want []string
	record := func() string { return fmt.Sprintf("%d %s", len(want), strings.Repeat("x", 64<<10)) }
	for {
		r := record()
		_, err := l.Append(t.Context(), []byte(r))
		if errors.Is(err, client.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if want = append(want, r); len(want) > 1000 {
			t.Fatal("64 MiB went into 12 MiB")
		}
	}
	inOrder(t, l, want)
	if _, err := l.SetCheckpoint(t.Context(), "engine", client.LSN(len(want)/2), []byte("state")); err != nil {
		t.Errorf("checkpoint on a full disk: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	// Something else takes what is left.
	if err := os.WriteFile(filepath.Join(root, "ballast"), make([]byte, 16<<20), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	p = start(t, dir)
	if cp, err := l.Checkpoint(t.Context(), "engine"); err != nil || string(cp.State) != "state" {
		t.Errorf("%+v, %v", cp, err)
	}
	// The disk stays full but for what is given up now: half of the segments.
	info, err := l.Truncate(t.Context(), client.LSN(len(want)/2)+1)
	if err != nil {
		t.Fatalf("truncate: %v; it says%s", err, p.Said())
	}
	for deadline := time.Now().Add(limit); ; {
		r := record()
		_, err := l.Append(t.Context(), []byte(r))
		if err == nil {
			want = append(want, r)
			break
		}
		if !errors.Is(err, client.ErrFull) || time.Now().After(deadline) {
			t.Fatalf("appends do not go on: %v", err)
		}
	}
	inOrder(t, l, want[info.First-1:])
}

// rss returns a figure of a process's status in bytes.
func rss(t *testing.T, pid int, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in\n%s", field, b)
	return 0
}

// What the process may take: without clients, and at its peak under the load below.
const (
	maxIdle = 40 << 20
	maxPeak = 256 << 20
)

// TestMemory bounds the memory of the process: idle, and under clients that
// append as fast as they may, some of them records of 1 MiB, and replay.
func TestMemory(t *testing.T) {
	p := start(t, filepath.Join(newDir(t), "v"), "--segment-size", "16MiB", "--prepare-rate", "unlimited")
	if got := rss(t, p.PID(), "VmRSS"); got > maxIdle {
		t.Errorf("idle: %d MiB, the bound is %d", got>>20, maxIdle>>20)
	}
	const clients, small, large = 8, 5000, 24
	var running sync.WaitGroup
	for i := range clients {
		c := open(t, p)
		l := create(t, c, fmt.Sprintf("log-%d", i))
		running.Go(func() {
			var last *client.Future
			for k := range small {
				last = l.AppendAsync(t.Context(), fmt.Appendf(nil, "%d %s", k, strings.Repeat("small", 100)))
			}
			for k := range large {
				last = l.AppendAsync(t.Context(), fmt.Appendf(nil, "%d %s", k, strings.Repeat("large", 200<<10)))
			}
			if _, err := last.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			n := 0
			for _, err := range l.Replay(t.Context(), client.ReplayOptions{}) {
				if err != nil {
					t.Error(err)
					return
				}
				n++
			}
			if n != small+large {
				t.Errorf("log %d: %d records, want %d", i, n, small+large)
			}
		})
	}
	running.Wait()
	peak := rss(t, p.PID(), "VmHWM")
	t.Logf("peak: %d MiB", peak>>20)
	if peak > maxPeak {
		t.Errorf("under load: %d MiB, the bound is %d", peak>>20, maxPeak>>20)
	}
}

// TestKeepsAwake has a service with --keep-awake say to the kernel that processors
// are not to halt, once there is something to do.
func TestKeepsAwake(t *testing.T) {
	proofs.Need(t, proofs.CPULatency)
	latency := func() int32 {
		t.Helper()
		f, err := os.Open("/dev/cpu_dma_latency") // what is read is what holds for the machine
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }() // it was only read
		var us int32
		if err := binary.Read(f, binary.NativeEndian, &us); err != nil {
			t.Fatal(err)
		}
		return us
	}
	p := start(t, filepath.Join(newDir(t), "v"), "--keep-awake")
	l := create(t, open(t, p), "orders")
	for deadline := time.Now().Add(limit); latency() != 0; {
		if _, err := l.Append(t.Context(), []byte("1")); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("processors may take %d us to wake", latency())
		}
	}
	stop(t, p)
}
