package wal

import "context"

// SealLog ends a log, durably and for good: what was sequenced before lands as usual
// and lies below the Next that is returned, and nothing is appended behind it, by
// nobody. Whatever is under way is refused with a *SealedError from then on, a
// repeat alone is answered as it was. Readers, followers and those who wait for its
// durable LSN come to an end there; checkpoints, cursors, truncating and deleting go
// on. Space comes back as of any log: by truncating, by checkpoints and by deleting.
//
//	somebody                volume                       who seals
//	7 ────────────────────► 7 gets LSN 40
//	                        sealed, Next 41 ◄─────────── seal
//	8 ────────────────────► SEALED, when the seal is durable
//	  ◄─────────── 7 at 40  one frame, or 7 in an earlier one
//	                        the seal is durable ───────► Next 41
//
// expected, unless nil, must be the log's epoch: else somebody began a newer one
// meanwhile. A sealed log stays as it is and is returned, whatever epoch is expected,
// so that it may be asked again. It returns ErrLogNotFound, a *FencedError if
// expected is not the log's epoch, or ErrFull.
func (v *Volume) SealLog(ctx context.Context, name string, expected *Epoch) (LogInfo, error) {
	var info LogInfo
	// On a full disk, too: who seals adds nothing, and may be about to make room.
	err := v.do(ctx, maxSmallCommand, forRoom, func(s *State) (*Command, []byte, error) {
		l := s.named(name)
		switch {
		case l == nil:
			return nil, nil, notFound(name)
		case l.sealed != 0:
			info = l.info()
			return nil, nil, nil
		case expected != nil && *expected != l.epoch:
			return nil, nil, l.fenced(*expected)
		}
		at := max(1, v.clock.now())
		info = l.info()
		info.Sealed = timeOf(at)
		v.rates.forget(l.number)
		return &Command{
			Kind: CommandSealLog, Log: l.number, Epoch: l.epoch, First: l.next, Checksum: l.checksum, Start: l.totalBytes, Time: at,
		}, nil, nil
	})
	if err != nil {
		return LogInfo{}, err
	}
	return info, nil
}

// closed returns why what states an epoch, 0 for none, may not append: a
// *SealedError or a *FencedError. The seal comes first: it is everybody's and for
// good, where a fenced writer might acquire the log's writer once more, in vain.
func (l *logState) closed(epoch Epoch) error {
	if l.sealed != 0 {
		return l.sealedError()
	}
	return l.fences(epoch)
}

func (l *logState) sealedError() *SealedError {
	return &SealedError{Log: l.name, Next: l.next, Sealed: timeOf(l.sealed)}
}
