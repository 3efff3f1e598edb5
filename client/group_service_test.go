package client_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/walsvc/walsvc/client"
)

// TestGroupOfAService has a group outlive its service, a fenced log of its own, and
// an outcome that nobody heard.
func TestGroupOfAService(t *testing.T) {
	ctx := t.Context()
	s, c := open(t)
	options := client.LogOptions{ColocationKey: "engine"}
	data, index := create(t, c, "data", options), create(t, c, "index", options)
	apart := create(t, c, "apart", client.LogOptions{})
	part := func(records ...string) (p client.Part) {
		for _, r := range records {
			p.Records = append(p.Records, []byte(r))
		}
		return p
	}
	group := func(logs ...*client.Log) *client.Group {
		t.Helper()
		g, err := c.Group(logs...)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := group(data, index)
	got, err := g.Append(ctx, part("1"), part("a", "b"))
	if err != nil || got[0].LSN != 1 || got[1].LSN != 1 || got[1].Through != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if info, err := index.Info(ctx); err != nil || info.Claim() != got[1].Claim() {
		t.Errorf("index is %+v, %v; acknowledged was %+v", info, err, got[1])
	}
	if _, err := group(data, apart).Append(ctx, part("never"), part("never")); !errors.Is(err, client.ErrNotColocated) {
		t.Errorf("logs that are not together: %v", err)
	}

	// The service goes away and comes back under what is pending.
	var futures []*client.GroupFuture
	for i := range 20 {
		futures = append(futures, g.AppendAsync(ctx, part(fmt.Sprint(i)), part(fmt.Sprint(i))))
		if i == 10 {
			if err := errors.Join(s.stop(), s.start()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, f := range futures {
		if got, err := f.Wait(ctx); err != nil || got[0].LSN != client.LSN(2+i) || got[1].LSN != client.LSN(3+i) {
			t.Fatalf("batch %d: %+v, %v", i, got, err)
		}
	}

	// Somebody else becomes the writer of one of its logs.
	other, err := client.Open(ctx, s.socket(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	if _, err := other.Log("index").AcquireWriter(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	_, err = g.Append(ctx, part("never"), part("never"))
	var refused *client.Error
	if !errors.Is(err, client.ErrFenced) || !errors.As(err, &refused) || refused.Metadata["log"] != "index" {
		t.Errorf("fenced on one log: %v", err)
	}
	if _, err := index.AcquireWriter(ctx, "engine"); err != nil {
		t.Fatal(err)
	}
	got, err = g.Append(ctx, part("22"), part("y", "z"))
	if err != nil || got[0].LSN != 22 || got[1].LSN != 23 || got[1].Epoch != 3 {
		t.Fatalf("in the epoch that its handle acquired: %+v, %v", got, err)
	}

	// Who wants to know is told when it is written.
	written, err := client.Open(ctx, s.socket(), client.Options{WrittenAcks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close(ctx)
	third, fourth := create(t, written, "third", options), create(t, written, "fourth", options)
	early, err := written.Group(third, fourth)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		f := early.AppendAsync(ctx, part("w"), part("w"))
		<-f.Written()
		if got, err := f.Wait(ctx); err != nil || got[1].LSN != client.LSN(1+i) {
			t.Fatalf("written, and then durable: %+v, %v", got, err)
		}
	}

	// What became of it, and of the next one.
	asked := 0
	for p, err := range data.Producers(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if p.LastSequence == 0 { // of the group that could not append
			continue
		}
		for i, want := range []client.Outcome{client.Committed, client.NotWritten} {
			r, err := g.Resolve(ctx, &client.UnknownError{Producer: p.ID, Sequence: p.LastSequence + uint64(i)})
			if err != nil || r.Outcome != want {
				t.Errorf("%d behind the last: %+v, %v", i, r, err)
			}
			if want == client.Committed && (r.Receipt.LSN != 22 || len(r.Parts) != 1 || r.Parts[0].LSN != 23 || r.Parts[0].Count != 2 || r.Parts[0].Claim() != got[1].Claim()) {
				t.Errorf("committed at %+v", r)
			}
			asked++
		}
	}
	if asked != 2 {
		t.Errorf("asked for %d batches", asked)
	}
	if got, err = g.Append(ctx, part("23")); err != nil || got[0].LSN != 23 || got[1] != (client.Receipt{}) {
		t.Errorf("as its next incarnation: %+v, %v", got, err)
	}
}
