package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/oklog/ulid/v2"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// LSN is a record's dense position in its log, from 1. Zero is before the first.
type LSN uint64

// LogOptions are chosen when a log is created. The zero value means all defaults.
type LogOptions struct {
	QuotaBytes     uint64            // bound on live bytes of records; 0 means none
	MaxRecordBytes uint32            // bound on one record; 0 means the service's
	RateBytes      uint64            // bound on bytes of records appended per second, from 1 KiB to 1 TiB; 0 means none
	Labels         map[string]string // the client's own, at most 16
	ColocationKey  string            // logs that must share a volume; may be empty
}

// LogInfo describes a log as far as it is durable.
type LogInfo struct {
	Name        string
	ID          ulid.ULID // never reused, unlike the name
	Epoch       uint64    // the log's generation, from 1
	Writer      string    // who holds the log's writer, and alone may append; empty if it is shared
	First       LSN       // oldest record kept; Next when there is none
	Next        LSN       // what the next record gets
	LogChecksum uint32    // running CRC-32C over the records before Next, as they are framed
	LiveBytes   uint64    // framed bytes of the records from First on, those lost included
	Created     time.Time // by the service's clock
	Sealed      time.Time // when it was sealed, by the service's clock; zero if it is not. No record ever gets Next of a sealed log
	Options     LogOptions
	LostRecords uint64 // of those from First on: given up by repairs of the volume; reading one is ErrDataLoss
	// Lost are those records, in order and apart from each other. Only GetLog and
	// Log.Info say so; it is nil elsewhere.
	Lost []LSNRange
	// Rewinds are those that the log remembers, the oldest first. Only GetLog and
	// Log.Info say so; it is nil elsewhere.
	Rewinds []PastRewind
}

// An LSNRange is a run of a log's LSNs, both ends included.
type LSNRange struct{ First, Last LSN }

// Durable returns the durable LSN: everything up to it survives any crash.
func (i LogInfo) Durable() LSN { return i.Next - 1 }

func logInfo(l *walsvcv1.Log) (LogInfo, error) {
	id, err := ulid.ParseStrict(l.GetId())
	if err != nil {
		return LogInfo{}, fmt.Errorf("log %q: %w: id %q: %w", l.GetName(), ErrProtocol, l.GetId(), err)
	}
	o := l.GetOptions()
	var sealed time.Time
	if l.GetSealTime() != nil {
		sealed = l.GetSealTime().AsTime()
	}
	return LogInfo{
		Name: l.GetName(), ID: id, Epoch: l.GetEpoch(), Writer: l.GetWriter(),
		First: LSN(l.GetFirstLsn()), Next: LSN(l.GetNextLsn()),
		LogChecksum: l.GetLogChecksum(), LiveBytes: l.GetLiveBytes(), Created: l.GetCreateTime().AsTime(), Sealed: sealed,
		Options: LogOptions{
			QuotaBytes: o.GetQuotaBytes(), MaxRecordBytes: o.GetMaxRecordBytes(), RateBytes: o.GetRateBytes(),
			Labels: o.GetLabels(), ColocationKey: o.GetColocationKey(),
		},
		LostRecords: l.GetLostRecords(),
	}, nil
}

// CreateLog creates a log, or returns the one that has the name if its options
// are the same; created says which. The log is durable. It returns ErrLogExists
// if the options differ, ErrInvalidName, ErrInvalid, ErrTooManyLogs or ErrFull.
func (c *Client) CreateLog(ctx context.Context, name string, o LogOptions) (info LogInfo, created bool, err error) {
	resp, err := c.logService.CreateLog(ctx, &walsvcv1.CreateLogRequest{Name: name, Options: &walsvcv1.LogOptions{
		QuotaBytes: o.QuotaBytes, MaxRecordBytes: o.MaxRecordBytes, RateBytes: o.RateBytes, Labels: o.Labels, ColocationKey: o.ColocationKey,
	}})
	if err != nil {
		return LogInfo{}, false, called(err, "create log %q", name)
	}
	info, err = logInfo(resp.GetLog())
	return info, resp.GetCreated(), err
}

