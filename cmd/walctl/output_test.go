package main

import (
	"bytes"
	"math"
	"os"
	"testing"
	"time"
)

// sample is a result with a table of each kind.
type sample struct {
	Name string `json:"name"`
	HTML string `json:"html"`
}

func (s sample) tables() []grid {
	return []grid{
		{title: "Sample", rows: [][]any{{"name", s.Name}, {"all well", mood{"yes", false}}, {"size", size(1536)}}},
		{head: []string{"LOG", "RECORDS", "AGE"}, rows: [][]any{{"a", uint64(7), time.Second}, {"longer", uint64(1234567), 90 * time.Minute}}},
		{head: []string{"LOG"}, empty: "no logs"},
	}
}

func TestPrint(t *testing.T) {
	for _, test := range []struct {
		format format
		want   string
	}{
		{formatTable, "" +
			"Sample\n" +
			"name      <x>\n" +
			"all well  yes\n" +
			"size      1.5 KiB\n" +
			"\n" +
			"LOG       RECORDS      AGE\n" +
			"a               7       1s\n" +
			"longer  1,234,567  1h30m0s\n" +
			"\n" +
			"no logs\n"},
		{formatJSON, "{\n  \"name\": \"<x>\",\n  \"html\": \"&\"\n}\n"},
	} {
		g := &globals{format: test.format}
		cmd := newRootCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := g.print(cmd, sample{"<x>", "&"}); err != nil {
			t.Fatal(err)
		}
		if out.String() != test.want {
			t.Errorf("as %s:\n%s\nwant:\n%s", test.format, out.String(), test.want)
		}
	}
}

func TestColoursAreForTerminals(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if colours(f) || colours(&bytes.Buffer{}) {
		t.Error("a file is coloured")
	}
	var out bytes.Buffer
	g := grid{head: []string{"A"}, rows: [][]any{{mood{"bad", true}}}}
	if err := g.write(&out, true); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[2mA\x1b[0m\n\x1b[31;1mbad\x1b[0m\n"; out.String() != want {
		t.Errorf("in colour %q, want %q", out.String(), want)
	}
}

func TestSpelling(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{size(0), "0 B"},
		{size(1023), "1023 B"},
		{size(1024), "1.0 KiB"},
		{size(64 << 20), "64.0 MiB"},
		{size(math.MaxUint64), "16384.0 PiB"},
		{rate(1234567.8), "1,234,567/s"},
		{0, "0"},
		{-5, "-5"},
		{999, "999"},
		{1000, "1,000"},
		{uint64(math.MaxUint64), "18,446,744,073,709,551,615"},
		{1.005, "1.00"},
		{1234567 * time.Nanosecond, "1.23ms"},
		{1234 * time.Millisecond, "1.23s"},
		{12345 * time.Millisecond, "12.3s"},
	} {
		if got := cell(test.value, false); got != test.want {
			t.Errorf("%T %v is spelled %q, want %q", test.value, test.value, got, test.want)
		}
	}
}
