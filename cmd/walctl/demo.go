package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/docstore"
	"github.com/walsvc/walsvc/internal/service"
	"github.com/walsvc/walsvc/testdata"
)

// What the demonstration is made of, beside what flags say.
const (
	demoShards = 4   // logs of the engine
	demoWindow = 256 // operations that a client has in flight at most
	demoEvery  = 3   // every so many'th kill of the service takes the engine along, and one is followed by a failover
)

// demoResult is what `walctl demo` prints.
type demoResult struct {
	Acked            int     `json:"acked"`
	Recovered        int     `json:"recovered"`
	Lost             int     `json:"lost"`
	Duplicated       int     `json:"duplicated"`
	OutOfOrder       int     `json:"out_of_order"`
	Kills            int     `json:"kills"`
	Failovers        int     `json:"failovers"`
	Refused          uint64  `json:"refused"`
	InFlightAtKills  int     `json:"in_flight_at_kills"`
	RecordsPerSync   float64 `json:"records_per_sync"`
	CompressionRatio float64 `json:"compression_ratio"`

	NeverSubmitted int      `json:"never_submitted"`
	EngineFaults   int      `json:"engine_faults"`
	EngineKills    int      `json:"engine_kills"`
	FewestInFlight int      `json:"fewest_in_flight"`
	Submitted      int      `json:"submitted"`
	Documents      int      `json:"documents"`
	Rounds         float64  `json:"rounds"`
	Clients        int      `json:"clients"`
	Rolls          uint64   `json:"rolls"`
	Recycles       uint64   `json:"recycles"`
	Seed           uint64   `json:"seed"`
	Seconds        float64  `json:"seconds"`
	Examples       []string `json:"examples"`
}

func (r demoResult) ok() bool {
	return r.Lost == 0 && r.Duplicated == 0 && r.OutOfOrder == 0 && r.NeverSubmitted == 0 && r.EngineFaults == 0 && r.Recovered == r.Acked
}

func (r demoResult) tables() []grid {
	verdict := mood{"every acknowledged append is there, once, in its place", false}
	if !r.ok() {
		verdict = mood{"PROMISES WERE BROKEN", true}
	}
	count := func(n int) mood { return mood{grouped(uint64(n)), n > 0} }
	tables := []grid{
		{rows: [][]any{
			{"acknowledged", r.Acked},
			{"recovered", mood{grouped(uint64(r.Recovered)), r.Recovered != r.Acked}},
			{"lost", count(r.Lost)},
			{"duplicated", count(r.Duplicated)},
			{"out of order", count(r.OutOfOrder)},
			{"never submitted", count(r.NeverSubmitted)},
			{"engine", mood{engineVerdict(r.EngineFaults), r.EngineFaults > 0}},
			{"kills", fmt.Sprintf("%d of the service with %s appends in flight, never less than %s; %d of the engine",
				r.Kills, grouped(uint64(r.InFlightAtKills)), grouped(uint64(r.FewestInFlight)), r.EngineKills)},
			{"failovers", fmt.Sprintf("%d, of %s appends that were refused none is there", r.Failovers, grouped(r.Refused))},
			{"documents", fmt.Sprintf("%s, %.1f rounds from %d clients, %s", grouped(uint64(r.Documents)), r.Rounds, r.Clients, rate(float64(r.Acked)/r.Seconds))},
			{"per sync", fmt.Sprintf("%.1f records", r.RecordsPerSync)},
			{"compression", fmt.Sprintf("%.2f to 1", r.CompressionRatio)},
			{"segments", fmt.Sprintf("%s rolled, %s recycled", grouped(r.Rolls), grouped(r.Recycles))},
			{"took", time.Duration(r.Seconds * float64(time.Second))},
			{"verdict", verdict},
		}},
	}
	if len(r.Examples) > 0 {
		t := grid{title: "For example"}
		for _, e := range r.Examples {
			t.rows = append(t.rows, []any{e})
		}
		tables = append(tables, t)
	}
	return tables
}

