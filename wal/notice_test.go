package wal

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// TestNews: whoever logs hears of writers and producers, once for each change;
// refusals are counted, each under its reason.
func TestNews(t *testing.T) {
	ctx := t.Context()
	var told []string
	o := testOptions(disk.NewMem())
	o.Events.WriterChanged = func(w WriterChange) {
		told = append(told, fmt.Sprintf("%s: writer %q, epoch %d", w.Log, w.Holder, w.Epoch))
	}
	o.Events.ProducerEnded = func(p ProducerChange) {
		what := map[ProducerEnd]string{ProducerRetired: "retired", ProducerMadeWay: "made way", ProducerResolved: "resolved"}[p.What]
		told = append(told, fmt.Sprintf("%s: producer %d %s at %d, incarnation %d", p.Log, int(p.Producer[14])<<8+int(p.Producer[15]), what, p.LastSequence, p.Incarnation))
	}
	v, err := Open(ctx, "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { closeTest(t, v) }()
	id := func(n int) ulid.ULID { return ulid.ULID{1, 14: byte(n >> 8), 15: byte(n)} }
	mustCreate(t, v, "log")
	open := func(n int) {
		t.Helper()
		if _, err := v.OpenProducer(ctx, "log", id(n)); err != nil {
			t.Fatal(err)
		}
	}
	open(1)
	open(2)
	for n := range uint64(2) {
		if _, err := v.Append(ctx, "log", id(2), 0, Batch{Sequence: n + 1, Incarnation: 1, Run: run("x")}); err != nil {
			t.Fatal(err)
		}
	}
	mustAcquire(t, v, "log", Acquire{Holder: "db", Request: id(1)})
	mustAcquire(t, v, "log", Acquire{Holder: "db", Request: id(1)}) // again: nothing changes
	for range 3 {
		if _, err := appendIn(v, "log", 1, "late"); !errors.Is(err, ErrFenced) {
			t.Error(err)
		}
	}
	if _, err := v.ReleaseWriter(ctx, "log", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Resolve(ctx, "log", id(2), 3, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.RetireProducer(ctx, "log", id(2)); err != nil {
			t.Fatal(err)
		}
	}
	for n := 3; n <= limits.MaxProducersPerLog+2; n++ { // first 2 makes way, since it is retired, and then 1
		open(n)
	}
	if want := []string{
		`log: writer "db", epoch 2`, `log: writer "", epoch 3`, "log: producer 2 resolved at 2, incarnation 2", "log: producer 2 retired at 2, incarnation 2",
		"log: producer 2 made way at 2, incarnation 2", "log: producer 1 made way at 0, incarnation 1",
	}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}

	for _, refused := range []struct {
		log  string
		o    LogOptions
		b    Batch
		want error
	}{
		{"quota", LogOptions{QuotaBytes: 1}, Batch{Run: run("much")}, ErrQuota},
		{"lsn", LogOptions{}, Batch{Expected: 7, Run: run("x")}, ErrLSNMismatch},
		{"other", LogOptions{MaxRecordBytes: 1}, Batch{Run: run("much")}, ErrTooLarge},
	} {
		if _, _, err := v.CreateLog(ctx, refused.log, refused.o); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Append(ctx, refused.log, ulid.ULID{}, 0, refused.b); !errors.Is(err, refused.want) {
			t.Errorf("%s: %v", refused.log, err)
		}
	}
	if _, _, err := v.CreateLog(ctx, "rate", LogOptions{RateBytes: limits.MinLogRate}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Append(ctx, "rate", ulid.ULID{}, 0, Batch{Run: run(string(make([]byte, 20*limits.MinLogRate)))}); err != nil {
		t.Fatal(err) // what is over the rate is paid for by the next one
	}
	if _, err := v.Append(ctx, "rate", ulid.ULID{}, 0, Batch{Run: run("x")}); !errors.Is(err, ErrRateQuota) {
		t.Errorf("over its rate: %v", err)
	}
	s := newSeat(t, v)
	b, _, _, err := s.Bind("lsn", Producer{}, 0, Claim{})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.verdicts(Batch{Binding: b, Expected: 7, Run: run("x")}, Batch{Binding: b, Run: run("y")}); !errors.Is(got[1].Err, ErrAfterRefusal) {
		t.Errorf("%+v", got)
	}
	s.Close()
	st := v.Status()
	want := [Refusals]uint64{RefusedAfter: 1, RefusedFenced: 3, RefusedLSN: 2, RefusedQuota: 1, RefusedRate: 1, RefusedOther: 1}
	if st.Refused != want || st.WriterChanges != 2 || st.ProducersRetired != 1 || st.ProducersMadeWay != 2 || st.ProducersResolved != 1 {
		t.Errorf("refused %v, want %v; %d writers, %d retired, %d made way, %d resolved", st.Refused, want,
			st.WriterChanges, st.ProducersRetired, st.ProducersMadeWay, st.ProducersResolved)
	}
}
