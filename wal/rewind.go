package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// A Cut is where a rewind cut a log's history.
type Cut struct {
	Epoch Epoch // that began with it: what it discarded was appended in older ones
	LSN   LSN   // of the last record it kept; 0 if it kept none
	Next  LSN   // what the log's next record would have been: those from LSN+1 to Next-1 were discarded
	// Bytes is how many framed bytes had ever been appended up to LSN, and Checksum
	// the log's checksum behind it.
	Bytes    uint64
	Checksum Checksum
}

// A history is which of the records that were ever appended to a log are in it: the
// cuts of its rewinds, which increase both in epoch and in LSN. One that a later
// rewind came to or passed says nothing more, and is dropped.
//
//	epoch 1   1 2 3 4 5 6 7 8
//	epoch 2           4 5 6 7 8 9        cut: epoch 2, LSN 3
//	epoch 3                 7 8          cut: epoch 3, LSN 6
//	the log   1 2 3 4 5 6 7 8
//
// A record is named by its epoch and its LSN, wherever it lies and however often: a
// record that a rewind discarded is in no history again. The slice is never written.
type history struct {
	epoch Epoch // that the log is in
	cuts  []Cut
}

// since returns the lowest cut of the rewinds that began a later epoch than epoch:
// what was appended in epoch, or before, is in the log up to there. ok is false if
// there is none.
func (h *history) since(epoch Epoch) (cut *Cut, ok bool) {
	// The cuts increase, so the first one is the lowest.
	i := sort.Search(len(h.cuts), func(i int) bool { return h.cuts[i].Epoch > epoch })
	if i == len(h.cuts) {
		return nil, false
	}
	return &h.cuts[i], true
}

// clip returns the last record up to last, appended in epoch, that is in the log. It
// is below the record that one asks for if that is not.
func (h *history) clip(epoch Epoch, last LSN) LSN {
	if epoch > h.epoch {
		return 0 // of a later history than this one
	}
	if cut, ok := h.since(epoch); ok {
		return min(last, cut.LSN)
	}
	return last
}

// end returns how far the log, as it is now, had come where it had come to e.
func (h *history) end(e logEnd) logEnd {
	if cut, ok := h.since(e.rewound); ok && cut.LSN < e.next {
		return logEnd{next: cut.LSN + 1, total: cut.Bytes, rewound: e.rewound}
	}
	return e
}

// rewound returns the epoch that the newest rewind began, 0 if there was none.
func (h *history) rewound() Epoch {
	if n := len(h.cuts); n > 0 {
		return h.cuts[n-1].Epoch
	}
	return 0
}

// rewound returns the epoch that the log's newest rewind began, 0 if there was none.
func (l *logState) rewound() Epoch {
	h := l.history()
	return h.rewound()
}

// history returns which records are in the log.
func (l *logState) history() history { return history{l.epoch, l.cuts} }

// room reports whether one more rewind, behind lsn, can be remembered. All have to
// be that took a record that the log may still have room for: below its oldest one
// nobody looks for any.
func (l *logState) room(lsn LSN) bool {
	return len(l.cuts) < limits.MaxRewinds || slices.ContainsFunc(l.cuts, func(c Cut) bool { return c.LSN >= lsn || l.forgets(&c) })
}

// forgets reports whether nothing depends on a cut any more: it discarded nothing,
// or what it discarded lies below the log's oldest record. Whoever read the last of
// it stands at c.Next, and has to be told that something is gone: so that must lie
// below, too.
func (l *logState) forgets(c *Cut) bool { return c.Next <= c.LSN+1 || c.Next < l.first }

// rewind cuts the log behind c.LSN and begins c.Epoch. REQUIRES: room.
func (l *logState) rewind(c Cut) {
	c.Next = l.next
	kept := make([]Cut, 0, len(l.cuts)+1)
	for _, old := range l.cuts {
		if old.LSN >= c.LSN {
			c.Next = max(c.Next, old.Next)
			continue
		}
		kept = append(kept, old)
	}
	if len(kept) == limits.MaxRewinds {
		i := slices.IndexFunc(kept, func(old Cut) bool { return l.forgets(&old) })
		kept = slices.Delete(kept, i, i+1)
	}
	l.cuts = append(kept, c)

	gone := min(l.totalBytes-c.Bytes, l.liveBytes)
	if l.liveBytes -= gone; c.LSN+1 == l.first {
		l.liveBytes = 0 // also if damage had it counted higher
	}
	l.epoch, l.next, l.totalBytes, l.checksum = c.Epoch, c.LSN+1, c.Bytes, c.Checksum
	l.lost = lostUpTo(l.lost, c.LSN)
	for i := range l.cursors {
		l.cursors[i].rewind(&c)
	}
	l.measure()
	for i := range l.producers {
		if l.producers[i].touches(&c) {
			l.producer(uint64(i) + 1).rewind(&c)
		}
	}
}

