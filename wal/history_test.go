package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A historyStep is something that clients ask of a volume, so spelled that they
// may ask it again: it happens once.
type historyStep struct {
	what string // for messages
	// batches are appended, at most so many together as a run wants.
	batches []historyBatch
	whole   bool // they are one, over several logs
	// or one thing is done
	do func(ctx context.Context, v *Volume) error
	// which is to set a checkpoint of log at lsn, if that is not 0
	log string
	lsn LSN
}

// A historyBatch goes through the log's producer if it has a sequence; else it
// says where it expects to land.
type historyBatch struct {
	log      string
	sequence uint64
	first    LSN
	records  []string
}

// A historyLog is what the author of a history knows of a log.
type historyLog struct {
	records  []string
	sequence uint64
	floor    LSN // the most that retention may have given up so far
	cps      map[string]*Checkpoint
	deleted  uint64 // greatest version of one that is not there any more
	cursor   *LSN   // nil for none
	rewinds  Epoch
}

func (l *historyLog) next() LSN { return LSN(len(l.records)) + 1 }

// keep returns the oldest record that must be kept, and raises the floor to it.
func (l *historyLog) keep() LSN {
	for i := LSN(0); len(l.cps) > 0 || l.cursor != nil; i++ {
		if l.cursor != nil && *l.cursor == i {
			l.floor = max(l.floor, i+1)
			return l.floor
		}
		for _, cp := range l.cps {
			if cp.LSN == i {
				l.floor = max(l.floor, i+1)
				return l.floor
			}
		}
	}
	return l.floor
}

