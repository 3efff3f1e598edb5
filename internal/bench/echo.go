package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/limits"
)

// Echo is gRPC with nothing in it: a bidirectional stream whose messages are
// raw bytes that nobody looks at, answered with 8 bytes each, and no option of
// gRPC's that costs or saves time is touched. What walsvc does per message comes
// on top, so this is the floor of its latency and the ceiling of its bandwidth.
// The server runs in a process of its own, as walsvc does.
//
// There is a second stream whose handler overwrites a block and syncs it before
// it answers. That takes more than a round trip and a sync by themselves: both
// ends sleep while the disk works, and a CPU with nothing to do halts, so that
// the disk's interrupt and the caller's wake-up each find it asleep. It is the
// floor of one caller whose append must be durable.

// The methods of an echo server.
const (
	echoMethod     = "/walsvc.bench.Echo/Echo"
	echoSyncMethod = "/walsvc.bench.Echo/EchoSync"
)

// rawCodec moves messages without looking at them: a []byte out, and how many
// bytes came in.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("raw codec: sending %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	n, ok := v.(*int)
	if !ok {
		return fmt.Errorf("raw codec: receiving into %T", v)
	}
	*n = data.Len()
	return nil
}

// ServeEcho answers echo streams on a listener until ctx ends, and closes it.
// Streams that sync keep a file in a directory of their own below dir, the
// default for temporary files if it is empty; nothing is left when it returns.
func ServeEcho(ctx context.Context, l net.Listener, dir string) error {
	stream := func(name string, h grpc.StreamHandler) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, Handler: h, ServerStreams: true, ClientStreams: true}
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.WaitForHandlers(true)) // they remove their files
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "walsvc.bench.Echo",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			stream("Echo", func(_ any, s grpc.ServerStream) error { return echo(s, nil) }),
			stream("EchoSync", func(_ any, s grpc.ServerStream) error { return echoSync(s, dir) }),
		},
	}, nil)
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // returns when the handlers have
		return fmt.Errorf("serve echoes on %s: %w", l.Addr(), err)
	}
	return nil
}

// answerSize is what each message is answered with, in bytes.
const answerSize = 8

