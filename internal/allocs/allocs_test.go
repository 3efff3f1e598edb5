package allocs_test

import (
	"testing"

	"github.com/walsvc/walsvc/internal/allocs"
)

// A fake is a testing.TB that remembers whether it failed.
type fake struct {
	testing.TB
	failed bool
}

func (f *fake) Helper()               {}
func (f *fake) Fatalf(string, ...any) { f.failed = true }

var sink []byte

func TestAtMost(t *testing.T) {
	for _, tc := range []struct {
		name         string
		limit        uint64
		size, pieces int
		fails        bool
	}{
		{"nothing", 0, 0, 0, false},
		{"less", 1 << 20, 1 << 18, 1, false},
		{"too much at once", 1 << 16, 1 << 20, 1, true},
		{"too much in pieces", 1 << 16, 64, 1 << 14, true},
	} {
		f := &fake{TB: t}
		allocs.AtMost(f, tc.limit, func() {
			for range tc.pieces {
				sink = make([]byte, tc.size)
			}
		})
		if f.failed != tc.fails {
			t.Errorf("%s: failed %t, want %t", tc.name, f.failed, tc.fails)
		}
	}
}

func TestAtMostForgivesAnotherGoroutine(t *testing.T) {
	once := 1 << 20
	f := &fake{TB: t}
	allocs.AtMost(f, 1<<10, func() {
		sink = make([]byte, once)
		once = 0
	})
	if f.failed {
		t.Error("what happened once was taken for what the call takes")
	}
}
