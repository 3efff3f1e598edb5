package bench

import (
	"fmt"
	"time"
)

// implausible is a durable write of 4 KiB that no disk does: the fastest flash
// with a capacitor behind its cache takes about 10 us and the way through the
// kernel as much again. What is faster is memory, or a sync that does nothing.
const implausible = 15 * time.Microsecond

// worth is what a gain has to be to count as one: measurements of half a second
// differ by a tenth from run to run.
const worth = 1.15

// A DiskVerdict says what a table means for walsvc. Figures are zero where the
// cells they need were not measured.
type DiskVerdict struct {
	// OverwriteGain is how many times as fast overwriting is as appending: for
	// the smallest size, and the most for any size.
	OverwriteGain     float64 `json:"overwrite_gain"`
	BestOverwriteGain float64 `json:"best_overwrite_gain"`
	// DirectGain and BestDirectGain are how many times as fast overwriting past
	// the page cache is as overwriting through it.
	DirectGain     float64 `json:"direct_gain"`
	BestDirectGain float64 `json:"best_direct_gain"`
	// PreallocateGain is the same for space that was reserved and not written,
	// for the smallest size.
	PreallocateGain float64 `json:"preallocate_gain"`
	// LoneAppend is what one overwriting write and sync of the smallest size
	// takes, in microseconds: the disk's part of an append that is alone.
	LoneAppend float64 `json:"lone_append_us"`
	// FreeSize is the largest size in bytes that takes at most twice as long as
	// the smallest: what fits in it rides for next to nothing.
	FreeSize int64 `json:"free_size"`
	// SyncTooFast: durable writes are faster than a disk can be.
	SyncTooFast bool `json:"sync_too_fast"`
	// Words says all this to people, a sentence each.
	Words []string `json:"words"`
}

// judge is a pure function of the cells.
func judge(r *DiskReport) DiskVerdict {
	var v DiskVerdict
	say := func(format string, args ...any) { v.Words = append(v.Words, fmt.Sprintf(format, args...)) }
	if len(r.Cells) == 0 {
		return v
	}
	smallest := r.Cells[0].Size
	for _, c := range r.Cells {
		smallest = min(smallest, c.Size)
	}
	// gain compares two modes: at the smallest size, and at the best one.
	gain := func(mode, with Mode) (least, best float64, at int64) {
		for _, c := range r.Cells {
			m, w := r.Cell(mode, c.Size), r.Cell(with, c.Size)
			if c.Mode != mode || m == nil || w == nil {
				continue
			}
			g := m.SyncsPerSecond / w.SyncsPerSecond
			if c.Size == smallest {
				least = g
			}
			if g > best {
				best, at = g, c.Size
			}
		}
		return least, best, at
	}
	// spell says a gain at the smallest size and, if it is another, at the best.
	spell := func(least, best float64, at int64) string {
		if least == 0 || at == smallest {
			return fmt.Sprintf("%.1fx at %s", best, SizeName(at))
		}
		return fmt.Sprintf("%.1fx at %s and %.1fx at %s", least, SizeName(smallest), best, SizeName(at))
	}

	// 1. Which way of writing.
	least, best, at := gain(Overwritten, Appended)
	v.OverwriteGain, v.BestOverwriteGain = least, best
	switch {
	case best == 0:
	case best < worth:
		say("Overwriting written blocks gains nothing here over appending (%s): walsvc recycles its segments all the same, it costs nothing.",
			spell(least, best, at))
	default:
		say("Overwriting written blocks gains over appending: %s. So walsvc writes its segments once and then recycles them.", spell(least, best, at))
	}
	if v.PreallocateGain, _, _ = gain(Preallocated, Appended); v.PreallocateGain >= worth {
		say("Reserving space without writing it (fallocate) gains %.1fx at %s.", v.PreallocateGain, SizeName(smallest))
	} else if v.PreallocateGain > 0 {
		say("Reserving space without writing it (fallocate) gains nothing: %.1fx at %s.", v.PreallocateGain, SizeName(smallest))
	}
	least, best, at = gain(Direct, Overwritten)
	v.DirectGain, v.BestDirectGain = least, best
	switch {
	case best == 0:
	case best < worth:
		say("O_DIRECT gains nothing over the page cache: %s.", spell(least, best, at))
	default:
		say("O_DIRECT gains over the page cache: %s. walsvc writes with it.", spell(least, best, at))
	}

	// 2. What it costs.
	a, o := r.Cell(Appended, smallest), r.Cell(Overwritten, smallest)
	if o != nil {
		v.LoneAppend = o.Latency.P50
		say("A lone append pays about %s to this disk (p99 %s), whatever carries it there; one at a time, that is %.0f commits/s.",
			microseconds(o.Latency.P50), microseconds(o.Latency.P99), o.SyncsPerSecond)
		for _, c := range r.Cells {
			if c.Mode == Overwritten && c.Skipped == "" && c.Latency.P50 <= 2*o.Latency.P50 {
				v.FreeSize = max(v.FreeSize, c.Size)
			}
		}
		if v.FreeSize > smallest {
			say("The disk charges by the trip: %s take at most twice as long as %s, so commits that merge up to that much are nearly free.",
				SizeName(v.FreeSize), SizeName(smallest))
		}
	}

	// 3. Whether to believe it.
	for _, c := range []*DiskCell{a, o} {
		if c != nil && c.Latency.P50 < float64(implausible.Microseconds()) {
			v.SyncTooFast = true
		}
	}
	if v.SyncTooFast {
		say("DO NOT TRUST THIS DISK before you know why it is so fast: %s made durable in less than %d us is faster than a disk can be. "+
			"It is memory (tmpfs), or something below acknowledges a sync and does nothing: "+
			"check the mount options, the hypervisor's cache mode (writeback, unsafe) and the controller.",
			SizeName(smallest), implausible.Microseconds())
	}
	return v
}

// microseconds spells a duration given in microseconds with the unit that suits it.
func microseconds(us float64) string {
	switch {
	case us < 1e3:
		return fmt.Sprintf("%.0f us", us)
	case us < 1e6:
		return fmt.Sprintf("%.1f ms", us/1e3)
	}
	return fmt.Sprintf("%.1f s", us/1e6)
}
