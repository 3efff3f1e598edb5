package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/wal"
)

// follower replays a log into a channel.
func follower(t *testing.T, l *client.Log, o client.ReplayOptions) <-chan string {
	t.Helper()
	out := make(chan string, 64)
	o.Follow = true
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		for range out {
		}
	})
	go func() {
		defer close(out)
		for r, err := range l.Replay(ctx, o) {
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				var e *client.Error
				if errors.As(err, &e) {
					out <- fmt.Sprintf("%s %s %s", e.Reason, e.Metadata["epoch"], e.Metadata["kept_lsn"])
				} else {
					out <- err.Error()
				}
				return
			}
			out <- fmt.Sprintf("%d %s", r.LSN, r.Data)
		}
	}()
	return out
}

// TestRewindOfAService rewinds a log that is followed, watched, waited for and
// appended to by others, restarts the service in between, and looks who is told.
func TestRewindOfAService(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	other, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	l, theirs := create(t, c, "log", client.LogOptions{}), other.Log("log")
	for i := range 6 {
		if _, err := theirs.Append(ctx, fmt.Appendf(nil, "old %d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.SetCursor(ctx, "mailer", 5, client.CursorOptions{}); err != nil {
		t.Fatal(err)
	}
	beyond := follower(t, l, client.ReplayOptions{})
	for range 6 {
		<-beyond
	}
	watched := make(chan error, 1)
	seen := make(chan struct{})
	go func() {
		for _, err := range l.WatchDurable(ctx, 0) {
			if err != nil {
				watched <- err
				return
			}
			close(seen)
		}
	}()
	<-seen

	for name, test := range map[string]struct {
		r    client.Rewind
		want error
	}{
		"no epoch":       {client.Rewind{After: 3}, client.ErrInvalid},
		"another epoch":  {client.Rewind{After: 3, Epoch: 2}, client.ErrFenced},
		"another end":    {client.Rewind{After: 3, Epoch: 1, Next: 6}, client.ErrLSNMismatch},
		"beyond the end": {client.Rewind{After: 7, Epoch: 1}, client.ErrLSNAhead},
	} {
		if _, err := l.Rewind(ctx, test.r); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	request := ulid.Make()
	would, err := l.Rewind(ctx, client.Rewind{After: 3, Epoch: 1, Plan: true})
	if err != nil || would.Records != 3 || would.Bytes == 0 || would.Log.Next != 7 {
		t.Fatalf("%+v, %v", would, err)
	}
	for again := range 2 {
		done, err := l.Rewind(ctx, client.Rewind{After: 3, Epoch: 1, Next: 7, Request: request})
		if err != nil || done.Repeated != (again > 0) || !done.Repeated && done.Records != 3 || done.Repeated && done.Records != 0 || done.Log.Epoch != 2 || done.Log.Next != 4 || done.Log.Writer != "" {
			t.Fatalf("%+v, %v", done, err)
		}
	}
	if got := <-beyond; got != "REWOUND 2 3" {
		t.Errorf("a follower at the end: %s", got)
	}
	if err := <-watched; !errors.Is(err, client.ErrRewound) {
		t.Errorf("who watches: %v", err)
	}
	if c, err := l.Cursor(ctx, "mailer"); err != nil || c.State != client.CursorRewound || c.LSN != 3 || c.RewoundFrom != 5 || c.Rewound != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := l.SetCursor(ctx, "mailer", 3, client.CursorOptions{}); !errors.Is(err, client.ErrRewound) {
		t.Errorf("set the cursor: %v", err)
	}
	for _, err := range l.Replay(ctx, client.ReplayOptions{Cursor: "mailer"}) {
		if !errors.Is(err, client.ErrRewound) {
			t.Errorf("replay from the cursor: %v", err)
		}
	}
	// Who rewound it goes on; the other client is told once.
	if lsn, err := l.Append(ctx, []byte("new 4")); err != nil || lsn != 4 {
		t.Fatalf("%d, %v", lsn, err)
	}
	if _, err := theirs.Append(ctx, []byte("late")); !errors.Is(err, client.ErrRewound) || errors.Is(err, client.ErrUnknownOutcome) {
		t.Errorf("the other client: %v", err)
	}
	if lsn, err := theirs.Append(ctx, []byte("new 5")); err != nil || lsn != 5 {
		t.Fatalf("%d, %v", lsn, err)
	}

	// Nobody reconnects into another history.
	below := follower(t, l, client.ReplayOptions{})
	for range 5 {
		<-below
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	if info, err := l.Info(ctx); err != nil || info.Epoch != 2 || len(info.Rewinds) != 1 || info.Rewinds[0].Kept != 3 || info.Rewinds[0].Next != 7 {
		t.Fatalf("%+v, %v", info, err)
	}
	if lsn, err := l.Append(ctx, []byte("new 6")); err != nil || lsn != 6 {
		t.Fatalf("%d, %v", lsn, err)
	}
	if got := <-below; got != "6 new 6" {
		t.Errorf("a follower that was not beyond the cut: %s", got)
	}

	done, err := l.Rewind(ctx, client.Rewind{After: 5, Epoch: 2, Holder: "db-2"})
	if err != nil || done.Log.Epoch != 3 || done.Log.Writer != "db-2" {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := <-below; got != "REWOUND 3 5" {
		t.Errorf("a follower: %s", got)
	}
	if _, err := theirs.Append(ctx, []byte("late")); !errors.Is(err, client.ErrFenced) {
		t.Errorf("the other client: %v", err)
	}
	if lsn, err := l.Append(ctx, []byte("newest 6")); err != nil || lsn != 6 {
		t.Fatalf("its writer: %d, %v", lsn, err)
	}
	var all []string
	for r, err := range other.Log("log").Replay(ctx, client.ReplayOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(r.Data))
	}
	if want := []string{"old 1", "old 2", "old 3", "new 4", "new 5", "newest 6"}; !slices.Equal(all, want) {
		t.Errorf("%q, want %q", all, want)
	}
}

// TestRewindWhileNobodyListens: a client that was acknowledged a discarded record is
// told when it comes back, once, and goes on.
func TestRewindWhileNobodyListens(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	for i := range 3 {
		if _, err := l.Append(ctx, []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	claim := l.Claim()
	followed := follower(t, l, client.ReplayOptions{})
	for range 3 {
		<-followed
	}
	// Between two lives of the service somebody else has it.
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	v, err := wal.Open(ctx, filepath.Join(s.dir, "volume"), wal.Options{PrepareRate: -1})
	if err == nil {
		_, err = v.Rewind(ctx, "log", wal.Rewind{After: 1, Epoch: 1})
		err = errors.Join(err, v.Close(), s.start())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, []byte("late")); !errors.Is(err, client.ErrRewound) {
		t.Errorf("appended: %v", err)
	}
	if got := <-followed; got != "REWOUND 2 1" {
		t.Errorf("a follower that comes back: %s", got)
	}
	if lsn, err := l.Append(ctx, []byte("one")); err != nil || lsn != 2 {
		t.Errorf("%d, %v", lsn, err)
	}
	for _, err := range l.Replay(ctx, client.ReplayOptions{Claim: claim}) {
		if !errors.Is(err, client.ErrRewound) {
			t.Errorf("a claim of what was discarded: %v", err)
		}
	}
}

// TestRewindAheadOfAReplay has a rewind discard what a follower has not come to, as much as
// no transport reads ahead, and the service restarted when it is beyond: it goes on.
func TestRewindAheadOfAReplay(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	record, next := make([]byte, 1<<20), byte(0)
	if _, err := rand.Read(record); err != nil { // else it is compressed
		t.Fatal(err)
	}
	appendTo := func(last client.LSN) {
		for lsn := client.LSN(0); lsn < last; {
			next++
			record[0] = next
			var err error
			if lsn, err = l.Append(ctx, record); err != nil {
				t.Fatal(err)
			}
		}
	}
	appendTo(40)
	other, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for r, err := range other.Log("log").Replay(ctx, client.ReplayOptions{Follow: true}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case r.LSN == 1:
			info, err := l.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Rewind(ctx, client.Rewind{After: 35, Epoch: info.Epoch, Holder: "db"}); err != nil {
				t.Fatal(err)
			}
			appendTo(45)
		case r.LSN > 35 && r.Data[0] != byte(r.LSN)+5:
			t.Fatalf("LSN %d is record %d", r.LSN, r.Data[0])
		case r.LSN == 45:
			if err := errors.Join(s.stop(), s.start()); err != nil {
				t.Fatal(err)
			}
			appendTo(46)
		case r.LSN == 46:
			return
		}
	}
}

// TestRewinderGoesOn: who rewinds a log through a handle appends through it next, as
// everybody may, and is not told what it did. What it had under way is told, or lands.
func TestRewinderGoesOn(t *testing.T) {
	ctx := t.Context()
	_, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	for epoch := uint64(1); epoch <= 3; epoch++ {
		for want := client.LSN(1); want <= 4; want++ {
			if lsn, err := l.Append(ctx, []byte("x")); err != nil || lsn != want {
				t.Fatalf("in epoch %d at LSN %d, %v, want %d", epoch, lsn, err, want)
			}
		}
		if _, err := l.Rewind(ctx, client.Rewind{Epoch: epoch}); err != nil {
			t.Fatal(err)
		}
	}
	for epoch := uint64(4); epoch < 24; epoch++ {
		var under []*client.Future
		for range epoch {
			under = append(under, l.AppendAsync(ctx, []byte("under way")))
		}
		if _, err := l.Rewind(ctx, client.Rewind{Epoch: epoch}); err != nil {
			t.Fatal(err)
		}
		for _, f := range append(under, l.AppendAsync(ctx, []byte("behind"))) {
			if _, err := f.Wait(ctx); err != nil && !errors.Is(err, client.ErrRewound) {
				t.Fatal(err)
			}
		}
	}
}
