package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

const (
	// boundsPerMessage keeps a message of answers to binds, whose logs may have
	// all their labels, far below limits.MaxMessageSize.
	boundsPerMessage = 256

	// handover is how long the receiving goroutine may be busy sending before
	// another one receives in its place.
	handover = 5 * time.Millisecond
)

// appendStream is one running AppendStream. Three parties work on it:
//
//   - the receiving goroutine: receive, take, answer. It alone binds, resets and
//     appends. There is one at any time, but not always the same: see answer.
//   - the handler's goroutine: run. It sends what lands later, and decides when
//     the stream ends.
//   - whoever holds sending: flush.
//
// Invariants:
//
//  1. A verdict is taken from the appender only by who holds sending, and is
//     sent before sending is let go. So if nothing is pending while one holds
//     it, the client has been told everything.
//  2. unread* grow before batches go to the engine and shrink before their
//     verdicts are sent: a client that counts what it has sent and not yet seen
//     settled never exceeds its credit by our count.
//  3. Once stopping is set and receiving is not, nothing more is appended.
//
// A client that neither reads nor goes away keeps two goroutines and at most
// twice its credit, until the service stops; nobody waits for it.
type appendStream struct {
	server   *Server
	stream   grpc.ServerStream
	ctx      context.Context
	appender *wal.Appender

	// Of the receiving goroutine.
	begun     bool           // a message was taken
	bindings  []*wal.Binding // by the client's number; nil: not open
	refused   map[uint32]bool
	batches   []wal.Batch
	parts     []wal.Part  // of batches
	submitted uint64      // batches given to the appender
	relief    *time.Timer // starts another receiving goroutine; see answer

	unreadBytes   atomic.Int64 // of encoded records, without their verdict so far
	unreadBatches atomic.Int64

	staged    atomic.Bool // the client asked to be told what is written
	stopping  atomic.Bool // set by run: what is received is dropped
	receiving atomic.Bool // a message is being worked on

	wake  chan struct{} // capacity 1: there may be something to send
	ended chan struct{} // closed when nothing more is received
	end   error         // why; nil if the client has half-closed. Set before ended is closed

	answers struct {
		sync.Mutex
		bounds   []answer  // to binds, not sent yet; at most limits.MaxBindingsPerStream
		refusals []refusal // of batches the engine never saw, not sent yet; bounded by credit
	}

	sending  sync.Mutex // guards what follows, and the order of messages
	verdicts []wal.Verdict
	message  wire.AppendResponse
	told     uint64 // verdicts of the appender that were sent
	settled  uint64 // all verdicts that were
	written  uint64 // batches that were said to be written
	goodbye  bool   // the next message says draining
	broken   error  // why nothing more can be sent
}

// answer is what a Bound will say.
type answer struct {
	number   uint32
	log      wal.LogInfo
	producer wal.ProducerInfo
	err      error
}

// refusal is the verdict on a batch that has no binding to be appended by.
type refusal struct {
	after uint64 // how many of the appender's verdicts come before it
	bytes int
	wire.Verdict
}

func newAppendStream(s *Server, stream grpc.ServerStream) *appendStream {
	a := &appendStream{
		server:  s,
		stream:  stream,
		ctx:     stream.Context(),
		refused: make(map[uint32]bool),
		wake:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
	}
	a.appender = s.volume.NewAppender(a.poke)
	a.relief = time.AfterFunc(math.MaxInt64, a.receive)
	a.relief.Stop()
	return a
}

// poke wakes run. It never blocks; pokes that come together are one.
func (a *appendStream) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run serves the stream until its client, the service or an error ends it. All
// verdicts that are due have been sent when it returns, unless the client is
// gone or the outcome of something is unknown.
func (a *appendStream) run() error {
	a.message.Credit = &walsvcv1.Credit{Bytes: limits.StreamCreditBytes, Batches: limits.StreamCreditBatches}
	if err := a.stream.SendMsg(&a.message); err != nil {
		return err
	}
	a.message.Credit = nil

	a.server.background.Add(1) // finish ends it
	go a.receive()

	var (
		over     bool  // nothing more will be appended
		verdict  error // what the stream ends with, once all is told
		farewell bool  // the client is to be told that the service stops
		ended    = a.ended
		draining = a.server.stopping.Done()
	)
	for {
		select {
		case <-a.wake:
		case <-ended:
			if ended = nil; !over {
				over, verdict = true, a.end
			}
		case <-draining:
			if draining = nil; !over {
				over, verdict, farewell = true, ErrDraining, true
				a.stopping.Store(true)
			}
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		}
		// NB: receiving is read before the flush. Read after it, a message worked
		// on in between would be settled by nobody.
		idle := over && !a.receiving.Load()
		settled, err := a.settle(farewell)
		farewell = false
		if err != nil {
			return err
		}
		if idle && settled {
			return verdict
		}
	}
}

