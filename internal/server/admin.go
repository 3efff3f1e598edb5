package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// adminService says how the service is.
type adminService struct {
	walsvcv1.UnimplementedAdminServiceServer
	*Server
}

// GetStatus implements walsvcv1.AdminServiceServer.
func (s adminService) GetStatus(context.Context, *walsvcv1.GetStatusRequest) (*walsvcv1.GetStatusResponse, error) {
	st := s.volume.Status()
	return &walsvcv1.GetStatusResponse{
		VolumeId:        st.Volume.String(),
		State:           s.state(),
		Detail:          st.Detail,
		Recovery:        recoveryOf(st.Recovery),
		Logs:            uint64(st.Logs),
		DurableFrame:    st.DurableFrame,
		Segments:        uint64(st.Segments),
		SegmentBytes:    uint64(st.SegmentSize),
		Spares:          uint64(st.Spares),
		AppendableBytes: uint64(st.AppendableBytes),
		DiskFreeBytes:   st.DiskFree,
		Commits:         st.Commits,
		Syncs:           st.Syncs,
		Records:         st.Records,
		RawBytes:        st.RawBytes,
		StoredBytes:     st.StoredBytes,
		Rolls:           st.Rolls,
		Recycles:        st.Recycles,
		Snapshots:       st.Snapshots,
		RssBytes:        residentBytes(),
		Uptime:          durationpb.New(time.Since(s.started)),
		Stalls:          st.Stalls,
		Stall:           stallOf(st.Stall),
		Lost:            damagedLogs(st.Lost),
		LostRecords:     st.LostRecords,
	}, nil
}

func stallOf(s *wal.Stall) *walsvcv1.Stall {
	if s == nil {
		return nil
	}
	return &walsvcv1.Stall{Operation: s.Operation, BeginTime: timestamppb.New(s.Since)}
}

// state puts the service's stopping before the volume's state, unless that is
// worse.
func (s *Server) state() walsvcv1.VolumeState {
	state, _ := s.volume.State()
	switch {
	case state == wal.Poisoned:
		return walsvcv1.VolumeState_VOLUME_STATE_POISONED
	case state == wal.DiskStalled:
		return walsvcv1.VolumeState_VOLUME_STATE_DISK_STALLED
	case s.draining():
		return walsvcv1.VolumeState_VOLUME_STATE_DRAINING
	case state == wal.ReadOnly:
		return walsvcv1.VolumeState_VOLUME_STATE_READ_ONLY
	case state == wal.Full:
		return walsvcv1.VolumeState_VOLUME_STATE_FULL
	default:
		return walsvcv1.VolumeState_VOLUME_STATE_SERVING
	}
}

func recoveryOf(r wal.Recovery) *walsvcv1.Recovery {
	out := &walsvcv1.Recovery{
		Verdict:         r.Verdict,
		Case:            r.Case,
		Detail:          r.Detail,
		Frames:          r.Frames,
		LastSequence:    r.LastSequence,
		RewrittenFrames: r.RewrittenFrames,
		DiscardedFrames: r.DiscardedFrames,
		DiscardedBytes:  uint64(r.DiscardedBytes),
		Took:            durationpb.New(r.Took),
	}
	for _, d := range r.Damage {
		out.Damage = append(out.Damage, &walsvcv1.Damage{
			File: d.File, Offset: uint64(d.Offset), Sequence: d.Sequence, Case: d.Case, Detail: d.Detail, Logs: damagedLogs(d.Logs),
		})
	}
	return out
}

func damagedLogs(logs []wal.DamagedLog) (out []*walsvcv1.DamagedLog) {
	for _, l := range logs {
		out = append(out, &walsvcv1.DamagedLog{Log: l.Log, FirstLsn: uint64(l.First), LastLsn: uint64(l.Last)})
	}
	return out
}

// residentBytes returns the process's resident memory; 0 where there is no /proc.
func residentBytes() uint64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm) // in pages: size resident shared ...
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// GetServerInfo implements walsvcv1.AdminServiceServer.
func (s adminService) GetServerInfo(context.Context, *walsvcv1.GetServerInfoRequest) (*walsvcv1.GetServerInfoResponse, error) {
	return &walsvcv1.GetServerInfoResponse{
		Version:       s.options.Version,
		ApiVersion:    "v1",
		FormatVersion: s.options.FormatVersion,
		Limits:        advertised(),
		Codec:         s.options.Codec,
		Direct:        s.options.Direct,
	}, nil
}

