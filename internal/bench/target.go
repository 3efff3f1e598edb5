package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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
	// Connections and Logs are how many of each there are; default 1. Logs are
	// spread over connections.
	Connections, Logs int
}

// A Target is a service under load: its own process on a temporary volume, or
// somebody else's, in which it makes logs of its own and deletes them.
type Target struct {
	// Logs take the load.
	Logs []Log

	o       TargetOptions
	dir     string // of the volume; "" if it is somebody else's
	process *service.Process
	clients []*client.Client
	logs    []*client.Log

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
	id := ulid.MustNew(ulid.Now(), rand.Reader)
	for i := range o.Logs {
		l := t.clients[i%o.Connections].Log(fmt.Sprintf("walctl-bench/%s/%05d", id, i))
		if _, _, err := t.clients[0].CreateLog(ctx, l.Name(), client.LogOptions{}); err != nil {
			return nil, err
		}
		t.logs, t.Logs = append(t.logs, l), append(t.Logs, l)
	}
	return t, nil
}

// start starts the target's own service.
func (t *Target) start(ctx context.Context) (err error) {
	t.process, err = service.Start(ctx, service.Options{Binary: t.o.Binary, Dir: filepath.Join(t.dir, "volume"), Args: t.o.Args})
	return err
}

func (t *Target) connect(ctx context.Context) error {
	open := t.o.Connect
	if open == nil {
		open = func(ctx context.Context) (*client.Client, error) {
			return client.Open(ctx, t.process.Addr(), client.Options{})
		}
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

// truncateAtOnce is how many logs are truncated each time.
const truncateAtOnce = 64

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
				l := t.logs[next%len(t.logs)]
				next++
				// What fails here fails the load too, which says so.
				if info, err := l.Info(ctx); err == nil && info.Next > info.First {
					_, _ = l.Truncate(ctx, info.Next)
				}
			}
		}
	})
	return func() {
		cancel()
		t.truncating.Wait()
	}
}

// warmRecycles is how many segments must have been recycled: as many as a
// volume keeps spare, so that what is written next was written before.
const warmRecycles = 4

// Warm writes until segments are recycled. It needs Truncate to be running.
// progress may be nil.
func (t *Target) Warm(ctx context.Context, limit time.Duration, progress func(recycled, wanted int)) error {
	before, err := t.Status(ctx)
	if err != nil {
		return err
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := Load{Callers: 1, Size: 4 << 10, Pipelined: true, Duration: limit, stop: stop}.Run(ctx, t.Logs)
		if err == nil {
			err = fmt.Errorf("%w after %v", ErrNotWarm, limit)
		}
		ended <- err
	}()
	tick := time.NewTicker(truncateEvery)
	defer tick.Stop()
	for recycled := 0; recycled < warmRecycles; {
		select {
		case <-tick.C:
		case err := <-ended:
			return err
		}
		now, err := t.Status(ctx)
		if err != nil {
			close(stop)
			<-ended
			return err
		}
		recycled = int(now.GetRecycles() - before.GetRecycles())
		if progress != nil {
			progress(min(recycled, warmRecycles), warmRecycles)
		}
	}
	close(stop)
	if err := <-ended; !errors.Is(err, ErrNotWarm) {
		return err
	}
	return nil // and everything that was sent is acknowledged: the next load begins with an idle service
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
		for _, l := range t.logs {
			errs = append(errs, t.clients[0].DeleteLog(ctx, l.Name(), ulid.ULID{}))
		}
	}
	for _, c := range t.clients {
		errs = append(errs, c.Close(ctx))
	}
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
}

// Append puts a load on the target and measures both sides of it.
func (t *Target) Append(ctx context.Context, l Load) (AppendResult, error) {
	before, err := t.Status(ctx)
	if err != nil {
		return AppendResult{}, err
	}
	got, err := l.Run(ctx, t.Logs)
	if err != nil {
		return AppendResult{}, err
	}
	after, err := t.Status(ctx)
	if err != nil {
		return AppendResult{}, err
	}
	r := AppendResult{
		AppendsPerSecond: got.PerSecond, BytesPerSecond: got.PerSecond * float64(l.Size), Latency: got.Latency,
		Syncs: after.GetSyncs() - before.GetSyncs(), ServerRSSBytes: after.GetRssBytes(),
	}
	if r.Syncs > 0 {
		r.RecordsPerSync = float64(after.GetRecords()-before.GetRecords()) / float64(r.Syncs)
	}
	if stored := after.GetStoredBytes() - before.GetStoredBytes(); stored > 0 {
		r.CompressionRatio = float64(after.GetRawBytes()-before.GetRawBytes()) / float64(stored)
	}
	return r, nil
}
