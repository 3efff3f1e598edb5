package wal

import (
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestFillingSegmentIsNotCached reads right after an opening, while the segment
// being filled holds no append: an index made of it now would not know what it
// gets later, and every reader of that would search all directories.
func TestFillingSegmentIsNotCached(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "first")
	closeTest(t, v)

	v = openTest(t, fs)
	equal(t, readAll(t, v, "log", 0), []string{"first"})
	filling := filling(v)
	v.index.cache.mu.Lock()
	_, cached := v.index.cache.entries[filling]
	v.index.cache.mu.Unlock()
	if cached {
		t.Errorf("segment %s is being filled, and its index is cached", filling)
	}
	closeTest(t, v)
}
