package server

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// defaultPageSize is what a page_size of 0 means.
const defaultPageSize = 100

// logService creates, names, lists and deletes logs.
type logService struct {
	walsvcv1.UnimplementedLogServiceServer
	*Server
}

// CreateLog implements walsvcv1.LogServiceServer.
func (s logService) CreateLog(ctx context.Context, req *walsvcv1.CreateLogRequest) (*walsvcv1.CreateLogResponse, error) {
	info, created, err := s.volume.CreateLog(ctx, req.GetName(), wal.LogOptions{
		QuotaBytes:     req.GetOptions().GetQuotaBytes(),
		MaxRecordBytes: req.GetOptions().GetMaxRecordBytes(),
		RateBytes:      req.GetOptions().GetRateBytes(),
		Labels:         req.GetOptions().GetLabels(),
		ColocationKey:  req.GetOptions().GetColocationKey(),
	})
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.CreateLogResponse{Log: logOf(info), Created: created}, nil
}

// GetLog implements walsvcv1.LogServiceServer.
func (s logService) GetLog(ctx context.Context, req *walsvcv1.GetLogRequest) (*walsvcv1.GetLogResponse, error) {
	info, err := s.volume.Log(req.GetName())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	resp := &walsvcv1.GetLogResponse{Log: logOf(info)}
	for _, r := range info.Lost {
		resp.Lost = append(resp.Lost, &walsvcv1.LsnRange{FirstLsn: uint64(r.First), LastLsn: uint64(r.Last)})
	}
	for _, c := range info.Rewinds {
		resp.Rewinds = append(resp.Rewinds, &walsvcv1.LogRewind{
			Epoch: uint64(c.Epoch), KeptLsn: uint64(c.LSN), NextLsn: uint64(c.Next), LogChecksum: uint32(c.Checksum),
		})
	}
	return resp, nil
}

// ListLogs implements walsvcv1.LogServiceServer. A page token is the last name
// of the page before, so a listing survives logs coming and going.
func (s logService) ListLogs(ctx context.Context, req *walsvcv1.ListLogsRequest) (*walsvcv1.ListLogsResponse, error) {
	size := int(min(req.GetPageSize(), limits.MaxPageSize))
	if size == 0 {
		size = defaultPageSize
	}
	after, err := parsePageToken(req.GetPageToken())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	logs, more := s.volume.ListLogs(req.GetPrefix(), after, size)
	resp := &walsvcv1.ListLogsResponse{Logs: make([]*walsvcv1.Log, len(logs))}
	for i, info := range logs {
		resp.Logs[i] = logOf(info)
	}
	if more && len(logs) > 0 {
		resp.NextPageToken = pageToken(logs[len(logs)-1].Name)
	}
	return resp, nil
}

// pageToken spells the last name of a page.
func pageToken(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

// parsePageToken is the inverse of pageToken, and accepts nothing else.
func parsePageToken(token string) (last string, err error) {
	if len(token) <= base64.RawURLEncoding.EncodedLen(limits.MaxLogNameBytes) {
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil && pageToken(string(b)) == token {
			return string(b), nil
		}
	}
	return "", fmt.Errorf("%w: page_token is not one of ours", wal.ErrInvalid)
}

// DeleteLog implements walsvcv1.LogServiceServer.
func (s logService) DeleteLog(ctx context.Context, req *walsvcv1.DeleteLogRequest) (*walsvcv1.DeleteLogResponse, error) {
	id, err := parseULID("id", req.GetId())
	if err == nil {
		err = s.volume.DeleteLog(ctx, req.GetName(), id)
	}
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.DeleteLogResponse{}, nil
}

// SealLog implements walsvcv1.LogServiceServer.
func (s logService) SealLog(ctx context.Context, req *walsvcv1.SealLogRequest) (*walsvcv1.SealLogResponse, error) {
	var expected *wal.Epoch
	if req.ExpectedEpoch != nil {
		epoch := wal.Epoch(req.GetExpectedEpoch())
		expected = &epoch
	}
	info, err := s.volume.SealLog(ctx, req.GetName(), expected)
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.SealLogResponse{Log: logOf(info)}, nil
}

// TruncateLog implements walsvcv1.LogServiceServer.
func (s logService) TruncateLog(ctx context.Context, req *walsvcv1.TruncateLogRequest) (*walsvcv1.TruncateLogResponse, error) {
	info, err := s.volume.Truncate(ctx, req.GetName(), wal.LSN(req.GetFirstLsn()))
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.TruncateLogResponse{Log: logOf(info)}, nil
}

// RewindLog implements walsvcv1.LogServiceServer.
func (s logService) RewindLog(ctx context.Context, req *walsvcv1.RewindLogRequest) (*walsvcv1.RewindLogResponse, error) {
	request, err := parseULID("request", req.GetRequest())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	done, err := s.volume.Rewind(ctx, req.GetName(), wal.Rewind{
		After: wal.LSN(req.GetAfterLsn()), Epoch: wal.Epoch(req.GetExpectedEpoch()), Next: wal.LSN(req.GetExpectedNextLsn()),
		Holder: req.GetHolder(), Request: request, Plan: req.GetPlan(),
	})
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.RewindLogResponse{Log: logOf(done.Log), Records: done.Records, Bytes: done.Bytes, Repeated: done.Repeated}, nil
}

func logOf(info wal.LogInfo) *walsvcv1.Log {
	l := &walsvcv1.Log{
		Name:        info.Name,
		Id:          info.ID.String(),
		Epoch:       uint64(info.Epoch),
		Writer:      info.Holder,
		FirstLsn:    uint64(info.First),
		NextLsn:     uint64(info.Next),
		LogChecksum: uint32(info.Checksum),
		LiveBytes:   info.LiveBytes,
		LostRecords: info.LostRecords(),
		CreateTime:  timestamppb.New(info.Created),
		Options: &walsvcv1.LogOptions{
			QuotaBytes:     info.Options.QuotaBytes,
			MaxRecordBytes: info.Options.MaxRecordBytes,
			RateBytes:      info.Options.RateBytes,
			Labels:         info.Options.Labels,
			ColocationKey:  info.Options.ColocationKey,
		},
	}
	if !info.Sealed.IsZero() {
		l.SealTime = timestamppb.New(info.Sealed)
	}
	return l
}

// parseULID reads the ULID of a field; the zero ULID for an empty one.
func parseULID(field, text string) (ulid.ULID, error) {
	if text == "" {
		return ulid.ULID{}, nil
	}
	id, err := ulid.ParseStrict(text)
	if err != nil || id == (ulid.ULID{}) {
		return ulid.ULID{}, fmt.Errorf("%w: %s is not a ULID of 26 characters", wal.ErrInvalid, field)
	}
	return id, nil
}

// claimOf reads a Claim; the zero Claim, which claims nothing, for nil.
func claimOf(c *walsvcv1.Claim) (wal.Claim, error) {
	if c.GetLsn() == 0 {
		return wal.Claim{}, nil
	}
	id, err := parseULID("claim.log_id", c.GetLogId())
	if err != nil {
		return wal.Claim{}, err
	}
	return wal.Claim{Log: id, Epoch: wal.Epoch(c.GetEpoch()), LSN: wal.LSN(c.GetLsn()), Checksum: wal.Checksum(c.GetLogChecksum())}, nil
}
