package linear

import (
	"fmt"
	"strings"
)

// A kind is what an operation asks for.
type kind string

const (
	appendRecords    kind = "append"
	openProducer     kind = "open-producer"
	bindLog          kind = "bind"
	getLog           kind = "get-log"
	createLog        kind = "create-log"
	deleteLog        kind = "delete-log"
	sealLog          kind = "seal-log"
	truncateLog      kind = "truncate-log"
	rewindLog        kind = "rewind-log"
	readRecords      kind = "read"
	seeRecords       kind = "see-records" // of a replay that follows or was resumed
	seeDurable       kind = "see-durable"
	setCheckpoint    kind = "set-checkpoint"
	getCheckpoint    kind = "get-checkpoint"
	listCheckpoints  kind = "list-checkpoints"
	deleteCheckpoint kind = "delete-checkpoint"
	acquireWriter    kind = "acquire-writer"
	releaseWriter    kind = "release-writer"
	resolveBatch     kind = "resolve"
	retireProducer   kind = "retire-producer"
	setCursor        kind = "set-cursor"
	getCursor        kind = "get-cursor"
	listCursors      kind = "list-cursors"
	deleteCursor     kind = "delete-cursor"
	verifyReceipt    kind = "verify-receipt"
	beginCheckpoint  kind = "begin-checkpoint"
	stood            kind = "stood" // where an operation had begun that heard of a rewind

	crash kind = "crash" // the end of a life of the service, and the beginning of the next
)

// changes are the kinds that change something, whose outcome may be unknown.
var changes = map[kind]bool{
	appendRecords: true, openProducer: true, createLog: true, deleteLog: true, sealLog: true, truncateLog: true,
	setCheckpoint: true, deleteCheckpoint: true, acquireWriter: true, releaseWriter: true, resolveBatch: true, retireProducer: true,
	setCursor: true, deleteCursor: true, rewindLog: true,
}

// shown are the kinds that a client need not ask for.
var shown = map[kind]bool{seeRecords: true, seeDurable: true}

// refusable are the kinds that the model knows a refusal of. What was seen was
// not asked for; listing, sealing and deleting refuse nothing but a log that is gone.
var refusable = []kind{
	appendRecords, openProducer, bindLog, getLog, createLog, truncateLog,
	readRecords, setCheckpoint, getCheckpoint, listCheckpoints, deleteCheckpoint,
	acquireWriter, releaseWriter, resolveBatch, retireProducer, setCursor, getCursor, deleteCursor, rewindLog,
}

// An input is what a client asked of a log, as far as the model cares.
type input struct {
	Kind kind
	Log  string
	By   string // the client, for people

	Records  []string `json:",omitempty"`
	Producer string   `json:",omitempty"`
	Sequence uint64   `json:",omitempty"`
	Expected uint64   `json:",omitempty"` // LSN
	Epoch    uint64   `json:",omitempty"`
	// Incarnation that a batch or a binding states of its producer; 0 is 1.
	Incarnation uint64 `json:",omitempty"`
	// Stream says that a batch came on one.
	Stream bool `json:",omitempty"`
	// Rebound says that the batch's producer may be bound to another stream by now.
	Rebound bool `json:",omitempty"`
	// After says that an earlier batch of the binding was refused.
	After bool `json:",omitempty"`
	// Told is the epoch in which the log was bound to a stream; 0 if it was not.
	Told uint64 `json:",omitempty"`
	// ID of the log that is meant: of a delete, and of what a binding was bound to.
	ID string `json:",omitempty"`

	LSN     uint64  `json:",omitempty"` // to begin at, to keep, to keep as the last, of a checkpoint, or to wait for
	Name    string  `json:",omitempty"` // of a checkpoint or cursor; who acquires, or is the writer behind a rewind
	State   string  `json:",omitempty"`
	Version *uint64 `json:",omitempty"` // expected: of a checkpoint, a log's epoch, a cursor's LSN
	Begun   bool    `json:",omitempty"` // it is the version behind which a checkpoint was to come when it was begun
	Request string  `json:",omitempty"` // of who acquires or rewinds
	Cap     uint64  `json:",omitempty"` // of a cursor
	Hold    bool    `json:",omitempty"` // it is never evicted
	New     bool    `json:",omitempty"` // there must be no such cursor
	Reset   bool    `json:",omitempty"`
	Options options `json:",omitzero"`

	Since   int64    `json:",omitempty"` // a commit time: to begin with what was committed at it or behind it
	Until   int64    `json:",omitempty"` // a commit time: to end with what was committed at it or before it
	Time    int64    `json:",omitempty"` // that records were committed, as somebody was told; 0 if nobody was
	Receipt *receipt `json:",omitempty"`
	Twist   string   `json:",omitempty"` // the field of Receipt that somebody has changed

	// Firm says that nothing but the state can have a batch refused that was not
	// answered: what came before it on its stream was not refused.
	Firm bool `json:",omitempty"`

	// Life of the service: the last one that the operation may have reached, or,
	// of a crash, the one that begins.
	Life int
}

