package wal

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// A Holder is what keeps segments of the journal from being used again.
type Holder struct {
	Kind HolderKind
	Log  string      // empty for one of the volume
	Name string      // of the checkpoint or cursor
	LSN  LSN         // of the first record that it holds; the log's next one if it holds none
	Low  bool        // nobody of the log holds an older record
	Cur  CursorState // of a cursor
	// Bytes are framed bytes of the log's records from LSN on: at most so many, if
	// records in between cannot be read.
	Bytes uint64
	// Segment is the oldest segment that it needs, and Segments how many there are
	// from that one on, those that only others need among them; 0 if it needs none. Of HolderReaders it is how many
	// released ones wait.
	Segment  uint64
	Segments int
	// Moved is up to which LSN the records that it holds were moved forward, out of
	// segments that nobody else kept; 0 if none were.
	Moved LSN
}

// A HolderKind says what kind of thing holds.
type HolderKind uint8

// The kinds of holders. The numbers are on the wire.
const (
	HolderCheckpoint HolderKind = iota + 1
	HolderCursor                // one that is lost holds nothing, and is listed all the same
	HolderLog                   // a log without a checkpoint or a cursor that holds: it keeps all that was not truncated
	HolderSnapshot              // what opening the volume begins at
	HolderReaders               // replays under way in segments that were released, for limits.PinLimit at most
)

// String names a kind as walctl prints it.
func (k HolderKind) String() string {
	switch k {
	case HolderCheckpoint:
		return "checkpoint"
	case HolderCursor:
		return "cursor"
	case HolderLog:
		return "log"
	case HolderSnapshot:
		return "snapshot"
	case HolderReaders:
		return "readers"
	}
	return fmt.Sprintf("holder(%d)", uint8(k))
}

// Holders returns who holds what of at most limit logs whose names begin with
// prefix and come behind after, in the order of their names, and of fewer when these
// have limits.HoldersPerPage holders; last is the name of the last log looked at, and
// more says whether there are further ones. It reads the directory of a frame for each.
func (v *Volume) Holders(prefix, after string, limit int) (holders []Holder, last string, more bool) {
	v.mu.RLock()
	found, more := v.page(prefix, after, limit)
	logs := make([]logState, len(found))
	moved := make([]movedPlace, len(found))
	for i, l := range found {
		logs[i], moved[i] = *l, v.index.places.moved[l.number]
		logs[i].checkpoints, logs[i].cursors = slices.Clone(l.checkpoints), slices.Clone(l.cursors)
	}
	v.mu.RUnlock()
	for i := range logs {
		holders = append(holders, v.holdersOf(&logs[i], moved[i])...)
		last = logs[i].name
		if len(holders) >= limits.HoldersPerPage {
			return holders, last, more || i+1 < len(logs)
		}
	}
	return holders, last, more
}

// holdersOf returns the holders of a log, as it was then.
func (v *Volume) holdersOf(l *logState, moved movedPlace) (holders []Holder) {
	keep, _, held := l.floor()
	for i := range l.checkpoints {
		c := &l.checkpoints[i]
		holders = append(holders, Holder{Kind: HolderCheckpoint, Name: c.name, LSN: max(l.first, c.lsn+1), Low: c.lsn+1 == keep})
	}
	for i := range l.cursors {
		c := &l.cursors[i]
		h := Holder{Kind: HolderCursor, Name: c.name, LSN: max(l.first, c.lsn+1), Low: c.holds() && c.lsn+1 == keep, Cur: c.state(l.totalBytes)}
		if !c.holds() {
			h.LSN = l.next
		}
		holders = append(holders, h)
	}
	if !held {
		holders = append(holders, Holder{Kind: HolderLog, LSN: l.first, Low: true})
	}
	for i := range holders {
		h := &holders[i]
		h.Log = l.name
		if h.LSN >= l.next {
			continue
		}
		if h.LSN < moved.end {
			h.Moved = moved.end - 1
		}
		h.Bytes = l.liveBytes
		if h.LSN > l.first {
			as := l.history()
			if start, err := v.offsetAt(l.name, l.number, h.LSN, &as); err == nil {
				h.Bytes = min(l.totalBytes-start, l.liveBytes)
			}
		}
		if pos, err := v.index.locate(l.number, h.LSN, 0); err == nil {
			h.from(pos.Segment, v.journal.Segments())
		}
	}
	return holders
}

// from notes the segments from one on.
func (h *Holder) from(id segment.ID, ids []segment.ID) {
	i, _ := slices.BinarySearch(ids, id)
	h.Segment, h.Segments = uint64(id), len(ids)-i
}

// VolumeHolders returns what holds segments for no log's sake: at most one of
// HolderSnapshot and one of HolderReaders. It returns an error if the header of
// the newest segment cannot be read.
func (v *Volume) VolumeHolders() (holders []Holder, err error) {
	ids := v.journal.Segments()
	if len(ids) == 0 {
		return nil, nil // of a volume that is read-only since its first segment is damaged
	}
	oldest, err := v.oldestNeeded()
	if err != nil {
		return nil, fmt.Errorf("holders: %w", err)
	}
	h := Holder{Kind: HolderSnapshot}
	h.from(cmp.Or(oldest, ids[0]), ids)
	holders = append(holders, h)
	if id, n := v.journal.Waiting(); n > 0 {
		holders = append(holders, Holder{Kind: HolderReaders, Segment: uint64(id), Segments: n})
	}
	return holders, nil
}
