package wal

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// A Volume is one directory on one disk, holding one journal that any number of
// logs share. Its methods may be called concurrently.
//
//	Appender, do ──► ahead (under the bus's lock) ──► batcher.Bus
//	                                                     │ orderer.Submit
//	                                                     ▼
//	readers ◄── durable + index (under mu) ◄── publish ◄─ segment.Journal
//	                                  │
//	                                  └──► snapshotter, janitor (on their own)
type Volume struct {
	o        Options
	fs       *disk.Watch
	dir      string
	journal  *segment.Journal
	bus      *batcher.Bus // nil when read-only
	fetch    *replay.Fetcher
	orderer  orderer
	clock    clock
	recovery Recovery
	readOnly error // why nothing is accepted; nil when writable
	// aside: another process may have the volume, and releases segments unnoticed.
	aside bool
	// lossy names the logs that had lost records when the volume was opened. Only
	// repairs add to them, and those are done to volumes that are closed.
	lossy []string

	// Bounds that follow from the volume's segment size, in bytes.
	fullSize, maxBatch int

	// unpromised is set while the journal's last frame is one that a later frame
	// has yet to promise.
	unpromised atomic.Bool
	// admitted counts bytes that were sequenced and not yet appended.
	admitted atomic.Int64
	// stateSize is that of the newest snapshot, in bytes; see leave.
	stateSize atomic.Int64

	// ahead is the state with everything that was sequenced, bound the binding of
	// each producer. The bus's lock guards them.
	ahead *State
	bound map[bindKey]*Binding
	seats atomic.Uint64 // that were taken

	// landing is the commit time of the frame whose riders are told: of whoever tells.
	landing int64

	mu      sync.RWMutex
	durable *State // readers see this
	names   names  // of its logs
	index   index
	rates   rates                    // of logs that have one; the bus's lock guards it
	watches map[uint64]chan struct{} // by log number: closed when its durable state changed
	last    segment.FrameRef         // where the frame after the last durable one is
	bytes   int64                    // of journal since the newest snapshot began
	failed  error                    // set once: ErrPoisoned or ErrClosed, wrapped
	done    chan struct{}            // closed with failed

	snapshots snapshotter
	janitor   janitor
	counters  counters

	// free is what the file system last said it has free, in bytes; asking is set
	// while it is asked.
	free   atomic.Uint64
	asking atomic.Bool
}

// counters count since the volume was opened.
type counters struct {
	commits, syncs, records, rawBytes, storedBytes, rolls, recycles, snapshots, evicted atomic.Uint64

	movedRecords, movedBytes            atomic.Uint64
	writers, retired, madeWay, resolved atomic.Uint64
	refused                             [Refusals]atomic.Uint64
}

// The tags of inserted frames, as batcher.Frame.Tag. Zero is a frame of commands.
const (
	tagSnapshot uint8 = 1
	tagPromise  uint8 = 2
	tagRoll     uint8 = 3
)

// An orderer puts frames into their final order and makes them durable. Submit
// may return before the frame is durable; whatever it does, it calls
// bus.Landed(ticket, err) once for every frame, in order, when the frame can no
// longer be lost, or is. The local one writes and syncs before it returns; one
// that replicates would hand the frame on and hear later. Publishing and acks
// hang on Landed alone, so neither needs to know.
type orderer interface{ Submit(f *batcher.Frame) }

// cargo is what a frame carries besides its bytes.
type cargo struct {
	commands []Command
	blocks   []segment.Block // scratch
	pos      segment.Pos
	next     segment.FrameRef // of the frame behind this one
	size     int64
	admitted int64
	rolled   bool
	records  int
	time     int64 // commit time
	write    time.Duration
	sync     time.Duration
	// unwritten is set of a frame that was to begin a segment for which there is
	// no room: it lands without having gone anywhere.
	unwritten bool
}

var cargoPool = sync.Pool{New: func() any { return new(cargo) }}

// cargoOf returns the frame's cargo. REQUIRES: boarded, or the frame is sealed.
func cargoOf(f *batcher.Frame) *cargo {
	if c, ok := f.Attached().(*cargo); ok {
		return c
	}
	c := cargoPool.Get().(*cargo)
	*c = cargo{commands: c.commands[:0], blocks: c.blocks}
	f.Attach(c)
	return c
}

// localOrderer orders frames by writing them to the volume's own journal.
type localOrderer struct{ v *Volume }

