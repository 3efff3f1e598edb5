package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestTranscript runs testdata/transcript: scripts of operations on
// Record(Faulty(Mem)), and what the recorder says of them.
//
//	run [events]      the lines of the input, one operation each; with events,
//	                  both ends of each operation and their numbers are printed
//	  create NAME, open NAME [writing], close NAME, sync NAME, size NAME
//	  write NAME OFFSET LENGTH, read NAME OFFSET LENGTH, truncate NAME SIZE
//	  rename FROM TO, remove NAME, list, mkdir-all, sync-dir, free, lock, unlock
//	fail KIND AT      inject EIO; further arguments: short, late, sticky
//	crash             print what a crash leaves that nothing unsynced survives
func TestTranscript(t *testing.T) {
	datadriven.Walk(t, "testdata/transcript", func(t *testing.T, path string) {
		var out strings.Builder
		events := false
		mem := NewMem()
		faulty := NewFaulty(mem)
		fsys := Record(faulty, func(op Op) {
			switch {
			case events && op.Done():
				fmt.Fprintf(&out, "%2d ends %2d: %s\n", op.Event, op.Began, op)
			case events:
				fmt.Fprintf(&out, "%2d begins:  %s\n", op.Event, op)
			case op.Done():
				fmt.Fprintln(&out, op)
			}
		})
		r := runner{fs: fsys, files: map[string]File{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out.Reset()
			switch d.Cmd {
			case "run":
				events = d.HasArg("events")
				for line := range strings.Lines(d.Input) {
					// The transcript has the error.
					_ = r.run(t, strings.Fields(line))
				}
			case "fail":
				f := Fault{Kinds: []OpKind{kindOf(t, d.CmdArgs[0].Key)}}
				f.At, _ = strconv.Atoi(d.CmdArgs[1].Key)
				f.Short, f.Late, f.Sticky = d.HasArg("short"), d.HasArg("late"), d.HasArg("sticky")
				faulty.Inject(f)
			case "crash":
				entries, err := mem.CrashClone(nil, 0).List("/vol")
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				for _, e := range entries {
					fmt.Fprintf(&out, "%s %d\n", e.Name, e.Size)
				}
			default:
				d.Fatalf(t, "no such command")
			}
			return out.String()
		})
	})
}

type runner struct {
	fs    FS
	files map[string]File
	lock  io.Closer
}

