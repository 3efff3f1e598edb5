package linear

import (
	"context"
	"fmt"
	"sync"

	"github.com/oklog/ulid/v2"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// epoch returns the epoch that a batch states: where there are writers, most often
// the log's, and else none.
func (c *rawClient) epoch() uint64 {
	if c.log != owned || c.rng.IntN(8) == 0 {
		return 0
	}
	c.view.mu.Lock()
	epoch := max(c.view.epoch, 1)
	c.view.mu.Unlock()
	return c.likely(epoch, 1)
}

// own does something that changes who may append, and who holds what.
func (c *rawClient) own() {
	if !c.changing() {
		c.consult()
		return
	}
	if c.unsure { // what it asked for last shows first, or not: each that does not doubles the search
		log, cursors := c.get(), c.listCursors()
		c.unsure = !log.succeeded() || !cursors.succeeded()
		return
	}
	switch n := c.rng.IntN(100); {
	case n < 10:
		c.acquire()
	case n < 16:
		c.release()
	case n < 21:
		c.rewind()
	case n < 42:
		c.appendProduced()
	case n < 54:
		c.resolve()
	case n < 58:
		c.retire()
	case n < 73:
		c.setCursor()
	case n < 80:
		c.getCursor()
	case n < 84:
		c.listCursors()
	case n < 89:
		c.deleteCursor()
	default:
		c.consult()
	}
}

// acquire asks for the writer, and again with the same request if it heard nothing.
func (c *rawClient) acquire() {
	c.made++
	in := input{Name: fmt.Sprintf("%s.%d", c.name, c.made), Request: ulid.Make().String()}
	if c.rng.IntN(3) == 0 {
		expected := max(c.epoch(), 1)
		in.Version = &expected
	}
	again := 1
	if c.rng.IntN(6) == 0 {
		again = 2
	}
	for range again {
		if out := c.acquireAs(in); out.Reason != "" {
			return
		}
	}
}

func (c *rawClient) acquireAs(in input) output {
	in.Kind = acquireWriter
	return c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.appends.AcquireWriter(ctx, &walsvcv1.AcquireWriterRequest{Log: c.log, Holder: in.Name, ExpectedEpoch: in.Version, Request: in.Request})
		return output{Info: logInfo(r.GetLog()), Repeated: r.GetRepeated()}, err
	})
}

// rewind discards the end of the log, most often a few records that no checkpoint
// covers, and asks again with the same request if it heard nothing. Most name a
// writer that nobody else names, which shows whether they were done.
func (c *rawClient) rewind() {
	_, first, next := c.look()
	low := first - 1
	c.view.mu.Lock()
	for _, cp := range c.view.checkpoints {
		low = max(low, min(cp.LSN, next-1))
	}
	c.view.mu.Unlock()
	c.made++
	in := input{LSN: c.likely(next-1-min(next-1-low, c.rng.Uint64N(6)), 1), Epoch: max(c.epoch(), 1), Request: ulid.Make().String()}
	if c.rng.IntN(4) > 0 {
		in.Name = fmt.Sprintf("%s.%d", c.name, c.made)
	}
	if c.rng.IntN(4) == 0 {
		in.Expected = c.likely(next, 1)
	}
	again := 1
	if c.rng.IntN(6) == 0 {
		again = 2
	}
	for range again {
		if out := c.rewindAs(in); out.Reason != "" {
			return
		}
	}
}

func (c *rawClient) rewindAs(in input) output {
	in.Kind = rewindLog
	return c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.logs.RewindLog(ctx, &walsvcv1.RewindLogRequest{
			Name: c.log, AfterLsn: in.LSN, ExpectedEpoch: in.Epoch, ExpectedNextLsn: in.Expected, Holder: in.Name, Request: in.Request,
		})
		return output{Info: logInfo(r.GetLog()), Count: r.GetRecords(), Bytes: r.GetBytes(), Repeated: r.GetRepeated()}, err
	})
}

func (c *rawClient) release() {
	in := input{Kind: releaseWriter, Epoch: max(c.epoch(), 1)}
	c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.appends.ReleaseWriter(ctx, &walsvcv1.ReleaseWriterRequest{Log: c.log, Epoch: in.Epoch})
		return output{Info: logInfo(r.GetLog())}, err
	})
}

