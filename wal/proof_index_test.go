package wal

import (
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestFillingSegmentIsNotCached reads right after an opening, while the segment
// being filled holds no append: an index made of it now would not know what it
// gets later, and every reader of that would search all directories. The log's last
// record is where it would be in the newest segment had the log grown evenly, so that
// one is looked at first.
func TestFillingSegmentIsNotCached(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	for _, r := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		mustAppend(t, v, "log", r)
	}
	closeTest(t, v)

	v = openTest(t, fs)
	equal(t, readAll(t, v, "log", 8), []string{"8"})
	filling := v.filling()
	v.index.cache.mu.Lock()
	_, cached := v.index.cache.entries[filling]
	v.index.cache.mu.Unlock()
	if cached {
		t.Errorf("segment %s is being filled, and its index is cached", filling)
	}
	closeTest(t, v)
}
