package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// A Verification is what Verify found. Its Recovery covers the whole journal,
// where that of an opened volume covers what opening had to look at.
type Verification struct {
	Recovery
	Volume       ulid.ULID // zero if the VOLUME file does not verify
	Segments     int
	Gaps         int    // runs of segments that were released between those
	Records      uint64 // in blocks that verify, of logs that exist or existed
	DurableFrame uint64 // the last frame that something on the disk proves durable
	// Lost are records that repairs gave up, by log, limits.MaxDamage ranges at
	// most; empty if the state cannot be rebuilt.
	Lost []DamagedLog
}

// Verify reads everything in a volume: each frame, directory and block, and
// checks that each log's LSNs are dense. It takes no lock and writes nothing,
// so the volume may be in use; what is on its way to the disk at that moment
// looks torn. progress, if not nil, is told how many bytes of how many were read.
//
// Damage is a verdict, not an error. The error is ErrNoVolume, ErrVersion, the
// context's or the disk's.
func Verify(ctx context.Context, dir string, progress func(done, total int64)) (*Verification, error) {
	return verifyOn(ctx, disk.OS(disk.OSOptions{}), dir, progress)
}

func verifyOn(ctx context.Context, fsys disk.FS, dir string, progress func(done, total int64)) (*Verification, error) {
	src, found, err := inspect(fsys, dir)
	if err != nil {
		return nil, err
	}
	if found != nil {
		return found, nil
	}
	defer src.close()
	v, _, _, err := audit(ctx, src, progress, nil)
	if err != nil {
		return nil, fmt.Errorf("verify volume %s: %w", dir, err)
	}
	v.Volume = src.now.Volume()
	unread := src.now.UnreadGaps()
	for _, id := range slices.Sorted(maps.Keys(unread)) {
		if v.Verdict == replay.VerdictDamaged.String() {
			v.Damage = append(v.Damage, unreadGap(id, unread[id]))
		}
	}
	return v, nil
}

// audit walks a journal and names what is damaged; logs are those of the newest
// state, as it is afterwards. each, if not nil, sees every
// frame as replay.Walk hands it over.
func audit(ctx context.Context, src replay.Source, progress func(done, total int64),
	each func(f *segment.Frame, blockErrs []error) error,
) (*Verification, *replay.Recovery, *knownLogs, error) {
	v := &Verification{}
	before := logsOf(src)
	a := newAuditor(before)
	o := replay.WalkOptions{Progress: progress, Block: a.sums.block, Dropped: a.sums.dropped}
	walked, err := replay.Walk(src, o, func(f *segment.Frame, blockErrs []error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if each != nil {
			if err := each(f, blockErrs); err != nil {
				return err
			}
		}
		return a.frame(f, blockErrs)
	})
	switch {
	case errors.Is(err, segment.ErrNewerVersion):
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrVersion, err)
	case err != nil:
		return nil, nil, nil, err
	}
	v.Recovery = describe(walked)
	ids, gaps := src.Segments(), src.Gaps()
	v.Segments, v.Gaps, v.Records, v.DurableFrame = len(ids), len(gaps), a.records, walked.Promised
	oldest := segment.ID(0)
	if len(ids) > 0 {
		oldest = ids[0]
	}
	a.end(before)
	logs := logsOf(src)
	v.Lost = logs.givenUp()
	a.explain(&v.Recovery, walked, logs, oldest, gaps)
	sumUp(&v.Recovery, walked, len(v.Lost) > 0)
	return v, walked, logs, nil
}

// verdictRepaired is the verdict of Verify when a repair took account of all
// that is damaged.
const verdictRepaired = "repaired"

// DumpOptions say what Dump shows. The zero value is all of it.
type DumpOptions struct {
	// From is the first position shown; frames before it in its segment are
	// read and passed over. Zero means the oldest.
	From segment.Pos
	// Limit ends the dump after so many frames; 0 means none.
	Limit int
}

// A DumpedFrame is one frame as it lies in the journal. It is valid until the
// function that it was given to returns.
type DumpedFrame struct {
	*segment.Frame
	Commands []Command           // of a frame of commands
	Snapshot *SnapshotPart       // of a part of a snapshot; nil for others
	Bad      []error             // nil if all blocks verify; else an entry for each, nil for a good one
	Name     func(uint64) string // of a log by its number; "#17" if nobody knows it
}

