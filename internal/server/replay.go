package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	blockcodec "github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// What the zero values of a ReadRequest mean.
const (
	defaultReadRecords = 1000
	defaultReadBytes   = 1 << 20
)

// blockVersion is the layout of StoredBlock that this service sends.
const blockVersion = 1

// replayService gives records back.
type replayService struct {
	walsvcv1.UnimplementedReplayServiceServer
	*Server
}

// Read implements walsvcv1.ReplayServiceServer.
func (s replayService) Read(ctx context.Context, req *walsvcv1.ReadRequest) (*walsvcv1.ReadResponse, error) {
	resp, err := s.read(ctx, req)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return resp, nil
}

func (s replayService) read(ctx context.Context, req *walsvcv1.ReadRequest) (*walsvcv1.ReadResponse, error) {
	maxRecords, maxBytes := int(req.GetMaxRecords()), int(min(req.GetMaxBytes(), limits.MaxBatchSize))
	if maxRecords == 0 {
		maxRecords = defaultReadRecords
	}
	if maxBytes == 0 {
		maxBytes = defaultReadBytes
	}
	claim, err := claimOf(req.GetClaim())
	if err != nil {
		return nil, err
	}
	if err := s.volume.CheckClaim(req.GetLog(), claim); err != nil {
		return nil, err
	}
	info, err := s.volume.Log(req.GetLog())
	if err != nil {
		return nil, err
	}
	from := wal.LSN(req.GetFromLsn())
	reader, err := s.volume.NewReader(req.GetLog(), wal.ReadOptions{From: from, Max: maxBytes, Epoch: claimedEpoch(claim, cmp.Or(from, info.First))})
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }() // it never fails

	resp := &walsvcv1.ReadResponse{
		DurableLsn: uint64(info.Durable()),
		Epoch:      uint64(info.Epoch),
		Records:    &walsvcv1.Records{},
	}
	for left := maxBytes; len(resp.Records.Record) < maxRecords; {
		span, err := reader.Next(ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if resp.FirstLsn == 0 {
			resp.FirstLsn = uint64(span.First)
			resp.NextLsn = resp.FirstLsn
		}
		if err != nil {
			break
		}
		resp.DurableLsn, resp.Epoch = uint64(span.Durable), uint64(span.Epoch)
		for run := slices.Clone(span.Run); len(run) > 0 && len(resp.Records.Record) < maxRecords; { // the span's is the reader's
			record, rest, err := records.Next(run)
			if err != nil {
				return nil, fmt.Errorf("log %q: LSN %d: %w", req.GetLog(), resp.NextLsn, err)
			}
			if left -= len(run) - len(rest); left < 0 && len(resp.Records.Record) > 0 {
				return resp, nil
			}
			resp.Records.Record = append(resp.Records.Record, record)
			resp.NextLsn++
			run = rest
		}
	}
	return resp, nil
}

// Replay implements walsvcv1.ReplayServiceServer.
func (s replayService) Replay(req *walsvcv1.ReplayRequest, stream grpc.ServerStreamingServer[walsvcv1.ReplayResponse]) error {
	if s.replays.Add(1) > limits.MaxReplays {
		s.replays.Add(-1)
		return s.fail(stream.Context(), ErrTooManyReplays)
	}
	defer s.replays.Add(-1)
	ctx, release := s.stoppable(stream.Context())
	defer release()

	options, err := s.readOptions(ctx, req)
	if err != nil {
		return s.fail(ctx, err)
	}
	var block *wire.Buffer // what the span's block was read into
	options.Buffer = func(capacity int) []byte {
		block = wire.NewBuffer(capacity)
		return block.Data
	}
	reader, err := s.volume.NewReader(req.GetLog(), options)
	if err != nil {
		return s.fail(ctx, err)
	}
	defer func() { _ = reader.Close() }() // it never fails

	for {
		span, err := s.next(ctx, reader, req, stream)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = sendSpan(stream, span, block)
			block = nil
		}
		if err != nil {
			return s.fail(ctx, stopCause(ctx, err))
		}
	}
}

// readOptions reads where a replay begins and ends, after the client's claim has
// been proven: a client whose history is another one must not be shown this one.
func (s replayService) readOptions(ctx context.Context, req *walsvcv1.ReplayRequest) (wal.ReadOptions, error) {
	o := wal.ReadOptions{From: wal.LSN(req.GetFromLsn()), Cursor: req.GetCursor(), To: wal.LSN(req.GetToLsn()), Follow: req.GetFollow()}
	switch {
	case req.GetCheckpoint() != "" && o.From != 0:
		return o, fmt.Errorf("%w: both from_lsn and checkpoint", wal.ErrInvalid)
	case o.Cursor != "" && req.GetCheckpoint() != "":
		return o, fmt.Errorf("%w: both checkpoint and cursor", wal.ErrInvalid)
	case o.Follow && o.To != 0:
		return o, fmt.Errorf("%w: both to_lsn and follow", wal.ErrInvalid)
	case req.GetFromTime() != nil && (o.From != 0 || req.GetCheckpoint() != "" || o.Cursor != ""):
		return o, fmt.Errorf("%w: from_time and another beginning", wal.ErrInvalid)
	case req.GetToTime() != nil && (o.To != 0 || o.Follow):
		return o, fmt.Errorf("%w: to_time, and to_lsn or follow", wal.ErrInvalid)
	case len(req.GetCodecs()) > 16:
		return o, fmt.Errorf("%w: %d codecs", wal.ErrInvalid, len(req.GetCodecs()))
	}
	var err error
	if o.FromTime, err = timeOf("from_time", req.GetFromTime()); err != nil {
		return o, err
	}
	if o.ToTime, err = timeOf("to_time", req.GetToTime()); err != nil {
		return o, err
	}
	for _, c := range req.GetCodecs() {
		if c > 255 || !blockcodec.Codec(c).Valid() {
			continue // a newer client's; blocks of it there are none
		}
		o.Codecs = append(o.Codecs, blockcodec.Codec(c))
	}
	claim, err := claimOf(req.GetClaim())
	if err != nil {
		return o, err
	}
	if err := s.volume.CheckClaim(req.GetLog(), claim); err != nil {
		return o, err
	}
	o.Epoch = claimedEpoch(claim, o.From)
	if name := req.GetCheckpoint(); name != "" {
		cp, err := s.volume.Checkpoint(ctx, req.GetLog(), name)
		if err != nil {
			return o, err
		}
		o.From = cp.LSN + 1
	}
	return o, nil
}

