package wal

import (
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestFrameInfo: every durable frame that went through the bus is told of once,
// in order, with what it carried, those that carry nothing of anybody's included.
func TestFrameInfo(t *testing.T) {
	var frames []FrameInfo
	o := testOptions(disk.NewMem())
	o.Events.Frame = func(f FrameInfo) { frames = append(frames, f) }
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "l")
	text := strings.Repeat("walsvc ", 1000)
	for range 20 {
		mustAppend(t, v, "l", text, "b", "c")
	}
	closeTest(t, v)

	if len(frames) == 0 {
		t.Fatal("told of no frame")
	}
	appends := 0
	for i, f := range frames {
		if i > 0 && f.Sequence <= frames[i-1].Sequence {
			t.Errorf("frame %d told of after %d", f.Sequence, frames[i-1].Sequence)
		}
		if f.Records == 0 {
			continue
		}
		appends++
		if f.Records != 3 || f.Commands != 1 || f.Blocks != 1 || f.RawSize <= len(text) || f.StoredSize <= 0 || f.StoredSize > f.RawSize {
			t.Errorf("%+v", f)
		}
		if f.Queue < 0 || f.Compress < 0 || f.Write < 0 || f.Sync < 0 || f.Ack < 0 {
			t.Errorf("times: %+v", f)
		}
	}
	if last := frames[len(frames)-1]; appends != 20 || last.Sequence != v.Status().DurableFrame || last.Commands != 0 {
		t.Errorf("%d appends; the last told of is %+v, durable %d", appends, last, v.Status().DurableFrame)
	}
}
