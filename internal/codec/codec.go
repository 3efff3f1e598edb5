// Package codec compresses and opens the blocks of frames. It is a leaf: the
// bus compresses with it, readers of segments and the client open with it.
package codec

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/walsvc/walsvc/internal/limits"
)

// A Codec says how a block is compressed. The numbers are on disk and on the wire.
type Codec uint8

// The codecs.
const (
	None Codec = 0 // stored as it came
	S2   Codec = 1 // S2 block format: about 2 GB/s a core, JSON to a quarter
	Zstd Codec = 2 // zstd, fastest level: about 0.5 GB/s a core, JSON to an eighth
)

// ErrCorrupt is returned for bytes that do not open to what they were said to be.
var ErrCorrupt = errors.New("compressed block does not open")

// String names a codec as flags and JSON spell it.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case S2:
		return "s2"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// Parse is the inverse of String for the known codecs.
func Parse(s string) (Codec, error) {
	for _, c := range []Codec{None, S2, Zstd} {
		if s == c.String() {
			return c, nil
		}
	}
	return 0, fmt.Errorf("codec %q: want none, s2 or zstd", s)
}

// Valid reports whether c is a codec this package knows.
func (c Codec) Valid() bool { return c <= Zstd }

// MaxSize returns the most bytes Compress may append for n raw bytes.
func (c Codec) MaxSize(n int) int {
	switch c {
	case S2:
		return s2.MaxEncodedLen(n)
	case Zstd:
		return n + n>>8 + 64
	}
	return n
}

// zstdEncoder and zstdDecoder are used with EncodeAll and DecodeAll only, which
// are safe for concurrent use, by as many at once as there are processors when the
// program starts, and keep no stream state.
var (
	processors  = runtime.GOMAXPROCS(0)
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
			zstd.WithEncoderConcurrency(processors), zstd.WithWindowSize(256<<10), zstd.WithZeroFrames(true))
		if err != nil {
			panic("codec: zstd encoder options: " + err.Error())
		}
		return e
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(processors), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(limits.MaxBlockRawSize), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("codec: zstd decoder options: " + err.Error())
		}
		return d
	})
)

// Compress appends src, compressed with c, to dst. c must be Valid.
func (c Codec) Compress(dst, src []byte) []byte {
	switch c {
	case S2:
		n := len(dst)
		if need := n + s2.MaxEncodedLen(len(src)); cap(dst) < need {
			dst = append(make([]byte, 0, need), dst...)
		}
		out := s2.Encode(dst[n:cap(dst)], src)
		return dst[:n+len(out)]
	case Zstd:
		return zstdEncoder().EncodeAll(src, dst)
	}
	return append(dst, src...)
}

// Open appends to dst what stored holds, which must be exactly rawSize bytes.
// It returns ErrCorrupt, wrapped, for anything else, and takes no more memory
// than rawSize, which must not be over limits.MaxBlockRawSize.
func (c Codec) Open(dst, stored []byte, rawSize int) ([]byte, error) {
	if rawSize < 0 || rawSize > limits.MaxBlockRawSize {
		return dst, fmt.Errorf("%w: raw size %d is over the limit %d", ErrCorrupt, rawSize, limits.MaxBlockRawSize)
	}
	n := len(dst)
	switch c {
	case None:
		if len(stored) != rawSize {
			return dst, fmt.Errorf("%w: %d stored bytes for %d raw ones", ErrCorrupt, len(stored), rawSize)
		}
		return append(dst, stored...), nil
	case S2:
		if size, err := s2.DecodedLen(stored); err != nil || size != rawSize {
			return dst, fmt.Errorf("%w: s2 block opens to %d bytes, want %d", ErrCorrupt, size, rawSize)
		}
		if cap(dst)-n < rawSize {
			dst = append(make([]byte, 0, n+rawSize), dst...)
		}
		if _, err := s2.Decode(dst[n:n+rawSize:n+rawSize], stored); err != nil {
			return dst, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return dst[:n+rawSize], nil
	case Zstd:
		if cap(dst)-n < rawSize {
			dst = append(make([]byte, 0, n+rawSize), dst...)
		}
		// The decoder stops at the capacity: what the frame says about its own
		// size is as little to be trusted as the rest of it.
		out, err := zstdDecoder().DecodeAll(stored, dst[:n:n+rawSize])
		if err != nil {
			return dst[:n], fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if len(out)-n != rawSize {
			return dst[:n], fmt.Errorf("%w: zstd block opens to %d bytes, want %d", ErrCorrupt, len(out)-n, rawSize)
		}
		return out, nil
	}
	return dst, fmt.Errorf("%w: unknown %s", ErrCorrupt, c)
}
