package server

import (
	"context"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// AcquireWriter implements walsvcv1.AppendServiceServer.
func (s appendService) AcquireWriter(ctx context.Context, req *walsvcv1.AcquireWriterRequest) (*walsvcv1.AcquireWriterResponse, error) {
	a := wal.Acquire{Holder: req.GetHolder()}
	if req.ExpectedEpoch != nil {
		expected := wal.Epoch(req.GetExpectedEpoch())
		a.Expected = &expected
	}
	var err error
	if a.Request, err = parseULID("request", req.GetRequest()); err != nil {
		return nil, s.fail(ctx, err)
	}
	if a.Producer, err = parseULID("producer", req.GetProducer()); err != nil {
		return nil, s.fail(ctx, err)
	}
	w, err := s.volume.AcquireWriter(ctx, req.GetLog(), a)
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.AcquireWriterResponse{Log: logOf(w.Log), LastSequence: w.LastSequence, Repeated: w.Repeated}, nil
}

// ReleaseWriter implements walsvcv1.AppendServiceServer.
func (s appendService) ReleaseWriter(ctx context.Context, req *walsvcv1.ReleaseWriterRequest) (*walsvcv1.ReleaseWriterResponse, error) {
	info, err := s.volume.ReleaseWriter(ctx, req.GetLog(), wal.Epoch(req.GetEpoch()))
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.ReleaseWriterResponse{Log: logOf(info)}, nil
}