// Submit writes and syncs a frame. When it returns, the frame has landed.
func (l localOrderer) Submit(f *batcher.Frame) {
	v := l.v
	c := cargoOf(f)
	d := segment.Draft{Time: v.clock.now(), Meta: f.Meta(), Blocks: c.blocks[:0], Image: f.Image()}
	for _, b := range f.Blocks() {
		d.Blocks = append(d.Blocks, segment.Block(b))
	}
	switch f.Tag {
	case tagSnapshot:
		d.Kind = segment.KindSnapshot
	case tagPromise, tagRoll:
		d.Kind = segment.KindPromise
	default:
		d.Kind = segment.KindCommands
	}
	if f.Tag == tagRoll {
		if err := v.journal.Roll(); errors.Is(err, segment.ErrNoSpace) {
			c.unwritten = true
			v.bus.Landed(f.Ticket, nil)
			return
		}
	}
	began := time.Now()
	w, err := v.journal.Append(&d)
	c.write = time.Since(began)
	clear(d.Blocks)
	c.blocks = d.Blocks[:0]
	v.admitted.Add(-c.admitted)
	if err == nil {
		v.bus.Written(f)
		err = v.journal.Sync()
		c.sync = time.Since(began) - c.write
		v.counters.syncs.Add(1)
	}
	if err == nil {
		v.unpromised.Store(d.Kind != segment.KindPromise)
		c.pos, c.size, c.rolled, c.time = w.Ref.Pos, w.Header.Size(), w.Rolled, w.Header.Time
		c.next = segment.FrameRef{
			Pos:      segment.Pos{Segment: c.pos.Segment, Offset: c.pos.Offset + c.size},
			Sequence: w.Header.Sequence + 1,
			Chain:    w.Header.Checksum,
		}
	}
	v.bus.Landed(f.Ticket, v.wrap(err))
}

// wrap gives an error of the packages below the name callers test for.
func (v *Volume) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrPoisoned), errors.Is(err, ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, batcher.ErrClosed), errors.Is(err, segment.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: %w", ErrPoisoned, err)
}

// Open opens the volume in dir: it takes the volume's lock, recovers, makes
// durable what it vouches for, and starts serving. The volume is created if
// there is none and o.Create is set.
//
// It returns ErrNoVolume, ErrInUse, ErrVersion or ErrDamaged, wrapped with a
// next step, or the disk's error. Damage that leaves a readable prefix is no
// error: the volume opens read-only and Recovery names what is hit. An operation
// of the disk that fails while the volume is opened ends that, and leaves what the
// next opening finds its way with; on a disk that hangs it waits, and Events tells.
func Open(ctx context.Context, dir string, o Options) (*Volume, error) {
	began := time.Now()
	direct, err := disk.ParseDirect(o.Direct)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w: %w", dir, ErrInvalid, err)
	}
	if o.FS == nil {
		o.FS = disk.OS(disk.OSOptions{Direct: direct})
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.Rand = &lockedReader{r: o.Rand}
	if o.SnapshotEvery <= 0 {
		o.SnapshotEvery = defaultSnapshotEvery
	}
	if o.StallAfter <= 0 {
		o.StallAfter = limits.StallAfter
	}
	fs := disk.NewWatch(o.FS, o.StallAfter, o.Events.stalled, o.Events.stallEnded)
	v := &Volume{o: o, fs: fs, dir: dir, watches: map[uint64]chan struct{}{}, bound: map[bindKey]*Binding{}, done: make(chan struct{})}
	v.orderer = localOrderer{v}
	v.index.init(v)
	v.janitor.init() // the preparer kicks it, and works before it does
	v.snapshots.init()
	if o.Codec == "" {
		o.Codec = batcher.Auto.String()
	}
	policy, err := batcher.ParseCodecPolicy(o.Codec)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w: %w", dir, ErrInvalid, err)
	}
	so := segment.Options{
		FS: fs, Dir: dir, SegmentSize: o.SegmentSize, PrepareRate: o.PrepareRate, Rand: o.Rand, Now: o.Now,
		Seal: v.sealMeta,
		Events: segment.Events{
			Stranger:      o.Events.Stranger,
			PrepareFailed: v.prepareFailed,
			Poisoned:      func(cause error) { v.fail(v.wrap(cause)) },
			Released:      func(segment.ID, bool) { v.counters.recycles.Add(1) },
			Sealed:        func(id segment.ID) { v.counters.rolls.Add(1); v.tellRolled(id) },
		},
	}
	if v.journal, err = openJournal(so, o.Create); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, v.journal.Close())
	}
	v.fetch = replay.NewFetcher(v.journal)
	if err := v.recover(); err != nil {
		return nil, errors.Join(err, v.fetch.Close(), v.journal.Close())
	}
	v.recovery.Took = time.Since(began)
	v.lossy = v.durable.lossy()
	if v.readOnly != nil {
		return v, nil
	}
	v.ahead, v.rates = v.durable.Clone(), rates{}
	maxFrame := int(min(v.journal.MaxFrame(), limits.MaxFrameSize))
	v.fullSize = min(limits.FrameFullSize, maxFrame/4)
	v.maxBatch = min(limits.MaxBatchSize, maxFrame/2)
	v.bus = batcher.New(batcher.Options{
		FullSize: v.fullSize, MaxCommands: limits.FrameFullCommands, BlockSize: min(limits.TargetBlockSize, v.fullSize), Codec: policy,
		Memory: disk.AlignedBuffer,
		Submit: v.orderer.Submit, Publish: v.publish, Idle: v.promiseWhenIdle,
		Events: batcher.Events{FrameLanded: v.landed},
	})
	v.snapshots.start(v)
	// It may have been kicked by now: what it rides on comes before it.
	v.janitor.start(v)
	if v.needsPromise() { // what was rewritten is acknowledged as of now
		if err := v.promise(); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	if err := v.snapshotAtOpen(); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	v.janitor.kick()
	return v, nil
}

