package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
)

// Exit codes. Scripts may rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
	exitDamage      = 5
	exitInterrupted = 130
)

// exitCodes describes them, for `walctl help exit-codes`.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done"},
	{exitFailed, "failed or refused; the message says why and what to do next"},
	{exitUsage, "wrong usage: an unknown command or flag, a malformed argument"},
	{exitNotFound, "not there: no such log or checkpoint, or an LSN outside the log"},
	{exitUnavailable, "the service cannot be reached, is stopping or takes nothing at present"},
	{exitDamage, "acknowledged data is missing, damaged, duplicated or out of order"},
	{exitInterrupted, "interrupted"},
}

// exitCodesTopic is a page of help, not a command.
func exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("walctl exits with one of these codes:\n\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "%6d  %s\n", c.code, c.meaning)
	}
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: strings.TrimRight(b.String(), "\n")}
}

// A failure is an error that knows its exit code and what to do next.
type failure struct {
	code int
	err  error
	next string // a whole imperative sentence without a full stop; may be empty
}

// Error implements error.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// usagef returns an error of usage, for what only a command can check.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// report prints an error with the next step and returns the exit code for it.
func (g *globals) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	f := g.explain(err)
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "%s %v\n", paint(colours(w), "walctl:", text.FgRed, text.Bold), f.err)
	if f.next != "" {
		fmt.Fprintf(w, "%s %s\n", paint(colours(w), "next:", text.Bold), f.next)
	}
	return f.code
}

// explain finds the exit code and the next step for an error.
func (g *globals) explain(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		next := f.next
		if next == "" && f.code == exitUsage {
			next = "see walctl help"
		}
		return &failure{code: f.code, err: err, next: next}
	}
	switch {
	case !g.started:
		return &failure{code: exitUsage, err: err, next: "see walctl help"}
	case errors.Is(err, context.Canceled):
		return &failure{code: exitInterrupted, err: errors.New("interrupted")}
	}
	return &failure{code: exitFailed, err: err}
}
