package wire

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// Field numbers of AppendStreamRequest, Batch and Part.
const (
	requestBinds   protowire.Number = 1
	requestResets  protowire.Number = 2
	requestBatches protowire.Number = 3
	requestWritten protowire.Number = 4

	batchBinding  protowire.Number = 1
	batchSequence protowire.Number = 2
	batchExpected protowire.Number = 3
	batchRecords  protowire.Number = 4
	batchParts    protowire.Number = 5

	partBinding  protowire.Number = 1
	partExpected protowire.Number = 2
	partRecords  protowire.Number = 3
)

// AppendRequest is an AppendStreamRequest. The zero value is an empty message,
// ready to be read into or filled.
type AppendRequest struct {
	Binds   []*walsvcv1.Bind // copies: they outlive the message
	Resets  []uint32
	Batches []Batch
	// WrittenAcks asks for AppendResponse.Written.
	WrittenAcks bool

	buffer mem.Buffer // what was read and the runs alias; nil if nothing was
}

// Batch is a Batch of an AppendStreamRequest.
type Batch struct {
	Binding  uint32
	Sequence uint64
	Expected uint64 // expected_lsn
	// Run is the encoded Records, as package internal/records spells them: not
	// checked here. Valid until the message is released.
	Run []byte
	// Buffer is what Run lies in, if it is to be sent by reference; nil to copy,
	// and in messages that were read.
	Buffer *Buffer
	// Parts are what the batch appends to further logs.
	Parts []Part
}

// Part is a Part of a Batch. Its fields are as the batch's.
type Part struct {
	Binding  uint32
	Expected uint64
	Run      []byte
	Buffer   *Buffer
}

// Reset empties the message for another one and keeps its capacity. It releases
// what was read.
func (r *AppendRequest) Reset() {
	r.Release()
	clear(r.Binds)
	r.Binds, r.Resets, r.WrittenAcks = r.Binds[:0], r.Resets[:0], false
}

// Release gives back the buffer of a message that was read. Its batches are
// gone; binds and resets stay. Releasing twice is harmless.
func (r *AppendRequest) Release() {
	clear(r.Batches)
	r.Batches = r.Batches[:0]
	if r.buffer != nil {
		r.buffer.Free()
		r.buffer = nil
	}
}

// unmarshal implements message.
func (r *AppendRequest) unmarshal(data mem.BufferSlice) error {
	r.Reset()
	r.buffer = data.MaterializeToBuffer(pool)
	if err := r.read(r.buffer.ReadOnlyData()); err != nil {
		r.Reset()
		return err
	}
	return nil
}

func (r *AppendRequest) read(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(requestBatches, protowire.BytesType):
			if len(r.Batches) == limits.MaxBatchesPerMessage {
				return fmt.Errorf("%w: over %d batches", ErrTooMany, limits.MaxBatchesPerMessage)
			}
			r.Batches = append(r.Batches, Batch{})
			if err := r.Batches[len(r.Batches)-1].read(f.bytes); err != nil {
				return fmt.Errorf("batch %d: %w", len(r.Batches)-1, err)
			}
		case f.is(requestBinds, protowire.BytesType):
			if len(r.Binds) == limits.MaxBindingsPerStream {
				return fmt.Errorf("%w: over %d binds", ErrTooMany, limits.MaxBindingsPerStream)
			}
			bind, err := merge[walsvcv1.Bind](nil, f.bytes)
			if err != nil {
				return fmt.Errorf("bind %d: %w", len(r.Binds), err)
			}
			r.Binds = append(r.Binds, bind)
		case f.is(requestResets, protowire.VarintType):
			if err := r.reset(f.value); err != nil {
				return err
			}
		case f.is(requestResets, protowire.BytesType): // packed, as proto3 does
			for packed := f.bytes; len(packed) > 0; {
				v, n := protowire.ConsumeVarint(packed)
				if n < 0 {
					return malformed("resets", n)
				}
				if err := r.reset(v); err != nil {
					return err
				}
				packed = packed[n:]
			}
		case f.is(requestWritten, protowire.VarintType):
			r.WrittenAcks = f.value != 0
		}
	}
	return nil
}

func (r *AppendRequest) reset(v uint64) error {
	if len(r.Resets) == limits.MaxBindingsPerStream {
		return fmt.Errorf("%w: over %d resets", ErrTooMany, limits.MaxBindingsPerStream)
	}
	r.Resets = append(r.Resets, uint32(v))
	return nil
}

func (t *Batch) read(b []byte) (err error) {
	var f field
	var pieces joint
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(batchBinding, protowire.VarintType):
			t.Binding = uint32(f.value)
		case f.is(batchSequence, protowire.VarintType):
			t.Sequence = f.value
		case f.is(batchExpected, protowire.VarintType):
			t.Expected = f.value
		case f.is(batchRecords, protowire.BytesType):
			if t.Run, err = joinRun(t.Run, f.bytes, &pieces); err != nil {
				return err
			}
		case f.is(batchParts, protowire.BytesType):
			if len(t.Parts) == limits.MaxBatchLogs-1 {
				return fmt.Errorf("%w: over %d logs", ErrTooMany, limits.MaxBatchLogs)
			}
			t.Parts = append(t.Parts, Part{})
			if err := t.Parts[len(t.Parts)-1].read(f.bytes); err != nil {
				return fmt.Errorf("part %d: %w", len(t.Parts)-1, err)
			}
		}
	}
	return nil
}

