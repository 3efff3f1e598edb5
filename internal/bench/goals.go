package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/internal/codec"
)

// The sizes of what CompareGoals measures.
const (
	goalSize      = 400     // of a record unless said otherwise, in bytes
	goalSmall     = 128     // of a small one
	goalLarge     = 1 << 20 // of a large one, and of the write and the message it is compared with
	goalEach      = 64      // connections with a caller each
	goalShared    = 8       // logs that share the frames out of which one is read
	goalPlaces    = 16      // of a log from which it is read, for the first record
	goalOpenTimes = 4       // durations that the open loop lasts: segments are to roll in it

	// goalSegment is the size of the open loop's segments: half of what callers
	// reach fills one of the usual 64 MiB in some 15 s, and one of these in two.
	goalSegment = 8 << 20
)

// The figures of CompareGoals alone.
const (
	echo64PerSecond      = "echo_64_streams_per_second"
	each64PerSecond      = "connections_64_per_second"
	pipelined128         = "pipelined_128_per_second"
	logsPerSecond        = "many_logs_per_second"
	largeBytesPerSecond  = "large_bytes_per_second"
	largeDiskPerSecond   = "overwrite_1mib_bytes_per_second"
	largeEchoPerSecond   = "echo_1mib_bytes_per_second"
	openRatePerSecond    = "open_loop_per_second"
	openP50US            = "open_loop_p50_us"
	openP99US            = "open_loop_p99_us"
	openLateUS           = "open_loop_late_p99_us"
	openRolled           = "open_loop_segments_rolled"
	openRecycled         = "open_loop_segments_recycled"
	serverAllocs         = "server_allocs_per_append"
	replayOwnPerSecond   = "replay_own_per_second"
	replaySharePerSecond = "replay_shared_per_second"
	firstRecordMS        = "first_record_ms"

	oneCallerToFloor = "one_caller_to_floor"
	each64ToEcho     = "connections_64_to_echo"
	logsToOne        = "many_logs_to_one"
	largeToLower     = "large_to_lower"
	openP99ToP50     = "open_loop_p99_to_p50"
)

// An arena is the services that CompareGoals measures. Each is for loads of one
// kind, so that none finds what another one left behind; those that have
// nothing to do take no time.
type arena struct {
	shipped *Target // one log, as shipped
	each    *Target // the same service through many connections
	many    *Target // many logs, one connection
	raw     *Target // stored raw, for large records
	rolling *Target // small segments
	back    *Target // filled, killed, started and read back: the first log alone, the others together
	all     []*Target
}

