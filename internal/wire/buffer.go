package wire

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// Tiers of the pool, as exponents of two. Below the lowest, mem.NewBuffer would
// not tell when the bytes are done with; above the highest nothing is legal.
const (
	minTier = 11
	maxTier = 24
)

// bufferPool lends memory in powers of two. gRPC's own pools have no tier
// between 32 KiB and 1 MiB, where most of our messages are, or clear the whole
// of what they lend; what is lent here is dirty.
type bufferPool struct {
	tiers [maxTier - minTier + 1]sync.Pool
}

var pool = new(bufferPool)

// Pool returns the pool that servers and clients should read from the transport
// with. Its tiers fit what is in our messages, and it lends memory as it is: the
// transport fills all that it takes before anybody reads it.
func Pool() mem.BufferPool { return pool }

// Get lends n bytes.
func (p *bufferPool) Get(n int) *[]byte {
	tier := bits.Len(uint(max(n, 1<<minTier)-1)) - minTier
	if tier >= len(p.tiers) {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.tiers[tier].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<(tier+minTier))
	return &b
}

// Put takes back what Get lent, and leaves what is not the size of a tier to the
// collector.
func (p *bufferPool) Put(b *[]byte) {
	tier := bits.Len(uint(cap(*b))) - 1 - minTier
	if tier >= 0 && tier < len(p.tiers) && cap(*b) == 1<<(tier+minTier) {
		p.tiers[tier].Put(b)
	}
}

// A Buffer is bytes and a count of who holds them. The one who made it may
// append to Data while no one else holds it; with the last Release its memory
// is used again. A Buffer's methods may be called by several goroutines.
type Buffer struct {
	// Data is the bytes.
	Data []byte

	holders atomic.Int32
	memory  *[]byte // what Data lay in when it was made
}

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer returns an empty Buffer with room for capacity bytes, held once.
func NewBuffer(capacity int) *Buffer {
	b := buffers.Get().(*Buffer)
	b.memory = pool.Get(capacity)
	b.Data = (*b.memory)[:0]
	b.holders.Store(1)
	return b
}

// Hold adds a holder. The caller must be one.
func (b *Buffer) Hold() { b.holders.Add(1) }

// Release takes a holder away, and with the last one the bytes. It panics if
// there is none.
func (b *Buffer) Release() {
	switch n := b.holders.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("wire: buffer released more often than held")
	}
	pool.Put(b.memory)
	b.memory, b.Data = nil, nil
	buffers.Put(b)
}

// inlineSize is up to how many bytes a run is copied next to the fields around
// it rather than sent by reference. The transport has a cost per piece, and
// mem.NewBuffer does not tell when it is done with less than 1 KiB.
const inlineSize = 4 << 10

// reference returns a piece for the transport that holds b until it is sent.
func (b *Buffer) reference(data []byte) mem.Buffer {
	b.Hold()
	return mem.NewBuffer(&data, (*holder)(b))
}

// holder is a Buffer as the pool that a reference to it is given back to.
type holder Buffer

// Get is there for mem.BufferPool; references are not taken from here.
func (h *holder) Get(n int) *[]byte { return pool.Get(n) }

// Put ends a reference.
func (h *holder) Put(*[]byte) { (*Buffer)(h).Release() }