func (p *Part) read(b []byte) (err error) {
	var f field
	var pieces joint
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(partBinding, protowire.VarintType):
			p.Binding = uint32(f.value)
		case f.is(partExpected, protowire.VarintType):
			p.Expected = f.value
		case f.is(partRecords, protowire.BytesType):
			if p.Run, err = joinRun(p.Run, f.bytes, &pieces); err != nil {
				return err
			}
		}
	}
	return nil
}

// joinRun is join within the bound of a run.
func joinRun(run, more []byte, pieces *joint) ([]byte, error) {
	if len(run)+len(more) > limits.MaxBatchSize {
		return nil, fmt.Errorf("%w: over %d bytes of records", ErrTooMany, limits.MaxBatchSize)
	}
	return join(run, more, pieces), nil
}

// body is the size of the batch without what precedes it in a message.
func (t *Batch) body() int {
	n := sizeUint(uint64(t.Binding)) + sizeUint(t.Sequence) + sizeUint(t.Expected) + sizeRun(t.Run)
	for i := range t.Parts {
		n += sizeLength(t.Parts[i].body())
	}
	return n
}

func (p *Part) body() int {
	return sizeUint(uint64(p.Binding)) + sizeUint(p.Expected) + sizeRun(p.Run)
}

// sizeRun is the size of a field of records, which is left out if there are none.
func sizeRun(run []byte) int {
	if len(run) == 0 {
		return 0
	}
	return sizeLength(len(run))
}

// Size returns the encoded size of the batch within a message, in bytes.
func (t *Batch) Size() int { return sizeLength(t.body()) }

// RunSize returns the size of the batch's records in all logs, in bytes.
func (t *Batch) RunSize() int {
	n := len(t.Run)
	for i := range t.Parts {
		n += len(t.Parts[i].Run)
	}
	return n
}

func byReference(run []byte, buffer *Buffer) bool { return buffer != nil && len(run) > inlineSize }

// marshal implements message. What is not sent by reference lies in one buffer,
// of which the message is views with the runs in between.
func (r *AppendRequest) marshal() (mem.BufferSlice, error) {
	size, pieces := sizeBool(r.WrittenAcks), 1
	for i := range r.Batches {
		t := &r.Batches[i]
		size += t.Size()
		if byReference(t.Run, t.Buffer) {
			size -= len(t.Run)
			pieces += 2
		}
		for k := range t.Parts {
			if p := &t.Parts[k]; byReference(p.Run, p.Buffer) {
				size -= len(p.Run)
				pieces += 2
			}
		}
	}
	var packed int
	for _, v := range r.Resets {
		packed += protowire.SizeVarint(uint64(v))
	}
	if packed > 0 {
		size += sizeLength(packed)
	}
	for _, bind := range r.Binds {
		size += sizeLength(proto.Size(bind))
	}

	memory := pool.Get(size)
	b := (*memory)[:0]
	var err error
	for _, bind := range r.Binds {
		// The size is taken again because a Bind may be in the message twice
		// over, and only the latest one is cached.
		if b, err = appendMessage(b, requestBinds, bind, proto.Size(bind)); err != nil {
			pool.Put(memory)
			return nil, err
		}
	}
	if packed > 0 {
		b = appendLength(b, requestResets, packed)
		for _, v := range r.Resets {
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	b = appendBool(b, requestWritten, r.WrittenAcks)
	if pieces == 1 {
		for i := range r.Batches {
			t := &r.Batches[i]
			b = append(t.appendHead(b), t.Run...)
			for k := range t.Parts {
				b = append(t.Parts[k].appendHead(b), t.Parts[k].Run...)
			}
		}
		*memory = b
		return mem.BufferSlice{mem.NewBuffer(memory, pool)}, nil
	}

	whole := mem.NewBuffer(memory, pool)
	out := make(mem.BufferSlice, 0, pieces)
	from := 0
	put := func(run []byte, buffer *Buffer) {
		if !byReference(run, buffer) {
			b = append(b, run...)
			return
		}
		out = append(out, whole.Slice(from, len(b)), buffer.reference(run))
		from = len(b)
	}
	for i := range r.Batches {
		t := &r.Batches[i]
		b = t.appendHead(b)
		put(t.Run, t.Buffer)
		for k := range t.Parts {
			p := &t.Parts[k]
			b = p.appendHead(b)
			put(p.Run, p.Buffer)
		}
	}
	if from < len(b) {
		out = append(out, whole.Slice(from, len(b)))
	}
	whole.Free() // the views hold it
	return out, nil
}

// appendHead appends what precedes the batch's run.
func (t *Batch) appendHead(b []byte) []byte {
	b = appendLength(b, requestBatches, t.body())
	b = appendUint(b, batchBinding, uint64(t.Binding))
	b = appendUint(b, batchSequence, t.Sequence)
	b = appendUint(b, batchExpected, t.Expected)
	if len(t.Run) > 0 {
		b = appendLength(b, batchRecords, len(t.Run))
	}
	return b
}

// appendHead appends what precedes the part's run.
func (p *Part) appendHead(b []byte) []byte {
	b = appendLength(b, batchParts, p.body())
	b = appendUint(b, partBinding, uint64(p.Binding))
	b = appendUint(b, partExpected, p.Expected)
	if len(p.Run) > 0 {
		b = appendLength(b, partRecords, len(p.Run))
	}
	return b
}
