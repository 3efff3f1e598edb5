package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestUnaryAppendIsDurableAndRepeatable(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewAppendServiceClient(w.conn)
	l := w.create("l")
	producer := ulid.Make().String()
	if _, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer}); err != nil {
		t.Fatal(err)
	}
	req := &walsvcv1.AppendRequest{Log: "l", Producer: producer, Sequence: 1, ExpectedLsn: 1, Epoch: 1, Records: batchOf("a", "")}
	first, err := c.Append(w.ctx, req)
	if err != nil || first.GetFirstLsn() != 1 || first.GetCount() != 2 || first.GetEpoch() != 1 || first.GetLogId() != l.GetId() || first.GetRepeated() {
		t.Fatalf("append: %v, %v", first, err)
	}
	again, err := c.Append(w.ctx, req)
	if err != nil || again.GetFirstLsn() != 1 || !again.GetRepeated() || again.GetLogChecksum() != first.GetLogChecksum() {
		t.Fatalf("repeat: %v, %v", again, err)
	}
	opened, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer})
	if err != nil || opened.GetLastSequence() != 1 || opened.GetWindow() != limits.ProducerWindow {
		t.Errorf("open again: %v, %v", opened, err)
	}
}

func TestUnaryAppendWhoseDeadlinePassesLeavesTheOutcomeOpen(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.hold()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Millisecond)
	defer cancel()
	_, err := walsvcv1.NewAppendServiceClient(w.conn).Append(ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("a")})
	wantReason(t, err, codes.DeadlineExceeded, "")
}

// TestStream is the life of a stream: two logs, batches, a refusal, the batches
// behind it, a reset, and an orderly end.
func TestStream(t *testing.T) {
	w := newWorld(t, Options{})
	a, b := w.create("a"), w.create("b")
	s := w.open()
	if bound := s.bind(&walsvcv1.Bind{Binding: 1, Log: "a"}); bound.GetLog().GetId() != a.GetId() || bound.GetRefusal() != nil {
		t.Fatalf("bound: %v", bound)
	}
	// Everything in one message: the second bind, and batches for both.
	s.send(&wire.AppendRequest{
		Binds: []*walsvcv1.Bind{{Binding: 9, Log: "b"}},
		Batches: []wire.Batch{
			{Binding: 1, Run: runOf("a1", "a2")},
			{Binding: 9, Run: runOf("b1")},
			{Binding: 1, Expected: 7, Run: runOf("never")},
			{Binding: 1, Run: runOf("never")},
			{Binding: 9, Expected: 2, Run: runOf("b2")},
		},
	})
	var bounds []*walsvcv1.Bound
	var got []wire.Verdict
	for len(got) < 5 {
		m := s.next()
		bounds = append(bounds, m.Bounds...)
		if len(bounds) == 0 {
			t.Fatal("verdicts before the answer to the bind")
		}
		got = append(got, m.Verdicts...)
	}
	if len(bounds) != 1 || bounds[0].GetLog().GetId() != b.GetId() {
		t.Errorf("bounds %v", bounds)
	}
	for i, want := range []struct {
		binding     uint32
		first       uint64
		count       uint32
		code        codes.Code
		reason      string
		expected    string
		nextLSN     string
		wantMessage string
	}{
		{binding: 1, first: 1, count: 2},
		{binding: 9, first: 1, count: 1},
		{binding: 1, code: codes.Aborted, reason: "LSN_MISMATCH", expected: "7", nextLSN: "3"},
		{binding: 1, code: codes.Aborted, reason: "AFTER_REFUSAL"},
		{binding: 9, first: 2, count: 1},
	} {
		v := got[i]
		r := v.Refusal
		if v.Binding != want.binding || v.First != want.first || v.Count != want.count ||
			r.GetReason() != want.reason || r.GetCode() != int32(want.code) || (want.reason == "") != (r == nil) {
			t.Errorf("verdict %d: %+v", i, v)
		}
		if r.GetMetadata()["expected_lsn"] != want.expected || r.GetMetadata()["next_lsn"] != want.nextLSN {
			t.Errorf("figures of refusal %d: %v", i, r.GetMetadata())
		}
	}
	s.send(&wire.AppendRequest{Resets: []uint32{1, 77}, Batches: []wire.Batch{{Binding: 1, Run: runOf("a3")}}})
	if v := s.verdicts(1)[0]; v.First != 3 || v.Refusal != nil {
		t.Errorf("after a reset: %+v", v)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if rest, _, err := s.end(); err != nil || len(rest) != 0 {
		t.Errorf("end: %v, %v", rest, err)
	}
}

func TestHalfCloseWaitsForTheLastVerdicts(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	w.occupy("l")
	for i := range 10 {
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf(fmt.Sprint(i))}}})
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	w.release()
	got, _, err := s.end()
	if err != nil || len(got) != 10 || got[9].First != 11 || got[9].Refusal != nil {
		t.Errorf("verdicts %+v, end %v", got, err)
	}
}