// BadBlock returns what is wrong with block i, nil if nothing is.
func (f *DumpedFrame) BadBlock(i int) error {
	if f.Bad == nil {
		return nil
	}
	return f.Bad[i]
}

// A SnapshotPart says which part of which snapshot a frame is.
type SnapshotPart struct {
	Cut  segment.Pos // the frame behind it
	Part uint64      // from 0
	Last bool
}

// Dump calls fn for each frame of a volume, in order, and returns what it found
// of damage, as Verify would but without the logs; nil if the limit ended it.
// It takes no lock and writes nothing. Errors are those of Verify and of fn.
func Dump(ctx context.Context, dir string, o DumpOptions, fn func(f *DumpedFrame) error) (*Recovery, error) {
	src, found, err := inspect(disk.OS(disk.OSOptions{}), dir)
	if err != nil {
		return nil, err
	}
	if found != nil {
		return &found.Recovery, nil
	}
	defer src.close()
	logs := logsOf(src)
	src.from = o.From.Segment
	var commands []Command
	shown := 0
	walked, err := replay.Walk(src, replay.WalkOptions{}, func(f *segment.Frame, blockErrs []error) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		d := &DumpedFrame{Frame: f, Bad: blockErrs, Name: logs.name}
		var err error
		switch f.Header.Kind {
		case segment.KindCommands:
			commands, err = DecodeCommands(commands[:0], f.Meta)
			d.Commands = commands
			logs.learn(commands)
		case segment.KindSnapshot:
			var h snapshotHeader
			h, err = decodeSnapshotHeader(f.Meta)
			d.Snapshot = &SnapshotPart{Cut: h.From.Pos, Part: h.Part, Last: h.Last}
		}
		if err != nil || f.Pos.Compare(o.From) < 0 {
			return err
		}
		if o.Limit > 0 && shown == o.Limit {
			return errEnough
		}
		shown++
		return fn(d)
	})
	switch {
	case errors.Is(err, errEnough):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("dump volume %s: %w", dir, err)
	}
	r := describe(walked)
	return &r, nil
}

// errEnough ends a walk whose limit is reached.
var errEnough = errors.New("enough")

// inspect opens a volume to be looked at. If it is so damaged that there is no
// journal to walk, found says how.
func inspect(fsys disk.FS, dir string) (src *liveSource, found *Verification, err error) {
	src = &liveSource{options: segment.Options{FS: fsys, Dir: dir, ReadOnly: true}}
	src.now, err = segment.Open(src.options)
	switch {
	case err == nil:
		return src, nil, nil
	case errors.Is(err, segment.ErrVolumeFileLost), errors.Is(err, segment.ErrBadVolumeFile):
		return nil, &Verification{Recovery: Recovery{
			Verdict: replay.VerdictDamaged.String(), Case: caseVolumeFile,
			Damage: []Damage{{File: "VOLUME", Case: caseVolumeFile, Detail: err.Error()}},
			Detail: "The segments are read by what stands in that file. They say what that is: walctl repair writes it anew.",
		}}, nil
	case errors.Is(err, segment.ErrNotVolume):
		return nil, nil, fmt.Errorf("%s: %w: %w", dir, ErrNoVolume, err)
	case errors.Is(err, segment.ErrNewerVersion):
		return nil, nil, fmt.Errorf("%s: %w: %w", dir, ErrVersion, err)
	}
	return nil, nil, fmt.Errorf("open volume %s: %w", dir, err)
}

// caseVolumeFile is damage to the file that says which volume this is.
const caseVolumeFile = "volume-file"

// A liveSource is a journal opened read-only that notices when the process that
// writes it begins or releases segments: a scan that came to the end of an old
// list would take the seal there for damage.
type liveSource struct {
	options segment.Options
	from    segment.ID // earlier segments are not shown
	now     *segment.Journal
	past    []*segment.Journal // readers may still use them
}

