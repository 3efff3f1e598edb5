package wal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// A Cursor is a named reader's durable position in a log: it is done with every
// record up to LSN, and holds those behind.
type Cursor struct {
	Name      string
	LSN       LSN          // of the last record its reader is done with; 0 before the first
	Cap       uint64       // framed bytes that it may hold
	Policy    CursorPolicy // what becomes of it beyond; never CursorPolicyKept
	State     CursorState
	LiveBytes uint64 // framed bytes of the records behind LSN; 0 if lost, which holds nothing
	Records   uint64 // behind LSN, up to the durable one
	SetAt     time.Time
	EvictedAt time.Time // zero unless lost
	// Oldest is when the first record behind LSN was committed, Lag how long ago
	// that is. Oldest is zero if there is no such record, or if it cannot be read;
	// then Lag says nothing.
	Oldest time.Time
	Lag    time.Duration
	// Rewound is the epoch that the rewind began which took it back from Was; both are
	// 0 unless it was, and has not been set again with a reset since.
	Rewound Epoch
	Was     LSN
}

// A CursorPolicy says what becomes of a cursor that holds more than its cap.
type CursorPolicy uint8

// The policies. The numbers are on the wire.
const (
	CursorPolicyKept CursorPolicy = iota // as it was set before; CursorEvict for a new one
	CursorEvict                          // it is evicted: it holds nothing any more, and is lost
	CursorHold                           // it goes on holding, at risk, until the log's quota or the disk is full
)

// A CursorState says how a cursor stands against its cap, in the words of
// PostgreSQL's replication slots.
type CursorState uint8

// The states of a cursor. The numbers are on the wire.
const (
	CursorReserved CursorState = iota + 1 // holds up to limits.CursorExtendedPercent of its cap
	CursorExtended                        // holds more than that
	CursorAtRisk                          // holds more than limits.CursorAtRiskPercent: beyond the cap it is evicted, unless it may hold
	CursorLost                            // was evicted, and holds nothing
	CursorRewound                         // a rewind discarded what its reader is done with: it is taken back, and holds what is behind
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
	return fmt.Sprintf("cursor-state(%d)", uint8(s))
}

// A CursorUpdate says where SetCursor puts a cursor, and on what condition.
type CursorUpdate struct {
	Name string
	LSN  LSN
	// Cap is in framed bytes. 0 keeps what was set before; a new cursor gets
	// limits.DefaultCursorCap, or half its log's quota if that is less: a dead
	// reader must not be what fills a quota.
	Cap    uint64
	Policy CursorPolicy
	// Expected, unless nil, must be the cursor's present LSN; Create: there must be
	// no such cursor yet. Not both.
	Expected *LSN
	Create   bool
	// Reset takes the LSN as it is: also below the present one, and of a cursor that
	// is lost or rewound, which thereby is none any more.
	Reset bool
}

// A cursorState is a cursor as the state has it.
type cursorState struct {
	name    string
	lsn     LSN
	start   uint64 // framed bytes ever appended to the log up to lsn
	cap     uint64
	setAt   int64
	evicted int64 // when; 0 while it holds
	hold    bool  // CursorHold
	// rewound is the epoch of the last rewind that took it back, and was where it was
	// before the first; 0 if it was set since.
	rewound Epoch
	was     LSN
}

// holds reports whether the cursor holds records.
func (c *cursorState) holds() bool { return c.evicted == 0 }

// over reports whether it holds more than it may, in a log of total bytes.
func (c *cursorState) over(total uint64) bool { return c.holds() && !c.hold && total-c.start > c.cap }

// state says how it stands in a log of total bytes.
func (c *cursorState) state(total uint64) CursorState {
	switch live := total - c.start; {
	case !c.holds():
		return CursorLost
	case c.rewound != 0:
		return CursorRewound
	case live > c.cap*limits.CursorAtRiskPercent/100:
		return CursorAtRisk
	case live > c.cap*limits.CursorExtendedPercent/100:
		return CursorExtended
	}
	return CursorReserved
}

func (c *cursorState) policy() CursorPolicy {
	if c.hold {
		return CursorHold
	}
	return CursorEvict
}

func (l *logState) findCursor(name string) (int, bool) {
	return slices.BinarySearchFunc(l.cursors, name, func(c cursorState, name string) int {
		return cmp.Compare(c.name, name)
	})
}

