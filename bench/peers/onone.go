package main

import (
	"context"
	"runtime"
)

// onOne is a subject whose callers run on one processor (GOMAXPROCS), as a program
// would be set that does little but append. Where client and server share two, a
// client on both wakes threads that the server's displace. For servers alone: a
// library works in the callers' process, and would have half of the machine. The
// subject may be an entry by itself, too: they have their turns one after the other.
type onOne struct {
	subject
	processors int // before
}

func (s *onOne) about() about {
	a := s.subject.about()
	a.Name += ", client on one processor"
	a.How = "GOMAXPROCS=1 for its callers; otherwise " + a.How
	return a
}

func (s *onOne) start(ctx context.Context, dir string, keep bool) error {
	s.processors = runtime.GOMAXPROCS(1)
	return s.subject.start(ctx, dir, keep)
}

func (s *onOne) warm(ctx context.Context) error {
	if w, ok := s.subject.(warmer); ok {
		return w.warm(ctx)
	}
	return nil
}

func (s *onOne) stop(ctx context.Context) error {
	runtime.GOMAXPROCS(s.processors)
	return s.subject.stop(ctx)
}
