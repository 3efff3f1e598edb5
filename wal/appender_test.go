package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A seat is an Appender whose verdicts are waited for.
type seat struct {
	*Appender
	t     testing.TB
	ready chan struct{}
}

func newSeat(t testing.TB, v *Volume) *seat {
	ready := make(chan struct{}, 1)
	return &seat{t: t, ready: ready, Appender: v.NewAppender(func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	})}
}

func (s *seat) bind(log string, producer ulid.ULID) *Binding {
	s.t.Helper()
	b, _, _, err := s.Bind(log, Producer{ID: producer}, 0, Claim{})
	if err != nil {
		s.t.Fatalf("bind %q: %v", log, err)
	}
	return b
}

// verdicts appends batches and waits for what becomes of them.
func (s *seat) verdicts(batches ...Batch) (out []Verdict) {
	s.t.Helper()
	if err := s.Append(context.Background(), batches); err != nil {
		s.t.Fatalf("append: %v", err)
	}
	for out = s.Take(nil); s.Pending() > 0; out = s.Take(out) {
		<-s.ready
	}
	return out
}

func TestVerdicts(t *testing.T) {
	ctx := context.Background()
	fs := disk.NewMem()
	v := openTest(t, fs)
	for _, name := range []string{"a", "b"} {
		mustCreate(t, v, name)
	}
	if _, _, err := v.CreateLog(ctx, "small", LogOptions{QuotaBytes: 20, MaxRecordBytes: 8}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenProducer(ctx, "a", producerID(1)); err != nil {
		t.Fatal(err)
	}
	s := newSeat(t, v)
	a, b, small := s.bind("a", producerID(1)), s.bind("b", ulid.ULID{}), s.bind("small", ulid.ULID{})
	steps := []struct {
		name  string
		batch Batch
		first LSN
		again bool
		want  error
		reset bool // afterwards
	}{
		{name: "first", batch: Batch{Binding: a, Sequence: 1, Run: run("1", "2")}, first: 1},
		{name: "another log, expected", batch: Batch{Binding: b, Expected: 1, Run: run("x")}, first: 1},
		{name: "gap", batch: Batch{Binding: a, Sequence: 3, Run: run("3")}, want: ErrSequenceGap},
		{name: "after the gap", batch: Batch{Binding: a, Sequence: 2, Run: run("3")}, want: ErrAfterRefusal},
		{name: "another log goes on", batch: Batch{Binding: b, Run: run("y")}, first: 2},
		{name: "a repeat is answered all the same", batch: Batch{Binding: a, Sequence: 1, Run: run("1", "2")}, first: 1, again: true, reset: true},
		{name: "after the reset", batch: Batch{Binding: a, Sequence: 2, Run: run("3")}, first: 3},
		{name: "repeat before its condition", batch: Batch{Binding: a, Sequence: 2, Expected: 77, Run: run("3")}, first: 3, again: true},
		{name: "reuse", batch: Batch{Binding: a, Sequence: 2, Run: run("other")}, want: ErrSequenceReuse, reset: true},
		{name: "reuse cut differently", batch: Batch{Binding: a, Sequence: 1, Run: run("1")}, want: ErrSequenceReuse, reset: true},
		{name: "producer without a sequence", batch: Batch{Binding: a, Run: run("3")}, want: ErrInvalid, reset: true},
		{name: "sequence without a producer", batch: Batch{Binding: b, Sequence: 1, Run: run("z")}, want: ErrInvalid, reset: true},
		{name: "expected", batch: Batch{Binding: b, Expected: 9, Run: run("z")}, want: ErrLSNMismatch, reset: true},
		{name: "empty", batch: Batch{Binding: b}, want: ErrEmptyBatch, reset: true},
		{name: "malformed", batch: Batch{Binding: b, Run: []byte{200}}, want: ErrMalformed, reset: true},
		{name: "batch too large", batch: Batch{Binding: b, Run: make([]byte, v.maxBatch+1)}, want: ErrTooLarge, reset: true},
		{name: "record too large", batch: Batch{Binding: small, Run: run("123456789")}, want: ErrTooLarge, reset: true},
		{name: "quota left", batch: Batch{Binding: small, Run: run("12345678", "12345678")}, first: 1},
		{name: "quota", batch: Batch{Binding: small, Run: run("12345678")}, want: ErrQuota, reset: true},
		{name: "nothing refused took a place", batch: Batch{Binding: b, Run: run("z")}, first: 3},
		{name: "nor a sequence", batch: Batch{Binding: a, Sequence: 3, Run: run("4")}, first: 4},
	}
	for i, step := range steps {
		step.batch.Tag = uint64(i)
		got := s.verdicts(step.batch)
		if len(got) != 1 || got[0].Tag != uint64(i) || got[0].Binding != step.batch.Binding || got[0].Sequence != step.batch.Sequence {
			t.Fatalf("%s: %+v", step.name, got)
		}
		if !errors.Is(got[0].Err, step.want) || got[0].First != step.first || got[0].Repeated != step.again {
			t.Fatalf("%s: %+v, want first %d, repeated %t, %v", step.name, got[0], step.first, step.again, step.want)
		}
		if step.reset {
			s.Reset(step.batch.Binding)
		}
	}
	s.Close()
	// A new stream, and one after a restart, hear the same.
	for range 2 {
		s := newSeat(t, v)
		a := s.bind("a", producerID(1))
		if got := s.verdicts(Batch{Binding: a, Sequence: 2, Run: run("3")})[0]; got.Err != nil || !got.Repeated || got.First != 3 || got.Count != 1 {
			t.Fatalf("repeated on another stream: %+v", got)
		}
		s.Close()
		closeTest(t, v)
		v = openTest(t, fs)
	}
	equal(t, readAll(t, v, "a", 0), []string{"1", "2", "3", "4"})
	equal(t, readAll(t, v, "b", 0), []string{"x", "y", "z"})
	// Behind the window a repeat is known to be one, its place is not.
	s = newSeat(t, v)
	a = s.bind("a", producerID(1))
	for q := uint64(4); q < 4+limits.ProducerWindow; q++ {
		s.verdicts(Batch{Binding: a, Sequence: q, Run: run("more")})
	}
	if got := s.verdicts(Batch{Binding: a, Sequence: 2, Run: run("3")})[0]; got.Err != nil || !got.Repeated || got.First != 0 {
		t.Fatalf("older than the window: %+v", got)
	}
	s.Close()
	closeTest(t, v)
}

// TestNothingShowsBeforeItsSync hangs a sync and asks for everything that
// depends on it: acks, refusals, repeats, readers, status, checkpoints.
func TestNothingShowsBeforeItsSync(t *testing.T) {
	ctx := t.Context()
	faulty := disk.NewFaulty(disk.NewMem())
	v := openTest(t, faulty)
	mustCreate(t, v, "log")
	if _, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, v, "log", "1")

	hanging, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	segment := fileOf(v.filling())
	faulty.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && strings.HasSuffix(segment, op.Name) {
			once.Do(func() { close(hanging) })
			<-release
		}
		return nil
	})
	done := make(chan string, 10)
	var clients sync.WaitGroup
	ask := func(what string, f func() error) {
		clients.Go(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			done <- what
		})
	}
	ask("append", func() error {
		_, err := v.Append(ctx, "log", producerID(1), 0, Batch{Sequence: 1, Run: run("2")})
		return err
	})
	<-hanging
	want := func(err, want error) error {
		if !errors.Is(err, want) {
			return fmt.Errorf("got %w, want %w", err, want)
		}
		return nil
	}
	ask("repeat", func() error {
		got, err := v.Append(ctx, "log", producerID(1), 0, Batch{Sequence: 1, Run: run("2")})
		if err == nil && (!got.Repeated || got.First != 2) {
			return fmt.Errorf("%+v", got)
		}
		return err
	})
	ask("refusal", func() error {
		_, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Expected: 2, Run: run("x")})
		return want(err, ErrLSNMismatch)
	})
	ask("get or create", func() error {
		_, _, err := v.CreateLog(ctx, "log", LogOptions{})
		return err
	})
	ask("conflict", func() error {
		version := uint64(4)
		_, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 1}, &version)
		return want(err, ErrCheckpointConflict)
	})
	ask("producer", func() error {
		p, err := v.OpenProducer(ctx, "log", producerID(1))
		if err == nil && p.LastSequence != 1 {
			return fmt.Errorf("%+v", p)
		}
		return err
	})
	ask("wait", func() error {
		_, err := v.WaitDurable(ctx, "log", 2)
		return err
	})
	ask("follow", func() error {
		r, err := v.NewReader("log", ReadOptions{From: 2, Follow: true})
		if err != nil {
			return err
		}
		defer r.Close()
		got, err := follow(ctx, r, 1)
		if err == nil && got[0] != "2" {
			return fmt.Errorf("%q", got)
		}
		return err
	})
	equal(t, readAll(t, v, "log", 0), []string{"1"})
	if info, err := v.Log("log"); err != nil || info.Next != 2 {
		t.Errorf("the log shows what is not durable: %+v, %v", info, err)
	}
	if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 2}, nil); !errors.Is(err, ErrLSNAhead) {
		t.Errorf("a checkpoint beyond the durable LSN: %v", err)
	}
	if _, err := v.NewReader("log", ReadOptions{From: 3}); !errors.Is(err, ErrLSNAhead) {
		t.Errorf("a reader beyond the durable LSN: %v", err)
	}
	select {
	case what := <-done:
		t.Errorf("%s ended before the sync did", what)
	default:
	}
	close(release)
	clients.Wait()
	equal(t, readAll(t, v, "log", 0), []string{"1", "2"})
	closeTest(t, v)
}

