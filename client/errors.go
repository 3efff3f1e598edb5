package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// What the service refuses or fails with. An error that came from the service is
// an *Error, with its figures, and Is one of these.
var (
	ErrInvalidName         = errors.New("malformed name")
	ErrInvalid             = errors.New("invalid argument")
	ErrEmptyBatch          = errors.New("empty batch")
	ErrMalformed           = errors.New("malformed records")
	ErrTooLarge            = errors.New("record or batch over the limit")
	ErrLogNotFound         = errors.New("log not found")
	ErrLogExists           = errors.New("log exists with other options")
	ErrTooManyLogs         = errors.New("too many logs")
	ErrQuota               = errors.New("log is over its quota")
	ErrRateQuota           = errors.New("log is over its rate")
	ErrSealed              = errors.New("log is sealed")
	ErrFenced              = errors.New("fenced by a newer epoch")
	ErrLSNMismatch         = errors.New("expected LSN does not match")
	ErrAfterRefusal        = errors.New("refused after an earlier refusal")
	ErrSequenceGap         = errors.New("producer sequence skips a batch")
	ErrSequenceReuse       = errors.New("producer sequence was used for other records")
	ErrSuperseded          = errors.New("producer was bound again by a later stream")
	ErrNoProducer          = errors.New("producer is not open on this log")
	ErrRetired             = errors.New("producer is retired")
	ErrForgotten           = errors.New("producer's batches are no longer remembered")
	ErrDuplicateLog        = errors.New("batch names a log twice")
	ErrNotColocated        = errors.New("logs of one batch share no colocation key")
	ErrLSNAhead            = errors.New("LSN is beyond the durable end")
	ErrLSNTruncated        = errors.New("LSN is truncated")
	ErrDataLoss            = errors.New("acknowledged data is missing or damaged")
	ErrReadFailed          = errors.New("disk of the service failed to read")
	ErrCheckpointNotFound  = errors.New("checkpoint not found")
	ErrCheckpointBackwards = errors.New("checkpoint would move backwards")
	ErrCheckpointConflict  = errors.New("checkpoint has another version")
	ErrTooManyCheckpoints  = errors.New("too many checkpoints on this log")
	ErrHeld                = errors.New("records are held")
	ErrCursorNotFound      = errors.New("cursor not found")
	ErrCursorBackwards     = errors.New("cursor would move backwards")
	ErrCursorConflict      = errors.New("cursor is elsewhere")
	ErrCursorLost          = errors.New("cursor has lost records")
	ErrTooManyCursors      = errors.New("too many cursors on this log")
	ErrRewound             = errors.New("log was rewound")
	ErrDiscarded           = errors.New("committed, then discarded by a rewind")
	ErrTooManyRewinds      = errors.New("too many rewinds of this log")
	ErrFull                = errors.New("disk is full")
	ErrReadOnly            = errors.New("volume is read-only")
	ErrPoisoned            = errors.New("volume is poisoned by a failed write")
	ErrUnavailable         = errors.New("service is stopping or cannot be reached")
	ErrCreditExceeded      = errors.New("more unacknowledged than the stream's credit")
	ErrRateLimited         = errors.New("too many calls per second") // still, after some ten seconds of waiting
	ErrTooManyReplays      = errors.New("too many replays at once")
	ErrInternal            = errors.New("internal error of the service")
)

// What the client itself says.
var (
	// ErrUnknownOutcome says that an append may have become durable, or may yet:
	// the wait for it ended first. The error is an *UnknownError, for Log.Resolve to
	// find out. It comes with its cause, which errors.Is finds too.
	ErrUnknownOutcome = errors.New("outcome unknown")

	// ErrPositionLost says that an append is durable and that the service no
	// longer knows where: the acknowledgement of a repeat outside the window.
	ErrPositionLost = errors.New("appended, but its position is no longer kept")

	// ErrClosed is returned for calls on a Client that was closed.
	ErrClosed = errors.New("client is closed")

	// ErrPlaintext is returned by Open for a target beyond this host without TLS.
	ErrPlaintext = errors.New("refusing to speak in plain text beyond loopback")

	// ErrProtocol says that the service answered what the API does not allow;
	// what was in flight has an unknown outcome.
	ErrProtocol = errors.New("service broke the protocol")
)

// A reason is one row of the table of errors: what the service calls it, what
// errors.Is finds, and what to do next.
type reason struct {
	name string
	err  error
	hint string
}

