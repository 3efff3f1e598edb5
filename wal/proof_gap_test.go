package wal

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/segment"
)

// TestTruncatedBehindARewind releases, together, a segment with records that a rewind has
// discarded and one with those that took their place: the log begins behind both.
func TestTruncatedBehindARewind(t *testing.T) {
	var v *Volume
	var gone atomic.Uint64        // segment
	released := make(chan LSN, 1) // the log's first record when that was
	o := testOptions(disk.NewMem())
	o.Events.Released = func(int) {
		// Looked at here: what comes next, moving what is left, truncates the log, too.
		below := gone.Load()
		if below == 0 {
			return
		}
		if info, err := v.Log("log"); err == nil && v.journal.Segments()[0] > segment.ID(below) {
			select {
			case released <- info.First:
			default:
			}
		}
	}
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { closeTest(t, v) }()
	for _, log := range []string{"log", "other"} {
		mustCreate(t, v, log)
		mustCheckpoint(t, v, log, "cp", 0, "")
	}
	fill := func(log string, segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			mustAppend(t, v, log, strings.Repeat("x", 9000))
		}
	}
	mustAppend(t, v, "log", append([]string{"1", "2", "3"}, slices.Repeat([]string{"discarded"}, 50)...)...)
	fill("other", 2)
	mustRewind(t, v, "log", Rewind{After: 3})
	mustAppend(t, v, "log", "4", "5", "6")
	last := v.filling()
	fill("other", 2)
	mustAppend(t, v, "log", "7", "8")
	end := func(log string) LSN {
		info, err := v.Log(log)
		if err != nil {
			t.Fatal(err)
		}
		return info.Durable()
	}
	pollUntil(t, "the janitor looks at all of that together", func() bool {
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
		fill("other", 1)
		mustCheckpoint(t, v, "other", "cp", end("other"), "")
		return !slices.Contains(v.journal.Segments(), last+1) // which nothing else keeps
	})
	gone.Store(uint64(last)) // before the next command, which the janitor hears of
	mustCheckpoint(t, v, "log", "cp", 6, "")
	var first LSN
	pollUntil(t, "what is given up goes", func() bool {
		fill("other", 1)
		select {
		case first = <-released:
		default:
		}
		return first > 0
	})
	if first != 7 {
		t.Errorf("the log began with LSN %d, those up to 6 were gone", first)
	}
	equal(t, readAll(t, v, "log", 7), []string{"7", "8"})
}

// holed damages the frame at a place and the seal of its segment, which opening needs no
// more, and opens the volume again.
func holed(t *testing.T, mem *disk.Mem, v *Volume, at segment.Pos, fill func(segments int)) *Volume {
	t.Helper()
	for range 2 {
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	fill(1)
	h, err := v.journal.Header(at.Segment + 1)
	if err != nil {
		t.Fatal(err)
	}
	seal := h.Cut.Last
	closeTest(t, v)
	corrupt(t, mem, at, 20)
	corrupt(t, mem, seal, 20)
	return openPlain(t, mem)
}

// TestHoledSegmentStays damages a frame of a segment, and its seal: what the frame had
// nobody knows, and the segment stays when those behind it go, however little the rest
// of it is needed.
func TestHoledSegmentStays(t *testing.T) {
	mem := disk.NewMem()
	v := openPlain(t, mem)
	mustCreate(t, v, "kept")
	mustCreate(t, v, "other")
	fill := func(segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			mustAppend(t, v, "other", strings.Repeat("x", 9000))
		}
	}
	mustAppend(t, v, "kept", "before", "discarded")
	mustRewind(t, v, "kept", Rewind{After: 1}) // so that it is not moved
	fill(2)
	mustAppend(t, v, "other", "x") // so that a frame lies before the one that is damaged
	at := frameOf(t, v, "kept", mustAppend(t, v, "kept", "lost").First).Pos
	fill(3)
	v = holed(t, mem, v, at, fill)
	defer func() { closeTest(t, v) }()
	ids := v.journal.Segments()
	if !slices.Contains(ids, at.Segment) || !slices.Contains(ids, at.Segment+1) {
		t.Fatalf("segments %v, damaged %s", ids, at)
	}
	pollUntil(t, "the segment behind the damaged one goes", func() bool {
		fill(1)
		info, err := v.Log("other")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Truncate(context.Background(), "other", info.Next); err != nil {
			t.Fatal(err)
		}
		return !slices.Contains(v.journal.Segments(), at.Segment+1)
	})
	if ids := v.journal.Segments(); !slices.Contains(ids, at.Segment) {
		t.Errorf("segments %v: the damaged one, %s, is gone", ids, at)
	}
}