func openJournal(so segment.Options, create bool) (*segment.Journal, error) {
	j, err := segment.Open(so)
	if errors.Is(err, segment.ErrNotVolume) && create {
		if err = segment.Create(so); err == nil {
			j, err = segment.Open(so)
		}
	}
	switch {
	case err == nil:
		return j, nil
	case errors.Is(err, segment.ErrNotVolume):
		return nil, fmt.Errorf("open volume %s: %w: %w", so.Dir, ErrNoVolume, err)
	case errors.Is(err, disk.ErrLocked):
		return nil, fmt.Errorf("open volume %s: %w: %w", so.Dir, ErrInUse, err)
	case errors.Is(err, segment.ErrNewerVersion):
		return nil, fmt.Errorf("open volume %s: %w: %w", so.Dir, ErrVersion, err)
	}
	for _, damage := range []error{segment.ErrVolumeFileLost, segment.ErrBadVolumeFile, segment.ErrBadName} {
		if errors.Is(err, damage) {
			return nil, fmt.Errorf("open volume %s: %w: %w", so.Dir, ErrDamaged, err)
		}
	}
	return nil, fmt.Errorf("open volume %s: %w", so.Dir, err)
}

// publish is told by the bus of every frame, in order, once it has landed. Only
// now does what the frame carries become visible.
func (v *Volume) publish(f *batcher.Frame, err error) {
	if err != nil {
		v.fail(err)
		return
	}
	c := cargoOf(f)
	if c.unwritten {
		return
	}
	v.landing = c.time
	var evicted []CursorLostError
	var news news
	v.mu.Lock()
	v.last = c.next
	v.bytes += c.size
	for i := range c.commands {
		cmd := &c.commands[i]
		news.note(v.durable, cmd)
		v.name(cmd)
		if err := v.durable.Apply(cmd); err != nil {
			// Sequenced against the state ahead, refused by the durable one: the
			// two have parted, and no acknowledgement may follow from either.
			panic(fmt.Sprintf("wal: frame %d: %v", c.next.Sequence-1, err))
		}
		v.index.apply(v.durable, cmd, c.pos)
		if w, ok := v.watches[cmd.Log]; ok {
			close(w)
			delete(v.watches, cmd.Log)
		}
		switch cmd.Kind {
		case CommandAppend, CommandAppendPart:
			c.records += int(cmd.Count)
			v.counters.rawBytes.Add(uint64(cmd.Size))
		case CommandMoveRecords:
			if cmd.carriesRecords() {
				v.counters.movedRecords.Add(uint64(cmd.Count))
				v.counters.movedBytes.Add(uint64(cmd.Size))
			}
		case CommandEvictCursor:
			l := v.durable.logs.get(cmd.Log)
			evicted = append(evicted, CursorLostError{
				Log: l.name, Cursor: cmd.Name, LSN: cmd.LSN, First: l.first, Next: l.next, Cap: cmd.Cap, Evicted: timeOf(cmd.Time),
			})
		default:
		}
	}
	if err := v.durable.whole(); err != nil {
		panic(fmt.Sprintf("wal: frame %d: %v", c.next.Sequence-1, err))
	}
	crowded := v.durable.crowded
	due := f.Tag != tagSnapshot && v.snapshotDue(c.rolled)
	v.mu.Unlock()
	v.counters.records.Add(uint64(c.records))
	if f.Tag == 0 {
		v.counters.commits.Add(1)
		for _, b := range f.Blocks() {
			v.counters.storedBytes.Add(uint64(len(b.Stored)))
		}
	}
	if due {
		v.snapshots.kick()
	}
	if c.rolled || crowded {
		v.janitor.kick()
	}
	news.tell(v)
	for _, lost := range evicted {
		v.counters.evicted.Add(1)
		if v.o.Events.CursorEvicted != nil {
			v.o.Events.CursorEvicted(lost)
		}
	}
}

