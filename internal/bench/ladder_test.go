package bench

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files instead of comparing with them")

// shortLadder is a ladder on one modelled disk in memory, with what the test puts
// around it.
func shortLadder(t *testing.T, around func(disk.FS) disk.FS) LadderOptions {
	return LadderOptions{
		Dir: t.TempDir(), Disks: []string{"test"}, Callers: 32, Duration: 40 * time.Millisecond,
		segment: limits.MinSegmentSize,
		fs: func(string) (disk.FS, error) {
			return around(disk.Model(disk.NewMem(), disk.Device{Sync: 500 * time.Microsecond, Bandwidth: 1e9})), nil
		},
	}
}

// Each step does what its name says: what is written and synced when, not how
// fast.
func TestLadderSteps(t *testing.T) {
	type counts struct{ writes, syncs int }
	var (
		mu  sync.Mutex
		now counts // of segments, spares left out
		at  []counts
	)
	o := shortLadder(t, func(fs disk.FS) disk.FS {
		return disk.Record(fs, func(op disk.Op) {
			if !op.Done() || !strings.HasSuffix(op.Name, ".wal") {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch op.Kind {
			case disk.OpWrite:
				now.writes++
			case disk.OpSync:
				now.syncs++
			}
		})
	})
	o.Progress = func(int, int, string) {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, now)
	}
	r, err := Ladder(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	noFiles(t, o.Dir)
	if len(r.Disks) != 1 || len(r.Disks[0].Steps) != len(ladderSteps) || len(at) != len(ladderSteps) {
		t.Fatalf("%d disks, %d steps announced, want 1 and %d", len(r.Disks), len(at), len(ladderSteps))
	}
	at = append(at, now)
	for i, s := range r.Disks[0].Steps {
		if s.Frames == 0 || s.AppendsPerSecond <= 0 || s.Gain <= 0 {
			t.Errorf("%s: %d frames, %.0f appends/s, gain %.1f", s.Step, s.Frames, s.AppendsPerSecond, s.Gain)
			continue
		}
		// A write and a sync for each frame, and for each seal of a segment.
		wrote, synced := at[i+1].writes-at[i].writes, at[i+1].syncs-at[i].syncs
		if wrote != synced || int64(wrote) < s.Frames {
			t.Errorf("%s: %d writes and %d syncs for %d frames and more", s.Step, wrote, synced, s.Frames)
		}
		if alone := s.RecordsPerFrame == 1; alone != (i == stepEach) {
			t.Errorf("%s: %.1f records per frame", s.Step, s.RecordsPerFrame)
		}
		if packed := s.Compression > 1.5; packed != (i >= stepPacked) {
			t.Errorf("%s: compressed %.1fx", s.Step, s.Compression)
		}
		overlapped := 0
		for j, f := range s.Timeline {
			if f.Fill > f.Seal || f.Compress > f.Write || f.Write > f.Sync || f.Sync > f.End {
				t.Errorf("%s: frame %d goes back in time: %+v", s.Step, j, f)
			}
			if j > 0 && f.Fill < s.Timeline[j-1].End {
				overlapped++
			}
		}
		if i < stepOverlapped && overlapped > 0 || i == stepOverlapped && overlapped == 0 {
			t.Errorf("%s: %d of %d frames began to fill before the one before was synced", s.Step, overlapped, len(s.Timeline))
		}
	}
}

func TestLadderStopsAtTheFirstError(t *testing.T) {
	for _, step := range []int{stepEach, stepMerged, stepWhole} {
		broken := errors.New("broken")
		var faulty *disk.Faulty
		o := shortLadder(t, func(fs disk.FS) disk.FS {
			faulty = disk.NewFaulty(fs)
			return faulty
		})
		o.Duration = time.Millisecond
		o.Progress = func(done, _ int, _ string) {
			if done == step {
				faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Err: broken})
			}
		}
		if _, err := Ladder(t.Context(), o); !errors.Is(err, broken) {
			t.Errorf("%s: error %v", ladderSteps[step].name, err)
		}
		noFiles(t, o.Dir)
	}
}

func TestLadderInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := shortLadder(t, func(fs disk.FS) disk.FS { return fs })
	o.Duration = time.Hour
	o.Progress = func(int, int, string) { cancel() }
	if _, err := Ladder(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	noFiles(t, o.Dir)
	if _, err := Ladder(t.Context(), LadderOptions{Dir: o.Dir, Disks: []string{"tape"}}); err == nil || !strings.Contains(err.Error(), "want one of") {
		t.Errorf("a disk that nobody knows: error %v", err)
	}
}

// ladderReport is a report with round figures.
func ladderReport() *LadderReport {
	r := &LadderReport{RecordBytes: 400, Callers: 1024, Codec: codec.S2.String()}
	for _, name := range []string{"hdd", "nvme"} {
		d := LadderDisk{Disk: name}
		for i, step := range ladderSteps {
			s := LadderStep{Step: step.name, AppendsPerSecond: 125 * math.Pow(5, float64(i)), RecordsPerFrame: math.Pow(5, float64(i)), FillUS: 600, CompressUS: 900, WriteUS: 1000, SyncUS: 4000}
			s.Gain = s.AppendsPerSecond / 125
			for j := range 4 {
				from := 8000 * float64(j)
				s.Timeline = append(s.Timeline, LadderFrame{Fill: from, Seal: from + 600, Compress: from + 600, Write: from + 1500, Sync: from + 2500, End: from + 7900})
			}
			d.Steps = append(d.Steps, s)
		}
		r.Disks = append(r.Disks, d)
	}
	return r
}

func TestLadderPicture(t *testing.T) {
	var got bytes.Buffer
	if err := ladderReport().WriteSVG(&got); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(got.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("no XML: %v", err)
		}
	}
	path := filepath.Join("testdata", "ladder.svg")
	if *rewrite {
		if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("the picture differs (look at it, then go test -rewrite)")
	}
	if err := (&LadderReport{}).WriteSVG(io.Discard); err != nil {
		t.Errorf("an empty report: %v", err)
	}
}

func TestLadderGoals(t *testing.T) {
	r := ladderReport()
	goals := ladderGoals(r)
	var got []string
	for _, g := range goals {
		verdict := " missed"
		if g.Met() {
			verdict = " met"
		}
		got = append(got, g.What+verdict)
	}
	// Merging gains 5x and the whole 625x; filling and compressing take 1.5 of 5 ms.
	want := "hdd: merging gains missed, hdd: the whole gains met, hdd: overlap gains met, nvme: overlap gains met"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("goals: %s\nwant:  %s", s, want)
	}
	for i := range r.Disks {
		r.Disks[i].Steps[stepPacked].FillUS = 100
	}
	if goals := ladderGoals(r); len(goals) != 2 {
		t.Errorf("%d goals where overlap has little to gain, want 2", len(goals))
	}
}
