package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A patient is a damaged volume, and what a repair makes of it.
type patient struct {
	name string
	fs   *disk.Mem
	logs []string
	plan *RepairPlan
	want map[string]string // by log, after the repair
	// served is what a service has without a repair; nil if it does not serve, as
	// when no snapshot happened to be taken behind the damage.
	served map[string]string
}

// chart says what is there of each log.
func (p *patient) chart(t *testing.T, fs disk.FS) map[string]string {
	t.Helper()
	v, err := Open(t.Context(), "/vol", Options{FS: fs, PrepareRate: -1, Codec: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v)
	if v.Status().State != Serving {
		t.Fatalf("it opens %+v", v.Recovery())
	}
	chart := map[string]string{}
	for _, log := range p.logs {
		info, err := v.Log(log)
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%d-%d, epoch %d, lost %v:", info.First, info.Durable(), info.Epoch, info.Lost)
		for lsn := info.First; lsn < info.Next; lsn++ {
			rec, err := readOne(v, log, lsn)
			if err != nil && !errors.Is(err, ErrDataLoss) {
				t.Fatalf("log %q, LSN %d: %v", log, lsn, err)
			}
			s += fmt.Sprintf(" %.8q", rec)
		}
		chart[log] = s
	}
	return chart
}

// repairAgain plans and applies, if there is need.
func repairAgain(t *testing.T, fs disk.FS) *RepairPlan {
	t.Helper()
	o := RepairOptions{FS: fs}
	plan, err := PlanRepair(t.Context(), "/vol", o)
	if err == nil {
		err = ApplyRepair(t.Context(), plan, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// patients makes damaged volumes: with a lost frame; with a lost frame and a
// tail that nothing promises; with a state that no segment takes; and without
// a VOLUME file that verifies.
func patients(t *testing.T) []*patient {
	t.Helper()
	var all []*patient
	for _, name := range []string{"a frame", "a frame and a tail", "a large state", "VOLUME"} {
		mem := disk.NewMem()
		v := openTest(t, mem)
		p := &patient{name: name, logs: []string{"orders", "users"}}
		if name == "a large state" {
			for i := range 12 {
				p.logs = append(p.logs, fmt.Sprintf("log-%d", i))
			}
		}
		for i, log := range p.logs {
			o := LogOptions{}
			if i > 1 {
				o.Labels = map[string]string{}
				for k := range limits.MaxLabels {
					o.Labels[fmt.Sprintf("%0*d", limits.MaxLabelBytes, k)] = strings.Repeat("x", limits.MaxLabelBytes)
				}
			}
			if _, _, err := v.CreateLog(t.Context(), log, o); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, v, log, log+" 1", log+" 2")
		}
		mustAppend(t, v, "orders", "orders 3")
		lost := frameOf(t, v, "orders", 3).Pos
		mustAppend(t, v, "orders", "orders 4")
		if name == "a frame and a tail" {
			pollUntil(t, "the last frame is unpromised", func() bool {
				mustAppend(t, v, "users", "late")
				p.fs = mem.CrashClone(nil, 1)
				plan, err := PlanRepair(t.Context(), "/vol", RepairOptions{FS: damagedAt(t, p.fs, lost)})
				return err == nil && plan.tail != (span{})
			})
			closeTest(t, v)
		} else {
			closeTest(t, v)
			p.fs = mem
		}
		p.fs = damagedAt(t, p.fs, lost)
		if name == "VOLUME" {
			p.fs = mem.CrashClone(nil, 1)
			b := readFile(t, p.fs, "VOLUME")
			b[20] ^= 1
			writeFile(t, p.fs, "VOLUME", b)
		}
		after := p.fs.CrashClone(nil, 1)
		if p.plan = repairAgain(t, after); !p.plan.Needed {
			t.Fatalf("%s: there is no need: %+v", name, p.plan)
		}
		if fits := int64(len(p.plan.snapshot)) < limits.MinSegmentSize; fits != (name != "a large state") {
			t.Fatalf("%s: a state of %d bytes", name, len(p.plan.snapshot))
		}
		p.want = p.chart(t, after)
		if !p.plan.ReadOnly {
			p.served = p.chart(t, p.fs.CrashClone(nil, 1))
		}
		all = append(all, p)
	}
	return all
}

// damagedAt returns a copy with a frame's header damaged.
func damagedAt(t *testing.T, fs *disk.Mem, pos segment.Pos) *disk.Mem {
	t.Helper()
	fs = fs.CrashClone(nil, 1)
	corrupt(t, fs, pos, 20)
	return fs
}

// whole checks what is left of a repair that was cut short: it can be done, and
// then everything is as if nothing had come between.
func (p *patient) whole(t *testing.T, fs *disk.Mem) {
	t.Helper()
	repairAgain(t, fs)
	if again := repairAgain(t, fs); again.Needed {
		t.Fatalf("%s: it is needed again: %+v", p.name, again.Damage)
	}
	if got := p.chart(t, fs); !maps.Equal(got, p.want) {
		t.Fatalf("%s: it has\n%q, without the cut\n%q", p.name, got, p.want)
	}
	for _, name := range p.plan.Files {
		if got, want := readFile(t, fs, "../"+filepath.Base(p.plan.Backup)+"/"+name), readFile(t, p.fs, name); string(got) != string(want) {
			t.Fatalf("%s: the backup of %s is not what it was", p.name, name)
		}
	}
}

// changing are the operations that change what is on the disk.
var changing = []disk.OpKind{disk.OpCreate, disk.OpWrite, disk.OpSync, disk.OpSyncDir, disk.OpRename, disk.OpRemove, disk.OpTruncate}

// TestRepairCrashes cuts the power before each operation of a repair. What is
// left can be repaired to the same end; and if a service comes first, it serves
// nothing but that, or the damaged volume as it was.
func TestRepairCrashes(t *testing.T) {
	states := 0
	for _, p := range patients(t) {
		var mu sync.Mutex
		var left []*disk.Mem
		done := false
		mem := p.fs.CrashClone(nil, 1)
		rng := rand.New(rand.NewPCG(1, 2))
		fs := disk.Record(mem, func(op disk.Op) {
			mu.Lock()
			defer mu.Unlock()
			if op.Began == op.Event && !done && slices.Contains(changing, op.Kind) {
				for _, survive := range []float64{0, 0.5, 1} {
					left = append(left, mem.CrashClone(rng, survive))
				}
			}
		})
		if err := ApplyRepair(t.Context(), p.plan, RepairOptions{FS: fs}); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		done = true
		mu.Unlock()
		for _, fs := range left {
			states++
			served := fs.CrashClone(nil, 1)
			if v, err := Open(t.Context(), "/vol", Options{FS: served, PrepareRate: -1, Codec: "none"}); err == nil {
				serving := v.Status().State == Serving
				closeTest(t, v)
				if serving {
					if got := p.chart(t, served); !maps.Equal(got, p.want) && !maps.Equal(got, p.served) {
						t.Fatalf("%s: a service finds\n%q, repaired it is\n%q", p.name, got, p.want)
					}
				}
			} else if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			p.whole(t, fs)
		}
	}
	if states < 100 {
		t.Errorf("only %d states", states)
	}
}

// TestRepairFaults fails each operation of a repair once: of one volume all, of
// the others those that change something.
func TestRepairFaults(t *testing.T) {
	for i, p := range patients(t) {
		kinds := changing
		if i == 0 {
			kinds = nil
		}
		for n := 0; ; n++ {
			mem := p.fs.CrashClone(nil, 1)
			faulty := disk.NewFaulty(mem)
			faulty.Inject(disk.Fault{At: n, Kinds: kinds})
			err := ApplyRepair(t.Context(), p.plan, RepairOptions{FS: faulty})
			if faulty.Fired() == 0 {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			p.whole(t, mem.CrashClone(nil, 0))
			p.whole(t, mem)
		}
	}
}

// TestRepairRefuses plans, and applies to something else.
func TestRepairRefuses(t *testing.T) {
	p := patients(t)[0]
	o := RepairOptions{FS: p.fs}

	v, err := Open(t.Context(), "/vol", Options{FS: p.fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := ApplyRepair(t.Context(), p.plan, o); !errors.Is(err, ErrInUse) {
		t.Errorf("of a volume in use: %v", err)
	}
	closeTest(t, v)

	other := p.fs.CrashClone(nil, 1)
	corrupt(t, other, segment.Pos{Segment: 1, Offset: 2 * limits.BlockSize}, 130)
	if err := ApplyRepair(t.Context(), p.plan, RepairOptions{FS: other}); !errors.Is(err, ErrPlanStale) {
		t.Errorf("of a volume with other damage: %v", err)
	}
	if entries, err := other.List("/vol"); err != nil || slices.ContainsFunc(entries, func(e disk.Entry) bool { return e.Name == p.plan.Writes }) {
		t.Errorf("it was written all the same: %v, %v", entries, err)
	}

	gone := p.fs.CrashClone(nil, 1)
	b := readFile(t, gone, "0000000000000001.wal")
	b[40] ^= 1
	writeFile(t, gone, "0000000000000001.wal", b)
	if _, err := PlanRepair(t.Context(), "/vol", RepairOptions{FS: gone}); !errors.Is(err, ErrBeyondRepair) {
		t.Errorf("without a beginning: %v", err)
	}
	if _, err := PlanRepair(t.Context(), "/nowhere", o); !errors.Is(err, ErrNoVolume) {
		t.Errorf("without a volume: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := PlanRepair(ctx, "/vol", o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// losing makes a volume, loses one frame of it, and repairs it. before, lost and
// after are done by a service; what lost does is in one frame, which goes.
func losing(t *testing.T, before, lost, after func(v *Volume)) (*RepairPlan, *Volume) {
	t.Helper()
	mem := disk.NewMem()
	v, err := Open(t.Context(), "/vol", Options{FS: mem, Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1, Codec: "none", SnapshotEvery: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	before(v)
	v.mu.RLock()
	at := v.last.Pos
	v.mu.RUnlock()
	lost(v)
	after(v)
	closeTest(t, v)
	corrupt(t, mem, at, 20)
	plan := repairAgain(t, mem)
	v, err = Open(t.Context(), "/vol", Options{FS: mem, PrepareRate: -1, Codec: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if v.Status().State != Serving {
		t.Fatalf("it opens %+v", v.Recovery())
	}
	return plan, v
}

// TestRepairMakesWay loses each kind of command, with and without something
// behind it that tells.
func TestRepairMakesWay(t *testing.T) {
	ctx := t.Context()
	id := producerID(7)
	base := func(v *Volume) {
		mustCreate(t, v, "orders")
		mustCreate(t, v, "users")
		mustAppend(t, v, "orders", "1", "2", "3")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err := v.OpenProducer(ctx, "orders", id)
		must(err)
		_, err = v.Append(ctx, "orders", id, 0, Batch{Sequence: 1, Run: run("4")})
		must(err)
		_, err = v.SetCheckpoint(ctx, "orders", Checkpoint{Name: "engine", LSN: 1, State: []byte("one")}, nil)
		must(err)
	}
	tell := func(v *Volume) {
		mustAppend(t, v, "orders", "tells")
		mustAppend(t, v, "users", "tells")
	}
	nothing := func(*Volume) {}
	orders := func(v *Volume) LogInfo {
		t.Helper()
		info, err := v.Log("orders")
		if err != nil {
			t.Fatal(err)
		}
		return info
	}

	t.Run("append, told", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5", "6") }, tell)
		defer closeTest(t, v)
		if want := []LostRecords{{Log: "orders", First: 5, Last: 6}}; !reflect.DeepEqual(p.Records, want) || p.Frames != 1 {
			t.Errorf("%d frames, %+v", p.Frames, p.Records)
		}
		if i := orders(v); i.Epoch != 1 || i.Next != 8 || !slices.Equal(i.Lost, []LSNRange{{5, 6}}) || i.LostRecords() != 2 {
			t.Errorf("%+v", i)
		}
		told := func(when string, records uint64, want ...DamagedLog) {
			t.Helper()
			if s := v.Status(); s.LostRecords != records || !slices.Equal(s.Lost, want) {
				t.Errorf("%s the status has %d lost records: %v", when, s.LostRecords, s.Lost)
			}
		}
		told("at first", 2, DamagedLog{Log: "orders", First: 5, Last: 6})
		if err := v.DeleteCheckpoint(ctx, "orders", "engine", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Truncate(ctx, "orders", 6); err != nil {
			t.Fatal(err)
		}
		told("truncated", 1, DamagedLog{Log: "orders", First: 6, Last: 6})
		if err := v.DeleteLog(ctx, "orders", ulid.ULID{}); err != nil {
			t.Fatal(err)
		}
		told("deleted", 0)
	})
	t.Run("writer, told", func(t *testing.T) {
		_, v := losing(t, base, func(v *Volume) { mustAcquire(t, v, "orders", Acquire{Holder: "one"}) }, func(v *Volume) {
			if _, err := appendIn(v, "orders", 2, "tells"); err != nil {
				t.Fatal(err)
			}
		})
		defer closeTest(t, v)
		// Nobody knows who holds it; the one who does goes on, and nobody else.
		_, err := appendIn(v, "orders", 0, "nobody's")
		wantFenced(t, err, 0, 2, lostHolder)
		if got, err := appendIn(v, "orders", 2, "its writer's"); err != nil || got.Epoch != 2 {
			t.Errorf("its writer: %+v, %v", got, err)
		}
	})
	t.Run("writer, and the next one", func(t *testing.T) {
		_, v := losing(t, base, func(v *Volume) { mustAcquire(t, v, "orders", Acquire{Holder: "one"}) },
			func(v *Volume) { mustAcquire(t, v, "orders", Acquire{Holder: "two"}) })
		defer closeTest(t, v)
		// What it had come to is not told, so that its LSNs may be those of lost records.
		_, err := appendIn(v, "orders", 3, "may stand for what is lost")
		wantFenced(t, err, 3, 3+lostEpochs, "two")
	})
	t.Run("writer, not told", func(t *testing.T) {
		_, v := losing(t, base, func(v *Volume) { mustAcquire(t, v, "orders", Acquire{Holder: "one"}) },
			func(v *Volume) { mustAppend(t, v, "users", "tells") })
		defer closeTest(t, v)
		// Another one may be lost with it, which fenced it.
		_, err := appendIn(v, "orders", 2, "x")
		wantFenced(t, err, 2, 1+lostEpochs, "")
	})
	t.Run("resolution and retirement", func(t *testing.T) {
		id := producerID(8)
		open := func(v *Volume) {
			base(v)
			mustOpenProducer(t, v, "users", id)
		}
		resolve := func(v *Volume) {
			if _, err := v.Resolve(ctx, "users", id, 1, 0); err != nil {
				t.Fatal(err)
			}
		}
		_, v := losing(t, open, resolve, func(v *Volume) {
			resolve(v)
			mustAppend(t, v, "users", "tells")
		})
		if got, err := produce(v, "users", Producer{id, 3}, 1); err != nil || got.First == 0 {
			t.Errorf("as the third incarnation: %+v, %v", got, err)
		}
		closeTest(t, v)
		_, v = losing(t, base, func(v *Volume) { mustOpenProducer(t, v, "users", id) }, func(v *Volume) {
			resolve(v)
			if err := v.RetireProducer(ctx, "users", id); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := v.Resolve(ctx, "users", id, 1, 0); !errors.Is(err, ErrNoProducer) {
			t.Errorf("its opening is lost: %v", err)
		}
		closeTest(t, v)
	})
	t.Run("behind a seal", func(t *testing.T) {
		p, v := losing(t, func(v *Volume) {
			base(v)
			mustSeal(t, v, "orders")
		}, func(v *Volume) { mustAppend(t, v, "users", "lost") }, func(v *Volume) { mustAppend(t, v, "users", "tells") })
		defer closeTest(t, v)
		if info := orders(v); info.Sealed.IsZero() || info.Next != 5 || info.Epoch != 1 || len(info.Lost) != 0 {
			t.Errorf("nothing can have come behind the seal: %+v, %+v", info, p.Records)
		}
	})
	t.Run("in front of a seal", func(t *testing.T) {
		var was LogInfo
		p, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5", "6") }, func(v *Volume) { was = mustSeal(t, v, "orders") })
		defer closeTest(t, v)
		if len(p.Unsure) != 1 || p.Unsure[0] != "users" {
			t.Errorf("unsure: %q", p.Unsure) // the seal tells of orders alone
		}
		if info := orders(v); info.Sealed.IsZero() || info.Next != 7 || info.Checksum != was.Checksum || info.LiveBytes != was.LiveBytes ||
			!reflect.DeepEqual(info.Lost, []LSNRange{{5, 6}}) {
			t.Errorf("the seal tells where it ends: %+v, %+v", info, p.Records)
		}
	})
	t.Run("a seal", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustSeal(t, v, "orders") }, func(v *Volume) { mustAppend(t, v, "users", "tells") })
		defer closeTest(t, v)
		if !slices.Equal(p.Unsure, []string{"orders"}) {
			t.Errorf("unsure: %q", p.Unsure)
		}
		if info := orders(v); !info.Sealed.IsZero() || info.Epoch != 1+lostEpochs {
			t.Errorf("nobody can know of it: %+v", info)
		}
	})
	rewound := func(after LSN, again ...string) func(*Volume) {
		return func(v *Volume) {
			mustRewind(t, v, "orders", Rewind{After: after})
			for _, r := range again {
				mustAppend(t, v, "orders", r)
			}
		}
	}
	wantOrders := func(v *Volume, next LSN, lost []LSNRange, records map[LSN]string) {
		t.Helper()
		if info := orders(v); info.Next != next || !slices.Equal(info.Lost, lost) {
			t.Errorf("%+v, want LSN %d next, and %v lost", info, next, lost)
		}
		for lsn := orders(v).First; lsn < next; lsn++ {
			got, err := readOne(v, "orders", lsn)
			if want, there := records[lsn]; there && (err != nil || got != want) || !there && !errors.Is(err, ErrDataLoss) {
				t.Errorf("LSN %d: %q, %v; want %q", lsn, got, err, want)
			}
		}
	}
	t.Run("rewind, told", func(t *testing.T) {
		_, v := losing(t, base, rewound(2), tell)
		defer closeTest(t, v)
		// It may have cut it further down, and others been appended since.
		wantOrders(v, 4, []LSNRange{{1, 2}}, map[LSN]string{3: "tells"})
		if info := orders(v); info.Epoch != 2 || info.Holder != lostHolder {
			t.Errorf("%+v", info)
		}
		if err := v.CheckClaim("orders", Claim{Log: orders(v).ID, Epoch: 1, LSN: 4}); !errors.Is(err, ErrRewound) {
			t.Errorf("a claim of what was discarded: %v", err)
		}
	})
	t.Run("rewind, and what came again", func(t *testing.T) {
		_, v := losing(t, base, rewound(2, "three", "four", "five"), tell)
		defer closeTest(t, v)
		wantOrders(v, 7, []LSNRange{{1, 2}}, map[LSN]string{3: "three", 4: "four", 5: "five", 6: "tells"})
	})
	t.Run("two rewinds, the first lost", func(t *testing.T) {
		_, v := losing(t, base, rewound(3, "four"), rewound(2, "three"))
		defer closeTest(t, v)
		wantOrders(v, 4, []LSNRange{{1, 2}}, map[LSN]string{3: "three"})
	})
	t.Run("rewind behind what is lost", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5", "6") }, rewound(3, "four"))
		defer closeTest(t, v)
		wantOrders(v, 5, nil, map[LSN]string{1: "1", 2: "2", 3: "3", 4: "four"})
		if slices.ContainsFunc(p.Records, func(r LostRecords) bool { return r.Log == "orders" }) {
			t.Errorf("what was discarded is no loss: %+v", p.Records)
		}
	})
	t.Run("in the place of what was discarded", func(t *testing.T) {
		_, v := losing(t, func(v *Volume) {
			base(v)
			rewound(2, "three")(v)
		}, func(v *Volume) { mustAppend(t, v, "orders", "four") }, tell)
		defer closeTest(t, v)
		// The old LSN 4 verifies, and is not the one that is lost.
		wantOrders(v, 6, []LSNRange{{4, 4}}, map[LSN]string{1: "1", 2: "2", 3: "three", 5: "tells"})
	})
	t.Run("rewind, told by a seal", func(t *testing.T) {
		state, err := applyAll(NewState(), []Command{
			{Kind: CommandCreateLog, Log: 1, Name: "orders"},
			{Kind: CommandAppend, Log: 1, Epoch: 1, First: 1, Count: 4, Place: Place{Size: 40}},
			{Kind: CommandSetCheckpoint, Log: 1, Name: "engine", LSN: 4, Version: 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		s := newSalvage(state, places{}, segment.FrameRef{})
		s.hole(1)
		seal := newSegmentIndex(1)
		seal.log(1).end = logEnd{next: 4, total: 33, rewound: 2}
		s.sealed(seal)
		l := s.logs.get(1)
		if l.next != 4 || l.totalBytes != 33 || l.epoch != 2 || l.holder != lostHolder || len(l.checkpoints) != 0 || s.unproven[1] != 3 {
			t.Errorf("%+v, nothing is proven up to %d", l, s.unproven[1])
		}
		if left := s.proven(l, []haveRange{{LSNRange{1, 4}, 1}, {LSNRange{4, 4}, 2}}); !slices.Equal(left, []LSNRange{{4, 4}}) {
			t.Errorf("proven are %v", left)
		}
	})
	t.Run("rewind, told by copies", func(t *testing.T) {
		state, err := applyAll(NewState(), []Command{
			{Kind: CommandCreateLog, Log: 1, Name: "orders"},
			{Kind: CommandAppend, Log: 1, Epoch: 1, First: 1, Count: 6, Place: Place{Size: 60}},
		})
		if err != nil {
			t.Fatal(err)
		}
		s := newSalvage(state, places{}, segment.FrameRef{})
		s.hole(1)
		for _, c := range []Command{
			{Kind: CommandTruncate, Log: 1, First: 4, LiveBytes: 20},
			{Kind: CommandMoveRecords, Log: 1, First: 4, Count: 1, Rewound: 2}, // that did not verify
			{Kind: CommandMoveRecords, Log: 1, Epoch: 3, First: 5, Count: 1, Rewound: 2, Start: 40, Place: Place{Size: 10}},
		} {
			if !s.makeWay(&c) {
				t.Fatalf("%s is passed over", c.Kind)
			}
			if err := s.Apply(&c); err != nil {
				t.Fatal(err)
			}
		}
		l := s.logs.get(1)
		if l.first != 4 || l.next != 6 || l.totalBytes != 50 || l.epoch != 3 || l.rewound() != 2 {
			t.Errorf("%+v", l)
		}
		if left := s.proven(l, []haveRange{{LSNRange{1, 6}, 1}, {LSNRange{5, 5}, 3}}); !slices.Equal(left, []LSNRange{{5, 5}}) {
			t.Errorf("proven are %v", left)
		}
	})
	t.Run("rewind, not told", func(t *testing.T) {
		p, v := losing(t, base, rewound(2), func(v *Volume) { mustAppend(t, v, "users", "tells") })
		defer closeTest(t, v)
		if !slices.Equal(p.Unsure, []string{"orders"}) {
			t.Errorf("unsure: %q", p.Unsure)
		}
		// Nobody can know of it: but nobody goes on in an epoch that it may have begun.
		wantOrders(v, 6, []LSNRange{{5, 5}}, map[LSN]string{1: "1", 2: "2", 3: "3", 4: "4"})
		if info := orders(v); info.Epoch != 1+lostEpochs {
			t.Errorf("%+v", info)
		}
	})
	t.Run("append, not told", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5", "6") }, func(v *Volume) { mustAppend(t, v, "users", "tells") })
		defer closeTest(t, v)
		if want := []LostRecords{{Log: "orders", First: 5, Last: 5, Open: true, Epoch: 1 + lostEpochs}}; !reflect.DeepEqual(p.Records, want) {
			t.Errorf("%+v", p.Records)
		}
		if got := mustAppend(t, v, "orders", "next"); got.First != 6 || got.Epoch != 1+lostEpochs {
			t.Errorf("goes on at %d in epoch %d", got.First, got.Epoch)
		}
		if _, err := v.Append(ctx, "orders", ulid.ULID{}, 1, Batch{Run: run("x")}); !errors.Is(err, ErrFenced) {
			t.Errorf("a writer of epoch 1: %v", err)
		}
		if err := v.CheckClaim("orders", Claim{Log: orders(v).ID, Epoch: 1, LSN: 6}); !errors.Is(err, ErrDataLoss) {
			t.Errorf("a claim of what is lost: %v", err)
		}
	})
	t.Run("batch of a producer", func(t *testing.T) {
		_, v := losing(t, base, func(v *Volume) {
			if _, err := v.Append(ctx, "orders", id, 0, Batch{Sequence: 2, Run: run("5")}); err != nil {
				t.Fatal(err)
			}
		}, func(v *Volume) {
			if _, err := v.Append(ctx, "orders", id, 0, Batch{Sequence: 3, Run: run("6")}); err != nil {
				t.Fatal(err)
			}
			tell(v)
		})
		defer closeTest(t, v)
		for _, tc := range []struct {
			sequence uint64
			rec      string
			first    LSN
		}{{1, "4", 4}, {2, "5", 0}, {3, "6", 6}} {
			got, err := v.Append(ctx, "orders", id, 0, Batch{Sequence: tc.sequence, Run: run(tc.rec)})
			if err != nil || !got.Repeated || got.First != tc.first {
				t.Errorf("batch %d again: %+v, %v", tc.sequence, got, err)
			}
		}
	})
	t.Run("producer opened", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) {
			if _, err := v.OpenProducer(ctx, "orders", producerID(8)); err != nil {
				t.Fatal(err)
			}
		}, func(v *Volume) {
			for n := byte(8); n < 10; n++ {
				if _, err := v.OpenProducer(ctx, "orders", producerID(n)); err != nil {
					t.Fatal(err)
				}
				if _, err := v.Append(ctx, "orders", producerID(n), 0, Batch{Sequence: 1, Run: run("x")}); err != nil {
					t.Fatal(err)
				}
			}
			tell(v)
		})
		defer closeTest(t, v)
		if want := []ForgottenProducers{{"orders", 1}}; !reflect.DeepEqual(p.Producers, want) {
			t.Errorf("%+v", p.Producers)
		}
		// Neither may be taken for the other, nor its batch for one that was not.
		for n := byte(8); n < 10; n++ {
			if _, err := v.Append(ctx, "orders", producerID(n), 0, Batch{Sequence: 1, Run: run("x")}); !errors.Is(err, ErrNoProducer) {
				t.Errorf("producer %d: %v", n, err)
			}
		}
	})
	t.Run("log created", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustCreate(t, v, "events") }, func(v *Volume) {
			mustAppend(t, v, "events", "x")
			mustCreate(t, v, "audit")
			tell(v)
		})
		defer closeTest(t, v)
		if len(p.Logs) != 1 || p.Logs[0].Number != 3 || p.Logs[0].Name != "" {
			t.Errorf("%+v", p.Logs)
		}
		if _, err := v.Log("events"); !errors.Is(err, ErrLogNotFound) {
			t.Errorf("events: %v", err)
		}
		if got := mustAppend(t, v, "audit", "x"); got.First != 1 {
			t.Errorf("audit: %+v", got)
		}
	})
	t.Run("log deleted", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) {
			if err := v.DeleteLog(ctx, "users", ulid.ULID{}); err != nil {
				t.Fatal(err)
			}
		}, func(v *Volume) {
			mustCreate(t, v, "users")
			tell(v)
		})
		defer closeTest(t, v)
		if len(p.Logs) != 1 || p.Logs[0].Name != "users" || p.Logs[0].Number != 2 {
			t.Errorf("%+v", p.Logs)
		}
		if got := readAll(t, v, "users", 1); !slices.Equal(got, []string{"tells"}) {
			t.Errorf("users has %q", got)
		}
	})
	cursor := func(u CursorUpdate) func(v *Volume) {
		return func(v *Volume) { mustCursor(t, v, "orders", u) }
	}
	evicted := func(v *Volume) {
		t.Helper()
		pollUntil(t, "the cursor is evicted", func() bool {
			c, err := v.Cursor("orders", "reader")
			return err == nil && c.State == CursorLost
		})
	}
	uncheckpointed := func(v *Volume) {
		base(v)
		if err := v.DeleteCheckpoint(ctx, "orders", "engine", nil); err != nil {
			t.Fatal(err)
		}
		cursor(CursorUpdate{Name: "reader", LSN: 1})(v)
	}
	t.Run("cursor moved", func(t *testing.T) {
		_, v := losing(t, uncheckpointed, cursor(CursorUpdate{Name: "reader", LSN: 3}), tell)
		defer closeTest(t, v)
		if c, err := v.Cursor("orders", "reader"); err != nil || c.LSN != 1 || c.State != CursorReserved {
			t.Errorf("it holds what it held before: %+v, %v", c, err)
		}
	})
	t.Run("cursor moved, and what it held truncated", func(t *testing.T) {
		_, v := losing(t, uncheckpointed, cursor(CursorUpdate{Name: "reader", LSN: 3}), func(v *Volume) {
			if _, err := v.Truncate(ctx, "orders", 4); err != nil {
				t.Fatal(err)
			}
			tell(v)
		})
		defer closeTest(t, v)
		if _, err := v.NewReader("orders", ReadOptions{Cursor: "reader"}); !errors.Is(err, ErrCursorLost) || orders(v).First != 4 {
			t.Errorf("it holds what is gone: %v", err)
		}
	})
	t.Run("cursor set, and evicted", func(t *testing.T) {
		_, v := losing(t, uncheckpointed, cursor(CursorUpdate{Name: "reader", LSN: 3, Cap: 5}), func(v *Volume) {
			mustAppend(t, v, "orders", "one", "more")
			evicted(v)
			tell(v)
		})
		defer closeTest(t, v)
		if c, err := v.Cursor("orders", "reader"); err != nil || c.State != CursorLost || c.LSN != 3 || c.Cap != 5 {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("cursor created, and then it is gone", func(t *testing.T) {
		_, v := losing(t, base, cursor(CursorUpdate{Name: "reader", LSN: 1}), func(v *Volume) {
			if err := v.DeleteCursor(ctx, "orders", "reader", nil); err != nil {
				t.Fatal(err)
			}
			tell(v)
		})
		defer closeTest(t, v)
		if c, err := v.Cursors("orders"); err != nil || len(c) != 0 {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("cursor created, and evicted", func(t *testing.T) {
		_, v := losing(t, base, cursor(CursorUpdate{Name: "reader", LSN: 4, Cap: 1}), func(v *Volume) {
			mustAppend(t, v, "orders", "more")
			evicted(v)
			tell(v)
		})
		defer closeTest(t, v)
		if _, err := v.NewReader("orders", ReadOptions{Cursor: "reader"}); !errors.Is(err, ErrCursorNotFound) {
			t.Errorf("a cursor of which nobody knows since when: %v", err)
		}
	})
	t.Run("cursor deleted, and set anew", func(t *testing.T) {
		_, v := losing(t, func(v *Volume) { base(v); cursor(CursorUpdate{Name: "reader", LSN: 3})(v) }, func(v *Volume) {
			if err := v.DeleteCursor(ctx, "orders", "reader", nil); err != nil {
				t.Fatal(err)
			}
		}, func(v *Volume) {
			cursor(CursorUpdate{Name: "reader", LSN: 2, Create: true})(v)
			tell(v)
		})
		defer closeTest(t, v)
		if c, err := v.Cursor("orders", "reader"); err != nil || c.LSN != 2 {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("append, told by a cursor", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5", "6") }, func(v *Volume) {
			cursor(CursorUpdate{Name: "reader", LSN: 6})(v)
			mustAppend(t, v, "users", "tells")
		})
		defer closeTest(t, v)
		if len(p.Records) == 0 || p.Records[0].First != 5 || p.Records[0].Last < 6 || orders(v).Next < 7 {
			t.Errorf("%+v; it goes on at %d", p.Records, orders(v).Next)
		}
		if c, err := v.Cursor("orders", "reader"); err != nil || c.LSN != 6 {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("checkpoint set", func(t *testing.T) {
		set := func(lsn LSN, state string) func(v *Volume) {
			return func(v *Volume) {
				if _, err := v.SetCheckpoint(ctx, "orders", Checkpoint{Name: "engine", LSN: lsn, State: []byte(state)}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, again := range []bool{false, true} {
			_, v := losing(t, base, set(2, "two"), func(v *Volume) {
				if again {
					set(3, "three")(v)
				}
				tell(v)
			})
			cp, err := v.Checkpoint(ctx, "orders", "engine")
			if want := map[bool]string{false: "1 1 one", true: "3 3 three"}[again]; err != nil || fmt.Sprintf("%d %d %s", cp.LSN, cp.Version, cp.State) != want {
				t.Errorf("set again: %t: %+v, %v", again, cp, err)
			}
			closeTest(t, v)
		}
	})
	t.Run("truncation", func(t *testing.T) {
		_, v := losing(t, base, func(v *Volume) {
			if _, err := v.Truncate(ctx, "orders", 2); err != nil {
				t.Fatal(err)
			}
		}, tell)
		defer closeTest(t, v)
		if i := orders(v); i.First != 1 || len(i.Lost) != 0 {
			t.Errorf("%+v", i)
		}
	})
	t.Run("nothing told", func(t *testing.T) {
		p, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5") }, nothing)
		defer closeTest(t, v)
		if len(p.Records) != 2 || !p.Records[0].Open || !p.Records[1].Open || !slices.Equal(p.Unsure, []string{"orders", "users"}) {
			t.Errorf("%+v, unsure %q", p.Records, p.Unsure)
		}
	})
	t.Run("and given up later", func(t *testing.T) {
		_, v := losing(t, base, func(v *Volume) { mustAppend(t, v, "orders", "5", "6", "7") }, tell)
		defer closeTest(t, v)
		if err := v.DeleteCheckpoint(ctx, "orders", "engine", nil); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			first LSN
			lost  []LSNRange
		}{{4, []LSNRange{{5, 7}}}, {6, []LSNRange{{6, 7}}}, {8, nil}} {
			if i, err := v.Truncate(ctx, "orders", tc.first); err != nil || !slices.Equal(i.Lost, tc.lost) {
				t.Errorf("truncated to %d: %+v, %v", tc.first, i, err)
			}
			if i := orders(v); i.First != tc.first || !slices.Equal(i.Lost, tc.lost) {
				t.Errorf("truncated to %d: %+v", tc.first, i)
			}
		}
		if got := readAll(t, v, "orders", 8); !slices.Equal(got, []string{"tells"}) {
			t.Errorf("orders has %q", got)
		}
	})
}

// TestRepairVouchesForNoPageCache repairs a volume whose last frame is seen and
// was never synced: what the repair keeps of it must outlive a power cut.
func TestRepairVouchesForNoPageCache(t *testing.T) {
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	v := openTest(t, faulty)
	mustCreate(t, v, "orders")
	mustAppend(t, v, "orders", "1")
	lost := frameOf(t, v, "orders", 1).Pos
	mustAppend(t, v, "orders", "2")
	faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Sticky: true})
	if _, err := v.Append(t.Context(), "orders", ulid.ULID{}, 0, Batch{Run: run("3")}); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("a failed sync: %v", err)
	}
	_ = v.Close() // it is poisoned
	faulty.Clear()
	corrupt(t, mem, lost, 20)
	if plan := repairAgain(t, mem); plan.tail == (span{}) {
		t.Fatalf("no frame is unpromised: %+v", plan)
	}
	v = openTest(t, mem.CrashClone(nil, 0))
	defer closeTest(t, v)
	if got := readAll(t, v, "orders", 2); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("orders has %q, found were 2 and 3; %+v", got, v.Recovery())
	}
}

// TestVerifyHoldsBatchesAgainstTheirSums changes records under a block checksum
// that was made for them: only the command knows better.
func TestVerifyHoldsBatchesAgainstTheirSums(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(c *Command)
		says   string
	}{
		{"nothing", func(*Command) {}, ""},
		{"run checksum", func(c *Command) { c.RunSum++ }, "another checksum"},
		{"log checksum", func(c *Command) { c.Checksum++ }, "does not go on"},
		{"place", func(c *Command) { c.Offset = 1 }, "bytes at 1 of"},
	} {
		mem := disk.NewMem()
		o := segment.Options{FS: mem, Dir: "/vol", SegmentSize: limits.MinSegmentSize, PrepareRate: -1}
		if err := segment.Create(o); err != nil {
			t.Fatal(err)
		}
		j, err := segment.Open(o)
		if err == nil {
			_, err = j.Resume(segment.Resume{})
		}
		if err != nil {
			t.Fatal(err)
		}
		write := func(raw []byte, commands ...Command) {
			d := segment.Draft{Kind: segment.KindCommands}
			for i := range commands {
				d.Meta = AppendCommand(d.Meta, &commands[i])
			}
			if raw != nil {
				d.Blocks = []segment.Block{{RawSize: uint32(len(raw)), Checksum: crc32.Checksum(raw, castagnoli), Stored: raw}}
			}
			if _, err := j.Append(&d); err != nil {
				t.Fatal(err)
			}
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		one, two := run("one"), run("two", "three")
		sum := crc32.Checksum(one, castagnoli)
		first := Command{Kind: CommandAppend, Log: 1, Epoch: 1, First: 1, Count: 1, RunSum: sum, Checksum: Checksum(sum), Place: Place{Size: uint32(len(one))}}
		second := Command{
			Kind: CommandAppend, Log: 1, Epoch: 1, First: 2, Count: 2, RunSum: crc32.Checksum(two, castagnoli),
			Checksum: Checksum(crc32.Update(sum, castagnoli, two)), Start: uint64(len(one)), Place: Place{Size: uint32(len(two))},
		}
		tc.change(&second)
		write(nil, Command{Kind: CommandCreateLog, Log: 1, Name: "orders"})
		write(one, first)
		write(two, second)
		write(nil, Command{Kind: CommandTruncate, Log: 1, First: 1, LiveBytes: uint64(len(one) + len(two))})
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		found, err := verifyOn(t.Context(), mem, "/vol", nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case tc.says == "":
			if found.Verdict != "clean" || found.Records != 3 {
				t.Errorf("%s: %s", tc.name, spell(found))
			}
		case len(found.Damage) != 1 || !strings.Contains(found.Damage[0].Detail, tc.says) ||
			!slices.Equal(found.Damage[0].Logs, []DamagedLog{{Log: "orders", First: 2, Last: 3}}):
			t.Errorf("%s: %s", tc.name, spell(found))
		}
	}
}

// TestDamageDoesNotHoldSegments damages what the janitor wants to read of the
// oldest segments: a checkpoint's state, or a segment's header. It loses no more
// by giving them up, and would fill the disk by keeping them.
func TestDamageDoesNotHoldSegments(t *testing.T) {
	for _, what := range []string{"state", "header"} {
		mem := disk.NewMem()
		v := openTest(t, mem)
		mustCreate(t, v, "orders")
		mustCreate(t, v, "idle")
		if _, err := v.SetCheckpoint(t.Context(), "idle", Checkpoint{Name: "engine", State: []byte("state")}, nil); err != nil {
			t.Fatal(err)
		}
		v.mu.RLock()
		at := v.index.places.of[2][0].pos
		v.mu.RUnlock()
		// Segments, and two snapshots that the newest of them knows.
		fill := func() {
			for range 3 {
				for was := v.filling(); v.filling() == was; {
					mustAppend(t, v, "orders", strings.Repeat("x", 4000))
				}
				if err := v.snapshots.write(); err != nil && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
			}
		}
		fill()
		within := int64(limits.FrameHeaderSize) // the frame's only block
		if what == "header" {
			at, within = segment.Pos{Segment: 2}, 40
		}
		closeTest(t, v)
		corrupt(t, mem, at, within)
		v = openTest(t, mem)
		info, err := v.Log("orders")
		if err != nil || v.Status().State != Serving {
			t.Fatalf("%s: %+v, %v", what, v.Recovery(), err)
		}
		if _, err := v.SetCheckpoint(t.Context(), "orders", Checkpoint{Name: "engine", LSN: info.Durable()}, nil); err != nil {
			t.Fatal(err)
		}
		fill()
		pollUntil(t, what+": the segment is released", func() bool {
			v.janitor.kick()
			return v.journal.Segments()[0] > at.Segment
		})
		if _, err := v.Checkpoint(t.Context(), "idle", "engine"); errors.Is(err, ErrDataLoss) != (what == "state") {
			t.Errorf("%s: the idle log's checkpoint: %v", what, err)
		}
		closeTest(t, v)
	}
}
