package records

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/walsvc/walsvc/internal/limits"
)

// sizes lie on both sides of every length of the varint that a legal record
// can have.
var sizes = []int{
	0, 1, 2, 1<<7 - 1, 1 << 7, 1<<7 + 1, 1<<14 - 1, 1 << 14, 1<<14 + 1,
	1<<21 - 1, 1 << 21, 1<<21 + 1, limits.MaxRecordSize,
}

// record returns n bytes that look like records themselves.
func record(n int) []byte { return bytes.Repeat([]byte{tag, 0x00, 0xFF}, n/3+1)[:n] }

func TestRoundTrip(t *testing.T) {
	var run []byte
	for i, n := range sizes {
		before := len(run)
		run = Append(run, record(n))
		if got, want := Size(n), len(run)-before; got != want {
			t.Errorf("Size(%d) = %d, the record takes %d bytes", n, got, want)
		}
		if count, err := Check(run, 0); count != i+1 || err != nil {
			t.Errorf("Check after %d records = %d, %v", i+1, count, err)
		}
	}
	for i, n := range sizes {
		rest, err := Skip(run, i)
		if err != nil {
			t.Fatalf("Skip(%d): %v", i, err)
		}
		got, after, err := Next(rest)
		if err != nil || !bytes.Equal(got, record(n)) {
			t.Fatalf("record %d has %d bytes, want those %d that were put in, %v", i, len(got), n, err)
		}
		if cap(got) != n {
			t.Errorf("record %d has capacity %d: an append to it would write over the next one", i, cap(got))
		}
		if next, err := Skip(run, i+1); err != nil || !bytes.Equal(after, next) {
			t.Errorf("the rest behind record %d is not where Skip(%d) leads, %v", i, i+1, err)
		}
	}
	if rest, err := Skip(run, len(sizes)); len(rest) != 0 || err != nil {
		t.Errorf("Skip of all records leaves %d bytes, %v", len(rest), err)
	}
	if _, err := Skip(run, len(sizes)+1); !errors.Is(err, ErrMalformed) {
		t.Errorf("Skip of one more: %v, want ErrMalformed", err)
	}
}

// TestAppendKeepsWhatIsThere: a run grows behind what the caller had.
func TestAppendKeepsWhatIsThere(t *testing.T) {
	buf := make([]byte, 0, 64)
	buf = append(buf, "prefix"...)
	run := Append(buf, []byte("ab"))
	if got, want := string(run), "prefix\x0a\x02ab"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if &run[0] != &buf[0] {
		t.Error("a buffer with room was not used")
	}
}

// TestIsProtobuf compares with how protobuf encodes field 1, repeated bytes,
// in both directions.
func TestIsProtobuf(t *testing.T) {
	var ours, theirs []byte
	for _, n := range sizes {
		ours = Append(ours, record(n))
		theirs = protowire.AppendTag(theirs, 1, protowire.BytesType)
		theirs = protowire.AppendBytes(theirs, record(n))
		if want := protowire.SizeTag(1) + protowire.SizeBytes(n); Size(n) != want {
			t.Errorf("Size(%d) = %d, protobuf takes %d", n, Size(n), want)
		}
	}
	if !bytes.Equal(ours, theirs) {
		t.Fatal("the run differs from the protobuf message")
	}
	for i := 0; len(theirs) > 0; i++ {
		num, typ, n := protowire.ConsumeTag(theirs)
		if num != 1 || typ != protowire.BytesType {
			t.Fatalf("record %d: field %d of type %d", i, num, typ)
		}
		v, m := protowire.ConsumeBytes(theirs[n:])
		if m < 0 || !bytes.Equal(v, record(sizes[i])) {
			t.Fatalf("record %d: protobuf reads %d bytes, %v", i, len(v), protowire.ParseError(m))
		}
		theirs = theirs[n+m:]
	}
}

