package client

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// at returns the first record of what a producer appended under a sequence, as Resolve
// would say where it is; "" if that is nowhere.
func (f *fake) at(u *UnknownError) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.logs {
		if p := l.producers[u.Producer.String()]; p != nil && p.was[u.Sequence].First != 0 {
			return string(l.records[p.was[u.Sequence].First-l.first])
		}
	}
	return ""
}

// TestWhatIsToBeAskedForStays: once a caller was told which sequence to ask for, that
// is its batch's or nobody's, whatever is refused, and the batch lands under no other.
func TestWhatIsToBeAskedForStays(t *testing.T) {
	large := strings.Repeat("x", fullMessage) // not held back behind another message
	for _, c := range []struct {
		name    string
		batches []string // each a message, or all in one if they are small
		reason  string   // with which those are refused that begin with "bad"
		asked   int      // whose caller does not wait for it
		breaks  bool     // the stream breaks behind the first verdict
		lands   bool     // it does, if its caller asks or not
	}{
		{name: "refused", batches: []string{"bad"}, reason: "QUOTA"},
		{name: "behind one that is refused", batches: []string{"bad", "a"}, reason: "QUOTA", asked: 1},
		{name: "in front of others", batches: []string{"bad", "b", "c"}, reason: "QUOTA"},
		{name: "in between", batches: []string{"bad", "a", "c"}, reason: "QUOTA", asked: 1},
		{name: "landed in front of one that is refused", batches: []string{"a", "bad", "c"}, reason: "QUOTA", lands: true},
		{name: "over the rate", batches: []string{"bad", "b"}, reason: "RATE_QUOTA", lands: true},
		{name: "behind one over the rate", batches: []string{"bad", "a"}, reason: "RATE_QUOTA", asked: 1, lands: true},
		{name: "superseded", batches: []string{"bad", "b"}, reason: "SUPERSEDED"},
		{name: "the stream breaks", batches: []string{"bad" + large, "a" + large}, reason: "QUOTA", asked: 1, breaks: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			f.log("orders")
			began, queued, sent, told := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
			refusing, messages := true, 0
			f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
				if len(m.Batches) == 0 || stream > 1 {
					return served
				}
				switch messages++; {
				case messages == 1:
					close(began)
					<-queued
				case messages == 2:
					close(sent)
					<-told
				case messages == 3 && c.breaks:
					return lostBefore
				}
				return served
			}
			f.onBatch = func(_ string, b *wire.Batch) *walsvcv1.Refusal {
				if !refusing || !strings.Contains(string(b.Run), "bad") {
					return nil
				}
				refusing = c.reason != "RATE_QUOTA" // it is once
				return refusal(codes.ResourceExhausted, c.reason)
			}
			l := f.serve(t, Options{}).Log("orders")
			futures := []*Future{own(t, l, 0, "first")}
			<-began
			for _, b := range c.batches {
				futures = append(futures, own(t, l, 0, b))
			}
			close(queued)
			<-sent
			over, cancel := context.WithCancel(t.Context())
			cancel()
			asked := futures[1+c.asked]
			var u *UnknownError
			for _, err := asked.Wait(over); ; _, err = asked.Wait(over) {
				if !errors.As(err, &u) {
					t.Fatalf("got %v, want that its outcome is unknown, and what to ask for", err)
				}
				if u.Sequence != 0 {
					break
				}
				runtime.Gosched() // it is not sent yet
			}
			close(told)
			_, err := asked.Wait(t.Context())
			if (err == nil) != c.lands || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("it ended with %v", err)
			}
			for i, b := range c.batches { // whose callers know nothing of all that
				if i == c.asked || strings.HasPrefix(b, "bad") || c.reason == "SUPERSEDED" {
					continue
				}
				if _, err := futures[1+i].Wait(t.Context()); err != nil {
					t.Errorf("%q, which nobody asks for, ended with %v", b, err)
				}
			}
			for range 5 { // who goes on has sequences as well
				if _, err := l.Append(t.Context(), []byte("later")); err != nil && !errors.Is(err, ErrAfterRefusal) {
					t.Fatal(err)
				}
			}
			record, landed := c.batches[c.asked], 0
			for _, r := range f.contents("orders") {
				if r == record {
					landed++
				}
			}
			got := f.at(u)
			if c.lands && (landed != 1 || got != record) || !c.lands && (landed != 0 || got != "") {
				t.Errorf("it landed %d times; who asks for it is told of %.10q", landed, got)
			}
		})
	}
}

