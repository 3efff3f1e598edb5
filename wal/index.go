package wal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// An index answers "where does LSN n of this log lie, and which segments may
// go?". It is local to the volume and never part of the state: positions differ
// from replica to replica, and everything in it can be rebuilt from directories.
//
// The segment being filled is indexed in memory, frame by frame. When a segment
// is sealed its index goes into the seal, and comes back from there when
// somebody asks; a segment that a crash cut short has no seal and is scanned,
// directories only. So opening reads none of it, and its memory is bounded
// however long the journal is.
type index struct {
	v *Volume
	// active and places are guarded by the volume's mu.
	active *segmentIndex // nil only if the volume is read-only: then nothing fills
	places places

	cache indexCache
}

// A segmentIndex says which frames of one segment have records of which logs.
type segmentIndex struct {
	id segment.ID
	// logs has every log of the volume if complete is set, as in a seal, else only
	// those with records in the segment, or rewinds.
	logs     table[logIndex]
	complete bool
	size     int // refs in all
	firsts   int // logs that have any
	// stride is 1, or a power of two when refs were thinned: then a frame
	// between two refs may have records too.
	stride int
	holed  bool       // frames of it do not verify: there may have been more records
	room   []logIndex // for logs that come
}

// A logIndex is what a segment's index knows of a log.
type logIndex struct {
	end  logEnd // how far it had come at the segment's end
	refs []ref  // in order
}

// A ref says that a frame has records of a log, from lsn on.
type ref struct {
	lsn LSN
	off int64
}

// A logEnd says how far a log had come at a segment's end.
type logEnd struct {
	next    LSN
	total   uint64 // framed bytes ever appended
	rewound Epoch  // that the newest rewind until then had begun; 0 for none
}

// maxRefs bounds the refs of one segment in memory, those aside that come first
// for their log; beyond it they are thinned, and readers scan a few frames more.
const maxRefs = 1 << 18

func (x *index) init(v *Volume) {
	x.v = v
	x.places = newPlaces()
	x.cache.v = v
	x.cache.entries = map[segment.ID]*segmentIndex{}
}

func newSegmentIndex(id segment.ID) *segmentIndex {
	return &segmentIndex{id: id, logs: newTable[logIndex](), stride: 1}
}

// log returns what the index knows of a log, to be changed: nothing, of one that comes.
func (s *segmentIndex) log(number uint64) *logIndex {
	l := s.logs.get(number)
	if l == nil {
		if len(s.room) == 0 {
			s.room = make([]logIndex, min(1+s.logs.len(), 256))
		}
		l, s.room = &s.room[0], s.room[1:]
		s.logs.set(number, l)
	}
	return l
}

// refs returns a log's refs.
func (s *segmentIndex) refs(log uint64) []ref {
	if l := s.logs.get(log); l != nil {
		return l.refs
	}
	return nil
}

// end returns how far a log had come at the segment's end, if the index knows.
func (s *segmentIndex) end(log uint64) (end logEnd, known bool) {
	if l := s.logs.get(log); l != nil {
		return l.end, true
	}
	return logEnd{}, false
}

