package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
)

// CommandKind says what a command changes. The numbers are on disk.
type CommandKind uint8

// The kinds of commands.
const (
	CommandCreateLog        CommandKind = 1
	CommandDeleteLog        CommandKind = 2
	CommandOpenProducer     CommandKind = 3
	CommandAppend           CommandKind = 4
	CommandSetCheckpoint    CommandKind = 5
	CommandDeleteCheckpoint CommandKind = 6
	CommandTruncate         CommandKind = 7
	// CommandMoveCheckpoint carries a checkpoint's state forward, so that the
	// segment it lay in can be recycled. It changes the index, not the state.
	CommandMoveCheckpoint CommandKind = 8
	// CommandSetWriter begins an epoch: with a writer who alone may append in it,
	// or, without a name, with none, and the log is shared again.
	CommandSetWriter    CommandKind = 9
	CommandSetCursor    CommandKind = 10
	CommandDeleteCursor CommandKind = 11
	// CommandEvictCursor has a cursor that is over its cap hold nothing any more.
	CommandEvictCursor CommandKind = 12
	// CommandRetireProducer ends a producer for good.
	CommandRetireProducer CommandKind = 13
	// CommandResolveProducer begins a producer's next incarnation: what was bound
	// in an earlier one appends nothing any more.
	CommandResolveProducer CommandKind = 14
	// CommandSealLog ends a log: nothing is appended behind it.
	CommandSealLog CommandKind = 15
	// CommandAppendPart is what a batch over several logs appends to one of them
	// besides its lead. It lies behind the lead's CommandAppend, in the same frame.
	CommandAppendPart CommandKind = 16
	// CommandRewind discards a log's records behind an LSN, and begins an epoch.
	CommandRewind CommandKind = 17
	// CommandMoveRecords is a copy of an append's records, further on in the journal,
	// so that the segment it lay in can be recycled. It changes the index, not the
	// state.
	CommandMoveRecords CommandKind = 18
)

// String names a kind as walctl prints it.
func (k CommandKind) String() string {
	switch k {
	case CommandCreateLog:
		return "create-log"
	case CommandDeleteLog:
		return "delete-log"
	case CommandOpenProducer:
		return "open-producer"
	case CommandAppend:
		return "append"
	case CommandSetCheckpoint:
		return "set-checkpoint"
	case CommandDeleteCheckpoint:
		return "delete-checkpoint"
	case CommandTruncate:
		return "truncate"
	case CommandMoveCheckpoint:
		return "move-checkpoint"
	case CommandSetWriter:
		return "set-writer"
	case CommandSetCursor:
		return "set-cursor"
	case CommandDeleteCursor:
		return "delete-cursor"
	case CommandEvictCursor:
		return "evict-cursor"
	case CommandRetireProducer:
		return "retire-producer"
	case CommandResolveProducer:
		return "resolve-producer"
	case CommandSealLog:
		return "seal-log"
	case CommandAppendPart:
		return "append-part"
	case CommandRewind:
		return "rewind"
	case CommandMoveRecords:
		return "move-records"
	}
	return fmt.Sprintf("command(%d)", uint8(k))
}

// A Command is one accepted change. Which fields count depends on Kind; the
// others are zero. It is one flat struct, not one type per kind, so that a
// frame's commands are one slice that is reused from frame to frame.
type Command struct {
	Kind CommandKind
	Log  uint64 // the log's number in this volume, from 1, never reused

	// create-log
	Name    string    // also the checkpoint's or cursor's name; the holder's of set-writer and rewind
	ID      ulid.ULID // also that of the request of set-writer and rewind
	Time    int64     // also of set-checkpoint, set-cursor, evict-cursor and seal-log, and of the append that move-records copies; nanoseconds since 1970
	Options LogOptions

	// open-producer, retire-producer, resolve-producer
	Producer    ulid.ULID
	Incarnation uint64 // the one that begins of resolve-producer

	// append, append-part, and move-records without the producer: all as it was but the place
	Epoch    Epoch    // also the one that begins of set-writer and rewind; the last one of seal-log
	Rewound  Epoch    // that the log's newest rewind began, 0 if there was none; also of rewind, of the one before; when they were copied of move-records
	Slot     uint64   // the producer's slot on this log, from 1; 0 for none; append alone
	Sequence uint64   // the producer's; 0 without one; append alone
	First    LSN      // also the oldest record kept of truncate, and the LSN that no record gets of seal-log
	Count    uint32   // records
	RunSum   uint32   // CRC-32C of the run; of the state of a checkpoint
	Checksum Checksum // the log's, behind the last record; also of seal-log; behind LSN of rewind
	Start    uint64   // framed bytes ever appended to the log before this batch, or its seal; up to LSN of set-cursor and rewind
	Place             // of the run, or of the state of a checkpoint; empty of move-records whose records did not verify
	Parts    uint32   // how many append-parts of the same batch follow; append alone
	Lead     uint64   // number of the batch's lead log; append-part alone

	// set-checkpoint, move-checkpoint; the LSN also of a cursor, and the last one kept of rewind
	LSN     LSN
	Version uint64

	// set-cursor, evict-cursor
	Cap   uint64 // framed bytes that the cursor may hold
	Hold  bool   // it is not evicted beyond that; set-cursor alone
	Reset bool   // its reader asked for going back, or lost records and knows; set-cursor alone

	// truncate
	LiveBytes uint64 // what is left
}

