package docstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; it is only reached when something is broken.
const patience = 30 * time.Second

// A sim is walsvc in this process, on a disk in memory. It can be killed, and its
// disk then keeps what was synced and some of the rest.
type sim struct {
	t   testing.TB
	rng *rand.Rand // of whoever kills it

	mu       sync.Mutex
	disk     *disk.Mem
	faulty   *disk.Faulty
	volume   *wal.Volume
	server   *server.Server
	listener *bufconn.Listener
	poisoned chan struct{}
	served   sync.WaitGroup
	lines    []*line
}

func newSim(t testing.TB, seed uint64) *sim {
	t.Helper()
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 0)), disk: disk.NewMem()}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start opens the volume and serves it.
func (s *sim) start() {
	s.t.Helper()
	faulty, poisoned := disk.NewFaulty(s.disk), make(chan struct{})
	volume, err := wal.Open(context.Background(), "/vol", wal.Options{
		FS: faulty, Create: true, SegmentSize: 256 << 10, PrepareRate: -1, SnapshotEvery: 64 << 10, Codec: "none",
		Events: wal.Events{Poisoned: func(error) { close(poisoned) }},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if state, detail := volume.State(); state != wal.Serving {
		s.t.Fatalf("the volume opens in state %d: %s", state, detail)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faulty, s.volume, s.poisoned = faulty, volume, poisoned
	s.server = server.New(volume, server.Options{Log: slog.New(slog.DiscardHandler), Poisoned: poisoned})
	s.listener = bufconn.Listen(64 << 10)
	served, listener := s.server, s.listener
	s.served.Go(func() { _ = served.Serve(listener) })
}

// stop ends the service. What closing the volume says is nobody's business.
func (s *sim) stop() {
	s.server.Stop()
	s.served.Wait()
	_ = s.volume.Close()
}

// kill cuts the power, of the service and its disk, and starts it again. Nobody
// hears anything of it but that connections break. lets, if not nil, is closed when
// the disk may go on.
func (s *sim) kill(lets chan struct{}) {
	s.t.Helper()
	survive := []float64{0, 0.5, 1}[s.rng.IntN(3)]
	s.mu.Lock()
	lines := s.lines
	s.listener = nil
	s.mu.Unlock()
	// Nobody may hear of what comes after the disk's last moment.
	for _, l := range lines {
		l.cut()
	}
	s.mu.Lock()
	s.disk = s.disk.CrashClone(s.rng, survive)
	s.mu.Unlock()
	if lets != nil {
		close(lets)
	}
	s.stop()
	s.start()
}

// drain stops the service in order and starts it again.
func (s *sim) drain() {
	s.t.Helper()
	s.mu.Lock()
	s.listener = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := s.server.Drain(ctx)
	s.served.Wait()
	if err := errors.Join(err, s.volume.Close()); err != nil {
		s.t.Error(err)
	}
	s.start()
}

// killAt has the service killed at one of the next changes of its disk, counted from
// 0, as it is under way. killed is closed when it serves again; if that does not
// come about, it is never.
func (s *sim) killAt(change int) (killed chan struct{}) {
	killed = make(chan struct{})
	hangs, lets := make(chan struct{}), make(chan struct{})
	changes := []disk.OpKind{disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpWrite, disk.OpSync, disk.OpTruncate}
	var mu sync.Mutex
	s.faulty.Before(func(op disk.Op) error {
		if !slices.Contains(changes, op.Kind) {
			return nil
		}
		mu.Lock()
		if change--; change >= 0 {
			mu.Unlock()
			return nil
		}
		if change == -1 {
			close(hangs)
		}
		mu.Unlock()
		<-lets
		return syscall.EIO
	})
	ended, end := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-hangs:
			s.kill(lets)
			close(killed)
		case <-ended.Done():
			close(lets)
		}
	})
	s.t.Cleanup(func() { end(); watching.Wait() })
	return killed
}

// A line is one engine's way to the service. It can be cut, so that connections
// break wherever they are, and severed for good, as when the engine dies.
type line struct {
	sim *sim

	mu      sync.Mutex
	conns   []net.Conn
	down    bool
	calls   int  // that the engine made
	dieAt   int  // the call that it dies at; negative for none
	after   bool // when it is over, and else before it begins
	dies    chan struct{}
	severed sync.Once
	onCall  func(method string) // before a call that the engine makes; nil for nobody
}

func (s *sim) newLine() *line {
	l := &line{sim: s, dieAt: -1, dies: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, l)
	return l
}