func (r *runner) run(t *testing.T, words []string) error {
	arg := func(i int) string { return words[i] }
	path := func(i int) string { return "/vol/" + arg(i) }
	number := func(i int) int64 {
		n, err := strconv.ParseInt(arg(i), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	keep := func(f File, err error) error {
		if err == nil {
			r.files[arg(1)] = f
		}
		return err
	}
	var err error
	switch words[0] {
	case "create":
		err = keep(r.fs.Create(path(1)))
	case "open":
		err = keep(r.fs.Open(path(1), len(words) > 2))
	case "close":
		err = r.files[arg(1)].Close()
	case "sync":
		err = r.files[arg(1)].Sync()
	case "size":
		_, err = r.files[arg(1)].Size()
	case "write":
		_, err = r.files[arg(1)].WriteAt(make([]byte, number(3)), number(2))
	case "read":
		_, err = r.files[arg(1)].ReadAt(make([]byte, number(3)), number(2))
	case "truncate":
		err = r.files[arg(1)].Truncate(number(2))
	case "rename":
		err = r.fs.Rename(path(1), path(2))
	case "remove":
		err = r.fs.Remove(path(1))
	case "list":
		_, err = r.fs.List("/vol")
	case "mkdir-all":
		err = r.fs.MkdirAll("/vol")
	case "sync-dir":
		err = r.fs.SyncDir("/vol")
	case "free":
		_, err = r.fs.Free("/vol")
	case "lock":
		var lock io.Closer
		if lock, err = r.fs.Lock("/vol/LOCK"); err == nil {
			r.lock = lock
		}
	case "unlock":
		err = r.lock.Close()
	default:
		t.Fatalf("no such operation: %v", words)
	}
	return err
}

func kindOf(t *testing.T, name string) OpKind {
	t.Helper()
	for k := OpCreate; k <= OpClose; k++ {
		if k.String() == name {
			return k
		}
	}
	t.Fatalf("no such kind: %s", name)
	return 0
}

// TestRecordOrdersSyncAndWrite hangs a sync at its start, lets a write return
// meanwhile, and sees that the sync is not said to cover it.
func TestRecordOrdersSyncAndWrite(t *testing.T) {
	faulty := NewFaulty(NewMem())
	hung, release := make(chan struct{}), make(chan struct{})
	faulty.Before(func(op Op) error {
		if op.Kind == OpSync {
			close(hung)
			<-release
			faulty.Before(nil)
		}
		return nil
	})
	var ops []Op
	f, err := Record(faulty, func(op Op) { ops = append(ops, op) }).Create("f")
	if err != nil {
		t.Fatal(err)
	}
	write := func(at int64) {
		t.Helper()
		if _, err := f.WriteAt([]byte("x"), at); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	synced := make(chan error)
	go func() { synced <- f.Sync() }()
	<-hung
	write(1)
	close(release)
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}

	ended := func(kind OpKind, nth int) Op {
		t.Helper()
		for _, op := range ops {
			if op.Kind == kind && op.Done() {
				if nth == 0 {
					return op
				}
				nth--
			}
		}
		t.Fatalf("no such %s in %v", kind, ops)
		return Op{}
	}
	for _, c := range []struct {
		write, sync int
		covered     bool
	}{{0, 0, true}, {1, 0, false}, {0, 1, true}, {1, 1, true}} {
		w, s := ended(OpWrite, c.write), ended(OpSync, c.sync)
		if w.Before(s) != c.covered {
			t.Errorf("write %d (events %d-%d) before sync %d (events %d-%d): %t, want %t",
				c.write, w.Began, w.Event, c.sync, s.Began, s.Event, !c.covered, c.covered)
		}
	}
	for i, op := range ops {
		if op.Event != uint64(i+1) {
			t.Errorf("event %d came in place %d", op.Event, i+1)
		}
		if !op.Done() && op.Before(ended(OpSync, 1)) {
			t.Errorf("%s had only begun, and is said to be before the last sync", op)
		}
	}
}

func TestOpKindString(t *testing.T) {
	for k := OpCreate; k <= OpClose; k++ {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
	for _, k := range []OpKind{0, OpClose + 1} {
		if got, want := k.String(), fmt.Sprintf("op(%d)", k); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// scenario makes a file as the engine does: under another name, complete and
// synced before it gets its own; then it is read back, and an old one removed.
// It stops at the first error.
func scenario(fsys FS) (err error) {
	must := func(e error) {
		if e != nil {
			panic(e)
		}
	}
	defer func() {
		if e, ok := recover().(error); ok {
			err = e
		}
	}()
	must(fsys.MkdirAll("/vol"))
	lock, err := fsys.Lock("/vol/LOCK")
	must(err)
	defer func() { err = errors.Join(err, lock.Close()) }()
	_, err = fsys.Free("/vol")
	must(err)
	f, err := fsys.Create("/vol/tmp")
	must(err)
	must(f.Truncate(3))
	_, err = f.WriteAt([]byte("whole"), 0)
	must(err)
	must(f.Sync())
	must(f.Close())
	must(fsys.Rename("/vol/tmp", "/vol/final"))
	must(fsys.SyncDir("/vol"))
	f, err = fsys.Open("/vol/final", false)
	must(err)
	size, err := f.Size()
	must(err)
	_, err = f.ReadAt(make([]byte, size), 0)
	must(err)
	must(f.Close())
	_, err = fsys.List("/vol")
	must(err)
	must(fsys.Remove("/vol/final"))
	return nil
}

// TestEveryFault fails each operation of the scenario in each way: the
// scenario ends with that error, and a file that has its name is whole.
func TestEveryFault(t *testing.T) {
	for _, way := range []Fault{
		{}, {Err: syscall.ENOSPC}, {Short: true}, {Late: true}, {Sticky: true},
	} {
		t.Run(fmt.Sprintf("%+v", way), func(t *testing.T) {
			kinds := map[OpKind]bool{}
			n := 0
			for ; ; n++ {
				mem := NewMem()
				f := NewFaulty(mem)
				way.At = n
				f.Inject(way)
				var failed Op
				err := scenario(Record(f, func(op Op) {
					if failed.Err == nil {
						failed = op
					}
				}))
				if f.Fired() == 0 {
					if err != nil {
						t.Fatalf("without a fault: %v", err)
					}
					break
				}
				want := way.Err
				switch {
				case way.Short && failed.Kind == OpWrite:
					want = io.ErrShortWrite
				case want == nil:
					want = syscall.EIO
				}
				var pe *fs.PathError
				if !errors.Is(err, want) || !errors.As(err, &pe) || pe.Path == "" {
					t.Errorf("operation %d, %s: scenario ended with %v, want %v", n, failed, err, want)
				}
				if !way.Sticky && f.Fired() != 1 {
					t.Errorf("operation %d: fired %d times", n, f.Fired())
				}
				kinds[failed.Kind] = true
				for _, survive := range []float64{0, 1} {
					if got, ok := dump(t, mem.CrashClone(nil, survive))["/vol/final"]; ok && got != "whole" {
						t.Errorf("operation %d, %s: final holds %q after a crash", n, failed, got)
					}
				}
			}
			if want := int(OpClose); len(kinds) != want {
				t.Errorf("%d operations of %d kinds failed, the scenario should have all %d", n, len(kinds), want)
			}
		})
	}
}

func TestFaultySticky(t *testing.T) {
	f := NewFaulty(NewMem())
	f.Inject(Fault{At: 1, Kinds: []OpKind{OpCreate}, Err: syscall.ENOSPC, Sticky: true})
	for i, want := range []error{nil, syscall.ENOSPC, syscall.ENOSPC} {
		_, err := f.Create(strconv.Itoa(i))
		if !errors.Is(err, want) {
			t.Errorf("create %d: %v, want %v", i, err, want)
		}
		if _, err := f.List("/"); err != nil {
			t.Errorf("list: %v", err)
		}
	}
	f.Clear()
	if _, err := f.Create("3"); err != nil {
		t.Errorf("create after Clear: %v", err)
	}
	if f.Fired() != 2 {
		t.Errorf("fired %d times, want 2", f.Fired())
	}
	f.Inject(Fault{At: 1})
	if f.Fired() != 0 {
		t.Errorf("a new fault has fired %d times", f.Fired())
	}
}

// TestFaultyLeavesNothingOpen looks beneath: what was opened by an operation
// that is then reported as failed is closed, and closing is never left out.
func TestFaultyLeavesNothingOpen(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Kinds: []OpKind{OpCreate}, Late: true}, "create f; close f"},
		{Fault{Kinds: []OpKind{OpLock}, Late: true}, "create f; close f; lock LOCK; unlock LOCK"},
		{Fault{Kinds: []OpKind{OpClose}}, "create f; close f; lock LOCK; unlock LOCK"},
		{Fault{Kinds: []OpKind{OpUnlock}}, "create f; close f; lock LOCK; unlock LOCK"},
	} {
		var did []string
		faulty := NewFaulty(Record(NewMem(), func(op Op) {
			if op.Done() {
				did = append(did, op.String())
			}
		}))
		faulty.Inject(c.fault)
		var failures []error
		if f, err := faulty.Create("f"); err != nil {
			failures = append(failures, err)
		} else if err := f.Close(); err != nil {
			failures = append(failures, err)
		}
		if c.fault.Kinds[0] != OpCreate {
			if lock, err := faulty.Lock("LOCK"); err != nil {
				failures = append(failures, err)
			} else if err := lock.Close(); err != nil {
				failures = append(failures, err)
			}
		}
		if len(failures) != 1 || !errors.Is(failures[0], syscall.EIO) {
			t.Errorf("%s: failures %v, want one", c.fault.Kinds[0], failures)
		}
		if got := strings.Join(did, "; "); got != c.want {
			t.Errorf("%s: beneath it was %q, want %q", c.fault.Kinds[0], got, c.want)
		}
	}
}

// TestFaultyBefore: the hook's error is the operation's, and a sync that fails
// by it has dropped what it was to cover, through every wrapper.
func TestFaultyBefore(t *testing.T) {
	mem := NewMem()
	faulty := NewFaulty(Record(mem, func(Op) {}))
	fsys := Record(faulty, func(Op) {})
	f, err := fsys.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("lost"), 0); err != nil {
		t.Fatal(err)
	}
	var asked []Op
	faulty.Before(func(op Op) error {
		asked = append(asked, op)
		return syscall.EDQUOT
	})
	for range 2 {
		if err := f.Sync(); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("sync: %v, want EDQUOT", err)
		}
		if err := fsys.SyncDir("/"); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("sync-dir: %v, want EDQUOT", err)
		}
	}
	if got, want := fmt.Sprint(asked), "[sync f sync-dir sync f sync-dir]"; got != want {
		t.Errorf("asked before %s, want %s", got, want)
	}
	faulty.Before(nil)
	if err := errors.Join(f.Sync(), fsys.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, mem.CrashClone(nil, 1)); len(got) != 0 {
		t.Errorf("a crash left %v, want nothing of what the failed syncs were to cover", got)
	}
}
