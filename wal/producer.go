package wal

import (
	"context"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// OpenProducer opens a producer on a log, durably, or returns what an open one
// last appended. A log has slots for limits.MaxProducersPerLog of them: beyond
// that, one makes way, of the retired ones if there are any, that which has not
// appended for longest. How far the last limits.MaxFormerProducers that made way
// had come is remembered: opened again, they go on there, as their next
// incarnation, and of what they appended before only that it landed is known: on a
// log that is sealed, too, which opens no other. It returns ErrLogNotFound,
// ErrRetired, a *SealedError, ErrInvalid or ErrFull.
func (v *Volume) OpenProducer(ctx context.Context, log string, producer ulid.ULID) (ProducerInfo, error) {
	return v.ReopenProducer(ctx, log, producer, 0)
}

// ReopenProducer is OpenProducer for a producer that was acknowledged a sequence:
// if the log does not know of so many batches, it has forgotten the producer, which
// must not begin anew as if it had never been. Then it returns ErrForgotten, too.
func (v *Volume) ReopenProducer(ctx context.Context, log string, producer ulid.ULID, acknowledged uint64) (ProducerInfo, error) {
	if producer == (ulid.ULID{}) {
		return ProducerInfo{}, fmt.Errorf("open producer on log %q: %w: the producer is a zero ULID", log, ErrInvalid)
	}
	info := ProducerInfo{Window: limits.ProducerWindow}
	err := v.do(ctx, maxSmallCommand, forRecords, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		var cmd *Command
		retired := false
		info.Incarnation = 1
		if slot := l.slot(producer); slot != 0 {
			p := l.producers[slot-1]
			info.LastSequence, info.Incarnation, retired = p.last, p.incarnation, p.retired
		} else {
			cmd = &Command{Kind: CommandOpenProducer, Log: l.number, Producer: producer}
			if i := l.formerly(producer); i >= 0 {
				f := &l.former[i]
				info.LastSequence, info.Incarnation, retired = f.last, f.incarnation+1, f.retired
			}
		}
		switch {
		case retired:
			return nil, nil, fmt.Errorf("log %q: producer %s: %w", log, producer, ErrRetired)
		case info.LastSequence < acknowledged:
			return nil, nil, fmt.Errorf("log %q: producer %s: %w: it was acknowledged sequence %d, known are %d", log, producer, ErrForgotten, acknowledged, info.LastSequence)
		case l.sealed != 0 && cmd != nil && l.formerly(producer) < 0:
			return nil, nil, l.sealedError()
		}
		if b := v.bound[bindKey{l.number, producer}]; b != nil {
			b.seat = 0 // whoever opened it may bind it, on whatever seat
		}
		return cmd, nil, nil
	})
	if err != nil {
		return ProducerInfo{}, err
	}
	return info, nil
}

// Producers returns what a log remembers of at most limit producers with IDs behind
// after, in the order of their IDs, and whether there are more. It returns
// ErrLogNotFound.
func (v *Volume) Producers(log string, after ulid.ULID, limit int) (producers []KnownProducer, more bool, err error) {
	v.mu.RLock()
	l, err := v.lookup(log)
	if err != nil {
		v.mu.RUnlock()
		return nil, false, err
	}
	for _, p := range l.producers {
		if p.id.Compare(after) > 0 {
			producers = append(producers, KnownProducer{
				ID: p.id, LastSequence: p.last, Incarnation: p.incarnation, Active: p.active - 1, Retired: p.retired,
			})
		}
	}
	former := l.former // replaced, and never changed
	v.mu.RUnlock()
	for i := range former {
		if f := &former[i]; f.id.Compare(after) > 0 {
			producers = append(producers, KnownProducer{ID: f.id, LastSequence: f.last, Incarnation: f.incarnation, Retired: f.retired, MadeWay: true})
		}
	}
	slices.SortFunc(producers, func(a, b KnownProducer) int { return a.ID.Compare(b.ID) })
	if limit = max(limit, 1); len(producers) > limit {
		return producers[:limit], true, nil
	}
	return producers, false, nil
}

// RetireProducer ends a producer on a log for good, durably: nothing more of it
// lands, and as long as it is remembered it is not opened again. Retiring it again
// changes nothing. It returns ErrLogNotFound, ErrNoProducer if it is not open, or
// ErrFull.
func (v *Volume) RetireProducer(ctx context.Context, log string, producer ulid.ULID) error {
	return v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		slot := l.slot(producer)
		i := l.formerly(producer)
		switch {
		case slot != 0 && l.producers[slot-1].retired, i >= 0 && l.former[i].retired:
			return nil, nil, nil
		case slot == 0:
			return nil, nil, noProducer(log, producer)
		}
		return &Command{Kind: CommandRetireProducer, Log: l.number, Producer: producer}, nil, nil
	})
}

