package wal

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

var (
	crashSeed   = flag.Uint64("crash.seed", 1, "seed of the crash test's first round; each round says its own")
	crashStates = flag.Int("crash.states", crashEnough, "power cuts to reopen, at least; with fewer than the default, nothing has to come up")
	crashOnly   = flag.String("crash.shape", "", "only rounds of the shape of this name; then nothing has to come up")
)

// crashEnough is how many power cuts it takes for everything to come up that has to.
const crashEnough = 5000

// A crashShape is a kind of volume that workloads run on.
type crashShape struct {
	name          string
	segmentSize   int64
	snapshotEvery int64
	codec         string
	record        int   // bytes of the larger records
	batches       int   // that ride together, at most
	steps         int   // of a life, at least; at most twice as many
	labels        int   // bytes of labels on each log: they make snapshots large
	capacity      int64 // of the disk; 0 for no limit
	fail          bool  // a sync fails in each life
}

var crashShapes = []crashShape{
	{name: "small", segmentSize: limits.MinSegmentSize, snapshotEvery: 16 << 10, codec: "none", record: 6 << 10, batches: 4, steps: 16},
	{name: "large snapshots", segmentSize: limits.MinSegmentSize, snapshotEvery: 48 << 10, codec: "none", record: 2 << 10, batches: 3, steps: 8, labels: 7 << 10},
	{name: "failing syncs", segmentSize: limits.MinSegmentSize, snapshotEvery: 16 << 10, codec: "s2", record: 6 << 10, batches: 4, steps: 12, fail: true},
	// Smaller segments do not keep enough dead space for opening to give up.
	{name: "full disk", segmentSize: 1 << 20, snapshotEvery: 256 << 10, codec: "none", record: 55 << 10, batches: 6, steps: 14, capacity: 4<<20 + 64<<10},
	{name: "large frames", segmentSize: 4 * limits.MinSegmentSize, snapshotEvery: 64 << 10, codec: "s2", record: 20 << 10, batches: 12, steps: 24},
	{name: "large segments", segmentSize: 1 << 20, snapshotEvery: 128 << 10, codec: "zstd", record: 30 << 10, batches: 20, steps: 14},
}

// What has to come up in a run of the crash test, or it has proven too little.
// Cases of the tail rule are counted by their names.
const (
	sawRoll           = "a roll"
	sawRecycle        = "a recycled segment"
	sawSnapshot       = "a snapshot written"
	sawFromSnapshot   = "an opening from a snapshot"
	sawHalfSnapshot   = "an incomplete snapshot passed over"
	sawCarried        = "a checkpoint carried forward"
	sawMoved          = "records moved forward"
	sawRewritten      = "frames rewritten"
	sawDiscarded      = "bytes discarded"
	sawSecond         = "a second crash, during recovery"
	sawThird          = "a third crash, during recovery"
	sawServedAndCut   = "a crash of a volume that had recovered"
	sawFailedSync     = "a failed sync"
	sawFailedOpening  = "a failed sync during recovery"
	sawDroppedPages   = "a restart that read what the disk had dropped"
	sawFull           = "an append refused for space"
	sawRepeat         = "a repeat answered with the first LSN"
	sawRetryLanded    = "a retry of what was lost"
	sawCutOff         = "an unacknowledged batch lost"
	sawUnackedKept    = "an unacknowledged batch kept"
	sawTruncatedByJan = "records given up by the janitor"
	sawAcquired       = "a writer acquired"
	sawReleased       = "a writer released"
	sawFenced         = "an append of an older epoch refused"
	sawEpochCutOff    = "an unacknowledged epoch lost"
	sawEpochKept      = "an unacknowledged epoch kept"
	sawCursorHolds    = "a cursor below every checkpoint"
	sawEvicted        = "a cursor evicted"
	sawSealed         = "a log sealed"
	sawEnded          = "an append to a sealed log refused"
	sawResolved       = "a batch resolved"
	sawSuperseded     = "an append of an older incarnation refused"
	sawRetired        = "a producer retired"
	sawWhole          = "a batch over several logs acknowledged"
	sawWholeKept      = "an unacknowledged batch over several logs kept"
	sawWholeCutOff    = "an unacknowledged batch over several logs lost"
	sawWholeRepeat    = "a repeat of a batch over several logs"
	sawRewound        = "a log rewound"
	sawRewindKept     = "an unacknowledged rewind kept"
	sawRewindCutOff   = "an unacknowledged rewind lost"
	sawRewindRepeat   = "a rewind asked for again"
	sawRewindHeld     = "a rewind behind a checkpoint refused"
	sawRewoundCopies  = "a log rewound whose records were moved"
	sawBehindRewind   = "an append behind a rewind refused"
	sawTaken          = "an acknowledged batch discarded by a rewind"
	sawTakenInPart    = "an acknowledged batch discarded in part"
	sawTakenRepeat    = "a repeat of a discarded batch"
	sawTakenResolved  = "a discarded batch resolved"
	sawTakenBack      = "a cursor taken back"
	sawOverRate       = "an append over a log's rate refused"
	sawOverQuota      = "an append over a log's quota refused"
	sawRateAgain      = "a log's rate found again, and nothing spent of it"
	sawQuotaAgain     = "a log's quota found again, and as much of it used"
)

var crashMustSee = []string{
	sawRoll, sawRecycle, sawSnapshot, sawFromSnapshot, sawHalfSnapshot, sawCarried, sawMoved, sawRewritten, sawDiscarded,
	sawSecond, sawThird, sawServedAndCut, sawFailedSync, sawFailedOpening, sawDroppedPages, sawFull, sawRepeat, sawRetryLanded,
	sawCutOff, sawUnackedKept, sawTruncatedByJan, sawAcquired, sawReleased, sawFenced, sawEpochCutOff, sawEpochKept,
	sawCursorHolds, sawEvicted, sawSealed, sawEnded,
	sawResolved, sawSuperseded, sawRetired,
	sawWhole, sawWholeKept, sawWholeCutOff, sawWholeRepeat,
	sawRewound, sawRewindKept, sawRewindCutOff, sawRewindRepeat, sawRewindHeld, sawRewoundCopies, sawBehindRewind,
	sawTaken, sawTakenInPart, sawTakenRepeat, sawTakenResolved, sawTakenBack,
	sawOverRate, sawOverQuota, sawRateAgain, sawQuotaAgain,
}

// crashCases says of every case of the tail rule whether a crash leads to it:
// "" if it does, and then it must, else why not.
var crashCases = map[replay.Case]string{
	replay.CaseEmpty:                "",
	replay.CaseClean:                "",
	replay.CaseUnpromised:           "",
	replay.CaseTornDirectory:        "",
	replay.CaseTornBlock:            "",
	replay.CaseTornRoll:             "",
	replay.CaseTornHeader:           "a header is 128 bytes within one sector, which is written or not: transcripts under replay/testdata tear it",
	replay.CaseOrphans:              "a volume has one frame in flight: replay.TestCrashLoop has several",
	replay.CaseDamagedHeader:        "a frame is promised only after its sync has returned",
	replay.CaseDamagedDirectory:     "a frame is promised only after its sync has returned",
	replay.CaseDamagedBlock:         "a frame is promised only after its sync has returned",
	replay.CaseDamagedSeal:          "a segment takes its first frame only after the seal before it is durable",
	replay.CaseDamagedSnapshot:      "a header records a snapshot only after its last part is durable",
	replay.CaseDamagedSegmentHeader: "a segment's header is durable before the file gets its name",
	replay.CaseShortPredecessor:     "a segment takes its first frame only after the seal before it is durable",
	replay.CaseSealedLast:           "a seal is written only after the successor has its name durably",
	replay.CaseCutShort:             "the note of dead space is durable before the file is cut",
	replay.CaseMissingSegment:       "segments are released oldest first, each durably",
	replay.CaseNoSnapshot:           "segments are released only below the older of two recorded snapshots",
}

// TestCrashCasesAreAllNamed: no case of the tail rule goes without a word on
// whether a crash leads to it.
func TestCrashCasesAreAllNamed(t *testing.T) {
	for _, r := range replay.Rules() {
		if why, ok := crashCases[r.Case]; !ok || why == "" && r.Verdict == replay.VerdictDamaged {
			t.Errorf("case %s (%s): %q, %t", r.Case, r.Verdict, why, ok)
		}
	}
	if len(crashCases) != len(replay.Rules()) {
		t.Errorf("%d cases, the tail rule has %d", len(crashCases), len(replay.Rules()))
	}
}

// TestCrash runs random workloads on volumes of several shapes, cuts the power
// after every operation that changes the disk, reopens what is left of it, and
// compares that with what clients had heard. Of some it cuts the power again
// while they recover and when they have, and of some of these a third time.
//
// A round is one seed: the same seed asks the same and loses the same again, only
// that what goroutines do side by side may come in another order. Rounds go on until
// -crash.states power cuts were reopened, each shape has had its turn, and
// everything of crashMustSee has come up; what has not after four turns each is a
// failure.
func TestCrash(t *testing.T) {
	// Its machinery must not belong to one round's bubble.
	if _, err := codec.Zstd.Open(nil, codec.Zstd.Compress(nil, []byte("warm")), 4); err != nil {
		t.Fatal(err)
	}
	run := &crashRun{t: t, seen: map[string]int{}, began: time.Now()}
	run.told = run.began
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(run.work)
	}
	workers.Wait()
	run.report("in all")
	if !mustSeeAll() {
		return
	}
	for _, what := range run.missing() {
		t.Errorf("never came to %s", what)
	}
}

// A crashRun is all rounds of the test.
type crashRun struct {
	t     *testing.T
	began time.Time
	begun atomic.Uint64 // rounds

	mu     sync.Mutex
	rounds int // finished
	states int
	seen   map[string]int
	told   time.Time
}

// work runs rounds until there were enough.
func (c *crashRun) work() {
	for {
		n := c.begun.Add(1) - 1
		if c.enough(n) || c.t.Failed() {
			return
		}
		seed := *crashSeed + n
		shape := crashShapes[seed%uint64(len(crashShapes))]
		if *crashOnly != "" && shape.name != *crashOnly {
			continue
		}
		c.t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := &crashRound{seed: seed, shape: shape, seen: map[string]int{}}
			synctest.Test(t, func(t *testing.T) {
				r.t = t
				r.run()
			})
			c.add(r)
		})
	}
}

// enough reports whether n rounds were.
func (c *crashRun) enough(n uint64) bool {
	c.mu.Lock()
	states := c.states
	c.mu.Unlock()
	shapes := uint64(len(crashShapes))
	return states >= *crashStates && (!mustSeeAll() || n >= shapes && (len(c.missing()) == 0 || n >= 4*shapes))
}

// mustSeeAll reports whether the run is long enough for what has to come up.
func mustSeeAll() bool { return *crashStates >= crashEnough && *crashOnly == "" }

