package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

func mustAcquire(t testing.TB, v *Volume, log string, a Acquire) Writer {
	t.Helper()
	w, err := v.AcquireWriter(context.Background(), log, a)
	if err != nil {
		t.Fatalf("acquire %q for %q: %v", log, a.Holder, err)
	}
	return w
}

// wantFenced checks that a refusal names the epoch that was stated, and the one
// that is, with its holder.
func wantFenced(t testing.TB, err error, stated, current Epoch, holder string) {
	t.Helper()
	var f *FencedError
	if !errors.As(err, &f) || !errors.Is(err, ErrFenced) || f.Epoch != stated || f.Current != current || f.Holder != holder {
		t.Errorf("%v, want epoch %d fenced by epoch %d of %q", err, stated, current, holder)
	}
}

func appendIn(v *Volume, log string, epoch Epoch, record string) (Verdict, error) {
	return v.Append(context.Background(), log, ulid.ULID{}, epoch, Batch{Run: run(record)})
}

func TestWriter(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1", "2")
	if _, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Append(ctx, "log", producerID(1), 0, Batch{Sequence: 1, Run: run("3")}); err != nil {
		t.Fatal(err)
	}

	one := mustAcquire(t, v, "log", Acquire{Holder: "db-1", Producer: producerID(1)})
	if one.Log.Epoch != 2 || one.Log.Holder != "db-1" || one.Log.Next != 4 || one.LastSequence != 1 || one.Repeated {
		t.Fatalf("%+v", one)
	}
	if info, err := v.Log("log"); err != nil || info.Epoch != 2 || info.Holder != "db-1" || info.Checksum != one.Log.Checksum {
		t.Errorf("%+v, %v", info, err)
	}
	if got, err := appendIn(v, "log", 2, "4"); err != nil || got.First != 4 || got.Epoch != 2 {
		t.Errorf("its writer: %+v, %v", got, err)
	}
	_, err := appendIn(v, "log", 0, "nobody's")
	wantFenced(t, err, 0, 2, "db-1")
	_, err = appendIn(v, "log", 1, "nobody's")
	wantFenced(t, err, 1, 2, "db-1")

	two := mustAcquire(t, v, "log", Acquire{Holder: "db-2", Producer: producerID(2)})
	if two.Log.Epoch != 3 || two.Log.Next != 5 || two.LastSequence != 0 {
		t.Fatalf("%+v", two)
	}
	_, err = appendIn(v, "log", 2, "late")
	wantFenced(t, err, 2, 3, "db-2")
	// With a producer a batch is judged by itself: its first append is what a
	// fenced writer wants to know of.
	_, err = v.Append(ctx, "log", producerID(1), 2, Batch{Sequence: 2, Run: run("late")})
	wantFenced(t, err, 2, 3, "db-2")
	if got, err := v.Append(ctx, "log", producerID(1), 2, Batch{Sequence: 1, Run: run("3")}); err != nil || !got.Repeated || got.First != 3 {
		t.Errorf("a repeat from an older epoch: %+v, %v", got, err)
	}

	_, err = v.ReleaseWriter(ctx, "log", 2)
	wantFenced(t, err, 2, 3, "db-2")
	for range 2 { // it may be asked again
		if info, err := v.ReleaseWriter(ctx, "log", 3); err != nil || info.Epoch != 4 || info.Holder != "" {
			t.Errorf("%+v, %v", info, err)
		}
	}
	_, err = appendIn(v, "log", 3, "released")
	wantFenced(t, err, 3, 4, "")
	if got, err := appendIn(v, "log", 0, "5"); err != nil || got.First != 5 || got.Epoch != 4 {
		t.Errorf("shared again: %+v, %v", got, err)
	}
	equal(t, readAll(t, v, "log", 0), []string{"1", "2", "3", "4", "5"})

	mustAcquire(t, v, "log", Acquire{Holder: "db-3"})
	for range 2 { // from commands, and then from a snapshot
		closeTest(t, v)
		v = openTest(t, fs)
		if info, err := v.Log("log"); err != nil || info.Epoch != 5 || info.Holder != "db-3" {
			t.Fatalf("after a restart: %+v, %v", info, err)
		}
		_, err = appendIn(v, "log", 0, "nobody's")
		wantFenced(t, err, 0, 5, "db-3")
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
}

// TestAcquireAgain: a request whose answer was lost is answered again; a
// condition on the epoch lets one of several have it; without either, each gets
// an epoch of its own.
func TestAcquireAgain(t *testing.T) {
	fs := disk.NewMem()
	v := openTest(t, fs)
	mustCreate(t, v, "log")
	first := Epoch(1)
	a := Acquire{Holder: "db", Expected: &first, Request: producerID(1)}
	if w := mustAcquire(t, v, "log", a); w.Log.Epoch != 2 || w.Repeated {
		t.Fatalf("%+v", w)
	}
	closeTest(t, v)
	v = openTest(t, fs)
	defer func() { closeTest(t, v) }()
	if w := mustAcquire(t, v, "log", a); w.Log.Epoch != 2 || !w.Repeated {
		t.Errorf("asked again after a restart: %+v", w)
	}
	// Another process of that name is another writer.
	b := a
	b.Request = producerID(2)
	_, err := v.AcquireWriter(context.Background(), "log", b)
	wantFenced(t, err, 1, 2, "db")
	second := Epoch(2)
	b.Expected = &second
	if w := mustAcquire(t, v, "log", b); w.Log.Epoch != 3 || w.Repeated {
		t.Errorf("%+v", w)
	}
	_, err = v.AcquireWriter(context.Background(), "log", a)
	wantFenced(t, err, 1, 3, "db")
	for epoch := Epoch(4); epoch < 6; epoch++ {
		if w := mustAcquire(t, v, "log", Acquire{Holder: "db"}); w.Log.Epoch != epoch || w.Repeated {
			t.Errorf("without a request: %+v, want epoch %d", w, epoch)
		}
	}
	// A released one is nobody's any more.
	c := Acquire{Holder: "db", Request: producerID(3)}
	mustAcquire(t, v, "log", c)
	if _, err := v.ReleaseWriter(context.Background(), "log", 6); err != nil {
		t.Fatal(err)
	}
	if w := mustAcquire(t, v, "log", c); w.Log.Epoch != 8 || w.Repeated {
		t.Errorf("after it was released: %+v", w)
	}

	for _, name := range []string{"", " ", "a b", string(make([]byte, limits.MaxHolderNameBytes+1))} {
		if _, err := v.AcquireWriter(context.Background(), "log", Acquire{Holder: name}); !errors.Is(err, ErrInvalidName) {
			t.Errorf("holder %.10q: %v", name, err)
		}
	}
	if _, err := v.AcquireWriter(context.Background(), "none", Acquire{Holder: "db"}); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
	if _, err := v.ReleaseWriter(context.Background(), "none", 1); !errors.Is(err, ErrLogNotFound) {
		t.Errorf("no log: %v", err)
	}
}

// TestFencedInTheQueue acquires a writer while the old one has a frame on its way
// to the disk, another one sequenced behind it, and goes on sending on a stream
// that it had bound long before. What was sequenced first lands and is
// acknowledged, below what the new writer is told; nothing of the rest lands, and
// nobody hears of the new epoch before the disk has it.
func TestFencedInTheQueue(t *testing.T) { synctest.Test(t, fencedInTheQueue) }

func fencedInTheQueue(t *testing.T) {
	ctx := t.Context()
	faulty := disk.NewFaulty(disk.NewMem())
	o := testOptions(faulty)
	o.Codec = "none"
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	old := mustAcquire(t, v, "log", Acquire{Holder: "old"})
	if _, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil {
		t.Fatal(err)
	}
	s := newSeat(t, v)
	b, _, _, err := s.Bind("log", Producer{ID: producerID(1)}, old.Log.Epoch, Claim{})
	if err != nil {
		t.Fatal(err)
	}
	batch := func(q uint64) Batch { return Batch{Binding: b, Sequence: q, Run: run(fmt.Sprint(q))} }
	if got := s.verdicts(batch(1)); got[0].Err != nil {
		t.Fatal(got[0].Err)
	}
	release := hangSync(v, faulty, func() { mustAppend(t, v, "other", "is on its way") })
	if err := s.Append(ctx, []Batch{batch(2), batch(3)}); err != nil {
		t.Fatal(err)
	}
	acquired := make(chan Writer, 1)
	go func() {
		w, err := v.AcquireWriter(ctx, "log", Acquire{Holder: "new", Producer: producerID(1)})
		if err != nil {
			t.Error(err)
		}
		acquired <- w
	}()
	synctest.Wait()
	if err := s.Append(ctx, []Batch{batch(4), batch(5)}); err != nil {
		t.Fatal(err)
	}
	if info, err := v.Log("log"); err != nil || info.Epoch != 2 || info.Holder != "old" {
		t.Errorf("shown before it is durable: %+v, %v", info, err)
	}
	select {
	case w := <-acquired:
		t.Fatalf("told before it is durable: %+v", w)
	default:
	}
	if got := s.Take(nil); len(got) > 0 {
		t.Fatalf("told before it is durable: %+v", got)
	}
	release()
	w := <-acquired
	if w.Log.Epoch != 3 || w.Log.Next != 4 || w.LastSequence != 3 {
		t.Errorf("the new writer: %+v", w)
	}
	var got []Verdict
	for got = s.Take(nil); s.Pending() > 0; got = s.Take(got) {
		<-s.ready
	}
	for i, verdict := range got {
		switch {
		case i < 2:
			if verdict.Err != nil || verdict.First != LSN(i)+2 || verdict.Epoch != 2 {
				t.Errorf("sequenced before: %+v", verdict)
			}
		case i == 2:
			wantFenced(t, verdict.Err, 2, 3, "new")
		case !errors.Is(verdict.Err, ErrAfterRefusal):
			t.Errorf("behind it: %+v", verdict)
		}
	}
	// It stays fenced, however often it asks, and used up no sequence.
	s.Reset(b)
	wantFenced(t, s.verdicts(batch(4))[0].Err, 2, 3, "new")
	if verdict, err := v.Append(ctx, "log", producerID(1), 3, Batch{Sequence: 4, Run: run("new 4")}); err != nil || verdict.First != 4 {
		t.Errorf("the new writer: %+v, %v", verdict, err)
	}
	equal(t, readAll(t, v, "log", 0), []string{"1", "2", "3", "new 4"})
	s.Close()
	closeTest(t, v)
}

// hangSync has do ride in a frame whose sync hangs until release is called, and
// returns when it does: what is sequenced meanwhile lies behind it.
func hangSync(v *Volume, faulty *disk.Faulty, do func()) (release func()) {
	hanging, let, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	segment := fileOf(v.filling())
	faulty.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && strings.HasSuffix(segment, op.Name) {
			once.Do(func() { close(hanging) })
			<-let
		}
		return nil
	})
	go func() {
		defer close(done)
		do()
	}()
	<-hanging
	return func() {
		close(let)
		<-done
	}
}

