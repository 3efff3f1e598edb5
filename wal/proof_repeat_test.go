package wal

import (
	"context"
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
