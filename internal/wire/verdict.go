package wire

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// Field numbers of AppendStreamResponse, Verdict and PartVerdict.
const (
	responseCredit   protowire.Number = 1
	responseBounds   protowire.Number = 2
	responseVerdicts protowire.Number = 3
	responseDraining protowire.Number = 4
	responseWritten  protowire.Number = 5
	responseTime     protowire.Number = 6

	verdictBinding  protowire.Number = 1
	verdictSequence protowire.Number = 2
	verdictFirst    protowire.Number = 3
	verdictCount    protowire.Number = 4
	verdictChecksum protowire.Number = 5
	verdictEpoch    protowire.Number = 6
	verdictRepeated protowire.Number = 7
	verdictRefusal  protowire.Number = 8
	verdictParts    protowire.Number = 9
	verdictTime     protowire.Number = 10

	partVerdictFirst    protowire.Number = 1
	partVerdictCount    protowire.Number = 2
	partVerdictChecksum protowire.Number = 3
	partVerdictEpoch    protowire.Number = 4
)

// AppendResponse is an AppendStreamResponse. It aliases nothing, so there is
// nothing to release.
type AppendResponse struct {
	Credit   *walsvcv1.Credit // nil but in the first message
	Bounds   []*walsvcv1.Bound
	Verdicts []Verdict
	Draining bool
	Written  uint64 // batches; 0 for nothing new
	// CommitTime is that of all verdicts that have none of their own.
	CommitTime uint64
}

// Verdict is a Verdict.
type Verdict struct {
	Binding  uint32
	Count    uint32
	Sequence uint64
	First    uint64 // first_lsn
	Epoch    uint64
	Checksum uint32 // log_checksum
	Repeated bool
	Refusal  *walsvcv1.Refusal // nil if appended
	Parts    []PartVerdict
	// CommitTime is 0 for that of the message.
	CommitTime uint64
}

// PartVerdict is a PartVerdict.
type PartVerdict struct {
	First    uint64 // first_lsn
	Epoch    uint64
	Count    uint32
	Checksum uint32 // log_checksum
}

// Reset empties the message for another one and keeps its capacity.
func (r *AppendResponse) Reset() {
	clear(r.Bounds)
	clear(r.Verdicts)
	*r = AppendResponse{Bounds: r.Bounds[:0], Verdicts: r.Verdicts[:0]}
}

// unmarshal implements message.
func (r *AppendResponse) unmarshal(data mem.BufferSlice) error {
	buffer := data.MaterializeToBuffer(pool)
	defer buffer.Free()
	r.Reset()
	if err := r.read(buffer.ReadOnlyData()); err != nil {
		r.Reset()
		return err
	}
	return nil
}

func (r *AppendResponse) read(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(responseVerdicts, protowire.BytesType):
			// A stream has no more out than its credit.
			if len(r.Verdicts) == limits.StreamCreditBatches {
				return fmt.Errorf("%w: over %d verdicts", ErrTooMany, limits.StreamCreditBatches)
			}
			r.Verdicts = append(r.Verdicts, Verdict{})
			if err := r.Verdicts[len(r.Verdicts)-1].read(f.bytes); err != nil {
				return fmt.Errorf("verdict %d: %w", len(r.Verdicts)-1, err)
			}
		case f.is(responseBounds, protowire.BytesType):
			if len(r.Bounds) == limits.MaxBindingsPerStream {
				return fmt.Errorf("%w: over %d bounds", ErrTooMany, limits.MaxBindingsPerStream)
			}
			bound, err := merge[walsvcv1.Bound](nil, f.bytes)
			if err != nil {
				return fmt.Errorf("bound %d: %w", len(r.Bounds), err)
			}
			r.Bounds = append(r.Bounds, bound)
		case f.is(responseCredit, protowire.BytesType):
			if r.Credit, err = merge(r.Credit, f.bytes); err != nil {
				return fmt.Errorf("credit: %w", err)
			}
		case f.is(responseDraining, protowire.VarintType):
			r.Draining = f.value != 0
		case f.is(responseWritten, protowire.VarintType):
			r.Written = f.value
		case f.is(responseTime, protowire.Fixed64Type):
			r.CommitTime = f.value
		}
	}
	return nil
}

