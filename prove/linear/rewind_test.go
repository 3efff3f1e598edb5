package linear

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A cut is where a rewind cut a log.
type cut struct {
	epoch uint64 // that it began
	kept  uint64 // the last record that it kept
	next  uint64 // what the next record would have been
}

// since returns the lowest cut of the rewinds that began a later epoch, nil if there
// is none: what was told of in that epoch is there up to it.
func (s *state) since(epoch uint64) *cut {
	for i := range s.cuts {
		if s.cuts[i].epoch > epoch {
			return &s.cuts[i] // they increase
		}
	}
	return nil
}

// tells reports whether out is a refusal that tells of that cut whoever stood at an LSN.
func (s *state) tells(out *output, c *cut, lsn uint64) bool {
	return out.Reason == rewound && told(out, "epoch") == c.epoch && told(out, "kept_lsn") == c.kept && told(out, "lsn") == lsn && told(out, "next_lsn") == s.next()
}

// heard reports whether out tells of a cut that whoever stood at an LSN, 0 for any, has
// to hear of. That the operation had begun before the cut is for another step to say: see
// stands.
func (s *state) heard(out *output, lsn uint64) bool {
	at := told(out, "lsn")
	i := slices.IndexFunc(s.cuts, func(c cut) bool { return c.epoch == told(out, "epoch") })
	return i >= 0 && (lsn == 0 || lsn == at) && at > s.cuts[i].kept && s.tells(out, &s.cuts[i], at)
}

// told returns a figure of a refusal, 0 if it has none of that name.
func told(out *output, figure string) uint64 {
	n, _ := strconv.ParseUint(out.Figures[figure], 10, 64)
	return n
}

// stands returns the second half of an operation that heard of a rewind while it was
// under way, nil for others. It stood somewhere in an earlier epoch, after it was asked
// for: an operation that begins when the rewind was answered is told nothing of it. What
// it stood at was in the log then, but for an append, which is told where the log would
// have gone on, and a wait. Both halves lie between the call and the answer, and epochs
// do not go back, so that the order of the two is given.
func stands(in *input, out *output) *input {
	switch {
	case out.Reason != rewound, out.Figures["cursor"] != "":
		return nil
	case in.Told != 0, in.Kind == seeDurable && in.Epoch != 0: // it is known where they stood
		return nil
	}
	half := &input{Kind: stood, Log: in.Log, By: in.By, Epoch: told(out, "epoch"), Life: in.Life}
	if in.Kind != appendRecords && in.Kind != seeDurable {
		half.LSN = told(out, "lsn")
	}
	return half
}

// stepRewind: asking again is answered with the epoch that it got, as long as that
// is the log's, and without how much it discarded.
func (s *state) stepRewind(in *input, out *output) (*state, bool) {
	switch {
	case s.since(s.epoch-1) != nil && s.acquired == in.Request:
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
	case out.Reason == tooManyRewinds: // if none of them is as good as forgotten
		return n, len(s.cuts) >= limits.MaxRewinds
	}
	if n = n.cutBehind(in); out.succeeded() && (out.Repeated || out.Count != s.last-in.LSN || out.Bytes != s.total()-n.total()) {
		return nil, false
	}
	return n.answered(out)
}

// cutBehind returns the state without the records behind an LSN, in a new epoch.
func (s *state) cutBehind(in *input) *state {
	n := s.begun(in.Name, in.Request)
	own := cut{epoch: n.epoch, kept: in.LSN, next: s.next()}
	n.cuts = nil
	for _, c := range s.cuts {
		if c.kept < own.kept {
			n.cuts = append(n.cuts, c)
		} else {
			own.next = max(own.next, c.next)
		}
	}
	n.cuts, n.rewound = append(n.cuts, own), 0
	for _, c := range n.cuts {
		n.rewound += hash(c)
	}
	n.tail, n.last, n.history = s.at(in.LSN), in.LSN, 0
	if n.tail != nil {
		n.history = n.tail.history
	}
	n.cursors, n.marked = slices.Clone(s.cursors), 0
	for i := range n.cursors {
		c := &n.cursors[i]
		c.been = !c.Lost && s.over(c)
		if c.LSN > in.LSN {
			if !c.Rewound {
				c.Was = c.LSN
			}
			c.LSN, c.start, c.Rewound, c.Epoch = in.LSN, n.total(), true, n.epoch
		}
		n.marked += hash(*c)
	}
	for _, p := range s.producers {
		p.window = slices.Clone(p.window)
		for i := range p.window {
			if b := &p.window[i]; b.discarded == 0 && b.first+b.count-1 > in.LSN {
				b.discarded, b.kept = n.epoch, in.LSN
				p.history = hash(struct{ before, sequence, epoch uint64 }{p.history, b.sequence, n.epoch})
			}
		}
		n = n.remembering(p)
	}
	return n.settle()
}

