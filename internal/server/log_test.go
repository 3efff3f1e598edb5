package server

import (
	"errors"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/allocs"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/wal"
)

// TestPageTokens wants one spelling for each name, and no memory for a token
// that is longer than the longest.
func TestPageTokens(t *testing.T) {
	for _, name := range []string{"", "a", "ab", "abc", "tenant-1/wal", strings.Repeat("n", limits.MaxLogNameBytes)} {
		if got, err := parsePageToken(pageToken(name)); err != nil || got != name {
			t.Errorf("%q came back as %q, %v", name, got, err)
		}
	}
	for _, token := range []string{
		"!", "a", "YR", "YQ==", "Y\nQ", "YQ\r\n", "+/", pageToken(strings.Repeat("n", limits.MaxLogNameBytes+1)),
	} {
		if got, err := parsePageToken(token); !errors.Is(err, wal.ErrInvalid) {
			t.Errorf("%q was taken for %q, %v", token, got, err)
		}
	}
	huge := strings.Repeat("YWFh", 1<<20)
	allocs.AtMost(t, 4<<10, func() { _, _ = parsePageToken(huge) })
}
