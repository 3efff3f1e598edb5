package main

import (
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/text"
)

// redrawBar is how often a bar is drawn.
const redrawBar = 100 * time.Millisecond

// newProgress returns a writer of bars on a terminal, in the one style they all have.
func newProgress(w io.Writer) progress.Writer {
	p := progress.NewWriter()
	p.SetOutputWriter(w)
	p.SetAutoStop(false)
	p.SetUpdateFrequency(redrawBar)
	p.SetTrackerLength(30)
	p.SetTrackerPosition(progress.PositionRight)
	style := progress.StyleBlocks
	if !colours(w) {
		style.Colors = progress.StyleColors{}
	} else {
		style.Colors = progress.StyleColors{Tracker: text.Colors{text.FgGreen}, Stats: text.Colors{text.Faint}, Time: text.Colors{text.Faint}}
	}
	style.Options.PercentFormat = "%3.0f%%"
	style.Options.TimeInProgressPrecision = 100 * time.Millisecond
	style.Options.TimeDonePrecision = 10 * time.Millisecond
	p.SetStyle(style)
	return p
}

// A bar shows how many bytes are done, on a terminal; on anything else nothing.
type bar struct {
	writer  progress.Writer
	tracker *progress.Tracker
	drawn   chan struct{}
}

// newBar returns a bar, with the whole if it is known and not 0.
func newBar(w io.Writer, what string, total int64) *bar {
	if !terminal(w) {
		return &bar{}
	}
	b := &bar{writer: newProgress(w), drawn: make(chan struct{})}
	b.writer.Style().Visibility.ETA = total > 0
	b.writer.Style().Visibility.Speed = true
	b.tracker = &progress.Tracker{Message: what, Total: total, Units: progress.Units{Formatter: func(n int64) string { return size(n).String() }}}
	b.writer.AppendTracker(b.tracker)
	go func() {
		b.writer.Render()
		close(b.drawn)
	}()
	return b
}

// add says that so many more bytes are done.
func (b *bar) add(n int) {
	if b.tracker != nil {
		b.tracker.Increment(int64(n))
	}
}

// stop leaves the bar as it is and returns when it is drawn.
func (b *bar) stop() {
	if b.writer == nil {
		return
	}
	b.tracker.MarkAsDone()
	b.writer.Stop()
	<-b.drawn
}
