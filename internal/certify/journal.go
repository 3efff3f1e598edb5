package certify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strconv"

	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/wal"
)

// journals is how many lanes share the volume, so that frames carry several.
const journals = 4

// A journal is the volume that some lanes share. Only Append and SetCheckpoint
// are called by several at once.
type journal struct {
	site
	v *wal.Volume
}

func (j *journal) home() string { return filepath.Join(j.dir, "volume") }

// open opens the volume, once.
func (j *journal) open(ctx context.Context, create bool) (err error) {
	if j.v != nil {
		return nil
	}
	j.v, err = wal.Open(ctx, j.home(), wal.Options{
		FS: j.fs, Create: create,
		SegmentSize:   segmentSize,
		SnapshotEvery: 2 * segmentSize,
		PrepareRate:   -1,
		Codec:         "none", // the records do not compress
	})
	return err
}

// segmentSize makes the volume roll and recycle often.
const segmentSize = 256 << 10

func (j *journal) close() error {
	if j.v == nil {
		return nil
	}
	err := j.v.Close()
	j.v = nil
	return err
}

// journalLane appends batches to one log of the volume, and moves a checkpoint
// up behind itself. Step b is batch b and, after each 32nd, the checkpoint.
type journalLane struct {
	*journal
	number int
}

const (
	checkpointEvery = 32
	checkpointName  = "engine"
)

func (l *journalLane) name() string { return "journal-" + strconv.Itoa(l.number) }

// firstOf returns the first LSN of a batch: batch b has 1 + b mod 7 records.
func firstOf(b uint64) wal.LSN {
	before := b - 1
	rest := before % 7
	return wal.LSN(1 + before + before/7*21 + rest*(rest+1)/2)
}

// wholeBefore returns how many batches lie before an LSN as a whole.
func wholeBefore(next wal.LSN) uint64 {
	return uint64(sort.Search(int(next), func(b int) bool { return firstOf(uint64(b)+2) > next }))
}

// checkpointAt returns the checkpoint's LSN after a step, 0 if it is not set yet:
// half of what was appended since the last one stays.
func checkpointAt(step uint64) wal.LSN {
	step -= step % checkpointEvery
	if step == 0 {
		return 0
	}
	return firstOf(step-checkpointEvery/2) - 1
}

// record returns the bytes of a record, 64 to 4159 of them.
func (l *journalLane) record(lsn wal.LSN) []byte {
	var b [64 + 4096]byte
	noise(b[:], l.run, uint64(l.number), uint64(lsn))
	n := 64 + int(binary.LittleEndian.Uint16(b[:])%4096)
	return b[:n:n]
}

func (l *journalLane) begin(ctx context.Context) (uint64, error) {
	if err := l.open(ctx, true); err != nil {
		return 0, err
	}
	info, _, err := l.v.CreateLog(ctx, l.name(), wal.LogOptions{})
	if err != nil {
		return 0, err
	}
	whole := wholeBefore(info.Next)
	// The step under way when the last round was cut may have left its batch
	// without its checkpoint: that is made up for here.
	return whole, l.checkpoint(ctx, whole)
}

// checkpoint sets the checkpoint that belongs behind a step.
func (l *journalLane) checkpoint(ctx context.Context, step uint64) error {
	at := checkpointAt(step)
	if at == 0 {
		return nil
	}
	_, err := l.v.SetCheckpoint(ctx, l.name(), wal.Checkpoint{Name: checkpointName, LSN: at}, nil)
	return err
}

func (l *journalLane) step(ctx context.Context, n uint64) error {
	var run []byte
	first, next := firstOf(n), firstOf(n+1)
	for lsn := first; lsn < next; lsn++ {
		run = records.Append(run, l.record(lsn))
	}
	if err := l.append(ctx, wal.Batch{Run: run, Expected: first}); err != nil {
		return err
	}
	if n%checkpointEvery != 0 {
		return nil
	}
	return l.checkpoint(ctx, n)
}

func (l *journalLane) append(ctx context.Context, b wal.Batch) error {
	_, err := l.v.Append(ctx, l.name(), [16]byte{}, 0, b)
	return err
}

func (l *journalLane) end() error { return l.close() }

func (l *journalLane) check(ctx context.Context, acked uint64, t *tally) error {
	t.Acknowledged = acked
	// 1. The volume as a whole, told once.
	err := l.open(ctx, false)
	if errors.Is(err, wal.ErrNoVolume) || errors.Is(err, wal.ErrDamaged) {
		t.Checked += acked
		t.notes(acked, Lost, "%s: %v", l.home(), err)
		return nil
	}
	if err != nil {
		return err
	}
	if r := l.v.Recovery(); r.Verdict == "damaged" && l.number == 0 {
		t.note(Torn, "%s: %s: %s", l.home(), r.Case, r.Detail)
	}
	// 2. The end of the log.
	info, err := l.v.Log(l.name())
	if errors.Is(err, wal.ErrLogNotFound) {
		t.Checked += acked
		t.notes(acked, Lost, "%s: log %s is not there", l.home(), l.name())
		return nil
	}
	if err != nil {
		return err
	}
	whole := wholeBefore(info.Next)
	if firstOf(whole+1) != info.Next {
		t.note(Torn, "log %s: it ends at LSN %d, within batch %d", l.name(), info.Next-1, whole+1)
	}
	if whole < acked {
		t.Checked += acked - whole
		t.notes(acked-whole, Lost, "log %s: it ends at LSN %d; LSN %d was acknowledged", l.name(), info.Next-1, firstOf(acked+1)-1)
	}
	acked = max(acked, max(whole, 1)-1)
	t.Acknowledged = acked
	// 3. Its beginning, and the checkpoint that it was given up for.
	if most := checkpointAt(acked+1) + 1; info.First > most {
		t.note(Lost, "log %s: it begins at LSN %d; from LSN %d on nothing was given up", l.name(), info.First, most)
	}
	c, err := l.v.Checkpoint(ctx, l.name(), checkpointName)
	if err != nil && !errors.Is(err, wal.ErrCheckpointNotFound) {
		return err
	}
	if want := checkpointAt(acked); want > 0 {
		t.Checked++
		switch {
		case err != nil:
			t.note(Lost, "log %s: its checkpoint at LSN %d is not there", l.name(), want)
		case c.LSN < want:
			t.note(Reappeared, "log %s: its checkpoint is at LSN %d, it was at %d", l.name(), c.LSN, want)
		}
	}
	// 4. Every record that the checkpoint holds: the volume may be giving up
	// those before it at this moment.
	return l.read(ctx, max(info.First, c.LSN+1), info.Next, t)
}

// read compares the records of the log with what was appended.
func (l *journalLane) read(ctx context.Context, want, end wal.LSN, t *tally) (err error) {
	r, err := l.v.NewReader(l.name(), wal.ReadOptions{From: want})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		span, err := r.Next(ctx)
		switch {
		case errors.Is(err, io.EOF) && want != end:
			t.note(Lost, "log %s: reading it ended at LSN %d of %d", l.name(), want-1, end-1)
			return nil
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, wal.ErrDataLoss):
			t.note(Torn, "%v", err)
			return nil
		case err != nil:
			return err
		}
		for run := span.Run; len(run) > 0; want++ {
			record, rest, err := records.Next(run)
			if err != nil {
				return fmt.Errorf("log %s: LSN %d: %w", l.name(), want, err)
			}
			run = rest
			t.Checked++
			if string(record) != string(l.record(want)) {
				t.note(Torn, "log %s: LSN %d is not what was appended", l.name(), want)
			}
		}
	}
}
