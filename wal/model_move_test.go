package wal

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/limits"
)

// acknowledged keeps the receipt of a batch, so that it can be asked for when its
// records have been moved.
func (m *modelLog) acknowledged(v *Volume, log string, epoch Epoch, first LSN, count uint32, sum Checksum, committed int64) {
	const kept = 8
	info, err := v.Log(log)
	if err != nil {
		return // the comparison says so
	}
	last := first + LSN(count) - 1
	if len(m.receipts) == kept {
		m.receipts = append(m.receipts[:1], m.receipts[2:]...) // the oldest one stays, as long as it says anything
	}
	m.receipts = append(m.receipts, Receipt{
		Volume: v.ID(), Log: info.ID, Name: log, Epoch: epoch, First: first, Last: last, Through: last, Checksum: sum, Committed: committed,
	})
}

// A modelView is what clients see of a log: of what nobody may give up, everything.
type modelView struct {
	Info     LogInfo
	Records  []string
	Findings []ReceiptFinding
	Claims   []string
	Times    []LSN    // that the commit times of receipts lead to, if older records are kept
	Since    []string // the records from the last of these on
	Cursor   Cursor
	Repeat   string
	State    string
}

// view looks at a log.
func (m *modelLog) view(t *testing.T, v *Volume, name string) (s modelView) {
	t.Helper()
	info, err := v.Log(name)
	if err == nil {
		s.Records, err = readSpan(v, name, m.most)
	}
	if err != nil {
		t.Fatalf("log %q: %v", name, err)
	}
	info.First, info.LiveBytes = 0, 0 // what is below the floor may go at any time
	s.Info = info
	oldest := int64(math.MaxInt64) // commit time of what is certainly kept
	for _, r := range m.receipts {
		if r.First <= m.most {
			continue
		}
		found, err := v.VerifyReceipt(r)
		if err != nil {
			t.Fatalf("log %q: receipt %+v: %v", name, r, err)
		}
		claim := v.CheckClaim(name, Claim{Log: r.Log, Epoch: r.Epoch, LSN: r.Last, Checksum: r.Checksum})
		s.Findings, s.Claims = append(s.Findings, found), append(s.Claims, fmt.Sprint(claim))
		if found.Verdict == ReceiptProven {
			oldest = min(oldest, r.Committed)
		}
		if oldest >= r.Committed {
			continue // what came before may be gone at any time, and is then not known to be older
		}
		at, err := v.At(name, time.Unix(0, r.Committed))
		if err != nil {
			t.Fatalf("log %q: since the commit of receipt %+v: %v", name, r, err)
		}
		s.Times = append(s.Times, at)
		if rd, err := v.NewReader(name, ReadOptions{FromTime: time.Unix(0, r.Committed)}); err == nil {
			s.Since = nil
			spans, err := drain(rd)
			for _, span := range spans { // which are others now: records that lie in one block come together
				recs, serr := split(span.Run)
				for i, rec := range recs {
					s.Since = append(s.Since, fmt.Sprintf("%d in epoch %d: %s", span.First+LSN(i), span.Epoch, rec))
				}
				err = errors.Join(err, serr)
			}
			if rd.Close(); err != nil {
				t.Fatalf("log %q since %d: %v", name, r.Committed, err)
			}
		}
	}
	if m.cur != nil {
		if s.Cursor, err = v.Cursor(name, "reader"); err != nil {
			t.Fatalf("log %q: %v", name, err)
		}
		s.Cursor.Lag = 0 // goes on
	}
	if p := m.producer; p != nil && len(p.batches) > 0 {
		got, err := v.Append(t.Context(), name, p.id, m.states(), Batch{
			Sequence: uint64(len(p.batches)), Incarnation: p.incarnation, Run: run(p.batches[len(p.batches)-1].rec),
		})
		s.Repeat = fmt.Sprintf("%d in epoch %d, %08x, repeated: %t, %v", got.First, got.Epoch, got.Checksum, got.Repeated, err)
	}
	if m.cps > 0 {
		cp, err := v.Checkpoint(t.Context(), name, "cp")
		if err != nil {
			t.Fatalf("log %q: %v", name, err)
		}
		s.State = fmt.Sprintf("%d: %x", cp.LSN, cp.State)
	}
	return s
}

// modelMove has logs moved that are no stragglers, as the janitor would, and wants
// nothing changed that clients can see. It returns how many were.
func modelMove(t *testing.T, v *Volume, model map[string]*modelLog) (moved int) {
	t.Helper()
	// One of its own, without a goroutine: the volume's goes on beside it.
	j := &janitor{v: v, unmovable: map[uint64]LSN{}}
	j.quit = t.Context()
	before := map[string]modelView{}
	var some []straggler
	var size int64
	batches := 0
	var from moveSource
	for name, m := range model {
		before[name] = m.view(t, v, name)
		v.mu.RLock()
		number := v.durable.named(name).number
		v.mu.RUnlock()
		s, ok, err := j.movable(number)
		if err == nil && ok {
			ok, err = j.collect(&s, &from)
		}
		if err != nil {
			t.Fatalf("log %q: move its records: %v", name, err)
		}
		if !ok || size+s.size > j.moveTakes() || batches+len(s.moves) > limits.MaxMovedBatches {
			continue
		}
		some, size, batches = append(some, s), size+s.size, batches+len(s.moves)
	}
	if len(some) == 0 {
		return 0
	}
	if err := j.moveTogether(some, size); err != nil {
		t.Fatal(err)
	}
	for _, s := range some {
		if s.from == s.next {
			continue // it has nothing
		}
		if end, _ := copiesOf(v, s.name); end != s.next {
			t.Fatalf("log %q ends at LSN %d, its copies do at %d", s.name, s.next-1, end-1)
		}
		moved++
	}
	defer func() {
		if t.Failed() {
			t.FailNow()
		}
	}()
	for name, m := range model {
		was, is := reflect.ValueOf(before[name]), reflect.ValueOf(m.view(t, v, name))
		for i := range was.NumField() {
			if was, is := was.Field(i).Interface(), is.Field(i).Interface(); !reflect.DeepEqual(was, is) {
				t.Errorf("log %q, which may have been moved, is seen with another %s: %.999s; it was %.999s", name,
					reflect.TypeFor[modelView]().Field(i).Name, fmt.Sprintf("%+v", is), fmt.Sprintf("%+v", was))
			}
		}
	}
	return moved
}
