package batcher

import (
	"fmt"
	"math"
	"runtime"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// A CodecPolicy says how a bus compresses. The zero value is Auto.
type CodecPolicy uint8

// Auto compresses when measurements say that it pays for itself.
const Auto CodecPolicy = 0

// Fixed always compresses with c, except what fits one disk block or does not
// shrink.
func Fixed(c codec.Codec) CodecPolicy { return CodecPolicy(c) + 1 }

// String names the policy as flags spell it: auto, none, s2 or zstd.
func (p CodecPolicy) String() string {
	if p == Auto {
		return "auto"
	}
	return codec.Codec(p - 1).String()
}

// ParseCodecPolicy is the inverse of CodecPolicy.String.
func ParseCodecPolicy(s string) (CodecPolicy, error) {
	if s == Auto.String() {
		return Auto, nil
	}
	c, err := codec.Parse(s)
	if err != nil {
		return Auto, fmt.Errorf("codec policy %q: want auto, none, s2 or zstd", s)
	}
	return Fixed(c), nil
}

// worthStoring reports whether a block of raw bytes that packs to packed is
// stored packed: it has to shrink by an eighth, or every reader would pay for
// decompression and nobody gain.
func worthStoring(raw, packed int) bool { return packed <= raw-raw/8 }

// frameOverhead is a frame's header and what its directory needs besides Meta
// for a few blocks, in bytes.
const frameOverhead = limits.FrameHeaderSize + 128

// diskSize returns what a frame with n bytes of Meta and stored blocks takes on
// disk. It is an estimate: this package does not know the format.
func diskSize(n int) int {
	return (n + frameOverhead + limits.BlockSize - 1) / limits.BlockSize * limits.BlockSize
}

// A policy decides with which codec a block is tried. It is arithmetic alone:
// it is told what was measured, and reads no clock.
//
// The model has two parts. The disk takes a fixed time for a frame, which no
// codec changes, and so many nanoseconds for each stored byte: a line through
// landing times over sizes. A codec takes so many nanoseconds for a raw byte and
// leaves a share of it to be stored. A block packed after its frame was sealed
// holds the frame up for as long as that takes, so a raw byte costs
//
//	codec + slope x stored share
//
// One packed while the frame before is on its way takes nothing from the disk,
// and all processors may be at it. The next frame is held up only if they need
// longer for it than the disk does for this one, so a raw byte costs
//
//	the larger of slope x stored share and codec / processors - cover
//
// and a little for the processors' sake. A fixed share of the codec's time in the
// place of this would be wrong for either a slow disk, where it costs next to
// nothing, or a fast one, where it costs all of it. The cover is the fixed part of
// the disk's time, for frames that were full. Others are as large as what came
// meanwhile: if processors are slower than the disk they shrink, and the fixed part
// weighs the more, but that is no time to spare. The codec with the least cost
// is chosen. Rounding to disk blocks is left out, except that a frame which fits
// one disk block has nothing to save.
//
// Both parts go on learning, older measurements fading. Every probeInterval
// blocks the choice is made anew, and a codec that is not in use is tried, so
// that a change in the data is noticed; a change in the disk shows by itself. A
// codec that would lose however well the data compressed is tried less often:
// on a fast disk probes alone would take a sixth of the disk's time. How slow the
// disk might be counts for that, not how slow it was shown to be: frames that are
// all alike show nothing, and what makes them differ is probing. Choices do
// not flap: they last for an interval, and a codec that takes more processor
// time than the one in use has to be cheaper by an eighth, while one that takes
// less only has to be cheaper.
type policy struct {
	fixed   CodecPolicy
	disk    device
	filling place
	sealing place
}

const (
	// probeInterval is how many blocks a choice lasts.
	probeInterval = 32
	// hopelessRounds is how many choices go without a probe of a codec that would
	// lose if it left nothing to store; odd, since probes alternate.
	hopelessRounds = 9
	// overlapWeight is the share of processor time that counts where it holds
	// nothing up: others may have use for it.
	overlapWeight = 0.1
	// switchingGain is what a codec that takes more processor time has to save.
	switchingGain = 0.125
	// outlierFactor bounds what one measurement can say: so many times the
	// expected. Goroutines are preempted and disks pause; neither is a trend.
	outlierFactor = 4
	// costMemory and lineMemory are how many blocks and frames are remembered,
	// the older ones ever less.
	costMemory = 8
	lineMemory = 64
	// lineMinFrames is how many it takes to know a disk, and lineMinSpread the
	// standard deviation of their sizes, in bytes, below which they tell no slope.
	lineMinFrames = 16
	lineMinSpread = limits.BlockSize
)

func newPolicy(c CodecPolicy) policy {
	// Until measured, what is usual for JSON on one core.
	costs := [codec.Zstd + 1]cost{
		codec.None: {share: 1},
		codec.S2:   {time: 0.5, share: 0.4},
		codec.Zstd: {time: 2, share: 0.25},
	}
	return policy{
		fixed:   c,
		disk:    device{processors: float64(runtime.GOMAXPROCS(0))},
		filling: place{overlaps: true, costs: costs},
		sealing: place{costs: costs},
	}
}

// chooseFilling returns the codec for a block whose frame is still filling.
func (p *policy) chooseFilling() codec.Codec { return p.choose(&p.filling) }

// chooseSealing gives every block of a sealed frame that nobody claimed its codec.
func (p *policy) chooseSealing(f *Frame) {
	if diskSize(f.rawSize) == limits.BlockSize {
		return
	}
	for _, buf := range f.bufs[f.claimed:] {
		buf.tried = p.choose(&p.sealing)
	}
}

func (p *policy) choose(at *place) codec.Codec {
	if p.fixed != Auto {
		return codec.Codec(p.fixed - 1)
	}
	return at.choose(&p.disk)
}

// learn takes in what a frame that landed without an error measured.
func (p *policy) learn(f *Frame) {
	if p.fixed != Auto {
		return
	}
	p.disk.learn(float64(f.rawSize), float64(diskSize(f.stored)), float64(f.service), f.full)
	for i, buf := range f.bufs {
		at := &p.sealing
		if i < f.claimed {
			at = &p.filling
		}
		at.add(buf.tried, len(buf.raw), len(buf.packed), buf.took)
	}
}

// A place is where blocks are packed: while their frame fills, or after it was
// sealed. Blocks packed at sealing are often small and compress worse, so each
// place measures for itself.
type place struct {
	overlaps bool // with the disk, and with each other
	costs    [codec.Zstd + 1]cost
	chosen   codec.Codec
	blocks   int // since the last choice
	rounds   int // of choices
	probed   codec.Codec
}

// choose returns the codec for the next block.
func (at *place) choose(d *device) codec.Codec {
	unknown := at.costs[codec.S2].samples == 0 || at.costs[codec.Zstd].samples == 0
	at.blocks++
	if at.blocks < probeInterval && !unknown {
		return at.chosen
	}
	at.blocks = 0
	at.chosen = at.cheapest(d)
	at.probed = other(at.probed)
	if at.probed == at.chosen {
		at.probed = other(at.probed)
	}
	at.rounds++
	hopeless := at.cost(cost{time: at.costs[at.probed].time}, d, d.steepest) >= at.cost(at.costs[at.chosen], d, d.steepest)
	if hopeless && !unknown && at.rounds%hopelessRounds != 0 {
		return at.chosen
	}
	return at.probed
}

// other returns the compressing codec that c is not.
func other(c codec.Codec) codec.Codec {
	if c == codec.Zstd {
		return codec.S2
	}
	return codec.Zstd
}

// cheapest returns the codec to use until the next probe.
func (at *place) cheapest(d *device) codec.Codec {
	best, least := at.chosen, at.cost(at.costs[at.chosen], d, d.slope)
	for c := range at.costs {
		cost := at.cost(at.costs[c], d, d.slope)
		if at.costs[c].time > at.costs[at.chosen].time {
			cost /= 1 - switchingGain
		}
		if cost < least {
			best, least = codec.Codec(c), cost
		}
	}
	return best
}

// cost returns nanoseconds for a raw byte, if the disk's slope is this one.
func (at *place) cost(c cost, d *device, slope float64) float64 {
	if !at.overlaps {
		return c.time + slope*c.share
	}
	return max(slope*c.share, c.time/d.processors-d.cover) + overlapWeight*c.time
}

// add takes in that c packed raw bytes to packed in took nanoseconds.
func (at *place) add(c codec.Codec, raw, packed int, took int64) {
	if c == codec.None || raw == 0 {
		return
	}
	if !worthStoring(raw, packed) {
		packed = raw
	}
	at.costs[c].add(float64(took)/float64(raw), float64(packed)/float64(raw))
}

// A cost is what a codec costs: fading averages.
type cost struct {
	time    float64 // nanoseconds for a raw byte
	share   float64 // stored bytes for a raw byte
	samples int
}

func (c *cost) add(time, share float64) {
	time = min(time, outlierFactor*c.time)
	c.samples = min(c.samples+1, costMemory)
	w := 1 / float64(c.samples)
	c.time += w * (time - c.time)
	c.share += w * (share - c.share)
}

// A device is the disk, beside the processors that work meanwhile.
type device struct {
	line
	processors float64
	// cover is the fixed part of the disk's time, in nanoseconds for a raw byte, where
	// frames are full: time that the processors have however little is stored. It
	// is a fading mean, with 0 for other frames.
	cover float64
}

// learn takes in a frame that landed.
func (d *device) learn(raw, stored, service float64, full bool) {
	d.add(stored, service)
	cover := 0.0
	if full {
		cover = max(0, d.y-d.slope*d.x) / raw
	}
	d.cover += (cover - d.cover) / float64(d.frames)
}

// A line is a fading linear regression of landing times over sizes.
type line struct {
	frames     int
	x, y       float64 // means, in bytes and nanoseconds
	xx, xy, yy float64 // central moments
	// slope is in nanoseconds for a stored byte, one standard error below the
	// best estimate: compression has to be worth it by evidence. It is 0 at first.
	slope float64
	// steepest is one standard error above it; before there is an estimate, as if
	// all of the time were for bytes. Both keep their values while frames are too
	// much alike to tell.
	steepest float64
	told     bool // frames have differed enough to tell
}

func (l *line) add(x, y float64) {
	if l.frames >= lineMinFrames {
		y = min(y, outlierFactor*l.y)
	}
	l.frames = min(l.frames+1, lineMemory)
	w := 1 / float64(l.frames)
	dx, dy := x-l.x, y-l.y
	l.x += w * dx
	l.y += w * dy
	l.xx = (1 - w) * (l.xx + w*dx*dx)
	l.xy = (1 - w) * (l.xy + w*dx*dy)
	l.yy = (1 - w) * (l.yy + w*dy*dy)
	// The fixed part of the time is not negative.
	most := l.y / l.x
	if l.frames < lineMinFrames || l.xx < lineMinSpread*lineMinSpread {
		if !l.told {
			l.steepest = most
		}
		return
	}
	slope := l.xy / l.xx
	residual := max(0, l.yy-slope*l.xy)
	stderr := math.Sqrt(residual / l.xx / float64(l.frames))
	l.told = true
	l.slope, l.steepest = max(0, min(slope-stderr, most)), max(0, min(slope+stderr, most))
}
