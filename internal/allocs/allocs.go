// Package allocs holds tests of decoders to the memory that they may take: a
// length that somebody else wrote is checked before there is memory for it.
package allocs

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// AtMost fails t if f takes more than limit bytes of memory, kept or not. f is
// called again if it seems to have: other goroutines take memory too, and what
// counts is the least of a few calls. It must not run beside parallel tests.
func AtMost(t testing.TB, limit uint64, f func()) {
	t.Helper()
	before := roughly()
	f()
	took := roughly() - before
	for tries := 0; took > limit && tries < 3; tries++ {
		took = min(took, exactly(f))
	}
	if took > limit {
		t.Fatalf("it took %d bytes of memory, where %d are allowed", took, limit)
	}
}

// roughly returns the bytes taken by the whole process so far, without those
// of small objects that share a span still being filled. It costs a microsecond,
// where stopping the world costs tens of them.
func roughly() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// exactly returns the bytes that f takes, and whoever runs beside it.
func exactly(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
