package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/wire"
)

// TestGroupOfAService has a group outlive its service, a fenced log of its own, and
// an outcome that nobody heard.
func TestGroupOfAService(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	options := client.LogOptions{ColocationKey: "engine"}
	data, index := create(t, c, "data", options), create(t, c, "index", options)
	apart := create(t, c, "apart", client.LogOptions{})
	part := func(records ...string) (p client.Part) {
		for _, r := range records {
			p.Records = append(p.Records, []byte(r))
		}
		return p
	}
	group := func(logs ...*client.Log) *client.Group {
		t.Helper()
		g, err := c.Group(logs...)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := group(data, index)
	got, err := g.Append(ctx, part("1"), part("a", "b"))
	if err != nil || got[0].LSN != 1 || got[1].LSN != 1 || got[1].Through != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if info, err := index.Info(ctx); err != nil || info.Claim() != got[1].Claim() {
		t.Errorf("index is %+v, %v; acknowledged was %+v", info, err, got[1])
	}
	if _, err := group(data, apart).Append(ctx, part("never"), part("never")); !errors.Is(err, client.ErrNotColocated) {
		t.Errorf("logs that are not together: %v", err)
	}

	// The service goes away and comes back under what is pending.
	var futures []*client.GroupFuture
	for i := range 20 {
		futures = append(futures, g.AppendAsync(ctx, part(fmt.Sprint(i)), part(fmt.Sprint(i))))
		if i == 10 {
			if err := errors.Join(s.stop(), s.start()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, f := range futures {
		if got, err := f.Wait(ctx); err != nil || got[0].LSN != client.LSN(2+i) || got[1].LSN != client.LSN(3+i) {
			t.Fatalf("batch %d: %+v, %v", i, got, err)
		}
	}

	// Somebody else becomes the writer of one of its logs.
	other, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	if _, err := other.Log("index").AcquireWriter(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	_, err = g.Append(ctx, part("never"), part("never"))
	var refused *client.Error
	if !errors.Is(err, client.ErrFenced) || !errors.As(err, &refused) || refused.Metadata["log"] != "index" {
		t.Errorf("fenced on one log: %v", err)
	}
	if _, err := index.AcquireWriter(ctx, "engine"); err != nil {
		t.Fatal(err)
	}
	got, err = g.Append(ctx, part("22"), part("y", "z"))
	if err != nil || got[0].LSN != 22 || got[1].LSN != 23 || got[1].Epoch != 3 {
		t.Fatalf("in the epoch that its handle acquired: %+v, %v", got, err)
	}

	// Who wants to know is told when it is written.
	written, err := client.Open(ctx, s.socket(), client.Options{WrittenAcks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close(ctx)
	third, fourth := create(t, written, "third", options), create(t, written, "fourth", options)
	early, err := written.Group(third, fourth)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		f := early.AppendAsync(ctx, part("w"), part("w"))
		<-f.Written()
		if got, err := f.Wait(ctx); err != nil || got[1].LSN != client.LSN(1+i) {
			t.Fatalf("written, and then durable: %+v, %v", got, err)
		}
	}

	// What became of it, and of the next one.
	asked := 0
	for p, err := range data.Producers(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if p.LastSequence == 0 { // of the group that could not append
			continue
		}
		for i, want := range []client.Outcome{client.Committed, client.NotWritten} {
			r, err := g.Resolve(ctx, &client.UnknownError{Producer: p.ID, Sequence: p.LastSequence + uint64(i)})
			if err != nil || r.Outcome != want {
				t.Errorf("%d behind the last: %+v, %v", i, r, err)
			}
			if want == client.Committed && (r.Receipt.LSN != 22 || len(r.Parts) != 1 || r.Parts[0].LSN != 23 || r.Parts[0].Count != 2 || r.Parts[0].Claim() != got[1].Claim()) {
				t.Errorf("committed at %+v", r)
			}
			asked++
		}
	}
	if asked != 2 {
		t.Errorf("asked for %d batches", asked)
	}
	if got, err = g.Append(ctx, part("23")); err != nil || got[0].LSN != 23 || got[1] != (client.Receipt{}) {
		t.Errorf("as its next incarnation: %+v, %v", got, err)
	}
}

// A cut ends an append stream when batches go out on it, or when their verdicts come
// in, and lets no other one begin before somebody says so.
type cut struct {
	at     string // "sent" or "answered"; empty for none
	begins chan struct{}
	broke  chan struct{}
}

func (k *cut) option() grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		select {
		case <-k.begins:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		ctx, cancel := context.WithCancel(ctx)
		stream, err := next(ctx, d, cc, method, opts...)
		return &cutStream{stream, k, cancel}, err
	})
}

// breaks reports whether the stream breaks at a point, once.
func (k *cut) breaks(at string) bool {
	if k.at != at {
		return false
	}
	k.at, k.begins = "", make(chan struct{})
	close(k.broke)
	return true
}

type cutStream struct {
	grpc.ClientStream
	cut    *cut
	cancel func()
}

func (s *cutStream) SendMsg(m any) error {
	if req, ok := m.(*wire.AppendRequest); ok && len(req.Batches) > 0 && s.cut.breaks("sent") {
		s.cancel()
		return status.Error(codes.Unavailable, "cut before it was sent")
	}
	return s.ClientStream.SendMsg(m)
}

func (s *cutStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if resp, ok := m.(*wire.AppendResponse); ok && err == nil && len(resp.Verdicts) > 0 && s.cut.breaks("answered") {
		s.cancel()
		return status.Error(codes.Unavailable, "cut before it was heard")
	}
	if err != nil && s.Context().Err() != nil {
		return status.Error(codes.Unavailable, "cut")
	}
	return err
}

// TestGroupFencedBetweenStreams has a stream break under a batch, and one of its logs
// be in another epoch, or at its end, when the next stream begins: what became of the
// batch is told all the same, for the service knows.
func TestGroupFencedBetweenStreams(t *testing.T) {
	for _, at := range []string{"sent", "answered"} {
		for _, end := range []string{"data is acquired", "index is acquired", "index is sealed"} {
			t.Run(fmt.Sprintf("cut when %s, %s", at, end), func(t *testing.T) {
				ctx := t.Context()
				s, other := open(t)
				options := client.LogOptions{ColocationKey: "engine"}
				create(t, other, "data", options)
				create(t, other, "index", options)
				k := &cut{begins: make(chan struct{}), broke: make(chan struct{})}
				close(k.begins)
				c, err := client.Open(ctx, s.socket(), client.Options{Dial: []grpc.DialOption{k.option()}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(ctx)
				data, index := c.Log("data"), c.Log("index")
				for _, l := range []*client.Log{data, index} {
					if _, err := l.AcquireWriter(ctx, "one"); err != nil {
						t.Fatal(err)
					}
				}
				g, err := c.Group(data, index)
				if err != nil {
					t.Fatal(err)
				}
				record := client.Part{Records: [][]byte{[]byte("1")}}
				if _, err := g.Append(ctx, record, record); err != nil {
					t.Fatal(err)
				}
				k.at = at
				out := g.AppendAsync(ctx, record, record)
				<-k.broke
				want := client.ErrFenced
				switch end {
				case "data is acquired":
					_, err = other.Log("data").AcquireWriter(ctx, "two")
				case "index is acquired":
					_, err = other.Log("index").AcquireWriter(ctx, "two")
				case "index is sealed":
					want = client.ErrSealed
					_, err = other.Log("index").Seal(ctx)
				}
				if err != nil {
					t.Fatal(err)
				}
				close(k.begins)
				got, err := out.Wait(ctx)
				switch {
				case at == "answered":
					if err != nil || got[0].LSN != 2 || got[1].LSN != 2 || !got[0].Repeated {
						t.Errorf("what had landed: %+v, %v", got, err)
					}
				case !errors.Is(err, want) || errors.Is(err, client.ErrUnknownOutcome):
					t.Errorf("what had not: %v", err)
				}
				if _, err := g.Append(ctx, record, record); !errors.Is(err, want) {
					t.Errorf("the next one: %v", err)
				}
			})
		}
	}
}

// Every refusal of a batch says which log it is for: also the lead, and one that is not
// there, of which the service's figures say nothing.
func TestGroupSaysWhichLog(t *testing.T) {
	ctx := t.Context()
	_, c := open(t)
	lead := create(t, c, "lead", client.LogOptions{ColocationKey: "engine", QuotaBytes: 100})
	index := create(t, c, "index", client.LogOptions{ColocationKey: "engine", QuotaBytes: 100})
	large, small := client.Part{Records: [][]byte{make([]byte, 200)}}, client.Part{Records: [][]byte{{}}}
	for _, tt := range []struct {
		name  string
		logs  []*client.Log
		parts []client.Part
		err   error
		log   string
	}{
		{"the lead is over its quota", []*client.Log{lead, index}, []client.Part{large, small}, client.ErrQuota, "lead"},
		{"a part's log is", []*client.Log{lead, index}, []client.Part{small, large}, client.ErrQuota, "index"},
		{"there is no such log", []*client.Log{lead, c.Log("nobody's")}, []client.Part{small, small}, client.ErrInvalidName, "nobody's"},
		{"nor such a one", []*client.Log{lead, c.Log("missing")}, []client.Part{small, small}, client.ErrLogNotFound, "missing"},
	} {
		g, err := c.Group(tt.logs...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.Append(ctx, tt.parts...)
		if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v", tt.name, err)
		} else if e.Metadata["log"] != tt.log {
			t.Errorf("%s: %v is said to be for %q", tt.name, err, e.Metadata["log"])
		}
	}
}
