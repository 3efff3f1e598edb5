// Package awake keeps processors from halting while there is work to wait for.
//
// A commit is a handful of short waits: for a message, the disk, the answer. A
// processor that has nothing else to do halts in each of them, and waking it takes
// longer than many disks need, above all in a virtual machine, where it leaves the
// guest and comes back. Linux lets a process bound that (PM QoS): while it holds
// /dev/cpu_dma_latency open with a zero written to it, idle processors poll.
//
// That is bought with power, and with what a polling processor takes from its
// siblings, of the whole machine and not of this process alone. So it is off until
// asked for, and it is held only while a count of work grows:
//
//	counts  1  5  9  9  9  9  9  12
//	        look every Interval
//	held    -  x  x  x  x  -  -  x
//	                 Idle: no growth for so long, and it is let go
package awake

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// What the zero values of Options mean.
const (
	defaultInterval = 20 * time.Millisecond
	defaultIdle     = time.Second
)

// Options say when processors are kept awake. The zero value of a duration means its
// default.
type Options struct {
	// Work returns a count that grows while there is work. It must be quick, and may
	// be called at any time until Stop has returned. Required.
	Work func() uint64
	// Interval is how often it is looked at. What begins after a pause is not quicker
	// before that. Default 20 ms.
	Interval time.Duration
	// Idle is how long the count stands still before processors may halt again.
	// Default 1 s.
	Idle time.Duration
	// Log is told if Hold fails, after which it is not tried again. Required.
	Log *slog.Logger

	hold func() (io.Closer, error) // Hold
}

// A Keeper keeps processors awake while there is work.
type Keeper struct {
	o    Options
	stop chan struct{}
	done chan struct{}
}

// Hold keeps processors awake until what it returns is closed. The error Is
// errors.ErrUnsupported where there is no such thing, and fs.ErrPermission for who may
// not.
func Hold() (io.Closer, error) {
	held, err := hold()
	if err != nil {
		return nil, fmt.Errorf("keep processors awake: %w", err)
	}
	return held, nil
}

// Start returns a running Keeper.
func Start(o Options) *Keeper {
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.Idle == 0 {
		o.Idle = defaultIdle
	}
	if o.hold == nil {
		o.hold = Hold
	}
	k := &Keeper{o: o, stop: make(chan struct{}), done: make(chan struct{})}
	go k.run()
	return k
}

// Stop lets processors halt again and ends the Keeper.
func (k *Keeper) Stop() {
	close(k.stop)
	<-k.done
}

func (k *Keeper) run() {
	defer close(k.done)
	var (
		held  io.Closer // nil while processors may halt
		since time.Time // when the count was last seen to grow
		last  = k.o.Work()
		look  = time.NewTicker(k.o.Interval)
	)
	defer look.Stop()
	release := func() {
		if held != nil {
			_ = held.Close() // it is let go, whatever closing says
			held = nil
		}
	}
	defer release()
	for {
		select {
		case <-k.stop:
			return
		case now := <-look.C:
			switch work := k.o.Work(); {
			case work != last:
				last, since = work, now
				if held == nil {
					var err error
					if held, err = k.o.hold(); err != nil {
						k.o.Log.Warn("processors are no longer kept awake", "err", err)
						return
					}
				}
			case now.Sub(since) >= k.o.Idle:
				release()
			}
		}
	}
}
