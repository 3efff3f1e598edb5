package server

import (
	"context"
	"log/slog"
	"strings"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/ratelimit"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"github.com/oklog/ulid/v2"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// RequestIDHeader is the response header with the call's ULID, which its log
// lines carry as request_id.
const RequestIDHeader = "walsvc-request-id"

// chain returns what every call goes through, outermost first. There is no
// recovery: a panic is a bug, after which the state in memory is not to be
// trusted, and a crash loses nothing that was acknowledged.
//
// Nothing here runs per message of a stream: bare, the innermost, hands the
// handler the stream as gRPC made it.
func (s *Server) chain() []grpc.ServerOption {
	logger := logging.LoggerFunc(func(ctx context.Context, level logging.Level, msg string, fields ...any) {
		s.log.Log(ctx, slog.Level(level), msg, fields...) //nolint:sloglint // the middleware has two messages, both constants
	})
	calls := func(level logging.CodeToLevel) []logging.Option {
		return []logging.Option{logging.WithLogOnEvents(logging.StartCall, logging.FinishCall), logging.WithLevels(level)}
	}
	appends := selector.MatchFunc(isAppend)
	others := selector.MatchFunc(func(ctx context.Context, c interceptors.CallMeta) bool { return !isAppend(ctx, c) })
	limited := selector.MatchFunc(isAdministrative)
	guarded := selector.MatchFunc(isOurs)
	unguarded := selector.MatchFunc(func(ctx context.Context, c interceptors.CallMeta) bool { return !isOurs(ctx, c) })

	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(
			identify,
			selector.UnaryServerInterceptor(logging.UnaryServerInterceptor(logger, calls(levelOfAppend)...), appends),
			selector.UnaryServerInterceptor(logging.UnaryServerInterceptor(logger, calls(levelOf)...), others),
			selector.UnaryServerInterceptor(explainLimit, limited),
			selector.UnaryServerInterceptor(ratelimit.UnaryServerInterceptor(s.limiter()), limited),
			selector.UnaryServerInterceptor(auth.UnaryServerInterceptor(s.authorize), guarded),
			selector.UnaryServerInterceptor(s.refuseUnary, guarded),
			selector.UnaryServerInterceptor(s.tellState, unguarded),
		),
		grpc.ChainStreamInterceptor(
			identifyStream,
			logging.StreamServerInterceptor(logger, calls(levelOf)...),
			selector.StreamServerInterceptor(auth.StreamServerInterceptor(s.authorize), guarded),
			selector.StreamServerInterceptor(s.refuseStream, guarded),
			selector.StreamServerInterceptor(s.endOnStop, unguarded),
			bare(logger),
		),
	}
}

// levelOf keeps what works at debug: one line per call is too many for those
// who append one call at a time.
func levelOf(code codes.Code) logging.Level {
	switch code {
	case codes.OK, codes.Canceled:
		return logging.LevelDebug
	case codes.Internal, codes.DataLoss, codes.Unknown, codes.Unimplemented:
		return logging.LevelError
	default:
		return logging.LevelInfo
	}
}

// levelOfAppend keeps refusals at debug, too, as those inside a stream are not logged
// at all: who is fenced or over a quota may ask a thousand times a second.
func levelOfAppend(code codes.Code) logging.Level {
	if level := levelOf(code); level > logging.LevelInfo {
		return level
	}
	return logging.LevelDebug
}

func isAppend(_ context.Context, c interceptors.CallMeta) bool {
	return c.FullMethod() == walsvcv1.AppendService_Append_FullMethodName
}

// isOurs tells our services from health and reflection, which answer anybody
// who was let in, also while stopping.
func isOurs(_ context.Context, c interceptors.CallMeta) bool {
	return strings.HasPrefix(c.Service, "walsvc.")
}

// isAdministrative tells the calls that the rate limit is about from those that
// move records, which credit and back-pressure bound.
func isAdministrative(_ context.Context, c interceptors.CallMeta) bool {
	switch c.FullMethod() {
	case walsvcv1.AppendService_OpenProducer_FullMethodName,
		walsvcv1.AppendService_ListProducers_FullMethodName,
		walsvcv1.AppendService_RetireProducer_FullMethodName,
		walsvcv1.AppendService_Resolve_FullMethodName,
		walsvcv1.AppendService_AcquireWriter_FullMethodName,
		walsvcv1.AppendService_ReleaseWriter_FullMethodName:
		return true
	case walsvcv1.AppendService_Append_FullMethodName:
		return false
	}
	switch c.Service {
	case walsvcv1.LogService_ServiceDesc.ServiceName,
		walsvcv1.CheckpointService_ServiceDesc.ServiceName,
		walsvcv1.CursorService_ServiceDesc.ServiceName,
		walsvcv1.AdminService_ServiceDesc.ServiceName:
		return true
	}
	return false
}

// tokens is a ratelimit.Limiter.
type tokens struct{ bucket *rate.Limiter }

// Limit implements ratelimit.Limiter.
func (t tokens) Limit(context.Context) error {
	if t.bucket.Allow() {
		return nil
	}
	return ErrRateLimited
}

