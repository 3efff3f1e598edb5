package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/service"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// ErrNotWarm is returned when a volume's segments do not come to be recycled:
// what would be measured is the writing of files, which a running service has
// behind it.
var ErrNotWarm = errors.New("segments are not being recycled")

// TargetOptions say what is put under load.
type TargetOptions struct {
	// Connect opens a client. Nil: a service of its own is started for the
	// target, on a temporary volume, and ends with it.
	Connect func(ctx context.Context) (*client.Client, error)
	// Binary is the walsvc to start; see service.Find. Dir is where the
	// temporary volume is made, which decides what disk is measured.
	Binary, Dir string
	// Args are further flags for the service that is started.
	Args []string
	// SegmentSize is that of the temporary volume, in bytes; 0 is walsvc's default.
	SegmentSize int64
	// Connections and Logs are how many of each there are; default 1. Logs are
	// spread over connections.
	Connections, Logs int
	// BesideReplay has another log of the service replayed from its first record to its
	// last while Append measures, over and over.
	BesideReplay bool
}

// A Target is a service under load: its own process on a temporary volume, or
// somebody else's, in which it makes logs of its own and deletes them.
type Target struct {
	// Logs take the load.
	Logs []Log

	o       TargetOptions
	dir     string // of the volume; "" if it is somebody else's
	process *service.Process
	admin   *admin // of process
	clients []*client.Client
	prefix  string // of the names of logs
	logs    []*client.Log
	beside  *client.Log // that is replayed beside the load, if any
	opened  bool        // logs have been appended to

	truncating sync.WaitGroup
	stop       context.CancelFunc // of truncating
}

// NewTarget starts or connects to a service and makes the logs. The Target must
// be closed.
func NewTarget(ctx context.Context, o TargetOptions) (_ *Target, err error) {
	o.Connections, o.Logs = max(o.Connections, 1), max(o.Logs, 1)
	t := &Target{o: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close(context.WithoutCancel(ctx)))
		}
	}()
	if o.Connect == nil {
		if t.dir, err = os.MkdirTemp(o.Dir, "walctl-bench-"); err != nil {
			return nil, err
		}
		if err := t.start(ctx); err != nil {
			return nil, err
		}
	}
	if err := t.connect(ctx); err != nil {
		return nil, err
	}
	t.prefix = fmt.Sprintf("walctl-bench/%s/", ulid.MustNew(ulid.Now(), rand.Reader))
	for i := range o.Logs {
		l := t.clients[i%o.Connections].Log(fmt.Sprintf("%s%05d", t.prefix, i))
		t.logs, t.Logs = append(t.logs, l), append(t.Logs, l)
	}
	if err := each(t.logs, func(l *client.Log) error {
		_, _, err := t.clients[0].CreateLog(ctx, l.Name(), client.LogOptions{})
		return err
	}); err != nil {
		return nil, err
	}
	return t, nil
}

// atOnce is how many of a target's logs are created, truncated or deleted at
// once: they share commits, and 10,000 take a second.
const atOnce = 16

