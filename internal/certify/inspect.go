package certify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/walsvc/walsvc/internal/bench"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// Options say what is tested. Dir is required: absolute, existing, and without
// symbolic links in its path.
type Options struct {
	Dir string

	// Tests bring their own of these.
	fs       disk.FS
	locate   func(dir string) (*disk.Place, error)
	counters func(d disk.BlockDevice) (disk.Counters, bool)
	measure  func(ctx context.Context, dir string) (*bench.DiskReport, error)
}

func (o Options) withDefaults() Options {
	if o.fs == nil {
		o.fs = disk.OS(disk.OSOptions{})
	}
	if o.locate == nil {
		o.locate = disk.Locate
	}
	if o.counters == nil {
		o.counters = disk.CountersOf
	}
	if o.measure == nil {
		o.measure = func(ctx context.Context, dir string) (*bench.DiskReport, error) {
			return bench.Disk(ctx, bench.DiskOptions{Dir: dir, Sizes: []int64{limits.BlockSize}, Duration: timing, Space: 8 << 20}, nil)
		}
	}
	return o
}

// timing is how long each way of writing is timed for: enough for dozens of syncs
// of a disk that turns.
const timing = 250 * time.Millisecond

// Progress is told what is being done: done of all, and its name. It may be nil.
type Progress func(done, all int, what string)

func (p Progress) step(done, all int, what string) {
	if p != nil {
		p(done, all, what)
	}
}

// Inspect looks at a directory for what speaks against putting a volume there,
// without a cut. It takes one to two seconds and a few MiB, and leaves nothing
// behind, also when ctx ends it.
func Inspect(ctx context.Context, o Options, p Progress) (*Report, error) {
	r, err := inspect(ctx, o.withDefaults(), p)
	if err != nil {
		return nil, err
	}
	r.judge()
	return r, nil
}

func inspect(ctx context.Context, o Options, p Progress) (_ *Report, err error) {
	r := &Report{Dir: o.Dir, Findings: []Finding{}}
	p.step(0, 3, "asking the system")
	if r.Place, err = o.locate(o.Dir); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	if r.Place != nil {
		r.aboutFileSystem()
		r.aboutDevices()
		if r.Place.Has("ro") {
			return r, nil // nothing can be tried
		}
	} else {
		r.find(Good, "system", "it does not tell of mounts and devices")
	}

	home := filepath.Join(o.Dir, Home+"-probe")
	if err := removeTree(o.fs, home); err != nil {
		return nil, err
	}
	if err := o.fs.MkdirAll(home); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, removeTree(o.fs, home)) }()
	p.step(1, 3, "trying what a volume needs")
	r.aboutOperations(o.fs, home)
	if err := r.aboutFlushes(o, home); err != nil {
		return nil, err
	}
	p.step(2, 3, "timing syncs")
	measured, err := o.measure(ctx, home)
	if err != nil {
		return nil, err
	}
	r.aboutTime(measured)
	return r, nil
}

