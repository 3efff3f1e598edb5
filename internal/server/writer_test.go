package server

import (
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestWriter(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	c := walsvcv1.NewAppendServiceClient(w.conn)
	s := w.open()
	producer := ulid.Make().String()
	if _, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer}); err != nil {
		t.Fatal(err)
	}
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l", Producer: producer, Epoch: 1})
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 1, Run: runOf("x")}}})
	s.verdicts(1)

	req := &walsvcv1.AcquireWriterRequest{Log: "l", Holder: "db-2", Request: ulid.Make().String(), Producer: producer}
	got, err := c.AcquireWriter(w.ctx, req)
	if err != nil || got.GetLog().GetEpoch() != 2 || got.GetLog().GetWriter() != "db-2" || got.GetLog().GetNextLsn() != 2 || got.GetLastSequence() != 1 || got.GetRepeated() {
		t.Fatalf("acquire: %v, %v", got, err)
	}
	if again, err := c.AcquireWriter(w.ctx, req); err != nil || again.GetLog().GetEpoch() != 2 || !again.GetRepeated() {
		t.Errorf("acquire again: %v, %v", again, err)
	}
	wantFigures := func(figures map[string]string) {
		t.Helper()
		if figures["log"] != "l" || figures["epoch"] != "1" || figures["current_epoch"] != "2" || figures["writer"] != "db-2" {
			t.Errorf("figures %v", figures)
		}
	}
	// On the stream that was there, and on one that comes back to ask.
	for _, s := range []*stream{s, w.open()} {
		s.bind(&walsvcv1.Bind{Binding: 2, Log: "l", Producer: producer, Epoch: 1})
		s.send(&wire.AppendRequest{Batches: []wire.Batch{
			{Binding: 2, Sequence: 1, Run: runOf("x")}, {Binding: 2, Sequence: 2, Run: runOf("y")}, {Binding: 2, Sequence: 3, Run: runOf("z")},
		}})
		v := s.verdicts(3)
		if !v[0].Repeated || v[0].First != 1 || v[1].Refusal.GetReason() != "FENCED" || v[2].Refusal.GetReason() != "AFTER_REFUSAL" {
			t.Errorf("verdicts %+v", v)
		}
		wantFigures(v[1].Refusal.GetMetadata())
	}
	_, err = c.Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Epoch: 1, Records: batchOf("late")})
	wantReason(t, err, codes.FailedPrecondition, "FENCED")
	wantFigures(figuresOf(err))
	_, err = c.Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("nobody's")})
	wantReason(t, err, codes.FailedPrecondition, "FENCED")

	one := uint64(1)
	for _, tc := range []struct {
		req    *walsvcv1.AcquireWriterRequest
		code   codes.Code
		reason string
	}{
		{&walsvcv1.AcquireWriterRequest{Log: "l"}, codes.InvalidArgument, "INVALID_NAME"},
		{&walsvcv1.AcquireWriterRequest{Log: "l", Holder: "a b"}, codes.InvalidArgument, "INVALID_NAME"},
		{&walsvcv1.AcquireWriterRequest{Log: "l", Holder: "a", Request: "me"}, codes.InvalidArgument, "INVALID"},
		{&walsvcv1.AcquireWriterRequest{Log: "l", Holder: "a", Producer: "me"}, codes.InvalidArgument, "INVALID"},
		{&walsvcv1.AcquireWriterRequest{Log: "nope", Holder: "a"}, codes.NotFound, "LOG_NOT_FOUND"},
		{&walsvcv1.AcquireWriterRequest{Log: "l", Holder: "a", ExpectedEpoch: &one}, codes.FailedPrecondition, "FENCED"},
	} {
		_, err := c.AcquireWriter(w.ctx, tc.req)
		wantReason(t, err, tc.code, tc.reason)
	}
	_, err = c.ReleaseWriter(w.ctx, &walsvcv1.ReleaseWriterRequest{Log: "l", Epoch: 1})
	wantReason(t, err, codes.FailedPrecondition, "FENCED")
	wantFigures(figuresOf(err))
	for range 2 {
		if got, err := c.ReleaseWriter(w.ctx, &walsvcv1.ReleaseWriterRequest{Log: "l", Epoch: 2}); err != nil || got.GetLog().GetEpoch() != 3 || got.GetLog().GetWriter() != "" {
			t.Errorf("release: %v, %v", got, err)
		}
	}
}

// figuresOf returns the metadata of a status.
func figuresOf(err error) map[string]string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetMetadata()
		}
	}
	return nil
}
