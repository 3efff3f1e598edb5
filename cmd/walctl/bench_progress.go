package main

import (
	"fmt"
	"io"
	"strings"
)

// A statusLine is one line on standard error that changes while a measurement
// runs. Nobody watching, it writes nothing: a bar has no place in a file.
type statusLine struct{ w io.Writer }

// newStatusLine returns a line on w, silent unless w is a terminal.
func newStatusLine(w io.Writer) *statusLine {
	if !terminal(w) {
		w = io.Discard
	}
	return &statusLine{w}
}

// show says how many steps are done and what happens now.
func (l *statusLine) show(done, all int, what string) {
	const width = 24
	full := 0
	if all > 0 {
		full = min(done*width/all, width)
	}
	fmt.Fprintf(l.w, "\r\033[K[%s%s] %d/%d  %s", strings.Repeat("=", full), strings.Repeat(" ", width-full), done, all, what)
}

// clear takes the line away.
func (l *statusLine) clear() { fmt.Fprint(l.w, "\r\033[K") }
