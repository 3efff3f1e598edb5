package linear

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	sdk "github.com/walsvc/walsvc/client"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// A receipt is what an append was acknowledged with.
type receipt struct {
	Volume, ID, Name     string
	Epoch                uint64
	First, Last, Through uint64
	Sum                  uint32
	Committed            int64
	// Of is the log that it is of, which ID is unless somebody has changed it.
	Of string
}

// The verdicts on receipts, as a client spells them.
var (
	proven       = sdk.ReceiptProven.String()
	contradicted = sdk.ReceiptContradicted.String()
	gone         = sdk.ReceiptGone.String()
	wasRewound   = sdk.ReceiptRewound.String()
)

// receiptOf returns the receipt that an answer to an append is, if it is one.
func receiptOf(in *input, out *output) (r receipt, ok bool) {
	if in.Kind != appendRecords || !out.succeeded() || out.First == 0 || out.Volume == "" || out.Sum == nil {
		return r, false
	}
	return receipt{
		Volume: out.Volume, ID: out.ID, Of: out.ID, Name: in.Log, Epoch: out.Epoch, First: out.First, Last: out.First + out.Count - 1,
		Through: out.Through, Sum: *out.Sum, Committed: out.Committed,
	}, true
}

// twisted returns the receipt with one field changed, so that somebody lies.
func (r receipt) twisted(rng *rand.Rand) (lie receipt, field string) {
	fields := []string{"volume_id", "log_id", "log", "epoch", "through_lsn", "log_checksum"}
	if r.First > 1 {
		fields = append(fields, "first_lsn")
	}
	if r.Committed != 0 {
		fields = append(fields, "commit_time")
	}
	switch field = fields[rng.IntN(len(fields))]; field {
	case "volume_id":
		r.Volume = ulid.Make().String()
	case "log_id":
		r.ID = ulid.Make().String()
	case "log":
		r.Name = "nowhere"
	case "epoch":
		r.Epoch++
	case "through_lsn":
		r.Through += 1 + rng.Uint64N(3)
	case "log_checksum":
		r.Sum ^= 1 << rng.IntN(32)
	case "first_lsn":
		r.First--
	case "commit_time":
		r.Committed++
	}
	return r, field
}

// stepVerify: the questions in the order in which the service asks them. Of a log that
// was deleted nothing can be said, but that another one had its name by then.
func (s *state) stepVerify(in *input, out *output) (*state, bool) {
	r := in.Receipt
	is := func(verdict, field string) bool { return out.Verdict == verdict && out.Field == field }
	own := s.exists && s.id == r.Of
	switch {
	case !out.succeeded():
		return nil, false
	case in.Twist == "volume_id":
		return s, is(contradicted, "volume_id")
	case own && in.Twist == "log_id" && s.created != 0 && s.created < r.Committed: // not at once, if the clock stood
		return s, is(contradicted, "log_id")
	case !own || in.Twist == "log_id":
		return s, is(gone, "")
	case in.Twist == "log":
		return s, is(contradicted, "log")
	}
	if c := s.since(r.Epoch); c != nil && r.Through > c.kept {
		return s, is(wasRewound, "")
	}
	if is(gone, "") {
		return s.narrowed(r.Through+1, s.high)
	}
	n, ok := s.narrowed(s.low, r.Through)
	switch last := s.at(r.Through); {
	case !ok:
		return nil, false
	case last == nil: // beyond the end, since it is not below the beginning
		return n, is(contradicted, "last_lsn")
	case last.epoch != r.Epoch:
		return n, is(contradicted, "epoch")
	case last.sum != r.Sum:
		return n, is(contradicted, "log_checksum")
	case r.First < last.batch && is(contradicted, "first_lsn"):
		return n.narrowed(n.low, last.batch-1)
	case r.First < last.batch: // the batch is not kept whole
		n, ok = n.narrowed(last.batch, n.high)
		if !ok {
			return nil, false
		}
		fallthrough
	default:
		if in.Twist == "commit_time" {
			return n, is(contradicted, "commit_time") && out.Committed == r.Committed-1
		}
		return n, is(proven, "") && out.Committed != 0 && (r.Committed == 0 || r.Committed == out.Committed)
	}
}