// apply notes where a durable command lies that s has applied. REQUIRES: the volume's mu.
func (x *index) apply(s *State, c *Command, pos segment.Pos) {
	switch c.Kind {
	case CommandSetCheckpoint, CommandMoveCheckpoint:
		x.places.set(stateKey{c.Log, c.Name}, statePlace{pos, c.Place})
	case CommandDeleteCheckpoint:
		x.places.remove(stateKey{c.Log, c.Name})
	case CommandDeleteLog:
		x.places.removeLog(c.Log)
	case CommandTruncate:
		if m, ok := x.places.moved[c.Log]; ok && s.logs.get(c.Log).first >= m.end {
			delete(x.places.moved, c.Log)
		}
	case CommandMoveRecords:
		// Whatever of the log is not in this frame, nobody could read: a move takes
		// all that it has.
		l := s.logs.get(c.Log)
		x.places.moved[c.Log] = movedPlace{end: l.next, total: l.totalBytes, pos: pos}
	case CommandRewind, CommandAppend, CommandAppendPart:
		if m, ok := x.places.moved[c.Log]; ok && c.Kind == CommandRewind && m.end > c.LSN+1 {
			// What is appended from now on lies behind the copies, under LSNs that they had.
			if m.end, m.total = c.LSN+1, c.Start; m.end <= s.logs.get(c.Log).first {
				delete(x.places.moved, c.Log)
			} else {
				x.places.moved[c.Log] = m
			}
		}
		if x.active == nil || x.active.id != pos.Segment {
			x.active = newSegmentIndex(pos.Segment)
		}
		x.active.add(c, pos.Offset)
	}
}

// add notes an append, or a rewind, of the frame at off.
func (s *segmentIndex) add(c *Command, off int64) {
	l := s.log(c.Log)
	if c.Kind == CommandRewind {
		l.end = logEnd{next: c.LSN + 1, total: c.Start, rewound: c.Epoch}
		s.cut(l, c.LSN)
		return
	}
	l.end = logEnd{next: c.Last() + 1, total: c.Start + uint64(c.Size), rewound: c.Rewound}
	// What is there already lies behind a rewind that did not verify.
	s.cut(l, c.First-1)
	if n := len(l.refs); n > 0 && (l.refs[n-1].off == off || s.stride > 1 && off/limits.BlockSize%int64(s.stride) != 0) {
		return
	}
	if len(l.refs) == 0 {
		s.firsts++
	}
	l.refs = append(l.refs, ref{c.First, off})
	if s.size++; s.size-s.firsts >= maxRefs {
		s.thin()
	}
}

// cut drops the refs of records behind lsn, so that they increase again.
func (s *segmentIndex) cut(l *logIndex, lsn LSN) {
	n := len(l.refs)
	for n > 0 && l.refs[n-1].lsn > lsn {
		n--
	}
	if n == len(l.refs) {
		return
	}
	if s.size -= len(l.refs) - n; n == 0 {
		s.firsts--
	}
	l.refs = l.refs[:n]
}

// thin halves the refs. The first of a log always stays.
func (s *segmentIndex) thin() {
	s.size = 0
	for _, l := range s.logs.all() {
		if len(l.refs) == 0 {
			continue
		}
		kept := l.refs[:1]
		for i := 2; i < len(l.refs); i += 2 {
			kept = append(kept, l.refs[i])
		}
		l.refs = kept
		s.size += len(kept)
	}
	s.stride *= 2
}

// find returns the offset of the last indexed frame with a record of the log at
// or before lsn.
func (s *segmentIndex) find(log uint64, lsn LSN) (off int64, ok bool) {
	refs := s.refs(log)
	i := sort.Search(len(refs), func(i int) bool { return refs[i].lsn > lsn })
	if i == 0 {
		return 0, false
	}
	return refs[i-1].off, true
}

// holds reports whether the segment certainly has the record of a log with that
// history.
func (s *segmentIndex) holds(log uint64, lsn LSN, h *history) bool {
	l := s.logs.get(log)
	return l != nil && len(l.refs) > 0 && l.refs[0].lsn <= lsn && lsn < h.end(l.end).next
}

// locate returns where to begin looking for a log's record, which must be
// durable and not truncated: a frame that has it, or one before that with only
// frames of the same segment between. hint is a segment to try first, or 0.
func (x *index) locate(log uint64, lsn LSN, hint segment.ID) (segment.Pos, error) {
	x.v.mu.RLock()
	m, ok := x.places.moved[log]
	x.v.mu.RUnlock()
	if ok && lsn < m.end {
		return m.pos, nil
	}
	return x.appended(log, lsn, hint)
}

