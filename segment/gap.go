package segment

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A Gap is a run of segments that were released while others before them are kept.
// A file says so, so that nobody takes them for lost:
//
//	0000000000000005.wal   kept
//	0000000000000006.gap   6 to 8 were released; with the header of 6, whose cut
//	                       says where the frames of 5 end
//	0000000000000009.wal   kept
//
// It is durable before the first of them loses its name. What is found of them after a
// crash was given up, and goes.
type Gap struct {
	From, To ID // both in it
}

// covers reports whether a segment is in the gap.
func (g Gap) covers(id ID) bool { return g.From <= id && id <= g.To }

// String spells a gap as its segments' IDs.
func (g Gap) String() string { return fmt.Sprintf("%s to %s", g.From, g.To) }

// A gapFile is what the file of a gap says.
type gapFile struct {
	Gap
	header *SegmentHeader // of the first segment in it
	// unproven: it was found beside segments that it covers, so that nobody knows whether
	// its name is durable. A sync of the directory that failed may have taken it along.
	unproven bool
}

func gapName(id ID) string { return id.String() + gapSuffix }

// encode returns the file: the header as its segment had it, and a disk block with
// where the gap ends.
func (g *gapFile) encode() []byte {
	b := disk.AlignedBuffer(gapFileSize)
	g.header.encode(b)
	end := b[limits.SegmentHeaderSize:]
	clear(end)
	copy(end[gapMagic:], gapMagicText)
	binary.LittleEndian.PutUint32(end[gapVersion:], FormatVersion)
	binary.LittleEndian.PutUint64(end[gapFrom:], uint64(g.From))
	binary.LittleEndian.PutUint64(end[gapTo:], uint64(g.To))
	binary.LittleEndian.PutUint32(end[gapHeaderSum:], headerSum(b))
	binary.LittleEndian.PutUint32(end[gapChecksum:], checksum(end[:gapChecksum]))
	return b
}

// headerSum tells a segment's header from every other one. Its own checksum is left out:
// a CRC over bytes and their CRC is the same for all bytes.
func headerSum(header []byte) uint32 { return checksum(header[:segChecksum]) }

// decodeGap is the inverse of encode. It returns a *CorruptError that Is
// ErrBadHeader, without a place, or an error that Is ErrNewerVersion.
func decodeGap(b []byte) (*gapFile, error) {
	if len(b) != gapFileSize {
		return nil, corrupt(ErrBadHeader, "%d bytes, want %d", len(b), gapFileSize)
	}
	end := b[limits.SegmentHeaderSize:]
	switch {
	case string(end[gapMagic:gapMagic+len(gapMagicText)]) != gapMagicText:
		return nil, corrupt(ErrBadHeader, "magic number %q", end[gapMagic:gapMagic+len(gapMagicText)])
	case binary.LittleEndian.Uint32(end[gapChecksum:]) != checksum(end[:gapChecksum]):
		return nil, corrupt(ErrBadHeader, "checksum")
	case binary.LittleEndian.Uint32(end[gapVersion:]) > FormatVersion:
		return nil, newer("gap", binary.LittleEndian.Uint32(end[gapVersion:]))
	case binary.LittleEndian.Uint32(end[gapVersion:]) == 0:
		return nil, corrupt(ErrBadHeader, "version 0")
	case !zero(end[gapReserved0:gapFrom]), !zero(end[gapReserved1:gapChecksum]):
		return nil, corrupt(ErrBadHeader, "reserved bytes are set")
	case binary.LittleEndian.Uint32(end[gapHeaderSum:]) != headerSum(b):
		return nil, corrupt(ErrBadHeader, "checksum of the segment's header")
	}
	hdr, err := DecodeSegmentHeader(b[:limits.SegmentHeaderSize])
	if err != nil {
		return nil, err
	}
	g := &gapFile{header: hdr, Gap: Gap{From: ID(binary.LittleEndian.Uint64(end[gapFrom:])), To: ID(binary.LittleEndian.Uint64(end[gapTo:]))}}
	if g.From != hdr.ID || g.To < g.From {
		return nil, corrupt(ErrBadHeader, "a gap of segments %s with the header of %s", g.Gap, hdr.ID)
	}
	return g, nil
}

