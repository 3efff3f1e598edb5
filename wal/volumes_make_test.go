package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// A madeVolume is a volume of testdata/volumes: what it shows, and how it is made.
type madeVolume struct {
	name  string
	about string
	make  func(m *maker)
	// compressed says that blocks hold what a compressor made. Another release
	// of it may make other bytes, so these volumes are compared by content.
	compressed bool
}

// madeVolumes has a volume for each case of the tail rule, for each state that
// opening has to get right besides, and for each thing that a frame may carry.
var madeVolumes = []madeVolume{
	{name: "empty", about: "created, and stopped in order before anything was written", make: func(m *maker) {
		m.open()
		m.close()
	}},
	{name: "clean", about: "stopped in order", make: func(m *maker) {
		m.base()
		m.close()
	}},
	{name: "idle", about: "killed when everything had its promise", make: func(m *maker) {
		m.base()
		m.idle()
		m.crash()
	}},
	{name: "unpromised", about: "killed right behind an ack", make: func(m *maker) {
		m.base()
		m.crash()
	}},
	{name: "rewritten", about: "killed right behind an ack, opened, and killed again before anything else", make: func(m *maker) {
		m.base()
		m.crash()
		m.open()
		m.crash()
	}},

	{name: "torn-header", about: "the header of the last frame, which nothing promises, has a flipped bit", make: func(m *maker) {
		m.base()
		m.crash()
		m.flip(m.last(), limits.FrameHeaderSize-2)
	}},
	{name: "torn-directory", about: "the directory of the last frame, which nothing promises, has a flipped bit", make: func(m *maker) {
		m.base()
		m.crash()
		m.flip(m.last(), directoryOf(m.last()))
	}},
	{name: "torn-block", about: "a block of the last frame, which nothing promises, has a flipped bit", make: func(m *maker) {
		m.base()
		m.crash()
		m.flip(m.last(), m.last().Blocks[0].Offset)
	}},
	{name: "torn-half", about: "only the first 4 KiB of the last frame came to the disk", make: func(m *maker) {
		m.base()
		m.append("orders", 3, 4000)
		m.crash()
		f := m.last()
		m.zero(f.Pos.Segment, f.Pos.Offset+limits.BlockSize, f.Header.Size()-limits.BlockSize)
	}},
	{name: "torn-roll", about: "killed when a segment had begun and the one before had no seal yet", make: func(m *maker) {
		m.base()
		m.crashAt(disk.OpRename, 1, func() { m.roll("orders") })
	}},
	{name: "orphans", about: "two frames were in flight; the disk has the second and not the first", make: func(m *maker) {
		m.base()
		m.close()
		first := m.inFlight("first", "second")[0]
		m.zero(first.Pos.Segment, first.Pos.Offset, limits.BlockSize)
	}},

	{name: "flipped-header", about: "the header of an acknowledged frame has a flipped bit", make: func(m *maker) {
		m.base()
		m.close()
		m.flip(m.middle(), 20)
	}},
	{name: "flipped-directory", about: "the directory of an acknowledged frame has a flipped bit", make: func(m *maker) {
		m.base()
		m.close()
		m.flip(m.middle(), directoryOf(m.middle()))
	}},
	{name: "flipped-block", about: "a block of an acknowledged frame has a flipped bit", make: func(m *maker) {
		m.base()
		m.close()
		m.flip(m.middle(), m.middle().Blocks[0].Offset+5)
	}},
	{name: "flipped-checkpoint", about: "the state of a checkpoint has a flipped bit", make: func(m *maker) {
		m.base()
		m.close()
		m.flip(m.with(CommandSetCheckpoint), m.with(CommandSetCheckpoint).Blocks[0].Offset)
	}},
	{name: "flipped-segment", about: "the header of the newest segment has a flipped bit", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.close()
		m.corrupt(segment.Pos{Segment: 2}, 40)
	}},
	{name: "flipped-seal", about: "the seal of the first segment has a flipped bit in its index", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.close()
		m.flip(m.of(segment.KindSeal)[0], limits.FrameHeaderSize+1)
	}},
	{name: "zeroed-seal", about: "the seal of the first segment is gone", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.close()
		f := m.of(segment.KindSeal)[0]
		m.zero(f.Pos.Segment, f.Pos.Offset, f.Header.Size())
	}},
	{name: "flipped-volume", about: "the VOLUME file has a flipped bit", make: func(m *maker) {
		m.base()
		m.close()
		m.edit("VOLUME", func(b []byte) []byte { b[20] ^= 1; return b })
	}},
	{name: "lost-volume", about: "the VOLUME file is gone", make: func(m *maker) {
		m.base()
		m.close()
		m.remove("VOLUME")
	}},
	{name: "newer", about: "the VOLUME file is of a format version that no walsvc has yet", make: func(m *maker) {
		m.base()
		m.close()
		m.edit("VOLUME", func(b []byte) []byte {
			b[11] = 0x7f
			binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
			return b
		})
	}},
	{name: "lost-newest", about: "the newest segment is gone", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.close()
		m.remove(nameOf(2))
	}},
	{name: "lost-middle", about: "a segment in the middle is gone", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.roll("users")
		m.close()
		m.remove(nameOf(2))
	}},
	{name: "lost-oldest", about: "the oldest segment is gone, with records that nobody gave up", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.snapshot()
		m.roll("orders")
		m.snapshot()
		m.roll("users")
		m.close()
		m.remove(nameOf(1))
	}},
	{name: "swapped", about: "two segments have each other's name", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.roll("users")
		m.close()
		one, two := readFile(m.t, m.fs, nameOf(1)), readFile(m.t, m.fs, nameOf(2))
		writeFile(m.t, m.fs, nameOf(1), two)
		writeFile(m.t, m.fs, nameOf(2), one)
	}},
	{name: "cut-short", about: "the newest segment's file was cut, behind its last frame", make: func(m *maker) {
		m.base()
		m.close()
		m.edit(nameOf(1), func(b []byte) []byte { return b[:m.last().End().Offset] })
	}},
	{name: "repaired", about: "an acknowledged frame and the newest segment were lost, and given up by a repair; then it was appended to", make: func(m *maker) {
		m.base()
		m.roll("orders")
		m.close()
		m.flip(m.middle(), 20)
		m.corrupt(segment.Pos{Segment: 2}, 40)
		// One more than are kept, since the repair takes one: or the preparer is at work
		// until the repair is done, and nobody knows how far it came.
		m.create("spare-01arz3ndektsv4rrffq69g5fav.seg", int(m.segmentSize))
		m.repair()
		m.open()
		m.append("orders", 2, 100)
		m.close()
	}},

	{name: "snapshots", about: "opening begins at a snapshot, with another one behind it", make: func(m *maker) {
		m.snapshots()
		m.close()
	}},
	{name: "flipped-snapshot", about: "the newest snapshot does not open, the older one does", make: func(m *maker) {
		m.snapshots()
		m.close()
		parts := m.of(segment.KindSnapshot)
		m.flip(parts[len(parts)-1], limits.FrameHeaderSize+7)
	}},
	{name: "no-snapshot", about: "no snapshot opens, and the journal's beginning was released", make: func(m *maker) {
		m.snapshots()
		m.close()
		for _, f := range m.of(segment.KindSnapshot) {
			m.flip(f, limits.FrameHeaderSize+7)
		}
	}},
	{name: "half-snapshot", about: "killed between two parts of a snapshot, the second one taken", make: func(m *maker) {
		m.base()
		m.largeState()
		m.snapshot()
		m.append("orders", 2, 100)
		m.crashAt(disk.OpSync, 2, m.snapshot)
		if n := len(m.of(segment.KindSnapshot)); n < 4 {
			m.t.Fatalf("%d parts", n)
		}
	}},

	{name: "recycled", about: "killed in a segment whose file held frames of an earlier life, which lie behind the end", make: func(m *maker) {
		m.recycled()
		m.crash()
	}},
	{name: "carried", about: "a checkpoint's state was carried forward, since the segment it lay in was released", make: func(m *maker) {
		m.recycled()
		m.close()
		m.with(CommandMoveCheckpoint)
	}},
	{name: "moved", about: "logs that keep little, whose records were moved forward, since the segment they lay in was released", make: func(m *maker) {
		m.moved()
		m.close()
		m.with(CommandMoveRecords)
	}},
	{name: "gap", about: "a segment was released between others that a log keeps", make: func(m *maker) {
		m.gapped()
		m.close()
	}},
	{name: "gap-begun", about: "killed when the file of a gap was durable, and its segment still had its name", make: func(m *maker) {
		m.gapped()
		m.close()
		m.fs = m.between
	}},
	{name: "flipped-gap", about: "the file of a gap has a flipped bit", make: func(m *maker) {
		m.gapped()
		m.close()
		m.edit(gapOf(4), func(b []byte) []byte {
			b[limits.SegmentHeaderSize+24] ^= 1
			return b
		})
	}},
	{name: "lost-gap", about: "the file of a gap is gone", make: func(m *maker) {
		m.gapped()
		m.close()
		m.remove(gapOf(4))
	}},
	{name: "dead-space", about: "opened on a full disk, which gave up the dead space of the segment before", make: func(m *maker) {
		m.segmentSize = 4 * limits.MinSegmentSize
		m.base()
		m.crash()
		for _, name := range m.names() {
			if strings.HasSuffix(name, ".seg") {
				m.remove(name)
			}
		}
		m.full(true)
		m.open()
		m.full(false)
		m.idle()
		m.append("orders", 1, 100)
		m.close()
	}},
	{name: "leftovers", about: "with unfinished files of a run that ended, a spare of another size, and a stranger; without LOCK", make: func(m *maker) {
		m.base()
		m.close()
		m.create("VOLUME.tmp", 10)
		m.create(nameOf(2)+".tmp", limits.BlockSize)
		m.create("spare-01arz3ndektsv4rrffq69g5fav.seg.tmp", 3*limits.BlockSize)
		m.create("spare-01arz3ndektsv4rrffq69g5fav.seg", limits.BlockSize)
		m.create("notes-of-the-operator", 100)
		m.remove("LOCK")
	}},
	{name: "many-logs", about: "a hundred logs, some of them deleted; one with everything that a log can have", make: func(m *maker) {
		m.base()
		m.manyLogs(100)
		m.close()
	}},
	{name: "producers", about: "producers with a full window, with some batches, with none, and with batches that were truncated; one resolved, one retired", make: func(m *maker) {
		m.base()
		m.producers()
		m.crash()
	}},
	{name: "together", about: "batches over several logs, of a producer and of nobody; from a snapshot and from commands", make: func(m *maker) {
		m.base()
		m.together()
		m.crash()
	}},
	{name: "writers", about: "a log with a writer, one whose writer was fenced, and one whose writer was released; from a snapshot and from commands", make: func(m *maker) {
		m.base()
		m.writers()
		m.crash()
	}},
	{name: "cursors", about: "cursors that hold, that are lost, that were reset and deleted; from a snapshot and from commands", make: func(m *maker) {
		m.base()
		m.cursors()
		m.crash()
	}},
	{name: "rewound", about: "logs that were rewound, into a batch, to nothing, with a cursor and a producer beyond, and appended to again; from a snapshot and from commands", make: func(m *maker) {
		m.base()
		m.rewinds()
		m.crash()
	}},
	{name: "codecs", about: "blocks of every codec", compressed: true, make: func(m *maker) {
		for _, c := range []string{"none", "s2", "zstd"} {
			m.codec = c
			m.base()
			m.append("orders", 20, 700)
			m.append("users", 2, 4000)
			m.close()
		}
	}},
}