// TestRefusedBeforeItIsKnown: what was sent on a stream that broke may have landed there,
// and a refusal that comes before that is looked for says nothing of it.
func TestRefusedBeforeItIsKnown(t *testing.T) {
	for _, reason := range []string{"SUPERSEDED", "NO_PRODUCER", "LOG_NOT_FOUND"} {
		t.Run(reason, func(t *testing.T) {
			f := newFake()
			f.log("orders")
			f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
				if stream == 1 && len(m.Batches) > 0 {
					return lostAfter
				}
				return served
			}
			refused := 0
			f.onVerdict = func(v *wire.Verdict) {
				if v.Repeated {
					refused++
					*v = wire.Verdict{Binding: v.Binding, Sequence: v.Sequence, Refusal: refusal(codes.FailedPrecondition, reason)}
				}
			}
			l := f.serve(t, Options{}).Log("orders")
			_, err := l.Append(t.Context(), []byte("landed"))
			var u *UnknownError
			if !errors.As(err, &u) || !errors.Is(err, byReason(reason).err) {
				t.Fatalf("got %v, want that its outcome is unknown, and why", err)
			}
			if got := f.at(u); got != "landed" || refused != 1 {
				t.Errorf("who asks for it is told of %q; refused %d times", got, refused)
			}
			if lsn, err := l.Append(t.Context(), []byte("later")); err != nil || lsn != 2 {
				t.Errorf("the log goes on: %d, %v", lsn, err)
			}
		})
	}
	// On the stream that it was sent on first, it says all there is.
	f := newFake()
	f.log("orders")
	f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal { return refusal(codes.FailedPrecondition, "SUPERSEDED") }
	if _, err := f.serve(t, Options{}).Log("orders").Append(t.Context(), nil); !errors.Is(err, ErrSuperseded) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("got %v, want that it was refused", err)
	}
}

// TestSettledAndNotTold: who gives up waiting for what is settled by then hears what
// became of it: its log may have gone on, as another producer.
func TestSettledAndNotTold(t *testing.T) {
	f := newFake()
	f.log("orders")
	queued := make(chan struct{})
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if len(m.Batches) > 0 {
			<-queued
			return unknownEnded
		}
		return served
	}
	l := f.serve(t, Options{}).Log("orders")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	var second *Future // settled with the first one, and told behind it
	heard := make(chan error, 1)
	l.AppendAsyncFunc(t.Context(), make([]byte, targetBatch), func(Receipt, error) {
		_, err := second.Wait(over)
		heard <- err
	})
	second = own(t, l, 0, "second")
	close(queued)
	var got, want *UnknownError
	if err := <-heard; !errors.As(err, &got) {
		t.Fatalf("got %v", err)
	}
	if _, err := second.Wait(t.Context()); !errors.As(err, &want) || *got != *want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestToldBeforeItIsSent: who stops waiting for what is not sent yet is told the sequence
