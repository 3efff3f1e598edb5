package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// mustCreateTogether creates logs that may be in one batch.
func mustCreateTogether(t testing.TB, v *Volume, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, _, err := v.CreateLog(context.Background(), name, LogOptions{ColocationKey: "engine"}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPartVerdicts goes through what becomes of batches over several logs: all
// lands, or nothing does and every log of it stops.
func TestPartVerdicts(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreateTogether(t, v, "data", "index", "third")
	mustCreate(t, v, "apart")
	for name, o := range map[string]LogOptions{
		"small":   {QuotaBytes: 20, MaxRecordBytes: 8, ColocationKey: "engine"},
		"slow":    {RateBytes: limits.MinLogRate, ColocationKey: "engine"},
		"another": {ColocationKey: "another engine"},
	} {
		if _, _, err := v.CreateLog(ctx, name, o); err != nil {
			t.Fatal(err)
		}
	}
	for _, log := range []string{"data", "index"} {
		if _, err := v.OpenProducer(ctx, log, producerID(1)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSeat(t, v)
	names := []string{"data", "index", "third", "apart", "small", "slow", "another"}
	b := map[string]*Binding{}
	for _, name := range names {
		b[name] = s.bind(name, ulid.ULID{})
	}
	b["data"] = s.bind("data", producerID(1))
	fenced := b["third"]
	mustAcquire(t, v, "third", Acquire{Holder: "db"})
	var err error
	if b["third"], _, _, err = s.Bind("third", Producer{}, 2, Claim{}); err != nil {
		t.Fatal(err)
	}
	superseded := s.bind("index", producerID(1))
	b["again"] = s.bind("index", producerID(1))

	part := func(log string, records ...string) Part { return Part{Binding: b[log], Run: run(records...)} }
	expecting := func(p Part, lsn LSN) Part { p.Expected = lsn; return p }
	many := make([]Part, limits.MaxBatchLogs)
	for i := range many {
		name := fmt.Sprintf("many-%d", i)
		mustCreateTogether(t, v, name)
		many[i] = Part{Binding: s.bind(name, ulid.ULID{}), Run: run("m")}
	}
	half := make([]byte, 0, v.maxBatch)
	for len(half)+1000 < v.maxBatch/2+2000 {
		half = append(half, run(strings.Repeat("h", 900))...)
	}
	for _, step := range []struct {
		name  string
		batch Batch
		first []LSN // of the lead and the parts
		again bool
		want  error
		log   string // that the refusal names
	}{
		{name: "three logs", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("index", "a"), part("third", "x", "y")}}, first: []LSN{1, 1, 1}},
		{name: "repeat", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("index", "a"), part("third", "x", "y")}}, first: []LSN{1, 1, 1}, again: true},
		{name: "repeat before its conditions", batch: Batch{Binding: b["data"], Sequence: 1, Expected: 9, Run: run("1", "2"), Parts: []Part{expecting(part("index", "a"), 9), {Binding: fenced, Run: run("x", "y")}}}, first: []LSN{1, 1, 1}, again: true},
		{name: "reuse without a part", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("index", "a")}}, want: ErrSequenceReuse, log: "data"},
		{name: "reuse without any", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2")}, want: ErrSequenceReuse, log: "data"},
		{name: "reuse with other bytes", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("index", "b"), part("third", "x", "y")}}, want: ErrSequenceReuse, log: "data"},
		{name: "reuse for another log", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("apart", "a"), part("third", "x", "y")}}, want: ErrSequenceReuse, log: "data"},
		{name: "reuse in another order", batch: Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("third", "x", "y"), part("index", "a")}}, want: ErrSequenceReuse, log: "data"},
		{name: "gap", batch: Batch{Binding: b["data"], Sequence: 3, Run: run("3"), Parts: []Part{part("index", "b")}}, want: ErrSequenceGap, log: "data"},
		{name: "a part expects another LSN", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("third", "z"), expecting(part("index", "b"), 9)}}, want: ErrLSNMismatch, log: "index"},
		{name: "a part of an older epoch", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("index", "b"), {Binding: fenced, Run: run("z")}}}, want: ErrFenced, log: "third"},
		{name: "a part over its quota", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("index", "b"), part("small", "12345678", "12345678", "1")}}, want: ErrQuota, log: "small"},
		{name: "a part with a large record", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("small", "123456789")}}, want: ErrTooLarge, log: "small"},
		{name: "an empty part", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("index")}}, want: ErrEmptyBatch, log: "index"},
		{name: "a malformed part", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{{Binding: b["index"], Run: []byte{200}}}}, want: ErrMalformed, log: "index"},
		{name: "a log that has no colocation key", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("apart", "z")}}, want: ErrNotColocated, log: "apart"},
		{name: "a log that has another one", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("index", "b"), part("another", "z")}}, want: ErrNotColocated, log: "another"},
		{name: "the lead has none", batch: Batch{Binding: b["apart"], Run: run("3"), Parts: []Part{part("index", "b")}}, want: ErrNotColocated, log: "index"},
		{name: "the lead as a part", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("data", "4")}}, want: ErrDuplicateLog, log: "data"},
		{name: "a log twice, bound twice", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("index", "b"), part("again", "c")}}, want: ErrDuplicateLog, log: "index"},
		{name: "too many logs", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: many}, want: ErrTooLarge, log: "data"},
		{name: "too large together", batch: Batch{Binding: b["data"], Sequence: 2, Run: half, Parts: []Part{{Binding: b["index"], Run: half}}}, want: ErrTooLarge, log: "data"},
		{name: "a part's producer was bound again", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{{Binding: superseded, Run: run("b")}}}, want: ErrSuperseded, log: "index"},
		{name: "a part's log takes its rate", batch: Batch{Binding: b["data"], Sequence: 2, Run: run("3"), Parts: []Part{part("slow", strings.Repeat("s", 4096))}}, first: []LSN{3, 1}},
		{name: "and then no more", batch: Batch{Binding: b["data"], Sequence: 3, Run: run("4"), Parts: []Part{part("index", "b"), part("slow", "s")}}, want: ErrRateQuota, log: "slow"},
		{name: "what was refused left nothing behind", batch: Batch{Binding: b["data"], Sequence: 3, Expected: 4, Run: run("4"), Parts: []Part{expecting(part("again", "b"), 2), expecting(part("third", "z"), 3)}}, first: []LSN{4, 2, 3}},
		{name: "most logs", batch: Batch{Binding: b["data"], Sequence: 4, Run: run("5"), Parts: many[1:]}, first: append([]LSN{5}, slices.Repeat([]LSN{1}, limits.MaxBatchLogs-1)...)},
		{name: "without a producer", batch: Batch{Binding: b["index"], Run: run("c"), Parts: []Part{part("third", "zz")}}, first: []LSN{3, 4}},
	} {
		got := s.verdicts(step.batch)[0]
		if !errors.Is(got.Err, step.want) || got.Repeated != step.again {
			t.Fatalf("%s: %+v, want %v", step.name, got, step.want)
		}
		if step.want == nil {
			first := []LSN{got.First}
			for i, p := range got.Parts {
				first = append(first, p.First)
				if want := step.batch.Parts[i].Binding; p.Log != want.Log || p.Name != want.name || p.Epoch == 0 || p.Count == 0 {
					t.Errorf("%s: part %d: %+v", step.name, i, p)
				}
			}
			if !slices.Equal(first, step.first) {
				t.Fatalf("%s: at %d, want %d", step.name, first, step.first)
			}
			continue
		}
		if !strings.Contains(got.Err.Error(), fmt.Sprintf("log %q", step.log)) || got.Parts != nil || got.First != 0 {
			t.Errorf("%s: %+v, want log %q named", step.name, got, step.log)
		}
		if part := (*PartError)(nil); errors.As(got.Err, &part) && part.Log != step.log {
			t.Errorf("%s: of log %q, want %q", step.name, part.Log, step.log)
		}
		// Every log in it stops, and no other; a repeat is answered all the same.
		for _, name := range []string{"data", "index", "third", "small"} {
			in := step.batch.Binding == b[name]
			for _, p := range step.batch.Parts {
				in = in || p.Binding == b[name]
			}
			if b[name].refused != in {
				t.Errorf("%s: log %q is stopped: %t", step.name, name, b[name].refused)
			}
		}
		if again := s.verdicts(Batch{Binding: b["data"], Sequence: 1, Run: run("1", "2"), Parts: []Part{part("index", "a"), part("third", "x", "y")}})[0]; again.Err != nil || len(again.Parts) != 2 {
			t.Errorf("%s: a repeat behind it: %+v", step.name, again)
		}
		s.Reset(step.batch.Binding)
		for _, p := range step.batch.Parts {
			s.Reset(p.Binding)
		}
	}

	// One binding of a batch that was refused before stops all of it.
	if got := s.verdicts(Batch{Binding: b["third"], Expected: 9, Run: run("?")}, Batch{Binding: b["data"], Sequence: 5, Run: run("?"), Parts: []Part{part("index", "?"), part("third", "?")}},
		Batch{Binding: b["index"], Run: run("?")}); !errors.Is(got[0].Err, ErrLSNMismatch) || !errors.Is(got[1].Err, ErrAfterRefusal) || !errors.Is(got[2].Err, ErrAfterRefusal) {
		t.Errorf("behind a refusal of one log: %v, %v, %v", got[0].Err, got[1].Err, got[2].Err)
	}
	s.Close()
	repeat := Batch{Sequence: 3, Run: run("4"), Parts: []Part{{Log: "index", Run: run("b")}, {Log: "third", Run: run("z")}}}
	for range 2 { // as it is, and as the next process finds it
		equal(t, readAll(t, v, "data", 0), []string{"1", "2", "3", "4", "5"})
		equal(t, readAll(t, v, "index", 0), []string{"a", "b", "c"})
		equal(t, readAll(t, v, "third", 0), []string{"x", "y", "z", "zz"})
		again, err := v.Append(ctx, "data", producerID(1), 0, repeat)
		if err != nil || !again.Repeated || again.First != 4 || len(again.Parts) != 2 || again.Parts[0].First != 2 || again.Parts[1].First != 3 || again.Parts[1].Epoch != 2 {
			t.Fatalf("repeated by a call: %+v, %v", again, err)
		}
		r, err := v.Resolve(ctx, "data", producerID(1), 3, 0)
		if err != nil || r.Outcome != Committed || !slices.Equal(r.Parts, again.Parts) {
			t.Fatalf("resolved: %+v, %v; want %+v", r, err, again.Parts)
		}
		repeat.Incarnation = r.Producer.Incarnation
		closeTest(t, v)
		v = openTest(t, fs)
	}
	if _, err := v.Append(ctx, "data", ulid.ULID{}, 0, Batch{Run: run("?"), Parts: []Part{{Log: "gone", Run: run("?")}}}); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("a part of no log: %v", err)
	}
	if err := v.DeleteLog(ctx, "third", ulid.ULID{}); err != nil {
		t.Fatal(err)
	}
	if r, err := v.Resolve(ctx, "data", producerID(1), 3, 0); err != nil || len(r.Parts) != 2 || r.Parts[1].Name != "" || r.Parts[1].First != 3 {
		t.Errorf("a part in a log that was deleted since: %+v, %v", r, err)
	}
	closeTest(t, v)
}