// Segments implements replay.Source. It looks again each time.
func (s *liveSource) Segments() []segment.ID {
	// An error is of no consequence: what the last look showed is still there,
	// or its reader says that it is not.
	if j, err := segment.Open(s.options); err == nil {
		if slices.Equal(j.Segments(), s.now.Segments()) {
			_ = j.Close() // opened read-only: nothing can be lost
		} else {
			s.past, s.now = append(s.past, s.now), j
		}
	}
	ids := s.now.Segments()
	i, _ := slices.BinarySearch(ids, s.from)
	return ids[i:]
}

// Gaps implements replay.Source.
func (s *liveSource) Gaps() []segment.Gap { return s.now.Gaps() }

// Header implements replay.Source.
func (s *liveSource) Header(id segment.ID) (*segment.SegmentHeader, error) { return s.now.Header(id) }

// Reader implements replay.Source.
func (s *liveSource) Reader(id segment.ID) (*segment.Reader, error) { return s.now.Reader(id) }

func (s *liveSource) close() {
	for _, j := range append(s.past, s.now) {
		_ = j.Close() // opened read-only: nothing can be lost
	}
}

// knownLogs is what is known of logs by number, also of deleted ones.
type knownLogs struct {
	names map[uint64]string
	first map[uint64]LSN // oldest record kept
	next  map[uint64]LSN
	moved map[uint64]movedPlace
	state *State
	whole bool // nothing keeps the state from being the newest
	// The newest segment that there is.
	newest segment.ID
	// Below this segment a repair took account of what it found.
	repaired segment.ID
}

// logsOf returns the logs that the newest state knows. A state that cannot be
// rebuilt knows none: then there are only those that the journal still creates.
func logsOf(src replay.Source) *knownLogs {
	k := &knownLogs{
		names: map[uint64]string{}, first: map[uint64]LSN{}, next: map[uint64]LSN{}, moved: map[uint64]movedPlace{},
		state: NewState(), repaired: repairedBelow(src),
	}
	r := &rebuilder{}
	if found, err := replay.Recover(src, r); err == nil && r.state != nil {
		k.state, k.whole, k.moved = r.state, !found.ReadOnly, r.places.moved
		k.newest = found.Resume.Cut.End.Segment
		for number, l := range r.state.logs.all() {
			k.names[number], k.first[number], k.next[number] = l.name, l.first, l.next
		}
	}
	return k
}

// kept returns what of a hit no rewind discarded.
func (k *knownLogs) kept(h hit) hit {
	if l := k.state.logs.get(h.log); l != nil {
		as := l.history()
		if cut, ok := as.since(h.rewound); ok {
			h.last = min(h.last, cut.LSN)
		}
	}
	return h
}

// pending reports whether copies lie behind the last promise: then the state has them
// in the segment that opening would write them to.
func (k *knownLogs) pending(m movedPlace) bool { return m.pos.Segment > k.newest }

// elsewhere reports whether a log's records up to last were moved, and are read in
// another place than this.
func (k *knownLogs) elsewhere(log uint64, last LSN, pos segment.Pos) bool {
	m, ok := k.moved[log]
	return ok && last < m.end && pos != m.pos
}

// lost reports whether a repair told that all those records are lost, in so far
// as they are kept.
func (k *knownLogs) lost(hits []hit) bool {
	for _, h := range hits {
		h = k.kept(h)
		switch l := k.state.logs.get(h.log); {
		case l == nil && k.whole: // deleted
		case l == nil, !l.loses(LSNRange{First: h.first, Last: h.last}):
			return false
		}
	}
	return true
}

// givenUp lists what repairs gave up, by log.
func (k *knownLogs) givenUp() (lost []DamagedLog) {
	if !k.whole {
		return nil
	}
	lost, _ = k.state.lost(k.state.lossy())
	return lost
}

func (k *knownLogs) learn(commands []Command) {
	for i := range commands {
		if c := &commands[i]; c.Kind == CommandCreateLog {
			k.names[c.Log] = c.Name
		}
	}
}

// name returns a log's name, or its number if nobody knows it.
func (k *knownLogs) name(number uint64) string {
	if name, ok := k.names[number]; ok {
		return name
	}
	return fmt.Sprintf("#%d", number)
}

