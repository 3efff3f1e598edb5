package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A tenant is what a log has to hold.
type tenant struct {
	first, next LSN
	checkpoint  LSN
	state       string
}

// A fullDisk is a volume on a disk of a few segments, and what it has to hold.
type fullDisk struct {
	t    *testing.T
	rng  *rand.Rand
	mem  *disk.Mem
	fs   disk.FS // over mem; nil for mem itself
	v    *Volume
	what string // for failures: what was done
	logs map[string]*tenant
}

// newFullDisk makes a volume with three logs on a disk with room for segments
// of size bytes together.
func newFullDisk(t *testing.T, size int64) *fullDisk {
	d := &fullDisk{
		t: t, mem: disk.NewMem(), rng: rand.New(rand.NewPCG(1, uint64(size))),
		what: fmt.Sprintf("%d bytes: %.1f segments\n", size, float64(size)/(1<<20)),
		logs: map[string]*tenant{"a": {1, 1, 0, ""}, "b": {1, 1, 0, ""}, "c": {1, 1, 0, ""}},
	}
	d.mem.SetCapacity(size + 2*limits.BlockSize) // VOLUME takes one
	d.open()
	for log := range d.logs {
		mustCreate(t, d.v, log)
		d.add(log, 100)
	}
	return d
}

func (d *fullDisk) failf(format string, args ...any) {
	d.t.Helper()
	files, _ := d.mem.List("/vol") // for people
	err := fmt.Sprintf(format, args...)
	_ = d.v.Close() // it ended badly already
	d.t.Fatalf("%s\n%sfiles: %+v", err, d.what, files)
}

func (d *fullDisk) note(format string, args ...any) {
	d.what += fmt.Sprintf(format, args...) + fmt.Sprintf(": %+v\n", d.v.journal.Space())
}

func (d *fullDisk) open() {
	d.t.Helper()
	o := testOptions(cmp.Or[disk.FS](d.fs, d.mem))
	o.SegmentSize, o.Codec, o.SnapshotEvery = 1<<20, "none", 2<<20
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		d.failf("open: %v", err)
	}
	d.v = v
	if r := v.Recovery(); r.Verdict == "damaged" {
		d.failf("opened: %+v", r)
	}
}

// text is record lsn of a log.
func text(log string, lsn LSN, size int) string {
	head := fmt.Sprintf("%s %d ", log, lsn)
	return head + strings.Repeat("x", max(0, size-len(head)))
}

// add appends one record and reports whether there was room for it.
func (d *fullDisk) add(log string, size int) bool {
	l := d.logs[log]
	got, err := d.v.Append(context.Background(), log, ulid.ULID{}, 0, Batch{Run: run(text(log, l.next, size))})
	switch {
	case errors.Is(err, ErrFull):
		return false
	case err != nil:
		d.failf("append to %s: %v", log, err)
	case got.First != l.next:
		d.failf("append to %s got LSN %d, want %d", log, got.First, l.next)
	}
	l.next++
	return true
}

// fill appends to all logs at once until there is no room for more.
func (d *fullDisk) fill() {
	var all sync.WaitGroup
	for _, log := range slices.Sorted(maps.Keys(d.logs)) {
		rng := rand.New(rand.NewPCG(d.rng.Uint64(), 0))
		all.Go(func() {
			for most := 1 + rng.IntN(d.v.maxBatch-20); d.add(log, 1+rng.IntN(most)); {
			}
		})
	}
	all.Wait()
	if s := d.v.Status(); s.State == Poisoned {
		d.failf("poisoned: %s", s.Detail)
	}
	d.note("fill")
}

// set sets a log's checkpoint, with a state of some size, and reports whether
// there was room for it.
func (d *fullDisk) set(log string, lsn LSN, size int) bool {
	l := d.logs[log]
	state := text(log, lsn, size)
	_, err := d.v.SetCheckpoint(context.Background(), log, Checkpoint{Name: "engine", LSN: lsn, State: []byte(state)}, nil)
	if errors.Is(err, ErrFull) {
		return false
	}
	if err != nil {
		d.failf("checkpoint of %s at %d: %v", log, lsn, err)
	}
	l.checkpoint, l.state = lsn, state
	return true
}

