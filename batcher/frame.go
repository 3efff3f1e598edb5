package batcher

import (
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/limits"
)

// pureSize is how much of one group a block has to hold before another group's
// run is kept out of it, in raw bytes. Blocks of one log can be handed to a
// reader of that log as they lie; smaller ones are not worth a block each.
const pureSize = 32 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Rider is told when a frame it rides in has landed: durable if err is nil,
// otherwise with its outcome unknown. It is called on the goroutine that lands
// the frame, in ticket order, never concurrently with another landing; it must
// not block, boarding included, since everybody behind waits for it. Its dynamic
// type must be comparable.
type Rider interface {
	Landed(ticket uint64, err error)
}

// A Watcher is told when a frame that it watches is written and not durable yet: an
// answer that says no more than that. It is called on the goroutine that is in
// Submit, which goes on to make the frame durable when it returns: so it must not
// block, boarding included.
type Watcher interface {
	Written(mark uint64)
}

// A watch is a Watcher and what it wants to be told.
type watch struct {
	watcher Watcher
	mark    uint64
}

// A Block is a run of record bytes as it is stored.
type Block struct {
	Codec    codec.Codec
	RawSize  uint32 // bytes after decompression
	Checksum uint32 // CRC-32C of Stored
	Stored   []byte
}

// A Frame is one group commit on its way. Between Board and Leave, or while
// Insert has it filled, its owner adds to it; once it is sealed, Submit and
// Publish read it. It is reused, buffers included, as soon as its riders have
// been told: nobody keeps a Frame or a slice of it beyond that.
type Frame struct {
	// Ticket is the frame's place in the order of landing, dense from 1. It is
	// zero until the frame is sealed.
	Ticket uint64
	// Serial names this filling of the frame: never zero, never used again. A
	// rider that remembers the last Serial it rode in need not ride twice.
	Serial uint64
	// Tag is 0 for frames of commands, otherwise what Insert was given. Idle
	// sets it on the frame it fills.
	Tag uint8

	blockSize int
	memory    func(n int) []byte // see Options.Memory
	free      *freeList          // nil for frames that are filled outside the lock
	meta      []byte
	image     []byte // see Image
	bufs      []*buffer
	blocks    []Block
	riders    []Rider
	watches   []watch
	attached  any
	commands  int
	rawSize   int // bytes of meta and all blocks
	stored    int // bytes of meta and all blocks as stored; known once finished
	claimed   int // bufs[:claimed] have been taken by the appenders who compress them
	inserted  bool
	full      bool // was full when it was sealed
	lone      bool // was driven by the only appender in it
	err       error

	// working counts claimed blocks that are not compressed yet. It is raised
	// under the bus's lock while the frame is open, so whoever seals the frame
	// may wait for it.
	working sync.WaitGroup

	// Nanoseconds on the bus's clock. opened is 0 if nobody waited in the frame.
	opened, sealed, submitted, landed int64
	service                           int64 // from when the disk was free for the frame to its landing
}

// A buffer is a block under construction, reused together with its memory. What is
// in it lies in the frame's image, which may move while the frame fills.
type buffer struct {
	next   *buffer // among those claimed together, or free
	at     int     // where it begins in the frame's image
	size   int     // in bytes, raw
	raw    []byte  // the same, once nothing more is added
	summed int     // bytes at the front that sum is the CRC-32C of
	sum    uint32  // of what it was given with the sum of, and nothing else before it
	packed []byte  // what tried made of raw
	group  uint64
	mixed  bool        // holds runs of several groups
	tried  codec.Codec // chosen when the block was claimed
	took   int64       // nanoseconds tried needed
	block  Block
}

// AddCommand lets add append one encoded command to the frame's Meta and
// return the extended slice. Commands keep the order they were added in.
func (f *Frame) AddCommand(add func(dst []byte) []byte) {
	f.setMeta(add(f.meta))
}

// AppendCommand copies one encoded command into the frame's Meta.
func (f *Frame) AppendCommand(b []byte) {
	f.setMeta(append(f.meta, b...))
}

func (f *Frame) setMeta(meta []byte) {
	f.rawSize += len(meta) - len(f.meta)
	f.meta = meta
	f.commands++
}

// AddRecords copies run into a block and says where it went: the block's place
// in Blocks, and the offset within its raw bytes. A run never spans two blocks.
// Runs of one group (a log) are kept together: a block with 32 KiB or more of
// one group and nothing else takes no other. Records belong to a command, which
// the caller adds as well; a frame of records alone is not handed on. It panics
// on a run over limits.MaxBlockRawSize.
func (f *Frame) AddRecords(group uint64, run []byte) (block, offset int) {
	block, offset, _ = f.addRecords(group, run)
	return block, offset
}

