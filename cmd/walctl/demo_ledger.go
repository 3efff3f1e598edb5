package main

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"sync"

	"github.com/walsvc/walsvc/internal/docstore"
)

// A ledger remembers what was submitted and what was acknowledged, and compares
// that with everything that is read back. It trusts nothing it is compared
// with: a record counts as the one submitted only if all its bytes are.
type ledger struct {
	seed maphash.Seed
	docs []docEntry

	mu                      sync.Mutex
	logs                    []history
	open                    map[*entry]struct{} // submitted and not settled
	submitted, acknowledged uint64

	found  findings
	faults map[fault]bool // so that many readings count each fault once
}

// A docEntry is a document that operations put or delete.
type docEntry struct {
	key string
	doc []byte
}

// A history is what is known about one log.
type history struct {
	sessions map[uint64][]*entry // by session; the entry of number n is at n-1
	acked    []*entry            // by LSN: acknowledged there
	read     []*entry            // by LSN: read there, first
}

// An entry is one submitted append.
type entry struct {
	serial  uint64
	session uint64
	number  uint64
	kind    docstore.Kind
	doc     int32  // index in ledger.docs
	sum     uint64 // of the record's bytes
	acked   uint64 // LSN it was acknowledged at; 0 if it was not
	read    uint64 // LSN it was read at, first; 0 if it was not
	lost    bool   // acknowledged, and a reading that had to show it did not
}

// findings are what is wrong.
type findings struct {
	duplicated, outOfOrder, foreign, engine int
	examples                                []string // the first few, for people
}

// maxExamples bounds the examples kept.
const maxExamples = 8

// A fault names one thing that is wrong, however often it is seen.
type fault struct {
	what  string
	shard int
	lsn   uint64
	entry *entry
}

// A tally is the outcome.
type tally struct {
	findings
	submitted, acked, recovered, lost int
}

// ok tells whether all promises were kept.
func (t tally) ok() bool {
	return t.lost == 0 && t.duplicated == 0 && t.outOfOrder == 0 && t.foreign == 0 && t.engine == 0 && t.recovered == t.acked
}

func newLedger(shards int, docs []docEntry) *ledger {
	l := &ledger{seed: maphash.MakeSeed(), docs: docs, logs: make([]history, shards), open: make(map[*entry]struct{}), faults: make(map[fault]bool)}
	for i := range l.logs {
		l.logs[i].sessions = make(map[uint64][]*entry)
	}
	return l
}

// submit notes an operation before it is handed to the service.
func (l *ledger) submit(session uint64, p docstore.Pending, kind docstore.Kind, doc int) *entry {
	e := &entry{session: session, number: p.Number, kind: kind, doc: int32(doc), sum: maphash.Bytes(l.seed, p.Record)}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.logs[p.Shard]
	if uint64(len(h.sessions[session])) != p.Number-1 {
		panic(fmt.Sprintf("session %d submits operation %d after %d", session, p.Number, len(h.sessions[session])))
	}
	h.sessions[session] = append(h.sessions[session], e)
	e.serial = l.submitted
	l.submitted++
	l.open[e] = struct{}{}
	return e
}

// ack notes that an operation was acknowledged at an LSN.
func (l *ledger) ack(shard int, e *entry, lsn uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, e)
	l.acknowledged++
	h := &l.logs[shard]
	e.acked = lsn
	if lsn == 0 || !l.reachable(lsn) {
		l.disorder(shard, lsn, e, "acknowledged at an LSN that %d records cannot reach", l.submitted)
		return
	}
	if other := at(h.acked, lsn); other != nil {
		l.disorder(shard, lsn, e, "acknowledged where session %d's operation %d was", other.session, other.number)
	}
	set(&h.acked, lsn, e)
	switch other := at(h.read, lsn); {
	case e.read != 0 && e.read != lsn:
		l.disorder(shard, lsn, e, "acknowledged here and read at LSN %d", e.read)
	case other != nil && other != e:
		l.disorder(shard, lsn, e, "acknowledged where session %d's operation %d was read", other.session, other.number)
	}
}

