package batcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/gather"
	"github.com/walsvc/walsvc/internal/limits"
)

// ErrClosed is returned to those who board a bus that is closing or closed.
var ErrClosed = errors.New("bus is closed")

// Options configures a Bus. The zero value of a field means its default.
type Options struct {
	// FullSize is when a frame takes nobody more, in raw bytes of commands and
	// records; default limits.FrameFullSize. What boards below it is taken whole.
	FullSize int
	// MaxCommands is the same bound in commands, and in riders; default
	// limits.MaxCommandsPerFrame.
	MaxCommands int
	// BlockSize is when a block is closed and compressed, in raw bytes; default
	// limits.TargetBlockSize.
	BlockSize int
	// LoneSize is how much a lone appender may bring and still drive its own
	// frame, in raw bytes; default limits.LoneFrameSize. Who brings more has more
	// behind it, which it could not take on board while it drives.
	LoneSize int
	// Depth is how many frames may be handed to Submit and not landed; default 1.
	// More has an effect only if Submit returns before its frame has landed.
	Depth int
	// Codec says how blocks are compressed; default Auto.
	Codec CodecPolicy
	// Memory returns n bytes for what frames are written from: see Frame.Image. Default
	// is memory that begins anywhere; O_DIRECT wants it aligned.
	Memory func(n int) []byte
	// NoGathering seals as soon as the disk is ready, also when those who were
	// just told would be back in a moment. It is there to be measured against.
	NoGathering bool

	// Submit hands a sealed frame to whoever orders frames, in ticket order,
	// never twice at a time. Bus.Landed must follow for every frame, in the same
	// order, from any goroutine, before Submit returns or after. The frame may be
	// read until then. Required.
	Submit func(*Frame)
	// Publish, if not nil, is called once for every submitted frame when it has
	// landed, in ticket order, before its riders are told. A frame that lands
	// with an error because one before it failed may not have been submitted.
	// Like a Rider, it must not board.
	Publish func(f *Frame, err error)
	// Idle, if not nil, is called on the bus's own goroutine when IdleDelay has
	// passed since a submitted frame landed and nothing came since: once for
	// each such quiet time. It gets an empty frame to tag and fill and reports
	// whether that is to ride. It is not called once the bus failed or is closing.
	Idle func(f *Frame) bool
	// IdleDelay is how long it has to be quiet; default limits.IdlePromiseDelay.
	IdleDelay time.Duration
	// Events observes the bus.
	Events Events
}

// Events are called as things happen; nil ones are skipped. They must not block.
type Events struct {
	// FrameLanded is called after the riders of a frame that landed without an
	// error were told, in ticket order.
	FrameLanded func(FrameInfo)
}

// A FrameInfo describes a frame that landed without an error.
type FrameInfo struct {
	Ticket     uint64
	Tag        uint8
	Commands   int
	Riders     int
	Blocks     int
	RawSize    int           // bytes of commands and records
	StoredSize int           // the same, blocks as they are stored
	Full       bool          // sealed because it was full
	Lone       bool          // driven by the only appender in it
	Fill       time.Duration // from the first one who left it waiting to its sealing; 0 for a lone ride
	Pack       time.Duration // what codecs took for its blocks, while it filled and after
	Compress   time.Duration // from sealing to Submit
	Land       time.Duration // from Submit to Landed
	Tell       time.Duration // from Landed until the last rider was told
	Attached   any           // what was last attached to the frame, nil if nothing was
}

// Stats counts what a bus has done since New. Frames without commands, which
// carry riders only, are not counted.
type Stats struct {
	Frames    uint64 // submitted and landed without an error, inserted ones included
	Inserted  uint64 // of these, inserted
	Full      uint64 // of these, sealed because they were full
	LoneRides uint64 // of these, driven by the only appender in them
	Commands  uint64
	RawSize   uint64 // bytes of commands and records
	// StoredSize is what RawSize took, blocks as they are stored.
	StoredSize uint64
	// Blocks counts blocks by the codec they are stored with.
	Blocks [codec.Zstd + 1]uint64
}

