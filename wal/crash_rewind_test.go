package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// all returns the appends of a batch, the lead's first.
func (op *crashOp) all() []*crashOp {
	if op.whole != nil {
		return op.whole
	}
	return []*crashOp{op}
}

// begins reports whether an epoch begins with it.
func (op *crashOp) begins() bool { return op.kind == crashWriter || op.kind == crashRewind }

// findRewinds finds out which rewinds the log went through. Epochs are dense: up to the
// log's own all of them began. Of those who asked for the same one and were not refused
// all but the first asked a volume that was poisoned.
func (c *crashCheck) findRewinds() {
	c.keep = c.base.info.Durable()
	last := c.base.info.Epoch
	for _, op := range c.ops {
		if !op.begins() || op.epoch <= last || op.epoch > c.info.Epoch {
			continue
		}
		if last = op.epoch; op.kind == crashRewind {
			c.rewinds = append(c.rewinds, op)
			c.keep = min(c.keep, op.after)
		}
	}
}

// began returns the rewind that the log's epoch began with.
func (c *crashCheck) began() *crashOp {
	if n := len(c.rewinds); n > 0 && c.rewinds[n-1].epoch == c.info.Epoch {
		return c.rewinds[n-1]
	}
	if c.info.Epoch == c.base.info.Epoch {
		return c.base.rewind
	}
	return nil
}

// clip returns the last record, up to last, of those appended in epoch that rewinds
// have kept.
func (c *crashCheck) clip(epoch Epoch, last LSN) LSN {
	for _, op := range c.rewinds {
		if op.epoch > epoch {
			last = min(last, op.after)
		}
	}
	return last
}

// cutBehind reports whether a rewind kept lsn as its last record.
func (c *crashCheck) cutBehind(lsn LSN) bool {
	return slices.ContainsFunc(c.rewinds, func(op *crashOp) bool { return op.after == lsn })
}

// inSight reports whether everything can be seen that was appended since base.
func (c *crashCheck) inSight() bool {
	return len(c.rewinds) == 0 && c.info.First <= c.base.info.Next
}

// history: the log remembers the rewinds that it went through, and no others.
func (c *crashCheck) history(*Volume) error {
	type cut struct {
		epoch Epoch
		after LSN
	}
	var want, got []cut
	add := func(to cut) {
		// What a later one came to or passed says nothing more.
		want = append(slices.DeleteFunc(want, func(old cut) bool { return old.after >= to.after }), to)
	}
	for _, old := range c.base.info.Rewinds {
		add(cut{old.Epoch, old.LSN})
	}
	for _, op := range c.rewinds {
		add(cut{op.epoch, op.after})
	}
	for _, old := range c.info.Rewinds {
		got = append(got, cut{old.Epoch, old.LSN})
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("was rewound %v, it went through %v", got, want)
	}
	return nil
}

// rewind returns where a rewind leaves a cursor.
func (s shownCursor) rewind(op *crashOp) shownCursor {
	if s.lsn > op.after {
		if s.rewound == 0 {
			s.was = s.lsn
		}
		s.lsn, s.rewound = op.after, op.epoch
	}
	return s
}

// retries returns the producer's last batches, where they ended up. checks are those
// of all logs, last is the producer's last sequence.
func (c *crashCheck) retries(checks map[string]*crashCheck, last uint64) (all []retry) {
	sent := false
	for _, op := range c.ops {
		if op.sequence == 0 {
			continue
		}
		sent = true
		r := retry{op: op}
		sure := true
		if op.sequence <= last {
			for _, o := range op.all() {
				at, discarded, known := checks[o.log].whereabouts(o)
				r.at, r.discarded, sure = append(r.at, at), r.discarded || discarded, sure && known
			}
		}
		if sure {
			all = append(all, r)
		}
	}
	if sent {
		return all[max(0, len(all)-3):]
	}
	for _, r := range c.base.retries {
		for i, at := range r.at {
			// It was there when none of these rewinds had been.
			o := r.op.all()[i]
			if c := checks[o.log]; c != nil && at != 0 {
				last := at + LSN(len(o.records)) - 1
				r.discarded = r.discarded || c.clip(0, last) != last
			}
		}
		all = append(all, r)
	}
	return all
}

// whereabouts returns where a batch that has landed is or was in its log, and whether
// a rewind has discarded some of it. It is not known if nobody was told and nothing of
// it is left. c is nil if the log is gone.
func (c *crashCheck) whereabouts(op *crashOp) (at LSN, discarded, known bool) {
	if c == nil {
		return 0, false, true
	}
	if at = c.placed[op]; at != 0 {
		return at, c.ends[op] != at+LSN(len(op.records))-1, true
	}
	if !c.want.must(op) {
		return 0, false, false
	}
	last := op.verdict.First + LSN(op.verdict.Count) - 1
	return op.verdict.First, c.clip(op.verdict.Epoch, last) != last, true
}