// measure notes at how many bytes the first of the cursors is to be evicted.
func (l *logState) measure() {
	l.evictAbove = 0
	for i := range l.cursors {
		if c := &l.cursors[i]; c.holds() && !c.hold && (l.evictAbove == 0 || c.start+c.cap < l.evictAbove) {
			l.evictAbove = c.start + c.cap
		}
	}
}

// crowded reports whether a cursor is over its cap.
func (l *logState) crowded() bool { return l.evictAbove != 0 && l.totalBytes > l.evictAbove }

// applySetCursor re-derives what SetCursor decided, its condition aside, which
// the command does not carry.
func (l *logState) applySetCursor(c *Command) error {
	i, found := l.findCursor(c.Name)
	switch {
	case c.LSN >= l.next || c.LSN+1 < l.first || c.Start > l.totalBytes:
		return disagree(c, "LSN %d behind %d bytes, it has %d to %d in %d", c.LSN, c.Start, l.first, l.next-1, l.totalBytes)
	case c.Cap == 0 || c.Cap > limits.MaxCursorCap:
		return disagree(c, "cap of %d bytes", c.Cap)
	case !found && len(l.cursors) >= limits.MaxCursorsPerLog:
		return disagree(c, "it has %d cursors", len(l.cursors))
	case found && !c.Reset && (c.LSN < l.cursors[i].lsn || !l.cursors[i].holds() || l.cursors[i].rewound != 0):
		return disagree(c, "to LSN %d, it is at %d, evicted at %d", c.LSN, l.cursors[i].lsn, l.cursors[i].evicted)
	}
	if !found {
		l.cursors = slices.Insert(l.cursors, i, cursorState{})
	}
	l.cursors[i] = cursorState{name: c.Name, lsn: c.LSN, start: c.Start, cap: c.Cap, setAt: c.Time, hold: c.Hold}
	l.measure()
	return nil
}

func (l *logState) applyEvictCursor(c *Command) error {
	i, found := l.findCursor(c.Name)
	if !found || c.Time == 0 {
		return disagree(c, "no cursor %q, or no time", c.Name)
	}
	cur := &l.cursors[i]
	if cur.lsn != c.LSN || cur.start != c.Start || cur.cap != c.Cap || !cur.over(l.totalBytes) {
		return disagree(c, "cursor %q at LSN %d behind %d of %d bytes is not over its cap of %d", c.Name, cur.lsn, cur.start, l.totalBytes, cur.cap)
	}
	cur.evicted = c.Time
	l.measure()
	return nil
}

// SetCursor creates or moves a cursor, durably, and returns it. It returns
// ErrLogNotFound, ErrInvalidName, ErrInvalid, a *CursorConflictError, a
// *CursorLostError for one that was evicted, a *RewoundError for one that a rewind
// took back, ErrCursorBackwards, a *RangeError for
// an LSN beyond the durable one or below what is kept, ErrTooManyCursors or
// ErrFull. One that is where it should be is left alone.
func (v *Volume) SetCursor(ctx context.Context, log string, u CursorUpdate) (Cursor, error) {
	if err := u.valid(); err != nil {
		return Cursor{}, err
	}
	start, id, epoch, err := v.cursorStart(log, &u)
	if err != nil {
		return Cursor{}, err
	}
	var was logState // with the cursor as it is then
	err = v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil || l.id != id {
			return nil, nil, notFound(log)
		}
		if err := l.moved(epoch, u.LSN); err != nil {
			return nil, nil, err
		}
		cmd, err := l.cursorCommand(&u, start, v.clock.now())
		if err == nil {
			was = logState{name: l.name, number: l.number, epoch: l.epoch, cuts: l.cuts, next: l.next, totalBytes: l.totalBytes}
			c := l.cursors
			if cmd != nil {
				c = []cursorState{{name: u.Name, lsn: u.LSN, start: start, cap: cmd.Cap, setAt: cmd.Time, hold: cmd.Hold}}
			}
			was.cursors = slices.Clone(c)
		}
		return cmd, nil, err
	})
	if err != nil {
		return Cursor{}, err
	}
	v.janitor.kick()
	i, _ := was.findCursor(u.Name)
	return v.describeCursor(&was, &was.cursors[i]), nil
}

