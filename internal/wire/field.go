package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/records"
)

// ErrMalformed is returned for bytes that are not the message.
var ErrMalformed = errors.New("malformed message")

// ErrTooMany is returned for a message with more parts than package limits allows.
var ErrTooMany = errors.New("too many parts in one message")

// A field is one field as it lies in a message.
type field struct {
	number protowire.Number
	typ    protowire.Type
	value  uint64 // of a varint or a fixed field
	bytes  []byte // of a length-delimited field; aliases the message
}

// next takes the first field off a message. Groups, which only fields unknown
// to us can be, are skipped whole.
func next(b []byte, f *field) (rest []byte, err error) {
	tag, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return nil, malformed("tag", n)
	}
	number := tag >> 3
	if number < uint64(protowire.MinValidNumber) || number > uint64(protowire.MaxValidNumber) {
		return nil, fmt.Errorf("%w: field number %d", ErrMalformed, number)
	}
	b = b[n:]
	f.number, f.typ = protowire.Number(number), protowire.Type(tag&7)
	switch f.typ {
	case protowire.VarintType:
		f.value, n = protowire.ConsumeVarint(b)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(b)
		f.value = uint64(v)
	case protowire.Fixed64Type:
		f.value, n = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	default:
		n = protowire.ConsumeFieldValue(f.number, f.typ, b)
	}
	if n < 0 {
		return nil, malformed(fmt.Sprintf("field %d", number), n)
	}
	return b[n:], nil
}

func malformed(what string, code int) error {
	return fmt.Errorf("%w: %s: %w", ErrMalformed, what, protowire.ParseError(code))
}

// is reports whether f is the field of that number and type. A known number
// with another type is a field unknown to us, as it is to the generated code.
func (f *field) is(number protowire.Number, typ protowire.Type) bool {
	return f.number == number && f.typ == typ
}

// A joint is how a run that comes in several pieces was put together so far.
type joint struct {
	copied bool // the run is memory of our own
	broken bool // one of the pieces is no run, and stands for all of them
}

// join returns the two runs as one. Two occurrences of one field of records are
// one run; nobody writes them so, and only then is a run copied: memory of our
// own is grown and not copied each time, or a message of many occurrences would
// take the square of its size. Each piece has to be a run by itself, or what two
// messages have no sense in could make some together; a piece that is none is
// returned alone, for the engine to refuse.
func join(run, more []byte, j *joint) []byte {
	switch {
	case j.broken:
		return run
	case len(run) == 0:
		return more
	case !j.copied:
		if j.broken = !isRun(run); j.broken {
			return run
		}
		run = run[:len(run):len(run)] // what lies behind it in the message is not ours to write
		j.copied = true
	}
	if j.broken = !isRun(more); j.broken {
		return more
	}
	return append(run, more...)
}

func isRun(b []byte) bool {
	_, err := records.Check(b, 0)
	return err == nil
}

// merge reads b into m, which it makes if it is nil.
func merge[M any, P interface {
	*M
	proto.Message
}](m *M, b []byte) (*M, error) {
	if m == nil {
		m = new(M)
	}
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(b, P(m)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

// appendUint appends a varint field, unless it is zero.
func appendUint(b []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

// appendFixed64 appends a fixed64 field, unless it is zero.
func appendFixed64(b []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.LittleEndian.AppendUint64(protowire.AppendTag(b, number, protowire.Fixed64Type), v)
}

// appendFixed32 appends a fixed32 field, unless it is zero.
func appendFixed32(b []byte, number protowire.Number, v uint32) []byte {
	if v == 0 {
		return b
	}
	return binary.LittleEndian.AppendUint32(protowire.AppendTag(b, number, protowire.Fixed32Type), v)
}

// appendBool appends a bool field, unless it is false.
func appendBool(b []byte, number protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return append(protowire.AppendTag(b, number, protowire.VarintType), 1)
}

// appendLength appends what precedes n bytes of a length-delimited field.
func appendLength(b []byte, number protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(n))
}

// appendMessage appends m as a field. size is proto.Size(m), just taken.
func appendMessage(b []byte, number protowire.Number, m proto.Message, size int) ([]byte, error) {
	b = appendLength(b, number, size)
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		return nil, fmt.Errorf("field %d: %w", number, err)
	}
	return b, nil
}

// sizeUint is the size of what appendUint appends. All our field numbers are
// below 16, so every tag takes one byte.
func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// sizeFixed64 is the size of what appendFixed64 appends.
func sizeFixed64(v uint64) int {
	if v == 0 {
		return 0
	}
	return 9
}

// sizeFixed32 is the size of what appendFixed32 appends.
func sizeFixed32(v uint32) int {
	if v == 0 {
		return 0
	}
	return 5
}

// sizeBool is the size of what appendBool appends.
func sizeBool(v bool) int {
	if !v {
		return 0
	}
	return 2
}

// sizeLength is the size of a length-delimited field of n bytes.
func sizeLength(n int) int { return 1 + protowire.SizeBytes(n) }
