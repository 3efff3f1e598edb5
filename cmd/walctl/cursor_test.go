package main

import "testing"

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "1": 1, "1048576": 1 << 20, "3KiB": 3 << 10, "64MiB": 64 << 20, "1 GiB": 1 << 30, "2TiB": 2 << 40, "1PiB": 1 << 50, "18446744073709551615": 1<<64 - 1,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "1MB", "1.5GiB", "-1", "much", "18446744073709551616", "16777216TiB", "1KiBKiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