// TestPartsShowTogether has readers look at two logs while batches over both land:
// nobody who saw one of them is shown the other without it.
func TestPartsShowTogether(t *testing.T) {
	ctx := t.Context()
	v := openTest(t, disk.NewMem())
	mustCreateTogether(t, v, "a", "b")
	const batches = 200
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		readers.Go(func() {
			r, err := v.NewReader(order[0], ReadOptions{From: 1, Follow: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			for last := LSN(0); last < batches; {
				span, err := r.Next(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				last = span.First + LSN(span.Count) - 1
				if other, err := v.Log(order[1]); err != nil || other.Durable() < last {
					t.Errorf("log %q shows %d, log %q then %d; %v", order[0], last, order[1], other.Durable(), err)
					return
				}
				if got := readAll(t, v, order[1], last); len(got) == 0 {
					t.Errorf("log %q shows %d, and log %q does not have it", order[0], last, order[1])
					return
				}
			}
		})
	}
	go func() { defer close(done); readers.Wait() }()
	for i := range batches {
		rec := fmt.Sprint(i)
		if _, err := v.Append(ctx, "a", ulid.ULID{}, 0, Batch{Run: run(rec), Parts: []Part{{Log: "b", Run: run(rec)}}}); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	closeTest(t, v)
}

// TestPartsFillAFrame has batches of as many logs as there may be close a frame by
// their commands: all of one are in it, and no frame has more than are read.
func TestPartsFillAFrame(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	o.SegmentSize = 32 << 20 // so that frames are not full of bytes before
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	s := newSeat(t, v)
	var parts []Part
	for i := range limits.MaxBatchLogs {
		name := fmt.Sprintf("log-%02d", i)
		mustCreateTogether(t, v, name)
		parts = append(parts, Part{Binding: s.bind(name, ulid.ULID{}), Run: run("")})
	}
	batch := Batch{Binding: parts[0].Binding, Run: run(""), Parts: parts[1:]}
	n := 2 * limits.MaxCommandsPerFrame / limits.MaxBatchLogs
	got := s.verdicts(slices.Repeat([]Batch{batch}, n)...)
	if last := got[len(got)-1]; last.Err != nil || last.First != LSN(n) || last.Parts[14].First != LSN(n) {
		t.Fatalf("%+v", last)
	}
	s.Close()
	closeTest(t, v)
	v = openTest(t, fs)
	if info, err := v.Log("log-15"); err != nil || info.Durable() != LSN(n) {
		t.Errorf("%+v, %v", info, err)
	}
	closeTest(t, v)
}

// TestPartsRepaired loses batches over several logs, or the logs they are of: what is
// lost is named in each log, and a part goes on without the others.
func TestPartsRepaired(t *testing.T) {
	ctx := t.Context()
	both := func(v *Volume) {
		t.Helper()
		if _, err := v.OpenProducer(ctx, "data", producerID(1)); err != nil {
			t.Fatal(err)
		}
		for q := range uint64(2) {
			b := Batch{Sequence: q + 1, Run: run("d"), Parts: []Part{{Log: "index", Run: run("i", "j")}}}
			if _, err := v.Append(ctx, "data", producerID(1), 0, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	one := func(v *Volume) {
		t.Helper()
		if _, err := v.Append(ctx, "data", ulid.ULID{}, 0, Batch{Run: run("d"), Parts: []Part{{Log: "index", Run: run("i", "j")}}}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the batch", func(t *testing.T) {
		p, v := losing(t, func(v *Volume) { mustCreateTogether(t, v, "data", "index"); both(v) }, one, one)
		defer closeTest(t, v)
		if want := []LostRecords{{Log: "data", First: 3, Last: 3}, {Log: "index", First: 5, Last: 6}}; !slices.Equal(p.Records, want) {
			t.Errorf("lost %+v, want %+v", p.Records, want)
		}
		equal(t, readAll(t, v, "index", 7), []string{"i", "j"})
		// What is remembered of the batches in front of it is.
		r, err := v.Resolve(ctx, "data", producerID(1), 2, 0)
		if err != nil || r.Outcome != Committed || len(r.Parts) != 1 || r.Parts[0].First != 3 {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("the lead's creation", func(t *testing.T) {
		_, v := losing(t, func(v *Volume) { mustCreateTogether(t, v, "index") }, func(v *Volume) { mustCreateTogether(t, v, "data") }, one)
		defer closeTest(t, v)
		equal(t, readAll(t, v, "index", 0), []string{"i", "j"})
	})
	t.Run("a part's creation", func(t *testing.T) {
		_, v := losing(t, func(v *Volume) { mustCreateTogether(t, v, "data") }, func(v *Volume) { mustCreateTogether(t, v, "index") }, one)
		defer closeTest(t, v)
		equal(t, readAll(t, v, "data", 0), []string{"d"})
	})
	t.Run("a block", func(t *testing.T) {
		mem := disk.NewMem()
		o := Options{FS: mem, Create: true, SegmentSize: 1 << 20, PrepareRate: -1, Codec: "none", SnapshotEvery: 1 << 40}
		v, err := Open(ctx, "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		mustCreateTogether(t, v, "data", "index")
		v.mu.RLock()
		at := v.last.Pos
		v.mu.RUnlock()
		large := strings.Repeat("x", 40<<10) // of which each log has a block to itself
		if _, err := v.Append(ctx, "data", ulid.ULID{}, 0, Batch{Run: run(large), Parts: []Part{{Log: "index", Run: run(large)}}}); err != nil {
			t.Fatal(err)
		}
		one(v)
		closeTest(t, v)
		corrupt(t, mem, at, limits.FrameHeaderSize+60<<10)
		p := repairAgain(t, mem)
		if want := []LostRecords{{Log: "index", First: 1, Last: 1}}; !slices.Equal(p.Records, want) {
			t.Errorf("lost %+v, want %+v", p.Records, want)
		}
		v, err = Open(ctx, "/vol", Options{FS: mem, PrepareRate: -1, Codec: "none"})
		if err != nil {
			t.Fatal(err)
		}
		defer closeTest(t, v)
		equal(t, readAll(t, v, "data", 0), []string{large, "d"})
		equal(t, readAll(t, v, "index", 2), []string{"i", "j"})
	})
}

// TestPartOfAnEpochThatIsOver binds a log for the parts of batches, stating an epoch that
// is over, as who comes back on another stream does: what had landed in it is told
// where, and what had not is fenced, with its log's name.
func TestPartOfAnEpochThatIsOver(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	mustCreateTogether(t, v, "data", "index")
	old := mustAcquire(t, v, "index", Acquire{Holder: "old"}).Log.Epoch
	if _, err := v.OpenProducer(ctx, "data", producerID(1)); err != nil {
		t.Fatal(err)
	}
	batch := func(s *seat, sequence uint64) Batch {
		index, _, _, err := s.Bind("index", Producer{}, old, Claim{})
		if err != nil {
			t.Fatalf("bound in epoch %d: %v", old, err)
		}
		return Batch{Binding: s.bind("data", producerID(1)), Sequence: sequence, Run: run("row"), Parts: []Part{{Binding: index, Run: run("entry")}}}
	}
	s := newSeat(t, v)
	first := s.verdicts(batch(s, 1))[0]
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	end := func(is error) {
		t.Helper()
		s := newSeat(t, v)
		if again := s.verdicts(batch(s, 1))[0]; !again.Repeated || again.Err != nil || again.Parts[0].First != first.Parts[0].First {
			t.Errorf("what had landed: %+v", again)
		}
		var part *PartError
		if late := s.verdicts(batch(s, 2))[0]; !errors.Is(late.Err, is) || !errors.As(late.Err, &part) || part.Log != "index" {
			t.Errorf("what had not: %+v", late)
		}
	}
	mustAcquire(t, v, "index", Acquire{Holder: "new"})
	end(ErrFenced)
	if _, err := v.SealLog(ctx, "index", nil); err != nil {
		t.Fatal(err)
	}
	end(ErrSealed)
	if info, err := v.Log("data"); err != nil || info.Durable() != 1 {
		t.Errorf("the lead ends at %d, %v", info.Durable(), err)
	}
	closeTest(t, v)
}
