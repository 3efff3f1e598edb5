package codec_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/allocs"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// FuzzOpen opens bytes as a block of each codec: no panic, ErrCorrupt or exactly
// the bytes that were said, memory for those and no more, and what was before
// them intact. Blocks have many spellings, so what opens is compressed and
// opened again, as are the bytes themselves.
func FuzzOpen(f *testing.F) {
	raw := []byte(strings.Repeat("a log of a log of a log ", 40))
	for _, c := range all {
		stored := c.Compress(nil, raw)
		f.Add(uint8(c), stored, len(raw))
		f.Add(uint8(c), stored[:len(stored)/2], len(raw))
		f.Add(uint8(c), stored, limits.MaxBlockRawSize)
		f.Add(uint8(c), stored, limits.MaxBlockRawSize+1)
		f.Add(uint8(c), c.Compress(nil, make([]byte, 1<<20)), 1000)
		f.Add(uint8(c), []byte{}, 0)
		// The decoder's own buffers are made once, and not counted.
		if _, err := c.Open(nil, stored, len(raw)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(uint8(3), raw, len(raw))
	f.Add(uint8(codec.None), raw, -1)
	roundTrip := func(t *testing.T, raw []byte) {
		t.Helper()
		for _, c := range all {
			stored := c.Compress(nil, raw)
			if len(stored) > c.MaxSize(len(raw)) {
				t.Fatalf("%s: %d bytes stored of %d, MaxSize says %d", c, len(stored), len(raw), c.MaxSize(len(raw)))
			}
			opened, err := c.Open(nil, stored, len(raw))
			if err != nil || !bytes.Equal(opened, raw) {
				t.Fatalf("%s: %v", c, err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, number uint8, stored []byte, size int) {
		roundTrip(t, stored)
		var opened []byte
		var err error
		said := uint64(max(0, min(size, limits.MaxBlockRawSize)))
		allocs.AtMost(t, 1<<20+said+2*uint64(len(stored)), func() {
			opened, err = codec.Codec(number).Open([]byte("before"), stored, size)
		})
		if !bytes.HasPrefix(opened, []byte("before")) {
			t.Fatal("prefix lost")
		}
		opened = opened[len("before"):]
		switch {
		case err != nil && (!errors.Is(err, codec.ErrCorrupt) || len(opened) != 0):
			t.Fatalf("%d bytes and error %v", len(opened), err)
		case err == nil && len(opened) != size:
			t.Fatalf("%d bytes, want %d", len(opened), size)
		case err == nil && len(opened) < 1<<16:
			roundTrip(t, opened)
		}
	})
}
