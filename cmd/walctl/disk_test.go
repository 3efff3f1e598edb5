package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// invoke runs walctl in this process and returns what it printed and its exit code.
func invoke(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root, g := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	code = g.report(root, root.ExecuteContext(ctx))
	return out.String(), errs.String(), code
}

// keys fails the test unless a JSON object has exactly these keys, and returns it.
func keys(t *testing.T, raw json.RawMessage, want ...string) map[string]json.RawMessage {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatalf("no JSON object: %v: %s", err, raw)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(object)); !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
	return object
}

func TestDiskJSON(t *testing.T) {
	dir := t.TempDir()
	stdout, stderr, code := invoke(t.Context(), "disk", dir, "-o", "json", "--duration", "1ns", "--space", "256KiB")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	report := keys(t, json.RawMessage(stdout), "dir", "cells", "verdict")
	keys(t, report["verdict"], "overwrite_gain", "best_overwrite_gain", "preallocate_gain", "direct_gain", "best_direct_gain",
		"lone_append_us", "free_size", "sync_too_fast", "words")
	var cells []json.RawMessage
	if err := json.Unmarshal(report["cells"], &cells); err != nil || len(cells) != 32 {
		t.Fatalf("%d cells, want 8 sizes x 4 modes: %v", len(cells), err)
	}
	first := keys(t, cells[0], "mode", "size", "syncs", "syncs_per_second", "bytes_per_second", "latency_us")
	keys(t, first["latency_us"], "p50", "p99", "p999")
	keys(t, cells[31], "mode", "size", "syncs", "syncs_per_second", "bytes_per_second", "latency_us", "skipped")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDiskTable(t *testing.T) {
	dir := t.TempDir()
	stdout, stderr, code := invoke(t.Context(), "disk", dir, "--duration", "1ns", "--space", "256KiB")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, want := range []string{"4 KiB ", "64 MiB ", "appended", "preallocated", "overwritten", "direct", "not enough space", "\n- A lone append pays"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(stdout, dir, "DIR")) { // where that is, is the user's affair
		if len([]rune(line)) > 80 {
			t.Errorf("wider than a terminal: %s", line)
		}
	}
}

func TestDiskRefusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no directory", []string{"disk"}, exitUsage, "walctl disk DIR"},
		{"missing directory", []string{"disk", "/nonexistent/walsvc"}, exitFailed, "no such file"},
		{"no time", []string{"disk", ".", "--duration", "0s"}, exitUsage, "--duration"},
		{"no space", []string{"disk", ".", "--space", "0"}, exitUsage, "--space"},
		{"no size", []string{"disk", ".", "--space", "much"}, exitUsage, "is no size"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, code := invoke(t.Context(), tc.args...)
			if code != tc.code || !strings.Contains(stderr, tc.says) || stdout != "" {
				t.Errorf("exit %d, want %d; printed %q and %q, want %q", code, tc.code, stdout, stderr, tc.says)
			}
		})
	}
}

func TestDiskInterrupted(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, stderr, code := invoke(ctx, "disk", dir); code != exitInterrupted {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSizeFlag(t *testing.T) {
	for text, want := range map[string]sizeFlag{
		"0": 0, "400": 400, "400B": 400, "4k": 4096, "4KiB": 4096, "64 MiB": 64 << 20, "2G": 2 << 30, "1tb": 1 << 40,
	} {
		var s sizeFlag
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%q is %d, %v; want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "k", "-1", "4x", "1.5M", "99999999999999999999", "9000000000G", "4KiBs"} {
		var s sizeFlag
		if err := s.Set(text); err == nil {
			t.Errorf("%q was taken for %d", text, s)
		}
	}
}