// A Bus merges what arrives while the disk is busy. Its methods are safe for
// concurrent use. See the package documentation.
type Bus struct {
	o     Options
	began time.Time

	// failed mirrors err != nil for the driver, who has given up the lock.
	failed atomic.Bool
	// signal, of one place, wakes the loop; summoned spares it most that say nothing new.
	signal  chan struct{}
	stopped chan struct{} // closed when the loop has ended

	mu       sync.Mutex
	room     sync.Cond // the open frame takes appenders again, or the insert slot is free
	open     *Frame
	fresh    bool     // the open frame was empty at Board
	inserts  []*Frame // filled, not sealed; at most one from Insert and one from Idle
	filling  bool     // an Insert is filling its frame
	flight   []*Frame // sealed and not landed, lowest ticket first
	done     int      // flight[:done] may be told
	ticket   uint64   // last given out
	told     uint64   // last whose riders know
	serial   uint64
	driving  bool // somebody is between sealing a frame and Submit's return
	landing  bool // somebody is telling riders
	summoned bool
	closing  bool
	inserted bool // the last frame sealed was inserted: one of commands is next
	err      error
	free     freeList
	policy   policy
	stats    Stats
	lastLand int64 // when the disk was last done with a frame

	gathering gather.Policy
	decided   bool // the loop knows whether to wait for those who were told last
	// waiting: the loop, or who may drive alone, lets others board. Nobody else seals
	// meanwhile, or summons the loop.
	waiting bool

	// timer is set once for many landings: resetting it for each would cost a
	// lone append more than the lock does. It goes off IdleDelay after the
	// landing that armed it, and is set again for what then remains.
	timer *time.Timer
	armed bool
}

// New returns a running bus. Close stops it.
func New(o Options) *Bus {
	o.FullSize = orDefault(o.FullSize, limits.FrameFullSize)
	o.MaxCommands = orDefault(o.MaxCommands, limits.MaxCommandsPerFrame)
	o.BlockSize = orDefault(o.BlockSize, limits.TargetBlockSize)
	o.LoneSize = orDefault(o.LoneSize, limits.LoneFrameSize)
	o.Depth = orDefault(o.Depth, 1)
	o.IdleDelay = orDefault(o.IdleDelay, limits.IdlePromiseDelay)
	if o.Memory == nil {
		o.Memory = func(n int) []byte { return make([]byte, n) }
	}
	b := &Bus{
		o:       o,
		began:   time.Now(),
		signal:  make(chan struct{}, 1),
		stopped: make(chan struct{}),
		free: freeList{
			blockSize: o.BlockSize,
			fullSize:  o.FullSize,
			memory:    o.Memory,
			keep:      (o.Depth + 1) * (o.FullSize/o.BlockSize + 1),
		},
		policy: newPolicy(o.Codec),
	}
	b.room.L = &b.mu
	b.timer = time.NewTimer(o.IdleDelay)
	b.timer.Stop()
	b.open = b.newFrame()
	b.open.free = &b.free
	go b.loop()
	return b
}

