package replay

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A Handler rebuilds the caller's state from what the scan finds.
type Handler interface {
	// Begin says that a scan starts: forget what came before. fromSnapshot is
	// false when the scan starts at the beginning of the volume's history, so
	// that no snapshot is needed.
	Begin(from segment.FrameRef, fromSnapshot bool)

	// Frame takes every frame in order: those that are kept where they lie, of
	// all kinds; then, of kinds KindCommands and KindSnapshot, those that are
	// rewritten, with the sequence and the place that Journal.Resume will give
	// them (their Chain and Checksum are 0: nobody knows them yet). open reads
	// one of the frame's blocks, verified and decompressed; it is valid until
	// Frame returns.
	//
	// An error that Is ErrNoState ends the scan as it does from End; any other
	// ends recovery. That a block of a snapshot does not open is a reason for it
	// only if the state begins with that snapshot: later ones are passed over.
	Frame(f *segment.Frame, open func(block int) ([]byte, error)) error

	// End is called after the last frame. An error that Is ErrNoState sends the
	// scan to the older snapshot; any other ends recovery.
	End() error
}

// A Recovery is what a scan found.
type Recovery struct {
	// Verdict is VerdictDamaged whenever there is Damage. Case is the row of
	// the tail rule that says most: that of the damage the journal ends in, of
	// the first other damage, or of the tail.
	Verdict Verdict
	Case    Case
	// Detail is one sentence for an operator.
	Detail string

	From     segment.FrameRef // where the scan that counted began
	Frames   int              // frames given to the caller, rewritten ones included
	Last     uint64           // sequence of the last frame that is kept, as it was found; rewritten ones included
	Promised uint64           // the highest sequence that something verified proves to have been durable

	DiscardedFrames int   // frames that verified but lie behind a hole
	DiscardedBytes  int64 // from the first bad frame to the last byte of a frame of this life behind it

	Damage     []Damage // in the order found, limits.MaxDamage at most
	MoreDamage int      // found beyond those

	// ReadOnly: state behind the damage cannot be rebuilt, so the volume must
	// not be written. The state the caller has holds every promised frame before it.
	ReadOnly bool
	// Tail is the case of the journal's end, whatever else was found.
	Tail Case
	// Resume is what Journal.Resume has to do; zero when ReadOnly, and from Walk.
	// Its Snapshot and OlderSnapshot are those that opening can still rely on;
	// a caller that found newer ones puts them in. If no frame is to be
	// rewritten, Rewrite holds one promise frame, since what was found to be
	// promised must be seen to be by the next recovery too.
	Resume segment.Resume
}

// add records damage, each only once: a scan that begins again meets it again.
func (r *Recovery) add(found ...Damage) {
	for _, d := range found {
		r.Verdict = VerdictDamaged
		known := func(o Damage) bool { return o.Pos == d.Pos && o.Case == d.Case && o.Detail == d.Detail }
		switch {
		case slices.ContainsFunc(r.Damage, known):
		case len(r.Damage) == limits.MaxDamage:
			r.MoreDamage++
		default:
			r.Damage = append(r.Damage, d)
		}
	}
}

// settle chooses the case that sums everything up, tail being that of the
// journal's end.
func (r *Recovery) settle(tail Case) {
	r.Tail, r.Case, r.Verdict = tail, tail, tail.Verdict()
	if len(r.Damage) > 0 {
		r.Verdict = VerdictDamaged
		if tail.Verdict() != VerdictDamaged {
			r.Case = r.Damage[0].Case
		}
	}
	r.Detail = r.Case.Means()
}

