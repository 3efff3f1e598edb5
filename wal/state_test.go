package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// applyAll applies commands in order.
func applyAll(s *State, commands []Command) (*State, error) {
	for i := range commands {
		if err := s.Apply(&commands[i]); err != nil {
			return s, fmt.Errorf("command %d: %w", i, err)
		}
	}
	return s, nil
}

// sampleHistory has every kind of command.
func sampleHistory() []Command {
	h := []Command{
		{Kind: CommandCreateLog, Log: 1, ID: ulid.ULID{1}, Name: "a", Time: 11, Options: LogOptions{
			QuotaBytes: 1 << 40, MaxRecordBytes: 77, Labels: map[string]string{"k": "v", "empty": ""}, ColocationKey: "with"}},
		{Kind: CommandCreateLog, Log: 2, ID: ulid.ULID{2}, Name: "b", Time: 12},
		{Kind: CommandCreateLog, Log: 3, ID: ulid.ULID{3}, Name: "c", Time: 13},
		{Kind: CommandOpenProducer, Log: 1, Producer: producerID(1)},
		{Kind: CommandOpenProducer, Log: 1, Producer: producerID(2)},
		{Kind: CommandAppend, Log: 2, Epoch: 1, First: 1, Count: 4, RunSum: 1, Checksum: 2, Place: Place{Size: 40}},
		{Kind: CommandSetCheckpoint, Log: 2, Name: "cp", LSN: 2, Version: 1, Time: 14, RunSum: 3, Place: Place{Block: 1, Size: 9}},
		{Kind: CommandSetCheckpoint, Log: 2, Name: "another", LSN: 0, Version: 1, Time: 14},
		{Kind: CommandSetCheckpoint, Log: 2, Name: "gone", LSN: 1, Version: 1, Time: 14},
		{Kind: CommandMoveCheckpoint, Log: 2, Name: "cp", Version: 1, Place: Place{Block: 2, Offset: 5, Size: 9}},
		{Kind: CommandDeleteCheckpoint, Log: 2, Name: "gone"},
		{Kind: CommandSetCursor, Log: 2, Name: "tail", LSN: 3, Start: 30, Cap: 1 << 20, Time: 15},
		{Kind: CommandSetCursor, Log: 2, Name: "slow", LSN: 1, Start: 10, Cap: 9, Time: 15},
		{Kind: CommandSetCursor, Log: 2, Name: "held", LSN: 2, Start: 20, Cap: 9, Time: 15, Hold: true},
		{Kind: CommandSetCursor, Log: 2, Name: "gone", LSN: 4, Start: 40, Cap: 9, Time: 15},
		{Kind: CommandSetCursor, Log: 2, Name: "gone", LSN: 3, Start: 30, Cap: 9, Time: 16, Reset: true},
		{Kind: CommandDeleteCursor, Log: 2, Name: "gone"},
		{Kind: CommandEvictCursor, Log: 2, Name: "slow", LSN: 1, Start: 10, Cap: 9, Time: 17},
		{Kind: CommandTruncate, Log: 2, First: 3, LiveBytes: 20},
		{Kind: CommandDeleteLog, Log: 3},
		{Kind: CommandSetWriter, Log: 2, Epoch: 2, Name: "db-1", ID: ulid.ULID{15: 1}},
		{Kind: CommandCreateLog, Log: 4, ID: ulid.ULID{4}, Name: "released", Time: 15},
		{Kind: CommandSetWriter, Log: 4, Epoch: 2, Name: "db-1"},
		{Kind: CommandSetWriter, Log: 4, Epoch: 3},
		{Kind: CommandOpenProducer, Log: 4, Producer: producerID(1)},
		{Kind: CommandAppend, Log: 4, Epoch: 3, First: 1, Count: 2, Checksum: 9, Place: Place{Size: 20}},
		{Kind: CommandMoveRecords, Log: 4, Epoch: 3, First: 1, Count: 2, RunSum: 3, Checksum: 9, Time: 17, Place: Place{Block: 1, Offset: 2, Size: 20}},
		{Kind: CommandSealLog, Log: 4, Epoch: 3, First: 3, Checksum: 9, Start: 20, Time: 18},
		{Kind: CommandSetCheckpoint, Log: 4, Name: "cp", LSN: 1, Version: 1, Time: 19},
		{Kind: CommandResolveProducer, Log: 1, Producer: producerID(1), Incarnation: 2},
		{Kind: CommandRetireProducer, Log: 1, Producer: producerID(1)},
	}
	start, next := uint64(0), LSN(1)
	for q := uint64(1); q <= limits.ProducerWindow+10; q++ {
		h = append(h, Command{Kind: CommandAppend, Log: 1, Epoch: 1, Slot: 2, Sequence: q, First: next, Count: uint32(q), RunSum: uint32(q), Checksum: Checksum(q), Start: start, Place: Place{Size: 10}})
		start, next = start+10, next+LSN(q)
	}
	// Batches over several logs: of the producer, and of nobody.
	h = append(h,
		Command{Kind: CommandCreateLog, Log: 5, ID: ulid.ULID{5}, Name: "part", Options: LogOptions{ColocationKey: "with"}},
		Command{Kind: CommandCreateLog, Log: 6, ID: ulid.ULID{6}, Name: "parted", Options: LogOptions{ColocationKey: "with"}})
	for i := range uint64(3) {
		lead := Command{Kind: CommandAppend, Log: 1, Epoch: 1, First: next, Count: 1, Checksum: Checksum(i), Start: start, Place: Place{Size: 10}, Parts: 2}
		if i < 2 {
			lead.Slot, lead.Sequence = 2, limits.ProducerWindow+11+i
		}
		start, next = start+10, next+1
		h = append(h, lead,
			Command{Kind: CommandAppendPart, Log: 6, Lead: 1, Epoch: 1, First: LSN(1 + i), Count: 1, RunSum: 7, Checksum: Checksum(i), Start: 9 * i, Place: Place{Size: 9}},
			Command{Kind: CommandAppendPart, Log: 5, Lead: 1, Epoch: 1, First: LSN(1 + 2*i), Count: 2, Checksum: Checksum(i), Start: 9 * i, Place: Place{Size: 9}})
	}
	return append(h, []Command{
		{Kind: CommandCreateLog, Log: 7, ID: ulid.ULID{7}, Name: "rewound", Time: 20},
		{Kind: CommandOpenProducer, Log: 7, Producer: producerID(1)},
		{Kind: CommandAppend, Log: 7, Epoch: 1, Slot: 1, Sequence: 1, First: 1, Count: 3, Checksum: 4, Place: Place{Size: 30}},
		{Kind: CommandAppend, Log: 7, Epoch: 1, Slot: 1, Sequence: 2, First: 4, Count: 3, Checksum: 5, Start: 30, Place: Place{Size: 30}},
		{Kind: CommandSetCheckpoint, Log: 7, Name: "cp", LSN: 2, Version: 1, Time: 20},
		{Kind: CommandSetCursor, Log: 7, Name: "beyond", LSN: 5, Start: 50, Cap: 1 << 20, Time: 20},
		{Kind: CommandRewind, Log: 7, Epoch: 2, LSN: 4, Start: 40, Checksum: 6, Name: "db-2", ID: ulid.ULID{15: 3}},
		{Kind: CommandAppend, Log: 7, Epoch: 2, Rewound: 2, First: 5, Count: 1, Checksum: 7, Start: 40, Place: Place{Size: 10}},
		{Kind: CommandTruncate, Log: 7, First: 2, LiveBytes: 40},
	}...)
}

