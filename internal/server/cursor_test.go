package server

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

func TestCursors(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewCursorServiceClient(w.conn)
	w.create("l")
	w.append("l", "1", "2", "3")
	create := &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 1, CapBytes: 77, Condition: &walsvcv1.SetCursorRequest_Create{Create: true}}
	set, err := c.SetCursor(w.ctx, create)
	got := set.GetCursor()
	if err != nil || got.GetLsn() != 1 || got.GetCapBytes() != 77 || got.GetPolicy() != walsvcv1.CursorPolicy_CURSOR_POLICY_EVICT ||
		got.GetState() != walsvcv1.CursorState_CURSOR_STATE_RESERVED || got.GetLiveBytes() != 6 || got.GetLagRecords() != 2 ||
		got.GetLag() == nil || got.GetSetTime() == nil || got.GetEvictTime() != nil {
		t.Fatalf("a new cursor: %v, %v", set, err)
	}
	_, err = c.SetCursor(w.ctx, create)
	wantReason(t, err, codes.Aborted, "CURSOR_CONFLICT")
	at := func(lsn uint64) *walsvcv1.SetCursorRequest_ExpectedLsn {
		return &walsvcv1.SetCursorRequest_ExpectedLsn{ExpectedLsn: lsn}
	}
	for reason, req := range map[string]*walsvcv1.SetCursorRequest{
		"CURSOR_CONFLICT":  {Name: "c", Lsn: 2, Condition: at(0)},
		"CURSOR_BACKWARDS": {Name: "c", Lsn: 0, Condition: at(1)},
		"LSN_AHEAD":        {Name: "c", Lsn: 4},
		"INVALID_NAME":     {Name: "", Lsn: 2},
		"INVALID":          {Name: "c", Lsn: 2, Policy: 9},
	} {
		req.Log = "l"
		_, err = c.SetCursor(w.ctx, req)
		wantReason(t, err, tableCode(t, reason), reason)
	}
	// What it stands at is in the conflict, so that nobody has to ask.
	_, err = c.SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 2, Condition: at(0)})
	if got := infoOf(t, err).GetMetadata(); got["lsn"] != "1" || got["expected_lsn"] != "0" || got["cursor"] != "c" {
		t.Errorf("the figures of a conflict: %v", got)
	}
	if _, err := c.SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 3, Condition: at(1)}); err != nil {
		t.Fatal(err)
	}
	back, err := c.SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 2, Reset_: true, Policy: walsvcv1.CursorPolicy_CURSOR_POLICY_HOLD})
	if err != nil || back.GetCursor().GetLsn() != 2 || back.GetCursor().GetPolicy() != walsvcv1.CursorPolicy_CURSOR_POLICY_HOLD {
		t.Fatalf("a reset: %v, %v", back, err)
	}
	one, err := c.GetCursor(w.ctx, &walsvcv1.GetCursorRequest{Log: "l", Name: "c"})
	if err != nil || one.GetCursor().GetLsn() != 2 {
		t.Fatalf("%v, %v", one, err)
	}
	all, err := c.ListCursors(w.ctx, &walsvcv1.ListCursorsRequest{Log: "l"})
	if err != nil || len(all.GetCursors()) != 1 || all.GetCursors()[0].GetName() != "c" {
		t.Fatalf("%v, %v", all, err)
	}

	replay := walsvcv1.NewReplayServiceClient(w.conn)
	for _, tc := range []struct {
		req  *walsvcv1.ReplayRequest
		want uint64
	}{
		{&walsvcv1.ReplayRequest{Cursor: "c"}, 3},
		{&walsvcv1.ReplayRequest{Cursor: "c", FromLsn: 1}, 1},
	} {
		tc.req.Log = "l"
		stream, err := replay.Replay(w.ctx, tc.req)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stream.Recv(); err != nil || got.GetFirstLsn() != tc.want {
			t.Errorf("%v: %v, %v", tc.req, got, err)
		}
	}
	for reason, req := range map[string]*walsvcv1.ReplayRequest{
		"CURSOR_NOT_FOUND": {Cursor: "other"},
		"INVALID":          {Cursor: "c", Checkpoint: "cp"},
	} {
		req.Log = "l"
		stream, err := replay.Replay(w.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, tableCode(t, reason), reason)
	}

	elsewhere, here := uint64(3), uint64(2)
	_, err = c.DeleteCursor(w.ctx, &walsvcv1.DeleteCursorRequest{Log: "l", Name: "c", ExpectedLsn: &elsewhere})
	wantReason(t, err, codes.Aborted, "CURSOR_CONFLICT")
	if _, err := c.DeleteCursor(w.ctx, &walsvcv1.DeleteCursorRequest{Log: "l", Name: "c", ExpectedLsn: &here}); err != nil {
		t.Fatal(err)
	}
	_, err = c.GetCursor(w.ctx, &walsvcv1.GetCursorRequest{Log: "l", Name: "c"})
	wantReason(t, err, codes.NotFound, "CURSOR_NOT_FOUND")
}

