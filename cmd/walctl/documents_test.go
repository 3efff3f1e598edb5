package main

import (
	"encoding/json"
	"testing"

	"github.com/walsvc/walsvc/testdata"
)

func TestDocuments(t *testing.T) {
	var n int
	keys := make(map[string]bool, testdata.DocumentCount)
	for line := range testdata.Documents() {
		var d struct {
			Op, Key string
			Doc     json.RawMessage
		}
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatalf("document %d: %v", n, err)
		}
		if d.Op != "put" || d.Key == "" || len(d.Doc) == 0 || keys[d.Key] {
			t.Fatalf("document %d: op %q, key %q (seen: %t), %d bytes", n, d.Op, d.Key, keys[d.Key], len(d.Doc))
		}
		keys[d.Key] = true
		n++
	}
	if n != testdata.DocumentCount {
		t.Fatalf("%d documents, want %d", n, testdata.DocumentCount)
	}
}

func TestDocumentsStopsEarly(t *testing.T) {
	var n int
	for range testdata.Documents() {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Fatalf("%d documents after a break at the third", n)
	}
}