func engineVerdict(faults int) string {
	if faults > 0 {
		return grouped(uint64(faults)) + " documents differ"
	}
	return "rebuilt to the same documents"
}

func newDemoCommand(g *globals) *cobra.Command {
	var o struct {
		walsvc, dir string
		segment     sizeFlag
		keep        bool
	}
	o.segment = 1 << 20
	plan := demoPlan{shards: demoShards, window: demoWindow, every: demoEvery}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Kill the service under load, again and again, and find everything acknowledged",
		Long: `Run a small document store on a walsvc of its own, on a temporary volume: put
documents from several clients at once, with many in flight, kill the service
with SIGKILL at random moments and restart it, kill the store too and rebuild it
from its checkpoint and the log, have another store take over from one that is
alive and writes, and compare. Each acknowledged append must be there exactly
once, at its LSN, with its bytes, in order; nothing may be there that was not
submitted, or that was refused because another store had taken over. What was
not acknowledged may be there, once at most.

A kill only counts if it found unacknowledged appends in flight. SIGKILL leaves
the page cache alone: that acknowledgements wait for the disk is what the tests
of the engine show.

It exits with 5 if anything is lost, duplicated or out of order, and then keeps
the volume.

JSON: acked, recovered, lost, duplicated, out_of_order, kills, failovers, refused
(appends, of stores that were taken over from), in_flight_at_kills (over all
kills), records_per_sync, compression_ratio, never_submitted (records that nobody
submitted, or that were refused), engine_faults (documents of the store that differ),
engine_kills, fewest_in_flight (at any kill), submitted, documents, rounds,
clients, rolls, recycles, seed, seconds, examples [] (what is wrong).`,
		Example: `  walctl demo
  walctl demo --duration 5m --kills 200 --seed 7`,
		GroupID: groupTry,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if plan.kills < 0 || plan.clients < 1 || plan.clients > 64 || plan.duration < 0 || plan.duration > time.Hour || plan.rounds < 0 {
				return usagef("want --kills and --rounds of 0 or more, 1 to 64 --clients and a --duration of at most 1h")
			}
			if !cmd.Flags().Changed("seed") {
				plan.seed = uint64(time.Now().UnixNano())
			}
			return runDemo(cmd, g, plan, o.walsvc, o.dir, int64(o.segment), o.keep)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.IntVar(&plan.kills, "kills", 12, "how often to kill the service")
	flags.IntVar(&plan.rounds, "rounds", 0, "how often to go through the documents at least; 0 means as often as --duration allows")
	flags.DurationVar(&plan.duration, "duration", 15*time.Second, "`time` to spread the kills over")
	flags.IntVar(&plan.clients, "clients", 8, "clients of the store, each with a connection of its own")
	flags.Uint64Var(&plan.seed, "seed", 0, "`seed` of what is random; by default a new one")
	flags.Var(&o.segment, "segment-size", "size of the volume's segments; small, so that they roll and recycle")
	flags.StringVar(&o.walsvc, "walsvc", "", "walsvc `executable`; by default the one beside walctl, built as needed, or in PATH")
	flags.StringVar(&o.dir, "dir", "", "`directory` to make the temporary one in")
	flags.BoolVar(&o.keep, "keep", false, "keep the volume")
	return cmd
}