// truncate gives records of a log up.
func (d *fullDisk) truncate(log string, first LSN) {
	l := d.logs[log]
	if l.checkpoint != 0 {
		first = min(first, l.checkpoint+1)
	}
	if _, err := d.v.Truncate(context.Background(), log, first); err != nil {
		d.failf("truncate %s below %d: %v", log, first, err)
	}
	l.first = max(l.first, first)
}

// check reads everything back.
func (d *fullDisk) check() {
	for log, l := range d.logs {
		info, err := d.v.Log(log)
		// What the checkpoint covers the janitor may give up at any time.
		keeps := max(l.first, l.checkpoint+min(l.checkpoint, 1))
		if err != nil || info.Next != l.next || info.First > keeps {
			d.failf("%s: %+v, want %d to %d; %v", log, info, keeps, l.next, err)
		}
		if l.checkpoint != 0 {
			cp, err := d.v.Checkpoint(context.Background(), log, "engine")
			if err != nil || cp.LSN != l.checkpoint || string(cp.State) != l.state {
				d.failf("%s: checkpoint at %d, want %d: %v", log, cp.LSN, l.checkpoint, err)
			}
		}
		if keeps == l.next {
			continue
		}
		recs := readAll(d.t, d.v, log, keeps)
		if len(recs) != int(l.next-keeps) {
			d.failf("%s: %d records from %d on, want up to %d", log, len(recs), keeps, l.next)
		}
		for i, rec := range recs {
			if want := text(log, keeps+LSN(i), 0); !strings.HasPrefix(rec, want) {
				d.failf("%s: LSN %d is %.20q", log, keeps+LSN(i), rec)
			}
		}
	}
}

// empty gives up everything that the logs keep, and wants appends to resume
// without the volume being opened again.
func (d *fullDisk) empty() {
	for log, l := range d.logs {
		if l.checkpoint != 0 && !d.set(log, l.next-1, 100) {
			d.failf("a checkpoint of %s that gives everything up is refused", log)
		}
		d.truncate(log, l.next)
	}
	d.note("gave up everything")
	for log := range d.logs {
		for deadline := time.Now().Add(5 * time.Minute); !d.add(log, 200<<10); {
			if time.Now().After(deadline) {
				d.note("later")
				d.failf("appends do not resume: %+v", d.v.Status())
			}
			<-time.After(100 * time.Millisecond)
		}
	}
	d.note("resumed")
}

// TestSpaceComesBack fills disks of every size from three segments on, with
// anything between, and wants them to be usable again without being opened again
// when what they hold is given up, and nothing lost on the way.
func TestSpaceComesBack(t *testing.T) {
	const size = 1 << 20
	for blocks := int64(3 * size / limits.BlockSize); blocks <= 20*size/limits.BlockSize; blocks += 113 {
		for seed := range uint64(1) {
			synctest.Test(t, func(t *testing.T) {
				d := newFullDisk(t, blocks*limits.BlockSize)
				d.rng = rand.New(rand.NewPCG(uint64(blocks), seed))
				d.live()
			})
		}
	}
}

