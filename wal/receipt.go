package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// A Receipt is what an append was acknowledged with, as a client keeps it: proof of
// nothing by itself, and of a history together with a volume that has it.
type Receipt struct {
	Volume ulid.ULID
	Log    ulid.ULID
	Name   string // of the log
	Epoch  Epoch
	// First and Last are the records. Through is the last one of the batch that they
	// were appended in, at or above Last: Checksum is the log's behind it, over all
	// records from the log's first on.
	First, Last, Through LSN
	Checksum             Checksum
	// Committed is the commit time in nanoseconds since 1970; 0 if it is not known, as
	// of a repeat: then it is not compared.
	Committed int64
}

// A ReceiptVerdict is what becomes of a Receipt.
type ReceiptVerdict uint8

// The verdicts on receipts.
const (
	// ReceiptProven: the volume has exactly what the receipt says.
	ReceiptProven ReceiptVerdict = iota + 1
	// ReceiptContradicted: it has something else, or nothing where it would have it.
	ReceiptContradicted
	// ReceiptGone: what would prove it was truncated, or deleted with the log.
	ReceiptGone
	// ReceiptLost: damage took what would prove it.
	ReceiptLost
	// ReceiptRewound: it was so, and a rewind has discarded it, or the end of it, since.
	ReceiptRewound
)