// keep keeps some of the receipts of a log, old ones among them.
func (v *view) keep(r receipt, rng *rand.Rand) {
	const most = 24
	if len(v.receipts) < most {
		v.receipts = append(v.receipts, r)
	} else if rng.IntN(4) == 0 {
		v.receipts[rng.IntN(most)] = r
	}
}

// kept returns the receipts that are kept.
func (v *view) kept() []receipt {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.receipts)
}

// verify has one of the receipts verified, at times one that is a lie.
func (c *rawClient) verify() {
	kept := c.view.kept()
	if len(kept) == 0 {
		return
	}
	r, field := kept[c.rng.IntN(len(kept))], ""
	if c.rng.IntN(3) == 0 {
		r, field = r.twisted(c.rng)
	}
	c.verifyAs(r, field)
}

func (c *rawClient) verifyAs(r receipt, field string) output {
	return c.call(input{Kind: verifyReceipt, Receipt: &r, Twist: field}, func(ctx context.Context) (output, error) {
		resp, err := c.admin.VerifyReceipt(ctx, &walsvcv1.VerifyReceiptRequest{Receipt: &walsvcv1.Receipt{
			VolumeId: r.Volume, LogId: r.ID, Log: r.Name, Epoch: r.Epoch, FirstLsn: r.First, LastLsn: r.Last, ThroughLsn: r.Through,
			LogChecksum: r.Sum, CommitTime: uint64(r.Committed),
		}})
		return output{
			Verdict: sdk.ReceiptVerdict(resp.GetVerdict()).String(), Field: resp.GetField(), Committed: int64(resp.GetCommitTime()),
		}, err
	})
}

// verifyText verifies a receipt through the SDK, as text that somebody kept.
func (c *sdkClient) verifyText() {
	kept := c.view.kept()
	if len(kept) == 0 {
		return
	}
	r := kept[c.rng.IntN(len(kept))]
	text, err := (sdk.Receipt{
		Volume: ulid.MustParse(r.Volume), Log: ulid.MustParse(r.ID), Name: r.Name, Epoch: r.Epoch, LSN: sdk.LSN(r.First),
		Count: int(r.Last - r.First + 1), Through: sdk.LSN(r.Through), LogChecksum: r.Sum, Committed: timeOf(r.Committed),
	}).MarshalText()
	var read sdk.Receipt
	if err == nil {
		err = read.UnmarshalText(text)
	}
	if err != nil {
		c.w.fail("log %s: receipt %+v: %w", c.log, r, err)
		return
	}
	c.call(input{Kind: verifyReceipt, Receipt: &r}, func(*sdk.Log) (output, error) {
		ctx, cancel := c.bound()
		defer cancel()
		f, err := c.logs.VerifyReceipt(ctx, read)
		return output{Verdict: f.Verdict.String(), Field: f.Field, Committed: nanoseconds(f.Committed)}, err
	})
}

// audit verifies receipts against a volume that nobody serves, as an operator does.
func (w *world) audit(dir string) {
	w.t.Helper()
	for _, log := range logs {
		c := w.newClient("auditor", log)
		kept := c.view.kept()
		for range min(len(kept), 2) {
			r, field := kept[c.rng.IntN(len(kept))], ""
			if c.rng.IntN(3) == 0 {
				r, field = r.twisted(c.rng)
			}
			end := c.begin(input{Kind: verifyReceipt, Receipt: &r, Twist: field})
			f, err := wal.VerifyReceiptIn(w.ctx, dir, wal.Receipt{
				Volume: ulid.MustParse(r.Volume), Log: ulid.MustParse(r.ID), Name: r.Name, Epoch: wal.Epoch(r.Epoch), First: wal.LSN(r.First),
				Last: wal.LSN(r.Last), Through: wal.LSN(r.Through), Checksum: wal.Checksum(r.Sum), Committed: r.Committed,
			})
			if err != nil {
				w.t.Fatal(err)
			}
			end(output{Verdict: f.Verdict.String(), Field: f.Field, Committed: f.Committed})
		}
	}
}

// timeOf returns a time in nanoseconds since 1970 as one, and nanoseconds the other way
// round; 0 is no time.
func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
