package client

import (
	"errors"
	"testing"

	"github.com/oklog/ulid/v2"
)

// TestResumeProducer has a process keep its producer over a restart, and what that one
// was acknowledged: it goes on where it was, and a log that has forgotten it says so
// before anything lands, which it would not to who states the producer alone.
func TestResumeProducer(t *testing.T) {
	for _, tc := range []struct {
		name              string
		forgotten, stated bool
	}{
		{"remembered", false, true}, {"forgotten", true, true}, {"forgotten, and nothing was stated", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake()
			f.log("orders")
			life := func() *Log { return f.serve(t, Options{Producer: ulid.ULID{1}}).Log("orders") }
			l := life()
			if id, last := l.Acknowledged(); id != (ulid.ULID{}) || last != 0 {
				t.Errorf("before the first append: %s, %d", id, last)
			}
			for range 3 {
				if _, err := l.Append(t.Context(), []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			id, last := l.Acknowledged()
			if id != (ulid.ULID{1}) || last != 3 {
				t.Fatalf("acknowledged: %s, %d", id, last)
			}
			if err := l.ResumeProducer(id, last); !errors.Is(err, ErrInvalid) {
				t.Errorf("behind an append: %v", err)
			}
			if tc.forgotten {
				f.mu.Lock()
				f.logs["orders"].producers = make(map[string]*fakeProducer) // it made way for very many
				f.mu.Unlock()
			}

			f.server.Stop()
			l = life()
			if err := l.ResumeProducer(id, 0); !errors.Is(err, ErrInvalid) {
				t.Errorf("with nothing acknowledged: %v", err)
			}
			if tc.stated {
				if err := l.ResumeProducer(id, last); err != nil {
					t.Fatal(err)
				}
			}
			lsn, err := l.Append(t.Context(), []byte("y"))
			if !tc.forgotten || !tc.stated {
				if err != nil || lsn != 4 {
					t.Fatalf("LSN %d, %v", lsn, err)
				}
				if got, now := l.Acknowledged(); got != id || now != 4 && tc.stated {
					t.Errorf("going on as %s, at %d", got, now)
				}
				return
			}
			if !errors.Is(err, ErrForgotten) || errors.Is(err, ErrUnknownOutcome) || len(f.contents("orders")) != 3 {
				t.Errorf("LSN %d, %v; want that it is forgotten", lsn, err)
			}
			if lsn, err := l.Append(t.Context(), []byte("y")); err != nil || lsn != 4 {
				t.Errorf("as another one: LSN %d, %v", lsn, err)
			}
			if got, now := l.Acknowledged(); got == id || now != 1 {
				t.Errorf("another one is %s, at %d", got, now)
			}
		})
	}
}
