package bench

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

// figures make a round whose figures are all multiples of one number. Every
// goal is met in it, and every aim.
func figures(k float64) Figures {
	f := Figures{
		OverwriteUS: 90, EchoRoundTripUS: 60, EchoSyncUS: 160, EchoBytesPerSecond: 1.4e9,
		Loop1PerSecond: 6000, Loop64PerSecond: 6000, Loop256PerSecond: 6000,
		oneCallerUS: 180, callers64PerSecond: 180_000, callers256PerSecond: 300_000, pipelinedPerSecond: 1.6e6,
		rssIdleBytes: 30 << 20, rssSaturatedBytes: 200 << 20,
		echo64PerSecond: 50_000, each64PerSecond: 48_000, pipelined128: 5e6, logsPerSecond: 1.5e6,
		largeBytesPerSecond: 0.9e9, largeDiskPerSecond: 1.1e9, largeEchoPerSecond: 1.3e9,
		openP50US: 300, openP99US: 600, serverAllocs: 0.01,
		replayOwnPerSecond: 3.5e6, replaySharePerSecond: 1.1e6, firstRecordMS: 2,
	}
	for name := range f {
		f[name] *= k
	}
	return f
}

// judged returns the goals of one round.
func judged(t *testing.T, rows []row, f Figures) []Goal {
	t.Helper()
	o := CompareOptions{Size: 400, Rounds: 1}
	c, err := o.rounds(t.Context(), []step{{"everything", func(_ context.Context, to Figures) error {
		maps.Copy(to, f)
		return nil
	}}}, rows)
	if err != nil {
		t.Fatal(err)
	}
	return c.Goals
}

func TestMedian(t *testing.T) {
	if got, want := median([]Figures{figures(8), figures(1), figures(2)}), figures(2); !maps.Equal(got, want) {
		t.Errorf("median of three: %v, want %v", got, want)
	}
	got := median([]Figures{figures(1), figures(2), figures(4), figures(9)})
	if got[OverwriteUS] != 270 || got[pipelinedPerSecond] != 4.8e6 {
		t.Errorf("median of four: %v", got)
	}
	if got := Median(nil); got != 0 {
		t.Errorf("median of nothing: %v", got)
	}
}

// A ratio is that of a round, and its median not that of the medians.
func TestRatiosBelongToTheirRound(t *testing.T) {
	ours, loops := []float64{100, 400, 900}, []float64{100, 100, 100}
	ours[2], loops[2] = 900, 1800
	var round int
	o := CompareOptions{Rounds: 3}
	c, err := o.rounds(t.Context(), []step{{"load", func(_ context.Context, f Figures) error {
		f[callers64PerSecond], f[Loop64PerSecond] = ours[round], loops[round]
		round++
		return nil
	}}}, compareRows(400)[1:2])
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Goals[0].Got; got != 1 || c.Median[callers64PerSecond] != 400 || len(c.Rounds) != 3 {
		t.Errorf("ratio %v of %v", got, c.Rounds)
	}
}

func TestRoundsEndWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	o := CompareOptions{Rounds: 2}
	var said []string
	o.Progress = func(_, _ int, what string) { said = append(said, what) }
	fine := func(context.Context, Figures) error { return nil }
	_, err := o.rounds(t.Context(), []step{{"good", fine}, {"bad", func(context.Context, Figures) error { return broken }}, {"never", fine}}, nil)
	if !errors.Is(err, broken) || !slices.Equal(said, []string{"good", "bad"}) {
		t.Errorf("%v after %v", err, said)
	}
}

// TestNothingMeasuredMeetsNothing: what is to be at most so much is not met by a figure
// that is missing, as the latency is of callers none of whose appends landed in time.
func TestNothingMeasuredMeetsNothing(t *testing.T) {
	for _, rows := range [][]row{compareRows(400), goalRows(10)} {
		for _, g := range judged(t, rows, Figures{}) {
			if g.Gate > 0 && g.Met() || g.Aim > 0 && g.Aimed() {
				t.Errorf("met by nothing: %+v", g)
			}
		}
	}
}

// spoiled spoils figures one by one, and looks which goals are met no more.
func spoiled(t *testing.T, rows []row, by map[string]struct {
	figure string
	times  float64
	misses []string // goals whose gate is missed
	short  []string // goals whose aim is
}) {
	t.Helper()
	for _, g := range judged(t, rows, figures(1)) {
		if !g.Met() || !g.Aimed() || math.IsNaN(g.Got) || g.Beside == "" {
			t.Errorf("not met at its best: %+v", g)
		}
	}
	for name, tc := range by {
		f := figures(1)
		f[tc.figure] *= tc.times
		var misses, short []string
		for _, g := range judged(t, rows, f) {
			if !g.Met() {
				misses = append(misses, g.What)
			}
			if !g.Aimed() {
				short = append(short, g.What)
			}
		}
		if !slices.Equal(misses, tc.misses) || !slices.Equal(short, tc.short) {
			t.Errorf("%s: misses %q, falls short of %q; want %q and %q", name, misses, short, tc.misses, tc.short)
		}
	}
}