func (v *Verdict) read(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(verdictBinding, protowire.VarintType):
			v.Binding = uint32(f.value)
		case f.is(verdictSequence, protowire.VarintType):
			v.Sequence = f.value
		case f.is(verdictFirst, protowire.VarintType):
			v.First = f.value
		case f.is(verdictCount, protowire.VarintType):
			v.Count = uint32(f.value)
		case f.is(verdictChecksum, protowire.Fixed32Type):
			v.Checksum = uint32(f.value)
		case f.is(verdictEpoch, protowire.VarintType):
			v.Epoch = f.value
		case f.is(verdictRepeated, protowire.VarintType):
			v.Repeated = f.value != 0
		case f.is(verdictRefusal, protowire.BytesType):
			if v.Refusal, err = merge(v.Refusal, f.bytes); err != nil {
				return fmt.Errorf("refusal: %w", err)
			}
		case f.is(verdictTime, protowire.Fixed64Type):
			v.CommitTime = f.value
		case f.is(verdictParts, protowire.BytesType):
			if len(v.Parts) == limits.MaxBatchLogs-1 {
				return fmt.Errorf("%w: over %d logs", ErrTooMany, limits.MaxBatchLogs)
			}
			v.Parts = append(v.Parts, PartVerdict{})
			if err := v.Parts[len(v.Parts)-1].read(f.bytes); err != nil {
				return fmt.Errorf("part %d: %w", len(v.Parts)-1, err)
			}
		}
	}
	return nil
}

func (p *PartVerdict) read(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(partVerdictFirst, protowire.VarintType):
			p.First = f.value
		case f.is(partVerdictCount, protowire.VarintType):
			p.Count = uint32(f.value)
		case f.is(partVerdictChecksum, protowire.Fixed32Type):
			p.Checksum = uint32(f.value)
		case f.is(partVerdictEpoch, protowire.VarintType):
			p.Epoch = f.value
		}
	}
	return nil
}

func (p *PartVerdict) size() int {
	return sizeUint(p.First) + sizeUint(uint64(p.Count)) + sizeFixed32(p.Checksum) + sizeUint(p.Epoch)
}

func (v *Verdict) size() int {
	n := sizeUint(uint64(v.Binding)) + sizeUint(v.Sequence) + sizeUint(v.First) + sizeUint(uint64(v.Count)) +
		sizeFixed32(v.Checksum) + sizeUint(v.Epoch) + sizeBool(v.Repeated) + sizeFixed64(v.CommitTime)
	if v.Refusal != nil {
		n += sizeLength(proto.Size(v.Refusal))
	}
	for i := range v.Parts {
		n += sizeLength(v.Parts[i].size())
	}
	return n
}

// marshal implements message: one buffer, whatever the number of verdicts.
func (r *AppendResponse) marshal() (mem.BufferSlice, error) {
	size := sizeBool(r.Draining) + sizeUint(r.Written) + sizeFixed64(r.CommitTime)
	if r.Credit != nil {
		size += sizeLength(proto.Size(r.Credit))
	}
	for _, bound := range r.Bounds {
		size += sizeLength(proto.Size(bound))
	}
	for i := range r.Verdicts {
		size += sizeLength(r.Verdicts[i].size())
	}
	memory := pool.Get(size)
	b, err := r.write((*memory)[:0])
	if err != nil {
		pool.Put(memory)
		return nil, err
	}
	*memory = b
	return mem.BufferSlice{mem.NewBuffer(memory, pool)}, nil
}

// write appends the message to b, which has room for it.
func (r *AppendResponse) write(b []byte) (_ []byte, err error) {
	if r.Credit != nil {
		if b, err = appendMessage(b, responseCredit, r.Credit, proto.Size(r.Credit)); err != nil {
			return nil, err
		}
	}
	for _, bound := range r.Bounds {
		if b, err = appendMessage(b, responseBounds, bound, proto.Size(bound)); err != nil {
			return nil, err
		}
	}
	for i := range r.Verdicts {
		v := &r.Verdicts[i]
		b = appendLength(b, responseVerdicts, v.size())
		b = appendUint(b, verdictBinding, uint64(v.Binding))
		b = appendUint(b, verdictSequence, v.Sequence)
		b = appendUint(b, verdictFirst, v.First)
		b = appendUint(b, verdictCount, uint64(v.Count))
		b = appendFixed32(b, verdictChecksum, v.Checksum)
		b = appendUint(b, verdictEpoch, v.Epoch)
		b = appendBool(b, verdictRepeated, v.Repeated)
		if v.Refusal != nil {
			if b, err = appendMessage(b, verdictRefusal, v.Refusal, proto.Size(v.Refusal)); err != nil {
				return nil, err
			}
		}
		b = appendFixed64(b, verdictTime, v.CommitTime)
		for i := range v.Parts {
			p := &v.Parts[i]
			b = appendLength(b, verdictParts, p.size())
			b = appendUint(b, partVerdictFirst, p.First)
			b = appendUint(b, partVerdictCount, uint64(p.Count))
			b = appendFixed32(b, partVerdictChecksum, p.Checksum)
			b = appendUint(b, partVerdictEpoch, p.Epoch)
		}
	}
	b = appendBool(b, responseDraining, r.Draining)
	b = appendUint(b, responseWritten, r.Written)
	return appendFixed64(b, responseTime, r.CommitTime), nil
}
