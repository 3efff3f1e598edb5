package client

import (
	"context"
	"fmt"
	"time"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Cursor is how far a named reader has come in a log. It holds the records above
// its LSN, up to its cap: a reader that is dead, or too slow, does not fill the
// disk, but loses its cursor, and is told so with ErrCursorLost.
type Cursor struct {
	Name      string
	LSN       LSN          // of the last record its reader is done with; 0 before the first
	Cap       uint64       // bytes that it may hold, as the log counts them
	Policy    CursorPolicy // what becomes of it beyond
	State     CursorState
	LiveBytes uint64        // that it holds; 0 if lost
	Records   uint64        // above LSN, up to the durable one
	Lag       time.Duration // since the first of these was committed; 0 if there is none, -1 if that is not known
	Set       time.Time
	Evicted   time.Time // zero unless lost
	// Rewound is the epoch that a rewind of the log began which took the cursor back, and
	// RewoundFrom where it was; both are 0 unless it is CursorRewound.
	Rewound     uint64
	RewoundFrom LSN
}

// A CursorPolicy says what becomes of a cursor that holds more than its cap.
type CursorPolicy uint8

// The policies. The zero value keeps the one that a cursor has; a new one is evicted.
const (
	EvictOverCap CursorPolicy = iota + 1 // it holds nothing any more, and is lost
	HoldOverCap                          // it goes on holding until the log's quota or the disk is full
)

// String names a policy as walctl prints it.
func (p CursorPolicy) String() string {
	switch p {
	case EvictOverCap:
		return "evict"
	case HoldOverCap:
		return "hold"
	}
	return fmt.Sprintf("policy(%d)", uint8(p))
}

// A CursorState says how a cursor stands against its cap.
type CursorState uint8

// The states of a cursor, in the words of PostgreSQL's replication slots.
const (
	CursorReserved CursorState = iota + 1 // holds at most half its cap
	CursorExtended                        // holds more
	CursorAtRisk                          // holds more than 90% of it; beyond the cap it is evicted, unless it may hold
	CursorLost                            // was evicted, and holds nothing
	CursorRewound                         // a rewind discarded what its reader is done with: ErrRewound until it is set with a reset
)

// String names a state as walctl prints it.
func (s CursorState) String() string {
	switch s {
	case CursorReserved:
		return "reserved"
	case CursorExtended:
		return "extended"
	case CursorAtRisk:
		return "at-risk"
	case CursorLost:
		return "lost"
	case CursorRewound:
		return "rewound"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

func cursor(p *walsvcv1.Cursor) Cursor {
	c := Cursor{
		Name: p.GetName(), LSN: LSN(p.GetLsn()), Cap: p.GetCapBytes(), Policy: CursorPolicy(p.GetPolicy()), State: CursorState(p.GetState()),
		LiveBytes: p.GetLiveBytes(), Records: p.GetLagRecords(), Set: p.GetSetTime().AsTime(),
		Rewound: p.GetRewoundEpoch(), RewoundFrom: LSN(p.GetRewoundFromLsn()),
	}
	switch {
	case p.GetLag() != nil:
		c.Lag = p.GetLag().AsDuration()
	case c.Records > 0:
		c.Lag = -1
	}
	if p.GetEvictTime() != nil {
		c.Evicted = p.GetEvictTime().AsTime()
	}
	return c
}

// CursorOptions say how a cursor is set. The zero value moves it forward, whatever
// it was, or creates it with the default cap.
type CursorOptions struct {
	// Cap is how many bytes of records it may hold, at most 2^50. 0 keeps the cap
	// that it has; a new one gets 1 GiB, or half the log's quota if that is less.
	Cap    uint64
	Policy CursorPolicy // 0 keeps the one that it has
	// Expected, unless nil, is where the cursor must be, and Create says that there
	// must be none yet: else ErrCursorConflict. Not both.
	Expected *LSN
	Create   bool
	// Reset takes the LSN as it is: also below the present one, and of a cursor that
	// is lost. That is how a reader says that it knows what it missed.
	Reset bool
}

// SetCursor moves a cursor to the last record that its reader is done with, or
// creates it. Durable when it returns: the records up to there may be given up
// then, those above are held. It returns ErrLSNAhead if lsn is beyond the durable
// end, ErrLSNTruncated if it is below what is kept, ErrCursorBackwards,
// ErrCursorConflict, ErrCursorLost if the cursor was evicted, ErrRewound if a rewind
// took it back, ErrTooManyCursors,
// ErrInvalid for a cap that would be exceeded at once, or ErrLogNotFound. When the
// service could not be reached the outcome is unknown: set it again, which does no
// harm, or with Expected get it first.
func (l *Log) SetCursor(ctx context.Context, name string, lsn LSN, o CursorOptions) (Cursor, error) {
	req := &walsvcv1.SetCursorRequest{
		Log: l.name, Name: name, Lsn: uint64(lsn), CapBytes: o.Cap, Policy: walsvcv1.CursorPolicy(o.Policy), Reset_: o.Reset,
	}
	switch {
	case o.Create && o.Expected != nil:
		return Cursor{}, fmt.Errorf("set cursor %q of log %q: %w: it cannot both be new and have an expected LSN", name, l.name, ErrInvalid)
	case o.Create:
		req.Condition = &walsvcv1.SetCursorRequest_Create{Create: true}
	case o.Expected != nil:
		req.Condition = &walsvcv1.SetCursorRequest_ExpectedLsn{ExpectedLsn: uint64(*o.Expected)}
	}
	resp, err := l.client.cursorService.SetCursor(ctx, req)
	if err != nil {
		return Cursor{}, called(err, "set cursor %q of log %q to LSN %d", name, l.name, lsn)
	}
	return cursor(resp.GetCursor()), nil
}

// Cursor returns a cursor, also one that is lost, or ErrCursorNotFound.
func (l *Log) Cursor(ctx context.Context, name string) (Cursor, error) {
	resp, err := l.client.cursorService.GetCursor(ctx, &walsvcv1.GetCursorRequest{Log: l.name, Name: name})
	if err != nil {
		return Cursor{}, called(err, "get cursor %q of log %q", name, l.name)
	}
	return cursor(resp.GetCursor()), nil
}

// Cursors returns the log's cursors by name, at most 64.
func (l *Log) Cursors(ctx context.Context) ([]Cursor, error) {
	resp, err := l.client.cursorService.ListCursors(ctx, &walsvcv1.ListCursorsRequest{Log: l.name})
	if err != nil {
		return nil, called(err, "list cursors of log %q", l.name)
	}
	all := make([]Cursor, len(resp.GetCursors()))
	for i, p := range resp.GetCursors() {
		all[i] = cursor(p)
	}
	return all, nil
}

// DeleteCursor deletes a cursor, which holds nothing any more then. Durable when
// it returns. expected, unless nil, is where it must be. It returns
// ErrCursorNotFound or ErrCursorConflict.
func (l *Log) DeleteCursor(ctx context.Context, name string, expected *LSN) error {
	_, err := l.client.cursorService.DeleteCursor(ctx, &walsvcv1.DeleteCursorRequest{
		Log: l.name, Name: name, ExpectedLsn: (*uint64)(expected),
	})
	return called(err, "delete cursor %q of log %q", name, l.name)
}
