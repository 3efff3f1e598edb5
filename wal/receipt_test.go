package wal

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// receipt returns what a client of v keeps of an append.
func receipt(t testing.TB, v *Volume, log string, got Verdict) Receipt {
	t.Helper()
	info, err := v.Log(log)
	if err != nil {
		t.Fatal(err)
	}
	last := got.First + LSN(got.Count) - 1
	return Receipt{
		Volume: v.ID(), Log: info.ID, Name: log, Epoch: got.Epoch, First: got.First, Last: last, Through: last,
		Checksum: got.Checksum, Committed: got.Committed,
	}
}

// wantFinding verifies a receipt against an open volume, and aside of it against what
// lies on its disk.
func wantFinding(t testing.TB, v *Volume, fs disk.FS, r Receipt, verdict ReceiptVerdict, field string) ReceiptFinding {
	t.Helper()
	got, err := v.VerifyReceipt(r)
	if err != nil || got.Verdict != verdict || got.Field != field || got.Detail == "" {
		t.Errorf("%+v: %+v (%s), %v; want it %s by %q", r, got, got.Verdict, err, verdict, field)
	}
	aside, err := verifyReceiptOn(context.Background(), fs, "/vol", r)
	if err != nil || aside.Verdict != got.Verdict || aside.Field != got.Field || aside.Committed != got.Committed {
		t.Errorf("%+v: aside of the volume: %+v, %v; open it is %+v", r, aside, err, got)
	}
	return got
}

// TestReceipt tampers with each field of a receipt, and has another history in the
// volume's place. Receipts of several batches hold before and after restarts, with all
// that is appended since.
func TestReceipt(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	mustAppend(t, v, "log", "1", "2")
	r := receipt(t, v, "log", mustAppend(t, v, "log", "3", "4", "5"))
	if now := v.clock.now(); r.Committed == 0 || r.Committed > now || r.Committed < now-int64(time.Hour) {
		t.Errorf("committed at %d, it is %d", r.Committed, now)
	}
	behind := receipt(t, v, "log", mustAppend(t, v, "log", "6"))
	w := mustAcquire(t, v, "log", Acquire{Holder: "db"})
	inEpoch := receipt(t, v, "log", mustAppendIn(t, v, "log", w.Log.Epoch, "7"))
	for _, restarted := range []bool{false, true} {
		if restarted {
			closeTest(t, v)
			v = openTest(t, fs)
		}
		for _, r := range []Receipt{r, behind, inEpoch} {
			if got := wantFinding(t, v, fs, r, ReceiptProven, ""); got.Committed != r.Committed {
				t.Errorf("the volume has it at %d, it was told %d", got.Committed, r.Committed)
			}
		}
		for _, tc := range []struct {
			field  string // that is found
			tamper func(r *Receipt)
		}{
			{"volume_id", func(r *Receipt) { r.Volume[15]++ }},
			{"log", func(r *Receipt) { r.Name = "other" }},
			{"log", func(r *Receipt) { r.Name = "none" }},
			{"log_id", func(r *Receipt) { r.Log[15]++ }},
			{"epoch", func(r *Receipt) { r.Epoch = 2 }},
			{"first_lsn", func(r *Receipt) { r.First-- }},
			{"log_checksum", func(r *Receipt) { r.Last, r.Through = 4, 4 }},
			{"log_checksum", func(r *Receipt) { r.Through = 6 }},
			{"epoch", func(r *Receipt) { r.Last, r.Through = 7, 7 }},
			{"last_lsn", func(r *Receipt) { r.Last, r.Through = 8, 8 }},
			{"log_checksum", func(r *Receipt) { r.Checksum++ }},
			{"commit_time", func(r *Receipt) { r.Committed++ }},
		} {
			lie := r
			tc.tamper(&lie)
			wantFinding(t, v, fs, lie, ReceiptContradicted, tc.field)
		}
		// Less than it was told is no lie.
		less := r
		less.First, less.Last, less.Committed = 4, 4, 0
		if got := wantFinding(t, v, fs, less, ReceiptProven, ""); got.Committed != r.Committed {
			t.Errorf("committed at %d, found was %d", r.Committed, got.Committed)
		}
	}
	for _, tamper := range []func(r *Receipt){
		func(r *Receipt) { r.First = 0 }, func(r *Receipt) { r.Last = 2 }, func(r *Receipt) { r.Through = 4 },
		func(r *Receipt) { r.Epoch = 0 }, func(r *Receipt) { r.Committed = -1 }, func(r *Receipt) { r.Through = 1 << 63 },
	} {
		none := r
		tamper(&none)
		if f, err := v.VerifyReceipt(none); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %+v, %v", none, f, err)
		}
	}
	// A repeat says when it is asked for, and not when it was committed.
	mustOpenProducer(t, v, "other", producerID(1))
	for i, want := range []bool{false, true} {
		got, err := v.Append(t.Context(), "other", producerID(1), 0, Batch{Sequence: 1, Run: run("x")})
		if err != nil || got.Repeated != want || (got.Committed == 0) != want {
			t.Errorf("append %d: %+v, %v", i, got, err)
		}
		wantFinding(t, v, fs, receipt(t, v, "other", got), ReceiptProven, "")
	}
	closeTest(t, v)
	if _, err := verifyReceiptOn(t.Context(), disk.NewMem(), "/vol", r); !errors.Is(err, ErrNoVolume) {
		t.Errorf("no volume: %v", err)
	}
}

