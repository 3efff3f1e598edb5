package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
)

// record400 is a record of 400 bytes of JSON.
var record400 = fmt.Appendf(nil, `{"id":"0191d3c8-7a70-7c52","kind":"order","customer":4711,"text":"%0333d"}`, 0)

func benchmark(b *testing.B, codec string, run func(l *client.Log)) {
	dir, err := os.MkdirTemp("", "walsvc")
	if err != nil {
		b.Fatal(err)
	}
	s := &service{dir: dir, codec: codec}
	if err := s.start(); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	c, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := errors.Join(c.Close(ctx), s.stop(), os.RemoveAll(dir)); err != nil {
			b.Fatal(err)
		}
	}()
	if _, _, err := c.CreateLog(ctx, "orders", client.LogOptions{}); err != nil {
		b.Fatal(err)
	}
	l := c.Log("orders")
	if _, err := l.Append(ctx, record400); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(record400)))
	b.ResetTimer()
	run(l)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkAppendAsync has one goroutine append as fast as the bound on what is
// pending allows.
func BenchmarkAppendAsync(b *testing.B) {
	benchmark(b, "auto", func(l *client.Log) {
		var last *client.Future
		for range b.N {
			last = l.AppendAsync(context.Background(), record400)
		}
		if _, err := last.Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkAppend has callers that each wait for every record.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			benchmark(b, "auto", func(l *client.Log) {
				var running sync.WaitGroup
				for caller := range callers {
					running.Go(func() {
						for i := caller; i < b.N; i += callers {
							if _, err := l.Append(context.Background(), record400); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				running.Wait()
			})
		})
	}
}

// BenchmarkReplay reads records back, stored as they came and compressed. Both
// ends are in this process, and ns of CPU per record is what they take together.
func BenchmarkReplay(b *testing.B) {
	const stored = 500_000
	for _, codec := range []string{"none", "s2"} {
		b.Run(fmt.Sprintf("size=%d/codec=%s", len(record400), codec), func(b *testing.B) {
			benchmark(b, codec, func(l *client.Log) {
				var last *client.Future
				for range stored {
					last = l.AppendAsync(context.Background(), record400)
				}
				if _, err := last.Wait(context.Background()); err != nil {
					b.Fatal(err)
				}
				before := cpu(b)
				b.ResetTimer()
				for n := 0; n < b.N; {
					for _, err := range l.Replay(context.Background(), client.ReplayOptions{}) {
						if err != nil {
							b.Fatal(err)
						}
						if n++; n == b.N {
							break
						}
					}
				}
				b.StopTimer()
				b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
			})
		})
	}
}

// cpu returns the CPU time that this process has taken.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
