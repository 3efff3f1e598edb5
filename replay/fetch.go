package replay

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// ErrFetcherClosed is returned by a Fetcher that was closed.
var ErrFetcherClosed = errors.New("fetcher closed")

// A Fetcher reads frames and blocks at known places, for readers that have an
// index. It keeps a few segments open, limits.MaxOpenSegments at most, those in
// use included: a call beyond that waits for another's end. A segment that
// nobody asked for in limits.OpenSegmentIdle is closed, and one that is about to be
// released at once (Forget), so that an idle reader holds no segment back. Safe for concurrent use.
//
// What it returns is segment.ErrReleased, wrapped, when the segment is gone,
// also in the middle of a call.
type Fetcher struct {
	src Source

	mu     sync.Mutex
	room   sync.Cond    // told when a reader became idle or was closed
	idle   []idleReader // least recently used first
	open   int          // readers, idle or in use
	timer  *time.Timer  // set while idle holds something
	busy   map[segment.ID]int
	forget map[segment.ID]bool // whose readers are not kept
	closed bool
}

type idleReader struct {
	*segment.Reader
	id    segment.ID
	since time.Time
}

// NewFetcher returns a Fetcher over src. It opens nothing yet.
func NewFetcher(src Source) *Fetcher {
	f := &Fetcher{src: src, busy: map[segment.ID]int{}, forget: map[segment.ID]bool{}}
	f.room.L = &f.mu
	return f
}

// Frame reads and verifies the header and the directory of the frame at pos.
// The error is a *segment.CorruptError if there is none or it does not verify.
func (f *Fetcher) Frame(pos segment.Pos) (*segment.Frame, error) {
	var fr *segment.Frame
	err := f.with(pos.Segment, func(r *segment.Reader) (err error) {
		fr, err = r.Frame(pos.Offset)
		return err
	})
	return fr, err
}

// Head reads and verifies the header of the frame at pos alone, and has the disk read
// ahead its directory, for Directory. The error is as for Frame.
func (f *Fetcher) Head(pos segment.Pos) (h segment.Header, err error) {
	err = f.with(pos.Segment, func(r *segment.Reader) (err error) {
		h, err = r.Head(pos.Offset)
		return err
	})
	return h, err
}

// Directory reads and verifies the directory of the frame at pos, which h heads. The
// error is as for Frame.
func (f *Fetcher) Directory(pos segment.Pos, h segment.Header) (fr *segment.Frame, err error) {
	err = f.with(pos.Segment, func(r *segment.Reader) (err error) {
		fr, err = r.Directory(pos.Offset, h)
		return err
	})
	return fr, err
}

// Stored returns the stored bytes of a block of fr, verified by their checksum.
// They lie in dst, whose content is lost and which grows as needed. The error is a *segment.CorruptError that Is segment.ErrBadBlock if
// they do not verify.
func (f *Fetcher) Stored(fr *segment.Frame, block int, dst []byte) ([]byte, error) {
	var stored []byte
	err := f.with(fr.Pos.Segment, func(r *segment.Reader) (err error) {
		stored, err = r.Block(fr, block, dst)
		return err
	})
	return stored, err
}

// Open returns the bytes of a block of fr, verified and decompressed. They lie
// in dst, whose content is lost and which grows as needed. The error is as for
// Stored.
func (f *Fetcher) Open(fr *segment.Frame, block int, dst []byte) ([]byte, error) {
	var raw []byte
	err := f.with(fr.Pos.Segment, func(r *segment.Reader) error {
		stored, err := r.Block(fr, block, nil)
		if err == nil {
			raw, err = openStored(r.Path(), fr, block, stored, dst)
		}
		return err
	})
	return raw, err
}

// openStored decompresses the verified bytes of a block. Bytes that match their
// checksum and do not open were stored that way; it is the block's damage all
// the same.
func openStored(path string, fr *segment.Frame, block int, stored, dst []byte) ([]byte, error) {
	info := fr.Blocks[block]
	raw, err := info.Codec.Open(dst[:0], stored, int(info.RawSize))
	if err != nil {
		return nil, &segment.CorruptError{
			Path: path, Pos: fr.Pos, Reason: fmt.Sprintf("block %d: %v", block, err), Err: segment.ErrBadBlock,
		}
	}
	return raw, nil
}

