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
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 2) // the one that drains, and the one that does not wait for it
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	err := run(context.Background(), signals, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	os.Exit(report(os.Stderr, err))
}
