package replay

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// Source is what a scan needs of a journal; *segment.Journal is one.
type Source interface {
	// Segments returns the IDs of the segments, oldest first.
	Segments() []segment.ID
	// Gaps returns the runs of segments that were released while others before them
	// are kept, oldest first.
	Gaps() []segment.Gap
	// Header returns a segment's header, verified; that of a gap's first one, too.
	Header(segment.ID) (*segment.SegmentHeader, error)
	// Reader opens a segment and pins it until the Reader is closed.
	Reader(segment.ID) (*segment.Reader, error)
}

// OldestRef returns the reference of the first frame of the oldest segment, as
// that segment's header states it; for a source without segments, the place
// where a volume's first frame will be.
func OldestRef(src Source) (segment.FrameRef, error) {
	ids := src.Segments()
	if len(ids) == 0 {
		return firstFrame(1, segment.Cut{}), nil
	}
	h, err := src.Header(ids[0])
	if err != nil {
		return segment.FrameRef{}, fmt.Errorf("oldest segment: %w", err)
	}
	return firstFrame(ids[0], h.Cut), nil
}

// Live reports whether ref points at a frame of the journal: one that verifies,
// has the sequence and the chain that ref states, and is not dead. A reference
// to a frame that was still in flight when it was taken may not be, after a
// crash: recovery may have cut the frame off, or moved it. The error is one of
// reading.
func Live(src Source, ref segment.FrameRef) (bool, error) {
	s := NewScanner(src, ref)
	live := s.Next()
	err := s.Close()
	if s.stop == stopError && !errors.Is(s.err, segment.ErrReleased) && !errors.Is(s.err, fs.ErrNotExist) {
		err = errors.Join(s.err, err)
	}
	if err != nil {
		return false, fmt.Errorf("look for frame %d at %s: %w", ref.Sequence, ref.Pos, err)
	}
	return live, nil
}

// firstFrame returns the reference of a segment's first frame.
func firstFrame(id segment.ID, cut segment.Cut) segment.FrameRef {
	return segment.FrameRef{
		Pos:      segment.Pos{Segment: id, Offset: limits.SegmentHeaderSize},
		Sequence: cut.Sequence + 1,
		Chain:    cut.Chain,
	}
}

// stop says why a scan ended.
type stop uint8

const (
	stopNot           stop = iota
	stopVoid               // there is no frame of this segment's life
	stopChain              // there is one that does not follow the one before
	stopDirectory          // its header verifies, its directory does not
	stopSegmentHeader      // this or the next segment's header does not verify
	stopMissing            // the next segment is not there, a later one is
	stopError              // it could not be read; nothing is known
)

// A Scanner reads frames in order. It verifies what a frame says of itself
// (header and directory; blocks are the caller's choice) and that it follows
// the one before: dense sequence, chain, a promise that is below its own
// sequence and never falls, a time that never falls. At the cut that a
// successor's header records it crosses into the successor, so that what is
// dead is never seen. It holds one Reader at a time and is for one goroutine.
//
// At a gap the scan ends as at a missing segment: what was in there, nobody needs, but
// a state is not rebuilt without it. A scan over gaps goes on behind each.
//
// At a clean end, where the newest segment holds no frame yet, Next may be
// called again later; any other end is final.
type Scanner struct {
	src    Source
	over   bool // gaps
	next   segment.FrameRef
	gap    segment.FrameRef // where the one begins that the scan ended at, or behind which; zero for none
	reader *segment.Reader  // of the segment of frame, later of the one of next
	dir    string           // the volume's, as far as it is known
	frame  *segment.Frame

	// The segment of next, as looked up when the scan came into it.
	entered   segment.ID
	successor *segment.SegmentHeader // nil: there is none, or blocked says why it is unknown
	blocked   error
	blockedBy stop

	promise uint64
	time    int64
	badSeal error // of frame
	stop    stop
	err     error
}

// NewScanner returns a Scanner whose first frame is the one at from, which has
// to have the sequence and the chain that from states.
func NewScanner(src Source, from segment.FrameRef) *Scanner {
	return &Scanner{src: src, next: from}
}

// Frame returns the frame that Next moved to. It is the caller's to keep.
func (s *Scanner) Frame() *segment.Frame { return s.frame }

// BadSeal returns what is wrong with the directory of the current frame, if that
// is a seal: then the frame has no Meta. A seal carries no commands but the
// segment's index, which is a cache, so the scan goes on behind it, provided
// that the successor proves that the seal was durable: that its header repeats
// the seal's checksum and that it holds a frame.
func (s *Scanner) BadSeal() error { return s.badSeal }

// Reader returns the Reader of the current frame's segment, for reading its
// blocks. It is valid until Next or Close.
func (s *Scanner) Reader() *segment.Reader { return s.reader }

// End returns where the next frame would be, and what would be expected of it.
func (s *Scanner) End() segment.FrameRef { return s.next }

