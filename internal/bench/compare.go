package bench

import (
	"context"
	"fmt"
	"time"
)

// Baseline is what the machine can do without walsvc.
type Baseline struct {
	OverwriteUS        float64 `json:"overwrite_us"`          // p50 of one write of 4 KiB over written blocks and its sync
	EchoRoundTripUS    float64 `json:"echo_round_trip_us"`    // p50 of a bare gRPC stream, one record in flight
	EchoBytesPerSecond float64 `json:"echo_bytes_per_second"` // of a bare gRPC stream of 64 KiB messages
	Loop1PerSecond     float64 `json:"loop_1_per_second"`     // mutex, append, sync: 1 caller
	Loop64PerSecond    float64 `json:"loop_64_per_second"`    // 64 callers
	Loop256PerSecond   float64 `json:"loop_256_per_second"`   // 256 callers
}

// Ours is walsvc, measured between the same machine's baselines.
type Ours struct {
	OneCallerUS        float64 `json:"one_caller_us"` // p50
	Callers64PerSecond float64 `json:"callers_64_per_second"`
	Callers256         float64 `json:"callers_256_per_second"`
	PipelinedPerSecond float64 `json:"pipelined_per_second"`
}

// Ratios compare the two, each taken within one round.
type Ratios struct {
	OneCallerToFloor float64 `json:"one_caller_to_floor"` // latency: 1 is a round trip plus a sync and nothing else
	Callers64ToLoop  float64 `json:"callers_64_to_loop"`
	Callers256ToLoop float64 `json:"callers_256_to_loop"`
	PipelinedToEcho  float64 `json:"pipelined_to_echo"` // bytes of records to bytes of bare gRPC
}

// A Round is everything measured once, one after the other.
type Round struct {
	Baseline Baseline `json:"baseline"`
	Walsvc   Ours     `json:"walsvc"`
	Ratios   Ratios   `json:"ratios"`
}

// A Comparison is several rounds and their medians.
type Comparison struct {
	RecordBytes       int     `json:"record_bytes"`
	Median            Round   `json:"median"`
	ServerRSSIdle     uint64  `json:"server_rss_idle_bytes"`      // before the first append
	ServerRSSSaturate uint64  `json:"server_rss_saturated_bytes"` // the most after any load
	Rounds            []Round `json:"rounds"`
}

// CompareOptions say how Compare and MeasureBaseline measure.
type CompareOptions struct {
	Target   TargetOptions // a service of its own: Connect is nil
	Echo     string        // the Unix socket that ServeEcho listens on, in another process
	Size     int           // of a record in bytes
	Duration time.Duration // of each measurement
	Rounds   int
	Warm     time.Duration // bound on warming up; see Target.Warm
	Progress func(done, all int, what string)
}

// A step measures one figure of a round.
type step struct {
	what string
	run  func(r *Round) error
}

func (o *CompareOptions) baseline(ctx context.Context, e *Echo, dir string) []step {
	loop := func(callers int, to func(*Round) *float64) step {
		return step{fmt.Sprintf("loop, %d callers", callers), func(r *Round) error {
			got, err := Loop(ctx, dir, callers, o.Size, o.Duration)
			*to(r) = got.PerSecond
			return err
		}}
	}
	return []step{
		{"overwrite and sync", func(r *Round) error {
			got, err := Overwrite(ctx, dir, o.Duration)
			r.Baseline.OverwriteUS = got.P50
			return err
		}},
		{"bare gRPC round trip", func(r *Round) error {
			got, err := e.RoundTrip(ctx, o.Size, o.Duration)
			r.Baseline.EchoRoundTripUS = got.P50
			return err
		}},
		{"bare gRPC bandwidth", func(r *Round) (err error) {
			r.Baseline.EchoBytesPerSecond, err = e.Bandwidth(ctx, 64<<10, o.Duration)
			return err
		}},
		loop(1, func(r *Round) *float64 { return &r.Baseline.Loop1PerSecond }),
		loop(64, func(r *Round) *float64 { return &r.Baseline.Loop64PerSecond }),
		loop(256, func(r *Round) *float64 { return &r.Baseline.Loop256PerSecond }),
	}
}

