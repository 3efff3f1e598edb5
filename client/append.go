package client

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

// An AppendOption says how a batch is appended.
type AppendOption func(*appendOptions)

type appendOptions struct{ expected LSN }

// ExpectLSN has the append refused with ErrLSNMismatch unless its first record
// gets that LSN. An append with this option is also refused, with
// ErrAfterRefusal and the reason of the other, if an earlier append of this client to
// the log was refused while this one was under way. An engine that counts LSNs itself appends record
// after record with it, and need not wait for one before the next: those whose LSNs
// follow each other share a batch, and behind one that was refused nothing lands.
func ExpectLSN(lsn LSN) AppendOption { return func(o *appendOptions) { o.expected = lsn } }

// Append appends a record and returns its LSN when it is durable. The record may
// be used again when it returns. It waits while too much is pending, and for
// as long as the service cannot be reached: that is for ctx to bound. If ctx ends
// before the record was taken, the error is the context's, and afterwards it Is
// ErrUnknownOutcome too. A refusal changed nothing; its error is an *Error.
func (l *Log) Append(ctx context.Context, record []byte) (LSN, error) {
	b, skip, err := l.enqueue(ctx, record, nil, nil)
	if err != nil {
		return 0, err
	}
	f := Future{batch: b, skip: skip, count: 1}
	r, err := f.Wait(ctx)
	return r.LSN, err
}

// AppendBatch appends records together: all of them become durable, or none. At
// least one, at most 65,536 records of at most 8 MiB together, as framed; a volume
// with small segments takes less, not quite half a segment. What is over a limit is
// ErrTooLarge, which says what the limit is, and is not sent. Otherwise it is like Append.
func (l *Log) AppendBatch(ctx context.Context, batch [][]byte, opts ...AppendOption) (Receipt, error) {
	var o appendOptions
	for _, opt := range opts {
		opt(&o)
	}
	size := 0
	for _, record := range batch {
		size += records.Size(len(record))
	}
	switch {
	case len(batch) == 0:
		return Receipt{}, l.refuse(ErrEmptyBatch)
	case len(batch) > limits.MaxBatchRecords || size > limits.MaxBatchSize:
		return Receipt{}, l.refuse(fmt.Errorf("%w: %d records in %d bytes, the limits are %d and %d", ErrTooLarge,
			len(batch), size, limits.MaxBatchRecords, limits.MaxBatchSize))
	}
	b, largest := newBatch(l, size), 0
	for i, record := range batch {
		largest = max(largest, len(record))
		if len(record) > limits.MaxRecordSize {
			b.run.Release()
			return Receipt{}, l.refuse(fmt.Errorf("%w: record %d has %d bytes, the limit is %d", ErrTooLarge, i, len(record), limits.MaxRecordSize))
		}
		b.run.Data = records.Append(b.run.Data, record)
	}
	b.count, b.expected = len(batch), o.expected
	if err := l.whole(ctx, b, largest); err != nil {
		return Receipt{}, l.refuse(err)
	}
	f := Future{batch: b, count: b.count}
	return f.Wait(ctx)
}

// whole has a batch sent that nothing joins. It sums the batch here, if that is not
// done, where its bytes were just copied and nobody waits, and not when it is
// acknowledged.
func (l *Log) whole(ctx context.Context, b *batch, largest int) error {
	if !b.summed {
		b.sum, b.summed = crc32.Checksum(b.run.Data, castagnoli), true
	}
	err := l.stream.take(ctx, b, largest)
	if err != nil {
		b.run.Release()
	}
	return err
}

// AppendAsync appends a record and does not wait until it is durable: the Future
// says when. Records become durable in the order of the calls. It waits, within
// ctx, while the log is opened for the first time and while too much is pending,
// and if it did not take the record, the Future says why, see Future.NotTaken. The
// record may be used again when it returns.
func (l *Log) AppendAsync(ctx context.Context, record []byte, opts ...AppendOption) *Future {
	b, skip, err := l.enqueue(ctx, record, nil, opts)
	return &Future{batch: b, skip: skip, count: 1, err: err}
}

// AppendAsyncFunc is AppendAsync with a function that is called exactly once: where
// all acknowledgements of the stream come in, one after the other and in the order
// of the appends, or before AppendAsyncFunc returns if the record was not taken.
// It must be quick, and must not append: waiting for room there would be waiting
// for itself.
func (l *Log) AppendAsyncFunc(ctx context.Context, record []byte, fn func(Receipt, error)) {
	if _, _, err := l.enqueue(ctx, record, fn, nil); err != nil {
		fn(Receipt{}, err)
	}
}

// enqueue puts a record into a batch to be sent and returns the batch, with the
// number of records before it.
func (l *Log) enqueue(ctx context.Context, record []byte, fn func(Receipt, error), opts []AppendOption) (*batch, int, error) {
	var o appendOptions
	for _, opt := range opts {
		opt(&o)
	}
	if len(record) > limits.MaxRecordSize {
		return nil, 0, l.refuse(fmt.Errorf("%w: a record of %d bytes, the limit is %d", ErrTooLarge, len(record), limits.MaxRecordSize))
	}
	s := l.stream
	n := records.Size(len(record))
	if n > targetBatch { // a batch of its own: copied before anybody is kept waiting
		b := newBatch(l, n)
		run := records.AppendHead(b.run.Data, len(record))
		b.run.Data, b.sum = crc32c.Append(run, record, crc32.Checksum(run, castagnoli))
		b.summed, b.count, b.expected = true, 1, o.expected
		if fn != nil {
			b.waiting = append(b.waiting, callback{0, 1, fn})
		}
		if err := l.whole(ctx, b, len(record)); err != nil {
			return nil, 0, l.refuse(err)
		}
		return b, 0, nil
	}
	s.mu.Lock()
	stated := l.epochs // by now: who waits for room may see another epoch begin
	if err := s.admit(ctx, l, n, 1, len(record)); err != nil {
		s.mu.Unlock()
		return nil, 0, l.refuse(err)
	}
	b := l.joinable
	if b == nil || !b.takes(n) || !b.continues(o.expected) || !b.epochs.equal(stated) {
		b = newBatch(l, max(n, l.hint))
		b.epochs, b.expected = stated, o.expected
		l.queue = append(l.queue, b)
		l.joinable = b
	}
	b.reserve(n)
	b.run.Data = records.Append(b.run.Data, record)
	skip := b.count
	b.count++
	if fn != nil {
		b.waiting = append(b.waiting, callback{skip, 1, fn})
	}
	s.queued(l, n)
	s.send(false) // unlocks
	return b, skip, nil
}

// refuse wraps why an append was not taken.
func (l *Log) refuse(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return fmt.Errorf("append to log %q: %w", l.name, e)
	}
	return fmt.Errorf("append to log %q: %w", l.name, err)
}
