package docstore

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what an operation does.
type Kind byte

// The kinds of operations; they are bytes in the log.
const (
	Put    Kind = 'P' // store Doc under Key
	Delete Kind = 'D' // remove Key, if it is there
)

// An Op is one operation, as a record of the log spells it:
//
//	kind     1 byte
//	session  uvarint
//	number   uvarint
//	key      uvarint length, bytes
//	doc      the rest; empty for Delete
type Op struct {
	Kind    Kind
	Session uint64 // who wrote it
	Number  uint64 // and as which of its operations on this shard, from 1
	Key     string
	Doc     []byte
}

// ErrOp is returned for a record that is no operation of this store.
var ErrOp = errors.New("malformed operation")

// AppendTo appends the operation's record to dst and returns the longer slice.
func (o Op) AppendTo(dst []byte) []byte {
	dst = append(dst, byte(o.Kind))
	dst = binary.AppendUvarint(dst, o.Session)
	dst = binary.AppendUvarint(dst, o.Number)
	dst = binary.AppendUvarint(dst, uint64(len(o.Key)))
	dst = append(dst, o.Key...)
	return append(dst, o.Doc...)
}

// ParseOp reads a record. Doc aliases it. It returns an error that Is ErrOp for
// anything that AppendTo does not write.
func ParseOp(record []byte) (Op, error) {
	p := parser{rest: record}
	op := Op{Kind: Kind(p.byte()), Session: p.uvarint(), Number: p.uvarint(), Key: string(p.bytes(p.uvarint()))}
	op.Doc = p.rest
	switch {
	case p.bad:
		return Op{}, fmt.Errorf("%w: it ends early", ErrOp)
	case op.Kind != Put && op.Kind != Delete:
		return Op{}, fmt.Errorf("%w: unknown kind %#02x", ErrOp, byte(op.Kind))
	case op.Kind == Delete && len(op.Doc) > 0:
		return Op{}, fmt.Errorf("%w: a delete with a document", ErrOp)
	}
	return op, nil
}

// A parser takes fields off the front of bytes. After the first field that is
// not there it is bad, and every field is zero.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) byte() byte {
	if b := p.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 || n > 1 && p.rest[n-1] == 0 || p.bad { // minimal: a record has one spelling
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

// bytes takes n bytes, which alias what is parsed.
func (p *parser) bytes(n uint64) []byte {
	if n > uint64(len(p.rest)) || p.bad {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}
