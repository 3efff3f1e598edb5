package client

import (
	"runtime"
	"time"
)

// gather sends, after those have been told whose appends have just landed. What is small
// waits for them first, if that has been measured to carry more: see package
// gather. It lets others run instead of setting a timer, which would be late by
// more than an acknowledgement takes. told is how many of them may be about to
// append again. REQUIRES: mu, which it releases; holding.
func (s *stream) gather(told int) {
	g := &s.gathering
	if g.acked {
		now := time.Now()
		g.policy.Landed(told, s.unsentRecords(), now.Sub(g.sent).Nanoseconds(), now.Sub(g.landed).Nanoseconds())
		g.acked, g.landed = false, now
		if s.mayWait() && g.policy.Begin(0, s.unsentRecords()) {
			for more := true; more && s.mayWait(); more = g.policy.Look(time.Since(now).Nanoseconds(), s.unsentRecords()) {
				s.mu.Unlock()
				runtime.Gosched()
				s.mu.Lock()
			}
		}
	}
	s.holding = false
	s.send(false)
}

// mayWait reports that what is unsent makes a small message, which no other one
// holds back. REQUIRES: mu.
func (s *stream) mayWait() bool { return s.raw != nil && s.out.small == 0 && s.unsent < fullMessage }

// unsentRecords returns how many records wait to be sent. REQUIRES: mu.
func (s *stream) unsentRecords() int { return s.pending.records - s.out.records }
