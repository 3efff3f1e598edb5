package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/walsvc/walsvc/client"
)

// ReplayResult is what `walctl bench replay -o json` prints.
type ReplayResult struct {
	RecordsPerSecond float64 `json:"records_per_second"`
	BytesPerSecond   float64 `json:"bytes_per_second"` // of records, uncompressed
	FirstRecordUS    float64 `json:"first_record_us"`  // from asking to having the first record
	OpenUS           float64 `json:"open_us"`          // from starting the process, after SIGKILL, until it is ready
}

// ReplayLoad says what is written, and then read back.
type ReplayLoad struct {
	Records int64 // in the log that is read
	Size    int   // of a record in bytes
}

// Replay fills the target's logs, kills its service, starts it again and reads
// the first log back, comparing every record with what was appended. The target
// must have a service of its own, and nothing may be truncated.
//
// With several logs, each gets as many records, in turn, so that they share
// frames. progress may be nil.
func (t *Target) Replay(ctx context.Context, l ReplayLoad, progress func(what string)) (r ReplayResult, err error) {
	if t.process == nil {
		return r, errNotOwn
	}
	if progress == nil {
		progress = func(string) {}
	}
	progress("appending")
	if err := fill(ctx, t.Logs, l); err != nil {
		return r, fmt.Errorf("fill: %w", err)
	}
	progress("killing and starting the service")
	opened, err := t.restart(ctx)
	if err != nil {
		return r, err
	}
	progress("replaying")
	r, err = t.readBack(ctx, t.logs[0], len(t.logs), l)
	r.OpenUS = float64(opened.Nanoseconds()) / 1e3
	return r, err
}

// errNotOwn is returned for what is done to nobody else's service.
var errNotOwn = errors.New("the service is somebody else's, it is not killed")

// restart kills the service and starts it again, and returns how long it takes
// to be ready. The target's own connections have met the old one, and find the
// new one when they are used.
func (t *Target) restart(ctx context.Context) (time.Duration, error) {
	if err := t.process.Kill(); err != nil {
		return 0, fmt.Errorf("kill: %w", err)
	}
	start := time.Now()
	if err := t.start(ctx); err != nil {
		return 0, fmt.Errorf("restart: %w", err)
	}
	return time.Since(start), nil
}

// readBack reads a log, the first of so many that were filled together, on a
// connection of its own.
func (t *Target) readBack(ctx context.Context, log *client.Log, of int, l ReplayLoad) (r ReplayResult, err error) {
	c, err := t.Connect(ctx)
	if err != nil {
		return r, err
	}
	defer func() {
		if cerr := c.Close(ctx); err == nil {
			err = cerr
		}
	}()
	var (
		n     int64
		cut   = NewCutter(l.Size, 0, of)
		start = time.Now()
	)
	for record, err := range c.Log(log.Name()).Replay(ctx, client.ReplayOptions{Reuse: true}) {
		if err != nil {
			return r, err
		}
		if n == 0 {
			r.FirstRecordUS = float64(time.Since(start).Nanoseconds()) / 1e3
		}
		n++
		if record.LSN != client.LSN(n) || !bytes.Equal(record.Data, cut.Next()) {
			return r, fmt.Errorf("record %d comes back as LSN %d, or with other bytes", n, record.LSN)
		}
	}
	took := time.Since(start).Seconds()
	if n != l.Records {
		return r, fmt.Errorf("%d records come back of %d", n, l.Records)
	}
	r.RecordsPerSecond, r.BytesPerSecond = float64(n)/took, float64(n)*float64(l.Size)/took
	return r, nil
}

// BesideRecords and BesideBytes are how much the log has that is replayed beside a load,
// whichever is less: more than any cache of a processor holds, and written within a
// second or two.
const (
	BesideRecords = 1_000_000
	BesideBytes   = 512 << 20
)

// replayBeside fills another log, and has it replayed over and over, on a connection of
// its own, until replayed is called, which returns how many records came back a second.
func (t *Target) replayBeside(ctx context.Context, size int) (replayed func() (perSecond float64, err error), err error) {
	log := t.clients[0].Log(t.prefix + "replayed")
	if _, _, err := t.clients[0].CreateLog(ctx, log.Name(), client.LogOptions{}); err != nil {
		return nil, err
	}
	t.beside = log
	if err := fill(ctx, []Log{log}, ReplayLoad{Records: min(BesideRecords, BesideBytes/int64(size)), Size: size}); err != nil {
		return nil, err
	}
	open := t.o.Connect
	if open == nil {
		open = t.Connect
	}
	c, err := open(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var (
		n     int64
		start = time.Now()
		ended = make(chan error, 1)
	)
	go func() {
		for {
			for _, err := range c.Log(log.Name()).Replay(ctx, client.ReplayOptions{Reuse: true}) {
				if err != nil {
					ended <- err
					return
				}
				n++
			}
		}
	}()
	return func() (float64, error) {
		cancel()
		err := <-ended
		took := time.Since(start).Seconds()
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return float64(n) / took, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}, nil
}

// firstRecord asks a log of so many records for those from several places on,
// and returns the longest time until the first record came, in microseconds.
func (t *Target) firstRecord(ctx context.Context, log *client.Log, records int64, places int) (longest float64, err error) {
	c, err := t.Connect(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := c.Close(ctx); err == nil {
			err = cerr
		}
	}()
	for i := range places {
		from, found := client.LSN(1+(records-1)*int64(i)/int64(places)), false
		start := time.Now()
		for record, err := range c.Log(log.Name()).Replay(ctx, client.ReplayOptions{From: from}) {
			if err != nil {
				return 0, err
			}
			if record.LSN != from {
				return 0, fmt.Errorf("replay from LSN %d begins with %d", from, record.LSN)
			}
			longest, found = max(longest, float64(time.Since(start).Nanoseconds())/1e3), true
			break
		}
		if !found {
			return 0, fmt.Errorf("replay from LSN %d of %d has nothing", from, records)
		}
	}
	return longest, nil
}

// fill appends so many records to each of some logs, in turn, within one window.
func fill(ctx context.Context, logs []Log, l ReplayLoad) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &producer{
		logs: logs, fail: cancel, room: make(chan struct{}, 1), latency: newHistogram(),
		limit: max(min(PipelineRecords, PipelineBytes/int64(l.Size)), 1),
	}
	p.wakeAt.Store(math.MaxInt64)
	done := func(_ client.Receipt, err error) { p.landed(err) }
	cuts := make([]*Cutter, len(logs))
	for i := range cuts {
		cuts[i] = NewCutter(l.Size, i, len(cuts))
	}
	for range l.Records {
		for i, log := range logs {
			if p.sent-p.acked.Load() >= p.limit && !p.wait(ctx, p.sent-p.limit*3/4) {
				return context.Cause(ctx)
			}
			log.AppendAsyncFunc(ctx, cuts[i].Next(), done)
			p.sent++
		}
	}
	p.wait(ctx, p.sent)
	return context.Cause(ctx)
}