// readGap reads the file of the gap that begins with id.
func (j *Journal) readGap(id ID) (*gapFile, error) {
	f, err := j.fileOf(gapName(id), false)
	if err != nil {
		return nil, fmt.Errorf("gap %s: %w", id, err)
	}
	b := make([]byte, gapFileSize+1) // one more, to see that it ends there
	n, err := readAt(f, b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("gap %s: %w", id, err)
	}
	g, err := decodeGap(b[:n])
	if err == nil && (g.From != id || g.header.Volume != j.volume.volume) {
		err = corrupt(ErrBadHeader, "it is gap %s of volume %s", g.Gap, g.header.Volume)
	}
	if err != nil {
		return nil, placed(err, filepath.Join(j.o.Dir, gapName(id)), Pos{Segment: id})
	}
	return g, nil
}

// listTries is how often a volume that another process writes is listed, at most, until
// the files of gaps are there that were listed.
const listTries = 10

// openGaps takes the segments of a listing, and those in gaps out of the journal. It
// returns the listing that they are of: a gap's file that is gone when it is read may
// have gone since another one speaks for it, which was not there yet to be listed.
func (j *Journal) openGaps(l *listing) (*listing, error) {
	for try := 1; ; try++ {
		there, err := j.readGaps(l.gaps)
		if err != nil {
			return nil, err
		}
		if there || try == listTries {
			break
		}
		if l, err = list(j.o); err != nil {
			return nil, err
		}
	}
	j.segments = l.segments
	j.takeGapsOut()
	return l, nil
}

// readGaps reads the files of gaps. It reports whether all were there. One that does not
// verify is as if it were not: what it spoke of seems to be missing, and is told. So is one
// that the disk does not read: nobody needs what it speaks of, and it must not keep a volume
// from being opened.
func (j *Journal) readGaps(ids []ID) (there bool, err error) {
	slices.Sort(ids)
	j.gaps, j.obsolete, j.unread, there = nil, nil, map[ID]error{}, true
	for _, id := range ids {
		n := len(j.gaps)
		covered := n > 0 && j.gaps[n-1].covers(id)
		g, err := j.readGap(id)
		if isUnread(err) {
			g, err = j.readGap(id) // as if it were not there only if the disk fails for good
		}
		_, bad := errors.AsType[*CorruptError](err)
		switch {
		case covered && (bad || err == nil && g.To <= j.gaps[n-1].To):
			j.obsolete = append(j.obsolete, Gap{id, j.gaps[n-1].To})
		case err == nil && n > 0 && id <= j.gaps[n-1].To+1:
			// Another one was to be written with it, and could not; or it was, and was told
			// to have failed. Both files stay.
			j.gaps[n-1].To = g.To
		case err == nil:
			j.gaps = append(j.gaps, *g)
		case errors.Is(err, fs.ErrNotExist):
			there = false
		case isUnread(err):
			j.unread[id] = err
		case !bad:
			return false, err
		}
	}
	return there, nil
}

// isUnread reports whether err is the disk's failure to read, and not that it may not be
// asked.
func isUnread(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission)
}

// UnreadGaps returns why files of gaps, by the first segment in each, could not be read
// when the volume was opened. What they speak of seems to be missing.
func (j *Journal) UnreadGaps() map[ID]error { return j.unread }

// takeGapsOut takes the segments in gaps out of the journal, and forgets the gaps that
// nobody needs.
func (j *Journal) takeGapsOut() {
	var left []file
	for _, f := range j.segments {
		if g, gone := j.gapLocked(f.id); gone {
			g.unproven = true
			j.released = append(j.released, releasing{file: f})
			continue
		}
		left = append(left, f)
	}
	j.segments = left
	j.forgetGapsLocked()
}

// gapLocked returns the gap that a segment is in.
func (j *Journal) gapLocked(id ID) (g *gapFile, found bool) {
	i, found := slices.BinarySearchFunc(j.gaps, id, func(g gapFile, id ID) int {
		if g.covers(id) {
			return 0
		}
		return cmp.Compare(g.From, id)
	})
	if !found {
		return nil, false
	}
	return &j.gaps[i], true
}

// forgetGapsLocked forgets the gaps that no segment lies before.
func (j *Journal) forgetGapsLocked() {
	for len(j.gaps) > 0 && len(j.segments) > 0 && j.gaps[0].To < j.segments[0].id {
		j.obsolete = append(j.obsolete, j.gaps[0].Gap)
		j.gaps = slices.Delete(j.gaps, 0, 1)
	}
}

// Gaps returns the runs of segments that were released while others before them are
// kept, oldest first.
func (j *Journal) Gaps() []Gap {
	j.mu.Lock()
	defer j.mu.Unlock()
	gaps := make([]Gap, len(j.gaps))
	for i, g := range j.gaps {
		gaps[i] = g.Gap
	}
	return gaps
}

