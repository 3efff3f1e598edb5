package client

import (
	"context"

	"github.com/oklog/ulid/v2"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Writer is what an acquired writer begins with.
type Writer struct {
	// Log is the log as the writer's epoch begins: what was appended before lies
	// below Log.Next, and nothing of an older epoch ever comes behind it.
	Log LogInfo
	// LastSequence is the last batch of Options.Producer; 0 if it is not set, or
	// not open on the log.
	LastSequence uint64
}

// A WriterOption says on what condition a writer is acquired.
type WriterOption func(*walsvcv1.AcquireWriterRequest)

// ExpectEpoch has AcquireWriter fail with ErrFenced unless the log is in that
// epoch: of several that saw the same one, one acquires it.
func ExpectEpoch(epoch uint64) WriterOption {
	return func(req *walsvcv1.AcquireWriterRequest) { req.ExpectedEpoch = &epoch }
}

// AcquireWriter makes holder, a name of the caller's choice for people to see, the
// log's writer: a new epoch begins, which is durable when it returns. From then on
// what this handle appends states the new epoch, as do its checkpoints and its waits
// for durable LSNs, and whatever states an older one, or appends without, is refused
// with ErrFenced, whoever sent it and wherever it waits. That is also for what this
// handle had under way: an append states what the handle did when it was called, so
// it lands below Log.Next of the answer or is fenced, and never comes into the new
// epoch, which its caller did not know. It asks no clock: whoever was the writer before may be alive, and
// finds out when it appends.
//
// Of several calls at once each begins an epoch, and the handle states the last.
//
// It returns ErrLogNotFound, ErrInvalidName, ErrFenced if ExpectEpoch does not
// hold, or ErrFull. It may be called again when the service could not be reached:
// at worst one more epoch begins.
func (l *Log) AcquireWriter(ctx context.Context, holder string, opts ...WriterOption) (Writer, error) {
	req := &walsvcv1.AcquireWriterRequest{Log: l.name, Holder: holder, Request: ulid.Make().String()}
	if p := l.client.options.Producer; p != (ulid.ULID{}) {
		req.Producer = p.String()
	}
	for _, opt := range opts {
		opt(req)
	}
	resp, err := l.client.appendService.AcquireWriter(ctx, req)
	if err != nil {
		return Writer{}, called(err, "acquire the writer of log %q for %q", l.name, holder)
	}
	info, err := logInfo(resp.GetLog())
	if err != nil {
		return Writer{}, err
	}
	l.stream.mu.Lock()
	l.began(info, info.Epoch) // unlocks
	return Writer{Log: info, LastSequence: resp.GetLastSequence()}, nil
}

// ReleaseWriter ends the log's writer of an epoch, durably: one more epoch begins,
// in which nobody is the writer and everybody may append. This handle states no
// epoch from then on. A log without a writer stays as it is. It returns ErrFenced
// if the log has another writer, ErrLogNotFound or ErrFull.
func (l *Log) ReleaseWriter(ctx context.Context, epoch uint64) (LogInfo, error) {
	resp, err := l.client.appendService.ReleaseWriter(ctx, &walsvcv1.ReleaseWriterRequest{Log: l.name, Epoch: epoch})
	if err != nil {
		return LogInfo{}, called(err, "release the writer of log %q in epoch %d", l.name, epoch)
	}
	info, err := logInfo(resp.GetLog())
	if err == nil {
		l.stream.mu.Lock()
		l.began(info, 0) // unlocks
	}
	return info, err
}

// epoch returns the one that the handle acquired; 0 if it is not the writer's.
func (l *Log) epoch() uint64 {
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	return l.epochs.at(0)
}

// UseEpoch has what this handle appends from now on state an epoch that was
// acquired elsewhere, by an earlier life of the process say; 0 for none. An epoch
// that is not the log's shows as ErrFenced when something is appended. What was
// appended before states what it did, also what was not sent yet: see AcquireWriter.
func (l *Log) UseEpoch(epoch uint64) {
	s := l.stream
	s.mu.Lock()
	s.state(l, epoch) // unlocks
}

// began has the handle state an epoch from now on, of a log which is in one that the
// handle had begun. The answers to calls under way together come in any order, and the
// handle goes on in the last epoch that it was told of. REQUIRES: the stream's mu, which
// it releases.
func (l *Log) began(info LogInfo, epoch uint64) {
	s := l.stream
	if l.begun.id == info.ID && l.begun.epoch > info.Epoch {
		s.send(false) // unlocks
		return
	}
	l.begun.id, l.begun.epoch = info.ID, info.Epoch
	s.state(l, epoch) // unlocks
}

// state has what is appended to l from now on state an epoch. What waits goes on to
// state the one that it was appended in: in a later one it would be another append,
// whose caller has not read what the log had when that began. REQUIRES: mu, which it
// releases.
func (s *stream) state(l *Log, epoch uint64) {
	if l.epochs.at(0) != epoch {
		l.epochs, l.joinable = epochs{epoch}, nil
	}
	if l.phase == bound && len(l.queue) == 0 {
		s.offer(l) // here, so that the next append need not wait for it
	}
	s.send(false) // unlocks
}

// epochs are what a batch states, or a binding: that of its log, and of a group's
// those of the others behind it. Nil is 0 for each. They do not change.
type epochs []uint64

func (e epochs) at(seat int) uint64 {
	if seat < len(e) {
		return e[seat]
	}
	return 0
}

func (e epochs) equal(o epochs) bool {
	for seat := range max(len(e), len(o)) {
		if e.at(seat) != o.at(seat) {
			return false
		}
	}
	return true
}

// states returns the epochs of what is sent next. REQUIRES: mu.
func (l *Log) states() epochs {
	if l.sent < len(l.queue) {
		return l.queue[l.sent].epochs
	}
	return l.epochs
}

// restates reports whether l is to be bound anew, for what is sent next. REQUIRES: mu.
func (l *Log) restates() bool {
	return l.phase == bound && l.sent == 0 && (l.rebind || !l.states().equal(l.stated))
}
