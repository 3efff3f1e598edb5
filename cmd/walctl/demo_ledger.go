package main

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"sync"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/docstore"
)

// A ledger remembers what was submitted and what was acknowledged, and compares
// that with everything that is read back. It trusts nothing it is compared
// with: a record counts as the one submitted only if all its bytes are.
type ledger struct {
	seed maphash.Seed
	docs []docEntry

	mu                               sync.Mutex
	logs                             []history
	open                             map[*entry]struct{} // submitted and not settled
	submitted, acknowledged, refused uint64

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
	sessions map[uint64]*track // by session: its operations, by number
	acked    track             // by LSN: acknowledged there
	read     track             // by LSN: read there, first

	// What the records up to read.base come to, which are forgotten.
	effect    map[int32]uint64 // documents, and the LSN of the put that stored them
	recovered int              // how many of the records had been acknowledged
}

// A track is entries at positions counted from 1, without the first few.
type track struct {
	base    uint64 // how many are dropped
	entries []*entry
}

// at returns what is at a position; nil if nothing is, or not any more.
func (t *track) at(position uint64) *entry {
	if t == nil || position <= t.base || position > t.last() {
		return nil
	}
	return t.entries[position-t.base-1]
}

// set puts an entry at a position, which must not be dropped.
func (t *track) set(position uint64, e *entry) {
	for t.last() < position {
		t.entries = append(t.entries, nil)
	}
	t.entries[position-t.base-1] = e
}

// last returns the last position that was set.
func (t *track) last() uint64 { return t.base + uint64(len(t.entries)) }

// drop drops the first position that is left.
func (t *track) drop() {
	t.base++
	if len(t.entries) > 0 {
		t.entries[0] = nil // for the garbage collector: the array stays
		t.entries = t.entries[1:]
	}
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
	refused bool   // nothing of it may ever be read
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
		l.logs[i] = history{sessions: make(map[uint64]*track), effect: make(map[int32]uint64)}
	}
	return l
}

// submit notes an operation before it is handed to the engine.
func (l *ledger) submit(shard int, op docstore.Op, doc int) *entry {
	e := &entry{session: op.Session, number: op.Number, kind: op.Kind, doc: int32(doc), sum: maphash.Bytes(l.seed, op.AppendTo(nil))}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.logs[shard]
	s := h.sessions[op.Session]
	if s == nil {
		s = &track{}
		h.sessions[op.Session] = s
	}
	if s.last() != op.Number-1 {
		panic(fmt.Sprintf("session %d submits operation %d after %d", op.Session, op.Number, s.last()))
	}
	s.set(op.Number, e)
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
	if lsn <= h.acked.base || !l.reachable(lsn) {
		l.disorder(shard, lsn, e, "acknowledged at an LSN that was taken, or that %d records cannot reach", l.submitted)
		return
	}
	if other := h.acked.at(lsn); other != nil {
		l.disorder(shard, lsn, e, "acknowledged where session %d's operation %d was", other.session, other.number)
	}
	h.acked.set(lsn, e)
	switch other := h.read.at(lsn); {
	case e.read != 0 && e.read != lsn:
		l.disorder(shard, lsn, e, "acknowledged here and read at LSN %d", e.read)
	case other != nil && other != e:
		l.disorder(shard, lsn, e, "acknowledged where session %d's operation %d was read", other.session, other.number)
	}
}

// settle notes that an operation was not acknowledged: its outcome will stay unknown,
// or it was refused, and must never be read.
func (l *ledger) settle(e *entry, unknown bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, e)
	if !unknown {
		e.refused = true
		l.refused++
		if e.read != 0 {
			l.resurrected(e, e.read)
		}
	}
}

// resurrected notes that an operation is there though it was refused.
func (l *ledger) resurrected(e *entry, lsn uint64) {
	if l.fault(fault{"foreign", docstore.ShardOf(l.docs[e.doc].key, len(l.logs)), lsn, e}, "it was refused") {
		l.found.foreign++
	}
}

// refusedSoFar returns how many operations were refused up to now.
func (l *ledger) refusedSoFar() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// inFlight returns how many operations are neither acknowledged nor settled,
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
	must    uint64            // everything acknowledged up to here must be read
	numbers map[uint64]uint64 // by session: the operation read last
	missed  map[*entry]bool   // not seen where they were acknowledged, or read before
	strayed map[*entry]bool   // seen elsewhere
}

