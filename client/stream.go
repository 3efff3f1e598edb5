package client

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"

	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/gather"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

const (
	// fullMessage is how many bytes of records make a message that is sent though
	// a small one is not acknowledged yet. Smaller ones gather meanwhile: they
	// would make small frames, and each costs as much CPU as a full one.
	fullMessage = 32 << 10

	// messageSize is when a message takes no further batch, in bytes of records.
	messageSize = 64 << 10

	// quietStream is up to how many unacknowledged bytes a message is sent by
	// whoever appends or receives: the transport has more buffer than that for a
	// stream, so sending does not block. Beyond it the stream's own goroutine sends.
	quietStream = 32 << 10

	// bindsPerMessage keeps a message of binds far below limits.MaxMessageSize.
	bindsPerMessage = 1024

	// opensAtOnce bounds the logs that a stream opens at one time.
	opensAtOnce = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// phase says how far a log is with its stream. doc.go draws the transitions.
type phase uint8

const (
	unopened phase = iota // no producer; nothing is queued
	opening               // a goroutine opens the producer; appends wait, queued only if it succeeds another one
	opened                // has a producer; queued batches wait to be bound
	bound                 // batches may be sent
	refused               // one was refused; nothing is sent until all sent ones have their verdicts
	lost                  // acknowledged data is missing: for good
)

// appender is what a Log is to its stream, whose mu guards it.
//
// Invariants:
//
//  1. queue[:sent] are out on the present stream, in the order of their
//     sequences, which are dense and end with next-1. sent is 0 unless the log
//     is bound or refused.
//  2. A batch has a sequence if and only if it may have landed. Those that have
//     one come first in the queue.
//  3. A batch with a sequence is never changed, and never sent with another
//     sequence.
//  4. A batch is sent by a binding that states the epochs which the batch was
//     appended in, and those that are out all have the same: the log is bound anew
//     for others when none is out.
type appender struct {
	phase    phase
	opens    *openCall // under way; nil unless opening
	err      error     // why it is lost; while refused, why its producer is to be given up; nil otherwise
	refusal  error     // while refused, of the batch that is not where those behind it assume; nil if all are sent again
	producer ulid.ULID // kept when the log is given up with nothing unknown; zero for a new one
	used     bool      // Options.Producer, if any, was this log's
	landed   uint64    // the producer's last batch that was acknowledged, whichever opening of it; 0 for none
	next     uint64    // sequence of the next batch that is numbered
	named    uint64    // the last one that a caller was told to ask for; 0 for none
	epochs   epochs    // that appends state from now on; of a group's lead, that its last one does
	stated   epochs    // by the present binding
	// incarnation of the producer, as its opening told.
	incarnation uint64
	binding     uint32 // on the present stream; 0 if none. Those of further logs are the next ones
	unbound     int    // answers to binds that are to come
	rebind      bool   // the binding was made before the handle rewound the log
	queue       []*batch
	sent        int
	returned    []*batch      // sent, and refused with the one before them: to be sent again
	unsent      int           // bytes of queue[sent:]
	ready       bool          // in the stream's list of logs that may send
	joinable    *batch        // the last of the queue, if single records may still join it
	hint        int           // capacity to begin a batch with: what the last one grew to
	paced       bool          // over its rate: one batch is out at a time, until none waits
	pause       time.Duration // while refused, and over its rate: how long that takes
	resume      *time.Timer   // that ends the pause; nil if there is none

	id        ulid.ULID // of the log, once bound
	volume    ulid.ULID // that has it, once bound for the first time
	maxRecord int       // the log's own bound on records, in bytes; 0 for none
	maxBatch  int       // its volume's bound on batches, in bytes as framed; set once it is opened
	claim     Claim     // the last acknowledgement, which the service must prove
	discarded error     // that it was discarded, which nobody was there to be told: the next append is
	known     position  // the highest position known, by whoever it was appended
}

// position is a place in a log's history.
type position struct {
	epoch    uint64
	lsn      LSN
	checksum uint32
}

// acked returns where the last acknowledgement is. REQUIRES: mu.
func (l *Log) acked() position { return position{l.claim.Epoch, l.claim.LSN, l.claim.LogChecksum} }

// openCall is an attempt to open a log's producer.
type openCall struct {
	done chan struct{} // closed when it ended: err is set
	err  error
}

// stream is an append stream and what must outlive it: the logs that ride it and
// their batches that are not settled. Its goroutines are run, which connects and
// receives, and push, which sends when nobody else may.
type stream struct {
	client *Client
	work   chan struct{} // capacity 1: push has something to send
	called chan struct{} // capacity 1: there is a log to connect for
	slots  chan struct{} // opensAtOnce: who holds one opens a log
	start  sync.Once

	mu      sync.Mutex
	closing bool
	logs    []*Log // that are opened: to be bound again on every stream
	seats   int    // bindings of those
	pending struct{ bytes, records int }
	room    chan struct{} // closed when pending has shrunk; nil if nobody waits
	idle    chan struct{} // closed when nothing is pending; nil if nobody waits

	// Of the present stream; zero while there is none.
	raw      grpc.ClientStream
	kill     context.CancelCauseFunc
	draining bool
	credit   struct{ bytes, batches int }
	out      struct{ bytes, batches, records, small int } // unacknowledged; small: batches of small messages
	bindings []*Log                                       // by number, from 1; a group has several, one behind the other
	greeted  bool                                         // a message was sent
	binds    []*Log                                       // not asked for yet
	resets   []uint32
	ready    []*Log // that are bound, have unsent batches and window left
	unsent   int    // bytes of unsent batches of those

	// staged are the batches that are out, in their order, if Options.WrittenAcks is
	// set: the first has settled others before it on this stream.
	staged  []*batch
	settled uint64

	// holding has what is small wait: gather will send it.
	holding   bool
	gathering struct {
		policy gather.Policy
		sent   time.Time // when the last small message was
		acked  bool      // it has been since
		landed time.Time // when the one before was acknowledged
	}

	sending bool // somebody is in SendMsg; message and sent are theirs
	message wire.AppendRequest
	sent    []*wire.Buffer // held while the message is made of them

	finished []*batch   // settled, and to be told when mu is released
	telling  sync.Mutex // held before mu, by who tells: run, or who has failed to open a log
}

func newStream(c *Client) *stream {
	return &stream{client: c, work: make(chan struct{}, 1), called: make(chan struct{}, 1), slots: make(chan struct{}, opensAtOnce)}
}

// Taking appends.

// admit waits until an append of n bytes and count records to l, the largest of
// them of largest bytes, may be queued. REQUIRES: mu, which it gives up while it
// waits.
func (s *stream) admit(ctx context.Context, l *Log, n, count, largest int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	for {
		var wait <-chan struct{}
		var opens *openCall
		switch {
		case s.closing:
			return ErrClosed
		case l.phase == lost:
			return l.err
		case l.discarded != nil:
			err := l.discarded
			l.discarded = nil
			return err
		case l.phase == unopened:
			if s.seats+l.seats() > limits.MaxBindingsPerStream {
				return fmt.Errorf("%w: %d on one stream; raise Options.Streams", ErrTooManyLogs, s.seats)
			}
			s.openLog(l)
			opens, wait = l.opens, l.opens.done
		case l.phase == opening:
			opens, wait = l.opens, l.opens.done
		case l.maxRecord > 0 && largest > l.maxRecord:
			return fmt.Errorf("%w: a record of %d bytes, the log's limit is %d", ErrTooLarge, largest, l.maxRecord)
		case n > l.maxBatch:
			return fmt.Errorf("%w: %d bytes as framed, the limit of the log's volume is %d", ErrTooLarge, n, l.maxBatch)
		case s.fits(n, count):
			return nil
		default:
			if s.room == nil {
				s.room = make(chan struct{})
			}
			wait = s.room
		}
		s.mu.Unlock()
		var err error
		select {
		case <-wait:
			if opens != nil {
				err = opens.err
			}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// fits reports whether there is room to have so much more pending. What is over
// the bounds alone fits when nothing else is pending.
func (s *stream) fits(bytes, count int) bool {
	o, share := &s.client.options, len(s.client.streams)
	return s.pending.records == 0 ||
		s.pending.bytes+bytes <= o.MaxPendingBytes/share && s.pending.records+count <= max(1, o.MaxPendingRecords/share)
}

// take queues a batch of its own, whose largest record has largest bytes. It states
// what its log does by now, unless it says what.
func (s *stream) take(ctx context.Context, b *batch, largest int) error {
	s.mu.Lock()
	if b.epochs == nil {
		b.epochs = b.log.epochs
	} else {
		b.log.epochs = b.epochs // a group's
	}
	if err := s.admit(ctx, b.log, b.size(), b.count, largest); err != nil {
		s.mu.Unlock()
		return err
	}
	l := b.log
	l.queue = append(l.queue, b)
	l.joinable = nil
	s.pending.records += b.count - 1 // queued counts one
	s.queued(l, b.size())
	s.send(false)
	return nil
}

// queued counts a record of n bytes that was put into l's queue. REQUIRES: mu.
func (s *stream) queued(l *Log, n int) {
	s.pending.bytes += n
	s.pending.records++
	l.unsent += n
	if l.ready {
		s.unsent += n
	} else {
		s.offer(l)
	}
}

// offer puts l among the logs that may send, if it may, or has it bound anew if what
// is to be sent states other epochs. REQUIRES: mu.
func (s *stream) offer(l *Log) {
	if l.restates() {
		l.phase, l.binding = opened, 0
		s.binds = append(s.binds, l)
		return
	}
	if !l.ready && l.sendable() {
		l.ready = true
		s.unsent += l.unsent
		s.ready = append(s.ready, l)
	}
}

// sendable reports whether the log may send a batch as far as it is concerned.
func (l *Log) sendable() bool {
	return l.phase == bound && !l.rebind && l.sent < len(l.queue) && l.sent < limits.ProducerWindow && (!l.paced || l.sent == 0) &&
		l.queue[l.sent].epochs.equal(l.stated)
}

// Opening logs.

// openLog begins to open l's producer. What is queued already, if it succeeds another
// one, fails with it. REQUIRES: mu; l is unopened.
func (s *stream) openLog(l *Log) {
	c := s.client
	l.phase = opening
	l.opens = &openCall{done: make(chan struct{})}
	if l.producer == (ulid.ULID{}) && !l.used {
		l.producer = c.options.Producer
	}
	if l.producer == (ulid.ULID{}) {
		l.producer, l.landed = ulid.Make(), 0
	}
	l.used = true
	producer, landed := l.producer, l.landed
	s.start.Do(func() {
		c.running.Go(s.run)
		c.running.Go(s.push)
	})
	c.running.Go(func() {
		info, further, opening, err := s.callOpen(l, producer, landed)
		failed := false // appends that wait for it in the queue
		defer func() {
			if failed {
				s.tell()
			}
		}()
		s.mu.Lock()
		defer s.mu.Unlock()
		call := l.opens
		defer close(call.done)
		l.opens = nil
		if err != nil {
			failed = len(l.queue) > 0
			for _, b := range l.queue {
				s.settle(b, Receipt{}, err)
			}
			l.queue, l.unsent = nil, 0
			l.phase, call.err = unopened, err
			if errors.Is(err, ErrForgotten) || errors.Is(err, ErrRetired) && producer != c.options.Producer {
				l.producer, l.landed = ulid.ULID{}, 0 // who waits is told; the next append is another producer's
			}
			return
		}
		l.phase, l.next, l.incarnation = opened, opening.GetLastSequence()+1, opening.GetIncarnation()
		l.maxRecord, l.id = int(info.Options.MaxRecordBytes), info.ID
		l.maxBatch = int(opening.GetMaxBatchBytes())
		l.known = position{}
		for i, f := range l.further {
			f.id, f.known = further[i].ID, position{}
		}
		s.logs = append(s.logs, l)
		s.seats += l.seats()
		s.binds = append(s.binds, l)
		poke(s.called)
		poke(s.work)
	})
}

// callOpen asks for a log, and for the further ones of its group, and opens a
// producer on it, of which the batch landed is known to have landed: a log that does
// not know of it says so, and does not begin at 1 what it would take for new. It goes
// on until the service answers or the client is closed: those who wait have contexts of
// their own.
func (s *stream) callOpen(l *Log, producer ulid.ULID, landed uint64) (info LogInfo, further []LogInfo, resp *walsvcv1.OpenProducerResponse, err error) {
	for i := range l.seats() {
		if !utf8.ValidString(l.nameAt(i)) {
			return LogInfo{}, nil, nil, ErrInvalidName // no message could hold it
		}
	}
	ctx := s.client.ctx
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return LogInfo{}, nil, nil, context.Cause(ctx)
	}
	pause := backoff{first: s.client.patient}
	for {
		infos := make([]LogInfo, l.seats())
		for i := range infos {
			if infos[i], err = s.client.GetLog(ctx, l.nameAt(i)); err != nil {
				if e, ok := errors.AsType[*Error](err); ok && l.further != nil {
					e.about(l.nameAt(i))
				}
				break
			}
		}
		if err == nil {
			resp, err = s.client.appendService.OpenProducer(ctx, &walsvcv1.OpenProducerRequest{Log: l.name, Producer: producer.String(), AcknowledgedSequence: landed})
			if err == nil {
				return infos[0], infos[1:], resp, nil
			}
		}
		var e *Error
		if err = called(err, "open producer"); ctx.Err() != nil {
			return LogInfo{}, nil, nil, context.Cause(ctx)
		}
		if !errors.As(err, &e) || !e.retryable() && !errors.Is(e, ErrRateLimited) {
			return LogInfo{}, nil, nil, err
		}
		if err := pause.wait(ctx); err != nil {
			return LogInfo{}, nil, nil, err
		}
	}
}

// poke puts a token into a channel of capacity 1, unless there is one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Sending.

// may reports whether there is something that should be sent now. REQUIRES: mu.
func (s *stream) may() bool {
	if s.raw == nil || s.draining || s.sending {
		return false
	}
	return len(s.binds) > 0 || len(s.resets) > 0 || s.mayBatches()
}

// mayBatches reports whether batches should be sent now: see fullMessage.
func (s *stream) mayBatches() bool {
	if len(s.ready) == 0 || (s.holding || s.out.small > 0) && s.unsent < fullMessage {
		return false
	}
	l := s.ready[0]
	return s.credited(l.queue[l.sent])
}

// credited reports whether the stream's credit allows b too.
func (s *stream) credited(b *batch) bool {
	return s.out.batches < s.credit.batches && s.out.bytes+b.size() <= s.credit.bytes
}

// send sends what should be sent now, here if that does not block, and leaves it
// to push otherwise or if pushing. REQUIRES: mu, which it releases.
func (s *stream) send(pushing bool) {
	if !s.may() {
		s.mu.Unlock()
		return
	}
	if !pushing && s.out.bytes > quietStream {
		s.mu.Unlock()
		poke(s.work)
		return
	}
	if len(s.binds) > 0 && s.full(s.binds[0]) {
		s.end() // a number is used once, and the next stream's begin at 1
		s.mu.Unlock()
		return
	}
	s.collect()
	s.sending = true
	raw := s.raw
	s.mu.Unlock()

	// An error here ends the stream, and run hears why: what was in the message
	// is among what it sends again.
	_ = raw.SendMsg(&s.message)
	for _, b := range s.sent {
		b.Release()
	}
	clear(s.sent)
	s.sent = s.sent[:0]
	s.message.Reset()

	s.mu.Lock()
	s.sending = false
	more := s.may()
	s.mu.Unlock()
	if more {
		poke(s.work)
	}
}

// full reports whether the stream has no numbers left for l's bindings. A log takes as
// many each time it is bound anew, and all logs together have seats on a stream.
func (s *stream) full(l *Log) bool { return len(s.bindings)+l.seats() > limits.MaxBindingsPerStream }

// collect fills message. REQUIRES: mu, may.
func (s *stream) collect() {
	m := &s.message
	m.WrittenAcks = s.client.options.WrittenAcks && !s.greeted
	s.greeted = true
	n := 0
	for ; n < min(len(s.binds), bindsPerMessage) && !s.full(s.binds[n]); n++ {
		l := s.binds[n]
		l.binding = uint32(len(s.bindings)) + 1
		l.unbound, l.stated, l.rebind = l.seats(), l.states(), false
		for range l.seats() {
			s.bindings = append(s.bindings, l)
		}
		m.Binds = append(m.Binds, l.bind())
		for i, f := range l.further {
			m.Binds = append(m.Binds, f.bind(l.binding+1+uint32(i), l.stated.at(1+i)))
		}
	}
	s.binds = s.binds[n:]
	m.Resets = append(m.Resets, s.resets...)
	s.resets = s.resets[:0]
	if !s.mayBatches() {
		return
	}

	size, first := 0, len(s.ready)
	for len(s.ready) > 0 && size < messageSize && len(m.Batches) < limits.MaxBatchesPerMessage {
		l := s.ready[0]
		b := l.queue[l.sent]
		if !s.credited(b) || size > 0 && size+b.size() > messageSize {
			break
		}
		if b.sequence == 0 {
			b.sequence = l.next
			l.next++
		}
		if l.joinable == b {
			l.joinable = nil
			l.hint = min(b.size(), targetBatch)
		}
		run, _ := b.lead()
		m.Batches = append(m.Batches, wire.Batch{
			Binding: l.binding, Sequence: b.sequence, Expected: uint64(b.expected), Run: run, Buffer: b.run, Parts: b.message(l.binding),
		})
		b.run.Hold()
		s.sent = append(s.sent, b.run)
		if b.written != nil {
			s.staged = append(s.staged, b)
		}

		l.sent++
		l.unsent -= b.size()
		s.unsent -= b.size()
		size += b.size()
		s.out.bytes += b.size()
		s.out.batches++
		s.out.records += b.count
		if !l.sendable() {
			l.ready = false
			s.unsent -= l.unsent
			s.ready = s.ready[1:]
		} else if first--; first > 0 {
			// One batch each, in turn; who has more comes after the others.
			s.ready = append(s.ready[1:], l)
		}
	}
	if size >= fullMessage {
		return
	}
	s.out.small += len(m.Batches)
	s.gathering.sent = time.Now()
	for i := range m.Batches {
		l := s.bindings[m.Batches[i].Binding-1]
		l.outAt(m.Batches[i].Sequence).small = true
	}
}

// outAt returns the batch of a sequence that is out.
func (l *Log) outAt(sequence uint64) *batch {
	return l.queue[sequence-l.queue[0].sequence]
}

// bind returns the request to bind the log, with what it was last acknowledged.
func (l *Log) bind() *walsvcv1.Bind {
	return &walsvcv1.Bind{Binding: l.binding, Log: l.name, Producer: l.producer.String(), Epoch: l.stated.at(0), Claim: l.claim.message(), Incarnation: l.incarnation}
}

// push sends what send leaves to it.
func (s *stream) push() {
	for {
		select {
		case <-s.work:
			s.mu.Lock()
			s.send(true)
		case <-s.client.ctx.Done():
			return
		}
	}
}

// Riding.

// run keeps a stream going as long as there are logs to ride it.
func (s *stream) run() {
	ctx := s.client.ctx
	pause := backoff{first: s.client.patient}
	for {
		s.mu.Lock()
		none := len(s.logs) == 0
		s.mu.Unlock()
		if none {
			select {
			case <-s.called:
				continue
			case <-ctx.Done():
				return
			}
		}
		rode, err := s.ride(ctx)
		s.leave(fromStatus(err))
		if rode {
			pause.reset()
		}
		if pause.wait(ctx) != nil {
			return
		}
	}
}

// ride connects, and receives until the stream ends. It reports whether the
// service answered anything but its credit.
func (s *stream) ride(ctx context.Context) (rode bool, err error) {
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	raw, err := s.client.appendService.AppendStream(ctx, grpc.WaitForReady(true))
	if err != nil {
		return false, err
	}
	var m wire.AppendResponse
	for first := true; ; first = false {
		if err := raw.RecvMsg(&m); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return rode, err
		}
		s.mu.Lock()
		if first {
			err = s.board(raw, kill, &m)
		} else {
			s.receive(&m)
			rode = true
		}
		if err == nil && s.raw == nil {
			err = errEnded
		}
		if err != nil {
			s.mu.Unlock()
			s.tell()
			return rode, err
		}
		s.holding = true
		s.mu.Unlock()
		told := s.tell()
		s.mu.Lock()
		s.gather(told)
	}
}

// board begins a stream: every log is to be bound. It returns ErrProtocol if the
// credit would not allow every legal batch. REQUIRES: mu.
func (s *stream) board(raw grpc.ClientStream, kill context.CancelCauseFunc, m *wire.AppendResponse) error {
	s.credit.bytes, s.credit.batches = int(m.Credit.GetBytes()), int(m.Credit.GetBatches())
	if s.credit.bytes < limits.MaxBatchSize || s.credit.batches < 1 {
		return fmt.Errorf("%w: credit of %d bytes and %d batches", ErrProtocol, s.credit.bytes, s.credit.batches)
	}
	s.raw, s.kill, s.greeted = raw, kill, false
	s.binds = append(s.binds[:0:0], s.logs...)
	return nil
}

// leave takes everything off a stream that ended. What may have landed keeps its
// sequence, to be sent again as it is; if the service says that another stream
// would fare no better, it is given up.
func (s *stream) leave(why *Error) {
	s.mu.Lock()
	s.raw, s.kill, s.draining = nil, nil, false
	s.credit.bytes, s.credit.batches = 0, 0
	s.out.bytes, s.out.batches, s.out.records, s.out.small = 0, 0, 0, 0
	s.bindings, s.binds, s.resets, s.ready, s.unsent = nil, nil, nil, nil, 0
	s.staged, s.settled = nil, 0
	logs := s.logs
	s.logs, s.seats = nil, 0
	for _, l := range logs {
		l.stopPause()
		if l.phase == refused {
			if l.err != nil {
				s.drop(l, l.err)
				continue
			}
			if !s.recover(l) {
				continue
			}
		}
		l.phase, l.binding, l.ready, l.sent, l.unsent = opened, 0, false, 0, 0
		for _, b := range l.queue {
			b.small, b.again = false, b.sequence != 0
			l.unsent += b.size()
		}
		if !why.retryable() {
			s.drop(l, why)
			continue
		}
		s.logs = append(s.logs, l)
		s.seats += l.seats()
	}
	s.mu.Unlock()
	s.tell()
}

// recover makes a refused log's batches ready to be numbered anew: all of them
// are known not to have landed. It gives the producer up instead, and reports false, if
// that would give a batch another sequence than the one that its caller was told to ask
// for. REQUIRES: mu.
func (s *stream) recover(l *Log) bool {
	if l.misnames() {
		s.succeed(l)
		return false
	}
	l.queue = append(l.returned, l.queue...)
	l.returned, l.sent, l.unsent = nil, 0, 0
	kept := l.queue[:0]
	for _, b := range l.queue {
		if l.strands(b) {
			s.settle(b, Receipt{}, fmt.Errorf("%w: %w", ErrAfterRefusal, l.refusal))
			continue
		}
		b.sequence, b.small, b.again = 0, false, false
		l.unsent += b.size()
		kept = append(kept, b)
	}
	clear(l.queue[len(kept):])
	l.queue, l.refusal = kept, nil
	return true
}

// succeed gives up a refused log's producer, with those batches whose callers were told to
// ask it for them, and opens another one for the rest. REQUIRES: mu.
func (s *stream) succeed(l *Log) {
	why := ErrAfterRefusal
	if l.refusal != nil {
		why = fmt.Errorf("%w: %w", why, l.refusal)
	}
	all := append(l.returned, l.queue...)
	var told, rest []*batch
	for _, b := range all {
		if b.named != 0 || l.strands(b) {
			told = append(told, b)
		} else {
			rest = append(rest, b)
		}
	}
	l.returned, l.queue = nil, told
	s.drop(l, why)
	if len(rest) == 0 {
		return
	}
	for _, b := range rest {
		b.sequence, b.small, b.again = 0, false, false
		l.unsent += b.size()
	}
	l.queue = rest
	s.openLog(l)
}

// strands reports whether a batch of a refused log is refused, too: its place was
// computed for what is not there. REQUIRES: mu.
func (l *Log) strands(b *batch) bool {
	return b.sequence != 0 && b.conditional() && l.refusal != nil
}

// foresees returns the sequence that b, which is queued, has or gets, unless it is refused
// or given up; 0 while the log has no producer to ask for it. REQUIRES: mu.
func (l *Log) foresees(b *batch) uint64 {
	if l.phase == opening {
		return 0
	}
	at := l.next
	for _, queue := range [][]*batch{l.returned, l.queue} {
		for _, other := range queue {
			switch {
			case l.phase != refused && other.sequence != 0:
				if other == b {
					return b.sequence
				}
			case other == b:
				return at
			case !l.strands(other):
				at++
			}
		}
	}
	return 0
}

// misnames reports whether a refused log's batches, numbered anew, would not all have the
// sequences that callers were told to ask for, or others would. They keep their order, so
// the last such sequence tells: it is its batch's if nothing before that is missing.
// REQUIRES: mu.
func (l *Log) misnames() bool {
	if l.named < l.next {
		return false // that has had its verdict
	}
	at := l.next
	for _, queue := range [][]*batch{l.returned, l.queue} {
		for _, b := range queue {
			if l.strands(b) {
				continue
			}
			if at == l.named {
				return b.named != l.named
			}
			at++
		}
	}
	return true
}

// receive works a message in. REQUIRES: mu.
func (s *stream) receive(m *wire.AppendResponse) {
	for _, b := range m.Bounds {
		l, part := s.seatAt(b.GetBinding())
		if l == nil && s.gone(b.GetBinding()) {
			continue
		}
		if l == nil || l.phase != opened {
			s.violated(l, "bound to %d, which is not a binding under way", b.GetBinding())
			return
		}
		if part > 0 {
			s.boundFurther(l, l.further[part-1], b)
		} else {
			s.bound(l, b)
		}
	}
	for i := range m.Verdicts {
		v := &m.Verdicts[i]
		l, part := s.seatAt(v.Binding)
		if l == nil || part > 0 || l.sent == 0 || l.queue[0].sequence != v.Sequence {
			s.violated(l, "verdict on sequence %d of binding %d, which is not the next one", v.Sequence, v.Binding)
			return
		}
		if len(s.staged) > 0 {
			s.staged[0] = nil
			s.staged = s.staged[1:]
			s.settled++
		}
		if v.CommitTime == 0 {
			v.CommitTime = m.CommitTime
		}
		if s.verdict(l, v) {
			return
		}
	}
	if m.Written > s.settled {
		n := m.Written - s.settled
		if n > uint64(len(s.staged)) {
			s.violated(nil, "%d batches are written, %d were sent", m.Written, s.settled+uint64(len(s.staged)))
			return
		}
		for _, b := range s.staged[:n] {
			b.tellWritten()
		}
	}
	if m.Draining {
		s.draining = true
	}
}

// seatAt returns the log of a binding, and which one of its group's that is, the
// lead's being 0; nil if there is none.
func (s *stream) seatAt(binding uint32) (l *Log, part int) {
	if binding == 0 || int(binding) > len(s.bindings) {
		return nil, 0
	}
	l = s.bindings[binding-1]
	if l.binding != 0 && binding >= l.binding && int(binding-l.binding) < l.seats() {
		return l, int(binding - l.binding)
	}
	return nil, 0 // given up since
}

// errEnded is why the client ends a stream to begin another one.
var errEnded = errors.New("stream ended by the client")

// violated ends the stream, and gives up the log that the service contradicted
// itself about; nil for none. REQUIRES: mu.
func (s *stream) violated(l *Log, format string, args ...any) {
	err := fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	if l != nil {
		s.drop(l, err)
	}
	s.end()
}

// end ends the stream: what still comes on it is not listened to. REQUIRES: mu.
func (s *stream) end() {
	s.kill(errEnded)
	s.raw = nil
}

// bound works in the answer to a bind. REQUIRES: mu; l is opened.
func (s *stream) bound(l *Log, b *walsvcv1.Bound) {
	if b.GetRefusal() != nil {
		why := fromRefusal(b.GetRefusal())
		unheard := errors.Is(why, ErrRewound) && len(l.queue) == 0
		if s.drop(l, why); unheard {
			l.discarded = why
		}
		return
	}
	info, err := logInfo(b.GetLog())
	if err != nil {
		s.violated(l, "bound to %d: %v", b.GetBinding(), err)
		return
	}
	if info.ID != l.id {
		s.drop(l, fmt.Errorf("%w: it was deleted, and there is another one of that name", ErrLogNotFound))
		return
	}
	// What has a sequence may have landed, from the front. All before it was
	// acknowledged, and nothing behind it was ever sent.
	numbered := uint64(0)
	for int(numbered) < len(l.queue) && l.queue[numbered].sequence != 0 {
		numbered++
	}
	switch last := b.GetLastSequence(); {
	case last+numbered+1 < l.next:
		s.drop(l, fmt.Errorf("%w: sequence %d was acknowledged, the service has up to %d", ErrDataLoss, l.next-1-numbered, last))
		return
	case last >= l.next:
		s.violated(l, "the producer's last sequence is %d, only %d was sent", last, l.next-1)
		return
	}
	if l.volume, err = ulid.ParseStrict(b.GetVolumeId()); err != nil {
		s.violated(l, "bound to %d in volume %q", b.GetBinding(), b.GetVolumeId())
		return
	}
	l.known = position{info.Epoch, info.Durable(), info.LogChecksum}
	s.seated(l)
}

// seated notes that one more of l's bindings is open: with all of them, it may send.
// REQUIRES: mu.
func (s *stream) seated(l *Log) {
	if l.unbound--; l.unbound == 0 {
		l.phase = bound
		s.offer(l)
	}
}

// verdict works in the verdict on the first batch that is out, and reports
// whether that ended the stream. REQUIRES: mu.
func (s *stream) verdict(l *Log, v *wire.Verdict) (ended bool) {
	b := l.queue[0]
	if v.Refusal == nil {
		if err := l.contradicts(b, v); err != nil {
			s.drop(l, err)
			s.end()
			return true
		}
		s.arrived(l, b)
		l.landed = b.sequence
		_, count := b.lead()
		r := Receipt{
			Volume: l.volume, Log: l.id, Name: l.name, Epoch: v.Epoch, LSN: LSN(v.First), Count: count, LogChecksum: v.Checksum,
			Through: LSN(v.First) + LSN(count) - 1, Committed: committed(v), Repeated: v.Repeated,
		}
		if v.First == 0 {
			s.settle(b, Receipt{}, ErrPositionLost)
		} else {
			l.claim = r.Claim()
			if l.known.lsn < r.Through || l.known.epoch != v.Epoch {
				l.known = l.acked()
			}
			l.partsLanded(b, v)
			s.settle(b, r, nil)
		}
		l.paced = l.paced && len(l.queue) > 0
		s.offer(l)
		return false
	}

	why := fromRefusal(v.Refusal)
	if l.further != nil {
		why.about(l.name) // of a further log it says so
	}
	if errors.Is(why, ErrPoisoned) || errors.Is(why, ErrUnknownOutcome) || b.again && unasked(why) {
		s.drop(l, why)
		s.end()
		return true
	}
	if errors.Is(why, ErrRewound) || errors.Is(why, ErrDiscarded) {
		l.claim = Claim{} // it may be among what was discarded
		for _, f := range l.further {
			f.claim = Claim{}
		}
	}
	if errors.Is(why, ErrDiscarded) {
		// It landed, and its sequence stays used: unlike what is refused behind it.
		s.arrived(l, b)
		s.settle(b, Receipt{}, why)
		s.offer(l)
		return false
	}
	if l.phase != refused {
		l.phase, l.next = refused, b.sequence
		if !errors.Is(why, ErrUnavailable) {
			l.refusal = why
		}
		s.withdraw(l)
	}
	s.arrived(l, b)
	switch {
	case errors.Is(why, ErrAfterRefusal), errors.Is(why, ErrUnavailable):
		l.returned = append(l.returned, b)
	case errors.Is(why, ErrRateQuota) && !b.conditional():
		l.returned = append(l.returned, b)
		l.paced, l.pause = true, max(why.RetryAfter, firstBackoff)
	case errors.Is(why, ErrLogNotFound), errors.Is(why, ErrNoProducer), errors.Is(why, ErrSuperseded),
		errors.Is(why, ErrSequenceGap), errors.Is(why, ErrSequenceReuse), errors.Is(why, ErrRetired), errors.Is(why, ErrDataLoss):
		l.err = why // there is no going on with this producer
		fallthrough
	default:
		s.settle(b, Receipt{}, why)
	}
	if l.sent == 0 {
		if l.err != nil {
			s.drop(l, l.err)
			return false
		}
		if !s.recover(l) {
			return false
		}
		if l.pause > 0 {
			s.pauseFor(l)
			return false
		}
		s.rebound(l)
	}
	return false
}

// unasked reports whether a refusal comes before it is asked whether the batch has landed
// already: of one that was sent before it says nothing.
func unasked(why error) bool {
	return errors.Is(why, ErrSuperseded) || errors.Is(why, ErrNoProducer) || errors.Is(why, ErrLogNotFound)
}

// committed returns when a batch was, as its verdict says; zero for a repeat.
func committed(v *wire.Verdict) time.Time {
	if v.CommitTime == 0 || v.Repeated {
		return time.Time{}
	}
	return time.Unix(0, int64(v.CommitTime)).UTC()
}

// rebound has l send again behind a refusal. REQUIRES: mu.
func (s *stream) rebound(l *Log) {
	l.phase = bound
	if !l.restates() { // else its binding is another one
		for i := range l.seats() {
			s.resets = append(s.resets, l.binding+uint32(i))
		}
	}
	s.offer(l)
}

// pauseFor leaves l refused for as long as it is over its rate. REQUIRES: mu.
func (s *stream) pauseFor(l *Log) {
	var over *time.Timer
	over = time.AfterFunc(l.pause, func() {
		s.mu.Lock()
		if l.resume != over { // it was given up meanwhile, or is on another stream
			s.mu.Unlock()
			return
		}
		l.pause, l.resume = 0, nil
		s.rebound(l)
		s.mu.Unlock()
		poke(s.work)
	})
	l.resume = over
}

// stopPause ends l's pause, if it has one, and sends nothing. REQUIRES: mu.
func (l *Log) stopPause() {
	if l.resume != nil {
		l.resume.Stop()
	}
	l.pause, l.resume = 0, nil
}

// arrived takes the first batch that is out, whose verdict came, off the queue.
// REQUIRES: mu.
func (s *stream) arrived(l *Log, b *batch) {
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.sent--
	s.out.bytes -= b.size()
	s.out.batches--
	s.out.records -= b.count
	if !b.small {
		return
	}
	if s.out.small--; s.out.small == 0 {
		s.gathering.acked = true
	}
}

// withdraw takes l from among the logs that may send. REQUIRES: mu.
func (s *stream) withdraw(l *Log) {
	if !l.ready {
		return
	}
	l.ready = false
	s.unsent -= l.unsent
	for i, other := range s.ready {
		if other == l {
			s.ready = append(s.ready[:i:i], s.ready[i+1:]...)
			break
		}
	}
}

// contradicts checks an acknowledgement against what is known about the log.
func (l *Log) contradicts(b *batch, v *wire.Verdict) error {
	if l.phase == refused {
		return fmt.Errorf("%w: sequence %d landed behind a refused one", ErrProtocol, v.Sequence)
	}
	if v.First == 0 {
		if v.Repeated {
			return nil
		}
		return fmt.Errorf("%w: sequence %d landed at no LSN", ErrProtocol, v.Sequence)
	}
	run, count := b.lead()
	lead := landing{
		sequence: v.Sequence, first: LSN(v.First), count: int(v.Count), epoch: v.Epoch, checksum: v.Checksum,
		run: run, sum: b.sum, summed: b.summed, sent: count, expected: b.expected,
	}
	if err := lead.contradicts(&l.claim, l.known); err != nil {
		return err
	}
	return l.contradictsParts(b, v)
}

// A landing is where a run is said to have landed, and what was sent.
type landing struct {
	sequence uint64
	first    LSN
	count    int
	epoch    uint64
	checksum uint32

	run      []byte
	sum      uint32 // of the run, if it is summed
	summed   bool
	sent     int // records of the run
	expected LSN
}

// contradicts checks a landing against the last acknowledgement and the highest
// position known.
func (d *landing) contradicts(claim *Claim, known position) error {
	switch {
	case d.count != d.sent:
		return fmt.Errorf("%w: sequence %d landed with %d records, it has %d", ErrProtocol, d.sequence, d.count, d.sent)
	case d.expected != 0 && d.first != d.expected:
		return fmt.Errorf("%w: sequence %d landed at LSN %d, it was for %d", ErrProtocol, d.sequence, d.first, d.expected)
	case d.epoch < claim.Epoch, d.epoch == claim.Epoch && d.first <= claim.LSN:
		return fmt.Errorf("%w: sequence %d landed at LSN %d of epoch %d, the one before it at %d of epoch %d", ErrProtocol,
			d.sequence, d.first, d.epoch, claim.LSN, claim.Epoch)
	}
	// If nobody appended in between, it is known what the checksum must be: the
	// service has the bytes that were sent, and not others.
	for _, before := range []position{{claim.Epoch, claim.LSN, claim.LogChecksum}, known} {
		if before.epoch == d.epoch && before.lsn+1 == d.first {
			if want := d.behind(before.checksum); want != d.checksum {
				return fmt.Errorf("%w: the log's checksum behind LSN %d is %08x, the records sent make it %08x", ErrProtocol,
					d.first+LSN(d.sent)-1, d.checksum, want)
			}
			break
		}
	}
	return nil
}

// behind returns a log's checksum behind the run, from that before it.
func (d *landing) behind(before uint32) uint32 {
	if d.summed {
		return crc32c.Extend(before, d.run, d.sum)
	}
	return crc32.Update(before, castagnoli, d.run)
}

// Settling.

// settle sets what became of a batch that is off the queue. It is told when mu
// is released. REQUIRES: mu.
func (s *stream) settle(b *batch, r Receipt, err error) {
	b.result, b.err, b.settled = r, err, true
	s.pending.bytes -= b.size()
	s.pending.records -= b.count
	s.finished = append(s.finished, b)
}

// drop gives up all that is queued for a log: what has a sequence may have
// landed, or may yet. If there is such a batch, the next append opens another
// producer, since a sequence that may land must not be used again; nor must one that a
// caller was told to ask for, who would hear of another's batch. A log that
// lost acknowledged data takes no more. REQUIRES: mu.
func (s *stream) drop(l *Log, why error) {
	l.stopPause()
	s.withdraw(l)
	// What was acknowledged stays acknowledged, whoever appends next, unless the
	// log was deleted, with all that it held.
	next := appender{used: true, hint: l.hint, producer: l.producer, epochs: l.epochs, claim: l.claim, volume: l.volume}
	if errors.Is(why, ErrLogNotFound) || errors.Is(why, ErrRewound) {
		next.claim = Claim{}
	}
	if !errors.Is(why, ErrLogNotFound) {
		next.landed = l.landed
	}
	if l.named >= l.next || errors.Is(why, ErrProtocol) || errors.Is(why, ErrSequenceGap) || errors.Is(why, ErrSequenceReuse) || errors.Is(why, ErrRetired) {
		next.producer = ulid.ULID{}
	}
	for _, b := range append(l.returned, l.queue...) {
		err := why
		if b.sequence != 0 && l.phase != refused {
			err = b.unknown(why)
			next.producer = ulid.ULID{}
		}
		s.settle(b, Receipt{}, err)
	}
	l.appender = next
	if errors.Is(why, ErrDataLoss) {
		l.phase, l.err = lost, why
	}
	for i, other := range s.logs {
		if other == l {
			s.logs = append(s.logs[:i:i], s.logs[i+1:]...)
			s.seats -= l.seats()
			break
		}
	}
}

// tell tells everybody whose batches were settled, and those who wait for room.
// It returns how many appends it was that somebody may wait for, to append again.
func (s *stream) tell() (waited int) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	finished := s.finished
	s.finished = nil
	if len(finished) > 0 && s.room != nil {
		close(s.room)
		s.room = nil
	}
	if s.pending.records == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
	s.mu.Unlock()
	for _, b := range finished {
		waited += b.count - len(b.waiting)
		b.finish()
	}
	return waited
}

// Closing.

// close has every further append refused.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// drained waits until nothing is pending or ctx ends.
func (s *stream) drained(ctx context.Context) error {
	s.mu.Lock()
	if s.pending.records == 0 || s.client.ctx.Err() != nil {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// abandon fails what is still pending. The stream's goroutines have ended.
func (s *stream) abandon(why error) {
	s.mu.Lock()
	logs := s.logs
	s.logs = nil
	for _, l := range logs {
		s.drop(l, why)
	}
	s.mu.Unlock()
	s.tell()
}
