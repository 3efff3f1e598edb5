// Package gather decides how long what is next to leave waits for those who have
// just been told that what they brought has landed. Callers that each wait for
// their own append come in two halves otherwise: one rides while the other
// boards, each half has a ride to itself, for ever, and two rides carry what one
// could.
//
// It happens twice on the way of an append. In the client the ride is a message
// and its acknowledgement: while one half's is under way, the other half gathers
// behind it. In the service it is a frame and its sync, if the halves come on
// several streams. Whoever holds the ride back for one place only finds that
// the other one still splits it.
//
// It is arithmetic alone: it is told times, in nanoseconds, and how many are on
// board, and reads no clock.
package gather

// A Policy is about one place where rides begin, one after the other. Its zero
// value knows nothing yet. It is not safe for concurrent use.
//
// With n on board, a ride that takes S, and t since the last landing, leaving now
// carries n in S+t. Waiting raises that rate as long as boarders come faster than
// n/(S+t). So they are counted over an eighth of S at a time, and a wait ends as
// soon as fewer came than that, with a margin for chance; when everybody is back
// who could be; and after half of S in any case.
//
// That a wait was right for one ride does not tell what it did to the next
// ones. So whether to wait at all is measured: a turn of rides with, a turn
// without, and the way that carries more riders in its time goes on, until it no
// longer does or it is time to try the other again. Callers that are too far
// away, too slow for the ride, or do not wait for what they append, are found
// out like that, whatever the reason.
type Policy struct {
	service float64 // nanoseconds that a ride takes: a fading mean

	waits  bool       // the present way
	rides  int        // landed in the present turn
	riders float64    // told in it
	time   float64    // that it took
	rates  [2]float64 // of the last turn without and with, riders for a nanosecond
	turns  int        // of the present way
	trust  int        // turns it has before the other is tried: more whenever it stood the trial
	trial  bool       // the present way is being tried

	// The last landing, and the present wait. Times are nanoseconds since the landing.
	before int // on board
	all    int // they, and everybody who was told
	aboard int // when the present window began
	window int64
	looks  int // in the present window
}

const (
	// windowDivisor and limitDivisor are how long boarders are counted and a ride
	// waits at the most, as divisors of what a ride takes.
	windowDivisor = 8
	limitDivisor  = 2
	// gain is by how much boarders have to come faster than rides would carry
	// them, and more to be carried than without waiting.
	gain = 1.1
	// maxLooks bounds the looks in one window, for machines on which they are
	// quicker than the clock.
	maxLooks = 1 << 12
	// A turn has turnRides, of which the first settleRides show what the other
	// way left behind; the rest is even, since uneven halves take turns. The other
	// way has one after firstTrust turns, then twice as many and so on up to
	// maxTrust, where it costs a hundredth if it is the worse one: at first, a
	// load that is just setting in tells little.
	turnRides   = 8
	settleRides = 2
	firstTrust  = 2
	maxTrust    = 32
	// memory is how many rides the time of a ride is a mean of, and outlier how
	// much of that mean one ride may count for at the most.
	memory  = 16
	outlier = 4
)

// Landed takes in that a ride landed which told so many riders, with before on
// board of the next one. It took service, and in all so long since the landing
// before.
func (g *Policy) Landed(told, before int, service, since int64) {
	if g.service == 0 {
		g.service = float64(service)
	}
	g.service += (min(float64(service), outlier*g.service) - g.service) / memory
	if g.all > 1 { // else there was nobody to wait for
		g.count(told, since)
	}
	g.before, g.all = before, before+told
}

// count adds a ride to the turn, and ends it.
func (g *Policy) count(told int, since int64) {
	g.rides++
	if g.rides > settleRides {
		g.riders += float64(told)
		// While there was nothing to do, neither way was the better one.
		g.time += min(float64(since), g.service*(1+1.0/limitDivisor))
	}
	if g.rides < turnRides {
		return
	}
	way, rate := 0, g.riders/g.time
	if g.waits {
		way = 1
	}
	g.rates[way] = rate
	g.rides, g.riders, g.time = 0, 0, 0
	g.turns++
	better := g.rates[1] > gain*g.rates[0]
	switch {
	case g.trial && better == g.waits: // the one on trial wins, and proves itself soon
		g.trial, g.turns, g.trust = false, 0, firstTrust
	case g.trial:
		g.waits, g.trial, g.turns, g.trust = better, false, 0, min(max(2*g.trust, firstTrust), maxTrust)
	case better != g.waits || g.turns >= g.trust:
		g.waits, g.trial = !g.waits, true
	}
}

// Begin reports whether to wait, at time now with so many on board. A lone
// appender has nobody to wait for.
func (g *Policy) Begin(now int64, aboard int) bool {
	g.aboard, g.window, g.looks = g.before, 0, 0
	return g.waits && g.all > 1 && aboard < g.all && float64(now) < g.service/limitDivisor
}

// Look reports whether to go on waiting, at time now with so many on board.
func (g *Policy) Look(now int64, aboard int) bool {
	if aboard >= g.all || float64(now) >= g.service/limitDivisor {
		return false
	}
	g.looks++
	window := float64(now - g.window)
	if window < g.service/windowDivisor && g.looks < maxLooks {
		return true
	}
	came := float64(aboard - g.aboard)
	g.aboard, g.window, g.looks = aboard, now, 0
	return came*(g.service+float64(now)) > gain*float64(aboard)*window
}
