package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/walsvc/walsvc/internal/limits"
)

// OSOptions configures OS. The zero value is good.
type OSOptions struct {
	// Direct asks for writes that bypass the page cache (O_DIRECT). It is a
	// wish: a file system or a platform that does not take it gets buffered
	// writes, and so does a single write whose offset or length is no multiple
	// of 4 KiB. Reads are always buffered. It changes nothing about durability:
	// that is File.Sync's in both cases.
	//
	// Without it, writes of limits.DirectWriteSize and more bypass the page cache
	// where the file system says that it takes them: copying what is so large, and
	// writing it back page by page, costs more than the disk does.
	Direct bool
}

// OS returns the real file system. Files are made with mode 0600 and
// directories with 0700: they hold other people's data.
//
// It is complete on Linux and macOS. Elsewhere it builds, Lock and Free return
// errors.ErrUnsupported, and so no volume is opened for writing.
func OS(o OSOptions) FS { return osFS{direct: o.Direct} }

type osFS struct{ direct bool }

func (o osFS) Create(path string) (File, error) {
	return o.open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (o osFS) Open(path string, write bool) (File, error) {
	if write {
		return o.open(path, os.O_RDWR)
	}
	return o.open(path, os.O_RDONLY)
}

func (o osFS) open(path string, flag int) (File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	file := &osFile{f: f, least: limits.DirectWriteSize}
	if o.direct {
		file.least = limits.BlockSize
	}
	if flag&os.O_RDWR != 0 {
		if file.direct, err = openDirect(path, o.direct); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return file, nil
}

func (osFS) Rename(from, to string) error {
	if err := checkRename(from, to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) List(dir string) ([]Entry, error) {
	found, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(found))
	for _, e := range found {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed or renamed since the directory was read
		}
		if err != nil {
			return nil, err
		}
		entry := Entry{Name: e.Name(), IsDir: e.IsDir()}
		if !entry.IsDir {
			entry.Size = info.Size()
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (o osFS) MkdirAll(dir string) error {
	return mkdirAll(dir, dirOps{
		stat:    os.Stat,
		mkdir:   func(dir string) error { return os.Mkdir(dir, 0o700) },
		syncDir: o.SyncDir,
	})
}

// dirOps is what mkdirAll does to the disk, apart so that a test sees its syncs.
type dirOps struct {
	stat    func(path string) (fs.FileInfo, error)
	mkdir   func(dir string) error
	syncDir func(dir string) error
}

func mkdirAll(dir string, do dirOps) error {
	// 1. Find what is missing, innermost first.
	var missing []string
	at := filepath.Clean(dir)
	for {
		info, err := do.stat(at)
		if err == nil && !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: at, Err: syscall.ENOTDIR}
		}
		if err == nil {
			break
		}
		parent := filepath.Dir(at)
		if !errors.Is(err, fs.ErrNotExist) || parent == at {
			return err
		}
		missing = append(missing, at)
		at = parent
	}

	// 2. The innermost directory that exists may be the last deed of a process
	// that died before it could sync its name. Only that one can be: each name
	// is durable before the next directory is made in it. Whoever may not read
	// the parent, or has a mount there whose parent knows no sync, is not the
	// one who made it.
	err := do.syncDir(filepath.Dir(at))
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return err
	}

	// 3. Make the rest, outermost first.
	for _, d := range slices.Backward(missing) {
		if err := do.mkdir(d); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := do.syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	// Sync, not datasync: the names are the metadata here. Close cannot take
	// back what Sync reported, but a descriptor that does not close is a bug.
	return errors.Join(d.Sync(), d.Close())
}

// Lock leaves the file behind when the lock is given back: to remove it would
// let a third opener lock a new file of the name while a second one waits on,
// or holds, the old.
func (osFS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, f.Close())
	}
	return lock{f}, nil
}

// lock is the open file that a lock belongs to. It ends with the file's last
// descriptor, also when the process dies.
type lock struct{ *os.File }

// Close gives the lock back in so many words. To close the descriptor would do
// if it were the last: a child that another goroutine is just starting has a
// copy until it runs its program, and whoever opens the volume again before
// that would be told that it is locked.
func (l lock) Close() error { return errors.Join(unflock(l.File), l.File.Close()) }

func (osFS) Free(dir string) (uint64, error) {
	free, err := freeBytes(dir)
	if err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return free, nil
}

// osFile is a file of the operating system. Package os does what its methods
// need: it goes on after EINTR and short writes, keeps the descriptor open
// while a call uses it, and wraps errors with operation and path.
type osFile struct {
	f *os.File
	// direct is a second descriptor for the same file, opened with O_DIRECT,
	// or nil. Linux keeps the two coherent: a direct write first writes back
	// and then invalidates the pages it covers.
	direct *os.File
	least  int // bytes of a direct write
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if f.direct == nil || len(p) < f.least || len(p)%limits.BlockSize != 0 || off%limits.BlockSize != 0 {
		return f.f.WriteAt(p, off)
	}
	if aligned(p) {
		return f.direct.WriteAt(p, off)
	}
	return f.bounce(p, off)
}

// bounceSize is how much of a misaligned buffer is copied and written at once.
const bounceSize = 256 << 10

var bouncePool = sync.Pool{New: func() any {
	b := AlignedBuffer(bounceSize)
	return &b
}}

// bounce writes whole blocks from a buffer that lies askew in memory. Callers
// on the hot path use AlignedBuffer and never come here.
func (f *osFile) bounce(p []byte, off int64) (written int, err error) {
	buf := bouncePool.Get().(*[]byte)
	defer bouncePool.Put(buf)
	for written < len(p) {
		n := copy(*buf, p[written:])
		n, err = f.direct.WriteAt((*buf)[:n], off+int64(written))
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Sync covers both descriptors: what fdatasync writes out belongs to the file,
// not to the descriptor it was written through.
func (f *osFile) Sync() error { return datasync(f.f) }

func (f *osFile) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *osFile) Truncate(size int64) error { return f.f.Truncate(size) }

func (f *osFile) Close() error {
	err := f.f.Close()
	if f.direct != nil {
		err = errors.Join(err, f.direct.Close())
	}
	return err
}

// AlignedBuffer returns n zero bytes that begin on a 4 KiB boundary of memory,
// as O_DIRECT wants them. Slices of it at multiples of 4 KiB are aligned too.
//
// It is never inlined, so that the buffer is always on the heap: the compiler
// may put a buffer of known size on the stack, and stacks move.
//
//go:noinline
func AlignedBuffer(n int) []byte {
	b := make([]byte, n+limits.BlockSize-1)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % limits.BlockSize); r != 0 {
		skip = limits.BlockSize - r
	}
	return b[skip : skip+n : skip+n]
}

func aligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%limits.BlockSize == 0
}

// checkRename refuses what the contract of FS.Rename does not cover: two
// directories would need two syncs, and an order between them.
func checkRename(from, to string) error {
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: fmt.Errorf("%w: names in two directories", fs.ErrInvalid)}
}
