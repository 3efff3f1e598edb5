package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
)

// errNoPipeline is for what makes one record durable at a time.
var errNoPipeline = fmt.Errorf("%w: every append waits for its sync", errors.ErrUnsupported)

// store makes records durable, in their order, and is not called again before it
// returns.
type store func(ctx context.Context, records [][]byte) error

// begin is a store in two steps: it orders records, and wait, which is called
// from another goroutine, returns when they are durable. The records may change
// after begin has returned.
type begin func(ctx context.Context, records [][]byte) (wait func() error, err error)

// A gatherer is the least that users of a library put in front of it: one
// goroutine stores, and what arrives meanwhile is its next batch. It is walsvc's
// bus without the rest, and what etcd and Consul do in their raft loops. A library
// that can begin a batch while another is being synced is given one more.
type gatherer struct {
	begin  begin
	most   int           // records of a batch
	flying chan struct{} // has a token for each batch that was begun

	mu      sync.Mutex
	records [][]byte
	acks    []acknowledge
	running bool // somebody stores, and will see what is added here
}

// gather returns a log that stores records in batches of at most so many.
func gather(store store, most int) bench.Log {
	return gatherAhead(func(ctx context.Context, records [][]byte) (func() error, error) { return nil, store(ctx, records) }, most, 1)
}

// gatherAhead is gather for a store in two steps, of which so many batches are
// begun at once. A batch without a wait is durable when it has begun.
func gatherAhead(begin begin, most, flying int) bench.Log {
	g := &gatherer{begin: begin, most: most, flying: make(chan struct{}, flying)}
	return sent(g.send)
}

func (g *gatherer) send(ctx context.Context, record []byte, ack acknowledge) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records, g.acks = append(g.records, record), append(g.acks, ack)
	if !g.running {
		g.running = true
		go g.run(ctx)
	}
}

// run stores until nothing is left. After an error nothing is stored any more:
// what is behind a hole must not become durable.
func (g *gatherer) run(ctx context.Context) {
	var (
		records [][]byte
		acks    []acknowledge
		err     error
	)
	for {
		g.mu.Lock()
		if len(g.records) == 0 {
			g.running = false
			g.mu.Unlock()
			return
		}
		// The two pairs of slices take turns.
		records, g.records = g.records, records[:0]
		acks, g.acks = g.acks, acks[:0]
		g.mu.Unlock()
		for at := 0; at < len(records); at += g.most {
			end := min(at+g.most, len(records))
			g.flying <- struct{}{}
			var wait func() error
			if err == nil {
				wait, err = g.begin(ctx, records[at:end])
			}
			if wait == nil || err != nil {
				<-g.flying
				tell(acks[at:end], err)
				continue
			}
			told := slices.Clone(acks[at:end])
			go func() {
				err := wait()
				<-g.flying
				tell(told, err)
			}()
		}
		clear(records) // what was acknowledged is its caller's
		clear(acks)
	}
}

func tell(acks []acknowledge, err error) {
	for _, ack := range acks {
		ack(client.Receipt{}, err)
	}
}

// library returns the logs of a library without a queue of its own: gathered
// into batches, or as its callers do it who know no better, who take a mutex and
// store one record.
func library(store store, gathered, pipelined bool) ([]bench.Log, error) {
	switch {
	case gathered:
		return []bench.Log{gather(store, bench.PipelineRecords)}, nil
	case pipelined:
		return nil, errNoPipeline
	}
	var mu sync.Mutex
	return []bench.Log{called(func(ctx context.Context, record []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return store(ctx, [][]byte{record})
	})}, nil
}