// Err returns nil if Next returned false at a clean end: the newest segment
// holds no frame of its life there. A frame that does not verify or does not
// follow, also a missing one before the cut of a segment that has a successor,
// is a *segment.CorruptError; a segment released in the meantime is
// segment.ErrReleased; what cannot be read is the reader's error.
func (s *Scanner) Err() error {
	if s.stop == stopVoid && s.successor == nil && s.blocked == nil {
		return nil
	}
	return s.err
}

// Close gives the Reader back. The Scanner must not be used afterwards.
func (s *Scanner) Close() error {
	if s.reader == nil {
		return nil
	}
	err := s.reader.Close()
	s.reader = nil
	return err
}

// Next moves to the next frame and reports whether there is one.
func (s *Scanner) Next() bool {
	if s.stop != stopNot && s.Err() != nil {
		return false
	}
	s.stop, s.err = stopNot, nil
	for {
		if s.entered == 0 && len(s.src.Segments()) == 0 {
			return s.end(stopVoid, nil) // a new volume
		}
		if err := s.enter(); isCorrupt(err) {
			return s.end(stopSegmentHeader, err)
		} else if err != nil {
			return s.end(stopError, err)
		}
		if s.successor != nil && follows(s.next, s.successor.Cut) {
			if !s.cross() {
				return false
			}
			continue
		}
		if s.successor != nil && s.next.Pos.Compare(s.successor.Cut.End) >= 0 {
			return s.end(stopChain, &segment.CorruptError{
				Path: s.reader.Path(), Pos: s.next.Pos, Err: segment.ErrNoFrame,
				Reason: fmt.Sprintf("it is behind the cut at %s", s.successor.Cut.End),
			})
		}
		f, err := s.reader.Frame(s.next.Pos.Offset)
		if err != nil && s.successor == nil && s.blocked == nil && s.found() {
			continue // the segment was sealed since the scan came into it
		}
		return s.take(f, err)
	}
}

// cross moves next into the successor, and over the gap that it is in. It reports
// whether there is anything.
func (s *Scanner) cross() bool {
	gap, found := gapAt(s.src, s.successor.ID)
	if found {
		s.gap = s.next
	}
	s.next = firstFrame(s.successor.ID, s.successor.Cut)
	switch {
	case !found:
		return true
	case !s.over:
		return s.end(stopMissing, &segment.CorruptError{
			Path: s.path(gap.From), Pos: segment.Pos{Segment: gap.From},
			Reason: fmt.Sprintf("the segments %s were released", gap), Err: segment.ErrMissingSegment,
		})
	}
	// Listed, and not just asked for: of one that is not there a volume in use says that it
	// was released since. If it was, the gap is a longer one by now.
	ids := s.src.Segments()
	if now, found := gapAt(s.src, gap.From); found {
		gap = now
	}
	next := gap.To + 1
	if _, listed := slices.BinarySearch(ids, next); !listed {
		s.next = firstFrame(next, segment.Cut{})
		return s.end(stopMissing, &segment.CorruptError{
			Path: s.path(next), Pos: segment.Pos{Segment: next}, Reason: "it is not there", Err: segment.ErrMissingSegment,
		})
	}
	h, err := s.src.Header(next)
	switch {
	case isCorrupt(err):
		s.next = firstFrame(next, segment.Cut{})
		return s.end(stopSegmentHeader, err)
	case err != nil:
		return s.end(stopError, err)
	}
	s.next, s.gap = firstFrame(h.ID, h.Cut), segment.FrameRef{}
	return true
}

// gapAt returns the gap that a segment is in.
func gapAt(src Source, id segment.ID) (segment.Gap, bool) {
	gaps := src.Gaps()
	i, _ := slices.BinarySearchFunc(gaps, id, func(g segment.Gap, id segment.ID) int { return cmp.Compare(g.To, id) })
	if i == len(gaps) || gaps[i].From > id {
		return segment.Gap{}, false
	}
	return gaps[i], true
}

// enter makes the reader and the successor those of the segment of next.
func (s *Scanner) enter() error {
	id := s.next.Pos.Segment
	if s.entered != id {
		s.successor, s.blocked, s.blockedBy = nil, nil, stopNot
		s.lookUp(id)
		s.entered = id
	}
	if s.reader != nil && s.reader.Header().ID == id {
		return nil
	}
	if s.successor != nil && follows(s.next, s.successor.Cut) {
		return nil // nothing is read here
	}
	if err := s.Close(); err != nil {
		return err
	}
	r, err := s.src.Reader(id)
	if err != nil {
		return fmt.Errorf("segment %s: %w", id, err)
	}
	s.reader, s.dir = r, filepath.Dir(r.Path())
	return nil
}

// found looks for a successor that was not there when the scan came into the
// segment, and reports whether there is one now.
func (s *Scanner) found() bool {
	s.lookUp(s.entered)
	return s.successor != nil || s.blocked != nil
}

