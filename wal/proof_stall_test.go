package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A stalling disk hangs one kind of operation, and hears what the volume tells.
type stalling struct {
	*disk.Faulty
	mu      sync.Mutex
	kind    disk.OpKind // 0: none
	frames  bool        // only what a frame waits for: not the preparer's
	rolling bool        // the last rename was a roll's
	hang    chan struct{}
	heard   []string
}

func newStalling(mem *disk.Mem) *stalling {
	s := &stalling{Faulty: disk.NewFaulty(mem)}
	s.Before(func(op disk.Op) error {
		if hang := s.hangs(op); hang != nil {
			<-hang
		}
		return nil
	})
	return s
}

// hangs returns what an operation waits for; nil for nothing.
func (s *stalling) hangs(op disk.Op) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := strings.HasSuffix(op.Name, ".wal")
	switch op.Kind {
	case disk.OpRename:
		s.rolling = strings.HasSuffix(op.To, ".wal")
		frame = s.rolling
	case disk.OpSyncDir:
		frame = s.rolling
	}
	if op.Kind != s.kind || s.frames && !frame {
		return nil
	}
	return s.hang
}

// hold has all operations of a kind hang until release, or only those that a
// frame waits for.
func (s *stalling) hold(kind disk.OpKind, frames bool) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kind, s.frames, s.hang = kind, frames, make(chan struct{})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.kind = 0
		close(s.hang)
	}
}

func (s *stalling) hear(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, what)
}

func (s *stalling) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

// open opens a volume in a bubble.
func (s *stalling) open(t testing.TB) *Volume {
	t.Helper()
	o := testOptions(s)
	o.Codec = "none"
	o.Events.Stalled = func(Stall) { s.hear("stalled") }
	o.Events.StallEnded = func(Stall, time.Duration) { s.hear("ended") }
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return v
}

// An inquiry asks for something while the disk hangs.
type inquiry struct {
	name string
	ask  func(ctx context.Context) error
}

// TestStalledDisk hangs every kind of operation that an acknowledgement may wait
// for, under a load that rolls, snapshots and recycles. What was acknowledged by
// then is shown, by everything that shows anything; what was not is shown, told
// or refused by nothing until the disk answers. Meanwhile the volume says so.
func TestStalledDisk(t *testing.T) {
	for _, kind := range []disk.OpKind{disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir} {
		t.Run(kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stallOnce(t, kind) })
		})
	}
}

