package wal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A State is what the commands applied to it say, and nothing else: no clock,
// no disk, no randomness, no map order, no position in the journal. Two states
// that applied the same commands have the same Hash.
//
// A volume has two: the durable one, which readers see, and one ahead of it by
// the commands that are decided and not durable yet, against which the next
// ones are decided. Both apply the same commands with the same code, and a
// command that the state ahead took and the durable one refuses is a bug that
// must stop the process before it acknowledges anything.
//
// A State is not safe for concurrent use. Freeze makes a copy at the cost of a
// slice of pointers.
type State struct {
	logs  table[logState]
	names map[string]uint64 // their numbers
	next  uint64            // number of the next log
	// generation counts freezes: a logState of an older one is shared with a
	// frozen copy and is cloned before it changes.
	generation uint64
	// crowded is set when a cursor comes to be over its cap; whoever evicts clears
	// it. It follows from the rest, and is no part of it.
	crowded bool
	// awaited are the parts that have to come next, since the batch they belong to
	// has begun: nothing else is applied before them. Between frames there are none.
	awaited struct {
		left uint32   // how many
		lead uint64   // number of the batch's lead log
		slot uint64   // of the batch's producer there; 0 for none
		logs []uint64 // numbers of the batch's logs so far
	}
}

// A logState is one log. Frozen copies share it until it changes.
//
// What an append asks for and changes comes first, on two lines of a cache: of thousands
// of logs in turn none is there any more when its next append comes.
type logState struct {
	generation uint64
	next       LSN
	epoch      Epoch
	totalBytes uint64 // framed bytes ever appended, what rewinds discarded left out
	liveBytes  uint64
	evictAbove uint64            // of totalBytes, when the first cursor is over its cap; 0 for never. See measure
	sealed     int64             // when it was sealed; 0 if it is not
	producers  []*producerState  // by slot-1; a slot may change hands
	sole       [1]*producerState // what producers is a slice of, if there is one only
	cuts       []Cut             // of rewinds; see history. The slice is never written
	checksum   Checksum

	options     LogOptions // the map in it is never written
	number      uint64
	id          ulid.ULID
	name        string
	created     int64
	holder      string    // of the epoch's writer; empty if there is none, and the log is shared
	acquired    ulid.ULID // the request that began the epoch; zero for one that cannot be asked again
	first       LSN
	checkpoints []checkpointState
	// deleted is the greatest version that a checkpoint had which was deleted, 0 for none:
	// one that is new begins behind it, so that no version of a name comes twice.
	deleted uint64
	cursors []cursorState // by name
	// byID are the slots in the order of their producers' ULIDs. The slice is never
	// written.
	byID []uint16
	// former are the last producers that made way, in that order. What is in the
	// slice is never written; only the latest copy of the log appends behind it.
	former []formerProducer
	// lost are the records that a repair gave up: in order, apart from each other,
	// from first on and below next. The slice is never written.
	lost []LSNRange
}

// An LSNRange is a run of a log's LSNs, both ends included.
type LSNRange struct{ First, Last LSN }

// lostFrom returns the first lost range that ends at lsn or behind.
func (l *logState) lostFrom(lsn LSN) (LSNRange, bool) {
	i := sort.Search(len(l.lost), func(i int) bool { return l.lost[i].Last >= lsn })
	if i == len(l.lost) {
		return LSNRange{}, false
	}
	return l.lost[i], true
}

// lostFrom returns what is left of lost ranges when first is the oldest record
// kept. It does not write the slice.
func lostFrom(lost []LSNRange, first LSN) []LSNRange {
	i := sort.Search(len(lost), func(i int) bool { return lost[i].Last >= first })
	if lost = lost[i:]; len(lost) == 0 {
		return nil
	}
	if lost[0].First < first {
		lost = slices.Clone(lost)
		lost[0].First = first
	}
	return lost
}

// lossy names the logs that have lost records, in order.
func (s *State) lossy() (names []string) {
	for _, l := range s.logs.all() {
		if len(l.lost) > 0 {
			names = append(names, l.name)
		}
	}
	slices.Sort(names)
	return names
}

// lost lists the lost records of those logs, limits.MaxDamage ranges at most, and
// counts all of them.
func (s *State) lost(names []string) (lost []DamagedLog, records uint64) {
	for _, name := range names {
		l := s.named(name)
		if l == nil { // deleted since
			continue
		}
		for _, r := range l.lost {
			records += uint64(r.Last-r.First) + 1
			if len(lost) < limits.MaxDamage {
				lost = append(lost, DamagedLog{Log: name, First: r.First, Last: r.Last})
			}
		}
	}
	return lost, records
}

