package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestClaimAsText(t *testing.T) {
	id := ulid.MustParse("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	for _, tc := range []struct {
		claim Claim
		text  string
	}{
		{Claim{}, ""},
		{Claim{Log: id, Epoch: 1, LSN: 42, LogChecksum: 0x8f3a21c0}, "01ARZ3NDEKTSV4RRFFQ69G5FAV/1/42/8f3a21c0"},
		{Claim{Log: id, Epoch: 1<<64 - 1, LSN: 1<<64 - 1, LogChecksum: 7}, "01ARZ3NDEKTSV4RRFFQ69G5FAV/18446744073709551615/18446744073709551615/00000007"},
	} {
		if got := tc.claim.String(); got != tc.text {
			t.Errorf("%+v is %q, want %q", tc.claim, got, tc.text)
		}
		if got, err := ParseClaim(tc.text); err != nil || got != tc.claim {
			t.Errorf("%q is %+v, %v; want %+v", tc.text, got, err, tc.claim)
		}
		b, err := json.Marshal(tc.claim)
		if err != nil {
			t.Fatal(err)
		}
		got := Claim{LSN: 9}
		if err := json.Unmarshal(b, &got); err != nil || got != tc.claim {
			t.Errorf("%s is %+v, %v; want %+v", b, got, err, tc.claim)
		}
	}
	good := "01ARZ3NDEKTSV4RRFFQ69G5FAV/1/42/8f3a21c0"
	for _, text := range []string{
		"x", "/", good[1:], good + "/", good + "0", good[:len(good)-1], strings.ToLower(good), strings.ToUpper(good),
		strings.Replace(good, "/1/", "/01/", 1), strings.Replace(good, "/42/", "/-42/", 1), strings.Replace(good, "/42/", "/18446744073709551616/", 1),
		" " + good, strings.Replace(good, "8f", "0x8f", 1),
	} {
		if c, err := ParseClaim(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is %+v, %v", text, c, err)
		}
	}
}

