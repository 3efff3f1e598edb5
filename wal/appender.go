package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

// A Binding is a log opened for appending on an Appender.
type Binding struct {
	// Tag is the caller's own.
	Tag uint64
	// Log is the log's ULID.
	Log ulid.ULID

	name      string
	number    uint64
	producer  Producer
	slot      uint64 // of the producer; 0 for none
	epoch     Epoch  // what the appender claims to write in; 0 for a log without a writer
	maxRecord int
	refused   bool // a batch was refused and the binding not reset since

	// superseded is set when the producer was bound again. The bus's lock guards it.
	superseded bool
}

// A bindKey names a producer of a log.
type bindKey struct {
	log      uint64
	producer ulid.ULID
}

// An Appender is one append stream's seat on the bus. One goroutine at a time
// may call Bind, Reset and Append; another one Take.
type Appender struct {
	v      *Volume
	notify func()

	// Of the goroutine that appends.
	serial uint64 // of the frame it rode in last
	checks []check
	bound  []*Binding // with a producer

	mu     sync.Mutex
	queue  []entry // verdicts in order, told or not; queue[:head] were taken
	head   int
	rides  uint64 // distinct frames it has ridden in
	landed uint64 // how many of them have landed
	failed error  // what the first frame that did not land ended with
	inside bool   // the appending goroutine will Take by itself
}

// An entry is a verdict that may be told when its ride has landed.
type entry struct {
	ride    uint64
	verdict Verdict
}

// A check is what there is to know of a batch without the state.
type check struct {
	count int
	sum   uint32
	err   error
}

// space returns what a batch may take of the written space, in bytes. What is
// refused in any case takes none, and must not wait for any.
func (c *check) space(b *Batch) int {
	if c.err != nil {
		return 0
	}
	return len(b.Run) + maxAppendBytes
}

// NewAppender returns a seat. notify is called when Take has something new, on
// the goroutine that lands frames: it must not block. It is not called for
// what landed while Append was under way on the appending goroutine: after
// Append has returned, that goroutine calls Take by itself.
func (v *Volume) NewAppender(notify func()) *Appender {
	return &Appender{v: v, notify: notify}
}

// Bind opens a log for appending. producer.ID may be zero, for none: then batches
// carry no sequence and a retry is not safe. epoch is that of the log's writer,
// zero for an appender that is not one. It returns ErrLogNotFound, ErrNoProducer,
// ErrRetired, ErrSuperseded for an incarnation that is over, without a producer a
// *SealedError or a *FencedError, or a *DataLossError if what the client was last
// acknowledged cannot be proven.
//
// It ends earlier bindings of the same producer, on whatever Appender: a batch
// that is still on its way through an old stream must not land once the client
// was told on a new one what became of it.
//
//	old stream                    new stream
//	7 sent, in a buffer
//	                              bind; 7 sent again: refused; 7 is dropped
//	7 arrives: ErrSuperseded
func (a *Appender) Bind(log string, producer Producer, epoch Epoch, c Claim) (*Binding, LogInfo, ProducerInfo, error) {
	if err := a.v.CheckClaim(log, c); err != nil {
		return nil, LogInfo{}, ProducerInfo{}, err
	}
	b, info, p, err := a.bind(log, producer, epoch)
	if err == nil && b.slot != 0 {
		err = a.supersede(b)
	}
	if err != nil {
		return nil, LogInfo{}, ProducerInfo{}, err
	}
	return b, info, p, nil
}

// supersede makes b the only binding of its producer.
func (a *Appender) supersede(b *Binding) error {
	v := a.v
	if v.readOnly != nil {
		return v.readOnly
	}
	if _, err := v.bus.Board(); err != nil {
		return v.wrap(err)
	}
	defer v.bus.LeaveUnused()
	key := bindKey{b.number, b.producer.ID}
	if old := v.bound[key]; old != nil {
		old.superseded = true
	}
	v.bound[key] = b
	a.bound = append(a.bound, b)
	return nil
}

