// Package limits holds every bound of walsvc in one place, with the relations
// between them proven by the compiler. A bound that a client can meet is also
// told by AdminService.GetServerInfo and listed in docs/limits.md, which a
// test compares with this file.
package limits

import "time"

// Bytes on disk.
const (
	// BlockSize is the alignment of frames in a segment, in bytes: no sector
	// that holds acknowledged bytes is ever written again. 4 KiB is the largest
	// physical sector in common use.
	BlockSize = 4 << 10

	// SegmentHeaderSize is the space a segment's header takes, in bytes.
	SegmentHeaderSize = BlockSize

	// FrameHeaderSize is the size of a frame's header, in bytes.
	FrameHeaderSize = 128

	// DefaultSegmentSize is the size of a segment file unless chosen otherwise
	// when the volume is created, in bytes.
	DefaultSegmentSize = 64 << 20

	// MinSegmentSize and MaxSegmentSize bound what may be chosen. The minimum is
	// for tests, which want to roll after a few appends.
	MinSegmentSize = 64 << 10
	MaxSegmentSize = 1 << 30

	// MaxFrameSize bounds one frame on disk, header and padding included, in bytes.
	MaxFrameSize = 32 << 20

	// MaxDirectorySize bounds a frame's directory, in bytes.
	MaxDirectorySize = 8 << 20

	// MaxBlocksPerFrame bounds the block table of a directory.
	MaxBlocksPerFrame = 4096

	// MaxBlockRawSize bounds what a block may decompress to, in bytes.
	MaxBlockRawSize = 16 << 20

	// MaxSealSize bounds the directory of a seal: the index of a segment, in bytes.
	MaxSealSize = 2 << 20

	// MaxSegments bounds the segments of a volume.
	MaxSegments = 1 << 20

	// MaxSpares bounds the spare segments kept; what is recycled beyond it is deleted.
	MaxSpares = 8
)

// Records, batches and frames in memory.
const (
	// MaxRecordSize bounds one record, in bytes.
	MaxRecordSize = 4 << 20

	// MaxBatchSize bounds the encoded records of one batch, in bytes.
	MaxBatchSize = 8 << 20

	// MaxBatchRecords bounds the records of one batch.
	MaxBatchRecords = 1 << 16

	// MaxBatchLogs bounds the logs that one batch appends to, its lead included.
	MaxBatchLogs = 16

	// MaxMessageSize bounds one gRPC message in either direction, in bytes.
	MaxMessageSize = 16 << 20

	// MaxBatchesPerMessage bounds the batches of one append message.
	MaxBatchesPerMessage = 4096

	// TargetBlockSize is when a block of a frame is closed and compressed, in raw bytes.
	TargetBlockSize = 128 << 10

	// FrameFullSize is when a frame under construction takes no further message
	// and appenders wait, in raw bytes.
	FrameFullSize = 4 << 20

	// LoneFrameSize is the largest frame that its only appender takes to the disk
	// itself, in raw bytes.
	LoneFrameSize = 16 << 10

	// DirectWriteSize is from how many bytes on a single write bypasses the page
	// cache, where the file system takes that, even while what is written is read
	// back at once.
	DirectWriteSize = 1 << 20

	// ReadBackFactor is how many bytes are written through the page cache for each byte
	// that was read of the file that is being written: who follows one log of a few
	// reads a part of it.
	ReadBackFactor = 4

	// MaxReadBack bounds what is written through the page cache for what was read, in
	// bytes, until more is read.
	MaxReadBack = 4 << 20

	// MaxCommandsPerFrame bounds the commands of one frame.
	MaxCommandsPerFrame = 1 << 15

	// MaxCommandsTogether bounds the commands that ride in one frame because they have
	// to land together: what a batch appends, and what is moved or given up at a time.
	MaxCommandsTogether = 1 << 13

	// FrameFullCommands is when a frame takes nobody more, counted in commands:
	// whatever has to ride together still fits.
	FrameFullCommands = MaxCommandsPerFrame - MaxCommandsTogether + 1
)

