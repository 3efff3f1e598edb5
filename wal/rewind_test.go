package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

func mustRewind(t testing.TB, v *Volume, log string, r Rewind) Rewound {
	t.Helper()
	if r.Epoch == 0 {
		info, err := v.Log(log)
		if err != nil {
			t.Fatal(err)
		}
		r.Epoch = info.Epoch
	}
	done, err := v.Rewind(context.Background(), log, r)
	if err != nil {
		t.Fatalf("rewind %q behind LSN %d: %v", log, r.After, err)
	}
	return done
}

// wantRewound checks that somebody is told which epoch began, and behind which LSN.
func wantRewound(t testing.TB, err error, epoch Epoch, kept LSN) {
	t.Helper()
	var r *RewoundError
	if !errors.As(err, &r) || !errors.Is(err, ErrRewound) || r.Epoch != epoch || r.Kept != kept {
		t.Errorf("%v, want epoch %d begun behind LSN %d", err, epoch, kept)
	}
}

func TestRewind(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	var sums []Checksum // behind each LSN
	for _, batch := range [][]string{{"1", "2", "3"}, {"4"}, {"5", "6", "7"}} {
		got := mustAppend(t, v, "log", batch...)
		for range batch {
			sums = append(sums, got.Checksum)
		}
	}
	sums[1] = Checksum(crc32.Checksum(run("1", "2"), castagnoli))

	plan := Rewind{After: 5, Epoch: 1, Plan: true}
	if would := mustRewind(t, v, "log", plan); would.Records != 2 || would.Bytes != uint64(len(run("6", "7"))) || would.Log.Next != 8 {
		t.Errorf("planned: %+v", would)
	}
	request := ulid.ULID{15: 1}
	for again := range 3 {
		got := mustRewind(t, v, "log", Rewind{After: 5, Epoch: 1, Holder: "db-2", Request: request})
		if got.Log.Epoch != 2 || got.Log.Holder != "db-2" || got.Log.Next != 6+LSN(again) || got.Repeated != (again > 0) || !got.Repeated && got.Records != 2 || got.Repeated && got.Records != 0 {
			t.Fatalf("%+v", got)
		}
		if got, err := appendIn(v, "log", 2, fmt.Sprintf("new %d", again+6)); err != nil || got.First != LSN(again+6) || got.Epoch != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	_, err := v.Rewind(ctx, "log", Rewind{After: 4, Epoch: 1, Request: request})
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("the request with another LSN: %v", err)
	}
	_, err = appendIn(v, "log", 1, "late")
	wantFenced(t, err, 1, 2, "db-2")
	equal(t, readAll(t, v, "log", 0), []string{"1", "2", "3", "4", "5", "new 6", "new 7", "new 8"})

	// Into the first batch, and the log is shared again.
	done := mustRewind(t, v, "log", Rewind{After: 2, Epoch: 2, Next: 9})
	if done.Log.Epoch != 3 || done.Log.Holder != "" || done.Log.Next != 3 || done.Log.Checksum != sums[1] || done.Log.LiveBytes != uint64(len(run("1", "2"))) {
		t.Errorf("%+v, want checksum %08x", done, sums[1])
	}
	if cuts := done.Log.Rewinds; len(cuts) != 1 || cuts[0].Epoch != 3 || cuts[0].LSN != 2 || cuts[0].Next != 9 {
		t.Errorf("remembered: %+v", cuts)
	}
	mustAppend(t, v, "log", "C", "D")
	for range 2 { // from commands, and then from a snapshot
		equal(t, readAll(t, v, "log", 0), []string{"1", "2", "C", "D"})
		closeTest(t, v)
		v = openTest(t, fs)
		if info, err := v.Log("log"); err != nil || info.Epoch != 3 || info.Next != 5 || len(info.Rewinds) != 1 {
			t.Fatalf("after a restart: %+v, %v", info, err)
		}
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}

	// Nothing is kept.
	done = mustRewind(t, v, "log", Rewind{After: 0, Epoch: 3})
	if done.Log.Next != 1 || done.Log.Checksum != 0 || done.Log.LiveBytes != 0 || done.Records != 4 {
		t.Errorf("%+v", done)
	}
	if got := mustAppend(t, v, "log", "one"); got.First != 1 || got.Checksum != Checksum(crc32.Checksum(run("one"), castagnoli)) {
		t.Errorf("%+v", got)
	}
	equal(t, readAll(t, v, "log", 0), []string{"one"})
	closeTest(t, v)
}

