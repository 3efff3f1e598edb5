package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// format is what results are printed as; it is the value of -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

func formatNames() []string { return []string{string(formatTable), string(formatJSON)} }

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("must be one of: %s", strings.Join(formatNames(), ", "))
}

// A result is what a command found. As JSON it is printed as its fields are
// tagged, for people as its tables.
type result interface {
	tables() []grid
}

// A grid is one table. Without a head it is a list of names and values.
// Numbers are aligned to the right; a cell may be a mood to be coloured.
type grid struct {
	title string
	head  []string
	rows  [][]any
	empty string // said instead of a head without rows
}

// A mood is a cell that says whether all is well.
type mood struct {
	text string
	bad  bool
}

// print writes a result to the command's standard output.
func (g *globals) print(cmd *cobra.Command, r result) error {
	out := cmd.OutOrStdout()
	if g.format == formatJSON {
		return printJSON(out, r)
	}
	for i, t := range r.tables() {
		if i > 0 {
			if _, err := fmt.Fprintln(out); err != nil {
				return err
			}
		}
		if err := t.write(out, colours(out)); err != nil {
			return err
		}
	}
	return nil
}

// printJSON writes one indented JSON value and a newline.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (t grid) write(out io.Writer, colour bool) error {
	if t.title != "" {
		if _, err := fmt.Fprintln(out, paint(colour, t.title, text.Bold)); err != nil {
			return err
		}
	}
	if len(t.rows) == 0 && t.empty != "" {
		_, err := fmt.Fprintln(out, t.empty)
		return err
	}
	w := table.NewWriter()
	w.SetStyle(plain)
	if len(t.head) > 0 {
		head := make(table.Row, len(t.head))
		for i, h := range t.head {
			head[i] = paint(colour, h, text.Faint)
		}
		w.AppendHeader(head)
	}
	width := len(t.head)
	for _, row := range t.rows {
		cells := make(table.Row, len(row))
		for i, c := range row {
			cells[i] = cell(c, colour)
			if i == 0 && len(t.head) == 0 {
				cells[i] = paint(colour, fmt.Sprint(c), text.Faint)
			}
		}
		width = max(width, len(row))
		w.AppendRow(cells)
	}
	w.SetColumnConfigs(t.alignment(width))
	for line := range strings.Lines(w.Render() + "\n") {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// alignment puts a column to the right, head and all, if a table with a head
// has numbers in it. A list of names and values reads better from the left.
func (t grid) alignment(width int) []table.ColumnConfig {
	configs := make([]table.ColumnConfig, width)
	for i := range configs {
		configs[i] = table.ColumnConfig{Number: i + 1, Align: text.AlignLeft, AlignHeader: text.AlignLeft}
		if len(t.head) == 0 || len(t.rows) == 0 || len(t.rows[0]) <= i {
			continue
		}
		switch t.rows[0][i].(type) {
		case int, int64, uint, uint32, uint64, float64, size, rate, time.Duration:
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
	}
	return configs
}

// plain has two spaces between columns and no lines: it survives grep, awk and
// a narrow terminal.
var plain = table.Style{
	Name:   "plain",
	Box:    table.BoxStyle{PaddingRight: "  ", PageSeparator: "\n"},
	Format: table.FormatOptions{Header: text.FormatDefault, Row: text.FormatDefault},
}

// A size is a number of bytes and a rate a number of things per second.
type (
	size uint64
	rate float64
)

// String spells a size in binary units, as file systems count.
func (s size) String() string {
	const unit = 1024
	if s < unit {
		return strconv.FormatUint(uint64(s), 10) + " B"
	}
	v, prefix := float64(s)/unit, 0
	for v >= unit && prefix < 4 {
		v /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[prefix])
}

// String spells a rate as a whole number per second.
func (r rate) String() string { return grouped(uint64(r)) + "/s" }

// grouped spells a number with commas, for figures of many digits.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// cell spells one value for people.
func cell(v any, colour bool) string {
	switch v := v.(type) {
	case mood:
		if v.bad {
			return paint(colour, v.text, text.FgRed, text.Bold)
		}
		return paint(colour, v.text, text.FgGreen)
	case int:
		if v >= 0 {
			return grouped(uint64(v))
		}
	case uint64:
		return grouped(v)
	case float64:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case time.Duration:
		return round(v).String()
	case time.Time:
		return v.Local().Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

// round keeps about three digits of a duration.
func round(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d
}

func paint(colour bool, s string, colours ...text.Color) string {
	if !colour {
		return s
	}
	return text.Colors(colours).Sprint(s)
}

// colours tells whether to colour what is written to w: only on a terminal
// that can, and not against the user's wish (https://no-color.org).
func colours(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(w)
}

// terminal tells whether somebody is watching: whether w is a terminal.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
