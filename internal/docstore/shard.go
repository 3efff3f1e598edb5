package docstore

import (
	"context"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"sync"

	"github.com/walsvc/walsvc/client"
)

// A shard is the documents that one log leads to, in pages. Store and Replica have
// the same ones: what they do not share is who appends, and who waits for whom.
//
// Invariant: the pages are the effect of every record from LSN 1 to applied, in order.
type shard struct {
	index int
	dir   string
	log   *client.Log

	mu      sync.Mutex
	pages   []page
	applied client.LSN

	writing sync.Mutex // held by whoever writes pages
}

// newShard returns an empty one.
func newShard(index int, dir string, log *client.Log, pages int) *shard {
	sh := &shard{index: index, dir: dir, log: log, pages: make([]page, pages)}
	for i := range sh.pages {
		sh.pages[i].docs = make(map[string]document)
	}
	return sh
}

// load takes the pages that a manifest names, which are the effect of every record
// up to an LSN, and of some behind it: see apply.
func (sh *shard) load(m manifest, lsn client.LSN) error {
	for i, s := range m {
		if s == (stamp{}) {
			continue
		}
		p, err := readPage(sh.dir, sh.index, i, s)
		if err != nil {
			return err
		}
		sh.pages[i] = p
	}
	sh.applied = lsn
	return nil
}

// apply applies an operation: the one function through which documents change,
// live, in recovery and on replicas. An operation that its page has already is
// passed over. That is what a page's LSN is for: pages are written one after the
// other while operations go on, so those written later hold operations from behind
// the checkpoint, and recovery meets these again. Putting a document twice would do
// no harm; most engines have operations that would.
func (sh *shard) apply(lsn client.LSN, op Op) error {
	doc := document{lsn: lsn, doc: append([]byte(nil), op.Doc...)}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if lsn != sh.applied+1 {
		return fmt.Errorf("log %q: LSN %d came after %d", sh.log.Name(), lsn, sh.applied)
	}
	sh.applied = lsn
	p := sh.pageOf(op.Key)
	if lsn <= p.lsn {
		return nil
	}
	if op.Kind == Put {
		p.docs[op.Key] = doc
	} else {
		delete(p.docs, op.Key)
	}
	p.lsn = lsn
	return nil
}

// applyRecord applies a record as it was read from the log.
func (sh *shard) applyRecord(r client.Record) error {
	op, err := ParseOp(r.Data)
	if err != nil {
		return fmt.Errorf("log %q: LSN %d: %w", sh.log.Name(), r.LSN, err)
	}
	return sh.apply(r.LSN, op)
}

// get returns the document under a key, and the LSN of the last operation that the
// answer depends on.
func (sh *shard) get(key string) (doc []byte, found bool, lsn client.LSN) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.pageOf(key)
	d, found := p.docs[key]
	if !found {
		return nil, false, p.lsn // it may be gone because of that one
	}
	return d.doc, true, d.lsn
}

// reached returns the LSN that was applied last.
func (sh *shard) reached() client.LSN {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.applied
}

// newest returns the last LSN that a page has: above what was applied while pages that
// were loaded are ahead, see apply.
func (sh *shard) newest() (lsn client.LSN) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for i := range sh.pages {
		lsn = max(lsn, sh.pages[i].lsn)
	}
	return lsn
}

// writePages writes every page that its file is behind of, each as it is by then,
// and returns the files of all, durable with their names. A page is held back until
// durable says that its LSN is. REQUIRES: writing.
func (sh *shard) writePages(ctx context.Context, epoch uint64, durable func(context.Context, client.LSN) error) (manifest, error) {
	m := make(manifest, len(sh.pages))
	for i := range sh.pages {
		sh.mu.Lock()
		p := sh.pages[i].clone()
		sh.mu.Unlock()
		if m[i] = p.file; !p.dirty() {
			continue
		}
		if err := durable(ctx, p.lsn); err != nil {
			return nil, fmt.Errorf("hold page %d back until LSN %d is durable: %w", i, p.lsn, err)
		}
		m[i] = stamp{epoch, p.lsn}
		if err := writeFile(sh.dir, pageName(sh.index, i, m[i]), encodePage(&p, m[i])); err != nil {
			return nil, err
		}
		sh.mu.Lock()
		sh.pages[i].file = m[i]
		sh.mu.Unlock()
	}
	return m, syncDir(sh.dir)
}

// REQUIRES: mu.
func (sh *shard) pageOf(key string) *page {
	return &sh.pages[hashOf(key, "page")%uint32(len(sh.pages))]
}

// A View is a shard at one LSN.
type View struct {
	Applied client.LSN // of the last record in it
	docs    map[string]document
}

// view returns the shard as it is now.
func (sh *shard) view() View {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	v := View{Applied: sh.applied, docs: make(map[string]document)}
	for i := range sh.pages {
		maps.Copy(v.docs, sh.pages[i].docs)
	}
	return v
}

// Len returns how many documents there are.
func (v View) Len() int { return len(v.docs) }

// Get returns the document under a key and the LSN of the put that stored it.
func (v View) Get(key string) (doc []byte, lsn client.LSN, found bool) {
	d, found := v.docs[key]
	return d.doc, d.lsn, found
}

// Keys returns the keys, in no order.
func (v View) Keys() iter.Seq[string] { return maps.Keys(v.docs) }

// ShardOf returns the shard, out of n, that a key belongs to.
func ShardOf(key string, n int) int { return int(hashOf(key, "") % uint32(n)) }

// hashOf hashes a key; with another salt it is another hash.
func hashOf(key, salt string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(salt)) // a hash never fails
	_, _ = h.Write([]byte(key))
	return h.Sum32()
}

// A mark is an LSN that only grows and can be waited for.
type mark struct {
	mu    sync.Mutex
	lsn   client.LSN
	grown chan struct{} // closed when lsn has grown; nil if nobody waits
}

// raise moves the mark to an LSN, unless it is there.
func (m *mark) raise(lsn client.LSN) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lsn <= m.lsn {
		return
	}
	m.lsn = lsn
	if m.grown != nil {
		close(m.grown)
		m.grown = nil
	}
}

// wait returns nil when the mark is at an LSN, or the cause of whichever context
// ends first.
func (m *mark) wait(ctx, life context.Context, lsn client.LSN) error {
	for {
		m.mu.Lock()
		if m.lsn >= lsn {
			m.mu.Unlock()
			return nil
		}
		if m.grown == nil {
			m.grown = make(chan struct{})
		}
		grown := m.grown
		m.mu.Unlock()
		select {
		case <-grown:
		case <-life.Done():
			return context.Cause(life)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