func (c *crashRun) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	must := slices.Clone(crashMustSee)
	for name, why := range crashCases {
		if why == "" {
			must = append(must, string(name))
		}
	}
	return slices.DeleteFunc(must, func(what string) bool { return c.seen[what] > 0 })
}

func (c *crashRun) add(r *crashRound) {
	c.mu.Lock()
	c.rounds++
	c.states += r.states
	for what, n := range r.seen {
		c.seen[what] += n
	}
	tell := time.Since(c.told) > 10*time.Second
	if tell {
		c.told = time.Now()
	}
	c.mu.Unlock()
	if tell {
		c.report("so far")
	}
}

func (c *crashRun) report(when string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := time.Since(c.began)
	c.t.Logf("%s: %d crash states in %d rounds from seed %d, %.0f states/s", when, c.states, c.rounds, *crashSeed, float64(c.states)/took.Seconds())
	if when == "in all" {
		for _, what := range slices.Sorted(maps.Keys(c.seen)) {
			c.t.Logf("%8d  %s", c.seen[what], what)
		}
	}
}

// A crashRound is the life of one volume, with all its power cuts.
type crashRound struct {
	t      *testing.T
	seed   uint64
	shape  crashShape
	states int
	seen   map[string]int
	batch  int // names of batches, which never come twice
}

// lives is how often the volume of a round is opened, apart from power cuts
// that lead nowhere.
const crashLives = 3

// crashDepth is how many power cuts come one after the other at most.
const crashDepth = 3

func (r *crashRound) run() {
	mem := disk.NewMem()
	mem.SetCapacity(r.shape.capacity)
	want := &crashWant{base: &crashShown{logs: map[string]*shownLog{}}, life: &crashLife{}}
	for n := range crashLives {
		l := r.begin(mem, want, r.seed*100+uint64(n), 0)
		l.recording = true
		l.live(r.shape.steps + l.rng.IntN(r.shape.steps))
		// The volume goes on from one of the power cuts, or, if a sync failed,
		// from what the page cache makes it believe.
		next := l.cuts[len(l.cuts)/2+l.rng.IntN(len(l.cuts)-len(l.cuts)/2)]
		again := next.mem.CrashClone(nil, 1)
		r.explore(l.cuts)
		mem, want = again, next.want
		if l.hasFailed() {
			mem = l.mem
			want, _ = l.wantNow()
		}
	}
}

// explore opens what each power cut of a life left, and has one of the volumes go
// on, with power cuts of its own.
func (r *crashRound) explore(cuts []crashCut) {
	if len(cuts) == 0 {
		return
	}
	rng := rand.New(rand.NewPCG(cuts[0].seed, 2))
	further := rng.IntN(len(cuts))
	for i, c := range cuts {
		cuts[i] = crashCut{} // its disk goes when it has been looked at
		r.states++
		switch {
		case c.depth == 1:
		case c.served:
			r.seen[sawServedAndCut]++
		case c.depth == 2:
			r.seen[sawSecond]++
		default:
			r.seen[sawThird]++
		}
		l := r.begin(c.mem, c.want, c.seed, c.depth)
		l.path = c.path
		steps := 0
		if l.recording = i == further && c.depth < crashDepth; l.recording {
			steps = 2 + l.rng.IntN(4)
		}
		l.live(steps)
		r.explore(l.cuts)
	}
}

// A crashOp is something a client asked of a volume.
type crashOp struct {
	kind    crashKind
	log     string
	id      int      // of an append: the name of its batch, in every record
	records []string // of an append
	// sequence is the producer's; 0 for an append without one.
	sequence uint64
	epoch    Epoch  // that an append states, or that begins with a writer or a rewind
	holder   string // of a writer; empty when one is released
	after    LSN    // of a rewind: the last record it keeps
	request  ulid.ULID
	options  LogOptions // of a creation
	// incarnation is the producer's that an append states, or that begins when it is
	// resolved.
	incarnation uint64
	// whole are all appends of one batch over several logs, the lead's first; nil for
	// a batch of one log.
	whole  []*crashOp
	first  LSN        // of a truncation
	cp     Checkpoint // of a checkpoint; with its version once that is set
	cursor CursorUpdate
	lost   bool // a cursor was refused, for it was evicted

	// When it was asked, and when it was answered, in the life's own count of
	// events; 0 for never.
	asked, answered int
	refused         bool    // answered with a refusal: it must leave nothing behind
	err             error   // why it was refused
	verdict         Verdict // of an append that was acknowledged
}

type crashKind uint8

const (
	crashAppend crashKind = iota + 1
	crashCreate
	crashDelete
	crashTruncate
	crashCheckpoint
	crashWriter
	crashSetCursor
	crashDeleteCheckpoint
	crashDeleteCursor
	crashResolve
	crashRetire
	crashSeal
	crashRewind
)

// A crashWant is what a disk must hold and what it may hold: everything that the
// volume showed when it was opened, and what was done to it since.
//
// What was asked before that opening and was not shown by it is neither: once a
// volume has shown that it does not have it, nothing may bring it back.
type crashWant struct {
	base *crashShown
	life *crashLife
	// What was answered by sure must be there, what was asked by possible may be.
	sure, possible int
}

func (w *crashWant) may(op *crashOp) bool {
	return op.asked <= w.possible && !op.refused
}

func (w *crashWant) must(op *crashOp) bool {
	return op.answered != 0 && op.answered <= w.sure && !op.refused
}

// A crashShown is what a volume showed.
type crashShown struct{ logs map[string]*shownLog }

type shownLog struct {
	info    LogInfo
	records []string   // from info.First on
	sums    []Checksum // the log's, in front of each record, and behind the last one
	cp      Checkpoint
	cursor  shownCursor
	last    uint64 // the producer's last sequence
	retries []retry
	rewind  *crashOp // that began the epoch; nil if none did, or in an earlier life
	// Of the producer; zero if it is not open.
	incarnation uint64
	retired     bool
}

// A shownCursor is where a log's cursor is; zero for none.
type shownCursor struct {
	exists, lost bool
	lsn          LSN
	rewound      Epoch // that the rewind began which took it back; 0 for one that was set since
	was          LSN   // and from where
}

// A retry is a batch that its producer may send again.
type retry struct {
	op *crashOp
	// at is where it is, and where its parts are, in the order of op.all; 0 for one
	// whose log was deleted, and nil if it is nowhere.
	at []LSN
	// discarded says that a rewind took it, or some of it.
	discarded bool
}

// crashProducer is the one producer of every log.
var crashProducer = producerID(7)

// verify compares what a volume shows with what it must and may hold.
func (w *crashWant) verify(v *Volume, seen map[string]int) (*crashShown, error) {
	if r := v.Recovery(); r.Verdict == "damaged" {
		return nil, errors.New("recovery calls a crash damage")
	}
	logs, more := v.ListLogs("", "", limits.MaxPageSize)
	if more {
		return nil, fmt.Errorf("more than %d logs", len(logs))
	}
	ops := map[string][]*crashOp{}
	for _, op := range w.life.ops {
		if w.may(op) || op.lost && op.asked <= w.possible {
			ops[op.log] = append(ops[op.log], op)
		}
	}
	shown := &crashShown{logs: map[string]*shownLog{}}
	checks := map[string]*crashCheck{}
	for _, info := range logs {
		c := &crashCheck{want: w, ops: ops[info.Name], base: w.base.logs[info.Name], seen: seen}
		l, err := c.log(v, info)
		if err != nil {
			return nil, fmt.Errorf("log %q: %w", info.Name, err)
		}
		shown.logs[info.Name], checks[info.Name] = l, c
	}
	if err := w.wholes(checks, seen); err != nil {
		return nil, err
	}
	for name, c := range checks {
		shown.logs[name].retries = c.retries(checks, shown.logs[name].last)
	}
	sure := map[string]bool{}
	for name := range w.base.logs {
		sure[name] = true
	}
	for name, ops := range ops {
		for _, op := range ops {
			sure[name] = op.kind == crashCreate && w.must(op) || sure[name] && op.kind != crashDelete
		}
	}
	for name, sure := range sure {
		if sure && shown.logs[name] == nil {
			return nil, fmt.Errorf("log %q is LOST", name)
		}
	}
	return shown, nil
}

// wholes: of a batch over several logs all is there, or nothing is.
func (w *crashWant) wholes(checks map[string]*crashCheck, seen map[string]int) error {
	for _, lead := range w.life.ops {
		if lead.whole == nil || lead.whole[0] != lead || !w.may(lead) {
			continue
		}
		var there, nowhere []string
		for _, op := range lead.whole {
			switch c := checks[op.log]; {
			case c == nil: // deleted
			case c.placed[op] != 0:
				there = append(there, op.log)
			case c.inSight():
				nowhere = append(nowhere, op.log)
			}
		}
		switch {
		case len(there) > 0 && len(nowhere) > 0:
			return fmt.Errorf("batch %d is in logs %q and not in logs %q", lead.id, there, nowhere)
		case w.must(lead):
			seen[sawWhole]++
		case len(there) > 1:
			seen[sawWholeKept]++
		case len(nowhere) > 1:
			seen[sawWholeCutOff]++
		}
	}
	return nil
}

// A crashCheck compares one log.
type crashCheck struct {
	want *crashWant
	ops  []*crashOp // those it may show
	base *shownLog  // nil if it was not there
	seen map[string]int

	info   LogInfo
	got    []string // from info.First on
	sums   []Checksum
	placed map[*crashOp]LSN // where a batch begins
	ends   map[*crashOp]LSN // and the last record of it that is there

	rewinds []*crashOp // that the log went through since base, in the order of their epochs
	keep    LSN        // the last record of base that they kept
}

func (c *crashCheck) log(v *Volume, info LogInfo) (*shownLog, error) {
	if c.base == nil {
		if !slices.ContainsFunc(c.ops, func(op *crashOp) bool { return op.kind == crashCreate }) {
			return nil, errors.New("was not there before, and nobody created it since")
		}
		c.base = &shownLog{info: LogInfo{ID: info.ID, Epoch: 1, First: 1, Next: 1}, sums: []Checksum{0}}
		for _, op := range c.ops {
			if op.kind == crashCreate {
				c.base.info.Options = op.options
			}
		}
	}
	for _, op := range c.ops {
		if op.kind == crashDelete && c.want.must(op) {
			return nil, errors.New("was deleted, and is back")
		}
	}
	if info.ID != c.base.info.ID {
		return nil, fmt.Errorf("has ID %s, it was %s", info.ID, c.base.info.ID)
	}
	c.info, c.placed, c.ends = info, map[*crashOp]LSN{}, map[*crashOp]LSN{}
	c.findRewinds()
	if err := c.floor(); err != nil {
		return nil, err
	}
	var err error
	if c.got, err = readSpan(v, info.Name, info.First); err != nil {
		return nil, err
	}
	if LSN(len(c.got)) != info.Next-info.First {
		return nil, fmt.Errorf("has %d records from %d on, not up to %d", len(c.got), info.First, info.Next)
	}
	for _, check := range []func(*Volume) error{c.limits, c.history, c.shownBefore, c.batches, c.acknowledged, c.writer, c.sealed, c.producer, c.checksums} {
		if err := check(v); err != nil {
			return nil, err
		}
	}
	cp, err := c.checkpoint(v)
	if err != nil {
		return nil, err
	}
	cursor, err := c.cursor(v)
	if err != nil {
		return nil, err
	}
	if cursor.exists && !cursor.lost && cursor.lsn < cp.LSN {
		c.seen[sawCursorHolds]++
	}
	if cursor.lost && !c.base.cursor.lost {
		c.seen[sawEvicted]++
	}
	if cursor.rewound != 0 && cursor.rewound != c.base.cursor.rewound {
		c.seen[sawTakenBack]++
	}
	p := c.shownProducer(v)
	return &shownLog{
		info: info, records: c.got, sums: c.sums, cp: cp, cursor: cursor, last: p.last, rewind: c.began(), incarnation: p.incarnation, retired: p.retired,
	}, nil
}