// reasons is the service's error table as a client reads it.
var reasons = []reason{
	{"INVALID_NAME", ErrInvalidName, "begin with a letter or digit and go on with letters, digits and . _ - /"},
	{"INVALID", ErrInvalid, "the message says which field is wrong"},
	{"EMPTY_BATCH", ErrEmptyBatch, "append at least one record; it may be empty"},
	{"MALFORMED", ErrMalformed, "this is a bug of the client"},
	{"TOO_LARGE", ErrTooLarge, "split it, or create the log with a larger record limit; what is more than a checkpoint's state is for the engine's own storage"},
	{"LOG_NOT_FOUND", ErrLogNotFound, "create the log first"},
	{"LOG_EXISTS", ErrLogExists, "use the log as it is, or another name"},
	{"TOO_MANY_LOGS", ErrTooManyLogs, "delete logs that are no longer needed"},
	{"QUOTA", ErrQuota, "move the log's checkpoints forward, its cursors too, or truncate it"},
	{"RATE_QUOTA", ErrRateQuota, "append it again after Error.RetryAfter"},
	{"SEALED", ErrSealed, "the log has ended for good: append to another one"},
	{"FENCED", ErrFenced, "stop writing: another writer has begun a newer epoch"},
	{"LSN_MISMATCH", ErrLSNMismatch, "read what others appended, then decide again"},
	{"AFTER_REFUSAL", ErrAfterRefusal, "deal with the earlier refusal, then append again"},
	{"SEQUENCE_GAP", ErrSequenceGap, "give each process a producer of its own"},
	{"SEQUENCE_REUSE", ErrSequenceReuse, "give each process a producer of its own"},
	{"SUPERSEDED", ErrSuperseded, "give each process a producer of its own"},
	{"NO_PRODUCER", ErrNoProducer, "append again: the client opens a new producer; what became of what this one appended before, only the log itself tells"},
	{"PRODUCER_RETIRED", ErrRetired, "find out why; the next append opens another producer, unless Options.Producer is the one"},
	{"PRODUCER_FORGOTTEN", ErrForgotten, "open another producer, and look in the log for what had no verdict"},
	{"DUPLICATE_LOG", ErrDuplicateLog, "put all records for a log into one part"},
	{"NOT_COLOCATED", ErrNotColocated, "create logs that are appended to together with one colocation key"},
	{"LSN_AHEAD", ErrLSNAhead, "if that LSN was acknowledged once, stop: this is another history"},
	{"LSN_TRUNCATED", ErrLSNTruncated, "begin at the log's first LSN, from a state that covers what is below"},
	{"DATA_LOSS", ErrDataLoss, "do not append; run walctl verify on the volume"},
	{"READ_FAILED", ErrReadFailed, "repeat it; if it fails again, look at the service's disk"},
	{"CHECKPOINT_NOT_FOUND", ErrCheckpointNotFound, "set the checkpoint first"},
	{"CHECKPOINT_BACKWARDS", ErrCheckpointBackwards, "delete the checkpoint first if that is meant"},
	{"CHECKPOINT_CONFLICT", ErrCheckpointConflict, "get the checkpoint, then decide again"},
	{"TOO_MANY_CHECKPOINTS", ErrTooManyCheckpoints, "delete checkpoints that nobody recovers from"},
	{"HELD", ErrHeld, "move the checkpoint or cursor that holds the records forward"},
	{"CURSOR_NOT_FOUND", ErrCursorNotFound, "set the cursor first"},
	{"CURSOR_BACKWARDS", ErrCursorBackwards, "ask for a reset if going back is meant"},
	{"CURSOR_CONFLICT", ErrCursorConflict, "get the cursor, then decide again"},
	{"CURSOR_LOST", ErrCursorLost, "bring the reader up to date from another source, then reset the cursor"},
	{"TOO_MANY_CURSORS", ErrTooManyCursors, "delete cursors of readers that are gone"},
	{"REWOUND", ErrRewound, "undo what came behind kept_lsn, then go on from there; set a cursor with a reset"},
	{"DISCARDED", ErrDiscarded, "read the log, and append it anew if it is still meant"},
	{"TOO_MANY_REWINDS", ErrTooManyRewinds, "move the log's checkpoints forward, or truncate it"},
	{"FULL", ErrFull, "truncate or make room; appends resume by themselves"},
	{"READ_ONLY", ErrReadOnly, "see the status for what is damaged"},
	{"POISONED", ErrPoisoned, "look at the service's disk, then restart it"},
	{"CLOSED", ErrUnavailable, "connect again"},
	{"DRAINING", ErrUnavailable, "connect again"},
	{"OUTCOME_UNKNOWN", ErrUnknownOutcome, "resolve it after the service was restarted"},
	{"CREDIT_EXCEEDED", ErrCreditExceeded, "this is a bug of the client"},
	{"RATE_LIMITED", ErrRateLimited, "call less often"},
	{"TOO_MANY_REPLAYS", ErrTooManyReplays, "end a replay first"},
	{"INTERNAL", ErrInternal, "look for the request in the service's log"},
}

// byReason returns the row of a reason; the zero row for one of a newer service.
func byReason(name string) reason {
	for _, r := range reasons {
		if r.name == name {
			return r
		}
	}
	return reason{}
}

