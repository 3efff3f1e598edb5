package crc32c

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"testing"
)

// TestArithmetic: what is in front of a run, and how long that is, does not
// matter, nor how long the run is.
func TestArithmetic(t *testing.T) {
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for _, ahead := range []int{0, 1, 17, 4096, 1 << 20} {
		for _, size := range []int{0, 1, 2, 3, 64, 1000, JoinSize - 1, JoinSize, 65_537, 1 << 20, 1<<21 - 1} {
			run := data[ahead : ahead+size]
			before := crc32.Checksum(data[:ahead], table)
			after := crc32.Update(before, table, run)
			sum := crc32.Checksum(run, table)
			if got := Join(before, sum, uint32(size)); got != after {
				t.Errorf("%d bytes with %d behind: %08x, want %08x", ahead, size, got, after)
			}
			if got := Extend(before, run, sum); got != after {
				t.Errorf("%d bytes extended by %d: %08x, want %08x", ahead, size, got, after)
			}
			if got := Before(after, sum, uint32(size)); got != before {
				t.Errorf("before %d bytes behind %d: %08x, want %08x", size, ahead, got, before)
			}
		}
	}
	// The largest size there is.
	if got := Before(Join(7, 9, 1<<32-1), 9, 1<<32-1); got != 7 {
		t.Errorf("there and back is %08x, want 7", got)
	}
}

// TestAppend: what is appended, and its checksum, are the same however much room
// there was and wherever the strips end.
func TestAppend(t *testing.T) {
	data := make([]byte, 3*stripSize+1)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for _, size := range []int{0, 1, stripSize - 1, stripSize, stripSize + 1, len(data)} {
		for _, room := range []int{0, 10, len(data) + 10} {
			dst, sum := Append(append(make([]byte, 0, room), "in front"...), data[:size], crc32.Checksum([]byte("in front"), table))
			if want := append([]byte("in front"), data[:size]...); !bytes.Equal(dst, want) || sum != crc32.Checksum(want, table) {
				t.Errorf("%d bytes with room for %d: %d bytes and checksum %08x, want %d and %08x", size, room, len(dst), sum, len(want), crc32.Checksum(want, table))
			}
		}
	}
}

func BenchmarkExtend(b *testing.B) {
	for _, size := range []int{4 << 10, JoinSize - 1, 65_537, 1<<20 - 1} {
		run := make([]byte, size)
		sum := crc32.Checksum(run, table)
		b.Run(fmt.Sprintf("way=walk/size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sum = crc32.Update(sum, table, run)
			}
		})
		b.Run(fmt.Sprintf("way=join/size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sum = Join(sum, sum, uint32(size))
			}
		})
	}
}
