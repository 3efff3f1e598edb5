// Package wal is what a log is: any number of named logs over one journal, the
// order of things, the state they have, and where their records lie. It knows
// no gRPC, no protobuf and no Prometheus.
//
// # The life of an append
//
//	1 Appender.Append   walk and sum the records, outside every lock
//	2 Volume.board      wait for room on the bus; is there written space?
//	3 Volume.sequence   against the state ahead: a repeat? the epoch, the
//	                    expected LSN, the quota; assign LSNs. What is refused
//	                    consumes nothing.
//	4 Volume.put        the command into the open frame's directory, its bytes
//	                    into a block; the state ahead moves on
//	5 batcher.Bus       seals the frame when the disk is ready, compresses
//	6 localOrderer      segment.Journal.Append and Sync
//	7 Volume.publish    the commands go into the durable state and the index:
//	                    only now do readers, followers, status and checkpoints
//	                    see them
//	8 Appender.Landed   the stream's verdicts may be told, in order
//
// Step 3 runs under the bus's lock, so the order of decisions is the order in
// the journal. A refusal rides too: it waits for the frame with what it was
// decided on, since an answer must not show what a crash could take back.
//
// Between writing and syncing in step 6, seats that asked for it are told that what
// they appended is written. It is no verdict, changes no state, and is shown to
// nobody else: it says that the batches are in the hands of the file system, from
// where they survive this process, and that a crash of the machine may take them.
// Whether the page cache has them or, for writes that bypass it, the disk's own, is
// all the same: no more is promised. An orderer that writes and syncs in one step
// would leave the stage out, and nobody waits for it.
//
// # Who may append
//
// A log without a writer is shared: whoever states no epoch, or the log's, appends.
// Acquiring a writer is a command, as is releasing it, and each begins an epoch; step
// 3 holds every batch against the epoch that is ahead, so that what lies behind the
// command in the journal has none of an older epoch, and what lies in front of it is
// below the next LSN that the writer is told. Both are told when they are durable:
// nobody hears of an epoch that a crash takes back, and no two of the same one.
//
// A producer is in an incarnation. Resolving what became of one of its batches begins
// the next one, by a command too, and step 3 refuses what was bound in an older one:
// what was not written then never is, wherever it is on its way. A repeat comes before
// the epoch, and an incarnation before the repeat: who was fenced may ask what became
// of its batches by sending them again, who was superseded has somebody who knows.
//
// # How a log ends
//
// Sealing a log is a command. Step 3 asks for it where it asks for the epoch, in front
// of that: a repeat comes first, so that who sends again what it does not know the
// fate of hears where it is, and FENCED, which invites to acquire the writer once
// more, does not come for a log that nobody will append to. It says how far the log
// had come, which makes an end that a repair has lost the way to whole again. In a
// sealed log no epoch begins and no producer is opened that it does not remember; one
// that it does comes back for its verdicts. Whoever follows it or waits for more is
// woken by the seal, and ends at the last record. Retention does not ask for it.
//
// # A batch over several logs
//
// One batch may append to several logs: it has one sequence and one verdict, and
// all of it lands or nothing. Its own log is the lead, whose producer counts it; the
// others are parts. Step 3 asks everything of every log before it takes anything of
// one, so that one refusal refuses all, and step 4 puts one command for each log
// into the open frame, the lead's first:
//
//	append       data   sequence 7  LSN 40-41  2 parts
//	append-part  index  lead data   LSN 12
//	append-part  stats  lead data   LSN 9-10
//
// A frame is the unit of writing, of tearing and of publishing, so that is all there
// is to it: a crash leaves all or nothing, and since a frame's commands go into the
// durable state under one lock, whoever has seen a batch in one log finds it in the
// others. What knows of records knows both kinds of commands, by Command.Appends;
// each log goes on as if its part were a batch of its own, and is read, truncated,
// repaired and given up by itself.
//
// The lead says how many parts there are, and State.Apply takes nothing else before
// it has them: a frame without one is refused. The producer's window keeps where each
// part went, so that a repeat, which must have the same parts in the same order, is
// answered with all of it, and so is Resolve.
//
// A refusal of the batch stops every binding in it, and a batch one of whose bindings
// is stopped is refused, until each is reset: behind the hole in one log nothing of
// that pipeline may land, in whichever batch. A part's binding may have a producer;
// it counts nothing here, but one that was superseded or retired is refused as for a
// batch of its own.
//
// Logs of one batch share a colocation key. Today a service has one volume and could
// do without; with several, it keeps together what has a key, and nobody may have
// come to depend on more.
//
// # Rewinding
//
// A replicated engine takes back what its group did not agree on: it discards the log's
// records behind an LSN and appends others in their place. Nothing is written over. A
// rewind is a command that begins an epoch and says behind which LSN; the log keeps a
// list of these cuts, and one rule tells what is in the log:
//
//	a record (epoch, LSN) is in the log
//	unless a cut of a later epoch lies below that LSN
//
//	epoch 1   1 2 3 4 5 6 7 8
//	epoch 2           4 5 6 7 8 9        cut: epoch 2, LSN 3
//	epoch 3                 7 8          cut: epoch 3, LSN 6
//	the log   1 2 3 4 5 6 7 8
//
// The rule asks nothing of where a record lies, so that it holds for one that is moved,
// for one in a segment without an index, and for one that a repair reads. A cut that a
// later one comes to or passes says nothing more and goes, so the list increases both
// in epoch and in LSN, and is searched by halves. It is bounded by commands alone: one
// is forgotten, when there is need for room, if what it discarded lies below the log's
// oldest record.
//
//	bytes, checksum   go back to what they were behind the cut. The batch there proves
//	                  both by itself, also if nothing before it is kept: a CRC can be
//	                  taken back over a run (see crc32c.Before)
//	segment indexes   say how far a log had come at a segment's end, and which rewind
//	                  was its newest: cut by those since, the ends never decrease, and
//	                  are bisected as before
//	readers           clip each batch to what is in the log; a stored block goes out
//	                  as it lies if all of it is. A Reader keeps the history that it
//	                  reads. If that changes while it reads, it gives nothing out and
//	                  looks again: whoever came behind a discarded record is told with a
//	                  *RewoundError, who did not goes on with the new history
//	cursors           beyond the cut are taken back to it, hold what is behind, and say
//	                  so until they are set again with a reset
//	producers         keep which of their batches were discarded: a repeat is told so
//	                  and never appended, whatever is truncated since
//	appenders         that state no epoch are refused once, so that the rest of a
//	                  pipeline does not land behind a hole
//
// A rewind never passes a checkpoint: what an engine has in its own pages it cannot
// discard.
//
// # Receipts
//
// What an append was acknowledged with can be proven later, against the volume that
// is served or against its files: VerifyReceipt finds the batch by log and LSN, as a
// reader does, and compares the epoch and checksum that its command has and the time
// of its commit. The checksum is the log's, so it vouches for all before it, as a
// claim's does; unlike a claim, a receipt of what was truncated proves nothing any
// more, and that is said. Commit times reach the seats with the frame that landed: one
// number for each ride, of which the wire sends one for a message.
//
// # Two states
//
// The state ahead has every sequenced command, the durable one every landed
// command. Both apply commands with the same code; if the durable one comes to
// another verdict, the process stops before anything is acknowledged. The state
// ahead could be thrown away and made anew from the durable one and the frames
// in flight; nothing but sequencing looks at it.
//
// # The life of a restart
//
//	1 segment.Open      lock, list
//	2 replay.Recover    newest snapshot, the frames behind it, the tail rule
//	3 rebuilder         snapshot parts and commands into a State
//	4 Journal.Resume    a fresh segment whose header is the cut; what was found
//	                    without a promise is written there again and synced
//	5 Volume.promise    and promised
//
// # Where records lie
//
// The index is a cache that is rebuilt from directories: of the segment being
// filled in memory, of sealed ones in their seals, of segments that a crash cut
// short by a scan when somebody asks. Opening reads none of it.
//
// A Reader has the disk read ahead of it. If a quarter or more of what it comes past
// is its log's, all that lies behind its frame; else the pieces of its next frames that
// it will need, which the index and each piece lead to (scouted). Either is advice: what
// it gives out it has read, verified and held against the log's history by itself.
//
// # When records were committed
//
// Every frame has its commit time, which never falls. A time is looked for in the
// headers of segments, which say when the one before ended, and then in one
// segment's directories. What is missing there was lost, and counts as committed
// at any time: a reader from or until that time comes to it, and is told.
//
// # Space
//
// Snapshots ride between frames of commands; the two newest and everything
// behind the older one are kept. The janitor releases segments below that of which
// every log has given up what it has there, wherever in the journal they lie: what a
// log keeps begins at its floor, the lowest of its checkpoints and cursors, or, without
// either, what was truncated. Which logs have records in a segment, its index says; of one
// whose frames do not all verify, or are not read, nobody knows, and it stays until no log keeps anything up to
// the end of a later one that knows of all logs. A cursor over its cap is evicted first, durably, and
// then holds nothing; Holders lists who holds what. States of checkpoints in a
// released segment are carried forward first.
//
// So are the records of stragglers: logs that keep little in segments that everybody
// else has given up.
//
//	1 survey        which segments who keeps; is it worth it?
//	2 collect       read all that the log keeps, outside every lock; what does not
//	                verify is told by its LSNs alone
//	3 moveTogether  under the bus's lock: is that still all? Then one frame has
//	                all of it, as CommandMoveRecords
//	4 index.apply   everything below the log's next LSN is in that frame, from now on
//	5 release       when that is durable, like whatever allows it
//
// What is appended later lies behind the copies: LSNs below one end are in one
// frame, and those from there on are bisected for. The end and the frame are local,
// as the places of checkpoints' states are: in snapshots, not in the state. A reader
// that loses its segment under its feet looks again, and finds the copies.
//
// # Repair
//
// A volume that lost something above its newest snapshot opens read-only: the
// state behind the hole cannot be rebuilt from commands alone. A repair rebuilds
// it from what else there is, and gives up the rest by name:
//
//	1 Verify                walk everything; what is damaged, and not yet given up
//	2 survey                which records verify; the newest whole snapshot, also
//	                        one that no segment's header knows
//	3 salvage               the commands behind it. What follows a hole tells what
//	                        was in it: an append, how far its log had come; a
//	                        seal, how far all had
//	4 lost ranges           of each log all that it had and nothing holds
//	5 segment.Journal.Resume  one more segment, whose header is the cut behind all
//	                        that verifies, and which begins with a snapshot
//
// Nothing else is changed: damaged segments stay, for the records in them that
// verify, and the janitor releases them in their time. A header that has its
// newest snapshot in its own segment is a repair's; that is how Verify tells what
// was given up from what was damaged since.
//
// Lost ranges are part of a log's state until they are truncated. Reading one is
// a *DataLossError with its ends, and a claim in one is refused. Where nothing
// behind the last hole tells how far a log had come, one lost LSN stands for
// whatever was there, and a new epoch begins behind it, beyond any that may have
// begun in what is lost: (log, epoch, LSN) names no other record than it did, and
// nobody reads across without being told. Each append says which rewind was the log's
// newest: if one is lost, where it cut nobody knows, and what lies in front of the
// append is given up, rather than have a discarded record come back. Of a seal or a
// rewind that is lost, and of which nothing behind the hole tells, its log knows
// nothing: the plan names each log of which that may be so. A producer that was opened
// behind a hole is forgotten, since nobody knows whose slot it has.
//
// It could rewrite every frame behind the hole into fresh segments instead, so
// that all verifies again. That costs as much room as the journal has, and takes
// the evidence away.
package wal