// valid says what is wrong with an update by itself.
func (u *CursorUpdate) valid() error {
	switch {
	case !validName(u.Name, limits.MaxCursorNameBytes):
		return invalidName("cursor", u.Name, limits.MaxCursorNameBytes)
	case u.Cap > limits.MaxCursorCap:
		return fmt.Errorf("cursor %q: %w: cap of %d bytes is over the limit %d", u.Name, ErrInvalid, u.Cap, uint64(limits.MaxCursorCap))
	case u.Policy > CursorHold:
		return fmt.Errorf("cursor %q: %w: policy %d", u.Name, ErrInvalid, u.Policy)
	case u.Create && u.Expected != nil:
		return fmt.Errorf("cursor %q: %w: it cannot both be new and have an expected LSN", u.Name, ErrInvalid)
	}
	return nil
}

// cursorStart returns how many framed bytes the log had up to the update's LSN,
// which log that is, and the epoch it is in. Where the records in between cannot be read it is how
// many there were at least, so that the cursor counts as holding more: damage must
// not keep a reader from moving behind it.
func (v *Volume) cursorStart(log string, u *CursorUpdate) (start uint64, id ulid.ULID, epoch Epoch, err error) {
	v.mu.RLock()
	l, err := v.lookup(log)
	if err != nil {
		v.mu.RUnlock()
		return 0, id, 0, err
	}
	was := *l
	atLeast := was.totalBytes - was.liveBytes
	if i, found := l.findCursor(u.Name); found && l.cursors[i].lsn <= u.LSN {
		atLeast = max(atLeast, l.cursors[i].start)
	}
	v.mu.RUnlock()
	at := u.LSN + 1
	switch {
	case u.LSN >= was.next:
		return 0, was.id, 0, fmt.Errorf("cursor %q: %w", u.Name, &RangeError{Log: log, Asked: u.LSN, First: was.first, Next: was.next, Err: ErrLSNAhead})
	case at < was.first: // refused when it is decided, by what is kept then
		return 0, was.id, was.epoch, nil
	case at == was.next:
		return was.totalBytes, was.id, was.epoch, nil
	case at == was.first:
		return was.totalBytes - was.liveBytes, was.id, was.epoch, nil
	}
	h := was.history()
	if start, err = v.offsetAt(log, was.number, at, &h); err != nil || start < atLeast {
		start = atLeast
	}
	return start, was.id, was.epoch, nil
}

// cursorCommand decides an update: nil and no error if it changes nothing.
func (l *logState) cursorCommand(u *CursorUpdate, start uint64, now int64) (*Command, error) {
	i, found := l.findCursor(u.Name)
	var was cursorState
	if found {
		was = l.cursors[i]
	}
	if err := u.conflict(l.name, &was, found); err != nil {
		if found && was.rewound != 0 && !u.Create && !u.Reset {
			return nil, l.cursorRewound(&was) // which is why it is elsewhere
		}
		return nil, err
	}
	cmd := &Command{
		Kind: CommandSetCursor, Log: l.number, Name: u.Name, LSN: u.LSN, Start: start, Time: now,
		Cap: cmp.Or(u.Cap, was.cap, l.defaultCursorCap()), Hold: u.Policy == CursorHold || u.Policy == CursorPolicyKept && was.hold, Reset: u.Reset,
	}
	switch {
	case found && !was.holds() && !u.Reset:
		return nil, l.cursorLost(&was)
	case found && was.rewound != 0 && !u.Reset:
		return nil, l.cursorRewound(&was)
	case found && u.LSN < was.lsn && !u.Reset:
		return nil, fmt.Errorf("log %q: cursor %q: %w: from LSN %d to %d", l.name, u.Name, ErrCursorBackwards, was.lsn, u.LSN)
	case u.LSN+1 < l.first:
		return nil, fmt.Errorf("cursor %q: %w", u.Name, &RangeError{Log: l.name, Asked: u.LSN, First: l.first, Next: l.next, Err: ErrLSNTruncated})
	case !found && len(l.cursors) >= limits.MaxCursorsPerLog:
		return nil, fmt.Errorf("log %q: %w: the limit is %d", l.name, ErrTooManyCursors, limits.MaxCursorsPerLog)
	case (!found || u.Reset) && !cmd.Hold && l.totalBytes-start > cmd.Cap:
		// It would be evicted as soon as it is there. One that moves forward may still
		// come below its cap.
		return nil, fmt.Errorf("log %q: cursor %q: %w: behind LSN %d there are %d bytes, its cap is %d",
			l.name, u.Name, ErrInvalid, u.LSN, l.totalBytes-start, cmd.Cap)
	case found && was.holds() && was.rewound == 0 && was.lsn == u.LSN && was.cap == cmd.Cap && was.hold == cmd.Hold:
		return nil, nil
	}
	return cmd, nil
}

