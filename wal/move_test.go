package wal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// TestWorthMoving plays the policy: for each line of costs, how many segments it
// gives back for how many bytes.
func TestWorthMoving(t *testing.T) {
	datadriven.Walk(t, "testdata/worth", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var size int64
			d.ScanArgs(t, "size", &size)
			var out strings.Builder
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				var costs []int64
				for _, f := range strings.Fields(line) {
					n, err := strconv.ParseInt(f, 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					costs = append(costs, n)
				}
				n := worthMoving(costs, size)
				var bytes int64
				for _, c := range costs[:n] {
					bytes += c
				}
				fmt.Fprintf(&out, "%d segments for %d bytes\n", n, bytes)
			}
			return out.String()
		})
	})
}

// A yard is a volume with idle logs and a busy one.
type yard struct {
	t      testing.TB
	fs     *disk.Mem
	v      *Volume
	want   map[string][]string
	events int

	mu   sync.Mutex
	done []string // by the janitor: moved, released
}

// does notes what the janitor does.
func (y *yard) does(what string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.done = append(y.done, what)
}

// did returns what the janitor has done since it first did something.
func (y *yard) did(first string) []string {
	y.mu.Lock()
	defer y.mu.Unlock()
	if i := slices.Index(y.done, first); i >= 0 {
		return slices.Clone(y.done[i:])
	}
	return nil
}

func newYard(t testing.TB) *yard {
	y := &yard{t: t, fs: disk.NewMem(), want: map[string][]string{}}
	y.open()
	mustCreate(t, y.v, "busy")
	return y
}

func (y *yard) open() {
	o := testOptions(y.fs)
	o.Codec = "none"
	o.Events.Moved = func(int, uint64, uint64) {
		y.events++
		y.does("moved")
	}
	o.Events.Released = func(n int) {
		if n > 0 {
			y.does("released")
		}
	}
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		y.t.Fatal(err)
	}
	y.v = v
	synctest.Wait()
}

func (y *yard) close() {
	closeTest(y.t, y.v)
	synctest.Wait()
}

// append appends records of size bytes, each in a batch of its own.
func (y *yard) append(log string, records, size int) {
	for range records {
		rec := fmt.Sprintf("%s %d %s", log, len(y.want[log])+1, strings.Repeat("x", size))
		y.want[log] = append(y.want[log], rec)
		mustAppend(y.t, y.v, log, rec)
	}
}

// busy fills segments that nobody keeps anything of, and waits for what comes of it.
func (y *yard) busy(segments int) {
	for until := y.v.Status().Rolls + uint64(segments); y.v.Status().Rolls < until; {
		got := mustAppend(y.t, y.v, "busy", strings.Repeat("x", 9000))
		mustCheckpoint(y.t, y.v, "busy", "cp", got.First, "")
		time.Sleep(2 * limits.OpenSegmentIdle) // of the bubble's clock
		synctest.Wait()
	}
}

// corrupt flips a bit of the frame that has a record, when nothing is under way any
// more and nobody has kept what was read of it.
func (y *yard) corrupt(log string, lsn LSN, at int64) {
	pos := frameOf(y.t, y.v, log, lsn).Pos
	time.Sleep(time.Minute) // of the bubble's clock
	synctest.Wait()
	corrupt(y.t, y.fs, pos, at)
}

// read says which records of a log are there, as they were appended.
func (y *yard) read(log string) string {
	info, err := y.v.Log(log)
	if err != nil {
		return err.Error()
	}
	out := fmt.Sprintf("%d to %d", info.First, info.Next-1)
	for lsn := info.First; lsn < info.Next; lsn++ {
		r, err := y.v.NewReader(log, ReadOptions{From: lsn, To: lsn})
		if err != nil {
			y.t.Fatal(err)
		}
		got, err := follow(context.Background(), r, 1)
		if err != nil {
			var loss *DataLossError
			if !errors.As(err, &loss) {
				y.t.Fatal(err)
			}
			out += fmt.Sprintf(", %d lost", lsn)
		} else if got[0] != y.want[log][lsn-1] {
			y.t.Fatalf("log %q: LSN %d is %.30q", log, lsn, got[0])
		}
		r.Close()
	}
	return out
}