// ListLogs yields the logs whose names begin with prefix, in the order of their
// names. It asks for a page at a time: a log that is created or deleted meanwhile
// may or may not be there. After an error it ends.
func (c *Client) ListLogs(ctx context.Context, prefix string) iter.Seq2[LogInfo, error] {
	return func(yield func(LogInfo, error) bool) {
		req := &walsvcv1.ListLogsRequest{Prefix: prefix}
		for {
			resp, err := c.logService.ListLogs(ctx, req)
			if err != nil {
				yield(LogInfo{}, called(err, "list logs %q", prefix))
				return
			}
			for _, l := range resp.GetLogs() {
				info, err := logInfo(l)
				if !yield(info, err) || err != nil {
					return
				}
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				return
			}
		}
	}
}

// DeleteLog deletes a log with its records, checkpoints, cursors and producers. id, if
// not zero, must be the log's, so that a delete that is tried again does not hit
// a newer log of the same name: then it returns nil as the first time, since no log
// has that id. The deletion is durable. It returns ErrLogNotFound if no id is given
// and there is no such log, or if the id is that of a log of another name.
func (c *Client) DeleteLog(ctx context.Context, name string, id ulid.ULID) error {
	req := &walsvcv1.DeleteLogRequest{Name: name}
	if id != (ulid.ULID{}) {
		req.Id = id.String()
	}
	_, err := c.logService.DeleteLog(ctx, req)
	return called(err, "delete log %q", name)
}

// A Log is a handle of a log. It comes from Client.Log and needs no closing.
type Log struct {
	client *Client
	name   string
	stream *stream
	// begun is the last epoch that the handle was told of which it had begun itself, and
	// the log that is in it. The stream's mu guards it.
	begun struct {
		id    ulid.ULID
		epoch uint64
	}
	// further are the other logs of the group that this is the lead of; nil for a
	// log's own handle.
	further []*further
	appender
}

// Name returns the log's name.
func (l *Log) Name() string { return l.name }

// Info returns the log as far as it is durable, or ErrLogNotFound.
func (l *Log) Info(ctx context.Context) (LogInfo, error) { return l.client.GetLog(ctx, l.name) }

// A SealOption says on what condition a log is sealed.
type SealOption func(*walsvcv1.SealLogRequest)

// SealInEpoch has Seal fail with ErrFenced unless the log is in that epoch, or sealed
// already.
func SealInEpoch(epoch uint64) SealOption {
	return func(req *walsvcv1.SealLogRequest) { req.ExpectedEpoch = &epoch }
}

// Seal ends the log for good: what was appended before lies below Next of what it
// returns, and everything later is refused with ErrSealed, whoever sent it. Replays
// that follow and WatchDurable end there, without an error. Appends of this handle
// that are under way meanwhile land or are refused; wait for them first. Reading,
// checkpoints, cursors, truncating and deleting go on. The seal is durable when it
// returns; a sealed log stays as it is and is returned. It returns ErrLogNotFound,
// ErrFenced if SealInEpoch does not hold, or ErrFull.
func (l *Log) Seal(ctx context.Context, opts ...SealOption) (LogInfo, error) {
	req := &walsvcv1.SealLogRequest{Name: l.name}
	for _, opt := range opts {
		opt(req)
	}
	resp, err := l.client.logService.SealLog(ctx, req)
	if err != nil {
		return LogInfo{}, called(err, "seal log %q", l.name)
	}
	return logInfo(resp.GetLog())
}

// Truncate gives up the log's records below first, which may be at most Next. It
// is durable when it returns; at or below First it changes nothing. It returns
// ErrHeld if a checkpoint or cursor is lower, and ErrLSNAhead.
func (l *Log) Truncate(ctx context.Context, first LSN) (LogInfo, error) {
	resp, err := l.client.logService.TruncateLog(ctx, &walsvcv1.TruncateLogRequest{Name: l.name, FirstLsn: uint64(first)})
	if err != nil {
		return LogInfo{}, called(err, "truncate log %q to LSN %d", l.name, first)
	}
	return logInfo(resp.GetLog())
}
