package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestAppend(t *testing.T) {
	f := newFake()
	f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	for i := range 3 {
		lsn, err := l.Append(t.Context(), []byte(record(0, i)))
		if err != nil || lsn != LSN(i+1) {
			t.Fatalf("LSN %d, %v; want %d", lsn, err, i+1)
		}
	}
	r, err := l.AppendBatch(t.Context(), [][]byte{[]byte("x"), nil, []byte("z")}, ExpectLSN(4))
	if err != nil {
		t.Fatal(err)
	}
	want := Receipt{Volume: fakeVolume, Log: f.logs["orders"].id, Name: "orders", Committed: time.Unix(0, fakeTime).UTC(), Epoch: 1, LSN: 4, Count: 3, LogChecksum: f.logs["orders"].sum(6), Through: 6}
	if r != want {
		t.Fatalf("got %+v, want %+v", r, want)
	}
	if got := f.contents("orders"); !slices.Equal(got, []string{record(0, 0), record(0, 1), record(0, 2), "x", "", "z"}) {
		t.Fatalf("got %q", got)
	}
}

func TestRecordMayBeReusedAtOnce(t *testing.T) {
	f := newFake()
	f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	buf := make([]byte, 8)
	var last *Future
	for i := range 100 {
		copy(buf, fmt.Sprintf("%08d", i))
		last = l.AppendAsync(t.Context(), buf)
	}
	if _, err := last.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, got := range f.contents("orders") {
		if want := fmt.Sprintf("%08d", i); got != want {
			t.Fatalf("record %d is %q, want %q", i, got, want)
		}
	}
}

// size returns how many records a message has.
func size(m *wire.AppendRequest) int {
	n := 0
	for _, b := range m.Batches {
		k, _ := records.Check(b.Run, 0)
		n += k
	}
	return n
}