// TestFencedCheckpoint: a writer that was fenced sets no checkpoint, whatever it
// has read of the one that is there, and takes none of its successor's records for
// durable ones of its own, asked before it was fenced or after.
func TestFencedCheckpoint(t *testing.T) {
	ctx := t.Context()
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	old := mustAcquire(t, v, "log", Acquire{Holder: "old"}).Log.Epoch
	if _, err := appendIn(v, "log", old, "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetCheckpointIn(ctx, "log", old, Checkpoint{Name: "engine", LSN: 1}, nil); err != nil {
		t.Fatal(err)
	}
	if lsn, err := v.WaitDurableIn(ctx, "log", old, 1); err != nil || lsn != 1 {
		t.Errorf("waited until %d, %v", lsn, err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := v.WaitDurableIn(ctx, "log", old, 2)
		waited <- err
	}()
	epoch := mustAcquire(t, v, "log", Acquire{Holder: "new"}).Log.Epoch
	if _, err := appendIn(v, "log", epoch, "2"); err != nil {
		t.Fatal(err)
	}
	wantFenced(t, <-waited, old, epoch, "new")
	_, err := v.WaitDurableIn(ctx, "log", old, 2)
	wantFenced(t, err, old, epoch, "new")
	one := uint64(1)
	_, err = v.SetCheckpointIn(ctx, "log", old, Checkpoint{Name: "engine", LSN: 2}, &one)
	wantFenced(t, err, old, epoch, "new")
	_, err = v.SetCheckpointIn(ctx, "log", old, Checkpoint{Name: "engine", LSN: 9}, nil)
	wantFenced(t, err, old, epoch, "new") // not that LSN 9 is not there yet
	if cp, err := v.SetCheckpointIn(ctx, "log", epoch, Checkpoint{Name: "engine", LSN: 2}, &one); err != nil || cp.Version != 2 {
		t.Errorf("the writer: %+v, %v", cp, err)
	}
	if cp, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "backup", LSN: 2}, nil); err != nil || cp.Version != 1 {
		t.Errorf("somebody else: %+v, %v", cp, err)
	}
}