// show says what there is of every idle log, and where.
func (y *yard) show() string {
	var out strings.Builder
	holders, _, _ := y.v.Holders("", "", 1000)
	for _, h := range holders {
		if h.Log == "busy" {
			continue
		}
		fmt.Fprintf(&out, "%s: %s", h.Log, y.read(h.Log))
		if h.Moved > 0 {
			fmt.Fprintf(&out, "; moved up to %d", h.Moved)
		}
		fmt.Fprintln(&out)
	}
	return out.String()
}

// kept returns how many segments there are.
func (y *yard) kept() string {
	switch n := len(y.v.journal.Segments()); {
	case n <= 6:
		return "few segments"
	default:
		return fmt.Sprintf("%d segments", n)
	}
}

// TestStragglers plays scripts of logs that keep little, for long.
func TestStragglers(t *testing.T) {
	datadriven.Walk(t, "testdata/move", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			y := newYard(t)
			defer func() { y.close() }()
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				y.t = t
				var out strings.Builder
				for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
					out.WriteString(y.do(strings.Fields(line)))
				}
				return out.String()
			})
		})
	})
}

func (y *yard) do(args []string) string {
	ctx := context.Background()
	num := func(i int) int {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			y.t.Fatal(err)
		}
		return n
	}
	var err error
	switch args[0] {
	case "create":
		mustCreate(y.t, y.v, args[1])
	case "append": // LOG RECORDS SIZE
		y.append(args[1], num(2), num(3))
	case "busy": // SEGMENTS
		y.busy(num(1))
		return y.kept() + "\n"
	case "fill": // SEGMENTS: busy, where how many there are is not promised
		y.busy(num(1))
	case "checkpoint": // LOG LSN
		mustCheckpoint(y.t, y.v, args[1], "cp", LSN(num(2)), "")
	case "cursor": // LOG LSN
		mustCursor(y.t, y.v, args[1], CursorUpdate{Name: "c", LSN: LSN(num(2)), Reset: true})
	case "rewind": // LOG LSN
		mustRewind(y.t, y.v, args[1], Rewind{After: LSN(num(2))})
		y.want[args[1]] = y.want[args[1]][:num(2)]
	case "truncate": // LOG LSN
		_, err = y.v.Truncate(ctx, args[1], LSN(num(2)))
	case "delete": // LOG
		err = y.v.DeleteLog(ctx, args[1], ulid.ULID{})
	case "restart":
		y.close()
		y.open()
	case "crash": // the power fails, and every unsynced write is lost
		crashed := y.fs.CrashClone(nil, 0)
		y.close()
		y.fs = crashed
		y.open()
	case "damage": // LOG LSN: its block
		y.corrupt(args[1], LSN(num(2)), limits.FrameHeaderSize+2)
	case "lose": // LOG LSN: its frame
		y.corrupt(args[1], LSN(num(2)), 8)
	case "gaps":
		ids, gaps := y.v.journal.Segments(), y.v.journal.Gaps()
		entries, err := y.fs.List("/vol")
		if err != nil {
			y.t.Fatal(err)
		}
		files := 0
		for _, e := range entries {
			if strings.HasSuffix(e.Name, ".gap") {
				files++
			}
		}
		// How many segments what is kept fills, and how many there are for the newest
		// snapshots, is not promised.
		nobodys := 0
		for n, id := range ids {
			if len(gaps) == 0 || id > gaps[len(gaps)-1].To {
				if len(ids)-n > 8 {
					y.t.Errorf("segments %s", ids)
				}
				break
			}
			one, err := y.v.index.cache.get(id)
			if err != nil {
				y.t.Fatal(err)
			}
			for name, number := range y.v.durable.names {
				if name != "busy" && len(one.refs(number)) > 0 {
					nobodys--
					break
				}
			}
			nobodys++
		}
		return fmt.Sprintf("gaps: %d, files: %d, segments before the last that nobody keeps: %d\n", len(gaps), files, nobodys)
	case "show":
		return y.show()
	case "read": // LOG
		return y.read(args[1]) + "\n"
	case "moved": // since the volume was opened
		s := y.v.Status()
		return fmt.Sprintf("records: %t, bytes: %t, told: %t\n", s.MovedRecords > 0, s.MovedBytes > s.MovedRecords, y.events > 0)
	case "verify":
		found, err := verifyOn(ctx, y.fs, "/vol", nil)
		if err != nil {
			y.t.Fatal(err)
		}
		// By case, without logs that were deleted: which lie in one frame is not promised.
		lost := map[string][]string{}
		for _, d := range found.Damage {
			for _, l := range d.Logs {
				if strings.HasPrefix(l.Log, "#") {
					continue
				}
				lost[d.Case] = append(lost[d.Case], fmt.Sprintf("%s %d to %d", l.Log, l.First, l.Last))
			}
		}
		out := found.Verdict + "\n"
		for _, what := range slices.Sorted(maps.Keys(lost)) {
			slices.Sort(lost[what])
			out += what + ": " + strings.Join(lost[what], ", ") + "\n"
		}
		return out
	default:
		y.t.Fatalf("no such command: %q", args)
	}
	synctest.Wait()
	if err != nil {
		return err.Error() + "\n"
	}
	return ""
}