// TestOneMessagePerCommit: however many messages ride in one frame, their
// verdicts come in one.
func TestOneMessagePerCommit(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	w.occupy("l")
	const n = 40
	for i := range n {
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf(fmt.Sprint(i))}}})
	}
	eventually(t, "all batches are on the bus", func() bool { return w.unread() == n })
	w.release()
	messages, got := 0, 0
	for got < n {
		m := s.next()
		messages, got = messages+1, got+len(m.Verdicts)
	}
	if messages > 1 {
		t.Errorf("%d messages for one commit", messages)
	}
}

// unread returns the batches on the bus of the stream opened last.
func (w *world) unread() int { return w.served().appender.Pending() }

func TestRefusedBind(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	producer := ulid.Make().String()
	for _, tc := range []struct {
		name   string
		bind   *walsvcv1.Bind
		code   codes.Code
		reason string
	}{
		{"no such log", &walsvcv1.Bind{Binding: 2, Log: "nope"}, codes.NotFound, "LOG_NOT_FOUND"},
		{"malformed name", &walsvcv1.Bind{Binding: 2, Log: "no such"}, codes.InvalidArgument, "INVALID_NAME"},
		{"binding 0", &walsvcv1.Bind{Binding: 0, Log: "l"}, codes.InvalidArgument, "INVALID"},
		{"binding too high", &walsvcv1.Bind{Binding: limits.MaxBindingsPerStream + 1, Log: "l"}, codes.InvalidArgument, "INVALID"},
		{"open already", &walsvcv1.Bind{Binding: 1, Log: "l"}, codes.InvalidArgument, "INVALID"},
		{"malformed producer", &walsvcv1.Bind{Binding: 2, Log: "l", Producer: "me"}, codes.InvalidArgument, "INVALID"},
		{"producer not open", &walsvcv1.Bind{Binding: 2, Log: "l", Producer: producer}, codes.FailedPrecondition, "NO_PRODUCER"},
		{"malformed claim", &walsvcv1.Bind{Binding: 2, Log: "l", Claim: &walsvcv1.Claim{LogId: "x", Lsn: 1}}, codes.InvalidArgument, "INVALID"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := w.open()
			s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
			bound := s.bind(tc.bind)
			if r := bound.GetRefusal(); r.GetReason() != tc.reason || r.GetCode() != int32(tc.code) || bound.GetLog() != nil {
				t.Errorf("bound %v, want %v/%s", bound, tc.code, tc.reason)
			}
			// The stream goes on, and what was sent behind the bind is refused in its place.
			s.send(&wire.AppendRequest{Batches: []wire.Batch{
				{Binding: 1, Run: runOf("x")}, {Binding: 2, Sequence: 5, Run: runOf("y")}, {Binding: 1, Run: runOf("z")},
			}})
			got := s.verdicts(3)
			reason := "AFTER_REFUSAL"
			if tc.bind.GetBinding() != 2 {
				reason = "INVALID" // nobody tried to open it
			}
			if got[0].Refusal != nil || got[2].Refusal != nil || got[2].First != got[0].First+1 ||
				got[1].Refusal.GetReason() != reason || got[1].Sequence != 5 || got[1].Binding != 2 {
				t.Errorf("verdicts %+v", got)
			}
			// A number whose bind was refused is still free.
			if bound := s.bind(&walsvcv1.Bind{Binding: 2, Log: "l"}); bound.GetRefusal() != nil {
				t.Errorf("bound again: %v", bound)
			}
		})
	}
}

