package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
)

// LSN is a record's dense position in its log, from 1. Zero is before the first.
type LSN uint64

// Epoch is a log's generation, from 1: an acquired writer begins a new one, and so
// does releasing it, or rewinding the log. Zero in an append means the log's own while nobody is its
// writer.
type Epoch uint64

// Checksum is the running CRC-32C over a log's records, in their framing. Two
// parties that have the same log, epoch, LSN and checksum mean the same history.
type Checksum uint32

// LogOptions are chosen when a log is created. The zero value means all defaults.
type LogOptions struct {
	QuotaBytes     uint64            // bound on live bytes of records; 0 means none
	MaxRecordBytes uint32            // bound on one record; 0 means limits.MaxRecordSize
	RateBytes      uint64            // bound on bytes of records appended per second, see limits.MinLogRate; 0 means none
	Labels         map[string]string // the client's own; see limits.MaxLabels
	ColocationKey  string            // logs that must share a volume; may be empty
}

// LogInfo describes a log as far as it is durable.
type LogInfo struct {
	Name      string
	ID        ulid.ULID
	Epoch     Epoch
	Holder    string   // of the epoch's writer, who alone may append; empty if the log is shared
	First     LSN      // oldest record kept; Next when there is none
	Next      LSN      // what the next record gets; Next-1 is the durable LSN
	Checksum  Checksum // behind Next-1
	LiveBytes uint64   // framed bytes of the records from First on, those lost included
	Created   time.Time
	Sealed    time.Time // when nothing more was taken; zero if the log is not sealed
	Options   LogOptions
	Lost      []LSNRange // given up by repairs, in order; reading them is a *DataLossError. Not to be changed
	// Rewinds are those that are remembered, the oldest first: see limits.MaxRewinds.
	// Not to be changed.
	Rewinds []Cut
}

// Durable returns the durable LSN: everything up to it survives any crash.
func (i LogInfo) Durable() LSN { return i.Next - 1 }

// LostRecords counts the records in Lost.
func (i LogInfo) LostRecords() (n uint64) {
	for _, r := range i.Lost {
		n += uint64(r.Last-r.First) + 1
	}
	return n
}

// A Writer is what an acquired writer begins with.
type Writer struct {
	// Log is the log as its epoch begins: what was sequenced before lies below
	// Log.Next, and Log.Checksum is behind it.
	Log LogInfo
	// LastSequence is the last of the producer that was named; 0 if none was, or
	// if it is not open.
	LastSequence uint64
	// Repeated: the request had acquired it before.
	Repeated bool
}

// Claim is what a client was last acknowledged.
type Claim struct {
	Log      ulid.ULID
	Epoch    Epoch
	LSN      LSN // 0 claims nothing
	Checksum Checksum
}

// A Batch is records appended together. Run is only read until Append returns.
type Batch struct {
	Binding  *Binding
	Sequence uint64 // the producer's dense count, from 1; 0 without a producer
	Expected LSN    // what the first record must get; 0 means whatever comes
	Run      []byte // as package internal/records spells it
	// Incarnation is the producer's, in Volume.Append alone; see Producer.
	Incarnation uint64
	Tag         uint64 // the caller's own, returned with the verdict
	// Parts are what the batch appends to further logs, at most limits.MaxBatchLogs
	// with its own, which is the lead. All of it lands, in one frame, or nothing.
	Parts []Part
}

// A Part is what a batch appends to a log besides its lead. Run is only read until
// Append returns. The binding is one of the same Appender; if it has a producer,
// that may not be superseded or retired, and counts no batch.
type Part struct {
	Binding  *Binding
	Expected LSN
	Run      []byte
	// Log and Epoch take the place of the binding in Volume.Append alone.
	Log   string
	Epoch Epoch
}

// A Verdict settles one batch.
type Verdict struct {
	Binding  *Binding
	Tag      uint64
	Sequence uint64
	First    LSN // 0 if refused, or if repeated and no longer known
	Count    uint32
	Checksum Checksum // behind the last record
	Epoch    Epoch
	Repeated bool
	Err      error // a refusal, or what ended the volume; nil when durable
	// Parts are those of the batch, in its order; nil if refused, and if repeated and
	// no longer known.
	Parts []PartVerdict
	// Committed is when its frame was, by the volume's clock, in nanoseconds since
	// 1970; 0 if it was refused or is a repeat.
	Committed int64
}

