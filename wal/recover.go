package wal

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// recover scans the journal, rebuilds the state, has the journal make durable
// what was found without a promise, and leaves the volume ready to serve, or
// read-only.
func (v *Volume) recover() error {
	r := &rebuilder{v: v}
	found, err := replay.Recover(v.journal, r)
	switch {
	case errors.Is(err, segment.ErrNewerVersion):
		return fmt.Errorf("recover volume %s: %w: %w", v.dir, ErrVersion, err)
	case err != nil:
		return fmt.Errorf("recover volume %s: %w", v.dir, err)
	}
	v.durable = r.state
	if v.durable == nil {
		v.durable = NewState()
	}
	v.names = newNames(slices.Sorted(maps.Keys(v.durable.names)))
	v.index.active, v.index.places = r.active, r.places
	if v.index.places.of == nil {
		v.index.places = newPlaces()
	}
	v.recovery = describe(found)
	v.snapshots.passed = len(r.passed) > 0
	v.clock.start(v.o.Now, r.time)
	v.missLost(found.From.Pos.Segment)
	if found.ReadOnly {
		v.readOnly = fmt.Errorf("volume %s: %w: %s; see walctl repair --plan %s", v.dir, ErrReadOnly, clause(found.Detail), v.dir)
		// What is not promised is not durable, and is not shown as if it were;
		// but with the volume read-only nobody can be told otherwise later.
		v.index.active = nil
		return nil
	}

	resume := found.Resume
	v.bytes = r.bytes
	if !r.newer.IsZero() && r.newerLast <= found.Promised {
		resume.Snapshot, resume.OlderSnapshot = r.newer, r.base
		v.bytes -= r.newerAt
	} else {
		resume.Snapshot, resume.OlderSnapshot = r.base, r.older(resume)
	}
	refs, err := v.journal.Resume(resume)
	if err != nil {
		return fmt.Errorf("recover volume %s: begin a fresh segment: %w", v.dir, err)
	}
	for _, d := range resume.Rewrite {
		// A promise instead of frames says only that those before are durable.
		if v.unpromised.Store(d.Kind != segment.KindPromise); v.unpromised.Load() {
			v.recovery.RewrittenFrames++
		}
	}
	v.snapshots.newest, v.snapshots.older = resume.Snapshot, resume.OlderSnapshot
	v.snapshots.size = r.size
	v.stateSize.Store(r.size)
	fresh := resume.Cut.End.Segment + 1
	if v.index.active == nil || v.index.active.id != fresh {
		// Never nil while the volume is written: what is not active is cached,
		// and the index of a segment that still fills must not be.
		v.index.active = newSegmentIndex(fresh)
	}
	v.last = segment.FrameRef{
		Pos: segment.Pos{Segment: fresh, Offset: limits.SegmentHeaderSize}, Sequence: resume.Cut.Sequence + 1, Chain: resume.Cut.Chain,
	}
	if n := len(refs); n > 0 {
		f, err := v.fetch.Frame(refs[n-1].Pos)
		if err != nil {
			return fmt.Errorf("recover volume %s: read back a rewritten frame: %w", v.dir, err)
		}
		v.last = segment.FrameRef{Pos: f.End(), Sequence: f.Header.Sequence + 1, Chain: f.Header.Checksum}
	}
	return nil
}

// missLost finds out which segments were lost rather than released. Opening
// begins at a snapshot and needs none before it: the volume works on without
// their records, which are named. What a repair took account of is not.
func (v *Volume) missLost(from segment.ID) {
	ids := v.journal.Segments()
	var lost []Damage
	for i, id := range ids {
		var before segment.ID
		if i > 0 {
			before = ids[i-1]
		}
		// What lies behind the snapshot, the scan has met, and a gap says that nobody keeps
		// anything of what was in it.
		if v.journal.Behind(before) == id || id > from {
			continue
		}
		last := id - 1
		for _, g := range slices.Backward(v.journal.Gaps()) {
			if g.To == last {
				last = g.From - 1 // what was released is not missing
			}
		}
		d := Damage{
			File: nameOfSegment(last), Case: string(replay.CaseMissingSegment),
			Detail: "it, and perhaps others before it, were removed or lost: the logs keep records that were there",
		}
		var more int
		d.Logs, more = v.lostBefore(ids, i)
		if more > 0 {
			d.Detail += fmt.Sprintf("; so do %d more logs", more)
		}
		switch {
		case len(d.Logs) > 0:
		case before == 0, id <= repairedBelow(v.journal), !v.keepsAnyOf(ids[:i]):
			// Released, or known. A segment whose release could not be made durable may be
			// back, while those behind it were released by the next process.
			continue
		default:
			d.Detail = fmt.Sprintf("the segments %s to %s were removed or lost, with nothing in them that a log keeps", v.journal.Behind(before), last)
		}
		lost = append(lost, d)
	}
	unread := v.journal.UnreadGaps()
	for _, id := range slices.Sorted(maps.Keys(unread)) {
		if id > repairedBelow(v.journal) {
			lost = append(lost, unreadGap(id, unread[id]))
		}
	}
	if len(lost) == 0 {
		return
	}
	r := &v.recovery
	r.Damage = append(r.Damage, lost...)
	if r.Verdict != replay.VerdictDamaged.String() {
		r.Verdict, r.Case, r.Detail = replay.VerdictDamaged.String(), lost[0].Case, replay.CaseMissingSegment.Means()
	}
}

