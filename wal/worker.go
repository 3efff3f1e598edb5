package wal

import "context"

// A worker is a goroutine that does its turn whenever it was kicked since the
// last one. Kicks that come together are one.
type worker struct {
	wake    chan struct{}
	quit    context.Context // ends when the worker is to stop, also in mid-turn
	cancel  context.CancelFunc
	stopped chan struct{}
}

// init lets it be kicked. It comes before everybody who might.
func (w *worker) init() { w.wake = make(chan struct{}, 1) }

// start begins the goroutine, with what it was kicked for since init. It ends
// when it is stopped, or when a turn says that there will be no more.
func (w *worker) start(turn func() (more bool)) {
	w.stopped = make(chan struct{})
	w.quit, w.cancel = context.WithCancel(context.Background())
	go w.run(turn)
}

func (w *worker) run(turn func() (more bool)) {
	defer close(w.stopped)
	for {
		select {
		case <-w.wake:
			if !turn() {
				return
			}
		case <-w.quit.Done():
			return
		}
	}
}

// kick asks for a turn. It never blocks.
func (w *worker) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// stop ends the goroutine and waits for it. Stopping again does nothing.
func (w *worker) stop() {
	w.cancel()
	<-w.stopped
}