// Close gives the seat up. What was sequenced lands all the same. It must not be
// called while Bind or Append runs; closing again does nothing.
func (a *Appender) Close() {
	if len(a.bound) == 0 {
		return
	}
	if _, err := a.v.bus.Board(); err != nil {
		return // nobody boards any more
	}
	defer a.v.bus.LeaveUnused()
	for _, b := range a.bound {
		if key := (bindKey{b.number, b.producer.ID}); a.v.bound[key] == b {
			delete(a.v.bound, key)
		}
	}
	a.bound = nil
}

// bind looks the log and the producer up in the durable state.
func (a *Appender) bind(log string, producer Producer, epoch Epoch) (*Binding, LogInfo, ProducerInfo, error) {
	a.v.mu.RLock()
	defer a.v.mu.RUnlock()
	l, err := a.v.lookup(log)
	if err != nil {
		return nil, LogInfo{}, ProducerInfo{}, err
	}
	b := &Binding{Log: l.id, name: l.name, number: l.number, epoch: epoch, maxRecord: l.maxRecord()}
	p := ProducerInfo{Window: limits.ProducerWindow}
	if producer.ID != (ulid.ULID{}) {
		b.producer = producer
		var err error
		if b.slot, err = l.open(producer.ID); err != nil {
			return nil, LogInfo{}, ProducerInfo{}, err
		}
		open := l.producers[b.slot-1]
		p.LastSequence, p.Incarnation = open.last, open.incarnation
		if producer.Incarnation == 0 {
			b.producer.Incarnation = 1
		}
		if err := open.supersedes(l, b.producer); err != nil {
			return nil, LogInfo{}, ProducerInfo{}, err
		}
	}
	// With a producer the answer is each batch's own: a fenced writer that sends
	// again what it does not know the fate of hears where that is, or that it is
	// nowhere.
	if b.slot == 0 {
		if err := l.closed(epoch); err != nil {
			return nil, LogInfo{}, ProducerInfo{}, err
		}
	}
	return b, l.info(), p, nil
}

// Reset lets a binding append again after a refusal.
func (a *Appender) Reset(b *Binding) { b.refused = false }

// Append sequences batches, in order. Each gets a verdict through Take, in
// order, when it can no longer be lost, or when what refused it can no longer
// be lost. After a refusal, later batches of that binding are refused with
// ErrAfterRefusal until Reset.
//
// It blocks while the bus is full. The error is ErrReadOnly, ErrPoisoned or
// ErrClosed: batches it had not come to get no verdict and were not appended.
func (a *Appender) Append(ctx context.Context, batches []Batch) error {
	v := a.v
	if v.readOnly != nil {
		return v.readOnly
	}
	a.checks = a.checks[:0]
	for i := range batches {
		a.checks = append(a.checks, v.check(&batches[i]))
	}
	for i := 0; i < len(batches); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		f, full, err := v.board(ctx, a.checks[i].space(&batches[i]), forRecords)
		if err != nil {
			return err
		}
		a.mu.Lock()
		if a.serial != f.Serial {
			// Once for each frame: landings are counted.
			a.serial = f.Serial
			a.rides++
			f.Ride(a)
		}
		for first := true; i < len(batches); i++ {
			if !first {
				if f.RawSize() >= v.fullSize || f.Commands() >= limits.MaxCommandsPerFrame {
					break
				}
				if full = v.admit(a.checks[i].space(&batches[i]), forRecords); full != nil && !errors.Is(full, ErrFull) {
					break // board waits, or says why not
				}
			}
			first = false
			a.queue = append(a.queue, entry{a.rides, v.sequence(f, &batches[i], &a.checks[i], full)})
		}
		a.inside = true
		a.mu.Unlock()
		v.bus.Leave()
		a.mu.Lock()
		a.inside = false
		ready := a.ready()
		a.mu.Unlock()
		if ready && i < len(batches) {
			a.notify() // the next Board may wait: do not keep these back
		}
	}
	return nil
}

