package client_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/wal"
)

// patience is how long a test waits for what must happen. It is spent only by
// tests that fail.
const patience = 30 * time.Second

// A history is a disk in memory and what a power cut would leave of it after
// every sync.
type history struct {
	mem  *disk.Mem
	mu   sync.Mutex
	cuts []*disk.Mem
}

func (h *history) fs() disk.FS {
	return disk.Record(h.mem, func(op disk.Op) {
		if op.Kind == disk.OpSync && op.Done() && strings.HasSuffix(op.Name, ".wal") {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cuts = append(h.cuts, h.mem.CrashClone(nil, 0))
		}
	})
}

// with returns the first cut that has a record on disk, and where: its
// acknowledgement had no promise yet.
func (h *history) with(t *testing.T, record string) (*disk.Mem, disk.File, int64) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cut := range h.cuts {
		entries, err := cut.List("/vol")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name, ".wal") {
				continue
			}
			f, err := cut.Open(filepath.Join("/vol", e.Name), true)
			if err != nil {
				t.Fatal(err)
			}
			content := make([]byte, e.Size)
			if _, err := f.ReadAt(content, 0); err != nil {
				t.Fatal(err)
			}
			if at := bytes.Index(content, []byte(record)); at >= 0 {
				return cut, f, int64(at)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatalf("%q is on no disk", record)
	return nil, nil, 0
}

