package wal

import (
	"fmt"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// The benchmarks below are of what is done under a lock, or in memory, for states
// of many sizes: what is done once for each log or producer must not depend on how
// many there are.

// BenchmarkFirstAppendBehindFreeze is what the first batch of a log costs behind
// each snapshot, under the volume's lock.
func BenchmarkFirstAppendBehindFreeze(b *testing.B) {
	for _, producers := range []int{1, 64, limits.MaxProducersPerLog} {
		b.Run(fmt.Sprintf("producers=%d/window=%d", producers, limits.ProducerWindow), func(b *testing.B) {
			s := crowdedState(b, 1, producers, limits.ProducerWindow)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.freeze()
				apply(b, s, appendTo(s, 1, uint64(i%producers)+1))
			}
		})
	}
}

// BenchmarkOpenProducers opens so many producers on a log, ns/op and B/op for all
// of them together.
func BenchmarkOpenProducers(b *testing.B) {
	for _, producers := range []int{64, limits.MaxProducersPerLog, 4 * limits.MaxProducersPerLog} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				crowdedState(b, 1, producers, 0)
			}
		})
	}
}

// BenchmarkSpellSnapshot spells the snapshot of a state, log by log, as it is
// written; bytes/producer are of the journal.
func BenchmarkSpellSnapshot(b *testing.B) {
	for _, c := range []struct{ logs, producers, window int }{{10_000, 0, 0}, {10_000, 10, 1}, {100, 1000, limits.ProducerWindow}} {
		b.Run(fmt.Sprintf("logs=%d/producers=%d/window=%d", c.logs, c.producers, c.window), func(b *testing.B) {
			s := crowdedState(b, c.logs, c.producers, c.window)
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				size = 0
				var buf []byte
				for _, l := range s.freeze() {
					buf = appendSnapshotLog(buf[:0], l, logPlaces{})
					size += len(buf)
				}
			}
			b.SetBytes(int64(size))
			b.ReportMetric(float64(size)/float64(c.logs*max(1, c.producers)), "bytes/producer")
		})
	}
}

// manyLogs opens a volume on a disk in memory, and makes logs without its help.
func manyLogs(b *testing.B, logs int) *Volume {
	b.Helper()
	v := openTest(b, disk.NewMem())
	b.Cleanup(func() { closeTest(b, v) })
	v.mu.Lock()
	defer v.mu.Unlock()
	for n := range uint64(logs) {
		c := Command{Kind: CommandCreateLog, Log: n + 1, Name: fmt.Sprintf("log-%07d", n), ID: scaleID(int(n))}
		v.name(&c)
		apply(b, v.durable, c)
	}
	return v
}

// BenchmarkCut takes the cut of a snapshot. Most of that is putting the logs in
// order, which is not under the volume's lock.
func BenchmarkCut(b *testing.B) {
	for _, logs := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("logs=%d", logs), func(b *testing.B) {
			v := manyLogs(b, logs)
			b.ReportAllocs()
			for b.Loop() {
				v.cut()
			}
		})
	}
}

// BenchmarkListPage is a page of 100 logs from the middle of all.
func BenchmarkListPage(b *testing.B) {
	for _, logs := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("logs=%d", logs), func(b *testing.B) {
			v := manyLogs(b, logs)
			b.ReportAllocs()
			for b.Loop() {
				if page, more := v.ListLogs("log-", fmt.Sprintf("log-%07d", logs/2), 100); len(page) != 100 || !more {
					b.Fatalf("%d logs, more: %t", len(page), more)
				}
			}
		})
	}
}

// BenchmarkSurvey is how long the janitor looks at all logs.
func BenchmarkSurvey(b *testing.B) {
	for _, logs := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("logs=%d", logs), func(b *testing.B) {
			v := manyLogs(b, logs)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.janitor.survey(1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
