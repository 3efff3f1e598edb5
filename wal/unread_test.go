package wal

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// TestUnreadSegmentStopsNothing fails every read of one segment from some time on, or those
// of its blocks: what it has is kept, and what lies behind it and nobody keeps is released
// all the same.
func TestUnreadSegmentStopsNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		put  func(t *testing.T, v *Volume) // into the segment
		want func(t *testing.T, v *Volume) // when it is read again
	}{
		{"more than may be moved", func(t *testing.T, v *Volume) {
			mustAppend(t, v, "idle", slices.Repeat([]string{strings.Repeat("y", 3000)}, 6)...)
		}, func(t *testing.T, v *Volume) {
			if got := readAll(t, v, "idle", 1); len(got) != 6 {
				t.Errorf("%d records", len(got))
			}
		}},
		{"what would be moved", func(t *testing.T, v *Volume) { mustAppend(t, v, "idle", "1", "2") },
			func(t *testing.T, v *Volume) { equal(t, readAll(t, v, "idle", 1), []string{"1", "2"}) }},
		{"one block of two logs", func(t *testing.T, v *Volume) {
			b := Batch{Run: run(strings.Repeat("1", 2500)), Parts: []Part{{Log: "other", Run: run(strings.Repeat("2", 2500))}}}
			if _, err := v.Append(context.Background(), "idle", ulid.ULID{}, 0, b); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, v *Volume) {
			equal(t, readAll(t, v, "idle", 1), []string{strings.Repeat("1", 2500)})
			equal(t, readAll(t, v, "other", 1), []string{strings.Repeat("2", 2500)})
		}},
		{"a state", func(t *testing.T, v *Volume) {
			mustAppend(t, v, "idle", "1")
			mustCheckpoint(t, v, "idle", "cp", 1, "its state")
		}, func(t *testing.T, v *Volume) { wantState(t, v, "idle", "cp", 1, "its state") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, restart := range []bool{false, true} {
				for _, least := range []int64{0, limits.BlockSize + 1} {
					synctest.Test(t, func(t *testing.T) { unreadSegment(t, tc.put, tc.want, restart, least) })
				}
			}
		})
	}
}

// unreadSegment fails reads of at least so many bytes.
func unreadSegment(t *testing.T, put, want func(t *testing.T, v *Volume), restart bool, least int64) {
	fs := disk.NewFaulty(disk.NewMem())
	open := func() *Volume {
		o := testOptions(fs)
		o.Codec = "none"
		v, err := Open(context.Background(), "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := open()
	defer func() { closeTest(t, v) }()
	busy := func(segments int) {
		for until := v.filling() + segment.ID(segments); v.filling() < until; {
			got := mustAppend(t, v, "busy", strings.Repeat("x", 9000))
			mustCheckpoint(t, v, "busy", "cp", got.First, "")
			time.Sleep(2 * limits.OpenSegmentIdle) // of the bubble's clock
			synctest.Wait()
		}
	}
	for _, log := range []string{"busy", "idle", "other"} {
		if _, _, err := v.CreateLog(context.Background(), log, LogOptions{ColocationKey: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	busy(1)
	put(t, v)
	in := v.filling()
	is := fileOf(in)[len("/vol/"):]
	if restart { // so that it has no seal
		closeTest(t, v)
		v = open()
	}
	mustAppend(t, v, "busy", strings.Repeat("x", 9000))
	fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpRead}, Sticky: true, Only: func(op disk.Op) bool {
		return op.Name == is && op.Len >= least
	}})
	busy(20)
	if fs.Fired() == 0 {
		t.Error("nobody read it")
	}
	if ids := v.journal.Segments(); least == 0 && !slices.Contains(ids, in) || len(ids) > 10 {
		t.Errorf("with a restart: %v, reads of %d bytes: segments %v", restart, least, ids)
	}
	fs.Clear()
	want(t, v)
	busy(4)
	want(t, v)
	if ids := v.journal.Segments(); len(ids) > 10 {
		t.Errorf("later on: segments %v", ids)
	}
}
