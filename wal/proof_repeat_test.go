package wal

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestRepeatComesFirst fills a log to its quota and sends the last batch again,
// with a condition that holds no more: what is committed is answered with what
// the first append got, whatever else would refuse it by now.
func TestRepeatComesFirst(t *testing.T) {
	ctx := context.Background()
	v := openTest(t, disk.NewMem())
	batch := Batch{Sequence: 1, Expected: 1, Run: run("12345678", "12345678")}
	if _, _, err := v.CreateLog(ctx, "log", LogOptions{QuotaBytes: uint64(len(batch.Run))}); err != nil {
		t.Fatal(err)
	}
	producer := ulid.ULID{15: 7}
	if _, err := v.OpenProducer(ctx, "log", producer); err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{false, true, true} {
		got, err := v.Append(ctx, "log", producer, 0, batch)
		if err != nil || got.First != 1 || got.Count != 2 || got.Repeated != again {
			t.Fatalf("%+v, %v; want LSN 1, repeated %t", got, err, again)
		}
	}
	closeTest(t, v)
}

// TestUnknownOutcomeUsesItsSequence fails the sync of a batch: nobody can say
// whether it is in the log. It is, if the page cache outlives the process, and it
// is not if the power goes, too. Its producer learns which by sending the same
// records under the same sequence, without a duplicate in either case. Other
// records under it are refused where it is there: nobody may take one batch's
// acknowledgement for another's.
func TestUnknownOutcomeUsesItsSequence(t *testing.T) {
	ctx := context.Background()
	producer := producerID(7)
	mem := disk.NewMem()
	fs := disk.NewFaulty(mem)
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	if _, err := v.OpenProducer(ctx, "log", producer); err != nil {
		t.Fatal(err)
	}
	filling := v.filling().String() + ".wal"
	fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && op.Name == filling {
			return syscall.EIO
		}
		return nil
	})
	batch, other := Batch{Sequence: 1, Run: run("1", "2")}, Batch{Sequence: 1, Run: run("1", "3")}
	if _, err := v.Append(ctx, "log", producer, 0, batch); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("append with a sync that fails: %v", err)
	}
	if err := v.Close(); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("close: %v", err)
	}
	for _, restart := range []struct {
		of   string
		disk *disk.Mem
		kept bool
	}{{"the machine", mem.CrashClone(nil, 0), false}, {"the process", mem, true}} {
		t.Run(restart.of, func(t *testing.T) {
			v := openTest(t, restart.disk)
			defer closeTest(t, v)
			if restart.kept {
				if got, err := v.Append(ctx, "log", producer, 0, other); !errors.Is(err, ErrSequenceReuse) {
					t.Errorf("other records under its sequence: %+v, %v", got, err)
				}
			}
			for _, again := range []bool{restart.kept, true} {
				got, err := v.Append(ctx, "log", producer, 0, batch)
				if err != nil || got.First != 1 || got.Count != 2 || got.Repeated != again {
					t.Errorf("%+v, %v; want LSN 1, repeated %t", got, err, again)
				}
			}
			equal(t, readAll(t, v, "log", 0), []string{"1", "2"})
		})
	}
}
