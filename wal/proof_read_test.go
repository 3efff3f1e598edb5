package wal

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestReadFailureIsNoLoss fails every read: nothing is called lost, nothing is
// skipped, and once the disk reads again everything is there.
func TestReadFailureIsNoLoss(t *testing.T) {
	ctx := t.Context()
	fs := disk.NewFaulty(disk.NewMem())
	v := openTest(t, fs)
	info := mustCreate(t, v, "log")
	first := mustAppend(t, v, "log", "1", "2")
	mustAppend(t, v, "log", "3")
	mustCheckpoint(t, v, "log", "cp", 0, "state")
	within := Claim{Log: info.ID, Epoch: first.Epoch, LSN: 1, Checksum: Checksum(crc32.Checksum(run("1"), castagnoli))}
	r, err := v.NewReader("log", ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	asked := map[string]func() error{
		"replay":     func() error { _, err := r.Next(ctx); return err },
		"checkpoint": func() error { _, err := v.Checkpoint(ctx, "log", "cp"); return err },
		"claim":      func() error { return v.CheckClaim("log", within) },
	}
	fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpRead}, Sticky: true})
	for name, ask := range asked {
		if err := ask(); !errors.Is(err, ErrReadFailed) || errors.Is(err, ErrDataLoss) {
			t.Errorf("%s on a disk that does not read: %v", name, err)
		}
	}
	if state, _ := v.State(); state != Serving {
		t.Errorf("state %d: reading poisons nothing", state)
	}
	fs.Clear()
	got, err := follow(ctx, r, 3)
	if err != nil || strings.Join(got, " ") != "1 2 3" {
		t.Errorf("the reader goes on with %q, %v", got, err)
	}
	delete(asked, "replay")
	for name, ask := range asked {
		if err := ask(); err != nil {
			t.Errorf("%s when the disk reads again: %v", name, err)
		}
	}
	closeTest(t, v)
}

// TestReadFailureReleasesNothing fails the reads of a segment without a seal one
// by one while the janitor finds out what is in it. An index that passed over
// what could not be read would miss the idle log's only record, and let the
// segment go.
func TestReadFailureReleasesNothing(t *testing.T) {
	ctx := t.Context()
	wide := strings.Repeat("x", 70_000) // more than a read at a frame's beginning fetches
	options := func(fs disk.FS) Options {
		return Options{FS: fs, Create: true, SegmentSize: 1 << 20, PrepareRate: -1, SnapshotEvery: 256 << 10, Codec: "none"}
	}
	mem := disk.NewMem()
	v, err := Open(ctx, "/vol", options(mem))
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "busy")
	mustCreate(t, v, "idle")
	only := strings.Repeat("y", 300_000) // more than is worth moving out of a segment
	mustAppend(t, v, "busy", wide)
	mustAppend(t, v, "idle", only)
	mustAppend(t, v, "busy", wide)
	unsealed := frameOf(t, v, "idle", 1).Pos.Segment
	cut := mem.CrashClone(nil, 1)
	closeTest(t, v)

	// The janitor has a turn when the volume is opened, and may have read the segment
	// before the fault is there, or have no other turn before the volume is closed. So
	// that there is no read to fail is believed when it was seen some times in a row.
	n, quiet := 0, 0
	for ; quiet < 10; n++ {
		left := cut.CrashClone(nil, 1)
		fs := disk.NewFaulty(left)
		if v, err = Open(ctx, "/vol", options(fs)); err != nil {
			t.Fatal(err)
		}
		// Two in a row: what fails to be read ahead is asked for once more by itself.
		var reads atomic.Int64
		fs.Inject(disk.Fault{Sticky: true, Only: func(op disk.Op) bool {
			if op.Name != unsealed.String()+".wal" || op.Kind != disk.OpRead {
				return false
			}
			at := int(reads.Add(1)) - 1
			return at == n || at == n+1
		}})
		for range 60 {
			got, err := v.Append(ctx, "busy", ulid.ULID{}, 0, Batch{Run: run(wide)})
			if err != nil {
				t.Fatal(err)
			}
			mustCheckpoint(t, v, "busy", "cp", got.First, "")
		}
		closeTest(t, v)
		if quiet++; fs.Fired() > 0 {
			quiet = 0
		}
		fs.Clear()
		if v, err = Open(ctx, "/vol", options(fs)); err != nil {
			t.Fatal(err)
		}
		r, err := v.NewReader("idle", ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		span, err := r.Next(context.Background())
		if err != nil || !bytes.Equal(span.Run, run(only)) {
			t.Errorf("read %d of the segment failed, and the idle log has %.20q, %v", n, span.Run, err)
		}
		_ = r.Close() // it never fails
		closeTest(t, v)
		if quiet > 0 {
			n-- // once more
		}
	}
	if n == 0 {
		t.Fatal("the janitor did not look at the segment")
	}
}
