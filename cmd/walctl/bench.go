package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/service"
)

// benchFlags are what the benchmarks have in common.
type benchFlags struct {
	g        *globals
	walsvc   string
	dir      string
	segment  sizeFlag
	args     []string
	size     sizeFlag
	timed    bool // duration is a flag
	duration time.Duration
}

func (f *benchFlags) register(cmd *cobra.Command) {
	f.registerDir(cmd)
	f.size = 400
	cmd.Flags().Var(&f.size, "size", "bytes of a record")
}

// registerDir is for those whose records have sizes of their own.
func (f *benchFlags) registerDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", "", "where temporary files are made: measures the disk of this `directory`")
	must(cmd.RegisterFlagCompletionFunc("dir", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)))
}

// registerService adds the flags of those that start a service.
func (f *benchFlags) registerService(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.walsvc, "walsvc", "", "walsvc `executable` to start; looked for beside walctl and in PATH")
	cmd.Flags().Var(&f.segment, "segment-size", "segments of the temporary volume; 0 B is walsvc's own default")
	cmd.Flags().StringArrayVar(&f.args, "walsvc-arg", nil, "another `argument` for walsvc, as in --walsvc-arg=--keep-awake; may be given again")
}

func (f *benchFlags) registerDuration(cmd *cobra.Command, d time.Duration, what string) {
	f.timed = true
	cmd.Flags().DurationVar(&f.duration, "duration", d, what)
}

// check refuses what no benchmark can do.
func (f *benchFlags) check() error {
	switch {
	case f.size < 1 || f.size > limits.MaxRecordSize:
		return usagef("--size %d: want 1 to %d bytes", int64(f.size), limits.MaxRecordSize)
	case f.timed && f.duration <= 0:
		return usagef("--duration %v: want more than nothing", f.duration)
	}
	return nil
}

// own returns the options for a service of the benchmark's own. done removes
// what finding it left behind.
func (f *benchFlags) own(ctx context.Context, line *statusLine) (o bench.TargetOptions, done func(), err error) {
	built, err := os.MkdirTemp("", "walctl-")
	if err != nil {
		return o, nil, err
	}
	done = func() { _ = os.RemoveAll(built) } // a binary in a temporary directory
	o.Dir, o.SegmentSize = f.dir, int64(f.segment)
	o.Args = f.args
	o.Binary, err = service.Find(ctx, f.walsvc, built, func() { line.steps(0, 1, "building walsvc") })
	if errors.Is(err, service.ErrNotFound) {
		err = &failure{code: exitUnavailable, err: err, next: "name it with --walsvc, or put it beside walctl"}
	}
	if err != nil {
		done()
		return o, nil, err
	}
	return o, done, nil
}

func newBenchCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure walsvc, and the machine below it",
		Long: `Measure walsvc through its own client, and the machine without it. Records are
cut from documents, every append is durable before it counts, and segments are
recycled before anything is measured.

Figures belong to a machine and an hour: compare ratios taken in one run.`,
		GroupID: groupOffline,
		Args:    noArgs,
		RunE:    help,
	}
	cmd.AddCommand(newBenchAppendCommand(g), newBenchReplayCommand(g), newBenchBaselineCommand(g), newBenchAllCommand(g),
		newBenchGoalsCommand(g), newBenchSoakCommand(g), newBenchOpenCommand(g), newBenchScaleCommand(g), newBenchLadderCommand(g),
		newBenchContractCommand(g), newEchoServerCommand())
	return cmd
}

// benchAppendResult is what `walctl bench append` prints.
type benchAppendResult struct {
	bench.AppendResult
	what string
}

