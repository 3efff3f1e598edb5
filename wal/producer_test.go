package wal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func mustOpenProducer(t testing.TB, v *Volume, log string, producer ulid.ULID) ProducerInfo {
	t.Helper()
	p, err := v.OpenProducer(context.Background(), log, producer)
	if err != nil {
		t.Fatalf("open producer %s: %v", producer, err)
	}
	return p
}

// produce appends a batch of a producer's present incarnation.
func produce(v *Volume, log string, p Producer, sequence uint64) (Verdict, error) {
	b := Batch{Sequence: sequence, Incarnation: p.Incarnation, Run: run(fmt.Sprint(sequence))}
	return v.Append(context.Background(), log, p.ID, 0, b)
}

// TestRetire: a retired producer appends nothing more, on the stream it has and on
// later ones, and is not opened again, also after a restart; what it appended can
// still be asked for.
func TestRetire(t *testing.T) {
	ctx := t.Context()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	id := producerID(1)
	if err := v.RetireProducer(ctx, "log", id); !errors.Is(err, ErrNoProducer) {
		t.Errorf("not open: %v", err)
	}
	if err := v.RetireProducer(ctx, "none", id); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
	mustOpenProducer(t, v, "log", id)
	s := newSeat(t, v)
	b := s.bind("log", id)
	one := Batch{Binding: b, Sequence: 1, Run: run("1")}
	if got := s.verdicts(one); got[0].Err != nil {
		t.Fatal(got[0].Err)
	}
	for range 2 { // it may be asked again
		if err := v.RetireProducer(ctx, "log", id); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.verdicts(one)[0]; got.Err != nil || !got.Repeated || got.First != 1 {
		t.Errorf("a repeat: %+v", got)
	}
	if got := s.verdicts(Batch{Binding: b, Sequence: 2, Run: run("2")})[0]; !errors.Is(got.Err, ErrRetired) {
		t.Errorf("on the stream it has: %+v", got)
	}
	s.Close()
	for range 3 {
		if _, err := v.OpenProducer(ctx, "log", id); !errors.Is(err, ErrRetired) {
			t.Errorf("opened again: %v", err)
		}
		if _, _, _, err := newSeat(t, v).Bind("log", Producer{ID: id}, 0, Claim{}); !errors.Is(err, ErrRetired) {
			t.Errorf("bound again: %v", err)
		}
		if r, err := v.Resolve(ctx, "log", id, 1, 0); err != nil || r.Outcome != Committed || r.First != 1 || r.Producer.LastSequence != 1 {
			t.Errorf("resolved: %+v, %v", r, err)
		}
		if r, err := v.Resolve(ctx, "log", id, 2, 0); err != nil || r.Outcome != NotWritten {
			t.Errorf("resolved: %+v, %v", r, err)
		}
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
		closeTest(t, v)
		v = openTest(t, fs)
	}
	equal(t, readAll(t, v, "log", 0), []string{"1"})
	closeTest(t, v)
}

// TestMakeWay opens more producers than a log has slots for. One that made way
// appends nothing; opened again it goes on where it was, not at its beginning.
// Retired ones make way first, and stay retired. What even they make way for is
// forgotten, and a producer that knows better is told.
func TestMakeWay(t *testing.T) {
	ctx := t.Context()
	s := NewState()
	apply := func(c Command) {
		t.Helper()
		if err := s.Apply(&c); err != nil {
			t.Fatal(err)
		}
	}
	id := func(n int) ulid.ULID { return ulid.ULID{1, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)} }
	apply(Command{Kind: CommandCreateLog, Log: 1, Name: "log", ID: ulid.ULID{1}})
	for n := range limits.MaxProducersPerLog {
		apply(Command{Kind: CommandOpenProducer, Log: 1, Producer: id(n)})
	}
	// All have appended once, 0 longest ago and 100 times.
	next, start := LSN(1), uint64(0)
	for n := range limits.MaxProducersPerLog {
		batches := 1
		if n == 0 {
			batches = 100
		}
		for q := range batches {
			apply(Command{Kind: CommandAppend, Log: 1, Epoch: 1, Slot: uint64(n) + 1, Sequence: uint64(q) + 1, First: next, Count: 1, Start: start, Place: Place{Size: 2}})
			next, start = next+1, start+2
		}
	}
	apply(Command{Kind: CommandRetireProducer, Log: 1, Producer: id(700)})
	apply(Command{Kind: CommandOpenProducer, Log: 1, Producer: id(2000)}) // 700 makes way
	apply(Command{Kind: CommandOpenProducer, Log: 1, Producer: id(2001)}) // 0 does
	l := s.logs.get(1)
	if _, err := l.open(id(700)); !errors.Is(err, ErrRetired) {
		t.Errorf("700 was retired and made way: %v", err)
	}
	if _, err := l.open(id(0)); !errors.Is(err, ErrNoProducer) {
		t.Errorf("0 made way: %v", err)
	}
	if err := s.Apply(&Command{Kind: CommandOpenProducer, Log: 1, Producer: id(700)}); !errors.Is(err, errDisagree) {
		t.Errorf("700 is retired: %v", err)
	}
	apply(Command{Kind: CommandOpenProducer, Log: 1, Producer: id(0)}) // 1 makes way
	l = s.logs.get(1)
	p := l.producers[l.slot(id(0))-1]
	if p.last != 100 || p.incarnation != 2 {
		t.Errorf("0 came back as %d, incarnation %d", p.last, p.incarnation)
	}
	for _, q := range []uint64{1, 37, 100} {
		if _, kept := p.recall(q); kept {
			t.Errorf("its batch %d is said to be known", q)
		}
	}
	apply(Command{Kind: CommandAppend, Log: 1, Epoch: 1, Slot: l.slot(id(0)), Sequence: 101, First: next, Count: 1, Start: start, Place: Place{Size: 2}})
	if b, kept := p.recall(101); !kept || b.first != next {
		t.Errorf("its batch 101 is %+v, %t", b, kept)
	}
	restored, _, err := decodeSnapshot(encodeSnapshot(s, places{}))
	if err != nil || restored.Hash() != s.Hash() || restored.logs.get(1).formerly(id(700)) < 0 {
		t.Fatalf("from a snapshot: %v", err)
	}
	for n := range limits.MaxFormerProducers {
		apply(Command{Kind: CommandOpenProducer, Log: 1, Producer: id(10000 + n)})
	}
	if l := s.logs.get(1); len(l.former) != limits.MaxFormerProducers || len(l.producers) != limits.MaxProducersPerLog || l.formerly(id(700)) >= 0 {
		t.Errorf("%d producers, %d made way", len(l.producers), len(l.former))
	}
	if len(restored.logs.get(1).former) != 2 {
		t.Error("what was shared has changed")
	}

	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	if _, err := v.ReopenProducer(ctx, "log", id(1), 1); !errors.Is(err, ErrForgotten) {
		t.Errorf("a producer that nobody remembers: %v", err)
	}
	mustOpenProducer(t, v, "log", id(1))
	if _, err := produce(v, "log", Producer{ID: id(1)}, 1); err != nil {
		t.Fatal(err)
	}
	if got, err := v.ReopenProducer(ctx, "log", id(1), 1); err != nil || got.LastSequence != 1 || got.Incarnation != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := v.ReopenProducer(ctx, "log", id(1), 2); !errors.Is(err, ErrForgotten) {
		t.Errorf("a batch that nobody remembers: %v", err)
	}
}

