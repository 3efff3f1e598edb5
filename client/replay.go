package client

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/internal/wire"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// A Record is a client's bytes and where they are.
type Record struct {
	LSN LSN
	// Data stays valid, and keeps the block that it came in from being freed: copy it
	// to keep few records of many. With ReplayOptions.Reuse it is valid until the loop
	// asks for the next record.
	Data []byte
}

// ReplayOptions say what Replay yields. The zero value means all records from
// the oldest kept to the end.
type ReplayOptions struct {
	From       LSN    // first record; 0 means the oldest kept, or what Checkpoint or Cursor says
	Checkpoint string // if set, begin behind that checkpoint's LSN; not with From
	// Cursor, if set, is the caller's own: without From the replay begins behind its
	// LSN, and it ends with ErrCursorLost if the cursor was evicted and what is to come
	// next is gone. Not with Checkpoint. The replay does not move it: only its reader
	// knows when it is done with a record.
	Cursor string
	To     LSN  // last record; 0 means the end; not with Follow
	Follow bool // go on with what is appended, until the log is sealed or ctx ends
	// FromTime, if not zero, begins with the first record committed at that time or
	// after it, and with the next one if there is none yet. If records committed since
	// may no longer be kept, that is ErrLSNTruncated. Not with From, Checkpoint or
	// Cursor. Commit times are the service's: its clock when a frame of records was
	// written, never going back.
	FromTime time.Time
	// ToTime, if not zero, ends with the last record committed before that time or
	// at it, of those that are durable when the replay begins. Not with To or Follow.
	ToTime time.Time
	// Claim is what the caller has last read, or was acknowledged: the service
	// proves it before it shows anything, and every time the replay has to connect
	// anew. Zero means Log.Claim, and if that claims nothing, the log's end as it
	// is when the replay begins.
	Claim Claim
	// Claimed, if not nil, is told what there is to claim of the records that come next,
	// and of everything before them: on the loop's goroutine, before the first that a new
	// Claim covers. A reader that keeps what it makes of them keeps the last one beside it,
	// and states it when it goes on: else it goes on in whatever log is there by then.
	Claimed func(Claim)
	// Reuse has records come in memory that is used again: a Record's Data is valid
	// until the loop asks for the next one, and who keeps it copies it. For loops that
	// apply each record and forget it, and want all the speed there is: without, the
	// memory for each block, and collecting it, are a quarter of what a replay costs.
	Reuse bool
}

const (
	// readAhead is how many messages are received and decompressed before they
	// are asked for.
	readAhead = 4

	// silence is how long a follower hears nothing, not even a heartbeat, before
	// it looks for the service anew.
	silence = 3 * limits.HeartbeatInterval

	blockVersion = 1
)

// part is some records in order, as a replay hands them from the goroutine that
// receives to the one that yields.
type part struct {
	first LSN
	count int
	run   []byte // framed; lies in memory
	// sum is the run's CRC-32C if it is summed: it came as a block that is not compressed.
	sum    uint32
	summed bool
	memory
	claim Claim // that covers it
	err   error // if set, the end
}

// memory is what a part lies in: a message, and if that has a block that is
// compressed, what it opens to. The zero value is none yet.
type memory struct{ message, raw []byte }

// lending is memory on its way back from the loop to the goroutine that receives.
// Nil, it takes none back.
type lending chan memory

// newLending has room for all parts that can be under way: those that are read
// ahead, the loop's, and one being received.
func newLending() lending { return make(lending, readAhead+2) }

// take lends memory, of which there may be none yet.
func (l lending) take() (m memory) {
	select {
	case m = <-l:
	default:
	}
	return m
}

// give takes back what nobody looks at any more.
func (l lending) give(m memory) {
	select {
	case l <- m:
	default:
	}
}

// Replay yields the log's records in order, without a gap or a repeat, and never
// one that could still be lost. What is compressed on disk comes compressed and
// is opened here, ahead of the loop. When the connection breaks it goes on at
// the next record, once the service has proven that it still has those before.
// After an error it ends; there is none at the end of the records, and none at the
// end of a sealed log, where a follower ends too. It yields ErrLSNTruncated and
// ErrLSNAhead for a place that is not there, ErrCursorLost if it began at a cursor that was evicted, by then or since,
// ErrCheckpointNotFound, ErrCursorNotFound, ErrLogNotFound, ErrTooManyReplays, ErrDataLoss
// for records that are damaged or missing and for a history that is not the
// claimed one, ErrRewound if a rewind discarded a record that it yielded, or that is
// claimed, and the context's cause when that ends.
func (l *Log) Replay(ctx context.Context, o ReplayOptions) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		parts := make(chan part, readAhead)
		var lent lending
		if o.Reuse {
			lent = newLending()
		}
		go func() {
			defer close(parts)
			err := l.receive(ctx, o, parts, lent)
			if err != nil {
				select {
				case parts <- part{err: fmt.Errorf("replay log %q: %w", l.name, err)}:
				case <-ctx.Done():
				}
			}
		}()
		// The goroutine has ended when the loop has: nobody waits for it later.
		defer func() {
			cancel()
			for range parts {
			}
		}()
		for p := range parts {
			if p.err != nil {
				yield(Record{}, p.err)
				return
			}
			if o.Claimed != nil {
				o.Claimed(p.claim)
			}
			lsn := p.first
			for run := p.run; len(run) > 0; lsn++ {
				data, rest, err := records.Next(run)
				if err != nil {
					yield(Record{}, fmt.Errorf("replay log %q: LSN %d: %w: %w", l.name, lsn, ErrProtocol, err))
					return
				}
				if !yield(Record{LSN: lsn, Data: data}, nil) {
					return
				}
				run = rest
			}
			lent.give(p.memory)
		}
		if err := context.Cause(ctx); err != nil {
			yield(Record{}, fmt.Errorf("replay log %q: %w", l.name, err))
		}
	}
}