// conflict compares a cursor with what an update expects.
func (u *CursorUpdate) conflict(log string, was *cursorState, found bool) error {
	switch {
	case u.Create && found:
	case u.Expected != nil && (!found || was.lsn != *u.Expected):
	default:
		return nil
	}
	return &CursorConflictError{Log: log, Cursor: u.Name, Expected: u.Expected, Exists: found, LSN: was.lsn}
}

// defaultCursorCap is the cap of a cursor for which nobody chose one.
func (l *logState) defaultCursorCap() uint64 {
	if q := l.options.QuotaBytes; q != 0 {
		return max(1, min(q/2, limits.DefaultCursorCap))
	}
	return limits.DefaultCursorCap
}

// cursorLost says what an evicted cursor has lost.
func (l *logState) cursorLost(c *cursorState) error {
	return &CursorLostError{Log: l.name, Cursor: c.name, LSN: c.lsn, First: l.first, Next: l.next, Cap: c.cap, Evicted: timeOf(c.evicted)}
}

// cursorRewound says how a rewound cursor's history ended.
func (l *logState) cursorRewound(c *cursorState) error {
	return &RewoundError{Log: l.name, Cursor: c.name, LSN: c.was, Epoch: c.rewound, Kept: c.lsn, Next: l.next}
}

// cursor returns a cursor that holds and stands where its reader does. It returns
// ErrCursorNotFound, a *CursorLostError or a *RewoundError.
func (l *logState) cursor(name string) (*cursorState, error) {
	i, found := l.findCursor(name)
	switch {
	case !found:
		return nil, cursorNotFound(l.name, name)
	case !l.cursors[i].holds():
		return nil, l.cursorLost(&l.cursors[i])
	case l.cursors[i].rewound != 0:
		return nil, l.cursorRewound(&l.cursors[i])
	}
	return &l.cursors[i], nil
}

func cursorNotFound(log, name string) error {
	if !validName(name, limits.MaxCursorNameBytes) {
		return invalidName("cursor", name, limits.MaxCursorNameBytes)
	}
	return fmt.Errorf("log %q: cursor %q: %w", log, name, ErrCursorNotFound)
}

// Cursor returns a cursor, also one that is lost. It returns ErrLogNotFound or
// ErrCursorNotFound.
func (v *Volume) Cursor(log, name string) (Cursor, error) {
	l, err := v.cursorsOf(log)
	if err != nil {
		return Cursor{}, err
	}
	i, found := l.findCursor(name)
	if !found {
		return Cursor{}, cursorNotFound(log, name)
	}
	return v.describeCursor(&l, &l.cursors[i]), nil
}

// Cursors returns a log's cursors by name. It returns ErrLogNotFound.
func (v *Volume) Cursors(log string) ([]Cursor, error) {
	l, err := v.cursorsOf(log)
	if err != nil {
		return nil, err
	}
	list := make([]Cursor, len(l.cursors))
	for i := range l.cursors {
		list[i] = v.describeCursor(&l, &l.cursors[i])
	}
	return list, nil
}

// cursorsOf returns a durable log with cursors of its own.
func (v *Volume) cursorsOf(log string) (logState, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, err := v.lookup(log)
	if err != nil {
		return logState{}, err
	}
	c := *l
	c.cursors = slices.Clone(l.cursors)
	return c, nil
}

// describeCursor describes a cursor of a log as it was then. It reads the frame of
// the first record behind it.
func (v *Volume) describeCursor(l *logState, c *cursorState) Cursor {
	d := Cursor{
		Name: c.name, LSN: c.lsn, Cap: c.cap, Policy: c.policy(), State: c.state(l.totalBytes),
		Records: uint64(l.next - 1 - c.lsn), SetAt: timeOf(c.setAt), Rewound: c.rewound, Was: c.was,
	}
	if !c.holds() {
		d.EvictedAt = timeOf(c.evicted)
		return d
	}
	d.LiveBytes = l.totalBytes - c.start
	var b batchFrame
	if h := l.history(); d.Records > 0 && v.seek(&b, l.name, l.number, c.lsn+1, &h) == nil {
		first, _ := b.covering(c.lsn + 1)
		at := b.committed(first)
		d.Oldest, d.Lag = timeOf(at), max(0, time.Duration(v.clock.now()-at))
	}
	return d
}

