package wal

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
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
