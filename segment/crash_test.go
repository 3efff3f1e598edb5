package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// A power cut is what a disk may hold after one, and what must be in it.
type powerCut struct {
	at            string
	mem           *disk.Mem
	created       bool
	gone, durable int
}

// TestPowerCuts runs a life of a volume, with rolls, recycling, a release and
// two openings, cuts the power after every operation that changes anything,
// and opens what is left: every segment that has a name verifies, every frame
// that was durable is there, and the volume goes on; then the power is cut
// again.
func TestPowerCuts(t *testing.T) {
	mem := disk.NewMem()
	var created atomic.Bool
	var gone, durable atomic.Int64
	var mu sync.Mutex
	var cuts []powerCut
	fs := disk.Record(mem, func(op disk.Op) {
		if !mutates(op) {
			return
		}
		for i, survive := range []float64{0, 0.5} {
			mem := mem.CrashClone(rand.New(rand.NewPCG(op.Event, uint64(i))), survive)
			mu.Lock()
			cuts = append(cuts, powerCut{fmt.Sprintf("after %d (%s), %.1f survives", op.Event, op, survive), mem,
				created.Load(), int(gone.Load()), int(durable.Load())})
			mu.Unlock()
		}
	})
	o := testOptions(fs)
	o.Spares = 2
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	created.Store(true)
	n := 0
	for range 3 {
		j, last, err := reopen(o, int(gone.Load()), n)
		if err != nil {
			t.Fatal(err)
		}
		if last != n {
			t.Fatalf("drafts end at %d, want %d", last, n)
		}
		for range 16 {
			n++
			if _, err := j.Append(testDraft(uint64(n), n*1900%24_000)); err != nil {
				t.Fatal(err)
			}
			if n%5 == 0 {
				continue // two writes, one sync
			}
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			durable.Store(int64(n))
		}
		awaitPool(t, j)
		if ids := j.Segments(); len(ids) > 2 {
			gone.Store(int64(lastBefore(t, j, ids[len(ids)-2])))
			if err := j.Release(j.Below(ids[len(ids)-2])); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(cuts) < 200 {
		t.Fatalf("%d power cuts", len(cuts))
	}
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < len(cuts); i += 2 {
				if err := cuts[i].check(); err != nil {
					t.Errorf("%s: %v", cuts[i].at, err)
				}
			}
		})
	}
	wg.Wait()
}

// lastBefore returns the number of the last draft before a segment.
func lastBefore(t *testing.T, j *Journal, id ID) (n int) {
	t.Helper()
	found, _, err := survivors(j)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range found {
		if s.end.End.Segment < id {
			n = max(n, s.n)
		}
	}
	return n
}

func (c *powerCut) check() error {
	o := testOptions(c.mem)
	o.Spares = 2
	o.Rand = rand.NewChaCha8([32]byte{2}) // a later life draws other salts
	j, last, err := reopen(o, c.gone, c.durable)
	if !c.created && errors.Is(err, ErrNotVolume) {
		return Create(o) // nothing was promised yet, and nothing is in the way
	}
	if err != nil {
		return err
	}
	for range 2 {
		last++
		_, err := j.Append(testDraft(uint64(last), 9000))
		if err == nil {
			err = j.Sync()
		}
		if err != nil {
			return errors.Join(err, j.Close())
		}
	}
	o.FS = c.mem.CrashClone(rand.New(rand.NewPCG(3, 4)), 0.5)
	if err := j.Close(); err != nil {
		return err
	}
	j, _, err = reopen(o, c.gone, last)
	if err != nil {
		return fmt.Errorf("after the second cut: %w", err)
	}
	return j.Close()
}

// TestFailedDirectorySync has the sync fail that makes a name durable, or its
// going away. What is seen then is more than the disk will ever have, and a later
// sync succeeds without it; so whoever opens the volume next, in the same life of
// the machine, must not find it and build on it.
func TestFailedDirectorySync(t *testing.T) {
	t.Run("a volume's name", func(t *testing.T) {
		mem := disk.NewMem()
		fs := disk.NewFaulty(mem)
		o := testOptions(fs)
		fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSyncDir}})
		if err := Create(o); err == nil {
			t.Fatal("created although its name is not durable")
		}
		if j, err := Open(o); err == nil {
			defer j.Close()
			if _, err := j.Resume(Resume{}); err != nil {
				t.Fatal(err)
			}
		} else if !errors.Is(err, ErrNotVolume) {
			t.Fatal(err)
		}
		cut := powerCut{mem: mem.CrashClone(nil, 1)}
		if err := cut.check(); err != nil {
			t.Error(err)
		}
	})
	for _, spares := range []int{2, 4} { // segments that are released are removed, or recycled
		t.Run(fmt.Sprintf("a segment's name, %d spares", spares), func(t *testing.T) {
			mem := disk.NewMem()
			fs := disk.NewFaulty(mem)
			o := testOptions(fs)
			o.Spares = spares
			j := newJournal(t, o)
			n := uint64(0)
			for len(j.Segments()) < 6 {
				n++
				if _, err := j.Append(testDraft(n, 20_000)); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			awaitPool(t, j)
			gone := lastBefore(t, j, 2)
			fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSyncDir}})
			if err := j.Release(j.Below(2)); !errors.Is(err, ErrPoisoned) {
				t.Fatalf("release: %v", err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			// Whatever the next process sees of it, it may release some more.
			j, _, err := reopen(o, gone, int(n))
			if err != nil {
				t.Fatal(err)
			}
			gone = lastBefore(t, j, 4)
			if err := j.Release(j.Below(4)); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			cut := powerCut{mem: mem.CrashClone(nil, 1), created: true, gone: gone, durable: int(n)}
			if err := cut.check(); err != nil {
				t.Error(err)
			}
		})
	}
}