func orDefault[T int | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

// Board locks the bus and returns the open frame, for the caller to add to; it
// waits while that is full. Every successful Board is followed by Leave or
// LeaveUnused on the same goroutine; the frame must not be touched after that.
// The error is ErrClosed, or what made the bus fail; the bus is not locked then.
func (b *Bus) Board() (*Frame, error) {
	b.mu.Lock()
	for b.err == nil && !b.closing && b.isFull(b.open) {
		b.room.Wait()
	}
	if err := b.refusal(); err != nil {
		b.mu.Unlock()
		return nil, err
	}
	b.fresh = b.open.Empty()
	return b.open, nil
}

// refusal returns why nobody may board. REQUIRES: mu.
func (b *Bus) refusal() error {
	switch {
	case b.err != nil:
		return b.err
	case b.closing:
		return ErrClosed
	}
	return nil
}

func (b *Bus) isFull(f *Frame) bool {
	return f.rawSize >= b.o.FullSize || f.commands >= b.o.MaxCommands || len(f.riders) >= b.o.MaxCommands
}

// LeaveUnused unlocks the bus for a caller who added nothing to the frame.
// REQUIRES: boarded.
func (b *Bus) LeaveUnused() { b.mu.Unlock() }

// Leave unlocks the bus and compresses the blocks that the caller filled. If
// the disk is idle, nobody else is on board or about to be and the caller brought
// at most LoneSize, it drives the frame; drove then reports whether the frame landed, and its riders were told, before
// Leave returned. REQUIRES: boarded.
func (b *Bus) Leave() (drove bool) {
	f := b.open
	if f.Empty() {
		b.mu.Unlock()
		return false
	}
	if b.fresh && f.rawSize <= b.o.LoneSize && b.isIdle() && !b.waiting {
		size, riders := f.rawSize, len(f.riders)
		b.letBoard()
		switch {
		case b.err != nil: // f has landed with it
			b.unlock()
			return false
		case b.isIdle() && f.rawSize == size && len(f.riders) == riders:
			return b.driveAlone()
		}
	}
	if f.opened == 0 {
		f.opened = b.clock()
	}
	list := f.claim(&b.policy)
	b.unlock()
	f.pack(list, b.clock)
	return false
}

// isIdle reports that there is nothing on the way to the disk and nothing that
// waits to be, the open frame aside. REQUIRES: mu.
func (b *Bus) isIdle() bool {
	return !b.driving && len(b.flight) == 0 && len(b.inserts) == 0
}

// Insert sends a frame of its own between the frames of commands, tagged with
// tag, which must not be 0. fill is called once, without the lock, on the
// caller's goroutine. Only one inserted frame waits at a time: Insert blocks
// until there is room, and returns when its frame is queued, not when it has
// landed: a Rider, or Flush, is for that. The error is ErrClosed, or what made
// the bus fail; the frame does not ride then, and its riders are not told.
func (b *Bus) Insert(tag uint8, fill func(*Frame)) error {
	if tag == 0 {
		panic("batcher: inserted frame without a tag")
	}
	b.mu.Lock()
	for b.refusal() == nil && (b.filling || len(b.inserts) > 0) {
		b.room.Wait()
	}
	if err := b.refusal(); err != nil {
		b.mu.Unlock()
		return err
	}
	b.filling = true
	f := b.newFrame()
	f.Tag, f.inserted = tag, true
	b.mu.Unlock()

	fill(f)

	b.mu.Lock()
	b.filling = false
	err := b.err
	if err == nil {
		b.inserts = append(b.inserts, f)
	}
	b.unlock()
	return err
}

// Flush waits until everything that boarded or was inserted before has landed
// and its riders were told. The error is the context's, ErrClosed, or what made
// the bus fail.
func (b *Bus) Flush(ctx context.Context) error {
	b.mu.Lock()
	if err := b.refusal(); err != nil {
		b.mu.Unlock()
		return err
	}
	w := b.waitFor()
	b.unlock()
	select {
	case err := <-w.landed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("flush: %w", context.Cause(ctx))
	}
}

// waitFor puts a rider into every frame that is not sealed; what is sealed
// lands before them. REQUIRES: mu.
func (b *Bus) waitFor() *waiter {
	w := &waiter{left: 1 + len(b.inserts), landed: make(chan error, 1)}
	for _, f := range b.inserts {
		f.Ride(w)
	}
	b.open.Ride(w)
	return w
}

// A waiter rides in several frames and reports when the last has landed.
// Landings do not overlap, so it needs no lock.
type waiter struct {
	left   int
	landed chan error
}

func (w *waiter) Landed(_ uint64, err error) {
	if w.left--; w.left == 0 {
		w.landed <- err
	}
}

// Stats returns what the bus has done so far.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

// Close turns away whoever boards from now on, waits until what is on board has
// landed, and stops the bus's goroutine. It returns what made the bus fail, nil
// if nothing did. Closing again waits likewise.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closing = true
	b.room.Broadcast()
	b.unlock()
	<-b.stopped
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// newFrame returns an empty frame. REQUIRES: mu, or nobody else knows the bus.
func (b *Bus) newFrame() *Frame {
	f := b.free.frame()
	b.serial++
	f.Serial = b.serial
	return f
}

// clock returns nanoseconds since New: the monotonic clock alone costs half of
// what time.Now does.
func (b *Bus) clock() int64 { return int64(time.Since(b.began)) }
