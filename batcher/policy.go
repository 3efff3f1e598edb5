package batcher

import (
	"fmt"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// A CodecPolicy says how a bus compresses. The zero value is Auto.
type CodecPolicy uint8

// Auto compresses when measurements say that it pays for itself.
const Auto CodecPolicy = 0

// Fixed always compresses with c, except what fits one disk block or does not
// shrink.
func Fixed(c codec.Codec) CodecPolicy { return CodecPolicy(c) + 1 }

// String names the policy as flags spell it: auto, none, s2 or zstd.
func (p CodecPolicy) String() string {
	if p == Auto {
		return "auto"
	}
	return codec.Codec(p - 1).String()
}

// ParseCodecPolicy is the inverse of CodecPolicy.String.
func ParseCodecPolicy(s string) (CodecPolicy, error) {
	if s == Auto.String() {
		return Auto, nil
	}
	c, err := codec.Parse(s)
	if err != nil {
		return Auto, fmt.Errorf("codec policy %q: want auto, none, s2 or zstd", s)
	}
	return Fixed(c), nil
}

// worthStoring reports whether a block of raw bytes that packs to packed is
// stored packed: it has to shrink by an eighth, or every reader would pay for
// decompression and nobody gain.
func worthStoring(raw, packed int) bool { return packed <= raw-raw/8 }

// fitsOneBlock reports whether a frame of n raw bytes takes one disk block.
func fitsOneBlock(n int) bool { return n+frameOverhead <= limits.BlockSize }

// frameOverhead is a frame's header and what its directory needs besides Meta
// for a few blocks, in bytes.
const frameOverhead = limits.FrameHeaderSize + 128

type policy struct{ fixed CodecPolicy }

func newPolicy(c CodecPolicy) policy { return policy{fixed: c} }

func (p *policy) chooseOverlapped(raw int) codec.Codec {
	if p.fixed != Auto {
		return codec.Codec(p.fixed - 1)
	}
	return codec.None
}

func (p *policy) chooseAtSeal(f *Frame) {
	if fitsOneBlock(f.rawSize) {
		return
	}
	for _, buf := range f.bufs[f.claimed:] {
		buf.tried = p.chooseOverlapped(len(buf.raw))
	}
}

func (p *policy) learn(*Frame) {}
