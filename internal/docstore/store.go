package docstore

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"os"
	"sync"
)

// CheckpointName is the name of the walsvc checkpoint on each of the logs.
const CheckpointName = "docstore"

// Options configure a Store. Dir must be set; the zero value of every other
// field means its default.
type Options struct {
	Dir    string // of the checkpoint files; made if it is missing
	Shards int    // logs that keys are spread over; the same for the life of the store; default 4
	Prefix string // of the logs' names; default "docs/"

	// Applied, if not nil, is told every record before it is applied, in the
	// order of LSNs within a shard. The record is valid until it returns.
	Applied func(shard int, lsn uint64, record []byte)
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("document store is closed")

// A Store keeps documents under keys. Its methods may be called concurrently.
type Store struct {
	options Options
	shards  []*shard
	cancel  context.CancelCauseFunc
	done    sync.WaitGroup
}

// A shard is a map of documents and the log that leads to it.
//
// Invariants, from the end of recovery on:
//
//  1. docs is the effect of every record from LSN 1 to applied, in order.
//  2. The walsvc checkpoint names a durable file that is the effect of every
//     record up to the checkpoint's LSN, and the log still has every record behind.
type shard struct {
	index int
	name  string
	log   Log

	mu      sync.Mutex
	docs    map[string]document
	applied uint64        // LSN of the last record applied
	grown   chan struct{} // closed and replaced when applied grows or err is set
	err     error         // why following ended; nil while it goes on

	checkpointing sync.Mutex // held by Checkpoint, around its steps
	checkpointed  uint64     // LSN of the newest checkpoint; guarded by checkpointing
}

// Open opens a store over a connection, which it does not close: recovers every
// shard from its checkpoint and the log behind it, and goes on following the logs.
// When it returns, the store shows everything that was durable when it was called.
//
// It returns an error that Is ErrFile if the checkpoint file is damaged or of
// another log, ErrOp if a log has records that are not this store's, or what
// the WAL returned.
func Open(ctx context.Context, wal WAL, o Options) (*Store, error) {
	if o.Shards == 0 {
		o.Shards = 4
	}
	if o.Prefix == "" {
		o.Prefix = "docs/"
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open document store: %w", err)
	}
	following, cancel := context.WithCancelCause(context.Background())
	s := &Store{options: o, cancel: cancel}
	for i := range o.Shards {
		sh, err := s.recover(ctx, wal, i)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("recover shard %d: %w", i, err)
		}
		s.shards = append(s.shards, sh)
		s.done.Go(func() { s.follow(following, sh) })
	}
	for _, sh := range s.shards {
		durable, err := sh.log.Durable(ctx)
		if err == nil {
			err = sh.wait(ctx, durable)
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("recover shard %d: %w", sh.index, err)
		}
	}
	return s, nil
}

// LogName returns the name of a shard's log.
func (o Options) LogName(shard int) string { return fmt.Sprintf("%s%d", o.Prefix, shard) }

// recover loads what the shard's checkpoint names.
func (s *Store) recover(ctx context.Context, wal WAL, index int) (*shard, error) {
	name := s.options.LogName(index)
	log, err := wal.Log(ctx, name)
	if err != nil {
		return nil, err
	}
	sh := &shard{index: index, name: name, log: log, docs: make(map[string]document), grown: make(chan struct{})}
	lsn, state, found, err := log.Checkpoint(ctx, CheckpointName)
	if err != nil {
		return nil, err
	}
	if !found {
		return sh, nil
	}
	file := string(state)
	if file != fileName(index, lsn) {
		return nil, fmt.Errorf("%w: checkpoint at LSN %d names %q", ErrFile, lsn, file)
	}
	sh.applied, sh.docs, err = readFile(s.options.Dir, file)
	if err != nil {
		return nil, err
	}
	if sh.applied != lsn {
		return nil, fmt.Errorf("%w: %s reaches LSN %d, its checkpoint %d", ErrFile, file, sh.applied, lsn)
	}
	sh.checkpointed = lsn
	return sh, nil
}

// follow applies what the log has and gets, until the store is closed.
func (s *Store) follow(ctx context.Context, sh *shard) {
	err := ErrClosed
	defer func() { sh.stop(err) }()
	for r, e := range sh.log.Follow(ctx, sh.applied+1) {
		if e != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("follow log %q: %w", sh.name, e)
			}
			return
		}
		if f := s.options.Applied; f != nil {
			f(sh.index, r.LSN, r.Data)
		}
		if e := sh.apply(r); e != nil {
			err = e
			return
		}
	}
}

