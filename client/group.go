package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Group appends to several logs at once: each batch has records for some of them,
// and becomes durable in all, or in none; readers who see it in one of them find it
// in the others. Its methods may be called concurrently.
//
// The logs have been created with one LogOptions.ColocationKey, which is not empty.
// The first is the lead: every batch has records for it, and it is there that a
// Group has its producer, which makes what it appends as safe to send again as what
// a Log does. That is a producer of the Group's own, and never Options.Producer.
//
// Batches of one Group become durable in the order of the calls. What is appended
// through a Log, or another Group, is in no order with them unless its caller waits
// for the one before the other.
type Group struct {
	lead *Log   // none of Client.logs: the stream knows it as it does any other
	logs []*Log // as they were given, the lead's first
}

// A Part is what a batch of a Group appends to one of its logs.
type Part struct {
	// Records are at least one for the lead. None for another log: nothing of that.
	Records [][]byte
	// Expected, unless 0, has the batch refused with ErrLSNMismatch unless the first
	// of the records gets that LSN; see ExpectLSN.
	Expected LSN
}

// A further is a log of a group besides its lead. The stream's mu guards it.
type further struct {
	log   *Log // the caller's handle, which says what epoch to state
	id    ulid.ULID
	claim Claim
	known position
}

// Group returns a Group of logs of this client: at most 16, each another one. It
// states the epochs that the handles state when it appends, and at first the claims
// that they have. It returns ErrInvalid for anything else; that the logs are there,
// and may be appended to together, shows with the first append: else that is
// ErrLogNotFound or ErrNotColocated.
func (c *Client) Group(logs ...*Log) (*Group, error) {
	if len(logs) == 0 || len(logs) > limits.MaxBatchLogs {
		return nil, fmt.Errorf("%w: a group of %d logs, it has from 1 to %d", ErrInvalid, len(logs), limits.MaxBatchLogs)
	}
	for i, l := range logs {
		switch {
		case l.client != c:
			return nil, fmt.Errorf("%w: log %q is a handle of another client", ErrInvalid, l.name)
		case slices.ContainsFunc(logs[:i], func(other *Log) bool { return other.name == l.name }):
			return nil, fmt.Errorf("%w: log %q is twice in a group", ErrInvalid, l.name)
		}
	}
	first := logs[0]
	lead := &Log{client: c, name: first.name, stream: first.stream}
	lead.used = true // Options.Producer is the log's own
	lead.claim = first.Claim()
	for _, l := range logs[1:] {
		lead.further = append(lead.further, &further{log: l, claim: l.Claim()})
	}
	return &Group{lead: lead, logs: slices.Clone(logs)}, nil
}

// Append appends a batch: parts[i] are the records for the i-th log of the group;
// what is left out at the end is empty. All records together are bounded as those of
// Log.AppendBatch. When it returns, the batch is durable, and the i-th receipt is
// that of parts[i], the zero one where it is empty. Otherwise it is like
// Log.AppendBatch: a refusal changed nothing in any log, and says which log it is for
// under "log" in Error.Metadata; after an unknown outcome, Resolve says what became of
// all of it.
func (g *Group) Append(ctx context.Context, parts ...Part) ([]Receipt, error) {
	return g.AppendAsync(ctx, parts...).Wait(ctx)
}

// AppendAsync is Append that does not wait until the batch is durable. It waits,
// within ctx, while the logs are opened for the first time and while too much is
// pending. The records may be used again when it returns.
func (g *Group) AppendAsync(ctx context.Context, parts ...Part) *GroupFuture {
	f := &GroupFuture{group: g}
	b, largest, err := g.batch(parts)
	if err == nil {
		f.future = Future{batch: b, count: len(parts[0].Records)}
		b.epochs = g.stated()
		if err = g.lead.stream.take(ctx, b, largest); err != nil {
			b.run.Release()
		}
	}
	if err != nil {
		f.future = Future{err: g.lead.refuse(err)}
	}
	return f
}

