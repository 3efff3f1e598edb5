package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/plot"
)

// SoakOptions say how Soak loads, and for how long.
type SoakOptions struct {
	Target   TargetOptions // a service of its own: Connect is nil; Logs is not looked at
	Callers  int           // that wait for each append
	Share    float64       // of what a pipeline reaches alone, that the producer appends; above 0, at most 1
	Size     int           // of a record in bytes
	Duration time.Duration
	Warm     time.Duration // bound on warming up; see Target.Warm
	Progress func(done, all int, what string)
}

// A SoakSample is what happened in one second of a soak.
type SoakSample struct {
	Second           float64 `json:"second"` // at which it ended
	AppendsPerSecond float64 `json:"appends_per_second"`
	P50US            float64 `json:"p50_us"` // of callers; 0 if none of their appends landed
	P99US            float64 `json:"p99_us"`
	ServerRSSBytes   float64 `json:"server_rss_bytes"`
	ServerHeapBytes  float64 `json:"server_heap_bytes"` // objects, those not yet swept included
}

// A SoakReport is what `walctl bench soak -o json` prints.
type SoakReport struct {
	RecordBytes      int          `json:"record_bytes"`
	Callers          int          `json:"callers"`
	PeakPerSecond    float64      `json:"peak_per_second"` // of a pipeline alone
	RatePerSecond    float64      `json:"rate_per_second"` // that the producer was to append
	Checkpoints      int          `json:"checkpoints"`     // set meanwhile
	Followed         uint64       `json:"followed"`        // records that the follower read: all of the producer's
	SegmentsRolled   uint64       `json:"segments_rolled"`
	SegmentsRecycled uint64       `json:"segments_recycled"`
	Samples          []SoakSample `json:"samples"`
	Trends           []Trend      `json:"trends"`
	Flat             bool         `json:"flat"` // every trend is
}

// A Trend is how a figure went over a soak.
type Trend struct {
	What   string  `json:"what"`
	Bytes  bool    `json:"bytes"` // it is memory; else microseconds
	First  float64 `json:"first"` // median of the first quarter
	Last   float64 `json:"last"`  // median of the last quarter
	Bound  float64 `json:"bound"` // what the last may be
	Factor float64 `json:"factor"`
	Flat   bool    `json:"flat"`
}

// The rule. The first tenth of the samples is for warming up: buffers grow to
// their sizes, and the heap finds its own. Of the rest, the medians of the first
// and of the last quarter are compared, so that neither a pause nor the place
// in a collection's cycle at which a sample is taken decides. Memory is flat if
// the last is at most a tenth above the first, or 4 MiB for a small process;
// the median latency if it is at most a fifth above, the 99th percentile, which
// moves more with the machine, at most a half. Less is always flat, and nothing
// measured never.
const (
	soakWarmup    = 0.1
	soakMemory    = 1.1
	soakMemoryMin = 4 << 20
	soakP50       = 1.2
	soakP99       = 1.5
)

// judgeSoak applies the rule. It is a pure function of the samples.
func judgeSoak(samples []SoakSample) (trends []Trend, flat bool) {
	rest := samples[int(float64(len(samples))*soakWarmup):]
	quarter := max(len(rest)/4, min(len(rest), 1))
	flat = true
	for _, of := range []struct {
		what   string
		figure func(SoakSample) float64
		factor float64
		least  float64 // growth that is always allowed
	}{
		{"server memory", func(s SoakSample) float64 { return s.ServerRSSBytes }, soakMemory, soakMemoryMin},
		{"server heap", func(s SoakSample) float64 { return s.ServerHeapBytes }, soakMemory, soakMemoryMin},
		{"latency p50", func(s SoakSample) float64 { return s.P50US }, soakP50, 0},
		{"latency p99", func(s SoakSample) float64 { return s.P99US }, soakP99, 0},
	} {
		t := Trend{What: of.what, Bytes: of.least > 0, Factor: of.factor,
			First: medianOf(rest[:quarter], of.figure), Last: medianOf(rest[len(rest)-quarter:], of.figure)}
		t.Bound = max(t.First*of.factor, t.First+of.least)
		t.Flat = t.First > 0 && t.Last > 0 && t.Last <= t.Bound
		flat = flat && t.Flat
		trends = append(trends, t)
	}
	return trends, flat
}

// medianOf returns the median of a figure, where it is above 0.
func medianOf(samples []SoakSample, figure func(SoakSample) float64) float64 {
	var all []float64
	for _, s := range samples {
		if v := figure(s); v > 0 {
			all = append(all, v)
		}
	}
	return Median(all)
}

