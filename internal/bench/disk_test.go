package bench

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
)

// ticking returns a clock that goes on by step each time it is read.
func ticking(step time.Duration) func() time.Time {
	now := time.Unix(0, 0)
	return func() time.Time {
		now = now.Add(step)
		return now
	}
}

// recorded returns a factory of real file systems that share one transcript.
func recorded(ops *[]disk.Op) func(bool) disk.FS {
	return func(direct bool) disk.FS {
		mode := disk.DirectNever
		if direct {
			mode = disk.DirectAlways
		}
		return disk.Record(disk.OS(disk.OSOptions{Direct: mode}), func(op disk.Op) {
			if op.Done() {
				*ops = append(*ops, op)
			}
		})
	}
}

// noFiles fails the test if anything is left in a directory.
func noFiles(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left behind: %s", e.Name())
	}
}

func TestDiskMeasuresWhatItSays(t *testing.T) {
	dir := t.TempDir()
	var (
		ops   []disk.Op
		steps []int
	)
	// The clock is read at the start of a cell and twice per sample, so 10 reads
	// are the start and five samples: 20 KiB and 80 KiB, round the end of the
	// 64 KiB files for the larger size.
	report, err := Disk(t.Context(), DiskOptions{
		Dir:      dir,
		Sizes:    []int64{4 << 10, 16 << 10, 1 << 20},
		Duration: 9 * time.Millisecond,
		Space:    128 << 10,
		fs:       recorded(&ops),
		now:      ticking(time.Millisecond),
	}, func(done, all int, _ string) {
		if all != 13 {
			t.Errorf("progress out of %d, want 13", all)
		}
		steps = append(steps, done)
	})
	if err != nil {
		t.Fatal(err)
	}
	noFiles(t, dir)
	if len(steps) != 14 || steps[0] != 0 || steps[13] != 13 {
		t.Errorf("progress went %v, want 0 to 13", steps)
	}

	// 1. Every figure follows from the clock.
	if len(report.Cells) != 12 {
		t.Fatalf("%d cells, want 12", len(report.Cells))
	}
	for _, c := range report.Cells {
		switch {
		case c.Size == 1<<20:
			if c.Skipped == "" {
				t.Errorf("%s %s: measured in files of 64 KiB", SizeName(c.Size), c.Mode)
			}
		case c.Skipped != "":
			if c.Mode == Appended || c.Mode == Overwritten {
				t.Errorf("%s %s: skipped: %s", SizeName(c.Size), c.Mode, c.Skipped)
			}
		default:
			if c.Syncs != 5 || c.SyncsPerSecond != 1000 || c.BytesPerSecond != 1000*float64(c.Size) {
				t.Errorf("%s %s: %d syncs, %.0f/s, %.0f bytes/s; want 5, 1000 and that many times the size",
					SizeName(c.Size), c.Mode, c.Syncs, c.SyncsPerSecond, c.BytesPerSecond)
			}
			if c.Latency.P50 < 999 || c.Latency.P50 > 1001 || c.Latency.P99 < 999 || c.Latency.P99 > 1001 {
				t.Errorf("%s %s: latency %+v, want 1000 us", SizeName(c.Size), c.Mode, c.Latency)
			}
		}
	}

	// 2. Every write of a cell is synced before the next, appends are behind the
	// end of their file, and nothing leaves its bounds.
	var (
		size    = map[string]int64{} // of each file, as written
		pending string
		written bool // the file to overwrite is complete
	)
	for _, op := range ops {
		switch op.Kind {
		case disk.OpCreate:
			size[op.Name] = 0
		case disk.OpWrite:
			end := op.Offset + op.Len
			if end > 64<<10 {
				t.Errorf("%s: beyond half of the space", op)
			}
			if written && pending != "" {
				t.Errorf("%s: the write before was not synced", op)
			}
			pending = op.Name
			if strings.HasSuffix(op.Name, ".fresh") && op.Offset != size[op.Name] {
				t.Errorf("%s: the file ended at %d", op, size[op.Name])
			}
			if written && strings.HasSuffix(op.Name, ".written") && end > size[op.Name] {
				t.Errorf("%s: overwrites what was not written", op)
			}
			size[op.Name] = max(size[op.Name], end)
		case disk.OpSync:
			written = written || strings.HasSuffix(op.Name, ".written")
			pending = ""
		}
	}
}

func TestDiskLeavesNothingBehind(t *testing.T) {
	for _, at := range []int{0, 1, 2, 3, 4} { // of 5 steps: the file to overwrite, four cells
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Disk(ctx, DiskOptions{Dir: dir, Sizes: []int64{4 << 10}, Duration: time.Hour, Space: 64 << 10, now: ticking(time.Minute)},
			func(done, _ int, _ string) {
				if done == at {
					cancel()
				}
			})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at step %d: error %v", at, err)
		}
		noFiles(t, dir)
	}
}

func TestDiskFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	for n := range 40 {
		f := disk.NewFaulty(disk.OS(disk.OSOptions{}))
		f.Inject(disk.Fault{At: n, Kinds: []disk.OpKind{disk.OpCreate, disk.OpWrite, disk.OpSync, disk.OpSyncDir}, Err: broken})
		_, err := Disk(t.Context(), DiskOptions{
			Dir: dir, Sizes: []int64{4 << 10}, Duration: 1, Space: 64 << 10, fs: func(bool) disk.FS { return f },
		}, nil)
		noFiles(t, dir)
		if f.Fired() == 0 {
			if err != nil || n < 10 {
				t.Errorf("without a fault: error %v after %d operations", err, n)
			}
			return
		}
		if !errors.Is(err, broken) {
			t.Fatalf("operation %d failed: error %v, want the disk's", n, err)
		}
	}
	t.Error("no end to the operations")
}

func TestDiskRefusesOddSizes(t *testing.T) {
	for _, size := range []int64{-4096, 0, 1, 4095, 5000} {
		if _, err := Disk(t.Context(), DiskOptions{Dir: t.TempDir(), Sizes: []int64{size}}, nil); err == nil {
			t.Errorf("size %d was taken", size)
		}
	}
}

// table makes cells out of microseconds per sync: size, then one per mode; 0 skips.
func table(rows ...[5]float64) *DiskReport {
	r := &DiskReport{}
	for _, row := range rows {
		for i, us := range row[1:] {
			c := DiskCell{Mode: modes[i], Size: int64(row[0])}
			if us == 0 {
				c.Skipped = "not supported here"
			} else {
				c.Syncs, c.SyncsPerSecond, c.BytesPerSecond = 10, 1e6/us, row[0]*1e6/us
				c.Latency = Latency{P50: us, P99: 2 * us}
			}
			r.Cells = append(r.Cells, c)
		}
	}
	return r
}

func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		name   string
		report *DiskReport
		want   DiskVerdict // Words are checked by says
		says   []string
		not    []string
	}{{
		name:   "flash",
		report: table([5]float64{4096, 200, 200, 100, 110}, [5]float64{65536, 300, 300, 120, 0}, [5]float64{1 << 20, 2000, 2000, 400, 0}),
		want:   DiskVerdict{OverwriteGain: 2, BestOverwriteGain: 5, PreallocateGain: 1, LoneAppend: 100, FreeSize: 65536},
		says:   []string{"gains over appending: 2.0x at 4 KiB and 5.0x at 1 MiB.", "(fallocate) gains nothing: 1.0x", "about 100 us", "p99 200 us", "10000 commits/s", "64 KiB take at most twice", "O_DIRECT gains nothing over the page cache: 0.9x at 4 KiB."},
		not:    []string{"DO NOT TRUST"},
	}, {
		name:   "a turning disk",
		report: table([5]float64{4096, 16000, 8000, 8000, 5000}, [5]float64{65536, 16000, 16000, 8100, 0}),
		want:   DiskVerdict{OverwriteGain: 2, BestOverwriteGain: 2, PreallocateGain: 2, LoneAppend: 8000, FreeSize: 65536},
		says:   []string{"about 8.0 ms", "125 commits/s", "O_DIRECT gains over the page cache: 1.6x at 4 KiB.", "(fallocate) gains 2.0x at 4 KiB", "gains over appending: 2.0x at 4 KiB."},
		not:    []string{"DO NOT TRUST"},
	}, {
		name:   "no difference",
		report: table([5]float64{4096, 100, 100, 100, 0}),
		want:   DiskVerdict{OverwriteGain: 1, BestOverwriteGain: 1, PreallocateGain: 1, LoneAppend: 100, FreeSize: 4096},
		says:   []string{"gains nothing here over appending (1.0x at 4 KiB)"},
		not:    []string{"O_DIRECT", "at most twice", "DO NOT TRUST"},
	}, {
		name:   "memory",
		report: table([5]float64{4096, 2, 2, 2, 0}),
		want:   DiskVerdict{OverwriteGain: 1, BestOverwriteGain: 1, PreallocateGain: 1, LoneAppend: 2, FreeSize: 4096, SyncTooFast: true},
		says:   []string{"DO NOT TRUST THIS DISK", "less than 15 us"},
	}, {
		name:   "nothing measured",
		report: table([5]float64{4096, 0, 0, 0, 0}),
	}} {
		t.Run(tc.name, func(t *testing.T) {
			got := judge(tc.report)
			words := strings.Join(got.Words, "\n")
			got.Words = nil
			if got.OverwriteGain != tc.want.OverwriteGain || got.BestOverwriteGain != tc.want.BestOverwriteGain ||
				got.PreallocateGain != tc.want.PreallocateGain || got.LoneAppend != tc.want.LoneAppend ||
				got.FreeSize != tc.want.FreeSize || got.SyncTooFast != tc.want.SyncTooFast {
				t.Errorf("verdict %+v, want %+v", got, tc.want)
			}
			for _, s := range tc.says {
				if !strings.Contains(words, s) {
					t.Errorf("does not say %q:\n%s", s, words)
				}
			}
			for _, s := range tc.not {
				if strings.Contains(words, s) {
					t.Errorf("says %q:\n%s", s, words)
				}
			}
		})
	}
}
