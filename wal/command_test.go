package wal

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// sampleCommands has every kind, small and as large as it gets.
func sampleCommands() []Command {
	largest := map[string]string{}
	for i := range limits.MaxLabels {
		largest[fmt.Sprintf("%02d%s", i, strings.Repeat("k", limits.MaxLabelBytes-2))] = strings.Repeat("v", limits.MaxLabelBytes)
	}
	const most = 1<<64 - 1
	return []Command{
		{Kind: CommandCreateLog, Log: 1, Name: "log"},
		{Kind: CommandCreateLog, Log: most, Name: strings.Repeat("n", limits.MaxLogNameBytes), ID: ulid.ULID{1, 15: 9}, Time: -1, Options: LogOptions{
			QuotaBytes: most, MaxRecordBytes: 1<<32 - 1, Labels: largest, ColocationKey: strings.Repeat("c", limits.MaxLabelBytes)}},
		{Kind: CommandDeleteLog, Log: 300},
		{Kind: CommandOpenProducer, Log: 3, Producer: ulid.ULID{15: 7}},
		{Kind: CommandAppend, Log: 4, Epoch: 1, First: 1, Count: 1, Place: Place{Size: 2}},
		{Kind: CommandAppend, Log: most, Epoch: most, Rewound: 1, Slot: most, Sequence: most, First: most, Count: 1<<32 - 1, RunSum: 1<<32 - 1,
			Checksum: 1<<32 - 1, Start: most, Place: Place{1<<32 - 1, 1<<32 - 1, 1<<32 - 1}},
		{Kind: CommandSetCheckpoint, Log: 5, Name: "cp", LSN: 7, Version: 2, Time: 99, RunSum: 5, Place: Place{1, 2, 3}},
		{Kind: CommandSetCheckpoint, Log: most, Name: strings.Repeat("n", limits.MaxCheckpointNameBytes), LSN: most, Version: most, Time: -1, RunSum: 1},
		{Kind: CommandDeleteCheckpoint, Log: 6, Name: "cp"},
		{Kind: CommandTruncate, Log: 7, First: 128, LiveBytes: 1 << 40},
		{Kind: CommandMoveCheckpoint, Log: 8, Name: "cp", Version: 3, Place: Place{4, 5, 6}},
		{Kind: CommandSetWriter, Log: 9, Epoch: 2, Name: "db-1", ID: ulid.ULID{15: 4}},
		{Kind: CommandSetWriter, Log: most, Epoch: most, Name: strings.Repeat("n", limits.MaxHolderNameBytes)},
		{Kind: CommandSetWriter, Log: 9, Epoch: 3},
		{Kind: CommandSetCursor, Log: 9, Name: "cursor", LSN: 3, Start: 77, Cap: 1 << 30, Time: 99},
		{Kind: CommandSetCursor, Log: most, Name: strings.Repeat("n", limits.MaxCursorNameBytes), LSN: most, Start: most, Cap: most, Time: -1, Hold: true, Reset: true},
		{Kind: CommandDeleteCursor, Log: 9, Name: "cursor"},
		{Kind: CommandEvictCursor, Log: 9, Name: strings.Repeat("n", limits.MaxCursorNameBytes), LSN: most, Start: most, Cap: most, Time: -1},
		{Kind: CommandRetireProducer, Log: 3, Producer: ulid.ULID{15: 7}},
		{Kind: CommandResolveProducer, Log: 3, Producer: ulid.ULID{15: 7}, Incarnation: 2},
		{Kind: CommandResolveProducer, Log: most, Producer: ulid.ULID{15: 7}, Incarnation: most},
		{Kind: CommandMoveRecords, Log: 4, Epoch: 1, First: 1, Count: 1, RunSum: 2, Checksum: 3, Time: 5, Place: Place{4, 5, 6}},
		{Kind: CommandMoveRecords, Log: most, Epoch: most, First: most, Count: 1<<32 - 1, RunSum: 1<<32 - 1, Checksum: 1<<32 - 1,
			Start: most, Time: -1, Place: Place{1<<32 - 1, 1<<32 - 1, 1<<32 - 1}},
		{Kind: CommandMoveRecords, Log: 4, First: 7, Count: 3},
		{Kind: CommandMoveRecords, Log: 4, Epoch: 3, Rewound: 2, First: 7, Count: 3, Place: Place{4, 5, 6}},
		{Kind: CommandSealLog, Log: 3, Epoch: 2, First: 11, Checksum: 12, Start: 13, Time: 14},
		{Kind: CommandSealLog, Log: most, Epoch: most, First: most, Checksum: 1<<32 - 1, Start: most, Time: -1},
		{Kind: CommandAppend, Log: most, Epoch: most, Slot: most, Sequence: most, First: most, Count: 1<<32 - 1, RunSum: 1<<32 - 1,
			Checksum: 1<<32 - 1, Start: most, Place: Place{1<<32 - 1, 1<<32 - 1, 1<<32 - 1}, Parts: limits.MaxBatchLogs - 1},
		{Kind: CommandAppendPart, Log: 4, Epoch: 1, Lead: 3, First: 1, Count: 1, Place: Place{Size: 2}},
		{Kind: CommandAppendPart, Log: most, Epoch: most, Lead: most, First: most, Count: 1<<32 - 1, RunSum: 1<<32 - 1,
			Checksum: 1<<32 - 1, Start: most, Place: Place{1<<32 - 1, 1<<32 - 1, 1<<32 - 1}},
		{Kind: CommandRewind, Log: 9, Epoch: 2, LSN: 7, Start: 99, Checksum: 5},
		{Kind: CommandRewind, Log: most, Epoch: most, Rewound: most, Name: strings.Repeat("n", limits.MaxHolderNameBytes), ID: ulid.ULID{15: 4},
			LSN: most, Start: most, Checksum: 1<<32 - 1},
	}
}