// loses reports whether all records of r, in so far as they are kept, are lost.
func (l *logState) loses(r LSNRange) bool {
	r.First = max(r.First, l.first)
	lost, ok := l.lostFrom(r.First)
	return r.First > r.Last || ok && lost.First <= r.First && r.Last <= lost.Last
}

// A checkpointState is a checkpoint without its bytes.
type checkpointState struct {
	name    string
	lsn     LSN
	version uint64
	setAt   int64
	size    uint32
	sum     uint32 // CRC-32C of the bytes
}

// A formerProducer is what is left of a producer that made way.
type formerProducer struct {
	id          ulid.ULID
	last        uint64
	incarnation uint64
	retired     bool
}

// NewState returns the state of a volume that has seen no command.
func NewState() *State {
	return &State{logs: newTable[logState](), names: map[string]uint64{}, next: 1}
}

// named returns a log by its name, nil if there is none.
func (s *State) named(name string) *logState {
	if number, ok := s.names[name]; ok {
		return s.logs.get(number)
	}
	return nil
}

// put puts a log into the state, in the place of none.
func (s *State) put(l *logState) {
	l.generation = s.generation
	s.logs.set(l.number, l)
	s.names[l.name] = l.number
}

// remove takes a log out.
func (s *State) remove(l *logState) {
	s.logs.remove(l.number)
	delete(s.names, l.name)
}

// newLogState returns a log as it is when a CommandCreateLog made it.
func newLogState(c *Command) *logState {
	return &logState{number: c.Log, id: c.ID, name: c.Name, created: c.Time, options: c.Options, epoch: 1, first: 1, next: 1}
}

// mutable returns a log that may be changed: a clone, if a frozen copy shares it.
func (s *State) mutable(number uint64) *logState {
	l := s.logs.get(number)
	if l == nil || l.generation == s.generation {
		return l
	}
	c := *l
	c.generation = s.generation
	c.checkpoints = slices.Clone(l.checkpoints)
	c.cursors = slices.Clone(l.cursors)
	if c.sole = [1]*producerState{}; len(l.producers) == 1 {
		c.sole[0] = l.producers[0]
		c.producers = c.sole[:]
	} else {
		c.producers = slices.Clone(l.producers) // pointers: each is copied when it changes
	}
	c.former = slices.Clip(l.former)
	s.logs.set(number, &c)
	return &c
}

// errDisagree is what Apply returns for a command that cannot follow what was
// applied before.
var errDisagree = errors.New("command does not follow from the state")

func disagree(c *Command, format string, args ...any) error {
	return fmt.Errorf("%s of log %d: %w: %s", c.Kind, c.Log, errDisagree, fmt.Sprintf(format, args...))
}

