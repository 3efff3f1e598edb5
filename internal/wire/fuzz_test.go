package wire

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/allocs"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// The fuzz targets hold what is read against the generated code: what one takes
// the other takes, but for what package limits has bounds for, with the same
// fields, and what was read is read again from what it is written as. Memory is
// in proportion to the message, whatever lengths are in it. Records are not
// looked into here, so the two may differ on a run that is none: the engine
// refuses those.

// decoded reads b into m twice: whole, where its memory is counted, and in
// pieces. It reports whether m was read and its runs are runs; then stock was
// read, too.
func decoded(t *testing.T, b []byte, m message, stock proto.Message) bool {
	t.Helper()
	// A message of two bytes may stand for a few structs of a hundred.
	allocs.AtMost(t, 64<<10+200*uint64(len(b)), func() { _ = m.unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}) })
	err := decode(t, b, 7, m)
	if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooMany) {
		t.Fatalf("an error of no kind: %v", err)
	}
	if err == nil && !runsAreRuns(m) {
		return false
	}
	want := proto.Unmarshal(b, stock)
	switch {
	case err == nil && want != nil:
		t.Fatalf("accepted what the generated code refuses: %v", want)
	case errors.Is(err, ErrMalformed) && want == nil:
		t.Fatalf("refused what the generated code accepts: %v", err)
	}
	known(stock)
	return err == nil
}

// runsAreRuns reports whether what should be records is.
func runsAreRuns(m message) bool {
	var runs [][]byte
	switch m := m.(type) {
	case *AppendRequest:
		for i := range m.Batches {
			runs = append(runs, m.Batches[i].Run)
			for _, p := range m.Batches[i].Parts {
				runs = append(runs, p.Run)
			}
		}
	case *ReplayResponse:
		runs = append(runs, m.Run)
	}
	for _, run := range runs {
		if _, err := records.Check(run, 0); err != nil {
			return false
		}
	}
	return true
}

func FuzzAppendRequest(f *testing.F) {
	for _, m := range []*walsvcv1.AppendStreamRequest{
		{},
		{Binds: []*walsvcv1.Bind{{Binding: 1, Log: "orders", Claim: &walsvcv1.Claim{Lsn: 7, LogChecksum: 9}}}},
		{Resets: []uint32{1, 300}},
		{WrittenAcks: true},
		{Batches: []*walsvcv1.Batch{{Binding: 1, Sequence: 2, ExpectedLsn: 3, Records: &walsvcv1.Records{Record: [][]byte{[]byte("a"), nil}}}}},
		{Batches: []*walsvcv1.Batch{{Binding: 1, Records: &walsvcv1.Records{Record: [][]byte{nil}}, Parts: []*walsvcv1.Part{
			{Binding: 2, ExpectedLsn: 7, Records: &walsvcv1.Records{Record: [][]byte{[]byte("b")}}}, {Binding: 3}}}}},
	} {
		f.Add(encode(f, m))
	}
	f.Add([]byte{0x1a, 0x0a, 0x22, 0x03, 0x0a, 0x01, 'a', 0x22, 0x03, 0x0a, 0x01, 'b'}) // records twice
	f.Add([]byte{0x7b, 0x08, 0x01, 0x7c, 0x10, 0x05, 0x12, 0x01, 0x06})                 // a group; resets loose and packed
	f.Add(batchOf(bytes.Repeat([]byte{0x22, 0x02, 0x0a, 0x00}, 5)))
	f.Add([]byte{0x1a, 0x80, 0x80, 0x80, 0x80, 0x0f}) // a length that is not there
	f.Fuzz(func(t *testing.T, b []byte) {
		var got AppendRequest
		var want, again walsvcv1.AppendStreamRequest
		if !decoded(t, b, &got, &want) {
			return
		}
		defer got.Release()
		equal(t, got.generated(t), &want)
		if err := proto.Unmarshal(encode(t, &got), &again); err != nil {
			t.Fatal(err)
		}
		equal(t, &again, &want)
	})
}

func FuzzAppendResponse(f *testing.F) {
	for _, m := range []*walsvcv1.AppendStreamResponse{
		{},
		{Credit: &walsvcv1.Credit{Bytes: 1 << 24, Batches: 8192}},
		{Bounds: []*walsvcv1.Bound{{Binding: 1, LastSequence: 9, Log: &walsvcv1.Log{Name: "orders", Epoch: 1}}}},
		{Verdicts: []*walsvcv1.Verdict{{Binding: 1, Sequence: 2, FirstLsn: 3, Count: 4, LogChecksum: 5, Epoch: 6, Repeated: true}}, Draining: true},
		{Verdicts: []*walsvcv1.Verdict{{Binding: 1, FirstLsn: 3, Parts: []*walsvcv1.PartVerdict{{FirstLsn: 7, Count: 1, LogChecksum: 8, Epoch: 9}, {}}}}},
		{Written: 300},
		{CommitTime: 1 << 60, Verdicts: []*walsvcv1.Verdict{{Binding: 1, CommitTime: 7}, {Binding: 1}}},
		{Verdicts: []*walsvcv1.Verdict{{Binding: 1, Refusal: &walsvcv1.Refusal{Code: 9, Reason: "FENCED", Metadata: map[string]string{"epoch": "2"}}}}},
	} {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got AppendResponse
		var want, again walsvcv1.AppendStreamResponse
		if !decoded(t, b, &got, &want) {
			return
		}
		equal(t, got.generated(), &want)
		if err := proto.Unmarshal(encode(t, &got), &again); err != nil {
			t.Fatal(err)
		}
		equal(t, &again, &want)
	})
}