// abandon notes that an operation's outcome will stay unknown.
func (l *ledger) abandon(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, e)
}

// inFlight returns how many operations are neither acknowledged nor abandoned,
// and a mark for inFlightSince.
func (l *ledger) inFlight() (n int, mark uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open), l.submitted
}

// inFlightSince returns how many operations submitted before the mark are
// still in flight.
func (l *ledger) inFlightSince(mark uint64) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := range l.open {
		if e.serial < mark {
			n++
		}
	}
	return n
}

// A reading is one pass over a log from an LSN on. It is for one goroutine.
type reading struct {
	l       *ledger
	shard   int
	from    uint64
	next    uint64            // the LSN that must come next
	seen    []*entry          // by LSN, the first at from
	strayed map[*entry]bool   // seen, and not where it was acknowledged
	numbers map[uint64]uint64 // by session: the operation read last
	must    uint64            // everything acknowledged up to here must be read
}

// begin begins a reading. Everything acknowledged up to the LSN must has to show
// in it by its end.
func (l *ledger) begin(shard int, from, must uint64) *reading {
	return &reading{
		l: l, shard: shard, from: from, next: from,
		strayed: make(map[*entry]bool), numbers: make(map[uint64]uint64),
		must: must,
	}
}

// record checks the next record of the reading: that it comes in order, is one
// that was submitted, where it was acknowledged, where every other reading saw
// it, once, and behind those its session submitted before.
func (r *reading) record(lsn uint64, data []byte) {
	l := r.l
	sum := maphash.Bytes(l.seed, data)
	op, err := docstore.ParseOp(data)
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.logs[r.shard]

	if lsn != r.next {
		l.disorder(r.shard, lsn, nil, "LSN %d had to come", r.next)
	}
	r.next = lsn + 1

	var e *entry
	if err == nil && l.reachable(lsn) {
		e = at(h.sessions[op.Session], op.Number)
	}
	if e == nil || e.sum != sum {
		if l.fault(fault{"foreign", r.shard, lsn, nil}, "%d bytes that nobody submitted", len(data)) {
			l.found.foreign++
		}
		return
	}

	switch {
	case e.read == 0:
		e.read = lsn
	case e.read == lsn:
	case e.read < r.from, e.read < lsn && r.at(e.read) == e: // it is there as well, or was until the log was truncated
		if l.fault(fault{"duplicated", r.shard, lsn, e}, "also at LSN %d", e.read) {
			l.found.duplicated++
		}
		return
	default:
		l.disorder(r.shard, lsn, e, "it was at LSN %d before", e.read)
	}
	if other := at(h.read, lsn); other == nil {
		set(&h.read, lsn, e)
	} else if other != e {
		l.disorder(r.shard, lsn, e, "session %d's operation %d was here before", other.session, other.number)
	}
	if other := at(h.acked, lsn); e.acked != 0 && e.acked != lsn {
		r.strayed[e] = true
		l.disorder(r.shard, lsn, e, "acknowledged at LSN %d", e.acked)
	} else if other != nil && other != e {
		l.disorder(r.shard, lsn, e, "session %d's operation %d was acknowledged here", other.session, other.number)
	}
	if lsn >= r.from {
		set(&r.seen, lsn-r.from+1, e)
	}

	// A session's operations are there in their order and without a hole; one
	// that begins in mid-log shows the later ones only.
	if last, seen := r.numbers[op.Session]; op.Number != last+1 && (seen || r.from == 1) {
		l.disorder(r.shard, lsn, e, "its session's operation %d had to come", last+1)
	}
	r.numbers[op.Session] = op.Number
}

// end ends a reading that went to the end of the log: what had to show and did
// not is lost.
func (r *reading) end() {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for lsn := r.from; lsn <= r.must; lsn++ {
		if e := at(l.logs[r.shard].acked, lsn); e != nil && r.at(lsn) != e && !r.strayed[e] && !e.lost {
			e.lost = true
			l.fault(fault{"lost", r.shard, lsn, e}, "acknowledged and not there")
		}
	}
}

// at returns what the reading saw at an LSN.
func (r *reading) at(lsn uint64) *entry {
	if lsn < r.from {
		return nil
	}
	return at(r.seen, lsn-r.from+1)
}