// newHistory makes a history, and says what each log holds at its end. How far
// retention comes on its own depends on where segments end, so that the history
// never leans on it, and ends with what evens that out: every log gives up all
// that retention may have.
func newHistory(seed uint64, length int) (steps []historyStep, logs map[string]*historyLog) {
	rng := rand.New(rand.NewPCG(seed, 0))
	logs = map[string]*historyLog{}
	var names, sealed []string
	add := func(what string, do func(ctx context.Context, v *Volume) error) {
		steps = append(steps, historyStep{what: what, do: do})
	}
	for n := range length {
		if len(names) < 3 || len(names) < 6 && rng.IntN(30) == 0 {
			name := fmt.Sprintf("log-%d", n)
			names = append(names, name)
			logs[name] = &historyLog{floor: 1, cps: map[string]*Checkpoint{}}
			id := ulid.ULID{byte(n), byte(n >> 8), 1}
			add("create "+name, func(ctx context.Context, v *Volume) error { return createAs(ctx, v, name, id) })
			add("open producer on "+name, func(ctx context.Context, v *Volume) error {
				_, err := v.OpenProducer(ctx, name, crashProducer)
				return err
			})
		}
		name := names[rng.IntN(len(names))]
		l := logs[name]
		switch k := rng.IntN(24); {
		case k < 13:
			var batches []historyBatch
			for range 1 + rng.IntN(12) {
				name := names[rng.IntN(len(names))]
				l := logs[name]
				b := historyBatch{log: name, first: l.next()}
				if rng.IntN(3) > 0 {
					l.sequence++
					b.sequence = l.sequence
				}
				for range 1 + rng.IntN(4) {
					b.records = append(b.records, fmt.Sprintf("%d %s", len(l.records), strings.Repeat("abcdefgh"[:1+rng.IntN(8)], rng.IntN(180))))
					l.records = append(l.records, b.records[len(b.records)-1])
				}
				batches = append(batches, b)
			}
			steps = append(steps, historyStep{what: "append", batches: batches})
		case k == 22:
			l.sequence++
			step := historyStep{what: "append to several", whole: true}
			for i := range 1 + rng.IntN(len(names)) {
				other := names[(slices.Index(names, name)+i)%len(names)]
				b := historyBatch{log: other, first: logs[other].next(), records: []string{fmt.Sprintf("together %d %s", n, strings.Repeat("x", rng.IntN(100)))}}
				if i == 0 {
					b.sequence = l.sequence
				}
				logs[other].records = append(logs[other].records, b.records...)
				step.batches = append(step.batches, b)
			}
			steps = append(steps, step)
		case k == 23:
			keep := l.floor - 1
			for _, cp := range l.cps {
				keep = max(keep, cp.LSN)
			}
			after := l.next() - 1 - min(LSN(rng.IntN(30)), l.next()-1-keep)
			l.records = l.records[:after]
			l.rewinds++
			if l.cursor != nil && *l.cursor > after {
				l.cursor = &after
			}
			r := Rewind{After: after, Epoch: l.rewinds, Request: ulid.ULID{byte(n), byte(n >> 8), 2}}
			add("rewind "+name, func(ctx context.Context, v *Volume) error {
				_, err := v.Rewind(ctx, name, r)
				return err
			})
		case k < 17:
			cp := "cp" + string(rune('a'+rng.IntN(3)))
			was := l.cps[cp]
			if was == nil {
				was = &Checkpoint{Name: cp, Version: l.deleted}
			}
			low := max(was.LSN, l.floor-1)
			set := Checkpoint{Name: cp, LSN: low + LSN(rng.IntN(int(l.next()-low))), Version: was.Version + 1, State: []byte(strings.Repeat("s", rng.IntN(2000)))}
			l.cps[cp] = &set
			l.keep()
			add(fmt.Sprintf("set %s of %s", cp, name), func(ctx context.Context, v *Volume) error {
				_, err := v.SetCheckpoint(ctx, name, set, nil)
				if c := (*ConflictError)(nil); errors.As(err, &c) && c.Version == set.Version {
					return nil // it had landed
				}
				return err
			})
			steps[len(steps)-1].log, steps[len(steps)-1].lsn = name, set.LSN
		case k == 17 && len(l.cps) > 1:
			for _, cp := range []string{"cpa", "cpb", "cpc"} {
				if l.cps[cp] == nil {
					continue
				}
				l.deleted = max(l.deleted, l.cps[cp].Version)
				delete(l.cps, cp)
				l.keep()
				add(fmt.Sprintf("delete %s of %s", cp, name), func(ctx context.Context, v *Volume) error {
					err := v.DeleteCheckpoint(ctx, name, cp, nil)
					if errors.Is(err, ErrCheckpointNotFound) {
						return nil
					}
					return err
				})
				break
			}
		case k == 18:
			first := LSN(1) + LSN(rng.IntN(int(l.keep())))
			add("truncate "+name, func(ctx context.Context, v *Volume) error {
				_, err := v.Truncate(ctx, name, first)
				return err
			})
		case k == 20:
			lsn := l.floor - 1 + LSN(rng.IntN(int(l.next()-l.floor)+1))
			l.cursor = &lsn
			l.keep()
			add(fmt.Sprintf("set the cursor of %s", name), func(ctx context.Context, v *Volume) error {
				_, err := v.SetCursor(ctx, name, CursorUpdate{Name: "reader", LSN: lsn, Reset: true})
				return err
			})
		case k == 21 && l.cursor != nil && rng.IntN(2) == 0:
			l.cursor = nil
			l.keep()
			add(fmt.Sprintf("delete the cursor of %s", name), func(ctx context.Context, v *Volume) error {
				if err := v.DeleteCursor(ctx, name, "reader", nil); !errors.Is(err, ErrCursorNotFound) {
					return err
				}
				return nil
			})
		case k == 19 && len(names) > 4 && rng.IntN(3) == 0:
			i := rng.IntN(len(names))
			name := names[i]
			names = append(names[:i:i], names[i+1:]...)
			if rng.IntN(2) == 0 {
				sealed = append(sealed, name)
				add("seal "+name, func(ctx context.Context, v *Volume) error {
					_, err := v.SealLog(ctx, name, nil)
					return err
				})
				continue
			}
			delete(logs, name)
			add("delete "+name, func(ctx context.Context, v *Volume) error {
				err := v.DeleteLog(ctx, name, ulid.ULID{})
				if errors.Is(err, ErrLogNotFound) {
					return nil
				}
				return err
			})
		}
	}
	for _, name := range append(names, sealed...) {
		first := logs[name].keep()
		add("even out "+name, func(ctx context.Context, v *Volume) error {
			_, err := v.Truncate(ctx, name, first)
			return err
		})
	}
	return steps, logs
}

// createAs creates a log with an ID of the caller's choice.
func createAs(ctx context.Context, v *Volume, name string, id ulid.ULID) error {
	return v.do(ctx, maxCommandBytes, forRecords, func(s *State) (*Command, []byte, error) {
		if s.named(name) != nil {
			return nil, nil, nil
		}
		return &Command{Kind: CommandCreateLog, Log: s.next, ID: id, Name: name, Time: v.clock.now(), Options: LogOptions{ColocationKey: "history"}}, nil, nil
	})
}

// A historyRun plays a history on a volume of its own kind.
type historyRun struct {
	name     string
	o        Options
	together int  // batches that are handed over at once
	crash    int  // one in so many steps meets a power cut; 0 for none
	reopen   int  // one in so many steps is followed by a restart; 0 for none
	gather   bool // checkpoints ride with appends where they may

	mem     *disk.Mem
	mu      sync.Mutex
	armed   int // operations until the power is cut
	cut     *disk.Mem
	now     atomic.Int64
	crashes int
	gate    chan struct{} // until it is closed, no frame is written; nil for none
	rides   int           // of checkpoints with appends
	rng     *rand.Rand
}