// landed is told by the bus of every durable frame, in order, once its riders
// know.
func (v *Volume) landed(i batcher.FrameInfo) {
	c := i.Attached.(*cargo)
	if v.o.Events.Frame != nil && !c.unwritten {
		v.o.Events.Frame(FrameInfo{
			Sequence: c.next.Sequence - 1, Commands: i.Commands, Records: c.records, Blocks: i.Blocks,
			RawSize: i.RawSize, StoredSize: i.StoredSize,
			Queue: i.Fill, Compress: i.Compress, Write: c.write, Sync: c.sync, Ack: i.Tell,
		})
	}
	cargoPool.Put(c)
}

func (v *Volume) tellRolled(id segment.ID) {
	if v.o.Events.Rolled != nil {
		v.o.Events.Rolled(uint64(id))
	}
}

// fail ends the volume for everybody: what waits is woken and told.
func (v *Volume) fail(err error) {
	v.mu.Lock()
	first := v.failed == nil
	if first {
		v.failed = err
		close(v.done)
	}
	v.mu.Unlock()
	if first && errors.Is(err, ErrPoisoned) && v.o.Events.Poisoned != nil {
		v.o.Events.Poisoned(err)
	}
}

// failure returns why the volume takes nothing more, nil while it does.
func (v *Volume) failure() error {
	if v.readOnly != nil {
		return v.readOnly
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.failed
}

// promiseWhenIdle gives the last acknowledgement its promise, unless the last
// frame was one that did.
func (v *Volume) promiseWhenIdle(f *batcher.Frame) bool {
	if !v.needsPromise() {
		return false
	}
	give, err := v.admitInserted(0, forRoom)
	if err != nil {
		return false // no room: opening will do what a promise would have spared it
	}
	f.Tag = tagPromise
	cargoOf(f).admitted = give
	return true
}

// promise writes a frame that promises everything before it, and waits for it.
// Without room it does nothing.
func (v *Volume) promise() error {
	give, err := v.admitInserted(0, forRoom)
	if err != nil {
		return nil
	}
	w := newWaiter()
	err = v.bus.Insert(tagPromise, func(f *batcher.Frame) {
		cargoOf(f).admitted = give
		f.Ride(w)
	})
	if err != nil {
		return v.wrap(err)
	}
	return <-w.landed
}

func (v *Volume) needsPromise() bool {
	return v.unpromised.Load() && v.journal.Poisoned() == nil
}

// Drain ends what waits for room for a segment's name on a full disk, with ErrClosed,
// and has nothing wait for it any more. It comes before Close, for who first waits for
// his calls to return: one that appends may be what waits.
func (v *Volume) Drain() { v.journal.Drain() }

// Close flushes what was sequenced, gives the last acknowledgement its promise
// and closes the journal. What was acknowledged is durable whether or not it
// succeeds. Readers end with ErrClosed.
func (v *Volume) Close() error {
	var errs []error
	if v.bus != nil {
		v.Drain() // whoever waits for room on a full disk holds up everybody behind
		v.janitor.stop()
		v.snapshots.stop()
		err := v.bus.Flush(context.Background())
		if err == nil && v.needsPromise() {
			err = v.promise()
		}
		if cerr := v.bus.Close(); err == nil {
			err = cerr
		}
		if poison := v.journal.Poisoned(); err == nil && poison != nil {
			err = v.wrap(poison) // of what happened while nobody appended
		}
		errs = append(errs, err)
	}
	v.fail(fmt.Errorf("volume %s: %w", v.dir, ErrClosed))
	errs = append(errs, v.fetch.Close(), v.journal.Close())
	v.fs.Quiesce()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close volume %s: %w", v.dir, err)
	}
	return nil
}