// begin begins a reading. Everything acknowledged up to the LSN must has to show
// in it by its end.
func (l *ledger) begin(shard int, from, must uint64) *reading {
	return &reading{
		l: l, shard: shard, from: from, next: from, must: must,
		numbers: make(map[uint64]uint64), missed: make(map[*entry]bool), strayed: make(map[*entry]bool),
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
		r.miss(lsn - 1)
	}
	r.next = lsn + 1

	var e *entry
	if err == nil && lsn > h.read.base && l.reachable(lsn) {
		e = h.sessions[op.Session].at(op.Number)
	}
	if e == nil || e.sum != sum {
		if l.fault(fault{"foreign", r.shard, lsn, nil}, "%d bytes that nobody submitted", len(data)) {
			l.found.foreign++
		}
		r.missAt(lsn)
		return
	}

	if e.refused {
		l.resurrected(e, lsn)
	}
	acked, read := h.acked.at(lsn), h.read.at(lsn)
	if acked != e || read != e {
		r.missAt(lsn)
	}
	switch {
	case e.read == 0:
		e.read = lsn
	case e.read == lsn:
	case e.read < lsn && !r.missed[e]: // it is there as well, or was until the log was truncated
		if l.fault(fault{"duplicated", r.shard, lsn, e}, "also at LSN %d", e.read) {
			l.found.duplicated++
		}
		return
	default:
		l.disorder(r.shard, lsn, e, "it was at LSN %d before", e.read)
	}
	if read == nil {
		h.read.set(lsn, e)
	} else if read != e {
		l.disorder(r.shard, lsn, e, "session %d's operation %d was here before", read.session, read.number)
	}
	if e.acked != 0 && e.acked != lsn {
		r.strayed[e] = true
		l.disorder(r.shard, lsn, e, "acknowledged at LSN %d", e.acked)
	} else if acked != nil && acked != e {
		l.disorder(r.shard, lsn, e, "session %d's operation %d was acknowledged here", acked.session, acked.number)
	}
	if acked == e || acked == nil && e.read == lsn { // its acknowledgement may come before the reading ends
		delete(r.missed, e)
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
	r.miss(r.must)
	for e := range r.missed {
		if e.acked >= r.from && e.acked <= r.must && !r.strayed[e] && !e.lost {
			e.lost = true
			l.fault(fault{"lost", r.shard, e.acked, e}, "acknowledged and not there")
		}
	}
}

// miss notes what should have been at the LSNs from next on up to last.
func (r *reading) miss(last uint64) {
	last = min(last, max(r.l.logs[r.shard].acked.last(), r.l.logs[r.shard].read.last()))
	for lsn := r.next; lsn <= last; lsn++ {
		r.missAt(lsn)
	}
}

// missAt notes what should have been at an LSN.
func (r *reading) missAt(lsn uint64) {
	h := &r.l.logs[r.shard]
	for _, e := range []*entry{h.acked.at(lsn), h.read.at(lsn)} {
		if e != nil {
			r.missed[e] = true
		}
	}
}

// forget lets the memory of records go that are truncated below first, in so
// far as they are settled: read, and acknowledged there or never to be. They are
// only counted from now on, and none of them may come again.
func (l *ledger) forget(shard int, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.logs[shard]
	for lsn := h.read.base + 1; lsn < first; lsn++ {
		e := h.read.at(lsn)
		if e == nil || e.lost || e.read != lsn || e.acked != 0 && e.acked != lsn || h.sessions[e.session].base != e.number-1 {
			return
		}
		if _, open := l.open[e]; open {
			return
		}
		if e.kind == docstore.Put {
			h.effect[e.doc] = lsn
		} else {
			delete(h.effect, e.doc)
		}
		if e.acked != 0 {
			h.recovered++
		}
		h.sessions[e.session].drop()
		h.read.drop()
		h.acked.drop()
	}
}

// An engineView is what the engine shows of a shard; docstore.View does.
type engineView interface {
	Len() int
	Get(key string) (doc []byte, lsn client.LSN, found bool)
}

// compare compares a shard of the engine with the effect of the records up to
// the LSN it has applied. REQUIRES: a reading saw them.
func (l *ledger) compare(shard int, applied uint64, v engineView) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.logs[shard]
	want := maps.Clone(h.effect)
	if applied < h.read.base {
		l.engineFault(shard, applied, "the engine is behind what its checkpoint let go, LSN %d", h.read.base)
	}
	for lsn := h.read.base + 1; lsn <= applied; lsn++ {
		switch e := h.read.at(lsn); {
		case e == nil:
			l.engineFault(shard, lsn, "the engine applied what no reading saw")
		case e.kind == docstore.Put:
			want[e.doc] = lsn
		default:
			delete(want, e.doc)
		}
	}
	for i, at := range want {
		d := l.docs[i]
		doc, lsn, found := v.Get(d.key)
		switch {
		case !found:
			l.engineFault(shard, at, "the engine has no %q", d.key)
		case uint64(lsn) != at:
			l.engineFault(shard, at, "the engine has %q of LSN %d", d.key, lsn)
		case !bytes.Equal(doc, d.doc):
			l.engineFault(shard, at, "the engine has other bytes of %q", d.key)
		}
	}
	if v.Len() > len(want) {
		l.engineFault(shard, applied, "the engine has %d documents, not %d", v.Len(), len(want))
	}
}

// tally counts. REQUIRES: every log was read to its end after the last
// acknowledgement.
func (l *ledger) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := tally{findings: l.found, submitted: int(l.submitted)}
	for shard := range l.logs {
		h := &l.logs[shard]
		t.acked += h.recovered
		t.recovered += h.recovered
		for _, s := range h.sessions {
			for _, e := range s.entries {
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
	return l.logs[shard].acked.last()
}

func (l *ledger) disorder(shard int, lsn uint64, e *entry, format string, args ...any) {
	if l.fault(fault{"out of order", shard, lsn, e}, format, args...) {
		l.found.outOfOrder++
	}
}

func (l *ledger) engineFault(shard int, lsn uint64, format string, args ...any) {
	if l.fault(fault{"engine", shard, lsn, nil}, format, args...) {
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
