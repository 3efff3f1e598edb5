package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openTest opens a volume on fs with small segments.
func openTest(t testing.TB, fs disk.FS) *Volume {
	t.Helper()
	v, err := Open(context.Background(), "/vol", testOptions(fs))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return v
}

func testOptions(fs disk.FS) Options {
	return Options{FS: fs, Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1, SnapshotEvery: 32 << 10}
}

func closeTest(t testing.TB, v *Volume) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func run(recs ...string) []byte {
	var b []byte
	for _, r := range recs {
		b = records.Append(b, []byte(r))
	}
	return b
}

func mustCreate(t testing.TB, v *Volume, name string) LogInfo {
	t.Helper()
	info, _, err := v.CreateLog(context.Background(), name, LogOptions{})
	if err != nil {
		t.Fatalf("create log %q: %v", name, err)
	}
	return info
}

func mustAppend(t testing.TB, v *Volume, log string, recs ...string) Verdict {
	t.Helper()
	got, err := v.Append(context.Background(), log, ulid.ULID{}, 0, Batch{Run: run(recs...)})
	if err != nil {
		t.Fatalf("append to %q: %v", log, err)
	}
	return got
}

// readAll returns every record from an LSN on.
func readAll(t testing.TB, v *Volume, log string, from LSN) []string {
	t.Helper()
	r, err := v.NewReader(log, ReadOptions{From: from})
	if err != nil {
		t.Fatalf("read %q: %v", log, err)
	}
	defer r.Close()
	var out []string
	for {
		span, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("read %q: %v", log, err)
		}
		for rest := span.Run; len(rest) > 0; {
			var rec []byte
			if rec, rest, err = records.Next(rest); err != nil {
				t.Fatalf("read %q: %v", log, err)
			}
			out = append(out, string(rec))
		}
	}
}

func TestAppendReopenRead(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "a")
	mustCreate(t, v, "b")
	var wantA, wantB []string
	big := string(bytes.Repeat([]byte("x"), 3000))
	for i := range 200 {
		rec := fmt.Sprintf("a-%d-%s", i, big)
		wantA = append(wantA, rec)
		if got := mustAppend(t, v, "a", rec); got.First != LSN(i+1) {
			t.Fatalf("append %d got LSN %d", i, got.First)
		}
		if i%10 == 0 {
			wantB = append(wantB, fmt.Sprint(i), "second")
			mustAppend(t, v, "b", fmt.Sprint(i), "second")
		}
	}
	check := func(v *Volume) {
		t.Helper()
		equal(t, readAll(t, v, "a", 0), wantA)
		equal(t, readAll(t, v, "b", 0), wantB)
		equal(t, readAll(t, v, "a", 77), wantA[76:])
	}
	check(v)
	pollUntil(t, "a segment is rolled and a snapshot written", func() bool {
		s := v.Status()
		return s.Rolls > 0 && s.Snapshots > 0
	})
	closeTest(t, v)
	for range 3 {
		v = openTest(t, fs)
		if r := v.Recovery(); r.Verdict != "clean" {
			t.Fatalf("recovery: %+v", r)
		}
		check(v)
		closeTest(t, v)
	}
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("record %d: got %.40q, want %.40q", i, got[i], want[i])
		}
	}
}

// split takes a run apart.
func split(run []byte) (out []string, err error) {
	for len(run) > 0 {
		var rec []byte
		if rec, run, err = records.Next(run); err != nil {
			return nil, err
		}
		out = append(out, string(rec))
	}
	return out, nil
}

