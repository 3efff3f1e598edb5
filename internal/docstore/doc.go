// Package docstore is a small document store that keeps its write-ahead log in
// walsvc: what a storage engine on top of the service looks like, and what the
// demonstration kills.
//
// # One put
//
//	Session.Put   encode the operation, append it to the log of the key's shard;
//	              nothing is applied yet
//	walsvc        makes the record durable and answers with its LSN
//	Shard         follows its log and applies what comes, in the order of LSNs:
//	              key -> document
//
// There is one way into the maps: following the log. A live store and one that
// recovers run the same code, and no write is visible that could still be lost.
//
// # Checkpoint
//
// A shard's checkpoint is a file of its own and a walsvc checkpoint that names it:
//
//  1. copy the map and the LSN applied last
//  2. write shard-I-LSN.checkpoint.tmp, sync it, rename it, sync the directory
//  3. set the walsvc checkpoint of the shard's log: LSN, and the file's name as state
//  4. truncate the log below: the records are not needed any more
//  5. remove the files that no walsvc checkpoint names
//
// A crash between any two steps leaves a file that the walsvc checkpoint names
// and every record behind it. Step 3 is what counts: the file of a step 2
// without a step 3 is a stranger, removed the next time.
//
// # Recovery
//
// Ask walsvc for the checkpoint, load the file that it names, follow the log
// from the record behind. Without a checkpoint, begin with nothing at LSN 1. The store is
// open when it has applied everything that was durable when it asked.
//
// There is no orderly stop: Close leaves behind what a crash leaves behind.
package docstore