// Periods returns the soak as at most n samples, each the medians of as many
// seconds as the others.
func (r *SoakReport) Periods(n int) []SoakSample {
	var periods []SoakSample
	for i := range min(n, len(r.Samples)) {
		part := r.Samples[i*len(r.Samples)/min(n, len(r.Samples)) : (i+1)*len(r.Samples)/min(n, len(r.Samples))]
		periods = append(periods, SoakSample{
			Second:           part[len(part)-1].Second,
			AppendsPerSecond: medianOf(part, func(s SoakSample) float64 { return s.AppendsPerSecond }),
			P50US:            medianOf(part, func(s SoakSample) float64 { return s.P50US }),
			P99US:            medianOf(part, func(s SoakSample) float64 { return s.P99US }),
			ServerRSSBytes:   medianOf(part, func(s SoakSample) float64 { return s.ServerRSSBytes }),
			ServerHeapBytes:  medianOf(part, func(s SoakSample) float64 { return s.ServerHeapBytes }),
		})
	}
	return periods
}

// soakPoints is how many points of a line are drawn at most.
const soakPoints = 120

// WriteSVG draws the figures over time, each against its own median of the
// first quarter: what is flat stays at 1.
func (r *SoakReport) WriteSVG(w io.Writer) error {
	periods := r.Periods(soakPoints)
	c := plot.Chart{
		Title: fmt.Sprintf("%.0f appends/s in a pipeline and %d callers: 1 is the beginning", r.RatePerSecond, r.Callers),
		X:     plot.Axis{Label: "seconds"}, Y: plot.Axis{Label: "to the median of the first quarter", Log: true, Ticks: []float64{0.25, 0.5, 1, 2, 4}},
	}
	for _, line := range []struct {
		name   string
		heavy  bool
		figure func(SoakSample) float64
	}{
		{"appends/s", false, func(s SoakSample) float64 { return s.AppendsPerSecond }},
		{"latency p50", true, func(s SoakSample) float64 { return s.P50US }},
		{"latency p99", false, func(s SoakSample) float64 { return s.P99US }},
		{"server memory", true, func(s SoakSample) float64 { return s.ServerRSSBytes }},
		{"server heap", false, func(s SoakSample) float64 { return s.ServerHeapBytes }},
	} {
		one := medianOf(periods[:max(len(periods)/4, 1)], line.figure)
		series := plot.Series{Name: line.name, Heavy: line.heavy}
		for _, p := range periods {
			if v := line.figure(p); v > 0 && one > 0 {
				series.Points = append(series.Points, plot.Point{X: p.Second, Y: v / one})
			}
		}
		c.Series = append(c.Series, series)
	}
	return c.WriteSVG(w)
}

// soakCheckpoint is the checkpoint that is set all the time, with as many bytes
// of state.
const (
	soakCheckpoint = "soak"
	soakState      = 4 << 10
)

// soakSamples is how many samples a soak has at least: one each second in all
// but short ones.
const soakSamples = 20

// A soak is a load like that of a service in use: a producer with a fixed rate,
// whose log is followed, and held by a checkpoint behind the follower; and
// callers, whose log is truncated.
type soak struct {
	o        SoakOptions
	target   *Target
	report   *SoakReport
	latency  *recorder     // of callers
	followed atomic.Uint64 // LSN up to which the follower has read

	fail context.CancelCauseFunc
}

