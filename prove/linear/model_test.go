package linear

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"slices"
	"strconv"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

// A state is what one name stands for: a log, or none. States are never changed
// once they are made; what they share, they share.
type state struct {
	key
	tail        *record // the last record; nil if there never was one
	checkpoints []checkpoint
	producers   []producer
	cursors     []heldCursor // by name
	former      []string     // ids of logs that had the name
	cuts        []cut        // those of its rewinds that say something, as wal.Cut does
}

// A key says all that there is to say of a state, the large parts by a hash.
// States with equal keys are equal.
type key struct {
	exists  bool
	sealed  bool
	id      string // empty until somebody was told
	options options
	// The oldest LSN kept is from low to high. It moves by itself: the service
	// gives up whole segments below the checkpoints, when it likes.
	low, high              uint64
	life                   int    // of the service
	last                   uint64 // LSN
	history                uint64
	checked, known, former uint64
	deleted                uint64 // greatest version of a checkpoint that was
	marked                 uint64 // by cursors
	rewound                uint64 // by rewinds
	created                int64  // when somebody was told that the log was; 0 until then
	committed              int64  // commit time of the last append of which it is known
	epoch                  uint64
	holder, acquired       string // the epoch's writer, and the request that made it that
}

// A record is one of a log, with everything before it.
type record struct {
	before  *record
	lsn     uint64
	data    string
	sum     uint32 // log checksum behind it
	end     uint64 // framed bytes up to its end
	epoch   uint64
	batch   uint64 // LSN of the first record of its batch
	time    int64  // commit time; 0 if it is not known
	history uint64
}

// A producer is one that was opened, with its last batches.
type producer struct {
	id          string
	last        uint64
	window      []batch
	history     uint64
	incarnation uint64
	retired     bool
}

// A batch is what a repeat is answered with.
type batch struct {
	sequence, first, count uint64
	sum, run               uint32
	epoch                  uint64
	discarded              uint64 // the epoch of the rewind that took it, or its end; 0 for none
	kept                   uint64 // the last record that that one kept
}

// A heldCursor is a cursor, with the framed bytes up to its LSN. Lost says that it is
// known to be; one that is over its cap may be, since it is evicted by itself, and so
// may one that was over it before a rewind.
type heldCursor struct {
	cursor
	start uint64
	been  bool // over its cap before a rewind, and not looked at since
}