// Recover scans the journal from its newest snapshot, hands the frames to h and
// applies the tail rule to what comes behind the last. It writes nothing: the
// caller hands Resume to the journal, unless the Recovery says ReadOnly.
//
// It reads headers and directories, and blocks only of frames that no later one
// promises: those are rewritten and therefore held in memory, at most one
// segment of them, and mostly one frame. If the newest snapshot does not open
// (see Handler.End), it begins again at the older one, at those that the headers
// of earlier segments know, and at last at the beginning of the journal, if that
// still is there.
//
// Whatever does not verify is a verdict. The error is one of reading, of h, or
// segment.ErrNewerVersion, wrapped. What cannot be read is no verdict, but a
// snapshot that cannot, of which h says ErrNoState, is not needed if another one
// and all that is behind that can be read: then it is told as damage.
func Recover(src Source, h Handler) (*Recovery, error) {
	if len(src.Segments()) == 0 {
		return recoverEmpty(h)
	}
	starts := startFinder{src: src}
	last := &Recovery{}
	tried := false
	var unread error // what a snapshot is passed over for that may be whole
	var found []Damage
	for {
		st, ok, err := starts.next()
		if err != nil {
			return nil, fmt.Errorf("recover: %w", err)
		}
		found = append(found, starts.damage()...)
		if !ok {
			break
		}
		tried = true
		a := attempt{src: src, h: h, start: st, cut: st.cut, fetch: NewFetcher(src), rec: &Recovery{From: st.from}}
		a.rec.add(found...)
		err = a.run()
		err = errors.Join(err, a.fetch.Close())
		switch {
		case err == nil:
			return a.rec, nil
		case !errors.Is(err, ErrNoState):
			return nil, fmt.Errorf("recover: %w", err)
		}
		last, found = a.rec, a.rec.Damage
		if st.snapshot {
			d := Damage{
				Path: a.path, Pos: st.from.Pos, Sequence: st.from.Sequence,
				Case: CaseDamagedSnapshot, Detail: "the snapshot that begins here does not open", Err: err,
			}
			if isUnread(err) {
				unread = err
				d.Detail = fmt.Sprintf("the snapshot that begins here cannot be read: %v", err)
			}
			found = slices.Insert(found, 0, d)
		}
	}
	if unread != nil {
		return nil, fmt.Errorf("recover: %w", unread) // which is no verdict
	}
	why, err := noStart(src, tried)
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	rec := &Recovery{From: last.From, Frames: last.Frames, Promised: last.Promised, ReadOnly: true}
	rec.add(found...)
	rec.add(why)
	rec.settle(why.Case)
	return rec, nil
}

// recoverEmpty is recovery of a volume that never had a segment.
func recoverEmpty(h Handler) (*Recovery, error) {
	rec := &Recovery{From: firstFrame(1, segment.Cut{})}
	rec.settle(CaseEmpty)
	h.Begin(rec.From, false)
	if err := h.End(); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	return rec, nil
}

// noStart says why there is nowhere to begin.
func noStart(src Source, tried bool) (Damage, error) {
	ids := src.Segments()
	d := Damage{Pos: segment.Pos{Segment: ids[0]}, Case: CaseNoSnapshot}
	switch {
	case ids[0] == 1:
		d.Detail = "neither a snapshot nor the journal's beginning opens"
	case tried:
		d.Detail = fmt.Sprintf("no snapshot opens, and the journal now begins with segment %s", ids[0])
	default:
		d.Pos.Segment--
		d.Case = CaseMissingSegment
		d.Detail = "it and those before it are gone, and no snapshot begins in what is left"
	}
	s := NewScanner(src, firstFrame(ids[len(ids)-1], segment.Cut{}))
	if err := s.enter(); err != nil && !isCorrupt(err) {
		return d, errors.Join(err, s.Close())
	}
	d.Path = s.path(d.Pos.Segment)
	return d, s.Close()
}

// A start is a place where a scan may begin.
type start struct {
	from     segment.FrameRef
	snapshot bool
	// cut ends what lies before from, if the header of from's segment says so:
	// from is its first frame. If nothing promises that one, the journal goes on
	// behind this cut.
	cut segment.Cut
	// What the next segment's header records if the scan from here succeeds.
	newest, older segment.FrameRef
}

// A startFinder finds where scans may begin, best first. The newest header knows
// the newest snapshots. If those do not open, the headers before it know older
// ones: they were kept if a log's records were. The journal's beginning comes
// last. Only the first header is read unless what it knows is of no use.
type startFinder struct {
	src   Source
	ids   []segment.ID // whose headers have not been looked at
	begun bool
	ended bool
	ready []start
	tried []segment.FrameRef
	found []Damage
}

// damage returns what was found damaged on the way since it was asked last.
func (s *startFinder) damage() []Damage {
	found := s.found
	s.found = nil
	return found
}

// header returns a header, nil if it does not verify.
func (s *startFinder) header(id segment.ID) (*segment.SegmentHeader, error) {
	h, err := s.src.Header(id)
	if isCorrupt(err) {
		e := evidence{err: err}
		s.found = append(s.found, e.damage(CaseDamagedSegmentHeader.rule(), nil))
		return nil, nil
	}
	return h, err
}

