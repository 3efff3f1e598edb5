package docstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/walsvc/walsvc/client"
)

// CheckpointName is the name of the walsvc checkpoint on each of the logs.
const CheckpointName = "docstore"

// Options configure a Store, and a Replica of one. Dir and Name must be set; the
// zero value of every other field means its default.
type Options struct {
	Dir    string // of the pages' files; made if it is missing
	Name   string // of this engine, as holder of the writers, or of this replica, as that of its cursors
	Shards int    // logs that keys are spread over; the same for the life of the store; default 4
	Pages  int    // that a shard's keys are spread over; likewise; default 8
	Prefix string // of the logs' names; default "docs/"
	Client client.Options

	// Applied, if not nil, is told every record that is read from a log before it is
	// applied, in the order of LSNs within a shard: of a Store in recovery, of a
	// Replica always. The record is valid until it returns.
	Applied func(shard int, lsn client.LSN, record []byte)
}

func (o Options) withDefaults() Options {
	if o.Shards == 0 {
		o.Shards = 4
	}
	if o.Pages == 0 {
		o.Pages = 8
	}
	if o.Prefix == "" {
		o.Prefix = "docs/"
	}
	return o
}

// LogName returns the name of a shard's log.
func (o Options) LogName(shard int) string { return fmt.Sprintf("%s%d", o.Prefix, shard) }

// ErrClosed is returned after Close.
var ErrClosed = errors.New("document store is closed")

// A Store keeps documents under keys. Its methods may be called concurrently.
//
// It has one life: whatever keeps an append from landing ends it, since by then
// memory holds what the log does not. What comes next is what comes after a crash:
// Close, and Open again.
type Store struct {
	options Options
	client  *client.Client
	shards  []*primary
	life    context.Context // ends with the store; its cause says why
	stop    context.CancelCauseFunc
	done    sync.WaitGroup
}

// A primary is a shard whose log this store is the writer of.
type primary struct {
	*shard
	epoch   uint64 // of the writer
	durable mark   // of what this writer appended, and everything before

	// turn is held, by having its one token, from the choice of an operation's LSN
	// until the operation is applied: records come to the log, and operations to the
	// pages, in the same order. A channel, so that who waits for it hears its context.
	turn chan struct{}
	next client.LSN   // what the next operation gets; of whoever has the turn
	last chan *Commit // has the operation that was started last, unless heed has taken it
}

// Open opens a store: takes over from whoever has it, recovers every shard, and lets
// operations in. When it returns, the store has everything that was ever
// acknowledged, and nobody else's appends land any more. The store has a connection
// of its own: what an earlier life left in a client's queue ends with that client.
//
// It returns an error that Is ErrFile if a page's file is damaged or of another
// store, ErrOp if a log has records that are not this store's, client.ErrDataLoss if
// a log is not the one that the pages were made from, client.ErrRewound if it was
// rewound below where it ended when they were written, client.ErrFenced if somebody
// else took over meanwhile, or what the service returned.
func Open(ctx context.Context, target string, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := makeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("open document store: %w", err)
	}
	c, err := client.Open(ctx, target, o.Client)
	if err != nil {
		return nil, fmt.Errorf("open document store: %w", err)
	}
	s := &Store{options: o, client: c}
	s.life, s.stop = context.WithCancelCause(context.Background())
	for i := range o.Shards {
		sh, err := s.takeOver(ctx, i)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("open document store: shard %d: %w", i, err)
		}
		s.shards = append(s.shards, sh)
		after := sh.next - 1 // operations come as soon as the store is open
		s.done.Go(func() { s.watch(sh, after) })
		s.done.Go(func() { s.heed(sh) })
	}
	return s, nil
}

// takeOver makes this store the writer of a shard's log, and then recovers the
// shard. In the other order, whoever was the writer before could append behind what
// was read.
func (s *Store) takeOver(ctx context.Context, index int) (*primary, error) {
	log := s.client.Log(s.options.LogName(index))
	if _, _, err := s.client.CreateLog(ctx, log.Name(), client.LogOptions{}); err != nil {
		return nil, err // one that exists is none
	}
	writer, err := log.AcquireWriter(ctx, s.options.Name)
	if err != nil {
		return nil, err
	}
	sh := &primary{
		shard: newShard(index, s.options.Dir, log, s.options.Pages),
		epoch: writer.Log.Epoch, next: writer.Log.Next, turn: make(chan struct{}, 1), last: make(chan *Commit, 1),
	}
	if err := s.recover(ctx, sh); err != nil {
		// A successor has let go what this one was about to read, if there is one.
		if _, fenced := log.WaitDurable(ctx, 0); errors.Is(fenced, client.ErrFenced) {
			return nil, fenced
		}
		return nil, err
	}
	// Nobody but this writer appends now, so the log ends where it did when it was
	// acquired: else this one has been fenced since, and read its successor's records.
	if last := sh.reached(); last != sh.next-1 {
		return nil, fmt.Errorf("%w: the log went on to LSN %d, at %d this writer's epoch began", client.ErrFenced, last, sh.next)
	}
	sh.durable.raise(sh.next - 1)
	return sh, nil
}

