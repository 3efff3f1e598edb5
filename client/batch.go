package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
)

// A Receipt is the acknowledgement of an append: its records survive any crash.
// (Log, Epoch, LSN) names a record for ever. MarshalText spells it as one line, to be
// kept, and to be proven later: see Client.VerifyReceipt and walctl verify-receipt.
type Receipt struct {
	Volume ulid.ULID
	Log    ulid.ULID
	Name   string // of the log
	Epoch  uint64
	LSN    LSN // of the append's first record
	Count  int // of its records; the others follow the first
	// LogChecksum is the log's running checksum behind Through, which is the last
	// record of the batch that the append travelled in: at or above its own last.
	LogChecksum uint32
	Through     LSN
	// Committed is when the append was committed, by the service's clock; zero if it
	// is Repeated: when that was, only the first answer told.
	Committed time.Time
	// Repeated is true if the service had it already when it was sent again.
	Repeated bool
}

// A Future is an append under way.
type Future struct {
	batch *batch
	skip  int // records before it in the batch
	count int
	err   error // why it was not taken, if batch is nil
}

// Wait returns the receipt when the append is durable, or why it is not. If ctx
// ends first, the error Is ErrUnknownOutcome and the context's cause, and the
// append goes on. It may be called any number of times.
func (f *Future) Wait(ctx context.Context) (Receipt, error) {
	if f.batch == nil {
		return Receipt{}, f.err
	}
	select {
	case <-f.batch.done:
	default:
		select {
		case <-f.batch.done:
		case <-ctx.Done():
			if u := f.unheard(context.Cause(ctx)); u != nil {
				return Receipt{}, fmt.Errorf("append to log %q: %w", f.batch.log.name, u)
			}
		}
	}
	return f.batch.receipt(f.skip, f.count)
}

// unheard returns why the verdict was not waited for, and what to resolve: from now on
// that sequence is this batch's, or nobody's. It returns nil if the batch is settled, and
// is only not told yet: its log may have another producer by now.
func (f *Future) unheard(cause error) *UnknownError {
	b := f.batch
	s := b.log.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.settled {
		return nil
	}
	u := b.unknown(cause)
	u.Skip, u.Count = f.skip, f.count
	if b.named == 0 {
		b.named = b.log.foresees(b)
		b.log.named = max(b.log.named, b.named)
		if b.log.joinable == b {
			b.log.joinable = nil // who joins would share its fate if it is refused for that
		}
	}
	u.Sequence = b.named // also if it waits to be sent under it again
	return u
}

// Written returns a channel that is closed when the append is written, and at the
// latest when Wait would not wait; Done tells the two apart. Written means: the
// service has handed it to its file system in a frame that is not synced yet. It
// survives the death of the service, and not that of its machine; if that comes
// back without it, or its sync fails, the append is sent again, or ends with
// ErrUnknownOutcome, as any other. So it is good for going on with work that is thrown
// away when the machine is, and for nothing that outlives it: who lets others see the
// append, or lets a page go to a disk, waits for Done.
//
// Without Options.WrittenAcks it is Done's channel. What is written and not durable
// counts against the stream's credit and Options.MaxPendingBytes, which so bound
// what is at risk.
func (f *Future) Written() <-chan struct{} {
	if f.batch == nil || f.batch.written == nil {
		return f.Done()
	}
	return f.batch.written
}

// settled is the channel of futures that were never under way.
var settled = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// NotTaken returns why AppendAsync did not take the record, so that nothing was
// sent of it and nothing will be; nil if it was taken, whatever became of it.
func (f *Future) NotTaken() error { return f.err }

// Done returns a channel that is closed when Wait would not wait.
func (f *Future) Done() <-chan struct{} {
	if f.batch == nil {
		return settled
	}
	return f.batch.done
}

// targetBatch is up to which size single records share a batch, in bytes of its
// run: with the fields around it the batch fits a message buffer of 64 KiB.
const targetBatch = 64<<10 - 256

