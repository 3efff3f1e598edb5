package wal

import (
	"cmp"
	"slices"
	"sort"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// A producerState remembers a producer's last batches. Frozen copies of its log
// share it until it changes: see logState.producer.
type producerState struct {
	generation uint64
	id         ulid.ULID
	active     LSN    // the log's next LSN when it was opened or last appended
	last       uint64 // sequence of its last batch; 0 if none
	// incarnation counts, from 1, how often it was resolved or came back after it
	// had made way: only who is bound in the present one may append.
	incarnation uint64
	retired     bool
	own         uint8 // bit i: no frozen copy has piece i, which may be written
	// window has the last batches: that of sequence q lies at (q-1) mod
	// limits.ProducerWindow. It is in pieces, so that a batch behind a freeze costs a
	// copy of one of them; a nil piece is one of which nothing is known.
	window [windowPieces]*windowPiece
	// parts are those of the batches in window that are over several logs, in order.
	// What is in the slice is never written; only the latest copy appends behind it.
	parts []partState
	// discards are the batches in window that rewinds took something of, in order. The
	// slice is never written.
	discards []discardState
}

// pieceBatches is how many batches a piece has: as many as a copy of one moves for
// one batch. Fewer would make more pieces to look after.
const pieceBatches = 16

const windowPieces = limits.ProducerWindow / pieceBatches

const _ = uint8(1) << (windowPieces - 1) // own has a bit for each

// A windowPiece has what a window keeps of each batch.
type windowPiece [pieceBatches]windowBatch

// A windowBatch is a batchState without what its place in the window and the
// producer's discards say: there may be millions of them, limits.ProducerWindow for each
// producer and state.
type windowBatch struct {
	first    LSN // 0 if nothing is known of the batch
	epoch    Epoch
	count    uint32
	runSum   uint32
	checksum Checksum
}

// A batchState is what a retry is answered with.
type batchState struct {
	sequence uint64
	first    LSN
	count    uint32
	runSum   uint32
	checksum Checksum
	epoch    Epoch
	// discarded is the epoch that a rewind began which took the batch, or its end, and
	// kept the last record that that left; 0 if none did.
	discarded Epoch
	kept      LSN
}

// A discardState says which rewind took a batch, or its end: as in batchState.
type discardState struct {
	sequence  uint64
	discarded Epoch
	kept      LSN
}

// A partState is what a retry is answered with of one part of a batch.
type partState struct {
	sequence uint64 // of the batch
	log      uint64 // number
	first    LSN
	epoch    Epoch
	count    uint32
	runSum   uint32
	checksum Checksum
}

// producer returns the producer of a slot, to be changed: a copy of its own, if a
// frozen copy of the log shares it. REQUIRES: the log is mutable.
func (l *logState) producer(slot uint64) *producerState {
	p := l.producers[slot-1]
	if p.generation == l.generation {
		return p
	}
	c := *p
	c.generation, c.own = l.generation, 0
	c.parts = slices.Clip(p.parts)
	l.producers[slot-1] = &c
	return &c
}

// remember notes a batch behind the last one as the last one.
func (p *producerState) remember(b batchState) {
	p.pass(b.sequence)
	*p.at(b.sequence) = windowBatch{first: b.first, epoch: b.epoch, count: b.count, runSum: b.runSum, checksum: b.checksum}
	if b.discarded != 0 { // as a snapshot says, whose states nobody shares yet
		p.discards = append(p.discards, discardState{b.sequence, b.discarded, b.kept})
	}
}

// pass makes a sequence the last one, if it is not, nor behind the last: of the batches up
// to it nothing is known but that there were some.
func (p *producerState) pass(sequence uint64) {
	if sequence <= p.last {
		return
	}
	for q := p.last + 1; q-1 < sequence && q-p.last <= limits.ProducerWindow; q++ {
		if n, _ := place(q); p.window[n] != nil {
			*p.at(q) = windowBatch{}
		}
	}
	p.last = sequence
	for len(p.parts) > 0 && p.last-p.parts[0].sequence >= limits.ProducerWindow {
		p.parts = p.parts[1:]
	}
	for len(p.discards) > 0 && p.last-p.discards[0].sequence >= limits.ProducerWindow {
		p.discards = p.discards[1:]
	}
}

// place returns where in the window a sequence has its batch.
func place(sequence uint64) (piece, at uint64) {
	i := (sequence - 1) % limits.ProducerWindow
	return i / pieceBatches, i % pieceBatches
}

// at returns the place of a sequence in the window, to be written.
func (p *producerState) at(sequence uint64) *windowBatch {
	n, at := place(sequence)
	switch {
	case p.window[n] == nil:
		p.window[n] = new(windowPiece)
	case p.own&(1<<n) == 0:
		c := *p.window[n]
		p.window[n] = &c
	}
	p.own |= 1 << n
	return &p.window[n][at]
}

// recall returns the batch of a sequence that was used, if it is still remembered.
// One that was lost, or came before its producer made way, was committed, and no
// more is known.
func (p *producerState) recall(sequence uint64) (b batchState, known bool) {
	if sequence == 0 || sequence > p.last || p.last-sequence >= limits.ProducerWindow {
		return batchState{}, false
	}
	n, at := place(sequence)
	if p.window[n] == nil {
		return batchState{}, false
	}
	w := &p.window[n][at]
	if w.first == 0 {
		return batchState{}, false
	}
	b = batchState{sequence: sequence, first: w.first, count: w.count, runSum: w.runSum, checksum: w.checksum, epoch: w.epoch}
	if len(p.discards) > 0 {
		if i, taken := p.findDiscard(sequence); taken {
			b.discarded, b.kept = p.discards[i].discarded, p.discards[i].kept
		}
	}
	return b, true
}

func (p *producerState) findDiscard(sequence uint64) (int, bool) {
	return slices.BinarySearchFunc(p.discards, sequence, func(d discardState, sequence uint64) int {
		return cmp.Compare(d.sequence, sequence)
	})
}

// partsOf returns the parts of a batch that is still remembered. They are not to be
// changed.
func (p *producerState) partsOf(sequence uint64) []partState {
	from := sort.Search(len(p.parts), func(i int) bool { return p.parts[i].sequence >= sequence })
	to := from
	for to < len(p.parts) && p.parts[to].sequence == sequence {
		to++
	}
	return p.parts[from:to]
}

// rewind notes which batches a cut discarded, or their ends. REQUIRES: the producer
// may be changed.
func (p *producerState) rewind(cut *Cut) {
	// Who makes way is who has not appended for longest, which the discarded LSNs would
	// tell wrongly.
	p.active = min(p.active, cut.LSN+1)
	for i := range p.kept() {
		if b, known := p.recall(p.last - i); known && b.discarded == 0 && b.first+LSN(b.count)-1 > cut.LSN {
			at, _ := p.findDiscard(b.sequence)
			p.discards = slices.Insert(slices.Clone(p.discards), at, discardState{b.sequence, cut.Epoch, cut.LSN})
		}
	}
}

// touches reports whether a cut changes anything of the producer.
func (p *producerState) touches(cut *Cut) bool { return p.active > cut.LSN+1 }

// kept returns how many batches the window has, known ones and others.
func (p *producerState) kept() uint64 { return min(p.last, limits.ProducerWindow) }

// slot returns the slot of a producer, 0 if it is not open.
func (l *logState) slot(producer ulid.ULID) uint64 {
	i, found := l.findProducer(producer)
	if !found {
		return 0
	}
	return uint64(l.byID[i])
}

func (l *logState) findProducer(producer ulid.ULID) (int, bool) {
	return slices.BinarySearchFunc(l.byID, producer, func(slot uint16, id ulid.ULID) int {
		return l.producers[slot-1].id.Compare(id)
	})
}

// sortProducers makes byID anew. It reports false if a producer is there twice.
func (l *logState) sortProducers() bool {
	l.byID = make([]uint16, len(l.producers))
	for i := range l.byID {
		l.byID[i] = uint16(i + 1)
	}
	order := func(a, b uint16) int { return l.producers[a-1].id.Compare(l.producers[b-1].id) }
	slices.SortFunc(l.byID, order)
	for i := 1; i < len(l.byID); i++ {
		if order(l.byID[i-1], l.byID[i]) == 0 {
			return false
		}
	}
	return true
}

// seat gives a producer a slot: one behind all, or that of another, which has none
// any more.
func (l *logState) seat(slot int, p *producerState) {
	p.generation = l.generation
	byID := append(make([]uint16, 0, len(l.byID)+1), l.byID...)
	if slot <= len(l.producers) {
		i, _ := l.findProducer(l.producers[slot-1].id)
		byID = slices.Delete(byID, i, i+1)
	}
	l.byID = byID
	i, _ := l.findProducer(p.id)
	l.byID = slices.Insert(byID, i, uint16(slot))
	switch {
	case len(l.producers) == 0:
		l.sole[0] = p
		l.producers = l.sole[:]
	case slot > len(l.producers):
		l.producers = append(l.producers, p)
	default:
		l.producers[slot-1] = p
	}
}