var (
	seed       = maphash.MakeSeed()
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func hash[T comparable](v T) uint64 { return maphash.Comparable(seed, v) }

// equal reports whether two states are the same.
func (s *state) equal(o *state) bool { return s.key == o.key }

// changed returns a copy to be changed.
func (s *state) changed() *state {
	c := *s
	return &c
}

// settle restores what depends on the rest of a state that was changed.
func (s *state) settle() *state {
	if _, most, held, _ := s.keep(); held {
		s.high = max(s.high, most)
	}
	return s
}

// keep returns the oldest LSN that a checkpoint or cursor may need: the lowest and
// the highest that it can be, since a cursor over its cap may be evicted by now.
// held is false if nobody can need any, certain if somebody does.
func (s *state) keep() (least, most uint64, held, certain bool) {
	var sure, perhaps []uint64
	for _, c := range s.checkpoints {
		sure = append(sure, c.LSN+1)
	}
	for i := range s.cursors {
		switch c := &s.cursors[i]; {
		case c.Lost:
		case s.over(c):
			perhaps = append(perhaps, c.LSN+1)
		default:
			sure = append(sure, c.LSN+1)
		}
	}
	switch all := append(slices.Clip(sure), perhaps...); {
	case len(all) == 0:
		return 0, 0, false, false
	case len(sure) == 0:
		return slices.Min(all), slices.Max(all), true, false
	default:
		return slices.Min(all), slices.Min(sure), true, true
	}
}

// over reports whether a cursor holds more than it may, so that it may be evicted.
func (s *state) over(c *heldCursor) bool { return c.been || s.exceeds(c) }

// exceeds reports whether a cursor holds more than it may right now.
func (s *state) exceeds(c *heldCursor) bool { return !c.Hold && s.total()-c.start > c.Cap }

// narrowed returns the state if its oldest LSN may be from low to high, with
// that known of it.
func (s *state) narrowed(low, high uint64) (*state, bool) {
	low, high = max(low, s.low), min(high, s.high)
	if low > high {
		return nil, false
	}
	if low == s.low && high == s.high {
		return s, true
	}
	c := s.changed()
	c.low, c.high = low, high
	return c.settle(), true
}

// identified returns the state if its log may have an id, with that known of it.
func (s *state) identified(id string) (*state, bool) {
	switch {
	case !s.exists:
		return nil, false
	case id == "" || s.id == id:
		return s, true
	case s.id != "" || slices.Contains(s.former, id):
		return nil, false
	}
	c := s.changed()
	c.id = id
	return c, true
}

// next returns the LSN that the next record gets.
func (s *state) next() uint64 { return s.last + 1 }

// at returns a record, nil if there is none.
func (s *state) at(lsn uint64) *record {
	r := s.tail
	for r != nil && r.lsn > lsn {
		r = r.before
	}
	if r == nil || r.lsn != lsn {
		return nil
	}
	return r
}

// bytes returns how many framed bytes come before an LSN.
func (s *state) bytes(lsn uint64) uint64 {
	if r := s.at(lsn - 1); r != nil {
		return r.end
	}
	return 0
}

// total returns how many framed bytes were ever appended.
func (s *state) total() uint64 {
	if s.tail == nil {
		return 0
	}
	return s.tail.end
}

// sum returns the log checksum behind the last record.
func (s *state) sum() uint32 {
	if s.tail == nil {
		return 0
	}
	return s.tail.sum
}

// holds reports whether data are the records from first on.
func (s *state) holds(first uint64, data []string) bool {
	if len(data) == 0 {
		return true
	}
	r := s.at(first + uint64(len(data)) - 1)
	for _, d := range slices.Backward(data) {
		if r == nil || r.data != d {
			return false
		}
		r = r.before
	}
	return true
}

// frame spells records as the service frames and sums them.
func frame(data []string) []byte {
	var run []byte
	for _, d := range data {
		run = records.Append(run, []byte(d))
	}
	return run
}

// appended returns the state with records added, which were committed at a time.
func (s *state) appended(data []string, at int64) *state {
	c := s.changed()
	c.committed = max(s.committed, at)
	for _, d := range data {
		run := frame([]string{d})
		c.tail = &record{
			before: c.tail, lsn: c.next(), data: d, end: c.total() + uint64(len(run)), epoch: s.epoch, batch: s.next(), time: at,
			sum: crc32.Update(c.sum(), castagnoli, run), history: hash(struct {
				before, epoch, batch uint64
				data                 string
			}{c.history, s.epoch, s.next(), d}),
		}
		c.last, c.history = c.tail.lsn, c.tail.history
	}
	return c.settle() // a cursor may be over its cap by now
}

// producer returns an open producer, nil if there is none of that id.
func (s *state) producer(id string) *producer {
	for i := range s.producers {
		if s.producers[i].id == id {
			return &s.producers[i]
		}
	}
	return nil
}

// remembering returns the state with a producer as it is now.
func (s *state) remembering(p producer) *state {
	c := s.changed()
	c.producers = slices.DeleteFunc(slices.Clone(s.producers), func(o producer) bool { return o.id == p.id })
	c.producers = append(c.producers, p)
	c.known = 0
	for _, p := range c.producers {
		c.known += hash(struct {
			id                   string
			history, incarnation uint64
			retired              bool
		}{p.id, p.history, p.incarnation, p.retired})
	}
	return c
}

// find returns a checkpoint, nil if there is none of that name.
func (s *state) find(name string) *checkpoint {
	for i := range s.checkpoints {
		if s.checkpoints[i].Name == name {
			return &s.checkpoints[i]
		}
	}
	return nil
}

// checkpointed returns the state with a checkpoint in place of one of its name.
func (s *state) checkpointed(cp checkpoint) *state {
	c := s.without(cp.Name)
	i, _ := slices.BinarySearchFunc(c.checkpoints, cp, func(a, b checkpoint) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	c.checkpoints = slices.Insert(c.checkpoints, i, cp)
	c.checked += hash(cp)
	return c.settle()
}

// without returns the state without a checkpoint of that name.
func (s *state) without(name string) *state {
	c := s.changed()
	c.checkpoints, c.checked = nil, 0
	for _, cp := range s.checkpoints {
		if cp.Name != name {
			c.checkpoints = append(c.checkpoints, cp)
			c.checked += hash(cp)
		}
	}
	return c
}

// String describes the state for people.
func (s *state) String() string {
	if !s.exists {
		return "no log"
	}
	text := fmt.Sprintf("log %.8s [%d..%d, %d)", s.id, s.low, s.high, s.next())
	for _, cp := range s.checkpoints {
		text += fmt.Sprintf(" %s@%d v%d", cp.Name, cp.LSN, cp.Version)
	}
	text += fmt.Sprintf(" epoch %d of %q", s.epoch, s.holder)
	for i := range s.cursors {
		c := &s.cursors[i]
		text += fmt.Sprintf(" %s@%d holds %d of %d, hold: %t, lost: %t", c.Name, c.LSN, s.total()-c.start, c.Cap, c.Hold, c.Lost)
	}
	return text
}

// The reasons of refusals that the model knows. Everything else the service may
// say is wrong in every state.
const (
	logNotFound         = "LOG_NOT_FOUND"
	logExists           = "LOG_EXISTS"
	noProducer          = "NO_PRODUCER"
	fenced              = "FENCED"
	sealed              = "SEALED"
	superseded          = "SUPERSEDED"
	retired             = "PRODUCER_RETIRED"
	rateQuota           = "RATE_QUOTA"
	cursorNotFound      = "CURSOR_NOT_FOUND"
	cursorBackwards     = "CURSOR_BACKWARDS"
	cursorConflict      = "CURSOR_CONFLICT"
	cursorLost          = "CURSOR_LOST"
	invalid             = "INVALID"
	sequenceReuse       = "SEQUENCE_REUSE"
	sequenceGap         = "SEQUENCE_GAP"
	afterRefusal        = "AFTER_REFUSAL"
	emptyBatch          = "EMPTY_BATCH"
	tooLarge            = "TOO_LARGE"
	lsnMismatch         = "LSN_MISMATCH"
	quota               = "QUOTA"
	lsnAhead            = "LSN_AHEAD"
	lsnTruncated        = "LSN_TRUNCATED"
	held                = "HELD"
	checkpointNotFound  = "CHECKPOINT_NOT_FOUND"
	checkpointConflict  = "CHECKPOINT_CONFLICT"
	checkpointBackwards = "CHECKPOINT_BACKWARDS"
	rewound             = "REWOUND"
	discarded           = "DISCARDED"
	tooManyRewinds      = "TOO_MANY_REWINDS"
)

// step returns the state that follows when an operation was done and answered at
// one instant, and false if the answer is wrong.
//
// An operation that was not answered is done where its place in the order is if
// that is in a life of the service that it may have reached; behind the crash that
// ended the last such life it is nothing, and behind the epoch that it states. So
// whatever became of it has a place, and one in which it changes nothing is not tried
// before.
func (s *state) step(in *input, out *output) (*state, bool) {
	switch {
	case in.Kind == crash:
		c := s.changed()
		c.life = in.Life
		return c, true
	case out.Unknown && s.life > in.Life:
		return s, true
	case out.Unknown && !out.Kept:
		if epoch, states := in.states(); states && s.epoch > epoch { // it is fenced, or a repeat
			return s, true
		}
	}
	n, ok := s.apply(in, out)
	if out.Kept { // it was written, and then nothing of that was lost
		if !ok {
			n = s // it was refused, which nobody heard
		}
		return n, true
	}
	if ok && out.Unknown && n.equal(s) {
		return nil, false
	}
	return n, ok
}

// apply is step for operations that are done.
func (s *state) apply(in *input, out *output) (*state, bool) {
	switch {
	case !s.exists && in.Kind == deleteLog && in.ID != "": // it has been deleted, by whomever
		return s, out.succeeded()
	case in.Kind == resolveBatch && in.Sequence == 0: // whatever the log is
		return s, out.Reason == invalid
	case in.Kind == verifyReceipt:
		return s.stepVerify(in, out)
	case !s.exists && in.Kind != createLog:
		return s, out.Reason == logNotFound
	}
	switch in.Kind {
	case appendRecords:
		return s.stepAppend(in, out)
	case openProducer:
		return s.stepOpenProducer(in, out)
	case bindLog:
		return s.stepBind(in, out)
	case getLog:
		if !out.succeeded() {
			return nil, false
		}
		return s.sees(out.Info)
	case createLog:
		return s.stepCreate(in, out)
	case deleteLog:
		return s.stepDelete(in, out)
	case sealLog:
		return s.stepSeal(out)
	case truncateLog:
		return s.stepTruncate(in, out)
	case rewindLog:
		return s.stepRewind(in, out)
	case readRecords:
		return s.stepRead(in, out)
	case seeRecords:
		return s, s.holds(out.First, out.Records)
	case beginCheckpoint:
		return s, s.begins(in, out)
	case stood:
		return s, s.epoch < in.Epoch && s.last >= in.LSN
	case seeDurable:
		switch c := s.since(in.Epoch); {
		case in.Epoch == 0 && out.Reason == rewound: // it waited
			return s, s.heard(out, in.LSN)
		case in.Epoch != 0 && c != nil && in.LSN > c.kept:
			return s, s.tells(out, c, in.LSN)
		case in.Epoch != 0 && in.Epoch != s.epoch:
			return s, refused(out, fenced, s.current())
		}
		if s.sealed && in.LSN > s.last {
			return s, refused(out, sealed, map[string]uint64{"next_lsn": s.next()})
		}
		return s, out.succeeded() && in.LSN <= out.LSN && (out.LSN == s.last || !out.Complete && out.LSN < s.last)
	case setCheckpoint:
		return s.stepSetCheckpoint(in, out)
	case getCheckpoint:
		cp := s.find(in.Name)
		return s, cp == nil && out.Reason == checkpointNotFound || cp != nil && out.succeeded() && *cp == out.Checkpoints[0]
	case listCheckpoints:
		return s, out.succeeded() && slices.EqualFunc(s.checkpoints, out.Checkpoints, func(a, b checkpoint) bool {
			a.State = ""
			return a == b
		})
	case deleteCheckpoint:
		return s.stepDeleteCheckpoint(in, out)
	case acquireWriter:
		return s.stepAcquire(in, out)
	case releaseWriter:
		return s.stepRelease(in, out)
	case resolveBatch:
		return s.stepResolve(in, out)
	case retireProducer:
		return s.stepRetire(in, out)
	case setCursor:
		return s.stepSetCursor(in, out)
	case getCursor:
		return s.stepGetCursor(in, out)
	case listCursors:
		return s.stepListCursors(out)
	case deleteCursor:
		return s.stepDeleteCursor(in, out)
	}
	panic("no such kind: " + in.Kind)
}

// refused reports whether out is a refusal with that reason and, if told, those
// figures.
func refused(out *output, reason string, figures map[string]uint64) bool {
	if out.Reason != reason {
		return false
	}
	for name, want := range figures {
		if got, told := out.Figures[name]; told && got != strconv.FormatUint(want, 10) {
			return false
		}
	}
	return true
}

// stepAppend: what a producer sent before comes first, then the batch as such,
// then what depends on the log.
func (s *state) stepAppend(in *input, out *output) (*state, bool) {
	refuse := func(reason string, figures map[string]uint64) (*state, bool) {
		return s, refused(out, reason, figures)
	}
	if in.ID != "" && in.ID != s.id { // bound to a log that is gone, with another one in its place
		return refuse(logNotFound, nil)
	}
	p := s.producer(in.Producer)
	run := frame(in.Records)
	own := batch{sequence: in.Sequence, first: s.next(), count: uint64(len(in.Records)), run: crc32.Checksum(run, castagnoli), epoch: s.epoch}
	if in.Producer != "" {
		switch {
		case p == nil:
			return refuse(noProducer, nil)
		case p.retired && !in.Stream: // which is looked at first, as when a stream is bound
			return refuse(retired, nil)
		case p.incarnation != max(1, in.Incarnation), in.Rebound && out.Reason == superseded:
			return refuse(superseded, nil)
		case in.Sequence == 0:
			return refuse(invalid, nil)
		case in.Sequence <= p.last:
			return s.stepRepeat(p, &own, out)
		case in.After:
			return refuse(afterRefusal, nil)
		case p.retired:
			return refuse(retired, nil)
		case in.Sequence != p.last+1:
			return refuse(sequenceGap, map[string]uint64{"want_sequence": p.last + 1})
		case s.sealed:
			return refuse(sealed, map[string]uint64{"next_lsn": s.next()})
		case s.fences(in.Epoch):
			return refuse(fenced, s.current())
		}
	} else if s.sealed && in.Sequence == 0 && !in.After {
		return refuse(sealed, map[string]uint64{"next_lsn": s.next()})
	} else if s.fences(in.Epoch) && in.Sequence == 0 && !in.After {
		return refuse(fenced, s.current())
	} else if in.Sequence != 0 {
		return refuse(invalid, nil)
	}
	switch {
	case in.After:
		return refuse(afterRefusal, nil)
	case in.Told == 0 && out.Reason == rewound: // a call binds its log, too
		i := slices.IndexFunc(s.cuts, func(c cut) bool { return c.epoch == told(out, "epoch") })
		return s, i >= 0 && s.tells(out, &s.cuts[i], s.cuts[i].next-1)
	case in.Told != 0:
		if c := s.since(in.Told); c != nil {
			return s, s.tells(out, c, c.next-1)
		}
	}
	large := func(r string) bool { return s.options.MaxRecord != 0 && uint64(len(r)) > s.options.MaxRecord }
	switch {
	case len(in.Records) == 0:
		return refuse(emptyBatch, nil)
	case slices.ContainsFunc(in.Records, large):
		return refuse(tooLarge, nil)
	case in.Expected != 0 && in.Expected != s.next():
		return refuse(lsnMismatch, map[string]uint64{"next_lsn": s.next()})
	}
	if s.options.Quota != 0 {
		// How much is kept depends on what was given up meanwhile.
		fits := s.low
		for fits <= s.high && s.total()-s.bytes(fits)+uint64(len(run)) > s.options.Quota {
			fits++
		}
		if out.Reason == quota {
			return s.narrowed(s.low, fits-1)
		}
		var ok bool
		if s, ok = s.narrowed(fits, s.high); !ok {
			return nil, false
		}
	}
	if out.Reason == rateQuota && s.options.Rate != 0 { // when, is the clock's affair
		return s, true
	}
	if out.Reason != "" || out.Epoch != 0 && out.Epoch != s.epoch {
		return nil, false
	}
	at := cmp.Or(out.Committed, in.Time)
	if at != 0 && at < s.committed {
		return nil, false // commit times do not fall
	}
	n := s.appended(in.Records, at)
	own.sum = n.sum()
	if p != nil {
		window := append(slices.Clone(p.window[max(0, len(p.window)+1-limits.ProducerWindow):]), own)
		n = n.remembering(producer{id: p.id, last: in.Sequence, window: window, incarnation: p.incarnation, retired: p.retired, history: hash(struct {
			before uint64
			batch
		}{p.history, own})})
	}
	if out.Unknown {
		return n, out.First == 0 || out.First == own.first
	}
	if out.Repeated || out.First != own.first || out.Count != own.count || out.Sum != nil && out.Through == n.last && *out.Sum != own.sum {
		return nil, false
	}
	return n.identified(out.ID)
}

// stepRepeat: the answer of the first time, whatever would be said now.
func (s *state) stepRepeat(p *producer, own *batch, out *output) (*state, bool) {
	i := slices.IndexFunc(p.window, func(b batch) bool { return b.sequence == own.sequence })
	switch {
	case out.Unknown:
		return s, true
	case i < 0:
		return s, out.succeeded() && out.Repeated && out.First == 0
	case p.window[i].run != own.run || p.window[i].count != own.count:
		return s, out.Reason == sequenceReuse
	}
	was := p.window[i]
	if was.discarded != 0 {
		return s, refused(out, discarded, map[string]uint64{"first_lsn": was.first, "count": was.count, "epoch": was.discarded, "kept_lsn": was.kept})
	}
	ok := out.succeeded() && out.Repeated && out.First == was.first && out.Count == was.count && (out.Sum == nil || *out.Sum == was.sum) && (out.Epoch == 0 || out.Epoch == was.epoch)
	if !ok {
		return nil, false
	}
	return s.identified(out.ID)
}

func (s *state) stepOpenProducer(in *input, out *output) (*state, bool) {
	p := s.producer(in.Producer)
	if p == nil {
		if s.sealed {
			return s, out.Reason == sealed
		}
		p = &producer{id: in.Producer, incarnation: 1}
		s = s.remembering(*p)
	}
	if p.retired {
		return s, out.Reason == retired
	}
	return s, out.Unknown || out.succeeded() && out.Last == p.last && (out.Incarnation == 0 || out.Incarnation == p.incarnation)
}

// stepBind: a look at the log and the producer. The epoch and the seal are each batch's
// affair.
func (s *state) stepBind(in *input, out *output) (*state, bool) {
	p := s.producer(in.Producer)
	switch {
	case in.Producer != "" && p == nil:
		return s, out.Reason == noProducer
	case in.Producer != "" && p.retired:
		return s, out.Reason == retired
	case in.Producer != "" && p.incarnation != max(1, in.Incarnation):
		return s, out.Reason == superseded
	case !out.succeeded():
		return nil, false
	case p != nil && out.Last != p.last || p == nil && out.Last != 0:
		return nil, false
	}
	return s.sees(out.Info)
}

// sees returns the state if a log looks like that, with what is known of it now.
func (s *state) sees(i *info) (*state, bool) {
	if !s.exists || i.Epoch != s.epoch || i.Holder != s.holder || i.Next != s.next() || i.Sum != s.sum() || i.Options != s.options || i.Sealed != s.sealed {
		return nil, false
	}
	n, ok := s.identified(i.ID)
	if ok && i.Created != 0 {
		if s.created != 0 && s.created != i.Created {
			return nil, false
		}
		n = n.changed()
		n.created = i.Created
	}
	if ok {
		n, ok = n.narrowed(i.First, i.First)
	}
	return n, ok && i.Live == n.total()-n.bytes(i.First)
}

func (s *state) stepCreate(in *input, out *output) (*state, bool) {
	if s.exists {
		if s.options != in.Options {
			return s, out.Reason == logExists
		}
		if !out.succeeded() || out.Created {
			return nil, false
		}
		return s.sees(out.Info)
	}
	n := s.changed()
	*n = state{key: key{exists: true, epoch: 1, options: in.Options, low: 1, high: 1, life: s.life, former: s.key.former}, former: s.former}
	switch {
	case out.Unknown:
		return n, true
	case !out.succeeded() || !out.Created:
		return nil, false
	}
	return n.sees(out.Info)
}

func (s *state) stepDelete(in *input, out *output) (*state, bool) {
	// NB: an id that nobody was told of is not one that a client can name.
	if in.ID != "" && in.ID != s.id {
		return s, out.succeeded()
	}
	n := &state{former: s.former, key: key{life: s.life, former: s.key.former}}
	if s.id != "" {
		n.former = append(slices.Clip(s.former), s.id)
		n.key.former = hash(struct {
			before uint64
			id     string
		}{s.key.former, s.id})
	}
	return n, out.Unknown || out.succeeded()
}

// stepSeal: a log that is sealed stays as it is.
func (s *state) stepSeal(out *output) (*state, bool) {
	n := s
	if !s.sealed {
		n = s.changed()
		n.sealed = true
	}
	switch {
	case out.Unknown:
		return n, true
	case !out.succeeded():
		return nil, false
	}
	return n.sees(out.Info)
}

func (s *state) stepTruncate(in *input, out *output) (*state, bool) {
	switch {
	case in.LSN > s.next():
		return s, refused(out, lsnAhead, map[string]uint64{"next_lsn": s.next()})
	case out.Reason == held:
		least, _, some, _ := s.keep()
		return s, some && in.LSN > least
	}
	n := s.changed()
	n.low, n.high = max(s.low, in.LSN), max(s.high, in.LSN)
	if _, most, _, certain := s.keep(); certain && in.LSN > most {
		return nil, false
	}
	n = n.evictedBelow(in.LSN)
	n = n.settle()
	switch {
	case out.Unknown:
		return n, true
	case !out.succeeded():
		return nil, false
	}
	return n.sees(out.Info)
}

func (s *state) stepRead(in *input, out *output) (*state, bool) {
	from := in.LSN
	switch {
	case in.Since != 0 || in.Until != 0:
		return s.stepReadBetween(in, out)
	case out.Reason == rewound: // while it read
		return s, s.heard(out, 0)
	case from > s.next():
		if !refused(out, lsnAhead, map[string]uint64{"next_lsn": s.next()}) {
			return nil, false
		}
		return s.told(out)
	case out.Reason == lsnTruncated:
		n, ok := s.narrowed(from+1, s.high)
		if !ok {
			return nil, false
		}
		return n.told(out)
	case !out.succeeded():
		return nil, false
	}
	var n *state
	var ok bool
	if from == 0 {
		if from = s.next(); len(out.Records) > 0 {
			from = out.First
		}
		n, ok = s.narrowed(from, from)
	} else {
		n, ok = s.narrowed(s.low, from)
	}
	if !ok || len(out.Records) > 0 && out.First != from || !s.holds(from, out.Records) {
		return nil, false
	}
	end := from + uint64(len(out.Records))
	if out.Complete || len(out.Records) == 0 {
		return n, end == s.next()
	}
	return n, end <= s.next()
}

// told returns the state if its oldest LSN may be what a refusal says.
func (s *state) told(out *output) (*state, bool) {
	text, ok := out.Figures["first_lsn"]
	if !ok {
		return s, true
	}
	first, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, false
	}
	return s.narrowed(first, first)
}

// behind returns the version behind which a checkpoint's next one comes: its own, and
// where there is none the greatest of those that were deleted.
func (s *state) behind(name string) uint64 {
	if cp := s.find(name); cp != nil {
		return cp.Version
	}
	return s.deleted
}

func (s *state) stepSetCheckpoint(in *input, out *output) (*state, bool) {
	var was checkpoint
	if cp := s.find(in.Name); cp != nil {
		was = *cp
	}
	expected := was.Version
	if in.Begun {
		expected = s.behind(in.Name)
	}
	switch {
	case in.Epoch != 0 && in.Epoch != s.epoch:
		return s, out.Reason == fenced
	case in.Epoch == 0 && out.Reason == rewound: // while it was on its way
		return s, s.heard(out, in.LSN)
	case in.LSN > s.last:
		return s, refused(out, lsnAhead, map[string]uint64{"next_lsn": s.next()})
	case in.Version != nil && *in.Version != expected:
		return s, refused(out, checkpointConflict, map[string]uint64{"version": was.Version})
	case in.LSN < was.LSN:
		return s, out.Reason == checkpointBackwards
	case out.Reason == lsnTruncated:
		n, ok := s.narrowed(in.LSN+2, s.high)
		if !ok {
			return nil, false
		}
		return n.told(out)
	}
	n, ok := s.narrowed(s.low, in.LSN+1)
	if !ok {
		return nil, false
	}
	cp := checkpoint{Name: in.Name, LSN: in.LSN, Version: s.behind(in.Name) + 1, State: in.State, Size: uint64(len(in.State))}
	n = n.checkpointed(cp)
	if out.Unknown {
		return n, true
	}
	cp.State = ""
	return n, out.succeeded() && out.Checkpoints[0] == cp
}

// begins reports whether a checkpoint can be begun at an LSN, of the version that it has
// then, if that was found out: the log is durable up to there.
func (s *state) begins(in *input, out *output) bool {
	var was checkpoint
	if cp := s.find(in.Name); cp != nil {
		was = *cp
	}
	if was.LSN > in.LSN {
		return out.Reason == checkpointBackwards
	}
	return out.succeeded() && in.LSN <= s.last && (in.Version == nil || *in.Version == s.behind(in.Name))
}

func (s *state) stepDeleteCheckpoint(in *input, out *output) (*state, bool) {
	cp := s.find(in.Name)
	switch {
	case cp == nil:
		return s, out.Reason == checkpointNotFound
	case in.Version != nil && *in.Version != cp.Version:
		return s, refused(out, checkpointConflict, map[string]uint64{"version": cp.Version})
	}
	n := s.without(in.Name)
	n.deleted = max(n.deleted, cp.Version)
	return n.settle(), out.Unknown || out.succeeded()
}
