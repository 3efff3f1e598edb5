package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/segment"
	"github.com/walsvc/walsvc/wal"
)

// Exit codes. Service managers may rely on them: those from exitInUse on will
// not go away by starting again.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInUse       = 3
	exitNoVolume    = 4
	exitNewer       = 5
	exitDamaged     = 6
	exitUnwritable  = 7
	exitInterrupted = 130
)

// exitCodes describes them, for `walsvc help exit-codes`.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "stopped in order: everything taken was settled, or the drain deadline passed"},
	{exitFailed, "failed; the message says why"},
	{exitUsage, "wrong settings"},
	{exitInUse, "the volume, its socket or an address is in use by another process"},
	{exitNoVolume, "no volume in a named directory that is missing or empty"},
	{exitNewer, "the volume is of a newer format; upgrade walsvc"},
	{exitDamaged, "the volume is damaged beyond opening it read-only"},
	{exitUnwritable, "the directory or the disk does not take writes: permissions, read-only, full"},
	{exitInterrupted, "stopped at once by a second signal; nothing acknowledged is lost"},
}

// exitCodesTopic is a page of help, not a command.
func exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("walsvc exits with one of these codes:\n\n")
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

// report prints err and the next step, and returns the exit code. Nil is exitOK.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	f := explain(err)
	_, _ = fmt.Fprintf(w, "walsvc: %v\n", f.err) // there is nobody left to tell
	if f.next != "" {
		_, _ = fmt.Fprintf(w, "next: %s\n", f.next)
	}
	return f.code
}

// explain finds the exit code and the next step for an error. The first line
// that fits counts.
func explain(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return &failure{code: f.code, err: err, next: f.next}
	}
	for _, e := range []struct {
		is   error
		code int
		next string
	}{
		{wal.ErrNoVolume, exitNoVolume, "mount or restore what should be there; if this is to be a new volume, pass --create (a forgotten mount must not look like a new volume)"},
		{wal.ErrInUse, exitInUse, "stop the other walsvc, or name another directory with --data"},
		{wal.ErrVersion, exitNewer, "run the walsvc that wrote the volume, or a newer one"},
		{segment.ErrBadName, exitDamaged, "find out where that file comes from, and move it out of the directory if it is not walsvc's"},
		{wal.ErrDamaged, exitDamaged, "keep a copy of the directory before you change anything; run walctl verify on it, then walctl repair --plan"},
		{syscall.ENOTDIR, exitUsage, "name a directory with --data, and --socket in one"},
		{fs.ErrPermission, exitUnwritable, "give the user that walsvc runs as the right to write there"},
		{syscall.EROFS, exitUnwritable, "mount the file system for writing, or name another directory with --data"},
		{syscall.ENOSPC, exitUnwritable, "make room on the disk; opening takes one segment at most"},
		{segment.ErrNoSpace, exitUnwritable, "make room on the disk; opening takes one segment at most"},
		{syscall.EDQUOT, exitUnwritable, "raise the quota or make room; opening takes one segment at most"},
	} {
		if errors.Is(err, e.is) {
			return &failure{code: e.code, err: err, next: e.next}
		}
	}
	return &failure{code: exitFailed, err: err}
}