// appended is locate for where a record was appended, which may be truncated since, or
// moved: if its segment is there.
func (x *index) appended(log uint64, lsn LSN, hint segment.ID) (segment.Pos, error) {
	x.v.mu.RLock()
	var h history
	var first, next LSN // the log's
	if l := x.v.durable.logs.get(log); l != nil {
		h, first, next = l.history(), l.first, l.next
	}
	if a := x.active; a != nil && a.holds(log, lsn, &h) {
		off, _ := a.find(log, lsn)
		x.v.mu.RUnlock()
		return segment.Pos{Segment: a.id, Offset: off}, nil
	}
	var activeID segment.ID
	if x.active != nil {
		activeID = x.active.id
	}
	x.v.mu.RUnlock()

	ids := x.v.journal.Segments()
	if activeID != 0 {
		ids = ids[:sort.Search(len(ids), func(i int) bool { return ids[i] >= activeID })]
	}
	for _, id := range []segment.ID{hint, x.v.journal.Behind(hint)} {
		if i := sort.Search(len(ids), func(i int) bool { return ids[i] >= id }); hint != 0 && i < len(ids) && ids[i] == id {
			if s, err := x.cache.get(id); err == nil && s.holds(log, lsn, &h) {
				off, _ := s.find(log, lsn)
				return segment.Pos{Segment: id, Offset: off}, nil
			}
		}
	}

	// Search by how far the log had come at each segment's end: where it would be had
	// the log grown evenly, and in the middle, in turn, since a segment's index comes
	// from the disk and the first record of a replay waits for it. Segments that
	// do not know (cut short, without this log) are stepped over; if all of those up to
	// one do not know, the search ends there and the walk below is longer. A
	// rewind cuts what lies before it, so that ends never decrease.
	lo, hi := 0, len(ids)
	for even := true; lo < hi; even = !even {
		mid := (lo + hi) / 2
		if even {
			mid = lo + interpolate(lsn, first, next, hi-lo)
		}
		p, s, end := x.endAtOrBefore(ids, lo, mid, log, &h)
		switch {
		case s == nil:
			hi = lo // nothing known in [lo, mid]: begin the walk at lo
		case s.holds(log, lsn, &h):
			off, _ := s.find(log, lsn)
			return segment.Pos{Segment: s.id, Offset: off}, nil
		case end <= lsn:
			lo, first = mid+1, end
		default:
			hi, next = p, end
		}
	}
	var unread error // why a segment has no index; the record may be in another
	for ; lo < len(ids); lo++ {
		s, err := x.cache.get(ids[lo])
		if err != nil {
			unread = cmp.Or(unread, err)
			continue
		}
		if s.holds(log, lsn, &h) {
			off, _ := s.find(log, lsn)
			return segment.Pos{Segment: ids[lo], Offset: off}, nil
		}
	}
	return segment.Pos{}, fmt.Errorf("log %d, LSN %d: %w", log, lsn, cmp.Or(unread, errNotIndexed))
}

// following appends to dst where the log's records behind pos were appended, n frames
// at most, up to record to: as far as the index of pos's segment and of the next one
// knows, and whatever has been rewound or moved since. It is for who has the disk read
// ahead.
func (x *index) following(dst []segment.Pos, log uint64, pos segment.Pos, n int, to LSN) []segment.Pos {
	for _, id := range []segment.ID{pos.Segment, x.v.journal.Behind(pos.Segment)} {
		if n <= 0 {
			break
		}
		x.v.mu.RLock()
		s := x.active
		if s != nil && id >= s.id {
			if id == s.id {
				dst = s.following(dst, log, pos, n, to)
			}
			x.v.mu.RUnlock()
			return dst
		}
		x.v.mu.RUnlock()
		s, err := x.cache.get(id)
		if err != nil {
			return dst
		}
		had := len(dst)
		dst = s.following(dst, log, pos, n, to)
		n -= len(dst) - had
	}
	return dst
}

