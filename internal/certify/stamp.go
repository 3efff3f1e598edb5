package certify

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A stamp is what a block says of itself: who wrote it, and when.
//
//	offset  size  field
//	     0     8  magic
//	     8    16  run
//	    24     4  round
//	    28     4  kind
//	    32     8  place: a slot, or the generation of a file
//	    40     8  step
//	    48        noise made from all this, to the block's end but for
//	  4092     4  CRC-32C of what is before it
type stamp struct {
	run   ulid.ULID
	round uint32
	kind  uint32
	place uint64
	step  uint64
}

// The kinds of blocks.
const (
	kindBlock uint32 = iota + 1
	kindUnsynced
	kindFile
)

const (
	stampMagic = "walsvc.c"
	stampSize  = 48
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the block of a stamp, aligned for O_DIRECT.
func (s stamp) encode() []byte {
	b := disk.AlignedBuffer(limits.BlockSize)
	copy(b, stampMagic)
	copy(b[8:], s.run[:])
	binary.LittleEndian.PutUint32(b[24:], s.round)
	binary.LittleEndian.PutUint32(b[28:], s.kind)
	binary.LittleEndian.PutUint64(b[32:], s.place)
	binary.LittleEndian.PutUint64(b[40:], s.step)
	noise(b[stampSize:len(b)-4], s.run, uint64(s.kind), s.place, s.step)
	binary.LittleEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
	return b
}

// decode returns what a block says of itself, ok if it is whole. A block of
// another run, round, kind or place is whole and somebody else's: see is.
func decode(b []byte) (s stamp, ok bool) {
	if len(b) != limits.BlockSize || string(b[:8]) != stampMagic ||
		crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return stamp{}, false
	}
	copy(s.run[:], b[8:])
	s.round = binary.LittleEndian.Uint32(b[24:])
	s.kind = binary.LittleEndian.Uint32(b[28:])
	s.place = binary.LittleEndian.Uint64(b[32:])
	s.step = binary.LittleEndian.Uint64(b[40:])
	return s, true
}

// is reports whether s is a step of the lane and place that want is of.
func (s stamp) is(want stamp) bool {
	s.step = want.step
	return s == want
}

// noise fills b with bytes that depend on their origin and do not compress: a
// device that stores no repeats, or packs them, must not be spared the work.
func noise(b []byte, run ulid.ULID, of ...uint64) {
	var seed [32]byte
	copy(seed[:], run[:])
	for i, v := range of {
		at := seed[16+i*5:]
		at[0] ^= byte(v >> 32)
		binary.LittleEndian.PutUint32(at[1:], binary.LittleEndian.Uint32(at[1:])^uint32(v))
	}
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
}