// TestConcatenation: two runs behind each other are a run.
func TestConcatenation(t *testing.T) {
	a := Append(Append(nil, []byte("1")), []byte("22"))
	b := Append(nil, []byte("333"))
	if got, want := slices.Concat(a, b), Append(slices.Clone(a), []byte("333")); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMalformed(t *testing.T) {
	whole := "\x0a\x01x"
	for _, c := range []struct{ name, run string }{
		{"tag alone", "\x0a"},
		{"other field", "\x12\x00"},
		{"other wire type", "\x08\x01"},
		{"tag spelled long", "\x8a\x00\x00"},
		{"zeroes", "\x00\x00\x00\x00"},
		{"one byte missing", "\x0a\x02x"},
		{"all bytes missing", "\x0a\x01"},
		{"length cut off", "\x0a\x80"},
		{"long length cut off", "\x0a\xff\xff\xff"},
		{"long record, one byte missing", "\x0a\x80\x01" + strings.Repeat("x", 127)},
		{"zero spelled in two bytes", "\x0a\x80\x00"},
		{"one spelled in two bytes", "\x0a\x81\x00x"},
		{"128 spelled in three bytes", "\x0a\x80\x81\x00" + strings.Repeat("x", 128)},
		{"length of 2^63", "\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"},
		{"length of 2^64-1", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"length over 64 bits", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"},
		{"length of eleven bytes", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r, rest, err := Next([]byte(c.run)); !errors.Is(err, ErrMalformed) || r != nil || rest != nil {
				t.Errorf("Next = %q, %q, %v, want ErrMalformed", r, rest, err)
			}
			for good := range 3 {
				run := []byte(strings.Repeat(whole, good) + c.run)
				count, err := Check(run, 0)
				if !errors.Is(err, ErrMalformed) || count != good {
					t.Errorf("Check behind %d good records = %d, %v, want ErrMalformed", good, count, err)
				}
				if want := fmt.Sprintf("record %d: ", good); err != nil && !strings.HasPrefix(err.Error(), want) {
					t.Errorf("error %q does not say which: %q", err, want)
				}
				if _, err := Skip(run, good); err != nil {
					t.Errorf("Skip to it: %v", err)
				}
				if _, err := Skip(run, good+1); !errors.Is(err, ErrMalformed) {
					t.Errorf("Skip over it: %v, want ErrMalformed", err)
				}
			}
		})
	}
	if _, _, err := Next(nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("Next of an empty run: %v, want ErrMalformed", err)
	}
	if count, err := Check(nil, 0); count != 0 || err != nil {
		t.Errorf("Check of an empty run = %d, %v, want none", count, err)
	}
}

// TestCutRun cuts a run at every byte: it is a run at the records' ends only.
func TestCutRun(t *testing.T) {
	var run []byte
	ends := []int{0}
	for _, n := range []int{0, 1, 130, 3} {
		run = Append(run, record(n))
		ends = append(ends, len(run))
	}
	for i := range len(run) + 1 {
		at, isEnd := slices.BinarySearch(ends, i)
		count, err := Check(run[:i:i], 0)
		if isEnd && (err != nil || count != at) {
			t.Errorf("cut behind %d records: %d, %v", at, count, err)
		}
		if !isEnd && (!errors.Is(err, ErrMalformed) || count != at-1) {
			t.Errorf("cut at byte %d, in record %d: %d, %v, want ErrMalformed", i, at-1, count, err)
		}
	}
}

func TestCheckLimit(t *testing.T) {
	run := func(n int) []byte { return Append(Append(nil, []byte("x")), make([]byte, n)) }
	for _, c := range []struct {
		name         string
		size, limit  int
		wantTooLarge int // the limit in the error; 0 is none
	}{
		{"at the limit", 10, 10, 0},
		{"over the limit", 11, 10, 10},
		{"no limit of its own", limits.MaxRecordSize, 0, 0},
		{"over the limit of all", limits.MaxRecordSize + 1, 0, limits.MaxRecordSize},
		{"a limit higher than that of all", limits.MaxRecordSize + 1, math.MaxInt, limits.MaxRecordSize},
		{"a negative limit", limits.MaxRecordSize + 1, -1, limits.MaxRecordSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			count, err := Check(run(c.size), c.limit)
			if c.wantTooLarge == 0 {
				if count != 2 || err != nil {
					t.Errorf("Check = %d, %v, want 2 records", count, err)
				}
				return
			}
			var large *TooLargeError
			want := TooLargeError{Record: 1, Size: c.size, Limit: c.wantTooLarge}
			if !errors.As(err, &large) || *large != want || count != 1 {
				t.Errorf("Check = %d, %v, want %v", count, err, &want)
			}
			if errors.Is(err, ErrMalformed) {
				t.Error("a record that is too large counts as malformed")
			}
		})
	}
	err := &TooLargeError{Record: 3, Size: 11, Limit: 10}
	if got, want := err.Error(), "record 3 of the batch has 11 bytes, the limit is 10"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{16, 256, 4096} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			r := record(size)
			buf := make([]byte, 0, Size(size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				buf = Append(buf[:0], r)
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, size := range []int{16, 256, 4096} {
		b.Run(fmt.Sprintf("size=%d/records=100", size), func(b *testing.B) {
			var run []byte
			for range 100 {
				run = Append(run, record(size))
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				count, err := Check(run, 0)
				if err != nil {
					b.Fatal(err)
				}
				n += count
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record") // bytes are not looked at
		})
	}
}