// openVolume opens the volume of a disk; what is appended lies there as it is.
func openVolume(t *testing.T, fs disk.FS) *wal.Volume {
	t.Helper()
	v, err := wal.Open(t.Context(), "/vol", wal.Options{FS: fs, Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1, Codec: "none"})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// serveVolume serves a volume on a socket and returns what ends both.
func serveVolume(t *testing.T, v *wal.Volume, socket string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(v, server.Options{Log: slog.New(slog.DiscardHandler)})
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(listener) })
	return sync.OnceFunc(func() {
		s.Stop()
		served.Wait()
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestTailIsLost damages the last acknowledged frame of a log where nothing on
// disk proves that it was acknowledged: recovery can only call it torn, and cuts
// it off. The clients that were told, this one and one that kept its claim over a
// restart of its own, hear of it, append nothing behind the gap and are shown no
// other history; the other log on their stream goes on.
func TestTailIsLost(t *testing.T) {
	tests := []struct {
		name    string
		damage  bool
		foreign int // records that somebody else appends before the client is back
		lost    bool
	}{
		{"undamaged", false, 0, false},
		{"undamaged, and others appended", false, 2, false},
		{"shorter", true, 0, true},
		{"other records in its place", true, 1, true},
		{"other records in its place and behind", true, 3, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			dir, err := os.MkdirTemp("", "walsvc")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) }) // it is temporary anyway
			socket := filepath.Join(dir, "sock")
			h := &history{mem: disk.NewMem()}
			stop := serveVolume(t, openVolume(t, h.fs()), socket)
			defer stop()
			connect := func() *client.Client {
				c, err := client.Open(ctx, socket, client.Options{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close(context.Background()) }) // what is pending is lost on purpose
				return c
			}

			c := connect()
			orders, other := create(t, c, "orders", client.LogOptions{}), create(t, c, "other", client.LogOptions{})
			if _, err := other.Append(ctx, []byte("untouched")); err != nil {
				t.Fatal(err)
			}
			var kept []byte // what an engine keeps of its last receipt
			for _, record := range []string{"one", "two", "the very last record"} {
				receipt, err := orders.AppendBatch(ctx, [][]byte{[]byte(record)})
				if err != nil {
					t.Fatal(err)
				}
				if kept, err = receipt.Claim().MarshalText(); err != nil {
					t.Fatal(err)
				}
			}
			type end struct {
				read int
				err  error
			}
			// Who appends nothing claims what it was told here.
			watched, told := make(chan error, 1), make(chan struct{})
			watcher := connect().Log("orders")
			go func() {
				var err error
				for lsn, e := range watcher.WatchDurable(ctx, 0) {
					if err = e; lsn == 3 {
						close(told)
					} else if lsn > 3 {
						break
					}
				}
				watched <- err
			}()
			<-told
			followed, three := make(chan end, 1), make(chan struct{})
			following, unfollow := context.WithCancel(ctx)
			defer unfollow()
			go func() {
				var e end
				for _, err := range orders.Replay(following, client.ReplayOptions{Follow: true}) {
					if e.err = err; err == nil {
						if e.read++; e.read == 3 {
							close(three)
						}
					}
				}
				followed <- e
			}()
			<-three

			// The power goes right after the acknowledgement.
			cut, file, at := h.with(t, "the very last record")
			stop()
			if tt.damage {
				frame := at &^ (limits.BlockSize - 1)
				if _, err := file.WriteAt([]byte("damaged"), frame+16); err != nil {
					t.Fatal(err)
				}
				if err := file.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			v := openVolume(t, cut)
			if r := v.Recovery(); tt.damage && r.Verdict != "torn" {
				t.Fatalf("recovery %+v: the damage was to be taken for a torn write", r)
			}
			for range tt.foreign {
				if _, err := v.Append(ctx, "orders", ulid.ULID{}, 0, wal.Batch{Run: records.Append(nil, []byte("somebody else's"))}); err != nil {
					t.Fatal(err)
				}
			}
			before, err := v.Log("orders")
			if err != nil {
				t.Fatal(err)
			}
			pending := orders.AppendAsync(ctx, []byte("pending"))
			stop = serveVolume(t, v, socket)
			defer stop()

			check := func(what string, err error) {
				t.Helper()
				var typed *client.Error
				switch {
				case !tt.lost && err != nil:
					t.Errorf("%s: %v", what, err)
				case tt.lost && (!errors.Is(err, client.ErrDataLoss) || !errors.As(err, &typed) || typed.Metadata["log"] != "orders"):
					t.Errorf("%s: got %v, want ErrDataLoss", what, err)
				}
			}
			_, err = pending.Wait(ctx)
			check("what was pending", err)
			_, err = orders.Append(ctx, []byte("later"))
			check("an append", err)
			replay := func(l *client.Log, o client.ReplayOptions) (err error) {
				for _, err = range l.Replay(ctx, o) {
				}
				return err
			}
			check("a replay", replay(orders, client.ReplayOptions{}))
			unary := func(who string, l *client.Log) {
				t.Helper()
				_, err := l.Read(ctx, 1, 1)
				check("a read by "+who, err)
				_, err = l.WaitDurable(ctx, 1)
				check("a wait by "+who, err)
				watched := error(nil)
				for _, watched = range l.WatchDurable(ctx, 0) {
					break
				}
				check("a watch by "+who, watched)
			}
			unary("who was acknowledged", orders)
			if tt.lost {
				e := <-followed
				check("the follower", e.err)
				if e.read != 3 {
					t.Errorf("the follower was shown %d records, want the 3 that were there", e.read)
				}
				check("the watcher", <-watched)
			}

			// Another process, with what the engine kept.
			claim, err := client.ParseClaim(string(kept))
			if err != nil {
				t.Fatal(err)
			}
			resumed := connect().Log("orders")
			if err := resumed.Resume(claim); err != nil {
				t.Fatal(err)
			}
			check("a replay behind a claim that was kept", replay(resumed, client.ReplayOptions{From: claim.LSN + 1}))
			unary("who kept its claim", resumed)
			_, err = resumed.Append(ctx, []byte("resumed"))
			check("an append behind a claim that was kept", err)

			if _, err := other.Append(ctx, []byte("goes on")); err != nil {
				t.Errorf("the other log: %v", err)
			}
			now, err := v.Log("orders")
			if err != nil {
				t.Fatal(err)
			}
			if tt.lost != (now.Next == before.Next) {
				t.Errorf("the log ended at LSN %d, and now at %d", before.Durable(), now.Durable())
			}
			// Who claims nothing may look at what is left.
			all, err := connect().Log("orders").Read(ctx, 0, 0)
			if err != nil || len(all) != int(now.Durable()) {
				t.Errorf("%d records, %v; want %d", len(all), err, now.Durable())
			}
			if _, behind, _ := strings.Cut(string(kept), "/"); !strings.HasPrefix(behind, "1/3/") {
				t.Errorf("the claim is %s", kept)
			}
			unfollow()
		})
	}
}