// TestUnprovenClaim: a log whose claim cannot be proven is not opened, and no
// batch for it lands; the other logs of the stream have lost nothing and go on.
func TestUnprovenClaim(t *testing.T) {
	w := newWorld(t, Options{})
	l := w.create("l")
	w.create("damaged")
	ack := w.append("l", "a")
	claim := func(lsn uint64, sum uint32) *walsvcv1.Claim {
		return &walsvcv1.Claim{LogId: l.GetId(), Epoch: 1, Lsn: lsn, LogChecksum: sum}
	}
	s := w.open()
	if bound := s.bind(&walsvcv1.Bind{Binding: 1, Log: "l", Claim: claim(1, ack.GetLogChecksum())}); bound.GetRefusal() != nil {
		t.Fatalf("a claim that holds: %v", bound)
	}
	ahead := claim(40, 1)
	ahead.LogId = w.log("damaged").GetId()
	for i, c := range []*walsvcv1.Claim{
		ahead,
		claim(1, ack.GetLogChecksum()+1), // other records in its place
		{LogId: ulid.Make().String(), Epoch: 1, Lsn: 1, LogChecksum: ack.GetLogChecksum()}, // another log
	} {
		number, name := uint32(2+i), "l"
		if c == ahead {
			name = "damaged"
		}
		r := s.bind(&walsvcv1.Bind{Binding: number, Log: name, Claim: c}).GetRefusal()
		if codes.Code(r.GetCode()) != codes.DataLoss || r.GetReason() != "DATA_LOSS" || r.GetMetadata()["log"] != name {
			t.Fatalf("binding %d: %v", number, r)
		}
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: number, Run: runOf("into another history")}, {Binding: 1, Run: runOf("b")}}})
		got := s.verdicts(2)
		if got[0].Refusal.GetReason() != "AFTER_REFUSAL" || got[1].Refusal != nil || got[1].First != uint64(number) {
			t.Errorf("binding %d: verdicts %+v", number, got)
		}
	}
	if next := w.log("damaged").GetNextLsn(); next != 1 {
		t.Errorf("something landed: next LSN %d", next)
	}
	before := w.log("l").GetNextLsn()
	replays, appends := walsvcv1.NewReplayServiceClient(w.conn), walsvcv1.NewAppendServiceClient(w.conn)
	// Of every other call that could be fooled.
	calls := map[string]func(c *walsvcv1.Claim) error{
		"replay": func(c *walsvcv1.Claim) error {
			replay, err := replays.Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", Claim: c})
			if err == nil {
				_, err = replay.Recv()
			}
			return err
		},
		"read": func(c *walsvcv1.Claim) error {
			_, err := replays.Read(w.ctx, &walsvcv1.ReadRequest{Log: "l", Claim: c})
			return err
		},
		"wait": func(c *walsvcv1.Claim) error {
			_, err := replays.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 1, Claim: c})
			return err
		},
		"watch": func(c *walsvcv1.Claim) error {
			watch, err := replays.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l", Claim: c})
			if err == nil {
				_, err = watch.Recv()
			}
			return err
		},
		"append": func(c *walsvcv1.Claim) error {
			_, err := appends.Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Claim: c, Records: &walsvcv1.Records{Record: [][]byte{[]byte("x")}}})
			return err
		},
	}
	reason := func(err error) string { _, r := reasonOf(err); return r }
	for name, call := range calls {
		if err := call(claim(1, 7)); reason(err) != "DATA_LOSS" {
			t.Errorf("%s, claiming another history: %v", name, err)
		}
		if err := call(&walsvcv1.Claim{LogId: "l", Lsn: 1}); reason(err) != "INVALID" {
			t.Errorf("%s, with a malformed claim: %v", name, err)
		}
	}
	if next := w.log("l").GetNextLsn(); next != before {
		t.Errorf("something landed: next LSN %d", next)
	}
	for name, call := range calls {
		if err := call(claim(1, ack.GetLogChecksum())); err != nil {
			t.Errorf("%s, with a claim that holds: %v", name, err)
		}
	}
	if _, err := walsvcv1.NewLogServiceClient(w.conn).RewindLog(w.ctx, &walsvcv1.RewindLogRequest{Name: "l", AfterLsn: 0, ExpectedEpoch: 1}); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls {
		if err := call(claim(1, ack.GetLogChecksum())); reason(err) != "REWOUND" {
			t.Errorf("%s, claiming what was discarded: %v", name, err)
		}
	}
}