// TestThousandStragglers: a thousand idle logs of ten records each keep the journal
// from nothing, and lose none of them, also when all of it has turned over several
// times.
func TestThousandStragglers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewMem()
		o := testOptions(fs)
		o.Codec, o.SegmentSize, o.SnapshotEvery = "none", 1<<20, 1<<20
		open := func() *Volume {
			v, err := Open(context.Background(), "/vol", o)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		v := open()
		mustCreate(t, v, "busy")
		s := newSeat(t, v)
		var batches []Batch
		name := func(i int) string { return fmt.Sprintf("idle-%04d", i) }
		recs := func(i int) (recs []string) {
			for k := range 10 {
				recs = append(recs, fmt.Sprint(i, "-", k))
			}
			return recs
		}
		busy := func(segments uint64) {
			for until := v.Status().Rolls + segments; v.Status().Rolls < until; {
				got := mustAppend(t, v, "busy", strings.Repeat("x", 200<<10))
				mustCheckpoint(t, v, "busy", "cp", got.First, "")
				time.Sleep(2 * limits.OpenSegmentIdle)
				synctest.Wait()
			}
		}
		for i := range 1000 {
			mustCreate(t, v, name(i))
			b := s.bind(name(i), producerID(0))
			for _, half := range [][]string{recs(i)[:4], recs(i)[4:]} {
				batches = append(batches, Batch{Binding: b, Run: run(half...)})
			}
			if i%100 != 99 {
				continue
			}
			for _, got := range s.verdicts(batches...) {
				if got.Err != nil {
					t.Fatal(got.Err)
				}
			}
			batches = batches[:0]
			busy(1) // so that they keep many segments, and little of each
		}
		for turn := range 3 {
			busy(8)
			if ids := v.journal.Segments(); len(ids) > 6 {
				t.Fatalf("%d segments from %s on are kept for a thousand logs of ten records", len(ids), ids[0])
			}
			if moved := v.Status(); turn == 0 && moved.MovedRecords < 10_000 || moved.MovedBytes > 20*10_000*10 {
				t.Errorf("moved %d records of %d bytes", moved.MovedRecords, moved.MovedBytes)
			}
			for i := range 1000 {
				if got := readAll(t, v, name(i), 1); !slices.Equal(got, recs(i)) {
					t.Fatalf("log %d has %q", i, got)
				}
			}
			closeTest(t, v)
			v = open()
		}
		closeTest(t, v)
		found, err := verifyOn(context.Background(), fs, "/vol", nil)
		if err != nil || found.Verdict != replay.VerdictClean.String() {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// copiesOf returns where the copies of a log's records lie.
func copiesOf(v *Volume, log string) (end LSN, pos segment.Pos) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	m := v.index.places.moved[v.durable.named(log).number]
	return m.end, m.pos
}

// TestMovedBeforeRelease cuts the power whenever a segment goes, and opens what is
// left: a log whose records lay there, and that gave none of them up, has all of them.
func TestMovedBeforeRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		var mu sync.Mutex
		var cuts []*disk.Mem
		fs := disk.Record(mem, func(op disk.Op) {
			gone := op.Kind == disk.OpRename || op.Kind == disk.OpRemove
			if gone && op.Done() && strings.HasSuffix(op.Name, ".wal") {
				mu.Lock()
				defer mu.Unlock()
				cuts = append(cuts, mem.CrashClone(nil, 1))
			}
		})
		y := &yard{t: t, fs: mem, want: map[string][]string{}}
		y.v = openPlain(t, fs)
		mustCreate(t, y.v, "busy")
		mustCreate(t, y.v, "idle")
		y.append("idle", 5, 20)
		y.busy(6)
		y.close()
		if len(cuts) < 3 || y.v.Status().MovedRecords == 0 {
			t.Fatalf("%d segments went, and %d records were moved", len(cuts), y.v.Status().MovedRecords)
		}
		for i, cut := range cuts {
			v := openPlain(t, cut)
			if got := readAll(t, v, "idle", 1); !slices.Equal(got, y.want["idle"]) {
				t.Errorf("power cut %d: it has %q", i, got)
			}
			closeTest(t, v)
		}
	})
}

