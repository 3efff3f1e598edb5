package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func mustCursor(t testing.TB, v *Volume, log string, u CursorUpdate) Cursor {
	t.Helper()
	c, err := v.SetCursor(context.Background(), log, u)
	if err != nil {
		t.Fatalf("set cursor of %q: %+v: %v", log, u, err)
	}
	return c
}

func TestSetCursor(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2")
	mustAppend(t, v, "log", "3", "4")
	if _, err := v.Truncate(ctx, "log", 2); err != nil {
		t.Fatal(err)
	}
	each := uint64(len(run("1")))
	c := mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 3, Create: true})
	if c.LSN != 3 || c.Records != 1 || c.LiveBytes != each || c.Cap != limits.DefaultCursorCap || c.Policy != CursorEvict ||
		c.State != CursorReserved || c.SetAt.IsZero() || c.Oldest.IsZero() {
		t.Fatalf("a new cursor: %+v", c)
	}
	at := func(n LSN) *LSN { return &n }
	for _, test := range []struct {
		name string
		log  string
		u    CursorUpdate
		want error
	}{
		{"must not exist", "log", CursorUpdate{Name: "c", LSN: 4, Create: true}, ErrCursorConflict},
		{"elsewhere", "log", CursorUpdate{Name: "c", LSN: 4, Expected: at(2)}, ErrCursorConflict},
		{"must exist", "log", CursorUpdate{Name: "new", LSN: 4, Expected: at(0)}, ErrCursorConflict},
		{"the condition is first", "log", CursorUpdate{Name: "c", LSN: 2, Expected: at(2)}, ErrCursorConflict},
		{"two conditions", "log", CursorUpdate{Name: "c", LSN: 4, Expected: at(3), Create: true}, ErrInvalid},
		{"backwards", "log", CursorUpdate{Name: "c", LSN: 2}, ErrCursorBackwards},
		{"beyond the end", "log", CursorUpdate{Name: "c", LSN: 5}, ErrLSNAhead},
		{"below what is kept", "log", CursorUpdate{Name: "c", LSN: 0, Reset: true}, ErrLSNTruncated},
		{"no log", "other", CursorUpdate{Name: "c"}, ErrLogNotFound},
		{"bad log name", "/", CursorUpdate{Name: "c"}, ErrInvalidName},
		{"no name", "log", CursorUpdate{LSN: 3}, ErrInvalidName},
		{"long name", "log", CursorUpdate{Name: strings.Repeat("n", limits.MaxCursorNameBytes+1), LSN: 3}, ErrInvalidName},
		{"cap over the limit", "log", CursorUpdate{Name: "c", LSN: 4, Cap: limits.MaxCursorCap + 1}, ErrInvalid},
		{"no such policy", "log", CursorUpdate{Name: "c", LSN: 4, Policy: CursorHold + 1}, ErrInvalid},
		{"over its cap at once", "log", CursorUpdate{Name: "new", LSN: 1, Cap: 3*each - 1}, ErrInvalid},
		{"put back over its cap", "log", CursorUpdate{Name: "c", LSN: 1, Cap: 3*each - 1, Reset: true}, ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := v.SetCursor(ctx, test.log, test.u); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if got, err := v.Cursor("log", "c"); err != nil || got.LSN != 3 || got.Cap != limits.DefaultCursorCap {
				t.Fatalf("it has changed: %+v, %v", got, err)
			}
		})
	}

	var conflict *CursorConflictError
	_, err := v.SetCursor(ctx, "log", CursorUpdate{Name: "c", LSN: 4, Expected: at(2)})
	if !errors.As(err, &conflict) || !conflict.Exists || conflict.LSN != 3 || *conflict.Expected != 2 {
		t.Fatalf("conflict without its figures: %v", err)
	}
	if got := mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 4, Expected: at(3), Cap: 7, Policy: CursorHold}); got.LiveBytes != 0 ||
		got.Records != 0 || !got.Oldest.IsZero() || got.Cap != 7 || got.Policy != CursorHold {
		t.Fatalf("at the end: %+v", got)
	}
	before := v.Status().DurableFrame
	if got := mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 4}); got.Cap != 7 || got.Policy != CursorHold || v.Status().DurableFrame != before {
		t.Fatalf("what is not said stays, and what changes nothing is not written: %+v", got)
	}
	if got := mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 1, Reset: true}); got.LSN != 1 || got.Records != 3 || got.LiveBytes != 3*each || got.State != CursorAtRisk {
		t.Fatalf("asked to go back: %+v", got)
	}
	if err := v.DeleteCursor(ctx, "log", "c", at(2)); !errors.Is(err, ErrCursorConflict) {
		t.Fatalf("delete it where it is not: %v", err)
	}
	if err := v.DeleteCursor(ctx, "log", "none", nil); !errors.Is(err, ErrCursorNotFound) {
		t.Fatalf("delete one that is not there: %v", err)
	}
	if err := v.DeleteCursor(ctx, "log", "c", at(1)); err != nil {
		t.Fatal(err)
	}
	for i := range limits.MaxCursorsPerLog {
		mustCursor(t, v, "log", CursorUpdate{Name: fmt.Sprintf("c-%02d", i), LSN: 1 + LSN(i)%4})
	}
	if _, err := v.SetCursor(ctx, "log", CursorUpdate{Name: "more", LSN: 4}); !errors.Is(err, ErrTooManyCursors) {
		t.Fatalf("one more than the limit: %v", err)
	}
	if list, err := v.Cursors("log"); err != nil || len(list) != limits.MaxCursorsPerLog || list[7].Name != "c-07" || list[7].LSN != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	// They outlive a restart, with and without what the process leaves behind, and
	// go with their log.
	crashed := fs.CrashClone(nil, 0)
	closeTest(t, v)
	was := v.durable.Hash()
	for _, fs := range []*disk.Mem{fs, crashed} {
		v = openTest(t, fs)
		v.mu.Lock()
		now := v.durable.Hash()
		v.mu.Unlock()
		if now != was {
			t.Fatal("they are not what they were")
		}
		if err := v.DeleteLog(ctx, "log", [16]byte{}); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, v, "log")
		if list, err := v.Cursors("log"); err != nil || len(list) != 0 {
			t.Fatalf("a new log has cursors of an old one: %+v, %v", list, err)
		}
		closeTest(t, v)
	}
}

