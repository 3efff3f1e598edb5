package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/walsvc/walsvc/bench/table"
	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/plot"
)

// A machine is where a run was made: figures mean nothing elsewhere.
type machine struct {
	Time        time.Time `json:"time"`
	CPU         string    `json:"cpu"`
	CPUs        int       `json:"cpus"`
	Kernel      string    `json:"kernel"`
	FileSystem  string    `json:"file_system"`
	Go          string    `json:"go"`
	Commit      string    `json:"commit,omitempty"`
	LoadAverage float64   `json:"load_average"`    // of the minute before
	KeptAwake   bool      `json:"kept_awake"`      // no processor halts, whoever is measured
	SyncUS      float64   `json:"sync_us"`         // p50 of overwriting 4 KiB, and its sync
	GrowingUS   float64   `json:"growing_sync_us"` // p50 of appending 4 KiB to a file, and its sync
}

// look describes this machine.
func look(ctx context.Context, dir string) (machine, error) {
	m := machine{Time: time.Now().UTC().Truncate(time.Second), CPU: processor(), CPUs: runtime.NumCPU(), Kernel: kernel(),
		FileSystem: fileSystem(dir), Go: runtime.Version(), LoadAverage: loadAverage()}
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	r, err := bench.Disk(ctx, bench.DiskOptions{Dir: dir, Sizes: []int64{4 << 10}, Space: 128 << 20}, nil)
	if err != nil {
		return m, err
	}
	if c := r.Cell(bench.Overwritten, 4<<10); c != nil {
		m.SyncUS = c.Latency.P50
	}
	if c := r.Cell(bench.Appended, 4<<10); c != nil {
		m.GrowingUS = c.Latency.P50
	}
	return m, nil
}

// busy is the load average, for each CPU, from which on figures are not to be
// trusted.
const busy = 0.75

// A result is what was measured of one subject.
type result struct {
	about
	loads   map[work][]bench.Throughput // a round each
	replays []replayed                  // a round each
	disk    int64                       // bytes of files after filling
	err     error                       // that ended it
}

// A report is what `-o json` prints and peers.json holds.
type report struct {
	Machine     machine         `json:"machine"`
	RecordBytes int             `json:"record_bytes"`
	Rounds      int             `json:"rounds"`
	Seconds     float64         `json:"seconds"` // of each work in each round
	Records     int             `json:"records"` // read back
	Subjects    []subjectReport `json:"subjects"`
	Missing     []string        `json:"missing,omitempty"` // what is not installed, and where to get it
}

type subjectReport struct {
	about
	Works  []workReport  `json:"works"`
	Replay *replayReport `json:"replay,omitempty"`
	Error  string        `json:"error,omitempty"` // what ended it; figures are of the rounds before
}

// A workReport has medians over the rounds.
type workReport struct {
	work
	PerSecond float64       `json:"per_second"`
	Low       float64       `json:"per_second_low"`
	High      float64       `json:"per_second_high"`
	Latency   bench.Latency `json:"latency_us"`
	// WalsvcOver is walsvc's throughput over this one's, the median of the ratios
	// that were taken within one round; 0 if there is none.
	WalsvcOver float64   `json:"walsvc_over,omitempty"`
	Rounds     []float64 `json:"rounds_per_second"`
}

// A replayReport has medians over the rounds.
type replayReport struct {
	replayed
	Low        float64 `json:"records_per_second_low"`
	High       float64 `json:"records_per_second_high"`
	DiskBytes  int64   `json:"disk_bytes"`
	WalsvcOver float64 `json:"walsvc_over,omitempty"`
}

// report sums a run up. The first entry is walsvc, which ratios are of.
func (r *run) report(m machine, missing []string) report {
	rep := report{Machine: m, RecordBytes: r.size, Rounds: r.rounds, Seconds: r.duration.Seconds(), Records: r.records, Missing: missing}
	ours := r.results[0]
	for _, res := range r.results {
		s := subjectReport{about: res.about}
		if res.err != nil {
			s.Error = res.err.Error()
		}
		for _, w := range r.works {
			if len(res.loads[w]) > 0 {
				s.Works = append(s.Works, sum(w, res.loads[w], ours.loads[w]))
			}
		}
		if len(res.replays) > 0 {
			rates := figures(res.replays, func(p replayed) float64 { return p.RecordsPerSecond })
			s.Replay = &replayReport{
				replayed: replayed{
					OpenSeconds:      bench.Median(figures(res.replays, func(p replayed) float64 { return p.OpenSeconds })),
					FirstSeconds:     bench.Median(figures(res.replays, func(p replayed) float64 { return p.FirstSeconds })),
					RecordsPerSecond: bench.Median(rates),
				},
				Low: slices.Min(rates), High: slices.Max(rates), DiskBytes: res.disk,
				WalsvcOver: over(figures(ours.replays, func(p replayed) float64 { return p.RecordsPerSecond }), rates),
			}
		}
		rep.Subjects = append(rep.Subjects, s)
	}
	return rep
}

