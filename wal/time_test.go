package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// midnight is when the clocks of these tests start.
var midnight = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// A timekeeper is a volume whose wall clock somebody sets.
type timekeeper struct {
	t    testing.TB
	fs   *disk.Mem
	v    *Volume
	wall atomic.Int64
}

func newTimekeeper(t testing.TB) *timekeeper {
	k := &timekeeper{t: t, fs: disk.NewMem()}
	k.wall.Store(midnight.UnixNano())
	k.open()
	return k
}

func (k *timekeeper) open() {
	o := testOptions(k.fs)
	o.Now, o.Codec = k.wall.Load, "none"
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		k.t.Fatal(err)
	}
	k.v = v
}

func (k *timekeeper) restart() {
	closeTest(k.t, k.v)
	k.open()
}

// at spells what At says.
func (k *timekeeper) at(log string, t time.Time) string {
	lsn, err := k.v.At(log, t)
	if errors.Is(err, ErrLSNTruncated) {
		return "truncated"
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(lsn)
}

// replay spells which records a replay between two times returns.
func (k *timekeeper) replay(log string, from, to time.Time) string {
	r, err := k.v.NewReader(log, ReadOptions{FromTime: from, ToTime: to})
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	spans, err := drain(r)
	out := "nothing"
	if n := len(spans); n > 0 {
		last := spans[n-1].First + LSN(spans[n-1].Count) - 1
		out = fmt.Sprintf("%d to %d", spans[0].First, last)
	}
	if err != nil {
		out += "; " + err.Error()
	}
	return out
}

// TestTime plays scripts: of clocks that are set, restarts, records that are given
// up, and frames that are lost. Times are counted from midnight.
func TestTime(t *testing.T) {
	datadriven.Walk(t, "testdata/time", func(t *testing.T, path string) {
		k := newTimekeeper(t)
		defer func() { closeTest(t, k.v) }()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			k.t = t
			var out strings.Builder
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				if said := k.do(d.Cmd, strings.Fields(line)); said != "" {
					fmt.Fprintln(&out, said)
				}
			}
			return out.String()
		})
	})
}

func (k *timekeeper) do(cmd string, args []string) string {
	ctx := context.Background()
	num := func(i int) (n int) {
		if _, err := fmt.Sscan(args[i], &n); err != nil {
			k.t.Fatal(err)
		}
		return n
	}
	clock := func(i int) time.Time {
		if args[i] == "-" {
			return time.Time{}
		}
		d, err := time.ParseDuration(args[i])
		if err != nil {
			k.t.Fatal(err)
		}
		return midnight.Add(d)
	}
	switch cmd {
	case "create":
		mustCreate(k.t, k.v, args[0])
	case "clock": // what the wall clock is set to
		k.wall.Store(clock(0).UnixNano())
	case "append": // LOG RECORDS
		got := mustAppend(k.t, k.v, args[0], make([]string, num(1))...)
		return fmt.Sprintf("%d to %d", got.First, got.First+LSN(got.Count)-1)
	case "fill": // LOG FRAMES: of a record each, a minute apart
		for range num(1) {
			mustAppend(k.t, k.v, args[0], "")
			k.wall.Add(int64(time.Minute))
		}
	case "committed": // LOG LSN
		return time.Unix(0, committed(k.t, k.v, args[0], LSN(num(1)))).Sub(midnight).String()
	case "restart":
		k.restart()
	case "checkpoint": // LOG LSN
		mustCheckpoint(k.t, k.v, args[0], "cp", LSN(num(1)), "")
	case "truncate": // LOG LSN
		if _, err := k.v.Truncate(ctx, args[0], LSN(num(1))); err != nil {
			return err.Error()
		}
	case "stay": // nothing is released or moved any more
		k.v.janitor.stop()
	case "forget": // LOG TIME: appends and gives up, until nothing older is in the journal
		pollUntil(k.t, "what is older was released", func() bool {
			got := mustAppend(k.t, k.v, args[0], "")
			mustCheckpoint(k.t, k.v, args[0], "cp", got.First, "")
			h, err := k.v.journal.Header(k.v.journal.Segments()[0])
			return err == nil && h.Cut.Time >= clock(1).UnixNano()
		})
	case "lose": // LOG LSN: the frame's header
		corrupt(k.t, k.fs, frameOf(k.t, k.v, args[0], LSN(num(1))).Pos, 8)
	case "at": // LOG TIME
		return fmt.Sprintf("%s: %s", args[1], k.at(args[0], clock(1)))
	case "replay": // LOG FROM TO
		return fmt.Sprintf("%s to %s: %s", args[1], args[2], k.replay(args[0], clock(1), clock(2)))
	default:
		k.t.Fatalf("no such command: %s", cmd)
	}
	return ""
}

