//go:build !linux

package power

// A Mounted is a Disk that programs see, which none is here.
type Mounted struct{}

// Mount returns ErrNoFUSE.
func Mount(*Disk, string) (*Mounted, error) { return nil, ErrNoFUSE }

// Unmount has nothing to do.
func (*Mounted) Unmount() error { return nil }
