package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// Throughput is what callers that each wait for their own append achieved.
type Throughput struct {
	Appends   int64
	PerSecond float64
	Latency   Latency
}

// Loop is how a log is written by whoever needs one in an afternoon: callers
// take a mutex, append their record to a file, sync it (fdatasync) and let go.
// It runs for about a duration and leaves nothing behind in dir.
func Loop(ctx context.Context, dir string, callers, size int, duration time.Duration) (_ Throughput, err error) {
	fsys := disk.OS(disk.OSOptions{})
	path := filepath.Join(dir, fmt.Sprintf("walctl-bench-%d.loop", os.Getpid()))
	f, err := fsys.Create(path)
	if err != nil {
		return Throughput{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), fsys.Remove(path)) }()
	if err := fsys.SyncDir(dir); err != nil {
		return Throughput{}, err
	}

	var (
		mu sync.Mutex
		at int64
	)
	return call(ctx, callers, size, duration, func(_ context.Context, record []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if _, err := f.WriteAt(record, at); err != nil {
			return err
		}
		at += int64(len(record))
		return f.Sync()
	})
}

// shards is how many histograms callers share, so that 1,024 of them neither
// queue for one nor take 200 MB.
const shards = 16

// call runs callers that each append one record after the other until the
// duration is over, and counts those that were durable before it was. The first
// error ends it.
func call(ctx context.Context, callers, size int, duration time.Duration, appendRecord func(context.Context, []byte) error) (Throughput, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		all   sync.WaitGroup
		ready sync.WaitGroup
		begin = make(chan struct{})
		end   time.Time // set before begin is closed
		shard [shards]struct {
			sync.Mutex
			h *hdrhistogram.Histogram
		}
	)
	for i := range shard {
		shard[i].h = newHistogram()
	}
	ready.Add(callers)
	for i := range callers {
		all.Go(func() {
			cut, s := NewCutter(size, i, callers), &shard[i%shards]
			ready.Done()
			<-begin
			for start := time.Now(); start.Before(end); {
				if err := appendRecord(ctx, cut.Next()); err != nil {
					cancel(err)
					return
				}
				now := time.Now()
				if now.After(end) {
					return // landed too late to count
				}
				s.Lock()
				record(s.h, now.Sub(start))
				s.Unlock()
				start = now
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
	ready.Wait()
	end = time.Now().Add(duration)
	close(begin)
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return Throughput{}, err
	}
	h := newHistogram()
	for i := range shard {
		h.Merge(shard[i].h)
	}
	n := h.TotalCount()
	return Throughput{Appends: n, PerSecond: float64(n) / duration.Seconds(), Latency: latencyOf(h)}, nil
}

// Overwrite measures one write of 4 KiB over written blocks and one fdatasync,
// in sequence: the disk's part of a lone append. It leaves nothing behind in dir.
func Overwrite(ctx context.Context, dir string, duration time.Duration) (Latency, error) {
	p := newProbe(DiskOptions{Dir: dir, Duration: duration}.withDefaults(), 64<<20, limits.BlockSize)
	cell := DiskCell{Mode: Overwritten, Size: limits.BlockSize}
	err := p.write(ctx)
	if err == nil {
		err = p.cell(ctx, &cell)
	}
	if err := errors.Join(err, p.remove(p.written)); err != nil {
		return Latency{}, fmt.Errorf("overwrite in %s: %w", dir, err)
	}
	return cell.Latency, nil
}
