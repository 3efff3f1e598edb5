package certify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// listen starts a witness on a port of its own, which ends with the test.
func listen(t *testing.T) (w *Witness, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w = NewWitness()
	served := make(chan error)
	go func() { served <- w.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w, ln.Addr().String()
}

// heardAll waits until a witness has heard of so many steps of every lane.
func heardAll(t *testing.T, w *Witness, steps uint64) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(time.Millisecond) {
		for _, r := range w.Records() {
			behind := 0
			for _, lane := range laneNames {
				if r.Acked[lane] < steps {
					behind++
				}
			}
			if behind == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the witness heard only %+v", w.Records())
		}
	}
}

// powerCut runs a load under a witness over TCP, cuts the power while it runs,
// and returns what After says when the machine is up again.
func powerCut(t *testing.T, d *fakeDisk, boot string) *Report {
	t.Helper()
	w, addr := listen(t)
	o := d.options(t)
	conn, err := DialWitness(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := Witnessed(t.Context(), o, conn, nil, nil)
		ended <- err
	}()
	heardAll(t, w, minSteps)
	if err := d.cut(func() {}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the load outlived its disk")
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	d.lieSync, d.lieSyncDir = nil, nil
	o.fs = d.fs()
	o.locate = func(string) (*disk.Place, error) { return &disk.Place{FileSystem: "ext4", Boot: boot}, nil }
	r, err := After(t.Context(), o, func(run ulid.ULID) (*Record, error) { return FetchRecord(t.Context(), addr, run) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPowerCutOfAnHonestDisk(t *testing.T) {
	d := newFakeDisk(11, 0.5)
	r := powerCut(t, d, "two")
	c := r.Cut
	if r.Verdict != Certified || c.Kind != KindPower || !c.Restarted || c.Cuts != 1 || c.Acknowledged < minSteps*uint64(len(laneNames)) {
		t.Errorf("%s: %q: %+v", r.Verdict, r.Words, c)
	}
	if !strings.Contains(strings.Join(r.Words, " "), "is your word") {
		t.Errorf("it claims too much: %q", r.Words)
	}
	if left := readAll(t, d.fs(), "/disk"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestLostTail: from some moment on syncs do nothing, as with a cache that fills
// faster than it empties. The witness heard of what they said.
func TestLostTail(t *testing.T) {
	d := newFakeDisk(12, 0)
	honest := locked(countdown(60))
	d.lieSync = func() bool { return !honest() }
	r := powerCut(t, d, "two")
	if r.Verdict != Dishonest || r.Cut.Lost == 0 {
		t.Errorf("%s: %q: %+v", r.Verdict, r.Words, r.Cut)
	}
}

// TestNoRestart: without one, whatever else is found, the page cache was there.
func TestNoRestart(t *testing.T) {
	if r := powerCut(t, newFakeDisk(13, 0.5), "one"); r.Verdict != Inconclusive || r.Cut.Restarted {
		t.Errorf("%s: %q", r.Verdict, r.Words)
	}
}

// TestRecordInAFile: a load that is interrupted leaves a record and a directory
// that agree, and one whose last line is cut off says less, and nothing wrong.
func TestRecordInAFile(t *testing.T) {
	d := newFakeDisk(14, 0)
	o := d.options(t)
	ctx, cancel := context.WithCancel(t.Context())
	var file bytes.Buffer
	result, err := Witnessed(ctx, o, &file, nil, func(steps uint64) {
		if steps > 100 {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ReadRecord(bytes.NewReader(file.Bytes()))
	if err != nil || r.Run != result.Run || sum(r.Acked) == 0 || sum(r.Acked) > result.Acknowledged {
		t.Fatalf("record %+v, %v; result %+v", r, err, result)
	}
	for cut := file.Len(); cut > file.Len()-30; cut-- {
		part, err := ReadRecord(bytes.NewReader(file.Bytes()[:cut]))
		if err != nil {
			t.Fatal(err)
		}
		for lane, step := range part.Acked {
			if step > r.Acked[lane] {
				t.Fatalf("cut off at %d: lane %s at %d, it was at %d", cut, lane, step, r.Acked[lane])
			}
		}
	}
	other := &Record{Run: ulid.ULID{9}, Acked: map[string]uint64{}}
	if _, err := After(t.Context(), o, func(ulid.ULID) (*Record, error) { return other, nil }, nil); !isErr(err, ErrNoRecord) {
		t.Errorf("the record of another run: %v, want ErrNoRecord", err)
	}
	if _, err := After(t.Context(), o, func(ulid.ULID) (*Record, error) { return r, nil }, nil); err != nil {
		t.Error(err)
	}
	if _, err := After(t.Context(), o, nil, nil); !isErr(err, ErrNoRun) {
		t.Errorf("with nothing there: %v, want ErrNoRun", err)
	}
}

// TestWitnessFails: what nobody keeps proves nothing.
func TestWitnessFails(t *testing.T) {
	d := newFakeDisk(15, 0)
	broken := errors.New("broken pipe")
	if _, err := Witnessed(t.Context(), d.options(t), &failing{after: 5, err: broken}, nil, nil); !isErr(err, broken) {
		t.Errorf("error %v, want the witness's", err)
	}
}

type failing struct {
	after int
	err   error
}

func (w *failing) Write(p []byte) (int, error) {
	if w.after--; w.after < 0 {
		return 0, w.err
	}
	return len(p), nil
}

func TestWitnessAndStrangers(t *testing.T) {
	w, addr := listen(t)
	run := ulid.ULID{1}
	if _, err := FetchRecord(t.Context(), addr, run); !isErr(err, ErrNoRecord) {
		t.Errorf("unknown run: %v, want ErrNoRecord", err)
	}
	for _, said := range []string{
		"",
		"GET / HTTP/1.1\r\n\r\n",
		hello + "nonsense\n",
		helloAcks + "nobody\n",
		helloAcks + strings.Repeat("x", 10*limits.MaxWitnessLine),
		helloAcks + run.String() + "\nblocks 7\nblocks 5\nelsewhere 9\nblocks 8\n",
		helloAcks + run.String() + "\nfiles 3\nfiles -1\nfiles 4\n",
		helloAcks + run.String() + "\nfiles 11" + strings.Repeat("1", limits.MaxWitnessLine) + "\n",
	} {
		tell(t, addr, said)
	}
	r, err := FetchRecord(t.Context(), addr, run)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Acked) != 2 || r.Acked["blocks"] != 7 || r.Acked["files"] != 3 {
		t.Errorf("it keeps %v", r.Acked)
	}
	for i := range limits.MaxWitnessRuns + 3 {
		tell(t, addr, fmt.Sprintf("%s%s\n", helloAcks, ulid.ULID{2, byte(i >> 8), byte(i)}))
	}
	if n := len(w.Records()); n != limits.MaxWitnessRuns {
		t.Errorf("it keeps %d runs, want %d", n, limits.MaxWitnessRuns)
	}
}

// tell says something to a witness, and returns when it has hung up.
func tell(t *testing.T, addr, what string) {
	t.Helper()
	c, err := DialWitness(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// It may hang up before it has heard all.
	_, _ = io.WriteString(c, what)
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c)
}

func FuzzReadRecord(f *testing.F) {
	f.Add([]byte(helloAcks + ulid.ULID{1}.String() + "\nblocks 1\njournal-0 22\n"))
	f.Add([]byte(helloAcks))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ReadRecord(bytes.NewReader(text))
		if err != nil {
			return
		}
		if len(r.Acked) > len(laneNames) {
			t.Errorf("%d lanes", len(r.Acked))
		}
		again, err := ReadRecord(strings.NewReader(helloAcks + r.Run.String() + "\n" + spell(nil, r.Acked)))
		if err != nil || spell(nil, again.Acked) != spell(nil, r.Acked) {
			t.Errorf("%+v, %v; want %+v", again, err, r)
		}
	})
}