// TestApplyDisagrees checks that a command which does not follow is refused and
// changes nothing.
func TestApplyDisagrees(t *testing.T) {
	s, err := applyAll(NewState(), sampleHistory())
	if err != nil {
		t.Fatal(err)
	}
	most := []Command{{Kind: CommandCreateLog, Log: 8, Name: "most"}}
	for i := range limits.MaxCheckpointsPerLog {
		most = append(most, Command{Kind: CommandSetCheckpoint, Log: 8, Name: fmt.Sprint("cp-", i), Version: 1})
	}
	for i := range limits.MaxCursorsPerLog {
		most = append(most, Command{Kind: CommandSetCursor, Log: 8, Name: fmt.Sprint("cursor-", i), Cap: 1})
	}
	if s, err = applyAll(s, most); err != nil {
		t.Fatal(err)
	}
	before, _, err := decodeSnapshot(encodeSnapshot(s, places{}))
	if err != nil {
		t.Fatal(err)
	}
	l := s.logs.get(1)
	good := Command{Kind: CommandAppend, Log: 1, Epoch: 1, First: l.next, Count: 1, Start: l.totalBytes, Place: Place{Size: 1}}
	with := func(change func(c *Command)) Command {
		c := good
		change(&c)
		return c
	}
	for name, c := range map[string]Command{
		"unknown kind":                     {Kind: 99, Log: 1},
		"no such log":                      {Kind: CommandDeleteLog, Log: 3},
		"create: number skipped":           {Kind: CommandCreateLog, Log: 10, Name: "x"},
		"create: number used":              {Kind: CommandCreateLog, Log: 3, Name: "x"},
		"create: name taken":               {Kind: CommandCreateLog, Log: 9, Name: "a"},
		"producer is open":                 {Kind: CommandOpenProducer, Log: 1, Producer: producerID(1)},
		"retire: not open":                 {Kind: CommandRetireProducer, Log: 1, Producer: producerID(3)},
		"retire: retired":                  {Kind: CommandRetireProducer, Log: 1, Producer: producerID(1)},
		"resolve: not open":                {Kind: CommandResolveProducer, Log: 1, Producer: producerID(3), Incarnation: 1},
		"resolve: skipped":                 {Kind: CommandResolveProducer, Log: 1, Producer: producerID(2), Incarnation: 3},
		"append: retired":                  with(func(c *Command) { c.Slot, c.Sequence = 1, 1 }),
		"append: no log":                   with(func(c *Command) { c.Log = 9 }),
		"append: gap":                      with(func(c *Command) { c.First++ }),
		"append: overlap":                  with(func(c *Command) { c.First-- }),
		"append: epoch":                    with(func(c *Command) { c.Epoch = 2 }),
		"append: empty":                    with(func(c *Command) { c.Count = 0 }),
		"append: bytes before it":          with(func(c *Command) { c.Start++ }),
		"append: no such slot":             with(func(c *Command) { c.Slot, c.Sequence = 3, 1 }),
		"append: sequence skipped":         with(func(c *Command) { c.Slot, c.Sequence = 2, limits.ProducerWindow+14 }),
		"append: sequence repeated":        with(func(c *Command) { c.Slot, c.Sequence = 2, limits.ProducerWindow+12 }),
		"part: nothing is awaited":         {Kind: CommandAppendPart, Log: 5, Lead: 1, Epoch: 1, First: 7, Count: 1, Start: 27, Place: Place{Size: 1}},
		"checkpoint: version":              {Kind: CommandSetCheckpoint, Log: 2, Name: "cp", LSN: 3, Version: 1},
		"checkpoint: backwards":            {Kind: CommandSetCheckpoint, Log: 2, Name: "cp", LSN: 1, Version: 2},
		"checkpoint: beyond the end":       {Kind: CommandSetCheckpoint, Log: 2, Name: "cp", LSN: 5, Version: 2},
		"checkpoint: deleted twice":        {Kind: CommandDeleteCheckpoint, Log: 2, Name: "gone"},
		"truncate: backwards":              {Kind: CommandTruncate, Log: 2, First: 2, LiveBytes: 20},
		"truncate: beyond the end":         {Kind: CommandTruncate, Log: 2, First: 6},
		"truncate: nothing left, of bytes": {Kind: CommandTruncate, Log: 2, First: 5, LiveBytes: 1},
		"truncate: to more bytes":          {Kind: CommandTruncate, Log: 2, First: 4, LiveBytes: 21},
		"truncate: what a cursor holds":    {Kind: CommandTruncate, Log: 2, First: 4, LiveBytes: 10},
		"checkpoint: one too many":         {Kind: CommandSetCheckpoint, Log: 8, Name: "more", Version: 1},
		"cursor: beyond the end":           {Kind: CommandSetCursor, Log: 2, Name: "tail", LSN: 5, Start: 40, Cap: 1},
		"cursor: below what is kept":       {Kind: CommandSetCursor, Log: 2, Name: "new", LSN: 1, Start: 10, Cap: 1},
		"cursor: beyond the bytes":         {Kind: CommandSetCursor, Log: 2, Name: "tail", LSN: 4, Start: 41, Cap: 1},
		"cursor: without a cap":            {Kind: CommandSetCursor, Log: 2, Name: "tail", LSN: 4, Start: 40},
		"cursor: cap over the limit":       {Kind: CommandSetCursor, Log: 2, Name: "tail", LSN: 4, Start: 40, Cap: limits.MaxCursorCap + 1},
		"cursor: backwards":                {Kind: CommandSetCursor, Log: 2, Name: "tail", LSN: 2, Start: 20, Cap: 1},
		"cursor: it is lost":               {Kind: CommandSetCursor, Log: 2, Name: "slow", LSN: 4, Start: 40, Cap: 1},
		"cursor: one too many":             {Kind: CommandSetCursor, Log: 8, Name: "more", Cap: 1},
		"delete cursor: there is none":     {Kind: CommandDeleteCursor, Log: 2, Name: "gone"},
		"evict: there is none":             {Kind: CommandEvictCursor, Log: 2, Name: "gone", LSN: 3, Start: 30, Cap: 9, Time: 1},
		"evict: not over its cap":          {Kind: CommandEvictCursor, Log: 2, Name: "tail", LSN: 3, Start: 30, Cap: 1 << 20, Time: 1},
		"evict: it may hold":               {Kind: CommandEvictCursor, Log: 2, Name: "held", LSN: 2, Start: 20, Cap: 9, Time: 1},
		"evict: twice":                     {Kind: CommandEvictCursor, Log: 2, Name: "slow", LSN: 1, Start: 10, Cap: 9, Time: 1},
		"move: no records":                 {Kind: CommandMoveRecords, Log: 4, Epoch: 3, First: 1},
		"move: before the first":           {Kind: CommandMoveRecords, Log: 4, Epoch: 3, Count: 1},
		"move: beyond the end":             {Kind: CommandMoveRecords, Log: 4, Epoch: 3, First: 2, Count: 2},
		"move: around the end":             {Kind: CommandMoveRecords, Log: 4, Epoch: 3, First: 1<<64 - 1, Count: 3},
		"move: given up":                   {Kind: CommandMoveRecords, Log: 2, Epoch: 1, First: 1, Count: 1},
		"move: behind another rewind":      {Kind: CommandMoveRecords, Log: 4, Epoch: 3, Rewound: 2, First: 1, Count: 2},
		"move: of an epoch to come":        {Kind: CommandMoveRecords, Log: 4, Epoch: 4, First: 1, Count: 2},
		"move checkpoint: other version":   {Kind: CommandMoveCheckpoint, Log: 2, Name: "cp", Version: 2, Place: Place{Size: 9}},
		"move checkpoint: other size":      {Kind: CommandMoveCheckpoint, Log: 2, Name: "cp", Version: 1, Place: Place{Size: 8}},
		"move checkpoint: there is none":   {Kind: CommandMoveCheckpoint, Log: 2, Name: "gone", Version: 1},
		"writer: epoch repeated":           {Kind: CommandSetWriter, Log: 2, Epoch: 2, Name: "db-2"},
		"writer: epoch skipped":            {Kind: CommandSetWriter, Log: 2, Epoch: 4, Name: "db-2"},
		"writer: nobody's request":         {Kind: CommandSetWriter, Log: 2, Epoch: 3, ID: ulid.ULID{15: 2}},
		"seal: epoch":                      {Kind: CommandSealLog, Log: 2, Epoch: 1, First: 5, Checksum: 2, Start: 40, Time: 1},
		"seal: not at the end":             {Kind: CommandSealLog, Log: 2, Epoch: 2, First: 4, Checksum: 2, Start: 40, Time: 1},
		"seal: another checksum":           {Kind: CommandSealLog, Log: 2, Epoch: 2, First: 5, Checksum: 3, Start: 40, Time: 1},
		"seal: bytes before it":            {Kind: CommandSealLog, Log: 2, Epoch: 2, First: 5, Checksum: 2, Start: 41, Time: 1},
		"seal: at no time":                 {Kind: CommandSealLog, Log: 2, Epoch: 2, First: 5, Checksum: 2, Start: 40},
		"seal: twice":                      {Kind: CommandSealLog, Log: 4, Epoch: 3, First: 3, Checksum: 9, Start: 20, Time: 1},
		"sealed: append":                   {Kind: CommandAppend, Log: 4, Epoch: 3, First: 3, Count: 1, Start: 20, Place: Place{Size: 1}},
		"rewind: epoch repeated":           {Kind: CommandRewind, Log: 7, Epoch: 2, Rewound: 2, LSN: 4, Start: 40},
		"rewind: epoch skipped":            {Kind: CommandRewind, Log: 7, Epoch: 4, Rewound: 2, LSN: 4, Start: 40},
		"rewind: another rewind before":    {Kind: CommandRewind, Log: 7, Epoch: 3, LSN: 4, Start: 40},
		"rewind: beyond the end":           {Kind: CommandRewind, Log: 7, Epoch: 3, Rewound: 2, LSN: 6, Start: 50},
		"rewind: beyond the bytes":         {Kind: CommandRewind, Log: 7, Epoch: 3, Rewound: 2, LSN: 4, Start: 51},
		"rewind: below what is kept":       {Kind: CommandRewind, Log: 7, Epoch: 3, Rewound: 2, LSN: 0},
		"rewind: below a checkpoint":       {Kind: CommandRewind, Log: 7, Epoch: 3, Rewound: 2, LSN: 1, Start: 10},
		"rewind: to its end, elsewhere":    {Kind: CommandRewind, Log: 7, Epoch: 3, Rewound: 2, LSN: 5, Start: 49, Checksum: 7},
		"rewind: to its end, else":         {Kind: CommandRewind, Log: 7, Epoch: 3, Rewound: 2, LSN: 5, Start: 50, Checksum: 8},
		"sealed: rewind":                   {Kind: CommandRewind, Log: 4, Epoch: 4, LSN: 1, Start: 10},
		"rewound: append before it":        {Kind: CommandAppend, Log: 7, Epoch: 2, First: 6, Count: 1, Start: 50, Place: Place{Size: 10}},
		"cursor: it was rewound":           {Kind: CommandSetCursor, Log: 7, Name: "beyond", LSN: 5, Start: 50, Cap: 1},
		"sealed: writer":                   {Kind: CommandSetWriter, Log: 4, Epoch: 4, Name: "db-1"},
		"sealed: release":                  {Kind: CommandSetWriter, Log: 4, Epoch: 4},
		"sealed: new producer":             {Kind: CommandOpenProducer, Log: 4, Producer: producerID(2)},
		"delete checkpoint: there is none": {Kind: CommandDeleteCheckpoint, Log: 1, Name: "cp"},
	} {
		if err := s.Apply(&c); !errors.Is(err, errDisagree) {
			t.Errorf("%s: %v", name, err)
		}
		if s.Hash() != before.Hash() || s.next != before.next {
			t.Fatalf("%s: the state has changed", name)
		}
	}
	if err := s.Apply(&good); err != nil {
		t.Fatal(err)
	}
}

