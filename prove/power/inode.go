package power

import (
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"github.com/walsvc/walsvc/internal/limits"
)

// blockSize is what a cut keeps or loses as a whole, in bytes.
const blockSize = limits.BlockSize

// sectorSize is the same on disks with smaller sectors.
const sectorSize = 512

// maxVersions bounds the versions of a block that a cut chooses from. What is
// overwritten more often than that between two syncs forgets its older ones.
const maxVersions = 4

type block [blockSize]byte

// An inode is a file or a directory, apart from its names.
//
//  1. A block is never changed once it is in a map: versions and survivors share it.
//  2. A block that is not there, or nil, is all zeroes.
//  3. No block of seen lies beyond size, and its last one is zero beyond size.
//     What lies beyond the size after a cut is cleared then.
//  4. seen and durable differ only in blocks that unsynced has.
type inode struct {
	number  uint64
	mode    uint32 // type and permissions, as in stat(2)
	lookups uint64 // how often the kernel was told the number; it may use it until it forgot as often

	size, durableSize int64
	seen, durable     map[int64]*block   // of a file, by block number
	unsynced          map[int64][]*block // versions since the last sync, oldest first

	names, durableNames map[string]*inode // of a directory
	pending             []change          // of its names since the last sync, oldest first
}

// A change is one change of a directory's names: a creation has only add, a
// removal only remove, a rename both.
type change struct {
	remove, add string
	node        *inode
}

func newInode(number uint64, mode uint32) *inode {
	n := &inode{number: number, mode: mode}
	if n.isDir() {
		n.names, n.durableNames = map[string]*inode{}, map[string]*inode{}
	} else {
		n.seen, n.durable, n.unsynced = map[int64]*block{}, map[int64]*block{}, map[int64][]*block{}
	}
	return n
}

func (n *inode) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

func (c change) apply(names map[string]*inode) {
	if c.remove != "" {
		delete(names, c.remove)
	}
	if c.add != "" {
		names[c.add] = c.node
	}
}

func (n *inode) change(c change) {
	c.apply(n.names)
	n.pending = append(n.pending, c)
}

// readAt fills p from off and returns how much of it lies within the file.
func (n *inode) readAt(p []byte, off int64) int {
	p = p[:max(0, min(int64(len(p)), n.size-off))]
	for rest := p; len(rest) > 0; {
		at := off % blockSize
		part := rest[:min(int64(len(rest)), blockSize-at)]
		if b := n.seen[off/blockSize]; b != nil {
			copy(part, b[at:])
		} else {
			clear(part)
		}
		rest, off = rest[len(part):], off+int64(len(part))
	}
	return len(p)
}

func (n *inode) writeAt(p []byte, off int64) {
	n.size = max(n.size, off+int64(len(p)))
	for len(p) > 0 {
		i, at := off/blockSize, off%blockSize
		var b block
		if old := n.seen[i]; old != nil {
			b = *old
		}
		written := copy(b[at:], p)
		n.put(i, &b)
		p, off = p[written:], off+int64(written)
	}
}

func (n *inode) put(i int64, b *block) {
	if b != nil && *b == (block{}) {
		b = nil
	}
	set(n.seen, i, b)
	versions := append(n.unsynced[i], b)
	n.unsynced[i] = versions[max(0, len(versions)-maxVersions):]
}

// set keeps zeroes out of a map of blocks.
func set(blocks map[int64]*block, i int64, b *block) {
	if b == nil {
		delete(blocks, i)
	} else {
		blocks[i] = b
	}
}

func (n *inode) resize(size int64) {
	if size < n.size {
		for i := range n.seen {
			if i*blockSize >= size {
				n.put(i, nil) // should the file grow again, they are zeroes
			}
		}
		if b := n.seen[size/blockSize]; b != nil {
			cut := *b
			clear(cut[size%blockSize:])
			n.put(size/blockSize, &cut)
		}
	}
	n.size = size
}

// sync makes what is seen durable: the content of a file, the names of a directory.
func (n *inode) sync() {
	for _, c := range n.pending {
		c.apply(n.durableNames)
	}
	n.pending = nil
	for i, versions := range n.unsynced {
		set(n.durable, i, versions[len(versions)-1])
	}
	clear(n.unsynced)
	n.durableSize = n.size
}

// A crash decides what a cut leaves. It goes through everything in sorted order:
// equal histories and seeds leave the same.
type crash struct {
	Loss
	rng  *rand.Rand
	done map[*inode]*inode // a file may have two names by now
	kept map[*inode]int    // how many changes of a directory are there, or nil if each decides for itself
	lost int               // unsynced changes that are not there afterwards
}

func (c *crash) survives() bool {
	if c.rng.Float64() < c.Survive {
		return true
	}
	c.lost++
	return false
}

func (c *crash) inode(n *inode) *inode {
	if after := c.done[n]; after != nil {
		return after
	}
	after := newInode(n.number, n.mode)
	c.done[n] = after
	if n.isDir() {
		c.dir(n, after)
	} else {
		c.file(n, after)
	}
	return after
}

func (c *crash) dir(n, after *inode) {
	names := maps.Clone(n.durableNames)
	lost := map[string]bool{"": false}
	pending := n.pending
	if c.kept != nil {
		for _, ch := range pending[:c.kept[n]] {
			ch.apply(names)
		}
		c.lost += len(pending) - c.kept[n]
		pending = nil
	}
	for _, ch := range pending {
		if lost[ch.remove] || lost[ch.add] || !c.survives() {
			lost[ch.remove] = ch.remove != ""
			lost[ch.add] = ch.add != ""
			continue
		}
		ch.apply(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		after.names[name] = c.inode(names[name])
	}
	after.durableNames = maps.Clone(after.names)
}

func (c *crash) file(n, after *inode) {
	after.size = c.size(n)
	after.durable = maps.Clone(n.durable)
	for _, i := range slices.Sorted(maps.Keys(n.unsynced)) {
		set(after.durable, i, c.block(n.durable[i], n.unsynced[i]))
	}
	for i, b := range after.durable {
		switch beyond := after.size - i*blockSize; {
		case beyond <= 0:
			delete(after.durable, i)
		case beyond < blockSize:
			cut := *b // may be a version from when the file was longer
			clear(cut[beyond:])
			after.durable[i] = &cut
		}
	}
	after.seen, after.durableSize = maps.Clone(after.durable), after.size
}

// size returns the size of a file after the cut. One that grew may have grown to
// any block on the way.
func (c *crash) size(n *inode) int64 {
	switch grown := (n.size - n.durableSize) / blockSize; {
	case n.size == n.durableSize:
		return n.size
	case !c.survives():
		return n.durableSize
	case grown > 0 && c.Survive < 1 && c.rng.IntN(2) == 0:
		return (n.durableSize/blockSize + 1 + c.rng.Int64N(grown)) * blockSize
	}
	return n.size
}

// block returns what is there of a block whose unsynced versions are given, oldest
// first: the durable one or one of them, or of each sector one. Nil is all zeroes.
func (c *crash) block(durable *block, unsynced []*block) *block {
	version := func() *block {
		if !c.survives() {
			return durable
		}
		if c.Survive < 1 {
			return unsynced[c.rng.IntN(len(unsynced))]
		}
		return unsynced[len(unsynced)-1]
	}
	if !c.Sectors {
		return version()
	}
	var torn block
	for at := 0; at < blockSize; at += sectorSize {
		if b := version(); b != nil {
			copy(torn[at:at+sectorSize], b[at:])
		}
	}
	if torn == (block{}) {
		return nil
	}
	return &torn
}