// runDemo gives the demonstration a service and a place, and prints its result.
func runDemo(cmd *cobra.Command, g *globals, plan demoPlan, walsvc, dir string, segment int64, keep bool) (err error) {
	ctx := cmd.Context()
	began := time.Now()
	stage := newStage(cmd.ErrOrStderr())
	defer stage.stop()
	dir, err = os.MkdirTemp(dir, "walsvc-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	begun := false // before that there is nothing to look at
	defer func() {
		if keep || begun && err != nil && ctx.Err() == nil {
			stage.say("kept: %s", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	binary, err := service.Find(ctx, walsvc, dir, func() { stage.say("building walsvc") })
	if err != nil {
		return &failure{code: exitFailed, err: err, next: "name the executable with --walsvc, or run make build"}
	}
	if plan.docs, err = demoDocuments(); err != nil {
		return err
	}
	plan.dir = filepath.Join(dir, "engine")
	log, err := os.Create(filepath.Join(dir, "walsvc.log"))
	if err != nil {
		return fmt.Errorf("make the service's log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	s := &walsvcProcess{options: service.Options{
		Binary: binary,
		Dir:    filepath.Join(dir, "volume"),
		Log:    log,
		Args:   []string{"--segment-size", fmt.Sprint(segment), "--log-level", "warn"},
	}}
	defer func() { err = errors.Join(err, s.stop()) }()

	d := newDemo(plan, s, stage.say)
	stage.watch(d)
	begun = true
	tally, err := d.run(ctx)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	stage.stop()
	r := d.result(tally, time.Since(began))
	if err := g.print(cmd, r); err != nil {
		return err
	}
	if !r.ok() {
		return &failure{code: exitDamage, err: errors.New("demo: promises were broken"),
			next: fmt.Sprintf("run it again with --seed %d; look at the volume with walctl verify and walctl dump", plan.seed)}
	}
	return nil
}

// demoDocuments returns the documents as keys and what is stored under them.
func demoDocuments() ([]docEntry, error) {
	docs := make([]docEntry, 0, testdata.DocumentCount)
	for line := range testdata.Documents() {
		var d struct {
			Key string
			Doc json.RawMessage
		}
		if err := json.Unmarshal(line, &d); err != nil {
			return nil, fmt.Errorf("document %d: %w", len(docs), err)
		}
		docs = append(docs, docEntry{d.Key, d.Doc})
	}
	return docs, nil
}

func (d *demo) result(t tally, took time.Duration) demoResult {
	examples := t.examples
	if examples == nil {
		examples = []string{}
	}
	return demoResult{
		Acked: t.acked, Recovered: t.recovered, Lost: t.lost, Duplicated: t.duplicated, OutOfOrder: t.outOfOrder,
		Kills: d.kills, InFlightAtKills: d.inFlightAtKills, Failovers: d.failovers, Refused: d.ledger.refusedSoFar(),
		RecordsPerSync:   ratio(d.counted.records, d.counted.syncs),
		CompressionRatio: ratio(d.counted.rawBytes, d.counted.storedBytes),
		NeverSubmitted:   t.foreign, EngineFaults: t.engine, EngineKills: d.engineKills, FewestInFlight: d.fewestInFlight,
		Submitted: t.submitted, Documents: len(d.docs), Rounds: float64(t.submitted) / float64(len(d.docs)), Clients: d.clients,
		Rolls: d.counted.rolls, Recycles: d.counted.recycles, Seed: d.seed, Seconds: took.Seconds(), Examples: examples,
	}
}

// walsvcProcess is walsvc as a process: the same that everybody runs.
type walsvcProcess struct {
	options service.Options
	process *service.Process
	// admin is a connection of the demonstration itself, for what it asks before
	// it kills: nothing that takes time may lie between a question and the kill.
	admin *client.Client
}

func (s *walsvcProcess) start(ctx context.Context) (string, error) {
	p, err := service.Start(ctx, s.options)
	if err != nil {
		return "", err
	}
	s.process = p
	if s.admin == nil {
		if s.admin, err = client.Open(ctx, p.Addr(), client.Options{}); err != nil {
			return "", err
		}
	}
	status, err := s.admin.Status(ctx)
	if err != nil {
		return "", err
	}
	r := status.GetRecovery()
	return fmt.Sprintf("%s, %s frames rewritten, %s discarded", r.GetVerdict(), grouped(r.GetRewrittenFrames()), grouped(r.GetDiscardedFrames())), nil
}

func (s *walsvcProcess) kill() error { return s.process.Kill() }

// stop ends the service in order, after everything has been counted.
func (s *walsvcProcess) stop() error {
	if s.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	if s.admin != nil {
		_ = s.admin.Close(ctx) // nothing was appended over it
	}
	return s.process.Stop(ctx)
}

func (s *walsvcProcess) counters(ctx context.Context) (serviceCounters, error) {
	st, err := s.admin.Status(ctx)
	if err != nil {
		return serviceCounters{}, err
	}
	return serviceCounters{
		records: st.GetRecords(), syncs: st.GetSyncs(), rawBytes: st.GetRawBytes(), storedBytes: st.GetStoredBytes(),
		rolls: st.GetRolls(), recycles: st.GetRecycles(),
	}, nil
}

func (s *walsvcProcess) passing(err error) bool {
	for _, passing := range []error{client.ErrUnavailable, client.ErrUnknownOutcome, client.ErrClosed, docstore.ErrClosed, context.Canceled, errCrash} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

func (s *walsvcProcess) target() string { return s.process.Addr() }

func (s *walsvcProcess) connect(ctx context.Context) (demoConn, error) {
	c, err := client.Open(ctx, s.target(), client.Options{})
	if err != nil {
		return nil, err
	}
	return walsvcConn{c}, nil
}

// walsvcConn is one connection of the SDK.
type walsvcConn struct{ client *client.Client }

func (c walsvcConn) read(ctx context.Context, log string) (client.LSN, iter.Seq2[client.Record, error], error) {
	info, err := c.client.GetLog(ctx, log)
	if err != nil {
		return 0, nil, err
	}
	return info.First, func(yield func(client.Record, error) bool) {
		if info.First == info.Next {
			return
		}
		// To where it ends now: the clients go on, and might stay ahead for ever.
		for r, err := range c.client.Log(log).Replay(ctx, client.ReplayOptions{From: info.First, To: info.Durable()}) {
			if errors.Is(err, client.ErrLSNTruncated) {
				err = errTruncated
			}
			if !yield(r, err) {
				return
			}
		}
	}, nil
}

func (c walsvcConn) close() { _ = c.client.Close(context.Background()) } // nothing was appended over it

// A stage shows the demonstration on standard error: a line for each kill and,
// on a terminal, how far it is.
type stage struct {
	w       io.Writer
	mu      sync.Mutex // of w, where there is no bar
	bar     progress.Writer
	tracker *progress.Tracker
	ended   chan struct{}
	done    sync.WaitGroup
	once    sync.Once
}

func newStage(w io.Writer) *stage {
	s := &stage{w: w, ended: make(chan struct{})}
	if terminal(w) {
		s.bar = newProgress(w)
		s.bar.Style().Visibility.Value = false
		s.done.Go(s.bar.Render)
	}
	return s
}

// say prints a line.
func (s *stage) say(format string, args ...any) {
	if s.bar != nil && s.bar.IsRenderInProgress() {
		s.bar.Log(format, args...)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, format+"\n", args...)
}

// watch shows how far a demonstration is.
func (s *stage) watch(d *demo) {
	if s.bar == nil {
		return
	}
	total := max(int64(d.duration/time.Millisecond), 1)
	s.tracker = &progress.Tracker{Message: "demo", Total: total}
	s.bar.AppendTracker(s.tracker)
	s.done.Go(func() {
		tick := time.NewTicker(redrawBar)
		defer tick.Stop()
		began := time.Now()
		for {
			select {
			case <-tick.C:
				s.tracker.UpdateMessage(fmt.Sprintf("%s acknowledged", grouped(d.ledger.ackedSoFar())))
				s.tracker.SetValue(min(time.Since(began).Milliseconds(), total-1))
			case <-s.ended:
				return
			}
		}
	})
}

// stop leaves what is shown. It may be called again.
func (s *stage) stop() {
	s.once.Do(func() {
		close(s.ended)
		if s.tracker != nil {
			s.tracker.MarkAsDone()
		}
		if s.bar != nil {
			s.bar.Stop()
		}
		s.done.Wait()
	})
}
