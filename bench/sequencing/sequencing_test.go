package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// BenchmarkSequence is the step done each way.
func BenchmarkSequence(b *testing.B) {
	const size = 400
	for _, w := range ways {
		for _, n := range callers {
			b.Run(fmt.Sprintf("way=%s/callers=%d/size=%d", w.name, n, size), func(b *testing.B) {
				l, err := w.newLoad(n, size)
				if err != nil {
					b.Fatal(err)
				}
				defer l.stop()
				b.ReportAllocs()
				b.ResetTimer()
				if _, err := l.run(b.N); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// Each way sequences everything once and in each caller's order, and what is in
// the frame at the end says so: frames that were full are gone.
func TestWays(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			const n = 3000
			l, err := w.newLoad(7, 4096)
			if err != nil {
				t.Fatal(err)
			}
			defer l.stop()
			for range 2 { // the second goes on where the first ended
				if _, err := l.run(n); err != nil {
					t.Fatal(err)
				}
			}
			if want := 2 * n * 4096 / limits.FrameFullSize; l.journal.frames != want {
				t.Errorf("%d frames were full, want %d", l.journal.frames, want)
			}
			commands, err := wal.DecodeCommands(nil, l.journal.meta)
			if err != nil {
				t.Fatal(err)
			}
			next := map[uint64]uint64{}
			for i, c := range commands {
				if !reflect.DeepEqual(c, l.journal.commands[i]) {
					t.Fatalf("command %d is spelled as %+v, was %+v", i, c, l.journal.commands[i])
				}
				if was := next[c.Log]; was != 0 && c.Sequence != was {
					t.Fatalf("log %d: sequence %d where %d was due", c.Log, c.Sequence, was)
				}
				next[c.Log] = c.Sequence + 1
				caller := l.callers[c.Log-1]
				run := caller.batches[(c.Sequence-1)%window].run
				if !bytes.Equal(l.journal.block[c.Offset:c.Offset+c.Size], run) {
					t.Fatalf("log %d: sequence %d has other bytes", c.Log, c.Sequence)
				}
			}
		})
	}
}

// A way that loses an append, or sequences two in the wrong order, is told from
// one that is quick.
func TestWaysThatCheat(t *testing.T) {
	for name, start := range map[string]func(*journal) turn{
		"loses one": func(j *journal) turn {
			return turn{enter: func(b *batch) {
				if b.sequence != 50 {
					j.sequence(b)
				}
			}}
		},
		"swaps two": func(j *journal) turn {
			var kept *batch
			return turn{enter: func(b *batch) {
				if b.sequence == 50 {
					kept = b
					return
				}
				j.sequence(b)
				if kept != nil {
					j.sequence(kept)
					kept = nil
				}
			}}
		},
	} {
		l, err := way{name: name, start: start}.newLoad(1, 400)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.run(100); err == nil || !strings.Contains(err.Error(), "100 appended, the last is sequence ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestCommand(t *testing.T) {
	defer func(was []int) { callers = was }(callers)
	callers = []int{1, 3}
	var out bytes.Buffer
	if err := command(t.Context(), []string{"-rounds", "2", "-duration", time.Millisecond.String(), "-o", "json"}, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != len(callers)*len(ways) {
		t.Fatalf("%d cells", len(r.Cells))
	}
	for _, c := range r.Cells {
		if c.NS <= 0 || c.PerSecond <= 0 || c.ToBase <= 0 || c.Way == c.Base && c.ToBase != 1 {
			t.Errorf("%+v", c)
		}
	}
	for _, markdown := range []bool{false, true} {
		out.Reset()
		if err := r.write(&out, markdown); err != nil || strings.Count(out.String(), "goroutine") != len(callers) || strings.Count(out.String(), "x together") != 2*len(callers) {
			t.Errorf("%v\n%s", err, &out)
		}
	}
	for _, args := range [][]string{{"-rounds", "0"}, {"-size", "0"}, {"-o", "xml"}} {
		if err := command(t.Context(), args, &out); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
