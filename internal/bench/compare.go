package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// Figures are what a round measured and what was made of it, by name. A name
// ends in its unit, or says what it is a ratio to.
type Figures map[string]float64

// What the machine does without walsvc.
const (
	OverwriteUS        = "overwrite_us"            // p50 of one write of 4 KiB over written blocks and its sync
	EchoRoundTripUS    = "echo_round_trip_us"      // p50 of a bare gRPC stream, one record in flight
	EchoSyncUS         = "echo_sync_round_trip_us" // the same, answered behind such a write and sync
	EchoBytesPerSecond = "echo_bytes_per_second"   // of a bare gRPC stream of 64 KiB messages
	Loop1PerSecond     = "loop_1_per_second"       // mutex, append, sync: 1 caller
	Loop64PerSecond    = "loop_64_per_second"      // 64 callers
	Loop256PerSecond   = "loop_256_per_second"     // 256 callers
)

// What walsvc does, and what is compared. Those of Goals alone are beside it.
const (
	oneCallerUS         = "one_caller_us" // p50
	callers64PerSecond  = "callers_64_per_second"
	callers256PerSecond = "callers_256_per_second"
	pipelinedPerSecond  = "pipelined_per_second"
	rssIdleBytes        = "server_rss_idle_bytes"      // before the first append
	rssSaturatedBytes   = "server_rss_saturated_bytes" // the most after any load of the round

	oneCallerToSum   = "one_caller_to_sum" // latency: 1 is a round trip and a sync and nothing else
	callers64ToLoop  = "callers_64_to_loop"
	callers256ToLoop = "callers_256_to_loop"
	pipelinedToEcho  = "pipelined_to_echo" // bytes of records to bytes of bare gRPC
	rssIdleMiB       = "server_rss_idle_mib"
	rssSaturatedMiB  = "server_rss_saturated_mib"
)

// A Comparison is several rounds, in which walsvc and the machine are measured
// in turn, their medians, and what those are to be.
type Comparison struct {
	RecordBytes int       `json:"record_bytes"`
	Median      Figures   `json:"median"`
	Rounds      []Figures `json:"rounds"`
	Goals       []Goal    `json:"goals"`
}

// A Goal is a figure that walsvc is meant to reach on any machine.
type Goal struct {
	What   string  `json:"what"`
	Got    float64 `json:"got"`            // 0 for want of a measurement, which reaches nothing
	Gate   float64 `json:"gate,omitempty"` // what has to be reached; 0 for nothing
	Aim    float64 `json:"aim,omitempty"`  // what is hoped for; 0 for nothing
	AtMost bool    `json:"at_most"`        // they are the most, not the least
	Unit   string  `json:"unit"`
	Beside string  `json:"beside"` // what it is made of, or compared with
}

// Met reports whether the gate is passed, if there is one.
func (g Goal) Met() bool { return g.Gate == 0 || g.reaches(g.Gate) }

// Aimed reports whether the aim is reached, if there is one.
func (g Goal) Aimed() bool { return g.Aim == 0 || g.reaches(g.Aim) }

func (g Goal) reaches(wanted float64) bool {
	if g.AtMost {
		return g.Got > 0 && g.Got <= wanted
	}
	return g.Got >= wanted
}

// CompareOptions say how Compare, CompareGoals and MeasureBaseline measure.
type CompareOptions struct {
	Target   TargetOptions // a service of its own: Connect is nil
	Echo     string        // the Unix socket that ServeEcho listens on, in another process
	Size     int           // of a record in bytes
	Duration time.Duration // of each measurement
	Rounds   int
	Warm     time.Duration // bound on warming up; see Target.Warm
	Records  int64         // that are read back, for CompareGoals; of the log that is alone, the other has a quarter
	Logs     int           // that are written at once, for CompareGoals
	Progress func(done, all int, what string)
}

// A step measures some figures of a round.
type step struct {
	what string
	run  func(ctx context.Context, f Figures) error
}

// A row makes a figure of those that were measured, in each round, so that a
// ratio is one of figures of the same minute; and compares its median.
type row struct {
	what      string
	name      string
	of        func(f Figures) float64
	gate, aim float64
	atMost    bool
	unit      string
	beside    func(m Figures) string // of the medians
}

// over returns the ratio of two figures.
func over(a, b string) func(Figures) float64 {
	return func(f Figures) float64 { return ratio(f[a], f[b]) }
}

func (o *CompareOptions) overwrite(dir string, size int64, name string, to func(DiskCell) float64) step {
	return step{"overwrite and sync " + SizeName(size), func(ctx context.Context, f Figures) error {
		got, err := Overwrite(ctx, dir, size, o.Duration)
		f[name] = to(got)
		return err
	}}
}

