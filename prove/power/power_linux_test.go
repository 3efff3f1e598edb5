package power

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/proofs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mounted mounts a disk for one test.
func mounted(t *testing.T, d *Disk) (*Mounted, string) {
	t.Helper()
	dir := t.TempDir()
	proofs.Need(t, proofs.FUSE)
	m, err := Mount(d, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Unmount() }) // for a test that ended before its own
	return m, dir
}

// after unmounts and returns what a cut leaves.
func after(t *testing.T, m *Mounted, loss Loss) *Disk {
	t.Helper()
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	d, _ := m.disk.Survivor(rand.New(rand.NewPCG(1, 2)), loss)
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
		kind        Kind
		do          func(t *testing.T, dir string)
		lost, whole string
	}{
		{"nothing synced", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
		}, "", "f=a"},
		{"the file synced and not its name", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
		}, "", "f=a"},
		{"the name synced and not the file", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir)
		}, "f=", "f=a"},
		{"both synced", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
		}, "f=a", "f=a"},
		{"both synced on a disk that lies", Lying, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
		}, "", "f=a"},
		{"overwritten", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
			must(t, err)
			_, err = f.Write([]byte("bb"))
			must(t, errors.Join(err, f.Close()))
		}, "f=a", "f=b"},
		{"renamed", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			must(t, os.Rename(dir+"/f", dir+"/g"))
		}, "f=a", "g=a"},
		{"renamed over another", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			write(t, dir+"/g", "bb")
			syncPath(t, dir+"/f")
			syncPath(t, dir+"/g")
			syncPath(t, dir)
			must(t, os.Rename(dir+"/f", dir+"/g"))
		}, "f=a g=b", "g=a"},
		{"moved to another directory", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			must(t, os.Mkdir(dir+"/d", 0o700))
			syncPath(t, dir+"/f")
			must(t, os.Rename(dir+"/f", dir+"/d/f"))
		}, "d=", "d="},
		{"removed", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			must(t, os.Remove(dir+"/f"))
		}, "f=a", ""},
		{"written with O_SYNC", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", "aa")
			syncPath(t, dir)
			f, err := os.OpenFile(dir+"/f", os.O_WRONLY|os.O_SYNC, 0)
			must(t, err)
			_, err = f.Write([]byte("bb"))
			must(t, errors.Join(err, f.Close()))
		}, "f=b", "f=b"},
		{"written with O_SYNC on a disk that lies", Lying, func(t *testing.T, dir string) {
			f, err := os.OpenFile(dir+"/f", os.O_WRONLY|os.O_CREATE|os.O_SYNC, 0o600)
			must(t, err)
			_, err = f.Write([]byte("bb"))
			must(t, errors.Join(err, f.Close()))
		}, "", "f=b"},
		{"written with O_DIRECT", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", strings.Repeat("a", blockSize))
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			f, err := os.OpenFile(dir+"/f", os.O_WRONLY|syscall.O_DIRECT, 0)
			must(t, err)
			aligned, err := syscall.Mmap(-1, 0, blockSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
			must(t, err)
			copy(aligned, strings.Repeat("b", blockSize))
			_, err = f.Write(aligned)
			must(t, errors.Join(err, f.Close(), syscall.Munmap(aligned)))
		}, "f=a", "f=b"},
		{"names before a sync of another file in a journal", Journaling, func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/d", 0o700))
			write(t, dir+"/f", "aa")
			write(t, dir+"/g", "bb")
			syncPath(t, dir+"/f")
			must(t, os.Rename(dir+"/f", dir+"/h"))
		}, "d= f=a g=", "d= g=b h=a"},
		{"truncated", Strict, func(t *testing.T, dir string) {
			write(t, dir+"/f", strings.Repeat("a", 3*blockSize))
			syncPath(t, dir+"/f")
			syncPath(t, dir)
			must(t, os.Truncate(dir+"/f", 0))
		}, "f=a", "f="},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for survive, want := range []string{tc.lost, tc.whole} {
				d := New(tc.kind, 0)
				m, dir := mounted(t, d)
				tc.do(t, dir)
				if got := content(after(t, m, Loss{Survive: float64(survive)})); got != want {
					t.Errorf("with %d of what is unsynced there is %q, want %q", survive, got, want)
				}
			}
		})
	}
}

// TestBlocksSurviveOneByOne writes two files, cuts, and wants to see parts.
func TestBlocksSurviveOneByOne(t *testing.T) {
	d := New(Strict, 0)
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
	n := after(t, m, Loss{Survive: 0.5}).root.names["f"]
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

// TestSectorsSurviveOneByOne overwrites blocks and cuts, and wants to see some in
// parts, and no sector in parts.
func TestSectorsSurviveOneByOne(t *testing.T) {
	d := New(Strict, 0)
	m, dir := mounted(t, d)
	must(t, os.WriteFile(dir+"/f", bytes.Repeat([]byte("a"), 16*blockSize), 0o600))
	syncPath(t, dir+"/f")
	syncPath(t, dir)
	f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("b"), 16*blockSize), 0)
	must(t, errors.Join(err, f.Close()))
	n := after(t, m, Loss{Survive: 0.5, Sectors: true}).root.names["f"]
	torn := 0
	for i := range int64(16) {
		var b block
		n.readAt(b[:], i*blockSize)
		if count := bytes.Count(b[:], []byte("b")); count > 0 && count < blockSize {
			torn++
		}
		for sector := range slices.Chunk(b[:], sectorSize) {
			if !bytes.Equal(sector, bytes.Repeat(sector[:1], sectorSize)) || sector[0] != 'a' && sector[0] != 'b' {
				t.Fatalf("a sector is %q", sector)
			}
		}
	}
	if torn < 8 {
		t.Errorf("%d of 16 blocks are torn", torn)
	}
}

