package proofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// patience bounds a command of a probe.
const patience = time.Minute

// run runs a command of the machine and returns what it printed.
func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		name = path // not everybody looks there, and not everybody needs to
	}
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	said := strings.TrimSpace(string(out))
	if err != nil {
		return said, fmt.Errorf("%s: %w %s", name, err, said)
	}
	return said, nil
}

// inside calls a function with an empty directory of its own.
func inside(f func(dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "proofs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return f(dir)
}

func probeRoot() error {
	if id := os.Geteuid(); id != 0 {
		return fmt.Errorf("the user ID is %d", id)
	}
	return nil
}

func probeMount() error {
	return inside(func(dir string) error {
		if _, err := run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir); err != nil {
			return err
		}
		_, err := run("umount", dir)
		return err
	})
}

// image makes a file of a size that takes no room.
func image(dir string, size int64) (string, error) {
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", err
	}
	return path, os.Truncate(path, size)
}

func probeLoop() error {
	return inside(func(dir string) error {
		path, err := image(dir, 1<<20)
		if err != nil {
			return err
		}
		device, err := run("losetup", "--find", "--show", path)
		if err != nil {
			return err
		}
		_, err = run("losetup", "--detach", device)
		return err
	})
}

func probeImage(fileSystem string, size int64) error {
	return inside(func(dir string) error {
		path, err := image(dir, size)
		if err != nil {
			return err
		}
		if _, err := run("mkfs."+fileSystem, "-q", path); err != nil {
			return err
		}
		on := filepath.Join(dir, "mount")
		if err := os.Mkdir(on, 0o700); err != nil {
			return err
		}
		if _, err := run("mount", "-t", fileSystem, "-o", "loop", path, on); err != nil {
			return err
		}
		_, err = run("umount", on)
		return err
	})
}

func probeCPULatency() error {
	f, err := os.OpenFile("/dev/cpu_dma_latency", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}