// reading is how far a replay has come: its options begin behind what it got.
type reading struct {
	ReplayOptions
	// assumed: what it claims is the log's end, or began there, and nothing that the
	// caller has, who may have claimed below.
	assumed bool
	below   Claim
}

// assume has the replay claim the log's end, the zero Claim to look for it.
func (r *reading) assume(end Claim) {
	if !r.assumed {
		r.below = r.Claim
	}
	r.Claim, r.assumed = end, true
}

// receive fills parts, over as many streams as it takes.
func (l *Log) receive(ctx context.Context, o ReplayOptions, parts chan<- part, lent lending) error {
	pause := backoff{first: l.client.patient}
	if o.Claim.LSN == 0 {
		o.Claim = l.Claim()
	}
	r := reading{ReplayOptions: o, assumed: o.Claim.LSN == 0}
	for {
		before := r.From
		var err error
		if r.Claim.IsZero() {
			r.Claim, err = l.end(ctx, r.below)
		}
		if err == nil {
			err = l.receiveStream(ctx, &r, parts, lent)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case l.client.ctx.Err() != nil:
			return ErrClosed
		}
		if errors.Is(err, errBeyond) {
			if r.assumed { // the log had not come as far
				if err := pause.wait(ctx); err != nil {
					return err
				}
			}
			r.assume(Claim{})
			continue
		}
		var e *Error
		if errors.As(err, &e) && errors.Is(e, ErrRewound) && r.assumed && e.claimed(r.ReplayOptions) {
			r.Claim = Claim{} // what was discarded it has not come to
			continue
		}
		if !errors.As(err, &e) || !e.retryable() {
			return err
		}
		if r.To != 0 && r.From > r.To {
			return nil
		}
		if r.From != before {
			pause.reset()
		}
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// errBeyond says that a stream began beyond what was claimed, which would never come to
// prove what is read. Nothing of it was yielded.
var errBeyond = errors.New("records begin beyond the claim")

// end returns the end of a log that has what below claims, as a claim, or an *Error.
// That it has is proven last: so it is of the history that ends there, or of a later one,
// in which that end is not proven any more when it is claimed.
func (l *Log) end(ctx context.Context, below Claim) (Claim, error) {
	info, err := l.Info(ctx)
	if err == nil && below.LSN > 0 {
		// It waits for what is there, if the claim holds.
		_, err = l.client.replayService.WaitDurable(ctx, &walsvcv1.WaitDurableRequest{Log: l.name, Lsn: uint64(below.LSN), Claim: below.message()})
		err = called(err, "prove LSN %d of log %q", below.LSN, l.name)
	}
	if err != nil {
		return Claim{}, err // who asks again must not find the claim of a log that he knows nothing of
	}
	return info.Claim(), nil
}

// receiveStream fills parts from one stream, and moves r behind what it got, its
// claim included: the next stream is asked to prove what this one showed. It
// returns nil at the end of the records, and an *Error if the stream broke.
func (l *Log) receiveStream(ctx context.Context, r *reading, parts chan<- part, lent lending) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.client.replayService.Replay(ctx, &walsvcv1.ReplayRequest{
		Log: l.name, FromLsn: uint64(r.From), Checkpoint: r.Checkpoint, Cursor: r.Cursor, ToLsn: uint64(r.To), Follow: r.Follow,
		Codecs: []uint32{uint32(codec.None), uint32(codec.S2), uint32(codec.Zstd)}, Claim: r.Claim.message(),
		FromTime: timestamp(r.FromTime), ToTime: timestamp(r.ToTime),
	}, grpc.WaitForReady(true))
	if err != nil {
		return fromStatus(err)
	}
	var watch *time.Timer
	if r.Follow {
		watch = time.AfterFunc(silence, cancel)
		defer watch.Stop()
	}
	var m wire.ReplayResponse
	for {
		into := lent.take()
		m.Into = into.message
		err := stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fromStatus(err)
		}
		if watch != nil {
			watch.Reset(silence)
		}
		into.message = m.Memory
		if m.Count == 0 { // a heartbeat
			lent.give(into)
			continue
		}
		p, err := unpack(&m, into)
		if err != nil {
			return err
		}
		if r.From != 0 && p.first != r.From {
			return fmt.Errorf("%w: LSN %d came where %d was due", ErrProtocol, p.first, r.From)
		}
		if p.first > r.Claim.LSN+1 {
			return errBeyond
		}
		if m.Epoch > r.Claim.Epoch && p.first <= r.Claim.LSN {
			if err := l.renew(ctx, r, m.Epoch); err != nil {
				return err
			}
		}
		if err := r.Claim.extend(&p); err != nil {
			return err
		}
		if m.Epoch != 0 && r.Claim.LSN == p.first+LSN(p.count)-1 {
			r.Claim.Epoch = m.Epoch
		}
		p.claim = r.Claim
		r.From, r.Checkpoint, r.FromTime = p.first+LSN(p.count), "", time.Time{}
		if watch != nil {
			watch.Stop() // a loop that takes its time is not silence
		}
		select {
		case parts <- p:
		case <-ctx.Done():
			return fromStatus(context.Cause(ctx))
		}
		if watch != nil {
			watch.Reset(silence)
		}
	}
}

