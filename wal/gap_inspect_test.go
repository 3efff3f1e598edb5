package wal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/segment"
)

// gaps returns what lies in the volume's gaps.
func (y *yard) gaps() []segment.Gap { return y.v.journal.Gaps() }

// A gap is what happens before, in and behind one, beside a log that keeps what lies
// before it.
func (y *yard) aroundAGap() {
	ctx := context.Background()
	for _, log := range []string{"idle", "gone", "deleted", "rewound", "discarded"} {
		mustCreate(y.t, y.v, log)
		y.append(log, 2, 100)
	}
	y.append("idle", 8, 9000)
	y.append("rewound", 4, 100)
	y.append("deleted", 2, 100)
	mustCheckpoint(y.t, y.v, "idle", "cp", 1, "")
	if _, err := y.v.Truncate(ctx, "idle", 2); err != nil {
		y.t.Fatal(err)
	}
	y.busy(2)

	// In what becomes the gap.
	y.append("gone", 3, 2000)
	y.append("deleted", 2, 2000)
	if err := y.v.DeleteLog(ctx, "deleted", ulid.ULID{}); err != nil {
		y.t.Fatal(err)
	}
	mustCreate(y.t, y.v, "inside")
	y.append("inside", 3, 2000)
	if _, err := y.v.Truncate(ctx, "inside", 4); err != nil {
		y.t.Fatal(err)
	}
	mustCreate(y.t, y.v, "moved")
	y.append("moved", 3, 20)
	y.append("rewound", 3, 2000)
	mustRewind(y.t, y.v, "rewound", Rewind{After: 6})
	y.want["rewound"] = y.want["rewound"][:6]
	y.append("discarded", 3, 2000)
	mustRewind(y.t, y.v, "discarded", Rewind{After: 1})
	y.want["discarded"] = y.want["discarded"][:1]
	mustCheckpoint(y.t, y.v, "idle", "engine", 1, "its state")
	if _, err := y.v.OpenProducer(ctx, "idle", producerID(7)); err != nil {
		y.t.Fatal(err)
	}
	if _, err := y.v.Truncate(ctx, "gone", 6); err != nil {
		y.t.Fatal(err)
	}
	y.busy(6)

	// Behind it.
	for _, log := range []string{"idle", "gone", "inside", "moved", "rewound", "discarded"} {
		y.append(log, 2, 100)
	}
	y.want["idle"] = append(y.want["idle"], "of the producer")
	if _, err := y.v.Append(ctx, "idle", producerID(7), 0, Batch{Sequence: 1, Run: run("of the producer")}); err != nil {
		y.t.Fatal(err)
	}
	y.busy(2)
}

// clean verifies and wants nothing damaged, and every log to be read whole.
func (y *yard) clean(when string, logs ...string) {
	y.t.Helper()
	found, err := verifyOn(context.Background(), y.fs, "/vol", nil)
	if err != nil || found.Verdict == "damaged" || len(found.Damage) > 0 || len(found.Lost) > 0 {
		y.t.Errorf("%s: verify: %s, %v", when, spell(found), err)
	}
	if gaps := y.gaps(); found != nil && found.Gaps != len(gaps) {
		y.t.Errorf("%s: verify: %d gaps, not %s", when, found.Gaps, gaps)
	}
	for _, log := range logs {
		if got, want := y.read(log), fmt.Sprintf(" to %d", len(y.want[log])); !strings.HasSuffix(got, want) {
			y.t.Errorf("%s: log %q: %s, want%s", when, log, got, want)
		}
	}
}

// TestVerifyOverGaps verifies a volume with logs that are kept on both sides of a gap,
// truncated beyond it, deleted, created and rewound in it, and moved out of it: it is
// clean, as it is and after a restart and a crash.
func TestVerifyOverGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer func() { y.close() }()
		y.aroundAGap()
		logs := []string{"idle", "gone", "inside", "moved", "rewound", "discarded"}
		check := func(when string) {
			t.Helper()
			if gaps := y.gaps(); len(gaps) == 0 {
				t.Fatalf("%s: segments %v, no gap", when, y.v.journal.Segments())
			}
			y.clean(when, logs...)
		}
		check("as it is")
		y.do([]string{"restart"})
		check("after a restart")
		if r := y.v.Recovery(); r.Verdict == "damaged" {
			t.Errorf("recovery: %s", spell(r))
		}
		y.do([]string{"crash"})
		check("after a crash")
		y.busy(3)
		for _, log := range logs {
			y.append(log, 1, 100)
		}
		check("later on")
		wantState(t, y.v, "idle", "engine", 1, "its state")
		if p, err := y.v.OpenProducer(context.Background(), "idle", producerID(7)); err != nil || p.LastSequence != 1 {
			t.Errorf("the producer: %+v, %v", p, err)
		}
		mustCheckpoint(t, y.v, "idle", "engine", 10, "its state")
		mustCheckpoint(t, y.v, "idle", "cp", 10, "")
		y.busy(4)
		y.clean("when it has gone", logs...)
	})
}

