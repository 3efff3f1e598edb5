package wal

import "hash/crc32"

// The checksum behind a batch, the batch's own and its size tell the checksum before
// it: a CRC is linear, and so is what shifting it by some bytes does, which can be
// undone. A batch proves where it begins by itself, also if nothing before it is kept.
//
// Polynomials are bit-reversed, as CRC-32C spells them: the highest bit is the
// coefficient of 1.

const (
	polyOne = 1 << 31
	// polyUnshift undoes a shift by one bit: times x it is polyOne.
	polyUnshift = (polyOne^crc32.Castagnoli)<<1 | 1
)

// polyTimes multiplies polynomials over GF(2), modulo that of CRC-32C.
func polyTimes(a, b uint32) (product uint32) {
	for m := uint32(polyOne); m != 0; m >>= 1 {
		if a&m != 0 {
			product ^= b
		}
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return product
}

// checksumBefore returns a log's checksum before a run of size bytes whose own is
// runSum and behind which it is after.
func checksumBefore(after Checksum, runSum, size uint32) Checksum {
	undo, power := uint32(polyOne), uint32(polyUnshift)
	for bits := uint64(size) * 8; bits > 0; bits >>= 1 {
		if bits&1 != 0 {
			undo = polyTimes(undo, power)
		}
		power = polyTimes(power, power)
	}
	return Checksum(polyTimes(undo, uint32(after)^runSum))
}
