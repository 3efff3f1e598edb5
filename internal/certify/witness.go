package certify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// ErrNoRecord says that a witness knows nothing of a run.
var ErrNoRecord = errors.New("the witness has no record of that run")

// errProtocol says that somebody else than this package is at the other end.
var errProtocol = errors.New("no record of walctl certify")

// What is said to a witness, in lines of text:
//
//	walsvc-certify 1 acks RUN       whoever runs the load, and then as it goes on
//	blocks 4711                     what each lane was last acknowledged
//	journal-0 12
//	walsvc-certify 1 record RUN     whoever wants to know; the witness answers with
//	blocks 4711                     such lines, and then
//	end                             or, instead of all, "unknown"
//
// What runs the load never waits for an answer, so the same lines may go into a
// file or a pipe. It is in the clear and nobody has to prove who he is: it is for
// a network, or a tunnel, that one trusts.
const (
	hello        = "walsvc-certify 1 "
	helloAcks    = hello + "acks "
	helloRecord  = hello + "record "
	lineEnd      = "end"
	lineUnknown  = "unknown"
	witnessDelay = 10 * time.Second // that an answer may take
)

// A Record is what a witness heard of a run.
type Record struct {
	Run   ulid.ULID         `json:"run"`
	Acked map[string]uint64 `json:"acked"` // the last step acknowledged of each lane
}

// hear takes in a line on a lane. Lanes that there are not are an error: what
// strangers send takes no memory.
func (r *Record) hear(line string) error {
	lane, number, _ := strings.Cut(line, " ")
	step, err := strconv.ParseUint(number, 10, 64)
	if err != nil || !slices.Contains(laneNames, lane) {
		return fmt.Errorf("%w: line %q", errProtocol, line)
	}
	r.Acked[lane] = max(r.Acked[lane], step)
	return nil
}

func newRecord(line, prefix string) (*Record, error) {
	id, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return nil, fmt.Errorf("%w: it begins with %q", errProtocol, line)
	}
	run, err := ulid.ParseStrict(id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return &Record{Run: run, Acked: map[string]uint64{}}, nil
}

// scanLines returns a scanner of whole lines: one without its newline was cut
// off, and the number on it with it. A line over limits.MaxWitnessLine is an error.
func scanLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, limits.MaxWitnessLine), limits.MaxWitnessLine)
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		n, line, err := bufio.ScanLines(data, false)
		if atEOF && n == 0 {
			return len(data), nil, err
		}
		return n, line, err
	})
	return s
}

// ReadRecord reads what Witnessed wrote, from a file for example.
func ReadRecord(from io.Reader) (*Record, error) {
	s := scanLines(from)
	if !s.Scan() {
		return nil, errors.Join(s.Err(), fmt.Errorf("%w: it is empty", errProtocol))
	}
	r, err := newRecord(s.Text(), helloAcks)
	if err != nil {
		return nil, err
	}
	for s.Scan() {
		if err := r.hear(s.Text()); err != nil {
			return nil, err
		}
	}
	return r, s.Err()
}

// FetchRecord asks the witness at an address for a run. It returns ErrNoRecord
// if there is none.
func FetchRecord(ctx context.Context, addr string, run ulid.ULID) (_ *Record, err error) {
	ctx, cancel := context.WithTimeout(ctx, witnessDelay)
	defer cancel()
	c, err := DialWitness(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if _, err := fmt.Fprintf(c, "%s%s\n", helloRecord, run); err != nil {
		return nil, err
	}
	r := &Record{Run: run, Acked: map[string]uint64{}}
	s := scanLines(c)
	for s.Scan() {
		switch line := s.Text(); line {
		case lineEnd:
			return r, nil
		case lineUnknown:
			return nil, fmt.Errorf("witness %s: run %s: %w", addr, run, ErrNoRecord)
		default:
			if err := r.hear(line); err != nil {
				return nil, fmt.Errorf("witness %s: %w", addr, err)
			}
		}
	}
	return nil, fmt.Errorf("witness %s: %w", addr, errors.Join(s.Err(), io.ErrUnexpectedEOF))
}

// DialWitness connects to a witness.
func DialWitness(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessDelay)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	return c, nil
}

// A Witness keeps records in memory, limits.MaxWitnessRuns of them, for those
// whose own memory is about to go.
type Witness struct {
	mu      sync.Mutex
	records map[ulid.ULID]*Record
}

// NewWitness returns a witness that knows nothing.
func NewWitness() *Witness { return &Witness{records: map[ulid.ULID]*Record{}} }

// Records returns what was heard so far, by run.
func (w *Witness) Records() (records []Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.records {
		records = append(records, Record{r.Run, maps.Clone(r.Acked)})
	}
	slices.SortFunc(records, func(a, b Record) int { return a.Run.Compare(b.Run) })
	return records
}

// Serve listens until ctx ends, and closes the listener and every connection. Of
// what goes wrong with one connection nobody is told but its other end.
func (w *Witness) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	room := make(chan struct{}, limits.MaxWitnessConnections)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errors.Join(fmt.Errorf("witness: %w", err), ln.Close())
		}
		wg.Go(func() {
			defer func() { <-room }()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			_ = w.converse(c) // a connection that breaks is what a witness is for
			_ = c.Close()
		})
	}
}

// converse listens to one connection, or answers it.
func (w *Witness) converse(c net.Conn) error {
	s := scanLines(c)
	if !s.Scan() {
		return s.Err()
	}
	if strings.HasPrefix(s.Text(), helloRecord) {
		asked, err := newRecord(s.Text(), helloRecord)
		if err != nil {
			return err
		}
		_, err = io.WriteString(c, w.answer(asked.Run))
		return err
	}
	r, err := newRecord(s.Text(), helloAcks)
	if err != nil {
		return err
	}
	w.mu.Lock()
	if have := w.records[r.Run]; have != nil {
		r = have // it lost its connection and came back
	} else if len(w.records) < limits.MaxWitnessRuns {
		w.records[r.Run] = r
	} else {
		err = errors.New("too many runs")
	}
	w.mu.Unlock()
	for err == nil && s.Scan() {
		w.mu.Lock()
		err = r.hear(s.Text())
		w.mu.Unlock()
	}
	return errors.Join(err, s.Err())
}

// answer spells what is known of a run.
func (w *Witness) answer(run ulid.ULID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.records[run]
	if r == nil {
		return lineUnknown + "\n"
	}
	return spell(nil, r.Acked) + lineEnd + "\n"
}

// spell returns the lines on the lanes that are not where they were.
func spell(was, is map[string]uint64) string {
	var b strings.Builder
	for _, lane := range slices.Sorted(maps.Keys(is)) {
		if step := is[lane]; was == nil || step != was[lane] {
			fmt.Fprintf(&b, "%s %d\n", lane, step)
		}
	}
	return b.String()
}