// A PartVerdict says where a part of a batch is.
type PartVerdict struct {
	Log      ulid.ULID // zero if it was deleted since: of a Resolution alone
	Name     string    // likewise
	First    LSN
	Count    uint32
	Checksum Checksum // behind the last record
	Epoch    Epoch
}

// A Producer is who appends, and as which incarnation of it.
type Producer struct {
	ID ulid.ULID // zero for none
	// Incarnation is what OpenProducer or Resolve told, so that nothing appends that
	// was sent before the producer was resolved. Zero states none, which a producer
	// that was resolved, or made way and came back, does not take.
	Incarnation uint64
}

// A Resolution is what became of a batch.
type Resolution struct {
	Outcome Outcome
	// First, Count, Checksum and Epoch are those of the verdict, if Committed or
	// Discarded and still known; else zero.
	First    LSN
	Count    uint32
	Checksum Checksum
	Epoch    Epoch
	Parts    []PartVerdict // of a batch over several logs, likewise
	Producer ProducerInfo  // as it is from now on
	Log      LogInfo
}

// An Outcome is what is known of a batch whose verdict was not heard.
type Outcome uint8

// The outcomes.
const (
	Committed  Outcome = iota + 1 // it is durable
	NotWritten                    // it is not, and what was sent before never will be
	Fenced                        // the same, and the epoch it was for is over
	Discarded                     // it was durable, and a rewind has discarded it, or its end
)

// A ProducerInfo says what a producer last appended.
type ProducerInfo struct {
	LastSequence uint64 // 0 if nothing
	Incarnation  uint64 // to be stated when it is bound; from 1
	Window       int    // batches remembered, and so the most it may have unacknowledged
}

// A KnownProducer is what a log remembers of a producer.
type KnownProducer struct {
	ID           ulid.ULID
	LastSequence uint64 // 0 if nothing
	Incarnation  uint64 // from 1; of one that made way, its last
	// Active is the log's last LSN when it last appended, or was opened if it has not
	// since; 0 if it made way. Who has the lowest makes way next.
	Active  LSN
	Retired bool
	MadeWay bool // it has no slot any more
}

// A Checkpoint is a named LSN with an engine's own state.
type Checkpoint struct {
	Name      string
	LSN       LSN
	Version   uint64 // grows by 1 with each time it is set, from 1; see NoCheckpointError for one that is set anew
	State     []byte // nil in listings
	StateSize uint32
	SetAt     time.Time
}

// A Span is records as a Reader returns them: a run, or a block as stored.
type Span struct {
	First LSN
	Count uint32
	Run   []byte // valid until the next call; nil if Stored is set
	// Stored is set instead of Run if stored blocks were asked for and every
	// record in the block is wanted: the block as it lies, of Codec, opening to
	// RawSize bytes, with its CRC-32C.
	Stored   []byte
	Codec    codec.Codec
	RawSize  uint32
	Checksum uint32
	Durable  LSN   // of the log when the span was read
	Epoch    Epoch // likewise: with the span's last LSN it says which history that is of
}

// ReadOptions say what a Reader returns.
type ReadOptions struct {
	From   LSN    // first record; 0 means the oldest kept when it is read, or what Cursor says
	Cursor string // of whoever reads: without From, where to begin; if it is evicted, that is the error
	// Epoch, unless 0, is what the log was in when whoever reads was told of what lies
	// before From: if a rewind has discarded that since, the answer is a *RewoundError.
	Epoch Epoch
	To    LSN // last record; 0 means the end as it is when From is found, or none if it follows
	// FromTime begins with the first record committed at that time or after it, or
	// with the next one if there is none yet; see Volume.At. Not with From or Cursor.
	FromTime time.Time
	// ToTime ends with the last record committed before that time or at it, of those
	// that are durable when the Reader is made. Not with To or Follow.
	ToTime time.Time
	Follow bool          // wait at the end instead of ending
	Codecs []codec.Codec // if not empty, blocks of these may come as stored
	// Max is how many bytes a span has, beyond which it is ended at a record; 0 means
	// limits.ReplayMessageSize. The first one is a batch or a stored block, and those
	// behind it grow: who waits for the first record does not wait for many.
	Max int
	// Buffer, if not nil, is asked for empty memory of a capacity for each block
	// that comes as stored: the span's bytes lie there, and stay valid.
	Buffer func(capacity int) []byte
}

