package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// Transport settings, in bytes. Windows are static: over a Unix socket there is
// no bandwidth-delay product to discover, and setting one window alone would
// leave the other at 64 KiB. They bound what a connection's clients may have
// sent before anybody looked at it; credit bounds what follows.
const (
	streamWindow     = 4 << 20
	connectionWindow = 16 << 20
	socketBuffer     = 128 << 10
)

// Options configures a Server. The zero value of each field means its default.
type Options struct {
	// Log takes what the service has to say; default slog.Default().
	Log *slog.Logger
	// TLS, if not nil, is spoken on every TCP connection; Unix sockets are bare.
	TLS *tls.Config
	// Authorize looks at every call of walsvc's own services before it is served.
	// Its error is the call's answer; what it puts into the context the handler
	// sees. Default: allow.
	Authorize func(ctx context.Context) (context.Context, error)
	// MaxConnections bounds the connections at one time, over all listeners.
	// Further ones are closed at once. Default limits.MaxConnections.
	MaxConnections int
	// AdminRate bounds the calls of LogService, CheckpointService, CursorService, AdminService
	// and OpenProducer, per second over all clients. Default: no bound.
	AdminRate int
	// Poisoned is closed when the volume is poisoned; see wal.Events. Nil: never.
	Poisoned <-chan struct{}
	// Version is what GetServerInfo calls walsvc's version.
	Version string
	// FormatVersion is what GetServerInfo calls the volume's format version.
	FormatVersion uint32
	// Codec and Direct are what GetServerInfo says of the volume's options.
	Codec  string
	Direct string
	// Heartbeat is how often a follower hears the durable LSN when nothing else
	// comes; default limits.HeartbeatInterval.
	Heartbeat time.Duration
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Authorize == nil {
		o.Authorize = func(ctx context.Context) (context.Context, error) { return ctx, nil }
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = limits.MaxConnections
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = limits.HeartbeatInterval
	}
	return o
}

// Server serves one Volume. Make it with New; a Server that was stopped cannot
// be started again.
type Server struct {
	volume    *wal.Volume
	options   Options
	log       *slog.Logger
	authorize func(ctx context.Context) (context.Context, error)
	grpc      *grpc.Server
	health    *health.Server
	started   time.Time

	// stopping is done, with the cause ErrDraining, from the beginning of Drain.
	stopping context.Context
	stop     context.CancelCauseFunc

	connections struct {
		sync.Mutex
		open map[*countedConn]bool
	}
	received atomic.Uint64 // bytes
	replays  atomic.Int64  // running now

	// background counts goroutines that may outlive their handler by a moment,
	// and the one that watches the volume's health.
	background sync.WaitGroup
	stopOnce   sync.Once

	streamForTesting func(*appendStream) // hears of each append stream; nil but in tests
}

// New returns a Server of volume that does not serve yet.
func New(volume *wal.Volume, o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		volume:    volume,
		options:   o,
		log:       o.Log,
		authorize: o.Authorize,
		health:    health.NewServer(),
		started:   time.Now(),
	}
	s.connections.open = make(map[*countedConn]bool)
	s.stopping, s.stop = context.WithCancelCause(context.Background())

	s.grpc = grpc.NewServer(append(transport(o.TLS), s.chain()...)...)
	walsvcv1.RegisterLogServiceServer(s.grpc, logService{Server: s})
	walsvcv1.RegisterAppendServiceServer(s.grpc, appendService{Server: s})
	walsvcv1.RegisterReplayServiceServer(s.grpc, replayService{Server: s})
	walsvcv1.RegisterCheckpointServiceServer(s.grpc, checkpointService{Server: s})
	walsvcv1.RegisterCursorServiceServer(s.grpc, cursorService{Server: s})
	walsvcv1.RegisterAdminServiceServer(s.grpc, adminService{Server: s})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)

	s.watchHealth()
	return s
}

// transport returns how bytes travel.
func transport(config *tls.Config) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{wire.Codec()}),
		grpc.Creds(newCredentials(config)),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(socketBuffer),
		grpc.WriteBufferSize(socketBuffer),
		grpc.MaxRecvMsgSize(limits.MaxMessageSize),
		grpc.MaxSendMsgSize(limits.MaxMessageSize),
		grpc.MaxConcurrentStreams(limits.MaxStreams),
		// The pair of the client's: it pings an idle connection every 20 s.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		experimental.BufferPool(wire.Pool()),
		// Stop returns when no handler runs any more, so that the volume can be closed.
		grpc.WaitForHandlers(true),
	}
}

