package bench

import (
	"sync"
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

// shards is how many histograms a recorder has, so that 1,024 callers neither
// queue for one nor take 200 MB.
const shards = 16

// A recorder takes latencies from many goroutines at once.
type recorder struct {
	shard [shards]struct {
		sync.Mutex
		h *hdrhistogram.Histogram
	}
}

func newRecorder() *recorder {
	r := &recorder{}
	for i := range r.shard {
		r.shard[i].h = newHistogram()
	}
	return r
}

// record counts a latency of the i-th of those who record, each of whom is
// alone if they are few. It allocates nothing.
func (r *recorder) record(i int, d time.Duration) {
	s := &r.shard[i%shards]
	s.Lock()
	defer s.Unlock()
	record(s.h, d)
}

// take returns what was recorded since it was last called.
func (r *recorder) take() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range r.shard {
		s := &r.shard[i]
		s.Lock()
		all.Merge(s.h)
		s.h.Reset()
		s.Unlock()
	}
	return all
}