func (d *fullDisk) live() {
	d.fill()
	for range 12 {
		log := []string{"a", "b", "c"}[d.rng.IntN(3)]
		l := d.logs[log]
		switch d.rng.IntN(9) {
		case 0, 1:
			d.fill()
		case 2:
			first := l.first + LSN(d.rng.IntN(int(l.next-l.first)+1))
			d.truncate(log, first)
			d.note("truncate %s to %d of %d", log, first, l.next)
		case 3: // all of them, up to some share
			share := d.rng.Float64()
			for log, l := range d.logs {
				d.truncate(log, l.first+LSN(share*float64(l.next-l.first)))
			}
			d.note("truncate all by %.2f", share)
		case 4:
			lsn := max(l.checkpoint, l.first-1) + LSN(d.rng.IntN(int(l.next-max(l.checkpoint+1, l.first))+1))
			if size := d.rng.IntN(1000); lsn > 0 && !d.set(log, lsn, size) {
				d.failf("a checkpoint with a state of %d bytes is refused", size)
			}
			d.note("checkpoint %s at %d", log, lsn)
		case 5: // large ones, as long as they are taken
			n := 0
			for ; l.checkpoint > 0 && n < 100 && d.set(log, l.checkpoint, d.v.maxBatch-100); n++ {
			}
			d.note("%d large checkpoints of %s", n, log)
		case 6:
			d.reopen()
		case 7:
			for range 1 + d.rng.IntN(6) {
				d.crash()
				if d.rng.IntN(2) == 0 {
					d.truncate(log, l.first)
				}
			}
		case 8:
			<-time.After(time.Duration(d.rng.IntN(5)) * time.Second)
		}
	}
	d.check()
	d.fill()
	d.empty()
	d.check()
	d.fill()
	d.empty()
	closeTest(d.t, d.v)
}

func (d *fullDisk) reopen() {
	closeTest(d.t, d.v)
	d.open()
	d.note("reopen")
}

// crash opens what a power cut leaves.
func (d *fullDisk) crash() {
	mem := d.mem.CrashClone(d.rng, d.rng.Float64())
	_ = d.v.Close() // of what was left behind
	d.mem = mem
	d.open()
	d.note("crash")
}

// TestSpaceComesBackBesideAnIdleLog fills disks of every size to the last block, again and
// again, where a log keeps the oldest segment, more of it than may be moved: whatever the
// others give up lies behind that, and takes the file of a gap to go.
func TestSpaceComesBackBesideAnIdleLog(t *testing.T) {
	const size = 1 << 20
	for blocks := int64(5 * size / limits.BlockSize); blocks <= 12*size/limits.BlockSize; blocks += 97 {
		for seed := range uint64(2) {
			synctest.Test(t, func(t *testing.T) {
				d := newFullDisk(t, blocks*limits.BlockSize)
				d.rng = rand.New(rand.NewPCG(uint64(blocks), seed))
				d.add("a", 300<<10)
				idle := d.logs["a"]
				delete(d.logs, "a")
				for range 6 {
					d.fill()
					if d.rng.IntN(2) == 0 {
						d.reopen() // which takes the spare
					} else {
						d.crash()
					}
					d.fill()
					d.empty()
				}
				d.logs["a"] = idle
				d.check()
				closeTest(t, d.v)
			})
		}
	}
}

// TestRoomForAGapIsAskedForAgain: on a full volume that had no room for a gap's file
// nothing happens any more. When there is room, who is refused makes it look again.
func TestRoomForAGapIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFullDisk(t, 6<<20)
		faulty := disk.NewFaulty(d.mem)
		d.fs = faulty
		d.reopen()
		d.add("a", 300<<10)
		delete(d.logs, "a")
		d.fill()
		faulty.Inject(disk.Fault{
			Kinds: []disk.OpKind{disk.OpCreate}, Err: syscall.ENOSPC, Sticky: true,
			Only: func(op disk.Op) bool { return strings.HasSuffix(op.Name, ".gap.tmp") },
		})
		for log, l := range d.logs {
			d.truncate(log, l.next)
		}
		for range 3 {
			<-time.After(time.Minute)
			for d.add("b", 200<<10) {
			}
		}
		if faulty.Fired() == 0 {
			t.Error("no gap was written")
		}
		faulty.Clear()
		for deadline := time.Now().Add(time.Minute); !d.add("b", 200<<10); <-time.After(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				d.failf("appends do not resume: %+v", d.v.Status())
			}
		}
		d.check()
		closeTest(t, d.v)
	})
}

