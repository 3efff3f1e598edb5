package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/internal/docstore"
)

// A demoService is the service that the demonstration runs on, and kills.
type demoService interface {
	start(ctx context.Context) (recovered string, err error) // returns when it serves, with what recovery found
	kill() error                                             // with SIGKILL; returns when it is gone
	connect(ctx context.Context) (demoConn, error)
	counters(ctx context.Context) (serviceCounters, error) // since it was started
	// passing tells whether an error is one that a killed service explains.
	passing(err error) bool
}

// errTruncated is what a reading ends with if the log was truncated under it: a
// checkpoint that was set lets records go at a time of the service's choosing.
var errTruncated = errors.New("the log was truncated meanwhile")

// A demoConn is one connection to it.
type demoConn interface {
	docstore.WAL
	// read returns the first LSN that a log keeps and everything from there to
	// where it ends now, or errTruncated.
	read(ctx context.Context, log string) (first uint64, records iter.Seq2[docstore.Record, error], err error)
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
	dir      string // of the engine's checkpoint files
	shards   int
	clients  int
	window   int           // operations that a client may have in flight
	kills    int           // of the service
	every    int           // how many of them take the engine along: every so many'th
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
//	engine       follows its logs and tells the ledger what it applies; makes
//	             checkpoints, which let segments be recycled
//	reaper       kills the service, often the engine too, restarts them and
//	             reads every log again, for the ledger to compare
type demo struct {
	demoPlan
	service demoService
	ledger  *ledger
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
	e, err := d.openEngine(ctx)
	if err != nil {
		return tally{}, err
	}
	defer func() { e.crash() }()

	for range d.demoPlan.kills {
		if e, err = d.reap(ctx, e); err != nil {
			return tally{}, err
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
	return d.ledger.tally(), nil
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
	first, records, err := conn.read(ctx, d.engineOptions().LogName(shard))
	if err != nil {
		return err
	}
	r := d.ledger.begin(shard, first, must)
	for record, err := range records {
		if err != nil {
			return err
		}
		r.record(record.LSN, record.Data)
	}
	r.end()
	d.ledger.forget(shard, first)
	return nil
}

func (d *demo) engineOptions() docstore.Options {
	return docstore.Options{Dir: d.dir, Shards: d.shards, Prefix: "docs/"}
}

// An engine is one life of the storage engine, with its clients.
type engine struct {
	d      *demo
	store  *docstore.Store
	conn   demoConn
	cancel context.CancelCauseFunc // ends the life
	ended  context.Context         // done when the life is over, or must be: see its cause

	clients     sync.WaitGroup
	checkpoints sync.WaitGroup
}

// errCrash ends a life on purpose.
var errCrash = errors.New("engine killed")

// openEngine recovers the engine, compares it with the ledger, and lets the
// clients in.
func (d *demo) openEngine(ctx context.Context) (*engine, error) {
	e := &engine{d: d}
	e.ended, e.cancel = context.WithCancelCause(ctx)
	opening, cancel := context.WithTimeoutCause(e.ended, stepLimit, fmt.Errorf("recovery took more than %v", stepLimit))
	defer cancel()
	var err error
	if e.conn, err = d.service.connect(opening); err != nil {
		e.crash()
		return e, fmt.Errorf("open the engine: %w", err)
	}
	o := d.engineOptions()
	readings := make([]*reading, d.shards)
	o.Applied = func(shard int, lsn uint64, record []byte) {
		if readings[shard] == nil { // its first record: the one behind its checkpoint
			readings[shard] = d.ledger.begin(shard, lsn, 0)
		}
		readings[shard].record(lsn, record)
	}
	if e.store, err = docstore.Open(opening, e.conn, o); err != nil {
		e.crash()
		return e, fmt.Errorf("open the engine: %w", err)
	}
	e.compare()
	for range d.demoPlan.clients {
		e.clients.Go(e.client)
	}
	e.checkpoints.Go(e.checkpoint)
	return e, nil
}

// compare compares what the engine has with what the ledger says it should.
func (e *engine) compare() {
	for shard := range e.d.shards {
		v := e.store.View(shard)
		e.d.ledger.compare(shard, v.Applied, v)
	}
}

// crash ends the life: nothing is waited for, nothing written, nothing
// answered, and the memory is gone. It may be called again.
func (e *engine) crash() {
	e.cancel(errCrash)
	e.clients.Wait()
	e.checkpoints.Wait()
	if e.store != nil {
		e.store.Close()
	}
	if e.conn != nil {
		e.conn.close()
	}
	e.store, e.conn = nil, nil
}

// settle waits until the clients, who were told to stop, have an answer to
// everything, and until the engine shows it.
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
	for shard := range e.d.shards {
		ctx, cancel := context.WithTimeoutCause(ctx, stepLimit, fmt.Errorf("the engine did not apply everything within %v", stepLimit))
		err := e.store.Wait(ctx, shard, e.d.ledger.lastAcked(shard))
		cancel()
		if err != nil {
			return err
		}
	}
	e.compare()
	return nil
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
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// checkpoint makes checkpoints, shard after shard. One that the service's
// death interrupts is made up for by the next.
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
		e.d.truncating.Unlock()
		if err != nil && !e.d.service.passing(err) {
			e.cancel(err)
		}
	}
}

// client is one client of the engine, in session after session: one ends when
// the outcome of an append is unknown for good.
func (e *engine) client() {
	for {
		select {
		case <-e.d.sated:
			return
		case <-e.ended.Done():
			return
		default:
		}
		err := e.session()
		switch {
		case err == nil:
		case !e.d.service.passing(err):
			e.cancel(err)
		default:
			select {
			case <-time.After(sessionPause):
			case <-e.ended.Done():
			}
		}
	}
}

// session feeds documents until it is told to stop, and then waits for what is
// in flight; or until an append fails, and returns why.
func (e *engine) session() error {
	ctx, fail := context.WithCancelCause(e.ended)
	defer fail(nil)
	conn, err := e.d.service.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.close()
	id := e.d.sessions.Add(1)
	s, err := e.store.NewSession(ctx, conn, id)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(e.d.seed, id+1))
	window := make(chan struct{}, e.d.window)
	for {
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case <-e.d.sated:
			<-window // this turn is not taken
			for range cap(window) {
				select {
				case window <- struct{}{}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		default:
		}
		e.d.turnstile.RLock()
		n := e.d.next.Add(1) - 1
		e.d.turnstile.RUnlock()
		doc := int(n % uint64(len(e.d.docs)))
		kind, bytes := docstore.Put, e.d.docs[doc].doc
		if n >= uint64(len(e.d.docs)) && random.IntN(16) == 0 { // in later rounds there is something to delete
			kind, bytes = docstore.Delete, nil
		}
		p := s.Prepare(kind, e.d.docs[doc].key, bytes)
		entry := e.d.ledger.submit(id, p, kind, doc)
		p.Start(ctx, func(lsn uint64, err error) {
			if err != nil {
				e.d.ledger.abandon(entry)
				fail(err)
			} else {
				e.d.ledger.ack(p.Shard, entry, lsn)
			}
			<-window
		})
	}
}
