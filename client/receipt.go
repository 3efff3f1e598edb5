package client

import (
	"context"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// receiptVersion is the version of a receipt's text, and what it begins with.
const receiptVersion = "walsvc-receipt-1"

// maxReceipt bounds the text of a receipt: the fields at their longest, and the name
// of a log.
const maxReceipt = 512

// String returns the receipt as one line of text, or "" if it is none that can be
// kept: see MarshalText.
func (r Receipt) String() string {
	if r.invalid() != "" {
		return ""
	}
	committed := int64(0)
	if !r.Committed.IsZero() {
		committed = r.Committed.UnixNano()
	}
	text := fmt.Sprintf("%s:%s:%s:%s:%d:%d-%d:%d:%08x:%d", receiptVersion, r.Volume, r.Log, r.Name, r.Epoch,
		r.LSN, r.last(), r.Through, r.LogChecksum, committed)
	return fmt.Sprintf("%s:%08x", text, crc32.Checksum([]byte(text), castagnoli))
}

// last returns the last of the receipt's records.
func (r Receipt) last() LSN { return r.LSN + LSN(r.Count) - 1 }

// invalid says why no append can have got the receipt, "" if one can.
func (r Receipt) invalid() string {
	switch {
	case r.Volume == ulid.ULID{} || r.Log == ulid.ULID{}:
		return "it names no volume or no log"
	case r.Name == "" || len(r.Name) > 255 || strings.ContainsFunc(r.Name, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }):
		return "it has no log's name"
	case r.Epoch == 0 || r.LSN == 0 || r.Count <= 0 || r.Through > math.MaxInt64 || r.LSN > r.Through || LSN(r.Count) > r.Through-r.LSN+1:
		return "it has no epoch, or no LSNs that one append can have"
	case !r.Committed.IsZero() && (r.Committed.UnixNano() <= 0 || !r.Committed.Equal(time.Unix(0, r.Committed.UnixNano()))):
		return "it has no time that a service can have"
	}
	return ""
}

