package server

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// checkpointService keeps what an engine needs to recover.
type checkpointService struct {
	walsvcv1.UnimplementedCheckpointServiceServer
	*Server
}

// SetCheckpoint implements walsvcv1.CheckpointServiceServer.
func (s checkpointService) SetCheckpoint(ctx context.Context, req *walsvcv1.SetCheckpointRequest) (*walsvcv1.SetCheckpointResponse, error) {
	cp, err := s.volume.SetCheckpointIn(ctx, req.GetLog(), wal.Epoch(req.GetEpoch()), wal.Checkpoint{
		Name:    req.GetName(),
		LSN:     wal.LSN(req.GetLsn()),
		Version: req.GetNextVersion(),
		State:   req.GetState(),
	}, req.ExpectedVersion)
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	cp.State = nil
	return &walsvcv1.SetCheckpointResponse{Checkpoint: checkpointOf(cp)}, nil
}

// GetCheckpoint implements walsvcv1.CheckpointServiceServer.
func (s checkpointService) GetCheckpoint(ctx context.Context, req *walsvcv1.GetCheckpointRequest) (*walsvcv1.GetCheckpointResponse, error) {
	cp, err := s.volume.Checkpoint(ctx, req.GetLog(), req.GetName())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &walsvcv1.GetCheckpointResponse{Checkpoint: checkpointOf(cp)}, nil
}

// ListCheckpoints implements walsvcv1.CheckpointServiceServer.
func (s checkpointService) ListCheckpoints(ctx context.Context, req *walsvcv1.ListCheckpointsRequest) (*walsvcv1.ListCheckpointsResponse, error) {
	cps, err := s.volume.Checkpoints(req.GetLog())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	resp := &walsvcv1.ListCheckpointsResponse{Checkpoints: make([]*walsvcv1.Checkpoint, len(cps))}
	for i, cp := range cps {
		resp.Checkpoints[i] = checkpointOf(cp)
	}
	return resp, nil
}

// DeleteCheckpoint implements walsvcv1.CheckpointServiceServer.
func (s checkpointService) DeleteCheckpoint(ctx context.Context, req *walsvcv1.DeleteCheckpointRequest) (*walsvcv1.DeleteCheckpointResponse, error) {
	if err := s.volume.DeleteCheckpoint(ctx, req.GetLog(), req.GetName(), req.ExpectedVersion); err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.DeleteCheckpointResponse{}, nil
}

func checkpointOf(cp wal.Checkpoint) *walsvcv1.Checkpoint {
	return &walsvcv1.Checkpoint{
		Name:      cp.Name,
		Lsn:       uint64(cp.LSN),
		Version:   cp.Version,
		State:     cp.State,
		StateSize: cp.StateSize,
		SetTime:   timestamppb.New(cp.SetAt),
	}
}
