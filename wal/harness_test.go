package wal

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/segment"
)

// pollUntil calls done until it reports true: what the volume's own goroutines
// do is seen only by looking.
func pollUntil(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// fileOf returns the path of a segment's file.
func fileOf(id segment.ID) string { return "/vol/" + id.String() + ".wal" }

// corrupt flips a byte of the frame at pos, at an offset within the frame.
func corrupt(t testing.TB, fs disk.FS, pos segment.Pos, within int64) {
	t.Helper()
	f, err := fs.Open(fileOf(pos.Segment), true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], pos.Offset+within); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x55
	if _, err := f.WriteAt(b[:], pos.Offset+within); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// frameOf returns the frame that has a durable record.
func frameOf(t testing.TB, v *Volume, log string, lsn LSN) *segment.Frame {
	t.Helper()
	var b batchFrame
	v.mu.RLock()
	l := v.durable.named(log)
	h, number := l.history(), l.number
	v.mu.RUnlock()
	if err := v.seek(&b, log, number, lsn, &h); err != nil {
		t.Fatal(err)
	}
	return b.frame
}

// follow reads records from r until it has n of them, or an error.
func follow(ctx context.Context, r *Reader, n int) (out []string, err error) {
	for len(out) < n {
		span, err := r.Next(ctx)
		if err != nil {
			return out, err
		}
		recs, err := split(span.Run)
		if err != nil {
			return out, err
		}
		out = append(out, recs...)
	}
	return out, nil
}

// drain reads to the end of what a Reader has.
func drain(r *Reader) (spans []Span, err error) {
	for {
		span, err := r.Next(context.Background())
		if err == io.EOF {
			return spans, nil
		}
		if err != nil {
			return spans, err
		}
		span.Run = append([]byte(nil), span.Run...)
		span.Stored = append([]byte(nil), span.Stored...)
		spans = append(spans, span)
	}
}

// producerID makes a ULID that is not zero.
func producerID(n byte) ulid.ULID { return ulid.ULID{15: n} }