// options are those of a store or a replica that uses the line.
func (l *line) options(name, dir string) Options {
	return Options{
		Dir: dir, Name: name, Shards: 2, Pages: 3,
		Client: client.Options{Dial: []grpc.DialOption{
			grpc.WithContextDialer(l.dial), grpc.WithChainUnaryInterceptor(l.call), grpc.WithIdleTimeout(0),
		}},
	}
}

// target is where the lines lead to; their dialers do not look at it.
const target = "/sim"

var errDown = errors.New("the line is down")

func (l *line) dial(ctx context.Context, _ string) (net.Conn, error) {
	l.sim.mu.Lock()
	listener := l.sim.listener
	l.sim.mu.Unlock()
	if listener == nil {
		return nil, errDown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, errDown
	}
	conn, err := listener.DialContext(ctx)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

// call is told of every unary call.
func (l *line) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	l.mu.Lock()
	now, onCall := l.calls == l.dieAt, l.onCall
	l.calls++
	l.mu.Unlock()
	if onCall != nil {
		onCall(method)
	}
	if now && !l.after {
		l.sever()
	}
	err := invoker(ctx, method, req, reply, cc, opts...)
	if now && l.after {
		l.sever()
		return errDown
	}
	return err
}

// cut breaks what connections there are.
func (l *line) cut() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// part keeps the line down until it is joined.
func (l *line) part(down bool) {
	l.mu.Lock()
	l.down = down
	l.mu.Unlock()
	if down {
		l.cut()
	}
}

// sever is the engine's death, as far as the service sees it.
func (l *line) sever() {
	l.part(true)
	l.severed.Do(func() { close(l.dies) })
}

// A world is a sim, a directory that its engines share, and what is known of the
// operations.
type world struct {
	*sim
	dir     string // of the stores
	copies  string // of the replica
	replica *Replica
	// contested: several stores are at it at once, and all but one are fenced.
	contested bool

	mu      sync.Mutex
	made    uint64
	ops     []*attempt
	history [][]Op // by shard, by LSN-1: as the replica read it
}

// An attempt is an operation, and what became of it.
type attempt struct {
	Op
	commit  *Commit // nil if it was never taken
	durable bool    // acknowledged, or resolved as committed
	never   bool    // refused, or resolved as not written
	unknown *client.UnknownError
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{sim: newSim(t, seed), dir: t.TempDir(), copies: t.TempDir(), history: make([][]Op, 2)}
	w.follow()
	return w
}

// follow opens the replica, which goes on where it was saved and reads again what
// came behind.
func (w *world) follow() {
	w.t.Helper()
	o := w.newLine().options("replica", w.copies)
	o.Applied = func(shard int, lsn client.LSN, record []byte) {
		op, err := ParseOp(record)
		if err != nil {
			w.t.Error(err)
		}
		op.Doc = slices.Clone(op.Doc)
		w.mu.Lock()
		defer w.mu.Unlock()
		switch have := w.history[shard]; {
		case int(lsn) == len(have)+1:
			w.history[shard] = append(have, op)
		case int(lsn) > len(have):
			w.t.Errorf("the replica read LSN %d of shard %d after %d", lsn, shard, len(have))
		case have[lsn-1].Number != op.Number:
			w.t.Errorf("the replica read operation %d at LSN %d of shard %d, and %d before", op.Number, lsn, shard, have[lsn-1].Number)
		}
	}
	r, err := Follow(w.t.Context(), target, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	w.replica = r
}

// passing reports whether an error is one that a service's death, or the engine's
// own, explains.
func passing(err error) bool {
	for _, passing := range []error{client.ErrUnavailable, client.ErrUnknownOutcome, client.ErrClosed, context.Canceled, ErrClosed, errDown} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return err != nil && strings.Contains(err.Error(), errDown.Error())
}

// open opens a store, as often as it takes.
func (w *world) open(name string) *Store {
	w.t.Helper()
	s, _ := w.openOn(w.newLine(), name)
	return s
}

func (w *world) openOn(l *line, name string) (*Store, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		s, err := Open(ctx, target, l.options(name, w.dir))
		select {
		case <-l.dies:
			if err == nil {
				return s, nil
			}
			return nil, err
		default:
		}
		if err == nil {
			w.t.Cleanup(s.Close)
			return s, nil
		}
		if ctx.Err() != nil || !passing(err) {
			w.t.Fatalf("open for %s: %v", name, err)
		}
	}
}