// An Error is what the service answered instead of what was asked for.
type Error struct {
	Code     codes.Code
	Reason   string            // stable; empty if the transport says it, not the service
	Message  string            // for people
	Metadata map[string]string // the reason's figures, such as "next_lsn"; may be nil
	// RetryAfter is when the same may succeed without anybody doing anything; 0 if
	// waiting alone does not help, or nobody knows.
	RetryAfter time.Duration
}

// Error implements error.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Reason)
}

// Hint returns what to do next; empty if nobody knows.
func (e *Error) Hint() string {
	if e.Reason == "" && e.Code == codes.Unavailable {
		return "see whether the service runs, and whether its address is this one"
	}
	return byReason(e.Reason).hint
}

// Unwrap returns the sentinel of the reason, or that of the code if the error is
// the transport's; nil if there is none.
func (e *Error) Unwrap() error {
	if e.Reason != "" {
		return byReason(e.Reason).err
	}
	switch e.Code {
	case codes.Unavailable:
		return ErrUnavailable
	case codes.Canceled:
		if e.Message == ErrClosed.Error() {
			return ErrClosed
		}
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return nil
}

// retryable reports whether the same call may succeed on another connection:
// the service is going away, or the transport broke.
func (e *Error) retryable() bool {
	if e.Reason != "" {
		return e.Code == codes.Unavailable
	}
	switch e.Code {
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.InvalidArgument,
		codes.NotFound, codes.FailedPrecondition, codes.ResourceExhausted:
		return false
	}
	return true
}

// fromStatus returns what a call's error says, as an *Error.
func fromStatus(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s := status.Convert(err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		s = status.FromContextError(err)
	}
	e = &Error{Code: s.Code(), Message: reached(s)}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.RetryInfo:
			e.RetryAfter = max(0, detail.GetRetryDelay().AsDuration())
		}
	}
	return e
}

// connClosing is what the transport says of calls on a connection that Client.Close has
// ended: its variable for that is deprecated.
const connClosing = "grpc: the client connection is closing"

// reached returns the message of a status: of one that the transport gives because it
// has no connection what the system said, and not how often and by which layers it was
// passed on.
func reached(s *status.Status) string {
	text := s.Message()
	if s.Code() == codes.Canceled && text == connClosing {
		return ErrClosed.Error()
	}
	if s.Code() != codes.Unavailable || len(s.Details()) > 0 {
		return text
	}
	for {
		_, inner, more := strings.Cut(text, " desc = ")
		if !more {
			return strings.TrimPrefix(text, "transport: Error while dialing: ")
		}
		if unquoted, err := strconv.Unquote(inner); err == nil {
			inner = unquoted
		}
		text = inner
	}
}

// fromRefusal returns what a refusal inside a stream says.
func fromRefusal(r *walsvcv1.Refusal) *Error {
	e := &Error{Code: codes.Code(r.GetCode()), Reason: r.GetReason(), Message: r.GetMessage(), Metadata: maps.Clone(r.GetMetadata())}
	if ms, err := strconv.ParseInt(e.Metadata["retry_ms"], 10, 64); err == nil {
		e.RetryAfter = time.Duration(min(max(0, ms), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
	}
	return e
}

// about has the figures say which log of a group a refusal is for, if they do not yet.
func (e *Error) about(log string) {
	if e.Reason == "" || e.Metadata["log"] != "" {
		return
	}
	if e.Metadata == nil {
		e.Metadata = make(map[string]string, 1)
	}
	e.Metadata["log"] = log
}

// called wraps a call's error with what was being done; nil stays nil.
func called(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), fromStatus(err))
}

// An UnknownError is an ErrUnknownOutcome that says what to ask for: see
// Log.Resolve.
type UnknownError struct {
	Producer ulid.ULID
	Sequence uint64 // the append's for good, if not nobody's; 0 while another producer is opened for it: wait for it again
	Epoch    uint64 // that the append stated; 0 for none
	// Skip is how many records of the batch come before those of the append, Count
	// how many those are.
	Skip, Count int
	Err         error // why the outcome is unknown
}

// Error implements error.
func (e *UnknownError) Error() string {
	if errors.Is(e.Err, ErrUnknownOutcome) {
		return fmt.Sprintf("%v (producer %s, sequence %d)", e.Err, e.Producer, e.Sequence)
	}
	return fmt.Sprintf("%v: %v (producer %s, sequence %d)", ErrUnknownOutcome, e.Err, e.Producer, e.Sequence)
}

// Unwrap returns ErrUnknownOutcome and the cause.
func (e *UnknownError) Unwrap() []error { return []error{ErrUnknownOutcome, e.Err} }

// unknown returns cause as the reason why the batch's outcome is unknown.
// REQUIRES: the stream's mu.
func (b *batch) unknown(cause error) *UnknownError {
	return &UnknownError{Producer: b.log.producer, Sequence: b.sequence, Epoch: b.epochs.at(0), Err: cause}
}
