package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/wal"
)

// receiptResult is what `walctl verify-receipt` prints.
type receiptResult struct {
	Verdict     string     `json:"verdict"`
	Field       string     `json:"field"`
	Detail      string     `json:"detail"`
	VolumeID    string     `json:"volume_id"`
	LogID       string     `json:"log_id"`
	Log         string     `json:"log"`
	Epoch       uint64     `json:"epoch"`
	FirstLSN    client.LSN `json:"first_lsn"`
	LastLSN     client.LSN `json:"last_lsn"`
	ThroughLSN  client.LSN `json:"through_lsn"`
	LogChecksum string     `json:"log_checksum"`
	CommitTime  *time.Time `json:"commit_time"`
	Found       *time.Time `json:"found_commit_time"`
}

func newReceiptResult(r client.Receipt, f client.ReceiptFinding) receiptResult {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return receiptResult{
		Verdict: f.Verdict.String(), Field: f.Field, Detail: f.Detail,
		VolumeID: r.Volume.String(), LogID: r.Log.String(), Log: r.Name, Epoch: r.Epoch,
		FirstLSN: r.LSN, LastLSN: r.LSN + client.LSN(r.Count) - 1, ThroughLSN: r.Through,
		LogChecksum: fmt.Sprintf("%08x", r.LogChecksum), CommitTime: at(r.Committed), Found: at(f.Committed),
	}
}

func (r receiptResult) tables() []grid {
	verdict := r.Verdict
	if r.Field != "" {
		verdict += " (" + r.Field + ")"
	}
	committed := any("not said")
	if r.CommitTime != nil {
		committed = r.CommitTime.Format(time.RFC3339Nano)
	}
	rows := [][]any{
		{"verdict", mood{verdict, r.Verdict != client.ReceiptProven.String()}},
		{"", r.Detail},
		{"volume", r.VolumeID},
		{"log", fmt.Sprintf("%s (%s)", r.Log, r.LogID)},
		{"records", fmt.Sprintf("LSN %d to %d of epoch %d", r.FirstLSN, r.LastLSN, r.Epoch)},
		{"checksum", fmt.Sprintf("%s behind LSN %d", r.LogChecksum, r.ThroughLSN)},
		{"committed", committed},
	}
	if r.Found != nil && (r.CommitTime == nil || !r.Found.Equal(*r.CommitTime)) {
		rows = append(rows, []any{"by the volume", r.Found.Format(time.RFC3339Nano)})
	}
	return []grid{{rows: rows}}
}

// receiptFailures are the exit codes and next steps of what is not proven.
var receiptFailures = map[client.ReceiptVerdict]failure{
	client.ReceiptContradicted: {code: exitContradicts, next: "see whether the receipt was changed, and whether the volume is the one that gave it, not an older copy"},
	client.ReceiptGone:         {code: exitGone, next: "look for the records where they were kept before they were given up"},
	client.ReceiptRewound:      {code: exitRewound, next: "see with walctl log get which epoch the log is in, and ask whoever rewound it"},
	client.ReceiptLost:         {code: exitDamage, next: "run walctl verify on the volume"},
}

func newVerifyReceiptCommand(g *globals) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "verify-receipt RECEIPT",
		Short: "Say whether a volume still has what a receipt says",
		Long: fmt.Sprintf(`Prove a receipt, the line of text that a client kept of an append, against the
volume of a service, or, with --volume, against the one in a directory: that
takes no lock and writes nothing, so the volume may be in use.

The verdict is proven; contradicted, and by which field: the receipt was tampered
with, or the volume has another history, as one restored from an older copy has;
gone: the records were truncated or their log deleted; rewound: they were
discarded on purpose; or lost to damage. The exit code is 0 for proven, %d for
contradicted, %d for gone, %d for rewound and %d for lost; a receipt that is not
spelled right is wrong usage.

JSON: verdict, field (empty unless one is contradicted), detail, volume_id,
log_id, log, epoch, first_lsn, last_lsn, through_lsn, log_checksum (eight hex
digits), commit_time (RFC 3339; null if the receipt does not say),
found_commit_time (that the volume has; null if it was not looked up).`, exitContradicts, exitGone, exitRewound, exitDamage),
		Example: `  walctl verify-receipt "$(cat order-4711.receipt)"
  walctl verify-receipt "$(cat order-4711.receipt)" --volume /var/lib/walsvc -o json`,
		GroupID:           groupOnline,
		Args:              exactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&dir, "volume", "", "look at the volume in this `directory`, and not at a service's")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r client.Receipt
		if err := r.UnmarshalText([]byte(args[0])); err != nil {
			return &failure{code: exitUsage, err: err, next: "copy the whole line, from walsvc-receipt-1 on"}
		}
		told := func(f client.ReceiptFinding, err error) error {
			if err != nil {
				return err
			}
			if err := g.print(cmd, newReceiptResult(r, f)); err != nil || f.Verdict == client.ReceiptProven {
				return err
			}
			why := receiptFailures[f.Verdict]
			why.err = fmt.Errorf("the receipt is %s", f.Verdict)
			return &why
		}
		if dir == "" {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error { return told(c.VerifyReceipt(ctx, r)) })
		}
		return told(verifyReceiptIn(cmd.Context(), dir, r))
	}
	return cmd
}

// verifyReceiptIn is Client.VerifyReceipt on the volume in a directory.
func verifyReceiptIn(ctx context.Context, dir string, r client.Receipt) (client.ReceiptFinding, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return client.ReceiptFinding{}, err
	}
	in := wal.Receipt{
		Volume: r.Volume, Log: r.Log, Name: r.Name, Epoch: wal.Epoch(r.Epoch), First: wal.LSN(r.LSN),
		Last: wal.LSN(r.LSN) + wal.LSN(r.Count) - 1, Through: wal.LSN(r.Through), Checksum: wal.Checksum(r.LogChecksum),
	}
	if !r.Committed.IsZero() {
		in.Committed = r.Committed.UnixNano()
	}
	f, err := wal.VerifyReceiptIn(ctx, dir, in)
	if err != nil {
		return client.ReceiptFinding{}, explainVolume(err)
	}
	out := client.ReceiptFinding{Verdict: client.ReceiptVerdict(f.Verdict), Field: f.Field, Detail: f.Detail}
	if f.Committed != 0 {
		out.Committed = time.Unix(0, f.Committed).UTC()
	}
	return out, nil
}