// Apply changes the state as the command says. It re-derives what was decided
// when the command was sequenced and returns an error, having changed nothing,
// if it comes to another verdict.
func (s *State) Apply(c *Command) error {
	if s.awaited.left > 0 != (c.Kind == CommandAppendPart) {
		return disagree(c, "%d parts of a batch of log %d have to follow", s.awaited.left, s.awaited.lead)
	}
	if c.Kind == CommandCreateLog {
		if c.Log != s.next || s.named(c.Name) != nil {
			return disagree(c, "number %d where %d is next, or name %q taken", c.Log, s.next, c.Name)
		}
		s.put(newLogState(c))
		s.next++
		return nil
	}
	l := s.mutable(c.Log)
	if l == nil {
		return disagree(c, "no such log")
	}
	switch c.Kind {
	case CommandDeleteLog:
		s.remove(l)
	case CommandOpenProducer:
		if l.slot(c.Producer) != 0 {
			return disagree(c, "producer %s is open", c.Producer)
		}
		return l.openProducer(c)
	case CommandRetireProducer:
		slot := l.slot(c.Producer)
		if slot == 0 || l.producers[slot-1].retired {
			return disagree(c, "producer %s is not open", c.Producer)
		}
		l.producer(slot).retired = true
	case CommandResolveProducer:
		slot := l.slot(c.Producer)
		if slot == 0 || c.Incarnation != l.producers[slot-1].incarnation+1 {
			return disagree(c, "incarnation %d of producer %s", c.Incarnation, c.Producer)
		}
		l.producer(slot).incarnation = c.Incarnation
	case CommandAppend:
		if err := l.applyAppend(c); err != nil {
			return err
		}
		s.crowded = s.crowded || l.crowded()
		if c.Parts > 0 {
			s.awaited.left, s.awaited.lead, s.awaited.slot = c.Parts, c.Log, c.Slot
			s.awaited.logs = append(s.awaited.logs[:0], c.Log)
		}
	case CommandAppendPart:
		err := s.applyPart(l, c)
		s.crowded = s.crowded || l.crowded()
		return err
	case CommandSetCheckpoint:
		i, found := l.findCheckpoint(c.Name)
		var was checkpointState
		if found {
			was = l.checkpoints[i]
		}
		if version := l.nextVersion(i, found); c.Version != version || c.LSN < was.lsn || c.LSN >= l.next {
			return disagree(c, "version %d and LSN %d where version %d is next, on LSN %d", c.Version, c.LSN, version, was.lsn)
		}
		if !found && len(l.checkpoints) >= limits.MaxCheckpointsPerLog {
			return disagree(c, "it has %d checkpoints", len(l.checkpoints))
		}
		if !found {
			l.checkpoints = slices.Insert(l.checkpoints, i, checkpointState{})
		}
		l.checkpoints[i] = checkpointState{name: c.Name, lsn: c.LSN, version: c.Version, setAt: c.Time, size: c.Size, sum: c.RunSum}
	case CommandDeleteCheckpoint:
		i, found := l.findCheckpoint(c.Name)
		if !found {
			return disagree(c, "no checkpoint %q", c.Name)
		}
		l.deleteCheckpoint(i)
	case CommandTruncate:
		if c.First < l.first || c.First > l.next || c.LiveBytes > l.liveBytes || c.First == l.next && c.LiveBytes > 0 {
			return disagree(c, "to %d with %d bytes, it has %d to %d with %d", c.First, c.LiveBytes, l.first, l.next-1, l.liveBytes)
		}
		for i := range l.cursors {
			if cur := &l.cursors[i]; cur.holds() && c.First > cur.lsn+1 {
				return disagree(c, "to %d, cursor %q holds what is behind %d", c.First, cur.name, cur.lsn)
			}
		}
		l.first, l.liveBytes = c.First, c.LiveBytes
		l.lost = lostFrom(l.lost, l.first)
	case CommandMoveCheckpoint:
		i, found := l.findCheckpoint(c.Name)
		if !found || l.checkpoints[i].version != c.Version || l.checkpoints[i].size != c.Size {
			return disagree(c, "checkpoint %q has changed", c.Name)
		}
	case CommandSealLog:
		if l.sealed != 0 || c.Time <= 0 || c.Epoch != l.epoch || c.First != l.next || c.Checksum != l.checksum || c.Start != l.totalBytes {
			return disagree(c, "at LSN %d in epoch %d behind %d bytes, it has LSN %d in epoch %d behind %d, or is sealed",
				c.First, c.Epoch, c.Start, l.next, l.epoch, l.totalBytes)
		}
		l.sealed = c.Time
	case CommandMoveRecords:
		if c.Count == 0 || c.First == 0 || c.Last() < c.First || c.Last() < l.first || c.Last() >= l.next || c.Epoch > l.epoch || c.Rewound != l.rewound() {
			return disagree(c, "LSN %d to %d of epoch %d behind a rewind of epoch %d, it has %d to %d in epoch %d", c.First, c.Last(), c.Epoch, c.Rewound, l.first, l.next-1, l.epoch)
		}
	case CommandSetWriter:
		if l.sealed != 0 {
			return disagree(c, "it is sealed")
		}
		if c.Epoch != l.epoch+1 || c.Name == "" && c.ID != (ulid.ULID{}) {
			return disagree(c, "epoch %d for holder %q behind epoch %d", c.Epoch, c.Name, l.epoch)
		}
		l.epoch, l.holder, l.acquired = c.Epoch, c.Name, c.ID
	case CommandRewind:
		if l.sealed != 0 {
			return disagree(c, "it is sealed")
		}
		return l.applyRewind(c)
	case CommandSetCursor:
		err := l.applySetCursor(c)
		s.crowded = s.crowded || l.crowded()
		return err
	case CommandDeleteCursor:
		i, found := l.findCursor(c.Name)
		if !found {
			return disagree(c, "no cursor %q", c.Name)
		}
		l.cursors = slices.Delete(l.cursors, i, i+1)
		l.measure()
	case CommandEvictCursor:
		return l.applyEvictCursor(c)
	default:
		return disagree(c, "unknown kind")
	}
	return nil
}