// makeVolume makes a volume in a bubble: the clock stands still but in idle, and
// every operation ends when all that it set off has.
func makeVolume(t *testing.T, made madeVolume) (fs *disk.Mem) {
	// The compressors keep channels, which must not be made in a bubble.
	for _, c := range []codec.Codec{codec.S2, codec.Zstd} {
		if _, err := c.Open(nil, c.Compress(nil, []byte("x")), 1); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		m := &maker{t: t, fs: disk.NewMem(), segmentSize: limits.MinSegmentSize, codec: "none"}
		m.dice.seed = made.name
		t.Cleanup(func() {
			if m.v != nil { // it failed halfway
				_ = m.v.Close()
			}
		})
		made.make(m)
		fs = m.fs
	})
	return fs
}

// A maker makes one volume.
type maker struct {
	t           *testing.T
	fs          *disk.Mem
	v           *Volume // nil when it is closed
	dice        dice
	segmentSize int64
	codec       string
	n           int // batches appended, for the text of their records

	// crashAt's: which operation, of which there are so many to come, is
	// followed by a crash; and the disk as that left it.
	at      disk.OpKind
	toCome  int
	crashed *disk.Mem

	between *disk.Mem // see gapped
}

// dice gives identities, names and salts. The preparer draws names while
// others draw salts, so each length has a stream of its own.
type dice struct {
	mu      sync.Mutex
	seed    string
	streams map[int]*rand.ChaCha8
}