// TestMoveGivesWay: what happens to a straggler between reading its records and
// copying them has them left where they are, for copies that are not all that it has
// would hide the rest.
func TestMoveGivesWay(t *testing.T) {
	for name, meanwhile := range map[string]func(y *yard){
		"appended":       func(y *yard) { y.append("idle", 1, 20) },
		"wanted earlier": func(y *yard) { mustCursor(t, y.v, "idle", CursorUpdate{Name: "c", LSN: 1}) },
		"deleted": func(y *yard) {
			if err := y.v.DeleteLog(context.Background(), "idle", y.v.durable.named("idle").id); err != nil {
				t.Fatal(err)
			}
		},
		"nothing": func(*yard) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				y := newYard(t)
				defer y.close()
				mustCreate(t, y.v, "idle")
				y.append("idle", 5, 20)
				mustCheckpoint(t, y.v, "idle", "cp", 3, "")
				synctest.Wait() // the janitor has looked, and has nothing to do from now on
				j := &y.v.janitor
				s, ok, err := j.movable(y.v.durable.named("idle").number)
				if err != nil || !ok || s.from != 4 {
					t.Fatalf("%+v, %t, %v", s, ok, err)
				}
				if ok, err = j.collect(&s, new(moveSource)); err != nil || !ok || len(s.moves) != 2 {
					t.Fatalf("%d batches, %t, %v", len(s.moves), ok, err)
				}
				meanwhile(y)
				synctest.Wait()
				if err := j.moveTogether([]straggler{s}, s.size); err != nil {
					t.Fatal(err)
				}
				want := uint64(0)
				if name == "nothing" {
					want = 2
				}
				if got := y.v.Status().MovedRecords; got != want {
					t.Errorf("moved %d records, want %d", got, want)
				}
				if name != "deleted" {
					y.read("idle")
				}
			})
		})
	}
}

// TestGivenUpWhileMoving: a log that was found to keep a segment has given up all of it
// by the time that it is to be moved. Nothing is copied, and nothing is counted as held.
func TestGivenUpWhileMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer y.close()
		mustCreate(t, y.v, "idle")
		y.append("idle", 5, 20)
		mustCheckpoint(t, y.v, "idle", "cp", 5, "")
		synctest.Wait() // the janitor has looked, and has nothing to do from now on
		j := &y.v.janitor
		s, ok, err := j.movable(y.v.durable.named("idle").number)
		if err != nil || !ok || s.from != 6 {
			t.Fatalf("%+v, %t, %v", s, ok, err)
		}
		if ok, err = j.collect(&s, new(moveSource)); err != nil || !ok || len(s.moves) != 0 {
			t.Fatalf("%d batches, %t, %v", len(s.moves), ok, err)
		}
		if err := j.moveTogether([]straggler{s}, s.size); err != nil {
			t.Fatal(err)
		}
		if info, err := y.v.Log("idle"); err != nil || info.First != 6 || info.LiveBytes != 0 {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

// TestGivenUpBeforeMoving: a log that was found to keep a segment gives up some of it
// before its records are read. It is not idle, and nothing is read for it; of thousands
// that are truncated one after the other that would keep the janitor for long.
func TestGivenUpBeforeMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer y.close()
		mustCreate(t, y.v, "idle")
		y.append("idle", 5, 20)
		synctest.Wait()
		j := &y.v.janitor
		s, ok, err := j.movable(y.v.durable.named("idle").number)
		if err != nil || !ok || s.from != 1 {
			t.Fatalf("%+v, %t, %v", s, ok, err)
		}
		if _, err := y.v.Truncate(context.Background(), "idle", 4); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if ok, err = j.collect(&s, new(moveSource)); err != nil || ok || len(s.moves) != 0 {
			t.Errorf("%d batches, %t, %v", len(s.moves), ok, err)
		}
	})
}

