package certify

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
)

// cutFake has a fake disk certified.
func cutFake(t *testing.T, d *fakeDisk, cuts int) *Report {
	t.Helper()
	r, err := Cuts(t.Context(), CutOptions{Options: d.options(t), Cuts: cuts, For: time.Nanosecond, cutter: d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHonestDisk(t *testing.T) {
	for _, survive := range []float64{0, 0.5, 0.9} {
		d := newFakeDisk(uint64(10*survive), survive)
		r := cutFake(t, d, 2)
		if r.Verdict != Certified || r.Cut.Bad() != 0 {
			t.Fatalf("survive %v: %s: %q: %+v", survive, r.Verdict, r.Words, r.Cut.Losses)
		}
		c := r.Cut
		if c.Cuts != 2 || c.Acknowledged < 2*uint64(len(laneNames))*minSteps || c.Checked == 0 || c.Unsynced == 0 || c.Dropped == 0 {
			t.Errorf("survive %v: %+v", survive, c)
		}
		for _, l := range c.Lanes {
			if l.Acknowledged == 0 || l.Checked == 0 {
				t.Errorf("survive %v: lane %s: %+v", survive, l.Lane, l)
			}
		}
		if left := readAll(t, d.fs(), "/disk"); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestLiars: a check that cannot fail proves nothing.
func TestLiars(t *testing.T) {
	always := func() bool { return true }
	sometimes := func(n int) func() bool {
		rng := rand.New(rand.NewPCG(uint64(n), 9))
		return func() bool { return rng.IntN(n) == 0 } // syncs are serialized by nobody: see below
	}
	for name, lie := range map[string]func(d *fakeDisk){
		"syncs do nothing":             func(d *fakeDisk) { d.lieSync = always },
		"directory syncs do nothing":   func(d *fakeDisk) { d.lieSyncDir = always },
		"neither does anything":        func(d *fakeDisk) { d.lieSync, d.lieSyncDir = always, always },
		"one sync in ten does nothing": func(d *fakeDisk) { d.lieSync = locked(sometimes(10)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDisk(3, 0.1)
			o := CutOptions{Options: d.options(t), Cuts: 20, For: time.Nanosecond, cutter: d}
			lie(d)
			r, err := Cuts(t.Context(), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict != Dishonest || !r.Verdict.Bad() || r.Cut.Bad() == 0 || len(r.Cut.Losses) == 0 {
				t.Fatalf("%s: %q", r.Verdict, r.Words)
			}
			if !strings.HasPrefix(r.Words[0], "NOT HONEST") {
				t.Errorf("it says %q", r.Words)
			}
			if len(readAll(t, d.fs(), "/disk/"+Home)) == 0 {
				t.Error("nothing is left to look at")
			}
		})
	}
}

// locked lets several syncs ask at once.
func locked(f func() bool) func() bool {
	turn := make(chan struct{}, 1)
	return func() bool {
		turn <- struct{}{}
		defer func() { <-turn }()
		return f()
	}
}

// TestDirectorySyncsMatterToFiles: what a directory sync that does nothing loses
// is told as what it is.
func TestDirectorySyncsMatterToFiles(t *testing.T) {
	d := newFakeDisk(4, 0)
	o := CutOptions{Options: d.options(t), Cuts: 1, For: time.Nanosecond, cutter: d}
	begun := locked(countdown(20))
	d.lieSyncDir = func() bool { return !begun() }
	r, err := Cuts(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Cut.Lanes, func(l LaneResult) bool { return l.Lane == "files" })
	if l := r.Cut.Lanes[i]; r.Verdict != Dishonest || l.Lost == 0 && l.Reappeared == 0 {
		t.Errorf("%s: %+v", r.Verdict, r.Cut)
	}
}

// countdown returns a function that reports true n times.
func countdown(n int) func() bool {
	return func() bool {
		n--
		return n >= 0
	}
}

func TestGentleCut(t *testing.T) {
	r := cutFake(t, newFakeDisk(5, 1), 2)
	if r.Verdict != Inconclusive || !r.Verdict.Bad() || r.Cut.Bad() != 0 || r.Cut.Dropped != 0 {
		t.Errorf("%s: %q: %+v", r.Verdict, r.Words, r.Cut)
	}
}

// TestDamageInTheJournal: a volume that recovers to less than was acknowledged,
// or to something else, is noticed.
func TestDamageInTheJournal(t *testing.T) {
	d := newFakeDisk(6, 0)
	o := CutOptions{Options: d.options(t), Cuts: 1, For: time.Nanosecond, cutter: d}
	d.spoil = func(mem *disk.Mem) {
		const volume = "/disk/" + Home + "/volume"
		entries, err := mem.List(volume)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name, ".wal") {
				continue
			}
			f, err := mem.Open(volume+"/"+e.Name, true)
			if err != nil {
				t.Error(err)
				return
			}
			// All but the header, as if nothing had been written: of every segment, since
			// the newest one may have begun just before the cut.
			_, err = f.WriteAt(make([]byte, segmentSize-8192), 8192)
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	r, err := Cuts(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := uint64(0)
	for _, l := range r.Cut.Lanes {
		if strings.HasPrefix(l.Lane, "journal-") {
			bad += l.Lost + l.Torn + l.Reappeared
		} else if l.Lost+l.Torn+l.Reappeared > 0 {
			t.Errorf("lane %s: %+v", l.Lane, l)
		}
	}
	if r.Verdict != Dishonest || bad == 0 {
		t.Errorf("%s: %q", r.Verdict, r.Words)
	}
}

// TestRunsDoNotMix: what an earlier run left is not overwritten.
func TestRunsDoNotMix(t *testing.T) {
	d := newFakeDisk(7, 0)
	o := d.options(t)
	if err := o.fs.MkdirAll("/disk/" + Home); err != nil {
		t.Fatal(err)
	}
	if _, err := Cuts(t.Context(), CutOptions{Options: o, cutter: d}, nil); !isErr(err, ErrRunThere) {
		t.Errorf("error %v, want ErrRunThere", err)
	}
	d.mem.SetCapacity(1 << 20)
	if err := o.fs.Remove("/disk/" + Home); err != nil {
		t.Fatal(err)
	}
	if _, err := Cuts(t.Context(), CutOptions{Options: o, cutter: d}, nil); !isErr(err, ErrNoRoom) {
		t.Errorf("error %v, want ErrNoRoom", err)
	}
}
