package server

import (
	"errors"
	"io"
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// TestSeal seals a log under a stream, a follower and a watcher.
func TestSeal(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	logs, appends, replays := walsvcv1.NewLogServiceClient(w.conn), walsvcv1.NewAppendServiceClient(w.conn), walsvcv1.NewReplayServiceClient(w.conn)
	producer := ulid.Make().String()
	if _, err := appends.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer}); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l", Producer: producer})
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 1, Run: runOf("x", "y")}}})
	s.verdicts(1)
	follower, err := replays.Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := replays.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := follower.Recv(); err != nil || m.GetCount() != 2 {
		t.Fatalf("%v, %v", m, err)
	}
	if m, err := watcher.Recv(); err != nil || m.GetDurableLsn() != 2 {
		t.Fatalf("%v, %v", m, err)
	}

	two := uint64(2)
	_, err = logs.SealLog(w.ctx, &walsvcv1.SealLogRequest{Name: "l", ExpectedEpoch: &two})
	wantReason(t, err, codes.FailedPrecondition, "FENCED")
	_, err = logs.SealLog(w.ctx, &walsvcv1.SealLogRequest{Name: "none"})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
	if got, err := logs.GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "l"}); err != nil || got.GetLog().GetSealTime() != nil {
		t.Fatalf("sealed by nobody: %v, %v", got, err)
	}
	for range 2 {
		got, err := logs.SealLog(w.ctx, &walsvcv1.SealLogRequest{Name: "l"})
		if err != nil || got.GetLog().GetNextLsn() != 3 || !got.GetLog().GetSealTime().IsValid() {
			t.Fatalf("%v, %v", got, err)
		}
	}
	if _, err := follower.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the follower: %v", err)
	}
	if _, err := watcher.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the watcher: %v", err)
	}
	late, err := replays.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l", AfterLsn: 3})
	if err == nil {
		_, err = late.Recv()
	}
	wantReason(t, err, codes.FailedPrecondition, "SEALED")
	_, err = replays.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 3})
	wantReason(t, err, codes.FailedPrecondition, "SEALED")

	s.send(&wire.AppendRequest{Batches: []wire.Batch{
		{Binding: 1, Sequence: 1, Run: runOf("x", "y")}, {Binding: 1, Sequence: 2, Run: runOf("z")}, {Binding: 1, Sequence: 3, Run: runOf("z")},
	}})
	if v := s.verdicts(3); !v[0].Repeated || v[0].First != 1 || v[1].Refusal.GetReason() != "SEALED" || v[1].Refusal.GetMetadata()["next_lsn"] != "3" ||
		v[1].Refusal.GetMetadata()["seal_time"] == "" || v[2].Refusal.GetReason() != "AFTER_REFUSAL" {
		t.Errorf("verdicts %+v", v)
	}
	_, err = appends.Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("late")})
	wantReason(t, err, codes.FailedPrecondition, "SEALED")
	_, err = appends.OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: ulid.Make().String()})
	wantReason(t, err, codes.FailedPrecondition, "SEALED")
	_, err = appends.AcquireWriter(w.ctx, &walsvcv1.AcquireWriterRequest{Log: "l", Holder: "db"})
	wantReason(t, err, codes.FailedPrecondition, "SEALED")
}
