package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/docstore"
)

// ledgerBench is a ledger of one log with two sessions that took turns: records 1 to
// 6 at LSN 1 to 6, the last one not acknowledged.
type ledgerBench struct {
	*ledger
	records [][]byte // by LSN-1
	entries []*entry
}

func newLedgerBench() *ledgerBench {
	b := &ledgerBench{ledger: newLedger(1, []docEntry{{"a", []byte("1")}, {"b", []byte("2")}})}
	for i := range 6 {
		b.submitNext(uint64(i%2+1), uint64(i/2+1), i%2)
	}
	for i, e := range b.entries[:5] {
		b.ack(0, e, uint64(i+1))
	}
	return b
}

func (b *ledgerBench) submitNext(session, number uint64, doc int) {
	d := b.docs[doc]
	op := docstore.Op{Kind: docstore.Put, Session: session, Number: number, Key: d.key, Doc: d.doc}
	record := op.AppendTo(nil)
	b.records = append(b.records, record)
	b.entries = append(b.entries, b.submit(0, op, doc))
}

// read reads records at dense LSNs from an LSN on.
func (b *ledgerBench) read(from uint64, records ...[]byte) {
	r := b.begin(0, from, b.lastAcked(0))
	for i, data := range records {
		r.record(from+uint64(i), data)
	}
	r.end()
}

