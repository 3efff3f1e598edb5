package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
)

// How long to wait between attempts: from the first to the last, doubling.
const (
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// limitedTries is how often a call is made that the service has too many of: some ten
// seconds, at the pause that it asks for.
const limitedTries = 8

// waitTurn makes a call again that the service refused because there were too many in
// that second. Nothing was done then, so any call may be repeated; a program that
// opens ten thousand logs when it starts has no better plan either.
func waitTurn(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var pause backoff
	for {
		err := call(ctx, method, req, reply, conn, opts...)
		if err == nil || pause.failed == limitedTries-1 {
			return err
		}
		refused := fromStatus(err)
		if !errors.Is(refused, ErrRateLimited) {
			return err
		}
		pause.first = max(firstBackoff, refused.RetryAfter)
		if pause.wait(ctx) != nil {
			return err
		}
	}
}

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
		d = min(d, min(b.first, lastBackoff)<<b.failed) // a service may ask for centuries
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