// do sequences one command that decide makes against the state ahead, of at most
// size bytes with those it carries, and waits until it is durable. A refusal, and a command that
// turns out to be needless (nil), wait likewise until the state they were
// decided on is durable: no answer may show what a crash could take back. If
// ctx ends first, the outcome is unknown.
func (v *Volume) do(ctx context.Context, size int, use purpose, decide func(s *State) (*Command, []byte, error)) error {
	if v.readOnly != nil {
		return v.readOnly
	}
	f, full, err := v.board(ctx, size, use)
	if err != nil {
		return err
	}
	// Decided first: what changes nothing needs no space.
	cmd, payload, refusal := decide(v.ahead)
	switch {
	case refusal != nil || cmd == nil:
	case full != nil:
		refusal = full
	default:
		v.put(f, cmd, payload)
	}
	w := newWaiter()
	f.Ride(w)
	v.bus.Leave()
	select {
	case err := <-w.landed:
		if err != nil {
			return v.wrap(err)
		}
		return refusal
	case <-ctx.Done():
		return fmt.Errorf("outcome unknown: %w", context.Cause(ctx))
	}
}

// put applies a command to the state ahead and puts it on the bus. REQUIRES:
// boarded; the command was decided against the state ahead.
func (v *Volume) put(f *batcher.Frame, cmd *Command, payload []byte) {
	before := f.RawSize()
	if payload != nil {
		var block, offset int
		if cmd.Kind == CommandAppend || cmd.Kind == CommandAppendPart {
			block, offset = f.AddSummed(cmd.Log, payload, cmd.RunSum)
		} else {
			block, offset = f.AddRecords(cmd.Log, payload)
		}
		cmd.Place = Place{Block: uint32(block), Offset: uint32(offset), Size: uint32(len(payload))}
	}
	if err := v.ahead.Apply(cmd); err != nil {
		panic(fmt.Sprintf("wal: sequencing: %v", err))
	}
	c := cargoOf(f)
	c.commands = append(c.commands, *cmd)
	f.AddCommand(func(dst []byte) []byte { return AppendCommand(dst, cmd) })
	size := int64(f.RawSize()-before) + blockTableEntry
	if c.admitted == 0 {
		size += frameOverhead
	}
	c.admitted += size
	v.admitted.Add(size)
}

// A waiter waits for one frame.
type waiter struct{ landed chan error }

func newWaiter() *waiter { return &waiter{landed: make(chan error, 1)} }

// Landed implements batcher.Rider.
func (w *waiter) Landed(_ uint64, err error) { w.landed <- err }

// ID returns the volume's ULID.
func (v *Volume) ID() ulid.ULID { return v.journal.Volume() }

// MaxBatch returns the most bytes that the runs of a batch have together, all of its
// logs' as framed: limits.MaxBatchSize, or what fits where segments are small. It is 0 if
// the volume takes nothing, being read-only.
func (v *Volume) MaxBatch() int { return v.maxBatch }

// Recovery returns what opening the volume found.
func (v *Volume) Recovery() Recovery { return v.recovery }

// Stalled returns the operation of the disk that hangs, nil if none does, and a
// channel that is closed when that has changed. While one hangs, nothing that
// depends on it is acknowledged, refused or shown; what is durable can be read
// as far as the disk reads. It is over when the disk answers.
func (v *Volume) Stalled() (s *Stall, changed <-chan struct{}) {
	stall, stalled, changed := v.fs.Stalled()
	if !stalled {
		return nil, changed
	}
	return stallOf(stall), changed
}

func stallOf(s disk.Stall) *Stall { return &Stall{Operation: s.Op.String(), Since: s.Since} }

// DurableFrame returns the sequence of the last frame that is durable: it grows with
// every commit.
func (v *Volume) DurableFrame() uint64 { return v.journal.Durable() }

