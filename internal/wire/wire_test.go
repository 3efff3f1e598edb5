package wire

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// encode returns what Codec makes of m, and frees it as the transport would.
func encode(t testing.TB, m any) []byte {
	t.Helper()
	data, err := Codec().Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Free()
	return data.Materialize()
}

// arrive returns b as it comes from the transport: in pieces of at most n bytes.
func arrive(b []byte, n int) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > n {
		out = append(out, mem.Copy(b[:n], pool))
		b = b[n:]
	}
	return append(out, mem.Copy(b, pool))
}

// decode reads b into m, from pieces of n bytes that are freed and overwritten
// when the codec returns.
func decode(t testing.TB, b []byte, n int, m any) error {
	t.Helper()
	in := arrive(b, n)
	defer in.Free()
	return Codec().Unmarshal(in, m)
}

func run(rs [][]byte) []byte {
	var out []byte
	for _, r := range rs {
		out = records.Append(out, r)
	}
	return out
}

func split(t testing.TB, run []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for len(run) > 0 {
		r, rest, err := records.Next(run)
		if err != nil {
			t.Fatal(err)
		}
		out, run = append(out, bytes.Clone(r)), rest
	}
	return out
}

// The generators draw whole messages of the generated types, with fields at
// their edges more often than not.
var (
	someUint64 = rapid.OneOf(rapid.SampledFrom([]uint64{0, 1, 127, 128, math.MaxUint32, math.MaxUint64}), rapid.Uint64())
	someUint32 = rapid.OneOf(rapid.SampledFrom([]uint32{0, 1, 127, 128, math.MaxUint32}), rapid.Uint32())
	someText   = rapid.StringN(0, 20, 60)
	someRecord = rapid.Custom(func(t *rapid.T) []byte {
		size := rapid.OneOf(rapid.IntRange(0, 200), rapid.SampledFrom([]int{127, 128, inlineSize - 3, inlineSize, 20 << 10})).Draw(t, "size")
		return bytes.Repeat([]byte{byte(rapid.IntRange(0, 255).Draw(t, "fill"))}, size)
	})
	someRecords = rapid.Custom(func(t *rapid.T) *walsvcv1.Records {
		return &walsvcv1.Records{Record: rapid.SliceOfN(someRecord, 0, 4).Draw(t, "records")}
	})
	someRefusal = rapid.Custom(func(t *rapid.T) *walsvcv1.Refusal {
		return &walsvcv1.Refusal{
			Code: rapid.Int32().Draw(t, "code"), Reason: someText.Draw(t, "reason"), Message: someText.Draw(t, "message"),
			Metadata: rapid.MapOfN(someText, someText, 0, 3).Draw(t, "metadata"),
		}
	})
	somePart = rapid.Custom(func(t *rapid.T) *walsvcv1.Part {
		return &walsvcv1.Part{Binding: someUint32.Draw(t, "binding"), ExpectedLsn: someUint64.Draw(t, "expected"), Records: someRecords.Draw(t, "records")}
	})
	someRequest = rapid.Custom(func(t *rapid.T) *walsvcv1.AppendStreamRequest {
		return &walsvcv1.AppendStreamRequest{
			WrittenAcks: rapid.Bool().Draw(t, "written acks"),
			Binds: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *walsvcv1.Bind {
				return &walsvcv1.Bind{
					Binding: someUint32.Draw(t, "binding"), Log: someText.Draw(t, "log"), Producer: someText.Draw(t, "producer"),
					Claim: &walsvcv1.Claim{LogId: someText.Draw(t, "id"), Lsn: someUint64.Draw(t, "lsn"), LogChecksum: someUint32.Draw(t, "checksum")},
				}
			}), 0, 3).Draw(t, "binds"),
			Resets: rapid.SliceOfN(someUint32, 0, 4).Draw(t, "resets"),
			Batches: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *walsvcv1.Batch {
				return &walsvcv1.Batch{
					Binding: someUint32.Draw(t, "binding"), Sequence: someUint64.Draw(t, "sequence"),
					ExpectedLsn: someUint64.Draw(t, "expected"), Records: someRecords.Draw(t, "records"),
					Parts: rapid.SliceOfN(somePart, 0, 3).Draw(t, "parts"),
				}
			}), 0, 5).Draw(t, "batches"),
		}
	})
	someResponse = rapid.Custom(func(t *rapid.T) *walsvcv1.AppendStreamResponse {
		m := &walsvcv1.AppendStreamResponse{Draining: rapid.Bool().Draw(t, "draining"), Written: someUint64.Draw(t, "written"), CommitTime: someUint64.Draw(t, "time")}
		if rapid.Bool().Draw(t, "has credit") {
			m.Credit = &walsvcv1.Credit{Bytes: someUint64.Draw(t, "bytes"), Batches: someUint32.Draw(t, "batches")}
		}
		m.Bounds = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *walsvcv1.Bound {
			return &walsvcv1.Bound{Binding: someUint32.Draw(t, "binding"), LastSequence: someUint64.Draw(t, "last"), Refusal: someRefusal.Draw(t, "refusal")}
		}), 0, 2).Draw(t, "bounds")
		m.Verdicts = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *walsvcv1.Verdict {
			v := &walsvcv1.Verdict{
				Binding: someUint32.Draw(t, "binding"), Sequence: someUint64.Draw(t, "sequence"), FirstLsn: someUint64.Draw(t, "first"),
				Count: someUint32.Draw(t, "count"), LogChecksum: someUint32.Draw(t, "checksum"), Epoch: someUint64.Draw(t, "epoch"),
				Repeated: rapid.Bool().Draw(t, "repeated"), CommitTime: someUint64.Draw(t, "own time"),
			}
			if rapid.Bool().Draw(t, "refused") {
				v.Refusal = someRefusal.Draw(t, "refusal")
			}
			v.Parts = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *walsvcv1.PartVerdict {
				return &walsvcv1.PartVerdict{
					FirstLsn: someUint64.Draw(t, "first"), Count: someUint32.Draw(t, "count"), LogChecksum: someUint32.Draw(t, "checksum"), Epoch: someUint64.Draw(t, "epoch"),
				}
			}), 0, 3).Draw(t, "parts")
			return v
		}), 0, 6).Draw(t, "verdicts")
		return m
	})
	someReplay = rapid.Custom(func(t *rapid.T) *walsvcv1.ReplayResponse {
		m := &walsvcv1.ReplayResponse{FirstLsn: someUint64.Draw(t, "first"), Count: someUint32.Draw(t, "count"), DurableLsn: someUint64.Draw(t, "durable"), Epoch: someUint64.Draw(t, "epoch")}
		if rapid.Bool().Draw(t, "block") {
			m.Block = &walsvcv1.StoredBlock{
				Version: someUint32.Draw(t, "version"), Codec: someUint32.Draw(t, "codec"), RawSize: uint32(rapid.IntRange(0, limits.MaxBlockRawSize).Draw(t, "raw")),
				Checksum: someUint32.Draw(t, "checksum"), Stored: someRecord.Draw(t, "stored"),
			}
		} else {
			m.Records = someRecords.Draw(t, "records")
		}
		return m
	})
)

