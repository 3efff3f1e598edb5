package linear

import (
	"slices"
	"strconv"

	"github.com/walsvc/walsvc/internal/limits"
)

// A cut is where a rewind cut a log, with those before it.
type cut struct {
	before      *cut
	epoch, kept uint64
	n           int // how many there are
}

// tells reports whether out is a refusal that tells of a rewind which was.
func (s *state) tells(out *output) bool {
	if out.Reason != rewound {
		return false
	}
	for c := s.cuts; c != nil; c = c.before {
		if out.Figures["epoch"] == strconv.FormatUint(c.epoch, 10) && out.Figures["kept_lsn"] == strconv.FormatUint(c.kept, 10) {
			return true
		}
	}
	return false
}

// rewoundSince reports whether a rewind has begun a later epoch.
func (s *state) rewoundSince(epoch uint64) bool { return s.cuts != nil && s.cuts.epoch > epoch }

// stepRewind: asking again is answered with the epoch that it got, as long as that
// is the log's, and without how much it discarded.
func (s *state) stepRewind(in *input, out *output) (*state, bool) {
	switch {
	case s.rewoundSince(s.epoch-1) && s.acquired == in.Request:
		if out.succeeded() && (!out.Repeated || out.Count != 0 || out.Bytes != 0) {
			return nil, false
		}
		return s.answered(out)
	case in.Epoch != s.epoch:
		return s, refused(out, fenced, s.current())
	case in.LSN > s.last:
		return s, refused(out, lsnAhead, map[string]uint64{"next_lsn": s.next()})
	case out.Reason == lsnTruncated:
		n, ok := s.narrowed(in.LSN+2, s.high)
		if !ok {
			return nil, false
		}
		return n.told(out)
	}
	n, ok := s.narrowed(s.low, in.LSN+1)
	switch {
	case !ok:
		return nil, false
	case in.Expected != 0 && in.Expected != s.next():
		return n, refused(out, lsnMismatch, map[string]uint64{"next_lsn": s.next()})
	case slices.ContainsFunc(s.checkpoints, func(c checkpoint) bool { return c.LSN > in.LSN }):
		return n, out.Reason == held
	case out.Reason == tooManyRewinds:
		return n, s.cuts != nil && s.cuts.n >= limits.MaxRewinds
	}
	if n = n.cutBehind(in); out.succeeded() && (out.Repeated || out.Count != s.last-in.LSN || out.Bytes != s.total()-n.total()) {
		return nil, false
	}
	return n.answered(out)
}

// cutBehind returns the state without the records behind an LSN, in a new epoch.
func (s *state) cutBehind(in *input) *state {
	n := s.begun(in.Name, in.Request)
	n.cuts = &cut{before: s.cuts, epoch: n.epoch, kept: in.LSN, n: 1}
	if s.cuts != nil {
		n.cuts.n += s.cuts.n
	}
	n.rewound = hash(struct{ before, epoch, kept uint64 }{s.rewound, n.epoch, in.LSN})
	n.tail, n.last, n.history = s.at(in.LSN), in.LSN, 0
	if n.tail != nil {
		n.history = n.tail.history
	}
	n.cursors, n.marked = slices.Clone(s.cursors), 0
	for i := range n.cursors {
		c := &n.cursors[i]
		c.been = !c.Lost && s.over(c)
		if c.LSN > in.LSN {
			c.LSN, c.start, c.Rewound = in.LSN, n.total(), true
		}
		n.marked += hash(*c)
	}
	for _, p := range s.producers {
		p.window = slices.Clone(p.window)
		for i := range p.window {
			if b := &p.window[i]; !b.discarded && b.first+b.count-1 > in.LSN {
				b.discarded = true
				p.history = hash(struct{ before, sequence, epoch uint64 }{p.history, b.sequence, n.epoch})
			}
		}
		n = n.remembering(p)
	}
	return n.settle()
}
