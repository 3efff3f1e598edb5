package client_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
)

func TestCursorsOfAService(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "orders", client.LogOptions{})
	for i := range 10 {
		if _, err := l.Append(t.Context(), fmt.Appendf(nil, "order %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	set, err := l.SetCursor(t.Context(), "mailer", 6, client.CursorOptions{Create: true, Cap: 1000, Policy: client.HoldOverCap})
	if err != nil || set.LSN != 6 || set.Cap != 1000 || set.Policy != client.HoldOverCap || set.State != client.CursorReserved || set.Records != 4 ||
		set.LiveBytes == 0 || set.Lag <= 0 || set.Set.IsZero() || !set.Evicted.IsZero() {
		t.Fatalf("%+v, %v", set, err)
	}
	at := func(lsn client.LSN) *client.LSN { return &lsn }
	for name, test := range map[string]struct {
		lsn  client.LSN
		o    client.CursorOptions
		want error
	}{
		"it is there":    {7, client.CursorOptions{Create: true}, client.ErrCursorConflict},
		"it is at 6":     {7, client.CursorOptions{Expected: at(5)}, client.ErrCursorConflict},
		"backwards":      {5, client.CursorOptions{Expected: at(6)}, client.ErrCursorBackwards},
		"beyond the end": {11, client.CursorOptions{}, client.ErrLSNAhead},
		"two conditions": {7, client.CursorOptions{Create: true, Expected: at(6)}, client.ErrInvalid},
	} {
		if _, err := l.SetCursor(t.Context(), "mailer", test.lsn, test.o); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if back, err := l.SetCursor(t.Context(), "mailer", 5, client.CursorOptions{Reset: true, Expected: at(6)}); err != nil || back.LSN != 5 || back.Cap != 1000 {
		t.Fatalf("%+v, %v", back, err)
	}
	next := client.LSN(6)
	for r, err := range l.Replay(t.Context(), client.ReplayOptions{Cursor: "mailer"}) {
		if err != nil || r.LSN != next || string(r.Data) != fmt.Sprintf("order %d", next-1) {
			t.Fatalf("%+v, %v; want LSN %d", r, err, next)
		}
		next++
	}
	if next != 11 {
		t.Errorf("the replay ended before LSN %d", next)
	}
	if _, err := l.Truncate(t.Context(), 8); !errors.Is(err, client.ErrHeld) || !strings.Contains(err.Error(), "mailer") {
		t.Errorf("truncate what the cursor holds: %v", err)
	}
	if end, err := l.SetCursor(t.Context(), "mailer", 10, client.CursorOptions{}); err != nil || end.Lag != 0 || end.Records != 0 {
		t.Fatalf("%+v, %v", end, err)
	}
	got, err := l.Cursor(t.Context(), "mailer")
	all, lerr := l.Cursors(t.Context())
	if err != nil || lerr != nil || len(all) != 1 || all[0] != got || got.LSN != 10 {
		t.Fatalf("%+v, %v; %+v, %v", got, err, all, lerr)
	}
	var holders []string
	for h, err := range c.Holders(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		holders = append(holders, h.GetKind().String()+" "+h.GetName())
	}
	if want := []string{"HOLDER_KIND_SNAPSHOT ", "HOLDER_KIND_CURSOR mailer"}; !slices.Equal(holders, want) {
		t.Errorf("holders %q, want %q", holders, want)
	}
	if err := l.DeleteCursor(t.Context(), "mailer", at(9)); !errors.Is(err, client.ErrCursorConflict) {
		t.Errorf("delete it elsewhere: %v", err)
	}
	if err := l.DeleteCursor(t.Context(), "mailer", at(10)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Cursor(t.Context(), "mailer"); !errors.Is(err, client.ErrCursorNotFound) {
		t.Errorf("when it was deleted: %v", err)
	}
}

// TestLostCursorOfAService: a reader that was too slow hears so, by name and with
// figures, wherever it asks, and goes on only when it says that it knows.
func TestLostCursorOfAService(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "orders", client.LogOptions{})
	if _, err := l.SetCursor(t.Context(), "mailer", 0, client.CursorOptions{Cap: 100}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		got, err := l.Cursor(t.Context(), "mailer")
		if err != nil {
			t.Fatal(err)
		}
		if got.State == client.CursorLost {
			if got.Evicted.IsZero() || got.LiveBytes != 0 {
				t.Errorf("%+v", got)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is never evicted: %+v", got)
		}
	}
	lost := func(what string, err error) {
		t.Helper()
		var e *client.Error
		if !errors.Is(err, client.ErrCursorLost) || !errors.As(err, &e) || e.Metadata["cursor"] != "mailer" || e.Hint() == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := l.SetCursor(t.Context(), "mailer", 1, client.CursorOptions{})
	lost("set", err)
	for _, err := range l.Replay(t.Context(), client.ReplayOptions{Cursor: "mailer"}) {
		lost("replay", err)
	}
	if got, err := l.SetCursor(t.Context(), "mailer", 1, client.CursorOptions{Reset: true}); err != nil || got.State != client.CursorReserved {
		t.Errorf("%+v, %v", got, err)
	}
}
