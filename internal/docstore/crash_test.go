package docstore

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
)

var stride = flag.Int("docstore.stride", 12, "of the changes that a service can be killed at, take every so many'th")

// script is an engine's day: operations many at a time, checkpoints between them.
// It ends early when the store does.
func (w *world) script(s *Store, rounds int) {
	w.t.Helper()
	var checkpoints sync.WaitGroup
	defer checkpoints.Wait()
	for round := range rounds {
		var flying []*attempt
		for range 8 {
			a, err := w.start(w.t.Context(), s)
			if err != nil {
				break
			}
			flying = append(flying, a)
		}
		for _, a := range flying {
			_ = w.wait(a) // which notes what became of it
		}
		if s.Err() != nil {
			return
		}
		if round%2 == 1 {
			checkpoints.Wait()
			checkpoints.Go(func() { w.checkpoint(s) }) // operations go on
		}
	}
}

// TestServiceIsKilled kills the service, power and all, at one change of its disk
// after the other, while an engine opens, works and makes checkpoints. The engine
// lives on, and nothing of what it was told is untrue.
func TestServiceIsKilled(t *testing.T) {
	t.Parallel()
	for change := 0; ; change += *stride {
		done := false
		if !t.Run(fmt.Sprint(change), func(t *testing.T) {
			w := newWorld(t, uint64(change))
			killed := w.killAt(change)
			s := w.open("node")
			w.script(s, 4)
			select {
			case <-killed:
			default:
				done = true // the script is over before
			}
			if err := s.Err(); err != nil {
				t.Errorf("the store has ended: %v", err)
			}
			s.Close()
			w.check()
		}) || done {
			return
		}
	}
}

// TestServiceIsRestarted stops the service in order, again and again, under an engine,
// which goes on.
func TestServiceIsRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	s := w.open("node")
	var writing sync.WaitGroup
	writing.Go(func() { w.script(s, 60) })
	for range 5 {
		w.progress(s, 10)
		w.drain()
	}
	writing.Wait()
	if err := s.Err(); err != nil {
		t.Errorf("the store has ended: %v", err)
	}
	s.Close()
	w.check()
}

// TestEngineIsKilled kills the engine before and after each of its calls, with
// operations in flight, and opens it again.
func TestEngineIsKilled(t *testing.T) {
	t.Parallel()
	for call := 0; ; call++ {
		done := false
		for _, after := range []bool{false, true} {
			name := fmt.Sprintf("before call %d", call)
			if after {
				name = fmt.Sprintf("after call %d", call)
			}
			if !t.Run(name, func(t *testing.T) {
				w := newWorld(t, uint64(call))
				w.script(w.open("first"), 2)
				l := w.newLine()
				l.dieAt, l.after = call, after
				s, err := w.openOn(l, "node")
				if err == nil {
					var dying sync.WaitGroup
					ended, end := context.WithCancel(context.Background())
					dying.Go(func() {
						select {
						case <-l.dies:
							s.Close()
						case <-ended.Done():
						}
					})
					w.script(s, 2)
					end()
					dying.Wait()
					s.Close()
				}
				select {
				case <-l.dies:
				default:
					done = true
				}
				w.check()
			}) {
				return
			}
		}
		if done {
			return
		}
	}
}

// TestFailover has one store take over from another that is alive and goes on
// writing, again and again, while the service is killed and connections break.
func TestFailover(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.contested = true
	s := w.open("node-0")
	var writing sync.WaitGroup
	for life := range 6 {
		l := w.newLine()
		old := s
		writing.Go(func() { w.script(old, 1000) })
		w.progress(old, 20)
		switch life % 3 {
		case 1:
			w.kill(nil)
		case 2:
			for _, line := range w.lines {
				line.cut()
			}
		}
		var err error
		if s, err = w.openOn(l, fmt.Sprintf("node-%d", life+1)); err != nil {
			t.Fatal(err)
		}
		writing.Wait() // the old one hears of it by itself
		if err := old.Err(); !errors.Is(err, client.ErrFenced) {
			t.Errorf("the one that was fenced ended with %v", err)
		}
		if _, _, err := old.Get(t.Context(), "key-1"); !errors.Is(err, client.ErrFenced) {
			t.Errorf("it reads on: %v", err)
		}
	}
	s.Close()
	w.check()
	if fenced := w.count(func(a *attempt) bool { return a.never }); fenced == 0 {
		t.Error("nobody was fenced")
	}
}

