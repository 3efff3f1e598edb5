package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/walsvc/walsvc/internal/bench"
)

// echo is bare gRPC: a stream for each caller, on a connection of its own, whose
// messages nobody looks at and nobody keeps. It is no log; it is what a service
// behind gRPC cannot be faster than, for callers of this shape.
type echo struct {
	process *process
	socket  string
	conns   []*grpc.ClientConn
}

// echoCommand is the first argument of a process that serves echoes.
const echoCommand = "serve-echo"

// serveEcho is that process.
func serveEcho(socket string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return bench.ServeEcho(ctx, l)
}

func (*echo) about() about {
	return about{Name: "bare gRPC stream", Version: grpc.Version, Reached: unixSocket,
		How: "no log: a message there and 8 bytes back; a connection and a stream for each caller"}
}

func (s *echo) start(ctx context.Context, dir string, _ bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.socket = filepath.Join(dir, "echo.sock")
	s.process, err = startProcess(ctx, exec.Command(self, echoCommand, s.socket), func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return err
}

func (s *echo) logs(ctx context.Context, callers int, pipelined bool) ([]bench.Log, error) {
	if pipelined {
		return nil, fmt.Errorf("%w: a pipeline is packed into messages, not one message for each record", errors.ErrUnsupported)
	}
	logs := make([]bench.Log, callers)
	for i := range logs {
		c, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, c)
		// The method is that of bench.ServeEcho. The stream ends with its load.
		stream, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/walsvc.bench.Echo/Echo")
		if err != nil {
			return nil, err
		}
		logs[i] = called(func(_ context.Context, record []byte) error {
			if err := stream.SendMsg(record); err != nil {
				return err
			}
			var n int
			return stream.RecvMsg(&n)
		})
	}
	return logs, nil
}

func (s *echo) stop(context.Context) error {
	var errs []error
	for _, c := range s.conns {
		errs = append(errs, c.Close())
	}
	s.conns = nil
	s.process.kill()
	s.process = nil
	return errors.Join(errs...)
}

// rawCodec moves messages without looking at them.
type rawCodec struct{}

// Name implements encoding.CodecV2.
func (rawCodec) Name() string { return "raw" }

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("raw codec: sending %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	n, ok := v.(*int)
	if !ok {
		return fmt.Errorf("raw codec: receiving into %T", v)
	}
	*n = data.Len()
	return nil
}
