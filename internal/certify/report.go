package certify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A Verdict is one word on a disk. It claims no more than was tested.
type Verdict string

// The verdicts, from the worst to the best.
const (
	Dishonest    Verdict = "dishonest"     // something acknowledged did not survive a cut
	Unfit        Verdict = "unfit"         // something a volume needs does not work, or is switched off
	Inconclusive Verdict = "inconclusive"  // there was a cut that dropped nothing, or none
	Certified    Verdict = "certified"     // over the cuts that were made, nothing acknowledged was lost
	Suspect      Verdict = "suspect"       // something is hard to believe; no cut was made
	NothingFound Verdict = "nothing-found" // nothing speaks against it; no cut was made
)

// Bad reports whether a volume should not be put there.
func (v Verdict) Bad() bool { return v == Dishonest || v == Unfit || v == Inconclusive }

// A Level says what a finding means.
type Level string

// The levels.
const (
	Good      Level = "good"      // as it should be, or merely a fact
	Suspicion Level = "suspicion" // may have a good reason, or not
	Against   Level = "against"   // durability is switched off, or something does not work
)

// A Finding is what was seen without a cut.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
}

// A LossKind is what became of something acknowledged.
type LossKind string

// The kinds of losses.
const (
	Lost       LossKind = "lost"       // it is not there, or something older is
	Torn       LossKind = "torn"       // it does not verify
	Reappeared LossKind = "reappeared" // it was removed or replaced, and is there
)

// A Loss is something acknowledged that did not survive.
type Loss struct {
	Cut  int      `json:"cut"` // from 1
	Lane string   `json:"lane"`
	Kind LossKind `json:"kind"`
	What string   `json:"what"`
}

// A LaneResult is what became of one lane over all cuts.
type LaneResult struct {
	Lane         string `json:"lane"`
	Acknowledged uint64 `json:"acknowledged"` // steps, as far as known
	Checked      uint64 `json:"checked"`      // things whose last step left something to compare
	Lost         uint64 `json:"lost"`
	Torn         uint64 `json:"torn"`
	Reappeared   uint64 `json:"reappeared"`
}

// The kinds of cuts.
const (
	KindShutdown = "shutdown" // of the file system, without a power cut
	KindPower    = "power"    // the machine restarted
)

// A CutResult is what cuts left behind.
type CutResult struct {
	Kind         string       `json:"kind"`
	Cuts         int          `json:"cuts"`
	Acknowledged uint64       `json:"acknowledged"` // steps
	Checked      uint64       `json:"checked"`
	Lost         uint64       `json:"lost"`
	Torn         uint64       `json:"torn"`
	Reappeared   uint64       `json:"reappeared"`
	Unsynced     uint64       `json:"unsynced"`  // blocks that were written and never synced
	Dropped      uint64       `json:"dropped"`   // those of them that the cut took
	Restarted    bool         `json:"restarted"` // the machine was started anew since the load
	Lanes        []LaneResult `json:"lanes"`
	Losses       []Loss       `json:"losses"` // the first limits.MaxDamage of them
	Gentle       int          `json:"gentle"` // cuts that dropped nothing, and so prove nothing
}

// allGentle reports whether no cut was one.
func (r *CutResult) allGentle() bool { return r.Gentle == r.Cuts }

// Bad returns how many acknowledged things did not survive.
func (r *CutResult) Bad() uint64 { return r.Lost + r.Torn + r.Reappeared }

// add takes in what one lane's check found.
func (r *CutResult) add(t *tally) {
	i := slices.IndexFunc(r.Lanes, func(l LaneResult) bool { return l.Lane == t.Lane })
	if i < 0 {
		i = len(r.Lanes)
		r.Lanes = append(r.Lanes, LaneResult{Lane: t.Lane})
	}
	l := &r.Lanes[i]
	l.Acknowledged += t.Acknowledged
	l.Checked += t.Checked
	l.Lost += t.Lost
	l.Torn += t.Torn
	l.Reappeared += t.Reappeared
	r.Acknowledged += t.Acknowledged
	r.Checked += t.Checked
	r.Lost += t.Lost
	r.Torn += t.Torn
	r.Reappeared += t.Reappeared
	r.Unsynced += uint64(t.unsynced)
	r.Dropped += uint64(t.dropped)
	if t.unsynced > 0 && t.dropped == 0 {
		r.Gentle++
	}
	for _, loss := range t.losses {
		if len(r.Losses) < limits.MaxDamage {
			loss.Cut = r.Cuts
			r.Losses = append(r.Losses, loss)
		}
	}
}

// A Report is what is known of a disk.
type Report struct {
	Dir      string        `json:"dir"`
	Verdict  Verdict       `json:"verdict"`
	Words    []string      `json:"words"` // the verdict, a sentence each
	Place    *disk.Place   `json:"place"` // nil where the system does not tell
	Findings []Finding     `json:"findings"`
	SyncTime bench.Latency `json:"sync_us"` // write and sync of 4 KiB, over written blocks
	Cut      *CutResult    `json:"cut"`     // nil if there was none
	// Tested and NotTested say what the verdict rests on.
	Tested    []string `json:"tested"`
	NotTested []string `json:"not_tested"`
}

