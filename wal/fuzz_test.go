package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"unsafe"

	"github.com/walsvc/walsvc/internal/allocs"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// The fuzz targets want of every decoder that it does not panic, that it takes
// memory in proportion to what there is and not to what that says, that its
// errors are those it promises, and that what it accepts encodes to the same
// bytes again.

// slack is the memory that errors and results of no length to speak of take.
const slack = 32 << 10

// wantBadCommand fails t unless err is nil or what malformed bytes are called.
func wantBadCommand(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrBadCommand) {
		t.Fatalf("not ErrBadCommand: %v", err)
	}
}

// FuzzCommands decodes what a frame carries, and applies it to a state: what does
// not follow changes nothing, and what does leaves a state that a snapshot can hold.
func FuzzCommands(f *testing.F) {
	base, _ := sampleState(f)
	var all []byte
	commands := sampleCommands()
	for i := range commands {
		f.Add(AppendCommand(nil, &commands[i]))
		all = AppendCommand(all, &commands[i])
	}
	f.Add(all)
	f.Add([]byte{byte(CommandDeleteLog), 1, 1})
	f.Add([]byte{byte(CommandDeleteLog), 2, 1, 0})          // a byte left over
	f.Add([]byte{byte(CommandDeleteLog), 2, 0x81, 0})       // not minimal
	f.Add([]byte{byte(CommandDeleteLog), 0x81, 0x80, 0, 1}) // nor that
	f.Add(append([]byte{byte(CommandCreateLog)}, bytes.Repeat([]byte{0xff}, 40)...))
	history := sampleHistory()
	for i := range history {
		f.Add(AppendCommand(nil, &history[i]))
	}
	for _, next := range []Command{ // to what the history left
		{Kind: CommandCreateLog, Log: 5, Name: "d"},
		{Kind: CommandSetWriter, Log: 2, Epoch: 3, Name: "db-2", ID: producerID(2)},
		{Kind: CommandSetWriter, Log: 2, Epoch: 3},
		{Kind: CommandOpenProducer, Log: 2, Producer: producerID(3)},
		{Kind: CommandAppend, Log: 2, Epoch: 1, First: 5, Count: 1<<32 - 1, Start: 40, Place: Place{Size: 1<<32 - 1}},
		{Kind: CommandAppend, Log: 1, Epoch: 1, Slot: 1, Sequence: 1, First: base.logs.get(1).next, Count: 1, Start: base.logs.get(1).totalBytes, Place: Place{Size: 2}},
		{Kind: CommandSetCheckpoint, Log: 2, Name: "cp", LSN: 4, Version: 2, Place: Place{Size: 9}},
		{Kind: CommandTruncate, Log: 2, First: 5},
		{Kind: CommandTruncate, Log: 2, First: 4, LiveBytes: 20},
		{Kind: CommandSetCursor, Log: 2, Name: "slow", LSN: 4, Start: 40, Cap: 1, Reset: true},
		{Kind: CommandSetCursor, Log: 1, Name: "new", Cap: 1},
		{Kind: CommandEvictCursor, Log: 1, Name: "new", Cap: 1, Time: 1},
		{Kind: CommandDeleteCursor, Log: 2, Name: "held"},
		{Kind: CommandSealLog, Log: 2, Epoch: 2, First: 5, Checksum: 2, Start: 40, Time: 9},
		{Kind: CommandAppend, Log: 4, Epoch: 3, First: 3, Count: 1, Start: 20, Place: Place{Size: 1}},
		{Kind: CommandSetWriter, Log: 4, Epoch: 4},
		{Kind: CommandMoveRecords, Log: 4, Epoch: 3, First: 1, Count: 2, Checksum: 9, Place: Place{Size: 20}},
		{Kind: CommandMoveRecords, Log: 4, First: 2, Count: 1}, // that did not verify
		{Kind: CommandMoveRecords, Log: 4, Epoch: 3, First: 1<<64 - 1, Count: 3, Place: Place{Size: 1}},
	} {
		f.Add(AppendCommand(nil, &next))
	}
	whole := AppendCommand(nil, &Command{Kind: CommandAppend, Log: 1, Epoch: 1, First: base.logs.get(1).next, Count: 1, Start: base.logs.get(1).totalBytes, Place: Place{Size: 2}, Parts: 1})
	f.Add(AppendCommand(whole, &Command{Kind: CommandAppendPart, Log: 5, Lead: 1, Epoch: 1, First: base.logs.get(5).next, Count: 1, Start: base.logs.get(5).totalBytes, Place: Place{Size: 2}}))
	f.Fuzz(func(t *testing.T, meta []byte) {
		var commands []Command
		var err error
		// The shortest command takes three bytes, a slice that grows takes four
		// times what it comes to, and a map of labels a few times its bytes.
		most := slack + uint64(len(meta))*(4*uint64(unsafe.Sizeof(Command{}))/3+32)
		allocs.AtMost(t, most, func() { commands, err = DecodeCommands(nil, meta) })
		wantBadCommand(t, err)
		if len(commands) > len(meta)/3 || len(commands) > limits.MaxCommandsPerFrame {
			t.Fatalf("%d commands in %d bytes", len(commands), len(meta))
		}
		var again []byte
		for i := range commands {
			again = AppendCommand(again, &commands[i])
		}
		if !bytes.HasPrefix(meta, again) || err == nil && len(again) != len(meta) {
			t.Fatalf("accepted\n%x\nbut it is spelled\n%x", meta, again)
		}

		s := base.Clone()
		for i := range commands[:min(len(commands), limits.MaxCheckpointsPerLog/2)] {
			before := s.Hash()
			if err := s.Apply(&commands[i]); err != nil && (!errors.Is(err, errDisagree) || s.Hash() != before) {
				t.Fatalf("%s was refused, or changed the state all the same: %v", commands[i].Kind, err)
			}
		}
		restored, _, err := decodeSnapshot(encodeSnapshot(s, places{}))
		if err != nil || restored.Hash() != s.Hash() {
			t.Fatalf("a snapshot cannot hold the state: %v", err)
		}
	})
}

