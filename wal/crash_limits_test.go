package wal

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing/synctest"
	"time"
)

// Logs that take only so much: one in a second, and one at all.
const (
	crashRated = "d"
	crashQuota = "e"
)

// limit has some logs take only so much.
func (l *crashLife) limit(name string, o *LogOptions) {
	switch name {
	case crashRated:
		o.RateBytes = uint64(2 * l.r.shape.record)
	case crashQuota:
		o.QuotaBytes = uint64(4 * l.r.shape.record)
	}
}

// limited reports whether a log takes only so much.
func (c *clientLog) limited() bool { return c.options.RateBytes != 0 || c.options.QuotaBytes != 0 }

// limits: the log takes as much as it was created to, and what it holds is counted as
// it was before.
func (c *crashCheck) limits(*Volume) error {
	if got, want := c.info.Options, c.base.info.Options; !reflect.DeepEqual(got, want) {
		return fmt.Errorf("has a rate of %d and a quota of %d bytes, it was created with %d and %d", got.RateBytes, got.QuotaBytes, want.RateBytes, want.QuotaBytes)
	}
	if live := uint64(len(run(c.got...))); c.info.LiveBytes != live {
		return fmt.Errorf("is said to hold %d bytes, its records have %d", c.info.LiveBytes, live)
	}
	return nil
}

// overRate reports whether a log may refuse an append for its rate: one that was
// opened is quiet until something is appended. REQUIRES: mu.
func (l *crashLife) overRate(late *crashOp) bool {
	return l.logs[late.log] != nil && l.logs[late.log].options.RateBytes != 0 && slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.kind == crashAppend && op.log == late.log && op != late
	})
}

// overQuota reports whether a log may refuse an append for its quota: if everything
// that it may have would be too much with that. REQUIRES: mu.
func (l *crashLife) overQuota(late *crashOp) bool {
	c := l.logs[late.log]
	if c == nil || c.options.QuotaBytes == 0 {
		return false
	}
	size := late.size()
	if b := l.base.logs[late.log]; b != nil {
		size += int(b.info.LiveBytes)
	}
	for _, op := range l.ops {
		if op.kind == crashAppend && op.log == late.log && op != late && !op.refused {
			size += op.size()
		}
	}
	return uint64(size) > c.options.QuotaBytes
}

// findLimits looks whether an opening has brought logs back as they were in what they
// take: it comes before anything else is asked of the volume.
func (l *crashLife) findLimits() {
	if l.rng.IntN(3) > 0 {
		return
	}
	if l.base.logs[crashRated] != nil && l.tryRate() {
		l.r.seen[sawRateAgain]++
	}
	if l.base.logs[crashQuota] != nil && l.tryQuota() {
		l.r.seen[sawQuotaAgain]++
	}
}

// tryLimits looks whether logs take what they should.
func (l *crashLife) tryLimits() {
	if l.logs[crashRated] != nil {
		time.Sleep(time.Hour) // until all of it is paid for
		l.tryRate()
	}
	if l.logs[crashQuota] != nil {
		l.tryQuota()
		l.setCheckpoint(crashQuota, 0)
		info, err := l.v.Log(crashQuota)
		l.check(err)
		l.truncateTo(crashQuota, info.Next)
	}
}

// tryRate appends more than a second's worth to a quiet log, which takes it, and then a
// little more, which it takes when that is paid for, and not before. It reports whether
// it came to that.
func (l *crashLife) tryRate() bool {
	rate := l.logs[crashRated].options.RateBytes
	began := l.v.clock.now()
	first := l.sized(crashRated, int(rate)+int(rate)/8)
	if l.check(l.append(first)); first.err != nil {
		l.tried(first, nil)
		return false
	}
	second := l.sized(crashRated, 100)
	if l.check(l.append(second)); !l.tried(second, ErrRateQuota) {
		return false
	}
	late, ok := errors.AsType[*RateError](second.err)
	paid := time.Duration(first.size())*time.Second/time.Duration(rate) - time.Second
	if passed := time.Duration(l.v.clock.now() - began); !ok || late.Rate != rate || late.After > paid+1 || late.After < paid-passed {
		l.fail(fmt.Errorf("log %q: behind %d bytes: %w; want it in %v, of which %v have passed", crashRated, first.size(), second.err, paid, passed))
	}
	return true
}

// tryQuota appends one byte more than the log has room for, which it refuses, and
// sometimes what it has room for, which it takes. It reports whether it came to that.
func (l *crashLife) tryQuota() bool {
	c := l.logs[crashQuota]
	synctest.Wait() // for the janitor, which gives some of it up
	was, err := l.v.Log(crashQuota)
	l.check(err)
	held, err := readSpan(l.v, crashQuota, was.First)
	l.check(err)
	room := int(c.options.QuotaBytes) - len(run(held...))
	if room < 100 || room >= l.v.maxBatch {
		return false
	}
	over := l.sized(crashQuota, room+1)
	l.check(l.append(over))
	if now, err := l.v.Log(crashQuota); err == nil && now.First != was.First {
		return false // it was not done yet
	}
	if !l.tried(over, ErrQuota) {
		return false
	}
	if l.rng.IntN(2) == 0 {
		fits := l.sized(crashQuota, room)
		l.check(l.append(fits))
		l.tried(fits, nil)
	}
	return true
}

// tried reports whether an append was refused as it should be, or taken for nil. It may
// not have come to that: the disk is full, or has failed.
func (l *crashLife) tried(op *crashOp, want error) bool {
	if errors.Is(op.err, ErrPoisoned) || errors.Is(op.err, ErrFull) && (want == nil || errors.Is(want, ErrRateQuota)) {
		return false
	}
	if !errors.Is(op.err, want) {
		l.fail(fmt.Errorf("log %q: %d bytes: %w, want %s", op.log, op.size(), op.err, fmt.Sprint(want)))
	}
	return true
}

// sized makes a batch of one record and of so many bytes, framing included, from 100 on.
func (l *crashLife) sized(name string, size int) *crashOp {
	l.r.batch++
	op := &crashOp{kind: crashAppend, log: name, id: l.r.batch, epoch: l.logs[name].states()}
	mark := fmt.Sprintf("%d/0/", op.id)
	rec := mark + strings.Repeat("l", size-len(mark))
	rec = rec[:len(rec)-(len(run(rec))-size)]
	for len(run(rec)) < size { // its length was spelled in fewer bytes than before
		rec += "l"
	}
	op.records = []string{rec}
	return op
}

// size returns the bytes of the append's own records, framing included.
func (op *crashOp) size() int { return len(run(op.records...)) }