// limiter lets AdminRate calls through per second, with one second's worth of
// burst.
func (s *Server) limiter() ratelimit.Limiter {
	limit, burst := rate.Inf, 1
	if n := s.options.AdminRate; n > 0 {
		limit, burst = rate.Limit(n), n
	}
	return tokens{rate.NewLimiter(limit, burst)}
}

// explainLimit gives the rate limiter's status the reason and delay it lacks:
// the middleware passes on nothing of the limiter's error but its text. Calls
// behind it that fail carry an ErrorInfo of their own.
func explainLimit(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if isBare(err, codes.ResourceExhausted) {
		return nil, Status(ErrRateLimited)
	}
	return resp, err
}

// changing are the calls that a poisoned volume refuses. They are refused before
// they begin, so that POISONED always means that nothing happened: what was
// already in the engine's hands ends as OUTCOME_UNKNOWN.
var changing = map[string]bool{
	walsvcv1.LogService_CreateLog_FullMethodName:               true,
	walsvcv1.LogService_DeleteLog_FullMethodName:               true,
	walsvcv1.LogService_RewindLog_FullMethodName:               true,
	walsvcv1.LogService_SealLog_FullMethodName:                 true,
	walsvcv1.LogService_TruncateLog_FullMethodName:             true,
	walsvcv1.AppendService_OpenProducer_FullMethodName:         true,
	walsvcv1.AppendService_RetireProducer_FullMethodName:       true,
	walsvcv1.AppendService_Resolve_FullMethodName:              true,
	walsvcv1.AppendService_AcquireWriter_FullMethodName:        true,
	walsvcv1.AppendService_ReleaseWriter_FullMethodName:        true,
	walsvcv1.AppendService_Append_FullMethodName:               true,
	walsvcv1.AppendService_AppendStream_FullMethodName:         true,
	walsvcv1.CheckpointService_SetCheckpoint_FullMethodName:    true,
	walsvcv1.CheckpointService_DeleteCheckpoint_FullMethodName: true,
	walsvcv1.CursorService_SetCursor_FullMethodName:            true,
	walsvcv1.CursorService_DeleteCursor_FullMethodName:         true,
}

// refusal returns why a call is not to begin, or nil. Status is told also while
// the service stops, for whoever watches it.
func (s *Server) refusal(method string) error {
	switch {
	case s.draining() && method != walsvcv1.AdminService_GetStatus_FullMethodName:
		return Status(ErrDraining)
	case s.poisoned() && changing[method]:
		return Status(wal.ErrPoisoned)
	}
	return nil
}

func (s *Server) refuseUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.refusal(info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) refuseStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.refusal(info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

// VolumeStateHeader is the response header of health checks with the volume's
// state, as VolumeState spells it without its prefix: what a NOT_SERVING is for,
// "DISK_STALLED" say, which the health protocol has no place for.
const VolumeStateHeader = "walsvc-volume-state"

// tellState adds the volume's state to the answers of health checks.
func (s *Server) tellState(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	state := strings.TrimPrefix(s.state().String(), "VOLUME_STATE_")
	if err := grpc.SetHeader(ctx, metadata.Pairs(VolumeStateHeader, state)); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// endOnStop ends streams of health and reflection when the service stops: they
// would go on for as long as their clients like, and a drain would wait for them.
func (s *Server) endOnStop(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, release := s.stoppable(stream.Context())
	defer release()
	err := handler(srv, &middleware.WrappedServerStream{ServerStream: stream, WrappedContext: ctx})
	return Status(stopCause(ctx, err))
}

type requestIDKey struct{}

// requestID returns the ULID that identify gave the call.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// identify gives the call a ULID, for its log lines and the response header.
func identify(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, header := withRequestID(ctx)
	if err := grpc.SetHeader(ctx, header); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func identifyStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, header := withRequestID(stream.Context())
	if err := stream.SetHeader(header); err != nil {
		return err
	}
	return handler(srv, &middleware.WrappedServerStream{
		ServerStream:   stream,
		WrappedContext: context.WithValue(ctx, bareKey{}, stream),
	})
}

func withRequestID(ctx context.Context) (context.Context, metadata.MD) {
	id := ulid.Make().String()
	ctx = context.WithValue(ctx, requestIDKey{}, id)
	ctx = logging.InjectFields(ctx, logging.Fields{"request_id", id})
	return ctx, metadata.Pairs(RequestIDHeader, id)
}

type bareKey struct{}

// bare gives the handler the stream that came in at identifyStream with the
// context of all interceptors since. Their wrappers look at each message: the
// logging one reads the clock twice, to log the start of the call with the first
// one. Here it is logged before.
func bare(logger logging.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx := stream.Context()
		logger.Log(ctx, logging.LevelDebug, "started call", logging.ExtractFields(ctx)...)
		if inner, ok := ctx.Value(bareKey{}).(grpc.ServerStream); ok {
			stream = &middleware.WrappedServerStream{ServerStream: inner, WrappedContext: ctx}
		}
		return handler(srv, stream)
	}
}
