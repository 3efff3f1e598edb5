package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/walsvc/walsvc/internal/config"
)

// maxSocketPath is what fits a socket's address on Linux, in bytes, without the
// zero behind it.
const maxSocketPath = 107

// socketMode lets in the user that walsvc runs as, and nobody else.
const socketMode = 0o600

// listen binds the addresses that c names. On an error none stays bound.
func listen(ctx context.Context, c config.Config) (listeners []net.Listener, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, l := range listeners {
			_ = l.Close() // the error that matters is there already
		}
	}()
	if path := c.SocketPath(); path != "" {
		l, err := listenUnix(ctx, path)
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
	}
	if c.Listen != "" {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", c.Listen)
		if err != nil {
			return listeners, noListener("--listen", fmt.Errorf("listen on %s: %w", c.Listen, err))
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// noListener gives the error of a TCP address that cannot be bound its exit code and
// its next step. flag is the one that names the address: explain would speak of the
// volume's directory where the system refuses a port.
func noListener(flag string, err error) error {
	// It may be there when it is tried again: an interface comes up, a name is resolved.
	f := &failure{code: exitFailed, err: err, next: "name an address of this machine, and a port that there is, with " + flag}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		f.code, f.next = exitInUse, "stop what listens there, or set another "+flag
	case errors.Is(err, fs.ErrPermission):
		f.code, f.next = exitUsage, "set a port from 1024 on with "+flag+", or give walsvc the right to lower ones (CAP_NET_BIND_SERVICE)"
	}
	return f
}

// listenUnix binds a Unix socket that has socketMode from the first moment: on
// Linux bind gives the file the mode that the unbound socket has. Setting the
// umask instead would reach into whatever else creates files at that time.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, &failure{
			code: exitUsage,
			err:  fmt.Errorf("socket %s: path of %d bytes, a socket's has at most %d", path, len(path), maxSocketPath),
			next: "name a shorter path with --socket",
		}
	}
	if err := removeDead(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Where the system refuses to, Chmod below does what can be done.
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), socketMode) })
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &failure{
			code: exitUsage,
			err:  fmt.Errorf("listen on socket %s: %w", path, err),
			next: "make the directory that it is to be in, or name another path with --socket",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

// removeDead removes a socket that a killed process left behind: one on which
// nobody answers. Anything else in its place stays.
func removeDead(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return &failure{
			code: exitInUse,
			err:  fmt.Errorf("socket %s: there is something there that is no socket", path),
			next: "remove it if it is not needed, or name another path with --socket",
		}
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close() // it only had to answer
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return &failure{
			code: exitInUse,
			err:  fmt.Errorf("socket %s: another process may be serving on it", path),
			next: "stop it, or name another path with --socket",
		}
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove dead socket: %w", err)
	}
	return nil
}

// tlsOf reads the files that c names; nil if TCP is to be bare.
func tlsOf(c config.Config) (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, &failure{code: exitUsage, err: fmt.Errorf("read certificate: %w", err), next: "check --tls-cert and --tls-key"}
	}
	out := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	if c.TLSClientCA == "" {
		return out, nil
	}
	pem, err := os.ReadFile(c.TLSClientCA)
	if err == nil {
		if out.ClientCAs = x509.NewCertPool(); !out.ClientCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s: no certificate in it", c.TLSClientCA)
		}
	}
	if err != nil {
		return nil, &failure{code: exitUsage, err: fmt.Errorf("read client authorities: %w", err), next: "check --tls-client-ca"}
	}
	out.ClientAuth = tls.RequireAndVerifyClientCert
	return out, nil
}
