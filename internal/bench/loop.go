package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// Loop is how a log is written by whoever needs one in an afternoon: callers
// take a mutex, append their record to a file, sync it (fdatasync) and let go.
// It runs for about a duration and leaves nothing behind in dir.
func Loop(ctx context.Context, dir string, callers, size int, duration time.Duration) (_ Throughput, err error) {
	fsys := disk.OS(disk.OSOptions{Direct: disk.DirectNever})
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
	appendRecord := func(_ context.Context, record []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if _, err := f.WriteAt(record, at); err != nil {
			return err
		}
		at += int64(len(record))
		return f.Sync()
	}
	return call(ctx, Load{Callers: callers, Size: size, Duration: duration}, func(int) appender { return appendRecord })
}

// overwriteFile is how much Overwrite writes before it measures, and then
// overwrites round and round, in bytes.
const overwriteFile = 64 << 20

// Overwrite measures writes of size bytes, a multiple of 4 KiB, over written
// blocks, with one fdatasync each, in sequence: the disk's part of a lone append
// and, with large ones, what a log with one write in flight cannot be faster
// than. It leaves nothing behind in dir.
func Overwrite(ctx context.Context, dir string, size int64, duration time.Duration) (DiskCell, error) {
	p := newProbe(DiskOptions{Dir: dir, Duration: duration}.withDefaults(), overwriteFile, size)
	cell := DiskCell{Mode: Overwritten, Size: size}
	err := p.write(ctx)
	if size >= limits.DirectWriteSize && takesDirect(p.written) {
		cell.Mode = Direct // the better way for what is large, and walsvc's own
	}
	if err == nil {
		err = p.cell(ctx, &cell)
	}
	if err := errors.Join(err, p.remove(p.written)); err != nil {
		return DiskCell{}, fmt.Errorf("overwrite in %s: %w", dir, err)
	}
	return cell, nil
}