// next returns the next start; ok is false if there is no other.
func (s *startFinder) next() (st start, ok bool, err error) {
	if !s.begun {
		s.ids, s.begun = s.src.Segments(), true
	}
	for len(s.ready) == 0 && len(s.ids) > 0 {
		id := s.ids[len(s.ids)-1]
		s.ids = s.ids[:len(s.ids)-1]
		h, err := s.header(id)
		if err != nil {
			return st, false, err
		}
		if h != nil {
			s.offer(h.Snapshot, h.OlderSnapshot)
			s.offer(h.OlderSnapshot, segment.FrameRef{})
		}
	}
	if len(s.ready) > 0 {
		st, s.ready = s.ready[0], s.ready[1:]
		return st, true, s.behindCut(&st)
	}
	if s.ended || s.src.Segments()[0] != 1 {
		return st, false, nil
	}
	s.ended = true
	h, err := s.src.Header(1) // its damage is known by now
	switch {
	case isCorrupt(err):
		return st, false, nil
	case err != nil:
		return st, false, err
	}
	return start{from: firstFrame(1, h.Cut), cut: h.Cut}, true, nil
}

// offer makes a snapshot ready to be tried, unless it was or is gone.
func (s *startFinder) offer(ref, older segment.FrameRef) {
	ids := s.src.Segments()
	here := func(r segment.FrameRef) bool {
		_, ok := slices.BinarySearch(ids, r.Pos.Segment)
		return ok && !r.IsZero()
	}
	if !here(ref) || slices.Contains(s.tried, ref) {
		return
	}
	if !here(older) {
		older = segment.FrameRef{}
	}
	s.tried = append(s.tried, ref)
	s.ready = append(s.ready, start{from: ref, snapshot: true, newest: ref, older: older})
}

// behindCut sets the start's cut. A header that does not verify says nothing; the
// scan will meet it.
func (s *startFinder) behindCut(st *start) error {
	h, err := s.src.Header(st.from.Pos.Segment)
	switch {
	case isCorrupt(err), errors.Is(err, segment.ErrReleased):
		return nil
	case err != nil:
		return err
	}
	if st.from == firstFrame(h.ID, h.Cut) {
		st.cut = h.Cut
	}
	return nil
}

// An attempt is one scan from one start to the end of the journal.
//
// Invariant: every frame up to promise was handed to h, those behind it wait in
// pending: of an unpromised frame nobody knows yet whether it stays.
type attempt struct {
	src   Source
	h     Handler
	start start
	fetch *Fetcher
	rec   *Recovery
	path  string // of the segment it starts in

	pending []*segment.Frame
	promise uint64
	cut     segment.Cut // behind the last frame that was handed over
}

// run scans. It returns an error that Is ErrNoState if h cannot begin here.
func (a *attempt) run() (err error) {
	s := NewScanner(a.src, a.start.from)
	defer func() { err = errors.Join(err, s.Close()) }()
	defer func() { a.path = s.path(a.start.from.Pos.Segment) }()
	if a.start.snapshot {
		// If there is nothing here, the scan from further back will meet it and
		// find out why.
		if live, err := Live(a.src, a.start.from); err != nil {
			return err
		} else if !live {
			return fmt.Errorf("%w: there is no frame %d at %s", ErrNoState, a.start.from.Sequence, a.start.from.Pos)
		}
	}
	a.h.Begin(a.start.from, a.start.snapshot)
	e, rule, err := scanToEnd(a.src, s, &a.promise, true, func() error { return a.take(s) })
	if err != nil {
		return err
	}
	if err := a.keep(e.promise); err != nil {
		return err
	}
	if rule.Verdict == VerdictDamaged {
		a.rec.add(e.damage(rule, s.path))
		a.rec.ReadOnly = true
	} else {
		if err := a.rewrite(e); err != nil {
			return err
		}
		rule = decide(e)
	}
	a.rec.Promised = a.promise
	a.rec.settle(rule.Case)
	return a.h.End()
}

// take adds the scanner's frame to the run.
func (a *attempt) take(s *Scanner) error {
	f := s.Frame()
	if err := s.BadSeal(); err != nil {
		a.rec.add(badSeal(f, err))
	}
	a.pending = append(a.pending, f)
	return a.keep(f.Header.Promise)
}

// keep hands over what is promised now.
func (a *attempt) keep(promise uint64) error {
	a.promise = max(a.promise, promise)
	n := 0
	for _, f := range a.pending {
		if f.Header.Sequence > a.promise {
			break
		}
		n++
		err := a.deliver(f, f.Header.Sequence, func(block int) ([]byte, error) { return a.fetch.Open(f, block, nil) })
		if err != nil {
			return err
		}
		a.cut = segment.Cut{
			End: f.End(), Last: f.Pos, Sequence: f.Header.Sequence, Chain: f.Header.Checksum, Time: f.Header.Time,
		}
	}
	a.pending = slices.Delete(a.pending, 0, n)
	return nil
}

