package client_test

import (
	"errors"
	"testing"

	"github.com/walsvc/walsvc/client"
)

// TestSeal ends a log under a follower and a watcher, who end with it, and under one
// who appends, whose append is told from one that may have landed.
func TestSeal(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	if _, err := l.Append(ctx, []byte("1")); err != nil {
		t.Fatal(err)
	}
	followed, watched := make(chan client.LSN, 1), make(chan client.LSN, 1)
	shown := make(chan struct{}, 2)
	go func() {
		var last client.LSN
		for r, err := range l.Replay(ctx, client.ReplayOptions{Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			last = r.LSN
			shown <- struct{}{}
		}
		followed <- last
	}()
	go func() {
		var last client.LSN
		for lsn, err := range l.WatchDurable(ctx, 0) {
			if err != nil {
				t.Error(err)
			}
			last = lsn
			shown <- struct{}{}
		}
		watched <- last
	}()
	for range 2 {
		<-shown
	}
	if _, err := l.Seal(ctx, client.SealInEpoch(9)); !errors.Is(err, client.ErrFenced) {
		t.Errorf("in another epoch: %v", err)
	}
	for range 2 {
		if info, err := l.Seal(ctx, client.SealInEpoch(1)); err != nil || info.Sealed.IsZero() || info.Next != 2 {
			t.Fatalf("%+v, %v", info, err)
		}
	}
	if f, w := <-followed, <-watched; f != 1 || w != 1 {
		t.Errorf("followed to LSN %d, watched to %d", f, w)
	}
	for range 2 {
		if _, err := l.Append(ctx, []byte("late")); !errors.Is(err, client.ErrSealed) || errors.Is(err, client.ErrUnknownOutcome) {
			t.Errorf("an append: %v", err)
		}
	}
	if _, err := l.WaitDurable(ctx, 2); !errors.Is(err, client.ErrSealed) {
		t.Errorf("waiting for what never comes: %v", err)
	}
	for _, err := range l.WatchDurable(ctx, 5) {
		if !errors.Is(err, client.ErrSealed) {
			t.Errorf("watching behind the end: %v", err)
		}
	}
	if _, err := c.Log("none").Seal(ctx); !errors.Is(err, client.ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
	// One who never appended is told as well.
	other, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if _, err := other.Log("log").Append(ctx, []byte("late")); !errors.Is(err, client.ErrSealed) {
		t.Errorf("another's append: %v", err)
	}
}
