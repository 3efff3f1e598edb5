// Package processors decides on how many processors the service runs: on one, or on all
// that it has.
//
// A commit is a chain of hand-overs from one goroutine to the next: the transport's reader,
// the stream's, the bus, whoever answers, the transport's writer. Each has Go's runtime
// wake a thread for the goroutine that is ready now if a processor is idle, which finds,
// as a rule, that the one it was woken for has been run already. In a virtual machine,
// whose processors halt, that is the larger part of the work; on one processor there is
// nobody to wake.
//
// What takes more than the time of one stays on all. Of the rest no measure of load
// tells which is slower on one: 64 connections with a caller each, and one with a
// pipeline, both take nine tenths. So it is tried, now and then, and what carries more
// goes on:
//
//	all  all | one | one  one | all | one  one  one  one | all | one ...
//	           trial            trial                      trial
//	           carries more     carries less               the pauses grow
//
// Who waits for a slow disk in a system call keeps a processor only until the runtime
// notices, within some ten to hundred microseconds under load; a load that suffers from
// that is measured like any other.
package processors

import (
	"os"
	"runtime"
	"time"
)

// A Policy decides by what was carried. It is arithmetic alone, and reads no clock. Its
// zero value knows nothing, and runs on all. It is not safe for concurrent use.
type Policy struct {
	one    bool       // the present way
	rates  [2]float64 // of the ways, all and one, when they last had a turn
	turns  int        // of the present way
	trust  int        // turns that it has before the other is tried
	trial  bool       // the present way is being tried
	paused int        // turns without anything to carry
}

const (
	// gain is by how much one processor has to carry more than all to be worth it:
	// one that carries the same has less to spare.
	gain = 1.03
	// The other way has a turn after firstTrust turns, then twice as many and so on up
	// to maxTrust: where it is the worse one, for a sixty-fifth of the time.
	firstTrust = 2
	maxTrust   = 64
	// change is by how much a turn differs from those before of the same way if the
	// load is another one, of which the trials told nothing.
	change = 0.25
	// memory is how many turns the rate of a way is a mean of.
	memory = 4
	// clearly is how much less one way carries than the other if chance is not the reason:
	// the next trial comes later still.
	clearly = 0.9
	// most is how much of one processor's time a load may take to be tried on one.
	most = 1.0
	// quiet is how many turns in a row carry nothing before all that is known is
	// forgotten. Until then, what comes back is taken for what was there before.
	quiet = 1200
)

// Turn takes in a turn that ended: the rate at which something was carried, 0 for
// nothing, in any unit, and the time of processors that was used, 1 for all of one's. It
// returns whether the next turn is on one processor.
func (p *Policy) Turn(rate, used float64) (one bool) {
	if rate <= 0 {
		if p.paused++; p.paused >= quiet {
			*p = Policy{}
		}
		return p.one
	}
	p.paused = 0
	way := &p.rates[0]
	if p.one {
		way = &p.rates[1]
	}
	p.turns++
	switch other := rate < *way*(1-change) || rate > *way*(1+change); {
	case p.turns == 1:
		*way = rate
	case other:
		*way, p.trust = rate, firstTrust
	default:
		*way += (rate - *way) / memory
	}
	better := p.rates[1] > gain*p.rates[0]
	switch {
	case p.trial && better == p.one: // the one on trial wins, and proves itself soon
		p.trial, p.turns, p.trust = false, 0, firstTrust
	case p.trial:
		grown := 2 * p.trust
		if p.rates[1] < clearly*p.rates[0] || p.rates[0] < clearly*p.rates[1] {
			grown *= 2
		}
		p.one, p.trial, p.turns, p.trust = better, false, 0, min(max(grown, firstTrust), maxTrust)
	case !p.one && used > most:
	case p.turns >= max(p.trust, firstTrust):
		p.one, p.trial, p.turns = !p.one, true, 0
	}
	return p.one
}

// defaultTurn is what the zero value of Options.Turn means.
const defaultTurn = 50 * time.Millisecond

// Options say what is carried.
type Options struct {
	// Carried returns a count that grows with what the service does for its clients,
	// whatever that is. It must be quick, and may be called at any time until Stop has
	// returned. Required.
	Carried func() uint64
	// Turn is how long a turn takes; default 50 ms.
	Turn time.Duration

	set  func(one bool)       // what setTo returns
	used func() time.Duration // used
}

// A Governor decides after every turn.
type Governor struct {
	o    Options
	stop chan struct{}
	done chan struct{}
}

// Start returns a running Governor. Where there is one processor anyway, it changes
// nothing.
func Start(o Options) *Governor {
	if o.Turn == 0 {
		o.Turn = defaultTurn
	}
	if o.set == nil {
		o.set, o.used = setTo(runtime.GOMAXPROCS(0)), used
	}
	g := &Governor{o: o, stop: make(chan struct{}), done: make(chan struct{})}
	go g.run()
	return g
}

// setTo returns what sets the number of processors to one, or to all.
func setTo(all int) func(one bool) {
	_, asked := os.LookupEnv("GOMAXPROCS")
	return func(one bool) {
		switch {
		case one:
			runtime.GOMAXPROCS(1)
		case asked:
			runtime.GOMAXPROCS(all)
		default:
			runtime.SetDefaultGOMAXPROCS() // goes on following the container's share
		}
	}
}

// Stop runs on all processors again and ends the Governor.
func (g *Governor) Stop() {
	close(g.stop)
	<-g.done
}

func (g *Governor) run() {
	defer close(g.done)
	var (
		policy  Policy
		one     bool
		began   = time.Now()
		carried = g.o.Carried()
		used    = g.o.used()
		turn    = time.NewTicker(g.o.Turn)
	)
	defer turn.Stop()
	for {
		select {
		case <-g.stop:
			if one {
				g.o.set(false)
			}
			return
		case <-turn.C:
		}
		now, n, u := time.Now(), g.o.Carried(), g.o.used()
		took := float64(now.Sub(began))
		next := policy.Turn(float64(n-carried)/took, float64(u-used)/took)
		began, carried, used = now, n, u
		if next != one {
			one = next
			g.o.set(one)
		}
	}
}