// TestPoison fails a sync: what is in flight ends with its outcome unknown,
// what waits ends, reads go on, and reopening keeps every ack.
func TestPoison(t *testing.T) {
	ctx := t.Context()
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	told := make(chan error, 1)
	o := testOptions(faulty)
	o.Events.Poisoned = func(err error) { told <- err }
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, v, "log")
	mustAppend(t, v, "log", "1")
	waits := make(chan error, 2)
	r, err := v.NewReader("log", ReadOptions{From: 2, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, err := r.Next(ctx); waits <- err }()
	go func() { _, err := v.WaitDurable(ctx, "log", 3); waits <- err }()
	name := v.filling().String() + ".wal"
	faulty.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && op.Name == name {
			return errors.New("sync fails")
		}
		return nil
	})
	_, err = v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run("2")})
	if !errors.Is(err, ErrPoisoned) || !strings.Contains(err.Error(), "outcome unknown") {
		t.Fatalf("in flight: %v", err)
	}
	for range cap(waits) {
		if err := <-waits; !errors.Is(err, ErrPoisoned) {
			t.Errorf("a waiter ends with %v", err)
		}
	}
	if err := <-told; !errors.Is(err, ErrPoisoned) {
		t.Errorf("told of %v", err)
	}
	if _, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run("3")}); !errors.Is(err, ErrPoisoned) {
		t.Errorf("later append: %v", err)
	}
	if _, _, err := v.CreateLog(ctx, "log", LogOptions{}); !errors.Is(err, ErrPoisoned) {
		t.Errorf("later command: %v", err)
	}
	if s := v.Status(); s.State != Poisoned || s.Detail == "" {
		t.Errorf("status: %+v", s)
	}
	equal(t, readAll(t, v, "log", 0), []string{"1"})
	if err := v.Close(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("close: %v", err)
	}
	v = openTest(t, mem)
	defer closeTest(t, v)
	if got := readAll(t, v, "log", 0); got[0] != "1" {
		t.Errorf("after reopening: %q", got)
	}
}