// TestSizeSurvives lets a file grow and cuts: any block on the way may be its end.
func TestSizeSurvives(t *testing.T) {
	d := New(Strict, 0)
	m, dir := mounted(t, d)
	must(t, os.WriteFile(dir+"/f", []byte("aa"), 0o600))
	syncPath(t, dir+"/f")
	syncPath(t, dir)
	must(t, os.Truncate(dir+"/f", 2*blockSize+7))
	must(t, m.Unmount())
	rng := rand.New(rand.NewPCG(1, 2))
	sizes := map[int64]int{}
	for range 200 {
		survivor, _ := d.Survivor(rng, Loss{Survive: 0.5})
		sizes[survivor.root.names["f"].size]++
	}
	for _, size := range []int64{2, blockSize, 2 * blockSize, 2*blockSize + 7} {
		if sizes[size] < 10 {
			t.Errorf("of 200 cuts %d leave %d bytes: %v", sizes[size], size, sizes)
		}
	}
	if len(sizes) != 4 {
		t.Errorf("sizes %v", sizes)
	}
}

// TestNamesSurviveInOrder makes names in two directories of a disk with a journal,
// and cuts: some of the first are there.
func TestNamesSurviveInOrder(t *testing.T) {
	d := New(Journaling, 0)
	m, dir := mounted(t, d)
	const made = 8
	for _, sub := range []string{"/0", "/1"} {
		must(t, os.Mkdir(dir+sub, 0o700))
		syncPath(t, dir)
	}
	for i := range made {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d/%d", dir, i%2, i), nil, 0o600))
	}
	must(t, m.Unmount())
	rng := rand.New(rand.NewPCG(1, 2))
	counts := map[int]bool{}
	for range 100 {
		survivor, _ := d.Survivor(rng, Loss{Survive: 0.8})
		count, newest := 0, -1
		for sub := range 2 {
			for name := range survivor.root.names[fmt.Sprint(sub)].names {
				n, err := strconv.Atoi(name)
				must(t, err)
				count, newest = count+1, max(newest, n)
			}
		}
		if count != newest+1 {
			t.Fatalf("%d names are there, and the newest is %d", count, newest)
		}
		counts[count] = true
	}
	if len(counts) < made/2 {
		t.Errorf("only so many names were there: %v", counts)
	}
}

// TestCutAfter checks where a cut comes, and that nothing is answered behind it.
func TestCutAfter(t *testing.T) {
	d := New(Strict, 0)
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
	if got := content(after(t, m, Loss{Survive: 1})); got != "f=a" {
		t.Errorf("there is %q", got)
	}
}

// TestCutAtSync checks that a cut which is due waits for a sync, and that this
// one counts for nothing.
func TestCutAtSync(t *testing.T) {
	d := New(Strict, 0)
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
	if got := content(after(t, m, Loss{})); got != "f=" {
		t.Errorf("there is %q", got)
	}
}

// TestSlowSync writes while a sync takes its time, and cuts: what was there before
// is durable, and nobody was told.
func TestSlowSync(t *testing.T) {
	d := New(Strict, time.Hour)
	m, dir := mounted(t, d)
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	_, err = f.Write([]byte("a"))
	must(t, err)
	g, err := os.Create(filepath.Join(dir, "g"))
	must(t, err)
	synced := make(chan error, 2)
	for _, path := range []string{dir, filepath.Join(dir, "f")} {
		opened, err := os.Open(path)
		must(t, err)
		go func() { synced <- errors.Join(opened.Sync(), opened.Close()) }()
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if syncs, _ := d.Counts(); syncs == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the syncs do not come")
		}
		runtime.Gosched()
	}
	_, err = g.Write([]byte("b")) // f itself waits: the kernel locks what is synced
	must(t, err)
	select {
	case err := <-synced:
		t.Fatalf("a sync of an hour returned %v", err)
	default:
	}
	d.Abandon()
	for range 2 {
		if err := <-synced; !errors.Is(err, syscall.EIO) {
			t.Errorf("the sync returned %v, want EIO", err)
		}
	}
	must(t, errors.Join(f.Close(), g.Close()))
	if got := content(after(t, m, Loss{})); got != "f=a g=" {
		t.Errorf("there is %q", got)
	}
}

// TestUnmountInUse unmounts what a file is open on: its name is free, and whoever
// still asks is refused and does not wait.
func TestUnmountInUse(t *testing.T) {
	proofs.Need(t, proofs.Mount) // fusermount3 aborts nothing
	m, dir := mounted(t, New(Strict, 0))
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	must(t, m.Unmount())
	if _, err := os.Stat(filepath.Join(dir, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("behind the mount there is %v", err)
	}
	if _, err := f.Write([]byte("a")); !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("a write returns %v, want ENOTCONN", err)
	}
	_ = f.Close() // of what is gone
}

// TestLock checks that locks hold between openers, as a volume needs it.
func TestLock(t *testing.T) {
	_, dir := mounted(t, New(Strict, 0))
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
