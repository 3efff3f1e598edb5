package replay

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/segment"
)

// A Verdict sums up how the run of frames ends.
type Verdict uint8

// The verdicts, from best to worst.
const (
	// VerdictClean: nothing is there that does not verify.
	VerdictClean Verdict = iota
	// VerdictTorn: something behind the last kept frame does not verify, and
	// nothing proves that it was acknowledged.
	VerdictTorn
	// VerdictDamaged: something that was acknowledged does not verify.
	VerdictDamaged
)

// String returns "clean", "torn" or "damaged".
func (v Verdict) String() string {
	switch v {
	case VerdictClean:
		return "clean"
	case VerdictTorn:
		return "torn"
	case VerdictDamaged:
		return "damaged"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// A Case is a named case of the tail rule. The names are stable: status and
// walctl print them, and scripts may rely on them.
type Case string

// The cases; Cases explains each.
const (
	CaseEmpty                Case = "empty"
	CaseClean                Case = "clean"
	CaseUnpromised           Case = "unpromised"
	CaseTornHeader           Case = "torn-header"
	CaseTornDirectory        Case = "torn-directory"
	CaseTornBlock            Case = "torn-block"
	CaseTornRoll             Case = "torn-roll"
	CaseOrphans              Case = "orphans"
	CaseDamagedHeader        Case = "damaged-header"
	CaseDamagedDirectory     Case = "damaged-directory"
	CaseDamagedBlock         Case = "damaged-block"
	CaseDamagedSeal          Case = "damaged-seal"
	CaseDamagedSnapshot      Case = "damaged-snapshot"
	CaseDamagedSegmentHeader Case = "damaged-segment-header"
	CaseShortPredecessor     Case = "short-predecessor"
	CaseSealedLast           Case = "sealed-last"
	CaseCutShort             Case = "cut-short"
	CaseMissingSegment       Case = "missing-segment"
	CaseNoSnapshot           Case = "no-snapshot"
)

// A Rule is a row of the tail rule.
type Rule struct {
	Case     Case
	Verdict  Verdict
	Evidence string // what has to be found
	Kept     string // what stays of the journal
	Means    string // what it is, in a sentence or two for an operator

	// when recognizes the evidence at the end of a scan. It is nil for damage
	// that is met elsewhere: in blocks and seals, and when no snapshot opens.
	when func(e *evidence) bool
}

// evidence is what the end of a scan, and all that lies behind it, shows. The
// hole is the place where the next frame would be.
type evidence struct {
	end       segment.FrameRef // the hole, and what was expected there
	stop      stop             // why the scan ended there
	err       error            // what the reader said
	path      string           // of the hole's segment
	header    bool             // the hole holds a header that was written for this place
	headerEnd int64            // where that frame would have ended
	covered   bool             // the last frame of the run is a promise frame that covers all before it
	newest    bool             // the hole is in the newest segment
	short     bool             // that segment's file was cut short
	behind    int              // verified headers behind the hole in its segment
	behindEnd int64            // where the last of them says that its frame ends
	later     bool             // a later segment holds a verified header
	sealed    bool             // the last frame of the run is a seal, and the hole is behind it
	promise   uint64           // the highest promise in the run and behind the hole
	badBlock  bool             // a block of an unpromised frame of the run does not verify
}

// promised reports whether something verified says that the hole's frame was durable.
func (e *evidence) promised() bool { return e.promise >= e.end.Sequence }

// rules is the tail rule. The first row whose evidence is there decides. What
// is proof comes first; among what is torn, the row that says most.
//
// Anything in a later segment is proof by itself: a journal writes into a
// segment only after the one before was synced up to its cut.
var rules = []Rule{
	{
		Case: CaseMissingSegment, Verdict: VerdictDamaged,
		Evidence: "IDs of segments are missing without a file that says that they were released, or the oldest one needed is gone",
		Kept:     "everything promised before the gap; read-only",
		Means:    "A segment file was removed or lost: what is released between others that are kept, a file says.",
		when:     func(e *evidence) bool { return e.stop == stopMissing },
	}, {
		Case: CaseDamagedSegmentHeader, Verdict: VerdictDamaged,
		Evidence: "the header of a segment that has its name does not verify",
		Kept:     "everything promised before that segment; read-only",
		Means:    "A segment's header is durable before the file gets its name, and never written again: this is no torn write.",
		when:     func(e *evidence) bool { return e.stop == stopSegmentHeader },
	}, {
		Case: CaseDamagedDirectory, Verdict: VerdictDamaged,
		Evidence: "a frame's header verifies, its directory does not, and a later frame promises it",
		Kept:     "everything before the frame; read-only",
		Means:    "The commands of an acknowledged frame are lost, so the state behind it cannot be rebuilt.",
		when:     func(e *evidence) bool { return e.stop == stopDirectory && e.promised() },
	}, {
		Case: CaseDamagedHeader, Verdict: VerdictDamaged,
		Evidence: "there is no frame where one has to be, and a later frame promises it",
		Kept:     "everything before the frame; read-only",
		Means:    "An acknowledged frame does not verify any more, so the state behind it cannot be rebuilt.",
		when:     func(e *evidence) bool { return e.promised() && (e.behind > 0 || !e.later) },
	}, {
		Case: CaseShortPredecessor, Verdict: VerdictDamaged,
		Evidence: "the frames of a segment end before the cut that its successor's header records, and the successor holds frames",
		Kept:     "everything before the hole; read-only",
		Means:    "The end of a segment is lost: its successor was written only after that end was durable.",
		when:     func(e *evidence) bool { return e.later },
	}, {
		Case: CaseSealedLast, Verdict: VerdictDamaged,
		Evidence: "the newest segment holds a verified seal",
		Kept:     "everything promised; read-only",
		Means:    "A segment is sealed only after its successor exists durably: the successor's file was removed or lost.",
		when:     func(e *evidence) bool { return e.sealed },
	}, {
		Case: CaseCutShort, Verdict: VerdictDamaged,
		Evidence: "the newest segment's file is shorter than its header says, and does not end in the note that dead space was given up",
		Kept:     "everything promised; read-only",
		Means:    "A segment's file has its full length before it has its name: somebody or something cut it.",
		when:     func(e *evidence) bool { return e.short },
	}, {
		Case: CaseTornRoll, Verdict: VerdictTorn,
		Evidence: "the frames of a segment end before the cut that its successor's header records, and the successor is empty",
		Kept:     "the promised frames; those behind them that verify are rewritten",
		Means:    "The service stopped between beginning a segment and sealing the one before. Nothing acknowledged is lost.",
		when:     func(e *evidence) bool { return !e.newest },
	}, {
		Case: CaseTornBlock, Verdict: VerdictTorn,
		Evidence: "a frame that no later one promises verifies but for a block",
		Kept:     "the promised frames; those between them and the torn one are rewritten",
		Means:    "The last write did not reach the disk as a whole. Nothing acknowledged is lost.",
		when:     func(e *evidence) bool { return e.badBlock },
	}, {
		Case: CaseOrphans, Verdict: VerdictTorn,
		Evidence: "frames verify behind one that does not, and none of them promises it",
		Kept:     "the promised frames; those between them and the hole are rewritten; those behind the hole are dead for ever",
		Means:    "Of several writes in flight a later one reached the disk and an earlier one did not. Nothing acknowledged is lost.",
		when:     func(e *evidence) bool { return e.behind > 0 },
	}, {
		Case: CaseTornDirectory, Verdict: VerdictTorn,
		Evidence: "the last frame's header verifies, its directory does not",
		Kept:     "the promised frames; those between them and the torn one are rewritten",
		Means:    "The last write did not reach the disk as a whole. Nothing acknowledged is lost.",
		when:     func(e *evidence) bool { return e.stop == stopDirectory },
	}, {
		Case: CaseTornHeader, Verdict: VerdictTorn,
		Evidence: "behind the last frame lies a header written for that place that does not verify",
		Kept:     "the promised frames; those between them and the torn one are rewritten",
		Means:    "The last write did not reach the disk as a whole. Nothing acknowledged is lost.",
		when:     func(e *evidence) bool { return e.header },
	}, {
		Case: CaseEmpty, Verdict: VerdictClean,
		Evidence: "there is no frame at all",
		Kept:     "nothing",
		Means:    "The volume is new: nothing was ever written to it.",
		when:     func(e *evidence) bool { return e.end.Sequence == 1 },
	}, {
		Case: CaseClean, Verdict: VerdictClean,
		Evidence: "the last frame is a promise that covers every frame before it; behind it lies nothing of this life",
		Kept:     "everything before that frame",
		Means:    "The service stopped in order, or while it was idle.",
		when:     func(e *evidence) bool { return e.covered },
	}, {
		Case: CaseUnpromised, Verdict: VerdictClean,
		Evidence: "every frame verifies; no later one promises the last",
		Kept:     "the promised frames; those behind them are rewritten",
		Means:    "The service stopped right after a write. Its last frames may or may not have been acknowledged; they are kept.",
		when:     func(*evidence) bool { return true },
	}, {
		Case: CaseDamagedBlock, Verdict: VerdictDamaged,
		Evidence: "a block of a promised frame does not verify",
		Kept:     "everything; not read-only",
		Means:    "The records in that block are lost. The logs that have none in it, and the state, are whole.",
	}, {
		Case: CaseDamagedSeal, Verdict: VerdictDamaged,
		Evidence: "a seal's header verifies, its directory does not, and the successor that repeats its checksum holds frames",
		Kept:     "everything; not read-only",
		Means:    "The index of a segment is lost. It is a cache: readers look into the segment's directories instead.",
	}, {
		Case: CaseDamagedSnapshot, Verdict: VerdictDamaged,
		Evidence: "the newest snapshot does not open, or cannot be read; an older one does, or the journal still has its beginning",
		Kept:     "everything; not read-only",
		Means:    "Opening took longer, from further back. The next snapshot makes it good.",
	}, {
		Case: CaseNoSnapshot, Verdict: VerdictDamaged,
		Evidence: "no snapshot opens, and the journal's beginning is gone",
		Kept:     "nothing can be rebuilt; read-only",
		Means:    "The service's own state is lost. The records are still in the segments: restore, or recover them offline.",
	},
}

// Rules returns the tail rule, in the order in which it is applied.
func Rules() []Rule { return slices.Clone(rules) }

// Verdict returns the verdict of a case.
func (c Case) Verdict() Verdict { return c.rule().Verdict }

// Means returns what a case is, in a sentence or two for an operator; "" for
// what is no case.
func (c Case) Means() string { return c.rule().Means }

func (c Case) rule() Rule {
	for _, r := range rules {
		if r.Case == c {
			return r
		}
	}
	return Rule{}
}

// decide applies the tail rule.
func decide(e *evidence) Rule {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.when != nil && r.when(e) })
	return rules[i] // the row of CaseUnpromised takes what is left
}

