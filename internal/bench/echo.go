package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// Echo is gRPC with nothing in it: a bidirectional stream whose messages are
// raw bytes that nobody looks at, answered with 8 bytes each, and no option of
// gRPC's is touched. What walsvc does per message comes on top, so this is the
// floor of its latency and the ceiling of its bandwidth. The server runs in a process of its own, as walsvc does.

const echoMethod = "/walsvc.bench.Echo/Echo"

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
func ServeEcho(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "walsvc.bench.Echo",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "Echo", Handler: echo, ServerStreams: true, ClientStreams: true}},
	}, nil)
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve echoes on %s: %w", l.Addr(), err)
	}
	return nil
}

// answerSize is what each message is answered with, in bytes.
const answerSize = 8

func echo(_ any, stream grpc.ServerStream) error {
	answer := make([]byte, answerSize)
	for {
		var n int
		if err := stream.RecvMsg(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(answer); err != nil {
			return err
		}
	}
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

func (e *Echo) stream(ctx context.Context) (grpc.ClientStream, error) {
	return e.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echoMethod)
}

// RoundTrip measures messages of size bytes with one in flight.
func (e *Echo) RoundTrip(ctx context.Context, size int, duration time.Duration) (Latency, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.stream(ctx)
	if err != nil {
		return Latency{}, err
	}
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
	s, err := e.stream(ctx)
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
