package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/docstore"
)

// A demoService is the service that the demonstration runs on, and kills.
type demoService interface {
	start(ctx context.Context) (recovered string, err error) // returns when it serves, with what recovery found
	kill() error                                             // with SIGKILL; returns when it is gone
	target() string                                          // for client.Open; the same for all its lives
	connect(ctx context.Context) (demoConn, error)           // for the audit
	counters(ctx context.Context) (serviceCounters, error)   // since it was started
	// passing tells whether an error is one that a killed service explains.
	passing(err error) bool
}

// errTruncated is what a reading ends with if the log was truncated under it: a
// checkpoint that was set lets records go at a time of the service's choosing.
var errTruncated = errors.New("the log was truncated meanwhile")

// A demoConn is one connection to it.
type demoConn interface {
	// read returns the first LSN that a log keeps and everything from there to
	// where it ends now, or errTruncated.
	read(ctx context.Context, log string) (first client.LSN, records iter.Seq2[client.Record, error], err error)
	close()
}

// serviceCounters are what the service counts from its start on.
type serviceCounters struct {
	records, syncs, rawBytes, storedBytes, rolls, recycles uint64
}

func (c *serviceCounters) add(o serviceCounters) {
	c.records += o.records
	c.syncs += o.syncs
	c.rawBytes += o.rawBytes
	c.storedBytes += o.storedBytes
	c.rolls += o.rolls
	c.recycles += o.recycles
}

// demoPlan is what is to be done.
type demoPlan struct {
	docs     []docEntry
	dir      string // of the engine's pages, and the replica's
	shards   int
	clients  int
	window   int           // operations that a client may have in flight
	kills    int           // of the service
	every    int           // every so many'th of them takes the engine along, and is followed by a failover
	duration time.Duration // that kills are spread over
	rounds   int           // through the documents; 0 means as many as fit the duration
	seed     uint64
}

// stepLimit bounds each step that waits for the service: what takes longer has
// hung, and an endless demonstration would not tell.
const stepLimit = 30 * time.Second

// checkpointInterval is how long after one checkpoint the engine makes the
// next one, shard after shard.
const checkpointInterval = 150 * time.Millisecond

// sessionPause is how long a client waits before a session that takes the
// place of a failed one.
const sessionPause = 10 * time.Millisecond

// A demo is one run.
//
//	clients      put documents, many in flight each, and tell the ledger what
//	             they submit and what is acknowledged
//	engine       has the documents; makes checkpoints, which let segments be recycled
//	replica      follows the engine's logs and tells the ledger what it reads; its
//	             cursors hold back what it has not read yet
//	reaper       kills the service, often the engine too, restarts them and
//	             reads every log again, for the ledger to compare; and has another
//	             engine take over from one that is alive and writes
type demo struct {
	demoPlan
	service demoService
	ledger  *ledger
	replica *docstore.Replica
	say     func(format string, args ...any) // what happened, for people
	random  *rand.Rand                       // of the reaper

	began    time.Time
	next     atomic.Uint64 // the operation that a client takes next
	sessions atomic.Uint64 // ids given away
	sated    chan struct{} // closed when clients shall stop

	// truncating is held by whoever truncates logs or reads them from their
	// beginning, so that a reading seldom loses its place.
	truncating sync.Mutex
	// turnstile is passed by every operation and held while logs are read: what
	// is in flight goes on, but on a slow machine nothing new piles up meanwhile.
	turnstile sync.RWMutex

	kills, engineKills int
	inFlightAtKills    int
	fewestInFlight     int
	failovers          int
	engines            int // lives of engines
	counted            serviceCounters
}

func newDemo(plan demoPlan, service demoService, say func(string, ...any)) *demo {
	return &demo{
		demoPlan: plan,
		service:  service,
		ledger:   newLedger(plan.shards, plan.docs),
		say:      say,
		random:   rand.New(rand.NewPCG(plan.seed, 1)),
		sated:    make(chan struct{}),
	}
}

