package segment

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors about volumes.
var (
	// ErrNotVolume: there is no volume in the directory: it is missing, or holds
	// no VOLUME file and no segment. A forgotten mount looks like this.
	ErrNotVolume = errors.New("not a walsvc volume")
	// ErrVolumeFileLost: there are segments, but no VOLUME file.
	ErrVolumeFileLost = errors.New("VOLUME file is missing beside segments")
	// ErrBadVolumeFile: the VOLUME file does not verify.
	ErrBadVolumeFile = errors.New("VOLUME file does not verify")
	// ErrExists: Create found a volume.
	ErrExists = errors.New("volume exists")
	// ErrBadName: an entry of the directory is named almost as walsvc names its files.
	ErrBadName = errors.New("malformed file name")
	// ErrMissingSegment: the IDs of the segments have a gap.
	ErrMissingSegment = errors.New("segment missing")
)

// Errors of a journal in use.
var (
	// ErrPoisoned: a write or sync failed earlier; only opening the volume anew helps.
	ErrPoisoned = errors.New("journal poisoned")
	// ErrNoSpace: there is no written space for it, and none can be had now.
	// Nothing was written; it is no poison.
	ErrNoSpace = errors.New("no space for the journal")
	// ErrPreparing: there is no written space for it yet, but a spare is being
	// prepared: Journal.WaitSpace waits for it.
	ErrPreparing = errors.New("no spare segment ready yet")
	// ErrCrowded: there is written space for it once what was admitted before is
	// appended.
	ErrCrowded = errors.New("too many frames are under way for the segments that are ready")
	// ErrTooLarge: a frame is over a limit. Nothing was written.
	ErrTooLarge = errors.New("frame too large")
	// ErrReadOnly: the journal was opened to be looked at.
	ErrReadOnly = errors.New("journal opened read-only")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal closed")
	// ErrNotResumed: Resume comes first.
	ErrNotResumed = errors.New("journal not resumed")
)

// A PoisonedError carries the first failure of a journal in use. It Is
// ErrPoisoned, and Is what the cause is.
type PoisonedError struct {
	Op    string // what was being done, and to what
	Cause error
}

// Error implements error.
func (e *PoisonedError) Error() string { return fmt.Sprintf("%v: %s: %v", ErrPoisoned, e.Op, e.Cause) }

// Unwrap returns ErrPoisoned and the cause.
func (e *PoisonedError) Unwrap() []error { return []error{ErrPoisoned, e.Cause} }

// isFull reports whether an operation failed for want of space, which is a
// refusal and no verdict on the disk.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
