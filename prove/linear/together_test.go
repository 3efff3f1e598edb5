package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"

	sdk "github.com/walsvc/walsvc/client"
	process "github.com/walsvc/walsvc/internal/service"
)

// Two logs that batches are for together have a model of their own: how far both
// have come. What lies where is compared with the logs as they are in the end, which
// nothing but appends changes; that says whose each record is, and porcupine only
// has to find an order in which both logs grow as was told, and every read shows the
// end of its log.

// A pairInput is an operation on two logs.
type pairInput struct {
	read   bool
	log    int       // that is read
	counts [2]uint64 // records that are appended to each
	// expected is the LSN that the part for the second log has to get; 0 for any.
	expected uint64
}

// A pairOutput is its answer.
type pairOutput struct {
	refused bool      // since the second log was elsewhere
	first   [2]uint64 // of the records appended
	next    uint64    // behind the last record that was read
}

// pairState has the next LSN of both logs.
type pairState [2]uint64

// pairModel has two logs. An operation that was not answered is not in it: the SDK
// appends until it knows, and a read without an answer did nothing.
var pairModel = porcupine.Model{
	Init: func() any { return pairState{1, 1} },
	Step: func(s, in, out any) (bool, any) {
		next, ok := s.(pairState).step(in.(pairInput), out.(pairOutput))
		return ok, next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %+v", in, out) },
}

func (s pairState) step(in pairInput, out pairOutput) (pairState, bool) {
	next := s
	for i, n := range in.counts {
		if n > 0 && out.first[i] != s[i] {
			return s, out.refused && in.expected != s[1]
		}
		next[i] += n
	}
	switch {
	case in.read:
		return s, out.next == s[in.log]
	case out.refused:
		return s, in.expected != s[1]
	}
	return next, in.expected == 0 || in.expected == s[1]
}

// A pair is two logs, and what was asked and heard of them.
type pair struct {
	names [2]string
	ticks chan struct{} // one for each operation
	begun time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	shown   [2]map[uint64]string // what was told or shown of each log, by LSN
	landed  [2]uint64            // records that were acknowledged
	refused map[string]bool      // records that are nowhere
	wrong   error
}

// note notes an operation, with the records it appended or read.
func (p *pair) note(client int, call time.Duration, in pairInput, out pairOutput, records [2][]string) {
	now := time.Since(p.begun)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = append(p.history, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(call), Return: int64(now)})
	for i := range records {
		for k, r := range records[i] {
			if out.refused {
				p.refused[r] = true
				continue
			}
			lsn := out.first[i] + uint64(k)
			if was, known := p.shown[i][lsn]; known && was != r {
				p.wrong = errors.Join(p.wrong, fmt.Errorf("%s: LSN %d was %q, and is %q", p.names[i], lsn, was, r))
			}
			p.shown[i][lsn] = r
		}
		if !in.read && !out.refused {
			p.landed[i] += uint64(len(records[i]))
		}
	}
}

// write appends to both logs, or to one of them, until ctx ends.
func (p *pair) write(ctx context.Context, id int, c *sdk.Client, rng *rand.Rand) error {
	logs := [2]*sdk.Log{c.Log(p.names[0]), c.Log(p.names[1])}
	group, err := c.Group(logs[0], logs[1])
	if err != nil {
		return err
	}
	var likely uint64 // the second log's next LSN
	for n := 0; ctx.Err() == nil; n++ {
		var (
			in      pairInput
			out     pairOutput
			records [2][]string
			parts   [2]sdk.Part
		)
		alone := rng.IntN(6) // 0, 1: for one of the logs
		for i := range parts {
			if alone == 1-i {
				continue
			}
			for k := range 1 + rng.IntN(3) {
				records[i] = append(records[i], fmt.Sprintf("%d/%d/%d of %s", id, n, k, p.names[i]))
				parts[i].Records = append(parts[i].Records, []byte(records[i][k]))
			}
			in.counts[i] = uint64(len(records[i]))
		}
		if in.counts[0] > 0 && in.counts[1] > 0 && rng.IntN(4) == 0 {
			in.expected = max(likely, 1)
			parts[1].Expected = sdk.LSN(in.expected)
		}
		call := time.Since(p.begun)
		// Not bounded: the SDK goes on until it knows.
		var receipts [2]sdk.Receipt
		if in.counts[0] > 0 {
			var got []sdk.Receipt
			got, err = group.Append(context.WithoutCancel(ctx), parts[:]...)
			copy(receipts[:], got)
		} else {
			receipts[1], err = logs[1].AppendBatch(context.WithoutCancel(ctx), parts[1].Records)
		}
		switch {
		case errors.Is(err, sdk.ErrLSNMismatch):
			out.refused = true
			likely = 0
		case err != nil:
			return err
		default:
			for i := range receipts {
				out.first[i] = uint64(receipts[i].LSN)
			}
			likely = max(likely, out.first[1]+in.counts[1])
		}
		if out.refused {
			if info, err := logs[1].Info(context.WithoutCancel(ctx)); err == nil {
				likely = uint64(info.Next)
			}
		}
		p.note(id, call, in, out, records)
		p.ticks <- struct{}{}
	}
	return nil
}

