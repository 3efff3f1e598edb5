// Package table lays out what the commands in bench print, and keeps it.
package table

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Render lays rows out below a header, as text or as Markdown, without a newline
// at the end. Columns of words read from the left, those of figures from the
// right; which is which, the first row says.
func Render(header []string, rows [][]string, markdown bool) string {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Options.SeparateHeader = true
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	var configs []table.ColumnConfig
	cells := func(row []string) (out table.Row) {
		for _, c := range row {
			out = append(out, c)
		}
		return out
	}
	for i := range header {
		align := text.AlignRight
		if words := rows[0][i]; words == "" || !strings.ContainsAny(words[:1], "-0123456789.") || i == 0 {
			align = text.AlignLeft
		}
		configs = append(configs, table.ColumnConfig{Number: i + 1, Align: align, AlignHeader: align})
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(cells(header))
	for _, row := range rows {
		t.AppendRow(cells(row))
	}
	if markdown {
		return t.RenderMarkdown()
	}
	return strings.TrimRight(t.Render(), "\n")
}

// Grouped spells a number without decimals, its thousands apart.
func Grouped(v float64) string {
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Save writes files into a directory, which is made if it is missing.
func Save(dir string, files map[string]func(io.Writer) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for name, write := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = errors.Join(write(f), f.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
