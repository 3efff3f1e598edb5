package batcher

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// A world is what the policy measures: a disk and data, both modelled.
type world struct {
	policy       policy
	fixed, slope float64 // nanoseconds for a frame, and for a stored byte
	noise        float64 // share of the landing time, both ways
	costs        [codec.Zstd + 1]cost
	full         bool // frames are as large as they may be
	rand         *rand.Rand
}

// rawBlock is what blocks are made of: only its length counts.
var rawBlock = make([]byte, limits.TargetBlockSize)

// frame lets a frame ride: full blocks that are packed while it fills, and last
// bytes, if any, that are packed after sealing. It returns how long processors
// packed meanwhile, how long the frame was held up, and how long the disk took, in
// nanoseconds.
func (w *world) frame(filling, sealing *choices, full, last int) (packed, held, service float64) {
	f := &Frame{blockSize: len(rawBlock), full: w.full}
	for range full {
		buf := &buffer{raw: rawBlock, tried: w.policy.chooseFilling()}
		f.bufs = append(f.bufs, buf)
		f.claimed++
		f.rawSize += len(buf.raw)
		filling.add(w.policy.filling.chosen, buf.tried)
	}
	if last > 0 {
		f.bufs = append(f.bufs, &buffer{raw: rawBlock[:last]})
		f.rawSize += last
	}
	w.policy.chooseSealing(f)
	if last > 0 {
		sealing.add(w.policy.sealing.chosen, f.bufs[full].tried)
	}
	for i, buf := range f.bufs {
		c := w.costs[buf.tried]
		size := len(buf.raw)
		if buf.tried != codec.None {
			buf.took = int64(c.time * float64(size))
			buf.packed = rawBlock[:int(c.share*float64(size))]
			if worthStoring(size, len(buf.packed)) {
				size = len(buf.packed)
			}
		}
		f.stored += size
		if i < f.claimed {
			packed += float64(buf.took)
		} else {
			held += float64(buf.took)
		}
	}
	t := w.fixed + w.slope*float64(diskSize(f.stored))
	f.service = int64(t * (1 + w.noise*(2*w.rand.Float64()-1)))
	w.policy.learn(f)
	return packed, held, float64(f.service)
}

// processors is how many the world has.
const processors = 2

// race runs frames of one size with a policy, back to back, and returns raw bytes
// per second of the second half of them, and which codecs were chosen for their
// blocks. Filling takes so many nanoseconds of a processor for a byte.
func (w *world) race(p CodecPolicy, fill float64, size, frames int) (rate float64, used [codec.Zstd + 1]int) {
	w.policy, w.rand = newPolicy(p), rand.New(rand.NewPCG(1, 2))
	w.policy.disk.processors = processors
	var filling, sealing choices
	took := 0.0
	for i := range frames {
		if i == frames/2 {
			took, filling, sealing = 0, choices{}, choices{}
		}
		packed, held, service := w.frame(&filling, &sealing, size/len(rawBlock), size%len(rawBlock))
		took += max(service, (packed+fill*float64(size))/processors) + held
	}
	for _, c := range slices.Concat(filling.chosen, sealing.chosen) {
		used[c]++
	}
	return float64(size) * float64(frames-frames/2) / took * 1e9, used
}

// choices remembers what a place chose, and with what it probed.
type choices struct {
	chosen []codec.Codec
	probes [codec.Zstd + 1]int
}

func (c *choices) add(chosen, tried codec.Codec) {
	switch tried {
	case chosen:
	case codec.None: // too small for any
		chosen = codec.None
	default:
		c.probes[tried]++
	}
	c.chosen = append(c.chosen, chosen)
}

// String spells the choices in order as "62 none, 64 s2", then the probes.
func (c *choices) String() string {
	var out strings.Builder
	for i := 0; i < len(c.chosen); {
		n := 1
		for i+n < len(c.chosen) && c.chosen[i+n] == c.chosen[i] {
			n++
		}
		if i > 0 {
			out.WriteString(", ")
		}
		fmt.Fprintf(&out, "%d %s", n, c.chosen[i])
		i += n
	}
	fmt.Fprintf(&out, "; probed s2 %d, zstd %d", c.probes[codec.S2], c.probes[codec.Zstd])
	return out.String()
}

