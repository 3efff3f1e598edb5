package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A modelLog is a log as anybody would write it down.
type modelLog struct {
	records []string // all there ever were, from LSN 1 on
	asked   LSN      // truncated to, by its owner
	cp      LSN
	state   string
	cps     uint64
	cur     *LSN // of the cursor; nil for none
	rewound bool // it was taken back, and not set since
	most    LSN  // the janitor may have come so far
	epoch   Epoch
	holder  string // of the writer; empty for none
	sealed  bool
	// producer is the one it has, nil for none.
	producer *modelProducer
	// receipts are those of some of its batches, the oldest first.
	receipts []Receipt
}

// floor returns what the log's holders keep.
func (m *modelLog) floor() (keep LSN, held bool) {
	if m.cps > 0 {
		keep, held = m.cp+1, true
	}
	if m.cur != nil && (!held || *m.cur < m.cp) {
		keep, held = *m.cur+1, true
	}
	return keep, held
}

// holds notes that a holder was set behind lsn: nothing from there on is gone.
func (m *modelLog) holds(lsn LSN) {
	m.most = min(m.most, lsn+1)
	m.moved()
}

// moved notes that a holder was set or deleted.
func (m *modelLog) moved() {
	if keep, held := m.floor(); held {
		m.most = max(m.most, keep)
	}
}

// TestModel does random things to volumes of several shapes and to a map of
// slices, and compares what they hold.
func TestModel(t *testing.T) {
	for seed, o := range []Options{
		{Codec: "none", SegmentSize: limits.MinSegmentSize},
		{Codec: "s2", SegmentSize: 4 * limits.MinSegmentSize},
		{Codec: "zstd", SegmentSize: 1 << 20},
	} {
		t.Run(o.Codec, func(t *testing.T) {
			o.Create, o.PrepareRate, o.SnapshotEvery = true, -1, 64<<10
			modelRun(t, o, rand.New(rand.NewPCG(uint64(seed), 3)))
		})
	}
}

