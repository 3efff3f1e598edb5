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

// spend takes size bytes off a log's rate, in bytes per second, or returns after
// how long it may be tried again; 0 means that it was taken. A batch waits until
// those before it are paid for and not until there is enough for itself, so one
// that is larger than a second's worth comes through, too, and keeps the next
// ones out for longer.
func (r rates) spend(log, rate uint64, size int, now int64) (after time.Duration) {
	paid := max(r[log], now-savedUp)
	if paid > now {
		return time.Duration(paid - now)
	}
	// Rounded up: batches of few bytes would cost nothing at a high rate.
	r[log] = paid + int64((uint64(size)*uint64(time.Second)+rate-1)/rate)
	return 0
}

// forget drops a log that is deleted or sealed.
func (r rates) forget(log uint64) { delete(r, log) }
