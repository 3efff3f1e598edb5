package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Remount takes the file system of a Place away and mounts it again in the same
// place with the same options, so that nothing of it is left in memory but on a
// device: after Shutdown this is what a restart finds.
//
// It returns ErrShared, and leaves it mounted, if anybody else uses it. It needs
// root. If mounting fails the file system is left unmounted, and the error says so.
func Remount(p *Place) (err error) {
	device := p.Source
	// A loop device may be made to go when its last user goes.
	hold, err := os.Open(device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	if err := unix.Unmount(p.MountPoint, unix.UMOUNT_NOFOLLOW); err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: %w", ErrShared, err)
		}
		return &fs.PathError{Op: "umount", Path: p.MountPoint, Err: err}
	}
	// A mount in another namespace would have kept the file system alive, and
	// with it the pages in memory. A file system holds its device for itself.
	shared := freeDevice(device)
	if shared == nil {
		shared = dropCache(hold)
	}
	flags, data := mountFlags(p.Options)
	if err := unix.Mount(device, p.MountPoint, p.FileSystem, flags, data); err != nil {
		err = &fs.PathError{Op: "mount", Path: p.MountPoint, Err: err}
		return errors.Join(shared, fmt.Errorf("%w; it is left unmounted: mount -t %s %s %s", err, p.FileSystem, device, p.MountPoint))
	}
	return shared
}

// releaseDelay is how long the kernel may take to let go of a device after its
// file system is unmounted: the last steps are done behind the caller's back.
const releaseDelay = 5 * time.Second

// freeDevice waits until nobody holds a device for himself.
func freeDevice(device string) error {
	for deadline := time.Now().Add(releaseDelay); ; {
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w: %w", device, ErrShared, err)
		}
		<-time.After(time.Millisecond)
	}
}

// dropCache empties what the kernel holds in memory of a device that nobody has
// mounted.
func dropCache(device *os.File) error {
	if err := unix.IoctlSetInt(int(device.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return &fs.PathError{Op: "flush buffers of", Path: device.Name(), Err: err}
	}
	return nil
}

// flagOf are the options of a mount that the kernel takes as flags.
var flagOf = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "noatime": unix.MS_NOATIME,
	"nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "lazytime": unix.MS_LAZYTIME,
	"mand": unix.MS_MANDLOCK, "nosymfollow": unix.MS_NOSYMFOLLOW, "strictatime": unix.MS_STRICTATIME,
}

// mountFlags splits options as Place has them into flags and the file system's own.
func mountFlags(options []string) (flags uintptr, data string) {
	// These are said and not taken: the first by default, the other by a
	// security module.
	own := slices.DeleteFunc(slices.Clone(options), func(o string) bool {
		flags |= flagOf[o]
		return o == "rw" || o == "seclabel" || flagOf[o] != 0
	})
	return flags, strings.Join(own, ",")
}