// TestCursorCap: whoever does not choose a cap gets one, and never one that fills
// the log's quota.
func TestCursorCap(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	for _, test := range []struct {
		quota, chosen, want uint64
	}{
		{0, 0, limits.DefaultCursorCap},
		{0, limits.MaxCursorCap, limits.MaxCursorCap},
		{1000, 0, 500},
		{1, 0, 1},
		{1 << 40, 0, limits.DefaultCursorCap},
		{1000, 2000, 2000},
	} {
		name := fmt.Sprintf("log-%d-%d", test.quota, test.chosen)
		if _, _, err := v.CreateLog(t.Context(), name, LogOptions{QuotaBytes: test.quota}); err != nil {
			t.Fatal(err)
		}
		if got := mustCursor(t, v, name, CursorUpdate{Name: "c", Cap: test.chosen}); got.Cap != test.want {
			t.Errorf("quota %d, chosen %d: a cap of %d, want %d", test.quota, test.chosen, got.Cap, test.want)
		}
	}
}

// TestCursorHoldsAndIsEvicted has a log's owner checkpoint far beyond a reader's
// cursor. What the reader has not read is there up to its cap, however many
// segments that takes, and the states say how near that is. Beyond it the cursor
// is evicted: its reader, the event and the counter say so, the space comes back,
// and it stays lost, through crashes too, until its reader says that it knows.
func TestCursorHoldsAndIsEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		mem := disk.NewMem()
		o := testOptions(mem)
		o.Codec = "none"
		var mu sync.Mutex
		var told []CursorLostError
		o.Events.CursorEvicted = func(lost CursorLostError) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, lost)
		}
		open := func() *Volume {
			v, err := Open(ctx, "/vol", o)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		v := open()
		mustCreate(t, v, "log")
		mustAppend(t, v, "log", "1", "2")
		const most = 20
		rec := strings.Repeat("x", 9000)
		each := uint64(len(run(rec)))
		mustCursor(t, v, "log", CursorUpdate{Name: "held", LSN: 2, Policy: CursorHold, Cap: 1})
		mustCursor(t, v, "log", CursorUpdate{Name: "tail", LSN: 2, Cap: most * each})
		reader, err := v.NewReader("log", ReadOptions{Cursor: "tail", Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		append1 := func() {
			got := mustAppend(t, v, "log", rec)
			mustCheckpoint(t, v, "log", "cp", got.First, "")
			time.Sleep(2 * limits.OpenSegmentIdle)
			synctest.Wait()
		}
		for n := uint64(1); n <= most; n++ {
			append1()
			want := CursorReserved
			switch {
			case 10*n > 9*most:
				want = CursorAtRisk
			case 2*n > most:
				want = CursorExtended
			}
			c, err := v.Cursor("log", "tail")
			if err != nil || c.State != want || c.LiveBytes != n*each || c.Records != n || c.Lag != time.Duration(n)*2*limits.OpenSegmentIdle {
				t.Fatalf("%d behind: %+v, %v; want it %s", n, c, err, want)
			}
		}
		segments := len(v.journal.Segments())
		if v.journal.Segments()[0] != 1 || segments < 3 {
			t.Fatalf("segments %s: nothing had to be held", v.journal.Segments())
		}
		holders, last, more := v.Holders("", "", 10)
		cp := Holder{Kind: HolderCheckpoint, Log: "log", Name: "cp", LSN: most + 3}
		held := Holder{Kind: HolderCursor, Log: "log", Name: "held", LSN: 3, Low: true, Cur: CursorAtRisk, Bytes: most * each, Segment: 1, Segments: segments}
		tail := held
		tail.Name = "tail"
		if !slices.Equal(holders, []Holder{cp, held, tail}) || last != "log" || more {
			t.Fatalf("who holds: %+v, %q, %t", holders, last, more)
		}
		if err := v.DeleteCursor(ctx, "log", "held", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Truncate(ctx, "log", 4); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), `cursor "tail"`) {
			t.Fatalf("truncate what a cursor holds: %v", err)
		}
		equal(t, readAll(t, v, "log", 3), strings.Split(strings.Repeat(rec+" ", most-1)+rec, " "))
		if len(told) != 0 {
			t.Fatalf("evicted below its cap: %+v", told)
		}

		append1()
		lost := func(err error) {
			t.Helper()
			var e *CursorLostError
			if !errors.As(err, &e) || e.Cursor != "tail" || e.LSN != 2 || e.Cap != most*each || e.Evicted.IsZero() {
				t.Fatalf("a lost cursor: %v", err)
			}
		}
		if len(told) != 1 || v.Status().CursorsEvicted != 1 {
			t.Fatalf("told %+v, counted %d", told, v.Status().CursorsEvicted)
		}
		lost(&told[0])
		for v.journal.Segments()[0] == 1 {
			append1()
		}
		for range 2 {
			c, err := v.Cursor("log", "tail")
			if err != nil || c.State != CursorLost || c.LSN != 2 || c.LiveBytes != 0 || c.EvictedAt.IsZero() {
				t.Fatalf("%+v, %v", c, err)
			}
			_, err = v.NewReader("log", ReadOptions{Cursor: "tail"})
			lost(err)
			_, err = v.SetCursor(ctx, "log", CursorUpdate{Name: "tail", LSN: 20})
			lost(err)
			if info, ierr := v.Log("log"); ierr != nil || !strings.Contains(err.Error(), fmt.Sprintf("LSN 3 to %d are gone", info.First-1)) {
				t.Fatalf("what it lost is not told: %v", err)
			}
			if reader != nil { // one that was under way
				_, err := reader.Next(ctx)
				lost(err)
				reader.Close()
				reader = nil
			}
			crashed := mem.CrashClone(nil, 0)
			closeTest(t, v)
			mem, o.FS = crashed, crashed
			v = open()
		}
		info, err := v.Log("log")
		if err != nil {
			t.Fatal(err)
		}
		if c := mustCursor(t, v, "log", CursorUpdate{Name: "tail", LSN: info.First - 1, Reset: true}); c.State == CursorLost || c.Cap != most*each {
			t.Fatalf("its reader knows: %+v", c)
		}
		if _, err := v.NewReader("log", ReadOptions{Cursor: "tail"}); err != nil {
			t.Fatal(err)
		}
		closeTest(t, v)
	})
}