// Status returns the volume's state. A disk that hangs keeps it no longer than
// Options.StallAfter.
func (v *Volume) Status() Status {
	space := v.journal.Space()
	s := Status{
		Volume: v.journal.Volume(), Recovery: v.recovery, DurableFrame: v.journal.Durable(),
		Segments: space.Segments, SegmentSize: v.journal.SegmentSize(), Spares: space.Spares,
		AppendableBytes: v.appendable(space),
		Commits:         v.counters.commits.Load(), Syncs: v.counters.syncs.Load(), Records: v.counters.records.Load(),
		RawBytes: v.counters.rawBytes.Load(), StoredBytes: v.counters.storedBytes.Load(), Rolls: v.counters.rolls.Load(),
		Recycles: v.counters.recycles.Load(), Snapshots: v.counters.snapshots.Load(),
		CursorsEvicted: v.counters.evicted.Load(),
		WriterChanges:  v.counters.writers.Load(), ProducersRetired: v.counters.retired.Load(),
		ProducersMadeWay: v.counters.madeWay.Load(), ProducersResolved: v.counters.resolved.Load(),
		Refused:      v.counters.refusals(),
		MovedRecords: v.counters.movedRecords.Load(), MovedBytes: v.counters.movedBytes.Load(),
	}
	s.DiskFree = v.askFree()
	s.Stall, _ = v.Stalled()
	s.Stalls = v.fs.Stalls()
	s.State, s.Detail = v.State()
	if v.readOnly != nil {
		s.DurableFrame = v.recovery.LastSequence
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	s.Logs = v.durable.logs.len()
	s.Lost, s.LostRecords = v.durable.lost(v.lossy)
	return s
}

// askFree asks the file system for its free bytes, unless it hangs or somebody
// is asking, and returns what it last said.
func (v *Volume) askFree() uint64 {
	stall, changed := v.Stalled()
	if stall == nil && v.asking.CompareAndSwap(false, true) {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			if free, err := v.fs.Free(v.dir); err == nil {
				v.free.Store(free)
			}
			v.asking.Store(false)
		}()
		select {
		case <-answered:
		case <-changed: // it is this question that hangs, or another operation
		}
	}
	return v.free.Load()
}

// State says what the volume takes, and, unless it is Serving, why, and what to
// do next. It asks the disk for nothing.
func (v *Volume) State() (state VolumeState, detail string) {
	if failed := v.poisoned(); failed != nil {
		return Poisoned, failed.Error() + "; restart the service: it recovers to what is durable"
	}
	if stall, _ := v.Stalled(); stall != nil {
		return DiskStalled, fmt.Sprintf("the disk has not answered since %s: %s; look at the disk: what waits goes on when it answers",
			stall.Since.UTC().Format(time.RFC3339), stall.Operation)
	}
	if v.readOnly != nil {
		return ReadOnly, v.readOnly.Error()
	}
	space := v.journal.Space()
	if space.PrepareError != nil && v.appendable(space) < limits.BlockSize {
		return Full, fmt.Sprintf("no room to prepare segments: %v; truncate logs, set checkpoints, or make room on the file system", space.PrepareError)
	}
	return Serving, ""
}

// poisoned returns what poisoned the volume, nil if nothing has.
func (v *Volume) poisoned() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if errors.Is(v.failed, ErrPoisoned) {
		return v.failed
	}
	// The journal knows a moment earlier, and tells whoever asks it.
	return v.wrap(v.journal.Poisoned())
}

// lookup returns a durable log by name. REQUIRES: mu is held, for reading at least.
func (v *Volume) lookup(name string) (*logState, error) {
	if l := v.durable.named(name); l != nil {
		return l, nil
	}
	err := notFound(name)
	if v.readOnly != nil && errors.Is(err, ErrLogNotFound) { // the state is that in front of the damage
		err = fmt.Errorf("%w; the volume is read-only because of damage, which may have taken it", err)
	}
	return nil, err
}

func notFound(name string) error {
	if !validName(name, limits.MaxLogNameBytes) {
		return invalidName("log", name, limits.MaxLogNameBytes)
	}
	return fmt.Errorf("log %q: %w", name, ErrLogNotFound)
}

func invalidName(what, name string, limit int) error {
	if len(name) > limit {
		return fmt.Errorf("%s name of %d bytes: %w: the limit is %d", what, len(name), ErrInvalidName, limit)
	}
	return fmt.Errorf("%s name %q: %w: want letters, digits and . _ - / with a letter or digit first", what, name, ErrInvalidName)
}

