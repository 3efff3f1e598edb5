package bench

import (
	"sync"

	"github.com/walsvc/walsvc/testdata"
)

// documents are all documents behind each other, each with a newline.
var documents = sync.OnceValue(func() []byte {
	var all []byte
	for d := range testdata.Documents() {
		all = append(append(all, d...), '\n')
	}
	return all
})

// A Cutter cuts records of one size from the documents, one behind the other
// and from the front again at the end, so that no two that are in flight at
// once are alike. Records alias one shared buffer and must not be changed.
// Cutters are independent of each other; one is for one goroutine.
type Cutter struct {
	from     []byte
	size, at int
}

// NewCutter returns the i-th of n cutters that begin evenly spread over the
// documents. size is in bytes, from 1 to limits.MaxRecordSize.
func NewCutter(size, i, n int) *Cutter {
	all := documents()
	return &Cutter{from: all, size: size, at: len(all) / n * i}
}

// Next returns the next record. It allocates nothing.
func (c *Cutter) Next() []byte {
	if c.at+c.size > len(c.from) {
		c.at = 0
	}
	record := c.from[c.at : c.at+c.size : c.at+c.size]
	c.at += c.size
	return record
}