// stateWith returns the state of a volume with one log.
func stateWith(l *logState) *State {
	s := NewState()
	s.put(l)
	s.next = l.number + 1
	return s
}

// FuzzSnapshot decodes a part's own fields, and the parts put together.
func FuzzSnapshot(f *testing.F) {
	state, at := sampleState(f)
	f.Add(encodeSnapshot(state, at))
	f.Add(encodeSnapshot(NewState(), places{}))
	last := &producerState{last: 1<<64 - 1, incarnation: 1<<64 - 1, retired: true} // of whose batches nothing is known
	l := &logState{number: 1, name: "log", first: 1, next: 1, producers: []*producerState{last}, former: []formerProducer{{producerID(1), 7, 1, false}, {producerID(2), 1<<64 - 1, 1<<64 - 1, true}}}
	f.Add(encodeSnapshot(stateWith(l), places{}))
	lost := &logState{number: 1, name: "log", first: 2, next: 20, lost: []LSNRange{{2, 3}, {7, 7}, {9, 19}}}
	f.Add(encodeSnapshot(stateWith(lost), places{}))
	lost.lost = []LSNRange{{2, 3}, {4, 7}} // these are one
	f.Add(encodeSnapshot(stateWith(lost), places{}))
	read := &logState{number: 1, name: "log", first: 5, next: 9, totalBytes: 40, cursors: []cursorState{
		{name: "end", lsn: 8, start: 40, cap: 1}, {name: "held", lsn: 4, start: 20, cap: 1, hold: true}, {name: "lost", start: 0, cap: 9, evicted: 7}}}
	f.Add(encodeSnapshot(stateWith(read), places{}))
	read.cursors = []cursorState{{name: "below", lsn: 3, start: 10, cap: 1}} // it would hold what is gone
	f.Add(encodeSnapshot(stateWith(read), places{}))
	many := NewState()
	for many.next = 1; many.next < 20; many.next++ {
		many.put(&logState{number: many.next, name: string(rune('a' + many.next)), first: 1, next: LSN(many.next)})
	}
	f.Add(encodeSnapshot(many, places{}))
	f.Add(encodeSnapshot(many, places{moved: map[uint64]movedPlace{
		7: {7, 0, segment.Pos{Segment: 3, Offset: 4096}}, 8: {9, 0, segment.Pos{Segment: 3, Offset: 4096}}, // beyond its log's end
	}}))
	f.Add(binary.AppendUvarint([]byte{snapshotVersion, 1}, limits.MaxLogs))
	f.Add(appendSnapshotHeader(nil, &snapshotHeader{
		From: segment.FrameRef{Pos: segment.Pos{Segment: 3, Offset: 4096}, Sequence: 9, Chain: 0xdeadbeef}, Part: 2, Last: true, Sum: 7,
	}))
	f.Add(appendSnapshotHeader(nil, &snapshotHeader{}))
	f.Fuzz(func(t *testing.T, buf []byte) {
		var h snapshotHeader
		var err error
		allocs.AtMost(t, slack, func() { h, err = decodeSnapshotHeader(buf) })
		wantBadCommand(t, err)
		if again := appendSnapshotHeader(nil, &h); err == nil && string(again) != string(buf) {
			t.Fatalf("accepted the part\n%x\nbut it is spelled\n%x", buf, again)
		}

		var state *State
		var at places
		allocs.AtMost(t, slack+64*uint64(len(buf)), func() { state, at, err = decodeSnapshot(buf) })
		wantBadCommand(t, err)
		if err != nil {
			return
		}
		if again := encodeSnapshot(state, at); string(again) != string(buf) {
			t.Fatalf("accepted\n%x\nbut it is spelled\n%x", buf, again)
		}
	})
}