// progress waits until a store has applied some more operations.
func (w *world) progress(s *Store, n client.LSN) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	sh := s.shards[0]
	if err := sh.durable.wait(ctx, s.life, sh.reached()+n); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(is func(*attempt) bool) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.ops {
		if is(a) {
			n++
		}
	}
	return n
}

// TestFencedAndDoesNotKnow: node-a is cut off with an operation that has not left
// it. Node-b takes over and appends: at the same LSN, durably. Node-a comes back and
// must not take that for its own: neither its operation nor its page nor its
// checkpoint lands, and its user is told.
func TestFencedAndDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.newLine()
	a, err := w.openOn(l, "node-a")
	if err != nil {
		t.Fatal(err)
	}
	w.script(a, 2)
	l.part(true)
	var lost []*attempt
	for range 20 {
		op, err := w.start(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		lost = append(lost, op)
	}
	b := w.open("node-b")
	w.script(b, 8)
	for shard := range a.shards {
		if mine, theirs := a.shards[shard].reached(), b.shards[shard].reached(); theirs <= mine {
			t.Fatalf("shard %d: node-b is at LSN %d, node-a at %d: the test tests nothing", shard, theirs, mine)
		}
	}
	before := w.files()
	l.part(false)
	for shard := range a.shards {
		err := errDown
		for passing(err) && !errors.Is(err, client.ErrFenced) { // until it has found back
			_, err = a.Checkpoint(t.Context(), shard)
		}
		if !errors.Is(err, client.ErrFenced) {
			t.Errorf("node-a makes a checkpoint: %v", err)
		}
	}
	for _, op := range lost {
		if err := w.wait(op); !errors.Is(err, client.ErrFenced) && !errors.Is(err, client.ErrAfterRefusal) || errors.Is(err, client.ErrUnknownOutcome) {
			t.Errorf("operation %d of node-a: %v", op.Number, err)
		}
	}
	if after := w.files(); after != before {
		t.Errorf("files before: %s\nand after: %s", before, after)
	}
	w.script(b, 2)
	b.Close()
	w.check()
}

// TestPagesAreHeldBack: an operation comes when a checkpoint has begun, and is not
// durable. So neither is it read nor its user told, and its page does not go to disk,
// however long that takes.
func TestPagesAreHeldBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.newLine()
	s, err := w.openOn(l, "node")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "key", []byte("old")); err != nil {
		t.Fatal(err)
	}
	hangs, lets := make(chan struct{}), make(chan struct{})
	let := sync.OnceFunc(func() { close(lets) })
	t.Cleanup(let)
	ctx, cancel := context.WithCancel(t.Context())
	var commit *Commit
	l.mu.Lock()
	l.onCall = func(method string) {
		if commit != nil || !strings.HasSuffix(method, "/GetCheckpoint") {
			return
		}
		var once sync.Once
		w.faulty.Before(func(op disk.Op) error {
			if op.Kind == disk.OpSync {
				once.Do(func() { close(hangs) })
				<-lets
			}
			return nil
		})
		if commit, err = s.Start(t.Context(), Op{Kind: Put, Key: "key", Doc: []byte("new")}); err != nil {
			t.Error(err)
		}
	}
	l.mu.Unlock()
	shard := ShardOf("key", 2)
	made := make(chan error, 1)
	go func() {
		_, err := s.Checkpoint(ctx, shard)
		made <- err
	}()
	<-hangs
	for held := false; !held; runtime.Gosched() {
		select {
		case err := <-made:
			t.Fatalf("a checkpoint with what is not durable: %v", err)
		default:
		}
		if files := w.files(); files != "" {
			t.Fatalf("a page that has what is not durable: %s", files)
		}
		held = s.shards[shard].durable.awaited()
	}
	cancel()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Errorf("a checkpoint with what is not durable: %v", err)
	}
	if doc, _, _ := s.View(shard).Get("key"); string(doc) != "new" {
		t.Fatalf("it is not applied: %q", doc)
	}
	if doc, _, err := s.Get(ctx, "key"); !errors.Is(err, context.Canceled) {
		t.Errorf("read before it is durable: %q, %v", doc, err)
	}
	if err := commit.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("told before it is durable: %v", err)
	}
	if files := w.files(); files != "" {
		t.Errorf("files: %s", files)
	}
	let()
	if err := commit.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if doc, found, err := s.Get(t.Context(), "key"); string(doc) != "new" || !found || err != nil {
		t.Errorf("%q, %t, %v", doc, found, err)
	}
	if lsn, err := s.Checkpoint(t.Context(), shard); err != nil || lsn != commit.LSN {
		t.Errorf("checkpoint at LSN %d, %v", lsn, err)
	}
}