// Options configures a Volume. The zero value of each field means its default.
type Options struct {
	SegmentSize   int64  // bytes; only when the volume is created; default limits.DefaultSegmentSize
	Codec         string // "auto" (default), "none", "s2", "zstd"
	Direct        string // which writes bypass the page cache: "auto" (default), "always", "never"; see disk.Direct
	PrepareRate   int64  // bytes/s for preparing segments; default 128 MiB/s; negative means unlimited
	Create        bool   // make the volume if the directory is missing or empty
	SnapshotEvery int64  // bytes of journal between snapshots; default 32 MiB
	Events        Events // nil functions are not called
	// StallAfter is how long an operation of the disk is under way before the
	// volume is DiskStalled; default limits.StallAfter.
	StallAfter time.Duration
	// FS is the disk; default disk.OS.
	FS disk.FS
	// Now is the wall clock in nanoseconds since 1970; default time.Now.
	Now func() int64
	// Rand gives identities and salts; default crypto/rand.
	Rand io.Reader
}

// Events tells what happens inside a volume to whoever logs or counts. The
// functions must not block and must not call the volume.
type Events struct {
	Poisoned func(err error)
	Rolled   func(segment uint64)
	Released func(segments int)
	// CursorEvicted is called for every cursor that was evicted, once that is
	// durable and before what it held is released.
	CursorEvicted func(lost CursorLostError)
	// WriterChanged is called for every writer that was acquired or released,
	// ProducerEnded for every producer that was retired, made way or was resolved, once
	// that is durable. Refusals are counted alone, see Status.Refused: a client that is
	// fenced may ask a thousand times a second.
	WriterChanged func(w WriterChange)
	ProducerEnded func(p ProducerChange)
	// Moved is called when the last live records of logs were copied forward, once
	// that is durable and before the segments that they lay in are released. bytes are
	// of records.
	Moved         func(logs int, records, bytes uint64)
	Snapshot      func(sequence uint64, bytes int64, took time.Duration)
	PrepareFailed func(err error)
	Stranger      func(name string)
	ClockJump     func(by time.Duration)
	// Stalled is called when an operation of the disk has been under way for
	// Options.StallAfter, also while the volume is opened, StallEnded when it has
	// returned and no other hangs: in turn, and these two may block.
	Stalled    func(s Stall)
	StallEnded func(s Stall, took time.Duration)
	// Frame is called for every durable frame, in order, once its appenders know.
	// Seals are left out: nobody waits for one.
	Frame func(FrameInfo)
}

func (e *Events) stalled(s disk.Stall) {
	if e.Stalled != nil {
		e.Stalled(*stallOf(s))
	}
}

func (e *Events) stallEnded(s disk.Stall, took time.Duration) {
	if e.StallEnded != nil {
		e.StallEnded(*stallOf(s), took)
	}
}

// A FrameInfo says what became of a frame, and where its time went.
type FrameInfo struct {
	Sequence   uint64
	Commands   int // 0 for a snapshot's or a promise's
	Records    int
	Blocks     int
	RawSize    int           // bytes of commands and records
	StoredSize int           // the same, blocks as they are stored
	Queue      time.Duration // that the first who came waited for the disk; 0 if it did not
	Compress   time.Duration // of blocks that were not compressed while the frame waited
	Write      time.Duration
	Sync       time.Duration
	Ack        time.Duration // from durable until the last appender was told
}

// A Stall is an operation of the disk that has been under way for longer than
// Options.StallAfter: the oldest, if several hang.
type Stall struct {
	Operation string    // such as "sync 000000000000002a.wal"
	Since     time.Time // when it began
}

// VolumeState says what a volume takes.
type VolumeState uint8

// The states of a volume.
const (
	Serving     VolumeState = iota + 1 // takes appends
	ReadOnly                           // opened so because of damage
	Poisoned                           // a write or sync failed; only a restart clears it
	Full                               // refuses appends for want of space; they resume by themselves
	DiskStalled                        // the disk does not answer; what waits for it goes on when it does
)

// DamagedLog names records that cannot be read.
type DamagedLog struct {
	Log         string
	First, Last LSN
}

