package power

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Mounted is a Disk that programs see.
type Mounted struct {
	disk   *Disk
	dir    string
	server *fuse.Server
}

// Mount shows a disk at dir, an empty directory. Locks (flock) are the kernel's
// own and end with the mount. It returns an error that Is ErrNoFUSE if the
// system does not mount at all.
func Mount(d *Disk, dir string) (*Mounted, error) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	server, err := fuse.NewServer(&fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d, listings: map[uint64][]fuse.DirEntry{},
	}, dir, &fuse.MountOptions{
		FsName: "powercut", Name: "powercut", DirectMount: true,
		DisableXAttrs: true, DisableReadDirPlus: true, MaxWrite: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	go server.Serve()
	m := &Mounted{disk: d, dir: dir, server: server}
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), m.Unmount())
	}
	return m, nil
}

// Unmount ends the mount, and with it what waits for the disk. A mount that
// somebody still uses is aborted and detached: its name is free in any case, and
// nobody asks this process for an answer any more. One that exits with files of its
// own mount open would else wait for itself, for ever and unkillable.
func (m *Mounted) Unmount() error {
	m.disk.Abandon()
	if err := m.server.Unmount(); err == nil {
		return nil
	}
	if err := unix.Unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return nil
}

// cached is how long the kernel may believe what it was told. Nothing changes
// but through it.
const cached = time.Hour

// fileSystem answers the kernel.
type fileSystem struct {
	fuse.RawFileSystem // what it does not know: ENOSYS
	d                  *Disk

	mu       sync.Mutex
	listings map[uint64][]fuse.DirEntry // of open directories, by handle
	last     uint64
}

func (f *fileSystem) String() string { return "powercut" }

func fill(n *inode, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: n.number, Size: uint64(n.size), Blocks: uint64((n.size + 511) / 512),
		Mode: n.mode, Nlink: 1, Blksize: blockSize,
		Owner: fuse.Owner{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())},
	}
}

// entry tells the kernel of an inode, with the disk's lock held.
func (f *fileSystem) entry(n *inode, out *fuse.EntryOut) {
	f.d.tell(n)
	out.NodeId, out.Generation = n.number, 1
	out.SetEntryTimeout(cached)
	out.SetAttrTimeout(cached)
	fill(n, &out.Attr)
}

func (f *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if errno := f.d.begin(reads); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	_, n, errno := f.d.child(h.NodeId, name)
	if errno == 0 {
		f.entry(n, out)
	}
	return fuse.Status(errno)
}

func (f *fileSystem) Forget(number, lookups uint64) { f.d.forget(number, lookups) }

func (f *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if errno := f.d.begin(reads); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.node(in.NodeId)
	if errno == 0 {
		out.SetTimeout(cached)
		fill(n, &out.Attr)
	}
	return fuse.Status(errno)
}

func (f *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	size, resizes := in.GetSize()
	o := reads
	if resizes {
		o = changes
	}
	if errno := f.d.begin(o); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.node(in.NodeId)
	if errno != 0 {
		return fuse.Status(errno)
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
	}
	if resizes {
		n.resize(int64(size))
	}
	out.SetTimeout(cached)
	fill(n, &out.Attr)
	return fuse.OK
}

func (f *fileSystem) make(dir uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	if errno := f.d.begin(changes); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.make(dir, name, mode)
	if errno == 0 {
		f.entry(n, out)
	}
	return fuse.Status(errno)
}

func (f *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(in.NodeId, name, syscall.S_IFDIR|in.Mode&^syscall.S_IFMT, out)
}

// Mknod makes regular files and sockets: a service may listen in its volume.
func (f *fileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if t := in.Mode & syscall.S_IFMT; t != syscall.S_IFREG && t != syscall.S_IFSOCK {
		return fuse.EPERM
	}
	return f.make(in.NodeId, name, in.Mode, out)
}

func (f *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return f.make(in.NodeId, name, syscall.S_IFREG|in.Mode&^syscall.S_IFMT, &out.EntryOut)
}

func (f *fileSystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h.NodeId, name, false)
}

func (f *fileSystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h.NodeId, name, true)
}

func (f *fileSystem) remove(dir uint64, name string, isDir bool) fuse.Status {
	if errno := f.d.begin(changes); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	return fuse.Status(f.d.remove(dir, name, isDir))
}

func (f *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	if errno := f.d.begin(changes); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	return fuse.Status(f.d.rename(in.NodeId, from, in.Newdir, to))
}

func (f *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

func (f *fileSystem) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (f *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if errno := f.d.begin(reads); errno != 0 {
		return nil, fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.node(in.NodeId)
	if errno != 0 {
		return nil, fuse.Status(errno)
	}
	return fuse.ReadResultData(buf[:n.readAt(buf, int64(in.Offset))]), fuse.OK
}

func (f *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if errno := f.d.begin(changes); errno != 0 {
		return 0, fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.node(in.NodeId)
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	n.writeAt(data, int64(in.Offset))
	return uint32(len(data)), fuse.OK
}

// Fallocate extends; other modes are refused, and a program does without.
func (f *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if errno := f.d.begin(changes); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.node(in.NodeId)
	if errno == 0 && in.Mode == 0 {
		n.resize(max(n.size, int64(in.Offset+in.Length)))
	}
	return fuse.Status(errno)
}

func (f *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.sync(in.NodeId) }

func (f *fileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.sync(in.NodeId)
}

func (f *fileSystem) sync(number uint64) fuse.Status {
	if errno := f.d.begin(syncs); errno != 0 {
		return fuse.Status(errno)
	}
	n, errno := f.d.node(number)
	if errno == 0 {
		f.d.syncs++
		f.d.sync(n)
	}
	f.d.mu.Unlock()
	if errno == 0 {
		errno = f.d.finish()
	}
	return fuse.Status(errno)
}

// Flush comes with every close and makes nothing durable.
func (f *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (f *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if errno := f.d.begin(reads); errno != 0 {
		return fuse.Status(errno)
	}
	defer f.d.mu.Unlock()
	n, errno := f.d.node(in.NodeId)
	if errno != 0 {
		return fuse.Status(errno)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	out.Fh = f.last
	listing := make([]fuse.DirEntry, 0, len(n.names))
	for i, name := range n.sortedNames() {
		child := n.names[name]
		listing = append(listing, fuse.DirEntry{Name: name, Mode: child.mode, Ino: child.number, Off: uint64(i + 1)})
	}
	f.listings[out.Fh] = listing
	return fuse.OK
}

// ReadDir goes on in what OpenDir found: a listing never skips or repeats a name
// because others came and went.
func (f *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.Lock()
	listing := f.listings[in.Fh]
	f.mu.Unlock()
	for _, e := range listing[min(in.Offset, uint64(len(listing))):] {
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (f *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listings, in.Fh)
}

// StatFs tells of a disk with room: full disks are another proof.
func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks = 1 << 24 // 64 GiB
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 20, Ffree: 1 << 20,
		Bsize: blockSize, Frsize: blockSize, NameLen: 255}
	return fuse.OK
}
