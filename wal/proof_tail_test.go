package wal

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// TestFoundIsMadeDurable leaves a frame in the page cache whose sync failed: it
// can be read, counts as clean, and is not on the disk. What an opening shows
// of it has to outlive a power cut right afterwards.
func TestFoundIsMadeDurable(t *testing.T) {
	mem := disk.NewMem()
	fs := disk.NewFaulty(mem)
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1")
	filling := v.filling().String() + ".wal"
	fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && op.Name == filling {
			return syscall.EIO
		}
		return nil
	})
	if _, err := v.Append(context.Background(), "log", ulid.ULID{}, 0, Batch{Run: run("2")}); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("append with a sync that fails: %v", err)
	}
	if err := v.Close(); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("close: %v", err)
	}

	v = openTest(t, mem)
	shown := readAll(t, v, "log", 0)
	if len(shown) != 2 {
		t.Fatalf("the page cache held %q: there is nothing to lose", shown)
	}
	cut := mem.CrashClone(nil, 0)
	closeTest(t, v)

	v = openTest(t, cut)
	if r := v.Recovery(); r.Verdict == "damaged" {
		t.Errorf("a failed sync and a power cut are called damage: %+v", r)
	}
	equal(t, readAll(t, v, "log", 0), shown)
	closeTest(t, v)
}

// TestLastAckIsPromised damages the very last acknowledged frame, after a while
// without appends and after a shutdown. It carries a promise by then, so the
// damage is seen for what it is, not cut off as torn.
func TestLastAckIsPromised(t *testing.T) {
	for _, tc := range []struct {
		name string
		rest func(t *testing.T, v *Volume, mem *disk.Mem) *disk.Mem
	}{
		{"idle", func(t *testing.T, v *Volume, mem *disk.Mem) *disk.Mem {
			time.Sleep(2 * limits.IdlePromiseDelay)
			synctest.Wait()
			cut := mem.CrashClone(nil, 0)
			closeTest(t, v)
			return cut
		}},
		{"shutdown", func(t *testing.T, v *Volume, mem *disk.Mem) *disk.Mem {
			closeTest(t, v)
			return mem.CrashClone(nil, 0)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := disk.NewMem()
				v := openPlain(t, mem)
				mustCreate(t, v, "log")
				last := mustAppend(t, v, "log", "1", "2")
				at := frameOf(t, v, "log", last.First).Pos
				left := tc.rest(t, v, mem)
				corrupt(t, left, at, 20)
				v = openPlain(t, left)
				if r := v.Recovery(); r.Verdict != "damaged" || len(r.Damage) != 1 || r.Damage[0].Offset != at.Offset {
					t.Errorf("recovery finds %s (%s), want damage at %s: %+v", r.Verdict, r.Case, at, r.Damage)
				}
				closeTest(t, v)
			})
		})
	}
}