// settle sends what is due and reports whether that was all.
func (a *appendStream) settle(farewell bool) (all bool, err error) {
	a.sending.Lock()
	defer a.sending.Unlock()
	a.goodbye = a.goodbye || farewell
	a.flush(nil)
	return a.appender.Pending() == 0, a.broken
}

// receive takes messages until there are no more, or another goroutine has
// begun to.
func (a *appendStream) receive() {
	var req received
	for {
		switch err := a.stream.RecvMsg(&req); {
		case errors.Is(err, io.EOF):
			a.finish(nil)
			return
		case err != nil:
			a.finish(err)
			return
		}
		a.receiving.Store(true)
		err := req.err
		if err == nil && !a.stopping.Load() {
			err = a.take(&req.AppendRequest)
		}
		req.Release() // Append has copied the runs
		a.receiving.Store(false)
		if err != nil {
			a.finish(err)
			return
		}
		if a.stopping.Load() {
			a.poke()
			continue
		}
		if !a.answer() {
			return
		}
	}
}

// finish says that nothing more is received.
func (a *appendStream) finish(err error) {
	a.end = err
	a.appender.Close()
	close(a.ended)
	a.server.background.Done()
}

// take works on one message. Its error ends the stream.
func (a *appendStream) take(req *wire.AppendRequest) error {
	if req.WrittenAcks {
		if a.begun {
			return fmt.Errorf("%w: written_acks comes with the stream's first message", wal.ErrInvalid)
		}
		a.appender.TellWritten()
		a.staged.Store(true)
	}
	a.begun = true
	size := 0
	for i := range req.Batches {
		size += req.Batches[i].RunSize()
	}
	if a.unreadBytes.Load()+int64(size) > limits.StreamCreditBytes ||
		a.unreadBatches.Load()+int64(len(req.Batches)) > limits.StreamCreditBatches {
		return ErrCreditExceeded
	}
	a.unreadBytes.Add(int64(size))
	a.unreadBatches.Add(int64(len(req.Batches)))

	for _, b := range req.Binds {
		if err := a.bind(b); err != nil {
			return err
		}
	}
	for _, number := range req.Resets {
		if binding := a.binding(number); binding != nil {
			a.appender.Reset(binding)
		}
	}
	if len(req.Batches) == 0 {
		return nil
	}
	for i := range req.Batches {
		b := &req.Batches[i]
		if number, ok := a.unbound(b); ok {
			if err := a.refuse(b, number); err != nil {
				return err
			}
			continue
		}
		batch := wal.Batch{
			Binding:  a.binding(b.Binding),
			Sequence: b.Sequence,
			Expected: wal.LSN(b.Expected),
			Run:      b.Run,
			Tag:      uint64(b.RunSize()), // what its verdict gives back of the credit
		}
		if len(b.Parts) > 0 {
			batch.Parts = a.partsOf(b)
		}
		a.batches = append(a.batches, batch)
	}
	return a.submit()
}

// submit gives the engine the batches collected so far.
func (a *appendStream) submit() error {
	if len(a.batches) == 0 {
		return nil
	}
	a.submitted += uint64(len(a.batches))
	err := a.appender.Append(a.ctx, a.batches)
	clear(a.batches) // the runs are going
	clear(a.parts)
	a.batches, a.parts = a.batches[:0], a.parts[:0]
	return err
}

// partsOf returns the parts of a batch whose bindings are open, until it is
// submitted.
func (a *appendStream) partsOf(b *wire.Batch) []wal.Part {
	from := len(a.parts)
	for i := range b.Parts {
		p := &b.Parts[i]
		a.parts = append(a.parts, wal.Part{Binding: a.binding(p.Binding), Expected: wal.LSN(p.Expected), Run: p.Run})
	}
	return a.parts[from:len(a.parts):len(a.parts)]
}

// unbound returns the first binding of a batch that is not open, if there is one.
func (a *appendStream) unbound(b *wire.Batch) (number uint32, ok bool) {
	if a.binding(b.Binding) == nil {
		return b.Binding, true
	}
	for i := range b.Parts {
		if number := b.Parts[i].Binding; a.binding(number) == nil {
			return number, true
		}
	}
	return 0, false
}