func (r benchAppendResult) tables() []grid {
	t := grid{title: r.what, rows: [][]any{
		{"appends", rate(r.AppendsPerSecond)},
		{"bytes", fmt.Sprintf("%s/s", size(r.BytesPerSecond))},
		{"latency p50", latency(r.Latency.P50)},
		{"latency p99", latency(r.Latency.P99)},
		{"latency p99.9", latency(r.Latency.P999)},
	}}
	if r.Late != nil {
		t.rows = append(t.rows, []any{"of that, handed over late, p99", latency(r.Late.P99)})
	}
	if r.Replayed != nil {
		t.rows = append(t.rows, []any{"replayed beside it", rate(*r.Replayed)})
	}
	t.rows = append(t.rows,
		[]any{"syncs", r.Syncs},
		[]any{"records per sync", fmt.Sprintf("%.1f", r.RecordsPerSync)},
		[]any{"compression", fmt.Sprintf("%.1fx", r.CompressionRatio)},
		[]any{"segments rolled, recycled", fmt.Sprintf("%d, %d", r.SegmentsRolled, r.SegmentsRecycled)},
		[]any{"server memory", size(r.ServerRSSBytes)})
	if r.ServerAllocs != nil {
		t.rows = append(t.rows, []any{"server allocations per append", fmt.Sprintf("%.3f", *r.ServerAllocs)})
	}
	return []grid{t}
}

// benchTime bounds warming up: a disk of 20 MB/s gets there.
const benchTime = 2 * time.Minute

