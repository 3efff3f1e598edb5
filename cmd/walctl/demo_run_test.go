package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/docstore"
)

// fakeService is a service in memory. Appends wait in a queue until a commit
// makes the whole queue durable; killing it forgets the queue.
type fakeService struct {
	mu      sync.Mutex
	running bool
	life    chan struct{} // closed by kill
	queue   []fakeAppend
	logs    map[string]*fakeLog
	kills   int
	eager   bool // appends do not wait for others any more

	// sabotage, if not nil, is called at the second kill with a log that has
	// records, and breaks a promise.
	sabotage func(*fakeLog)
}

type fakeAppend struct {
	log    *fakeLog
	record []byte
	done   func(uint64, error)
}

type fakeLog struct {
	s       *fakeService
	records [][]byte // all of them, from LSN 1 on
	first   uint64
	grown   chan struct{}
	lsn     uint64 // of the checkpoint
	state   []byte
	set     bool
}

var errFakeDown = errors.New("the fake service is down")

func (s *fakeService) passing(err error) bool { return errors.Is(err, errFakeDown) }

func (s *fakeService) start(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.life = true, make(chan struct{})
	return "recovered", nil
}

func (s *fakeService) kill() error {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.running = nil, false
	close(s.life)
	if s.kills++; s.kills == 2 && s.sabotage != nil {
		for _, name := range []string{"docs/0", "docs/1"} {
			if l := s.logs[name]; l != nil && uint64(len(l.records)) > l.first+10 {
				s.sabotage(l)
				break
			}
		}
	}
	s.mu.Unlock()
	for _, a := range queue {
		a.done(0, errFakeDown)
	}
	return nil
}

// commit makes the queue durable once it is long enough to be worth killing.
func (s *fakeService) commit() {
	s.mu.Lock()
	if s.eager {
		s.mu.Unlock()
		s.flush()
		return
	}
	if len(s.queue) < 40 {
		s.mu.Unlock()
		return
	}
	durable := s.queue[:30]
	s.queue = slices.Clone(s.queue[30:])
	lsns := make([]uint64, len(durable))
	for i, a := range durable {
		a.log.records = append(a.log.records, a.record)
		lsns[i] = uint64(len(a.log.records))
		a.log.changed()
	}
	s.mu.Unlock()
	for i, a := range durable {
		a.done(lsns[i], nil)
	}
}

// flush makes everything durable, from now on at once: at the end nobody comes
// to fill the queue.
func (s *fakeService) flush() {
	s.mu.Lock()
	s.eager = true
	for len(s.queue) > 0 {
		a := s.queue[0]
		s.queue = s.queue[1:]
		a.log.records = append(a.log.records, a.record)
		lsn := uint64(len(a.log.records))
		a.log.changed()
		s.mu.Unlock()
		a.done(lsn, nil)
		s.mu.Lock()
	}
	s.mu.Unlock()
}

func (s *fakeService) counters(context.Context) (serviceCounters, error) {
	return serviceCounters{records: 10, syncs: 1}, nil
}

func (s *fakeService) connect(context.Context) (demoConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return nil, errFakeDown
	}
	return fakeConn{s, s.life}, nil
}

// A fakeConn ends with the life of the service it was made in.
type fakeConn struct {
	s    *fakeService
	life chan struct{}
}

func (c fakeConn) close() {}

func (c fakeConn) Log(_ context.Context, name string) (docstore.Log, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	l := c.s.logs[name]
	if l == nil {
		l = &fakeLog{s: c.s, first: 1, grown: make(chan struct{})}
		c.s.logs[name] = l
	}
	return fakeHandle{l, c.life}, nil
}

func (c fakeConn) read(ctx context.Context, name string) (uint64, iter.Seq2[docstore.Record, error], error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	l := c.s.logs[name]
	first, records := l.first, l.records
	return first, func(yield func(docstore.Record, error) bool) {
		for lsn := first; lsn <= uint64(len(records)); lsn++ {
			if !yield(docstore.Record{LSN: lsn, Data: records[lsn-1]}, nil) {
				return
			}
		}
	}, nil
}

func (l *fakeLog) changed() {
	close(l.grown)
	l.grown = make(chan struct{})
}

type fakeHandle struct {
	*fakeLog
	life chan struct{}
}

