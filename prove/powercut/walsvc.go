package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/prove/power"
)

// walsvc is the service as a process, under clients of the SDK.
type walsvc struct {
	binary  string
	clients int
	direct  bool          // it writes past the page cache
	next    atomic.Uint32 // number of the next client; none is used twice

	process *process
	volume  string
	address string
}

// service is the subject that is judged, and direct is its name when it writes
// past the page cache.
const (
	service = "walsvc"
	direct  = "walsvc --direct"
)

func (w *walsvc) name() string {
	if w.direct {
		return direct
	}
	return service
}

func (*walsvc) judged() bool { return true }

func (*walsvc) version(context.Context) string { return "" }

func (*walsvc) makesDirectory() bool { return true }

// segmentSize is small, so that segments roll and recycle.
const segmentSize = "256KiB"

func (w *walsvc) start(ctx context.Context, d *power.Disk, mount string) error {
	w.volume = filepath.Join(mount, volume)
	w.address = filepath.Join(w.volume, "walsvc.sock")
	line, ready := whenSaid("ready ")
	mode := "never"
	if w.direct {
		mode = "always"
	}
	p, err := startProcess(program{name: w.binary, out: line,
		args: []string{"--data", w.volume, "--create", "--segment-size", segmentSize, "--direct", mode}})
	if err != nil {
		return err
	}
	w.process = p
	return p.wait(ctx, d, ready)
}

func (w *walsvc) kill(d *power.Disk) error { return w.process.kill(d) }

func (w *walsvc) said() string { return w.process.tell() }

// verify reads everything back.
func (w *walsvc) verify(ctx context.Context, l *ledger, say func(string, ...any)) (t tally, err error) {
	c, err := client.Open(ctx, w.address, client.Options{})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	for _, name := range l.names() {
		first, records, err := readBack(ctx, c, name, say)
		for errors.Is(err, client.ErrLSNTruncated) {
			first, records, err = readBack(ctx, c, name, say) // what checkpoints cover goes meanwhile
		}
		there := !errors.Is(err, client.ErrLogNotFound)
		if err != nil && there {
			return t, err
		}
		t.add(l.compare(name, there, first, records, say))
	}
	return t, nil
}

// readBack reads all that a log has, and says where that begins.
func readBack(ctx context.Context, c *client.Client, name string, say func(string, ...any)) (first uint64, records []found, err error) {
	info, err := c.GetLog(ctx, name)
	if err != nil {
		return 1, nil, err
	}
	if info.First == info.Next {
		return uint64(info.First), nil, nil
	}
	for r, err := range c.Log(name).Replay(ctx, client.ReplayOptions{From: info.First, To: info.Durable()}) {
		if errors.Is(err, client.ErrDataLoss) {
			say("%v", err) // what is missing is counted by its records
			break
		}
		if err != nil {
			return 1, nil, err
		}
		records = append(records, found{uint64(r.LSN), r.Data})
	}
	return uint64(info.First), records, nil
}

const (
	window  = 64 // appends of a client in flight at most
	shared  = "shared"
	burst   = 250 // appends in which some go to the shared log, of four times as many: segments without it go from between others
	keptEnd = 64  // records of its own log that a client does not truncate
)

// load appends from several clients at once, until ctx ends. The clients give
// up what is in flight then: its outcome is unknown.
func (w *walsvc) load(ctx context.Context, l *ledger, seed uint64) error {
	errs := make([]error, w.clients)
	var running sync.WaitGroup
	for i := range w.clients {
		number := w.next.Add(1)
		running.Go(func() {
			err := w.client(ctx, l, i, number, rand.New(rand.NewPCG(seed, uint64(i))))
			if !passing(err) {
				errs[i] = fmt.Errorf("client %d: %w", number, err)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// passing says whether an error is what a power cut gives a client.
func passing(err error) bool {
	for _, e := range []error{nil, client.ErrUnavailable, client.ErrUnknownOutcome, client.ErrClosed, context.Canceled} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// client appends to a log of its own and to one that all share, keeps a window
// full, and now and then sends a batch, sets a checkpoint and truncates.
func (w *walsvc) client(ctx context.Context, l *ledger, i int, number uint32, rng *rand.Rand) error {
	c, err := client.Open(ctx, w.address, client.Options{})
	if err != nil {
		return err
	}
	defer func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ended) // says that appends were pending, which is the point
	}()
	own := fmt.Sprintf("own-%d", i)
	for _, name := range []string{own, shared} {
		l.opened(name)
		if _, _, err := c.CreateLog(ctx, name, client.LogOptions{}); err != nil {
			return err
		}
		l.created(name)
	}

	var failed error // of the waiting goroutine; read when it has ended
	type flying struct {
		u *unit
		f *client.Future
	}
	queue := make(chan flying, window)
	stopped := make(chan struct{})
	var acked atomic.Uint64 // newest LSN of the own log
	go func() {
		defer close(stopped)
		for a := range queue {
			r, err := a.f.Wait(ctx)
			if err != nil {
				failed = err
				return
			}
			l.acknowledged(a.u, uint64(r.LSN))
			if a.u.log == own {
				acked.Store(uint64(r.LSN))
			}
		}
	}()
	err = func() error {
		for n := uint64(1); ; n++ {
			name := own
			if rng.IntN(3) == 0 && n/burst%4 == 0 {
				name = shared
			}
			count := 1
			if rng.IntN(20) == 0 {
				count += 1 + rng.IntN(6)
			}
			u := l.submitted(name, unitID{number, n}, count)
			if count == 1 {
				select {
				case queue <- flying{u, c.Log(name).AppendAsync(ctx, record(recordID{u.id, 0, 1}))}:
				case <-stopped:
					return nil
				}
			} else if err := appendBatch(ctx, c, l, u); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return nil
			}
			if upTo := acked.Load(); rng.IntN(150) == 0 && upTo > keptEnd {
				if err := forget(ctx, c, l, own, upTo-keptEnd); err != nil {
					return err
				}
			}
		}
	}()
	close(queue)
	<-stopped
	if !passing(err) {
		return err
	}
	return failed
}

func appendBatch(ctx context.Context, c *client.Client, l *ledger, u *unit) error {
	batch := make([][]byte, u.count)
	for i := range batch {
		batch[i] = record(recordID{u.id, i, u.count})
	}
	r, err := c.Log(u.log).AppendBatch(ctx, batch)
	if err != nil {
		return err
	}
	l.acknowledged(u, uint64(r.LSN))
	return nil
}

// forget sets a checkpoint and gives up the records that it covers. The service may do
// that by itself as soon as the checkpoint is set, whether anybody hears of it or not.
func forget(ctx context.Context, c *client.Client, l *ledger, log string, upTo uint64) error {
	l.truncating(log, upTo+1)
	if _, err := c.Log(log).SetCheckpoint(ctx, "engine", client.LSN(upTo), []byte("state")); err != nil {
		return err
	}
	if _, err := c.Log(log).Truncate(ctx, client.LSN(upTo+1)); err != nil {
		return err
	}
	l.truncated(log, upTo+1)
	return nil
}