// TestReceiptOfTheLogBefore deletes a log and creates another one of its name while its
// last append is on its way, with a clock that goes and one that stands: the receipt of
// that is of a log that was deleted, and no lie.
func TestReceiptOfTheLogBefore(t *testing.T) {
	for _, stands := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { receiptOfTheLogBefore(t, stands) })
	}
}

func receiptOfTheLogBefore(t *testing.T, stands bool) {
	ctx := t.Context()
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	o := testOptions(faulty)
	o.Codec = "none"
	if stands {
		o.Now = func() int64 { return 1 << 60 }
	}
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	first := receipt(t, v, "log", mustAppend(t, v, "log", "1"))
	release := hangSync(v, faulty, func() { mustAppend(t, v, "other", "2") })
	var got Verdict
	var wg sync.WaitGroup
	wg.Go(func() { got, err = v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run("3")}) })
	synctest.Wait()
	wg.Go(func() {
		if err := v.DeleteLog(ctx, "log", ulid.ULID{}); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	wg.Go(func() { mustCreate(t, v, "log") })
	synctest.Wait()
	time.Sleep(time.Second) // by the bubble's clock: before the frame with all that is committed
	release()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	last := first
	last.First, last.Last, last.Through, last.Checksum, last.Committed = got.First, got.First, got.First, got.Checksum, got.Committed
	for _, r := range []Receipt{first, last} {
		wantFinding(t, v, mem, r, ReceiptGone, "")
	}
	closeTest(t, v)
}

// TestReceiptGone truncates, seals and deletes what receipts are of, and gives the
// name to another log.
func TestReceiptGone(t *testing.T) {
	ctx := t.Context()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	one := receipt(t, v, "log", mustAppend(t, v, "log", "1", "2"))
	two := receipt(t, v, "log", mustAppend(t, v, "log", "3", "4", "5"))
	three := receipt(t, v, "log", mustAppend(t, v, "log", "6"))
	mustSeal(t, v, "log")
	if _, err := v.Truncate(ctx, "log", 5); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, v, fs, one, ReceiptGone, "")
	wantFinding(t, v, fs, two, ReceiptProven, "") // what is left vouches for it
	wantFinding(t, v, fs, three, ReceiptProven, "")
	within := two
	within.First, within.Last, within.Through = 5, 5, 5
	wantFinding(t, v, fs, within, ReceiptProven, "")
	if _, err := v.Truncate(ctx, "log", 7); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, v, fs, three, ReceiptGone, "")
	if err := v.DeleteLog(ctx, "log", ulid.ULID{}); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, v, fs, three, ReceiptGone, "")
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2", "3", "4", "5", "6", "7")
	wantFinding(t, v, fs, three, ReceiptGone, "")
	never := three // the log of that name now was there already
	never.Committed = v.clock.now()
	wantFinding(t, v, fs, never, ReceiptContradicted, "log_id")
	closeTest(t, v)
}

