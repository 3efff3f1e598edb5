package linear

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history is what clients asked and heard, in the order of one clock that
// ticks at every beginning and end: what ended before something began has the
// lower time. It is safe for concurrent use.
type history struct {
	mu         sync.Mutex
	clock      int64
	operations []*operation
	lives      []int64 // when each life of the service began
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
	// Life of the service that was the last one when it ended.
	Life int
	// Lasting says that the client may yet send it again: it is open for ever.
	Lasting bool `json:",omitempty"`
}

// begin notes that a client asks for something.
func (h *history) begin(client int, in input) (*operation, func(output)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o := &operation{Client: client, In: in, Call: h.clock}
	return o, func(out output) { h.end(o, out) }
}

// end notes what the client heard. A look that heard nothing never was.
func (h *history) end(o *operation, out output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o.Out, o.Return, o.Life = out, h.clock, len(h.lives)-1
	if !out.Unknown || changes[o.In.Kind] {
		h.operations = append(h.operations, o)
	}
	if h.reached != nil && len(h.operations) >= h.goal {
		close(h.reached)
		h.reached = nil
	}
}

// live notes that the service's life is over, if it had one, and that the next
// one is about to begin.
func (h *history) live() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	h.lives = append(h.lives, h.clock)
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

// closes returns until when an operation may have been done.
//
// One that was not answered is not open for ever. It was sent while one of the
// lives up to its own was going on. When that life was over, it had been done or
// was lost with the memory of the process; recovery may find it done, and then
// it is there from the beginning of the next life, or never.
func (h *history) closes(o *operation) int64 {
	switch {
	case !o.Out.Unknown:
		return o.Return
	case o.Lasting || o.Life+1 >= len(h.lives):
		return math.MaxInt64
	}
	return h.lives[o.Life+1]
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
	succeeded, refused               map[kind]int
	reasons                          map[string]int
}

// census counts. An operation overlaps if the client of another one on its log
// was waiting at the same time.
func (h *history) census() census {
	c := census{succeeded: map[kind]int{}, refused: map[kind]int{}, reasons: map[string]int{}}
	for _, all := range h.logs() {
		var latest int64 // return of those before
		for i, o := range all {
			c.operations++
			if o.Call < latest || i+1 < len(all) && all[i+1].Call < o.Return {
				c.overlapping++
			}
			latest = max(latest, o.Return)
			switch {
			case o.Out.Unknown:
				c.unknown++
			case o.Out.Reason != "":
				c.refused[o.In.Kind]++
				c.reasons[o.Out.Reason]++
			default:
				c.succeeded[o.In.Kind]++
			}
		}
	}
	return c
}

// String tells the counts.
func (c *census) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d operations, %d of them overlapping others on their log, %d of unknown outcome", c.operations, c.overlapping, c.unknown)
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

// model is the state machine as porcupine takes it.
var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{&state{}} },
	Step: func(s, in, out any) []any {
		i, o := in.(*input), out.(*output)
		var next []any
		for _, n := range s.(*state).step(i, o) {
			next = append(next, n)
		}
		return next
	},
	Equal:             func(a, b any) bool { return a.(*state).equal(b.(*state)) },
	Hash:              func(s any) uint64 { return hash(s.(*state).key) },
	DescribeOperation: func(in, out any) string { return describe(in.(*input), out.(*output)) },
	DescribeState:     func(s any) string { return s.(*state).String() },
}).ToModel()

// patience bounds the check of one log. A check that takes longer has decided
// nothing, and fails.
const patience = time.Minute

// check decides for each log whether there is an order in which everything that
// was heard is right. The error says of which logs there is none, or none was
// found in time, and names a directory with their histories.
func (h *history) check() error {
	var wrong []string
	var dir string
	logs := h.logs()
	for _, name := range slices.Sorted(mapKeys(logs)) {
		var operations []porcupine.Operation
		for _, o := range logs[name] {
			operations = append(operations, porcupine.Operation{
				ClientId: o.Client, Input: &o.In, Output: &o.Out, Call: o.Call, Return: h.closes(o),
			})
		}
		verdict := porcupine.CheckOperationsTimeout(model, operations, patience)
		if verdict == porcupine.Ok {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("log %s: %s", name, verdict))
		if dir == "" {
			var err error
			if dir, err = os.MkdirTemp("", "walsvc-linear-"); err != nil {
				return fmt.Errorf("%s; its history is lost: %w", wrong[0], err)
			}
		}
		if err := save(dir, name, logs[name], operations); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("not linearizable: %s; see %s", strings.Join(wrong, ", "), dir)
}

func mapKeys[K comparable, V any](m map[K]V) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// save writes a log's history, and porcupine's picture of how far it makes sense.
func save(dir, name string, all []*operation, operations []porcupine.Operation) error {
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), text, 0o600); err != nil {
		return err
	}
	_, found := porcupine.CheckOperationsVerbose(model, operations, patience)
	return porcupine.VisualizePath(model, found, filepath.Join(dir, name+".html"))
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