// TestRewindRefused: each refusal says why, and nothing is lost.
func TestRewindRefused(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	mustCreate(t, v, "log")
	for i := range 9 {
		mustAppend(t, v, "log", fmt.Sprint(i+1))
	}
	if _, err := v.Truncate(ctx, "log", 3); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 5}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r    Rewind
		want error
		says string
	}{
		{Rewind{After: 6}, ErrInvalid, "epoch"},
		{Rewind{After: 6, Epoch: 1, Holder: "no spaces"}, ErrInvalidName, "holder"},
		{Rewind{After: 6, Epoch: 2}, ErrFenced, "epoch 2"},
		{Rewind{After: 10, Epoch: 1}, ErrLSNAhead, "LSN 10"},
		{Rewind{After: 1<<64 - 1, Epoch: 1}, ErrLSNAhead, ""},
		{Rewind{After: 1, Epoch: 1}, ErrLSNTruncated, "LSN 1"},
		{Rewind{After: 4, Epoch: 1}, ErrHeld, `checkpoint "cp"`},
		{Rewind{After: 6, Epoch: 1, Next: 9}, ErrLSNMismatch, "the next is 10"},
	} {
		for _, plan := range []bool{true, false} {
			c.r.Plan = plan
			if _, err := v.Rewind(ctx, "log", c.r); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v, want %v", c.r, err, c.want)
			}
		}
	}
	if _, err := v.Rewind(ctx, "nope", Rewind{Epoch: 1}); !errors.Is(err, ErrLogNotFound) {
		t.Error(err)
	}
	if info, err := v.Log("log"); err != nil || info.Epoch != 1 || info.Next != 10 {
		t.Errorf("%+v, %v", info, err)
	}
	// As far as the checkpoint goes, and, without it, as far as what is truncated.
	mustRewind(t, v, "log", Rewind{After: 5})
	if err := v.DeleteCheckpoint(ctx, "log", "cp", nil); err != nil {
		t.Fatal(err)
	}
	if got := mustRewind(t, v, "log", Rewind{After: 2}); got.Log.First != 3 || got.Log.Next != 3 || got.Log.LiveBytes != 0 ||
		got.Log.Checksum != Checksum(crc32.Checksum(run("1", "2"), castagnoli)) {
		t.Errorf("%+v", got)
	}

	// More than are remembered: each one behind the last, and nothing truncated.
	for i := range limits.MaxRewinds {
		mustAppend(t, v, "log", "kept", "discarded")
		_, err := v.Rewind(ctx, "log", Rewind{After: LSN(3 + i), Epoch: Epoch(3 + i)})
		if i < limits.MaxRewinds-1 && err != nil || i == limits.MaxRewinds-1 && !errors.Is(err, ErrTooManyRewinds) {
			t.Fatalf("rewind %d: %v", i, err)
		}
	}
	for _, makeRoom := range []func() error{
		func() error { _, err := v.Truncate(ctx, "log", 7); return err },
		func() error { return nil }, // it was, and left room for two
	} {
		info, err := v.Log("log")
		if err == nil {
			err = makeRoom()
		}
		if err != nil {
			t.Fatal(err)
		}
		mustRewind(t, v, "log", Rewind{After: info.Durable() - 1})
		mustAppend(t, v, "log", "kept", "discarded")
	}
	closeTest(t, v)
}

