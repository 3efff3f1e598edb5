//go:build unix

package processors

import "testing"

// TestUsed: the time of processors grows with work.
func TestUsed(t *testing.T) {
	before := used()
	for n := 0; used() == before; n++ { // ends when it has grown
	}
}