func stallOnce(t *testing.T, kind disk.OpKind) {
	ctx := t.Context()
	fs := newStalling(disk.NewMem())
	v := fs.open(t)
	info := mustCreate(t, v, "log")
	first := mustAppend(t, v, "log", "0")
	if _, err := v.OpenProducer(ctx, "log", producerID(1)); err != nil {
		t.Fatal(err)
	}
	mustCheckpoint(t, v, "log", "cp", 1, "state")
	synctest.Wait()

	// One client appends as long as it may, a follower follows.
	type result struct {
		verdict Verdict
		err     error
	}
	acks, stop := make(chan result, 1000), make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for n := 1; ; n++ {
			got, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run(fmt.Sprint(n), strings.Repeat("x", 9000))})
			acks <- result{got, err}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	followed := make(chan LSN, 1000)
	following, unfollow := context.WithCancel(ctx)
	load.Go(func() {
		r, err := v.NewReader("log", ReadOptions{Follow: true})
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		for {
			span, err := r.Next(following)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("follow: %v", err)
				}
				return
			}
			followed <- span.First + LSN(span.Count) - 1
		}
	})
	durable, sum := LSN(1), first.Checksum
	take := func(got result) {
		if got.err != nil {
			t.Fatalf("append: %v", got.err)
		}
		durable, sum = got.verdict.First+1, got.verdict.Checksum
	}
	take(<-acks) // it is under way
	release := fs.hold(kind, true)
	synctest.Wait() // until nothing moves any more: the append under way hangs
	for len(acks) > 0 {
		take(<-acks)
	}

	shown := func() {
		t.Helper()
		if len(acks) > 0 {
			t.Fatalf("acknowledged while the disk hangs: %+v", <-acks)
		}
		if got := readAll(t, v, "log", 0); LSN(len(got)) != durable {
			t.Errorf("replay shows %d records, %d are durable", len(got), durable)
		}
		var last LSN
		for len(followed) > 0 {
			last = <-followed
		}
		if last > durable {
			t.Errorf("a follower saw LSN %d, %d are durable", last, durable)
		}
		now, err := v.Log("log")
		if err != nil || now.Durable() != durable || now.Checksum != sum {
			t.Errorf("the log shows %+v, %v; want %d durable", now, err, durable)
		}
		if logs, _ := v.ListLogs("", "", 10); len(logs) != 1 || logs[0].Durable() != durable {
			t.Errorf("the listing shows %+v, want %d durable", logs, durable)
		}
		if lsn, err := v.WaitDurable(ctx, "log", durable); err != nil || lsn != durable {
			t.Errorf("WaitDurable says %d, %v; want %d", lsn, err, durable)
		}
		if cp, err := v.Checkpoint(ctx, "log", "cp"); err != nil || string(cp.State) != "state" || cp.Version != 1 {
			t.Errorf("the checkpoint shows %+v, %v", cp, err)
		}
		if cps, err := v.Checkpoints("log"); err != nil || len(cps) != 1 || cps[0].Version != 1 {
			t.Errorf("the checkpoints show %+v, %v", cps, err)
		}
		if err := v.CheckClaim("log", Claim{Log: info.ID, Epoch: 1, LSN: durable, Checksum: sum}); err != nil {
			t.Errorf("a claim of what is durable: %v", err)
		}
		if err := v.CheckClaim("log", Claim{Log: info.ID, Epoch: 1, LSN: durable + 1}); !errors.Is(err, ErrDataLoss) {
			t.Errorf("a claim of what is not durable: %v", err)
		}
		if _, err := v.NewReader("log", ReadOptions{From: durable + 2}); !errors.Is(err, ErrLSNAhead) {
			t.Errorf("a reader beyond what is durable: %v", err)
		}
		if _, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: durable + 1}, nil); !errors.Is(err, ErrLSNAhead) {
			t.Errorf("a checkpoint beyond what is durable: %v", err)
		}
		if s := v.Status(); s.Records != uint64(durable) {
			t.Errorf("status counts %d records, %d are durable", s.Records, durable)
		}
	}
	shown()
	if state, _ := v.State(); state != Serving {
		t.Errorf("state %d before the bound", state)
	}

	// All that would have to show or to rely on what is not durable waits.
	version := uint64(7)
	asked := []inquiry{
		{"append", func(ctx context.Context) error {
			_, err := v.Append(ctx, "log", producerID(1), 0, Batch{Sequence: 1, Run: run("y")})
			return err
		}},
		{"refused append", func(ctx context.Context) error {
			_, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Expected: 1, Run: run("y")})
			return want(err, ErrLSNMismatch)
		}},
		{"create", func(ctx context.Context) error {
			_, _, err := v.CreateLog(ctx, "other", LogOptions{})
			return err
		}},
		{"create what is there", func(ctx context.Context) error {
			_, _, err := v.CreateLog(ctx, "log", LogOptions{})
			return err
		}},
		{"refused create", func(ctx context.Context) error {
			_, _, err := v.CreateLog(ctx, "log", LogOptions{QuotaBytes: 1})
			return want(err, ErrLogExists)
		}},
		{"open a producer", func(ctx context.Context) error {
			_, err := v.OpenProducer(ctx, "log", producerID(2))
			return err
		}},
		{"set a checkpoint", func(ctx context.Context) error {
			_, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "new", LSN: 1}, nil)
			return err
		}},
		{"refused checkpoint", func(ctx context.Context) error {
			_, err := v.SetCheckpoint(ctx, "log", Checkpoint{Name: "cp", LSN: 1}, &version)
			return want(err, ErrCheckpointConflict)
		}},
		{"refused deletion", func(ctx context.Context) error {
			return want(v.DeleteLog(ctx, "none", ulid.ULID{}), ErrLogNotFound)
		}},
		{"wait", func(ctx context.Context) error {
			_, err := v.WaitDurable(ctx, "log", durable+1)
			return err
		}},
	}
	var waiting sync.WaitGroup
	answered := make(chan string, len(asked))
	for _, a := range asked {
		waiting.Go(func() {
			if err := a.ask(ctx); err != nil {
				t.Errorf("%s: %v", a.name, err)
			}
			answered <- a.name
		})
	}
	_, changed := v.Stalled()
	time.Sleep(limits.StallAfter)
	synctest.Wait()
	select {
	case <-changed:
	default:
		t.Error("nobody was told that the disk hangs")
	}
	for len(answered) > 0 {
		t.Errorf("%s: answered while the disk hangs", <-answered)
	}
	s := v.Status()
	if s.State != DiskStalled || s.Stall == nil || !strings.HasPrefix(s.Stall.Operation, kind.String()) || s.Stalls != 1 || !strings.Contains(s.Detail, s.Stall.Operation) {
		t.Errorf("status %+v, want that the disk hangs at a %s", s, kind)
	}
	if told := fs.told(); !slices.Equal(told, []string{"stalled"}) {
		t.Errorf("told %q", told)
	}
	shown()

	_, changed = v.Stalled()
	close(stop)
	release()
	<-changed
	waiting.Wait()
	unfollow()
	load.Wait()
	synctest.Wait()
	if told := fs.told(); !slices.Equal(told, []string{"stalled", "ended"}) {
		t.Errorf("told %q", told)
	}
	if s := v.Status(); s.State != Serving || s.Stall != nil {
		t.Errorf("status after it answered: %+v", s)
	}
	final, err := v.Log("log")
	if err != nil || final.Durable() <= durable {
		t.Errorf("the log is %+v, %v: nothing landed", final, err)
	}
	if got := readAll(t, v, "log", 0); LSN(len(got)) != final.Durable() {
		t.Errorf("%d records, the log is %+v", len(got), final)
	}
	closeTest(t, v)
}

