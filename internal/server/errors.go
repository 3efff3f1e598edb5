package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
	"github.com/walsvc/walsvc/wal"
)

// Domain is the ErrorInfo domain of every error of the service.
const Domain = "walsvc"

// Refusals and failures that are the service's own; the engine's are in package wal.
var (
	ErrDraining       = errors.New("service is stopping")                          // another process, or this one restarted, will take it
	ErrOutcomeUnknown = errors.New("outcome unknown after a failed write")         // it may be durable; Volume poisoned
	ErrCreditExceeded = errors.New("more unacknowledged than the stream's credit") //
	ErrRateLimited    = errors.New("too many calls per second")                    //
	ErrTooManyReplays = errors.New("too many replays at once")                     //
	ErrInternal       = errors.New("internal error")                               // a bug: the log has the cause under the request's id
)

// A Row is one line of the error table: what the engine or the service says,
// and what a client hears.
type Row struct {
	Err    error      // the sentinel that errors.Is finds
	Code   codes.Code // of the status, or in a Refusal
	Reason string     // stable; ErrorInfo.reason and Refusal.reason
	// Retry, if not zero, goes out as RetryInfo, unless the error knows better: the
	// same call may succeed later without anybody doing anything.
	Retry time.Duration
	// Means says what happened, Hint what to do next, each in whole sentences for
	// people; walctl explain prints all of a row.
	Means, Hint string
	// Effect is what the call left behind.
	Effect Effect
	// Retried names what the Go client repeats by itself when it hears this, as
	// long as the caller's context lasts; empty if it leaves that to the caller.
	Retried string

	// spoken: the error's own text speaks of the caller's input and goes out.
	// Otherwise only the sentinel's text does: causes name files of the host.
	spoken bool
}

// An Effect says what a call left behind that ended with an error.
type Effect uint8

const (
	// Nothing was changed or made durable, nor will be, and no sequence was used up.
	Nothing Effect = iota + 1
	// Unknown is what may be durable by now, or be found durable at the next start.
	Unknown
)

// String returns the effect's name: "nothing" or "unknown".
func (e Effect) String() string {
	switch e {
	case Nothing:
		return "nothing"
	case Unknown:
		return "unknown"
	}
	return "effect " + strconv.Itoa(int(e))
}