// recover loads what the checkpoint names and applies what came after, with the
// function that applies operations in normal life.
func (s *Store) recover(ctx context.Context, sh *primary) error {
	checkpoint, behind, err := sh.log.Recover(ctx, CheckpointName)
	if err != nil {
		return err
	}
	// A new store holds its log from the beginning. A log without a checkpoint is held
	// by the cursors that it has, and a replica that is ahead would let go what no page
	// of this store has yet.
	if checkpoint.Version == 0 {
		if _, err := sh.log.SetCheckpoint(ctx, CheckpointName, 0, nil, client.ExpectVersion(0)); err != nil {
			return err
		}
	}
	state, err := decodeState(checkpoint.State, s.options.Pages)
	if err != nil {
		return err
	}
	// The pages hold the effect of records up to the claim. The service proves that
	// it still has exactly those before it shows any: pages of another history, from
	// a backup say, are refused.
	if err := sh.log.Resume(state.claim); err != nil {
		return err
	}
	if err := sh.load(state.pages, checkpoint.LSN); err != nil {
		return err
	}
	for record, err := range behind {
		if err != nil {
			return err // not the end of the log: something is wrong with it
		}
		if s.options.Applied != nil {
			s.options.Applied(sh.index, record.LSN, record.Data)
		}
		if err := sh.applyRecord(record); err != nil {
			return err
		}
	}
	// What an earlier writer wrote and no checkpoint names is nobody's any more.
	return removeOthers(sh.dir, sh.index, sh.epoch, state.pages)
}

// watch follows how far the log is durable, which lets pages go to disk, and ends
// the store when another one has taken over: also one that only reads would show
// old documents for ever, and hear of it with its next append, if it ever had one.
func (s *Store) watch(sh *primary, after client.LSN) {
	for lsn, err := range sh.log.WatchDurable(s.life, after) {
		if err != nil {
			s.stop(err)
			return
		}
		sh.durable.raise(lsn)
	}
}

// heed ends the store when an operation does not land, also one that nobody waits
// for: pages have it, and whoever reads them, or writes them, would wait for ever for
// what never becomes durable. It is enough to hear of the last one that there is, since
// none lands behind one that did not.
func (s *Store) heed(sh *primary) {
	for {
		select {
		case commit := <-sh.last:
			_ = commit.Wait(s.life) // which ends the store
		case <-s.life.Done():
			return
		}
	}
}

// A Commit is an operation that is applied and not yet known to be durable.
type Commit struct {
	Shard  int
	LSN    client.LSN
	store  *Store
	append *client.Future
}

