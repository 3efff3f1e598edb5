// Package linear is tests alone: it lets concurrent clients loose on walsvc,
// over gRPC, while it is killed, cut off, paused, and given disks that fail or
// lose power, writes down what each client asked and heard, and asks porcupine
// whether there is an order in which all of it is right.
//
// # The model
//
// One name is one partition: a log or none, with its records, the oldest LSN
// kept, its epoch and writer, checkpoints, cursors, and producers with their
// incarnations and windows. A rewind takes the end of the records: their LSNs are
// given again, their batches are discarded to whoever asks, and cursors behind them
// are taken back. The model answers each operation as the API says, down to the
// figures of a refusal, the log checksum and live_bytes; a refusal for a reason
// that the state does not give is as wrong as an answer. What a read shows is
// durable and current: everything that was answered before it began is in it, and
// what it shows stays. The oldest LSN may also move by itself, up to the lowest
// checkpoint or cursor, when segments are released, and a cursor over its cap is
// evicted by itself: the state knows the first as a range, which every answer
// narrows, and of the second that it may have been, until an answer says. A refusal
// for a log's rate is right whenever nothing else is wrong: the model has no clock.
//
// Whoever is told of a rewind had asked for something before it, and stood on what it
// took: that is two operations, both between the call and the answer, the first in the
// epoch before and the second behind the rewind. A receipt is proven, contradicted by
// one field, gone or rewound, in every life and between two of them, by the service and
// from the directory it left; of those that are verified some are lies. Commit times are
// gathered first, as told with acknowledgements and by who verified receipts: a record has
// one, whoever tells it, they do not fall, neither in a log nor from one answer to the next
// question in any other, and a replay from or until one has exactly what was committed then.
// What an append stream is told to be written is there if only the service goes, and may
// be gone if the machine does: crashes say which of the two they were.
//
// # Outcomes that nobody knows
//
// An operation without an answer was done or not, but not at any time: it reached
// at the latest the life of the service in which its client gave up. Crashes are
// operations of the history, and behind the one that ended that life it can no
// longer be done. So a record that was cut off and comes back has no order.
//
// Each of these doubles what a search has to look through, so that few may be open
// at once. Between two lives all clients are held, and every log is looked at whole;
// what somebody saw of an operation then or before is its answer (no two records and
// no two states of checkpoints are the same), and a batch whose place in the log
// others took was not appended. A rewind leads from one epoch to the next, so that
// it was not done where the log is in the first still; so does a writer acquired, and
// a producer resolved leads to its next incarnation. That is proven, not guessed:
// a history is in order with it if and only if it is without. What stays open is
// what was undone before anybody saw it: a few operations of a life.
//
// # The clients and the faults
//
// Generated stubs that repeat nothing, streams of batches that wait for no verdict,
// followers, and the SDK; all through a proxy that breaks connections in the middle
// of messages. TestKill kills, tears and pauses walsvc as it is shipped; TestDisk
// hangs the disk at an operation, or fails one, lets the clients go on, and then
// cuts the power: of what was not synced a random part survives; meanwhile somebody sets
// the clock, ahead by minutes or back by a year. TestHang has clients
// contend for one thing while the disk hangs, so that a refusal that is told too
// early, or to neither of them, shows in every run. So has TestWritten clients that are
// told what is written, and TestRewound those who are told of a rewind.
//
// TestTogether has clients append to two logs in one batch, and others read both,
// while walsvc is killed: two logs are one partition then, with a model of its own.
package linear
