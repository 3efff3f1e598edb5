package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/walsvc/walsvc/internal/limits"
)

// OSOptions configures OS. The zero value is good.
type OSOptions struct {
	// Direct is which writes bypass the page cache (O_DIRECT). A file system or a
	// platform that does not take them gets buffered writes, and so does a single
	// write whose offset or length is no multiple of 4 KiB. Reads are always
	// buffered. It changes nothing about durability: that is File.Sync's either way.
	Direct Direct
}

// Direct is which writes bypass the page cache.
type Direct uint8

const (
	// DirectAuto is for writes that nobody reads back as they come, where the file
	// system says that it takes them: the way through the page cache costs a copy,
	// and the sync has to find what was copied, page by page. While somebody follows
	// what is written, so that it would be fetched from the disk at once, writes of
	// less than limits.DirectWriteSize go through the page cache.
	DirectAuto Direct = iota
	// DirectAlways is for all writes, also where the file system does not say: one
	// that takes the flag and then fails the writes fails them.
	DirectAlways
	// DirectNever is for none.
	DirectNever
)

var directNames = [...]string{"auto", "always", "never"}

func (d Direct) String() string { return directNames[d] }

// ParseDirect reads what String writes; "" is auto.
func ParseDirect(s string) (Direct, error) {
	if i := slices.Index(directNames[:], s); i >= 0 {
		return Direct(i), nil
	}
	if s == "" {
		return DirectAuto, nil
	}
	return 0, fmt.Errorf("direct: %q is none of %s", s, strings.Join(directNames[:], ", "))
}

// OS returns the real file system. Files are made with mode 0600 and
// directories with 0700: they hold other people's data.
//
// It is complete on Linux and macOS. Elsewhere it builds, Lock and Free return
// errors.ErrUnsupported, and so no volume is opened for writing.
func OS(o OSOptions) FS { return osFS{direct: o.Direct, back: &readBack{}} }

type osFS struct {
	direct Direct
	back   *readBack
}

// A readBack knows how much of what is being written is read, by whatever
// descriptor: who follows what is written reads each byte of it once, and whoever
// looks something up reads a little of it now and then.
type readBack struct {
	tail   atomic.Pointer[osFile] // through which was last written
	credit atomic.Int64           // bytes that will be written through the page cache
}

// reads notes that n bytes of f were read.
func (b *readBack) reads(f *osFile, n int) {
	if tail := b.tail.Load(); n > 0 && tail != nil && os.SameFile(tail.info, f.info) {
		// Two who do this at a time may lose what one of them adds: it is an estimate.
		b.credit.Store(min(b.credit.Load()+int64(n)*limits.ReadBackFactor, limits.MaxReadBack))
	}
}

// writes notes that n bytes will be written to f, and reports whether it is worth
// to keep them in the page cache.
func (b *readBack) writes(f *osFile, n int) bool {
	if b.tail.Load() != f {
		b.tail.Store(f)
	}
	return b.credit.Load() > 0 && b.credit.Add(-int64(n)) >= 0
}

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
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	file := &osFile{f: f, info: info, back: o.back, auto: o.direct == DirectAuto}
	if flag&os.O_RDWR != 0 && o.direct != DirectNever {
		if file.direct, err = openDirect(path, o.direct == DirectAlways); err != nil {
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
	auto   bool        // direct is for what nobody reads back
	info   fs.FileInfo // as it was opened: which file it is
	back   *readBack
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	f.back.reads(f, n)
	return n, err
}

func (f *osFile) Prefetch(off, n int64) { willNeed(f.f, off, n) }

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if f.direct == nil || len(p)%limits.BlockSize != 0 || off%limits.BlockSize != 0 {
		return f.f.WriteAt(p, off)
	}
	if f.auto && len(p) < limits.DirectWriteSize && f.back.writes(f, len(p)) {
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
