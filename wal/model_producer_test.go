package wal

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
)

// A modelProducer is a producer as anybody would write it down.
type modelProducer struct {
	id          ulid.ULID
	incarnation uint64
	batches     []modelBatch // of sequence 1 on
}

// A modelBatch is where a batch is, and what it has.
type modelBatch struct {
	first     LSN
	rec       string
	discarded bool // by a rewind
}

// modelProduce has a log's producer append, send a batch again, be resolved or be
// retired; if it has none, or that was retired, one is opened.
func modelProduce(t *testing.T, v *Volume, name string, m *modelLog, rng *rand.Rand) {
	t.Helper()
	ctx := t.Context()
	p := m.producer
	if p == nil {
		p = &modelProducer{id: ulid.ULID{0: byte(rng.IntN(256)), 1: byte(rng.IntN(256)), 2: byte(rng.IntN(256)), 15: 1}, incarnation: 1}
		if info, err := v.OpenProducer(ctx, name, p.id); err != nil || info.LastSequence != 0 || info.Incarnation != 1 {
			t.Fatalf("log %q: open producer %s: %+v, %v", name, p.id, info, err)
		}
		m.producer = p
	}
	last := uint64(len(p.batches))
	send := func(sequence, incarnation uint64, rec string) (Verdict, error) {
		return v.Append(ctx, name, p.id, m.states(), Batch{Sequence: sequence, Incarnation: incarnation, Run: run(rec)})
	}
	switch op := rng.IntN(10); {
	case op < 5:
		rec := strings.Repeat("p", 1+rng.IntN(500))
		got, err := send(last+1, p.incarnation, rec)
		if err != nil || int(got.First) != len(m.records)+1 || got.Repeated {
			t.Fatalf("log %q: sequence %d behind %d records: %+v, %v", name, last+1, len(m.records), got, err)
		}
		p.batches = append(p.batches, modelBatch{first: got.First, rec: rec})
		m.records = append(m.records, rec)
	case op < 7 && last > 0:
		was := p.batches[last-1]
		got, err := send(last, p.incarnation, was.rec)
		if was.discarded && errors.Is(err, ErrDiscarded) {
			break
		}
		if was.discarded || err != nil || got.First != was.first || !got.Repeated {
			t.Fatalf("log %q: sequence %d, which is at LSN %d, once more: %+v, %v", name, last, was.first, got, err)
		}
	case op < 9:
		sequence := 1 + uint64(rng.IntN(int(last)+1))
		got, err := v.Resolve(ctx, name, p.id, sequence, m.states())
		p.incarnation++
		want := Resolution{Outcome: NotWritten}
		if sequence <= last {
			want.Outcome = Committed
			if last-sequence < 64 {
				want.First, want.Count = p.batches[sequence-1].first, 1
				if p.batches[sequence-1].discarded {
					want.Outcome = Discarded
				}
			}
		}
		if err != nil || got.Outcome != want.Outcome || got.First != want.First || got.Count != want.Count ||
			got.Producer.Incarnation != p.incarnation || got.Producer.LastSequence != last {
			t.Fatalf("log %q: sequence %d of %d is resolved as %+v, %v; want %+v in incarnation %d", name, sequence, last, got, err, want, p.incarnation)
		}
		if got, err := send(last+1, p.incarnation-1, "late"); !errors.Is(err, ErrSuperseded) {
			t.Fatalf("log %q: a batch of the incarnation that is over: %+v, %v", name, got, err)
		}
	default:
		if err := v.RetireProducer(ctx, name, p.id); err != nil {
			t.Fatalf("log %q: retire: %v", name, err)
		}
		if got, err := send(last+1, p.incarnation, "late"); !errors.Is(err, ErrRetired) {
			t.Fatalf("log %q: a batch of a retired producer: %+v, %v", name, got, err)
		}
		if _, err := v.OpenProducer(ctx, name, p.id); !errors.Is(err, ErrRetired) {
			t.Fatalf("log %q: a retired producer is opened: %v", name, err)
		}
		m.producer = nil
	}
}

// modelForget deletes the log's checkpoint, if there is one, sometimes on a
// condition that does not hold.
func modelForget(t *testing.T, v *Volume, name string, m *modelLog, rng *rand.Rand) {
	t.Helper()
	version := m.cps + uint64(rng.IntN(2))
	err := v.DeleteCheckpoint(t.Context(), name, "cp", &version)
	switch {
	case m.cps == 0:
		if !errors.Is(err, ErrCheckpointNotFound) {
			t.Fatalf("log %q: delete a checkpoint that is not there: %v", name, err)
		}
	case version != m.cps:
		var conflict *ConflictError
		if !errors.As(err, &conflict) || conflict.Version != m.cps {
			t.Fatalf("log %q: delete version %d of a checkpoint that is at %d: %v", name, version, m.cps, err)
		}
	case err != nil:
		t.Fatalf("log %q: delete the checkpoint: %v", name, err)
	default:
		m.cp, m.cps, m.state = 0, 0, ""
		m.moved()
	}
}

// modelRated is the log that takes little, and takes it slowly.
const modelRated = "rated"

// modelRate appends to a log that has a rate, and reports whether it was refused:
// then nothing of it is there, and nothing was used up.
func modelRate(t *testing.T, v *Volume, model map[string]*modelLog) (refused bool) {
	t.Helper()
	m := model[modelRated]
	if m == nil {
		if _, _, err := v.CreateLog(t.Context(), modelRated, LogOptions{RateBytes: 1 << 10}); err != nil {
			t.Fatal(err)
		}
		m = &modelLog{epoch: 1, asked: 1, most: 1}
		model[modelRated] = m
	}
	rec := strings.Repeat("r", 100_000) // of more than a minute
	if v.maxBatch < len(rec) {
		rec = rec[:v.maxBatch/2]
	}
	got, err := v.Append(t.Context(), modelRated, ulid.ULID{}, 0, Batch{Expected: LSN(len(m.records) + 1), Run: run(rec)})
	var rate *RateError
	switch {
	case errors.As(err, &rate):
		if rate.After <= 0 {
			t.Fatalf("refused for the rate, to come again after %v", rate.After)
		}
		return true
	case err != nil || int(got.First) != len(m.records)+1:
		t.Fatalf("append to a log that has a rate, behind %d records: %+v, %v", len(m.records), got, err)
	}
	m.records = append(m.records, rec)
	return false
}