func newBenchAppendCommand(g *globals) *cobra.Command {
	var (
		f           = benchFlags{g: g}
		callers     int
		logs        int
		connections int
		pipelined   bool
		due         float64
		even        bool
		beside      bool
	)
	cmd := &cobra.Command{
		Use:   "append",
		Short: "Measure durable appends",
		Long: fmt.Sprintf(`Measure durable appends: callers that each wait for their own (--callers), or
a pipeline with at most %s records or %s unacknowledged (--pipelined;
--callers are then producers, with a window each), or an open loop (--rate).

In an open loop appends are due at a rate, whether earlier ones are acknowledged
or not, as those of any number of callers are who know nothing of each other. A
latency counts from when the append was due, so what had to wait behind a slow
one says so. It has in it how late the append was handed over, because this
program was not awake or the SDK had no room. A rate that is not reached is an
error.

With --beside-replay somebody else reads another log meanwhile, of %s records
or %s, from its first record to its last, over and over and as fast as
the service gives them. What is behind that log's records is not recycled.

Without --addr, a walsvc process is started on a temporary volume. Segments are
recycled before the measurement and while it lasts, so the logs are truncated
as they grow; of many logs, only some.

JSON: appends_per_second, bytes_per_second, latency_us {p50, p99, p999}, syncs,
records_per_sync, compression_ratio, segments_rolled, segments_recycled,
server_rss_bytes; without --addr server_allocs_per_append, the objects that the
service allocated on its heap; with --rate late_us {p50, p99, p999}; and with
--beside-replay replayed_per_second.`, grouped(bench.PipelineRecords), size(bench.PipelineBytes), grouped(bench.BesideRecords), size(bench.BesideBytes)),
		Example: `  walctl bench append --callers 64
  walctl bench append --pipelined --size 128 -o json
  walctl bench append --pipelined --logs 10000
  walctl bench append --rate 50000 --segment-size 8MiB
  walctl bench append --callers 1 --beside-replay
  walctl bench append --callers 64 --connections 64 --addr unix:/run/walsvc/walsvc.sock`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("callers") && pipelined {
				callers = 1
			}
			switch {
			case cmd.Flags().Changed("rate") && !(due > 0 && due <= 1e9): // nor NaN
				return usagef("--rate %v: want more than nothing, and at most one a nanosecond", due)
			case due > 0 && (pipelined || cmd.Flags().Changed("callers")):
				return usagef("--rate is for callers that wait for nobody: not with --callers or --pipelined")
			case even && due == 0:
				return usagef("--even spaces the appends of --rate")
			case callers < 1 || callers > 1<<16:
				return usagef("--callers %d: want 1 to %d", callers, 1<<16)
			case logs < 1 || logs > limits.MaxLogs:
				return usagef("--logs %d: want 1 to %d", logs, limits.MaxLogs)
			case connections < 1 || connections > logs && connections > callers:
				return usagef("--connections %d: want 1 to the number of callers or logs", connections)
			}
			// A log belongs to a connection.
			logs = max(logs, connections)
			return f.append(cmd, bench.TargetOptions{Connections: connections, Logs: logs, BesideReplay: beside},
				bench.Load{Callers: callers, Size: int(f.size), Pipelined: pipelined, Duration: f.duration, Rate: due, Even: even})
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	f.registerDuration(cmd, 5*time.Second, "time that is measured")
	cmd.Flags().IntVar(&callers, "callers", 64, "goroutines that wait for each append")
	cmd.Flags().IntVar(&logs, "logs", 1, "logs that are appended to")
	cmd.Flags().IntVar(&connections, "connections", 1, "connections to the service, each with at least one log")
	cmd.Flags().BoolVar(&pipelined, "pipelined", false, "do not wait for each append")
	cmd.Flags().Float64Var(&due, "rate", 0, "appends per second that are due, however slow others are; 0 for callers or a pipeline")
	cmd.Flags().BoolVar(&even, "even", false, "space the appends of --rate evenly, not by chance")
	cmd.Flags().BoolVar(&beside, "beside-replay", false, "have another log replayed meanwhile, over and over")
	return cmd
}

// append measures one load, of a target that is like this and wherever the flags say.
func (f *benchFlags) append(cmd *cobra.Command, like bench.TargetOptions, l bench.Load) (err error) {
	ctx := cmd.Context()
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	o := bench.TargetOptions{Connect: f.g.connect}
	if !cmd.Flags().Changed("addr") {
		var done func()
		if o, done, err = f.own(ctx, line); err != nil {
			return err
		}
		defer done()
	}
	o.Connections, o.Logs, o.BesideReplay = like.Connections, like.Logs, like.BesideReplay
	line.steps(0, 1, "starting")
	t, err := bench.NewTarget(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	t.Truncate(ctx)
	if err := t.Warm(ctx, benchTime, func(n, all int) { line.steps(n, all, "warming up: segments recycled") }); err != nil {
		return err
	}
	line.steps(0, 1, fmt.Sprintf("measuring for %v", l.Duration))
	got, err := t.Append(ctx, l)
	line.clear()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d callers", l.Callers)
	switch {
	case l.Rate > 0:
		what = fmt.Sprintf("%s due", rate(l.Rate))
	case l.Pipelined:
		what = fmt.Sprintf("%d pipelined", l.Callers)
	case l.Callers == 1:
		what = "1 caller"
	}
	return f.g.print(cmd, benchAppendResult{got, fmt.Sprintf("%s, records of %s", what, bench.SizeName(int64(l.Size)))})
}

// benchReplayResult is what `walctl bench replay` prints.
type benchReplayResult struct {
	bench.ReplayResult
	what string
}

func (r benchReplayResult) tables() []grid {
	return []grid{{title: r.what, rows: [][]any{
		{"records", rate(r.RecordsPerSecond)},
		{"bytes", fmt.Sprintf("%s/s", size(r.BytesPerSecond))},
		{"first record after", latency(r.FirstRecordUS)},
		{"open after SIGKILL", latency(r.OpenUS)},
	}}}
}

func newBenchReplayCommand(g *globals) *cobra.Command {
	var (
		f       = benchFlags{g: g}
		records int64
		logs    int
	)
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Measure opening after a kill, and reading everything back",
		Long: `Append to a log of a walsvc process on a temporary volume, kill the process,
start it again and read the log back, comparing every record. With --logs, as
many logs share the frames and one of them is read.

JSON: records_per_second and bytes_per_second, of the log that is read,
first_record_us (from asking to having it), open_us (from starting the process,
after SIGKILL, until it is ready).`,
		Example: `  walctl bench replay
  walctl bench replay --records 3000000 --logs 8 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if records < 1 || logs < 1 || logs > limits.MaxLogs {
				return usagef("--records %d --logs %d: want 1 and more", records, logs)
			}
			return f.replay(cmd, logs, bench.ReplayLoad{Records: records, Size: int(f.size)})
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	cmd.Flags().Int64Var(&records, "records", 1_000_000, "records in each log")
	cmd.Flags().IntVar(&logs, "logs", 1, "logs that share the frames")
	return cmd
}

func (f *benchFlags) replay(cmd *cobra.Command, logs int, l bench.ReplayLoad) (err error) {
	ctx := cmd.Context()
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	o, done, err := f.own(ctx, line)
	if err != nil {
		return err
	}
	defer done()
	o.Logs = logs
	t, err := bench.NewTarget(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	step := 0
	got, err := t.Replay(ctx, l, func(what string) {
		line.steps(step, 3, what)
		step++
	})
	line.clear()
	if err != nil {
		return err
	}
	return f.g.print(cmd, benchReplayResult{got, fmt.Sprintf("%s records of %s read back", grouped(uint64(l.Records)), bench.SizeName(int64(l.Size)))})
}

// benchBaselineResult is what `walctl bench baseline` prints.
type benchBaselineResult bench.Figures

func (r benchBaselineResult) tables() []grid {
	return []grid{{title: "The machine without walsvc", rows: [][]any{
		{"overwrite 4 KiB and sync, p50", latency(r[bench.OverwriteUS])},
		{"bare gRPC round trip, p50", latency(r[bench.EchoRoundTripUS])},
		{"the same, overwriting and syncing in its handler", latency(r[bench.EchoSyncUS])},
		{"bare gRPC, 64 KiB messages", fmt.Sprintf("%.2f GB/s", r[bench.EchoBytesPerSecond]/1e9)},
		{"mutex, append, sync: 1 caller", rate(r[bench.Loop1PerSecond])},
		{"mutex, append, sync: 64 callers", rate(r[bench.Loop64PerSecond])},
		{"mutex, append, sync: 256 callers", rate(r[bench.Loop256PerSecond])},
	}}}
}

func newBenchBaselineCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	cmd := &cobra.Command{
		Use:   "baseline",
		Short: "Measure what the machine does without walsvc",
		Long: `Measure what walsvc is compared with: one write over written blocks and its
sync; a bare gRPC stream of raw bytes over a Unix socket, to another process and
back; the same with that write and sync before each answer, which is more than
the sum of the two where CPUs halt while the disk works, and the floor of one
caller; and callers that lock a mutex, append to a file and sync it.

JSON: overwrite_us, echo_round_trip_us, echo_sync_round_trip_us,
echo_bytes_per_second, loop_1_per_second, loop_64_per_second,
loop_256_per_second.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return f.withEcho(cmd, func(ctx context.Context, o bench.CompareOptions, line *statusLine) error {
				dir, err := os.MkdirTemp(f.dir, "walctl-bench-")
				if err != nil {
					return err
				}
				got, err := bench.MeasureBaseline(ctx, o, dir)
				line.clear()
				if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
					return err
				}
				return g.print(cmd, benchBaselineResult(got))
			})
		},
	}
	f.register(cmd)
	f.registerDuration(cmd, time.Second, "time of each measurement")
	return cmd
}

