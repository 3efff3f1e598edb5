package linear

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A rawClient calls the service with generated stubs and nothing around them: it
// repeats nothing, so that outcomes stay unknown, but for the batches of its
// producers, which it sends again as operations of their own.
type rawClient struct {
	*client
	logs        walsvcv1.LogServiceClient
	appends     walsvcv1.AppendServiceClient
	replays     walsvcv1.ReplayServiceClient
	checkpoints walsvcv1.CheckpointServiceClient
	cursors     walsvcv1.CursorServiceClient
	admin       walsvcv1.AdminServiceClient

	producer rawProducer
	unsure   bool       // of something that it asked for it did not hear
	unbound  int        // the life in which it last heard nothing of a stream that it bound; -1 for none
	aide     *rawClient // does something while it does something else; nil for most
}

// A rawProducer is a producer with what it sent and does not know the outcome of.
type rawProducer struct {
	id      string
	last    uint64 // sequence that is known to be used
	pending [][]string
	sent    []string // its last batch that was appended
	// incarnation is the one it is in, as far as it knows; 0 if it is to ask.
	incarnation uint64
}

// connect opens a connection through the proxy, of which the calls wait until it
// is there: an outcome is unknown only of what may have been sent.
func (w *world) connect() *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("unix:"+w.proxy.listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(reconnect))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return conn
}

// reconnect is soon: the service comes back at once.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.5, MaxDelay: 30 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

// newRaw returns a raw client of a log.
func (w *world) newRaw(kind, log string, conn *grpc.ClientConn) *rawClient {
	return &rawClient{
		client:      w.newClient(kind, log),
		unbound:     -1,
		logs:        walsvcv1.NewLogServiceClient(conn),
		appends:     walsvcv1.NewAppendServiceClient(conn),
		replays:     walsvcv1.NewReplayServiceClient(conn),
		checkpoints: walsvcv1.NewCheckpointServiceClient(conn),
		cursors:     walsvcv1.NewCursorServiceClient(conn),
		admin:       walsvcv1.NewAdminServiceClient(conn),
	}
}

// heard returns what an error says.
func heard(err error) output {
	for _, detail := range status.Convert(err).Details() {
		if i, ok := detail.(*errdetails.ErrorInfo); ok {
			return output{Reason: i.GetReason(), Figures: i.GetMetadata()}
		}
	}
	return output{Unknown: true}
}

// call does one operation.
func (c *rawClient) call(in input, ask func(ctx context.Context) (output, error)) output {
	bound := c.bound
	if changes[in.Kind] {
		bound = c.boundChange
	}
	ctx, cancel := bound()
	defer cancel()
	end := c.begin(in)
	out, err := ask(ctx)
	if err != nil {
		out = heard(err)
	}
	end(out)
	c.unsure = c.unsure || out.Unknown && changes[in.Kind]
	return out
}

// work does something.
func (c *rawClient) work() {
	if !c.changing() {
		c.consult()
		return
	}
	switch n := c.rng.IntN(100); {
	case n < 25 && c.log != passing: // see burst
		c.append()
	case n < 40:
		c.appendProduced()
	case n < 58:
		c.consult()
	case n < 73:
		c.setCheckpoint()
	case n < 76:
		c.deleteCheckpoint()
	case n < 84:
		c.truncate()
	case n < 87 && c.log == passing:
		c.delete()
	case n < 90 && c.log == passing:
		c.seal()
	case n < 94:
		c.create()
	default:
		c.list()
	}
}

// consult looks at something.
func (c *rawClient) consult() {
	switch c.rng.IntN(17) {
	case 12, 13:
		c.verify()
	case 14, 15, 16:
		c.replayBetween()
	case 0, 1:
		c.get()
	case 2, 3:
		c.getCheckpoint()
	case 4:
		c.listCheckpoints()
	case 5:
		c.waitDurable()
	case 6, 7:
		c.replay()
	default:
		c.read()
	}
}

func (c *rawClient) append() {
	_, _, next := c.look()
	in := input{Kind: appendRecords, Records: c.batch(3), Epoch: c.epoch()}
	switch c.rng.IntN(12) {
	case 0, 1, 2:
		in.Expected = c.likely(next, 3)
	case 3:
		in.Epoch = 1 + c.rng.Uint64N(2)
	case 4:
		in.Records = nil
	case 5:
		in.Records = append(in.Records, string(make([]byte, maxRecord+1)))
	}
	c.appendUnary(in)
}

