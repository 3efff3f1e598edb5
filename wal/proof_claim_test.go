package wal

import (
	"errors"
	"hash/crc32"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestClaims binds with claims that hold and claims that do not: a client that
// was acknowledged something else must not go on as if nothing had happened.
func TestClaims(t *testing.T) {
	v := openTest(t, disk.NewMem())
	info := mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1")
	got := mustAppend(t, v, "log", "2", "3")
	within := Checksum(crc32.Checksum(run("1", "2"), castagnoli))
	holds := Claim{Log: info.ID, Epoch: got.Epoch, LSN: 3, Checksum: got.Checksum}
	for _, tc := range []struct {
		name   string
		change func(c *Claim)
		lost   bool
	}{
		{"nothing", func(c *Claim) { *c = Claim{} }, false},
		{"the end", func(*Claim) {}, false},
		{"within a batch", func(c *Claim) { c.LSN, c.Checksum = 2, within }, false},
		{"beyond the end", func(c *Claim) { c.LSN = 4 }, true},
		{"other records at the end", func(c *Claim) { c.Checksum++ }, true},
		{"other records within a batch", func(c *Claim) { c.LSN, c.Checksum = 2, within+1 }, true},
		{"a later epoch", func(c *Claim) { c.Epoch++ }, true},
		{"another log", func(c *Claim) { c.Log = ulid.ULID{1} }, true},
	} {
		c := holds
		tc.change(&c)
		a := v.NewAppender(func() {})
		_, _, _, err := a.Bind("log", Producer{}, 0, c)
		if tc.lost != errors.Is(err, ErrDataLoss) || !tc.lost && err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		a.Close()
	}
	closeTest(t, v)
}
