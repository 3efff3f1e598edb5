package linear

import (
	"cmp"
	"slices"
)

// fences reports whether what states an epoch, 0 for none, may not append.
func (s *state) fences(epoch uint64) bool { return epoch != s.epoch && (epoch != 0 || s.holder != "") }

// current are the figures of who is fenced.
func (s *state) current() map[string]uint64 { return map[string]uint64{"current_epoch": s.epoch} }

// begun returns the state with one more epoch, of a writer or of none.
func (s *state) begun(holder, request string) *state {
	c := s.changed()
	c.epoch, c.holder, c.acquired = s.epoch+1, holder, request
	return c
}

// stepAcquire: asking again is answered with the epoch that it got, as long as that
// is the log's.
func (s *state) stepAcquire(in *input, out *output) (*state, bool) {
	n := s
	switch {
	case s.sealed:
		return s, out.Reason == sealed
	case in.Request != "" && s.holder != "" && s.acquired == in.Request:
		if out.succeeded() && !out.Repeated {
			return nil, false
		}
	case in.Version != nil && *in.Version != s.epoch:
		return s, refused(out, fenced, s.current())
	default:
		if n = s.begun(in.Name, in.Request); out.Repeated {
			return nil, false
		}
	}
	return n.answered(out)
}

func (s *state) stepRelease(in *input, out *output) (*state, bool) {
	n := s
	switch {
	case s.holder == "":
	case in.Epoch != s.epoch:
		return s, refused(out, fenced, s.current())
	case !s.sealed:
		n = s.begun("", "")
	}
	return n.answered(out)
}

// answered returns the state behind a change, if the answer shows the log so.
func (s *state) answered(out *output) (*state, bool) {
	switch {
	case out.Unknown:
		return s, true
	case !out.succeeded():
		return nil, false
	}
	return s.sees(out.Info)
}

// stepResolve: whatever the producer had under way ends first, with its incarnation.
func (s *state) stepResolve(in *input, out *output) (*state, bool) {
	p := s.producer(in.Producer)
	if p == nil {
		return s, out.Reason == noProducer
	}
	was := *p
	if !p.retired {
		was.incarnation++
	}
	n := s.remembering(was)
	if out.Unknown {
		return n, true
	}
	want := output{Outcome: "NOT_WRITTEN"}
	switch {
	case in.Sequence <= p.last:
		want.Outcome = "COMMITTED"
		if i := slices.IndexFunc(p.window, func(b batch) bool { return b.sequence == in.Sequence }); i >= 0 {
			want.First, want.Count, want.Epoch = p.window[i].first, p.window[i].count, p.window[i].epoch
			if p.window[i].discarded != 0 {
				want.Outcome = "DISCARDED"
			}
		}
	case s.fences(in.Epoch):
		want.Outcome = "FENCED"
	}
	if !out.succeeded() || out.Outcome != want.Outcome || out.First != want.First || out.Count != want.Count || out.Epoch != want.Epoch ||
		out.Last != p.last || out.Incarnation != was.incarnation {
		return nil, false
	}
	return n.sees(out.Info)
}

func (s *state) stepRetire(in *input, out *output) (*state, bool) {
	p := s.producer(in.Producer)
	if p == nil {
		return s, out.Reason == noProducer
	}
	was := *p
	was.retired = true
	return s.remembering(was), out.Unknown || out.succeeded()
}

// findCursor returns a cursor, nil if there is none of that name.
func (s *state) findCursor(name string) *heldCursor {
	for i := range s.cursors {
		if s.cursors[i].Name == name {
			return &s.cursors[i]
		}
	}
	return nil
}

// withCursor returns the state with a cursor in place of one of its name, or, if it
// is nil, without that.
func (s *state) withCursor(name string, c *heldCursor) *state {
	n := s.changed()
	n.cursors, n.marked = nil, 0
	for _, o := range s.cursors {
		if o.Name != name {
			n.cursors = append(n.cursors, o)
		}
	}
	if c != nil {
		n.cursors = append(n.cursors, *c)
	}
	slices.SortFunc(n.cursors, func(a, b heldCursor) int { return cmp.Compare(a.Name, b.Name) })
	for _, o := range n.cursors {
		n.marked += hash(o)
	}
	return n.settle()
}

// evicted returns the state with a cursor that is known to be, if it can be.
func (s *state) evicted(c *heldCursor) (*state, bool) {
	switch {
	case c.Lost:
		return s, true
	case !s.over(c):
		return nil, false
	}
	lost := *c
	lost.Lost, lost.been = true, false
	return s.withCursor(c.Name, &lost), true
}

