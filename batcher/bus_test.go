package batcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBus plays transcripts with a modelled disk. A command is a name; its
// records are zeroes. Each step runs until everybody waits, and prints what
// happened: first what the bus did, in order, then which callers came back.
//
//	bus [depth=N] [full=BYTES] [max=COMMANDS] [block=BYTES] [codec=NAME] [async] [idle=TIMES]
//	                        a new bus; without async, Submit returns when the
//	                        frame has landed. Idle sends a frame so many times.
//	append NAME [size=BYTES] [group=N] [norider] [watch=MARK]
//	ride NAME [watch=MARK]  board without a command
//	pass                    board and leave again
//	insert NAME             a frame of its own
//	flush NAME
//	written N               the disk has frame N, which is not durable yet
//	land N [err=WORD]       the disk is done with frame N
//	fail WORD
//	wait MS
//	stats
//	close
//
// At most one caller waits to board at a time: which of several comes first is
// not promised.
func TestBus(t *testing.T) {
	datadriven.Walk(t, "testdata/bus", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			s := &stage{disk: make(map[uint64]chan error), frames: make(map[uint64]*batcher.Frame)}
			defer s.end()
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				s.play(t, d)
				synctest.Wait()
				return s.take()
			})
		})
	})
}

// end frees what a transcript left waiting, which would hold the bubble for ever.
func (s *stage) end() {
	if s.bus == nil {
		return
	}
	s.bus.Fail(errors.New("end of transcript"))
	synctest.Wait()
	for _, landed := range s.disk {
		close(landed)
	}
	_ = s.bus.Close()
	synctest.Wait()
}

type stage struct {
	bus   *batcher.Bus
	async bool

	mu     sync.Mutex
	did    []string // by the bus
	came   []string // callers
	disk   map[uint64]chan error
	frames map[uint64]*batcher.Frame
	idling int
}

func (s *stage) happened(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, fmt.Sprintf(format, args...))
}

func (s *stage) cameBack(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.came = append(s.came, fmt.Sprintf(format, args...))
}

func (s *stage) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.came)
	lines := slices.Concat(s.did, s.came)
	s.did, s.came = nil, nil
	if len(lines) == 0 {
		return "nothing\n"
	}
	return strings.Join(lines, "\n") + "\n"
}

// checkImage holds a frame's image against its contract: whoever writes from it writes
// its blocks, and has room around them.
func checkImage(t *testing.T, f *batcher.Frame) {
	t.Helper()
	image, at := f.Image(), limits.FrameHeaderSize
	if p := uintptr(unsafe.Pointer(unsafe.SliceData(image))); p%limits.BlockSize != 0 {
		t.Errorf("the image begins at %#x, and Options.Memory on whole disk blocks", p)
	}
	for i, block := range f.Blocks() {
		if to := at + len(block.Stored); to > len(image) {
			t.Fatalf("block %d ends at %d of an image of %d bytes", i, to, len(image))
		} else if at < to && &image[at] != &block.Stored[0] {
			t.Errorf("block %d does not lie at %d of the image", i, at)
		}
		at += len(block.Stored)
	}
	if at != len(image) {
		t.Errorf("the image has %d bytes, its blocks end at %d", len(image), at)
	}
	if need := int(segment.FrameSize(len(f.Meta()), len(f.Blocks()), int64(at-limits.FrameHeaderSize))); cap(image) < need {
		t.Errorf("the image has room for %d bytes, the frame takes %d", cap(image), need)
	}
}

func (s *stage) submit(f *batcher.Frame) {
	var blocks strings.Builder
	for _, block := range f.Blocks() {
		fmt.Fprintf(&blocks, " %s:%d", block.Codec, block.RawSize)
	}
	kind := "commands"
	if f.Tag != 0 {
		kind = fmt.Sprintf("tag %d", f.Tag)
	}
	s.happened("submit %d %s [%s]%s", f.Ticket, kind, strings.TrimSpace(string(f.Meta())), blocks.String())
	landed := make(chan error, 1)
	s.mu.Lock()
	s.disk[f.Ticket], s.frames[f.Ticket] = landed, f
	s.mu.Unlock()
	if s.async {
		return
	}
	meta, ticket := bytes.Clone(f.Meta()), f.Ticket
	err, ok := <-landed
	if !bytes.Equal(f.Meta(), meta) || f.Ticket != ticket {
		s.happened("frame %d was reused while it was submitted", ticket)
	}
	if ok {
		s.bus.Landed(ticket, err)
	}
}

