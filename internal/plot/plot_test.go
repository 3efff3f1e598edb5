package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the golden pictures anew")

var charts = map[string]Chart{
	"log": {
		Title: "Appends/s <by> callers",
		X:     Axis{Label: "callers", Log: true, Ticks: []float64{1, 64, 256}},
		Y:     Axis{Label: "appends/s", Log: true},
		Series: []Series{
			{Name: "loop", Points: []Point{{1, 6657, 6000, 7000}, {64, 6312, 0, 0}, {256, 6728, 0, 0}}},
			{Name: "walsvc & co", Heavy: true, Points: []Point{{1, 4100, 0, 0}, {64, 110000, 90000, 120000}, {256, 255000, 0, 0}}},
			{Name: "nothing measured"},
		},
	},
	"linear": {
		Title: "One value, and many lines",
		X:     Axis{Label: "x"}, Y: Axis{Label: "y"},
		Series: slices.Repeat([]Series{{Name: "line", Points: []Point{{1, 3, 0, 0}, {2, 3.5, 0, 0}}}}, 12),
	},
}

func TestGolden(t *testing.T) {
	for name, c := range charts {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := c.WriteSVG(&got); err != nil {
				t.Fatal(err)
			}
			for d := xml.NewDecoder(bytes.NewReader(got.Bytes())); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("no XML: %v", err)
				}
			}
			path := filepath.Join("testdata", name+".svg")
			if *rewrite {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s differs; look at it, and run with -rewrite if it is right", path)
			}
		})
	}
}

func TestWhatCannotBeDrawn(t *testing.T) {
	for name, c := range map[string]Chart{
		"no points":          {},
		"zero on a log axis": {Y: Axis{Log: true}, Series: []Series{{Points: []Point{{X: 1}}}}},
		"no number":          {Series: []Series{{Points: []Point{{X: 1, Y: math.NaN()}}}}},
		"infinite":           {Series: []Series{{Points: []Point{{X: math.Inf(1), Y: 1}}}}},
	} {
		if err := c.WriteSVG(io.Discard); !errors.Is(err, ErrValue) {
			t.Errorf("%s: %v, want ErrValue", name, err)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, tc := range []struct {
		low, high float64
		log       bool
		want      []float64
	}{
		{0, 7, false, []float64{0, 1, 2, 3, 4, 5, 6, 7}},
		{0, 0.9, false, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
		{0, 5500, false, []float64{0, 1000, 2000, 3000, 4000, 5000, 6000}},
		{90, 450, true, []float64{50, 100, 200, 500}},
		{100, 1000, true, []float64{100, 200, 500, 1000}},
		{90, 2e6, true, []float64{10, 100, 1e3, 1e4, 1e5, 1e6, 1e7}},
	} {
		got := scale{low: tc.low, high: tc.high, log: tc.log}.choose()
		if !slices.EqualFunc(got, tc.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9*math.Abs(b)+1e-12 }) {
			t.Errorf("%v to %v, log %v: %v, want %v", tc.low, tc.high, tc.log, got, tc.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.25: "0.25", 150: "150", 1000: "1k", 1.2e6: "1.2M", 3e9: "3G"} {
		if got := Number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
