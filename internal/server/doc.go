// Package server is where the API meets the engine: the only importer of both
// proto and wal. A handler decodes, makes one call, and encodes; rules live in
// the engine, bounds in internal/limits, and what an error looks like in Table.
//
// # The life of an append
//
//	client          receiving goroutine               bus          handler's goroutine
//	  | -- batches -->| decode, runs alias the buffer  |                   |
//	  |               | credit: may it?                |                   |
//	  |               | Appender.Append -------------->| copies the runs   |
//	  |               | release the buffer             |                   |
//	  |               | Take: already durable?         |                   |
//	  |<-- verdicts --| yes: send them here            |                   |
//	  |               | no: receive on                 | frame durable     |
//	  |               |                                | notify ---------->|
//	  |<-- verdicts --|--------------------------------|--------- Take all | one message
//
// A lone append on an idle disk thus goes from the socket to the disk and back
// on one goroutine. A stream that asked for it is told in between what is written:
// always by the handler's goroutine, since a lone append's is at the disk. Under load
// there is one message of verdicts per stream and commit, however many batches it
// settles. There is no goroutine, interceptor, log line or allocation per batch.
//
// # The order of a stop
//
//	Drain: health NOT_SERVING -> nothing new is taken -> append streams say
//	draining, send their last verdicts and end UNAVAILABLE/DRAINING; followers and
//	waiters end the same way -> GOAWAY, running calls end -> at the deadline
//	connections are cut. The volume is closed by its owner afterwards.
package server