func (a *appendStream) binding(number uint32) *wal.Binding {
	if int64(number) < int64(len(a.bindings)) {
		return a.bindings[number]
	}
	return nil
}

// bind opens a log and queues the answer. That a claim cannot be proven is the
// answer for its log alone: the other logs of the stream have lost nothing. Only
// the end of the volume, or a client that does not read its answers, is an error
// of the stream.
func (a *appendStream) bind(req *walsvcv1.Bind) error {
	out := answer{number: req.GetBinding()}
	binding, err := a.open(req, &out)
	switch {
	case errors.Is(err, wal.ErrPoisoned), errors.Is(err, wal.ErrClosed):
		return err
	case err != nil:
		out.err = err
		if number := out.number; number > 0 && number <= limits.MaxBindingsPerStream && a.binding(number) == nil {
			a.refused[number] = true
		}
	default:
		delete(a.refused, out.number)
		binding.Tag = uint64(out.number)
		if need := int(out.number) + 1; need > len(a.bindings) {
			a.bindings = slices.Grow(a.bindings, need-len(a.bindings))[:need]
		}
		a.bindings[out.number] = binding
	}
	a.answers.Lock()
	defer a.answers.Unlock()
	if len(a.answers.bounds) == limits.MaxBindingsPerStream {
		return ErrCreditExceeded
	}
	a.answers.bounds = append(a.answers.bounds, out)
	return nil
}

func (a *appendStream) open(req *walsvcv1.Bind, out *answer) (*wal.Binding, error) {
	switch number := req.GetBinding(); {
	case number == 0 || number > limits.MaxBindingsPerStream:
		return nil, fmt.Errorf("%w: binding %d is not from 1 to %d", wal.ErrInvalid, number, limits.MaxBindingsPerStream)
	case a.binding(number) != nil:
		return nil, fmt.Errorf("%w: binding %d is open already", wal.ErrInvalid, number)
	}
	producer, err := parseULID("producer", req.GetProducer())
	if err != nil {
		return nil, err
	}
	claim, err := claimOf(req.GetClaim())
	if err != nil {
		return nil, err
	}
	binding, log, last, err := a.appender.Bind(req.GetLog(), wal.Producer{ID: producer, Incarnation: req.GetIncarnation()}, wal.Epoch(req.GetEpoch()), claim)
	out.log, out.producer = log, last
	return binding, err
}

// refuse queues the verdict on a batch one of whose bindings is not open, in its
// place among the appender's: behind a refused bind, a pipeline finds what it finds
// behind a refused batch. The other bindings of the batch stop, too, behind what was
// sent before it.
func (a *appendStream) refuse(b *wire.Batch, number uint32) error {
	refused := fmt.Errorf("%w: binding %d was never opened on this stream", wal.ErrInvalid, number)
	if a.refused[number] {
		refused = wal.ErrAfterRefusal
	}
	if len(b.Parts) > 0 {
		if err := a.submit(); err != nil {
			return err
		}
		if binding := a.binding(b.Binding); binding != nil {
			a.appender.Refuse(binding)
		}
		for i := range b.Parts {
			if binding := a.binding(b.Parts[i].Binding); binding != nil {
				a.appender.Refuse(binding)
			}
		}
	}
	a.answers.Lock()
	defer a.answers.Unlock()
	a.answers.refusals = append(a.answers.refusals, refusal{
		after:   a.submitted + uint64(len(a.batches)),
		bytes:   b.RunSize(),
		Verdict: wire.Verdict{Binding: b.Binding, Sequence: b.Sequence, Refusal: Refusal(refused)},
	})
	return nil
}

// answer sends what the message just taken has settled at once: for a lone
// append on an idle disk that is all of it, without waking anybody. It reports
// whether the caller is still the one who receives.
//
// A client that sends all it may before it reads anything must not be waited
// for here, with its next message unread:
//
//	client                         receiving goroutine
//	sends, fills our window        sends verdicts, fills the client's window
//	waits until we receive         waits until the client reads
//
// So a send that takes long hands receiving over to another goroutine.
func (a *appendStream) answer() bool {
	if !a.sending.TryLock() {
		a.poke()
		return true
	}
	sent := a.flush(a.relief)
	if a.broken != nil {
		a.poke()
	}
	a.sending.Unlock()
	return !sent || a.relief.Stop()
}