// run performs the demonstration. A tally that is not ok is no error; an error
// is what kept the demonstration from finding out.
func (d *demo) run(ctx context.Context) (tally, error) {
	d.began = time.Now()
	if _, err := d.within(ctx, d.service.start); err != nil {
		return tally{}, err
	}
	if err := d.follow(ctx); err != nil {
		return tally{}, err
	}
	defer d.replica.Close()
	e, err := d.openEngine(ctx)
	if err != nil {
		return tally{}, err
	}
	defer func() { e.crash() }()

	for range d.demoPlan.kills {
		if e, err = d.reap(ctx, e); err != nil {
			return tally{}, err
		}
		if d.every > 0 && d.kills%d.every == 1%d.every {
			if e, err = d.failover(ctx, e); err != nil {
				return tally{}, err
			}
		}
	}
	if err := d.fed(ctx, e); err != nil {
		return tally{}, err
	}

	// Let everything in flight settle; then end the service and the engine once
	// more, so that the last acknowledgement too has to survive that, and what is
	// compared is what recovery made. This kill finds nothing in flight and is not
	// counted.
	close(d.sated)
	if err := e.settle(ctx); err != nil {
		return tally{}, err
	}
	counters, err := d.service.counters(ctx)
	if err != nil {
		return tally{}, err
	}
	d.counted.add(counters)
	if err := d.service.kill(); err != nil {
		return tally{}, fmt.Errorf("kill the service: %w", err)
	}
	e.crash()
	d.engineKills++
	if _, err := d.within(ctx, d.service.start); err != nil {
		return tally{}, err
	}
	if e, err = d.openEngine(ctx); err != nil {
		return tally{}, err
	}
	if err := d.audit(ctx); err != nil {
		return tally{}, err
	}
	for shard := range d.shards { // openEngine waited for it
		v := d.replica.View(shard)
		d.ledger.compare(shard, uint64(v.Applied), v)
	}
	return d.ledger.tally(), nil
}

// follow opens the replica, which lives as long as the demonstration.
func (d *demo) follow(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stepLimit, fmt.Errorf("it took more than %v", stepLimit))
	defer cancel()
	readings := make([]*reading, d.shards)
	for shard := range readings {
		readings[shard] = d.ledger.begin(shard, 1, 0)
	}
	o := d.engineOptions("replica")
	o.Applied = func(shard int, lsn client.LSN, record []byte) { readings[shard].record(uint64(lsn), record) }
	if d.replica, err = docstore.Follow(ctx, d.service.target(), o); err != nil {
		return fmt.Errorf("open the replica: %w", err)
	}
	return nil
}

// failover has another engine take over from one that is alive: its clients go on,
// until they hear that it was fenced.
func (d *demo) failover(ctx context.Context, old *engine) (*engine, error) {
	old.replaced.Store(true)
	refused := d.ledger.refusedSoFar()
	began := time.Now()
	e, err := d.openEngine(ctx)
	if err != nil {
		old.crash()
		return e, err
	}
	took := time.Since(began)
	select {
	case <-old.store.Done():
	case <-time.After(stepLimit):
		err = fmt.Errorf("the engine that was fenced does not hear of it in %v", stepLimit)
	}
	old.crash()
	if err != nil {
		return e, err
	}
	if err := d.audit(ctx); err != nil {
		return e, err
	}
	d.failovers++
	d.say("failover %d: %s took over in %v from %s, which lived and wrote: %s of its appends were refused",
		d.failovers, e.name, round(took), old.name, grouped(d.ledger.refusedSoFar()-refused))
	return e, nil
}

// fed waits until the documents were fed as long, or as often, as planned.
func (d *demo) fed(ctx context.Context, e *engine) error {
	return e.until(ctx, func() bool {
		if d.rounds > 0 {
			return d.next.Load() >= uint64(d.rounds*len(d.docs))
		}
		return time.Since(d.began) >= d.duration
	})
}

// reap waits for a random moment with appends in flight, kills the service,
// and every so often the engine, restarts what was killed and checks.
func (d *demo) reap(ctx context.Context, e *engine) (*engine, error) {
	left := d.duration - time.Since(d.began)
	pause := time.Duration(float64(left) / float64(d.demoPlan.kills-d.kills+1) * (0.5 + d.random.Float64()))
	at := time.Now().Add(pause)
	before := d.ledger.ackedSoFar()
	for {
		var mark uint64
		limit := time.Now().Add(max(pause, 0) + stepLimit)
		err := e.until(ctx, func() bool {
			if time.Now().After(limit) {
				return true
			}
			var n int
			n, mark = d.ledger.inFlight()
			return time.Now().After(at) && n > 0 && d.ledger.ackedSoFar() > before
		})
		if err != nil {
			return e, err
		}
		if d.ledger.ackedSoFar() == before {
			return e, fmt.Errorf("no append was acknowledged for %v", stepLimit)
		}
		counters, err := d.service.counters(ctx)
		if err != nil {
			return e, err
		}
		_, mark = d.ledger.inFlight()
		if err := d.service.kill(); err != nil {
			return e, fmt.Errorf("kill the service: %w", err)
		}
		d.counted.add(counters)
		inFlight := d.ledger.inFlightSince(mark)

		both := inFlight > 0 && d.every > 0 && (d.kills+1)%d.every == 0
		if both {
			e.crash()
			d.engineKills++
		}
		down := time.Now()
		recovered, err := d.within(ctx, d.service.start)
		if err != nil {
			return e, err
		}
		took := time.Since(down)
		if both {
			if e, err = d.openEngine(ctx); err != nil {
				return e, err
			}
		}
		if err := d.audit(ctx); err != nil {
			return e, err
		}
		if inFlight == 0 {
			continue // everything had been answered by the time the process was gone: not what was asked for
		}
		d.kills++
		d.inFlightAtKills += inFlight
		if d.fewestInFlight == 0 || inFlight < d.fewestInFlight {
			d.fewestInFlight = inFlight
		}
		who := "service"
		if both {
			who = "service and engine"
		}
		d.say("kill %d of %d: %s, %s appends in flight; serving again after %v: %s",
			d.kills, d.demoPlan.kills, who, grouped(uint64(inFlight)), round(took), recovered)
		return e, nil
	}
}

