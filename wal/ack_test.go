package wal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/segment"
)

// TestEveryAckHasItsSync proves on a recording disk that before every
// acknowledgement a sync had returned which began after the last write of the
// record's frame had returned. Killing the process would not show a missing
// sync: the page cache outlives it.
func TestEveryAckHasItsSync(t *testing.T) {
	var mu sync.Mutex
	var ops []disk.Op
	fs := disk.Record(disk.NewMem(), func(op disk.Op) {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, op)
	})
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", string(make([]byte, 20<<10))) // too much to be moved away from where it was written

	type ack struct {
		lsn   LSN
		after int // operations' events that had happened
	}
	var acks []ack
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			for i := range 50 {
				got, err := v.Append(context.Background(), "log", ulid.ULID{}, 0, Batch{Run: run(fmt.Sprint(n, i), string(make([]byte, 400*n)))})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				acks = append(acks, ack{got.First, len(ops)})
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	mu.Lock() // the promise that follows an idle moment is recorded, too
	recorded := slices.Clone(ops)
	mu.Unlock()

	l := v.durable.named("log")
	h := l.history()
	for _, a := range acks {
		var b batchFrame
		if err := v.seek(&b, "log", l.number, a.lsn, &h); err != nil {
			t.Fatal(err)
		}
		if err := syncedBefore(recorded[:a.after], b.frame); err != nil {
			t.Errorf("LSN %d was acknowledged and %v", a.lsn, err)
		}
	}
	if rolls := v.Status().Rolls; rolls == 0 {
		t.Error("no segment rolled")
	}
	closeTest(t, v)
}

// syncedBefore finds in ops the write of a frame and a sync that covers it.
func syncedBefore(ops []disk.Op, f *segment.Frame) error {
	name := f.Pos.Segment.String() + ".wal"
	var written *disk.Op
	for i := range ops {
		op := &ops[i]
		overlaps := op.Offset < f.Pos.Offset+f.Header.Size() && f.Pos.Offset < op.Offset+op.Len
		switch {
		case !op.Done() || op.Name != name:
		case op.Kind == disk.OpWrite && overlaps:
			written = op
		case op.Kind == disk.OpSync && op.Err == nil && written != nil && written.Before(*op):
			return nil
		}
	}
	if written == nil {
		return fmt.Errorf("its frame at %s was not written", f.Pos)
	}
	return fmt.Errorf("its frame at %s was written at event %d and not synced", f.Pos, written.Event)
}
