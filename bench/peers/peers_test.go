package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
)

var rewrite = flag.Bool("rewrite", false, "write what is expected anew")

// quick are the options of a run that measures nothing worth knowing.
func quick(t *testing.T) options {
	return options{dir: t.TempDir(), works: []work{{1, false}, {8, false}, {1, true}}, size: 400, rounds: 1,
		duration: 5 * time.Millisecond, warm: time.Millisecond, records: 300, say: t.Logf}
}

// TestLibraries puts each library under every load once, and compares what it
// gives back with what was appended.
func TestLibraries(t *testing.T) {
	r := run{options: quick(t), entries: libraries()}
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRun(t, &r)
}

// TestServers does the same with the servers that are here, and with what they
// are compared to.
func TestServers(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "walsvc")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/walsvc")
	build.Dir = filepath.Join("..", "..") // another module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build walsvc: %v\n%s", err, out)
	}
	small := []string{"--segment-size", "262144"} // so that they are recycled soon
	all := []entry{{&walsvc{binary: binary, args: small}, true}, {&walsvc{binary: binary, args: small, each: true}, false}, {&echo{}, false}}
	if s, err := findRedis(t.Context()); err != nil {
		t.Logf("not here: %v", err)
	} else {
		library := *s
		library.library = true
		all = append(all, entry{s, true}, entry{&library, false})
	}
	r := run{options: quick(t), entries: all}
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRun(t, &r)
}

