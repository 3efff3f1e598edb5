package wal

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/walsvc/walsvc/segment"
)

// At returns the LSN of the first of the log's records that was committed at or
// after a time, and the log's next LSN if none was: also for a time that is yet to
// come. Commit times are the volume's clock's, which never goes back, whatever
// became of the wall clock.
//
// Records whose frame is lost count as committed at that time: whoever reads from
// there is told of them, and misses none in silence. Likewise, where records that
// are no longer kept were committed since that time, or may have been, the error is
// a *RangeError of ErrLSNTruncated with the time in it: what is left is not all that
// was asked for. Other errors are ErrLogNotFound, ErrReadFailed and ErrClosed.
//
// It reads the directories of one segment, however many there are.
func (v *Volume) At(log string, t time.Time) (LSN, error) {
	b, err := v.bounds(log, unixNano(t))
	switch {
	case err != nil:
		return 0, err
	case b.truncated:
		return 0, &RangeError{Log: log, Since: t, First: b.first, Next: b.next, Err: ErrLSNTruncated}
	}
	return b.least, nil
}

// until returns the LSN of the last of the log's records that was committed before
// a time or at it, 0 if there is none. Records whose frame is lost count as
// committed by then, as they count as committed since in At.
func (v *Volume) until(log string, t time.Time) (LSN, error) {
	ns := unixNano(t)
	if ns == math.MaxInt64 {
		info, err := v.Log(log)
		return info.Durable(), err
	}
	b, err := v.bounds(log, ns+1)
	return b.most - 1, err
}

// unixNano returns a time as nanoseconds since 1970, or the nearest time that has
// so many.
func unixNano(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, 0)):
		return 0
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// timeBounds says where a log's first record committed at or after a time is.
type timeBounds struct {
	// It is one from least to most. They differ by records whose frames are lost.
	least, most LSN
	// truncated: records that are not kept were committed since, or may have been.
	truncated   bool
	first, next LSN // of the log
}

// bounds looks for the first record of a log that was committed at or after ns.
func (v *Volume) bounds(log string, ns int64) (timeBounds, error) {
	for {
		v.mu.RLock()
		l, err := v.lookup(log)
		if err != nil {
			v.mu.RUnlock()
			return timeBounds{}, err
		}
		number, h := l.number, l.history()
		b := timeBounds{first: l.first, next: l.next}
		failed := v.failed
		v.mu.RUnlock()
		if errors.Is(failed, ErrClosed) {
			return b, failed
		}
		err = v.boundsOf(&b, number, ns, &h)
		switch {
		case errors.Is(v.live(log, number, b.next, &h), errLookAgain):
			continue // it was rewound
		case err == nil:
			return b, nil
		case errors.Is(err, segment.ErrReleased):
			continue // one segment less to look at
		case isUnread(err):
			err = fmt.Errorf("%w: %w", ErrReadFailed, err)
		}
		return b, fmt.Errorf("log %q: look for %s: %w", log, timeOf(ns).Format(time.RFC3339Nano), err)
	}
}

// boundsOf fills in the bounds of a log as it was.
//
//	segments    bisected by when each one's predecessor ended, as headers say
//	one segment its directories, from the first frame on
//	behind it   the first segment that has records of the log
//
// LSNs are dense: what is missing between the last record before the time and the
// first one not before it lay in frames that are lost.
func (v *Volume) boundsOf(b *timeBounds, number uint64, ns int64, h *history) error {
	ids := v.journal.Segments()
	if len(ids) == 0 {
		return nil // of a volume that is read-only since its first segment is damaged
	}
	at, err := v.segmentAt(ids, ns)
	if err != nil {
		return err
	}
	// Of segments that were released nothing is known, but when the last ended.
	older := at >= 0
	at = max(at, 0)

	var before LSN // those below were committed before; 0 if nothing is known
	over := false  // there is a gap behind what says so
	if _, s, next := v.index.endAtOrBefore(ids, 0, at-1, number, h); s != nil {
		before = next
		over = slices.ContainsFunc(v.journal.Gaps(), func(g segment.Gap) bool { return s.id < g.From && g.To < ids[at] })
	}
	b.most = b.next
	_, err = v.index.cache.walk(ids[at], func(f *segment.Frame, commands []Command) error {
		for i := range commands {
			switch c := &commands[i]; {
			case !c.Appends() || c.Log != number || h.clip(c.Epoch, c.Last()) < c.First:
			case f.Header.Time < ns:
				before = h.clip(c.Epoch, c.Last()) + 1
			default:
				b.most = min(b.most, c.First) // beyond the end it is not durable yet
				return errEnough
			}
		}
		return nil
	})
	if err != nil && !unreadable(err) {
		return err
	}
	moved, most, err := v.index.boundsOfMoved(number, ns, h)
	if err != nil {
		return err
	}
	before = max(before, moved)
	if most > 0 {
		b.most = min(b.most, most)
	}
	if most > 0 && before == 0 && b.first > 1 {
		// Of what was given up there are no copies.
		switch pos, err := v.index.appended(number, b.first-1, 0); {
		case err == nil && pos.Segment > ids[at]:
			b.most = min(b.most, b.first-1)
		case isUnread(err):
			return err
		}
	}
	if b.most == b.next && before < b.next {
		if b.most, err = v.index.firstFrom(ids[at:], number, max(before, 1), b.next, h); err != nil {
			return err
		}
	}
	since, err := v.givenUpSince(ids[at], number, b.first, h)
	if err != nil {
		return err
	}
	if over && !since {
		before = max(before, b.first) // what was released is older, and given up
	}
	switch {
	case since && before < b.first:
		b.least, b.truncated = b.most, true
	case before > 0:
		b.least = min(before, b.most)
	case older || b.first == 1:
		b.least = min(b.first, b.most)
	default:
		b.least, b.truncated = b.most, true
	}
	b.truncated = b.truncated || b.least < b.first
	return nil
}