// TestBadBatches: each is refused by itself, with its reason, and the stream
// goes on.
func TestBadBatches(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	for _, tc := range []struct {
		name   string
		batch  wire.Batch
		reason string
	}{
		{"empty", wire.Batch{Binding: 1}, "EMPTY_BATCH"},
		{"garbage", wire.Batch{Binding: 1, Run: []byte("garbage")}, "MALFORMED"},
		{"cut short", wire.Batch{Binding: 1, Run: runOf("cut short")[:5]}, "MALFORMED"},
		{"length not minimal", wire.Batch{Binding: 1, Run: []byte{0x0A, 0x81, 0x00, 'x'}}, "MALFORMED"},
		{"record too large", wire.Batch{Binding: 1, Run: runOf(strings.Repeat("x", limits.MaxRecordSize+1))}, "TOO_LARGE"},
		{"sequence without a producer", wire.Batch{Binding: 1, Sequence: 1, Run: runOf("x")}, "INVALID"},
		{"binding never opened", wire.Batch{Binding: 3, Run: runOf("x")}, "INVALID"},
		{"expected elsewhere", wire.Batch{Binding: 1, Expected: 1000, Run: runOf("x")}, "LSN_MISMATCH"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := w.open()
			s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
			s.send(&wire.AppendRequest{Batches: []wire.Batch{tc.batch}})
			if got := s.verdicts(1)[0]; got.Refusal.GetReason() != tc.reason || got.First != 0 {
				t.Errorf("verdict %+v, want %s", got, tc.reason)
			}
			s.send(&wire.AppendRequest{Resets: []uint32{1}, Batches: []wire.Batch{{Binding: 1, Run: runOf("good")}}})
			if got := s.verdicts(1)[0]; got.Refusal != nil {
				t.Errorf("after it: %+v", got)
			}
		})
	}
}

// TestBadMessages: what is no message of ours ends the stream, with a reason,
// after the verdicts that are due.
func TestBadMessages(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	huge := make([]byte, limits.MaxBatchSize+1)
	for _, tc := range []struct {
		name    string
		message any
		reason  string
	}{
		{"garbage", raw("\xff\xff\xff garbage"), "MALFORMED"},
		{"batch too large", &wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: huge}}}, "TOO_LARGE"},
		{"too many batches", &wire.AppendRequest{Batches: make([]wire.Batch, limits.MaxBatchesPerMessage+1)}, "TOO_LARGE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := w.open()
			s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
			s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("due")}}})
			if err := s.SendMsg(tc.message); err != nil {
				t.Fatal(err)
			}
			got, _, err := s.end()
			wantReason(t, err, codes.InvalidArgument, tc.reason)
			if len(got) != 1 || got[0].Refusal != nil {
				t.Errorf("verdicts that were due: %+v", got)
			}
		})
	}
}

// raw is a message sent as it is.
type raw []byte

// rawCodec sends raw.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(r)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// TestMessageTooLarge: gRPC turns it away before anybody looks at it, with a code
// of its own and without a reason.
func TestMessageTooLarge(t *testing.T) {
	w := newWorld(t, Options{})
	s := w.open()
	if err := s.SendMsg(raw(make([]byte, limits.MaxMessageSize+1))); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.end()
	wantReason(t, err, codes.ResourceExhausted, "")
}

