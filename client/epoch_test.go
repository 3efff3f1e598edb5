package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
)

// TestEpochGoesWithTheAppend has another epoch begin on a handle while an append of it
// is out, and others wait: what was appended before goes on to state the epoch that it
// was appended in, also when it is sent for the first time afterwards, or once more. So
// it landed or is fenced, and nothing of it comes into the epoch that its caller did not
// know. With groups it is so for each log.
func TestEpochGoesWithTheAppend(t *testing.T) {
	for _, grouped := range []bool{false, true} {
		for name, tc := range map[string]struct {
			fate   fate
			landed bool
		}{
			"the stream goes on":     {served, true},
			"the verdict is lost":    {lostAfter, true},
			"it does not come there": {lostBefore, false},
		} {
			t.Run(fmt.Sprintf("%s, grouped %v", name, grouped), func(t *testing.T) {
				f := newFake()
				log, last := f.log("log"), f.log("last")
				last.epoch = 2
				acquired, out := make(chan struct{}), make(chan struct{})
				f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
					select {
					case <-out: // what the first message had is settled, whatever it was
						f.mu.Lock()
						defer f.mu.Unlock()
						last.epoch = 3
						return served
					default:
					}
					if len(m.Batches) == 0 {
						return served
					}
					close(out)
					<-acquired
					return tc.fate
				}
				c := f.serve(t, Options{})
				handle := c.Log("last")
				handle.UseEpoch(2)
				g := newGroup(t, c, "log", "last")
				add := func(record string) (wait func() error) {
					if grouped {
						future := g.AppendAsync(t.Context(), one(record), one(record))
						return func() error { _, err := future.Wait(t.Context()); return err }
					}
					future := handle.AppendAsync(t.Context(), []byte(record))
					return func() error { _, err := future.Wait(t.Context()); return err }
				}
				sent := add("out")
				<-out
				waiting := add("waits")
				handle.UseEpoch(3)
				later := add("of the new epoch")
				close(acquired)

				if err := sent(); tc.landed && err != nil || !tc.landed && !errors.Is(err, ErrFenced) {
					t.Errorf("what was out: %v", err)
				}
				if err := waiting(); !errors.Is(err, ErrFenced) || errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("what waited: %v", err)
				}
				if err := later(); err != nil {
					t.Errorf("what was appended later: %v", err)
				}
				want := []string{"of the new epoch"}
				if tc.landed {
					want = []string{"out", "of the new epoch"}
				}
				if got := f.contents("last"); !slices.Equal(got, want) {
					t.Errorf("the log has %q, want %q", got, want)
				}
				if grouped && len(log.records) != len(want) {
					t.Errorf("the lead has %q", f.contents("log"))
				}
			})
		}
	}
}

// TestBindingsRunOut binds a log anew on a stream that has had as many bindings as it may
// have: the next stream begins with the numbers anew, and what is out is sent again.
func TestBindingsRunOut(t *testing.T) {
	f := newFake()
	f.log("log")
	f.log("other")
	c := f.serve(t, Options{})
	for i, name := range []string{"log", "log", "other"} {
		l := c.Log(name)
		s := l.stream
		if i > 0 {
			s.mu.Lock()
			for len(s.bindings) < limits.MaxBindingsPerStream {
				s.bindings = append(s.bindings, c.Log("log"))
			}
			s.mu.Unlock()
		}
		l.UseEpoch(uint64(i))
		if _, err := l.Append(t.Context(), []byte(record(i, 0))); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.binds {
		if b.GetBinding() > limits.MaxBindingsPerStream {
			t.Errorf("bound as number %d", b.GetBinding())
		}
	}
	if f.streams != 3 {
		t.Errorf("%d streams", f.streams)
	}
}
