package docstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/walsvc/walsvc/client"
)

// A Replica has the documents of a store that somebody else writes, a moment later.
// It follows the store's logs, and a cursor on each holds the records that it has
// not got: the store's checkpoints let them go for the store alone. Its methods may
// be called concurrently.
type Replica struct {
	options Options
	client  *client.Client
	shards  []*follower
	life    context.Context // ends with the replica; its cause says why
	stop    context.CancelCauseFunc
	done    sync.WaitGroup
}

// A follower is a shard that follows its log.
type follower struct {
	*shard
	shown mark         // as applied
	claim client.Claim // covers every operation in the pages; guarded by mu
}

// Follow opens a replica, which goes on behind what it last saved in its directory,
// or begins with the first record of every log. The logs need not be there before:
// then they are created. It returns when no page is ahead of the others any more, as
// those are that were saved last. It returns an error that Is ErrFile if the directory
// is damaged, or older than the cursors, and what the service returned, or Err would.
func Follow(ctx context.Context, target string, o Options) (*Replica, error) {
	o = o.withDefaults()
	if err := makeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	c, err := client.Open(ctx, target, o.Client)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	r := &Replica{options: o, client: c}
	r.life, r.stop = context.WithCancelCause(context.Background())
	for i := range o.Shards {
		sh, err := r.join(ctx, i)
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("open replica: shard %d: %w", i, err)
		}
		r.shards = append(r.shards, sh)
		r.done.Go(func() {
			if err := r.follow(sh); err != nil {
				r.stop(err)
			} // else the log is sealed: the shard has all there is
		})
	}
	for i, sh := range r.shards {
		if err := r.Wait(ctx, i, sh.newest()); err != nil {
			r.Close()
			return nil, fmt.Errorf("open replica: shard %d: %w", i, err)
		}
	}
	return r, nil
}

// join loads what was saved and finds the shard's cursor, or makes it.
func (r *Replica) join(ctx context.Context, index int) (*follower, error) {
	log := r.client.Log(r.options.LogName(index))
	if _, _, err := r.client.CreateLog(ctx, log.Name(), client.LogOptions{}); err != nil {
		return nil, err
	}
	lsn, saved, err := readSaved(r.options.Dir, index, r.options.Pages)
	if err != nil {
		return nil, err
	}
	// Nothing is applied to pages of another history.
	if err := log.Resume(saved.claim); err != nil {
		return nil, err
	}
	sh := &follower{shard: newShard(index, r.options.Dir, log, r.options.Pages), claim: saved.claim}
	if err := sh.load(saved.pages, lsn); err != nil {
		return nil, err
	}
	sh.shown.raise(lsn)
	_, err = log.SetCursor(ctx, r.options.Name, lsn, client.CursorOptions{Create: true})
	if !errors.Is(err, client.ErrCursorConflict) {
		return sh, err
	}
	cursor, err := log.Cursor(ctx, r.options.Name)
	if err == nil && cursor.LSN > lsn {
		err = fmt.Errorf("%w: saved up to LSN %d, the cursor %q let the log go up to %d", ErrFile, lsn, cursor.Name, cursor.LSN)
	}
	return sh, err
}

// follow applies what its log has and gets, until the replica's life ends. Nothing
// comes that could still be lost, none twice, and none is left out: should records
// be gone that it did not get, since the cursor was evicted, it hears
// client.ErrCursorLost, client.ErrRewound if it has records that a rewind has
// discarded since, and client.ErrDataLoss if the log is another one than it has saved:
// then it begins anew from a copy of the store.
func (r *Replica) follow(sh *follower) error {
	from := client.ReplayOptions{From: sh.reached() + 1, Cursor: r.options.Name, Follow: true, Claimed: sh.claimed}
	for record, err := range sh.log.Replay(r.life, from) {
		if err != nil {
			return err
		}
		if r.options.Applied != nil {
			r.options.Applied(sh.index, record.LSN, record.Data)
		}
		if err := sh.applyRecord(record); err != nil {
			return err
		}
		sh.shown.raise(record.LSN)
	}
	return nil
}

// claimed takes what there is to claim of the records that come next.
func (sh *follower) claimed(c client.Claim) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.claim = c
}

// state returns the files of pages as they are saved, with what covers them.
func (sh *follower) state(pages manifest) state {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return state{sh.claim, pages}
}

// Save makes a shard's pages durable in the replica's directory and moves the cursor
// there: in this order, for behind a cursor the records are gone. It returns the LSN.
func (r *Replica) Save(ctx context.Context, shard int) (client.LSN, error) {
	sh := r.shards[shard]
	sh.writing.Lock()
	defer sh.writing.Unlock()
	lsn := sh.reached()
	// Every record that a replica has is durable. Its pages are nobody else's: no
	// epoch is needed to tell them apart.
	pages, err := sh.writePages(ctx, 0, func(context.Context, client.LSN) error { return nil })
	if err == nil {
		err = writeFile(sh.dir, savedName(shard), encodeSaved(lsn, sh.state(pages)))
	}
	if err == nil {
		err = syncDir(sh.dir)
	}
	if err == nil {
		_, err = sh.log.SetCursor(ctx, r.options.Name, lsn, client.CursorOptions{})
	}
	if err == nil {
		err = removeOthers(sh.dir, shard, 0, pages)
	}
	if err != nil {
		return 0, fmt.Errorf("save shard %d: %w", shard, err)
	}
	return lsn, nil
}

// Wait returns when the replica shows a record.
func (r *Replica) Wait(ctx context.Context, shard int, lsn client.LSN) error {
	return r.shards[shard].shown.wait(ctx, r.life, lsn)
}

// Get returns the document under a key, as far as the replica has followed. It must
// not be changed.
func (r *Replica) Get(key string) (doc []byte, found bool) {
	doc, found, _ = r.shards[ShardOf(key, len(r.shards))].get(key)
	return doc, found
}

// View returns a shard as it is now.
func (r *Replica) View(shard int) View { return r.shards[shard].view() }

// Done returns a channel that is closed when the replica's life has ended.
func (r *Replica) Done() <-chan struct{} { return r.life.Done() }

// Err returns why the replica's life has ended; nil while it goes on.
func (r *Replica) Err() error { return context.Cause(r.life) }

// Close ends the replica, and leaves behind what a crash leaves behind.
func (r *Replica) Close() {
	r.stop(ErrClosed)
	r.done.Wait()
	abandon(r.client)
}

// A replica's saved file is
//
//	magic  "docstore replica 1\n"
//	lsn    uvarint: the pages have every record up to it
//	state  the rest: as a checkpoint of the store has it
//	CRC-32C of all of that, 4 bytes, little-endian
const savedMagic = "docstore replica 1\n"

func savedName(shard int) string { return fmt.Sprintf("shard-%d.saved", shard) }

func encodeSaved(lsn client.LSN, s state) []byte {
	return seal(append(binary.AppendUvarint([]byte(savedMagic), uint64(lsn)), s.encode()...))
}

// readSaved returns what was saved of a shard, and nothing if there is none.
func readSaved(dir string, shard, pages int) (client.LSN, state, error) {
	name := savedName(shard)
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, state{pages: make(manifest, pages)}, nil
	}
	if err != nil {
		return 0, state{}, err
	}
	body, err := unseal(b, savedMagic)
	if err != nil {
		return 0, state{}, fmt.Errorf("%s: %w", name, err)
	}
	in := parser{rest: body}
	lsn := client.LSN(in.uvarint())
	saved, err := decodeState(in.rest, pages)
	if err != nil {
		return 0, state{}, fmt.Errorf("%s: %w", name, err)
	}
	return lsn, saved, nil
}
