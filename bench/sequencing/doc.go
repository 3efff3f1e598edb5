// Command sequencing asks Dynomite's question of walsvc: what does it cost to
// hand a small step to somebody else? Dynomite answered a routing lookup inline
// 85,000 times a second, and 12,000 times when each call was handed to a process
// of its own.
//
// The step is what package wal does of an append under the bus's lock: find the
// log, check the producer's sequence, assign the LSN, carry the log's checksum
// on, and put the command and the bytes of the records into the open frame. It is
// done by one function, whoever calls it:
//
//	inline     under a lock, on the goroutine that has the append: what walsvc does
//	owner      one goroutine owns the state; it takes appends from a channel, one by
//	           one, and answers each
//	drained    the same at its best: appends queue in a slice, and the owner takes all
//	           that are there in one go
//	goroutine  one for each append, which takes the lock, sequences and answers
//
// Their callers wait for each verdict. Two more have callers that do not, as a
// stream at full speed does not, but have up to 64 appends under way:
//
//	together   inline: as many as a message brings, here 32, under one lock; what
//	           walsvc does with a message
//	posted     the owner at its best: appends are queued one by one, and their caller
//	           goes on until 64 are under way, to be woken when half of these are done
//
// # Why this is fair
//
// The step is wal's own code where that can be had from outside, wal.State.Apply
// and wal.AppendCommand, with the same checks in the same order before; the frame
// is two buffers, as that of the bus is, and starts over when it is as full as one
// that would be sealed. Nothing else is there: no disk, no frame that lands, no
// codec, all of which come later and are the same for every way.
//
// What needs no state, walking the run and summing it, is done by the caller
// before, as wal does it, so that the owner has no more to do than the lock
// guards. Every caller has a log and a producer of its own, and its appends have
// to be sequenced in their order: that is checked, and is why a goroutine for each
// append cannot go without a caller that waits.
//
// Answers go back over a channel that was made once; nothing is allocated for an
// append but what its way needs; and whoever waits parks, as in a server that has
// other work. Callers do nothing but append, so the lock is contended for as it
// never is where a disk is waited for in between.
//
//	go run ./sequencing
//	go test ./sequencing -run '^$' -bench . -count 10 > new.txt
package main
