package main

import (
	"fmt"
	"hash/crc32"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A batch is one append on its way.
type batch struct {
	from     *caller
	run      []byte
	sequence uint64
	count    int
	sum      uint32
	first    wal.LSN // its verdict: where the records are; 0 if it was refused
}

// check does what needs no state.
func (b *batch) check(sequence uint64) error {
	n, err := records.Check(b.run, limits.MaxRecordSize)
	b.sequence, b.count, b.sum, b.first = sequence, n, crc32.Checksum(b.run, castagnoli), 0
	return err
}

// A position is what deciding an append has to know of a log.
type position struct {
	next     wal.LSN
	last     uint64 // sequence of the producer's last batch
	checksum wal.Checksum
	bytes    uint64
}

// A journal is what appends are sequenced into: the state ahead, and the open
// frame. One goroutine at a time may use it.
type journal struct {
	state    *wal.State
	logs     map[uint64]*position
	meta     []byte
	block    []byte
	commands []wal.Command // what package wal attaches to the frame
	frames   int           // that were full
}

// newJournal returns a journal with logs 1 to n, each with a producer.
func newJournal(n int) (*journal, error) {
	j := &journal{state: wal.NewState(), logs: make(map[uint64]*position)}
	for i := range n {
		number := uint64(i) + 1
		for _, c := range []wal.Command{
			{Kind: wal.CommandCreateLog, Log: number, ID: ulid.ULID{byte(number >> 8), byte(number)}, Name: fmt.Sprint("log-", number)},
			{Kind: wal.CommandOpenProducer, Log: number, Producer: ulid.ULID{1}},
		} {
			if err := j.state.Apply(&c); err != nil {
				return nil, fmt.Errorf("log %d: %w", number, err)
			}
		}
		j.logs[number] = &position{next: 1}
	}
	return j, nil
}

// sequence is the step. It panics where the state disagrees with what was
// decided, as package wal does.
func (j *journal) sequence(b *batch) {
	l := j.logs[b.from.log]
	if l == nil || b.sequence != l.last+1 {
		return
	}
	if len(j.meta)+len(j.block) >= limits.FrameFullSize || len(j.commands) >= limits.MaxCommandsPerFrame {
		j.meta, j.block, j.commands = j.meta[:0], j.block[:0], j.commands[:0]
		j.frames++
	}
	c := wal.Command{
		Kind: wal.CommandAppend, Log: b.from.log, Epoch: 1, Slot: 1, Sequence: b.sequence,
		First: l.next, Count: uint32(b.count), RunSum: b.sum,
		Checksum: wal.Checksum(crc32.Update(uint32(l.checksum), castagnoli, b.run)), Start: l.bytes,
		Place: wal.Place{Offset: uint32(len(j.block)), Size: uint32(len(b.run))},
	}
	j.block = append(j.block, b.run...)
	if err := j.state.Apply(&c); err != nil {
		panic(fmt.Sprintf("sequencing: %v", err))
	}
	j.commands = append(j.commands, c)
	j.meta = wal.AppendCommand(j.meta, &c)
	l.next, l.last, l.checksum, l.bytes = c.Last()+1, b.sequence, c.Checksum, l.bytes+uint64(len(b.run))
	b.first = c.First
}
