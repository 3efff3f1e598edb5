//go:build !linux && !darwin

package disk

import (
	"errors"
	"os"
)

// What is here lets the rest of walsvc build, its client above all. A volume
// cannot be opened for writing, since it cannot be locked.

func datasync(f *os.File) error { return f.Sync() }

func willNeed(*os.File, int64, int64) {}

func openDirect(string, bool) (*os.File, error) { return nil, nil }

func flock(*os.File) error { return errors.ErrUnsupported }

func unflock(*os.File) error { return errors.ErrUnsupported }

func freeBytes(string) (uint64, error) { return 0, errors.ErrUnsupported }
