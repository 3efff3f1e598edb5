package wal

import "time"

// savedUp is how far a log that was quiet may go ahead of its rate.
const savedUp = int64(time.Second)

// rates keeps, for each log that has a rate and was appended to, when what it
// took is paid for: in nanoseconds of the volume's clock.
//
// It is no part of the state: the clock has no say in that, and a batch that was
// taken stays taken, whoever applies it and when. A volume that is opened begins
// with every log quiet.
type rates map[uint64]int64

// wait returns after how long a log takes its next batch; 0 means now. A batch
// waits until those before it are paid for and not until there is enough for
// itself, so one that is larger than a second's worth comes through, too, and
// keeps the next ones out for longer.
func (r rates) wait(log uint64, now int64) time.Duration {
	return time.Duration(max(0, r[log]-now))
}

// spend takes size bytes off a log's rate, in bytes per second. REQUIRES: its next
// batch need not wait.
func (r rates) spend(log, rate uint64, size int, now int64) {
	// Rounded up: batches of few bytes would cost nothing at a high rate.
	r[log] = max(r[log], now-savedUp) + int64((uint64(size)*uint64(time.Second)+rate-1)/rate)
}

// forget drops a log that is deleted or sealed.
func (r rates) forget(log uint64) { delete(r, log) }