// apply takes the next record into the map.
func (sh *shard) apply(r Record) error {
	op, err := ParseOp(r.Data)
	if err != nil {
		return fmt.Errorf("log %q: LSN %d: %w", sh.name, r.LSN, err)
	}
	doc := document{lsn: r.LSN, doc: append([]byte(nil), op.Doc...)}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r.LSN != sh.applied+1 {
		return fmt.Errorf("log %q: LSN %d came after %d", sh.name, r.LSN, sh.applied)
	}
	if op.Kind == Put {
		sh.docs[op.Key] = doc
	} else {
		delete(sh.docs, op.Key)
	}
	sh.applied = r.LSN
	close(sh.grown)
	sh.grown = make(chan struct{})
	return nil
}

func (sh *shard) stop(err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.err = err
	close(sh.grown)
	sh.grown = make(chan struct{})
}

// stopped returns why following ended; nil while it goes on.
func (sh *shard) stopped() error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.err
}

// wait returns when the shard has applied an LSN.
func (sh *shard) wait(ctx context.Context, lsn uint64) error {
	for {
		sh.mu.Lock()
		applied, grown, err := sh.applied, sh.grown, sh.err
		sh.mu.Unlock()
		switch {
		case applied >= lsn:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Wait returns when the store shows a record that was acknowledged.
func (s *Store) Wait(ctx context.Context, shard int, lsn uint64) error {
	return s.shards[shard].wait(ctx, lsn)
}

// Get returns the document under a key. It must not be changed.
func (s *Store) Get(key string) (doc []byte, found bool) {
	sh := s.shards[ShardOf(key, len(s.shards))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	d, found := sh.docs[key]
	return d.doc, found
}

// A View is a shard at one LSN.
type View struct {
	Applied uint64 // LSN of the last record in it
	docs    map[string]document
}

// View returns a shard as it is now.
func (s *Store) View(shard int) View {
	sh := s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return View{Applied: sh.applied, docs: maps.Clone(sh.docs)}
}

// Len returns how many documents there are.
func (v View) Len() int { return len(v.docs) }

// Get returns the document under a key and the LSN of the put that stored it.
func (v View) Get(key string) (doc []byte, lsn uint64, found bool) {
	d, found := v.docs[key]
	return d.doc, d.lsn, found
}

// Keys returns the keys, in no order.
func (v View) Keys() iter.Seq[string] { return maps.Keys(v.docs) }

// Checkpoint makes a shard's state so far durable and lets its log go, in the
// steps of the package comment. It returns the LSN that the checkpoint is at.
// After an error the checkpoint before, or this one, holds; the next call makes up for it.
// A shard that cannot follow its log any more makes no checkpoints: the error says why.
func (s *Store) Checkpoint(ctx context.Context, shard int) (lsn uint64, err error) {
	sh := s.shards[shard]
	sh.checkpointing.Lock()
	defer sh.checkpointing.Unlock()
	if err := sh.stopped(); err != nil {
		return 0, fmt.Errorf("checkpoint shard %d: %w", shard, err)
	}
	v := s.View(shard)
	if v.Applied == sh.checkpointed {
		return v.Applied, nil
	}
	name := fileName(shard, v.Applied)
	if err := writeFile(s.options.Dir, name, v.Applied, v.docs); err != nil {
		return 0, fmt.Errorf("checkpoint shard %d: %w", shard, err)
	}
	if err := sh.log.SetCheckpoint(ctx, CheckpointName, v.Applied, []byte(name)); err != nil {
		return 0, fmt.Errorf("checkpoint shard %d: %w", shard, err)
	}
	sh.checkpointed = v.Applied
	if err := sh.log.Truncate(ctx, v.Applied+1); err != nil {
		return 0, fmt.Errorf("checkpoint shard %d: %w", shard, err)
	}
	if err := removeOthers(s.options.Dir, shard, name); err != nil {
		return 0, fmt.Errorf("checkpoint shard %d: %w", shard, err)
	}
	return v.Applied, nil
}

// Close forgets everything that is in memory. It waits for nothing but its own
// goroutines: what it leaves behind is what a crash leaves behind.
func (s *Store) Close() {
	s.cancel(ErrClosed)
	s.done.Wait()
}

// ShardOf returns the shard, out of n, that a key belongs to.
func ShardOf(key string, n int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // a hash never fails
	return int(h.Sum32() % uint32(n))
}
