package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/disk"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files instead of comparing with them")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short are options for a modelled disk in memory.
func short(t *testing.T, around func(disk.FS) disk.FS) options {
	return options{
		dir: t.TempDir(), disks: []string{"test"}, sizes: []int{16 << 10, 512 << 10}, rounds: 1, pairs: 2, segment: 4 << 20,
		duration: 10 * time.Millisecond, settle: 5 * time.Millisecond,
		open: func(string) (disk.FS, error) {
			return around(disk.Model(disk.NewMem(), disk.Device{Sync: 500 * time.Microsecond, Bandwidth: 200e6})), nil
		},
		progress: func(string, ...any) {},
	}
}

// Frames have the size that is wanted, blocks the codec that is asked for, and
// nothing is left behind.
func TestMeasure(t *testing.T) {
	o := short(t, func(fs disk.FS) disk.FS { return fs })
	cells, err := measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) != len(o.sizes) {
		t.Fatalf("%d cells", len(cells))
	}
	for i, c := range cells {
		if c.FrameBytes != o.sizes[i] || c.Disk != "test" || len(c.Policies) != len(policies) {
			t.Fatalf("cell %d is %+v", i, c)
		}
		best := 0.0
		for j, p := range c.Policies {
			if p.BytesPerSecond <= 0 || len(p.Rounds) != o.rounds {
				t.Errorf("%d B, %s: %+v", c.FrameBytes, p.Policy, p)
			}
			if j == auto {
				continue
			}
			// Of runs of an eighth or less. On a machine that is slower than this disk, or
			// has one processor and it waits for the disk, callers come one by one.
			if most := float64(c.FrameBytes) * 1.3; p.FrameBytes < recordSize || p.FrameBytes > most {
				t.Errorf("%d B, %s: frames of %.0f B", c.FrameBytes, p.Policy, p.FrameBytes)
			}
			// A frame that fits one block of the disk is not compressed.
			filled := p.FrameBytes > float64(c.FrameBytes)/2
			for name, share := range p.Blocks {
				if name != "none" && (share > 0 && name != p.Policy || share == 0 && name == p.Policy && filled) {
					t.Errorf("%d B, %s: blocks of %v", c.FrameBytes, p.Policy, p.Blocks)
				}
			}
			if p.Policy == "none" && p.Compression > 1.5 || p.Policy != "none" && p.Compression < 1.5 && filled {
				t.Errorf("%d B, %s: compressed %.1fx", c.FrameBytes, p.Policy, p.Compression)
			}
			best = max(best, p.BytesPerSecond)
			if p.Policy == c.Best && p.BytesPerSecond < best {
				t.Errorf("%d B: best is said to be %s", c.FrameBytes, c.Best)
			}
		}
		if want := 100 * (1 - c.Policies[auto].BytesPerSecond/best); c.Behind != want {
			t.Errorf("%d B: %.1f%% behind, want %.1f%%", c.FrameBytes, c.Behind, want)
		}
		if len(c.Pairs.Auto) != o.pairs || len(c.Pairs.Best) != o.pairs {
			t.Errorf("%d B: pairs %+v", c.FrameBytes, c.Pairs)
		}
	}
	leaveNothing(t, o.dir)
}

func leaveNothing(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMeasureStopsAtTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	var faulty *disk.Faulty
	o := short(t, func(fs disk.FS) disk.FS {
		faulty = disk.NewFaulty(fs)
		return faulty
	})
	o.duration = time.Hour
	o.settle = time.Millisecond
	o.progress = func(string, ...any) { faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Err: broken}) }
	if _, err := measure(t.Context(), o); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	leaveNothing(t, o.dir)

	ctx, cancel := context.WithCancel(t.Context())
	o = short(t, func(fs disk.FS) disk.FS { return fs })
	o.settle = time.Hour
	o.progress = func(string, ...any) { cancel() }
	if _, err := measure(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	leaveNothing(t, o.dir)
}

// example is a report with round figures.
func example() *report {
	r := &report{CPUs: 2, Go: "go1.26", RecordBytes: recordSize, Rounds: 3, Seconds: 0.3}
	for _, name := range []string{"hdd", "nvme"} {
		for i, size := range []int{64 << 10, 4 << 20} {
			c := cell{Disk: name, FrameBytes: size, Best: "s2", Behind: 2.5}
			for j, p := range policies {
				c.Policies = append(c.Policies, outcome{
					Policy: p.String(), BytesPerSecond: 1e8 * float64((i+1)*(j+1)), Rounds: []float64{1e8, 2e8},
					Blocks: map[string]float64{"none": 0.25, "s2": 0.75},
				})
			}
			c.Pairs = &comparison{Auto: []float64{90e6, 91e6}, Best: []float64{100e6, 101e6}, Behind: 9.9 + float64(i)}
			r.Cells = append(r.Cells, c)
		}
	}
	return r
}

func TestReport(t *testing.T) {
	r, dir := example(), t.TempDir()
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"crossover.md", "crossover-hdd.svg", "auto.txt", "best.txt"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if *rewrite {
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs (look at it, then go test -rewrite):\n%s", name, got)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "crossover.json"))
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(text, &again); err != nil || len(again.Cells) != len(r.Cells) {
		t.Errorf("%d cells, %v", len(again.Cells), err)
	}
}

// Behind by more than is allowed in some cell is an error that names it; by less,
// and without pairs, is none.
func TestVerdict(t *testing.T) {
	r := example()
	err := r.verdict()
	if err == nil || err.Error() != "hdd, frames of 4 MiB: auto is 10.9% behind s2, 10% are allowed\nnvme, frames of 4 MiB: auto is 10.9% behind s2, 10% are allowed" {
		t.Errorf("verdict %v", err)
	}
	for i := range r.Cells {
		if r.Cells[i].Pairs.Behind > allowed {
			r.Cells[i].Pairs = nil
		}
	}
	if err := r.verdict(); err != nil {
		t.Errorf("verdict %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-rounds", "0"}, {"-pairs", "-1"}, {"-disks", "tape"}, {"-sizes", "1"}, {"-sizes", "8192"}, {"-sizes", "big"}, {"-o", "xml"},
	} {
		var out strings.Builder
		if err := command(t.Context(), args, &out); err == nil || out.Len() > 0 {
			t.Errorf("%q: %v, printed %q", args, err, out.String())
		}
	}
}