// TestLargeCheckpointsLeaveRoom sets large checkpoints on a full disk until they
// are refused: what makes room goes on, also in the next life.
func TestLargeCheckpointsLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFullDisk(t, 5<<20)
		d.fill()
		for round := range 3 {
			if !d.set("a", 1, 100) {
				d.failf("round %d: a small checkpoint is refused", round)
			}
			n := 0
			for size := d.v.maxBatch - 100; size > smallState; size /= 2 {
				for ; d.set("a", 1, size); n++ {
					if n == 1000 {
						d.failf("there is no end to it")
					}
				}
			}
			d.note("%d large checkpoints", n)
			for range 5 {
				if !d.set("a", 1, 100) {
					d.failf("round %d: a small checkpoint is refused behind %d large ones", round, n)
				}
			}
			b := d.logs["b"]
			d.truncate("b", min(b.first+1, b.next))
			closeTest(t, d.v)
			d.open()
			d.note("reopen")
		}
		d.check()
		d.empty()
		d.check()
		closeTest(t, d.v)
	})
}

// TestPreparerFailsBehindAdmission has the preparer fail while appends wait for
// it: they are refused, and the volume is not poisoned.
func TestPreparerFailsBehindAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		faulty := disk.NewFaulty(mem)
		gate := make(chan error)
		var held atomic.Bool
		faulty.Before(func(op disk.Op) error {
			if op.Kind == disk.OpCreate && held.Load() {
				return <-gate
			}
			return nil
		})
		o := testOptions(faulty)
		o.SegmentSize, o.Codec = 1<<20, "none"
		v, err := Open(t.Context(), "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		mustCreate(t, v, "log")
		synctest.Wait() // the spares are there
		held.Store(true)
		const clients = 8
		refused := make(chan error, clients)
		for range clients {
			go func() {
				for {
					_, err := v.Append(t.Context(), "log", ulid.ULID{}, 0, Batch{Run: run(strings.Repeat("x", 300<<10))})
					if err != nil {
						refused <- err
						return
					}
				}
			}()
		}
		synctest.Wait() // until all wait for the preparer
		if n := v.journal.Space().Spares; n != 1 {
			t.Errorf("%d spares, the reserve is one", n)
		}
		select {
		case err := <-refused:
			t.Errorf("refused while the preparer is at work: %v", err)
		default:
		}
		gate <- syscall.ENOSPC
		for range clients {
			if err := <-refused; !errors.Is(err, ErrFull) {
				t.Errorf("%v", err)
			}
		}
		if s := v.Status(); s.State == Poisoned {
			t.Errorf("poisoned: %s", s.Detail)
		}
		held.Store(false)
		for range 3 { // it tries again
			<-time.After(2 * time.Second)
		}
		mustAppend(t, v, "log", "on")
		closeTest(t, v)
	})
}

// TestRestartsDoNotFillTheDisk crashes a volume again and again, each time after
// an append and a checkpoint that gives nothing up.
func TestRestartsDoNotFillTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFullDisk(t, 5<<20)
		for life := range 60 {
			for deadline := time.Now().Add(time.Minute); !d.add("a", 300); {
				if time.Now().After(deadline) {
					d.failf("life %d: 300 bytes a life fill the disk", life)
				}
				<-time.After(100 * time.Millisecond)
			}
			if !d.set("a", 1, 100) {
				d.failf("life %d: no checkpoint", life)
			}
			mem := d.mem.CrashClone(d.rng, 0.5)
			_ = d.v.Close() // of what was left behind
			d.mem = mem
			d.open()
			d.note("life %d", life)
		}
		d.check()
		closeTest(t, d.v)
	})
}

