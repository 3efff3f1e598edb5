package replay

import (
	"errors"
	"fmt"

	"github.com/walsvc/walsvc/segment"
)

// A Verdict sums up how the run of frames ends.
type Verdict uint8

// The verdicts, from best to worst.
const (
	// VerdictClean: every frame that was ever begun is there.
	VerdictClean Verdict = iota
	// VerdictTorn: something behind the last kept frame did not verify, and
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
	CaseDamagedSnapshot      Case = "damaged-snapshot"
	CaseDamagedSegmentHeader Case = "damaged-segment-header"
	CaseShortPredecessor     Case = "short-predecessor"
	CaseSealedLast           Case = "sealed-last"
	CaseMissingSegment       Case = "missing-segment"
	CaseNoSnapshot           Case = "no-snapshot"
)

// Damage is one thing that was acknowledged and does not verify.
type Damage struct {
	Path     string      // the file
	Pos      segment.Pos // where the frame begins, or the segment
	Sequence uint64      // the frame's sequence; 0 if it is not about one frame
	Case     Case        // one whose verdict is VerdictDamaged
	Detail   string      // one sentence for an operator
	Err      error       // what the reader said; may be nil
}

// Error spells the damage out, so that a Damage can be handed on as an error.
func (d Damage) Error() string {
	if d.Sequence == 0 {
		return fmt.Sprintf("%s: %s at %s: %s", d.Path, d.Case, d.Pos, d.Detail)
	}
	return fmt.Sprintf("%s: %s at %s, frame %d: %s", d.Path, d.Case, d.Pos, d.Sequence, d.Detail)
}

// Unwrap returns Err.
func (d Damage) Unwrap() error { return d.Err }

// ErrNoState is what a Handler's End (or Frame) returns, wrapped or not, when
// the frames it was given hold no snapshot that it can begin with.
var ErrNoState = errors.New("no state to begin with")
