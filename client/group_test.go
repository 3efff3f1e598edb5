package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// one returns a part of one record.
func one(record string) Part { return Part{Records: [][]byte{[]byte(record)}} }

func newGroup(t testing.TB, c *Client, names ...string) *Group {
	t.Helper()
	var logs []*Log
	for _, name := range names {
		logs = append(logs, c.Log(name))
	}
	g, err := c.Group(logs...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// held returns what the fake has of a log.
func (f *fake) held(name string) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.logs[name].records {
		out = append(out, string(r))
	}
	return out
}

// TestGroupThroughBreaks appends batches over two logs while every message meets
// another fate: each lands once, in both logs, in order.
func TestGroupThroughBreaks(t *testing.T) {
	f := newFake()
	f.log("data")
	f.log("index")
	fates := []fate{served, lostAfter, lostBefore, halfLost, drained, served, ended, lostAfter}
	n := 0
	f.onMessage = func(_, _ int, m *wire.AppendRequest) fate {
		if len(m.Batches) == 0 {
			return served
		}
		n++
		return fates[n%len(fates)]
	}
	c := f.serve(t, Options{Streams: 2}) // the handles are on different streams
	g := newGroup(t, c, "data", "index")
	var futures []*GroupFuture
	var data, index []string
	for i := range 100 {
		rec := fmt.Sprint(i)
		parts := []Part{one(rec)}
		data = append(data, rec)
		if i%3 > 0 {
			parts = append(parts, Part{Records: [][]byte{[]byte("k" + rec), []byte("l" + rec)}})
			index = append(index, "k"+rec, "l"+rec)
		}
		futures = append(futures, g.AppendAsync(t.Context(), parts...))
		if i%10 == 0 {
			if _, err := futures[i].Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := LSN(1)
	for i, future := range futures {
		got, err := future.Wait(t.Context())
		if err != nil || len(got) != 2 || got[0].LSN != LSN(i+1) || got[0].Count != 1 || got[0].Through != LSN(i+1) {
			t.Fatalf("batch %d: %+v, %v", i, got, err)
		}
		if i%3 == 0 {
			if got[1] != (Receipt{}) {
				t.Errorf("batch %d, which has nothing for index: %+v", i, got[1])
			}
			continue
		}
		if got[1].LSN != next || got[1].Count != 2 || got[1].Through != next+1 || got[1].Log != f.logs["index"].id {
			t.Errorf("batch %d: %+v, want LSN %d of index", i, got[1], next)
		}
		next += 2
	}
	if got := f.held("data"); !slices.Equal(got, data) {
		t.Errorf("data has %q", got)
	}
	if got := f.held("index"); !slices.Equal(got, index) {
		t.Errorf("index has %q", got)
	}
	// What was acknowledged is stated for each log when it is bound again.
	f.mu.Lock()
	defer f.mu.Unlock()
	stated := map[string]uint64{}
	for _, b := range f.binds {
		stated[b.GetLog()] = max(stated[b.GetLog()], b.GetClaim().GetLsn())
	}
	if stated["data"] == 0 || stated["index"] == 0 {
		t.Errorf("claimed: %v", stated)
	}
}

// TestGroupRefusal has a part refused in a pipeline: nothing of it lands, its caller
// is told, those behind it land all the same, and every log goes on.
func TestGroupRefusal(t *testing.T) {
	f := newFake()
	f.log("data")
	f.log("index")
	c := f.serve(t, Options{})
	g := newGroup(t, c, "data", "index")
	first := g.AppendAsync(t.Context(), one("1"), one("a"))
	bad := g.AppendAsync(t.Context(), one("never"), Part{Records: [][]byte{[]byte("never")}, Expected: 9})
	behind := g.AppendAsync(t.Context(), one("2"), one("b"))
	leadOnly := g.AppendAsync(t.Context(), one("3"))
	if _, err := first.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := bad.Wait(t.Context())
	var e *Error
	if !errors.Is(err, ErrLSNMismatch) || !errors.As(err, &e) || e.Metadata["log"] != "index" {
		t.Errorf("the refused one: %v", err)
	}
	for _, future := range []*GroupFuture{behind, leadOnly} {
		if _, err := future.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := g.Append(t.Context(), one("4"), Part{Records: [][]byte{[]byte("c")}, Expected: 3}); err != nil {
		t.Errorf("expecting what comes next: %v", err)
	}
	if data, index := f.held("data"), f.held("index"); !slices.Equal(data, []string{"1", "2", "3", "4"}) || !slices.Equal(index, []string{"a", "b", "c"}) {
		t.Errorf("data has %q, index %q", data, index)
	}
}

// TestGroupBinds has binds of a group refused: it is given up as a whole, and the
// next append asks again.
func TestGroupBinds(t *testing.T) {
	f := newFake()
	f.log("data")
	f.log("index")
	f.log("third")
	var refuse *walsvcv1.Refusal
	on := ""
	f.onBind = func(b *walsvcv1.Bind) *walsvcv1.Refusal {
		if b.GetLog() == on {
			return refuse
		}
		return nil
	}
	c := f.serve(t, Options{})
	g := newGroup(t, c, "data", "index", "third")
	plain := c.Log("index")
	for _, log := range []string{"data", "index", "third"} {
		f.mu.Lock()
		refuse, on = refusal(codes.FailedPrecondition, "FENCED"), log
		f.mu.Unlock()
		if _, err := g.Append(t.Context(), one("never"), one("never"), one("never")); !errors.Is(err, ErrFenced) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("with %s fenced: %v", log, err)
		}
	}
	f.mu.Lock()
	on = ""
	f.mu.Unlock()
	// The stream has served others all along.
	if _, err := plain.Append(t.Context(), []byte("plain")); err != nil {
		t.Fatal(err)
	}
	plain.UseEpoch(7) // is stated by the group, too
	got, err := g.Append(t.Context(), one("1"), one("a"), one("x"))
	if err != nil || got[0].LSN != 1 || got[1].LSN != 2 || got[2].LSN != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	plain.UseEpoch(8)
	if _, err := g.Append(t.Context(), one("2"), one("b"), one("y")); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var epochs []uint64
	for _, b := range f.binds {
		if b.GetLog() == "index" && b.GetProducer() == "" && b.GetEpoch() != 0 {
			epochs = append(epochs, b.GetEpoch())
		}
	}
	if !slices.Equal(epochs, []uint64{7, 8}) {
		t.Errorf("epochs stated for index: %d", epochs)
	}
}

// TestGroupContradicted has the service say of a part what cannot be.
func TestGroupContradicted(t *testing.T) {
	for name, change := range map[string]func(v *wire.Verdict){
		"a part is missing":  func(v *wire.Verdict) { v.Parts = nil },
		"a part too many":    func(v *wire.Verdict) { v.Parts = append(v.Parts, v.Parts[0]) },
		"another count":      func(v *wire.Verdict) { v.Parts[0].Count++ },
		"another checksum":   func(v *wire.Verdict) { v.Parts[0].Checksum++ },
		"where it has been":  func(v *wire.Verdict) { v.Parts[0].First = 1 },
		"an epoch gone by":   func(v *wire.Verdict) { v.Parts[0].Epoch = 0 },
		"nothing was wrong!": nil,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.log("data")
			f.log("index")
			n := 0
			f.onVerdict = func(v *wire.Verdict) {
				if n++; n == 2 && change != nil {
					change(v)
				}
			}
			c := f.serve(t, Options{})
			g := newGroup(t, c, "data", "index")
			if _, err := g.Append(t.Context(), one("1"), one("a")); err != nil {
				t.Fatal(err)
			}
			_, err := g.Append(t.Context(), one("2"), one("b"))
			if change == nil && err != nil || change != nil && (!errors.Is(err, ErrProtocol) || !errors.Is(err, ErrUnknownOutcome)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestGroupRefusesItself is what does not reach the service.
func TestGroupRefusesItself(t *testing.T) {
	f := newFake()
	f.log("data")
	c, other := f.serve(t, Options{}), newFake().serve(t, Options{})
	data, index := c.Log("data"), c.Log("index")
	many := make([]*Log, limits.MaxBatchLogs+1)
	for i := range many {
		many[i] = c.Log(fmt.Sprint(i))
	}
	for name, logs := range map[string][]*Log{
		"of nothing": nil, "of too many": many, "a log twice": {data, index, data}, "of another client": {data, other.Log("index")},
	} {
		if _, err := c.Group(logs...); !errors.Is(err, ErrInvalid) {
			t.Errorf("a group %s: %v", name, err)
		}
	}
	g := newGroup(t, c, "data", "index")
	large := Part{Records: [][]byte{make([]byte, limits.MaxRecordSize), make([]byte, limits.MaxRecordSize/2)}}
	for name, tc := range map[string]struct {
		parts []Part
		want  error
	}{
		"nothing":              {nil, ErrEmptyBatch},
		"nothing for the lead": {[]Part{{}, one("a")}, ErrEmptyBatch},
		"a part too many":      {[]Part{one("1"), one("a"), {}}, ErrInvalid},
		"too large together":   {[]Part{large, large}, ErrTooLarge},
		"a record too large":   {[]Part{one("1"), {Records: [][]byte{make([]byte, limits.MaxRecordSize+1)}}}, ErrTooLarge},
		"too many records":     {[]Part{one("1"), {Records: make([][]byte, limits.MaxBatchRecords+1)}}, ErrTooLarge},
		"a log that is none":   {[]Part{one("1"), one("a")}, ErrLogNotFound},
	} {
		if _, err := g.Append(t.Context(), tc.parts...); !errors.Is(err, tc.want) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
