package docstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeWAL keeps logs in memory: what is appended is durable at once.
type fakeWAL struct {
	mu   sync.Mutex
	logs map[string]*fakeLog
}

func newFakeWAL() *fakeWAL { return &fakeWAL{logs: make(map[string]*fakeLog)} }

func (w *fakeWAL) Log(_ context.Context, name string) (Log, error) { return w.log(name), nil }

func (w *fakeWAL) log(name string) *fakeLog {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[name]
	if l == nil {
		l = &fakeLog{first: 1, grown: make(chan struct{})}
		w.logs[name] = l
	}
	return l
}

type fakeLog struct {
	mu      sync.Mutex
	first   uint64
	records [][]byte // from first on
	grown   chan struct{}

	checkpoint uint64
	state      []byte
	set        bool

	// What the next calls do instead of succeeding.
	failSet, failAfterSet, failTruncate error
	skip                                uint64 // an LSN that Follow leaves out
}

func (l *fakeLog) Append(_ context.Context, record []byte, done func(uint64, error)) {
	l.mu.Lock()
	l.records = append(l.records, append([]byte(nil), record...))
	lsn := l.first + uint64(len(l.records)) - 1
	close(l.grown)
	l.grown = make(chan struct{})
	l.mu.Unlock()
	done(lsn, nil)
}

func (l *fakeLog) Durable(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first + uint64(len(l.records)) - 1, nil
}

func (l *fakeLog) Follow(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for lsn := from; ; {
			l.mu.Lock()
			first, records, grown := l.first, l.records, l.grown
			l.mu.Unlock()
			switch {
			case lsn < first:
				yield(Record{}, fmt.Errorf("LSN %d is truncated, the first is %d", lsn, first))
				return
			case lsn < first+uint64(len(records)):
				if lsn != l.skip && !yield(Record{LSN: lsn, Data: records[lsn-first]}, nil) {
					return
				}
				lsn++
				continue
			}
			select {
			case <-grown:
			case <-ctx.Done():
				yield(Record{}, ctx.Err())
				return
			}
		}
	}
}

func (l *fakeLog) Checkpoint(context.Context, string) (uint64, []byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checkpoint, l.state, l.set, nil
}

func (l *fakeLog) SetCheckpoint(_ context.Context, _ string, lsn uint64, state []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failSet != nil {
		return l.failSet
	}
	if lsn < l.checkpoint || lsn >= l.first+uint64(len(l.records)) {
		return fmt.Errorf("checkpoint at LSN %d is out of range", lsn)
	}
	l.checkpoint, l.state, l.set = lsn, state, true
	return l.failAfterSet
}

func (l *fakeLog) Truncate(_ context.Context, first uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failTruncate != nil {
		return l.failTruncate
	}
	if first > l.checkpoint+1 {
		return errors.New("records are held by the checkpoint")
	}
	l.records = l.records[first-l.first:]
	l.first = first
	return nil
}
