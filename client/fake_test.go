package client

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sort"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// fake is a service that keeps its logs in memory, does to the letter what the
// API says, and fails where a test tells it to.
type fake struct {
	walsvcv1.UnimplementedLogServiceServer
	walsvcv1.UnimplementedAppendServiceServer
	walsvcv1.UnimplementedReplayServiceServer
	walsvcv1.UnimplementedAdminServiceServer

	// onMessage says what becomes of an append stream's message; nil: it is served.
	onMessage func(stream, message int, m *wire.AppendRequest) fate
	// onBatch says why a batch that is not a repeat is refused; nil: it is not.
	onBatch func(log string, b *wire.Batch) *walsvcv1.Refusal
	// onOpen says why a producer is not opened.
	onOpen func() error
	// onGet says why a log is not told of.
	onGet func() error
	// onBind says why a bind is refused.
	onBind func(b *walsvcv1.Bind) *walsvcv1.Refusal
	// onVerdict may change what is about to be said.
	onVerdict func(v *wire.Verdict)
	// onReplay says how many parts a replay sends before it breaks; negative: all.
	onReplay func(stream int) int
	// onBreak is called, with mu held, when a replay is about to break.
	onBreak func()
	// onPart may change a part of a replay.
	onPart func(m *wire.ReplayResponse)
	// onWritten says how many batches a stream that asked is told to be written when
	// their verdicts are withheld; nil: it is told nothing.
	onWritten func(stream int, batches uint64) uint64
	// onDrain is called between a stream's last message and its end.
	onDrain func()
	credit  *walsvcv1.Credit
	// maxBatch is what OpenProducer tells.
	maxBatch uint32

	mu       sync.Mutex
	logs     map[string]*fakeLog
	streams  int
	replays  int
	binds    []*walsvcv1.Bind
	claims   []*walsvcv1.Claim // of replays
	asked    []*walsvcv1.ReplayRequest
	messages int
	grown    chan struct{} // closed when records were added

	listener *bufconn.Listener
	server   *grpc.Server
}

// fate is what becomes of a message.
type fate uint8

const (
	served       fate = iota
	lostBefore        // the stream breaks before the message is looked at
	lostAfter         // its batches land and the stream breaks before the verdicts
	halfLost          // half of its batches land, then the stream breaks
	drained           // served, and then the stream ends orderly
	ended             // the stream ends without a word, as if half-closed
	unknownEnded      // half of its batches land, and the volume is poisoned
	withheld          // its batches land, their verdicts come with the next message's
)

type fakeLog struct {
	id        ulid.ULID
	options   *walsvcv1.LogOptions
	epoch     uint64 // that appends must state; 0: whatever they like
	began     uint64 // the epoch that the log says it is in; 0: 1
	first     uint64
	records   [][]byte
	checksums []uint32 // behind each record
	producers map[string]*fakeProducer
}

type fakeProducer struct {
	last uint64
	was  map[uint64]wire.Verdict
	sums map[uint64]uint32
}

// fakeVolume is the volume of every fake, and fakeTime when it commits.
var fakeVolume = ulid.ULID{15: 1}

const fakeTime = 1763668208123456789

func newFake() *fake {
	return &fake{
		logs:   make(map[string]*fakeLog),
		credit: &walsvcv1.Credit{Bytes: limits.StreamCreditBytes, Batches: limits.StreamCreditBatches},
		grown:  make(chan struct{}),

		maxBatch: limits.MaxBatchSize,
	}
}

// log creates a log.
func (f *fake) log(name string) *fakeLog {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := &fakeLog{id: ulid.Make(), first: 1, producers: make(map[string]*fakeProducer)}
	f.logs[name] = l
	return l
}

// serve starts the service and returns a client of it.
func (f *fake) serve(t testing.TB, o Options) *Client {
	t.Helper()
	f.listen()
	o.Dial = append(o.Dial, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		f.mu.Lock()
		listener := f.listener
		f.mu.Unlock()
		return listener.DialContext(ctx)
	}))
	c, err := Open(t.Context(), "/fake", o)
	if err != nil {
		t.Fatal(err)
	}
	c.patient = 100 * time.Microsecond
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ctx) // what a test left pending is its own affair
		f.server.Stop()
	})
	return c
}