// The translations to the generated types are the dumb twins of the codec.

func (r *AppendRequest) generated(t testing.TB) *walsvcv1.AppendStreamRequest {
	m := &walsvcv1.AppendStreamRequest{Binds: r.Binds, Resets: r.Resets, WrittenAcks: r.WrittenAcks}
	for i := range r.Batches {
		b := &r.Batches[i]
		batch := &walsvcv1.Batch{
			Binding: b.Binding, Sequence: b.Sequence, ExpectedLsn: b.Expected, Records: &walsvcv1.Records{Record: split(t, b.Run)},
		}
		for _, p := range b.Parts {
			batch.Parts = append(batch.Parts, &walsvcv1.Part{Binding: p.Binding, ExpectedLsn: p.Expected, Records: &walsvcv1.Records{Record: split(t, p.Run)}})
		}
		m.Batches = append(m.Batches, batch)
	}
	return m
}

func (r *AppendResponse) generated() *walsvcv1.AppendStreamResponse {
	m := &walsvcv1.AppendStreamResponse{Credit: r.Credit, Bounds: r.Bounds, Draining: r.Draining, Written: r.Written, CommitTime: r.CommitTime}
	for i := range r.Verdicts {
		v := &r.Verdicts[i]
		verdict := &walsvcv1.Verdict{
			Binding: v.Binding, Sequence: v.Sequence, FirstLsn: v.First, Count: v.Count, LogChecksum: v.Checksum,
			Epoch: v.Epoch, Repeated: v.Repeated, Refusal: v.Refusal, CommitTime: v.CommitTime,
		}
		for _, p := range v.Parts {
			verdict.Parts = append(verdict.Parts, &walsvcv1.PartVerdict{FirstLsn: p.First, Count: p.Count, LogChecksum: p.Checksum, Epoch: p.Epoch})
		}
		m.Verdicts = append(m.Verdicts, verdict)
	}
	return m
}

