package disk

import (
	"cmp"
	"io"
	"io/fs"
	"slices"
	"sync"
	"syscall"
)

// Faulty is a file system that fails chosen operations of another. To fail
// every operation of a scenario once:
//
//	for n := 0; ; n++ {
//		f := disk.NewFaulty(disk.NewMem())
//		f.Inject(disk.Fault{At: n})
//		scenario(f)
//		if f.Fired() == 0 {
//			break // the scenario has only n operations
//		}
//	}
//
// An operation that fails has not happened, with the exceptions that Fault
// names, and that of closing: a descriptor is gone also when close fails. When
// a sync fails, a Mem beneath behaves as a kernel may: see Mem.FailSyncDir and
// the package comment.
type Faulty struct {
	wrapped

	mu     sync.Mutex
	fault  Fault
	seen   int // operations of fault.Kinds since Inject
	fired  int
	armed  bool
	before func(Op) error
}

// Fault says which operation fails, and how. The zero value fails the next
// operation of any kind with EIO.
type Fault struct {
	// At is the operation to fail, counting those of Kinds from Inject on, from 0.
	At int
	// Kinds are the kinds counted and failed; none means all.
	Kinds []OpKind
	// Err is what the operation fails with, wrapped in a *fs.PathError.
	// Nil means EIO, or io.ErrShortWrite if Short.
	Err error
	// Short makes a write put down the first half of its bytes and return
	// their number. It is ignored by other operations.
	Short bool
	// Late carries the operation out before it is reported as failed, as when
	// an answer is lost: a rename that failed may have happened.
	Late bool
	// Sticky fails all later operations of Kinds too, until Clear.
	Sticky bool
	// Only, if not nil, says which operations of Kinds are counted and failed. It
	// is called on their goroutines and without a lock held.
	Only func(Op) bool
	// Hit, if not nil, is called with each operation before it fails, on its
	// goroutine and without a lock held.
	Hit func(Op)
}

// NewFaulty returns a file system that does what fs does until told otherwise.
func NewFaulty(fs FS) *Faulty {
	f := &Faulty{}
	f.wrapped = wrapped{fs: fs, around: f.around}
	return f
}

// Inject sets the fault, in place of an earlier one, and begins to count:
// operations from now on, and Fired.
func (f *Faulty) Inject(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.seen, f.fired, f.armed = fault, 0, 0, true
}

// Clear ends the fault. Fired keeps its count.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
}

// Fired returns how many operations the fault has failed since Inject.
func (f *Faulty) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// Before has hook called before each operation, on the operation's goroutine
// and without a lock held: it may block, which hangs the operation, and use the
// file system beneath. An error of its is what the operation fails with, as by
// a Fault; such operations are not counted. Nil ends it. The hook in force when
// an operation begins is the one called.
func (f *Faulty) Before(hook func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = hook
}

func (f *Faulty) around(op Op, c call) error {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(op); err != nil {
			return fail(op, c, Fault{Err: err})
		}
	}
	if fault, ok := f.fire(op); ok {
		if fault.Hit != nil {
			fault.Hit(op)
		}
		return fail(op, c, fault)
	}
	return c.run()
}

// fire counts an operation and reports whether it fails.
func (f *Faulty) fire(op Op) (Fault, bool) {
	f.mu.Lock()
	only := f.fault.Only
	f.mu.Unlock()
	counts := only == nil || only(op)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.armed || !counts || len(f.fault.Kinds) > 0 && !slices.Contains(f.fault.Kinds, op.Kind) {
		return Fault{}, false
	}
	n := f.seen
	f.seen++
	if n < f.fault.At || n > f.fault.At && !f.fault.Sticky {
		return Fault{}, false
	}
	f.fired++
	return f.fault, true
}

// fail has an operation fail: what it leaves behind, then its error.
func fail(op Op, c call, fault Fault) error {
	var err error
	short := fault.Short && c.half != nil
	switch {
	case short:
		err = c.half()
	case fault.Late, op.Kind == OpClose, op.Kind == OpUnlock:
		err = c.run()
	case c.spoil != nil:
		c.spoil()
	}
	if err != nil {
		return err // it failed by itself; that is the better story
	}
	err = cmp.Or[error](fault.Err, syscall.EIO)
	if fault.Err == nil && short {
		err = io.ErrShortWrite
	}
	return &fs.PathError{Op: op.Kind.String(), Path: c.path, Err: err}
}
