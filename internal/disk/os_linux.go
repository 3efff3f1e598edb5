package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/walsvc/walsvc/internal/limits"
)

// datasync is fdatasync: content and size, without times. EINTR is no outcome
// but says that there is none yet, so going on after it is not the retry of a
// failed sync; local file systems never return it.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if conn.Control(func(fd uintptr) {
		for {
			if failed = unix.Fdatasync(int(fd)); failed != unix.EINTR {
				return
			}
		}
	}) != nil {
		failed = fs.ErrClosed // Control has no other error, and does not say it in this word
	}
	if failed != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: failed}
	}
	return nil
}

// willNeed has the kernel read ahead into the page cache. It goes by reads one
// after the other itself, and takes those of a frame's directory, behind its
// blocks, for leaps.
func willNeed(f *os.File, off, n int64) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), off, n, unix.FADV_WILLNEED) })
}

// openDirect opens a file a second time, for direct writes. It returns nil
// without an error if the file system does not do them in blocks of 4 KiB, or,
// unless it is asked to try, if it does not say so.
func openDirect(path string, try bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Some take the flag and then fail the writes: those that tell their
	// alignment (Linux 6.1) are asked, before the first write poisons a volume.
	var st unix.Statx_t
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var asked error
	if err := conn.Control(func(fd uintptr) {
		asked = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	tells := asked == nil && st.Mask&unix.STATX_DIOALIGN != 0
	fits := func(align uint32) bool { return align != 0 && limits.BlockSize%align == 0 }
	if !tells && try || tells && fits(st.Dio_offset_align) && fits(st.Dio_mem_align) {
		return f, nil
	}
	return nil, f.Close()
}

// freeBytes counts in fragments, the unit of Bavail; file systems that do not
// say theirs count in blocks.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	for {
		if err := unix.Statfs(dir, &st); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		if st.Frsize > 0 {
			return st.Bavail * uint64(st.Frsize), nil
		}
		return st.Bavail * uint64(st.Bsize), nil
	}
}