// Prefetch has the disk read ahead n bytes from pos on, as far as the segment has
// been written, and returns where that ends. It is a hint: it does not wait for the
// disk, and what keeps a segment from being opened is for who reads it to say.
func (f *Fetcher) Prefetch(pos segment.Pos, n int64) (end int64) {
	_ = f.with(pos.Segment, func(r *segment.Reader) error {
		end = r.Prefetch(pos.Offset, n)
		return nil
	})
	return end
}

// Forget closes the idle readers of segments, and from now on every other when its
// call ends. It comes before they are released: a reader that is only kept in
// case somebody asks again would keep a segment from being recycled, and the volume
// would write new ones meanwhile. The error is one of closing a file that was only read.
func (f *Fetcher) Forget(ids []segment.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Of those that were forgotten earlier, no reader is opened any more.
	maps.DeleteFunc(f.forget, func(id segment.ID, _ bool) bool { return f.busy[id] == 0 })
	for _, id := range ids {
		f.forget[id] = true
	}
	return f.closeIdle(func(r idleReader) bool { return f.forget[r.id] })
}

// Close closes the idle segments and makes every later call fail with
// ErrFetcherClosed. Calls that are running end as they would have.
func (f *Fetcher) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.room.Broadcast()
	return f.closeIdle(func(idleReader) bool { return true })
}

// with calls fn with a Reader of the segment.
func (f *Fetcher) with(id segment.ID, fn func(*segment.Reader) error) error {
	r, err := f.acquire(id)
	if err != nil {
		return err
	}
	err = fn(r)
	if e := f.release(id, r, errors.Is(err, segment.ErrReleased)); err == nil {
		err = e
	}
	return err
}

// acquire takes a Reader of the segment that nobody else uses.
func (f *Fetcher) acquire(id segment.ID) (*segment.Reader, error) {
	f.mu.Lock()
	for !f.closed {
		if i := slices.IndexFunc(f.idle, func(r idleReader) bool { return r.id == id }); i >= 0 {
			r := f.idle[i].Reader
			f.idle = slices.Delete(f.idle, i, i+1)
			f.busy[id]++
			f.mu.Unlock()
			return r, nil
		}
		if f.open == limits.MaxOpenSegments && len(f.idle) > 0 {
			oldest := f.idle[0]
			if err := f.closeIdle(func(r idleReader) bool { return r == oldest }); err != nil {
				f.mu.Unlock()
				return nil, err
			}
		}
		if f.open < limits.MaxOpenSegments {
			f.open++
			f.busy[id]++
			f.mu.Unlock()
			r, err := f.src.Reader(id)
			if err != nil {
				f.mu.Lock()
				f.open--
				f.unused(id)
				f.room.Signal()
				f.mu.Unlock()
				return nil, fmt.Errorf("segment %s: %w", id, err)
			}
			return r, nil
		}
		f.room.Wait()
	}
	f.mu.Unlock()
	return nil, ErrFetcherClosed
}

// release gives a Reader back; one of a segment that is gone is of no more use.
func (f *Fetcher) release(id segment.ID, r *segment.Reader, gone bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room.Signal()
	f.unused(id)
	if gone || f.closed || f.forget[id] {
		f.open--
		return r.Close()
	}
	f.idle = append(f.idle, idleReader{r, id, time.Now()})
	if f.timer == nil {
		f.timer = time.AfterFunc(limits.OpenSegmentIdle, f.expire)
	}
	return nil
}

// unused counts a reader in use less. REQUIRES: mu.
func (f *Fetcher) unused(id segment.ID) {
	if f.busy[id]--; f.busy[id] == 0 {
		delete(f.busy, id)
	}
}

// expire closes what has been idle for long, and comes back for the rest.
func (f *Fetcher) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = nil
	// An error of closing a file that was only read says nothing about what was read.
	_ = f.closeIdle(func(r idleReader) bool { return time.Since(r.since) >= limits.OpenSegmentIdle })
	if len(f.idle) > 0 {
		f.timer = time.AfterFunc(limits.OpenSegmentIdle-time.Since(f.idle[0].since), f.expire)
	}
}

// closeIdle closes the idle readers that match.
func (f *Fetcher) closeIdle(match func(idleReader) bool) error {
	var errs []error
	f.idle = slices.DeleteFunc(f.idle, func(r idleReader) bool {
		if !match(r) {
			return false
		}
		errs = append(errs, r.Close())
		f.open--
		f.room.Signal()
		return true
	})
	if len(f.idle) == 0 && f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	return errors.Join(errs...)
}