func (r *ReplayResponse) generated(t testing.TB) *walsvcv1.ReplayResponse {
	m := &walsvcv1.ReplayResponse{FirstLsn: r.First, Count: r.Count, DurableLsn: r.Durable, Epoch: r.Epoch}
	if r.HasBlock {
		m.Block = &walsvcv1.StoredBlock{
			Version: r.Block.Version, Codec: r.Block.Codec, RawSize: r.Block.RawSize, Checksum: r.Block.Checksum, Stored: bytes.Clone(r.Block.Stored),
		}
	}
	if len(r.Run) > 0 || !r.HasBlock {
		m.Records = &walsvcv1.Records{Record: split(t, r.Run)}
	}
	return m
}

// normal gives every batch and answer its Records: an empty one is the same
// as none.
func normal[M proto.Message](m M) M {
	switch m := any(m).(type) {
	case *walsvcv1.AppendStreamRequest:
		for _, b := range m.Batches {
			if b.Records == nil {
				b.Records = &walsvcv1.Records{}
			}
			for _, p := range b.Parts {
				if p.Records == nil {
					p.Records = &walsvcv1.Records{}
				}
			}
		}
	case *walsvcv1.ReplayResponse:
		if m.Records == nil {
			m.Records = &walsvcv1.Records{}
		}
	}
	return m
}