// TestGapThatIsNotRead opens, verifies and repairs a volume with the file of a gap that the
// disk does not read: it serves, says which file that is, and whatever is kept is read.
func TestGapThatIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		y.aroundAGap()
		logs := []string{"idle", "gone", "inside", "moved", "rewound", "discarded"}
		gap := y.gaps()[0].From.String() + ".gap"
		y.close()
		faulty := disk.NewFaulty(y.fs)
		faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpRead}, Sticky: true, Only: func(op disk.Op) bool { return op.Name == gap }})
		names := func(all []Damage) bool {
			return slices.ContainsFunc(all, func(d Damage) bool { return d.File == gap && d.Case == "missing-segment" })
		}
		open := func() {
			t.Helper()
			o := testOptions(faulty)
			o.Codec = "none"
			v, err := Open(t.Context(), "/vol", o)
			if err != nil {
				t.Fatal(err)
			}
			y.v = v
			synctest.Wait()
			for _, log := range logs {
				if got, want := y.read(log), fmt.Sprintf(" to %d", len(y.want[log])); !strings.HasSuffix(got, want) {
					t.Errorf("log %q: %s, want%s", log, got, want)
				}
				y.append(log, 1, 100)
			}
		}
		open()
		if r := y.v.Recovery(); r.Verdict != "damaged" || !names(r.Damage) {
			t.Errorf("recovery: %s", spell(r))
		}
		y.busy(3)
		y.close()
		if found, err := verifyOn(t.Context(), faulty, "/vol", nil); err != nil || found.Verdict != "damaged" || !names(found.Damage) {
			t.Errorf("verify: %s, %v", spell(found), err)
		}
		o := RepairOptions{FS: faulty}
		plan, err := PlanRepair(t.Context(), "/vol", o)
		if err != nil || !plan.Needed || plan.ReadOnly || len(plan.Records)+len(plan.Logs)+len(plan.Checkpoints) > 0 {
			t.Fatalf("%+v, %v", plan, err)
		}
		if err := ApplyRepair(t.Context(), plan, o); err != nil {
			t.Fatal(err)
		}
		open()
		if r := y.v.Recovery(); r.Verdict == "damaged" {
			t.Errorf("recovery of what was repaired: %s", spell(r))
		}
		y.close()
		if found, err := verifyOn(t.Context(), faulty, "/vol", nil); err != nil || found.Verdict != verdictRepaired {
			t.Errorf("verify what was repaired: %s, %v", spell(found), err)
		}
		y.open()
		y.busy(3)
		for _, log := range logs {
			if got, want := y.read(log), fmt.Sprintf(" to %d", len(y.want[log])); !strings.HasSuffix(got, want) {
				t.Errorf("read again: log %q: %s, want%s", log, got, want)
			}
		}
		y.close()
	})
}

// TestAllLostBehindAGap removes every segment behind a gap. What opening began at is gone
// with them, so that a snapshot has to be in what is left. The repaired volume uses none of
// the IDs that were used: the next opening would take what begins under one for released.
func TestAllLostBehindAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		mustCreate(t, y.v, "kept")
		y.append("kept", 3, 9000)
		y.busy(2)
		y.append("kept", 30, 9000) // with snapshots between them
		y.busy(12)
		gaps := y.gaps()
		if len(gaps) == 0 {
			t.Fatal("no gap")
		}
		gap := gaps[len(gaps)-1]
		ids := y.v.journal.Segments()
		y.close()
		for _, id := range ids {
			if id > gap.To {
				if err := y.fs.Remove("/vol/" + nameOf(id)); err != nil {
					t.Fatal(err)
				}
			}
		}
		o := RepairOptions{FS: y.fs}
		plan, err := PlanRepair(t.Context(), "/vol", o)
		if err != nil || !plan.Needed || plan.Writes != nameOf(gap.To+2) {
			t.Fatalf("%+v, %v", plan, err)
		}
		if err := ApplyRepair(t.Context(), plan, o); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			y.open()
			if ids := y.v.journal.Segments(); ids[len(ids)-1] <= gap.To {
				t.Errorf("segments %s, gap %s", ids, gap)
			}
			info, err := y.v.Log("kept")
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range info.Lost {
				if l.First <= 33 {
					t.Errorf("records %d to %d are given up", l.First, l.Last)
				}
			}
			if got := readTo(t, y.v, "kept", 33); !slices.Equal(got, y.want["kept"]) {
				t.Errorf("%d records are left", len(got))
			}
			mustAppend(t, y.v, "busy", "goes on")
			y.close()
		}
		found, err := verifyOn(t.Context(), y.fs, "/vol", nil)
		if err != nil || found.Verdict != verdictRepaired {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// readTo reads a log's records up to one.
func readTo(t *testing.T, v *Volume, log string, to LSN) (recs []string) {
	t.Helper()
	r, err := v.NewReader(log, ReadOptions{From: 1, To: to})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	recs, err = follow(t.Context(), r, int(to))
	if err != nil {
		t.Error(err)
	}
	return recs
}
