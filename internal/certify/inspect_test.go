package certify

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/disk"
)

// drive is a device as sysfs tells of it.
func drive(name, cache string) disk.BlockDevice {
	return disk.BlockDevice{Name: name, Number: "8:0", WriteCache: cache, Counts: true, On: []string{}}
}

// TestInspect: what is found on disks of all kinds, and what follows from it.
func TestInspect(t *testing.T) {
	good := disk.Place{FileSystem: "ext4", Source: "/dev/sda1", MountPoint: "/disk", Root: "/", Kernel: "6.1.0",
		Options: []string{"rw"}, Devices: []disk.BlockDevice{drive("sda", "write back")}}
	with := func(change func(p *disk.Place)) disk.Place {
		p := good
		change(&p)
		return p
	}
	for _, tc := range []struct {
		name    string
		place   disk.Place
		flushes uint64  // for each sync
		written uint64  // bytes for each sync
		us      float64 // for each sync
		verdict Verdict
		says    string // in one of the words
	}{
		{"good", good, 1, 4096, 200, NothingFound, "Nothing was found against this disk."},
		{"more than good", good, 3, 9000, 200, NothingFound, "Not tested: a power cut (--witness)"},
		{"tmpfs", disk.Place{FileSystem: "tmpfs"}, 0, 0, 2, Unfit, "it lies in memory"},
		{"zram", with(func(p *disk.Place) { p.Devices = []disk.BlockDevice{drive("zram0", "write through")} }), 1, 4096, 200, Unfit, "it lies in memory"},
		{"no barriers", with(func(p *disk.Place) { p.Options = []string{"nobarrier"} }), 0, 4096, 100, Unfit, "of 32 syncs 0 told sda"},
		{"no barriers that are counted", with(func(p *disk.Place) { p.Options = []string{"barrier=0"} }), 1, 4096, 100, Unfit, "barrier=0: devices are not told"},
		{"no barriers, no cache", with(func(p *disk.Place) {
			p.Options, p.Devices = []string{"nobarrier"}, []disk.BlockDevice{drive("sda", "write through")}
		}), 0, 4096, 100, Suspect, "they say that they have none"},
		{"some syncs are not passed on", good, 0, 4096, 100, Unfit, "lost with the power"},
		{"syncs write nothing", good, 1, 0, 100, Unfit, "syncs return before anything is written"},
		{"write through", with(func(p *disk.Place) { p.Devices = []disk.BlockDevice{drive("sda", "write through")} }), 0, 4096, 30, NothingFound, "Nothing"},
		{"one disk of two", with(func(p *disk.Place) {
			spare := drive("sdb", "write back")
			spare.Number = "idle"
			p.Devices = []disk.BlockDevice{drive("sda", "write back"), spare}
		}), 1, 4096, 200, NothingFound, "Nothing"},
		{"two disks that are not told", with(func(p *disk.Place) {
			p.Devices = []disk.BlockDevice{drive("sda", "write back"), drive("sdb", "write back")}
		}), 0, 4096, 200, Unfit, "of 32 syncs 0 told sda, sdb"},
		{"one that counts and one that does not", with(func(p *disk.Place) {
			mute := drive("sdb", "write back")
			mute.Number, mute.Counts = "mute", false
			p.Devices = []disk.BlockDevice{drive("sda", "write back"), mute}
		}), 0, 0, 200, NothingFound, "Nothing"},
		{"a loop device that is not told", with(func(p *disk.Place) {
			loop := drive("loop0", "write back")
			loop.Backing = "/image"
			p.Devices = []disk.BlockDevice{loop}
		}), 0, 4096, 200, Unfit, "told loop0 to empty"},
		{"too fast", good, 1, 4096, 4, Suspect, "which no disk can do"},
		{"turning too fast", with(func(p *disk.Place) {
			d := drive("sda", "write back")
			d.Rotational = true
			p.Devices = []disk.BlockDevice{d}
		}), 1, 4096, 200, Suspect, "the disk says that it turns"},
		{"a virtual disk", with(func(p *disk.Place) {
			d := drive("vda", "write back")
			d.Rotational = true // so they say
			p.Devices = []disk.BlockDevice{d}
		}), 1, 4096, 200, NothingFound, "Nothing"},
		{"overlay", with(func(p *disk.Place) { p.FileSystem = "overlay" }), 1, 4096, 200, Suspect, "a container's layer"},
		{"volatile overlay", with(func(p *disk.Place) { p.FileSystem, p.Options = "overlay", []string{"volatile"} }), 1, 4096, 200, Unfit, "syncs do nothing"},
		{"a server", with(func(p *disk.Place) { p.FileSystem, p.Devices = "nfs4", nil }), 0, 0, 900, Suspect, "the server's export"},
		{"FUSE", with(func(p *disk.Place) { p.FileSystem, p.Devices = "fuse.sshfs", nil }), 0, 0, 900, Suspect, "decided by a process"},
		{"an old kernel", with(func(p *disk.Place) { p.Kernel = "3.10.0-1160.el7" }), 1, 4096, 200, Suspect, "before 4.13"},
		{"read-only", with(func(p *disk.Place) { p.Options = []string{"ro"} }), 0, 0, 0, Unfit, "nothing can be written"},
		{"errors=continue", with(func(p *disk.Place) { p.Options = []string{"errors=continue"} }), 1, 4096, 200, Suspect, "remount-ro is safer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newFakeDisk(1, 0)
			o := d.options(t)
			syncs := uint64(0)
			o.fs = disk.Record(o.fs, func(op disk.Op) {
				if op.Done() && op.Kind == disk.OpSync && strings.HasSuffix(op.Name, "flushes") {
					syncs++
				}
			})
			o.locate = func(string) (*disk.Place, error) { return &tc.place, nil }
			o.counters = func(d disk.BlockDevice) (disk.Counters, bool) {
				if d.Number == "idle" {
					return disk.Counters{}, true
				}
				return disk.Counters{Flushes: syncs * tc.flushes, Written: syncs * tc.written}, d.Counts
			}
			o.measure = func(context.Context, string) (*bench.DiskReport, error) { return timed(tc.us), nil }
			r, err := Inspect(t.Context(), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict != tc.verdict || !strings.Contains(strings.Join(r.Words, "\n"), tc.says) {
				t.Errorf("%s, want %s: want %q in\n%s\nfound %+v", r.Verdict, tc.verdict, tc.says, strings.Join(r.Words, "\n"), r.Findings)
			}
			if r.Verdict.Bad() != (tc.verdict == Unfit) {
				t.Errorf("bad: %t", r.Verdict.Bad())
			}
			if r.Cut != nil || slices.Contains(r.Tested, "a restart under load") {
				t.Errorf("it claims a cut: %+v", r)
			}
			if left := readAll(t, d.fs(), "/disk"); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestUnknownSystem: where the system tells nothing, the operations are tried.
func TestUnknownSystem(t *testing.T) {
	o := newFakeDisk(1, 0).options(t)
	o.locate = func(string) (*disk.Place, error) { return nil, errors.ErrUnsupported }
	r, err := Inspect(t.Context(), o, nil)
	if err != nil || r.Verdict != NothingFound || r.Place != nil || r.SyncTime.P50 != 200 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestBrokenOperations fails each operation of a file system that Inspect tries:
// it is found, or ends the inspection, and never passes.
func TestBrokenOperations(t *testing.T) {
	broken := errors.New("broken")
	for _, kind := range []disk.OpKind{
		disk.OpCreate, disk.OpOpen, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpLock, disk.OpWrite, disk.OpSync, disk.OpTruncate, disk.OpRead,
	} {
		for at := range 3 {
			o := newFakeDisk(1, 0).options(t)
			f := disk.NewFaulty(o.fs)
			f.Inject(disk.Fault{Kinds: []disk.OpKind{kind}, At: at, Err: broken})
			o.fs = f
			r, err := Inspect(t.Context(), o, nil)
			switch {
			case f.Fired() == 0:
			case err != nil && isErr(err, broken):
			case err == nil && r.Verdict == Unfit:
			default:
				t.Errorf("%s %d failed: %v, %+v", kind, at, err, r)
			}
			if f.Fired() == 0 && at == 0 {
				t.Errorf("%s is never tried", kind)
			}
		}
	}
}

// TestLocksThatDoNot: a file system that lets two openers in is unfit.
func TestLocksThatDoNot(t *testing.T) {
	o := newFakeDisk(1, 0).options(t)
	o.fs = lockless{o.fs}
	if r, err := Inspect(t.Context(), o, nil); err != nil || r.Verdict != Unfit {
		t.Errorf("%+v, %v", r, err)
	}
}

type lockless struct{ disk.FS }

func (lockless) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// TestJudge: the worst that was found decides, and no verdict claims more than
// the cut that was made.
func TestJudge(t *testing.T) {
	against, suspicion := Finding{"a", Against, "wrong"}, Finding{"b", Suspicion, "odd"}
	cut := func(change func(c *CutResult)) *CutResult {
		c := &CutResult{Kind: KindShutdown, Cuts: 4, Acknowledged: 12345, Unsynced: 100, Dropped: 50}
		if change != nil {
			change(c)
		}
		return c
	}
	power := func(c *CutResult) { c.Kind, c.Cuts, c.Restarted = KindPower, 1, true }
	for _, tc := range []struct {
		name     string
		findings []Finding
		cut      *CutResult
		verdict  Verdict
		says     string
		not      string
	}{
		{"nothing", nil, nil, NothingFound, "Nothing was found", "ertified"},
		{"odd", []Finding{suspicion}, nil, Suspect, "b: odd", "ertified"},
		{"wrong", []Finding{suspicion, against}, nil, Unfit, "a: wrong", "ertified"},
		{"shutdowns", nil, cut(nil), Certified, "Certified over 4 shutdowns of the file system: 0 of 12,345 acknowledged steps lost, while 50 of 100 blocks", "--witness"},
		{"what shutdowns leave out", nil, cut(nil), Certified, "Not tested: a power cut: what the device does with its cache", ""},
		{"power", nil, cut(power), Certified, "Certified over 1 power cut: 0 of", "Not tested: a power cut"},
		{"odd power", []Finding{suspicion}, cut(power), Certified, "b: odd", ""},
		{"wrong power", []Finding{against}, cut(power), Unfit, "excuses none of this", "ertified over"},
		{"some were none", nil, cut(func(c *CutResult) { c.Gentle = 1 }), Certified, "Certified over 3 shutdowns", ""},
		{"none was one", nil, cut(func(c *CutResult) { c.Gentle = 4 }), Inconclusive, "A cut that drops nothing proves nothing", "ertified"},
		{"no restart", nil, cut(func(c *CutResult) { power(c); c.Restarted = false }), Inconclusive, "not started anew", "ertified"},
		{"no load", nil, cut(func(c *CutResult) { c.Acknowledged = 0 }), Inconclusive, "hardly anything", "ertified"},
		{"lost", nil, cut(func(c *CutResult) { c.Lost = 1 }), Dishonest, "NOT HONEST: over 4 shutdowns of the file system, of 12,345 acknowledged steps 1 things were lost", "ertified"},
		{"torn", []Finding{against}, cut(func(c *CutResult) { c.Torn = 1 }), Dishonest, "a: wrong", "ertified"},
		{"lost, and nothing dropped", nil, cut(func(c *CutResult) { c.Reappeared, c.Gentle = 1, 4 }), Dishonest, "Did somebody remove files?", "ertified"},
		{"lost without a restart", nil, cut(func(c *CutResult) { power(c); c.Restarted, c.Lost = false, 1 }), Dishonest, "NOT HONEST", "ertified"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &Report{Findings: tc.findings, Cut: tc.cut}
			r.judge()
			words := strings.Join(r.Words, "\n")
			if r.Verdict != tc.verdict || !strings.Contains(words, tc.says) {
				t.Errorf("%s, want %s, and %q in\n%s", r.Verdict, tc.verdict, tc.says, words)
			}
			if tc.not != "" && strings.Contains(words, tc.not) {
				t.Errorf("it says %q:\n%s", tc.not, words)
			}
		})
	}
}