// TestResolve asks for batches of every fate.
func TestResolve(t *testing.T) {
	ctx := t.Context()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	id := producerID(1)
	if _, err := v.Resolve(ctx, "log", id, 1, 0); !errors.Is(err, ErrNoProducer) {
		t.Errorf("not open: %v", err)
	}
	if _, err := v.Resolve(ctx, "none", id, 1, 0); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
	if _, err := v.Resolve(ctx, "log", id, 0, 0); !errors.Is(err, ErrInvalid) {
		t.Errorf("sequence 0: %v", err)
	}
	p := Producer{ID: id, Incarnation: mustOpenProducer(t, v, "log", id).Incarnation}
	const last = limits.ProducerWindow + 5
	var verdicts []Verdict
	for q := uint64(1); q <= last; q++ {
		got, err := produce(v, "log", p, q)
		if err != nil {
			t.Fatal(err)
		}
		verdicts = append(verdicts, got)
	}
	for round := range 2 { // and after a restart
		for _, q := range []uint64{last, last - 3} {
			r, err := v.Resolve(ctx, "log", id, q, 0)
			was := verdicts[q-1]
			if err != nil || r.Outcome != Committed || r.First != was.First || r.Count != 1 || r.Checksum != was.Checksum || r.Epoch != 1 || r.Producer.LastSequence != last {
				t.Errorf("%d: %+v, %v; it was %+v", q, r, err, was)
			}
		}
		if r, err := v.Resolve(ctx, "log", id, 5, 0); err != nil || r.Outcome != Committed || r.First != 0 {
			t.Errorf("behind the window: %+v, %v", r, err)
		}
		for _, q := range []uint64{last + 1, last + 9} {
			if r, err := v.Resolve(ctx, "log", id, q, 0); err != nil || r.Outcome != NotWritten || r.First != 0 {
				t.Errorf("%d: %+v, %v", q, r, err)
			}
		}
		if round == 0 {
			closeTest(t, v)
			v = openTest(t, fs)
		}
	}
	mustAcquire(t, v, "log", Acquire{Holder: "db"})
	for _, tc := range []struct {
		sequence uint64
		epoch    Epoch
		want     Outcome
	}{{last, 1, Committed}, {last + 1, 1, Fenced}, {last + 1, 0, Fenced}, {last + 1, 2, NotWritten}} {
		if r, err := v.Resolve(ctx, "log", id, tc.sequence, tc.epoch); err != nil || r.Outcome != tc.want || r.Log.Epoch != 2 || r.Log.Holder != "db" {
			t.Errorf("%+v: %+v, %v", tc, r, err)
		}
	}
	closeTest(t, v)
}