// Place says where in its frame a command's bytes are.
type Place struct {
	Block  uint32 // which block
	Offset uint32 // in the block, decompressed
	Size   uint32 // in bytes
}

// Appends reports whether the command appends records to its log: by a batch of
// its own, or as a part of one.
func (c *Command) Appends() bool {
	return c.Kind == CommandAppend || c.Kind == CommandAppendPart
}

// carriesRecords reports whether the command has records with it: an append, or a
// copy of one that verified when it was made.
func (c *Command) carriesRecords() bool {
	return c.Appends() || c.Kind == CommandMoveRecords && c.Size > 0
}

// Last returns the LSN of an append's last record.
func (c *Command) Last() LSN { return c.First + LSN(c.Count) - 1 }

// ErrBadCommand is returned for bytes that are not commands. The directory they
// come from has a checksum, so it means a bug or a newer version, not damage.
var ErrBadCommand = errors.New("malformed command")

// AppendCommand appends a command as a directory spells it: kind, length of the
// body, body. Integers are unsigned varints, checksums 4 bytes little-endian,
// ULIDs 16 bytes, strings and maps prefixed with their lengths.
func AppendCommand(dst []byte, c *Command) []byte {
	dst = append(dst, byte(c.Kind), 0)
	body := len(dst)
	dst = appendBody(dst, c)
	n := len(dst) - body
	if n < 0x80 {
		dst[body-1] = byte(n)
		return dst
	}
	// A long body (labels, names) is rare: shift it to make room for its length.
	var length [binary.MaxVarintLen64]byte
	k := binary.PutUvarint(length[:], uint64(n))
	dst = append(dst, length[:k-1]...)
	copy(dst[body-1+k:], dst[body:body+n])
	copy(dst[body-1:], length[:k])
	return dst
}