// newRewind makes what takes a log back by some records, mostly no further than it may
// be; nil if there is no such log.
func (l *crashLife) newRewind(name string) *crashOp {
	info, err := l.v.Log(name)
	if err != nil {
		return nil
	}
	low := info.First - 1
	if cp, err := l.v.Checkpoint(context.Background(), name, "cp"); err == nil && l.rng.IntN(3) > 0 {
		low = max(low, cp.LSN)
	}
	l.r.batch++
	op := &crashOp{
		kind: crashRewind, log: name, epoch: l.logs[name].epoch + 1, request: ulid.ULID{1: 1, 14: byte(l.r.batch >> 8), 15: byte(l.r.batch)},
		after: info.Durable() - min(info.Durable()-low, LSN(l.rng.IntN(12))),
	}
	if l.rng.IntN(3) == 0 {
		op.holder = fmt.Sprintf("rewound-%d", l.r.batch)
	}
	return op
}

// rewind takes a log back, sometimes between appends to it, sometimes under a reader
// that has just said how far it is. Its producer may ask for the batch that it took.
func (l *crashLife) rewind(name string) {
	if l.rng.IntN(2) == 0 {
		l.moveCursor(name)
	}
	switch op := l.newRewind(name); {
	case op == nil:
	case l.rng.IntN(3) == 0:
		l.between(op)
	default:
		l.check(l.setRewind(op))
	}
	if l.rng.IntN(2) == 0 {
		l.resolveOne(name)
	}
}

// setRewind takes a log back. The error is one that should not have come.
func (l *crashLife) setRewind(op *crashOp) error {
	l.ask(op)
	l.v.mu.RLock()
	moved := l.v.index.places.moved[l.v.durable.named(op.log).number].end != 0
	l.v.mu.RUnlock()
	got, err := l.v.Rewind(context.Background(), op.log, Rewind{After: op.after, Epoch: op.epoch - 1, Holder: op.holder, Request: op.request})
	if known, unknown := l.answer(op, err); !known {
		return unknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	info, _ := l.v.Log(op.log)
	switch {
	case errors.Is(err, ErrHeld), errors.Is(err, ErrLSNTruncated) && op.after+1 < info.First:
		// What a checkpoint is above may have been given up since the rewind was thought of.
		l.r.seen[sawRewindHeld]++
		return nil
	case errors.Is(err, ErrFull), errors.Is(err, ErrTooManyRewinds), errors.Is(err, ErrSealed) && l.ended(op.log):
		return nil
	case err != nil || got.Log.Epoch != op.epoch || got.Log.Holder != op.holder || got.Log.Next != op.after+1 || got.Repeated:
		return fmt.Errorf("log %q: rewind behind LSN %d, which begins epoch %d of %q: %+v, %w", op.log, op.after, op.epoch, op.holder, got, err)
	}
	l.r.seen[sawRewound]++
	if moved {
		l.r.seen[sawRewoundCopies]++
	}
	l.logs[op.log].epoch, l.logs[op.log].holder = op.epoch, op.holder
	return nil
}

// rewoundBefore asks again for the rewind that the log's epoch began with: it is
// answered as the first time, and discards nothing. The error is one that should not
// have come.
func (l *crashLife) rewoundBefore(name string) error {
	s := l.base.logs[name]
	if s.rewind == nil {
		return nil
	}
	op := s.rewind
	got, err := l.v.Rewind(context.Background(), name, Rewind{After: op.after, Epoch: op.epoch - 1, Holder: op.holder, Request: op.request})
	switch {
	case errors.Is(err, ErrPoisoned):
		return nil
	case err != nil || !got.Repeated || got.Records != 0 || got.Log.Epoch != op.epoch || got.Log.Holder != op.holder || got.Log.Next != s.info.Next:
		return fmt.Errorf("log %q: the rewind behind LSN %d, asked for again when it ends at %d: %+v, %w", name, op.after, s.info.Durable(), got, err)
	}
	l.r.seen[sawRewindRepeat]++
	return nil
}

// overtaken reports whether a rewind may have come after an append was asked for, and
// before it was decided. REQUIRES: mu.
func (l *crashLife) overtaken(late *crashOp) bool {
	return slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.kind == crashRewind && op.log == late.log && !op.refused && (op.answered == 0 || op.answered > late.asked)
	})
}

