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
func flock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB); failed != unix.EINTR {
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
