package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/wire"
)

// filled returns a service with a log of n records, the first of them at LSN 1.
func filled(n int) *fake {
	f := newFake()
	l := f.log("orders")
	for i := range n {
		l.add([]byte(record(0, i)))
	}
	return f
}

func TestReplay(t *testing.T) {
	tests := []struct {
		name        string
		options     ReplayOptions
		breakAfter  int // parts of each stream; 0: it does not break
		first, last int
	}{
		{"all", ReplayOptions{}, 0, 1, 50},
		{"from", ReplayOptions{From: 8}, 0, 8, 50},
		{"from and to", ReplayOptions{From: 8, To: 30}, 0, 8, 30},
		{"to the end", ReplayOptions{To: 50}, 0, 1, 50},
		{"from the end", ReplayOptions{From: 51}, 0, 51, 50},
		{"all, broken", ReplayOptions{}, 1, 1, 50},
		{"from and to, broken", ReplayOptions{From: 5, To: 49}, 2, 5, 49},
		{"to a place where it breaks", ReplayOptions{To: 10}, 2, 1, 10},
		{"to the end, broken", ReplayOptions{To: 50}, 3, 1, 50},
	}
	for i := range tests { // and all of it in memory that is used again
		tt := tests[i]
		tt.name += ", reused"
		tt.options.Reuse = true
		tests = append(tests, tt)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := filled(50)
			if tt.breakAfter > 0 {
				f.onReplay = func(int) int { return tt.breakAfter }
			}
			l := f.serve(t, Options{}).Log("orders")
			next := tt.first
			for r, err := range l.Replay(t.Context(), tt.options) {
				if err != nil {
					t.Fatal(err)
				}
				if r.LSN != LSN(next) || string(r.Data) != record(0, next-1) {
					t.Fatalf("got LSN %d, %q; want %d", r.LSN, r.Data, next)
				}
				next++
			}
			if next != tt.last+1 {
				t.Fatalf("ended before LSN %d, want %d", next, tt.last+1)
			}
		})
	}
}

// TestReplayFromATimeGoesOn: a replay that breaks goes on behind what it has shown,
// and asks for the time only until it has shown something.
func TestReplayFromATimeGoesOn(t *testing.T) {
	f := filled(20)
	f.onReplay = func(stream int) int { return []int{0, 2, -1}[stream-1] }
	at := time.Date(2026, 3, 1, 0, 0, 0, 1, time.UTC)
	n := 0
	for _, err := range f.serve(t, Options{}).Log("orders").Replay(t.Context(), ReplayOptions{FromTime: at, ToTime: at}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	var asked []string
	for _, req := range f.asked {
		asked = append(asked, fmt.Sprint(req.GetFromLsn() > 0, req.GetFromTime().AsTime().Equal(at), req.GetToTime().AsTime().Equal(at)))
	}
	if want := []string{"false true true", "false true true", "true false true"}; n != 20 || !slices.Equal(asked, want) {
		t.Errorf("%d records; asked from an LSN, from the time, to the time: %q, want %q", n, asked, want)
	}
}

func TestReplayKeepsItsRecordsValid(t *testing.T) {
	f := filled(0)
	want := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 4000) }
	for i := range 200 {
		f.logs["orders"].add(want(i))
	}
	var all []Record
	for r, err := range f.serve(t, Options{}).Log("orders").Replay(t.Context(), ReplayOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	for i, r := range all {
		if !bytes.Equal(r.Data, want(i)) {
			t.Fatalf("LSN %d became %.10x", r.LSN, r.Data)
		}
	}
}

