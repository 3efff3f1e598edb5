package disk

import "sync"

// Record returns a file system that does what fs does and tells w of it: each
// operation twice, when it begins and when it has returned. The two share
// Op.Began; Op.Before proves that one operation had returned before another
// began, as when a sync is to cover a write.
//
// Calls of w come one at a time, in the order of Op.Event. While w runs no
// other operation begins or returns, so it must not use the file system.
func Record(fs FS, w func(Op)) FS {
	r := &recorder{w: w}
	return &wrapped{fs: fs, around: r.around}
}

type recorder struct {
	mu    sync.Mutex
	w     func(Op)
	event uint64
}

func (r *recorder) around(op Op, c call) error {
	op.Began = r.emit(op)
	err := c.run()
	op.Err = err
	r.emit(op)
	return err
}

// emit numbers the event and hands it on, in one critical section: an order of
// the numbers that was not the order of the calls would prove nothing.
func (r *recorder) emit(op Op) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event++
	op.Event = r.event
	if op.Began == 0 {
		op.Began = op.Event
	}
	r.w(op)
	return op.Event
}