func TestCommandRoundTrip(t *testing.T) {
	var all []byte
	commands := sampleCommands()
	for i := range commands {
		c := &commands[i]
		one := AppendCommand(nil, c)
		all = AppendCommand(all, c)
		if c.Appends() && len(one) > maxAppendBytes {
			t.Errorf("%s takes %d bytes, admission counts on %d", c.Kind, len(one), maxAppendBytes)
		}
		if c.Kind == CommandEvictCursor && len(one) > maxEvictBytes || c.Kind != CommandCreateLog && len(one) > maxSmallCommand {
			t.Errorf("%s takes %d bytes, admission counts on fewer", c.Kind, len(one))
		}
		if len(one) > maxCommandBytes {
			t.Errorf("%s takes %d bytes, admission counts on %d", c.Kind, len(one), maxCommandBytes)
		}
		var got Command
		rest, err := DecodeCommand(one, &got)
		if err != nil || len(rest) != 0 {
			t.Fatalf("%s: %d bytes left, %v", c.Kind, len(rest), err)
		}
		if !reflect.DeepEqual(got, *c) {
			t.Fatalf("%s: got\n%+v, want\n%+v", c.Kind, got, *c)
		}
		for n := range one {
			if _, err := DecodeCommand(one[:n], &got); !errors.Is(err, ErrBadCommand) {
				t.Fatalf("%s: the first %d of %d bytes: %v", c.Kind, n, len(one), err)
			}
		}
	}
	if !bytes.HasPrefix(all, AppendCommand(nil, &commands[0])) {
		t.Fatal("appending changes what was there")
	}
	got, err := DecodeCommands(nil, all)
	if err != nil || !reflect.DeepEqual(got, commands) {
		t.Fatalf("all at once: %d commands, %v", len(got), err)
	}
	if _, err := DecodeCommands(nil, all[:len(all)-1]); !errors.Is(err, ErrBadCommand) {
		t.Fatalf("cut short: %v", err)
	}
}

