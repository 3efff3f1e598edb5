package bench

import (
	"bytes"
	"strings"
	"testing"
)

// samples make a soak of n seconds.
func samples(n int, at func(i int, s *SoakSample)) []SoakSample {
	all := make([]SoakSample, n)
	for i := range all {
		all[i] = SoakSample{Second: float64(i + 1), AppendsPerSecond: 1e5, P50US: 300, P99US: 900, ServerRSSBytes: 100 << 20, ServerHeapBytes: 60 << 20}
		at(i, &all[i])
	}
	return all
}

func TestSoakVerdict(t *testing.T) {
	for name, tc := range map[string]struct {
		at   func(i int, s *SoakSample)
		rise string // what is not flat
	}{
		"flat":       {func(int, *SoakSample) {}, ""},
		"warming up": {func(i int, s *SoakSample) { s.ServerRSSBytes *= min(float64(i+1)/20, 1) }, ""},
		"warming up, and coming and going": {func(i int, s *SoakSample) {
			if s.P50US += 100 * float64(i%3); i < 20 {
				s.P50US = 1
			}
		}, ""},
		"a pause":           {func(i int, s *SoakSample) { s.P50US += 1e6 * float64(i/195) }, ""},
		"the collector's":   {func(i int, s *SoakSample) { s.ServerHeapBytes += float64(i%10) * (4 << 20) }, ""},
		"less":              {func(i int, s *SoakSample) { s.P99US -= float64(i) }, ""},
		"a leak":            {func(i int, s *SoakSample) { s.ServerRSSBytes += float64(i) * (80 << 10) }, "server memory"},
		"a leak of heap":    {func(i int, s *SoakSample) { s.ServerHeapBytes += float64(i) * (60 << 10) }, "server heap"},
		"slower":            {func(i int, s *SoakSample) { s.P50US += float64(i) / 2 }, "latency p50"},
		"slow now and then": {func(i int, s *SoakSample) { s.P99US += float64(i) * 4 }, "latency p99"},
		"a small process":   {func(i int, s *SoakSample) { s.ServerHeapBytes = 1<<20 + float64(i)*(16<<10) }, ""},
		"no latency":        {func(_ int, s *SoakSample) { s.P50US = 0 }, "latency p50"},
		"it stalls, in the end": {func(i int, s *SoakSample) {
			if i >= 150 {
				s.AppendsPerSecond, s.P50US, s.P99US = 0, 0, 0
			}
		}, "latency p50, latency p99"},
	} {
		trends, flat := judgeSoak(samples(200, tc.at))
		var rise []string
		for _, trend := range trends {
			if !trend.Flat {
				rise = append(rise, trend.What)
			}
		}
		if strings.Join(rise, ", ") != tc.rise || flat != (tc.rise == "") {
			t.Errorf("%s: %q rises, want %q; flat: %t; %+v", name, rise, tc.rise, flat, trends)
		}
	}
	for n := range 5 {
		if _, flat := judgeSoak(samples(n, func(int, *SoakSample) {})); flat != (n > 0) {
			t.Errorf("%d samples: flat: %t", n, flat)
		}
	}
}

func TestSoakPeriods(t *testing.T) {
	r := SoakReport{Samples: samples(25, func(i int, s *SoakSample) { s.P50US = float64(i) })}
	got := r.Periods(10)
	if len(got) != 10 || got[9].Second != 25 || got[0].Second != 2 || got[9].P50US != 23 || got[0].P50US != 1 {
		t.Errorf("%+v", got)
	}
	r.Samples = r.Samples[:3]
	if got := r.Periods(10); len(got) != 3 || got[2].P50US != 2 || got[2].ServerRSSBytes != 100<<20 {
		t.Errorf("%+v", got)
	}
}

func TestSoakPicture(t *testing.T) {
	r := SoakReport{Callers: 64, RatePerSecond: 250_000, Samples: samples(600, func(i int, s *SoakSample) {
		if i < 100 {
			s.P99US = 0 // nothing landed
		}
	})}
	var got bytes.Buffer
	if err := r.WriteSVG(&got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"250000 appends/s in a pipeline and 64 callers", "latency p99", "server heap"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(got.String(), "<circle"); n > 6*soakPoints {
		t.Errorf("%d points", n)
	}
	for i := range r.Samples[:200] {
		r.Samples[i].P50US = 0 // nor anything that the beginning would be
	}
	if err := r.WriteSVG(&got); err != nil {
		t.Error(err)
	}
}
