package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func mustSeal(t testing.TB, v *Volume, log string) LogInfo {
	t.Helper()
	info, err := v.SealLog(context.Background(), log, nil)
	if err != nil || info.Sealed.IsZero() {
		t.Fatalf("seal %q: %+v, %v", log, info, err)
	}
	return info
}

// wantSealed checks that a refusal says where a log ends.
func wantSealed(t testing.TB, err error, next LSN) {
	t.Helper()
	if s, ok := errors.AsType[*SealedError](err); !ok || !errors.Is(err, ErrSealed) || s.Next != next || s.Sealed.IsZero() {
		t.Errorf("%v, want it sealed at LSN %d", err, next)
	}
}

// TestSeal seals a log, and asks for everything that goes on and that does not, also
// after a restart, from commands and from a snapshot.
func TestSeal(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustOpenProducer(t, v, "log", producerID(1))
	if _, err := v.Append(ctx, "log", producerID(1), 0, Batch{Sequence: 1, Run: run("1", "2")}); err != nil {
		t.Fatal(err)
	}
	w := mustAcquire(t, v, "log", Acquire{Holder: "db", Request: ulid.ULID{15: 5}})
	mustCursor(t, v, "log", CursorUpdate{Name: "reader"})
	before, two, one := mustAppendIn(t, v, "log", w.Log.Epoch, "3"), Epoch(2), Epoch(1)

	_, err := v.SealLog(ctx, "log", &one)
	wantFenced(t, err, 1, 2, "db")
	if _, err := v.SealLog(ctx, "none", nil); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
	if info, err := v.SealLog(ctx, "log", &two); err != nil || info.Next != 4 || info.Checksum != before.Checksum || info.Sealed.IsZero() {
		t.Fatalf("%+v, %v", info, err)
	}
	at, err := v.Log("log")
	if err != nil {
		t.Fatal(err)
	}
	for _, restarted := range []string{"", "restarted", "from a snapshot"} {
		if restarted != "" {
			closeTest(t, v)
			v = openTest(t, fs)
		}
		if info, err := v.SealLog(ctx, "log", &one); err != nil || !info.Sealed.Equal(at.Sealed) || info.Next != 4 {
			t.Errorf("%s: again: %+v, %v", restarted, info, err)
		}
		// Nothing is appended, whatever it states: the seal comes before the epoch and
		// before what is expected, and a repeat before the seal.
		for _, tc := range []struct {
			producer ulid.ULID
			epoch    Epoch
			b        Batch
		}{
			{epoch: 2, b: Batch{Run: run("late")}},
			{epoch: 1, b: Batch{Run: run("fenced as well")}},
			{producer: producerID(1), epoch: 2, b: Batch{Sequence: 2, Run: run("next")}},
			{producer: producerID(1), b: Batch{Sequence: 2, Expected: 99, Run: run("on a condition")}},
		} {
			_, err := v.Append(ctx, "log", tc.producer, tc.epoch, tc.b)
			wantSealed(t, err, 4)
		}
		if got, err := v.Append(ctx, "log", producerID(1), 0, Batch{Sequence: 1, Run: run("1", "2")}); err != nil || !got.Repeated || got.First != 1 {
			t.Errorf("%s: a repeat: %+v, %v", restarted, got, err)
		}
		if r, err := v.Resolve(ctx, "log", producerID(2), 1, 0); !errors.Is(err, ErrNoProducer) {
			t.Errorf("%s: resolve: %+v, %v", restarted, r, err)
		}
		if p, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil || p.LastSequence != 1 {
			t.Errorf("%s: a producer that is open: %+v, %v", restarted, p, err)
		}
		_, err = v.OpenProducer(ctx, "log", producerID(9))
		wantSealed(t, err, 4)
		_, err = v.AcquireWriter(ctx, "log", Acquire{Holder: "other"})
		wantSealed(t, err, 4)
		if w, err := v.AcquireWriter(ctx, "log", Acquire{Holder: "db", Request: ulid.ULID{15: 5}}); err != nil || !w.Repeated || w.Log.Epoch != 2 {
			t.Errorf("%s: who has it asks again: %+v, %v", restarted, w, err)
		}
		if info, err := v.ReleaseWriter(ctx, "log", 2); err != nil || info.Epoch != 2 || info.Holder != "db" {
			t.Errorf("%s: release: %+v, %v", restarted, info, err)
		}
		_, err = v.ReleaseWriter(ctx, "log", 1)
		wantFenced(t, err, 1, 2, "db")
		// Readers come to an end, those who follow too.
		r, err := v.NewReader("log", ReadOptions{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		spans, err := drain(r)
		if n := len(spans); err != nil || n == 0 || spans[0].First != 1 || spans[n-1].First+LSN(spans[n-1].Count) != 4 {
			t.Errorf("%s: a follower reads %+v, %v", restarted, spans, err)
		}
		if lsn, err := v.WaitDurable(ctx, "log", 3); err != nil || lsn != 3 {
			t.Errorf("%s: wait for the last: %d, %v", restarted, lsn, err)
		}
		_, err = v.WaitDurable(ctx, "log", 4)
		wantSealed(t, err, 4)
		if err := v.CheckClaim("log", Claim{Log: at.ID, Epoch: 2, LSN: 3, Checksum: at.Checksum}); err != nil {
			t.Errorf("%s: claim: %v", restarted, err)
		}
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	mustCursor(t, v, "log", CursorUpdate{Name: "reader", LSN: 3})
	mustCheckpoint(t, v, "log", "cp", 3, "state")
	if info, err := v.Truncate(ctx, "log", 4); err != nil || info.First != 4 || info.LiveBytes != 0 {
		t.Errorf("truncate: %+v, %v", info, err)
	}
	if err := v.DeleteLog(ctx, "log", at.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	if mustCreate(t, v, "log"); mustAppend(t, v, "log", "new").First != 1 {
		t.Error("a new log of that name is sealed, too")
	}
	closeTest(t, v)
}

func mustAppendIn(t testing.TB, v *Volume, log string, epoch Epoch, record string) Verdict {
	t.Helper()
	got, err := appendIn(v, log, epoch, record)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestSealKnowsFormerProducers seals a log whose producer has made way: it comes back
// to hear what became of its batches, and no other does.
func TestSealKnowsFormerProducers(t *testing.T) {
	s, err := applyAll(NewState(), []Command{
		{Kind: CommandCreateLog, Log: 1, Name: "log"}, {Kind: CommandOpenProducer, Log: 1, Producer: producerID(1)},
		{Kind: CommandAppend, Log: 1, Epoch: 1, Slot: 1, Sequence: 1, First: 1, Count: 1, Place: Place{Size: 3}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range limits.MaxProducersPerLog {
		if err := s.Apply(&Command{Kind: CommandOpenProducer, Log: 1, Producer: ulid.ULID{1, byte(i), byte(i >> 8)}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []Command{
		{Kind: CommandSealLog, Log: 1, Epoch: 1, First: 2, Start: 3, Time: 9},
		{Kind: CommandOpenProducer, Log: 1, Producer: producerID(1)},
	} {
		if err := s.Apply(&c); err != nil {
			t.Fatal(err)
		}
	}
	if p := s.logs.get(1).producers[s.logs.get(1).slot(producerID(1))-1]; p.last != 1 {
		t.Errorf("it comes back at %d", p.last)
	}
	if err := s.Apply(&Command{Kind: CommandOpenProducer, Log: 1, Producer: producerID(2)}); !errors.Is(err, errDisagree) {
		t.Errorf("one that never was: %v", err)
	}
}

// TestSealedInTheQueue seals a log while a frame with its batches is on its way to
// the disk, further ones are sequenced behind that, and more arrive behind the seal.
// What was sequenced first lands, below the seal; nothing of the rest does. Nobody
// hears of the seal before the disk has it: not who seals, not who is refused, not
// who follows or waits.
func TestSealedInTheQueue(t *testing.T) { synctest.Test(t, sealedInTheQueue) }

func sealedInTheQueue(t *testing.T) {
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
	s := newSeat(t, v)
	b := s.bind("log", ulid.ULID{})
	batch := func(rec string) Batch { return Batch{Binding: b, Run: run(rec)} }
	if got := s.verdicts(batch("1")); got[0].Err != nil {
		t.Fatal(got[0].Err)
	}
	r, err := v.NewReader("log", ReadOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	type end struct {
		who     string
		records []string
		err     error
	}
	ends := make(chan end, 3)
	go func() {
		records, err := follow(ctx, r, 99)
		ends <- end{"follower", records, err}
	}()
	go func() {
		_, err := v.WaitDurable(ctx, "log", 9)
		ends <- end{"waiter", nil, err}
	}()
	release := hangSync(v, faulty, func() { mustAppend(t, v, "other", "is on its way") })
	if err := s.Append(ctx, []Batch{batch("2"), batch("3")}); err != nil {
		t.Fatal(err)
	}
	go func() {
		info, err := v.SealLog(ctx, "log", nil)
		if err != nil || info.Next != 4 {
			t.Errorf("sealed: %+v, %v", info, err)
		}
		ends <- end{"sealer", nil, err}
	}()
	synctest.Wait()
	if err := s.Append(ctx, []Batch{batch("4"), batch("5")}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if info, err := v.Log("log"); err != nil || !info.Sealed.IsZero() || len(ends) > 0 || len(s.Take(nil)) > 0 {
		t.Errorf("shown before it is durable: %+v, %v, or told: %d", info, err, len(ends))
	}
	release()
	var got []Verdict
	for got = s.Take(nil); s.Pending() > 0; got = s.Take(got) {
		<-s.ready
	}
	for i, verdict := range got {
		switch {
		case i < 2:
			if verdict.Err != nil || verdict.First != LSN(i)+2 {
				t.Errorf("sequenced before: %+v", verdict)
			}
		case i == 2:
			wantSealed(t, verdict.Err, 4)
		case !errors.Is(verdict.Err, ErrAfterRefusal):
			t.Errorf("behind it: %+v", verdict)
		}
	}
	for range 3 {
		switch e := <-ends; e.who {
		case "follower":
			if equal(t, e.records, []string{"1", "2", "3"}); e.err != io.EOF {
				t.Errorf("the follower ends with %v", e.err)
			}
		case "waiter":
			wantSealed(t, e.err, 4)
		}
	}
	s.Close()
	closeTest(t, v)
}

// TestSealedLogsGiveSpaceBack fills a volume many times over with logs that are
// sealed, and then deleted or truncated to their end: their segments are used again.
func TestSealedLogsGiveSpaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		o := testOptions(disk.NewMem())
		o.Codec = "none"
		v, err := Open(ctx, "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		rec := strings.Repeat("x", 20<<10)
		most := 0
		for i := range 40 {
			name := fmt.Sprintf("log-%d", i)
			id := mustCreate(t, v, name).ID
			for range 8 {
				mustAppend(t, v, name, rec)
			}
			info := mustSeal(t, v, name)
			if i%2 == 0 {
				err = v.DeleteLog(ctx, name, id)
			} else {
				_, err = v.Truncate(ctx, name, info.Next)
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * limits.OpenSegmentIdle)
			synctest.Wait()
			if i >= 20 {
				most = max(most, v.Status().Segments)
			}
		}
		if s := v.Status(); most > 12 || s.Recycles < 20 {
			t.Errorf("%d segments are kept, %d were recycled", most, s.Recycles)
		}
		closeTest(t, v)
	})
}

// TestDeleteAgain deletes logs by name and by id, again and again.
func TestDeleteAgain(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	was := mustCreate(t, v, "log").ID
	for range 2 {
		if err := v.DeleteLog(ctx, "log", was); err != nil {
			t.Errorf("by its id: %v", err)
		}
	}
	if err := v.DeleteLog(ctx, "log", ulid.ULID{}); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("by its name: %v", err)
	}
	now := mustCreate(t, v, "log").ID
	if err := v.DeleteLog(ctx, "log", was); err != nil {
		t.Errorf("the one before: %v", err)
	}
	if info, err := v.Log("log"); err != nil || info.ID != now {
		t.Errorf("the log of that name now: %+v, %v", info, err)
	}
	if err := v.DeleteLog(ctx, "other", now); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("by another name: %v", err)
	}
	if err := v.DeleteLog(ctx, "an other", now); !errors.Is(err, ErrInvalidName) {
		t.Errorf("by no name: %v", err)
	}
	closeTest(t, v)
}

// TestSealStopsBatchesOverSeveralLogs seals one log of a group: a batch that has a part
// for it lands in none, whichever leads; what landed before is proven for each.
func TestSealStopsBatchesOverSeveralLogs(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreateTogether(t, v, "data", "index")
	s := newSeat(t, v)
	s.TellWritten()
	data, index := s.bind("data", ulid.ULID{}), s.bind("index", ulid.ULID{})
	over := func(lead, part *Binding) Verdict {
		t.Helper()
		s.Reset(data)
		s.Reset(index)
		return s.verdicts(Batch{Binding: lead, Run: run("1", "2"), Parts: []Part{{Binding: part, Run: run("a")}}})[0]
	}
	got := over(data, index)
	if got.Err != nil || len(got.Parts) != 1 || got.Committed == 0 || s.Written() != 1 {
		t.Fatalf("%+v, %d written", got, s.Written())
	}
	wantFinding(t, v, fs, receipt(t, v, "data", got), ReceiptProven, "")
	part := got.Parts[0]
	ofPart := receipt(t, v, "index", Verdict{First: part.First, Count: part.Count, Checksum: part.Checksum, Epoch: part.Epoch, Committed: got.Committed})
	wantFinding(t, v, fs, ofPart, ReceiptProven, "")
	mustSeal(t, v, "index")
	for _, late := range []Verdict{over(data, index), over(index, data)} {
		wantSealed(t, late.Err, 2)
	}
	if info, err := v.Log("data"); err != nil || info.Next != 3 {
		t.Errorf("the other log has %+v, %v", info, err)
	}
	wantFinding(t, v, fs, ofPart, ReceiptProven, "")
	closeTest(t, v)
}

// TestFollowerComesToTheSeal: whoever follows a log that is appended to and sealed is given
// all that lies in front of the seal, whenever it looked. The race detector sees one that
// asks for the seal later than for the log's end.
func TestFollowerComesToTheSeal(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	for n := range 60 {
		log := fmt.Sprint("log-", n)
		mustCreate(t, v, log)
		want := []string{"1", "2", "3"}
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				r, err := v.NewReader(log, ReadOptions{From: 1, Follow: true})
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				got, err := follow(ctx, r, len(want)+1)
				if !errors.Is(err, io.EOF) || !slices.Equal(got, want) {
					t.Errorf("log %q: a follower was given %q, %v", log, got, err)
				}
			})
		}
		for _, rec := range want {
			mustAppend(t, v, log, rec)
		}
		mustSeal(t, v, log)
		all.Wait()
	}
}
