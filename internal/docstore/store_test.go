package docstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/testdata"
)

// oneShard opens a store with a single log and page, so that tests can name LSNs.
func (w *world) oneShard() *Store {
	w.t.Helper()
	s, err := Open(w.t.Context(), target, w.one())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// one are the options of oneShard.
func (w *world) one() Options {
	o := w.newLine().options("node", w.dir)
	o.Shards, o.Pages, o.Prefix = 1, 1, "one/"
	return o
}

// do performs operations, "key=doc" to put and "key" to delete.
func do(t *testing.T, s *Store, ops ...string) {
	t.Helper()
	for _, op := range ops {
		key, doc, put := strings.Cut(op, "=")
		err := error(nil)
		if put {
			err = s.Put(t.Context(), key, []byte(doc))
		} else {
			err = s.Delete(t.Context(), key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// show spells a shard's documents as "key=doc@lsn".
func show(v View) string {
	var all []string
	for key := range v.Keys() {
		doc, lsn, _ := v.Get(key)
		all = append(all, fmt.Sprintf("%s=%s@%d", key, doc, lsn))
	}
	slices.Sort(all)
	return fmt.Sprintf("%d: %s", v.Applied, strings.Join(all, " "))
}

func TestRecovery(t *testing.T) {
	w := newWorld(t, 1)
	s := w.oneShard()
	do(t, s, "a=1", "b=2", "a=3", "b")
	s.Close()
	s = w.oneShard() // from the log alone
	if got, want := show(s.View(0)), "4: a=3@3"; got != want {
		t.Errorf("recovered %q, want %q", got, want)
	}
	do(t, s, "c=5")
	if lsn, err := s.Checkpoint(t.Context(), 0); err != nil || lsn != 5 {
		t.Fatalf("checkpoint at %d, %v", lsn, err)
	}
	do(t, s, "a", "d=7")
	s.Close()
	if err := s.Put(t.Context(), "e", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("put into what is closed: %v", err)
	}
	s = w.oneShard() // from a checkpoint and the log behind
	if got, want := show(s.View(0)), "7: c=5@5 d=7@7"; got != want {
		t.Errorf("recovered %q, want %q", got, want)
	}
	if doc, found, err := s.Get(t.Context(), "a"); found || err != nil {
		t.Errorf("a is %q after its delete, %v", doc, err)
	}
	if lsn, err := s.Checkpoint(t.Context(), 0); err != nil || lsn != 7 {
		t.Fatalf("checkpoint at %d, %v", lsn, err)
	}
	s.Close()
	s = w.oneShard() // from a checkpoint alone
	if got, want := show(s.View(0)), "7: c=5@5 d=7@7"; got != want {
		t.Errorf("recovered %q, want %q", got, want)
	}
	if got, want := w.files(), pageName(0, 0, stamp{4, 7}); got != want {
		t.Errorf("files left: %s, want %s", got, want)
	}
}

// TestLeftovers: what a crash leaves behind is removed, and nothing else is.
func TestLeftovers(t *testing.T) {
	w := newWorld(t, 1)
	later := pageName(0, 0, stamp{9, 1})
	for _, name := range []string{
		pageName(0, 0, stamp{1, 9}), pageName(0, 0, stamp{1, 9}) + tmpSuffix, // of epochs that are over
		later, pageName(1, 0, stamp{1, 9}), "somebody else's", "shard-0-page-0-epoch-01-lsn-1.page",
	} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(pageMagic), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do(t, w.oneShard(), "a=1")
	if got, want := w.files(), strings.Join([]string{
		"shard-0-page-0-epoch-01-lsn-1.page", later, pageName(1, 0, stamp{1, 9}), "somebody else's",
	}, " "); got != want {
		t.Errorf("files left: %s, want %s", got, want)
	}
}

// TestNobodyWaits: an operation is refused whose user has gone. The store ends all the
// same: who reads what it changed would wait for ever.
func TestNobodyWaits(t *testing.T) {
	w := newWorld(t, 1)
	s := w.oneShard()
	do(t, s, "a=1")
	if _, err := s.shards[0].log.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), Op{Kind: Put, Key: "b"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if doc, found, err := s.Get(ctx, "b"); !errors.Is(err, client.ErrSealed) {
		t.Errorf("read %q, %t, %v", doc, found, err)
	}
	if err := s.Err(); !errors.Is(err, client.ErrSealed) {
		t.Errorf("the store ended with %v", err)
	}
}

// TestTakenOverInOpen: somebody takes over while a store opens, and its checkpoint takes
// away the pages that it was about to read.
// So the store is told that it was fenced, and not that its directory is damaged.
func TestTakenOverInOpen(t *testing.T) {
	w := newWorld(t, 1)
	s := w.oneShard()
	do(t, s, "a=1", "b=2")
	if _, err := s.Checkpoint(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	s.Close()
	o := w.one()
	o.Client.Dial = append(o.Client.Dial, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if strings.HasSuffix(method, "/GetCheckpoint") { // it knows where to begin
				successor := w.oneShard()
				do(t, successor, "a=3")
				if _, err := successor.Checkpoint(t.Context(), 0); err != nil {
					t.Error(err)
				}
			}
			return err
		}))
	if _, err := Open(t.Context(), target, o); !errors.Is(err, client.ErrFenced) {
		t.Errorf("opened with %v", err)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	s := w.oneShard()
	do(t, s, "a=1", "b=2")
	if _, err := s.Checkpoint(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	s.Close()
	name := stamp{2, 2}
	path := filepath.Join(w.dir, pageName(0, 0, name))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPage(w.dir, 0, 0, name); !errors.Is(err, ErrFile) {
			t.Errorf("%s: read with %v", what, err)
		}
	}
	for i := range whole {
		b := slices.Clone(whole)
		b[i] ^= 0x20
		refused(fmt.Sprintf("byte %d flipped", i), b)
		refused(fmt.Sprintf("cut to %d bytes", i), whole[:i])
	}
	p := page{docs: map[string]document{"a": {lsn: 1}}}
	refused("another page's", encodePage(&p, stamp{2, 1}))
	if s, err := Open(t.Context(), target, w.one()); !errors.Is(err, ErrFile) {
		t.Errorf("opened with %v", err)
		if err == nil {
			s.Close()
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), target, w.one()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file removed: opened with %v", err)
	}
}

func TestStrangeCheckpointIsRefused(t *testing.T) {
	for name, state := range map[string]string{
		"no claim":       "\x05hello",
		"short":          "\x20",
		"no page":        "\x00\x00",
		"too many pages": "\x00\x02",
		"a page missing": "\x00\x01\x01",
		"more behind":    "\x00\x01\x01\x01\x01",
	} {
		if s, err := decodeState([]byte(state), 1); err == nil {
			t.Errorf("%s: read as %+v", name, s)
		}
	}
	if s, err := decodeState(nil, 3); err != nil || len(s.pages) != 3 {
		t.Errorf("none at all: %+v, %v", s, err)
	}
	want := state{client.Claim{Epoch: 3, LSN: 9, LogChecksum: 1}, manifest{{3, 9}, {}, {1, 2}}}
	if s, err := decodeState(want.encode(), 3); err != nil || s.claim != want.claim || !slices.Equal(s.pages, want.pages) {
		t.Errorf("came back as %+v, %v", s, err)
	}
}

func TestStrangeLogIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	c, err := client.Open(t.Context(), target, w.newLine().options("", "").Client)
	if err != nil {
		t.Fatal(err)
	}
	defer abandon(c)
	for name, record := range map[string]string{
		"empty-record":           "",
		"unknown-kind":           "X\x01\x01\x01a",
		"key-beyond-the-end":     "P\x01\x01\x05a",
		"no-number":              "P\x01",
		"delete-with-a-document": "D\x01\x01\x01a{}",
	} {
		o := w.one()
		o.Prefix = name + "/"
		if _, _, err := c.CreateLog(t.Context(), o.LogName(0), client.LogOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Log(o.LogName(0)).Append(t.Context(), []byte(record)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), target, o); !errors.Is(err, ErrOp) {
			t.Errorf("%s: opened with %v", name, err)
		}
	}
}

// TestReplica: a replica goes on where it was saved, and behind the records that
// the store's checkpoints would have let go. What it has saved lets go nothing that
// no checkpoint of the store covers.
func TestReplica(t *testing.T) {
	w := newWorld(t, 1)
	s := w.oneShard()
	o := w.one()
	o.Name, o.Dir = "copy", t.TempDir()
	follow := func() *Replica {
		r, err := Follow(t.Context(), target, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	r := follow()
	n := client.LSN(0)
	feed := func(count int) { // real documents, of several segments
		t.Helper()
		var last *Commit
		for doc := range testdata.Documents() {
			var err error
			if last, err = s.Start(t.Context(), Op{Kind: Put, Key: fmt.Sprint(n % 100), Doc: doc}); err != nil {
				t.Fatal(err)
			}
			if n++; int(n)%count == 0 {
				break
			}
		}
		if err := last.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	same := func() {
		t.Helper()
		if err := r.Wait(t.Context(), 0, n); err != nil {
			t.Fatal(err)
		}
		if got, want := show(r.View(0)), show(s.View(0)); got != want {
			t.Errorf("the replica has %.200q, the store %.200q", got, want)
		}
	}
	for range 4 {
		feed(500)
		same()
		if lsn, err := r.Save(t.Context(), 0); err != nil || lsn != n {
			t.Fatalf("saved at LSN %d, %v", lsn, err)
		}
	}
	s.Close()
	s = w.oneShard() // which has no page yet
	same()
	r.Close()
	for range 4 {
		feed(500)
		if _, err := s.Checkpoint(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	r = follow()
	same()

	// Its directory is older than its cursor: what is in between is nowhere.
	if _, err := r.Save(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	r.Close()
	o.Dir = t.TempDir()
	if _, err := Follow(t.Context(), target, o); !errors.Is(err, ErrFile) {
		t.Errorf("opened with %v", err)
	}
}

// TestReplicaOfAnotherHistory: while a replica is closed, its log becomes another one
// below what it has saved. It must not go on there, though the next LSN exists.
func TestReplicaOfAnotherHistory(t *testing.T) {
	tests := map[string]struct {
		want   error
		change func(w *world, s *Store, backup *disk.Mem)
	}{
		"restored from a backup": {client.ErrDataLoss, func(w *world, _ *Store, backup *disk.Mem) {
			w.replica.Close()
			w.sim.stop()
			w.disk = backup
			w.sim.start()
		}},
		"rewound": {client.ErrRewound, func(w *world, s *Store, _ *disk.Mem) {
			log := s.shards[0].log
			info, err := log.Info(w.t.Context())
			if err == nil {
				_, err = log.Rewind(w.t.Context(), client.Rewind{After: 2, Epoch: info.Epoch, Next: info.Next})
			}
			if err != nil {
				w.t.Fatal(err)
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			s := w.oneShard()
			o := w.one()
			o.Name, o.Dir = "copy", t.TempDir()
			do(t, s, "a=1", "b=2")
			backup := w.disk.CrashClone(w.rng, 0)
			r, err := Follow(t.Context(), target, o)
			if err != nil {
				t.Fatal(err)
			}
			do(t, s, "c=3", "a=4")
			if err := r.Wait(t.Context(), 0, 4); err != nil {
				t.Fatal(err)
			}
			r.Close()
			// It dies before it has moved its cursor, which a rewind would take back.
			sh := r.shards[0]
			pages, err := sh.writePages(t.Context(), 0, func(context.Context, client.LSN) error { return nil })
			if err == nil {
				err = writeFile(sh.dir, savedName(0), encodeSaved(4, sh.state(pages)))
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.change(w, s, backup)
			s.Close()
			s = w.oneShard()
			do(t, s, "x=3", "y=4", "z=5")
			if r, err = Follow(t.Context(), target, o); err == nil {
				defer r.Close()
				err = r.Wait(t.Context(), 0, 5)
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("it goes on: %v", err)
			}
		})
	}
}

// TestReplicaShowsOneLSN: of what was saved while operations came, one page has more
// than the other. Nobody sees that: it is not open before the other one has it too.
func TestReplicaShowsOneLSN(t *testing.T) {
	w := newWorld(t, 1)
	l := w.newLine()
	o := l.options("copy", t.TempDir())
	o.Shards = 1
	own := w.newLine().options("node", w.dir)
	own.Shards = 1
	s, err := Open(t.Context(), target, own)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := Follow(t.Context(), target, o)
	if err != nil {
		t.Fatal(err)
	}
	keys := make([]string, own.Pages)
	for i := range 100 {
		key := fmt.Sprint(i)
		keys[hashOf(key, "page")%uint32(len(keys))] = key
	}
	do(t, s, keys[0]+"=1")
	sh := r.shards[0]
	if err := r.Wait(t.Context(), 0, 1); err != nil {
		t.Fatal(err)
	}
	pages, err := sh.writePages(t.Context(), 0, func(_ context.Context, lsn client.LSN) error {
		if lsn == 1 { // page 0 is about to be written, as it is
			do(t, s, keys[0]+"=2", keys[1]+"=3")
			return r.Wait(t.Context(), 0, 3)
		}
		return nil
	})
	if err == nil {
		err = writeFile(sh.dir, savedName(0), encodeSaved(1, sh.state(pages)))
	}
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cut := o
	cut.Client.Dial = append(slices.Clone(o.Client.Dial), grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if strings.HasSuffix(method, "/GetCursor") { // the last before it follows
				l.part(true)
				cancel()
			}
			return err
		}))
	if r, err := Follow(ctx, target, cut); !errors.Is(err, context.Canceled) {
		t.Errorf("open with %v", err)
		if err == nil {
			t.Errorf("it shows %q", show(r.View(0)))
			r.Close()
		}
	}
	l.part(false)
	if r, err = Follow(t.Context(), target, o); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, want := show(r.View(0)), show(s.View(0)); got != want {
		t.Errorf("it shows %q, the store %q", got, want)
	}
}

func TestOpRoundTrip(t *testing.T) {
	for _, op := range []Op{
		{Kind: Put, Session: 1, Number: 1, Key: "a", Doc: []byte("{}")},
		{Kind: Put, Session: 1 << 40, Number: 300, Key: strings.Repeat("k", 200), Doc: []byte{0, 1, 2}},
		{Kind: Delete, Session: 7, Number: 2, Key: "a"},
		{Kind: Put},
	} {
		got, err := ParseOp(op.AppendTo(nil))
		if err != nil || got.Kind != op.Kind || got.Session != op.Session || got.Number != op.Number || got.Key != op.Key || string(got.Doc) != string(op.Doc) {
			t.Errorf("%+v came back as %+v, %v", op, got, err)
		}
	}
}

func FuzzParseOp(f *testing.F) {
	f.Add(Op{Kind: Put, Session: 3, Number: 4, Key: "key", Doc: []byte("doc")}.AppendTo(nil))
	f.Add(Op{Kind: Delete, Session: 1 << 60, Number: 4, Key: "key"}.AppendTo(nil))
	f.Add([]byte("P\x81\x00\x01\x01k"))
	f.Add([]byte("P\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a"))
	f.Fuzz(func(t *testing.T, record []byte) {
		op, err := ParseOp(record)
		if err != nil {
			if !errors.Is(err, ErrOp) {
				t.Fatalf("an error that is not ErrOp: %v", err)
			}
			return
		}
		if again := op.AppendTo(nil); string(again) != string(record) {
			t.Fatalf("accepted %x, which is spelled %x", record, again)
		}
	})
}