// floor: truncation never goes back, and nothing is given up that nobody allowed.
func (c *crashCheck) floor() error {
	low, asked, allowed := c.base.info.First, c.base.info.First, c.base.info.First
	if c.base.cp.Name != "" {
		allowed = max(allowed, c.base.cp.LSN+1)
	}
	if c.base.cursor.exists {
		allowed = max(allowed, c.base.cursor.lsn+1)
	}
	for _, op := range c.ops {
		switch op.kind {
		case crashTruncate:
			asked = max(asked, op.first)
			if c.want.must(op) {
				low = max(low, op.first)
			}
		case crashCheckpoint:
			allowed = max(allowed, op.cp.LSN+1)
		case crashSetCursor:
			allowed = max(allowed, op.cursor.LSN+1)
		}
	}
	if c.info.First < low || c.info.First > max(asked, allowed) {
		return fmt.Errorf("begins at %d; %d was acknowledged, %d asked for, a checkpoint allows %d", c.info.First, low, asked, allowed)
	}
	if c.info.First > asked {
		c.seen[sawTruncatedByJan]++
	}
	return nil
}

// shownBefore: what the volume showed once is there.
func (c *crashCheck) shownBefore(*Volume) error {
	b := c.base
	if c.info.Durable() < c.keep {
		return fmt.Errorf("LOST what it had shown: it ends at %d, it had %d, of which %d were kept", c.info.Durable(), b.info.Durable(), c.keep)
	}
	for lsn := max(c.info.First, b.info.First); lsn <= c.keep; lsn++ {
		if got, want := c.got[lsn-c.info.First], b.records[lsn-b.info.First]; got != want {
			return fmt.Errorf("LSN %d is %.40q, it was %.40q", lsn, got, want)
		}
	}
	return nil
}

// batches: behind that come whole batches that somebody sent since, each once,
// in the order in which they were answered.
func (c *crashCheck) batches(*Volume) error {
	byID := map[int]*crashOp{}
	for _, op := range c.ops {
		if op.kind == crashAppend {
			byID[op.id] = op
		}
	}
	sequence, latest := uint64(0), 0
	for at := max(c.info.First, c.keep+1); at < c.info.Next; {
		var id, k int
		if _, err := fmt.Sscanf(c.got[at-c.info.First], "%d/%d/", &id, &k); err != nil {
			return fmt.Errorf("LSN %d: %.40q: %w", at, c.got[at-c.info.First], err)
		}
		op := byID[id]
		switch {
		case op == nil:
			return fmt.Errorf("LSN %d: %.40q was refused, or cut off once, or never sent", at, c.got[at-c.info.First])
		case k != 0 && at != c.info.First:
			return fmt.Errorf("LSN %d: batch %d begins with its record %d", at, id, k)
		case c.placed[op] != 0:
			return fmt.Errorf("LSN %d: batch %d is there twice", at, id)
		case sequence != 0 && op.sequence != 0 && op.sequence != sequence+1 && (len(c.rewinds) == 0 || op.sequence <= sequence):
			return fmt.Errorf("LSN %d: the producer's batch %d is behind its %d", at, op.sequence, sequence)
		case op.answered != 0 && op.answered < latest:
			return fmt.Errorf("LSN %d: batch %d was answered before one in front of it was sent", at, id)
		}
		c.placed[op] = at - LSN(k)
		latest = max(latest, op.asked)
		sequence = cmp.Or(op.sequence, sequence)
		for begin := k; k < len(op.records); k, at = k+1, at+1 {
			if k > begin && c.cutBehind(at-1) && (at == c.info.Next || c.got[at-c.info.First] != op.records[k]) {
				break // a rewind has discarded the rest
			}
			if at >= c.info.Next {
				return fmt.Errorf("ends within batch %d", id)
			}
			if got := c.got[at-c.info.First]; got != op.records[k] {
				return fmt.Errorf("LSN %d: %.40q where record %d of batch %d was sent as %.40q", at, got, k, id, op.records[k])
			}
		}
		c.ends[op] = at - 1
		if op.epoch != 0 && c.clip(op.epoch, at-1) != at-1 {
			return fmt.Errorf("LSN %d: batch %d, which states epoch %d, is behind where a later one began", at-1, id, op.epoch)
		}
	}
	return nil
}

// acknowledged: what was acknowledged is where the acknowledgement says.
func (c *crashCheck) acknowledged(*Volume) error {
	for _, op := range c.ops {
		if op.kind != crashAppend {
			continue
		}
		at := c.placed[op]
		if !c.want.must(op) {
			if at != 0 {
				c.seen[sawUnackedKept]++
			} else {
				c.seen[sawCutOff]++
			}
			continue
		}
		first := op.verdict.First
		last := first + LSN(len(op.records)) - 1
		kept := c.clip(op.verdict.Epoch, last)
		switch {
		case kept < first:
			c.seen[sawTaken]++
		case kept < last:
			c.seen[sawTakenInPart]++
		}
		switch {
		case at == first && c.ends[op] == kept, at == 0 && (kept < first || kept < c.info.First):
		case at == first:
			return fmt.Errorf("batch %d is at LSN %d to %d; of what was acknowledged, up to %d, rewinds kept %d", op.id, at, c.ends[op], last, kept)
		case at == 0:
			return fmt.Errorf("LOST batch %d, acknowledged at LSN %d; it has %d to %d", op.id, first, c.info.First, c.info.Next-1)
		default:
			return fmt.Errorf("batch %d is at LSN %d, acknowledged was %d", op.id, at, first)
		}
	}
	return nil
}

// writer: the epoch never goes back, and its writer is the one who was told so, or
// may be.
func (c *crashCheck) writer(*Volume) error {
	began := c.info.Epoch == c.base.info.Epoch && c.info.Holder == c.base.info.Holder
	for _, op := range c.ops {
		cutOff, kept := sawEpochCutOff, sawEpochKept
		switch op.kind {
		case crashWriter:
		case crashRewind:
			cutOff, kept = sawRewindCutOff, sawRewindKept
		default:
			continue
		}
		switch {
		case op.epoch > c.info.Epoch && c.want.must(op):
			return fmt.Errorf("LOST epoch %d of %q, which was told; it is in epoch %d", op.epoch, op.holder, c.info.Epoch)
		case op.epoch > c.info.Epoch:
			c.seen[cutOff]++
		case !c.want.must(op):
			c.seen[kept]++
		}
		began = began || op.epoch == c.info.Epoch && op.holder == c.info.Holder
	}
	if !began || c.info.Epoch < c.base.info.Epoch {
		return fmt.Errorf("in epoch %d of %q, it was in epoch %d of %q", c.info.Epoch, c.info.Holder, c.base.info.Epoch, c.base.info.Holder)
	}
	for _, op := range c.ops {
		if op.kind == crashAppend && c.want.must(op) && op.verdict.Epoch > c.info.Epoch {
			return fmt.Errorf("batch %d was acknowledged in epoch %d, it is in epoch %d", op.id, op.verdict.Epoch, c.info.Epoch)
		}
	}
	return nil
}

// sealed: a log that was told to be sealed is, and nobody else's; it ends where it did.
func (c *crashCheck) sealed(*Volume) error {
	must := !c.base.info.Sealed.IsZero()
	may := must
	for _, op := range c.ops {
		if op.kind == crashSeal {
			may, must = true, must || c.want.must(op)
			if op.answered != 0 && op.first != 0 && c.want.must(op) && op.first != c.info.Next {
				return fmt.Errorf("ends at LSN %d, it was sealed at %d", c.info.Next-1, op.first-1)
			}
		}
	}
	if sealed := !c.info.Sealed.IsZero(); sealed && !may || !sealed && must {
		return fmt.Errorf("sealed is %t, may be %t, must be %t", sealed, may, must)
	}
	if !c.base.info.Sealed.IsZero() && c.info.Next != c.base.info.Next {
		return fmt.Errorf("ends at LSN %d, it was sealed at %d", c.info.Next-1, c.base.info.Next-1)
	}
	return nil
}

// producer: the volume knows of as many batches as it has. Nothing it says of a
// sequence counts if the producer itself used it for two batches.
func (c *crashCheck) producer(v *Volume) error {
	p := c.shownProducer(v)
	last := p.last
	if err := c.incarnation(p); err != nil {
		return err
	}
	low, high := c.base.last, c.base.last
	sent := map[uint64]int{}
	for _, op := range c.ops {
		if op.kind == crashAppend {
			if was := sent[op.sequence]; was != 0 && op.sequence != 0 {
				return fmt.Errorf("the test sent batch %d as the producer's %d, which was batch %d, and not refused", op.id, op.sequence, was)
			}
			sent[op.sequence] = op.id
			high = max(high, op.sequence)
			if c.placed[op] != 0 || c.want.must(op) {
				low = max(low, op.sequence)
			}
		}
	}
	if c.inSight() {
		high = low
	}
	if last < low || last > high {
		return fmt.Errorf("the producer's last batch is %d, want %d to %d", last, low, high)
	}
	return nil
}

// incarnation: what ended an incarnation of the producer, or the producer, has ended
// it, and nothing else has.
func (c *crashCheck) incarnation(p producerState) error {
	retired := c.base.retired
	for _, op := range c.ops {
		switch {
		case op.kind == crashResolve && c.want.must(op) && op.incarnation > p.incarnation:
			return fmt.Errorf("LOST incarnation %d, which was told; it is %d", op.incarnation, p.incarnation)
		case op.kind == crashRetire && c.want.must(op) && !p.retired:
			return errors.New("the producer was retired, and is back")
		case op.kind == crashRetire:
			retired = true
		}
	}
	began := p.incarnation <= max(1, c.base.incarnation) || slices.ContainsFunc(c.ops, func(op *crashOp) bool {
		return op.kind == crashResolve && op.incarnation == p.incarnation
	})
	if !began || p.incarnation < c.base.incarnation || p.retired && !retired {
		return fmt.Errorf("the producer is in incarnation %d, retired: %t; it was in %d", p.incarnation, p.retired, c.base.incarnation)
	}
	return nil
}