// claimedEpoch returns the epoch that a reader from an LSN assumes, 0 for none, so that
// a rewind after the claim was proven is told, too.
func claimedEpoch(c wal.Claim, from wal.LSN) wal.Epoch {
	if from > 0 && from <= c.LSN+1 {
		return c.Epoch
	}
	return 0
}

// timeOf reads a time, the zero one if there is none.
func timeOf(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, fmt.Errorf("%w: %s: %w", wal.ErrInvalid, field, err)
	}
	if at := t.AsTime(); !at.IsZero() {
		return at, nil
	}
	return time.Unix(0, 0), nil // the zero time means none
}

// next waits for the reader's next span. While a follower waits it hears the
// durable LSN every Options.Heartbeat.
func (s replayService) next(ctx context.Context, reader *wal.Reader, req *walsvcv1.ReplayRequest, stream grpc.ServerStream) (wal.Span, error) {
	if !req.GetFollow() {
		return reader.Next(ctx)
	}
	for {
		beat, cancel := context.WithTimeout(ctx, s.options.Heartbeat)
		span, err := reader.Next(beat)
		late := beat.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !late {
			return span, err
		}
		info, err := s.volume.Log(req.GetLog())
		if err != nil {
			return wal.Span{}, err
		}
		if err := stream.SendMsg(&wire.ReplayResponse{Durable: uint64(info.Durable())}); err != nil {
			return wal.Span{}, err
		}
	}
}

// sendSpan sends a span by reference, and releases the buffer that its block, if
// it is one, was read into. The bytes of others are the reader's, and are written
// over by the next one, while the transport may hold a message back for as long
// as flow control says: so they are copied, once.
func sendSpan(stream grpc.ServerStream, span wal.Span, buffer *wire.Buffer) error {
	if span.Stored != nil {
		buffer.Data = span.Stored
	} else {
		buffer = wire.NewBuffer(len(span.Run))
		buffer.Data = append(buffer.Data, span.Run...)
	}
	defer buffer.Release()

	resp := wire.ReplayResponse{First: uint64(span.First), Count: span.Count, Durable: uint64(span.Durable), Epoch: uint64(span.Epoch), Buffer: buffer}
	if span.Stored == nil {
		resp.Run = buffer.Data
	} else {
		resp.HasBlock = true
		resp.Block = wire.StoredBlock{
			Version:  blockVersion,
			Codec:    uint32(span.Codec),
			RawSize:  span.RawSize,
			Checksum: span.Checksum,
			Stored:   buffer.Data,
		}
	}
	return stream.SendMsg(&resp)
}

// WaitDurable implements walsvcv1.ReplayServiceServer.
func (s replayService) WaitDurable(ctx context.Context, req *walsvcv1.WaitDurableRequest) (*walsvcv1.WaitDurableResponse, error) {
	ctx, release := s.stoppable(ctx)
	defer release()
	known := s.poisoned()
	claim, err := claimOf(req.GetClaim())
	if err == nil {
		err = s.volume.CheckClaim(req.GetLog(), claim)
	}
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	durable, err := s.volume.WaitDurableIn(ctx, req.GetLog(), wal.Epoch(req.GetEpoch()), wal.LSN(req.GetLsn()))
	if err != nil {
		err = stopCause(ctx, err)
		if !known {
			err = unsettled(err) // the LSN may have been in the frame that failed
		}
		return nil, s.fail(ctx, err)
	}
	return &walsvcv1.WaitDurableResponse{DurableLsn: uint64(durable)}, nil
}

// WatchDurable implements walsvcv1.ReplayServiceServer.
func (s replayService) WatchDurable(req *walsvcv1.WatchDurableRequest, stream grpc.ServerStreamingServer[walsvcv1.WatchDurableResponse]) error {
	ctx, release := s.stoppable(stream.Context())
	defer release()
	claim, err := claimOf(req.GetClaim())
	if err == nil {
		err = s.volume.CheckClaim(req.GetLog(), claim)
	}
	if err != nil {
		return s.fail(ctx, err)
	}
	after := wal.LSN(req.GetAfterLsn())
	for told := claimedEpoch(claim, after); ; {
		info, err := s.volume.NextDurable(ctx, req.GetLog(), wal.Epoch(req.GetEpoch()), after, told)
		if sealed, ok := errors.AsType[*wal.SealedError](err); ok && after < sealed.Next {
			return nil // its end was told
		}
		if err == nil {
			err = stream.Send(&walsvcv1.WatchDurableResponse{DurableLsn: uint64(info.Durable()), Claim: &walsvcv1.Claim{
				LogId: info.ID.String(), Epoch: uint64(info.Epoch), Lsn: uint64(info.Durable()), LogChecksum: uint32(info.Checksum),
			}})
		}
		if err != nil {
			return s.fail(ctx, stopCause(ctx, err))
		}
		after, told = info.Durable(), info.Epoch
	}
}