func TestDecodeCommandRefuses(t *testing.T) {
	long := func(name string, limit int) string { return name + strings.Repeat("x", limit) }
	body := func(kind CommandKind, body ...byte) []byte {
		return append([]byte{byte(kind), byte(len(body))}, body...)
	}
	for name, meta := range map[string][]byte{
		"nothing":                    nil,
		"a kind alone":               {4},
		"kind 0":                     body(0, 1),
		"unknown kind":               body(99, 1),
		"body beyond the end":        {byte(CommandDeleteLog), 2, 1},
		"length not minimal":         {byte(CommandDeleteLog), 0x81, 0x00, 1},
		"number not minimal":         body(CommandDeleteLog, 0x81, 0x00),
		"number of eleven bytes":     body(CommandDeleteLog, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1),
		"bytes behind the body":      body(CommandDeleteLog, 1, 0),
		"empty body":                 body(CommandDeleteLog),
		"log name over the limit":    AppendCommand(nil, &Command{Kind: CommandCreateLog, Log: 1, Name: long("n", limits.MaxLogNameBytes)}),
		"checkpoint name too long":   AppendCommand(nil, &Command{Kind: CommandDeleteCheckpoint, Log: 1, Name: long("n", limits.MaxCheckpointNameBytes)}),
		"holder's name too long":     AppendCommand(nil, &Command{Kind: CommandSetWriter, Log: 1, Epoch: 2, Name: long("n", limits.MaxHolderNameBytes)}),
		"cursor name too long":       AppendCommand(nil, &Command{Kind: CommandDeleteCursor, Log: 1, Name: long("n", limits.MaxCursorNameBytes)}),
		"cursor's flags unknown":     body(CommandSetCursor, 1, 1, 'c', 0, 0, 1, 0, 4),
		"no parts, in so many words": body(CommandAppend, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0),
		"too many parts":             body(CommandAppend, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, limits.MaxBatchLogs),
		"rewound before epoch 0":     body(CommandAppend, 1, 1, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2),
		"cursor without its flags":   body(CommandSetCursor, 1, 1, 'c', 0, 0, 1, 0),
		"colocation key too long":    AppendCommand(nil, &Command{Kind: CommandCreateLog, Log: 1, Options: LogOptions{ColocationKey: long("c", limits.MaxLabelBytes)}}),
		"label over the limit":       AppendCommand(nil, &Command{Kind: CommandCreateLog, Log: 1, Options: LogOptions{Labels: map[string]string{"k": long("v", limits.MaxLabelBytes)}}}),
		"labels twice":               body(CommandCreateLog, append(append([]byte{1}, make([]byte, 16)...), 0, 0, 0, 0, 0, 2, 1, 'k', 0, 1, 'k', 0)...),
		"labels out of order":        body(CommandCreateLog, append(append([]byte{1}, make([]byte, 16)...), 0, 0, 0, 0, 0, 2, 1, 'l', 0, 1, 'k', 0)...),
		"more labels than there is":  body(CommandCreateLog, append(append([]byte{1}, make([]byte, 16)...), 0, 0, 0, 0, 0, 17)...),
	} {
		var c Command
		if _, err := DecodeCommand(meta, &c); !errors.Is(err, ErrBadCommand) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCommandKindNames(t *testing.T) {
	seen := map[string]bool{}
	for k := CommandCreateLog; k <= CommandSealLog; k++ {
		if name := k.String(); seen[name] || strings.Contains(name, "(") {
			t.Errorf("kind %d is called %q", uint8(k), name)
		} else {
			seen[name] = true
		}
	}
	if got := CommandKind(77).String(); got != "command(77)" {
		t.Errorf("an unknown kind is called %q", got)
	}
}

// TestFrameTakesAsManyCommandsAsAreRead reads the most commands that a frame
// may have, and one more; the bus closes a frame that has so many.
func TestFrameTakesAsManyCommandsAsAreRead(t *testing.T) {
	var meta []byte
	for range limits.MaxCommandsPerFrame {
		meta = AppendCommand(meta, &Command{Kind: CommandDeleteLog, Log: 1})
	}
	before := make([]Command, 3)
	if got, err := DecodeCommands(before, meta); err != nil || len(got) != len(before)+limits.MaxCommandsPerFrame {
		t.Fatalf("%d commands, %v", len(got), err)
	}
	meta = AppendCommand(meta, &Command{Kind: CommandDeleteLog, Log: 1})
	if _, err := DecodeCommands(before, meta); !errors.Is(err, ErrBadCommand) {
		t.Fatalf("one more: %v", err)
	}
}
