package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	blockcodec "github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

func textOf(r *walsvcv1.Records) (out []string) {
	for _, b := range r.GetRecord() {
		out = append(out, string(b))
	}
	return out
}

func TestRead(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewReplayServiceClient(w.conn)
	w.create("l")
	empty, err := c.Read(w.ctx, &walsvcv1.ReadRequest{Log: "l"})
	if err != nil || empty.GetNextLsn() != 1 || empty.GetDurableLsn() != 0 || len(empty.GetRecords().GetRecord()) != 0 {
		t.Fatalf("read of an empty log: %v, %v", empty, err)
	}
	w.append("l", "1", "2")
	w.append("l", "3", strings.Repeat("4", 100), "5")
	for _, tc := range []struct {
		name string
		req  *walsvcv1.ReadRequest
		want []string
		next uint64
	}{
		{"all", &walsvcv1.ReadRequest{}, []string{"1", "2", "3", strings.Repeat("4", 100), "5"}, 6},
		{"from", &walsvcv1.ReadRequest{FromLsn: 5}, []string{"5"}, 6},
		{"the end", &walsvcv1.ReadRequest{FromLsn: 6}, nil, 6},
		{"records", &walsvcv1.ReadRequest{FromLsn: 2, MaxRecords: 2}, []string{"2", "3"}, 4},
		{"bytes", &walsvcv1.ReadRequest{FromLsn: 1, MaxBytes: 7}, []string{"1", "2"}, 3},
		{"one record always fits", &walsvcv1.ReadRequest{FromLsn: 4, MaxBytes: 7}, []string{strings.Repeat("4", 100)}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.req.Log = "l"
			got, err := c.Read(w.ctx, tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(textOf(got.GetRecords()), tc.want) || got.GetNextLsn() != tc.next || got.GetDurableLsn() != 5 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// replayed reads a replay to its end.
func replayed(t testing.TB, w *world, req *walsvcv1.ReplayRequest) (out []string, err error) {
	t.Helper()
	stream, err := walsvcv1.NewReplayServiceClient(w.conn).Replay(w.ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for want := req.GetFromLsn(); ; {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if want != 0 && m.GetFirstLsn() != want {
			t.Errorf("message from LSN %d, want %d", m.GetFirstLsn(), want)
		}
		recs := textOf(m.GetRecords())
		if b := m.GetBlock(); b != nil {
			recs = opened(t, b)
		}
		if len(recs) != int(m.GetCount()) {
			t.Errorf("%d records, count says %d", len(recs), m.GetCount())
		}
		out = append(out, recs...)
		want = m.GetFirstLsn() + uint64(m.GetCount())
	}
}

func opened(t testing.TB, b *walsvcv1.StoredBlock) (out []string) {
	t.Helper()
	if b.GetVersion() != blockVersion {
		t.Fatalf("block version %d", b.GetVersion())
	}
	raw, err := blockcodec.Codec(b.GetCodec()).Open(nil, b.GetStored(), int(b.GetRawSize()))
	if err != nil {
		t.Fatal(err)
	}
	for len(raw) > 0 {
		record, rest, err := records.Next(raw)
		if err != nil {
			t.Fatal(err)
		}
		out, raw = append(out, string(record)), rest
	}
	return out
}

func TestReplay(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	var want []string
	for i := range 200 {
		r := fmt.Sprintf("%04d %s", i, strings.Repeat("abc ", 500))
		want = append(want, r)
		w.append("l", r)
	}
	if _, err := walsvcv1.NewCheckpointServiceClient(w.conn).SetCheckpoint(w.ctx, &walsvcv1.SetCheckpointRequest{Log: "l", Name: "cp", Lsn: 150}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		req  *walsvcv1.ReplayRequest
		want []string
	}{
		{"all", &walsvcv1.ReplayRequest{}, want},
		{"a part", &walsvcv1.ReplayRequest{FromLsn: 11, ToLsn: 20}, want[10:20]},
		{"behind a checkpoint", &walsvcv1.ReplayRequest{Checkpoint: "cp"}, want[150:]},
		{"at the end", &walsvcv1.ReplayRequest{FromLsn: 201}, nil},
		{"blocks", &walsvcv1.ReplayRequest{Codecs: []uint32{0, 1, 2, 9}}, want},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.req.Log = "l"
			if got, err := replayed(t, w, tc.req); err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%d records, %v; want %d", len(got), err, len(tc.want))
			}
		})
	}
}

// TestReplayBetweenTimes: what was committed by then and since then, and who asks
// for two beginnings or two ends at once is told so.
func TestReplayBetweenTimes(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.append("l", "1", "2")
	between := time.Now()
	for !time.Now().After(between.Add(time.Microsecond)) { // a clock may be coarse
		runtime.Gosched()
	}
	w.append("l", "3")
	at, ever := timestamppb.New(between), timestamppb.New(between.Add(time.Hour))
	for _, tc := range []struct {
		name string
		req  *walsvcv1.ReplayRequest
		want []string
	}{
		{"since", &walsvcv1.ReplayRequest{FromTime: at}, []string{"3"}},
		{"until", &walsvcv1.ReplayRequest{ToTime: at}, []string{"1", "2"}},
		{"since and until", &walsvcv1.ReplayRequest{FromTime: at, ToTime: at}, nil},
		{"from an LSN until", &walsvcv1.ReplayRequest{FromLsn: 2, ToTime: at}, []string{"2"}},
		{"since the beginning of time", &walsvcv1.ReplayRequest{FromTime: &timestamppb.Timestamp{Seconds: -62135596800}}, []string{"1", "2", "3"}},
		{"since a time to come", &walsvcv1.ReplayRequest{FromTime: ever}, nil},
		{"until a time to come", &walsvcv1.ReplayRequest{ToTime: ever}, []string{"1", "2", "3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.req.Log = "l"
			if got, err := replayed(t, w, tc.req); err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
	for name, req := range map[string]*walsvcv1.ReplayRequest{
		"from_lsn":   {FromTime: at, FromLsn: 1},
		"checkpoint": {FromTime: at, Checkpoint: "cp"},
		"cursor":     {FromTime: at, Cursor: "c"},
		"to_lsn":     {ToTime: at, ToLsn: 1},
		"follow":     {ToTime: at, Follow: true},
		"no time":    {FromTime: &timestamppb.Timestamp{Nanos: -1}},
		"none":       {ToTime: &timestamppb.Timestamp{Seconds: math.MaxInt64}},
	} {
		t.Run(name, func(t *testing.T) {
			req.Log = "l"
			_, err := replayed(t, w, req)
			wantReason(t, err, codes.InvalidArgument, "INVALID")
		})
	}
	if _, err := walsvcv1.NewLogServiceClient(w.conn).TruncateLog(w.ctx, &walsvcv1.TruncateLogRequest{Name: "l", FirstLsn: 2}); err != nil {
		t.Fatal(err)
	}
	_, err := replayed(t, w, &walsvcv1.ReplayRequest{Log: "l", FromTime: timestamppb.New(between.Add(-time.Hour))})
	wantReason(t, err, codes.OutOfRange, "LSN_TRUNCATED")
}

func TestFollow(t *testing.T) {
	w := newWorld(t, Options{Heartbeat: 5 * time.Millisecond})
	w.create("l")
	w.append("l", "1")
	ctx, cancel := context.WithCancel(w.ctx)
	stream, err := walsvcv1.NewReplayServiceClient(w.conn).Replay(ctx, &walsvcv1.ReplayRequest{Log: "l", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	beats := 0
	for next <= 5 || beats < 2 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetCount() == 0 {
			if beats++; m.GetDurableLsn() != next-1 {
				t.Errorf("heartbeat at %d, want %d", m.GetDurableLsn(), next-1)
			}
			continue
		}
		if m.GetFirstLsn() != next || m.GetDurableLsn() < next {
			t.Fatalf("message %v, want LSN %d", m, next)
		}
		if next += uint64(m.GetCount()); next <= 5 {
			w.append("l", fmt.Sprint(next))
		}
	}
	cancel()
	for err = nil; err == nil; {
		_, err = stream.Recv()
	}
	wantReason(t, err, codes.Canceled, "")
	eventually(t, "the replay is over", func() bool { return w.replays.Load() == 0 })
}

func TestBadReplays(t *testing.T) {
	w := newWorld(t, Options{})
	l := w.create("l")
	ack := w.append("l", "1", "2", "3")
	if _, err := walsvcv1.NewLogServiceClient(w.conn).TruncateLog(w.ctx, &walsvcv1.TruncateLogRequest{Name: "l", FirstLsn: 2}); err != nil {
		t.Fatal(err)
	}
	claim := &walsvcv1.Claim{LogId: l.GetId(), Epoch: 1, Lsn: 3, LogChecksum: ack.GetLogChecksum()}
	if got, err := replayed(t, w, &walsvcv1.ReplayRequest{Log: "l", Claim: claim}); err != nil || len(got) != 2 {
		t.Errorf("replay with a claim that holds: %v, %v", got, err)
	}
	for _, tc := range []struct {
		name   string
		req    *walsvcv1.ReplayRequest
		code   codes.Code
		reason string
	}{
		{"no such log", &walsvcv1.ReplayRequest{Log: "nope"}, codes.NotFound, "LOG_NOT_FOUND"},
		{"past the end", &walsvcv1.ReplayRequest{Log: "l", FromLsn: 5}, codes.OutOfRange, "LSN_AHEAD"},
		{"before the first", &walsvcv1.ReplayRequest{Log: "l", FromLsn: 1}, codes.OutOfRange, "LSN_TRUNCATED"},
		{"no such checkpoint", &walsvcv1.ReplayRequest{Log: "l", Checkpoint: "nope"}, codes.NotFound, "CHECKPOINT_NOT_FOUND"},
		{"two beginnings", &walsvcv1.ReplayRequest{Log: "l", Checkpoint: "cp", FromLsn: 2}, codes.InvalidArgument, "INVALID"},
		{"an end and none", &walsvcv1.ReplayRequest{Log: "l", ToLsn: 3, Follow: true}, codes.InvalidArgument, "INVALID"},
		{"too many codecs", &walsvcv1.ReplayRequest{Log: "l", Codecs: make([]uint32, 100)}, codes.InvalidArgument, "INVALID"},
		{"another history", &walsvcv1.ReplayRequest{Log: "l", Claim: &walsvcv1.Claim{LogId: l.GetId(), Epoch: 1, Lsn: 3, LogChecksum: 1}}, codes.DataLoss, "DATA_LOSS"},
		{"lost records", &walsvcv1.ReplayRequest{Log: "l", Claim: &walsvcv1.Claim{LogId: l.GetId(), Epoch: 1, Lsn: 9, LogChecksum: 1}}, codes.DataLoss, "DATA_LOSS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := replayed(t, w, tc.req)
			wantReason(t, err, tc.code, tc.reason)
		})
	}
	_, err := replayed(t, w, &walsvcv1.ReplayRequest{Log: "l", FromLsn: 7})
	if m := infoOf(t, err).GetMetadata(); m["first_lsn"] != "2" || m["next_lsn"] != "4" || m["lsn"] != "7" || m["log"] != "l" {
		t.Errorf("figures of LSN_AHEAD: %v", m)
	}
}

func TestReplaysAreLimited(t *testing.T) {
	w := newWorld(t, Options{})
	w.create("l")
	w.replays.Store(limits.MaxReplays)
	_, err := replayed(t, w, &walsvcv1.ReplayRequest{Log: "l"})
	wantReason(t, err, codes.ResourceExhausted, "TOO_MANY_REPLAYS")
	w.replays.Add(-1)
	if _, err := replayed(t, w, &walsvcv1.ReplayRequest{Log: "l"}); err != nil {
		t.Errorf("with room for one: %v", err)
	}
}

func TestWaitAndWatchDurable(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewReplayServiceClient(w.conn)
	w.create("l")
	watch, err := c.WatchDurable(w.ctx, &walsvcv1.WatchDurableRequest{Log: "l", AfterLsn: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.append("l", "1")
	if got, err := c.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 1}); err != nil || got.GetDurableLsn() != 1 {
		t.Errorf("wait for what is durable: %v, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Millisecond)
	defer cancel()
	_, err = c.WaitDurable(ctx, &walsvcv1.WaitDurableRequest{Log: "l", Lsn: 2})
	wantReason(t, err, codes.DeadlineExceeded, "")
	_, err = c.WaitDurable(w.ctx, &walsvcv1.WaitDurableRequest{Log: "nope", Lsn: 1})
	wantReason(t, err, codes.NotFound, "LOG_NOT_FOUND")

	w.append("l", "2", "3")
	if got, err := watch.Recv(); err != nil || got.GetDurableLsn() != 3 {
		t.Errorf("watch: %v, %v", got, err)
	}
	w.append("l", "4")
	if got, err := watch.Recv(); err != nil || got.GetDurableLsn() != 4 {
		t.Errorf("watch on: %v, %v", got, err)
	}
}
