package server

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/walsvc/walsvc/internal/wire"
	"github.com/walsvc/walsvc/wal"
)

// received is an append stream's message, or why it is none.
type received struct {
	wire.AppendRequest
	err error
}

// codec is wire.Codec but for append streams, where a message that cannot be
// read is not gRPC's to answer: it would end the stream at once, as INTERNAL
// without a reason, before the verdicts that are due.
type codec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*received)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	switch err := c.CodecV2.Unmarshal(data, &r.AppendRequest); {
	case err == nil:
		r.err = nil
	case errors.Is(err, wire.ErrTooMany):
		r.err = fmt.Errorf("%w: %w", wal.ErrTooLarge, err)
	default:
		r.err = fmt.Errorf("%w: %w", wal.ErrMalformed, err)
	}
	return nil
}
