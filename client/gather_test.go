package client

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/wire"
)

// TestToldShareTheNextMessage: callers that each wait for their own append go
// together, on a service that takes its time, instead of in two halves with a
// message each.
func TestToldShareTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, each = 16, 200
		f := newFake()
		f.log("orders")
		messages := 0
		f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
			if len(m.Batches) > 0 {
				messages++
				time.Sleep(time.Millisecond) // the disk, on the bubble's clock
			}
			return served
		}
		l := f.serve(t, Options{}).Log("orders")
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range each {
					if _, err := l.Append(t.Context(), []byte("record")); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		// Turns without waiting among them, in which they go as they come.
		if got := float64(callers*each) / float64(messages); got < 0.75*callers {
			t.Errorf("%.1f callers in a message, want nearly all %d", got, callers)
		}
	})
}
