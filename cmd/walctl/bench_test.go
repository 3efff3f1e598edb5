package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/service"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[2] == echoName { // the benchmarks start this program for it
		os.Exit(run(os.Args[1:]))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir := builtDir; dir != "" {
			_ = os.RemoveAll(dir) // a temporary directory
		}
		os.Exit(code)
	}))
}

// builtDir is where walsvc was built, for TestMain to remove.
var builtDir string

var buildWalsvc = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "walctl-test-")
	if err != nil {
		return "", err
	}
	builtDir = dir
	return service.Build(context.Background(), dir)
})

// walsvcBinary returns the path of a walsvc built from this tree.
func walsvcBinary(t *testing.T) string {
	t.Helper()
	path, err := buildWalsvc()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir returns an empty directory whose path leaves room for that of a Unix
// socket, of at most 107 bytes; t.TempDir has the test's name in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "walctl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// benchJSON runs a benchmark and returns its JSON. It must leave nothing behind
// where it works, nor say anything.
func benchJSON(t *testing.T, args ...string) json.RawMessage {
	t.Helper()
	dir := shortDir(t)
	stdout, stderr, code := invoke(t.Context(), append(args, "-o", "json", "--dir", dir)...)
	if code != exitOK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return json.RawMessage(stdout)
}

// positive fails the test unless each of the keys is a number above zero.
func positive(t *testing.T, object map[string]json.RawMessage, keys ...string) {
	t.Helper()
	for _, k := range keys {
		var v float64
		if err := json.Unmarshal(object[k], &v); err != nil || v <= 0 {
			t.Errorf("%s is %s, want more than 0", k, object[k])
		}
	}
}

// present fails the test unless each of the keys is a number that is not below
// zero: of what is counted by the second, nothing may land in a short time.
func present(t *testing.T, object map[string]json.RawMessage, keys ...string) {
	t.Helper()
	for _, k := range keys {
		var v *float64
		if err := json.Unmarshal(object[k], &v); err != nil || v == nil || *v < 0 {
			t.Errorf("%s is %s, want a number", k, object[k])
		}
	}
}

func TestBenchAppendJSON(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args    []string
		more    []string // latencies
		figures []string // further ones
	}{
		{args: []string{"--callers", "8"}},
		{args: []string{"--pipelined", "--size", "1KiB"}},
		{args: []string{"--pipelined", "--logs", "300"}},
		{args: []string{"--callers", "4", "--connections", "2", "--logs", "3"}},
		{args: []string{"--rate", "2000", "--even"}, more: []string{"late_us"}},
		{args: []string{"--callers", "2", "--size", "16", "--beside-replay"}, figures: []string{"replayed_per_second"}},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			t.Parallel()
			figures := append([]string{"appends_per_second", "bytes_per_second", "syncs", "records_per_sync", "compression_ratio", "server_rss_bytes"}, tc.figures...)
			var got map[string]json.RawMessage
			// Longer, if so little of the machine is there that nothing lands.
			for _, d := range []string{"100ms", "1s", "10s"} {
				got = keys(t, benchJSON(t, append([]string{
					"bench", "append", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--duration", d,
				}, tc.args...)...), slices.Concat(figures, tc.more, []string{"latency_us", "server_allocs_per_append", "segments_rolled", "segments_recycled"})...)
				if string(got["appends_per_second"]) != "0" {
					break
				}
			}
			positive(t, got, figures...)
			present(t, got, "server_allocs_per_append")
			for _, of := range append(tc.more, "latency_us") {
				positive(t, keys(t, got[of], "p50", "p99", "p999"), "p50", "p99", "p999")
			}
		})
	}
}

