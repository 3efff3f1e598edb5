package wal

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// torn makes a volume whose first segment ends in a frame that was cut off: a block of it
// did not reach the disk, and a record of log "b" that did says "dead". It is open again,
// and the log has one record.
func torn(t *testing.T) (*disk.Mem, *Volume) {
	t.Helper()
	ctx := context.Background()
	mem := disk.NewMem()
	fs := disk.NewFaulty(mem)
	v := openPlain(t, fs)
	for _, log := range []string{"a", "b", "busy"} {
		if _, _, err := v.CreateLog(ctx, log, LogOptions{ColocationKey: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	v.mu.Lock()
	v.bytes = -1 << 40 // no snapshot comes between
	v.mu.Unlock()
	mustAppend(t, v, "a", strings.Repeat("a", 14_000)) // more than may be moved
	mustAppend(t, v, "b", "kept")
	synctest.Wait()
	v.mu.RLock()
	at := v.last.Pos
	v.mu.RUnlock()
	filling := at.Segment.String() + ".wal"
	fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Only: func(op disk.Op) bool { return op.Name == filling }})
	b := Batch{Run: run(strings.Repeat("x", 14_000)), Parts: []Part{{Log: "b", Run: run("dead")}}}
	if _, err := v.Append(ctx, "a", ulid.ULID{}, 0, b); !errors.Is(err, ErrPoisoned) {
		t.Fatal(err)
	}
	if err := v.Close(); !errors.Is(err, ErrPoisoned) {
		t.Fatal(err)
	}
	corrupt(t, mem, at, limits.FrameHeaderSize+10)
	v = openPlain(t, mem)
	if r := v.Recovery(); r.Case != "torn-block" || at.Segment != 1 || v.filling() != 2 {
		t.Fatalf("%+v, filling %s", r, v.filling())
	}
	return mem, v
}

// TestDeadStaysDead damages what says where a segment ends whose last frame was cut off: what
// is in that frame is read all the same by nobody.
func TestDeadStaysDead(t *testing.T) {
	fill := func(t *testing.T, v *Volume, segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			got := mustAppend(t, v, "busy", strings.Repeat("x", 9000))
			mustCheckpoint(t, v, "busy", "cp", got.First, "")
		}
	}
	flip := func(t *testing.T, mem *disk.Mem, path string) {
		f, err := mem.Open(path, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0x55}, 100); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) { // the next segment's header
		mem, v := torn(t)
		mustAppend(t, v, "b", "real")
		mustAppend(t, v, "a", strings.Repeat("a", 20_000))
		fill(t, v, 1)
		mustAppend(t, v, "b", "later")
		for range 2 {
			if err := v.snapshots.write(); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, v, 1) // its header says where they are
		closeTest(t, v)
		flip(t, mem, fileOf(2))
		v = openPlain(t, mem)
		defer closeTest(t, v)
		r, err := v.NewReader("b", ReadOptions{From: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := follow(t.Context(), r, 3)
		if loss, ok := errors.AsType[*DataLossError](err); !ok || loss.First != 2 || !slices.Equal(got, []string{"kept"}) {
			t.Errorf("read %q, %v", got, err)
		}
		equal(t, readAll(t, v, "b", 3), []string{"later"})
	})
	synctest.Test(t, func(t *testing.T) { // a gap's file
		mem, v := torn(t)
		fill(t, v, 3)
		mustAppend(t, v, "b", "real")
		mustAppend(t, v, "a", strings.Repeat("a", 20_000))
		pollUntil(t, "the segment behind goes", func() bool {
			fill(t, v, 2)
			gaps := v.journal.Gaps()
			return len(gaps) > 0 && gaps[0].From == 2
		})
		closeTest(t, v)
		flip(t, mem, "/vol/0000000000000002.gap")
		v = openPlain(t, mem)
		defer closeTest(t, v)
		equal(t, readAll(t, v, "b", 1), []string{"kept", "real"})
	})
}

// TestAliveBehindAHole loses a frame of a segment, and its successor's header with the place
// where it ends: what lies behind the frame, and the segment promises, is read, as Verify and
// a repair say.
func TestAliveBehindAHole(t *testing.T) {
	mem := disk.NewMem()
	v := openPlain(t, mem)
	mustCreate(t, v, "log")
	for _, rec := range []string{"1", "2", "3"} {
		mustAppend(t, v, "log", rec)
	}
	lost := frameOf(t, v, "log", 2).Pos
	fill := func(segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			mustAppend(t, v, "log", strings.Repeat("x", 9000))
		}
	}
	fill(2)
	for range 2 {
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	fill(1) // its header says where they are
	closeTest(t, v)
	corrupt(t, mem, lost, 20)
	corrupt(t, mem, segment.Pos{Segment: lost.Segment + 1}, 20)
	found, err := verifyOn(t.Context(), mem, "/vol", nil)
	if err != nil || len(found.Damage) != 2 || !slices.Equal(found.Damage[0].Logs, []DamagedLog{{Log: "log", First: 2, Last: 2}}) {
		t.Errorf("verify: %s, %v", spell(found), err)
	}
	v = openPlain(t, mem)
	defer func() { closeTest(t, v) }()
	for lsn, want := range map[LSN]string{1: "1", 3: "3"} {
		if got, err := readOne(v, "log", lsn); got != want || err != nil {
			t.Errorf("LSN %d: %q, %v", lsn, got, err)
		}
	}
	if _, err := readOne(v, "log", 2); !errors.Is(err, ErrDataLoss) {
		t.Errorf("what is lost is read with %v", err)
	}
}

