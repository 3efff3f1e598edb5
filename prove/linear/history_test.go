package linear

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A history is what clients asked and heard, in the order of one clock that
// ticks at every beginning and end: what ended before something began has the
// lower time. It is safe for concurrent use.
type history struct {
	mu         sync.Mutex
	clock      int64
	operations []*operation
	lives      []int64 // when each life of the service began
	survived   []bool  // whether everything that was written in the life before was there then
	goal       int
	reached    chan struct{} // closed when there are goal operations
}

// An operation is one that ended.
type operation struct {
	Client int
	In     input
	Out    output
	Call   int64
	Return int64

	fenced int64 // when it is known to be, if it was not answered and states an epoch; 0 if it is not
}

// begin notes that a client asks for something.
func (h *history) begin(client int, in input) *operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return &operation{Client: client, In: in, Call: h.clock}
}

// end notes what the client heard. A look that heard nothing never was.
func (h *history) end(o *operation, out output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o.Out, o.Return, o.In.Life = out, h.clock, len(h.lives)-1
	if !out.Unknown || changes[o.In.Kind] {
		h.operations = append(h.operations, o)
	}
	if h.reached != nil && len(h.operations) >= h.goal {
		close(h.reached)
		h.reached = nil
	}
}

// live notes that the service's life is over, if it had one, and that the next
// one is about to begin: with all that was written, synced or not, or without some.
func (h *history) live(withWritten bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	h.survived = append(h.survived, withWritten)
	h.lives = append(h.lives, h.clock)
	h.clock++ // for what the crash undoes: see partition
}

// life numbers the service's present life.
func (h *history) life() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.lives) - 1
}

// after returns a channel that is closed when n more operations have ended.
func (h *history) after(n int) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.goal, h.reached = len(h.operations)+n, make(chan struct{})
	return h.reached
}

// doubtful returns the producers of a log of which nobody knows whether they were
// resolved or retired in the life that is over.
func (h *history) doubtful(log string) (producers []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.operations {
		in := &o.In
		if in.Log == log && in.Producer != "" && o.Out.Unknown && in.Life == len(h.lives)-2 && (in.Kind == resolveBatch || in.Kind == retireProducer) && !slices.Contains(producers, in.Producer) {
			producers = append(producers, in.Producer)
		}
	}
	return producers
}

// amend notes what a client found out of an operation that has ended.
func (h *history) amend(note func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	note()
}

// kept reports whether an append that was not answered has to be there, unless the log
// refused it: it was told to be written, and all that was outlived the service.
func (h *history) kept(o *operation) bool {
	next := o.In.Life + 1
	return o.In.Kind == appendRecords && o.In.Firm && o.Out.Unknown && o.Out.Written && next < len(h.survived) && h.survived[next]
}

// logs returns the operations by log, in the order of their calls.
func (h *history) logs() map[string][]*operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	logs := map[string][]*operation{}
	for _, o := range h.operations {
		logs[o.In.Log] = append(logs[o.In.Log], o)
	}
	for _, all := range logs {
		slices.SortFunc(all, func(a, b *operation) int { return cmp.Compare(a.Call, b.Call) })
	}
	return logs
}

// A census counts what is in a history.
type census struct {
	operations, overlapping, unknown int
	written, kept                    int // of unknown outcome, but told to be written; and there for that
	between                          int // replays from or until a time that showed something
	succeeded, refused               map[kind]int
	reasons                          map[string]int
}

// census counts. An operation overlaps if the client of another one on its log
// was waiting at the same time; what a follower is shown does not count there, as
// it always waits.
func (h *history) census() census {
	c := census{succeeded: map[kind]int{}, refused: map[kind]int{}, reasons: map[string]int{}}
	for _, all := range h.logs() {
		asked := slices.DeleteFunc(slices.Clone(all), func(o *operation) bool { return shown[o.In.Kind] })
		var latest int64 // return of those before
		for i, o := range asked {
			if o.Call < latest || i+1 < len(asked) && asked[i+1].Call < o.Return {
				c.overlapping++
			}
			latest = max(latest, o.Return)
		}
		for _, o := range all {
			c.operations++
			switch {
			case o.Out.Unknown:
				c.unknown++
				if o.Out.Written {
					c.written++
				}
				if h.kept(o) {
					c.kept++
				}
			case o.Out.Reason != "":
				c.refused[o.In.Kind]++
				c.reasons[o.Out.Reason]++
			default:
				c.succeeded[o.In.Kind]++
				if (o.In.Since != 0 || o.In.Until != 0) && len(o.Out.Records) > 0 {
					c.between++
				}
			}
		}
	}
	return c
}

// String tells the counts.
func (c *census) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d operations, %d of them overlapping others on their log, %d of unknown outcome, of which %d were written, and %d for certain outlived the service; %d replays by time",
		c.operations, c.overlapping, c.unknown, c.written, c.kept, c.between)
	for _, k := range slices.Sorted(keys(c.succeeded, c.refused)) {
		fmt.Fprintf(&b, "\n%20s %6d done %6d refused", k, c.succeeded[k], c.refused[k])
	}
	for _, r := range slices.Sorted(keys(c.reasons)) {
		fmt.Fprintf(&b, "\n%20s %6d", r, c.reasons[r])
	}
	return b.String()
}

// keys yields the keys of maps, each once.
func keys[K cmp.Ordered](maps ...map[K]int) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		seen := map[K]bool{}
		for _, m := range maps {
			for k := range m {
				if !seen[k] && !yield(k) {
					return
				}
				seen[k] = true
			}
		}
	}
}

// mustBeRich fails the test if the history could not have shown what it is for.
func (c *census) mustBeRich(t *testing.T, refusals bool) {
	t.Helper()
	if 5*c.overlapping < c.operations {
		t.Errorf("%d of %d operations overlap, want a fifth", c.overlapping, c.operations)
	}
	if c.unknown == 0 {
		t.Error("every outcome is known")
	}
	if c.between == 0 {
		t.Error("nothing was ever replayed by time")
	}
	for k := range changes {
		if c.succeeded[k] == 0 {
			t.Errorf("no %s was ever done", k)
		}
	}
	if !refusals {
		return
	}
	for _, k := range refusable {
		if c.refused[k] == 0 {
			t.Errorf("no %s was ever refused", k)
		}
	}
}
