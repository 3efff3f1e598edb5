//go:build linux || darwin

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// flock takes the exclusive lock of f, or returns ErrLocked. The lock belongs
// to the open file, so a second opener in this process is refused like one in
// another; POSIX record locks would let it in, and drop the lock when any
// descriptor of the file is closed.
func flock(f *os.File) error { return flockHow(f, unix.LOCK_EX|unix.LOCK_NB) }

// unflock gives the lock of f back, for all descriptors of the open file.
func unflock(f *os.File) error { return flockHow(f, unix.LOCK_UN) }

func flockHow(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = unix.Flock(int(fd), how); failed != unix.EINTR {
				return
			}
		}
	})
	switch {
	case err != nil:
		return err
	case failed == unix.EWOULDBLOCK:
		return ErrLocked
	}
	return failed
}
