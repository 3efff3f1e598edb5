package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

// The ladder takes the engine's ideas one by one, each step with those before
// it, under one load: callers that each wait for their own append. Every step is
// the engine itself, package batcher over package segment on a disk of
// internal/disk, in a segment that was written before and is recycled; what it
// leaves out of the engine is the sequencing of package wal, the same for all.
// The steps differ in who boards, and when:
//
//	each      a mutex around one append: board, leave, wait until it is durable.
//	          The bus never has more than one on board, who drives alone: a frame,
//	          a write and a sync for every append.
//	merged    callers queue for one goroutine. It takes all who are there on board
//	          in one go, and does not look at the queue again before their frame
//	          has landed: whatever came meanwhile rides next. Nothing overlaps but
//	          the callers' own waking and queueing: the frame fills, is sealed,
//	          written and synced, one after the other.
//	packed    the same, with blocks compressed once the frame is filled.
//	overlap   callers board by themselves, the bus as it is but for the last step:
//	          while a frame is compressed, written and synced the next one fills,
//	          and its full blocks are compressed.
//	gathered  the bus as it is: it also waits for those who were just told, while
//	          that pays (batcher's gathering, ADR 9).
//
// The first is what is written in an afternoon; the second a group commit.
type ladderStep struct {
	name      string
	begin     func(*climb) func(*Caller) error // returns how one append is made
	conducted bool                             // one goroutine boards for all
	packs     bool                             // blocks are compressed
	gathers   bool                             // the bus waits for those it has just told
}

var ladderSteps = []ladderStep{
	{name: "lock and sync per append", begin: (*climb).locking},
	{name: "merged", begin: (*climb).queueing, conducted: true},
	{name: "merged, compressed", begin: (*climb).queueing, conducted: true, packs: true},
	{name: "merged, compressed, overlapped", begin: (*climb).boarding, packs: true},
	{name: "the same, and gathering", begin: (*climb).boarding, packs: true, gathers: true},
}

// Indices of ladderSteps that verdicts speak of.
const (
	stepEach = iota
	stepMerged
	stepPacked
	stepOverlapped
	stepWhole
)

// LadderOptions say how Ladder measures. Dir is required, and exists.
type LadderOptions struct {
	Dir      string        // where volumes are made, and removed; modelled disks keep their files there too
	Disks    []string      // of Disks; default all
	Callers  int           // appends outstanding; default 1,024
	Size     int           // of a record in bytes; default 400
	Duration time.Duration // of each step; default 1 s
	Codec    codec.Codec   // of the steps that compress; default S2
	Progress func(done, all int, what string)

	segment int64                              // size of segments; default as a rig's, tests take less
	fs      func(name string) (disk.FS, error) // opens a disk; tests look over its shoulder
}

func (o LadderOptions) withDefaults() LadderOptions {
	if len(o.Disks) == 0 {
		o.Disks = Disks()
	}
	o.Callers = cmp.Or(o.Callers, 1024)
	o.Size = cmp.Or(o.Size, 400)
	o.Duration = cmp.Or(o.Duration, time.Second)
	o.Codec = cmp.Or(o.Codec, codec.S2)
	if o.Progress == nil {
		o.Progress = func(int, int, string) {}
	}
	if o.fs == nil {
		o.fs = OpenDisk
	}
	return o
}

// A LadderReport is the ladder on each disk.
type LadderReport struct {
	RecordBytes  int          `json:"record_bytes"`
	Callers      int          `json:"callers"`
	Codec        string       `json:"codec"`
	ModelErrorUS float64      `json:"model_error_us"` // what an operation of a modelled disk takes too long, p50
	Disks        []LadderDisk `json:"disks"`
	Goals        []Goal       `json:"goals"`
}

// A LadderDisk is the ladder on one disk.
type LadderDisk struct {
	Disk  string       `json:"disk"`
	Steps []LadderStep `json:"steps"`
}

