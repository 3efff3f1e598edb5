package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/crc32c"
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
	colocated string // the log's colocation key
	maxRecord int
	refused   bool // a batch was refused and the binding not reset since

	// seen is the epoch in which it was made, or last heard of a rewind. The bus's lock
	// guards it.
	seen Epoch
	// seat is the number of its Appender; 0 once the producer was opened again, as by
	// who takes it back from whoever bound it last. The bus's lock guards it.
	seat uint64
	// superseded is set when the producer was bound again. The bus's lock guards it.
	superseded bool
}

// A bindKey names a producer of a log.
type bindKey struct {
	log      uint64
	producer ulid.ULID
}

// An Appender is one append stream's seat on the bus. One goroutine at a time
// may call Bind, Reset, Refuse and Append; another one Take.
type Appender struct {
	v      *Volume
	notify func()
	number uint64 // grows from seat to seat

	// Of the goroutine that appends.
	serial uint64 // of the frame it rode in last
	checks []check
	bound  []*Binding // with a producer

	mu     sync.Mutex
	queue  []entry // verdicts in order, told or not; queue[:head] were taken
	head   int
	rides  uint64  // distinct frames it has ridden in
	landed uint64  // how many of them have landed
	staged bool    // see TellWritten
	wrote  uint64  // the last of them that is written
	times  []int64 // when those were committed that have landed since Take was called
	taken  uint64  // verdicts that Take has returned
	failed error   // what the first frame that did not land ended with
	inside bool    // the appending goroutine will Take by itself
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

// space returns what a batch with these checks may take of the written space, in
// bytes. What is refused in any case takes none, and must not wait for any.
func (b *Batch) space(checks []check) int {
	for i := range checks {
		if checks[i].err != nil {
			return 0
		}
	}
	return b.size() + len(checks)*maxAppendBytes
}

// size returns the bytes of all the batch's runs.
func (b *Batch) size() int {
	size := len(b.Run)
	for i := range b.Parts {
		size += len(b.Parts[i].Run)
	}
	return size
}

// NewAppender returns a seat. notify is called when Take has something new, on
// the goroutine that lands frames: it must not block. It is not called for
// what landed while Append was under way on the appending goroutine: after
// Append has returned, that goroutine calls Take by itself.
func (v *Volume) NewAppender(notify func()) *Appender {
	return &Appender{v: v, notify: notify, number: v.seats.Add(1)}
}

// TellWritten has the seat told of a stage in front of each verdict: notify is also
// called when Written has grown, on the goroutine that makes frames durable, and also
// while Append is under way. It comes before the first Append. Other seats pay nothing for it.
func (a *Appender) TellWritten() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.staged = true
}

// Written returns how many of the seat's batches, counted from its first, are at
// least written: handed to the file system in their frame, and not yet synced. They
// survive the death of this process, and may be lost with the machine, as if they
// never were, or with a sync that fails. A batch that was refused, or was a repeat,
// has nothing to be written and counts with those around it. What became of each,
// Take tells in any case, and never before it is durable. Without
// TellWritten, and once the volume has failed, it counts what Take has returned.
//
//	Append ──► frame N is written ──► Written = 3 ──► synced ──► Take: 3 verdicts
//	                 │                                   │
//	                 └── machine dies: none of them was  └── fails: outcome unknown
//
// With writes past the page cache they are on their way to the disk instead of in the
// page cache, which may have them in a cache of its own: no more is promised then.
func (a *Appender) Written() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.taken
	if a.staged && a.failed == nil {
		out := a.queue[a.head:]
		n += uint64(sort.Search(len(out), func(i int) bool { return out[i].ride > a.wrote }))
	}
	return n
}