// openProducer gives a producer a slot. One that had made way goes on where it was.
func (l *logState) openProducer(c *Command) error {
	p := &producerState{id: c.Producer, active: l.next, incarnation: 1}
	i := l.formerly(c.Producer)
	if i < 0 && l.sealed != 0 {
		return disagree(c, "it is sealed, and does not know producer %s", c.Producer)
	}
	if i >= 0 {
		f := &l.former[i]
		if f.retired {
			return disagree(c, "producer %s is retired", c.Producer)
		}
		p.last, p.incarnation = f.last, f.incarnation+1
		l.former = slices.Concat(l.former[:i], l.former[i+1:])
	}
	if len(l.producers) < limits.MaxProducersPerLog {
		l.seat(len(l.producers)+1, p)
		return nil
	}
	slot := l.idlest() + 1
	way := l.producers[slot-1]
	if len(l.former) == limits.MaxFormerProducers {
		l.former = l.former[1:]
	}
	l.former = append(l.former, formerProducer{way.id, way.last, way.incarnation, way.retired})
	l.seat(slot, p)
	return nil
}

// formerly returns the index of a producer that made way, -1 if it is not
// remembered.
func (l *logState) formerly(producer ulid.ULID) int {
	return slices.IndexFunc(l.former, func(f formerProducer) bool { return f.id == producer })
}

func (l *logState) applyAppend(c *Command) error {
	if err := l.continues(c); err != nil {
		return err
	}
	if c.Slot != 0 {
		if c.Slot > uint64(len(l.producers)) || l.producers[c.Slot-1].last+1 != c.Sequence || l.producers[c.Slot-1].retired {
			return disagree(c, "sequence %d of slot %d", c.Sequence, c.Slot)
		}
		p := l.producer(c.Slot)
		p.active = c.Last() + 1
		p.remember(batchState{
			sequence: c.Sequence, first: c.First, count: c.Count, runSum: c.RunSum, checksum: c.Checksum, epoch: c.Epoch,
		})
	}
	l.extend(c)
	return nil
}

// applyPart applies one part of a batch whose lead, and the parts before it, were
// the last commands.
func (s *State) applyPart(l *logState, c *Command) error {
	if err := l.continues(c); err != nil {
		return err
	}
	w := &s.awaited
	lead := s.mutable(w.lead)
	if c.Lead != w.lead || slices.Contains(w.logs, c.Log) || !colocated(lead.options.ColocationKey, l.options.ColocationKey) {
		return disagree(c, "part of a batch of log %d, which is of log %d, is of logs %d and has colocation key %q", c.Lead, w.lead, w.logs, lead.options.ColocationKey)
	}
	w.left--
	w.logs = append(w.logs, c.Log)
	if w.slot != 0 {
		p := lead.producer(w.slot)
		p.parts = append(p.parts, partState{
			sequence: p.last, log: c.Log, first: c.First, epoch: c.Epoch, count: c.Count, runSum: c.RunSum, checksum: c.Checksum,
		})
	}
	l.extend(c)
	return nil
}

// whole returns an error unless the last batch applied has all its parts. It has
// to at the end of each frame, since a batch is in one frame or in none.
func (s *State) whole() error {
	if s.awaited.left == 0 {
		return nil
	}
	return fmt.Errorf("append of log %d: %w: the frame ends where %d more parts have to follow", s.awaited.lead, errDisagree, s.awaited.left)
}

// colocated reports whether two logs of those colocation keys may be in one batch.
// Without a key nobody said that they belong together, and they may part.
func colocated(key, other string) bool { return key != "" && key == other }

// continues returns an error unless an append goes on where the log ends.
func (l *logState) continues(c *Command) error {
	if l.sealed != 0 {
		return disagree(c, "it is sealed")
	}
	if c.First != l.next || c.Epoch != l.epoch || c.Rewound != l.rewound() || c.Count == 0 || c.Start != l.totalBytes {
		return disagree(c, "LSN %d in epoch %d behind %d bytes, it has LSN %d in epoch %d behind %d",
			c.First, c.Epoch, c.Start, l.next, l.epoch, l.totalBytes)
	}
	return nil
}

// extend makes an append's end the log's.
func (l *logState) extend(c *Command) {
	l.next += LSN(c.Count)
	l.checksum = c.Checksum
	l.liveBytes += uint64(c.Size)
	l.totalBytes += uint64(c.Size)
}

// idlest returns the index of the producer that has not appended for longest, of
// the retired ones if there are any: it makes way when one more is opened than a
// log has slots for. What it may still try again is refused as ErrNoProducer, never
// appended twice.
func (l *logState) idlest() int {
	idlest := 0
	for i := range l.producers {
		p, least := l.producers[i], l.producers[idlest]
		if p.retired == least.retired && p.active < least.active || p.retired && !least.retired {
			idlest = i
		}
	}
	return idlest
}

