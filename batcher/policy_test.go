package batcher

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/walsvc/walsvc/internal/codec"
)

// A world is what the policy measures: a disk and data, both modelled.
type world struct {
	policy       policy
	fixed, slope float64 // nanoseconds for a frame, and for a stored byte
	noise        float64 // share of the landing time, both ways
	costs        [codec.Zstd + 1]cost
	rand         *rand.Rand
}

// frame lets a frame with the given raw block sizes ride: most of them packed
// while it filled, the last after sealing.
func (w *world) frame(filling, sealing *choices, raw ...int) {
	f := &Frame{blockSize: raw[0]}
	for i, n := range raw {
		f.rawSize += n
		f.bufs = append(f.bufs, &buffer{raw: make([]byte, n)})
		if i < len(raw)-1 {
			f.bufs[i].tried = w.policy.chooseFilling()
			f.claimed++
			filling.add(w.policy.filling.chosen, f.bufs[i].tried)
		}
	}
	w.policy.chooseSealing(f)
	sealing.add(w.policy.sealing.chosen, f.bufs[len(raw)-1].tried)
	for _, buf := range f.bufs {
		c := w.costs[buf.tried]
		size := len(buf.raw)
		if buf.tried != codec.None {
			buf.took = int64(c.time * float64(size))
			buf.packed = make([]byte, int(c.share*float64(size)))
			if worthStoring(size, len(buf.packed)) {
				size = len(buf.packed)
			}
		}
		f.stored += size
	}
	t := w.fixed + w.slope*float64(diskSize(f.stored))
	f.service = int64(t * (1 + w.noise*(2*w.rand.Float64()-1)))
	w.policy.learn(f)
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
func TestPolicy(t *testing.T) {
	datadriven.Walk(t, "testdata/policy", func(t *testing.T, path string) {
		w := &world{policy: newPolicy(Auto), rand: rand.New(rand.NewPCG(1, 2))}
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
		raw := make([]int, blocks)
		for j := range raw {
			raw[j] = 128 << 10
		}
		raw[blocks-1] = last[i%len(last)] << 10
		w.frame(&filling, &sealing, raw...)
	}
	var out strings.Builder
	if blocks > 1 {
		fmt.Fprintf(&out, "filling: %s\n", &filling)
	}
	fmt.Fprintf(&out, "sealing: %s\n", &sealing)
	fmt.Fprintf(&out, "slope:   %.1f ns/byte\n", w.policy.disk.slope)
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
