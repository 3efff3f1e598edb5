package bench

import (
	"errors"
	"testing"
)

// round makes a round whose figures are all multiples of one number.
func round(k float64) Round {
	r := Round{
		Baseline: Baseline{OverwriteUS: 90 * k, EchoRoundTripUS: 60 * k, EchoBytesPerSecond: 1.4e9 * k, Loop1PerSecond: 6000 * k, Loop64PerSecond: 6000 * k, Loop256PerSecond: 6000 * k},
		Walsvc:   Ours{OneCallerUS: 180 * k, Callers64PerSecond: 90_000 * k, Callers256: 300_000 * k, PipelinedPerSecond: 1e6 * k},
	}
	r.Ratios = ratios(r, 400)
	return r
}

func TestRatios(t *testing.T) {
	want := Ratios{OneCallerToFloor: 1.2, Callers64ToLoop: 15, Callers256ToLoop: 50, PipelinedToEcho: 1e6 * 400 / 1.4e9}
	if got := ratios(round(1), 400); got != want {
		t.Errorf("ratios %+v, want %+v", got, want)
	}
	if got := (ratios(Round{}, 400)); got != (Ratios{}) {
		t.Errorf("ratios of nothing: %+v", got)
	}
}

func TestMedian(t *testing.T) {
	if got, want := median([]Round{round(8), round(1), round(2)}), round(2); got != want {
		t.Errorf("median of three: %+v, want %+v", got, want)
	}
	got := median([]Round{round(1), round(2), round(4), round(9)})
	if got.Baseline.OverwriteUS != 270 || got.Walsvc.PipelinedPerSecond != 3e6 || got.Ratios.Callers64ToLoop != 15 {
		t.Errorf("median of four: %+v", got)
	}
}

func TestGoals(t *testing.T) {
	met := func(c Comparison) (n int) {
		for _, g := range c.Goals() {
			if g.Met() {
				n++
			}
		}
		return n
	}
	good := Comparison{RecordBytes: 400, Median: round(1), ServerRSSIdle: 30 << 20, ServerRSSSaturate: 200 << 20}
	if n := met(good); n != 6 {
		t.Errorf("%d of 6 goals met: %+v", n, good.Goals())
	}
	for name, spoil := range map[string]func(c *Comparison){
		"slow alone":   func(c *Comparison) { c.Median.Ratios.OneCallerToFloor = 1.51 },
		"slow at 64":   func(c *Comparison) { c.Median.Ratios.Callers64ToLoop = 9.9 },
		"slow at 256":  func(c *Comparison) { c.Median.Ratios.Callers256ToLoop = 39 },
		"slow in all":  func(c *Comparison) { c.Median.Walsvc.PipelinedPerSecond = 899e3 },
		"fast machine": func(c *Comparison) { c.Median.Baseline.EchoBytesPerSecond *= 1.2 }, // the same must be more there
		"fat":          func(c *Comparison) { c.ServerRSSSaturate = 257 << 20 },
		"fat and idle": func(c *Comparison) { c.ServerRSSIdle = 41 << 20 },
	} {
		bad := good
		spoil(&bad)
		if n := met(bad); n != 5 {
			t.Errorf("%s: %d of 6 goals met, want 5", name, n)
		}
	}
}

func TestReplayNeedsItsOwnService(t *testing.T) {
	var target Target
	if _, err := target.Replay(t.Context(), ReplayLoad{Records: 1, Size: 1}, nil); err == nil {
		t.Error("killed a service that is somebody else's")
	}
}

func TestServiceThatDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	_, err := NewTarget(t.Context(), TargetOptions{Binary: "/nonexistent/walsvc", Dir: dir})
	if err == nil || errors.Is(err, ErrNotWarm) {
		t.Errorf("error %v", err)
	}
	noFiles(t, dir)
}
