// Package certify tests whether a disk, with its file system and mount options,
// keeps what it said is durable.
//
// Every promise of walsvc rests on one of the disk: when a sync has returned,
// what it covers survives. Disks, controllers, hypervisors and mount options
// break it, quietly, for years, until the power goes. No program can see that
// from above; it can only look for what speaks against the disk, and compare
// after a cut. So there are three means, and a verdict never says more than the
// means that were used:
//
//	Inspect     at once, by anybody: what the system says of the file system, its
//	            options and the devices below; whether every operation that a
//	            volume needs works; whether syncs take a plausible time; and
//	            whether each sync makes the device write and empty its cache,
//	            which Linux counts. It can speak against a disk, never for one.
//	Cuts        a crash of the file system alone, as root, on a mount of its own:
//	            it is shut down under load without writing its journal out,
//	            unmounted and mounted again. It tests the file system and the
//	            kernel. What the device holds in its cache stays there.
//	Witnessed   the power cut: load runs, another machine keeps the record of
//	and After   what was acknowledged, somebody pulls the plug, and after the
//	            restart what is there is compared with the record.
//
// Killing the process is none of them: the page cache outlives it, so a disk
// whose syncs do nothing passes.
//
// # The load
//
// Load runs in lanes, each one goroutine that makes one step after the other and
// counts a step as acknowledged when its sync has returned:
//
//	blocks     overwrites one of many written blocks, then syncs the file
//	files      creates, appends, renames over another and removes files, each
//	           followed by the sync that makes it durable: of file or directory
//	journal-N  appends batches to a log of a walsvc volume, and sets checkpoints,
//	           with all its rolling, recycling and snapshots below
//
// What a step writes is a function of the run and its number alone, so the whole
// record of a run is one number for each lane. And since a lane makes one step
// at a time, whatever is found of step n proves that n-1 was acknowledged,
// whether or not the witness heard of it; only n+1 can have been under way.
// What was under way may be there, not be there or be torn. Everything else:
//
//	lost         an acknowledged step left no trace, or an older one is there
//	torn         what an acknowledged step wrote does not verify
//	reappeared   what an acknowledged step removed or replaced is there
//
// # Whether the cut was one
//
// A cut that drops nothing proves nothing: the machine was shut down in order,
// the page cache belonged to a hypervisor that lived on, the wrong machine lost
// its power. So beside the load blocks are written that nobody syncs. If all of
// them are found after a cut, the verdict is "inconclusive", however much else was
// found. After a power cut the kernel's boot ID must be another one, too.
package certify