func checkRun(t *testing.T, r *run) {
	t.Helper()
	for i, res := range r.results {
		if res.err != nil {
			t.Errorf("%s: %v", res.Name, res.err)
		}
		if r.entries[i].replays && len(res.replays) != r.rounds {
			t.Errorf("%s: read back %d times, want %d", res.Name, len(res.replays), r.rounds)
		}
		if len(res.loads) == 0 {
			t.Errorf("%s: no work", res.Name)
		}
		if res.Reached == "" || res.How == "" {
			t.Errorf("%s: does not say how it is reached or configured", res.Name)
		}
	}
	left, err := os.ReadDir(r.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// forgetful is a log that loses a record, or changes one.
type forgetful struct {
	records [][]byte
	spoil   func([][]byte) [][]byte
}

func (*forgetful) about() about { return about{Name: "forgetful"} }

func (*forgetful) start(context.Context, string, bool) error { return nil }

func (s *forgetful) logs(context.Context, int, bool) ([]bench.Log, error) {
	return library(func(_ context.Context, records [][]byte) error {
		for _, r := range records {
			s.records = append(s.records, bytes.Clone(r))
		}
		return nil
	}, true, false)
}

func (s *forgetful) replay(_ context.Context, yield func([]byte) error) error {
	for _, r := range s.spoil(s.records) {
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}

func (*forgetful) stop(context.Context) error { return nil }

// TestOnOne: callers have one processor from the start of their subject until it is
// stopped, as often as it is.
func TestOnOne(t *testing.T) {
	all := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(all)
	s := &onOne{subject: &watched{subject: &loop{}, processors: map[int]int{}}}
	for range 2 {
		err := within(t.Context(), s, t.TempDir(), false, func() error { return nil })
		if now := runtime.GOMAXPROCS(0); err != nil || now != 2 {
			t.Fatalf("%d processors afterwards, want 2: %v", now, err)
		}
	}
	if seen := s.subject.(*watched).processors; len(seen) != 1 || seen[1] != 2 {
		t.Errorf("started on so many processors so often: %v, want 1: 2", seen)
	}
	if name := s.about().Name; name != "mutex, append, sync, client on one processor" {
		t.Errorf("it is called %q", name)
	}
}

// watched counts on how many processors a subject is started.
type watched struct {
	subject
	processors map[int]int
}

func (w *watched) start(ctx context.Context, dir string, keep bool) error {
	w.processors[runtime.GOMAXPROCS(0)]++
	return w.subject.start(ctx, dir, keep)
}

// TestReadBackIsCompared shows that a subject that loses, adds or changes
// records is not measured, but reported.
func TestReadBackIsCompared(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func([][]byte) [][]byte
		want  error
	}{
		"whole":     {func(r [][]byte) [][]byte { return r }, nil},
		"one short": {func(r [][]byte) [][]byte { return r[:len(r)-1] }, errReadBack},
		"one twice": {func(r [][]byte) [][]byte { return append(slices.Clone(r), r[0]) }, errReadBack},
		"swapped":   {func(r [][]byte) [][]byte { r[0], r[1] = r[1], r[0]; return r }, errReadBack},
	} {
		s := &forgetful{spoil: tc.spoil}
		r := run{options: quick(t)}
		if err := r.fill(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := r.replay(t.Context(), entry{s, true}, r.dir); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// TestGather shows that what arrives while a batch is stored is the next batch,
// in order, and that nothing is stored behind one that failed.
func TestGather(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		var (
			batches [][]string
			entered = make(chan struct{}, 8)
			stored  = make(chan error)
		)
		store := func(_ context.Context, records [][]byte) error {
			var b []string
			for _, r := range records {
				b = append(b, string(r))
			}
			batches = append(batches, b)
			entered <- struct{}{}
			return <-stored
		}
		var log bench.Log
		if ahead {
			log = gatherAhead(func(ctx context.Context, records [][]byte) (func() error, error) {
				err := store(ctx, records)
				return func() error { return nil }, err
			}, 2, 2)
		} else {
			log = gather(store, 2)
		}
		acks := make(chan error, 8)
		ack := func(_ client.Receipt, err error) { acks <- err }
		send := func(records ...string) {
			for _, r := range records {
				log.AppendAsyncFunc(t.Context(), []byte(r), ack)
			}
		}
		broken := errors.New("broken")
		send("a")
		<-entered
		send("b", "c", "d", "e")
		stored <- nil
		<-entered // b, c
		stored <- nil
		<-entered // d, e
		send("f")
		stored <- broken
		close(stored) // whatever would be stored behind it succeeds
		var ok, failed int
		for range 6 {
			if err := <-acks; err == nil {
				ok++
			} else if errors.Is(err, broken) {
				failed++
			}
		}
		if ok != 3 || failed != 3 {
			t.Errorf("ahead %v: %d durable and %d failed, want 3 and 3", ahead, ok, failed)
		}
		want := [][]string{{"a"}, {"b", "c"}, {"d", "e"}}
		if !slices.EqualFunc(batches, want, slices.Equal) {
			t.Errorf("ahead %v: batches %v, want %v", ahead, batches, want)
		}
	}
}

// TestFailure shows that a subject that fails is named, and the others are
// measured.
func TestFailure(t *testing.T) {
	r := run{options: quick(t), entries: []entry{{&loop{}, false}, {&walsvc{binary: "/nowhere/walsvc"}, true}}}
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep := r.report(machine{}, nil)
	if rep.Subjects[0].Error != "" || len(rep.Subjects[0].Works) != 2 {
		t.Errorf("the loop: %+v", rep.Subjects[0])
	}
	if !strings.Contains(rep.Subjects[1].Error, "/nowhere/walsvc") {
		t.Errorf("walsvc: %q", rep.Subjects[1].Error)
	}
}

// sample is a run's outcome as it could have been.
func sample() report {
	load := func(rate, p50, p99 float64) bench.Throughput {
		return bench.Throughput{PerSecond: rate, Latency: bench.Latency{P50: p50, P99: p99, P999: 2 * p99}}
	}
	one, many, piped := work{1, false}, work{64, false}, work{1, true}
	r := run{
		options: options{works: []work{one, many, piped}, size: 400, rounds: 3, duration: time.Second, records: 1_000_000},
		results: []*result{
			{about: about{"walsvc", "this tree", unixSocket, "as shipped"}, disk: 93e6,
				loads: map[work][]bench.Throughput{
					one:   {load(4000, 240, 400), load(4400, 220, 390), load(3900, 250, 410)},
					many:  {load(110e3, 560, 1900), load(100e3, 600, 1800), load(120e3, 520, 2000)},
					piped: {load(1.1e6, 7000, 11000), load(1.2e6, 6900, 10000), load(1e6, 8000, 12000)},
				},
				replays: []replayed{{0.04, 0.0013, 2.1e6}, {0.05, 0.0011, 2.3e6}, {0.045, 0.0012, 2.2e6}}},
			{about: about{"etcd WAL, gathered", "3.7.3", inProcess, "Save"}, disk: 490e6,
				loads: map[work][]bench.Throughput{
					one:  {load(9000, 98, 150), load(9100, 97, 149), load(8000, 110, 170)},
					many: {load(50e3, 1200, 1900), load(40e3, 1300, 1800), load(60e3, 1000, 2000)},
				},
				replays: []replayed{{0.01, 1.2, 421e3}, {0.01, 1.3, 431e3}, {0.01, 1.1, 411e3}}},
			{about: about{"slow", "1", loopback, "nothing gets through"},
				loads: map[work][]bench.Throughput{one: {{}, {}, {}}}, err: errors.New("it broke")},
		},
	}
	return r.report(machine{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), CPU: "a CPU", CPUs: 2, Kernel: "Linux 6", FileSystem: "ext4",
		Go: "go1.26", Commit: "abc", LoadAverage: 1.75, SyncUS: 94, GrowingUS: 194}, []string{"redis-server: not found"})
}

// TestGolden shows what is printed and drawn.
func TestGolden(t *testing.T) {
	rep := sample()
	for name, write := range map[string]func(io.Writer) error{
		"peers.txt":  func(w io.Writer) error { return rep.write(w, false) },
		"peers.md":   func(w io.Writer) error { return rep.write(w, true) },
		"peers.json": rep.writeJSON,
		"peers.svg":  rep.charts()["peers-throughput.svg"].WriteSVG,
	} {
		var got bytes.Buffer
		if err := write(&got); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		path := filepath.Join("testdata", name)
		if *rewrite {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s differs; look at it, and run with -rewrite if it is right:\n%s", path, got.Bytes())
		}
	}
	if err := rep.save(t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestRatiosAreOfOneRound(t *testing.T) {
	// The medians are 12 and 5, which would be 2.4; the rounds say 2, 0.5 and 3.
	if got := over([]float64{10, 40, 12}, []float64{5, 80, 4}); got != 2 {
		t.Errorf("%v, want 2", got)
	}
	if got := over(nil, []float64{1}); got != 0 {
		t.Errorf("nothing over something: %v, want 0", got)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		nil, {"-walsvc", "x", "-rounds", "0"}, {"-walsvc", "x", "-callers", "1,x"}, {"-walsvc", "x", "-callers", "1000"},
		{"-walsvc", "x", "-size", "0"}, {"-walsvc", "x", "-o", "yaml"}, {"-walsvc", "x", "-records", "-1"},
	} {
		if err := command(t.Context(), args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
