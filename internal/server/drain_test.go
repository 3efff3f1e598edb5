package server

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// TestDrain: what was taken before is settled and told, nothing is taken after,
// and every stream ends with DRAINING.
func TestDrain(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.append("l", "before")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	taking := w.served()
	idle := w.open()
	replays := walsvcv1.NewReplayServiceClient(w.conn)
	follower, err := replays.Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := follower.Recv(); err != nil || m.GetCount() != 1 {
		t.Fatalf("follower: %v, %v", m, err)
	}
	watcher, err := replays.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watcher.Recv(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := replays.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 1000})
		waited <- err
	}()
	health, err := healthv1.NewHealthClient(w.conn).Watch(w.ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := health.Recv(); err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", h, err)
	}

	w.occupy("l")
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("in flight")}}})
	eventually(t, "the batch is on the bus", func() bool { return taking.appender.Pending() == 1 })
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(w.ctx) }()
	for err = nil; err == nil; { // it may hear NOT_SERVING first
		_, err = health.Recv()
	}
	wantReason(t, err, codes.Unavailable, "DRAINING")

	if m := s.next(); !m.Draining || len(m.Verdicts) != 0 {
		t.Errorf("first message while draining: %+v", m)
	}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("too late")}}})
	for range 3 { // more than the windows hold: the batch above has been received
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: make([]byte, 3<<20)}}})
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with a batch in flight: %v", err)
	default:
	}
	w.release()
	got, _, err := s.end()
	wantReason(t, err, codes.Unavailable, "DRAINING")
	if len(got) != 1 || got[0].First != 3 {
		t.Errorf("verdicts: %+v", got)
	}
	_, draining, err := idle.end()
	wantReason(t, err, codes.Unavailable, "DRAINING")
	if !draining {
		t.Error("the idle stream was not told")
	}
	for err = nil; err == nil; {
		_, err = follower.Recv() // it may see the last record first
	}
	wantReason(t, err, codes.Unavailable, "DRAINING")
	for err = nil; err == nil; {
		_, err = watcher.Recv()
	}
	wantReason(t, err, codes.Unavailable, "DRAINING")
	wantReason(t, <-waited, codes.Unavailable, "DRAINING")
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	info, err := w.volume.Log("l")
	if err != nil || info.Durable() != 3 {
		t.Errorf("log after the drain: %+v, %v", info, err)
	}
}

// TestDrainDeadline: a disk that hangs and a client that does not read do not
// keep the service from stopping.
func TestDrainDeadline(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	s := w.open()
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	w.occupy("l")
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("in flight")}}})
	eventually(t, "the batch is on the bus", func() bool { return w.unread() == 1 })

	passed := errors.New("deadline passed")
	ctx, cancel := context.WithTimeoutCause(w.ctx, 30*time.Millisecond, passed)
	defer cancel()
	if err := w.Drain(ctx); !errors.Is(err, passed) {
		t.Errorf("drain: %v", err)
	}
	if _, _, err := s.end(); err == nil {
		t.Error("the stream ended as if all was well")
	}
	w.release()
	eventually(t, "what was sequenced has landed all the same", func() bool {
		info, err := w.volume.Log("l")
		return err == nil && info.Durable() == 2
	})
}

// TestDrainWithSilentConnections: a client that has connected and says nothing keeps
// nobody from stopping, nor does one that says half of what it should, beyond the deadline.
func TestDrainWithSilentConnections(t *testing.T) {
	for name, tc := range map[string]struct {
		said     string
		deadline time.Duration
	}{
		"silent":    {"", patience},
		"stuttered": {"PRI * HTTP/2.0", time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			before := w.Received()
			bare := w.bare()
			if _, err := io.WriteString(bare, tc.said); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the connection is heard", func() bool {
				w.connections.Lock()
				defer w.connections.Unlock()
				return len(w.connections.open) == 1 && w.Received() == before+uint64(len(tc.said))
			})
			passed := errors.New("deadline passed")
			ctx, cancel := context.WithTimeoutCause(t.Context(), tc.deadline, passed)
			defer cancel()
			drained := make(chan error, 1)
			go func() { drained <- w.Drain(ctx) }()
			select {
			case err := <-drained:
				if err != nil && (tc.said == "" || !errors.Is(err, passed)) {
					t.Errorf("drain: %v", err)
				}
			case <-time.After(patience): // of gRPC's own two minutes
				t.Fatal("drain waits for a connection that says nothing")
			}
		})
	}
}

// TestDrainWithoutRoomForNames: an append that waits for room for a segment's name on a
// full disk, on the goroutine of its call, does not keep the service from stopping.
func TestDrainWithoutRoomForNames(t *testing.T) {
	w := newWorld(t, Options{})
	w.ends = wal.ErrClosed
	w.create("l")
	w.disk.Inject(disk.Fault{
		Kinds: []disk.OpKind{disk.OpRename}, Err: syscall.ENOSPC, Sticky: true,
		Only: func(op disk.Op) bool { return strings.HasSuffix(op.To, ".wal") },
	})
	t.Cleanup(w.disk.Clear) // before what waits is waited for, if Drain has not ended it
	appended := make(chan error, 1)
	go func() {
		noise := make([]byte, 2<<10) // little enough that its caller takes it to the disk
		for {
			_, _ = rand.Read(noise)
			_, err := walsvcv1.NewAppendServiceClient(w.conn).Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf(string(noise))})
			if err != nil {
				appended <- err
				return
			}
		}
	}()
	eventually(t, "a segment's name has no room, also with what is dead given up for it", func() bool { return w.disk.Fired() >= 2 })

	passed := errors.New("deadline passed")
	ctx, cancel := context.WithTimeoutCause(w.ctx, 30*time.Millisecond, passed)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(ctx) }()
	select {
	case err := <-drained:
		if !errors.Is(err, passed) {
			t.Errorf("drain: %v", err)
		}
	case <-w.ctx.Done():
		t.Fatal("drain never ended")
	}
	if err := <-appended; err == nil {
		t.Error("what was not written is acknowledged")
	}
}

func TestDrainRefusesNewCalls(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.stop(ErrDraining) // what Drain begins with, before connections are told to go
	_, err := walsvcv1.NewAppendServiceClient(w.conn).Append(w.ctx, &walsvcv1.AppendRequest{Log: "l", Records: batchOf("x")})
	wantReason(t, err, codes.Unavailable, "DRAINING")
	_, err = walsvcv1.NewLogServiceClient(w.conn).GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "l"})
	wantReason(t, err, codes.Unavailable, "DRAINING")
	st, err := walsvcv1.NewAdminServiceClient(w.conn).GetStatus(w.ctx, &walsvcv1.GetStatusRequest{})
	if err != nil || st.GetState() != walsvcv1.VolumeState_VOLUME_STATE_DRAINING {
		t.Errorf("status: %v, %v", st.GetState(), err)
	}
}