// TestMovingLeavesOff: what nobody keeps goes between two frames of copies, once the
// journal has rolled, and not behind the last of them.
func TestMovingLeavesOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer y.close()
		var idle []string
		for i := range 8 {
			idle = append(idle, fmt.Sprint("idle-", i))
			mustCreate(t, y.v, idle[i])
			y.append(idle[i], 2, 3000)
		}
		fill := func(segments uint64) { // and leave the clock where it is: the janitor waits behind its first frame
			for until := y.v.Status().Rolls + segments; y.v.Status().Rolls < until; {
				got := mustAppend(t, y.v, "busy", strings.Repeat("x", 9000))
				mustCheckpoint(t, y.v, "busy", "cp", got.First, "")
				synctest.Wait()
			}
		}
		// Each further segment that somebody keeps makes it less for each to move all of them.
		for i := 8; y.did("moved") == nil; i++ {
			if i == 40 {
				t.Fatal("nothing is moved")
			}
			idle = append(idle, fmt.Sprint("idle-", i))
			mustCreate(t, y.v, idle[i])
			y.append(idle[i], 2, 20)
			fill(1)
		}
		fill(4)
		if did := y.did("moved"); len(did) != 1 {
			t.Fatalf("%q, where copying has only begun", did)
		}
		time.Sleep(time.Minute) // of the bubble's clock
		y.busy(20)
		if did := y.did("moved"); len(did) < 4 || did[1] != "released" || !slices.Contains(did[2:], "moved") {
			t.Errorf("%q: nothing was released between copying and copying", did)
		}
		for _, log := range idle {
			y.read(log)
			if end, _ := copiesOf(y.v, log); end != 3 {
				t.Errorf("log %q is moved up to %d", log, end)
			}
		}
	})
}

