package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The picture of a ladder: for each disk a panel, in it a row for each step, on
// the left a bar of its appends per second on a logarithmic scale, on the right
// what its last frames did, in three lanes: filling, compressing, writing and
// syncing. All rows of a panel have one scale of time, so that overlap shows.
// It is written by hand: a library would be larger than what it draws.
const (
	svgWidth    = 1080
	svgHead     = 56 // height of the title and the key
	svgTitle    = 30 // of a panel's title
	svgRow      = 40
	svgFoot     = 34 // of a panel's scales
	svgLabels   = 16 // x of the steps' names
	svgBars     = 232
	svgDecade   = 54 // width of a factor of ten
	svgDecades  = 6  // from svgLeast on
	svgLeast    = 10 // appends per second at the left end of the bars
	svgTime     = 680
	svgTimeWide = svgWidth - svgTime - 16
	svgLane     = 9
)

// The key of the picture. The colours are told apart by the colour-blind, too.
var svgColours = []struct{ what, colour string }{
	{"fill", "#4477aa"}, {"compress", "#ccbb44"}, {"write", "#228833"}, {"sync", "#ee6677"},
}

// WriteSVG draws the report.
func (r *LadderReport) WriteSVG(w io.Writer) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	text := func(x, y float64, class, s string) {
		p(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(s))
	}
	panel := func(d *LadderDisk) float64 { return float64(svgTitle + svgRow*len(d.Steps) + svgFoot) }
	height := float64(svgHead)
	for i := range r.Disks {
		height += panel(&r.Disks[i])
	}
	p(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %d %.0f" role="img">`, svgWidth, height, svgWidth, height)
	p(`<title>The ladder: appends per second, and where the time goes</title>`)
	p(`<style>text{font:12px system-ui,sans-serif;fill:#222}.head{font-weight:600;font-size:14px}.small{font-size:10px;fill:#666}.end{text-anchor:end}.mid{font-size:10px;fill:#666;text-anchor:middle}</style>`)
	p(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	text(svgLabels, 22, "head", fmt.Sprintf("%d appends outstanding, records of %s, %s", r.Callers, SizeName(int64(r.RecordBytes)), r.Codec))
	text(svgBars, 44, "small", "durable appends per second, logarithmic")
	for i, c := range svgColours {
		x := float64(svgTime + 80*i)
		p(`<rect x="%.1f" y="35" width="10" height="10" fill="%s"/>`, x, c.colour)
		text(x+15, 44, "small", c.what)
	}
	y := float64(svgHead)
	for i := range r.Disks {
		d := &r.Disks[i]
		drawDisk(d, y, p, text)
		y += panel(d)
	}
	p(`</svg>`)
	_, err := io.WriteString(w, b.String())
	return err
}

func drawDisk(d *LadderDisk, y float64, p func(string, ...any), text func(x, y float64, class, s string)) {
	text(svgLabels, y+20, "head", DescribeDisk(d.Disk))
	top, bottom := y+svgTitle, y+svgTitle+float64(svgRow*len(d.Steps))
	for i := range svgDecades + 1 {
		x := float64(svgBars + svgDecade*i)
		p(`<path d="M%.1f %.1fV%.1f" stroke="#ddd"/>`, x, top, bottom)
		text(x, bottom+14, "mid", decade(i))
	}
	span := timeSpan(d)
	for i := range d.Steps {
		s := &d.Steps[i]
		row := top + float64(svgRow*i)
		text(svgLabels, row+24, "", s.Step)
		wide := svgDecade * math.Log10(max(s.AppendsPerSecond, svgLeast)/svgLeast)
		p(`<rect x="%d" y="%.1f" width="%.1f" height="18" fill="#bbb"/>`, svgBars, row+10, wide)
		text(svgBars+wide+6, row+23, "", fmt.Sprintf("%s (%.3gx)", thousands(s.AppendsPerSecond), s.Gain))
		drawFrames(s.Timeline, span, row+6, p)
	}
	scale := niceTime(span / 4)
	p(`<path d="M%d %.1fh%.1f" stroke="#666" stroke-width="2"/>`, svgTime, bottom+6, scale/span*svgTimeWide)
	text(svgTime, bottom+20, "small", microseconds(scale))
}

// timeSpan returns how many microseconds a panel shows: three rounds of its
// slowest step.
func timeSpan(d *LadderDisk) float64 {
	span := 1.0
	for i := range d.Steps {
		s := &d.Steps[i]
		span = max(span, 3e6*ratio(s.RecordsPerFrame, s.AppendsPerSecond))
	}
	return span
}

// drawFrames draws the last microseconds of a timeline, in lanes from y on.
func drawFrames(frames []LadderFrame, span, y float64, p func(string, ...any)) {
	if len(frames) == 0 {
		return
	}
	from := frames[len(frames)-1].End - span
	run := func(lane int, colour int, begin, end float64) {
		begin, end = max(begin-from, 0), min(end-from, span)
		if end <= begin {
			return
		}
		p(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`, svgTime+begin/span*svgTimeWide, y+float64(lane*svgLane),
			max((end-begin)/span*svgTimeWide, 0.5), svgLane-1, svgColours[colour].colour)
	}
	for _, f := range frames {
		run(0, 0, f.Fill, f.Seal)
		run(1, 1, f.Compress, f.Write)
		run(2, 2, f.Write, f.Sync)
		run(2, 3, f.Sync, f.End)
	}
}

// DescribeDisk says what a disk of Disks is.
func DescribeDisk(name string) string {
	for _, d := range devices {
		if d.Name == name {
			return fmt.Sprintf("%s: modelled, %s a sync, %.4g MB/s", name, microseconds(microsecondsOf(d.Sync)), float64(d.Bandwidth)/1e6)
		}
	}
	return name
}

// decade spells the i-th power of ten that bars have.
func decade(i int) string {
	v := svgLeast * math.Pow10(i)
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.0fM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.0fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// thousands spells a number with three significant digits or more.
func thousands(v float64) string {
	if v >= 1e4 {
		return fmt.Sprintf("%.0fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// niceTime returns the largest 1, 2 or 5 times a power of ten that is at most v.
func niceTime(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{5, 2} {
		if n*power <= v {
			return n * power
		}
	}
	return power
}
