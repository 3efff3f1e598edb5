// Package docstore is a small document store that keeps its write-ahead log in
// walsvc: what a storage engine on top of the service looks like, step by step, and
// what the demonstration kills. docs/guide.md goes through it.
//
// Keys are spread over shards, each with a log, and within a shard over pages, which
// are what is written to disk and read from it. All of it that matters is in
// store.go, and of readers in replica.go.
//
// # The steps
//
//	takeOver    acquires the log's writer. Whoever had it is fenced from then on:
//	            what it still sends lands nowhere, wherever it waits
//	recover     loads the pages that the checkpoint names and applies the records
//	            behind it
//	Start       appends an operation at the LSN that this writer knows it will get,
//	            and applies it. Nobody is told yet
//	Wait, Get   tell what is durable
//	checkpoint  begins a checkpoint, writes the pages, none that is ahead of what is
//	            durable, and completes it: the log goes up to there
//	watch       hears what is durable, and that somebody else has taken over
//	Resolve     says what became of an operation whose outcome is unknown
//	Replica     follows the logs, and holds what it has not got with a cursor
//
// # What is in memory
//
// Pages are ahead of the log's durable end by the operations that are under way. So
// operations follow each other without waiting for the disk, and three rules keep what
// could still be lost from being seen: an operation's user is told when it is durable,
// a reader gets its answer when that is, and a page is written when its last operation
// is.
//
// An operation that is refused, or of which nobody knows what became, leaves pages
// that have it, and others that were applied on top. There is no undoing: the store
// ends, and is opened again, which reads what is true from the log. Nothing that was
// appended behind a refused operation lands, since each states the LSN that it must get.
//
// # Two at once
//
//	node-a                        walsvc                     node-b
//	Start: LSN 105 ─────────────► is on its way
//	                              epoch 3 begins ◄────────── takeOver
//	                 105 FENCED                    ────────► recover, up to 104
//	page of LSN 105 is dirty                       ◄──────── Start: LSN 105
//	                              105 is durable, node-b's
//
// Node-a must not write its page now, though LSN 105 is durable, nor complete a
// checkpoint there. Its waits and checkpoints state its epoch, as its appends do, and
// are fenced likewise; the files of pages have the epoch in their names, so that two
// engines on one directory never write the same one. Each removes what it has
// replaced, and what earlier epochs left behind, but nothing of a later epoch.
//
// There is no orderly stop: Close leaves behind what a crash leaves behind.
package docstore