// Table is the one place where errors meet the wire: statuses of calls and
// Refusals inside an append stream are both made from it, and a client reads it
// backwards by Reason. No two rows have the same Err or Reason.
//
// A caller may repeat a call that failed with ABORTED after it has looked again,
// one with RetryInfo as it is, and none of the others before something changed.
var Table = []Row{
	{Err: wal.ErrInvalidName, Code: codes.InvalidArgument, Reason: "INVALID_NAME", spoken: true,
		Means: "A name of a log or a checkpoint is empty, too long or has characters that names cannot have.", Effect: Nothing,
		Hint: "Names begin with a letter or digit and go on with letters, digits and . _ - /; logs have at most 255 bytes, checkpoints and cursors 127."},
	{Err: wal.ErrInvalid, Code: codes.InvalidArgument, Reason: "INVALID", spoken: true,
		Means: "A field of the request has a value that it cannot have.", Effect: Nothing,
		Hint: "The message says which field is wrong and what it may be."},
	{Err: wal.ErrEmptyBatch, Code: codes.InvalidArgument, Reason: "EMPTY_BATCH", spoken: true,
		Means: "A batch came without records.", Effect: Nothing,
		Hint: "A batch has at least one record; a record may be empty."},
	{Err: wal.ErrMalformed, Code: codes.InvalidArgument, Reason: "MALFORMED", spoken: true,
		Means: "The bytes of a batch are not records as the API spells them.", Effect: Nothing,
		Hint: "The records are not an encoded walsvc.v1.Records message with minimal varints; encode them with a protobuf library."},
	{Err: wal.ErrTooLarge, Code: codes.InvalidArgument, Reason: "TOO_LARGE", spoken: true,
		Means: "A record, a batch or a checkpoint's state is over its limit.", Effect: Nothing,
		Hint: "See AdminService.GetServerInfo for the limits, and the log's max_record_bytes."},

	{Err: wal.ErrLogNotFound, Code: codes.NotFound, Reason: "LOG_NOT_FOUND", spoken: true,
		Means: "There is no log of that name, or the one that was meant has been deleted.", Effect: Nothing,
		Hint: "Create the log first, or look for its name with ListLogs."},
	{Err: wal.ErrLogExists, Code: codes.AlreadyExists, Reason: "LOG_EXISTS", spoken: true,
		Means: "There is a log of that name, with other options than those asked for.", Effect: Nothing,
		Hint: "The log was created with other options; use GetLog, or choose another name."},
	{Err: wal.ErrTooManyLogs, Code: codes.ResourceExhausted, Reason: "TOO_MANY_LOGS",
		Means: "The volume has as many logs as it may have.", Effect: Nothing,
		Hint: "Delete logs that are no longer needed."},
	{Err: wal.ErrQuota, Code: codes.ResourceExhausted, Reason: "QUOTA", spoken: true, Retry: time.Second,
		Means: "The log keeps as many bytes of records as its quota allows.", Effect: Nothing,
		Hint: "Move the log's checkpoints and cursors forward, or truncate it; its quota counts what it keeps."},
	{Err: wal.ErrRateQuota, Code: codes.ResourceExhausted, Reason: "RATE_QUOTA", spoken: true, Retry: time.Second,
		Means: "The log has taken as many bytes of records within a second as its rate allows.", Effect: Nothing,
		Retried: "appends without an expected LSN, when the answer says",
		Hint:    "Wait as long as the answer says, then append it again; rate_bytes among the log's options is its rate."},

	{Err: wal.ErrSealed, Code: codes.FailedPrecondition, Reason: "SEALED", spoken: true,
		Means: "The log was sealed: nothing is appended behind its end any more, by nobody.", Effect: Nothing,
		Hint: "The log has ended for good, at next_lsn less one. Read it to its end; append to another log."},
	{Err: wal.ErrFenced, Code: codes.FailedPrecondition, Reason: "FENCED", spoken: true,
		Means: "The call speaks for an epoch of the log that is over, or for none while the log has a writer.", Effect: Nothing,
		Hint: "Another writer has begun a newer epoch. Stop writing: this writer's view of the log may be old; current_epoch and writer say who is. To take over, acquire the writer and read what it wrote."},
	{Err: wal.ErrLSNMismatch, Code: codes.Aborted, Reason: "LSN_MISMATCH", spoken: true,
		Means: "The append was to get a certain LSN, and the log's next one is another.", Effect: Nothing,
		Hint: "Somebody else appended. Read from expected_lsn on, then decide again."},
	{Err: wal.ErrAfterRefusal, Code: codes.Aborted, Reason: "AFTER_REFUSAL",
		Means: "A batch that was sent behind a refused one is refused too, so that the log gets no hole.", Effect: Nothing,
		Retried: "appends without an expected LSN",
		Hint:    "An earlier batch of this binding was refused. Deal with that one, then reset the binding."},
	{Err: wal.ErrSequenceGap, Code: codes.FailedPrecondition, Reason: "SEQUENCE_GAP", spoken: true,
		Means: "A batch has a later sequence than the producer's next one.", Effect: Nothing,
		Hint: "Send the producer's batches in order and without gaps; want_sequence is the next one."},
	{Err: wal.ErrSequenceReuse, Code: codes.FailedPrecondition, Reason: "SEQUENCE_REUSE", spoken: true,
		Means: "A batch has a sequence that the producer used for other records.", Effect: Nothing,
		Hint: "Two batches of one producer had the same sequence and different records. Give each process a producer of its own."},
	{Err: wal.ErrSuperseded, Code: codes.FailedPrecondition, Reason: "SUPERSEDED", spoken: true,
		Means: "The producer was bound on another stream since, or what became of its batches was resolved.", Effect: Nothing,
		Hint: "Who bound or resolved the producer took over, and knows what landed. Give each process a producer of its own; to go on as this one, open it again."},
	{Err: wal.ErrNoProducer, Code: codes.FailedPrecondition, Reason: "NO_PRODUCER", spoken: true,
		Means: "The append names a producer that is not open on the log.", Effect: Nothing,
		Hint: "Open the producer on this log with OpenProducer before it appends; one that is idle makes way when very many others are opened."},

	{Err: wal.ErrRetired, Code: codes.FailedPrecondition, Reason: "PRODUCER_RETIRED", spoken: true,
		Means: "The producer was retired: nothing more of it is taken.", Effect: Nothing,
		Hint: "Somebody ended this producer for good. Find out why; to append again, open a producer with another ULID."},
	{Err: wal.ErrForgotten, Code: codes.FailedPrecondition, Reason: "PRODUCER_FORGOTTEN", spoken: true,
		Means: "The producer was acknowledged batches that the log no longer knows of.", Effect: Nothing,
		Hint: "Open a producer with another ULID, and look in the log for what had no verdict."},

	{Err: wal.ErrDuplicateLog, Code: codes.InvalidArgument, Reason: "DUPLICATE_LOG", spoken: true,
		Means: "A batch over several logs names one of them twice.", Effect: Nothing,
		Hint: "Put all records for a log into one part of the batch."},
	{Err: wal.ErrNotColocated, Code: codes.FailedPrecondition, Reason: "NOT_COLOCATED", spoken: true,
		Means: "A batch is over logs that do not have the same colocation key, or have none.", Effect: Nothing,
		Hint: "Create logs that are appended to together with one colocation_key; options of a log do not change."},

	{Err: wal.ErrLSNAhead, Code: codes.OutOfRange, Reason: "LSN_AHEAD", spoken: true,
		Means: "An LSN is beyond the log's durable end.", Effect: Nothing,
		Hint: "The log ends below that LSN. If it was acknowledged once, this is another history: stop and look."},
	{Err: wal.ErrLSNTruncated, Code: codes.OutOfRange, Reason: "LSN_TRUNCATED", spoken: true,
		Means: "Records that were asked for have been truncated.", Effect: Nothing,
		Hint: "Those records were given up. Begin at first_lsn, from a checkpoint or a copy that covers what is below."},
	{Err: wal.ErrDataLoss, Code: codes.DataLoss, Reason: "DATA_LOSS", spoken: true,
		Means: "The service cannot read, or cannot prove to have, what was acknowledged once.", Effect: Nothing,
		Hint: "Acknowledged records are missing or damaged. Do not append; run walctl verify on the volume and restore from another copy."},
	{Err: wal.ErrReadFailed, Code: codes.Internal, Reason: "READ_FAILED",
		Means: "The disk returned an error instead of records.", Effect: Nothing,
		Hint: "The disk failed to read, which says nothing of what lies there. Repeat it; if it fails again, look at the service's log and its disk."},

	{Err: wal.ErrCheckpointNotFound, Code: codes.NotFound, Reason: "CHECKPOINT_NOT_FOUND", spoken: true,
		Means: "The log has no checkpoint of that name.", Effect: Nothing,
		Hint: "Set the checkpoint first, or look for its name with ListCheckpoints."},
	{Err: wal.ErrCheckpointBackwards, Code: codes.FailedPrecondition, Reason: "CHECKPOINT_BACKWARDS", spoken: true,
		Means: "The checkpoint stands at a higher LSN already.", Effect: Nothing,
		Hint: "A checkpoint never moves back: records below it may be gone. Delete it first if that is meant."},
	{Err: wal.ErrCheckpointConflict, Code: codes.Aborted, Reason: "CHECKPOINT_CONFLICT", spoken: true,
		Means: "The checkpoint has another version than the one that was to be replaced, or would get another one.", Effect: Nothing,
		Hint: "Somebody else set or deleted the checkpoint. Get it, then decide again."},
	{Err: wal.ErrTooManyCheckpoints, Code: codes.ResourceExhausted, Reason: "TOO_MANY_CHECKPOINTS",
		Means: "The log has as many checkpoints as it may have.", Effect: Nothing,
		Hint: "Delete checkpoints that nobody recovers from any more."},
	{Err: wal.ErrHeld, Code: codes.FailedPrecondition, Reason: "HELD", spoken: true,
		Means: "A truncation would pass the log's lowest checkpoint or cursor, or a rewind discard what a checkpoint covers.", Effect: Nothing,
		Hint: "A checkpoint or cursor holds the records; the message says which. Move it forward for a truncation, or delete it."},

	{Err: wal.ErrCursorNotFound, Code: codes.NotFound, Reason: "CURSOR_NOT_FOUND", spoken: true,
		Means: "The log has no cursor of that name.", Effect: Nothing,
		Hint: "Set the cursor first, or look for its name with ListCursors."},
	{Err: wal.ErrCursorBackwards, Code: codes.FailedPrecondition, Reason: "CURSOR_BACKWARDS", spoken: true,
		Means: "The cursor stands at a higher LSN already.", Effect: Nothing,
		Hint: "Ask for a reset if going back is meant; records below it may be gone."},
	{Err: wal.ErrCursorConflict, Code: codes.Aborted, Reason: "CURSOR_CONFLICT", spoken: true,
		Means: "The cursor is not where it was expected to be, or is there and was to be new.", Effect: Nothing,
		Hint: "Somebody else moved the cursor. Get it, then decide again: two readers may share its name."},
	{Err: wal.ErrCursorLost, Code: codes.DataLoss, Reason: "CURSOR_LOST", spoken: true,
		Means: "The cursor held more than its cap and was evicted; what is behind it may be gone.", Effect: Nothing,
		Hint: "Bring the reader up to date from another source, then set the cursor with a reset, and with a larger cap if it needs one."},
	{Err: wal.ErrTooManyCursors, Code: codes.ResourceExhausted, Reason: "TOO_MANY_CURSORS",
		Means: "The log has as many cursors as it may have.", Effect: Nothing,
		Hint: "Delete cursors of readers that are gone."},

	{Err: wal.ErrRewound, Code: codes.FailedPrecondition, Reason: "REWOUND", spoken: true,
		Means: "The log was rewound: what the caller was told of, from some LSN on, was discarded.", Effect: Nothing,
		Hint: "kept_lsn is the last record that stayed. Undo what was done with those behind it, then go on from there, in the log's present epoch; a cursor is set with a reset."},
	{Err: wal.ErrDiscarded, Code: codes.FailedPrecondition, Reason: "DISCARDED", spoken: true,
		Means: "The batch was committed, and a rewind of the log has discarded it since, or its end; it is not appended again.", Effect: Nothing,
		Hint: "Its sequence stays used. Read the log from kept_lsn on, and decide whether to append it anew, with the next sequence."},
	{Err: wal.ErrTooManyRewinds, Code: codes.ResourceExhausted, Reason: "TOO_MANY_REWINDS", spoken: true,
		Means: "The log was rewound as often as it can remember, and still keeps LSNs of what each of them discarded.", Effect: Nothing,
		Hint: "Move the log's checkpoints forward or truncate it, beyond what the oldest rewind discarded; GetLog says where that is."},

	{Err: wal.ErrFull, Code: codes.ResourceExhausted, Reason: "FULL", Retry: time.Second,
		Means: "There is no written space left to append to, and none could be prepared.", Effect: Nothing,
		Hint: "The disk is full. Truncate, move checkpoints forward or make room; appends resume by themselves."},
	{Err: wal.ErrReadOnly, Code: codes.FailedPrecondition, Reason: "READ_ONLY",
		Means: "Recovery found damage to what was acknowledged; the volume is read and not written.", Effect: Nothing,
		Hint: "The volume was opened read-only because of damage; GetStatus says where."},
	{Err: wal.ErrPoisoned, Code: codes.FailedPrecondition, Reason: "POISONED",
		Means: "A write or sync of the volume failed before this call; it was refused before it began.", Effect: Nothing,
		Hint: "A write or sync failed. Look at the disk, then restart the service; it takes nothing before that."},
	{Err: wal.ErrClosed, Code: codes.Unavailable, Reason: "CLOSED", Retry: time.Second,
		Means: "The volume was closed before the call reached it.", Effect: Nothing,
		Retried: "appends, replays, waits, and calls that change nothing or may be repeated",
		Hint:    "The service has stopped. Connect again."},
	{Err: ErrDraining, Code: codes.Unavailable, Reason: "DRAINING", Retry: time.Second,
		Means: "The service is about to stop and takes nothing new.", Effect: Nothing,
		Retried: "appends, replays, waits, and calls that change nothing or may be repeated",
		Hint:    "The service is stopping. What got no verdict was not appended; connect again."},
	{Err: ErrOutcomeUnknown, Code: codes.Internal, Reason: "OUTCOME_UNKNOWN",
		Means: "A write or sync failed, or the service was stopped, while the call was under way.", Effect: Unknown,
		Hint: "A write or sync failed while this was in flight. After a restart, repeat it with the same producer and sequence, or resolve it."},

	{Err: ErrCreditExceeded, Code: codes.ResourceExhausted, Reason: "CREDIT_EXCEEDED",
		Means: "A stream sent more than it was granted, and is ended. What it sent before has its verdicts.", Effect: Nothing,
		Hint: "Wait for verdicts before sending more than the credit of the stream's first message."},
	{Err: ErrRateLimited, Code: codes.ResourceExhausted, Reason: "RATE_LIMITED", Retry: 100 * time.Millisecond,
		Means: "More administrative calls came within a second than --admin-rate allows.", Effect: Nothing,
		Retried: "the calls that open a log for appending",
		Hint:    "Call less often, or raise --admin-rate."},
	{Err: ErrTooManyReplays, Code: codes.ResourceExhausted, Reason: "TOO_MANY_REPLAYS", Retry: time.Second,
		Means: "As many replays are under way as there may be.", Effect: Nothing,
		Hint: "Share a replay between readers, or wait until one has ended."},
	{Err: ErrInternal, Code: codes.Internal, Reason: "INTERNAL",
		Means: "The service met an error that nobody foresaw.", Effect: Unknown,
		Hint: "This is a bug. Look for the request's id, the response header " + RequestIDHeader + ", in the service's log."},
}