// heardOf counts who was told of a rewind, by kind.
func (h *history) heardOf() map[kind]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := map[kind]int{}
	for _, o := range h.operations {
		if o.Out.Reason == rewound {
			n[o.In.Kind]++
		}
	}
	return n
}

// TestRewound has clients ask for something while a log is rewound, on a disk that hangs:
// what they asked of the log as it is durable is decided behind the rewind, so that they
// have to be told of it, and not before it is durable. In every other round the power
// goes instead: then nobody was told, and the log is as it was.
func TestRewound(t *testing.T) {
	d := &diskTest{world: newWorld(t, seeded(t), limit)}
	d.proxy.intact = true
	d.start(disk.NewMem(), true)
	conn := d.connect()
	founder := d.newRaw("founder", owned, conn)
	if out := founder.createWith(options{MaxRecord: maxRecord}); !out.succeeded() {
		t.Fatalf("create log: %+v", out)
	}
	told := []kind{appendRecords, seeDurable, setCheckpoint, setCursor}
	for round := 0; ; round++ {
		heard := d.history.heardOf()
		if !slices.ContainsFunc(told, func(k kind) bool { return heard[k] < 2 }) {
			break
		}
		if round == 40 {
			t.Fatalf("after %d rounds this is who was told of a rewind: %v", round, heard)
		}
		for range 4 {
			founder.appendUnary(input{Kind: appendRecords, Records: founder.batch(3)})
		}
		founder.get()
		_, _, next := founder.look()
		founder.view.mu.Lock()
		epoch := founder.view.epoch
		founder.view.mu.Unlock()

		asked := make([]*rawClient, 8)
		for i := range asked {
			asked[i] = d.newRaw("asker", owned, conn)
		}
		d.begin(func() { asked[0].waitFor(input{LSN: next + 1}) })
		d.begin(func() { asked[1].waitFor(input{LSN: next, Epoch: epoch}) })
		o := d.hang(0, true)
		d.begin(func() { asked[2].rewindAs(input{LSN: next - 3, Epoch: epoch, Request: ulid.Make().String()}) })
		d.awaitHang(o)
		d.begin(func() {
			asked[3].setCheckpointAs(input{Name: names[0], LSN: next - 1 - uint64(round%3), State: asked[3].batch(1)[0]})
		})
		d.begin(func() {
			asked[4].setCursorAs(input{Name: marks[0], LSN: next - 1, Cap: 1 << 20, Hold: true, Reset: true})
		})
		d.begin(func() { asked[5].appendUnary(input{Kind: appendRecords, Records: asked[5].batch(2)}) })
		d.begin(func() { asked[6].waitFor(input{LSN: next - 2}) })
		d.begin(asked[7].read)
		d.linger(10, 10*time.Millisecond)
		if round%2 == 1 {
			d.crashKeeping(o.lets, 0)
			continue
		}
		o.well = true
		close(o.lets)
		// Whoever asks in the epoch before only now is told at once, however far the log
		// has come again.
		founder.waitFor(input{LSN: next - 1, Epoch: epoch})
		for range 8 { // so that nobody waits in vain who came late
			founder.appendUnary(input{Kind: appendRecords, Records: founder.batch(3)})
		}
	}
	d.end()
	d.crash(make(chan struct{}))
	if err := d.service.drain(t.Context()); err != nil {
		t.Error(err)
	}
	d.judge()
	t.Logf("told of a rewind: %v", d.history.heardOf())
}
