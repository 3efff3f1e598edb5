package wal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

var damageRewrite = flag.Bool("damage.rewrite", false, "write testdata/damage.txt anew; read the difference before you keep it")

// A specimen is a volume to be damaged, and all there is to know of it.
type specimen struct {
	fs     *disk.Mem // never changed: every cell damages a clone
	before *disk.Mem // the same volume earlier: some of its segments were released and their files recycled
	frames []specimenFrame
	ids    []segment.ID
	acked  map[string][]string // by log, from LSN 1 on
	first  map[string]LSN
	claims map[string]Claim
	// other is another volume that has a gap with the same name.
	other *disk.Mem
	// damaged is what a cell made of fs.
	damaged *disk.Mem
	// Where opening begins to scan, and where it would if that does not open.
	newest, older segment.FrameRef
}

// A specimenFrame is a frame with what it carries.
type specimenFrame struct {
	*segment.Frame
	commands []Command
	part     *SnapshotPart
	names    map[uint64]string
}

// A recordID names an acknowledged record.
type recordID struct {
	log string
	lsn LSN
}

// newSpecimen makes a volume of some ten segments. Its frames are of three
// blocks of the disk: the header lies in the first, the directory in the last.
func newSpecimen(t *testing.T, logs []string, crashed bool) *specimen {
	t.Helper()
	fs := disk.NewMem()
	v, err := Open(t.Context(), "/vol", Options{FS: fs, Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1, Codec: "none", SnapshotEvery: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	s := &specimen{acked: map[string][]string{}, first: map[string]LSN{}, claims: map[string]Claim{}}
	for _, log := range logs {
		mustCreate(t, v, log)
		s.first[log] = 1
	}
	turn := 0
	appendOne := func() {
		log := logs[turn%len(logs)]
		var recs []string
		for i := range 3 {
			recs = append(recs, fmt.Sprintf("%s/%d/%d/%s", log, turn, i, strings.Repeat(string(rune('a'+turn%26)), 3000)))
		}
		got := mustAppend(t, v, log, recs...)
		s.acked[log] = append(s.acked[log], recs...)
		if want := LSN(len(s.acked[log])); got.First+2 != want {
			t.Fatalf("log %q: appended at %d, want the end at %d", log, got.First, want)
		}
		s.claims[log] = Claim{LSN: got.First + 2, Epoch: got.Epoch, Checksum: got.Checksum}
		turn++
	}
	// Snapshots are taken where the layout wants them, and nowhere else.
	quiet := func() {
		v.mu.Lock()
		v.bytes = -1 << 40
		v.mu.Unlock()
	}
	snapshot := func() {
		pollUntil(t, "there is room for a snapshot", func() bool {
			err := v.snapshots.write()
			if err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			return err == nil
		})
		quiet()
		appendOne()
	}
	newest := func() segment.ID { ids := v.journal.Segments(); return ids[len(ids)-1] }
	roll := func() {
		for was := newest(); newest() == was; {
			appendOne()
		}
	}
	quiet()

	// An earlier life for the files: fill some segments, and give them up.
	for range 3 {
		roll()
	}
	s.before = fs.CrashClone(nil, 1)
	for _, log := range logs {
		first := LSN(len(s.acked[log]) - 2)
		if _, err := v.Truncate(t.Context(), log, first); err != nil {
			t.Fatal(err)
		}
		s.first[log] = first
	}
	if _, err := v.SetCheckpoint(t.Context(), logs[0], Checkpoint{Name: "engine", LSN: s.first[logs[0]] - 1, State: []byte("state")}, nil); err != nil {
		t.Fatal(err)
	}
	snapshot()
	snapshot()
	roll()
	v.janitor.kick()
	// A released segment keeps its name for as long as a reader has it open.
	pollUntil(t, "segments are released and recycled", func() bool {
		oldest := v.journal.Segments()[0]
		entries, err := fs.List("/vol")
		if err != nil {
			t.Fatal(err)
		}
		first := slices.IndexFunc(entries, func(e disk.Entry) bool { return strings.HasSuffix(e.Name, ".wal") })
		return oldest > 1 && entries[first].Name == oldest.String()+".wal"
	})

	// Two whole segments below both snapshots, each of those in a segment of its
	// own, and the newest segment above them.
	roll()
	roll()
	snapshot()
	roll()
	appendOne()
	snapshot()
	roll()
	for range 3 {
		appendOne()
	}
	h, err := v.journal.Header(newest())
	if err != nil {
		t.Fatal(err)
	}
	s.newest, s.older = h.Snapshot, h.OlderSnapshot
	if !crashed {
		closeTest(t, v)
		s.fs = fs.CrashClone(nil, 1)
	} else {
		// The clone is taken before the promise that follows an idle moment; if
		// not, it is taken again behind another append.
		pollUntil(t, "the last frame is unpromised", func() bool {
			appendOne()
			s.fs = fs.CrashClone(nil, 1)
			s.read(t)
			return s.frames[len(s.frames)-1].Header.Kind == segment.KindCommands
		})
		closeTest(t, v)
	}
	s.read(t)
	if len(s.ids) < 5 || s.newest.IsZero() || s.older.IsZero() {
		t.Fatalf("%d segments, snapshots at %s and %s", len(s.ids), s.newest.Pos, s.older.Pos)
	}
	for log := range s.claims {
		c := s.claims[log]
		info, err := v.Log(log)
		if err != nil {
			t.Fatal(err)
		}
		c.Log = info.ID
		s.claims[log] = c
	}
	return s
}

// newGapSpecimen makes a volume from the middle of which segments were released: one log
// keeps what lies before them, and all keep what lies behind.
func newGapSpecimen(t *testing.T) *specimen {
	t.Helper()
	fs := disk.NewMem()
	v, err := Open(t.Context(), "/vol", Options{FS: fs, Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1, Codec: "none", SnapshotEvery: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s := &specimen{acked: map[string][]string{}, first: map[string]LSN{}, claims: map[string]Claim{}}
	for _, log := range []string{"idle", "orders"} {
		s.first[log] = 1
		s.claims[log] = Claim{Log: mustCreate(t, v, log).ID}
	}
	appendOne := func(log string) {
		var recs []string
		for i := range 3 {
			recs = append(recs, fmt.Sprintf("%s/%d/%s", log, i, strings.Repeat(string(rune('a'+len(s.acked[log])/3%26)), 3000)))
		}
		got := mustAppend(t, v, log, recs...)
		s.acked[log] = append(s.acked[log], recs...)
		s.claims[log] = Claim{Log: s.claims[log].Log, LSN: got.First + 2, Epoch: got.Epoch, Checksum: got.Checksum}
		synctest.Wait()
	}
	roll := func(logs ...string) {
		for was := v.filling(); v.filling() == was; {
			for _, log := range logs {
				appendOne(log)
			}
		}
	}
	for range 3 {
		roll("idle", "orders")
	}
	for n := segment.ID(0); n < 4; { // segments in the gap
		roll("orders")
		s.first["orders"] = LSN(len(s.acked["orders"]) - 2)
		if _, err := v.Truncate(t.Context(), "orders", s.first["orders"]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if gaps := v.journal.Gaps(); len(gaps) > 0 {
			if s.before == nil {
				s.before = fs.CrashClone(nil, 1)
			}
			n = gaps[0].To - gaps[0].From + 1
		}
	}
	for range 4 {
		roll("idle", "orders")
	}
	for log := range s.first {
		info, err := v.Log(log)
		if err != nil {
			t.Fatal(err)
		}
		s.first[log] = info.First
	}
	closeTest(t, v)
	s.fs = fs.CrashClone(nil, 1)
	s.read(t)
	return s
}

// spotsAtGap returns the rows of the matrix for a specimen with a gap.
func spotsAtGap(t *testing.T, s *specimen) (names []string, spots map[string]spot) {
	t.Helper()
	i := slices.IndexFunc(s.ids[1:], func(id segment.ID) bool { return !slices.Contains(s.ids, id-1) })
	if i < 0 || i+2 >= len(s.ids)-3 {
		t.Fatalf("the segments are %v", s.ids)
	}
	before, behind := s.ids[i], s.ids[i+1]
	file := (before + 1).String() + ".gap"
	if bytes.Equal(readFile(t, s.before, file), readFile(t, s.fs, file)) {
		t.Fatal("the gap has not grown")
	}
	spots = map[string]spot{
		"gap":                   {file: file, size: int64(len(readFile(t, s.fs, file)))},
		"segment, before a gap": {file: nameOf(before), id: before, size: limits.SegmentHeaderSize},
		"segment, behind a gap": {file: nameOf(behind), id: behind, size: limits.SegmentHeaderSize},
	}
	last := s.ids[len(s.ids)-1]
	spots["segment, last of some with a gap"] = spot{file: nameOf(last), id: last, size: limits.SegmentHeaderSize}
	return []string{"gap", "segment, before a gap", "segment, behind a gap", "segment, last of some with a gap"}, spots
}

// read lists the specimen's frames.
func (s *specimen) read(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	export(t, s.fs, dir)
	s.frames, s.ids = nil, nil
	r, err := Dump(t.Context(), dir, DumpOptions{}, func(f *DumpedFrame) error {
		frame := specimenFrame{Frame: f.Frame, commands: slices.Clone(f.Commands), part: f.Snapshot, names: map[uint64]string{}}
		for _, c := range frame.commands {
			frame.names[c.Log] = f.Name(c.Log)
		}
		s.frames = append(s.frames, frame)
		if n := len(s.ids); n == 0 || s.ids[n-1] != f.Pos.Segment {
			s.ids = append(s.ids, f.Pos.Segment)
		}
		return nil
	})
	if err != nil || r.Verdict != "clean" {
		t.Fatalf("the specimen: %+v, %v", r, err)
	}
}

// export copies a volume to where Verify can read it.
func export(t *testing.T, fs disk.FS, dir string) {
	t.Helper()
	entries, err := fs.List("/vol")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, ".seg") {
			continue // a spare holds nothing
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name), readFile(t, fs, e.Name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t *testing.T, fs disk.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open("/vol/"+name, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// writeFile gives a file another content.
func writeFile(t *testing.T, fs disk.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Open("/vol/"+name, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func nameOf(id segment.ID) string { return id.String() + ".wal" }

// recordsIn returns the records, of those still kept, that the frames carry
// that match.
func (s *specimen) recordsIn(match func(f *specimenFrame, c *Command) bool) map[recordID]bool {
	m := map[recordID]bool{}
	for i := range s.frames {
		f := &s.frames[i]
		for j := range f.commands {
			c := &f.commands[j]
			if c.Kind != CommandAppend || !match(f, c) {
				continue
			}
			for lsn := c.First; lsn <= c.Last(); lsn++ {
				if name := f.names[c.Log]; lsn >= s.first[name] {
					m[recordID{name, lsn}] = true
				}
			}
		}
	}
	return m
}

// A spot is what a row of the matrix damages.
type spot struct {
	file   string
	id     segment.ID     // 0 for the VOLUME file
	offset int64          // of the structure
	size   int64          // of it
	frame  *specimenFrame // that it belongs to; nil for a segment and the VOLUME file
}

// block returns where the disk's block begins that has the structure's first byte.
func (p *spot) block() int64 { return p.offset / limits.BlockSize * limits.BlockSize }

// spotsOf returns the rows of the matrix for a specimen.
func spotsOf(t *testing.T, s *specimen, crashed bool) (names []string, spots map[string]spot) {
	t.Helper()
	spots = map[string]spot{}
	add := func(name string, p spot) {
		if p.id != 0 {
			p.file = nameOf(p.id)
		}
		names, spots[name] = append(names, name), p
	}
	inFrame := func(f *specimenFrame, what string) spot {
		p := spot{id: f.Pos.Segment, offset: f.Pos.Offset, size: limits.FrameHeaderSize, frame: f}
		switch what {
		case "directory":
			p.offset += limits.FrameHeaderSize + int64(f.Header.BlocksSize)
			p.size = int64(f.Header.DirectorySize)
		case "block":
			p.offset += f.Blocks[0].Offset
			if p.size = int64(f.Blocks[0].StoredSize); p.size > 2*limits.BlockSize {
				// Leave the disk's block with the header out of it.
				p.offset, p.size = f.Pos.Offset+limits.BlockSize, limits.BlockSize
			}
		}
		return p
	}
	large := func(f *specimenFrame) bool {
		return f.Header.Kind == segment.KindCommands && f.Header.Size() >= 3*limits.BlockSize
	}
	var below, scanned []*specimenFrame
	var seals []*specimenFrame
	parts := map[segment.Pos]*specimenFrame{}
	for i := range s.frames {
		f := &s.frames[i]
		switch {
		case f.Header.Kind == segment.KindSeal:
			seals = append(seals, f)
		case f.part != nil && f.part.Part == 0:
			parts[f.part.Cut] = f
		case large(f) && f.Pos.Compare(s.older.Pos) < 0 && len(s.recordsIn(func(g *specimenFrame, _ *Command) bool { return g == f })) > 0:
			below = append(below, f)
		case large(f) && f.Pos.Compare(s.newest.Pos) > 0:
			scanned = append(scanned, f)
		}
	}
	if len(below) == 0 || len(scanned) < 3 || len(seals) < 4 || parts[s.newest.Pos] == nil || parts[s.older.Pos] == nil {
		t.Fatalf("%d frames below the snapshots, %d above, %d seals", len(below), len(scanned), len(seals))
	}
	last := scanned[len(scanned)-1]
	if crashed {
		for _, what := range []string{"frame header", "directory", "block"} {
			add(what+", unpromised", inFrame(last, what))
		}
		return names, spots
	}
	header := func(id segment.ID) spot { return spot{id: id, size: limits.SegmentHeaderSize} }
	// One that has frames of the same segment before and behind it.
	inside := below[slices.IndexFunc(below, func(f *specimenFrame) bool { return f.Pos.Offset > limits.MinSegmentSize/3 })]
	middle := scanned[len(scanned)/2]
	add("segment, first", header(s.ids[0]))
	add("segment, middle", header(s.ids[len(s.ids)-2]))
	add("segment, last", header(s.ids[len(s.ids)-1]))
	for _, what := range []string{"frame header", "directory", "block"} {
		add(what+", first", inFrame(inside, what))
		add(what+", middle", inFrame(middle, what))
		add(what+", last", inFrame(last, what))
	}
	add("seal index, first", inFrame(seals[slices.IndexFunc(seals, func(f *specimenFrame) bool { return f.Pos.Segment == inside.Pos.Segment })], "directory"))
	add("seal index, middle", inFrame(seals[slices.IndexFunc(seals, func(f *specimenFrame) bool { return f.Pos.Segment == s.newest.Pos.Segment })], "directory"))
	add("seal index, last", inFrame(seals[len(seals)-1], "directory"))
	superseded := parts[slices.MinFunc(slices.Collect(maps.Keys(parts)), segment.Pos.Compare)]
	if pos := superseded.part.Cut; pos == s.older.Pos || pos == s.newest.Pos {
		t.Fatal("no snapshot is superseded")
	}
	add("snapshot, superseded", inFrame(superseded, "block"))
	add("snapshot, older", inFrame(parts[s.older.Pos], "block"))
	add("snapshot, newest", inFrame(parts[s.newest.Pos], "block"))
	promise := &s.frames[len(s.frames)-1]
	if promise.Header.Kind != segment.KindPromise {
		t.Fatalf("the last frame is one of %s", promise.Header.Kind)
	}
	add("last promise", inFrame(promise, "header"))
	add("VOLUME", spot{file: "VOLUME", size: int64(len(readFile(t, s.fs, "VOLUME")))})
	return names, spots
}

// damages are the columns of the matrix. They report false where they mean nothing.
var damages = []struct {
	name string
	hit  func(t *testing.T, s *specimen, fs *disk.Mem, p spot) bool
}{
	{"one bit", func(t *testing.T, _ *specimen, fs *disk.Mem, p spot) bool {
		b := readFile(t, fs, p.file)
		b[p.offset+p.size/2] ^= 4
		writeFile(t, fs, p.file, b)
		return true
	}},
	{"zeroed", func(t *testing.T, _ *specimen, fs *disk.Mem, p spot) bool {
		overwriteBlock(t, fs, p, make([]byte, limits.BlockSize))
		return true
	}},
	{"from elsewhere", func(t *testing.T, s *specimen, fs *disk.Mem, p spot) bool {
		// A block of the same role, from another segment: the same offset, or
		// failing that the header.
		other := s.ids[1]
		if p.id == other {
			other = s.ids[2]
		}
		from := readFile(t, fs, nameOf(other))[p.block():]
		if p.frame != nil {
			for i := range s.frames {
				if f := &s.frames[i]; f.Pos.Segment == other && f.Header.Kind == p.frame.Header.Kind && f.Header.Size() == p.frame.Header.Size() {
					from = readFile(t, fs, nameOf(other))[f.Pos.Offset+p.block()-p.frame.Pos.Offset:]
				}
			}
		}
		overwriteBlock(t, fs, p, from[:limits.BlockSize])
		return true
	}},
	{"stale", func(t *testing.T, s *specimen, fs *disk.Mem, p spot) bool {
		if strings.HasSuffix(p.file, ".gap") { // of when the gap was shorter
			writeFile(t, fs, p.file, readFile(t, s.before, p.file))
			return true
		}
		if p.id == 0 { // the file is written once: an older one is another volume's
			other := disk.NewMem()
			if err := segment.Create(segment.Options{FS: other, Dir: "/vol", SegmentSize: limits.MinSegmentSize}); err != nil {
				t.Fatal(err)
			}
			writeFile(t, fs, p.file, readFile(t, other, p.file))
			return true
		}
		// What the file held in an earlier life, of a segment released since.
		was := s.before
		entries, err := was.List("/vol")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name, ".wal") {
				overwriteBlock(t, fs, p, readFile(t, was, e.Name)[p.block():][:limits.BlockSize])
				return true
			}
		}
		return false
	}},
	{"truncated", func(t *testing.T, _ *specimen, fs *disk.Mem, p spot) bool {
		end := p.block()
		if p.id == 0 {
			end = p.size / 2
		}
		writeFile(t, fs, p.file, readFile(t, fs, p.file)[:end])
		return true
	}},
	{"missing", func(t *testing.T, _ *specimen, fs *disk.Mem, p spot) bool {
		if p.frame != nil {
			return false
		}
		if err := fs.Remove("/vol/" + p.file); err != nil {
			t.Fatal(err)
		}
		return true
	}},
	{"swapped", func(t *testing.T, s *specimen, fs *disk.Mem, p spot) bool {
		if p.frame != nil || p.id == 0 {
			return false
		}
		other := nameOf(s.neighbour(p.id))
		a, b := readFile(t, fs, p.file), readFile(t, fs, other)
		writeFile(t, fs, p.file, b)
		writeFile(t, fs, other, a)
		return true
	}},
	{"another volume's", func(t *testing.T, s *specimen, fs *disk.Mem, p spot) bool {
		if !strings.HasSuffix(p.file, ".gap") {
			return false
		}
		writeFile(t, fs, p.file, readFile(t, s.other, p.file))
		return true
	}},
}

// neighbour returns the next segment, or the one before if it is the last.
func (s *specimen) neighbour(id segment.ID) segment.ID {
	i, _ := slices.BinarySearch(s.ids, id)
	if i == len(s.ids)-1 {
		return s.ids[i-1]
	}
	return s.ids[i+1]
}

// overwriteBlock overwrites the disk's block that a spot lies in.
func overwriteBlock(t *testing.T, fs *disk.Mem, p spot, with []byte) {
	t.Helper()
	b := readFile(t, fs, p.file)
	copy(b[p.block():], with)
	writeFile(t, fs, p.file, b)
}

// TestDamage damages volumes in every way of testdata/damage.txt and holds what
// becomes of them against the verdict that stands there. Whatever stands there,
// damage is never silent, what is served is what was acknowledged, and logs
// without bytes in what is damaged are served whole.
func TestDamage(t *testing.T) {
	got := map[string]string{}
	var order []string
	damageAll := func(of string, s *specimen, names []string, spots map[string]spot) {
		for _, name := range names {
			for _, d := range damages {
				p := spots[name]
				fs := s.fs.CrashClone(nil, 1)
				if !d.hit(t, s, fs, p) {
					continue
				}
				cell := name + " | " + d.name
				s.damaged = fs.CrashClone(nil, 1)
				verdict := examine(t, of+" | "+cell, s, fs, p)
				if was, ok := got[cell]; ok && was != verdict {
					t.Errorf("%s: %s: %s; with one log: %s", of, cell, verdict, was)
				} else if !ok {
					order = append(order, cell)
				}
				got[cell] = verdict
			}
		}
	}
	for _, of := range []struct {
		name string
		logs []string
	}{
		{"one log", []string{"orders"}},
		{"many logs", []string{"orders", "users", "events", "audit"}},
	} {
		for _, crashed := range []bool{false, true} {
			var s *specimen
			// In a bubble, where nobody is slow: a promise comes when nothing else
			// goes on, and released segments are recycled at once.
			synctest.Test(t, func(t *testing.T) { s = newSpecimen(t, of.logs, crashed) })
			names, spots := spotsOf(t, s, crashed)
			damageAll(of.name, s, names, spots)
		}
	}
	var s *specimen
	synctest.Test(t, func(t *testing.T) { s = newGapSpecimen(t) })
	synctest.Test(t, func(t *testing.T) { s.other = newGapSpecimen(t).fs })
	names, spots := spotsAtGap(t, s)
	damageAll("a gap", s, names, spots)
	path := filepath.Join("testdata", "damage.txt")
	if *damageRewrite {
		writeVerdicts(t, path, order, got)
		return
	}
	want := readVerdicts(t, path)
	for _, cell := range order {
		if got[cell] != want[cell] {
			t.Errorf("%s\n got %s\nwant %s", cell, got[cell], want[cell])
		}
		delete(want, cell)
	}
	for cell := range maps.Keys(want) {
		t.Errorf("%s: no such damage was done", cell)
	}
}

// examine opens a damaged volume and says in a line what became of it: how it
// opened, what recovery said, which records are lost, and what Verify says.
func examine(t *testing.T, cell string, s *specimen, fs *disk.Mem, p spot) string {
	t.Helper()
	found, err := verifyOn(t.Context(), fs, "/vol", nil)
	if err != nil {
		t.Errorf("%s: verify: %v", cell, err)
		return "verify fails"
	}
	repair := s.repair(t, cell+", repaired", fs.CrashClone(nil, 1), p, found)
	lost, line := s.open(t, cell, fs, p, found)
	named := map[recordID]bool{}
	for _, d := range found.Damage {
		if d.File == "" {
			t.Errorf("%s: verify names no file: %+v", cell, d)
		}
		for _, l := range d.Logs {
			for lsn := l.First; lsn <= l.Last; lsn++ {
				named[recordID{l.Log, lsn}] = true
			}
		}
	}
	says := found.Verdict
	if found.Verdict == "damaged" {
		says = found.Damage[0].Case
	}
	if strings.HasPrefix(line, "writable") {
		return fmt.Sprintf("%s; loses %s; verify: %s, names %s; repair: %s", line, s.extent(lost, p), says, s.extent(named, p), repair)
	}
	// The state that knows how far each log goes cannot be rebuilt: Verify names
	// what it can prove, and nothing that is whole.
	for id := range named {
		if !lost[id] && !strings.HasPrefix(id.log, "#") {
			t.Errorf("%s: verify names %v, which is served", cell, id)
		}
	}
	return fmt.Sprintf("%s; loses %s; verify: %s; repair: %s", line, s.extent(lost, p), says, repair)
}

// repair repairs a damaged volume, checks all that must hold of any that was, and
// says in a few words what that gave up.
func (s *specimen) repair(t *testing.T, cell string, fs *disk.Mem, p spot, found *Verification) string {
	t.Helper()
	o := RepairOptions{FS: fs}
	plan, err := PlanRepair(t.Context(), "/vol", o)
	if errors.Is(err, ErrBeyondRepair) {
		return "beyond it"
	}
	if err != nil {
		t.Errorf("%s: plan: %v", cell, err)
		return "no plan"
	}
	if plan.Needed != (found.Verdict == "damaged") {
		t.Errorf("%s: needed: %v, and verify says %s", cell, plan.Needed, found.Verdict)
	}
	if !plan.Needed {
		return "no need"
	}
	if err := ApplyRepair(t.Context(), plan, o); err != nil {
		t.Errorf("%s: apply: %v", cell, err)
		return "fails"
	}
	for _, name := range plan.Files {
		if !bytes.Equal(readFile(t, fs, "../"+filepath.Base(plan.Backup)+"/"+name), readFile(t, s.damaged, name)) {
			t.Errorf("%s: %s is not backed up", cell, name)
		}
	}
	if again, err := PlanRepair(t.Context(), "/vol", o); err != nil || again.Needed {
		t.Errorf("%s: and planned again: %+v, %v", cell, again, err)
	}
	given := map[recordID]bool{}
	open := map[string]LSN{}
	for _, r := range plan.Records {
		for lsn := r.First; lsn <= r.Last && !r.Open; lsn++ {
			given[recordID{r.Log, lsn}] = true
		}
		if r.Open {
			open[r.Log] = r.Last
			for lsn := r.First; lsn <= max(r.Last, LSN(len(s.acked[r.Log]))); lsn++ {
				given[recordID{r.Log, lsn}] = true
			}
		}
	}
	vo := Options{FS: fs, PrepareRate: -1, Codec: "none"}
	lost := map[recordID]bool{}
	for round := range 2 { // and once more, behind what was appended then
		v, err := Open(t.Context(), "/vol", vo)
		if err != nil {
			t.Errorf("%s: open: %v", cell, err)
			return "does not open"
		}
		if r := v.Recovery(); v.Status().State != Serving || round == 0 && r.Verdict != "clean" {
			t.Errorf("%s: %+v", cell, r)
		}
		for log, acked := range s.acked {
			end := LSN(len(acked))
			if at, ok := open[log]; ok {
				end = min(end, at-1)
			}
			s.servedAfterRepair(t, cell, v, log, end, given, lost)
			c := s.claims[log]
			if err := v.CheckClaim(log, c); lost[recordID{log, c.LSN}] != errors.Is(err, ErrDataLoss) {
				t.Errorf("%s: a claim of log %q, LSN %d, gives %v", cell, log, c.LSN, err)
			}
			if at, ok := open[log]; ok {
				var loss *DataLossError
				if _, err := readOne(v, log, at); !errors.As(err, &loss) || loss.First > at || loss.Last != at {
					t.Errorf("%s: the lost end of log %q at %d is read: %v", cell, log, at, err)
				}
			}
			got := mustAppend(t, v, log, "after")
			if old := s.claims[log].Epoch; got.First <= LSN(len(acked)) && got.Epoch == old || got.Epoch != old && open[log] == 0 {
				t.Errorf("%s: log %q goes on at LSN %d in epoch %d, it had come to %d in epoch %d", cell, log, got.First, got.Epoch, len(acked), old)
			}
			if recs, err := readOne(v, log, got.First); err != nil || recs != "after" {
				t.Errorf("%s: log %q, LSN %d: %q, %v", cell, log, got.First, recs, err)
			}
		}
		closeTest(t, v)
		again, err := verifyOn(t.Context(), fs, "/vol", nil)
		if err != nil || again.Verdict != "repaired" && (again.Verdict != "clean" || len(plan.Records) > 0) {
			t.Errorf("%s: verify: %s, %v", cell, spell(again), err)
		}
	}
	line := "loses " + s.extent(lost, p)
	if len(open) == len(s.acked) {
		line += ", all ends open"
	}
	return line
}

// servedAfterRepair reads a log up to end: what the plan gave up answers with its
// range, and all else is there.
func (s *specimen) servedAfterRepair(t *testing.T, cell string, v *Volume, log string, end LSN, given, lost map[recordID]bool) {
	t.Helper()
	for lsn := s.first[log]; lsn <= LSN(len(s.acked[log])); lsn++ {
		id := recordID{log, lsn}
		if lsn > end {
			lost[id] = true
			continue
		}
		got, err := readOne(v, log, lsn)
		var loss *DataLossError
		switch {
		case given[id] && errors.As(err, &loss) && loss.First <= lsn && lsn <= loss.Last && given[recordID{log, loss.First}] && given[recordID{log, loss.Last}]:
			lost[id] = true
		case err != nil || given[id] || got != s.acked[log][lsn-1]:
			t.Errorf("%s: log %q, LSN %d: given up: %v; served %.30q, %v", cell, log, lsn, given[id], got, err)
		}
	}
}

// open opens a damaged volume, checks all that must hold of any, and returns
// which acknowledged records it does not serve.
func (s *specimen) open(t *testing.T, cell string, fs *disk.Mem, p spot, found *Verification) (lost map[recordID]bool, line string) {
	t.Helper()
	all := s.recordsIn(func(*specimenFrame, *Command) bool { return true })
	o := Options{FS: fs, PrepareRate: -1, Codec: "none"}
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoVolume) {
			t.Errorf("%s: refused with %v, want ErrDamaged", cell, err)
		}
		return all, "refused"
	}
	closed := false
	defer func() {
		if !closed {
			closeTest(t, v)
		}
	}()
	r := v.Recovery()
	readOnly := v.Status().State == ReadOnly
	lost, told := s.serve(t, cell, v)
	if readOnly && (r.Verdict != "damaged" || len(r.Damage) == 0 || r.Damage[0].File == "") {
		t.Errorf("%s: read-only, and recovery says %+v", cell, r)
	}
	for id := range lost {
		if !told[id] && !readOnly {
			// Undecidable by the volume alone: the client has to be told.
			c := s.claims[id.log]
			if err := v.CheckClaim(id.log, c); !errors.Is(err, ErrDataLoss) {
				t.Errorf("%s: %v is silently gone, and a claim of it gives %v", cell, id, err)
			}
			if p.frame == nil || p.frame.Pos != s.frames[len(s.frames)-1].Pos {
				t.Errorf("%s: %v was promised and is gone, and recovery says %+v", cell, id, r)
			}
		}
	}
	undecidable := !readOnly && len(told) < len(lost)
	if len(lost) > 0 && found.Verdict == "clean" && !undecidable {
		t.Errorf("%s: %d records are lost, and verify calls the volume clean", cell, len(lost))
	}
	line = "writable, " + r.Case
	if readOnly {
		line = "read-only, " + r.Case
		if _, err := v.Append(t.Context(), "orders", ulid.ULID{}, 0, Batch{Run: run("x")}); !errors.Is(err, ErrReadOnly) && !errors.Is(err, ErrLogNotFound) {
			t.Errorf("%s: append to a read-only volume: %v", cell, err)
		}
		return lost, line
	}

	// Appends go on, for all logs, and survive another start.
	after := map[string]LSN{}
	for log, acked := range s.acked {
		got := mustAppend(t, v, log, "after")
		after[log] = got.First
		if want := LSN(len(acked)) + 1; got.First != want && !undecidable {
			t.Errorf("%s: log %q goes on at LSN %d, want %d", cell, log, got.First, want)
		}
	}
	closeTest(t, v)
	closed = true
	again, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Errorf("%s: open again: %v", cell, err)
		return lost, line
	}
	defer closeTest(t, again)
	for log, lsn := range after {
		if recs, err := readOne(again, log, lsn); err != nil || recs != "after" {
			t.Errorf("%s: log %q, LSN %d after a restart: %q, %v", cell, log, lsn, recs, err)
		}
	}
	if undecidable {
		return lost, line // what was cut off has its LSNs used anew
	}
	if lostAgain, _ := s.serve(t, cell+", opened again", again); !maps.Equal(lost, lostAgain) {
		t.Errorf("%s: %d records were lost, %d after a restart", cell, len(lost), len(lostAgain))
	}
	return lost, line
}

// serve reads every record that was acknowledged and kept. It returns those that
// are not served, and those of them that are answered with DATA_LOSS.
func (s *specimen) serve(t *testing.T, cell string, v *Volume) (lost, told map[recordID]bool) {
	t.Helper()
	lost, told = map[recordID]bool{}, map[recordID]bool{}
	for log, acked := range s.acked {
		for lsn := s.first[log]; lsn <= LSN(len(acked)); lsn++ {
			got, err := readOne(v, log, lsn)
			var loss *DataLossError
			switch {
			case err == nil && got != acked[lsn-1]:
				t.Errorf("%s: log %q, LSN %d: served %.30q, acknowledged was %.30q", cell, log, lsn, got, acked[lsn-1])
			case err == nil:
				continue
			case errors.As(err, &loss):
				if loss.Log != log || lsn < loss.First || lsn > loss.Last {
					t.Errorf("%s: log %q, LSN %d: %v", cell, log, lsn, err)
				}
				told[recordID{log, lsn}] = true
			case !errors.Is(err, io.EOF) && !errors.Is(err, ErrLSNAhead) && !errors.Is(err, ErrLogNotFound):
				t.Errorf("%s: log %q, LSN %d: %v", cell, log, lsn, err)
			}
			lost[recordID{log, lsn}] = true
		}
	}
	return lost, told
}

// readOne reads a record.
func readOne(v *Volume, log string, lsn LSN) (string, error) {
	r, err := v.NewReader(log, ReadOptions{From: lsn, To: lsn})
	if err != nil {
		return "", err
	}
	defer r.Close()
	span, err := r.Next(context.Background())
	if err != nil {
		return "", err
	}
	recs, err := split(span.Run)
	if err != nil || len(recs) != 1 || span.First != lsn {
		return "", fmt.Errorf("%d records from %d on: %w", len(recs), span.First, err)
	}
	return recs[0], nil
}

// extent says in a word which records a set is, from the damaged place's view.
func (s *specimen) extent(set map[recordID]bool, p spot) string {
	in := func(match func(f *specimenFrame) bool) map[recordID]bool {
		return s.recordsIn(func(f *specimenFrame, _ *Command) bool { return match(f) })
	}
	behind := func(f *specimenFrame) bool {
		return p.frame != nil && f.Pos.Compare(p.frame.Pos) >= 0 || p.frame == nil && f.Pos.Segment >= p.id
	}
	neighbour := s.neighbour(p.id)
	for _, e := range []struct {
		word string
		is   func(f *specimenFrame) bool
	}{
		{"nothing", func(*specimenFrame) bool { return false }},
		{"everything", func(*specimenFrame) bool { return true }},
		{"the frame", func(f *specimenFrame) bool { return f == p.frame }},
		{"the segment", func(f *specimenFrame) bool { return f.Pos.Segment == p.id }},
		{"the segment from there on", func(f *specimenFrame) bool { return f.Pos.Segment == p.id && behind(f) }},
		{"both segments", func(f *specimenFrame) bool { return f.Pos.Segment == p.id || f.Pos.Segment == neighbour }},
		{"all from there on", behind},
		{"all from the frame before on", func(f *specimenFrame) bool { return p.frame != nil && f.Header.Sequence+1 >= p.frame.Header.Sequence }},
		{"all from the segment before on", func(f *specimenFrame) bool { return f.Pos.Segment >= min(p.id, neighbour) }},
	} {
		if maps.Equal(set, in(e.is)) {
			return e.word
		}
	}
	var spelled []string
	for id := range set {
		spelled = append(spelled, fmt.Sprintf("%s:%d", id.log, id.lsn))
	}
	slices.Sort(spelled)
	return fmt.Sprintf("%d records, %.120s", len(set), strings.Join(spelled, " "))
}

// writeVerdicts writes the table; readVerdicts reads it.
func writeVerdicts(t *testing.T, path string, order []string, verdicts map[string]string) {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(damageHeader)
	for _, cell := range order {
		fmt.Fprintf(&b, "%s | %s\n", cell, verdicts[cell])
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readVerdicts(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if line := lines.Text(); line != "" && line[0] != '#' {
			i := strings.LastIndex(line, " | ")
			if i < 0 {
				t.Fatalf("%s: %q", path, line)
			}
			m[line[:i]] = line[i+3:]
		}
	}
	return m
}

const damageHeader = `# What damage does to a volume: target and place | damage | verdict. The test
# that reads this adds what holds in every cell: no damage to acknowledged data
# is silent, and nothing wrong is served.
#
# "first" lies below both snapshots that opening may begin with, "middle" is
# scanned by opening, "last" is the last of its kind. "unpromised" is the last
# acknowledged frame of a process that was killed at once: the volume alone
# cannot tell it from a torn write, but a client that claims it is told.
#
# A repair gives up what it says here. "All ends open" means that nothing tells
# how far any log had come, so each begins a new epoch behind a lost LSN; where
# only some do, it is not said.

`

// frameLog is a replay.Handler that only remembers what it was given.
type frameLog struct{ frames []string }

func (l *frameLog) Begin(segment.FrameRef, bool) { l.frames = l.frames[:0] }

func (l *frameLog) Frame(f *segment.Frame, _ func(int) ([]byte, error)) error {
	l.frames = append(l.frames, fmt.Sprintf("%d %s %x", f.Header.Sequence, f.Header.Kind, f.Meta))
	return nil
}

func (l *frameLog) End() error { return nil }

// TestDamageOfEveryBit flips each bit of each header and directory of a small
// volume, one at a time: each is noticed, named with its place, and leads to no
// frame that was not written.
func TestDamageOfEveryBit(t *testing.T) {
	mem := disk.NewMem()
	v := openTest(t, mem)
	for _, log := range []string{"orders", "users"} {
		mustCreate(t, v, log)
		mustAppend(t, v, log, "one", "two", strings.Repeat("three ", 1000))
	}
	if _, err := v.SetCheckpoint(t.Context(), "users", Checkpoint{Name: "engine", LSN: 1, State: []byte("state")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.snapshots.write(); err != nil {
		t.Fatal(err)
	}
	v.journal.SetSnapshots(segment.FrameRef{}, segment.FrameRef{}) // so that a scan begins at the first frame
	for v.filling() == 1 {
		mustAppend(t, v, "orders", strings.Repeat("x", 20_000))
	}
	closeTest(t, v)
	o := segment.Options{FS: mem, Dir: "/vol", ReadOnly: true}
	scan := func() (*replay.Recovery, []string, error) {
		j, err := segment.Open(o)
		if err != nil {
			return nil, nil, err
		}
		var l frameLog
		r, err := replay.Recover(j, &l)
		return r, l.frames, errors.Join(err, j.Close())
	}
	r, whole, err := scan()
	if err != nil || r.Verdict != replay.VerdictClean {
		t.Fatalf("%d frames, %+v, %v", len(whole), r, err)
	}
	var frames []*segment.Frame
	dir := t.TempDir()
	export(t, mem, dir)
	if _, err := Dump(t.Context(), dir, DumpOptions{}, func(f *DumpedFrame) error {
		frames = append(frames, f.Frame)
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	// flipped calls check with each bit of n bytes at off flipped.
	flipped := func(name string, off, n int64, check func(bit int64)) {
		f, err := mem.Open("/vol/"+name, true)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [1]byte
		put := func(at int64) {
			if _, err := f.WriteAt(b[:], at); err != nil {
				t.Fatal(err)
			}
		}
		for at := off; at < off+n && !t.Failed(); at++ {
			if _, err := f.ReadAt(b[:], at); err != nil {
				t.Fatal(err)
			}
			was := b[0]
			for bit := range 8 {
				b[0] = was ^ 1<<bit
				put(at)
				check(8*(at-off) + int64(bit))
			}
			b[0] = was
			put(at)
		}
	}
	flipped("VOLUME", 0, 64, func(bit int64) {
		if _, _, err := scan(); !errors.Is(err, segment.ErrBadVolumeFile) {
			t.Errorf("VOLUME, bit %d: %v", bit, err)
		}
	})
	// Of the second segment's header those that say something: the rest is
	// reserved, and each scan goes through the first segment.
	second := slices.IndexFunc(frames, func(f *segment.Frame) bool { return f.Pos.Segment == 2 })
	for _, tc := range []struct {
		id     segment.ID
		off, n int64
		kept   int // frames before it
	}{{1, 0, limits.SegmentHeaderSize, 0}, {2, 0, 192, second}, {2, limits.SegmentHeaderSize - 4, 4, second}} {
		flipped(nameOf(tc.id), tc.off, tc.n, func(bit int64) {
			r, got, err := scan()
			ok := err == nil && r.ReadOnly && len(got) <= tc.kept && slices.Equal(got, whole[:len(got)]) && tc.kept-len(got) <= 1 // the seal may be unpromised
			if !ok || len(r.Damage) == 0 || r.Damage[0].Case != replay.CaseDamagedSegmentHeader {
				t.Errorf("header of segment %s, bit %d: %d frames, %+v, %v", tc.id, bit, len(got), r, err)
			}
		})
	}
	kinds := map[segment.Kind]bool{}
	for _, f := range frames {
		kinds[f.Header.Kind] = true
	}
	if len(kinds) != 4 {
		t.Fatalf("the volume has frames of kinds %v only", kinds)
	}
	for i, f := range frames {
		check := func(what string, c replay.Case) func(int64) {
			return func(bit int64) {
				r, got, err := scan()
				prefix := len(got) <= len(whole) && slices.Equal(got, whole[:len(got)])
				seal := f.Header.Kind == segment.KindSeal
				ok := err == nil
				switch {
				case seal && c == replay.CaseDamagedDirectory: // an index, which is not needed
					without := func(frames []string) []string { return slices.Delete(slices.Clone(frames), i, i+1) }
					ok = ok && !r.ReadOnly && len(got) == len(whole) && slices.Equal(without(got), without(whole)) &&
						len(r.Damage) == 1 && r.Damage[0].Case == replay.CaseDamagedSeal
				case i == len(frames)-1: // nothing promises the last promise
					ok = ok && prefix && r.Verdict != replay.VerdictDamaged && len(got) == i
				default:
					want := c
					if seal {
						want = replay.CaseShortPredecessor
					}
					ok = ok && prefix && r.ReadOnly && len(got) == i && len(r.Damage) == 1 && r.Damage[0].Case == want &&
						r.Damage[0].Pos == f.Pos && r.Damage[0].Sequence == f.Header.Sequence
				}
				if !ok {
					t.Errorf("frame %d, %s, bit %d: %d frames, %+v, %v", f.Header.Sequence, what, bit, len(got), r, err)
				}
			}
		}
		flipped(nameOf(f.Pos.Segment), f.Pos.Offset, limits.FrameHeaderSize, check("header", replay.CaseDamagedHeader))
		flipped(nameOf(f.Pos.Segment), f.Pos.Offset+limits.FrameHeaderSize+int64(f.Header.BlocksSize), int64(f.Header.DirectorySize),
			check("directory", replay.CaseDamagedDirectory))
	}
}

// TestMissingAtAGap removes the segment before a gap, the one behind it, and the gap's
// file: opening and Verify name what is missing, and not what was released.
func TestMissingAtAGap(t *testing.T) {
	var s *specimen
	synctest.Test(t, func(t *testing.T) { s = newGapSpecimen(t) })
	_, spots := spotsAtGap(t, s)
	gap := spots["segment, before a gap"].id + 1
	for name, want := range map[string][2]string{ // as opening says, and Verify
		"segment, before a gap": {nameOf(gap - 1), nameOf(gap - 1)},
		"segment, behind a gap": {spots["segment, behind a gap"].file, spots["segment, behind a gap"].file},
		"gap":                   {nameOf(spots["segment, behind a gap"].id - 1), nameOf(gap)},
	} {
		fs := s.fs.CrashClone(nil, 1)
		if err := fs.Remove("/vol/" + spots[name].file); err != nil {
			t.Fatal(err)
		}
		found, err := verifyOn(t.Context(), fs, "/vol", nil)
		if err != nil || len(found.Damage) != 1 || found.Damage[0].File != want[1] {
			t.Errorf("%s: verify: %s, %v; want %s", name, spell(found), err, want[1])
		}
		v := openTest(t, fs)
		if r := v.Recovery(); len(r.Damage) != 1 || r.Damage[0].File != want[0] {
			t.Errorf("%s: %s; want %s", name, spell(r), want[0])
		}
		closeTest(t, v)
	}
}

// TestSnapshotsLostBehindAGap damages every snapshot behind a gap: the state cannot be
// rebuilt over it, so the volume is read-only and says what is missing, and a repair
// begins at a snapshot before the gap and gives up nothing that is kept.
func TestSnapshotsLostBehindAGap(t *testing.T) {
	var s *specimen
	synctest.Test(t, func(t *testing.T) { s = newGapSpecimen(t) })
	_, spots := spotsAtGap(t, s)
	behind := spots["segment, behind a gap"].id
	fs := s.fs.CrashClone(nil, 1)
	for _, f := range s.frames {
		if f.part != nil && f.Pos.Segment >= behind {
			corrupt(t, fs, f.Pos, f.Blocks[0].Offset+4)
		}
	}
	s.damaged = fs.CrashClone(nil, 1)
	got := examine(t, "snapshots behind a gap", s, fs, spots["segment, behind a gap"])
	if want := "read-only, missing-segment; loses all from there on; verify: damaged-block; repair: loses nothing"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestDamagedBlockHarmsNoOtherLog damages a block of a frame that has one for
// each of two logs, at many places: the log that has bytes in it answers
// DATA_LOSS for exactly those records, the other one is served, and both take
// appends.
func TestDamagedBlockHarmsNoOtherLog(t *testing.T) {
	mem := disk.NewMem()
	v, err := Open(t.Context(), "/vol", Options{FS: mem, Create: true, SegmentSize: 512 << 10, PrepareRate: -1, Codec: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v)
	// Together more than a reader fetches at once, so that it reads the blocks each time.
	sizes := map[string]int{"orders": 80 << 10, "users": 3 << 10}
	a := v.NewAppender(func() {})
	var batches []Batch
	for _, log := range []string{"orders", "users"} {
		mustCreate(t, v, log)
		mustAppend(t, v, log, "before")
		b, _, _, err := a.Bind(log, Producer{}, 0, Claim{})
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, Batch{Binding: b, Run: run(strings.Repeat(log[:1], sizes[log]), "and")})
	}
	if err := a.Append(t.Context(), batches); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, "both batches are durable", func() bool { a.Take(nil); return a.Pending() == 0 })
	f := frameOf(t, v, "orders", 2)
	if g := frameOf(t, v, "users", 2); g.Pos != f.Pos || len(f.Blocks) != 2 {
		t.Fatalf("the frames are at %s and %s, with %d blocks", f.Pos, g.Pos, len(f.Blocks))
	}
	s := &specimen{acked: map[string][]string{}, first: map[string]LSN{"orders": 1, "users": 1}}
	for log, size := range sizes {
		s.acked[log] = []string{"before", strings.Repeat(log[:1], size), "and"}
	}
	for block, hit := range []string{"orders", "users"} {
		info := f.Blocks[block]
		for at := int64(0); at < int64(info.StoredSize); at += int64(info.StoredSize)/50 + 1 {
			corrupt(t, mem, f.Pos, info.Offset+at)
			lost, told := s.serve(t, fmt.Sprintf("block %d, byte %d", block, at), v)
			want := map[recordID]bool{{hit, 2}: true, {hit, 3}: true}
			if !maps.Equal(lost, want) || !maps.Equal(told, want) {
				t.Errorf("block %d, byte %d: lost %v, of those with DATA_LOSS %v", block, at, lost, told)
			}
			for log := range sizes {
				mustAppend(t, v, log, "goes on")
			}
			corrupt(t, mem, f.Pos, info.Offset+at) // the same bits again
			if lost, _ := s.serve(t, "mended", v); len(lost) != 0 {
				t.Errorf("block %d, byte %d, mended: lost %v", block, at, lost)
			}
		}
	}
}

// TestVerifyNamesWhatAnIdleLogLost loses a frame of a log that never appends
// again, in a segment that was cut and so has no seal: only the state can tell.
func TestVerifyNamesWhatAnIdleLogLost(t *testing.T) {
	mem := disk.NewMem()
	v := openTest(t, mem)
	for _, log := range []string{"idle", "orders"} {
		mustCreate(t, v, log)
	}
	mustAppend(t, v, "idle", "one", "two")
	f := frameOf(t, v, "idle", 1)
	for range 2 {
		mustAppend(t, v, "orders", "a record")
		if err := v.snapshots.write(); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
	closeTest(t, openTest(t, mem))
	corrupt(t, mem, f.Pos, 20)
	dir := t.TempDir()
	export(t, mem, dir)
	found, err := Verify(t.Context(), dir, nil)
	want := []DamagedLog{{Log: "idle", First: 1, Last: 2}}
	if err != nil || len(found.Damage) != 1 || !slices.Equal(found.Damage[0].Logs, want) {
		t.Errorf("found %s, %v", spell(found), err)
	}
}
