package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
)

const block = limits.BlockSize

// TestCrashClone runs random histories against an oracle that keeps whole
// copies of what was seen and synced, and checks after every step what crashes
// may leave.
func TestCrashClone(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			h := newHistory(t, seed)
			for range 100 {
				h.step()
				h.check()
			}
		})
	}
}

// history is a Mem with one directory, and what is known about it.
type history struct {
	t   *testing.T
	rng *rand.Rand
	mem *Mem

	names  map[string]int // what is seen: which file has the name
	synced map[string]int // the same at the last SyncDir
	files  []*content     // by the order in which they were created
}

type content struct {
	handle       File
	seen, synced []byte
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, rng: rand.New(rand.NewPCG(seed, 1)), mem: NewMem(), names: map[string]int{}, synced: map[string]int{}}
	h.ok(h.mem.MkdirAll("/vol"))
	return h
}

func (h *history) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) step() {
	name := string(rune('a' + h.rng.IntN(5)))
	path := filepath.Join("/vol", name)
	id, taken := h.names[name]
	switch choice := h.rng.IntN(12); {
	case !taken:
		f, err := h.mem.Create(path)
		h.ok(err)
		h.names[name] = len(h.files)
		h.files = append(h.files, &content{handle: f})
	case choice == 0:
		h.ok(h.mem.Remove(path))
		delete(h.names, name)
	case choice <= 2:
		to := string(rune('a' + h.rng.IntN(5)))
		h.ok(h.mem.Rename(path, filepath.Join("/vol", to)))
		delete(h.names, name)
		h.names[to] = id
	case choice == 3:
		h.ok(h.mem.SyncDir("/vol"))
		h.synced = maps.Clone(h.names)
	case choice == 4:
		c := h.files[id]
		size := h.rng.IntN(6 * block)
		h.ok(c.handle.Truncate(int64(size)))
		c.resize(size)
	case choice <= 6:
		c := h.files[id]
		h.ok(c.handle.Sync())
		c.synced = slices.Clone(c.seen)
	default:
		c := h.files[id]
		off, p := h.rng.IntN(4*block), make([]byte, 1+h.rng.IntN(2*block))
		if h.rng.IntN(2) == 0 {
			off, p = off/block*block, make([]byte, block*(1+h.rng.IntN(3)))
		}
		for i := range p {
			p[i] = byte(h.rng.Uint32())
		}
		_, err := c.handle.WriteAt(p, int64(off))
		h.ok(err)
		c.resize(max(len(c.seen), off+len(p)))
		copy(c.seen[off:], p)
	}
}

func (c *content) resize(size int) {
	c.seen = append(c.seen[:min(size, len(c.seen)):min(size, len(c.seen))], make([]byte, max(0, size-len(c.seen)))...)
}

func (h *history) check() {
	t := h.t
	t.Helper()
	expect := func(names map[string]int, version func(*content) []byte) map[string]string {
		want := map[string]string{}
		for name, id := range names {
			want["/vol/"+name] = string(version(h.files[id]))
		}
		return want
	}
	seen := expect(h.names, func(c *content) []byte { return c.seen })
	same(t, "what is seen", dump(t, h.mem), seen)
	same(t, "a crash that nothing unsynced survives", dump(t, h.mem.CrashClone(nil, 0)),
		expect(h.synced, func(c *content) []byte { return c.synced }))
	same(t, "a crash that everything survives", dump(t, h.mem.CrashClone(nil, 1)), seen)

	seed := h.rng.Uint64()
	draw := func() *Mem { return h.mem.CrashClone(rand.New(rand.NewPCG(seed, 0)), 0.5) }
	crashed := draw()
	after := dump(t, crashed)
	same(t, "the same seed", dump(t, draw()), after)
	same(t, "a second crash at once", dump(t, crashed.CrashClone(nil, 0)), after)
	kept := map[int]bool{}
	for path, got := range after {
		i := slices.IndexFunc(h.files, func(c *content) bool { return c.explains(got) })
		if i < 0 {
			t.Fatalf("%s has %d bytes after the crash that no file can have left", path, len(got))
		}
		for i, c := range h.files {
			if c.explains(got) {
				kept[i] = true
			}
		}
	}
	// A file that had a durable name, and has one now, is under some name.
	for _, id := range h.synced {
		if slices.Contains(slices.Collect(maps.Values(h.names)), id) && !kept[id] {
			t.Fatalf("file %d lost all of its names, now among %v", id, slices.Sorted(maps.Keys(after)))
		}
	}
	// Behind the end of a file there is nothing.
	longer, grown := map[string]string{}, draw()
	for path, had := range after {
		f, err := grown.Open(path, true)
		h.ok(err)
		h.ok(f.Truncate(int64(len(had) + block)))
		longer[path] = had + string(make([]byte, block))
	}
	same(t, "a clone with longer files", dump(t, grown), longer)

	// The clone lives by itself: what it is not told to sync it loses, and what
	// it is told reaches no one else.
	var files []File
	for path := range after {
		f, err := crashed.Open(path, true)
		h.ok(err)
		_, err = f.WriteAt([]byte("!"), 0)
		h.ok(err)
		files = append(files, f)
	}
	create(t, crashed, "/vol/new", "in the clone")
	same(t, "a crash of the clone", dump(t, crashed.CrashClone(nil, 0)), after)
	for _, f := range files {
		h.ok(f.Sync())
	}
	h.ok(crashed.SyncDir("/vol"))
	same(t, "the original after its clone was written to", dump(t, h.mem), seen)
}

