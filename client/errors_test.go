package client

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, io.EOF)
		defer cancel()
		if err := b.wait(ctx); err != io.EOF {
			t.Fatalf("got %v, want the context's cause", err)
		}
	})
}
