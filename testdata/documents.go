// Package testdata holds the documents that walsvc is demonstrated, measured
// and tested with; documents.md says what they are and where they come from.
package testdata

import (
	"bufio"
	"bytes"
	_ "embed"
	"fmt"
	"iter"

	"github.com/klauspost/compress/zstd"
)

// DocumentCount is how many documents there are.
const DocumentCount = 20968

//go:embed documents.jsonl.zst
var documents []byte

// Documents returns the documents in their order, each one line of JSON
// without the newline. A document may be kept; nobody else refers to its
// bytes. It panics if the embedded file is damaged, which only a broken build
// can be.
func Documents() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		d, err := zstd.NewReader(bytes.NewReader(documents), zstd.WithDecoderConcurrency(1))
		if err != nil {
			panic(fmt.Sprintf("testdata: open documents: %v", err))
		}
		defer d.Close()
		lines := bufio.NewScanner(d)
		for lines.Scan() {
			if !yield(bytes.Clone(lines.Bytes())) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			panic(fmt.Sprintf("testdata: read documents: %v", err))
		}
	}
}
