package segment

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestPoisonIsForGood fails one sync. The disk works again at once, and neither
// is that sync tried again nor is anything taken that comes afterwards: its
// success would vouch for what was lost.
func TestPoisonIsForGood(t *testing.T) {
	fs := disk.NewFaulty(disk.NewMem())
	j := newJournal(t, testOptions(fs))
	appendSync(t, j, testDraft(1, 100))
	if _, err := j.Append(testDraft(2, 100)); err != nil {
		t.Fatal(err)
	}
	filling := segmentName(j.tail.id)
	var failed atomic.Bool
	fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && op.Name == filling && failed.CompareAndSwap(false, true) {
			return syscall.EIO
		}
		return nil
	})
	if err := j.Sync(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("a sync that fails: %v", err)
	}
	durable := j.Durable()
	for range 2 {
		if _, err := j.Append(testDraft(3, 100)); !errors.Is(err, ErrPoisoned) {
			t.Errorf("append behind a sync that failed: %v", err)
		}
		if err := j.Sync(); !errors.Is(err, ErrPoisoned) {
			t.Errorf("a sync behind one that failed: %v", err)
		}
	}
	if got := j.Durable(); got != durable {
		t.Errorf("frames up to %d count as durable, %d were", got, durable)
	}
}
