package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// TestContractIsTheReadme: the promises are those that README.md makes and
// docs/durability.md proves, by the same numbers.
func TestContractIsTheReadme(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, part, _ := strings.Cut(read("README.md"), "\n## What it promises\n")
	part, _, _ = strings.Cut(part, "\n## ")
	made := regexp.MustCompile(`(?m)^(\d+)\. (.*)$`).FindAllStringSubmatch(part, -1)
	if len(made) != len(promises) {
		t.Errorf("README.md makes %d promises, walctl contract has %d", len(made), len(promises))
	}
	proofs := read("docs/durability.md")
	for i, p := range promises {
		if i < len(made) && (made[i][1] != fmt.Sprint(i+1) || made[i][2] != p.text) {
			t.Errorf("README.md promises\n%s\nand walctl contract\n%s", made[i][0], p.text)
		}
		if !regexp.MustCompile(fmt.Sprintf("(?m)^\\| %d \\| .* \\| .*`.* \\|$", i+1)).MatchString(proofs) {
			t.Errorf("docs/durability.md has no proofs of promise %d", i+1)
		}
	}
	if !strings.Contains(proofs, "\n## The promises\n") {
		t.Errorf("docs/durability.md has no section for %s", contractProof)
	}
}

// TestContractSaysHowItIs looks at services in every state.
func TestContractSaysHowItIs(t *testing.T) {
	info := &walsvcv1.GetServerInfoResponse{Version: "v1", Codec: "s2", Direct: "never", Limits: []*walsvcv1.Limit{
		{Name: "ProducerWindow", Value: 64, Unit: "count"}, {Name: "IdlePromiseDelay", Value: 50, Unit: "ms"},
	}}
	direct := &walsvcv1.GetServerInfoResponse{Direct: "always"}
	in := func(state walsvcv1.VolumeState) *walsvcv1.GetStatusResponse {
		return &walsvcv1.GetStatusResponse{State: state, Recovery: &walsvcv1.Recovery{Verdict: "clean", Case: "promised"}}
	}
	damaged := in(walsvcv1.VolumeState_VOLUME_STATE_READ_ONLY)
	damaged.Recovery = &walsvcv1.Recovery{Verdict: "damaged", Case: "damaged-header", Damage: []*walsvcv1.Damage{{}, {}}}
	stalled := in(walsvcv1.VolumeState_VOLUME_STATE_DISK_STALLED)
	stalled.Stall = &walsvcv1.Stall{Operation: "sync 7.wal", BeginTime: timestamppb.Now()}
	repaired := in(walsvcv1.VolumeState_VOLUME_STATE_SERVING)
	repaired.LostRecords = 1234
	full := in(walsvcv1.VolumeState_VOLUME_STATE_FULL)
	full.Detail = "no room"
	const k, p, b = promiseKept, promisePaused, promiseBroken
	paused := []string{p, p, k, k, k, k, k, p, p, k, k}
	for _, tc := range []struct {
		name   string
		info   *walsvcv1.GetServerInfoResponse
		status *walsvcv1.GetStatusResponse
		states []string
		says   map[int]string
	}{
		{"serving", info, in(walsvcv1.VolumeState_VOLUME_STATE_SERVING), []string{k, k, k, k, k, k, k, k, k, k, k},
			map[int]string{1: "through the page cache", 3: "clean (promised)", 7: "50ms after", 8: "last 64 batches", 11: "2 bounds"}},
		{"direct", direct, in(walsvcv1.VolumeState_VOLUME_STATE_SERVING), nil, map[int]string{1: "past the page cache"}},
		{"repaired", info, repaired, nil, map[int]string{1: "1,234 records were given up"}},
		{"damaged", info, damaged, []string{b, p, b, k, k, k, k, p, p, k, k},
			map[int]string{1: "in 2 places", 3: "DATA_LOSS", 5: "nothing was written", 7: "2 damaged places"}},
		{"poisoned", info, in(walsvcv1.VolumeState_VOLUME_STATE_POISONED), paused, map[int]string{1: "poisoned", 6: "until a restart"}},
		{"stalled", info, stalled, paused, map[int]string{1: "disk_stalled", 4: "sync 7.wal"}},
		{"full", info, full, paused, map[int]string{1: "full", 10: "no room"}},
		{"draining", info, in(walsvcv1.VolumeState_VOLUME_STATE_DRAINING), paused, map[int]string{1: "draining"}},
	} {
		r := newContractResult(tc.info, tc.status)
		for i, got := range r.Promises {
			if got.Number != i+1 || tc.states != nil && got.State != tc.states[i] {
				t.Errorf("%s: promise %d is %s, want %s", tc.name, i+1, got.State, tc.states[i])
			}
			if !strings.Contains(got.Now, tc.says[i+1]) {
				t.Errorf("%s: of promise %d it does not say %q: %s", tc.name, i+1, tc.says[i+1], got.Now)
			}
		}
		if text := written(t, r); !strings.Contains(text, promises[10].text) || !strings.Contains(text, r.Promises[10].Now) {
			t.Errorf("%s: the table has not all of it:\n%s", tc.name, text)
		}
	}
}

// written returns a result's tables as they are printed.
func written(t *testing.T, r result) string {
	t.Helper()
	var out strings.Builder
	for _, table := range r.tables() {
		if err := table.write(&out, false); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}
