// Command crossover finds where compressing begins to pay: frames of a size, on a
// disk, with each codec and with the automatic choice of package batcher.
//
// What runs is the engine's own bus over its own journal (bench.Rig). Frames have
// the size that is wanted because the bus takes a frame for full at that size and
// there are three frames' worth of callers: one on its way, one that fills, and
// one that waits for room. Each caller appends an eighth of a frame, 32 KiB at the
// most, of records of 400 B cut from JSON documents, and waits until that is
// durable. Where a disk is faster than frames can be filled they stay smaller, as
// in a service; tables have what was reached.
//
// Below the size of a block (128 KiB) a frame is compressed after it was sealed,
// while the disk has nothing to do; above, mostly while the frame before is on its
// way. So there is not one crossover but one for each.
//
// Each codec has a bus of its own, which goes on from round to round, so that the
// automatic choice is measured as it is when it knows disk and data. Codecs take
// turns in each round, another one first each time. A rate is that of the frames
// that landed between the first and the last landing of a measurement, so that it
// does not depend on where in a frame the clock stopped.
//
// With -pairs, the automatic choice and the fixed codec that was best in its cell
// are measured in turn so many times more, and the command fails if the median of
// a cell's ratios says that the automatic choice is more than 10% behind. The pairs
// are also written for benchstat, with -out.
//
//	go run ./crossover
//	go run ./crossover -disks hdd,nvme -sizes 64,4096
//	go run ./crossover -pairs 10 -out /tmp/crossover
package main
