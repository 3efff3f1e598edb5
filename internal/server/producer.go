package server

import (
	"context"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// outcomes are the engine's, as the API spells them.
var outcomes = map[wal.Outcome]walsvcv1.Outcome{
	wal.Committed:  walsvcv1.Outcome_OUTCOME_COMMITTED,
	wal.NotWritten: walsvcv1.Outcome_OUTCOME_NOT_WRITTEN,
	wal.Fenced:     walsvcv1.Outcome_OUTCOME_FENCED,
	wal.Discarded:  walsvcv1.Outcome_OUTCOME_DISCARDED,
}

// ListProducers implements walsvcv1.AppendServiceServer. A page token is the last
// producer of the page before, so a listing survives producers coming and going.
func (s appendService) ListProducers(ctx context.Context, req *walsvcv1.ListProducersRequest) (*walsvcv1.ListProducersResponse, error) {
	size := int(min(req.GetPageSize(), limits.MaxPageSize))
	if size == 0 {
		size = defaultPageSize
	}
	last, err := parsePageToken(req.GetPageToken())
	var after ulid.ULID
	if err == nil && last != "" {
		after, err = parseULID("page_token", last)
	}
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	producers, more, err := s.volume.Producers(req.GetLog(), after, size)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	resp := &walsvcv1.ListProducersResponse{Producers: make([]*walsvcv1.Producer, len(producers))}
	for i, p := range producers {
		resp.Producers[i] = &walsvcv1.Producer{
			Id: p.ID.String(), LastSequence: p.LastSequence, Incarnation: p.Incarnation, Retired: p.Retired, MadeWay: p.MadeWay, ActiveLsn: uint64(p.Active),
		}
	}
	if more {
		resp.NextPageToken = pageToken(producers[len(producers)-1].ID.String())
	}
	return resp, nil
}

// RetireProducer implements walsvcv1.AppendServiceServer.
func (s appendService) RetireProducer(ctx context.Context, req *walsvcv1.RetireProducerRequest) (*walsvcv1.RetireProducerResponse, error) {
	producer, err := parseULID("producer", req.GetProducer())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	if err := s.volume.RetireProducer(ctx, req.GetLog(), producer); err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.RetireProducerResponse{}, nil
}

// Resolve implements walsvcv1.AppendServiceServer.
func (s appendService) Resolve(ctx context.Context, req *walsvcv1.ResolveRequest) (*walsvcv1.ResolveResponse, error) {
	producer, err := parseULID("producer", req.GetProducer())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	r, err := s.volume.Resolve(ctx, req.GetLog(), producer, req.GetSequence(), wal.Epoch(req.GetEpoch()))
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.ResolveResponse{
		Outcome: outcomes[r.Outcome], FirstLsn: uint64(r.First), Count: r.Count, LogChecksum: uint32(r.Checksum), Epoch: uint64(r.Epoch),
		LastSequence: r.Producer.LastSequence, Incarnation: r.Producer.Incarnation, Log: logOf(r.Log),
		Parts: appendedParts(r.Parts),
	}, nil
}