func TestLedgerFinds(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(b *ledgerBench)
		want tally // acked is 5 unless set
		hint string
	}{
		{
			name: "nothing, when all is there",
			do:   func(b *ledgerBench) { b.read(1, b.records...) },
			want: tally{recovered: 5},
		},
		{
			name: "nothing, when what was not acknowledged is not there",
			do:   func(b *ledgerBench) { b.read(1, b.records[:5]...) },
			want: tally{recovered: 5},
		},
		{
			name: "nothing, when the acknowledgement comes after the reading",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.ack(0, b.entries[5], 6)
			},
			want: tally{acked: 6, recovered: 6},
		},
		{
			name: "nothing, when what was read before is acknowledged during a reading",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.submitNext(1, 4, 0)
				b.ack(0, b.entries[6], 7) // has overtaken the one in front of it
				r := b.begin(0, 1, b.lastAcked(0))
				for i, data := range b.records {
					r.record(uint64(i+1), data)
				}
				b.ack(0, b.entries[5], 6)
				r.end()
			},
			want: tally{acked: 7, recovered: 7},
		},
		{
			name: "nothing, when what was read before is truncated",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.read(4, b.records[3:]...)
			},
			want: tally{recovered: 5},
		},
		{
			name: "a lost record at the end",
			do:   func(b *ledgerBench) { b.read(1, b.records[:4]...) },
			want: tally{recovered: 4, findings: findings{}, lost: 1},
			hint: "lost: log 0, LSN 5: session 1's operation 3: acknowledged and not there",
		},
		{
			name: "everything lost",
			do:   func(b *ledgerBench) { b.read(1) },
			want: tally{lost: 5},
		},
		{
			name: "a record that was read once and is lost later",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.read(1, b.records[:4]...)
			},
			want: tally{recovered: 4, lost: 1},
		},
		{
			name: "a lost record whose LSN another one took",
			do:   func(b *ledgerBench) { b.read(1, b.records[0], b.records[1], b.records[2], b.records[3], b.records[5]) },
			want: tally{recovered: 4, lost: 1, findings: findings{outOfOrder: 1}},
			hint: "session 1's operation 3 was acknowledged here",
		},
		{
			name: "a lost record in the middle, the LSN left out",
			do: func(b *ledgerBench) {
				r := b.begin(0, 1, b.lastAcked(0))
				for _, lsn := range []uint64{1, 2, 4, 5, 6} {
					r.record(lsn, b.records[lsn-1])
				}
				r.end()
			},
			want: tally{recovered: 4, lost: 1, findings: findings{outOfOrder: 2}}, // the LSN and the session's hole
			hint: "LSN 3 had to come",
		},
		{
			name: "a duplicated record",
			do:   func(b *ledgerBench) { b.read(1, append(slices.Clone(b.records), b.records[1])...) },
			want: tally{recovered: 5, findings: findings{duplicated: 1}},
			hint: "duplicated: log 0, LSN 7: session 2's operation 1: also at LSN 2",
		},
		{
			name: "a duplicate once, however often it is read",
			do: func(b *ledgerBench) {
				twice := append(slices.Clone(b.records), b.records[1])
				b.read(1, twice...)
				b.read(1, twice...)
				b.read(3, twice[2:]...)
			},
			want: tally{recovered: 5, findings: findings{duplicated: 1}},
		},
		{
			name: "two records in each other's place",
			do: func(b *ledgerBench) {
				b.read(1, b.records[0], b.records[2], b.records[1], b.records[3], b.records[4])
			},
			want: tally{recovered: 3, findings: findings{outOfOrder: 2}},
			hint: "acknowledged at LSN 3",
		},
		{
			name: "a duplicate of what is truncated by now",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.read(4, append(slices.Clone(b.records[3:]), b.records[1])...)
			},
			want: tally{recovered: 5, findings: findings{duplicated: 1}},
		},
		{
			name: "a duplicate of what is forgotten",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.forget(0, 4)
				b.read(4, append(slices.Clone(b.records[3:]), b.records[1])...)
			},
			want: tally{recovered: 5, findings: findings{foreign: 1}}, // all that is left to say of it
		},
		{
			name: "what was refused and is there",
			do: func(b *ledgerBench) {
				b.settle(b.entries[5], false)
				b.read(1, b.records...)
				b.read(1, b.records...)
			},
			want: tally{recovered: 5, findings: findings{foreign: 1}},
			hint: "it was refused",
		},
		{
			name: "what was there and is refused",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.settle(b.entries[5], false)
			},
			want: tally{recovered: 5, findings: findings{foreign: 1}},
			hint: "it was refused",
		},
		{
			name: "nothing, when what is settled and truncated is forgotten",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.forget(0, 4)
				b.read(4, b.records[3:]...)
				b.submitNext(1, 4, 0)
				b.ack(0, b.entries[6], 7)
				b.settle(b.entries[5], true)
				b.read(6, b.records[5:]...)
				b.forget(0, 8)
				b.submitNext(1, 5, 0)
				b.ack(0, b.entries[7], 8)
				b.read(8, b.records[7:]...)
			},
			want: tally{acked: 7, recovered: 7},
		},
		{
			name: "a lost record that would be forgotten",
			do: func(b *ledgerBench) {
				b.read(1, b.records[:4]...)
				b.forget(0, 7)
				b.read(7)
			},
			want: tally{recovered: 4, lost: 1},
		},
		{
			name: "an acknowledgement at an LSN that is forgotten",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.forget(0, 4)
				b.ack(0, b.entries[5], 2)
			},
			want: tally{acked: 6, recovered: 5, findings: findings{outOfOrder: 1}},
		},
		{
			name: "a log that begins below what was truncated",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.forget(0, 3)
				b.read(2, b.records[1:]...)
			},
			want: tally{recovered: 5, findings: findings{foreign: 1}},
		},
		{
			name: "two records that change places after a reading",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.read(1, b.records[1], b.records[0], b.records[2], b.records[3], b.records[4])
			},
			want: tally{recovered: 5, findings: findings{outOfOrder: 2}},
			hint: "it was at LSN",
		},
		{
			name: "nothing, when two readings go on at once",
			do: func(b *ledgerBench) {
				one, two := b.begin(0, 1, b.lastAcked(0)), b.begin(0, 1, b.lastAcked(0))
				for i, data := range b.records {
					one.record(uint64(i+1), data)
					two.record(uint64(i+1), data)
				}
				one.end()
				two.end()
			},
			want: tally{recovered: 5},
		},
		{
			name: "a hole among what was not acknowledged",
			do: func(b *ledgerBench) {
				b.submitNext(1, 4, 0)
				b.submitNext(1, 5, 0)
				b.read(1, append(slices.Clone(b.records[:6]), b.records[7])...)
			},
			want: tally{recovered: 5, findings: findings{outOfOrder: 1}},
			hint: "its session's operation 4 had to come",
		},
		{
			name: "history that changed between two readings",
			do: func(b *ledgerBench) {
				b.submitNext(1, 4, 0)
				b.read(1, b.records[:6]...)
				b.read(1, append(slices.Clone(b.records[:5]), b.records[6])...)
			},
			want: tally{recovered: 5, findings: findings{outOfOrder: 1}},
			hint: "session 2's operation 3 was here before",
		},
		{
			name: "an acknowledgement at another LSN than the record's",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.ack(0, b.entries[5], 5)
			},
			want: tally{acked: 6, recovered: 5, findings: findings{outOfOrder: 1}},
		},
		{
			name: "an acknowledgement at an LSN out of reach",
			do: func(b *ledgerBench) {
				b.read(1, b.records...)
				b.ack(0, b.entries[5], 1<<60)
			},
			want: tally{acked: 6, recovered: 5, findings: findings{outOfOrder: 1}},
		},
		{
			name: "a record with one bit changed",
			do: func(b *ledgerBench) {
				b.records[2] = slices.Clone(b.records[2])
				b.records[2][len(b.records[2])-1] ^= 1
				b.read(1, b.records...)
			},
			want: tally{recovered: 4, lost: 1, findings: findings{foreign: 1, outOfOrder: 1}},
			hint: "foreign: log 0, LSN 3",
		},
		{
			name: "a record that nobody submitted",
			do: func(b *ledgerBench) {
				op := docstore.Op{Kind: docstore.Put, Session: 9, Number: 1, Key: "a", Doc: []byte("1")}
				b.read(1, append(slices.Clone(b.records), op.AppendTo(nil), []byte("garbage"))...)
			},
			want: tally{recovered: 5, findings: findings{foreign: 2}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newLedgerBench()
			test.do(b)
			got := b.tally()
			want := test.want
			if want.acked == 0 {
				want.acked = 5
			}
			if got.acked != want.acked || got.recovered != want.recovered || got.lost != want.lost || got.duplicated != want.duplicated ||
				got.outOfOrder != want.outOfOrder || got.foreign != want.foreign || got.engine != want.engine {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if clean := want.recovered == want.acked && len(got.examples) == 0; got.ok() != clean {
				t.Errorf("ok is %t with %+v", got.ok(), got)
			}
			if all := strings.Join(got.examples, "\n"); !strings.Contains(all, test.hint) {
				t.Errorf("no example says %q:\n%s", test.hint, all)
			}
		})
	}
}

