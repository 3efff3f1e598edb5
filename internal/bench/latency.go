package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is what a latency above it is counted as. Three digits up to a minute
// make a histogram of 230 KiB, whatever is recorded.
const longest = time.Minute

// newHistogram returns a histogram of nanoseconds with three significant digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(100*time.Nanosecond), int64(longest), 3)
}

// record counts one latency. It allocates nothing.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	// The only error is a value above the highest, which min rules out.
	_ = h.RecordValue(int64(min(d, longest)))
}

// Latency is percentiles in microseconds. Zero means that nothing was measured.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// latencyOf takes the percentiles off a histogram of nanoseconds.
func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	return Latency{P50: at(50), P99: at(99), P999: at(99.9)}
}