// lostUpTo returns what is left of lost ranges when last is the last record. It does
// not write the slice.
func lostUpTo(lost []LSNRange, last LSN) []LSNRange {
	i := sort.Search(len(lost), func(i int) bool { return lost[i].Last > last })
	if i == len(lost) {
		return lost
	}
	rest := slices.Clone(lost[:i])
	if lost[i].First <= last {
		rest = append(rest, LSNRange{lost[i].First, last})
	}
	if len(rest) == 0 {
		return nil
	}
	return rest
}

// rewind takes a cursor back to a cut, if its reader is done with a record behind
// it: that one was given what there never was, and has to say where it goes on.
func (c *cursorState) rewind(cut *Cut) {
	if c.lsn <= cut.LSN {
		return
	}
	if c.rewound == 0 {
		c.was = c.lsn
	}
	c.lsn, c.start, c.rewound = cut.LSN, cut.Bytes, cut.Epoch
}

// applyRewind re-derives what Rewind decided.
func (l *logState) applyRewind(c *Command) error {
	switch {
	case c.Epoch != l.epoch+1 || c.Rewound != l.rewound():
		return disagree(c, "epoch %d behind epoch %d and a rewind of epoch %d", c.Epoch, l.epoch, c.Rewound)
	case c.LSN >= l.next || c.LSN+1 < l.first || c.Start > l.totalBytes:
		return disagree(c, "to LSN %d behind %d bytes, it has %d to %d in %d", c.LSN, c.Start, l.first, l.next-1, l.totalBytes)
	case c.LSN == l.next-1 && (c.Start != l.totalBytes || c.Checksum != l.checksum):
		return disagree(c, "to its end, with other bytes or another checksum")
	case !l.room(c.LSN):
		return disagree(c, "it remembers %d rewinds", len(l.cuts))
	}
	if name, above := l.checkpointAbove(c.LSN); above {
		return disagree(c, "to LSN %d, checkpoint %q is beyond", c.LSN, name)
	}
	l.rewind(Cut{Epoch: c.Epoch, LSN: c.LSN, Bytes: c.Start, Checksum: c.Checksum})
	l.holder, l.acquired = c.Name, c.ID
	return nil
}

// checkpointAbove returns a checkpoint that covers a record behind lsn.
func (l *logState) checkpointAbove(lsn LSN) (name string, above bool) {
	for i := range l.checkpoints {
		if l.checkpoints[i].lsn > lsn {
			return l.checkpoints[i].name, true
		}
	}
	return "", false
}

// A Rewind says what to discard of a log, and on what condition.
type Rewind struct {
	// After is the last record to keep; 0 keeps none. Any will do, also one within a
	// batch.
	After LSN
	// Epoch must be the log's: what is discarded has been decided by somebody who
	// knows the log as it is. Else the answer is ErrFenced.
	Epoch Epoch
	// Next, unless 0, must be the log's next LSN: nobody has appended meanwhile.
	Next LSN
	// Holder is the writer of the epoch that begins; empty for none, and the log is
	// shared.
	Holder string
	// Request, unless zero, names this request and no other. While the epoch that it
	// began is the log's, asking again is answered likewise, and discards nothing.
	Request ulid.ULID
	// Plan has nothing discarded: the answer is what would be, or why it would be
	// refused.
	Plan bool
}

// A Rewound is what a rewind did.
type Rewound struct {
	// Log is the log as its epoch begins: Log.Next is behind the last record kept.
	Log LogInfo
	// Records and Bytes, framed, were discarded; of a repeated request they are not
	// known any more, and 0.
	Records  uint64
	Bytes    uint64
	Repeated bool // the request had rewound it before
}

// errLookAgain is what is decided on a log that has changed since it was looked at.
var errLookAgain = errors.New("look again")

