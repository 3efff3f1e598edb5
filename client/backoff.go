package client

import (
	"context"
	"math/rand/v2"
	"time"
)

// How long to wait between attempts: from the first to the last, doubling.
const (
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// backoff spaces attempts that fail: the first pause is of first, the next ones
// double up to lastBackoff.
type backoff struct {
	first  time.Duration
	failed int
}

// reset forgets the failures: the attempt that ended did get somewhere.
func (b *backoff) reset() { b.failed = 0 }

// wait blocks for the time after one more failure: half of it fixed, half drawn,
// so that clients that lost the same service do not come back together. It
// returns the context's cause if that ends first.
func (b *backoff) wait(ctx context.Context) error {
	d := lastBackoff
	if b.failed < 16 {
		d = min(d, b.first<<b.failed)
	}
	b.failed++
	timer := time.NewTimer(d/2 + rand.N(d/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
