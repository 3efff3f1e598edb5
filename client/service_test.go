package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/wal"
)

// service is a service of this process, on a volume and a Unix socket of its own.
type service struct {
	codec  string // of the volume; empty means auto
	dir    string
	volume *wal.Volume
	server *server.Server
	served sync.WaitGroup
}

// startService makes a volume and serves it; stop ends both.
func startService(dir string) (*service, error) {
	s := &service{dir: dir}
	return s, s.start()
}

func (s *service) socket() string { return filepath.Join(s.dir, "sock") }

func (s *service) start() (err error) {
	s.volume, err = wal.Open(context.Background(), filepath.Join(s.dir, "volume"), wal.Options{Create: true, SegmentSize: limits.DefaultSegmentSize, PrepareRate: -1, Codec: s.codec})
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", s.socket())
	if err != nil {
		return errors.Join(err, s.volume.Close())
	}
	s.server = server.New(s.volume, server.Options{Log: slog.New(slog.DiscardHandler), Version: "test"})
	s.served.Go(func() { _ = s.server.Serve(listener) })
	return nil
}

// stop cuts all connections and closes the volume.
func (s *service) stop() error {
	s.server.Stop()
	s.served.Wait()
	return s.volume.Close()
}

// drain stops in order.
func (s *service) drain(ctx context.Context) error {
	err := s.server.Drain(ctx)
	s.served.Wait()
	return errors.Join(err, s.volume.Close())
}

// open starts a service for a test and returns a client of it.
func open(t *testing.T) (*service, *client.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "walsvc") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s, err := startService(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Open(t.Context(), s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s, c
}

// create creates a log.
func create(t *testing.T, c *client.Client, name string, o client.LogOptions) *client.Log {
	t.Helper()
	if _, created, err := c.CreateLog(t.Context(), name, o); err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	return c.Log(name)
}

func TestLogsOfAService(t *testing.T) {
	_, c := open(t)
	options := client.LogOptions{QuotaBytes: 1 << 20, MaxRecordBytes: 100, Labels: map[string]string{"team": "a"}, ColocationKey: "k"}
	create(t, c, "b", options)
	create(t, c, "a", client.LogOptions{})
	info, created, err := c.CreateLog(t.Context(), "b", options)
	if err != nil || created || info.Name != "b" || info.Epoch != 1 || info.Next != 1 || info.Created.IsZero() || info.Options.QuotaBytes != 1<<20 || info.Options.Labels["team"] != "a" {
		t.Fatalf("%+v, created %v, %v", info, created, err)
	}
	if _, _, err := c.CreateLog(t.Context(), "b", client.LogOptions{}); !errors.Is(err, client.ErrLogExists) {
		t.Errorf("other options: %v", err)
	}
	if _, _, err := c.CreateLog(t.Context(), "!", client.LogOptions{}); !errors.Is(err, client.ErrInvalidName) {
		t.Errorf("a name that is none: %v", err)
	}
	if err := c.DeleteLog(t.Context(), "b", ulid.Make()); err != nil {
		t.Errorf("by an id that no log has: %v", err)
	}
	if now, err := c.Log("b").Info(t.Context()); err != nil || now.ID != info.ID {
		t.Errorf("deleted by another log's id: %+v, %v", now, err)
	}
	for range 2 {
		if err := c.DeleteLog(t.Context(), "b", info.ID); err != nil {
			t.Error(err)
		}
	}
	if err := c.DeleteLog(t.Context(), "b", ulid.ULID{}); !errors.Is(err, client.ErrLogNotFound) {
		t.Errorf("by its name, once it is gone: %v", err)
	}
	if _, err := c.Log("b").Info(t.Context()); !errors.Is(err, client.ErrLogNotFound) {
		t.Errorf("deleted: %v", err)
	}
	var names []string
	for info, err := range c.ListLogs(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	if !slices.Equal(names, []string{"a"}) {
		t.Errorf("got %q", names)
	}
	if status, err := c.Status(t.Context()); err != nil || status.GetLogs() != 1 {
		t.Errorf("%v, %v", status, err)
	}
}

// TestRateOfAService: a log over its rate delays who appends to it, and nobody is
// refused; in the third of a second that is waited for here, nothing is counted twice.
func TestRateOfAService(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "slow", client.LogOptions{RateBytes: 64 << 10})
	began := time.Now()
	for i := range 4 {
		if lsn, err := l.Append(t.Context(), make([]byte, 30<<10)); err != nil || lsn != client.LSN(i+1) {
			t.Fatalf("append %d: LSN %d, %v", i, lsn, err)
		}
	}
	// A second's worth is saved up, and the last batch is not paid for beforehand.
	if took, least := time.Since(began), 3*30<<10*time.Second/(64<<10)-time.Second; took < least {
		t.Errorf("120 KiB at 64 KiB per second in %v, which is under %v", took, least)
	}
	if _, _, err := c.CreateLog(t.Context(), "crawl", client.LogOptions{RateBytes: 1}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a rate of 1: %v", err)
	}
}

func TestAppendAndReplayOfAService(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "orders", client.LogOptions{})
	var want [][]byte
	var last *client.Future
	for i := range 5000 {
		r := fmt.Appendf(nil, `{"order": %d, "text": "the same over and over, the same over and over"}`, i)
		want = append(want, r)
		last = l.AppendAsync(t.Context(), r)
	}
	receipt, err := last.Wait(t.Context())
	if err != nil || receipt.LSN != 5000 {
		t.Fatalf("%+v, %v", receipt, err)
	}
	info, err := l.Info(t.Context())
	if err != nil || info.Next != 5001 || info.LogChecksum != receipt.LogChecksum || info.ID != receipt.Log {
		t.Fatalf("%+v, %v", info, err)
	}
	for _, o := range []client.ReplayOptions{{}, {From: 1234}, {From: 1000, To: 1001}, {To: 4999}} {
		from, to := max(o.From, 1), o.To
		if to == 0 {
			to = 5000
		}
		next := from
		for r, err := range l.Replay(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			if r.LSN != next || !bytes.Equal(r.Data, want[next-1]) {
				t.Fatalf("%+v: LSN %d is %q, want %d, %q", o, r.LSN, r.Data, next, want[next-1])
			}
			next++
		}
		if next != to+1 {
			t.Fatalf("%+v: ended before LSN %d", o, next)
		}
	}
	if rs, err := l.Read(t.Context(), 4999, 10); err != nil || len(rs) != 2 || !bytes.Equal(rs[1].Data, want[4999]) || rs[1].LSN != 5000 {
		t.Fatalf("%v, %v", rs, err)
	}
	if _, err := l.Read(t.Context(), 5002, 0); !errors.Is(err, client.ErrLSNAhead) {
		t.Errorf("read behind the end: %v", err)
	}
	if _, err := l.AppendBatch(t.Context(), [][]byte{nil}, client.ExpectLSN(7)); !errors.Is(err, client.ErrLSNMismatch) {
		t.Errorf("another LSN: %v", err)
	}
	var e *client.Error
	if _, err := l.AppendBatch(t.Context(), [][]byte{nil}, client.ExpectLSN(7)); !errors.As(err, &e) || e.Metadata["next_lsn"] != "5001" {
		t.Errorf("another LSN: %#v", e)
	}
	if r, err := l.AppendBatch(t.Context(), [][]byte{[]byte("a"), []byte("b")}, client.ExpectLSN(5001)); err != nil || r.LSN != 5001 {
		t.Errorf("%+v, %v", r, err)
	}
	if lsn, err := l.WaitDurable(t.Context(), 5002); err != nil || lsn != 5002 {
		t.Errorf("LSN %d, %v", lsn, err)
	}
}

