package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/crc32c"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// minStored is the smallest block that is worth sending as it lies, in raw
// bytes: smaller ones are better put together.
const minStored = 16 << 10

// smallSpan is how long the second span is, in bytes; the first one is a batch. Each
// is twice the one before, until they are as long as asked for: the first record must
// not wait for a message full of others, which of a log that is spread thin may lie in
// as many frames.
const smallSpan = 4 << 10

// A Reader reads one log, in order, as far as it is durable. One goroutine at a
// time may use it.
type Reader struct {
	v      *Volume
	name   string
	number uint64
	cursor string // its reader's; "" for none
	next   LSN
	oldest bool    // it begins with whatever is kept, and has given out nothing yet
	to     LSN     // last record; meaningless if endless
	as     history // of the log, as far as this Reader has heard of it
	o      ReadOptions
	codecs [codec.Zstd + 1]bool

	batches batchFrame
	scouted scouted
	share   share
	ahead   segment.Pos // up to where the disk was asked to read ahead
	full    int         // bytes of the next span beyond which nothing is added to it
	window  int64       // how many bytes at a time: few at first, since the first record waits for the asking
	block   int         // in batches.frame, whose raw bytes are in raw; -1 for none
	raw     []byte
	run     []byte
	stored  []byte
	held    error // an error to return once what was read before it has been
}

// A batchFrame is a frame with its batches of one log.
type batchFrame struct {
	frame    *segment.Frame
	commands []Command // of the frame, all that carry records of the log among them
	carried  int64     // bytes of records that the whole frame has, of any log
	own      []ownBatch
	scouted  *scouted // what its reader knows of frames ahead; nil for one that looks at no more than one
}

// An ownBatch is an append of the log, or a copy of one, of which something is in its history.
type ownBatch struct {
	index int // of the command
	last  LSN // the last record that is; a rewind may have taken the rest
}

// committed returns when a batch of the frame was committed, in nanoseconds since 1970.
func (b *batchFrame) committed(c *Command) int64 {
	if c.Kind == CommandMoveRecords {
		return c.Time
	}
	return b.frame.Header.Time
}