// Bind opens a log for appending. producer.ID may be zero, for none: then batches
// carry no sequence and a retry is not safe. epoch is that of the log's writer,
// zero for an appender that is not one. It returns ErrLogNotFound, ErrNoProducer,
// ErrRetired, ErrSuperseded for an incarnation that is over, or a *DataLossError if
// what the client was last acknowledged cannot be proven.
//
// An epoch that is over, and a seal, are no reason: they refuse each batch that is not
// a repeat. A fenced writer that sends again what it does not know the fate of hears
// where that is, or that it is nowhere. Nor is it for a binding without a producer,
// which has no repeats of its own: it may be that of a part, of a batch that is one.
//
// It ends earlier bindings of the same producer, on whatever Appender: a batch
// that is still on its way through an old stream must not land once the client
// was told on a new one what became of it.
//
//	old stream                    new stream
//	7 sent, in a buffer
//	                              bind; 7 sent again: refused; 7 is dropped
//	7 arrives: ErrSuperseded
//
// A bind that is late itself ends nothing: it is ErrSuperseded while a seat that was
// taken after its own has the producer bound, unless that was opened since.
func (a *Appender) Bind(log string, producer Producer, epoch Epoch, c Claim) (*Binding, LogInfo, ProducerInfo, error) {
	// The claim second: of a rewind in between the binding would not tell.
	b, info, p, err := a.bind(log, producer, epoch)
	if unproven := a.v.CheckClaim(log, c); unproven != nil {
		err = unproven
	}
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
		if old.seat > a.number && old.producer == b.producer {
			return fmt.Errorf("log %q: producer %s: %w", b.name, b.producer.ID, ErrSuperseded)
		}
		old.superseded = true
	}
	b.seat = a.number
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
	b := &Binding{Log: l.id, name: l.name, number: l.number, epoch: epoch, colocated: l.options.ColocationKey, maxRecord: l.maxRecord(), seen: l.epoch}
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
	return b, l.info(), p, nil
}

// rewinds returns a *RewoundError, once for each time, if the log was rewound since
// the binding was made: it states no epoch, and the rest of what it has under way must
// not land behind a hole. REQUIRES: boarded.
func (b *Binding) rewinds(l *logState) error {
	h := l.history()
	cut, ok := h.since(b.seen)
	b.seen = l.epoch
	if !ok {
		return nil
	}
	return l.rewoundAt(cut, cut.Next-1)
}

// Reset lets a binding append again after a refusal.
func (a *Appender) Reset(b *Binding) { b.refused = false }

// Refuse has later batches of a binding refused with ErrAfterRefusal until Reset,
// as behind a refusal: for who refused one by itself.
func (a *Appender) Refuse(b *Binding) { b.refused = true }