type rider struct {
	s    *stage
	name string
}

func (r *rider) Landed(ticket uint64, err error) {
	r.s.happened("tell %s %d %v", r.name, ticket, err)
}

// Written implements batcher.Watcher.
func (r *rider) Written(mark uint64) { r.s.happened("written %s %d", r.name, mark) }

// watch has a rider watch the frame, too, if the step says so.
func (s *stage) watch(t *testing.T, d *datadriven.TestData, f *batcher.Frame, r *rider) {
	if d.HasArg("watch") {
		var mark uint64
		d.ScanArgs(t, "watch", &mark)
		f.Watch(r, mark)
	}
}

func (s *stage) play(t *testing.T, d *datadriven.TestData) {
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "bus":
		s.open(t, d)
	case "append":
		size, group := 0, 0
		d.MaybeScanArgs(t, "size", &size)
		d.MaybeScanArgs(t, "group", &group)
		go s.board(name, func(f *batcher.Frame) {
			f.AppendCommand([]byte(name + " "))
			if size > 0 {
				f.AddRecords(uint64(group), make([]byte, size))
			}
			if !d.HasArg("norider") {
				r := &rider{s, name}
				f.Ride(r)
				s.watch(t, d, f, r)
			}
		})
	case "ride":
		go s.board(name, func(f *batcher.Frame) {
			r := &rider{s, name}
			f.Ride(r)
			s.watch(t, d, f, r)
		})
	case "written":
		var ticket uint64
		if _, err := fmt.Sscan(name, &ticket); err != nil {
			d.Fatalf(t, "ticket %q: %v", name, err)
		}
		s.bus.Written(s.frames[ticket])
	case "pass":
		if _, err := s.bus.Board(); err == nil {
			s.bus.LeaveUnused()
		}
	case "insert":
		go func() {
			err := s.bus.Insert(7, func(f *batcher.Frame) {
				f.AppendCommand([]byte(name))
				f.Ride(&rider{s, name})
			})
			s.cameBack("%s inserted: %v", name, err)
		}()
	case "flush":
		go func() { s.cameBack("%s flushed: %v", name, s.bus.Flush(t.Context())) }()
	case "land":
		var ticket uint64
		if _, err := fmt.Sscan(name, &ticket); err != nil {
			d.Fatalf(t, "ticket %q: %v", name, err)
		}
		word := ""
		d.MaybeScanArgs(t, "err", &word)
		s.land(ticket, word)
	case "fail":
		s.bus.Fail(errors.New(name))
	case "wait":
		var ms int
		if _, err := fmt.Sscan(name, &ms); err != nil {
			d.Fatalf(t, "wait %q: %v", name, err)
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
	case "close":
		go func() { s.cameBack("closed: %v", s.bus.Close()) }()
	case "stats":
		stats := s.bus.Stats()
		s.happened("%+v", stats)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
}

func (s *stage) open(t *testing.T, d *datadriven.TestData) {
	name := "none"
	o := batcher.Options{
		Submit: s.submit,
		Publish: func(f *batcher.Frame, err error) {
			s.happened("publish %d %v", f.Ticket, err)
		},
	}
	d.MaybeScanArgs(t, "depth", &o.Depth)
	d.MaybeScanArgs(t, "full", &o.FullSize)
	d.MaybeScanArgs(t, "max", &o.MaxCommands)
	d.MaybeScanArgs(t, "block", &o.BlockSize)
	d.MaybeScanArgs(t, "codec", &name)
	policy, err := batcher.ParseCodecPolicy(name)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	o.Codec = policy
	s.async = d.HasArg("async")
	if d.HasArg("idle") {
		d.ScanArgs(t, "idle", &s.idling)
		o.Idle = func(f *batcher.Frame) bool {
			rides := s.idling > 0
			s.idling--
			s.happened("idle, promise: %v", rides)
			f.Tag = 9
			return rides
		}
	}
	s.bus = batcher.New(o)
}

func (s *stage) board(name string, add func(*batcher.Frame)) {
	f, err := s.bus.Board()
	if err != nil {
		s.cameBack("%s refused: %v", name, err)
		return
	}
	add(f)
	if s.bus.Leave() {
		s.cameBack("%s left, drove", name)
	} else {
		s.cameBack("%s left", name)
	}
}

func (s *stage) land(ticket uint64, word string) {
	var err error
	if word != "" {
		err = errors.New(word)
	}
	s.mu.Lock()
	landed := s.disk[ticket]
	delete(s.disk, ticket)
	s.mu.Unlock()
	if !s.async && landed != nil {
		landed <- err
		return
	}
	defer func() {
		if p := recover(); p != nil {
			s.happened("panic: %v", p)
		}
	}()
	s.bus.Landed(ticket, err)
}

// open returns a bus over a disk that takes no time, closed with the test.
func open(t *testing.T, o batcher.Options) *batcher.Bus {
	var bus *batcher.Bus
	if o.Submit == nil {
		o.Submit = func(f *batcher.Frame) { bus.Landed(f.Ticket, nil) }
	}
	bus = batcher.New(o)
	t.Cleanup(func() { _ = bus.Close() })
	return bus
}

// board boards or ends the test.
func board(t *testing.T, bus *batcher.Bus) *batcher.Frame {
	t.Helper()
	f, err := bus.Board()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLoneRideStaysOnItsGoroutine(t *testing.T) {
	var bus *batcher.Bus
	var onStack bool
	bus = open(t, batcher.Options{Submit: func(f *batcher.Frame) {
		pcs := make([]uintptr, 32)
		frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
		for {
			frame, more := frames.Next()
			onStack = onStack || strings.Contains(frame.Function, "TestLoneRideStaysOnItsGoroutine") &&
				!strings.Contains(frame.Function, ".func")
			if !more {
				break
			}
		}
		bus.Landed(f.Ticket, nil)
	}})
	p := new(passenger)
	f := board(t, bus)
	f.AppendCommand([]byte("c"))
	f.Ride(p)
	if drove := bus.Leave(); !drove || !onStack || p.landed != 1 {
		t.Errorf("drove %v, on the caller's stack %v, told of ticket %d; want true, true, 1", drove, onStack, p.landed)
	}
	if got := bus.Stats().LoneRides; got != 1 {
		t.Errorf("lone rides: %d, want 1", got)
	}
}

// TestFullLoadIsNotDrivenAlone: a stream at full speed must be free to take its
// next message on board while the disk works.
func TestFullLoadIsNotDrivenAlone(t *testing.T) {
	var bus *batcher.Bus
	bus = open(t, batcher.Options{LoneSize: 1000, Submit: func(f *batcher.Frame) { bus.Landed(f.Ticket, nil) }})
	for _, tt := range []struct {
		size  int
		drove bool
	}{{999, true}, {1000, false}} {
		f := board(t, bus)
		f.AppendCommand([]byte("c")) // one byte more
		f.AddRecords(1, make([]byte, tt.size))
		if drove := bus.Leave(); drove != tt.drove {
			t.Errorf("drove with %d bytes: %v, want %v", tt.size, drove, tt.drove)
		}
		if err := bus.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLeaveWithNothingAdded(t *testing.T) {
	bus := open(t, batcher.Options{Submit: func(*batcher.Frame) { t.Error("submitted an empty frame") }})
	board(t, bus)
	if bus.Leave() {
		t.Error("drove an empty frame")
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	bus := open(t, batcher.Options{Codec: batcher.Fixed(codec.None)})
	p := new(passenger)
	command, record := make([]byte, 40), make([]byte, 360)
	got := testing.AllocsPerRun(1000, func() {
		f, err := bus.Board()
		if err != nil {
			t.Fatal(err)
		}
		f.AddCommand(func(dst []byte) []byte { return append(dst, command...) })
		f.AddRecords(1, record)
		f.Ride(p)
		bus.Leave()
	})
	if got != 0 {
		t.Errorf("%v allocations for an append, want none", got)
	}
}

// TestBlocks checks what Submit sees against what was added.
func TestBlocks(t *testing.T) {
	text := bytes.Repeat([]byte(`{"id":17,"kind":"order","state":"shipped"} `), 1<<16)
	noise := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)

	type run struct {
		group uint64
		bytes []byte
	}
	tests := []struct {
		name   string
		policy batcher.CodecPolicy
		runs   []run
		want   string // codec:raw of each block
	}{
		{"small", batcher.Fixed(codec.S2), []run{{1, text[:3000]}}, "none:3000"},
		{"grown", batcher.Fixed(codec.S2), []run{{1, text[:3000]}, {2, text[:3000]}}, "s2:6000"},
		{"zstd", batcher.Fixed(codec.Zstd), []run{{1, text[:9000]}}, "zstd:9000"},
		{"noise", batcher.Fixed(codec.Zstd), []run{{1, noise[:9000]}}, "none:9000"},
		{"none", batcher.Fixed(codec.None), []run{{1, text[:9000]}}, "none:9000"},
		{"an image to the brim", batcher.Fixed(codec.None), []run{{1, text[:128<<10-limits.FrameHeaderSize]}}, "none:130944"},
		{"filled", batcher.Fixed(codec.S2), []run{{1, text[:100_000]}, {1, text[:40_000]}, {1, text[:50]}}, "s2:140000 none:50"},
		{"long run alone", batcher.Fixed(codec.S2), []run{{1, text[:1000]}, {1, text[:300_000]}, {1, text[:2000]}}, "s2:1000 s2:300000 s2:2000"},
		{"pure", batcher.Fixed(codec.S2), []run{{1, text[:32<<10]}, {2, text[:500]}, {1, text[:500]}}, "s2:32768 s2:1000"},
		{"mixed", batcher.Fixed(codec.S2), []run{{1, text[:20_000]}, {2, text[:20_000]}, {3, text[:500]}}, "s2:40500"},
		{"long and short runs", batcher.Fixed(codec.None), []run{{1, text[:20_000]}, {1, noise[:9000]}, {1, text[:500]}, {1, text[:10_000]}}, "none:39500"},
		{"a short run first", batcher.Fixed(codec.None), []run{{1, text[:500]}, {1, text[:20_000]}}, "none:20500"},
		{"empty run", batcher.Fixed(codec.S2), []run{{1, nil}}, "none:0"},
		{"noise among text", batcher.Fixed(codec.S2), []run{{1, text[:128<<10]}, {1, noise[:128<<10]}, {1, text[:128<<10]}}, "s2:131072 none:131072 s2:131072"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var bus *batcher.Bus
			var got []string
			var opened [][]byte
			bus = open(t, batcher.Options{Codec: tt.policy, LoneSize: 1 << 30, Memory: disk.AlignedBuffer, Submit: func(f *batcher.Frame) {
				checkImage(t, f)
				for _, block := range f.Blocks() {
					if sum := crc32.Checksum(block.Stored, crc32.MakeTable(crc32.Castagnoli)); sum != block.Checksum {
						t.Errorf("checksum %08x, want %08x", block.Checksum, sum)
					}
					raw, err := block.Codec.Open(nil, block.Stored, int(block.RawSize))
					if err != nil {
						t.Error(err)
					}
					opened = append(opened, raw)
					got = append(got, fmt.Sprintf("%s:%d", block.Codec, block.RawSize))
				}
				bus.Landed(f.Ticket, nil)
			}})
			type place struct{ block, offset int }
			// Twice, for the second time in buffers that have been used, and again with
			// what is known of the runs already.
			for _, summed := range []bool{false, false, true, true} {
				got, opened = nil, nil
				var places []place
				f := board(t, bus)
				f.AppendCommand([]byte("c"))
				for _, r := range tt.runs {
					var block, offset int
					if summed {
						block, offset = f.AddSummed(r.group, r.bytes, crc32.Checksum(r.bytes, crc32.MakeTable(crc32.Castagnoli)))
					} else {
						block, offset = f.AddRecords(r.group, r.bytes)
					}
					places = append(places, place{block, offset})
				}
				bus.Leave()
				if s := strings.Join(got, " "); s != tt.want {
					t.Errorf("blocks %s, want %s", s, tt.want)
				}
				for i, r := range tt.runs {
					at := places[i]
					if raw := opened[at.block][at.offset:][:len(r.bytes)]; !bytes.Equal(raw, r.bytes) {
						t.Errorf("run %d is not at block %d, offset %d", i, at.block, at.offset)
					}
				}
			}
		})
	}
}

func TestRunOverTheLimitPanics(t *testing.T) {
	bus := open(t, batcher.Options{})
	f := board(t, bus)
	defer bus.LeaveUnused()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f.AddRecords(1, make([]byte, limits.MaxBlockRawSize+1))
}

// ledger is a rider that checks that it is told of each frame it rode in, in order.
type ledger struct {
	t    *testing.T
	mu   sync.Mutex
	rode int // frames it asked to be told of and was not
	last uint64
	told int
	lost int
}

func (l *ledger) Landed(ticket uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ticket <= l.last {
		l.t.Errorf("told of ticket %d after %d", ticket, l.last)
	}
	l.last = ticket
	l.told++
	if err != nil {
		l.lost++
	}
}

// TestManyCallers has 64 of them append at once, next to an inserter, over
// disks that land frames on the driver or elsewhere, and checks that every
// command comes out once, in its caller's order, and that everybody is told.
func TestManyCallers(t *testing.T) {
	for _, depth := range []int{1, 3} {
		for _, async := range []bool{false, true} {
			t.Run(fmt.Sprintf("depth=%d/async=%v", depth, async), func(t *testing.T) {
				testManyCallers(t, depth, async, 0)
			})
		}
	}
}

// TestManyCallersFail has the disk fail in the middle of that.
func TestManyCallersFail(t *testing.T) {
	for _, async := range []bool{false, true} {
		t.Run(fmt.Sprintf("async=%v", async), func(t *testing.T) {
			testManyCallers(t, 2, async, 50)
		})
	}
}

// testManyCallers lets frame number failing fail, unless that is 0.
func testManyCallers(t *testing.T, depth int, async bool, failing uint64) {
	const callers, appends, inserts = 64, 100, 50
	poison := errors.New("poisoned")

	var bus *batcher.Bus
	written := make(map[byte][]byte) // commands by caller: their numbers
	var inserted int
	publishedTo := uint64(0)
	queue := make(chan uint64, depth)
	land := func(ticket uint64) {
		if ticket == failing {
			bus.Landed(ticket, poison)
			return
		}
		bus.Landed(ticket, nil)
	}
	o := batcher.Options{
		Depth: depth, FullSize: 2000, BlockSize: 300, MaxCommands: 20, Codec: batcher.Fixed(codec.S2),
		Submit: func(f *batcher.Frame) {
			for meta := f.Meta(); len(meta) > 0 && f.Tag == 0; meta = meta[2:] {
				written[meta[0]] = append(written[meta[0]], meta[1])
			}
			if f.Tag != 0 {
				inserted++
			}
			if async {
				queue <- f.Ticket
			} else {
				land(f.Ticket)
			}
		},
		Publish: func(f *batcher.Frame, err error) {
			if f.Ticket <= publishedTo {
				t.Errorf("published ticket %d after %d", f.Ticket, publishedTo)
			}
			publishedTo = f.Ticket
			if failed := failing > 0 && f.Ticket >= failing; failed != (err != nil) {
				t.Errorf("published ticket %d with %v", f.Ticket, err)
			}
		},
	}
	bus = open(t, o)
	var disk sync.WaitGroup
	if async {
		disk.Go(func() {
			for ticket := range queue {
				land(ticket)
			}
		})
	}

	var all sync.WaitGroup
	ledgers := make([]*ledger, callers)
	accepted := make([]int, callers)
	for caller := range callers {
		l := &ledger{t: t}
		ledgers[caller] = l
		all.Go(func() {
			record := bytes.Repeat([]byte{byte(caller)}, 100)
			var serial uint64
			for i := range appends {
				f, err := bus.Board()
				if err != nil {
					if failing == 0 || !errors.Is(err, poison) {
						t.Errorf("caller %d: %v", caller, err)
					}
					return
				}
				if f.Serial != serial {
					serial = f.Serial
					f.Ride(l)
					l.mu.Lock()
					l.rode++
					l.mu.Unlock()
				}
				f.AppendCommand([]byte{byte(caller), byte(i)})
				f.AddRecords(uint64(caller), record)
				accepted[caller]++
				bus.Leave()
			}
		})
	}
	all.Go(func() {
		for range inserts {
			if err := bus.Insert(1, func(f *batcher.Frame) { f.AddRecords(1, make([]byte, 500)) }); err != nil {
				if failing == 0 {
					t.Errorf("insert: %v", err)
				}
				return
			}
		}
	})
	all.Wait()
	if err := bus.Close(); (failing > 0) != errors.Is(err, poison) {
		t.Errorf("close: %v", err)
	}
	close(queue)
	disk.Wait()

	for caller, l := range ledgers {
		if l.told != l.rode {
			t.Errorf("caller %d rode %d times and was told %d times", caller, l.rode, l.told)
		}
		numbers := written[byte(caller)]
		for i, n := range numbers {
			if int(n) != i {
				t.Fatalf("caller %d: command %d was written in place %d", caller, n, i)
			}
		}
		if failing == 0 && (len(numbers) != appends || l.lost > 0) {
			t.Errorf("caller %d: %d commands written of %d, lost %d", caller, len(numbers), appends, l.lost)
		}
		if len(numbers) > accepted[caller] {
			t.Errorf("caller %d: %d commands written of %d", caller, len(numbers), accepted[caller])
		}
	}
	if failing == 0 {
		stats := bus.Stats()
		if inserted != inserts || stats.Inserted != inserts || stats.Commands != callers*appends {
			t.Errorf("%d frames inserted of %d, stats %+v", inserted, inserts, stats)
		}
	}
}

// TestMemoryBound measures what 64 callers get on board while the disk stands
// still: (Depth+1) x (FullSize + one caller's bytes), not more.
func TestMemoryBound(t *testing.T) {
	for _, depth := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("depth=%d", depth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const callers, size, full = 64, 700, 4000
				var mu sync.Mutex
				var submitted []uint64
				bus := batcher.New(batcher.Options{Depth: depth, FullSize: full, Codec: batcher.Fixed(codec.None), Submit: func(f *batcher.Frame) {
					mu.Lock()
					defer mu.Unlock()
					submitted = append(submitted, f.Ticket)
				}})
				aboard := 0
				for range callers {
					go func() {
						f, err := bus.Board()
						if err != nil {
							t.Error(err)
							return
						}
						f.AppendCommand(nil)
						f.AddRecords(1, make([]byte, size))
						mu.Lock()
						aboard += size
						mu.Unlock()
						bus.Leave()
					}()
				}
				landed := 0
				for bus.Stats().Commands < callers {
					synctest.Wait()
					mu.Lock()
					held := aboard - int(bus.Stats().RawSize)
					batch := submitted[landed:]
					mu.Unlock()
					if bound := (depth + 1) * (full + size); held > bound {
						t.Fatalf("%d bytes on board, bound %d", held, bound)
					}
					if aboard < callers*size && held < full {
						t.Fatalf("%d bytes on board and callers wait", held)
					}
					bus.Landed(batch[0], nil)
					landed++
				}
				if err := bus.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestCloseTurnsAwayBoarders closes while callers board: each command either
// lands or was refused with ErrClosed, and Close returns. It closes many buses, since
// what could keep it takes the loop, the boarders and Close at three places at once.
func TestCloseTurnsAwayBoarders(t *testing.T) {
	for range 100 {
		closeUnderBoarders(t)
	}
}

func closeUnderBoarders(t *testing.T) {
	bus := open(t, batcher.Options{})
	var all sync.WaitGroup
	started := make(chan struct{}, 16)
	boarded := make([]uint64, 16)
	for i := range boarded {
		all.Go(func() {
			for {
				f, err := bus.Board()
				if err != nil {
					if !errors.Is(err, batcher.ErrClosed) {
						t.Error(err)
					}
					return
				}
				f.AppendCommand([]byte("c"))
				boarded[i]++
				bus.Leave()
				if boarded[i] == 10 {
					started <- struct{}{}
				}
			}
		})
	}
	for range boarded {
		<-started
	}
	if err := bus.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	sum := uint64(0)
	for _, n := range boarded {
		sum += n
	}
	if got := bus.Stats().Commands; got != sum {
		t.Errorf("%d commands landed of %d", got, sum)
	}
	for name, err := range map[string]error{
		"insert": bus.Insert(1, func(*batcher.Frame) { t.Error("filled a frame of a closed bus") }),
		"flush":  bus.Flush(t.Context()),
		"close":  bus.Close(),
	} {
		if name == "close" && err != nil || name != "close" && !errors.Is(err, batcher.ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
}

func TestFlushGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		submitted := make(chan uint64, 1)
		bus := batcher.New(batcher.Options{Submit: func(f *batcher.Frame) { submitted <- f.Ticket }})
		f := board(t, bus)
		f.AppendCommand([]byte("c"))
		bus.Leave()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := bus.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flush: %v", err)
		}
		bus.Landed(<-submitted, nil)
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestLandingsDoNotOverlap lands a second frame while a rider of the first is
// still being told.
func TestLandingsDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := batcher.New(batcher.Options{Depth: 2, Submit: func(*batcher.Frame) {}})
		first := &slowRider{proceed: make(chan struct{})}
		second := new(passenger)
		for _, r := range []batcher.Rider{first, second} {
			f := board(t, bus)
			f.AppendCommand([]byte("c"))
			f.Ride(r)
			bus.Leave()
			synctest.Wait()
		}
		go bus.Landed(1, nil)
		synctest.Wait()
		bus.Landed(2, nil)
		if first.told != 1 || second.landed != 0 {
			t.Errorf("first told %d times, second of ticket %d; want 1, 0", first.told, second.landed)
		}
		close(first.proceed)
		synctest.Wait()
		if first.told != 1 || second.landed != 2 {
			t.Errorf("first told %d times, second of ticket %d; want 1, 2", first.told, second.landed)
		}
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
	})
}

type slowRider struct {
	proceed chan struct{}
	told    int
}

func (r *slowRider) Landed(uint64, error) {
	r.told++
	<-r.proceed
}

// TestCloseWaitsForInsert closes while a frame is being filled: it rides, and
// nothing idles meanwhile.
func TestCloseWaitsForInsert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bus *batcher.Bus
		var order []string
		bus = batcher.New(batcher.Options{
			Submit: func(f *batcher.Frame) {
				order = append(order, fmt.Sprintf("submit %s", f.Meta()))
				bus.Landed(f.Ticket, nil)
			},
			Idle: func(*batcher.Frame) bool {
				order = append(order, "idle")
				return false
			},
		})
		f := board(t, bus)
		f.AppendCommand([]byte("c"))
		bus.Leave()
		proceed := make(chan struct{})
		go func() {
			err := bus.Insert(1, func(f *batcher.Frame) {
				<-proceed
				f.AppendCommand([]byte("s"))
			})
			if err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- bus.Close() }()
		time.Sleep(time.Second)
		close(proceed)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(order, ", "), "submit c, submit s"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestIdleBehindRiders: riders that wrote nothing are told when Idle is due. They set no
// timer when they land, and it is asked all the same.
func TestIdleBehindRiders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bus *batcher.Bus
		asked := 0
		bus = batcher.New(batcher.Options{
			Submit: func(f *batcher.Frame) { bus.Landed(f.Ticket, nil) },
			Idle:   func(*batcher.Frame) bool { asked++; return false },
		})
		f := board(t, bus)
		f.AppendCommand([]byte("c"))
		bus.Leave()
		slow := &slowRider{proceed: make(chan struct{})}
		go func() {
			f := board(t, bus)
			f.Ride(slow)
			bus.Leave()
		}()
		time.Sleep(limits.IdlePromiseDelay)
		synctest.Wait()
		close(slow.proceed)
		time.Sleep(time.Second)
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
		if slow.told != 1 || asked != 1 {
			t.Errorf("the rider was told %d times, Idle asked %d times", slow.told, asked)
		}
	})
}

