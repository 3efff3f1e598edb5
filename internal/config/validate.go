package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// minDrainDeadline catches a number without a unit, which YAML would have as
// nanoseconds.
const minDrainDeadline = 100 * time.Millisecond

// Validate returns everything that is wrong with c, each with the way out. It
// looks at no file: what is not there is found when it is used.
func (c Config) Validate() error {
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	if c.Data == "" {
		refuse("data: is empty; name a directory")
	}
	if c.SocketPath() == "" && c.Listen == "" {
		refuse("socket, listen: nothing to serve on; set one of them")
	}
	c.validateTCP(refuse)
	c.validateAdmin(refuse)

	if _, err := disk.ParseDirect(c.Direct); err != nil {
		refuse("%w", err)
	}
	if _, err := codec.Parse(c.Codec); err != nil && c.Codec != "auto" {
		refuse("codec: %q is none of auto, none, s2, zstd", c.Codec)
	}
	if s := c.SegmentSize; s < limits.MinSegmentSize || s > limits.MaxSegmentSize || s%limits.BlockSize != 0 {
		refuse("segment-size: %v is not a multiple of %v from %v to %v", s,
			Size(limits.BlockSize), Size(limits.MinSegmentSize), Size(limits.MaxSegmentSize))
	}
	if c.PrepareRate == 0 {
		refuse("prepare-rate: with none there would never be space to append to; use \"unlimited\" for no bound")
	}
	if c.Processors != ProcessorsAuto && c.Processors != ProcessorsAll {
		refuse("processors: %q is neither %s nor %s", c.Processors, ProcessorsAuto, ProcessorsAll)
	}
	if c.DrainDeadline < minDrainDeadline {
		refuse("drain-deadline: %v is below %v; write a unit, such as 10s", c.DrainDeadline, minDrainDeadline)
	}
	if c.MaxConnections < 1 || c.MaxConnections > limits.MaxConnections {
		refuse("max-connections: %d is not from 1 to %d", c.MaxConnections, limits.MaxConnections)
	}
	if c.AdminRate < 0 {
		refuse("admin-rate: %d is negative; use 0 for no bound", c.AdminRate)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		refuse("log-format: %q is neither text nor json", c.LogFormat)
	}
	return errors.Join(wrong...)
}

func (c Config) validateTCP(refuse func(format string, args ...any)) {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		refuse("tls-cert, tls-key: one without the other; set both")
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		refuse("tls-client-ca: without tls-cert and tls-key there is no TLS to ask clients for certificates on")
	}
	if c.TLSClientCA != "" && c.TLSAnyClient {
		refuse("tls-client-ca, tls-any-client: clients either need a certificate or do not; set one of them")
	}
	if c.Listen == "" {
		if c.TLSCert != "" {
			refuse("tls-cert: TLS is for TCP; set listen, too")
		}
		return
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil || port == "" || noPort(port) {
		refuse("listen: %q is not host:port", c.Listen)
		return
	}
	switch {
	case isLoopback(host):
	case c.TLSCert == "":
		refuse("listen: %q is reachable from other machines; set tls-cert, tls-key and tls-client-ca, or listen on 127.0.0.1", c.Listen)
	case c.TLSClientCA == "" && !c.TLSAnyClient:
		refuse("listen: %q is reachable from other machines, and whoever reaches it could read, append and delete; "+
			"set tls-client-ca to ask clients for certificates, or tls-any-client if everybody is meant", c.Listen)
	}
}

func (c Config) validateAdmin(refuse func(format string, args ...any)) {
	if c.Admin == "" {
		return
	}
	host, port, err := net.SplitHostPort(c.Admin)
	switch {
	case err != nil || port == "" || noPort(port):
		refuse("admin: %q is not host:port", c.Admin)
	case host == "":
		refuse("admin: %q names no host; nobody is asked who they are there, so write 127.0.0.1%[1]s, or 0.0.0.0%[1]s if everybody is meant", c.Admin)
	}
}

// noPort reports whether port is a number and not one of a port. Whether a name is
// one of a service's, only the system knows.
func noPort(port string) bool {
	n, err := strconv.Atoi(port)
	return (err == nil || errors.Is(err, strconv.ErrRange)) && (n < 0 || n > math.MaxUint16)
}

// isLoopback reports whether only this machine can reach host. A name other
// than localhost counts as reachable whatever it resolves to now.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
