package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen. It is spent only by
// tests that fail.
const patience = time.Minute

// world is a service over a volume in memory, whose disk can be hung and failed,
// and a client's connection to it.
type world struct {
	*Server
	t      testing.TB
	mem    *disk.Mem
	disk   *disk.Faulty
	volume *wal.Volume
	conn   *grpc.ClientConn
	dial   func() *grpc.ClientConn
	bare   func() net.Conn // connects, and says nothing
	ctx    context.Context
	others sync.WaitGroup
	deaf   sync.WaitGroup // the service does not hear of a poison before it is done
	ends   error          // what closing the volume may end with, besides a poison

	mu      sync.Mutex
	hang    chan struct{}   // syncs wait until it is closed; nil: they do not
	hanging atomic.Int64    // syncs that wait
	streams []*appendStream // in the order in which they were opened
}

// newWorld makes one whose disk is not called stalled, however long a busy machine
// keeps it from answering.
func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	return newWorldStalledAfter(t, o, time.Hour)
}

// newWorldStalledAfter makes one whose disk is called stalled when it hangs for so
// long, and, if that is not long, also when this process does not get to run.
func newWorldStalledAfter(t testing.TB, o Options, stallAfter time.Duration) *world {
	t.Helper()
	mem := disk.NewMem()
	w := &world{t: t, mem: mem, disk: disk.NewFaulty(mem)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	w.ctx = ctx
	w.disk.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync {
			w.mu.Lock()
			hang := w.hang
			w.mu.Unlock()
			if hang != nil {
				w.hanging.Add(1)
				<-hang
				w.hanging.Add(-1)
			}
		}
		return nil
	})
	poisoned := make(chan struct{})
	v, err := wal.Open(ctx, "/vol", wal.Options{
		FS: w.disk, Create: true, SegmentSize: 1 << 20, PrepareRate: -1, StallAfter: stallAfter,
		Events: wal.Events{Poisoned: func(error) {
			w.others.Go(func() {
				w.deaf.Wait()
				close(poisoned)
			})
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.volume = v
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Poisoned = poisoned
	w.Server = New(v, o)
	w.streamForTesting = func(a *appendStream) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.streams = append(w.streams, a)
	}

	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- w.Serve(listener) }()
	w.dial = func() *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:bufconn",
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{wire.Codec()}), grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	w.bare = func() net.Conn {
		conn, err := listener.DialContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	w.conn = w.dial()
	t.Cleanup(func() {
		w.release()
		w.others.Wait()
		w.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := v.Close(); err != nil && !errors.Is(err, wal.ErrPoisoned) && !errors.Is(err, w.ends) {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

// hold makes syncs hang from now on, until release.
func (w *world) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hang = make(chan struct{})
}

// occupy has the disk hang with one append of somebody else's before all that
// comes now, which so gathers on the bus. Otherwise the first append would hang
// where it was received. Undone by release.
func (w *world) occupy(log string) {
	w.t.Helper()
	w.hold()
	other := w.volume.NewAppender(func() {})
	binding, _, _, err := other.Bind(log, wal.Producer{}, 0, wal.Claim{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.others.Go(func() {
		if err := other.Append(w.ctx, []wal.Batch{{Binding: binding, Run: runOf("occupied")}}); err != nil {
			w.t.Errorf("append of somebody else's: %v", err)
		}
	})
	eventually(w.t, "the disk is occupied", func() bool { return other.Pending() == 1 && w.hanging.Load() > 0 })
}

func (w *world) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hang != nil {
		close(w.hang)
		w.hang = nil
	}
}

func (w *world) create(name string) *walsvcv1.Log {
	w.t.Helper()
	resp, err := walsvcv1.NewLogServiceClient(w.conn).CreateLog(w.ctx, &walsvcv1.CreateLogRequest{Name: name})
	if err != nil {
		w.t.Fatalf("create log %q: %v", name, err)
	}
	return resp.GetLog()
}

func (w *world) log(name string) *walsvcv1.Log {
	w.t.Helper()
	resp, err := walsvcv1.NewLogServiceClient(w.conn).GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: name})
	if err != nil {
		w.t.Fatalf("log %q: %v", name, err)
	}
	return resp.GetLog()
}

func (w *world) append(log string, recs ...string) *walsvcv1.AppendResponse {
	w.t.Helper()
	resp, err := walsvcv1.NewAppendServiceClient(w.conn).Append(w.ctx, &walsvcv1.AppendRequest{Log: log, Records: batchOf(recs...)})
	if err != nil {
		w.t.Fatalf("append to %q: %v", log, err)
	}
	return resp
}

func batchOf(recs ...string) *walsvcv1.Records {
	var out walsvcv1.Records
	for _, r := range recs {
		out.Record = append(out.Record, []byte(r))
	}
	return &out
}

func runOf(recs ...string) (run []byte) {
	for _, r := range recs {
		run = records.Append(run, []byte(r))
	}
	return run
}

// served returns the service's side of the append stream opened last.
func (w *world) served() *appendStream {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.streams[len(w.streams)-1]
}

// stream is an append stream of a client that works with the wire's own types.
type stream struct {
	grpc.ClientStream
	t      testing.TB
	cancel context.CancelFunc
}

// open opens an append stream and reads its credit.
func (w *world) open() *stream {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	w.t.Cleanup(cancel)
	s, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		walsvcv1.AppendService_AppendStream_FullMethodName)
	if err != nil {
		w.t.Fatal(err)
	}
	out := &stream{ClientStream: s, t: w.t, cancel: cancel}
	if first := out.next(); first.Credit.GetBytes() != limits.StreamCreditBytes || first.Credit.GetBatches() != limits.StreamCreditBatches {
		w.t.Fatalf("first message %+v, want the credit", first)
	}
	return out
}

func (s *stream) send(m *wire.AppendRequest) {
	s.t.Helper()
	if err := s.SendMsg(m); err != nil {
		s.t.Fatalf("send: %v", err)
	}
}

func (s *stream) recv() (*wire.AppendResponse, error) {
	var m wire.AppendResponse
	err := s.RecvMsg(&m)
	return &m, err
}

func (s *stream) next() *wire.AppendResponse {
	s.t.Helper()
	m, err := s.recv()
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	return m
}

// verdicts reads n verdicts.
func (s *stream) verdicts(n int) (out []wire.Verdict) {
	s.t.Helper()
	for len(out) < n {
		out = append(out, s.next().Verdicts...)
	}
	if len(out) > n {
		s.t.Fatalf("%d verdicts, want %d", len(out), n)
	}
	return out
}

// end reads to the end and returns all verdicts on the way and the status.
func (s *stream) end() (out []wire.Verdict, draining bool, err error) {
	for {
		m, err := s.recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return out, draining, err
		}
		out = append(out, m.Verdicts...)
		draining = draining || m.Draining
	}
}

// bind opens a log on a stream.
func (s *stream) bind(b *walsvcv1.Bind) *walsvcv1.Bound {
	s.t.Helper()
	s.send(&wire.AppendRequest{Binds: []*walsvcv1.Bind{b}})
	m := s.next()
	if len(m.Bounds) != 1 || m.Bounds[0].GetBinding() != b.GetBinding() {
		s.t.Fatalf("answer to bind %v: %+v", b, m)
	}
	return m.Bounds[0]
}

// reasonOf returns the code and the reason of a status.
func reasonOf(err error) (codes.Code, string) {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return st.Code(), info.GetReason()
		}
	}
	return st.Code(), ""
}

