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
//	                     if nothing else is under way, drive
//	driver               seal: take the open frame, put a new one in its place
//	                     finish: compress what is left, checksum
//	                     Submit: whoever orders frames writes and syncs it
//	                     Written, for those who Watch the frame: in between
//	                     Landed: Publish, then every Rider, in ticket order
//
// There is one lock. It guards the open frame, and the caller's sequencing
// step runs under it: Board takes it and Leave gives it back, so that the
// order in which commands were decided is the order in which they ride.
//
// An answer that changes nothing, a refusal say, waits for the state it was
// decided on by riding without a command. A frame of such riders alone is not
// written: it lands when what was before it has.
//
// Who wants to know that its frame is written, before it is durable, watches it as
// well. That is a list of its own, which nobody else pays for, and nothing hangs on
// it: a frame lands whether or not anybody was told that it was written.
//
// Frames that are not commands, parts of a snapshot say, are inserted. While
// both kinds wait they take turns, so neither starves the other.
//
// # When a frame is sealed
//
// When the disk is ready for one: fewer than Depth frames handed on and not
// landed. No timer makes an idle system wait, and no target size makes a busy
// one: the frame is whatever arrived meanwhile, so the system balances itself.
// A frame that is full waits for the disk too, it only takes nobody more.
//
//	time ->
//	fill      |  N+1 ........|  N+2 .....|  N+3
//	compress  |  N+1 . . . . |  N+2 . .  |
//	write     |  N ====      |  N+1 ==   |
//	sync      |      ========|     ======|
//
// Before it seals, the loop lets those board who have just been told, if it has
// measured that this carries more: callers that each wait for their own append
// would ride in two halves else, with a sync each. It waits for a part of the
// disk's own time at most, while they keep coming, and only if at least two are
// there to share a frame: a lone appender and an idle bus wait for nobody. The
// policy is pure, too (see package gather).
//
// # Who drives
//
// A lone append on an idle disk drives its own frame: handing it to another
// goroutine would cost two switches, a tenth of the disk's time. While it
// drives, others board the next frame, and when it returns the loop goroutine
// takes over for as long as there is work: a driver never drives twice, so no
// appender works for the others for longer than one frame. Whoever brings more
// than LoneSize does not drive either: it is a stream at full speed, and what it
// could take on board meanwhile is worth more than two switches.
//
// # Back-pressure
//
// A full frame (FullSize raw bytes, MaxCommands commands or as many riders)
// takes nobody until it is sealed; Board waits. With Depth frames handed on, what
// is on board is bounded by (Depth+1) x (FullSize + one caller's bytes) raw, and
// the same compressed, besides one inserted frame that waits. Memory kept for
// reuse is bounded by (Depth+1) x (FullSize/BlockSize + 1) buffers for compressing, of four
// BlockSize each, and as many frames as were in use at once, of twice FullSize.
//
// # Copies
//
// A run is copied once, into the image of the frame that it boards (Frame.Image): aligned
// memory with room for a header in front, which the frame is written from. What is
// stored as it came stays where it is; what is compressed is copied back into the
// image, and what follows it moves up.
//
// # Compression
//
// Blocks of about BlockSize are compressed by the appender that filled them,
// outside the lock, while the frame before is on its way. The codec is fixed or
// automatic: a pure policy (see policy.go) weighs what a codec takes, sampled,
// against what the disk takes for a byte, the slope of measured times over
// sizes, and uses the codec only if it pays for itself. A block that shrinks by
// less than an eighth is stored as it came. A frame that fits one disk block is
// never compressed: there is nothing to save.
//
// # Failure
//
// When a frame lands with an error, or somebody calls Fail, every frame behind
// lands with that error too, in order, the open one last, and Board returns it
// ever after. Memory of those frames is not reused: a driver that hangs in
// Submit may still be reading it.
package batcher