// AddSummed is AddRecords for a run whose CRC-32C is known: if it is long, it is not
// walked again for its block's.
func (f *Frame) AddSummed(group uint64, run []byte, sum uint32) (block, offset int) {
	block, offset, buf := f.addRecords(group, run)
	if buf.summed == offset && len(run) >= crc32c.JoinSize {
		buf.summed, buf.sum = buf.size, crc32c.Join(buf.sum, sum, uint32(len(run)))
	}
	return block, offset
}

func (f *Frame) addRecords(group uint64, run []byte) (block, offset int, buf *buffer) {
	if len(run) > limits.MaxBlockRawSize {
		panic(fmt.Sprintf("batcher: run of %d bytes is over the limit %d", len(run), limits.MaxBlockRawSize))
	}
	buf = f.blockFor(group, len(run))
	offset = buf.size
	buf.mixed = buf.mixed || buf.group != group
	f.reserve(len(run))
	f.image = append(f.image, run...)
	buf.size += len(run)
	f.rawSize += len(run)
	return len(f.bufs) - 1, offset, buf
}

// minImage is the smallest image, in bytes.
const minImage = 16 << 10

// reserve makes room in the image for n more bytes.
func (f *Frame) reserve(n int) {
	need := max(len(f.image), limits.FrameHeaderSize) + n
	if need > cap(f.image) {
		// Doubled, so that a frame which fills is copied once or twice. Whoever packs a
		// block meanwhile goes on reading it where it was.
		larger := f.memory(max(minImage, 2*cap(f.image), (need+limits.BlockSize-1)&^(limits.BlockSize-1)))
		f.image = append(larger[:0], f.image...)
	}
	if len(f.image) == 0 {
		f.image = f.image[:limits.FrameHeaderSize]
	}
}

// blockFor returns the block that takes the next n bytes of group.
func (f *Frame) blockFor(group uint64, n int) *buffer {
	if last := len(f.bufs) - 1; last >= f.claimed {
		buf := f.bufs[last]
		held := buf.size
		switch {
		case held >= f.blockSize:
		case held > 0 && held+n > 2*f.blockSize:
			// A long run gets a block of its own: what is packed stays small, and no
			// block grows over limits.MaxBlockRawSize.
		case held >= pureSize && !buf.mixed && buf.group != group:
		default:
			return buf
		}
	}
	buf := f.free.buffer()
	buf.group, buf.at = group, max(len(f.image), limits.FrameHeaderSize)
	f.bufs = append(f.bufs, buf)
	return buf
}

// Ride has r told when the frame lands. Riding again right after is free and
// changes nothing; a rider that comes back after others have boarded is told
// once more, unless it compares Serial. A frame that carries riders and no
// command is never submitted or published: it lands as soon as everything
// before it has, which is what an answer that changes nothing has to wait for.
func (f *Frame) Ride(r Rider) {
	if n := len(f.riders); n > 0 && f.riders[n-1] == r {
		return
	}
	f.riders = append(f.riders, r)
}

// Watch has w told mark when the frame is written, before its riders are told that
// it has landed. It is for those who ride: a frame is neither sealed nor kept for
// its watchers, and one that is never submitted is never written.
func (f *Frame) Watch(w Watcher, mark uint64) { f.watches = append(f.watches, watch{w, mark}) }

// Empty reports whether the frame holds neither a command nor a rider.
func (f *Frame) Empty() bool { return f.commands == 0 && len(f.riders) == 0 }

// Commands returns how many commands the frame holds.
func (f *Frame) Commands() int { return f.commands }

// RawSize returns the bytes of commands and records in the frame, uncompressed.
func (f *Frame) RawSize() int { return f.rawSize }

// Meta returns the commands, one after the other as they were added.
func (f *Frame) Meta() []byte { return f.meta }

// Blocks returns the blocks as they are to be stored. It is for Submit, and for
// Publish when the frame landed without an error.
func (f *Frame) Blocks() []Block { return f.blocks }

// Image returns what the frame may be written from without copying its blocks: memory
// from Options.Memory with room for a header of limits.FrameHeaderSize bytes, then the
// blocks as they are stored, each behind the one before. Behind them it has
// capacity for Meta, a table of the blocks and padding. It is nil for a frame without
// blocks. It is for Submit, which may write around the blocks.
func (f *Frame) Image() []byte { return f.image }

// Attach remembers v with the frame until its riders have been told.
func (f *Frame) Attach(v any) { f.attached = v }

// Attached returns what was last attached to the frame, nil if nothing was.
func (f *Frame) Attached() any { return f.attached }

// bare reports whether there is nothing in the frame to write.
func (f *Frame) bare() bool { return f.commands == 0 && !f.inserted }

// claim takes the blocks that are full and that nobody took yet, for the caller
// to pack outside the lock. REQUIRES: the bus's lock.
func (f *Frame) claim(p *policy) *buffer {
	closed := len(f.bufs) - 1
	if closed >= 0 && f.bufs[closed].size >= f.blockSize {
		closed++
	}
	var head *buffer
	for ; f.claimed < closed; f.claimed++ {
		buf := f.bufs[f.claimed]
		buf.raw = f.image[buf.at : buf.at+buf.size]
		buf.tried = p.chooseFilling()
		buf.next, head = head, buf
		f.working.Add(1)
	}
	return head
}

