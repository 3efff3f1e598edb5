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
// with ErrFenced, whoever sent it and wherever it waits.
// Appends of this handle that are under way meanwhile land or are fenced; wait for
// them first. It asks no clock: whoever was the writer before may be alive, and
// finds out when it appends.
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
	l.UseEpoch(info.Epoch)
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
	l.UseEpoch(0)
	return logInfo(resp.GetLog())
}

// stated returns the epoch that the handle acquired; 0 if it is not the writer's.
func (l *Log) stated() uint64 {
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	return l.epoch
}

// UseEpoch has what this handle appends from now on state an epoch that was
// acquired elsewhere, by an earlier life of the process say; 0 for none. An epoch
// that is not the log's shows as ErrFenced when something is appended.
func (l *Log) UseEpoch(epoch uint64) {
	s := l.stream
	s.mu.Lock()
	if l.epoch == epoch {
		s.mu.Unlock()
		return
	}
	l.epoch = epoch
	s.rebind(l) // unlocks
}

// rebind has l bound anew, as it is now. REQUIRES: mu, which it releases.
func (s *stream) rebind(l *Log) {
	switch {
	case s.raw == nil || l.phase == unopened || l.phase == opening || l.phase == lost || l.phase == opened && l.binding == 0:
		// It will be bound as it is.
	case l.phase == bound && len(l.queue) == 0:
		l.phase, l.binding = opened, 0
		s.binds = append(s.binds, l)
	default:
		// Batches are out, or the answer to a bind: what becomes of them is asked
		// again on another stream.
		s.end()
	}
	s.send(false) // unlocks
}