// evictedBelow returns the state with the cursors evicted that would hold what is
// below an LSN.
func (s *state) evictedBelow(lsn uint64) *state {
	for _, c := range s.cursors {
		if !c.Lost && lsn > c.LSN+1 {
			if n, ok := s.evicted(&c); ok {
				s = n
			}
		}
	}
	return s
}

// shows returns the state if a cursor can look like that now. One that holds has
// held all along.
func (s *state) shows(c *heldCursor, as cursor) (*state, bool) {
	if as.Name != c.Name || as.LSN != c.LSN || as.Cap != c.Cap || as.Hold != c.Hold || as.Lag != s.last-c.LSN {
		return nil, false
	}
	if as.Lost {
		return s.evicted(c)
	}
	if c.Lost || as.Rewound != c.Rewound || as.Epoch != c.Epoch || as.Was != c.Was || as.Live != s.total()-c.start {
		return nil, false
	}
	n := s
	if c.been {
		holds := *c
		holds.been = false
		n = s.withCursor(c.Name, &holds)
	}
	return n.narrowed(s.low, c.LSN+1)
}

func (s *state) stepGetCursor(in *input, out *output) (*state, bool) {
	c := s.findCursor(in.Name)
	if c == nil || !out.succeeded() {
		return s, c == nil && out.Reason == cursorNotFound
	}
	return s.shows(c, out.Cursors[0])
}

func (s *state) stepListCursors(out *output) (*state, bool) {
	if !out.succeeded() || len(out.Cursors) != len(s.cursors) {
		return nil, false
	}
	n, ok := s, true
	for i := 0; ok && i < len(s.cursors); i++ {
		n, ok = n.shows(n.findCursor(s.cursors[i].Name), out.Cursors[i])
	}
	return n, ok
}

// conflicts reports whether a cursor is not as it is to be.
func (s *state) conflicts(c *heldCursor, in *input) bool {
	return in.New && c != nil || in.Version != nil && (c == nil || c.LSN != *in.Version)
}

func (s *state) stepSetCursor(in *input, out *output) (*state, bool) {
	c := s.findCursor(in.Name)
	switch {
	case out.Reason == rewound && out.Figures["cursor"] == "": // while it looked for the LSN
		return s, s.heard(out, in.LSN)
	case in.LSN > s.last:
		return s, refused(out, lsnAhead, map[string]uint64{"next_lsn": s.next()})
	case s.conflicts(c, in):
		if c != nil && c.Rewound && !in.New && !in.Reset {
			return s, s.tells(out, &cut{epoch: c.Epoch, kept: c.LSN}, c.Was)
		}
		return s, out.Reason == cursorConflict
	case out.Reason == cursorLost:
		if c == nil || in.Reset {
			return nil, false
		}
		return s.evicted(c)
	case c != nil && c.Lost && !in.Reset:
		return nil, false
	case c != nil && c.Rewound && !in.Reset:
		return s, s.tells(out, &cut{epoch: c.Epoch, kept: c.LSN}, c.Was)
	case c != nil && in.LSN < c.LSN && !in.Reset:
		return s, out.Reason == cursorBackwards
	case out.Reason == lsnTruncated:
		n, ok := s.narrowed(in.LSN+2, s.high)
		if !ok {
			return nil, false
		}
		return n.told(out)
	}
	n, ok := s.narrowed(s.low, in.LSN+1)
	if !ok {
		return nil, false
	}
	set := heldCursor{cursor: cursor{Name: in.Name, LSN: in.LSN, Cap: in.Cap, Hold: in.Hold}, start: s.bytes(in.LSN + 1)}
	if (c == nil || in.Reset) && s.over(&set) {
		return n, out.Reason == invalid
	}
	n = n.withCursor(in.Name, &set)
	switch {
	case out.Unknown:
		return n, true
	case !out.succeeded():
		return nil, false
	}
	as := out.Cursors[0]
	return n, as.LSN == in.LSN && as.Cap == in.Cap && as.Hold == in.Hold && !as.Lost && !as.Rewound
}

func (s *state) stepDeleteCursor(in *input, out *output) (*state, bool) {
	c := s.findCursor(in.Name)
	switch {
	case c == nil:
		return s, out.Reason == cursorNotFound
	case s.conflicts(c, in):
		return s, out.Reason == cursorConflict
	}
	return s.withCursor(in.Name, nil), out.Unknown || out.succeeded()
}