// TestRewindTellsReaders: who was given a discarded record is told, who was not goes
// on with what comes in its place.
func TestRewindTellsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		fs := disk.NewMem()
		o := testOptions(fs)
		o.Codec = "none"
		v, err := Open(ctx, "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		mustCreate(t, v, "log")
		mustAppend(t, v, "log", "1", "2", "3", "4")
		mustAppend(t, v, "log", "5", "6")
		reader := func(o ReadOptions, n int) *Reader {
			r, err := v.NewReader("log", o)
			if err == nil && n > 0 {
				o.Max = 1 // a record at a time
				r.o.Max = 1
				_, err = follow(ctx, r, n)
			}
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		beyond := reader(ReadOptions{Follow: true}, 5)
		atEnd := reader(ReadOptions{Follow: true}, 6)
		toEnd := reader(ReadOptions{}, 6)
		below := reader(ReadOptions{Follow: true}, 2)
		at := reader(ReadOptions{Follow: true}, 3)
		ends := reader(ReadOptions{}, 1)
		waits := make(chan error, 4)
		go func() { _, err := follow(ctx, atEnd, 1); waits <- err }()
		go func() { _, err := v.WaitDurable(ctx, "log", 7); waits <- err }()
		go func() { _, err := v.NextDurable(ctx, "log", 0, 6, 1); waits <- err }()
		go func() { _, err := v.NextDurable(ctx, "log", 0, 6, 0); waits <- err }()
		synctest.Wait()

		mustRewind(t, v, "log", Rewind{After: 3})
		for range 4 {
			wantRewound(t, <-waits, 2, 3)
		}
		next := make(chan LSN, 1)
		go func() { info, _ := v.NextDurable(ctx, "log", 0, 3, 1); next <- info.Durable() }()
		mustAppend(t, v, "log", "four", "five", "six", "seven")
		if lsn := <-next; lsn != 7 {
			t.Errorf("watched from where it was cut: %d", lsn)
		}
		for _, r := range []*Reader{beyond, atEnd, toEnd} {
			for range 2 { // and is told again
				_, err := r.Next(ctx)
				wantRewound(t, err, 2, 3)
			}
		}
		for want, r := range map[string]*Reader{"3 four five six seven": below, "four five six seven": at} {
			got, err := follow(ctx, r, strings.Count(want, " ")+1)
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		}
		// One that is to end where the log ended does not read more of this one.
		if got, err := follow(ctx, ends, 5); err != nil || strings.Join(got, " ") != "2 3 four five six" {
			t.Errorf("%q, %v", got, err)
		}
		// Who comes back says in which epoch it was told.
		_, err = v.NewReader("log", ReadOptions{From: 5, Epoch: 1})
		wantRewound(t, err, 2, 3)
		_, err = v.WaitDurableIn(ctx, "log", 1, 5)
		wantRewound(t, err, 2, 3)
		if _, err := v.NewReader("log", ReadOptions{From: 4, Epoch: 1}); err != nil {
			t.Error(err)
		}
		if lsn, err := v.WaitDurableIn(ctx, "log", 2, 5); err != nil || lsn != 7 {
			t.Errorf("%d, %v", lsn, err)
		}
		closeTest(t, v)
	})
}