// Behind returns the segment that follows one: the next ID, or the one behind the gap
// that this is in. Whether it is there is not asked.
func (j *Journal) Behind(id ID) ID {
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, found := j.gapLocked(id + 1); found {
		return g.To + 1
	}
	return id + 1
}

// gapsBehind returns the gaps that there are without some segments, none of which is
// the newest, and nothing of what no segment lies before. A segment whose header cannot
// be had is taken out of gone, unless it is of those: where the frames of the one before
// it end would be forgotten with it.
func (j *Journal) gapsBehind(gone map[ID]bool) []gapFile {
	j.mu.Lock()
	ids := make([]ID, len(j.segments))
	for i, f := range j.segments {
		ids[i] = f.id
	}
	gaps := slices.Clone(j.gaps)
	j.mu.Unlock()
	oldest := ids[slices.IndexFunc(ids, func(id ID) bool { return !gone[id] })]
	for id := range gone {
		if id < oldest {
			continue
		}
		hdr, err := j.Header(id)
		if err != nil {
			delete(gone, id)
			continue
		}
		gaps = append(gaps, gapFile{Gap: Gap{id, id}, header: hdr})
	}
	gaps = slices.DeleteFunc(gaps, func(g gapFile) bool { return g.To < oldest })
	slices.SortFunc(gaps, func(a, b gapFile) int { return cmp.Compare(a.From, b.From) })
	var joined []gapFile
	for _, g := range gaps {
		if n := len(joined); n > 0 && joined[n-1].To+1 >= g.From {
			joined[n-1].To = max(joined[n-1].To, g.To)
			continue
		}
		joined = append(joined, g)
	}
	return joined
}

// writeGap makes the file of a gap durable, in place of one that ends earlier. It
// returns ErrNoSpace, wrapped, if there is no room for it, and nothing has happened.
func (j *Journal) writeGap(g *gapFile) error {
	name := gapName(g.From)
	tmp := filepath.Join(j.o.Dir, name+tmpSuffix)
	f, err := j.o.FS.Create(tmp)
	if errors.Is(err, fs.ErrExist) { // an earlier attempt could not be removed
		if err = j.o.FS.Remove(tmp); err == nil {
			f, err = j.o.FS.Create(tmp)
		}
	}
	if err == nil {
		if _, err = f.WriteAt(g.encode(), 0); err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		j.lockNames()
		if err = j.rename(name+tmpSuffix, name); err == nil {
			if err = j.o.FS.SyncDir(j.o.Dir); err != nil {
				// Whether it lasts nobody knows, nor what a later sync would prove.
				err = j.poisoned("write gap "+g.String(), err)
			}
			j.unlockNames()
			g.unproven = g.unproven && err != nil
			return err
		}
		j.unlockNames()
	}
	_ = removeIfThere(j.o.FS, tmp) // else the next attempt or opening removes it
	if isFull(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return fmt.Errorf("write gap %s: %w", g.Gap, err)
}

// proveGap makes the file of the gap that a released segment is in durable, if nobody
// knows whether it is. REQUIRES: j.releaseMu.
func (j *Journal) proveGap(id ID) error {
	j.mu.Lock()
	g, found := j.gapLocked(id)
	if !found || !g.unproven {
		j.mu.Unlock()
		return nil
	}
	proven := *g
	j.mu.Unlock()
	if err := j.writeGap(&proven); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, found := j.gapLocked(id); found { // whoever changes them holds releaseMu
		g.unproven = false
	}
	return nil
}

// removeGaps removes the files of gaps that are needed no more: while a segment
// before the end of one still has its name, a crash would leave it there, and those
// behind it seemingly lost. REQUIRES: j.releaseMu.
func (j *Journal) removeGaps() {
	for {
		j.mu.Lock()
		if j.poison != nil {
			j.mu.Unlock()
			return // the next opening removes them
		}
		i := slices.IndexFunc(j.obsolete, func(g Gap) bool {
			return !slices.ContainsFunc(j.released, func(r releasing) bool { return r.id <= g.To })
		})
		if i < 0 {
			j.mu.Unlock()
			return
		}
		g := j.obsolete[i]
		j.obsolete = slices.Delete(j.obsolete, i, i+1)
		again := slices.ContainsFunc(j.gaps, func(now gapFile) bool { return now.From == g.From })
		j.mu.Unlock()
		if !again {
			// One that stays is found and removed by the next opening.
			_ = removeIfThere(j.o.FS, filepath.Join(j.o.Dir, gapName(g.From)))
		}
	}
}