// TestResolveEndsWhatIsUnderWay resolves a batch that is late: on the stream that
// was bound, as a call of its own, and behind a bind that is late too. It never
// lands, whichever way it comes; its producer goes on when it says that it has
// heard of that, and nobody is told before the disk has it.
func TestResolveEndsWhatIsUnderWay(t *testing.T) { synctest.Test(t, resolveEndsWhatIsUnderWay) }

func resolveEndsWhatIsUnderWay(t *testing.T) {
	ctx := t.Context()
	faulty := disk.NewFaulty(disk.NewMem())
	o := testOptions(faulty)
	o.Codec = "none"
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	id := producerID(1)
	old := Producer{ID: id, Incarnation: mustOpenProducer(t, v, "log", id).Incarnation}
	s := newSeat(t, v)
	b, _, _, err := s.Bind("log", old, 0, Claim{})
	if err != nil {
		t.Fatal(err)
	}
	silent := s.bind("log", id) // as one that states no incarnation
	batch := func(b *Binding, q uint64) Batch { return Batch{Binding: b, Sequence: q, Run: run(fmt.Sprint(q))} }
	if got := s.verdicts(batch(silent, 1)); got[0].Err != nil {
		t.Fatal(got[0].Err)
	}
	release := hangSync(v, faulty, func() { mustAppend(t, v, "other", "is on its way") })
	resolved := make(chan Resolution, 1)
	go func() {
		r, err := v.Resolve(ctx, "log", id, 2, 0)
		if err != nil {
			t.Error(err)
		}
		resolved <- r
	}()
	synctest.Wait()
	select {
	case r := <-resolved:
		t.Errorf("told before it is durable: %+v", r)
	default:
	}
	if err := s.Append(ctx, []Batch{batch(silent, 2)}); err != nil {
		t.Fatal(err)
	}
	release()
	r := <-resolved
	if r.Outcome != NotWritten || r.Producer.LastSequence != 1 || r.Producer.Incarnation != 2 {
		t.Errorf("%+v", r)
	}
	var got []Verdict
	for got = s.Take(nil); s.Pending() > 0; got = s.Take(got) {
		<-s.ready
	}
	if !errors.Is(got[0].Err, ErrSuperseded) {
		t.Errorf("on the stream it had: %+v", got[0])
	}
	if got := s.verdicts(batch(b, 2)); !errors.Is(got[0].Err, ErrSuperseded) {
		t.Errorf("on the stream before: %+v", got[0])
	}
	for _, late := range []Producer{old, {ID: id}} {
		if _, err := produce(v, "log", late, 2); !errors.Is(err, ErrSuperseded) {
			t.Errorf("as a call of its own, incarnation %d: %v", late.Incarnation, err)
		}
		if _, _, _, err := newSeat(t, v).Bind("log", late, 0, Claim{}); !errors.Is(err, ErrSuperseded) {
			t.Errorf("behind a bind, incarnation %d: %v", late.Incarnation, err)
		}
	}
	if info := mustOpenProducer(t, v, "log", id); info.Incarnation != 2 || info.LastSequence != 1 {
		t.Errorf("opened again: %+v", info)
	}
	present := Producer{ID: id, Incarnation: 2}
	again := newSeat(t, v)
	b, _, info, err := again.Bind("log", present, 0, Claim{})
	if err != nil || info.Incarnation != 2 || info.LastSequence != 1 {
		t.Fatalf("bound again: %+v, %v", info, err)
	}
	if got := again.verdicts(Batch{Binding: b, Sequence: 2, Run: run("another 2")}); got[0].Err != nil || got[0].First != 2 {
		t.Errorf("it goes on: %+v", got[0])
	}
	if got, err := produce(v, "log", present, 3); err != nil || got.First != 3 {
		t.Errorf("it goes on: %+v, %v", got, err)
	}
	equal(t, readAll(t, v, "log", 0), []string{"1", "another 2", "3"})
	s.Close()
	again.Close()
	closeTest(t, v)
}

