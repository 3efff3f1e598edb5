package server

import (
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// createTogether creates logs that may be in one batch.
func (w *world) createTogether(names ...string) {
	w.t.Helper()
	for _, name := range names {
		req := &walsvcv1.CreateLogRequest{Name: name, Options: &walsvcv1.LogOptions{ColocationKey: "engine"}}
		if _, err := walsvcv1.NewLogServiceClient(w.conn).CreateLog(w.ctx, req); err != nil {
			w.t.Fatal(err)
		}
	}
}

func part(binding uint32, records ...string) wire.Part {
	return wire.Part{Binding: binding, Run: runOf(records...)}
}

// TestStreamParts is a stream of batches over several logs: what lands, what is
// refused and what that stops, also where the service refuses by itself.
func TestStreamParts(t *testing.T) {
	w := newWorld(t, Options{})
	w.createTogether("data", "index")
	w.create("apart")
	producer := ulid.Make().String()
	c := walsvcv1.NewAppendServiceClient(w.conn)
	if _, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "data", Producer: producer}); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "data", Producer: producer, Incarnation: 1})
	s.bind(&walsvcv1.Bind{Binding: 2, Log: "index"})
	s.bind(&walsvcv1.Bind{Binding: 3, Log: "apart"})
	s.bind(&walsvcv1.Bind{Binding: 4, Log: "gone"}) // refused
	first := wire.Batch{Binding: 1, Sequence: 1, Run: runOf("a"), Parts: []wire.Part{part(2, "x", "y")}}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{
		first,
		first,
		{Binding: 2, Run: runOf("z")},
		{Binding: 1, Sequence: 2, Run: runOf("never"), Parts: []wire.Part{part(3, "never")}},
		{Binding: 1, Sequence: 2, Run: runOf("never")},
		{Binding: 3, Run: runOf("never")},
		{Binding: 2, Run: runOf("zz")}, // not in that batch
	}})
	got := s.verdicts(7)
	for i, reason := range []string{"", "", "", "NOT_COLOCATED", "AFTER_REFUSAL", "AFTER_REFUSAL", ""} {
		if got[i].Refusal.GetReason() != reason {
			t.Errorf("verdict %d: %+v, want %q", i, got[i], reason)
		}
	}
	if r := got[3].Refusal; r.GetCode() != int32(codes.FailedPrecondition) || r.GetMetadata()["log"] != "apart" || got[3].Parts != nil {
		t.Errorf("the refusal: %+v", got[3])
	}
	if got[0].First != 1 || got[0].Repeated || len(got[0].Parts) != 1 || got[0].Parts[0].First != 1 || got[0].Parts[0].Count != 2 || got[0].Parts[0].Epoch != 1 || got[0].Parts[0].Checksum == 0 {
		t.Errorf("over two logs: %+v", got[0])
	}
	if !got[1].Repeated || !slices.Equal(got[1].Parts, got[0].Parts) {
		t.Errorf("repeated: %+v, want %+v", got[1], got[0])
	}

	// Where a binding is not open, the service refuses, and the others stop behind
	// what came before.
	for _, tc := range []struct {
		name, reason string
		batch        wire.Batch
		stopped      []string // of what follows on 1, 2 and 3
	}{
		{"a part behind a refused bind", "AFTER_REFUSAL", wire.Batch{Binding: 1, Sequence: 3, Run: runOf("never"), Parts: []wire.Part{part(2, "never"), part(4, "never")}}, []string{"AFTER_REFUSAL", "AFTER_REFUSAL", ""}},
		{"a part that nobody bound", "INVALID", wire.Batch{Binding: 1, Sequence: 4, Run: runOf("never"), Parts: []wire.Part{part(5, "never")}}, []string{"AFTER_REFUSAL", "", ""}},
		{"a lead that nobody bound", "INVALID", wire.Batch{Binding: 5, Run: runOf("never"), Parts: []wire.Part{part(2, "never"), part(3, "never")}}, []string{"", "AFTER_REFUSAL", "AFTER_REFUSAL"}},
	} {
		s.send(&wire.AppendRequest{Resets: []uint32{1, 2, 3}})
		next := w.log("data").GetNextLsn() // is its sequence, too: each batch has one record
		s.send(&wire.AppendRequest{Batches: []wire.Batch{
			{Binding: 1, Sequence: next, Run: runOf("b")},
			tc.batch,
			{Binding: 1, Sequence: next + 1, Run: runOf("b")},
			{Binding: 2, Run: runOf("b")},
			{Binding: 3, Run: runOf("b")},
		}})
		got := s.verdicts(5)
		var reasons []string
		for _, v := range got {
			reasons = append(reasons, v.Refusal.GetReason())
		}
		if want := append([]string{"", tc.reason}, tc.stopped...); !slices.Equal(reasons, want) {
			t.Errorf("%s: %q, want %q", tc.name, reasons, want)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.end(); err != nil {
		t.Error(err)
	}
}

// TestRefusalsOfAWholeCreditFitAMessage: they come together when the batches were
// behind one frame, and the longest text there is quotes two names and two keys.
func TestRefusalsOfAWholeCreditFitAMessage(t *testing.T) {
	w := newWorld(t, Options{})
	s := w.open()
	for i, c := range []string{"a", "b"} {
		name := strings.Repeat(c, limits.MaxLogNameBytes)
		options := &walsvcv1.LogOptions{ColocationKey: strings.Repeat(string(rune(i)), limits.MaxLabelBytes)}
		if _, err := walsvcv1.NewLogServiceClient(w.conn).CreateLog(w.ctx, &walsvcv1.CreateLogRequest{Name: name, Options: options}); err != nil {
			t.Fatal(err)
		}
		s.bind(&walsvcv1.Bind{Binding: uint32(1 + i), Log: name})
	}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("a"), Parts: []wire.Part{part(2, "b")}}}})
	refused := s.verdicts(1)
	if reason := refused[0].Refusal.GetReason(); reason != "NOT_COLOCATED" {
		t.Fatalf("%+v", refused[0])
	}
	whole, err := wire.Codec().Marshal(&wire.AppendResponse{Verdicts: slices.Repeat(refused, limits.StreamCreditBatches)})
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Free()
	if n := whole.Len(); n > limits.MaxMessageSize {
		t.Errorf("%d bytes, the limit is %d", n, limits.MaxMessageSize)
	}
}

