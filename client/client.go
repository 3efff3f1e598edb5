package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// Options configures a Client. The zero value of each field means its default.
type Options struct {
	// TLS is spoken on TCP connections. Default: none, which is refused beyond
	// loopback. Unix sockets are bare.
	TLS *tls.Config
	// Insecure allows plain text beyond loopback.
	Insecure bool
	// Streams is how many append streams the client has; a log stays on one. One
	// is right but for very many logs: on one stream all of them share a commit.
	// At most 64. Default 1.
	Streams int
	// MaxPendingBytes and MaxPendingRecords bound what was appended and is not
	// acknowledged, over all logs; Append waits for room. A single append over
	// the bound waits until nothing else is pending. Defaults 8 MiB and 65,536.
	MaxPendingBytes   int
	MaxPendingRecords int
	// Producer is who appends, as far as the service is concerned: a retry is
	// safe because it has the same producer. A process that keeps it across its
	// restarts uses up one producer of the 1,024 of a log, and otherwise one for
	// each start. No two processes may have the same at the same time. A log that has
	// forgotten it takes it for new, unless the process says how far it had come: see
	// Log.ResumeProducer. Default: a new one.
	Producer ulid.ULID
	// WrittenAcks has the service tell a first stage of every append: see
	// Future.Written. It costs one more message for each commit.
	WrittenAcks bool
	// Dial are further options for the connection, after the client's own.
	Dial []grpc.DialOption
}

// maxStreams bounds Options.Streams.
const maxStreams = 64

func (o Options) withDefaults() (Options, error) {
	if o.Streams < 0 || o.Streams > maxStreams || o.MaxPendingBytes < 0 || o.MaxPendingRecords < 0 {
		return o, fmt.Errorf("%w: options: %d streams (at most %d), %d bytes and %d records pending", ErrInvalid,
			o.Streams, maxStreams, o.MaxPendingBytes, o.MaxPendingRecords)
	}
	if o.Streams == 0 {
		o.Streams = 1
	}
	if o.MaxPendingBytes == 0 {
		o.MaxPendingBytes = 8 << 20
	}
	if o.MaxPendingRecords == 0 {
		o.MaxPendingRecords = 64 << 10
	}
	return o, nil
}

// A Client is a connection to a service, with everything that must outlive the
// connection: what is not acknowledged yet, and what was. Its methods, and those
// of its Logs, may be called by several goroutines.
type Client struct {
	options Options
	conn    *grpc.ClientConn
	patient time.Duration // the first pause before trying again

	logService        walsvcv1.LogServiceClient
	appendService     walsvcv1.AppendServiceClient
	replayService     walsvcv1.ReplayServiceClient
	checkpointService walsvcv1.CheckpointServiceClient
	cursorService     walsvcv1.CursorServiceClient
	adminService      walsvcv1.AdminServiceClient

	ctx     context.Context // ends when the Client is closed
	cancel  context.CancelCauseFunc
	running sync.WaitGroup // the goroutines of the streams and of opening logs
	streams []*stream

	mu   sync.Mutex
	logs map[string]*Log
}