// Damage names bytes that do not verify.
type Damage struct {
	File     string
	Offset   int64
	Sequence uint64 // of the frame; 0 if not known
	Case     string // of the tail rule
	Detail   string
	Logs     []DamagedLog
	// Repaired: a repair took account of it. What it hit is in LogInfo.Lost, and
	// nothing is lost that was not told then. Only Verify says so.
	Repaired bool
}

// Recovery is what opening a volume found.
type Recovery struct {
	Verdict         string // "clean", "torn", "damaged"
	Case            string
	Detail          string
	Frames          uint64
	LastSequence    uint64
	RewrittenFrames uint64
	DiscardedFrames uint64
	DiscardedBytes  int64
	Damage          []Damage
	Took            time.Duration
}

// Status is a volume's state, all of it durable.
type Status struct {
	Volume          ulid.ULID
	State           VolumeState
	Detail          string // why, and what to do next, unless serving
	Recovery        Recovery
	Logs            int
	DurableFrame    uint64
	Segments        int
	SegmentSize     int64
	Spares          int
	AppendableBytes int64
	DiskFree        uint64 // as last heard: a disk that hangs is not asked
	Commits         uint64 // frames of commands since the volume was opened; the rest likewise
	Syncs           uint64
	Records         uint64
	RawBytes        uint64
	StoredBytes     uint64
	Rolls           uint64
	Recycles        uint64
	Snapshots       uint64
	CursorsEvicted  uint64
	MovedRecords    uint64 // copied forward out of segments that nobody else kept
	MovedBytes      uint64 // of those records
	WriterChanges   uint64 // writers acquired and released
	// Of producers, those retired, those that made way, and incarnations ended to resolve.
	ProducersRetired, ProducersMadeWay, ProducersResolved uint64
	// Refused are batches that were refused, by Refusal.
	Refused [Refusals]uint64
	Stalls  uint64
	Stall   *Stall // under way; nil for none
	// Lost are the records that repairs gave up and no truncation has reached, by
	// log: limits.MaxDamage ranges at most. LostRecords counts all of them.
	Lost        []DamagedLog
	LostRecords uint64
}

// Refusals and failures. A refusal changes nothing and consumes no sequence.
// Each maps to one gRPC code and reason in internal/server's error table.
var (
	ErrNoVolume            = errors.New("no volume here")                               // missing or empty directory, without Options.Create
	ErrVersion             = errors.New("volume of a newer format version")             // upgrade walsvc
	ErrInUse               = errors.New("volume is in use by another process")          //
	ErrDamaged             = errors.New("volume is damaged")                            // cannot even be opened read-only
	ErrReadOnly            = errors.New("volume is read-only")                          //
	ErrPoisoned            = errors.New("volume is poisoned by a failed write")         // the outcome of what was in flight is unknown
	ErrClosed              = errors.New("volume is closed")                             //
	ErrFull                = errors.New("disk is full")                                 // resumes by itself once there is room
	ErrInvalidName         = errors.New("malformed name")                               //
	ErrInvalid             = errors.New("invalid argument")                             // wrapped with which
	ErrLogNotFound         = errors.New("log not found")                                //
	ErrLogExists           = errors.New("log exists with other options")                //
	ErrTooManyLogs         = errors.New("too many logs")                                //
	ErrEmptyBatch          = errors.New("empty batch")                                  //
	ErrMalformed           = errors.New("malformed records")                            //
	ErrTooLarge            = errors.New("record or batch over the limit")               //
	ErrQuota               = errors.New("log is over its quota")                        //
	ErrRateQuota           = errors.New("log is over its rate")                         // *RateError has the figures
	ErrSealed              = errors.New("log is sealed")                                // *SealedError has the figures
	ErrFenced              = errors.New("fenced by a newer epoch")                      //
	ErrLSNMismatch         = errors.New("expected LSN does not match")                  // *MismatchError has the figures
	ErrAfterRefusal        = errors.New("refused after an earlier refusal")             // until the binding is reset
	ErrSequenceGap         = errors.New("producer sequence skips a batch")              // *SequenceError has the figures
	ErrSequenceReuse       = errors.New("producer sequence was used for other records") //
	ErrNoProducer          = errors.New("producer is not open on this log")             //
	ErrRetired             = errors.New("producer is retired")                          // for good
	ErrForgotten           = errors.New("producer's batches are no longer remembered")  // whether they landed only the log tells
	ErrSuperseded          = errors.New("producer was bound again by a later stream")   //
	ErrDuplicateLog        = errors.New("batch names a log twice")                      //
	ErrNotColocated        = errors.New("logs of one batch share no colocation key")    //
	ErrLSNAhead            = errors.New("LSN is beyond the durable end")                // *RangeError has the figures
	ErrLSNTruncated        = errors.New("LSN is truncated")                             // *RangeError has the figures
	ErrDataLoss            = errors.New("acknowledged data is missing or damaged")      //
	ErrReadFailed          = errors.New("disk failed to read")                          // which says nothing of what lies there
	ErrCheckpointNotFound  = errors.New("checkpoint not found")                         //
	ErrCheckpointBackwards = errors.New("checkpoint would move backwards")              //
	ErrCheckpointConflict  = errors.New("checkpoint has another version")               // *ConflictError has the figures
	ErrTooManyCheckpoints  = errors.New("too many checkpoints on this log")             //
	ErrHeld                = errors.New("records are held")                             // wrapped with what holds them
	ErrCursorNotFound      = errors.New("cursor not found")                             //
	ErrCursorBackwards     = errors.New("cursor would move backwards")                  // unless a reset is asked for
	ErrCursorConflict      = errors.New("cursor is elsewhere")                          // *CursorConflictError has the figures
	ErrCursorLost          = errors.New("cursor has lost records")                      // *CursorLostError says which
	ErrTooManyCursors      = errors.New("too many cursors on this log")                 //
	ErrRewound             = errors.New("log was rewound")                              // *RewoundError says where
	ErrDiscarded           = errors.New("committed, then discarded by a rewind")        // *DiscardedError says when
	ErrTooManyRewinds      = errors.New("too many rewinds of this log")                 //
)