// check does what needs no state: walking and summing a run takes time that
// nobody else should wait for.
func (v *Volume) check(b *Batch) check {
	c := check{sum: crc32.Checksum(b.Run, castagnoli)}
	switch {
	case len(b.Run) == 0:
		c.err = fmt.Errorf("log %q: %w: a batch has at least one record", b.Binding.name, ErrEmptyBatch)
	case len(b.Run) > v.maxBatch:
		c.err = fmt.Errorf("log %q: batch of %d bytes: %w: it is %d", b.Binding.name, len(b.Run), ErrTooLarge, v.maxBatch)
	default:
		n, err := records.Check(b.Run, b.Binding.maxRecord)
		c.count = n
		var large *records.TooLargeError
		switch {
		case errors.As(err, &large):
			c.err = fmt.Errorf("log %q: %w: %w", b.Binding.name, ErrTooLarge, err)
		case err != nil:
			c.err = fmt.Errorf("log %q: %w: %w", b.Binding.name, ErrMalformed, err)
		case n > limits.MaxBatchRecords:
			c.err = fmt.Errorf("log %q: batch of %d records: %w: it is %d", b.Binding.name, n, ErrTooLarge, limits.MaxBatchRecords)
		}
	}
	return c
}

// sequence decides one batch against the state ahead: the one critical section
// of an append. full says that there is no space for it. REQUIRES: boarded.
func (v *Volume) sequence(f *batcher.Frame, batch *Batch, c *check, full error) Verdict {
	b := batch.Binding
	verdict := Verdict{Binding: b, Tag: batch.Tag, Sequence: batch.Sequence}
	refuse := func(err error) Verdict {
		b.refused = true
		verdict.Err = err
		return verdict
	}
	l := v.ahead.mutable(b.number)
	if l == nil {
		return refuse(fmt.Errorf("log %q: %w: it was deleted", b.name, ErrLogNotFound))
	}

	// Producer and sequence first: a repeat is answered with what the first
	// append got, also where its condition or quota would fail by now.
	if b.slot != 0 {
		p := l.producers[b.slot-1]
		switch {
		case b.superseded:
			return refuse(fmt.Errorf("log %q: producer %s: %w", b.name, b.producer.ID, ErrSuperseded))
		case p.id != b.producer.ID:
			return refuse(fmt.Errorf("log %q: producer %s: %w: others were opened since it last appended", b.name, b.producer.ID, ErrNoProducer))
		case p.incarnation != b.producer.Incarnation:
			return refuse(p.supersedes(l, b.producer))
		case batch.Sequence == 0:
			return refuse(fmt.Errorf("log %q: %w: a producer's batches are numbered from 1", b.name, ErrInvalid))
		case batch.Sequence <= p.last:
			was, kept := p.recall(batch.Sequence)
			if !kept {
				verdict.Repeated = true
				return verdict
			}
			if was.runSum != c.sum || int(was.count) != c.count {
				return refuse(fmt.Errorf("log %q: sequence %d: %w", b.name, batch.Sequence, ErrSequenceReuse))
			}
			verdict.Repeated = true
			verdict.First, verdict.Count, verdict.Checksum, verdict.Epoch = was.first, was.count, was.checksum, was.epoch
			return verdict
		case b.refused:
			return refuse(fmt.Errorf("log %q: %w", b.name, ErrAfterRefusal))
		case p.retired:
			return refuse(fmt.Errorf("log %q: producer %s: %w", b.name, b.producer.ID, ErrRetired))
		case batch.Sequence != p.last+1:
			return refuse(&SequenceError{Log: b.name, Got: batch.Sequence, Want: p.last + 1})
		}
	} else if batch.Sequence != 0 {
		return refuse(fmt.Errorf("log %q: %w: a sequence needs a producer", b.name, ErrInvalid))
	}
	if b.refused {
		return refuse(fmt.Errorf("log %q: %w", b.name, ErrAfterRefusal))
	}
	// Of every batch, not once when the log was bound: a writer that was acquired
	// since lies in front of it, and so does a seal.
	if err := l.closed(b.epoch); err != nil {
		return refuse(err)
	}
	switch {
	case c.err != nil:
		return refuse(c.err)
	case batch.Expected != 0 && batch.Expected != l.next:
		return refuse(&MismatchError{Log: b.name, Expected: batch.Expected, Next: l.next})
	case l.options.QuotaBytes != 0 && l.liveBytes+uint64(len(batch.Run)) > l.options.QuotaBytes:
		return refuse(fmt.Errorf("log %q: %w: it holds %d of %d bytes; set a checkpoint or truncate", b.name, ErrQuota, l.liveBytes, l.options.QuotaBytes))
	case full != nil:
		return refuse(full)
	}
	// Last of all: what is refused for anything else uses nothing up.
	if rate := l.options.RateBytes; rate != 0 {
		if after := v.rates.spend(b.number, rate, len(batch.Run), v.clock.now()); after > 0 {
			return refuse(&RateError{Log: b.name, Rate: rate, After: after})
		}
	}

	cmd := Command{
		Kind: CommandAppend, Log: b.number, Epoch: l.epoch, Slot: b.slot, Sequence: batch.Sequence,
		First: l.next, Count: uint32(c.count), RunSum: c.sum,
		Checksum: Checksum(crc32.Update(uint32(l.checksum), castagnoli, batch.Run)), Start: l.totalBytes,
	}
	v.put(f, &cmd, batch.Run)
	verdict.First, verdict.Count, verdict.Checksum, verdict.Epoch = cmd.First, cmd.Count, cmd.Checksum, cmd.Epoch
	return verdict
}