// benchCompareResult is what `walctl bench all` and `walctl bench goals` print.
type benchCompareResult struct {
	*bench.Comparison
	title string
}

func (r benchCompareResult) tables() []grid {
	return []grid{goalsTable(fmt.Sprintf("%s, medians of %d rounds", r.title, len(r.Rounds)), r.Goals)}
}

// goalsTable says of each goal whether it is met. Aims are there if any goal
// has one.
func goalsTable(title string, goals []bench.Goal) grid {
	t := grid{title: title, head: []string{"what", "got", "wanted"}}
	aims := slices.ContainsFunc(goals, func(g bench.Goal) bool { return g.Aim != 0 })
	if aims {
		t.head[2] = "gate"
		t.head = append(t.head, "aim")
	}
	t.head = append(t.head, "", "beside")
	for _, goal := range goals {
		value := func(v float64) string {
			if v >= 1000 {
				return grouped(uint64(v)) + goal.Unit
			}
			return fmt.Sprintf("%.3g%s", v, goal.Unit)
		}
		wanted := func(v float64) string {
			switch {
			case v == 0:
				return "-"
			case goal.AtMost:
				return "at most " + value(v)
			}
			return "at least " + value(v)
		}
		verdict := mood{"met", false}
		switch {
		case !goal.Met():
			verdict = mood{"missed", true}
		case goal.Aim != 0 && goal.Aimed():
			verdict.text = "aim met"
		case goal.Gate == 0:
			verdict.text = "short of its aim"
		}
		r := []any{goal.What, value(goal.Got), wanted(goal.Gate)}
		if aims {
			r = append(r, wanted(goal.Aim))
		}
		t.rows = append(t.rows, append(r, verdict, goal.Beside))
	}
	return t
}

