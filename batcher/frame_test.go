package batcher

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walsvc/walsvc/internal/codec"
)

type nobody struct{ told int }

func (n *nobody) Landed(uint64, error) { n.told++ }

// TestLoneRideWakesNobody: a lone append leaves the loop parked, whatever it
// carries, since waking it would cost more than the append.
func TestLoneRideWakesNobody(t *testing.T) {
	var b *Bus
	b = New(Options{
		Submit: func(f *Frame) { b.Landed(f.Ticket, nil) },
		Idle:   func(*Frame) bool { return false },
	})
	for _, commands := range []int{0, 1, 100} {
		n := new(nobody)
		f, err := b.Board()
		if err != nil {
			t.Fatal(err)
		}
		f.Ride(n)
		for range commands {
			f.AppendCommand([]byte("c"))
			f.Ride(n)
		}
		drove := b.Leave()
		b.mu.Lock()
		summoned := b.summoned
		b.mu.Unlock()
		if !drove || summoned || n.told != 1 {
			t.Errorf("%d commands: drove %v, loop summoned %v, told %d times", commands, drove, summoned, n.told)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestStaleSignalHoldsNobody: a signal that was sent late, when the loop had looked
// already, lies there when it ends. Nobody waits for it to be taken.
func TestStaleSignalHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{})
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case b.signal <- struct{}{}:
		default:
		}
		for range 2 {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestOneProcessor: on a single processor, which a driver keeps while it waits for the
// disk, whoever is ready to board does so first.
func TestOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const callers, rounds = 64, 50
	var b *Bus
	b = New(Options{Submit: func(f *Frame) { b.Landed(f.Ticket, nil) }})
	for range rounds {
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				f, err := b.Board()
				if err != nil {
					t.Error(err)
					return
				}
				f.AppendCommand([]byte("c"))
				b.Leave()
			})
		}
		all.Wait()
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	// By their time slices some may come apart, and not each of them.
	if n := b.Stats().Frames; n > callers*rounds/8 {
		t.Errorf("%d frames for %d commands of %d callers", n, callers*rounds, callers)
	}
}

// TestFreeListIsBounded: what a giant batch grew is not kept, and no more
// buffers than the bus can fill.
func TestFreeListIsBounded(t *testing.T) {
	var b *Bus
	b = New(Options{
		FullSize: 1000, BlockSize: 100, LoneSize: 1 << 30, Codec: Fixed(codec.S2),
		Submit: func(f *Frame) { b.Landed(f.Ticket, nil) },
	})
	noise := make([]byte, 50_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	ride := func(runs, size int) {
		f, err := b.Board()
		if err != nil {
			t.Fatal(err)
		}
		f.AppendCommand(make([]byte, size))
		for range runs {
			f.AddRecords(1, noise[:size])
		}
		b.Leave()
	}
	ride(1, len(noise))
	if b.free.kept != 0 {
		t.Errorf("%d buffers kept of a giant batch", b.free.kept)
	}
	ride(500, 100)
	if want := 2 * (1000/100 + 1); b.free.kept != want {
		t.Errorf("%d buffers kept, want %d", b.free.kept, want)
	}
	for buf := b.free.buffers; buf != nil; buf = buf.next {
		if cap(buf.packed) > 400 {
			t.Errorf("a buffer of %d bytes kept", cap(buf.packed))
		}
	}
	ride(1, 100)
	for _, f := range b.free.frames {
		if cap(f.image) > minImage {
			t.Errorf("an image of %d bytes kept", cap(f.image))
		}
		if cap(f.meta) > 2000 {
			t.Errorf("%d bytes of commands kept", cap(f.meta))
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestOnlyLoneAppendersDrive: what somebody else left in the frame is the
// loop's work, also in the moment before the loop has noticed.
func TestOnlyLoneAppendersDrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *Bus
		b = New(Options{Submit: func(f *Frame) { b.Landed(f.Ticket, nil) }})
		synctest.Wait() // the loop has parked, and nothing below summons it before Leave
		first, second := new(nobody), new(nobody)
		b.mu.Lock()
		b.open.AppendCommand([]byte("c"))
		b.open.Ride(first)
		b.mu.Unlock()
		f, err := b.Board()
		if err != nil {
			t.Fatal(err)
		}
		f.AppendCommand([]byte("c"))
		f.Ride(second)
		if b.Leave() {
			t.Error("drove somebody else's command")
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if first.told != 1 || second.told != 1 || b.stats.LoneRides != 0 {
			t.Errorf("told %d and %d times, lone rides %d", first.told, second.told, b.stats.LoneRides)
		}
	})
}

// TestFailBeforeSubmit fails the bus while a sealed frame waits for a block to
// be packed: it lands with the error and is not submitted.
func TestFailBeforeSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Submit: func(f *Frame) { t.Errorf("frame %d was submitted", f.Ticket) }})
		f, err := b.Board()
		if err != nil {
			t.Fatal(err)
		}
		n := new(nobody)
		f.AppendCommand([]byte("c"))
		f.Ride(n)
		f.working.Add(1)
		go b.Leave()
		synctest.Wait()
		poison := errors.New("poison")
		b.Fail(poison)
		if n.told != 1 {
			t.Errorf("told %d times", n.told)
		}
		f.working.Done()
		if err := b.Close(); !errors.Is(err, poison) {
			t.Errorf("close: %v", err)
		}
	})
}

// TestServiceTime: the time a frame waited behind another is not the disk's time for it.
func TestServiceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Depth: 2, Submit: func(*Frame) {}})
		for range 2 {
			f, err := b.Board()
			if err != nil {
				t.Fatal(err)
			}
			f.AppendCommand([]byte("c"))
			b.Leave()
			synctest.Wait()
		}
		time.Sleep(10 * time.Millisecond)
		b.Landed(1, nil)
		time.Sleep(4 * time.Millisecond)
		b.Landed(2, nil)
		if got, want := time.Duration(b.policy.disk.y), 7*time.Millisecond; got != want {
			t.Errorf("mean of the disk's time is %v, want %v", got, want)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
