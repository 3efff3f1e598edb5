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
	"strconv"
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
const patience = 3 * time.Minute

// forever is the last instant of a history, after everything has ended.
const forever = math.MaxInt64 - 1

// partition returns a log's operations for porcupine, with the crashes between
// them. One that was not answered is open until right after the crash that ended
// the last life which it may have reached: see state.step.
func (h *history) partition(all []*operation) []porcupine.Operation {
	var operations []porcupine.Operation
	for _, o := range all {
		p := porcupine.Operation{ClientId: o.Client, Input: &o.In, Output: &o.Out, Call: o.Call, Return: o.Return}
		switch {
		case h.kept(o):
			out := o.Out
			out.Kept = true
			p.Output, p.Return = &out, h.over(o)-1
		case o.Out.Unknown:
			p.Return = h.over(o) + 1
			if o.fenced != 0 {
				p.Return = min(p.Return, o.fenced+1)
			}
		}
		operations = append(operations, p)
		if half := stands(&o.In, &o.Out); half != nil {
			p.Input, p.Output = half, &output{}
			operations = append(operations, p)
		}
	}
	for life, at := range append(slices.Clone(h.lives), forever) {
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

// evidence is what the answers of a log's history say of what was not answered.
type evidence struct {
	// seen is where the first record of a batch was seen first, or the state of a
	// checkpoint: nobody else appended such a record, or set such a state.
	seen map[string]sighting
	// told has the first records of the batches whose append was answered.
	told map[string]bool
	// tries counts, by first record, how often the append of a batch was not answered.
	tries map[string]int
	// named counts the operations of a producer.
	named map[string]int
	// log grows by records, and its checkpoints, by name, by versions.
	log growth
	// epochs are the answers that say what the log's epoch was, and whose.
	epochs []epochLook
	// incarnations are the answers that say which one a producer was in, and living
	// those that say that it was not retired.
	incarnations, living map[string][]look
	// deleted says that it may have been another log once.
	deleted     bool
	checkpoints map[string]*growth
}

// A growth is what is known of something that grows by one number at a time, from
// 1 on, until it is deleted.
type growth struct {
	// runs are the numbers of which it is known what they are.
	runs []run
	// looks are the answers that say what the next one was, in the order of the
	// calls.
	looks []look
	// ends are when it was deleted or rewound, or may have been.
	ends []span
}

// A sighting is of something that was done.
type sighting struct {
	at    uint64 // LSN, or version of a checkpoint
	until int64  // when the first of those who saw it had done so
}

// A span is from the beginning of an operation to its end.
type span struct{ since, until int64 }

// holds reports whether another span lies within s.
func (s span) holds(o span) bool { return s.since < o.since && o.until < s.until }

// A look shows the next number.
type look struct {
	span
	next uint64
}

// An epochLook shows the log's epoch.
type epochLook struct {
	span
	*info
}

// A run is n numbers that are known.
type run struct {
	span
	first, n uint64
}

// gather gathers the evidence.
func (h *history) gather(all []*operation) *evidence {
	e := &evidence{seen: map[string]sighting{}, told: map[string]bool{}, tries: map[string]int{}, named: map[string]int{}, checkpoints: map[string]*growth{},
		incarnations: map[string][]look{}, living: map[string][]look{}}
	see := func(what string, at uint64, o *operation) {
		if s, ok := e.seen[what]; !ok || o.Return < s.until {
			e.seen[what] = sighting{at, o.Return}
		}
	}
	know := func(data []string, first uint64, o *operation) {
		for i, r := range data {
			see(r, first+uint64(i), o)
		}
		e.log.runs = append(e.log.runs, run{span{o.Call, o.Return}, first, uint64(len(data))})
	}
	for _, o := range all {
		if o.Out.Info != nil && o.Out.succeeded() {
			e.epochs = append(e.epochs, epochLook{span{o.Call, o.Return}, o.Out.Info})
		}
		e.named[o.In.Producer]++
		during := span{o.Call, o.Return}
		if p := o.In.Producer; p != "" && o.Out.succeeded() {
			if o.Out.Incarnation != 0 {
				e.incarnations[p] = append(e.incarnations[p], look{during, o.Out.Incarnation})
			}
			if o.In.Kind == openProducer || o.In.Kind == bindLog {
				e.living[p] = append(e.living[p], look{during, 0})
			}
		}
		if o.Out.Unknown {
			during.until = h.over(o)
		}
		cp := e.checkpoint(o.In.Name)
		switch {
		case o.In.Kind == deleteLog && o.Out.Reason == "":
			e.deleted = true
			e.log.ends = append(e.log.ends, during)
		case o.In.Kind == deleteCheckpoint && o.Out.Reason == "":
			cp.ends = append(cp.ends, during)
		case o.In.Kind == appendRecords && o.Out.Unknown && len(o.In.Records) > 0:
			e.tries[o.In.Records[0]]++
		case o.In.Kind == appendRecords && o.Out.Reason == discarded:
			first, err := strconv.ParseUint(o.Out.Figures["first_lsn"], 10, 64)
			if err == nil {
				see(o.In.Records[0], first, o)
			}
		case !o.Out.succeeded():
		case o.Out.Info != nil:
			e.log.looks = append(e.log.looks, look{during, o.Out.Info.Next})
		case o.In.Kind == appendRecords && o.Out.First > 0:
			e.told[o.In.Records[0]] = e.told[o.In.Records[0]] || !o.Out.Repeated
			know(o.In.Records, o.Out.First, o)
			if !o.Out.Repeated {
				e.log.looks = append(e.log.looks, look{during, o.Out.First})
			}
		case o.In.Kind == readRecords, o.In.Kind == seeRecords:
			know(o.Out.Records, o.Out.First, o)
		case o.In.Kind == setCheckpoint:
			version := o.Out.Checkpoints[0].Version
			cp.runs = append(cp.runs, run{during, version, 1})
			cp.looks = append(cp.looks, look{during, version})
		case o.In.Kind == getCheckpoint:
			version := o.Out.Checkpoints[0].Version
			see(o.Out.Checkpoints[0].State, version, o)
			cp.runs = append(cp.runs, run{during, version, 1})
			cp.looks = append(cp.looks, look{during, version + 1})
		}
	}
	for _, cp := range e.checkpoints {
		cp.ends = append(cp.ends, e.log.ends...)
	}
	for _, o := range all {
		if o.In.Kind != rewindLog || o.Out.Reason != "" {
			continue
		}
		during := span{o.Call, o.Return}
		if o.Out.Unknown {
			during = span{e.unmoved(o), h.over(o)}
		}
		if during.since <= during.until {
			e.log.ends = append(e.log.ends, during)
		}
	}
	return e
}

// checkpoint returns what is known of one.
func (e *evidence) checkpoint(name string) *growth {
	if e.checkpoints[name] == nil {
		e.checkpoints[name] = &growth{}
	}
	return e.checkpoints[name]
}

// absent returns until when something that nobody saw was not done: from before it
// was asked for until then all growth was by what others had done. That holds for
// as long as it is the same log or checkpoint, so that nobody deletes or rewinds it.
func (g *growth) absent(o *operation) int64 {
	same := span{-1, forever}
	for _, d := range g.ends {
		switch {
		case d.until < o.Call:
			same.since = max(same.since, d.until)
		case d.since < o.Call:
			return o.Call
		default:
			same.until = min(same.until, d.since)
		}
	}
	first, end := uint64(1), uint64(1)
	for _, l := range g.looks {
		if same.holds(l.span) {
			end = max(end, l.next)
			if l.until < o.Call {
				first = max(first, l.next)
			}
		}
	}
	known := make([]bool, end)
	for _, r := range g.runs {
		if same.holds(r.span) {
			for n := r.first; n < min(r.first+r.n, end); n++ {
				known[n] = true
			}
		}
	}
	for first < end && known[first] {
		first++
	}
	for _, l := range slices.Backward(g.looks) {
		if same.holds(l.span) && l.next <= first {
			return max(l.since, o.Call)
		}
	}
	return o.Call
}

// unmoved returns until when a rewind was not done, or the writer not acquired in place
// of the one of an epoch. Both take the log from an epoch to the next one, and epochs do
// not go back: they were not where the log was in the epoch still, and never where the
// next one has a writer that they did not name. A log that was deleted may be another one.
func (e *evidence) unmoved(o *operation) int64 {
	until := o.Call
	epoch, _ := o.In.states()
	for _, l := range e.epochs {
		switch {
		case e.deleted:
		case l.Epoch <= epoch:
			until = max(until, l.since)
		case l.Epoch == epoch+1 && l.Holder != o.In.Name:
			return forever
		}
	}
	return until
}

// fenced returns when it is known that the log is in a later epoch than an operation
// states, 0 if it is not: then that is nothing, wherever it still is on its way.
func (e *evidence) fenced(o *operation) (at int64) {
	epoch, states := o.In.states()
	if !states || e.deleted {
		return 0
	}
	for _, l := range e.epochs {
		if l.Epoch > epoch && (at == 0 || l.until < at) {
			at = max(l.until, o.Call)
		}
	}
	return at
}

// untouched returns until when a producer was not resolved, or not retired. Incarnations
// grow, and who is retired stays so: where it is in the incarnation that it was in before
// the call, or is not retired, it was not yet.
func (e *evidence) untouched(o *operation) int64 {
	until := o.Call
	if e.deleted {
		return until
	}
	if o.In.Kind == retireProducer {
		for _, l := range e.living[o.In.Producer] {
			until = max(until, l.since)
		}
		return until
	}
	var before uint64
	for _, l := range e.incarnations[o.In.Producer] {
		if l.until < o.Call {
			before = max(before, l.next)
		}
	}
	for _, l := range e.incarnations[o.In.Producer] {
		if l.next <= before {
			until = max(until, l.since)
		}
	}
	return until
}

// settle gives the operations that were not answered the answers that the rest
// of the history proves, and leaves out those that it proves to have done nothing.
// Every operation without an answer doubles what a search has to look through. What
// stays open is what nobody saw and somebody may have undone before it was.
//
// It only draws conclusions that hold in every order in which all answers are
// right: a history is in order with what is settled if and only if it is without.
func (h *history) settle(all []*operation) []*operation {
	e := h.gather(all)
	var settled []*operation
	for _, o := range all {
		if !o.Out.Unknown || h.kept(o) {
			settled = append(settled, o)
			continue
		}
		c := *o
		c.fenced = e.fenced(o)
		over := h.over(o)
		if c.fenced != 0 {
			over = min(over, c.fenced)
		}
		switch {
		case o.In.Kind == appendRecords && len(o.In.Records) > 0:
			what := o.In.Records[0]
			s, seen := e.seen[what]
			switch {
			case e.told[what]: // it was the one that was answered
				continue
			case !seen:
				if c.Call = e.log.absent(o); c.Call > over {
					continue
				}
			case seen && e.tries[what] > 1: // one of these did it
				c.Out.First = s.at
			case seen:
				c.Out = output{First: s.at, Count: uint64(len(o.In.Records))}
				c.Return = max(c.Call, min(s.until, h.over(o)-1))
			}
		case o.In.Kind == rewindLog, o.In.Kind == acquireWriter && o.In.Version != nil:
			if c.Call = e.unmoved(o); c.Call > over {
				continue
			}
		case o.In.Kind == resolveBatch, o.In.Kind == retireProducer:
			if c.Call = e.untouched(o); c.Call > over {
				continue
			}
		case o.In.Kind == openProducer && e.named[o.In.Producer] == 1:
			continue // it makes no difference
		case o.In.Kind == setCheckpoint && o.In.State != "":
			s, seen := e.seen[o.In.State]
			if !seen {
				if c.Call = e.checkpoint(o.In.Name).absent(o); c.Call > over {
					continue
				}
			} else {
				c.Out = output{Checkpoints: []checkpoint{{Name: o.In.Name, LSN: o.In.LSN, Version: s.at, Size: uint64(len(o.In.State))}}}
				c.Return = max(c.Call, min(s.until, h.over(o)-1))
			}
		}
		settled = append(settled, &c)
	}
	return settled
}

// know notes when the records of appends were committed, wherever in the history that is
// told. The error says of which two times are.
func know(all []*operation) error {
	at, err := times(all)
	for _, o := range all {
		if len(o.In.Records) > 0 {
			o.In.Time = at[o.In.Records[0]]
		}
	}
	return err
}

// decide says whether there is an order of a log's operations in which all of
// their answers are right.
func (h *history) decide(all []*operation) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model, h.partition(h.settle(all)), patience)
}

// check decides for each log whether its history is linearizable. The error says
// which are not, or not within patience, and names a directory with them.
func (h *history) check() error {
	var wrong []string
	var dir string
	if err := h.inOrder(); err != nil {
		wrong = append(wrong, err.Error())
	}
	logs := h.logs()
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		err := know(logs[name])
		verdict := h.decide(logs[name])
		if verdict == porcupine.Ok && err == nil {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("log %s: %s", name, verdict))
		if err != nil {
			wrong = append(wrong, err.Error())
		}
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
	partition := h.partition(h.settle(all))
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
