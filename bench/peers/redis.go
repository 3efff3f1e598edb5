package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
)

// redis is redis-server with an append-only file that is synced before the
// commands of one turn of its loop are answered: its own group commit. Records
// go into a stream with XADD. All callers share one pipelined connection, as with
// the clients that pipeline by themselves (rueidis, StackExchange.Redis): 64
// connections cost Redis a system call each. The client is redisConn, which does
// less than any library, or rueidis, which users have.
type redis struct {
	binary  string
	v       string
	library bool

	process *process
	socket  string
	conn    *redisConn
	client  rueidis.Client // nil unless library
}

// findRedis returns redis, if there is one.
func findRedis(ctx context.Context) (*redis, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w; Debian has it in the package redis-server", err)
	}
	s := &redis{binary: binary}
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if m := regexp.MustCompile(`v=(\S+)`).FindSubmatch(out); err == nil && m != nil {
		s.v = string(m[1])
	}
	return s, nil
}

func (s *redis) about() about {
	a := about{Name: "Redis, XADD", Version: s.v, Reached: unixSocket,
		How: "appendonly yes, appendfsync always, no snapshots or rewrites; one pipelined connection for all callers"}
	if s.library {
		a.Name = "Redis, rueidis"
		a.How = "the same through rueidis " + moduleVersion("github.com/redis/rueidis") + ", which pipelines what concurrent callers send"
	}
	return a
}

func (s *redis) start(ctx context.Context, dir string, _ bool) (err error) {
	s.socket = filepath.Join(dir, "redis.sock")
	s.process, err = startProcess(ctx, exec.Command(s.binary, "--dir", dir, "--daemonize", "no",
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--auto-aof-rewrite-percentage", "0",
		"--port", "0", "--unixsocket", s.socket), func(ctx context.Context) error {
		c, err := dialRedis(ctx, s.socket)
		if err != nil {
			return err
		}
		defer c.close()
		return c.do("PING") // it says LOADING until it has read its file
	})
	if err != nil {
		return err
	}
	if s.library {
		s.client, err = rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{s.socket}, ForceSingleClient: true, DisableCache: true,
			// Two connections or four have fewer commands in each of Redis's turns.
			PipelineMultiplex: -1, AlwaysPipelining: true,
			DialCtxFn: func(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			},
		})
		return err
	}
	s.conn, err = dialRedis(ctx, s.socket)
	return err
}

// redisStream is the key of the stream.
const redisStream = "log"

func (s *redis) logs(_ context.Context, _ int, pipelined bool) ([]bench.Log, error) {
	switch {
	case s.library && pipelined:
		return nil, fmt.Errorf("%w: a call of the library waits for its answer", errors.ErrUnsupported)
	case s.library:
		return []bench.Log{called(func(ctx context.Context, record []byte) error {
			return s.client.Do(ctx, s.client.B().Xadd().Key(redisStream).Id("*").FieldValue().FieldValue("d", rueidis.BinaryString(record)).Build()).Error()
		})}, nil
	}
	return []bench.Log{sent(func(_ context.Context, record []byte, ack acknowledge) {
		s.conn.send(func(kind byte, _ string, err error) {
			if err == nil && kind != '$' {
				err = fmt.Errorf("XADD: %w", errRedis)
			}
			ack(client.Receipt{}, err)
		}, "XADD", redisStream, "*", "d", record)
	})}, nil
}

// redisRange is how many entries are asked for at once. The next question needs
// the last answer's last ID.
const redisRange = 1000

func (s *redis) replay(ctx context.Context, yield func([]byte) error) error {
	// A connection of its own, read by hand: what comes is five levels deep, and
	// the shared one only knows short answers.
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	r := bufio.NewReaderSize(conn, 1<<20)
	var record, id []byte
	for from := "-"; ; from = "(" + string(id) {
		if _, err := conn.Write(redisCommand(nil, "XRANGE", redisStream, from, "+", "COUNT", strconv.Itoa(redisRange))); err != nil {
			return err
		}
		n, err := redisLength(r, '*')
		if err != nil {
			return err
		}
		for range n { // [id, [field, value]]
			if err := redisSkip(r, "*2"); err != nil {
				return err
			}
			if id, err = redisBulk(r, id); err != nil {
				return err
			}
			if err := redisSkip(r, "*2"); err != nil {
				return err
			}
			if record, err = redisBulk(r, record); err != nil { // the field's name
				return err
			}
			if record, err = redisBulk(r, record); err != nil {
				return err
			}
			if err := yield(record); err != nil {
				return err
			}
		}
		if n < redisRange {
			return nil
		}
	}
}

func (s *redis) stop(context.Context) error {
	if s.conn != nil {
		s.conn.close()
		s.conn = nil
	}
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
	s.process.kill()
	s.process = nil
	return nil
}

// errRedis says that Redis answered something else than was asked for.
var errRedis = errors.New("unexpected answer of redis")