// appendUnary appends with a call.
func (c *rawClient) appendUnary(in input) output {
	return c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.appends.Append(ctx, &walsvcv1.AppendRequest{
			Log: c.log, Producer: in.Producer, Sequence: in.Sequence, ExpectedLsn: in.Expected, Epoch: in.Epoch, Incarnation: in.Incarnation, Records: wire(in.Records),
		})
		sum := r.GetLogChecksum()
		out := output{ID: r.GetLogId(), First: r.GetFirstLsn(), Count: uint64(r.GetCount()), Sum: &sum, Repeated: r.GetRepeated(), Epoch: r.GetEpoch(), Volume: r.GetVolumeId(), Committed: int64(r.GetCommitTime())}
		out.Through = out.First + out.Count - 1
		return out, err
	})
}

func wire(data []string) *walsvcv1.Records {
	r := &walsvcv1.Records{}
	for _, d := range data {
		r.Record = append(r.Record, []byte(d))
	}
	return r
}

// ready has the producer opened, and reports whether it is.
func (c *rawClient) ready() bool {
	p := &c.producer
	if p.id != "" && p.incarnation != 0 {
		return true
	}
	id := cmp.Or(p.id, ulid.Make().String())
	out := c.open(id)
	switch {
	case out.Reason == retired:
		*p = rawProducer{}
		return false
	case !out.succeeded():
		return false
	case p.id == "":
		*p = rawProducer{id: id}
	}
	p.incarnation = out.Incarnation
	p.known(out.Last)
	return true
}

func (c *rawClient) open(id string) output {
	return c.call(input{Kind: openProducer, Producer: id}, func(ctx context.Context) (output, error) {
		r, err := c.appends.OpenProducer(ctx, &walsvcv1.OpenProducerRequest{Log: c.log, Producer: id})
		return output{Last: r.GetLastSequence(), Incarnation: r.GetIncarnation()}, err
	})
}

// appendProduced appends with a producer: what is pending again, the next batch,
// one that was appended before, or one that is out of turn.
func (c *rawClient) appendProduced() {
	if !c.ready() {
		return
	}
	p := &c.producer
	if len(p.pending) == 0 {
		p.pending = [][]string{c.batch(3)}
	}
	in := input{Kind: appendRecords, Producer: p.id, Sequence: p.last + 1, Records: p.pending[0], Epoch: c.epoch(), Incarnation: p.incarnation}
	switch n := c.rng.IntN(20); {
	case n < 2 && p.last > 0:
		in.Sequence, in.Records = p.last, p.sent
	case n == 2:
		in.Sequence, in.Records = p.last+2, c.batch(3)
	case n == 3:
		in.Sequence, in.Records = p.last, c.batch(3) // 0 is none
	case n == 4:
		in.Producer, in.Records = ulid.Make().String(), c.batch(3)
	}
	out := c.appendUnary(in)
	if in.Producer == p.id && in.Sequence == p.last+1 {
		p.settle(&out)
	} else if out.Reason == logNotFound || in.Producer == p.id && (out.Reason == noProducer || out.Reason == retired) {
		*p = rawProducer{}
	}
}

// known takes how many batches the service has.
func (p *rawProducer) known(last uint64) {
	for ; p.last < last && len(p.pending) > 0; p.last++ {
		p.sent, p.pending = p.pending[0], p.pending[1:]
	}
	if p.last < last { // what was sent out of turn
		*p = rawProducer{}
	}
}

// settle takes what became of the first pending batch.
func (p *rawProducer) settle(out *output) {
	switch {
	case out.succeeded():
		p.last, p.sent, p.pending = p.last+1, p.pending[0], p.pending[1:]
	case out.Reason == superseded:
		p.incarnation = 0 // somebody resolved
	case out.Reason == logNotFound, out.Reason == noProducer, out.Reason == retired, out.Reason == sequenceReuse:
		*p = rawProducer{} // sequenceReuse: what was sent out of turn landed behind a batch that was pending
	case out.Reason != "" && !elsewhere[out.Reason] && !unsettled[out.Reason]:
		p.pending = nil // and what came behind it was refused as well
	}
}

