package gather

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// A crowd is callers before a disk, both modelled, in nanoseconds. Its callers
// either come back when they were told, one every each after a way of their own,
// or, if open is set, come one every each whatever becomes of those before.
type crowd struct {
	callers   int
	each, way int64
	disk      int64
	open      bool
	rand      *rand.Rand // if not nil, the disk takes up to a fifth more
}

// ridden is what a crowd achieved.
type ridden struct {
	frames, riders int
	took, waited   int64
}

func (r ridden) perSecond() float64 { return float64(r.riders) / float64(r.took) * 1e9 }

// ride has so many frames ride, and waits before each as long as g says; nil is
// never.
func (c *crowd) ride(frames int, g *Policy) (r ridden) {
	apart := max(200, c.disk/1000) // looks
	var coming []int64             // when who comes, sorted
	for i := range c.callers {
		coming = append(coming, int64(i)*c.each)
	}
	arrived := func(now int64) int {
		if c.open {
			return int(now/c.each) - r.riders // callers is without a bound
		}
		n, _ := slices.BinarySearch(coming, now+1)
		return n
	}
	var now, last int64
	for range frames {
		if g != nil && g.Begin(now-last, arrived(now)) {
			for g.Look(now-last, arrived(now)) {
				now += apart
			}
			r.waited += now - last
		}
		for arrived(now) == 0 { // the disk is idle, and whoever comes first drives
			now += apart
		}
		told := arrived(now)
		if !c.open {
			coming = coming[told:]
		}
		took := c.disk
		if c.rand != nil {
			took += c.rand.Int64N(c.disk / 5)
		}
		now += took
		r.frames++
		r.riders += told
		if g != nil {
			g.Landed(told, arrived(now), took, now-last)
		}
		last = now
		if !c.open {
			// Told one after the other, by one processor that others use as well.
			back := now + c.way
			for range told {
				back += c.each
				coming = append(coming, back)
			}
			slices.Sort(coming)
		}
	}
	r.took = now
	return r
}

// TestGathering plays transcripts: what crowds achieve without and with it.
//
//	closed callers=N each=US [way=US] disk=US   who was told comes back, one every
//	                                            each after a way
//	open each=US disk=US                        one comes every each
func TestGathering(t *testing.T) {
	datadriven.RunTest(t, "testdata/gathering", func(t *testing.T, d *datadriven.TestData) string {
		microseconds := func(key string) int64 {
			v := 0.0
			if arg, ok := d.Arg(key); ok {
				if _, err := fmt.Sscan(arg.Vals[0], &v); err != nil {
					d.Fatalf(t, "%s: %v", key, err)
				}
			}
			return int64(v * 1e3)
		}
		c := crowd{each: microseconds("each"), way: microseconds("way"), disk: microseconds("disk"), open: d.Cmd == "open"}
		d.MaybeScanArgs(t, "callers", &c.callers)
		const frames = 1000
		hasty, patient := c.ride(frames, nil), c.ride(frames, new(Policy))
		return fmt.Sprintf("without: %.1f in a frame, %.0f/s\nwith:    %.1f in a frame, %.0f/s, waited %v before each\n",
			float64(hasty.riders)/frames, hasty.perSecond(),
			float64(patient.riders)/frames, patient.perSecond(), time.Duration(patient.waited/frames))
	})
}

// TestGatheringCostsNothing: whoever comes, and however the disk is, waiting does
// not carry noticeably fewer.
func TestGatheringCostsNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 9))
	log := func(least, most float64) int64 {
		v := least
		for v < most && random.IntN(12) > 0 {
			v *= 1.6
		}
		return int64(min(v, most))
	}
	for range 20 {
		c := crowd{
			callers: int(log(1, 1500)), each: log(200, 50e3), way: log(1, 300e3), disk: log(20e3, 10e6), open: random.IntN(4) == 0,
			rand: rand.New(rand.NewPCG(1, 2)),
		}
		hasty := c.ride(1000, nil)
		c.rand = rand.New(rand.NewPCG(1, 2))
		patient := c.ride(1000, new(Policy))
		if got := patient.perSecond() / hasty.perSecond(); got < 0.95 {
			t.Errorf("%d callers, each %v, way %v, disk %v, open %v: %.2f of what is carried without waiting",
				c.callers, time.Duration(c.each), time.Duration(c.way), time.Duration(c.disk), c.open, got)
		}
		if c.callers == 1 && !c.open && patient.waited > 0 {
			t.Errorf("a lone caller waited %v", time.Duration(patient.waited))
		}
	}
}