// TestApplyParts checks that a batch over several logs is applied with all its
// parts or not at all, and that a part which does not belong to it is refused.
func TestApplyParts(t *testing.T) {
	s, err := applyAll(NewState(), append(sampleHistory(),
		Command{Kind: CommandCreateLog, Log: 8, Name: "elsewhere", Options: LogOptions{ColocationKey: "without"}}))
	if err != nil {
		t.Fatal(err)
	}
	l := s.logs.get(1)
	sequence := l.producers[1].last + 1
	lead := Command{Kind: CommandAppend, Log: 1, Epoch: 1, Slot: 2, Sequence: sequence, First: l.next, Count: 1, Start: l.totalBytes, Place: Place{Size: 1}, Parts: 2}
	part := func(log uint64) Command {
		l := s.logs.get(log)
		return Command{Kind: CommandAppendPart, Log: log, Lead: 1, Epoch: l.epoch, First: l.next, Count: 1, RunSum: uint32(log), Start: l.totalBytes, Place: Place{Size: 1}}
	}
	first, second := part(6), part(5)
	if err := s.Apply(&lead); err != nil {
		t.Fatal(err)
	}
	disagrees := func(name string, c Command) {
		t.Helper()
		before := s.Hash()
		if err := s.Apply(&c); !errors.Is(err, errDisagree) || s.Hash() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := part(6)
	other.Lead = 2
	gap := part(6)
	gap.First++
	disagrees("a part of another lead", other)
	disagrees("a part that leaves a hole", gap)
	disagrees("the lead itself", part(1))
	disagrees("a log that has another colocation key", part(7))
	disagrees("a log that has none", part(2))
	disagrees("something else in between", Command{Kind: CommandDeleteLog, Log: 5})
	disagrees("the next batch", Command{Kind: CommandAppend, Log: 5, Epoch: 1, First: s.logs.get(5).next, Count: 1, Start: s.logs.get(5).totalBytes})
	if err := s.whole(); !errors.Is(err, errDisagree) {
		t.Errorf("the frame ends before the parts: %v", err)
	}
	if err := s.Apply(&first); err != nil {
		t.Fatal(err)
	}
	disagrees("a log that the batch has", part(6))
	if err := s.Apply(&second); err != nil {
		t.Fatal(err)
	}
	disagrees("one part more than the lead says", part(6))
	if err := s.whole(); err != nil {
		t.Error(err)
	}
	want := []partState{
		{sequence: sequence, log: 6, first: first.First, epoch: 1, count: 1, runSum: 6},
		{sequence: sequence, log: 5, first: second.First, epoch: 1, count: 1, runSum: 5},
	}
	p := s.logs.get(1).producers[1]
	if got := p.partsOf(sequence); !slices.Equal(got, want) {
		t.Errorf("the producer remembers %+v, want %+v", got, want)
	}
	// They are forgotten with their batch.
	for range limits.ProducerWindow {
		if len(p.partsOf(sequence)) != 2 {
			t.Fatalf("forgotten before the batch, which has sequence %d of %d", sequence, p.last)
		}
		p.remember(batchState{sequence: p.last + 1, first: 1})
	}
	if len(p.parts) != 0 {
		t.Errorf("%d parts are left of no batch", len(p.parts))
	}
}

// TestProducerWindow checks that exactly the last ProducerWindow batches are
// remembered, also when the ring has gone round.
func TestProducerWindow(t *testing.T) {
	var p producerState
	for q := uint64(1); q <= 3*limits.ProducerWindow; q++ {
		p.remember(batchState{sequence: q, first: LSN(10 * q)})
		for back := range uint64(2 * limits.ProducerWindow) {
			if back >= q {
				break
			}
			b, ok := p.recall(q - back)
			if want := back < limits.ProducerWindow; ok != want || ok && b.first != LSN(10*(q-back)) {
				t.Fatalf("after %d: batch %d is remembered as %+v, %t; want %t", q, q-back, b, ok, want)
			}
		}
		if _, ok := p.recall(q + 1); ok {
			t.Fatalf("after %d the next one is remembered", q)
		}
	}
}

// randomCommand makes a command that follows from s.
func randomCommand(rng *rand.Rand, s *State, step int) Command {
	var numbers []uint64
	open := 0 // logs that are not sealed
	for _, l := range s.freeze() {
		if s.awaited.left > 0 && l.sealed == 0 && !slices.Contains(s.awaited.logs, l.number) {
			return Command{Kind: CommandAppendPart, Log: l.number, Lead: s.awaited.lead, Epoch: l.epoch, Rewound: l.rewound(), First: l.next, Count: 1 + uint32(rng.IntN(5)),
				Start: l.totalBytes, RunSum: rng.Uint32(), Checksum: Checksum(rng.Uint32()), Place: Place{Size: uint32(rng.IntN(100))}}
		}
		if l.sealed == 0 {
			open++
		}
		numbers = append(numbers, l.number)
	}
	if len(numbers) == 0 || rng.IntN(15) == 0 {
		return Command{Kind: CommandCreateLog, Log: s.next, Name: fmt.Sprintf("log-%d", step), ID: ulid.ULID{byte(step)}, Time: int64(step),
			Options: LogOptions{ColocationKey: "random"}}
	}
	l := s.logs.get(numbers[rng.IntN(len(numbers))])
	c := Command{Log: l.number}
	var p *producerState
	if n := len(l.producers); n > 0 {
		p = l.producers[rng.IntN(n)]
	}
	if l.sealed != 0 { // of what follows, little does
		c.Kind = CommandDeleteLog
		return c
	}
	switch rng.IntN(19) {
	case 17:
		c.Kind, c.Epoch, c.First, c.Checksum, c.Start, c.Time = CommandSealLog, l.epoch, l.next, l.checksum, l.totalBytes, int64(step+1)
	case 16:
		if p == nil || p.retired {
			c.Kind, c.Producer = CommandOpenProducer, ulid.ULID{byte(step), byte(step >> 8), 1}
			break
		}
		c.Kind, c.Producer = CommandRetireProducer, p.id
	case 15:
		if p == nil {
			c.Kind, c.Producer = CommandOpenProducer, ulid.ULID{byte(step), byte(step >> 8), 1}
			break
		}
		c.Kind, c.Producer, c.Incarnation = CommandResolveProducer, p.id, p.incarnation+1
	case 14:
		c.Kind, c.Epoch = CommandSetWriter, l.epoch+1
		if l.holder == "" || rng.IntN(2) == 0 {
			c.Name, c.ID = fmt.Sprintf("holder-%d", step), ulid.ULID{byte(step), 9}
		}
	case 18:
		keep := l.first - 1
		for i := range l.checkpoints {
			keep = max(keep, l.checkpoints[i].lsn)
		}
		c.Kind, c.Epoch, c.Rewound, c.LSN, c.Start, c.Checksum = CommandRewind, l.epoch+1, l.rewound(), l.next-1, l.totalBytes, l.checksum
		if n := len(l.cursors); n > 0 { // where one is, it is known how many bytes came before
			if at := l.cursors[rng.IntN(n)]; at.lsn >= keep && at.lsn < c.LSN {
				c.LSN, c.Start = at.lsn, at.start
			}
		}
		if !l.room(c.LSN) {
			c = Command{Kind: CommandDeleteLog, Log: l.number}
		}
	case 0:
		c.Kind, c.Producer = CommandOpenProducer, ulid.ULID{byte(step), byte(step >> 8), 1}
	case 1:
		c.Kind, c.First = CommandTruncate, l.first+LSN(rng.IntN(int(l.next-l.first)+1))
		for _, cur := range l.cursors {
			if cur.holds() {
				c.First = min(c.First, cur.lsn+1)
			}
		}
		if c.First < l.next {
			c.LiveBytes = uint64(rng.Int64N(int64(l.liveBytes) + 1))
		}
	case 2, 3:
		c.Kind, c.Name, c.LSN = CommandSetCheckpoint, string(rune('a'+rng.IntN(4))), l.next-1
		c.Version, c.Size, c.RunSum, c.Time = l.nextVersion(l.findCheckpoint(c.Name)), uint32(rng.IntN(9)), uint32(step), int64(step)
	case 4:
		if len(l.checkpoints) > 0 {
			c.Kind, c.Name = CommandDeleteCheckpoint, l.checkpoints[rng.IntN(len(l.checkpoints))].name
			break
		}
		fallthrough
	case 5:
		if rng.IntN(4) == 0 {
			c.Kind = CommandDeleteLog
			break
		}
		fallthrough
	case 12:
		c.Kind, c.Name, c.LSN, c.Start = CommandSetCursor, string(rune('a'+rng.IntN(4))), l.next-1, l.totalBytes
		c.Cap, c.Hold, c.Reset, c.Time = 1+uint64(rng.IntN(200)), rng.IntN(4) == 0, true, int64(step)
	case 13:
		if n := len(l.cursors); n > 0 {
			cur := l.cursors[rng.IntN(n)]
			c.Kind, c.Name = CommandDeleteCursor, cur.name
			if cur.over(l.totalBytes) {
				c.Kind, c.LSN, c.Start, c.Cap, c.Time = CommandEvictCursor, cur.lsn, cur.start, cur.cap, 1+int64(step)
			}
			break
		}
		fallthrough
	default:
		c.Kind, c.Epoch, c.Rewound, c.First, c.Count, c.Start = CommandAppend, l.epoch, l.rewound(), l.next, 1+uint32(rng.IntN(5)), l.totalBytes
		c.Size, c.RunSum, c.Checksum = uint32(rng.IntN(100)), rng.Uint32(), Checksum(rng.Uint32())
		if p != nil && !p.retired && rng.IntN(2) == 0 {
			c.Slot, c.Sequence = l.slot(p.id), p.last+1
		}
		if rng.IntN(2) == 0 {
			c.Parts = uint32(rng.IntN(min(open, 4)))
		}
	}
	return c
}

// TestStateSharing takes frozen copies and clones at random while commands are
// applied to the original and to the clones, and compares each with a deep copy
// made at the same time.
func TestStateSharing(t *testing.T) {
	spell := func(logs []*logState) string {
		var b []byte
		for _, l := range logs {
			b = appendLogState(b, l)
		}
		return string(b)
	}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		type frozen struct {
			logs []*logState
			deep string
		}
		type twin struct{ state, deep *State } // deep shares nothing with anything
		var copies []frozen
		deepCopy := func(s *State) *State {
			d, _, err := decodeSnapshot(encodeSnapshot(s, places{}))
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		first := NewState()
		twins := []twin{{first, deepCopy(first)}}
		for step := range 400 {
			w := twins[rng.IntN(len(twins))]
			c := randomCommand(rng, w.deep, step)
			for _, s := range []*State{w.state, w.deep} {
				if err := s.Apply(&c); err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, step, err)
				}
			}
			switch {
			case w.state.whole() != nil: // nobody looks within a frame
			case rng.IntN(20) == 0:
				logs := w.state.freeze()
				copies = append(copies, frozen{logs, strings.Clone(spell(logs))})
			case rng.IntN(40) == 0 && len(twins) < 6:
				twins = append(twins, twin{w.state.Clone(), deepCopy(w.deep)})
			}
		}
		for i, w := range twins {
			if w.state.Hash() != w.deep.Hash() || w.state.next != w.deep.next {
				t.Fatalf("seed %d: clone %d has changed with another one", seed, i)
			}
			for name, number := range w.state.names {
				if l := w.state.logs.get(number); l == nil || l.number != number || l.name != name || len(w.state.names) != w.state.logs.len() {
					t.Fatalf("seed %d: clone %d: name %q leads to another log than its number", seed, i, name)
				}
			}
		}
		for i, f := range copies {
			if spell(f.logs) != f.deep {
				t.Fatalf("seed %d: frozen copy %d has changed", seed, i)
			}
		}
	}
}