// Rewind discards a log's records behind r.After and begins a new epoch, durably,
// before anybody is told of either. What was sequenced before lands as usual, and is
// discarded with the rest; whatever states an older epoch is refused from then on.
// The LSNs are given again, in the new epoch: (log, epoch, LSN) names a record for
// ever, and a discarded one is never read again.
//
//	old writer            volume                        new writer
//	7 ──────────────────► 7 gets LSN 40
//	                      epoch 3 begins behind 38 ◄─── rewind
//	8 ──────────────────► FENCED, when epoch 3 is durable
//	  ◄────────── 7 at 40 it was durable
//	                      epoch 3 is durable ─────────► epoch 3, next LSN 39
//	7 again ────────────► DISCARDED: never appended twice
//
// Whoever was given a discarded record is told, by a *RewoundError: readers, waiters,
// claims and cursors. It returns ErrLogNotFound, ErrInvalid, ErrInvalidName, a
// *SealedError, a *FencedError if r.Epoch is not the log's, a *MismatchError if r.Next is not, ErrHeld
// if a checkpoint covers a record behind r.After, a *RangeError if r.After is behind
// the durable end or if the record behind it is truncated, a *DataLossError where
// what the log's checksum was is lost or damaged, ErrReadFailed if the disk did not let
// it be read, ErrTooManyRewinds or ErrFull.
func (v *Volume) Rewind(ctx context.Context, log string, r Rewind) (Rewound, error) {
	switch {
	case r.Epoch == 0:
		return Rewound{}, fmt.Errorf("rewind log %q: %w: it takes the epoch that the log is in", log, ErrInvalid)
	case r.Holder != "" && !validName(r.Holder, limits.MaxHolderNameBytes):
		return Rewound{}, invalidName("holder", r.Holder, limits.MaxHolderNameBytes)
	}
	for {
		at, err := v.cutAt(log, &r)
		if err != nil {
			return Rewound{}, err
		}
		var done Rewound
		err = v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
			l := s.named(log)
			if l == nil {
				return nil, nil, notFound(log)
			}
			var cmd *Command
			cmd, done, err = l.rewinding(&r, at)
			return cmd, nil, err
		})
		switch {
		case errors.Is(err, errLookAgain):
			// What it was decided on is durable by now, so the next look sees it.
			continue
		case err != nil:
			return Rewound{}, err
		}
		if !r.Plan {
			v.janitor.kick()
		}
		return done, nil
	}
}

// A cutBase is where a log may be cut, as it was found in the journal: the figures
// hold for as long as the log is in that epoch.
type cutBase struct {
	id    ulid.ULID
	epoch Epoch // 0 if nothing was looked for
	cut   Cut
}

// cutAt looks up the log's bytes and checksum at a cut, if it could be made now. What
// has to be refused is left to whoever decides.
func (v *Volume) cutAt(log string, r *Rewind) (cutBase, error) {
	v.mu.RLock()
	l, err := v.lookup(log)
	if err != nil {
		v.mu.RUnlock()
		return cutBase{}, err
	}
	info, number, total := l.info(), l.number, l.totalBytes
	v.mu.RUnlock()
	at := cutBase{id: info.ID, epoch: info.Epoch, cut: Cut{LSN: r.After, Bytes: total, Checksum: info.Checksum}}
	switch {
	case r.Epoch != info.Epoch, r.After > info.Durable(), r.After+1 < info.First:
		return cutBase{}, nil
	case r.After == info.Durable():
		return at, nil
	}
	at.cut.Bytes, at.cut.Checksum, err = v.behind(info, number, r.After)
	switch {
	case errors.Is(err, ErrLSNTruncated), errors.Is(err, errLookAgain):
		return cutBase{}, nil // decided by what is kept then
	case err != nil:
		return cutBase{}, fmt.Errorf("rewind: %w", err)
	}
	return at, nil
}

