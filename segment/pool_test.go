package segment

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// TestPrepareRate writes a spare at 128 MiB/s, by a clock that only moves when
// everybody waits.
func TestPrepareRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(disk.NewMem())
		o.SegmentSize, o.PrepareRate = limits.DefaultSegmentSize, 0
		var took []time.Duration
		o.Events.Prepared = func(size int64, d time.Duration) {
			if size != limits.DefaultSegmentSize {
				t.Errorf("a spare of %d bytes", size)
			}
			took = append(took, d)
		}
		j := newJournal(t, o)
		awaitPool(t, j)
		synctest.Wait() // the last one is told when it is counted already
		if len(took) != 2 || took[0] != 500*time.Millisecond || took[1] != 500*time.Millisecond {
			t.Errorf("64 MiB at 128 MiB/s took %v", took)
		}
	})
}

// TestPrepareKeepsUp rolls through many segments at a rate that would take a
// minute for each: the preparer must not hold up frames that come faster.
func TestPrepareKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(disk.NewMem())
		o.PrepareRate = limits.MinSegmentSize / 60
		j := newJournal(t, o)
		began := time.Now()
		for j.Segments()[len(j.Segments())-1] < 20 {
			appendSync(t, j, rawDraft("x", 10_000))
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("20 segments took %v", took)
		}
	})
}

// TestPrepareFails wants a failure told, counted as no room, retried, and
// forgotten once a spare is there.
func TestPrepareFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		fs := disk.NewFaulty(mem)
		o := testOptions(fs)
		o.Spares = 2
		failed := 0
		o.Events.PrepareFailed = func(err error) { failed++ }
		j := newJournal(t, o)
		awaitPool(t, j)
		fs.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpCreate}, Sticky: true})
		for range 5 {
			appendSync(t, j, rawDraft("x", 10_000))
		}
		synctest.Wait()
		if s := j.Space(); failed == 0 || s.PrepareError == nil || s.Spares != 1 {
			t.Fatalf("told %d times, %+v", failed, s)
		}
		// An append may have woken it for another attempt at once: each doubles the wait.
		once := failed
		if err := j.Admit(j.MaxFrame(), Reserve{}); !errors.Is(err, ErrNoSpace) {
			t.Errorf("admit: %v", err)
		}
		if err := j.WaitSpace(t.Context(), j.MaxFrame(), Reserve{}); err != nil {
			t.Errorf("waiting for what cannot be said: %v", err)
		}
		<-time.After(retryMin<<(once-1) + retryMin/2)
		synctest.Wait()
		if failed != once+1 {
			t.Errorf("%d attempts more", failed-once)
		}
		if j.Poisoned() != nil {
			t.Errorf("poisoned by the preparer: %v", j.Poisoned())
		}
		fs.Clear()
		<-time.After(retryMin << (once + 1))
		synctest.Wait()
		if s := j.Space(); s.PrepareError != nil || s.Spares != 2 {
			t.Errorf("%+v", s)
		}
		for _, name := range names(t, mem) {
			if r, _, err := classify(name); r == roleTmp || err != nil {
				t.Errorf("left %q", name)
			}
		}
	})
}

// holdPreparer keeps the preparer from beginning a spare until the returned
// func is called.
func holdPreparer(fs *disk.Faulty) (release func()) {
	gate := make(chan struct{})
	fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpFree {
			<-gate
		}
		return nil
	})
	return func() { close(gate) }
}

