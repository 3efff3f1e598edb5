package wal

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// Errors of a repair.
var (
	// ErrPlanStale: the volume is not what it was when the plan was made.
	ErrPlanStale = errors.New("volume has changed since the repair was planned")
	// ErrBeyondRepair: too much is lost for the volume to go on from.
	ErrBeyondRepair = errors.New("volume cannot be repaired")
)

// RepairOptions configure PlanRepair and ApplyRepair. The zero value is all
// defaults.
type RepairOptions struct {
	// Progress, if not nil, is told how many bytes of how many were read.
	Progress func(done, total int64)
	// FS is the disk; default disk.OS.
	FS disk.FS
	// Now is the wall clock in nanoseconds since 1970; default time.Now.
	Now func() int64
	// Rand gives salts; default crypto/rand.
	Rand io.Reader
}

func (o RepairOptions) withDefaults() RepairOptions {
	if o.FS == nil {
		o.FS = disk.OS(disk.OSOptions{})
	}
	if o.Now == nil {
		o.Now = func() int64 { return time.Now().UnixNano() }
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o
}

// A RepairPlan says what a repair of a volume would do, and what is given up by
// it. It is a value: ApplyRepair does exactly that, or refuses.
type RepairPlan struct {
	Dir    string
	Volume ulid.ULID
	// Needed: there is damage that no repair took account of yet. If it is not
	// set, all that follows is empty.
	Needed bool
	// ReadOnly: as it is, the volume opens read-only, or not at all.
	ReadOnly bool
	Damage   []Damage // what no repair took account of yet
	// Backup is the directory that Files, those that are damaged and there, are
	// copied to first.
	Backup string
	Files  []string
	// Writes is the file that is added, or replaced if it is VOLUME. No other is
	// changed.
	Writes string

	// What is given up, by log.
	Frames      uint64               // frames of commands, snapshots and promises that are known to have been there
	Records     []LostRecords        // by log, then LSN
	Checkpoints []LostCheckpoint     // by log, then name
	Producers   []ForgottenProducers // by log
	Logs        []LostLog            // logs that go as a whole, by number
	// Unsure are logs, by name, that may have been sealed or rewound in what is lost:
	// nothing behind it tells. They go on as if they had not been: what such a rewind
	// discarded is back, and behind such a seal is appended again.
	Unsure []string

	identity *segment.Identity // what VOLUME has to say, nil if it does
	cut      segment.Cut
	tail     span // frames at the journal's end that nothing promises
	snapshot []byte
	digest   [sha256.Size]byte
}

// LostRecords are records of a log that answer DATA_LOSS after the repair.
type LostRecords struct {
	Log         string
	First, Last LSN
	// Open: nobody knows how many records the log had from First on, or whether it
	// had any. One LSN stands for all of them, and Epoch begins behind it.
	Open  bool
	Epoch Epoch
}

// A LostCheckpoint is one whose state is lost. Its LSN is kept.
type LostCheckpoint struct{ Log, Name string }

// ForgottenProducers counts producers that have to be opened again: what is
// lost may have opened others before them.
type ForgottenProducers struct {
	Log   string
	Count int
}

// A LostLog is a log that is known by what was done to it, but whose creation
// is lost, or whose deletion is all that is lost of it.
type LostLog struct {
	Number uint64
	Name   string // empty if it is lost
	Detail string
}

// span is a stretch of a segment.
type span struct{ from, to segment.Pos }

// PlanRepair says what a repair of the volume in dir would do and what would be
// lost by it. It takes no lock and writes nothing. If nothing is damaged that no
// repair took account of, the plan says that there is no need. A damaged VOLUME
// file is a plan by itself: what else there is to do, a plan made after that
// says.
//
// It returns ErrNoVolume, ErrVersion, ErrBeyondRepair, the context's error or
// the disk's.
func PlanRepair(ctx context.Context, dir string, o RepairOptions) (*RepairPlan, error) {
	o = o.withDefaults()
	p, err := planIdentity(dir, o)
	if err != nil {
		return nil, fmt.Errorf("plan the repair of volume %s: %w", dir, err)
	}
	if p != nil {
		return p, nil
	}
	src, found, err := inspect(o.FS, dir)
	if err != nil {
		return nil, err
	}
	if found != nil {
		return nil, fmt.Errorf("plan the repair of volume %s: %w: %s", dir, ErrBeyondRepair, found.Damage[0].Detail)
	}
	defer src.close()
	p, err = plan(ctx, src, src.now.Volume(), dir, o)
	if err != nil {
		return nil, fmt.Errorf("plan the repair of volume %s: %w", dir, err)
	}
	return p, nil
}

// planIdentity plans to write the VOLUME file anew, if it has to be; else it
// returns nil.
func planIdentity(dir string, o RepairOptions) (*RepairPlan, error) {
	id, differs, err := segment.Identify(segment.Options{FS: o.FS, Dir: dir})
	switch {
	case errors.Is(err, segment.ErrNotVolume):
		return nil, fmt.Errorf("%w: %w", ErrNoVolume, err)
	case errors.Is(err, segment.ErrNewerVersion):
		return nil, fmt.Errorf("%w: %w", ErrVersion, err)
	case errors.Is(err, segment.ErrVolumeFileLost):
		return nil, fmt.Errorf("%w: %w", ErrBeyondRepair, err)
	case err != nil || !differs:
		return nil, err
	}
	p := &RepairPlan{
		Dir: dir, Volume: id.Volume, Needed: true, ReadOnly: true, Backup: dir + ".before-repair-VOLUME", Writes: "VOLUME", identity: &id,
		Damage: []Damage{{File: "VOLUME", Case: caseVolumeFile, Detail: fmt.Sprintf("it does not say what the segments' headers do, that this is volume %s", id.Volume)}},
	}
	entries, err := o.FS.List(dir)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(entries, func(e disk.Entry) bool { return e.Name == p.Writes }) {
		p.Files = []string{p.Writes}
	}
	p.seal(entries)
	return p, nil
}

// seal digests what the plan was made from and what it does.
func (p *RepairPlan) seal(entries []disk.Entry) {
	h := sha256.New()
	for _, e := range entries {
		if ext := filepath.Ext(e.Name); ext == ".wal" || ext == ".gap" || e.Name == "VOLUME" {
			fmt.Fprintf(h, "%s %d\n", e.Name, e.Size)
		}
	}
	fmt.Fprintf(h, "%+v %+v %+v %v %+v\n", p.identity, p.cut, p.tail, p.Files, p.Damage)
	fmt.Fprintf(h, "%d %+v %+v %+v %+v %q\n", p.Frames, p.Records, p.Checkpoints, p.Producers, p.Logs, p.Unsure)
	h.Write(p.snapshot)
	h.Sum(p.digest[:0])
}

// repairedBelow returns the segment that the newest repair began, 0 if there is
// none: its header says that the newest snapshot is in it, where any other's is
// in a segment before.
func repairedBelow(src replay.Source) segment.ID {
	for _, id := range slices.Backward(src.Segments()) {
		if h, err := src.Header(id); err == nil && h.Snapshot.Pos.Segment == id {
			return id
		}
	}
	return 0
}

// plan makes the plan from what the segments hold.
func plan(ctx context.Context, src replay.Source, volume ulid.ULID, dir string, o RepairOptions) (*RepairPlan, error) {
	p := &RepairPlan{Dir: dir, Volume: volume}
	s := newSurvey(src)
	defer s.close()
	v, walked, logs, err := audit(ctx, src, o.Progress, s.frame)
	if err != nil {
		return nil, err
	}
	p.Damage = slices.DeleteFunc(v.Damage, func(d Damage) bool { return d.Repaired })
	p.ReadOnly = !logs.whole
	if p.Needed = p.ReadOnly || len(p.Damage) > 0; !p.Needed {
		return p, nil
	}
	if p.cut, err = s.end(walked); err != nil {
		return nil, err
	}
	p.tail = s.unpromised(walked.Promised)
	state, err := s.rebuild(ctx, walked)
	if err != nil {
		return nil, err
	}
	p.tell(s, state)
	fresh := p.cut.End.Segment + 1
	p.Writes = nameOfSegment(fresh)
	p.Backup = fmt.Sprintf("%s.before-repair-%s", dir, fresh)
	entries, err := o.FS.List(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if slices.ContainsFunc(p.Damage, func(d Damage) bool { return d.File == e.Name }) {
			p.Files = append(p.Files, e.Name)
		}
	}
	frozen := state.freeze()
	p.snapshot = appendSnapshotStart(nil, state.next, len(frozen))
	for _, l := range frozen {
		p.snapshot = appendSnapshotLog(p.snapshot, l, state.places.log(l.number))
	}
	p.seal(entries)
	return p, nil
}

// A survey is what a walk over a damaged journal finds that is whole: which
// records, and which snapshots.
type survey struct {
	src   replay.Source
	fetch *replay.Fetcher

	have  map[uint64][]haveRange // records in blocks that verify, by log
	moved map[uint64]copies      // likewise, of those that were moved; the newest
	last  *segment.Frame         // the last frame that verifies
	tail  []tailFrame            // of the segment that has it
	parts snapshotParts
	base  *salvage // begun at the newest whole snapshot, nil if there is none
	buf   []Command
}

// A haveRange is records that verify, also those that were discarded later.
type haveRange struct {
	LSNRange
	epoch Epoch // that they were appended in
}

// copies are the records that one frame has copies of.
type copies struct {
	pos  segment.Pos
	have []haveRange
}

type tailFrame struct {
	sequence uint64
	span
}

func newSurvey(src replay.Source) *survey {
	return &survey{src: src, fetch: replay.NewFetcher(src), have: map[uint64][]haveRange{}, moved: map[uint64]copies{}, parts: snapshotParts{bad: true}}
}

func (s *survey) close() { _ = s.fetch.Close() } // it only reads

// frame takes a frame as replay.Walk hands it over.
func (s *survey) frame(f *segment.Frame, blockErrs []error) error {
	if s.last == nil || s.last.Pos.Segment != f.Pos.Segment {
		s.tail = s.tail[:0]
	}
	s.last = f
	s.tail = append(s.tail, tailFrame{f.Header.Sequence, span{f.Pos, f.End()}})
	switch f.Header.Kind {
	case segment.KindSnapshot:
		return s.snapshot(f, blockErrs)
	case segment.KindCommands:
	default:
		return nil
	}
	var err error
	if s.buf, err = DecodeCommands(s.buf[:0], f.Meta); err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	for i := range s.buf {
		c := &s.buf[i]
		if !c.carriesRecords() || blockErrs != nil && int(c.Block) < len(blockErrs) && blockErrs[c.Block] != nil {
			continue
		}
		r := haveRange{LSNRange{c.First, c.Last()}, c.Epoch}
		if c.Kind == CommandMoveRecords {
			m := s.moved[c.Log]
			if m.pos != f.Pos {
				m = copies{pos: f.Pos}
			}
			m.have = append(m.have, r)
			s.moved[c.Log] = m
			continue
		}
		have := s.have[c.Log]
		if n := len(have); n > 0 && have[n-1].Last+1 == r.First && have[n-1].epoch == r.epoch {
			have[n-1].Last = r.Last
			continue
		}
		s.have[c.Log] = append(have, r)
	}
	return nil
}

// snapshot takes a part of a snapshot.
func (s *survey) snapshot(f *segment.Frame, blockErrs []error) error {
	h, err := decodeSnapshotHeader(f.Meta)
	if err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	if blockErrs != nil {
		s.parts.bad = true
		return nil
	}
	var chunk []byte
	for i := range f.Blocks {
		part, err := s.fetch.Open(f, i, nil)
		if err != nil {
			return err
		}
		chunk = append(chunk, part...)
	}
	if !s.parts.add(h, chunk) {
		return nil
	}
	state, at, err := decodeSnapshot(s.parts.buf)
	if err != nil {
		return nil // not one to begin with
	}
	s.base = newSalvage(state, at, h.From)
	return nil
}

// end returns the cut that the fresh segment's header has to record: behind all
// that verifies, and in the newest segment that is known to have been there.
func (s *survey) end(walked *replay.Recovery) (segment.Cut, error) {
	ids, gaps := s.src.Segments(), s.src.Gaps()
	newest := ids[len(ids)-1]
	var cut segment.Cut
	if f := s.last; f != nil {
		cut = segment.Cut{End: f.End(), Last: f.Pos, Sequence: f.Header.Sequence, Chain: f.Header.Checksum, Time: f.Header.Time}
	}
	h, err := s.src.Header(newest)
	switch {
	case err == nil && h.Cut.Sequence > cut.Sequence:
		cut = h.Cut
	case err != nil && !unreadable(err):
		return cut, err
	}
	if walked.Tail == replay.CaseSealedLast {
		newest++ // its ID was used, and is not used again
	}
	if n := len(gaps); n > 0 && gaps[n-1].To >= newest {
		newest = gaps[n-1].To + 1 // what lay behind it is lost
	}
	if cut.End.Segment != newest {
		cut.End, cut.Last = segment.Pos{Segment: newest, Offset: limits.SegmentHeaderSize}, segment.Pos{}
	}
	cut.Sequence = max(cut.Sequence, walked.Promised)
	return cut, nil
}

// unpromised returns where frames lie that nothing promises.
func (s *survey) unpromised(promise uint64) span {
	i := slices.IndexFunc(s.tail, func(f tailFrame) bool { return f.sequence > promise })
	if i < 0 {
		return span{}
	}
	return span{s.tail[i].from, s.tail[len(s.tail)-1].to}
}

// sourceFrom is a journal without the segments before one.
type sourceFrom struct {
	replay.Source
	from segment.ID
}

// Segments implements replay.Source.
func (s sourceFrom) Segments() []segment.ID {
	return slices.DeleteFunc(s.Source.Segments(), func(id segment.ID) bool { return id < s.from })
}

// rebuild makes the state that the volume goes on with: the newest whole
// snapshot and all that verifies behind it.
func (s *survey) rebuild(ctx context.Context, walked *replay.Recovery) (*salvage, error) {
	if s.base == nil {
		ids := s.src.Segments()
		h, err := s.src.Header(ids[0])
		if ids[0] != 1 || unreadable(err) {
			return nil, fmt.Errorf("%w: no snapshot in it opens, and its beginning is gone: the names of the logs are lost", ErrBeyondRepair)
		}
		if err != nil {
			return nil, err
		}
		s.base = newSalvage(NewState(), newPlaces(), segment.FrameRef{
			Pos: segment.Pos{Segment: 1, Offset: limits.SegmentHeaderSize}, Sequence: 1, Chain: h.Cut.Chain,
		})
	}
	b := s.base
	_, err := replay.Walk(sourceFrom{s.src, b.from.Pos.Segment}, replay.WalkOptions{}, func(f *segment.Frame, _ []error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return b.frame(f)
	})
	if err != nil {
		return nil, err
	}
	if walked.Tail.Verdict() == replay.VerdictDamaged || walked.Promised >= b.expect {
		b.hole(max(walked.Promised+1, b.expect) - b.expect)
	}
	b.markOpenEnds()
	for _, l := range b.logs.all() {
		b.lose(l.number, missing(LSNRange{l.first, l.next - 1}, b.proven(l, s.holds(b, l.number))))
	}
	return b, nil
}

// proven returns which records that are there are the log's, in order.
func (s *salvage) proven(l *logState, have []haveRange) (ranges []LSNRange) {
	h := l.history()
	for _, r := range have {
		r.First, r.Last = max(r.First, s.unproven[l.number]+1), h.clip(r.epoch, r.Last)
		if r.First <= r.Last {
			ranges = append(ranges, r.LSNRange)
		}
	}
	slices.SortFunc(ranges, func(a, b LSNRange) int { return cmp.Compare(a.First, b.First) })
	return ranges
}

// holds returns which records of a log are read where they lie: those that were moved,
// of which older copies do not count, and those that are where they were appended.
func (s *survey) holds(b *salvage, number uint64) []haveRange {
	have := s.have[number]
	if at, ok := b.places.moved[number]; ok && s.moved[number].pos == at.pos {
		have = slices.Concat(have, s.moved[number].have)
	}
	return have
}

// missing returns what of a range is not among those that are there, in order.
func missing(all LSNRange, have []LSNRange) (gaps []LSNRange) {
	for _, h := range have {
		if h.First > all.Last {
			break
		}
		if h.First > all.First {
			gaps = append(gaps, LSNRange{all.First, h.First - 1})
		}
		all.First = max(all.First, h.Last+1)
	}
	if all.First <= all.Last {
		gaps = append(gaps, all)
	}
	return gaps
}

// A salvage is a state to which commands are applied of which some are lost.
//
// What follows a hole tells what must have been in it: an append, how far its
// log had come; a seal, how far all had. What no command behind the last hole
// tells of a log stays open: it may have had any number of records, or none.
type salvage struct {
	*State
	places places
	from   segment.FrameRef // where the state's snapshot cuts

	expect uint64 // sequence of the next frame
	holes  int
	frames uint64 // lost in them, as far as sequences tell
	// told are the logs of which something behind the last hole tells how far they
	// had come.
	told map[uint64]bool
	// epochs are the logs of which something behind the last hole tells the epoch.
	epochs map[uint64]bool
	// unsure are the logs that may have been sealed or rewound in the last hole.
	unsure map[uint64]bool
	// slots are the producers of a log that were open before the first hole behind
	// its creation: their slots are certain.
	slots  map[uint64]int
	opened map[uint64]int        // producers forgotten, by log
	gone   map[uint64]LostLog    // by number
	open   map[uint64]LSN        // by log: the LSN that stands for a lost end
	known  map[uint64][]LSNRange // lost ranges that an earlier repair told of, by log
	// unproven is up to where, in a log that was rewound in what is lost, nobody knows
	// which of the records that are there it discarded.
	unproven map[uint64]LSN
}

func newSalvage(state *State, at places, from segment.FrameRef) *salvage {
	s := &salvage{
		State: state, places: at, from: from, expect: from.Sequence, told: map[uint64]bool{}, epochs: map[uint64]bool{}, unsure: map[uint64]bool{}, slots: map[uint64]int{},
		opened: map[uint64]int{}, gone: map[uint64]LostLog{}, open: map[uint64]LSN{}, known: map[uint64][]LSNRange{}, unproven: map[uint64]LSN{},
	}
	for n, l := range state.logs.all() {
		s.known[n] = l.lost
	}
	return s
}

// hole notes that frames are missing here.
func (s *salvage) hole(frames uint64) {
	s.holes++
	s.frames += frames
	clear(s.told)
	clear(s.epochs)
	for n := range s.logs.all() {
		l := s.mutable(n)
		if len(l.producers) == limits.MaxProducersPerLog {
			// A slot may have changed hands.
			s.opened[n] += len(l.producers)
			l.producers, l.byID = nil, nil
		}
		if known, ok := s.slots[n]; !ok || known > len(l.producers) {
			s.slots[n] = len(l.producers)
		}
	}
}

// frame applies a frame.
func (s *salvage) frame(f *segment.Frame) error {
	switch q := f.Header.Sequence; {
	case q < s.expect:
		return nil // below the snapshot
	case q > s.expect:
		s.hole(q - s.expect)
	}
	s.expect = f.Header.Sequence + 1
	switch f.Header.Kind {
	case segment.KindSeal:
		if x, err := decodeSegmentIndex(f.Pos.Segment, f.Meta); err == nil && s.holes > 0 {
			s.sealed(x)
		}
		return nil
	case segment.KindCommands:
	default:
		return nil
	}
	commands, err := DecodeCommands(nil, f.Meta)
	if err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	for i := range commands {
		c := &commands[i]
		if s.holes > 0 && !s.makeWay(c) {
			if c.Kind == CommandAppendPart && s.awaited.left > 0 {
				s.awaited.left-- // nobody will come and bring it
			}
			continue
		}
		if err := s.Apply(c); err != nil {
			return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
		}
		x := index{places: s.places}
		x.apply(s.State, c, f.Pos)
	}
	if err := s.whole(); err != nil {
		return fmt.Errorf("frame %d at %s: %w", f.Header.Sequence, f.Pos, err)
	}
	return nil
}

// sealed takes what a seal says of all logs: how far they had come.
func (s *salvage) sealed(x *segmentIndex) {
	for n, of := range x.logs.all() {
		l, end := s.mutable(n), of.end
		if l == nil {
			s.lostCreation(n)
			continue
		}
		s.lostRewind(l, Cut{Epoch: end.rewound, LSN: end.next - 1, Bytes: end.total, Checksum: l.checksum})
		l.reach(end.next, end.total)
		s.told[n] = true
	}
	for n, l := range s.logs.all() {
		if x.logs.get(n) == nil {
			s.drop(l, "it was deleted in what is lost")
		}
	}
}

func (s *salvage) lostCreation(number uint64) {
	if _, ok := s.gone[number]; !ok {
		s.gone[number] = LostLog{Number: number, Detail: "its creation is lost, and with it its name: none of its records can be read"}
	}
	s.next = max(s.next, number+1)
}

func (s *salvage) drop(l *logState, why string) {
	s.gone[l.number] = LostLog{Number: l.number, Name: l.name, Detail: why}
	s.remove(l)
	s.places.removeLog(l.number)
}

// reach makes next the log's next LSN, unless it is there already, and total the
// bytes that had been appended until then, 0 if that is not known.
func (l *logState) reach(next LSN, total uint64) {
	l.next = max(l.next, next)
	if total > l.totalBytes {
		l.liveBytes += total - l.totalBytes
		l.totalBytes = total
	}
}

// lostRewind makes way for what says that a log was rewound in what is lost, and had
// come to at when it was said. Where it was cut nobody knows, nor what was appended
// again since: so the records below are given up, rather than have one of them be one
// that was discarded.
func (s *salvage) lostRewind(l *logState, at Cut) {
	h := l.history()
	if at.Epoch <= h.rewound() {
		return
	}
	l.reach(at.LSN+1, at.Bytes)
	l.dropCheckpointsAbove(at.LSN)
	// Older cuts are below, where nothing is proven.
	l.cuts = nil
	at.Bytes = min(at.Bytes, l.totalBytes)
	l.rewind(at)
	l.holder, l.acquired = lostHolder, ulid.ULID{}
	s.unproven[l.number] = at.LSN
}

// dropCheckpointsAbove makes way for a rewind that a checkpoint would have held back:
// it was deleted in what is lost.
func (l *logState) dropCheckpointsAbove(lsn LSN) {
	for i := len(l.checkpoints) - 1; i >= 0; i-- {
		if l.checkpoints[i].lsn > lsn {
			l.deleteCheckpoint(i)
		}
	}
}

// makeWay changes the state to one that the command can follow from: to what it
// proves to have been before it. It may change the command too, and reports
// false for one that is to be passed over.
func (s *salvage) makeWay(c *Command) bool {
	if c.Kind == CommandCreateLog {
		for n := s.next; n < c.Log; n++ {
			s.lostCreation(n)
		}
		if l := s.named(c.Name); l != nil {
			s.drop(l, "it was deleted in what is lost, and another log created under its name")
		}
		s.told[c.Log], s.epochs[c.Log] = true, true
		return true
	}
	l := s.mutable(c.Log)
	if l == nil {
		if s.lostCreation(c.Log); c.Kind == CommandDeleteLog {
			delete(s.gone, c.Log)
		}
		return false
	}
	i, found := l.findCheckpoint(c.Name)
	switch c.Kind {
	case CommandOpenProducer:
		if l.slot(c.Producer) != 0 {
			return false
		}
		if _, uncertain := s.slots[c.Log]; uncertain {
			s.opened[c.Log]++ // what is lost may have taken the slot
			return false
		}
		if i := l.formerly(c.Producer); i >= 0 && l.former[i].retired { // forgotten in what is lost
			l.former = slices.Concat(l.former[:i], l.former[i+1:])
		}
	case CommandAppend, CommandAppendPart:
		s.lostRewind(l, Cut{Epoch: c.Rewound, LSN: c.First - 1, Bytes: c.Start, Checksum: Checksum(crc32c.Before(uint32(c.Checksum), c.RunSum, c.Size))})
		l.reach(c.First, c.Start)
		l.began(c.Epoch)
		s.told[c.Log], s.epochs[c.Log] = true, true
		s.producer(l, c)
		if c.Kind == CommandAppendPart && s.awaited.left == 0 {
			c.Kind, c.Lead = CommandAppend, 0 // nothing is known of its lead
		}
	case CommandSetCheckpoint:
		l.reach(c.LSN+1, 0)
		if found && c.LSN < l.checkpoints[i].lsn { // deleted, and set anew
			l.deleteCheckpoint(i)
			found = false
		}
		switch {
		case found:
			l.checkpoints[i].version = c.Version - 1
		case c.Version != l.nextVersion(i, false):
			// It was there, or another one of the log was that had this version and was deleted.
			l.checkpoints = slices.Insert(l.checkpoints, i, checkpointState{name: c.Name, version: c.Version - 1})
			l.deleted = max(l.deleted, c.Version-1)
		}
	case CommandDeleteCheckpoint:
		return found
	case CommandTruncate:
		l.reach(c.First, 0)
		l.liveBytes = max(l.liveBytes, c.LiveBytes)
		l.totalBytes = max(l.totalBytes, l.liveBytes)
		l.loseCursors(c)
	case CommandMoveCheckpoint:
		return found && l.checkpoints[i].version == c.Version && l.checkpoints[i].size == c.Size
	case CommandMoveRecords:
		// It proves what there was, not where the log ended by then.
		if c.Last() < l.first {
			return false
		}
		// Nor of what: the copies are all that the log kept.
		s.lostRewind(l, Cut{Epoch: c.Rewound, LSN: l.first - 1, Bytes: l.totalBytes - l.liveBytes, Checksum: l.checksum})
		l.reach(c.Last()+1, c.Start+uint64(c.Size))
		l.began(max(c.Epoch, c.Rewound))
	case CommandRetireProducer:
		slot := l.slot(c.Producer)
		return slot != 0 && !l.producers[slot-1].retired
	case CommandResolveProducer:
		slot := l.slot(c.Producer)
		if slot == 0 {
			return false
		}
		l.producer(slot).incarnation = c.Incarnation - 1
	case CommandSetWriter:
		l.began(c.Epoch - 1)
		s.epochs[c.Log] = true
	case CommandSealLog:
		l.reach(c.First, c.Start)
		l.began(c.Epoch)
		l.checksum = c.Checksum
	case CommandRewind:
		s.rewind(l, c)
	case CommandSetCursor, CommandDeleteCursor, CommandEvictCursor:
		return l.makeWayForCursor(c)
	case CommandCreateLog, CommandDeleteLog:
	}
	return true
}

// rewind makes way for a rewind.
func (s *salvage) rewind(l *logState, c *Command) {
	at := Cut{Epoch: c.Rewound, LSN: c.LSN, Bytes: c.Start, Checksum: c.Checksum}
	s.lostRewind(l, at)
	if !l.room(c.LSN) { // what made room is lost
		l.cuts = nil
		s.lostRewind(l, at)
	}
	l.reach(c.LSN+1, c.Start)
	l.began(c.Epoch - 1)
	l.dropCheckpointsAbove(c.LSN)
	if c.LSN+1 == l.next {
		l.totalBytes, l.checksum = c.Start, c.Checksum
		l.liveBytes = min(l.liveBytes, l.totalBytes)
	}
	s.told[c.Log], s.epochs[c.Log] = true, true
	if u, ok := s.unproven[c.Log]; ok {
		s.unproven[c.Log] = min(u, c.LSN) // what is behind was appended again
	}
}

// loseCursors makes way for a truncation that a cursor would have held back: what
// is lost moved it, deleted it or evicted it, and the last of these is what its
// reader is told.
func (l *logState) loseCursors(c *Command) {
	for i := range l.cursors {
		if cur := &l.cursors[i]; cur.holds() && c.First > cur.lsn+1 {
			cur.evicted = max(1, cur.setAt)
		}
	}
	l.measure()
}

// makeWayForCursor is makeWay for the commands of cursors.
func (l *logState) makeWayForCursor(c *Command) bool {
	i, found := l.findCursor(c.Name)
	if c.Kind == CommandDeleteCursor || c.Kind == CommandEvictCursor && !found {
		return found
	}
	l.reach(c.LSN+1, c.Start)
	if c.Kind == CommandEvictCursor {
		l.cursors[i] = cursorState{name: c.Name, lsn: c.LSN, start: c.Start, cap: c.Cap, setAt: l.cursors[i].setAt}
		l.reach(l.next, c.Start+c.Cap+1)
		l.measure()
		return true
	}
	if found && !c.Reset && (!l.cursors[i].holds() || l.cursors[i].rewound != 0 || c.LSN < l.cursors[i].lsn) { // deleted, and set anew
		l.cursors = slices.Delete(l.cursors, i, i+1)
		found = false
	}
	// Of more than a log may have, one was deleted in what is lost: which, nobody
	// knows. This one's reader is told that there is none.
	return (found || len(l.cursors) < limits.MaxCursorsPerLog) && c.LSN+1 >= l.first
}

// producer makes way for an append's sequence, and takes it from an append whose
// producer is not known.
func (s *salvage) producer(l *logState, c *Command) {
	if c.Slot == 0 {
		return
	}
	certain, uncertain := s.slots[c.Log]
	if uncertain && c.Slot > uint64(certain) || c.Slot > uint64(len(l.producers)) || l.producers[c.Slot-1].last >= c.Sequence {
		c.Slot, c.Sequence = 0, 0
		return
	}
	l.producer(c.Slot).pass(c.Sequence - 1) // of what is lost nothing is known
}

// lostHolder is the writer of an epoch of which nobody knows who began it: only
// what states that epoch may append, until a writer is acquired or it is released.
const lostHolder = "lost"

// began makes epoch the log's. What began it is lost, if it is another one.
func (l *logState) began(epoch Epoch) {
	if epoch > l.epoch {
		l.epoch, l.holder, l.acquired = epoch, lostHolder, ulid.ULID{}
	}
}

// lostEpochs is more than the epochs that can have begun in what is lost: so many
// commands take more of a journal than can lie behind its newest snapshot.
const lostEpochs = 1 << 32

// markOpenEnds gives each log of which nothing behind the last hole tells how far
// it had come a lost LSN at its end and a new epoch: nobody reads on behind the
// hole without being told, and no LSN names two records in one epoch.
func (s *salvage) markOpenEnds() {
	if s.holes == 0 {
		return
	}
	for n := range s.logs.all() {
		l := s.mutable(n)
		if l.sealed != 0 {
			continue // nothing can have come behind its seal
		}
		if !s.told[n] {
			s.open[n] = l.next
			l.next++
		}
		// A writer may have been acquired in what is lost, and another one behind
		// it: the epoch that begins is none that either of them was told.
		if !s.told[n] || !s.epochs[n] {
			l.epoch += lostEpochs
			s.unsure[n] = true
		}
	}
}

// lose makes the lost ranges those that were not found. Of more than a log may
// have, the last ones count.
func (s *salvage) lose(number uint64, gaps []LSNRange) {
	l := s.mutable(number)
	if n := len(gaps) - limits.MaxLostRanges; n > 0 {
		gaps = gaps[n:]
	}
	l.lost = gaps
}

// tell fills in what is given up.
func (p *RepairPlan) tell(s *survey, b *salvage) {
	p.Frames = b.frames
	for _, name := range slices.Sorted(maps.Keys(b.names)) {
		l := b.named(name)
		for _, r := range l.lost {
			if was := (&logState{first: l.first, lost: b.known[l.number]}); was.loses(r) {
				continue
			}
			lost := LostRecords{Log: l.name, First: r.First, Last: r.Last}
			if at, open := b.open[l.number]; open && r.Last == at {
				lost.Open, lost.Epoch = true, l.epoch
			}
			p.Records = append(p.Records, lost)
		}
		for _, c := range l.checkpoints {
			at, placed := b.places.get(stateKey{l.number, c.name})
			if c.size == 0 {
				continue
			}
			if _, err := readState(s.fetch, at, c.sum); !placed || err != nil {
				p.Checkpoints = append(p.Checkpoints, LostCheckpoint{l.name, c.name})
			}
		}
		if b.unsure[l.number] {
			p.Unsure = append(p.Unsure, l.name)
		}
		if n := b.opened[l.number]; n > 0 {
			p.Producers = append(p.Producers, ForgottenProducers{l.name, n})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(b.gone)) {
		p.Logs = append(p.Logs, b.gone[n])
	}
}

// ApplyRepair does what a plan says, exactly that, or nothing: it takes the
// volume's lock, plans anew, and refuses if the outcome is another one. First
// the damaged files are copied to p.Backup, durably. Then one segment is added,
// whose header is the cut behind all that verifies, and which begins with a
// snapshot of the state that the volume goes on with. The damaged segments stay
// where they are, for the records in them that verify.
//
// The segment gets its name when it is whole and durable: a crash before leaves
// the damaged volume, one after the repaired one. A state that is larger than a
// segment goes on in further ones; until its last frame is durable, the volume
// opens as damaged as it was, and can be planned for and repaired again.
//
// It returns ErrInUse, ErrPlanStale, ErrFull, or what PlanRepair returns. After
// any error the volume may be planned for again.
func ApplyRepair(ctx context.Context, p *RepairPlan, o RepairOptions) error {
	o = o.withDefaults()
	if !p.Needed {
		return nil
	}
	apply := p.applySegment
	if p.identity != nil {
		apply = p.applyIdentity
	}
	if err := apply(ctx, o); err != nil {
		return fmt.Errorf("repair volume %s: %w", p.Dir, err)
	}
	return nil
}

// applyIdentity replaces the VOLUME file.
func (p *RepairPlan) applyIdentity(_ context.Context, o RepairOptions) error {
	again, err := planIdentity(p.Dir, o)
	if err != nil {
		return err
	}
	if again == nil || again.digest != p.digest {
		return ErrPlanStale
	}
	if err := p.backUp(o.FS); err != nil {
		return err
	}
	err = segment.WriteIdentity(segment.Options{FS: o.FS, Dir: p.Dir}, *p.identity)
	if errors.Is(err, disk.ErrLocked) {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return err
}

// applySegment adds the segment.
func (p *RepairPlan) applySegment(ctx context.Context, o RepairOptions) (err error) {
	j, err := openJournal(segment.Options{FS: o.FS, Dir: p.Dir, Now: o.Now, Rand: o.Rand, PrepareRate: -1}, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	// Before it is read again: what it is read from may be the page cache.
	if err := p.writeBack(o.FS); err != nil {
		return err
	}
	again, err := plan(ctx, j, j.Volume(), p.Dir, o)
	if err != nil {
		return err
	}
	if !again.Needed || again.digest != p.digest {
		return ErrPlanStale
	}
	if err := p.backUp(o.FS); err != nil {
		return err
	}
	first := segment.FrameRef{
		Pos: segment.Pos{Segment: p.cut.End.Segment + 1, Offset: limits.SegmentHeaderSize}, Sequence: p.cut.Sequence + 1, Chain: p.cut.Chain,
	}
	drafts := p.drafts(first, int(min(snapshotPart, j.MaxFrame()/2)), o.Now())
	// As many as the fresh segment takes besides its seal.
	fits, room := 0, j.SegmentSize()*3/4
	for fits < len(drafts) && room > 0 {
		d := &drafts[fits]
		if room -= segment.FrameSize(len(d.Meta), 1, int64(len(d.Blocks[0].Stored))); room > 0 {
			fits++
		}
	}
	if _, err := j.Resume(segment.Resume{Cut: p.cut, Rewrite: drafts[:fits], Snapshot: first}); err != nil {
		return full(err)
	}
	for i := range drafts[fits:] {
		if err := appendDraft(ctx, j, &drafts[fits+i]); err != nil {
			return full(err)
		}
	}
	// What is durable is promised: an opening need not write it once more.
	return full(appendDraft(ctx, j, &segment.Draft{Kind: segment.KindPromise, Time: o.Now()}))
}

// appendDraft appends a frame, waiting for a spare if it must, and syncs it.
func appendDraft(ctx context.Context, j *segment.Journal, d *segment.Draft) error {
	var stored int64
	for _, b := range d.Blocks {
		stored += int64(len(b.Stored))
	}
	size, leave := segment.FrameSize(len(d.Meta), len(d.Blocks), stored), segment.Reserve{Spare: segment.TakeSpare}
	for {
		err := j.Admit(size, leave)
		if err == nil {
			break
		}
		if !errors.Is(err, segment.ErrPreparing) {
			return err
		}
		if err := j.WaitSpace(ctx, size, leave); err != nil {
			return err
		}
	}
	if _, err := j.Append(d); err != nil {
		return err
	}
	return j.Sync()
}

func full(err error) error {
	if errors.Is(err, segment.ErrNoSpace) {
		return fmt.Errorf("%w: %w; make room on the file system", ErrFull, err)
	}
	return err
}

// drafts cuts the snapshot into frames, the first of which is at first.
func (p *RepairPlan) drafts(first segment.FrameRef, part int, now int64) (drafts []segment.Draft) {
	var sum uint32
	rest := p.snapshot
	for last := false; !last; {
		chunk := rest[:min(len(rest), part)]
		rest = rest[len(chunk):]
		last = len(rest) == 0
		sum = crc32.Update(sum, castagnoli, chunk)
		h := snapshotHeader{From: first, Part: uint64(len(drafts)), Last: last, Sum: sum}
		drafts = append(drafts, segment.Draft{
			Kind: segment.KindSnapshot, Time: now, Meta: appendSnapshotHeader(nil, &h),
			Blocks: []segment.Block{{Codec: codec.None, RawSize: uint32(len(chunk)), Checksum: crc32.Checksum(chunk, castagnoli), Stored: chunk}},
		})
	}
	return drafts
}

// writeBack writes once more what lies behind the last promise, where it lies,
// and syncs it. It may have been read from a page cache that outlived a failed
// sync, and the fresh segment's header vouches for it. The bytes are those that
// are there, so that a crash in between changes nothing.
func (p *RepairPlan) writeBack(fsys disk.FS) (err error) {
	if p.tail == (span{}) {
		return nil
	}
	f, err := fsys.Open(filepath.Join(p.Dir, nameOfSegment(p.tail.from.Segment)), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := disk.AlignedBuffer(int(p.tail.to.Offset - p.tail.from.Offset))
	if _, err := f.ReadAt(b, p.tail.from.Offset); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, p.tail.from.Offset); err != nil {
		return err
	}
	return f.Sync()
}

// backUp copies the damaged files, durably. A copy that an interrupted repair
// left is made anew: the files have not changed since.
func (p *RepairPlan) backUp(fsys disk.FS) error {
	if len(p.Files) == 0 {
		return nil
	}
	if err := fsys.MkdirAll(p.Backup); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	for _, name := range p.Files {
		if err := copyFile(fsys, filepath.Join(p.Dir, name), filepath.Join(p.Backup, name)); err != nil {
			return fmt.Errorf("back up %s: %w", name, err)
		}
	}
	if err := fsys.SyncDir(p.Backup); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

func copyFile(fsys disk.FS, from, to string) (err error) {
	if err := fsys.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := fsys.Open(from, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := fsys.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	b := disk.AlignedBuffer(snapshotPart)
	for off := int64(0); ; {
		n, err := in.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n > 0 {
			if _, err := out.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		if off += int64(n); err != nil {
			return out.Sync()
		}
	}
}