// TestRewindOvertakesReader: the log is rewound, and appended to again, after a
// reader has looked how far it goes and before it has read that far.
func TestRewindOvertakesReader(t *testing.T) {
	ctx := context.Background()
	for _, from := range []LSN{1, 3, 5} {
		v := openTest(t, disk.NewMem())
		mustCreate(t, v, "log")
		for i := range 6 {
			mustAppend(t, v, "log", fmt.Sprintf("old %d", i+1))
		}
		r, err := v.NewReader("log", ReadOptions{From: from, Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		if from == 5 {
			if _, err := follow(ctx, r, 1); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, err := r.reach(); err != nil {
			t.Fatal(err)
		}
		mustRewind(t, v, "log", Rewind{After: 3})
		for i := range 6 {
			mustAppend(t, v, "log", fmt.Sprintf("new %d", i+4))
		}
		// As Next does, with what was known before, in a span of several batches.
		r.full = r.o.Max
		_, err = r.read(6)
		if !r.overtaken(err) {
			t.Errorf("from LSN %d: what was read of two histories passes: %v", from, err)
		}
		r.next, r.held = from, nil
		if from == 5 {
			r.next = 6
		}
		got, err := follow(ctx, r, 9-int(from)+1)
		if from == 5 {
			wantRewound(t, err, 2, 3)
		} else if err != nil || got[len(got)-1] != "new 9" || from == 1 && got[2] != "old 3" {
			t.Errorf("from LSN %d: %q, %v", from, got, err)
		}
		closeTest(t, v)
	}
}

// TestRewindCursors: a cursor beyond the cut is taken back, holds what is behind it,
// and says so until it is set again with a reset.
func TestRewindCursors(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2", "3", "4", "5", "6")
	for name, lsn := range map[string]LSN{"beyond": 5, "at": 3, "below": 1} {
		if _, err := v.SetCursor(ctx, "log", CursorUpdate{Name: name, LSN: lsn}); err != nil {
			t.Fatal(err)
		}
	}
	mustRewind(t, v, "log", Rewind{After: 4})
	mustRewind(t, v, "log", Rewind{After: 3})
	mustAppend(t, v, "log", "four", "five", "six")
	closeTest(t, v)
	v = openTest(t, fs)
	for name, want := range map[string]CursorState{"beyond": CursorRewound, "at": CursorReserved, "below": CursorReserved} {
		if c, err := v.Cursor("log", name); err != nil || c.State != want {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if c, _ := v.Cursor("log", "beyond"); c.LSN != 3 || c.Was != 5 || c.Rewound != 3 || c.Records != 3 || c.LiveBytes != uint64(len(run("four", "five", "six"))) {
		t.Errorf("%+v", c)
	}
	five := LSN(5)
	for _, u := range []CursorUpdate{{Name: "beyond", LSN: 6}, {Name: "beyond", LSN: 3}, {Name: "beyond", LSN: 6, Expected: &five}} {
		_, err := v.SetCursor(ctx, "log", u)
		wantRewound(t, err, 3, 3)
		if !strings.Contains(err.Error(), `cursor "beyond" at LSN 5`) {
			t.Error(err)
		}
	}
	_, err := v.NewReader("log", ReadOptions{Cursor: "beyond"})
	wantRewound(t, err, 3, 3)
	if _, err := v.Truncate(ctx, "log", 3); !errors.Is(err, ErrHeld) {
		t.Errorf("truncate: %v", err)
	}
	if c, err := v.SetCursor(ctx, "log", CursorUpdate{Name: "beyond", LSN: 3, Reset: true}); err != nil || c.State != CursorReserved || c.Rewound != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := v.SetCursor(ctx, "log", CursorUpdate{Name: "beyond", LSN: 4}); err != nil || c.State != CursorReserved {
		t.Errorf("%+v, %v", c, err)
	}
	closeTest(t, v)
}

// TestRewindProducers: a batch that was discarded is never appended again, and its
// sequence stays used.
func TestRewindProducers(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	p := producerID(1)
	if _, err := v.OpenProducer(ctx, "log", p); err != nil {
		t.Fatal(err)
	}
	send := func(sequence uint64) (Verdict, error) {
		records := []string{fmt.Sprint(sequence), "and"}
		return v.Append(ctx, "log", p, 0, Batch{Sequence: sequence, Run: run(records...)})
	}
	for q := range uint64(3) { // LSN 1 and 2, 3 and 4, 5 and 6
		if _, err := send(q + 1); err != nil {
			t.Fatal(err)
		}
	}
	mustRewind(t, v, "log", Rewind{After: 3})
	mustAppend(t, v, "log", "another's", "also")
	check := func(when string) {
		t.Helper()
		if got, err := send(1); err != nil || !got.Repeated || got.First != 1 {
			t.Errorf("%s: one that was kept: %+v, %v", when, got, err)
		}
		for q := uint64(2); q <= 3; q++ { // in part, and whole
			_, err := send(q)
			var d *DiscardedError
			if !errors.As(err, &d) || d.Sequence != q || d.First != LSN(2*q-1) || d.Count != 2 || d.Rewound != 2 || d.Kept != 3 {
				t.Errorf("%s: sequence %d: %v", when, q, err)
			}
		}
		equal(t, readAll(t, v, "log", 0), []string{"1", "and", "2", "another's", "also"})
	}
	check("at once")
	// Below what is kept nothing tells of it any more but the producer.
	if _, err := v.Truncate(ctx, "log", 6); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, v, "log", "6", "7")
	if _, err := v.Truncate(ctx, "log", 8); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		closeTest(t, v)
		v = openTest(t, fs)
		for q, want := range map[uint64]Outcome{1: Committed, 2: Discarded, 3: Discarded} {
			if r, err := v.Resolve(ctx, "log", p, q, 0); err != nil || r.Outcome != want || r.First != LSN(2*q-1) {
				t.Errorf("resolve %d: %+v, %v", q, r, err)
			}
		}
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := v.Resolve(ctx, "log", p, 4, 0); err != nil || r.Outcome != NotWritten || r.Producer.LastSequence != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	closeTest(t, v)
}

// TestRewindOfAPart: a batch over several logs of which one was rewound is not there as
// a whole any more, whichever log that is.
func TestRewindOfAPart(t *testing.T) {
	ctx := context.Background()
	for _, rewound := range []string{"data", "index"} {
		v := openTest(t, disk.NewMem())
		mustCreateTogether(t, v, "data", "index")
		p := producerID(1)
		if _, err := v.OpenProducer(ctx, "data", p); err != nil {
			t.Fatal(err)
		}
		s := newSeat(t, v)
		batch := func() Batch {
			return Batch{Binding: s.bind("data", p), Sequence: 1, Run: run("1"), Parts: []Part{{Binding: s.bind("index", ulid.ULID{}), Run: run("a", "b")}}}
		}
		s.verdicts(batch())
		if got := s.verdicts(batch())[0]; got.Err != nil || !got.Repeated {
			t.Errorf("%+v", got)
		}
		mustRewind(t, v, rewound, Rewind{After: 0})
		var d *DiscardedError
		if got := s.verdicts(batch())[0]; !errors.As(got.Err, &d) || d.Log != rewound || d.Sequence != 1 || d.First != 1 || got.Repeated {
			t.Errorf("log %q was rewound: %+v", rewound, got)
		}
		if r, err := v.Resolve(ctx, "data", p, 1, 0); err != nil || r.Outcome != Discarded {
			t.Errorf("%+v, %v", r, err)
		}
		s.Close()
		closeTest(t, v)
	}
}

// TestRewindTellsAppenders: what a stream has under way behind the rewind is refused,
// though it states no epoch: its first batches may have been discarded.
func TestRewindTellsAppenders(t *testing.T) {
	v := openTest(t, disk.NewMem())
	mustCreate(t, v, "log")
	s := newSeat(t, v)
	b := s.bind("log", ulid.ULID{})
	batch := func(r string) Batch { return Batch{Binding: b, Run: run(r)} }
	s.verdicts(batch("1"), batch("2"))
	mustRewind(t, v, "log", Rewind{After: 1})
	got := s.verdicts(batch("3"), batch("4"))
	wantRewound(t, got[0].Err, 2, 1)
	if !errors.Is(got[1].Err, ErrAfterRefusal) {
		t.Errorf("behind it: %v", got[1].Err)
	}
	s.Reset(b)
	if got := s.verdicts(batch("two")); got[0].Err != nil || got[0].First != 2 || got[0].Epoch != 2 {
		t.Errorf("%+v", got)
	}
	s.Close()
	closeTest(t, v)
}

// A rewindModel is a log as anybody would write it down, with what it was.
type rewindModel struct {
	records []rewindRecord // all that are in it, from LSN 1 on
	gone    []Claim        // to what was discarded
	first   LSN
	cp      LSN // of a checkpoint; 0 for none
}

type rewindRecord struct {
	data  string
	epoch Epoch
	sum   Checksum // the log's, behind it
}

// TestRewindManyTimes appends, rewinds, truncates and restarts, over many segments,
// and compares with a slice.
func TestRewindManyTimes(t *testing.T) {
	for seed, o := range []Options{{Codec: "none"}, {Codec: "s2"}} {
		t.Run(o.Codec, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(seed), 17))
			ctx := context.Background()
			mem := disk.NewMem()
			open := func() *Volume {
				to := testOptions(mem)
				to.Codec = o.Codec
				v, err := Open(ctx, "/vol", to)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			v := open()
			logs := map[string]*rewindModel{"a": {first: 1}, "b": {first: 1}}
			for name := range logs {
				mustCreate(t, v, name)
			}
			rewinds := 0
			for step := range 700 {
				name := string("ab"[rng.IntN(2)])
				m := logs[name]
				info, err := v.Log(name)
				if err != nil {
					t.Fatal(err)
				}
				next := LSN(len(m.records)) + 1
				if m.first = info.First; info.Next != next {
					t.Fatalf("step %d: log %q is at %d, want %d", step, name, info.Next, next)
				}
				switch op := rng.IntN(20); {
				case op < 12:
					var recs []string
					for range 1 + rng.IntN(6) {
						recs = append(recs, fmt.Sprintf("%s-%d-%s", name, step, strings.Repeat("r", rng.IntN(2500))))
					}
					sum := info.Checksum
					for _, r := range recs {
						sum = Checksum(crc32.Update(uint32(sum), castagnoli, run(r)))
						m.records = append(m.records, rewindRecord{r, info.Epoch, sum})
					}
					if got := mustAppend(t, v, name, recs...); got.First != next || got.Checksum != sum {
						t.Fatalf("step %d: %+v, want LSN %d", step, got, next)
					}
				case op < 15:
					cut := next - 1 - min(LSN(rng.IntN(40)), next-max(m.first, m.cp+1, 1))
					if rng.IntN(8) == 0 {
						cut = max(m.first-1, m.cp)
					}
					got, err := v.Rewind(ctx, name, Rewind{After: cut, Epoch: info.Epoch})
					if errors.Is(err, ErrTooManyRewinds) {
						break
					}
					if err != nil {
						t.Fatalf("step %d: rewind %q from %d behind %d: %v", step, name, next-1, cut, err)
					}
					want := Checksum(0)
					if cut > 0 {
						want = m.records[cut-1].sum
					}
					if got.Log.Checksum != want || got.Log.Next != cut+1 {
						t.Fatalf("step %d: %+v, want checksum %08x behind %d", step, got, want, cut)
					}
					for i := cut; i < next-1; i++ {
						r := m.records[i]
						m.gone = append(m.gone, Claim{Log: info.ID, Epoch: r.epoch, LSN: i + 1, Checksum: r.sum})
					}
					m.records = m.records[:cut]
					rewinds++
				case op < 16:
					if to := next - 1 - min(LSN(rng.IntN(60)), next-1); to >= max(m.cp, m.first) {
						if _, err := v.SetCheckpoint(ctx, name, Checkpoint{Name: "cp", LSN: to}, nil); err != nil {
							t.Fatal(err)
						}
						m.cp = to
					}
				case op < 17 && m.cp > 0:
					if err := v.DeleteCheckpoint(ctx, name, "cp", nil); err != nil {
						t.Fatal(err)
					}
					m.cp = 0
				case op < 18:
					if err := v.snapshots.write(); err != nil {
						t.Fatal(err)
					}
				default:
					if rng.IntN(2) == 0 {
						closeTest(t, v)
					} else {
						crashed := mem.CrashClone(nil, 0) // leaves a segment without a seal
						closeTest(t, v)
						mem = crashed
					}
					v = open()
					for name, m := range logs {
						m.compare(t, v, name, rng)
					}
				}
			}
			for name, m := range logs {
				m.compare(t, v, name, rng)
			}
			if n := len(v.journal.Segments()); rewinds < 50 || n < 3 {
				t.Errorf("%d rewinds, %d segments", rewinds, n)
			}
			closeTest(t, v)
			if found, err := verifyOn(ctx, mem, "/vol", nil); err != nil || found.Verdict != "clean" {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

// compare reads the log from its oldest record, and from one in between; records are
// given up meanwhile.
func (m *rewindModel) compare(t *testing.T, v *Volume, name string, rng *rand.Rand) {
	t.Helper()
	for {
		info, err := v.Log(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Durable() != LSN(len(m.records)) {
			t.Fatalf("log %q ends at %d, want %d", name, info.Durable(), len(m.records))
		}
		for _, c := range m.gone[max(0, len(m.gone)-4):] {
			if err := v.CheckClaim(name, c); !errors.Is(err, ErrRewound) && (err != nil || c.LSN >= info.First) {
				t.Fatalf("log %q: claim %+v, which was discarded: %v", name, c, err)
			}
		}
		if info.Next == info.First {
			return
		}
		within := info.First + LSN(rng.IntN(int(info.Next-info.First)))
		err = cmp.Or(m.compareFrom(v, info, info.First, nil), m.compareFrom(v, info, within, nil),
			m.compareFrom(v, info, within, []codec.Codec{codec.None, codec.S2, codec.Zstd}))
		if err == nil {
			return
		}
		if !errors.Is(err, ErrLSNTruncated) {
			t.Fatalf("log %q: %v", name, err)
		}
	}
}

// compareFrom reads from an LSN on, blocks as they are stored if codecs are given,
// and proves what it begins with.
func (m *rewindModel) compareFrom(v *Volume, info LogInfo, from LSN, codecs []codec.Codec) error {
	first := m.records[from-1]
	if err := v.CheckClaim(info.Name, Claim{Log: info.ID, Epoch: first.epoch, LSN: from, Checksum: first.sum}); err != nil {
		return err
	}
	r, err := v.NewReader(info.Name, ReadOptions{From: from, Codecs: codecs})
	if err != nil {
		return err
	}
	spans, err := drain(r)
	if err != nil {
		return err
	}
	for _, span := range spans {
		run := span.Run
		if len(span.Stored) > 0 {
			if run, err = span.Codec.Open(make([]byte, 0, span.RawSize), span.Stored, int(span.RawSize)); err != nil {
				return err
			}
		}
		recs, err := split(run)
		if err != nil || span.First != from || len(recs) != int(span.Count) {
			return fmt.Errorf("span of %d records at %d, want %d: %w", span.Count, span.First, from, err)
		}
		for _, got := range recs {
			if want := m.records[from-1].data; got != want {
				return fmt.Errorf("LSN %d: %.30q, want %.30q", from, got, want)
			}
			from++
		}
	}
	if from != info.Next {
		return fmt.Errorf("it ends at LSN %d, want %d", from-1, info.Durable())
	}
	return nil
}

// TestRewoundSegmentsGo: what a rewind discarded holds no segment.
func TestRewoundSegmentsGo(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	mustAppend(t, v, "log", "kept")
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 1}, nil); err != nil {
		t.Fatal(err)
	}
	fill := func(log string, segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			mustAppend(t, v, log, strings.Repeat("x", 9000))
		}
	}
	fill("log", 4)
	was := v.journal.Segments()
	mustRewind(t, v, "log", Rewind{After: 1})
	cp := func(lsn LSN) {
		if _, err := v.SetCheckpoint(ctx, "other", Checkpoint{Name: "cp", LSN: lsn}, nil); err != nil {
			t.Fatal(err)
		}
	}
	cp(0)
	pollUntil(t, "the segments of what was discarded go", func() bool {
		fill("other", 1) // what may go is known where a segment begins
		info, err := v.Log("other")
		if err != nil {
			t.Fatal(err)
		}
		cp(info.Durable())
		return v.journal.Segments()[0] > was[len(was)-2]
	})
	if info, err := v.Log("log"); err != nil || info.First != 2 || info.Next != 2 || info.LiveBytes != 0 {
		t.Errorf("%+v, %v", info, err)
	}
	if got := mustAppend(t, v, "log", "two"); got.First != 2 {
		t.Errorf("%+v", got)
	}
	equal(t, readAll(t, v, "log", 0), []string{"two"})
	closeTest(t, v)
}

// TestHistory holds clip against the definition: a record is in the log unless a later
// epoch began with a rewind behind a lower LSN.
func TestHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		l := &logState{epoch: 1, first: 1, next: 1}
		type record struct {
			epoch Epoch
			lsn   LSN
		}
		live, dead := []record{}, []record{}
		for range 40 {
			if rng.IntN(4) > 0 {
				live = append(live, record{l.epoch, l.next})
				l.next++
				continue
			}
			cut := l.next - 1 - LSN(rng.IntN(int(min(l.next, 6))))
			for len(live) > 0 && live[len(live)-1].lsn > cut {
				dead = append(dead, live[len(live)-1])
				live = live[:len(live)-1]
			}
			l.rewind(Cut{Epoch: l.epoch + 1, LSN: cut})
		}
		h := l.history()
		for _, r := range live {
			if h.clip(r.epoch, r.lsn) != r.lsn {
				t.Fatalf("%+v is in the log: %+v", r, l.cuts)
			}
		}
		for _, r := range dead {
			if h.clip(r.epoch, r.lsn) >= r.lsn {
				t.Fatalf("%+v was discarded: %+v", r, l.cuts)
			}
		}
		if !slices.IsSortedFunc(l.cuts, func(a, b Cut) int { return int(a.LSN) - int(b.LSN) }) {
			t.Fatalf("%+v", l.cuts)
		}
	}
}

// TestRewindCrashes cuts the power before each operation of a life that appends and
// rewinds. What is found is the log as it was told, or as it was asked for next: a
// discarded record is never there, nor is one missing that was kept; and the volume
// goes on from there.
func TestRewindCrashes(t *testing.T) {
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(4, 5))
	mem := disk.NewMem()
	type shown struct {
		records []string
		epoch   Epoch
	}
	type cut struct {
		fs   *disk.Mem
		told int // how many of the states were told
	}
	states := []shown{{epoch: 1}}
	told := 0
	var mu sync.Mutex
	var cuts []cut
	o := testOptions(disk.Record(mem, func(op disk.Op) {
		mu.Lock()
		defer mu.Unlock()
		if told > 0 && op.Began == op.Event && slices.Contains(changing, op.Kind) {
			for _, survive := range []float64{0, 0.5, 1} {
				cuts = append(cuts, cut{mem.CrashClone(rng, survive), told})
			}
		}
	}))
	o.Codec, o.SnapshotEvery = "none", 16<<10
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	dice := rand.New(rand.NewPCG(6, 7))
	for step := range 70 {
		was := states[len(states)-1]
		now := shown{slices.Clone(was.records), was.epoch}
		rewind := step%3 == 2
		if rewind {
			now.records, now.epoch = now.records[:len(now.records)-dice.IntN(min(len(now.records), 5)+1)], now.epoch+1
		} else {
			for i := range 1 + dice.IntN(4) {
				now.records = append(now.records, fmt.Sprintf("%d/%d %s", step, i, strings.Repeat("x", dice.IntN(3000))))
			}
		}
		mu.Lock()
		states, told = append(states, now), len(states)
		mu.Unlock()
		if rewind {
			mustRewind(t, v, "log", Rewind{After: LSN(len(now.records)), Epoch: was.epoch})
		} else {
			mustAppend(t, v, "log", now.records[len(was.records):]...)
		}
	}
	mu.Lock()
	told = 0
	mu.Unlock()
	closeTest(t, v)
	after := map[int]int{}
	for i, c := range cuts {
		v, err := Open(ctx, "/vol", Options{FS: c.fs, PrepareRate: -1, Codec: "none"})
		if err != nil {
			t.Fatal(err)
		}
		info, err := v.Log("log")
		if err != nil {
			t.Fatal(err)
		}
		got := readAll(t, v, "log", 1)
		which := slices.IndexFunc(states[c.told-1:c.told+1], func(s shown) bool {
			return s.epoch == info.Epoch && slices.Equal(s.records, got)
		})
		if which < 0 {
			t.Fatalf("cut %d: it has %d records in epoch %d, told was %d in epoch %d, asked for %d in epoch %d", i,
				len(got), info.Epoch, len(states[c.told-1].records), states[c.told-1].epoch, len(states[c.told].records), states[c.told].epoch)
		}
		after[which]++
		if i%7 == 0 { // and it goes on
			mustRewind(t, v, "log", Rewind{After: LSN(len(got)) / 2})
			mustAppend(t, v, "log", "again")
			equal(t, readAll(t, v, "log", 1), append(got[:len(got)/2:len(got)/2], "again"))
		}
		closeTest(t, v)
	}
	if len(cuts) < 500 || after[0] < 50 || after[1] < 50 {
		t.Errorf("only %d cuts, %v", len(cuts), after)
	}
}
