package wal

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

var crashSeed = flag.Uint64("crash.seed", 1, "seed of the crash test's workloads and cuts")

// A crashHistory is what clients of a volume did and heard, in order: the least
// and the most that a volume cut at some moment may hold.
type crashHistory struct {
	mu     sync.Mutex
	events []crashEvent
	batch  int
}

// A crashEvent is something submitted, or its acknowledgement.
type crashEvent struct {
	acked   bool
	log     string
	records []string // of an append
	first   LSN      // of an append's ack; of a truncation
	cp      *Checkpoint
	trunc   bool
	create  bool
}

func (h *crashHistory) add(e crashEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *crashHistory) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.events)
}

func (h *crashHistory) prefix(n int) []crashEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[:n:n]
}

// newBatch makes records that no other batch has.
func (h *crashHistory) newBatch(rng *rand.Rand) []string {
	h.mu.Lock()
	h.batch++
	id := h.batch
	h.mu.Unlock()
	recs := make([]string, 1+rng.IntN(4))
	for i := range recs {
		size := rng.IntN(200)
		if rng.IntN(20) == 0 {
			size = rng.IntN(9000)
		}
		recs[i] = fmt.Sprintf("%d/%d/%d/%s", id, i, len(recs), bytes.Repeat([]byte{'a' + byte(id%26)}, size))
	}
	return recs
}

// expect is what a history says of one log.
type expect struct {
	created                bool
	acked                  map[LSN]string
	submitted              map[string]bool
	truncAcked, truncAsked LSN
	cpAcked                Checkpoint
	cpAsked                map[uint64]Checkpoint // by LSN, since versions are given by the volume
	floorAsked             LSN
}

func expectations(sure, possible []crashEvent) map[string]*expect {
	m := map[string]*expect{}
	get := func(log string) *expect {
		if m[log] == nil {
			m[log] = &expect{acked: map[LSN]string{}, submitted: map[string]bool{}, cpAsked: map[uint64]Checkpoint{}}
		}
		return m[log]
	}
	for _, e := range possible {
		x := get(e.log)
		if e.acked {
			continue
		}
		for _, r := range e.records {
			x.submitted[r] = true
		}
		switch {
		case e.trunc:
			x.truncAsked = max(x.truncAsked, e.first)
		case e.cp != nil:
			x.cpAsked[uint64(e.cp.LSN)] = *e.cp
			x.floorAsked = max(x.floorAsked, e.cp.LSN+1)
		}
	}
	for _, e := range sure {
		x := get(e.log)
		if !e.acked {
			continue
		}
		for i, r := range e.records {
			x.acked[e.first+LSN(i)] = r
		}
		switch {
		case e.create:
			x.created = true
		case e.trunc:
			x.truncAcked = max(x.truncAcked, e.first)
		case e.cp != nil && e.cp.Version > x.cpAcked.Version:
			x.cpAcked = *e.cp
		}
	}
	return m
}

// verifyVolume checks that a volume holds no less than what is sure and no more
// than what is possible: a gapless prefix of whole batches.
func verifyVolume(v *Volume, sure, possible []crashEvent) error {
	if r := v.Recovery(); r.Verdict == "damaged" {
		return fmt.Errorf("recovery calls a crash damage: %+v", r)
	}
	for log, x := range expectations(sure, possible) {
		info, err := v.Log(log)
		if errors.Is(err, ErrLogNotFound) && !x.created {
			continue
		}
		if err != nil {
			return err
		}
		if info.First < max(x.truncAcked, 1) || info.First > max(x.truncAsked, x.floorAsked, 1) {
			return fmt.Errorf("log %q begins at %d: acknowledged %d, asked %d, floor %d", log, info.First, x.truncAcked, x.truncAsked, x.floorAsked)
		}
		got, err := readSpan(v, log, info.First)
		for errors.Is(err, ErrLSNTruncated) { // the janitor is at work
			if info, err = v.Log(log); err == nil {
				got, err = readSpan(v, log, info.First)
			}
		}
		if err != nil {
			return err
		}
		if LSN(len(got)) != info.Next-info.First {
			return fmt.Errorf("log %q has %d records from %d, not up to %d", log, len(got), info.First, info.Next)
		}
		seen := map[int]bool{}
		lastBatch, next, of := 0, 0, 0
		for i, r := range got {
			if !x.submitted[r] {
				return fmt.Errorf("log %q LSN %d: %.40q was never submitted", log, info.First+LSN(i), r)
			}
			var batch, idx, n int
			if _, err := fmt.Sscanf(r, "%d/%d/%d/", &batch, &idx, &n); err != nil {
				return fmt.Errorf("log %q LSN %d: %.40q: %w", log, info.First+LSN(i), r, err)
			}
			switch {
			case batch == lastBatch && idx == next:
			case next == of && idx == 0 && !seen[batch], i == 0:
			default:
				return fmt.Errorf("log %q LSN %d: record %d of batch %d behind %d of batch %d of %d", log, info.First+LSN(i), idx, batch, next, lastBatch, of)
			}
			seen[batch] = true
			lastBatch, next, of = batch, idx+1, n
		}
		if next != of {
			return fmt.Errorf("log %q ends within batch %d", log, lastBatch)
		}
		for lsn, r := range x.acked {
			if lsn < info.First {
				continue
			}
			if lsn >= info.Next {
				return fmt.Errorf("log %q LOST acknowledged LSN %d: it ends at %d", log, lsn, info.Next-1)
			}
			if got[lsn-info.First] != r {
				return fmt.Errorf("log %q LSN %d is %.40q, acknowledged was %.40q", log, lsn, got[lsn-info.First], r)
			}
		}
		if err := verifyCheckpoint(v, log, x); err != nil {
			return err
		}
	}
	return nil
}

