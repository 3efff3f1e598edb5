package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/segment"
)

// TestLiveBytes truncates logs everywhere, by hand and by the janitor, also
// within batches and across restarts: what a log is said to hold is the framed
// size of the records that it has. The quota depends on it.
func TestLiveBytes(t *testing.T) {
	ctx := context.Background()
	mem := disk.NewMem()
	v := openTest(t, mem)
	rng := rand.New(rand.NewPCG(3, 4))
	sizes := map[string][]uint64{"a": nil, "b": nil} // of the records, from LSN 1 on
	for name := range sizes {
		mustCreate(t, v, name)
	}
	check := func() {
		t.Helper()
		for name, sizes := range sizes {
			info, err := v.Log(name)
			if err != nil || int(info.Durable()) != len(sizes) {
				t.Fatalf("log %q: %+v, %v; it has %d records", name, info, err, len(sizes))
			}
			var want uint64
			for _, n := range sizes[info.First-1:] {
				want += n
			}
			if info.LiveBytes != want {
				t.Fatalf("log %q holds %d bytes from LSN %d on, its records have %d", name, info.LiveBytes, info.First, want)
			}
		}
	}
	for step := range 600 {
		name := "a"
		if rng.IntN(2) == 0 {
			name = "b"
		}
		info, err := v.Log(name)
		if err != nil {
			t.Fatal(err)
		}
		switch rng.IntN(12) {
		case 0:
			if _, err := v.Truncate(ctx, name, info.First+LSN(rng.IntN(int(info.Next-info.First)+1))); err != nil && !errors.Is(err, ErrHeld) {
				t.Fatal(err)
			}
		case 1:
			lsn := info.Durable() - min(LSN(rng.IntN(8)), info.Durable())
			_, err := v.SetCheckpoint(ctx, name, Checkpoint{Name: "cp", LSN: lsn}, nil)
			if err != nil && !errors.Is(err, ErrCheckpointBackwards) && !errors.Is(err, ErrLSNTruncated) {
				t.Fatal(err)
			}
		case 2:
			if step%4 == 0 {
				closeTest(t, v)
				v = openTest(t, mem)
			}
		default:
			var recs []string
			for range 1 + rng.IntN(4) {
				recs = append(recs, strings.Repeat("x", rng.IntN(3000)))
				sizes[name] = append(sizes[name], uint64(records.Size(len(recs[len(recs)-1]))))
			}
			mustAppend(t, v, name, recs...)
		}
		check()
	}
	if v.journal.Segments()[0] == 1 {
		t.Error("the janitor never gave up a segment")
	}
	closeTest(t, v)
}

// TestSegmentsAreReused checkpoints as it goes, for many segments: the journal
// lives on its first few files, and none of what lay in them comes back.
func TestSegmentsAreReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		var mu sync.Mutex
		created, begun := 0, 0
		fs := disk.Record(mem, func(op disk.Op) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !op.Done():
			case op.Kind == disk.OpCreate:
				created++
			case op.Kind == disk.OpRename && strings.HasPrefix(op.Name, "spare-") && strings.HasSuffix(op.To, ".wal"):
				begun++
			}
		})
		o := testOptions(fs)
		// From this size on few spares are kept, so that one that is recycled is
		// not one too many.
		o.SegmentSize, o.Codec, o.SnapshotEvery = 1<<20, "none", 256<<10
		v, err := Open(context.Background(), "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		mustCreate(t, v, "log")
		rec := func(n LSN) string { return fmt.Sprintf("%d %s", n, strings.Repeat("x", 100<<10)) }
		next := LSN(1)
		turn := func(segments int) {
			for until := begun + segments; begun < until; next++ {
				if got := mustAppend(t, v, "log", rec(next)); got.First != next {
					t.Fatalf("record %d got LSN %d", next, got.First)
				}
				mustCheckpoint(t, v, "log", "cp", next-min(next, 5), "")
				time.Sleep(2 * limits.OpenSegmentIdle)
				synctest.Wait()
			}
		}
		turn(6) // until snapshots let segments go
		was := created
		turn(20)
		if created != was {
			t.Errorf("%d files were created for 20 segments", created-was)
		}
		if n := len(v.journal.Segments()); n > 6 {
			t.Errorf("%d segments are kept", n)
		}
		closeTest(t, v)
		v = openLarge(t, mem, "none")
		info, err := v.Log("log")
		if err != nil || info.Next != next {
			t.Fatalf("%+v, %v; the last record was %d", info, err, next-1)
		}
		for at, got := range readAll(t, v, "log", info.First) {
			if want := rec(info.First + LSN(at)); got != want {
				t.Fatalf("LSN %d is %.20q", info.First+LSN(at), got)
			}
		}
		closeTest(t, v)
	})
}