// CreateLog creates a log, durably, or returns the one that has the name if its
// options agree. It returns ErrInvalidName, ErrInvalid, ErrLogExists,
// ErrTooManyLogs or ErrFull.
func (v *Volume) CreateLog(ctx context.Context, name string, o LogOptions) (info LogInfo, created bool, err error) {
	if !validName(name, limits.MaxLogNameBytes) {
		return LogInfo{}, false, invalidName("log", name, limits.MaxLogNameBytes)
	}
	if err := validOptions(&o); err != nil {
		return LogInfo{}, false, fmt.Errorf("create log %q: %w", name, err)
	}
	id, err := v.newID()
	if err != nil {
		return LogInfo{}, false, fmt.Errorf("create log %q: %w", name, err)
	}
	decide := func(s *State) (*Command, []byte, error) {
		if l := s.named(name); l != nil {
			if !l.equalOptions(&o) {
				return nil, nil, fmt.Errorf("log %q: %w", name, ErrLogExists)
			}
			info = l.info() // as decided on: when it is told, the log may be gone
			return nil, nil, nil
		}
		if _, err := v.Log(name); err == nil {
			// One that had the name is deleted in a frame that has not landed. A frame is
			// committed later than what rides in it is decided: the new log would count as
			// older than the last records of the old one, whose receipts would then be
			// contradicted, for that the name was taken by another log.
			return nil, nil, errLookAgain
		}
		if s.logs.len() >= limits.MaxLogs {
			return nil, nil, fmt.Errorf("create log %q: %w: the limit is %d", name, ErrTooManyLogs, limits.MaxLogs)
		}
		created = true
		cmd := &Command{Kind: CommandCreateLog, Log: s.next, ID: id, Name: name, Time: v.clock.now(), Options: o}
		info = newLogState(cmd).info()
		return cmd, nil, nil
	}
	for {
		switch err = v.do(ctx, maxCommandBytes, forRecords, decide); {
		case errors.Is(err, errLookAgain):
			continue // what it was decided on is durable by now
		case err != nil:
			return LogInfo{}, false, err
		}
		return info, created, nil
	}
}

// newID draws a ULID. Its time is the volume's clock.
func (v *Volume) newID() (ulid.ULID, error) {
	id, err := ulid.New(uint64(v.clock.now()/int64(time.Millisecond)), v.o.Rand)
	if err != nil {
		return id, fmt.Errorf("draw a ULID: %w", err)
	}
	return id, nil
}

// Log describes a log. It returns ErrLogNotFound or ErrInvalidName.
func (v *Volume) Log(name string) (LogInfo, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, err := v.lookup(name)
	if err != nil {
		return LogInfo{}, err
	}
	return l.info(), nil
}

// ListLogs returns at most limit logs whose names begin with prefix and come
// behind after, in the order of their names, and whether there are more.
func (v *Volume) ListLogs(prefix, after string, limit int) (logs []LogInfo, more bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	found, more := v.page(prefix, after, limit)
	for _, l := range found {
		logs = append(logs, l.info())
	}
	return logs, more
}

// DeleteLog deletes a log, durably. If id is not zero it must be the log's: a
// delete that is tried again does not hit a newer log of the same name, and is
// answered as the first time, since no log has that id any more. It returns
// ErrLogNotFound if there is none of that name and no id is given, or if another
// name's log has it.
func (v *Volume) DeleteLog(ctx context.Context, name string, id ulid.ULID) error {
	defer v.janitor.kick()
	return v.do(ctx, maxSmallCommand, forTruncation, func(s *State) (*Command, []byte, error) {
		l := s.named(name)
		switch {
		case id == (ulid.ULID{}) && l == nil:
			return nil, nil, notFound(name)
		case id != (ulid.ULID{}) && (l == nil || l.id != id):
			return nil, nil, s.gone(name, id)
		}
		v.rates.forget(l.number)
		return &Command{Kind: CommandDeleteLog, Log: l.number}, nil, nil
	})
}

// gone returns nil if no log has the id, and why it is not the named one's if one
// has. Only a delete that was tried again, or a mistake, comes here: every log is
// looked at.
func (s *State) gone(name string, id ulid.ULID) error {
	if !validName(name, limits.MaxLogNameBytes) {
		return invalidName("log", name, limits.MaxLogNameBytes)
	}
	for _, l := range s.logs.all() {
		if l.id == id {
			return fmt.Errorf("log %q: %w: it is log %q that has id %s", name, ErrLogNotFound, l.name, id)
		}
	}
	return nil
}

