package server

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// cursorService keeps how far named readers have come.
type cursorService struct {
	walsvcv1.UnimplementedCursorServiceServer
	*Server
}

// SetCursor implements walsvcv1.CursorServiceServer.
func (s cursorService) SetCursor(ctx context.Context, req *walsvcv1.SetCursorRequest) (*walsvcv1.SetCursorResponse, error) {
	u := wal.CursorUpdate{
		Name: req.GetName(), LSN: wal.LSN(req.GetLsn()), Cap: req.GetCapBytes(), Policy: policyOf(req.GetPolicy()),
		Create: req.GetCreate(), Reset: req.GetReset_(),
	}
	if at, ok := req.GetCondition().(*walsvcv1.SetCursorRequest_ExpectedLsn); ok {
		u.Expected = (*wal.LSN)(&at.ExpectedLsn)
	}
	c, err := s.volume.SetCursor(ctx, req.GetLog(), u)
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.SetCursorResponse{Cursor: cursorOf(c)}, nil
}

// GetCursor implements walsvcv1.CursorServiceServer.
func (s cursorService) GetCursor(ctx context.Context, req *walsvcv1.GetCursorRequest) (*walsvcv1.GetCursorResponse, error) {
	c, err := s.volume.Cursor(req.GetLog(), req.GetName())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &walsvcv1.GetCursorResponse{Cursor: cursorOf(c)}, nil
}

// ListCursors implements walsvcv1.CursorServiceServer.
func (s cursorService) ListCursors(ctx context.Context, req *walsvcv1.ListCursorsRequest) (*walsvcv1.ListCursorsResponse, error) {
	cursors, err := s.volume.Cursors(req.GetLog())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	resp := &walsvcv1.ListCursorsResponse{Cursors: make([]*walsvcv1.Cursor, len(cursors))}
	for i, c := range cursors {
		resp.Cursors[i] = cursorOf(c)
	}
	return resp, nil
}

// DeleteCursor implements walsvcv1.CursorServiceServer.
func (s cursorService) DeleteCursor(ctx context.Context, req *walsvcv1.DeleteCursorRequest) (*walsvcv1.DeleteCursorResponse, error) {
	if err := s.volume.DeleteCursor(ctx, req.GetLog(), req.GetName(), (*wal.LSN)(req.ExpectedLsn)); err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.DeleteCursorResponse{}, nil
}

// policyOf reads a policy; one of a newer client's becomes none that the engine
// takes.
func policyOf(p walsvcv1.CursorPolicy) wal.CursorPolicy {
	if p < 0 || p > walsvcv1.CursorPolicy_CURSOR_POLICY_HOLD {
		return wal.CursorHold + 1
	}
	return wal.CursorPolicy(p)
}

func cursorOf(c wal.Cursor) *walsvcv1.Cursor {
	out := &walsvcv1.Cursor{
		Name:       c.Name,
		Lsn:        uint64(c.LSN),
		CapBytes:   c.Cap,
		Policy:     walsvcv1.CursorPolicy(c.Policy),
		State:      walsvcv1.CursorState(c.State),
		LiveBytes:  c.LiveBytes,
		LagRecords: c.Records,
		SetTime:    timestamppb.New(c.SetAt),

		RewoundEpoch:   uint64(c.Rewound),
		RewoundFromLsn: uint64(c.Was),
	}
	if !c.Oldest.IsZero() {
		out.Lag = durationpb.New(c.Lag)
	}
	if !c.EvictedAt.IsZero() {
		out.EvictTime = timestamppb.New(c.EvictedAt)
	}
	return out
}
