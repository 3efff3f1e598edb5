package wire

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec wraps
	"google.golang.org/grpc/mem"
)

// message is what Codec treats itself.
type message interface {
	marshal() (mem.BufferSlice, error)
	// unmarshal reads data, which its caller frees afterwards.
	unmarshal(data mem.BufferSlice) error
}

// codec is the stock proto codec with this package's messages put before it.
type codec struct{ encoding.CodecV2 }

// Codec returns the codec to force on servers and clients. It takes this
// package's messages and all that the stock proto codec takes, and has its name.
func Codec() encoding.CodecV2 {
	return codec{encoding.GetCodecV2("proto")}
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(message); ok {
		return m.marshal()
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := m.unmarshal(data); err != nil {
		return fmt.Errorf("%T: %w", v, err)
	}
	return nil
}