// TestSameHistory plays one history of commands on volumes that differ in
// everything that is not a command: sizes of frames and segments, codecs,
// snapshots, restarts and power cuts. All come to the same state, and to the same
// hash of it: a replica may differ in all of that.
func TestSameHistory(t *testing.T) {
	for seed := range uint64(3) {
		steps, logs := newHistory(seed, 130)
		var want uint64
		for _, r := range []*historyRun{
			{name: "a frame for each", o: Options{SegmentSize: limits.MinSegmentSize, Codec: "none", SnapshotEvery: 16 << 10}, together: 1},
			{name: "large frames", o: Options{SegmentSize: 1 << 20, Codec: "none", SnapshotEvery: 1 << 40}, together: 12},
			{name: "everything rides together", o: Options{SegmentSize: 1 << 20, Codec: "none", SnapshotEvery: 64 << 10}, together: 12, gather: true},
			{name: "s2", o: Options{SegmentSize: 2 * limits.MinSegmentSize, Codec: "s2", SnapshotEvery: 64 << 10}, together: 4},
			{name: "zstd", o: Options{SegmentSize: limits.MinSegmentSize, Codec: "zstd", SnapshotEvery: 8 << 10}, together: 6},
			{name: "auto", o: Options{SegmentSize: 4 << 20, Codec: "auto"}, together: 12},
			{name: "restarts", o: Options{SegmentSize: limits.MinSegmentSize, Codec: "s2", SnapshotEvery: 32 << 10}, together: 3, reopen: 20},
			{name: "power cuts", o: Options{SegmentSize: limits.MinSegmentSize, Codec: "none", SnapshotEvery: 16 << 10}, together: 4, crash: 6},
			{name: "power cuts, zstd", o: Options{SegmentSize: 4 * limits.MinSegmentSize, Codec: "zstd", SnapshotEvery: 64 << 10}, together: 12, crash: 4, reopen: 30},
		} {
			t.Run(fmt.Sprintf("seed=%d/%s", seed, r.name), func(t *testing.T) {
				r.rng = rand.New(rand.NewPCG(seed, 9))
				var got uint64
				if play := func(t *testing.T) { got = r.play(t, steps, logs) }; r.gather {
					synctest.Test(t, play)
				} else {
					play(t)
				}
				if want == 0 {
					want = got
				}
				if got != want {
					t.Errorf("state %016x, another run came to %016x", got, want)
				}
			})
		}
	}
}

// play returns the hash of the state that the history comes to.
func (r *historyRun) play(t *testing.T, steps []historyStep, logs map[string]*historyLog) uint64 {
	r.mem = disk.NewMem()
	v := r.open(t)
	for i := 0; i < len(steps); i++ {
		step := steps[i]
		r.now.Store(timeOfStep(i))
		if r.gather && mayRide(v, steps[i:]) {
			r.ride(t, v, steps[i:i+3], i)
			i += 2
			continue
		}
		cut := r.crash > 0 && r.rng.IntN(r.crash) == 0
		if cut {
			r.arm(1 + r.rng.IntN(8))
		}
		r.step(t, v, &step)
		if lost := r.disarm(); lost != nil {
			closeTest(t, v)
			r.mem = lost
			r.crashes++
			v = r.open(t)
			r.step(t, v, &step) // its clients do not know
		} else if r.reopen > 0 && r.rng.IntN(r.reopen) == 0 {
			closeTest(t, v)
			v = r.open(t)
		}
	}
	if r.crash > 0 && r.crashes == 0 || r.gather && r.rides == 0 {
		t.Errorf("the power was cut %d times, %d checkpoints rode with appends", r.crashes, r.rides)
	}
	for name, l := range logs {
		info, err := v.Log(name)
		if err != nil || info.First != l.keep() || info.Next != l.next() {
			t.Fatalf("log %q has %d to %d, %v; want %d to %d", name, info.First, info.Next-1, err, l.keep(), l.next()-1)
		}
		equal(t, readAll(t, v, name, 0), l.records[l.keep()-1:])
		for _, cp := range l.cps {
			wantState(t, v, name, cp.Name, cp.LSN, string(cp.State))
		}
	}
	closeTest(t, v)
	left, _, err := recovered(r.mem)
	if err != nil {
		t.Fatal(err)
	}
	if left.Hash() != v.durable.Hash() {
		t.Error("what the volume leaves shows another state than it had")
	}
	return left.Hash()
}

