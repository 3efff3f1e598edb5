package server

import (
	"context"
	"fmt"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// VerifyReceipt implements walsvcv1.AdminServiceServer.
func (s adminService) VerifyReceipt(ctx context.Context, req *walsvcv1.VerifyReceiptRequest) (*walsvcv1.VerifyReceiptResponse, error) {
	r, err := receiptOf(req.GetReceipt())
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	f, err := s.volume.VerifyReceipt(r)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &walsvcv1.VerifyReceiptResponse{
		Verdict: walsvcv1.ReceiptVerdict(f.Verdict), Field: f.Field, Detail: f.Detail, CommitTime: uint64(f.Committed),
	}, nil
}

// receiptOf reads a Receipt.
func receiptOf(r *walsvcv1.Receipt) (out wal.Receipt, err error) {
	if r.GetVolumeId() == "" || r.GetLogId() == "" {
		return out, fmt.Errorf("%w: receipt without a volume_id or a log_id", wal.ErrInvalid)
	}
	if out.Volume, err = parseULID("receipt.volume_id", r.GetVolumeId()); err != nil {
		return out, err
	}
	if out.Log, err = parseULID("receipt.log_id", r.GetLogId()); err != nil {
		return out, err
	}
	out.Name, out.Epoch = r.GetLog(), wal.Epoch(r.GetEpoch())
	out.First, out.Last, out.Through = wal.LSN(r.GetFirstLsn()), wal.LSN(r.GetLastLsn()), wal.LSN(r.GetThroughLsn())
	out.Checksum, out.Committed = wal.Checksum(r.GetLogChecksum()), int64(r.GetCommitTime())
	return out, nil
}