// DeleteCursor deletes a cursor, durably; it holds nothing any more. expected,
// unless nil, must be its present LSN. It returns ErrLogNotFound,
// ErrCursorNotFound or a *CursorConflictError.
func (v *Volume) DeleteCursor(ctx context.Context, log, name string, expected *LSN) error {
	defer v.janitor.kick()
	return v.do(ctx, maxSmallCommand, forTruncation, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		i, found := l.findCursor(name)
		if !found {
			return nil, nil, cursorNotFound(log, name)
		}
		u := CursorUpdate{Name: name, Expected: expected}
		if err := u.conflict(log, &l.cursors[i], found); err != nil {
			return nil, nil, err
		}
		return &Command{Kind: CommandDeleteCursor, Log: l.number, Name: name}, nil, nil
	})
}

// evict evicts the cursors that are over their caps, durably: only then does
// anybody stop to keep what they held. Who is over is decided again when the
// command is sequenced, so one that has moved meanwhile stays.
func (j *janitor) evict() error {
	v := j.v
	v.mu.Lock()
	crowded := v.durable.crowded
	v.durable.crowded = false
	var over []stateKey
	if crowded {
		for n, l := range v.durable.logs.all() {
			for i := range l.cursors {
				if l.cursors[i].over(l.totalBytes) {
					over = append(over, stateKey{n, l.cursors[i].name})
				}
			}
		}
	}
	v.mu.Unlock()
	for some := range slices.Chunk(over, evictTogether) {
		err := v.doAll(j.quit, len(some)*maxEvictBytes, forRelease, func(s *State, put func(*Command, []byte)) {
			for _, k := range some {
				l := s.logs.get(k.log)
				if l == nil {
					continue // deleted meanwhile
				}
				if i, found := l.findCursor(k.name); found && l.cursors[i].over(l.totalBytes) {
					c := l.cursors[i]
					put(&Command{
						Kind: CommandEvictCursor, Log: k.log, Name: c.name, LSN: c.lsn, Start: c.start, Cap: c.cap, Time: max(1, v.clock.now()),
					}, nil)
				}
			}
		})
		if err != nil {
			v.mu.Lock()
			v.durable.crowded = true
			v.mu.Unlock()
			return err
		}
	}
	return nil
}

const (
	// evictTogether is how many cursors are evicted in one frame.
	evictTogether = 64
	// maxEvictBytes is more than an eviction takes in a directory.
	maxEvictBytes = limits.MaxCursorNameBytes + 64
)

// A CursorConflictError is an ErrCursorConflict with its figures.
type CursorConflictError struct {
	Log, Cursor string
	Expected    *LSN // nil if there was to be no such cursor
	Exists      bool
	LSN         LSN // where it is, if it exists
}

// Error implements error.
func (e *CursorConflictError) Error() string {
	is, want := "there is none", "none"
	if e.Exists {
		is = fmt.Sprintf("it is at LSN %d", e.LSN)
	}
	if e.Expected != nil {
		want = fmt.Sprintf("LSN %d", *e.Expected)
	}
	return fmt.Sprintf("log %q: cursor %q: %v: expected %s, %s", e.Log, e.Cursor, ErrCursorConflict, want, is)
}

// Unwrap returns ErrCursorConflict.
func (e *CursorConflictError) Unwrap() error { return ErrCursorConflict }

// A CursorLostError is an ErrCursorLost that says what was lost.
type CursorLostError struct {
	Log, Cursor string
	LSN         LSN // up to which its reader was done
	First, Next LSN // of the log
	Cap         uint64
	Evicted     time.Time
}

// Error implements error.
func (e *CursorLostError) Error() string {
	what := fmt.Sprintf("nothing behind LSN %d is gone yet, and nothing is held", e.LSN)
	if e.First > e.LSN+1 {
		what = fmt.Sprintf("LSN %d to %d are gone", e.LSN+1, e.First-1)
	}
	return fmt.Sprintf("log %q: cursor %q: %v: it was evicted at %s, over its cap of %d bytes: %s",
		e.Log, e.Cursor, ErrCursorLost, e.Evicted.UTC().Format(time.RFC3339), e.Cap, what)
}

// Unwrap returns ErrCursorLost.
func (e *CursorLostError) Unwrap() error { return ErrCursorLost }
