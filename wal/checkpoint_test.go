package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func mustCheckpoint(t testing.TB, v *Volume, log, name string, lsn LSN, state string) Checkpoint {
	t.Helper()
	cp, err := v.SetCheckpoint(context.Background(), log, Checkpoint{Name: name, LSN: lsn, State: []byte(state)}, nil)
	if err != nil {
		t.Fatalf("set checkpoint %q of %q at %d: %v", name, log, lsn, err)
	}
	return cp
}

func wantState(t testing.TB, v *Volume, log, name string, lsn LSN, state string) {
	t.Helper()
	cp, err := v.Checkpoint(context.Background(), log, name)
	if err != nil {
		t.Fatalf("checkpoint %q of %q: %v", name, log, err)
	}
	if cp.LSN != lsn || string(cp.State) != state || int(cp.StateSize) != len(state) {
		t.Fatalf("checkpoint %q of %q is at LSN %d with a state of %d bytes, want LSN %d and %d bytes",
			name, log, cp.LSN, len(cp.State), lsn, len(state))
	}
}

func TestSetCheckpoint(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2", "3", "4")
	if cp := mustCheckpoint(t, v, "log", "cp", 2, "two"); cp.Version != 1 || cp.StateSize != 3 || cp.SetAt.IsZero() {
		t.Fatalf("first version: %+v", cp)
	}
	version := func(n uint64) *uint64 { return &n }
	for _, test := range []struct {
		name     string
		log      string
		cp       Checkpoint
		expected *uint64
		want     error
	}{
		{"other version", "log", Checkpoint{Name: "cp", LSN: 3}, version(7), ErrCheckpointConflict},
		{"must not exist", "log", Checkpoint{Name: "cp", LSN: 3}, version(0), ErrCheckpointConflict},
		{"must exist", "log", Checkpoint{Name: "new", LSN: 3}, version(1), ErrCheckpointConflict},
		{"backwards", "log", Checkpoint{Name: "cp", LSN: 1}, nil, ErrCheckpointBackwards},
		{"beyond durable", "log", Checkpoint{Name: "cp", LSN: 5}, nil, ErrLSNAhead},
		{"no log", "other", Checkpoint{Name: "cp", LSN: 0}, nil, ErrLogNotFound},
		{"bad log name", "/", Checkpoint{Name: "cp", LSN: 0}, nil, ErrInvalidName},
		{"no name", "log", Checkpoint{LSN: 3}, nil, ErrInvalidName},
		{"long name", "log", Checkpoint{Name: strings.Repeat("n", limits.MaxCheckpointNameBytes+1), LSN: 3}, nil, ErrInvalidName},
		{"state too large", "log", Checkpoint{Name: "cp", LSN: 3, State: make([]byte, v.maxBatch+1)}, nil, ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := v.SetCheckpoint(ctx, test.log, test.cp, test.expected); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			wantState(t, v, "log", "cp", 2, "two")
		})
	}

	var conflict *ConflictError
	_, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 3}, version(7))
	if !errors.As(err, &conflict) || conflict.Version != 1 || conflict.Expected != 7 {
		t.Fatalf("conflict without its figures: %v", err)
	}
	cp, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 3}, version(1))
	if err != nil || cp.Version != 2 {
		t.Fatalf("right version: %+v, %v", cp, err)
	}
	wantState(t, v, "log", "cp", 3, "") // an empty state replaces one that was not
	if cp, err = v.SetCheckpoint(ctx, "log", Checkpoint{Name: "new", LSN: 0}, version(0)); err != nil || cp.Version != 1 {
		t.Fatalf("LSN 0, nothing stored yet: %+v, %v", cp, err)
	}
	largest := strings.Repeat("x", v.maxBatch)
	mustCheckpoint(t, v, "log", "large", 4, largest)
	wantState(t, v, "log", "large", 4, largest)
}

func TestCheckpointLimits(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	for i := range limits.MaxCheckpointsPerLog {
		mustCheckpoint(t, v, "log", fmt.Sprintf("cp-%02d", i), 0, fmt.Sprint(i))
	}
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "more"}, nil); !errors.Is(err, ErrTooManyCheckpoints) {
		t.Fatalf("one more than the limit: %v", err)
	}
	mustCheckpoint(t, v, "log", "cp-07", 0, "again") // one that exists may always be set
	list, err := v.Checkpoints("log")
	if err != nil || len(list) != limits.MaxCheckpointsPerLog {
		t.Fatalf("%d checkpoints, %v", len(list), err)
	}
	for i, cp := range list {
		if cp.Name != fmt.Sprintf("cp-%02d", i) || cp.State != nil {
			t.Fatalf("checkpoint %d of the list: %+v", i, cp)
		}
	}
	if err := v.DeleteCheckpoint(ctx, "log", "cp-07", nil); err != nil {
		t.Fatal(err)
	}
	mustCheckpoint(t, v, "log", "more", 0, "")
}