func (c *rawClient) read() {
	_, first, next := c.look()
	in := input{Kind: readRecords}
	most := uint32(1000)
	switch c.rng.IntN(6) {
	case 0:
	case 1:
		in.LSN = c.likely(first, 2)
	case 2:
		in.LSN, most = first+c.rng.Uint64N(next-first+1), 1+c.rng.Uint32N(5)
	default:
		in.LSN = c.likely(next-min(next-first, c.rng.Uint64N(10)), 2)
	}
	var durable uint64
	end := c.begin(input{Kind: seeDurable})
	out := c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.replays.Read(ctx, &walsvcv1.ReadRequest{Log: c.log, FromLsn: in.LSN, MaxRecords: most, MaxBytes: 8 << 20})
		data := text(r.GetRecords())
		durable = r.GetDurableLsn()
		if err == nil && (r.GetNextLsn() != r.GetFirstLsn()+uint64(len(data)) || r.GetNextLsn() > durable+1) {
			c.w.fail("log %s: read from %d: %d records from %d on, the next is %d, durable is %d", c.log, in.LSN, len(data), r.GetFirstLsn(), r.GetNextLsn(), durable)
		}
		return output{First: r.GetFirstLsn(), Records: data, Complete: len(data) < int(most) && (c.log != owned || r.GetNextLsn() == durable+1)}, err
	})
	end(output{Unknown: !out.succeeded(), LSN: durable, Complete: true})
}

// readAll reads all that there is.
func (c *rawClient) readAll() {
	c.call(input{Kind: readRecords}, func(ctx context.Context) (output, error) {
		var all output
		for from := uint64(0); ; {
			r, err := c.replays.Read(ctx, &walsvcv1.ReadRequest{Log: c.log, FromLsn: from, MaxRecords: 1 << 20, MaxBytes: 8 << 20})
			if err != nil || r.GetNextLsn() == r.GetFirstLsn() {
				all.Complete = true
				return all, err
			}
			if from == 0 {
				all.First = r.GetFirstLsn()
			}
			all.Records = append(all.Records, text(r.GetRecords())...)
			from = r.GetNextLsn()
		}
	})
}

func text(r *walsvcv1.Records) []string {
	var data []string
	for _, d := range r.GetRecord() {
		data = append(data, string(d))
	}
	return data
}