// shownProducer returns what is known of the producer; nothing if it is not open.
func (c *crashCheck) shownProducer(v *Volume) producerState {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l := v.durable.named(c.info.Name)
	if slot := l.slot(crashProducer); slot != 0 {
		return *l.producers[slot-1]
	}
	return producerState{}
}

// checksums: the log's checksum is that of its records, and what clients were
// acknowledged can be proven; of what was discarded they are told.
func (c *crashCheck) checksums(v *Volume) error {
	before := c.info.Checksum
	if c.info.First <= c.keep+1 {
		before = c.base.sums[c.info.First-c.base.info.First]
	} else { // where it began nobody has seen
		all := run(c.got...)
		before = Checksum(crc32c.Before(uint32(before), crc32.Checksum(all, castagnoli), uint32(len(all))))
	}
	c.sums = append(c.sums, before)
	for _, rec := range c.got {
		before = Checksum(crc32.Update(uint32(before), castagnoli, run(rec)))
		c.sums = append(c.sums, before)
	}
	if before != c.info.Checksum {
		return fmt.Errorf("has checksum %08x, its records have %08x", c.info.Checksum, before)
	}
	proven, told := false, false
	for _, op := range slices.Backward(c.ops) {
		if op.kind != crashAppend || !c.want.must(op) {
			continue
		}
		got := op.verdict
		claim := Claim{Log: c.info.ID, Epoch: got.Epoch, LSN: got.First + LSN(got.Count) - 1, Checksum: got.Checksum}
		discarded := c.clip(claim.Epoch, claim.LSN) != claim.LSN
		if discarded && told || !discarded && proven {
			continue
		}
		switch err := v.CheckClaim(c.info.Name, claim); {
		case !discarded && err != nil:
			return err
		case discarded && !errors.Is(err, ErrRewound) && (err != nil || claim.LSN >= c.info.First):
			return fmt.Errorf("%+v was discarded, and its claim is taken: %w", claim, err)
		}
		proven, told = proven || !discarded, told || discarded
	}
	return nil
}

// checkpoint: it is as it was last set, or may have been since, or deleted.
func (c *crashCheck) checkpoint(v *Volume) (Checkpoint, error) {
	may := []Checkpoint{c.base.cp} // without a name: none, and the version of what was deleted
	for _, op := range c.ops {
		var to []Checkpoint
		switch {
		case op.kind == crashCheckpoint && c.want.must(op):
			to = []Checkpoint{op.cp}
		case op.kind == crashCheckpoint:
			for _, was := range may {
				set := op.cp
				set.Version = was.Version + 1
				to = append(to, set)
			}
		case op.kind == crashDeleteCheckpoint:
			for _, was := range may {
				to = append(to, Checkpoint{Version: was.Version})
			}
		default:
			continue
		}
		switch {
		case c.want.must(op):
			may = to
		case c.want.may(op):
			may = append(may, to...)
		}
	}
	cp, err := v.Checkpoint(context.Background(), c.info.Name, "cp")
	if none, ok := errors.AsType[*NoCheckpointError](err); ok {
		cp.Version, err = none.Next-1, nil
	}
	if err != nil {
		return Checkpoint{}, err
	}
	for _, m := range may {
		if m.Name == cp.Name && m.Version == cp.Version && m.LSN == cp.LSN && string(m.State) == string(cp.State) {
			return cp, nil
		}
	}
	least := may[0]
	return Checkpoint{}, fmt.Errorf("checkpoint at LSN %d, version %d, with a state of %d bytes; it was at %d, version %d, with %d bytes, or one of %d others",
		cp.LSN, cp.Version, len(cp.State), least.LSN, least.Version, len(least.State), len(may)-1)
}

// cursor: it is where it was last put, or may have been since, and what it holds
// is there, unless it is lost: then it was over its cap once, and it stays lost.
func (c *crashCheck) cursor(v *Volume) (shownCursor, error) {
	var got shownCursor
	found, err := v.Cursor(c.info.Name, "reader")
	switch {
	case err == nil:
		got = shownCursor{exists: true, lost: found.State == CursorLost, lsn: found.LSN, rewound: found.Rewound, was: found.Was}
	case !errors.Is(err, ErrCursorNotFound):
		return got, err
	}
	// What it may be: it may also be lost, if it is no more than that it was there.
	may := []shownCursor{c.base.cursor}
	for _, op := range c.ops {
		sure := op.answered != 0 && op.answered <= c.want.sure
		var to []shownCursor
		switch {
		case op.lost && sure:
			for _, was := range may {
				if was.exists {
					was.lost = true
					to = append(to, was)
				}
			}
			may = to
		case op.refused:
		case op.kind == crashRewind && slices.Contains(c.rewinds, op):
			for i := range may {
				may[i] = may[i].rewind(op)
			}
		case op.kind == crashSetCursor || op.kind == crashDeleteCursor:
			to = []shownCursor{{exists: op.kind == crashSetCursor, lsn: op.cursor.LSN}}
			if !sure {
				to = append(to, may...)
			}
			may = to
		}
	}
	if !slices.ContainsFunc(may, func(m shownCursor) bool {
		m.lost = m.lost || got.lost && m.exists // it may have been evicted at any time
		return m == got
	}) {
		return got, fmt.Errorf("cursor %+v, it may be one of %+v", got, may)
	}
	if !got.exists {
		return got, nil
	}
	if !got.lost && c.info.First > got.lsn+1 {
		return got, fmt.Errorf("cursor at LSN %d holds what is LOST: the log begins at %d", got.lsn, c.info.First)
	}
	if c.info.First <= got.lsn+1 {
		live := uint64(len(run(c.got[got.lsn+1-c.info.First:]...)))
		if got.lost && live <= found.Cap && len(c.info.Rewinds) == 0 || !got.lost && live != found.LiveBytes {
			return got, fmt.Errorf("cursor %+v with %d bytes behind it", found, live)
		}
	}
	return got, nil
}

// A crashLife is a volume from one opening to its closing, with what was done to
// it and what power cuts meanwhile would have left.
type crashLife struct {
	r       *crashRound
	seed    uint64
	depth   int // of the power cuts that led here
	path    []string
	rng     *rand.Rand
	mem     *disk.Mem
	asFound *disk.Mem // as mem was at the beginning
	faulty  *disk.Faulty
	fs      disk.FS
	v       *Volume

	found *crashWant // what had to be there at the opening
	base  *crashShown
	logs  map[string]*clientLog // as clients know them

	mu    sync.Mutex // guards what follows, and what ops say of their answers
	clock int
	ops   []*crashOp

	gate   chan struct{}       // until it is closed, no frame is written; nil for none
	failAt map[disk.OpKind]int // which operation of a kind fails, counted down; of segments and the directory
	failed bool

	recording bool
	cuts      []crashCut
	cutsOf    map[string]int // operations, spelled out, to how many there were
	opened    bool           // base is what power cuts are compared with
}

// A clientLog is what the clients of a log know.
type clientLog struct {
	sequence uint64 // the producer's last, acknowledged or not
	producer bool   // it is open
	// incarnation is the newest of the producer that was told.
	incarnation uint64
	// epoch is the newest one that was begun or may have, holder its writer; empty
	// if it is shared.
	epoch  Epoch
	holder string
	// options are those that it was created with.
	options LogOptions
}

// states returns what epoch to state in an append.
func (c *clientLog) states() Epoch {
	if c.holder == "" {
		return 0
	}
	return c.epoch
}

// A crashCut is what a power cut left.
type crashCut struct {
	mem    *disk.Mem
	want   *crashWant
	seed   uint64
	depth  int
	path   []string
	served bool // the volume had been opened
}

func (r *crashRound) begin(mem *disk.Mem, found *crashWant, seed uint64, depth int) *crashLife {
	l := &crashLife{
		r: r, seed: seed, depth: depth, rng: rand.New(rand.NewPCG(seed, uint64(depth))), mem: mem, asFound: mem.CrashClone(nil, 1), found: found,
		logs: map[string]*clientLog{}, cutsOf: map[string]int{}, failAt: map[disk.OpKind]int{},
	}
	l.faulty = disk.NewFaulty(mem)
	l.faulty.Before(l.before)
	l.fs = disk.Record(l.faulty, l.cut)
	return l
}

// wantNow returns what a power cut at this moment may leave, and whether that is
// what the volume has shown and been told, not what it had to begin with.
func (l *crashLife) wantNow() (w *crashWant, served bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.opened {
		return l.found, false
	}
	return &crashWant{base: l.base, life: l, sure: l.clock, possible: l.clock}, true
}

// cut is told of every operation, while none begins or returns.
func (l *crashLife) cut(op disk.Op) {
	if !l.recording || !op.Done() {
		return
	}
	times := 1
	switch op.Kind {
	case disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpSync, disk.OpTruncate, disk.OpLock, disk.OpMkdirAll:
	case disk.OpWrite:
		if strings.HasSuffix(op.Name, ".wal") && op.Len > limits.BlockSize {
			times = 3 // there are many ways to lose a part
		}
	default:
		return
	}
	what := op.String()
	for range times {
		// Drawn from what the operation is, not from when it comes: goroutines
		// that work side by side may come in another order next time.
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %s %d", l.seed, what, l.cutsOf[what])
		l.cutsOf[what]++
		c := crashCut{seed: h.Sum64(), depth: l.depth + 1, path: append(slices.Clip(l.path), what)}
		rng := rand.New(rand.NewPCG(c.seed, 1))
		c.want, c.served = l.wantNow()
		c.mem = l.mem.CrashClone(rng, []float64{0, 0.3, 0.5, 0.5, 0.8, 1}[rng.IntN(6)])
		if c.served {
			after, _ := l.wantNow()
			c.want.possible = after.possible
		}
		l.cuts = append(l.cuts, c)
	}
}

func (l *crashLife) fail(err error) {
	l.r.t.Helper()
	var rec Recovery
	if l.v != nil {
		rec = l.v.Recovery()
		_ = l.v.Close() // a bubble ends when its goroutines have
	}
	l.r.t.Fatalf("seed %d (%s), power cut after %s: %v; recovery %+v; with -artifacts, the disk as it was is kept in %s",
		l.r.seed, l.r.shape.name, strings.Join(l.path, ", then after "), err, rec, l.keep())
}

// keep writes the disk as it was found into a directory that walctl can look at.
func (l *crashLife) keep() string {
	dir := l.r.t.ArtifactDir()
	entries, err := l.asFound.List("/vol")
	for _, e := range entries {
		b := make([]byte, e.Size)
		f, ferr := l.asFound.Open("/vol/"+e.Name, false)
		if ferr == nil {
			_, ferr = f.ReadAt(b, 0)
			ferr = errors.Join(ferr, f.Close(), os.WriteFile(filepath.Join(dir, e.Name), b, 0o600))
		}
		err = errors.Join(err, ferr)
	}
	if err != nil {
		return fmt.Sprintf("%s, but for what failed: %v", dir, err)
	}
	return dir
}