// following is index.following within the segment.
func (s *segmentIndex) following(dst []segment.Pos, log uint64, pos segment.Pos, n int, to LSN) []segment.Pos {
	refs := s.refs(log)
	i := 0
	if s.id == pos.Segment {
		i = sort.Search(len(refs), func(i int) bool { return refs[i].off > pos.Offset })
	}
	for ; i < len(refs) && n > 0 && refs[i].lsn <= to; i++ {
		dst = append(dst, segment.Pos{Segment: s.id, Offset: refs[i].off})
		n--
	}
	return dst
}

// movedFrom reports whether a record that was looked for at pos has been moved since.
func (x *index) movedFrom(log uint64, lsn LSN, pos segment.Pos) bool {
	x.v.mu.RLock()
	defer x.v.mu.RUnlock()
	m, ok := x.places.moved[log]
	return ok && lsn < m.end && m.pos != pos
}

// relocate looks for a log's record in the directories of every segment, oldest
// first, whatever their seals say, and where it was appended: of one that was moved
// that may be there still. A segment that does not verify harms only the
// records in it.
func (x *index) relocate(log uint64, lsn LSN) (segment.Pos, error) {
	x.v.mu.RLock()
	var filling segment.ID
	var h history
	if l := x.v.durable.logs.get(log); l != nil {
		h = l.history()
	}
	if x.active != nil {
		filling = x.active.id
	}
	x.v.mu.RUnlock()
	var unread error
	for _, id := range x.v.journal.Segments() {
		if id == filling {
			break // locate has looked there
		}
		s, err := x.cache.scan(id)
		if err != nil {
			unread = cmp.Or(unread, err)
			continue
		}
		if s.holds(log, lsn, &h) {
			// Only what proved to know better takes the place of the seal's index:
			// a scan passes over what does not verify.
			x.cache.put(id, s)
			off, _ := s.find(log, lsn)
			return segment.Pos{Segment: id, Offset: off}, nil
		}
	}
	return segment.Pos{}, fmt.Errorf("log %d, LSN %d: %w", log, lsn, cmp.Or(unread, errNotIndexed))
}

// errNotIndexed is returned by locate for a record that no index knows.
var errNotIndexed = errors.New("in no segment's index")

// interpolate returns in which of n segments lsn is if they have the records from first
// on up to next, each as many.
func interpolate(lsn, first, next LSN, n int) int {
	switch {
	case lsn <= first, next <= first:
		return 0
	case lsn >= next: // it was rewound away meanwhile; further out, it would overflow
		return n - 1
	}
	return min(int(float64(lsn-first)/float64(next-first)*float64(n)), n-1)
}

// endAtOrBefore returns the newest segment of ids[lo..mid] that knows how far
// the log had come at its end, and how far that was; a nil one if none knows. One that
// cannot be read does not know.
func (x *index) endAtOrBefore(ids []segment.ID, lo, mid int, log uint64, h *history) (p int, s *segmentIndex, next LSN) {
	for p = mid; p >= lo; p-- {
		s, err := x.cache.get(ids[p])
		if err != nil {
			continue
		}
		if end, ok := s.end(log); ok {
			return p, s, h.end(end).next
		}
		if s.complete { // the log did not exist yet
			return p, s, 1
		}
	}
	return 0, nil, 0
}

// An indexCache holds the indexes of segments that are no longer filled.
type indexCache struct {
	v       *Volume
	mu      sync.Mutex
	entries map[segment.ID]*segmentIndex
	order   []segment.ID // least recently used first
	size    int
}

// maxCachedRefs bounds the cache, in refs and ends together: some 16 bytes each.
const maxCachedRefs = 1 << 20

// weight counts the pages of logs that lie far apart, too: each is as large as so many refs.
func (s *segmentIndex) weight() int {
	return s.size + s.logs.len() + len(s.logs.pages)*pageLogs/2 + 64
}

