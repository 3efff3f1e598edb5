package batcher_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/codec"
)

// passenger rides with everything it appends and is told nothing it keeps.
type passenger struct{ landed uint64 }

func (p *passenger) Landed(ticket uint64, _ error) { p.landed = ticket }

// BenchmarkAppend measures Board, one command and one record of 400 bytes, and
// Leave, over a disk that takes no time: what the bus itself costs.
func BenchmarkAppend(b *testing.B) {
	policies := []batcher.CodecPolicy{batcher.Auto, batcher.Fixed(codec.None), batcher.Fixed(codec.S2)}
	for _, callers := range []int{1, 64} {
		for _, policy := range policies {
			b.Run(fmt.Sprintf("callers=%d/size=400/codec=%s", callers, policy), func(b *testing.B) {
				benchmarkAppend(b, callers, policy)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, callers int, policy batcher.CodecPolicy) {
	var bus *batcher.Bus
	bus = batcher.New(batcher.Options{
		Codec:  policy,
		Submit: func(f *batcher.Frame) { bus.Landed(f.Ticket, nil) },
	})
	command := make([]byte, 40)
	record := bytes.Repeat([]byte(`{"id":17,"name":"walsvc"} `), 16)[:360]
	b.ReportAllocs()
	b.SetBytes(int64(len(command) + len(record)))
	b.ResetTimer()
	var all sync.WaitGroup
	for caller := range callers {
		n := b.N / callers
		if caller < b.N%callers {
			n++
		}
		all.Go(func() {
			p := new(passenger)
			for range n {
				f, err := bus.Board()
				if err != nil {
					b.Error(err)
					return
				}
				f.AddCommand(func(dst []byte) []byte { return append(dst, command...) })
				f.AddRecords(uint64(caller), record)
				f.Ride(p)
				bus.Leave()
			}
		})
	}
	all.Wait()
	if err := bus.Close(); err != nil {
		b.Fatal(err)
	}
	stats := bus.Stats()
	b.ReportMetric(float64(stats.Commands)/float64(stats.Frames), "commands/frame")
}

// BenchmarkBoard measures the same append while the disk is busy: the part of
// it that is under the lock, which bounds what all callers together can do.
func BenchmarkBoard(b *testing.B) {
	b.Run("callers=1/size=400/codec=none", func(b *testing.B) {
		submitted := make(chan uint64, 1)
		bus := batcher.New(batcher.Options{
			Codec:  batcher.Fixed(codec.None),
			Submit: func(f *batcher.Frame) { submitted <- f.Ticket },
		})
		command, record := make([]byte, 40), make([]byte, 360)
		p := new(passenger)
		b.ReportAllocs()
		b.SetBytes(int64(len(command) + len(record)))
		for b.Loop() {
			f, err := bus.Board()
			if err != nil {
				b.Fatal(err)
			}
			f.AppendCommand(command)
			f.AddRecords(1, record)
			f.Ride(p)
			size := f.RawSize()
			bus.Leave()
			if size > 1<<20 {
				bus.Landed(<-submitted, nil)
			}
		}
		go func() {
			for ticket := range submitted {
				bus.Landed(ticket, nil)
			}
		}()
		if err := bus.Close(); err != nil {
			b.Fatal(err)
		}
		close(submitted)
	})
}
