package certify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A lane is one kind of load: steps from 1 on, one after the other.
type lane interface {
	// name is what records and reports call it.
	name() string
	// begin makes what the lane works on, durably, and returns the last step that
	// is acknowledged then: 0, unless the lane goes on from an earlier round.
	begin(ctx context.Context) (uint64, error)
	// step makes one step, and returns when it is durable.
	step(ctx context.Context, n uint64) error
	// end closes what is open, also after a failed begin.
	end() error
	// check compares what is there with what must be if acked steps were
	// acknowledged, as far as somebody knows. It returns an error only if it
	// cannot tell: what is wrong goes into the tally.
	check(ctx context.Context, acked uint64, t *tally) error
}

// A tally is what was found after a cut.
type tally struct {
	LaneResult
	losses            []Loss
	unsynced, dropped int // blocks that were never synced: looked at, and gone
}

// note counts an acknowledged thing that is not as it must be, and says where.
func (t *tally) note(kind LossKind, format string, args ...any) {
	t.notes(1, kind, format, args...)
}

// notes is note for n of them in one place.
func (t *tally) notes(n uint64, kind LossKind, format string, args ...any) {
	switch kind {
	case Lost:
		t.Lost += n
	case Torn:
		t.Torn += n
	case Reappeared:
		t.Reappeared += n
	}
	if len(t.losses) < limits.MaxDamage {
		t.losses = append(t.losses, Loss{Lane: t.Lane, Kind: kind, What: fmt.Sprintf(format, args...)})
	}
}

// A site is where a lane works, and as whom.
type site struct {
	fs    disk.FS
	dir   string // exists, durably
	run   ulid.ULID
	round uint32 // tells rounds in the same directory apart
}

func (s *site) stamp(kind uint32, place, step uint64) stamp {
	return stamp{run: s.run, round: s.round, kind: kind, place: place, step: step}
}