// An auditor follows the logs through a walk, to tell which records damage hit:
// by the commands of a frame whose block is bad, and by the hole in a log's
// LSNs that a lost frame leaves. A hole shows when the log appends behind it,
// when a seal says how far the log had come, or against the newest state.
type auditor struct {
	records  uint64
	before   *State // when the walk began
	created  map[uint64]string
	commands []Command
	logs     map[uint64]*audited
	hit      map[error][]hit      // by what the reader said of the bad block
	states   map[error][]stateKey // of checkpoints, likewise
	holes    []hole
	sums     sums
	// moved are the copies of records that logs keep, in the order of the journal,
	// those that the walk has come to left out; last is the frame that it came to.
	moved []movedRecords
	last  segment.Pos
	// copied are the last frames with copies of a log's records that it came to.
	copied map[uint64]segment.Pos
}

// movedRecords are records that a log keeps and that were moved.
type movedRecords struct {
	log   uint64
	first LSN
	movedPlace
}

// audited is how far a log was followed.
type audited struct {
	next    LSN         // 0 if not known
	rewound Epoch       // that the newest rewind by then had begun
	pos     segment.Pos // of the frame that said so
	counted LSN         // the last record that was counted
}

type hit struct {
	log         uint64
	first, last LSN
	rewound     Epoch       // that the newest rewind had begun by then: a later one may have discarded them
	pos         segment.Pos // of the frame that has them; zero in a hole
}

// hole is a hit that was noticed at a position, and happened behind another,
// which is zero, like the hit's first, if nothing of the log was met before.
type hole struct {
	hit
	after, before segment.Pos
}

func newAuditor(before *knownLogs) *auditor {
	a := &auditor{
		before: before.state, created: map[uint64]string{}, logs: map[uint64]*audited{}, hit: map[error][]hit{}, states: map[error][]stateKey{},
		sums: sums{logs: map[uint64]summed{}}, copied: map[uint64]segment.Pos{},
	}
	for number, m := range before.moved {
		if !before.pending(m) {
			a.moved = append(a.moved, movedRecords{number, before.first[number], m})
		}
	}
	slices.SortFunc(a.moved, func(x, y movedRecords) int { return cmp.Or(x.pos.Compare(y.pos), cmp.Compare(x.log, y.log)) })
	return a
}

func (a *auditor) frame(f *segment.Frame, blockErrs []error) error {
	a.sums.delivered(f)
	switch f.Header.Kind {
	case segment.KindSeal:
		// One without an index says nothing: it is a cache.
		if s, err := decodeSegmentIndex(f.Pos.Segment, f.Meta); err == nil {
			for number, l := range s.logs.all() {
				a.reach(number, l.end.next, l.end.rewound, f.Pos)
			}
		}
		return nil
	case segment.KindCommands:
	default:
		return nil
	}
	var err error
	if a.commands, err = DecodeCommands(a.commands[:0], f.Meta); err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	a.copies(f.Pos)
	for i := range a.commands {
		c := &a.commands[i]
		var bad error
		if blockErrs != nil && int(c.Block) < len(blockErrs) && c.Size > 0 {
			bad = blockErrs[c.Block]
		}
		switch c.Kind {
		case CommandCreateLog:
			a.created[c.Log] = c.Name
			a.logs[c.Log] = &audited{next: 1, pos: f.Pos}
		case CommandRewind:
			a.reach(c.Log, c.LSN+1, c.Rewound, f.Pos)
			a.logs[c.Log].next, a.logs[c.Log].rewound = c.LSN+1, c.Epoch
		case CommandAppend, CommandAppendPart:
			a.reach(c.Log, c.First, c.Rewound, f.Pos)
			l := a.logs[c.Log]
			l.next = c.Last() + 1
			if bad == nil {
				a.records += uint64(c.Count)
				l.counted = c.Last()
				continue
			}
			a.hit[bad] = append(a.hit[bad], hit{log: c.Log, first: c.First, last: c.Last(), rewound: c.Rewound, pos: f.Pos})
		case CommandMoveRecords:
			a.copied[c.Log] = f.Pos
			l := a.logs[c.Log]
			if l == nil {
				l = &audited{}
				a.logs[c.Log] = l
			}
			if bad != nil {
				a.hit[bad] = append(a.hit[bad], hit{log: c.Log, first: c.First, last: c.Last(), rewound: c.Rewound, pos: f.Pos})
				continue
			}
			if !c.carriesRecords() {
				a.holes = append(a.holes, hole{hit{log: c.Log, first: c.First, last: c.Last(), rewound: c.Rewound, pos: f.Pos}, f.Pos, f.Pos})
			}
			// Of a copy that has outlived its batch, and of no other.
			if c.carriesRecords() && c.Last() > l.counted {
				a.records += uint64(c.Count)
				l.counted = c.Last()
			}
		case CommandSetCheckpoint, CommandMoveCheckpoint:
			if bad != nil {
				a.states[bad] = append(a.states[bad], stateKey{c.Log, c.Name})
			}
		}
	}
	return nil
}