// unreadGap says that the file of a gap cannot be read.
func unreadGap(id segment.ID, err error) Damage {
	return Damage{
		File: id.String() + ".gap", Case: string(replay.CaseMissingSegment),
		Detail: fmt.Sprintf("it cannot be read, and the segments that it says were released seem to be missing: %v", err),
	}
}

// keepsAnyOf reports whether a log keeps anything that lies in one of the segments, or
// may, as far as what can be read of them says.
func (v *Volume) keepsAnyOf(ids []segment.ID) bool {
	var logs []surveyed
	for _, l := range v.durable.logs.all() {
		logs = append(logs, v.surveyed(l))
	}
	return slices.ContainsFunc(ids, func(id segment.ID) bool {
		if v.journal.BeganAnotherLife(id) {
			return false
		}
		s, err := v.index.cache.get(id)
		if err != nil || v.index.places.in[id] > 0 {
			return true
		}
		return slices.ContainsFunc(logs, func(l surveyed) bool { return l.needs(s) > 0 })
	})
}

// lostBefore returns the records that logs keep and that lay in a gap before
// segment ids[i], as far as its seal and the segments before the gap say. more
// counts logs beyond those.
func (v *Volume) lostBefore(ids []segment.ID, i int) (logs []DamagedLog, more int) {
	behind := v.index.cache.sealed(ids[i])
	if behind == nil {
		return nil, 0
	}
	for _, l := range v.durable.logs.all() {
		end, ok := behind.end(l.number)
		if !ok {
			continue
		}
		h := l.history()
		r := LSNRange{First: l.first, Last: h.end(end).next - 1}
		if refs := behind.refs(l.number); len(refs) > 0 {
			r.Last = min(r.Last, refs[0].lsn-1)
		}
		// What was moved does not lie where it was appended.
		if m, ok := v.index.places.moved[l.number]; ok && (m.pos.Segment >= ids[i] || i > 0 && m.pos.Segment <= ids[i-1]) {
			r.First = max(r.First, m.end)
		}
		if i > 0 {
			if _, s, next := v.index.endAtOrBefore(ids, 0, i-1, l.number, &h); s != nil {
				r.First = max(r.First, next)
			}
		}
		switch {
		case l.loses(r):
		case len(logs) == limits.MaxDamage:
			more++
		default:
			logs = append(logs, DamagedLog{Log: l.name, First: r.First, Last: r.Last})
		}
	}
	slices.SortFunc(logs, func(a, b DamagedLog) int { return cmp.Compare(a.Log, b.Log) })
	return logs, more
}

// nameOfSegment returns the name of a segment's file.
func nameOfSegment(id segment.ID) string { return id.String() + ".wal" }

// A rebuilder builds the state from what recovery scans.
type rebuilder struct {
	v      *Volume
	state  *State // nil until the snapshot that the scan began with is whole
	places places
	active *segmentIndex // of the segment the scan is in, if it began with its first frame
	time   int64
	bytes  int64 // of the frames scanned

	from segment.FrameRef
	// passed are the snapshots that did not open before this one was tried.
	passed []segment.FrameRef
	// base is the snapshot the state was restored from, zero for none, and size
	// what it takes in bytes.
	base  segment.FrameRef
	size  int64
	parts snapshotParts
	// waiting are frames of commands before the snapshot is whole.
	waiting []waitingFrame

	// newer is the newest whole snapshot behind base; newerLast the sequence of
	// its last part, and newerAt what had been scanned before its first.
	newer           segment.FrameRef
	newerLast       uint64
	newerAt, nextAt int64
	next            snapshotParts

	commands []Command
}

type waitingFrame struct {
	pos      segment.Pos
	commands []Command
}

// maxWaiting bounds the commands kept while a snapshot is not whole.
const maxWaiting = 1 << 22

// Begin implements replay.Handler.
func (r *rebuilder) Begin(from segment.FrameRef, fromSnapshot bool) {
	passed := r.passed
	if !r.from.IsZero() {
		passed = append(passed, r.from)
	}
	*r = rebuilder{v: r.v, from: from, passed: passed, commands: r.commands}
	if !fromSnapshot {
		r.state, r.places = NewState(), newPlaces()
	}
}

// Frame implements replay.Handler.
func (r *rebuilder) Frame(f *segment.Frame, open func(block int) ([]byte, error)) error {
	r.time = f.Header.Time
	r.bytes += f.Header.Size()
	switch f.Header.Kind {
	case segment.KindSnapshot:
		return r.snapshot(f, open)
	case segment.KindCommands:
	default:
		return nil
	}
	commands, err := DecodeCommands(r.commands[:0], f.Meta)
	if err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	r.commands = commands
	if r.state == nil {
		r.waiting = append(r.waiting, waitingFrame{f.Pos, slices.Clone(commands)})
		if len(r.waiting) > maxWaiting {
			return fmt.Errorf("%w: %d frames and the snapshot is not whole", replay.ErrNoState, len(r.waiting))
		}
		return nil
	}
	return r.apply(f.Pos, commands)
}

