package e2e_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/service"
	"github.com/walsvc/walsvc/wal"
)

var (
	killRounds = flag.Int("kill.rounds", 25, "how often TestKill kills the service")
	killSeed   = flag.Uint64("kill.seed", 0, "seed of its moments and sizes; 0 means a new one")
)

// A ledger is what the clients of a log did and heard.
type ledger struct {
	log string

	mu        sync.Mutex
	submitted map[string]bool
	acked     map[client.LSN]string
	highest   client.LSN          // acknowledged
	asked     map[client.LSN]bool // checkpoints that were set, or tried to
	set       client.LSN          // of the last checkpoint acknowledged
}

func (l *ledger) submit(records []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range records {
		l.submitted[r] = true
	}
}

func (l *ledger) ack(first client.LSN, records []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range records {
		lsn := first + client.LSN(i)
		if was, ok := l.acked[lsn]; ok {
			return fmt.Errorf("log %s: LSN %d acknowledged for %.40q and for %.40q", l.log, lsn, was, r)
		}
		l.acked[lsn] = r
		l.highest = max(l.highest, lsn)
	}
	return nil
}

// ask notes that a checkpoint at the highest acknowledged LSN may come to be,
// and returns that; 0 if nothing is acknowledged.
func (l *ledger) ask() client.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[l.highest] = true
	return l.highest
}