func (r *historyRun) open(t *testing.T) *Volume {
	t.Helper()
	faulty := disk.NewFaulty(r.mem)
	faulty.Before(r.before)
	o := r.o
	o.FS, o.Create, o.PrepareRate, o.Now = faulty, true, -1, r.now.Load
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// arm has the power cut before the n-th operation from now on that changes the disk.
func (r *historyRun) arm(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = n
}

// disarm returns what the power cut left, nil if there was none.
func (r *historyRun) disarm() *disk.Mem {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := r.cut
	r.armed, r.cut = 0, nil
	return lost
}

func (r *historyRun) before(op disk.Op) error {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil && op.Kind == disk.OpWrite && strings.HasSuffix(op.Name, ".wal") {
		<-gate
	}
	switch op.Kind {
	case disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpWrite, disk.OpSync, disk.OpTruncate:
	default:
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.armed--; r.armed == 0 {
		r.cut = r.mem.CrashClone(r.rng, r.rng.Float64())
	}
	return nil
}

func timeOfStep(i int) int64 { return int64(1+i) * 1000 }

// mayRide reports whether the next steps are two of appends and a checkpoint that
// needs neither.
func mayRide(v *Volume, steps []historyStep) bool {
	if len(steps) < 3 || steps[0].whole || steps[1].whole || steps[0].batches == nil || steps[1].batches == nil || steps[2].lsn == 0 {
		return false
	}
	info, err := v.Log(steps[2].log)
	return err == nil && steps[2].lsn <= info.Durable()
}

// ride does three steps while the first keeps the disk busy: the others share
// the frame behind it.
func (r *historyRun) ride(t *testing.T, v *Volume, steps []historyStep, at int) {
	hold := func(gate chan struct{}) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.gate = gate
	}
	gate := make(chan struct{})
	hold(gate)
	var clients sync.WaitGroup
	for i := range steps {
		r.now.Store(timeOfStep(at + i))
		clients.Go(func() { r.step(t, v, &steps[i]) })
		synctest.Wait()
	}
	hold(nil)
	close(gate)
	clients.Wait()
	r.rides++
}

// step does a step, or finds it done.
func (r *historyRun) step(t *testing.T, v *Volume, step *historyStep) {
	t.Helper()
	if step.do != nil {
		if err := step.do(context.Background(), v); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		return
	}
	if step.whole {
		r.appendWhole(t, v, step.batches)
		return
	}
	for at := 0; at < len(step.batches); at += r.together {
		s := newSeat(t, v)
		var batches []Batch
		bindings := map[string]*Binding{}
		group := step.batches[at:min(len(step.batches), at+r.together)]
		for _, b := range group {
			if b.sequence != 0 {
				if bindings[b.log] == nil {
					bindings[b.log] = s.bind(b.log, crashProducer)
				}
				batches = append(batches, Batch{Binding: bindings[b.log], Sequence: b.sequence, Run: run(b.records...)})
				continue
			}
			// Each by itself: that one finds itself appended refuses no other.
			batches = append(batches, Batch{Binding: s.bind(b.log, ulid.ULID{}), Expected: b.first, Run: run(b.records...)})
		}
		for i, got := range s.verdicts(batches...) {
			b := group[i]
			var mismatch *MismatchError
			landed := got.Err == nil && got.First == b.first || errors.As(got.Err, &mismatch) && mismatch.Next >= b.first+LSN(len(b.records))
			if !landed {
				t.Fatalf("log %q: append at %d: %+v", b.log, b.first, got)
			}
		}
		s.Close()
	}
}

// appendWhole appends one batch over several logs, or finds it done.
func (r *historyRun) appendWhole(t *testing.T, v *Volume, batches []historyBatch) {
	t.Helper()
	s := newSeat(t, v)
	lead := batches[0]
	b := Batch{Binding: s.bind(lead.log, crashProducer), Sequence: lead.sequence, Run: run(lead.records...)}
	for _, part := range batches[1:] {
		b.Parts = append(b.Parts, Part{Binding: s.bind(part.log, ulid.ULID{}), Expected: part.first, Run: run(part.records...)})
	}
	got := s.verdicts(b)[0]
	if got.Err != nil || got.First != lead.first || len(got.Parts) != len(batches)-1 {
		t.Fatalf("log %q: append at %d: %+v", lead.log, lead.first, got)
	}
	for i, part := range batches[1:] {
		if got.Parts[i].First != part.first {
			t.Fatalf("log %q: part at %d: %+v", part.log, part.first, got.Parts[i])
		}
	}
	s.Close()
}
