package segment

import "errors"

// A Reader reads the frames of one segment. It is for one goroutine at a time.
type Reader struct{}

// Header returns the segment's header.
func (r *Reader) Header() *SegmentHeader { return nil }

// Path returns the file's path.
func (r *Reader) Path() string { return "" }

// Size returns the file's length in bytes.
func (r *Reader) Size() int64 { return 0 }

// Frame reads the header and directory of the frame at off.
func (r *Reader) Frame(off int64) (*Frame, error) { return nil, errors.ErrUnsupported }

// Block reads and verifies the stored bytes of a block.
func (r *Reader) Block(f *Frame, i int, dst []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Lookahead calls fn for every frame header of this life from from to the end.
func (r *Reader) Lookahead(from int64, fn func(h Header, off int64) bool) error {
	return errors.ErrUnsupported
}

// Close unpins the segment.
func (r *Reader) Close() error { return nil }