func wantReason(t testing.TB, err error, code codes.Code, reason string) {
	t.Helper()
	if c, r := reasonOf(err); c != code || r != reason {
		t.Fatalf("got %v/%s (%v), want %v/%s", c, r, err, code, reason)
	}
}

// eventually polls a condition that only another process's or goroutine's
// progress makes true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func TestLogs(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewLogServiceClient(w.conn)
	options := &walsvcv1.LogOptions{QuotaBytes: 1 << 20, MaxRecordBytes: 100, Labels: map[string]string{"a": "b"}, ColocationKey: "k"}
	made, err := c.CreateLog(w.ctx, &walsvcv1.CreateLogRequest{Name: "orders/eu", Options: options})
	if err != nil || !made.GetCreated() {
		t.Fatalf("create: %v, %v", made, err)
	}
	again, err := c.CreateLog(w.ctx, &walsvcv1.CreateLogRequest{Name: "orders/eu", Options: options})
	if err != nil || again.GetCreated() || again.GetLog().GetId() != made.GetLog().GetId() {
		t.Fatalf("create again: %v, %v", again, err)
	}
	w.append("orders/eu", "one", "two", "three")
	got, err := c.GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "orders/eu"})
	if err != nil {
		t.Fatal(err)
	}
	l := got.GetLog()
	if l.GetId() != made.GetLog().GetId() || l.GetEpoch() != 1 || l.GetFirstLsn() != 1 || l.GetNextLsn() != 4 ||
		l.GetLogChecksum() == 0 || l.GetLiveBytes() != uint64(len(runOf("one", "two", "three"))) ||
		l.GetOptions().GetLabels()["a"] != "b" || l.GetOptions().GetColocationKey() != "k" || !l.GetCreateTime().IsValid() {
		t.Errorf("log after an append: %v", l)
	}
	cut, err := c.TruncateLog(w.ctx, &walsvcv1.TruncateLogRequest{Name: "orders/eu", FirstLsn: 3})
	if err != nil || cut.GetLog().GetFirstLsn() != 3 {
		t.Errorf("truncate: %v, %v", cut, err)
	}
	for _, id := range []string{ulid.Make().String(), l.GetId(), l.GetId()} { // no log has the first, nor has any then
		if _, err := c.DeleteLog(w.ctx, &walsvcv1.DeleteLogRequest{Name: "orders/eu", Id: id}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.DeleteLog(w.ctx, &walsvcv1.DeleteLogRequest{Name: "orders/eu"})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
	_, err = c.GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "orders/eu"})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
}