// rowOf returns the first row whose error err is, and false for errors nobody
// foresaw.
func rowOf(err error) (Row, bool) {
	for _, row := range Table {
		if errors.Is(err, row.Err) {
			return row, true
		}
	}
	return Row{}, false
}

// Status returns what a call that failed with err answers: code, message,
// ErrorInfo with the figures, and RetryInfo if waiting helps. Statuses pass as
// they are; the end of a context becomes CANCELLED or DEADLINE_EXCEEDED, without
// an ErrorInfo, since it leaves the outcome open. Errors that are not in the
// Table become INTERNAL, with none of their text. Nil stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[grpcStatus](err); ok {
		return err
	}
	row, ok := rowOf(err)
	if !ok {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err).Err()
		}
		row, err = tableRow(ErrInternal), ErrInternal
	}
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: row.Reason, Domain: Domain, Metadata: figures(err)},
	}
	if after := retry(row, err); after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	st := status.New(row.Code, message(row, err))
	if detailed, derr := st.WithDetails(details...); derr == nil {
		st = detailed
	}
	return st.Err()
}

// Refusal returns the same as a Refusal inside an append stream.
func Refusal(err error) *walsvcv1.Refusal {
	row, ok := rowOf(err)
	if !ok {
		row, err = tableRow(ErrInternal), ErrInternal
	}
	metadata := figures(err)
	if after := retry(row, err); after > 0 {
		if metadata == nil {
			metadata = make(map[string]string, 1)
		}
		metadata["retry_ms"] = decimal(uint64(after.Milliseconds()))
	}
	return &walsvcv1.Refusal{Code: int32(row.Code), Reason: row.Reason, Message: message(row, err), Metadata: metadata}
}