type spoil = map[string]struct {
	figure string
	times  float64
	misses []string
	short  []string
}

func TestGoalsOfCompare(t *testing.T) {
	one := func(s string) []string { return []string{s} }
	spoiled(t, compareRows(400), spoil{
		"slow alone":   {oneCallerUS, 1.26, one("1 caller, p50"), nil},
		"slow at 64":   {callers64PerSecond, 0.33, one("64 callers"), nil},
		"slow at 256":  {callers256PerSecond, 0.79, one("256 callers"), nil},
		"slow in all":  {pipelinedPerSecond, 0.56, one("pipelined, bytes"), nil},
		"fast machine": {EchoBytesPerSecond, 1.8, one("pipelined, bytes"), nil}, // the same must be more there
		"fat":          {rssSaturatedBytes, 1.29, one("server memory, saturated"), nil},
		"fat and idle": {rssIdleBytes, 1.34, one("server memory, idle"), nil},
	})
}

func TestGoals(t *testing.T) {
	one := func(s string) []string { return []string{s} }
	f := func(what, figure string, short, missed float64) spoil {
		return spoil{
			what + " short":  {figure, short, nil, one(what)},
			what + " missed": {figure, missed, one(what), one(what)},
		}
	}
	cases := spoil{
		"slow alone":       {oneCallerUS, 1.12, nil, []string{"1 caller, p50, to the sum", "1 caller, p50, to the floor"}},
		"quick to wake":    {EchoSyncUS, 0.89, nil, one("1 caller, p50, to the floor")},
		"fast disk, large": {largeDiskPerSecond, 2, nil, one("1 MiB records, stored raw")}, // the other one is lower by then
		"fast loop":        {Loop64PerSecond, 1.3, nil, one("64 callers")},
		"fast bare":        {echo64PerSecond, 1.5, one("64 connections, 1 caller each"), one("64 connections, 1 caller each")},
	}
	for _, more := range []spoil{
		f("64 callers", callers64PerSecond, 0.82, 0.49),
		f("64 connections, 1 caller each", each64PerSecond, 0.92, 0.7),
		f("pipelined, 128 B", pipelined128, 0.79, 0.49),
		f("1 MiB records, stored raw", largeBytesPerSecond, 0.84, 0.6),
		f("replay, a log's own blocks", replayOwnPerSecond, 0.84, 0.57),
		f("replay, one log of shared frames", replaySharePerSecond, 0.9, 0.63),
		f("first record of a replay", firstRecordMS, 1.6, 5.1),
		f("10000 logs at once", logsPerSecond, 0.9, 0.6),
		f("open loop, p99 to p50", openP99US, 1.6, 2.6),
		f("server allocations, pipelined", serverAllocs, 2.1, 11),
	} {
		maps.Copy(cases, more)
	}
	cases["slow pipeline short"] = spoil{"": {pipelinedPerSecond, 0.93, nil, one("pipelined, 400 B")}}[""]
	cases["slow pipeline missed"] = spoil{"": {pipelinedPerSecond, 0.74, one("pipelined, 400 B"), one("pipelined, 400 B")}}[""]
	spoiled(t, goalRows(10_000), cases)

	for _, g := range judged(t, goalRows(10_000), Figures{}) {
		if math.IsNaN(g.Got) || math.IsInf(g.Got, 0) || strings.Contains(g.Beside, "NaN") {
			t.Errorf("of nothing: %+v", g)
		}
	}
}

func TestGoalsOfOpening(t *testing.T) {
	for _, tc := range []struct {
		small, large float64 // milliseconds
		met, aimed   [2]bool
	}{
		{60, 70, [2]bool{true, true}, [2]bool{true, true}},
		{150, 210, [2]bool{true, true}, [2]bool{false, true}},
		{300, 510, [2]bool{false, true}, [2]bool{false, true}},
		{60, 130, [2]bool{true, false}, [2]bool{true, true}},
	} {
		for i, g := range openGoals(Opening{OpenUS: tc.small * 1e3}, Opening{OpenUS: tc.large * 1e3}) {
			if g.Met() != tc.met[i] || g.Aimed() != tc.aimed[i] {
				t.Errorf("%v and %v ms: met %t, aimed at %t: %+v", tc.small, tc.large, g.Met(), g.Aimed(), g)
			}
		}
	}
}

func TestOpeningsNeedTheirOwnService(t *testing.T) {
	var target Target
	if _, err := target.Openings(t.Context(), OpenLoad{Small: 1, Large: 2, Size: 1, Rounds: 1}); !errors.Is(err, errNotOwn) {
		t.Errorf("killed a service that is somebody else's: %v", err)
	}
}

func TestReplayNeedsItsOwnService(t *testing.T) {
	var target Target
	if _, err := target.Replay(t.Context(), ReplayLoad{Records: 1, Size: 1}, nil); !errors.Is(err, errNotOwn) {
		t.Errorf("killed a service that is somebody else's: %v", err)
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