// live opens the volume, compares it with what had to be there, works with it
// for some steps, and closes it.
func (l *crashLife) live(steps int) {
	if l.r.shape.fail && l.recording {
		l.failSome(steps)
	}
	if l.r.shape.labels > 0 || l.seed%4 == 0 {
		l.lookAtDisk()
	}
	err := l.open()
	if err != nil && l.hasFailed() {
		l.r.seen[sawFailedOpening]++
		err = l.open() // the process is started again
	}
	if err != nil {
		l.fail(fmt.Errorf("open: %w", err))
	}
	synctest.Wait() // for the janitor, which changes what is looked at
	if l.base, err = l.found.verify(l.v, l.r.seen); err != nil {
		l.fail(err)
	}
	l.count()
	if steps > 0 {
		l.mu.Lock()
		l.opened = true
		l.mu.Unlock()
		l.meetClients()
		for range steps {
			l.step()
			if l.rng.IntN(4) > 0 {
				synctest.Wait()
			}
		}
	}
	l.close()
}

// failSome has a sync fail: of a segment or of the directory after some steps, or
// any while the volume is opened.
func (l *crashLife) failSome(steps int) {
	switch l.rng.IntN(3) {
	case 0:
		l.failAt[disk.OpSync] = 2 + l.rng.IntN(2*steps)
		return
	case 1:
		l.failAt[disk.OpSyncDir] = 1 + l.rng.IntN(steps)
		return
	}
	kinds := []disk.OpKind{disk.OpSync, disk.OpSyncDir}
	l.faulty.Inject(disk.Fault{At: l.rng.IntN(4), Kinds: kinds, Late: l.rng.IntN(4) == 0})
}

// before is told of every operation before it is carried out.
func (l *crashLife) before(op disk.Op) error {
	segment := strings.HasSuffix(op.Name, ".wal")
	l.mu.Lock()
	gate := l.gate
	fails := false
	if segment || op.Kind == disk.OpSyncDir {
		l.failAt[op.Kind]--
		fails = l.failAt[op.Kind] == 0
	}
	l.failed = l.failed || fails
	l.mu.Unlock()
	if op.Kind == disk.OpWrite && segment && gate != nil {
		<-gate
	}
	if fails {
		return syscall.EIO
	}
	return nil
}

// hasFailed reports whether a sync has failed.
func (l *crashLife) hasFailed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed || l.faulty.Fired() > 0
}

// open opens the volume as a new process would.
func (l *crashLife) open() (err error) {
	s := &l.r.shape
	o := Options{
		FS: l.fs, Create: true, SegmentSize: s.segmentSize, PrepareRate: -1, SnapshotEvery: s.snapshotEvery, Codec: s.codec,
		Rand: &lockedRand{r: rand.NewChaCha8([32]byte{byte(l.seed), byte(l.seed >> 8), byte(l.seed >> 16), byte(l.seed >> 24), byte(l.depth)})},
	}
	l.v, err = Open(context.Background(), "/vol", o)
	return err
}

// lockedRand is a source of random bytes for several goroutines.
type lockedRand struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (r *lockedRand) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Read(p)
}

// count notes what this opening came to.
func (l *crashLife) count() {
	seen, rec := l.r.seen, l.v.Recovery()
	seen[rec.Case]++
	if rec.RewrittenFrames > 0 {
		seen[sawRewritten]++
	}
	if rec.DiscardedBytes > 0 {
		seen[sawDiscarded]++
	}
	if rec.Frames < rec.LastSequence {
		seen[sawFromSnapshot]++
	}
}

// lookAtDisk counts a disk with a snapshot that was begun and not finished, and
// looks for cursors that hold what is gone: a volume that is opened would evict
// them before anybody sees.
func (l *crashLife) lookAtDisk() {
	j, err := segment.Open(segment.Options{FS: l.mem, Dir: "/vol", ReadOnly: true})
	if err != nil {
		return // there is no volume yet
	}
	defer j.Close()
	var r rebuilder
	if _, err := replay.Recover(j, &r); err != nil {
		l.fail(fmt.Errorf("look at what is left: %w", err))
	}
	if r.next.next > 0 && !r.next.bad && r.next.from != r.newer && r.next.from != r.base {
		l.r.seen[sawHalfSnapshot]++
	}
	if r.state == nil {
		return // nothing was ever written
	}
	for _, log := range r.state.logs.all() {
		for _, c := range log.cursors {
			if c.holds() && log.first > c.lsn+1 {
				l.fail(fmt.Errorf("log %q: cursor at LSN %d holds what was given up: the log begins at %d", log.name, c.lsn, log.first))
			}
		}
	}
}

// close closes the volume, and looks whether it left behind what it showed.
func (l *crashLife) close() {
	err := l.v.Close()
	status := l.v.Status()
	if l.recording {
		l.r.seen[sawRoll] += int(status.Rolls)
		l.r.seen[sawRecycle] += int(status.Recycles)
		l.r.seen[sawSnapshot] += int(status.Snapshots)
	}
	if l.hasFailed() {
		l.r.seen[sawFailedSync]++
		if err != nil && !errors.Is(err, ErrPoisoned) {
			l.fail(fmt.Errorf("close: %w", err))
		}
		if errors.Is(err, ErrPoisoned) && !l.sameOnDisk() {
			l.r.seen[sawDroppedPages]++
		}
		return
	}
	if err != nil {
		l.fail(fmt.Errorf("close: %w", err))
	}
	if !l.recording {
		return
	}
	left, _, err := recovered(l.mem.CrashClone(nil, 0))
	if err != nil {
		l.fail(fmt.Errorf("look at what is left: %w", err))
	}
	if left.Hash() != l.v.durable.Hash() {
		l.fail(errors.New("what a closed volume leaves shows another state"))
	}
	l.countCarried()
}

// sameOnDisk reports whether the disk has what can be read from the page cache.
func (l *crashLife) sameOnDisk() bool {
	cache, _, err := recovered(l.mem)
	if err != nil {
		return true
	}
	platter, _, err := recovered(l.mem.CrashClone(nil, 1))
	return err == nil && cache.Hash() == platter.Hash()
}

// countCarried counts what the janitor carried forward.
func (l *crashLife) countCarried() {
	j, err := segment.Open(segment.Options{FS: l.mem, Dir: "/vol", ReadOnly: true})
	if err != nil {
		l.fail(err)
	}
	defer j.Close()
	var commands []Command
	if _, err := replay.Walk(j, replay.WalkOptions{}, func(f *segment.Frame, _ []error) error {
		if f.Header.Kind != segment.KindCommands {
			return nil
		}
		commands, err = DecodeCommands(commands[:0], f.Meta)
		for i := range commands {
			switch commands[i].Kind {
			case CommandMoveCheckpoint:
				l.r.seen[sawCarried]++
			case CommandMoveRecords:
				l.r.seen[sawMoved]++
			default:
			}
		}
		return err
	}); err != nil {
		l.fail(err)
	}
}

// ask notes that something is about to be asked.
func (l *crashLife) ask(op *crashOp) *crashOp {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	op.asked = l.clock
	l.ops = append(l.ops, op)
	return op
}

// answer notes what became of it. An outcome that is unknown is no answer; the
// error is that there was no reason for one.
func (l *crashLife) answer(op *crashOp, err error) (known bool, _ error) {
	if errors.Is(err, ErrPoisoned) {
		if l.hasFailed() {
			err = nil
		}
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, ErrFull) {
		l.r.seen[sawFull]++
	}
	l.clock++
	op.answered, op.refused = l.clock, err != nil
	return true, nil
}

// answered notes the answer to what is no append: a refusal is one of those that
// are to be expected, or fails the test. It reports whether it was a success.
func (l *crashLife) answered(op *crashOp, err error, expected ...error) bool {
	known, unknown := l.answer(op, err)
	l.check(unknown)
	if known && err != nil && !slices.ContainsFunc(append(expected, ErrFull), func(e error) bool { return errors.Is(err, e) }) {
		l.fail(fmt.Errorf("log %q: %w", op.log, err))
	}
	return err == nil
}

func (l *crashLife) check(err error) {
	l.r.t.Helper()
	if err != nil {
		l.fail(err)
	}
}

// meetClients has the clients of the volume's logs come back: they open their
// producers, and send again what they do not know the fate of.
func (l *crashLife) meetClients() {
	// All of them first: what is sent again may be for several.
	for name, s := range l.base.logs {
		l.logs[name] = &clientLog{sequence: s.last, epoch: s.info.Epoch, holder: s.info.Holder, options: s.info.Options}
	}
	for _, name := range slices.Sorted(maps.Keys(l.base.logs)) {
		l.check(l.rewoundBefore(name))
	}
	l.findLimits()
	for _, name := range slices.Sorted(maps.Keys(l.base.logs)) {
		s, c := l.base.logs[name], l.logs[name]
		switch {
		case s.retired:
			if _, err := l.v.OpenProducer(context.Background(), name, crashProducer); !errors.Is(err, ErrRetired) && !errors.Is(err, ErrPoisoned) {
				l.fail(fmt.Errorf("log %q: open a retired producer: %w", name, err))
			}
		case l.rng.IntN(5) > 0:
			l.openProducer(name, s.last)
		}
		for _, r := range s.retries {
			if !c.producer || r.op.sequence > c.sequence+1 {
				break
			}
			if r.at == nil {
				c.sequence = r.op.sequence // used, also if nobody ever says what became of it
				again := &crashOp{kind: crashAppend, log: name, id: r.op.id, records: r.op.records, sequence: r.op.sequence, epoch: c.states(), incarnation: c.incarnation}
				l.check(l.append(l.with(again, r.op)))
				if again.answered != 0 && !again.refused {
					l.r.seen[sawRetryLanded]++
				}
				continue
			}
			got, err := l.v.Append(context.Background(), name, crashProducer, 0, Batch{Sequence: r.op.sequence, Incarnation: c.incarnation, Run: run(r.op.records...), Parts: r.op.parts()})
			switch {
			case errors.Is(err, ErrPoisoned):
			case r.discarded:
				if !errors.Is(err, ErrDiscarded) {
					l.fail(fmt.Errorf("log %q: the producer's batch %d, which was discarded, sent again: %+v, %w", name, r.op.sequence, got, err))
				}
				l.r.seen[sawTakenRepeat]++
			case err != nil || !got.Repeated || got.First != r.at[0] || int(got.Count) != len(r.op.records):
				l.fail(fmt.Errorf("log %q: the producer's batch %d, sent again: %+v, %w; it is at LSN %d", name, r.op.sequence, got, err, r.at))
			case r.op.whole != nil:
				l.check(l.repeated(r.op, got.Parts))
				l.r.seen[sawWholeRepeat]++
			default:
				l.r.seen[sawRepeat]++
			}
		}
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if l.logs[name] == nil {
			l.create(name)
		}
	}
}

