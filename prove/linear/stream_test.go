package linear

import (
	"errors"
	"io"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A burst is an append stream of a few messages, sent without waiting for their
// verdicts: binds, batches, then the end.
type burst struct {
	c        *rawClient
	producer string
	epoch    uint64
	in       uint64 // incarnation of the producer
	bound    string // id of the log
	told     uint64 // epoch that it was in then
	volume   string // ULID
	staged   bool   // it asks to be told what is written
	plain    bool   // it states no LSN
	settled  uint64 // batches with a verdict

	sent    []sentBatch // without a verdict so far
	refused bool
}

// A sentBatch is a batch that waits for its verdict.
type sentBatch struct {
	sequence uint64
	written  bool // as it was told
	in       *input
	end      func(output)
}

// burst appends over a stream of its own, with a producer or without. What is
// pending of the producer goes first, again. Where logs are deleted, and what was
// in them with them, it has a producer: what became of many batches that are in no
// order would be anybody's guess.
func (c *rawClient) burst() {
	if !c.changing() {
		c.consult()
		return
	}
	b := &burst{c: c}
	if c.log == passing || c.rng.IntN(3) > 0 {
		if !c.ready() {
			return
		}
		b.producer, b.in = c.producer.id, c.producer.incarnation
	}
	b.epoch = c.epoch()
	if c.rng.IntN(10) == 0 {
		b.epoch = 1 + c.rng.Uint64N(2)
	}
	b.append()
}

// burstWritten appends over a stream of its own that tells what is written, and states
// nothing that could have it refused.
func (c *rawClient) burstWritten() {
	b := &burst{c: c, staged: true, plain: true}
	b.append()
}

// append opens the stream, and settles what becomes of it.
func (b *burst) append() {
	ctx, cancel := b.c.boundChange()
	defer cancel()
	stream, err := b.c.appends.AppendStream(ctx)
	if err == nil {
		err = b.run(stream)
	}
	b.settle(err)
}

func (b *burst) run(stream walsvcv1.AppendService_AppendStreamClient) error {
	if open, err := b.bind(stream); !open {
		return err
	}
	c := b.c
	batches := c.producer.pending
	if b.producer == "" {
		batches = nil
	}
	most := 5
	if c.log == owned { // where a rewind may have taken what nobody saw
		most = 2
	}
	for range 1 + c.rng.IntN(most) {
		if len(batches) >= most {
			break // much is pending
		}
		batches = append(batches, c.batch(2))
	}
	if b.producer != "" {
		c.producer.pending = batches
	}
	_, _, next := c.look()
	for i, data := range batches {
		req := &walsvcv1.Batch{Binding: 1, Records: wire(data)}
		if b.producer != "" {
			req.Sequence = c.producer.last + uint64(i) + 1
		} else if !b.plain && c.rng.IntN(4) == 0 {
			req.ExpectedLsn = c.likely(next, 1)
		}
		next += uint64(len(data))
		in := input{Kind: appendRecords, ID: b.bound, Told: b.told, Producer: b.producer, Epoch: b.epoch, Incarnation: b.in, Stream: true, Rebound: c.rebound(), Sequence: req.GetSequence(), Expected: req.GetExpectedLsn(), Records: data}
		s := sentBatch{sequence: req.GetSequence()}
		s.in, s.end = c.beginOpen(in)
		b.sent = append(b.sent, s)
		if err := stream.Send(&walsvcv1.AppendStreamRequest{Batches: []*walsvcv1.Batch{req}}); err != nil {
			break // Recv has the reason
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if !b.take(m) {
			return nil
		}
	}
}

// take settles the batches that a message has verdicts for, notes which are written, and
// reports whether the stream may go on.
func (b *burst) take(m *walsvcv1.AppendStreamResponse) bool {
	for _, v := range m.GetVerdicts() {
		if v.CommitTime == 0 {
			v.CommitTime = m.GetCommitTime()
		}
		if !b.verdict(v) {
			return false
		}
	}
	written := m.GetWritten()
	if written == 0 {
		return true
	}
	if !b.staged || written <= b.settled || written-b.settled > uint64(len(b.sent)) {
		b.c.w.fail("log %s: %d batches are written, %d are settled and %d sent behind them; asked: %t", b.c.log, written, b.settled, len(b.sent), b.staged)
		return false
	}
	for i := range b.sent[:written-b.settled] {
		b.sent[i].written = true
	}
	b.c.w.stage()
	return true
}

// bind opens the log on the stream and reports whether that went well.
func (b *burst) bind(stream walsvcv1.AppendService_AppendStreamClient) (open bool, err error) {
	end := b.c.begin(input{Kind: bindLog, Producer: b.producer, Epoch: b.epoch, Incarnation: b.in})
	out := output{Unknown: true}
	defer func() {
		if end(out); out.Unknown {
			b.c.unbound = b.c.w.history.life()
		}
	}()
	b.staged = b.staged || b.c.rng.IntN(3) > 0
	err = stream.Send(&walsvcv1.AppendStreamRequest{WrittenAcks: b.staged, Binds: []*walsvcv1.Bind{{Binding: 1, Log: b.c.log, Producer: b.producer, Epoch: b.epoch, Incarnation: b.in}}})
	for err == nil || errors.Is(err, io.EOF) { // which says that Recv has the reason
		var m *walsvcv1.AppendStreamResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		if len(m.GetBounds()) == 0 {
			continue // the credit
		}
		switch bound := m.GetBounds()[0]; {
		case bound.GetRefusal() != nil:
			out = refusal(bound.GetRefusal())
			switch out.Reason {
			case noProducer, logNotFound, retired:
				b.c.producer = rawProducer{}
			case superseded:
				b.c.producer.incarnation = 0
			}
			return false, stream.CloseSend()
		default:
			out = output{Info: logInfo(bound.GetLog()), Last: bound.GetLastSequence()}
			b.bound, b.told, b.volume = bound.GetLog().GetId(), bound.GetLog().GetEpoch(), bound.GetVolumeId()
			return true, nil
		}
	}
	out = heard(err)
	return false, err
}

// rebound reports whether an earlier stream of the client may be bound yet, in place
// of a later one: it gave that up before it was.
func (c *rawClient) rebound() bool { return c.unbound == c.w.history.life() }

func refusal(r *walsvcv1.Refusal) output {
	return output{Reason: r.GetReason(), Figures: r.GetMetadata()}
}

// verdict settles the oldest batch without one, and reports whether the stream
// may go on.
func (b *burst) verdict(v *walsvcv1.Verdict) bool {
	if len(b.sent) == 0 || v.GetBinding() != 1 || v.GetSequence() != b.sent[0].sequence {
		b.c.w.fail("log %s: a verdict on binding %d, sequence %d, and %d batches are without", b.c.log, v.GetBinding(), v.GetSequence(), len(b.sent))
		return false
	}
	s := b.sent[0]
	b.sent = b.sent[1:]
	b.settled++
	s.in.After = b.refused
	sum := v.GetLogChecksum()
	out := output{ID: b.bound, First: v.GetFirstLsn(), Count: uint64(v.GetCount()), Sum: &sum, Repeated: v.GetRepeated(), Epoch: v.GetEpoch(), Volume: b.volume}
	if !out.Repeated {
		out.Committed = int64(v.GetCommitTime())
	}
	out.Through = out.First + out.Count - 1
	if v.GetRefusal() != nil {
		out = refusal(v.GetRefusal())
		b.refused = b.refused || !unsettled[out.Reason]
	}
	s.end(out)
	if b.producer != "" && b.c.producer.id != "" && len(b.c.producer.pending) > 0 {
		b.c.producer.settle(&out)
	}
	return true
}

// settle ends what has no verdict. If the service ended the stream by itself,
// because it stops, that was not appended.
func (b *burst) settle(err error) {
	out := output{Unknown: true}
	if why := heard(err); err != nil && elsewhere[why.Reason] {
		out = why
	}
	firm := !b.refused
	for i, s := range b.sent {
		own := out
		own.Written = s.written && out.Unknown
		// What else would have it refused shows in the log, but for a quota and a rate.
		firm = firm && s.in.Expected == 0 && !s.in.Rebound && b.c.log == steady && (i == 0 || b.producer == "")
		s.in.Firm = firm
		s.end(own)
	}
	if err == nil && len(b.sent) > 0 || errors.Is(err, io.EOF) && len(b.sent) > 0 {
		b.c.w.fail("log %s: the stream ended well without %d verdicts", b.c.log, len(b.sent))
	}
}