func TestCreditExceeded(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	batch := strings.Repeat("x", 3<<20)
	for _, tc := range []struct {
		name    string
		message wire.AppendRequest
		within  int // how often it fits besides one small batch
	}{
		{"bytes", wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf(batch)}}}, 5},
		{"batches", wire.AppendRequest{Batches: slices.Repeat([]wire.Batch{{Binding: 1, Run: runOf("x")}}, limits.MaxBatchesPerMessage)}, 1},
		{"refused batches", wire.AppendRequest{Batches: slices.Repeat([]wire.Batch{{Binding: 5, Run: runOf("x")}}, limits.MaxBatchesPerMessage)}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := w.open()
			s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
			w.occupy("l")
			// One batch at the head keeps the verdicts of all others back.
			s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("head")}}})
			for range tc.within + 1 {
				m := tc.message
				s.send(&m)
			}
			<-w.served().ended
			w.release()
			got, _, err := s.end()
			wantReason(t, err, codes.ResourceExhausted, "CREDIT_EXCEEDED")
			if want := 1 + tc.within*len(tc.message.Batches); len(got) != want {
				t.Errorf("%d verdicts, want the %d that were within the credit", len(got), want)
			}
		})
	}
}

// TestCreditComesBack sends many times the credit, never more than it at once.
func TestCreditComesBack(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	const perMessage, messages = limits.StreamCreditBatches / 4, 24
	sent, told := 0, 0
	for range messages {
		for sent-told > limits.StreamCreditBatches-perMessage {
			told += len(s.next().Verdicts)
		}
		s.send(&wire.AppendRequest{Batches: slices.Repeat([]wire.Batch{{Binding: 1, Run: runOf("x")}}, perMessage)})
		sent += perMessage
	}
	for told < sent {
		told += len(s.next().Verdicts)
	}
}

// TestClientThatReadsLast sends all its credit allows, message by message, on an
// idle disk, before it reads one verdict. Whoever sends verdicts must not keep
// the service from receiving then.
func TestClientThatReadsLast(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	record := strings.Repeat("x", 1900) // together over the service's window
	for range limits.StreamCreditBatches {
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf(record)}}})
	}
	got := s.verdicts(limits.StreamCreditBatches)
	if last := got[len(got)-1]; last.First != limits.StreamCreditBatches {
		t.Errorf("last verdict %+v", last)
	}
}

// TestFloodingClientThatNeverReads is stopped, hurts nobody, and leaves nothing.
func TestFloodingClientThatNeverReads(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	flooded := make(chan error, 1)
	go func() {
		err := s.SendMsg(&wire.AppendRequest{Binds: []*walsvcv1.Bind{{Binding: 1, Log: "l"}}})
		for err == nil {
			err = s.SendMsg(&wire.AppendRequest{Batches: slices.Repeat([]wire.Batch{{Binding: 1, Run: runOf("flood")}}, 1000)})
		}
		flooded <- err
	}()
	other := &world{t: w.t, conn: w.dial(), ctx: w.ctx}
	for range 50 {
		other.append("l", "unhurt")
	}
	<-w.served().ended // more than its credit
	s.cancel()
	<-flooded
}

func TestClientThatGoesAwayLeavesNothing(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	w.occupy("l")
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("sequenced")}}})
	eventually(t, "the batch is on the bus", func() bool { return w.unread() == 1 })
	s.cancel()
	<-w.served().ended
	w.release()
	// What was sequenced has landed all the same; goleak looks after the rest.
	if got := w.append("l", "next"); got.GetFirstLsn() != 3 {
		t.Errorf("next append at %d, want 3", got.GetFirstLsn())
	}
}

