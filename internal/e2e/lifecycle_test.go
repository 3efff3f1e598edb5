package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/service"
)

// inOrder checks that a log has exactly these records.
func inOrder(t *testing.T, l *client.Log, want []string) {
	t.Helper()
	n := 0
	for r, err := range l.Replay(t.Context(), client.ReplayOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n >= len(want) || string(r.Data) != want[n] {
			t.Fatalf("LSN %d is %.40q; want %d records", r.LSN, r.Data, len(want))
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d records, want %d", n, len(want))
	}
}

// TestDrain stops the service with SIGTERM under load: it exits with 0, every
// append is acknowledged, by this process or, sent again, by the next one, each
// is there once, and the next start finds the volume clean.
func TestDrain(t *testing.T) {
	dir := filepath.Join(newDir(t), "v")
	p := start(t, dir)
	c := open(t, p)
	const logs, each = 3, 2000
	var appending sync.WaitGroup
	acked := make(chan struct{}, logs*each)
	var want [logs][]string
	for i := range logs {
		l := create(t, c, fmt.Sprintf("log-%d", i))
		for k := range each {
			want[i] = append(want[i], fmt.Sprintf("%d of log %d", k, i))
		}
		appending.Go(func() {
			for _, r := range want[i] {
				l.AppendAsyncFunc(t.Context(), []byte(r), func(_ client.Receipt, err error) {
					if err != nil {
						t.Errorf("append: %v", err)
					}
					acked <- struct{}{}
				})
			}
		})
	}
	<-acked
	stop(t, p)
	p = start(t, dir)
	status, err := c.Status(t.Context())
	if err != nil || status.GetRecovery().GetCase() != "clean" || status.GetRecovery().GetRewrittenFrames() != 0 {
		t.Errorf("%+v, %v; it says%s", status.GetRecovery(), err, p.Said())
	}
	appending.Wait()
	for range logs*each - 1 {
		select {
		case <-acked:
		case <-time.After(limit):
			t.Fatal("appends are not acknowledged after the restart")
		}
	}
	for i := range logs {
		inOrder(t, c.Log(fmt.Sprintf("log-%d", i)), want[i])
	}
}

// TestStopAndContinue freezes the process: appends time out with an unknown
// outcome, go on when it is continued, and each is there once.
func TestStopAndContinue(t *testing.T) {
	p := start(t, filepath.Join(newDir(t), "v"))
	c := open(t, p)
	l := create(t, c, "orders")
	want := []string{"before"}
	if _, err := l.Append(t.Context(), []byte("before")); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// The signal is sent; one thread after the other hears of it.
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(p.PID(), &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("status %x, %v", status, err)
		}
		var futures []*client.Future
		for i := range 50 {
			r := fmt.Sprintf("round %d, record %d", round, i)
			futures = append(futures, l.AppendAsync(t.Context(), []byte(r)))
			want = append(want, r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := futures[0].Wait(ctx); !errors.Is(err, client.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("round %d: an append to a stopped process: %v", round, err)
		}
		cancel()
		if err := syscall.Kill(p.PID(), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), limit)
		for i, f := range futures {
			if receipt, err := f.Wait(ctx); err != nil || int(receipt.LSN) != 2+50*round+i {
				t.Errorf("round %d, record %d: %+v, %v", round, i, receipt, err)
			}
		}
		cancel()
	}
	inOrder(t, l, want)
}

// TestTriesOneProcessor has a service under load run on one processor, for a trial at
// least, which its metrics tell. A machine with no more has it so from the beginning.
func TestTriesOneProcessor(t *testing.T) {
	processors := func(p *service.Process) (n int) {
		t.Helper()
		said := regexp.MustCompile(`(?m)^.*\badmin (http://\S+)$`).FindStringSubmatch(p.Said())
		if said == nil {
			t.Fatalf("the admin address is not told:\n%s", p.Said())
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, said[1]+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		is := regexp.MustCompile(`(?m)^go_sched_gomaxprocs_threads (\d+)$`).FindSubmatch(page)
		if is == nil {
			t.Fatal("the number of processors is not told")
		}
		if n, err = strconv.Atoi(string(is[1])); err != nil {
			t.Fatal(err)
		}
		return n
	}
	p := start(t, filepath.Join(newDir(t), "v"), "--admin", "127.0.0.1:0")
	l := create(t, open(t, p), "orders")
	for deadline := time.Now().Add(limit); processors(p) != 1; {
		if _, err := l.Append(t.Context(), []byte("1")); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("it was never tried on one processor")
		}
	}
	stop(t, p)
}
