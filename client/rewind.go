package client

import (
	"context"
	"strconv"

	"github.com/oklog/ulid/v2"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Rewind says what to discard of a log, and on what condition.
type Rewind struct {
	// After is the last record to keep; 0 keeps none. Any will do, also one within a
	// batch.
	After LSN
	// Epoch must be the log's, as LogInfo says, and is not 0: what is discarded is for
	// somebody to decide who knows the log as it is.
	Epoch uint64
	// Next, unless 0, must be the log's next LSN: nobody has appended meanwhile.
	Next LSN
	// Holder is the writer of the epoch that begins, see AcquireWriter; empty for none,
	// and the log is shared.
	Holder string
	// Request names this request and no other: asked again with the same one, while the
	// epoch that it began is the log's, the service answers likewise and discards
	// nothing. Zero for one that is made by the call, and sent again by the call alone.
	Request ulid.ULID
	// Plan has nothing discarded: the answer is what would be, or why it would be
	// refused.
	Plan bool
}

// A Rewound is what a rewind did.
type Rewound struct {
	Log      LogInfo // as its epoch begins; as it is, of a plan
	Records  uint64  // that were discarded; 0 if repeated, since nobody knows any more
	Bytes    uint64  // of them, framed; likewise
	Repeated bool    // the request had rewound it before
}

// A PastRewind is where a log was rewound.
type PastRewind struct {
	Epoch       uint64 // that began with it
	Kept        LSN    // the last record that it kept
	Next        LSN    // what the next record would have got: those before, from Kept+1 on, were discarded
	LogChecksum uint32 // behind Kept
}

// Rewind discards the log's records behind r.After and begins a new epoch, in which
// their LSNs are given again; durable when it returns. With a holder, this handle is
// the log's writer from then on; without one, it goes on as everybody may. It claims
// no more than what was kept.
//
// Whatever states an older epoch is refused from then on with ErrFenced, and who was
// given a discarded record is told with ErrRewound, whose figures "epoch" and
// "kept_lsn" say where: replays, waits, claims and cursors. A handle of another
// client that appends without an epoch is told once. A batch that was discarded is
// never appended again: ErrDiscarded.
//
// It returns ErrLogNotFound, ErrInvalid, ErrInvalidName, ErrSealed, ErrFenced if
// r.Epoch is not the log's, ErrLSNMismatch if r.Next is not, ErrHeld if a checkpoint
// covers what would go, ErrLSNAhead, ErrLSNTruncated, ErrDataLoss where the log's
// checksum is lost, ErrTooManyRewinds or ErrFull.
func (l *Log) Rewind(ctx context.Context, r Rewind) (Rewound, error) {
	if r.Request == (ulid.ULID{}) {
		r.Request = ulid.Make()
	}
	resp, err := l.client.logService.RewindLog(ctx, &walsvcv1.RewindLogRequest{
		Name: l.name, AfterLsn: uint64(r.After), ExpectedEpoch: r.Epoch, ExpectedNextLsn: uint64(r.Next), Holder: r.Holder,
		Request: r.Request.String(), Plan: r.Plan,
	})
	if err != nil {
		return Rewound{}, called(err, "rewind log %q behind LSN %d", l.name, r.After)
	}
	info, err := logInfo(resp.GetLog())
	if err != nil {
		return Rewound{}, err
	}
	if !r.Plan {
		l.rewound(info)
	}
	return Rewound{Log: info, Records: resp.GetRecords(), Bytes: resp.GetBytes(), Repeated: resp.GetRepeated()}, nil
}

// rewound has the handle go on in the epoch that a rewind of its own began.
func (l *Log) rewound(info LogInfo) {
	s := l.stream
	s.mu.Lock()
	if l.claim.Epoch < info.Epoch && l.claim.LSN >= info.Next {
		l.claim = Claim{}
	}
	l.discarded = nil
	if l.binding != 0 { // which tells of a rewind since it was made: who rewound knows
		l.rebind = true
		s.withdraw(l)
		s.offer(l)
	}
	epoch := uint64(0)
	if info.Writer != "" {
		epoch = info.Epoch
	}
	l.began(info, epoch) // unlocks
}

// claimed reports whether an ErrRewound is about a replay's claim alone: not about what
// it has yielded, nor about its cursor.
func (e *Error) claimed(o ReplayOptions) bool {
	kept := e.keptLSN()
	return e.Metadata["cursor"] == "" && o.Claim.LSN > kept && o.From <= kept+1
}

// keptLSN returns the last record that was kept, of an ErrRewound.
func (e *Error) keptLSN() LSN {
	n, _ := strconv.ParseUint(e.Metadata["kept_lsn"], 10, 64)
	return LSN(n)
}
