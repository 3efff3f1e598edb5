package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// asProcess makes the test binary be walsvc, for what takes a real process.
const asProcess = "WALSVC_TEST_AS_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen. It is spent only by
// tests that fail.
const patience = 30 * time.Second

// process is a walsvc in this process.
type process struct {
	t       *testing.T
	signals chan os.Signal
	done    chan struct{}
	err     error // after done

	mu     sync.Mutex
	out    bytes.Buffer
	errout bytes.Buffer
	grown  chan struct{} // closed and made anew when out has grown
}

type output struct {
	p   *process
	buf *bytes.Buffer
}

func (o output) Write(b []byte) (int, error) {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	close(o.p.grown)
	o.p.grown = make(chan struct{})
	return o.buf.Write(b)
}

// start runs walsvc with small segments in a short directory of its own: a
// socket's path has to fit.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, signals: make(chan os.Signal, 2), done: make(chan struct{}), grown: make(chan struct{})}
	args = append([]string{"--segment-size=1MiB", "--prepare-rate=unlimited"}, args...)
	go func() {
		defer close(p.done)
		p.err = run(context.Background(), p.signals, args, nil, output{p, &p.out}, output{p, &p.errout})
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
			return // the test has seen to it
		default:
		}
		p.signals <- syscall.SIGTERM
		if code, err := p.wait(); code != exitOK {
			t.Errorf("stopped with exit %d: %v", code, err)
		}
	})
	return p
}

func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "walsvc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "d")
}

func (p *process) text() (out, errout string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String(), p.errout.String()
}

// ready waits for n ready lines and returns the addresses.
func (p *process) ready(n int) (addresses []string) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		addresses = nil
		for line := range strings.Lines(p.out.String()) {
			if a, ok := strings.CutPrefix(line, "ready "); ok {
				addresses = append(addresses, strings.TrimSpace(a))
			}
		}
		grown := p.grown
		p.mu.Unlock()
		if len(addresses) == n {
			return addresses
		}
		select {
		case <-grown:
		case <-p.done:
			p.t.Fatalf("ended before it was ready: %v", p.err)
		case <-timeout:
			out, errout := p.text()
			p.t.Fatalf("not ready:\n%s%s", out, errout)
		}
	}
}

// wait waits for the end and returns its exit code and error.
func (p *process) wait() (code int, err error) {
	p.t.Helper()
	select {
	case <-p.done:
		return report(io.Discard, p.err), p.err
	case <-time.After(patience):
		p.t.Fatal("it goes on")
		return 0, nil
	}
}

func connect(t *testing.T, address string, creds credentials.TransportCredentials, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(address, "tcp:"), append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func healthy(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err == nil && resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("health: %v", resp.GetStatus())
	}
	return err
}