// A RangeError says where an LSN fell outside a log.
type RangeError struct {
	Log         string
	Asked       LSN
	Since       time.Time // asked for instead of an LSN; zero if it was not
	First, Next LSN
	Err         error // ErrLSNAhead or ErrLSNTruncated
}

// Error implements error.
func (e *RangeError) Error() string {
	if !e.Since.IsZero() {
		return fmt.Sprintf("log %q: records since %s: %v: it has %d to %d, and may have had others since then",
			e.Log, e.Since.UTC().Format(time.RFC3339Nano), e.Err, e.First, e.Next-1)
	}
	return fmt.Sprintf("log %q: LSN %d: %v: it has %d to %d", e.Log, e.Asked, e.Err, e.First, e.Next-1)
}

// Unwrap returns the sentinel.
func (e *RangeError) Unwrap() error { return e.Err }

// A PartError is why a batch over several logs was refused, and for which of them.
type PartError struct {
	Log string
	Err error // names the log, too
}

// Error implements error.
func (e *PartError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal.
func (e *PartError) Unwrap() error { return e.Err }

// A MismatchError is an ErrLSNMismatch with its figures.
type MismatchError struct {
	Log            string
	Expected, Next LSN
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("log %q: %v: expected %d, the next is %d", e.Log, ErrLSNMismatch, e.Expected, e.Next)
}

// Unwrap returns ErrLSNMismatch.
func (e *MismatchError) Unwrap() error { return ErrLSNMismatch }

// A RateError is an ErrRateQuota with its figures.
type RateError struct {
	Log   string
	Rate  uint64        // bytes per second that the log takes
	After time.Duration // when it takes the next batch, if nobody else's comes first; above zero
}

// Error implements error.
func (e *RateError) Error() string {
	return fmt.Sprintf("log %q: %v: it takes %d bytes per second, and more in %v", e.Log, ErrRateQuota, e.Rate, e.After.Round(time.Millisecond))
}

// Unwrap returns ErrRateQuota.
func (e *RateError) Unwrap() error { return ErrRateQuota }

// A SealedError is an ErrSealed with its figures.
type SealedError struct {
	Log    string
	Next   LSN // no record ever gets it
	Sealed time.Time
}

// Error implements error.
func (e *SealedError) Error() string {
	return fmt.Sprintf("log %q: %v: it ends with LSN %d, for good", e.Log, ErrSealed, e.Next-1)
}

// Unwrap returns ErrSealed.
func (e *SealedError) Unwrap() error { return ErrSealed }

// A FencedError is an ErrFenced with its figures.
type FencedError struct {
	Log     string
	Epoch   Epoch // that was stated; 0 for none
	Current Epoch
	Holder  string // of the current one; empty if it has no writer
}

// Error implements error.
func (e *FencedError) Error() string {
	writer := "without a writer"
	if e.Holder != "" {
		writer = fmt.Sprintf("whose writer is %q", e.Holder)
	}
	if e.Epoch == 0 {
		return fmt.Sprintf("log %q: no epoch: %v: it is in epoch %d, %s", e.Log, ErrFenced, e.Current, writer)
	}
	return fmt.Sprintf("log %q: epoch %d: %v: it is in epoch %d, %s", e.Log, e.Epoch, ErrFenced, e.Current, writer)
}

// Unwrap returns ErrFenced.
func (e *FencedError) Unwrap() error { return ErrFenced }

// A SequenceError is an ErrSequenceGap with its figures.
type SequenceError struct {
	Log       string
	Got, Want uint64
}

// Error implements error.
func (e *SequenceError) Error() string {
	return fmt.Sprintf("log %q: %v: got %d, want %d", e.Log, ErrSequenceGap, e.Got, e.Want)
}

// Unwrap returns ErrSequenceGap.
func (e *SequenceError) Unwrap() error { return ErrSequenceGap }

// A ConflictError is an ErrCheckpointConflict with its figures.
type ConflictError struct {
	Log, Checkpoint   string
	Expected, Version uint64 // 0 means that it does not exist
	// Deleted: it does not exist, and was not to, but some checkpoint of the log was
	// deleted since.
	Deleted bool
}

// Error implements error.
func (e *ConflictError) Error() string {
	if e.Deleted {
		return fmt.Sprintf("log %q: checkpoint %q: %v: one was deleted meanwhile", e.Log, e.Checkpoint, ErrCheckpointConflict)
	}
	return fmt.Sprintf("log %q: checkpoint %q: %v: expected %d, it is %d", e.Log, e.Checkpoint, ErrCheckpointConflict, e.Expected, e.Version)
}

// Unwrap returns ErrCheckpointConflict.
func (e *ConflictError) Unwrap() error { return ErrCheckpointConflict }

// A NoCheckpointError is an ErrCheckpointNotFound with the version that the checkpoint
// gets if it is set next: one more than any had that was deleted of the log, so that a
// version says which checkpoint of that name is meant, for as long as there is the log.
type NoCheckpointError struct {
	Log, Checkpoint string
	Next            uint64
}

// Error implements error.
func (e *NoCheckpointError) Error() string {
	return fmt.Sprintf("log %q: checkpoint %q: %v", e.Log, e.Checkpoint, ErrCheckpointNotFound)
}

// Unwrap returns ErrCheckpointNotFound.
func (e *NoCheckpointError) Unwrap() error { return ErrCheckpointNotFound }

// A DataLossError is an ErrDataLoss that says where.
type DataLossError struct {
	Log         string
	First, Last LSN // records that cannot be proven or read; 0 if not known
	Detail      string
	Err         error // the cause; may be nil
}

// Error implements error.
func (e *DataLossError) Error() string {
	return fmt.Sprintf("log %q: LSN %d to %d: %v: %s", e.Log, e.First, e.Last, ErrDataLoss, e.Detail)
}

// Unwrap returns ErrDataLoss and the cause.
func (e *DataLossError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrDataLoss}
	}
	return []error{ErrDataLoss, e.Err}
}