// listen begins to serve.
func (f *fake) listen() {
	server := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec()), grpc.MaxRecvMsgSize(limits.MaxMessageSize))
	walsvcv1.RegisterLogServiceServer(server, f)
	walsvcv1.RegisterAppendServiceServer(server, f)
	walsvcv1.RegisterReplayServiceServer(server, f)
	walsvcv1.RegisterAdminServiceServer(server, f)
	listener := bufconn.Listen(1 << 20)
	f.mu.Lock()
	f.listener, f.server = listener, server
	f.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// restart ends every connection and serves anew.
func (f *fake) restart() {
	f.server.Stop()
	f.listen()
}

// failure is a status with an ErrorInfo.
func failure(code codes.Code, reason, message string) error {
	s, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "walsvc"})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func refusal(code codes.Code, reason string) *walsvcv1.Refusal {
	return &walsvcv1.Refusal{Code: int32(code), Reason: reason, Message: "refused by the test"}
}

func (l *fakeLog) info(name string) *walsvcv1.Log {
	next := l.first + uint64(len(l.records))
	return &walsvcv1.Log{Name: name, Id: l.id.String(), Epoch: max(l.began, 1), FirstLsn: l.first, NextLsn: next, LogChecksum: l.sum(next - 1), Options: l.options}
}

func (l *fakeLog) sum(lsn uint64) uint32 {
	if lsn < l.first {
		return 0
	}
	return l.checksums[lsn-l.first]
}

// proves reports whether the log has what is claimed.
func (l *fakeLog) proves(c *walsvcv1.Claim) bool {
	return c.GetLsn() == 0 || c.GetLsn() < l.first ||
		c.GetLogId() == l.id.String() && c.GetLsn() < l.first+uint64(len(l.records)) && l.sum(c.GetLsn()) == c.GetLogChecksum()
}

func (l *fakeLog) add(record []byte) {
	before := l.sum(l.first + uint64(len(l.records)) - 1)
	l.records = append(l.records, record)
	l.checksums = append(l.checksums, crc32.Update(before, castagnoli, records.Append(nil, record)))
}

// addRun adds records, and returns how many and the log's checksum behind them.
func (l *fakeLog) addRun(run []byte) (count uint32, checksum uint32) {
	for ; len(run) > 0; count++ {
		record, rest, err := records.Next(run)
		if err != nil {
			panic(err) // the client encodes its own records
		}
		l.add(append([]byte(nil), record...))
		run = rest
	}
	return count, l.sum(l.first + uint64(len(l.records)) - 1)
}

func (f *fake) GetLog(_ context.Context, req *walsvcv1.GetLogRequest) (*walsvcv1.GetLogResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onGet != nil {
		if err := f.onGet(); err != nil {
			return nil, err
		}
	}
	l := f.logs[req.GetName()]
	if l == nil {
		return nil, failure(codes.NotFound, "LOG_NOT_FOUND", "no such log")
	}
	return &walsvcv1.GetLogResponse{Log: l.info(req.GetName())}, nil
}