// Names and counts.
const (
	// MaxLogNameBytes, MaxCheckpointNameBytes, MaxCursorNameBytes and MaxLabelBytes
	// bound names, in bytes.
	MaxLogNameBytes        = 255
	MaxCheckpointNameBytes = 127
	MaxCursorNameBytes     = 127
	MaxLabelBytes          = 255

	// MaxHolderNameBytes bounds the name of who holds a log's writer, in bytes.
	MaxHolderNameBytes = 127

	// MaxLabels bounds the labels of one log.
	MaxLabels = 16

	// MaxLogs bounds the logs of a volume.
	MaxLogs = 1 << 20

	// MinLogRate and MaxLogRate bound the rate of appends that a log may be
	// created with, in bytes per second. At the minimum the largest batch keeps
	// others out for over two hours, and less would look like a log that hangs.
	MinLogRate = 1 << 10
	MaxLogRate = 1 << 40

	// MaxCheckpointsPerLog bounds the checkpoints of one log.
	MaxCheckpointsPerLog = 64

	// MaxCursorsPerLog bounds the cursors of one log, those that are lost included.
	MaxCursorsPerLog = 64

	// DefaultCursorCap is how many live bytes of its log a cursor may hold unless
	// chosen otherwise when it is set.
	DefaultCursorCap = 1 << 30

	// MaxCursorCap bounds what may be chosen, in bytes. What may hold without end is
	// a policy of its own.
	MaxCursorCap = 1 << 50

	// CursorExtendedPercent and CursorAtRiskPercent are how much of its cap a cursor
	// holds when it is called extended, and at risk.
	CursorExtendedPercent = 50
	CursorAtRiskPercent   = 90

	// MaxRewinds bounds the rewinds that a log remembers: those behind which it still
	// keeps LSNs of records that were discarded, and that no later one passed.
	MaxRewinds = 64

	// MaxLostRanges bounds the lost ranges of LSNs that a log remembers from
	// repairs. Of more, the oldest are forgotten: reading there still finds
	// nothing, and says so record by record.
	MaxLostRanges = 4096

	// MaxMovedBytes and MaxMovedBatches bound what a log may have for its records to
	// be moved forward when they alone keep segments, in framed bytes and in batches;
	// and what is moved in one frame.
	MaxMovedBytes   = 1 << 20
	MaxMovedBatches = 4096

	// MoveGain is how many times the bytes that are moved have to become free by it.
	MoveGain = 8

	// MoveRate is how many bytes of records are moved per second.
	MoveRate = 16 << 20

	// MaxCheckpointState bounds the opaque state of a checkpoint, in bytes.
	MaxCheckpointState = 1 << 20

	// MaxProducersPerLog bounds the producers a log remembers: the one that has
	// not appended for longest makes way for one more.
	MaxProducersPerLog = 1024

	// MaxFormerProducers bounds the producers a log remembers that made way: how far
	// they had come, and whether they were retired. Of more, those that made way
	// first are forgotten.
	MaxFormerProducers = 4096

	// ProducerWindow is how many of a producer's last batches are remembered for
	// retries, and so the most a producer may have unacknowledged.
	ProducerWindow = 64

	// MaxPageSize bounds a page of a listing.
	MaxPageSize = 1000

	// HoldersPerPage is with how many holders a page of them ends, however many logs
	// it was to be of: behind the log that has the last one.
	HoldersPerPage = 1 << 13
)