// deliver gives a frame to the handler; as is the sequence it was found with.
func (a *attempt) deliver(f *segment.Frame, as uint64, open func(int) ([]byte, error)) error {
	a.rec.Frames++
	a.rec.Last = as
	err := a.h.Frame(f, func(block int) ([]byte, error) {
		b, err := open(block)
		if isCorrupt(err) {
			a.rec.add(blockDamage(f, err))
		}
		return b, err
	})
	if err != nil {
		return fmt.Errorf("frame %d at %s: %w", as, f.Pos, err)
	}
	return nil
}

// blockDamage describes a bad block of a frame.
func blockDamage(f *segment.Frame, err error) Damage {
	d := Damage{Pos: f.Pos, Sequence: f.Header.Sequence, Case: CaseDamagedBlock, Err: err}
	var c *segment.CorruptError
	if errors.As(err, &c) {
		d.Path, d.Detail = c.Path, c.Reason
	}
	return d
}

// unreadPart describes a part of a snapshot that cannot be read.
func unreadPart(path string, f *segment.Frame, err error) Damage {
	return Damage{
		Path: path, Pos: f.Pos, Sequence: f.Header.Sequence, Case: CaseDamagedSnapshot,
		Detail: fmt.Sprintf("a part of a snapshot cannot be read: %v", err), Err: err,
	}
}

// rewrite prepares the journal's going on: what is pending verifies, was found
// behind the last promise, and is kept by being written once more, since it
// may lie in a page cache only. Promises and seals carry nothing to keep.
func (a *attempt) rewrite(e *evidence) error {
	fresh := firstFrame(a.cut.End.Segment+1, a.cut)
	var drafts []segment.Draft
	dead := a.cut.End
	for i, f := range a.pending {
		d, err := a.draft(f)
		if errors.Is(err, segment.ErrBadBlock) {
			e.badBlock = true
			a.discard(a.pending[i:])
			break
		}
		if err != nil {
			return err
		}
		dead = f.End()
		if f.Header.Kind == segment.KindPromise || f.Header.Kind == segment.KindSeal {
			continue
		}
		moved := *f
		moved.Pos = fresh.Pos
		moved.Header.Sequence, moved.Header.Promise = fresh.Sequence, a.cut.Sequence
		moved.Header.Chain, moved.Header.Checksum = 0, 0
		err = a.deliver(&moved, f.Header.Sequence, func(block int) ([]byte, error) {
			return openStored(e.path, f, block, d.Blocks[block].Stored, nil)
		})
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
		fresh.Pos.Offset += f.Header.Size()
		fresh.Sequence++
	}
	a.rec.DiscardedFrames += e.behind
	a.rec.DiscardedBytes += e.discarded()
	if len(drafts) == 0 && a.cut.Sequence > 0 {
		drafts = append(drafts, segment.Draft{Kind: segment.KindPromise, Time: a.cut.Time})
	}
	a.rec.Resume = segment.Resume{Cut: a.cut, Rewrite: drafts, DeadFrom: a.deadFrom(dead)}
	// Both are below the cut: a header records what was durable before it was
	// written, and proves that for all that lies before it.
	a.rec.Resume.Snapshot, a.rec.Resume.OlderSnapshot = a.start.newest, a.start.older
	return nil
}

// discard counts frames of the run that a bad block in the first of them ends.
func (a *attempt) discard(frames []*segment.Frame) {
	a.rec.DiscardedFrames += len(frames) - 1
	for _, f := range frames {
		a.rec.DiscardedBytes += f.Header.Size()
	}
}

// draft reads a frame's blocks and makes what Journal.Resume writes of it. The
// stored bytes move as they are: whether they decompress is not asked, since
// the frame may have been acknowledged as it is.
func (a *attempt) draft(f *segment.Frame) (segment.Draft, error) {
	d := segment.Draft{Kind: f.Header.Kind, Term: f.Header.Term, Index: f.Header.Index, Time: f.Header.Time, Meta: f.Meta}
	for i, info := range f.Blocks {
		stored, err := a.fetch.Stored(f, i, nil)
		if err != nil {
			return segment.Draft{}, fmt.Errorf("frame %d: %w", f.Header.Sequence, err)
		}
		d.Blocks = append(d.Blocks, segment.Block{
			Codec: info.Codec, RawSize: info.RawSize, Checksum: info.Checksum, Stored: stored,
		})
	}
	return d, nil
}

// deadFrom returns where the newest segment holds nothing valid any more, end
// being the end of the run.
func (a *attempt) deadFrom(end segment.Pos) segment.Pos {
	ids := a.src.Segments()
	if newest := ids[len(ids)-1]; newest != end.Segment {
		return segment.Pos{Segment: newest, Offset: limits.SegmentHeaderSize}
	}
	return end
}
