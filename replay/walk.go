package replay

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// WalkOptions configures Walk; the zero value is fine.
type WalkOptions struct {
	// Progress is called for every frame, and at the end, with the bytes of
	// segments that were looked at and those there are. Nil: nobody asks.
	Progress func(done, total int64)
	// Block is called for every block, in order, with its bytes, or with nil if it
	// does not verify. They are valid until it returns. An error makes the block a
	// bad one; it should be a *segment.CorruptError that Is segment.ErrBadBlock,
	// whose place is filled in. Nil: what verifies is good.
	Block func(f *segment.Frame, block int, raw []byte) error
	// Dropped is called when the walk leaves out frames whose blocks Block has seen, all
	// that fn has not been given: they are dead, or nobody knows. Nil: nobody asks.
	Dropped func()
}

// Walk checks every frame, directory and block of a journal, from the oldest
// segment to the newest, and reports all damage that it finds: behind a damaged
// frame it goes on at the next one of the segment that verifies, or with the
// next segment. fn gets every frame in order, with the place and the sequence
// it has; blockErrs is nil if all of its blocks verify and decompress, else it
// has an entry for each, nil for a good one. Frames that recovery would discard
// are not among them. An error of fn ends the walk and is returned, wrapped.
//
// The tail is judged as Recover would, and nothing is written. The Recovery has
// no Resume; its From is the oldest segment's first frame. ReadOnly says that
// frames are lost, not that Recover would say so: damage below the newest
// snapshot does not keep a volume from opening.
//
// A gap is no damage: what was in there was released.
//
// On a volume in use, what lies behind the durable end may be on its way to the
// disk, and looks torn. A segment that was released meanwhile is passed over.
func Walk(src Source, o WalkOptions, fn func(f *segment.Frame, blockErrs []error) error) (*Recovery, error) {
	w := walk{src: src, o: o, fn: fn, rec: &Recovery{}}
	if err := w.run(); err != nil {
		return nil, fmt.Errorf("walk: %w", err)
	}
	return w.rec, nil
}

// A walk is one Walk. Its pending frames wait for their promise as an attempt's
// do: a bad block of an unpromised frame is no damage, but the end.
type walk struct {
	src Source
	o   WalkOptions
	fn  func(f *segment.Frame, blockErrs []error) error
	rec *Recovery

	pending []checked
	promise uint64

	before map[segment.ID]int64 // bytes of the segments before each
	total  int64

	stored, raw []byte // the last block, for its memory
}

// checked is a frame with what its blocks' verification said.
type checked struct {
	*segment.Frame
	errs []error
	path string // if there are errs
}

func (w *walk) run() error {
	ids := w.src.Segments()
	if len(ids) == 0 {
		w.rec.From = firstFrame(1, segment.Cut{})
		w.rec.settle(CaseEmpty)
		return nil
	}
	w.before = make(map[segment.ID]int64, len(ids))
	for _, id := range ids {
		w.before[id] = w.total
		switch h, err := w.src.Header(id); {
		case err == nil:
			w.total += h.Size
		case !isCorrupt(err) && !errors.Is(err, segment.ErrReleased):
			return err
		}
	}
	from, ok, err := w.nextSegment(0)
	w.rec.From = from
	tail := CaseDamagedSegmentHeader // if no segment's verifies
	for ok && err == nil {
		tail, from, ok, err = w.stretch(from)
	}
	if err != nil {
		return err
	}
	w.rec.Promised = w.promise
	if o := w.o.Progress; o != nil {
		o(w.total, w.total)
	}
	w.rec.settle(tail)
	return nil
}

// stretch walks from from to the next hole. It returns how that one is judged,
// and where to go on, if it is not the end.
func (w *walk) stretch(from segment.FrameRef) (_ Case, next segment.FrameRef, more bool, err error) {
	s := NewScanner(w.src, from)
	s.over = true
	defer func() { err = errors.Join(err, s.Close()) }()
	e, rule, err := scanToEnd(w.src, s, &w.promise, false, func() error { return w.take(s) })
	switch {
	case errors.Is(err, segment.ErrReleased):
		// What is promised may lie in a segment that is kept: it need not be gone as well.
		if err := w.keep(w.promise); err != nil {
			return "", next, false, err
		}
		w.drop()
		next, more, err = w.nextSegment(s.End().Pos.Segment)
		return CaseClean, next, more, err
	case err != nil:
		return "", next, false, err
	case rule.Verdict != VerdictDamaged:
		rule, err = w.finish(e)
		return rule.Case, next, false, err
	}
	if err := w.keep(e.promise); err != nil {
		return "", next, false, err
	}
	w.drop()
	w.rec.add(e.damage(rule, s.path))
	w.rec.ReadOnly = true
	next, more, err = w.resync(s, e)
	return rule.Case, next, more, err
}

