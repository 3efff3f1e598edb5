package processors

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPolicy plays transcripts: how turns of a load went, and on how many processors,
// a letter for each, 1 for one and a for all. What is known stays from one step to the next.
//
//	load all=R one=R [used=U] [noise=N] turns=N
//	pause turns=N
//
// R is what is carried in a turn on so many processors, which takes U of the time of
// one when all are used. Noise is how far a turn may be off, as a share.
func TestPolicy(t *testing.T) {
	var p Policy
	random := rand.New(rand.NewPCG(1, 2))
	datadriven.RunTest(t, "testdata/policy", func(t *testing.T, d *datadriven.TestData) string {
		number := func(key string) float64 {
			v := 0.0
			if arg, ok := d.Arg(key); ok {
				if _, err := fmt.Sscan(arg.Vals[0], &v); err != nil {
					d.Fatalf(t, "%s: %v", key, err)
				}
			}
			return v
		}
		all, one, used, noise := number("all"), number("one"), number("used"), number("noise")
		var turns int
		d.ScanArgs(t, "turns", &turns)
		if d.Cmd == "pause" {
			for range turns {
				p.Turn(0, 0)
			}
			if p.one {
				return "1\n"
			}
			return "a\n"
		}
		var ways strings.Builder
		carried := 0.0
		for i := range turns {
			rate, way := all, byte('a')
			if p.one {
				rate, way = one, '1'
			}
			rate *= 1 + noise*(2*random.Float64()-1)
			carried += rate
			ways.WriteByte(way)
			if i%50 == 49 {
				ways.WriteByte('\n')
			}
			p.Turn(rate, used)
		}
		return fmt.Sprintf("%s\ncarried %.3g a turn\n", strings.TrimSuffix(ways.String(), "\n"), carried/float64(turns))
	})
}

// TestTryingCostsLittle: whatever the load is worth on one processor and on all, and
// however much turns differ by chance, not much less is carried than on the better of
// the two, once it is known.
func TestTryingCostsLittle(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		all, one, noise := 1+random.Float64(), 1+random.Float64(), 0.1*random.Float64()
		var p Policy
		const turns, settling = 2000, 100
		carried := 0.0
		for i := range turns {
			rate := all
			if p.one {
				rate = one
			}
			rate *= 1 + noise*(2*random.Float64()-1)
			if i >= settling {
				carried += rate
			}
			p.Turn(rate, 0.9)
		}
		// What differs by less than the noise cannot be told apart, nor is it much.
		if got, best := carried/(turns-settling), max(all, one); got < best*(1-0.06-noise) {
			t.Errorf("all carry %.2f, one %.2f, off by up to %.2f: %.2f are carried", all, one, noise, got)
		}
	}
}

// TestGovernor has a load carry more on one processor, then end, and then more on all.
func TestGovernor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var carried atomic.Uint64
		var one atomic.Bool
		var onOne, onAll atomic.Uint64 // carried in a millisecond
		sets := 0
		g := Start(Options{
			Carried: carried.Load, Turn: 100 * time.Millisecond,
			set: func(is bool) {
				if is == one.Load() {
					t.Error("set to what it is")
				}
				sets++
				one.Store(is)
			},
			used: func() time.Duration { return 0 },
		})
		run := func(d time.Duration) (share float64) {
			n := 0
			for range d / time.Millisecond {
				if one.Load() {
					n++
					carried.Add(onOne.Load())
				} else {
					carried.Add(onAll.Load())
				}
				time.Sleep(time.Millisecond)
			}
			return float64(n) / float64(d/time.Millisecond)
		}
		onOne.Store(120)
		onAll.Store(100)
		run(5 * time.Second)
		if share := run(10 * time.Second); share < 0.9 {
			t.Errorf("on one processor for %.2f of the time, where that carries more", share)
		}
		onOne.Store(0)
		onAll.Store(0)
		run(30 * time.Second)
		if !one.Load() {
			t.Error("forgotten in a pause of half a minute")
		}
		run(quiet * 100 * time.Millisecond)
		if one.Load() {
			t.Error("on one processor with nothing to do")
		}
		onOne.Store(80)
		onAll.Store(100)
		run(5 * time.Second)
		if share := run(10 * time.Second); share > 0.1 {
			t.Errorf("on one processor for %.2f of the time, where that carries less", share)
		}
		onOne.Store(200)
		run(5 * time.Second)
		g.Stop()
		if one.Load() || sets == 0 {
			t.Errorf("left on one processor: %v, after %d changes", one.Load(), sets)
		}
	})
}

// TestSet changes the number of processors for real, and back to what it was.
func TestSet(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	set := setTo(all)
	set(true)
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("%d processors, want one", n)
	}
	set(false)
	if n := runtime.GOMAXPROCS(0); n != all {
		t.Errorf("%d processors, want all %d", n, all)
	}
	if _, asked := os.LookupEnv("GOMAXPROCS"); asked {
		return
	}
	t.Setenv("GOMAXPROCS", "3")
	defer runtime.SetDefaultGOMAXPROCS()
	runtime.GOMAXPROCS(3)
	set = setTo(3)
	set(true)
	set(false)
	if n := runtime.GOMAXPROCS(0); n != 3 {
		t.Errorf("%d processors, want the three that were asked for", n)
	}
}
