package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/wal"
)

// Exit codes. Scripts may rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
	exitDamage      = 5
	exitContradicts = 6
	exitGone        = 7
	exitRewound     = 8
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
	{exitNotFound, "not there: no such log, checkpoint, cursor or volume, or an LSN outside the log"},
	{exitUnavailable, "the service cannot be reached, is stopping or takes nothing at present"},
	{exitDamage, "acknowledged data is missing, damaged, duplicated or out of order"},
	{exitContradicts, "a receipt is contradicted: it was tampered with, or is of another history"},
	{exitGone, "a receipt cannot be proven any more: its records were truncated or deleted"},
	{exitRewound, "a receipt's records were discarded by a rewind"},
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
	g.page = strings.Replace(cmd.CommandPath(), cmd.Root().Name(), "walctl help", 1)
	f := g.explain(err)
	if ctx := cmd.Context(); ctx != nil && ctx.Err() != nil && g.started {
		f = &failure{code: exitInterrupted, err: fmt.Errorf("interrupted: %w", err)}
	}
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
			next = g.seeHelp()
		}
		return &failure{code: f.code, err: err, next: next}
	}
	f := &failure{code: exitFailed, err: err}
	if !g.started {
		f.code, f.next = exitUsage, g.seeHelp()
		return f
	}
	for _, row := range explanations {
		if errors.Is(err, row.err) {
			f.code, f.next = row.code, row.next
			break
		}
	}
	// What there is no sign of any more is not to be created anew.
	if errors.Is(err, client.ErrLogNotFound) && strings.Contains(err.Error(), client.ErrReadOnly.Error()+" because") {
		f.next = "see walctl status for what is damaged"
	}
	if f.next == "" {
		if e, ok := errors.AsType[*client.Error](err); ok {
			f.next = e.Hint()
		}
	}
	if errors.Is(err, client.ErrUnavailable) {
		f.next = cmp.Or(g.turnedAway(err.Error()), f.next)
	}
	f.next = strings.ReplaceAll(f.next, "ADDR", g.addr)
	f.next = strings.ReplaceAll(f.next, "see HELP", g.seeHelp())
	return f
}

// turnedAway returns the next step where somebody does answer at the address, and not
// to everybody, or in another way than was asked; empty otherwise. What the transport
// wraps its errors in keeps nothing of them but the text.
func (g *globals) turnedAway(text string) string {
	for _, row := range []struct{ part, next string }{
		{syscall.EACCES.Error(), "run walctl as the user that walsvc runs as: its socket lets in nobody else"},
		{"tls: ", "look at --tls-ca, --tls-cert, --tls-key and --tls-server-name: ADDR answers, but TLS does not come about"},
		{"error reading server preface", "see what serves at ADDR: it ends the connection; if it is a walsvc with TLS, pass --tls-ca, and --tls-cert with --tls-key"},
		{syscall.EPIPE.Error(), "see what serves at ADDR: it ends the connection; if it is a walsvc with TLS, look at --tls-ca and --tls-cert"},
		{syscall.ECONNRESET.Error(), "see what serves at ADDR: it ends the connection; if it is a walsvc with TLS, look at --tls-ca and --tls-cert"},
	} {
		if strings.Contains(text, row.part) {
			return row.next
		}
	}
	return ""
}

// seeHelp names the page that says how the command is used which was called.
func (g *globals) seeHelp() string { return "see " + cmp.Or(g.page, "walctl help") }

// explanations give errors their exit codes and, where walctl knows better than
// the service's own hint, the next step.
var explanations = []struct {
	err  error
	code int
	next string
}{
	{client.ErrDataLoss, exitDamage, "stop appending; see walctl status, and run walctl verify on the volume"},
	{wal.ErrDataLoss, exitDamage, ""},
	{wal.ErrDamaged, exitDamage, "run walctl verify on the volume, then walctl repair --plan"},
	{client.ErrLogNotFound, exitNotFound, "create it with walctl log create, or see walctl log list"},
	{client.ErrCheckpointNotFound, exitNotFound, "see walctl checkpoint list"},
	{client.ErrCursorNotFound, exitNotFound, "see walctl cursor list"},
	{client.ErrLSNTruncated, exitNotFound, "see with walctl log get where the log begins"},
	{client.ErrLSNAhead, exitNotFound, "see with walctl log get where the log ends"},
	{client.ErrPlaintext, exitUsage, "name the service's certificate authority with --tls-ca, or pass --tls"},
	{client.ErrInvalidName, exitUsage, ""},
	{client.ErrInvalid, exitUsage, "see HELP"},
	{client.ErrUnknownOutcome, exitFailed, "ask with walctl resolve what became of it"},
	{client.ErrPoisoned, exitUnavailable, ""},
	{client.ErrReadOnly, exitUnavailable, "see walctl status for what is damaged"},
	{client.ErrFull, exitUnavailable, ""},
	{client.ErrUnavailable, exitUnavailable, "start the service with walsvc, or say with --addr where it is: nobody answers at ADDR"},
	{context.DeadlineExceeded, exitUnavailable, "see whether walsvc is well: ADDR did not answer in time"},
}
