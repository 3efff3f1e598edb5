package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// TestPoisonEndsEverybody has every kind of call in flight when a sync fails:
// what was to change something ends as OUTCOME_UNKNOWN, who only waited to see it
// hears the same or POISONED, and nobody is left waiting.
func TestPoisonEndsEverybody(t *testing.T) {
	var under atomic.Int64
	w := newWorld(t, Options{Authorize: func(ctx context.Context) (context.Context, error) {
		under.Add(1)
		return ctx, nil
	}})
	logs, appends := walsvcv1.NewLogServiceClient(w.conn), walsvcv1.NewAppendServiceClient(w.conn)
	replays, checkpoints := walsvcv1.NewReplayServiceClient(w.conn), walsvcv1.NewCheckpointServiceClient(w.conn)
	w.create("l")
	w.append("l", "durable")
	var streams []*stream
	for range 2 {
		s := w.open()
		s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
		streams = append(streams, s)
	}
	follower, err := replays.Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", FromLsn: 2, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := replays.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l", AfterLsn: 1})
	if err != nil {
		t.Fatal(err)
	}

	w.occupy("l")
	w.deaf.Add(1) // else a call that is let in a moment later were refused
	before := under.Load()
	unknown, poisoned := [2]any{codes.Internal, "OUTCOME_UNKNOWN"}, [2]any{codes.FailedPrecondition, "POISONED"}
	type call struct {
		question
		want [2]any
	}
	asked := []call{
		{question{"append", func(ctx context.Context) error {
			_, err := appends.Append(ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("x")})
			return err
		}}, unknown},
		{question{"refused append", func(ctx context.Context) error { // the refusal depends on what is lost
			_, err := appends.Append(ctx, &walsvcv1.AppendRequest{Log: "l", ExpectedLsn: 1, Records: batchOf("x")})
			return err
		}}, unknown},
		{question{"create", func(ctx context.Context) error {
			_, err := logs.CreateLog(ctx, &walsvcv1.CreateLogRequest{Name: "other"})
			return err
		}}, unknown},
		{question{"seal", func(ctx context.Context) error {
			_, err := logs.SealLog(ctx, &walsvcv1.SealLogRequest{Name: "other"})
			return err
		}}, unknown},
		{question{"delete", func(ctx context.Context) error {
			_, err := logs.DeleteLog(ctx, &walsvcv1.DeleteLogRequest{Name: "none"})
			return err
		}}, unknown},
		{question{"open a producer", func(ctx context.Context) error {
			_, err := appends.OpenProducer(ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: "01ARZ3NDEKTSV4RRFFQ69G5FAV"})
			return err
		}}, unknown},
		{question{"acquire a writer", func(ctx context.Context) error {
			_, err := appends.AcquireWriter(ctx, &walsvcv1.AcquireWriterRequest{Log: "other", Holder: "db"})
			return err
		}}, unknown},
		{question{"retire a producer", func(ctx context.Context) error {
			_, err := appends.RetireProducer(ctx, &walsvcv1.RetireProducerRequest{Log: "l", Producer: "01ARZ3NDEKTSV4RRFFQ69G5FAV"})
			return err
		}}, unknown},
		{question{"resolve", func(ctx context.Context) error {
			_, err := appends.Resolve(ctx, &walsvcv1.ResolveRequest{Log: "l", Producer: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Sequence: 1})
			return err
		}}, unknown},
		{question{"release a writer", func(ctx context.Context) error {
			_, err := appends.ReleaseWriter(ctx, &walsvcv1.ReleaseWriterRequest{Log: "other", Epoch: 1})
			return err
		}}, unknown},
		{question{"set a checkpoint", func(ctx context.Context) error {
			_, err := checkpoints.SetCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 1})
			return err
		}}, unknown},
		{question{"wait", func(ctx context.Context) error {
			_, err := replays.WaitDurable(ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 2})
			return err
		}}, unknown},
		{question{"follow", func(context.Context) error {
			m, err := follower.Recv()
			if err == nil {
				err = fmt.Errorf("it was shown %v", m)
			}
			return err
		}}, poisoned},
		{question{"watch", func(context.Context) error {
			m, err := watcher.Recv()
			if err == nil {
				err = fmt.Errorf("it was told %v", m)
			}
			return err
		}}, poisoned},
	}
	for i, s := range streams {
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("streamed")}, {Binding: 1, Expected: 1, Run: runOf("refused")}}})
		asked = append(asked, call{question{fmt.Sprintf("stream %d", i), func(context.Context) error {
			verdicts, _, err := s.end()
			if len(verdicts) > 0 {
				return fmt.Errorf("verdicts %+v, then %w", verdicts, err)
			}
			return err
		}}, unknown})
	}
	var waiting sync.WaitGroup
	for _, q := range asked {
		waiting.Go(func() {
			err := q.ask(w.ctx)
			if code, reason := reasonOf(err); code != q.want[0] || reason != q.want[1] {
				t.Errorf("%s: %v, want %v", q.name, err, q.want)
			}
		})
	}
	eventually(t, "the streams' batches are on the bus", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.streams[0].appender.Pending() == 2 && w.streams[1].appender.Pending() == 2
	})
	eventually(t, "the calls are under way", func() bool { return under.Load() >= before+7 })
	w.disk.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSync}, Sticky: true})
	w.release()
	waiting.Wait()
	w.deaf.Done()
	<-w.options.Poisoned
	eventually(t, "health tells", func() bool { return w.healthAndState("") == "NOT_SERVING POISONED" })
	read, err := replays.Read(w.ctx, &walsvcv1.ReadRequest{Log: "l"})
	if err != nil || len(read.GetRecords().GetRecord()) != 1 {
		t.Errorf("what is durable: %v, %v", read, err)
	}
	if _, err := replays.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 1}); err != nil {
		t.Errorf("what is durable: %v", err)
	}
	_, err = replays.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 2})
	wantReason(t, err, codes.FailedPrecondition, "POISONED")
	again, err := replays.Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", FromLsn: 2, Follow: true})
	if err == nil {
		_, err = again.Recv()
	}
	if wantReason(t, err, codes.FailedPrecondition, "POISONED"); errors.Is(err, context.DeadlineExceeded) {
		t.Error("a new follower waits for ever")
	}
}
