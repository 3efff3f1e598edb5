package segment

import (
	"encoding/binary"
	"fmt"

	"github.com/walsvc/walsvc/internal/limits"
)

// Peek returns the sequence and the chain that the bytes at off state, if they
// begin as a frame does, whether they verify or not. That proves nothing. But
// a header that does not verify and states exactly what was expected there was
// written for the place: stale bytes of another life cannot know the chain. The
// error is one of the disk, or ErrReleased.
func (r *Reader) Peek(off int64) (sequence uint64, chain uint32, ok bool, err error) {
	b := make([]byte, limits.FrameHeaderSize)
	n, err := readAt(r.file, b, off)
	if err != nil {
		return 0, 0, false, r.fault(off, fmt.Errorf("read: %w", err))
	}
	if !mayBeFrame(b[:n]) {
		return 0, 0, false, nil
	}
	return binary.LittleEndian.Uint64(b[frmSequence:]), binary.LittleEndian.Uint32(b[frmChain:]), true, nil
}
