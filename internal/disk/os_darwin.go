package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync is F_FULLFSYNC, which is what os.File.Sync calls here: plain fsync
// leaves the bytes in the drive's volatile cache.
func datasync(f *os.File) error { return f.Sync() }

// willNeed does nothing: the kernel reads ahead as it sees fit.
func willNeed(*os.File, int64, int64) {}

// openDirect returns nil: there is no O_DIRECT, and F_NOCACHE is only advice.
func openDirect(string, bool) (*os.File, error) { return nil, nil }

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	for {
		if err := unix.Statfs(dir, &st); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		return st.Bavail * uint64(st.Bsize), nil
	}
}
