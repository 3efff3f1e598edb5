package server

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// staged opens a stream that asked to be told what is written, with one binding.
func (w *world) staged(log string) *stream {
	w.t.Helper()
	s := w.open()
	s.send(&wire.AppendRequest{WrittenAcks: true, Binds: []*walsvcv1.Bind{{Binding: 1, Log: log}}})
	if m := s.next(); len(m.Bounds) != 1 || m.Bounds[0].GetRefusal() != nil || m.Written != 0 {
		w.t.Fatalf("answer to bind: %+v", m)
	}
	return s
}

// TestWrittenAcks hangs a sync behind batches of two streams, of which one asked to be
// told what is written. It counts the stream's batches, those among them that the
// service refuses by itself.
func TestWrittenAcks(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.staged("l")
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 7, Run: runOf("to nothing")}}})
	if m := s.next(); len(m.Verdicts) != 1 || m.Written != 0 {
		t.Fatalf("%+v", m)
	}
	w.hold()
	s.send(&wire.AppendRequest{Batches: []wire.Batch{
		{Binding: 1, Run: runOf("a")}, {Binding: 8, Run: runOf("to nothing")}, {Binding: 1, Run: runOf("b")}, {Binding: 1, Expected: 9, Run: runOf("refused")},
	}})
	if m := s.next(); m.Written != 5 || len(m.Verdicts) != 0 {
		t.Fatalf("while it is not synced: %+v", m)
	}
	if l := w.log("l"); l.GetNextLsn() != 1 {
		t.Errorf("what is written is shown: %v", l)
	}
	other := w.open()
	other.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	other.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("c")}}})
	w.release()
	var got []wire.Verdict
	for len(got) < 4 {
		m := s.next()
		if m.Written != 0 {
			t.Errorf("verdicts say as much: %+v", m)
		}
		got = append(got, m.Verdicts...)
	}
	if got[0].First != 1 || got[1].Refusal.GetReason() != "INVALID" || got[2].First != 2 || got[3].Refusal.GetReason() != "LSN_MISMATCH" {
		t.Errorf("verdicts %+v", got)
	}
	if m := other.next(); len(m.Verdicts) != 1 || m.Written != 0 {
		t.Errorf("one who did not ask: %+v", m)
	}

	s.send(&wire.AppendRequest{WrittenAcks: true})
	_, _, err := s.end()
	wantReason(t, err, codes.InvalidArgument, "INVALID")
}

// TestWrittenCountsAgainstTheCredit: what is written gives no credit back, so that no
// more than the credit of a stream is ever at risk.
func TestWrittenCountsAgainstTheCredit(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.staged("l")
	w.hold()
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("one")}, {Binding: 1, Run: runOf("two")}}})
	if m := s.next(); m.Written != 2 || len(m.Verdicts) > 0 {
		t.Fatalf("%+v", m)
	}
	counted := func(bytes, batches int64) {
		t.Helper()
		if a := w.served(); a.unreadBytes.Load() != bytes || a.unreadBatches.Load() != batches {
			t.Errorf("%d bytes in %d batches count against the credit, want %d in %d", a.unreadBytes.Load(), a.unreadBatches.Load(), bytes, batches)
		}
	}
	counted(int64(len(runOf("one", "two"))), 2)
	w.release()
	s.verdicts(2)
	counted(0, 0)
}
