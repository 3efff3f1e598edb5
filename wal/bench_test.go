package wal

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	codecs "github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/testdata"
)

// benchRecords cuts records of a size out of real documents.
func benchRecords(b *testing.B, size, n int) [][]byte {
	b.Helper()
	var stream []byte
	for doc := range testdata.Documents() {
		stream = append(stream, doc...)
		if len(stream) >= size*n {
			break
		}
	}
	if len(stream) < size {
		b.Fatalf("documents have %d bytes", len(stream))
	}
	recs := make([][]byte, n)
	for i := range recs {
		at := i * size % (len(stream) - size + 1)
		recs[i] = stream[at : at+size]
	}
	return recs
}

func benchVolume(b *testing.B, codec string) *Volume {
	b.Helper()
	v, err := Open(context.Background(), b.TempDir(), Options{Create: true, Codec: codec, PrepareRate: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := v.Close(); err != nil {
			b.Error(err)
		}
	})
	return v
}

// BenchmarkAppend is the engine without gRPC: callers append one record at a
// time and wait until it is durable; batch is records in a batch.
func BenchmarkAppend(b *testing.B) {
	const size = 400
	recs := benchRecords(b, size, 1024)
	for _, codec := range []string{"none", "auto"} {
		for _, callers := range []int{1, 64, 256} {
			for _, batch := range []int{1, 64} {
				b.Run(fmt.Sprintf("codec=%s/callers=%d/batch=%d/size=%d", codec, callers, batch, size), func(b *testing.B) {
					v := benchVolume(b, codec)
					mustCreate(b, v, "log")
					runs := make([][]byte, len(recs))
					for i := range runs {
						for j := range batch {
							runs[i] = records.Append(runs[i], recs[(i+j)%len(recs)])
						}
					}
					b.SetBytes(int64(size * batch))
					b.ReportAllocs()
					b.ResetTimer()
					var wg sync.WaitGroup
					for c := range callers {
						wg.Go(func() { benchCaller(b, v, runs, b.N/callers+min(1, max(0, b.N%callers-c))) })
					}
					wg.Wait()
					s := v.Status()
					b.ReportMetric(float64(s.Records)/float64(max(s.Syncs, 1)), "records/sync")
					b.ReportMetric(float64(s.Records)/b.Elapsed().Seconds(), "records/s")
				})
			}
		}
	}
}

func benchCaller(b *testing.B, v *Volume, runs [][]byte, n int) {
	ready := make(chan struct{}, 1)
	a := v.NewAppender(func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	})
	binding, _, _, err := a.Bind("log", Producer{}, 0, Claim{})
	if err != nil {
		b.Error(err)
		return
	}
	batches := make([]Batch, 1)
	var verdicts []Verdict
	for i := range n {
		batches[0] = Batch{Binding: binding, Run: runs[i%len(runs)]}
		if err := a.Append(context.Background(), batches); err != nil {
			b.Error(err)
			return
		}
		for verdicts = a.Take(verdicts[:0]); len(verdicts) == 0; verdicts = a.Take(verdicts[:0]) {
			<-ready
		}
		if verdicts[0].Err != nil {
			b.Error(verdicts[0].Err)
			return
		}
	}
}

// BenchmarkRead reads a log back, decompressing, and as stored.
func BenchmarkRead(b *testing.B) {
	const size, count = 400, 200_000
	recs := benchRecords(b, size, 1024)
	for _, codec := range []string{"none", "s2", "zstd"} {
		v := benchVolume(b, codec)
		mustCreate(b, v, "log")
		var wg sync.WaitGroup
		var batch []byte
		for i := range 256 {
			batch = records.Append(batch, recs[i])
		}
		for range 8 {
			wg.Go(func() { benchCaller(b, v, [][]byte{batch}, count/256/8) })
		}
		wg.Wait()
		for _, stored := range []bool{false, true} {
			b.Run(fmt.Sprintf("codec=%s/stored=%t/size=%d", codec, stored, size), func(b *testing.B) {
				b.ReportAllocs()
				total := 0
				for b.Loop() {
					o := ReadOptions{}
					if stored {
						o.Codecs = []codecs.Codec{codecs.None, codecs.S2, codecs.Zstd}
					}
					r, err := v.NewReader("log", o)
					if err != nil {
						b.Fatal(err)
					}
					for {
						span, err := r.Next(context.Background())
						if err == io.EOF {
							break
						}
						if err != nil {
							b.Fatal(err)
						}
						total += int(span.Count)
					}
				}
				b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