func appendBody(dst []byte, c *Command) []byte {
	dst = binary.AppendUvarint(dst, c.Log)
	switch c.Kind {
	case CommandCreateLog:
		dst = append(dst, c.ID[:]...)
		dst = binary.AppendUvarint(dst, uint64(c.Time))
		dst = appendString(dst, c.Name)
		dst = appendOptions(dst, &c.Options)
	case CommandDeleteLog:
	case CommandOpenProducer:
		dst = append(dst, c.Producer[:]...)
	case CommandAppend:
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = binary.AppendUvarint(dst, uint64(c.Epoch-c.Rewound))
		dst = binary.AppendUvarint(dst, c.Slot)
		dst = binary.AppendUvarint(dst, c.Sequence)
		dst = appendRun(dst, c)
		if c.Parts > 0 {
			dst = binary.AppendUvarint(dst, uint64(c.Parts))
		}
	case CommandAppendPart:
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = binary.AppendUvarint(dst, uint64(c.Epoch-c.Rewound))
		dst = binary.AppendUvarint(dst, c.Lead)
		dst = appendRun(dst, c)
	case CommandSetCheckpoint:
		dst = appendString(dst, c.Name)
		dst = binary.AppendUvarint(dst, uint64(c.LSN))
		dst = binary.AppendUvarint(dst, c.Version)
		dst = binary.AppendUvarint(dst, uint64(c.Time))
		dst = binary.LittleEndian.AppendUint32(dst, c.RunSum)
		dst = appendPlace(dst, c.Place)
	case CommandDeleteCheckpoint:
		dst = appendString(dst, c.Name)
	case CommandTruncate:
		dst = binary.AppendUvarint(dst, uint64(c.First))
		dst = binary.AppendUvarint(dst, c.LiveBytes)
	case CommandMoveCheckpoint:
		dst = appendString(dst, c.Name)
		dst = binary.AppendUvarint(dst, c.Version)
		dst = appendPlace(dst, c.Place)
	case CommandSetWriter:
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = appendString(dst, c.Name)
		dst = append(dst, c.ID[:]...)
	case CommandSetCursor:
		dst = appendString(dst, c.Name)
		dst = binary.AppendUvarint(dst, uint64(c.LSN))
		dst = binary.AppendUvarint(dst, c.Start)
		dst = binary.AppendUvarint(dst, c.Cap)
		dst = binary.AppendUvarint(dst, uint64(c.Time))
		dst = append(dst, cursorFlags(c.Hold, c.Reset))
	case CommandDeleteCursor:
		dst = appendString(dst, c.Name)
	case CommandEvictCursor:
		dst = appendString(dst, c.Name)
		dst = binary.AppendUvarint(dst, uint64(c.LSN))
		dst = binary.AppendUvarint(dst, c.Start)
		dst = binary.AppendUvarint(dst, c.Cap)
		dst = binary.AppendUvarint(dst, uint64(c.Time))
	case CommandRetireProducer:
		dst = append(dst, c.Producer[:]...)
	case CommandResolveProducer:
		dst = append(dst, c.Producer[:]...)
		dst = binary.AppendUvarint(dst, c.Incarnation)
	case CommandSealLog:
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = binary.AppendUvarint(dst, uint64(c.First))
		dst = binary.LittleEndian.AppendUint32(dst, uint32(c.Checksum))
		dst = binary.AppendUvarint(dst, c.Start)
		dst = binary.AppendUvarint(dst, uint64(c.Time))
	case CommandRewind:
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = binary.AppendUvarint(dst, uint64(c.Epoch-c.Rewound))
		dst = appendString(dst, c.Name)
		dst = append(dst, c.ID[:]...)
		dst = binary.AppendUvarint(dst, uint64(c.LSN))
		dst = binary.AppendUvarint(dst, c.Start)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(c.Checksum))
	case CommandMoveRecords:
		dst = binary.AppendUvarint(dst, uint64(c.Epoch))
		dst = binary.AppendUvarint(dst, uint64(c.First))
		dst = binary.AppendUvarint(dst, uint64(c.Count))
		dst = binary.LittleEndian.AppendUint32(dst, c.RunSum)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(c.Checksum))
		dst = binary.AppendUvarint(dst, c.Start)
		dst = binary.AppendUvarint(dst, uint64(c.Time))
		dst = appendPlace(dst, c.Place)
		if c.Rewound > 0 {
			dst = binary.AppendUvarint(dst, uint64(c.Rewound))
		}
	default:
		panic(fmt.Sprintf("wal: encoding %s", c.Kind))
	}
	return dst
}

// appendRun spells which records an append has, and where.
func appendRun(dst []byte, c *Command) []byte {
	dst = binary.AppendUvarint(dst, uint64(c.First))
	dst = binary.AppendUvarint(dst, uint64(c.Count))
	dst = binary.LittleEndian.AppendUint32(dst, c.RunSum)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(c.Checksum))
	dst = binary.AppendUvarint(dst, c.Start)
	return appendPlace(dst, c.Place)
}

// epochs takes a command's epoch, and the one that the newest rewind began: spelled as
// a difference, which is short also where epochs are not.
func (d *decoder) epochs(c *Command) {
	c.Epoch = Epoch(d.uvarint())
	ago := Epoch(d.uvarint())
	if ago > c.Epoch {
		d.fail()
		return
	}
	c.Rewound = c.Epoch - ago
}

// The flags of a cursor.
const (
	cursorHold  = 1
	cursorReset = 2 // in a command alone
)

