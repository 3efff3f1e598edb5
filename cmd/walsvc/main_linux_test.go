package main

import (
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// Nobody is given the process's first thread, however many threads are wanted at
// once: Go starts new ones only when those that it has are taken.
func TestFirstThreadIsKept(t *testing.T) {
	const wanted = 100 // more than a test's process has idle
	var taken, given sync.WaitGroup
	taken.Add(wanted)
	for range wanted {
		given.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if syscall.Gettid() == syscall.Getpid() {
				t.Error("a goroutine runs on the first thread: a signal would wait for what it does")
			}
			taken.Done()
			taken.Wait()
		})
	}
	given.Wait()
}