// MarshalText implements encoding.TextMarshaler: one line of fields with colons in
// between, to be kept wherever text is.
//
//	walsvc-receipt-1    version
//	01K0WB3V8Q...       the volume's ULID
//	01K0WC5F7D...       the log's ULID
//	orders/7            the log's name
//	1                   epoch
//	41-42               the append's first and last LSN
//	42                  the last LSN of the batch it travelled in: Through
//	8f3a21c0            the log's checksum behind that
//	1763668208123456789 commit time in nanoseconds since 1970; 0 if it is not known
//	5e0c9d11            CRC-32C of all before the last colon, in hex
//
// The last field tells a typo from a lie: it is no signature. It returns ErrInvalid
// for a receipt that no append got, such as the zero one, and for one of Log.Resolve
// on a log that the client has not appended to, which does not name the volume.
func (r Receipt) MarshalText() ([]byte, error) {
	if why := r.invalid(); why != "" {
		return nil, fmt.Errorf("receipt: %w: %s", ErrInvalid, why)
	}
	return []byte(r.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler: it reads what MarshalText
// returns and nothing else. What it reads is not Repeated. It returns ErrInvalid.
func (r *Receipt) UnmarshalText(text []byte) error {
	bad := func(why string) error { return fmt.Errorf("receipt: %w: %s", ErrInvalid, why) }
	if len(text) > maxReceipt {
		return bad("it is too long for one")
	}
	parts := strings.Split(string(text), ":")
	if parts[0] != receiptVersion || len(parts) != 10 {
		if strings.HasPrefix(parts[0], "walsvc-receipt-") && parts[0] != receiptVersion {
			return bad(fmt.Sprintf("version %q; this is for %q", parts[0], receiptVersion))
		}
		return bad(fmt.Sprintf("want ten fields with colons in between, of which the first is %q", receiptVersion))
	}
	end := strings.LastIndexByte(string(text), ':')
	if parts[9] != fmt.Sprintf("%08x", crc32.Checksum(text[:end], castagnoli)) {
		return bad("its own checksum does not match: a character is wrong or missing")
	}
	var got Receipt
	var err error
	number := func(text string, base, bits int) (n uint64) {
		if err == nil {
			n, err = strconv.ParseUint(text, base, bits)
		}
		return n
	}
	if got.Volume, err = ulid.ParseStrict(parts[1]); err != nil {
		return bad("its volume is no ULID")
	}
	if got.Log, err = ulid.ParseStrict(parts[2]); err != nil {
		return bad("its log is no ULID")
	}
	got.Name = parts[3]
	first, last, _ := strings.Cut(parts[5], "-")
	got.Epoch, got.LSN, got.Through = number(parts[4], 10, 64), LSN(number(first, 10, 63)), LSN(number(parts[6], 10, 63))
	got.Count = int(number(last, 10, 63)) - int(got.LSN) + 1
	got.LogChecksum = uint32(number(parts[7], 16, 32))
	if committed := number(parts[8], 10, 63); committed != 0 {
		got.Committed = time.Unix(0, int64(committed)).UTC()
	}
	if err != nil || got.String() != string(text) { // one spelling, of what an append can get
		return bad("a field has no value that it can have")
	}
	*r = got
	return nil
}

// A ReceiptVerdict is what becomes of a receipt.
type ReceiptVerdict uint8

// The verdicts on receipts.
const (
	ReceiptProven       ReceiptVerdict = iota + 1 // the volume has exactly what it says
	ReceiptContradicted                           // it has something else, or nothing where it would have it
	ReceiptGone                                   // truncated, or deleted with the log: it cannot be proven any more
	ReceiptLost                                   // damage took what would prove it
	ReceiptRewound                                // a rewind has discarded it since, or the end of it
)

// String names a verdict.
func (v ReceiptVerdict) String() string {
	switch v {
	case ReceiptProven:
		return "proven"
	case ReceiptContradicted:
		return "contradicted"
	case ReceiptGone:
		return "gone"
	case ReceiptLost:
		return "lost"
	case ReceiptRewound:
		return "rewound"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// A ReceiptFinding is a verdict with its reasons.
type ReceiptFinding struct {
	Verdict ReceiptVerdict
	Field   string // that is contradicted, as walsvc.v1.Receipt names it; empty unless one is
	Detail  string // one sentence for people
	// Committed is the commit time that the service has; zero unless the receipt is
	// proven, or contradicted by it.
	Committed time.Time
}

// VerifyReceipt asks whether the service's volume has what a receipt says, wherever
// its records lie by now. That it does not is a finding and no error. It returns
// ErrInvalid for a receipt that no append got, and ErrReadFailed.
func (c *Client) VerifyReceipt(ctx context.Context, r Receipt) (ReceiptFinding, error) {
	if why := r.invalid(); why != "" {
		return ReceiptFinding{}, fmt.Errorf("verify receipt: %w: %s", ErrInvalid, why)
	}
	req := &walsvcv1.Receipt{
		VolumeId: r.Volume.String(), LogId: r.Log.String(), Log: r.Name, Epoch: r.Epoch,
		FirstLsn: uint64(r.LSN), LastLsn: uint64(r.last()), ThroughLsn: uint64(r.Through), LogChecksum: r.LogChecksum,
	}
	if !r.Committed.IsZero() {
		req.CommitTime = uint64(r.Committed.UnixNano())
	}
	resp, err := c.adminService.VerifyReceipt(ctx, &walsvcv1.VerifyReceiptRequest{Receipt: req})
	if err != nil {
		return ReceiptFinding{}, called(err, "verify receipt of LSN %d of log %q", r.LSN, r.Name)
	}
	f := ReceiptFinding{Verdict: ReceiptVerdict(resp.GetVerdict()), Field: resp.GetField(), Detail: resp.GetDetail()}
	if resp.GetCommitTime() != 0 {
		f.Committed = time.Unix(0, int64(resp.GetCommitTime())).UTC()
	}
	return f, nil
}