// within bounds a step of the service.
func (d *demo) within(ctx context.Context, step func(context.Context) (string, error)) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stepLimit, fmt.Errorf("it took more than %v", stepLimit))
	defer cancel()
	return step(ctx)
}

// audit reads every log from its beginning to its end, over a connection of
// its own, and lets the ledger compare.
func (d *demo) audit(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stepLimit, fmt.Errorf("reading took more than %v", stepLimit))
	defer cancel()
	conn, err := d.service.connect(ctx)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer conn.close()
	d.turnstile.Lock()
	defer d.turnstile.Unlock()
	d.truncating.Lock()
	defer d.truncating.Unlock()
	for shard := range d.shards {
		err := errTruncated
		for errors.Is(err, errTruncated) {
			err = d.auditLog(ctx, conn, shard)
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
	}
	return nil
}

func (d *demo) auditLog(ctx context.Context, conn demoConn, shard int) error {
	must := d.ledger.lastAcked(shard) // before the service is asked how far the log goes
	first, records, err := conn.read(ctx, d.engineOptions("").LogName(shard))
	if err != nil {
		return err
	}
	r := d.ledger.begin(shard, uint64(first), must)
	for record, err := range records {
		if err != nil {
			return err
		}
		r.record(uint64(record.LSN), record.Data)
	}
	r.end()
	d.ledger.forget(shard, uint64(first))
	return nil
}

// engineOptions are those of an engine, or of the replica, by name: the engines
// share a directory, as those of a cluster share a disk.
func (d *demo) engineOptions(name string) docstore.Options {
	dir := "engine"
	if name == "replica" {
		dir = name
	}
	return docstore.Options{Dir: filepath.Join(d.dir, dir), Name: name, Shards: d.shards, Prefix: "docs/"}
}

// An engine is one life of the storage engine, with its clients.
type engine struct {
	d        *demo
	name     string
	store    *docstore.Store
	cancel   context.CancelCauseFunc // ends the life
	ended    context.Context         // done when the life is over, or must be: see its cause
	replaced atomic.Bool             // another one takes over, or has

	clients     sync.WaitGroup
	checkpoints sync.WaitGroup
}

// errCrash ends a life on purpose.
var errCrash = errors.New("engine killed")

// openEngine opens an engine, compares it with the ledger, and lets the clients in.
func (d *demo) openEngine(ctx context.Context) (*engine, error) {
	d.engines++
	e := &engine{d: d, name: fmt.Sprintf("node-%d", d.engines)}
	e.ended, e.cancel = context.WithCancelCause(ctx)
	opening, cancel := context.WithTimeoutCause(e.ended, stepLimit, fmt.Errorf("recovery took more than %v", stepLimit))
	defer cancel()
	var err error
	o := d.engineOptions(e.name)
	readings := make([]*reading, d.shards)
	o.Applied = func(shard int, lsn client.LSN, record []byte) {
		if readings[shard] == nil { // its first record: the one behind its checkpoint
			readings[shard] = d.ledger.begin(shard, uint64(lsn), 0)
		}
		readings[shard].record(uint64(lsn), record)
	}
	if e.store, err = docstore.Open(opening, d.service.target(), o); err == nil {
		err = e.compare(opening)
	}
	if err != nil {
		e.crash()
		return e, fmt.Errorf("open the engine: %w", err)
	}
	for range d.demoPlan.clients {
		e.clients.Go(e.client)
	}
	e.checkpoints.Go(e.checkpoint)
	return e, nil
}

// compare compares what the engine has with what the ledger says it should, once
// the replica has read as much.
func (e *engine) compare(ctx context.Context) error {
	for shard := range e.d.shards {
		v := e.store.View(shard)
		if err := e.d.replica.Wait(ctx, shard, v.Applied); err != nil {
			return fmt.Errorf("the replica: %w", err)
		}
		e.d.ledger.compare(shard, uint64(v.Applied), v)
	}
	return nil
}