// TestUnaryParts appends to several logs by name, and resolves it.
func TestUnaryParts(t *testing.T) {
	w := newWorld(t, Options{})
	w.createTogether("data", "index")
	c := walsvcv1.NewAppendServiceClient(w.conn)
	producer := ulid.Make().String()
	if _, err := c.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "data", Producer: producer}); err != nil {
		t.Fatal(err)
	}
	req := &walsvcv1.AppendRequest{Log: "data", Producer: producer, Sequence: 1, Records: batchOf("a"), Parts: []*walsvcv1.LogPart{
		{Log: "index", ExpectedLsn: 1, Epoch: 1, Records: batchOf("x", "y")},
	}}
	first, err := c.Append(w.ctx, req)
	if err != nil || first.GetFirstLsn() != 1 || len(first.GetParts()) != 1 {
		t.Fatalf("%v, %v", first, err)
	}
	if p := first.GetParts()[0]; p.GetLog() != "index" || p.GetLogId() != w.log("index").GetId() || p.GetFirstLsn() != 1 || p.GetCount() != 2 || p.GetEpoch() != 1 ||
		p.GetLogChecksum() != w.log("index").GetLogChecksum() {
		t.Errorf("the part: %v", p)
	}
	again, err := c.Append(w.ctx, req)
	if err != nil || !again.GetRepeated() || again.GetParts()[0].String() != first.GetParts()[0].String() {
		t.Errorf("repeated: %v, %v", again, err)
	}
	resolved, err := c.Resolve(w.ctx, &walsvcv1.ResolveRequest{Log: "data", Producer: producer, Sequence: 1})
	if err != nil || resolved.GetOutcome() != walsvcv1.Outcome_OUTCOME_COMMITTED || resolved.GetParts()[0].String() != first.GetParts()[0].String() {
		t.Errorf("resolved: %v, %v", resolved, err)
	}
	req.Sequence, req.Incarnation = 2, 2
	_, err = c.Append(w.ctx, req)
	wantReason(t, err, codes.Aborted, "LSN_MISMATCH")
	req.Parts = slices.Repeat([]*walsvcv1.LogPart{{Log: "index"}}, limits.MaxBatchLogs)
	_, err = c.Append(w.ctx, req)
	wantReason(t, err, codes.InvalidArgument, "TOO_LARGE")
	req.Parts = []*walsvcv1.LogPart{{Log: "index", Records: &walsvcv1.Records{Record: slices.Repeat([][]byte{make([]byte, limits.MaxBatchSize/4)}, 4)}}}
	_, err = c.Append(w.ctx, req)
	wantReason(t, err, codes.InvalidArgument, "TOO_LARGE")
}
