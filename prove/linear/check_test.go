package linear

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// model is the state machine as porcupine takes it.
var model = porcupine.Model{
	Init: func() any { return &state{} },
	Step: func(s, in, out any) (bool, any) {
		next, ok := s.(*state).step(in.(*input), out.(*output))
		return ok, next
	},
	Equal:             func(a, b any) bool { return a.(*state).equal(b.(*state)) },
	Hash:              func(s any) uint64 { return hash(s.(*state).key) },
	DescribeOperation: func(in, out any) string { return describe(in.(*input), out.(*output)) },
	DescribeState:     func(s any) string { return s.(*state).String() },
}

// patience bounds the check of one log. A check that takes longer has decided
// nothing, and fails.
const patience = 20 * time.Second

// forever is the last instant of a history, after everything has ended.
const forever = math.MaxInt64

// partition returns a log's operations for porcupine, with the crashes between
// them. One that was not answered is open for ever: see state.step.
func (h *history) partition(all []*operation) []porcupine.Operation {
	var operations []porcupine.Operation
	for _, o := range all {
		p := porcupine.Operation{ClientId: o.Client, Input: &o.In, Output: &o.Out, Call: o.Call, Return: o.Return}
		if o.Out.Unknown {
			p.Return = forever
		}
		operations = append(operations, p)
	}
	for life, at := range append(slices.Clone(h.lives), forever-1) {
		in := &input{Kind: crash, Life: life}
		operations = append(operations, porcupine.Operation{Input: in, Output: &output{}, Call: at, Return: at})
	}
	return operations
}

// over returns when the last life that an operation may have reached was over.
func (h *history) over(o *operation) int64 {
	if o.In.Life+1 < len(h.lives) {
		return h.lives[o.In.Life+1]
	}
	return forever
}

// A finding is what the rest of a history says of an operation without an answer.
type finding struct {
	at    uint64 // LSN of a batch's first record, version of a checkpoint
	until int64  // when somebody had seen it
}

// guess settles what became of the operations that were not answered, as far as
// the others tell: no two batches and no two states of checkpoints are the same,
// so who saw one knows which it was. What nobody saw is left out.
func (h *history) guess(all []*operation) (settled, out []*operation) {
	found, answered, tried := map[string]finding{}, map[string]bool{}, map[string]int{}
	note := func(what string, at uint64, o *operation) {
		if f, ok := found[what]; !ok || o.Return < f.until {
			found[what] = finding{at, o.Return}
		}
	}
	for _, o := range all {
		switch {
		case o.Out.Unknown && o.In.Kind == appendRecords && len(o.In.Records) > 0:
			tried[o.In.Records[0]]++
		case !o.Out.succeeded():
		case o.In.Kind == appendRecords:
			note(o.In.Records[0], o.Out.First, o)
			answered[o.In.Records[0]] = answered[o.In.Records[0]] || !o.Out.Repeated
		case o.In.Kind == readRecords, o.In.Kind == seeRecords:
			for i, r := range o.Out.Records {
				note(r, o.Out.First+uint64(i), o)
			}
		case o.In.Kind == getCheckpoint:
			note(o.Out.Checkpoints[0].State, o.Out.Checkpoints[0].Version, o)
		}
	}
	first := map[string]bool{}
	for _, o := range all {
		if !o.Out.Unknown {
			settled = append(settled, o)
			continue
		}
		c := *o
		what := o.In.State
		if len(o.In.Records) > 0 {
			what = o.In.Records[0]
		}
		f, seen := found[what]
		switch {
		case !seen || answered[what]:
			out = append(out, o)
			continue
		case tried[what] > 1: // it was one of these; the first that may have, until that proves wrong
			c.Out.First = f.at
			since, until := bounds(all, o.In.ID, f)
			if first[what] || h.over(o) < since || o.Call > until {
				out = append(out, &c)
				continue
			}
			first[what] = true
		case o.In.Kind == setCheckpoint:
			c.Out = output{Checkpoints: []checkpoint{{Name: o.In.Name, LSN: o.In.LSN, Version: f.at, Size: uint64(len(o.In.State))}}}
			c.Return = min(f.until, h.over(o))
		default:
			c.Out = output{First: f.at, Count: uint64(len(o.In.Records))}
			c.Return = min(f.until, h.over(o))
		}
		settled = append(settled, &c)
	}
	return settled, out
}

// bounds returns between which instants the log came to have a record, as far as
// the answers tell that name the log.
func bounds(all []*operation, id string, f finding) (since, until int64) {
	until = f.until
	for _, o := range all {
		var next uint64 // LSN when it was done
		switch {
		case !o.Out.succeeded() || o.Out.Repeated:
			continue
		case o.Out.Info != nil && (id == "" || o.Out.Info.ID == id):
			next = o.Out.Info.Next
		case o.In.Kind == appendRecords && (id == "" || o.Out.ID == id):
			next = o.Out.First
		default:
			continue
		}
		if next <= f.at {
			since = max(since, o.Call)
		} else {
			until = min(until, o.Return)
		}
	}
	return since, until
}

