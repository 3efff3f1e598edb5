package power

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mounted mounts a disk for one test.
func mounted(t *testing.T, d *Disk) (*Mounted, string) {
	t.Helper()
	dir := t.TempDir()
	m, err := Mount(d, dir)
	if errors.Is(err, ErrNoFUSE) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Unmount() }) // for a test that ended before its own
	return m, dir
}

// after unmounts and returns what a cut leaves.
func after(t *testing.T, m *Mounted, survive float64) *Disk {
	t.Helper()
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	d, _ := m.disk.Survivor(rand.New(rand.NewPCG(1, 2)), survive)
	return d
}

// content lists the files of a disk's root as name=bytes, large runs shortened.
func content(d *Disk) string {
	var out []string
	for _, name := range d.root.sortedNames() {
		n := d.root.names[name]
		b := make([]byte, n.size)
		n.readAt(b, 0)
		var s strings.Builder
		for len(b) > 0 {
			run := len(b) - len(bytes.TrimLeft(b, string(b[:1])))
			s.WriteByte("."[0])
			if b[0] != 0 {
				s.Reset()
				s.WriteByte(b[0])
			}
			b = b[run:]
		}
		out = append(out, name+"="+s.String())
	}
	return strings.Join(out, " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func syncPath(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	must(t, errors.Join(f.Sync(), f.Close()))
}

// TestCut does things to a mounted disk and cuts, with everything unsynced lost
// and with everything kept.
func TestCut(t *testing.T) {
	write := func(t *testing.T, path, s string) { must(t, os.WriteFile(path, []byte(s), 0o600)) }
	for _, tc := range []struct {
		name        string
		lying       bool
		do          func(t *testing.T, dir string)
		lost, whole string
	}{
		{"nothing synced", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
		}, "", "f=a"},
		{"the file synced and not its name", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
		}, "", "f=a"},
		{"the name synced and not the file", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir)
		}, "f=", "f=a"},
		{"both synced", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
		}, "f=a", "f=a"},
		{"both synced on a disk that lies", true, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
		}, "", "f=a"},
		{"overwritten", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
			must(t, err)
			_, err = f.Write([]byte("bb"))
			must(t, errors.Join(err, f.Close()))
		}, "f=a", "f=b"},
		{"renamed", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			must(t, os.Rename(dir+"/f", dir+"/g"))
		}, "f=a", "g=a"},
		{"renamed over another", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			write(t, dir+"/g", "bb")
			syncPath(t, dir+"/f")
			syncPath(t, dir+"/g")
			syncPath(t, dir)
			must(t, os.Rename(dir+"/f", dir+"/g"))
		}, "f=a g=b", "g=a"},
		{"moved to another directory", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			must(t, os.Mkdir(dir+"/d", 0o700))
			syncPath(t, dir+"/f")
			must(t, os.Rename(dir+"/f", dir+"/d/f"))
		}, "d=", "d="},
		{"removed", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			must(t, os.Remove(dir+"/f"))
		}, "f=a", ""},
		{"truncated", false, func(t *testing.T, dir string) {
			write(t, dir+"/f", strings.Repeat("a", 3*blockSize))
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			must(t, os.Truncate(dir+"/f", 0))
		}, "f=a", "f="},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for survive, want := range []string{tc.lost, tc.whole} {
				d := New(tc.lying)
				m, dir := mounted(t, d)
				tc.do(t, dir)
				if got := content(after(t, m, float64(survive))); got != want {
					t.Errorf("with %d of what is unsynced there is %q, want %q", survive, got, want)
				}
			}
		})
	}
}

// TestBlocksSurviveOneByOne writes two files, cuts, and wants to see parts.
func TestBlocksSurviveOneByOne(t *testing.T) {
	d := New(false)
	m, dir := mounted(t, d)
	must(t, os.WriteFile(dir+"/f", make([]byte, 64*blockSize), 0o600))
	syncPath(t, dir+"/f")
	syncPath(t, dir)
	f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
	must(t, err)
	for _, version := range []string{"a", "b"} {
		_, err = f.WriteAt([]byte(strings.Repeat(version, 64*blockSize)), 0)
		must(t, err)
	}
	must(t, f.Close())
	n := after(t, m, 0.5).root.names["f"]
	count := map[byte]int{}
	for i := range int64(64) {
		b := []byte{0}
		n.readAt(b, i*blockSize)
		count[b[0]]++
	}
	if count[0] < 8 || count['a'] < 4 || count['b'] < 4 || count[0]+count['a']+count['b'] != 64 {
		t.Errorf("blocks survived as %v", count)
	}
	if m.disk.root.names["f"].durable[0] != nil {
		t.Error("the survivor shares the durable blocks")
	}
}

// TestCutAfter checks where a cut comes, and that nothing is answered behind it.
func TestCutAfter(t *testing.T) {
	d := New(false)
	m, dir := mounted(t, d)
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	d.CutAfter(2, false)
	for range 2 {
		_, err := f.Write([]byte("a"))
		must(t, err)
	}
	select {
	case <-d.Off():
		t.Fatal("cut too early")
	default:
	}
	answered := make(chan error)
	go func() {
		_, err := f.Write([]byte("b"))
		answered <- errors.Join(err, f.Close())
	}()
	<-d.Off()
	select {
	case err := <-answered:
		t.Fatalf("answered after the cut: %v", err)
	default:
	}
	d.Abandon()
	if err := <-answered; !errors.Is(err, syscall.EIO) {
		t.Errorf("abandoned with %v, want EIO", err)
	}
	if got := content(after(t, m, 1)); got != "f=a" {
		t.Errorf("there is %q", got)
	}
}

// TestCutAtSync checks that a cut which is due waits for a sync, and that this
// one counts for nothing.
func TestCutAtSync(t *testing.T) {
	d := New(false)
	m, dir := mounted(t, d)
	must(t, os.WriteFile(dir+"/f", nil, 0o600))
	syncPath(t, dir)
	d.CutAfter(1, true)
	must(t, os.WriteFile(dir+"/f", []byte("aa"), 0o600))
	must(t, os.WriteFile(dir+"/f", []byte("bb"), 0o600))
	f, err := os.Open(dir + "/f")
	must(t, err)
	synced := make(chan error)
	go func() { synced <- errors.Join(f.Sync(), f.Close()) }()
	<-d.Off()
	d.Abandon()
	if err := <-synced; !errors.Is(err, syscall.EIO) {
		t.Errorf("the sync returned %v, want EIO", err)
	}
	if got := content(after(t, m, 0)); got != "f=" {
		t.Errorf("there is %q", got)
	}
}

// TestLock checks that locks hold between openers, as a volume needs it.
func TestLock(t *testing.T) {
	_, dir := mounted(t, New(false))
	var files [2]*os.File
	for i := range files {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		defer func() { must(t, f.Close()) }()
		files[i] = f
	}
	must(t, syscall.Flock(int(files[0].Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	if err := syscall.Flock(int(files[1].Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("the second lock gets %v", err)
	}
}
