package docstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oneShard opens a store with a single log, so that tests can name LSNs.
func oneShard(t *testing.T, wal WAL, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), wal, Options{Dir: dir, Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// do performs operations, "key=doc" to put and "key" to delete, and waits
// until the store shows the last one.
func do(t *testing.T, s *Store, wal WAL, id uint64, ops ...string) {
	t.Helper()
	n, err := s.NewSession(t.Context(), wal, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		kind := Delete
		key, doc, put := strings.Cut(op, "=")
		if put {
			kind = Put
		}
		p := n.Prepare(kind, key, []byte(doc))
		acked := make(chan uint64, 1)
		p.Start(t.Context(), func(lsn uint64, err error) { acked <- lsn })
		if err := s.Wait(t.Context(), p.Shard, <-acked); err != nil {
			t.Fatal(err)
		}
	}
}

// show spells a shard's documents as "key=doc@lsn".
func show(s *Store, shard int) string {
	v := s.View(shard)
	var all []string
	for key := range v.Keys() {
		doc, lsn, _ := v.Get(key)
		all = append(all, fmt.Sprintf("%s=%s@%d", key, doc, lsn))
	}
	slices.Sort(all)
	return fmt.Sprintf("%d: %s", v.Applied, strings.Join(all, " "))
}

func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestPutGetDelete(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	s, err := Open(t.Context(), wal, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	do(t, s, wal, 1, "a=1", "b=2", "c=3", "a=4", "b")
	for key, want := range map[string]string{"a": "4", "c": "3"} {
		if doc, found := s.Get(key); !found || string(doc) != want {
			t.Errorf("%s is %q (found: %t), want %q", key, doc, found, want)
		}
	}
	if doc, found := s.Get("b"); found {
		t.Errorf("b is %q after its delete", doc)
	}
}

func TestRecoveryFromTheLogAlone(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	s := oneShard(t, wal, dir)
	do(t, s, wal, 1, "a=1", "b=2", "a=3", "b")
	s.Close()
	if got, want := show(oneShard(t, wal, dir), 0), "4: a=3@3"; got != want {
		t.Errorf("recovered %q, want %q", got, want)
	}
}

func TestRecoveryFromCheckpointAndLog(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	s := oneShard(t, wal, dir)
	do(t, s, wal, 1, "a=1", "b=2", "c=3")
	if lsn, err := s.Checkpoint(t.Context(), 0); err != nil || lsn != 3 {
		t.Fatalf("checkpoint at %d, %v", lsn, err)
	}
	do(t, s, wal, 2, "b", "d=5")
	s.Close()

	log := wal.log("docs/0")
	if log.first != 4 || log.checkpoint != 3 {
		t.Errorf("the log begins at %d with its checkpoint at %d, want 4 and 3", log.first, log.checkpoint)
	}
	s = oneShard(t, wal, dir)
	if got, want := show(s, 0), "5: a=1@1 c=3@3 d=5@5"; got != want {
		t.Errorf("recovered %q, want %q", got, want)
	}
	if lsn, err := s.Checkpoint(t.Context(), 0); err != nil || lsn != 5 {
		t.Fatalf("checkpoint at %d, %v", lsn, err)
	}
	if got := files(t, dir); got != fileName(0, 5) {
		t.Errorf("files left: %s", got)
	}
}

// A crash anywhere between the steps of a checkpoint leaves a store that
// recovers to the same documents and whose next checkpoint cleans up.
func TestCrashWithinCheckpoint(t *testing.T) {
	crash := errors.New("crash")
	for _, test := range []struct {
		name  string
		at    func(*fakeLog)
		file  uint64 // the checkpoint's LSN after the crash
		first uint64 // the log's
	}{
		{"between the file and the walsvc checkpoint", func(l *fakeLog) { l.failSet = crash }, 2, 3},
		{"before the walsvc checkpoint was answered", func(l *fakeLog) { l.failAfterSet = crash }, 4, 3},
		{"between the walsvc checkpoint and truncation", func(l *fakeLog) { l.failTruncate = crash }, 4, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			wal, dir := newFakeWAL(), t.TempDir()
			log := wal.log("docs/0")
			s := oneShard(t, wal, dir)
			do(t, s, wal, 1, "a=1", "b=2")
			if _, err := s.Checkpoint(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			do(t, s, wal, 2, "a=3", "c=4")
			test.at(log)
			if _, err := s.Checkpoint(t.Context(), 0); !errors.Is(err, crash) {
				t.Fatalf("checkpoint: %v, want the crash", err)
			}
			do(t, s, wal, 3, "b")
			s.Close()
			log.failSet, log.failAfterSet, log.failTruncate = nil, nil, nil
			if log.checkpoint != test.file || log.first != test.first {
				t.Fatalf("checkpoint at %d, log from %d, want %d and %d", log.checkpoint, log.first, test.file, test.first)
			}

			s = oneShard(t, wal, dir)
			if got, want := show(s, 0), "5: a=3@3 c=4@4"; got != want {
				t.Errorf("recovered %q, want %q", got, want)
			}
			if lsn, err := s.Checkpoint(t.Context(), 0); err != nil || lsn != 5 {
				t.Fatalf("checkpoint at %d, %v", lsn, err)
			}
			if got := files(t, dir); got != fileName(0, 5) {
				t.Errorf("files left: %s", got)
			}
		})
	}
}

// A crash within the writing of a file leaves one that nothing names.
func TestUnfinishedFileIsIgnored(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName(0, 9)+tmpSuffix), []byte(fileMagic), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "somebody else's"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := oneShard(t, wal, dir)
	do(t, s, wal, 1, "a=1")
	if _, err := s.Checkpoint(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, dir), fileName(0, 1)+" somebody else's"; got != want {
		t.Errorf("files left: %s, want %s", got, want)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	s := oneShard(t, wal, dir)
	do(t, s, wal, 1, "a=1", "b=2")
	if _, err := s.Checkpoint(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	s.Close()
	path := filepath.Join(dir, fileName(0, 2))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(t.Context(), wal, Options{Dir: dir, Shards: 1}); !errors.Is(err, ErrFile) {
			t.Errorf("%s: opened with %v", what, err)
			if err == nil {
				s.Close()
			}
		}
	}
	for i := range whole {
		b := slices.Clone(whole)
		b[i] ^= 0x20
		refused(fmt.Sprintf("byte %d flipped", i), b)
		refused(fmt.Sprintf("cut to %d bytes", i), whole[:i])
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), wal, Options{Dir: dir, Shards: 1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file removed: opened with %v", err)
	}
}

func TestCheckpointOfAnotherFileIsRefused(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	log := wal.log("docs/0")
	log.set, log.state = true, []byte("../../etc/passwd")
	if _, err := Open(t.Context(), wal, Options{Dir: dir, Shards: 1}); !errors.Is(err, ErrFile) {
		t.Errorf("opened with %v", err)
	}
}

func TestStrangeLogIsRefused(t *testing.T) {
	for name, record := range map[string]string{
		"empty record":           "",
		"unknown kind":           "X\x01\x01\x01a",
		"key beyond the end":     "P\x01\x01\x05a",
		"no number":              "P\x01",
		"delete with a document": "D\x01\x01\x01a{}",
	} {
		t.Run(name, func(t *testing.T) {
			wal := newFakeWAL()
			wal.log("docs/0").records = [][]byte{[]byte(record)}
			if _, err := Open(t.Context(), wal, Options{Dir: t.TempDir(), Shards: 1}); !errors.Is(err, ErrOp) {
				t.Errorf("opened with %v", err)
			}
		})
	}
}

func TestHoleInTheLogIsRefused(t *testing.T) {
	wal, dir := newFakeWAL(), t.TempDir()
	s := oneShard(t, wal, dir)
	do(t, s, wal, 1, "a=1", "b=2", "c=3")
	s.Close()
	wal.log("docs/0").skip = 2
	_, err := Open(t.Context(), wal, Options{Dir: dir, Shards: 1})
	if err == nil || !strings.Contains(err.Error(), "LSN 3 came after 1") {
		t.Errorf("opened with %v", err)
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