func equal(t testing.TB, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(normal(got), normal(want)) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestRequestIsTheGeneratedOne(t *testing.T) {
	var in AppendRequest // reused: what an earlier message left must not show
	rapid.Check(t, func(r *rapid.T) {
		want := someRequest.Draw(r, "request")
		pieces := rapid.IntRange(1, 5000).Draw(r, "pieces")

		if err := decode(t, encode(t, want), pieces, &in); err != nil {
			t.Fatal(err)
		}
		equal(t, in.generated(t), want)
		in.Release()

		out := AppendRequest{Binds: want.Binds, Resets: want.Resets, WrittenAcks: want.WrittenAcks}
		var held []*Buffer
		for _, b := range want.Batches {
			batch := Batch{Binding: b.Binding, Sequence: b.Sequence, Expected: b.ExpectedLsn, Run: run(b.Records.GetRecord())}
			hold := func(run *[]byte, buffer **Buffer) {
				if !rapid.Bool().Draw(r, "by reference") {
					return
				}
				*buffer = NewBuffer(len(*run))
				(*buffer).Data = append((*buffer).Data, *run...)
				*run = (*buffer).Data
				held = append(held, *buffer)
			}
			hold(&batch.Run, &batch.Buffer)
			for _, p := range b.Parts {
				part := Part{Binding: p.Binding, Expected: p.ExpectedLsn, Run: run(p.Records.GetRecord())}
				hold(&part.Run, &part.Buffer)
				batch.Parts = append(batch.Parts, part)
			}
			out.Batches = append(out.Batches, batch)
		}
		var size int
		for i := range out.Batches {
			size += out.Batches[i].Size()
		}
		encoded := encode(t, &out)
		var got walsvcv1.AppendStreamRequest
		if err := decode(t, encoded, pieces, &got); err != nil {
			t.Fatal(err)
		}
		equal(t, &got, want)
		rest := proto.Size(&walsvcv1.AppendStreamRequest{Binds: want.Binds, Resets: want.Resets, WrittenAcks: want.WrittenAcks})
		if len(encoded) != size+rest {
			t.Fatalf("batches say %d bytes, they took %d", size, len(encoded)-rest)
		}
		for _, b := range held {
			if n := b.holders.Load(); n != 1 {
				t.Fatalf("buffer has %d holders after the transport is done, want 1", n)
			}
			b.Release()
		}
	})
}

func TestResponseIsTheGeneratedOne(t *testing.T) {
	var in AppendResponse
	rapid.Check(t, func(r *rapid.T) {
		want := someResponse.Draw(r, "response")
		pieces := rapid.IntRange(1, 500).Draw(r, "pieces")
		if err := decode(t, encode(t, want), pieces, &in); err != nil {
			t.Fatal(err)
		}
		equal(t, in.generated(), want)
		var got walsvcv1.AppendStreamResponse
		if err := decode(t, encode(t, &in), pieces, &got); err != nil {
			t.Fatal(err)
		}
		equal(t, &got, want)
	})
}

func TestReplayIsTheGeneratedOne(t *testing.T) {
	var in ReplayResponse
	rapid.Check(t, func(r *rapid.T) {
		want := someReplay.Draw(r, "response")
		pieces := rapid.IntRange(1, 5000).Draw(r, "pieces")
		if err := decode(t, encode(t, want), pieces, &in); err != nil {
			t.Fatal(err)
		}
		equal(t, in.generated(t), want)

		out := in
		if rapid.Bool().Draw(r, "by reference") {
			out.Buffer = NewBuffer(1)
			defer out.Buffer.Release()
		}
		var got walsvcv1.ReplayResponse
		if err := decode(t, encode(t, &out), pieces, &got); err != nil {
			t.Fatal(err)
		}
		equal(t, &got, want)
	})
}

func TestBoundsAreCheckedFirst(t *testing.T) {
	batches := func(n int) []byte { return bytes.Repeat([]byte{0x1a, 0x00}, n) }
	tests := []struct {
		name string
		in   []byte
		to   any
		want error
	}{
		{"as many batches as allowed", batches(limits.MaxBatchesPerMessage), new(AppendRequest), nil},
		{"a batch too many", batches(limits.MaxBatchesPerMessage + 1), new(AppendRequest), ErrTooMany},
		{"a bind too many", bytes.Repeat([]byte{0x0a, 0x00}, limits.MaxBindingsPerStream+1), new(AppendRequest), ErrTooMany},
		{"a reset too many", bytes.Repeat([]byte{0x10, 0x01}, limits.MaxBindingsPerStream+1), new(AppendRequest), ErrTooMany},
		{"a packed reset too many", appendPacked(limits.MaxBindingsPerStream + 1), new(AppendRequest), ErrTooMany},
		{"a run too large", appendRun(limits.MaxBatchSize + 1), new(AppendRequest), ErrTooMany},
		{"a run as large as allowed", appendRun(limits.MaxBatchSize), new(AppendRequest), nil},
		{"as many logs as allowed", batchOf(bytes.Repeat([]byte{0x2a, 0x00}, limits.MaxBatchLogs-1)), new(AppendRequest), nil},
		{"a log too many", batchOf(bytes.Repeat([]byte{0x2a, 0x00}, limits.MaxBatchLogs)), new(AppendRequest), ErrTooMany},
		{"a part's run too large", encodeBatch(Batch{Parts: []Part{{Run: make([]byte, limits.MaxBatchSize+1)}}}), new(AppendRequest), ErrTooMany},
		{"a part beyond the end", batchOf([]byte{0x2a, 0x05}), new(AppendRequest), ErrMalformed},
		{"a part too many in a verdict", append(appendLength(nil, responseVerdicts, 2*limits.MaxBatchLogs), bytes.Repeat([]byte{0x4a, 0x00}, limits.MaxBatchLogs)...), new(AppendResponse), ErrTooMany},
		{"a verdict too many", batches(limits.StreamCreditBatches + 1), new(AppendResponse), ErrTooMany},
		{"a bound too many", bytes.Repeat([]byte{0x12, 0x00}, limits.MaxBindingsPerStream+1), new(AppendResponse), ErrTooMany},
		{"a block that opens to too much", []byte{0x22, 0x05, 0x18, 0xff, 0xff, 0xff, 0x7f}, new(ReplayResponse), ErrTooMany},
		{"a length beyond the end", []byte{0x1a, 0x05, 0x22}, new(AppendRequest), ErrMalformed},
		{"field number zero", []byte{0x00, 0x00}, new(AppendRequest), ErrMalformed},
		{"a group that does not end", []byte{0x7b, 0x08}, new(AppendRequest), ErrMalformed},
		{"an end without a group", []byte{0x7c}, new(AppendResponse), ErrMalformed},
		{"wire type six", []byte{0x0e}, new(ReplayResponse), ErrMalformed},
		{"a bind that is none", []byte{0x0a, 0x01, 0x08}, new(AppendRequest), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := decode(t, tt.in, len(tt.in)+1, tt.to); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func appendPacked(n int) []byte {
	return append(appendLength(nil, requestResets, n), make([]byte, n)...)
}

func appendRun(n int) []byte {
	return encodeBatch(Batch{Binding: 1, Run: make([]byte, n)})
}

func encodeBatch(b Batch) []byte {
	out := append(b.appendHead(nil), b.Run...)
	for i := range b.Parts {
		out = append(b.Parts[i].appendHead(out), b.Parts[i].Run...)
	}
	return out
}

func TestRepeatedRecordsFieldsAreOneRun(t *testing.T) {
	one, two := run([][]byte{[]byte("one")}), run([][]byte{[]byte("two"), nil})
	var batch []byte
	for _, r := range [][]byte{one, two} {
		batch = append(appendLength(batch, batchRecords, len(r)), r...)
	}
	in := append(appendLength(nil, requestBatches, len(batch)), batch...)
	before := bytes.Clone(in)

	var got AppendRequest
	if err := decode(t, in, len(in), &got); err != nil {
		t.Fatal(err)
	}
	var want walsvcv1.AppendStreamRequest
	if err := proto.Unmarshal(in, &want); err != nil {
		t.Fatal(err)
	}
	equal(t, got.generated(t), &want)
	if !bytes.Equal(in, before) {
		t.Error("joining two runs wrote into the message")
	}
	got.Release()
}

// TestReplayedBytesStay: what a replay brought is its reader's, also when the
// transport has used its buffers again, and the message was read into again.
func TestReplayedBytesStay(t *testing.T) {
	want := run([][]byte{bytes.Repeat([]byte("r"), 5000)})
	for _, pieces := range []int{1, 3} {
		w := &watched{BufferPool: pool}
		var data mem.BufferSlice
		in := encode(t, &ReplayResponse{First: 1, Count: 1, Run: want})
		for piece := range slices.Chunk(in, (len(in)+pieces-1)/pieces) {
			b := w.Get(len(piece))
			copy(*b, piece)
			data = append(data, mem.NewBuffer(b, w))
		}
		var m ReplayResponse
		if err := Codec().Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		data.Free()
		got := m.Run
		if err := Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(encode(t, &ReplayResponse{First: 2}))}, &m); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("in %d pieces: the run changed", pieces)
		}
	}
}

// TestReadIntoMemory: a message is read into memory that it is given, if that is
// large enough, and only once.
func TestReadIntoMemory(t *testing.T) {
	want := run([][]byte{bytes.Repeat([]byte("r"), 5000)})
	in := encode(t, &ReplayResponse{First: 1, Count: 1, Run: want})
	for _, capacity := range []int{0, len(in) - 1, len(in), 2 * len(in)} {
		for _, pieces := range []int{1, 3} {
			var data mem.BufferSlice
			for piece := range slices.Chunk(in, (len(in)+pieces-1)/pieces) {
				data = append(data, mem.SliceBuffer(piece))
			}
			into := bytes.Repeat([]byte("x"), capacity)
			m := ReplayResponse{Into: into}
			if err := Codec().Unmarshal(data, &m); err != nil || !bytes.Equal(m.Run, want) {
				t.Fatalf("capacity %d, %d pieces: %v, a run of %d bytes", capacity, pieces, err, len(m.Run))
			}
			if inside := capacity >= len(in); inside != (capacity > 0 && &into[0] == &m.Memory[0]) || m.Into != nil {
				t.Errorf("capacity %d of %d, %d pieces: read into other memory than it should be", capacity, len(in), pieces)
			}
			if last := &m.Memory[len(m.Memory)-1]; last != &m.Run[len(m.Run)-1] {
				t.Errorf("capacity %d, %d pieces: the run does not lie in the memory", capacity, pieces)
			}
		}
	}
}

// watched is a pool whose lending is counted.
type watched struct {
	mem.BufferPool
	out int
}

func (w *watched) Get(n int) *[]byte { w.out++; return w.BufferPool.Get(n) }

func (w *watched) Put(b *[]byte) {
	w.out--
	for i := range *b {
		(*b)[i] = 0xdd
	}
	w.BufferPool.Put(b)
}

func TestMessageHoldsItsBufferUntilReleased(t *testing.T) {
	w := &watched{BufferPool: pool}
	record := bytes.Repeat([]byte("r"), 5000)
	in := encodeBatch(Batch{Binding: 1, Run: run([][]byte{record})})
	lent := func() mem.BufferSlice {
		b := w.Get(len(in))
		copy(*b, in)
		return mem.BufferSlice{mem.NewBuffer(b, w)}
	}

	var m AppendRequest
	data := lent()
	if err := Codec().Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	data.Free() // as the transport does when the codec returns
	if w.out != 1 {
		t.Fatalf("%d buffers out after reading, want the message's", w.out)
	}
	if got := split(t, m.Batches[0].Run); !bytes.Equal(got[0], record) {
		t.Fatal("the run changed when the transport freed its buffers")
	}
	run := m.Batches[0].Run
	m.Release()
	m.Release()
	if w.out != 0 {
		t.Fatalf("%d buffers out after Release, want 0", w.out)
	}
	if run[0] != 0xdd {
		t.Error("the run did not alias the message's buffer")
	}

	// Reading again releases what was held; so does a message that is refused.
	for _, cut := range []int{0, 0, 3} {
		data := lent()
		err := Codec().Unmarshal(mem.BufferSlice{data[0].Slice(0, len(in)-cut)}, &m)
		if (err != nil) != (cut > 0) {
			t.Fatalf("cut %d: %v", cut, err)
		}
		data.Free()
	}
	if len(m.Batches) != 0 {
		t.Error("a refused message left batches")
	}
}

func TestBufferPanicsWhenReleasedTwice(t *testing.T) {
	b := &Buffer{}
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	b.Release()
}

func TestReferenceOutlivesItsMaker(t *testing.T) {
	b := NewBuffer(64 << 10)
	b.Data = records.Append(b.Data, bytes.Repeat([]byte("x"), 50_000))
	want := bytes.Clone(b.Data)
	m := AppendRequest{Batches: []Batch{{Binding: 1, Run: b.Data, Buffer: b}}}
	sent, err := Codec().Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	if got := sent.Materialize(); !bytes.HasSuffix(got, want) {
		t.Fatal("the run changed under the transport")
	}
	if n := b.holders.Load(); n != 1 {
		t.Fatalf("%d holders, want the transport", n)
	}
	sent.Free()
	if b.Data != nil {
		t.Fatal("the bytes were not given back by the transport")
	}
}

func TestSteadyStateAllocations(t *testing.T) {
	refusals := AppendResponse{Verdicts: make([]Verdict, 1000)}
	for i := range refusals.Verdicts {
		refusals.Verdicts[i] = Verdict{Binding: 1, Sequence: uint64(i), First: uint64(i), Count: 1, Checksum: 7, Epoch: 1}
	}
	verdicts := encode(t, &refusals)
	batches := AppendRequest{Batches: make([]Batch, 1000)}
	for i := range batches.Batches {
		batches.Batches[i] = Batch{Binding: 1, Sequence: uint64(i), Run: run([][]byte{make([]byte, 100)})}
	}
	request := encode(t, &batches)

	var req AppendRequest
	var resp AppendResponse
	tests := []struct {
		name string
		most float64
		do   func() error
	}{
		{"read 1,000 batches", 4, func() error { return decode(t, request, len(request), &req) }},
		{"read 1,000 verdicts", 4, func() error { return decode(t, verdicts, len(verdicts), &resp) }},
		{"write 1,000 verdicts", 4, func() error {
			data, err := Codec().Marshal(&refusals)
			data.Free()
			return err
		}},
		{"write 1,000 batches", 4, func() error {
			data, err := Codec().Marshal(&batches)
			data.Free()
			return err
		}},
	}
	for _, tt := range tests {
		var err error
		if n := testing.AllocsPerRun(50, func() { err = errors.Join(err, tt.do()) }); n > tt.most || err != nil {
			t.Errorf("%s: %v allocations, want at most %v; error %v", tt.name, n, tt.most, err)
		}
	}
}