// with has again, which is another try of was, take its parts along.
func (l *crashLife) with(again, was *crashOp) *crashOp {
	if was.whole == nil {
		return again
	}
	again.whole = []*crashOp{again}
	for _, op := range was.whole[1:] {
		again.whole = append(again.whole, &crashOp{
			kind: crashAppend, log: op.log, id: op.id, records: op.records, epoch: l.logs[op.log].states(), whole: again.whole,
		})
	}
	for _, op := range again.whole {
		op.whole = again.whole
	}
	return again
}

// parts returns what the batch appends to further logs.
func (op *crashOp) parts() (parts []Part) {
	for _, p := range op.whole[min(1, len(op.whole)):] {
		parts = append(parts, Part{Log: p.log, Epoch: p.epoch, Run: run(p.records...)})
	}
	return parts
}

// repeated compares what a repeat says of a batch's parts with what is there.
func (l *crashLife) repeated(op *crashOp, parts []PartVerdict) error {
	if len(parts) != len(op.whole)-1 {
		return fmt.Errorf("batch %d, sent again, has %d parts, it had %d", op.id, len(parts), len(op.whole)-1)
	}
	for i, p := range op.whole[1:] {
		info, err := l.v.Log(p.log)
		if err != nil || parts[i].First < info.First {
			continue
		}
		got, err := readSpan(l.v, p.log, parts[i].First)
		if err != nil || len(got) == 0 || got[0] != p.records[0] {
			return fmt.Errorf("log %q: batch %d, sent again, is said to be at LSN %d, where %d records are: %w", p.log, op.id, parts[i].First, len(got), err)
		}
	}
	return nil
}

func (l *crashLife) openProducer(name string, last uint64) {
	p, err := l.v.OpenProducer(context.Background(), name, crashProducer)
	switch {
	case errors.Is(err, ErrFull), errors.Is(err, ErrPoisoned), errors.Is(err, ErrSealed) && last == 0 && !l.base.logs[name].info.Sealed.IsZero():
		return
	case err != nil || p.LastSequence != last:
		l.fail(fmt.Errorf("log %q: open producer: %+v, %w; its last batch was %d", name, p, err, last))
	}
	l.logs[name].producer, l.logs[name].incarnation = true, p.Incarnation
}

func (l *crashLife) create(name string) {
	o := LogOptions{ColocationKey: "crash"}
	l.limit(name, &o)
	for k := range l.r.shape.labels / 480 {
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[fmt.Sprintf("%d-%s", k, strings.Repeat("k", 238))] = strings.Repeat("v", 240)
	}
	op := l.ask(&crashOp{kind: crashCreate, log: name, options: o})
	_, _, err := l.v.CreateLog(context.Background(), name, o)
	if l.answered(op, err) {
		l.logs[name] = &clientLog{epoch: 1, options: o}
		if l.rng.IntN(2) == 0 {
			l.openProducer(name, 0)
		}
	}
}

// step does something.
func (l *crashLife) step() {
	names := slices.Sorted(maps.Keys(l.logs))
	if len(names) == 0 {
		return // not even one could be created
	}
	name, last := names[l.rng.IntN(len(names))], names[len(names)-1]
	if len(names) > 1 && l.rng.IntN(4) > 0 {
		// The first one is idle mostly: what it keeps has to be carried forward.
		names = names[1:]
	}
	switch n := l.rng.IntN(34); {
	case n >= 31:
		l.rewind(name)
	case n == 30:
		l.tryLimits()
	case n >= 28:
		l.moveCursor(name)
	case n == 27 && strings.HasPrefix(last, "log-"): // the others' producers go on
		l.check(l.retire(&crashOp{kind: crashRetire, log: last}))
	case n == 26 && strings.HasPrefix(last, "log-"):
		l.check(l.seal(&crashOp{kind: crashSeal, log: last}))
	case n >= 25:
		l.resolveOne(name)
	case n >= 23:
		l.writer(name)
	case n == 22:
		l.fence(names)
	case n >= 20:
		l.advance(names)
	case n < 3:
		l.check(l.append(l.newAppend(name)))
	case n < 5:
		l.check(l.append(l.newWhole(name)))
	case n < 9:
		l.appendTogether(names)
	case n < 12:
		l.burst(names)
	case n < 15:
		if l.rng.IntN(8) == 0 {
			l.deleteCheckpoint(name)
			break
		}
		l.setCheckpoint(name, 4)
	case n < 17:
		l.truncate(name)
	case n == 17 && len(names) < 8:
		l.r.batch++
		l.create(fmt.Sprintf("log-%d", l.r.batch))
	case n == 17:
		l.delete(last)
	case n == 18: // until it is quiet
		time.Sleep(2 * limits.IdlePromiseDelay)
	default: // until readers have let go of released segments
		time.Sleep(2 * limits.OpenSegmentIdle)
	}
}

// newAppend makes a batch that no other is equal to.
func (l *crashLife) newAppend(name string) *crashOp {
	l.r.batch++
	op := &crashOp{kind: crashAppend, log: name, id: l.r.batch, epoch: l.logs[name].states()}
	most := min(l.r.shape.record, l.v.maxBatch/8)
	for k := range 1 + l.rng.IntN(5) {
		size := l.rng.IntN(100)
		if l.rng.IntN(3) == 0 {
			size = l.rng.IntN(most)
		}
		op.records = append(op.records, fmt.Sprintf("%d/%d/%s", op.id, k, strings.Repeat(string(rune('a'+op.id%26)), size)))
	}
	if c := l.logs[name]; c.producer && l.rng.IntN(3) > 0 {
		c.sequence++
		op.sequence, op.incarnation = c.sequence, c.incarnation
	}
	return op
}

// newWhole makes a batch over a log and some of those that are never deleted.
func (l *crashLife) newWhole(name string) *crashOp {
	lead := l.newAppend(name)
	whole := []*crashOp{lead}
	for _, other := range []string{"a", "b", "c", "d", "e"} {
		if other == name || l.logs[other] == nil || l.rng.IntN(2) == 0 {
			continue
		}
		if l.logs[other].limited() && l.rng.IntN(3) > 0 {
			continue // it would have most of them refused
		}
		part := &crashOp{kind: crashAppend, log: other, id: lead.id, epoch: l.logs[other].states()}
		for k := range 1 + l.rng.IntN(3) {
			part.records = append(part.records, fmt.Sprintf("%d/%d/%s", part.id, k, strings.Repeat("p", l.rng.IntN(100))))
		}
		whole = append(whole, part)
	}
	if len(whole) > 1 {
		for _, op := range whole {
			op.whole = whole
		}
	}
	return lead
}

// append sends a batch and waits for its verdict. The error is one that should
// not have come.
func (l *crashLife) append(op *crashOp) error {
	producer := crashProducer
	if op.sequence == 0 {
		producer = [16]byte{}
	}
	l.ask(op)
	for _, part := range op.whole[min(1, len(op.whole)):] {
		l.ask(part)
	}
	got, err := l.v.Append(context.Background(), op.log, producer, op.epoch, Batch{Sequence: op.sequence, Incarnation: op.incarnation, Run: run(op.records...), Parts: op.parts()})
	errs := []error{l.settle(op, got, err)}
	for i, part := range op.whole[min(1, len(op.whole)):] {
		var own Verdict
		if err == nil {
			p := got.Parts[i]
			own = Verdict{First: p.First, Count: p.Count, Checksum: p.Checksum, Epoch: p.Epoch}
		}
		errs = append(errs, l.settle(part, own, err))
	}
	return errors.Join(errs...)
}