// Append sequences batches, in order. Each gets a verdict through Take, in
// order, when it can no longer be lost, or when what refused it can no longer
// be lost. After a refusal, later batches of that binding are refused with
// ErrAfterRefusal until Reset: if it was over several logs, those of every binding
// in it, and so is a batch of which any binding was refused.
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
		a.checks = v.check(a.checks, &batches[i])
	}
	checks := a.checks // of the batches from i on
	for i := 0; i < len(batches); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		f, full, err := v.board(ctx, batches[i].space(checks[:1+len(batches[i].Parts)]), forRecords)
		if err != nil {
			return err
		}
		a.mu.Lock()
		if a.serial != f.Serial {
			// Once for each frame: landings are counted.
			a.serial = f.Serial
			a.rides++
			f.Ride(a)
			if a.staged {
				f.Watch(watcher{a}, a.rides)
			}
		}
		for first := true; i < len(batches); i++ {
			own := checks[:1+len(batches[i].Parts)]
			if !first {
				if f.RawSize() >= v.fullSize || f.Commands() >= limits.FrameFullCommands {
					break
				}
				if full = v.admit(batches[i].space(own), forRecords); full != nil && !errors.Is(full, ErrFull) {
					break // board waits, or says why not
				}
			}
			first = false
			verdict := v.sequence(f, &batches[i], own, full)
			if verdict.Err != nil {
				v.counters.refuse(verdict.Err)
			}
			a.queue = append(a.queue, entry{a.rides, verdict})
			checks = checks[len(own):]
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

// check does what needs no state, of a batch and of each of its parts: walking and
// summing a run takes time that nobody else should wait for.
func (v *Volume) check(dst []check, b *Batch) []check {
	lead := len(dst)
	dst = append(dst, v.checkRun(b.Binding, b.Run))
	for i := range b.Parts {
		dst = append(dst, v.checkRun(b.Parts[i].Binding, b.Parts[i].Run))
	}
	if len(b.Parts) > 0 && dst[lead].err == nil {
		dst[lead].err = v.checkParts(b)
	}
	return dst
}

func (v *Volume) checkRun(b *Binding, run []byte) check {
	c := check{sum: crc32.Checksum(run, castagnoli)}
	switch {
	case len(run) == 0:
		c.err = fmt.Errorf("log %q: %w: a batch has at least one record", b.name, ErrEmptyBatch)
	case len(run) > v.maxBatch:
		c.err = fmt.Errorf("log %q: batch of %d bytes: %w: it is %d", b.name, len(run), ErrTooLarge, v.maxBatch)
	default:
		n, err := records.Check(run, b.maxRecord)
		c.count = n
		switch {
		case err != nil:
			what := ErrMalformed
			if _, large := errors.AsType[*records.TooLargeError](err); large {
				what = ErrTooLarge
			}
			c.err = fmt.Errorf("log %q: %w: %w", b.name, what, err)
		case n > limits.MaxBatchRecords:
			c.err = fmt.Errorf("log %q: batch of %d records: %w: it is %d", b.name, n, ErrTooLarge, limits.MaxBatchRecords)
		}
	}
	return c
}

// checkParts says what is wrong with a batch over several logs as a whole: it has
// to fit where any batch fits, so that one frame takes all of it.
func (v *Volume) checkParts(b *Batch) error {
	if n := 1 + len(b.Parts); n > limits.MaxBatchLogs {
		return fmt.Errorf("log %q: batch over %d logs: %w: it is %d", b.Binding.name, n, ErrTooLarge, limits.MaxBatchLogs)
	}
	if size := b.size(); size > v.maxBatch {
		return fmt.Errorf("log %q: batch of %d bytes over %d logs: %w: it is %d", b.Binding.name, size, 1+len(b.Parts), ErrTooLarge, v.maxBatch)
	}
	for i := range b.Parts {
		t := b.Parts[i].Binding
		// By the log, not by the binding: one log may be bound twice.
		twice := t.number == b.Binding.number
		for k := range b.Parts[:i] {
			twice = twice || b.Parts[k].Binding.number == t.number
		}
		switch {
		case twice:
			return &PartError{t.name, fmt.Errorf("log %q: %w", t.name, ErrDuplicateLog)}
		case !colocated(b.Binding.colocated, t.colocated):
			return &PartError{t.name, fmt.Errorf("log %q: %w: it has %q, log %q has %q", t.name, ErrNotColocated, t.colocated, b.Binding.name, b.Binding.colocated)}
		}
	}
	return nil
}

// sequence decides one batch against the state ahead: the one critical section
// of an append. checks are its own and those of its parts; full says that there is
// no space for it. REQUIRES: boarded.
func (v *Volume) sequence(f *batcher.Frame, batch *Batch, checks []check, full error) Verdict {
	b := batch.Binding
	verdict := Verdict{Binding: b, Tag: batch.Tag, Sequence: batch.Sequence}
	refuse := func(err error) Verdict {
		b.refused = true
		for i := range batch.Parts {
			batch.Parts[i].Binding.refused = true
		}
		verdict.Err = err
		return verdict
	}
	l := v.ahead.mutable(b.number)
	if l == nil {
		return refuse(b.deleted())
	}

	// Producer and sequence first: a repeat is answered with what the first
	// append got, also where its condition or quota would fail by now.
	if b.slot != 0 {
		p := l.producers[b.slot-1]
		if err := b.standing(l); err != nil {
			return refuse(err)
		}
		switch {
		case batch.Sequence == 0:
			return refuse(fmt.Errorf("log %q: %w: a producer's batches are numbered from 1", b.name, ErrInvalid))
		case batch.Sequence <= p.last:
			verdict.Repeated = true
			was, kept := p.recall(batch.Sequence)
			if !kept {
				return verdict
			}
			parts := p.partsOf(batch.Sequence)
			if was.runSum != checks[0].sum || int(was.count) != checks[0].count || !sameParts(batch.Parts, checks[1:], parts) {
				verdict.Repeated = false
				return refuse(fmt.Errorf("log %q: sequence %d: %w", b.name, batch.Sequence, ErrSequenceReuse))
			}
			if err := v.ahead.discarded(b.name, was, parts); err != nil {
				verdict.Repeated = false
				return refuse(err)
			}
			verdict.First, verdict.Count, verdict.Checksum, verdict.Epoch = was.first, was.count, was.checksum, was.epoch
			for i := range parts {
				verdict.add(batch.Parts[i].Binding, &Command{First: parts[i].first, Count: parts[i].count, Checksum: parts[i].checksum, Epoch: parts[i].epoch})
			}
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
	// Everything is asked of every log before anything is taken of one.
	if err := b.takes(l, batch.Expected, batch.Run, &checks[0]); err != nil {
		return refuse(err)
	}
	for i := range batch.Parts {
		t := &batch.Parts[i]
		if err := v.takesPart(t, &checks[1+i]); err != nil {
			return refuse(&PartError{t.Binding.name, err})
		}
	}
	if full != nil {
		return refuse(full)
	}
	// Last of all: what is refused for anything else uses nothing up.
	if err := v.spend(batch, l); err != nil {
		return refuse(err)
	}

	cmd := b.command(l, batch.Run, &checks[0])
	cmd.Slot, cmd.Sequence, cmd.Parts = b.slot, batch.Sequence, uint32(len(batch.Parts))
	v.put(f, &cmd, batch.Run)
	verdict.First, verdict.Count, verdict.Checksum, verdict.Epoch = cmd.First, cmd.Count, cmd.Checksum, cmd.Epoch
	for i := range batch.Parts {
		t := &batch.Parts[i]
		part := t.Binding.command(v.ahead.logs.get(t.Binding.number), t.Run, &checks[1+i])
		part.Kind, part.Lead = CommandAppendPart, b.number
		v.put(f, &part, t.Run)
		verdict.add(t.Binding, &part)
	}
	return verdict
}

// add adds where a part is.
func (d *Verdict) add(b *Binding, c *Command) {
	d.Parts = append(d.Parts, PartVerdict{Log: b.Log, Name: b.name, First: c.First, Count: c.Count, Checksum: c.Checksum, Epoch: c.Epoch})
}

// sameParts reports whether the parts of a batch are those that were appended
// under its sequence.
func sameParts(parts []Part, checks []check, was []partState) bool {
	if len(parts) != len(was) {
		return false
	}
	for i := range was {
		w, c := &was[i], &checks[i]
		if w.log != parts[i].Binding.number || w.runSum != c.sum || int(w.count) != c.count {
			return false
		}
	}
	return true
}

// deleted returns the refusal of what is for a log that is gone.
func (b *Binding) deleted() error {
	return fmt.Errorf("log %q: %w: it was deleted", b.name, ErrLogNotFound)
}

// standing returns why the binding's producer is not bound by it any more, nil if
// it is. REQUIRES: it has one.
func (b *Binding) standing(l *logState) error {
	p := l.producers[b.slot-1]
	switch {
	case b.superseded:
		return fmt.Errorf("log %q: producer %s: %w", b.name, b.producer.ID, ErrSuperseded)
	case p.id != b.producer.ID:
		return fmt.Errorf("log %q: producer %s: %w: others were opened since it last appended", b.name, b.producer.ID, ErrNoProducer)
	}
	return p.supersedes(l, b.producer)
}

// takes returns why the log takes no such run, nil if it does; of its rate nothing
// is said yet.
func (b *Binding) takes(l *logState, expected LSN, run []byte, c *check) error {
	if b.refused {
		return fmt.Errorf("log %q: %w", b.name, ErrAfterRefusal)
	}
	// Of every batch, not once when the log was bound: a writer that was acquired
	// since lies in front of it, and so does a seal.
	if err := l.closed(b.epoch); err != nil {
		return err
	}
	if err := b.rewinds(l); err != nil {
		return err
	}
	switch {
	case c.err != nil:
		return c.err
	case expected != 0 && expected != l.next:
		return &MismatchError{Log: b.name, Expected: expected, Next: l.next}
	case l.options.QuotaBytes != 0 && l.liveBytes+uint64(len(run)) > l.options.QuotaBytes:
		return fmt.Errorf("log %q: %w: it holds %d of %d bytes, and the batch has %d", b.name, ErrQuota, l.liveBytes, l.options.QuotaBytes, len(run))
	}
	return nil
}

// takesPart is takes for a part. A producer of its binding counts no batch, and has
// to be one that could append: who was superseded has somebody who goes on for it.
func (v *Volume) takesPart(t *Part, c *check) error {
	b := t.Binding
	l := v.ahead.logs.get(b.number)
	if l == nil {
		return b.deleted()
	}
	if b.slot != 0 {
		if err := b.standing(l); err != nil {
			return err
		}
		if l.producers[b.slot-1].retired {
			return fmt.Errorf("log %q: producer %s: %w", b.name, b.producer.ID, ErrRetired)
		}
	}
	return b.takes(l, t.Expected, t.Run, c)
}

// spend takes a batch off the rates of its logs, or returns a *RateError and takes
// nothing. l is the lead's.
func (v *Volume) spend(batch *Batch, l *logState) error {
	var now int64 // the clock is read if there is a rate at all
	late := func(l *logState) error {
		if l.options.RateBytes == 0 {
			return nil
		}
		if now == 0 {
			now = v.clock.now()
		}
		if after := v.rates.wait(l.number, now); after > 0 {
			return &RateError{Log: l.name, Rate: l.options.RateBytes, After: after}
		}
		return nil
	}
	if err := late(l); err != nil {
		return err
	}
	for i := range batch.Parts {
		b := batch.Parts[i].Binding
		if err := late(v.ahead.logs.get(b.number)); err != nil {
			return &PartError{b.name, err}
		}
	}
	if rate := l.options.RateBytes; rate != 0 {
		v.rates.spend(l.number, rate, len(batch.Run), now)
	}
	for i := range batch.Parts {
		t := &batch.Parts[i]
		if rate := v.ahead.logs.get(t.Binding.number).options.RateBytes; rate != 0 {
			v.rates.spend(t.Binding.number, rate, len(t.Run), now)
		}
	}
	return nil
}

// command returns the append of a run at the log's end.
func (b *Binding) command(l *logState, run []byte, c *check) Command {
	return Command{
		Kind: CommandAppend, Log: b.number, Epoch: l.epoch, Rewound: l.rewound(), First: l.next, Count: uint32(c.count), RunSum: c.sum,
		Checksum: Checksum(crc32c.Extend(uint32(l.checksum), run, c.sum)), Start: l.totalBytes,
	}
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
		a.times = append(a.times, a.v.landing)
	}
	inside := a.inside
	a.mu.Unlock()
	if !inside {
		a.notify()
	}
}

// A watcher is an Appender as batcher.Watcher: what the Appender calls Written is
// another thing.
type watcher struct{ a *Appender }

// Written implements batcher.Watcher: the rides up to one are written. The
// appending goroutine is told, too, though it takes what lands by itself: if it
// drives the frame, it comes back when it is durable.
func (w watcher) Written(ride uint64) {
	w.a.mu.Lock()
	w.a.wrote = ride
	w.a.mu.Unlock()
	w.a.notify()
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
		if e.verdict.Err == nil && !e.verdict.Repeated {
			e.verdict.Committed = a.times[len(a.times)-1-int(a.landed-e.ride)]
		}
		dst = append(dst, e.verdict)
		*e = entry{}
		a.head++
		a.taken++
	}
	a.times = a.times[:0] // all that has landed was taken
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

// Append appends one batch to a log, and its parts to those they name, and waits
// for its verdict. The error is the verdict's, or the context's with the outcome
// unknown.
func (v *Volume) Append(ctx context.Context, log string, producer ulid.ULID, epoch Epoch, b Batch) (Verdict, error) {
	return v.AppendBehind(ctx, log, producer, epoch, Claim{}, b)
}

// AppendBehind is Append for who was acknowledged something before, which is proven
// first: see CheckClaim. An append does not land behind records that its caller takes
// for others.
func (v *Volume) AppendBehind(ctx context.Context, log string, producer ulid.ULID, epoch Epoch, c Claim, b Batch) (Verdict, error) {
	ready := make(chan struct{}, 1)
	a := v.NewAppender(func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	// A unary append is not a stream, and supersedes none.
	binding, _, _, err := a.bind(log, Producer{producer, b.Incarnation}, epoch)
	if unproven := v.CheckClaim(log, c); unproven != nil { // behind bind, as in Bind
		err = unproven
	}
	if err != nil {
		return Verdict{}, err
	}
	b.Binding = binding
	b.Parts = slices.Clone(b.Parts)
	for i := range b.Parts {
		t := &b.Parts[i]
		if t.Binding, _, _, err = a.bind(t.Log, Producer{}, t.Epoch); err != nil {
			return Verdict{}, err
		}
	}
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