// givenUpSince reports whether records below first may have lain in a gap behind a segment,
// which is the last that begins before some time: they were committed since, or
// may have been. Where the log had come to first when the segment ended, none have.
func (v *Volume) givenUpSince(id segment.ID, number uint64, first LSN, h *history) (bool, error) {
	if first == 1 || !slices.ContainsFunc(v.journal.Gaps(), func(g segment.Gap) bool { return g.From > id }) {
		return false, nil
	}
	s, err := v.index.cache.get(id)
	switch {
	case unreadable(err):
		return true, nil
	case err != nil:
		return false, err
	}
	end, known := s.end(number)
	return !known || h.end(end).next < first, nil
}

// boundsOfMoved returns up to which LSN the copies of a log's moved records were
// committed before ns, and the first that was not; 0 for none.
func (x *index) boundsOfMoved(number uint64, ns int64, h *history) (before, most LSN, err error) {
	b, err := x.copies(number, h)
	if err != nil {
		return 0, 0, err
	}
	for _, own := range b.own {
		c := &b.commands[own.index]
		if c.Kind != CommandMoveRecords {
			continue
		}
		if b.committed(c) >= ns {
			return before, c.First, nil
		}
		before = own.last + 1
	}
	return before, 0, nil
}

// copies returns the frame with the copies of a log's moved records, and no batch
// if there are none, or their directory does not verify.
func (x *index) copies(number uint64, h *history) (b batchFrame, err error) {
	x.v.mu.RLock()
	m, ok := x.places.moved[number]
	x.v.mu.RUnlock()
	if !ok {
		return b, nil
	}
	f, err := x.v.fetch.Frame(m.pos)
	if err == nil {
		err = b.load(f)
	}
	if err == nil {
		b.choose(number, h)
	}
	if unreadable(err) {
		err = nil
	}
	return b, err
}

// segmentAt returns the index of the last segment that begins behind a frame from
// before ns, -1 if none is known to: of one whose header does not verify, those
// before it tell.
func (v *Volume) segmentAt(ids []segment.ID, ns int64) (int, error) {
	var unread error
	before := func(i int) bool {
		for ; i >= 0; i-- {
			h, err := v.journal.Header(ids[i])
			switch {
			case err == nil:
				return h.Cut.Time < ns
			case !unreadable(err):
				unread = err
			}
		}
		return false
	}
	n := sort.Search(len(ids), func(i int) bool { return !before(i) })
	return n - 1, unread
}

// firstFrom returns the log's first record from lsn on whose frame verifies, next
// if there is none, in the segments ids.
func (x *index) firstFrom(ids []segment.ID, number uint64, lsn, next LSN, h *history) (LSN, error) {
	if pos, err := x.locate(number, lsn, 0); err == nil {
		var b batchFrame
		if err := x.v.seekFrom(&b, number, lsn, pos, h); err == nil {
			return lsn, nil
		}
	}
	b, err := x.copies(number, h)
	if err != nil {
		return 0, err
	}
	first := next
	for _, own := range b.own {
		if c := &b.commands[own.index]; c.First >= lsn {
			return c.First, nil
		}
	}
	for _, id := range ids {
		_, err := x.cache.walk(id, func(_ *segment.Frame, commands []Command) error {
			for i := range commands {
				if c := &commands[i]; c.Appends() && c.Log == number && c.First >= lsn && h.clip(c.Epoch, c.Last()) >= c.First {
					first = min(first, c.First)
					return errEnough
				}
			}
			return nil
		})
		if err != nil && !unreadable(err) {
			return 0, err
		}
		if first < next {
			break
		}
	}
	return first, nil
}
