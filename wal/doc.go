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
// # Space
//
// Snapshots ride between frames of commands; the two newest and everything
// behind the older one are kept. The janitor releases segments below that and
// below every log's floor: the lowest of its checkpoints, or what was truncated.
// States of checkpoints in a released segment are carried forward first.
package wal