// attempt looks for an order with as much work as a guess is worth. If it finds none,
// stuck is the instant up to which it came: when the first operation ended that
// has no place behind the longest beginning of an order.
func (h *history) attempt(all []*operation) (verdict porcupine.CheckResult, stuck int64) {
	const worth = 50 // steps for an operation; those that find an order take 20 at most
	partition := h.partition(all)
	steps := worth * len(partition)
	bounded := model
	bounded.Step = func(s, in, out any) (bool, any) {
		if steps--; steps < 0 {
			return false, nil // so that it ends soon
		}
		return model.Step(s, in, out)
	}
	verdict, found := porcupine.CheckOperationsVerbose(bounded, partition, patience)
	var longest []int
	for _, order := range found.PartialLinearizations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	placed := make([]bool, len(partition))
	for _, i := range longest {
		placed[i] = true
	}
	stuck = forever
	for i, o := range partition {
		if !placed[i] {
			stuck = min(stuck, o.Return)
		}
	}
	return verdict, stuck
}

// decide says whether there is an order of a log's operations in which all of
// their answers are right.
//
// Every operation without an answer doubles what a search has to look through.
// So it begins with a guess at what became of them, and where an order ends
// early takes in one that was left out and with which it gets further: a history
// that is in order with some of this settled in one way is in order. If none is
// found like this, the history as it is has the word.
func (h *history) decide(all []*operation) porcupine.CheckResult {
	settled, out := h.guess(all)
	verdict, stuck := h.attempt(settled)
	for verdict != porcupine.Ok {
		further := false
		for i, o := range slices.Backward(out) { // it is one of the last, most often
			if o.Call > stuck || h.over(o) < stuck-slack {
				continue // it was not open there
			}
			var reached int64
			verdict, reached = h.attempt(append(slices.Clip(settled), o))
			if further = verdict == porcupine.Ok || reached > stuck; further {
				settled, stuck, out = append(settled, o), reached, slices.Delete(out, i, i+1)
				break
			}
		}
		if !further { // it takes several: those of the lives that were going on there, or just over
			var near []*operation
			for _, o := range out {
				if o.Call <= stuck && h.over(o) >= stuck-slack {
					near = append(near, o)
				}
			}
			var reached int64
			verdict, reached = h.attempt(append(slices.Clip(settled), near...))
			if further = verdict == porcupine.Ok || reached > stuck; further {
				settled, stuck = append(settled, near...), reached
				out = slices.DeleteFunc(out, func(o *operation) bool { return slices.Contains(near, o) })
			}
		}
		if !further {
			return porcupine.CheckOperationsTimeout(model, h.partition(all), patience)
		}
	}
	return verdict
}

// slack is how long before the instant at which no order goes on something may
// have been done that nobody noticed before, in ticks.
const slack = 1000

// check decides for each log whether its history is linearizable. The error says
// which are not, or not within patience, and names a directory with them.
func (h *history) check() error {
	var wrong []string
	var dir string
	logs := h.logs()
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		verdict := h.decide(logs[name])
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
		if err := h.save(dir, name, logs[name]); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("not linearizable: %s; see %s", strings.Join(wrong, ", "), dir)
}

// save writes a log's history, porcupine's picture of how far it makes sense, and
// the same in words.
func (h *history) save(dir, name string, all []*operation) error {
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	settled, _ := h.guess(all)
	partition := h.partition(settled)
	_, found := porcupine.CheckOperationsVerbose(model, partition, patience)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, name+".json"), text, 0o600),
		os.WriteFile(filepath.Join(dir, name+".txt"), []byte(explain(partition, &found)), 0o600),
		porcupine.VisualizePath(model, found, filepath.Join(dir, name+".html")),
	)
}

// explain tells the end of the longest order that was found, the state that it
// leads to, and the operations one of which would have had to come next.
func explain(partition []porcupine.Operation, found *porcupine.LinearizationInfo) string {
	const most = 30
	var longest []porcupine.Operation
	for _, order := range found.PartialLinearizationsOperations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	var b strings.Builder
	s, done := &state{}, map[any]bool{}
	tell := func(o porcupine.Operation) {
		fmt.Fprintf(&b, "%7d %7d  %-12s %s\n", o.Call, o.Return, o.Input.(*input).By, describe(o.Input.(*input), o.Output.(*output)))
	}
	for i, o := range longest {
		if i >= len(longest)-most {
			tell(o)
		}
		s, _ = s.step(o.Input.(*input), o.Output.(*output))
		done[o.Input] = true
	}
	fmt.Fprintf(&b, "\nafter %d of %d operations: %v\n\nnone of these can be next:\n", len(longest), len(partition), s)
	until := int64(forever)
	for _, o := range partition {
		if !done[o.Input] {
			until = min(until, o.Return)
		}
	}
	for _, o := range partition {
		if !done[o.Input] && o.Call <= until {
			tell(o)
		}
	}
	return b.String()
}