// states returns the epoch in which alone an operation can change anything; false if
// there is none.
func (in *input) states() (uint64, bool) {
	switch in.Kind {
	case appendRecords, setCheckpoint, releaseWriter, rewindLog:
		return in.Epoch, in.Epoch != 0
	case acquireWriter:
		if in.Version != nil {
			return *in.Version, true
		}
	}
	return 0, false
}

// options are a log's.
type options struct{ Quota, MaxRecord, Rate uint64 }

// An output is what a client was told. Unknown, it was told nothing; with a
// Reason, that it was refused.
type output struct {
	Unknown bool              `json:",omitempty"` // First may still be found out
	Reason  string            `json:",omitempty"`
	Figures map[string]string `json:",omitempty"`

	ID       string   `json:",omitempty"` // of the log; empty if not told
	First    uint64   `json:",omitempty"` // LSN
	Count    uint64   `json:",omitempty"`
	Bytes    uint64   `json:",omitempty"` // framed, that were discarded
	Sum      *uint32  `json:",omitempty"` // log checksum behind Through; nil if not told
	Through  uint64   `json:",omitempty"` // LSN
	Repeated bool     `json:",omitempty"`
	Last     uint64   `json:",omitempty"` // sequence
	Created  bool     `json:",omitempty"`
	Info     *info    `json:",omitempty"`
	Records  []string `json:",omitempty"`
	LSN      uint64   `json:",omitempty"`
	// Complete says that Records went to the end of the log, or that LSN was its
	// end, at one moment of the operation: not only that there was no less.
	Complete bool `json:",omitempty"`

	Checkpoints []checkpoint `json:",omitempty"`
	Cursors     []cursor     `json:",omitempty"`

	Epoch       uint64 `json:",omitempty"` // that a batch was appended in; 0 if not told
	Incarnation uint64 `json:",omitempty"` // of a producer; 0 if not told
	Outcome     string `json:",omitempty"` // of a batch that was resolved

	Volume    string `json:",omitempty"` // ULID
	Committed int64  `json:",omitempty"` // commit time; 0 if not told
	Verdict   string `json:",omitempty"` // on a receipt
	Field     string `json:",omitempty"` // of a receipt that is contradicted
	// Written says, of an append that was not answered, that it was told to be written.
	Written bool `json:",omitempty"`
	// Kept says that it was told so for certain, and of what was written nothing was
	// lost when that life of the service ended: see history.kept.
	Kept bool `json:",omitempty"`
}

// info is a log as clients are told of it.
type info struct {
	ID                       string
	Epoch, First, Next, Live uint64
	Sum                      uint32
	Options                  options
	Sealed                   bool
	Holder                   string
	Created                  int64 // in nanoseconds since 1970; 0 if not told
}