// TestEvictionIsDurableBeforeRelease cuts the power when the first segment is
// gone: the cursor that had held it is lost, whatever else the disk dropped.
func TestEvictionIsDurableBeforeRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		var cut *disk.Mem
		var armed atomic.Bool
		fs := disk.Record(mem, func(op disk.Op) { // one at a time
			if op.Done() && armed.Load() && cut == nil && op.Name == "0000000000000001.wal" && (op.Kind == disk.OpRename || op.Kind == disk.OpRemove) {
				cut = mem.CrashClone(nil, 0)
			}
		})
		v := openPlain(t, fs)
		mustCreate(t, v, "log")
		mustCursor(t, v, "log", CursorUpdate{Name: "dead", Cap: 100 << 10})
		armed.Store(true)
		for range 60 {
			got := mustAppend(t, v, "log", strings.Repeat("x", 9000))
			mustCheckpoint(t, v, "log", "cp", got.First, "")
			time.Sleep(2 * limits.OpenSegmentIdle)
			synctest.Wait()
		}
		closeTest(t, v)
		if cut == nil {
			t.Fatal("no segment was released")
		}
		// As it lies there: a volume that is opened would evict the cursor by itself.
		state, _, err := recovered(cut)
		if err != nil {
			t.Fatal(err)
		}
		if c := state.named("log").cursors; len(c) != 1 || c[0].holds() {
			t.Fatalf("%+v; its segment is gone", c)
		}
	})
}