// resolve asks what became of a batch: of the one that is pending, while it may be
// on its way, of one before or behind.
func (c *rawClient) resolve() {
	if !c.ready() && c.log == owned {
		return
	}
	p := &c.producer
	in := input{Kind: resolveBatch, Producer: p.id, Sequence: p.last + 1, Epoch: c.epoch()}
	if id, last := c.other(); id != "" && c.rng.IntN(3) == 0 {
		in.Producer, in.Sequence = id, last+1
	}
	switch n := c.rng.IntN(12); {
	case n == 0 && p.last > 0:
		in.Sequence = 1 + c.rng.Uint64N(p.last)
	case n == 1:
		in.Sequence = 0
	case n == 2, p.id == "":
		in.Producer = ulid.Make().String()
	case n < 8 && in.Producer == p.id && in.Sequence == p.last+1 && c.aide != nil: // else its records would go twice
		c.race(in)
		return
	}
	out := c.resolveAs(in)
	if in.Producer != p.id {
		return
	}
	switch {
	case out.succeeded():
		p.incarnation = out.Incarnation
		p.known(out.Last)
	case out.Unknown:
		p.incarnation = 0
	case out.Reason == noProducer, out.Reason == logNotFound:
		*p = rawProducer{}
	}
}

// other returns somebody's producer that has appended, and its last sequence then.
func (c *rawClient) other() (id string, last uint64) {
	c.view.mu.Lock()
	defer c.view.mu.Unlock()
	return c.view.producer, c.view.sequence
}

var outcomes = map[walsvcv1.Outcome]string{
	walsvcv1.Outcome_OUTCOME_COMMITTED: "COMMITTED", walsvcv1.Outcome_OUTCOME_NOT_WRITTEN: "NOT_WRITTEN", walsvcv1.Outcome_OUTCOME_FENCED: "FENCED",
	walsvcv1.Outcome_OUTCOME_DISCARDED: "DISCARDED",
}

func (c *rawClient) resolveAs(in input) output {
	return c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.appends.Resolve(ctx, &walsvcv1.ResolveRequest{Log: c.log, Producer: in.Producer, Sequence: in.Sequence, Epoch: in.Epoch})
		return output{
			Outcome: outcomes[r.GetOutcome()], First: r.GetFirstLsn(), Count: uint64(r.GetCount()), Epoch: r.GetEpoch(),
			Last: r.GetLastSequence(), Incarnation: r.GetIncarnation(), Info: logInfo(r.GetLog()),
		}, err
	})
}

// race has a batch resolved while it is on its way: it was appended first, or never is.
func (c *rawClient) race(in input) {
	p := &c.producer
	b := &burst{c: c, producer: p.id, epoch: c.epoch(), in: p.incarnation}
	ctx, cancel := c.boundChange()
	defer cancel()
	stream, err := c.appends.AppendStream(ctx)
	if err != nil {
		return
	}
	if open, err := b.bind(stream); !open || err != nil {
		return
	}
	if len(p.pending) == 0 {
		p.pending = [][]string{c.batch(2)}
	}
	s := sentBatch{sequence: in.Sequence}
	s.in, s.end = c.beginOpen(input{
		Kind: appendRecords, ID: b.bound, Told: b.told, Producer: b.producer, Epoch: b.epoch, Incarnation: b.in, Stream: true, Rebound: c.rebound(), Sequence: s.sequence, Records: p.pending[0],
	})
	b.sent = append(b.sent, s)
	var resolving sync.WaitGroup
	resolving.Go(func() { c.aide.resolveAs(in) })
	// If it fails, Recv has the reason.
	_ = stream.Send(&walsvcv1.AppendStreamRequest{Batches: []*walsvcv1.Batch{{Binding: 1, Sequence: s.sequence, Records: wire(p.pending[0])}}})
	for err = stream.CloseSend(); err == nil; {
		var m *walsvcv1.AppendStreamResponse
		if m, err = stream.Recv(); err == nil && !b.take(m) {
			break
		}
	}
	b.settle(err)
	resolving.Wait()
	p.incarnation = 0 // the aide knows
}

// retire ends the producer for good.
func (c *rawClient) retire() {
	if !c.ready() && c.log == owned {
		return
	}
	producer := c.producer.id
	switch id, _ := c.other(); {
	case producer == "", c.rng.IntN(4) == 0:
		producer = ulid.Make().String()
	case id != "" && c.rng.IntN(4) == 0:
		producer = id
	}
	if out := c.retireAs(producer); out.succeeded() && c.rng.IntN(2) == 0 {
		return // and find out
	}
	if producer == c.producer.id {
		c.producer = rawProducer{}
	}
}

