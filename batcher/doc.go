// Package batcher is the bus: it merges what arrives while the disk is busy
// into one frame, compresses it while the frame before is being written, hands
// it on, and tells everybody on board, strictly in order, when it has landed.
// It knows nothing about logs, commands, segments or gRPC.
//
// # One ride
//
//	appenders            Board: lock, wait while the frame is full
//	                     AddCommand, AddRecords, Ride: into the open frame
//	                     Leave: unlock; compress the blocks this call filled;
//	                     if nobody is driving and the disk is idle, drive
//	driver               seal: take the open frame, put a new one in its place
//	                     finish: compress what is left, checksum
//	                     Submit: whoever orders frames writes and syncs it
//	                     Landed: Publish, then every Rider, in ticket order
//
// There is one lock. It guards the open frame, and the caller's sequencing
// step runs under it: Board takes it and Leave gives it back, so that the
// order in which commands were decided is the order in which they ride.
//
// # When a frame is sealed
//
// When the disk is ready for one (fewer than Depth frames handed on and not
// landed), or when it is full. No timer makes an idle system wait, and no
// target size makes a busy one: the frame is whatever arrived meanwhile, so the
// system balances itself.
//
//	time ->
//	fill      |  N+1 ........|  N+2 .....|  N+3
//	compress  |  N+1 . . . . |  N+2 . .  |
//	write     |  N ====      |  N+1 ==   |
//	sync      |      ========|     ======|
//
// # Who drives
//
// A lone append on an idle disk drives its own frame: handing it to another
// goroutine would cost two switches, a tenth of the disk's time. While it
// drives, others board the next frame, and when it returns the loop goroutine
// takes over for as long as there is work: a driver never drives twice, so no
// appender works for the others for longer than one frame.
//
// # Back-pressure
//
// A full frame (FullSize raw bytes or MaxCommands) takes nobody until it is
// sealed; Board waits. With Depth frames handed on, memory is bounded by
// (Depth+1) x (FullSize + one caller's bytes) raw, and the same compressed.
//
// # Compression
//
// Blocks of about BlockSize are compressed by the appender that filled them,
// outside the lock. The codec is fixed or automatic: a pure policy compares
// what a codec costs (nanoseconds and stored bytes per raw byte, sampled) with
// what the disk costs per byte (the slope of measured times over bytes), and
// takes the codec only if it pays for itself. A block that does not shrink is
// stored as it came. A frame that fits one disk block is never compressed:
// there is nothing to save.
//
// # Failure
//
// When a frame lands with an error, every frame behind it lands with that
// error too, in order, and Board returns it ever after.
package batcher
