package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/client"
)

// TestResolve has the wait for an append end, and asks what became of it; the
// handle goes on, as the same producer, and what is not written is written once.
func TestResolve(t *testing.T) {
	ctx := t.Context()
	_, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	if _, err := l.Append(ctx, []byte("1")); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(ctx)
	f := l.AppendAsync(ctx, []byte("2"))
	cancel()
	var u *client.UnknownError
	for r, err := f.Wait(over); !errors.As(err, &u); r, err = f.Wait(over) {
		if err != nil {
			t.Fatal(err)
		}
		// It was quicker.
		if f = l.AppendAsync(ctx, []byte("2")); r.LSN > 1000 {
			t.Fatal("it always is")
		}
	}
	if !errors.Is(u, client.ErrUnknownOutcome) || !errors.Is(u, context.Canceled) {
		t.Errorf("%v", u)
	}
	r, err := f.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if u.Sequence == 0 { // it was not sent by then
		u.Sequence = uint64(r.LSN)
	}
	got, err := l.Resolve(ctx, u)
	if err != nil || got.Outcome != client.Committed || got.Receipt.LSN != r.LSN || got.Receipt.Count != 1 || got.Receipt.Claim() != r.Claim() || got.LastSequence != u.Sequence {
		t.Fatalf("%+v, %v; it is %+v", got, err, r)
	}
	u.Sequence++
	if got, err := l.Resolve(ctx, u); err != nil || got.Outcome != client.NotWritten || got.Receipt.LSN != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	after, err := l.Append(ctx, []byte("3"))
	if err != nil || after != r.LSN+1 {
		t.Fatalf("the handle goes on: %d, %v", after, err)
	}
	if got, err := l.Resolve(ctx, u); err != nil || got.Outcome != client.Committed || got.Receipt.LSN != after {
		t.Errorf("as the same producer: %+v, %v", got, err)
	}
	u.Sequence++
	if _, err := l.AcquireWriter(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Resolve(ctx, u); err != nil || got.Outcome != client.Fenced || got.Log.Writer != "db" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := l.Resolve(ctx, &client.UnknownError{Producer: ulid.Make(), Sequence: 1}); !errors.Is(err, client.ErrNoProducer) {
		t.Errorf("a producer that is not open: %v", err)
	} else if e, ok := errors.AsType[*client.Error](err); !ok || !strings.Contains(e.Hint(), "only the log itself tells") {
		t.Errorf("whoever does not know what landed is told %q", e.Hint()) // "append again" alone would double it
	}
	if _, err := l.Resolve(ctx, &client.UnknownError{Producer: u.Producer}); !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "wait for its Future") {
		t.Errorf("sequence 0: %v", err)
	}
}

func TestRetireProducer(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	create(t, c, "log", client.LogOptions{})
	id := ulid.Make()
	if err := c.Log("log").RetireProducer(ctx, id); !errors.Is(err, client.ErrNoProducer) {
		t.Errorf("not open: %v", err)
	}
	mine, err := client.Open(ctx, s.socket(), client.Options{Producer: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mine.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	l := mine.Log("log")
	if _, err := l.Append(ctx, []byte("1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Log("log").RetireProducer(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(ctx, []byte("2")); !errors.Is(err, client.ErrRetired) || errors.Is(err, client.ErrUnknownOutcome) {
		t.Errorf("retired: %v", err)
	}
	// As another one.
	if lsn, err := l.Append(ctx, []byte("2")); err != nil || lsn != 2 {
		t.Errorf("LSN %d, %v", lsn, err)
	}
	again, err := client.Open(ctx, s.socket(), client.Options{Producer: id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Log("log").Append(ctx, []byte("3")); !errors.Is(err, client.ErrRetired) {
		t.Errorf("a process that was given a retired one: %v", err)
	}
	if err := again.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestRetiredBeforeItIsOpened retires the producer of a handle that is about to open it
// again: who appends is told once, and then goes on as another one.
func TestRetiredBeforeItIsOpened(t *testing.T) {
	ctx := t.Context()
	_, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	if _, err := l.Append(ctx, []byte("1")); err != nil {
		t.Fatal(err)
	}
	id, last := l.Acknowledged()
	if _, err := l.Resolve(ctx, &client.UnknownError{Producer: id, Sequence: last}); err != nil {
		t.Fatal(err)
	}
	if err := l.RetireProducer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, []byte("2")); !errors.Is(err, client.ErrRetired) {
		t.Errorf("retired: %v", err)
	}
	if lsn, err := l.Append(ctx, []byte("2")); err != nil || lsn != 2 {
		t.Errorf("LSN %d, %v", lsn, err)
	}
}
