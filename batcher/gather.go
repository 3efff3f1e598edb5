package batcher

// A gathering decides how long the next frame waits, once the disk is free, for
// those who have just been told. Callers that each wait for their own append
// come in two halves otherwise: one rides while the other boards, each half has
// a sync to itself, for ever, and two syncs carry what one could.
//
// It is arithmetic alone, like policy: it is told times and how many are on
// board, and reads no clock.
//
// With n on board, a disk that takes S for a frame, and t since the last
// landing, sealing now carries n in S+t. Waiting raises that rate as long as
// boarders come faster than n/(S+t). So they are counted over an eighth of S at a
// time, and a wait ends as soon as fewer came than that, with a margin for
// chance; when everybody is back who could be; and after half of S in any case.
//
// That a wait was right for one frame does not tell what it did to the next
// ones. So whether to wait at all is measured: a turn of frames with, a turn
// without, and the way that carries more riders in its time goes on, until it no
// longer does or it is time to try the other again. Callers that are too far
// away, too slow for the disk, or do not wait for what they append, are found
// out like that, whatever the reason.
type gathering struct {
	service float64 // nanoseconds that the disk takes for a frame: a fading mean

	waits  bool       // the present way
	frames int        // landed in the present turn
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
	// gatherWindow and gatherLimit are how long boarders are counted and a frame
	// waits at the most, as divisors of the disk's time for a frame.
	gatherWindow = 8
	gatherLimit  = 2
	// gatherGain is by how much boarders have to come faster than the disk would
	// carry them, and more to be carried than without waiting.
	gatherGain = 1.1
	// gatherLooks bounds the looks in one window, for machines on which they are
	// quicker than the clock.
	gatherLooks = 1 << 12
	// A turn has gatherFrames, of which the first gatherSettle show what the other
	// way left behind; the rest is even, since uneven halves take turns. The other
	// way has one after gatherTrust turns, then twice as many and so on up to
	// gatherTurns, where it costs a hundredth if it is the worse one: at first, a
	// load that is just setting in tells little.
	gatherFrames = 8
	gatherSettle = 2
	gatherTrust  = 2
	gatherTurns  = 32
	// serviceMemory is how many frames the disk's time is a mean of.
	serviceMemory = 16
)

// landed takes in that a frame landed which told so many riders, with before on
// board of the next one. It took service of the disk, and in all so long since
// the landing before.
func (g *gathering) landed(told, before int, service, since int64) {
	if g.service == 0 {
		g.service = float64(service)
	}
	g.service += (min(float64(service), outlierFactor*g.service) - g.service) / serviceMemory
	if g.all > 1 { // else there was nobody to wait for
		g.count(told, since)
	}
	g.before, g.all = before, before+told
}

// count adds a frame to the turn, and ends it.
func (g *gathering) count(told int, since int64) {
	g.frames++
	if g.frames > gatherSettle {
		g.riders += float64(told)
		// While there was nothing to do, neither way was the better one.
		g.time += min(float64(since), g.service*(1+1.0/gatherLimit))
	}
	if g.frames < gatherFrames {
		return
	}
	way, rate := 0, g.riders/g.time
	if g.waits {
		way = 1
	}
	g.rates[way] = rate
	g.frames, g.riders, g.time = 0, 0, 0
	g.turns++
	better := g.rates[1] > gatherGain*g.rates[0]
	switch {
	case g.trial && better == g.waits: // the one on trial wins, and proves itself soon
		g.trial, g.turns, g.trust = false, 0, gatherTrust
	case g.trial:
		g.waits, g.trial, g.turns, g.trust = better, false, 0, min(max(2*g.trust, gatherTrust), gatherTurns)
	case better != g.waits || g.turns >= g.trust:
		g.waits, g.trial = !g.waits, true
	}
}

// begin reports whether to wait, at time now with so many on board. A lone
// appender has nobody to wait for.
func (g *gathering) begin(now int64, aboard int) bool {
	g.aboard, g.window, g.looks = g.before, 0, 0
	return g.waits && g.all > 1 && aboard < g.all && float64(now) < g.service/gatherLimit
}

// look reports whether to go on waiting, at time now with so many on board.
func (g *gathering) look(now int64, aboard int) bool {
	if aboard >= g.all || float64(now) >= g.service/gatherLimit {
		return false
	}
	g.looks++
	window := float64(now - g.window)
	if window < g.service/gatherWindow && g.looks < gatherLooks {
		return true
	}
	came := float64(aboard - g.aboard)
	g.aboard, g.window, g.looks = aboard, now, 0
	return came*(g.service+float64(now)) > gatherGain*float64(aboard)*window
}