func sum(w work, rounds, ours []bench.Throughput) workReport {
	rate := func(t bench.Throughput) float64 { return t.PerSecond }
	rates := figures(rounds, rate)
	return workReport{
		work: w, PerSecond: bench.Median(rates), Low: slices.Min(rates), High: slices.Max(rates), Rounds: rates,
		Latency: bench.Latency{
			P50:  bench.Median(figures(rounds, func(t bench.Throughput) float64 { return t.Latency.P50 })),
			P99:  bench.Median(figures(rounds, func(t bench.Throughput) float64 { return t.Latency.P99 })),
			P999: bench.Median(figures(rounds, func(t bench.Throughput) float64 { return t.Latency.P999 })),
		},
		WalsvcOver: over(figures(ours, rate), rates),
	}
}

func figures[T any](rounds []T, of func(T) float64) []float64 {
	out := make([]float64, len(rounds))
	for i, r := range rounds {
		out[i] = of(r)
	}
	return out
}

// over returns the median of the ratios of a round each.
func over(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return bench.Median(ratios)
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// write prints the tables, as text or as Markdown.
func (r *report) write(w io.Writer, markdown bool) error {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, %d CPUs, %s, %s, %s", m.CPU, m.CPUs, m.Kernel, m.FileSystem, m.Go)
	if m.KeptAwake {
		b.WriteString(", processors kept from halting")
	}
	if m.Commit != "" {
		fmt.Fprintf(&b, ", commit %s", m.Commit)
	}
	fmt.Fprintf(&b, ".\n%s; load average before: %.2f. One write of 4 KiB and its sync: %.0f us over written blocks, %.0f us behind the end of a file.\n",
		m.Time.Format("2006-01-02 15:04 UTC"), m.LoadAverage, m.SyncUS, m.GrowingUS)
	fmt.Fprintf(&b, "Records of %d B; medians of %d rounds of %v; pipelined: at most %s records or 4 MiB unacknowledged.\n",
		r.RecordBytes, r.Rounds, time.Duration(r.Seconds*float64(time.Second)), table.Grouped(bench.PipelineRecords))

	section := func(title string, header []string, rows [][]string) {
		if len(rows) > 0 {
			fmt.Fprintf(&b, "\n%s\n\n%s\n", title, table.Render(header, rows, markdown))
		}
	}
	works := r.works()
	names := make([]string, len(works))
	for i, w := range works {
		names[i] = w.String()
	}
	cells := func(of func(workReport) string) (rows [][]string) {
		for _, s := range r.Subjects {
			row, measured := []string{s.Name}, false
			for _, w := range works {
				text := "-"
				if i := slices.IndexFunc(s.Works, func(have workReport) bool { return have.work == w }); i >= 0 {
					text, measured = of(s.Works[i]), true
				}
				row = append(row, text)
			}
			if measured {
				rows = append(rows, row)
			}
		}
		return rows
	}
	section("Durable appends a second (and half the range over the rounds)", append([]string{""}, names...), cells(func(w workReport) string {
		return table.Grouped(w.PerSecond) + spread(w.Low, w.PerSecond, w.High)
	}))
	section("Latency in us, p50 / p99", append([]string{""}, names...), cells(func(w workReport) string {
		return table.Grouped(w.Latency.P50) + " / " + table.Grouped(w.Latency.P99)
	}))
	section("walsvc's throughput over theirs, in the same round", append([]string{""}, names...), cells(func(w workReport) string {
		return times(w.WalsvcOver)
	}))
	var rows [][]string
	for _, s := range r.Subjects {
		if p := s.Replay; p != nil {
			rows = append(rows, []string{strings.TrimSuffix(s.Name, gatheredSuffix), milliseconds(p.OpenSeconds), milliseconds(p.FirstSeconds),
				table.Grouped(p.RecordsPerSecond) + spread(p.Low, p.RecordsPerSecond, p.High), times(p.WalsvcOver), fmt.Sprintf("%.0f MB", float64(p.DiskBytes)/1e6)})
		}
	}
	section(fmt.Sprintf("Opening and reading %s records back, in order", table.Grouped(float64(r.Records))),
		[]string{"", "open", "first record after", "records a second", "walsvc over it", "files"}, rows)
	rows = nil
	for _, s := range r.Subjects {
		rows = append(rows, []string{s.Name, s.Version, s.Reached, s.How})
	}
	if markdown {
		section("Each at its best", []string{"", "version", "reached", "how"}, rows)
	}
	for _, s := range r.Subjects {
		if s.Error != "" {
			fmt.Fprintf(&b, "\n%s failed: %s\n", s.Name, s.Error)
		}
	}
	for _, missing := range r.Missing {
		fmt.Fprintf(&b, "\nNot here: %s\n", missing)
	}
	if m.LoadAverage > busy*float64(m.CPUs) {
		fmt.Fprintf(&b, "\nThe machine was busy before this began: do not trust these figures.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// gatheredSuffix tells the line of a subject with a gatherer in front of it from
// the one without; what is read back is the same.
const gatheredSuffix = ", gathered"

func (r *report) works() (works []work) {
	for _, s := range r.Subjects {
		for _, w := range s.Works {
			if !slices.Contains(works, w.work) {
				works = append(works, w.work)
			}
		}
	}
	slices.SortFunc(works, func(a, b work) int {
		if a.Pipelined != b.Pipelined {
			if a.Pipelined {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.Callers, b.Callers)
	})
	return works
}

// spread spells half the range of figures around their median.
func spread(low, mid, high float64) string {
	if mid == 0 {
		return ""
	}
	return fmt.Sprintf(" ±%.0f%%", (high-low)/2/mid*100)
}

func milliseconds(seconds float64) string {
	if ms := seconds * 1e3; ms >= 10 {
		return table.Grouped(ms) + " ms"
	}
	return fmt.Sprintf("%.1f ms", seconds*1e3)
}

// times spells a ratio.
func times(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v < 10:
		return fmt.Sprintf("%.2fx", v)
	}
	return fmt.Sprintf("%.0fx", v)
}

// charts draws throughput and latency against callers.
func (r *report) charts() map[string]plot.Chart {
	chart := func(title, label string, of func(workReport) plot.Point) plot.Chart {
		c := plot.Chart{Title: title, X: plot.Axis{Label: "callers that each wait for their append", Log: true}, Y: plot.Axis{Label: label, Log: true}}
		for _, w := range r.works() {
			if !w.Pipelined {
				c.X.Ticks = append(c.X.Ticks, float64(w.Callers))
			}
		}
		for _, s := range r.Subjects {
			line := plot.Series{Name: s.Name, Heavy: strings.HasPrefix(s.Name, "walsvc")}
			for _, w := range s.Works {
				p := of(w)
				if w.Pipelined || p.Y <= 0 { // nothing got through: a logarithm has no place for that
					continue
				}
				p.X = float64(w.Callers)
				if p.High > 0 && p.Low <= 0 { // in some round
					p.Low = p.Y
				}
				line.Points = append(line.Points, p)
			}
			c.Series = append(c.Series, line)
		}
		return c
	}
	return map[string]plot.Chart{
		"peers-throughput.svg": chart("Durable appends a second", "appends/s", func(w workReport) plot.Point {
			return plot.Point{Y: w.PerSecond, Low: w.Low, High: w.High}
		}),
		"peers-p50.svg": chart("Latency of a durable append, p50", "us", func(w workReport) plot.Point { return plot.Point{Y: w.Latency.P50} }),
		"peers-p99.svg": chart("Latency of a durable append, p99", "us", func(w workReport) plot.Point { return plot.Point{Y: w.Latency.P99} }),
	}
}

// save writes peers.json, peers.md and the pictures into a directory.
func (r *report) save(dir string) error {
	files := map[string]func(io.Writer) error{
		"peers.json": r.writeJSON,
		"peers.md":   func(w io.Writer) error { return r.write(w, true) },
	}
	for name, c := range r.charts() {
		files[name] = c.WriteSVG
	}
	return table.Save(dir, files)
}