// TestFencedCheckpointInTheQueue: a checkpoint that is sequenced behind a new epoch
// is refused though the epoch was the checkpoint's when it was asked for.
func TestFencedCheckpointInTheQueue(t *testing.T) { synctest.Test(t, fencedCheckpointInTheQueue) }

func fencedCheckpointInTheQueue(t *testing.T) {
	ctx := t.Context()
	faulty := disk.NewFaulty(disk.NewMem())
	o := testOptions(faulty)
	o.Codec = "none"
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	mustCreate(t, v, "other")
	old := mustAcquire(t, v, "log", Acquire{Holder: "old"}).Log.Epoch
	release := hangSync(v, faulty, func() { mustAppend(t, v, "other", "is on its way") })
	acquired := make(chan Writer, 1)
	go func() {
		w, err := v.AcquireWriter(ctx, "log", Acquire{Holder: "new"})
		if err != nil {
			t.Error(err)
		}
		acquired <- w
	}()
	synctest.Wait()
	set := make(chan error, 1)
	go func() {
		_, err := v.SetCheckpointIn(ctx, "log", old, Checkpoint{Name: "engine"}, nil)
		set <- err
	}()
	synctest.Wait()
	release()
	wantFenced(t, <-set, old, (<-acquired).Log.Epoch, "new")
	closeTest(t, v)
}
