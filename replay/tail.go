package replay

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// scanToEnd lets take have every frame up to the end of the scan, and judges the
// end. promise points at the highest promise of the run, which take keeps up to
// date. For all, see gather.
func scanToEnd(src Source, s *Scanner, promise *uint64, all bool, take func() error) (*evidence, Rule, error) {
	var again segment.FrameRef
	for {
		for s.Next() {
			if err := take(); err != nil {
				return nil, Rule{}, err
			}
		}
		*promise = max(*promise, cutProof(s))
		e, err := gather(src, s, *promise, all)
		if err != nil {
			return nil, Rule{}, err
		}
		rule := decide(e)
		if rule.Verdict != VerdictDamaged || again == s.End() {
			return e, rule, nil
		}
		// In a volume in use a frame may have landed between the look at its
		// place and the look behind it: before it is called damage, look again.
		again = s.End()
		if s.again() {
			if err := take(); err != nil {
				return nil, Rule{}, err
			}
		}
	}
}

// cutProof returns the sequence up to which the cut that a scan ended at, or did
// not get to, proves that everything was durable. A header that a roll wrote
// records a seal that was not written yet, but everything before it was synced;
// one that recovery wrote records what had been found promised. A scan that ended at a
// gap, or behind it, had come to the cut.
func cutProof(s *Scanner) uint64 {
	f := s.frame
	switch {
	case s.successor != nil && s.gap.IsZero():
		return max(s.successor.Cut.Sequence, 1) - 1
	case f == nil || f.Pos.Segment == s.next.Pos.Segment:
		return 0
	case f.Header.Kind == segment.KindSeal:
		return f.Header.Sequence - 1
	}
	return f.Header.Sequence
}

// gather collects the evidence at the end of a scan and behind it. promise is
// the highest one of the run. If all is set, everything behind the hole is
// searched; otherwise the search ends at the first proof that the hole's frame
// was durable. The error is one of reading: then nothing is known.
func gather(src Source, s *Scanner, promise uint64, all bool) (*evidence, error) {
	if s.stop == stopError {
		return nil, s.err
	}
	e := &evidence{end: s.End(), stop: s.stop, err: s.err, promise: promise}
	e.path = s.path(e.end.Pos.Segment)
	if f := s.frame; f != nil {
		e.covered = f.Header.Kind == segment.KindPromise && f.Header.Promise+1 == f.Header.Sequence
		e.sealed = f.Header.Kind == segment.KindSeal && f.Pos.Segment == e.end.Pos.Segment
	}
	if s.stop == stopMissing || s.stop == stopSegmentHeader {
		if s.reader == nil || s.reader.Header().ID != e.end.Pos.Segment {
			return e, nil // it is the hole's own segment that cannot be read
		}
		// Without the cut that the successor's header records, nobody knows which of
		// the frames behind the hole are dead. But one that promises the hole's
		// frame proves that the segment does not end here.
		e.stop, e.err = stopVoid, nil
	}
	ids := src.Segments()
	e.newest = s.successor == nil && s.blocked == nil
	if err := e.lookBehind(s, all); err != nil {
		return nil, err
	}
	switch {
	case s.blocked != nil && !e.promised():
		e.stop, e.err = s.blockedBy, s.blocked
		return e, nil
	case s.blocked != nil, e.newest, !all && e.promised() && e.behind > 0:
		return e, nil
	}
	i, _ := slices.BinarySearch(ids, e.end.Pos.Segment+1)
	for _, id := range ids[i:] {
		if err := e.lookLater(src, id, all); err != nil || e.later && !all {
			return e, err
		}
	}
	return e, nil
}

// lookBehind searches the hole's segment.
func (e *evidence) lookBehind(s *Scanner, all bool) error {
	hole := e.end.Pos.Offset
	if e.stop == stopVoid {
		sequence, chain, ok, err := s.reader.Peek(hole)
		if err != nil {
			return err
		}
		e.header = ok && sequence == e.end.Sequence && chain == e.end.Chain
		if e.header {
			e.headerEnd = hole + limits.BlockSize // its lengths are not to be believed
		}
	}
	if e.newest {
		var err error
		if e.short, err = s.reader.CutShort(); err != nil {
			return err
		}
	}
	live := s.reader.Header().Size
	if s.successor != nil && s.successor.Cut.End.Segment == e.end.Pos.Segment {
		live = s.successor.Cut.End.Offset
	}
	return s.reader.Lookahead(hole, func(h segment.Header, off int64) bool {
		// What is dead is no loss, but what it promised stays true.
		e.promise = max(e.promise, h.Promise)
		switch {
		case off == hole && e.stop == stopDirectory:
			e.headerEnd = off + h.Size()
		case off < live:
			e.behind++
			e.behindEnd = off + h.Size()
		}
		return all || !e.promised()
	})
}

// lookLater searches a segment behind the hole's.
func (e *evidence) lookLater(src Source, id segment.ID, all bool) error {
	r, err := src.Reader(id)
	switch {
	case isCorrupt(err):
		if !e.promised() {
			e.stop, e.err = stopSegmentHeader, err
		}
		return nil
	case err != nil:
		return fmt.Errorf("segment %s: %w", id, err)
	}
	err = r.Lookahead(limits.SegmentHeaderSize, func(h segment.Header, _ int64) bool {
		e.later = true
		e.promise = max(e.promise, h.Promise)
		return all
	})
	return errors.Join(err, r.Close())
}

// discarded returns the bytes from the hole to the end of the last frame behind it.
func (e *evidence) discarded() int64 {
	return max(e.behindEnd, e.headerEnd, e.end.Pos.Offset) - e.end.Pos.Offset
}

// damage describes what rule says is damaged.
func (e *evidence) damage(rule Rule, path func(segment.ID) string) Damage {
	d := Damage{Path: e.path, Pos: e.end.Pos, Sequence: e.end.Sequence, Case: rule.Case, Err: e.err}
	switch rule.Case {
	case CaseMissingSegment, CaseDamagedSegmentHeader:
		d.Sequence = 0
		var c *segment.CorruptError
		if errors.As(e.err, &c) {
			d.Path, d.Pos, d.Detail = c.Path, c.Pos, fmt.Sprintf("%s: %v", c.Reason, c.Err)
		}
	case CaseSealedLast:
		next := e.end.Pos.Segment + 1
		d.Path, d.Pos, d.Sequence, d.Err = path(next), segment.Pos{Segment: next}, 0, nil
		d.Detail = fmt.Sprintf("segment %s is sealed, its successor is missing", e.end.Pos.Segment)
	case CaseCutShort:
		d.Detail = "the file ends before the size that its header records"
	case CaseDamagedDirectory:
		d.Detail = "its directory does not verify, and something later says that it was durable"
	case CaseDamagedHeader:
		d.Detail = "it does not verify, and something later says that it was durable"
	case CaseShortPredecessor:
		d.Detail = "the segment's frames end here, before the cut that its successor records, which holds frames"
	}
	return d
}