// Resolve is Log.Resolve for a batch of the group, or of one with the same lead in an
// earlier life of the process. What it says holds for all logs of the batch.
func (g *Group) Resolve(ctx context.Context, u *UnknownError) (Resolution, error) {
	return g.lead.Resolve(ctx, u)
}

// A GroupFuture is a Group's append under way.
type GroupFuture struct {
	group  *Group
	future Future
}

// Wait returns the receipts when the append is durable, or why it is not; see
// Future.Wait.
func (f *GroupFuture) Wait(ctx context.Context) ([]Receipt, error) {
	lead, err := f.future.Wait(ctx)
	if err != nil {
		return nil, err
	}
	receipts := make([]Receipt, len(f.group.logs))
	receipts[0] = lead
	b := f.future.batch
	for i, r := range b.landed {
		receipts[1+b.parts[i].further] = r
	}
	return receipts, nil
}

// Done returns a channel that is closed when Wait would not wait.
func (f *GroupFuture) Done() <-chan struct{} { return f.future.Done() }

// Written returns a channel that is closed when the append is written in all logs, and
// not yet durable in any; see Future.Written.
func (f *GroupFuture) Written() <-chan struct{} { return f.future.Written() }

// batch makes a batch of the parts, and returns the size of the lead's largest record.
func (g *Group) batch(parts []Part) (b *batch, largest int, err error) {
	size, count := 0, 0
	for i, p := range parts {
		count += len(p.Records)
		if len(p.Records) > limits.MaxBatchRecords {
			return nil, 0, fmt.Errorf("%w: %d records for log %q, the limit is %d", ErrTooLarge, len(p.Records), g.logs[min(i, len(g.logs)-1)].name, limits.MaxBatchRecords)
		}
		for k, record := range p.Records {
			size += records.Size(len(record))
			if len(record) > limits.MaxRecordSize {
				return nil, 0, fmt.Errorf("%w: record %d of part %d has %d bytes, the limit is %d", ErrTooLarge, k, i, len(record), limits.MaxRecordSize)
			}
		}
	}
	switch {
	case len(parts) > len(g.logs):
		return nil, 0, fmt.Errorf("%w: %d parts for a group of %d logs", ErrInvalid, len(parts), len(g.logs))
	case len(parts) == 0 || len(parts[0].Records) == 0:
		return nil, 0, fmt.Errorf("%w: the lead of a batch has at least one record", ErrEmptyBatch)
	case size > limits.MaxBatchSize:
		return nil, 0, fmt.Errorf("%w: %d bytes in %d logs, the limit is %d", ErrTooLarge, size, len(parts), limits.MaxBatchSize)
	}
	b = newBatch(g.lead, size)
	b.count, b.expected = count, parts[0].Expected
	for i, p := range parts {
		from := len(b.run.Data)
		for _, record := range p.Records {
			b.run.Data = records.Append(b.run.Data, record)
			if i == 0 {
				largest = max(largest, len(record))
			}
		}
		if i > 0 && len(p.Records) > 0 {
			b.parts = append(b.parts, batchPart{further: i - 1, expected: p.Expected, from: from, to: len(b.run.Data), count: len(p.Records)})
		}
	}
	return b, largest, nil
}

// stated returns the epochs that the handles state by now.
func (g *Group) stated() epochs {
	e := make(epochs, len(g.logs))
	for i, l := range g.logs {
		e[i] = l.epoch()
	}
	return e
}

// seats returns how many bindings the log has on a stream: one, or that of a group's
// lead and those of its further logs.
func (l *Log) seats() int { return 1 + len(l.further) }

// nameAt returns the name of the log of a seat.
func (l *Log) nameAt(seat int) string {
	if seat == 0 {
		return l.name
	}
	return l.further[seat-1].log.name
}