// replay reads to the end as a stream.
func (c *rawClient) replay() {
	_, first, next := c.look()
	in := input{Kind: readRecords, LSN: c.likely(next-min(next-first, c.rng.Uint64N(30)), 2)}
	if c.rng.IntN(10) == 0 {
		in.LSN = 0
	}
	c.call(in, func(ctx context.Context) (output, error) {
		out := output{Complete: true}
		stream, err := c.replays.Replay(ctx, &walsvcv1.ReplayRequest{Log: c.log, FromLsn: in.LSN})
		for err == nil {
			var m *walsvcv1.ReplayResponse
			if m, err = stream.Recv(); err != nil {
				break
			}
			if out.First == 0 {
				out.First = m.GetFirstLsn()
			}
			c.dense(out.First+uint64(len(out.Records)), m)
			out.Records = append(out.Records, text(m.GetRecords())...)
			// Where it ends is decided when it begins, and may be no more.
			out.Complete = c.log != owned || m.GetDurableLsn()+1 == out.First+uint64(len(out.Records))
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err != nil && len(out.Records) > 0 && heard(err).Reason != rewound {
			return output{Unknown: true}, nil // a truncation or the end of the log caught up with it
		}
		return out, err
	})
}

// dense checks a message of a replay by itself.
func (c *rawClient) dense(next uint64, m *walsvcv1.ReplayResponse) {
	n := uint64(len(m.GetRecords().GetRecord()))
	if m.GetFirstLsn() != next || uint64(m.GetCount()) != n || m.GetDurableLsn()+1 < next+n {
		c.w.fail("log %s: replay: %d records where it says %d, from %d on where %d is next, durable is %d",
			c.log, n, m.GetCount(), m.GetFirstLsn(), next, m.GetDurableLsn())
	}
}

// glimpse follows a log that is rewound for some messages. A message on its way may
// show what is discarded by now; but when the last one was sent all of them were the
// log, or else the follower had been told.
func (c *rawClient) glimpse(from uint64) {
	ctx, cancel := c.bound()
	defer cancel()
	out, last := output{First: from, Unknown: true}, output{Unknown: true}
	end, durable := c.begin(input{Kind: seeRecords, LSN: from}), c.begin(input{Kind: seeDurable})
	defer func() {
		end(out)
		durable(last)
	}()
	stream, err := c.replays.Replay(ctx, &walsvcv1.ReplayRequest{Log: c.log, FromLsn: from, Follow: true})
	if err != nil {
		return
	}
	for range 4 {
		m, err := stream.Recv()
		if err != nil {
			break
		}
		if len(m.GetRecords().GetRecord()) > 0 {
			c.dense(from+uint64(len(out.Records)), m)
		}
		out.Records = append(out.Records, text(m.GetRecords())...)
		out.Unknown, last = false, output{LSN: m.GetDurableLsn()}
	}
}

// follow follows the log until the stream breaks.
func (c *rawClient) follow() {
	_, first, next := c.look()
	from := next - min(next-first, 5)
	if c.log == owned {
		c.glimpse(from)
		return
	}
	c.w.mu.Lock()
	ctx, cancel := context.WithCancel(c.w.calls)
	c.w.mu.Unlock()
	defer cancel()
	stream, err := c.replays.Replay(ctx, &walsvcv1.ReplayRequest{Log: c.log, FromLsn: from, Follow: true})
	if err != nil {
		return
	}
	for {
		end := c.begin(input{Kind: seeRecords, LSN: from})
		m, err := stream.Recv()
		if err != nil {
			end(output{Unknown: true})
			return
		}
		data := text(m.GetRecords())
		if len(data) > 0 {
			c.dense(from, m)
		}
		end(output{First: from, Records: data})
		c.begin(input{Kind: seeDurable})(output{LSN: m.GetDurableLsn()})
		from += uint64(len(data))
		c.w.mu.Lock()
		ended := c.w.ended
		c.w.mu.Unlock()
		if ended {
			return
		}
	}
}

// stated is an epoch to be stated by what need not: mostly none, at times one that is
// not the log's.
func (c *rawClient) stated() uint64 {
	if c.rng.IntN(4) > 0 {
		return 0
	}
	return c.likely(c.epoch(), 1)
}

func (c *rawClient) waitDurable() {
	_, _, next := c.look()
	c.waitFor(input{LSN: next - min(next, 1+c.rng.Uint64N(3)), Epoch: c.stated()})
}

// waitFor waits until a log is durable up to an LSN.
func (c *rawClient) waitFor(in input) {
	in.Kind = seeDurable
	c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.replays.WaitDurable(ctx, &walsvcv1.WaitDurableRequest{Log: c.log, Lsn: in.LSN, Epoch: in.Epoch})
		return output{LSN: r.GetDurableLsn(), Complete: true}, err
	})
}

func (c *rawClient) get() output {
	return c.call(input{Kind: getLog}, func(ctx context.Context) (output, error) {
		r, err := c.logs.GetLog(ctx, &walsvcv1.GetLogRequest{Name: c.log})
		return output{Info: logInfo(r.GetLog())}, err
	})
}

// list looks at the log by listing all.
func (c *rawClient) list() {
	c.call(input{Kind: getLog}, func(ctx context.Context) (output, error) {
		r, err := c.logs.ListLogs(ctx, &walsvcv1.ListLogsRequest{})
		i := slices.IndexFunc(r.GetLogs(), func(l *walsvcv1.Log) bool { return l.GetName() == c.log })
		if err == nil && i < 0 {
			return output{Reason: logNotFound}, nil
		}
		if err != nil {
			return output{}, err
		}
		return output{Info: logInfo(r.GetLogs()[i])}, nil
	})
}

func logInfo(l *walsvcv1.Log) *info {
	if l == nil {
		return nil
	}
	return &info{
		ID: l.GetId(), Epoch: l.GetEpoch(), First: l.GetFirstLsn(), Next: l.GetNextLsn(), Live: l.GetLiveBytes(), Sum: l.GetLogChecksum(),
		Options: options{Quota: l.GetOptions().GetQuotaBytes(), MaxRecord: uint64(l.GetOptions().GetMaxRecordBytes()), Rate: l.GetOptions().GetRateBytes()},
		Sealed:  l.GetSealTime() != nil, Holder: l.GetWriter(), Created: l.GetCreateTime().AsTime().UnixNano(),
	}
}

func (c *rawClient) create() {
	o := optionsOf(c.log)
	if c.rng.IntN(4) == 0 && c.log != passing {
		o.MaxRecord++
	}
	c.createWith(o)
}

