package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A statusLine is one line on standard error that changes while something is
// read or measured. With nobody watching it writes nothing: a bar has no place
// in a file.
type statusLine struct {
	w    io.Writer
	last time.Time
}

// redraw is how often the line changes at most: more often is only flicker, and
// some who call are called for every frame of a volume.
const redraw = 50 * time.Millisecond

// newStatusLine returns a line on w, silent unless w is a terminal.
func newStatusLine(w io.Writer) *statusLine {
	if !terminal(w) {
		w = nil
	}
	return &statusLine{w: w}
}

// steps says how many steps are done and which one is being done.
func (l *statusLine) steps(done, all int, what string) {
	l.last = time.Time{} // steps are rare, and each has a name
	l.draw(float64(done)/float64(all), func() string { return fmt.Sprintf("%d/%d  %s", done, all, what) })
}

// bytes says how many bytes are done.
func (l *statusLine) bytes(done, all int64) {
	l.draw(float64(done)/float64(all), func() string { return fmt.Sprintf("%s of %s", size(done), size(all)) })
}

func (l *statusLine) draw(fraction float64, text func() string) {
	if l.w == nil || time.Since(l.last) < redraw {
		return
	}
	l.last = time.Now()
	const width = 24
	full := max(0, min(int(fraction*width), width))
	fmt.Fprintf(l.w, "\r\033[K[%s%s] %s", strings.Repeat("=", full), strings.Repeat(" ", width-full), text())
}

// says is for what has no end: text alone.
func (l *statusLine) says(text func() string) {
	if l.w == nil || time.Since(l.last) < redraw {
		return
	}
	l.last = time.Now()
	fmt.Fprintf(l.w, "\r\033[K%s", text())
}

// clear takes the line away.
func (l *statusLine) clear() {
	if l.w != nil {
		fmt.Fprint(l.w, "\r\033[K")
	}
}