// TestClosedIsNoLoss asks a volume for what is durable that is closed, poisoned before
// or not: that it cannot be read any more is not that it is lost.
func TestClosedIsNoLoss(t *testing.T) {
	for _, poisoned := range []bool{false, true} {
		t.Run(fmt.Sprintf("poisoned=%v", poisoned), func(t *testing.T) {
			ctx := t.Context()
			faulty := disk.NewFaulty(disk.NewMem())
			v := openTest(t, faulty)
			mustCreate(t, v, "log")
			told := receipt(t, v, "log", mustAppend(t, v, "log", "1"))
			mustAppend(t, v, "log", "2")
			if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", State: []byte("state")}, nil); err != nil {
				t.Fatal(err)
			}
			r, err := v.NewReader("log", ReadOptions{From: 1})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.batch(); err != nil { // it has the first batch's directory
				t.Fatal(err)
			}
			if poisoned {
				faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}})
				if _, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run("3")}); !errors.Is(err, ErrPoisoned) {
					t.Fatalf("append: %v", err)
				}
			}
			if err := v.Close(); (err != nil) != poisoned {
				t.Fatalf("close: %v", err)
			}
			for _, q := range []inquiry{
				{"reader", func(ctx context.Context) error { _, err := r.Next(ctx); return err }},
				{"new reader", func(ctx context.Context) error {
					r, err := v.NewReader("log", ReadOptions{})
					if err == nil {
						_, err = r.Next(ctx)
					}
					return err
				}},
				{"checkpoint", func(ctx context.Context) error { _, err := v.Checkpoint(ctx, "log", "cp"); return err }},
				{"claim", func(context.Context) error {
					return v.CheckClaim("log", Claim{Log: told.Log, Epoch: told.Epoch, LSN: told.Last, Checksum: told.Checksum})
				}},
				{"receipt", func(context.Context) error { _, err := v.VerifyReceipt(told); return err }},
			} {
				if err := q.ask(ctx); !errors.Is(err, ErrClosed) || errors.Is(err, ErrDataLoss) {
					t.Errorf("%s: %v", q.name, err)
				}
			}
		})
	}
}

