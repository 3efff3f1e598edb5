package disk

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/walsvc/walsvc/internal/limits"
)

// Mem is a file system in memory that can crash. It keeps two versions of
// everything, the one that is seen and the one that is synced, and CrashClone
// makes a third from them, as a power cut would.
//
// Relative paths are relative to "/", which exists; other directories are made
// with MkdirAll. It is safe for concurrent use.
type Mem struct {
	mu       sync.Mutex // guards everything beneath, inodes included
	root     *memDir
	locked   map[*memFile]bool
	capacity int64 // bytes; 0 is no limit
	names    bool  // whether a new name takes room, as on xfs
}

// NewMem returns an empty file system without a limit on its size.
func NewMem() *Mem {
	return &Mem{root: newMemDir(), locked: map[*memFile]bool{}}
}

// SetCapacity bounds the bytes that files may take, each rounded up to 4 KiB;
// 0 is no limit. Growing a file beyond it fails with ENOSPC after writing what
// fits. A capacity below what is used only stops growth.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// SetNamesTakeRoom has a disk without a free block refuse new names with ENOSPC, as
// xfs does when the directory has to grow for one: of files that are created, and of
// renamed ones, unless they replace another file.
func (m *Mem) SetNamesTakeRoom(take bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = take
}

// nameless reports whether there is no room for another name in d. REQUIRES: mu.
func (m *Mem) nameless(d *memDir, name string) bool {
	return m.names && m.capacity > 0 && d.seen[name] == nil && m.root.used()+limits.BlockSize > m.capacity
}

// CrashClone returns what a power cut at this instant could leave behind; m
// itself goes on as if nothing had happened. What was synced is there. Each
// 4 KiB block written since, each change of a file's size and each change of a
// directory survives with the given probability, independently of the others,
// but:
//
//   - a rename survives as a whole or not at all: no crash loses both names
//   - a change of a name survives only if every earlier unsynced change of
//     that name did
//   - what was dropped by a failed sync never survives
//
// So 0 gives the synced state and 1 the one that is seen; rng is not used for
// these two and may be nil. Equal histories and equal seeds give equal clones.
// Locks are free in the clone. It costs a few machine words for each 4 KiB
// block of the files; the blocks themselves are shared.
func (m *Mem) CrashClone(rng *rand.Rand, survive float64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := crash{files: map[*memFile]*memFile{}, survives: func() bool {
		if survive <= 0 || survive >= 1 {
			return survive >= 1
		}
		return rng.Float64() < survive
	}}
	return &Mem{root: c.dir(m.root), locked: map[*memFile]bool{}, capacity: m.capacity, names: m.names}
}

// FailSyncDir does what a failed SyncDir may do: the changes of the directory
// since its last sync are still seen, count as synced, and do not survive a
// crash. It does nothing if there is no such directory.
func (m *Mem) FailSyncDir(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, err := m.dir("sync", dir); err == nil {
		d.pending = nil
	}
}

// Create implements FS.
func (m *Mem) Create(path string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, name, err := m.parent("open", path)
	if err != nil {
		return nil, err
	}
	if d.seen[name] != nil {
		return nil, pathError("open", path, syscall.EEXIST)
	}
	if m.nameless(d, name) {
		return nil, pathError("open", path, syscall.ENOSPC)
	}
	f := &memFile{dirty: map[int]bool{}}
	d.change(change{add: name, node: f})
	return &memHandle{m: m, f: f, path: path, write: true}, nil
}