// committed returns when a record was committed, wherever it lies by now.
func committed(t testing.TB, v *Volume, log string, lsn LSN) int64 {
	t.Helper()
	var b batchFrame
	l := v.durable.named(log)
	h := l.history()
	if err := v.seek(&b, log, l.number, lsn, &h); err != nil {
		t.Fatal(err)
	}
	c, _ := b.covering(lsn)
	return b.committed(c)
}

// TestTimesOfEveryRecord appends with a clock that is set every which way, for many
// segments and restarts, and looks for the times just before, at and after every
// commit of two logs: each record is found by its time, and none before it.
func TestTimesOfEveryRecord(t *testing.T) {
	k := newTimekeeper(t)
	defer func() { closeTest(t, k.v) }()
	rng := rand.New(rand.NewPCG(5, 6))
	logs := []string{"busy", "idle"}
	for _, log := range logs {
		mustCreate(t, k.v, log)
	}
	year := int64(365 * 24 * time.Hour)
	for range 120 {
		switch rng.IntN(16) {
		case 0:
			k.wall.Add(year)
		case 1:
			k.wall.Add(-year)
		case 2:
			k.restart()
		default:
			k.wall.Add(rng.Int64N(int64(time.Minute)))
		}
		log := logs[0]
		if rng.IntN(20) == 0 {
			log = logs[1]
		}
		mustAppend(t, k.v, log, strings.Repeat("x", 2000), "y")
	}
	if len(k.v.journal.Segments()) < 8 {
		t.Fatalf("only %d segments", len(k.v.journal.Segments()))
	}
	for _, log := range logs {
		info, err := k.v.Log(log)
		if err != nil {
			t.Fatal(err)
		}
		times := make([]int64, info.Next) // by LSN
		for lsn := info.First; lsn < info.Next; lsn++ {
			times[lsn] = committed(t, k.v, log, lsn)
			if times[lsn] < times[lsn-1] {
				t.Fatalf("log %q: LSN %d was committed at %d, the one before it at %d", log, lsn, times[lsn], times[lsn-1])
			}
		}
		for _, committed := range times[1:] {
			for _, ns := range []int64{committed - 1, committed, committed + 1} {
				first := LSN(1)
				for first < info.Next && times[first] < ns {
					first++
				}
				if got, err := k.v.At(log, time.Unix(0, ns)); err != nil || got != first {
					t.Fatalf("log %q at %d: LSN %d, %v; want %d", log, ns, got, err, first)
				}
				if got, err := k.v.until(log, time.Unix(0, ns-1)); err != nil || got != first-1 {
					t.Fatalf("log %q until %d: LSN %d, %v; want %d", log, ns-1, got, err, first-1)
				}
			}
		}
	}
}

// TestTimesAroundAGap looks for times before, in and behind gaps: a log that keeps what
// lies before one is answered as if nothing had been released, and so is any other, but
// that what it gave up in the gap may have been committed at any time in there. With four
// records that keep it the gap lies behind the first segment of all, where nothing
// says how far a log had come that has all it ever gave up in the gap.
func TestTimesAroundAGap(t *testing.T) {
	for _, keeps := range []int{8, 4} {
		t.Run(fmt.Sprint("keeps=", keeps), func(t *testing.T) { timesAroundAGap(t, keeps) })
	}
}