// A LadderStep is what one step achieved. Times are means per frame. Where a
// frame fills while the one before is on its way, Fill is how long it was open,
// waiting for the disk included. Compress has the checksums and the hand-over to
// who drives the frame in it, so it is not zero without a codec either.
type LadderStep struct {
	Step             string        `json:"step"`
	AppendsPerSecond float64       `json:"appends_per_second"`
	Gain             float64       `json:"gain"` // over the first step
	Frames           int64         `json:"frames"`
	RecordsPerFrame  float64       `json:"records_per_frame"`
	BytesPerSecond   float64       `json:"bytes_per_second"` // of records
	Compression      float64       `json:"compression_ratio"`
	FillUS           float64       `json:"fill_us"`
	CompressUS       float64       `json:"compress_us"`
	WriteUS          float64       `json:"write_us"`
	SyncUS           float64       `json:"sync_us"`
	Timeline         []LadderFrame `json:"timeline"` // the last frames, oldest first
}

// A LadderFrame is when a frame did what, in microseconds since an instant that
// is the same for the frames of one step. Where blocks are compressed while the
// frame fills, all of it is shown as one run that ends when the frame is written.
type LadderFrame struct {
	Fill     float64 `json:"fill"`
	Seal     float64 `json:"seal"` // ends filling
	Compress float64 `json:"compress"`
	Write    float64 `json:"write"` // ends compressing
	Sync     float64 `json:"sync"`  // ends writing
	End      float64 `json:"end"`   // ends syncing
}

// ladderTimeline is how many frames are kept for the picture.
const ladderTimeline = 64

