package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/walsvc/walsvc/bench/table"
	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/plot"
)

// A report is what `-o json` prints and crossover.json holds.
type report struct {
	CPUs        int     `json:"cpus"`
	Go          string  `json:"go"`
	RecordBytes int     `json:"record_bytes"`
	Rounds      int     `json:"rounds"`
	Seconds     float64 `json:"seconds"` // of each measurement
	Cells       []cell  `json:"cells"`
}

func newReport(o options, cells []cell) *report {
	return &report{
		CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version(), RecordBytes: recordSize,
		Rounds: o.rounds, Seconds: o.duration.Seconds(), Cells: cells,
	}
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// disks returns the names of disks in their order.
func (r *report) disks() (names []string) {
	for _, c := range r.Cells {
		if len(names) == 0 || names[len(names)-1] != c.Disk {
			names = append(names, c.Disk)
		}
	}
	return names
}

// write prints a table for each disk.
func (r *report) write(w io.Writer, markdown bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Records of %d B, %d CPUs, %s; raw MB/s, medians of %d rounds of %.3gs; * is the best fixed codec.\n",
		r.RecordBytes, r.CPUs, r.Go, r.Rounds, r.Seconds)
	for _, name := range r.disks() {
		header := []string{"frame"}
		for _, p := range policies {
			header = append(header, p.String())
		}
		header = append(header, "auto chose", "auto behind")
		var rows [][]string
		paired := false
		for _, c := range r.Cells {
			if c.Disk != name {
				continue
			}
			row := []string{bench.SizeName(int64(c.FrameBytes))}
			for _, p := range c.Policies {
				text := table.Grouped(p.BytesPerSecond / 1e6)
				if p.Policy == c.Best {
					text += " *"
				}
				row = append(row, text)
			}
			row = append(row, chose(c.Policies[auto]), fmt.Sprintf("%.1f%%", c.Behind))
			if c.Pairs != nil {
				paired = true
				row = append(row, fmt.Sprintf("%.1f%%", c.Pairs.Behind))
			}
			rows = append(rows, row)
		}
		if paired {
			header = append(header, fmt.Sprintf("in %d pairs", len(r.Cells[0].Pairs.Auto)))
		}
		fmt.Fprintf(&b, "\n%s\n\n%s\n", bench.DescribeDisk(name), table.Render(header, rows, markdown))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// chose spells which codecs most blocks were stored with.
func chose(o outcome) string {
	var parts []string
	for _, p := range policies[:auto] {
		if share := o.Blocks[p.String()]; share >= 0.05 {
			parts = append(parts, fmt.Sprintf("%s %.0f%%", p, 100*share))
		}
	}
	return strings.Join(parts, ", ")
}

// verdict returns an error if pairs say that the automatic choice is further
// behind than it may be.
func (r *report) verdict() error {
	var errs []error
	for _, c := range r.Cells {
		if c.Pairs != nil && c.Pairs.Behind > allowed {
			errs = append(errs, fmt.Errorf("%s, frames of %s: auto is %.1f%% behind %s, %d%% are allowed",
				c.Disk, bench.SizeName(int64(c.FrameBytes)), c.Pairs.Behind, c.Best, allowed))
		}
	}
	return errors.Join(errs...)
}

// charts draws raw bytes a second against the size of frames, for each disk.
func (r *report) charts() map[string]plot.Chart {
	charts := map[string]plot.Chart{}
	for _, name := range r.disks() {
		c := plot.Chart{
			Title: "Durable MB/s, raw; " + bench.DescribeDisk(name),
			X:     plot.Axis{Label: "KiB in a frame, raw", Log: true}, Y: plot.Axis{Label: "MB/s of records", Log: true},
		}
		for i, p := range policies {
			line := plot.Series{Name: p.String(), Heavy: i == auto}
			for _, cell := range r.Cells {
				if cell.Disk != name {
					continue
				}
				kib := float64(cell.FrameBytes) / (1 << 10)
				if i == 0 {
					c.X.Ticks = append(c.X.Ticks, kib)
				}
				line.Points = append(line.Points, plot.Point{X: kib, Y: cell.Policies[i].BytesPerSecond / 1e6})
			}
			c.Series = append(c.Series, line)
		}
		charts["crossover-"+name+".svg"] = c
	}
	return charts
}

// writePairs writes one side of the pairs as Go benchmarks, for benchstat.
func (r *report) writePairs(w io.Writer, of func(*comparison) []float64) error {
	var b strings.Builder
	for _, c := range r.Cells {
		if c.Pairs == nil {
			continue
		}
		for _, rate := range of(c.Pairs) {
			fmt.Fprintf(&b, "BenchmarkCrossover/disk=%s/frame=%d-%d\t1\t%.0f B/s\n", c.Disk, c.FrameBytes, r.CPUs, rate)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// save writes the report, the pictures and, if there are any, the pairs into a
// directory.
func (r *report) save(dir string) error {
	files := map[string]func(io.Writer) error{
		"crossover.json": r.writeJSON,
		"crossover.md":   func(w io.Writer) error { return r.write(w, true) },
	}
	for name, c := range r.charts() {
		files[name] = c.WriteSVG
	}
	if r.Cells[0].Pairs != nil {
		files["auto.txt"] = func(w io.Writer) error { return r.writePairs(w, func(c *comparison) []float64 { return c.Auto }) }
		files["best.txt"] = func(w io.Writer) error { return r.writePairs(w, func(c *comparison) []float64 { return c.Best }) }
	}
	return table.Save(dir, files)
}