func timesAroundAGap(t *testing.T, keeps int) {
	synctest.Test(t, func(t *testing.T) {
		gapped, whole := newTimekeeper(t), newTimekeeper(t)
		defer func() { closeTest(t, gapped.v); closeTest(t, whole.v) }()
		whole.v.janitor.stop()
		first := map[string]LSN{}
		one := func(log string, size int, give bool) {
			for _, k := range []*timekeeper{gapped, whole} {
				got := mustAppend(t, k.v, log, strings.Repeat("x", size))
				if first[log] = 1; give {
					first[log] = got.First
					if _, err := k.v.Truncate(context.Background(), log, got.First); err != nil {
						t.Fatal(err)
					}
				}
				k.wall.Add(int64(time.Minute))
			}
			time.Sleep(2 * limits.OpenSegmentIdle) // of the bubble's clock
			synctest.Wait()
		}
		busy := func(segments int) {
			for until := gapped.v.Status().Rolls + uint64(segments); gapped.v.Status().Rolls < until; {
				one("busy", 9000, true)
			}
		}
		for _, k := range []*timekeeper{gapped, whole} {
			for _, log := range []string{"idle", "gone", "busy", "late", "inside"} {
				mustCreate(t, k.v, log)
			}
		}
		one("gone", 10, false)
		for range keeps {
			one("idle", 9000, false)
		}
		one("gone", 10, false)
		busy(2)
		one("gone", 10, false)
		one("gone", 10, true)
		one("inside", 10, false)
		one("inside", 10, true)
		busy(8)
		one("idle", 100, false)
		one("gone", 10, true)
		one("inside", 10, true)
		busy(1)
		one("idle", 100, false)
		one("late", 100, false)
		one("gone", 10, false)
		busy(2)
		one("idle", 100, false)
		for round := range 2 {
			j := gapped.v.journal
			gaps := j.Gaps()
			if len(gaps) == 0 || len(whole.v.journal.Gaps()) > 0 {
				t.Fatalf("round %d: the gaps are %v, in segments %v", round, gaps, j.Segments())
			}
			within := func(at time.Time) bool {
				for _, g := range gaps {
					from, err := j.Header(g.From)
					if err != nil {
						t.Fatal(err)
					}
					behind, err := j.Header(g.To + 1)
					if err != nil {
						t.Fatal(err)
					}
					if ns := at.UnixNano(); from.Cut.Time < ns && ns <= behind.Cut.Time {
						return true
					}
				}
				return false
			}
			in := 0
			for at := midnight; at.UnixNano() <= gapped.wall.Load(); at = at.Add(30 * time.Second) {
				if within(at) {
					in++
				}
				for _, log := range []string{"idle", "late", "gone", "busy", "inside"} {
					got, want := gapped.at(log, at), whole.at(log, at)
					inGap := got == "truncated" && within(at) && log != "idle" && log != "late"
					if got != want && !inGap {
						t.Errorf("round %d: log %q at %s: %s, want %s; in a gap: %v", round, log, at, got, want, within(at))
					}
					got, want = gapped.replay(log, time.Time{}, at), whole.replay(log, time.Time{}, at)
					if got != want {
						t.Errorf("round %d: log %q until %s: %s, want %s; in a gap: %v", round, log, at, got, want, within(at))
					}
				}
			}
			if in < 10 {
				t.Errorf("round %d: only %d times were in the gaps %v among %v", round, in, gaps, j.Segments())
			}
			gapped.restart()
			synctest.Wait()
		}
	})
}

// TestFollowFromATime begins a follower at a time that is yet to come: it hears of
// what is appended next.
func TestFollowFromATime(t *testing.T) {
	k := newTimekeeper(t)
	defer func() { closeTest(t, k.v) }()
	mustCreate(t, k.v, "log")
	mustAppend(t, k.v, "log", "old")
	r, err := k.v.NewReader("log", ReadOptions{FromTime: midnight.Add(time.Hour), Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, k.v, "log", "new")
	if got, err := follow(context.Background(), r, 1); err != nil || got[0] != "new" {
		t.Errorf("%q, %v", got, err)
	}
	for _, o := range []ReadOptions{
		{FromTime: midnight, From: 1}, {FromTime: midnight, Cursor: "c"}, {ToTime: midnight, To: 1}, {ToTime: midnight, Follow: true},
	} {
		if _, err := k.v.NewReader("log", o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := k.v.At("none", midnight); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("of no log: %v", err)
	}
	if _, err := k.v.Append(context.Background(), "log", ulid.ULID{}, 0, Batch{Run: run("x")}); err != nil {
		t.Fatal(err)
	}
	var far []string
	for _, at := range []time.Time{time.Unix(0, 0).AddDate(-5000, 0, 0), midnight.AddDate(5000, 0, 0)} {
		far = append(far, k.at("log", at), k.replay("log", time.Time{}, at))
	}
	equal(t, far, []string{"1", "nothing", "4", "1 to 3"})
}