func cursorFlags(hold, reset bool) (flags byte) {
	if hold {
		flags |= cursorHold
	}
	if reset {
		flags |= cursorReset
	}
	return flags
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendPlace(dst []byte, p Place) []byte {
	dst = binary.AppendUvarint(dst, uint64(p.Block))
	dst = binary.AppendUvarint(dst, uint64(p.Offset))
	return binary.AppendUvarint(dst, uint64(p.Size))
}

func appendOptions(dst []byte, o *LogOptions) []byte {
	dst = binary.AppendUvarint(dst, o.QuotaBytes)
	dst = binary.AppendUvarint(dst, uint64(o.MaxRecordBytes))
	dst = binary.AppendUvarint(dst, o.RateBytes)
	dst = appendString(dst, o.ColocationKey)
	if dst = binary.AppendUvarint(dst, uint64(len(o.Labels))); len(o.Labels) == 0 {
		return dst // most have none, and a snapshot spells every log
	}
	for _, k := range slices.Sorted(maps.Keys(o.Labels)) {
		dst = appendString(dst, k)
		dst = appendString(dst, o.Labels[k])
	}
	return dst
}

// DecodeCommand takes the first command off meta and returns the rest. It keeps
// nothing of meta but the strings it copies. What it accepts encodes to the
// same bytes again. It returns ErrBadCommand, wrapped, for anything else.
func DecodeCommand(meta []byte, c *Command) (rest []byte, err error) {
	*c = Command{}
	if len(meta) < 2 {
		return nil, fmt.Errorf("%w: cut short", ErrBadCommand)
	}
	d := decoder{buf: meta[1:]}
	n := d.uvarint()
	if d.bad || n > uint64(len(d.buf)) {
		return nil, fmt.Errorf("%w: body of %d bytes where %d are left", ErrBadCommand, n, len(d.buf))
	}
	rest = d.buf[n:]
	d.buf = d.buf[:n]
	c.Kind = CommandKind(meta[0])
	c.Log = d.uvarint()
	switch c.Kind {
	case CommandCreateLog:
		d.fixed(c.ID[:])
		c.Time = int64(d.uvarint())
		c.Name = d.string(limits.MaxLogNameBytes)
		d.options(&c.Options)
	case CommandDeleteLog:
	case CommandOpenProducer:
		d.fixed(c.Producer[:])
	case CommandAppend:
		d.epochs(c)
		c.Slot = d.uvarint()
		c.Sequence = d.uvarint()
		d.run(c)
		if len(d.buf) > 0 {
			if c.Parts = d.uvarint32(); c.Parts == 0 || c.Parts >= limits.MaxBatchLogs {
				d.fail()
			}
		}
	case CommandAppendPart:
		d.epochs(c)
		c.Lead = d.uvarint()
		d.run(c)
	case CommandSetCheckpoint:
		c.Name = d.string(limits.MaxCheckpointNameBytes)
		c.LSN = LSN(d.uvarint())
		c.Version = d.uvarint()
		c.Time = int64(d.uvarint())
		c.RunSum = d.uint32()
		c.Place = d.place()
	case CommandDeleteCheckpoint:
		c.Name = d.string(limits.MaxCheckpointNameBytes)
	case CommandTruncate:
		c.First = LSN(d.uvarint())
		c.LiveBytes = d.uvarint()
	case CommandMoveCheckpoint:
		c.Name = d.string(limits.MaxCheckpointNameBytes)
		c.Version = d.uvarint()
		c.Place = d.place()
	case CommandSetWriter:
		c.Epoch = Epoch(d.uvarint())
		c.Name = d.string(limits.MaxHolderNameBytes)
		d.fixed(c.ID[:])
	case CommandSetCursor:
		c.Name = d.string(limits.MaxCursorNameBytes)
		c.LSN = LSN(d.uvarint())
		c.Start = d.uvarint()
		c.Cap = d.uvarint()
		c.Time = int64(d.uvarint())
		flags := d.flags(cursorHold | cursorReset)
		c.Hold, c.Reset = flags&cursorHold != 0, flags&cursorReset != 0
	case CommandDeleteCursor:
		c.Name = d.string(limits.MaxCursorNameBytes)
	case CommandEvictCursor:
		c.Name = d.string(limits.MaxCursorNameBytes)
		c.LSN = LSN(d.uvarint())
		c.Start = d.uvarint()
		c.Cap = d.uvarint()
		c.Time = int64(d.uvarint())
	case CommandRetireProducer:
		d.fixed(c.Producer[:])
	case CommandResolveProducer:
		d.fixed(c.Producer[:])
		c.Incarnation = d.uvarint()
	case CommandSealLog:
		c.Epoch = Epoch(d.uvarint())
		c.First = LSN(d.uvarint())
		c.Checksum = Checksum(d.uint32())
		c.Start = d.uvarint()
		c.Time = int64(d.uvarint())
	case CommandRewind:
		d.epochs(c)
		c.Name = d.string(limits.MaxHolderNameBytes)
		d.fixed(c.ID[:])
		c.LSN = LSN(d.uvarint())
		c.Start = d.uvarint()
		c.Checksum = Checksum(d.uint32())
	case CommandMoveRecords:
		c.Epoch = Epoch(d.uvarint())
		c.First = LSN(d.uvarint())
		c.Count = d.uvarint32()
		c.RunSum = d.uint32()
		c.Checksum = Checksum(d.uint32())
		c.Start = d.uvarint()
		c.Time = int64(d.uvarint())
		c.Place = d.place()
		if len(d.buf) > 0 {
			if c.Rewound = Epoch(d.uvarint()); c.Rewound == 0 {
				d.fail()
			}
		}
	default:
		return nil, fmt.Errorf("%w: unknown kind %d", ErrBadCommand, meta[0])
	}
	if d.bad || len(d.buf) != 0 {
		return nil, fmt.Errorf("%w: %s with a body of %d bytes", ErrBadCommand, c.Kind, n)
	}
	return rest, nil
}

// DecodeCommands appends to dst every command of a frame's directory, of which
// there are at most limits.MaxCommandsPerFrame: a command takes a hundred times
// the memory of the shortest spelling. It returns ErrBadCommand, wrapped, for
// anything else.
func DecodeCommands(dst []Command, meta []byte) ([]Command, error) {
	for most := len(dst) + limits.MaxCommandsPerFrame; len(meta) > 0; {
		if len(dst) == most {
			return dst, fmt.Errorf("%w: over %d commands in a frame", ErrBadCommand, limits.MaxCommandsPerFrame)
		}
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, 16)
		}
		dst = dst[:len(dst)+1]
		rest, err := DecodeCommand(meta, &dst[len(dst)-1])
		if err != nil {
			return dst[:len(dst)-1], fmt.Errorf("command %d: %w", len(dst)-1, err)
		}
		meta = rest
	}
	return dst, nil
}

