package disk

import (
	"slices"
	"sync"
	"time"
)

// A Device is how long a modelled disk takes. Times that are zero cost nothing.
type Device struct {
	// Name is how tables and flags call it.
	Name string
	// Sync is what a sync takes, of a file or of a directory, however much was
	// written since the last one.
	Sync time.Duration
	// Bandwidth is what writes take, in bytes per second; 0 is without limit.
	Bandwidth int64
}

// The devices that walsvc is measured on: what is usual for their kind, no product.
var (
	HardDisk = Device{Name: "hdd", Sync: 8 * time.Millisecond, Bandwidth: 150e6}
	CloudSSD = Device{Name: "ssd", Sync: time.Millisecond, Bandwidth: 250e6}
	NVMe     = Device{Name: "nvme", Sync: 100 * time.Microsecond, Bandwidth: 2e9}
)

// Model returns a file system that does what fs does as fast as a device would:
// a write takes its size over the bandwidth, a sync its time, and the device does
// one of them at a time, in the order in which they take its lock. Everything
// else, reading included, takes no time of the device.
//
// It is a model of time alone. Syncs are not handed on: the point is what a
// device would take, not what lies beneath, so nothing is made durable, and a
// volume on it is for measuring and for throwing away. What a write takes
// beneath is part of its time; only when that is longer than the device would
// need does it show.
//
// An operation keeps its thread in the kernel, as a write and a sync of a real
// disk do, but for the last microseconds: see spin. It never takes less than it
// should; ModelError measures how much more.
func Model(fs FS, d Device) FS {
	m := &model{device: d}
	return &wrapped{fs: fs, around: m.around}
}

type model struct {
	device Device
	mu     sync.Mutex // held for as long as the device is busy
}

func (m *model) around(op Op, c call) error {
	var takes time.Duration
	switch op.Kind {
	case OpWrite:
		takes = m.device.write(op.Len)
	case OpSync, OpSyncDir:
		takes = m.device.Sync
		c.run = func() error { return nil }
	default:
		return c.run()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := time.Now().Add(takes)
	err := c.run()
	waitUntil(end)
	return err
}

// write returns what a write of n bytes takes.
func (d Device) write(n int64) time.Duration {
	if d.Bandwidth <= 0 {
		return 0
	}
	return time.Duration(float64(n) / float64(d.Bandwidth) * float64(time.Second))
}

// spin is how long before its end a wait stops relying on the kernel, which
// wakes a thread 20 to 30 us late on the machines this was written on, more than
// a write to NVMe takes. time.Sleep is of no use here: with nothing else to run
// it is late by up to a millisecond.
const spin = 40 * time.Microsecond

// waitUntil returns when the clock shows end, or as soon after as the machine
// lets it. The goroutine keeps its thread meanwhile, as in a system call.
func waitUntil(end time.Time) {
	if left := time.Until(end) - spin; left > 0 {
		nap(left)
	}
	for time.Now().Before(end) {
		// Yielding would hand the processor to others for longer than is left.
	}
}

// ModelError returns by how much an operation of a modelled device that should
// take d takes longer here and now: the median of n.
func ModelError(d time.Duration, n int) time.Duration {
	over := make([]time.Duration, max(n, 1))
	for i := range over {
		end := time.Now().Add(d)
		waitUntil(end)
		over[i] = time.Since(end)
	}
	slices.Sort(over)
	return over[len(over)/2]
}