func TestLargestRecordsOfAService(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "orders", client.LogOptions{})
	large := bytes.Repeat([]byte("0123456789abcdef"), limits.MaxRecordSize/16)
	half := large[:limits.MaxRecordSize-100]
	if lsn, err := l.Append(t.Context(), large); err != nil || lsn != 1 {
		t.Fatalf("LSN %d, %v", lsn, err)
	}
	if r, err := l.AppendBatch(t.Context(), [][]byte{half, half}); err != nil || r.LSN != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	n := 0
	for r, err := range l.Replay(t.Context(), client.ReplayOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := [][]byte{large, half, half}[n]; !bytes.Equal(r.Data, want) {
			t.Fatalf("LSN %d has %d bytes, want %d", r.LSN, len(r.Data), len(want))
		}
		n++
	}
	if n != 3 {
		t.Fatalf("%d records, want 3", n)
	}
}

func TestManyLogsOfAService(t *testing.T) {
	_, c := open(t)
	const logs = 300
	var running sync.WaitGroup
	for i := range logs {
		running.Go(func() {
			name := fmt.Sprintf("log-%d", i)
			if _, _, err := c.CreateLog(t.Context(), name, client.LogOptions{}); err != nil {
				t.Error(err)
				return
			}
			for n := range 5 {
				if lsn, err := c.Log(name).Append(t.Context(), []byte(name)); err != nil || lsn != client.LSN(n+1) {
					t.Errorf("%s: LSN %d, %v", name, lsn, err)
				}
			}
		})
	}
	running.Wait()
}