// TestProducers: a log lists those that have a slot and those that made way, in
// order, a page at a time, and shows nothing that is not durable.
func TestProducers(t *testing.T) {
	ctx := t.Context()
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	id := func(n int) ulid.ULID { return ulid.ULID{1, 14: byte(n >> 8), 15: byte(n)} }
	mustAppend(t, v, "log", "1", "2")
	for n := range limits.MaxProducersPerLog + 1 { // 0 makes way
		if _, err := v.OpenProducer(ctx, "log", id(n)); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			if _, err := v.Append(ctx, "log", id(0), 0, Batch{Sequence: 1, Incarnation: 1, Run: run("3")}); err != nil {
				t.Fatal(err)
			}
			for other := range 2 { // so that it is the idlest all the same
				if _, err := v.OpenProducer(ctx, "log", id(1000+other)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n > 0 && n < 1000 {
			if _, err := v.Append(ctx, "log", id(n), 0, Batch{Sequence: 1, Incarnation: 1, Run: run("more")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := v.RetireProducer(ctx, "log", id(7)); err != nil {
		t.Fatal(err)
	}
	var all []KnownProducer
	for after, more := (ulid.ULID{}), true; more; after = all[len(all)-1].ID {
		var page []KnownProducer
		var err error
		if page, more, err = v.Producers("log", after, 100); err != nil || len(page) == 0 || len(page) > 100 {
			t.Fatalf("%d producers behind %s, %v", len(page), after, err)
		}
		all = append(all, page...)
	}
	if len(all) != limits.MaxProducersPerLog+1 {
		t.Fatalf("%d producers", len(all))
	}
	way := 0
	for n, p := range all {
		if p.ID != id(n) || p.Incarnation != 1 || p.Retired != (n == 7) {
			t.Fatalf("producer %d: %+v", n, p)
		}
		if p.MadeWay {
			way++
			if p.Active != 0 || n != 0 || p.LastSequence != 1 {
				t.Errorf("made way: %d, %+v", n, p)
			}
		}
	}
	if p := all[7]; p.LastSequence != 1 || p.Active != 10 {
		t.Errorf("%+v", p)
	}
	if way != 1 {
		t.Errorf("%d made way", way)
	}
	if _, _, err := v.Producers("none", ulid.ULID{}, 1); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
}
