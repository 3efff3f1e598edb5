// Package records spells a run of records: the bytes that travel from a
// client's batch through a block on disk to a reader without being taken apart.
//
// Each record is the byte 0x0A, its length as a minimal unsigned varint, and
// its bytes. That is, byte for byte, how protobuf encodes
//
//	message Records { repeated bytes record = 1; }
//
// so a client in any language reads and writes runs with its own protobuf
// library, two runs put behind each other are a run, and the engine needs no
// protobuf: to it this is its own framing.
package records

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/walsvc/walsvc/internal/limits"
)

// tag begins every record.
const tag = 0x0A

// ErrMalformed is returned for bytes that are not a run of records.
var ErrMalformed = errors.New("malformed run of records")

// Append appends one record to a run and returns the longer run.
func Append(run, record []byte) []byte { return append(AppendHead(run, len(record)), record...) }

// AppendHead appends what comes before a record of n bytes in a run: with the record
// behind it, it is what Append makes.
func AppendHead(run []byte, n int) []byte { return binary.AppendUvarint(append(run, tag), uint64(n)) }

// Size returns the bytes a record of n bytes takes in a run.
func Size(n int) int {
	size := 2 + n
	for v := uint64(n) >> 7; v != 0; v >>= 7 {
		size++
	}
	return size
}

// Next takes the first record off a non-empty run. The record aliases the run.
// It returns ErrMalformed if the run does not begin with a whole record whose
// length is minimally spelled.
func Next(run []byte) (record, rest []byte, err error) {
	if len(run) < 2 || run[0] != tag {
		return nil, nil, ErrMalformed
	}
	if n := int(run[1]); n < 0x80 { // the common short record, inline
		if len(run)-2 < n {
			return nil, nil, ErrMalformed
		}
		return run[2 : 2+n : 2+n], run[2+n:], nil
	}
	n, k := binary.Uvarint(run[1:])
	if k <= 0 || k > 1 && run[k] == 0 || n > uint64(len(run)-1-k) {
		return nil, nil, ErrMalformed
	}
	end := 1 + k + int(n)
	return run[1+k : end : end], run[end:], nil
}

// Check walks a run and returns how many records it holds. It returns an error
// that Is ErrMalformed for bytes that are no run, and a *TooLargeError for a
// record over limits.MaxRecordSize or maxRecord, if that is lower and not zero.
func Check(run []byte, maxRecord int) (count int, err error) {
	if maxRecord <= 0 || maxRecord > limits.MaxRecordSize {
		maxRecord = limits.MaxRecordSize
	}
	for len(run) > 0 {
		record, rest, err := Next(run)
		if err != nil {
			return count, fmt.Errorf("record %d: %w", count, err)
		}
		if len(record) > maxRecord {
			return count, &TooLargeError{Record: count, Size: len(record), Limit: maxRecord}
		}
		run = rest
		count++
	}
	return count, nil
}

// Skip returns the run without its first n records. It returns ErrMalformed if
// the run has fewer.
func Skip(run []byte, n int) ([]byte, error) {
	for ; n > 0; n-- {
		_, rest, err := Next(run)
		if err != nil {
			return nil, err
		}
		run = rest
	}
	return run, nil
}

// A TooLargeError names the record that is over a limit.
type TooLargeError struct {
	Record int // its place in the run, from 0
	Size   int // its size in bytes
	Limit  int // the limit in bytes
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("record %d of the batch has %d bytes, the limit is %d", e.Record, e.Size, e.Limit)
}