// each calls fn for all logs, several at once, and returns the first error of
// each of those that went on until they had one.
func each(logs []*client.Log, fn func(*client.Log) error) error {
	var (
		all  sync.WaitGroup
		next atomic.Int64
		errs = make([]error, min(atOnce, len(logs)))
	)
	for i := range errs {
		all.Go(func() {
			for errs[i] == nil {
				at := int(next.Add(1)) - 1
				if at >= len(logs) {
					return
				}
				errs[i] = fn(logs[at])
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// start starts the target's own service, with an admin address: what it counts
// costs no append anything.
func (t *Target) start(ctx context.Context) (err error) {
	args := append([]string{"--admin", "127.0.0.1:0"}, t.o.Args...)
	if t.o.SegmentSize > 0 {
		args = append(args, "--segment-size", strconv.FormatInt(t.o.SegmentSize, 10))
	}
	t.process, err = service.Start(ctx, service.Options{Binary: t.o.Binary, Dir: filepath.Join(t.dir, "volume"), Args: args})
	if err != nil {
		return err
	}
	t.admin.close()
	t.admin, err = findAdmin(t.process.Said())
	return err
}

// Connect opens another client to the target's own service, and so makes
// Connect of the options of another target that shares it.
func (t *Target) Connect(ctx context.Context) (*client.Client, error) {
	return client.Open(ctx, t.process.Addr(), client.Options{})
}

func (t *Target) connect(ctx context.Context) error {
	open := t.o.Connect
	if open == nil {
		open = t.Connect
	}
	for range t.o.Connections {
		c, err := open(ctx)
		if err != nil {
			return err
		}
		t.clients = append(t.clients, c)
	}
	return nil
}

// truncateEvery is how often the logs' durable records are given up, so that
// segments can be recycled: often enough for a fast disk, seldom enough not to
// be measured.
const truncateEvery = 200 * time.Millisecond

// truncateAtOnce is how many logs are truncated each time: two calls each, which
// would show beside callers of many logs.
const truncateAtOnce = 8

// Truncate keeps giving up what is durable until the target is closed or the
// returned function is called.
func (t *Target) Truncate(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.stop = cancel
	t.truncating.Go(func() {
		tick := time.NewTicker(truncateEvery)
		defer tick.Stop()
		for next := 0; ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for range min(truncateAtOnce, len(t.logs)) {
				// What fails here fails the load too, which says so.
				_ = giveUp(ctx, t.logs[next%len(t.logs)])
				next++
			}
		}
	})
	return func() {
		cancel()
		t.truncating.Wait()
	}
}

// GiveUp truncates all logs at their ends, so that they hold no segment.
func (t *Target) GiveUp(ctx context.Context) error {
	return each(t.logs, func(l *client.Log) error { return giveUp(ctx, l) })
}

// giveUp truncates a log at its end.
func giveUp(ctx context.Context, l *client.Log) error {
	info, err := l.Info(ctx)
	if err == nil && info.Next > info.First {
		_, err = l.Truncate(ctx, info.Next)
	}
	return err
}

// warmRecycles is how many segments must have been recycled: more than are filled
// before the next one is, so that what is written next was written before.
const warmRecycles = 4

// A service that recycles nothing when so much was written to it has a log that keeps
// its records, and all segments behind them: going on would fill its disk.
const (
	warmBytes = 4 << 30
	warmRolls = 16
)

// stuck reports whether so much was written between two looks at a service.
func stuck(before, now *walsvcv1.GetStatusResponse) bool {
	return now.GetRecycles() == before.GetRecycles() && now.GetStoredBytes()-before.GetStoredBytes() > warmBytes && now.GetRolls()-before.GetRolls() > warmRolls
}

// open appends to each log for the first time, for which it is opened: once in
// the life of a client, a round trip and a sync each.
func (t *Target) open(ctx context.Context) error {
	if t.opened {
		return nil
	}
	t.opened = true
	record := NewCutter(1, 0, 1).Next()
	return each(t.logs, func(l *client.Log) error {
		if _, err := l.Append(ctx, record); err != nil {
			return err
		}
		return giveUp(ctx, l)
	})
}

// Warm opens all logs, gives up what they have, and writes to one of them until
// segments are recycled. progress may be nil.
func (t *Target) Warm(ctx context.Context, limit time.Duration, progress func(recycled, wanted int)) error {
	if err := t.open(ctx); err != nil {
		return err
	}
	if err := t.GiveUp(ctx); err != nil {
		return err
	}
	before, err := t.Status(ctx)
	if err != nil {
		return err
	}
	warm, err := appendUntil(ctx, Load{Callers: 1, Size: 4 << 10, Pipelined: true, Duration: limit}, t.Logs[:1], func() (bool, error) {
		// The target may have more logs than Truncate gets round in time.
		if err := giveUp(ctx, t.logs[0]); err != nil {
			return false, err
		}
		now, err := t.Status(ctx)
		if err != nil {
			return false, err
		}
		if stuck(before, now) {
			return false, fmt.Errorf("%w: %s were written, and a log keeps them; walctl holders says which", ErrNotWarm, SizeName(warmBytes))
		}
		recycled := int(now.GetRecycles() - before.GetRecycles())
		if progress != nil {
			progress(min(recycled, warmRecycles), warmRecycles)
		}
		return recycled >= warmRecycles, nil
	})
	if err == nil && !warm {
		err = fmt.Errorf("%w after %v", ErrNotWarm, limit)
	}
	return err
}

// appendUntil puts a pipeline on logs until something is reached, which it asks
// for now and then; false if the load's duration is over before. Everything that
// was sent is acknowledged when it returns without an error: the next load
// begins with an idle service.
func appendUntil(ctx context.Context, l Load, logs []Log, reached func() (bool, error)) (bool, error) {
	stop, ended := make(chan struct{}), make(chan error, 1)
	l.stop = stop
	go func() {
		_, err := l.Run(ctx, logs)
		ended <- err
	}()
	tick := time.NewTicker(truncateEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case err := <-ended:
			return false, err
		}
		if yes, err := reached(); yes || err != nil {
			close(stop)
			return yes, errors.Join(err, <-ended)
		}
	}
}

// Status asks the service.
func (t *Target) Status(ctx context.Context) (*walsvcv1.GetStatusResponse, error) {
	return t.clients[0].Status(ctx)
}

// Volume returns the directory of the target's own volume, "" if it is
// somebody else's.
func (t *Target) Volume() string { return t.dir }

// Close ends the load's traces: the logs, the connections, and the service and
// its volume if they are the target's own.
func (t *Target) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if t.stop != nil {
		t.stop()
		t.truncating.Wait()
	}
	var errs []error
	if t.o.Connect != nil {
		if t.beside != nil {
			t.logs = append(t.logs, t.beside)
		}
		errs = append(errs, each(t.logs, func(l *client.Log) error { return t.clients[0].DeleteLog(ctx, l.Name(), ulid.ULID{}) }))
	}
	for _, c := range t.clients {
		errs = append(errs, c.Close(ctx))
	}
	t.admin.close()
	if t.process != nil {
		errs = append(errs, t.process.Kill()) // nothing in it is to be kept
	}
	if t.dir != "" {
		errs = append(errs, os.RemoveAll(t.dir))
	}
	return errors.Join(errs...)
}

// AppendResult is what `walctl bench append -o json` prints.
type AppendResult struct {
	AppendsPerSecond float64 `json:"appends_per_second"`
	BytesPerSecond   float64 `json:"bytes_per_second"` // of records, uncompressed
	Latency          Latency `json:"latency_us"`
	Syncs            uint64  `json:"syncs"`
	RecordsPerSync   float64 `json:"records_per_sync"`
	CompressionRatio float64 `json:"compression_ratio"` // of what was appended meanwhile; 0 if nothing was
	ServerRSSBytes   uint64  `json:"server_rss_bytes"`  // at the end of the load
	SegmentsRolled   uint64  `json:"segments_rolled"`   // meanwhile
	SegmentsRecycled uint64  `json:"segments_recycled"` // meanwhile

	// ServerAllocs is how many objects the service allocated on its heap per
	// record that became durable, whatever for: nil if the service is somebody
	// else's.
	ServerAllocs *float64 `json:"server_allocs_per_append,omitempty"`
	// Late is how long after they were due appends were handed over; nil without
	// a rate.
	Late *Latency `json:"late_us,omitempty"`
	// Replayed is how many records a second came back beside the load; nil if none were
	// asked for.
	Replayed *float64 `json:"replayed_per_second,omitempty"`
}

// Append puts a load on the target and measures both sides of it.
func (t *Target) Append(ctx context.Context, l Load) (r AppendResult, err error) {
	if t.o.BesideReplay {
		replayed, err := t.replayBeside(ctx, l.Size)
		if err != nil {
			return r, fmt.Errorf("replay beside the load: %w", err)
		}
		defer func() {
			perSecond, rerr := replayed()
			r.Replayed, err = &perSecond, errors.Join(err, rerr)
		}()
	}
	before, err := t.Status(ctx)
	if err != nil {
		return r, err
	}
	counted, err := t.admin.countAllocs(ctx)
	if err != nil {
		return r, err
	}
	got, err := l.Run(ctx, t.Logs)
	if err != nil {
		return r, err
	}
	allocs, err := counted()
	if err != nil {
		return r, err
	}
	after, err := t.Status(ctx)
	if err != nil {
		return r, err
	}
	r = AppendResult{
		AppendsPerSecond: got.PerSecond, BytesPerSecond: got.PerSecond * float64(l.Size), Latency: got.Latency,
		Syncs: after.GetSyncs() - before.GetSyncs(), ServerRSSBytes: after.GetRssBytes(),
		SegmentsRolled: after.GetRolls() - before.GetRolls(), SegmentsRecycled: after.GetRecycles() - before.GetRecycles(),
		ServerAllocs: allocs,
	}
	if l.Rate > 0 {
		r.Late = &got.Late
	}
	if r.Syncs > 0 {
		r.RecordsPerSync = float64(after.GetRecords()-before.GetRecords()) / float64(r.Syncs)
	}
	if stored := after.GetStoredBytes() - before.GetStoredBytes(); stored > 0 {
		r.CompressionRatio = float64(after.GetRawBytes()-before.GetRawBytes()) / float64(stored)
	}
	return r, nil
}
