package disk

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSyncsReachTheKernel: what cannot be synced says so, which a sync that is
// left out would not.
func TestSyncsReachTheKernel(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := (&osFile{f: w}).Sync(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Sync of a pipe: %v, want EINVAL", err)
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if err := OS(OSOptions{}).SyncDir("/proc"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("SyncDir of /proc: %v, want EINVAL", err)
	}
}

// TestDirectRefused opens a file whose file system knows no O_DIRECT.
func TestDirectRefused(t *testing.T) {
	f, err := OS(OSOptions{Direct: DirectAlways}).Open("/proc/self/comm", true)
	if err != nil {
		t.Fatal(err)
	}
	if f.(*osFile).direct != nil {
		t.Error("writes are direct")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockAndForks: a process that is being forked has copies of all descriptors
// until it runs its program. They do not keep a lock that was given back.
func TestLockAndForks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "LOCK")
	held, err := OS(OSOptions{}).Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := syscall.Dup(int(held.(lock).Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(copied)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OS(OSOptions{}).Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
