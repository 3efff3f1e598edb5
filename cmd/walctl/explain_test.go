package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/server"
)

// offline runs a command that needs no service and returns what it printed.
func offline(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := newRootCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestExplain: every reason of the table is explained, in words and as JSON.
func TestExplain(t *testing.T) {
	all, err := offline(t, "explain")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range server.Table {
		if !strings.Contains(all, row.Reason) {
			t.Errorf("the list has no %s", row.Reason)
		}
		text, err := offline(t, "explain", strings.ReplaceAll(strings.ToLower(row.Reason), "_", "-"))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{row.Reason, row.Means, row.Hint, row.Effect.String(), row.Retried, row.Code.String()} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: it does not say %q:\n%s", row.Reason, part, text)
			}
		}
		object, err := offline(t, "explain", row.Reason, "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Reasons []reasonResult }
		if err := json.Unmarshal([]byte(object), &got); err != nil || len(got.Reasons) != 1 || got.Reasons[0] != newReasonResult(row) {
			t.Errorf("%s as JSON: %v\n%s", row.Reason, err, object)
		}
	}
	if _, err := offline(t, "explain", "BOGUS"); err == nil || (&globals{started: true}).explain(err).code != exitUsage {
		t.Errorf("of a reason that is none it says %v", err)
	}
}