// get returns the index of a segment that is no longer filled, from the cache,
// its seal, or a scan of its directories.
func (c *indexCache) get(id segment.ID) (*segmentIndex, error) {
	c.mu.Lock()
	if s, ok := c.entries[id]; ok {
		if i := slices.Index(c.order, id); i < len(c.order)-1 {
			c.order = append(slices.Delete(c.order, i, i+1), id)
		}
		c.mu.Unlock()
		return s, nil
	}
	c.mu.Unlock()
	// A segment that has a successor is not sealed yet if that is the newest: what is
	// scanned until then seems to lack a frame, and would seem so for as long as it is
	// remembered.
	ids := c.v.journal.Segments()
	n := len(ids)
	rolling := n < 2 || id >= ids[n-2]
	s, err := c.load(id)
	if err != nil {
		return nil, err
	}
	if !rolling || !s.holed {
		c.put(id, s)
	}
	return s, nil
}

// put caches an index, in place of another one of the same segment.
func (c *indexCache) put(id segment.ID, s *segmentIndex) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(id)
	c.entries[id] = s
	c.order = append(c.order, id)
	c.size += s.weight()
	for c.size > maxCachedRefs && len(c.order) > 1 {
		c.drop(c.order[0])
	}
}

// drop forgets a segment. REQUIRES: mu.
func (c *indexCache) drop(id segment.ID) {
	if s, ok := c.entries[id]; ok {
		c.size -= s.weight()
		delete(c.entries, id)
		c.order = slices.DeleteFunc(c.order, func(o segment.ID) bool { return o == id })
	}
}

// release forgets segments.
func (c *indexCache) release(ids []segment.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.drop(id)
	}
}

func (c *indexCache) load(id segment.ID) (*segmentIndex, error) {
	if s := c.sealed(id); s != nil {
		return s, nil
	}
	return c.scan(id)
}

// sealed returns the index in a segment's seal, nil if there is none that
// verifies: it is not needed, since the seal is a cache.
func (c *indexCache) sealed(id segment.ID) *segmentIndex {
	// The successor's header says where the last frame is: the seal, if the
	// segment has one.
	h, err := c.v.journal.Header(id + 1)
	if err != nil || h.Cut.Last.Segment != id {
		return nil
	}
	f, err := c.v.fetch.Frame(h.Cut.Last)
	if err != nil || f.Header.Kind != segment.KindSeal {
		return nil
	}
	s, err := decodeSegmentIndex(id, f.Meta)
	if err != nil {
		return nil
	}
	return s
}

// scan rebuilds a segment's index from its directories. Frames that do not
// verify are passed over: whoever reads their records is told then.
func (c *indexCache) scan(id segment.ID) (*segmentIndex, error) {
	s := newSegmentIndex(id)
	holed, err := c.walk(id, func(f *segment.Frame, commands []Command) error {
		for i := range commands {
			if c := &commands[i]; c.Appends() || c.Kind == CommandRewind {
				s.add(&commands[i], f.Pos.Offset)
			}
		}
		return nil
	})
	s.holed = holed
	if err != nil {
		return nil, fmt.Errorf("index segment %s: %w", id, err)
	}
	return s, nil
}

// walk calls each for every frame of commands of a segment that verifies, in
// order, until that returns an error; errEnough ends the walk and is none. The
// commands are valid until it returns. holed says that there are frames, or may be, that
// do not.
func (c *indexCache) walk(id segment.ID, each func(f *segment.Frame, commands []Command) error) (holed bool, err error) {
	h, err := c.v.journal.Header(id)
	if err != nil {
		return false, err
	}
	alive, err := c.alive(id)
	if err != nil {
		return false, err
	}
	from := segment.FrameRef{
		Pos: segment.Pos{Segment: id, Offset: limits.SegmentHeaderSize}, Sequence: h.Cut.Sequence + 1, Chain: h.Cut.Chain,
	}
	for !from.IsZero() {
		hole, err := c.walkRun(id, from, alive, each)
		if errors.Is(err, errEnough) {
			return holed, nil
		}
		if err != nil {
			return holed, err
		}
		holed = holed || hole.Segment == id
		if from, err = c.behind(hole, id, alive); err != nil {
			return holed, err
		}
	}
	return holed, nil
}