// TestPolicy plays transcripts:
//
//	policy is=NAME                        a new policy; Auto at first
//	disk fixed=US byte=PS [noise=PERCENT] from now on: microseconds for a frame,
//	                                      picoseconds for a stored byte
//	data s2=(PS,PERCENT) zstd=(PS,PERCENT) from now on: picoseconds for a raw byte,
//	                                      what is left of it
//	ride frames=N [blocks=B] [last=KIB]   frames of B-1 blocks of 128 KiB, packed while
//	                                      they fill, and one of KIB (or of each in turn),
//	                                      packed after sealing: what was chosen
//	race frames=N size=KIB [fill=PS] [full=BOOL]
//	                                      frames of KIB (or of each), back to back, on 2
//	                                      processors that take PS for filling a byte, with
//	                                      each codec and Auto: MB/s of the second half, and
//	                                      what Auto used
func TestPolicy(t *testing.T) {
	datadriven.Walk(t, "testdata/policy", func(t *testing.T, path string) {
		w := &world{policy: newPolicy(Auto), rand: rand.New(rand.NewPCG(1, 2))}
		w.policy.disk.processors = processors
		w.costs[codec.None].share = 1
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "policy":
				var name string
				d.ScanArgs(t, "is", &name)
				p, err := ParseCodecPolicy(name)
				if err != nil {
					return err.Error()
				}
				w.policy = newPolicy(p)
				w.policy.disk.processors = processors
				return p.String()
			case "disk":
				var fixed, slope, noise int
				d.ScanArgs(t, "fixed", &fixed)
				d.ScanArgs(t, "byte", &slope)
				d.MaybeScanArgs(t, "noise", &noise)
				w.fixed, w.slope, w.noise = float64(fixed)*1e3, float64(slope)/1e3, float64(noise)/100
				return ""
			case "data":
				for _, c := range []codec.Codec{codec.S2, codec.Zstd} {
					var picoseconds, percent int
					d.ScanArgs(t, c.String(), &picoseconds, &percent)
					w.costs[c] = cost{time: float64(picoseconds) / 1e3, share: float64(percent) / 100}
				}
				return ""
			case "ride":
				return w.ride(t, d)
			case "race":
				return w.races(t, d)
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func (w *world) ride(t *testing.T, d *datadriven.TestData) string {
	frames, blocks := 0, 1
	last := []int{128}
	d.ScanArgs(t, "frames", &frames)
	d.MaybeScanArgs(t, "blocks", &blocks)
	if d.HasArg("last") {
		last = nil
		arg, _ := d.Arg("last")
		for i := range arg.Vals {
			var kib int
			arg.Scan(t, i, &kib)
			last = append(last, kib)
		}
	}
	var filling, sealing choices
	for i := range frames {
		w.frame(&filling, &sealing, blocks-1, last[i%len(last)]<<10)
	}
	var out strings.Builder
	if blocks > 1 {
		fmt.Fprintf(&out, "filling: %s\n", &filling)
	}
	fmt.Fprintf(&out, "sealing: %s\n", &sealing)
	fmt.Fprintf(&out, "slope:   %.1f ns/byte\n", w.policy.disk.slope)
	return out.String()
}

func (w *world) races(t *testing.T, d *datadriven.TestData) string {
	frames, fill := 0, 0
	d.ScanArgs(t, "frames", &frames)
	d.MaybeScanArgs(t, "fill", &fill)
	w.full = true
	d.MaybeScanArgs(t, "full", &w.full)
	sizes, _ := d.Arg("size")
	var out strings.Builder
	for i := range sizes.Vals {
		var kib int
		sizes.Scan(t, i, &kib)
		fmt.Fprintf(&out, "%d KiB:", kib)
		best := 0.0
		for _, c := range []codec.Codec{codec.None, codec.S2, codec.Zstd} {
			rate, _ := w.race(Fixed(c), float64(fill)/1e3, kib<<10, frames)
			best = max(best, rate)
			fmt.Fprintf(&out, " %s %.1f,", c, rate/1e6)
		}
		rate, used := w.race(Auto, float64(fill)/1e3, kib<<10, frames)
		fmt.Fprintf(&out, " auto %.1f (%.1f%% behind; %d none, %d s2, %d zstd)\n", rate/1e6, 100*(1-rate/best), used[codec.None], used[codec.S2], used[codec.Zstd])
		if rate < 0.9*best {
			t.Errorf("%s: frames of %d KiB: the automatic choice is more than a tenth behind", d.Pos, kib)
		}
	}
	return out.String()
}

func TestCodecPolicyNames(t *testing.T) {
	for _, p := range []CodecPolicy{Auto, Fixed(codec.None), Fixed(codec.S2), Fixed(codec.Zstd)} {
		got, err := ParseCodecPolicy(p.String())
		if err != nil || got != p {
			t.Errorf("ParseCodecPolicy(%q) = %v, %v", p, got, err)
		}
	}
	if _, err := ParseCodecPolicy("lz4"); err == nil || !strings.Contains(err.Error(), "want auto, none, s2 or zstd") {
		t.Errorf("ParseCodecPolicy(lz4): %v", err)
	}
}

// TestOutliers: one measurement that was disturbed does not decide.
func TestOutliers(t *testing.T) {
	c := cost{time: 1, share: 0.5}
	for range 20 {
		c.add(1, 0.5)
	}
	c.add(1000, 0.5)
	if c.time > 1.5 {
		t.Errorf("one outlier moved the time from 1 to %.2f", c.time)
	}
}

// TestSlopeBound: a line never says that the disk takes longer for its bytes
// than for whole frames, which would leave less than nothing for the rest.
func TestSlopeBound(t *testing.T) {
	var l line
	for i := range 100 {
		x := float64(100_000 + i%2*100_000)
		l.add(x, x*x/1e5)
	}
	if l.slope > l.y/l.x {
		t.Errorf("slope %.2f over the average %.2f", l.slope, l.y/l.x)
	}
}
