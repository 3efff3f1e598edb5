package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// TestSnapshotRecordedWhenWhole writes snapshots that are larger than a segment,
// so that segments begin between their parts, and cuts the power behind each:
// no header sends an opening to a snapshot that is not whole.
func TestSnapshotRecordedWhenWhole(t *testing.T) {
	mem := disk.NewMem()
	var mu sync.Mutex
	var cuts []*disk.Mem
	fs := disk.Record(mem, func(op disk.Op) {
		if op.Kind != disk.OpSyncDir || !op.Done() {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		cuts = append(cuts, mem.CrashClone(nil, 0))
	})
	v := openTest(t, fs)
	labels := map[string]string{"label": strings.Repeat("x", 60)}
	n := 0
	pollUntil(t, "a snapshot is larger than a segment", func() bool {
		n++
		name := fmt.Sprintf("%s%d", strings.Repeat("n", 100), n)
		if _, _, err := v.CreateLog(context.Background(), name, LogOptions{Labels: labels}); err != nil {
			t.Fatal(err)
		}
		v.mu.RLock()
		defer v.mu.RUnlock()
		return v.snapshots.size > v.journal.SegmentSize()
	})
	closeTest(t, v)
	for i, cut := range cuts {
		v, err := Open(context.Background(), "/vol", testOptions(cut))
		if err != nil {
			t.Fatalf("power cut %d: %v", i, err)
		}
		if r := v.Recovery(); r.Verdict == "damaged" {
			t.Errorf("power cut %d is called damage: %s: %+v", i, r.Detail, r.Damage)
		}
		closeTest(t, v)
	}
}

// TestSnapshotThatCannotBeRead: the disk fails for good where the newest snapshot
// lies. Opening uses the older one and says so, and does not count on the bad one
// again; where the journal behind it cannot be read either, opening fails.
func TestSnapshotThatCannotBeRead(t *testing.T) {
	fs := disk.NewFaulty(disk.NewMem())
	o := testOptions(fs)
	o.SegmentSize, o.SnapshotEvery, o.Codec = 1<<20, 1<<30, "none"
	open := func() (*Volume, error) { return Open(t.Context(), "/vol", o) }
	v, err := open()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"label": strings.Repeat("x", 60)}
	for n := range 100 { // a snapshot is larger than a disk block
		if _, _, err := v.CreateLog(t.Context(), fmt.Sprint("log-", n), LogOptions{Labels: labels}); err != nil {
			t.Fatal(err)
		}
	}
	var at []segment.Pos // of the snapshots
	for range 2 {
		mustAppend(t, v, "log-1", "a record")
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
		part := v.snapshots.newest.Pos
		part.Offset += limits.BlockSize // so that the frame's header can be read
		at = append(at, part)
	}
	mustAppend(t, v, "log-1", "a record")
	closeTest(t, v)
	v, err = open() // begins a segment, whose header knows both
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, v, "log-1", "a record")
	closeTest(t, v)

	unread := func(at ...segment.Pos) {
		fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpRead}, Sticky: true, Only: func(op disk.Op) bool {
			return slices.ContainsFunc(at, func(at segment.Pos) bool {
				bad := at.Offset + 100
				return op.Name == nameOfSegment(at.Segment) && op.Offset <= bad && bad < op.Offset+op.Len
			})
		}})
	}
	unread(append(at, segment.Pos{Segment: 1, Offset: limits.SegmentHeaderSize})...)
	if _, err := open(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("with nowhere to begin: %v", err)
	}
	unread(at[1])
	for life := range 2 {
		if v, err = open(); err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		r := v.Recovery()
		told := slices.ContainsFunc(r.Damage, func(d Damage) bool {
			return d.Case == string(replay.CaseDamagedSnapshot) && d.Offset == at[1].Offset-limits.BlockSize && strings.Contains(d.Detail, "cannot be read")
		})
		if told != (life == 0) || fs.Fired() == 0 {
			t.Errorf("life %d: %+v", life, r)
		}
		if s := v.Status(); s.State != Serving {
			t.Errorf("life %d: %+v", life, s)
		}
		if got := readAll(t, v, "log-1", 1); len(got) != 4+life {
			t.Errorf("life %d: %d records", life, len(got))
		}
		v.mu.RLock()
		newest, older := v.snapshots.newest, v.snapshots.older
		v.mu.RUnlock()
		if bad := at[1].Offset - limits.BlockSize; newest.Pos.Offset == bad || older.Pos.Offset == bad {
			t.Errorf("life %d: it counts on the bad snapshot", life)
		}
		mustAppend(t, v, "log-1", "a record")
		closeTest(t, v)
		verified, err := verifyOn(t.Context(), fs, "/vol", nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(verified.Damage, func(d Damage) bool {
			return d.Case == string(replay.CaseDamagedSnapshot) && strings.Contains(d.Detail, "cannot be read") && len(d.Logs) == 0
		}) {
			t.Errorf("life %d: verify: %+v", life, verified.Recovery)
		}
	}
}
