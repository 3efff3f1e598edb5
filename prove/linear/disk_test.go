package linear

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	sdk "github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/wal"
)

// A service is walsvc in this process, on a disk that can fail and lose power.
type service struct {
	disk     *disk.Mem
	faulty   *disk.Faulty
	volume   *wal.Volume
	server   *server.Server
	served   chan error
	socket   string
	poisoned chan struct{}
}

// startService opens the volume on a disk and serves it at a socket, by a clock.
func startService(ctx context.Context, m *disk.Mem, socket, codec string, now func() int64) (*service, error) {
	s := &service{disk: m, faulty: disk.NewFaulty(m), served: make(chan error, 1), socket: socket, poisoned: make(chan struct{})}
	var err error
	s.volume, err = wal.Open(ctx, "/vol", wal.Options{
		FS: s.faulty, Create: true, SegmentSize: 128 << 10, PrepareRate: -1, SnapshotEvery: 64 << 10, Codec: codec, Now: now,
		Events: wal.Events{Poisoned: func(error) { close(s.poisoned) }},
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, errors.Join(err, s.volume.Close())
	}
	s.server = server.New(s.volume, server.Options{Log: slog.New(slog.DiscardHandler), Poisoned: s.poisoned})
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// failed reports whether the volume is poisoned, so that what was written may be lost.
func (s *service) failed() bool {
	select {
	case <-s.poisoned:
		return true
	default:
		return false
	}
}

// stop ends the service at once. What closing the volume says is nobody's
// business when the disk is gone.
func (s *service) stop() {
	s.server.Stop()
	<-s.served
	_ = s.volume.Close()
}

// drain ends the service in order.
func (s *service) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := s.server.Drain(ctx)
	return errors.Join(err, <-s.served, s.volume.Close())
}

// An outage is a disk that answers no more, from one of its changes on.
type outage struct {
	left    atomic.Int64 // changes until then
	atSync  bool         // and it is a sync that comes next
	once    sync.Once
	hangs   chan struct{} // closed when something hangs
	lets    chan struct{} // closed when what hangs fails, or succeeds if well
	changes []disk.OpKind
	well    bool // what hangs succeeds after all; set before lets is closed
}

// hook is for Faulty.Before.
func (o *outage) hook(op disk.Op) error {
	if !slices.Contains(o.changes, op.Kind) {
		return nil
	}
	if o.left.Add(-1) >= 0 {
		return nil
	}
	select {
	case <-o.hangs:
	default:
		if o.atSync && op.Kind != disk.OpSync {
			return nil
		}
	}
	o.once.Do(func() { close(o.hangs) })
	<-o.lets
	if o.well {
		return nil
	}
	return syscall.EIO
}

// diskTest is one run of TestDisk.
type diskTest struct {
	*world
	service *service
	lives   int

	ahead atomic.Int64 // of the wall clock, in nanoseconds

	outages, poisonings, drains int
}

// now is the wall clock, for as long as nobody sets it.
func (d *diskTest) now() int64 { return time.Now().UnixNano() + d.ahead.Load() }

// setClock sets the wall clock: mostly ahead, and at times back by a year, for a while.
func (d *diskTest) setClock() {
	const year = int64(365 * 24 * time.Hour)
	ahead := d.ahead.Load()
	if ahead < 0 {
		ahead += year
	}
	ahead += d.rng.Int64N(int64(time.Hour))
	if d.rng.IntN(4) == 0 {
		ahead -= year
	}
	d.ahead.Store(ahead)
}

// start starts the service on a disk, which has all that was written to it or not, and
// lets the clients through.
func (d *diskTest) start(m *disk.Mem, withWritten bool) {
	d.t.Helper()
	d.live(withWritten)
	d.lives++
	codecs := []string{"auto", "none", "s2", "zstd"}
	s, err := startService(d.ctx, m, filepath.Join(d.dir, strconv.Itoa(d.lives)), codecs[d.rng.IntN(len(codecs))], d.now)
	if err != nil {
		d.t.Fatal(err)
	}
	if state := s.volume.Status().State; state != wal.Serving {
		d.t.Fatalf("life %d: it opens in state %d: %+v", d.lives, state, s.volume.Recovery())
	}
	d.service = s
	d.admit(s.socket)
}

// crash cuts the power: no client hears anything more, and of what was not synced
// the disk keeps what it happens to keep.
func (d *diskTest) crash(lets chan struct{}) {
	survive := []float64{0, 0, 0.5, 1}
	d.crashKeeping(lets, survive[d.rng.IntN(len(survive))])
}

// crashKeeping keeps each block that was not synced with that probability.
func (d *diskTest) crashKeeping(lets chan struct{}, survive float64) {
	d.hold()
	m, withWritten := d.service.disk.CrashClone(d.rng, survive), survive == 1 && !d.service.failed()
	close(lets)
	d.service.stop()
	d.start(m, withWritten)
}

// hang has the disk hang some changes from now on.
func (d *diskTest) hang(changes int64, atSync bool) *outage {
	o := &outage{
		atSync: atSync, hangs: make(chan struct{}), lets: make(chan struct{}),
		changes: []disk.OpKind{disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpWrite, disk.OpSync, disk.OpTruncate},
	}
	o.left.Store(changes)
	d.service.faulty.Before(o.hook)
	return o
}

// awaitHang waits until the disk hangs.
func (d *diskTest) awaitHang(o *outage) {
	d.t.Helper()
	select {
	case <-o.hangs:
	case <-time.After(limit):
		d.t.Fatal("nobody asks the disk for anything")
	}
}

// outage hangs the disk, and after a while cuts the power.
func (d *diskTest) outage() {
	d.t.Helper()
	o := d.hang(d.rng.Int64N(40), d.rng.IntN(4) > 0)
	d.awaitHang(o)
	d.linger(40, 20*time.Millisecond)
	d.outages++
	d.crash(o.lets)
}

// poison fails an operation of the disk, and some time after that cuts the power.
func (d *diskTest) poison() {
	d.t.Helper()
	inject := func() {
		d.service.faulty.Inject(disk.Fault{
			At: d.rng.IntN(20), Kinds: []disk.OpKind{disk.OpWrite, disk.OpSync}, Short: d.rng.IntN(4) == 0, Late: d.rng.IntN(4) == 0,
		})
	}
	inject()
	for deadline := time.After(limit); ; {
		select {
		case <-d.service.poisoned:
			d.linger(80, 50*time.Millisecond)
			d.poisonings++
			d.crash(make(chan struct{}))
			return
		case <-d.history.after(100):
			inject() // it hit a segment that was being prepared, which is no poison
		case <-deadline:
			d.t.Fatal("the volume does not end")
		}
	}
}

// drain stops the service in order and starts it again on the same disk.
func (d *diskTest) drain() {
	d.t.Helper()
	if err := d.service.drain(d.ctx); err != nil {
		d.t.Fatal(err)
	}
	d.hold()
	d.drains++
	d.start(d.service.disk, true)
}

// TestDisk has the disk fail or lose power under clients, again and again.
func TestDisk(t *testing.T) {
	rng := seeded(t)
	d := &diskTest{world: newWorld(t, rng, time.Second)}
	d.start(disk.NewMem(), true)
	d.populate()
	for round := range *rounds {
		d.await(*between + rng.IntN(*between))
		d.setClock()
		switch n := rng.IntN(10); {
		case round == 0, round > 1 && n < 6:
			d.outage()
		case round == 1, n < 9:
			d.poison()
		default:
			d.drain()
		}
	}
	d.await(*between)
	d.makeUp()
	d.end()
	d.crash(make(chan struct{})) // and what is found then is the last word
	if err := d.service.drain(t.Context()); err != nil {
		t.Error(err)
	}
	c := d.judge()
	t.Logf("%d outages, %d poisonings, %d drains", d.outages, d.poisonings, d.drains)
	c.mustBeRich(t, *rounds >= 10)
}

// begin has a client ask for something while others do.
func (d *diskTest) begin(ask func()) {
	d.t.Helper()
	if !d.enter() {
		d.t.Fatal("the test is over")
	}
	d.working.Go(func() {
		ask()
		d.leave()
	})
}

// contend has clients ask, in pairs, for what only one of two can be given, and
// another one look meanwhile, while the disk hangs.
func (d *diskTest) contend(conn *grpc.ClientConn) *outage {
	d.t.Helper()
	o := d.hang(0, true)
	begin := d.begin
	for i := range uint64(2) {
		creator, setter, appender := d.newRaw("creator", passing, conn), d.newRaw("setter", steady, conn), d.newRaw("appender", steady, conn)
		acquirer, marker := d.newRaw("acquirer", owned, conn), d.newRaw("marker", owned, conn)
		first := uint64(1)
		begin(func() { acquirer.acquireAs(input{Name: acquirer.name, Version: &first}) })
		begin(func() { marker.setCursorAs(input{Name: marks[0], New: true, Cap: 1 + i}) })
		begin(func() { creator.createWith(options{MaxRecord: maxRecord + i}) })
		begin(func() { setter.setCheckpointAs(input{Name: names[0], State: setter.batch(1)[0], Version: new(uint64)}) })
		begin(func() {
			appender.appendUnary(input{Kind: appendRecords, Records: appender.batch(1), Expected: 1})
		})
	}
	d.awaitHang(o)
	reader, looker := d.newRaw("reader", steady, conn), d.newRaw("looker", owned, conn)
	begin(func() {
		reader.get()
		reader.listCheckpoints()
		reader.readAll()
		looker.get()
		looker.listCursors()
	})
	d.linger(11, 100*time.Millisecond)
	return o
}

// TestHang has clients contend on a disk that hangs, and cuts the power before any
// of it is durable: whoever was told of it by then, by a refusal too, was told of
// what is lost. In the end the disk goes on, and each thing is given to one.
func TestHang(t *testing.T) {
	d := &diskTest{world: newWorld(t, seeded(t), limit)}
	d.proxy.intact = true
	d.start(disk.NewMem(), true)
	conn := d.connect()
	for _, log := range []string{steady, owned} {
		founder := d.newRaw("founder", log, conn)
		if out := founder.createWith(optionsOf(log)); !out.succeeded() {
			t.Fatalf("create log %s: %+v", log, out)
		}
	}
	for range 4 {
		o := d.contend(conn)
		d.crashKeeping(o.lets, 0)
	}
	o := d.contend(conn)
	o.well = true
	close(o.lets)
	d.end()
	d.crash(make(chan struct{}))
	if err := d.service.drain(t.Context()); err != nil {
		t.Error(err)
	}
	c := d.judge()
	if c.unknown == 0 {
		t.Error("every outcome is known")
	}
	for _, k := range []kind{createLog, setCheckpoint, appendRecords, acquireWriter, setCursor} {
		if c.refused[k] != 1 {
			t.Errorf("%s was refused %d times, want once", k, c.refused[k])
		}
	}
}

// TestWritten has clients append on a disk that hangs at a sync, until they are told that
// what they sent is written. If only the service goes then, it is there; if the machine
// does, it is not; and if the disk goes on, the verdicts say that it is durable. Where the
// disk hangs at a write, nothing is written. What is at risk meanwhile is bounded by what
// a client may have pending.
func TestWritten(t *testing.T) {
	const pending, flooded = 16 << 10, 100
	d := &diskTest{world: newWorld(t, seeded(t), limit)}
	d.proxy.intact = true
	d.start(disk.NewMem(), true)
	conn := d.connect()
	founder := d.newRaw("founder", steady, conn)
	if out := founder.createWith(optionsOf(steady)); !out.succeeded() {
		t.Fatalf("create log: %+v", out)
	}
	logs := d.openSDK(sdk.Options{WrittenAcks: true, MaxPendingBytes: pending})
	flooding := d.newSDK(steady, logs)
	flooding.flood(1, make(chan struct{}, 1)) // and the log is open
	for _, round := range []struct {
		atSync  bool    // the disk hangs, and else at a write
		survive float64 // of what is not synced; -1 if the disk goes on
	}{{true, 1}, {false, 1}, {true, 0}, {true, 1}, {false, 1}, {true, 0}, {true, -1}} {
		ask := func() *outage {
			d.unstage()
			o := d.hang(0, round.atSync)
			for range 2 {
				c := d.newRaw("stream", steady, conn)
				d.begin(c.burstWritten)
			}
			d.awaitHang(o)
			return o
		}
		o := ask()
		if !round.atSync {
			d.awaitWritten(20 * time.Millisecond) // nothing is, and nobody is to be told so
		}
		// What hangs may be another sync, of a frame without batches or of a spare, and
		// what is sent waits behind it: then that goes on.
		for try := 0; round.atSync && !d.awaitWritten(500*time.Millisecond); try++ {
			if try == 40 {
				t.Fatal("nobody is told that anything is written")
			}
			o.well = true
			close(o.lets)
			o = ask()
		}
		if round.survive >= 0 {
			d.crashKeeping(o.lets, round.survive)
			continue
		}
		taken := make(chan struct{}, flooded)
		d.begin(func() { flooding.flood(flooded, taken) })
		for range pending / 1100 {
			<-taken
		}
		d.linger(1, 20*time.Millisecond) // and more are not, by now or ever
		if n := len(taken) + pending/1100; n > pending/1000 {
			t.Errorf("%d records of 1 KiB are pending, in %d bytes", n, pending)
		}
		o.well = true
		close(o.lets)
	}
	d.end()
	d.crash(make(chan struct{}))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := errors.Join(logs.Close(ctx), d.service.drain(ctx)); err != nil {
		t.Error(err)
	}
	if c := d.judge(); c.kept < 2 || c.written-c.kept < 2 {
		t.Errorf("%d batches were written when only the service went, and %d when the machine did; want two of each", c.kept, c.written-c.kept)
	}
}
