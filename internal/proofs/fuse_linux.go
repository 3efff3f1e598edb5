package proofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// probeFUSE mounts a file system that nobody answers for, and takes it away
// again: by itself, and if it may not, by fusermount3.
func probeFUSE() error {
	return inside(func(dir string) error {
		device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", device.Fd(), os.Geteuid(), os.Getegid())
		err = syscall.Mount("proofs", dir, "fuse", syscall.MS_NODEV|syscall.MS_NOSUID, options)
		if err != nil {
			if other := fusermount(dir); other != nil {
				return errors.Join(fmt.Errorf("mount: %w", err), other, device.Close())
			}
			return device.Close()
		}
		return errors.Join(syscall.Unmount(dir, syscall.MNT_DETACH), device.Close())
	})
}

// fusermount asks the program that has the right to mount for those who have
// not. It wants a socket to send /dev/fuse through.
func fusermount(dir string) (err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer func() { err = errors.Join(err, ours.Close(), theirs.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "fusermount3", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3: %w %s", err, out)
	}
	_, err = run("fusermount3", "-u", "-z", dir)
	return err
}