// String names a verdict as walctl prints it.
func (v ReceiptVerdict) String() string {
	switch v {
	case ReceiptProven:
		return "proven"
	case ReceiptContradicted:
		return "contradicted"
	case ReceiptGone:
		return "gone"
	case ReceiptLost:
		return "lost"
	case ReceiptRewound:
		return "rewound"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// A ReceiptFinding is a verdict with its reasons.
type ReceiptFinding struct {
	Verdict ReceiptVerdict
	Field   string // that is contradicted, as walsvc.v1.Receipt names it; empty unless one is
	Detail  string // one sentence for people
	// Committed is the commit time that the volume has, in nanoseconds since 1970; 0
	// unless the receipt is proven, or contradicted by it.
	Committed int64
}

// VerifyReceipt says whether the volume has what a receipt says. It looks for the
// records by log and LSN, so that it is all the same where they lie by now, and asks,
// in this order:
//
//	the volume   is it this one?
//	the log      by its ULID: does it have that name? One that is not there was
//	             deleted, unless a log that has the name now had it already then
//	Through      discarded since its epoch: rewound, as far as the log remembers its
//	             rewinds. Below what is kept: gone. Given up by a repair: lost. Beyond
//	             the end: never was, unless damage keeps the end from being known
//	the batch    its epoch; the log's checksum behind it, which vouches for every
//	             record before; First, if the batch is kept whole; its commit time;
//	             at last its records are read
//
// What a receipt says and leaves out is two things: one that names fewer records of
// its batch is proven, too, since it says nothing wrong. A sealed log has what it had.
//
// It returns ErrInvalid for a receipt that no append can have got, ErrReadFailed or
// ErrClosed.
func (v *Volume) VerifyReceipt(r Receipt) (ReceiptFinding, error) {
	if r.First == 0 || r.Last < r.First || r.Through < r.Last || r.Through > math.MaxInt64 || r.Epoch == 0 || r.Committed < 0 {
		return ReceiptFinding{}, fmt.Errorf("receipt of LSN %d to %d of %d in epoch %d: %w: no append can have got it", r.First, r.Last, r.Through, r.Epoch, ErrInvalid)
	}
	if id := v.ID(); r.Volume != id {
		return contradicted("volume_id", "this is volume %s", id), nil
	}
	for {
		f, err := v.verifyLog(&r)
		if errors.Is(err, errLookAgain) {
			continue // it was rewound meanwhile, or moved
		}
		return f, err
	}
}

// verifyLog holds a receipt of this volume against its log.
func (v *Volume) verifyLog(r *Receipt) (ReceiptFinding, error) {
	info, number, found := v.receiptLog(r)
	if found != nil {
		return *found, nil
	}
	switch lost, ok := info.lostAt(r.Through); {
	case r.Through < info.First:
		return gone("the log begins with LSN %d by now", info.First), nil
	case r.Through >= info.Next && v.readOnly != nil:
		return ReceiptFinding{Verdict: ReceiptLost, Detail: fmt.Sprintf("the volume is damaged, and nobody knows what the log had behind LSN %d", info.Durable())}, nil
	case r.Through >= info.Next:
		return contradicted("last_lsn", "the log ends with LSN %d", info.Durable()), nil
	case ok:
		return lostBy(givenUp(info.Name, lost)), nil
	}
	f, err := v.verifyBatch(r, info, number)
	switch loss, ok := errors.AsType[*DataLossError](err); {
	case errors.Is(err, segment.ErrReleased) && v.aside: // by whoever has the volume
		return ReceiptFinding{}, err
	case errors.Is(err, segment.ErrReleased): // between the batch's directory and its records
		return ReceiptFinding{}, errLookAgain
	case errors.Is(err, ErrLSNTruncated):
		return gone("its records were truncated while they were looked for"), nil
	case errors.Is(err, ErrLogNotFound):
		return gone("the log was deleted while its records were looked for"), nil
	case ok:
		return lostBy(loss), nil
	}
	return f, err
}

func contradicted(field, format string, args ...any) ReceiptFinding {
	return ReceiptFinding{Verdict: ReceiptContradicted, Field: field, Detail: fmt.Sprintf(format, args...)}
}

func gone(format string, args ...any) ReceiptFinding {
	return ReceiptFinding{Verdict: ReceiptGone, Detail: fmt.Sprintf(format, args...)}
}

func lostBy(err error) ReceiptFinding {
	return ReceiptFinding{Verdict: ReceiptLost, Detail: err.Error()}
}

// receiptLog returns the log that a receipt is of and its number, or what is found
// without its records.
func (v *Volume) receiptLog(r *Receipt) (info LogInfo, number uint64, found *ReceiptFinding) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	found = &ReceiptFinding{}
	named := v.durable.named(r.Name)
	switch l := v.durable.byID(r.Log); {
	case l != nil && l == named:
		if err := l.moved(r.Epoch, r.Through); err != nil {
			return LogInfo{}, 0, &ReceiptFinding{Verdict: ReceiptRewound, Detail: err.Error()}
		}
		return l.info(), l.number, nil
	case l != nil:
		*found = contradicted("log", "the log of that ULID is called %q", l.name)
	case named != nil && r.Committed != 0 && named.created < r.Committed: // at its very time the one before may have been, if the clock stood
		*found = contradicted("log_id", "log %q was %s by then", named.name, named.id)
	case v.readOnly != nil:
		*found = ReceiptFinding{Verdict: ReceiptLost, Detail: "the volume is damaged, and it is not known whether it had the log"}
	case named != nil:
		*found = gone("the log was deleted: another one, %s, has its name", named.id)
	default:
		*found = gone("the log was deleted, or never was")
	}
	return LogInfo{}, 0, found
}

// byID returns the log that has an id, nil if none has. It looks at every one.
func (s *State) byID(id ulid.ULID) *logState {
	for _, l := range s.logs.all() {
		if l.id == id {
			return l
		}
	}
	return nil
}

// verifyBatch holds a receipt against the batch that has its last record, which is kept.
func (v *Volume) verifyBatch(r *Receipt, info LogInfo, number uint64) (ReceiptFinding, error) {
	var b batchFrame
	if err := v.seek(&b, info.Name, number, r.Through, &history{info.Epoch, info.Rewinds}); err != nil {
		return ReceiptFinding{}, err
	}
	c, _ := b.covering(r.Through)
	committed := b.committed(c)
	if c.Epoch != r.Epoch {
		return contradicted("epoch", "LSN %d is of epoch %d", r.Through, c.Epoch), nil
	}
	_, sum, err := v.behind(info, number, r.Through)
	switch {
	case err != nil:
		return ReceiptFinding{}, err
	case sum != r.Checksum:
		return contradicted("log_checksum", "behind LSN %d it is %08x", r.Through, uint32(sum)), nil
	case r.First < c.First && c.First > info.First:
		// Else the beginning of the batch may have been truncated since.
		return contradicted("first_lsn", "the batch begins with LSN %d", c.First), nil
	case r.Committed != 0 && r.Committed != committed:
		f := contradicted("commit_time", "it was committed at %s", timeOf(committed).Format(timeSpelled))
		f.Committed = committed
		return f, nil
	}
	if err := v.verifyRun(&b, c, info.Name); err != nil {
		return ReceiptFinding{}, err
	}
	f := ReceiptFinding{Verdict: ReceiptProven, Committed: committed, Detail: "the log has exactly these records behind exactly those before them"}
	if r.First < info.First {
		f.Detail = fmt.Sprintf("the log's history up to LSN %d is this one; its records below LSN %d were truncated since", r.Through, info.First)
	}
	return f, nil
}

// verifyRun reads a batch's records, which what is said of them in the directory
// outlives: a *DataLossError if they are not those that were appended.
func (v *Volume) verifyRun(b *batchFrame, c *Command, log string) error {
	damaged := func(err error) error {
		return &DataLossError{Log: log, First: c.First, Last: c.Last(), Detail: "the batch does not verify", Err: err}
	}
	if c.Size == 0 { // no batch is: what is left of one that was lost
		return damaged(nil)
	}
	raw, err := v.fetch.Open(b.frame, int(c.Block), nil)
	if failed := readFailed(log, c.First, err); failed != nil {
		return failed
	}
	if err != nil {
		return damaged(err)
	}
	run, err := c.slice(raw)
	if err == nil && crc32.Checksum(run, castagnoli) != c.RunSum {
		err = errors.New("its checksum is another one")
	}
	if err != nil {
		return damaged(err)
	}
	return nil
}

// timeSpelled has every digit of a commit time.
const timeSpelled = "2006-01-02T15:04:05.000000000Z07:00"

// VerifyReceiptIn is VerifyReceipt on the volume in a directory. It takes no lock and
// writes nothing, so the volume may be in use. It returns ErrNoVolume, ErrVersion and
// ErrDamaged, too.
func VerifyReceiptIn(ctx context.Context, dir string, r Receipt) (ReceiptFinding, error) {
	return verifyReceiptOn(ctx, disk.OS(disk.OSOptions{}), dir, r)
}

// verifyReceiptTries is how often it is looked anew while the process that has the
// volume releases segments under the search.
const verifyReceiptTries = 10

func verifyReceiptOn(ctx context.Context, fsys disk.FS, dir string, r Receipt) (f ReceiptFinding, err error) {
	for range verifyReceiptTries {
		if ctx.Err() != nil {
			return ReceiptFinding{}, context.Cause(ctx)
		}
		if f, err = lookOnce(fsys, dir, r); err == nil || !errors.Is(err, segment.ErrReleased) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("verify a receipt in volume %s: %w", dir, err)
	}
	return f, err
}

// lookOnce verifies a receipt against a volume as it lies there at one moment.
func lookOnce(fsys disk.FS, dir string, r Receipt) (f ReceiptFinding, err error) {
	v := &Volume{dir: dir, aside: true}
	v.journal, err = openJournal(segment.Options{FS: fsys, Dir: dir, ReadOnly: true}, false)
	if err != nil {
		return f, err
	}
	v.fetch = replay.NewFetcher(v.journal)
	defer func() { err = cmp.Or(err, errors.Join(v.fetch.Close(), v.journal.Close())) }()
	v.index.init(v)
	b := &rebuilder{v: v}
	found, err := replay.Recover(v.journal, b)
	if err != nil {
		return f, err
	}
	if v.durable = b.state; v.durable == nil {
		v.durable = NewState()
	} else {
		v.index.places = b.places // or moved records would be looked for where they were
	}
	if found.ReadOnly {
		v.readOnly = ErrReadOnly
	}
	return v.VerifyReceipt(r)
}