// TestAdmissionWaits has frames come faster than spares: what leaves the reserve
// alone is told to wait for the preparer, what may take it is not, and both find
// what they were promised.
func TestAdmissionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewFaulty(disk.NewMem())
		o := testOptions(fs)
		o.Spares = 2
		j := newJournal(t, o)
		awaitPool(t, j)
		release := holdPreparer(fs)
		for range 8 { // fills the first and the second
			appendSync(t, j, rawDraft("x", 10_000))
		}
		if s := j.Space(); s.Spares != 1 {
			t.Fatalf("%+v", s)
		}
		for use, want := range map[SpareUse]error{LeaveSpare: ErrPreparing, KeepSpare: ErrPreparing, TakeSpare: nil} {
			if err := j.Admit(j.MaxFrame(), Reserve{Spare: use}); !errors.Is(err, want) {
				t.Errorf("with %d: %v, want %v", use, err, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := j.WaitSpace(ctx, j.MaxFrame(), Reserve{}); !errors.Is(err, context.Canceled) {
			t.Errorf("WaitSpace: %v", err)
		}
		waited := make(chan error)
		go func() { waited <- j.WaitSpace(t.Context(), j.MaxFrame(), Reserve{}) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("did not wait: %v", err)
		default:
		}
		release()
		if err := <-waited; err != nil {
			t.Error(err)
		}
		if err := j.Admit(j.MaxFrame(), Reserve{}); err != nil {
			t.Error(err)
		}
		if w := appendSync(t, j, rawDraft("x", 10_000)); !w.Rolled || w.Ref.Pos.Segment != 3 {
			t.Errorf("%+v", w)
		}
		// More than the segments take that are kept ready: it never will be there
		// at once.
		awaitPool(t, j)
		if err := j.Admit(3*j.MaxFrame(), Reserve{}); !errors.Is(err, ErrCrowded) {
			t.Errorf("%v", err)
		}
	})
}

// TestCloseEndsWaiting closes a journal whose roll waits for a spare.
func TestCloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := disk.NewFaulty(disk.NewMem())
		o := testOptions(fs)
		o.Spares = 2
		j := newJournal(t, o)
		awaitPool(t, j)
		release := holdPreparer(fs)
		for range 12 { // takes the last spare
			appendSync(t, j, rawDraft("x", 10_000))
		}
		errs := make(chan error)
		go func() {
			_, err := j.Append(rawDraft("x", 10_000))
			errs <- err
		}()
		waited := make(chan error)
		go func() { waited <- j.WaitSpace(t.Context(), j.MaxFrame(), Reserve{}) }()
		synctest.Wait()
		go func() { errs <- j.Close() }()
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
		if err := <-waited; err != nil {
			t.Errorf("WaitSpace: %v", err)
		}
		release()
		if err := <-errs; err != nil {
			t.Error(err)
		}
		if _, err := j.Append(rawDraft("x", 1)); !errors.Is(err, ErrClosed) {
			t.Errorf("append: %v", err)
		}
		if err := j.Admit(1, Reserve{}); !errors.Is(err, ErrClosed) {
			t.Errorf("admit: %v", err)
		}
	})
}

// TestFullDisk appends what is admitted until nothing is: all of it lands, the
// reserve stays for those who may take it, and a release makes room again.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		o := testOptions(mem)
		o.Spares = 2
		mem.SetCapacity(6*limits.MinSegmentSize + 2*limits.BlockSize)
		j := newJournal(t, o)
		frame := FrameSize(1, 1, 10_000)
		fill := func(leave Reserve) (n int) {
			for {
				synctest.Wait() // the preparer has done, or failed at, what it could
				err := j.Admit(frame, leave)
				if err != nil {
					if !errors.Is(err, ErrNoSpace) {
						t.Fatal(err)
					}
					return n
				}
				appendSync(t, j, rawDraft("x", 10_000))
				n++
			}
		}
		if n := fill(Reserve{}); n < 16 {
			t.Errorf("%d frames", n)
		}
		if s := j.Space(); s.Usable < j.SegmentTakes() || s.PrepareError == nil {
			t.Errorf("%+v", s)
		}
		if n := fill(Reserve{Spare: TakeSpare}); n < 4 {
			t.Errorf("%d frames into the reserve", n)
		}
		if _, err := j.Append(rawDraft("x", 10_000)); !errors.Is(err, ErrNoSpace) {
			t.Errorf("appended without asking: %v", err)
		}
		if err := j.Poisoned(); err != nil {
			t.Fatal(err)
		}
		ids := j.Segments()
		if err := j.Release(j.Below(ids[len(ids)-1])); err != nil {
			t.Fatal(err)
		}
		if err := j.Admit(frame, Reserve{}); err != nil {
			t.Errorf("after a release: %v", err)
		}
		if w := appendSync(t, j, rawDraft("x", 10_000)); !w.Rolled {
			t.Errorf("%+v", w)
		}
	})
}

