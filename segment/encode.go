package segment

import "github.com/walsvc/walsvc/internal/limits"

// frameSize returns the bytes a frame takes on disk.
func frameSize(directory, blocks int64) int64 {
	return (limits.FrameHeaderSize + directory + blocks + limits.BlockSize - 1) &^ (limits.BlockSize - 1)
}