// settle notes the verdict on a batch.
func (l *crashLife) settle(op *crashOp, got Verdict, err error) error {
	op.verdict, op.err = got, err
	if known, err := l.answer(op, err); !known {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.logs[op.log]
	switch {
	case err == nil && l.sealedBefore(op):
		return fmt.Errorf("log %q: batch %d landed in a sealed log", op.log, op.id)
	case err == nil && got.Repeated:
		return fmt.Errorf("log %q: batch %d is called a repeat", op.log, op.id)
	case err == nil && op.epoch != 0 && got.Epoch != op.epoch:
		return fmt.Errorf("log %q: batch %d landed in epoch %d, it was for epoch %d", op.log, op.id, got.Epoch, op.epoch)
	case err == nil && op.epoch == 0 && l.held(op.log, got.Epoch):
		return fmt.Errorf("log %q: batch %d, which states no epoch, landed in epoch %d, which has a writer", op.log, op.id, got.Epoch)
	case err == nil:
		c.sequence = max(c.sequence, op.sequence)
	case errors.Is(err, ErrFenced) && !op.any(l.fences):
		return fmt.Errorf("log %q: batch %d of the current epoch: %w", op.log, op.id, err)
	case errors.Is(err, ErrFull), errors.Is(err, ErrSequenceGap), errors.Is(err, ErrAfterRefusal), errors.Is(err, ErrFenced),
		errors.Is(err, ErrRewound) && op.any(l.overtaken), errors.Is(err, ErrRateQuota) && op.any(l.overRate), errors.Is(err, ErrQuota) && op.any(l.overQuota),
		errors.Is(err, ErrSuperseded) && op.any(l.supersedes), errors.Is(err, ErrRetired) && op.any(l.retires),
		errors.Is(err, ErrSealed) && op.any(func(op *crashOp) bool { return l.ended(op.log) }):
		if errors.Is(err, ErrSealed) {
			l.r.seen[sawEnded]++
		}
		if errors.Is(err, ErrFenced) {
			l.r.seen[sawFenced]++
		}
		if errors.Is(err, ErrRewound) {
			l.r.seen[sawBehindRewind]++
		}
		if errors.Is(err, ErrRateQuota) {
			l.r.seen[sawOverRate]++
		}
		if errors.Is(err, ErrQuota) {
			l.r.seen[sawOverQuota]++
		}
		if errors.Is(err, ErrSuperseded) {
			l.r.seen[sawSuperseded]++
		}
		if op.sequence != 0 {
			c.sequence = min(c.sequence, op.sequence-1)
		}
	default:
		return fmt.Errorf("log %q: batch %d: %w", op.log, op.id, err)
	}
	return nil
}

// any reports whether what is asked holds for the append, or for another one of its
// batch.
func (op *crashOp) any(of func(*crashOp) bool) bool {
	return of(op) || slices.ContainsFunc(op.whole, of)
}

// appendTogether sends batches of several logs that ride in one frame, if it
// takes them.
func (l *crashLife) appendTogether(names []string) {
	seat := newSeat(l.r.t, l.v)
	defer seat.Close()
	var ops []*crashOp
	var batches []Batch
	bindings := map[string]*Binding{}
	for range 1 + l.rng.IntN(l.r.shape.batches) {
		op := l.newAppend(names[l.rng.IntN(len(names))])
		key := fmt.Sprint(op.log, op.sequence != 0)
		if bindings[key] == nil {
			producer := crashProducer
			if op.sequence == 0 {
				producer = [16]byte{}
			}
			b, _, _, err := seat.Bind(op.log, Producer{producer, op.incarnation}, op.epoch, Claim{})
			if errors.Is(err, ErrPoisoned) && l.hasFailed() {
				break
			}
			if errors.Is(err, ErrSealed) && l.sealedBefore(&crashOp{log: op.log, asked: l.clock + 1}) {
				continue
			}
			l.check(err)
			bindings[key] = b
		}
		ops = append(ops, l.ask(op))
		batches = append(batches, Batch{Binding: bindings[key], Sequence: op.sequence, Run: run(op.records...)})
	}
	err := seat.Append(context.Background(), batches)
	verdicts := seat.Take(nil)
	for ; seat.Pending() > 0; verdicts = seat.Take(verdicts) {
		<-seat.ready
	}
	for i, op := range ops {
		if i < len(verdicts) {
			l.check(l.settle(op, verdicts[i], verdicts[i].Err))
		} else {
			l.check(l.settle(op, Verdict{}, err))
		}
	}
}

// burst has clients come one after the other while the disk is busy, so that
// what they send rides together behind it.
func (l *crashLife) burst(names []string) {
	var ops []*crashOp
	for range 2 + l.rng.IntN(4) {
		ops = append(ops, l.newAppend(names[l.rng.IntN(len(names))]))
	}
	l.sendTogether(ops)
}

// fence has a writer acquired or released, or the producer resolved or retired,
// between appends of one log.
func (l *crashLife) fence(names []string) {
	name := names[l.rng.IntN(len(names))]
	c := l.logs[name]
	switch n := l.rng.IntN(8); {
	case n == 0 && strings.HasPrefix(name, "log-"):
		l.between(&crashOp{kind: crashSeal, log: name})
	case n < 4 || !c.producer:
		l.between(l.newWriter(name))
	case n == 7 && strings.HasPrefix(name, "log-"):
		l.between(&crashOp{kind: crashRetire, log: name})
	default:
		l.between(&crashOp{kind: crashResolve, log: name, incarnation: c.incarnation + 1})
	}
}

// between has something done to a log between appends to it that ride together: those
// in front of it land, those behind it do not.
func (l *crashLife) between(op *crashOp) {
	var ops []*crashOp
	for range 1 + l.rng.IntN(2) {
		ops = append(ops, l.newAppend(op.log))
	}
	ops = append(ops, op)
	for range 1 + l.rng.IntN(2) {
		// As one that has not heard of it.
		late := l.newAppend(op.log)
		late.epoch = ops[0].epoch
		ops = append(ops, late)
	}
	l.sendTogether(ops)
}

// newWriter makes what begins the next epoch of a log.
func (l *crashLife) newWriter(name string) *crashOp {
	c := l.logs[name]
	op := &crashOp{kind: crashWriter, log: name, epoch: c.epoch + 1}
	if c.holder == "" || l.rng.IntN(2) == 0 {
		l.r.batch++
		op.holder = fmt.Sprintf("holder-%d", l.r.batch)
	}
	return op
}

func (l *crashLife) writer(name string) {
	l.check(l.setWriter(l.newWriter(name)))
}

// setWriter acquires a writer, or releases the one there is. The error is one that
// should not have come.
func (l *crashLife) setWriter(op *crashOp) error {
	l.ask(op)
	var got LogInfo
	var err error
	if op.holder != "" {
		var w Writer
		before := op.epoch - 1
		w, err = l.v.AcquireWriter(context.Background(), op.log, Acquire{Holder: op.holder, Expected: &before})
		got = w.Log
	} else {
		got, err = l.v.ReleaseWriter(context.Background(), op.log, op.epoch-1)
	}
	if err == nil && !got.Sealed.IsZero() {
		err = ErrSealed // there is no other epoch to begin
	}
	if known, unknown := l.answer(op, err); !known {
		return unknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, ErrFull), errors.Is(err, ErrSealed) && l.ended(op.log):
		return nil
	case err != nil || got.Epoch != op.epoch || got.Holder != op.holder:
		return fmt.Errorf("log %q: writer %q of epoch %d: %+v, %w", op.log, op.holder, op.epoch, got, err)
	case op.holder == "":
		l.r.seen[sawReleased]++
	default:
		l.r.seen[sawAcquired]++
	}
	l.logs[op.log].epoch, l.logs[op.log].holder = got.Epoch, got.Holder
	return nil
}

// held reports whether an epoch has a writer. REQUIRES: mu.
func (l *crashLife) held(log string, epoch Epoch) bool {
	if b := l.base.logs[log]; b != nil && b.info.Epoch == epoch {
		return b.info.Holder != ""
	}
	return slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.begins() && op.log == log && op.epoch == epoch && op.holder != "" && !op.refused
	})
}

// fences reports whether a writer that was asked for may keep an append out.
// REQUIRES: mu.
func (l *crashLife) fences(late *crashOp) bool {
	return slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.begins() && op.log == late.log && !op.refused && op.epoch > late.epoch && (late.epoch != 0 || op.holder != "")
	})
}

// resolveOne asks for the producer's last batch, or for the one behind it.
func (l *crashLife) resolveOne(name string) {
	if c := l.logs[name]; c.producer {
		l.check(l.resolve(&crashOp{kind: crashResolve, log: name, incarnation: c.incarnation + 1}, c.sequence+uint64(l.rng.IntN(2))))
	}
}

// resolve asks for a batch of the producer; for sequence 0 it takes whatever is
// said of the first one. The error is one that should not have come.
func (l *crashLife) resolve(op *crashOp, sequence uint64) error {
	l.ask(op)
	got, err := l.v.Resolve(context.Background(), op.log, crashProducer, max(1, sequence), l.logs[op.log].states())
	if known, unknown := l.answer(op, err); !known {
		return unknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.logs[op.log]
	want := NotWritten
	if sequence > 0 && sequence <= c.sequence {
		want = Committed
		switch gone, known := l.gone(op.log, sequence); {
		case !known && got.Outcome == Discarded:
			want = Discarded
		case gone:
			want = Discarded
			l.r.seen[sawTakenResolved]++
		}
	}
	switch {
	case errors.Is(err, ErrFull):
		return nil
	case err != nil || got.Producer.Incarnation != op.incarnation || sequence > 0 && (got.Outcome != want || got.Producer.LastSequence != c.sequence):
		return fmt.Errorf("log %q: resolve the producer's %d of %d: %+v, %w", op.log, sequence, c.sequence, got, err)
	}
	l.r.seen[sawResolved]++
	c.incarnation = got.Producer.Incarnation
	return nil
}

// retire ends the producer of a log, if there is one. The error is one that should
// not have come.
func (l *crashLife) retire(op *crashOp) error {
	c := l.logs[op.log]
	if !c.producer {
		return nil
	}
	l.ask(op)
	err := l.v.RetireProducer(context.Background(), op.log, crashProducer)
	if known, unknown := l.answer(op, err); !known {
		return unknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, ErrFull):
		return nil
	case err != nil:
		return fmt.Errorf("log %q: retire the producer: %w", op.log, err)
	}
	l.r.seen[sawRetired]++
	c.producer = false
	return nil
}

// seal seals a log. The error is one that should not have come.
func (l *crashLife) seal(op *crashOp) error {
	l.ask(op)
	got, err := l.v.SealLog(context.Background(), op.log, nil)
	op.first = got.Next
	if known, unknown := l.answer(op, err); !known {
		return unknown
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, ErrFull):
		return nil
	case err != nil || got.Sealed.IsZero():
		return fmt.Errorf("log %q: seal it: %+v, %w", op.log, got, err)
	}
	l.r.seen[sawSealed]++
	return nil
}

// sealedBefore reports whether a log was known to be sealed when something was asked.
// REQUIRES: mu.
func (l *crashLife) sealedBefore(late *crashOp) bool {
	b := l.base.logs[late.log]
	return b != nil && !b.info.Sealed.IsZero() || slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.kind == crashSeal && op.log == late.log && !op.refused && op.answered != 0 && op.answered < late.asked
	})
}

// ended reports whether a log may be sealed. REQUIRES: mu.
func (l *crashLife) ended(log string) bool {
	b := l.base.logs[log]
	return b != nil && !b.info.Sealed.IsZero() || slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.kind == crashSeal && op.log == log && !op.refused
	})
}

// supersedes reports whether a resolution that was asked for may keep an append out,
// retires the same of a retirement. REQUIRES: mu.
func (l *crashLife) supersedes(late *crashOp) bool {
	return slices.ContainsFunc(l.ops, func(op *crashOp) bool {
		return op.kind == crashResolve && op.log == late.log && !op.refused && op.incarnation > late.incarnation
	})
}

func (l *crashLife) retires(late *crashOp) bool {
	return slices.ContainsFunc(l.ops, func(op *crashOp) bool { return op.kind == crashRetire && op.log == late.log && !op.refused })
}

// sendTogether has clients come one after the other while the disk is busy.
func (l *crashLife) sendTogether(ops []*crashOp) {
	gate := make(chan struct{})
	hold := func(gate chan struct{}) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.gate = gate
	}
	hold(gate)
	var clients sync.WaitGroup
	errs := make([]error, len(ops))
	for i, op := range ops {
		clients.Go(func() {
			switch op.kind {
			case crashWriter:
				errs[i] = l.setWriter(op)
			case crashResolve:
				errs[i] = l.resolve(op, 0)
			case crashRetire:
				errs[i] = l.retire(op)
			case crashSeal:
				errs[i] = l.seal(op)
			case crashRewind:
				errs[i] = l.setRewind(op)
			default:
				errs[i] = l.append(op)
			}
		})
		synctest.Wait()
	}
	hold(nil)
	close(gate)
	clients.Wait()
	l.check(errors.Join(errs...))
}

// advance has every log's client checkpoint all it has, so that segments may go.
func (l *crashLife) advance(names []string) {
	for _, name := range names {
		l.setCheckpoint(name, 0)
	}
}

// setCheckpoint sets a checkpoint at most back records before the log's end.
func (l *crashLife) setCheckpoint(name string, back int) {
	info, err := l.v.Log(name)
	if err != nil {
		return // it was deleted
	}
	lsn := info.Durable() - min(info.Durable(), LSN(l.rng.IntN(back+1)))
	state := fmt.Sprintf("%s behind %d %s", name, lsn, strings.Repeat("s", l.rng.IntN(min(5000, l.v.maxBatch/2))))
	op := l.ask(&crashOp{kind: crashCheckpoint, log: name, cp: Checkpoint{Name: "cp", LSN: lsn, State: []byte(state)}})
	set, err := l.v.SetCheckpoint(context.Background(), name, op.cp, nil)
	if err == nil {
		l.mu.Lock()
		op.cp.Version = set.Version
		l.mu.Unlock()
	}
	l.answered(op, err, ErrCheckpointBackwards, ErrLSNTruncated)
}

// deleteCheckpoint gives up the checkpoint, and with it that it holds anything.
func (l *crashLife) deleteCheckpoint(name string) {
	op := l.ask(&crashOp{kind: crashDeleteCheckpoint, log: name})
	l.answered(op, l.v.DeleteCheckpoint(context.Background(), name, "cp", nil), ErrCheckpointNotFound)
}