// engine is what a Volume offers, in one place for readers of this package and
// the compiler: *Volume and *Appender implement it.
var (
	_ engine   = (*Volume)(nil)
	_ appender = (*Appender)(nil)
	_ reader   = (*Reader)(nil)
)

type engine interface {
	Recovery() Recovery
	Status() Status
	State() (state VolumeState, detail string)
	Stalled() (s *Stall, changed <-chan struct{})
	Close() error

	CreateLog(ctx context.Context, name string, o LogOptions) (info LogInfo, created bool, err error)
	Log(name string) (LogInfo, error)
	ListLogs(prefix, after string, limit int) (logs []LogInfo, more bool)
	DeleteLog(ctx context.Context, name string, id ulid.ULID) error
	SealLog(ctx context.Context, name string, expected *Epoch) (LogInfo, error)
	Truncate(ctx context.Context, name string, first LSN) (LogInfo, error)

	AcquireWriter(ctx context.Context, log string, a Acquire) (Writer, error)
	ReleaseWriter(ctx context.Context, log string, epoch Epoch) (LogInfo, error)
	Rewind(ctx context.Context, log string, r Rewind) (Rewound, error)

	OpenProducer(ctx context.Context, log string, producer ulid.ULID) (ProducerInfo, error)
	ReopenProducer(ctx context.Context, log string, producer ulid.ULID, acknowledged uint64) (ProducerInfo, error)
	Producers(log string, after ulid.ULID, limit int) (producers []KnownProducer, more bool, err error)
	RetireProducer(ctx context.Context, log string, producer ulid.ULID) error
	Resolve(ctx context.Context, log string, producer ulid.ULID, sequence uint64, epoch Epoch) (Resolution, error)
	NewAppender(notify func()) *Appender
	Append(ctx context.Context, log string, producer ulid.ULID, epoch Epoch, b Batch) (Verdict, error)
	AppendBehind(ctx context.Context, log string, producer ulid.ULID, epoch Epoch, c Claim, b Batch) (Verdict, error)

	ID() ulid.ULID
	MaxBatch() int
	VerifyReceipt(r Receipt) (ReceiptFinding, error)
	CheckClaim(log string, c Claim) error
	At(log string, t time.Time) (LSN, error)
	NewReader(log string, o ReadOptions) (*Reader, error)
	WaitDurable(ctx context.Context, log string, lsn LSN) (LSN, error)
	WaitDurableIn(ctx context.Context, log string, epoch Epoch, lsn LSN) (LSN, error)
	NextDurable(ctx context.Context, log string, epoch Epoch, after LSN, told Epoch) (LogInfo, error)

	SetCheckpoint(ctx context.Context, log string, cp Checkpoint, expected *uint64) (Checkpoint, error)
	SetCheckpointIn(ctx context.Context, log string, epoch Epoch, cp Checkpoint, expected *uint64) (Checkpoint, error)
	Checkpoint(ctx context.Context, log, name string) (Checkpoint, error)
	Checkpoints(log string) ([]Checkpoint, error)
	DeleteCheckpoint(ctx context.Context, log, name string, expected *uint64) error

	SetCursor(ctx context.Context, log string, u CursorUpdate) (Cursor, error)
	Cursor(log, name string) (Cursor, error)
	Cursors(log string) ([]Cursor, error)
	DeleteCursor(ctx context.Context, log, name string, expected *LSN) error

	Holders(prefix, after string, limit int) (holders []Holder, last string, more bool)
	VolumeHolders() ([]Holder, error)
}

