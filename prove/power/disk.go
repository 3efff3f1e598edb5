package power

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// ErrNoFUSE is returned by Mount where this system does not let it.
var ErrNoFUSE = errors.New("FUSE is not available: it takes Linux with /dev/fuse, and root or fusermount3")

const rootNumber = 1 // of the root's inode, as FUSE has it

// A Kind says what a disk makes of a sync.
type Kind int

const (
	// Strict keeps what POSIX promises and no more. See the package's comment.
	Strict Kind = iota
	// Journaling keeps names as ext4 and xfs do, which write them to a journal: in
	// the order of their changes everywhere, and all of them with every sync of
	// anything.
	Journaling
	// Lying acknowledges syncs without making anything durable.
	Lying
)

func (k Kind) String() string {
	return [...]string{Strict: "strict", Journaling: "journaling", Lying: "lying"}[k]
}

// A Disk is a file system in memory, with a switch. Its methods may be called
// by several goroutines.
type Disk struct {
	kind Kind
	slow time.Duration // how long a sync takes
	cut  chan struct{} // closed by the cut
	gone chan struct{} // closed when nobody is left who could be answered

	mu      sync.Mutex
	root    *inode
	known   map[uint64]*inode // what the kernel has numbers of
	last    uint64            // number given
	changes int               // operations that changed or synced something
	cutAt   int               // of them, before which the cut comes; 0 for none
	atSync  bool              // not before anything else than a sync
	off     bool              // cut is closed
	left    bool              // gone is closed
	syncs   int
	renames int
	journal []*inode // directories of unsynced changes of names, one for each, oldest first
}

// New returns an empty disk whose syncs are answered after a time, so that more
// gathers meanwhile. What is written while a sync takes its time is not synced.
func New(kind Kind, sync time.Duration) *Disk {
	return newDisk(newInode(rootNumber, syscall.S_IFDIR|0o700), rootNumber, kind, sync)
}

func newDisk(root *inode, last uint64, kind Kind, sync time.Duration) *Disk {
	return &Disk{
		kind: kind, slow: sync, cut: make(chan struct{}), gone: make(chan struct{}),
		root: root, known: map[uint64]*inode{rootNumber: root}, last: last,
	}
}

// Mkdir makes a directory in the root whose name is durable, on a disk that lies
// too. It is for programs that are given one.
func (d *Disk) Mkdir(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	n := newInode(d.last, syscall.S_IFDIR|0o700)
	d.root.names[name], d.root.durableNames[name] = n, n
}

// CutAfter has the power go n changes from now, before the next one: writes,
// syncs, truncations, creations, renames and removals count. n is 0 or more. If
// atSync is set, it goes before the first sync from then on: when the most is
// unsynced.
func (d *Disk) CutAfter(n int, atSync bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt, d.atSync = d.changes+n+1, atSync
}

// Cut takes the power away now, if it is still there. From then on nothing
// changes on the disk, and whoever asks it for something waits, until Abandon.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutLocked()
}

func (d *Disk) cutLocked() {
	if !d.off {
		d.off = true
		close(d.cut)
	}
}

// Off is closed when the power is gone.
func (d *Disk) Off() <-chan struct{} { return d.cut }

// Abandon lets everybody who waits go, with EIO. It is for when they were told
// to die: the kernel does not let a process go that has a request under way.
func (d *Disk) Abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutLocked()
	if !d.left {
		d.left = true
		close(d.gone)
	}
}

// Counts returns how many files and directories were synced and renamed.
func (d *Disk) Counts() (syncs, renames int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs, d.renames
}

// A Loss says how a cut treats what was not synced.
type Loss struct {
	// Survive is how likely each unsynced part is to be there: with 0 nothing is,
	// and with 1 everything, in its last version.
	Survive float64
	// Sectors says that the disk writes sectors of 512 bytes, so that a block may be
	// there in parts, each in a version of its own.
	Sectors bool
}

// Survivor returns what is there when the power is back, after a cut: everything
// synced, and of the rest what rng keeps. lost is how many unsynced changes are
// gone. The new disk is of the same kind.
func (d *Disk) Survivor(rng *rand.Rand, loss Loss) (after *Disk, lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutLocked()
	c := crash{rng: rng, Loss: loss, done: map[*inode]*inode{}}
	if d.kind == Journaling {
		c.kept = map[*inode]int{}
		for _, dir := range d.journal {
			if !c.survives() {
				break
			}
			c.kept[dir]++
		}
	}
	root := c.inode(d.root)
	return newDisk(root, d.last, d.kind, d.slow), c.lost
}

// An op is what an operation does to the disk.
type op int

const (
	reads op = iota
	changes
	syncs
)

// begin takes the lock for an operation, which ends with d.mu.Unlock, and
// returns EIO, without the lock, if the power is gone.
func (d *Disk) begin(o op) syscall.Errno {
	d.mu.Lock()
	if o != reads && !d.off {
		d.changes++
		if d.cutAt != 0 && d.changes >= d.cutAt && (o == syncs || !d.atSync) {
			d.cutLocked()
		}
	}
	if d.off {
		d.mu.Unlock()
		<-d.gone
		return syscall.EIO
	}
	return 0
}

