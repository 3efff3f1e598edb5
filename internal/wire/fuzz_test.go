package wire

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// The fuzz targets hold what is accepted against the generated code. Records
// are not looked into here, so the two may differ on a run that is none: the
// engine refuses those.

func FuzzAppendRequest(f *testing.F) {
	for _, m := range []*walsvcv1.AppendStreamRequest{
		{},
		{Binds: []*walsvcv1.Bind{{Binding: 1, Log: "orders", Claim: &walsvcv1.Claim{Lsn: 7, LogChecksum: 9}}}},
		{Resets: []uint32{1, 300}},
		{Batches: []*walsvcv1.Batch{{Binding: 1, Sequence: 2, ExpectedLsn: 3, Records: &walsvcv1.Records{Record: [][]byte{[]byte("a"), nil}}}}},
	} {
		f.Add(encode(f, m))
	}
	f.Add([]byte{0x1a, 0x0a, 0x22, 0x03, 0x0a, 0x01, 'a', 0x22, 0x03, 0x0a, 0x01, 'b'}) // records twice
	f.Add([]byte{0x7b, 0x08, 0x01, 0x7c, 0x10, 0x05, 0x12, 0x01, 0x06})                 // a group; resets loose and packed
	f.Fuzz(func(t *testing.T, b []byte) {
		var got AppendRequest
		if err := decode(t, b, 7, &got); err != nil {
			return
		}
		defer got.Release()
		for i := range got.Batches {
			if _, err := records.Check(got.Batches[i].Run, 0); err != nil {
				return
			}
		}
		var want, again walsvcv1.AppendStreamRequest
		if err := proto.Unmarshal(b, &want); err != nil {
			t.Fatalf("accepted what the generated code refuses: %v", err)
		}
		known(&want)
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
		{Verdicts: []*walsvcv1.Verdict{{Binding: 1, Refusal: &walsvcv1.Refusal{Code: 9, Reason: "FENCED", Metadata: map[string]string{"epoch": "2"}}}}},
	} {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got AppendResponse
		if err := decode(t, b, 7, &got); err != nil {
			return
		}
		var want, again walsvcv1.AppendStreamResponse
		if err := proto.Unmarshal(b, &want); err != nil {
			t.Fatalf("accepted what the generated code refuses: %v", err)
		}
		known(&want)
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
		if err := decode(t, b, 7, &got); err != nil {
			return
		}
		defer got.Release()
		if _, err := records.Check(got.Run, 0); err != nil {
			return
		}
		var want, again walsvcv1.ReplayResponse
		if err := proto.Unmarshal(b, &want); err != nil {
			t.Fatalf("accepted what the generated code refuses: %v", err)
		}
		known(&want)
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
	case *walsvcv1.AppendStreamResponse:
		for _, v := range m.Verdicts {
			known(v)
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
