package replay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/segment"
)

// TestCrashLoop crashes a volume at random moments, also while it recovers, and
// compares what is found with what was written: everything that was durable, in
// order and without a hole, perhaps some of what was not, and nothing that an
// earlier recovery did not find.
func TestCrashLoop(t *testing.T) {
	seen := map[Case]int{}
	rolled, released, fromSnapshot := 0, 0, 0
	again := [3]int{} // by how many power cuts there were while it recovered from one
	for seed := range uint64(40) {
		m := &model{volume: newVolume(t, 1+seed*100), rng: rand.New(rand.NewPCG(seed, 1))}
		m.before = m.onOperation
		m.mustFind(m.recover())
		for round := range 12 {
			m.countdown = m.rng.IntN(60)
			m.cut = nil
			for i := m.rng.IntN(60); i > 0 && m.cut == nil; i-- {
				m.step()
			}
			m.countdown = 0
			if m.cut == nil {
				m.crash(m.rng, m.chance())
			} else {
				m.close()
				m.fs = m.cut
			}
			cuts := 0
			for ; cuts < len(again)-1 && m.rng.IntN(3) == 0; cuts++ {
				m.crashWhileRecovering()
			}
			again[cuts]++
			rec, h := m.recover()
			m.mustFind(rec, h)
			if t.Failed() {
				t.Fatalf("seed %d, round %d", seed, round)
			}
			seen[rec.Case]++
			if h.snapshot {
				fromSnapshot++
			}
		}
		rolled += m.rolled
		released += m.released
	}
	t.Logf("%d rolls, %d releases, %d times from a snapshot, %d cut off while recovering, %d of them twice, %v",
		rolled, released, fromSnapshot, again[1]+again[2], again[2], seen)
	// A header is never torn: it lies in one sector. The rest of the tail rule is
	// damage, which no crash leads to; wal.TestCrash says why of each.
	for _, c := range []Case{
		CaseEmpty, CaseClean, CaseUnpromised, CaseTornDirectory, CaseTornBlock, CaseTornRoll, CaseOrphans,
	} {
		if seen[c] == 0 {
			t.Errorf("never came to %s", c)
		}
	}
	if rolled == 0 || released == 0 || fromSnapshot == 0 || again[1] == 0 || again[2] == 0 {
		t.Error("too little happened")
	}
}

// A model is a volume and what has to be found in it.
type model struct {
	*volume
	rng *rand.Rand

	countdown int       // writes and syncs of segments until the power is cut; 0: it is not
	cut       *disk.Mem // what that left

	texts   []string // of commands, in order
	durable int      // how many of them are
	names   int      // how many texts there ever were

	snapshot []segment.FrameRef // complete and durable, oldest first
	unsynced []segment.FrameRef // complete only
	rolled   int
	released int
}

// chance returns how likely it is for what was not synced to survive.
func (m *model) chance() float64 { return []float64{0, 0.5, 0.9, 1}[m.rng.IntN(4)] }

// onOperation cuts the power in the middle of an append or a sync. Only the
// goroutine that appends writes to segments that have their name.
func (m *model) onOperation(op disk.Op) {
	if op.Kind != disk.OpWrite && op.Kind != disk.OpSync || !strings.HasSuffix(op.Name, ".wal") || m.countdown == 0 {
		return
	}
	if m.countdown--; m.countdown == 0 {
		m.cut = m.fs.CrashClone(m.rng, m.chance())
	}
}

// step does something to the journal.
func (m *model) step() {
	switch n := m.rng.IntN(100); {
	case n < 50:
		m.write(m.rng.IntN([]int{200, 2000, 30_000}[m.rng.IntN(3)]))
	case n < 85:
		m.sync()
	case n < 92:
		m.count(m.append(segment.KindPromise, "", 0))
	case n < 97:
		m.takeSnapshot()
	case len(m.snapshot) == 2:
		// What the newest header records is what opening needs: no more is released.
		ids := m.j.Segments()
		h, err := m.j.Header(ids[len(ids)-1])
		must(m.t, err)
		if before := h.OlderSnapshot.Pos.Segment; before > ids[0] {
			must(m.t, m.j.Release(m.j.Below(before)))
			m.released++
		}
	}
}

// count notes that a frame without commands may have begun a segment.
func (m *model) count(w segment.Written) {
	if w.Rolled {
		m.rolled++
		m.settle(len(m.texts))
	}
}

// write appends commands.
func (m *model) write(size int) {
	m.names++
	text := fmt.Sprintf("c%d", m.names)
	n := len(m.texts)
	m.texts = append(m.texts, text) // it may be found as soon as it is being written
	w := m.append(segment.KindCommands, text, size)
	if w.Rolled {
		m.rolled++
		m.settle(n)
	}
}

// takeSnapshot writes the frames of a snapshot, with commands between them.
func (m *model) takeSnapshot() {
	w := m.append(segment.KindSnapshot, fmt.Sprintf("begin %d", len(m.texts)), m.rng.IntN(9000))
	m.count(w)
	for range m.rng.IntN(3) {
		m.write(100)
		m.count(m.append(segment.KindSnapshot, "more", m.rng.IntN(9000)))
	}
	m.count(m.append(segment.KindSnapshot, "end", m.rng.IntN(100)))
	m.unsynced = append(m.unsynced, w.Ref)
}

func (m *model) sync() {
	m.volume.sync()
	m.settle(len(m.texts))
}

// settle notes that the first n texts are durable, and all that was appended
// before them and between them.
func (m *model) settle(n int) {
	if m.cut != nil {
		return // not where the power was cut
	}
	m.durable = n
	m.snapshot = append(m.snapshot, m.unsynced...)
	m.unsynced = nil
	if n := len(m.snapshot); n > 0 {
		older := segment.FrameRef{}
		if n > 1 {
			m.snapshot = m.snapshot[n-2:]
			older = m.snapshot[0]
		}
		m.j.SetSnapshots(m.snapshot[len(m.snapshot)-1], older)
	}
}

// crashWhileRecovering cuts the power before a random operation of recovery.
func (m *model) crashWhileRecovering() {
	all := crashes(m.volume, 1)
	c := all[m.rng.IntN(len(all))]
	c.crash(m.rng, m.rng.Float64())
	m.fs = c.fs
}

// mustFind compares what was found with what was written.
func (m *model) mustFind(rec *Recovery, h *history) {
	m.t.Helper()
	if rec.Verdict == VerdictDamaged || rec.ReadOnly {
		m.t.Fatalf("%s, %s: %v", rec.Verdict, rec.Case, rec.Damage)
	}
	skipped := 0
	if h.snapshot {
		if _, err := fmt.Sscanf(h.begun[0], "begin %d", &skipped); err != nil {
			m.t.Fatal(err)
		}
	}
	found := append(slices.Clone(m.texts[:min(skipped, len(m.texts))]), h.kept...)
	if len(found) < m.durable || len(found) > len(m.texts) || !slices.Equal(found, m.texts[:len(found)]) {
		m.t.Errorf("%s: found %d texts (%s after %d), want at least the first %d of %s",
			rec.Case, len(found), short(h.kept), skipped, m.durable, short(m.texts))
	}
	m.texts, m.durable = found, len(found)
	m.unsynced = nil
	m.snapshot = m.snapshot[:0]
	for _, ref := range []segment.FrameRef{rec.Resume.OlderSnapshot, rec.Resume.Snapshot} {
		if !ref.IsZero() {
			m.snapshot = append(m.snapshot, ref)
		}
	}
}
