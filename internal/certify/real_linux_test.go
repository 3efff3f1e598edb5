package certify

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/proofs"
)

// command runs a command of the machine.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// mounted makes a file system in a file and mounts it until the test ends.
func mounted(t *testing.T, fileSystem, options string) (dir string) {
	t.Helper()
	at, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(at, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 300<<20); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs."+fileSystem, "-q", image)
	dir = filepath.Join(at, "mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-t", fileSystem, "-o", strings.Trim("loop,"+options, ","), image, dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	return dir
}

// shutdownNeeds has what it takes to shut a file system down.
var shutdownNeeds = map[string][]proofs.Thing{
	"ext4": {proofs.Root, proofs.Ext4},
	"xfs":  {proofs.Root, proofs.XFS},
}

// TestShutdownUnderLoad shuts real file systems down under a load, a volume of
// walsvc among it, and looks for everything that was acknowledged.
func TestShutdownUnderLoad(t *testing.T) {
	for fileSystem, needs := range shutdownNeeds {
		t.Run(fileSystem, func(t *testing.T) {
			proofs.Need(t, needs...)
			dir := mounted(t, fileSystem, "noatime")
			before, err := disk.Locate(dir)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Cuts(t.Context(), CutOptions{Options: quick(dir), Cuts: 3, For: 100 * time.Millisecond}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict != Certified || r.Cut.Bad() != 0 || r.Cut.Cuts != 3 {
				t.Fatalf("%s: %q: %+v", r.Verdict, r.Words, r.Cut)
			}
			for _, l := range r.Cut.Lanes {
				if l.Acknowledged < 3*minSteps || l.Checked == 0 {
					t.Errorf("lane %s: %+v", l.Lane, l)
				}
			}
			after, err := disk.Locate(dir)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(before.Options, after.Options) || before.Source != after.Source {
				t.Errorf("it was mounted from %s with %v and came back from %s with %v", before.Source, before.Options, after.Source, after.Options)
			}
			if left := readAll(t, disk.OS(disk.OSOptions{}), dir); left[Home] != 0 || len(left) > 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// quick leaves out what takes time and is not about cuts.
func quick(dir string) Options {
	return Options{Dir: dir, measure: func(context.Context, string) (*bench.DiskReport, error) { return timed(200), nil }}
}

// TestNoBarriers: what ext4 leaves out when it is told to is counted.
func TestNoBarriers(t *testing.T) {
	proofs.Need(t, proofs.Root, proofs.Ext4)
	dir := mounted(t, "ext4", "barrier=0")
	r, err := Inspect(t.Context(), Options{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(r.Words, "\n")
	if r.Verdict != Unfit || !strings.Contains(words, "nobarrier: devices are not told") {
		t.Errorf("%s:\n%s", r.Verdict, words)
	}
	i := slices.IndexFunc(r.Place.Devices, func(d disk.BlockDevice) bool { return d.Backing != "" })
	if i < 0 {
		t.Fatalf("no loop device below it: %+v", r.Place)
	}
	if d := r.Place.Devices[i]; d.Counts && d.WriteCache == "write back" && !strings.Contains(words, "of 32 syncs 0 told "+d.Name) {
		t.Errorf("it was not counted:\n%s", words)
	}
}

// TestMemoryIsUnfit: tmpfs works in every way, and keeps nothing.
func TestMemoryIsUnfit(t *testing.T) {
	proofs.Need(t, proofs.Root, proofs.Mount)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-t", "tmpfs", "tmpfs", dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	o := Options{Dir: dir}
	r, err := Inspect(t.Context(), o, nil)
	if err != nil || r.Verdict != Unfit {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Cuts(t.Context(), CutOptions{Options: o}, nil); !isErr(err, ErrCannotCut) {
		t.Errorf("to shut it down: %v, want ErrCannotCut", err)
	}
}

// TestNobodyIsHurt: a file system that somebody uses is not shut down, nor one
// that has files of others without leave.
func TestNobodyIsHurt(t *testing.T) {
	proofs.Need(t, proofs.Root, proofs.Ext4)
	dir := mounted(t, "ext4", "")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "theirs")
	f, err := os.Create(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		dir  string
		yes  bool
		want error
	}{
		"has others' files":  {dir, false, ErrOthers},
		"has an open file":   {dir, true, disk.ErrShared},
		"is not the mount's": {filepath.Join(dir, "sub"), true, ErrCannotCut},
	} {
		if _, err := Cuts(t.Context(), CutOptions{Options: Options{Dir: tc.dir}, Yes: tc.yes}, nil); !isErr(err, tc.want) {
			t.Errorf("one that %s: %v, want %v", what, err, tc.want)
		}
		if _, err := f.WriteString("still here"); err != nil {
			t.Errorf("one that %s was shut down: %v", what, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// With leave, and closed, it is cut; what was closed is as durable as an
	// orderly unmount makes it.
	r, err := Cuts(t.Context(), CutOptions{Options: quick(dir), Yes: true, Cuts: 1, For: time.Millisecond}, nil)
	if err != nil || r.Verdict != Certified {
		t.Fatalf("%+v, %v", r, err)
	}
	if text, err := os.ReadFile(theirs); err != nil || !strings.HasPrefix(string(text), "still here") {
		t.Errorf("their file: %q, %v", text, err)
	}
}

// TestShutdownCatchesALie: with syncs that do nothing, a cut of a real file
// system takes what was acknowledged. Else it would be too gentle to certify.
func TestShutdownCatchesALie(t *testing.T) {
	for fileSystem, needs := range shutdownNeeds {
		t.Run(fileSystem, func(t *testing.T) {
			proofs.Need(t, needs...)
			o := quick(mounted(t, fileSystem, ""))
			o.fs = syncless{disk.OS(disk.OSOptions{})}
			r, err := Cuts(t.Context(), CutOptions{Options: o, Cuts: 3, For: time.Millisecond}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict != Dishonest || r.Cut.Cuts != 1 || r.Cut.Lost+r.Cut.Torn == 0 {
				t.Errorf("%s: %q: %+v", r.Verdict, r.Words, r.Cut)
			}
		})
	}
}

// syncless is a file system whose files' syncs do nothing.
type syncless struct{ disk.FS }

func (s syncless) Create(path string) (disk.File, error) {
	f, err := s.FS.Create(path)
	return synclessFile{f}, err
}

func (s syncless) Open(path string, write bool) (disk.File, error) {
	f, err := s.FS.Open(path, write)
	return synclessFile{f}, err
}

type synclessFile struct{ disk.File }

func (synclessFile) Sync() error { return nil }
