package batcher

import (
	"fmt"
	"runtime"
	"time"

	"github.com/walsvc/walsvc/internal/limits"
)

// loop drives frames that no lone appender drives, until the bus is closed.
func (b *Bus) loop() {
	defer close(b.stopped)
	defer b.timer.Stop()
	for {
		b.mu.Lock()
		b.summoned = false
		for !b.driving && !b.waiting {
			b.gather()
			if b.sealable() {
				b.letBoard()
			}
			f := b.next()
			if f == nil {
				break
			}
			b.ride(f)
		}
		if b.drained() {
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		select {
		case <-b.signal:
		case <-b.timer.C:
			b.quiet()
		}
	}
}

// drained reports that a closing bus has nothing left to do. REQUIRES: mu.
func (b *Bus) drained() bool {
	return b.closing && b.isIdle() && b.open.Empty() && !b.filling
}

// unlock gives up the lock, and wakes the loop if there is work for it.
func (b *Bus) unlock() {
	wake := !b.summoned && !b.driving && !b.waiting && (b.sealable() || b.drained())
	if wake {
		b.summoned = true
	}
	b.mu.Unlock()
	if !wake {
		return
	}
	// A signal that lies there already does for this look too: who takes it locks mu
	// after what is new. It may lie there: the loop, up by its timer or by an older
	// signal, reset summoned between our giving up mu and our sending. Waiting to send
	// would then be waiting for a loop that may have drained the bus and ended.
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// quiet is called when the timer went off, and asks Idle for a frame if nothing
// has come for IdleDelay.
func (b *Bus) quiet() {
	b.mu.Lock()
	left := time.Duration(b.lastLand-b.clock()) + b.o.IdleDelay
	switch {
	case b.err != nil || b.closing:
		b.armed = false
	case !b.isIdle() || b.open.commands > 0:
		// It looks again: riders that wrote nothing set no timer when they land.
		b.timer.Reset(b.o.IdleDelay)
	case left > 0:
		b.timer.Reset(left)
	default:
		b.armed = false
		f := b.newFrame()
		f.inserted = true
		b.mu.Unlock()
		rides := b.o.Idle(f)
		b.mu.Lock()
		switch {
		case b.err != nil:
		case rides:
			b.inserts = append(b.inserts, f)
		default:
			b.free.put(f)
		}
	}
	b.mu.Unlock()
}

// gather waits for those who were just told, while that pays: see gather.Policy. It
// lets others run instead of setting a timer, which would be late by more than
// fast disks take. REQUIRES: mu, held again when it returns.
func (b *Bus) gather() {
	if b.decided || b.o.NoGathering || !b.mayWait() {
		return
	}
	b.decided = true
	if !b.gathering.Begin(b.clock()-b.lastLand, len(b.open.riders)) {
		return
	}
	b.waiting = true
	for b.mayWait() && b.gathering.Look(b.clock()-b.lastLand, len(b.open.riders)) {
		b.mu.Unlock()
		runtime.Gosched()
		b.mu.Lock()
	}
	b.waiting = false
}

// letBoard lets everybody run who is ready to, if there is only one processor to run on:
// who waits for the disk in a system call keeps it, and those behind find the disk
// idle one after the other.
//
//	one processor: reader 1     boards, drives, syncs
//	               reader 2                          boards, drives, syncs
//	               reader 3                                               boards, ...
//
// With more of them, the others board while one waits. REQUIRES: mu, held again when it
// returns, and that nobody drives or waits: nobody will have.
func (b *Bus) letBoard() {
	if runtime.GOMAXPROCS(0) > 1 {
		return
	}
	b.waiting = true
	b.mu.Unlock()
	runtime.Gosched()
	b.mu.Lock()
	b.waiting = false
}

// mayWait reports that a frame which waits keeps nobody but those on board. REQUIRES: mu.
func (b *Bus) mayWait() bool {
	return b.err == nil && !b.closing && !b.driving && len(b.flight) == 0 && len(b.inserts) == 0 && !b.isFull(b.open)
}

// next seals the frame whose turn it is, or returns nil if the disk is not ready
// for one or there is none. REQUIRES: mu, nobody is driving.
func (b *Bus) next() *Frame {
	if !b.sealable() {
		return nil
	}
	// Inserted frames and those of commands take turns while both wait.
	if len(b.inserts) > 0 && (b.open.commands == 0 || !b.inserted) {
		f := b.inserts[0]
		b.inserts = b.inserts[:copy(b.inserts, b.inserts[1:])]
		return b.seal(f)
	}
	return b.sealOpen()
}

// sealable reports whether next would seal a frame. REQUIRES: mu.
func (b *Bus) sealable() bool {
	switch {
	case len(b.flight) >= b.o.Depth:
		return false
	case len(b.inserts) > 0 || b.open.commands > 0:
		return true
	}
	// Riders alone land with what is in flight, never before it: there is no
	// need to seal them until it has, and better company may come.
	return len(b.open.riders) > 0 && len(b.flight) == 0
}

// sealOpen seals the open frame and puts an empty one in its place.
func (b *Bus) sealOpen() *Frame {
	f := b.open
	f.full = b.isFull(f)
	b.open = b.newFrame()
	b.open.free = &b.free
	return b.seal(f)
}

// seal gives f its ticket and decides how what nobody claimed is compressed.
func (b *Bus) seal(f *Frame) *Frame {
	b.ticket++
	f.Ticket = b.ticket
	f.sealed = b.clock()
	b.inserted = f.inserted
	b.flight = append(b.flight, f)
	b.policy.chooseSealing(f)
	b.room.Broadcast()
	return f
}

// driveAlone takes the frame of a single appender to the disk on the
// appender's own goroutine. REQUIRES: mu, which it gives up; the bus is idle.
func (b *Bus) driveAlone() (landed bool) {
	f := b.sealOpen()
	ticket := f.Ticket
	f.lone = true
	b.ride(f)
	landed = b.told >= ticket
	b.unlock()
	return landed
}

// ride finishes and submits a frame that has just been sealed, without the
// lock, which it holds again when it returns. A bare one lands right away: it is
// sealed only when nothing is in flight. REQUIRES: mu, nobody is driving.
func (b *Bus) ride(f *Frame) {
	if f.bare() {
		b.markLanded(f, nil)
		b.tell()
		return
	}
	b.driving = true
	b.mu.Unlock()
	f.finish(b.clock)
	f.submitted = f.sealed
	if diskSize(f.rawSize) > limits.BlockSize {
		// A frame that small is not compressed; reading the clock would cost more
		// than its checksum did.
		f.submitted = b.clock()
	}
	// After a failure f has landed with it already, and writing would only
	// disturb the evidence.
	if !b.failed.Load() {
		b.o.Submit(f)
	}
	b.mu.Lock()
	b.driving = false
}

// Written reports that a frame that Submit has is written and not durable yet, and
// tells those who watch it: once at most, and before Landed. It costs a frame that
// nobody watches nothing, and takes no lock: a frame that is sealed takes no more
// watchers. If somebody calls Fail meanwhile, a watcher may be told after it was told
// as a rider that the frame's outcome is unknown: what it hears then means nothing.
func (b *Bus) Written(f *Frame) {
	if len(f.watches) == 0 || b.failed.Load() {
		return
	}
	for _, w := range f.watches {
		w.watcher.Written(w.mark)
	}
}

// Landed reports that the frame with ticket is durable, or with an error that
// it, and everything behind it, is lost or unknown. Landed is called once for
// every submitted frame, in order, and panics otherwise: an acknowledgement out
// of order must not get out. The first error is final; later calls are ignored.
// Publish and the riders have been called when it returns, unless another
// goroutine was telling them already, which then goes on to this frame.
func (b *Bus) Landed(ticket uint64, err error) {
	b.mu.Lock()
	if b.err != nil {
		b.mu.Unlock()
		return
	}
	if b.done == len(b.flight) || b.flight[b.done].Ticket != ticket {
		b.mu.Unlock()
		panic(fmt.Sprintf("batcher: frame %d landed out of order", ticket))
	}
	f := b.flight[b.done]
	f.landed = b.clock()
	f.service = f.landed - max(f.submitted, b.lastLand)
	if err == nil && !f.inserted {
		b.gathering.Landed(len(f.riders), len(b.open.riders), f.service, f.landed-b.lastLand)
		b.decided = false
	}
	b.lastLand = f.landed
	if err != nil {
		b.fail(err)
	} else {
		b.markLanded(f, nil)
	}
	b.tell()
	b.unlock()
}

// Fail makes everything on board and in flight land with err, which must not be
// nil, and refuses everybody from now on. It is for failures that are noticed
// outside Submit. A frame that is being submitted may still be written; its
// Landed is ignored. Only the first failure counts.
func (b *Bus) Fail(err error) {
	b.mu.Lock()
	if b.err == nil {
		b.fail(err)
		b.tell()
	}
	b.unlock()
}

// markLanded makes f, the lowest that is not, ready to be told. REQUIRES: mu.
func (b *Bus) markLanded(f *Frame, err error) {
	f.err = err
	b.done++
}

// fail latches err and marks every frame with it, those not sealed included:
// they land behind those in flight. REQUIRES: mu, no failure before.
func (b *Bus) fail(err error) {
	b.err = err
	b.failed.Store(true)
	for _, f := range b.inserts {
		b.seal(f)
	}
	b.inserts = nil
	if !b.open.Empty() {
		b.sealOpen()
	}
	for b.done < len(b.flight) {
		b.markLanded(b.flight[b.done], err)
	}
	b.room.Broadcast()
}

// tell publishes the frames that have landed and tells their riders, in order,
// without the lock. If another goroutine is at it, that one goes on instead.
// REQUIRES: mu, held again when it returns.
func (b *Bus) tell() {
	if b.landing {
		return
	}
	b.landing = true
	for b.done > 0 {
		f := b.flight[0]
		b.mu.Unlock()
		if !f.bare() && b.o.Publish != nil {
			b.o.Publish(f, f.err)
		}
		for _, r := range f.riders {
			r.Landed(f.Ticket, f.err)
		}
		if !f.bare() && f.err == nil && b.o.Events.FrameLanded != nil {
			b.o.Events.FrameLanded(f.info(b.clock()))
		}
		b.mu.Lock()
		b.arrived(f)
	}
	b.landing = false
}

// arrived takes the lowest frame, whose riders have been told, off the flight
// and learns from it. REQUIRES: mu.
func (b *Bus) arrived(f *Frame) {
	b.flight = b.flight[:copy(b.flight, b.flight[1:])]
	b.done--
	b.told = f.Ticket
	if f.err != nil {
		// Not reused: its driver, an appender or Submit may still be at it.
		return
	}
	if !f.bare() {
		b.count(f)
		b.policy.disk.processors = float64(runtime.GOMAXPROCS(0))
		b.policy.learn(f)
		if b.o.Idle != nil && !b.armed {
			b.armed = true
			b.timer.Reset(b.o.IdleDelay)
		}
	}
	b.free.put(f)
}

// count adds a frame to the statistics. REQUIRES: mu.
func (b *Bus) count(f *Frame) {
	s := &b.stats
	s.Frames++
	if f.inserted {
		s.Inserted++
	}
	if f.full {
		s.Full++
	}
	if f.lone {
		s.LoneRides++
	}
	s.Commands += uint64(f.commands)
	s.RawSize += uint64(f.rawSize)
	s.StoredSize += uint64(f.stored)
	for i := range f.blocks {
		s.Blocks[f.blocks[i].Codec]++
	}
}

// info describes a frame that has landed without an error and whose riders
// had been told at the time told.
func (f *Frame) info(told int64) FrameInfo {
	var fill time.Duration
	if f.opened != 0 {
		fill = time.Duration(f.sealed - f.opened)
	}
	var pack int64
	for _, buf := range f.bufs {
		pack += buf.took
	}
	return FrameInfo{
		Ticket:     f.Ticket,
		Tag:        f.Tag,
		Commands:   f.commands,
		Riders:     len(f.riders),
		Blocks:     len(f.blocks),
		RawSize:    f.rawSize,
		StoredSize: f.stored,
		Full:       f.full,
		Lone:       f.lone,
		Fill:       fill,
		Pack:       time.Duration(pack),
		Compress:   time.Duration(f.submitted - f.sealed),
		Land:       time.Duration(f.landed - f.submitted),
		Tell:       time.Duration(told - f.landed),
		Attached:   f.attached,
	}
}