// Resolve says what became of a producer's batch whose verdict was not heard. First
// it ends whatever the producer has under way, on streams and off them, by
// beginning its next incarnation, durably: a batch that is NotWritten stays so,
// however late it arrives. epoch is the one the batch stated, 0 for none.
//
//	old stream                     volume                 who wants to know
//	7 sent, in a buffer
//	                               incarnation 2 ◄─────── resolve 7
//	                               durable ─────────────► not written; incarnation 2
//	7 arrives ───────────────────► SUPERSEDED
//
// A producer that is retired, or that made way, has nothing under way. Of a batch
// behind its window it is known that it is Committed, and no more. It returns
// ErrLogNotFound, ErrInvalid for sequence 0, ErrNoProducer if the producer is not
// remembered, or ErrFull.
func (v *Volume) Resolve(ctx context.Context, log string, producer ulid.ULID, sequence uint64, epoch Epoch) (Resolution, error) {
	if sequence == 0 {
		return Resolution{}, fmt.Errorf("resolve on log %q: %w: a producer's batches are numbered from 1", log, ErrInvalid)
	}
	var r Resolution
	err := v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		r = Resolution{Log: l.info(), Producer: ProducerInfo{Window: limits.ProducerWindow}}
		var cmd *Command
		discarded := false
		if slot := l.slot(producer); slot != 0 {
			p := l.producers[slot-1]
			r.Producer.LastSequence, r.Producer.Incarnation = p.last, p.incarnation
			if !p.retired {
				r.Producer.Incarnation++
				cmd = &Command{Kind: CommandResolveProducer, Log: l.number, Producer: producer, Incarnation: r.Producer.Incarnation}
			}
			if sequence <= p.last {
				was, _ := p.recall(sequence)
				r.First, r.Count, r.Checksum, r.Epoch = was.first, was.count, was.checksum, was.epoch
				r.Parts = s.partsOf(p, sequence)
				discarded = s.discarded(log, was, p.partsOf(sequence)) != nil
			}
		} else if i := l.formerly(producer); i >= 0 {
			r.Producer.LastSequence, r.Producer.Incarnation = l.former[i].last, l.former[i].incarnation
		} else {
			return nil, nil, noProducer(log, producer)
		}
		switch {
		case discarded:
			r.Outcome = Discarded
		case sequence <= r.Producer.LastSequence:
			r.Outcome = Committed
		case l.fences(epoch) != nil:
			r.Outcome = Fenced
		default:
			r.Outcome = NotWritten
		}
		return cmd, nil, nil
	})
	if err != nil {
		return Resolution{}, err
	}
	return r, nil
}

// partsOf says where the parts of a producer's batch are.
func (s *State) partsOf(p *producerState, sequence uint64) (parts []PartVerdict) {
	for _, t := range p.partsOf(sequence) {
		v := PartVerdict{First: t.first, Count: t.count, Checksum: t.checksum, Epoch: t.epoch}
		if l := s.logs.get(t.log); l != nil {
			v.Log, v.Name = l.id, l.name
		}
		parts = append(parts, v)
	}
	return parts
}

// open returns the slot of a producer that may append, or why there is none.
func (l *logState) open(producer ulid.ULID) (uint64, error) {
	slot := l.slot(producer)
	retired := false
	if slot != 0 {
		retired = l.producers[slot-1].retired
	} else if i := l.formerly(producer); i >= 0 {
		retired = l.former[i].retired
	}
	switch {
	case retired:
		return 0, fmt.Errorf("log %q: producer %s: %w", l.name, producer, ErrRetired)
	case slot == 0:
		return 0, noProducer(l.name, producer)
	}
	return slot, nil
}

func noProducer(log string, producer ulid.ULID) error {
	return fmt.Errorf("log %q: producer %s: %w", log, producer, ErrNoProducer)
}

// supersedes returns why an incarnation of a producer may not append, nil if it may.
func (p *producerState) supersedes(l *logState, as Producer) error {
	if p.incarnation == as.Incarnation {
		return nil
	}
	return fmt.Errorf("log %q: producer %s: %w: it is in incarnation %d, stated was %d", l.name, as.ID, ErrSuperseded, p.incarnation, as.Incarnation)
}
