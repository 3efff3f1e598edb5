package wal

import (
	"hash/crc32"
	"testing"
)

// TestChecksumBefore: what is in front of a run, and how long that is, does not
// matter, nor how long the run is.
func TestChecksumBefore(t *testing.T) {
	data := make([]byte, 70_000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for _, before := range []int{0, 1, 17, 4096} {
		for _, size := range []int{0, 1, 2, 3, 64, 1000, 65_537} {
			want := crc32.Checksum(data[:before], castagnoli)
			after := crc32.Update(want, castagnoli, data[before:before+size])
			runSum := crc32.Checksum(data[before:before+size], castagnoli)
			if got := checksumBefore(Checksum(after), runSum, uint32(size)); got != Checksum(want) {
				t.Errorf("before %d bytes behind %d: %08x, want %08x", size, before, got, want)
			}
		}
	}
}