// retry returns when the same call may succeed: in whole milliseconds, rounded
// up, or 0 if waiting alone does not help.
func retry(row Row, err error) time.Duration {
	if limited, ok := errors.AsType[*wal.RateError](err); ok {
		return (limited.After + time.Millisecond - 1).Truncate(time.Millisecond)
	}
	return row.Retry
}

// grpcStatus is what makes an error a status.
type grpcStatus interface {
	error
	GRPCStatus() *status.Status
}

// tableRow returns the row of a sentinel that is known to have one.
func tableRow(sentinel error) Row {
	row, _ := rowOf(sentinel)
	return row
}

// Bounds of what is said of one error, in bytes: its text, which quotes what the
// client sent, and everything beside it, of which names are the most. A text without
// one could end a whole connection, whose peer takes no such header; and refusals of all
// that a stream has out go into one message.
const (
	maxText   = 1 << 10
	maxBeside = 1 << 10

	_ = uint64(limits.MaxMessageSize - limits.StreamCreditBatches*(maxText+maxBeside))
)

func message(row Row, err error) string {
	if !row.spoken {
		return row.Err.Error()
	}
	text, more := err.Error(), "..."
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText-len(more)], "") + more
}

// figures returns an error's numbers for those who act on them: a copy of what
// the engine's error types hold. Nil if it has none.
func figures(err error) map[string]string {
	var (
		out      map[string]string
		outside  *wal.RangeError
		mismatch *wal.MismatchError
		sequence *wal.SequenceError
		limited  *wal.RateError
		conflict *wal.ConflictError
		none     *wal.NoCheckpointError
		sealed   *wal.SealedError
		fenced   *wal.FencedError
		loss     *wal.DataLossError
		cursor   *wal.CursorConflictError
		evicted  *wal.CursorLostError
		rewound  *wal.RewoundError
		gone     *wal.DiscardedError
		large    *records.TooLargeError
		part     *wal.PartError
	)
	switch {
	case errors.As(err, &loss):
		out = map[string]string{"log": loss.Log}
		if loss.First > 0 {
			maps.Copy(out, map[string]string{"first_lsn": decimal(loss.First), "last_lsn": decimal(loss.Last)})
		}
	case errors.As(err, &outside):
		out = map[string]string{
			"log": outside.Log, "lsn": decimal(outside.Asked),
			"first_lsn": decimal(outside.First), "next_lsn": decimal(outside.Next),
		}
		if !outside.Since.IsZero() {
			delete(out, "lsn")
			out["from_time"] = outside.Since.UTC().Format(time.RFC3339Nano)
		}
	case errors.As(err, &mismatch):
		out = map[string]string{
			"log": mismatch.Log, "expected_lsn": decimal(mismatch.Expected), "next_lsn": decimal(mismatch.Next),
		}
	case errors.As(err, &sequence):
		out = map[string]string{
			"log": sequence.Log, "sequence": decimal(sequence.Got), "want_sequence": decimal(sequence.Want),
		}
	case errors.As(err, &limited):
		out = map[string]string{"log": limited.Log, "rate_bytes": decimal(limited.Rate)}
	case errors.As(err, &conflict):
		out = map[string]string{
			"log": conflict.Log, "checkpoint": conflict.Checkpoint,
			"expected_version": decimal(conflict.Expected), "version": decimal(conflict.Version),
		}
	case errors.As(err, &none):
		out = map[string]string{"log": none.Log, "checkpoint": none.Checkpoint, "next_version": decimal(none.Next)}
	case errors.As(err, &sealed):
		out = map[string]string{
			"log": sealed.Log, "next_lsn": decimal(sealed.Next), "seal_time": sealed.Sealed.Format(time.RFC3339Nano),
		}
	case errors.As(err, &fenced):
		out = map[string]string{
			"log": fenced.Log, "epoch": decimal(fenced.Epoch), "current_epoch": decimal(fenced.Current), "writer": fenced.Holder,
		}
	case errors.As(err, &cursor):
		out = map[string]string{"log": cursor.Log, "cursor": cursor.Cursor}
		if cursor.Exists {
			out["lsn"] = decimal(cursor.LSN)
		}
		if cursor.Expected != nil {
			out["expected_lsn"] = decimal(*cursor.Expected)
		}
	case errors.As(err, &evicted):
		out = map[string]string{
			"log": evicted.Log, "cursor": evicted.Cursor, "lsn": decimal(evicted.LSN),
			"first_lsn": decimal(evicted.First), "next_lsn": decimal(evicted.Next), "cap_bytes": decimal(evicted.Cap),
		}
	case errors.As(err, &rewound):
		out = map[string]string{
			"log": rewound.Log, "lsn": decimal(rewound.LSN), "epoch": decimal(rewound.Epoch),
			"kept_lsn": decimal(rewound.Kept), "next_lsn": decimal(rewound.Next),
		}
		if rewound.Cursor != "" {
			out["cursor"] = rewound.Cursor
		}
	case errors.As(err, &gone):
		out = map[string]string{
			"log": gone.Log, "sequence": decimal(gone.Sequence), "first_lsn": decimal(gone.First), "count": decimal(uint64(gone.Count)),
			"epoch": decimal(gone.Rewound), "kept_lsn": decimal(gone.Kept),
		}
	case errors.As(err, &large):
		out = map[string]string{
			"record": decimal(uint64(large.Record)), "size": decimal(uint64(large.Size)), "limit": decimal(uint64(large.Limit)),
		}
	}
	// Of a batch over several logs the figures say which, whatever else they say.
	if errors.As(err, &part) {
		if out == nil {
			out = make(map[string]string, 1)
		}
		out["log"] = part.Log
	}
	return out
}

func decimal[N ~uint64](n N) string { return strconv.FormatUint(uint64(n), 10) }

// fail is Status for handlers: it also logs what nobody foresaw, whose text the
// client does not get.
func (s *Server) fail(ctx context.Context, err error) error {
	out := Status(err)
	if status.Code(out) == codes.Internal && !errors.Is(err, ErrOutcomeUnknown) {
		s.log.LogAttrs(ctx, slog.LevelError, "internal error", slog.String("request_id", requestID(ctx)), slog.Any("err", err))
	}
	return out
}

// failWrite is fail for unary calls that change something. That the volume ended
// under one that had been let in (see changing in chain.go) says nothing about
// its outcome.
func (s *Server) failWrite(ctx context.Context, err error) error { return s.fail(ctx, unsettled(err)) }

// unsettled turns the end of the volume into ErrOutcomeUnknown, for what was in
// flight then, or may have been.
func unsettled(err error) error {
	if errors.Is(err, wal.ErrPoisoned) || errors.Is(err, wal.ErrClosed) {
		return ErrOutcomeUnknown
	}
	return err
}

// isBare reports whether err is a status of that code without details, as gRPC
// and middleware make them.
func isBare(err error, code codes.Code) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == code && len(st.Details()) == 0
}
