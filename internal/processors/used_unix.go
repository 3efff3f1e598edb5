//go:build unix

package processors

import (
	"syscall"
	"time"
)

// used returns the time of processors that this process has taken so far.
func used() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
