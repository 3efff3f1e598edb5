package server

import (
	"cmp"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// TestResolve: a stream that was bound before its producer was resolved lands
// nothing more, nor does what states an older incarnation, or none.
func TestResolve(t *testing.T) {
	w := newWorld(t, Options{})
	l := w.create("l")
	c := walsvcv1.NewAppendServiceClient(w.conn)
	producer := ulid.Make().String()
	if _, err := c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "l", Producer: producer, Sequence: 1}); err == nil {
		t.Error("resolved for a producer that is not open")
	} else {
		wantReason(t, err, codes.FailedPrecondition, "NO_PRODUCER")
	}
	opened, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer})
	if err != nil || opened.GetIncarnation() != 1 {
		t.Fatalf("%v, %v", opened, err)
	}
	_, err = c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer, AcknowledgedSequence: 1})
	wantReason(t, err, codes.FailedPrecondition, "PRODUCER_FORGOTTEN")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l", Producer: producer})
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 1, Run: runOf("x", "y")}}})
	first := s.verdicts(1)[0]

	got, err := c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "l", Producer: producer, Sequence: 1})
	if err != nil || got.GetOutcome() != walsvcv1.Outcome_OUTCOME_COMMITTED || got.GetFirstLsn() != 1 || got.GetCount() != 2 || got.GetEpoch() != 1 ||
		got.GetLogChecksum() != first.Checksum || got.GetLastSequence() != 1 || got.GetIncarnation() != 2 || got.GetLog().GetId() != l.GetId() {
		t.Fatalf("%v, %v", got, err)
	}
	got, err = c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "l", Producer: producer, Sequence: 2})
	if err != nil || got.GetOutcome() != walsvcv1.Outcome_OUTCOME_NOT_WRITTEN || got.GetFirstLsn() != 0 || got.GetIncarnation() != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err := c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "l", Producer: producer, Sequence: 2, Epoch: 7}); err != nil || got.GetOutcome() != walsvcv1.Outcome_OUTCOME_FENCED {
		t.Fatalf("%v, %v", got, err)
	}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 2, Run: runOf("late")}}})
	if v := s.verdicts(1)[0]; v.Refusal.GetReason() != "SUPERSEDED" {
		t.Errorf("on the stream it had: %+v", v)
	}
	for _, incarnation := range []uint64{0, 3, 5} {
		if bound := s.bind(&walsvcv1.Bind{Binding: 2, Log: "l", Producer: producer, Incarnation: incarnation}); bound.GetRefusal().GetReason() != "SUPERSEDED" {
			t.Errorf("bound as incarnation %d: %v", incarnation, bound)
		}
		_, err := c.Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Producer: producer, Sequence: 2, Incarnation: incarnation, Records: batchOf("late")})
		wantReason(t, err, codes.FailedPrecondition, "SUPERSEDED")
	}
	if bound := s.bind(&walsvcv1.Bind{Binding: 2, Log: "l", Producer: producer, Incarnation: 4}); bound.GetRefusal() != nil || bound.GetLastSequence() != 1 {
		t.Errorf("bound: %v", bound)
	}
	if got, err := c.Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Producer: producer, Sequence: 2, Incarnation: 4, Records: batchOf("z")}); err != nil || got.GetFirstLsn() != 3 {
		t.Errorf("it goes on: %v, %v", got, err)
	}
	for _, req := range []*walsvcv1.ResolveRequest{{Log: "l", Producer: producer}, {Log: "l", Producer: "me", Sequence: 1}} {
		_, err := c.Resolve(w.ctx, req)
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
	_, err = c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "none", Producer: producer, Sequence: 1})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
}

func TestRetireProducer(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	c := walsvcv1.NewAppendServiceClient(w.conn)
	req := &walsvcv1.RetireProducerRequest{Log: "l", Producer: ulid.Make().String()}
	_, err := c.RetireProducer(w.ctx, req)
	wantReason(t, err, codes.FailedPrecondition, "NO_PRODUCER")
	if _, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: req.GetProducer()}); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l", Producer: req.GetProducer()})
	for range 2 {
		if _, err := c.RetireProducer(w.ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 1, Run: runOf("x")}}})
	if v := s.verdicts(1)[0]; v.Refusal.GetReason() != "PRODUCER_RETIRED" {
		t.Errorf("on the stream it has: %+v", v)
	}
	_, err = c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: req.GetProducer()})
	wantReason(t, err, codes.FailedPrecondition, "PRODUCER_RETIRED")
	if bound := s.bind(&walsvcv1.Bind{Binding: 2, Log: "l", Producer: req.GetProducer()}); bound.GetRefusal().GetReason() != "PRODUCER_RETIRED" {
		t.Errorf("bound again: %v", bound)
	}
	_, err = c.RetireProducer(w.ctx, &walsvcv1.RetireProducerRequest{Log: "l", Producer: "me"})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
}

func TestListProducers(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	c := walsvcv1.NewAppendServiceClient(w.conn)
	var want []*walsvcv1.Producer
	for range 5 {
		p := &walsvcv1.Producer{Id: ulid.Make().String(), Incarnation: 1}
		want = append(want, p)
		if _, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: p.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	for sequence := range uint64(2) {
		if _, err := c.Append(w.ctx, &walsvcv1.AppendRequest{
			Log: "l", Producer: want[2].GetId(), Sequence: sequence + 1, Incarnation: 1, Records: batchOf("x", "y"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	want[2].LastSequence, want[2].ActiveLsn = 2, 4
	if _, err := c.RetireProducer(w.ctx, &walsvcv1.RetireProducerRequest{Log: "l", Producer: want[1].GetId()}); err != nil {
		t.Fatal(err)
	}
	want[1].Retired = true
	if _, err := c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "l", Producer: want[4].GetId(), Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	want[4].Incarnation = 2
	slices.SortFunc(want, func(a, b *walsvcv1.Producer) int { return cmp.Compare(a.GetId(), b.GetId()) })
	for _, size := range []uint32{0, 1, 2, 5, 9} {
		var got []*walsvcv1.Producer
		req := &walsvcv1.ListProducersRequest{Log: "l", PageSize: size}
		for {
			page, err := c.ListProducers(w.ctx, req)
			if err != nil || size > 0 && len(page.GetProducers()) > int(size) {
				t.Fatalf("pages of %d: %v, %v", size, page, err)
			}
			got = append(got, page.GetProducers()...)
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if !slices.EqualFunc(got, want, func(a, b *walsvcv1.Producer) bool { return proto.Equal(a, b) }) {
			t.Errorf("pages of %d: got %v, want %v", size, got, want)
		}
	}
	_, err := c.ListProducers(w.ctx, &walsvcv1.ListProducersRequest{Log: "none"})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
	for _, token := range []string{"!", pageToken("me")} {
		_, err = c.ListProducers(w.ctx, &walsvcv1.ListProducersRequest{Log: "l", PageToken: token})
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
}