// moveCursor sets or deletes the log's cursor. Its cap is soon reached.
func (l *crashLife) moveCursor(name string) {
	info, err := l.v.Log(name)
	if err != nil {
		return // it was deleted
	}
	if l.rng.IntN(4) == 0 {
		op := l.ask(&crashOp{kind: crashDeleteCursor, log: name})
		l.answered(op, l.v.DeleteCursor(context.Background(), name, "reader", nil), ErrCursorNotFound)
		return
	}
	back := l.rng.IntN(12)
	op := l.ask(&crashOp{kind: crashSetCursor, log: name, cursor: CursorUpdate{
		Name: "reader", LSN: info.Durable() - min(info.Durable(), LSN(back)), Cap: uint64(l.v.maxBatch), Reset: l.rng.IntN(3) == 0,
	}})
	_, err = l.v.SetCursor(context.Background(), name, op.cursor)
	if errors.Is(err, ErrCursorLost) {
		l.mu.Lock()
		op.lost = true
		l.mu.Unlock()
	}
	if l.answered(op, err, ErrCursorBackwards, ErrCursorLost, ErrLSNTruncated, ErrInvalid, ErrRewound) || !errors.Is(err, ErrRewound) {
		return
	}
	if c, err := l.v.Cursor(name, "reader"); err != nil || c.Rewound == 0 {
		l.fail(fmt.Errorf("log %q: cursor %+v is said to be rewound: %w", name, c, err))
	}
}

// truncate gives up some of the oldest records.
func (l *crashLife) truncate(name string) {
	info, err := l.v.Log(name)
	if err != nil {
		return // it was deleted
	}
	l.truncateTo(name, info.First+LSN(l.rng.IntN(int(info.Next-info.First)+1)))
}

func (l *crashLife) truncateTo(name string, first LSN) {
	op := l.ask(&crashOp{kind: crashTruncate, log: name, first: first})
	_, err := l.v.Truncate(context.Background(), name, op.first)
	l.answered(op, err, ErrHeld)
}

func (l *crashLife) delete(name string) {
	op := l.ask(&crashOp{kind: crashDelete, log: name})
	err := l.v.DeleteLog(context.Background(), name, [16]byte{})
	l.answered(op, err)
	delete(l.logs, name)
}

// readSpan returns every record of a log from an LSN on.
func readSpan(v *Volume, log string, from LSN) (out []string, err error) {
	r, err := v.NewReader(log, ReadOptions{From: from})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	spans, err := drain(r)
	for _, span := range spans {
		recs, serr := split(span.Run)
		if serr != nil {
			return nil, serr
		}
		out = append(out, recs...)
	}
	return out, err
}

// TestCrashCheckNotices looks at a volume with expectations that it does not
// meet, one after the other: a check that lets one of them pass proves nothing.
func TestCrashCheckNotices(t *testing.T) {
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	info := mustCreate(t, v, "a")
	first := mustAppend(t, v, "a", "1/0/x", "1/1/x")
	second := mustAppend(t, v, "a", "2/0/y")
	mustCheckpoint(t, v, "a", "cp", 1, "state")
	mustCursor(t, v, "a", CursorUpdate{Name: "reader", LSN: 2})
	// What was done to it, and what it had shown before: nothing.
	made := func() (w *crashWant, create, one, two, cp *crashOp) {
		create = &crashOp{kind: crashCreate, log: "a", asked: 1, answered: 2}
		one = &crashOp{kind: crashAppend, log: "a", id: 1, records: []string{"1/0/x", "1/1/x"}, verdict: first, asked: 3, answered: 4}
		two = &crashOp{kind: crashAppend, log: "a", id: 2, records: []string{"2/0/y"}, verdict: second, asked: 5, answered: 6}
		cp = &crashOp{kind: crashCheckpoint, log: "a", cp: Checkpoint{Name: "cp", LSN: 1, Version: 1, State: []byte("state")}, asked: 7, answered: 8}
		cursor := &crashOp{kind: crashSetCursor, log: "a", cursor: CursorUpdate{LSN: 2}, asked: 7, answered: 8}
		life := &crashLife{ops: []*crashOp{create, one, two, cp, cursor}}
		return &crashWant{base: &crashShown{logs: map[string]*shownLog{}}, life: life, sure: 99, possible: 99}, create, one, two, cp
	}
	verify := func(w *crashWant) error {
		_, err := w.verify(v, map[string]int{})
		return err
	}
	w, _, _, _, _ := made()
	if err := verify(w); err != nil {
		t.Fatal(err)
	}
	shown := func(w *crashWant, l shownLog) {
		l.sums = make([]Checksum, len(l.records)+1) // behind records that are another's
		w.base.logs["a"] = &l
	}
	also := func(w *crashWant, op crashOp) {
		op.asked, op.answered = 9, 10
		w.life.ops = append(w.life.ops, &op)
	}
	for name, unmet := range map[string]func(w *crashWant, create, one, two, cp *crashOp){
		"a batch that was cut off once is back": func(w *crashWant, _, _, two, _ *crashOp) {
			w.life.ops = slices.DeleteFunc(w.life.ops, func(op *crashOp) bool { return op == two })
		},
		"a batch comes before it is sent": func(_ *crashWant, _, _, two, _ *crashOp) { two.asked, two.answered = 100, 0 },
		"a refused batch is there":        func(_ *crashWant, _, _, two, _ *crashOp) { two.refused = true },
		"a batch is there and refused":    func(_ *crashWant, _, _, two, _ *crashOp) { two.refused, two.answered = true, 100 },
		"an acknowledged batch is lost": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashAppend, log: "a", id: 3, records: []string{"3/0/z"}, verdict: Verdict{First: 4, Count: 1}})
		},
		"a batch is elsewhere": func(_ *crashWant, _, _, two, _ *crashOp) { two.verdict.First = 9 },
		"a part of a batch is missing": func(w *crashWant, _, _, two, _ *crashOp) {
			part := &crashOp{kind: crashAppend, log: "a", id: 3, records: []string{"3/0/z"}, asked: 9}
			two.whole = []*crashOp{two, part}
			part.whole = two.whole
			w.life.ops = append(w.life.ops, part)
		},
		"half a batch is there":   func(_ *crashWant, _, _, two, _ *crashOp) { two.records = []string{"2/0/y", "2/1/y"} },
		"a batch has other bytes": func(_ *crashWant, _, _, two, _ *crashOp) { two.records = []string{"2/0/yy"} },
		"a later batch is in front": func(_ *crashWant, _, one, two, _ *crashOp) {
			two.asked, two.answered, one.asked, one.answered = 3, 4, 5, 6
		},
		"a batch is there twice": func(_ *crashWant, _, one, two, _ *crashOp) { one.records, two.id = []string{"1/0/x"}, 1 },
		"what was shown is lost": func(w *crashWant, _, _, _, _ *crashOp) {
			shown(w, shownLog{info: LogInfo{ID: info.ID, First: 1, Next: 5}, records: []string{"1/0/x", "1/1/x", "2/0/y", "3/0/z"}})
		},
		"what was shown is something else": func(w *crashWant, _, _, _, _ *crashOp) {
			shown(w, shownLog{info: LogInfo{ID: info.ID, First: 1, Next: 2}, records: []string{"1/0/z"}})
		},
		"a truncation is undone": func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashTruncate, log: "a", first: 2}) },
		"a checkpoint went back": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashCheckpoint, log: "a", cp: Checkpoint{LSN: 2, Version: 2}})
		},
		"a deleted checkpoint is back":   func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashDeleteCheckpoint, log: "a"}) },
		"a checkpoint has another state": func(_ *crashWant, _, _, _, cp *crashOp) { cp.cp.State = []byte("other") },
		"a cursor went back": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashSetCursor, log: "a", cursor: CursorUpdate{LSN: 3}})
		},
		"a deleted cursor is back": func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashDeleteCursor, log: "a"}) },
		"a lost cursor is not lost": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashSetCursor, log: "a", refused: true, lost: true})
		},
		"a cursor is there before it is set": func(w *crashWant, _, _, _, _ *crashOp) { w.life.ops[4].asked, w.life.ops[4].answered = 100, 0 },
		"a deleted log is back":              func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashDelete, log: "a"}) },
		"a log is lost":                      func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashCreate, log: "b"}) },
		"a log was never created":            func(_ *crashWant, create, _, _, _ *crashOp) { create.log = "b" },
		"a log is another one":               func(w *crashWant, _, _, _, _ *crashOp) { shown(w, shownLog{info: LogInfo{First: 1, Next: 1}}) },
		"a producer's batch is not known":    func(_ *crashWant, _, _, two, _ *crashOp) { two.sequence = 1 },
		"a sequence is used twice": func(w *crashWant, _, _, _, _ *crashOp) {
			for id := range 2 {
				w.life.ops = append(w.life.ops, &crashOp{kind: crashAppend, log: "a", id: 3 + id, sequence: 1, asked: 9 + id})
			}
		},
		"an epoch that was told is lost": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashWriter, log: "a", epoch: 2, holder: "db"})
		},
		"an epoch went back": func(w *crashWant, _, _, _, _ *crashOp) {
			shown(w, shownLog{info: LogInfo{ID: info.ID, Epoch: 2, First: 1, Next: 1}})
		},
		"a writer is another one": func(w *crashWant, _, _, _, _ *crashOp) {
			shown(w, shownLog{info: LogInfo{ID: info.ID, Epoch: 1, Holder: "db", First: 1, Next: 1}})
		},
		"an incarnation that was told is lost": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashResolve, log: "a", incarnation: 2})
		},
		"a retired producer is back": func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashRetire, log: "a"}) },
		"a sealed log is not":        func(w *crashWant, _, _, _, _ *crashOp) { also(w, crashOp{kind: crashSeal, log: "a"}) },
		"a claim does not hold":      func(_ *crashWant, _, _, two, _ *crashOp) { two.verdict.Checksum++ },
		"a rewind that was told is lost": func(w *crashWant, _, _, _, _ *crashOp) {
			also(w, crashOp{kind: crashRewind, log: "a", epoch: 2, after: 1})
		},
		"a log was rewound, and nobody asked for it": func(w *crashWant, _, _, _, _ *crashOp) {
			shown(w, shownLog{info: LogInfo{ID: info.ID, Epoch: 1, First: 1, Next: 1, Rewinds: []Cut{{Epoch: 1, LSN: 3}}}})
		},
		"a log has another rate":  func(_ *crashWant, create, _, _, _ *crashOp) { create.options.RateBytes = limits.MinLogRate },
		"a log has another quota": func(_ *crashWant, create, _, _, _ *crashOp) { create.options.QuotaBytes = 1 },
	} {
		w, create, one, two, cp := made()
		unmet(w, create, one, two, cp)
		if err := verify(w); err == nil {
			t.Errorf("%s: nobody notices", name)
		}
	}
}
