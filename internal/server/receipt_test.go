package server

import (
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// TestCommitTimes: one field of a message says when all its verdicts were committed,
// and verdicts of other commits have their own; what was refused or is a repeat has none.
func TestCommitTimes(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	first := w.append("l", "0")
	if first.GetCommitTime() == 0 || first.GetVolumeId() != w.volume.ID().String() {
		t.Fatalf("%v", first)
	}
	producer := ulid.Make().String()
	if _, err := walsvcv1.NewAppendServiceClient(w.conn).OpenProducer(w.ctx, &walsvcv1.OpenProducerRequest{Log: "l", Producer: producer}); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	if b := s.bind(&walsvcv1.Bind{Binding: 1, Log: "l", Producer: producer}); b.GetVolumeId() != w.volume.ID().String() {
		t.Errorf("%v", b)
	}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 1, Run: runOf("1")}, {Binding: 1, Sequence: 2, Run: runOf("2")}}})
	m := s.next()
	at := m.CommitTime
	if at < first.GetCommitTime() || len(m.Verdicts) != 2 || m.Verdicts[0].CommitTime != 0 || m.Verdicts[1].CommitTime != 0 {
		t.Errorf("%+v, the one before was committed at %d", m, first.GetCommitTime())
	}
	s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: 1, Run: runOf("1")}, {Binding: 1, Sequence: 9, Run: runOf("9")}}})
	if m := s.next(); m.CommitTime != 0 || len(m.Verdicts) != 2 {
		t.Errorf("a repeat and a refusal: %+v", m)
	}

	// Two commits while nobody sends: what is told of them at once has both times.
	s.send(&wire.AppendRequest{Resets: []uint32{1}})
	a := w.served()
	eventually(t, "the message was taken", func() bool { return !a.receiving.Load() })
	a.sending.Lock()
	for i, text := range []string{"3", "4"} {
		s.send(&wire.AppendRequest{Batches: []wire.Batch{{Binding: 1, Sequence: uint64(3 + i), Run: runOf(text)}}})
		eventually(t, "it is durable", func() bool { return w.log("l").GetNextLsn() == uint64(5+i) })
	}
	a.sending.Unlock()
	a.poke()
	var times []uint64
	for len(times) < 2 {
		m := s.next()
		for _, v := range m.Verdicts {
			if v.CommitTime == 0 {
				v.CommitTime = m.CommitTime
			}
			times = append(times, v.CommitTime)
		}
	}
	if times[0] <= at || times[1] <= times[0] {
		t.Errorf("committed at %d, then at %d", at, times)
	}
}

func TestVerifyReceipt(t *testing.T) {
	w := newWorld(t, Options{})
	l := w.create("l")
	got := w.append("l", "1", "2")
	c := walsvcv1.NewAdminServiceClient(w.conn)
	good := &walsvcv1.Receipt{
		VolumeId: got.GetVolumeId(), LogId: l.GetId(), Log: "l", Epoch: 1, FirstLsn: 1, LastLsn: 2, ThroughLsn: 2,
		LogChecksum: got.GetLogChecksum(), CommitTime: got.GetCommitTime(),
	}
	for _, tc := range []struct {
		tamper  func(r *walsvcv1.Receipt)
		verdict walsvcv1.ReceiptVerdict
		field   string
	}{
		{func(*walsvcv1.Receipt) {}, walsvcv1.ReceiptVerdict_RECEIPT_VERDICT_PROVEN, ""},
		{func(r *walsvcv1.Receipt) { r.VolumeId = ulid.Make().String() }, walsvcv1.ReceiptVerdict_RECEIPT_VERDICT_CONTRADICTED, "volume_id"},
		{func(r *walsvcv1.Receipt) { r.LogChecksum++ }, walsvcv1.ReceiptVerdict_RECEIPT_VERDICT_CONTRADICTED, "log_checksum"},
		{func(r *walsvcv1.Receipt) { r.CommitTime++ }, walsvcv1.ReceiptVerdict_RECEIPT_VERDICT_CONTRADICTED, "commit_time"},
		{func(r *walsvcv1.Receipt) { r.Log, r.LogId = "gone", ulid.Make().String() }, walsvcv1.ReceiptVerdict_RECEIPT_VERDICT_GONE, ""},
	} {
		r := proto.CloneOf(good)
		tc.tamper(r)
		resp, err := c.VerifyReceipt(w.ctx, &walsvcv1.VerifyReceiptRequest{Receipt: r})
		if err != nil || resp.GetVerdict() != tc.verdict || resp.GetField() != tc.field || resp.GetDetail() == "" {
			t.Errorf("%v: %v, %v", r, resp, err)
		}
		if found := resp.GetCommitTime(); (found == got.GetCommitTime()) != (tc.field == "commit_time" || tc.verdict == walsvcv1.ReceiptVerdict_RECEIPT_VERDICT_PROVEN) {
			t.Errorf("%v: commit time %d", r, found)
		}
	}
	for _, none := range []*walsvcv1.Receipt{
		nil, {}, {VolumeId: "x", LogId: good.GetLogId()}, {VolumeId: good.GetVolumeId(), LogId: "x"},
		{VolumeId: good.GetVolumeId(), LogId: good.GetLogId(), Log: "l", Epoch: 1, FirstLsn: 2, LastLsn: 1, ThroughLsn: 2},
	} {
		_, err := c.VerifyReceipt(w.ctx, &walsvcv1.VerifyReceiptRequest{Receipt: none})
		wantReason(t, err, codes.InvalidArgument, "INVALID")
	}
}
