package disk

import (
	"fmt"
	"io"
	"path/filepath"
)

// OpKind names an operation of FS or File.
type OpKind uint8

// The kinds of operations.
const (
	OpCreate OpKind = iota + 1
	OpOpen
	OpRename
	OpRemove
	OpList
	OpMkdirAll
	OpSyncDir
	OpLock
	OpUnlock
	OpFree
	OpRead
	OpWrite
	OpSync
	OpSize
	OpTruncate
	OpClose
)

var opNames = [...]string{
	OpCreate:   "create",
	OpOpen:     "open",
	OpRename:   "rename",
	OpRemove:   "remove",
	OpList:     "list",
	OpMkdirAll: "mkdir-all",
	OpSyncDir:  "sync-dir",
	OpLock:     "lock",
	OpUnlock:   "unlock",
	OpFree:     "free",
	OpRead:     "read",
	OpWrite:    "write",
	OpSync:     "sync",
	OpSize:     "size",
	OpTruncate: "truncate",
	OpClose:    "close",
}

// String names a kind as transcripts spell it.
func (k OpKind) String() string {
	if k == 0 || int(k) >= len(opNames) {
		return fmt.Sprintf("op(%d)", uint8(k))
	}
	return opNames[k]
}

// Op is one operation, or one of its two ends when it comes from Record.
type Op struct {
	Kind OpKind
	Name string // base name of the path
	To   string // base name of a rename's new path
	// Offset and Len are in bytes: of a read or a write. A truncation has the
	// new size as its Offset.
	Offset, Len int64
	Write       bool // an OpOpen that may write

	// Event numbers the events of one Record from 1, in the order in which they
	// happened. Zero in an Op that comes from elsewhere.
	Event uint64
	// Began is the Event with which the operation began; equal to Event in the
	// beginning itself.
	Began uint64
	// Err is what the operation returned; nil in its beginning.
	Err error
}

// Done reports whether op is the end of an operation, not its beginning.
func (op Op) Done() bool { return op.Event != op.Began }

// Before reports whether op had returned before next began, which proves more
// than their places in a transcript do: a sync covers only those writes that
// are Before it. Both ends of each operation serve.
func (op Op) Before(next Op) bool { return op.Done() && op.Event < next.Began }

// String spells an operation as one line without its event numbers. Names of
// directories are left out, since those of a test differ from run to run.
//
//	write 000000000000002a.wal 4096+8192
//	sync 000000000000002a.wal: input/output error
//	rename 000000000000002a.tmp -> 000000000000002a.wal
//	sync-dir
func (op Op) String() string {
	s := op.Kind.String()
	switch op.Kind {
	case OpSyncDir, OpList, OpMkdirAll, OpFree:
	case OpRename:
		s += fmt.Sprintf(" %s -> %s", op.Name, op.To)
	case OpRead, OpWrite:
		s += fmt.Sprintf(" %s %d+%d", op.Name, op.Offset, op.Len)
	case OpTruncate:
		s += fmt.Sprintf(" %s %d", op.Name, op.Offset)
	case OpOpen:
		s += " " + op.Name
		if op.Write {
			s += " for writing"
		}
	default:
		s += " " + op.Name
	}
	if op.Err != nil {
		s += ": " + rootCause(op.Err).Error()
	}
	return s
}

// rootCause takes off the wrapping, which names paths.
func rootCause(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
	}
}

// wrapped is an FS that hands each of its operations to around, which decides
// whether and how to run it.
type wrapped struct {
	fs     FS
	around func(op Op, c call) error
}

// call is an operation that waits to be carried out.
type call struct {
	path string
	run  func() error
	// half carries out the first half of a write. It is nil for all else.
	half func() error
	// spoil makes what lies beneath behave as after this operation failed. It
	// is nil where a failed operation simply has not happened.
	spoil func()
}

// syncFailer and syncDirFailer are implemented by file systems that know what
// a failed sync does: Mem, and what is wrapped around one.
type (
	syncFailer    interface{ FailSync() }
	syncDirFailer interface{ FailSyncDir(dir string) }
)

func (w *wrapped) do(kind OpKind, path string, run func() error) error {
	return w.around(Op{Kind: kind, Name: filepath.Base(path)}, call{path: path, run: run})
}

// Create implements FS.
func (w *wrapped) Create(path string) (f File, err error) {
	err = w.do(OpCreate, path, func() error {
		f, err = w.fs.Create(path)
		return err
	})
	return w.file(path, f, err)
}

// Open implements FS.
func (w *wrapped) Open(path string, write bool) (f File, err error) {
	op := Op{Kind: OpOpen, Name: filepath.Base(path), Write: write}
	err = w.around(op, call{path: path, run: func() error {
		f, err = w.fs.Open(path, write)
		return err
	}})
	return w.file(path, f, err)
}