// bind returns the request to bind a further log. It has no producer: the lead's
// counts the batches.
func (f *further) bind(number uint32, epoch uint64) *walsvcv1.Bind {
	return &walsvcv1.Bind{Binding: number, Log: f.log.name, Epoch: epoch, Claim: f.claim.message()}
}

// gone reports whether a binding is one of a group that was given up when another of
// its bindings was refused. REQUIRES: mu.
func (s *stream) gone(binding uint32) bool {
	return binding > 0 && int(binding) <= len(s.bindings) && len(s.bindings[binding-1].further) > 0
}

// boundFurther works in the answer to the bind of a group's further log. REQUIRES:
// mu; l is opened.
func (s *stream) boundFurther(l *Log, f *further, b *walsvcv1.Bound) {
	claim := l.claim // which holds, whatever became of f
	var why error
	if b.GetRefusal() != nil {
		why = fromRefusal(b.GetRefusal())
	} else {
		info, err := logInfo(b.GetLog())
		if err != nil {
			s.violated(l, "bound to %d: %v", b.GetBinding(), err)
			return
		}
		if info.ID != f.id {
			why = fmt.Errorf("log %q: %w: it was deleted, and there is another one of that name", f.log.name, ErrLogNotFound)
		}
		f.known = position{info.Epoch, info.Durable(), info.LogChecksum}
	}
	if why == nil {
		s.seated(l)
		return
	}
	if errors.Is(why, ErrLogNotFound) || errors.Is(why, ErrRewound) {
		f.claim = Claim{}
	}
	unheard := errors.Is(why, ErrRewound) && len(l.queue) == 0
	s.drop(l, why)
	if l.claim = claim; unheard {
		l.discarded = why
	}
}

// message returns the batch's parts as they are sent, for a group whose lead is bound
// to a number; nil if it has none.
func (b *batch) message(lead uint32) (parts []wire.Part) {
	for i := range b.parts {
		p := &b.parts[i]
		parts = append(parts, wire.Part{Binding: lead + 1 + uint32(p.further), Expected: uint64(p.expected), Run: b.run.Data[p.from:p.to], Buffer: b.run})
	}
	return parts
}

// contradictsParts checks the acknowledgement of a batch's parts.
func (l *Log) contradictsParts(b *batch, v *wire.Verdict) error {
	if len(v.Parts) != len(b.parts) {
		return fmt.Errorf("%w: sequence %d landed with %d parts, it has %d", ErrProtocol, v.Sequence, len(v.Parts), len(b.parts))
	}
	for i := range b.parts {
		p, got := &b.parts[i], &v.Parts[i]
		f := l.further[p.further]
		d := landing{
			sequence: v.Sequence, first: LSN(got.First), count: int(got.Count), epoch: got.Epoch, checksum: got.Checksum,
			run: b.run.Data[p.from:p.to], sent: p.count, expected: p.expected,
		}
		if err := d.contradicts(&f.claim, f.known); err != nil {
			return fmt.Errorf("log %q: %w", f.log.name, err)
		}
	}
	return nil
}

// partsLanded notes where the parts of an acknowledged batch are. REQUIRES: mu.
func (l *Log) partsLanded(b *batch, v *wire.Verdict) {
	for i := range b.parts {
		p, got := &b.parts[i], &v.Parts[i]
		f := l.further[p.further]
		r := Receipt{
			Volume: l.volume, Log: f.id, Name: f.log.name, Epoch: got.Epoch, LSN: LSN(got.First), Count: p.count, LogChecksum: got.Checksum,
			Through: LSN(got.First) + LSN(p.count) - 1, Committed: committed(v), Repeated: v.Repeated,
		}
		f.claim = r.Claim()
		if f.known.lsn < r.Through || f.known.epoch != got.Epoch {
			f.known = position{r.Epoch, r.Through, r.LogChecksum}
		}
		b.landed = append(b.landed, r)
	}
}