// finish lets a sync take its time, without the lock. It returns EIO if the power
// goes meanwhile: then nobody learns that it was made.
func (d *Disk) finish() syscall.Errno {
	if d.slow == 0 {
		return 0
	}
	t := time.NewTimer(d.slow)
	defer t.Stop()
	select {
	case <-t.C:
		return 0
	case <-d.cut:
		<-d.gone
		return syscall.EIO
	}
}

// node returns what the kernel means by a number, with the lock held.
func (d *Disk) node(number uint64) (*inode, syscall.Errno) {
	if n := d.known[number]; n != nil {
		return n, 0
	}
	return nil, syscall.ESTALE
}

// child returns a directory and what has a name in it, with the lock held.
func (d *Disk) child(dir uint64, name string) (*inode, *inode, syscall.Errno) {
	n, errno := d.node(dir)
	switch {
	case errno != 0:
		return nil, nil, errno
	case !n.isDir():
		return nil, nil, syscall.ENOTDIR
	case n.names[name] == nil:
		return n, nil, syscall.ENOENT
	}
	return n, n.names[name], 0
}

// make gives a new inode a name that is free, with the lock held.
func (d *Disk) make(dir uint64, name string, mode uint32) (*inode, syscall.Errno) {
	parent, _, errno := d.child(dir, name)
	switch {
	case errno == 0:
		return nil, syscall.EEXIST
	case errno != syscall.ENOENT || parent == nil:
		return nil, errno
	}
	d.last++
	n := newInode(d.last, mode)
	d.change(parent, change{add: name, node: n})
	return n, 0
}

func (d *Disk) remove(dir uint64, name string, isDir bool) syscall.Errno {
	parent, n, errno := d.child(dir, name)
	switch {
	case errno != 0:
		return errno
	case isDir && !n.isDir():
		return syscall.ENOTDIR
	case !isDir && n.isDir():
		return syscall.EISDIR
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	d.change(parent, change{remove: name, node: n})
	return 0
}

// rename moves a name, over another if there is one. Between two directories it
// is durable at once, with all their names: a move that survives in one of them
// alone is more than a cut does, and no program here counts on the moment.
func (d *Disk) rename(fromDir uint64, from string, toDir uint64, to string) syscall.Errno {
	source, n, errno := d.child(fromDir, from)
	if errno != 0 {
		return errno
	}
	target, old, errno := d.child(toDir, to)
	switch {
	case errno != 0 && errno != syscall.ENOENT || target == nil:
		return errno
	case old == n:
		return 0
	case old != nil && old.isDir() && !n.isDir():
		return syscall.EISDIR
	case old != nil && !old.isDir() && n.isDir():
		return syscall.ENOTDIR
	case old != nil && len(old.names) > 0:
		return syscall.ENOTEMPTY
	}
	d.renames++
	if source == target {
		d.change(source, change{remove: from, add: to, node: n})
		return 0
	}
	d.change(target, change{add: to, node: n})
	d.change(source, change{remove: from, node: n})
	d.sync(target)
	d.sync(source)
	return 0
}

// change changes a directory's names, with the lock held.
func (d *Disk) change(dir *inode, c change) {
	dir.change(c)
	if d.kind == Journaling {
		d.journal = append(d.journal, dir)
	}
}

// sync makes a file or directory durable, with the lock held, as the kind has it.
func (d *Disk) sync(n *inode) {
	if d.kind == Lying {
		return
	}
	n.sync()
	for _, dir := range d.journal {
		dir.sync()
	}
	d.journal = nil
}

// tell counts that the kernel gets an inode's number.
func (d *Disk) tell(n *inode) {
	n.lookups++
	d.known[n.number] = n
}

// forget drops an inode that the kernel has no number of any more; it stays on
// the disk as long as it has a name there.
func (d *Disk) forget(number, lookups uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.known[number]
	if n == nil || number == rootNumber {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	if n.lookups == 0 {
		delete(d.known, number)
	}
}

// sortedNames returns the names of a directory.
func (n *inode) sortedNames() []string {
	names := make([]string, 0, len(n.names))
	for name := range n.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Clone returns a disk with the same content, all of it durable: of one that
// nobody has mounted, a copy.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := crash{rng: rand.New(rand.NewPCG(0, 0)), Loss: Loss{Survive: 1}, done: map[*inode]*inode{}}
	return newDisk(c.inode(d.root), d.last, d.kind, d.slow)
}

// Export writes the files of a disk into a directory of the machine, which it makes.
func (d *Disk) Export(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.root.export(dir)
}

func (n *inode) export(path string) error {
	switch n.mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		content := make([]byte, n.size)
		n.readAt(content, 0)
		return os.WriteFile(path, content, 0o600)
	case syscall.S_IFDIR:
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		for _, name := range n.sortedNames() {
			if err := n.names[name].export(filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
