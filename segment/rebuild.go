package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// An Identity is what a VOLUME file says.
type Identity struct {
	Volume      ulid.ULID
	SegmentSize int64 // bytes
	Created     int64 // nanoseconds since 1970
}

// Identify returns what the VOLUME file of o.Dir has to say by the headers of
// the segments, and whether it says something else: because it is missing, does
// not verify, or is another volume's. The volume is the one that most headers
// name. It returns ErrNotVolume if there is no segment, ErrVolumeFileLost if no
// header verifies and the file does not either, ErrBadName, ErrNewerVersion, or
// the disk's error. It writes nothing.
func Identify(o Options) (id Identity, differs bool, err error) {
	o = o.withDefaults()
	l, err := list(o)
	if err != nil {
		return id, false, fmt.Errorf("identify volume: %w", err)
	}
	var said *volumeFile
	if l.volume {
		said, err = readVolume(o)
		if err != nil && !errors.Is(err, ErrBadVolumeFile) {
			return id, false, fmt.Errorf("identify volume: %w", err)
		}
	}
	if said == nil && len(l.segments) == 0 {
		return id, false, fmt.Errorf("identify volume: %s: %w: it has no segment", o.Dir, ErrNotVolume)
	}
	votes := map[ulid.ULID]int{}
	found := map[ulid.ULID]Identity{}
	var most ulid.ULID
	for _, f := range l.segments {
		h, err := headerOf(o, f)
		if err != nil {
			return id, false, fmt.Errorf("identify volume: %w", err)
		}
		if h == nil {
			continue
		}
		// Single segments may be short; none is long.
		v, ok := found[h.Volume]
		if !ok {
			v = Identity{Volume: h.Volume, Created: h.Created}
		}
		v.SegmentSize, v.Created = max(v.SegmentSize, h.Size), min(v.Created, h.Created)
		found[h.Volume] = v
		if votes[h.Volume]++; votes[h.Volume] > votes[most] {
			most = h.Volume
		}
	}
	switch {
	case said != nil && votes[said.volume] == votes[most]:
		return Identity{Volume: said.volume, SegmentSize: said.segmentSize, Created: said.created}, false, nil
	case votes[most] == 0:
		return id, false, fmt.Errorf("identify volume: %s: %w, and no segment's header verifies", o.Dir, ErrVolumeFileLost)
	}
	return found[most], true, nil
}

// headerOf returns a segment's header, whatever volume it is of; nil if it does
// not verify.
func headerOf(o Options, s file) (*SegmentHeader, error) {
	f, err := o.FS.Open(filepath.Join(o.Dir, s.name), false)
	if err != nil {
		return nil, err
	}
	b := make([]byte, limits.SegmentHeaderSize)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	h, err := DecodeSegmentHeader(b[:n])
	switch {
	case errors.Is(err, ErrNewerVersion):
		return nil, err
	case err != nil || h.ID != s.id:
		return nil, nil
	}
	return h, nil
}

// WriteIdentity replaces the VOLUME file of o.Dir, durably and whole, or not at
// all. It fails with disk.ErrLocked if another process has the volume.
func WriteIdentity(o Options, id Identity) (err error) {
	o = o.withDefaults()
	if err := checkSegmentSize(id.SegmentSize); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	lock, err := o.FS.Lock(filepath.Join(o.Dir, lockName))
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	// What an interrupted call left is in the way.
	if err := removeIfThere(o.FS, filepath.Join(o.Dir, volumeName+tmpSuffix)); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	v := volumeFile{version: FormatVersion, volume: id.Volume, segmentSize: id.SegmentSize, created: id.Created}
	if err := writeVolume(o, &v); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

func removeIfThere(fsys disk.FS, path string) error {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
