package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/walsvc/walsvc/client"
)

// recovered returns what Recover yields, a line for each.
func recovered(t *testing.T, l *client.Log) (lines []string) {
	t.Helper()
	cp, behind, err := l.Recover(t.Context(), "engine")
	if err != nil {
		t.Fatal(err)
	}
	lines = []string{fmt.Sprintf("LSN %d, state %q", cp.LSN, cp.State)}
	for record, err := range behind {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%d %s", record.LSN, record.Data))
	}
	return lines
}

func TestRecover(t *testing.T) {
	_, c := open(t)
	if _, _, err := c.CreateLog(t.Context(), "orders", client.LogOptions{}); err != nil {
		t.Fatal(err)
	}
	l := c.Log("orders")
	want := func(lines ...string) {
		t.Helper()
		if got := recovered(t, l); !slices.Equal(got, lines) {
			t.Errorf("recovered %q, want %q", got, lines)
		}
	}
	want(`LSN 0, state ""`)
	for _, record := range []string{"a", "b", "c"} {
		if _, err := l.Append(t.Context(), []byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	want(`LSN 0, state ""`, "1 a", "2 b", "3 c")

	first, err := l.BeginCheckpoint(t.Context(), "engine", 2)
	if err != nil || first.LSN() != 2 {
		t.Fatal(first, err)
	}
	want(`LSN 0, state ""`, "1 a", "2 b", "3 c") // begun, not complete
	second, err := l.BeginCheckpoint(t.Context(), "engine", 3)
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := first.Complete(t.Context(), []byte("pages 2")); err != nil || cp.LSN != 2 || cp.Version != 1 {
		t.Fatal(cp, err)
	}
	want(`LSN 2, state "pages 2"`, "3 c")
	if cp, err := first.Complete(t.Context(), []byte("pages 2")); err != nil || cp.Version != 1 {
		t.Errorf("completed again: %+v, %v", cp, err)
	}
	if _, err := first.Complete(t.Context(), []byte("other pages")); !errors.Is(err, client.ErrCheckpointConflict) {
		t.Errorf("completed again with another state: %v", err)
	}
	if _, err := second.Complete(t.Context(), []byte("pages 3")); !errors.Is(err, client.ErrCheckpointConflict) {
		t.Errorf("completed although another one was meanwhile: %v", err)
	}
	if _, err := l.BeginCheckpoint(t.Context(), "engine", 1); !errors.Is(err, client.ErrCheckpointBackwards) {
		t.Errorf("begun below the checkpoint: %v", err)
	}
	want(`LSN 2, state "pages 2"`, "3 c")

	// What was set and deleted since is not set again, by whoever asks: there was none
	// either when these were begun.
	if err := l.DeleteCheckpoint(t.Context(), "engine"); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Complete(t.Context(), []byte("pages 2")); !errors.Is(err, client.ErrCheckpointConflict) {
		t.Errorf("completed again, and it was deleted since: %v", err)
	}
	if _, err := second.Complete(t.Context(), []byte("pages 3")); !errors.Is(err, client.ErrCheckpointConflict) {
		t.Errorf("completed although another one was meanwhile, and deleted: %v", err)
	}
	want(`LSN 0, state ""`, "1 a", "2 b", "3 c")
	third, err := l.BeginCheckpoint(t.Context(), "engine", 1)
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := third.Complete(t.Context(), nil); err != nil || cp.Version != 2 {
		t.Errorf("set anew: %+v, %v", cp, err)
	}
	if cp, err := third.Complete(t.Context(), nil); err != nil || cp.Version != 2 {
		t.Errorf("completed again: %+v, %v", cp, err)
	}

	// A log whose records were given up without a checkpoint has a gap, and says so.
	if err := l.DeleteCheckpoint(t.Context(), "engine", client.ExpectVersion(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Truncate(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	_, behind, err := l.Recover(t.Context(), "engine")
	if err != nil {
		t.Fatal(err)
	}
	for record, err := range behind {
		if !errors.Is(err, client.ErrLSNTruncated) {
			t.Errorf("record %+v, %v; want LSN_TRUNCATED", record, err)
		}
	}
}

// TestBeginCheckpointWaits: pages must not go ahead of the log.
func TestBeginCheckpointWaits(t *testing.T) {
	_, c := open(t)
	if _, _, err := c.CreateLog(t.Context(), "orders", client.LogOptions{}); err != nil {
		t.Fatal(err)
	}
	l := c.Log("orders")
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan error, 1)
	go func() {
		_, err := l.BeginCheckpoint(ctx, "engine", 1)
		begun <- err
	}()
	if _, err := l.Append(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := <-begun; err != nil {
		t.Error(err)
	}
	cancel()
	if _, err := l.BeginCheckpoint(ctx, "engine", 2); !errors.Is(err, context.Canceled) {
		t.Errorf("an LSN that nobody appends: %v", err)
	}
}

// What a client is asked for after its end, or during it, says that it has ended, and not
// that the caller's context has.
func TestEveryCallOnAClosedClient(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"info":             func() error { _, err := l.Info(t.Context()); return err },
		"set checkpoint":   func() error { _, err := l.SetCheckpoint(t.Context(), "engine", 0, nil); return err },
		"begin checkpoint": func() error { _, err := l.BeginCheckpoint(t.Context(), "engine", 0); return err },
		"acquire writer":   func() error { _, err := l.AcquireWriter(t.Context(), "db"); return err },
		"wait":             func() error { _, err := l.WaitDurable(t.Context(), 1); return err },
		"append":           func() error { _, err := l.Append(t.Context(), nil); return err },
		"list": func() error {
			for _, err := range c.ListLogs(t.Context(), "") {
				return err
			}
			return nil
		},
		"replay": func() error {
			for _, err := range l.Replay(t.Context(), client.ReplayOptions{}) {
				return err
			}
			return nil
		},
		"watch": func() error {
			for _, err := range l.WatchDurable(t.Context(), 0) {
				return err
			}
			return nil
		},
	} {
		if err := call(); !errors.Is(err, client.ErrClosed) || errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