// Damage is one thing that was acknowledged and does not verify.
type Damage struct {
	Path     string      // the file
	Pos      segment.Pos // where the frame begins; offset 0 if it is about a segment
	Sequence uint64      // the frame's sequence; 0 if it is not about one frame
	Case     Case        // one whose verdict is VerdictDamaged
	Detail   string      // one sentence for an operator
	Err      error       // what the reader said; may be nil
}

// Error spells the damage out, so that a *Damage can be handed on as an error.
func (d *Damage) Error() string {
	if d.Sequence == 0 {
		return fmt.Sprintf("%s: %s at %s: %s", d.Path, d.Case, d.Pos, d.Detail)
	}
	return fmt.Sprintf("%s: %s at %s, frame %d: %s", d.Path, d.Case, d.Pos, d.Sequence, d.Detail)
}

// Unwrap returns Err.
func (d *Damage) Unwrap() error { return d.Err }

// badSeal describes a seal whose directory does not verify.
func badSeal(f *segment.Frame, err error) Damage {
	d := Damage{Pos: f.Pos, Sequence: f.Header.Sequence, Case: CaseDamagedSeal, Err: err,
		Detail: "the segment's index does not verify, and is not needed"}
	var c *segment.CorruptError
	if errors.As(err, &c) {
		d.Path = c.Path
	}
	return d
}

// ErrNoState is what a Handler returns, wrapped or not, when the frames it was
// given hold no snapshot that it can begin with.
var ErrNoState = errors.New("no state to begin with")