// fileSystems are those that something is to be said of.
var fileSystems = map[string]Finding{
	"tmpfs":     {Level: Against, Detail: "it lies in memory, and ends with the machine"},
	"ramfs":     {Level: Against, Detail: "it lies in memory, and ends with the machine"},
	"devtmpfs":  {Level: Against, Detail: "it lies in memory, and ends with the machine"},
	"ext2":      {Level: Suspicion, Detail: "it has no journal: a crash may cost files whose names were synced"},
	"vfat":      {Level: Suspicion, Detail: "it has no journal: a crash may cost files whose names were synced"},
	"exfat":     {Level: Suspicion, Detail: "it has no journal: a crash may cost files whose names were synced"},
	"overlay":   {Level: Suspicion, Detail: "it is a container's layer, on a file system that cannot be seen from here, and often ends with the container: give the volume a mount of its own"},
	"nfs":       {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the server's export (sync or async)"},
	"nfs4":      {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the server's export (sync or async)"},
	"cifs":      {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the server"},
	"smb3":      {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the server"},
	"9p":        {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the host"},
	"virtiofs":  {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the host"},
	"ceph":      {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the cluster"},
	"glusterfs": {Level: Suspicion, Detail: "whether a sync reaches a disk is decided by the cluster"},
	"zfs":       {Level: Good, Detail: "it syncs unless its property sync is disabled, which cannot be seen from here: zfs get sync"},
}

// aboutFileSystem judges type and options.
func (r *Report) aboutFileSystem() {
	p := r.Place
	of, known := fileSystems[p.FileSystem]
	switch {
	case strings.HasPrefix(p.FileSystem, "fuse") && p.FileSystem != "fuseblk":
		r.find(Suspicion, "file system", "%s: whether a sync reaches a disk is decided by a process", p.FileSystem)
	case known:
		r.find(of.Level, "file system", "%s: %s", p.FileSystem, of.Detail)
	default:
		r.find(Good, "file system", "%s, mounted from %s at %s", p.FileSystem, p.Source, p.MountPoint)
	}
	for _, option := range p.Options {
		switch option {
		case "ro":
			r.find(Against, "mount option", "ro: nothing can be written")
		case "nobarrier", "barrier=0", "fsync_mode=nobarrier":
			// Only a device without a cache of its own loses nothing by it.
			if r.throughout("write through") {
				r.find(Suspicion, "mount option", "%s: devices are not told to empty their caches; they say that they have none", option)
			} else {
				r.find(Against, "mount option", "%s: devices are not told to empty their caches, so a sync means nothing to a power cut; remount with barriers", option)
			}
		case "volatile":
			if p.FileSystem == "overlay" {
				r.find(Against, "mount option", "volatile: syncs do nothing")
			}
		case "async":
			r.find(Suspicion, "mount option", "async: on a file system of the network, it may acknowledge what it has only in memory")
		case "errors=continue":
			r.find(Suspicion, "mount option", "errors=continue: it goes on after its own structures were found damaged; errors=remount-ro is safer")
		case "journal_async_commit":
			r.find(Suspicion, "mount option", "journal_async_commit: its journal's commits do not wait for what they commit")
		case "data=writeback":
			r.find(Good, "mount option", "data=writeback: it changes what is found of writes that were not synced, which no volume relies on")
		}
	}
	if major, minor, ok := release(p.Kernel); ok && (major < 4 || major == 4 && minor < 13) {
		r.find(Suspicion, "kernel", "%s: before 4.13 a failed write could stay untold by the next sync", p.Kernel)
	}
}

// release reads the first two numbers of a kernel's release.
func release(s string) (major, minor int, ok bool) {
	n, err := fmt.Sscanf(s, "%d.%d", &major, &minor)
	return major, minor, n == 2 && err == nil
}

// throughout reports whether the devices at the bottom all say that their cache
// is of a kind. Without any that is seen it is false.
func (r *Report) throughout(cache string) bool {
	bottom := r.Place.Bottom()
	for _, d := range bottom {
		if d.WriteCache != cache {
			return false
		}
	}
	return len(bottom) > 0
}

// aboutDevices judges what lies below the file system.
func (r *Report) aboutDevices() {
	for _, d := range r.Place.Devices {
		model := d.Name
		if d.Model != "" {
			model += " (" + d.Model + ")"
		}
		switch {
		case strings.HasPrefix(d.Name, "zram"), strings.HasPrefix(d.Name, "ram"):
			r.find(Against, "device", "%s: it lies in memory", model)
		case strings.HasPrefix(d.Name, "nbd"), strings.HasPrefix(d.Name, "rbd"), strings.HasPrefix(d.Name, "drbd"):
			r.find(Suspicion, "device", "%s: whether a flush reaches a disk is decided by another machine", model)
		case d.Backing != "":
			r.find(Good, "device", "%s: a file, %s, and as honest as what that lies on", model, d.Backing)
		case len(d.On) > 0:
			r.find(Good, "device", "%s: on %s", model, strings.Join(d.On, " and "))
		case d.WriteCache == "write back":
			r.find(Good, "device", "%s: it says that it has a cache that a power cut empties, and so has to be told to flush%s", model, virtual(d))
		case d.WriteCache == "write through":
			r.find(Good, "device", "%s: it says that it has no cache that a power cut empties%s", model, virtual(d))
		default:
			r.find(Good, "device", "%s: it does not say what cache it has", model)
		}
	}
	if len(r.Place.Devices) == 0 && fileSystems[r.Place.FileSystem].Level != Against {
		r.find(Good, "device", "none can be seen below the file system")
	}
}

// virtual adds what is to be said of a device that a hypervisor makes.
func virtual(d disk.BlockDevice) string {
	for _, s := range []string{"qemu", "virtual", "vmware", "msft"} {
		if strings.Contains(strings.ToLower(d.Model), s) {
			return virtualSays
		}
	}
	if strings.HasPrefix(d.Name, "vd") || strings.HasPrefix(d.Name, "xvd") {
		return virtualSays
	}
	return ""
}

const virtualSays = "; it is a virtual disk: what becomes of a flush is decided by the host (QEMU's cache=unsafe drops it)"

// aboutOperations tries everything that a volume asks of a file system.
func (r *Report) aboutOperations(fsys disk.FS, home string) {
	at := func(name string) string { return filepath.Join(home, name) }
	s := site{fs: fsys, dir: home}
	for _, try := range []struct {
		what string
		do   func() error
	}{
		{"writing a file, syncing it and its name", func() error {
			f, err := s.make(at("a"), kindBlock, 4)
			if err != nil {
				return err
			}
			return errors.Join(f.Close(), fsys.SyncDir(home))
		}},
		{"overwriting written blocks and reading them", func() error {
			f, err := fsys.Open(at("a"), true)
			if err != nil {
				return err
			}
			want := s.stamp(kindBlock, 2, 1)
			err = writeBlock(f, want, 2)
			if err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			return s.expect(at("a"), 4, 2, want)
		}},
		{"renaming a file over another", func() error {
			f, err := s.make(at("b"), kindFile, 1)
			if err != nil {
				return err
			}
			if err := errors.Join(f.Close(), fsys.Rename(at("b"), at("a")), fsys.SyncDir(home)); err != nil {
				return err
			}
			return s.expect(at("a"), 1, 0, s.stamp(kindFile, 0, 0))
		}},
		{"cutting a file off and removing it", func() error {
			f, err := fsys.Open(at("a"), true)
			if err != nil {
				return err
			}
			if err := errors.Join(f.Truncate(0), f.Sync(), f.Close()); err != nil {
				return err
			}
			return errors.Join(fsys.Remove(at("a")), fsys.SyncDir(home))
		}},
		{"locking out a second opener", func() error {
			first, err := fsys.Lock(at("lock"))
			if err != nil {
				return err
			}
			second, err := fsys.Lock(at("lock"))
			if err == nil {
				return errors.Join(errors.New("the second one was let in"), second.Close(), first.Close())
			}
			if errors.Is(err, disk.ErrLocked) {
				err = nil
			}
			return errors.Join(err, first.Close())
		}},
	} {
		if err := try.do(); err != nil {
			r.find(Against, "operation", "%s: %v", try.what, err)
		} else {
			r.find(Good, "operation", "%s works", try.what)
		}
	}
}

// expect returns an error unless a file has so many blocks, and a stamp in one.
func (s *site) expect(path string, blocks, at uint64, want stamp) error {
	got, err := s.readBlocks(path, blocks+1)
	if err != nil {
		return err
	}
	if uint64(len(got)) != blocks {
		return fmt.Errorf("it has %d blocks, %d were written: %w", len(got), blocks, io.ErrUnexpectedEOF)
	}
	if found, ok := decode(got[at]); !ok || found != want {
		return errors.New("what is read is not what was written")
	}
	return nil
}

// probeSyncs is how many syncs are counted on their way to the devices.
const probeSyncs = 32

// aboutFlushes counts what syncs make the devices do. Others that use a device
// add to its counters, so only too low a count says something.
func (r *Report) aboutFlushes(o Options, home string) (err error) {
	if r.Place == nil {
		return nil
	}
	s := site{fs: o.fs, dir: home}
	f, err := s.make(filepath.Join(home, "flushes"), kindBlock, probeSyncs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	before := map[string]disk.Counters{}
	for _, d := range r.Place.Devices {
		if c, ok := o.counters(d); ok {
			before[d.Number] = c
		}
	}
	for i := range uint64(probeSyncs) {
		if err := writeBlock(f, s.stamp(kindBlock, i, 1), i); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	did := map[string]disk.Counters{}
	for _, d := range r.Place.Devices {
		if was, ok := before[d.Number]; ok {
			now, _ := o.counters(d)
			did[d.Name] = disk.Counters{Written: now.Written - was.Written, Flushes: now.Flushes - was.Flushes}
		}
	}
	// Of several devices at the bottom some may have had no part in it: spares,
	// other paths to the same disk, the slow half of a cache.
	r.aboutShare(r.Place.Bottom(), did)
	for _, d := range r.Place.Devices {
		if d.Backing != "" {
			r.aboutShare([]disk.BlockDevice{d}, did)
		}
	}
	return nil
}

// aboutShare judges what devices on one level did for the syncs of aboutFlushes,
// all of them together and each as much as any.
func (r *Report) aboutShare(devices []disk.BlockDevice, did map[string]disk.Counters) {
	var names []string
	var most, written uint64
	cached := false
	for _, d := range devices {
		c, ok := did[d.Name]
		if !ok {
			return // who does not count may have done it
		}
		names = append(names, d.Name)
		most, written = max(most, c.Flushes), written+c.Written
		cached = cached || d.WriteCache == "write back"
	}
	name := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
	case written < probeSyncs*limits.BlockSize:
		r.find(Against, "sync", "%d blocks of 4 KiB were synced one by one, and %s wrote %d bytes: syncs return before anything is written", probeSyncs, name, written)
	case !cached:
		r.find(Good, "sync", "%s writes what is synced", name)
	case most < probeSyncs:
		r.find(Against, "sync", "of %d syncs %d told %s to empty its cache: what it has in there is lost with the power", probeSyncs, most, name)
	default:
		r.find(Good, "sync", "each sync has %s write and empty its cache", name)
	}
}

// aboutTime judges how long a sync takes.
func (r *Report) aboutTime(m *bench.DiskReport) {
	c := m.Cell(bench.Overwritten, limits.BlockSize)
	if c == nil {
		return
	}
	r.SyncTime = c.Latency
	if m.Cell(bench.Direct, limits.BlockSize) == nil {
		r.find(Good, "O_DIRECT", "it is not taken here: everything goes through the page cache")
	}
	rotational := false
	if r.Place != nil {
		for _, d := range r.Place.Bottom() {
			// What a virtual disk says of turning is not worth much.
			rotational = rotational || d.Rotational && virtual(d) == ""
		}
	}
	const turn = 1000 // microseconds, in which nothing that turns writes twice
	took := fmt.Sprintf("writing and syncing 4 KiB takes %.0f us", c.Latency.P50)
	switch {
	case m.Verdict.SyncTooFast:
		r.find(Suspicion, "time", "%s, which no disk can do: it is memory, or a sync that does nothing, or a cache with a battery behind it", took)
	case rotational && c.Latency.P50 < turn:
		r.find(Suspicion, "time", "%s, and the disk says that it turns: there is a cache between, which had better have a battery", took)
	default:
		r.find(Good, "time", "%s, which is plausible", took)
	}
}