// Serve serves on the listeners, which it closes, until Drain or Stop. It
// returns nil then, and else the first listener's failure, after it has stopped
// the others.
func (s *Server) Serve(listeners ...net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("serve: no listener")
	}
	failures := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() {
			if err := s.grpc.Serve(s.limit(l)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				failures <- fmt.Errorf("serve %s: %w", l.Addr(), err)
				s.Stop()
			}
		})
	}
	serving.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// Drain stops in order: nothing new is taken, what was taken is settled and
// told, streams end with UNAVAILABLE/DRAINING. When ctx ends first, connections
// are cut and its cause is returned: clients then have to ask what became of
// what they sent. Either way nothing runs any more when it returns.
func (s *Server) Drain(ctx context.Context) error {
	s.health.Shutdown()
	s.stop(ErrDraining)
	s.hangUp(true)
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	var err error
	select {
	case <-graceful:
	case <-ctx.Done():
		err = fmt.Errorf("drain: %w", context.Cause(ctx))
	}
	s.Stop()
	<-graceful
	return err
}

// Received returns how many bytes have come in over connections so far: what the number
// of processors is decided by. What goes out says less. A replay sends a hundred times
// what the appends beside it bring, which would count for nothing then; and one that has
// the service to itself is seen by the credit that its reader grants for what it takes.
func (s *Server) Received() uint64 { return s.received.Load() }

// Stop cuts all connections and waits until nothing runs any more, if need be
// for the disk: a write in its hands cannot be taken back. What was sequenced
// lands all the same, unless it waits for room on a full disk: that may never come.
func (s *Server) Stop() {
	s.stopOnce.Do(func() {
		s.health.Shutdown()
		s.stop(ErrDraining)
		s.hangUp(false)
		s.volume.Drain()
		s.grpc.Stop()
	})
	s.background.Wait()
}

// draining reports whether Drain or Stop has begun.
func (s *Server) draining() bool { return s.stopping.Err() != nil }

// poisoned reports whether the volume is known to be poisoned. When it is not,
// a call that fails with ErrPoisoned may have been in flight.
func (s *Server) poisoned() bool {
	select {
	case <-s.options.Poisoned: // nil blocks for ever, and default is taken
		return true
	default:
		return false
	}
}

// stoppable returns ctx, ended also by the service's stop, and what ends the
// arrangement. stopCause tells which it was.
func (s *Server) stoppable(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.stopping, func() { cancel(ErrDraining) })
	return ctx, func() {
		release()
		cancel(nil)
	}
}

// stopCause returns ErrDraining for an error that came of ctx having been ended
// by the service's stop, and else the error.
func stopCause(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrDraining) {
		return ErrDraining
	}
	return err
}

// services that need a volume which takes something, and those that do not.
var (
	writing = []string{
		walsvcv1.LogService_ServiceDesc.ServiceName,
		walsvcv1.AppendService_ServiceDesc.ServiceName,
		walsvcv1.CheckpointService_ServiceDesc.ServiceName,
		walsvcv1.CursorService_ServiceDesc.ServiceName,
	}
	reading = []string{
		walsvcv1.ReplayService_ServiceDesc.ServiceName,
		walsvcv1.AdminService_ServiceDesc.ServiceName,
	}
)

// watchHealth sets the services' health, and again whenever the disk stops or
// begins to answer, or the volume is poisoned. The service as a whole, by the
// empty name, is as healthy as its appends.
func (s *Server) watchHealth() {
	set := func(status healthv1.HealthCheckResponse_ServingStatus, services ...string) {
		for _, name := range services {
			s.health.SetServingStatus(name, status)
		}
	}
	set(healthv1.HealthCheckResponse_SERVING, reading...)
	// look sets the health of what writes, and returns what is told of the next change.
	look := func() <-chan struct{} {
		_, changed := s.volume.Stalled()
		status := healthv1.HealthCheckResponse_SERVING
		switch state, _ := s.volume.State(); state {
		case wal.ReadOnly, wal.Poisoned, wal.DiskStalled:
			status = healthv1.HealthCheckResponse_NOT_SERVING
		}
		set(status, writing...)
		set(status, "")
		return changed
	}
	changed := look()
	s.background.Go(func() {
		poisoned := s.options.Poisoned
		for {
			select {
			case <-poisoned:
				poisoned = nil
			case <-changed:
			case <-s.stopping.Done():
				return
			}
			changed = look()
		}
	})
}