// Soak loads a service for long and watches its memory and its latency.
func Soak(ctx context.Context, o SoakOptions) (_ *SoakReport, err error) {
	progress := func(done, all int, what string) {
		if o.Progress != nil {
			o.Progress(done, all, what)
		}
	}
	progress(0, 1, "starting walsvc")
	o.Target.Connections, o.Target.Logs = 2, 2 // callers do not queue behind the producer's records
	t, err := NewTarget(ctx, o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	if err := t.Warm(ctx, o.Warm, func(n, all int) { progress(n, all, "warming up: segments recycled") }); err != nil {
		return nil, err
	}
	progress(0, 1, "measuring the peak")
	peak, err := Load{Callers: 1, Size: o.Size, Pipelined: true, Duration: min(o.Duration, 2*time.Second)}.Run(ctx, t.Logs[:1])
	if err != nil {
		return nil, err
	}
	if err := t.GiveUp(ctx); err != nil {
		return nil, err
	}
	s := &soak{o: o, target: t, latency: newRecorder(), report: &SoakReport{
		RecordBytes: o.Size, Callers: o.Callers, PeakPerSecond: peak.PerSecond, RatePerSecond: peak.PerSecond * o.Share,
	}}
	before, err := t.Status(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.run(ctx, func(at time.Duration) {
		progress(int(at.Seconds()), max(int(o.Duration.Seconds()), 1), fmt.Sprintf("soaking for %v", o.Duration))
	}); err != nil {
		return nil, err
	}
	after, err := t.Status(ctx)
	if err != nil {
		return nil, err
	}
	r := s.report
	r.SegmentsRolled, r.SegmentsRecycled = after.GetRolls()-before.GetRolls(), after.GetRecycles()-before.GetRecycles()
	r.Trends, r.Flat = judgeSoak(r.Samples)
	return r, nil
}

// run puts the load on, and returns when the follower has read all of it.
func (s *soak) run(ctx context.Context, progress func(time.Duration)) error {
	ctx, s.fail = context.WithCancelCause(ctx)
	defer s.fail(nil)
	produced, called := s.target.logs[0], s.target.logs[1]
	begin, err := produced.Info(ctx)
	if err != nil {
		return err
	}
	s.followed.Store(uint64(begin.Next) - 1)

	var loads, beside sync.WaitGroup
	besideCtx, stop := context.WithCancel(ctx)
	defer beside.Wait()
	defer stop()
	load := func(what string, l Load, log Log) {
		loads.Go(func() {
			if _, err := l.Run(ctx, []Log{log}); err != nil {
				s.fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	aside := func(what string, fn func(context.Context) error) {
		beside.Go(func() {
			if err := fn(besideCtx); err != nil && besideCtx.Err() == nil {
				s.fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	caughtUp := make(chan uint64, 1) // takes the LSN up to which the follower is to read
	reached := make(chan struct{})
	aside("follow", func(ctx context.Context) error { return s.follow(ctx, begin.Next, caughtUp, reached) })
	aside("keep", func(ctx context.Context) error { return s.keep(ctx, produced, called) })
	aside("sample", func(ctx context.Context) error { return s.sample(ctx, progress) })
	load("producer", Load{Rate: s.report.RatePerSecond, Size: s.o.Size, Duration: s.o.Duration}, produced)
	load("callers", Load{Callers: s.o.Callers, Size: s.o.Size, Duration: s.o.Duration, latency: s.latency}, called)
	loads.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	end, err := produced.Info(ctx)
	if err != nil {
		return err
	}
	// The log is never at rest for the follower: one record more, and it has seen
	// that there are no others.
	caughtUp <- uint64(end.Durable())
	if _, err := produced.Append(ctx, NewCutter(s.o.Size, 0, 1).Next()); err != nil {
		return err
	}
	select {
	case <-reached:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.report.Followed = uint64(end.Next - begin.Next)
	return nil
}

// follow reads the producer's log as it grows. It closes reached when it has
// read what caughtUp says.
func (s *soak) follow(ctx context.Context, from client.LSN, caughtUp <-chan uint64, reached chan<- struct{}) (err error) {
	c, err := s.target.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(context.WithoutCancel(ctx))) }()
	var (
		next  = from
		until uint64
	)
	for record, err := range c.Log(s.target.logs[0].Name()).Replay(ctx, client.ReplayOptions{From: from, Follow: true}) {
		if err != nil {
			return err
		}
		if record.LSN != next || len(record.Data) != s.o.Size {
			return fmt.Errorf("LSN %d of %d bytes, want %d of %d", record.LSN, len(record.Data), next, s.o.Size)
		}
		s.followed.Store(uint64(next))
		select {
		case until = <-caughtUp:
		default:
		}
		if until > 0 && uint64(next) > until {
			close(reached)
			return nil
		}
		next++
	}
	return ctx.Err()
}

// keep sets checkpoints where the follower is, and truncates the callers' log.
func (s *soak) keep(ctx context.Context, produced, called *client.Log) error {
	tick := time.NewTicker(truncateEvery)
	defer tick.Stop()
	state := documents()[:soakState]
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if _, err := produced.SetCheckpoint(ctx, soakCheckpoint, client.LSN(s.followed.Load()), state); err != nil {
			return err
		}
		s.report.Checkpoints++
		if err := giveUp(ctx, called); err != nil {
			return err
		}
	}
}

// sample looks at the service once a second.
func (s *soak) sample(ctx context.Context, progress func(time.Duration)) error {
	tick := time.NewTicker(max(min(time.Second, s.o.Duration/soakSamples), time.Millisecond))
	defer tick.Stop()
	start := time.Now()
	last, err := s.target.admin.scrape(ctx)
	if err != nil {
		return err
	}
	for before := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now, err := s.target.admin.scrape(ctx)
		if err != nil {
			return err
		}
		at := time.Now()
		latency := latencyOf(s.latency.take())
		s.report.Samples = append(s.report.Samples, SoakSample{
			Second:           at.Sub(start).Seconds(),
			AppendsPerSecond: (now[metricRecords] - last[metricRecords]) / at.Sub(before).Seconds(),
			P50US:            latency.P50, P99US: latency.P99,
			ServerRSSBytes: now[metricRSS], ServerHeapBytes: now[metricHeap],
		})
		last, before = now, at
		progress(at.Sub(start))
	}
}