func newBenchAllCommand(g *globals) *cobra.Command {
	f := benchFlags{g: g}
	var rounds int
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Measure walsvc and the machine in turn, and compare",
		Long: `Measure walsvc and what it is compared with in turn, in several rounds, and
print the ratios beside what is wanted. About 45 seconds by default.

JSON: record_bytes; median and rounds [], each with the figures by name: those of
"walctl bench baseline", one_caller_us, callers_64_per_second,
callers_256_per_second, pipelined_per_second, server_rss_idle_bytes,
server_rss_saturated_bytes, and the ratios made of them; goals [] with what, got,
gate, at_most, unit and beside.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if rounds < 1 {
				return usagef("--rounds %d: want 1 and more", rounds)
			}
			return f.withEcho(cmd, func(ctx context.Context, o bench.CompareOptions, line *statusLine) (err error) {
				var done func()
				if o.Target, done, err = f.own(ctx, line); err != nil {
					return err
				}
				defer done()
				o.Rounds, o.Warm = rounds, benchTime
				got, err := bench.Compare(ctx, o)
				line.clear()
				if err != nil {
					return err
				}
				title := fmt.Sprintf("walsvc beside its machine, records of %s", bench.SizeName(int64(got.RecordBytes)))
				return g.print(cmd, benchCompareResult{got, title})
			})
		},
	}
	f.register(cmd)
	f.registerService(cmd)
	f.registerDuration(cmd, time.Second, "time of each measurement")
	cmd.Flags().IntVar(&rounds, "rounds", 3, "how often everything is measured")
	return cmd
}

// withEcho runs f with an echo server in another process.
func (f *benchFlags) withEcho(cmd *cobra.Command, do func(context.Context, bench.CompareOptions, *statusLine) error) (err error) {
	line := newStatusLine(cmd.ErrOrStderr())
	defer line.clear()
	socket, stop, err := startEcho(f.dir)
	if err != nil {
		return fmt.Errorf("start the echo server: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	return do(cmd.Context(), bench.CompareOptions{Echo: socket, Size: int(f.size), Duration: f.duration, Progress: line.steps}, line)
}

// echoName is the command that serves echoes. It is not for people.
const echoName = "echo-server"

// startEcho starts this program again, as an echo server that syncs to a file
// in a directory, and returns when it listens.
func startEcho(data string) (socket string, stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "walctl-")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "echo")
	// It ends when its standard input does, so also when this process dies.
	echo := exec.Command(self, "bench", echoName, socket, data)
	echo.Stderr = os.Stderr
	in, err := echo.StdinPipe()
	out, oerr := echo.StdoutPipe()
	if err = errors.Join(err, oerr); err == nil {
		err = echo.Start()
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop = func() error { return errors.Join(in.Close(), echo.Wait(), os.RemoveAll(dir)) }
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return "", nil, errors.Join(fmt.Errorf("it does not get ready: %w", err), stop())
	}
	return socket, stop, nil
}

func newEchoServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    echoName + " SOCKET DIR",
		Short:  "Answer bare gRPC streams until standard input ends",
		Hidden: true,
		Args:   exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := net.Listen("unix", args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
			go func() {
				// Interrupts are for the one who started this: it says when to end.
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				cancel()
			}()
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), "ready"); err != nil {
				return err
			}
			return bench.ServeEcho(ctx, l, args[1])
		},
	}
}