func TestDeleteCheckpoint(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1")
	mustCheckpoint(t, v, "log", "cp", 1, "one")
	other := uint64(9)
	if err := v.DeleteCheckpoint(ctx, "log", "cp", &other); !errors.Is(err, ErrCheckpointConflict) {
		t.Fatalf("other version: %v", err)
	}
	if err := v.DeleteCheckpoint(ctx, "log", "none", nil); !errors.Is(err, ErrCheckpointNotFound) {
		t.Fatalf("one that is not there: %v", err)
	}
	if err := v.DeleteCheckpoint(ctx, "none", "cp", nil); !errors.Is(err, ErrLogNotFound) {
		t.Fatalf("of a log that is not there: %v", err)
	}
	right := uint64(1)
	if err := v.DeleteCheckpoint(ctx, "log", "cp", &right); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		t.Helper()
		if _, err := v.Checkpoint(ctx, "log", "cp"); !errors.Is(err, ErrCheckpointNotFound) {
			t.Fatalf("after deleting: %v", err)
		}
	}
	gone()
	closeTest(t, v)
	v = openTest(t, fs)
	defer closeTest(t, v)
	gone()
	// A name that is used again begins again: nothing of the old one shows, and who means
	// the old one is not taken to mean the new.
	if cp := mustCheckpoint(t, v, "log", "cp", 0, "zero"); cp.Version != 2 {
		t.Fatalf("set again after deleting: %+v", cp)
	}
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 1}, &right); !errors.Is(err, ErrCheckpointConflict) {
		t.Fatalf("set in place of the deleted one: %v", err)
	}
	if err := v.DeleteCheckpoint(ctx, "log", "cp", &right); !errors.Is(err, ErrCheckpointConflict) {
		t.Fatalf("deleted in place of the deleted one: %v", err)
	}
	wantState(t, v, "log", "cp", 0, "zero")
	if _, err := v.Checkpoint(ctx, "log", "bad name"); !errors.Is(err, ErrInvalidName) {
		t.Fatalf("a malformed name: %v", err)
	}
}

// TestNextVersion has checkpoints set to be of a certain version, as by somebody who does
// not know whether an earlier call of theirs was carried out: whatever others did, and
// however often the volume was opened, none is set twice.
func TestNextVersion(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	defer func() { closeTest(t, v) }()
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2")
	next := func(name string) uint64 {
		t.Helper()
		cp, err := v.Checkpoint(ctx, "log", name)
		if none, ok := errors.AsType[*NoCheckpointError](err); ok && none.Log == "log" && none.Checkpoint == name {
			return none.Next
		}
		if err != nil {
			t.Fatal(err)
		}
		return cp.Version + 1
	}
	set := func(name string, version uint64, want error) {
		t.Helper()
		cp, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: name, LSN: 1, Version: version, State: []byte("state")}, nil)
		if !errors.Is(err, want) || err == nil && cp.Version != version {
			t.Fatalf("checkpoint %q is set to %+v, %v; want version %d, %v", name, cp, err, version, want)
		}
	}
	begun := next("a")
	for i := range 3 {
		was := next("a")
		set("a", was, nil)
		set("a", was, ErrCheckpointConflict) // asked again
		if err := v.DeleteCheckpoint(ctx, "log", "a", nil); err != nil {
			t.Fatal(err)
		}
		set("a", was, ErrCheckpointConflict) // asked again, for what was deleted
		if is := next("a"); is != uint64(i)+2 {
			t.Errorf("next is version %d", is)
		}
		closeTest(t, v)
		v = openTest(t, fs)
		set("a", was, ErrCheckpointConflict)
		set("a", begun, ErrCheckpointConflict)
		set("a", next("a")+1, ErrCheckpointConflict)
	}
	// All names of a log go on behind what was deleted, and each by itself from there.
	set("b", next("b"), nil)
	set("b", next("b"), nil)
	set("c", 4, nil)
	if b := next("b"); b != 6 {
		t.Errorf("next is version %d", b)
	}
	var conflict *ConflictError
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "b", LSN: 1, Version: 5}, nil); !errors.As(err, &conflict) || *conflict != (ConflictError{Log: "log", Checkpoint: "b", Expected: 4, Version: 5}) {
		t.Errorf("%+v", conflict)
	}
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "d", LSN: 1, Version: 3}, nil); !errors.As(err, &conflict) || *conflict != (ConflictError{Log: "log", Checkpoint: "d", Expected: 2, Deleted: true}) {
		t.Errorf("%+v", conflict)
	}
}