// appender is one append stream's seat on the bus. One goroutine may call Bind,
// Reset, Refuse and Append; another one Take. notify is called, on the bus's goroutine
// and without blocking allowed, when Take has something new, unless the frame
// landed on the goroutine that is inside Append: that one calls Take itself.
type appender interface {
	// Bind opens a log for appending. producer zero means none.
	Bind(log string, producer Producer, epoch Epoch, c Claim) (*Binding, LogInfo, ProducerInfo, error)
	// Reset lets a binding append again after a refusal.
	Reset(b *Binding)
	// Refuse has a binding refuse as behind a refusal.
	Refuse(b *Binding)
	// Append sequences batches, in order; every one of them gets a verdict
	// through Take, in order. It blocks while the bus is full. The error is for
	// the stream as a whole (poisoned, closed); verdicts of batches taken
	// before are still delivered.
	Append(ctx context.Context, batches []Batch) error
	// Take appends to dst the verdicts that may be told by now, in order.
	Take(dst []Verdict) []Verdict
	// TellWritten has notify called, too, when Written has grown: it comes before
	// the first Append.
	TellWritten()
	// Written returns how many batches, from the first, are at least written.
	Written() uint64
	// Pending returns how many verdicts are still out.
	Pending() int
	// Close gives the seat up. What was sequenced lands all the same.
	Close()
}

type reader interface {
	// Next returns the next span; io.EOF at the end unless following, in which
	// case it waits for more or for ctx.
	Next(ctx context.Context) (Span, error)
	Close() error
}