func TestLedgerCountsWhatIsInFlight(t *testing.T) {
	b := newLedgerBench()
	n, mark := b.inFlight()
	if n != 1 {
		t.Fatalf("%d in flight, want the one that was not acknowledged", n)
	}
	b.submitNext(1, 4, 0)
	if n, _ := b.inFlight(); n != 2 {
		t.Errorf("%d in flight after another one", n)
	}
	if n := b.inFlightSince(mark); n != 1 {
		t.Errorf("%d in flight since the mark", n)
	}
	b.settle(b.entries[5], true)
	if n := b.inFlightSince(mark); n != 0 {
		t.Errorf("%d in flight since the mark, after it was settled", n)
	}
}

// fakeView is an engine's documents: key to document and LSN.
type fakeView map[string]struct {
	doc string
	lsn uint64
}

func (v fakeView) Len() int { return len(v) }

func (v fakeView) Get(key string) ([]byte, client.LSN, bool) {
	d, found := v[key]
	return []byte(d.doc), client.LSN(d.lsn), found
}

func TestLedgerComparesTheEngine(t *testing.T) {
	for _, test := range []struct {
		name    string
		applied uint64
		view    fakeView
		want    int
	}{
		{"equal", 6, fakeView{"a": {"1", 5}, "b": {"2", 6}}, 0},
		{"equal, not so far", 3, fakeView{"a": {"1", 3}, "b": {"2", 2}}, 0},
		{"a document is missing", 6, fakeView{"a": {"1", 5}}, 1},
		{"an old version", 6, fakeView{"a": {"1", 3}, "b": {"2", 6}}, 1},
		{"other bytes", 6, fakeView{"a": {"1", 5}, "b": {"3", 6}}, 1},
		{"a document too many", 6, fakeView{"a": {"1", 5}, "b": {"2", 6}, "c": {"3", 1}}, 1},
		{"behind what was truncated", 1, fakeView{"a": {"1", 1}, "b": {"2", 2}}, 1},
		{"applied beyond what was read", 7, fakeView{"a": {"1", 5}, "b": {"2", 6}}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newLedgerBench()
			b.read(1, b.records...)
			b.forget(0, 3)
			b.compare(0, test.applied, test.view)
			if got := b.tally(); got.engine != test.want || got.ok() != (test.want == 0) {
				t.Errorf("%d engine faults, want %d; ok is %t: %v", got.engine, test.want, got.ok(), got.examples)
			}
		})
	}
}