// alive returns the sequence up to which the frames of a segment count. Where it ends its
// successor's header says. If that is lost, a frame that nothing in the segment promises
// may have been cut off, and its LSNs given to other records: recovery keeps what is
// promised, and writes the rest once more elsewhere.
func (c *indexCache) alive(id segment.ID) (sequence uint64, err error) {
	ids := c.v.journal.Segments()
	i, _ := slices.BinarySearch(ids, id+1)
	if i == len(ids) {
		return math.MaxUint64, nil // it is the newest
	}
	_, err = c.v.journal.Header(id + 1)
	switch {
	case err == nil, ids[i] == id+1 && errors.Is(err, segment.ErrReleased): // and so it is itself
		return math.MaxUint64, nil
	case isUnread(err):
		return 0, err
	}
	r, err := c.v.journal.Reader(id)
	if err != nil {
		return 0, err
	}
	noted, err := r.Noted()
	if noted {
		sequence = math.MaxUint64
	} else if err == nil {
		err = r.Lookahead(limits.SegmentHeaderSize, func(h segment.Header, _ int64) bool {
			sequence = max(sequence, h.Promise)
			return true
		})
	}
	return sequence, errors.Join(err, r.Close())
}

// walkRun walks over the frames from from on to the first that does not verify, or is
// not alive, and returns its position; one in another segment if there is none.
func (c *indexCache) walkRun(id segment.ID, from segment.FrameRef, alive uint64, each func(f *segment.Frame, commands []Command) error) (_ segment.Pos, err error) {
	scan := replay.NewScanner(c.v.journal, from)
	defer func() { err = errors.Join(err, scan.Close()) }()
	var commands []Command
	for scan.Next() {
		f := scan.Frame()
		if f.Pos.Segment != id || f.Header.Sequence > alive {
			return f.Pos, nil
		}
		if f.Header.Kind != segment.KindCommands {
			continue
		}
		if commands, err = DecodeCommands(commands[:0], f.Meta); err != nil {
			return segment.Pos{}, fmt.Errorf("frame at %s: %w", f.Pos, err)
		}
		if err := each(f, commands); err != nil {
			return segment.Pos{}, err
		}
	}
	// What could not be read is no hole: an index without it would look whole, and
	// let the janitor release what is still needed.
	if stopped := scan.Err(); isUnread(stopped) {
		return segment.Pos{}, stopped
	}
	return scan.End().Pos, nil
}

// behind returns the next frame of the segment behind a hole that is alive; zero if there
// is none. What the segment's successor cut off is dead.
func (c *indexCache) behind(hole segment.Pos, id segment.ID, alive uint64) (next segment.FrameRef, err error) {
	if hole.Segment != id {
		return segment.FrameRef{}, nil
	}
	end := endOfJournal
	switch successor, err := c.v.journal.Header(id + 1); {
	case isUnread(err):
		return segment.FrameRef{}, err
	case err == nil:
		end = successor.Cut.End
	}
	r, err := c.v.journal.Reader(id)
	if err != nil {
		return segment.FrameRef{}, err
	}
	err = r.Lookahead(hole.Offset+limits.BlockSize, func(h segment.Header, off int64) bool {
		if pos := (segment.Pos{Segment: id, Offset: off}); pos.Compare(end) < 0 && h.Sequence <= alive {
			next = segment.FrameRef{Pos: pos, Sequence: h.Sequence, Chain: h.Chain}
		}
		return false
	})
	return next, errors.Join(err, r.Close())
}