// NewReader returns a Reader. It returns ErrLogNotFound, a *RangeError if o.From
// is truncated or beyond the next LSN or records since o.FromTime are, ErrInvalid for
// two beginnings or two ends, ErrCursorNotFound, or a *CursorLostError if o.Cursor was evicted.
func (v *Volume) NewReader(log string, o ReadOptions) (*Reader, error) {
	until, err := v.resolve(log, &o)
	if err != nil {
		return nil, err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	l, err := v.lookup(log)
	if err != nil {
		return nil, err
	}
	if o.Max <= 0 {
		o.Max = limits.ReplayMessageSize
	}
	r := &Reader{v: v, name: log, number: l.number, cursor: o.Cursor, next: o.From, o: o, block: -1, full: 1, as: l.history()}
	if o.Cursor != "" {
		c, err := l.cursor(o.Cursor)
		if err != nil {
			return nil, err
		}
		r.next = cmp.Or(r.next, c.lsn+1)
	}
	if r.next == 0 {
		r.next, r.oldest = l.first, true
	}
	for _, c := range o.Codecs {
		if c.Valid() {
			r.codecs[c] = true
		}
	}
	// A replay to the end ends where the log ends now: one that is appended to as
	// fast as it is read would never end.
	switch r.to = o.To; {
	case !o.ToTime.IsZero():
		r.to = until
	case o.To == 0:
		r.to = l.next - 1
	}
	if o.Epoch != 0 {
		if err := l.moved(o.Epoch, r.next-1); err != nil {
			return nil, err
		}
	}
	switch {
	case r.next < l.first:
		return nil, r.outside(l, ErrLSNTruncated)
	case r.next > l.next:
		return nil, r.outside(l, ErrLSNAhead)
	}
	return r, nil
}

// resolve finds the LSNs that the times in o mean: it sets o.From, and returns the
// last record wanted.
func (v *Volume) resolve(log string, o *ReadOptions) (until LSN, err error) {
	switch {
	case !o.FromTime.IsZero() && (o.From != 0 || o.Cursor != ""):
		return 0, fmt.Errorf("log %q: %w: a replay begins at a time, or at an LSN or cursor", log, ErrInvalid)
	case !o.ToTime.IsZero() && (o.To != 0 || o.Follow):
		return 0, fmt.Errorf("log %q: %w: a replay ends at a time, or at an LSN, or follows", log, ErrInvalid)
	}
	if !o.FromTime.IsZero() {
		if o.From, err = v.At(log, o.FromTime); err != nil {
			return 0, err
		}
	}
	if !o.ToTime.IsZero() {
		until, err = v.until(log, o.ToTime)
	}
	return until, err
}

func (r *Reader) outside(l *logState, err error) error {
	if r.cursor != "" {
		if _, lost := l.cursor(r.cursor); errors.Is(lost, ErrCursorLost) {
			return lost
		}
	}
	return &RangeError{Log: r.name, Asked: r.next, First: l.first, Next: l.next, Err: err}
}

// Close gives up what the Reader holds. It never fails.
func (r *Reader) Close() error {
	r.batches, r.scouted, r.raw, r.run, r.stored = batchFrame{}, scouted{}, nil, nil, nil
	return nil
}

// Next returns the next span. At the end it returns io.EOF with the LSN of what would
// come next, or waits if the Reader follows, for more records or for ctx, unless the log
// is sealed: its end is a follower's, too. Other errors are a *RangeError if the records
// were truncated meanwhile, and it does not begin with the oldest kept or has begun, a
// *CursorLostError if that is because the cursor was evicted, a *RewoundError if a record that the Reader has come behind
// was discarded, ErrLogNotFound if the log was deleted, a *DataLossError if they do not verify, ErrReadFailed if they could
// not be read, ErrPoisoned or ErrClosed. After ErrReadFailed it may be called
// again: nothing was skipped.
// The span is valid until the next call, but for what lies in ReadOptions.Buffer.
func (r *Reader) Next(ctx context.Context) (Span, error) {
	for {
		if r.held != nil {
			err := r.held
			r.held = nil
			return Span{}, err
		}
		durable, end, changed, err := r.reach()
		if r.beginLater(err) {
			continue
		}
		if err != nil {
			return Span{}, err
		}
		if !r.endless() {
			end = min(end, r.to)
		}
		if r.next <= end {
			from := r.next
			span, err := r.read(end)
			if r.overtaken(err) {
				r.next, r.held = from, nil
				continue
			}
			if r.beginLater(err) {
				continue
			}
			r.oldest = r.oldest && err != nil
			span.Durable, span.Epoch = durable, r.as.epoch
			return span, err
		}
		if changed == nil {
			return Span{First: r.next}, io.EOF
		}
		select {
		case <-changed:
		case <-r.v.done:
			return Span{}, r.v.failure()
		case <-ctx.Done():
			return Span{}, context.Cause(ctx)
		}
	}
}

// follow has the Reader go on in the log's history as it is now. It returns a
// *RewoundError if it has come behind a record that is no more: it was given one that
// was discarded, or whoever asked was. One that has not goes on at the next record,
// which is the new history's. REQUIRES: the volume's mu.
func (r *Reader) follow(l *logState) error {
	h := l.history()
	if h.epoch == r.as.epoch {
		return nil
	}
	if err := l.moved(r.as.epoch, r.next-1); err != nil {
		return err
	}
	if h.rewound() != r.as.rewound() {
		r.batches.own, r.held = r.batches.own[:0], nil // what was looked up may be no more
	}
	r.as = h
	return nil
}

// overtaken reports whether a rewind may be why reading failed, or took what was
// read: half of it may be of one history and half of another. Nobody was given
// anything yet.
func (r *Reader) overtaken(err error) bool {
	r.v.mu.RLock()
	defer r.v.mu.RUnlock()
	l := r.v.durable.logs.get(r.number)
	return l != nil && l.epoch != r.as.epoch && (err != nil || r.held != nil || l.moved(r.as.epoch, r.next-1) != nil)
}

// beginLater has a Reader that is to begin with the oldest record kept begin with
// what that is by now, if err says that the one before is not any more: whoever asked
// for no LSN is not told that one is gone. The log's end is then looked at anew, too:
// what a replay shows from one to the other there was at one time.
func (r *Reader) beginLater(err error) bool {
	gone, ok := errors.AsType[*RangeError](err)
	if !ok || !r.oldest || !errors.Is(err, ErrLSNTruncated) {
		return false
	}
	r.next = gone.First
	if r.o.To == 0 && r.o.ToTime.IsZero() {
		r.to = gone.Next - 1
	}
	return true
}

// endless reports whether the Reader follows without an end.
func (r *Reader) endless() bool { return r.o.Follow && r.o.To == 0 }

// reach returns how far the log is durable, up to which record it is without a
// lost range, and, if the Reader follows and has come that far, a channel that
// is closed when there may be more.
func (r *Reader) reach() (durable, whole LSN, changed <-chan struct{}, err error) {
	v := r.v
	v.mu.RLock()
	l := v.durable.logs.get(r.number)
	failed := v.failed
	if l != nil {
		if err := r.follow(l); err != nil {
			v.mu.RUnlock()
			return 0, 0, nil, err
		}
	}
	if l != nil && r.next < l.next {
		defer v.mu.RUnlock()
		if r.next < l.first {
			return 0, 0, nil, r.outside(l, ErrLSNTruncated)
		}
		if errors.Is(failed, ErrClosed) {
			return 0, 0, nil, failed
		}
		whole = l.next - 1
		if lost, ok := l.lostFrom(r.next); ok {
			if lost.First <= r.next {
				return 0, 0, nil, givenUp(l.name, lost)
			}
			whole = lost.First - 1
		}
		return l.next - 1, whole, nil, nil
	}
	// Asked together with the end: of a log that is sealed a moment later, what was
	// appended in between lies in front of the seal.
	sealed := l != nil && l.sealed != 0
	v.mu.RUnlock()
	switch {
	case l == nil:
		return 0, 0, nil, fmt.Errorf("log %q: %w: it was deleted", r.name, ErrLogNotFound)
	case !r.o.Follow || sealed || !r.endless() && r.next > r.to:
		return r.next - 1, r.next - 1, nil, nil
	case failed != nil:
		return 0, 0, nil, failed
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if l = v.durable.logs.get(r.number); l == nil || r.next != l.next || l.sealed != 0 {
		closed := make(chan struct{})
		close(closed)
		return r.next - 1, r.next - 1, closed, nil // look again
	}
	return r.next - 1, r.next - 1, v.watch(r.number), nil
}

// givenUp says that a repair gave up records of a log.
func givenUp(name string, lost LSNRange) error {
	return &DataLossError{Log: name, First: lost.First, Last: lost.Last, Detail: "they were lost to damage, which a repair took account of"}
}

// lostAt returns the lost range that a record is in.
func (i *LogInfo) lostAt(lsn LSN) (LSNRange, bool) {
	l := logState{lost: i.Lost}
	lost, ok := l.lostFrom(lsn)
	return lost, ok && lost.First <= lsn
}

// read returns records from r.next on, to end at the furthest.
func (r *Reader) read(end LSN) (Span, error) {
	span := Span{First: r.next}
	r.run = r.run[:0]
	full := r.full
	r.full = min(max(2*full, smallSpan), r.o.Max)
	for r.next <= end && len(r.run) < full {
		c, last, err := r.batch()
		if err == nil && span.Count == 0 {
			var ok bool
			if span, ok, err = r.passThrough(c, end); ok {
				return span, nil
			}
			span = Span{First: r.next}
		} else if err == nil && r.eligible(c, end) > 0 {
			break // the next span is that block
		}
		if err == nil {
			err = r.take(c, min(last, end), &span)
		}
		if errors.Is(err, errGoneOn) {
			if span.Count == 0 {
				span = Span{First: r.next}
			}
			continue
		}
		if err != nil {
			if span.Count == 0 {
				return Span{}, err
			}
			r.held = err
			break
		}
	}
	span.Run = r.run
	return span, nil
}

// batch returns the append command that has r.next, and its last record that is in
// the log, and reads its frame.
func (r *Reader) batch() (c *Command, last LSN, err error) {
	if c, last = r.batches.covering(r.next); c != nil {
		return c, last, nil
	}
	r.block = -1
	if err := r.v.seek(&r.batches, r.name, r.number, r.next, &r.as); err != nil {
		return nil, 0, err
	}
	r.prefetch()
	c, last = r.batches.covering(r.next)
	return c, last, nil
}

// prefetch has the disk read ahead behind the frame that was just read, if most of it
// is the log's: who reads a log that is spread thin goes from place to place, and would
// have the disk read what nobody wants. For that one scout asks for the places.
func (r *Reader) prefetch() {
	if r.share.see(&r.batches); !r.share.dense() {
		r.scout()
		return
	}
	next := r.batches.frame.End()
	if r.ahead.Segment != next.Segment || r.ahead.Offset < next.Offset {
		r.ahead = next
	}
	if r.ahead.Offset-next.Offset > r.window/2 {
		return
	}
	r.window = min(max(2*r.window, limits.ReplayMessageSize, r.batches.frame.Header.Size()), limits.ReplayReadAhead)
	r.ahead.Offset = r.v.fetch.Prefetch(r.ahead, next.Offset+r.window-r.ahead.Offset)
}

// A share is how much of what a Reader comes past is its log's.
type share struct {
	end      segment.Pos // of the last frame
	own, all int64       // bytes, those of earlier frames counting less and less
}

// see counts a frame, and what lies between it and the one before: frames without a
// record of the log.
func (s *share) see(b *batchFrame) {
	var own int64
	for _, o := range b.own {
		own += int64(b.commands[o.index].Size)
	}
	size := b.frame.Header.Size()
	s.own += int64(float64(size)*float64(own)/float64(max(b.carried, 1))) - s.own/8
	s.all += size - s.all/8
	if pos := b.frame.Pos; pos.Segment == s.end.Segment && pos.Offset > s.end.Offset {
		s.all += pos.Offset - s.end.Offset
	}
	s.end = b.frame.End()
}

// dense reports whether a quarter or more is the log's.
func (s *share) dense() bool { return s.own >= s.all/4 }

// covering returns the command that has lsn, or nil, and its last record that is in
// the log.
func (b *batchFrame) covering(lsn LSN) (c *Command, last LSN) {
	for _, o := range b.own {
		if c := &b.commands[o.index]; c.First <= lsn && lsn <= o.last {
			return c, o.last
		}
	}
	return nil, 0
}

// seek reads the frame that has a durable record of a log with that history. It
// returns errLookAgain if a rewind has given the log another one.
func (v *Volume) seek(b *batchFrame, name string, number uint64, lsn LSN, h *history) error {
	var hint segment.ID
	if b.frame != nil {
		hint = b.frame.Pos.Segment
	}
	for {
		pos, err := v.index.locate(number, lsn, hint)
		if err == nil {
			err = v.seekFrom(b, number, lsn, pos, h)
		}
		if err == nil {
			return nil
		}
		b.frame, b.own = nil, b.own[:0]
		again, err := v.seekOn(b, name, number, lsn, pos, h, err)
		if !again {
			return err
		}
	}
}

// seekOn is seek for a record that is not where the index says, which is pos, or
// could not be read there. again is set if it has been moved meanwhile.
func (v *Volume) seekOn(b *batchFrame, name string, number uint64, lsn LSN, pos segment.Pos, h *history, first error) (again bool, err error) {
	// The segment may have been released since the reader last looked.
	if err := v.live(name, number, lsn, h); err != nil {
		return false, err
	}
	if v.index.movedFrom(number, lsn, pos) {
		return true, nil
	}
	// An index is a cache: what it does not know, or knows wrongly, is looked
	// for in the directories before anybody speaks of data loss.
	for {
		at, err := v.index.relocate(number, lsn)
		if err == nil {
			err = v.seekFrom(b, number, lsn, at, h)
		}
		if err == nil {
			return false, nil
		}
		b.frame, b.own = nil, b.own[:0]
		if err := v.live(name, number, lsn, h); err != nil {
			return false, err
		}
		if v.index.movedFrom(number, lsn, pos) {
			return true, nil
		}
		if errors.Is(err, segment.ErrReleased) && !v.aside {
			continue // a segment went away under the search, which is no loss: there is one less
		}
		for _, cause := range []error{first, err} {
			if failed := readFailed(name, lsn, cause); failed != nil {
				return false, failed
			}
		}
		return false, &DataLossError{Log: name, First: lsn, Last: lsn, Detail: "no frame has the record", Err: err}
	}
}

// isUnread reports whether err is the disk's failure to read: what could not be
// read may be there, unlike what was and does not verify.
func isUnread(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok && !errors.Is(err, fs.ErrNotExist)
}

// readFailed returns ErrReadFailed with its cause, or ErrClosed if nothing is read any
// more, which v.failed does not tell of a volume that was poisoned before; nil if the
// cause is another one.
func readFailed(log string, lsn LSN, cause error) error {
	why := ErrReadFailed
	switch {
	case errors.Is(cause, replay.ErrFetcherClosed):
		why = ErrClosed
	case !isUnread(cause):
		return nil
	}
	return fmt.Errorf("log %q: LSN %d: %w: %w", log, lsn, why, cause)
}

// live returns why a record is none of the log's any more, or the log's history
// another one, nil if it is.
func (v *Volume) live(name string, number uint64, lsn LSN, as *history) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l := v.durable.logs.get(number)
	switch {
	case errors.Is(v.failed, ErrClosed):
		return v.failed
	case l == nil:
		return fmt.Errorf("log %q: %w: it was deleted", name, ErrLogNotFound)
	case lsn < l.first:
		return &RangeError{Log: name, Asked: lsn, First: l.first, Next: l.next, Err: ErrLSNTruncated}
	}
	if h := l.history(); h.rewound() != as.rewound() {
		return fmt.Errorf("log %q: LSN %d: %w", name, lsn, errLookAgain)
	}
	return nil
}

// seekFrom reads frames from pos on until one has the record.
func (v *Volume) seekFrom(b *batchFrame, number uint64, lsn LSN, pos segment.Pos, h *history) error {
	for {
		f := b.frame
		if (f == nil || f.Pos != pos) && b.scouted.take(pos, b) {
			f = b.frame
		}
		if f == nil || f.Pos != pos {
			var err error
			if f, err = v.fetch.Frame(pos); err != nil {
				return err
			}
			if err := b.load(f); err != nil {
				return err
			}
		}
		b.choose(number, h)
		if c, _ := b.covering(lsn); c != nil {
			return nil
		}
		if n := len(b.own); n > 0 && b.commands[b.own[n-1].index].First > lsn || f.Header.Kind == segment.KindSeal {
			return fmt.Errorf("frame at %s: %w", pos, errNotIndexed)
		}
		pos = f.End() // the index was thinned: the record is in a frame behind
	}
}

// load decodes a frame's commands.
func (b *batchFrame) load(f *segment.Frame) (err error) {
	b.frame, b.own, b.commands, b.carried = f, b.own[:0], b.commands[:0], 0
	if f.Header.Kind == segment.KindCommands {
		b.commands, err = DecodeCommands(b.commands, f.Meta)
	}
	if err != nil {
		b.frame = nil
	}
	for i := range b.commands {
		b.carried += int64(b.commands[i].Size)
	}
	return err
}

// choose notes a log's batches in the frame of which its history has something.
func (b *batchFrame) choose(number uint64, h *history) {
	b.own = b.own[:0]
	for i := range b.commands {
		if c := &b.commands[i]; c.Log == number && c.carriesRecords() {
			if last := h.clip(c.Epoch, c.Last()); last >= c.First {
				b.own = append(b.own, ownBatch{i, last})
			}
		}
	}
}

// eligible returns how many records the block that c lies in has, if they may
// be sent as they are stored: the client opens the codec, the block is worth
// it, it begins with r.next and ends by end, and has no byte of anything else, nor of
// what a rewind discarded.
func (r *Reader) eligible(c *Command, end LSN) uint32 {
	b := int(c.Block)
	if c.First != r.next || c.Offset != 0 || b >= len(r.batches.frame.Blocks) {
		return 0
	}
	info := &r.batches.frame.Blocks[b]
	if info.RawSize < minStored || !info.Codec.Valid() || !r.codecs[info.Codec] {
		return 0
	}
	var size, count uint32
	next := c.First
	for _, own := range r.batches.own {
		if o := &r.batches.commands[own.index]; o.Block == c.Block {
			if o.First != next || o.Offset != size || own.last != o.Last() {
				return 0
			}
			size += o.Size
			count += o.Count
			next = o.Last() + 1
		}
	}
	if size != info.RawSize || next-1 > end {
		return 0
	}
	return count
}

// passThrough returns the block that c begins as it is stored, if that may be.
func (r *Reader) passThrough(c *Command, end LSN) (Span, bool, error) {
	count := r.eligible(c, end)
	if count == 0 {
		return Span{}, false, nil
	}
	info := &r.batches.frame.Blocks[c.Block]
	dst := r.stored[:0]
	if r.o.Buffer != nil {
		dst = r.o.Buffer(int(info.StoredSize))
	}
	stored, err := r.v.fetch.Stored(r.batches.frame, int(c.Block), dst)
	if err != nil {
		return Span{}, false, r.lost(c, err)
	}
	r.stored = stored
	span := Span{First: r.next, Count: count, Stored: stored, Codec: info.Codec, RawSize: info.RawSize, Checksum: info.Checksum}
	r.next += LSN(count)
	return span, true, nil
}

// take copies the records of c from r.next to end, at the furthest, into r.run.
func (r *Reader) take(c *Command, end LSN, span *Span) error {
	if r.block != int(c.Block) {
		raw, err := r.v.fetch.Open(r.batches.frame, int(c.Block), r.raw[:0])
		if err != nil {
			r.block = -1
			return r.lost(c, err)
		}
		r.raw, r.block = raw, int(c.Block)
	}
	run, err := c.slice(r.raw)
	if err != nil {
		return r.lost(c, err)
	}
	if skip := r.next - c.First; skip > 0 {
		if run, err = records.Skip(run, int(skip)); err != nil {
			return r.lost(c, err)
		}
	}
	count := uint32(c.Last() - r.next + 1)
	if over := c.Last(); over > end || len(run) > r.o.Max {
		// Not all of it: a record at a time, at least one.
		rest := run
		count = 0
		for r.next+LSN(count) <= min(end, over) && (count == 0 || len(run)-len(rest) < r.o.Max) {
			if _, rest, err = records.Next(rest); err != nil {
				return r.lost(c, err)
			}
			count++
		}
		run = run[:len(run)-len(rest)]
	}
	r.run = append(r.run, run...)
	span.Count += count
	r.next += LSN(count)
	return nil
}

// slice returns the command's bytes in its block.
func (p *Place) slice(raw []byte) ([]byte, error) {
	if uint64(p.Offset)+uint64(p.Size) > uint64(len(raw)) {
		return nil, fmt.Errorf("bytes at %d of %d in a block of %d", p.Offset, p.Size, len(raw))
	}
	return raw[p.Offset : p.Offset+p.Size], nil
}

// errGoneOn is returned for a batch whose segment was released under the reader, and
// that is kept: it was moved.
var errGoneOn = errors.New("moved meanwhile")

// lost says that the batch of c cannot be read.
func (r *Reader) lost(c *Command, err error) error {
	if errors.Is(err, segment.ErrReleased) || errors.Is(r.v.failure(), ErrClosed) {
		r.batches.own = r.batches.own[:0] // read the directory again: it was released, or will say so
		if _, _, _, rerr := r.reach(); rerr != nil {
			return rerr
		}
	}
	if errors.Is(err, segment.ErrReleased) {
		r.batches.frame = nil
		return errGoneOn
	}
	if failed := readFailed(r.name, c.First, err); failed != nil {
		return failed
	}
	return &DataLossError{Log: r.name, First: c.First, Last: c.Last(),
		Detail: fmt.Sprintf("block %d of the frame at %s does not verify", c.Block, r.batches.frame.Pos), Err: err}
}

// CheckClaim proves that the log has exactly what a client says it was last
// acknowledged. It returns a *RewoundError if that was discarded, a *DataLossError if
// the log does not have it, and ErrReadFailed if
// the disk does not let it. A claim below what is
// kept cannot be proven any more and passes: those records were given up on
// purpose.
func (v *Volume) CheckClaim(log string, c Claim) error {
	if c.LSN == 0 {
		return nil
	}
	for {
		v.mu.RLock()
		l, err := v.lookup(log)
		if err != nil {
			v.mu.RUnlock()
			if errors.Is(err, ErrLogNotFound) {
				err = &DataLossError{Log: log, First: c.LSN, Last: c.LSN, Detail: "there is no such log", Err: err}
			}
			return err
		}
		info, number := l.info(), l.number
		rewound := l.moved(c.Epoch, c.LSN)
		v.mu.RUnlock()
		switch {
		case info.ID != c.Log:
			return &DataLossError{Log: log, First: c.LSN, Last: c.LSN, Detail: fmt.Sprintf("it is another log, %s, not %s", info.ID, c.Log)}
		case c.Epoch > info.Epoch:
			return &DataLossError{Log: log, First: c.LSN, Last: c.LSN, Detail: fmt.Sprintf("it is in epoch %d, the claim in %d", info.Epoch, c.Epoch)}
		case rewound != nil:
			return rewound
		case c.LSN >= info.Next:
			return &DataLossError{Log: log, First: info.Next, Last: c.LSN, Detail: fmt.Sprintf("it ends at LSN %d", info.Durable())}
		case c.LSN < info.First:
			return nil
		}
		if lost, ok := info.lostAt(c.LSN); ok {
			return givenUp(log, lost)
		}
		sum := info.Checksum
		if c.LSN < info.Durable() {
			_, sum, err = v.behind(info, number, c.LSN)
		}
		switch {
		case errors.Is(err, errLookAgain):
			continue
		case errors.Is(err, ErrLSNTruncated):
			return nil // given up since
		case err != nil:
			return err
		case sum != c.Checksum:
			return &DataLossError{Log: log, First: c.LSN, Last: c.LSN, Detail: fmt.Sprintf("its checksum there is %08x, the claim's is %08x", uint32(sum), uint32(c.Checksum))}
		}
		return nil
	}
}

// behind returns how many framed bytes had been appended to a log up to lsn, and its
// checksum there. lsn is below its durable one, and may be the one before its oldest.
// What it returns is proven by the batch that has lsn, or by that which begins behind
// it: nothing before them has to be kept. It returns errLookAgain if the log was
// rewound meanwhile.
func (v *Volume) behind(info LogInfo, number uint64, lsn LSN) (total uint64, sum Checksum, err error) {
	h := history{info.Epoch, info.Rewinds}
	var b batchFrame
	at := lsn
	_, lost := info.lostAt(lsn)
	if !lost && lsn >= info.First {
		err = v.seek(&b, info.Name, number, lsn, &h)
	}
	if lost || lsn < info.First || errors.Is(err, ErrDataLoss) {
		at = lsn + 1
		if lost, ok := info.lostAt(at); ok {
			return 0, 0, givenUp(info.Name, lost)
		}
		err = v.seek(&b, info.Name, number, at, &h)
	}
	if err != nil {
		return 0, 0, err
	}
	c, _ := b.covering(at)
	if c.Last() == lsn {
		return c.Start + uint64(c.Size), c.Checksum, nil
	}
	sum = Checksum(crc32c.Before(uint32(c.Checksum), c.RunSum, c.Size))
	if c.First == lsn+1 {
		return c.Start, sum, nil
	}
	raw, err := v.fetch.Open(b.frame, int(c.Block), nil)
	if errors.Is(err, segment.ErrReleased) && v.index.movedFrom(number, at, b.frame.Pos) {
		return 0, 0, fmt.Errorf("log %q: LSN %d: %w", info.Name, lsn, errLookAgain)
	}
	if failed := readFailed(info.Name, c.First, err); failed != nil {
		return 0, 0, failed
	}
	var run, rest []byte
	if err == nil {
		run, err = c.slice(raw)
	}
	if err == nil {
		rest, err = records.Skip(run, int(lsn-c.First)+1)
	}
	if err != nil {
		if lerr := v.live(info.Name, number, at, &h); lerr != nil {
			return 0, 0, lerr // it was released, or is none of the log's any more
		}
		return 0, 0, &DataLossError{Log: info.Name, First: c.First, Last: c.Last(), Detail: "the batch does not verify", Err: err}
	}
	run = run[:len(run)-len(rest)]
	return c.Start + uint64(len(run)), Checksum(crc32.Update(uint32(sum), castagnoli, run)), nil
}

// offsetAt returns how many framed bytes had been appended to a log with that history
// before a record. Of one within a batch that does not verify it is how many came
// before the batch: damage must not keep anybody from giving it up.
func (v *Volume) offsetAt(name string, number uint64, lsn LSN, h *history) (uint64, error) {
	var b batchFrame
	if err := v.seek(&b, name, number, lsn, h); err != nil {
		return 0, err
	}
	c, _ := b.covering(lsn)
	if c.First == lsn {
		return c.Start, nil
	}
	raw, err := v.fetch.Open(b.frame, int(c.Block), nil)
	if errors.Is(err, segment.ErrReleased) {
		return v.offsetAt(name, number, lsn, h) // moved, or given up, meanwhile
	}
	if err != nil {
		return c.Start, nil
	}
	run, err := c.slice(raw)
	if err != nil {
		return c.Start, nil
	}
	rest, err := records.Skip(run, int(lsn-c.First))
	if err != nil {
		return c.Start, nil
	}
	return c.Start + uint64(len(run)-len(rest)), nil
}
