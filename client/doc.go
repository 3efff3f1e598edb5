// Package client is the SDK of walsvc: it appends to logs, replays them and
// keeps their checkpoints, over connections that may break at any time.
//
//	c, err := client.Open(ctx, "/run/walsvc/walsvc.sock", client.Options{})
//	l := c.Log("orders")
//	lsn, err := l.Append(ctx, record)            // durable when it returns
//	future := l.AppendAsync(ctx, record)         // durable when future says so
//	for r, err := range l.Replay(ctx, client.ReplayOptions{From: 1}) { ... }
//
// # The life of an append
//
// An append copies its record into the open batch of its log, of 64 KiB at most, and of
// no more than its volume takes, which the log's opening tells. All logs of a
// client ride one append stream, and the bus runs here as it does in the
// service: while one small message is unacknowledged, appends gather, and the
// verdict on it sends what gathered, as soon as those whom it told are back with
// their next appends, where that is measured to carry more (package
// internal/gather): they would go in two halves else. Messages of 32 KiB and more are not held
// back, up to the credit of the stream. On a quiet stream the appending
// goroutine encodes and sends by itself, and the verdict wakes it directly;
// under load the stream's own goroutine sends. There is no goroutine, timer or
// channel per append: those who ride in one batch wait for one batch.
//
// # Once
//
// A retry is safe because the service knows it: every batch has a producer and a
// sequence, and a repeat is answered with the first append's LSN. A log is, to
// its stream, in one of these phases:
//
//	unopened --append--> opening --OpenProducer--> opened --Bound--> bound
//	    ^                   |                        ^  ^              |  ^
//	    +----- refused -----+      the stream ended -+  |              |  | all sent ones have
//	    ^                                               |     refusal  |  | their verdicts: reset,
//	    |                                               |              v  | number anew
//	    +---- the producer is given up ------- bound, refused          refused
//	    lost: acknowledged data is missing; for good
//
// A batch gets its sequence when it is first sent. From then on it may have
// landed, whatever is heard of it, and these rules hold:
//
//  1. It is never changed, and is sent again with the same sequence, in order,
//     until a verdict on it comes. What gathers later goes into other batches.
//  2. Only a refusal takes its sequence away, for a refusal says that it did not
//     land. The next batch gets that sequence. DISCARDED alone says that it did, and
//     that a rewind took it since: its sequence stays used. And SUPERSEDED, NO_PRODUCER
//     and LOG_NOT_FOUND come before it is asked whether the batch is a repeat: of one that
//     was sent on an earlier stream, too, they leave the outcome unknown.
//  3. If it is given up without a verdict, its outcome is unknown, its producer
//     is given up with it, and the log goes on with a new one.
//  4. If its caller has stopped waiting, and was told which sequence to ask for, which is
//     known also of one that is not sent yet, that is its own for good: no other batch gets it, and it gets no other. Where a refusal
//     would have it so, it is refused, the producer is given up as well, and what waits
//     besides is sent as another one's.
//
// The interleavings that these rules are for:
//
// The acknowledgement is lost. The client does not know that 7 landed, and sends
// it again on the next stream; the service answers as it did the first time. Had
// more records joined batch 7 meanwhile, they would be acknowledged and lost.
//
//	client                              service
//	7: [a b] -------------------------> 7 lands at LSN 20
//	              stream breaks X------ 7 at 20
//	bind -----------------------------> last sequence 7
//	7: [a b] -------------------------> repeat: 7 at 20
//
// A refusal in a pipeline. 8 was sent before it was known that 7 is refused. If
// it landed, the log would have a hole where 7 should be, so the service refuses
// it as well, and all that follow, until the client has dealt with 7. The client
// sends nothing for the log until every batch that is out has its verdict: one
// that it numbered anew while its old number was still on the way could meet
// itself.
//
//	client                              service
//	7: [a], 8: [b] -------------------> 7 refused: QUOTA; 8: AFTER_REFUSAL
//	7's caller is told
//	reset, 7: [b] --------------------> 7 lands
//
// A refusal for the log's rate is the client's own to deal with: 7 is sent again,
// with all behind it, when the answer says, and from then on one batch at a time
// until none waits, for most of a pipeline would be refused with the next one.
//
// A batch with an expected LSN is not sent again after AFTER_REFUSAL, nor for the
// rate: its place was computed by a caller who assumed the refused one. If that was
// refused because the service stops, it is sent again with all behind it, in their
// order: the assumption holds.
//
// The stream breaks behind a refusal. 7 is refused, the verdict on 8 is not
// heard. 8 cannot have landed, since 7 did not: both may be numbered anew. On
// the next stream the service must say that the last sequence is 6; if it says
// more, something landed that was said not to, and the log's appends end with
// ErrProtocol.
//
// The caller goes away. A context that ends while its append is under way ends
// the wait alone, with ErrUnknownOutcome. The batch stays: to take it out would
// leave a hole in the sequences behind it. Its caller may ask for 8 at any time, and
// in another life of the process, so that 8 has to be [b] for ever, or nothing:
//
//	client                              service
//	7: [a], 8: [b] -------------------> 7 refused: QUOTA; 8: AFTER_REFUSAL
//	b's caller: unknown, ask for 8
//	b: AFTER_REFUSAL
//	another producer; 1: [c] ---------> lands
//	resolve 8 ------------------------> not written
//
// The producer is given up. After POISONED the outcome of 7 is unknown and its
// caller is told so. If the log went on with the same producer, 7 would be given
// to another record, and the old 7, still on its way through a socket's buffer
// or recovered from the disk after a restart, would make the service take the
// new one for a repeat.
//
//	client                              service
//	7: [a] --> (in a buffer)            poisoned
//	a's caller: outcome unknown
//	                                    restarted
//	7: [b] ---------------------------> X: 7 may be [a] by now
//
// The error that the caller gets is an *UnknownError, and Log.Resolve says what
// became of 7: the producer's next incarnation begins first, and what is still on
// its way was sent in an earlier one.
//
// The log has a writer. What the handle appends states the epoch that it acquired, as
// its checkpoints do and its waits for durable LSNs.
// One that was fenced meanwhile hears FENCED, and of a batch which had landed before
// where it did: of its own appends nothing is unknown.
//
// The handle acquires once more. An append states the epoch that the handle had when it
// was called, for as long as it waits and however often it is sent: it came from a
// caller who has not read what others appended in between. The log is bound anew for
// the next epoch when nothing of the last one is out.
//
//	client                              service
//	bind, epoch 2; 7: [a] ------------> 7 lands
//	b is appended, and gathers
//	acquire --------------------------> epoch 3 begins
//	c is appended, and waits
//	8: [b] ---------------------------> FENCED
//	bind, epoch 3 --------------------> last sequence 7
//	8: [c] ---------------------------> lands
//
// # Several logs at once
//
// A Group is to its stream a log with several bindings: it is opened, bound, refused
// and given up as one, and one phase, one queue and one producer, on the log that
// leads, are all it has. Its other bindings have no producer. A refusal stops all of
// them, and all are reset together, when every batch that is out has its verdict:
//
//	client                              service
//	7: data [a], index [x] -----------> 7 lands in both
//	8: data [b], index [y] -----------> index over its quota: 8 refused, in both
//	9: data [c] ----------------------> AFTER_REFUSAL
//	8's caller is told
//	reset data, index; 8: data [c] ---> lands
//
// When a stream begins anew, and an epoch that the group states is over by then, of
// whichever log, it is as with one log: what is out is sent again, and what had landed is
// answered with where it did, while the rest is fenced, and nothing is unknown.
//
// # Trust, and what is checked
//
// On every stream the client states what it was last acknowledged for each log,
// whichever producer appended it, and the service proves that it has exactly
// that. A log whose proof fails takes no more appends: ErrDataLoss. So with a
// replay: it states what was acknowledged, or what the log was when it began,
// and, when it has to connect anew, what it has read. Log.Read, Log.WaitDurable and
// Log.WatchDurable state what was acknowledged, too, and a watch that goes on what it
// was told: LSNs of a log that lost its end are given again, and alone would not tell.
// A process that keeps the
// Claim of its last Receipt states it after its own restart with Log.Resume, and who
// it was, to go on as the same producer, with Log.ResumeProducer.
//
//	client                              service
//	7: [a] ---------------------------> 7 at LSN 20, checksum c
//	                                    loses the end of the log, ends at 19
//	                                    somebody else appends: 20 is [x]
//	bind, claim 20, c ----------------> 20 has another checksum
//	   <------------------------------- DATA_LOSS: nothing is sent again
//
// The client for its part checks that verdicts come
// in the order of the batches with their sequences and counts, that LSNs grow,
// that an expected LSN was met, and, where nobody else appended in between, that
// the log's checksum is what the records sent make it.
package client
