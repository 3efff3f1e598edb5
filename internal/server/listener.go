package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// limit returns l with connections over Options.MaxConnections closed as soon as
// they are accepted. Leaving them in the backlog instead would let a client wait
// for a service that never looks at it.
func (s *Server) limit(l net.Listener) net.Listener { return &limitedListener{Listener: l, server: s} }

type limitedListener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		s := l.server
		if open := s.connections.Add(1); open <= int64(s.options.MaxConnections) {
			return &countedConn{Conn: conn, received: &s.received, closed: sync.OnceFunc(func() { s.connections.Add(-1) })}, nil
		}
		s.connections.Add(-1)
		s.log.LogAttrs(context.Background(), slog.LevelWarn, "connection refused: too many",
			slog.Int("max_connections", s.options.MaxConnections), slog.String("address", l.Addr().String()))
		_ = conn.Close() // nothing was said on it yet
	}
}

// countedConn is a connection that is no longer open once it is closed, and counts what
// comes in on it.
type countedConn struct {
	net.Conn
	received *atomic.Uint64
	closed   func()
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(uint64(n))
	return n, err
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// newCredentials returns TLS with config for TCP and nothing for the rest, so
// that one gRPC server serves both. A nil config means no TLS at all.
func newCredentials(config *tls.Config) credentials.TransportCredentials {
	bare := insecure.NewCredentials()
	if config == nil {
		return bare
	}
	return mixedCredentials{TransportCredentials: credentials.NewTLS(config), bare: bare}
}

type mixedCredentials struct {
	credentials.TransportCredentials
	bare credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (m mixedCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if strings.HasPrefix(conn.LocalAddr().Network(), "tcp") {
		return m.TransportCredentials.ServerHandshake(conn)
	}
	return m.bare.ServerHandshake(conn)
}

// Clone implements credentials.TransportCredentials.
func (m mixedCredentials) Clone() credentials.TransportCredentials {
	return mixedCredentials{TransportCredentials: m.TransportCredentials.Clone(), bare: m.bare}
}
