package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
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
		c := &countedConn{Conn: conn, server: s}
		if s.admit(c) {
			return c, nil
		}
		_ = conn.Close() // nothing was said on it yet
		if s.draining() {
			continue
		}
		s.log.LogAttrs(context.Background(), slog.LevelWarn, "connection refused: too many",
			slog.Int("max_connections", s.options.MaxConnections), slog.String("address", l.Addr().String()))
	}
}

// admit counts a connection as open, unless there are too many or the service stops.
func (s *Server) admit(c *countedConn) bool {
	s.connections.Lock()
	defer s.connections.Unlock()
	if s.draining() || len(s.connections.open) >= s.options.MaxConnections {
		return false
	}
	s.connections.open[c] = true
	return true
}

// hangUp closes the connections that are open, or those of them on which nothing was
// said yet. gRPC gives a new connection two minutes to introduce itself, and does not
// stop before that: nor does it cut others, or tell them to go.
func (s *Server) hangUp(silent bool) {
	s.connections.Lock()
	defer s.connections.Unlock()
	for c := range s.connections.open {
		if !silent || !c.heard.Load() {
			_ = c.Conn.Close() // who has it sees to the rest
		}
	}
}

// countedConn is a connection that is no longer open once it is closed, and counts what
// comes in on it.
type countedConn struct {
	net.Conn
	server *Server
	heard  atomic.Bool // something has come in
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.server.received.Add(uint64(n))
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	s := c.server
	s.connections.Lock()
	delete(s.connections.open, c)
	s.connections.Unlock()
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