// watch reads the ends of both logs in turn until ctx ends: what it saw in one is
// in the other.
func (p *pair) watch(ctx context.Context, id int, c *sdk.Client) error {
	next := [2]uint64{1, 1}
	for n := 0; ctx.Err() == nil; n++ {
		i := n % 2
		from := next[i] - min(next[i]-1, 5)
		bound, cancel := context.WithTimeout(ctx, time.Second)
		call := time.Since(p.begun)
		got, err := c.Log(p.names[i]).Read(bound, sdk.LSN(from), 1000)
		cancel()
		p.ticks <- struct{}{}
		if errors.Is(err, sdk.ErrDataLoss) || errors.Is(err, sdk.ErrLSNAhead) {
			return err
		}
		if err != nil || len(got) == 1000 { // not to its end
			continue
		}
		var records [2][]string
		out := pairOutput{next: from + uint64(len(got))}
		out.first[i] = from
		for _, r := range got {
			records[i] = append(records[i], string(r.Data))
		}
		next[i] = out.next
		p.note(id, call, pairInput{read: true, log: i}, out, records)
	}
	return nil
}

// TestTogether kills walsvc under clients that append to two logs in one batch, and
// others that read both.
func TestTogether(t *testing.T) {
	rng := seeded(t)
	binary := build(t)
	dir, err := os.MkdirTemp("", "wl-") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	start := func() *process.Process {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		s, err := process.Start(ctx, process.Options{Binary: binary, Dir: filepath.Join(dir, "v"), Args: []string{
			"--segment-size", "256KiB", "--prepare-rate", "unlimited", "--log-level", "error",
		}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	service := start()
	t.Cleanup(func() { _ = service.Kill() }) // it is gone already if all went well
	open := func() *sdk.Client {
		c, err := sdk.Open(t.Context(), service.Addr(), sdk.Options{Dial: []grpc.DialOption{
			grpc.WithConnectParams(reconnect), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	p := &pair{
		names: [2]string{"data", "index"}, ticks: make(chan struct{}), begun: time.Now(),
		shown: [2]map[uint64]string{{}, {}}, refused: map[string]bool{},
	}
	admin := open()
	for _, name := range p.names {
		if _, _, err := admin.CreateLog(t.Context(), name, sdk.LogOptions{ColocationKey: "pair"}); err != nil {
			t.Fatal(err)
		}
	}

	const writers, watchers = 4, 2
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, writers+watchers)
	clients := []*sdk.Client{admin}
	for id := range writers + watchers {
		c := open()
		clients = append(clients, c)
		if id < writers {
			own := rand.New(rand.NewPCG(rng.Uint64(), 0))
			go func() { ended <- p.write(ctx, id, c, own) }()
		} else {
			go func() { ended <- p.watch(ctx, id, c) }()
		}
	}
	for range *rounds {
		for range *between/2 + rng.IntN(*between) {
			select {
			case <-p.ticks:
			case err := <-ended:
				t.Fatal(err)
			}
		}
		if err := service.Kill(); err != nil {
			t.Fatal(err)
		}
		service = start()
	}
	stop()
	for left := writers + watchers; left > 0; {
		select {
		case <-p.ticks:
		case err := <-ended:
			if left--; err != nil {
				t.Fatal(err)
			}
		}
	}
	p.judge(t, admin)
	for _, c := range clients {
		if err := c.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	stopped, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := service.Stop(stopped); err != nil {
		t.Error(err)
	}
}

// judge compares what was told with the logs as they are now, and has porcupine
// look for an order.
func (p *pair) judge(t *testing.T, c *sdk.Client) {
	t.Helper()
	if p.wrong != nil {
		t.Error(p.wrong)
	}
	for i, name := range p.names {
		var lsn uint64
		for r, err := range c.Log(name).Replay(t.Context(), sdk.ReplayOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			lsn++
			if was := p.shown[i][lsn]; uint64(r.LSN) != lsn || was != string(r.Data) {
				t.Fatalf("%s: LSN %d is %q; %q was told of %d", name, r.LSN, r.Data, was, lsn)
			}
			if p.refused[string(r.Data)] {
				t.Errorf("%s: LSN %d is of a batch that was refused", name, lsn)
			}
		}
		if lsn != p.landed[i] || int(lsn) != len(p.shown[i]) {
			t.Errorf("%s has %d records, %d were acknowledged, %d told or shown", name, lsn, p.landed[i], len(p.shown[i]))
		}
	}
	var both, refused, reads int
	for _, o := range p.history {
		in, out := o.Input.(pairInput), o.Output.(pairOutput)
		switch {
		case in.read:
			reads++
		case out.refused:
			refused++
		case in.counts[0] > 0 && in.counts[1] > 0:
			both++
		}
	}
	t.Logf("%d batches over both logs, %d refused, %d reads", both, refused, reads)
	if both == 0 || refused == 0 || reads == 0 {
		t.Error("want some of each")
	}
	if verdict := porcupine.CheckOperationsTimeout(pairModel, p.history, patience); verdict != porcupine.Ok {
		t.Errorf("%s: there is no order in which all of it is right", verdict)
	}
}

// TestPairModel: the model takes no history of half a batch.
func TestPairModel(t *testing.T) {
	both := pairInput{counts: [2]uint64{1, 2}}
	read := func(log int) pairInput { return pairInput{read: true, log: log} }
	at := func(a, b uint64) pairOutput { return pairOutput{first: [2]uint64{a, b}} }
	for _, tt := range []struct {
		name    string
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		{"in order", []porcupine.Operation{
			{Input: both, Output: at(1, 1), Call: 1, Return: 2},
			{Input: read(0), Output: pairOutput{next: 2}, Call: 3, Return: 4},
			{Input: read(1), Output: pairOutput{next: 3}, Call: 5, Return: 6},
		}, porcupine.Ok},
		{"seen in one, and then not in the other", []porcupine.Operation{
			{Input: both, Output: at(1, 1), Call: 1, Return: 9},
			{ClientId: 1, Input: read(0), Output: pairOutput{next: 2}, Call: 2, Return: 3},
			{ClientId: 1, Input: read(1), Output: pairOutput{next: 1}, Call: 4, Return: 5},
		}, porcupine.Illegal},
		{"not there after it was acknowledged", []porcupine.Operation{
			{Input: both, Output: at(1, 1), Call: 1, Return: 2},
			{Input: read(1), Output: pairOutput{next: 1}, Call: 3, Return: 4},
		}, porcupine.Illegal},
		{"in two orders", []porcupine.Operation{
			{Input: both, Output: at(1, 3), Call: 1, Return: 9},
			{ClientId: 1, Input: both, Output: at(2, 1), Call: 1, Return: 9},
		}, porcupine.Illegal},
		{"refused where it would have fitted", []porcupine.Operation{
			{Input: pairInput{counts: [2]uint64{1, 1}, expected: 1}, Output: pairOutput{refused: true}, Call: 1, Return: 2},
		}, porcupine.Illegal},
		{"refused", []porcupine.Operation{
			{Input: pairInput{counts: [2]uint64{1, 1}, expected: 2}, Output: pairOutput{refused: true}, Call: 1, Return: 2},
			{Input: both, Output: at(1, 1), Call: 3, Return: 4},
		}, porcupine.Ok},
		{"landed elsewhere than it expected", []porcupine.Operation{
			{Input: pairInput{counts: [2]uint64{1, 1}, expected: 2}, Output: at(1, 1), Call: 1, Return: 2},
		}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperationsTimeout(pairModel, tt.history, patience); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
