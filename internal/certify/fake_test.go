package certify

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeDisk is a file system in memory whose power can be cut, and which may lie.
type fakeDisk struct {
	survive float64 // the probability for what was not synced
	rng     *rand.Rand

	// What it lies about; nil functions are honest. They report whether a sync
	// of a file or a directory does nothing and says that it went well.
	lieSync    func() bool
	lieSyncDir func() bool
	// spoil is called with what survived a cut.
	spoil func(mem *disk.Mem)

	mu   sync.RWMutex // held for reading by each operation, for writing by a cut
	mem  *disk.Mem
	life int // cuts so far: whoever began before the last one has lost the disk
}

func newFakeDisk(seed uint64, survive float64) *fakeDisk {
	return &fakeDisk{survive: survive, rng: rand.New(rand.NewPCG(seed, 1)), mem: disk.NewMem()}
}

// fs implements cutter.
func (d *fakeDisk) fs() disk.FS {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return &fakeFS{d, d.life, d.mem}
}

// cut implements cutter.
func (d *fakeDisk) cut(drain func()) error {
	d.mu.Lock()
	d.life++
	d.mem = d.mem.CrashClone(d.rng, d.survive)
	if d.spoil != nil {
		d.spoil(d.mem)
	}
	d.mu.Unlock()
	drain()
	return nil
}

// options are for testing a fakeDisk as /disk.
func (d *fakeDisk) options(t testing.TB) Options {
	t.Helper()
	if err := d.fs().MkdirAll("/disk"); err != nil {
		t.Fatal(err)
	}
	return Options{
		Dir: "/disk", fs: d.fs(),
		locate:   func(string) (*disk.Place, error) { return &disk.Place{FileSystem: "ext4", Boot: "one"}, nil },
		counters: func(disk.BlockDevice) (disk.Counters, bool) { return disk.Counters{}, false },
		measure:  func(context.Context, string) (*bench.DiskReport, error) { return timed(200), nil },
	}
}

// timed is a measurement of so many microseconds for a sync.
func timed(us float64) *bench.DiskReport {
	r := &bench.DiskReport{Verdict: bench.DiskVerdict{SyncTooFast: us < 15}}
	for _, mode := range []bench.Mode{bench.Overwritten, bench.Direct} {
		r.Cells = append(r.Cells, bench.DiskCell{Mode: mode, Size: limits.BlockSize, Latency: bench.Latency{P50: us}})
	}
	return r
}

// fakeFS is the disk as it was mounted in one of its lives.
type fakeFS struct {
	d    *fakeDisk
	life int
	mem  *disk.Mem
}

// do runs an operation if the disk has not lost its power since.
func (f *fakeFS) do(op func() error) error {
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	if f.life != f.d.life {
		return syscall.EIO
	}
	return op()
}

func (f *fakeFS) file(open func() (disk.File, error)) (file disk.File, err error) {
	err = f.do(func() error {
		inner, err := open()
		file = &fakeFile{inner, f}
		return err
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

func (f *fakeFS) Create(path string) (disk.File, error) {
	return f.file(func() (disk.File, error) { return f.mem.Create(path) })
}

func (f *fakeFS) Open(path string, write bool) (disk.File, error) {
	return f.file(func() (disk.File, error) { return f.mem.Open(path, write) })
}

func (f *fakeFS) Rename(from, to string) error {
	return f.do(func() error { return f.mem.Rename(from, to) })
}

func (f *fakeFS) Remove(path string) error { return f.do(func() error { return f.mem.Remove(path) }) }

func (f *fakeFS) List(dir string) (entries []disk.Entry, err error) {
	err = f.do(func() (err error) {
		entries, err = f.mem.List(dir)
		return err
	})
	return entries, err
}

func (f *fakeFS) MkdirAll(dir string) error {
	return f.do(func() error { return f.mem.MkdirAll(dir) })
}

func (f *fakeFS) SyncDir(dir string) error {
	return f.do(func() error {
		if f.d.lieSyncDir != nil && f.d.lieSyncDir() {
			return nil
		}
		return f.mem.SyncDir(dir)
	})
}

func (f *fakeFS) Lock(path string) (lock io.Closer, err error) {
	err = f.do(func() (err error) {
		lock, err = f.mem.Lock(path)
		return err
	})
	return lock, err
}

func (f *fakeFS) Free(dir string) (n uint64, err error) {
	err = f.do(func() (err error) {
		n, err = f.mem.Free(dir)
		return err
	})
	return n, err
}

type fakeFile struct {
	disk.File
	fs *fakeFS
}

func (f *fakeFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do(func() (err error) {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

func (f *fakeFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do(func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *fakeFile) Sync() error {
	return f.fs.do(func() error {
		if f.fs.d.lieSync != nil && f.fs.d.lieSync() {
			return nil
		}
		return f.File.Sync()
	})
}

func (f *fakeFile) Truncate(size int64) error {
	return f.fs.do(func() error { return f.File.Truncate(size) })
}

// readAll returns the files of a directory.
func readAll(t testing.TB, fsys disk.FS, dir string) map[string]int64 {
	t.Helper()
	entries, err := fsys.List(dir)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for _, e := range entries {
		sizes[e.Name] = e.Size
	}
	return sizes
}

func isErr(err, target error) bool { return errors.Is(err, target) }