func (l fakeHandle) Append(_ context.Context, record []byte, done func(uint64, error)) {
	l.s.mu.Lock()
	if l.s.life != l.life || !l.s.running {
		l.s.mu.Unlock()
		done(0, errFakeDown)
		return
	}
	l.s.queue = append(l.s.queue, fakeAppend{l.fakeLog, slices.Clone(record), done})
	l.s.mu.Unlock()
	l.s.commit()
}

func (l *fakeLog) Durable(context.Context) (uint64, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return uint64(len(l.records)), nil
}

func (l *fakeLog) Follow(ctx context.Context, from uint64) iter.Seq2[docstore.Record, error] {
	return func(yield func(docstore.Record, error) bool) {
		for lsn := from; ; {
			l.s.mu.Lock()
			records, grown := l.records, l.grown
			l.s.mu.Unlock()
			if lsn <= uint64(len(records)) {
				if !yield(docstore.Record{LSN: lsn, Data: records[lsn-1]}, nil) {
					return
				}
				lsn++
				continue
			}
			select {
			case <-grown:
			case <-ctx.Done():
				yield(docstore.Record{}, ctx.Err())
				return
			}
		}
	}
}

func (l *fakeLog) Checkpoint(context.Context, string) (uint64, []byte, bool, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.lsn, l.state, l.set, nil
}

func (l *fakeLog) SetCheckpoint(_ context.Context, _ string, lsn uint64, state []byte) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if !l.s.running {
		return errFakeDown
	}
	l.lsn, l.state, l.set = lsn, state, true
	return nil
}

func (l *fakeLog) Truncate(_ context.Context, first uint64) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.first = first
	return nil
}

func TestDemo(t *testing.T) {
	for _, test := range []struct {
		name     string
		sabotage func(*fakeLog)
		broken   func(tally) bool // what must be found; nil for nothing
	}{
		{name: "a service that keeps its promises"},
		{
			name:     "a service that loses its last acknowledged record",
			sabotage: func(l *fakeLog) { l.records = l.records[:len(l.records)-1] },
			broken:   func(t tally) bool { return t.lost > 0 },
		},
		{
			name:     "a service that tries an append again that had landed",
			sabotage: func(l *fakeLog) { l.records = append(l.records, l.records[len(l.records)-1]) },
			// Which of the two it is called depends on what the reading saw of the first.
			broken: func(t tally) bool { return t.duplicated+t.outOfOrder > 0 },
		},
		{
			name: "a service that swaps two records",
			sabotage: func(l *fakeLog) {
				n := len(l.records)
				l.records[n-1], l.records[n-2] = l.records[n-2], l.records[n-1]
			},
			broken: func(t tally) bool { return t.outOfOrder > 0 },
		},
		{
			name: "a service that makes records up",
			sabotage: func(l *fakeLog) {
				l.records = append(l.records, docstore.Op{Kind: docstore.Put, Session: 99, Number: 1, Key: "k"}.AppendTo(nil))
			},
			broken: func(t tally) bool { return t.foreign > 0 },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			service := &fakeService{logs: make(map[string]*fakeLog), sabotage: test.sabotage}
			var docs []docEntry
			for i := range 100 {
				docs = append(docs, docEntry{fmt.Sprintf("key-%d", i), fmt.Appendf(nil, "doc %d", i)})
			}
			d := newDemo(demoPlan{
				docs: docs, dir: t.TempDir(), shards: 2, clients: 4, window: 20,
				kills: 4, every: 2, duration: 50 * time.Millisecond, rounds: 5, seed: 1,
			}, service, t.Logf)
			go func() { // nobody fills the queue once the clients are told to stop
				for range d.sated {
				}
				service.flush()
			}()
			got, err := d.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d.kills != 4 || d.fewestInFlight == 0 || d.engineKills != 3 {
				t.Errorf("%d kills with at least %d in flight, %d of the engine", d.kills, d.fewestInFlight, d.engineKills)
			}
			if test.broken == nil {
				if !got.ok() || got.acked == 0 {
					t.Errorf("found %+v", got)
				}
			} else if got.ok() || !test.broken(got) {
				t.Errorf("the breach was not found: %+v", got)
			}
		})
	}
}