// pack compresses and checksums claimed blocks.
func (f *Frame) pack(list *buffer, clock func() int64) {
	for list != nil {
		buf := list
		list, buf.next = buf.next, nil
		buf.pack(clock)
		f.working.Done()
	}
}

// finish packs what nobody claimed, waits for what somebody did, and makes the
// block table and the image. REQUIRES: the frame is sealed, and the caller its driver.
func (f *Frame) finish(clock func() int64) {
	for _, buf := range f.bufs[f.claimed:] {
		buf.raw = f.image[buf.at : buf.at+buf.size]
		buf.pack(clock)
	}
	f.working.Wait()
	f.stored = len(f.meta)
	if len(f.bufs) == 0 {
		return
	}
	f.reserve(len(f.meta) + len(f.bufs)*tableEntry + limits.BlockSize)
	at := limits.FrameHeaderSize
	for _, buf := range f.bufs {
		// A block that was compressed takes less than what it was made of, so what
		// follows moves towards the front, and never over what has not moved yet.
		b := buf.block
		from := f.image[buf.at : buf.at+buf.size]
		if b.Codec != codec.None {
			from = b.Stored
		}
		b.Stored = f.image[at : at+len(from) : at+len(from)]
		if b.Codec != codec.None || buf.at != at {
			copy(b.Stored, from)
		}
		at += len(from)
		f.blocks = append(f.blocks, b)
	}
	f.image = f.image[:at]
	f.stored += at - limits.FrameHeaderSize
}

// tableEntry is at least what a block needs in a frame's directory, in bytes.
const tableEntry = 32

// pack makes the block that is stored; where it lies, finish says.
func (buf *buffer) pack(clock func() int64) {
	buf.block = Block{RawSize: uint32(len(buf.raw)), Stored: buf.raw}
	if buf.tried != codec.None {
		began := clock()
		buf.packed = buf.tried.Compress(buf.packed[:0], buf.raw)
		buf.took = clock() - began
		if worthStoring(len(buf.raw), len(buf.packed)) {
			buf.block.Codec, buf.block.Stored = buf.tried, buf.packed
			buf.block.Checksum = crc32.Checksum(buf.packed, castagnoli)
			return
		}
	}
	buf.block.Checksum = crc32.Update(buf.sum, castagnoli, buf.raw[buf.summed:])
}

// A freeList keeps frames and buffers for reuse, guarded by the bus's lock. It
// never has more frames than were in use at once, with images of twice what makes
// a frame full at most, nor more than keep buffers, of four block sizes of memory at most.
type freeList struct {
	frames    []*Frame
	buffers   *buffer
	blockSize int
	fullSize  int
	memory    func(n int) []byte
	kept      int // buffers on the list
	keep      int // most of them
}

// buffer returns an empty one. A nil list makes it new.
func (l *freeList) buffer() *buffer {
	if l == nil || l.buffers == nil {
		return new(buffer)
	}
	buf := l.buffers
	l.buffers, buf.next = buf.next, nil
	l.kept--
	return buf
}

// frame returns an empty one.
func (l *freeList) frame() *Frame {
	if n := len(l.frames); n > 0 {
		f := l.frames[n-1]
		l.frames = l.frames[:n-1]
		return f
	}
	return &Frame{blockSize: l.blockSize, memory: l.memory}
}

// put takes back a frame nobody refers to any more.
func (l *freeList) put(f *Frame) {
	for _, buf := range f.bufs {
		// One giant batch must not hold its memory for ever.
		if l.kept == l.keep || cap(buf.packed) > 4*l.blockSize {
			continue
		}
		*buf = buffer{next: l.buffers, packed: buf.packed[:0]}
		l.buffers = buf
		l.kept++
	}
	clear(f.bufs)
	clear(f.blocks)
	clear(f.riders)
	clear(f.watches)
	meta := f.meta[:0]
	if cap(meta) > 2*l.fullSize {
		meta = nil
	}
	image := f.image[:0]
	if cap(image) > max(minImage, 2*l.fullSize) {
		image = nil
	}
	// Field by field: a WaitGroup is not copied.
	f.Ticket, f.Serial, f.Tag = 0, 0, 0
	f.free, f.meta, f.image, f.bufs, f.blocks, f.riders = nil, meta, image, f.bufs[:0], f.blocks[:0], f.riders[:0]
	f.watches = f.watches[:0]
	f.attached, f.commands, f.rawSize, f.stored, f.claimed = nil, 0, 0, 0, 0
	f.inserted, f.full, f.lone, f.err = false, false, false, nil
	f.opened, f.sealed, f.submitted, f.landed, f.service = 0, 0, 0, 0, 0
	l.frames = append(l.frames, f)
}