// TestClaimOutlivesItsProducer gives a producer up, because an outcome is
// unknown, and looks at what the next one states: what was acknowledged before
// was, whoever goes on.
func TestClaimOutlivesItsProducer(t *testing.T) {
	f := newFake()
	orders := f.log("orders")
	c := f.serve(t, Options{})
	l := c.Log("orders")
	if got := l.Claim(); !got.IsZero() {
		t.Errorf("a claim of %+v before anything was appended", got)
	}
	if _, err := l.Append(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	f.onMessage = onceFate(unknownEnded)
	if _, err := l.Append(t.Context(), []byte("b")); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
	want := Claim{Log: orders.id, Epoch: 1, LSN: 1, LogChecksum: orders.sum(1)}
	if got := l.Claim(); got != want {
		t.Errorf("claim %+v, want %+v", got, want)
	}
	f.server.Stop()
	f.mu.Lock()
	orders.records, orders.checksums = nil, nil
	f.mu.Unlock()
	f.listen()
	if _, err := l.Append(t.Context(), []byte("c")); !errors.Is(err, ErrDataLoss) {
		t.Fatalf("append behind what was lost: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(orders.records) != 0 {
		t.Errorf("%d records landed in a log that lost some", len(orders.records))
	}
	first, last := f.binds[0], f.binds[len(f.binds)-1]
	if first.GetProducer() == last.GetProducer() || last.GetClaim().GetLsn() != 1 {
		t.Errorf("bound with %v, and then with %v", first, last)
	}
}

// onceFate has one message, the next, meet a fate.
func onceFate(it fate) func(int, int, *wire.AppendRequest) fate {
	done := false
	return func(_, _ int, m *wire.AppendRequest) fate {
		if done || len(m.Batches) == 0 {
			return served
		}
		done = true
		return it
	}
}

// TestResume states what another client was acknowledged.
func TestResume(t *testing.T) {
	other := ulid.Make()
	tests := []struct {
		name   string
		change func(c *Claim)
		lost   bool
	}{
		{"what it was", func(*Claim) {}, false},
		{"nothing", func(c *Claim) { *c = Claim{} }, false},
		{"a longer log", func(c *Claim) { c.LSN++ }, true},
		{"other records", func(c *Claim) { c.LogChecksum++ }, true},
		{"another log", func(c *Claim) { c.Log = other }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			orders := f.log("orders")
			orders.add([]byte("a"))
			orders.add([]byte("b"))
			claim := Claim{Log: orders.id, Epoch: 1, LSN: 2, LogChecksum: orders.sum(2)}
			tt.change(&claim)
			l := f.serve(t, Options{}).Log("orders")
			if err := l.Resume(claim); err != nil {
				t.Fatal(err)
			}
			if got := l.Claim(); got != claim {
				t.Errorf("claim %+v, want %+v", got, claim)
			}
			var err error
			for _, err = range l.Replay(t.Context(), ReplayOptions{}) {
			}
			if tt.lost != errors.Is(err, ErrDataLoss) || !tt.lost && err != nil {
				t.Errorf("replay: %v", err)
			}
			_, err = l.Append(t.Context(), []byte("c"))
			if tt.lost != errors.Is(err, ErrDataLoss) || !tt.lost && err != nil {
				t.Errorf("append: %v", err)
			}
			if tt.lost {
				return
			}
			if err := l.Resume(Claim{Log: orders.id, Epoch: 1, LSN: 1}); !errors.Is(err, ErrInvalid) {
				t.Errorf("resumed when it has appended: %v", err)
			}
		})
	}
}

// TestReplayClaimsWhatItHasRead breaks replays and looks at what they state when
// they go on: what they have read by then, in a log that was appended to
// meanwhile, however the replay began.
func TestReplayClaimsWhatItHasRead(t *testing.T) {
	const before, after = 20, 37
	tests := []struct {
		name    string
		options func(l *fakeLog) ReplayOptions
		first   uint64 // LSN that the first stream claims
	}{
		{"from the beginning", func(*fakeLog) ReplayOptions { return ReplayOptions{Follow: true} }, 20},
		{"behind a claim", func(l *fakeLog) ReplayOptions {
			return ReplayOptions{From: 8, Follow: true, Claim: Claim{Log: l.id, Epoch: 1, LSN: 7, LogChecksum: l.sum(7)}}
		}, 7},
		{"above a claim", func(l *fakeLog) ReplayOptions {
			return ReplayOptions{From: 18, Follow: true, Claim: Claim{Log: l.id, Epoch: 1, LSN: 7, LogChecksum: l.sum(7)}}
		}, 7},
		{"within a claim", func(l *fakeLog) ReplayOptions {
			return ReplayOptions{From: 3, Follow: true, Claim: Claim{Log: l.id, Epoch: 1, LSN: 9, LogChecksum: l.sum(9)}}
		}, 9},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			l := f.log("orders")
			for i := range before {
				l.add(fmt.Append(nil, i))
			}
			f.onReplay = func(int) int { return 2 } // parts of 5 records
			options := tt.options(l)
			c := f.serve(t, Options{})
			read := 0
			for r, err := range c.Log("orders").Replay(t.Context(), options) {
				if err != nil {
					t.Fatal(err)
				}
				if read++; read == 1 {
					f.mu.Lock()
					for i := before; i < after; i++ {
						l.add(fmt.Append(nil, i))
					}
					close(f.grown)
					f.grown = make(chan struct{})
					f.mu.Unlock()
				}
				if r.LSN == after {
					break
				}
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			var got []uint64
			for _, claim := range f.claims {
				if !l.proves(claim) {
					t.Errorf("it claims %v", claim)
				}
				got = append(got, claim.GetLsn())
			}
			last := got[len(got)-1]
			if got[0] != tt.first || !slices.IsSorted(got) || last <= before {
				t.Errorf("it claims LSN %d", got)
			}
		})
	}
}

