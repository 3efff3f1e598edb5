package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/proofs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPowerCut is the proof in short: five cuts of an honest disk lose nothing,
// five of a disk that lies lose something.
func TestPowerCut(t *testing.T) {
	proofs.Need(t, proofs.FUSE)
	dir, err := os.MkdirTemp("", "powercut-") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(string(mounts), dir) {
			t.Error("a mount is left behind")
		}
	})
	binary, err := build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	results, err := proof(t.Context(), options{cuts: 5, control: 5, direct: 5, perDisk: 5, clients: 3, seed: 1, binary: binary, dir: dir}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := verdict(results); err != nil {
		t.Errorf("%v\n%+v", err, results)
	}
	if r := results[0]; r.Cuts != 5 || r.Syncs == 0 || r.Renames == 0 {
		t.Errorf("nothing happened: %+v", r)
	}
}

// TestCompare breaks each promise once.
func TestCompare(t *testing.T) {
	var units []*unit
	var all []found
	// promise fills a ledger: units 1 to 3 acknowledged, the second a batch of
	// two, and unit 4 pending.
	promise := func() *ledger {
		l := newLedger()
		l.created("log")
		units, all = nil, nil
		at := uint64(1)
		for n, count := range []int{1, 2, 1, 2} {
			u := l.submitted("log", unitID{1, uint64(n + 1)}, count)
			if n < 3 {
				l.acknowledged(u, at)
			}
			units = append(units, u)
			for i := range count {
				all = append(all, found{at, record(recordID{u.id, i, count})})
				at++
			}
		}
		return l
	}
	promise()
	other := found{1, record(recordID{unitID{9, 9}, 0, 1})}
	flipped := found{1, append([]byte{}, all[0].data...)}
	flipped.data[len(flipped.data)-1] ^= 1
	for _, tc := range []struct {
		name    string
		records []found
		first   uint64
		want    tally
	}{
		{"all", all, 1, tally{}},
		{"without the pending one", all[:4], 1, tally{}},
		{"the last acknowledged one is missing", all[:3], 1, tally{Lost: 1}},
		{"none", nil, 1, tally{Lost: 4}},
		{"the first is cut off", all[1:], 2, tally{Lost: 1}},
		{"half of the pending batch", all[:5], 1, tally{Garbage: 1}},
		{"half of an acknowledged batch, and a hole", append(append([]found{}, all[:2]...), all[3]), 1, tally{Lost: 1, Garbage: 1}},
		{"one of another", append([]found{other}, all[1:]...), 1, tally{Lost: 1, Garbage: 1}},
		{"other bytes", append([]found{flipped}, all[1:]...), 1, tally{Lost: 1, Garbage: 1}},
		{"twice", append(append([]found{}, all...), found{7, all[0].data}), 1, tally{Lost: 1, Garbage: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := promise().compare("log", true, tc.first, tc.records, t.Logf); got != tc.want {
				t.Errorf("found %+v, want %+v", got, tc.want)
			}
		})
	}

	t.Run("not there", func(t *testing.T) {
		if got := promise().compare("log", false, 1, nil, t.Logf); got != (tally{Lost: 5}) {
			t.Errorf("found %+v", got)
		}
	})
	t.Run("back again", func(t *testing.T) {
		l := promise()
		if got := l.compare("log", true, 1, all[:4], t.Logf); !got.clean() {
			t.Errorf("found %+v", got)
		}
		if got := l.compare("log", true, 1, all, t.Logf); got != (tally{Reappeared: 2}) {
			t.Errorf("found %+v", got)
		}
	})
	t.Run("read once and gone", func(t *testing.T) {
		l := promise()
		if got := l.compare("log", true, 1, all, t.Logf); !got.clean() {
			t.Errorf("found %+v", got)
		}
		if got := l.compare("log", true, 1, all[:4], t.Logf); got != (tally{Lost: 2}) {
			t.Errorf("found %+v", got)
		}
	})
	t.Run("truncated", func(t *testing.T) {
		l := promise()
		l.truncating("log", 4)
		if got := l.compare("log", true, 2, all[1:], t.Logf); !got.clean() {
			t.Errorf("asked for: found %+v", got)
		}
		l.truncated("log", 4)
		if got := l.compare("log", true, 4, all[3:], t.Logf); !got.clean() {
			t.Errorf("acknowledged: found %+v", got)
		}
		if got := l.compare("log", true, 1, all, t.Logf); got != (tally{Reappeared: 1}) {
			t.Errorf("undone: found %+v", got)
		}
	})
}