// sealMeta spells the index of the segment being sealed, in at most limit
// bytes: thinned if it must be, nil if even one ref for each log is too much.
//
// What the index says is believed when segments are released, so that it must have
// every frame of the segment. It has, while the bus takes no frame to the disk before
// the one before it was published (batcher.Options.Depth is 1). Whoever changes that
// gets seals without an index, and segments that are scanned instead.
func (v *Volume) sealMeta(id segment.ID, limit int) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last.Sequence <= v.journal.Durable() {
		return nil
	}
	s := v.index.active
	if s == nil || s.id != id {
		s = newSegmentIndex(id)
	}
	for {
		meta := appendSegmentIndex(nil, s, v.durable)
		if len(meta) <= limit {
			return meta
		}
		if s.size <= s.firsts {
			return nil
		}
		s.thin()
	}
}

// sealVersion is the version of the layout below.
const sealVersion = 1

// appendSegmentIndex spells an index: version, stride, number of logs; then for
// each log of the volume, in the order of their numbers, the difference to the
// number before, how far it had come, and its refs as differences.
func appendSegmentIndex(dst []byte, s *segmentIndex, state *State) []byte {
	dst = append(dst, sealVersion)
	dst = binary.AppendUvarint(dst, uint64(s.stride))
	dst = binary.AppendUvarint(dst, uint64(state.logs.len()))
	last := uint64(0)
	for n, l := range state.logs.all() {
		dst = binary.AppendUvarint(dst, n-last)
		last = n
		dst = binary.AppendUvarint(dst, uint64(l.next))
		dst = binary.AppendUvarint(dst, l.totalBytes)
		h := l.history()
		dst = binary.AppendUvarint(dst, uint64(h.rewound()))
		refs := s.refs(n)
		dst = binary.AppendUvarint(dst, uint64(len(refs)))
		var was ref
		for _, r := range refs {
			dst = binary.AppendUvarint(dst, uint64(r.lsn-was.lsn))
			dst = binary.AppendUvarint(dst, uint64(r.off-was.off)/limits.BlockSize)
			was = r
		}
	}
	return dst
}

// decodeSegmentIndex is the inverse of appendSegmentIndex.
func decodeSegmentIndex(id segment.ID, meta []byte) (*segmentIndex, error) {
	bad := fmt.Errorf("index of segment %s: %w", id, ErrBadCommand)
	if len(meta) == 0 || meta[0] != sealVersion {
		return nil, bad
	}
	d := decoder{buf: meta[1:]}
	s := newSegmentIndex(id)
	s.complete = true
	stride := d.uvarint()
	count := d.uvarint()
	if d.bad || stride == 0 || stride > 1<<30 || stride&(stride-1) != 0 || count > uint64(len(d.buf)) {
		return nil, bad
	}
	s.stride = int(stride)
	var number uint64
	for range count {
		step := d.uvarint()
		end := logEnd{next: LSN(d.uvarint()), total: d.uvarint(), rewound: Epoch(d.uvarint())}
		n := d.uvarint()
		number += step
		if d.bad || step == 0 || number < step || end.next == 0 || n > uint64(len(d.buf)) {
			return nil, bad
		}
		l := s.log(number)
		l.end = end
		if n == 0 {
			continue
		}
		refs := make([]ref, n)
		var was ref
		for i := range refs {
			lsn, off := d.uvarint(), d.uvarint()
			if d.bad || lsn == 0 || off == 0 || off > limits.MaxSegmentSize/limits.BlockSize {
				return nil, bad
			}
			was = ref{was.lsn + LSN(lsn), was.off + int64(off)*limits.BlockSize}
			if was.lsn < LSN(lsn) || was.lsn >= end.next || was.off > limits.MaxSegmentSize {
				return nil, bad
			}
			refs[i] = was
		}
		l.refs = refs
		s.size += len(refs)
		s.firsts++
	}
	if d.bad || len(d.buf) != 0 {
		return nil, bad
	}
	return s, nil
}
