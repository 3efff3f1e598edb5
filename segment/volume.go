package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// Names in a volume's directory.
const (
	lockName      = "LOCK"
	volumeName    = "VOLUME"
	socketName    = "walsvc.sock" // the server's, not this package's, but no stranger
	segmentSuffix = ".wal"
	gapSuffix     = ".gap"
	sparePrefix   = "spare-"
	spareSuffix   = ".seg"
	tmpSuffix     = ".tmp"
)

// A role is what an entry of a volume's directory is there for.
type role uint8

const (
	roleStranger role = iota // not ours: left alone
	roleKnown                // LOCK and the server's socket
	roleVolume
	roleSegment
	roleGap
	roleSpare
	roleTmp
)

// classify says what a name is there for; for a segment and a gap it also returns
// the ID. A name that is almost one of ours is an error: something else than
// walsvc was at work here, and guessing could lose a segment.
func classify(name string) (role, ID, error) {
	switch {
	case name == lockName, name == socketName:
		return roleKnown, 0, nil
	case name == volumeName:
		return roleVolume, 0, nil
	case strings.HasSuffix(name, segmentSuffix), strings.HasSuffix(name, gapSuffix):
		suffix := name[len(name)-len(segmentSuffix):] // both are as long
		id, err := ParseID(strings.TrimSuffix(name, suffix))
		if err != nil || id == 0 {
			return 0, 0, fmt.Errorf("%q: %w: want 16 lower-case hexadecimal digits, not all zero, before %s", name, ErrBadName, suffix)
		}
		if suffix == gapSuffix {
			return roleGap, id, nil
		}
		return roleSegment, id, nil
	case strings.HasSuffix(name, spareSuffix):
		if !isSpareName(name) {
			return 0, 0, fmt.Errorf("%q: %w: want %s, a lower-case ULID and %s", name, ErrBadName, sparePrefix, spareSuffix)
		}
		return roleSpare, 0, nil
	case strings.HasSuffix(name, tmpSuffix):
		// Only what a run of walsvc leaves behind is removed.
		switch r, id, err := classify(strings.TrimSuffix(name, tmpSuffix)); {
		case err == nil && (r == roleVolume || r == roleSegment || r == roleGap || r == roleSpare):
			return roleTmp, id, nil
		}
	}
	return roleStranger, 0, nil
}

func segmentName(id ID) string { return id.String() + segmentSuffix }

func spareName(u ulid.ULID) string {
	return sparePrefix + strings.ToLower(u.String()) + spareSuffix
}

func isSpareName(name string) bool {
	s, ok := strings.CutPrefix(name, sparePrefix)
	s, ok2 := strings.CutSuffix(s, spareSuffix)
	if !ok || !ok2 {
		return false
	}
	u, err := ulid.ParseStrict(strings.ToUpper(s))
	return err == nil && spareName(u) == name
}

// A file is a segment or a spare as the directory lists it.
type file struct {
	id   ID // zero for a spare
	name string
	size int64
}

// A listing is a volume's directory, sorted out.
type listing struct {
	volume    bool
	segments  []file // by ID
	gaps      []ID
	spares    []file
	tmp       []string
	strangers []string
}

func list(o Options) (*listing, error) {
	entries, err := o.FS.List(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: there is no such directory", o.Dir, ErrNotVolume)
	}
	if err != nil {
		return nil, fmt.Errorf("list volume: %w", err)
	}
	var l listing
	for _, e := range entries {
		r, id, err := classify(e.Name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Dir, err)
		}
		if e.IsDir && r != roleStranger {
			return nil, fmt.Errorf("%s: %q: %w: it is a directory", o.Dir, e.Name, ErrBadName)
		}
		switch r {
		case roleVolume:
			l.volume = true
		case roleSegment:
			l.segments = append(l.segments, file{id: id, name: e.Name, size: e.Size})
		case roleGap:
			l.gaps = append(l.gaps, id)
		case roleSpare:
			l.spares = append(l.spares, file{name: e.Name, size: e.Size})
		case roleTmp:
			l.tmp = append(l.tmp, e.Name)
		case roleStranger:
			l.strangers = append(l.strangers, e.Name)
		}
	}
	slices.SortFunc(l.segments, func(a, b file) int { return cmp.Compare(a.id, b.id) })
	return &l, nil
}

// requireVolume says why the directory is not a volume to open.
func (l *listing) requireVolume(dir string) error {
	switch {
	case l.volume:
		return nil
	case len(l.segments) > 0:
		return fmt.Errorf("%s: %w: %d segments from %s on; put the volume's own file back, a new one does not fit them",
			dir, ErrVolumeFileLost, len(l.segments), l.segments[0].id)
	}
	return fmt.Errorf("%s: %w: it has no %s file; is a file system not mounted?", dir, ErrNotVolume, volumeName)
}