// TestIdleProducerMakesWay opens more producers than a log remembers: each
// session of a client opens one, and a log must outlive any number of them.
func TestIdleProducerMakesWay(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	ctx := context.Background()
	open := func(n int) ulid.ULID {
		id := ulid.ULID{15: byte(n), 14: byte(n >> 8), 13: 1}
		if _, err := v.OpenProducer(ctx, "log", id); err != nil {
			t.Fatalf("open producer %d: %v", n, err)
		}
		return id
	}
	first, busy := open(0), open(1)
	a := newSeat(t, v)
	idle := a.bind("log", first)
	if _, err := v.Append(ctx, "log", busy, 0, Batch{Sequence: 1, Run: run("busy")}); err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= limits.MaxProducersPerLog; n++ {
		open(n)
	}
	check := func(v *Volume) {
		t.Helper()
		got, err := v.Append(ctx, "log", busy, 0, Batch{Sequence: 1, Run: run("busy")})
		if err != nil || !got.Repeated || got.First != 1 {
			t.Errorf("repeat of a producer that appended: %+v, %v", got, err)
		}
		if _, err := v.Append(ctx, "log", first, 0, Batch{Sequence: 1, Run: run("idle")}); !errors.Is(err, ErrNoProducer) {
			t.Errorf("the producer that made way: %v", err)
		}
	}
	check(v)
	// A binding it had before finds its slot in other hands.
	if got := a.verdicts(Batch{Binding: idle, Sequence: 1, Run: run("idle")}); !errors.Is(got[0].Err, ErrNoProducer) {
		t.Errorf("its old binding: %+v", got)
	}
	closeTest(t, v)
	v = openTest(t, fs)
	check(v)
	closeTest(t, v)
}

// TestLateBind binds a producer on a stream that its client has left for a later one: the
// bind was on its way, or its claim took long to prove. What the client has bound since
// stays bound. Who opens the producer takes it over, on whatever stream.
func TestLateBind(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	producer := ulid.ULID{1}
	open := func() {
		t.Helper()
		if _, err := v.OpenProducer(context.Background(), "log", producer); err != nil {
			t.Fatal(err)
		}
	}
	open()
	left, present := newSeat(t, v), newSeat(t, v)
	now := present.bind("log", producer)
	if _, _, _, err := left.Bind("log", Producer{ID: producer}, 0, Claim{}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("a late bind: %v", err)
	}
	if got := present.verdicts(Batch{Binding: now, Sequence: 1, Run: run("one")})[0]; got.Err != nil || got.First != 1 {
		t.Errorf("on the stream that the client has: %+v", got)
	}

	open()
	was := left.bind("log", producer)
	if got := present.verdicts(Batch{Binding: now, Sequence: 2, Run: run("no")})[0]; !errors.Is(got.Err, ErrSuperseded) {
		t.Errorf("taken over by who opened it: %+v", got)
	}
	if got := left.verdicts(Batch{Binding: was, Sequence: 2, Run: run("two")})[0]; got.Err != nil || got.First != 2 {
		t.Errorf("of who took over: %+v", got)
	}
	present.Close()
	left.Close()
}

// TestBindSupersedes binds a producer on a second stream while a batch is still
// on its way through the first: it must not land once the second stream speaks.
func TestBindSupersedes(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	producer := ulid.ULID{1}
	ctx := context.Background()
	if _, err := v.OpenProducer(ctx, "log", producer); err != nil {
		t.Fatal(err)
	}
	send := func(a *seat, b *Binding, sequence uint64, rec string) Verdict {
		t.Helper()
		return a.verdicts(Batch{Binding: b, Sequence: sequence, Run: run(rec)})[0]
	}
	old, late := newSeat(t, v), newSeat(t, v)
	was := old.bind("log", producer)
	if got := send(old, was, 1, "one"); got.Err != nil {
		t.Fatal(got.Err)
	}
	now := late.bind("log", producer)
	if got := send(old, was, 2, "late"); !errors.Is(got.Err, ErrSuperseded) {
		t.Errorf("on the old stream: %+v", got)
	}
	if got := send(late, now, 2, "two"); got.Err != nil || got.First != 2 {
		t.Errorf("on the new stream: %+v", got)
	}
	old.Close() // gives up nothing that is another's
	late.Close()
	if len(v.bound) != 0 {
		t.Errorf("%d bindings kept", len(v.bound))
	}
	equal(t, readAll(t, v, "log", 0), []string{"one", "two"})
}

// TestReplayToTheEndEnds appends a record for every span that is read: a replay
// to the end must not chase an end that moves.
func TestReplayToTheEndEnds(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2", "3")
	r, err := v.NewReader("log", ReadOptions{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := LSN(0)
	for {
		span, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n > 10 {
			t.Fatalf("after %d records: %v", n, err)
		}
		n += LSN(span.Count)
		mustAppend(t, v, "log", "more")
	}
	if n != 3 {
		t.Errorf("read %d records, want 3", n)
	}
}