func TestListLogsByPages(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewLogServiceClient(w.conn)
	want := []string{"a/1", "a/2", "a/3", "a/4", "a/5"}
	for _, name := range append([]string{"b/1", "A"}, want...) {
		w.create(name)
	}
	var got []string
	pages := 0
	for token := ""; ; pages++ {
		resp, err := c.ListLogs(w.ctx, &walsvcv1.ListLogsRequest{PageSize: 2, Prefix: "a/", PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range resp.GetLogs() {
			got = append(got, l.GetName())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
		if pages == 0 { // the listing goes on although the log it stopped at is gone
			if _, err := c.DeleteLog(w.ctx, &walsvcv1.DeleteLogRequest{Name: "a/2"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !slices.Equal(got, want) || pages != 2 {
		t.Errorf("listed %v in %d pages, want %v in 3", got, pages+1, want)
	}
	all, err := c.ListLogs(w.ctx, &walsvcv1.ListLogsRequest{})
	if err != nil || len(all.GetLogs()) != 6 {
		t.Errorf("listed all: %v, %v", all, err)
	}
}

func TestCheckpoints(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewCheckpointServiceClient(w.conn)
	w.create("l")
	w.append("l", "1", "2", "3")
	none, one, nine := uint64(0), uint64(1), uint64(9)
	set, err := c.SetCheckpoint(w.ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 2, State: []byte("state"), ExpectedVersion: &none})
	if err != nil || set.GetCheckpoint().GetVersion() != 1 || set.GetCheckpoint().GetState() != nil || set.GetCheckpoint().GetStateSize() != 5 {
		t.Fatalf("set: %v, %v", set, err)
	}
	got, err := c.GetCheckpoint(w.ctx, &walsvcv1.GetCheckpointRequest{Log: "l", Name: "cp"})
	if err != nil || string(got.GetCheckpoint().GetState()) != "state" || got.GetCheckpoint().GetLsn() != 2 {
		t.Fatalf("get: %v, %v", got, err)
	}
	_, err = c.SetCheckpoint(w.ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 3, ExpectedVersion: &nine})
	wantReason(t, err, codes.Aborted, "CHECKPOINT_CONFLICT")
	if info := infoOf(t, err); info.GetMetadata()["version"] != "1" || info.GetMetadata()["expected_version"] != "9" {
		t.Errorf("figures of a conflict: %v", info.GetMetadata())
	}
	list, err := c.ListCheckpoints(w.ctx, &walsvcv1.ListCheckpointsRequest{Log: "l"})
	if err != nil || len(list.GetCheckpoints()) != 1 || list.GetCheckpoints()[0].GetState() != nil || list.GetCheckpoints()[0].GetStateSize() != 5 {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := c.DeleteCheckpoint(w.ctx, &walsvcv1.DeleteCheckpointRequest{Log: "l", Name: "cp", ExpectedVersion: &one}); err != nil {
		t.Error(err)
	}
	_, err = c.GetCheckpoint(w.ctx, &walsvcv1.GetCheckpointRequest{Log: "l", Name: "cp"})
	wantReason(t, err, codes.NotFound, "CHECKPOINT_NOT_FOUND")
}

func infoOf(t testing.TB, err error) *errdetails.ErrorInfo {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	t.Fatalf("%v has no ErrorInfo", err)
	return nil
}

// TestReceived: what comes in over connections is counted, and what goes out is not: a
// replay does not drown the appends beside it.
func TestReceived(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("orders")
	before := w.Received()
	const size = 10_000
	w.append("orders", strings.Repeat("x", size))
	there := w.Received()
	if there < before+size {
		t.Errorf("%d bytes received for a record of %d", there-before, size)
	}
	if _, err := walsvcv1.NewReplayServiceClient(w.conn).Read(w.ctx, &walsvcv1.ReadRequest{Log: "orders"}); err != nil {
		t.Fatal(err)
	}
	if back := w.Received(); back >= there+size {
		t.Errorf("%d bytes received for a record of %d on its way back", back-there, size)
	}
}