func sampleIndex() *segmentIndex {
	s := newSegmentIndex(5)
	off := int64(limits.SegmentHeaderSize)
	for i := range 40 {
		for log := uint64(1); log < 5; log++ {
			if uint64(i)%log == 0 {
				s.add(&Command{Log: log * log, First: LSN(10*i + 1), Count: 10, Start: uint64(i) * 7, Place: Place{Size: 7}}, off)
			}
		}
		off += limits.BlockSize * int64(1+i%3)
	}
	return s
}

func FuzzSegmentIndex(f *testing.F) {
	s := sampleIndex()
	f.Add(encodeIndex(s))
	s.thin()
	f.Add(encodeIndex(s))
	f.Add(encodeIndex(newSegmentIndex(5)))
	f.Add(binary.AppendUvarint([]byte{sealVersion, 1, 1, 1, 9, 9}, 1<<22)) // references
	f.Add(binary.AppendUvarint([]byte{sealVersion, 1}, limits.MaxLogs))    // logs
	f.Add(append(binary.AppendUvarint([]byte{sealVersion}, 1<<31), 0))     // stride
	f.Add([]byte{sealVersion, 1, 2, 1, 2, 9, 0, 0, 2, 9, 0})               // the same log twice
	f.Fuzz(func(t *testing.T, meta []byte) {
		var s *segmentIndex
		var err error
		allocs.AtMost(t, slack+64*uint64(len(meta)), func() { s, err = decodeSegmentIndex(5, meta) })
		wantBadCommand(t, err)
		if err != nil {
			return
		}
		if again := encodeIndex(s); string(again) != string(meta) {
			t.Fatalf("accepted\n%x\nbut it is spelled\n%x", meta, again)
		}
		if s.size > len(meta) {
			t.Fatalf("%d refs from %d bytes", s.size, len(meta))
		}
		for log, l := range s.logs.all() {
			refs := l.refs
			for i, r := range refs {
				if i > 0 && (r.lsn <= refs[i-1].lsn || r.off <= refs[i-1].off) {
					t.Fatalf("log %d: refs fall from %v to %v", log, refs[i-1], r)
				}
			}
			if len(refs) == 0 {
				continue
			}
			if last := refs[len(refs)-1]; last.lsn >= l.end.next || last.off > limits.MaxSegmentSize {
				t.Fatalf("log %d: ref %v, the log ends before %d", log, last, l.end.next)
			}
		}
	})
}

// TestLengthsAreNotBelieved gives each decoder of a frame's content a few bytes
// that say that a lot follows.
func TestLengthsAreNotBelieved(t *testing.T) {
	for name, decode := range map[string]func(after []byte) error{
		"body of a command": func(after []byte) error {
			_, err := DecodeCommands(nil, append([]byte{byte(CommandDeleteLog)}, after...))
			return err
		},
		"name in a command": func(after []byte) error {
			_, err := DecodeCommands(nil, append([]byte{byte(CommandDeleteCheckpoint), byte(1 + len(after)), 1}, after...))
			return err
		},
		"logs of a snapshot": func(after []byte) error {
			_, _, err := decodeSnapshot(append([]byte{snapshotVersion, 1}, after...))
			return err
		},
		"log of a snapshot": func(after []byte) error {
			_, _, err := decodeSnapshot(append([]byte{snapshotVersion, 1, 1}, after...))
			return err
		},
		"lost ranges of a log": func(after []byte) error {
			one := append(appendLogState(nil, &logState{number: 1, name: "log", first: 1, next: 1}), after...)
			_, _, err := decodeSnapshot(append(append([]byte{snapshotVersion, 2, 1}, byte(len(one))), one...))
			return err
		},
		"logs of an index": func(after []byte) error {
			_, err := decodeSegmentIndex(1, append([]byte{sealVersion, 1}, after...))
			return err
		},
		"references of an index": func(after []byte) error {
			_, err := decodeSegmentIndex(1, append([]byte{sealVersion, 1, 1, 1, 9, 9, 1}, after...))
			return err
		},
	} {
		for _, n := range []uint64{limits.MaxLostRanges, 1 << 16, 1 << 20, 1 << 26} {
			allocs.AtMost(t, slack, func() {
				if err := decode(binary.AppendUvarint(nil, n)); !errors.Is(err, ErrBadCommand) {
					t.Errorf("%s: %d: %v", name, n, err)
				}
			})
		}
	}
}