// take checks the blocks of the scanner's frame.
func (w *walk) take(s *Scanner) error {
	f := s.Frame()
	if err := s.BadSeal(); err != nil {
		w.rec.add(badSeal(f, err))
	}
	c := checked{Frame: f}
	for i := range f.Blocks {
		err := w.check(s.Reader(), f, i)
		switch {
		case err == nil:
			continue
		case !isCorrupt(err) && (f.Header.Kind != segment.KindSnapshot || !isUnread(err)):
			return err
		case c.errs == nil:
			c.errs = make([]error, len(f.Blocks))
			c.path = s.Reader().Path()
		}
		c.errs[i] = err
		if w.o.Block != nil {
			_ = w.o.Block(f, i, nil) // it is bad already
		}
	}
	w.pending = append(w.pending, c)
	w.progress(s.Reader(), f.End())
	return w.keep(f.Header.Promise)
}

// progress tells how far the walk is.
func (w *walk) progress(r *segment.Reader, at segment.Pos) {
	if w.o.Progress == nil {
		return
	}
	before, ok := w.before[at.Segment]
	if !ok { // begun since the segments were listed
		before = w.total
		w.before[at.Segment] = before
		w.total += r.Header().Size
	}
	w.o.Progress(min(before+at.Offset, w.total), w.total)
}

// check verifies a block and decompresses it.
func (w *walk) check(r *segment.Reader, f *segment.Frame, block int) error {
	stored, err := r.Block(f, block, w.stored)
	if err != nil {
		return err
	}
	w.stored = stored
	raw, err := openStored(r.Path(), f, block, stored, w.raw)
	if err != nil {
		return err
	}
	w.raw = raw
	if w.o.Block == nil {
		return nil
	}
	err = w.o.Block(f, block, raw)
	var c *segment.CorruptError
	if errors.As(err, &c) {
		c.Path, c.Pos = r.Path(), f.Pos
	}
	return err
}

// keep hands over what is promised now.
func (w *walk) keep(promise uint64) error {
	w.promise = max(w.promise, promise)
	n := 0
	for _, c := range w.pending {
		if c.Header.Sequence > w.promise {
			break
		}
		n++
		for _, err := range c.errs {
			switch {
			case err == nil:
			case isCorrupt(err):
				w.rec.add(blockDamage(c.Frame, err))
			default:
				w.rec.add(unreadPart(c.path, c.Frame, err))
			}
		}
		if err := w.deliver(c); err != nil {
			return err
		}
	}
	w.pending = slices.Delete(w.pending, 0, n)
	return nil
}

// drop leaves out what is pending: it is dead, or nobody knows.
func (w *walk) drop() {
	if len(w.pending) > 0 && w.o.Dropped != nil {
		w.o.Dropped()
	}
	w.pending = nil
}

func (w *walk) deliver(c checked) error {
	w.rec.Frames++
	w.rec.Last = c.Header.Sequence
	if err := w.fn(c.Frame, c.errs); err != nil {
		return fmt.Errorf("frame %d at %s: %w", c.Header.Sequence, c.Pos, err)
	}
	return nil
}

// finish hands over the unpromised frames, up to one with a bad block, and
// judges the tail with that.
func (w *walk) finish(e *evidence) (Rule, error) {
	for i, c := range w.pending {
		if c.errs != nil {
			if i := slices.IndexFunc(c.errs, func(err error) bool { return err != nil && !isCorrupt(err) }); i >= 0 {
				return Rule{}, c.errs[i] // nobody knows whether it is torn
			}
			e.badBlock = true
			w.rec.DiscardedFrames += len(w.pending) - i - 1
			for _, c := range w.pending[i:] {
				w.rec.DiscardedBytes += c.Header.Size()
			}
			break
		}
		if err := w.deliver(c); err != nil {
			return Rule{}, err
		}
	}
	w.pending = nil
	w.promise = max(w.promise, e.promise)
	w.rec.DiscardedFrames += e.behind
	w.rec.DiscardedBytes += e.discarded()
	return decide(e), nil
}

// resync finds where to go on behind the damage that a stretch ended in.
func (w *walk) resync(s *Scanner, e *evidence) (next segment.FrameRef, ok bool, err error) {
	hole := s.End().Pos
	if e.stop == stopMissing || e.stop == stopSegmentHeader {
		return w.nextSegment(hole.Segment)
	}
	err = s.reader.Lookahead(hole.Offset+limits.BlockSize, func(h segment.Header, off int64) bool {
		next = segment.FrameRef{
			Pos: segment.Pos{Segment: hole.Segment, Offset: off}, Sequence: h.Sequence, Chain: h.Chain,
		}
		ok = s.successor == nil || off < s.successor.Cut.End.Offset // not what is dead
		return false
	})
	if ok || err != nil {
		return next, ok, err
	}
	return w.nextSegment(hole.Segment)
}

// nextSegment returns the first frame of the first segment behind after whose
// header verifies. The others' headers are damage.
func (w *walk) nextSegment(after segment.ID) (segment.FrameRef, bool, error) {
	ids := w.src.Segments()
	i, _ := slices.BinarySearch(ids, after+1)
	for _, id := range ids[i:] {
		h, err := w.src.Header(id)
		switch {
		case isCorrupt(err):
			e := evidence{err: err}
			w.rec.add(e.damage(CaseDamagedSegmentHeader.rule(), nil))
			w.rec.ReadOnly = true
		case errors.Is(err, segment.ErrReleased):
		case err != nil:
			return segment.FrameRef{}, false, err
		default:
			return firstFrame(id, h.Cut), true, nil
		}
	}
	return segment.FrameRef{}, false, nil
}