// A redisConn is a connection on which commands are sent while others are
// unanswered. It does less than any client library and costs less: commands gather
// in one buffer while the last is being written. It knows answers of one line and
// bulk strings.
type redisConn struct {
	c     net.Conn
	ended sync.WaitGroup
	wake  chan struct{} // has a token while out has something

	mu      sync.Mutex
	out     []byte
	waiting []func(kind byte, line string, err error)
	first   int   // of waiting that is unanswered
	broken  error // nothing is answered any more
}

func dialRedis(ctx context.Context, socket string) (*redisConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn := &redisConn{c: c, wake: make(chan struct{}, 1)}
	conn.ended.Go(conn.write)
	conn.ended.Go(conn.read)
	return conn, nil
}

// send sends a command and calls fn with its answer, in the order of commands.
func (c *redisConn) send(fn func(kind byte, line string, err error), args ...any) {
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		fn(0, "", c.broken)
		return
	}
	c.out = redisCommand(c.out, args...)
	c.waiting = append(c.waiting, fn)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// do sends a command and returns when it is answered, with the error that Redis
// answered.
func (c *redisConn) do(args ...any) error {
	done := make(chan error, 1)
	c.send(func(kind byte, line string, err error) {
		if err == nil && kind == '-' {
			err = fmt.Errorf("%w: %s", errRedis, line)
		}
		done <- err
	}, args...)
	return <-done
}

func (c *redisConn) write() {
	var out []byte
	for range c.wake {
		c.mu.Lock()
		out, c.out = c.out, out[:0]
		c.mu.Unlock()
		if _, err := c.c.Write(out); err != nil {
			c.breakOff(err)
			return
		}
	}
}

func (c *redisConn) read() {
	r := bufio.NewReaderSize(c.c, 64<<10)
	for {
		kind, line, err := redisAnswer(r)
		if err != nil {
			c.breakOff(err)
			return
		}
		c.mu.Lock()
		if c.broken != nil {
			c.mu.Unlock()
			return
		}
		fn := c.waiting[c.first]
		c.waiting[c.first] = nil
		if c.first++; c.first == len(c.waiting) {
			c.waiting, c.first = c.waiting[:0], 0
		}
		c.mu.Unlock()
		fn(kind, line, nil)
	}
}

// breakOff ends what waits, and everything after it, with an error.
func (c *redisConn) breakOff(err error) {
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		return
	}
	c.broken = err
	waiting := c.waiting[c.first:]
	c.waiting, c.first = nil, 0
	c.mu.Unlock()
	for _, fn := range waiting {
		fn(0, "", err)
	}
}

func (c *redisConn) close() {
	c.breakOff(net.ErrClosed)
	_ = c.c.Close() // ends what reads and writes
	select {
	case c.wake <- struct{}{}: // write sees that it is closed
	default:
	}
	c.ended.Wait()
}

// redisCommand appends a command of strings and byte slices in RESP.
func redisCommand(b []byte, args ...any) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		switch a := a.(type) {
		case string:
			b = strconv.AppendInt(append(b, '$'), int64(len(a)), 10)
			b = append(append(b, '\r', '\n'), a...)
		case []byte:
			b = strconv.AppendInt(append(b, '$'), int64(len(a)), 10)
			b = append(append(b, '\r', '\n'), a...)
		}
		b = append(b, '\r', '\n')
	}
	return b
}

// redisAnswer reads an answer of one line, or a bulk string.
func redisAnswer(r *bufio.Reader) (kind byte, line string, err error) {
	b, err := r.ReadSlice('\n')
	if err != nil {
		return 0, "", err
	}
	if len(b) < 3 {
		return 0, "", errRedis
	}
	if kind = b[0]; kind != '$' {
		return kind, strings.TrimSpace(string(b[1:])), nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b[1:])))
	if err != nil {
		return 0, "", err
	}
	_, err = r.Discard(n + 2)
	return kind, "", err
}

// redisLength reads the length of an array or a bulk string.
func redisLength(r *bufio.Reader, kind byte) (int, error) {
	b, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(b) < 3 || b[0] != kind {
		return 0, fmt.Errorf("%w: %q", errRedis, b)
	}
	n := 0
	for _, d := range b[1 : len(b)-2] {
		n = 10*n + int(d-'0')
	}
	return n, nil
}

// redisSkip reads a line that is known.
func redisSkip(r *bufio.Reader, want string) error {
	b, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(b) < 2 || string(b[:len(b)-2]) != want {
		return fmt.Errorf("%w: %q, want %q", errRedis, b, want)
	}
	return nil
}

// redisBulk reads a bulk string into b.
func redisBulk(r *bufio.Reader, b []byte) ([]byte, error) {
	n, err := redisLength(r, '$')
	if err != nil {
		return b, err
	}
	if cap(b) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	if _, err := io.ReadFull(r, b); err != nil {
		return b, err
	}
	_, err = r.Discard(2)
	return b, err
}
