//go:build linux

package e2e_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/proofs"
	"github.com/walsvc/walsvc/internal/service"
)

// system runs a command of the machine.
func system(name string, args ...string) error {
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		name = path // not everybody looks there
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A loopDisk is a file system of 300 MiB in a file, mounted.
type loopDisk struct {
	kind, image, dir string
}

// newLoopDisk makes one. It is unmounted when the test ends, after the processes
// on it; its loop device goes with the mount.
func newLoopDisk(t *testing.T, kind string) *loopDisk {
	t.Helper()
	root := newDir(t)
	d := &loopDisk{kind, filepath.Join(root, "image"), filepath.Join(root, "m")}
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, 300<<20))
	must(t, os.Mkdir(d.dir, 0o700))
	must(t, system("mkfs."+kind, "-q", d.image))
	d.mount(t)
	t.Cleanup(func() {
		// Lazily, so that nothing stays mounted if a process is still on its way out.
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *loopDisk) mount(t *testing.T) {
	t.Helper()
	must(t, system("mount", "-t", d.kind, "-o", "loop", d.image, d.dir))
}

func (d *loopDisk) remount(option string) error {
	return system("mount", "-o", "remount,"+option, d.dir)
}

// volume is where walsvc keeps its data on it.
func (d *loopDisk) volume() string { return filepath.Join(d.dir, "v") }

// hoard is somebody else's, who makes room in the end; hoarded is what it has in bytes.
func (d *loopDisk) hoard() string { return filepath.Join(d.dir, "hoard") }

const hoarded = 16 << 20

// ballast takes what is left of the disk. On xfs that is not the very last of it:
// without free blocks it makes no file, and so no socket either.
func (d *loopDisk) ballast(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "ballast"))
	must(t, err)
	for size := 1 << 20; err == nil || size >= 4<<10; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, f.Close())
	if d.kind == "xfs" {
		must(t, os.Truncate(d.hoard(), hoarded-512<<10))
	}
}

// An engine writes to a log, and knows what it was told.
type engine struct {
	t    *testing.T
	l    *client.Log
	size int // of records
	kept client.LSN
	want []string // from LSN 1 on: how each record begins
}

func (e *engine) append() error {
	head := fmt.Sprintf("%s %d ", e.l.Name(), len(e.want)+1)
	record := make([]byte, e.size)
	_, _ = rand.Read(record) // never fails; what it gives does not compress
	copy(record, head)
	_, err := e.l.Append(e.t.Context(), record)
	if err == nil {
		e.want = append(e.want, head)
	}
	return err
}

// refused wants a refusal for want of room, with advice.
func (e *engine) refused(err error) bool {
	e.t.Helper()
	if err == nil {
		return false
	}
	var refusal *client.Error
	if !errors.Is(err, client.ErrFull) || !errors.As(err, &refusal) || refusal.Hint() == "" {
		e.t.Fatalf("%s: %v", e.l.Name(), err)
	}
	return true
}

// resume wants appends to be taken again by themselves.
func (e *engine) resume(p *service.Process) {
	e.t.Helper()
	for deadline := time.Now().Add(limit); e.refused(e.append()); {
		if time.Now().After(deadline) {
			e.t.Fatalf("%s: appends do not resume:%s", e.l.Name(), p.Said())
		}
	}
}

// check replays what is kept.
func (e *engine) check() {
	e.t.Helper()
	info, err := e.l.Info(e.t.Context())
	must(e.t, err)
	if info.First > e.kept || info.Next != client.LSN(len(e.want)+1) {
		e.t.Fatalf("%s: %+v, want %d to %d", e.l.Name(), info, e.kept, len(e.want))
	}
	lsn := info.First
	for r, err := range e.l.Replay(e.t.Context(), client.ReplayOptions{}) {
		must(e.t, err)
		if r.LSN != lsn || !strings.HasPrefix(string(r.Data), e.want[lsn-1]) {
			e.t.Fatalf("%s: LSN %d is %.20q, want %d: %q", e.l.Name(), r.LSN, r.Data, lsn, e.want[lsn-1])
		}
		lsn++
	}
	if lsn != info.Next {
		e.t.Fatalf("%s: the replay ends before %d, want %d", e.l.Name(), lsn, info.Next)
	}
}

// unread wants a replay to say that the disk does not read, and not that records
// were lost.
func (e *engine) unread() {
	e.t.Helper()
	for _, err := range e.l.Replay(e.t.Context(), client.ReplayOptions{}) {
		if err != nil && (!errors.Is(err, client.ErrReadFailed) || errors.Is(err, client.ErrDataLoss)) {
			e.t.Fatalf("%s: replay from a disk that does not read: %v", e.l.Name(), err)
		}
	}
}

// giveUp moves the checkpoint and truncates, to a share of what is there.
func (e *engine) giveUp(p *service.Process, share float64) {
	e.t.Helper()
	at := e.kept - 1 + client.LSN(share*float64(client.LSN(len(e.want))-e.kept+1))
	if _, err := e.l.SetCheckpoint(e.t.Context(), "engine", at, []byte(e.want[at-1])); err != nil {
		e.t.Fatalf("%s: checkpoint on a full disk: %v; it says%s", e.l.Name(), err, p.Said())
	}
	if _, err := e.l.Truncate(e.t.Context(), at+1); err != nil {
		e.t.Fatalf("%s: truncate on a full disk: %v; it says%s", e.l.Name(), err, p.Said())
	}
	e.kept = at + 1
	cp, err := e.l.Checkpoint(e.t.Context(), "engine")
	if err != nil || cp.LSN != at || string(cp.State) != e.want[at-1] {
		e.t.Fatalf("%s: %+v, %v", e.l.Name(), cp, err)
	}
}

