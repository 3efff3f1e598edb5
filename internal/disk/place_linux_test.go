package disk

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLocate(t *testing.T) {
	p, err := Locate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if p.FileSystem == "" || p.MountPoint == "" || p.Kernel == "" || p.Boot == "" || !p.Has("rw") || p.Has("ro") {
		t.Errorf("%+v", p)
	}
	for _, d := range p.Bottom() {
		if c, ok := CountersOf(d); ok != d.Counts {
			t.Errorf("%+v: %+v, %t", d, c, ok)
		}
	}
	if p, err := Locate("/proc/self"); err != nil || p.FileSystem != "proc" || len(p.Devices) != 0 {
		t.Errorf("/proc: %+v, %v", p, err)
	}
	if _, err := Locate("/nonexistent/walsvc"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v, want ErrNotExist", err)
	}
}

func TestMountFlags(t *testing.T) {
	flags, data := mountFlags([]string{"rw", "relatime", "nosuid", "seclabel", "nobarrier", "data=ordered"})
	if flags != unix.MS_RELATIME|unix.MS_NOSUID || data != "nobarrier,data=ordered" {
		t.Errorf("%#x %q", flags, data)
	}
	if flags, data := mountFlags([]string{"ro"}); flags != unix.MS_RDONLY || data != "" {
		t.Errorf("%#x %q", flags, data)
	}
}

// TestShutdownRefused: what cannot be shut down stays as it is.
func TestShutdownRefused(t *testing.T) {
	var pe *fs.PathError
	if err := Shutdown("/proc"); !errors.As(err, &pe) || pe.Op != "shutdown" {
		t.Errorf("/proc: %v", err)
	}
	if err := Shutdown("/nonexistent/walsvc"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v, want ErrNotExist", err)
	}
	if _, err := os.ReadDir("/proc"); err != nil {
		t.Error(err)
	}
}
