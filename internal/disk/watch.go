package disk

import (
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A Watch is a file system that tells when operations of another hang: when one
// has been under way for longer than a bound. It changes nothing about them, and
// adds no more than a timer's setting and unsetting to each.
//
// It is stalled from the moment an operation is over the bound until none is
// any more, that is until the last such one has returned, be it with an error.
type Watch struct {
	fs    FS
	bound time.Duration
	begin func(Stall)
	end   func(s Stall, took time.Duration)

	mu      sync.Mutex
	free    []*pending
	overdue []*pending // oldest first
	first   Stall      // with which the present stall began
	stalls  uint64
	changed chan struct{} // closed when Stalled begins or ceases to return something

	notices []notice  // to be told, in order
	telling bool      // a goroutine is at it
	silent  sync.Cond // told when none is any more
}

// A Stall is an operation that has been under way for longer than it should.
type Stall struct {
	Op    Op        // what hangs; the oldest if several do
	Since time.Time // when it began
}

// pending is an operation under way.
type pending struct {
	Stall
	timer   *time.Timer
	overdue bool // it is in Watch.overdue
	done    bool // it has returned
}

// notice is what a teller has to tell: the end of a stall if took is not zero.
type notice struct {
	stall Stall
	took  time.Duration
}

// NewWatch returns a file system that does what fs does. begin and end, which
// may be nil, are told when a stall begins and when it is over, with the
// operation that it began with: in turn, and on a goroutine that no operation
// waits for, so they may block.
func NewWatch(fs FS, bound time.Duration, begin func(Stall), end func(s Stall, took time.Duration)) *Watch {
	w := &Watch{fs: fs, bound: bound, begin: begin, end: end, changed: make(chan struct{})}
	w.silent.L = &w.mu
	return w
}

// Stalled returns the operation that hangs, with stalled false if none does, and
// a channel that is closed when that has changed.
func (w *Watch) Stalled() (s Stall, stalled bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.overdue) == 0 {
		return Stall{}, false, w.changed
	}
	return w.overdue[0].Stall, true, w.changed
}

// Stalls returns how many stalls have begun.
func (w *Watch) Stalls() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stalls
}

// Quiesce waits until all that has happened so far was told.
func (w *Watch) Quiesce() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.telling {
		w.silent.Wait()
	}
}

// enter notes that an operation begins.
func (w *Watch) enter(op Op) *pending {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.free); n > 0 {
		p := w.free[n-1]
		w.free = w.free[:n-1]
		p.Op, p.Since = op, now
		p.timer.Reset(w.bound)
		return p
	}
	p := &pending{Stall: Stall{Op: op, Since: now}}
	p.timer = time.AfterFunc(w.bound, func() { w.late(p) })
	return p
}

// leave notes that it has returned.
func (w *Watch) leave(p *pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.timer.Stop() {
		w.free = append(w.free, p)
		return
	}
	// Its timer has gone off, so late has seen it or is about to: it is not
	// used again.
	p.done = true
	if !p.overdue {
		return
	}
	w.overdue = slices.DeleteFunc(w.overdue, func(o *pending) bool { return o == p })
	if len(w.overdue) == 0 {
		w.change(notice{w.first, time.Since(w.first.Since)})
	}
}

// late is called when an operation is over the bound.
func (w *Watch) late(p *pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.done {
		return
	}
	p.overdue = true
	w.overdue = append(w.overdue, p)
	if len(w.overdue) == 1 {
		w.stalls++
		w.first = p.Stall
		w.change(notice{stall: p.Stall})
	}
}

// change has everybody hear of the beginning or the end of a stall. REQUIRES: mu.
func (w *Watch) change(n notice) {
	close(w.changed)
	w.changed = make(chan struct{})
	w.notices = append(w.notices, n)
	if !w.telling {
		w.telling = true
		go w.tell()
	}
}

