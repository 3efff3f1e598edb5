package records

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/walsvc/walsvc/internal/allocs"
)

// FuzzRun takes any bytes apart. What is a run is spelled in one way only, and
// protobuf sees the same records in it; what is none is so from the record on
// that Check names.
func FuzzRun(f *testing.F) {
	for _, s := range []string{
		"", "\x0a", "\x0a\x00", "\x0a\x01x\x0a\x00", "\x0a\x81\x00x", "\x12\x00", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		string(Append(Append(nil, record(127)), record(128))),
	} {
		f.Add([]byte(s), 0)
	}
	f.Add([]byte("\x0a\x03abc"), 2)
	f.Fuzz(func(t *testing.T, run []byte, maxRecord int) {
		var count int
		var err error
		allocs.AtMost(t, 4<<10, func() { count, err = Check(run, maxRecord) })
		var large *TooLargeError
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.As(err, &large) {
			t.Fatalf("an error of no kind: %v", err)
		}
		var again []byte
		rest, theirs := run, run
		for i := range count {
			record, behind, err := Next(rest)
			if err != nil {
				t.Fatalf("Check counts %d records, record %d: %v", count, i, err)
			}
			num, typ, n := protowire.ConsumeTag(theirs)
			v, m := protowire.ConsumeBytes(theirs[max(n, 0):])
			if num != 1 || typ != protowire.BytesType || m < 0 || !bytes.Equal(v, record) {
				t.Fatalf("record %d: protobuf reads field %d, %q, not %q", i, num, v, record)
			}
			theirs = theirs[n+m:]
			again = Append(again, record)
			rest = behind
		}
		if !bytes.Equal(again, run[:len(run)-len(rest)]) {
			t.Fatalf("%q is spelled again as %q", run, again)
		}
		if skipped, err := Skip(run, count); err != nil || !bytes.Equal(skipped, rest) {
			t.Fatalf("Skip(%d) leaves %q, %v, want %q", count, skipped, err, rest)
		}
		next, _, nextErr := Next(rest)
		switch {
		case err == nil && len(rest) != 0:
			t.Fatalf("Check found no error, and left %q", rest)
		case large != nil && (nextErr != nil || len(next) != large.Size || large.Record != count || large.Size <= large.Limit):
			t.Fatalf("Check says %v, the record has %d bytes, %v", large, len(next), nextErr)
		case errors.Is(err, ErrMalformed) && nextErr == nil:
			t.Fatalf("Check says %v, Next reads %q", err, next)
		}
	})
}