// TestServeStopServe: what was acknowledged before an orderly stop is there
// after it, and each start says what it found.
func TestServeStopServe(t *testing.T) {
	dir := directory(t)
	p := start(t, "--data", dir, "--create", "--listen=127.0.0.1:0")
	addresses := p.ready(2)
	if addresses[0] != "unix:"+filepath.Join(dir, "walsvc.sock") || !strings.HasPrefix(addresses[1], "tcp:127.0.0.1:") {
		t.Fatalf("addresses %v", addresses)
	}
	out, _ := p.text()
	if !strings.HasPrefix(out, "recovered "+dir+": clean") {
		t.Errorf("first output:\n%s", out)
	}
	for _, a := range addresses {
		if err := healthy(connect(t, a, insecure.NewCredentials())); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	conn := connect(t, addresses[0], insecure.NewCredentials())
	if _, err := walsvcv1.NewLogServiceClient(conn).CreateLog(t.Context(), &walsvcv1.CreateLogRequest{Name: "l"}); err != nil {
		t.Fatal(err)
	}
	if _, err := walsvcv1.NewAppendServiceClient(conn).Append(t.Context(), &walsvcv1.AppendRequest{
		Log: "l", Records: &walsvcv1.Records{Record: [][]byte{[]byte("kept")}},
	}); err != nil {
		t.Fatal(err)
	}
	p.signals <- syscall.SIGTERM
	if code, err := p.wait(); code != exitOK {
		t.Fatalf("exit %d: %v", code, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "walsvc.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket after an orderly stop: %v", err)
	}

	p = start(t, "--data", dir)
	conn = connect(t, p.ready(1)[0], insecure.NewCredentials())
	read, err := walsvcv1.NewReplayServiceClient(conn).Read(t.Context(), &walsvcv1.ReadRequest{Log: "l"})
	if err != nil || string(read.GetRecords().GetRecord()[0]) != "kept" {
		t.Errorf("after a restart: %v, %v", read, err)
	}
	info, err := walsvcv1.NewAdminServiceClient(conn).GetServerInfo(t.Context(), &walsvcv1.GetServerInfoRequest{})
	if err != nil || info.GetFormatVersion() == 0 || info.GetVersion() == "" || info.GetApiVersion() != "v1" {
		t.Errorf("info: %v, %v", info, err)
	}
}

// TestAdminAddress asks a running service over HTTP.
func TestAdminAddress(t *testing.T) {
	p := start(t, "--data", directory(t), "--create", "--admin=127.0.0.1:0")
	conn := connect(t, p.ready(1)[0], insecure.NewCredentials())
	if _, err := walsvcv1.NewLogServiceClient(conn).CreateLog(t.Context(), &walsvcv1.CreateLogRequest{Name: "l"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a frame is counted before the next one is acknowledged
		if _, err := walsvcv1.NewAppendServiceClient(conn).Append(t.Context(), &walsvcv1.AppendRequest{
			Log: "l", Records: &walsvcv1.Records{Record: [][]byte{[]byte("a"), []byte("b")}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := p.text()
	first, _, _ := strings.Cut(out, "\n")
	url, ok := strings.CutPrefix(first, "admin ")
	if !ok {
		t.Fatalf("first line %q does not say where the admin address is", first)
	}
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	ask := func(path string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, answer.Status, err)
		}
		return string(text)
	}
	ask("/healthz")
	ask("/readyz")
	ask("/debug/pprof/goroutine")
	text := ask("/metrics")
	for _, want := range []string{"\nwalsvc_records_total 4\n", "\nwalsvc_frame_records_sum ", "\nwalsvc_poisoned 0\n", "\ngo_goroutines "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\nwalsvc_frame_records_sum 0\n") {
		t.Error("no frame was observed")
	}
}

func TestSocketIsPrivateFromTheFirstMoment(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0)) // nothing to rely on
	path := filepath.Join(filepath.Dir(directory(t)), "s")
	lc, err := listenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer lc.Close()
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|socketMode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestDeadSocketIsReplaced(t *testing.T) {
	dir := directory(t)
	path := filepath.Join(filepath.Dir(dir), "s")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	p := start(t, "--data", dir, "--create", "--socket", path)
	if err := healthy(connect(t, p.ready(1)[0], insecure.NewCredentials())); err != nil {
		t.Error(err)
	}
}

// TestRefusals: when it must not serve, it says so with the exit code for it and
// a next step, and leaves everything as it was.
func TestRefusals(t *testing.T) {
	volume := func(t *testing.T) string {
		dir := directory(t)
		v, err := wal.Open(t.Context(), dir, wal.Options{Create: true, SegmentSize: 1 << 20, PrepareRate: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, tc := range []struct {
		name string
		args func(t *testing.T) []string
		code int
		text string // of the message or the next step
	}{
		{"unknown flag", func(*testing.T) []string { return []string{"--frob"} }, exitUsage, "walsvc help"},
		{"unknown command", func(*testing.T) []string { return []string{"frob"} }, exitUsage, "walsvc help"},
		{"bare TCP beyond loopback", func(*testing.T) []string { return []string{"--listen=0.0.0.0:0"} }, exitUsage, "tls-cert"},
		{"TCP beyond loopback for everybody", func(*testing.T) []string {
			return []string{"--listen=0.0.0.0:0", "--tls-cert=/nowhere", "--tls-key=/nowhere"}
		}, exitUsage, "tls-client-ca"},
		{"no certificate", func(t *testing.T) []string {
			return []string{"--listen=0.0.0.0:0", "--tls-cert=/nowhere", "--tls-key=/nowhere", "--tls-any-client", "--data", volume(t)}
		}, exitUsage, "--tls-cert"},
		{"named directory is missing", func(t *testing.T) []string { return []string{"--data", directory(t)} }, exitNoVolume, "--create"},
		{"named directory is empty", func(t *testing.T) []string {
			dir := directory(t)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			return []string{"--data", dir}
		}, exitNoVolume, "forgotten mount"},
		{"directory is a file", func(t *testing.T) []string {
			dir := directory(t)
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"--data", dir, "--create"}
		}, exitUsage, "not a directory"},
		{"in use", func(t *testing.T) []string {
			dir := volume(t)
			v, err := wal.Open(t.Context(), dir, wal.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = v.Close() })
			return []string{"--data", dir}
		}, exitInUse, "stop the other"},
		{"newer format", func(t *testing.T) []string {
			dir := volume(t)
			newer(t, filepath.Join(dir, "VOLUME"))
			return []string{"--data", dir}
		}, exitNewer, "a newer one"},
		{"identity lost", func(t *testing.T) []string {
			dir := volume(t)
			if err := os.Remove(filepath.Join(dir, "VOLUME")); err != nil {
				t.Fatal(err)
			}
			return []string{"--data", dir}
		}, exitDamaged, "walctl verify"},
		{"socket path too long", func(t *testing.T) []string {
			return []string{"--data", volume(t), "--socket", "/tmp/" + strings.Repeat("x", 120)}
		}, exitUsage, "--socket"},
		{"socket is a file", func(t *testing.T) []string {
			dir := volume(t)
			if err := os.WriteFile(filepath.Join(dir, "s"), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"--data", dir, "--socket", filepath.Join(dir, "s")}
		}, exitInUse, "no socket"},
		{"socket is alive", func(t *testing.T) []string {
			dir := volume(t)
			path := filepath.Join(filepath.Dir(dir), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return []string{"--data", dir, "--socket", path}
		}, exitInUse, "another process"},
		{"address in use", func(t *testing.T) []string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return []string{"--data", volume(t), "--listen", l.Addr().String()}
		}, exitInUse, "--listen"},
		{"admin address in use", func(t *testing.T) []string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return []string{"--data", volume(t), "--admin", l.Addr().String()}
		}, exitInUse, "set another --admin"},
		{"address of another machine", func(t *testing.T) []string {
			return []string{"--data", volume(t), "--admin", "192.0.2.1:0"}
		}, exitFailed, "an address of this machine, and a port that there is, with --admin"},
		{"directory of the socket is missing", func(t *testing.T) []string {
			return []string{"--data", volume(t), "--socket", filepath.Join(directory(t), "s")}
		}, exitUsage, "make the directory"},
		{"value of a flag", func(*testing.T) []string { return []string{"--max-connections=many"} }, exitUsage, `"many" is not a whole number`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, tc.args(t)...)
			code, err := p.wait()
			var said strings.Builder
			report(&said, err)
			if code != tc.code || !strings.Contains(said.String(), tc.text) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, tc.code, tc.text, &said)
			}
			if out, _ := p.text(); strings.Contains(out, "ready") {
				t.Errorf("it was ready:\n%s", out)
			}
		})
	}
}