func TestInsertWithoutTagPanics(t *testing.T) {
	bus := open(t, batcher.Options{})
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	_ = bus.Insert(0, func(*batcher.Frame) {})
}

// TestFrameLanded checks the durations of a frame on a disk with a clock.
func TestFrameLanded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var infos []batcher.FrameInfo
		var bus *batcher.Bus
		bus = batcher.New(batcher.Options{
			Codec: batcher.Fixed(codec.None),
			Submit: func(f *batcher.Frame) {
				time.Sleep(3 * time.Millisecond)
				bus.Landed(f.Ticket, nil)
			},
			Events: batcher.Events{FrameLanded: func(i batcher.FrameInfo) { infos = append(infos, i) }},
		})
		add := func() {
			f := board(t, bus)
			f.AppendCommand([]byte("12345"))
			f.AddRecords(1, make([]byte, 100))
			f.Ride(new(passenger))
			bus.Leave()
		}
		go add()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		add()
		add()
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
		want := []batcher.FrameInfo{
			{Ticket: 1, Commands: 1, Riders: 1, Blocks: 1, RawSize: 105, StoredSize: 105, Lone: true, Land: 3 * time.Millisecond},
			{Ticket: 2, Commands: 2, Riders: 2, Blocks: 1, RawSize: 210, StoredSize: 210, Fill: 2 * time.Millisecond, Land: 3 * time.Millisecond},
		}
		if !slices.Equal(infos, want) {
			t.Errorf("infos:\n%+v\nwant:\n%+v", infos, want)
		}
	})
}

// TestToldComeBack: callers that each wait for their own append share one frame,
// on a disk that leaves them the time, instead of riding in turn.
func TestToldComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, each = 8, 400
		var bus *batcher.Bus
		bus = batcher.New(batcher.Options{Codec: batcher.Fixed(codec.None), Submit: func(f *batcher.Frame) {
			time.Sleep(time.Millisecond) // the disk, on the bubble's clock
			bus.Landed(f.Ticket, nil)
		}})
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				told := make(awaited, 1)
				for range each {
					f, err := bus.Board()
					if err != nil {
						t.Error(err)
						return
					}
					f.AppendCommand([]byte("c"))
					f.Ride(told)
					bus.Leave()
					<-told
				}
			})
		}
		all.Wait()
		if err := bus.Close(); err != nil {
			t.Fatal(err)
		}
		// Turns without waiting among them, in which they ride as they come.
		if got := float64(callers*each) / float64(bus.Stats().Frames); got < 0.75*callers {
			t.Errorf("%.1f callers in a frame, want nearly all %d", got, callers)
		}
	})
}

// awaited is told of one append at a time.
type awaited chan struct{}

func (a awaited) Landed(uint64, error) { a <- struct{}{} }