// WaitDurable waits until a log's durable LSN has reached lsn, and returns it.
// It returns ErrLogNotFound (also when the log is deleted meanwhile), a
// *SealedError if the log ends below lsn for good (also when it is sealed
// meanwhile), a *RewoundError if the log is rewound behind a lower LSN meanwhile,
// ErrPoisoned, ErrClosed or the context's error.
func (v *Volume) WaitDurable(ctx context.Context, log string, lsn LSN) (LSN, error) {
	return v.WaitDurableIn(ctx, log, 0, lsn)
}

// WaitDurableIn is WaitDurable for the writer of an epoch, 0 for anybody: it also
// returns a *FencedError once the log is in another epoch, or a *RewoundError if lsn
// was discarded by then. An LSN alone does not
// say whose record it is: the one that a fenced writer waits for may be its
// successor's, and the writer would take its own for durable.
func (v *Volume) WaitDurableIn(ctx context.Context, log string, epoch Epoch, lsn LSN) (LSN, error) {
	info, err := v.waitDurable(ctx, log, epoch, lsn, wait{told: epoch, lsn: lsn})
	if err != nil {
		return 0, err
	}
	return info.Durable(), nil
}

// NextDurable waits until a log's durable LSN is beyond after, and returns the log as it
// is then. told is the epoch in which the caller was told of after, 0
// for the log's as it is: if after was discarded since, the answer is a *RewoundError.
// epoch and other errors are those of WaitDurableIn.
func (v *Volume) NextDurable(ctx context.Context, log string, epoch Epoch, after LSN, told Epoch) (LogInfo, error) {
	return v.waitDurable(ctx, log, epoch, after+1, wait{told, after})
}

// A wait is what a rewind must not have discarded for a wait to go on: an LSN that
// somebody was told of in an epoch, 0 for the log's when the wait begins.
type wait struct {
	told Epoch
	lsn  LSN
}

func (v *Volume) waitDurable(ctx context.Context, log string, epoch Epoch, lsn LSN, known wait) (LogInfo, error) {
	for {
		v.mu.Lock()
		l, err := v.lookup(log)
		if err == nil {
			known.told = cmp.Or(known.told, l.epoch)
			err = l.moved(known.told, known.lsn)
		}
		if err == nil && epoch != 0 && epoch != l.epoch {
			err = l.fenced(epoch)
		}
		if err != nil {
			v.mu.Unlock()
			return LogInfo{}, err
		}
		if l.next > lsn {
			info := l.info()
			v.mu.Unlock()
			return info, nil
		}
		if l.sealed != 0 {
			v.mu.Unlock()
			return LogInfo{}, l.sealedError()
		}
		failed, changed := v.failed, v.watch(l.number)
		v.mu.Unlock()
		if failed == nil {
			failed = v.readOnly
		}
		if failed != nil {
			return LogInfo{}, failed
		}
		select {
		case <-changed:
		case <-v.done:
		case <-ctx.Done():
			return LogInfo{}, context.Cause(ctx)
		}
	}
}

// watch returns a channel that is closed when the log's durable state changes.
// REQUIRES: mu is held for writing.
func (v *Volume) watch(number uint64) <-chan struct{} {
	w, ok := v.watches[number]
	if !ok {
		w = make(chan struct{})
		v.watches[number] = w
	}
	return w
}

// A clock is the wall clock when the volume was opened plus what has elapsed
// since, never below the last frame's time: commit times do not decrease, also
// when somebody sets the wall clock back.
type clock struct {
	mu    sync.Mutex
	wall  func() int64 // nil: time.Now
	began time.Time
	base  int64
	last  int64
}

func (c *clock) start(wall func() int64, floor int64) {
	c.wall, c.began, c.last = wall, time.Now(), floor
	c.base = max(floor, c.began.UnixNano())
}

// now returns nanoseconds since 1970.
func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.base + int64(time.Since(c.began))
	if c.wall != nil {
		t = c.wall()
	}
	c.last = max(c.last, t)
	return c.last
}

// drift returns how far the wall clock is ahead of this one.
func (c *clock) drift() time.Duration { return time.Duration(time.Now().UnixNano() - c.now()) }

func timeOf(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// A lockedReader lets the volume and its journal draw from one source.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

// Read implements io.Reader.
func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

var _ io.Closer = (*Volume)(nil)