// TestCheckpointStateOutlivesItsSegment rolls far beyond the segment in which a
// state was written: it is carried forward, the segment goes, and the state is
// there, also after openings from a snapshot and after a crash.
func TestCheckpointStateOutlivesItsSegment(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "idle")
	mustCreate(t, v, "busy")
	mustAppend(t, v, "idle", "1", "2")
	state := strings.Repeat("state", 700)
	mustCheckpoint(t, v, "idle", "cp", 2, state)
	mustCheckpoint(t, v, "idle", "empty", 2, "")
	born := v.journal.Segments()[0]
	rec := strings.Repeat("x", 9000)
	for round := range 3 {
		from := v.journal.Segments()[0]
		pollUntil(t, "the oldest segments are released", func() bool {
			last := mustAppend(t, v, "busy", rec)
			mustCheckpoint(t, v, "busy", "cp", last.First, "b")
			return v.journal.Segments()[0] > from+2
		})
		wantState(t, v, "idle", "cp", 2, state)
		wantState(t, v, "idle", "empty", 2, "")
		switch round {
		case 0:
			closeTest(t, v)
			v = openTest(t, fs)
		case 1:
			crashed := fs.CrashClone(nil, 0)
			closeTest(t, v)
			fs = crashed
			v = openTest(t, fs)
		}
		if r := v.Recovery(); r.Verdict == "damaged" {
			t.Fatalf("round %d: %+v", round, r)
		}
		wantState(t, v, "idle", "cp", 2, state)
	}
	defer closeTest(t, v)
	if first := v.journal.Segments()[0]; first <= born {
		t.Fatalf("an idle log with a checkpoint keeps segment %s", first)
	}
	info, err := v.Log("idle")
	if err != nil || info.First != 3 || info.Next != 3 || info.LiveBytes != 0 {
		t.Fatalf("the idle log: %+v, %v", info, err)
	}
}

// TestTruncateWithinABatch checks that what a log is said to hold begins with the
// record that is asked for, not with the batch that it came in: the quota counts it.
func TestTruncateWithinABatch(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	if _, _, err := v.CreateLog(t.Context(), "log", LogOptions{QuotaBytes: 40}); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, v, "log", "a twenty-byte record", "and", "a")
	for i, want := range []int{len(run("and", "a")), len(run("a")), 0} {
		first := LSN(i + 2)
		info, err := v.Truncate(t.Context(), "log", first)
		if err != nil {
			t.Fatal(err)
		}
		if now, err := v.Log("log"); err != nil || !reflect.DeepEqual(now, info) {
			t.Errorf("truncated to %d: %+v, and then it is %+v, %v", first, info, now, err)
		}
		if info.First != first || int(info.LiveBytes) != want {
			t.Errorf("truncated to %d: %d bytes, want %d", first, info.LiveBytes, want)
		}
	}
	mustAppend(t, v, "log", "forty bytes, with four of the framing")
}

func TestCheckpointDamagedState(t *testing.T) {
	mem := disk.NewMem()
	v := openTest(t, mem)
	mustCreate(t, v, "log")
	state := strings.Repeat("damaged-state ", 500)
	mustAppend(t, v, "log", "1")
	mustCheckpoint(t, v, "log", "cp", 1, state)
	l := v.durable.named("log")
	at := v.index.places.of[l.number][0].statePlace
	corrupt(t, mem, at.pos, limits.FrameHeaderSize+2)
	_, err := v.Checkpoint(context.Background(), "log", "cp")
	var loss *DataLossError
	if !errors.As(err, &loss) || loss.Log != "log" {
		t.Fatalf("a damaged state: %v", err)
	}
	mustCheckpoint(t, v, "log", "cp", 1, "new")
	wantState(t, v, "log", "cp", 1, "new")
	equal(t, readAll(t, v, "log", 0), []string{"1"})
	closeTest(t, v)
}

func TestCheckpointBytesAreTheCallers(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	state := []byte("before")
	if _, err := v.SetCheckpoint(context.Background(), "log", Checkpoint{Name: "cp", State: state}, nil); err != nil {
		t.Fatal(err)
	}
	copy(state, "after!")
	cp, err := v.Checkpoint(context.Background(), "log", "cp")
	if err != nil || !bytes.Equal(cp.State, []byte("before")) {
		t.Fatalf("%q, %v", cp.State, err)
	}
}
