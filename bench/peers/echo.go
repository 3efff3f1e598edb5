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

	"github.com/walsvc/walsvc/internal/bench"
)

// echo is bare gRPC: a stream for each caller, on a connection of its own, whose
// messages nobody looks at and nobody keeps. It is no log; it is what a service
// behind gRPC cannot be faster than, for callers of this shape.
type echo struct {
	process *process
	socket  string
	streams []*bench.EchoStreams // of each load
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
	return bench.ServeEcho(ctx, l, filepath.Dir(socket))
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
	streams, err := bench.DialEchoStreams(ctx, s.socket, callers) // they end with their load
	if err != nil {
		return nil, err
	}
	s.streams = append(s.streams, streams)
	return streams.Logs, nil
}

func (s *echo) stop(context.Context) error {
	var errs []error
	for _, e := range s.streams {
		errs = append(errs, e.Close())
	}
	s.streams = nil
	s.process.kill()
	s.process = nil
	return errors.Join(errs...)
}