// newer makes a VOLUME file one of a newer format; see docs/format.md.
func newer(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[8]++
	sum := len(b) - 4
	binary.LittleEndian.PutUint32(b[sum:], crc32.Checksum(b[:sum], crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// spawn starts walsvc as a process of its own and waits until it is ready.
func spawn(t *testing.T, args ...string) (cmd *exec.Cmd, address string) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], append([]string{"--segment-size=1MiB", "--prepare-rate=unlimited"}, args...)...)
	return cmd, await(t, cmd)
}

// await starts what becomes a walsvc and waits until it is ready.
func await(t *testing.T, cmd *exec.Cmd) (address string) {
	t.Helper()
	cmd.Env = append(os.Environ(), asProcess+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if a, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			return a
		}
	}
	t.Fatalf("not ready: %v, %v", lines.Err(), cmd.Wait())
	return ""
}

// TestConnectionsLeaveTheVolumeItsFiles: a segment that cannot be opened for want of
// file descriptors poisons the volume, and clients take one each.
func TestConnectionsLeaveTheVolumeItsFiles(t *testing.T) {
	const room = 4
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, limits.ReservedFiles+room), os.Args[0],
		"--data", directory(t), "--create", "--segment-size=64KiB", "--prepare-rate=unlimited", "--log-level=error")
	address := await(t, cmd)
	conn := connect(t, address, insecure.NewCredentials())
	if _, err := walsvcv1.NewLogServiceClient(conn).CreateLog(t.Context(), &walsvcv1.CreateLogRequest{Name: "l"}); err != nil {
		t.Fatal(err)
	}
	var last net.Conn
	for range limits.ReservedFiles + room {
		c, err := net.Dial("unix", strings.TrimPrefix(address, "unix:"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		last = c
	}
	if err := last.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection more than there are files for: %d, %v", n, err)
	}
	record := make([]byte, 16<<10)
	for range 32 { // several segments
		_, err := walsvcv1.NewAppendServiceClient(conn).Append(t.Context(), &walsvcv1.AppendRequest{Log: "l", Records: &walsvcv1.Records{Record: [][]byte{record}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

func TestLeftForConnections(t *testing.T) {
	for files, want := range map[uint64]int{
		0: 1, limits.ReservedFiles: 1, limits.ReservedFiles + 1: 1, limits.ReservedFiles + 2: 2, 1024: 768, math.MaxUint64: math.MaxInt32,
	} {
		if got := leftForConnections(files); got != want {
			t.Errorf("%d files: %d connections, want %d", files, got, want)
		}
	}
}

// TestSecondSignalDoesNotWait for a client that never reads what it is sent.
func TestSecondSignalDoesNotWait(t *testing.T) {
	cmd, address := spawn(t, "--data", directory(t), "--create", "--drain-deadline=1h", "--log-level=error")
	conn := connect(t, address, insecure.NewCredentials(), grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
	stream, err := walsvcv1.NewAppendServiceClient(conn).AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	refused := &walsvcv1.AppendStreamRequest{Batches: slices.Repeat([]*walsvcv1.Batch{{Binding: 1}}, limits.MaxBatchesPerMessage)}
	padding := &walsvcv1.AppendStreamRequest{Batches: []*walsvcv1.Batch{{
		Binding: 1, Records: &walsvcv1.Records{Record: [][]byte{make([]byte, 3<<20)}},
	}}}
	// The padding is more than the windows hold: what is before it was answered.
	for _, m := range []*walsvcv1.AppendStreamRequest{refused, padding, padding, padding} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		// Two signals of a kind that come together are one.
		eventually(t, func() bool { return healthy(conn) != nil })
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitInterrupted {
		t.Errorf("it ended with %v", err)
	}
}

// TestKilledProcess leaves a socket behind and loses nothing.
func TestKilledProcess(t *testing.T) {
	dir := directory(t)
	cmd, address := spawn(t, "--data", dir, "--create")
	conn := connect(t, address, insecure.NewCredentials())
	if _, err := walsvcv1.NewLogServiceClient(conn).CreateLog(t.Context(), &walsvcv1.CreateLogRequest{Name: "l"}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if _, err := os.Lstat(filepath.Join(dir, "walsvc.sock")); err != nil {
		t.Fatalf("socket of a killed process: %v", err)
	}
	conn = connect(t, start(t, "--data", dir).ready(1)[0], insecure.NewCredentials())
	if _, err := walsvcv1.NewLogServiceClient(conn).GetLog(t.Context(), &walsvcv1.GetLogRequest{Name: "l"}); err != nil {
		t.Error(err)
	}
}

// eventually polls what another process's progress makes true.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Fatal("never")
		}
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(filepath.Dir(directory(t)), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	told := func() string {
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	p := start(t, "--data", directory(t), "--create")
	if got := told(); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	p.ready(1)
	p.signals <- syscall.SIGTERM
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	if code, err := p.wait(); code != exitOK {
		t.Errorf("exit %d: %v", code, err)
	}
}

func TestTLSWithClientAuthorities(t *testing.T) {
	certs := t.TempDir()
	ca, caKey := certificate(t, certs, "ca", nil, nil)
	certificate(t, certs, "server", ca, caKey)
	certificate(t, certs, "client", ca, caKey)
	certificate(t, certs, "stranger", nil, nil)
	file := func(name string) string { return filepath.Join(certs, name) }

	serve := func(who ...string) (p *process, addr string) {
		p = start(t, append([]string{"--data", directory(t), "--create", "--socket=none", "--listen=0.0.0.0:0",
			"--tls-cert", file("server.pem"), "--tls-key", file("server.key")}, who...)...)
		_, port, err := net.SplitHostPort(strings.TrimPrefix(p.ready(1)[0], "tcp:"))
		if err != nil {
			t.Fatal(err)
		}
		return p, "127.0.0.1:" + port
	}
	asking, some := serve("--tls-client-ca", file("ca.pem"))
	trusting, all := serve("--tls-any-client")
	const warning = "clients are asked for no certificate"
	_, asks := asking.text()
	_, trusts := trusting.text()
	if strings.Contains(asks, warning) || !strings.Contains(trusts, warning) {
		t.Errorf("the one that asks for certificates logs\n%s\nand the other one\n%s", asks, trusts)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, tc := range []struct {
		addr, client string
		want         codes.Code
	}{{some, "client", codes.OK}, {some, "stranger", codes.Unavailable}, {some, "", codes.Unavailable}, {all, "", codes.OK}} {
		config := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
		if tc.client != "" {
			pair, err := tls.LoadX509KeyPair(file(tc.client+".pem"), file(tc.client+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		err := healthy(connect(t, tc.addr, credentials.NewTLS(config)))
		if status.Code(err) != tc.want {
			t.Errorf("client %q: %v, want %v", tc.client, err, tc.want)
		}
	}
}

// certificate writes name.pem and name.key; signed by itself without a parent.
func certificate(t *testing.T, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IsCA: parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestConfigAndVersionPrint(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"config", "--codec=s2"}, "codec: s2\n", exitOK},
		{[]string{"config", "--codec=s2", "-o", "json"}, `"codec": "s2"`, exitOK},
		{[]string{"config", "-o", "xml"}, "", exitUsage},
		{[]string{"config", "--codec=lz4"}, "", exitUsage},
		{[]string{"version"}, "format 1", exitOK},
		{[]string{"help", "exit-codes"}, "newer format", exitOK},
		{[]string{"--help"}, "--tls-client-ca", exitOK},
	} {
		p := start(t, tc.args...)
		code, err := p.wait()
		if out, _ := p.text(); code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("walsvc %v: exit %d (%v), output:\n%s", tc.args, code, err, out)
		}
	}
}

// TestNewsIsLogged: what begins or ends for good is in the service's log, with whom
// it concerns.
func TestNewsIsLogged(t *testing.T) {
	var b strings.Builder
	e := eventsTo(slog.New(slog.NewTextHandler(&b, nil)), nil, "", nil)
	e.WriterChanged(wal.WriterChange{Log: "orders", Epoch: 7, Holder: "db-2"})
	e.WriterChanged(wal.WriterChange{Log: "orders", Epoch: 8})
	for _, what := range []wal.ProducerEnd{wal.ProducerRetired, wal.ProducerMadeWay, wal.ProducerResolved} {
		e.ProducerEnded(wal.ProducerChange{Log: "orders", What: what, LastSequence: 42, Incarnation: 3})
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, want := range []string{
		`msg="writer acquired: whoever was before is fenced" log=orders holder=db-2 epoch=7`,
		`msg="writer released: the log is shared" log=orders epoch=8`,
		`level=WARN msg="producer retired`, `level=INFO msg="producer made way`, `level=INFO msg="producer resolved`,
	} {
		if i >= len(lines) || !strings.Contains(lines[i], want) || i > 1 && !strings.Contains(lines[i], "log=orders producer=00000000000000000000000000 last_sequence=42 incarnation=3") {
			t.Errorf("line %d: want %q in\n%s", i, want, b.String())
		}
	}
}

// TestMisspelledVariableIsTold: what was to ask clients for certificates must not be
// left out without a word.
func TestMisspelledVariableIsTold(t *testing.T) {
	var errout strings.Builder
	err := run(t.Context(), nil, []string{"--data", directory(t)}, []string{"WALSVC_TLS_CLIENT_AC=/ca.pem"}, io.Discard, &errout)
	if !errors.Is(err, wal.ErrNoVolume) || !strings.Contains(errout.String(), "level=WARN") || !strings.Contains(errout.String(), "names=[WALSVC_TLS_CLIENT_AC]") {
		t.Errorf("%v, and the log says\n%s", err, errout.String())
	}
}

func TestARefusedPortIsNoMatterOfTheDisk(t *testing.T) {
	err := explain(noListener("--listen", fmt.Errorf("listen on :80: %w", syscall.EACCES)))
	if err.code != exitUsage || !strings.Contains(err.next, "a port from 1024 on with --listen") {
		t.Errorf("exit %d, next: %s", err.code, err.next)
	}
}