// TestLostCursor: a reader whose cursor was evicted is told which, and what is gone.
func TestLostCursor(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewCursorServiceClient(w.conn)
	w.create("l")
	w.append("l", "1")
	if _, err := c.SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 1, CapBytes: 3}); err != nil {
		t.Fatal(err)
	}
	w.append("l", "2", "3")
	eventually(t, "it is evicted", func() bool {
		got, err := c.GetCursor(w.ctx, &walsvcv1.GetCursorRequest{Log: "l", Name: "c"})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetCursor().GetState() == walsvcv1.CursorState_CURSOR_STATE_LOST && got.GetCursor().GetEvictTime() != nil
	})
	stream, err := walsvcv1.NewReplayServiceClient(w.conn).Replay(w.ctx, &walsvcv1.ReplayRequest{Log: "l", Cursor: "c"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantReason(t, err, codes.DataLoss, "CURSOR_LOST")
	if got := infoOf(t, err).GetMetadata(); got["cursor"] != "c" || got["lsn"] != "1" || got["first_lsn"] != "1" || got["next_lsn"] != "4" || got["cap_bytes"] != "3" {
		t.Errorf("the figures: %v", got)
	}
	_, err = c.SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 3})
	wantReason(t, err, codes.DataLoss, "CURSOR_LOST")
	if _, err := c.SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "l", Name: "c", Lsn: 3, Reset_: true}); err != nil {
		t.Fatal(err)
	}
}

func TestListHolders(t *testing.T) {
	w := newWorld(t, Options{})
	c := walsvcv1.NewAdminServiceClient(w.conn)
	for _, name := range []string{"a", "b", "c"} {
		w.create(name)
		w.append(name, "1", "2", "3")
	}
	if _, err := walsvcv1.NewCursorServiceClient(w.conn).SetCursor(w.ctx, &walsvcv1.SetCursorRequest{Log: "b", Name: "reader", Lsn: 2}); err != nil {
		t.Fatal(err)
	}
	first, err := c.ListHolders(w.ctx, &walsvcv1.ListHoldersRequest{PageSize: 2})
	if err != nil || len(first.GetHolders()) != 2 || first.GetNextPageToken() == "" || len(first.GetVolumeHolders()) == 0 {
		t.Fatalf("%v, %v", first, err)
	}
	for i, want := range []*walsvcv1.Holder{
		{Kind: walsvcv1.HolderKind_HOLDER_KIND_LOG, Log: "a", Lsn: 1, Lowest: true, LiveBytes: 9, Segment: 1, Segments: 1},
		{
			Kind: walsvcv1.HolderKind_HOLDER_KIND_CURSOR, Log: "b", Name: "reader", Lsn: 3, Lowest: true,
			CursorState: walsvcv1.CursorState_CURSOR_STATE_RESERVED, LiveBytes: 3, Segment: 1, Segments: 1,
		},
	} {
		if got := first.GetHolders()[i]; !proto.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	second, err := c.ListHolders(w.ctx, &walsvcv1.ListHoldersRequest{PageSize: 2, PageToken: first.GetNextPageToken()})
	if err != nil || len(second.GetHolders()) != 1 || second.GetHolders()[0].GetLog() != "c" || second.GetNextPageToken() != "" || len(second.GetVolumeHolders()) != 0 {
		t.Fatalf("%v, %v", second, err)
	}
	_, err = c.ListHolders(w.ctx, &walsvcv1.ListHoldersRequest{PageToken: "?"})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
}

// TestListHoldersOfManyReaders: a page is of logs, and they may have so many holders
// that no message takes those of a whole one.
func TestListHoldersOfManyReaders(t *testing.T) {
	w := newWorld(t, Options{})
	const logs = limits.HoldersPerPage/(limits.MaxCheckpointsPerLog+limits.MaxCursorsPerLog) + 2
	var setting sync.WaitGroup
	for i := range logs {
		setting.Go(func() {
			log := fmt.Sprintf("%03d", i)
			_, _, err := w.volume.CreateLog(w.ctx, log, wal.LogOptions{})
			for k := 0; k < limits.MaxCursorsPerLog && err == nil; k++ {
				_, err = w.volume.SetCursor(w.ctx, log, wal.CursorUpdate{Name: strconv.Itoa(k)})
			}
			for k := 0; k < limits.MaxCheckpointsPerLog && err == nil; k++ {
				_, err = w.volume.SetCheckpoint(w.ctx, log, wal.Checkpoint{Name: strconv.Itoa(k)}, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	setting.Wait()
	got := make(map[string]int)
	for token, pages := "", 0; token != "" || pages == 0; pages++ {
		page, err := walsvcv1.NewAdminServiceClient(w.conn).ListHolders(w.ctx, &walsvcv1.ListHoldersRequest{PageSize: limits.MaxPageSize, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(page.GetHolders()); n > limits.HoldersPerPage {
			t.Errorf("page %d has %d", pages, n)
		}
		for _, h := range page.GetHolders() {
			got[h.GetLog()]++
		}
		token = page.GetNextPageToken()
	}
	for log, n := range got {
		if n != limits.MaxCheckpointsPerLog+limits.MaxCursorsPerLog {
			t.Errorf("log %s: %d", log, n)
		}
	}
	if len(got) != logs {
		t.Errorf("of %d logs, want %d", len(got), logs)
	}
}

// tableCode returns the code of a reason.
func tableCode(t testing.TB, reason string) codes.Code {
	t.Helper()
	for _, row := range Table {
		if row.Reason == reason {
			return row.Code
		}
	}
	t.Fatalf("no reason %s", reason)
	return 0
}