// flush sends what is due, in one message unless very many binds are answered,
// and reports whether there was any; if so it has started relief, if not nil,
// before sending. REQUIRES: sending.
func (a *appendStream) flush(relief *time.Timer) (sent bool) {
	if a.broken != nil {
		return false
	}
	// Verdicts first: the answer to a binding's bind was queued before its first
	// batch was appended, and so is found below.
	a.verdicts = a.appender.Take(a.verdicts[:0])
	m := &a.message
	m.Verdicts, m.CommitTime = m.Verdicts[:0], 0
	a.answers.Lock()
	bounds := a.answers.bounds
	a.answers.bounds = nil
	a.collect()
	m.Written = 0
	if a.staged.Load() {
		m.Written = a.grown()
	}
	a.answers.Unlock()
	m.Draining, a.goodbye = a.goodbye, false

	if len(bounds) == 0 && len(m.Verdicts) == 0 && m.Written == 0 && !m.Draining {
		return false
	}
	if relief != nil {
		relief.Reset(handover)
	}
	for len(bounds) > boundsPerMessage {
		a.send(&wire.AppendResponse{Bounds: a.bounds(bounds[:boundsPerMessage])})
		bounds = bounds[boundsPerMessage:]
	}
	m.Bounds = a.bounds(bounds)
	a.send(m)
	return true
}

// grown returns how many of the stream's batches are written by now, 0 if no more
// than it was told, in verdicts or before. REQUIRES: sending, answers.
func (a *appendStream) grown() uint64 {
	a.settled += uint64(len(a.message.Verdicts))
	// Of the appender's, told are settled; the others, and our own refusals in
	// front of the last of them, are as many more.
	written := a.appender.Written()
	if a.broken != nil || written <= a.told {
		return 0
	}
	n := a.settled + written - a.told
	for i := range a.answers.refusals {
		if a.answers.refusals[i].after < written {
			n++
		}
	}
	if n <= a.written {
		return 0
	}
	a.written = n
	return n
}

func (a *appendStream) send(m *wire.AppendResponse) {
	if err := a.stream.SendMsg(m); err != nil && a.broken == nil {
		a.broken = err
	}
}

// collect puts the verdicts taken into the message, with the service's own
// refusals where they belong, and gives their credit back. A verdict that says
// no more than that the volume has ended is not one: the stream is broken there.
func (a *appendStream) collect() {
	var bytes, batches int64
	own := a.answers.refusals
	ours := func() {
		for len(own) > 0 && own[0].after <= a.told {
			a.message.Verdicts = append(a.message.Verdicts, own[0].Verdict)
			bytes, batches = bytes+int64(own[0].bytes), batches+1
			own = own[1:]
		}
	}
	ours()
	for i := range a.verdicts {
		v := &a.verdicts[i]
		if end := unsettled(v.Err); errors.Is(end, ErrOutcomeUnknown) {
			a.broken = end
			break
		}
		out := wire.Verdict{
			Binding:  uint32(v.Binding.Tag),
			Sequence: v.Sequence,
			Count:    v.Count,
			First:    uint64(v.First),
			Epoch:    uint64(v.Epoch),
			Checksum: uint32(v.Checksum),
			Repeated: v.Repeated,
		}
		if v.Err != nil {
			out.Refusal = Refusal(v.Err)
		}
		for _, p := range v.Parts {
			out.Parts = append(out.Parts, wire.PartVerdict{First: uint64(p.First), Count: p.Count, Checksum: uint32(p.Checksum), Epoch: uint64(p.Epoch)})
		}
		// One time for all, unless there are several commits to tell of.
		switch at := uint64(v.Committed); {
		case at == 0:
		case a.message.CommitTime == 0:
			a.message.CommitTime = at
		case a.message.CommitTime != at:
			out.CommitTime = at
		}
		a.message.Verdicts = append(a.message.Verdicts, out)
		bytes, batches = bytes+int64(v.Tag), batches+1
		a.told++
		ours()
	}
	a.answers.refusals = slices.Delete(a.answers.refusals, 0, len(a.answers.refusals)-len(own))
	a.unreadBytes.Add(-bytes)
	a.unreadBatches.Add(-batches)
}

func (a *appendStream) bounds(to []answer) []*walsvcv1.Bound {
	if len(to) == 0 {
		return nil
	}
	bounds, volume := make([]*walsvcv1.Bound, len(to)), a.server.volume.ID().String()
	for i, b := range to {
		if b.err != nil {
			bounds[i] = &walsvcv1.Bound{Binding: b.number, Refusal: Refusal(b.err)}
			continue
		}
		bounds[i] = &walsvcv1.Bound{Binding: b.number, Log: logOf(b.log), LastSequence: b.producer.LastSequence, VolumeId: volume}
	}
	return bounds
}