// TestHash checks that the hash depends on everything in the state and on
// nothing else.
func TestHash(t *testing.T) {
	h := sampleHistory()
	a, err := applyAll(NewState(), h)
	if err != nil {
		t.Fatal(err)
	}
	b, err := applyAll(NewState(), h)
	if err != nil {
		t.Fatal(err)
	}
	if a.Hash() != b.Hash() || a.Hash() != a.Clone().Hash() {
		t.Fatal("the same commands have other hashes")
	}
	seen := map[uint64]int{}
	s := NewState()
	for i := range h {
		if err := s.Apply(&h[i]); err != nil {
			t.Fatal(err)
		}
		switch h[i].Kind {
		case CommandMoveCheckpoint, CommandMoveRecords: // changes the index, not the state
			continue
		case CommandDeleteCheckpoint, CommandDeleteCursor: // leaves what was there before it was set
			continue
		}
		if was, ok := seen[s.Hash()]; ok {
			t.Fatalf("%s (command %d) leaves the hash as command %d did", h[i].Kind, i, was)
		}
		seen[s.Hash()] = i
	}
	// A log that came and went leaves nothing behind but its number.
	was := s.Hash()
	s, err = applyAll(s, []Command{{Kind: CommandCreateLog, Log: s.next, Name: "brief"}, {Kind: CommandDeleteLog, Log: s.next}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Hash() == was {
		t.Error("the hash does not depend on the number of the next log")
	}
}

func TestKeep(t *testing.T) {
	for _, test := range []struct {
		name        string
		first       LSN
		checkpoints []LSN
		cursors     []cursorState
		want        LSN
	}{
		{"no checkpoint keeps everything", 5, nil, nil, 5},
		{"one", 1, []LSN{9}, nil, 10},
		{"the lowest counts", 1, []LSN{9, 3, 7}, nil, 4},
		{"at zero", 1, []LSN{9, 0}, nil, 1},
		{"below what is kept", 8, []LSN{3}, nil, 8},
		{"a cursor alone", 1, nil, []cursorState{{lsn: 4}, {lsn: 6}}, 5},
		{"a cursor below a checkpoint", 1, []LSN{9}, []cursorState{{lsn: 4}}, 5},
		{"a cursor above a checkpoint", 1, []LSN{3}, []cursorState{{lsn: 4}}, 4},
		{"a lost one holds nothing", 1, []LSN{9}, []cursorState{{lsn: 4, evicted: 1}}, 10},
		{"and lets nothing go", 2, nil, []cursorState{{lsn: 4, evicted: 1}}, 2},
	} {
		l := logState{first: test.first, cursors: test.cursors}
		for _, lsn := range test.checkpoints {
			l.checkpoints = append(l.checkpoints, checkpointState{lsn: lsn})
		}
		if got := l.keep(); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "0": true, "Z9": true, "a.b_c-d/e": true, "a//": true,
		"": false, ".a": false, "-a": false, "/a": false, "_a": false, "a b": false, "a\x00": false, "ä": false, "a\n": false,
		strings.Repeat("a", 10): true, strings.Repeat("a", 11): false,
	} {
		if got := validName(name, 10); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}

// TestWindowModel remembers batches, passes over some, rewinds and freezes, by chance, and
// holds what is recalled against a map, and frozen copies against what they were.
func TestWindowModel(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		l := &logState{number: 1, name: "log", first: 1, next: 1}
		l.seat(1, &producerState{id: producerID(1), incarnation: 1})
		s := stateWith(l)
		known, last := map[uint64]batchState{}, uint64(0)
		type frozen struct {
			logs []*logState
			was  string
		}
		var copies []frozen
		for step := range 400 {
			l := s.mutable(1)
			p := l.producer(1)
			switch rng.IntN(40) {
			case 0:
				last += rng.Uint64N(2 * limits.ProducerWindow)
				p.pass(last)
			case 1:
				cut := Cut{Epoch: l.epoch + 1, LSN: LSN(rng.Uint64N(uint64(p.active) + 1))}
				p.rewind(&cut)
				for q, b := range known {
					if b.discarded == 0 && b.first+LSN(b.count)-1 > cut.LSN && last-q < limits.ProducerWindow {
						b.discarded, b.kept = cut.Epoch, cut.LSN
						known[q] = b
					}
				}
				l.epoch++
				l.next = min(l.next, cut.LSN+1)
			case 2:
				copies = append(copies, frozen{s.freeze(), ""})
				f := &copies[len(copies)-1]
				f.was = string(appendLogState(nil, f.logs[0]))
			case 3:
				spelled := appendLogState(nil, l)
				read, err := decodeLogState(&decoder{buf: spelled})
				if err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, step, err)
				}
				if again := appendLogState(nil, read); !bytes.Equal(again, spelled) {
					t.Fatalf("seed %d, step %d: spelled, read and spelled again is another one", seed, step)
				}
			default:
				last++
				b := batchState{sequence: last, first: l.next, count: 1 + rng.Uint32N(3), runSum: rng.Uint32(), checksum: Checksum(rng.Uint32()), epoch: l.epoch}
				p.remember(b)
				l.next += LSN(b.count)
				p.active = l.next
				known[last] = b
			}
			p = s.logs.get(1).producers[0]
			for q := last + 2; q+2*limits.ProducerWindow > last && q < last+3; q-- {
				want, used := known[q]
				used = used && last-q < limits.ProducerWindow
				if b, ok := p.recall(q); ok != used || ok && b != want {
					t.Fatalf("seed %d, step %d, behind %d: %d is recalled as %+v, %t; want %+v, %t", seed, step, last, q, b, ok, want, used)
				}
			}
			if n := len(p.discards); n > limits.ProducerWindow {
				t.Fatalf("seed %d, step %d: %d discards", seed, step, n)
			}
		}
		for i, f := range copies {
			if string(appendLogState(nil, f.logs[0])) != f.was {
				t.Fatalf("seed %d: frozen copy %d has changed", seed, i)
			}
		}
	}
}