// retireAs ends any producer.
func (c *rawClient) retireAs(producer string) output {
	return c.call(input{Kind: retireProducer, Producer: producer}, func(ctx context.Context) (output, error) {
		_, err := c.appends.RetireProducer(ctx, &walsvcv1.RetireProducerRequest{Log: c.log, Producer: producer})
		return output{}, err
	})
}

// marks are the cursors' names.
var marks = []string{"index", "replica"}

// mark returns a cursor's name, what is known of it, and the LSN that it is to have,
// if any.
func (c *rawClient) mark() (was cursor, expected *uint64) {
	c.view.mu.Lock()
	defer c.view.mu.Unlock()
	name := marks[c.rng.IntN(len(marks))]
	was = c.view.cursors[name]
	was.Name = name
	if c.rng.IntN(3) == 0 {
		lsn := c.likely(was.LSN, 1)
		expected = &lsn
	}
	return was, expected
}

func (c *rawClient) setCursor() {
	_, first, next := c.look()
	was, expected := c.mark()
	low := max(was.LSN, first)
	in := input{
		Name: was.Name, Version: expected, LSN: c.likely(low+c.rng.Uint64N(max(next, low)-low+1), 3),
		Cap: 400 + c.rng.Uint64N(2000), Hold: c.rng.IntN(6) == 0, Reset: c.rng.IntN(4) == 0,
	}
	if expected == nil {
		in.New = c.rng.IntN(8) == 0
	}
	if out := c.setCursorAs(in); out.Unknown {
		c.getCursorOf(in.Name)
	}
}

func (c *rawClient) setCursorAs(in input) output {
	in.Kind = setCursor
	return c.call(in, func(ctx context.Context) (output, error) {
		req := &walsvcv1.SetCursorRequest{Log: c.log, Name: in.Name, Lsn: in.LSN, CapBytes: in.Cap, Policy: walsvcv1.CursorPolicy_CURSOR_POLICY_EVICT, Reset_: in.Reset}
		if in.Hold {
			req.Policy = walsvcv1.CursorPolicy_CURSOR_POLICY_HOLD
		}
		if in.New {
			req.Condition = &walsvcv1.SetCursorRequest_Create{Create: true}
		} else if in.Version != nil {
			req.Condition = &walsvcv1.SetCursorRequest_ExpectedLsn{ExpectedLsn: *in.Version}
		}
		r, err := c.cursors.SetCursor(ctx, req)
		return output{Cursors: []cursor{cursorOf(r.GetCursor())}}, err
	})
}

func cursorOf(c *walsvcv1.Cursor) cursor {
	return cursor{
		Name: c.GetName(), LSN: c.GetLsn(), Cap: c.GetCapBytes(), Hold: c.GetPolicy() == walsvcv1.CursorPolicy_CURSOR_POLICY_HOLD,
		Lost: c.GetState() == walsvcv1.CursorState_CURSOR_STATE_LOST, Rewound: c.GetState() == walsvcv1.CursorState_CURSOR_STATE_REWOUND,
		Live: c.GetLiveBytes(), Lag: c.GetLagRecords(), Epoch: c.GetRewoundEpoch(), Was: c.GetRewoundFromLsn(),
	}
}

func (c *rawClient) getCursor() {
	was, _ := c.mark()
	c.getCursorOf(was.Name)
}

func (c *rawClient) getCursorOf(name string) {
	c.call(input{Kind: getCursor, Name: name}, func(ctx context.Context) (output, error) {
		r, err := c.cursors.GetCursor(ctx, &walsvcv1.GetCursorRequest{Log: c.log, Name: name})
		return output{Cursors: []cursor{cursorOf(r.GetCursor())}}, err
	})
}

func (c *rawClient) listCursors() output {
	return c.call(input{Kind: listCursors}, func(ctx context.Context) (output, error) {
		r, err := c.cursors.ListCursors(ctx, &walsvcv1.ListCursorsRequest{Log: c.log})
		var out output
		for _, cur := range r.GetCursors() {
			out.Cursors = append(out.Cursors, cursorOf(cur))
		}
		return out, err
	})
}

func (c *rawClient) deleteCursor() {
	was, expected := c.mark()
	in := input{Kind: deleteCursor, Name: was.Name, Version: expected}
	c.call(in, func(ctx context.Context) (output, error) {
		_, err := c.cursors.DeleteCursor(ctx, &walsvcv1.DeleteCursorRequest{Log: c.log, Name: in.Name, ExpectedLsn: in.Version})
		return output{}, err
	})
}