// retryReads has the transport repeat calls that change nothing, and those that
// may be repeated, when the service could not be reached.
const retryReads = `{"methodConfig":[{"name":[
	{"service":"walsvc.v1.LogService","method":"CreateLog"},
	{"service":"walsvc.v1.LogService","method":"GetLog"},
	{"service":"walsvc.v1.LogService","method":"ListLogs"},
	{"service":"walsvc.v1.LogService","method":"RewindLog"},
	{"service":"walsvc.v1.LogService","method":"SealLog"},
	{"service":"walsvc.v1.LogService","method":"TruncateLog"},
	{"service":"walsvc.v1.AppendService","method":"OpenProducer"},
	{"service":"walsvc.v1.AppendService","method":"ListProducers"},
	{"service":"walsvc.v1.AppendService","method":"RetireProducer"},
	{"service":"walsvc.v1.AppendService","method":"Resolve"},
	{"service":"walsvc.v1.AppendService","method":"AcquireWriter"},
	{"service":"walsvc.v1.AppendService","method":"ReleaseWriter"},
	{"service":"walsvc.v1.ReplayService","method":"Read"},
	{"service":"walsvc.v1.ReplayService","method":"WaitDurable"},
	{"service":"walsvc.v1.CheckpointService","method":"GetCheckpoint"},
	{"service":"walsvc.v1.CheckpointService","method":"ListCheckpoints"},
	{"service":"walsvc.v1.CursorService","method":"GetCursor"},
	{"service":"walsvc.v1.CursorService","method":"ListCursors"},
	{"service":"walsvc.v1.AdminService"}],
	"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.05s","maxBackoff":"1s","backoffMultiplier":3,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

// Open connects to a service and asks it who it is, so that a wrong target shows
// here. target is the path of a Unix socket ("/run/walsvc/walsvc.sock",
// "walsvc-data/walsvc.sock" or "unix:///run/walsvc/walsvc.sock"; it has a slash)
// or "host:port". ctx bounds Open alone. It
// returns ErrPlaintext for a host beyond loopback without TLS, ErrUnavailable
// if nobody answers, and ErrInvalid for options out of bounds.
func Open(ctx context.Context, target string, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	address, dial, err := transport(target, o)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(address, append(dial, o.Dial...)...)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: %w", target, ErrInvalid, err)
	}
	c := newClient(conn, o)
	if _, err := c.ServerInfo(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", target, err), c.Close(ctx))
	}
	return c, nil
}

func newClient(conn *grpc.ClientConn, o Options) *Client {
	c := &Client{
		options:           o,
		conn:              conn,
		patient:           firstBackoff,
		logService:        walsvcv1.NewLogServiceClient(conn),
		appendService:     walsvcv1.NewAppendServiceClient(conn),
		replayService:     walsvcv1.NewReplayServiceClient(conn),
		checkpointService: walsvcv1.NewCheckpointServiceClient(conn),
		cursorService:     walsvcv1.NewCursorServiceClient(conn),
		adminService:      walsvcv1.NewAdminServiceClient(conn),
		logs:              make(map[string]*Log),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	for range o.Streams {
		c.streams = append(c.streams, newStream(c))
	}
	return c
}

// transport returns the address of a target as gRPC spells it, and how to speak
// to it.
func transport(target string, o Options) (string, []grpc.DialOption, error) {
	dial := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(retryReads),
		grpc.WithUnaryInterceptor(waitTurn),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(wire.Codec()),
			grpc.MaxCallRecvMsgSize(limits.MaxMessageSize),
			grpc.MaxCallSendMsgSize(limits.MaxMessageSize),
		),
		// Both windows or none: one alone leaves the other at 64 KiB for good.
		grpc.WithStaticStreamWindowSize(4 << 20),
		grpc.WithStaticConnWindowSize(16 << 20),
		grpc.WithReadBufferSize(128 << 10),
		grpc.WithWriteBufferSize(128 << 10),
		experimental.WithBufferPool(wire.Pool()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.5, MaxDelay: lastBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if path, ok := unixPath(target); ok {
		return "unix:" + path, append(dial, grpc.WithTransportCredentials(insecure.NewCredentials())), nil
	}

	host, _, err := net.SplitHostPort(strings.TrimPrefix(target, "dns:///"))
	if err != nil {
		return "", nil, fmt.Errorf("open %q: %w: want the path of a socket or host:port", target, ErrInvalid)
	}
	local := host == "localhost"
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		local = true
	}
	var secure credentials.TransportCredentials
	switch {
	case o.TLS != nil:
		secure = credentials.NewTLS(o.TLS.Clone())
	case local || o.Insecure:
		secure = insecure.NewCredentials()
	default:
		return "", nil, fmt.Errorf("open %s: %w: set Options.TLS", target, ErrPlaintext)
	}
	dial = append(dial, grpc.WithTransportCredentials(secure),
		// The service allows a ping every 10 s; a Unix socket needs none.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}))
	if local {
		dial = append(dial, grpc.WithNoProxy())
	}
	return target, dial, nil
}

// unixPath returns the path of a target that is a Unix socket.
func unixPath(target string) (string, bool) {
	if path, ok := strings.CutPrefix(target, "unix://"); ok {
		return path, path != ""
	}
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		return path, path != ""
	}
	return target, strings.Contains(target, "/") && !strings.HasPrefix(target, "dns:///")
}

// Close waits until everything that was appended is acknowledged or refused, but
// not longer than ctx, then ends the client. What is still pending then fails
// with ErrClosed, its outcome unknown if it was sent; replays end with ErrClosed.
// It returns the context's error in that case. Calling it again waits for
// nothing and returns nil.
func (c *Client) Close(ctx context.Context) error {
	var err error
	for _, s := range c.streams {
		s.close()
	}
	for _, s := range c.streams {
		if e := s.drained(ctx); e != nil {
			err = fmt.Errorf("close: appends still pending: %w", e)
			break
		}
	}
	c.cancel(ErrClosed)
	c.running.Wait()
	for _, s := range c.streams {
		s.abandon(ErrClosed)
	}
	if e := c.conn.Close(); e != nil && err == nil && status.Code(e) != codes.Canceled { // that is closed already
		err = fmt.Errorf("close: %w", e)
	}
	return err
}

// Log returns the handle of a log, whether or not the log exists: its methods
// say so. Every call with one name returns the same handle, since what this
// client appends to a log has one order; the client keeps it.
func (c *Client) Log(name string) *Log {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.logs[name]
	if l == nil {
		l = &Log{client: c, name: name, stream: c.streams[len(c.logs)%len(c.streams)]}
		c.logs[name] = l
	}
	return l
}

// GetLog returns a log as far as it is durable, or ErrLogNotFound.
func (c *Client) GetLog(ctx context.Context, name string) (LogInfo, error) {
	resp, err := c.logService.GetLog(ctx, &walsvcv1.GetLogRequest{Name: name})
	if err != nil {
		return LogInfo{}, called(err, "get log %q", name)
	}
	info, err := logInfo(resp.GetLog())
	for _, r := range resp.GetLost() {
		info.Lost = append(info.Lost, LSNRange{LSN(r.GetFirstLsn()), LSN(r.GetLastLsn())})
	}
	for _, r := range resp.GetRewinds() {
		info.Rewinds = append(info.Rewinds, PastRewind{
			Epoch: r.GetEpoch(), Kept: LSN(r.GetKeptLsn()), Next: LSN(r.GetNextLsn()), LogChecksum: r.GetLogChecksum(),
		})
	}
	return info, err
}