// Start appends an operation and applies it, without waiting until it is durable:
// Commit.Wait does. Operations of one goroutine take effect, within a shard, in the
// order of the calls, and none without those before it. It waits for its turn, and
// for as long as the service cannot be reached and too much is pending. After an
// error the operation did not take place, and never will.
func (s *Store) Start(ctx context.Context, op Op) (*Commit, error) {
	sh := s.shards[ShardOf(op.Key, len(s.shards))]
	select {
	case sh.turn <- struct{}{}:
		defer func() { <-sh.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s.life.Err() != nil {
		return nil, context.Cause(s.life)
	}
	// The log first, then the pages. This is the only writer, so it knows which LSN
	// the record gets, and need not wait to be told; that the log agrees is what
	// ExpectLSN is for. Should an operation before this one be refused, this one is
	// too: it was applied to pages that have the other.
	lsn := sh.next
	future := sh.log.AppendAsync(ctx, op.AppendTo(nil), client.ExpectLSN(lsn))
	if err := future.NotTaken(); err != nil {
		return nil, err
	}
	sh.next++
	if err := sh.apply(lsn, op); err != nil {
		s.stop(err)
		return nil, err
	}
	commit := &Commit{Shard: sh.index, LSN: lsn, store: s, append: future}
	select {
	case <-sh.last: // this one tells more
	default:
	}
	sh.last <- commit
	return commit, nil
}

// Wait returns nil when the operation is durable: only then may its user be told.
// If ctx ends first, the operation goes on, and Wait may be called again. After any
// other error the store has ended. If the error Is client.ErrUnknownOutcome, nobody
// knows whether the operation took place: Resolve finds out; after another one it
// did not, and never will.
func (c *Commit) Wait(ctx context.Context) error {
	select {
	case <-c.append.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// That its position is no longer kept is no failure: it can only be the one that it
	// was appended for.
	if _, err := c.append.Wait(ctx); err != nil && !errors.Is(err, client.ErrPositionLost) {
		c.store.stop(err)
		return err
	}
	c.store.shards[c.Shard].durable.raise(c.LSN)
	return nil
}

// Put stores a document under a key. Durable when it returns nil; see Commit.Wait.
func (s *Store) Put(ctx context.Context, key string, doc []byte) error {
	return s.do(ctx, Op{Kind: Put, Key: key, Doc: doc})
}

// Delete removes the document under a key, if there is one. Durable when it returns
// nil; see Commit.Wait.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.do(ctx, Op{Kind: Delete, Key: key})
}

func (s *Store) do(ctx context.Context, op Op) error {
	commit, err := s.Start(ctx, op)
	if err != nil {
		return err
	}
	return commit.Wait(ctx)
}

// Get returns the document under a key, which must not be changed. Pages have
// operations that could still be lost: the answer waits until those are durable that
// it depends on. It may be old if another store has taken over and this one does not
// know yet; nobody but the log can tell.
func (s *Store) Get(ctx context.Context, key string) (doc []byte, found bool, err error) {
	sh := s.shards[ShardOf(key, len(s.shards))]
	doc, found, lsn := sh.get(key)
	if s.life.Err() != nil {
		return nil, false, context.Cause(s.life)
	}
	if err := sh.durable.wait(ctx, s.life, lsn); err != nil {
		return nil, false, err
	}
	return doc, found, nil
}

// View returns a shard as it is now, with what is not durable yet.
func (s *Store) View(shard int) View { return s.shards[shard].view() }

// Checkpoint makes a shard's pages durable and lets its log go up to where they
// are. It returns the LSN that the checkpoint is at. After an error the checkpoint
// before, or this one, holds; the next call makes up for it.
func (s *Store) Checkpoint(ctx context.Context, shard int) (lsn client.LSN, err error) {
	sh := s.shards[shard]
	sh.writing.Lock()
	defer sh.writing.Unlock()
	if lsn, err = s.checkpoint(ctx, sh); err != nil {
		if errors.Is(err, client.ErrFenced) {
			s.stop(err)
		}
		return 0, fmt.Errorf("checkpoint shard %d: %w", shard, err)
	}
	return lsn, nil
}

// checkpoint takes the steps. A crash between any two leaves the checkpoint that
// there was, the files it names and every record behind it, or the new ones.
func (s *Store) checkpoint(ctx context.Context, sh *primary) (client.LSN, error) {
	// 1. Where it will be. Every page that is written from here on has all up to
	// there; the log is durable up to there when this returns.
	checkpoint, err := sh.log.BeginCheckpoint(ctx, CheckpointName, sh.reached())
	if err != nil {
		return 0, err
	}
	// 2. The engine's own part. Operations go on meanwhile, so a page may hold more
	// than the checkpoint says: it is held back until that, too, is durable. A page
	// on disk must not know of what the log could still lose.
	pages, err := sh.writePages(ctx, sh.epoch, func(ctx context.Context, lsn client.LSN) error {
		return sh.durable.wait(ctx, s.life, lsn)
	})
	if err != nil {
		return 0, err
	}
	info, err := sh.log.Info(ctx) // behind all that the pages hold
	if err != nil {
		return 0, err
	}
	// 3. What counts: one step on the service, in place of the checkpoint that was
	// there at the beginning and of no other, and only by the log's writer. From here
	// on recovery begins with these pages, and the service gives up the records up to
	// the checkpoint by itself, but for those that a cursor holds.
	if _, err := checkpoint.Complete(ctx, state{info.Claim(), pages}.encode()); err != nil {
		return 0, err
	}
	// 4. The files of the checkpoint before.
	return checkpoint.LSN(), removeOthers(sh.dir, sh.index, sh.epoch, pages)
}

// Resolve says what became of an operation whose Wait returned an error that is a
// *client.UnknownError, in this life of the store or an earlier one. A store that
// was opened since has the operation if it is client.Committed; otherwise it did not
// take place, and never will: its user may be told so, or it may be started again.
func (s *Store) Resolve(ctx context.Context, shard int, unknown *client.UnknownError) (client.Resolution, error) {
	return s.shards[shard].log.Resolve(ctx, unknown)
}

// Done returns a channel that is closed when the store's life has ended.
func (s *Store) Done() <-chan struct{} { return s.life.Done() }

// Err returns why the store's life has ended; nil while it goes on.
func (s *Store) Err() error { return context.Cause(s.life) }

// Close ends the store. It waits for nothing but its own goroutines, writes nothing
// and leaves behind what a crash leaves behind: the path that is taken every time is
// the one that works. What was not acknowledged ends with ErrClosed, and with
// client.ErrUnknownOutcome if it may have landed.
func (s *Store) Close() {
	s.stop(ErrClosed)
	s.done.Wait()
	abandon(s.client)
}

// abandon closes a client without waiting for what is pending.
func abandon(c *client.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx) // says that appends were pending, which is the point
}
