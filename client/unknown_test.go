package client

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// at returns the first record of what a producer appended under a sequence, as Resolve
// would say where it is; "" if that is nowhere.
func (f *fake) at(u *UnknownError) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.logs {
		if p := l.producers[u.Producer.String()]; p != nil && p.was[u.Sequence].First != 0 {
			return string(l.records[p.was[u.Sequence].First-l.first])
		}
	}
	return ""
}

// TestRefusedBeforeItIsKnown: what was sent on a stream that broke may have landed there,
// and a refusal that comes before that is looked for says nothing of it.
func TestRefusedBeforeItIsKnown(t *testing.T) {
	for _, reason := range []string{"SUPERSEDED", "NO_PRODUCER", "LOG_NOT_FOUND"} {
		t.Run(reason, func(t *testing.T) {
			f := newFake()
			f.log("orders")
			f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
				if stream == 1 && len(m.Batches) > 0 {
					return lostAfter
				}
				return served
			}
			refused := 0
			f.onVerdict = func(v *wire.Verdict) {
				if v.Repeated {
					refused++
					*v = wire.Verdict{Binding: v.Binding, Sequence: v.Sequence, Refusal: refusal(codes.FailedPrecondition, reason)}
				}
			}
			l := f.serve(t, Options{}).Log("orders")
			_, err := l.Append(t.Context(), []byte("landed"))
			var u *UnknownError
			if !errors.As(err, &u) || !errors.Is(err, byReason(reason).err) {
				t.Fatalf("got %v, want that its outcome is unknown, and why", err)
			}
			if got := f.at(u); got != "landed" || refused != 1 {
				t.Errorf("who asks for it is told of %q; refused %d times", got, refused)
			}
			if lsn, err := l.Append(t.Context(), []byte("later")); err != nil || lsn != 2 {
				t.Errorf("the log goes on: %d, %v", lsn, err)
			}
		})
	}
	// On the stream that it was sent on first, it says all there is.
	f := newFake()
	f.log("orders")
	f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal { return refusal(codes.FailedPrecondition, "SUPERSEDED") }
	if _, err := f.serve(t, Options{}).Log("orders").Append(t.Context(), nil); !errors.Is(err, ErrSuperseded) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("got %v, want that it was refused", err)
	}
}