// remove takes a file away if it is there.
func (s *site) remove(path string) error {
	if err := s.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// make creates a file with blocks, one for each place, of step 0. It is durable
// but for its name.
func (s *site) make(path string, kind uint32, blocks uint64) (_ disk.File, err error) {
	if err := s.remove(path); err != nil {
		return nil, err
	}
	f, err := s.fs.Create(path)
	if err != nil {
		return nil, err
	}
	for place := range blocks {
		if err = writeBlock(f, s.stamp(kind, place, 0), place); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writeBlock writes a stamp's block, without a sync.
func writeBlock(f disk.File, s stamp, at uint64) error {
	_, err := f.WriteAt(s.encode(), int64(at)*limits.BlockSize)
	return err
}

// writeHalves is writeBlock in two halves: whatever the file system takes, what is
// less than a block goes through the page cache. Past it, nothing would be left that
// a crash of the file system can drop.
func writeHalves(f disk.File, s stamp, at uint64) error {
	const half = limits.BlockSize / 2
	b, off := s.encode(), int64(at)*limits.BlockSize
	if _, err := f.WriteAt(b[:half], off); err != nil {
		return err
	}
	_, err := f.WriteAt(b[half:], off+half)
	return err
}

// readBlocks returns the first n blocks of a file, fewer if it has fewer, and
// none if there is no such file.
func (s *site) readBlocks(path string, n uint64) (blocks [][]byte, err error) {
	f, err := s.fs.Open(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, n*limits.BlockSize)
	got, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for c := range slices.Chunk(b[:got&^(limits.BlockSize-1)], limits.BlockSize) {
		blocks = append(blocks, c)
	}
	return blocks, nil
}

// slots is how many blocks the lane of blocks overwrites, and how many others
// are written beside them and never synced.
const slots = 256

// stride goes through the slots in an order that is not theirs, and meets each once.
const stride = 97

func slotOf(step uint64) uint64 { return step * stride % slots }

// lastIn returns the last step of 1 to n that wrote a slot, 0 for none.
func lastIn(slot, n uint64) uint64 {
	for s := n; s > 0 && s+slots > n; s-- {
		if slotOf(s) == slot {
			return s
		}
	}
	return 0
}

// blocksLane overwrites blocks in place. Beside each it writes one that nobody
// ever syncs, which tells later whether the cut was one.
type blocksLane struct {
	site
	synced, unsynced disk.File
}

func (l *blocksLane) name() string { return "blocks" }

func (l *blocksLane) paths() (synced, unsynced string) {
	return filepath.Join(l.dir, "blocks"), filepath.Join(l.dir, "unsynced")
}

func (l *blocksLane) begin(context.Context) (_ uint64, err error) {
	synced, unsynced := l.paths()
	if l.synced, err = l.make(synced, kindBlock, slots); err != nil {
		return 0, err
	}
	if l.unsynced, err = l.make(unsynced, kindUnsynced, slots); err != nil {
		return 0, err
	}
	return 0, l.fs.SyncDir(l.dir)
}

func (l *blocksLane) step(_ context.Context, n uint64) error {
	slot := slotOf(n)
	if err := writeHalves(l.unsynced, l.stamp(kindUnsynced, slot, n), slot); err != nil {
		return err
	}
	if err := writeBlock(l.synced, l.stamp(kindBlock, slot, n), slot); err != nil {
		return err
	}
	return l.synced.Sync()
}

func (l *blocksLane) end() (err error) {
	for _, f := range []disk.File{l.synced, l.unsynced} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	l.synced, l.unsynced = nil, nil
	return err
}

func (l *blocksLane) check(_ context.Context, acked uint64, t *tally) error {
	synced, unsynced := l.paths()
	blocks, err := l.readBlocks(synced, slots)
	if err != nil {
		return err
	}
	// 1. What lies in each slot, and how far the lane had come.
	const nothing, torn = -2, -1
	found := make([]int64, slots)
	for slot := range uint64(slots) {
		found[slot] = nothing
		if slot >= uint64(len(blocks)) {
			continue
		}
		found[slot] = torn
		if s, ok := decode(blocks[slot]); ok {
			found[slot] = nothing
			if s.is(l.stamp(kindBlock, slot, 0)) {
				found[slot] = int64(s.step)
				acked = max(acked, max(s.step, 1)-1)
			}
		}
	}
	t.Acknowledged = acked
	// 2. Against what must be there. The step under way may have done anything
	// to its own slot.
	for slot := range uint64(slots) {
		want := lastIn(slot, acked)
		t.Checked++
		switch {
		case slotOf(acked+1) == slot && found[slot] != nothing:
		case found[slot] == torn:
			t.note(Torn, "%s, offset %#x: the block of step %d does not verify", synced, slot*limits.BlockSize, want)
		case found[slot] == nothing:
			t.note(Lost, "%s, offset %#x: the block of step %d is not there", synced, slot*limits.BlockSize, want)
		case uint64(found[slot]) < want:
			t.note(Lost, "%s, offset %#x: step %d wrote here, and the block is that of step %d", synced, slot*limits.BlockSize, want, found[slot])
		}
	}
	// 3. What nobody synced: it has to be gone, somewhere.
	if blocks, err = l.readBlocks(unsynced, slots); err != nil {
		return err
	}
	for slot := range uint64(slots) {
		want := lastIn(slot, acked)
		if want == 0 || slotOf(acked+1) == slot {
			continue // the step under way may have written half of it
		}
		t.unsynced++
		s, ok := stamp{}, false
		if slot < uint64(len(blocks)) {
			s, ok = decode(blocks[slot])
		}
		if !ok || !s.is(l.stamp(kindUnsynced, slot, 0)) || s.step < want {
			t.dropped++
		}
	}
	return nil
}

// filesLane makes and renames files. Four steps are the life of a generation g:
//
//	4g+1  create new-g with a block, and gone-g; sync both, then the directory
//	4g+2  append a second block to new-g; sync it
//	4g+3  rename new-g over slot-(g mod 8), which held generation g-8; sync the directory
//	4g+4  remove gone-g; sync the directory
type filesLane struct {
	site
	open disk.File // new-g, between its steps
}

const (
	phases    = 4
	fileSlots = 8
)

func (l *filesLane) name() string { return "files" }

func (l *filesLane) home() string          { return filepath.Join(l.dir, "files") }
func (l *filesLane) at(name string) string { return filepath.Join(l.home(), name) }

func newName(g uint64) string  { return fmt.Sprintf("new-%d", g) }
func goneName(g uint64) string { return fmt.Sprintf("gone-%d", g) }
func slotName(g uint64) string { return fmt.Sprintf("slot-%d", g%fileSlots) }

// stepOf returns the step that is a phase of a generation, phases from 0 on.
func stepOf(g, phase uint64) uint64 { return phases*g + phase + 1 }

func (l *filesLane) begin(context.Context) (uint64, error) {
	if err := l.fs.MkdirAll(l.home()); err != nil {
		return 0, err
	}
	entries, err := l.fs.List(l.home())
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if err := l.fs.Remove(l.at(e.Name)); err != nil {
			return 0, err
		}
	}
	return 0, l.fs.SyncDir(l.home())
}

func (l *filesLane) step(_ context.Context, n uint64) error {
	g, phase := (n-1)/phases, (n-1)%phases
	switch phase {
	case 0:
		gone, err := l.create(goneName(g), n)
		if err != nil {
			return err
		}
		if err := gone.Close(); err != nil {
			return err
		}
		if l.open, err = l.create(newName(g), n); err != nil {
			return err
		}
	case 1:
		if err := writeBlock(l.open, l.stamp(kindFile, g, n), 1); err != nil {
			return err
		}
		err := errors.Join(l.open.Sync(), l.open.Close())
		l.open = nil
		return err
	case 2:
		if err := l.fs.Rename(l.at(newName(g)), l.at(slotName(g))); err != nil {
			return err
		}
	default:
		if err := l.fs.Remove(l.at(goneName(g))); err != nil {
			return err
		}
	}
	return l.fs.SyncDir(l.home())
}

// create makes a file with a block, durable but for its name.
func (l *filesLane) create(name string, n uint64) (disk.File, error) {
	f, err := l.fs.Create(l.at(name))
	if err != nil {
		return nil, err
	}
	if err = writeBlock(f, l.stamp(kindFile, (n-1)/phases, n), 0); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (l *filesLane) end() (err error) {
	if l.open != nil {
		err = l.open.Close()
	}
	l.open = nil
	return err
}

// A seenFile is a file as it was found.
type seenFile struct {
	generation uint64
	blocks     int // whole ones of that generation, from the first on
}

func (l *filesLane) check(_ context.Context, acked uint64, t *tally) error {
	entries, err := l.fs.List(l.home())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// 1. What is there.
	found := map[string]seenFile{}
	for _, e := range entries {
		f, err := l.look(e.Name)
		if err != nil {
			return err
		}
		found[e.Name] = f
	}
	// 2. How far the lane had come: what is found of a step proves the one before.
	for name, f := range found {
		if f.blocks == 0 || strings.HasPrefix(name, "gone-") {
			continue
		}
		step := stepOf(f.generation, uint64(f.blocks)-1)
		if strings.HasPrefix(name, "slot-") {
			step = stepOf(f.generation, 2)
			if _, there := found[goneName(f.generation)]; !there {
				step++
			}
		}
		acked = max(acked, step-1)
	}
	t.Acknowledged = acked

	done := func(g, phase uint64) bool { return stepOf(g, phase) <= acked }
	maybe := func(g, phase uint64) bool { return stepOf(g, phase) == acked+1 }
	// 3. Each name that generations share: the last one that was renamed to it.
	generations := (acked + phases) / phases // begun, one under way included
	for slot := range min(fileSlots, generations) {
		g := slot + (generations-1-slot)/fileSlots*fileSlots
		if !done(g, 2) {
			if maybe(g, 2) && found[slotName(g)] == (seenFile{g, 2}) {
				continue // already renamed
			}
			if g < fileSlots {
				continue // the first one is not renamed yet
			}
			g -= fileSlots
		}
		t.Checked++
		switch f, there := found[slotName(g)]; {
		case !there:
			t.note(Lost, "%s: generation %d was renamed to it, and it is not there", l.at(slotName(g)), g)
		case f.blocks < 2:
			t.note(Torn, "%s: generation %d does not verify", l.at(slotName(g)), g)
		case f.generation < g:
			t.note(Reappeared, "%s: generation %d was replaced by %d, and is there", l.at(slotName(g)), f.generation, g)
		}
	}
	// 4. What the last generations have beside that. The one before the last may
	// have its removal under way, no earlier one anything.
	for g := max(generations, 2) - 2; g < generations; g++ {
		f, there := found[newName(g)]
		renamed := maybe(g, 2) && found[slotName(g)].generation == g && found[slotName(g)].blocks == 2
		if done(g, 0) && !done(g, 2) && !renamed {
			t.Checked++
			want := 1
			if done(g, 1) {
				want = 2
			}
			switch {
			case !there:
				t.note(Lost, "%s: it is not there", l.at(newName(g)))
			case f.blocks < want:
				t.note(Torn, "%s: %d of its %d blocks verify", l.at(newName(g)), f.blocks, want)
			}
		}
		if done(g, 0) && !done(g, 3) && !maybe(g, 3) {
			t.Checked++
			switch f, there := found[goneName(g)]; {
			case !there:
				t.note(Lost, "%s: it is not there", l.at(goneName(g)))
			case f.blocks < 1:
				t.note(Torn, "%s: it does not verify", l.at(goneName(g)))
			}
		}
	}
	// 5. What must not be there.
	for name := range found {
		kind, number, _ := strings.Cut(name, "-")
		g, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			continue
		}
		switch {
		case kind == "new" && done(g, 2):
			t.note(Reappeared, "%s: it was renamed, and is there", l.at(name))
		case kind == "gone" && done(g, 3):
			t.note(Reappeared, "%s: it was removed, and is there", l.at(name))
		}
	}
	return nil
}

// look reads a file of the lane.
func (l *filesLane) look(name string) (seenFile, error) {
	blocks, err := l.readBlocks(l.at(name), 2)
	if err != nil {
		return seenFile{}, err
	}
	var f seenFile
	for i, b := range blocks {
		s, ok := decode(b)
		if !ok || !s.is(l.stamp(kindFile, s.place, 0)) || i > 0 && s.place != f.generation || s.step != stepOf(s.place, uint64(i)) {
			break
		}
		f = seenFile{s.place, i + 1}
	}
	return f, nil
}