// explains reports whether a crash can have left got of the file: a size that
// was seen or synced, and every block from one of the two versions.
func (c *content) explains(got string) bool {
	if len(got) != len(c.seen) && len(got) != len(c.synced) {
		return false
	}
	for off := 0; off < len(got); off += block {
		n := min(block, len(got)-off)
		b := []byte(got[off : off+n])
		if !bytes.Equal(b, cut(c.seen, off, n)) && !bytes.Equal(b, cut(c.synced, off, n)) {
			return false
		}
	}
	return true
}

// cut takes n bytes at off out of a content, zeroes behind its end.
func cut(p []byte, off, n int) []byte {
	b := make([]byte, n)
	if off < len(p) {
		copy(b, p[off:])
	}
	return b
}

// dump reads all files of a file system.
func dump(t *testing.T, fsys FS) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := fsys.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name)
			if e.IsDir {
				walk(path)
				continue
			}
			f, err := fsys.Open(path, false)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
			if err != nil || int64(len(b)) != e.Size {
				t.Fatalf("read %s: %d bytes of %d, %v", path, len(b), e.Size, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			all[path] = string(b)
		}
	}
	walk("/")
	return all
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	describe := func(files map[string]string) string {
		var s []string
		for _, path := range slices.Sorted(maps.Keys(files)) {
			s = append(s, fmt.Sprintf("%s %d bytes %.8x", path, len(files[path]), files[path]))
		}
		return strings.Join(s, "\n  ")
	}
	t.Fatalf("%s:\n  %s\nwant\n  %s", what, describe(got), describe(want))
}

// TestTruncateForgets: what was cut off does not come back when the file grows
// again, neither to a reader nor after a crash.
func TestTruncateForgets(t *testing.T) {
	for _, cut := range []int64{0, 10, block, 2*block + 10} {
		m := NewMem()
		f, err := m.Create("f")
		if err != nil {
			t.Fatal(err)
		}
		old := strings.Repeat("x", 4*block)
		if _, err := f.WriteAt([]byte(old), 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), m.SyncDir("/"), f.Truncate(cut), f.Truncate(4*block)); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"/f": old[:cut] + string(make([]byte, 4*block-cut))}
		same(t, "what is seen", dump(t, m), want)
		same(t, "before the sync", dump(t, m.CrashClone(nil, 0)), map[string]string{"/f": old})
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		same(t, "after the sync", dump(t, m.CrashClone(nil, 0)), want)
	}
}

// TestCrashLeavesHoles: blocks survive one by one, so a later write can be
// there while an earlier one is not.
func TestCrashLeavesHoles(t *testing.T) {
	m := NewMem()
	f, err := m.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	const blocks = 64
	if _, err := f.WriteAt(make([]byte, blocks*block), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, blocks*block), 0); err != nil {
		t.Fatal(err)
	}
	count := func(survive float64) (n, holes int) {
		got := dump(t, m.CrashClone(rand.New(rand.NewPCG(1, 2)), survive))["/f"]
		for i := range blocks {
			if got[i*block] == 1 {
				n++
			} else if i+1 < blocks && got[(i+1)*block] == 1 {
				holes++
			}
		}
		return n, holes
	}
	few, _ := count(0.1)
	half, holes := count(0.5)
	most, _ := count(0.9)
	if few == 0 || few >= half || half >= most || most == blocks || holes < 5 {
		t.Errorf("of %d blocks survived %d, %d (%d holes) and %d at 0.1, 0.5 and 0.9", blocks, few, half, holes, most)
	}
}

