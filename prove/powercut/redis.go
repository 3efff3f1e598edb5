package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/walsvc/walsvc/prove/power"
)

// redis is redis-server with an append-only file, under several connections
// that push to a list.
type redis struct {
	binary  string
	fsync   string // always or everysec
	clients int
	next    atomic.Uint32 // number of the next client

	process *process
	socket  string
}

// findRedis returns redis with each way to sync.
func findRedis(o options) ([]subject, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w; Debian has it in the package redis-server", err)
	}
	var out []subject
	for _, fsync := range []string{"always", "everysec"} {
		out = append(out, &redis{binary: binary, fsync: fsync, clients: o.clients})
	}
	return out, nil
}

func (s *redis) name() string { return "Redis, " + s.fsync }

func (*redis) judged() bool { return false }

var redisVersion = regexp.MustCompile(`v=(\S+)`)

func (s *redis) version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, s.binary, "--version").Output()
	if m := redisVersion.FindSubmatch(out); err == nil && m != nil {
		return string(m[1])
	}
	return ""
}

func (*redis) makesDirectory() bool { return false }

func (s *redis) start(ctx context.Context, d *power.Disk, mount string) error {
	s.socket = filepath.Join(filepath.Dir(mount), "redis.sock")
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	line, ready := whenSaid("eady to accept connections")
	p, err := startProcess(program{name: s.binary, out: line, args: []string{
		"--dir", filepath.Join(mount, volume), "--appendonly", "yes", "--appendfsync", s.fsync,
		"--save", "", "--auto-aof-rewrite-percentage", "0", "--port", "0", "--unixsocket", s.socket, "--daemonize", "no"}})
	if err != nil {
		return err
	}
	s.process = p
	return p.wait(ctx, d, ready)
}

// repair cuts the append-only file off where it is damaged, as the server says to
// do in the message that it ends with.
func (s *redis) repair(ctx context.Context, mount string) error {
	tool, err := exec.LookPath("redis-check-aof")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, "--fix", filepath.Join(mount, volume, "appendonlydir", "appendonly.aof.manifest"))
	cmd.Stdin = strings.NewReader("y\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("redis-check-aof: %w\n%s", err, out)
	}
	return nil
}

func (s *redis) kill(d *power.Disk) error { return s.process.kill(d) }

func (s *redis) said() string { return s.process.tell() }

func (s *redis) verify(ctx context.Context, l *ledger, say func(string, ...any)) (tally, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return tally{}, err
	}
	defer c.close()
	c.send("LRANGE", []byte(peerLog), []byte("0"), []byte("-1"))
	n, err := c.number('*')
	if err != nil {
		return tally{}, err
	}
	records := make([]found, n)
	for i := range records {
		size, err := c.number('$')
		if err != nil {
			return tally{}, err
		}
		data := make([]byte, size+2)
		if _, err := io.ReadFull(c.r, data); err != nil {
			return tally{}, err
		}
		records[i] = found{uint64(i + 1), data[:size]}
	}
	return l.compare(peerLog, true, 1, records, say), nil
}

func (s *redis) load(ctx context.Context, l *ledger, _ uint64) error {
	errs := make([]error, s.clients)
	var running sync.WaitGroup
	for i := range s.clients {
		number := s.next.Add(1)
		running.Go(func() {
			// A connection that breaks is the power cut.
			if err := s.push(ctx, l, number); errors.Is(err, errReply) {
				errs[i] = err
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// push appends batches of commands for ever.
func (s *redis) push(ctx context.Context, l *ledger, number uint32) error {
	const batch = 8
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	for n := uint64(1); ; {
		var units [batch]*unit
		for i := range units {
			units[i] = l.submitted(peerLog, unitID{number, n}, 1)
			n++
			c.send("RPUSH", []byte(peerLog), record(recordID{units[i].id, 0, 1}))
		}
		for _, u := range units {
			at, err := c.number(':')
			if err != nil {
				return err
			}
			l.acknowledged(u, uint64(at))
		}
	}
}

// errReply says that redis answered something else than was asked for.
var errReply = errors.New("redis answered")

// redisConn speaks as much of its protocol as it takes here.
type redisConn struct {
	c     net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	ended func() bool
}

func (s *redis) dial(ctx context.Context) (*redisConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, err
	}
	ended := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends what waits
	return &redisConn{c, bufio.NewReader(c), bufio.NewWriter(c), ended}, nil
}

func (c *redisConn) close() {
	c.ended()
	_ = c.c.Close() // nothing was written that was not read back
}

// send puts a command into the buffer, whose error comes with the flush.
func (c *redisConn) send(command string, args ...[]byte) {
	fmt.Fprintf(c.w, "*%d\r\n$%d\r\n%s\r\n", len(args)+1, len(command), command)
	for _, a := range args {
		fmt.Fprintf(c.w, "$%d\r\n%s\r\n", len(a), a)
	}
}

// number sends what is left to send, and reads a number of a kind.
func (c *redisConn) number(kind byte) (int, error) {
	if err := c.w.Flush(); err != nil {
		return 0, err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	line = strings.TrimSpace(line)
	if line == "" || line[0] != kind {
		return 0, fmt.Errorf("%w %q", errReply, line)
	}
	return strconv.Atoi(line[1:])
}
