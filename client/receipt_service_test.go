package client_test

import (
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
)

// TestReceipts keeps the receipts of appends that travel in batches of the client's
// own making, and has the service prove each.
func TestReceipts(t *testing.T) {
	ctx := t.Context()
	_, c := open(t)
	l := create(t, c, "log", client.LogOptions{})
	began := time.Now()
	futures := make([]*client.Future, 50)
	for i := range futures {
		futures[i] = l.AppendAsync(ctx, []byte{byte(i)})
	}
	for i, f := range futures {
		r, err := f.Wait(ctx)
		if err != nil || r.LSN != client.LSN(i+1) || r.Name != "log" || r.Committed.Before(began.Add(-time.Minute)) || r.Committed.After(time.Now().Add(time.Minute)) {
			t.Fatalf("%+v, %v", r, err)
		}
		text, err := r.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var kept client.Receipt
		if err := kept.UnmarshalText(text); err != nil || kept != r {
			t.Fatalf("%s: %+v, %v", text, kept, err)
		}
		found, err := c.VerifyReceipt(ctx, kept)
		if err != nil || found.Verdict != client.ReceiptProven || !found.Committed.Equal(r.Committed) {
			t.Errorf("%s: %+v, %v", text, found, err)
		}
		if kept.LogChecksum++; i%10 == 0 {
			if found, err := c.VerifyReceipt(ctx, kept); err != nil || found.Verdict != client.ReceiptContradicted || found.Field != "log_checksum" {
				t.Errorf("%s: %+v, %v", text, found, err)
			}
		}
	}
	if _, err := c.VerifyReceipt(ctx, client.Receipt{}); err == nil {
		t.Error("a receipt of nothing is verified")
	}
}
