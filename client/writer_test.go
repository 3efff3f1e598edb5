package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"

	"github.com/walsvc/walsvc/client"
)

// TestWriter is a failover: one client writes, another one acquires the log, and
// the first finds out. It comes back, and in the end the log is shared again.
func TestWriter(t *testing.T) {
	ctx := t.Context()
	s, one := open(t)
	two, err := client.Open(ctx, s.socket(), client.Options{Producer: ulid.Make()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := two.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	first, second := create(t, one, "log", client.LogOptions{}), two.Log("log")
	mustAppend := func(l *client.Log, want client.LSN) {
		t.Helper()
		if lsn, err := l.Append(ctx, fmt.Appendf(nil, "%d", want)); err != nil || lsn != want {
			t.Fatalf("appended at LSN %d, %v; want %d", lsn, err, want)
		}
	}
	wantFenced := func(l *client.Log, epoch, current uint64, writer string) {
		t.Helper()
		_, err := l.Append(ctx, []byte("late"))
		var e *client.Error
		if !errors.Is(err, client.ErrFenced) || errors.Is(err, client.ErrUnknownOutcome) || !errors.As(err, &e) ||
			e.Metadata["epoch"] != fmt.Sprint(epoch) || e.Metadata["current_epoch"] != fmt.Sprint(current) || e.Metadata["writer"] != writer {
			t.Fatalf("%v, want epoch %d fenced by epoch %d of %q", err, epoch, current, writer)
		}
	}
	// Bound by both before there is a writer: neither connects again.
	mustAppend(first, 1)
	mustAppend(second, 2)
	w, err := first.AcquireWriter(ctx, "db-1")
	if err != nil || w.Log.Epoch != 2 || w.Log.Writer != "db-1" || w.Log.Next != 3 || w.LastSequence != 0 {
		t.Fatalf("%+v, %v", w, err)
	}
	mustAppend(first, 3)
	wantFenced(second, 0, 2, "db-1")

	if _, err := second.AcquireWriter(ctx, "db-2", client.ExpectEpoch(1)); !errors.Is(err, client.ErrFenced) {
		t.Errorf("acquired though the epoch is another: %v", err)
	}
	w, err = second.AcquireWriter(ctx, "db-2", client.ExpectEpoch(2))
	if err != nil || w.Log.Epoch != 3 || w.Log.Next != 4 || w.LastSequence != 1 {
		t.Fatalf("%+v, %v", w, err)
	}
	wantFenced(first, 2, 3, "db-2")
	wantFenced(first, 2, 3, "db-2") // as often as it asks
	mustAppend(second, 4)
	if _, err := first.ReleaseWriter(ctx, 2); !errors.Is(err, client.ErrFenced) {
		t.Errorf("released what another one holds: %v", err)
	}
	// An earlier life of the process had acquired it.
	first.UseEpoch(3)
	mustAppend(first, 5)

	info, err := second.ReleaseWriter(ctx, 3)
	if err != nil || info.Epoch != 4 || info.Writer != "" {
		t.Fatalf("%+v, %v", info, err)
	}
	mustAppend(second, 6)
	wantFenced(first, 3, 4, "")
	first.UseEpoch(0)
	mustAppend(first, 7)
	if _, err := first.AcquireWriter(ctx, "a b"); !errors.Is(err, client.ErrInvalidName) {
		t.Errorf("a holder's name with a space: %v", err)
	}
}

// TestAcquireTwice acquires a log twice at once, and releases it at once with acquiring
// it: the answer to what came first comes last, and the handle states the last epoch.
func TestAcquireTwice(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	create(t, c, "log", client.LogOptions{})
	var held atomic.Pointer[chan struct{}] // whose first answer waits until it is closed
	answered := make(chan struct{})
	hold := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := call(ctx, method, req, reply, conn, opts...)
		if hold := held.Swap(nil); hold != nil {
			answered <- struct{}{}
			<-*hold
		}
		return err
	}
	slow, err := client.Open(ctx, s.socket(), client.Options{Dial: []grpc.DialOption{grpc.WithChainUnaryInterceptor(hold)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := slow.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	l := slow.Log("log")
	acquire := func() error { _, err := l.AcquireWriter(ctx, "db"); return err }
	for i, first := range []func() error{acquire, func() error { _, err := l.ReleaseWriter(ctx, 3); return err }} {
		hold, done := make(chan struct{}), make(chan error, 1)
		held.Store(&hold)
		go func() { done <- first() }()
		<-answered
		if err := acquire(); err != nil {
			t.Fatal(err)
		}
		close(hold)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if lsn, err := l.Append(ctx, []byte("x")); err != nil || lsn != client.LSN(1+i) {
			t.Errorf("LSN %d, %v", lsn, err)
		}
	}
}

// TestAcquireWhileAppending acquires a log again and again while it is appended
// to: every append lands once, or is fenced and nowhere.
func TestAcquireWhileAppending(t *testing.T) {
	ctx := t.Context()
	_, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	landed := map[client.LSN]string{}
	for round := range uint64(20) {
		var futures []*client.Future
		for i := range 50 {
			futures = append(futures, l.AppendAsync(ctx, fmt.Appendf(nil, "%d/%d", round, i)))
		}
		if round%2 == 1 { // else it may come before all of them, as often as it does
			if _, err := futures[0].Wait(ctx); err != nil {
				t.Fatal(err)
			}
		}
		w, err := l.AcquireWriter(ctx, "db")
		if err != nil || w.Log.Epoch != 2+round {
			t.Fatalf("%+v, %v", w, err)
		}
		for i, f := range futures {
			switch r, err := f.Wait(ctx); {
			case err == nil && landed[r.LSN] == "":
				landed[r.LSN] = fmt.Sprintf("%d/%d", round, i)
			case err == nil:
				t.Fatalf("LSN %d is told twice", r.LSN)
			case !errors.Is(err, client.ErrFenced) || errors.Is(err, client.ErrUnknownOutcome):
				t.Fatal(err)
			}
		}
	}
	if len(landed) == 0 {
		t.Error("nothing landed")
	}
	for r, err := range l.Replay(ctx, client.ReplayOptions{From: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		if landed[r.LSN] != string(r.Data) {
			t.Errorf("LSN %d is %q, told was %q", r.LSN, r.Data, landed[r.LSN])
		}
		delete(landed, r.LSN)
	}
	if len(landed) > 0 {
		t.Errorf("told, and not there: %v", landed)
	}
}

// TestFencedCheckpoint: what a handle acquired, its checkpoints and its waits for
// durable LSNs state too. The old engine is slow: it begins a checkpoint, and its
// successor has appended as far by the time it completes it.
func TestFencedCheckpoint(t *testing.T) {
	ctx := t.Context()
	s, one := open(t)
	two, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := two.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	old, successor := create(t, one, "log", client.LogOptions{}), two.Log("log")
	if _, err := old.AcquireWriter(ctx, "db-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Append(ctx, []byte("1")); err != nil {
		t.Fatal(err)
	}
	begun, err := old.BeginCheckpoint(ctx, "engine", 1)
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	go func() {
		var err error
		for _, err = range old.WatchDurable(ctx, 1) {
		}
		watched <- err
	}()
	if _, err := successor.AcquireWriter(ctx, "db-2"); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; !errors.Is(err, client.ErrFenced) {
		t.Errorf("watched: %v", err) // it has appended nothing since
	}
	for range 3 {
		if _, err := successor.Append(ctx, []byte("the successor's")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := begun.Complete(ctx, nil); !errors.Is(err, client.ErrFenced) {
		t.Errorf("completed what was begun before: %v", err)
	}
	if _, err := successor.SetCheckpoint(ctx, "engine", 2, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := old.BeginCheckpoint(ctx, "engine", 1); !errors.Is(err, client.ErrFenced) {
		t.Errorf("begun below its successor's: %v", err) // not that it is below
	}
	if _, err := old.BeginCheckpoint(ctx, "engine", 3); !errors.Is(err, client.ErrFenced) {
		t.Errorf("begun at an LSN of the successor's: %v", err)
	}
	if _, err := old.SetCheckpoint(ctx, "engine", 3, nil); !errors.Is(err, client.ErrFenced) {
		t.Errorf("set: %v", err)
	}
	if _, err := old.WaitDurable(ctx, 3); !errors.Is(err, client.ErrFenced) {
		t.Errorf("waited: %v", err)
	}
	if _, err := old.AcquireWriter(ctx, "db-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := begun.Complete(ctx, nil); !errors.Is(err, client.ErrFenced) {
		t.Errorf("acquired again, completed what was begun before: %v", err)
	}
	if _, err := old.SetCheckpoint(ctx, "engine", 3, nil); err != nil {
		t.Error(err)
	}
}