// rewinding decides a rewind: nil and no error if it was done before, or is only
// planned.
func (l *logState) rewinding(r *Rewind, at cutBase) (*Command, Rewound, error) {
	done := Rewound{Log: l.info()}
	h := l.history()
	if r.Request != (ulid.ULID{}) && l.acquired == r.Request && h.rewound() == l.epoch {
		last := l.cuts[len(l.cuts)-1]
		if last.LSN != r.After {
			return nil, done, fmt.Errorf("log %q: %w: the request has rewound it behind LSN %d, not %d", l.name, ErrInvalid, last.LSN, r.After)
		}
		done.Repeated = true // and what it took is not told from what the rewinds before had
		return nil, done, nil
	}
	switch {
	case l.sealed != 0:
		return nil, done, l.sealedError()
	case r.Epoch != l.epoch:
		return nil, done, l.fenced(r.Epoch)
	case r.After >= l.next:
		return nil, done, &RangeError{Log: l.name, Asked: r.After, First: l.first, Next: l.next, Err: ErrLSNAhead}
	case r.After+1 < l.first:
		return nil, done, &RangeError{Log: l.name, Asked: r.After, First: l.first, Next: l.next, Err: ErrLSNTruncated}
	case r.Next != 0 && r.Next != l.next:
		return nil, done, &MismatchError{Log: l.name, Expected: r.Next, Next: l.next}
	}
	if name, above := l.checkpointAbove(r.After); above {
		return nil, done, fmt.Errorf("log %q: rewind behind LSN %d: %w: checkpoint %s covers records beyond", l.name, r.After, ErrHeld, strconv.Quote(name))
	}
	switch {
	case !l.room(r.After):
		return nil, done, fmt.Errorf("log %q: %w: the limit is %d; truncate what they discarded, or rewind further", l.name, ErrTooManyRewinds, limits.MaxRewinds)
	case at.id != l.id || at.epoch != l.epoch:
		return nil, done, errLookAgain
	}
	done.Records, done.Bytes = uint64(l.next-1-r.After), l.totalBytes-at.cut.Bytes
	if r.Plan {
		return nil, done, nil
	}
	cmd := &Command{
		Kind: CommandRewind, Log: l.number, Epoch: l.epoch + 1, Rewound: h.rewound(), LSN: r.After,
		Start: at.cut.Bytes, Checksum: at.cut.Checksum, Name: r.Holder, ID: r.Request,
	}
	after := *l
	after.cursors, after.producers = nil, nil
	after.rewind(Cut{Epoch: cmd.Epoch, LSN: cmd.LSN, Bytes: cmd.Start, Checksum: cmd.Checksum})
	after.holder = r.Holder
	done.Log = after.info()
	return cmd, done, nil
}

// moved returns a *RewoundError if a rewind since epoch discarded lsn.
func (l *logState) moved(epoch Epoch, lsn LSN) error {
	h := l.history()
	if cut, ok := h.since(epoch); ok && lsn > cut.LSN {
		return l.rewoundAt(cut, lsn)
	}
	return nil
}

func (l *logState) rewoundAt(cut *Cut, lsn LSN) *RewoundError {
	return &RewoundError{Log: l.name, LSN: lsn, Epoch: cut.Epoch, Kept: cut.LSN, Next: l.next}
}

// A RewoundError is an ErrRewound that says where the log was cut.
type RewoundError struct {
	Log, Cursor string // the cursor's name, if it is one that was taken back
	LSN         LSN    // where whoever is told stood
	Epoch       Epoch  // that the rewind began
	Kept        LSN    // the last record it kept: what has been read beyond was discarded
	Next        LSN    // of the log as it is now
}

// Error implements error.
func (e *RewoundError) Error() string {
	who := fmt.Sprintf("LSN %d", e.LSN)
	if e.Cursor != "" {
		who = fmt.Sprintf("cursor %q at LSN %d", e.Cursor, e.LSN)
	}
	return fmt.Sprintf("log %q: %s: %v: epoch %d began behind LSN %d, and discarded what was beyond", e.Log, who, ErrRewound, e.Epoch, e.Kept)
}

// Unwrap returns ErrRewound.
func (e *RewoundError) Unwrap() error { return ErrRewound }

// A DiscardedError is an ErrDiscarded that says what became of a batch.
type DiscardedError struct {
	Log      string
	Sequence uint64
	First    LSN // where it was committed
	Count    uint32
	Rewound  Epoch // that the rewind began
	Kept     LSN   // the last record it kept, which may be one of the batch's
}

// Error implements error.
func (e *DiscardedError) Error() string {
	return fmt.Sprintf("log %q: sequence %d: %v: it had LSN %d to %d, epoch %d began behind LSN %d",
		e.Log, e.Sequence, ErrDiscarded, e.First, e.First+LSN(e.Count)-1, e.Rewound, e.Kept)
}

// Unwrap returns ErrDiscarded.
func (e *DiscardedError) Unwrap() error { return ErrDiscarded }

// discarded returns a *DiscardedError if a rewind took something of a batch, whose lead
// is the log of that name. Of its parts it is known as long as their logs remember the
// rewind.
func (s *State) discarded(log string, b batchState, parts []partState) error {
	if b.discarded != 0 {
		return &DiscardedError{Log: log, Sequence: b.sequence, First: b.first, Count: b.count, Rewound: b.discarded, Kept: b.kept}
	}
	for _, p := range parts {
		l := s.logs.get(p.log)
		if l == nil {
			continue // deleted since
		}
		h := l.history()
		if cut, ok := h.since(p.epoch); ok && p.first+LSN(p.count)-1 > cut.LSN {
			return &DiscardedError{Log: l.name, Sequence: b.sequence, First: p.first, Count: p.count, Rewound: cut.Epoch, Kept: cut.LSN}
		}
	}
	return nil
}
