package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/certify"
)

func TestCertifyJSON(t *testing.T) {
	dir := t.TempDir()
	stdout, _, code := invoke(t.Context(), "certify", dir, "-o", "json")
	report := keys(t, json.RawMessage(stdout), "dir", "verdict", "words", "place", "findings", "sync_us", "cut", "tested", "not_tested")
	var r certify.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	// What the verdict is depends on where temporary files are; that it and the
	// exit code agree does not.
	if r.Verdict.Bad() != (code != exitOK) || len(r.Words) == 0 || len(r.Findings) == 0 || string(report["cut"]) != "null" {
		t.Errorf("exit %d: %s", code, stdout)
	}
	if r.Place != nil {
		keys(t, report["place"], "file_system", "source", "mount_point", "root", "options", "devices", "kernel", "boot")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCertifyLosses prints what was lost, as a table and as the exit code.
func TestCertifyLosses(t *testing.T) {
	lost := certify.Loss{Cut: 2, Lane: "files", Kind: certify.Lost, What: "slot-1: it is not there"}
	r := &certify.Report{Dir: "/d", Verdict: certify.Dishonest, Cut: &certify.CutResult{
		Kind: certify.KindPower, Cuts: 2, Lost: 1, Lanes: []certify.LaneResult{{Lane: "files", Acknowledged: 1234, Lost: 1}}, Losses: []certify.Loss{lost},
	}}
	var b strings.Builder
	for _, g := range (certifyResult{r}).tables() {
		if err := g.write(&b, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"dishonest", "Cuts (power): 2", "1,234", "slot-1: it is not there", "never synced"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	b.Reset()
	long := certify.Finding{Check: "mount option", Level: certify.Suspicion, Detail: strings.Repeat("as long as it takes ", 20)}
	for _, g := range (certifyResult{&certify.Report{Findings: []certify.Finding{long}}}).tables() {
		if err := g.write(&b, false); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 81 {
			t.Errorf("wider than a terminal: %s", line)
		}
	}
	if n := strings.Count(b.String(), "long"); n != 20 {
		t.Errorf("%d of 20 are left of\n%s", n, b.String())
	}
	for verdict, want := range map[certify.Verdict]int{
		certify.Dishonest: exitDamage, certify.Unfit: exitFailed, certify.Inconclusive: exitFailed,
		certify.Certified: exitOK, certify.Suspect: exitOK, certify.NothingFound: exitOK,
	} {
		root, g := newRoot()
		g.started = true
		if code := g.report(root, verdictOf(&certify.Report{Verdict: verdict})); code != want {
			t.Errorf("%s: exit %d, want %d", verdict, code, want)
		}
		if verdict.Bad() != (want != exitOK) {
			t.Errorf("%s: bad %t and exit %d", verdict, verdict.Bad(), want)
		}
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	report := keys(t, raw, "dir", "verdict", "words", "place", "findings", "sync_us", "cut", "tested", "not_tested")
	cut := keys(t, report["cut"], "kind", "cuts", "acknowledged", "checked", "lost", "torn", "reappeared", "unsynced", "dropped",
		"gentle", "restarted", "lanes", "losses")
	var lanes, losses []json.RawMessage
	if err := json.Unmarshal(cut["lanes"], &lanes); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(cut["losses"], &losses); err != nil {
		t.Fatal(err)
	}
	keys(t, lanes[0], "lane", "acknowledged", "checked", "lost", "torn", "reappeared")
	keys(t, losses[0], "cut", "lane", "kind", "what")
}

func TestCertifyRefusals(t *testing.T) {
	dir := t.TempDir()
	earlier := t.TempDir()
	if err := os.Mkdir(filepath.Join(earlier, certify.Home), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"nothing", nil, exitUsage, "want a directory or --listen"},
		{"two", []string{dir, "--listen", "localhost:0"}, exitUsage, "want a directory or --listen"},
		{"unknown cut", []string{dir, "--cut", "plug"}, exitUsage, "--cut plug: must be shutdown"},
		{"no cuts", []string{dir, "--cut", "shutdown", "--cuts", "0"}, exitUsage, "--cuts 0"},
		{"time for nothing", []string{dir, "--for", "1s"}, exitUsage, "--for is for"},
		{"two ways", []string{dir, "--cut", "shutdown", "--witness", "-"}, exitUsage, "none of the others can be"},
		{"missing directory", []string{"/nonexistent/walsvc"}, exitFailed, "no such file"},
		{"no mount", []string{dir, "--cut", "shutdown"}, exitFailed, "cannot be shut down"},
		{"no run", []string{dir, "--after", "record"}, exitNotFound, "no run left anything here"},
		{"no witness", []string{dir, "--witness", "nowhere"}, exitFailed, "witness"},
		{"an earlier run", []string{earlier, "--witness", "-"}, exitFailed, "compare it with --after, or remove"},
		{"nowhere to listen", []string{"--listen", "nowhere"}, exitFailed, "nowhere"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, code := invoke(t.Context(), append([]string{"certify"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.says) || stdout != "" {
				t.Errorf("exit %d, want %d; printed %q and %q, want %q", code, tc.code, stdout, stderr, tc.says)
			}
		})
	}
}