// lookUp finds the successor of segment id. One that is named but cannot be
// read leaves the end of id unknown: the scan goes on to the seal or the first
// hole, and says then what stands in the way.
func (s *Scanner) lookUp(id segment.ID) {
	ids := s.src.Segments()
	i, _ := slices.BinarySearch(ids, id+1)
	if i == len(ids) {
		return
	}
	gap, released := gapAt(s.src, id+1)
	h, err := s.src.Header(id + 1)
	switch {
	case released && gap.From <= id: // in a volume in use, while it still has its name
		s.blocked, s.blockedBy = fmt.Errorf("segment %s: %w", id, segment.ErrReleased), stopError
	case ids[i] != id+1 && (!released || err != nil):
		s.blockedBy = stopMissing
		s.blocked = &segment.CorruptError{
			Path: s.path(id + 1), Pos: segment.Pos{Segment: id + 1},
			Reason: fmt.Sprintf("the next segment is %s", ids[i]), Err: segment.ErrMissingSegment,
		}
	case isCorrupt(err):
		s.blocked, s.blockedBy = err, stopSegmentHeader
	case err != nil:
		s.blocked, s.blockedBy = err, stopError
	default:
		s.successor = h
	}
}

// take judges what was read at next.
func (s *Scanner) take(f *segment.Frame, err error) bool {
	switch {
	case errors.Is(err, segment.ErrBadDirectory):
		proven, lerr := s.provenSeal(f)
		if lerr != nil {
			return s.end(stopError, lerr)
		}
		if !proven {
			return s.end(stopDirectory, err)
		}
		f.Blocks, f.Meta = nil, nil
	case errors.Is(err, segment.ErrNoFrame):
		if s.blocked != nil {
			return s.end(s.blockedBy, s.blocked)
		}
		return s.end(stopVoid, err)
	case err != nil:
		return s.end(stopError, err)
	}
	if reason := s.misfit(&f.Header); reason != "" {
		return s.end(stopChain, &segment.CorruptError{
			Path: s.reader.Path(), Pos: f.Pos, Reason: reason, Err: segment.ErrNoFrame,
		})
	}
	s.frame, s.badSeal = f, err
	s.promise, s.time = f.Header.Promise, f.Header.Time
	s.next = segment.FrameRef{Pos: f.End(), Sequence: f.Header.Sequence + 1, Chain: f.Header.Checksum}
	return true
}

// provenSeal reports whether f, whose directory does not verify, is the seal that
// the successor says ends the segment, and was durable.
func (s *Scanner) provenSeal(f *segment.Frame) (bool, error) {
	if f.Header.Kind != segment.KindSeal || s.successor == nil {
		return false, nil
	}
	cut := s.successor.Cut
	if cut.Last != f.Pos || cut.End != f.End() || cut.Sequence != f.Header.Sequence || cut.Chain != f.Header.Checksum {
		return false, nil
	}
	if _, released := gapAt(s.src, s.successor.ID); released {
		return true, nil // only what something lies behind is released
	}
	return Live(s.src, firstFrame(s.successor.ID, cut))
}

// misfit says why a verified header is not that of the next frame, or "".
func (s *Scanner) misfit(h *segment.Header) string {
	switch {
	case h.Sequence != s.next.Sequence:
		return fmt.Sprintf("sequence %d, want %d", h.Sequence, s.next.Sequence)
	case h.Chain != s.next.Chain:
		return fmt.Sprintf("chain %08x, want %08x", h.Chain, s.next.Chain)
	case h.Promise >= h.Sequence:
		return fmt.Sprintf("frame %d promises frame %d", h.Sequence, h.Promise)
	case h.Promise < s.promise:
		return fmt.Sprintf("promise fell from %d to %d", s.promise, h.Promise)
	case h.Time < s.time:
		return fmt.Sprintf("time fell from %d to %d", s.time, h.Time)
	}
	return ""
}

func (s *Scanner) end(why stop, err error) bool {
	s.stop, s.err = why, err
	return false
}

// again forgets why the scan ended and tries once more: what did not verify in
// a volume in use may have been on its way to the disk.
func (s *Scanner) again() bool {
	if !s.gap.IsZero() {
		s.next, s.gap = s.gap, segment.FrameRef{}
	}
	s.stop, s.err = stopNot, nil
	s.entered = 0
	return s.Next()
}

// path returns the path of a segment of the volume that is being scanned: only
// its name as long as no segment was opened.
func (s *Scanner) path(id segment.ID) string {
	return filepath.Join(s.dir, fileName(id))
}

// fileName returns the name of a segment's file.
func fileName(id segment.ID) string { return id.String() + ".wal" }

// follows reports whether a run of frames that ends at end ends at the cut. The
// place alone would not do: a successor that outlived its predecessor's
// replacement must not be followed.
func follows(end segment.FrameRef, cut segment.Cut) bool {
	return end.Pos == cut.End && end.Sequence == cut.Sequence+1 && end.Chain == cut.Chain
}

// isCorrupt reports whether err is about bytes that do not verify, and not
// about bytes that could not be read.
func isCorrupt(err error) bool {
	var c *segment.CorruptError
	return errors.As(err, &c) && !errors.Is(err, segment.ErrNewerVersion) && !errors.Is(err, segment.ErrReleased)
}

// isUnread reports whether err is the disk's failure to read.
func isUnread(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && !errors.Is(err, fs.ErrNotExist)
}
