package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// readerGone reports whether w is a pipe or a socket that nobody reads any more. Writing
// would tell, but whoever follows a log on which nothing happens does not write.
func readerGone(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
}
