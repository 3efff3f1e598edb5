package wal

import (
	"errors"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// A WriterChange is a log's writer, acquired or released.
type WriterChange struct {
	Log    string
	Epoch  Epoch  // that began with it
	Holder string // of the writer; empty if it was released, and the log is shared
}

// A ProducerChange is what became of a producer that had a slot.
type ProducerChange struct {
	Log          string
	Producer     ulid.ULID
	What         ProducerEnd
	LastSequence uint64 // of its batches; 0 if none
	Incarnation  uint64 // it is in, or had
}

// A ProducerEnd says what ended: a producer for good, its slot, or an incarnation.
type ProducerEnd uint8

// The ends.
const (
	ProducerRetired  ProducerEnd = iota + 1 // nothing more of it lands
	ProducerMadeWay                         // its slot is another's: of its batches only their number is remembered
	ProducerResolved                        // what was sent in its earlier incarnations lands no more
)

// A Refusal is why a batch was refused, as far as it is counted apart.
type Refusal uint8

// The refusals.
const (
	RefusedAfter  Refusal = iota // ErrAfterRefusal
	RefusedFenced                // ErrFenced
	RefusedLSN                   // ErrLSNMismatch
	RefusedQuota                 // ErrQuota
	RefusedRate                  // ErrRateQuota
	RefusedFull                  // ErrFull
	RefusedOther                 // whatever else
	Refusals                     // how many there are
)

// counted are the errors of the refusals before RefusedOther.
var counted = [RefusedOther]error{
	RefusedAfter: ErrAfterRefusal, RefusedFenced: ErrFenced, RefusedLSN: ErrLSNMismatch,
	RefusedQuota: ErrQuota, RefusedRate: ErrRateQuota, RefusedFull: ErrFull,
}

// refuse counts a batch that was refused.
func (c *counters) refuse(err error) {
	for r, reason := range counted {
		if errors.Is(err, reason) {
			c.refused[r].Add(1)
			return
		}
	}
	c.refused[RefusedOther].Add(1)
}

// refusals returns what refuse has counted.
func (c *counters) refusals() (n [Refusals]uint64) {
	for r := range n {
		n[r] = c.refused[r].Load()
	}
	return n
}

// news are the changes of writers and producers that a frame carries, kept until
// nobody's lock is held.
type news struct {
	writers   []WriterChange
	producers []ProducerChange
}

// note notes what a command is about to change. REQUIRES: mu; the durable state is
// the one before it.
func (n *news) note(s *State, c *Command) {
	switch c.Kind {
	case CommandSetWriter, CommandRetireProducer, CommandResolveProducer, CommandOpenProducer:
	default:
		return // also of an append, and without a look at its log
	}
	l := s.logs.get(c.Log)
	if l == nil {
		return
	}
	switch c.Kind {
	case CommandSetWriter:
		n.writers = append(n.writers, WriterChange{l.name, c.Epoch, c.Name})
	case CommandRetireProducer:
		if slot := l.slot(c.Producer); slot != 0 {
			n.producer(l, ProducerRetired, l.producers[slot-1])
		}
	case CommandResolveProducer:
		if slot := l.slot(c.Producer); slot != 0 {
			n.producer(l, ProducerResolved, l.producers[slot-1])
			n.producers[len(n.producers)-1].Incarnation = c.Incarnation
		}
	case CommandOpenProducer:
		if len(l.producers) == limits.MaxProducersPerLog {
			n.producer(l, ProducerMadeWay, l.producers[l.idlest()])
		}
	default:
	}
}

func (n *news) producer(l *logState, what ProducerEnd, p *producerState) {
	n.producers = append(n.producers, ProducerChange{l.name, p.id, what, p.last, p.incarnation})
}

// tell counts the news and tells whoever wants to hear.
func (n *news) tell(v *Volume) {
	for _, w := range n.writers {
		v.counters.writers.Add(1)
		if v.o.Events.WriterChanged != nil {
			v.o.Events.WriterChanged(w)
		}
	}
	for _, p := range n.producers {
		switch p.What {
		case ProducerRetired:
			v.counters.retired.Add(1)
		case ProducerMadeWay:
			v.counters.madeWay.Add(1)
		case ProducerResolved:
			v.counters.resolved.Add(1)
		}
		if v.o.Events.ProducerEnded != nil {
			v.o.Events.ProducerEnded(p)
		}
	}
}
