package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func (w *world) healthOf(service string) string {
	w.t.Helper()
	resp, err := healthv1.NewHealthClient(w.conn).Check(w.ctx, &healthv1.HealthCheckRequest{Service: service})
	if err != nil {
		w.t.Fatalf("health of %q: %v", service, err)
	}
	return resp.GetStatus().String()
}

// lines is a writer of log lines that tests read while calls end.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) with(parts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.buf.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue next
			}
		}
		n++
	}
	return n
}

func TestRequestIDIsInTheHeaderAndTheLog(t *testing.T) {
	var out lines
	w := newWorld(t, Options{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	var header metadata.MD
	_, err := walsvcv1.NewLogServiceClient(w.conn).GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "nope"}, grpc.Header(&header))
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
	id := strings.Join(header.Get(RequestIDHeader), ",")
	if _, err := ulid.ParseStrict(id); err != nil {
		t.Fatalf("request id %q: %v", id, err)
	}
	for _, event := range []string{"started call", "finished call"} {
		if n := out.with(event, "request_id="+id, "grpc.method=GetLog"); n != 1 {
			t.Errorf("%d lines %q of the call", n, event)
		}
	}

	w.create("l")
	s := w.open()
	sh, err := s.Header()
	if err != nil {
		t.Fatal(err)
	}
	id = strings.Join(sh.Get(RequestIDHeader), ",")
	handlers, ok := w.served().stream.(*grpc.GenericServerStream[walsvcv1.AppendStreamRequest, walsvcv1.AppendStreamResponse])
	if !ok {
		t.Fatalf("the handler's stream is a %T", w.served().stream)
	}
	if wrapped, ok := handlers.ServerStream.(*middleware.WrappedServerStream); !ok || fmt.Sprintf("%T", wrapped.ServerStream) != "*grpc.serverStream" {
		t.Errorf("messages go through %T to more than gRPC's own stream", handlers.ServerStream)
	}
	s.bind(&walsvcv1.Bind{Binding: 1, Log: "l"})
	for range 5 {
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Run: runOf("x")}}})
		s.verdicts(1)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.end(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream's end is logged", func() bool { return out.with("finished call", "request_id="+id) == 1 })
	if n := out.with("request_id=" + id); n != 2 {
		t.Errorf("%d lines of a stream of 6 messages, want its start and its end", n)
	}
}

// TestRefusedAppendsAreNotLogged, unlike other calls: a client may repeat them without end.
func TestRefusedAppendsAreNotLogged(t *testing.T) {
	var out lines
	w := newWorld(t, Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
	_, err := walsvcv1.NewAppendServiceClient(w.conn).Append(w.ctx, &walsvcv1.AppendRequest{Log: "nope", Records: batchOf("x")})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
	_, err = walsvcv1.NewLogServiceClient(w.conn).GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "nope"})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")
	if appends, others := out.with("grpc.method=Append"), out.with("finished call", "grpc.method=GetLog"); appends != 0 || others != 1 {
		t.Errorf("%d lines of the append, %d of the other call's end", appends, others)
	}
}

func TestAdministrativeCallsAreLimited(t *testing.T) {
	w := newWorld(t, Options{AdminRate: 3})
	w.create("l")
	limited := false
	for range 50 {
		_, err := walsvcv1.NewLogServiceClient(w.conn).GetLog(w.ctx, &walsvcv1.GetLogRequest{Name: "l"})
		if err != nil {
			wantReason(t, err, codes.ResourceExhausted, "RATE_LIMITED")
			if !strings.Contains(status.Convert(err).String(), ErrRateLimited.Error()) || len(status.Convert(err).Details()) != 2 {
				t.Errorf("status without RetryInfo: %v", status.Convert(err).Details())
			}
			limited = true
			break
		}
	}
	if !limited {
		t.Error("50 calls passed a limit of 3")
	}
	for range 50 { // what moves records is not among them
		w.append("l", "x")
	}
	if got := w.healthOf(""); got != "SERVING" {
		t.Errorf("health: %s", got)
	}
}

func TestAuthorize(t *testing.T) {
	type who struct{}
	w := newWorld(t, Options{Authorize: func(ctx context.Context) (context.Context, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if got := md.Get("who"); len(got) == 1 {
			return context.WithValue(ctx, who{}, got[0]), nil
		}
		return nil, status.Error(codes.Unauthenticated, "who are you?")
	}})
	known := metadata.AppendToOutgoingContext(w.ctx, "who", "me")
	logs := walsvcv1.NewLogServiceClient(w.conn)
	if _, err := logs.CreateLog(known, &walsvcv1.CreateLogRequest{Name: "l"}); err != nil {
		t.Error(err)
	}
	_, err := logs.CreateLog(w.ctx, &walsvcv1.CreateLogRequest{Name: "l"})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger's call: %v", err)
	}
	watch, err := walsvcv1.NewReplayServiceClient(w.conn).WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l"})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger's stream: %v", err)
	}
	if got := w.healthOf(""); got != "SERVING" { // probes have no credentials
		t.Errorf("health: %s", got)
	}
}

func TestHealthAndReflection(t *testing.T) {
	w := newWorld(t, Options{})
	services := append(append([]string{""}, writing...), reading...)
	for _, name := range services {
		if got := w.healthOf(name); got != "SERVING" {
			t.Errorf("health of %q: %s", name, got)
		}
	}
	_, err := healthv1.NewHealthClient(w.conn).Check(w.ctx, &healthv1.HealthCheckRequest{Service: "nope"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("health of nobody: %v", err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	r, err := grpc_reflection_v1.NewServerReflectionClient(w.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.Recv()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, s := range resp.GetListServicesResponse().GetService() {
		listed[s.GetName()] = true
	}
	for _, name := range services[1:] {
		if !listed[name] {
			t.Errorf("reflection does not list %s", name)
		}
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	w := newWorld(t, Options{MaxConnections: 2})
	w.healthOf("")
	second := w.dial()
	if _, err := healthv1.NewHealthClient(second).Check(w.ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := healthv1.NewHealthClient(w.dial()).Check(w.ctx, &healthv1.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("third connection: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a closed connection's place is free", func() bool {
		_, err := healthv1.NewHealthClient(w.dial()).Check(w.ctx, &healthv1.HealthCheckRequest{})
		return err == nil
	})
	if state := w.conn.GetState(); state != connectivity.Ready {
		t.Errorf("first connection: %v", state)
	}
}

// TestCredentialsByNetwork: TCP speaks TLS, the rest of the same server does not.
func TestCredentialsByNetwork(t *testing.T) {
	c := newCredentials(testTLS(t))
	for _, tc := range []struct {
		network string
		want    string
	}{{"tcp", "tls"}, {"unix", "insecure"}} {
		a, b := net.Pipe()
		server := &named{Conn: a, network: tc.network}
		go func() { _ = b.Close() }()
		_, info, err := c.ServerHandshake(server)
		_ = a.Close()
		switch {
		case tc.network == "tcp" && err == nil:
			t.Errorf("%s: shook hands with nobody: %v", tc.network, info)
		case tc.network != "tcp" && (err != nil || info.AuthType() != tc.want):
			t.Errorf("%s: %v, %v", tc.network, info, err)
		}
	}
}

type named struct {
	net.Conn
	network string
}

func (n *named) LocalAddr() net.Addr { return &net.UnixAddr{Net: n.network} }
