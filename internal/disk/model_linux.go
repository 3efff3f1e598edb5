package disk

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap blocks the goroutine's thread for at least d, if no signal comes, and ends
// soon after. By default the kernel adds 50 us to a wait, so that it can wake
// several threads at once; the thread keeps the finer setting, which costs
// nobody anything.
func nap(d time.Duration) {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // refused: the nap is a little longer
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // a signal only makes the rest be spun
}
