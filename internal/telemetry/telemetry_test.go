package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// TestFrames: each observation goes to the histogram that is named for it, and
// frames without commands to none.
func TestFrames(t *testing.T) {
	m := NewMetrics()
	m.Frame(wal.FrameInfo{
		Commands: 3, Records: 40, RawSize: 4000, StoredSize: 1000,
		Queue: time.Second, Compress: 2 * time.Second, Write: 3 * time.Second, Sync: 4 * time.Second, Ack: 5 * time.Second,
	})
	m.Frame(wal.FrameInfo{RawSize: 1 << 20, Sync: time.Hour})
	_, text := get(t, m.handler(false), "/metrics")
	for _, want := range []string{
		"walsvc_frame_queue_seconds_sum 1\n", "walsvc_frame_compress_seconds_sum 2\n", "walsvc_frame_write_seconds_sum 3\n",
		"walsvc_frame_sync_seconds_sum 4\n", "walsvc_frame_ack_seconds_sum 5\n", "walsvc_frame_sync_seconds_count 1\n",
		"walsvc_frame_records_sum 40\n", "walsvc_frame_bytes_sum 4000\n", "walsvc_frame_compression_ratio_sum 4\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
}

// TestReadings: a scrape asks the volume once, and says what it said.
func TestReadings(t *testing.T) {
	m := NewMetrics()
	if _, text := get(t, m.handler(false), "/metrics"); strings.Contains(text, "walsvc_durable_frame") {
		t.Error("figures of a volume that is not open yet")
	}
	asked := 0
	m.Watch(func() wal.Status {
		asked++
		return wal.Status{
			State: wal.Poisoned, Commits: 1, Syncs: 2, Records: 3, RawBytes: 4, StoredBytes: 5, Rolls: 6, Recycles: 7, Snapshots: 8,
			DurableFrame: 9, Logs: 10, Segments: 11, Spares: 12, AppendableBytes: 13, DiskFree: 14, Stalls: 15,
			CursorsEvicted: 16, WriterChanges: 17, ProducersRetired: 18, ProducersMadeWay: 19, ProducersResolved: 20,
			Refused: [wal.Refusals]uint64{wal.RefusedAfter: 31, wal.RefusedFenced: 32, wal.RefusedLSN: 33, wal.RefusedQuota: 34, wal.RefusedRate: 35, wal.RefusedFull: 36, wal.RefusedOther: 37},
		}
	})
	_, text := get(t, m.handler(false), "/metrics")
	for i, name := range []string{
		"frames_total", "syncs_total", "records_total", "record_bytes_total", "stored_bytes_total", "segment_rolls_total",
		"segment_recycles_total", "snapshots_total", "durable_frame", "logs", "segments", "spare_segments", "appendable_bytes", "disk_free_bytes", "disk_stalls_total",
		"cursors_evicted_total", "writer_changes_total", "producers_retired_total", "producers_made_way_total", "producers_resolved_total",
	} {
		if want := fmt.Sprintf("\nwalsvc_%s %d\n", name, i+1); !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for i, reason := range []string{"AFTER_REFUSAL", "FENCED", "LSN_MISMATCH", "QUOTA", "RATE_QUOTA", "FULL", "OTHER"} {
		if want := fmt.Sprintf("\nwalsvc_appends_refused_total{reason=%q} %d\n", reason, 31+i); !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, want := range []string{"\nwalsvc_poisoned 1\n", "\nwalsvc_read_only 0\n", "\nwalsvc_full 0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "walsvc_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestReady(t *testing.T) {
	m := NewMetrics()
	for _, step := range []struct {
		status func() wal.Status
		code   int
		text   string
	}{
		{nil, http.StatusServiceUnavailable, "recovering\n"},
		{func() wal.Status { return wal.Status{State: wal.Serving} }, http.StatusOK, "ready\n"},
		{func() wal.Status { return wal.Status{State: wal.Full, Detail: "no room"} }, http.StatusServiceUnavailable, "no room\n"},
		{func() wal.Status { return wal.Status{State: wal.Poisoned, Detail: "EIO"} }, http.StatusServiceUnavailable, "EIO\n"},
	} {
		if step.status != nil {
			m.Watch(step.status)
		}
		if code, text := get(t, m.handler(false), "/readyz"); code != step.code || text != step.text {
			t.Errorf("ready: %d %q, want %d %q", code, text, step.code, step.text)
		}
		if code, _ := get(t, m.handler(false), "/healthz"); code != http.StatusOK {
			t.Errorf("alive: %d", code)
		}
	}
}

// TestProfilesStayAtHome: profiles show memory, so only this machine gets them.
func TestProfilesStayAtHome(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "0.0.0.0": false, "192.0.2.1": false} {
		if got := isLoopback(&net.TCPAddr{IP: net.ParseIP(address)}); got != want {
			t.Errorf("loopback %s: %v", address, got)
		}
	}
	m := NewMetrics()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
		if code, _ := get(t, m.handler(false), path); code != http.StatusNotFound {
			t.Errorf("%s for strangers: %d", path, code)
		}
		if code, _ := get(t, m.handler(true), path); code != http.StatusOK {
			t.Errorf("%s at home: %d", path, code)
		}
	}
}

// TestServe answers on a socket and stops, whoever is still connected.
func TestServe(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := NewMetrics().Serve(l, slog.New(slog.DiscardHandler))
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 15)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "HTTP/1.1 200 OK" {
		t.Errorf("answered %q, %v", buf, err)
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(conn); err != nil {
		t.Errorf("after %q: %v", rest, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// pipes listens for nobody else.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// TestClientsThatHoldOn: who neither sends all of a request nor reads the answer has
// a file of the process open, and it needs them for segments. A profile takes its time.
func TestClientsThatHoldOn(t *testing.T) {
	for name, tc := range map[string]struct {
		request, answer string // the beginning of what is read; empty if nothing is read
		after           time.Duration
	}{
		"no header": {"GET /healthz", "HTTP/1.1 4", limits.AdminTimeout},
		"no body":   {"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "", limits.AdminTimeout},
		"no body of a profile": {
			"GET /debug/pprof/goroutine?seconds=30 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK", 30 * time.Second,
		},
		"not read": {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "", limits.AdminTimeout},
		"profile":  {"GET /debug/pprof/goroutine?seconds=30 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", 30*time.Second + limits.AdminTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				a := NewMetrics().Serve(l, slog.New(slog.DiscardHandler))
				ours, theirs := net.Pipe()
				begun := time.Now()
				ended := make(chan struct{})
				l.conns <- &hung{theirs, sync.OnceFunc(func() { close(ended) })}
				if _, err := io.WriteString(ours, tc.request); err != nil {
					t.Fatal(err)
				}
				if tc.answer != "" {
					if got, err := io.ReadAll(ours); err != nil || !strings.HasPrefix(string(got), tc.answer) {
						t.Errorf("answered %.100q, %v", got, err)
					}
				}
				<-ended
				if took := time.Since(begun); took != tc.after {
					t.Errorf("held on for %v, want %v", took, tc.after)
				}
				if err := errors.Join(a.Stop(), ours.Close()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// hung is a connection that tells when it is hung up.
type hung struct {
	net.Conn
	tell func()
}

func (h *hung) Close() error {
	h.tell()
	return h.Conn.Close()
}

// TestConnectionsAreLimited: those beyond wait until there is room.
func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		a := NewMetrics().Serve(l, slog.New(slog.DiscardHandler))
		for range limits.MaxAdminConnections {
			ours, theirs := net.Pipe()
			defer func() { _ = ours.Close() }()
			l.conns <- theirs
		}
		synctest.Wait()
		ours, theirs := net.Pipe()
		select {
		case l.conns <- theirs:
			t.Error("one more was accepted")
		default:
		}
		l.conns <- theirs // the others have not said a word in time
		if _, err := io.WriteString(ours, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(ours); err != nil || !strings.HasPrefix(string(got), "HTTP/1.0 200 OK") {
			t.Errorf("answered %.100q, %v", got, err)
		}
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
}