// reach notes that at pos the log had come to next, with that newest rewind: what was
// not met until then is a hole.
func (a *auditor) reach(log uint64, next LSN, rewound Epoch, pos segment.Pos) {
	l := a.logs[log]
	if l == nil {
		l = &audited{}
		a.logs[log] = l
	}
	if was := a.before.logs.get(log); was != nil && l.rewound < rewound {
		// By a rewind that was not met: what was appended again was not met either.
		h := was.history()
		if cut, ok := h.since(l.rewound); ok && cut.Epoch <= rewound {
			l.next = min(l.next, cut.LSN+1)
		}
	}
	if next > max(l.next, 1) {
		a.holes = append(a.holes, hole{hit{log: log, first: l.next, last: next - 1, rewound: rewound}, l.pos, pos})
	}
	l.next, l.rewound, l.pos = max(l.next, next), max(l.rewound, rewound), pos
}

// copies notes, when the walk has come to pos, which frames with copies it ought to
// have met before: what they have is nowhere else.
func (a *auditor) copies(pos segment.Pos) {
	for len(a.moved) > 0 && a.moved[0].pos.Compare(pos) < 0 {
		m := a.moved[0]
		// Every rewind has cut the end already that it cut.
		a.holes = append(a.holes, hole{hit{log: m.log, first: m.first, last: m.end - 1, rewound: math.MaxUint64, pos: m.pos}, a.last, pos})
		a.moved = a.moved[1:]
	}
	for len(a.moved) > 0 && a.moved[0].pos == pos {
		a.moved = a.moved[1:]
	}
	a.last = pos
}

// endOfJournal is behind every position.
var endOfJournal = segment.Pos{Segment: math.MaxUint64}

// end holds the walk against the state that the journal had when it began.
func (a *auditor) end(before *knownLogs) {
	a.copies(endOfJournal)
	for _, number := range slices.Sorted(maps.Keys(before.next)) {
		h := before.state.logs.get(number).history()
		a.reach(number, before.next[number], h.rewound(), endOfJournal)
	}
}