// A decoder takes fields off a buffer. After the first that is not there, or
// not minimally spelled, bad is set and every further one is zero.
type decoder struct {
	buf []byte
	bad bool
}

func (d *decoder) fail() { d.bad, d.buf = true, nil }

func (d *decoder) uvarint() uint64 {
	if len(d.buf) > 0 && d.buf[0] < 0x80 {
		v := d.buf[0]
		d.buf = d.buf[1:]
		return uint64(v)
	}
	v, k := binary.Uvarint(d.buf)
	if k <= 0 || d.buf[k-1] == 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[k:]
	return v
}

func (d *decoder) uvarint32() uint32 {
	v := d.uvarint()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

func (d *decoder) uint32() uint32 {
	if len(d.buf) < 4 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint32(d.buf)
	d.buf = d.buf[4:]
	return v
}

func (d *decoder) fixed(dst []byte) {
	if len(d.buf) < len(dst) {
		d.fail()
		return
	}
	copy(dst, d.buf)
	d.buf = d.buf[len(dst):]
}

func (d *decoder) string(limit int) string {
	n := d.uvarint()
	if n > uint64(limit) || n > uint64(len(d.buf)) {
		d.fail()
		return ""
	}
	s := string(d.buf[:n])
	d.buf = d.buf[n:]
	return s
}

// flags takes a byte that has no other bits than those known.
func (d *decoder) flags(known byte) byte {
	if len(d.buf) == 0 || d.buf[0]&^known != 0 {
		d.fail()
		return 0
	}
	f := d.buf[0]
	d.buf = d.buf[1:]
	return f
}

// run takes what appendRun spells.
func (d *decoder) run(c *Command) {
	c.First = LSN(d.uvarint())
	c.Count = d.uvarint32()
	c.RunSum = d.uint32()
	c.Checksum = Checksum(d.uint32())
	c.Start = d.uvarint()
	c.Place = d.place()
}

func (d *decoder) place() Place {
	return Place{Block: d.uvarint32(), Offset: d.uvarint32(), Size: d.uvarint32()}
}

func (d *decoder) options(o *LogOptions) {
	o.QuotaBytes = d.uvarint()
	o.MaxRecordBytes = d.uvarint32()
	o.RateBytes = d.uvarint()
	o.ColocationKey = d.string(limits.MaxLabelBytes)
	n := d.uvarint()
	if n > limits.MaxLabels {
		d.fail()
		return
	}
	last := ""
	for i := range n {
		k := d.string(limits.MaxLabelBytes)
		v := d.string(limits.MaxLabelBytes)
		if d.bad || i > 0 && k <= last { // sorted and unique, so that there is one spelling
			d.fail()
			return
		}
		if o.Labels == nil {
			o.Labels = make(map[string]string, n)
		}
		o.Labels[k], last = v, k
	}
}
