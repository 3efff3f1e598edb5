package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spoil changes a byte of the fixed volume's only segment.
func spoil(t *testing.T, dir string, offset int64) {
	t.Helper()
	path := filepath.Join(dir, "0000000000000001.wal")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[offset] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

var verifyKeys = []string{"dir", "verdict", "case", "detail", "segments", "gaps", "frames", "records", "durable_frame", "discarded_bytes", "damage", "lost"}

func TestVerifyClean(t *testing.T) {
	dir := fixedVolume(t)
	stdout, stderr, code := invoke(t.Context(), "verify", dir, "-o", "json")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	got := keys(t, json.RawMessage(stdout), verifyKeys...)
	for key, want := range map[string]string{
		"verdict": `"clean"`, "frames": "8", "records": "109", "durable_frame": "7", "discarded_bytes": "0", "damage": "[]", "segments": "1",
	} {
		if string(got[key]) != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
	}
	stdout, _, code = invoke(t.Context(), "verify", dir)
	if code != exitOK || !strings.Contains(stdout, "clean") || strings.Contains(stdout, "Damage") {
		t.Errorf("exit %d:\n%s", code, stdout)
	}
}

func TestVerifyDamaged(t *testing.T) {
	dir := fixedVolume(t)
	const frame = 0x3000 // 100 records of log users
	spoil(t, dir, frame+128+5)
	stdout, stderr, code := invoke(t.Context(), "verify", dir, "-o", "json")
	if code != exitDamage || !strings.Contains(stderr, "is damaged") || !strings.Contains(stderr, "next: copy the volume") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	got := keys(t, json.RawMessage(stdout), verifyKeys...)
	if string(got["verdict"]) != `"damaged"` || string(got["records"]) != "9" {
		t.Errorf("verdict %s, %s records", got["verdict"], got["records"])
	}
	var damage []json.RawMessage
	if err := json.Unmarshal(got["damage"], &damage); err != nil || len(damage) != 1 {
		t.Fatalf("damage %s: %v", got["damage"], err)
	}
	d := keys(t, damage[0], "file", "offset", "sequence", "case", "detail", "logs", "repaired")
	if string(d["file"]) != `"0000000000000001.wal"` || string(d["offset"]) != "12288" || string(d["sequence"]) != "3" {
		t.Errorf("damage %s", damage[0])
	}
	var logs []json.RawMessage
	if err := json.Unmarshal(d["logs"], &logs); err != nil || len(logs) != 1 {
		t.Fatalf("logs %s: %v", d["logs"], err)
	}
	l := keys(t, logs[0], "log", "first_lsn", "last_lsn")
	if string(l["log"]) != `"users"` || string(l["first_lsn"]) != "51" || string(l["last_lsn"]) != "100" {
		t.Errorf("log %s, want what is not truncated of users 1 to 100", logs[0])
	}

	stdout, _, _ = invoke(t.Context(), "verify", dir)
	golden(t, "verify-damaged.txt", strings.ReplaceAll(stdout, dir, "VOLUME"))
	if stdout, _, code := invoke(t.Context(), "dump", dir, "--frames"); code != exitDamage || strings.Count(stdout, " BAD") != 1 {
		t.Errorf("dump: exit %d:\n%s", code, stdout)
	}
}

func TestVerifyTorn(t *testing.T) {
	dir := fixedVolume(t)
	const last = 0x8000 // the last promise: what it promises is promised by nobody else
	spoil(t, dir, last+40)
	stdout, stderr, code := invoke(t.Context(), "verify", dir)
	if code != exitOK || stderr != "" || !strings.Contains(stdout, "torn") {
		t.Errorf("exit %d: %s\n%s", code, stderr, stdout)
	}
}

func TestVerifyRefusals(t *testing.T) {
	for _, args := range [][]string{{t.TempDir()}, {"/nonexistent/walsvc"}} {
		if _, stderr, code := invoke(t.Context(), append([]string{"verify"}, args...)...); code != exitNotFound || !strings.Contains(stderr, "next: name the directory") {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
}