// A batch is records that are sent, refused or acknowledged together: the unit
// of sequence. Its fields are guarded by the stream's mu until done is closed,
// and do not change afterwards.
type batch struct {
	log      *Log
	epochs   epochs // that it states, wherever it waits and however often it is sent
	sequence uint64 // 0 until it is sent, and again once it is known not to have landed
	named    uint64 // the sequence that a caller was told to ask for; 0 for none
	expected LSN
	run      *wire.Buffer
	sum      uint32 // CRC-32C of the run, if it is summed
	summed   bool
	count    int
	parts    []batchPart // of a group's batch, whose runs lie in run behind the lead's
	small    bool        // went in a message that holds further small ones back
	again    bool        // was sent on an earlier stream, where it may have landed
	waiting  []callback
	written  chan struct{} // closed when it is, or is settled; nil without Options.WrittenAcks
	wrote    bool          // written is closed

	settled bool // what follows done is set

	done   chan struct{} // closed when what follows is set, and told
	result Receipt       // of the whole batch, but for its parts
	landed []Receipt     // of the parts
	err    error
}

// A batchPart is what a batch appends to a further log of its group.
type batchPart struct {
	further  int // index in Log.further
	expected LSN
	from, to int // of run
	count    int // of its records, which the batch's count has too
}

// lead returns the run of the batch's own log, and how many records it has.
func (b *batch) lead() (run []byte, count int) {
	run, count = b.run.Data, b.count
	if len(b.parts) > 0 {
		run = run[:b.parts[0].from]
	}
	for i := range b.parts {
		count -= b.parts[i].count
	}
	return run, count
}

// conditional reports whether the batch's place in a log was computed by a caller
// who assumed what was before it.
func (b *batch) conditional() bool {
	return b.expected != 0 || slices.ContainsFunc(b.parts, func(p batchPart) bool { return p.expected != 0 })
}

// callback is a function that waits for some records of a batch.
type callback struct {
	skip, count int
	fn          func(Receipt, error)
}

func newBatch(l *Log, capacity int) *batch {
	b := &batch{log: l, run: wire.NewBuffer(capacity), done: make(chan struct{})}
	if l.client.options.WrittenAcks {
		b.written = make(chan struct{})
	}
	return b
}

// tellWritten tells who waits for that. REQUIRES: the stream's mu, or that the batch
// is settled.
func (b *batch) tellWritten() {
	if b.written != nil && !b.wrote {
		b.wrote = true
		close(b.written)
	}
}

// size is what the batch counts of the credit, in bytes.
func (b *batch) size() int { return len(b.run.Data) }

// reserve makes room for n more bytes.
func (b *batch) reserve(n int) {
	need := len(b.run.Data) + n
	if need <= cap(b.run.Data) {
		return
	}
	larger := wire.NewBuffer(max(need, 4*cap(b.run.Data)))
	larger.Data = append(larger.Data, b.run.Data...)
	b.run.Release()
	b.run = larger
}

// takes reports whether a single record that takes n bytes in a run may join.
func (b *batch) takes(n int) bool {
	return len(b.run.Data)+n <= min(targetBatch, b.log.maxBatch) && b.count < limits.MaxBatchRecords
}

// continues reports whether a single record with an expected LSN, 0 for none, may
// join: the batch's own is then as much as to say so of both.
func (b *batch) continues(expected LSN) bool {
	if b.expected == 0 {
		return expected == 0
	}
	return expected == b.expected+LSN(b.count)
}

// receipt returns what became of some of the batch's records. It must be settled.
func (b *batch) receipt(skip, count int) (Receipt, error) {
	if b.err != nil {
		err := b.err
		if u, ok := errors.AsType[*UnknownError](err); ok {
			own := *u
			own.Skip, own.Count = skip, count
			err = &own
		}
		return Receipt{}, fmt.Errorf("append to log %q: %w", b.log.name, err)
	}
	r := b.result
	r.LSN += LSN(skip)
	r.Count = count
	return r, nil
}

// finish tells everybody who waits for the batch, which must be settled, and
// gives its bytes back.
func (b *batch) finish() {
	b.run.Release()
	close(b.done)
	b.tellWritten()
	for _, w := range b.waiting {
		w.fn(b.receipt(w.skip, w.count))
	}
}