// TestReadersGoOnAmongCopies reads and follows logs that are moved under the readers:
// whatever lies where, they see every record once.
func TestReadersGoOnAmongCopies(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	ctx := context.Background()
	mustCreate(t, v, "busy")
	mustCreate(t, v, "idle")
	var want []string
	var receipts []Receipt
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		receipts = append(receipts, receipt(t, v, "idle", mustAppend(t, v, "idle", want[i])))
	}
	number := v.durable.named("idle").number
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := v.Status(); s.Rolls < 12 || s.MovedRecords == 0; s = v.Status() {
			got, err := v.Append(ctx, "busy", producerID(0), 0, Batch{Run: run(strings.Repeat("x", 9000))})
			if err == nil {
				_, err = v.SetCheckpoint(ctx, "busy", Checkpoint{Name: "cp", LSN: got.First}, nil)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for {
		r, err := v.NewReader("idle", ReadOptions{Max: 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			span, err := r.Next(ctx)
			if err != nil {
				t.Fatalf("record %d: %v", i, err)
			}
			if recs, err := split(span.Run); err != nil || span.First != LSN(i+1) || len(recs) != 1 || recs[0] != want[i] {
				t.Fatalf("span at %d has %q, %v; want %q", span.First, recs, err, want[i])
			}
		}
		r.Close()
		if at, err := v.offsetAt("idle", number, 11, &history{epoch: 1}); err != nil || at != uint64(10*len(run("0"))) {
			t.Fatalf("LSN 11 is at %d, %v", at, err)
		}
		for _, r := range receipts {
			if f, err := v.VerifyReceipt(r); err != nil || f.Verdict != ReceiptProven {
				t.Fatalf("%+v is %v, %v", r, f, err)
			}
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// TestRewoundAmongCopies rewinds a log whose records were moved: what lies behind the
// cut is gone from the copies, too, and what takes its LSNs is read where it was
// appended; after restarts and crashes likewise.
func TestRewoundAmongCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer func() { y.close() }()
		mustCreate(t, y.v, "idle")
		y.want["idle"] = []string{"a", "b", "c", "d", "e", "f"}
		mustAppend(t, y.v, "idle", y.want["idle"][:3]...)
		mustAppend(t, y.v, "idle", y.want["idle"][3:]...) // the cut is to be within
		y.busy(8)
		if end, _ := copiesOf(y.v, "idle"); end != 7 {
			t.Fatalf("copies end at LSN %d", end)
		}
		w, err := y.v.Rewind(context.Background(), "idle", Rewind{Epoch: 1, After: 4})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		y.want["idle"] = y.want["idle"][:4]
		check := func(when string) {
			t.Helper()
			want := fmt.Sprintf("1 to %d", len(y.want["idle"]))
			if got := y.read("idle"); got != want {
				t.Fatalf("%s: %s, want %s", when, got, want)
			}
		}
		check("rewound")
		for i := range 3 {
			rec := fmt.Sprintf("again %d", i)
			y.want["idle"] = append(y.want["idle"], rec)
			if _, err := y.v.Append(context.Background(), "idle", producerID(0), w.Log.Epoch, Batch{Run: run(rec)}); err != nil {
				t.Fatal(err)
			}
		}
		check("appended again")
		for _, what := range []string{"restart", "busy 6", "crash", "busy 6"} {
			y.do(strings.Fields(what))
			check(what)
		}
		if end, _ := copiesOf(y.v, "idle"); end > 5 {
			t.Errorf("copies end at LSN %d, behind the cut", end)
		}
		if got := y.do([]string{"verify"}); got != "clean\n" {
			t.Error(got)
		}
	})
}

// TestCutShortBehindCopies: the segment of the copies was cut short by a crash, so
// that it says nothing of the log. When nobody keeps them any more and it is
// released, the log has given them up, and does not miss them.
func TestCutShortBehindCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer func() { y.close() }()
		mustCreate(t, y.v, "idle")
		y.append("idle", 3, 20)
		number := y.v.durable.named("idle").number
		for y.v.index.places.moved[number].end == 0 {
			y.busy(1)
		}
		// Copied again and again, until a crash has cut their segment short.
		var copies segment.ID
		where := func() segment.ID { return y.v.index.places.moved[number].pos.Segment }
		for tries := 0; ; tries++ {
			crashed := y.fs.CrashClone(nil, 0)
			y.close()
			y.fs = crashed
			y.open()
			copies = where()
			if one, err := y.v.index.cache.get(copies); err == nil && !one.complete {
				break
			}
			if tries == 100 {
				t.Fatal("the copies' segment was never cut short")
			}
			for where() == copies {
				y.busy(1)
			}
		}
		// Not once more, when their segment is the oldest one.
		synctest.Wait()
		y.v.janitor.unmovable[number] = y.v.durable.logs.get(number).next
		for y.v.journal.Segments()[0] < copies {
			y.busy(1)
		}
		if where() != copies {
			t.Fatal("it was moved")
		}
		mustCheckpoint(t, y.v, "idle", "cp", 3, "")
		synctest.Wait()
		for slices.Contains(y.v.journal.Segments(), copies) {
			y.busy(1)
		}
		if got := y.read("idle"); got != "4 to 3" {
			t.Errorf("the log has %s", got)
		}
	})
}

// TestLagOfWhatMoved: a cursor lags as far behind as before when what it holds is moved.
func TestLagOfWhatMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer y.close()
		mustCreate(t, y.v, "idle")
		y.append("idle", 3, 20)
		mustCursor(t, y.v, "idle", CursorUpdate{Name: "c", LSN: 1})
		was, err := y.v.Cursor("idle", "c")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		y.busy(8)
		passed := time.Since(began)
		if end, _ := copiesOf(y.v, "idle"); end != 4 || passed == 0 {
			t.Fatalf("copies end at LSN %d, %v have passed", end, passed)
		}
		if is, err := y.v.Cursor("idle", "c"); err != nil || !is.Oldest.Equal(was.Oldest) || is.Lag != was.Lag+passed {
			t.Errorf("%+v, %v; %v ago it was %+v", is, err, passed, was)
		}
	})
}