func verifyCheckpoint(v *Volume, log string, x *expect) error {
	cp, err := v.Checkpoint(context.Background(), log, "cp")
	switch {
	case errors.Is(err, ErrCheckpointNotFound) && x.cpAcked.Version == 0:
		return nil
	case err != nil:
		return err
	case cp.Version < x.cpAcked.Version || cp.LSN < x.cpAcked.LSN:
		return fmt.Errorf("log %q: checkpoint at LSN %d version %d, acknowledged was %d version %d", log, cp.LSN, cp.Version, x.cpAcked.LSN, x.cpAcked.Version)
	}
	if want, ok := x.cpAsked[uint64(cp.LSN)]; !ok || !bytes.Equal(want.State, cp.State) {
		return fmt.Errorf("log %q: checkpoint at LSN %d has a state nobody gave it", log, cp.LSN)
	}
	return nil
}

// readSpan returns every record of a log from an LSN on.
func readSpan(v *Volume, log string, from LSN) (out []string, err error) {
	r, err := v.NewReader(log, ReadOptions{From: from})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		span, err := r.Next(context.Background())
		if err != nil {
			if err.Error() == "EOF" {
				return out, nil
			}
			return nil, err
		}
		recs, err := split(span.Run)
		if err != nil {
			return nil, err
		}
		out = append(out, recs...)
	}
}

// A crasher cuts the power before every operation of a volume and has what is
// left verified.
type crasher struct {
	t    *testing.T
	mem  *disk.Mem
	hist *crashHistory
	mu   sync.Mutex
	rng  *rand.Rand
	cuts chan crashCut
}

type crashCut struct {
	mem            *disk.Mem
	sure, possible int
	op             disk.Op
	seed           uint64
	depth          int
}

// before is called before every operation.
func (c *crasher) before(op disk.Op) error {
	switch op.Kind {
	case disk.OpRead, disk.OpList, disk.OpFree, disk.OpSize, disk.OpOpen, disk.OpClose, disk.OpLock, disk.OpUnlock:
		return nil // nothing changed since the operation before
	}
	sure := c.hist.len()
	c.mu.Lock()
	seed := c.rng.Uint64()
	c.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 0))
	clone := c.mem.CrashClone(rng, []float64{0, 0.3, 0.5, 0.9, 1}[rng.IntN(5)])
	c.cuts <- crashCut{mem: clone, sure: sure, possible: c.hist.len(), op: op, seed: seed}
	return nil
}