// CompareGoals measures what the service is to reach on its machine, several
// rounds of it. Record sizes are fixed: o.Size is not looked at.
func CompareGoals(ctx context.Context, o CompareOptions) (_ *Comparison, err error) {
	o.Size = goalSize
	e, err := DialEcho(o.Echo)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	streams, err := DialEchoStreams(ctx, o.Echo, goalEach)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, streams.Close()) }()
	var a arena
	defer func() {
		for _, t := range slices.Backward(a.all) {
			err = errors.Join(err, t.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := a.open(ctx, &o); err != nil {
		return nil, err
	}
	return o.rounds(ctx, a.steps(&o, e, streams), goalRows(o.Logs))
}

// open starts the services and brings them to where they stay.
func (a *arena) open(ctx context.Context, o *CompareOptions) error {
	start := func(what string, warm bool, own func(*TargetOptions)) (*Target, error) {
		o.progress(len(a.all), 6, "starting: "+what)
		t := o.Target
		t.Args = slices.Clone(t.Args)
		own(&t)
		got, err := NewTarget(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("start what takes %s: %w", what, err)
		}
		a.all = append(a.all, got)
		if !warm {
			return got, nil
		}
		got.Truncate(ctx)
		if err := got.Warm(ctx, o.Warm, nil); err != nil {
			return nil, fmt.Errorf("warm what takes %s: %w", what, err)
		}
		return got, nil
	}
	var err error
	if a.shipped, err = start("one log", true, func(*TargetOptions) {}); err != nil {
		return err
	}
	if a.each, err = start("many connections", false, func(t *TargetOptions) {
		t.Connect, t.Connections, t.Logs = a.shipped.Connect, goalEach, goalEach
	}); err != nil {
		return err
	}
	if err := a.each.open(ctx); err != nil {
		return fmt.Errorf("open the logs of many connections: %w", err)
	}
	// Warmed before each load.
	if a.many, err = start("many logs", false, func(t *TargetOptions) { t.Logs = o.Logs }); err != nil {
		return err
	}
	if a.raw, err = start("large records", true, func(t *TargetOptions) {
		t.Args = append(t.Args, "--codec", codec.None.String())
		if t.SegmentSize > 0 {
			t.SegmentSize = max(t.SegmentSize, goalSegment) // one of less takes no large record
		}
	}); err != nil {
		return err
	}
	if a.rolling, err = start("the open loop", true, func(t *TargetOptions) {
		if t.SegmentSize == 0 {
			t.SegmentSize = goalSegment
		}
	}); err != nil {
		return err
	}
	if a.back, err = start("what is read back", false, func(t *TargetOptions) { t.Logs = 1 + goalShared }); err != nil {
		return err
	}
	err = fill(ctx, a.back.Logs[:1], o.own())
	if err == nil {
		err = fill(ctx, a.back.Logs[1:], o.shared())
	}
	if err == nil {
		_, err = a.back.restart(ctx)
	}
	if err != nil {
		return fmt.Errorf("fill what is read back: %w", err)
	}
	return nil
}

// own is the log whose blocks have records of no other.
func (o *CompareOptions) own() ReplayLoad { return ReplayLoad{Records: o.Records, Size: goalSize} }

// shared is each of the logs that share frames.
func (o *CompareOptions) shared() ReplayLoad {
	return ReplayLoad{Records: max(o.Records/4, 1), Size: goalSize}
}

// steps are a round: each of ours beside what it is compared with.
func (a *arena) steps(o *CompareOptions, e *Echo, streams *EchoStreams) []step {
	dir := a.shipped.Volume()
	bytesPerSecond := func(c DiskCell) float64 { return c.BytesPerSecond }
	return []step{
		o.overwrite(dir, 4<<10, OverwriteUS, p50), o.roundTrip(e), o.syncRoundTrip(e),
		o.load(a.shipped, "1 caller", Load{Callers: 1}, latencyTo(oneCallerUS)),
		o.loop(dir, 64, Loop64PerSecond),
		o.load(a.shipped, "64 callers", Load{Callers: 64}, rateTo(callers64PerSecond)),
		// Not behind what has volumes prepare segments long after it has ended.
		a.openLoop(o),
		{"bare gRPC, 64 connections", func(ctx context.Context, f Figures) error {
			l := Load{Callers: goalEach, Size: o.Size, Duration: o.settle()}
			if _, err := l.Run(ctx, streams.Logs); err != nil {
				return err
			}
			l.Duration = o.Duration
			got, err := l.Run(ctx, streams.Logs)
			f[echo64PerSecond] = got.PerSecond
			return err
		}},
		a.connections(o),
		o.load(a.shipped, "pipelined", Load{Callers: 1, Pipelined: true}, func(f Figures, got AppendResult) {
			f[pipelinedPerSecond] = got.AppendsPerSecond
			if got.ServerAllocs != nil {
				f[serverAllocs] = *got.ServerAllocs
			}
		}),
		a.logs(o),
		o.load(a.shipped, "pipelined, 128 B", Load{Callers: 1, Pipelined: true, Size: goalSmall}, rateTo(pipelined128)),
		o.overwrite(dir, goalLarge, largeDiskPerSecond, bytesPerSecond),
		o.bandwidth(e, goalLarge, largeEchoPerSecond),
		o.load(a.raw, "1 MiB", Load{Callers: 1, Pipelined: true, Size: goalLarge}, func(f Figures, got AppendResult) {
			f[largeBytesPerSecond] = got.BytesPerSecond
		}),
		a.replay(0, 1, o.own(), replayOwnPerSecond),
		a.replay(1, goalShared, o.shared(), replaySharePerSecond),
		{"walsvc, first record", func(ctx context.Context, f Figures) error {
			own, err := a.back.firstRecord(ctx, a.back.logs[0], o.own().Records, goalPlaces)
			if err != nil {
				return err
			}
			shared, err := a.back.firstRecord(ctx, a.back.logs[1], o.shared().Records, goalPlaces)
			f[firstRecordMS] = max(own, shared) / 1e3
			return err
		}},
	}
}

// connections loads many connections. They are truncated only meanwhile: asking
// each of them five times a second is nothing to have beside other loads.
func (a *arena) connections(o *CompareOptions) step {
	load := o.load(a.each, "64 connections", Load{Callers: goalEach}, rateTo(each64PerSecond))
	return step{load.what, func(ctx context.Context, f Figures) error {
		stop := a.each.Truncate(ctx)
		err := load.run(ctx, f)
		stop()
		return errors.Join(err, a.each.GiveUp(ctx))
	}}
}

// logs loads many logs at once. Truncating them all in the time of a load would
// be a load of its own: it finds as many recycled segments as a volume keeps,
// and the logs are given up before the next one.
func (a *arena) logs(o *CompareOptions) step {
	load := o.load(a.many, fmt.Sprintf("%d logs at once", o.Logs), Load{Callers: 1, Pipelined: true}, rateTo(logsPerSecond))
	return step{load.what, func(ctx context.Context, f Figures) error {
		if err := a.many.Warm(ctx, o.Warm, nil); err != nil {
			return err
		}
		return load.run(ctx, f)
	}}
}

// openLoop loads with half of what 64 callers reached in the same round.
func (a *arena) openLoop(o *CompareOptions) step {
	return step{"walsvc, open loop", func(ctx context.Context, f Figures) error {
		return o.load(a.rolling, "", Load{Rate: max(f[callers64PerSecond]/2, 1), Duration: goalOpenTimes * o.Duration}, func(f Figures, got AppendResult) {
			f[openRatePerSecond], f[openP50US], f[openP99US], f[openLateUS] = got.AppendsPerSecond, got.Latency.P50, got.Latency.P99, got.Late.P99
			f[openRolled], f[openRecycled] = float64(got.SegmentsRolled), float64(got.SegmentsRecycled)
		}).run(ctx, f)
	}}
}

// replay reads one log back, the first of so many that were filled together.
func (a *arena) replay(log, of int, l ReplayLoad, name string) step {
	return step{fmt.Sprintf("walsvc, replay of one of %d", of), func(ctx context.Context, f Figures) error {
		got, err := a.back.readBack(ctx, a.back.logs[log], of, l)
		f[name] = got.RecordsPerSecond
		return err
	}}
}

// goalRows are what CompareGoals compares.
func goalRows(logs int) []row {
	it := func(name string) func(Figures) float64 { return func(f Figures) float64 { return f[name] } }
	says := func(s string) func(Figures) string { return func(Figures) string { return s } }
	return []row{
		{"1 caller, p50, to the sum", oneCallerToSum, toSum, 0, 1.25, true, "x", besideSum},
		{"1 caller, p50, to the floor", oneCallerToFloor, over(oneCallerUS, EchoSyncUS), 0, 1.25, true, "x", func(m Figures) string {
			return fmt.Sprintf("%.0f us; bare stream whose handler overwrites and syncs %.0f us", m[oneCallerUS], m[EchoSyncUS])
		}},
		{"64 callers", callers64ToLoop, over(callers64PerSecond, Loop64PerSecond), 15, 25, false, "x", besideLoop(callers64PerSecond, Loop64PerSecond)},
		{"64 connections, 1 caller each", each64ToEcho, over(each64PerSecond, echo64PerSecond), 0.7, 0.9, false, "x", func(m Figures) string {
			return fmt.Sprintf("%.0f/s; bare gRPC streams %.0f/s", m[each64PerSecond], m[echo64PerSecond])
		}},
		{"pipelined, 400 B", pipelinedPerSecond, it(pipelinedPerSecond), 1.2e6, 1.5e6, false, "/s", says("8,192 records or 4 MiB unacknowledged")},
		{"pipelined, 128 B", pipelined128, it(pipelined128), 2.5e6, 4e6, false, "/s", says("the same")},
		{"1 MiB records, stored raw", largeToLower, func(f Figures) float64 {
			return ratio(f[largeBytesPerSecond], min(f[largeDiskPerSecond], f[largeEchoPerSecond]))
		}, 0.5, 0.7, false, "x", func(m Figures) string {
			return fmt.Sprintf("%.2f GB/s; the lower of overwriting and syncing 1 MiB %.2f GB/s, bare gRPC %.2f GB/s",
				m[largeBytesPerSecond]/1e9, m[largeDiskPerSecond]/1e9, m[largeEchoPerSecond]/1e9)
		}},
		{"replay, a log's own blocks", replayOwnPerSecond, it(replayOwnPerSecond), 2e6, 3e6, false, "/s", says("every record compared")},
		{"replay, one log of shared frames", replaySharePerSecond, it(replaySharePerSecond), 0.7e6, 1e6, false, "/s",
			says(fmt.Sprintf("records of that log; %d were written in turn", goalShared))},
		{"first record of a replay", firstRecordMS, it(firstRecordMS), 10, 3, true, " ms",
			says(fmt.Sprintf("the slowest from %d places in each of both logs", goalPlaces))},
		{fmt.Sprintf("%d logs at once", logs), logsToOne, over(logsPerSecond, pipelinedPerSecond), 0.6, 0.85, false, "x", func(m Figures) string {
			return fmt.Sprintf("%.0f/s; one log %.0f/s", m[logsPerSecond], m[pipelinedPerSecond])
		}},
		{"open loop, p99 to p50", openP99ToP50, over(openP99US, openP50US), 5, 3, true, "x", func(m Figures) string {
			return fmt.Sprintf("p50 %.0f us, p99 %.0f us at %.0f/s, half of 64 callers; %.0f segments rolled, %.0f recycled; handed over %.0f us late (p99)",
				m[openP50US], m[openP99US], m[openRatePerSecond], m[openRolled], m[openRecycled], m[openLateUS])
		}},
		{"server allocations, pipelined", serverAllocs, it(serverAllocs), 0.1, 0.02, true, "/append", says("objects on the service's heap")},
	}
}
