package segment

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestEveryOperationFails fails every single operation of a life of a volume
// in turn, in each way an operation can fail. Whatever fails, nothing that was
// confirmed is lost; and once a journal in use is poisoned, it stays so and
// asks the disk for nothing more.
func TestEveryOperationFails(t *testing.T) {
	for _, mode := range []struct {
		name  string
		fault disk.Fault
	}{
		{"fails", disk.Fault{}},
		{"fails and has happened", disk.Fault{Late: true}},
		{"writes half", disk.Fault{Short: true, Kinds: []disk.OpKind{disk.OpWrite}}},
		{"fails from then on", disk.Fault{Sticky: true}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			poisoned := 0
			n := 0
			for ; ; n++ {
				mem := disk.NewMem()
				fs := disk.NewFaulty(mem)
				mode.fault.At = n
				fs.Inject(mode.fault)
				var l lifeOfFaults
				l.run(t, fs)
				if l.poisoned {
					poisoned++
				}
				if fs.Fired() == 0 {
					break
				}
				fs.Clear()
				for i, survive := range []float64{0, 0.5} {
					clone := mem.CrashClone(rand.New(rand.NewPCG(uint64(n), uint64(i))), survive)
					cut := powerCut{mem: clone, created: l.created, gone: l.gone, durable: l.durable}
					if err := cut.check(); err != nil {
						t.Fatalf("operation %d, %.1f survives: %v (the run ended with %v)", n, survive, err, l.err)
					}
				}
			}
			if poisoned < 20 {
				t.Errorf("%d of %d faults poisoned the journal", poisoned, n)
			}
		})
	}
}

// lifeOfFaults is one run into a fault, and what was confirmed before.
type lifeOfFaults struct {
	created       bool
	gone, durable int
	poisoned      bool
	err           error // what ended it
}

func (l *lifeOfFaults) run(t *testing.T, fs *disk.Faulty) {
	o := testOptions(fs)
	o.Spares = 2
	if l.err = Create(o); l.err != nil {
		return
	}
	l.created = true
	for range 2 {
		j, last, err := reopen(o, l.gone, l.durable)
		if l.err = err; err != nil {
			return
		}
		if l.err = l.use(t, j, last); l.err != nil {
			l.after(t, fs, j)
		}
		if err := j.Close(); l.err != nil || err != nil {
			l.err = errors.Join(l.err, err)
			return
		}
	}
}

// use appends and releases until something fails.
func (l *lifeOfFaults) use(t *testing.T, j *Journal, n int) error {
	for range 9 {
		n++
		if _, err := j.Append(testDraft(uint64(n), 15_000)); err != nil {
			return err
		}
		if err := j.Sync(); err != nil {
			return err
		}
		l.durable = n
	}
	awaitPool(t, j)
	ids := j.Segments()
	before := ids[len(ids)-1]
	// The first frame of a segment carries its draft's number, whatever the
	// recovery of a fault made of the ones before.
	r, err := j.Reader(before)
	if err != nil {
		return err
	}
	s, err := readSurvivor(r, 4096)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	l.gone = s.n - 1
	return j.Release(j.Below(before))
}

// after checks a journal on which something failed.
func (l *lifeOfFaults) after(t *testing.T, fs *disk.Faulty, j *Journal) {
	cause := j.Poisoned()
	if cause == nil {
		return // a read failed, or a spare could not be had
	}
	l.poisoned = true
	fs.Clear()
	awaitPool(t, j)
	var asked atomic.Int64
	fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpWrite || op.Kind == disk.OpSync || op.Kind == disk.OpRename || op.Kind == disk.OpSyncDir {
			if op.Name != "v" && op.Name[0] != 's' { // the preparer may be at a spare
				asked.Add(1)
			}
		}
		return nil
	})
	defer fs.Before(nil)
	var p *PoisonedError
	_, err := j.Append(testDraft(1, 1))
	for what, err := range map[string]error{"Append": err, "Sync": j.Sync(), "Release": j.Release(j.Below(1 << 40)), "Admit": j.Admit(1, Reserve{Spare: TakeSpare})} {
		if !errors.Is(err, ErrPoisoned) || !errors.As(err, &p) || error(p) != cause {
			t.Errorf("%s on a poisoned journal: %v, want %v", what, err, cause)
		}
	}
	if !errors.Is(l.err, ErrPoisoned) {
		t.Errorf("poisoned with %v, and the caller was told %v", cause, l.err)
	}
	if asked.Load() != 0 {
		t.Errorf("a poisoned journal asked the disk %d times", asked.Load())
	}
	found, _, err := survivors(j)
	if err == nil {
		_, err = checkSurvivors(found, l.gone, l.durable)
	}
	if err != nil {
		t.Errorf("reads of durable frames of a poisoned journal: %v", err)
	}
}