// explain adds to each damage the records it hit, and damage for holes that
// nothing explains, and tells what a repair took account of from the rest.
// Segments before oldest were released, some of them perhaps before the walk
// came to them: holes that may be due to that are none. Nor is what was given up in a gap.
func (a *auditor) explain(r *Recovery, walked *replay.Recovery, logs *knownLogs, oldest segment.ID, gaps []segment.Gap) {
	found := walked.Damage
	maps.Copy(logs.names, a.created)
	for number, m := range logs.moved {
		if logs.pending(m) {
			m.pos = a.copied[number]
			logs.moved[number] = m
		}
	}
	for i := range a.holes {
		a.holes[i].hit = logs.kept(a.holes[i].hit)
	}
	a.holes = slices.DeleteFunc(a.holes, func(h hole) bool {
		if h.last < max(h.first, 1) {
			return true
		}
		if logs.elsewhere(h.log, h.last, h.pos) {
			return true
		}
		if h.pos != (segment.Pos{}) { // of a frame with copies
			return logs.whole && (logs.next[h.log] == 0 || h.last < logs.first[h.log])
		}
		// The segments that the hole was met from, and behind, may be gone as well by now.
		over := slices.ContainsFunc(gaps, func(g segment.Gap) bool { return h.after.Segment <= g.To && g.From <= h.before.Segment })
		if h.first == 0 || over { // with nothing but the state to say where it begins
			return !logs.whole || h.last < max(logs.first[h.log], 1) || logs.next[h.log] == 0
		}
		return h.after.Segment < oldest
	})
	for i := range found {
		d := &r.Damage[i]
		hits := slices.DeleteFunc(slices.Clone(a.hit[found[i].Err]), func(h hit) bool { return logs.elsewhere(h.log, h.last, h.pos) })
		states := a.states[found[i].Err]
		for _, k := range states {
			d.Detail += fmt.Sprintf("; it holds the state of checkpoint %q of log %q", k.name, logs.name(k.log))
		}
		if losesFrames(found[i].Case) {
			for _, h := range a.holes {
				if found[i].Pos.Compare(h.after) > 0 && found[i].Pos.Compare(h.before) < 0 {
					hits = append(hits, h.hit)
				}
			}
		}
		d.Logs = logs.merge(hits)
		d.Repaired = logs.whole && found[i].Pos.Segment < logs.repaired && logs.lost(hits)
	}
	for _, h := range a.holes {
		explained := slices.ContainsFunc(found, func(d replay.Damage) bool {
			return losesFrames(d.Case) && d.Pos.Compare(h.after) > 0 && d.Pos.Compare(h.before) < 0
		})
		if explained || logs.repaired > 0 && logs.lost([]hit{h.hit}) {
			continue
		}
		at, what := h.before, "the frame here lies behind a hole"
		if at == endOfJournal {
			at, what = h.after, "records behind this frame are missing"
		}
		d := Damage{
			File: at.Segment.String() + ".wal", Offset: at.Offset, Case: caseHole, Detail: what,
			Logs: logs.merge([]hit{h.hit}),
		}
		if h.after == h.before {
			d.Case, d.Detail = caseLostWhenMoved, "they did not verify when the rest of the log was moved here"
		}
		if h.first == 0 && oldest > 1 {
			d.File, d.Offset, d.Case = nameOfSegment(oldest-1), 0, string(replay.CaseMissingSegment)
			d.Detail = "it or one before it is gone, and had records that were not given up"
		}
		// Several logs may have lost records with the same segment.
		if n := len(r.Damage) - 1; n >= 0 && d.Case != caseHole && r.Damage[n].File == d.File && r.Damage[n].Case == d.Case {
			r.Damage[n].Logs = append(r.Damage[n].Logs, d.Logs...)
			continue
		}
		r.Damage = append(r.Damage, d)
	}
}

// sumUp makes the verdict that of the damage that no repair took account of.
func sumUp(r *Recovery, walked *replay.Recovery, lost bool) {
	left := slices.IndexFunc(r.Damage, func(d Damage) bool { return !d.Repaired })
	switch {
	case walked.MoreDamage > 0, walked.Tail.Verdict() == replay.VerdictDamaged:
	case left < 0 && (lost || len(r.Damage) > 0):
		r.Verdict, r.Case = verdictRepaired, string(walked.Tail)
		r.Detail = "A repair gave up what was damaged: the records that are named answer DATA_LOSS. Nothing else is lost."
	case left < 0: // clean, or torn
	default:
		r.Verdict, r.Case = replay.VerdictDamaged.String(), r.Damage[left].Case
		switch r.Case {
		case caseHole:
			r.Detail = "Records are missing between frames that all verify: this is a bug, please report it."
		case caseLostWhenMoved:
			r.Detail = "Records did not verify when what was left of their log was moved forward."
		default:
			r.Detail = replay.Case(r.Case).Means()
		}
	}
}

// sums follows the logs' checksums through a walk, and holds each batch against
// its command: a block that verifies may still hold other records than those
// that were acknowledged.
type sums struct {
	frame    *segment.Frame // whose commands these are
	commands []Command
	logs     map[uint64]summed
	// ahead are the changes to logs by frames that have not been handed over: what is
	// dead must not count for what was appended in its place.
	ahead []summing
}

// A summing is what was known of a log when a frame changed that.
type summing struct {
	sequence, log uint64
	was           summed
}

// summed is how far a log was followed.
type summed struct {
	next     LSN
	checksum Checksum
	rewound  Epoch // that the newest rewind had begun
}

// set notes how far the present frame has a log come.
func (s *sums) set(log uint64, to summed) {
	s.ahead = append(s.ahead, summing{s.frame.Header.Sequence, log, s.logs[log]})
	s.logs[log] = to
}