// TestTruncationHasRoom fills a disk with records, and what is left with small
// checkpoints of another log, which lead to nothing: a truncation finds room all the
// same, also beside snapshots, and appends resume.
func TestTruncationHasRoom(t *testing.T) {
	ctx := t.Context()
	mem := disk.NewMem()
	mem.SetCapacity(10 * limits.MinSegmentSize)
	v := openTest(t, mem)
	defer func() {
		if t.Failed() {
			holders, _, _ := v.Holders("", "", 10)
			t.Logf("%+v\n%+v, segments %v\nheld by %+v", v.Status(), v.journal.Space(), v.journal.Segments(), holders)
		}
	}()
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	rec := strings.Repeat("x", 5000)
	var last LSN
	for {
		got, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run(rec)})
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = got.First
		paceSnapshots(t, v)
	}
	set := 0
	for ; ; set++ {
		_, err := v.SetCheckpoint(ctx, "other", Checkpoint{Name: "cp", State: []byte("small")}, nil)
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil || set > 10_000 {
			t.Fatalf("checkpoint %d: %v", set, err)
		}
	}
	if _, err := v.Truncate(ctx, "log", last); err != nil {
		t.Errorf("truncate behind %d checkpoints that left no room for another: %v", set, err)
	}
	pollUntil(t, "appends resume", func() bool {
		_, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run(rec)})
		if err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		return err == nil
	})
	closeTest(t, v)
}

// TestNoRoomForASegmentsName: on a disk that has not even room for a segment's name,
// what was admitted waits, nothing is poisoned, and all goes on when there is room;
// or the volume is closed, and what was acknowledged is there. If it was a snapshot
// that had the segment begun, an append finds the disk full and is made again.
func TestNoRoomForASegmentsName(t *testing.T) {
	for _, c := range []struct{ closed, snapshots bool }{{}, {closed: true}, {snapshots: true}, {closed: true, snapshots: true}} {
		t.Run(fmt.Sprintf("closed=%v,snapshots=%v", c.closed, c.snapshots), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := disk.NewFaulty(disk.NewMem())
				open := func(fs disk.FS) *Volume {
					o := testOptions(fs)
					o.Codec = "none"
					v, err := Open(context.Background(), "/vol", o)
					if err != nil {
						t.Fatal(err)
					}
					return v
				}
				v := open(fs)
				mustCreate(t, v, "log")
				if !c.snapshots {
					v.snapshots.stop()
				}
				fs.Inject(disk.Fault{
					Kinds: []disk.OpKind{disk.OpRename}, Err: syscall.ENOSPC, Sticky: true,
					Only: func(op disk.Op) bool { return strings.HasSuffix(op.To, ".wal") },
				})
				const records = 40
				var acknowledged atomic.Int64
				ended := make(chan error, 1)
				go func() {
					for n := range records {
						add := func() error {
							_, err := v.Append(context.Background(), "log", ulid.ULID{}, 0, Batch{Run: run(text("log", LSN(n+1), 5000))})
							return err
						}
						err := add()
						for c.snapshots && errors.Is(err, ErrFull) {
							<-time.After(time.Second)
							err = add()
						}
						if err != nil {
							ended <- err
							return
						}
						acknowledged.Add(1)
					}
					ended <- nil
				}()
				<-time.After(time.Minute)
				before := acknowledged.Load()
				if s := v.Status(); s.State == Poisoned || fs.Fired() == 0 || before == 0 || before == records {
					t.Fatalf("%+v, %d names refused, %d records acknowledged", s, fs.Fired(), before)
				}
				if c.closed {
					if err := v.Close(); !errors.Is(err, ErrClosed) {
						t.Errorf("close: %v", err)
					}
					if err := <-ended; !errors.Is(err, ErrClosed) {
						t.Errorf("append: %v", err)
					}
					fs.Clear()
				} else {
					fs.Clear()
					if err := <-ended; err != nil {
						t.Fatal(err)
					}
					before = records
					closeTest(t, v)
				}
				v = open(fs)
				if got := readAll(t, v, "log", 1); int64(len(got)) != before {
					t.Errorf("%d records, %d were acknowledged", len(got), before)
				}
				closeTest(t, v)
			})
		})
	}
}