// check reads the whole log: what was acknowledged by now is there, at its
// LSN; what is there was submitted, once; batches are whole and each worker's
// are in order; the checkpoint is one that was set, and none older than the
// last that was acknowledged.
func (l *ledger) check(ctx context.Context, c *client.Client) error {
	l.mu.Lock()
	acked := maps.Clone(l.acked)
	set := l.set
	l.mu.Unlock()

	var all []string
	for r, err := range c.Log(l.log).Replay(ctx, client.ReplayOptions{}) {
		if err != nil {
			return fmt.Errorf("log %s: %w", l.log, err)
		}
		if all = append(all, string(r.Data)); r.LSN != client.LSN(len(all)) {
			return fmt.Errorf("log %s: record %d has LSN %d", l.log, len(all), r.LSN)
		}
	}
	for lsn, r := range acked {
		if int(lsn) > len(all) || all[lsn-1] != r {
			return fmt.Errorf("log %s: acknowledged LSN %d, %.40q, is lost: the log has %d records", l.log, lsn, r, len(all))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := map[int]int{} // batch of each worker
	for i := 0; i < len(all); {
		var worker, batch, at, of int
		if _, err := fmt.Sscanf(all[i], "%d %d %d/%d ", &worker, &batch, &at, &of); err != nil {
			return fmt.Errorf("log %s: LSN %d: %.40q: %w", l.log, i+1, all[i], err)
		}
		if at != 0 || i+of > len(all) {
			return fmt.Errorf("log %s: LSN %d: a batch of %d begins with record %d", l.log, i+1, of, at)
		}
		if batch <= latest[worker] {
			return fmt.Errorf("log %s: LSN %d: batch %d of worker %d comes behind batch %d", l.log, i+1, batch, worker, latest[worker])
		}
		latest[worker] = batch
		for k := range of {
			if want := fmt.Sprintf("%d %d %d/%d ", worker, batch, k, of); !strings.HasPrefix(all[i+k], want) || !l.submitted[all[i+k]] {
				return fmt.Errorf("log %s: LSN %d: %.40q, want %q", l.log, i+k+1, all[i+k], want)
			}
		}
		i += of
	}
	return l.checkCheckpoint(ctx, c, set)
}

// checkCheckpoint checks that the checkpoint is one that was asked for, and not
// below set. REQUIRES: mu.
func (l *ledger) checkCheckpoint(ctx context.Context, c *client.Client, set client.LSN) error {
	cp, err := c.Log(l.log).Checkpoint(ctx, "engine")
	switch {
	case errors.Is(err, client.ErrCheckpointNotFound) && set == 0:
		return nil
	case err != nil:
		return fmt.Errorf("log %s: checkpoint: %w", l.log, err)
	case cp.LSN < set || !l.asked[cp.LSN] || string(cp.State) != stateAt(cp.LSN):
		return fmt.Errorf("log %s: checkpoint at LSN %d with state %.20q, acknowledged was LSN %d", l.log, cp.LSN, cp.State, set)
	}
	return nil
}

func stateAt(lsn client.LSN) string { return fmt.Sprintf("state at %d", lsn) }

// work appends to a log until quit is closed, and then until everything it
// appended is acknowledged.
func work(ctx context.Context, log *client.Log, l *ledger, worker int, rng *rand.Rand, quit <-chan struct{}, acks *atomic.Int64) error {
	for batch := 1; ; batch++ {
		select {
		case <-quit:
			return nil
		default:
		}
		records := make([]string, 1+rng.IntN(4))
		for i := range records {
			size := rng.IntN(300)
			if rng.IntN(50) == 0 {
				size = rng.IntN(40 << 10)
			}
			records[i] = fmt.Sprintf("%d %d %d/%d %s", worker, batch, i, len(records), strings.Repeat(string(rune('a'+batch%26)), size))
		}
		l.submit(records)
		raw := make([][]byte, len(records))
		for i, r := range records {
			raw[i] = []byte(r)
		}
		receipt, err := log.AppendBatch(ctx, raw)
		if err != nil {
			return fmt.Errorf("log %s, worker %d, batch %d: %w", l.log, worker, batch, err)
		}
		if err := l.ack(receipt.LSN, records); err != nil {
			return err
		}
		acks.Add(1)
	}
}

// workTogether appends batches over data and index until quit is closed.
func workTogether(ctx context.Context, c *client.Client, worker int, quit <-chan struct{}, acks *atomic.Int64) error {
	g, err := c.Group(c.Log("data"), c.Log("index"))
	if err != nil {
		return err
	}
	for batch := 1; ; batch++ {
		select {
		case <-quit:
			return nil
		default:
		}
		same := client.Part{Records: [][]byte{fmt.Appendf(nil, "%d %d", worker, batch)}}
		got, err := g.Append(ctx, same, same)
		if err != nil {
			return fmt.Errorf("data and index, worker %d, batch %d: %w", worker, batch, err)
		}
		if got[0].LSN != got[1].LSN {
			return fmt.Errorf("worker %d, batch %d: data at %d, index at %d", worker, batch, got[0].LSN, got[1].LSN)
		}
		acks.Add(1)
	}
}

// checkTogether reads data and then index, which has at least the same: every worker's
// batches, once and in order. It returns how many there are.
func checkTogether(ctx context.Context, c *client.Client) (n int, err error) {
	read := func(name string) (all []string, err error) {
		for r, err := range c.Log(name).Replay(ctx, client.ReplayOptions{}) {
			if err != nil {
				return nil, err
			}
			all = append(all, string(r.Data))
		}
		return all, nil
	}
	data, err := read("data")
	if err != nil {
		return 0, err
	}
	index, err := read("index")
	if err != nil {
		return 0, err
	}
	if len(index) < len(data) || !slices.Equal(index[:len(data)], data) {
		return 0, fmt.Errorf("data has %d records, index %d, and they are not the same", len(data), len(index))
	}
	latest := map[int]int{}
	for i, rec := range data {
		var worker, batch int
		if _, err := fmt.Sscanf(rec, "%d %d", &worker, &batch); err != nil || batch != latest[worker]+1 {
			return 0, fmt.Errorf("data: LSN %d: %q behind batch %d: %w", i+1, rec, latest[worker], err)
		}
		latest[worker] = batch
	}
	return len(data), nil
}

// checkpoint sets the log's checkpoint again and again until quit is closed, and
// then once more: until it is acknowledged.
func checkpoint(ctx context.Context, log *client.Log, l *ledger, quit <-chan struct{}, acks *atomic.Int64) error {
	last := false
	for seen := int64(0); ; {
		// As often as there is something new; a pause would be a guess.
		now := acks.Load()
		select {
		case <-quit:
			last = true
		case <-time.After(time.Millisecond):
		}
		if !last && now-seen < 20 {
			continue
		}
		seen = now
		lsn := l.ask()
		cp, err := log.SetCheckpoint(ctx, "engine", lsn, []byte(stateAt(lsn)))
		switch {
		case errors.Is(err, client.ErrUnavailable):
			continue // the outcome is unknown
		case err != nil:
			return fmt.Errorf("log %s: checkpoint at %d: %w", l.log, lsn, err)
		}
		l.mu.Lock()
		l.set = max(l.set, cp.LSN)
		l.mu.Unlock()
		if last {
			return nil
		}
	}
}

// TestKill kills the service with SIGKILL at random moments, also while it
// recovers, under clients that go on as if nothing had happened.
func TestKill(t *testing.T) {
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-kill.rounds=%d -kill.seed=%d", *killRounds, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(newDir(t), "v")
	args := []string{"--segment-size", "1MiB", "--prepare-rate", "unlimited", "--log-level", "error"}
	p := start(t, dir, args...)

	const clients, workers = 3, 3
	logs := []string{"orders", "users", "shared"}
	ledgers := map[string]*ledger{}
	reader := open(t, p)
	for _, name := range logs {
		ledgers[name] = &ledger{log: name, submitted: map[string]bool{}, acked: map[client.LSN]string{}, asked: map[client.LSN]bool{}}
		create(t, reader, name)
		// Holds every record, so that all can be checked.
		if _, err := reader.Log(name).SetCheckpoint(t.Context(), "hold", 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"data", "index"} {
		if _, _, err := reader.CreateLog(t.Context(), name, client.LogOptions{ColocationKey: "kill"}); err != nil {
			t.Fatal(err)
		}
	}
	var acks, together atomic.Int64
	var running sync.WaitGroup
	failed := make(chan error, clients*workers+len(logs)+clients)
	quit := make(chan struct{})
	for i := range clients {
		c := open(t, p)
		for j := range workers {
			name := logs[(i+j)%len(logs)]
			worker := i*workers + j
			seed := rng.Uint64()
			running.Go(func() {
				err := work(t.Context(), c.Log(name), ledgers[name], worker, rand.New(rand.NewPCG(seed, 1)), quit, &acks)
				if err != nil {
					failed <- err
				}
			})
		}
		running.Go(func() {
			if err := workTogether(t.Context(), c, i, quit, &together); err != nil {
				failed <- err
			}
		})
		running.Go(func() {
			if err := checkpoint(t.Context(), c.Log(logs[i]), ledgers[logs[i]], quit, &acks); err != nil {
				failed <- err
			}
		})
	}
	recoveries := 0
	for round := range *killRounds {
		// The service is at work again; then any moment will do.
		deadline := time.Now().Add(limit)
		for from := acks.Load(); acks.Load() < from+10; {
			if awaitTick(t, failed, time.Millisecond); time.Now().After(deadline) {
				t.Fatalf("round %d: nothing is acknowledged any more", round)
			}
		}
		awaitTick(t, failed, time.Duration(rng.IntN(30_000))*time.Microsecond)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		for rng.IntN(3) == 0 { // killed again before it is ready
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(40_000))*time.Microsecond)
			q, err := service.Start(ctx, service.Options{Binary: walsvc, Dir: dir, Args: args})
			cancel()
			if err == nil {
				_ = q.Kill()
			}
			recoveries++
		}
		p = start(t, dir, args...)
		if round%5 != 4 {
			continue
		}
		for _, name := range logs {
			if err := ledgers[name].check(t.Context(), reader); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if _, err := checkTogether(t.Context(), reader); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	close(quit)
	running.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	for _, name := range logs {
		l := ledgers[name]
		if err := l.check(t.Context(), reader); err != nil {
			t.Fatal(err)
		}
		// Everybody waited for everything: nothing was given up, nothing came twice.
		if info, err := reader.GetLog(t.Context(), name); err != nil || int(info.Next)-1 != len(l.acked) || len(l.acked) != len(l.submitted) {
			t.Errorf("log %s: %d records, %d submitted, %d acknowledged, %v", name, info.Next-1, len(l.submitted), len(l.acked), err)
		}
		if l.set == 0 {
			t.Errorf("log %s: no checkpoint was ever set", name)
		}
	}
	if n, err := checkTogether(t.Context(), reader); err != nil || int64(n) != together.Load() || n == 0 {
		t.Errorf("data and index have %d records, %d were acknowledged, %v", n, together.Load(), err)
	}
	stop(t, p)
	found, err := wal.Verify(t.Context(), dir, nil)
	if err != nil || found.Verdict != "clean" {
		t.Errorf("verify: %+v, %v", found, err)
	}
	t.Logf("%d kills, %d of them while starting; %d appends acknowledged", *killRounds+recoveries, recoveries, acks.Load())
}

// awaitTick waits, and ends the test if a client failed meanwhile.
func awaitTick(t *testing.T, failed <-chan error, d time.Duration) {
	t.Helper()
	select {
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(d):
	}
}