// TestReplayReuses: with Reuse a replay, heartbeats and broken streams included,
// lives in as much memory as can be under way at once, however long it is.
// TestReplayClaimed: what a reader is told to claim covers the records that come, is
// what the log has, and is good to go on with.
func TestReplayClaimed(t *testing.T) {
	f := filled(20)
	f.onReplay = func(n int) int { return n % 3 } // 0 does not break
	orders := f.logs["orders"]
	l := f.serve(t, Options{}).Log("orders")
	var claim Claim
	o := ReplayOptions{From: 1, To: 12, Claimed: func(c Claim) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if claim = c; !orders.proves(c.message()) {
			t.Errorf("%v does not hold", c)
		}
	}}
	for range 2 {
		for r, err := range l.Replay(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			if r.LSN > claim.LSN {
				t.Errorf("LSN %d is beyond %v", r.LSN, claim)
			}
		}
		f.mu.Lock()
		orders.add([]byte("another"))
		f.mu.Unlock()
		o.Claim, o.From, o.To = claim, 13, 0
	}
	f.mu.Lock()
	orders.records[20], orders.checksums[20] = []byte("another history"), 0
	f.mu.Unlock()
	o.Claim, o.From = claim, 22
	for _, err := range l.Replay(t.Context(), o) {
		if !errors.Is(err, ErrDataLoss) {
			t.Errorf("it goes on behind another history: %v", err)
		}
	}
}

func TestReplayReuses(t *testing.T) {
	const many = 2000
	f := filled(0)
	want := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 4000) }
	for i := range many {
		f.logs["orders"].add(want(i))
	}
	f.onReplay = func(int) int { return 100 }
	seen, n := map[*byte]bool{}, 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for r, err := range f.serve(t, Options{}).Log("orders").Replay(ctx, ReplayOptions{Follow: true, Reuse: true}) {
		if n == many {
			break // the follower was told to stop
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Data, want(n)) {
			t.Fatalf("LSN %d became %.10x", r.LSN, r.Data)
		}
		seen[&r.Data[0]] = true
		if n++; n == many {
			cancel()
		}
	}
	if n != many || len(seen) > many/4 {
		t.Errorf("%d records came, at %d places", n, len(seen))
	}
}

