package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes, spelled 67108864, 65536KiB or 64MiB. Negative is
// spelled "unlimited", where a setting knows that.
type Size int64

// Unlimited is no bound.
const Unlimited Size = -1

var units = []struct {
	suffix string
	size   Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String spells a Size in the largest unit that it is a multiple of.
func (s Size) String() string {
	if s < 0 {
		return "unlimited"
	}
	for _, u := range units {
		if s >= u.size && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.suffix
		}
	}
	return "0B"
}

// ParseSize is the inverse of Size.String, which also takes plain numbers.
func ParseSize(text string) (Size, error) {
	if text == "unlimited" {
		return Unlimited, nil
	}
	unit, digits := Size(1), text
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			unit, digits = u.size, strings.TrimSpace(rest)
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > uint64((1<<63-1)/unit) {
		return 0, fmt.Errorf("size %q: want a number of bytes, such as 64MiB", text)
	}
	return Size(n) * unit, nil
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}