// TestFullFileSystem fills real file systems, with default settings and with
// small segments: appends are refused before they are acknowledged, everything
// else works, also after a kill and when somebody else takes the rest of the
// disk, and appends resume by themselves once room was made. Nothing is lost.
func TestFullFileSystem(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		for _, tc := range []struct {
			name   string
			record int
			args   []string
		}{
			{"defaults", 1 << 20, nil},
			{"small", 200 << 10, []string{"--segment-size", "1MiB", "--prepare-rate", "unlimited", "--codec", "none"}},
		} {
			t.Run(kind+"/"+tc.name, func(t *testing.T) {
				proofs.Need(t, proofs.Root, proofs.Thing(kind))
				t.Parallel()
				fillAndResume(t, newLoopDisk(t, kind), tc.record, tc.args)
			})
		}
	}
}

func fillAndResume(t *testing.T, d *loopDisk, record int, args []string) {
	must(t, os.WriteFile(d.hoard(), make([]byte, hoarded), 0o600))
	p := start(t, d.volume(), args...)
	c := open(t, p)
	engines := []*engine{
		{t: t, l: create(t, c, "orders"), size: record, kept: 1},
		{t: t, l: create(t, c, "audit"), size: record / 3, kept: 1},
	}
	begin := func() {
		t.Helper()
		p = start(t, d.volume(), args...)
		c = open(t, p) // a client that saw it die waits before it tries again
		for _, e := range engines {
			e.l = c.Log(e.l.Name())
		}
	}
	fill := func() {
		t.Helper()
		for _, e := range engines {
			e.resume(p) // there is room to begin with, or is being made
		}
		for took := true; took; {
			took = false
			for _, e := range engines {
				took = !e.refused(e.append()) || took
			}
		}
	}
	check := func() {
		t.Helper()
		for _, e := range engines {
			e.check()
		}
		if _, err := c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	again := func() {
		t.Helper()
		must(t, p.Kill())
		begin()
	}
	fill()
	t.Logf("%d MiB", (len(engines[0].want)*record+len(engines[1].want)*record/3)>>20)
	check()
	again()
	check()
	must(t, p.Kill())
	d.ballast(t)
	begin()
	check()
	for _, e := range engines {
		e.giveUp(p, 0.8)
	}
	again() // which makes nothing worse
	for _, e := range engines {
		e.giveUp(p, 1)
	}
	for _, e := range engines {
		e.resume(p)
	}
	check()
	fill()
	check()
	for _, e := range engines {
		e.giveUp(p, 1)
	}
	for _, e := range engines {
		e.resume(p)
	}
	if args != nil { // else it is less than a segment
		fill()
		must(t, os.Remove(d.hoard()))
		for _, e := range engines {
			e.resume(p)
		}
	}
	again()
	check()
}

// abort has the kernel give the file system up, as when its journal fails: ext4 is
// read-only then, xfs refuses everything that is not in memory.
func (d *loopDisk) abort() error {
	if d.kind == "xfs" {
		return system("xfs_io", "-x", "-c", "shutdown", d.dir)
	}
	return d.remount("abort")
}

// TestReadOnlyRemount has a file system become read-only: under a running
// service, which is poisoned and goes on reading as far as the disk does, and before
// one starts, which says so. Every acknowledged record is there when it can be
// written again.
func TestReadOnlyRemount(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			proofs.Need(t, proofs.Root, proofs.Thing(kind))
			remountReadOnly(t, newLoopDisk(t, kind))
		})
	}
}

func remountReadOnly(t *testing.T, d *loopDisk) {
	args := []string{"--segment-size", "1MiB", "--prepare-rate", "unlimited"}
	p := start(t, d.volume(), args...)
	c := open(t, p)
	e := &engine{t: t, l: create(t, c, "orders"), size: 10 << 10, kept: 1}
	for range 300 {
		must(t, e.append())
	}
	// While files are open for writing the kernel refuses; it does it by itself
	// when its journal fails, which this pretends.
	if err := d.remount("ro"); err == nil {
		t.Fatal("remounted read-only under open files")
	}
	must(t, e.append())
	must(t, d.abort())
	var refusal *client.Error
	if err := e.append(); !errors.As(err, &refusal) || refusal.Hint() == "" || errors.Is(err, client.ErrFull) {
		t.Fatalf("append to a read-only file system: %v", err)
	}
	for deadline := time.Now().Add(limit); !errors.Is(e.append(), client.ErrPoisoned); {
		if time.Now().After(deadline) {
			t.Fatalf("not poisoned:%s", p.Said())
		}
	}
	if d.kind == "xfs" {
		e.unread()
	} else {
		e.check()
	}
	if s, err := c.Status(t.Context()); err != nil || !strings.Contains(s.GetDetail(), "restart") {
		t.Errorf("status: %v, %v", s, err)
	}
	must(t, p.Kill())
	must(t, syscall.Unmount(d.dir, 0))
	d.mount(t)
	must(t, d.remount("ro"))
	code, said := exits(t, "--data", d.volume())
	if code != 7 || !strings.Contains(said, "read-only file system") || !strings.Contains(said, "\nnext: ") {
		t.Errorf("exit code %d; it says\n%s", code, said)
	}
	must(t, d.remount("rw"))
	p = start(t, d.volume())
	e.l = open(t, p).Log("orders")
	e.check()
	must(t, e.append())
	e.check()
}