func (r *Report) find(level Level, check, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{check, level, fmt.Sprintf(format, args...)})
}

// has returns the details of the findings of a level.
func (r *Report) has(level Level) (details []string) {
	for _, f := range r.Findings {
		if f.Level == level {
			details = append(details, f.Check+": "+f.Detail)
		}
	}
	return details
}

// judge comes to a verdict. It is a pure function of what was found.
func (r *Report) judge() {
	r.Words, r.Tested, r.NotTested = []string{}, []string{}, []string{}
	say := func(format string, args ...any) { r.Words = append(r.Words, fmt.Sprintf(format, args...)) }
	against, suspicions := r.has(Against), r.has(Suspicion)
	r.scope()
	cut := r.Cut
	// 1. The word.
	switch {
	case cut != nil && cut.Bad() > 0:
		r.Verdict = Dishonest
		say("NOT HONEST: over %s, of %s acknowledged steps %d things were lost, %d torn and %d came back. Do not put a volume here.",
			cuts(cut.Kind, cut.Cuts), count(cut.Acknowledged), cut.Lost, cut.Torn, cut.Reappeared)
		if cut.allGentle() {
			say("Blocks that were never synced survived, all of them: this was no cut of the power. Did somebody remove files?")
		}
	case len(against) > 0:
		r.Verdict = Unfit
		say("UNFIT: what a volume needs does not work here, or is switched off.")
	case cut != nil && cut.Kind == KindPower && !cut.Restarted:
		r.Verdict = Inconclusive
		say("INCONCLUSIVE: the machine was not started anew since the load ran, so the page cache was never gone. " +
			"That a process ended proves nothing about a disk.")
	case cut != nil && cut.allGentle() && r.Place != nil && r.Place.Has("data=journal"):
		r.Verdict = Inconclusive
		say("INCONCLUSIVE: every block was there that nobody had synced. With data=journal each sync carries everything, " +
			"so this cannot tell whether the cut was one: mount it without that for the test.")
	case cut != nil && cut.allGentle():
		r.Verdict = Inconclusive
		say("INCONCLUSIVE: after %s every block was there that nobody had synced. A cut that drops nothing proves nothing: "+
			"was the machine shut down in order, or is its cache another machine's?", cuts(cut.Kind, cut.Cuts))
	case cut != nil && (cut.Acknowledged == 0 || cut.Unsynced == 0):
		r.Verdict = Inconclusive
		say("INCONCLUSIVE: hardly anything was acknowledged before the cut. Let the load run for longer.")
	case cut != nil:
		r.Verdict = Certified
		say("Certified over %s: 0 of %s acknowledged steps lost, while %s of %s blocks that nobody had synced were dropped.",
			cuts(cut.Kind, cut.Cuts-cut.Gentle), count(cut.Acknowledged), count(cut.Dropped), count(cut.Unsynced))
		if cut.Gentle > 0 {
			say("%s dropped nothing and does not count.", cuts(cut.Kind, cut.Gentle))
		}
	case len(suspicions) > 0:
		r.Verdict = Suspect
		say("SUSPECT: nothing is proven against this disk, but something about it is hard to believe.")
	default:
		r.Verdict = NothingFound
		say("Nothing was found against this disk.")
	}
	// 2. Why, as far as it was not said.
	if r.Verdict != NothingFound {
		for _, d := range append(against, suspicions...) {
			say("%s", d)
		}
	}
	if r.Verdict == Unfit && cut != nil {
		say("Over %s nothing acknowledged was lost, which excuses none of this.", cuts(cut.Kind, cut.Cuts))
	}
	// 3. What it does not claim.
	if cut != nil && cut.Kind == KindPower && r.Verdict == Certified {
		say("That the power was cut, and not a virtual machine, is your word; one cut proves little: repeat it.")
	}
	if len(r.NotTested) > 0 {
		say("Not tested: %s.", strings.Join(r.NotTested, "; "))
	}
}

// scope says what was tested and what was not.
func (r *Report) scope() {
	r.Tested = append(r.Tested, "what the system says of mount and devices", "the operations that a volume needs", "how long a sync takes")
	power, shutdown := r.Cut != nil && r.Cut.Kind == KindPower && r.Cut.Restarted, r.Cut != nil && r.Cut.Kind == KindShutdown
	switch {
	case power:
		r.Tested = append(r.Tested, "a restart under load")
	case shutdown:
		r.Tested = append(r.Tested, "a crash of the file system under load")
		r.NotTested = append(r.NotTested, "a power cut: what the device does with its cache")
	default:
		r.NotTested = append(r.NotTested, "a power cut (--witness)", "a crash of the file system (--cut shutdown)")
	}
	r.NotTested = append(r.NotTested, "a disk that fails or is full")
}

// cuts spells how many cuts of a kind there were.
func cuts(kind string, n int) string {
	what := "power cut"
	if kind == KindShutdown {
		what = "shutdown"
	}
	if n != 1 {
		what += "s"
	}
	if kind == KindShutdown {
		what += " of the file system"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// count spells a number with commas.
func count(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
