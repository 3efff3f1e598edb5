package bench

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// preallocate reserves the blocks of a file without writing them. It is here
// and not in internal/disk because no part of walsvc does it: it gains nothing,
// which is what the table is there to show.
func preallocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		err = &fs.PathError{Op: "fallocate", Path: path, Err: err}
	}
	return errors.Join(err, f.Close())
}

// takesDirect reports whether a written file takes writes past the page cache.
// internal/disk falls back to the page cache silently, and would then be
// measured under the wrong name.
func takesDirect(path string) bool {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return false
	}
	_, err = f.WriteAt(disk.AlignedBuffer(limits.BlockSize), 0)
	return errors.Join(err, f.Close()) == nil
}

// evict makes what is cached of a file go, as after a reboot. What was written
// to it and not synced is synced: else it would stay.
func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return errors.Join(err, f.Close())
}

// sleepExactly has the thread woken when it asked to be, instead of up to 50 us
// later together with others. For a goroutine that is locked to its thread.
func sleepExactly() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // else it is late, which is measured
}

// sleep sleeps in the kernel, for less if it is disturbed.
func sleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil)
}