func modelRun(t *testing.T, o Options, rng *rand.Rand) {
	ctx := context.Background()
	mem := disk.NewMem()
	o.FS = mem
	open := func() *Volume {
		v, err := Open(ctx, "/vol", o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := open()
	model := map[string]*modelLog{}
	seat := newSeat(t, v)
	bindings := map[string]*Binding{}
	tried, refused := 0, 0 // appends to a log that has a rate
	moved := 0             // logs
	for step := range 1500 {
		name := fmt.Sprintf("log-%d", rng.IntN(6))
		m := model[name]
		if m == nil {
			if _, _, err := v.CreateLog(ctx, name, LogOptions{ColocationKey: "model"}); err != nil {
				t.Fatal(err)
			}
			m = &modelLog{epoch: 1, asked: 1, most: 1}
			model[name] = m
			delete(bindings, name)
		}
		switch op := rng.IntN(55); {
		case op >= 53:
			moved += modelMove(t, v, model)
		case op == 52:
			if !m.sealed {
				modelRewind(t, v, name, m, rng, bindings[name], seat)
				delete(bindings, name)
			}
		case op >= 49 && !m.sealed:
			modelProduce(t, v, name, m, rng)
		case op >= 47:
			modelForget(t, v, name, m, rng)
		case op >= 45:
			tried++
			if modelRate(t, v, model) {
				refused++
			}
		case op < 28: // batches of several logs at once
			var batches []Batch
			var logs []*modelLog
			for other, m := range model {
				if rng.IntN(2) == 0 || m.sealed || other == modelRated {
					continue
				}
				if bindings[other] == nil {
					bindings[other] = m.bind(seat, other)
				}
				var recs []string
				for range 1 + rng.IntN(4) {
					recs = append(recs, fmt.Sprintf("%d-%s", step, strings.Repeat("r", rng.IntN(1500))))
				}
				batches = append(batches, Batch{Binding: bindings[other], Expected: LSN(len(m.records) + 1), Run: run(recs...)})
				m.records = append(m.records, recs...)
				logs = append(logs, m)
			}
			if len(batches) > 1 && rng.IntN(3) == 0 { // or one batch, over all of them
				got := seat.verdicts(together(batches))[0]
				if got.Err != nil || got.First+LSN(got.Count)-1 != LSN(len(logs[0].records)) || len(got.Parts) != len(batches)-1 {
					t.Fatalf("step %d: %+v", step, got)
				}
				for i, part := range got.Parts {
					if part.First+LSN(part.Count)-1 != LSN(len(logs[1+i].records)) {
						t.Fatalf("step %d: part %d: %+v", step, i, part)
					}
					logs[1+i].acknowledged(v, part.Name, part.Epoch, part.First, part.Count, part.Checksum, got.Committed)
				}
				continue
			}
			for i, got := range seat.verdicts(batches...) {
				if got.Err != nil || got.First+LSN(got.Count)-1 != LSN(len(logs[i].records)) {
					t.Fatalf("step %d: %+v", step, got)
				}
				logs[i].acknowledged(v, batches[i].Binding.name, got.Epoch, got.First, got.Count, got.Checksum, got.Committed)
			}
		case op < 32:
			lsn := m.cp + LSN(rng.IntN(len(m.records)-int(m.cp)+1))
			m.state = strings.Repeat("s", rng.IntN(3000))
			cp, err := v.SetCheckpoint(ctx, name, Checkpoint{Name: "cp", LSN: lsn, State: []byte(m.state)}, &m.cps)
			if errors.Is(err, ErrLSNTruncated) && lsn+1 < m.most {
				lsn = m.most - 1
				cp, err = v.SetCheckpoint(ctx, name, Checkpoint{Name: "cp", LSN: lsn, State: []byte(m.state)}, &m.cps)
			}
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			m.cp, m.cps = lsn, cp.Version
			m.holds(lsn)
		case op < 36:
			first := m.asked + LSN(rng.IntN(len(m.records)+2-int(m.asked)))
			_, err := v.Truncate(ctx, name, first)
			keep, held := m.floor()
			switch held := held && first > keep; {
			case held != errors.Is(err, ErrHeld), !held && err != nil:
				t.Fatalf("step %d: truncate to %d, what is kept begins at %d: %v", step, first, keep, err)
			case err == nil:
				m.asked = max(m.asked, first)
				m.most = max(m.most, first)
			}
		case op == 44 || m.sealed && op == 40:
			if rng.IntN(2) == 0 || m.sealed {
				modelSeal(t, v, name, m, bindings[name], seat)
				delete(bindings, name)
			}
		case op == 40:
			if bindings[name] == nil {
				bindings[name] = m.bind(seat, name)
			}
			modelWriter(t, v, name, m, step)
			late := seat.verdicts(Batch{Binding: bindings[name], Run: run("late")})
			if !errors.Is(late[0].Err, ErrFenced) {
				t.Fatalf("step %d: an append that states epoch %d, in epoch %d of %q: %+v", step, bindings[name].epoch, m.epoch, m.holder, late[0])
			}
			delete(bindings, name)
		case op >= 41:
			modelCursor(t, v, name, m, rng)
		case op == 36:
			if err := v.DeleteLog(ctx, name, ulid.ULID{}); err != nil {
				t.Fatal(err)
			}
			delete(model, name)
			delete(bindings, name)
		case op == 37: // all at once, in the end or by a power cut
			clone := mem.CrashClone(nil, 0)
			closeTest(t, v)
			if rng.IntN(2) == 0 {
				mem = clone
				o.FS = mem
			}
			v = open()
			seat = newSeat(t, v)
			clear(bindings)
		default:
			modelCompare(t, v, model, rng)
		}
	}
	modelCompare(t, v, model, rng)
	if refused == 0 || refused == tried {
		t.Errorf("%d of %d appends were refused for the rate, want some", refused, tried)
	}
	if moved < 5 {
		t.Errorf("only %d logs were moved", moved)
	}
	closeTest(t, v)
}

// modelRewind discards some of a log's records, and wants what is bound by then told.
func modelRewind(t *testing.T, v *Volume, name string, m *modelLog, rng *rand.Rand, b *Binding, s *seat) {
	t.Helper()
	keep := m.asked - 1
	if m.cps > 0 {
		keep = max(keep, m.cp)
	}
	last := LSN(len(m.records))
	after := last - min(LSN(rng.IntN(12)), last-keep)
	r := Rewind{After: after, Epoch: m.epoch, Next: last + 1}
	if rng.IntN(2) == 0 {
		r.Holder = fmt.Sprintf("rewound-%d", m.epoch)
	}
	done, err := v.Rewind(context.Background(), name, r)
	if errors.Is(err, ErrLSNTruncated) && after+1 < m.most || errors.Is(err, ErrTooManyRewinds) {
		return
	}
	if err != nil || done.Records != uint64(last-after) || int(done.Bytes) != len(run(m.records[after:]...)) || done.Log.Next != after+1 {
		t.Fatalf("rewind log %q of %d records behind %d: %+v, %v", name, last, after, done, err)
	}
	if b != nil {
		late := s.verdicts(Batch{Binding: b, Run: run("late")})[0]
		if want := (r.Holder != "" || b.epoch != 0); want != errors.Is(late.Err, ErrFenced) || want == errors.Is(late.Err, ErrRewound) {
			t.Fatalf("an append to log %q that states epoch %d, in epoch %d of %q: %+v", name, b.epoch, m.epoch+1, r.Holder, late)
		}
	}
	m.records, m.epoch, m.holder = m.records[:after:after], m.epoch+1, r.Holder
	if m.producer != nil {
		for i := range m.producer.batches {
			b := &m.producer.batches[i]
			b.discarded = b.discarded || b.first > after
		}
	}
	if m.cur != nil && *m.cur > after {
		m.cur, m.rewound = &after, true
	}
	m.most = min(m.most, after+1)
	m.moved()
}

// together returns the batches as one, led by the first.
func together(batches []Batch) Batch {
	whole := batches[0]
	for _, b := range batches[1:] {
		whole.Parts = append(whole.Parts, Part{Binding: b.Binding, Expected: b.Expected, Run: b.Run})
	}
	return whole
}

// modelCursor sets or deletes the log's cursor, sometimes on a condition that does
// not hold.
func modelCursor(t *testing.T, v *Volume, name string, m *modelLog, rng *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	u := CursorUpdate{Name: "reader", LSN: LSN(rng.IntN(len(m.records) + 2)), Reset: rng.IntN(4) == 0}
	conflict := rng.IntN(4) == 0
	switch {
	case m.cur == nil && conflict:
		u.Expected = &u.LSN
	case m.cur == nil:
		u.Create = true
	case conflict && rng.IntN(2) == 0:
		u.Create = true
	default:
		at := *m.cur
		if conflict {
			at++
		}
		u.Expected = &at
	}
	if m.cur != nil && rng.IntN(4) == 0 {
		err := v.DeleteCursor(ctx, name, u.Name, u.Expected)
		if conflict = conflict && !u.Create; conflict != errors.Is(err, ErrCursorConflict) || !conflict && err != nil {
			t.Fatalf("log %q: delete the cursor at %d, %+v: %v", name, *m.cur, u, err)
		}
		if !conflict {
			m.cur, m.rewound = nil, false
			m.moved()
		}
		return
	}
	got, err := v.SetCursor(ctx, name, u)
	switch {
	case int(u.LSN) > len(m.records):
		if !errors.Is(err, ErrLSNAhead) {
			t.Fatalf("log %q: cursor at %d of %d: %v", name, u.LSN, len(m.records), err)
		}
	case m.rewound && !u.Reset && !u.Create:
		if !errors.Is(err, ErrRewound) {
			t.Fatalf("log %q: %+v: %v", name, u, err)
		}
	case conflict:
		if !errors.Is(err, ErrCursorConflict) {
			t.Fatalf("log %q: %+v: %v", name, u, err)
		}
	case m.cur != nil && u.LSN < *m.cur && !u.Reset:
		if !errors.Is(err, ErrCursorBackwards) {
			t.Fatalf("log %q: from %d to %d: %v", name, *m.cur, u.LSN, err)
		}
	case errors.Is(err, ErrLSNTruncated) && u.LSN+1 < m.most:
	case err != nil || got.LSN != u.LSN:
		t.Fatalf("log %q: %+v: %+v, %v", name, u, got, err)
	default:
		m.cur, m.rewound = &u.LSN, false
		m.holds(u.LSN)
	}
}

// modelCursorCompare compares the cursor, and what it is said to hold.
func modelCursorCompare(t *testing.T, v *Volume, name string, m *modelLog) {
	t.Helper()
	got, err := v.Cursor(name, "reader")
	if m.cur == nil {
		if !errors.Is(err, ErrCursorNotFound) {
			t.Fatalf("log %q: a cursor that is not there: %+v, %v", name, got, err)
		}
		return
	}
	live, want := len(run(m.records[*m.cur:]...)), CursorReserved
	if m.rewound {
		want = CursorRewound
	}
	if err != nil || got.LSN != *m.cur || int(got.Records) != len(m.records)-int(*m.cur) || int(got.LiveBytes) != live || got.State != want {
		t.Fatalf("log %q: %+v, %v; the cursor is at %d, with %d bytes behind it", name, got, err, *m.cur, live)
	}
}

// states returns the epoch that an append has to state.
func (m *modelLog) states() Epoch {
	if m.holder == "" {
		return 0
	}
	return m.epoch
}

func (m *modelLog) bind(s *seat, name string) *Binding {
	s.t.Helper()
	b, _, _, err := s.Bind(name, Producer{}, m.states(), Claim{})
	if err != nil {
		s.t.Fatalf("bind %q: %v", name, err)
	}
	return b
}

// modelWriter acquires a writer, or releases the one there is. What is bound by
// then states another epoch than may append.
func modelWriter(t *testing.T, v *Volume, name string, m *modelLog, step int) {
	t.Helper()
	var got LogInfo
	if m.holder != "" && step%2 == 0 {
		m.holder = ""
		info, err := v.ReleaseWriter(context.Background(), name, m.epoch)
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		got = info
	} else {
		m.holder = fmt.Sprintf("holder-%d", step)
		got = mustAcquire(t, v, name, Acquire{Holder: m.holder}).Log
	}
	m.epoch++
	if got.Epoch != m.epoch || got.Holder != m.holder || int(got.Durable()) != len(m.records) {
		t.Fatalf("step %d: %+v, want epoch %d of %q behind %d records", step, got, m.epoch, m.holder, len(m.records))
	}
}

// modelSeal seals a log, or seals it again, and wants nothing to be taken behind it.
func modelSeal(t *testing.T, v *Volume, name string, m *modelLog, b *Binding, s *seat) {
	t.Helper()
	ctx := context.Background()
	info, err := v.SealLog(ctx, name, &m.epoch)
	if err != nil || info.Sealed.IsZero() || int(info.Durable()) != len(m.records) {
		t.Fatalf("seal log %q of %d records: %+v, %v", name, len(m.records), info, err)
	}
	m.sealed = true
	if b != nil {
		if late := s.verdicts(Batch{Binding: b, Run: run("late")}); !errors.Is(late[0].Err, ErrSealed) {
			t.Fatalf("append to sealed log %q: %+v", name, late[0])
		}
	}
	if _, err := v.AcquireWriter(ctx, name, Acquire{Holder: "late"}); !errors.Is(err, ErrSealed) {
		t.Fatalf("acquire the writer of sealed log %q: %v", name, err)
	}
	if _, err := v.WaitDurable(ctx, name, info.Next); !errors.Is(err, ErrSealed) {
		t.Fatalf("wait for what comes behind the end of sealed log %q: %v", name, err)
	}
}

func modelCompare(t *testing.T, v *Volume, model map[string]*modelLog, rng *rand.Rand) {
	t.Helper()
	if logs, more := v.ListLogs("", "", 100); len(logs) != len(model) || more {
		t.Fatalf("%d logs, want %d", len(logs), len(model))
	}
	for name, m := range model {
		info, err := v.Log(name)
		if err != nil || info.Epoch != m.epoch || info.Holder != m.holder || info.Sealed.IsZero() == m.sealed {
			t.Fatalf("log %q is in epoch %d of %q, want %d of %q; sealed at %v, want %t; %v", name, info.Epoch, info.Holder, m.epoch, m.holder, info.Sealed, m.sealed, err)
		}
		if int(info.Durable()) != len(m.records) {
			t.Fatalf("log %q ends at %d, want %d; %v", name, info.Durable(), len(m.records), err)
		}
		most := m.most
		if m.cps > 0 {
			wantState(t, v, name, "cp", m.cp, m.state)
		}
		modelCursorCompare(t, v, name, m)
		if info.First < m.asked || info.First > most {
			t.Fatalf("log %q begins at %d, want %d to %d", name, info.First, m.asked, most)
		}
		from := most + LSN(rng.IntN(len(m.records)+2-int(most)))
		o := ReadOptions{From: from, Max: 1 + rng.IntN(20000), Follow: m.sealed}
		if rng.IntN(2) == 0 {
			o.Codecs = []codec.Codec{codec.None, codec.S2, codec.Zstd}
		}
		r, err := v.NewReader(name, o)
		if err != nil {
			t.Fatal(err)
		}
		spans, err := drain(r)
		if err != nil {
			t.Fatalf("log %q from %d: %v", name, from, err)
		}
		next := from
		for _, s := range spans {
			raw := s.Run
			if len(s.Stored) > 0 {
				if raw, err = s.Codec.Open(nil, s.Stored, int(s.RawSize)); err != nil {
					t.Fatal(err)
				}
			}
			recs, err := split(raw)
			if err != nil || s.First != next || int(s.Count) != len(recs) {
				t.Fatalf("log %q: a span of %d at %d with %d records, want it at %d; %v", name, s.Count, s.First, len(recs), next, err)
			}
			for _, rec := range recs {
				if rec != m.records[next-1] {
					t.Fatalf("log %q LSN %d: %.30q, want %.30q", name, next, rec, m.records[next-1])
				}
				next++
			}
		}
		if int(next) != len(m.records)+1 {
			t.Fatalf("log %q: read from %d to %d of %d", name, from, next-1, len(m.records))
		}
	}
}
