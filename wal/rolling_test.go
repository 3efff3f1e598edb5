package wal

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/segment"
)

// TestAskedFromATimeWhileRolling asks for a time whenever a segment is about to be sealed
// whose successor is there already: that its seal is not is no damage, and nobody remembers
// it as such. It goes when it is given up, beside a log that keeps the oldest one.
func TestAskedFromATimeWhileRolling(t *testing.T) {
	fs := disk.NewFaulty(disk.NewMem())
	v := openPlain(t, fs)
	defer closeTest(t, v)
	for _, log := range []string{"idle", "busy"} {
		mustCreate(t, v, log)
	}
	mustAppend(t, v, "idle", slices.Repeat([]string{strings.Repeat("y", 3000)}, 6)...)
	asked := 0
	fs.Before(func(op disk.Op) error {
		ids := v.journal.Segments()
		if n := len(ids); op.Kind == disk.OpWrite && n > 1 && op.Name == nameOf(ids[n-2]) {
			asked++
			if _, err := v.At("idle", time.Now().Add(time.Hour)); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	busy := func(segments int) {
		for until := v.filling() + segment.ID(segments); v.filling() < until; {
			got := mustAppend(t, v, "busy", strings.Repeat("x", 9000))
			mustCheckpoint(t, v, "busy", "cp", got.First, "")
		}
	}
	busy(20)
	if asked == 0 {
		t.Error("no segment was sealed")
	}
	pollUntil(t, "what nobody keeps goes", func() bool {
		busy(1)
		return len(v.journal.Segments()) <= 8
	})
}
