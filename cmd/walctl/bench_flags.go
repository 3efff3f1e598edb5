package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/walsvc/walsvc/internal/bench"
)

// A sizeFlag is a number of bytes as the value of a flag: 400, 4KiB, 64M, 1 GiB.
// Units are binary, whichever way they are spelled.
type sizeFlag int64

// String implements pflag.Value.
func (s *sizeFlag) String() string { return bench.SizeName(int64(*s)) }

// Type implements pflag.Value.
func (s *sizeFlag) Type() string { return "size" }

// Set implements pflag.Value.
func (s *sizeFlag) Set(text string) error {
	digits := strings.TrimRight(text, " KMGTiBkmgtb")
	shift, ok := map[string]int{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40}[strings.ToLower(strings.TrimSpace(text[len(digits):]))]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is no size: want bytes, as 400, 4KiB or 64MiB", text)
	}
	*s = sizeFlag(n << shift)
	return nil
}