func (o *CompareOptions) roundTrip(e *Echo) step {
	return step{"bare gRPC round trip", func(ctx context.Context, f Figures) error {
		got, err := e.RoundTrip(ctx, o.Size, o.Duration)
		f[EchoRoundTripUS] = got.P50
		return err
	}}
}

func (o *CompareOptions) syncRoundTrip(e *Echo) step {
	return step{"bare gRPC round trip with a sync", func(ctx context.Context, f Figures) error {
		got, err := e.SyncRoundTrip(ctx, o.Size, o.Duration)
		f[EchoSyncUS] = got.P50
		return err
	}}
}

func (o *CompareOptions) bandwidth(e *Echo, size int, name string) step {
	return step{"bare gRPC, messages of " + SizeName(int64(size)), func(ctx context.Context, f Figures) (err error) {
		f[name], err = e.Bandwidth(ctx, size, o.Duration)
		return err
	}}
}

func (o *CompareOptions) loop(dir string, callers int, name string) step {
	return step{fmt.Sprintf("loop, %d callers", callers), func(ctx context.Context, f Figures) error {
		got, err := Loop(ctx, dir, callers, o.Size, o.Duration)
		f[name] = got.PerSecond
		return err
	}}
}

// load puts a load on a target. What is not said of the load is o's.
func (o *CompareOptions) load(t *Target, what string, l Load, to func(f Figures, got AppendResult)) step {
	if l.Size == 0 {
		l.Size = o.Size
	}
	if l.Duration == 0 {
		l.Duration = o.Duration
	}
	return step{"walsvc, " + what, func(ctx context.Context, f Figures) error {
		settle := l
		settle.Duration = o.settle()
		if _, err := t.Append(ctx, settle); err != nil {
			return err
		}
		got, err := t.Append(ctx, l)
		if err != nil {
			return err
		}
		f[rssSaturatedBytes] = max(f[rssSaturatedBytes], float64(got.ServerRSSBytes))
		to(f, got)
		return nil
	}}
}

// settle returns how long a load goes on before it counts: a service that stood still while
// others were measured has given back its memory, and knows nothing of the load.
func (o *CompareOptions) settle() time.Duration { return o.Duration / 2 }

// These take one figure off what was measured.

func p50(c DiskCell) float64 { return c.Latency.P50 }

func latencyTo(name string) func(Figures, AppendResult) {
	return func(f Figures, a AppendResult) { f[name] = a.Latency.P50 }
}

func rateTo(name string) func(Figures, AppendResult) {
	return func(f Figures, a AppendResult) { f[name] = a.AppendsPerSecond }
}

func (o *CompareOptions) progress(done, all int, what string) {
	if o.Progress != nil {
		o.Progress(done, all, what)
	}
}

// MeasureBaseline measures what the machine can do without walsvc, on the disk
// of dir.
func MeasureBaseline(ctx context.Context, o CompareOptions, dir string) (_ Figures, err error) {
	e, err := DialEcho(o.Echo)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	o.Rounds = 1
	c, err := o.rounds(ctx, []step{
		o.overwrite(dir, 4<<10, OverwriteUS, p50), o.roundTrip(e), o.syncRoundTrip(e),
		o.bandwidth(e, 64<<10, EchoBytesPerSecond),
		o.loop(dir, 1, Loop1PerSecond), o.loop(dir, 64, Loop64PerSecond), o.loop(dir, 256, Loop256PerSecond),
	}, nil)
	if err != nil {
		return nil, err
	}
	return c.Median, nil
}