// TestUnknownOutcome: the service's disk fails under operations, and nobody can say
// what became of them, until the service is back on what the disk has kept.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	outcomes := map[bool]int{}
	for seed := range uint64(8) {
		w := newWorld(t, seed)
		s := w.open("node")
		w.script(s, 2)
		// One that is late has done its work: what was on its way is there.
		w.faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Late: seed%2 == 0})
		var flying []*attempt
		for range 5 {
			a, err := w.start(t.Context(), s)
			if err != nil {
				break
			}
			flying = append(flying, a)
		}
		for _, a := range flying {
			if err := w.wait(a); err == nil {
				t.Error("it landed")
			}
		}
		if err := s.Err(); err == nil {
			t.Error("the store goes on with pages that the log may not have")
		}
		unknown := w.count(func(a *attempt) bool { return a.unknown != nil })
		if unknown == 0 {
			t.Error("nothing is unknown")
		}
		s.Close()
		landed := w.count(func(a *attempt) bool { return a.durable })
		w.kill(nil)
		// It has heard of the disk, too, or is about to, unless the kill was sooner.
		w.replica.Close()
		if err := w.replica.Err(); !errors.Is(err, client.ErrPoisoned) && !errors.Is(err, ErrClosed) {
			t.Errorf("the replica: %v", err)
		}
		w.follow()
		w.check()
		outcomes[w.count(func(a *attempt) bool { return a.durable }) > landed] += unknown
	}
	if outcomes[true] == 0 || outcomes[false] == 0 {
		t.Errorf("of the unknown ones %d turned out to be there, and %d not", outcomes[true], outcomes[false])
	}
}

// TestPagesOfAnotherHistory: the service is restored from a backup that is older than
// the pages. An engine that went on there would have documents that the log denies.
func TestPagesOfAnotherHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	s := w.open("node")
	w.script(s, 3)
	sh := s.shards[0]
	backup := w.disk.CrashClone(w.rng, 0)
	w.script(s, 4)
	state, err := sh.log.Checkpoint(t.Context(), CheckpointName)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	w.replica.Close()
	w.sim.stop()
	w.disk = backup
	w.sim.start()
	// Somebody has kept the checkpoint: what it names is there.
	c, err := client.Open(t.Context(), target, w.newLine().options("", "").Client)
	if err != nil {
		t.Fatal(err)
	}
	defer abandon(c)
	log := c.Log(sh.log.Name())
	info, err := log.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.SetCheckpoint(t.Context(), CheckpointName, info.Durable(), state.State); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), target, w.newLine().options("node", w.dir)); !errors.Is(err, client.ErrDataLoss) {
		t.Errorf("opened: %v", err)
		if err == nil {
			s.Close()
		}
	}
}

// files lists the engines' directory.
func (w *world) files() string {
	w.t.Helper()
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// awaited reports whether somebody waits for the mark.
func (m *mark) awaited() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.grown != nil
}