func want(err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("got %w, want %w", err, want)
	}
	return nil
}

// TestOpeningOnADiskThatHangs hears of it before there is a volume to ask.
func TestOpeningOnADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		v := openPlain(t, mem)
		mustCreate(t, v, "log")
		mustAppend(t, v, "log", "1")
		closeTest(t, v)
		fs := newStalling(mem)
		release := fs.hold(disk.OpSync, false)
		opened := make(chan *Volume)
		go func() { opened <- fs.open(t) }()
		time.Sleep(limits.StallAfter)
		synctest.Wait()
		if told := fs.told(); !slices.Equal(told, []string{"stalled"}) {
			t.Errorf("told %q", told)
		}
		release()
		v = <-opened
		synctest.Wait()
		if told := fs.told(); !slices.Equal(told, []string{"stalled", "ended"}) {
			t.Errorf("told %q", told)
		}
		equal(t, readAll(t, v, "log", 0), []string{"1"})
		closeTest(t, v)
	})
}

// TestStatusOfADiskThatDoesNotSay hangs the question that Status asks.
func TestStatusOfADiskThatDoesNotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		mem.SetCapacity(1 << 30)
		fs := newStalling(mem)
		v := fs.open(t)
		known := v.Status().DiskFree
		release := fs.hold(disk.OpFree, false)
		began := time.Now()
		if s := v.Status(); known == 0 || s.DiskFree != known || s.State != DiskStalled {
			t.Errorf("%d bytes free were known; status %+v", known, s)
		}
		if took := time.Since(began); took != limits.StallAfter {
			t.Errorf("it took %s", took)
		}
		if s := v.Status(); s.DiskFree != known || s.State != DiskStalled || time.Since(began) != limits.StallAfter {
			t.Errorf("asked again: %+v", s)
		}
		release()
		synctest.Wait()
		if s := v.Status(); s.State != Serving {
			t.Errorf("status after it answered: %+v", s)
		}
		closeTest(t, v)
	})
}