// Compare measures walsvc and the machine in turn, several rounds of it.
func Compare(ctx context.Context, o CompareOptions) (_ *Comparison, err error) {
	e, err := DialEcho(o.Echo)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	o.progress(0, 1, "starting walsvc")
	t, err := NewTarget(ctx, o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	idle, err := t.Status(ctx)
	if err != nil {
		return nil, err
	}
	t.Truncate(ctx)
	if err := t.Warm(ctx, o.Warm, func(n, all int) { o.progress(n, all, "warming up: segments recycled") }); err != nil {
		return nil, err
	}
	dir := t.Volume()
	// Each of ours beside what it is compared with.
	return o.rounds(ctx, []step{
		o.overwrite(dir, 4<<10, OverwriteUS, p50), o.roundTrip(e),
		o.load(t, "1 caller", Load{Callers: 1}, latencyTo(oneCallerUS)),
		o.loop(dir, 1, Loop1PerSecond), o.loop(dir, 64, Loop64PerSecond),
		o.load(t, "64 callers", Load{Callers: 64}, rateTo(callers64PerSecond)),
		o.loop(dir, 256, Loop256PerSecond),
		o.load(t, "256 callers", Load{Callers: 256}, rateTo(callers256PerSecond)),
		o.bandwidth(e, 64<<10, EchoBytesPerSecond),
		o.load(t, "pipelined", Load{Callers: 1, Pipelined: true}, func(f Figures, a AppendResult) {
			f[pipelinedPerSecond] = a.AppendsPerSecond
			f[rssIdleBytes] = float64(idle.GetRssBytes())
		}),
	}, compareRows(o.Size))
}

// rounds measures all steps in turn, again and again, and compares the rows.
func (o *CompareOptions) rounds(ctx context.Context, steps []step, rows []row) (*Comparison, error) {
	c := &Comparison{RecordBytes: o.Size}
	for i := range o.Rounds {
		f := Figures{}
		for j, s := range steps {
			o.progress(i*len(steps)+j, o.Rounds*len(steps), s.what)
			runtime.GC() // what is garbage by now is another step's
			if err := s.run(ctx, f); err != nil {
				return nil, fmt.Errorf("%s: %w", s.what, err)
			}
		}
		for _, r := range rows {
			f[r.name] = r.of(f)
		}
		c.Rounds = append(c.Rounds, f)
	}
	c.Median = median(c.Rounds)
	c.Goals = goals(c.Median, rows)
	return c, nil
}

// ratio is 0 for want of something to compare with.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// median takes each figure's own median, also that of the ratios: the median of
// ratios taken in one round is steadier than the ratio of medians. All rounds
// have the same figures.
func median(rounds []Figures) Figures {
	m := Figures{}
	for name := range rounds[0] {
		all := make([]float64, 0, len(rounds))
		for _, f := range rounds {
			all = append(all, f[name])
		}
		m[name] = Median(all)
	}
	return m
}

// goals compares medians with what is wanted.
func goals(m Figures, rows []row) []Goal {
	var all []Goal
	for _, r := range rows {
		all = append(all, Goal{What: r.what, Got: m[r.name], Gate: r.gate, Aim: r.aim, AtMost: r.atMost, Unit: r.unit, Beside: r.beside(m)})
	}
	return all
}

// besideLoop says a rate and that of the loop.
func besideLoop(ours, loop string) func(Figures) string {
	return func(m Figures) string { return fmt.Sprintf("%.0f/s; mutex, append and sync %.0f/s", m[ours], m[loop]) }
}

// besideSum says what a lone append is made of.
func besideSum(m Figures) string {
	return fmt.Sprintf("%.0f us; bare round trip %.0f us + overwriting sync %.0f us", m[oneCallerUS], m[EchoRoundTripUS], m[OverwriteUS])
}

func toSum(f Figures) float64 { return ratio(f[oneCallerUS], f[EchoRoundTripUS]+f[OverwriteUS]) }

// compareRows are what Compare compares, with records of so many bytes. A
// pipeline of 900,000 appends of 400 bytes a second is wanted where bare gRPC
// moves 1.4 GB/s; elsewhere that moves with the machine.
func compareRows(size int) []row {
	mib := func(name string) func(Figures) float64 { return func(f Figures) float64 { return f[name] / (1 << 20) } }
	says := func(s string) func(Figures) string { return func(Figures) string { return s } }
	return []row{
		{"1 caller, p50", oneCallerToSum, toSum, 1.5, 0, true, "x", besideSum},
		{"64 callers", callers64ToLoop, over(callers64PerSecond, Loop64PerSecond), 10, 0, false, "x", besideLoop(callers64PerSecond, Loop64PerSecond)},
		{"256 callers", callers256ToLoop, over(callers256PerSecond, Loop256PerSecond), 40, 0, false, "x", besideLoop(callers256PerSecond, Loop256PerSecond)},
		{"pipelined, bytes", pipelinedToEcho, func(f Figures) float64 { return ratio(f[pipelinedPerSecond]*float64(size), f[EchoBytesPerSecond]) },
			900e3 * 400 / 1.4e9, 0, false, "x", func(m Figures) string {
				return fmt.Sprintf("%.0f/s; bare gRPC moves 64 KiB messages at %.2f GB/s", m[pipelinedPerSecond], m[EchoBytesPerSecond]/1e9)
			}},
		{"server memory, saturated", rssSaturatedMiB, mib(rssSaturatedBytes), 256, 0, true, " MiB", says("resident")},
		{"server memory, idle", rssIdleMiB, mib(rssIdleBytes), 40, 0, true, " MiB", says("resident, on a new volume")},
	}
}