func (l *logState) findCheckpoint(name string) (int, bool) {
	return slices.BinarySearchFunc(l.checkpoints, name, func(c checkpointState, name string) int {
		return cmp.Compare(c.name, name)
	})
}

// nextVersion returns the version that a checkpoint gets when it is set, from what
// findCheckpoint returned.
func (l *logState) nextVersion(i int, found bool) uint64 {
	if found {
		return l.checkpoints[i].version + 1
	}
	return l.deleted + 1
}

// deleteCheckpoint deletes the i-th checkpoint.
func (l *logState) deleteCheckpoint(i int) {
	l.deleted = max(l.deleted, l.checkpoints[i].version)
	l.checkpoints = slices.Delete(l.checkpoints, i, i+1)
}

// keep returns the oldest LSN that retention must keep: what no checkpoint and no
// cursor has behind it. With neither, that is all there is: a cursor that was
// evicted holds nothing, and lets nothing go that nobody else does.
func (l *logState) keep() LSN {
	keep, _, held := l.floor()
	if !held {
		return l.first
	}
	return max(l.first, keep)
}

// floor returns the oldest LSN that a checkpoint or cursor needs, and which one
// that is. held is false if there is neither.
func (l *logState) floor() (keep LSN, holder string, held bool) {
	for i := range l.checkpoints {
		if c := &l.checkpoints[i]; !held || c.lsn+1 < keep {
			keep, holder, held = c.lsn+1, "checkpoint "+strconv.Quote(c.name), true
		}
	}
	for i := range l.cursors {
		if c := &l.cursors[i]; c.holds() && (!held || c.lsn+1 < keep) {
			keep, holder, held = c.lsn+1, "cursor "+strconv.Quote(c.name), true
		}
	}
	return keep, holder, held
}

func (l *logState) equalOptions(o *LogOptions) bool {
	return l.options.QuotaBytes == o.QuotaBytes && l.options.MaxRecordBytes == o.MaxRecordBytes && l.options.RateBytes == o.RateBytes &&
		l.options.ColocationKey == o.ColocationKey && maps.Equal(l.options.Labels, o.Labels)
}

// maxRecord returns the bound on the log's records, in bytes.
func (l *logState) maxRecord() int {
	if l.options.MaxRecordBytes != 0 {
		return int(min(l.options.MaxRecordBytes, limits.MaxRecordSize))
	}
	return limits.MaxRecordSize
}

// freeze returns the logs as they are, by number, for as long as the caller wants: the
// state clones what it changes from now on.
func (s *State) freeze() []*logState {
	s.generation++
	logs := make([]*logState, 0, s.logs.len())
	for _, l := range s.logs.all() {
		logs = append(logs, l)
	}
	return logs
}

// Clone returns a state of its own.
func (s *State) Clone() *State {
	s.generation++ // shared until either side changes it: both are of a newer generation now
	return &State{logs: s.logs.clone(), names: maps.Clone(s.names), next: s.next, generation: s.generation}
}

// Hash returns a checksum of everything in the state.
func (s *State) Hash() uint64 {
	buf := binary.AppendUvarint(nil, s.next)
	crc, size := crc32.Checksum(buf, castagnoli), uint64(len(buf))
	for _, l := range s.freeze() {
		buf = appendLogState(buf[:0], l)
		crc = crc32.Update(crc, castagnoli, buf)
		size += uint64(len(buf))
	}
	return size<<32 | uint64(crc)
}