// TestIdleLogsHoldWhatTheyKeep: a log without a checkpoint keeps everything, and,
// unless that is little enough to be moved, the segments that have it, however far
// others have come; once it gives that up, the journal lets go of them.
func TestIdleLogsHoldWhatTheyKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openPlain(t, disk.NewMem())
		defer closeTest(t, v)
		mustCreate(t, v, "idle")
		mustCreate(t, v, "busy")
		var kept []string
		for i := range 4 {
			kept = append(kept, fmt.Sprint(i, strings.Repeat("k", 9000)))
			mustAppend(t, v, "idle", kept[i])
		}
		busy := func(segments uint64) {
			for until := v.Status().Rolls + segments; v.Status().Rolls < until; {
				got := mustAppend(t, v, "busy", strings.Repeat("x", 9000))
				mustCheckpoint(t, v, "busy", "cp", got.First, "")
				time.Sleep(2 * limits.OpenSegmentIdle)
				synctest.Wait()
			}
		}
		busy(10)
		if ids := v.journal.Segments(); ids[0] != 1 {
			t.Fatalf("segments %s and before are gone, with a record that nobody gave up", ids[0]-1)
		}
		if ids := v.journal.Segments(); len(ids) > 7 {
			t.Errorf("segments %s are kept for four records", ids)
		}
		equal(t, readAll(t, v, "idle", 1), kept)
		mustCheckpoint(t, v, "idle", "cp", 4, "")
		busy(2)
		if ids := v.journal.Segments(); len(ids) > 5 {
			t.Errorf("%d segments from %s on are kept for nobody", len(ids), ids[0])
		}
	})
}

// TestTogetherFitsAFrame: what has to land together is put into a frame that is as
// good as full. A frame of more commands than anybody decodes would be the last one
// of its volume.
func TestTogetherFitsAFrame(t *testing.T) {
	fs := disk.NewMem()
	v := openLarge(t, fs, "none")
	info := mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1")
	number := v.durable.named("log").number
	keep := &Command{Kind: CommandTruncate, Log: number, First: info.First, LiveBytes: uint64(len(run("1")))}
	f, full, err := v.board(context.Background(), 0, forRoom)
	if err != nil || full != nil {
		t.Fatal(full, err)
	}
	for f.Commands() < limits.FrameFullCommands-1 {
		v.put(f, keep, nil)
	}
	for range limits.MaxCommandsTogether { // who boards now may bring so many
		v.put(f, keep, nil)
	}
	w := newWaiter()
	f.Ride(w)
	v.bus.Leave()
	if err := <-w.landed; err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	v = openLarge(t, fs, "none")
	equal(t, readAll(t, v, "log", 1), []string{"1"})
	closeTest(t, v)
}

// TestWhatWasReadIsRecycledAtOnce: a segment that was read is released when its records
// are given up, and waits for nobody who might ask again.
func TestWhatWasReadIsRecycledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openPlain(t, disk.NewMem())
		defer closeTest(t, v)
		mustCreate(t, v, "log")
		began, recycled, released := time.Now(), uint64(0), 0
		for released < 3 {
			var last LSN
			for range 24 {
				last = mustAppend(t, v, "log", strings.Repeat("x", 9000)).First
			}
			synctest.Wait() // a snapshot that is due
			before := len(v.journal.Segments())
			readAll(t, v, "log", last-23)
			mustCheckpoint(t, v, "log", "cp", last, "")
			synctest.Wait()
			if len(v.journal.Segments()) < before {
				released++
			}
			if id, n := v.journal.Waiting(); n != 0 {
				t.Fatalf("%d segments from %s on wait for readers that nobody uses", n, id)
			}
			recycled = v.Status().Recycles
		}
		if recycled < 3 {
			t.Errorf("%d segments were recycled", recycled)
		}
		if took := time.Since(began); took >= limits.OpenSegmentIdle {
			t.Errorf("it took %v: readers were closed for being idle", took)
		}
	})
}

// TestKeepersStay truncates a thousand logs that keep a segment, one after the other from
// either end: another one is named as its keeper seldom, for each time the segment's index
// is looked at.
func TestKeepersStay(t *testing.T) {
	const many = 1000
	one := newSegmentIndex(1)
	var all []surveyed
	for n := uint64(1); n <= many; n++ {
		l := one.log(n)
		l.end, l.refs = logEnd{next: 5}, []ref{{lsn: 1}}
		all = append(all, surveyed{number: n, first: 1, keep: 1, from: 1, live: 10})
	}
	v := &Volume{fullSize: 1 << 20}
	j := &janitor{v: v}
	for _, backward := range []bool{false, true} {
		logs, keepers := all, 0
		var k keeper
		for len(logs) > 0 {
			if next, ok := j.keeps(logs, one); !ok || next.needed != 5 {
				t.Fatalf("kept by %+v, %t", next, ok)
			} else if next != k {
				k = next
				keepers++
			}
			if backward {
				logs = logs[:len(logs)-1]
			} else {
				logs = logs[1:]
			}
		}
		if keepers > 50 {
			t.Errorf("backward %t: %d keepers of %d logs", backward, keepers, many)
		}
	}
}

// TestEmptyStateIsNotCarried: a checkpoint without a state lies in a frame without
// blocks. When it is set to one with a state while the janitor looks, its old place is
// not read.
func TestEmptyStateIsNotCarried(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	mustCheckpoint(t, v, "log", "cp", 0, "")
	key := stateKey{v.durable.named("log").number, "cp"}
	v.mu.RLock()
	empty, _ := v.index.places.get(key)
	v.mu.RUnlock()
	mustCheckpoint(t, v, "log", "cp", 0, "state")
	v.mu.Lock()
	v.index.places.set(key, empty) // what the janitor saw before
	v.mu.Unlock()
	j := &janitor{v: v}
	j.quit = t.Context()
	if _, err := j.carryStates([]segment.ID{empty.pos.Segment}); err != nil {
		t.Error(err)
	}
}
