package wal

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// TestAuditorOverGaps tells the auditor of segments that went from the middle of the
// journal around the places that it had met: what the log gave up is no hole, what it
// keeps is one.
func TestAuditorOverGaps(t *testing.T) {
	copies := segment.Pos{Segment: 6, Offset: 8192}
	for _, gap := range []segment.Gap{{From: 6, To: 6}, {From: 5, To: 6}, {From: 6, To: 7}, {From: 5, To: 7}, {From: 4, To: 9}} {
		for _, first := range []LSN{20, 5} {
			t.Run(fmt.Sprintf("%s, from %d", gap, first), func(t *testing.T) {
				a := newAuditor(&knownLogs{
					state: NewState(), first: map[uint64]LSN{8: 1}, moved: map[uint64]movedPlace{8: {end: 6, pos: copies}}, newest: 20,
				})
				frame := func(id segment.ID, commands ...Command) {
					var meta []byte
					for i := range commands {
						meta = AppendCommand(meta, &commands[i])
					}
					f := &segment.Frame{
						Pos:    segment.Pos{Segment: id, Offset: limits.SegmentHeaderSize},
						Header: segment.Header{Kind: segment.KindCommands}, Meta: bytes.Clone(meta),
					}
					if err := a.frame(f, nil); err != nil {
						t.Fatal(err)
					}
				}
				frame(5, Command{Kind: CommandCreateLog, Log: 7, Name: "orders"}, Command{Kind: CommandAppend, Log: 7, First: 1, Count: 3})
				frame(7, Command{Kind: CommandAppend, Log: 7, First: 6, Count: 15})
				var r Recovery
				logs := &knownLogs{
					names: map[uint64]string{}, first: map[uint64]LSN{7: first, 8: first}, next: map[uint64]LSN{7: 21, 8: 21},
					state: NewState(), whole: true,
				}
				walked := &replay.Recovery{Tail: replay.CaseClean}
				a.explain(&r, walked, logs, 3, []segment.Gap{gap})
				sumUp(&r, walked, false)
				if damaged := r.Verdict == "damaged"; damaged != (first == 5) {
					t.Errorf("found %s", spell(r))
				}
			})
		}
	}
}