// An engineView is what the engine shows of a shard; docstore.View does.
type engineView interface {
	Len() int
	Get(key string) (doc []byte, lsn uint64, found bool)
}

// compare compares a shard of the engine with the effect of the records up to
// the LSN it has applied. REQUIRES: a reading saw them.
func (l *ledger) compare(shard int, applied uint64, v engineView) {
	l.mu.Lock()
	defer l.mu.Unlock()
	want := make(map[int32]*entry)
	for lsn := uint64(1); lsn <= applied; lsn++ {
		switch e := at(l.logs[shard].read, lsn); {
		case e == nil:
			l.engineFault(shard, lsn, nil, "the engine applied what no reading saw")
		case e.kind == docstore.Put:
			want[e.doc] = e
		default:
			delete(want, e.doc)
		}
	}
	for e := range maps.Values(want) {
		d := l.docs[e.doc]
		doc, lsn, found := v.Get(d.key)
		switch {
		case !found:
			l.engineFault(shard, e.read, e, "the engine has no %q", d.key)
		case lsn != e.read:
			l.engineFault(shard, e.read, e, "the engine has %q of LSN %d", d.key, lsn)
		case !bytes.Equal(doc, d.doc):
			l.engineFault(shard, e.read, e, "the engine has other bytes of %q", d.key)
		}
	}
	if v.Len() > len(want) {
		l.engineFault(shard, applied, nil, "the engine has %d documents, not %d", v.Len(), len(want))
	}
}

// tally counts. REQUIRES: every log was read to its end after the last
// acknowledgement.
func (l *ledger) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := tally{findings: l.found, submitted: int(l.submitted)}
	for shard, h := range l.logs {
		for _, entries := range h.sessions {
			for _, e := range entries {
				switch {
				case e.acked == 0:
					continue
				case e.lost || e.read == 0:
					t.lost++
					l.fault(fault{"lost", shard, e.acked, e}, "acknowledged and not there")
				case e.read == e.acked:
					t.recovered++
				}
				t.acked++
			}
		}
	}
	t.examples = l.found.examples
	return t
}

// ackedSoFar returns how many operations were acknowledged up to now, for progress.
func (l *ledger) ackedSoFar() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acknowledged
}

// lastAcked returns the last LSN of a log that was acknowledged.
func (l *ledger) lastAcked(shard int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.logs[shard].acked))
}

func (l *ledger) disorder(shard int, lsn uint64, e *entry, format string, args ...any) {
	if l.fault(fault{"out of order", shard, lsn, e}, format, args...) {
		l.found.outOfOrder++
	}
}

func (l *ledger) engineFault(shard int, lsn uint64, e *entry, format string, args ...any) {
	if l.fault(fault{"engine", shard, lsn, e}, format, args...) {
		l.found.engine++
	}
}

// fault notes a fault and tells whether it is new.
func (l *ledger) fault(f fault, format string, args ...any) bool {
	if l.faults[f] {
		return false
	}
	l.faults[f] = true
	if len(l.found.examples) < maxExamples {
		who := ""
		if f.entry != nil {
			who = fmt.Sprintf(" session %d's operation %d:", f.entry.session, f.entry.number)
		}
		l.found.examples = append(l.found.examples, fmt.Sprintf("%s: log %d, LSN %d:%s %s", f.what, f.shard, f.lsn, who, fmt.Sprintf(format, args...)))
	}
	return true
}

// reachable bounds the LSNs that memory is taken for: even with every record
// duplicated a log is not longer.
func (l *ledger) reachable(lsn uint64) bool { return lsn <= 2*l.submitted }

// at returns what is at a position counted from 1, nil if nothing is.
func at(s []*entry, position uint64) *entry {
	if position == 0 || position > uint64(len(s)) {
		return nil
	}
	return s[position-1]
}

// set puts an entry at a position counted from 1.
func set(s *[]*entry, position uint64, e *entry) {
	for uint64(len(*s)) < position {
		*s = append(*s, nil)
	}
	(*s)[position-1] = e
}