// TestPoisonBehindTheScenes fails the recycling of a segment, which nobody waits for.
func TestPoisonBehindTheScenes(t *testing.T) {
	faulty := disk.NewFaulty(disk.NewMem())
	v := openTest(t, faulty)
	mustCreate(t, v, "log")
	faulty.Before(func(op disk.Op) error {
		if op.Kind == disk.OpRename && strings.HasSuffix(op.Name, ".wal") {
			return errors.New("rename fails")
		}
		return nil
	})
	// Followers have nothing to append, and must hear all the same.
	r, err := v.NewReader("log", ReadOptions{Follow: true, From: 1})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := follow(t.Context(), r, 1<<30)
		ended <- err
	}()
	for rec := strings.Repeat("x", 9000); ; {
		got, err := v.Append(t.Context(), "log", ulid.ULID{}, 0, Batch{Run: run(rec)})
		if err == nil {
			_, err = v.SetCheckpoint(t.Context(), "log", Checkpoint{Name: "cp", LSN: got.First}, nil)
		}
		if err != nil {
			if !errors.Is(err, ErrPoisoned) {
				t.Errorf("append: %v", err)
			}
			break
		}
	}
	// Reading may be behind what is released; either way it ends.
	if err := <-ended; !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrLSNTruncated) {
		t.Errorf("the follower ends with %v", err)
	}
	if s := v.Status(); s.State != Poisoned {
		t.Errorf("status: %+v", s)
	}
	if err := v.Close(); err == nil {
		t.Error("close says nothing of it")
	}
}

// TestFullDisk fills a disk: appends are refused, everything else works, also
// opening, and appends resume once there is room.
func TestFullDisk(t *testing.T) {
	ctx := t.Context()
	mem := disk.NewMem()
	mem.SetCapacity(14 * limits.MinSegmentSize)
	v := openTest(t, mem)
	mustCreate(t, v, "log")
	if _, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil {
		t.Fatal(err)
	}
	rec := strings.Repeat("x", 5000)
	var last LSN
	fill := func() {
		t.Helper()
		for {
			got, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run(rec)})
			if errors.Is(err, ErrFull) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			last = got.First
			paceSnapshots(t, v)
		}
	}
	fill()
	for round := range 4 {
		if s := v.Status(); s.State == Poisoned {
			t.Fatalf("round %d: %s", round, s.Detail)
		}
		// What changes nothing needs no space.
		if _, _, err := v.CreateLog(ctx, "log", LogOptions{}); err != nil {
			t.Fatalf("round %d: get a log: %v", round, err)
		}
		if _, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil {
			t.Fatalf("round %d: an open producer: %v", round, err)
		}
		if info, err := v.Log("log"); err != nil || info.Durable() != last {
			t.Fatalf("round %d: %+v, want durable %d; %v", round, info, last, err)
		}
		if got := readAll(t, v, "log", last); len(got) != 1 || got[0] != rec {
			t.Fatalf("round %d: reading %d records", round, len(got))
		}
		if round%2 == 1 {
			if err := v.Close(); err != nil {
				t.Fatalf("round %d: close: %v", round, err)
			}
			v = openTest(t, mem)
			if r := v.Recovery(); r.Verdict == "damaged" {
				t.Fatalf("round %d: %+v", round, r)
			}
		}
		mustCheckpoint(t, v, "log", "cp", last-1, "state")
		if _, err := v.Truncate(ctx, "log", last); err != nil {
			t.Fatalf("round %d: truncate: %v", round, err)
		}
		pollUntil(t, "appends resume", func() bool {
			got, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run(rec)})
			if err == nil {
				last = got.First
			} else if !errors.Is(err, ErrFull) {
				t.Fatalf("round %d: %v", round, err)
			}
			return err == nil
		})
		fill()
	}
	closeTest(t, v)
}
