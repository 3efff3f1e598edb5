// Command walctl works with a walsvc service and with the volumes it keeps:
// online it creates logs, appends, replays, sets checkpoints and asks for the
// status; offline it verifies and dumps a volume without changing it; and it
// measures, demonstrates and proves.
//
// Results go to standard output, as tables for people or, with -o json, as
// JSON for scripts. Progress and errors go to standard error; an error says
// what to do next. The exit codes are in exit.go and `walctl help exit-codes`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes walctl with arguments and returns the exit code. The first
// SIGINT or SIGTERM cancels what runs, so that it can say how far it got and
// clean up; the second one kills.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root, g := newRoot()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return g.report(cmd, err)
}