func FuzzReplayResponse(f *testing.F) {
	for _, m := range []*walsvcv1.ReplayResponse{
		{},
		{DurableLsn: 12},
		{FirstLsn: 1, Count: 2, Records: &walsvcv1.Records{Record: [][]byte{[]byte("a"), []byte("b")}}},
		{FirstLsn: 1, Count: 2, Block: &walsvcv1.StoredBlock{Version: 1, Codec: 2, RawSize: 10, Checksum: 3, Stored: []byte("stored")}},
	} {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got ReplayResponse
		var want, again walsvcv1.ReplayResponse
		if !decoded(t, b, &got, &want) {
			return
		}
		equal(t, got.generated(t), &want)
		if got.HasBlock && len(got.Run) > 0 {
			if _, err := Codec().Marshal(&got); err == nil {
				t.Fatal("wrote a message with both records and a block")
			}
			return
		}
		if err := proto.Unmarshal(encode(t, &got), &again); err != nil {
			t.Fatal(err)
		}
		equal(t, &again, &want)
	})
}

// known drops the fields unknown to us on the levels that this package reads
// itself.
func known(m proto.Message) {
	m.ProtoReflect().SetUnknown(nil)
	switch m := m.(type) {
	case *walsvcv1.AppendStreamRequest:
		for _, b := range m.Batches {
			known(b)
		}
	case *walsvcv1.Batch:
		if m.Records != nil {
			known(m.Records)
		}
		for _, p := range m.Parts {
			known(p)
		}
	case *walsvcv1.Part:
		if m.Records != nil {
			known(m.Records)
		}
	case *walsvcv1.AppendStreamResponse:
		for _, v := range m.Verdicts {
			known(v)
			for _, p := range v.Parts {
				known(p)
			}
		}
	case *walsvcv1.ReplayResponse:
		if m.Block != nil {
			known(m.Block)
		}
		if m.Records != nil {
			known(m.Records)
		}
	}
}

// TestRecordsInManyPieces reads messages whose records come a record at a time:
// they take memory in proportion, and what lies behind a piece stays as it is.
func TestRecordsInManyPieces(t *testing.T) {
	const pieces = 4096
	var want []byte
	var batch, replay []byte
	for i := range pieces {
		one := records.Append(nil, []byte{byte(i)})
		want = append(want, one...)
		batch = append(appendLength(batch, batchRecords, len(one)), one...)
		replay = append(appendLength(replay, replayRecords, len(one)), one...)
	}
	for _, in := range []struct {
		bytes []byte
		to    message
		run   func(m message) []byte
	}{
		{batchOf(batch), new(AppendRequest), func(m message) []byte { return m.(*AppendRequest).Batches[0].Run }},
		{replay, new(ReplayResponse), func(m message) []byte { return m.(*ReplayResponse).Run }},
	} {
		before := bytes.Clone(in.bytes)
		var err error
		allocs.AtMost(t, 16*uint64(len(in.bytes)), func() { err = in.to.unmarshal(mem.BufferSlice{mem.SliceBuffer(in.bytes)}) })
		if err != nil || !bytes.Equal(in.run(in.to), want) {
			t.Errorf("%T: %d bytes of records, want %d; %v", in.to, len(in.run(in.to)), len(want), err)
		}
		if !bytes.Equal(in.bytes, before) {
			t.Errorf("%T: reading the message has changed it", in.to)
		}
	}
}

// batchOf returns a request of one batch.
func batchOf(b []byte) []byte { return append(appendLength(nil, requestBatches, len(b)), b...) }

func TestOtherMessagesGoThroughTheStockCodec(t *testing.T) {
	want := &walsvcv1.GetLogRequest{Name: "orders"}
	b := encode(t, want)
	plain, err := proto.Marshal(want)
	if err != nil || !bytes.Equal(b, plain) {
		t.Fatalf("%x, want %x (%v)", b, plain, err)
	}
	var got walsvcv1.GetLogRequest
	if err := decode(t, b, 3, &got); err != nil || !proto.Equal(&got, want) {
		t.Fatalf("%v, %v", &got, err)
	}
	if name := Codec().Name(); name != "proto" {
		t.Fatalf("name %q", name)
	}
	if err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, new(int)); err == nil {
		t.Fatal("read into an int")
	}
}