// appendLogState spells a log as snapshots carry it. docs/format.md has the table.
func appendLogState(dst []byte, l *logState) []byte {
	dst = binary.AppendUvarint(dst, l.number)
	dst = append(dst, l.id[:]...)
	dst = appendString(dst, l.name)
	dst = binary.AppendUvarint(dst, uint64(l.created))
	dst = appendOptions(dst, &l.options)
	dst = binary.AppendUvarint(dst, uint64(l.epoch))
	dst = appendString(dst, l.holder)
	asked := l.acquired != (ulid.ULID{})
	if dst = append(dst, bit(asked)); asked {
		dst = append(dst, l.acquired[:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(l.sealed))
	dst = binary.AppendUvarint(dst, uint64(l.first))
	dst = binary.AppendUvarint(dst, uint64(l.next))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(l.checksum))
	dst = binary.AppendUvarint(dst, l.liveBytes)
	dst = binary.AppendUvarint(dst, l.totalBytes)
	dst = binary.AppendUvarint(dst, uint64(len(l.cuts)))
	for _, c := range l.cuts {
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = binary.AppendUvarint(dst, uint64(c.LSN))
		dst = binary.AppendUvarint(dst, uint64(c.Next-c.LSN))
		dst = binary.AppendUvarint(dst, c.Bytes)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(c.Checksum))
	}
	dst = binary.AppendUvarint(dst, l.deleted)
	dst = binary.AppendUvarint(dst, uint64(len(l.checkpoints)))
	for i := range l.checkpoints {
		c := &l.checkpoints[i]
		dst = appendString(dst, c.name)
		dst = binary.AppendUvarint(dst, uint64(c.lsn))
		dst = binary.AppendUvarint(dst, c.version)
		dst = binary.AppendUvarint(dst, uint64(c.setAt))
		dst = binary.AppendUvarint(dst, uint64(c.size))
		dst = binary.LittleEndian.AppendUint32(dst, c.sum)
	}
	dst = binary.AppendUvarint(dst, uint64(len(l.cursors)))
	for i := range l.cursors {
		c := &l.cursors[i]
		dst = appendString(dst, c.name)
		dst = binary.AppendUvarint(dst, uint64(c.lsn))
		dst = binary.AppendUvarint(dst, c.start)
		dst = binary.AppendUvarint(dst, c.cap)
		dst = binary.AppendUvarint(dst, uint64(c.setAt))
		dst = binary.AppendUvarint(dst, uint64(c.evicted))
		dst = append(dst, cursorFlags(c.hold, false))
		if dst = binary.AppendUvarint(dst, uint64(c.rewound)); c.rewound != 0 {
			dst = binary.AppendUvarint(dst, uint64(c.was))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(l.producers)))
	for i := range l.producers {
		p := l.producers[i]
		dst = append(dst, p.id[:]...)
		dst = binary.AppendUvarint(dst, uint64(p.active))
		dst = binary.AppendUvarint(dst, p.last)
		dst = binary.AppendUvarint(dst, p.incarnation)
		dst = append(dst, bit(p.retired))
		// Oldest first; sequences are dense, so the first one tells them all.
		dst = binary.AppendUvarint(dst, p.kept())
		for i := range p.kept() {
			b, _ := p.recall(p.last - p.kept() + 1 + i)
			dst = binary.AppendUvarint(dst, uint64(b.first))
			dst = binary.AppendUvarint(dst, uint64(b.count))
			dst = binary.LittleEndian.AppendUint32(dst, b.runSum)
			dst = binary.LittleEndian.AppendUint32(dst, uint32(b.checksum))
			dst = binary.AppendUvarint(dst, uint64(b.epoch))
			if dst = binary.AppendUvarint(dst, uint64(b.discarded)); b.discarded != 0 {
				dst = binary.AppendUvarint(dst, uint64(b.kept))
			}
		}
		dst = binary.AppendUvarint(dst, uint64(len(p.parts)))
		for i := range p.parts {
			t := &p.parts[i]
			dst = binary.AppendUvarint(dst, p.last-t.sequence)
			dst = binary.AppendUvarint(dst, t.log)
			dst = binary.AppendUvarint(dst, uint64(t.first))
			dst = binary.AppendUvarint(dst, uint64(t.count))
			dst = binary.LittleEndian.AppendUint32(dst, t.runSum)
			dst = binary.LittleEndian.AppendUint32(dst, uint32(t.checksum))
			dst = binary.AppendUvarint(dst, uint64(t.epoch))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(l.former)))
	for i := range l.former {
		f := &l.former[i]
		dst = append(dst, f.id[:]...)
		dst = binary.AppendUvarint(dst, f.last)
		dst = binary.AppendUvarint(dst, f.incarnation)
		dst = append(dst, bit(f.retired))
	}
	if len(l.lost) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(len(l.lost)))
	for _, r := range l.lost {
		dst = binary.AppendUvarint(dst, uint64(r.First))
		dst = binary.AppendUvarint(dst, uint64(r.Last))
	}
	return dst
}