func (o *CompareOptions) progress(done, all int, what string) {
	if o.Progress != nil {
		o.Progress(done, all, what)
	}
}

// MeasureBaseline measures what the machine can do without walsvc, on the disk
// of dir.
func MeasureBaseline(ctx context.Context, o CompareOptions, dir string) (Baseline, error) {
	e, err := DialEcho(o.Echo)
	if err != nil {
		return Baseline{}, err
	}
	defer func() { _ = e.Close() }() // nothing is pending
	var r Round
	steps := o.baseline(ctx, e, dir)
	for i, s := range steps {
		o.progress(i, len(steps), s.what)
		if err := s.run(&r); err != nil {
			return Baseline{}, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return r.Baseline, nil
}

// Compare measures walsvc and the machine in turn, several rounds of it.
func Compare(ctx context.Context, o CompareOptions) (_ *Comparison, err error) {
	e, err := DialEcho(o.Echo)
	if err != nil {
		return nil, err
	}
	defer func() { _ = e.Close() }() // nothing is pending
	o.progress(0, 1, "starting walsvc")
	t, err := NewTarget(ctx, o.Target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := t.Close(context.WithoutCancel(ctx)); err == nil {
			err = cerr
		}
	}()
	c := &Comparison{RecordBytes: o.Size}
	idle, err := t.Status(ctx)
	if err != nil {
		return nil, err
	}
	c.ServerRSSIdle = idle.GetRssBytes()
	t.Truncate(ctx)
	if err := t.Warm(ctx, o.Warm, func(n, all int) { o.progress(n, all, "warming up: segments recycled") }); err != nil {
		return nil, err
	}

	load := func(what string, l Load, to func(r *Round, got AppendResult)) step {
		l.Size, l.Duration = o.Size, o.Duration
		return step{what, func(r *Round) error {
			got, err := t.Append(ctx, l)
			if err != nil {
				return err
			}
			c.ServerRSSSaturate = max(c.ServerRSSSaturate, got.ServerRSSBytes)
			to(r, got)
			return nil
		}}
	}
	base := o.baseline(ctx, e, t.Volume())
	// Each of ours beside what it is compared with.
	steps := []step{
		base[0], base[1],
		load("walsvc, 1 caller", Load{Callers: 1}, func(r *Round, a AppendResult) { r.Walsvc.OneCallerUS = a.Latency.P50 }),
		base[3], base[4],
		load("walsvc, 64 callers", Load{Callers: 64}, func(r *Round, a AppendResult) { r.Walsvc.Callers64PerSecond = a.AppendsPerSecond }),
		base[5],
		load("walsvc, 256 callers", Load{Callers: 256}, func(r *Round, a AppendResult) { r.Walsvc.Callers256 = a.AppendsPerSecond }),
		base[2],
		load("walsvc, pipelined", Load{Callers: 1, Pipelined: true}, func(r *Round, a AppendResult) { r.Walsvc.PipelinedPerSecond = a.AppendsPerSecond }),
	}
	for i := range o.Rounds {
		var r Round
		for j, s := range steps {
			o.progress(i*len(steps)+j, o.Rounds*len(steps), s.what)
			if err := s.run(&r); err != nil {
				return nil, fmt.Errorf("%s: %w", s.what, err)
			}
		}
		r.Ratios = ratios(r, o.Size)
		c.Rounds = append(c.Rounds, r)
	}
	c.Median = median(c.Rounds)
	return c, nil
}

// ratios is a pure function of a round's figures.
func ratios(r Round, size int) Ratios {
	over := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	return Ratios{
		OneCallerToFloor: over(r.Walsvc.OneCallerUS, r.Baseline.EchoRoundTripUS+r.Baseline.OverwriteUS),
		Callers64ToLoop:  over(r.Walsvc.Callers64PerSecond, r.Baseline.Loop64PerSecond),
		Callers256ToLoop: over(r.Walsvc.Callers256, r.Baseline.Loop256PerSecond),
		PipelinedToEcho:  over(r.Walsvc.PipelinedPerSecond*float64(size), r.Baseline.EchoBytesPerSecond),
	}
}

// median takes each figure's own median, also that of the ratios: the median of
// ratios taken in one round is steadier than the ratio of medians.
func median(rounds []Round) Round {
	of := func(figure func(r *Round) *float64) float64 {
		var all []float64
		for i := range rounds {
			all = append(all, *figure(&rounds[i]))
		}
		return Median(all)
	}
	var m Round
	for _, figure := range []func(*Round) *float64{
		func(r *Round) *float64 { return &r.Baseline.OverwriteUS },
		func(r *Round) *float64 { return &r.Baseline.EchoRoundTripUS },
		func(r *Round) *float64 { return &r.Baseline.EchoBytesPerSecond },
		func(r *Round) *float64 { return &r.Baseline.Loop1PerSecond },
		func(r *Round) *float64 { return &r.Baseline.Loop64PerSecond },
		func(r *Round) *float64 { return &r.Baseline.Loop256PerSecond },
		func(r *Round) *float64 { return &r.Walsvc.OneCallerUS },
		func(r *Round) *float64 { return &r.Walsvc.Callers64PerSecond },
		func(r *Round) *float64 { return &r.Walsvc.Callers256 },
		func(r *Round) *float64 { return &r.Walsvc.PipelinedPerSecond },
		func(r *Round) *float64 { return &r.Ratios.OneCallerToFloor },
		func(r *Round) *float64 { return &r.Ratios.Callers64ToLoop },
		func(r *Round) *float64 { return &r.Ratios.Callers256ToLoop },
		func(r *Round) *float64 { return &r.Ratios.PipelinedToEcho },
	} {
		*figure(&m) = of(figure)
	}
	return m
}

// A Goal is a figure that walsvc is meant to reach on any machine.
type Goal struct {
	What   string  `json:"what"`
	Got    float64 `json:"got"`
	Wanted float64 `json:"wanted"`
	AtMost bool    `json:"at_most"` // Wanted is the most, not the least
	Unit   string  `json:"unit"`
	Beside string  `json:"beside"` // what it is compared with
}

// Met reports whether the goal is reached.
func (g Goal) Met() bool {
	if g.AtMost {
		return g.Got <= g.Wanted
	}
	return g.Got >= g.Wanted
}

// echoGoal is the bandwidth of bare gRPC at which 900,000 appends of 400 bytes a
// second are wanted; elsewhere the goal moves with the machine.
const echoGoal = 1.4e9

// Goals compares the medians with what is wanted.
func (c *Comparison) Goals() []Goal {
	m := c.Median
	scale := m.Baseline.EchoBytesPerSecond / echoGoal * 400 / float64(c.RecordBytes)
	return []Goal{
		{"1 caller, p50", m.Ratios.OneCallerToFloor, 1.5, true, "x",
			fmt.Sprintf("%.0f us; bare round trip %.0f us + overwriting sync %.0f us", m.Walsvc.OneCallerUS, m.Baseline.EchoRoundTripUS, m.Baseline.OverwriteUS)},
		{"64 callers", m.Ratios.Callers64ToLoop, 10, false, "x",
			fmt.Sprintf("%.0f/s; mutex, append and sync %.0f/s", m.Walsvc.Callers64PerSecond, m.Baseline.Loop64PerSecond)},
		{"256 callers", m.Ratios.Callers256ToLoop, 40, false, "x",
			fmt.Sprintf("%.0f/s; mutex, append and sync %.0f/s", m.Walsvc.Callers256, m.Baseline.Loop256PerSecond)},
		{"pipelined", m.Walsvc.PipelinedPerSecond, 900e3 * scale, false, "/s",
			fmt.Sprintf("bare gRPC moves 64 KiB messages at %.2f GB/s", m.Baseline.EchoBytesPerSecond/1e9)},
		{"server memory, saturated", float64(c.ServerRSSSaturate) / (1 << 20), 256, true, " MiB", "resident"},
		{"server memory, idle", float64(c.ServerRSSIdle) / (1 << 20), 40, true, " MiB", "resident, on a new volume"},
	}
}