func TestCheckpointsOfAService(t *testing.T) {
	_, c := open(t)
	l := create(t, c, "orders", client.LogOptions{})
	for range 10 {
		if _, err := l.Append(t.Context(), []byte("r")); err != nil {
			t.Fatal(err)
		}
	}
	set, err := l.SetCheckpoint(t.Context(), "engine", 6, []byte("state"), client.ExpectVersion(0))
	if err != nil || set.Version != 1 || set.StateSize != 5 {
		t.Fatalf("%+v, %v", set, err)
	}
	if _, err := l.SetCheckpoint(t.Context(), "engine", 7, nil, client.ExpectVersion(0)); !errors.Is(err, client.ErrCheckpointConflict) {
		t.Errorf("another version: %v", err)
	}
	if _, err := l.SetCheckpoint(t.Context(), "engine", 5, nil); !errors.Is(err, client.ErrCheckpointBackwards) {
		t.Errorf("backwards: %v", err)
	}
	if _, err := l.SetCheckpoint(t.Context(), "engine", 11, nil); !errors.Is(err, client.ErrLSNAhead) {
		t.Errorf("ahead: %v", err)
	}
	got, err := l.Checkpoint(t.Context(), "engine")
	if err != nil || got.LSN != 6 || string(got.State) != "state" || got.Name != "engine" {
		t.Errorf("%+v, %v", got, err)
	}
	all, err := l.Checkpoints(t.Context())
	if err != nil || len(all) != 1 || all[0].State != nil || all[0].StateSize != 5 {
		t.Errorf("%+v, %v", all, err)
	}
	first := client.LSN(0)
	for r, err := range l.Replay(t.Context(), client.ReplayOptions{Checkpoint: "engine"}) {
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = r.LSN
		}
	}
	if first != 7 {
		t.Errorf("replay from the checkpoint begins at LSN %d, want 7", first)
	}
	if _, err := l.Truncate(t.Context(), 8); !errors.Is(err, client.ErrHeld) {
		t.Errorf("truncated what a checkpoint holds: %v", err)
	}
	if info, err := l.Truncate(t.Context(), 7); err != nil || info.First != 7 {
		t.Errorf("%+v, %v", info, err)
	}
	for _, err := range l.Replay(t.Context(), client.ReplayOptions{From: 3}) {
		if !errors.Is(err, client.ErrLSNTruncated) {
			t.Errorf("replay of what is gone: %v", err)
		}
	}
	if err := l.DeleteCheckpoint(t.Context(), "engine", client.ExpectVersion(9)); !errors.Is(err, client.ErrCheckpointConflict) {
		t.Errorf("another version: %v", err)
	}
	if err := l.DeleteCheckpoint(t.Context(), "engine", client.ExpectVersion(1)); err != nil {
		t.Error(err)
	}
	if _, err := l.Checkpoint(t.Context(), "engine"); !errors.Is(err, client.ErrCheckpointNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

// TestServiceIsRestarted appends and follows while the service is stopped and
// drained in turn: everything lands once, in order, and the follower misses
// nothing.
func TestServiceIsRestarted(t *testing.T) {
	s, c := open(t)
	const callers, each, restarts = 4, 300, 4
	create(t, c, "orders", client.LogOptions{})
	l := c.Log("orders")

	var appending sync.WaitGroup
	lsns := make([][]client.LSN, callers)
	progress := make(chan struct{}, callers*each)
	for caller := range callers {
		lsns[caller] = make([]client.LSN, each)
		appending.Go(func() {
			for i := range each {
				lsn, err := l.Append(t.Context(), fmt.Appendf(nil, "%d %d", caller, i))
				if err != nil {
					t.Errorf("caller %d: %v", caller, err)
					return
				}
				lsns[caller][i] = lsn
				progress <- struct{}{}
			}
		})
	}
	followed := make(chan []string)
	go func() {
		var all []string
		defer func() { followed <- all }()
		for r, err := range l.Replay(t.Context(), client.ReplayOptions{Follow: true}) {
			if err != nil {
				t.Error(err)
				return
			}
			if all = append(all, string(r.Data)); r.LSN != client.LSN(len(all)) {
				t.Errorf("LSN %d is the %d. record", r.LSN, len(all))
			}
			if len(all) == callers*each {
				return
			}
		}
	}()
	for i := range restarts {
		for range 100 {
			<-progress
		}
		stop := s.stop
		if i%2 == 0 {
			stop = func() error { return s.drain(t.Context()) }
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
	}
	appending.Wait()
	all := <-followed
	for caller := range callers {
		for i, lsn := range lsns[caller] {
			if lsn == 0 || all[lsn-1] != fmt.Sprintf("%d %d", caller, i) {
				t.Fatalf("caller %d, record %d: LSN %d is %q", caller, i, lsn, all[lsn-1])
			}
		}
	}
}