// TestNamesSurviveOneByOne: each change of a directory survives by itself, so a
// later one can be there while an earlier one is not.
func TestNamesSurviveOneByOne(t *testing.T) {
	const each = 6
	m := NewMem()
	for i := range each {
		create(t, m, fmt.Sprintf("old-%d", i), "")
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	for i := range each {
		create(t, m, fmt.Sprintf("new-%d", i), "")
		if err := m.Remove(fmt.Sprintf("old-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	const draws = 200
	alone := [2 * each][2 * each]int{} // how often the first change survived and the second did not
	for seed := range uint64(draws) {
		after := dump(t, m.CrashClone(rand.New(rand.NewPCG(seed, 0)), 0.5))
		var survived [2 * each]bool
		for i := range each {
			_, survived[2*i] = after[fmt.Sprintf("/new-%d", i)]
			_, stayed := after[fmt.Sprintf("/old-%d", i)]
			survived[2*i+1] = !stayed
		}
		for i := range survived {
			for k := range survived {
				if survived[i] && !survived[k] {
					alone[i][k]++
				}
			}
		}
	}
	for i := range alone {
		for k, n := range alone[i] {
			if i != k && (n < draws/10 || n > draws/2) {
				t.Errorf("change %d survived without change %d in %d of %d crashes, want about a quarter", i, k, n, draws)
			}
		}
	}
}

// TestWritesInFlight: of several writes that no sync has covered any may be lost,
// in any file; a sync covers one file, and what was written before it.
func TestWritesInFlight(t *testing.T) {
	m := NewMem()
	var files []File
	for _, name := range []string{"f", "g"} {
		f, err := m.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte("."), 3*block), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	write := func(f File, b byte, at int) {
		t.Helper()
		if _, err := f.WriteAt(bytes.Repeat([]byte{b}, block), int64(at*block)); err != nil {
			t.Fatal(err)
		}
	}
	write(files[0], '1', 0)
	if err := files[0].Sync(); err != nil {
		t.Fatal(err)
	}
	write(files[0], '2', 1)
	write(files[1], '3', 0)
	write(files[0], '4', 2)
	outcomes := map[string]int{}
	for seed := range uint64(200) {
		after := dump(t, m.CrashClone(rand.New(rand.NewPCG(seed, 0)), 0.5))
		var s strings.Builder
		for _, b := range []byte{after["/f"][0], after["/f"][block], after["/g"][0], after["/f"][2*block]} {
			s.WriteByte(b)
		}
		outcomes[s.String()]++
	}
	for _, want := range []string{"1...", "12..", "1.3.", "1..4", "123.", "12.4", "1.34", "1234"} {
		if outcomes[want] < 10 {
			t.Errorf("%q in %d of 200 crashes, want about 25", want, outcomes[want])
		}
	}
	if len(outcomes) != 8 {
		t.Errorf("outcomes %v", outcomes)
	}
}

// TestRenameIsAtomic draws many crashes around the rename by which a file gets
// its name: it is there under exactly one of the two, with its content, and
// what it replaces is there until then.
func TestRenameIsAtomic(t *testing.T) {
	m := NewMem()
	for _, name := range []string{"tmp", "final"} {
		f, err := m.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("was "+name), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if err := m.Rename("tmp", "final"); err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]int{}
	for seed := range uint64(200) {
		outcomes[fmt.Sprint(dump(t, m.CrashClone(rand.New(rand.NewPCG(seed, 0)), 0.5)))]++
	}
	before, after := "map[/final:was final /tmp:was tmp]", "map[/final:was tmp]"
	if len(outcomes) != 2 || outcomes[before] < 50 || outcomes[after] < 50 {
		t.Errorf("outcomes %v, want about 100 of each of %s and %s", outcomes, before, after)
	}
}

// TestFailedSync shows why a failed sync is never retried.
func TestFailedSync(t *testing.T) {
	m := NewMem()
	f, err := m.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	write := func(b byte, at int) {
		t.Helper()
		if _, err := f.WriteAt(bytes.Repeat([]byte{b}, block), int64(at*block)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(fsys FS) string {
		t.Helper()
		var s strings.Builder
		got := dump(t, fsys)["/f"]
		for i := 0; i < len(got); i += block {
			s.WriteByte(got[i])
		}
		return s.String()
	}
	write('a', 0)
	write('a', 1)
	if err := errors.Join(f.Sync(), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	write('b', 1)
	write('b', 2)
	f.(syncFailer).FailSync()
	if got := read(m); got != "abb" {
		t.Errorf("after the failed sync %q can be read, want all that was written", got)
	}
	write('c', 0)
	if err := f.Sync(); err != nil {
		t.Errorf("the next sync: %v, want success", err)
	}
	if got := read(m); got != "cbb" {
		t.Errorf("after the next sync %q can be read, want all that was written", got)
	}
	if got := read(m.CrashClone(nil, 1)); got != "ca" {
		t.Errorf("a crash left %q, want only what a sync covered that had not failed", got)
	}
	// A page is written back whole: what touches one that was dropped saves it.
	if _, err := f.WriteAt([]byte("d"), block+1); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := read(m.CrashClone(nil, 0)); got != "cb" {
		t.Errorf("a crash left %q, want the page that was written to again", got)
	}
}

func TestFailedSyncDir(t *testing.T) {
	m := NewMem()
	create(t, m, "old", "")
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	create(t, m, "lost", "")
	if err := m.Rename("old", "new"); err != nil {
		t.Fatal(err)
	}
	m.FailSyncDir("/")
	m.FailSyncDir("/missing")
	create(t, m, "later", "")
	if err := m.Rename("new", "newer"); err != nil {
		t.Fatal(err)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	// The rename that was dropped had taken away "old", so the file has two names.
	list := func(fsys FS) string { return fmt.Sprint(slices.Sorted(maps.Keys(dump(t, fsys)))) }
	if got, want := list(m), "[/later /lost /newer]"; got != want {
		t.Errorf("seen are %s, want %s", got, want)
	}
	crashed := m.CrashClone(nil, 1)
	if got, want := list(crashed), "[/later /newer /old]"; got != want {
		t.Errorf("a crash left %s, want %s", got, want)
	}
	f, err := crashed.Open("newer", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("one file"), 0); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, crashed)["/old"]; got != "one file" {
		t.Errorf("under its other name the file holds %q", got)
	}
}

func TestCrashFreesLocks(t *testing.T) {
	m := NewMem()
	held, err := m.Lock("LOCK")
	if err != nil {
		t.Fatal(err)
	}
	for _, survive := range []float64{0, 1} {
		if _, err := m.CrashClone(nil, survive).Lock("LOCK"); err != nil {
			t.Errorf("lock after a crash with survive=%v: %v", survive, err)
		}
	}
	if _, err := m.Lock("LOCK"); !errors.Is(err, ErrLocked) {
		t.Errorf("the original: %v, want ErrLocked", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(4*block + 100) // the rest of a block is of no use
	create(t, m, "other", "x")
	f, err := m.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		off, n int
		wrote  int
		err    error
	}{
		{what: "fits", off: 0, n: block, wrote: block},
		{what: "fits in part", off: block, n: 3 * block, wrote: 2 * block, err: syscall.ENOSPC},
		{what: "fits not at all", off: 3 * block, n: 1, err: syscall.ENOSPC},
		{what: "lies far beyond", off: 9 * block, n: 1, err: syscall.ENOSPC},
		{what: "overwrites", off: 0, n: 3 * block, wrote: 3 * block},
	} {
		n, err := f.WriteAt(bytes.Repeat([]byte{1}, c.n), int64(c.off))
		if n != c.wrote || !errors.Is(err, c.err) || err == nil != (c.err == nil) {
			t.Errorf("a write that %s: %d, %v, want %d, %v", c.what, n, err, c.wrote, c.err)
		}
	}
	if size, err := f.Size(); err != nil || size != 3*block {
		t.Errorf("size %d, %v, want %d", size, err, 3*block)
	}
	if free, err := m.Free("/"); err != nil || free != 100 {
		t.Errorf("free %d, %v, want 100", free, err)
	}
	if err := m.Remove("other"); err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt(make([]byte, block), 3*block); n != block || err != nil {
		t.Errorf("a write after something was removed: %d, %v", n, err)
	}
}

// TestNamesTakeRoom: without a free block there is no new name, but every file may
// take the place of another one.
func TestNamesTakeRoom(t *testing.T) {
	m := NewMem()
	m.SetNamesTakeRoom(true)
	m.SetCapacity(2 * block)
	create(t, m, "a", "x")
	create(t, m, "b", "y")
	m = m.CrashClone(nil, 1)
	if _, err := m.Create("c"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("create: %v", err)
	}
	if err := m.Rename("a", "c"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("rename: %v", err)
	}
	if err := m.Rename("a", "b"); err != nil {
		t.Errorf("rename in place of another: %v", err)
	}
	if err := m.Rename("b", "c"); err != nil {
		t.Errorf("rename with a free block: %v", err)
	}
}

// TestMemIsForConcurrentUse has readers, writers, syncs and crashes at once;
// the race detector judges.
func TestMemIsForConcurrentUse(t *testing.T) {
	m := NewMem()
	f, err := m.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for g := range 4 {
		go func() {
			var err error
			p := bytes.Repeat([]byte{byte(g)}, block)
			for i := range 50 {
				_, werr := f.WriteAt(p, int64(g*block))
				_, rerr := f.ReadAt(make([]byte, block), int64(g*block))
				_, oerr := m.CrashClone(rand.New(rand.NewPCG(uint64(i), 0)), 0.5).List("/")
				err = errors.Join(err, werr, rerr, oerr, f.Sync(), m.SyncDir("/"))
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
