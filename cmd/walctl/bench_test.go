package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/client"
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

func TestBenchAppendJSON(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--callers", "8"},
		{"--pipelined", "--size", "1KiB"},
		{"--callers", "4", "--connections", "2", "--logs", "3"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			got := keys(t, benchJSON(t, append([]string{
				"bench", "append", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--duration", "100ms",
			}, args...)...), "appends_per_second", "bytes_per_second", "latency_us", "syncs", "records_per_sync", "compression_ratio", "server_rss_bytes")
			positive(t, got, "appends_per_second", "bytes_per_second", "syncs", "records_per_sync", "compression_ratio", "server_rss_bytes")
			positive(t, keys(t, got["latency_us"], "p50", "p99", "p999"), "p50", "p99", "p999")
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

var baselineKeys = []string{
	"overwrite_us", "echo_round_trip_us", "echo_bytes_per_second", "loop_1_per_second", "loop_64_per_second", "loop_256_per_second",
}

func TestBenchBaselineJSON(t *testing.T) {
	t.Parallel()
	got := keys(t, benchJSON(t, "bench", "baseline", "--duration", "50ms"), baselineKeys...)
	positive(t, got, baselineKeys...)
}

func TestBenchAllJSON(t *testing.T) {
	t.Parallel()
	got := keys(t, benchJSON(t, "bench", "all", "--walsvc", walsvcBinary(t), "--segment-size", "1MiB", "--duration", "50ms", "--rounds", "2"),
		"record_bytes", "median", "rounds", "server_rss_idle_bytes", "server_rss_saturated_bytes", "goals")
	positive(t, got, "record_bytes", "server_rss_idle_bytes", "server_rss_saturated_bytes")
	m := keys(t, got["median"], "baseline", "walsvc", "ratios")
	positive(t, keys(t, m["baseline"], baselineKeys...), baselineKeys...)
	ours := []string{"one_caller_us", "callers_64_per_second", "callers_256_per_second", "pipelined_per_second"}
	positive(t, keys(t, m["walsvc"], ours...), ours...)
	ratios := []string{"one_caller_to_floor", "callers_64_to_loop", "callers_256_to_loop", "pipelined_to_echo"}
	positive(t, keys(t, m["ratios"], ratios...), ratios...)
	var rounds, goals []json.RawMessage
	if err := json.Unmarshal(got["rounds"], &rounds); err != nil || len(rounds) != 2 {
		t.Errorf("rounds %s: %v", got["rounds"], err)
	}
	if err := json.Unmarshal(got["goals"], &goals); err != nil || len(goals) != 6 {
		t.Errorf("goals %s: %v", got["goals"], err)
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
		{[]string{"append", "--walsvc", "/nonexistent/walsvc"}, exitUnavailable, "next: name it with --walsvc"},
		{[]string{"append", "--addr", "unix:/nonexistent/walsvc.sock"}, exitUnavailable, "next: start the service"},
		{[]string{"replay", "--records", "0"}, exitUsage, "--records 0"},
		{[]string{"all", "--rounds", "0"}, exitUsage, "--rounds 0"},
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
	for _, args := range [][]string{{"baseline"}, {"append", "--walsvc", walsvcBinary(t)}, {"replay", "--walsvc", walsvcBinary(t)}} {
		if _, stderr, code := invoke(ctx, append(append([]string{"bench"}, args...), "--dir", dir)...); code != exitInterrupted {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
