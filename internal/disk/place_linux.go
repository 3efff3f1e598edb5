package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLoops bounds how many loop devices are followed to the file behind them,
// each on a file system of its own.
const maxLoops = 4

// Locate returns what the operating system says of where dir lies. On systems
// other than Linux it returns errors.ErrUnsupported.
func Locate(dir string) (*Place, error) {
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	mounts := parseMounts(string(text))
	m, ok := mountOf(mounts, path)
	if !ok {
		return nil, fmt.Errorf("%s: no mount has it: %w", path, fs.ErrNotExist)
	}
	p := &Place{
		FileSystem: m.kind, Source: m.source, MountPoint: m.point, Root: m.root, Options: m.allOptions(),
		Kernel: sysRead("/proc/sys/kernel/osrelease"), Boot: sysRead("/proc/sys/kernel/random/boot_id"),
		Devices: []BlockDevice{},
	}
	s := &sysfs{root: "/sys", read: sysRead, list: sysList, real: sysReal}
	for range maxLoops {
		found := s.devices(numberOf(m))
		p.Devices = append(p.Devices, found...)
		i := slices.IndexFunc(found, func(d BlockDevice) bool { return d.Backing != "" })
		if i < 0 {
			break
		}
		if m, ok = mountOf(mounts, found[i].Backing); !ok {
			break
		}
	}
	return p, nil
}

// numberOf returns the device of a mount. File systems of many devices have a
// number that is none's, and say their first one as their source.
func numberOf(m mount) string {
	if !strings.HasPrefix(m.number, "0:") {
		return m.number
	}
	var st unix.Stat_t
	if unix.Stat(m.source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return m.number
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// CountersOf returns what a device of a Place has done, ok only if it Counts.
func CountersOf(d BlockDevice) (c Counters, ok bool) {
	if !d.Counts {
		return Counters{}, false
	}
	return parseStat(sysRead(filepath.Join("/sys/dev/block", d.Number, "stat")))
}

// sysRead, sysList and sysReal return nothing for what is not there: the files
// of /sys and /proc come and go with the kernel's version and its drivers.
func sysRead(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func sysList(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func sysReal(path string) string {
	at, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return at
}

// Shutdown ends the file system that dir lies on as a crash would, without a
// power cut: what was not made durable is dropped, its journal is not written
// out, and every operation fails with EIO until it is mounted anew. What the
// device has in its own cache stays there.
//
// ext4, xfs and f2fs can, for root; others return ENOTTY. It hits everybody who
// uses the file system.
func Shutdown(dir string) error {
	// FS_IOC_GOINGDOWN, and to leave what the journal has in memory there.
	const goingDown, noLogFlush = 0x8004587d, 2
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(d.Fd()), goingDown, noLogFlush)
	if err = errors.Join(err, d.Close()); err != nil {
		return &fs.PathError{Op: "shutdown", Path: dir, Err: err}
	}
	return nil
}
