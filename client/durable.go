package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"google.golang.org/grpc"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// WaitDurable waits until the log's durable LSN has reached lsn, and returns it. A
// handle that acquired the log's writer waits as that writer: ErrFenced as soon as
// another one begins, whose record at lsn is not the one that is waited for.
// It states Log.Claim, as a replay does: a log that lost what was acknowledged, or took
// it back, has another's record at lsn. It returns ErrLogNotFound, ErrDataLoss,
// ErrSealed if the log ends below lsn for good, ErrRewound
// if it is rewound behind a lower LSN meanwhile, or what is claimed was discarded,
// ErrUnavailable when the service stops, or the context's error.
func (l *Log) WaitDurable(ctx context.Context, lsn LSN) (LSN, error) {
	return l.waitDurable(ctx, l.epoch(), lsn)
}

func (l *Log) waitDurable(ctx context.Context, epoch uint64, lsn LSN) (LSN, error) {
	resp, err := l.client.replayService.WaitDurable(ctx, &walsvcv1.WaitDurableRequest{Log: l.name, Lsn: uint64(lsn), Epoch: epoch, Claim: l.Claim().message()})
	if err != nil {
		return 0, called(err, "wait for LSN %d of log %q", lsn, l.name)
	}
	return LSN(resp.GetDurableLsn()), nil
}

// WatchDurable yields the log's durable LSN when it is above after, and then
// whenever it has grown; steps may be skipped, never taken back. A handle that
// acquired the log's writer watches as that writer, and hears ErrFenced as soon as
// another one begins, also while it appends nothing. It states Log.Claim, and, when the
// connection breaks and it goes on, what it has yielded: the service proves that it has
// exactly that. After an error it ends; the context's cause is
// one, ErrDataLoss if the proof fails, ErrRewound if a rewind discards what it yielded
// or is claimed, and ErrSealed if the log ends
// below after for good. When the log is sealed
// it ends at the log's end, without an error.
func (l *Log) WatchDurable(ctx context.Context, after LSN) iter.Seq2[LSN, error] {
	return func(yield func(LSN, error) bool) {
		epoch, claim := l.epoch(), l.Claim().message()
		pause := backoff{first: l.client.patient}
		for {
			before := after
			more, e := l.watch(ctx, epoch, &after, &claim, yield)
			if !more {
				return
			}
			var err error = e
			switch {
			case ctx.Err() != nil:
				err = context.Cause(ctx)
			case l.client.ctx.Err() != nil:
				err = ErrClosed
			case e.retryable():
				if after != before {
					pause.reset()
				}
				err = pause.wait(ctx)
			}
			if err != nil {
				yield(0, fmt.Errorf("watch log %q: %w", l.name, err))
				return
			}
		}
	}
}

// watch yields from one stream, until it breaks, or the log or the loop ends: then
// more is false.
func (l *Log) watch(ctx context.Context, epoch uint64, after *LSN, claim **walsvcv1.Claim, yield func(LSN, error) bool) (more bool, why *Error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.client.replayService.WatchDurable(ctx,
		&walsvcv1.WatchDurableRequest{Log: l.name, AfterLsn: uint64(*after), Epoch: epoch, Claim: *claim}, grpc.WaitForReady(true))
	for err == nil {
		var m *walsvcv1.WatchDurableResponse
		if m, err = stream.Recv(); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			break
		}
		if lsn := LSN(m.GetDurableLsn()); lsn > *after {
			*after, *claim = lsn, m.GetClaim()
			if !yield(lsn, nil) {
				return false, nil
			}
		}
	}
	return true, fromStatus(err)
}
