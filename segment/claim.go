package segment

import (
	"encoding/binary"

	"github.com/walsvc/walsvc/internal/limits"
)

// Claim returns the sequence and the chain that the bytes at off state, if they
// begin as a frame does, whether they verify or not. That proves nothing. But
// a header that does not verify and states exactly what was expected there was
// written for the place, where stale bytes of another life cannot know the chain.
func (r *Reader) Claim(off int64) (sequence uint64, chain uint32, ok bool) {
	b := make([]byte, limits.FrameHeaderSize)
	if n, err := readAt(r.file, b, off); err != nil || !mayBeFrame(b[:n]) {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint64(b[frmSequence:]), binary.LittleEndian.Uint32(b[frmChain:]), true
}