// TestDiscardedGoesFromTheMiddle: of a log that keeps what lies before, what a rewind
// discarded holds no segment.
func TestDiscardedGoesFromTheMiddle(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer func() { closeTest(t, v) }()
	fill := func(log string, segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			mustAppend(t, v, log, strings.Repeat("x", 9000))
		}
	}
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	mustAppend(t, v, "log", "1", "2")
	kept := v.filling()
	fill("log", 5)
	mustRewind(t, v, "log", Rewind{After: 2})
	last := v.filling() - 1
	pollUntil(t, "the segments of what was discarded go", func() bool {
		fill("other", 1) // what may go is known where a segment begins
		info, err := v.Log("other")
		if err != nil {
			t.Fatal(err)
		}
		mustCheckpoint(t, v, "other", "cp", info.Durable(), "")
		gaps := v.journal.Gaps()
		return len(gaps) > 0 && gaps[0].From == kept+1 && gaps[0].To >= last
	})
	if ids := v.journal.Segments(); ids[0] != kept {
		t.Errorf("segments %v", ids)
	}
	equal(t, readAll(t, v, "log", 1), []string{"1", "2"})
}

// TestHoledSegmentWaitsForAll damages a frame of the oldest segment, and its seal. It
// goes when no log keeps anything up to the end of a later segment, and not before, though
// what is known of it nobody keeps.
func TestHoledSegmentWaitsForAll(t *testing.T) {
	mem := disk.NewMem()
	v := openPlain(t, mem)
	mustCreate(t, v, "kept")
	mustCreate(t, v, "other")
	fill := func(segments int) {
		for want := v.filling() + segment.ID(segments); v.filling() < want; {
			mustAppend(t, v, "other", strings.Repeat("x", 9000))
		}
	}
	mustAppend(t, v, "other", "x") // so that a frame lies before the one that is damaged
	at := frameOf(t, v, "kept", mustAppend(t, v, "kept", "lost").First).Pos
	mustAppend(t, v, "kept", "discarded")
	mustRewind(t, v, "kept", Rewind{After: 1}) // so that it is not moved
	fill(4)
	v = holed(t, mem, v, at, fill)
	defer func() { closeTest(t, v) }()
	turn := func() {
		fill(1)
		info, err := v.Log("other")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Truncate(context.Background(), "other", info.Next); err != nil {
			t.Fatal(err)
		}
	}
	pollUntil(t, "the segment behind the damaged one goes", func() bool {
		turn()
		return !slices.Contains(v.journal.Segments(), at.Segment+1)
	})
	if ids := v.journal.Segments(); ids[0] != at.Segment {
		t.Fatalf("segments %v: the damaged one, %s, is gone", ids, at)
	}
	if _, err := v.Truncate(context.Background(), "kept", 2); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, "the damaged segment goes", func() bool {
		turn()
		return v.journal.Segments()[0] > at.Segment
	})
}

// TestSealOfWhatIsNotPublished: while a durable frame of the segment has not been
// published, the seal has no index. One that lacks a frame would have the segment released
// with what the frame has.
func TestSealOfWhatIsNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so that nothing lands meanwhile
		v := openTest(t, disk.NewMem())
		defer closeTest(t, v)
		mustCreate(t, v, "log")
		mustAppend(t, v, "log", "1")
		v.mu.Lock()
		id := v.last.Pos.Segment
		v.mu.Unlock()
		if meta := v.sealMeta(id, 1<<20); meta == nil {
			t.Error("no index of a segment whose frames are all published")
		}
		v.mu.Lock()
		v.last.Sequence--
		v.mu.Unlock()
		if meta := v.sealMeta(id, 1<<20); meta != nil {
			t.Error("an index of a segment with a frame that is not published")
		}
		v.mu.Lock()
		v.last.Sequence++
		v.mu.Unlock()
	})
}