func (f *fake) ListLogs(_ context.Context, req *walsvcv1.ListLogsRequest) (*walsvcv1.ListLogsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.logs {
		if name > req.GetPageToken() {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	resp := &walsvcv1.ListLogsResponse{}
	for i, name := range names {
		if i == 2 {
			resp.NextPageToken = names[1]
			break
		}
		resp.Logs = append(resp.Logs, f.logs[name].info(name))
	}
	return resp, nil
}

func (f *fake) GetServerInfo(context.Context, *walsvcv1.GetServerInfoRequest) (*walsvcv1.GetServerInfoResponse, error) {
	return &walsvcv1.GetServerInfoResponse{Version: "fake", ApiVersion: "v1"}, nil
}

func (f *fake) OpenProducer(_ context.Context, req *walsvcv1.OpenProducerRequest) (*walsvcv1.OpenProducerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.logs[req.GetLog()]
	if l == nil {
		return nil, failure(codes.NotFound, "LOG_NOT_FOUND", "no such log")
	}
	if f.onOpen != nil {
		if err := f.onOpen(); err != nil {
			return nil, err
		}
	}
	p := l.producers[req.GetProducer()]
	if p == nil {
		p = &fakeProducer{was: make(map[uint64]wire.Verdict), sums: make(map[uint64]uint32)}
		l.producers[req.GetProducer()] = p
	}
	if p.last < req.GetAcknowledgedSequence() {
		return nil, failure(codes.FailedPrecondition, "PRODUCER_FORGOTTEN", "no such producer any more")
	}
	return &walsvcv1.OpenProducerResponse{LastSequence: p.last, Window: limits.ProducerWindow, MaxBatchBytes: f.maxBatch}, nil
}

// binding is a log that is open on a stream.
type binding struct {
	name     string
	log      *fakeLog
	producer *fakeProducer
	epoch    uint64 // that was stated
	refused  bool
}

func (b *binding) fenced() bool { return b.log.epoch != 0 && b.epoch != b.log.epoch }

func (f *fake) AppendStream(stream grpc.BidiStreamingServer[walsvcv1.AppendStreamRequest, walsvcv1.AppendStreamResponse]) error {
	f.mu.Lock()
	f.streams++
	number := f.streams
	f.mu.Unlock()
	if err := stream.SendMsg(&wire.AppendResponse{Credit: f.credit}); err != nil {
		return err
	}
	bindings := make(map[uint32]*binding)
	var kept []wire.Verdict
	staged, batches := false, uint64(0)
	for message := 0; ; message++ {
		var m wire.AppendRequest
		if err := stream.RecvMsg(&m); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		fate := served
		if f.onMessage != nil {
			fate = f.onMessage(number, message, &m)
		}
		staged, batches = staged || m.WrittenAcks, batches+uint64(len(m.Batches))
		resp, err := f.work(bindings, &m, fate)
		m.Release()
		if err != nil {
			return err
		}
		if fate == withheld {
			kept = append(kept, resp.Verdicts...)
			if staged && f.onWritten != nil {
				if err := stream.SendMsg(&wire.AppendResponse{Bounds: resp.Bounds, Written: f.onWritten(number, batches)}); err != nil {
					return err
				}
			}
			continue
		}
		resp.Verdicts = append(kept, resp.Verdicts...)
		kept = nil
		if err := stream.SendMsg(resp); err != nil {
			return err
		}
		switch fate {
		case drained:
			if f.onDrain != nil {
				f.onDrain()
			}
			return failure(codes.Unavailable, "DRAINING", "stopping")
		case ended:
			return nil
		}
	}
}

// work does what a message says, as far as its fate allows.
func (f *fake) work(bindings map[uint32]*binding, m *wire.AppendRequest, fate fate) (*wire.AppendResponse, error) {
	broken := status.Error(codes.Unavailable, "broken by the test")
	if fate == lostBefore {
		return nil, broken
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages++
	resp := &wire.AppendResponse{Draining: fate == drained, CommitTime: fakeTime}
	for _, b := range m.Binds {
		resp.Bounds = append(resp.Bounds, f.bind(bindings, b))
	}
	for _, number := range m.Resets {
		bindings[number].refused = false
	}
	batches := m.Batches
	if fate == halfLost || fate == unknownEnded {
		batches = batches[:len(batches)/2]
	}
	for i := range batches {
		v := f.append(bindings, &batches[i])
		if f.onVerdict != nil {
			f.onVerdict(&v)
		}
		resp.Verdicts = append(resp.Verdicts, v)
	}
	close(f.grown)
	f.grown = make(chan struct{})
	switch fate {
	case lostAfter, halfLost:
		return nil, broken
	case unknownEnded:
		return nil, failure(codes.Internal, "OUTCOME_UNKNOWN", "poisoned by the test")
	}
	return resp, nil
}

func (f *fake) bind(bindings map[uint32]*binding, b *walsvcv1.Bind) *walsvcv1.Bound {
	f.binds = append(f.binds, b)
	out := &walsvcv1.Bound{Binding: b.GetBinding(), VolumeId: fakeVolume.String()}
	if f.onBind != nil {
		if out.Refusal = f.onBind(b); out.Refusal != nil {
			return out
		}
	}
	l := f.logs[b.GetLog()]
	claim := b.GetClaim()
	switch {
	case l == nil:
		out.Refusal = refusal(codes.NotFound, "LOG_NOT_FOUND")
		return out
	case b.GetProducer() != "" && l.producers[b.GetProducer()] == nil:
		out.Refusal = refusal(codes.FailedPrecondition, "NO_PRODUCER")
		return out
	case !l.proves(claim):
		out.Refusal = refusal(codes.DataLoss, "DATA_LOSS")
		return out
	}
	p := l.producers[b.GetProducer()]
	bindings[b.GetBinding()] = &binding{name: b.GetLog(), log: l, producer: p, epoch: b.GetEpoch()}
	if out.Log = l.info(b.GetLog()); p != nil {
		out.LastSequence = p.last
	}
	return out
}

func (f *fake) append(bindings map[uint32]*binding, b *wire.Batch) wire.Verdict {
	on := bindings[b.Binding]
	l, p := on.log, on.producer
	v := wire.Verdict{Binding: b.Binding, Sequence: b.Sequence}
	refuse := func(r *walsvcv1.Refusal) wire.Verdict {
		on.refused = true
		for _, t := range b.Parts {
			bindings[t.Binding].refused = true
		}
		v.Refusal = r
		return v
	}
	sum := crc32.Checksum(b.Run, castagnoli)
	for _, t := range b.Parts {
		sum = crc32.Update(sum, castagnoli, append([]byte(bindings[t.Binding].name), t.Run...))
	}
	next := l.first + uint64(len(l.records))
	switch {
	case f.logs[on.name] != l:
		return refuse(refusal(codes.NotFound, "LOG_NOT_FOUND"))
	case b.Sequence <= p.last:
		if p.sums[b.Sequence] != sum {
			return refuse(refusal(codes.FailedPrecondition, "SEQUENCE_REUSE"))
		}
		v := p.was[b.Sequence]
		v.Repeated, v.Binding = true, b.Binding
		return v
	case on.refused:
		return refuse(refusal(codes.Aborted, "AFTER_REFUSAL"))
	case b.Sequence != p.last+1:
		return refuse(refusal(codes.FailedPrecondition, "SEQUENCE_GAP"))
	case on.fenced():
		return refuse(refusal(codes.FailedPrecondition, "FENCED"))
	case b.Expected != 0 && b.Expected != next:
		r := refusal(codes.Aborted, "LSN_MISMATCH")
		r.Metadata = map[string]string{"next_lsn": strconv.FormatUint(next, 10)}
		return refuse(r)
	}
	if f.onBatch != nil {
		if r := f.onBatch(on.name, b); r != nil {
			return refuse(r)
		}
	}
	for _, t := range b.Parts {
		part := bindings[t.Binding]
		if next := part.log.first + uint64(len(part.log.records)); part.refused {
			return refuse(refusal(codes.Aborted, "AFTER_REFUSAL"))
		} else if part.fenced() {
			return refuse(refusal(codes.FailedPrecondition, "FENCED"))
		} else if t.Expected != 0 && t.Expected != next {
			r := refusal(codes.Aborted, "LSN_MISMATCH")
			r.Metadata = map[string]string{"log": part.name, "next_lsn": strconv.FormatUint(next, 10)}
			return refuse(r)
		}
	}
	v.First, v.Epoch = next, 1
	v.Count, v.Checksum = l.addRun(b.Run)
	for _, t := range b.Parts {
		log := bindings[t.Binding].log
		part := wire.PartVerdict{First: log.first + uint64(len(log.records)), Epoch: 1}
		part.Count, part.Checksum = log.addRun(t.Run)
		v.Parts = append(v.Parts, part)
	}
	p.last = b.Sequence
	p.was[b.Sequence], p.sums[b.Sequence] = v, sum
	return v
}

func (f *fake) Replay(req *walsvcv1.ReplayRequest, stream grpc.ServerStreamingServer[walsvcv1.ReplayResponse]) error {
	f.mu.Lock()
	f.replays++
	f.claims, f.asked = append(f.claims, req.GetClaim()), append(f.asked, req)
	parts := -1
	if f.onReplay != nil {
		parts = f.onReplay(f.replays)
	}
	l := f.logs[req.GetLog()]
	proven := l != nil && l.proves(req.GetClaim())
	f.mu.Unlock()
	switch {
	case l == nil:
		return failure(codes.NotFound, "LOG_NOT_FOUND", "no such log")
	case !proven:
		return failure(codes.DataLoss, "DATA_LOSS", "another history")
	}
	from := max(req.GetFromLsn(), l.first)
	if req.GetFromLsn() != 0 && req.GetFromLsn() < l.first {
		return failure(codes.OutOfRange, "LSN_TRUNCATED", "gone")
	}
	if req.GetToLsn() != 0 && req.GetFromLsn() > req.GetToLsn() {
		return failure(codes.InvalidArgument, "INVALID", "nothing to replay")
	}
	for ; ; parts-- {
		if parts == 0 {
			if f.onBreak != nil {
				f.mu.Lock()
				f.onBreak()
				f.mu.Unlock()
			}
			return status.Error(codes.Unavailable, "broken by the test")
		}
		f.mu.Lock()
		end := l.first + uint64(len(l.records))
		if req.GetToLsn() != 0 {
			end = min(end, req.GetToLsn()+1)
		}
		to := min(end, from+5)
		var run []byte
		for lsn := from; lsn < to; lsn++ {
			run = records.Append(run, l.records[lsn-l.first])
		}
		grown := f.grown
		f.mu.Unlock()
		m := &wire.ReplayResponse{First: from, Count: uint32(to - from), Durable: end - 1}
		switch c := codec.Codec(from % 3); {
		case from == to && !req.GetFollow():
			return nil
		case from == to: // a heartbeat, before waiting
		case from%4 == 0:
			m.Run = run
		default:
			m.HasBlock = true
			m.Block = wire.StoredBlock{Version: 1, Codec: uint32(c), RawSize: uint32(len(run)), Stored: c.Compress(nil, run)}
			m.Block.Checksum = crc32.Checksum(m.Block.Stored, castagnoli)
		}
		if f.onPart != nil {
			f.onPart(m)
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
		if from == to {
			select {
			case <-grown:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		from = to
	}
}

func (f *fake) WaitDurable(_ context.Context, req *walsvcv1.WaitDurableRequest) (*walsvcv1.WaitDurableResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.logs[req.GetLog()]
	if l == nil || !l.proves(req.GetClaim()) || req.GetLsn() > req.GetClaim().GetLsn() {
		return nil, failure(codes.DataLoss, "DATA_LOSS", "another history")
	}
	return &walsvcv1.WaitDurableResponse{DurableLsn: l.first + uint64(len(l.records)) - 1}, nil
}

func (f *fake) WatchDurable(req *walsvcv1.WatchDurableRequest, stream grpc.ServerStreamingServer[walsvcv1.WatchDurableResponse]) error {
	for after := req.GetAfterLsn(); ; {
		f.mu.Lock()
		l := f.logs[req.GetLog()]
		grown := f.grown
		f.mu.Unlock()
		if l == nil {
			return failure(codes.NotFound, "LOG_NOT_FOUND", "no such log")
		}
		f.mu.Lock()
		durable := l.first + uint64(len(l.records)) - 1
		f.mu.Unlock()
		if durable > after {
			if err := stream.Send(&walsvcv1.WatchDurableResponse{DurableLsn: durable}); err != nil {
				return err
			}
			after = durable
			if f.onReplay != nil {
				return status.Error(codes.Unavailable, "broken by the test")
			}
			continue
		}
		select {
		case <-grown:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// contents returns a log's records.
func (f *fake) contents(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.logs[name]
	out := make([]string, len(l.records))
	for i, r := range l.records {
		out[i] = string(r)
	}
	return out
}

// record names a record uniquely: who appended it, and which of theirs it is.
func record(caller, i int) string { return fmt.Sprintf("caller %d record %d", caller, i) }
