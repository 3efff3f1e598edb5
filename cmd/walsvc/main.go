// Command walsvc serves one volume over gRPC: on a Unix socket in its data
// directory, and on TCP if told so. Started without settings it makes
// ./walsvc-data and serves on ./walsvc-data/walsvc.sock.
//
// On standard output it says what recovery found and then, once it serves, one
// line per address: "ready unix:/path" or "ready tcp:host:port". Logs and errors
// go to standard error. The settings are in package internal/config and `walsvc
// help`, the exit codes in exit.go and `walsvc help exit-codes`.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// init keeps the process's first thread to main, which only waits on it.
//
// The kernel hands a signal for the process to its first thread if that has none
// pending, even while that thread sleeps in a write to a disk that hangs: the
// signal is then taken when the disk answers, and a walsvc that is told to stop
// because its disk hangs would not hear of it. Left alone, Go runs whatever there is
// to run on that thread as on any other, writes included.
func init() { runtime.LockOSThread() }

func main() {
	signals := make(chan os.Signal, 2) // the one that drains, and the one that does not wait for it
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() {
		ended <- run(context.Background(), signals, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	}()
	os.Exit(report(os.Stderr, <-ended))
}
