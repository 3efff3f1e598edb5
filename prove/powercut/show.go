package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/walsvc/walsvc/prove/power"
)

// columns are those of the tables for people.
var columns = []struct {
	title string
	cell  func(result) string
}{
	{"subject", func(r result) string { return strings.TrimSpace(r.Subject + " " + r.Version) }},
	{"disk", func(r result) string { return r.Disk }},
	{"cuts", func(r result) string { return fmt.Sprint(r.Cuts) }},
	{"acknowledged", func(r result) string { return thousands(r.Acknowledged) }},
	{"lost", func(r result) string { return thousands(r.Lost) }},
	{"cuts with loss", func(r result) string { return fmt.Sprint(r.CutsWithLoss) }},
	{"refused to start", func(r result) string { return fmt.Sprint(r.Refused) }},
	{"reappeared", func(r result) string { return fmt.Sprint(r.Reappeared) }},
	{"garbage", func(r result) string { return fmt.Sprint(r.Garbage) }},
	{"failed under load", func(r result) string { return fmt.Sprint(r.Failed) }},
	{"while opening", func(r result) string { return fmt.Sprint(r.WhileOpening) }},
	{"seconds", func(r result) string { return fmt.Sprintf("%.1f", r.Seconds) }},
}

// cells returns a row of a table for people.
func cells(r result) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.cell(r)
	}
	return out
}

// thousands writes a number as documents have it.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// examplesOfPeer is how many of a peer's examples are shown, in a line each.
const examplesOfPeer = 3

func showTable(w io.Writer, results []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range columns {
		fmt.Fprintf(t, "%s\t", c.title)
	}
	fmt.Fprintln(t)
	for _, r := range results {
		if r.Absent == "" {
			fmt.Fprintln(t, strings.Join(cells(r), "\t")+"\t")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.Absent != "" {
			fmt.Fprintf(w, "%s: not cut, for it is not here: %s\n", r.Subject, r.Absent)
		}
		if r.Disk == power.Lying.String() {
			continue
		}
		for i, e := range r.Examples {
			if !r.Judged {
				if i == examplesOfPeer {
					break
				}
				e = ends(e)
			}
			fmt.Fprintf(w, "%s, %s: %s\n", r.Subject, r.Disk, e)
		}
		for _, e := range r.Evidence {
			fmt.Fprintf(w, "%s: disk before it was started: %s\n", r.Subject, e)
		}
	}
	return nil
}

// ends returns the first line of a text, and the last, where programs say why.
func ends(s string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if rest == "" {
		return first
	}
	return first + ": ... " + rest[strings.LastIndexByte(rest, '\n')+1:]
}

// showMarkdown is for documents.
func showMarkdown(w io.Writer, results []result) error {
	row := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	titles, rule := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		titles[i], rule[i] = c.title, "---:"
	}
	rule[0], rule[1] = "---", "---"
	row(titles)
	row(rule)
	for _, r := range results {
		if r.Absent == "" {
			row(cells(r))
		}
	}
	for _, r := range results {
		if r.Absent != "" {
			fmt.Fprintf(w, "\n%s: not cut, for it is not here: %s\n", r.Subject, r.Absent)
		}
	}
	return nil
}

func showJSON(w io.Writer, results []result) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(results)
}