// TestVerdict checks what fails.
func TestVerdict(t *testing.T) {
	good := result{Subject: service, Judged: true, Cuts: 10, Acknowledged: 5}
	for _, tc := range []struct {
		name string
		r    func(*result)
		ok   bool
	}{
		{"good", func(*result) {}, true},
		{"lost", func(r *result) { r.Lost = 1 }, false},
		{"back", func(r *result) { r.Reappeared = 1 }, false},
		{"garbage", func(r *result) { r.Garbage = 1 }, false},
		{"refused", func(r *result) { r.Refused = 1 }, false},
		{"failed", func(r *result) { r.Failed = 1 }, false},
		{"idle", func(r *result) { r.Acknowledged = 0 }, false},
		{"gentle", func(r *result) { r.Disk, r.CutsWithLoss = "lying", 4 }, false},
		{"a peer lost", func(r *result) { r.Judged, r.Lost = false, 1 }, true},
		{"rough", func(r *result) { r.Disk, r.CutsWithLoss, r.Lost = "lying", 5, 9 }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := good
			tc.r(&r)
			if err := verdict([]result{r}); (err == nil) != tc.ok {
				t.Errorf("verdict %v", err)
			}
		})
	}
}

// TestShow prints results in each format for people.
func TestShow(t *testing.T) {
	results := []result{
		{Subject: service, Judged: true, Disk: "strict", Cuts: 200, tally: tally{Lost: 1}, Acknowledged: 1234567, CutsWithLoss: 1,
			Examples: []string{"cut 7: a record\nis lost"}, Evidence: []string{"/here"}},
		{Subject: "peer", Version: "1.2", Disk: "journaling", Cuts: 20, Acknowledged: 999, Refused: 2,
			Examples: []string{"cut 1: refused to start\nloading\nthe end of the log is bad\n"}},
		{Subject: service, Judged: true, Disk: "lying", Cuts: 20, Examples: []string{"as it should be"}},
		{Subject: "other", Absent: "no such program"},
	}
	const absent = "other: not cut, for it is not here: no such program\n"
	for format, want := range map[string]string{
		"table": `subject        disk  cuts  acknowledged  lost  cuts with loss  refused to start  reappeared  garbage  failed under load  while opening  seconds
    walsvc      strict   200     1,234,567     1               1                 0           0        0                  0              0      0.0
  peer 1.2  journaling    20           999     0               0                 2           0        0                  0              0      0.0
    walsvc       lying    20             0     0               0                 0           0        0                  0              0      0.0
walsvc, strict: cut 7: a record
is lost
walsvc: disk before it was started: /here
peer, journaling: cut 1: refused to start: ... the end of the log is bad
` + absent,
		"markdown": `| subject | disk | cuts | acknowledged | lost | cuts with loss | refused to start | reappeared | garbage | failed under load | while opening | seconds |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| walsvc | strict | 200 | 1,234,567 | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 0.0 |
| peer 1.2 | journaling | 20 | 999 | 0 | 0 | 2 | 0 | 0 | 0 | 0 | 0.0 |
| walsvc | lying | 20 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0.0 |

` + absent,
	} {
		t.Run(format, func(t *testing.T) {
			var out strings.Builder
			if err := formats[format](&out, results); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(out.String()) + "\n"; got != want {
				t.Errorf("it prints\n%s\nwant\n%s", got, want)
			}
		})
	}
}
