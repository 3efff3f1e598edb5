package client

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/oklog/ulid/v2"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// An Outcome is what is known of an append whose verdict was not heard.
type Outcome uint8

// The outcomes.
const (
	Committed  Outcome = iota + 1 // it is durable
	NotWritten                    // it is not, and never will be
	Fenced                        // the same, and the epoch it was for is over
	Discarded                     // it was durable, and a rewind discarded it, or the end of its batch
)

// String returns the outcome's name, as walctl prints it.
func (o Outcome) String() string {
	switch o {
	case Committed:
		return "committed"
	case NotWritten:
		return "not written"
	case Fenced:
		return "fenced"
	case Discarded:
		return "discarded"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// A Resolution is what became of an append.
type Resolution struct {
	Outcome Outcome
	// Receipt is that of the append, if it is Committed or Discarded and its position
	// is still kept; Receipt.LSN is 0 otherwise.
	Receipt Receipt
	// Parts are the receipts of a Group's batch for its further logs, in their order, but
	// for those that it appended nothing to: known as Receipt is. Log is zero in that of a
	// log which was deleted since.
	Parts []Receipt
	// LastSequence is the producer's last batch.
	LastSequence uint64
	Log          LogInfo
}

// Resolve says what became of an append whose outcome is unknown, durably, and once
// for all: first it ends whatever else the producer has under way, so that an
// append that is NotWritten stays so, wherever it is on its way. Appends of this
// handle that the same producer has under way are refused with ErrSuperseded then;
// later ones go on.
//
// u may be from an earlier life of the process: its Producer, Sequence and Epoch
// are what is asked for. It returns ErrNoProducer if the log does not remember the
// producer: then the append was never sent, or the log has forgotten who sent it, and
// only its records tell. It returns ErrInvalid for sequence 0, of an append for
// which another producer was being opened when the wait for it ended, ErrLogNotFound or
// ErrFull. It may be called again.
func (l *Log) Resolve(ctx context.Context, u *UnknownError) (Resolution, error) {
	if u.Sequence == 0 { // nothing that the service could be asked for
		return Resolution{}, fmt.Errorf("resolve on log %q: %w: sequence 0: the append had no producer when the wait for it ended, and gets another one: wait for its Future again", l.name, ErrInvalid)
	}
	resp, err := l.client.appendService.Resolve(ctx, &walsvcv1.ResolveRequest{
		Log: l.name, Producer: u.Producer.String(), Sequence: u.Sequence, Epoch: u.Epoch,
	})
	if err != nil {
		return Resolution{}, called(err, "resolve sequence %d of producer %s on log %q", u.Sequence, u.Producer, l.name)
	}
	info, err := logInfo(resp.GetLog())
	if err != nil {
		return Resolution{}, err
	}
	r := Resolution{LastSequence: resp.GetLastSequence(), Log: info}
	switch resp.GetOutcome() {
	case walsvcv1.Outcome_OUTCOME_COMMITTED:
		r.Outcome = Committed
	case walsvcv1.Outcome_OUTCOME_NOT_WRITTEN:
		r.Outcome = NotWritten
	case walsvcv1.Outcome_OUTCOME_FENCED:
		r.Outcome = Fenced
	case walsvcv1.Outcome_OUTCOME_DISCARDED:
		r.Outcome = Discarded
	default:
		return Resolution{}, fmt.Errorf("resolve on log %q: %w: %v", l.name, ErrProtocol, resp.GetOutcome())
	}
	if first := LSN(resp.GetFirstLsn()); first != 0 {
		s := l.stream
		s.mu.Lock()
		volume := l.volume // zero if this client never appended to the log
		s.mu.Unlock()
		r.Receipt = Receipt{
			Volume: volume, Log: info.ID, Name: l.name, Epoch: resp.GetEpoch(), LSN: first + LSN(u.Skip), Count: int(resp.GetCount()),
			Through: first + LSN(resp.GetCount()) - 1, LogChecksum: resp.GetLogChecksum(), Repeated: true,
		}
		if u.Count > 0 {
			r.Receipt.Count = u.Count
		}
	}
	for _, p := range resp.GetParts() {
		part := Receipt{
			Epoch: p.GetEpoch(), LSN: LSN(p.GetFirstLsn()), Count: int(p.GetCount()), LogChecksum: p.GetLogChecksum(),
			Through: LSN(p.GetFirstLsn()) + LSN(p.GetCount()) - 1, Repeated: true,
		}
		if p.GetLogId() != "" {
			if part.Log, err = ulid.ParseStrict(p.GetLogId()); err != nil {
				return Resolution{}, fmt.Errorf("resolve on log %q: %w: id %q: %w", l.name, ErrProtocol, p.GetLogId(), err)
			}
		}
		r.Parts = append(r.Parts, part)
	}
	l.reopen(u.Producer)
	return r, nil
}

// Acknowledged returns who appends to the log through this handle, and the last of its
// batches that was acknowledged: what a process keeps that wants to go on as the same
// producer after its restart, for Log.ResumeProducer. Both are zero before the first
// acknowledgement, and when the producer was given up, after an unknown outcome say,
// until the next one's first. Kept some time ago it claims less, and holds as well.
func (l *Log) Acknowledged() (producer ulid.ULID, sequence uint64) {
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	if l.producer == (ulid.ULID{}) || l.landed == 0 {
		return ulid.ULID{}, 0
	}
	return l.producer, l.landed
}

// ResumeProducer has the client append to the log as a producer of an earlier life of
// the process, and say how far that one is known to have come: its batch acknowledged,
// of Log.Acknowledged, and all before it. Options.Producer then is for the other logs. If the
// log knows of fewer batches, it has forgotten the producer, and the first append is
// refused with ErrForgotten: what the earlier life does not know the outcome of, nobody
// can be asked for any more, and has to be looked for in the log. The next append
// opens another producer. Options.Producer alone says nothing of that, and begins at
// sequence 1 then, so that Log.Resolve takes the new batches for the old ones.
//
// Resolve what the earlier life does not know the outcome of before the first append:
// that may get the sequence which it asks for. ResumeProducer comes before the first
// append to the log, too, else it returns ErrInvalid, as for a producer or a sequence
// of zero.
func (l *Log) ResumeProducer(producer ulid.ULID, acknowledged uint64) error {
	s := l.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case producer == (ulid.ULID{}) || acknowledged == 0:
		return fmt.Errorf("resume producer %s on log %q at sequence %d: %w: it has appended nothing", producer, l.name, acknowledged, ErrInvalid)
	case l.phase != unopened || l.used:
		return fmt.Errorf("resume producer %s on log %q: %w: the client has appended to it already", producer, l.name, ErrInvalid)
	}
	l.producer, l.landed = producer, acknowledged
	return nil
}

// reopen has the next append open the producer again, which was resolved, unless
// appends are under way, whose verdicts say so.
func (l *Log) reopen(producer ulid.ULID) {
	s := l.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.producer == producer && len(l.queue) == 0 && (l.phase == bound || l.phase == opened && l.binding == 0) {
		s.binds = slices.DeleteFunc(s.binds, func(other *Log) bool { return other == l })
		s.drop(l, ErrSuperseded)
	}
}

// A Producer is what a log remembers of who appended to it.
type Producer struct {
	ID           ulid.ULID
	LastSequence uint64 // its last batch; 0 if none
	// Incarnation counts, from 1, how often it was resolved or came back after it had
	// made way.
	Incarnation uint64
	// Active is the log's last LSN when it last appended, or was opened if it has not
	// since; 0 if it made way. Of those that have a slot, who has the lowest makes way next.
	Active  LSN
	Retired bool // nothing more of it lands
	MadeWay bool // it has no slot any more: how far it had come is known, and not where its batches are
}

// Producers yields what the log remembers of its producers, at most 1,024 that have
// a slot and 4,096 that made way, in the order of their IDs. It asks for a page at a
// time: one that comes or goes meanwhile may or may not be there. After an error it
// ends; it yields ErrLogNotFound.
func (l *Log) Producers(ctx context.Context) iter.Seq2[Producer, error] {
	return func(yield func(Producer, error) bool) {
		req := &walsvcv1.ListProducersRequest{Log: l.name}
		for {
			resp, err := l.client.appendService.ListProducers(ctx, req)
			if err != nil {
				yield(Producer{}, called(err, "list producers of log %q", l.name))
				return
			}
			for _, p := range resp.GetProducers() {
				id, err := ulid.ParseStrict(p.GetId())
				if err != nil {
					yield(Producer{}, fmt.Errorf("list producers of log %q: %w: id %q: %w", l.name, ErrProtocol, p.GetId(), err))
					return
				}
				if !yield(Producer{
					ID: id, LastSequence: p.GetLastSequence(), Incarnation: p.GetIncarnation(), Active: LSN(p.GetActiveLsn()),
					Retired: p.GetRetired(), MadeWay: p.GetMadeWay(),
				}, nil) {
					return
				}
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				return
			}
		}
	}
}

// RetireProducer ends a producer on the log for good, durably: nothing more of it
// lands, and it is not opened again. It may be called again. It returns
// ErrNoProducer if it is not open, ErrLogNotFound or ErrFull.
func (l *Log) RetireProducer(ctx context.Context, producer ulid.ULID) error {
	_, err := l.client.appendService.RetireProducer(ctx, &walsvcv1.RetireProducerRequest{Log: l.name, Producer: producer.String()})
	return called(err, "retire producer %s on log %q", producer, l.name)
}
