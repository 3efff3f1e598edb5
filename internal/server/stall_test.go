package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// healthAndState returns a service's health and the state of the volume that
// comes with it.
func (w *world) healthAndState(service string) string {
	w.t.Helper()
	var header metadata.MD
	resp, err := healthv1.NewHealthClient(w.conn).Check(w.ctx, &healthv1.HealthCheckRequest{Service: service}, grpc.Header(&header))
	if err != nil {
		w.t.Fatalf("health of %q: %v", service, err)
	}
	return resp.GetStatus().String() + " " + strings.Join(header.Get(VolumeStateHeader), ",")
}

// A question is a call that has to wait while the disk hangs.
type question struct {
	name string
	ask  func(ctx context.Context) error
}

// refusedWith checks that a call is refused.
func refusedWith(err error, code codes.Code, reason string) error {
	if c, r := reasonOf(err); c != code || r != reason {
		return fmt.Errorf("got %w, want %s/%s", err, code, reason)
	}
	return nil
}

// TestStalledDisk hangs a sync under every call of the API. What waits for it is
// not answered, what is durable can be read, and health and status say why,
// until the sync returns: then everything is answered as if nothing had been.
func TestStalledDisk(t *testing.T) {
	w := newWorldStalledAfter(t, Options{Heartbeat: 5 * time.Millisecond}, 20*time.Millisecond)
	logs, appends := walsvcv1.NewLogServiceClient(w.conn), walsvcv1.NewAppendServiceClient(w.conn)
	replays, checkpoints := walsvcv1.NewReplayServiceClient(w.conn), walsvcv1.NewCheckpointServiceClient(w.conn)
	w.create("l")
	w.append("l", "durable")
	if _, err := checkpoints.SetCheckpoint(w.ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 1, State: []byte("state")}); err != nil {
		t.Fatal(err)
	}
	watch, err := healthv1.NewHealthClient(w.conn).Watch(w.ctx, &healthv1.HealthCheckRequest{}) // set last
	if err != nil {
		t.Fatal(err)
	}
	hears := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for { // until then it may hear of stalls that are the machine's
			h, err := watch.Recv()
			if err != nil {
				t.Fatalf("health: %v; want %v", err, want)
			}
			if h.GetStatus() == want {
				return
			}
		}
	}
	hears(healthv1.HealthCheckResponse_SERVING)
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	follower, err := replays.Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", FromLsn: 2, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := replays.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l", AfterLsn: 1})
	if err != nil {
		t.Fatal(err)
	}

	w.occupy("l") // LSN 2 hangs
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("streamed")}, {Binding: 1, Expected: 1, Run: runOf("refused")}}})
	asked := []question{
		{"append", func(ctx context.Context) error {
			_, err := appends.Append(ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("x")})
			return err
		}},
		{"refused append", func(ctx context.Context) error {
			_, err := appends.Append(ctx, &walsvcv1.AppendRequest{Log: "l", ExpectedLsn: 1, Records: batchOf("x")})
			return refusedWith(err, codes.Aborted, "LSN_MISMATCH")
		}},
		{"create", func(ctx context.Context) error {
			_, err := logs.CreateLog(ctx, &walsvcv1.CreateLogRequest{Name: "other"})
			return err
		}},
		{"refused create", func(ctx context.Context) error {
			_, err := logs.CreateLog(ctx, &walsvcv1.CreateLogRequest{Name: "l", Options: &walsvcv1.LogOptions{QuotaBytes: 1}})
			return refusedWith(err, codes.AlreadyExists, "LOG_EXISTS")
		}},
		{"delete", func(ctx context.Context) error {
			_, err := logs.DeleteLog(ctx, &walsvcv1.DeleteLogRequest{Name: "none"})
			return refusedWith(err, codes.NotFound, "LOG_NOT_FOUND")
		}},
		{"open a producer", func(ctx context.Context) error {
			_, err := appends.OpenProducer(ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: "01ARZ3NDEKTSV4RRFFQ69G5FAV"})
			return err
		}},
		{"set a checkpoint", func(ctx context.Context) error {
			_, err := checkpoints.SetCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "new", Lsn: 1})
			return err
		}},
		{"refused checkpoint", func(ctx context.Context) error {
			_, err := checkpoints.SetCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 1, ExpectedVersion: proto.Uint64(9)})
			return refusedWith(err, codes.Aborted, "CHECKPOINT_CONFLICT")
		}},
		{"delete a checkpoint", func(ctx context.Context) error {
			_, err := checkpoints.DeleteCheckpoint(ctx, &walsvcv1.DeleteCheckpointRequest{Log: "l", Name: "none"})
			return refusedWith(err, codes.NotFound, "CHECKPOINT_NOT_FOUND")
		}},
		{"wait", func(ctx context.Context) error {
			_, err := replays.WaitDurable(ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 2})
			return err
		}},
		{"watch", func(context.Context) error {
			m, err := watcher.Recv()
			if err == nil && m.GetDurableLsn() < 2 {
				err = fmt.Errorf("durable LSN %d", m.GetDurableLsn())
			}
			return err
		}},
		{"stream", func(context.Context) error {
			m, err := s.recv()
			if err == nil && (len(m.Verdicts) != 2 || m.Verdicts[0].First == 0 || m.Verdicts[1].Refusal.GetReason() != "LSN_MISMATCH") {
				err = fmt.Errorf("verdicts %+v", m.Verdicts)
			}
			return err
		}},
	}
	var waiting sync.WaitGroup
	answered := make(chan string, len(asked))
	for _, q := range asked {
		waiting.Go(func() {
			if err := q.ask(w.ctx); err != nil {
				t.Errorf("%s: %v", q.name, err)
			}
			answered <- q.name
		})
	}
	hears(healthv1.HealthCheckResponse_NOT_SERVING)
	eventually(t, "everything waits for the disk", func() bool { return w.served().appender.Pending() == 2 })
	status := func() *walsvcv1.GetStatusResponse {
		t.Helper()
		st, err := walsvcv1.NewAdminServiceClient(w.conn).GetStatus(w.ctx, &walsvcv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	eventually(t, "the sync is what hangs", func() bool { // and it goes on hanging
		return strings.HasPrefix(status().GetStall().GetOperation(), "sync ")
	})

	for _, name := range append(writing, "") {
		if got := w.healthAndState(name); got != "NOT_SERVING DISK_STALLED" {
			t.Errorf("health of %q: %s", name, got)
		}
	}
	for _, name := range reading {
		if got := w.healthAndState(name); got != "SERVING DISK_STALLED" {
			t.Errorf("health of %q: %s", name, got)
		}
	}
	st := status()
	if st.GetState() != walsvcv1.VolumeState_VOLUME_STATE_DISK_STALLED || st.GetStalls() == 0 || st.GetRecords() != 1 ||
		!strings.HasPrefix(st.GetStall().GetOperation(), "sync ") || !strings.Contains(st.GetDetail(), st.GetStall().GetOperation()) ||
		time.Since(st.GetStall().GetBeginTime().AsTime()) > patience {
		t.Errorf("status: %v", st)
	}
	if m, err := follower.Recv(); err != nil || m.GetCount() != 0 || m.GetDurableLsn() != 1 {
		t.Errorf("the follower hears %v, %v; want a heartbeat", m, err)
	}
	read, err := replays.Read(w.ctx, &walsvcv1.ReadRequest{Log: "l"})
	if err != nil || read.GetDurableLsn() != 1 || len(read.GetRecords().GetRecord()) != 1 {
		t.Errorf("read: %v, %v", read, err)
	}
	info, err := logs.GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "l"})
	if err != nil || info.GetLog().GetNextLsn() != 2 {
		t.Errorf("log: %v, %v", info, err)
	}
	list, err := logs.ListLogs(w.ctx, &walsvcv1.ListLogsRequest{})
	if err != nil || len(list.GetLogs()) != 1 || list.GetLogs()[0].GetNextLsn() != 2 {
		t.Errorf("logs: %v, %v", list, err)
	}
	cp, err := checkpoints.GetCheckpoint(w.ctx, &walsvcv1.GetCheckpointRequest{Log: "l", Name: "cp"})
	if err != nil || string(cp.GetCheckpoint().GetState()) != "state" {
		t.Errorf("checkpoint: %v, %v", cp, err)
	}
	_, err = checkpoints.SetCheckpoint(w.ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 2})
	wantReason(t, err, codes.OutOfRange, "LSN_AHEAD")
	if len(answered) > 0 {
		t.Errorf("%s: answered while the disk hangs", <-answered)
	}

	w.release()
	waiting.Wait()
	hears(healthv1.HealthCheckResponse_SERVING)
	eventually(t, "all is well", func() bool { return w.healthAndState("") == "SERVING SERVING" })
	for next := uint64(2); next < 4; {
		m, err := follower.Recv()
		if err != nil || m.GetCount() > 0 && m.GetFirstLsn() != next {
			t.Fatalf("the follower hears %v, %v; want LSN %d", m, err, next)
		}
		next += uint64(m.GetCount())
	}
}

// TestDrainOfAStalledDisk: the health of a service that is told to stop while
// the disk hangs says both, and Drain is over at its deadline but for what the
// disk has in its hands.
func TestDrainOfAStalledDisk(t *testing.T) {
	w := newWorldStalledAfter(t, Options{}, 20*time.Millisecond)
	w.create("l")
	w.occupy("l")
	eventually(t, "the disk is stalled", func() bool { return w.healthAndState("") == "NOT_SERVING DISK_STALLED" })
	passed := errors.New("deadline passed")
	ctx, cancel := context.WithTimeoutCause(w.ctx, 10*time.Millisecond, passed)
	defer cancel()
	if err := w.Drain(ctx); err != nil && !errors.Is(err, passed) {
		t.Errorf("drain: %v", err)
	}
	if state, _ := w.volume.State(); w.state() != walsvcv1.VolumeState_VOLUME_STATE_DISK_STALLED {
		t.Errorf("state %v of a volume in state %d", w.state(), state)
	}
}