// TestPoison: what is in flight when a sync fails has an unknown outcome, what
// comes after is refused, and reads go on.
func TestPoison(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.append("l", "durable")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	follower, err := walsvcv1.NewReplayServiceClient(w.conn).Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", FromLsn: 2, Follow: true})
	if err != nil {
		t.Fatal(err)
	}

	w.disk.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Sticky: true})
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("lost?")}}})
	got, _, err := s.end()
	wantReason(t, err, codes.Internal, "OUTCOME_UNKNOWN")
	if len(got) != 0 {
		t.Errorf("verdicts: %+v", got)
	}
	_, err = follower.Recv()
	wantReason(t, err, codes.FailedPrecondition, "POISONED")

	<-w.options.Poisoned
	_, err = walsvcv1.NewAppendServiceClient(w.conn).Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("x")})
	wantReason(t, err, codes.FailedPrecondition, "POISONED")
	again, err := w.conn.NewStream(w.ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, walsvcv1.AppendService_AppendStream_FullMethodName)
	if err == nil {
		err = again.RecvMsg(&wire.AppendResponse{})
	}
	wantReason(t, err, codes.FailedPrecondition, "POISONED")
	read, err := walsvcv1.NewReplayServiceClient(w.conn).Read(w.ctx, &walsvcv1.ReadRequest{Log: "l"})
	if err != nil || len(read.GetRecords().GetRecord()) != 1 {
		t.Errorf("read of a poisoned volume: %v, %v", read, err)
	}
	st, err := walsvcv1.NewAdminServiceClient(w.conn).GetStatus(w.ctx, &walsvcv1.GetStatusRequest{})
	if err != nil || st.GetState() != walsvcv1.VolumeState_VOLUME_STATE_POISONED {
		t.Errorf("status: %v, %v", st, err)
	}
	eventually(t, "appends are called unhealthy", func() bool { // who says so is told beside the calls
		return w.healthOf(walsvcv1.AppendService_ServiceDesc.ServiceName) == "NOT_SERVING"
	})
	if got := w.healthOf(walsvcv1.ReplayService_ServiceDesc.ServiceName); got != "SERVING" {
		t.Errorf("health of replays: %s", got)
	}
}

// TestUnaryInFlightWhenPoisoned has its own answer.
func TestUnaryInFlightWhenPoisoned(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.disk.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Sticky: true})
	_, err := walsvcv1.NewAppendServiceClient(w.conn).Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("x")})
	wantReason(t, err, codes.Internal, "OUTCOME_UNKNOWN")
	if text := err.Error(); strings.Contains(text, "/vol") || strings.Contains(text, "input/output") {
		t.Errorf("the host's insides leak: %s", text)
	}
}

// TestFullDisk: appends are refused one by one with a delay, reads go on, and
// appends resume by themselves.
func TestFullDisk(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	c := walsvcv1.NewAppendServiceClient(w.conn)
	fill := &walsvcv1.AppendRequest{Log: "l", Records: &walsvcv1.Records{Record: [][]byte{noise(100 << 10)}}}
	_, err := c.Append(w.ctx, fill) // once before, however far the preparer has come
	if err != nil {
		t.Fatal(err)
	}
	w.mem.SetCapacity(1) // no file grows any more
	for n := 0; err == nil && n < 200; n++ {
		_, err = c.Append(w.ctx, fill)
	}
	wantReason(t, err, codes.ResourceExhausted, "FULL")
	if len(status.Convert(err).Details()) != 2 {
		t.Errorf("FULL without RetryInfo: %v", status.Convert(err).Details())
	}
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf(string(noise(100 << 10)))}}})
	if r := s.verdicts(1)[0].Refusal; r.GetReason() != "FULL" || r.GetMetadata()["retry_ms"] == "" {
		t.Errorf("refusal: %v", r)
	}
	if read, err := walsvcv1.NewReplayServiceClient(w.conn).Read(w.ctx, &walsvcv1.ReadRequest{Log: "l"}); err != nil || len(read.GetRecords().GetRecord()) == 0 {
		t.Errorf("read on a full disk: %v", err)
	}
	w.mem.SetCapacity(0)
	eventually(t, "appends resume", func() bool {
		_, err := c.Append(w.ctx, fill)
		return err == nil
	})
}

// noise is what no codec makes smaller.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // it never fails
	return b
}