// ListHolders implements walsvcv1.AdminServiceServer. Its pages are of logs, as
// those of ListLogs are.
func (s adminService) ListHolders(ctx context.Context, req *walsvcv1.ListHoldersRequest) (*walsvcv1.ListHoldersResponse, error) {
	size := int(min(req.GetPageSize(), limits.MaxPageSize))
	if size == 0 {
		size = defaultPageSize
	}
	after, err := parsePageToken(req.GetPageToken())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	holders, last, more := s.volume.Holders(req.GetPrefix(), after, size)
	resp := &walsvcv1.ListHoldersResponse{Holders: holdersOf(holders)}
	if more {
		resp.NextPageToken = pageToken(last)
	}
	if after == "" {
		ofVolume, err := s.volume.VolumeHolders()
		if err != nil {
			return nil, s.fail(ctx, fmt.Errorf("%w: %w", wal.ErrReadFailed, err))
		}
		resp.VolumeHolders = holdersOf(ofVolume)
	}
	return resp, nil
}

func holdersOf(holders []wal.Holder) []*walsvcv1.Holder {
	out := make([]*walsvcv1.Holder, len(holders))
	for i, h := range holders {
		out[i] = &walsvcv1.Holder{
			Kind:        walsvcv1.HolderKind(h.Kind),
			Log:         h.Log,
			Name:        h.Name,
			Lsn:         uint64(h.LSN),
			Lowest:      h.Low,
			CursorState: walsvcv1.CursorState(h.Cur),
			LiveBytes:   h.Bytes,
			Segment:     h.Segment,
			Segments:    uint64(h.Segments),
			MovedLsn:    uint64(h.Moved),
		}
	}
	return out
}

// advertised returns every bound of package limits that a client can meet. A
// test compares it with the package.
func advertised() []*walsvcv1.Limit {
	size := func(name string, value uint64) *walsvcv1.Limit {
		return &walsvcv1.Limit{Name: name, Value: value, Unit: "bytes"}
	}
	count := func(name string, value uint64) *walsvcv1.Limit {
		return &walsvcv1.Limit{Name: name, Value: value, Unit: "count"}
	}
	span := func(name string, value time.Duration) *walsvcv1.Limit {
		return &walsvcv1.Limit{Name: name, Value: uint64(value.Milliseconds()), Unit: "ms"}
	}
	return []*walsvcv1.Limit{
		size("MaxRecordSize", limits.MaxRecordSize),
		size("MaxBatchSize", limits.MaxBatchSize),
		count("MaxBatchRecords", limits.MaxBatchRecords),
		count("MaxBatchLogs", limits.MaxBatchLogs),
		size("MaxMessageSize", limits.MaxMessageSize),
		count("MaxBatchesPerMessage", limits.MaxBatchesPerMessage),
		size("MaxBlockRawSize", limits.MaxBlockRawSize),
		size("MaxLogNameBytes", limits.MaxLogNameBytes),
		size("MaxCheckpointNameBytes", limits.MaxCheckpointNameBytes),
		size("MaxHolderNameBytes", limits.MaxHolderNameBytes),
		size("MaxCursorNameBytes", limits.MaxCursorNameBytes),
		size("MaxLabelBytes", limits.MaxLabelBytes),
		count("MaxLabels", limits.MaxLabels),
		count("MaxLogs", limits.MaxLogs),
		size("MinLogRate", limits.MinLogRate),
		size("MaxLogRate", limits.MaxLogRate),
		count("MaxCheckpointsPerLog", limits.MaxCheckpointsPerLog),
		size("MaxCheckpointState", limits.MaxCheckpointState),
		count("MaxCursorsPerLog", limits.MaxCursorsPerLog),
		count("MaxRewinds", limits.MaxRewinds),
		size("DefaultCursorCap", limits.DefaultCursorCap),
		size("MaxCursorCap", limits.MaxCursorCap),
		count("CursorExtendedPercent", limits.CursorExtendedPercent),
		count("CursorAtRiskPercent", limits.CursorAtRiskPercent),
		count("MaxFormerProducers", limits.MaxFormerProducers),
		count("MaxProducersPerLog", limits.MaxProducersPerLog),
		count("ProducerWindow", limits.ProducerWindow),
		count("MaxPageSize", limits.MaxPageSize),
		size("StreamCreditBytes", limits.StreamCreditBytes),
		count("StreamCreditBatches", limits.StreamCreditBatches),
		count("MaxBindingsPerStream", limits.MaxBindingsPerStream),
		count("MaxStreams", limits.MaxStreams),
		count("MaxConnections", limits.MaxConnections),
		size("ReplayMessageSize", limits.ReplayMessageSize),
		count("MaxReplays", limits.MaxReplays),
		count("MaxDamage", limits.MaxDamage),
		span("IdlePromiseDelay", limits.IdlePromiseDelay),
		span("HeartbeatInterval", limits.HeartbeatInterval),
		span("PinLimit", limits.PinLimit),
		span("DrainDeadline", limits.DrainDeadline),
		span("StallAfter", limits.StallAfter),
	}
}
