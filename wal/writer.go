package wal

import (
	"context"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// An Acquire says who asks for a log's writer.
type Acquire struct {
	// Holder names who asks, for people and for those it fences: 1 to
	// limits.MaxHolderNameBytes bytes, spelled like the name of a log. It proves
	// nothing: two processes may have the same.
	Holder string
	// Expected, unless nil, must be the log's epoch: else somebody acquired it
	// meanwhile, and the answer is ErrFenced.
	Expected *Epoch
	// Request, unless zero, names this request and no other. While the writer that
	// it acquired is the log's, asking again is answered with that writer's epoch.
	// Without one, asking again begins one more epoch.
	Request ulid.ULID
	// Producer, unless zero, is the one whose last sequence is wanted.
	Producer ulid.ULID
}

// AcquireWriter makes a.Holder the writer of a log: a new epoch begins, which is
// durable before anybody is told of it. What was sequenced before lands as usual,
// below the next LSN of the answer. Whatever states an older epoch, or none, is
// refused with a *FencedError from then on, also what waits on a running stream.
//
//	old writer            volume                        new writer
//	7 ──────────────────► 7 gets LSN 40
//	                      epoch 3 begins ◄───────────── acquire
//	8 ──────────────────► FENCED, when epoch 3 is durable
//	  ◄────────── 7 at 40 one frame, or 7 in an earlier one
//	                      epoch 3 is durable ─────────► epoch 3, next LSN 41
//
// It asks no clock and waits for nobody: the old writer may be alive, and finds
// out when it appends. It returns ErrLogNotFound, ErrInvalidName, a *SealedError, a
// *FencedError if a.Expected is not the log's epoch, or ErrFull.
func (v *Volume) AcquireWriter(ctx context.Context, log string, a Acquire) (Writer, error) {
	if !validName(a.Holder, limits.MaxHolderNameBytes) {
		return Writer{}, invalidName("holder", a.Holder, limits.MaxHolderNameBytes)
	}
	var w Writer
	// On a full disk, too: an engine that recovers acquires before it makes room.
	err := v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		w = Writer{Log: l.info()}
		if slot := l.slot(a.Producer); slot != 0 {
			w.LastSequence = l.producers[slot-1].last
		}
		if a.Request != (ulid.ULID{}) && l.holder != "" && l.acquired == a.Request {
			w.Repeated = true
			return nil, nil, nil
		}
		if l.sealed != 0 {
			return nil, nil, l.sealedError()
		}
		if a.Expected != nil && *a.Expected != l.epoch {
			return nil, nil, l.fenced(*a.Expected)
		}
		w.Log.Epoch, w.Log.Holder = l.epoch+1, a.Holder
		return &Command{Kind: CommandSetWriter, Log: l.number, Epoch: l.epoch + 1, Name: a.Holder, ID: a.Request}, nil, nil
	})
	if err != nil {
		return Writer{}, err
	}
	return w, nil
}

// ReleaseWriter ends the writer of an epoch, durably, and returns the log: one
// more epoch begins, without a writer, in which everybody may append who states no
// other. What the writer still has under way is refused with a *FencedError. A log
// that has no writer stays as it is, so that it may be asked again, and so does one
// that is sealed, in which no epoch begins. It returns ErrLogNotFound, a *FencedError if the writer is that of another epoch, or ErrFull.
func (v *Volume) ReleaseWriter(ctx context.Context, log string, epoch Epoch) (LogInfo, error) {
	var info LogInfo
	err := v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
		l := s.named(log)
		if l == nil {
			return nil, nil, notFound(log)
		}
		info = l.info()
		switch {
		case l.holder == "":
			return nil, nil, nil
		case epoch != l.epoch:
			return nil, nil, l.fenced(epoch)
		case l.sealed != 0:
			return nil, nil, nil
		}
		info.Epoch, info.Holder = l.epoch+1, ""
		return &Command{Kind: CommandSetWriter, Log: l.number, Epoch: l.epoch + 1}, nil, nil
	})
	if err != nil {
		return LogInfo{}, err
	}
	return info, nil
}

// fences returns a *FencedError if what states an epoch, 0 for none, may not
// append. Nobody may append without one to a log that has a writer: who does not
// know of the writer has not read what it wrote.
func (l *logState) fences(epoch Epoch) error {
	if epoch == l.epoch || epoch == 0 && l.holder == "" {
		return nil
	}
	return l.fenced(epoch)
}

func (l *logState) fenced(epoch Epoch) *FencedError {
	return &FencedError{Log: l.name, Epoch: epoch, Current: l.epoch, Holder: l.holder}
}