func TestFollow(t *testing.T) {
	f := filled(5)
	f.onReplay = func(stream int) int { return 7 }
	c := f.serve(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next := LSN(1)
	for r, err := range c.Log("orders").Replay(ctx, ReplayOptions{Follow: true}) {
		if err != nil {
			if !errors.Is(err, context.Canceled) || next != 41 {
				t.Fatalf("before LSN %d: %v", next, err)
			}
			break
		}
		if r.LSN != next {
			t.Fatalf("LSN %d, want %d", r.LSN, next)
		}
		switch next++; {
		case next == 41:
			cancel()
		case next > 5:
			if lsn, err := c.Log("orders").Append(t.Context(), []byte("more")); err != nil || lsn != next {
				t.Fatalf("LSN %d, %v", lsn, err)
			}
		}
	}
	if f.replays < 2 {
		t.Fatal("the stream did not break")
	}
}

func TestReplayThatIsLeftEnds(t *testing.T) {
	f := filled(500)
	for range f.serve(t, Options{}).Log("orders").Replay(t.Context(), ReplayOptions{Follow: true}) {
		break
	}
	// goleak finds what has not ended.
}

func TestReplayFails(t *testing.T) {
	part := func(change func(m *wire.ReplayResponse)) func(*fake) {
		return func(f *fake) { f.onPart = change }
	}
	tests := []struct {
		name    string
		harm    func(f *fake)
		options ReplayOptions
		want    error
	}{
		{"no such log", func(f *fake) { delete(f.logs, "orders") }, ReplayOptions{}, ErrLogNotFound},
		{"truncated", func(f *fake) { f.logs["orders"].first = 10 }, ReplayOptions{From: 5}, ErrLSNTruncated},
		{"a gap", part(func(m *wire.ReplayResponse) { m.First++ }), ReplayOptions{From: 1}, ErrProtocol},
		{"a repeat", part(func(m *wire.ReplayResponse) { m.First = 1 }), ReplayOptions{}, ErrProtocol},
		{"another count", part(func(m *wire.ReplayResponse) { m.Count++ }), ReplayOptions{}, ErrProtocol},
		{"LSN zero", part(func(m *wire.ReplayResponse) { m.First = 0 }), ReplayOptions{}, ErrProtocol},
		{"no records", part(func(m *wire.ReplayResponse) { m.HasBlock, m.Run = false, []byte{7} }), ReplayOptions{}, ErrProtocol},
		{"a block of a later version", part(func(m *wire.ReplayResponse) { m.Block.Version = 2 }), ReplayOptions{From: 1}, ErrProtocol},
		{"damage", part(func(m *wire.ReplayResponse) {
			if m.HasBlock && m.Block.Codec == uint32(codec.None) {
				m.Block.Stored[len(m.Block.Stored)-1] ^= 1
			}
		}), ReplayOptions{}, ErrDataLoss},
		{"a block that does not open", part(func(m *wire.ReplayResponse) { m.Block.RawSize++ }), ReplayOptions{From: 1}, ErrDataLoss},
		{"a codec nobody knows", part(func(m *wire.ReplayResponse) { m.Block.Codec = 9 }), ReplayOptions{From: 1}, ErrDataLoss},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := filled(20)
			tt.harm(f)
			var got error
			for _, err := range f.serve(t, Options{}).Log("orders").Replay(t.Context(), tt.options) {
				if got != nil {
					t.Fatal("it went on after an error")
				}
				got = err
			}
			if !errors.Is(got, tt.want) {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReplayEndsWithItsClient(t *testing.T) {
	f := filled(1)
	c := f.serve(t, Options{})
	var got error
	for _, err := range c.Log("orders").Replay(t.Context(), ReplayOptions{Follow: true}) {
		if got = err; err == nil {
			if err := c.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(got, ErrClosed) {
		t.Fatalf("got %v", got)
	}
}

func TestWatchDurable(t *testing.T) {
	f := filled(3)
	f.onReplay = func(int) int { return -1 } // every answer breaks its stream
	c := f.serve(t, Options{})
	l := c.Log("orders")
	want := LSN(3)
	for lsn, err := range l.WatchDurable(t.Context(), 0) {
		if err != nil || lsn != want {
			t.Fatalf("LSN %d, %v; want %d", lsn, err, want)
		}
		if want == 6 {
			break
		}
		if want, err = l.Append(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range c.Log("none").WatchDurable(t.Context(), 0) {
		if !errors.Is(err, ErrLogNotFound) {
			t.Fatalf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range l.WatchDurable(ctx, 100) {
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestListLogsTurnsPages(t *testing.T) {
	f := newFake()
	for _, name := range []string{"e", "a", "c", "b", "d"} {
		f.log(name)
	}
	var names []string
	for info, err := range f.serve(t, Options{}).ListLogs(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if names = append(names, info.Name); info.ID != f.logs[info.Name].id || info.Durable() != 0 {
			t.Errorf("%+v", info)
		}
	}
	if !slices.Equal(names, []string{"a", "b", "c", "d", "e"}) {
		t.Fatalf("got %q", names)
	}
}

func TestOpen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		target  string
		options Options
		want    error
	}{
		{"example.org:7700", Options{}, ErrPlaintext},
		{"192.0.2.1:7700", Options{}, ErrPlaintext},
		{"", Options{}, ErrInvalid},
		{"nowhere", Options{}, ErrInvalid},
		{"/sock", Options{Streams: 65}, ErrInvalid},
		{"/sock", Options{MaxPendingBytes: -1}, ErrInvalid},
		{"192.0.2.1:7700", Options{Insecure: true}, context.Canceled},
		{"localhost:1", Options{}, context.Canceled},
		{"[::1]:1", Options{}, context.Canceled},
		{"127.0.0.1:1", Options{}, context.Canceled},
		{"unix:///no/such/socket", Options{}, context.Canceled},
	}
	for _, tt := range tests {
		c, err := Open(ctx, tt.target, tt.options)
		if !errors.Is(err, tt.want) || c != nil {
			t.Errorf("%q: got %v, want %v", tt.target, err, tt.want)
		}
	}
}

func TestTransport(t *testing.T) {
	for target, want := range map[string]string{
		"/run/walsvc/walsvc.sock":        "unix:/run/walsvc/walsvc.sock",
		"walsvc-data/walsvc.sock":        "unix:walsvc-data/walsvc.sock",
		"./walsvc.sock":                  "unix:./walsvc.sock",
		"unix:///run/walsvc/walsvc.sock": "unix:/run/walsvc/walsvc.sock",
		"unix:walsvc.sock":               "unix:walsvc.sock",
		"localhost:7700":                 "localhost:7700",
		"dns:///localhost:7700":          "dns:///localhost:7700",
	} {
		if got, _, err := transport(target, Options{}); got != want || err != nil {
			t.Errorf("%q: got %q, %v; want %q", target, got, err, want)
		}
	}
}