// renew has a replay claim the log's end in the epoch that it reads in: that which it
// claims lies ahead, was of an epoch before, and may have been discarded since.
func (l *Log) renew(ctx context.Context, r *reading, epoch uint64) error {
	below := r.below
	if !r.assumed {
		below = r.Claim
	}
	end, err := l.end(ctx, below)
	if err != nil {
		return err
	}
	if end.Epoch != epoch { // of a later history, it may be: as if the stream had broken before
		return &Error{Code: codes.Unavailable, Message: fmt.Sprintf("log %q is in epoch %d by now, and was read in %d", l.name, end.Epoch, epoch)}
	}
	r.assume(end)
	return nil
}

// timestamp spells a time, nil if it is zero.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// unpack returns the records of a message, which lie where it does or in more
// memory, after every check that can be made.
func unpack(m *wire.ReplayResponse, into memory) (part, error) {
	p := part{first: LSN(m.First), count: int(m.Count), memory: into}
	if b := &m.Block; m.HasBlock {
		damaged := func(err error) (part, error) {
			return part{}, fmt.Errorf("LSN %d to %d: %w: %w", p.first, p.first+LSN(p.count)-1, ErrDataLoss, err)
		}
		if b.Version != blockVersion {
			return part{}, fmt.Errorf("LSN %d: %w: block of version %d", p.first, ErrProtocol, b.Version)
		}
		if sum := crc32.Checksum(b.Stored, castagnoli); sum != b.Checksum {
			return damaged(fmt.Errorf("the block's checksum is %08x, it should be %08x", sum, b.Checksum))
		}
		p.run, p.sum, p.summed = b.Stored, b.Checksum, true
		if c := codec.Codec(b.Codec); c != codec.None || len(b.Stored) != int(b.RawSize) {
			run, err := c.Open(slices.Grow(into.raw[:0], int(b.RawSize)), b.Stored, int(b.RawSize))
			if err != nil {
				return damaged(err)
			}
			p.run, p.raw, p.summed = run, run, false
		}
	} else {
		p.run = m.Run
	}
	switch n, err := records.Check(p.run, 0); {
	case err != nil:
		return part{}, fmt.Errorf("LSN %d: %w: %w", p.first, ErrProtocol, err)
	case n != p.count || p.first == 0:
		return part{}, fmt.Errorf("LSN %d: %w: %d records where %d were announced", p.first, ErrProtocol, n, p.count)
	}
	return p, nil
}

// Read returns at most limit records from an LSN on, and fewer at the end or if
// they are large; none at the end. from 0 means the oldest kept, limit 0 means
// 1,000. It states Log.Claim, as a replay does. It returns ErrLSNTruncated, ErrLSNAhead,
// ErrLogNotFound, ErrDataLoss for records that are damaged or missing and for a history
// that is not the claimed one, or ErrRewound if what is claimed was discarded.
func (l *Log) Read(ctx context.Context, from LSN, limit int) ([]Record, error) {
	if limit < 0 || limit > limits.MaxBatchRecords {
		return nil, fmt.Errorf("read log %q: %w: %d records, at most %d", l.name, ErrInvalid, limit, limits.MaxBatchRecords)
	}
	resp, err := l.client.replayService.Read(ctx, &walsvcv1.ReadRequest{
		Log: l.name, FromLsn: uint64(from), MaxRecords: uint32(limit), Claim: l.Claim().message(),
	})
	if err != nil {
		return nil, called(err, "read log %q from LSN %d", l.name, from)
	}
	all := make([]Record, len(resp.GetRecords().GetRecord()))
	for i, data := range resp.GetRecords().GetRecord() {
		all[i] = Record{LSN: LSN(resp.GetFirstLsn()) + LSN(i), Data: data}
	}
	return all, nil
}