// delivered notes that a frame was handed over, and so all before it.
func (s *sums) delivered(f *segment.Frame) {
	i := slices.IndexFunc(s.ahead, func(c summing) bool { return c.sequence > f.Header.Sequence })
	if i < 0 {
		i = len(s.ahead)
	}
	s.ahead = slices.Delete(s.ahead, 0, i)
}

// dropped takes back what the frames did that are not handed over. It implements
// replay.WalkOptions.Dropped.
func (s *sums) dropped() {
	for _, c := range slices.Backward(s.ahead) {
		s.logs[c.log] = c.was
	}
	s.ahead = s.ahead[:0]
}

// block checks the commands whose bytes lie in a block; raw is nil if that does
// not verify. It implements replay.WalkOptions.Block.
func (s *sums) block(f *segment.Frame, block int, raw []byte) error {
	if f.Header.Kind != segment.KindCommands {
		return nil
	}
	if s.frame != f {
		commands, err := DecodeCommands(s.commands[:0], f.Meta)
		if err != nil {
			return nil // the auditor decodes them too, and says so
		}
		s.frame, s.commands = f, commands
	}
	var bad error
	for i := range s.commands {
		c := &s.commands[i]
		if c.Kind == CommandRewind {
			s.set(c.Log, summed{c.LSN + 1, c.Checksum, c.Epoch})
		}
		if int(c.Block) != block || c.Size == 0 {
			continue
		}
		if raw != nil {
			bad = cmp.Or(bad, s.command(c, raw))
		}
		if c.Appends() || c.carriesRecords() && c.Last() >= s.logs[c.Log].next {
			s.set(c.Log, summed{c.Last() + 1, c.Checksum, c.Rewound})
		}
	}
	return bad
}

// command checks what a block holds for one command.
func (s *sums) command(c *Command, raw []byte) error {
	b, err := c.slice(raw)
	switch {
	case err != nil:
		return &segment.CorruptError{Reason: err.Error(), Err: segment.ErrBadBlock}
	case !c.carriesRecords() && c.Kind != CommandSetCheckpoint:
		return nil // a state that moved has its checksum where it was set
	case crc32.Checksum(b, castagnoli) != c.RunSum:
		return &segment.CorruptError{Reason: fmt.Sprintf("%s of log %d: the bytes have another checksum than the command", c.Kind, c.Log), Err: segment.ErrBadBlock}
	case !c.carriesRecords():
		return nil
	}
	was := s.logs[c.Log]
	if c.First == 1 {
		was = summed{next: 1}
	}
	if was.next == c.First && was.rewound == c.Rewound && Checksum(crc32.Update(uint32(was.checksum), castagnoli, b)) != c.Checksum {
		return &segment.CorruptError{Reason: fmt.Sprintf("append of log %d: the log's checksum does not go on to that behind LSN %d", c.Log, c.Last()), Err: segment.ErrBadBlock}
	}
	return nil
}

// caseHole is damage that package replay cannot see.
const caseHole = "hole-in-log"

// caseLostWhenMoved is damage that was found, and left behind, when records were moved.
const caseLostWhenMoved = "lost-when-moved"

// losesFrames reports whether the case means that frames are gone, and not just
// a block of one, or the index in a seal.
func losesFrames(c replay.Case) bool {
	return c.Verdict() == replay.VerdictDamaged && c != replay.CaseDamagedBlock &&
		c != replay.CaseDamagedSeal && c != replay.CaseDamagedSnapshot
}

// merge names logs, leaves out records that were truncated, and joins ranges
// that touch.
func (k *knownLogs) merge(hits []hit) []DamagedLog {
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(a.log, b.log), cmp.Compare(a.first, b.first)) })
	var merged []DamagedLog
	log := uint64(0) // of the last range
	for _, h := range hits {
		h = k.kept(h)
		h.first = max(h.first, k.first[h.log])
		if m, ok := k.moved[h.log]; ok && h.pos != m.pos {
			h.first = max(h.first, m.end) // the rest is read in another place
		}
		n := len(merged)
		switch {
		case h.last < h.first:
		case n > 0 && log == h.log && merged[n-1].Last+1 >= h.first:
			merged[n-1].Last = max(merged[n-1].Last, h.last)
		default:
			merged = append(merged, DamagedLog{Log: k.name(h.log), First: h.first, Last: h.last})
			log = h.log
		}
	}
	return merged
}