// start starts an operation that no other is like.
func (w *world) start(ctx context.Context, s *Store) (*attempt, error) {
	w.mu.Lock()
	w.made++
	a := &attempt{Op: Op{Kind: Put, Session: 1, Number: w.made, Key: fmt.Sprintf("key-%d", w.made*7%23)}}
	if w.made%5 == 0 {
		a.Kind = Delete
	} else {
		a.Doc = fmt.Appendf(nil, "document %d, %s", w.made, strings.Repeat("x", int(w.made%50)))
	}
	w.ops = append(w.ops, a)
	w.mu.Unlock()
	commit, err := s.Start(ctx, a.Op)
	w.mu.Lock()
	defer w.mu.Unlock()
	a.commit, a.never = commit, err != nil
	return a, err
}

// wait waits for what becomes of an operation.
func (w *world) wait(a *attempt) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := a.commit.Wait(ctx)
	if ctx.Err() != nil {
		w.t.Fatalf("operation %d: no answer in %v", a.Number, patience)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		a.durable = true
	case errors.As(err, &a.unknown):
	default:
		a.never = true
	}
	return err
}

// settle resolves what is unknown, with a store that was opened since.
func (w *world) settle(s *Store) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, a := range w.ops {
		for a.unknown != nil {
			r, err := s.Resolve(ctx, a.commit.Shard, a.unknown)
			switch {
			case passing(err) && ctx.Err() == nil:
				continue
			case err != nil:
				w.t.Fatalf("resolve operation %d: %v", a.Number, err)
			case r.Outcome == client.Committed && r.Receipt.LSN != 0 && r.Receipt.LSN != a.commit.LSN:
				w.t.Errorf("operation %d was for LSN %d, it is said to be at %d", a.Number, a.commit.LSN, r.Receipt.LSN)
			}
			a.durable, a.never, a.unknown = r.Outcome == client.Committed, r.Outcome != client.Committed, nil
		}
	}
}

// checkpoint makes checkpoints and lets the replica save.
func (w *world) checkpoint(s *Store) {
	w.t.Helper()
	for shard := range s.shards {
		_, err := s.Checkpoint(w.t.Context(), shard)
		if w.contested && (errors.Is(err, client.ErrFenced) || errors.Is(err, os.ErrNotExist)) {
			err = nil // what it has not finished, its successor has removed
		}
		if err != nil && !passing(err) {
			w.t.Errorf("checkpoint: %v", err)
		}
		if _, err := w.replica.Save(w.t.Context(), shard); err != nil && !passing(err) {
			w.t.Errorf("save: %v", err)
		}
	}
}

// check opens the store once more and compares: the log as the replica read it, with
// what was told of each operation; the store and the replica with the log.
func (w *world) check() {
	w.t.Helper()
	s := w.open("check")
	w.settle(s)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for shard, sh := range s.shards {
		if err := w.replica.Wait(ctx, shard, sh.reached()); err != nil {
			w.t.Fatalf("the replica: %v", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := map[uint64]client.LSN{}
	for shard, ops := range w.history {
		want := map[string]string{}
		for i, op := range ops {
			if other, twice := at[op.Number]; twice {
				w.t.Errorf("operation %d is at LSN %d and at %d", op.Number, other, i+1)
			}
			at[op.Number] = client.LSN(i + 1)
			delete(want, op.Key)
			if op.Kind == Put {
				want[op.Key] = fmt.Sprintf("%s@%d", op.Doc, i+1)
			}
		}
		for name, v := range map[string]View{"store": s.View(shard), "replica": w.replica.View(shard)} {
			if int(v.Applied) != len(ops) {
				w.t.Errorf("shard %d: the %s is at LSN %d, the log at %d", shard, name, v.Applied, len(ops))
			}
			if v.Len() != len(want) {
				w.t.Errorf("shard %d: the %s has %d documents, want %d", shard, name, v.Len(), len(want))
			}
			for key, doc := range want {
				if got, lsn, _ := v.Get(key); fmt.Sprintf("%s@%d", got, lsn) != doc {
					w.t.Errorf("shard %d: the %s has %q@%d under %s, want %q", shard, name, got, lsn, key, doc)
				}
			}
		}
	}
	for _, a := range w.ops {
		switch lsn, there := at[a.Number]; {
		case a.durable && lsn != a.commit.LSN:
			w.t.Errorf("operation %d was acknowledged at LSN %d, it is at %d (there: %t)", a.Number, a.commit.LSN, lsn, there)
		case a.never && there:
			w.t.Errorf("operation %d did not take place, and is at LSN %d", a.Number, lsn)
		case !a.durable && !a.never:
			w.t.Errorf("nobody knows what became of operation %d", a.Number)
		}
	}
}
