package plot

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strconv"
)

// ErrValue is returned for what cannot be drawn: no point at all, a value that
// is no number, or one that a logarithmic axis has no place for.
var ErrValue = errors.New("not to be drawn")

// An Axis says what is measured along it.
type Axis struct {
	Label string
	Log   bool // logarithmic: every value is above 0
	// Ticks are the values that are marked; none are chosen from the range.
	Ticks []float64
}

// A Point is a figure. Low and High are its spread, drawn as a bar; with both 0
// there is none.
type Point struct{ X, Y, Low, High float64 }

// A Series is drawn as one line, its points in their order.
type Series struct {
	Name   string
	Points []Point
	// Heavy lines are what the chart is about; the others are beside them.
	Heavy bool
}

// A Chart is a picture of several series. The legend names them from the top
// down as their lines end.
type Chart struct {
	Title  string
	X, Y   Axis
	Series []Series
}

// The picture, in pixels: the frame, and what is around it for title, labels
// and legend.
const (
	frameWidth, frameHeight = 560, 380
	left, top, right, below = 78, 40, 250, 56
	width, height           = left + frameWidth + right, top + frameHeight + below
	legendLine              = 19
)

// colours that are told apart on white, also by most people who see fewer of
// them (Paul Tol's "muted" and "bright"). Where they repeat, dashes differ.
var colours = []string{
	"#332288", "#cc3311", "#117733", "#ddaa33", "#33bbee", "#aa4499", "#999933", "#882255", "#44aa99", "#555555",
}

var dashes = []string{"", "6 3", "2 3"}

// WriteSVG draws the chart.
func (c Chart) WriteSVG(w io.Writer) error {
	x, err := c.scale(c.X, 0, frameWidth, func(p Point) []float64 { return []float64{p.X} })
	if err != nil {
		return fmt.Errorf("chart %q, x: %w", c.Title, err)
	}
	y, err := c.scale(c.Y, frameHeight, 0, func(p Point) []float64 {
		if p.Low == 0 && p.High == 0 {
			return []float64{p.Y}
		}
		return []float64{p.Y, p.Low, p.High}
	})
	if err != nil {
		return fmt.Errorf("chart %q, y: %w", c.Title, err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">`+"\n",
		width, height, width, height)
	// A page may be dark; the lines are chosen for white.
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	text(&b, left, top-16, "start", `font-size="15" font-weight="bold"`, c.Title)
	fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", left, top)
	c.grid(&b, x, y)
	// Heavy lines lie on top.
	for _, heavy := range []bool{false, true} {
		for i, s := range c.Series {
			if s.Heavy == heavy {
				s.draw(&b, i, x, y)
			}
		}
	}
	c.legend(&b, y)
	b.WriteString("</g>\n</svg>\n")
	_, err = w.Write(b.Bytes())
	return err
}

// grid draws the frame, the marked values and the labels.
func (c Chart) grid(b *bytes.Buffer, x, y scale) {
	for _, v := range x.ticks {
		at := x.at(v)
		fmt.Fprintf(b, `<path d="M%s 0V%d" stroke="#e4e4e4"/>`+"\n", pixels(at), frameHeight)
		text(b, at, frameHeight+18, "middle", "", Number(v))
	}
	for _, v := range y.ticks {
		at := y.at(v)
		fmt.Fprintf(b, `<path d="M0 %sH%d" stroke="#e4e4e4"/>`+"\n", pixels(at), frameWidth)
		text(b, -8, at+4, "end", "", Number(v))
	}
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="none" stroke="#888"/>`+"\n", frameWidth, frameHeight)
	text(b, frameWidth/2, frameHeight+42, "middle", "", c.X.Label)
	fmt.Fprintf(b, `<g transform="translate(%d %d) rotate(-90)">`, -left+16, frameHeight/2)
	text(b, 0, 0, "middle", "", c.Y.Label)
	b.WriteString("</g>\n")
}

// draw draws a series, which is the i-th of its chart.
func (s Series) draw(b *bytes.Buffer, i int, x, y scale) {
	fmt.Fprintf(b, `<g stroke=%q fill="none">`+"\n", colours[i%len(colours)])
	if len(s.Points) > 1 {
		b.WriteString(`<path d="`)
		for j, p := range s.Points {
			fmt.Fprintf(b, "%c%s %s", "ML"[min(j, 1)], pixels(x.at(p.X)), pixels(y.at(p.Y)))
		}
		fmt.Fprintf(b, `" %s/>`+"\n", s.stroke(i))
	}
	for _, p := range s.Points {
		if p.Low != 0 || p.High != 0 {
			fmt.Fprintf(b, `<path d="M%s %sV%s" stroke-opacity="0.5"/>`+"\n", pixels(x.at(p.X)), pixels(y.at(p.Low)), pixels(y.at(p.High)))
		}
		s.mark(b, i, x.at(p.X), y.at(p.Y))
	}
	b.WriteString("</g>\n")
}

func (s Series) stroke(i int) string {
	wide := "1.5"
	if s.Heavy {
		wide = "3"
	}
	out := fmt.Sprintf(`stroke-width=%q`, wide)
	if d := dashes[i/len(colours)%len(dashes)]; d != "" {
		out += fmt.Sprintf(` stroke-dasharray=%q`, d)
	}
	return out
}

func (s Series) mark(b *bytes.Buffer, i int, x, y float64) {
	radius := "3"
	if s.Heavy {
		radius = "4.5"
	}
	fmt.Fprintf(b, `<circle cx=%q cy=%q r=%q fill=%q/>`+"\n", pixels(x), pixels(y), radius, colours[i%len(colours)])
}

// legend names the series from the top down as they end, so that the eye finds
// a line's name about where the line is.
func (c Chart) legend(b *bytes.Buffer, y scale) {
	var order []int
	for i, s := range c.Series {
		if len(s.Points) > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		p, q := c.Series[i].Points, c.Series[j].Points
		return cmp.Compare(y.at(p[len(p)-1].Y), y.at(q[len(q)-1].Y))
	})
	for line, i := range order {
		s, at := c.Series[i], float64(8+line*legendLine)
		fmt.Fprintf(b, `<g stroke=%q fill="none"><path d="M%d %sh26" %s/>`, colours[i%len(colours)], frameWidth+12, pixels(at), s.stroke(i))
		s.mark(b, i, frameWidth+25, at)
		b.WriteString("</g>\n")
		weight := ""
		if s.Heavy {
			weight = `font-weight="bold"`
		}
		text(b, frameWidth+44, at+4, "start", weight, s.Name)
	}
}

func text(b *bytes.Buffer, x, y float64, anchor, attributes, s string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(b, `<text x=%q y=%q text-anchor=%q%s>%s</text>`+"\n", pixels(x), pixels(y), anchor, attributes, html.EscapeString(s))
}

// pixels spells a place to a tenth of a pixel: finer is not seen, and would
// make two machines' pictures differ in the last digit.
func pixels(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// Number spells a value as an axis does: with at most three digits and a unit
// of a thousand.
func Number(v float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= unit.of {
			return strconv.FormatFloat(v/unit.of, 'g', 3, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