// crash ends the life: nothing is waited for, nothing written, nothing
// answered, and the memory is gone. It may be called again.
func (e *engine) crash() {
	e.cancel(errCrash)
	if e.store != nil {
		e.store.Close()
	}
	e.clients.Wait()
	e.checkpoints.Wait()
}

// settle waits until the clients, who were told to stop, have an answer to
// everything, and compares.
func (e *engine) settle(ctx context.Context) error {
	settled := make(chan struct{})
	go func() {
		e.clients.Wait()
		close(settled)
	}()
	limit := time.NewTimer(stepLimit)
	defer limit.Stop()
	select {
	case <-settled:
	case <-limit.C:
		n, _ := e.d.ledger.inFlight()
		return fmt.Errorf("%d appends have no answer after %v", n, stepLimit)
	case <-e.ended.Done():
		return context.Cause(e.ended)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stepLimit, fmt.Errorf("the replica did not get everything within %v", stepLimit))
	defer cancel()
	return e.compare(ctx)
}

// until waits until a condition holds, and returns an error if the engine's
// life ends first.
func (e *engine) until(ctx context.Context, condition func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-e.ended.Done():
			return context.Cause(e.ended)
		case <-e.d.replica.Done():
			return fmt.Errorf("the replica: %w", e.d.replica.Err())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// checkpoint makes checkpoints, shard after shard, and has the replica save. One
// that the service's death interrupts is made up for by the next.
func (e *engine) checkpoint() {
	tick := time.NewTicker(checkpointInterval)
	defer tick.Stop()
	for shard := 0; ; shard = (shard + 1) % e.d.shards {
		select {
		case <-tick.C:
		case <-e.ended.Done():
			return
		}
		e.d.truncating.Lock()
		_, err := e.store.Checkpoint(e.ended, shard)
		e.fail(err)
		_, err = e.d.replica.Save(e.ended, shard)
		e.fail(err)
		e.d.truncating.Unlock()
	}
}

// fail ends the life for an error that nothing explains which was done on purpose.
func (e *engine) fail(err error) {
	if err != nil && !e.d.service.passing(err) && !e.replaced.Load() {
		e.cancel(err)
	}
}

// client is one client of the engine, in session after session: one ends when
// an operation fails.
func (e *engine) client() {
	for {
		select {
		case <-e.d.sated:
			return
		case <-e.store.Done():
			e.fail(e.store.Err())
			return
		case <-e.ended.Done():
			return
		default:
		}
		if err := e.session(); err != nil {
			e.fail(err)
			select {
			case <-time.After(sessionPause):
			case <-e.ended.Done():
			}
		}
	}
}

// session feeds documents until it is told to stop, or until one fails, and then
// waits for what is in flight. Its operations take effect, within a shard, in their
// order, and none without those before it.
func (e *engine) session() error {
	ctx, fail := context.WithCancelCause(e.ended)
	defer fail(nil)
	id := e.d.sessions.Add(1)
	numbers := make([]uint64, e.d.shards)
	random := rand.New(rand.NewPCG(e.d.seed, id+1))

	type flight struct {
		entry  *entry
		commit *docstore.Commit
	}
	flying := make(chan flight, e.d.window)
	var landing sync.WaitGroup
	landing.Go(func() {
		for f := range flying {
			// Not bounded by ctx: each has a verdict, if only that the store is closed.
			if err := f.commit.Wait(context.WithoutCancel(ctx)); err != nil {
				e.d.ledger.settle(f.entry, errors.Is(err, client.ErrUnknownOutcome))
				fail(err)
			} else {
				e.d.ledger.ack(f.commit.Shard, f.entry, uint64(f.commit.LSN))
			}
		}
	})
	defer landing.Wait()
	defer close(flying)
	for {
		select {
		case <-e.d.sated:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		e.d.turnstile.RLock()
		n := e.d.next.Add(1) - 1
		e.d.turnstile.RUnlock()
		doc := int(n % uint64(len(e.d.docs)))
		op := docstore.Op{Kind: docstore.Put, Session: id, Key: e.d.docs[doc].key, Doc: e.d.docs[doc].doc}
		if n >= uint64(len(e.d.docs)) && random.IntN(16) == 0 { // in later rounds there is something to delete
			op.Kind, op.Doc = docstore.Delete, nil
		}
		shard := docstore.ShardOf(op.Key, e.d.shards)
		numbers[shard]++
		op.Number = numbers[shard]
		entry := e.d.ledger.submit(shard, op, doc)
		commit, err := e.store.Start(ctx, op)
		if err != nil {
			e.d.ledger.settle(entry, false)
			return err
		}
		flying <- flight{entry, commit}
	}
}