// Ladder measures every step on every disk.
func Ladder(ctx context.Context, o LadderOptions) (*LadderReport, error) {
	o = o.withDefaults()
	r := &LadderReport{RecordBytes: o.Size, Callers: o.Callers, Codec: o.Codec.String()}
	r.ModelErrorUS = float64(disk.ModelError(disk.NVMe.Sync, 101)) / 1e3
	for i, name := range o.Disks {
		d, err := o.on(ctx, name, func(step int) {
			o.Progress(i*len(ladderSteps)+step, len(o.Disks)*len(ladderSteps), fmt.Sprintf("%s: %s", name, ladderSteps[step].name))
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r.Disks = append(r.Disks, d)
	}
	r.Goals = ladderGoals(r)
	return r, nil
}

// ladderGoals is a pure function of the figures.
func ladderGoals(r *LadderReport) []Goal {
	var goals []Goal
	for _, d := range r.Disks {
		if d.Disk == disk.HardDisk.Name {
			goals = append(goals,
				Goal{What: d.Disk + ": merging gains", Got: d.Steps[stepMerged].Gain, Gate: 100, Unit: "x", Beside: "over a sync per append"},
				Goal{What: d.Disk + ": the whole gains", Got: d.Steps[stepWhole].Gain, Gate: 600, Unit: "x", Beside: "over a sync per append"})
		}
		// Measured where they are on the way: one behind the other.
		p := &d.Steps[stepPacked]
		share := ratio(p.FillUS+p.CompressUS, p.WriteUS+p.SyncUS)
		if share >= overlapShare {
			goals = append(goals, Goal{
				What: d.Disk + ": overlap gains", Got: ratio(d.Steps[stepOverlapped].AppendsPerSecond, p.AppendsPerSecond), Gate: 1.3, Unit: "x",
				Beside: fmt.Sprintf("filling and compressing take %.0f%% of writing and syncing", 100*share),
			})
		}
	}
	return goals
}

// overlapShare is what filling and compressing have to take of writing and
// syncing for overlap to be worth something.
const overlapShare = 0.3

// A ladder is a journal on one disk, on which step follows step.
type ladder struct {
	o   LadderOptions
	rig *Rig
}

// A climb is one step under way.
type climb struct {
	bus    *batcher.Bus
	stop   atomic.Bool   // callers make no further append
	ashore chan struct{} // closed when all callers have returned

	mu    sync.Mutex
	total ladderTotal
	last  []ladderTimes // of the frames that landed last, a ring
	goal  int64         // frames
	there chan struct{} // closed when they have landed; nil until somebody waits

	// Of the steps in which one goroutine boards for all.
	queue  sync.Mutex
	queued []*Caller
	come   chan struct{} // has a token if somebody is queued
}

// ladderTotal is what has landed.
type ladderTotal struct {
	frames, records, raw, stored int64
	fill, compress, write, sync  time.Duration
}

// ladderTimes is when a frame began to do what.
type ladderTimes struct{ fill, seal, compress, write, sync, end time.Time }

// on measures the steps on one disk.
func (o LadderOptions) on(ctx context.Context, name string, progress func(step int)) (_ LadderDisk, err error) {
	fs, err := o.fs(name)
	if err != nil {
		return LadderDisk{}, err
	}
	rig, err := OpenRig(ctx, RigOptions{FS: fs, Dir: o.Dir, SegmentSize: o.segment})
	if err != nil {
		return LadderDisk{}, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	l := &ladder{o: o, rig: rig}
	d := LadderDisk{Disk: name}
	for i := range ladderSteps {
		progress(i)
		step, err := l.measure(ctx, &ladderSteps[i])
		if err != nil {
			return LadderDisk{}, fmt.Errorf("%s: %w", ladderSteps[i].name, err)
		}
		d.Steps = append(d.Steps, step)
	}
	for i := range d.Steps {
		d.Steps[i].Gain = ratio(d.Steps[i].AppendsPerSecond, d.Steps[stepEach].AppendsPerSecond)
	}
	return d, nil
}

// ladderFrames is how many frames a step is measured over at the least.
const ladderFrames = 8

// measure measures one step.
func (l *ladder) measure(ctx context.Context, step *ladderStep) (_ LadderStep, err error) {
	packs := codec.None
	if step.packs {
		packs = l.o.Codec
	}
	c := &climb{ashore: make(chan struct{}), come: make(chan struct{}, 1)}
	c.bus = batcher.New(batcher.Options{
		Submit:      func(f *batcher.Frame) { c.bus.Landed(f.Ticket, l.submit(f)) },
		Codec:       batcher.Fixed(packs),
		NoGathering: !step.gathers,
		Events:      batcher.Events{FrameLanded: c.landed},
	})
	appendOne := step.begin(c)
	var callers, conductor sync.WaitGroup
	if step.conducted {
		conductor.Go(c.conduct)
	}
	for i := range l.o.Callers {
		cut, one := NewCutter(l.o.Size, i, l.o.Callers), NewCaller()
		callers.Go(func() {
			for !c.stop.Load() {
				one.Run = records.Append(one.Run[:0], cut.Next())
				if err := appendOne(one); err != nil {
					l.rig.Fail(err)
					return
				}
			}
		})
	}
	// Half as long again goes by before anything counts: the bus has to know the
	// disk, and the callers to have found their rhythm.
	err = l.rig.Sleep(ctx, l.o.Duration/2)
	before, began := c.soFar(), time.Now()
	if err == nil {
		err = l.rig.Sleep(ctx, l.o.Duration)
	}
	if err == nil {
		err = l.rig.Wait(ctx, c.until(before.frames+ladderFrames))
	}
	after, took := c.soFar(), time.Since(began)
	c.stop.Store(true)
	callers.Wait()
	close(c.ashore)
	conductor.Wait()
	if err = errors.Join(err, c.bus.Close()); err != nil {
		return LadderStep{}, err
	}
	return c.result(step.name, before, after, took), nil
}

// submit writes and syncs a frame.
func (l *ladder) submit(f *batcher.Frame) error {
	c, err := l.rig.Commit(f)
	t := timesOf(f)
	t.write, t.sync, t.end = c.Write, c.Sync, c.End
	return err
}

// timesOf returns a frame's times. REQUIRES: boarded, or the frame is sealed.
func timesOf(f *batcher.Frame) *ladderTimes {
	t, ok := f.Attached().(*ladderTimes)
	if !ok {
		t = new(ladderTimes)
		f.Attach(t)
	}
	return t
}

// landed counts a frame. It is told of one after the other.
func (c *climb) landed(i batcher.FrameInfo) {
	t := *i.Attached.(*ladderTimes)
	if t.fill.IsZero() { // who boarded did so by itself
		t.seal = t.write.Add(-i.Compress)
		t.fill = t.seal.Add(-i.Fill)
		t.compress = t.write.Add(-max(i.Compress, i.Pack))
		if t.compress.Before(t.fill) { // several compressed at once
			t.compress = t.fill
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.frames++
	c.total.records += int64(i.Commands)
	c.total.raw += int64(i.RawSize)
	c.total.stored += int64(i.StoredSize)
	c.total.fill += t.seal.Sub(t.fill)
	c.total.compress += t.write.Sub(t.compress)
	c.total.write += t.sync.Sub(t.write)
	c.total.sync += t.end.Sub(t.sync)
	if len(c.last) == ladderTimeline {
		c.last = c.last[:copy(c.last, c.last[1:])]
	}
	c.last = append(c.last, t)
	if c.there != nil && c.total.frames == c.goal {
		close(c.there)
	}
}

// until returns a channel that is closed when so many frames have landed.
func (c *climb) until(frames int64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goal, c.there = frames, make(chan struct{})
	if c.total.frames >= frames {
		close(c.there)
	}
	return c.there
}

func (c *climb) soFar() ladderTotal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// boarding has every caller board by itself.
func (c *climb) boarding() func(*Caller) error {
	return func(one *Caller) error {
		f, err := c.bus.Board()
		if err != nil {
			return err
		}
		one.Board(f)
		c.bus.Leave()
		return one.Wait()
	}
}

// locking has callers board one after the other, each when the one before is durable.
func (c *climb) locking() func(*Caller) error {
	appendOne := c.boarding()
	var mu sync.Mutex
	return func(one *Caller) error {
		mu.Lock()
		defer mu.Unlock()
		if c.stop.Load() { // or those who queue would take a sync each to go away
			return nil
		}
		return appendOne(one)
	}
}

// queueing has callers queue for the conductor.
func (c *climb) queueing() func(*Caller) error {
	return func(one *Caller) error {
		c.queue.Lock()
		c.queued = append(c.queued, one)
		c.queue.Unlock()
		select {
		case c.come <- struct{}{}:
		default:
		}
		return one.Wait()
	}
}

// conduct boards for all who are queued, frame by frame.
func (c *climb) conduct() {
	var aboard []*Caller
	self := NewCaller()
	for {
		select {
		case <-c.come:
		case <-c.ashore:
			return
		}
		c.queue.Lock()
		aboard, c.queued = c.queued, aboard[:0]
		c.queue.Unlock()
		for rest := aboard; len(rest) > 0; {
			rest = c.carry(self, rest)
		}
	}
}

// carry takes callers on board, until the frame is full, and returns the others
// when it has landed.
func (c *climb) carry(self *Caller, queued []*Caller) []*Caller {
	began := time.Now()
	f, err := c.bus.Board()
	if err != nil {
		for _, one := range queued {
			one.landed <- err
		}
		return nil
	}
	t := timesOf(f)
	for len(queued) > 0 && f.RawSize() < limits.FrameFullSize {
		queued[0].Board(f)
		queued = queued[1:]
	}
	f.Ride(self) // told last: the next frame begins when this one is over
	t.fill, t.seal = began, time.Now()
	t.compress = t.seal
	c.bus.Leave()
	<-self.landed // an error is each caller's own
	return queued
}

// result makes the figures of a step.
func (c *climb) result(name string, before, after ladderTotal, took time.Duration) LadderStep {
	frames := after.frames - before.frames
	perFrame := func(a, b time.Duration) float64 { return ratio(microsecondsOf(a-b), float64(frames)) }
	s := LadderStep{
		Step:             name,
		AppendsPerSecond: float64(after.records-before.records) / took.Seconds(),
		Frames:           frames,
		RecordsPerFrame:  ratio(float64(after.records-before.records), float64(frames)),
		BytesPerSecond:   float64(after.raw-before.raw) / took.Seconds(),
		Compression:      ratio(float64(after.raw-before.raw), float64(after.stored-before.stored)),
		FillUS:           perFrame(after.fill, before.fill),
		CompressUS:       perFrame(after.compress, before.compress),
		WriteUS:          perFrame(after.write, before.write),
		SyncUS:           perFrame(after.sync, before.sync),
	}
	for _, t := range c.last {
		at := func(u time.Time) float64 { return microsecondsOf(u.Sub(c.last[0].fill)) }
		s.Timeline = append(s.Timeline, LadderFrame{
			Fill: at(t.fill), Seal: at(t.seal), Compress: at(t.compress), Write: at(t.write), Sync: at(t.sync), End: at(t.end),
		})
	}
	return s
}

func microsecondsOf(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
