package wal

import (
	"math"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// scoutStep is how many frames, at most, are taken to their next stage for one that the
// Reader comes to: more than one, so that it gets ahead.
const scoutStep = 8

// Scouted frames are those that a Reader of a log that is spread thin will come to next.
// It needs three pieces of each, and only the one before says where the next one lies:
// read one after the other they take three times the disk's latency a frame. So they
// are asked for in stages, many frames at a time, each stage a step behind the one
// before it:
//
//	the frame's place      from the index; its header is asked for
//	its header             read when it is there; its directory is asked for
//	its directory          read when it is there; the log's blocks are asked for
//	the log's blocks       are there when the Reader comes to the frame
//
// All of it is advice. A frame that is not where the index says, or does not verify, is
// left to the Reader, which looks for it by itself and knows what to say; and what the
// log's history has of a frame is chosen when the Reader comes to it.
type scouted struct {
	frames  []*scoutedFrame // in the order of their positions
	from    segment.Pos     // of the Reader's frame
	asked   int64           // of all frames
	step    int             // grows with each frame: the first record must not wait for many others
	places  []segment.Pos   // scratch
	batches batchFrame      // scratch
}

// commandSize is about what a Command takes in memory, in bytes: several times what it
// takes in a directory.
const commandSize = 256

// A scoutedFrame is one that the Reader has not come to.
type scoutedFrame struct {
	pos      segment.Pos
	stage    scoutStage
	header   segment.Header // from scoutDirectory on
	frame    *segment.Frame // from scoutBlocks on, without its Meta
	commands []Command      // of it, those that carry records of the log
	carried  int64          // as in batchFrame
	asked    int64          // bytes of it that the disk was asked for, its header left out, and of commands
}

// A scoutStage is what the disk was asked for last.
type scoutStage uint8

const (
	scoutHeader scoutStage = iota
	scoutDirectory
	scoutBlocks
)

// scout has the disk read ahead behind the frame that was just read.
func (r *Reader) scout() {
	s := &r.scouted
	r.batches.scouted = s
	here := r.batches.frame.Pos
	if here.Compare(s.from) < 0 {
		s.drop(0, len(s.frames)) // behind a copy, which lies behind what was appended later
	}
	s.from = here
	s.pass(here)
	s.step = min(s.step+1, scoutStep)

	// Backwards through the stages, so that what is asked for now is read next time.
	s.advance(scoutDirectory, r.scoutBlocks)
	s.advance(scoutHeader, r.scoutDirectory)
	last := here
	if n := len(s.frames); n > 0 {
		last = s.frames[n-1].pos
	}
	to := r.to
	if r.endless() {
		to = math.MaxUint64
	}
	n := min(limits.ReplayFramesAhead-len(s.frames), 2*s.step)
	s.places = r.v.index.following(s.places[:0], r.number, last, n, to)
	for _, pos := range s.places {
		r.v.fetch.Prefetch(pos, limits.BlockSize)
		s.add(pos)
	}
}

// scoutDirectory reads the header of a frame ahead, and asks for its directory.
func (r *Reader) scoutDirectory(f *scoutedFrame) (err error) {
	f.header, err = r.v.fetch.Head(f.pos)
	r.scouted.ask(f, int64(f.header.DirectorySize))
	return err
}

// scoutBlocks reads the directory of a frame ahead, and asks for the log's blocks.
func (r *Reader) scoutBlocks(f *scoutedFrame) error {
	frame, err := r.v.fetch.Directory(f.pos, f.header)
	if err != nil {
		return err
	}
	b := &r.scouted.batches
	if err := b.load(frame); err != nil {
		return err
	}
	// All commands of all frames ahead would be too much to keep.
	frame.Meta = nil
	f.frame, f.carried = frame, b.carried
	asked := -1
	for i := range b.commands {
		c := &b.commands[i]
		if c.Log != r.number || !c.carriesRecords() {
			continue
		}
		f.commands = append(f.commands, *c)
		if k := int(c.Block); k != asked && k < len(frame.Blocks) {
			info := &frame.Blocks[k]
			r.v.fetch.Prefetch(segment.Pos{Segment: f.pos.Segment, Offset: f.pos.Offset + info.Offset}, int64(info.StoredSize))
			r.scouted.ask(f, int64(info.StoredSize))
			asked = k
		}
	}
	r.scouted.ask(f, int64(len(f.commands))*commandSize)
	return nil
}

// advance takes the first frames of a stage to the next one, as far as there is room.
// One that cannot be is forgotten.
func (s *scouted) advance(stage scoutStage, next func(*scoutedFrame) error) {
	i := slices.IndexFunc(s.frames, func(f *scoutedFrame) bool { return f.stage == stage })
	for n := 0; i >= 0 && i < len(s.frames) && n < s.step && s.asked < limits.ReplayReadAhead; n++ {
		f := s.frames[i]
		if f.stage != stage {
			break
		}
		if err := next(f); err != nil {
			s.drop(i, i+1)
			continue
		}
		f.stage++
		i++
	}
}

// add notes a frame whose header was asked for.
func (s *scouted) add(pos segment.Pos) {
	s.frames = append(s.frames, &scoutedFrame{pos: pos})
}

// pass forgets the frames up to pos.
func (s *scouted) pass(pos segment.Pos) {
	n := slices.IndexFunc(s.frames, func(f *scoutedFrame) bool { return f.pos.Compare(pos) > 0 })
	if n < 0 {
		n = len(s.frames)
	}
	s.drop(0, n)
}

// drop forgets frames i to j-1.
func (s *scouted) drop(i, j int) {
	for _, f := range s.frames[i:j] {
		s.asked -= f.asked
	}
	s.frames = slices.Delete(s.frames, i, j)
}

// ask counts what the disk was asked for, and what is kept.
func (s *scouted) ask(f *scoutedFrame, n int64) {
	f.asked += n
	s.asked += n
}

// take moves the frame at pos into b, if its directory has been read.
func (s *scouted) take(pos segment.Pos, b *batchFrame) bool {
	if s == nil {
		return false
	}
	i := slices.IndexFunc(s.frames, func(f *scoutedFrame) bool { return f.pos == pos })
	if i < 0 || s.frames[i].stage != scoutBlocks {
		return false
	}
	f := s.frames[i]
	b.frame, b.carried, b.own = f.frame, f.carried, b.own[:0]
	b.commands = append(b.commands[:0], f.commands...)
	s.drop(0, i+1)
	return true
}
