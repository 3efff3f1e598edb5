package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
)

// A unit is what one client submitted at once: one record, or a batch that is
// there as a whole or not at all.
type unit struct {
	id    unitID
	log   string
	count int
	state state
	at    uint64 // position of the first record, if settled
}

type unitID struct {
	client uint32 // never the same in two lives of a subject
	n      uint64 // dense
}

type state uint8

const (
	// pending is submitted, with no answer yet. If the power goes now, it may
	// be there or not.
	pending state = iota
	// settled is acknowledged, or was read after a cut: it must stay.
	settled
	// gone was pending, and a reader did not find it: it must not come back.
	gone
)

// A ledger knows what was promised. Its methods may be called by several goroutines.
type ledger struct {
	mu    sync.Mutex
	logs  map[string]*logLedger
	units map[unitID]*unit
	acked int // records
}

type logLedger struct {
	units            []*unit
	created          bool   // its creation was acknowledged
	truncated, asked uint64 // first position, as acknowledged and as last asked for
}

func newLedger() *ledger {
	return &ledger{logs: map[string]*logLedger{}, units: map[unitID]*unit{}}
}

// log returns a log, with the lock held.
func (l *ledger) log(name string) *logLedger {
	if l.logs[name] == nil {
		l.logs[name] = &logLedger{truncated: 1, asked: 1}
	}
	return l.logs[name]
}

func (l *ledger) opened(log string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log(log)
}

func (l *ledger) created(log string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log(log).created = true
}

// submitted says that a unit is about to be appended.
func (l *ledger) submitted(log string, id unitID, count int) *unit {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := &unit{id: id, log: log, count: count}
	l.units[id] = u
	l.log(log).units = append(l.log(log).units, u)
	return u
}

// acknowledged says that a unit was promised, with its first record at a position.
func (l *ledger) acknowledged(u *unit, at uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u.state, u.at = settled, at
	l.acked += u.count
}

// truncating says that a log's records below first are about to be given up.
func (l *ledger) truncating(log string, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log(log).asked = max(first, l.log(log).asked)
}

func (l *ledger) truncated(log string, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log(log).truncated = max(first, l.log(log).truncated)
}

// names returns the logs there should be, or may be.
func (l *ledger) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.logs))
	for name := range l.logs {
		names = append(names, name)
	}
	return names
}

// tally is what a comparison found, in records.
type tally struct {
	Lost       int `json:"lost"`       // acknowledged, and not there with its bytes at its position
	Reappeared int `json:"reappeared"` // there, and was not at an earlier opening
	Garbage    int `json:"garbage"`    // there, and never submitted so: other bytes, twice, half a batch, out of order
}

func (t tally) clean() bool { return t == tally{} }

func (t *tally) add(o tally) {
	t.Lost += o.Lost
	t.Reappeared += o.Reappeared
	t.Garbage += o.Garbage
}

// A record as it was found.
type found struct {
	at   uint64
	data []byte
}

// compare compares a log with what was promised, and takes note: what was
// pending is settled or gone from here on. first is the position of the oldest
// record, there or not. A log that is not there has no records, and exists is
// false. say is called for what is wrong.
func (l *ledger) compare(log string, exists bool, first uint64, records []found, say func(string, ...any)) (t tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lg := l.log(log)
	if !exists && lg.created {
		say("log %s: created, and is not there", log)
		t.Lost++
	}
	if exists {
		lg.created = true // a reader saw it
		if first < lg.truncated {
			say("log %s: truncated to %d, begins at %d", log, lg.truncated, first)
			t.Reappeared++
		}
	}

	// 1. Everything found was submitted, in this order, once.
	there := map[unitID]map[int]uint64{}
	newest := map[uint32]recordID{}
	next := first
	for _, r := range records {
		id, err := parseRecord(r.data)
		u := l.units[id.unitID]
		switch {
		case err != nil:
			say("log %s: %d: %v", log, r.at, err)
			t.Garbage++
			next = r.at + 1
			continue
		case u == nil || u.log != log || u.count != id.count || id.index >= id.count:
			say("log %s: %d: %v was not submitted here", log, r.at, id)
			t.Garbage++
		case r.at != next || !newest[id.client].before(id):
			say("log %s: %d: %v is out of order, after %v", log, r.at, id, newest[id.client])
			t.Garbage++
		case u.state == gone:
			say("log %s: %d: %v was gone and is back", log, r.at, id)
			t.Reappeared++
		}
		next, newest[id.client] = r.at+1, id
		if there[id.unitID] == nil {
			there[id.unitID] = map[int]uint64{}
		}
		there[id.unitID][id.index] = r.at
	}

	// 2. Everything promised is there, and nothing by halves.
	for _, u := range lg.units {
		at := there[u.id]
		switch u.state {
		case settled:
			for i := range u.count {
				want := u.at + uint64(i)
				if p, ok := at[i]; want >= lg.asked && (!ok || p != want) {
					say("log %s: %d: %v is lost", log, want, recordID{u.id, i, u.count})
					t.Lost++
				}
			}
		case pending:
			switch {
			case len(at) == 0:
				u.state = gone
			case len(at) < u.count:
				say("log %s: %d of %d records of batch %v", log, len(at), u.count, u.id)
				t.Garbage++
			default:
				u.state, u.at = settled, at[0]
			}
		}
	}
	if exists {
		lg.truncated = max(lg.truncated, first)
	}
	return t
}

// recordID is what a record says it is.
type recordID struct {
	unitID
	index, count int
}

func (r recordID) String() string {
	return fmt.Sprintf("%d/%d[%d of %d]", r.client, r.n, r.index, r.count)
}

func (r recordID) before(o recordID) bool {
	return r.count == 0 || r.n < o.n || r.n == o.n && r.index < o.index
}

const recordHeader = 4 + 8 + 4 + 4

// record returns the bytes of a record, which follow from its ID: mostly some
// hundred bytes of words, now and then many blocks of noise.
func record(id recordID) []byte {
	rng := rand.New(rand.NewPCG(uint64(id.client)<<20|uint64(id.index), id.n))
	size := rng.IntN(600)
	if rng.IntN(12) == 0 {
		size = rng.IntN(14 << 10) // a batch of them has to fit into a segment
	}
	b := make([]byte, recordHeader, recordHeader+size+8)
	binary.LittleEndian.PutUint32(b, id.client)
	binary.LittleEndian.PutUint64(b[4:], id.n)
	binary.LittleEndian.PutUint32(b[12:], uint32(id.index))
	binary.LittleEndian.PutUint32(b[16:], uint32(id.count))
	noise := rng.IntN(2) == 0
	for len(b) < recordHeader+size {
		if noise {
			b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
		} else {
			b = append(b, words[rng.IntN(len(words))]...)
		}
	}
	return b[:recordHeader+size]
}

var words = []string{"frame ", "segment ", "durable ", "checkpoint ", "promise ", "LSN "}

// parseRecord returns which record the bytes are, and an error unless they are
// exactly its bytes.
func parseRecord(b []byte) (recordID, error) {
	if len(b) < recordHeader {
		return recordID{}, fmt.Errorf("%d bytes are no record", len(b))
	}
	id := recordID{
		unitID: unitID{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[4:])},
		index:  int(binary.LittleEndian.Uint32(b[12:])),
		count:  int(binary.LittleEndian.Uint32(b[16:])),
	}
	if !bytes.Equal(b, record(id)) {
		return id, fmt.Errorf("%v has other bytes", id)
	}
	return id, nil
}