// echo answers messages, each after work if there is any.
func echo(stream grpc.ServerStream, work func() error) error {
	answer := make([]byte, answerSize)
	for {
		var n int
		if err := stream.RecvMsg(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if work != nil {
			if err := work(); err != nil {
				return err
			}
		}
		if err := stream.SendMsg(answer); err != nil {
			return err
		}
	}
}

// echoSync answers each message when a block is durable. The first answer, to
// the stream's header, says that there are written blocks.
func echoSync(stream grpc.ServerStream, dir string) (err error) {
	own, err := os.MkdirTemp(dir, "walctl-echo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own)) }()
	p := newProbe(DiskOptions{Dir: own}.withDefaults(), overwriteFile, limits.BlockSize)
	if err := p.write(stream.Context()); err != nil {
		return err
	}
	f, err := p.open(Overwritten)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	var at int64
	return echo(stream, func() error {
		if _, err := f.WriteAt(p.next(limits.BlockSize), at); err != nil {
			return err
		}
		at = (at + limits.BlockSize) % overwriteFile
		return f.Sync()
	})
}

// An Echo is a client's connection to ServeEcho.
type Echo struct{ conn *grpc.ClientConn }

// DialEcho connects to a Unix socket.
func DialEcho(socket string) (*Echo, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return &Echo{conn}, nil
}

// Close gives the connection up.
func (e *Echo) Close() error { return e.conn.Close() }

func (e *Echo) stream(ctx context.Context, method string) (grpc.ClientStream, error) {
	return e.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
}

// RoundTrip measures messages of size bytes with one in flight.
func (e *Echo) RoundTrip(ctx context.Context, size int, duration time.Duration) (Latency, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.stream(ctx, echoMethod)
	if err != nil {
		return Latency{}, err
	}
	return roundTrips(s, size, duration)
}

// SyncRoundTrip measures messages of size bytes with one in flight, each
// answered when the server has overwritten and synced 4 KiB.
func (e *Echo) SyncRoundTrip(ctx context.Context, size int, duration time.Duration) (l Latency, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.stream(ctx, echoSyncMethod)
	if err != nil {
		return l, err
	}
	if _, err := s.Header(); err != nil { // until the file is written
		return l, err
	}
	if l, err = roundTrips(s, size, duration); err != nil {
		return l, err
	}
	// The server is done when its file is gone.
	if err := s.CloseSend(); err != nil {
		return l, err
	}
	if err := s.RecvMsg(new(int)); !errors.Is(err, io.EOF) {
		return l, fmt.Errorf("end of a stream of round trips: %w", err)
	}
	return l, nil
}

// roundTrips measures messages on a stream.
func roundTrips(s grpc.ClientStream, size int, duration time.Duration) (Latency, error) {
	var (
		n   int
		h   = newHistogram()
		cut = NewCutter(size, 0, 1)
	)
	for end := time.Now().Add(duration); ; {
		start := time.Now()
		if start.After(end) {
			return latencyOf(h), nil
		}
		if err := s.SendMsg(cut.Next()); err != nil {
			return Latency{}, err
		}
		if err := s.RecvMsg(&n); err != nil {
			return Latency{}, err
		}
		if n != answerSize {
			return Latency{}, fmt.Errorf("answer of %d bytes, want %d", n, answerSize)
		}
		record(h, time.Since(start))
	}
}

// Bandwidth measures messages of size bytes sent one behind the other on one
// stream, in bytes that were answered per second.
func (e *Echo) Bandwidth(ctx context.Context, size int, duration time.Duration) (float64, error) {
	var sender sync.WaitGroup
	defer sender.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // first: the sender may be waiting for room
	s, err := e.stream(ctx, echoMethod)
	if err != nil {
		return 0, err
	}
	cut := NewCutter(size, 0, 1)
	start := time.Now()
	end := start.Add(duration)
	sender.Go(func() {
		for {
			if s.SendMsg(cut.Next()) != nil {
				return // what ends sending ends receiving too, with a better error
			}
		}
	})
	var n int
	for answered := 1.0; ; answered++ {
		if err := s.RecvMsg(&n); err != nil {
			return 0, err
		}
		if now := time.Now(); now.After(end) {
			return answered * float64(size) / now.Sub(start).Seconds(), nil
		}
	}
}

// EchoStreams are bare gRPC streams, each on a connection of its own. Logs
// takes a Load of as many callers that wait: a message there, 8 bytes back, and
// nobody keeps anything.
type EchoStreams struct {
	Logs []Log

	conns  []*Echo
	cancel context.CancelFunc // of the streams
}

// DialEchoStreams opens n streams to an echo server.
func DialEchoStreams(ctx context.Context, socket string, n int) (_ *EchoStreams, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &EchoStreams{cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for range n {
		e, err := DialEcho(socket)
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, e)
		stream, err := e.stream(ctx, echoMethod)
		if err != nil {
			return nil, err
		}
		s.Logs = append(s.Logs, echoLog{stream})
	}
	return s, nil
}

// Close ends the streams and gives the connections up.
func (s *EchoStreams) Close() error {
	s.cancel()
	var errs []error
	for _, e := range s.conns {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

// An echoLog is a stream that is put under load as a log is.
type echoLog struct{ stream grpc.ClientStream }

// Append implements Log. It ends with its stream, not with ctx.
func (l echoLog) Append(_ context.Context, record []byte) (client.LSN, error) {
	if err := l.stream.SendMsg(record); err != nil {
		return 0, err
	}
	return 0, l.stream.RecvMsg(new(int))
}

// AppendAsyncFunc implements Log. A pipeline packs its records into messages,
// which a stream that answers each one cannot stand for.
func (echoLog) AppendAsyncFunc(_ context.Context, _ []byte, fn func(client.Receipt, error)) {
	fn(client.Receipt{}, fmt.Errorf("%w: a pipeline of echoes", errors.ErrUnsupported))
}
