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
		return r, errors.New("replay: the service is somebody else's, it is not killed")
	}
	if progress == nil {
		progress = func(string) {}
	}
	progress("appending")
	if err := t.fill(ctx, l); err != nil {
		return r, fmt.Errorf("fill: %w", err)
	}

	progress("killing and starting the service")
	if err := t.process.Kill(); err != nil {
		return r, fmt.Errorf("kill: %w", err)
	}
	start := time.Now()
	if err := t.start(ctx); err != nil {
		return r, fmt.Errorf("restart: %w", err)
	}
	r.OpenUS = float64(time.Since(start).Nanoseconds()) / 1e3

	progress("replaying")
	c, err := client.Open(ctx, t.process.Addr(), client.Options{}) // one that has not met the old process
	if err != nil {
		return r, err
	}
	defer func() {
		if cerr := c.Close(ctx); err == nil {
			err = cerr
		}
	}()
	var (
		n   int64
		cut = NewCutter(l.Size, 0, len(t.Logs))
	)
	start = time.Now()
	for record, err := range c.Log(t.logs[0].Name()).Replay(ctx, client.ReplayOptions{}) {
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

// fill appends so many records to each log, in turn, within one window.
func (t *Target) fill(ctx context.Context, l ReplayLoad) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &producer{
		logs: t.Logs, fail: cancel, room: make(chan struct{}, 1), latency: newHistogram(),
		limit: max(min(PipelineRecords, PipelineBytes/int64(l.Size)), 1),
	}
	p.wakeAt.Store(math.MaxInt64)
	done := func(_ client.Receipt, err error) { p.landed(err) }
	cuts := make([]*Cutter, len(t.Logs))
	for i := range cuts {
		cuts[i] = NewCutter(l.Size, i, len(cuts))
	}
	for range l.Records {
		for i, log := range t.Logs {
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