// tell tells, until there is nothing left to.
func (w *Watch) tell() {
	for {
		w.mu.Lock()
		if len(w.notices) == 0 {
			w.telling = false
			w.silent.Broadcast()
			w.mu.Unlock()
			return
		}
		n := w.notices[0]
		w.notices = w.notices[1:]
		w.mu.Unlock()
		switch {
		case n.took == 0 && w.begin != nil:
			w.begin(n.stall)
		case n.took > 0 && w.end != nil:
			w.end(n.stall, n.took)
		}
	}
}

func (w *Watch) enterName(kind OpKind, path string) *pending {
	return w.enter(Op{Kind: kind, Name: filepath.Base(path)})
}

// Create implements FS.
func (w *Watch) Create(path string) (File, error) {
	defer w.leave(w.enterName(OpCreate, path))
	f, err := w.fs.Create(path)
	return w.file(path, f, err)
}

// Open implements FS.
func (w *Watch) Open(path string, write bool) (File, error) {
	defer w.leave(w.enter(Op{Kind: OpOpen, Name: filepath.Base(path), Write: write}))
	f, err := w.fs.Open(path, write)
	return w.file(path, f, err)
}

func (w *Watch) file(path string, f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &watchedFile{w: w, f: f, name: filepath.Base(path)}, nil
}

// Rename implements FS.
func (w *Watch) Rename(from, to string) error {
	defer w.leave(w.enter(Op{Kind: OpRename, Name: filepath.Base(from), To: filepath.Base(to)}))
	return w.fs.Rename(from, to)
}

// Remove implements FS.
func (w *Watch) Remove(path string) error {
	defer w.leave(w.enterName(OpRemove, path))
	return w.fs.Remove(path)
}

// List implements FS.
func (w *Watch) List(dir string) ([]Entry, error) {
	defer w.leave(w.enterName(OpList, dir))
	return w.fs.List(dir)
}

// MkdirAll implements FS.
func (w *Watch) MkdirAll(dir string) error {
	defer w.leave(w.enterName(OpMkdirAll, dir))
	return w.fs.MkdirAll(dir)
}

// SyncDir implements FS.
func (w *Watch) SyncDir(dir string) error {
	defer w.leave(w.enterName(OpSyncDir, dir))
	return w.fs.SyncDir(dir)
}

// Lock implements FS. What gives the lock back is not watched.
func (w *Watch) Lock(path string) (io.Closer, error) {
	defer w.leave(w.enterName(OpLock, path))
	return w.fs.Lock(path)
}

// Free implements FS.
func (w *Watch) Free(dir string) (uint64, error) {
	defer w.leave(w.enterName(OpFree, dir))
	return w.fs.Free(dir)
}

// watchedFile is a file of a Watch.
type watchedFile struct {
	w    *Watch
	f    File
	name string
}

func (f *watchedFile) ReadAt(p []byte, off int64) (int, error) {
	defer f.w.leave(f.w.enter(Op{Kind: OpRead, Name: f.name, Offset: off, Len: int64(len(p))}))
	return f.f.ReadAt(p, off)
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.w.leave(f.w.enter(Op{Kind: OpWrite, Name: f.name, Offset: off, Len: int64(len(p))}))
	return f.f.WriteAt(p, off)
}

func (f *watchedFile) Sync() error {
	defer f.w.leave(f.w.enter(Op{Kind: OpSync, Name: f.name}))
	return f.f.Sync()
}

// Prefetch is watched as a read: asking a disk that hangs may wait as well.
func (f *watchedFile) Prefetch(off, n int64) {
	defer f.w.leave(f.w.enter(Op{Kind: OpRead, Name: f.name, Offset: off, Len: n}))
	f.f.Prefetch(off, n)
}

func (f *watchedFile) Size() (int64, error) {
	defer f.w.leave(f.w.enter(Op{Kind: OpSize, Name: f.name}))
	return f.f.Size()
}

func (f *watchedFile) Truncate(size int64) error {
	defer f.w.leave(f.w.enter(Op{Kind: OpTruncate, Name: f.name, Offset: size}))
	return f.f.Truncate(size)
}

func (f *watchedFile) Close() error {
	defer f.w.leave(f.w.enter(Op{Kind: OpClose, Name: f.name}))
	return f.f.Close()
}
