package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

func sampleReceipt() Receipt {
	return Receipt{
		Volume: ulid.MustParse("01ARZ3NDEKTSV4RRFFQ69G5FAV"), Log: ulid.MustParse("01BX5ZZKBKACTAV9WEVGEMMVRZ"), Name: "orders/7",
		Epoch: 3, LSN: 41, Count: 2, LogChecksum: 0x8f3a21c0, Through: 44, Committed: time.Unix(1763668208, 123456789).UTC(),
	}
}

// withSum gives a receipt's text the checksum that it should have.
func withSum(text string) string {
	return fmt.Sprintf("%s:%08x", text, crc32.Checksum([]byte(text), castagnoli))
}

func TestReceiptAsText(t *testing.T) {
	r := sampleReceipt()
	unknown, largest := r, r
	unknown.Committed, unknown.LSN, unknown.Count, unknown.Through = time.Time{}, 1, 1, 1
	largest.Epoch, largest.LSN, largest.Count, largest.Through, largest.LogChecksum = 1<<64-1, 1<<63-2, 1, 1<<63-1, 1<<32-1
	largest.Name, largest.Committed = strings.Repeat("n", 255), time.Unix(0, 1<<63-1).UTC()
	for _, tc := range []struct {
		r    Receipt
		text string
	}{
		{r, withSum("walsvc-receipt-1:01ARZ3NDEKTSV4RRFFQ69G5FAV:01BX5ZZKBKACTAV9WEVGEMMVRZ:orders/7:3:41-42:44:8f3a21c0:1763668208123456789")},
		{unknown, withSum("walsvc-receipt-1:01ARZ3NDEKTSV4RRFFQ69G5FAV:01BX5ZZKBKACTAV9WEVGEMMVRZ:orders/7:3:1-1:1:8f3a21c0:0")},
		{largest, withSum("walsvc-receipt-1:01ARZ3NDEKTSV4RRFFQ69G5FAV:01BX5ZZKBKACTAV9WEVGEMMVRZ:" + largest.Name +
			":18446744073709551615:9223372036854775806-9223372036854775806:9223372036854775807:ffffffff:9223372036854775807")},
	} {
		if got := tc.r.String(); got != tc.text {
			t.Errorf("%+v is\n%q, want\n%q", tc.r, got, tc.text)
		}
		b, err := json.Marshal(tc.r)
		if err != nil {
			t.Fatal(err)
		}
		got := Receipt{Repeated: true}
		if err := json.Unmarshal(b, &got); err != nil || got != tc.r {
			t.Errorf("%s is\n%+v, %v; want\n%+v", b, got, err, tc.r)
		}
	}
	again := r
	if again.Repeated = true; again.String() != r.String() {
		t.Error("a repeat is spelled another way")
	}
}

// TestReceiptTypos changes every character of a receipt, leaves one out, and doubles
// it: all of that is told from what another receipt says.
func TestReceiptTypos(t *testing.T) {
	text := sampleReceipt().String()
	refuse := func(typo string) {
		t.Helper()
		got := sampleReceipt()
		if err := got.UnmarshalText([]byte(typo)); !errors.Is(err, ErrInvalid) || got != sampleReceipt() {
			t.Errorf("%q is %+v, %v", typo, got, err)
		}
	}
	for i := range text {
		for _, c := range []byte("0Aa:-") {
			if text[i] != c {
				refuse(text[:i] + string(c) + text[i+1:])
			}
		}
		refuse(text[:i] + text[i+1:])
		refuse(text[:i] + text[i:i+1] + text[i:])
		refuse(text[:i])
	}
	body := text[:strings.LastIndexByte(text, ':')]
	for _, lie := range []string{ // with the checksum that they would have
		strings.Replace(body, ":3:", ":03:", 1), strings.Replace(body, ":3:", ":0:", 1), strings.Replace(body, ":3:", ":+3:", 1),
		strings.Replace(body, "41-42", "42-41", 1), strings.Replace(body, "41-42", "0-42", 1), strings.Replace(body, "41-42", "41", 1),
		strings.Replace(body, "41-42", "41-45", 1), strings.Replace(body, ":44:", ":9223372036854775808:", 1),
		strings.Replace(body, "8f3a21c0", "8F3A21C0", 1), strings.Replace(body, "8f3a21c0", "f3a21c0", 1),
		strings.Replace(body, "orders/7", "", 1), strings.Replace(body, "orders/7", "orders 7", 1), strings.Replace(body, "orders/7", strings.Repeat("n", 256), 1),
		strings.Replace(body, "orders/7", strings.Repeat("n", 9999), 1), strings.Replace(body, "01ARZ3NDEKTSV4RRFFQ69G5FAV", "00000000000000000000000000", 1),
		strings.Replace(body, "01BX5ZZKBKACTAV9WEVGEMMVRZ", "01bx5zzkbkactav9wevgemmvrz", 1), strings.Replace(body, "receipt-1", "receipt-2", 1),
		body + ":1", strings.TrimSuffix(body, ":1763668208123456789"), strings.Replace(body, "1763668208123456789", "9223372036854775808", 1),
		" " + body, body + " ",
	} {
		refuse(withSum(lie))
	}
	refuse("")
	refuse(text + "\n")
	for _, none := range []func(r *Receipt){
		func(r *Receipt) { *r = Receipt{} }, func(r *Receipt) { r.Name = "a:b" }, func(r *Receipt) { r.Count = 0 }, func(r *Receipt) { r.Count = 5 },
		func(r *Receipt) { r.LSN = 45 }, func(r *Receipt) { r.Epoch = 0 }, func(r *Receipt) { r.Committed = time.Unix(0, -1) },
		func(r *Receipt) { r.Committed = time.Unix(1<<40, 0) },
	} {
		r := sampleReceipt()
		none(&r)
		if b, err := r.MarshalText(); !errors.Is(err, ErrInvalid) || r.String() != "" {
			t.Errorf("%+v is spelled %q, %v", r, b, err)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	r := sampleReceipt()
	f.Add(r.String())
	r.Committed, r.Name = time.Time{}, "n"
	f.Add(r.String())
	f.Add(withSum("walsvc-receipt-1:01ARZ3NDEKTSV4RRFFQ69G5FAV:01BX5ZZKBKACTAV9WEVGEMMVRZ:n:1:1-18446744073709551615:1:00000000:0"))
	f.Add(withSum("walsvc-receipt-1:::::-:::"))
	f.Add("walsvc-receipt-1:::::::::")
	f.Fuzz(func(t *testing.T, text string) {
		for _, text := range []string{text, withSum(text), withSum(strings.TrimSuffix(text, ":00000000"))} {
			var r Receipt
			err := r.UnmarshalText([]byte(text))
			if err != nil {
				if !errors.Is(err, ErrInvalid) || r != (Receipt{}) {
					t.Fatalf("%q: %+v, %v", text, r, err)
				}
				continue
			}
			if again, err := r.MarshalText(); err != nil || string(again) != text {
				t.Fatalf("accepted %q, which is spelled %q, %v", text, again, err)
			}
		}
	})
}
