package wal

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/walsvc/walsvc/internal/records"
)

var benchJournal = flag.Int64("bench.journal", 1024, "MiB of the larger journal that BenchmarkOpen opens")

// BenchmarkOpen opens volumes of two sizes, with few logs and with many, from a
// cold page cache where the process may drop it (root on Linux). Opening reads
// a snapshot and what follows it, so the size of the journal must not show.
func BenchmarkOpen(b *testing.B) {
	for _, logs := range []int{10, 10_000} {
		for _, size := range []int64{100, *benchJournal} {
			b.Run(fmt.Sprintf("logs=%d/journal=%dMiB", logs, size), func(b *testing.B) {
				dir := b.TempDir()
				fillJournal(b, dir, size<<20, logs)
				for b.Loop() {
					b.StopTimer()
					dropCaches(b)
					b.StartTimer()
					v, err := Open(context.Background(), dir, Options{})
					if err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if got := v.Status().Logs; got != logs {
						b.Fatalf("%d logs, want %d", got, logs)
					}
					if err := v.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}

// fillJournal appends to many logs until the journal is size bytes long.
func fillJournal(b *testing.B, dir string, size int64, logs int) {
	b.Helper()
	v, err := Open(context.Background(), dir, Options{Create: true, Codec: "none", PrepareRate: -1})
	if err != nil {
		b.Fatal(err)
	}
	ready := make(chan struct{}, 1)
	a := v.NewAppender(func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	var batches []Batch
	var run []byte
	for _, rec := range benchRecords(b, 400, 16) {
		run = records.Append(run, rec)
	}
	for i := range logs {
		name := fmt.Sprintf("log-%05d", i)
		mustCreate(b, v, name)
		binding, _, _, err := a.Bind(name, Producer{}, 0, Claim{})
		if err != nil {
			b.Fatal(err)
		}
		batches = append(batches, Batch{Binding: binding, Run: run})
	}
	var verdicts []Verdict
	for written := int64(0); written < size; {
		n := min(len(batches), 500)
		at := int(written/int64(len(run))) % (len(batches) - n + 1)
		if err := a.Append(context.Background(), batches[at:at+n]); err != nil {
			b.Fatal(err)
		}
		for out := n; out > 0; out -= len(verdicts) {
			if verdicts = a.Take(verdicts[:0]); len(verdicts) == 0 {
				<-ready
			}
		}
		written += int64(n * len(run))
	}
	if err := v.Close(); err != nil {
		b.Fatal(err)
	}
}

// dropCaches empties the page cache, if it may.
func dropCaches(b *testing.B) {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		b.Logf("warm page cache: %v", err)
	}
}