// TestCrash runs random workloads of concurrent clients, cuts the power before
// every operation that changes the disk, and reopens each of the disks that are
// left; some of them are cut again while they recover.
func TestCrash(t *testing.T) {
	rounds, depth := 2, 2
	if testing.Short() {
		rounds = 1
	}
	counts := map[string]int{}
	var countMu sync.Mutex
	var states atomic.Int64
	for round := range rounds {
		seed := *crashSeed + uint64(round)*1000
		mem := disk.NewMem()
		hist := &crashHistory{}
		c := &crasher{t: t, mem: mem, hist: hist, rng: rand.New(rand.NewPCG(seed, 1)), cuts: make(chan crashCut, 64)}
		var verifiers sync.WaitGroup
		for range 2 {
			verifiers.Go(func() {
				for cut := range c.cuts {
					verifyCut(t, hist, cut, depth, func(r Recovery) {
						states.Add(1)
						countMu.Lock()
						counts[r.Case]++
						countMu.Unlock()
					})
				}
			})
		}
		faulty := disk.NewFaulty(mem)
		faulty.Before(c.before)
		crashWorkload(t, faulty, hist, seed)
		close(c.cuts)
		verifiers.Wait()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d crash states; cases %v", states.Load(), counts)
	for _, name := range []string{"clean", "unpromised"} {
		if counts[name] == 0 {
			t.Errorf("case %q never came up", name)
		}
	}
}

// crashWorkload runs clients against a volume on fs, twice, with a reopening between.
func crashWorkload(t *testing.T, fs disk.FS, hist *crashHistory, seed uint64) {
	for range 2 {
		o := testOptions(fs)
		o.Codec = []string{"none", "s2", "zstd"}[seed%3]
		v, err := Open(context.Background(), "/vol", o)
		if err != nil {
			t.Errorf("open: %v", err)
			return
		}
		logs := []string{"a", "b", "c"}
		for _, log := range logs {
			hist.add(crashEvent{log: log, create: true})
			mustCreate(t, v, log)
			hist.add(crashEvent{log: log, create: true, acked: true})
		}
		var clients sync.WaitGroup
		for n := range 4 {
			seed++
			rng := rand.New(rand.NewPCG(seed, uint64(n)))
			clients.Go(func() { crashClient(t, v, hist, rng, logs, n == 0) })
		}
		clients.Wait()
		closeTest(t, v)
	}
}

func crashClient(t *testing.T, v *Volume, hist *crashHistory, rng *rand.Rand, logs []string, admin bool) {
	ctx := context.Background()
	for range 30 {
		log := logs[rng.IntN(len(logs))]
		if admin && rng.IntN(3) == 0 {
			info, err := v.Log(log)
			if err != nil {
				t.Errorf("log: %v", err)
				return
			}
			switch rng.IntN(3) {
			case 0:
				first := info.First + LSN(rng.IntN(int(info.Next-info.First)+1))
				hist.add(crashEvent{log: log, trunc: true, first: first})
				if _, err = v.Truncate(ctx, log, first); err == nil {
					hist.add(crashEvent{log: log, trunc: true, first: first, acked: true})
				}
			default:
				lsn := info.First - 1 + LSN(rng.IntN(int(info.Next-info.First)+1))
				cp := Checkpoint{Name: "cp", LSN: lsn, State: []byte(fmt.Sprintf("state at %d of %s", lsn, log))}
				hist.add(crashEvent{log: log, cp: &cp})
				var set Checkpoint
				if set, err = v.SetCheckpoint(ctx, log, cp, nil); err == nil {
					hist.add(crashEvent{log: log, cp: &set, acked: true})
				}
			}
			if err != nil && !errors.Is(err, ErrHeld) && !errors.Is(err, ErrCheckpointBackwards) && !errors.Is(err, ErrLSNTruncated) {
				t.Errorf("admin: %v", err)
				return
			}
			continue
		}
		recs := hist.newBatch(rng)
		hist.add(crashEvent{log: log, records: recs})
		got, err := v.Append(ctx, log, ulid.ULID{}, 0, Batch{Run: run(recs...)})
		if err != nil {
			t.Errorf("append: %v", err)
			return
		}
		hist.add(crashEvent{log: log, records: recs, first: got.First, acked: true})
	}
}

// verifyCut reopens what a crash left, checks it, appends to it, and for some
// cuts the power again while that goes on.
func verifyCut(t *testing.T, hist *crashHistory, cut crashCut, depth int, count func(Recovery)) {
	sure, possible := hist.prefix(cut.sure), hist.prefix(cut.possible)
	fail := func(err error) {
		t.Errorf("cut before %s, seed %d, depth %d: %v", cut.op, cut.seed, cut.depth, err)
	}
	var fs disk.FS = cut.mem
	var again []crashCut
	var mu sync.Mutex
	if rng := rand.New(rand.NewPCG(cut.seed, 2)); cut.depth < depth && rng.IntN(60) == 0 {
		faulty := disk.NewFaulty(cut.mem)
		faulty.Before(func(op disk.Op) error {
			if op.Kind == disk.OpWrite || op.Kind == disk.OpSync || op.Kind == disk.OpRename || op.Kind == disk.OpSyncDir || op.Kind == disk.OpRemove {
				mu.Lock()
				defer mu.Unlock()
				seed := cut.seed + 1 + uint64(len(again))
				rng := rand.New(rand.NewPCG(seed, 3))
				clone := cut.mem.CrashClone(rng, []float64{0, 0.5, 1}[rng.IntN(3)])
				again = append(again, crashCut{mem: clone, sure: cut.sure, possible: cut.possible, op: op, seed: seed, depth: cut.depth + 1})
			}
			return nil
		})
		fs = faulty
	}
	o := testOptions(fs)
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		fail(err)
		return
	}
	count(v.Recovery())
	if err := verifyVolume(v, sure, possible); err != nil {
		fail(fmt.Errorf("%w; recovery %+v", err, v.Recovery()))
	}
	// The volume goes on: what it takes now is there after another opening, and
	// so is everything it showed.
	if err := v.Close(); err != nil {
		fail(err)
		return
	}
	state := v.durable.Hash() // now that the janitor is done with it
	// Before there is a janitor again that changes what is looked at.
	switch left, _, err := recovered(cut.mem); {
	case err != nil:
		fail(fmt.Errorf("look at what is left: %w", err))
		return
	case left.Hash() != state:
		fail(errors.New("what is left shows another state"))
	}
	if v, err = Open(context.Background(), "/vol", testOptions(cut.mem)); err != nil {
		fail(fmt.Errorf("second open: %w", err))
		return
	}
	if err := verifyVolume(v, sure, possible); err != nil {
		fail(fmt.Errorf("second open: %w", err))
	}
	if err := v.Close(); err != nil {
		fail(err)
	}
	for _, c := range again {
		verifyCut(t, hist, c, depth, count)
	}
}
