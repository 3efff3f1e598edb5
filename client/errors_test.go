package client

import (
	"context"
	"errors"
	"io"
	"math"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestReasons(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range reasons {
		if seen[r.name] || r.err == nil || r.hint == "" {
			t.Errorf("row %+v", r)
		}
		seen[r.name] = true
		err := called(failure(codes.Aborted, r.name, "text"), "do %q", "x")
		var e *Error
		if !errors.Is(err, r.err) || !errors.As(err, &e) || e.Reason != r.name || e.Hint() != r.hint || e.Code != codes.Aborted {
			t.Errorf("%s: %#v", r.name, err)
		}
		if want := `do "x": text (` + r.name + `)`; err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
}

// TestTheTableSaysWhatIsRepeated has a service answer once with each reason of
// its table, to an append and to opening the log for it: the caller hears of it
// unless the table says that the client repeats that.
func TestTheTableSaysWhatIsRepeated(t *testing.T) {
	for _, row := range server.Table {
		refused := func(arrange func(f *fake)) bool {
			f := newFake()
			f.log("orders")
			arrange(f)
			c := f.serve(t, Options{})
			_, err := c.Log("orders").Append(t.Context(), []byte("a"))
			if err != nil && !errors.Is(err, byReason(row.Reason).err) {
				t.Errorf("%s: the caller hears %v", row.Reason, err)
			}
			return err != nil
		}
		batches, opens := 0, 0
		sent := refused(func(f *fake) {
			f.onBatch = func(string, *wire.Batch) *walsvcv1.Refusal {
				if batches++; batches == 1 {
					return refusal(row.Code, row.Reason)
				}
				return nil
			}
		})
		open := refused(func(f *fake) {
			f.onOpen = func() error {
				if opens++; opens == 1 {
					return failure(row.Code, row.Reason, "not opened by the test")
				}
				return nil
			}
		})
		if repeats := !sent || !open; repeats != (row.Retried != "") {
			t.Errorf("%s: the client repeats an append %v, opening a log %v; the table says it repeats %q", row.Reason, !sent, !open, row.Retried)
		}
	}
}

func TestErrorsOfTheTransport(t *testing.T) {
	tests := []struct {
		err       error
		is        error
		retryable bool
	}{
		{status.Error(codes.Unavailable, "gone"), ErrUnavailable, true},
		{failure(codes.Unavailable, "DRAINING", "stopping"), ErrUnavailable, true},
		{failure(codes.FailedPrecondition, "POISONED", "poisoned"), ErrPoisoned, false},
		{failure(codes.Internal, "OUTCOME_UNKNOWN", "poisoned"), ErrUnknownOutcome, false},
		{failure(codes.Internal, "OF_A_NEWER_SERVICE", "new"), nil, false},
		{status.Error(codes.Internal, "stream terminated by RST_STREAM"), nil, true},
		{status.Error(codes.PermissionDenied, "no"), nil, false},
		{status.Error(codes.ResourceExhausted, "message too large"), nil, false},
		{context.DeadlineExceeded, context.DeadlineExceeded, true},
		{io.EOF, nil, true},
	}
	for _, tt := range tests {
		e := fromStatus(tt.err)
		if tt.is != nil && !errors.Is(e, tt.is) || e.retryable() != tt.retryable {
			t.Errorf("%v: %#v, retryable %v", tt.err, e, e.retryable())
		}
	}
	if called(nil, "do") != nil {
		t.Error("no error became one")
	}
}

// What somebody reads who started no service, or named another one's address.
func TestNobodyAnswersInFewWords(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "s")
	_, err := Open(t.Context(), missing, Options{})
	var e *Error
	if !errors.As(err, &e) || e.Message != "dial unix "+missing+": connect: no such file or directory" || e.Hint() == "" {
		t.Errorf("%v; hint %q", err, e.Hint())
	}
	// What a service says is left as it is.
	for _, text := range []string{"stopping: desc = \"x\"", "gone"} {
		if e := fromStatus(failure(codes.Unavailable, "DRAINING", text)); e.Message != text {
			t.Errorf("%q became %q", text, e.Message)
		}
	}
	if e := fromStatus(status.Error(codes.Unavailable, "gone")); e.Message != "gone" {
		t.Errorf("%q", e.Message)
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{first: firstBackoff}
		took := func() time.Duration {
			start := time.Now()
			if err := b.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			return time.Since(start)
		}
		want := firstBackoff
		for range 40 {
			if got := took(); got < want/2 || got > want {
				t.Fatalf("waited %v, want between half of %v and all", got, want)
			}
			want = min(2*want, lastBackoff)
		}
		b.reset()
		if got := took(); got > firstBackoff {
			t.Fatalf("waited %v after a success", got)
		}
		b = backoff{first: math.MaxInt64} // as a service may ask for
		for range 3 {
			if got := took(); got < lastBackoff/2 || got > lastBackoff {
				t.Fatalf("waited %v, want between half of %v and all", got, lastBackoff)
			}
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, io.EOF)
		defer cancel()
		if err := b.wait(ctx); err != io.EOF {
			t.Fatalf("got %v, want the context's cause", err)
		}
	})
}

// TestWaitTurn: a call that was refused because there were too many is made again, as
// late as the service asks for, and no other one is.
func TestWaitTurn(t *testing.T) {
	const after = 5 * firstBackoff
	s, err := status.New(codes.ResourceExhausted, "text").WithDetails(
		&errdetails.ErrorInfo{Reason: "RATE_LIMITED", Domain: "walsvc"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		t.Fatal(err)
	}
	limited := s.Err()
	for _, c := range []struct {
		name    string
		answers []error // the last one for ever
		calls   int
		want    error
	}{
		{"taken at once", []error{nil}, 1, nil},
		{"taken at last", []error{limited, limited, limited, nil}, 4, nil},
		{"refused for another reason", []error{limited, failure(codes.ResourceExhausted, "FULL", "text")}, 2, ErrFull},
		{"never taken", []error{limited}, limitedTries, ErrRateLimited},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls, last := 0, time.Now()
			err := waitTurn(t.Context(), "/m", nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				if calls > 0 && time.Since(last) < min(after<<(calls-1), lastBackoff)/2 {
					t.Errorf("%s: call %d after %v", c.name, calls+1, time.Since(last))
				}
				last = time.Now()
				calls++
				return c.answers[min(calls, len(c.answers))-1]
			})
			if calls != c.calls || c.want == nil && err != nil || c.want != nil && !errors.Is(called(err, "call"), c.want) {
				t.Errorf("%s: %v after %d calls", c.name, err, calls)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), firstBackoff/4)
		defer cancel()
		err := waitTurn(ctx, "/m", nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return limited })
		if !errors.Is(called(err, "call"), ErrRateLimited) {
			t.Errorf("when the caller gives up: %v", err)
		}
	})
}