// TestReadFromCursor replays from behind a cursor.
func TestReadFromCursor(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2", "3")
	mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 1})
	r, err := v.NewReader("log", ReadOptions{Cursor: "c"})
	if err != nil {
		t.Fatal(err)
	}
	spans, err := drain(r)
	if err != nil || len(spans) != 1 || spans[0].First != 2 || spans[0].Count != 2 {
		t.Fatalf("%+v, %v", spans, err)
	}
	if _, err := v.NewReader("log", ReadOptions{Cursor: "none"}); !errors.Is(err, ErrCursorNotFound) {
		t.Fatalf("from a cursor that is not there: %v", err)
	}
	if r, err = v.NewReader("log", ReadOptions{Cursor: "c", From: 3}); err != nil {
		t.Fatal(err)
	}
	if spans, err := drain(r); err != nil || len(spans) != 1 || spans[0].First != 3 {
		t.Fatalf("ahead of the cursor: %+v, %v", spans, err)
	}
}

// TestCursorMovesBehindDamage: records that cannot be read do not keep a reader
// from moving on; what it holds is told as more rather than less.
func TestCursorMovesBehindDamage(t *testing.T) {
	mem := disk.NewMem()
	v := openPlain(t, mem)
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	rec := strings.Repeat("x", 5000)
	mustAppend(t, v, "log", rec, rec)
	mustAppend(t, v, "log", rec, rec, rec)
	mustAppend(t, v, "log", rec)
	pos, err := v.index.locate(1, 3, 0) // which reads nothing: what was read is remembered
	if err != nil {
		t.Fatal(err)
	}
	corrupt(t, mem, pos, limits.FrameHeaderSize+9000)
	each := uint64(len(run(rec)))
	if c := mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 4}); c.LSN != 4 || c.Records != 2 || c.LiveBytes != 4*each {
		t.Fatalf("within a batch that does not verify: %+v", c)
	}
	if c := mustCursor(t, v, "log", CursorUpdate{Name: "c", LSN: 5}); c.LSN != 5 || c.LiveBytes != each {
		t.Fatalf("behind it: %+v", c)
	}
}

// TestHolders: everything that holds is listed, with what it holds, a page at a time.
func TestHolders(t *testing.T) {
	v := openPlain(t, disk.NewMem())
	defer closeTest(t, v)
	for _, name := range []string{"a", "b", "c", "d"} {
		mustCreate(t, v, name)
	}
	rec := strings.Repeat("x", 9000)
	each := uint64(len(run(rec)))
	for range 3 {
		mustAppend(t, v, "a", rec, rec)
		mustAppend(t, v, "b", rec, rec)
		mustAppend(t, v, "d", rec)
	}
	mustCheckpoint(t, v, "b", "early", 3, "")
	mustCheckpoint(t, v, "b", "late", 6, "")
	mustCursor(t, v, "b", CursorUpdate{Name: "reader", LSN: 5})
	v.snapshots.stop() // one that is still due would begin a segment meanwhile
	segments := v.journal.Segments()
	from := func(log string, lsn LSN) (uint64, int) {
		at := frameOf(t, v, log, lsn).Pos.Segment
		i := slices.Index(segments, at)
		return uint64(at), len(segments) - i
	}
	want := []Holder{
		{Kind: HolderLog, Log: "a", LSN: 1, Low: true, Bytes: 6 * each},
		{Kind: HolderCheckpoint, Log: "b", Name: "early", LSN: 4, Low: true, Bytes: 3 * each},
		{Kind: HolderCheckpoint, Log: "b", Name: "late", LSN: 7},
		{Kind: HolderCursor, Log: "b", Name: "reader", LSN: 6, Cur: CursorReserved, Bytes: each},
		{Kind: HolderLog, Log: "c", LSN: 1, Low: true},
		{Kind: HolderLog, Log: "d", LSN: 1, Low: true, Bytes: 3 * each},
	}
	for i := range want {
		if h := &want[i]; h.Bytes > 0 {
			h.Segment, h.Segments = from(h.Log, h.LSN)
		}
	}
	if len(segments) < 2 || want[0].Segments == want[3].Segments {
		t.Fatalf("segments %s: all hold the same", segments)
	}
	var got []Holder
	after, more := "", true
	for pages := 0; more; pages++ {
		var some []Holder
		some, after, more = v.Holders("", after, 2)
		got = append(got, some...)
		if pages > 2 {
			t.Fatal("there is no end")
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	if some, last, more := v.Holders("b", "", 2); !slices.Equal(some, want[1:4]) || last != "b" || more {
		t.Errorf("of b: %+v, %q, %t", some, last, more)
	}
	volume, err := v.VolumeHolders()
	if err != nil || len(volume) != 1 || volume[0].Kind != HolderSnapshot || volume[0].Segments == 0 {
		t.Errorf("of the volume: %+v, %v", volume, err)
	}
}
