package replay

import (
	"errors"

	"github.com/walsvc/walsvc/segment"
)

// Source is what a scan needs of a journal; *segment.Journal is one.
type Source interface {
	// Segments returns the IDs of the segments, oldest first.
	Segments() []segment.ID
	// Header returns a segment's header, verified.
	Header(segment.ID) (*segment.SegmentHeader, error)
	// Reader opens a segment and pins it until the Reader is closed.
	Reader(segment.ID) (*segment.Reader, error)
}

// A Scanner reads frames in order, across segments.
type Scanner struct{}

// NewScanner returns a Scanner that begins at from.
func NewScanner(src Source, from segment.FrameRef) *Scanner { return &Scanner{} }

// Next moves to the next frame.
func (s *Scanner) Next() bool { return false }

// Frame returns the frame that Next moved to.
func (s *Scanner) Frame() *segment.Frame { return nil }

// Reader returns the Reader of the frame's segment.
func (s *Scanner) Reader() *segment.Reader { return nil }

// Err returns why Next returned false.
func (s *Scanner) Err() error { return errors.ErrUnsupported }

// End returns where the next frame would be.
func (s *Scanner) End() segment.FrameRef { return segment.FrameRef{} }

// Close gives the Reader back.
func (s *Scanner) Close() error { return nil }

// OldestRef returns the reference of the oldest segment's first frame.
func OldestRef(src Source) (segment.FrameRef, error) {
	return segment.FrameRef{}, errors.ErrUnsupported
}

// A Fetcher reads frames at known places. Safe for concurrent use.
type Fetcher struct{}

// NewFetcher returns a Fetcher over src.
func NewFetcher(src Source) *Fetcher { return &Fetcher{} }

// Frame reads the frame at pos.
func (f *Fetcher) Frame(pos segment.Pos) (*segment.Frame, error) { return nil, errors.ErrUnsupported }

// Stored appends the verified stored bytes of a block to dst.
func (f *Fetcher) Stored(fr *segment.Frame, block int, dst []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Open appends the verified and decompressed bytes of a block to dst.
func (f *Fetcher) Open(fr *segment.Frame, block int, dst []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Close gives all Readers back.
func (f *Fetcher) Close() error { return nil }

// A Handler rebuilds the caller's state from what the scan finds.
type Handler interface {
	// Begin says that a scan starts: forget what came before. fromSnapshot is
	// false when the scan starts at the beginning of the volume's history, so
	// that no snapshot is needed.
	Begin(from segment.FrameRef, fromSnapshot bool)
	// Frame takes every frame in order: those kept where they lie, of all
	// kinds, then those that are rewritten, with the place and the sequence
	// that Journal.Resume gives them. open reads, verifies and decompresses one
	// of the frame's blocks; it is valid until Frame returns.
	Frame(f *segment.Frame, open func(block int) ([]byte, error)) error
	// End is called after the last frame; an error that Is ErrNoState sends the
	// scan to the older snapshot.
	End() error
}

// Recovery is what a scan found.
type Recovery struct {
	Verdict         Verdict
	Case            Case
	From            segment.FrameRef
	Frames          int
	Last            uint64
	Promised        uint64
	DiscardedFrames int
	DiscardedBytes  int64
	Damage          []Damage
	MoreDamage      int
	ReadOnly        bool
	Resume          segment.Resume
	Detail          string
}

// Recover scans src from its newest snapshot.
func Recover(src Source, h Handler) (*Recovery, error) { return nil, errors.ErrUnsupported }

// WalkOptions configures Walk; the zero value is fine.
type WalkOptions struct {
	// Progress is called now and then with bytes of segments; may be nil.
	Progress func(done, total int64)
}

// Walk checks every frame, directory and block from the oldest segment on.
func Walk(src Source, o WalkOptions, fn func(f *segment.Frame, blockErrs []error) error) (*Recovery, error) {
	return nil, errors.ErrUnsupported
}
