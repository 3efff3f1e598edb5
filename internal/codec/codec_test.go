package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

var all = []codec.Codec{codec.None, codec.S2, codec.Zstd}

// inputs are what blocks are made of: text, noise, both, and nothing.
func inputs() map[string][]byte {
	text := bytes.Repeat([]byte(`{"id":17,"kind":"order","state":"shipped","note":"left at the door"} `), 8000)
	noise := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(noise)
	return map[string][]byte{
		"empty":    {},
		"byte":     {42},
		"zeroes":   make([]byte, 100_000),
		"text":     text,
		"noise":    noise,
		"mixed":    append(append([]byte(nil), text[:1000]...), noise[:5000]...),
		"a block":  text[:limits.TargetBlockSize],
		"over 256": append(append(noise[:len(noise):len(noise)], text...), noise...), // distances beyond zstd's window
	}
}

func TestRoundTrip(t *testing.T) {
	for name, raw := range inputs() {
		for _, c := range all {
			t.Run(fmt.Sprintf("%s/%s", name, c), func(t *testing.T) {
				want := bytes.Clone(raw)
				prefix := []byte("before ")
				stored := c.Compress(bytes.Clone(prefix), raw)
				if !bytes.HasPrefix(stored, prefix) {
					t.Fatal("compress did not append")
				}
				stored = stored[len(prefix):]
				if limit := c.MaxSize(len(raw)); len(stored) > limit {
					t.Errorf("%d bytes stored, MaxSize says %d", len(stored), limit)
				}
				if !bytes.Equal(raw, want) {
					t.Error("compress changed its source")
				}
				opened, err := c.Open(bytes.Clone(prefix), stored, len(raw))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(opened, append(prefix, raw...)) {
					t.Error("what was opened is not what was compressed")
				}
			})
		}
	}
}

// TestReusedBuffers compresses and opens into memory that holds older bytes,
// once too small and once large enough.
func TestReusedBuffers(t *testing.T) {
	raw := inputs()["text"][:50_000]
	for _, c := range all {
		for _, size := range []int{0, 100, 200_000} {
			dirty := bytes.Repeat([]byte{0xee}, size)
			stored := c.Compress(dirty[:0], raw)
			opened, err := c.Open(bytes.Repeat([]byte{0xee}, size)[:0], stored, len(raw))
			if err != nil || !bytes.Equal(opened, raw) {
				t.Errorf("%s into %d bytes: %v", c, size, err)
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			raw := bytes.Repeat([]byte{byte(i), 'x', 'y'}, 10_000)
			for _, c := range all {
				opened, err := c.Open(nil, c.Compress(nil, raw), len(raw))
				if err != nil || !bytes.Equal(opened, raw) {
					t.Errorf("%s: %v", c, err)
				}
			}
		})
	}
	callers.Wait()
}

// TestOpenRefuses wants ErrCorrupt and an untouched prefix for everything that
// is not exactly what was said.
func TestOpenRefuses(t *testing.T) {
	raw := inputs()["text"][:20_000]
	type refusal struct {
		name   string
		codec  codec.Codec
		stored []byte
		size   int
	}
	var tests []refusal
	for _, c := range all {
		stored := c.Compress(nil, raw)
		tests = append(tests,
			refusal{"one byte less said", c, stored, len(raw) - 1},
			refusal{"one byte more said", c, stored, len(raw) + 1},
			refusal{"nothing said", c, stored, 0},
			refusal{"negative size", c, stored, -1},
			refusal{"size over the limit", c, stored, limits.MaxBlockRawSize + 1},
			refusal{"cut short", c, stored[:len(stored)-1], len(raw)},
			refusal{"nothing stored", c, nil, len(raw)},
			refusal{"garbage behind", c, append(bytes.Clone(stored), 1, 2, 3), len(raw)},
		)
	}
	twice := codec.Zstd.Compress(codec.Zstd.Compress(nil, raw), raw)
	tests = append(tests,
		refusal{"two frames, one said", codec.Zstd, twice, len(raw)},
		refusal{"unknown codec", codec.Zstd + 1, raw, len(raw)},
		refusal{"s2 for zstd", codec.Zstd, codec.S2.Compress(nil, raw), len(raw)},
		refusal{"zstd for s2", codec.S2, codec.Zstd.Compress(nil, raw), len(raw)},
		refusal{"s2 stream for s2 block", codec.S2, s2Stream(t, raw), len(raw)},
	)
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s/%s", tt.codec, tt.name), func(t *testing.T) {
			got, err := tt.codec.Open([]byte("before"), tt.stored, tt.size)
			if !errors.Is(err, codec.ErrCorrupt) {
				t.Fatalf("error %v, want ErrCorrupt", err)
			}
			if string(got) != "before" {
				t.Errorf("returned %d bytes, want what was there before", len(got))
			}
		})
	}
}

func s2Stream(t *testing.T, raw []byte) []byte {
	var out bytes.Buffer
	w := s2.NewWriter(&out)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestOpenTakesNoMoreThanSaid opens blocks that would unfold to far more than
// was said: the size in the directory bounds memory, not the one in the block.
func TestOpenTakesNoMoreThanSaid(t *testing.T) {
	const said, slack = 1000, 1 << 20
	zeroes := make([]byte, limits.MaxBlockRawSize)
	for _, tt := range []struct {
		name   string
		codec  codec.Codec
		stored []byte
	}{
		{"s2", codec.S2, codec.S2.Compress(nil, zeroes)},
		{"zstd", codec.Zstd, codec.Zstd.Compress(nil, zeroes)},
		{"zstd without a size", codec.Zstd, zstdStream(t, zeroes)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// What the decoder keeps for itself is not counted.
			_, _ = tt.codec.Open(nil, tt.stored, said)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := tt.codec.Open(nil, tt.stored, said)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, codec.ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > slack {
				t.Errorf("took %d bytes of memory for a block of %d", took, said)
			}
		})
	}
}

// zstdStream is written by parts, so its frame does not say how much it holds.
func zstdStream(t *testing.T, raw []byte) []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for len(raw) > 0 {
		n := min(len(raw), 1<<20)
		if _, err := w.Write(raw[:n]); err != nil {
			t.Fatal(err)
		}
		raw = raw[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestLargestBlock(t *testing.T) {
	raw := make([]byte, limits.MaxBlockRawSize)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(raw[:1<<20])
	for _, c := range all {
		opened, err := c.Open(nil, c.Compress(nil, raw), len(raw))
		if err != nil || !bytes.Equal(opened, raw) {
			t.Errorf("%s: %v", c, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range all {
		got, err := codec.Parse(c.String())
		if err != nil || got != c || !c.Valid() {
			t.Errorf("Parse(%q) = %v, %v; valid %v", c, got, err, c.Valid())
		}
	}
	if _, err := codec.Parse("codec(3)"); err == nil || !strings.Contains(err.Error(), "want none, s2 or zstd") {
		t.Errorf("Parse of an unknown codec: %v", err)
	}
	if c := codec.Codec(3); c.Valid() || c.String() != "codec(3)" {
		t.Errorf("codec 3: valid %v, %q", c.Valid(), c)
	}
}