// Streams.
const (
	// StreamCreditBytes and StreamCreditBatches bound what one append stream may
	// have sent and not yet seen acknowledged as durable: what is written and not synced
	// of a stream, and so at risk, is no more.
	StreamCreditBytes   = 16 << 20
	StreamCreditBatches = 8192

	// MaxBindingsPerStream bounds the logs one append stream has open.
	MaxBindingsPerStream = 1 << 14

	// MaxStreams bounds the streams of one connection.
	MaxStreams = 4096

	// MaxConnections bounds the connections of one service.
	MaxConnections = 4096

	// ReservedFiles is how many of the files that a process may have open are kept
	// from connections: a segment that cannot be opened poisons the volume.
	ReservedFiles = 256

	// ReplayMessageSize is when a replay message is sent off, in bytes of records.
	ReplayMessageSize = 256 << 10

	// ReplayReadAhead is how much the disk is asked to read ahead of a replay, in
	// bytes: what it reads while one message is on its way, with something to spare.
	ReplayReadAhead = 8 << 20

	// ReplayFramesAhead is how many frames ahead a replay of a log that is spread thin
	// asks the disk for what it will need of them.
	ReplayFramesAhead = 128

	// MaxReplays bounds the replays running at once.
	MaxReplays = 1024

	// MaxOpenSegments bounds the segment files that readers of a volume have open.
	MaxOpenSegments = 16

	// MaxDamage bounds the damage that a scan lists one by one; the rest is counted.
	MaxDamage = 1000
)

// Time.
const (
	// IdlePromiseDelay is how long after the last append a small frame gives the
	// last acknowledgement its promise.
	IdlePromiseDelay = 50 * time.Millisecond

	// HeartbeatInterval is how often a follower hears the durable LSN when
	// nothing else comes.
	HeartbeatInterval = 5 * time.Second

	// PinLimit is how long an open reader keeps a released segment from being recycled.
	PinLimit = 10 * time.Second

	// OpenSegmentIdle is how long a segment stays open for readers that no
	// longer ask for it.
	OpenSegmentIdle = 2 * time.Second

	// StallAfter is how long an operation of the disk is under way before the
	// volume says DISK_STALLED.
	StallAfter = 2 * time.Second

	// DrainDeadline bounds an orderly stop unless chosen otherwise.
	DrainDeadline = 10 * time.Second

	// AdminTimeout is how long a client of the admin address may take for its
	// request, again for the answer, unless that is a profile, and keep a
	// connection that it does not use.
	AdminTimeout = 10 * time.Second

	// MaxAdminHeaderBytes is how much that header may have.
	MaxAdminHeaderBytes = 16 << 10

	// MaxAdminConnections bounds the connections of the admin address; others wait.
	MaxAdminConnections = 64

	// MaxScrapes is how many requests for metrics are answered at one time;
	// others are told 503.
	MaxScrapes = 4
)

// Certifying disks.
const (
	// MaxWitnessLine bounds a line that a witness is sent, in bytes.
	MaxWitnessLine = 256

	// MaxWitnessRuns bounds the runs that a witness remembers.
	MaxWitnessRuns = 1024

	// MaxWitnessConnections bounds the connections of a witness.
	MaxWitnessConnections = 64
)

// Relations: a negative constant does not convert to uint64, so what does not
// hold does not compile.
const (
	_ = uint64(MaxBatchSize - MaxRecordSize - 16)                                               // any legal record fits a batch
	_ = uint64(MaxMessageSize - MaxBatchSize - 4096)                                            // any legal batch fits a message
	_ = uint64(MaxBlockRawSize - MaxBatchSize - TargetBlockSize)                                // any legal batch fits a block already begun
	_ = uint64(MaxFrameSize - MaxDirectorySize - MaxMessageSize - FrameFullSize - BlockSize)    // a frame that was not full takes any message
	_ = uint64(DefaultSegmentSize - SegmentHeaderSize - MaxFrameSize - MaxSealSize - BlockSize) // a fresh segment takes any frame and its seal
	_ = uint64(MaxCommandsTogether - 2*MaxMovedBatches)                                         // copies ride together, with a truncation for each log
	_ = uint64(MaxCommandsTogether - MaxBatchLogs)                                              // so does what a batch appends
	_ = uint64(MaxBatchSize - MaxCheckpointState)                                               // a checkpoint's state fits where a batch fits
	_ = uint64(MaxMessageSize - (HoldersPerPage+MaxCheckpointsPerLog+MaxCursorsPerLog)*1024)    // a page of holders, of two names each, fits a message
)