// TestReceiptOfWhatMoved: a receipt is proven wherever its records lie by now, and
// contradicted there if it was tampered with.
func TestReceiptOfWhatMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer func() { y.close() }()
		mustCreate(t, y.v, "idle")
		y.append("idle", 2, 20)
		r := receipt(t, y.v, "idle", mustAppend(t, y.v, "idle", "3", "4"))
		y.append("idle", 1, 20)
		number := y.v.durable.named("idle").number
		for first := y.v.journal.Segments()[0]; y.v.index.places.moved[number].end == 0 || y.v.journal.Segments()[0] == first; {
			y.busy(1)
		}
		for range 2 {
			if got := wantFinding(t, y.v, y.fs, r, ReceiptProven, ""); got.Committed != r.Committed {
				t.Errorf("the volume has it at %d, it was told %d", got.Committed, r.Committed)
			}
			lie := r
			lie.Checksum++
			wantFinding(t, y.v, y.fs, lie, ReceiptContradicted, "log_checksum")
			lie = r
			lie.Committed += int64(time.Second)
			wantFinding(t, y.v, y.fs, lie, ReceiptContradicted, "commit_time")
			y.close()
			y.open()
		}
	})
}

// TestLostCopiesOfRewoundLog: the frame with the copies of a log that was rewound is
// lost, and those who look at the volume are told of what.
func TestLostCopiesOfRewoundLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer func() { y.close() }()
		mustCreate(t, y.v, "idle")
		y.do([]string{"append", "idle", "4", "20"})
		y.do([]string{"rewind", "idle", "2"})
		y.do([]string{"append", "idle", "4", "20"})
		y.do([]string{"truncate", "idle", "5"})
		// Until opening begins at a snapshot that knows of the copies.
		for known := false; !known; {
			y.busy(1)
			ids := y.v.journal.Segments()
			h, err := y.v.journal.Header(ids[len(ids)-1])
			if err != nil {
				t.Fatal(err)
			}
			end, pos := copiesOf(y.v, "idle")
			known = end != 0 && h.Snapshot.Pos.Compare(pos) > 0
		}
		y.do([]string{"lose", "idle", "5"})
		if got := y.do([]string{"verify"}); got != "damaged\ndamaged-header: idle 5 to 6\n" {
			t.Error(got)
		}
	})
}

// TestTimeOfWhatIsNotCopied: records were given up, the rest of their log moved, and
// their segment is still there. Who asks for all since a time before them is told.
func TestTimeOfWhatIsNotCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		defer func() { y.close() }()
		mustCreate(t, y.v, "idle")
		mustCreate(t, y.v, "other")
		y.append("other", 1, 20)
		time.Sleep(time.Second)
		since := time.Now()
		time.Sleep(time.Second)
		for y.v.filling() == y.v.journal.Segments()[0] {
			y.append("other", 1, 9000)
		}
		y.append("idle", 6, 20)
		if _, err := y.v.Truncate(t.Context(), "idle", 4); err != nil {
			t.Fatal(err)
		}
		if lsn, err := y.v.At("idle", since); !errors.Is(err, ErrLSNTruncated) {
			t.Fatalf("not moved yet: LSN %d, %v", lsn, err)
		}
		j := &janitor{v: y.v, unmovable: map[uint64]LSN{}}
		j.quit = t.Context()
		s, ok, err := j.movable(y.v.durable.named("idle").number)
		if err == nil && ok {
			ok, err = j.collect(&s, &moveSource{})
		}
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if err := j.moveTogether([]straggler{s}, s.size); err != nil {
			t.Fatal(err)
		}
		if end, _ := copiesOf(y.v, "idle"); end != 7 {
			t.Fatalf("copies end at LSN %d", end)
		}
		if lsn, err := y.v.At("idle", since); !errors.Is(err, ErrLSNTruncated) {
			t.Errorf("moved: LSN %d, %v", lsn, err)
		}
	})
}
