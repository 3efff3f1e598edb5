package client

import (
	"bytes"
	"errors"
	"testing"

	"github.com/walsvc/walsvc/internal/wire"
)

// TestWritten: an append is told to be written, and that is not to be durable; what is
// written on a stream that breaks is sent again, and lands once.
func TestWritten(t *testing.T) {
	for _, breaks := range []bool{false, true} {
		f := newFake()
		f.log("log")
		f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
			switch {
			case len(m.Batches) == 0 || stream > 1:
				return served
			case len(m.Batches[0].Run) < 1000:
				return withheld
			case breaks:
				return lostBefore
			}
			return served
		}
		f.onWritten = func(_ int, batches uint64) uint64 { return batches }
		c := f.serve(t, Options{WrittenAcks: true})
		l := c.Log("log")
		one := l.AppendAsync(t.Context(), []byte("one"))
		<-one.Written()
		select {
		case <-one.Done():
			t.Error("what is written is durable")
		default:
		}
		two := l.AppendAsync(t.Context(), bytes.Repeat([]byte("2"), fullMessage)) // does not wait for the first
		for i, future := range []*Future{one, two} {
			if r, err := future.Wait(t.Context()); err != nil || r.LSN != LSN(i+1) {
				t.Errorf("append %d: %+v, %v", i, r, err)
			}
			<-future.Written()
		}
		if got := f.contents("log"); len(got) != 2 {
			t.Errorf("%d records landed", len(got))
		}
	}
}

// TestWrittenIsDone: who did not ask, and what was not taken, has no first stage.
func TestWrittenIsDone(t *testing.T) {
	f := newFake()
	f.log("log")
	l := f.serve(t, Options{}).Log("log")
	future := l.AppendAsync(t.Context(), []byte("x"))
	if future.Written() != future.Done() {
		t.Error("another channel without WrittenAcks")
	}
	<-future.Written()
	large := l.AppendAsync(t.Context(), make([]byte, 9<<20))
	<-large.Written()
	if _, err := large.Wait(t.Context()); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestMoreIsWrittenThanWasSent breaks with a service that says so, and goes on with it.
func TestMoreIsWrittenThanWasSent(t *testing.T) {
	f := newFake()
	f.log("log")
	f.onMessage = func(stream, _ int, m *wire.AppendRequest) fate {
		if len(m.Batches) > 0 && stream == 1 {
			return withheld
		}
		return served
	}
	f.onWritten = func(_ int, batches uint64) uint64 { return batches + 1 }
	l := f.serve(t, Options{WrittenAcks: true}).Log("log")
	if lsn, err := l.Append(t.Context(), []byte("x")); err != nil || lsn != 1 {
		t.Errorf("LSN %d, %v", lsn, err)
	}
	if f.streams != 2 {
		t.Errorf("%d streams", f.streams)
	}
}