// A service that is somebody else's keeps its logs, and none of the benchmark's.
func TestBenchAppendAgainstAService(t *testing.T) {
	t.Parallel()
	p, err := service.Start(t.Context(), service.Options{
		Binary: walsvcBinary(t), Dir: filepath.Join(shortDir(t), "volume"), Args: []string{"--segment-size", "1MiB"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	c, err := client.Open(t.Context(), p.Addr(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if _, _, err := c.CreateLog(t.Context(), "orders", client.LogOptions{}); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := invoke(t.Context(), "bench", "append", "--addr", p.Addr(), "--duration", "50ms", "--callers", "2", "--connections", "2")
	if code != exitOK || stderr != "" || !strings.Contains(stdout, "2 callers, records of 400 B") {
		t.Errorf("exit %d: %s\n%s", code, stderr, stdout)
	}
	for info, err := range c.ListLogs(t.Context(), "") {
		if err != nil || info.Name != "orders" {
			t.Errorf("log %q is there: %v", info.Name, err)
		}
	}
}

func TestBenchReplayJSON(t *testing.T) {
	t.Parallel()
	got := keys(t, benchJSON(t, "bench", "replay", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--records", "3000", "--logs", "2"),
		"records_per_second", "bytes_per_second", "first_record_us", "open_us")
	positive(t, got, "records_per_second", "bytes_per_second", "first_record_us", "open_us")
}

func TestBenchBaselineJSON(t *testing.T) {
	t.Parallel()
	always := []string{"overwrite_us", "echo_round_trip_us", "echo_sync_round_trip_us", "echo_bytes_per_second"}
	loops := []string{"loop_1_per_second", "loop_64_per_second", "loop_256_per_second"}
	got := keys(t, benchJSON(t, "bench", "baseline", "--duration", "50ms"), slices.Concat(always, loops)...)
	positive(t, got, always...)
	present(t, got, loops...)
}

// compared checks the JSON of a comparison, and returns the figures of each round
// and their medians.
func compared(t *testing.T, raw json.RawMessage, rounds, goals int) (all []map[string]json.RawMessage) {
	t.Helper()
	got := keys(t, raw, "record_bytes", "median", "rounds", "goals")
	positive(t, got, "record_bytes")
	var of, wanted []json.RawMessage
	if err := json.Unmarshal(got["rounds"], &of); err != nil || len(of) != rounds {
		t.Errorf("rounds %s: %v", got["rounds"], err)
	}
	for _, r := range append(of, got["median"]) {
		var figures map[string]json.RawMessage
		if err := json.Unmarshal(r, &figures); err != nil {
			t.Fatal(err)
		}
		all = append(all, figures)
	}
	if err := json.Unmarshal(got["goals"], &wanted); err != nil || len(wanted) != goals {
		t.Errorf("goals %s: %v", got["goals"], err)
	}
	return all
}

func TestBenchAllJSON(t *testing.T) {
	t.Parallel()
	raw := benchJSON(t, "bench", "all", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--duration", "50ms", "--rounds", "2")
	for _, figures := range compared(t, raw, 2, 6) {
		positive(t, figures, "overwrite_us", "echo_round_trip_us", "echo_bytes_per_second",
			"server_rss_idle_bytes", "server_rss_saturated_bytes", "server_rss_idle_mib", "server_rss_saturated_mib")
		present(t, figures, "loop_1_per_second", "loop_64_per_second", "loop_256_per_second",
			"one_caller_us", "callers_64_per_second", "callers_256_per_second", "pipelined_per_second",
			"one_caller_to_sum", "callers_64_to_loop", "callers_256_to_loop", "pipelined_to_echo")
	}
}

func TestBenchGoalsJSON(t *testing.T) {
	t.Parallel()
	raw := benchJSON(t, "bench", "goals", "--walsvc", walsvcBinary(t), "--segment-size", "2MiB", "--duration", "20ms", "--rounds", "1",
		"--records", "2000", "--logs", "100")
	for _, figures := range compared(t, raw, 1, 13) {
		positive(t, figures, "overwrite_us", "echo_round_trip_us", "echo_sync_round_trip_us", "replay_own_per_second", "replay_shared_per_second", "first_record_ms")
		present(t, figures, "one_caller_us", "one_caller_to_sum", "one_caller_to_floor", "loop_64_per_second", "callers_64_per_second", "callers_64_to_loop",
			"echo_64_streams_per_second", "connections_64_per_second", "connections_64_to_echo",
			"pipelined_per_second", "pipelined_128_per_second", "server_allocs_per_append", "many_logs_per_second", "many_logs_to_one",
			"overwrite_1mib_bytes_per_second", "echo_1mib_bytes_per_second", "large_bytes_per_second", "large_to_lower",
			"open_loop_per_second", "open_loop_p50_us", "open_loop_p99_us", "open_loop_p99_to_p50")
	}
}

func TestBenchContractJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw := benchJSON(t, "bench", "contract", "--walsvc", walsvcBinary(t), "--segment-size", "2MiB", "--duration", "20ms", "--pairs", "2", "--benchstat", dir)
	for _, figures := range compared(t, raw, 2, 6) {
		// On a busy machine nothing may be durable in so short a time.
		present(t, figures, "plain_one_records_per_second", "contract_one_records_per_second", "one_p50_us_to_plain", "plain_many_p50_us", "contract_many_p50_us",
			"many_records_per_second_to_plain", "plain_large_records_per_second", "contract_large_records_per_second", "large_records_per_second_to_plain")
	}
	for _, name := range []string{"plain.txt", "contract.txt"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.Count(string(text), "BenchmarkAppend/inflight=64/records=128 1 ") != 2 {
			t.Errorf("%s: %v: %s", name, err, text)
		}
	}
}

func TestBenchSoakJSON(t *testing.T) {
	t.Parallel()
	picture := filepath.Join(t.TempDir(), "soak.svg")
	var got map[string]json.RawMessage
	// Longer, if so little of the machine is there that nothing lands, or nobody looks.
	for _, d := range []string{"400ms", "4s", "40s"} {
		got = keys(t, benchJSON(t, "bench", "soak", "--walsvc", walsvcBinary(t), "--segment-size", "2MiB", "--duration", d, "--callers", "4", "--svg", picture),
			"record_bytes", "callers", "peak_per_second", "rate_per_second", "checkpoints", "followed", "segments_rolled", "segments_recycled", "samples", "trends", "flat")
		if string(got["peak_per_second"]) != "0" && string(got["checkpoints"]) != "0" && string(got["followed"]) != "0" && string(got["samples"]) != "null" {
			break
		}
	}
	positive(t, got, "record_bytes", "callers", "peak_per_second", "rate_per_second", "checkpoints", "followed")
	var samples, trends []json.RawMessage
	if err := json.Unmarshal(got["samples"], &samples); err != nil || len(samples) == 0 {
		t.Fatalf("samples %s: %v", got["samples"], err)
	}
	for _, s := range samples {
		positive(t, keys(t, s, "second", "appends_per_second", "p50_us", "p99_us", "server_rss_bytes", "server_heap_bytes"),
			"second", "server_rss_bytes", "server_heap_bytes")
	}
	if err := json.Unmarshal(got["trends"], &trends); err != nil || len(trends) != 4 {
		t.Fatalf("trends %s: %v", got["trends"], err)
	}
	for _, trend := range trends {
		keys(t, trend, "what", "bytes", "first", "last", "bound", "factor", "flat")
	}
	if drawn, err := os.ReadFile(picture); err != nil || !strings.Contains(string(drawn), "server memory") {
		t.Errorf("picture of %d bytes: %v", len(drawn), err)
	}
}

func TestBenchOpenJSON(t *testing.T) {
	t.Parallel()
	got := keys(t, benchJSON(t, "bench", "open", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--small", "2MiB", "--journal", "5MiB", "--logs", "20", "--rounds", "2"),
		"openings", "goals")
	var openings []struct {
		JournalBytes uint64    `json:"journal_bytes"`
		Logs         int       `json:"logs"`
		OpenUS       float64   `json:"open_us"`
		Rounds       []float64 `json:"rounds_us"`
	}
	if err := json.Unmarshal(got["openings"], &openings); err != nil || len(openings) != 2 {
		t.Fatalf("openings %s: %v", got["openings"], err)
	}
	for i, least := range []uint64{2 << 20, 5 << 20} {
		if o := openings[i]; o.JournalBytes < least || o.Logs != 20 || o.OpenUS <= 0 || len(o.Rounds) != 2 {
			t.Errorf("opening %+v, want one of at least %d bytes", o, least)
		}
	}
	var goals []json.RawMessage
	if err := json.Unmarshal(got["goals"], &goals); err != nil || len(goals) != 2 {
		t.Errorf("goals %s: %v", got["goals"], err)
	}
}

func TestBenchScaleJSON(t *testing.T) {
	t.Parallel()
	got := keys(t, benchJSON(t, "bench", "scale", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--logs", "30", "--producers", "60", "--checkpoints", "30", "--state", "1KiB"),
		"steps", "open_us", "journal_bytes", "written_bytes", "snapshots", "rss_bytes", "opened_rss")
	positive(t, got, "open_us", "journal_bytes", "rss_bytes", "opened_rss")
	var steps []struct {
		What      string  `json:"what"`
		Count     int     `json:"count"`
		PerSecond float64 `json:"per_second"`
	}
	if err := json.Unmarshal(got["steps"], &steps); err != nil || len(steps) != 7 {
		t.Fatalf("steps %s: %v", got["steps"], err)
	}
	for i, count := range []int{30, 60, 120, 30, 30, 30, 20} {
		if s := steps[i]; s.What == "" || s.Count != count || s.PerSecond <= 0 {
			t.Errorf("step %+v, want one of %d", s, count)
		}
	}
}

func TestBenchLadder(t *testing.T) {
	t.Parallel()
	picture := filepath.Join(t.TempDir(), "ladder.svg")
	args := []string{"bench", "ladder", "--disk", "nvme,ssd", "--callers", "16", "--duration", "5ms"}
	got := keys(t, benchJSON(t, append(args, "--svg", picture)...), "record_bytes", "callers", "codec", "model_error_us", "disks", "goals")
	positive(t, got, "record_bytes", "callers")
	var disks []struct {
		Disk  string
		Steps []json.RawMessage
	}
	if err := json.Unmarshal(got["disks"], &disks); err != nil || len(disks) != 2 || disks[0].Disk != "nvme" || disks[1].Disk != "ssd" {
		t.Fatalf("disks %s: %v", got["disks"], err)
	}
	figures := []string{"appends_per_second", "gain", "frames", "records_per_frame", "bytes_per_second", "compression_ratio", "sync_us"}
	for _, s := range disks[0].Steps {
		positive(t, keys(t, s, append(figures, "step", "fill_us", "compress_us", "write_us", "timeline")...), figures...)
	}
	if drawn, err := os.ReadFile(picture); err != nil || !strings.Contains(string(drawn), "merged, compressed, overlapped") {
		t.Errorf("picture of %d bytes: %v", len(drawn), err)
	}
}

func TestGoalsTable(t *testing.T) {
	goals := []bench.Goal{
		{What: "fast", Got: 1_600_000, Gate: 1_200_000, Aim: 1_500_000, Unit: "/s"},
		{What: "enough", Got: 1_300_000, Gate: 1_200_000, Aim: 1_500_000, Unit: "/s"},
		{What: "slow", Got: 4, Gate: 3, Aim: 2, AtMost: true, Unit: "x"},
		{What: "slow, and no gate", Got: 1.5, Aim: 1.25, AtMost: true, Unit: "x"},
		{What: "no aim", Got: 2, Gate: 1, Unit: "x"},
	}
	var out strings.Builder
	if err := goalsTable("Goals", goals).write(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`fast +1,600,000/s +at least 1,200,000/s +at least 1,500,000/s +aim met`,
		`enough +1,300,000/s +at least 1,200,000/s +at least 1,500,000/s +met`,
		`slow +4x +at most 3x +at most 2x +missed`,
		`slow, and no gate +1.5x +- +at most 1.25x +short of its aim`,
		`no aim +2x +at least 1x +- +met`,
	} {
		if !regexp.MustCompile("(?m)^" + want).MatchString(out.String()) {
			t.Errorf("no line %q in\n%s", want, &out)
		}
	}
	out.Reset()
	if err := goalsTable("Goals", goals[4:]).write(&out, false); err != nil || !strings.Contains(out.String(), "wanted") || strings.Contains(out.String(), "gate") {
		t.Errorf("without aims: %v\n%s", err, &out)
	}
}

func TestBenchRefusals(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"append", "--size", "0"}, exitUsage, "--size 0"},
		{[]string{"append", "--size", "5MiB"}, exitUsage, "--size"},
		{[]string{"append", "--callers", "0"}, exitUsage, "--callers 0"},
		{[]string{"append", "--logs", "0"}, exitUsage, "--logs 0"},
		{[]string{"append", "--connections", "9", "--callers", "8"}, exitUsage, "--connections 9"},
		{[]string{"append", "--duration", "-1s"}, exitUsage, "--duration"},
		{[]string{"append", "--duration", "0s"}, exitUsage, "--duration"},
		{[]string{"all", "--duration", "0s"}, exitUsage, "--duration"},
		{[]string{"append", "--rate", "NaN"}, exitUsage, "--rate NaN"},
		{[]string{"soak", "--share", "NaN"}, exitUsage, "--share NaN"},
		{[]string{"append", "--walsvc", "/nonexistent/walsvc"}, exitUnavailable, "next: name it with --walsvc"},
		{[]string{"append", "--addr", "unix:/nonexistent/walsvc.sock"}, exitUnavailable, "next: start the service"},
		{[]string{"replay", "--records", "0"}, exitUsage, "--records 0"},
		{[]string{"append", "--rate", "0"}, exitUsage, "--rate 0"},
		{[]string{"append", "--rate", "9", "--callers", "8"}, exitUsage, "not with --callers"},
		{[]string{"append", "--rate", "9", "--pipelined"}, exitUsage, "not with --callers or --pipelined"},
		{[]string{"append", "--even"}, exitUsage, "--rate"},
		{[]string{"all", "--rounds", "0"}, exitUsage, "--rounds 0"},
		{[]string{"goals", "--rounds", "0"}, exitUsage, "--rounds 0"},
		{[]string{"goals", "--records", "0"}, exitUsage, "--records 0"},
		{[]string{"goals", "--logs", "0"}, exitUsage, "--logs 0"},
		{[]string{"open", "--small", "1GiB", "--journal", "1GiB"}, exitUsage, "--journal 1024 MiB"},
		{[]string{"scale", "--logs", "2", "--producers", "3000"}, exitUsage, "--producers 3000"},
		{[]string{"scale", "--batches", "-1"}, exitUsage, "--batches -1"},
		{[]string{"scale", "--state", "2MiB"}, exitUsage, "--state 2 MiB"},
		{[]string{"open", "--rounds", "0"}, exitUsage, "--rounds 0"},
		{[]string{"open", "--logs", "0"}, exitUsage, "--logs 0"},
		{[]string{"soak", "--duration", "0s"}, exitUsage, "--duration"},
		{[]string{"soak", "--callers", "0"}, exitUsage, "--callers 0"},
		{[]string{"soak", "--share", "1.5"}, exitUsage, "--share 1.5"},
		{[]string{"soak", "--svg", "/nonexistent/soak.svg"}, exitFailed, "no such file"},
		{[]string{"ladder", "--disk", "tape"}, exitUsage, "want all or some of real, hdd, ssd, nvme"},
		{[]string{"ladder", "--codec", "none"}, exitUsage, "--codec"},
		{[]string{"ladder", "--callers", "0"}, exitUsage, "--callers 0"},
		{[]string{"ladder", "--disk", "nvme", "--svg", "/nonexistent/ladder.svg"}, exitFailed, "no such file"},
		{[]string{"everything"}, exitUsage, `no command "everything"`},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			stdout, stderr, code := invoke(t.Context(), append([]string{"bench"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.says) || stdout != "" {
				t.Errorf("exit %d, want %d; printed %q and %q, want %q", code, tc.code, stdout, stderr, tc.says)
			}
		})
	}
}

func TestBenchInterrupted(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"baseline"}, {"append", "--walsvc", walsvcBinary(t)}, {"replay", "--walsvc", walsvcBinary(t)},
		{"goals", "--walsvc", walsvcBinary(t)}, {"soak", "--walsvc", walsvcBinary(t)}, {"open", "--walsvc", walsvcBinary(t)}, {"scale", "--walsvc", walsvcBinary(t)}} {
		if _, stderr, code := invoke(ctx, append(append([]string{"bench"}, args...), "--dir", dir)...); code != exitInterrupted {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