// gone reports whether a rewind has discarded some of the producer's batch of a
// sequence, if that is known. REQUIRES: mu.
func (l *crashLife) gone(log string, sequence uint64) (discarded, known bool) {
	rewound := func(log string, epoch Epoch, last LSN) bool {
		return slices.ContainsFunc(l.ops, func(op *crashOp) bool {
			return op.kind == crashRewind && op.log == log && op.answered != 0 && !op.refused && op.epoch > epoch && op.after < last
		})
	}
	for _, op := range l.ops {
		if op.kind == crashAppend && op.log == log && op.sequence == sequence && op.answered != 0 && !op.refused {
			return slices.ContainsFunc(op.all(), func(o *crashOp) bool {
				return rewound(o.log, o.verdict.Epoch, o.verdict.First+LSN(o.verdict.Count)-1)
			}), true
		}
	}
	if b := l.base.logs[log]; b != nil {
		for _, r := range b.retries {
			if r.op.sequence != sequence || r.at == nil {
				continue
			}
			for i, o := range r.op.all() {
				r.discarded = r.discarded || r.at[i] != 0 && rewound(o.log, 0, r.at[i]+LSN(len(o.records))-1)
			}
			return r.discarded, true
		}
	}
	return false, false
}

// TestCrashCheckNoticesRewinds looks at a log that was rewound with expectations that
// it does not meet, one after the other, as TestCrashCheckNotices does.
func TestCrashCheckNoticesRewinds(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	info := mustCreate(t, v, "a")
	shown := []string{"1/0/x", "1/1/x"}
	mustAppend(t, v, "a", shown...)
	two := mustAppend(t, v, "a", "2/0/y", "2/1/y")
	gone := mustAppend(t, v, "a", "3/0/z")
	mustCursor(t, v, "a", CursorUpdate{Name: "reader", LSN: 4})
	mustRewind(t, v, "a", Rewind{After: 3})
	behind := mustAppend(t, v, "a", "4/0/v")
	type ops struct{ two, gone, cursor, rewind, behind *crashOp }
	made := func() (*crashWant, *ops) {
		o := &ops{
			two:    &crashOp{kind: crashAppend, log: "a", id: 2, records: []string{"2/0/y", "2/1/y"}, verdict: two, asked: 1, answered: 2},
			gone:   &crashOp{kind: crashAppend, log: "a", id: 3, records: []string{"3/0/z"}, verdict: gone, asked: 3, answered: 4},
			cursor: &crashOp{kind: crashSetCursor, log: "a", cursor: CursorUpdate{LSN: 4}, asked: 5, answered: 6},
			rewind: &crashOp{kind: crashRewind, log: "a", epoch: 2, after: 3, asked: 7, answered: 8},
			behind: &crashOp{kind: crashAppend, log: "a", id: 4, records: []string{"4/0/v"}, verdict: behind, asked: 9, answered: 10},
		}
		base := &shownLog{info: LogInfo{ID: info.ID, Epoch: 1, First: 1, Next: 3}, records: shown, sums: make([]Checksum, 3)}
		for i, rec := range shown {
			base.sums[i+1] = Checksum(crc32.Update(uint32(base.sums[i]), castagnoli, run(rec)))
		}
		life := &crashLife{ops: []*crashOp{o.two, o.gone, o.cursor, o.rewind, o.behind}}
		return &crashWant{base: &crashShown{logs: map[string]*shownLog{"a": base}}, life: life, sure: 99, possible: 99}, o
	}
	w, _ := made()
	if _, err := w.verify(v, map[string]int{}); err != nil {
		t.Fatal(err)
	}
	for name, unmet := range map[string]func(w *crashWant, o *ops){
		"the cut is elsewhere":                   func(_ *crashWant, o *ops) { o.rewind.after = 2 },
		"the cut is behind what was discarded":   func(_ *crashWant, o *ops) { o.rewind.after = 4 },
		"the epoch began otherwise":              func(_ *crashWant, o *ops) { o.rewind.kind = crashWriter },
		"the rewind was refused":                 func(_ *crashWant, o *ops) { o.rewind.refused = true },
		"it was another's":                       func(_ *crashWant, o *ops) { o.rewind.holder = "db" },
		"what is discarded is there":             func(_ *crashWant, o *ops) { o.behind.verdict.Epoch = 1 },
		"what lies behind it is of an old epoch": func(_ *crashWant, o *ops) { o.behind.epoch = 1 },
		"what is kept of a batch is lost":        func(_ *crashWant, o *ops) { o.two.records = append(o.two.records, "2/2/y"); o.two.verdict.Epoch = 2 },
		"a cursor was in front of the cut":       func(_ *crashWant, o *ops) { o.cursor.cursor.LSN = 3 },
		"a cursor was elsewhere":                 func(_ *crashWant, o *ops) { o.cursor.cursor.LSN = 5 },
		"what was shown is discarded": func(w *crashWant, _ *ops) {
			w.base.logs["a"].info.Next, w.base.logs["a"].records = 4, append(shown, "2/0/n")
		},
		"a claim on what is kept does not hold": func(_ *crashWant, o *ops) { o.behind.verdict.Checksum++ },
	} {
		w, o := made()
		unmet(w, o)
		if _, err := w.verify(v, map[string]int{}); err == nil {
			t.Errorf("%s: nobody notices", name)
		}
	}
}