// that it gets, and may ask for it as for any other.
func TestToldBeforeItIsSent(t *testing.T) {
	large := strings.Repeat("x", fullMessage) // not held back behind another message
	for _, c := range []struct {
		name     string
		out      []string // when it is queued behind "between"; QUOTA refuses those that begin with "bad"
		heard    bool     // the verdict on the first of them
		breaks   bool     // the stream breaks behind that
		sequence uint64   // that its caller is told
		lands    bool     // under it
	}{
		{name: "behind others", out: []string{"a"}, sequence: 3, lands: true},
		{name: "the stream breaks", out: []string{"a" + large, "b" + large}, heard: true, breaks: true, sequence: 4, lands: true},
		{name: "behind one that is refused then", out: []string{"bad"}, sequence: 3},
		{name: "behind one that was refused", out: []string{"bad" + large, "b" + large}, heard: true, sequence: 3, lands: true},
		{name: "and the stream breaks", out: []string{"bad" + large, "b" + large}, heard: true, breaks: true, sequence: 3, lands: true},
		{name: "behind another that is refused then", out: []string{"a" + large, "bad" + large}, heard: true, sequence: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			f.log("orders")
			last, told := make(chan struct{}), make(chan struct{})
			waited := false
			f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
				if waited || len(m.Batches) == 0 || !strings.Contains(string(m.Batches[0].Run), c.out[len(c.out)-1]) {
					return served
				}
				waited = true
				close(last)
				<-told
				if c.breaks {
					return lostBefore
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
			var futures []*Future
			for _, b := range c.out {
				futures = append(futures, own(t, l, 0, b))
			}
			<-last
			if c.heard {
				<-futures[0].Done()
			}
			between, asked, behind := own(t, l, 0, "between"), own(t, l, 0, "asked"), own(t, l, 0, "behind")
			over, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := asked.Wait(over)
			u, ok := errors.AsType[*UnknownError](err)
			if !ok || u.Sequence != c.sequence {
				t.Errorf("got %v, want sequence %d to ask for", err, c.sequence)
			}
			close(told)
			for _, future := range []*Future{between, behind} {
				if _, err := future.Wait(t.Context()); err != nil {
					t.Errorf("beside it: %v", err)
				}
			}
			_, err = asked.Wait(t.Context())
			if want := map[bool]string{true: "asked"}[c.lands]; (err == nil) != c.lands || f.at(u) != want {
				t.Errorf("it ended with %v, who asks for it is told of %q", err, f.at(u))
			}
		})
	}
}

// TestNoProducerSucceeds: behind a refusal that has a log go on as another producer, none
// is opened. What waits hears why, and in its order, as whoever appends meanwhile does.
func TestNoProducerSucceeds(t *testing.T) {
	for _, closed := range []bool{false, true} {
		f := newFake()
		f.log("orders")
		sent, told, opens := make(chan struct{}), make(chan struct{}), make(chan struct{})
		f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal {
			close(sent)
			<-told
			return refusal(codes.ResourceExhausted, "QUOTA")
		}
		c := f.serve(t, Options{})
		l := c.Log("orders")
		bad := own(t, l, 0, "bad")
		<-sent
		var heard []int
		for i := range 3 {
			l.AppendAsyncFunc(t.Context(), make([]byte, targetBatch), func(_ Receipt, err error) {
				if want := map[bool]error{false: ErrFull, true: ErrClosed}[closed]; !errors.Is(err, want) || errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("closed %v: got %v", closed, err)
				}
				heard = append(heard, i)
			})
		}
		last := own(t, l, 0, "last")
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := bad.Wait(over); !errors.Is(err, ErrUnknownOutcome) {
			t.Fatal(err)
		}
		f.onOpen = func() error { // with mu held
			if closed {
				go func() { _ = c.Close(over) }()
				<-c.ctx.Done()
			}
			close(opens)
			return failure(codes.ResourceExhausted, "FULL", "no room")
		}
		close(told)
		<-opens
		if _, err := last.Wait(t.Context()); err == nil || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("closed %v: got %v", closed, err)
		}
		if !slices.Equal(heard, []int{0, 1, 2}) {
			t.Errorf("closed %v: heard %v", closed, heard)
		}
		if closed {
			continue
		}
		f.mu.Lock()
		f.onOpen, f.onBatch = nil, nil
		f.mu.Unlock()
		if lsn, err := l.Append(t.Context(), []byte("later")); err != nil || lsn != 1 {
			t.Errorf("LSN %d, %v", lsn, err)
		}
	}
}
