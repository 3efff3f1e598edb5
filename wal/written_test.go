package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// wantWritten checks how many batches a seat is told to be written, and how many
// verdicts there are to be taken.
func wantWritten(t testing.TB, s *seat, written uint64, verdicts int) []Verdict {
	t.Helper()
	w, got := s.Written(), s.Take(nil)
	if w != written || len(got) != verdicts {
		t.Errorf("%d batches are written and %d settled, want %d and %d", w, len(got), written, verdicts)
	}
	return got
}

// TestWrittenIsNotDurable hangs the sync behind a written frame, in which a batch
// rides with its repeat, a refusal and what comes behind that. All of it counts as
// written and nothing is told to be durable, shown, or counted for whoever is not
// written yet. The frame survives the death of the process, and not that of the
// machine. A seat that did not ask is not even woken.
func TestWrittenIsNotDurable(t *testing.T) { synctest.Test(t, writtenIsNotDurable) }

func writtenIsNotDurable(t *testing.T) {
	ctx := t.Context()
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	o := testOptions(faulty)
	o.Codec = "none"
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	mustOpenProducer(t, v, "log", producerID(1))
	s, behind := newSeat(t, v), newSeat(t, v)
	s.TellWritten()
	behind.TellWritten()
	b, other := s.bind("log", producerID(1)), behind.bind("log", ulid.ULID{})
	if got := s.verdicts(Batch{Binding: b, Sequence: 1, Run: run("1")}); got[0].Err != nil {
		t.Fatal(got[0].Err)
	}
	wantWritten(t, s, 1, 0)
	for len(s.ready) > 0 {
		<-s.ready
	}

	release := hangSync(v, faulty, func() { // on this seat's own goroutine, which so tells it itself
		err := s.Append(ctx, []Batch{
			{Binding: b, Sequence: 1, Run: run("1")}, {Binding: b, Sequence: 2, Run: run("2")},
			{Binding: b, Sequence: 9, Run: run("skipped")}, {Binding: b, Sequence: 3, Run: run("behind it")},
		})
		if err != nil {
			t.Error(err)
		}
	})
	if len(s.ready) == 0 {
		t.Error("the seat was not woken for what is written")
	}
	wantWritten(t, s, 5, 0)
	if err := behind.Append(ctx, []Batch{{Binding: other, Run: run("3")}}); err != nil {
		t.Fatal(err)
	}
	silent := atomic.Int32{}
	mute := v.NewAppender(func() { silent.Add(1) })
	unasked, _, _, err := mute.Bind("log", Producer{}, 0, Claim{})
	if err != nil {
		t.Fatal(err)
	}
	if err := mute.Append(ctx, []Batch{{Binding: unasked, Run: run("4")}}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	wantWritten(t, behind, 0, 0) // its frame waits for the disk
	if info, err := v.Log("log"); err != nil || info.Next != 2 {
		t.Errorf("what is written is shown: %+v, %v", info, err)
	}
	for survives, next := range []LSN{2, 3} {
		left, _, err := recovered(mem.CrashClone(nil, float64(survives)))
		if err != nil || left.named("log").next != next {
			t.Errorf("of what is not synced %d survives: next LSN %d, %v; want %d", survives, left.named("log").next, err, next)
		}
	}

	release()
	synctest.Wait()
	for i, got := range wantWritten(t, s, 5, 4) {
		switch i {
		case 0, 1:
			if got.Err != nil || got.First != LSN(i+1) || got.Repeated != (i == 0) {
				t.Errorf("batch %d: %+v", i, got)
			}
		case 2:
			if !errors.Is(got.Err, ErrSequenceGap) {
				t.Errorf("batch %d: %+v", i, got)
			}
		case 3:
			if !errors.Is(got.Err, ErrAfterRefusal) {
				t.Errorf("batch %d: %+v", i, got)
			}
		}
	}
	wantWritten(t, behind, 1, 1)
	if n := silent.Load(); n != 1 || mute.Pending() != 1 || mute.Written() != 0 {
		t.Errorf("a seat that did not ask was woken %d times and told of %d", n, mute.Written())
	}
	closeTest(t, v)
}

// TestWrittenAndPoisoned has the sync behind a written frame fail: what was told to
// be written has an unknown outcome, and no more is told.
func TestWrittenAndPoisoned(t *testing.T) { synctest.Test(t, writtenAndPoisoned) }

func writtenAndPoisoned(t *testing.T) {
	faulty := disk.NewFaulty(disk.NewMem())
	o := testOptions(faulty)
	o.Codec = "none"
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	s := newSeat(t, v)
	s.TellWritten()
	b := s.bind("log", ulid.ULID{})
	segment := fileOf(v.filling())
	hang := make(chan struct{})
	faulty.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && strings.HasSuffix(segment, op.Name) {
			<-hang
			return errors.New("the disk lost it")
		}
		return nil
	})
	var appending sync.WaitGroup
	appending.Go(func() {
		if err := s.Append(t.Context(), []Batch{{Binding: b, Run: run("1")}, {Binding: b, Run: run("2")}}); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	wantWritten(t, s, 2, 0)
	close(hang)
	appending.Wait()
	for _, got := range wantWritten(t, s, 0, 2) {
		if !errors.Is(got.Err, ErrPoisoned) || got.First != 0 {
			t.Errorf("%+v", got)
		}
	}
	if err := v.Close(); !errors.Is(err, ErrPoisoned) {
		t.Error(err)
	}
}

// TestWrittenComesFirst has seats append at full speed, and wants every batch told
// to be written before it is told to be durable, in order, and never more than there are.
func TestWrittenComesFirst(t *testing.T) {
	v := openTest(t, disk.NewMem())
	mustCreate(t, v, "log")
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			s := newSeat(t, v)
			s.TellWritten()
			b := s.bind("log", ulid.ULID{})
			sent, settled, written := 0, 0, uint64(0)
			for settled < 300 {
				if sent < 300 && sent-settled < 40 {
					var batches []Batch
					for i := range 1 + sent%7 {
						batches = append(batches, Batch{Binding: b, Run: run(fmt.Sprint(sent + i))})
					}
					if err := s.Append(context.Background(), batches); err != nil {
						t.Error(err)
						return
					}
					sent += len(batches)
				} else {
					<-s.ready
				}
				now := s.Written()
				got := s.Take(nil)
				settled += len(got)
				if after := s.Written(); now < written || now > uint64(sent) || after < uint64(settled) {
					t.Errorf("%d sent, %d settled, written were %d, then %d, then %d", sent, settled, written, now, after)
					return
				}
				written = now
			}
		})
	}
	clients.Wait()
	closeTest(t, v)
}