// TestReceiptWithinABatch asks for a record in the middle of a batch, whose checksum
// no command has, also when all before it is truncated.
func TestReceiptWithinABatch(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1")
	middle := mustAppend(t, v, "log", "2")
	mustCreate(t, v, "copy")
	mustAppend(t, v, "copy", "1", "2", "3")
	r := receipt(t, v, "copy", middle) // the same records, in one batch
	r.Committed = 0
	wantFinding(t, v, fs, r, ReceiptProven, "")
	mustAppend(t, v, "copy", "4", "5")
	r.First, r.Last, r.Through = 4, 4, 4
	wantFinding(t, v, fs, r, ReceiptContradicted, "log_checksum")
	mustAppend(t, v, "log", "3")
	four := r
	four.Checksum = mustAppend(t, v, "log", "4").Checksum
	for range 2 {
		wantFinding(t, v, fs, r, ReceiptContradicted, "log_checksum")
		wantFinding(t, v, fs, four, ReceiptProven, "")
		if _, err := v.Truncate(t.Context(), "copy", 4); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
}

// TestReceiptLost has damage take what receipts are of: in a volume that opens
// read-only for it, and in one that a repair has made whole without.
func TestReceiptLost(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	kept := receipt(t, v, "log", mustAppend(t, v, "log", "1"))
	lost := receipt(t, v, "log", mustAppend(t, v, "log", "2", "3"))
	at := frameOf(t, v, "log", 2).Pos
	behind := receipt(t, v, "log", mustAppend(t, v, "log", "4"))
	created := mustCreate(t, v, "late")
	late := receipt(t, v, "late", mustAppend(t, v, "late", "1"))
	closeTest(t, v)
	corrupt(t, fs, at, 0)

	v = openTest(t, fs)
	if v.readOnly == nil {
		t.Fatal("a lost frame does not keep the volume from being written")
	}
	wantFinding(t, v, fs, kept, ReceiptProven, "")
	for _, r := range []Receipt{lost, behind, late} {
		wantFinding(t, v, fs, r, ReceiptLost, "")
	}
	closeTest(t, v)
	repairAgain(t, fs)

	v = openTest(t, fs)
	wantFinding(t, v, fs, kept, ReceiptProven, "")
	wantFinding(t, v, fs, lost, ReceiptLost, "")
	wantFinding(t, v, fs, behind, ReceiptProven, "")
	wantFinding(t, v, fs, late, ReceiptProven, "")
	if created.ID != late.Log {
		t.Error("another log")
	}
	closeTest(t, v)
}

// TestReceiptOfABadBlock has damage take the records, and not the commands that say
// which they were: nothing is proven of what nobody can read.
func TestReceiptOfABadBlock(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	r := receipt(t, v, "log", mustAppend(t, v, "log", "1", strings.Repeat("2", 3000)))
	mustAppend(t, v, "log", "3")
	at := frameOf(t, v, "log", 1).Pos
	closeTest(t, v)
	corrupt(t, fs, at, limits.FrameHeaderSize+100)
	v = openTest(t, fs)
	wantFinding(t, v, fs, r, ReceiptLost, "")
	closeTest(t, v)
}

// TestReceiptRewound discards what receipts are of: whole batches, and the end of one.
// What is appended in its place is proven, and proves nothing of what was there.
func TestReceiptRewound(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	kept := receipt(t, v, "log", mustAppend(t, v, "log", "1"))
	cut := receipt(t, v, "log", mustAppend(t, v, "log", "2", "3"))
	after := receipt(t, v, "log", mustAppend(t, v, "log", "4"))
	if _, err := v.Rewind(t.Context(), "log", Rewind{After: 2, Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	again := receipt(t, v, "log", mustAppend(t, v, "log", "3"))
	mustAppend(t, v, "log", "4")
	for range 2 {
		wantFinding(t, v, fs, kept, ReceiptProven, "")
		wantFinding(t, v, fs, cut, ReceiptRewound, "")
		wantFinding(t, v, fs, after, ReceiptRewound, "")
		wantFinding(t, v, fs, again, ReceiptProven, "")
		closeTest(t, v)
		v = openTest(t, fs)
	}
	closeTest(t, v)
}

// TestReceiptOfWhatIsMoved moves the records of a receipt, and releases the segment that they
// lay in, at each read of that segment while it is verified.
func TestReceiptOfWhatIsMoved(t *testing.T) {
	for at := range 4 {
		synctest.Test(t, func(t *testing.T) {
			fs := disk.NewFaulty(disk.NewMem())
			v := openPlain(t, fs)
			defer func() { closeTest(t, v) }()
			mustCreate(t, v, "idle")
			mustCreate(t, v, "busy")
			r := receipt(t, v, "idle", mustAppend(t, v, "idle", "1", "2"))
			in := fileOf(v.filling())
			busy := func(segments int) {
				for until := v.filling() + segment.ID(segments); v.filling() < until; {
					got := mustAppend(t, v, "busy", strings.Repeat("x", 9000))
					mustCheckpoint(t, v, "busy", "cp", got.First, "")
					time.Sleep(time.Millisecond) // of the bubble's clock
					synctest.Wait()
				}
			}
			busy(1)
			var reads atomic.Int64
			fs.Before(func(op disk.Op) error {
				if op.Kind == disk.OpRead && "/vol/"+op.Name == in && int(reads.Add(1)) == at+1 {
					busy(10)
				}
				return nil
			})
			if got, err := v.VerifyReceipt(r); err != nil || got.Verdict != ReceiptProven {
				t.Errorf("at read %d: %+v, %v", at, got, err)
			}
			fs.Before(nil)
		})
	}
}
