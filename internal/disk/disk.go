// Package disk is the only place of walsvc that touches the files of a volume.
//
// It is a small seam, not a file system: what the engine needs and nothing
// else, so that a fake is short and a review of "what did we ask the disk" is
// a review of one interface. Six implementations stand behind it:
//
//	OS        the real one: fdatasync, directory sync, flock, and O_DIRECT for
//	          what nobody reads back as it is written
//	Mem       in memory, and it can crash: what was synced stays, each unsynced
//	          4 KiB block and each unsynced directory entry survives at random
//	Record    wraps another and tells of every operation when it begins and ends
//	Faulty    wraps another and fails, delays or hangs chosen operations
//	Watch     wraps another and tells when an operation hangs
//	Model     wraps another and takes the time that a modelled device would
//
// Durability rules, which Mem models and the engine obeys:
//
//   - WriteAt makes nothing durable. Blocks of 4 KiB land in any order.
//   - File.Sync makes durable the file's content and size. It does not make
//     the file's name durable.
//   - FS.SyncDir makes durable the names in a directory: creations, renames
//     and removals before it.
//   - After a failed Sync nothing is known, and a later Sync that succeeds
//     proves nothing: the kernel may have dropped the pages and marked them
//     clean. A caller never retries; it stops.
package disk

import (
	"errors"
	"io"
)

// FS is one directory tree, as far as the engine uses it. Paths are absolute
// or relative to the process, joined with path/filepath. Errors are the ones
// of package os, wrapped: errors.Is(err, fs.ErrNotExist) and the like hold.
type FS interface {
	// Create makes a new file for reading and writing, of zero length. It fails
	// with fs.ErrExist if the name is taken.
	Create(path string) (File, error)

	// Open opens an existing file for reading and, if write is set, writing.
	Open(path string, write bool) (File, error)

	// Rename gives a file a new name, replacing what has it, atomically. It is
	// durable after SyncDir of the directory (both names are in one directory).
	Rename(from, to string) error

	// Remove takes a name away. Durable after SyncDir.
	Remove(path string) error

	// List returns the entries of a directory, sorted by name.
	List(dir string) ([]Entry, error)

	// MkdirAll makes a directory and its parents, and makes their names durable.
	MkdirAll(dir string) error

	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error

	// Lock takes the exclusive lock of a volume on path, which it creates if it
	// is missing, and returns what gives it back. It fails at once with
	// ErrLocked if another process or another opener in this one has it.
	Lock(path string) (io.Closer, error)

	// Free returns the bytes a user without privileges may still allocate on
	// the file system of dir.
	Free(dir string) (uint64, error)
}

// File is an open file. Its methods may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Sync makes the file's content and size durable (fdatasync, or F_FULLFSYNC
	// where that is what it takes). After an error nothing is known; never retry.
	Sync() error

	// Prefetch says that n bytes from off on will be read soon. It reads nothing
	// for the caller, does not wait for what it asks for and cannot fail: a
	// platform that has no use for it ignores it. It makes nothing durable.
	Prefetch(off, n int64)

	// Size returns the file's length in bytes.
	Size() (int64, error)

	// Truncate sets the file's length in bytes. Durable after Sync.
	Truncate(size int64) error
}

// Entry is one name in a directory.
type Entry struct {
	Name  string
	Size  int64
	IsDir bool
}

// ErrLocked says that another opener has the volume.
var ErrLocked = errors.New("locked by another process")
