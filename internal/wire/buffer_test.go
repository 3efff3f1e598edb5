package wire

import "testing"

// TestPool: what is lent is as long as it was asked to be, whatever came back
// before, and memory of another size never comes to be lent.
func TestPool(t *testing.T) {
	sizes := []int{1, 1<<minTier - 1, 1 << minTier, 1<<minTier + 1, 16 << 10, 100_000, 1 << maxTier, 1<<maxTier + 1}
	var p bufferPool
	for range 3 {
		for _, n := range sizes {
			b := p.Get(n)
			if len(*b) != n {
				t.Fatalf("%d bytes are lent, want %d", len(*b), n)
			}
			*b = (*b)[: n/2 : cap(*b)]
			p.Put(b)
		}
		for _, strange := range []int{0, 1, 1<<minTier - 1, 1<<minTier + 1, 3 << minTier, 1<<maxTier - 1, 1<<maxTier + 1, 2 << maxTier} {
			b := make([]byte, strange)
			p.Put(&b)
		}
	}
}
