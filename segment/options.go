package segment

import (
	"crypto/rand"
	"io"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// Options says where a volume is and how its journal is kept. The zero value
// of each optional field means its default.
type Options struct {
	// FS is the disk. Required.
	FS disk.FS
	// Dir is the volume's directory. Required.
	Dir string
	// SegmentSize is the size of segment files in bytes, read by Create only:
	// afterwards it is the volume's own. A multiple of limits.BlockSize from
	// limits.MinSegmentSize to limits.MaxSegmentSize; default
	// limits.DefaultSegmentSize.
	SegmentSize int64
	// Spares is how many spares are kept prepared, the reserve among them: from
	// 2 to limits.MaxSpares. The default is 2, or 4 when segments are smaller than
	// 1 MiB. What is recycled is kept beyond that, up to limits.MaxSpares: the
	// segments that a load fills come in bursts, and one that was removed has to be
	// written anew.
	Spares int
	// PrepareRate is what the preparer writes, in bytes per second, while frames
	// come slower than half of that: it is always at least twice as fast as the
	// current segment fills. Default 128 MiB/s; negative: unlimited.
	PrepareRate int64
	// Rand gives salts and names; default crypto/rand. It is never read by two
	// goroutines at once.
	Rand io.Reader
	// Now is the wall clock in nanoseconds since 1970; default time.Now.
	Now func() int64
	// Seal returns the Meta of the seal of segment id: the caller's index, at
	// most limit bytes, nil for none. It is called on the goroutine that calls
	// Append, when that rolls. Nil: seals carry nothing.
	Seal func(id ID, limit int) []byte
	// Events hears what happens behind the caller's back.
	Events Events
	// ReadOnly takes no lock and writes nothing, so that a volume in use can be
	// looked at. Resume, Append, Sync and Release are refused.
	ReadOnly bool
}

// Events are told as they happen, on whatever goroutine made them happen; they
// must not block and not call back into the Journal. A nil func is not called.
type Events struct {
	// Stranger names something in the volume's directory that is not walsvc's
	// and is left alone.
	Stranger func(name string)
	// Begun: the segment exists durably and takes the next frame.
	Begun func(id ID, size int64)
	// Sealed: the segment's seal is durable.
	Sealed func(id ID)
	// Released: the segment is gone; its file became a spare, or was removed.
	Released func(id ID, recycled bool)
	// Prepared: the preparer wrote a spare of size bytes, which took d.
	Prepared func(size int64, d time.Duration)
	// PrepareFailed: the preparer could not; it tries again later.
	PrepareFailed func(err error)
	// Poisoned: the journal takes nothing more. Told once.
	Poisoned func(cause error)
}

const (
	defaultSpares      = 2
	smallSpares        = 4
	smallSegment       = 1 << 20
	defaultPrepareRate = 128 << 20
)

// withDefaults fills in what is not set, apart from what depends on the
// volume's segment size.
func (o Options) withDefaults() Options {
	if o.SegmentSize == 0 {
		o.SegmentSize = limits.DefaultSegmentSize
	}
	if o.PrepareRate == 0 {
		o.PrepareRate = defaultPrepareRate
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Now == nil {
		o.Now = func() int64 { return time.Now().UnixNano() }
	}
	if o.Seal == nil {
		o.Seal = func(ID, int) []byte { return nil }
	}
	return o
}

// spares returns how many spares a volume of segments of size bytes keeps.
func (o Options) spares(size int64) int {
	switch {
	case o.Spares > 0:
		return min(max(o.Spares, defaultSpares), limits.MaxSpares)
	case size < smallSegment:
		return smallSpares // a roll may follow a roll before a spare is written
	}
	return defaultSpares
}