// file wraps a file, or closes it if the operation that opened it was carried
// out and then reported as failed.
func (w *wrapped) file(path string, f File, err error) (File, error) {
	if err == nil {
		return &wrappedFile{w: w, f: f, path: path}, nil
	}
	if f != nil {
		_ = f.Close() // nobody has written to it
	}
	return nil, err
}

// Rename implements FS.
func (w *wrapped) Rename(from, to string) error {
	op := Op{Kind: OpRename, Name: filepath.Base(from), To: filepath.Base(to)}
	return w.around(op, call{path: from, run: func() error { return w.fs.Rename(from, to) }})
}

// Remove implements FS.
func (w *wrapped) Remove(path string) error {
	return w.do(OpRemove, path, func() error { return w.fs.Remove(path) })
}

// List implements FS.
func (w *wrapped) List(dir string) (entries []Entry, err error) {
	err = w.do(OpList, dir, func() error {
		entries, err = w.fs.List(dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// MkdirAll implements FS.
func (w *wrapped) MkdirAll(dir string) error {
	return w.do(OpMkdirAll, dir, func() error { return w.fs.MkdirAll(dir) })
}

// SyncDir implements FS.
func (w *wrapped) SyncDir(dir string) error {
	c := call{path: dir, run: func() error { return w.fs.SyncDir(dir) }, spoil: func() { w.FailSyncDir(dir) }}
	return w.around(Op{Kind: OpSyncDir, Name: filepath.Base(dir)}, c)
}

// FailSyncDir hands on to Mem.FailSyncDir, if that is what lies beneath.
func (w *wrapped) FailSyncDir(dir string) {
	if m, ok := w.fs.(syncDirFailer); ok {
		m.FailSyncDir(dir)
	}
}

// Lock implements FS.
func (w *wrapped) Lock(path string) (lock io.Closer, err error) {
	err = w.do(OpLock, path, func() error {
		lock, err = w.fs.Lock(path)
		return err
	})
	if err == nil {
		return &wrappedLock{w: w, lock: lock, path: path}, nil
	}
	if lock != nil {
		_ = lock.Close()
	}
	return nil, err
}

// Free implements FS.
func (w *wrapped) Free(dir string) (free uint64, err error) {
	err = w.do(OpFree, dir, func() error {
		free, err = w.fs.Free(dir)
		return err
	})
	if err != nil {
		return 0, err
	}
	return free, nil
}

type wrappedLock struct {
	w    *wrapped
	lock io.Closer
	path string
}

func (l *wrappedLock) Close() error { return l.w.do(OpUnlock, l.path, l.lock.Close) }

type wrappedFile struct {
	w    *wrapped
	f    File
	path string
}

func (f *wrappedFile) ReadAt(p []byte, off int64) (n int, err error) {
	op := Op{Kind: OpRead, Name: filepath.Base(f.path), Offset: off, Len: int64(len(p))}
	err = f.w.around(op, call{path: f.path, run: func() error {
		n, err = f.f.ReadAt(p, off)
		return err
	}})
	return n, err
}

func (f *wrappedFile) WriteAt(p []byte, off int64) (n int, err error) {
	op := Op{Kind: OpWrite, Name: filepath.Base(f.path), Offset: off, Len: int64(len(p))}
	write := func(p []byte) func() error {
		return func() error {
			n, err = f.f.WriteAt(p, off)
			return err
		}
	}
	err = f.w.around(op, call{path: f.path, run: write(p), half: write(p[:len(p)/2])})
	return n, err
}

func (f *wrappedFile) Sync() error {
	op := Op{Kind: OpSync, Name: filepath.Base(f.path)}
	return f.w.around(op, call{path: f.path, run: f.f.Sync, spoil: f.FailSync})
}

// FailSync hands on to a Mem's file, if that is what lies beneath.
func (f *wrappedFile) FailSync() {
	if m, ok := f.f.(syncFailer); ok {
		m.FailSync()
	}
}

// Prefetch is no operation of its own: it changes nothing and cannot fail.
func (f *wrappedFile) Prefetch(off, n int64) { f.f.Prefetch(off, n) }

func (f *wrappedFile) Size() (size int64, err error) {
	err = f.w.do(OpSize, f.path, func() error {
		size, err = f.f.Size()
		return err
	})
	if err != nil {
		return 0, err
	}
	return size, nil
}

func (f *wrappedFile) Truncate(size int64) error {
	op := Op{Kind: OpTruncate, Name: filepath.Base(f.path), Offset: size}
	return f.w.around(op, call{path: f.path, run: func() error { return f.f.Truncate(size) }})
}

func (f *wrappedFile) Close() error { return f.w.do(OpClose, f.path, f.f.Close) }
