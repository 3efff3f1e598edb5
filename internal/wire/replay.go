package wire

import (
	"bytes"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/walsvc/walsvc/internal/limits"
)

// Field numbers of ReplayResponse and StoredBlock.
const (
	replayFirst   protowire.Number = 1
	replayCount   protowire.Number = 2
	replayRecords protowire.Number = 3
	replayBlock   protowire.Number = 4
	replayDurable protowire.Number = 5
	replayEpoch   protowire.Number = 6

	blockVersion  protowire.Number = 1
	blockCodec    protowire.Number = 2
	blockRawSize  protowire.Number = 3
	blockChecksum protowire.Number = 4
	blockStored   protowire.Number = 5
)

// ReplayResponse is a ReplayResponse. The zero value is an empty message, ready
// to be read into or filled.
type ReplayResponse struct {
	First   uint64 // first_lsn
	Count   uint32 // 0 for a heartbeat
	Durable uint64 // durable_lsn
	Epoch   uint64 // 0 in a heartbeat
	// Run is the encoded Records, as package internal/records spells them, not
	// checked here; empty if HasBlock. In a message that was read it lies in Memory.
	Run []byte
	// HasBlock says that the message has Block.
	HasBlock bool
	Block    StoredBlock
	// Buffer is what Run or Block.Stored lies in, if it is to be sent by
	// reference; nil to copy, and in messages that were read.
	Buffer *Buffer
	// Memory is what a message that was read lies in. It is the reader's.
	Memory []byte
	// Into is memory for the next message that is read, which takes it or, if it has
	// not the capacity, other memory. Its content is lost. Nil, which it is after each
	// message, takes new memory, so that nothing is written over unasked.
	Into []byte
}

// StoredBlock is a StoredBlock.
type StoredBlock struct {
	Version  uint32
	Codec    uint32
	RawSize  uint32
	Checksum uint32
	Stored   []byte // lies where Run does
}

// unmarshal implements message. The bytes are copied once, into memory that is
// the caller's, and not into a buffer of the pool: those who replay keep them, and
// would have to copy them again. bytes.Join does not clear what it fills.
func (r *ReplayResponse) unmarshal(data mem.BufferSlice) error {
	memory := r.Into[:0]
	if n := data.Len(); n <= cap(memory) {
		for _, piece := range data {
			memory = append(memory, piece.ReadOnlyData()...)
		}
	} else {
		pieces := make([][]byte, len(data))
		for i, piece := range data {
			pieces[i] = piece.ReadOnlyData()
		}
		memory = bytes.Join(pieces, nil)
	}
	*r = ReplayResponse{}
	err := r.read(memory)
	if err != nil {
		*r = ReplayResponse{}
	}
	r.Memory = memory
	return err
}

func (r *ReplayResponse) read(b []byte) (err error) {
	var f field
	var pieces joint
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(replayFirst, protowire.VarintType):
			r.First = f.value
		case f.is(replayCount, protowire.VarintType):
			r.Count = uint32(f.value)
		case f.is(replayRecords, protowire.BytesType):
			r.Run = join(r.Run, f.bytes, &pieces)
		case f.is(replayBlock, protowire.BytesType):
			r.HasBlock = true
			if err := r.Block.read(f.bytes); err != nil {
				return fmt.Errorf("block: %w", err)
			}
		case f.is(replayDurable, protowire.VarintType):
			r.Durable = f.value
		case f.is(replayEpoch, protowire.VarintType):
			r.Epoch = f.value
		}
	}
	return nil
}

func (s *StoredBlock) read(b []byte) (err error) {
	var f field
	for len(b) > 0 {
		if b, err = next(b, &f); err != nil {
			return err
		}
		switch {
		case f.is(blockVersion, protowire.VarintType):
			s.Version = uint32(f.value)
		case f.is(blockCodec, protowire.VarintType):
			s.Codec = uint32(f.value)
		case f.is(blockRawSize, protowire.VarintType):
			if uint32(f.value) > limits.MaxBlockRawSize {
				return fmt.Errorf("%w: raw size %d is over %d", ErrTooMany, uint32(f.value), limits.MaxBlockRawSize)
			}
			s.RawSize = uint32(f.value)
		case f.is(blockChecksum, protowire.Fixed32Type):
			s.Checksum = uint32(f.value)
		case f.is(blockStored, protowire.BytesType):
			s.Stored = f.bytes
		}
	}
	return nil
}

// head is the size of the block without its bytes.
func (s *StoredBlock) head() int {
	n := sizeUint(uint64(s.Version)) + sizeUint(uint64(s.Codec)) + sizeUint(uint64(s.RawSize)) + sizeFixed32(s.Checksum)
	if len(s.Stored) > 0 {
		n += sizeLength(len(s.Stored)) - len(s.Stored)
	}
	return n
}

// marshal implements message. The order of the fields is theirs but for
// durable_lsn and epoch, which go first so that the records end the message: with a
// Buffer it is one buffer of fields and the records by reference.
func (r *ReplayResponse) marshal() (mem.BufferSlice, error) {
	if r.HasBlock && len(r.Run) > 0 {
		return nil, fmt.Errorf("replay from LSN %d: both records and a block", r.First)
	}
	payload := r.Run
	size := sizeUint(r.Durable) + sizeUint(r.Epoch) + sizeUint(r.First) + sizeUint(uint64(r.Count))
	switch {
	case r.HasBlock:
		payload = r.Block.Stored
		size += sizeLength(r.Block.head()+len(payload)) - len(payload)
	case len(payload) > 0:
		size += sizeLength(len(payload)) - len(payload)
	}
	reference := r.Buffer != nil && len(payload) > inlineSize
	if !reference {
		size += len(payload)
	}

	memory := pool.Get(size)
	b := (*memory)[:0]
	b = appendUint(b, replayDurable, r.Durable)
	b = appendUint(b, replayEpoch, r.Epoch)
	b = appendUint(b, replayFirst, r.First)
	b = appendUint(b, replayCount, uint64(r.Count))
	switch {
	case r.HasBlock:
		s := &r.Block
		b = appendLength(b, replayBlock, s.head()+len(payload))
		b = appendUint(b, blockVersion, uint64(s.Version))
		b = appendUint(b, blockCodec, uint64(s.Codec))
		b = appendUint(b, blockRawSize, uint64(s.RawSize))
		b = appendFixed32(b, blockChecksum, s.Checksum)
		if len(payload) > 0 {
			b = appendLength(b, blockStored, len(payload))
		}
	case len(payload) > 0:
		b = appendLength(b, replayRecords, len(payload))
	}
	if reference {
		*memory = b
		return mem.BufferSlice{mem.NewBuffer(memory, pool), r.Buffer.reference(payload)}, nil
	}
	*memory = append(b, payload...)
	return mem.BufferSlice{mem.NewBuffer(memory, pool)}, nil
}