// A checkpoint is one as clients are told of it; in listings without State.
type checkpoint struct {
	Name         string
	LSN, Version uint64
	State        string `json:",omitempty"`
	Size         uint64
}

// A cursor is one as clients are told of it.
type cursor struct {
	Name     string
	LSN, Cap uint64
	Hold     bool
	Lost     bool
	Rewound  bool // a rewind took it back
	// Live are bytes, and Lag records, behind LSN.
	Live, Lag uint64
	Epoch     uint64 // that the rewind began which took it back; 0 for none
	Was       uint64 // LSN that it was taken back from
}

// succeeded says that the operation was done, or answered.
func (o *output) succeeded() bool { return !o.Unknown && o.Reason == "" }

// describe spells an operation for people.
func describe(in *input, out *output) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", in.Kind)
	say := func(name string, value any, zero bool) {
		if !zero {
			fmt.Fprintf(&b, " %s=%v", name, value)
		}
	}
	say("records", short(in.Records), len(in.Records) == 0)
	say("producer", in.Producer, in.Producer == "")
	say("sequence", in.Sequence, in.Sequence == 0)
	say("expected", in.Expected, in.Expected == 0)
	say("epoch", in.Epoch, in.Epoch == 0)
	say("incarnation", in.Incarnation, in.Incarnation == 0)
	say("after-refusal", true, !in.After)
	say("id", in.ID, in.ID == "")
	say("lsn", in.LSN, in.LSN == 0)
	say("name", in.Name, in.Name == "")
	if in.Version != nil {
		say("version", *in.Version, false)
	}
	say("request", in.Request, in.Request == "")
	say("cap", in.Cap, in.Cap == 0)
	say("hold", true, !in.Hold)
	say("new", true, !in.New)
	say("reset", true, !in.Reset)
	say("since", in.Since, in.Since == 0)
	say("until", in.Until, in.Until == 0)
	if in.Receipt != nil {
		say("receipt", *in.Receipt, false)
	}
	say("twisted", in.Twist, in.Twist == "")
	b.WriteString(" ->")
	switch {
	case out.Unknown:
		b.WriteString(" unknown")
		say("written", true, !out.Written)
		return b.String()
	case out.Reason != "":
		fmt.Fprintf(&b, " %s %v", out.Reason, out.Figures)
		return b.String()
	}
	say("first", out.First, out.First == 0)
	say("count", out.Count, out.Count == 0)
	say("repeated", true, !out.Repeated)
	say("created", true, !out.Created)
	say("last", out.Last, out.Last == 0)
	say("records", short(out.Records), len(out.Records) == 0)
	say("complete", true, !out.Complete)
	say("lsn", out.LSN, out.LSN == 0)
	say("epoch", out.Epoch, out.Epoch == 0)
	say("incarnation", out.Incarnation, out.Incarnation == 0)
	say("outcome", out.Outcome, out.Outcome == "")
	say("committed", out.Committed, out.Committed == 0)
	say("verdict", out.Verdict+" "+out.Field, out.Verdict == "")
	if out.Info != nil {
		fmt.Fprintf(&b, " [%d,%d) of %s, epoch %d of %q", out.Info.First, out.Info.Next, out.Info.ID, out.Info.Epoch, out.Info.Holder)
	}
	for _, c := range out.Cursors {
		fmt.Fprintf(&b, " %+v", c)
	}
	for _, cp := range out.Checkpoints {
		fmt.Fprintf(&b, " %s@%d v%d", cp.Name, cp.LSN, cp.Version)
	}
	return b.String()
}

// short spells records by their first words.
func short(records []string) string {
	const most = 4
	var b strings.Builder
	for i, r := range records {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(records)-most)
			break
		}
		name, _, _ := strings.Cut(r, " ")
		fmt.Fprintf(&b, "<%.24s>", name)
	}
	return b.String()
}