func (r *rebuilder) apply(pos segment.Pos, commands []Command) error {
	for i := range commands {
		c := &commands[i]
		if err := r.state.Apply(c); err != nil {
			return fmt.Errorf("frame at %s: %w", pos, err)
		}
		x := index{active: r.active, places: r.places}
		x.apply(r.state, c, pos)
		r.active = x.active
	}
	if err := r.state.whole(); err != nil {
		return fmt.Errorf("frame at %s: %w", pos, err)
	}
	return nil
}

// snapshotParts collects the parts of one snapshot.
type snapshotParts struct {
	from segment.FrameRef
	next uint64
	sum  uint32
	buf  []byte
	bad  bool
}

// add takes the next part. It reports whether the snapshot is whole now.
func (p *snapshotParts) add(h snapshotHeader, chunk []byte) (whole bool) {
	if h.Part == 0 {
		*p = snapshotParts{from: h.From}
	}
	if p.bad || h.From != p.from || h.Part != p.next {
		p.bad = true
		return false
	}
	p.next++
	p.sum = crc32.Update(p.sum, castagnoli, chunk)
	p.buf = append(p.buf, chunk...)
	p.bad = p.sum != h.Sum
	return h.Last && !p.bad
}

func (r *rebuilder) snapshot(f *segment.Frame, open func(block int) ([]byte, error)) error {
	h, err := decodeSnapshotHeader(f.Meta)
	if err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	if r.state != nil {
		// The state is there; all there is to know is where a later opening
		// could begin. Its parts are not read: if one does not open, that
		// opening falls back to the older snapshot.
		if h.Part == 0 {
			r.next, r.nextAt = snapshotParts{from: h.From}, r.bytes-f.Header.Size()
		}
		if r.next.bad = r.next.bad || h.From != r.next.from || h.Part != r.next.next; !r.next.bad {
			r.next.next++
			if h.Last && h.From != r.base && !slices.Contains(r.passed, h.From) {
				r.newer, r.newerLast, r.newerAt = h.From, f.Header.Sequence, r.nextAt
			}
		}
		return nil
	}
	if h.From != r.from {
		return nil // a snapshot that was never finished, or of another cut
	}
	var chunk []byte
	for i := range f.Blocks {
		part, err := open(i)
		if isUnread(err) {
			part, err = open(i) // passed over only if the disk fails for good
		}
		if err != nil {
			return fmt.Errorf("%w: snapshot part at %s: %w", replay.ErrNoState, f.Pos, err)
		}
		chunk = append(chunk, part...)
	}
	if !r.parts.add(h, chunk) {
		return nil
	}
	state, at, err := decodeSnapshot(r.parts.buf)
	if err != nil {
		return fmt.Errorf("%w: snapshot at %s: %w", replay.ErrNoState, h.From.Pos, err)
	}
	r.size = int64(len(r.parts.buf))
	r.state, r.places, r.base, r.parts = state, at, h.From, snapshotParts{}
	for _, w := range r.waiting {
		if err := r.apply(w.pos, w.commands); err != nil {
			return err
		}
	}
	r.waiting = nil
	return nil
}

// End implements replay.Handler.
func (r *rebuilder) End() error {
	if r.state == nil {
		return fmt.Errorf("%w: the snapshot behind %s is not whole", replay.ErrNoState, r.from.Pos)
	}
	return nil
}

// older returns the older snapshot to go on with when no newer one was found:
// the last header's, unless the newest did not open and it is the base itself.
func (r *rebuilder) older(resume segment.Resume) segment.FrameRef {
	if resume.OlderSnapshot == r.base {
		return segment.FrameRef{}
	}
	return resume.OlderSnapshot
}

// describe words what recovery found for people and programs.
func describe(found *replay.Recovery) Recovery {
	r := Recovery{
		Verdict: found.Verdict.String(), Case: string(found.Case), Detail: found.Detail, Frames: uint64(found.Frames),
		LastSequence: found.Last, DiscardedFrames: uint64(found.DiscardedFrames), DiscardedBytes: found.DiscardedBytes,
	}
	for _, d := range found.Damage {
		r.Damage = append(r.Damage, Damage{
			File: filepath.Base(d.Path), Offset: d.Pos.Offset, Sequence: d.Sequence, Case: string(d.Case), Detail: d.Detail,
		})
	}
	if found.MoreDamage > 0 {
		r.Detail += fmt.Sprintf(" There is more damage than is listed: %d places.", found.MoreDamage)
	}
	return r
}

// clause makes a sentence a part of an error.
func clause(sentence string) string {
	if sentence == "" {
		return ""
	}
	return strings.ToLower(sentence[:1]) + strings.TrimSuffix(sentence[1:], ".")
}
