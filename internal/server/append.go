package server

import (
	"context"
	"fmt"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// appendService takes records.
type appendService struct {
	walsvcv1.UnimplementedAppendServiceServer
	*Server
}

// OpenProducer implements walsvcv1.AppendServiceServer.
func (s appendService) OpenProducer(ctx context.Context, req *walsvcv1.OpenProducerRequest) (*walsvcv1.OpenProducerResponse, error) {
	producer, err := parseULID("producer", req.GetProducer())
	if err == nil && producer == (ulid.ULID{}) {
		err = fmt.Errorf("%w: producer is empty", wal.ErrInvalid)
	}
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	info, err := s.volume.ReopenProducer(ctx, req.GetLog(), producer, req.GetAcknowledgedSequence())
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return &walsvcv1.OpenProducerResponse{LastSequence: info.LastSequence, Window: uint32(info.Window), Incarnation: info.Incarnation, MaxBatchBytes: uint32(s.volume.MaxBatch())}, nil
}

// Append implements walsvcv1.AppendServiceServer.
func (s appendService) Append(ctx context.Context, req *walsvcv1.AppendRequest) (*walsvcv1.AppendResponse, error) {
	resp, err := s.append(ctx, req)
	if err != nil {
		return nil, s.failWrite(ctx, err)
	}
	return resp, nil
}

func (s appendService) append(ctx context.Context, req *walsvcv1.AppendRequest) (*walsvcv1.AppendResponse, error) {
	producer, err := parseULID("producer", req.GetProducer())
	if err != nil {
		return nil, err
	}
	run, err := encode(req.GetRecords().GetRecord())
	if err != nil {
		return nil, err
	}
	parts, err := partsOf(req.GetParts(), len(run))
	if err != nil {
		return nil, err
	}
	claim, err := claimOf(req.GetClaim())
	if err != nil {
		return nil, err
	}
	v, err := s.volume.AppendBehind(ctx, req.GetLog(), producer, wal.Epoch(req.GetEpoch()), claim, wal.Batch{
		Sequence:    req.GetSequence(),
		Expected:    wal.LSN(req.GetExpectedLsn()),
		Run:         run,
		Incarnation: req.GetIncarnation(),
		Parts:       parts,
	})
	if err == nil {
		err = v.Err
	}
	if err != nil {
		return nil, err
	}
	return &walsvcv1.AppendResponse{
		LogId:       v.Binding.Log.String(),
		FirstLsn:    uint64(v.First),
		Count:       v.Count,
		LogChecksum: uint32(v.Checksum),
		Epoch:       uint64(v.Epoch),
		Repeated:    v.Repeated,
		CommitTime:  uint64(v.Committed),
		VolumeId:    s.volume.ID().String(),
		Parts:       appendedParts(v.Parts),
	}, nil
}

// partsOf takes the parts of a batch, the run of which has size bytes. All of them
// are counted before any memory is taken.
func partsOf(in []*walsvcv1.LogPart, size int) ([]wal.Part, error) {
	if len(in) >= limits.MaxBatchLogs {
		return nil, fmt.Errorf("%w: batch over %d logs, the limit is %d", wal.ErrTooLarge, 1+len(in), limits.MaxBatchLogs)
	}
	for _, p := range in {
		size += runSize(p.GetRecords().GetRecord())
	}
	if size > limits.MaxBatchSize {
		return nil, fmt.Errorf("%w: batch of %d bytes over %d logs, the limit is %d", wal.ErrTooLarge, size, 1+len(in), limits.MaxBatchSize)
	}
	parts := make([]wal.Part, len(in))
	for i, p := range in {
		run, err := encode(p.GetRecords().GetRecord())
		if err != nil {
			return nil, err
		}
		parts[i] = wal.Part{Log: p.GetLog(), Epoch: wal.Epoch(p.GetEpoch()), Expected: wal.LSN(p.GetExpectedLsn()), Run: run}
	}
	return parts, nil
}

func appendedParts(in []wal.PartVerdict) (parts []*walsvcv1.AppendedPart) {
	for _, p := range in {
		out := &walsvcv1.AppendedPart{Log: p.Name, FirstLsn: uint64(p.First), Count: p.Count, LogChecksum: uint32(p.Checksum), Epoch: uint64(p.Epoch)}
		if p.Name != "" {
			out.LogId = p.Log.String()
		}
		parts = append(parts, out)
	}
	return parts
}

// runSize returns the size of records as a run, in bytes.
func runSize(recs [][]byte) (size int) {
	for _, r := range recs {
		size += records.Size(len(r))
	}
	return size
}

// encode spells records as a run, the bytes of which are bounded before they
// are taken. What else is wrong with them the engine says.
func encode(recs [][]byte) ([]byte, error) {
	size := runSize(recs)
	if size > limits.MaxBatchSize {
		return nil, fmt.Errorf("%w: batch of %d bytes, the limit is %d", wal.ErrTooLarge, size, limits.MaxBatchSize)
	}
	run := make([]byte, 0, size)
	for _, r := range recs {
		run = records.Append(run, r)
	}
	return run, nil
}

// AppendStream implements walsvcv1.AppendServiceServer. The messages are those of
// package wire, not the generated ones that the signature names.
func (s appendService) AppendStream(stream grpc.BidiStreamingServer[walsvcv1.AppendStreamRequest, walsvcv1.AppendStreamResponse]) error {
	a := newAppendStream(s.Server, stream)
	if s.streamForTesting != nil {
		s.streamForTesting(a)
	}
	return s.fail(stream.Context(), a.run())
}
