package linear

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// A proxy stands between clients and the service, whose address changes with
// its lives, and breaks connections: all of them when it is told to, and each
// one by itself after some bytes, wherever in a message that is.
type proxy struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	target string // path of a socket; empty while there is nobody
	links  map[*link]bool
	intact bool // no link breaks by itself
	rng    *rand.Rand
	broken int // links that broke by themselves
}

// A link is one connection through the proxy.
type link struct {
	ends  [2]net.Conn
	left  atomic.Int64 // bytes until it breaks
	ended sync.WaitGroup
}

// newProxy listens at a path.
func newProxy(path string, rng *rand.Rand) (*proxy, error) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, links: map[*link]bool{}, rng: rng}
	p.running.Go(p.accept)
	return p, nil
}

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // it was closed
		}
		p.running.Go(func() { p.serve(conn) })
	}
}

// aim sends those who connect from now on to a socket.
func (p *proxy) aim(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = path
}

// cut breaks all connections, and takes none until it is aimed again. When it
// returns, no byte of the service reaches a client any more.
func (p *proxy) cut() {
	p.mu.Lock()
	p.target = ""
	var cut []*link
	for l := range p.links {
		cut = append(cut, l)
	}
	p.mu.Unlock()
	for _, l := range cut {
		l.cut()
		l.ended.Wait()
	}
}

// tear breaks all connections; new ones are taken.
func (p *proxy) tear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// close ends the proxy.
func (p *proxy) close() error {
	err := p.listener.Close()
	p.cut()
	p.running.Wait()
	return err
}

func (l *link) cut() {
	_ = l.ends[0].Close() // both may be closed already
	_ = l.ends[1].Close()
}

// serve carries one connection until either end is gone or it breaks.
func (p *proxy) serve(conn net.Conn) {
	p.mu.Lock()
	service, err := net.Dial("unix", p.target) // under the lock: cut must see it
	if err != nil {
		p.mu.Unlock()
		_ = conn.Close() // there is nobody to tell
		return
	}
	l := &link{ends: [2]net.Conn{conn, service}}
	// From the first messages to hundreds of them, spread over the magnitudes.
	l.left.Store(1<<(11+p.rng.IntN(9)) + p.rng.Int64N(1<<11))
	if p.intact {
		l.left.Store(math.MaxInt64)
	}
	p.links[l] = true
	l.ended.Add(2)
	p.mu.Unlock()

	for i := range 2 {
		p.running.Go(func() {
			defer l.ended.Done()
			if errors.Is(l.carry(l.ends[i], l.ends[1-i]), errBroken) {
				p.mu.Lock()
				p.broken++
				p.mu.Unlock()
			}
			l.cut()
		})
	}
	l.ended.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

var errBroken = errors.New("broken")

// carry copies until an end is gone, or what is left is used up: then a part of
// what was read still goes out.
func (l *link) carry(from io.Reader, to io.Writer) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return err
		}
		left := l.left.Add(-int64(n))
		if left < 0 {
			n = max(0, n+int(left))
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		if left < 0 {
			return errBroken
		}
	}
}