// maxAppendBytes is more than an append command takes in a directory.
const maxAppendBytes = 128

// Landed implements batcher.Rider: the oldest ride that had not landed has.
func (a *Appender) Landed(_ uint64, err error) {
	a.mu.Lock()
	if err != nil && a.failed == nil {
		a.failed = a.v.wrap(err)
	}
	if a.failed == nil {
		a.landed++
	}
	inside := a.inside
	a.mu.Unlock()
	if !inside {
		a.notify()
	}
}

// ready reports whether Take would return something. REQUIRES: mu.
func (a *Appender) ready() bool {
	return a.head < len(a.queue) && (a.failed != nil || a.queue[a.head].ride <= a.landed)
}

// Take appends to dst the verdicts that may be told by now, in order. Those of
// a frame that did not land carry ErrPoisoned or ErrClosed: their outcome is unknown.
func (a *Appender) Take(dst []Verdict) []Verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.ready() {
		e := &a.queue[a.head]
		if e.ride > a.landed {
			e.verdict = Verdict{Binding: e.verdict.Binding, Tag: e.verdict.Tag, Sequence: e.verdict.Sequence,
				Err: fmt.Errorf("outcome unknown: %w", a.failed)}
		}
		dst = append(dst, e.verdict)
		*e = entry{}
		a.head++
	}
	switch {
	case a.head == len(a.queue):
		a.queue, a.head = a.queue[:0], 0
	case a.head >= len(a.queue)/2:
		n := copy(a.queue, a.queue[a.head:])
		clear(a.queue[n:])
		a.queue, a.head = a.queue[:n], 0
	}
	return dst
}

// Pending returns how many verdicts were not taken yet.
func (a *Appender) Pending() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue) - a.head
}

// Append appends one batch to a log and waits for its verdict. The error is the
// verdict's, or the context's with the outcome unknown.
func (v *Volume) Append(ctx context.Context, log string, producer ulid.ULID, epoch Epoch, b Batch) (Verdict, error) {
	ready := make(chan struct{}, 1)
	a := v.NewAppender(func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	// A unary append is not a stream, and supersedes none.
	binding, _, _, err := a.bind(log, Producer{producer, b.Incarnation}, epoch)
	if err != nil {
		return Verdict{}, err
	}
	b.Binding = binding
	if err := a.Append(ctx, []Batch{b}); err != nil {
		return Verdict{}, err
	}
	for {
		if got := a.Take(nil); len(got) > 0 {
			return got[0], got[0].Err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return Verdict{}, fmt.Errorf("log %q: outcome unknown: %w", log, context.Cause(ctx))
		}
	}
}