// TestReplayWaitsForWhatItClaims: a service that stops while a replay asks it where the
// log ends is asked again, and what the replay claims is what it says then.
func TestReplayWaitsForWhatItClaims(t *testing.T) {
	f := newFake()
	l := f.log("orders")
	l.add([]byte("record"))
	failures := 5 // one more than the transport tries by itself
	f.onGet = func() error {
		if failures--; failures >= 0 {
			return failure(codes.Unavailable, "DRAINING", "stopping")
		}
		return nil
	}
	c := f.serve(t, Options{})
	for _, err := range c.Log("orders").Replay(t.Context(), ReplayOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if failures >= 0 || len(f.claims) != 1 || f.claims[0].GetLsn() != 1 || !l.proves(f.claims[0]) {
		t.Errorf("it claims %v, with %d failures to come", f.claims, failures)
	}
}

// TestReplayOfAnotherHistory breaks a replay in the middle and goes on with a
// log that has other records, or fewer, where the ones before were: also if what
// the client was acknowledged lies far below, and is still there.
func TestReplayOfAnotherHistory(t *testing.T) {
	tests := []struct {
		name string
		harm func(l *fakeLog)
	}{
		{"shorter", func(l *fakeLog) { l.records, l.checksums = l.records[:3], l.checksums[:3] }},
		{"other records", func(l *fakeLog) {
			l.records, l.checksums = l.records[:3], l.checksums[:3]
			for i := range 20 {
				l.add(fmt.Append(nil, "other", i))
			}
		}},
		{"another log", func(l *fakeLog) { l.id = ulid.Make() }},
	}
	for i := range 2 * len(tests) {
		tt, above := tests[i/2], i%2 == 1 // what is claimed
		t.Run(fmt.Sprintf("%s/above=%v", tt.name, above), func(t *testing.T) {
			f := newFake()
			l := f.log("orders")
			for i := range 20 {
				l.add(fmt.Append(nil, i))
			}
			f.onReplay = func(stream int) int {
				if stream == 1 && !above || stream == 2 && above { // the first one claims too little
					return 2
				}
				return -1
			}
			f.onBreak = func() { tt.harm(l) }
			o, last, end := ReplayOptions{Follow: true}, LSN(0), LSN(10)
			if above {
				o.From, end, o.Claim = 6, 15, Claim{Log: l.id, Epoch: 1, LSN: 2, LogChecksum: l.sum(2)}
			}
			var err error
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // it follows for ever if it misses the harm
			defer cancel()
			for r, e := range f.serve(t, Options{}).Log("orders").Replay(ctx, o) {
				if err = e; e == nil {
					last = r.LSN
				}
			}
			if !errors.Is(err, ErrDataLoss) || last != end {
				t.Errorf("it read up to LSN %d and ends with %v", last, err)
			}
		})
	}
}

// TestReplayBehindARewind: a rewind discards what a replay has not come to, the log's end
// that it claimed among it. It goes on in the new history, and what it claims when it
// connects anew is of that one, wherever it was by then.
func TestReplayBehindARewind(t *testing.T) {
	for _, parts := range []int{2, 3, 4, 5, 6} { // of 5 records, before the stream breaks
		f := newFake()
		l := f.log("orders")
		for i := range 20 {
			l.add(fmt.Append(nil, i))
		}
		epoch := uint64(1)
		f.onPart = func(m *wire.ReplayResponse) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if m.First == 6 { // it is on its way
				l.records, l.checksums, epoch = l.records[:15], l.checksums[:15], 2
				for i := range 25 {
					l.add(fmt.Append(nil, "other", i))
				}
				l.began = epoch
			}
			m.Epoch = epoch
		}
		f.onReplay = func(stream int) int {
			if stream == 1 {
				return parts
			}
			return -1
		}
		var read []Record
		for r, err := range f.serve(t, Options{}).Log("orders").Replay(t.Context(), ReplayOptions{}) {
			if err != nil {
				t.Fatalf("broken behind %d parts: %v", parts, err)
			}
			read = append(read, r)
		}
		if len(read) != 40 {
			t.Errorf("broken behind %d parts: %d records", parts, len(read))
		}
		f.mu.Lock()
		for _, r := range read {
			if string(r.Data) != string(l.records[r.LSN-1]) {
				t.Errorf("LSN %d is %q", r.LSN, r.Data)
			}
		}
		for _, c := range f.claims[1:] {
			if !l.proves(c) || c.GetEpoch() != 2 {
				t.Errorf("broken behind %d parts: it claims %v", parts, c)
			}
		}
		f.mu.Unlock()
	}
}

func TestReceiptProves(t *testing.T) {
	f := newFake()
	orders := f.log("orders")
	l := f.serve(t, Options{}).Log("orders")
	r, err := l.AppendBatch(t.Context(), [][]byte{[]byte("a"), []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	info, err := l.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Claim{Log: orders.id, Epoch: 1, LSN: 2, LogChecksum: orders.sum(2)}
	for name, got := range map[string]Claim{"receipt": r.Claim(), "log": l.Claim(), "info": info.Claim()} {
		if got != want || !orders.proves(got.message()) {
			t.Errorf("the %s claims %+v, want %+v", name, got, want)
		}
	}
	if m := (Claim{Log: orders.id, Epoch: 1}).message(); m != (*walsvcv1.Claim)(nil) {
		t.Errorf("a claim of nothing is stated as %v", m)
	}
}