// Create makes a new volume in o.Dir, and the directory if it is missing. When
// it returns nil, the volume is durable; it has no segment until Resume. It
// fails with ErrExists if there is a volume, with ErrVolumeFileLost if there
// are segments of one, and with disk.ErrLocked if another process is at it.
// Strangers in the directory do not matter.
func Create(o Options) (err error) {
	o = o.withDefaults()
	if err := checkSegmentSize(o.SegmentSize); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	lock, err := o.FS.Lock(filepath.Join(o.Dir, lockName))
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	l, err := list(o)
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if l.volume {
		return fmt.Errorf("create volume: %s: %w", o.Dir, ErrExists)
	}
	if len(l.segments) > 0 {
		return fmt.Errorf("create volume: %w", l.requireVolume(o.Dir))
	}
	id, err := ulid.New(uint64(o.Now()/1e6), o.Rand)
	if err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	for _, name := range l.tmp {
		if err := o.FS.Remove(filepath.Join(o.Dir, name)); err != nil {
			return fmt.Errorf("create volume: %w", err)
		}
	}
	v := volumeFile{version: FormatVersion, volume: id, segmentSize: o.SegmentSize, created: o.Now()}
	if err := writeVolume(o, &v); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	return nil
}

// writeVolume makes the VOLUME file appear durably and whole, or not at all.
func writeVolume(o Options, v *volumeFile) error {
	path := filepath.Join(o.Dir, volumeName)
	f, err := o.FS.Create(path + tmpSuffix)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(v.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, o.FS.Remove(path+tmpSuffix))
	}
	if err := o.FS.Rename(path+tmpSuffix, path); err != nil {
		return err
	}
	if err := o.FS.SyncDir(o.Dir); err != nil {
		// The name is seen and may never become durable, whatever a later sync
		// says: nobody may find it and build on it.
		return errors.Join(err, o.FS.Remove(path))
	}
	return nil
}

// readVolume reads the VOLUME file.
func readVolume(o Options) (*volumeFile, error) {
	path := filepath.Join(o.Dir, volumeName)
	f, err := o.FS.Open(path, false)
	if err != nil {
		return nil, err
	}
	b := make([]byte, volSize+1) // one more, to see that it ends there
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	v, err := decodeVolume(b[:n])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// Open opens a volume: it takes the lock, reads the VOLUME file, lists the
// segments, reads the files of gaps and removes what an earlier run left
// unfinished. It reads no frame and makes nothing durable. Its errors: ErrNotVolume, ErrVolumeFileLost,
// ErrBadVolumeFile, ErrNewerVersion, ErrBadName and disk.ErrLocked.
//
// IDs that are missing without being in a gap are none of them: what that means
// depends on what stands in the segments around them, which is for recovery to say.
func Open(o Options) (_ *Journal, err error) {
	o = o.withDefaults()
	// Looked at before it is locked: a directory that is no volume gets no
	// LOCK file from us.
	l, err := list(o)
	if err == nil {
		err = l.requireVolume(o.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	j := &Journal{
		o:       o,
		headers: map[ID]*SegmentHeader{},
		pins:    map[ID]int{},
		changed: make(chan struct{}),
		kick:    make(chan struct{}, 1),
		names:   make(chan struct{}, 1),
	}
	if !o.ReadOnly {
		if j.lock, err = o.FS.Lock(filepath.Join(o.Dir, lockName)); err != nil {
			return nil, fmt.Errorf("open volume: %w", err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, j.lock.Close())
			}
		}()
		if l, err = list(o); err != nil {
			return nil, fmt.Errorf("open volume: %w", err)
		}
	}
	if err = l.requireVolume(o.Dir); err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	if j.volume, err = readVolume(o); err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	j.target = o.spares(j.volume.segmentSize)
	if l, err = j.openGaps(l); err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	j.strangers = l.strangers
	for _, s := range l.spares {
		if s.size == j.volume.segmentSize {
			j.spares = append(j.spares, s.name)
		} else {
			l.tmp = append(l.tmp, s.name)
		}
	}
	if !o.ReadOnly {
		for _, name := range l.tmp {
			if err = o.FS.Remove(filepath.Join(o.Dir, name)); err != nil {
				return nil, fmt.Errorf("open volume: remove unfinished file: %w", err)
			}
		}
	}
	if o.Events.Stranger != nil {
		for _, name := range j.strangers {
			o.Events.Stranger(name)
		}
	}
	return j, nil
}

// fileOf opens a file of the volume.
func (j *Journal) fileOf(name string, write bool) (disk.File, error) {
	return j.o.FS.Open(filepath.Join(j.o.Dir, name), write)
}
