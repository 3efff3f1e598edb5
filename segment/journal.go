package segment

import (
	"context"
	"errors"

	"github.com/oklog/ulid/v2"
)

// Written says where a frame went.
type Written struct {
	Ref    FrameRef
	Header Header
	// Rolled: the frame begins a new segment, and the seal of the one before is durable.
	Rolled bool
}

// Resume says how a journal goes on after recovery looked at its end.
type Resume struct {
	// Cut ends what is kept where it lies; the fresh segment's header records
	// it, and everything behind it is dead for ever.
	Cut Cut
	// Rewrite holds frames from behind the cut whose payload is kept: they are
	// written into the fresh segment with sequences from Cut.Sequence+1. Their
	// own kind must not be KindSeal.
	Rewrite []Draft
	// DeadFrom is where the last valid frame of the newest segment ends, kept
	// or rewritten: on a full disk the dead space behind it is given up to make
	// room for the fresh segment. Zero: nothing may be given up.
	DeadFrom Pos
	// Snapshot and OlderSnapshot go into the fresh segment's header; see
	// Journal.SetSnapshots. Neither may point behind the cut.
	Snapshot, OlderSnapshot FrameRef
}

// Space says what there is room for, in bytes of frames on disk.
type Space struct {
	Segments, Spares int
	// Remaining is what the current segment still takes, its seal's room
	// subtracted.
	Remaining int64
	// Usable is Remaining and what the spares take.
	Usable int64
	// Reserve is the part of Usable that only callers with reserve set may
	// take; see Journal.Admit.
	Reserve int64
	// PrepareError is why the last preparation of a spare failed; nil before
	// the first and after one that succeeded.
	PrepareError error
}

// A Journal is the open run of segments of a volume.
type Journal struct{}

// Create makes a new volume in o.Dir.
func Create(o Options) error { return errors.ErrUnsupported }

// Open opens a volume.
func Open(o Options) (*Journal, error) { return nil, errors.ErrUnsupported }

// Volume returns the volume's identity.
func (j *Journal) Volume() ulid.ULID { return ulid.ULID{} }

// SegmentSize returns the size of the volume's segments in bytes.
func (j *Journal) SegmentSize() int64 { return 0 }

// MaxFrame returns the largest frame a fresh segment takes.
func (j *Journal) MaxFrame() int64 { return 0 }

// Strangers returns the names that are not walsvc's.
func (j *Journal) Strangers() []string { return nil }

// Segments returns the IDs, oldest first, without a gap.
func (j *Journal) Segments() []ID { return nil }

// Header returns a segment's header.
func (j *Journal) Header(id ID) (*SegmentHeader, error) { return nil, ErrReleased }

// Reader opens a segment for reading and pins it.
func (j *Journal) Reader(id ID) (*Reader, error) { return nil, ErrReleased }

// Resume begins a fresh segment behind r.Cut and returns the references of the rewritten frames.
func (j *Journal) Resume(r Resume) ([]FrameRef, error) { return nil, errors.ErrUnsupported }

// Append writes one frame.
func (j *Journal) Append(d *Draft) (Written, error) { return Written{}, errors.ErrUnsupported }

// Sync makes everything appended durable.
func (j *Journal) Sync() error { return errors.ErrUnsupported }

// Durable returns the sequence up to which frames are durable.
func (j *Journal) Durable() uint64 { return 0 }

// SetSnapshots sets what headers of segments begun from now on record.
func (j *Journal) SetSnapshots(newest, older FrameRef) {}

// Release gives up the segments below before.
func (j *Journal) Release(before ID) error { return errors.ErrUnsupported }

// Space returns what there is room for.
func (j *Journal) Space() Space { return Space{} }

// Admit reports whether frames of together pending bytes on disk can be written.
func (j *Journal) Admit(pending int64, reserve bool) error { return errors.ErrUnsupported }

// WaitSpare waits until a spare beyond the reserve is there, or preparing failed.
func (j *Journal) WaitSpare(ctx context.Context) error { return errors.ErrUnsupported }

// Poisoned returns nil, or the *PoisonedError that ended the journal.
func (j *Journal) Poisoned() error { return nil }

// Close ends the journal's use.
func (j *Journal) Close() error { return nil }