// Open implements FS.
func (m *Mem) Open(path string, write bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.node("open", path)
	if err != nil {
		return nil, err
	}
	f, ok := n.(*memFile)
	if !ok {
		return nil, pathError("open", path, syscall.EISDIR)
	}
	return &memHandle{m: m, f: f, path: path, write: write}, nil
}

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	if err := checkRename(from, to); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	linkError := func(err error) error { return &os.LinkError{Op: "rename", Old: from, New: to, Err: err} }
	d, name, err := m.parent("rename", from)
	if err != nil {
		return linkError(err)
	}
	n, target := d.seen[name], filepath.Base(to)
	if n == nil {
		return linkError(syscall.ENOENT)
	}
	_, fromDir := n.(*memDir)
	_, toDir := d.seen[target].(*memDir)
	if fromDir || toDir {
		return linkError(fmt.Errorf("%w: renaming directories", fs.ErrInvalid))
	}
	if m.nameless(d, target) {
		return linkError(syscall.ENOSPC)
	}
	if name != target {
		d.change(change{remove: name, add: target, node: n})
	}
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, name, err := m.parent("remove", path)
	if err != nil {
		return err
	}
	n := d.seen[name]
	if n == nil {
		return pathError("remove", path, syscall.ENOENT)
	}
	if sub, ok := n.(*memDir); ok && len(sub.seen) > 0 {
		return pathError("remove", path, syscall.ENOTEMPTY)
	}
	d.change(change{remove: name, node: n})
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir("open", dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(d.seen))
	for name, n := range d.seen {
		switch n := n.(type) {
		case *memFile:
			entries = append(entries, Entry{Name: name, Size: n.size})
		case *memDir:
			entries = append(entries, Entry{Name: name, IsDir: true})
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return entries, nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.root
	for _, name := range split(dir) {
		switch n := d.seen[name].(type) {
		case *memDir:
			d = n
		case *memFile:
			return pathError("mkdir", dir, syscall.ENOTDIR)
		default:
			sub := newMemDir()
			d.change(change{add: name, node: sub})
			d.sync()
			d = sub
		}
	}
	return nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.dir("open", dir)
	if err != nil {
		return err
	}
	d.sync()
	return nil
}

// Lock implements FS.
func (m *Mem) Lock(path string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, name, err := m.parent("open", path)
	if err != nil {
		return nil, err
	}
	if d.seen[name] == nil {
		d.change(change{add: name, node: &memFile{dirty: map[int]bool{}}})
	}
	f, ok := d.seen[name].(*memFile)
	if !ok {
		return nil, pathError("open", path, syscall.EISDIR)
	}
	if m.locked[f] {
		return nil, pathError("lock", path, ErrLocked)
	}
	m.locked[f] = true
	return &memLock{m: m, f: f, path: path}, nil
}

// Free implements FS. Without a capacity it says 1 TiB.
func (m *Mem) Free(dir string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.dir("statfs", dir); err != nil {
		return 0, err
	}
	if m.capacity == 0 {
		return 1 << 40, nil
	}
	return uint64(max(0, m.capacity-m.root.used())), nil
}

// parent finds the directory of a path, and the path's last name.
func (m *Mem) parent(op, path string) (*memDir, string, error) {
	names := split(path)
	if len(names) == 0 {
		return nil, "", pathError(op, path, syscall.EISDIR)
	}
	last := len(names) - 1
	d := m.root
	for _, name := range names[:last] {
		switch n := d.seen[name].(type) {
		case *memDir:
			d = n
		case *memFile:
			return nil, "", pathError(op, path, syscall.ENOTDIR)
		default:
			return nil, "", pathError(op, path, syscall.ENOENT)
		}
	}
	return d, names[last], nil
}

func (m *Mem) node(op, path string) (memNode, error) {
	if len(split(path)) == 0 {
		return m.root, nil
	}
	d, name, err := m.parent(op, path)
	if err != nil {
		return nil, err
	}
	if d.seen[name] == nil {
		return nil, pathError(op, path, syscall.ENOENT)
	}
	return d.seen[name], nil
}

func (m *Mem) dir(op, path string) (*memDir, error) {
	n, err := m.node(op, path)
	if err != nil {
		return nil, err
	}
	d, ok := n.(*memDir)
	if !ok {
		return nil, pathError(op, path, syscall.ENOTDIR)
	}
	return d, nil
}

// split takes a path into its names; the root has none.
func split(path string) []string {
	path = filepath.ToSlash(filepath.Clean("/" + path))
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func pathError(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// memNode is what a name stands for.
type memNode interface {
	used() int64 // bytes taken, rounded up to blocks
}

// memDir is a directory. synced is what a crash leaves at least; pending turns
// it into seen, unless a failed sync dropped changes.
type memDir struct {
	seen, synced map[string]memNode
	pending      []change // since the last sync, oldest first
}

// change is one change of a directory: remove and add are names, of which a
// creation has only the second, a removal only the first, and a rename both.
type change struct {
	remove, add string
	node        memNode
}

func newMemDir() *memDir {
	return &memDir{seen: map[string]memNode{}, synced: map[string]memNode{}}
}

func (d *memDir) change(c change) {
	c.apply(d.seen)
	d.pending = append(d.pending, c)
}

func (d *memDir) sync() {
	for _, c := range d.pending {
		c.apply(d.synced)
	}
	d.pending = nil
}

func (d *memDir) used() (n int64) {
	for _, node := range d.seen {
		n += node.used()
	}
	return n
}

func (c change) apply(names map[string]memNode) {
	if c.remove != "" {
		delete(names, c.remove)
	}
	if c.add != "" {
		names[c.add] = c.node
	}
}

type memBlock [limits.BlockSize]byte

// memFile is a file's content, apart from its names.
//
//  1. A block is never changed once it is in a slice: versions and clones share it.
//  2. A nil block is all zeroes; zeroes that are written become one.
//  3. len(blocks) is blockCount(size), len(synced) is blockCount(syncedSize).
//  4. Bytes of the last of blocks beyond size are zero. Those of synced need
//     not be after a failed sync; a crash zeroes them.
//  5. blocks[i] and synced[i] differ only if dirty[i], or size and syncedSize
//     do, or a failed sync dropped block i.
type memFile struct {
	size, syncedSize int64
	sizeDirty        bool // the size changed since the last sync
	blocks, synced   []*memBlock
	dirty            map[int]bool // blocks that changed since the last sync
}

func blockCount(size int64) int {
	return int((size + limits.BlockSize - 1) / limits.BlockSize)
}

func (f *memFile) used() int64 { return int64(len(f.blocks)) * limits.BlockSize }

func (f *memFile) readAt(p []byte, off int64) (n int) {
	for n < len(p) && off < f.size {
		i, at := int(off/limits.BlockSize), off%limits.BlockSize
		part := p[n:min(int64(len(p)), int64(n)+limits.BlockSize-at, int64(n)+f.size-off)]
		if b := f.blocks[i]; b != nil {
			copy(part, b[at:])
		} else {
			clear(part)
		}
		n += len(part)
		off += int64(len(part))
	}
	return n
}

func (f *memFile) writeAt(p []byte, off int64) {
	if end := off + int64(len(p)); end > f.size {
		f.resize(end)
	}
	for len(p) > 0 {
		i, at := int(off/limits.BlockSize), off%limits.BlockSize
		if at == 0 && len(p) >= limits.BlockSize && *(*memBlock)(p) == (memBlock{}) {
			// Preparing a segment writes nothing else: not worth a block each.
			f.blocks[i], f.dirty[i] = nil, true
			p, off = p[limits.BlockSize:], off+limits.BlockSize
			continue
		}
		var b memBlock
		if old := f.blocks[i]; old != nil {
			b = *old
		}
		n := copy(b[at:], p)
		f.put(i, &b)
		p, off = p[n:], off+int64(n)
	}
}

func (f *memFile) put(i int, b *memBlock) {
	if *b == (memBlock{}) {
		b = nil
	}
	f.blocks[i] = b
	f.dirty[i] = true
}

func (f *memFile) resize(size int64) {
	if size == f.size {
		return
	}
	for i := blockCount(size); i < len(f.blocks); i++ {
		f.dirty[i] = true // should the file grow again, they are zeroes
	}
	f.blocks = resized(f.blocks, size)
	if at := size % limits.BlockSize; size < f.size && at != 0 && f.blocks[len(f.blocks)-1] != nil {
		b := *f.blocks[len(f.blocks)-1]
		clear(b[at:])
		f.put(len(f.blocks)-1, &b)
	}
	f.size, f.sizeDirty = size, true
}

func (f *memFile) sync() {
	if f.sizeDirty {
		f.synced = resized(f.synced, f.size)
		f.syncedSize = f.size
	}
	for i := range f.dirty {
		f.settle(f.synced, i)
	}
	f.drop()
}

// settle puts the seen version of block i into another slice of versions, if
// that reaches so far.
func (f *memFile) settle(blocks []*memBlock, i int) {
	if i >= len(blocks) {
		return
	}
	blocks[i] = nil
	if i < len(f.blocks) {
		blocks[i] = f.blocks[i]
	}
}

// drop forgets what is unsynced, without making it so.
func (f *memFile) drop() {
	f.sizeDirty = false
	clear(f.dirty)
}

// resized cuts blocks to a file's size or fills them up with zeroes.
func resized(blocks []*memBlock, size int64) []*memBlock {
	n := blockCount(size)
	if n <= len(blocks) {
		return blocks[:n]
	}
	return append(blocks, make([]*memBlock, n-len(blocks))...)
}

// crash is one CrashClone under way. Everything is visited in sorted order:
// equal seeds must give equal clones.
type crash struct {
	survives func() bool
	files    map[*memFile]*memFile // files that were visited, since a file may have two names by now
}

func (c *crash) dir(d *memDir) *memDir {
	names := maps.Clone(d.synced)
	lost := map[string]bool{}
	for _, ch := range d.pending {
		if lost[ch.remove] || lost[ch.add] || !c.survives() {
			for _, name := range []string{ch.remove, ch.add} {
				if name != "" {
					lost[name] = true
				}
			}
			continue
		}
		ch.apply(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch n := names[name].(type) {
		case *memDir:
			names[name] = c.dir(n)
		case *memFile:
			names[name] = c.file(n)
		}
	}
	return &memDir{seen: names, synced: maps.Clone(names)}
}

func (c *crash) file(f *memFile) *memFile {
	if done := c.files[f]; done != nil {
		return done
	}
	size := f.syncedSize
	if f.sizeDirty && c.survives() {
		size = f.size
	}
	blocks := make([]*memBlock, blockCount(size))
	copy(blocks, f.synced)
	for _, i := range slices.Sorted(maps.Keys(f.dirty)) {
		if c.survives() {
			f.settle(blocks, i)
		}
	}
	if at, last := size%limits.BlockSize, len(blocks)-1; at != 0 && blocks[last] != nil {
		b := *blocks[last] // may be a version from when the file was longer
		clear(b[at:])
		blocks[last] = &b
	}
	after := &memFile{
		size: size, blocks: blocks,
		syncedSize: size, synced: slices.Clone(blocks),
		dirty: map[int]bool{},
	}
	c.files[f] = after
	return after
}

// memHandle is an open memFile.
type memHandle struct {
	m      *Mem
	f      *memFile
	path   string
	write  bool
	closed bool // guarded by m.mu
}

// begin takes the lock; the caller gives it back.
func (h *memHandle) begin(op string) error {
	h.m.mu.Lock()
	if h.closed {
		return pathError(op, h.path, fs.ErrClosed)
	}
	return nil
}

func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	err := h.begin("read")
	defer h.m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("readat", h.path, fs.ErrInvalid)
	}
	n := h.f.readAt(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Prefetch does nothing: it is all in memory.
func (h *memHandle) Prefetch(int64, int64) {}

func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	err := h.begin("write")
	defer h.m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("writeat", h.path, fs.ErrInvalid)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !h.write {
		return 0, pathError("write", h.path, syscall.EBADF)
	}
	fits := h.room(p, off)
	if fits > 0 {
		h.f.writeAt(p[:fits], off)
	}
	if fits < len(p) {
		return fits, pathError("write", h.path, syscall.ENOSPC)
	}
	return len(p), nil
}

// room returns how many bytes of p the capacity lets in.
func (h *memHandle) room(p []byte, off int64) int {
	if h.m.capacity == 0 || off+int64(len(p)) <= h.f.used() {
		return len(p)
	}
	free := max(0, h.m.capacity-h.m.root.used()) / limits.BlockSize * limits.BlockSize
	return int(min(int64(len(p)), max(0, h.f.used()+free-off)))
}

func (h *memHandle) Sync() error {
	err := h.begin("fdatasync")
	defer h.m.mu.Unlock()
	if err != nil {
		return err
	}
	h.f.sync()
	return nil
}

// FailSync does what a failed Sync may do: what was written since the last one
// can still be read, counts as clean, so that the next Sync succeeds without
// it, and does not survive a crash.
func (h *memHandle) FailSync() {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.f.drop()
}

func (h *memHandle) Size() (int64, error) {
	err := h.begin("stat")
	defer h.m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return h.f.size, nil
}

func (h *memHandle) Truncate(size int64) error {
	err := h.begin("truncate")
	defer h.m.mu.Unlock()
	if err != nil {
		return err
	}
	if size < 0 || !h.write {
		return pathError("truncate", h.path, syscall.EINVAL)
	}
	h.f.resize(size)
	return nil
}

func (h *memHandle) Close() error {
	err := h.begin("close")
	defer h.m.mu.Unlock()
	h.closed = true
	return err
}

// memLock is a held lock of a Mem.
type memLock struct {
	m    *Mem
	f    *memFile
	path string
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.f == nil {
		return pathError("close", l.path, fs.ErrClosed)
	}
	delete(l.m.locked, l.f)
	l.f = nil
	return nil
}