// TestAdmitWhileItRolls asks for room in the last spare while a frame rolls into
// it: what is neither a spare any more nor the current segment yet is still room.
func TestAdmitWhileItRolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		faulty := disk.NewFaulty(mem)
		o := testOptions(faulty)
		o.Spares = 2
		mem.SetCapacity(4*limits.MinSegmentSize + 2*limits.BlockSize)
		j := newJournal(t, o)
		frame := FrameSize(1, 1, 10_000)
		for {
			synctest.Wait() // the preparer has done, or failed at, what it could
			if err := j.Admit(frame, Reserve{}); errors.Is(err, ErrNoSpace) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			appendSync(t, j, rawDraft("x", 10_000))
		}
		var asked atomic.Int64 // the preparer asks too
		faulty.Before(func(op disk.Op) error {
			asked.Add(1)
			if err := j.Admit(2*frame, Reserve{Spare: TakeSpare}); err != nil { // the frame that rolls, and one behind it
				t.Errorf("before %v: %v", op, err)
			}
			if s := j.Space(); s.Usable < 2*frame {
				t.Errorf("before %v: %+v", op, s)
			}
			return nil
		})
		for {
			if err := j.Admit(frame, Reserve{Spare: TakeSpare}); err != nil {
				t.Fatal(err)
			}
			if w := appendSync(t, j, rawDraft("x", 10_000)); w.Rolled {
				break
			}
		}
		faulty.Before(nil)
		if n := asked.Load(); n < 6 {
			t.Errorf("asked before %d operations", n)
		}
	})
}

// TestSegmentsFor fills segments with frames in every order of sizes that adds
// up, and wants the bound to hold.
func TestSegmentsFor(t *testing.T) {
	const each = 6
	var fill func(pending, remaining, used int64) int64
	fill = func(pending, remaining, used int64) (most int64) {
		most = used
		for size := int64(1); size <= min(pending, each); size++ {
			if size <= remaining {
				most = max(most, fill(pending-size, remaining-size, used))
			} else {
				most = max(most, fill(pending-size, each-size, used+1))
			}
		}
		return most
	}
	for remaining := range int64(each + 1) {
		for pending := range int64(15) {
			if most, bound := fill(pending, remaining, 0), segmentsFor(pending, remaining, each); most > int64(bound) {
				t.Errorf("%d pending, %d remaining: %d segments, the bound is %d", pending, remaining, most, bound)
			}
		}
	}
}

// TestPins releases segments of which an older one is read: nothing goes that
// would leave a gap behind it, and everything once it is not read any more.
func TestPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := disk.NewMem()
		o := testOptions(fsys)
		var released []ID
		o.Events.Released = func(id ID, _ bool) { released = append(released, id) }
		j := newJournal(t, o)
		for range 17 {
			appendSync(t, j, rawDraft("x", 10_000))
		}
		r := mustReader(t, j, 2)
		again := mustReader(t, j, 2)
		if err := j.Release(j.Below(4)); err != nil {
			t.Fatal(err)
		}
		if got := j.Segments(); got[0] != 4 {
			t.Errorf("segments %v", got)
		}
		if len(released) != 1 || released[0] != 1 {
			t.Errorf("while 2 is read: %v went", released)
		}
		if _, err := r.Frame(4096); err != nil {
			t.Error(err)
		}
		for i, r := range []*Reader{r, again} {
			synctest.Wait()
			if len(released) != 1 {
				t.Errorf("%d readers closed: %v went", i, released)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if len(released) != 3 {
			t.Errorf("nobody reads: %v went", released)
		}
		if _, err := fsys.Open("v/0000000000000003.wal", false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
		if err := j.Release(j.Below(1 << 40)); err != nil {
			t.Fatal(err)
		}
		if got := j.Segments(); len(got) != 1 {
			t.Errorf("the segment being written was released: %v", got)
		}
		if w := appendSync(t, j, rawDraft("x", 10)); w.Header.Sequence == 0 {
			t.Errorf("%+v", w)
		}
	})
}