// bit spells a bool.
func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// decodeLogState is the inverse of appendLogState. What it accepts encodes to
// the same bytes again.
func decodeLogState(d *decoder) (*logState, error) {
	l := &logState{}
	l.number = d.uvarint()
	d.fixed(l.id[:])
	l.name = d.string(limits.MaxLogNameBytes)
	l.created = int64(d.uvarint())
	d.options(&l.options)
	l.epoch = Epoch(d.uvarint())
	l.holder = d.string(limits.MaxHolderNameBytes)
	if d.flags(1) != 0 {
		if d.fixed(l.acquired[:]); l.acquired == (ulid.ULID{}) {
			d.fail()
		}
	}
	l.sealed = int64(d.uvarint())
	l.first = LSN(d.uvarint())
	l.next = LSN(d.uvarint())
	l.checksum = Checksum(d.uint32())
	l.liveBytes = d.uvarint()
	l.totalBytes = d.uvarint()
	n := d.uvarint()
	if d.bad || n > limits.MaxRewinds {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	for i := range n {
		c := Cut{Epoch: Epoch(d.uvarint()), LSN: LSN(d.uvarint()), Next: LSN(d.uvarint()), Bytes: d.uvarint(), Checksum: Checksum(d.uint32())}
		if c.Next += c.LSN; c.Next <= c.LSN || c.Epoch > l.epoch || c.LSN >= l.next || c.Bytes > l.totalBytes ||
			i > 0 && (c.Epoch <= l.cuts[i-1].Epoch || c.LSN <= l.cuts[i-1].LSN) {
			d.fail()
		}
		l.cuts = append(l.cuts, c)
	}
	l.deleted = d.uvarint()
	n = d.uvarint()
	if d.bad || n > limits.MaxCheckpointsPerLog {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	for range n {
		c := checkpointState{name: d.string(limits.MaxCheckpointNameBytes), lsn: LSN(d.uvarint()), version: d.uvarint(),
			setAt: int64(d.uvarint()), size: d.uvarint32(), sum: d.uint32()}
		if k := len(l.checkpoints); k > 0 && l.checkpoints[k-1].name >= c.name {
			d.fail()
		}
		l.checkpoints = append(l.checkpoints, c)
	}
	n = d.uvarint()
	if d.bad || n > limits.MaxCursorsPerLog {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	for range n {
		c := cursorState{name: d.string(limits.MaxCursorNameBytes), lsn: LSN(d.uvarint()), start: d.uvarint(), cap: d.uvarint(),
			setAt: int64(d.uvarint()), evicted: int64(d.uvarint()), hold: d.flags(cursorHold) != 0, rewound: Epoch(d.uvarint())}
		if c.rewound != 0 {
			c.was = LSN(d.uvarint())
		}
		if k := len(l.cursors); k > 0 && l.cursors[k-1].name >= c.name || c.cap == 0 || c.cap > limits.MaxCursorCap || c.start > l.totalBytes ||
			c.lsn >= l.next || c.holds() && c.lsn+1 < l.first || c.rewound > l.epoch || c.rewound != 0 && c.was <= c.lsn {
			d.fail()
		}
		l.cursors = append(l.cursors, c)
	}
	l.measure()
	n = d.uvarint()
	if d.bad || n > limits.MaxProducersPerLog {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	for range n {
		p := &producerState{}
		d.fixed(p.id[:])
		p.active = LSN(d.uvarint())
		last := d.uvarint()
		p.incarnation = d.uvarint()
		p.retired = d.flags(1) != 0
		k := d.uvarint()
		if d.bad || p.incarnation == 0 || k != min(last, limits.ProducerWindow) {
			return nil, fmt.Errorf("log state: %w", ErrBadCommand)
		}
		for i := range k {
			q := last - k + 1 + i
			b := batchState{sequence: q, first: LSN(d.uvarint()), count: d.uvarint32(),
				runSum: d.uint32(), checksum: Checksum(d.uint32()), epoch: Epoch(d.uvarint()), discarded: Epoch(d.uvarint())}
			if b.discarded != 0 {
				b.kept = LSN(d.uvarint())
			}
			switch {
			case b.first != 0:
				p.remember(b)
			case b != (batchState{sequence: q}): // of a batch that was lost no more is kept
				return nil, fmt.Errorf("log state: %w", ErrBadCommand)
			}
		}
		p.pass(last)
		if err := p.decodeParts(d); err != nil {
			return nil, err
		}
		l.producers = append(l.producers, p)
	}
	if !l.sortProducers() {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	n = d.uvarint()
	if d.bad || n > limits.MaxFormerProducers {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	for range n {
		var f formerProducer
		d.fixed(f.id[:])
		f.last = d.uvarint()
		f.incarnation = d.uvarint()
		f.retired = d.flags(1) != 0
		if d.bad || f.incarnation == 0 {
			return nil, fmt.Errorf("log state: %w", ErrBadCommand)
		}
		l.former = append(l.former, f)
	}
	if len(d.buf) > 0 {
		n = d.uvarint()
		if d.bad || n == 0 || n > limits.MaxLostRanges {
			return nil, fmt.Errorf("log state: %w", ErrBadCommand)
		}
		free := l.first // the first LSN that a range may begin with
		for range n {
			r := LSNRange{First: LSN(d.uvarint()), Last: LSN(d.uvarint())}
			if d.bad || r.First < free || r.Last < r.First || r.Last >= l.next {
				return nil, fmt.Errorf("log state: %w", ErrBadCommand)
			}
			free = r.Last + 2 // ranges that touch are one
			l.lost = append(l.lost, r)
		}
	}
	if d.bad || l.number == 0 || l.sealed < 0 || l.first == 0 || l.first > l.next || l.liveBytes > l.totalBytes {
		return nil, fmt.Errorf("log state: %w", ErrBadCommand)
	}
	return l, nil
}

// decodeParts takes the parts of a producer's batches, the rest of which is there.
func (p *producerState) decodeParts(d *decoder) error {
	bad := fmt.Errorf("log state: %w", ErrBadCommand)
	n := d.uvarint()
	if d.bad || n > p.kept()*(limits.MaxBatchLogs-1) {
		return bad
	}
	for range n {
		back := d.uvarint()
		t := partState{sequence: p.last - back, log: d.uvarint(), first: LSN(d.uvarint()), count: d.uvarint32(),
			runSum: d.uint32(), checksum: Checksum(d.uint32()), epoch: Epoch(d.uvarint())}
		if k := len(p.parts); d.bad || back >= p.kept() || t.first == 0 || k > 0 && p.parts[k-1].sequence > t.sequence {
			return bad
		}
		if _, kept := p.recall(t.sequence); !kept || len(p.partsOf(t.sequence)) == limits.MaxBatchLogs-1 {
			return bad
		}
		p.parts = append(p.parts, t)
	}
	return nil
}

// insert puts a decoded log into a state that is being restored.
func (s *State) insert(l *logState) error {
	if s.logs.get(l.number) != nil || s.named(l.name) != nil || l.number >= s.next {
		return fmt.Errorf("log %d %q: %w: twice in a snapshot", l.number, l.name, ErrBadCommand)
	}
	s.put(l)
	s.crowded = s.crowded || l.crowded()
	return nil
}

// info describes a log.
func (l *logState) info() LogInfo {
	info := LogInfo{
		Name: l.name, ID: l.id, Epoch: l.epoch, Holder: l.holder, First: l.first, Next: l.next, Checksum: l.checksum,
		LiveBytes: l.liveBytes, Created: timeOf(l.created), Options: l.options, Lost: l.lost, Rewinds: l.cuts,
	}
	if l.sealed != 0 {
		info.Sealed = timeOf(l.sealed)
	}
	return info
}

// validName reports whether a name is well formed: 1 to limit bytes of letters,
// digits and . _ - / beginning with a letter or digit.
func validName(name string, limit int) bool {
	if name == "" || len(name) > limit {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-/", rune(c))) {
			return false
		}
	}
	return true
}

// validOptions says what is wrong with options, if anything.
func validOptions(o *LogOptions) error {
	switch {
	case o.MaxRecordBytes > limits.MaxRecordSize:
		return fmt.Errorf("%w: max_record_bytes %d is over the limit %d", ErrInvalid, o.MaxRecordBytes, limits.MaxRecordSize)
	case o.RateBytes != 0 && (o.RateBytes < limits.MinLogRate || o.RateBytes > limits.MaxLogRate):
		return fmt.Errorf("%w: rate_bytes %d is not from %d to %d bytes per second; 0 is no bound", ErrInvalid, o.RateBytes, limits.MinLogRate, limits.MaxLogRate)
	case len(o.ColocationKey) > limits.MaxLabelBytes:
		return fmt.Errorf("%w: colocation_key has %d bytes, the limit is %d", ErrInvalid, len(o.ColocationKey), limits.MaxLabelBytes)
	case len(o.Labels) > limits.MaxLabels:
		return fmt.Errorf("%w: %d labels, the limit is %d", ErrInvalid, len(o.Labels), limits.MaxLabels)
	}
	for k, v := range o.Labels {
		if k == "" || len(k) > limits.MaxLabelBytes || len(v) > limits.MaxLabelBytes {
			return fmt.Errorf("%w: label %q: keys are 1 to %d bytes, values at most %d", ErrInvalid, k, limits.MaxLabelBytes, limits.MaxLabelBytes)
		}
	}
	return nil
}
