package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
)

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 5000) // over the smallest buffer of a bufio.Reader
	for _, test := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"\n", []string{""}},
		{"a", []string{"a"}},
		{"a\n", []string{"a"}},
		{"a\n\nb", []string{"a", "", "b"}},
		{"a\r\n", []string{"a\r"}},
		{long + "\n" + long, []string{long, long}},
		{"a\n" + long + "\nb\n", []string{"a", long, "b"}},
	} {
		r := bufio.NewReaderSize(strings.NewReader(test.in), 16)
		var got []string
		for {
			line, err := readLine(r)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(line))
		}
		if strings.Join(got, "|") != strings.Join(test.want, "|") || len(got) != len(test.want) {
			t.Errorf("%.20q: %d lines %.40q, want %d", test.in, len(got), got, len(test.want))
		}
	}
}

func TestReadLineIsBounded(t *testing.T) {
	most := bytes.Repeat([]byte{'x'}, limits.MaxRecordSize)
	for _, end := range []string{"", "\n"} {
		r := bufio.NewReader(io.MultiReader(bytes.NewReader(most), strings.NewReader(end)))
		if line, err := readLine(r); err != nil || len(line) != limits.MaxRecordSize {
			t.Errorf("the largest record with %q behind it: %d bytes, %v", end, len(line), err)
		}
		r = bufio.NewReader(io.MultiReader(bytes.NewReader(most), strings.NewReader("x"+end)))
		if line, err := readLine(r); err == nil {
			t.Errorf("a byte more with %q behind it: %d bytes and no error", end, len(line))
		}
	}
}