// Read implements io.Reader.
func (d *dice) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.streams[len(p)]
	if s == nil {
		seed := [32]byte{31: byte(len(p))}
		copy(seed[:31], d.seed)
		s = rand.NewChaCha8(seed)
		if d.streams == nil {
			d.streams = map[int]*rand.ChaCha8{}
		}
		d.streams[len(p)] = s
	}
	return s.Read(p)
}

// open opens the volume, which is created the first time.
func (m *maker) open() {
	m.t.Helper()
	v, err := Open(m.t.Context(), "/vol", Options{
		FS: disk.Record(m.fs, m.saw), Create: true, SegmentSize: m.segmentSize, PrepareRate: -1,
		Codec: m.codec, SnapshotEvery: 1 << 40, Rand: &m.dice,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.v = v
	m.settle()
}

// repair plans a repair and applies it.
func (m *maker) repair() {
	m.t.Helper()
	o := RepairOptions{FS: m.fs, Rand: &m.dice}
	plan, err := PlanRepair(m.t.Context(), "/vol", o)
	if err == nil {
		err = ApplyRepair(m.t.Context(), plan, o)
	}
	if err != nil || !plan.Needed {
		m.t.Fatalf("needed: %t, %v", plan.Needed, err)
	}
}

// settle waits until nothing goes on behind the scenes. Snapshots are taken by
// snapshot and at no other time.
func (m *maker) settle() {
	synctest.Wait()
	m.v.mu.Lock()
	m.v.bytes = -1 << 40
	m.v.mu.Unlock()
}

func (m *maker) close() {
	m.t.Helper()
	closeTest(m.t, m.v)
	m.v = nil
}

// crash kills the process: what was written stays.
func (m *maker) crash() {
	m.t.Helper()
	crashed := m.fs.CrashClone(nil, 1)
	m.close()
	m.fs = crashed
}

// crashAt cuts the power behind the nth operation of a kind on a segment that
// act comes to: what is not synced is lost.
func (m *maker) crashAt(at disk.OpKind, n int, act func()) {
	m.t.Helper()
	m.full(true) // or the preparer is at work meanwhile, and nobody knows how far it came
	m.at, m.toCome = at, n
	act()
	m.close()
	if m.crashed == nil {
		m.t.Fatalf("it never came to %d operations of kind %s", n, at)
	}
	m.fs = m.crashed
}

// saw is told of every operation.
func (m *maker) saw(op disk.Op) {
	if !op.Done() || op.Kind != m.at || !strings.HasSuffix(op.Name+op.To, segmentFile) || m.crashed != nil {
		return
	}
	if m.toCome--; m.toCome > 0 {
		return
	}
	survive := 0.0
	if op.Kind == disk.OpRename {
		survive = 1 // or the name would be the first to be lost
	}
	m.crashed = m.fs.CrashClone(nil, survive)
}

const segmentFile = ".wal"

// idle lets time pass: for a promise, for the preparer to try again, and for
// readers to let go of what was released.
func (m *maker) idle() {
	time.Sleep(limits.PinLimit + time.Second)
	m.settle()
}

// base opens the volume and appends to three logs, so that each volume has a
// checkpoint with a state, a producer and a log that was truncated. It takes less
// than the first segment.
func (m *maker) base() {
	m.t.Helper()
	m.open()
	for _, log := range []string{"orders", "users", "audit"} {
		m.createLog(log, LogOptions{})
	}
	m.append("orders", 3, 20)
	m.append("users", 2, 300)
	m.append("audit", 2, 1000)
	m.checkpoint("orders", "engine", 2, "everything up to order 2")
	m.produce("users", producerID(1), 1)
	m.truncate("audit", 2)
	m.append("orders", 2, 10)
}

func (m *maker) createLog(name string, o LogOptions) {
	m.t.Helper()
	if _, _, err := m.v.CreateLog(m.t.Context(), name, o); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
}

func (m *maker) truncate(log string, first LSN) {
	m.t.Helper()
	if _, err := m.v.Truncate(m.t.Context(), log, first); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
}

// append appends records of about size bytes as one batch, and so as one frame.
func (m *maker) append(log string, records, size int) {
	m.t.Helper()
	mustAppend(m.t, m.v, log, m.records(log, records, size)...)
	m.settle()
}

func (m *maker) records(log string, records, size int) (recs []string) {
	for i := range records {
		text := fmt.Sprintf("%s, batch %d, record %d. ", log, m.n, i)
		recs = append(recs, strings.Repeat(text, 1+size/len(text)))
	}
	m.n++
	return recs
}

// produce appends batches of a producer, which it opens.
func (m *maker) produce(log string, id ulid.ULID, batches int) {
	m.t.Helper()
	ctx := m.t.Context()
	info, err := m.v.OpenProducer(ctx, log, id)
	if err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	for i := range batches {
		b := Batch{Sequence: info.LastSequence + 1 + uint64(i), Run: run(m.records(log, 1+i%3, 10)...)}
		if _, err := m.v.Append(ctx, log, id, 0, b); err != nil {
			m.t.Fatal(err)
		}
		m.settle()
	}
}

// together appends batches over several logs.
func (m *maker) together() {
	m.t.Helper()
	ctx := m.t.Context()
	logs := []string{"data", "index", "stats"}
	for _, log := range logs {
		m.createLog(log, LogOptions{ColocationKey: "engine"})
	}
	m.produce("data", producerID(5), 2)
	for q := range uint64(6) {
		b := Batch{Run: run(m.records("data", 1+int(q)%2, 10)...)}
		for _, log := range logs[1 : 2+q%2] {
			b.Parts = append(b.Parts, Part{Log: log, Run: run(m.records(log, 1+int(q)%3, 10)...)})
		}
		id := ulid.ULID{}
		if q < 4 {
			id, b.Sequence = producerID(5), 3+q
		}
		if _, err := m.v.Append(ctx, "data", id, 0, b); err != nil {
			m.t.Fatal(err)
		}
		m.settle()
		if q == 2 {
			m.snapshot()
		}
	}
}

// writers acquires writers, and has them append.
func (m *maker) writers() {
	m.t.Helper()
	acquire := func(log, holder string) {
		m.t.Helper()
		w := mustAcquire(m.t, m.v, log, Acquire{Holder: holder, Request: producerID(byte(m.n))})
		m.settle()
		b := Batch{Expected: w.Log.Next, Run: run(m.records(log, 2, 10)...)}
		if _, err := m.v.Append(m.t.Context(), log, ulid.ULID{}, w.Log.Epoch, b); err != nil {
			m.t.Fatal(err)
		}
		m.settle()
	}
	acquire("orders", "db-1")
	acquire("users", "db-1")
	if err := m.v.snapshots.write(); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	acquire("users", "db-2")
	acquire("audit", "db-1")
	if _, err := m.v.ReleaseWriter(m.t.Context(), "audit", 2); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	m.append("audit", 1, 10)
}

// rewinds rewinds orders, which has five records, users and audit.
func (m *maker) rewinds() {
	m.t.Helper()
	rewind := func(log string, after LSN, holder string) {
		m.t.Helper()
		info, err := m.v.Log(log)
		if err != nil {
			m.t.Fatal(err)
		}
		mustRewind(m.t, m.v, log, Rewind{After: after, Epoch: info.Epoch, Holder: holder, Request: producerID(byte(m.n))})
		m.settle()
	}
	ctx := m.t.Context()
	if _, err := m.v.OpenProducer(ctx, "orders", producerID(1)); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	if _, err := m.v.Append(ctx, "orders", producerID(1), 0, Batch{Sequence: 1, Run: run(m.records("orders", 4, 10)...)}); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	mustCursor(m.t, m.v, "orders", CursorUpdate{Name: "mailer", LSN: 8})
	m.settle()
	rewind("orders", 7, "")
	m.append("orders", 2, 10)
	rewind("users", 0, "")
	m.append("users", 1, 10)
	if err := m.v.snapshots.write(); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	rewind("orders", 8, "db-2")
	rewind("audit", 1, "db-2")
}

// cursors sets cursors on orders, which has five records, and has one evicted.
func (m *maker) cursors() {
	m.t.Helper()
	set := func(u CursorUpdate) {
		m.t.Helper()
		mustCursor(m.t, m.v, "orders", u)
		m.settle()
	}
	set(CursorUpdate{Name: "reset", LSN: 4})
	set(CursorUpdate{Name: "reset", LSN: 1, Reset: true})
	set(CursorUpdate{Name: "hold", LSN: 2, Cap: 1, Policy: CursorHold})
	set(CursorUpdate{Name: "slow", LSN: 5, Cap: 10})
	set(CursorUpdate{Name: "gone", LSN: 5})
	m.append("orders", 1, 20) // one more than slow may hold
	if err := m.v.snapshots.write(); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	set(CursorUpdate{Name: "behind", LSN: 6, Cap: 10})
	if err := m.v.DeleteCursor(m.t.Context(), "orders", "gone", nil); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	m.append("orders", 1, 20)
}

func (m *maker) checkpoint(log, name string, lsn LSN, state string) {
	m.t.Helper()
	mustCheckpoint(m.t, m.v, log, name, lsn, state)
	m.settle()
}

// roll appends until another segment begins.
func (m *maker) roll(log string) {
	m.t.Helper()
	m.holding(func() {
		for was := m.v.filling(); m.v.filling() == was; {
			m.append(log, 3, 3500)
		}
	})
}

// holding does what may begin a segment, for which a spare is prepared, and release
// others, which become spares: a reader of the oldest keeps the one from happening beside
// the other.
func (m *maker) holding(act func()) {
	m.t.Helper()
	r, err := m.v.journal.Reader(m.v.journal.Segments()[0])
	if err != nil {
		m.t.Fatal(err)
	}
	act()
	m.settle()
	if err := r.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
}

func (m *maker) snapshot() {
	m.t.Helper()
	if err := m.v.snapshots.write(); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
}

// giveUp truncates every log as far as its checkpoints allow.
func (m *maker) giveUp() {
	m.t.Helper()
	logs, _ := m.v.ListLogs("", "", 1000)
	for _, l := range logs {
		cps, err := m.v.Checkpoints(l.Name)
		if err != nil {
			m.t.Fatal(err)
		}
		first := l.Next
		if len(cps) > 0 {
			first = min(first, slices.MinFunc(cps, func(a, b Checkpoint) int { return int(a.LSN) - int(b.LSN) }).LSN+1)
		}
		m.truncate(l.Name, first)
	}
}

// snapshots makes a volume of four segments whose first one is released, with
// both snapshots behind that.
func (m *maker) snapshots() {
	m.t.Helper()
	m.base()
	m.checkpoint("orders", "engine", 5, "everything up to order 5")
	m.roll("users")
	m.giveUp()
	m.snapshot()
	m.roll("orders")
	m.append("audit", 1, 100)
	m.snapshot()
	m.roll("users")
	m.release()
	m.append("audit", 1, 100)
}

// recycled makes a volume that fills a file again which held a segment before.
func (m *maker) recycled() {
	m.t.Helper()
	m.base()
	m.checkpoint("orders", "engine", 5, "everything up to order 5")
	m.full(true) // or there are spares enough, and what is released is removed
	m.roll("users")
	m.giveUp()
	m.snapshot()
	m.snapshot()
	m.append("audit", 1, 100)
	m.snapshot()
	m.roll("orders")
	m.release()
	m.full(false)
	m.idle()
	// Until the file has its turn again: spares are taken oldest first.
	for {
		m.append("orders", 2, 100)
		m.append("users", 1, 100)
		b := readFile(m.t, m.fs, nameOf(m.v.filling()))
		at := int(m.v.last.Pos.Offset)
		if slices.ContainsFunc(b[at:], func(c byte) bool { return c != 0 }) {
			return
		}
		m.roll("users")
	}
}

// moved has the first segment released, with records of orders and audit in it.
func (m *maker) moved() {
	m.t.Helper()
	m.base()
	m.roll("users")
	info, err := m.v.Log("users")
	if err != nil {
		m.t.Fatal(err)
	}
	m.truncate("users", info.Next)
	m.snapshot()
	m.snapshot()
	m.append("audit", 1, 100)
	m.snapshot()
	m.roll("users")
	m.release()
	if m.v.Status().MovedRecords == 0 {
		m.t.Fatal("nothing was moved")
	}
	m.append("orders", 1, 100)
}

// gapped has the fourth segment released, while audit keeps those before it. between
// is the disk when the gap had its file and the segment still its name.
func (m *maker) gapped() {
	m.t.Helper()
	m.base()
	m.roll("audit")
	m.roll("audit") // more than is moved
	m.roll("users")
	m.roll("users")
	info, err := m.v.Log("users")
	if err != nil {
		m.t.Fatal(err)
	}
	m.truncate("users", info.Next)
	m.snapshot()
	m.append("audit", 1, 100)
	m.snapshot()
	r, err := m.v.journal.Reader(4)
	if err != nil {
		m.t.Fatal(err)
	}
	m.roll("users")
	m.v.janitor.kick()
	m.settle()
	m.between = m.fs.CrashClone(nil, 1)
	if err := r.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.idle()
	if gaps := m.v.journal.Gaps(); !slices.Equal(gaps, []segment.Gap{{From: 4, To: 4}}) {
		m.t.Fatalf("segments %v, gaps %v", m.v.journal.Segments(), gaps)
	}
	m.append("orders", 1, 100)
}

// release has the janitor look, and waits until the files have other names.
func (m *maker) release() {
	m.t.Helper()
	m.holding(m.v.janitor.kick)
	m.idle()
	if ids := m.v.journal.Segments(); ids[0] == 1 {
		m.t.Fatalf("segments %v: the first is still there", ids)
	}
}

// full fills the disk up, or gives back the room.
func (m *maker) full(full bool) {
	const plenty = 1 << 30
	m.fs.SetCapacity(plenty)
	if !full {
		return
	}
	free, err := m.fs.Free("/vol")
	if err != nil {
		m.t.Fatal(err)
	}
	m.fs.SetCapacity(plenty - int64(free))
}

// largest returns options that could not be larger.
func largest() LogOptions {
	o := LogOptions{QuotaBytes: 1 << 40, MaxRecordBytes: limits.MaxRecordSize, ColocationKey: strings.Repeat("c", limits.MaxLabelBytes), Labels: map[string]string{}}
	for i := range limits.MaxLabels {
		o.Labels[fmt.Sprintf("%02d%s", i, strings.Repeat("k", limits.MaxLabelBytes-2))] = strings.Repeat("v", limits.MaxLabelBytes)
	}
	return o
}

// largeState makes logs whose states take several parts of a snapshot.
func (m *maker) largeState() {
	m.t.Helper()
	for i := range 12 {
		m.createLog(fmt.Sprintf("large/%02d", i), largest())
	}
}

// manyLogs makes logs, with a snapshot in the middle of it.
func (m *maker) manyLogs(logs int) {
	m.t.Helper()
	ctx := m.t.Context()
	m.createLog(strings.Repeat("n", limits.MaxLogNameBytes), largest())
	for i := range logs {
		name := fmt.Sprintf("tenant-%03d/wal", i)
		m.createLog(name, LogOptions{QuotaBytes: uint64(i) << 20, Labels: map[string]string{"tenant": fmt.Sprint(i)}})
		if i%3 == 0 {
			m.append(name, 1+i%4, i)
		}
		if i%10 == 0 {
			m.checkpoint(name, strings.Repeat("p", limits.MaxCheckpointNameBytes), 0, "")
			m.checkpoint(name, "second", 0, fmt.Sprintf("state of %d", i))
		}
		if i == logs/2 {
			m.snapshot()
		}
	}
	for i := 0; i < logs; i += 7 {
		if err := m.v.DeleteLog(ctx, fmt.Sprintf("tenant-%03d/wal", i), ulid.ULID{}); err != nil {
			m.t.Fatal(err)
		}
		m.settle()
	}
	for i := 10; i < logs; i += 20 {
		if err := m.v.DeleteCheckpoint(ctx, fmt.Sprintf("tenant-%03d/wal", i), "second", nil); err != nil && i%7 != 0 {
			m.t.Fatal(err)
		}
		m.settle()
	}
}

// producers makes producers of all sorts.
func (m *maker) producers() {
	m.produce("orders", producerID(8), 2)
	m.produce("orders", producerID(9), 1)
	if _, err := m.v.Resolve(m.t.Context(), "orders", producerID(8), 3, 0); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	if err := m.v.RetireProducer(m.t.Context(), "orders", producerID(9)); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
	m.t.Helper()
	m.produce("orders", producerID(2), limits.ProducerWindow+6)
	m.produce("orders", producerID(3), 5)
	m.produce("orders", producerID(4), 0)
	m.produce("audit", producerID(2), 3)
	m.snapshot()
	m.produce("orders", producerID(2), 3)
	l, err := m.v.Log("audit")
	if err != nil {
		m.t.Fatal(err)
	}
	m.truncate("audit", l.Next)
	m.produce("users", producerID(1), 1)
	if _, err := m.v.SealLog(m.t.Context(), "users", nil); err != nil {
		m.t.Fatal(err)
	}
	m.settle()
}

// inFlight appends a frame for each log to create, with nothing synced before
// the last, to a volume that is closed. Today's service has one frame in flight.
func (m *maker) inFlight(logs ...string) (frames []*segment.Frame) {
	m.t.Helper()
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	j, err := segment.Open(segment.Options{FS: m.fs, Dir: "/vol", PrepareRate: -1, Rand: &m.dice})
	must(err)
	r := &rebuilder{}
	found, err := replay.Recover(j, r)
	must(err)
	_, err = j.Resume(found.Resume)
	must(err)
	for i, log := range logs {
		create := Command{Kind: CommandCreateLog, Log: r.state.next + uint64(i), Name: log}
		_, err := j.Append(&segment.Draft{Kind: segment.KindCommands, Meta: AppendCommand(nil, &create)})
		must(err)
	}
	must(j.Sync())
	synctest.Wait()
	must(j.Close())
	all := m.frames()
	return all[len(all)-len(logs):]
}

// frames returns the frames of the volume, which is closed.
func (m *maker) frames() (frames []*segment.Frame) {
	m.t.Helper()
	_, err := walkFrames(m.fs, func(f *segment.Frame) { frames = append(frames, f) })
	if err != nil {
		m.t.Fatal(err)
	}
	return frames
}

// walkFrames walks a volume on any disk.
func walkFrames(fs disk.FS, see func(f *segment.Frame)) (replay.Recovery, error) {
	j, err := segment.Open(segment.Options{FS: fs, Dir: "/vol", ReadOnly: true})
	if err != nil {
		return replay.Recovery{}, err
	}
	defer j.Close()
	found, err := replay.Walk(j, replay.WalkOptions{}, func(f *segment.Frame, _ []error) error {
		see(f)
		return nil
	})
	if err != nil {
		return replay.Recovery{}, err
	}
	return *found, nil
}

// of returns the frames of a kind, of which there must be some.
func (m *maker) of(kind segment.Kind) []*segment.Frame {
	m.t.Helper()
	frames := slices.DeleteFunc(m.frames(), func(f *segment.Frame) bool { return f.Header.Kind != kind })
	if len(frames) == 0 {
		m.t.Fatalf("no frame of kind %s", kind)
	}
	return frames
}

// last returns the last frame.
func (m *maker) last() *segment.Frame {
	m.t.Helper()
	frames := m.frames()
	return frames[len(frames)-1]
}

// middle returns a frame with records that has frames with some before and behind it.
func (m *maker) middle() *segment.Frame {
	m.t.Helper()
	frames := m.having(CommandAppend)
	return frames[len(frames)/2]
}

// with returns the first frame with a command of the kind.
func (m *maker) with(kind CommandKind) *segment.Frame {
	m.t.Helper()
	return m.having(kind)[0]
}

// having returns the frames with a command of the kind, of which there must be some.
func (m *maker) having(kind CommandKind) []*segment.Frame {
	m.t.Helper()
	frames := slices.DeleteFunc(m.of(segment.KindCommands), func(f *segment.Frame) bool {
		commands, err := DecodeCommands(nil, f.Meta)
		if err != nil {
			m.t.Fatal(err)
		}
		return !slices.ContainsFunc(commands, func(c Command) bool { return c.Kind == kind })
	})
	if len(frames) == 0 {
		m.t.Fatalf("no frame has a command of kind %s", kind)
	}
	return frames
}

// directoryOf returns where in the frame the caller's part of its directory begins.
func directoryOf(f *segment.Frame) int64 {
	return limits.FrameHeaderSize + int64(f.Header.BlocksSize) + int64(f.Header.DirectorySize) - int64(len(f.Meta))
}

// flip changes bits of a frame's byte.
func (m *maker) flip(f *segment.Frame, within int64) { m.corrupt(f.Pos, within) }

func (m *maker) corrupt(pos segment.Pos, within int64) {
	m.t.Helper()
	corrupt(m.t, m.fs, pos, within)
}

// zero overwrites a part of a segment with zeroes.
func (m *maker) zero(id segment.ID, off, n int64) {
	m.t.Helper()
	m.edit(nameOf(id), func(b []byte) []byte { clear(b[off : off+n]); return b })
}

// edit changes a file.
func (m *maker) edit(name string, change func(b []byte) []byte) {
	m.t.Helper()
	writeFile(m.t, m.fs, name, change(readFile(m.t, m.fs, name)))
}

func (m *maker) remove(name string) {
	m.t.Helper()
	if err := m.fs.Remove("/vol/" + name); err != nil {
		m.t.Fatal(err)
	}
}

func (m *maker) create(name string, size int) {
	m.t.Helper()
	createFile(m.t, m.fs, name, []byte(strings.Repeat("?", size)))
}

// names returns the names in the volume's directory.
func (m *maker) names() []string {
	m.t.Helper()
	return slices.Sorted(maps.Keys(filesOf(m.t, m.fs)))
}

func createFile(t testing.TB, fs disk.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create("/vol/" + name)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// filesOf reads a volume's files.
func filesOf(t *testing.T, fs disk.FS) map[string][]byte {
	t.Helper()
	entries, err := fs.List("/vol")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		files[e.Name] = readFile(t, fs, e.Name)
	}
	return files
}

// loadFiles puts a volume's files on a disk of its own.
func loadFiles(t testing.TB, files map[string][]byte) *disk.Mem {
	t.Helper()
	fs := disk.NewMem()
	if err := fs.MkdirAll("/vol"); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		createFile(t, fs, name, files[name])
	}
	if err := fs.SyncDir("/vol"); err != nil {
		t.Fatal(err)
	}
	return fs
}

// gapOf returns the name of the file of the gap that begins with a segment.
func gapOf(id segment.ID) string { return id.String() + ".gap" }
