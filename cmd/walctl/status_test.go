package main

import (
	"bytes"
	"strings"
	"testing"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func TestStatusSaysWhatIsWrong(t *testing.T) {
	damaged := &walsvcv1.GetStatusResponse{
		State: walsvcv1.VolumeState_VOLUME_STATE_READ_ONLY, Detail: "damaged",
		Recovery: &walsvcv1.Recovery{Verdict: "damaged", Case: "promised", Damage: []*walsvcv1.Damage{{
			File: "0000000000000007.wal", Offset: 4096, Case: "block", Detail: "wrong checksum",
			Logs: []*walsvcv1.DamagedLog{{Log: "orders", FirstLsn: 3, LastLsn: 9}},
		}}},
	}
	for _, test := range []struct {
		name   string
		status *walsvcv1.GetStatusResponse
		code   int
		says   []string // parts of the table
	}{
		{"serving", &walsvcv1.GetStatusResponse{
			State: walsvcv1.VolumeState_VOLUME_STATE_SERVING, Records: 500, Syncs: 4, RawBytes: 3000, StoredBytes: 1000,
		}, exitOK, []string{"serving", "records per sync   125.00", "3.00 to 1"}},
		{"damaged", damaged, exitDamage, []string{"read_only: damaged", "0000000000000007.wal", "0x1000", "block: wrong checksum", "log orders", "LSN 3 to 9"}},
		{"poisoned", &walsvcv1.GetStatusResponse{State: walsvcv1.VolumeState_VOLUME_STATE_POISONED, Detail: "sync failed"},
			exitUnavailable, []string{"poisoned: sync failed"}},
		{"full", &walsvcv1.GetStatusResponse{State: walsvcv1.VolumeState_VOLUME_STATE_FULL}, exitUnavailable, []string{"full"}},
		{"draining", &walsvcv1.GetStatusResponse{State: walsvcv1.VolumeState_VOLUME_STATE_DRAINING}, exitUnavailable, []string{"draining"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newStatusResult(&walsvcv1.GetServerInfoResponse{Version: "v1"}, test.status)
			g := &globals{format: formatTable, started: true}
			code := exitOK
			if err := r.failure(); err != nil {
				code = g.explain(err).code
			}
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			var out bytes.Buffer
			for _, table := range r.tables() {
				if err := table.write(&out, false); err != nil {
					t.Fatal(err)
				}
			}
			for _, part := range test.says {
				if !strings.Contains(out.String(), part) {
					t.Errorf("it does not say %q:\n%s", part, out.String())
				}
			}
		})
	}
}