func TestSmallAppendsGatherWhileOneMessageIsOut(t *testing.T) {
	f := newFake()
	f.log("orders")
	arrived, release := make(chan int), make(chan struct{})
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if n := size(m); n > 0 {
			arrived <- n
			<-release
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	first := l.AppendAsync(t.Context(), []byte("first"))
	if n := <-arrived; n != 1 {
		t.Fatalf("the first message has %d records, want the one", n)
	}
	var last *Future
	for range 50 {
		last = l.AppendAsync(t.Context(), []byte("gathers"))
	}
	release <- struct{}{}
	if n := <-arrived; n != 50 {
		t.Fatalf("the second message has %d records, want all 50 that gathered", n)
	}
	release <- struct{}{}
	r, err := last.Wait(t.Context())
	if err != nil || r.LSN != 51 || r.Through != 51 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := first.Wait(t.Context()); err != nil || r.LSN != 1 || r.Count != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestFullMessagesAreNotHeldBack(t *testing.T) {
	f := newFake()
	f.log("orders")
	f.onMessage = func(_, message int, m *wire.AppendRequest) fate {
		if size(m) == 1 && message == 2 {
			return withheld
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	if _, err := l.Append(t.Context(), nil); err != nil { // messages 0 and 1: the bind and this
		t.Fatal(err)
	}
	small := l.AppendAsync(t.Context(), []byte("small"))
	for range fullMessage >> 10 {
		l.AppendAsync(t.Context(), make([]byte, 1<<10))
	}
	// The small one's verdict comes only when the full one was sent without it.
	if _, err := small.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// withholding returns a service that says nothing about what lands until it is
// told to.
func withholding() (f *fake, tell func()) {
	f = newFake()
	var mu sync.Mutex
	telling := false
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		mu.Lock()
		defer mu.Unlock()
		if len(m.Batches) > 0 && !telling {
			return withheld
		}
		return served
	}
	return f, func() { mu.Lock(); defer mu.Unlock(); telling = true }
}

func TestPendingIsBounded(t *testing.T) {
	tests := []struct {
		name    string
		options Options
	}{
		{"by records", Options{MaxPendingRecords: 10}},
		{"by bytes", Options{MaxPendingBytes: 10 * records.Size(100)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, _ := withholding()
			f.log("orders")
			l := f.serve(t, tt.options).Log("orders")
			for range 10 {
				l.AppendAsync(t.Context(), make([]byte, 100))
			}
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() {
				result <- l.AppendAsync(ctx, make([]byte, 100)).err
			}()
			for waits := false; !waits; {
				select {
				case err := <-result:
					t.Fatalf("the eleventh was taken: %v", err)
				default:
					runtime.Gosched()
				}
				l.stream.mu.Lock()
				waits = l.stream.room != nil
				l.stream.mu.Unlock()
			}
			cancel()
			if err := <-result; !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknownOutcome) {
				t.Fatalf("got %v, want that the context ended and nothing was taken", err)
			}
			l.stream.mu.Lock()
			defer l.stream.mu.Unlock()
			if n := l.stream.pending.records; n != 10 {
				t.Fatalf("%d records pending, want 10", n)
			}
		})
	}
}

func TestRoomIsGivenToThoseWhoWait(t *testing.T) {
	f := newFake()
	f.log("orders")
	l := f.serve(t, Options{MaxPendingRecords: 2}).Log("orders")
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			for i := range 50 {
				if _, err := l.Append(t.Context(), []byte(record(caller, i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// One append over the bound fits when nothing else is pending.
	if _, err := l.AppendBatch(t.Context(), [][]byte{nil, nil, nil, nil}); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	if n := len(f.contents("orders")); n != 404 {
		t.Fatalf("%d records, want 404", n)
	}
}

func TestContextEndsInFlight(t *testing.T) {
	f, _ := withholding()
	f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal { cancel(why); return nil }
	_, err := l.Append(ctx, []byte("may land"))
	if !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, why) {
		t.Fatalf("got %v, want that the outcome is unknown, and why", err)
	}
	if _, err := l.Append(ctx, nil); errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, why) {
		t.Fatalf("got %v, want that a context that has ended takes nothing", err)
	}
}

func TestProducerIsKeptIfNothingIsUnknown(t *testing.T) {
	f := newFake()
	f.log("orders")
	refuse := true
	f.onBind = func(*walsvcv1.Bind) *walsvcv1.Refusal {
		if refuse {
			return refusal(codes.FailedPrecondition, "FENCED")
		}
		return nil
	}
	l := f.serve(t, Options{}).Log("orders")
	for range 3 {
		if _, err := l.Append(t.Context(), nil); !errors.Is(err, ErrFenced) || errors.Is(err, ErrUnknownOutcome) {
			t.Fatalf("got %v", err)
		}
	}
	f.mu.Lock()
	refuse = false
	f.mu.Unlock()
	if _, err := l.Append(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.logs["orders"].producers); n != 1 {
		t.Fatalf("%d producers, want one: a log has room for few", n)
	}
}

// own queues a batch of its own and does not wait for it.
func own(t *testing.T, l *Log, expected LSN, rs ...string) *Future {
	t.Helper()
	b := newBatch(l, 0)
	for _, r := range rs {
		b.reserve(records.Size(len(r)))
		b.run.Data = records.Append(b.run.Data, []byte(r))
	}
	b.count, b.expected = len(rs), expected
	if err := l.stream.take(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	return &Future{batch: b, count: b.count}
}

func TestWindowOfTheProducerIsKept(t *testing.T) {
	f := newFake()
	f.log("orders")
	most := 0
	f.onMessage = func(_, message int, m *wire.AppendRequest) fate {
		most = max(most, len(m.Batches))
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	var all []*Future
	for i := range 5 * limits.ProducerWindow {
		all = append(all, own(t, l, 0, record(0, i)))
	}
	for i, future := range all {
		if r, err := future.Wait(t.Context()); err != nil || r.LSN != LSN(i+1) {
			t.Fatalf("batch %d: %+v, %v", i, r, err)
		}
	}
	if most > limits.ProducerWindow || most < 2 {
		t.Fatalf("up to %d batches in a message, want some and at most %d", most, limits.ProducerWindow)
	}
}

func TestCreditIsKept(t *testing.T) {
	f := newFake()
	f.log("orders")
	f.credit = &walsvcv1.Credit{Bytes: limits.MaxBatchSize, Batches: 3}
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if len(m.Batches) > 3 {
			t.Errorf("%d batches in a message, the credit is 3", len(m.Batches))
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	var last *Future
	for range 50 {
		last = own(t, l, 0, "x")
	}
	if _, err := last.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestTooLittleCreditIsNotSentOn(t *testing.T) {
	f := newFake()
	f.log("orders")
	f.credit = &walsvcv1.Credit{Bytes: 1, Batches: 1}
	f.onMessage = func(int, int, *wire.AppendRequest) fate {
		t.Error("sent a message")
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	future := l.AppendAsync(t.Context(), nil)
	for streams := 0; streams < 3; runtime.Gosched() {
		f.mu.Lock()
		streams = f.streams
		f.mu.Unlock()
	}
	select {
	case <-future.Done():
		t.Error("settled")
	default:
	}
}

func TestNothingIsSentToAServiceThatDrains(t *testing.T) {
	f := newFake()
	f.log("orders")
	drains, ends := make(chan struct{}), make(chan struct{})
	f.onDrain = func() { close(drains); <-ends }
	f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
		if stream == 1 && len(m.Batches) > 0 {
			return drained
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	if _, err := l.Append(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	<-drains
	future := l.AppendAsync(t.Context(), nil)
	l.stream.mu.Lock()
	out := l.sent
	l.stream.mu.Unlock()
	close(ends)
	if _, err := future.Wait(t.Context()); err != nil || out != 0 {
		t.Fatalf("%d batches sent to a service that drains; %v", out, err)
	}
}

func TestRefusalLeavesTheOthersInOrder(t *testing.T) {
	f := newFake()
	f.log("orders")
	// What is sent together with the first message's verdict is refused together.
	started := make(chan struct{})
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if size(m) == 1 {
			<-started
		}
		return served
	}
	f.onBatch = func(_ string, b *wire.Batch) *walsvcv1.Refusal {
		if strings.Contains(string(b.Run), "bad") {
			return refusal(codes.ResourceExhausted, "QUOTA")
		}
		return nil
	}
	l := f.serve(t, Options{}).Log("orders")
	futures := []*Future{
		own(t, l, 0, "a"), own(t, l, 0, "b"), own(t, l, 0, "bad 1"), own(t, l, 0, "c"), own(t, l, 4, "d"),
		own(t, l, 0, "bad 2", "bad too"), own(t, l, 0, "e"), l.AppendAsync(t.Context(), []byte("f")),
	}
	close(started)
	wants := []struct {
		lsn LSN
		err error
	}{{1, nil}, {2, nil}, {0, ErrQuota}, {3, nil}, {0, ErrAfterRefusal}, {0, ErrQuota}, {4, nil}, {5, nil}}
	for i, want := range wants {
		r, err := futures[i].Wait(t.Context())
		if r.LSN != want.lsn || !errors.Is(err, want.err) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("append %d: LSN %d, %v; want %d, %v", i, r.LSN, err, want.lsn, want.err)
		}
	}
	if got := f.contents("orders"); !slices.Equal(got, []string{"a", "b", "c", "e", "f"}) {
		t.Fatalf("got %q", got)
	}
	var e *Error
	if _, err := futures[2].Wait(t.Context()); !errors.As(err, &e) || e.Reason != "QUOTA" || e.Hint() == "" {
		t.Fatalf("got %#v", err)
	}
}

func TestStreamBreaksBehindARefusal(t *testing.T) {
	f := newFake()
	f.log("orders")
	started := make(chan struct{})
	f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
		switch {
		case stream == 1 && size(m) == 1:
			<-started
		case stream == 1 && len(m.Batches) == 0 && len(m.Resets) > 0, stream == 1 && len(m.Resets) > 0:
			return lostBefore // the reset, with what is sent again
		}
		return served
	}
	f.onBatch = func(_ string, b *wire.Batch) *walsvcv1.Refusal {
		if strings.Contains(string(b.Run), "bad") {
			return refusal(codes.ResourceExhausted, "FULL")
		}
		return nil
	}
	l := f.serve(t, Options{}).Log("orders")
	futures := []*Future{own(t, l, 0, "a"), own(t, l, 0, "bad"), own(t, l, 0, "b"), own(t, l, 0, "c")}
	close(started)
	for i, want := range []LSN{1, 0, 2, 3} {
		if r, err := futures[i].Wait(t.Context()); r.LSN != want || (want == 0) != errors.Is(err, ErrFull) {
			t.Errorf("append %d: LSN %d, %v", i, r.LSN, err)
		}
	}
	if f.streams < 2 {
		t.Fatal("the stream did not break")
	}
}

func TestClaimIsTheLastAcknowledgement(t *testing.T) {
	f := newFake()
	l := f.log("orders")
	c := f.serve(t, Options{})
	if _, err := c.Log("orders").AppendBatch(t.Context(), [][]byte{[]byte("a"), []byte("b")}); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if _, err := c.Log("orders").Append(t.Context(), []byte("c")); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := f.binds[0]; got.GetClaim() != nil || got.GetProducer() == "" {
		t.Errorf("first bind %v, want no claim", got)
	}
	got := f.binds[1].GetClaim()
	if got.GetLogId() != l.id.String() || got.GetEpoch() != 1 || got.GetLsn() != 2 || got.GetLogChecksum() != l.sum(2) {
		t.Errorf("claim %v, want LSN 2", got)
	}
	if f.binds[0].GetProducer() != f.binds[1].GetProducer() {
		t.Error("another producer after a reconnect")
	}
}

func TestDataLossIsForGood(t *testing.T) {
	tests := []struct {
		name string
		harm func(f *fake, l *fakeLog)
	}{
		{"the claim fails", func(_ *fake, l *fakeLog) { l.records, l.checksums = l.records[:1], l.checksums[:1] }},
		{"the producer's sequences are gone", func(_ *fake, l *fakeLog) {
			for _, p := range l.producers {
				p.last--
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			harmed := f.log("orders")
			f.log("other")
			c := f.serve(t, Options{})
			l := c.Log("orders")
			for range 2 {
				if _, err := l.Append(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			f.server.Stop()
			f.mu.Lock()
			tt.harm(f, harmed)
			f.mu.Unlock()
			pending := l.AppendAsync(t.Context(), nil)
			f.listen()
			if _, err := pending.Wait(t.Context()); !errors.Is(err, ErrDataLoss) {
				t.Fatalf("pending: got %v", err)
			}
			if _, err := l.Append(t.Context(), nil); !errors.Is(err, ErrDataLoss) {
				t.Fatalf("later: got %v", err)
			}
			if _, err := c.Log("other").Append(t.Context(), nil); err != nil {
				t.Fatalf("another log: %v", err)
			}
		})
	}
}

func TestPoisonedServiceLeavesTheOutcomeUnknown(t *testing.T) {
	f := newFake()
	f.log("orders")
	f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
		if stream == 1 && len(m.Batches) > 0 {
			return unknownEnded
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	if _, err := l.Append(t.Context(), []byte("a")); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
	if _, err := l.Append(t.Context(), []byte("b")); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.logs["orders"].producers); n != 2 {
		t.Fatalf("%d producers, want another one: the first one's sequence may still land", n)
	}
}

func TestProducerOption(t *testing.T) {
	f := newFake()
	f.log("orders")
	producer := ulid.Make()
	for i := range 2 {
		c := f.serve(t, Options{Producer: producer})
		if lsn, err := c.Log("orders").Append(t.Context(), []byte{byte(i)}); err != nil || lsn != LSN(i+1) {
			t.Fatalf("LSN %d, %v", lsn, err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.server.Stop()
	}
	if p := f.logs["orders"].producers[producer.String()]; p == nil || p.last != 2 {
		t.Fatalf("producer %+v, want it to have gone on", p)
	}
}

func TestLogIsDeletedAndMadeAnew(t *testing.T) {
	f := newFake()
	f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	if _, err := l.Append(t.Context(), []byte("old")); err != nil {
		t.Fatal(err)
	}
	f.log("orders")
	if _, err := l.Append(t.Context(), []byte("lost")); !errors.Is(err, ErrLogNotFound) || errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
	if lsn, err := l.Append(t.Context(), []byte("new")); err != nil || lsn != 1 {
		t.Fatalf("LSN %d, %v", lsn, err)
	}
	f.log("orders")
	f.restart()
	if _, err := l.Append(t.Context(), nil); !errors.Is(err, ErrLogNotFound) && !errors.Is(err, ErrNoProducer) {
		t.Fatalf("bound again: got %v", err)
	}
}

func TestRefusedBeforeItIsSent(t *testing.T) {
	f := newFake()
	f.log("orders").options = &walsvcv1.LogOptions{MaxRecordBytes: 10}
	c := f.serve(t, Options{})
	l := c.Log("orders")
	tests := []struct {
		name string
		do   func() error
		want error
	}{
		{"no such log", func() error { _, err := c.Log("none").Append(t.Context(), nil); return err }, ErrLogNotFound},
		{"a name that is no text", func() error { _, err := c.Log("\xff").Append(t.Context(), nil); return err }, ErrInvalidName},
		{"no records", func() error { _, err := l.AppendBatch(t.Context(), nil); return err }, ErrEmptyBatch},
		{"too many records", func() error {
			_, err := l.AppendBatch(t.Context(), make([][]byte, limits.MaxBatchRecords+1))
			return err
		}, ErrTooLarge},
		{"too large a batch", func() error {
			r := make([]byte, limits.MaxRecordSize)
			_, err := l.AppendBatch(t.Context(), [][]byte{r, r})
			return err
		}, ErrTooLarge},
		{"too large a record", func() error {
			_, err := l.Append(t.Context(), make([]byte, limits.MaxRecordSize+1))
			return err
		}, ErrTooLarge},
		{"too large a record in a batch", func() error {
			_, err := l.AppendBatch(t.Context(), [][]byte{make([]byte, limits.MaxRecordSize+1)})
			return err
		}, ErrTooLarge},
		{"too large for the log", func() error { _, err := l.Append(t.Context(), make([]byte, 11)); return err }, ErrTooLarge},
		{"too large for the log, in a batch", func() error {
			_, err := l.AppendBatch(t.Context(), [][]byte{nil, make([]byte, 11)})
			return err
		}, ErrTooLarge},
		{"told to a function", func() error {
			var got error
			l.AppendAsyncFunc(t.Context(), make([]byte, 11), func(_ Receipt, err error) { got = err })
			return got
		}, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
	if n := len(f.contents("orders")); n != 0 {
		t.Fatalf("%d records landed", n)
	}
}

func TestServiceThatBreaksTheProtocol(t *testing.T) {
	tests := []struct {
		name string
		lie  func(v *wire.Verdict)
	}{
		{"another binding", func(v *wire.Verdict) { v.Binding = 7 }},
		{"binding zero", func(v *wire.Verdict) { v.Binding = 0 }},
		{"another sequence", func(v *wire.Verdict) { v.Sequence++ }},
		{"another count", func(v *wire.Verdict) { v.Count++ }},
		{"other records", func(v *wire.Verdict) { v.Checksum++ }},
		{"an LSN that is taken", func(v *wire.Verdict) { v.First = 1 }},
		{"no LSN", func(v *wire.Verdict) { v.First = 0 }},
		{"an epoch that is over", func(v *wire.Verdict) { v.Epoch = 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			f.log("orders")
			l := f.serve(t, Options{}).Log("orders")
			if _, err := l.Append(t.Context(), []byte("a")); err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			f.mu.Lock()
			f.onVerdict = func(v *wire.Verdict) { once.Do(func() { tt.lie(v) }) }
			f.mu.Unlock()
			_, err := l.Append(t.Context(), []byte("b"))
			if errors.Is(err, ErrUnknownOutcome) && errors.Is(err, ErrProtocol) {
				return
			}
			// Where the lie does not say which log it is about, the stream is
			// begun anew and the truth comes out.
			if v := (wire.Verdict{Binding: 1}); err != nil || func() bool { tt.lie(&v); return v.Binding == 1 }() {
				t.Fatalf("got %v, want a broken protocol and an unknown outcome", err)
			}
		})
	}
}

func TestRepeatWhosePositionIsLost(t *testing.T) {
	f := newFake()
	f.log("orders")
	f.onVerdict = func(v *wire.Verdict) { v.First, v.Count, v.Repeated = 0, 0, true }
	l := f.serve(t, Options{}).Log("orders")
	if _, err := l.Append(t.Context(), nil); !errors.Is(err, ErrPositionLost) || errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
}

func TestCloseWaitsForWhatIsPending(t *testing.T) {
	f := newFake()
	f.log("orders")
	c := f.serve(t, Options{})
	var told []LSN
	for range 1000 {
		c.Log("orders").AppendAsyncFunc(t.Context(), []byte("x"), func(r Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			told = append(told, r.LSN)
		})
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1000 || !slices.IsSorted(told) || told[999] != 1000 {
		t.Fatalf("%d told, in order: %v", len(told), slices.IsSorted(told))
	}
	if _, err := c.Log("orders").Append(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("append to a closed client: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatalf("closing again: %v", err)
	}
}

func TestCloseIsBounded(t *testing.T) {
	f, _ := withholding()
	f.log("orders")
	c := f.serve(t, Options{})
	pending := c.Log("orders").AppendAsync(t.Context(), []byte("x"))
	why := errors.New("no time")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := c.Close(ctx); !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
	<-pending.Done()
	if _, err := pending.Wait(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
}

// TestStreamBreaksAtEveryMessage breaks the first stream at each of its messages
// in each way.
func TestStreamBreaksAtEveryMessage(t *testing.T) {
	for _, how := range []fate{lostBefore, lostAfter, halfLost, drained, ended} {
		for at := range 6 {
			t.Run(fmt.Sprintf("fate=%d/message=%d", how, at), func(t *testing.T) {
				f := newFake()
				f.log("orders")
				f.onMessage = func(stream, message int, _ *wire.AppendRequest) fate {
					if stream == 1 && message == at {
						return how
					}
					return served
				}
				l := f.serve(t, Options{}).Log("orders")
				var all []*Future
				for i := range 40 {
					if all = append(all, own(t, l, 0, record(0, i), record(1, i))); i%8 == 7 {
						if _, err := all[i].Wait(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				for i, future := range all {
					if r, err := future.Wait(t.Context()); err != nil || r.LSN != LSN(2*i+1) {
						t.Fatalf("batch %d: %+v, %v", i, r, err)
					}
				}
				if n := len(f.contents("orders")); n != 80 {
					t.Fatalf("%d records, want 80", n)
				}
				if f.streams < 2 {
					t.Fatal("the stream did not break")
				}
			})
		}
	}
}

// TestEveryAppendOnce is the promise: whatever breaks, what is acknowledged is
// there once, at its LSN; what is refused is not there; and what one caller
// appended is there in its order.
func TestEveryAppendOnce(t *testing.T) {
	const callers, each = 6, 60
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			f := newFake()
			names := []string{"orders", "stock"}
			for _, name := range names {
				f.log(name)
			}
			var mu sync.Mutex
			draw := rand.New(rand.NewPCG(seed, 7))
			chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return draw.IntN(n) == 0 }
			pick := func(n int) int { mu.Lock(); defer mu.Unlock(); return draw.IntN(n) }
			f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
				if chance(3) {
					return []fate{lostBefore, lostAfter, halfLost, drained, ended}[pick(5)]
				}
				return served
			}
			f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal {
				if chance(15) {
					return refusal(codes.ResourceExhausted, "FULL")
				}
				return nil
			}
			c := f.serve(t, Options{MaxPendingRecords: 100, Streams: 1 + int(seed%2)})

			type told struct {
				log string
				lsn LSN
				err error
			}
			results := make(map[string]told)
			var settled sync.WaitGroup
			note := func(log, r string, lsn LSN, err error) {
				mu.Lock()
				defer mu.Unlock()
				if _, twice := results[r]; twice {
					t.Errorf("%.30q was settled twice", r)
				}
				results[r] = told{log, lsn, err}
			}
			// Large records make full messages, of which several are out at once.
			padded := func(caller, i int) string {
				return record(caller, i) + strings.Repeat(" ", pick(2)*pick(24<<10))
			}
			var appending sync.WaitGroup
			for caller := range callers {
				appending.Go(func() {
					l := c.Log(names[caller%2])
					for i := 0; i < each; i++ {
						r := padded(caller, i)
						switch pick(4) {
						case 0:
							lsn, err := l.Append(t.Context(), []byte(r))
							note(l.Name(), r, lsn, err)
						case 1:
							future := l.AppendAsync(t.Context(), []byte(r))
							settled.Go(func() {
								got, err := future.Wait(t.Context())
								note(l.Name(), r, got.LSN, err)
							})
						case 2:
							settled.Add(1)
							l.AppendAsyncFunc(t.Context(), []byte(r), func(got Receipt, err error) {
								note(l.Name(), r, got.LSN, err)
								settled.Done()
							})
						case 3:
							i++
							second := padded(caller, i)
							got, err := l.AppendBatch(t.Context(), [][]byte{[]byte(r), []byte(second)})
							note(l.Name(), r, got.LSN, err)
							note(l.Name(), second, got.LSN+1, err)
						}
					}
				})
			}
			appending.Wait()
			settled.Wait()

			found := make(map[string]int)
			for _, name := range names {
				last := make(map[int]int)
				for i, r := range f.contents(name) {
					found[r]++
					got, ok := results[r]
					if !ok || got.err != nil || got.log != name || got.lsn != LSN(i+1) {
						t.Errorf("log %s, LSN %d: %.30q, which was told %+v", name, i+1, r, got)
					}
					var caller, number int
					if _, err := fmt.Sscanf(r, "caller %d record %d", &caller, &number); err != nil {
						t.Fatal(err)
					}
					if before, ok := last[caller]; ok && number <= before {
						t.Errorf("log %s: record %d of caller %d behind %d", name, number, caller, before)
					}
					last[caller] = number
				}
			}
			for r, got := range results {
				switch {
				case got.err == nil && found[r] != 1:
					t.Errorf("%.30q was acknowledged, and is there %d times", r, found[r])
				case got.err != nil && !errors.Is(got.err, ErrFull):
					t.Errorf("%.30q: %v", r, got.err)
				case got.err != nil && found[r] != 0:
					t.Errorf("%.30q was refused, and is there", r)
				}
			}
			if len(results) < callers*each {
				t.Errorf("%d results, want at least %d", len(results), callers*each)
			}
		})
	}
}

// TestExpectedInARow: records whose expected LSNs follow each other share batches,
// others do not; behind one that is refused nothing lands.
func TestExpectedInARow(t *testing.T) {
	f := newFake()
	f.log("orders")
	arrived, release := make(chan int, 1), make(chan struct{})
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if len(m.Batches) > 0 {
			arrived <- len(m.Batches)
			<-release
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	futures := []*Future{l.AppendAsync(t.Context(), []byte("1"), ExpectLSN(1))}
	<-arrived
	for i := LSN(2); i <= 40; i++ {
		futures = append(futures, l.AppendAsync(t.Context(), fmt.Appendf(nil, "%d", i), ExpectLSN(i)))
	}
	gap := l.AppendAsync(t.Context(), []byte("skips one"), ExpectLSN(42))
	behind := l.AppendAsync(t.Context(), []byte("behind it"), ExpectLSN(43))
	free := l.AppendAsync(t.Context(), []byte("wherever"))
	release <- struct{}{}
	if n := <-arrived; n != 3 {
		t.Errorf("%d batches, want one up to LSN 40, one from 42 on and one for any", n)
	}
	close(release)
	for i, future := range futures {
		if r, err := future.Wait(t.Context()); err != nil || r.LSN != LSN(i+1) || future.NotTaken() != nil {
			t.Errorf("%+v, %v; want LSN %d", r, err, i+1)
		}
	}
	if _, err := gap.Wait(t.Context()); !errors.Is(err, ErrLSNMismatch) || gap.NotTaken() != nil {
		t.Errorf("skips an LSN: %v", err)
	}
	if _, err := behind.Wait(t.Context()); !errors.Is(err, ErrLSNMismatch) {
		t.Errorf("in the batch of one that skips an LSN: %v", err)
	}
	if r, err := free.Wait(t.Context()); err != nil || r.LSN != 41 {
		t.Errorf("without a condition: %+v, %v", r, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if late := l.AppendAsync(ended, []byte("late"), ExpectLSN(42)); !errors.Is(late.NotTaken(), context.Canceled) {
		t.Errorf("not taken: %v", late.NotTaken())
	}
}

// TestExpectedWhileDraining: what a service refuses because it stops is sent again in
// its order, so expected LSNs that follow each other hold. Behind another refusal they
// do not, and the error says which that was.
func TestExpectedWhileDraining(t *testing.T) {
	f := newFake()
	f.log("orders")
	started := make(chan struct{})
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if len(m.Batches) > 0 {
			<-started
		}
		return served
	}
	stopped := false
	f.onBatch = func(_ string, b *wire.Batch) *walsvcv1.Refusal {
		switch {
		case strings.Contains(string(b.Run), "b") && !stopped:
			stopped = true
			return refusal(codes.Unavailable, "DRAINING")
		case strings.Contains(string(b.Run), "d"):
			return refusal(codes.FailedPrecondition, "FENCED")
		}
		return nil
	}
	l := f.serve(t, Options{}).Log("orders")
	futures := []*Future{own(t, l, 1, "a"), own(t, l, 2, "b"), own(t, l, 3, "c"), own(t, l, 4, "d"), own(t, l, 5, "e")}
	close(started)
	for i, future := range futures {
		r, err := future.Wait(t.Context())
		switch {
		case i < 3 && (err != nil || r.LSN != LSN(i+1)):
			t.Errorf("append %d: %+v, %v", i, r, err)
		case i >= 3 && !errors.Is(err, ErrFenced) || i == 4 && !errors.Is(err, ErrAfterRefusal):
			t.Errorf("append %d: %v", i, err)
		}
	}
	if got := f.contents("orders"); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %q", got)
	}
}

// TestForgottenProducer: a log that has forgotten its producer must not take it for a
// new one, whose batches begin at 1 again. The client hears of it, once, and goes on
// as another producer.
func TestForgottenProducer(t *testing.T) {
	f := newFake()
	f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	for range 3 {
		if _, err := l.Append(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	f.logs["orders"].producers = make(map[string]*fakeProducer) // it made way for very many
	f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal {
		return refusal(codes.FailedPrecondition, "NO_PRODUCER")
	}
	f.mu.Unlock()
	if _, err := l.Append(t.Context(), []byte("y")); !errors.Is(err, ErrNoProducer) {
		t.Fatalf("made way: %v", err)
	}
	f.mu.Lock()
	f.onBatch = nil
	f.mu.Unlock()
	if lsn, err := l.Append(t.Context(), []byte("y")); !errors.Is(err, ErrForgotten) {
		t.Errorf("forgotten: LSN %d, %v", lsn, err)
	}
	if lsn, err := l.Append(t.Context(), []byte("y")); err != nil || lsn != 4 {
		t.Errorf("as another producer: LSN %d, %v", lsn, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, p := range f.logs["orders"].producers {
		if p.last != 1 && p.last != 0 {
			t.Errorf("producer %s is at sequence %d", id, p.last)
		}
	}
}

// TestLargeRecords: a record that is too large to share a batch comes between those
// before and behind it, whichever way it is appended, and its bytes are the caller's again at once.
func TestLargeRecords(t *testing.T) {
	f := newFake()
	f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	large := bytes.Repeat([]byte("l"), 100_000)
	told := make(chan Receipt, 1)
	futures := []*Future{l.AppendAsync(t.Context(), []byte("1")), l.AppendAsync(t.Context(), large)}
	l.AppendAsyncFunc(t.Context(), large, func(r Receipt, err error) {
		if err != nil {
			t.Error(err)
		}
		told <- r
	})
	clear(large)
	futures = append(futures, l.AppendAsync(t.Context(), []byte("4")))
	for i, want := range []LSN{1, 2, 4} {
		if r, err := futures[i].Wait(t.Context()); err != nil || r.LSN != want {
			t.Errorf("append %d: LSN %d, %v; want %d", i, r.LSN, err, want)
		}
	}
	if r := <-told; r.LSN != 3 {
		t.Errorf("the function was told of LSN %d, want 3", r.LSN)
	}
	if lsn, err := l.Append(t.Context(), large); err != nil || lsn != 5 {
		t.Errorf("LSN %d, %v; want 5", lsn, err)
	}
	for lsn, size := range map[int]int{1: 1, 2: 100_000, 3: 100_000, 4: 1, 5: 100_000} {
		if got := f.logs["orders"].records[lsn-1]; len(got) != size || lsn < 5 && bytes.IndexByte(got, 0) >= 0 {
			t.Errorf("LSN %d has %d bytes, %.10q; want %d as they were", lsn, len(got), got, size)
		}
	}
}