// TestDeadSumsDoNotCount loses the header of a segment behind one that a crash left without
// a promise: what the repaired log appends behind its lost end goes on from what is known,
// and Verify does not hold it against the frame that nobody reads any more.
func TestDeadSumsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		v := openPlain(t, mem)
		mustCreate(t, v, "log")
		mustAppend(t, v, "log", "1")
		mustAppend(t, v, "log", "2")
		crashed := mem.CrashClone(nil, 1)
		closeTest(t, v)
		closeTest(t, openPlain(t, crashed)) // writes the last frame once more
		corrupt(t, crashed, segment.Pos{Segment: 2}, 20)
		plan := repairAgain(t, crashed)
		if want := []LostRecords{{Log: "log", First: 2, Last: 2, Open: true, Epoch: 1 + lostEpochs}}; !slices.Equal(plan.Records, want) {
			t.Fatalf("lost: %+v", plan.Records)
		}
		v = openPlain(t, crashed)
		mustAppend(t, v, "log", "3")
		closeTest(t, v)
		if found, err := verifyOn(t.Context(), crashed, "/vol", nil); err != nil || found.Verdict != "repaired" {
			t.Errorf("verify: %s, %v", spell(found), err)
		}
		if again := repairAgain(t, crashed); again.Needed {
			t.Errorf("a repair is needed: %+v", again)
		}
	})
}

// TestCutInFrontOfAGap loses the header of the segment behind a gap. The gap's file says where
// the segment in front of it was cut off: its last frame, which a crash left without one
// behind it that verifies, counts, for Verify and a repair as for readers.
func TestCutInFrontOfAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, v := torn(t)
		fill := func(segments int) {
			for want := v.filling() + segment.ID(segments); v.filling() < want; {
				got := mustAppend(t, v, "busy", strings.Repeat("x", 9000))
				mustCheckpoint(t, v, "busy", "cp", got.First, "")
			}
		}
		fill(3)
		pollUntil(t, "there is a gap", func() bool {
			fill(1)
			return len(v.journal.Gaps()) > 0
		})
		mustAppend(t, v, "a", strings.Repeat("a", 14_000)) // so that something is kept behind it
		fill(1)
		for range 2 {
			if err := v.snapshots.write(); err != nil {
				t.Fatal(err)
			}
		}
		fill(1) // its header says where they are
		closeTest(t, v)
		j, err := segment.Open(segment.Options{FS: mem, Dir: "/vol", ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		gaps := j.Gaps()
		if err := j.Close(); err != nil || len(gaps) != 1 || gaps[0].From != 2 {
			t.Fatalf("gaps: %v, %v", gaps, err)
		}
		corrupt(t, mem, segment.Pos{Segment: gaps[0].To + 1}, 20)
		found, err := verifyOn(t.Context(), mem, "/vol", nil)
		if err != nil || len(found.Damage) == 0 {
			t.Fatalf("verify: %s, %v", spell(found), err)
		}
		for _, d := range found.Damage {
			if slices.ContainsFunc(d.Logs, func(l DamagedLog) bool { return l.Log == "b" }) {
				t.Errorf("verify: %+v", d)
			}
		}
		if plan := repairAgain(t, mem); slices.ContainsFunc(plan.Records, func(r LostRecords) bool { return r.Log == "b" }) {
			t.Errorf("given up: %+v", plan.Records)
		}
		v = openPlain(t, mem)
		defer closeTest(t, v)
		equal(t, readAll(t, v, "b", 1), []string{"kept"})
	})
}

// TestRewoundInWhatIsLost loses a segment in which a log was rewound, and appended to again,
// less far than it had come before: Verify names what it had there.
func TestRewoundInWhatIsLost(t *testing.T) {
	mem := disk.NewMem()
	v := openPlain(t, mem)
	mustCreate(t, v, "log")
	mustCreate(t, v, "busy")
	fill := func() {
		for was := v.filling(); v.filling() == was; {
			mustAppend(t, v, "busy", strings.Repeat("x", 9000))
		}
	}
	mustAppend(t, v, "log", "1", "2", "discarded", "discarded", "discarded")
	fill()
	mustRewind(t, v, "log", Rewind{After: 2})
	mustAppend(t, v, "log", "3", "4")
	lost := frameOf(t, v, "log", 3).Pos.Segment
	fill()
	mustAppend(t, v, "log", "5")
	for range 2 {
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	closeTest(t, v)
	if err := mem.Remove(fileOf(lost)); err != nil {
		t.Fatal(err)
	}
	found, err := verifyOn(t.Context(), mem, "/vol", nil)
	if want := (DamagedLog{Log: "log", First: 3, Last: 4}); err != nil || len(found.Damage) != 1 || !slices.Contains(found.Damage[0].Logs, want) {
		t.Errorf("verify: %s, %v", spell(found), err)
	}
	v = openPlain(t, mem)
	defer closeTest(t, v)
	for lsn, want := range map[LSN]bool{2: false, 3: true, 4: true, 5: false} {
		if _, err := readOne(v, "log", lsn); errors.Is(err, ErrDataLoss) != want {
			t.Errorf("LSN %d: %v", lsn, err)
		}
	}
}