func (c *rawClient) createWith(o options) output {
	in := input{Kind: createLog, Options: o}
	return c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.logs.CreateLog(ctx, &walsvcv1.CreateLogRequest{
			Name: c.log, Options: &walsvcv1.LogOptions{QuotaBytes: in.Options.Quota, MaxRecordBytes: uint32(in.Options.MaxRecord), RateBytes: in.Options.Rate},
		})
		return output{Created: r.GetCreated(), Info: logInfo(r.GetLog())}, err
	})
}

func (c *rawClient) delete() {
	in := input{Kind: deleteLog}
	switch id, _, _ := c.look(); c.rng.IntN(4) {
	case 0:
	case 1:
		in.ID = ulid.Make().String()
	default:
		in.ID = id
	}
	c.call(in, func(ctx context.Context) (output, error) {
		_, err := c.logs.DeleteLog(ctx, &walsvcv1.DeleteLogRequest{Name: c.log, Id: in.ID})
		return output{}, err
	})
}

func (c *rawClient) seal() output {
	return c.call(input{Kind: sealLog}, func(ctx context.Context) (output, error) {
		r, err := c.logs.SealLog(ctx, &walsvcv1.SealLogRequest{Name: c.log})
		return output{Info: logInfo(r.GetLog())}, err
	})
}

func (c *rawClient) truncate() {
	_, first, next := c.look()
	in := input{Kind: truncateLog, LSN: c.likely(first+c.rng.Uint64N(next-first+1), 5)}
	c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.logs.TruncateLog(ctx, &walsvcv1.TruncateLogRequest{Name: c.log, FirstLsn: in.LSN})
		return output{Info: logInfo(r.GetLog())}, err
	})
}

func (c *rawClient) setCheckpoint() {
	_, first, next := c.look()
	was, expected := c.condition()
	low := max(was.LSN, first)
	in := input{Name: was.Name, Version: expected, LSN: c.likely(low+c.rng.Uint64N(max(next, low)-low+1), 5)}
	in.State, in.Epoch = c.batch(1)[0], c.stated()
	if out := c.setCheckpointAs(in); out.Unknown {
		c.getCheckpointOf(in.Name)
	}
}

func (c *rawClient) setCheckpointAs(in input) output {
	in.Kind = setCheckpoint
	return c.call(in, func(ctx context.Context) (output, error) {
		r, err := c.checkpoints.SetCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{
			Log: c.log, Name: in.Name, Lsn: in.LSN, State: []byte(in.State), ExpectedVersion: in.Version, Epoch: in.Epoch,
		})
		return output{Checkpoints: []checkpoint{checkpointOf(r.GetCheckpoint())}}, err
	})
}

func checkpointOf(cp *walsvcv1.Checkpoint) checkpoint {
	return checkpoint{
		Name: cp.GetName(), LSN: cp.GetLsn(), Version: cp.GetVersion(), State: string(cp.GetState()), Size: uint64(cp.GetStateSize()),
	}
}

func (c *rawClient) getCheckpoint() {
	was, _ := c.condition()
	c.getCheckpointOf(was.Name)
}

func (c *rawClient) getCheckpointOf(name string) {
	c.call(input{Kind: getCheckpoint, Name: name}, func(ctx context.Context) (output, error) {
		r, err := c.checkpoints.GetCheckpoint(ctx, &walsvcv1.GetCheckpointRequest{Log: c.log, Name: name})
		return output{Checkpoints: []checkpoint{checkpointOf(r.GetCheckpoint())}}, err
	})
}

func (c *rawClient) listCheckpoints() {
	c.call(input{Kind: listCheckpoints}, func(ctx context.Context) (output, error) {
		r, err := c.checkpoints.ListCheckpoints(ctx, &walsvcv1.ListCheckpointsRequest{Log: c.log})
		var out output
		for _, cp := range r.GetCheckpoints() {
			out.Checkpoints = append(out.Checkpoints, checkpointOf(cp))
		}
		return out, err
	})
}

func (c *rawClient) deleteCheckpoint() {
	was, expected := c.condition()
	in := input{Kind: deleteCheckpoint, Name: was.Name, Version: expected}
	c.call(in, func(ctx context.Context) (output, error) {
		_, err := c.checkpoints.DeleteCheckpoint(ctx, &walsvcv1.DeleteCheckpointRequest{Log: c.log, Name: in.Name, ExpectedVersion: expected})
		return output{}, err
	})
}
