package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// What a volume was at when an operation failed.
const (
	atOpen       = "open"
	atAppend     = "append"
	atCheckpoint = "checkpoint"
	atRead       = "read"
	atClose      = "close"
	atReopen     = "reopen"
	// These go on beside the others, and are told by what they do.
	atRoll     = "roll"
	atPrepare  = "prepare"
	atRecycle  = "recycle"
	atSnapshot = "snapshot"
)

// faultsDue is which failures each phase has to have met, for the loop to have
// proven anything about it.
var faultsDue = map[string][]disk.OpKind{
	atOpen:       {disk.OpMkdirAll, disk.OpLock, disk.OpList, disk.OpOpen, disk.OpCreate, disk.OpRead, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir, disk.OpClose},
	atReopen:     {disk.OpLock, disk.OpList, disk.OpOpen, disk.OpRead, disk.OpSize, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir, disk.OpClose},
	atAppend:     {disk.OpWrite, disk.OpSync},
	atCheckpoint: {disk.OpWrite, disk.OpSync},
	atRoll:       {disk.OpOpen, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir, disk.OpClose},
	atPrepare:    {disk.OpFree, disk.OpCreate, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir, disk.OpClose},
	atRecycle:    {disk.OpRename, disk.OpSyncDir},
	atSnapshot:   {disk.OpWrite, disk.OpSync},
	atRead:       {disk.OpOpen, disk.OpRead}, // what is read lies in few segments: the rest was moved there
	atClose:      {disk.OpWrite, disk.OpSync, disk.OpClose, disk.OpUnlock},
}

// TestEveryFault fails every single operation of a volume's life in turn, in
// each way in which it can fail, until a life has none left. Whatever fails,
// nothing is acknowledged behind a poison, everything in flight ends with its
// outcome unknown, followers and waiters end, what is durable can be read, and
// what was acknowledged is there when the volume is opened again, in order.
func TestEveryFault(t *testing.T) {
	changes := []disk.OpKind{disk.OpMkdirAll, disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpSyncDir, disk.OpWrite, disk.OpSync, disk.OpTruncate}
	for _, mode := range []struct {
		name  string
		fault disk.Fault
	}{
		{"EIO", disk.Fault{}},
		{"EIO, and it has happened", disk.Fault{Late: true, Kinds: changes}},
		{"EIO from then on", disk.Fault{Sticky: true, Kinds: changes}},
		{"ENOSPC", disk.Fault{Err: syscall.ENOSPC, Kinds: changes}},
		{"short write", disk.Fault{Short: true, Kinds: []disk.OpKind{disk.OpWrite}}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			step, hits := 1, map[string]map[disk.OpKind]int{}
			if testing.Short() {
				step = 13
			}
			lives, poisoned := 0, 0
			live := func(l *faultyLife) (hit bool) {
				l.live()
				lives++
				if l.ended {
					poisoned++
				}
				if l.hit == "" {
					return false
				}
				if hits[l.hit] == nil {
					hits[l.hit] = map[disk.OpKind]int{}
				}
				hits[l.hit][l.hitKind]++
				if t.Failed() {
					t.FailNow()
				}
				return true
			}
			for n, untouched := 0, 0; untouched < 3; n += step { // a life's length varies a little
				mode.fault.At = n
				if !live(newFaultyLife(t, mode.fault, n)) {
					untouched++
				}
			}
			if poisoned == 0 {
				t.Error("no fault poisoned a volume")
			}
			// What goes on beside may have slipped through between two lives: each
			// phase's first operation of each kind, whatever its number. Some come in every
			// other life alone, and in fewer on a busy machine.
			for phase, kinds := range faultsDue {
				for _, kind := range kinds {
					due := len(mode.fault.Kinds) == 0 || slices.Contains(mode.fault.Kinds, kind)
					for range 100 {
						if due && hits[phase][kind] == 0 {
							live(newFaultAt(t, mode.fault, phase, kind))
						}
					}
					if due && hits[phase][kind] == 0 {
						t.Errorf("no %s failed at %s: %v", kind, phase, hits[phase])
					}
				}
			}
			t.Logf("%d lives, %d poisoned: %v", lives, poisoned, hits)
		})
	}
}

// A faultyLife is one life of a volume into one fault.
type faultyLife struct {
	t     *testing.T
	n     int
	fault disk.Fault
	mem   *disk.Mem
	fs    *disk.Faulty
	phase atomic.Value // string: what the one who drives is at

	mu     sync.Mutex
	frame  segment.Kind // of the frame written last
	naming string       // the phase of the last change of a directory
	// The first operation that failed.
	hit     string
	hitKind disk.OpKind

	poisoned    atomic.Bool // the volume that is open
	ended       bool        // a volume was
	told, asked Epoch       // of log "b": what was acknowledged, and the newest that may be
	sealed      bool        // log "s" was, which was acknowledged
	incarnation uint64      // of the producer of log "r", which was told
	retired     bool        // and that it was retired was acknowledged
	rewound     bool        // log "w" was rewound, likewise
	submitted   map[string][]string
	acked       map[string]map[LSN]string
	given       map[string]LSN // up to where checkpoints were set, or may have been
}

// newFaultAt returns a life into the first operation of a kind in a phase.
func newFaultAt(t *testing.T, fault disk.Fault, phase string, kind disk.OpKind) *faultyLife {
	var l *faultyLife
	fault.At, fault.Kinds = 0, []disk.OpKind{kind}
	fault.Only = func(op disk.Op) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return op.Kind == kind && l.phaseOf(op) == phase
	}
	l = newFaultyLife(t, fault, -1)
	return l
}

func newFaultyLife(t *testing.T, fault disk.Fault, n int) *faultyLife {
	l := &faultyLife{t: t, n: n, fault: fault, mem: disk.NewMem(),
		submitted: map[string][]string{}, acked: map[string]map[LSN]string{}, given: map[string]LSN{}}
	l.phase.Store(atOpen)
	l.fs = disk.NewFaulty(l.mem)
	l.fault.Hit = func(op disk.Op) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.hit == "" {
			l.hit, l.hitKind = l.phaseOf(op), op.Kind
		}
	}
	l.fs.Before(func(op disk.Op) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch op.Kind {
		case disk.OpRename:
			l.naming = l.phaseOf(op)
		case disk.OpCreate, disk.OpRemove:
			// No directory is synced for a temporary name, which comes and goes while
			// others rename and sync.
			if !strings.HasSuffix(op.Name, ".tmp") {
				l.naming = l.phaseOf(op)
			}
		}
		return nil
	})
	l.fs.Inject(l.fault)
	return l
}

// phaseOf says what an operation was for. REQUIRES: mu.
func (l *faultyLife) phaseOf(op disk.Op) string {
	phase := l.phase.Load().(string)
	opening := phase == atOpen || phase == atReopen
	spare := strings.HasPrefix(op.Name, "spare-")
	wal := strings.HasSuffix(op.Name, ".wal")
	switch {
	case spare && strings.HasSuffix(op.Name, ".tmp"), op.Kind == disk.OpFree:
		return atPrepare
	case op.Kind == disk.OpSyncDir && l.naming != "":
		return l.naming
	case opening:
		return phase
	case op.Kind == disk.OpRename && wal, op.Kind == disk.OpRemove && wal:
		return atRecycle
	case spare:
		return atRoll
	case wal && op.Write, wal && op.Kind == disk.OpClose && phase != atClose && phase != atRead:
		return atRoll
	case wal && (op.Kind == disk.OpWrite || op.Kind == disk.OpSync):
		switch l.frame {
		case segment.KindSnapshot:
			return atSnapshot
		case segment.KindSeal:
			return atRoll
		}
	}
	return phase
}

// peeking is a file system that notes the kind of each frame that is written.
type peeking struct {
	disk.FS
	l *faultyLife
}

func (p peeking) Open(path string, write bool) (disk.File, error) {
	f, err := p.FS.Open(path, write)
	if err != nil || !write || !strings.HasSuffix(path, ".wal") {
		return f, err
	}
	return peekingFile{f, p.l}, nil
}

type peekingFile struct {
	disk.File
	l *faultyLife
}

func (f peekingFile) WriteAt(b []byte, off int64) (int, error) {
	f.l.mu.Lock()
	f.l.frame = segment.Kind(b[frameKindAt])
	f.l.mu.Unlock()
	return f.File.WriteAt(b, off)
}

// frameKindAt is where a frame's header has its kind; see docs/format.md.
const frameKindAt = 6

func (l *faultyLife) errorf(format string, args ...any) {
	l.t.Helper()
	l.t.Errorf("operation %d (%s at %s): %s", l.n, l.hitKind, l.hit, fmt.Sprintf(format, args...))
}

// live goes through a life, checks it, and opens what is left of it.
func (l *faultyLife) live() {
	if v := l.open(atOpen); v != nil {
		l.use(v, 14, true)
		l.close(v)
	}
	if v := l.open(atReopen); v != nil {
		l.use(v, 6, false)
		l.close(v)
	}
	l.fs.Clear()
	l.check(l.mem.CrashClone(nil, float64(l.n%2))) // nothing that was not synced survives, or all of it
}

// open opens the volume. A failure of the disk is told as such, and never as
// damage: nothing is known about what lies there.
func (l *faultyLife) open(phase string) *Volume {
	l.phase.Store(phase)
	o := testOptions(peeking{l.fs, l})
	o.SnapshotEvery = 24 << 10
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		for _, wrong := range []error{ErrDamaged, ErrReadOnly, ErrVersion, ErrDataLoss, ErrInUse} {
			if errors.Is(err, wrong) && (wrong != ErrInUse || l.hitKind != disk.OpUnlock) {
				l.errorf("%s: %v", phase, err)
			}
		}
		return nil
	}
	if r := v.Recovery(); r.Verdict == "damaged" {
		l.errorf("%s: recovery calls it damage: %+v", phase, r)
	}
	l.poisoned.Store(false)
	l.phase.Store(atRead) // no segment is open for reading yet
	l.holds(phase, v)
	return v
}

// holds checks that a volume has everything acknowledged, in order, and nothing
// that was not submitted, or twice. It may say that it cannot read.
func (l *faultyLife) holds(what string, v *Volume) {
	if info, err := v.Log("b"); err == nil && (info.Epoch < l.told || info.Epoch > max(1, l.asked)) {
		l.errorf("%s: log %q is in epoch %d, told was %d, asked for %d", what, "b", info.Epoch, l.told, l.asked)
	}
	if info, err := v.Log("s"); l.sealed && (err != nil || info.Sealed.IsZero()) {
		l.errorf("%s: log %q was sealed, and is %+v, %v", what, "s", info, err)
	}
	whole, begin := map[string]map[string]bool{}, map[string]LSN{}
	defer func() {
		for _, logs := range [][2]string{{"a", "b"}, {"b", "a"}} {
			for mark := range whole[logs[0]] {
				if begin[logs[1]] == 1 && !whole[logs[1]][mark] {
					l.errorf("%s: log %q has its part of batch %s, log %q does not", what, logs[0], mark, logs[1])
				}
			}
		}
	}()
	if p := l.producer(v); p.incarnation < l.incarnation || l.retired && !p.retired {
		l.errorf("%s: the producer is in incarnation %d, retired: %t; told was %d, %t", what, p.incarnation, p.retired, l.incarnation, l.retired)
	}
	if info, err := v.Log("w"); l.rewound && (err != nil || info.Epoch != 2 || info.Next != 3) {
		l.errorf("%s: log %q was rewound, and is %+v, %v", what, "w", info, err)
	}
	for log, acked := range l.acked {
		first, found, err := l.read(v, log)
		switch {
		case errors.Is(err, ErrReadFailed):
			if first, found, err = l.read(v, log); err != nil && !l.fault.Sticky {
				l.errorf("%s: read %q again: %v", what, log, err)
			}
			if err != nil {
				continue
			}
		case err != nil && (!l.fault.Sticky || errors.Is(err, ErrDataLoss)):
			l.errorf("%s: read %q: %v", what, log, err)
			continue
		case err != nil:
			continue
		}
		if first > l.given[log]+1 {
			l.errorf("%s: log %q begins at LSN %d, checkpoints were set up to %d", what, log, first, l.given[log])
		}
		for lsn, rec := range acked {
			if lsn >= first && (lsn-first >= LSN(len(found)) || found[lsn-first] != rec) {
				l.errorf("%s: log %q has LSN %d to %d, and another record than was acknowledged at %d, or none", what, log, first, int(first)+len(found)-1, lsn)
			}
		}
		whole[log] = wholesIn(found)
		begin[log] = first
		if info, err := v.Log(log); log == faultLimited && err == nil && (info.Options.RateBytes != faultLimits.RateBytes ||
			info.Options.QuotaBytes != faultLimits.QuotaBytes || info.LiveBytes != uint64(len(run(found...)))) {
			l.errorf("%s: log %q has %+v, and is said to hold %d bytes; its records have %d", what, log, info.Options, info.LiveBytes, len(run(found...)))
		}
		if !within(found, l.submitted[log]) {
			l.errorf("%s: log %q has records that were not submitted, or not in this order, or twice", what, log)
		}
	}
}

// wholeMark is in the records of batches over both logs, before what tells them apart.
const wholeMark = "together "

// wholesIn returns which batches over both logs a log has.
func wholesIn(found []string) map[string]bool {
	in := map[string]bool{}
	for _, rec := range found {
		if _, mark, ok := strings.Cut(rec, wholeMark); ok {
			in[mark] = true
		}
	}
	return in
}

// acquire makes a writer and releases it, so that the log goes on being shared. It
// reports whether that failed, as release does.
func (l *faultyLife) acquire(v *Volume) (failed bool) {
	l.asked = max(1, l.told, l.asked) + 1
	w, err := v.AcquireWriter(context.Background(), "b", Acquire{Holder: "db"})
	if l.refused("acquire", err) {
		return true
	}
	if err != nil {
		return false
	}
	l.told, l.asked = w.Log.Epoch, w.Log.Epoch
	return l.release(v, w.Log.Epoch)
}

func (l *faultyLife) release(v *Volume, epoch Epoch) (failed bool) {
	l.asked = epoch + 1
	info, err := v.ReleaseWriter(context.Background(), "b", epoch)
	if l.refused("release", err) {
		return true
	}
	if err == nil {
		l.told = info.Epoch
	}
	return false
}

// rewind begins an epoch of a log of its own behind its end: further back it would read
// a segment, which is another phase's to open. It reports whether that failed.
func (l *faultyLife) rewind(v *Volume) (failed bool) {
	ctx := context.Background()
	if _, _, err := v.CreateLog(ctx, "w", LogOptions{}); l.refused("create", err) || err != nil {
		return err != nil
	}
	if info, err := v.Log("w"); l.rewound || err == nil && info.Epoch > 1 {
		l.rewound = true // in an earlier life
		return false
	}
	for _, r := range []string{"one", "two"} {
		if _, err := v.Append(ctx, "w", ulid.ULID{}, 0, Batch{Run: run(r)}); l.refused("append", err) || err != nil {
			return err != nil
		}
	}
	_, err := v.Rewind(ctx, "w", Rewind{After: 2, Epoch: 1})
	if l.refused("rewind", err) {
		return true
	}
	l.rewound = l.rewound || err == nil
	return false
}

// faultLimited is the log that takes little, and faultLimits what it takes.
const faultLimited = "q"

var faultLimits = LogOptions{RateBytes: limits.MinLogRate, QuotaBytes: 12 << 10}

// limit appends to a log that takes little what it takes, which is the first since the
// volume was opened, and then what it refuses. It reports whether that failed.
func (l *faultyLife) limit(v *Volume) (failed bool) {
	ctx := context.Background()
	if _, _, err := v.CreateLog(ctx, faultLimited, faultLimits); l.refused("create", err) || err != nil {
		return err != nil
	}
	if l.acked[faultLimited] == nil {
		l.acked[faultLimited] = map[LSN]string{}
	}
	rec := fmt.Sprintf("%d %s", len(l.submitted[faultLimited]), strings.Repeat("q", 4000))
	l.submitted[faultLimited] = append(l.submitted[faultLimited], rec)
	got, err := v.Append(ctx, faultLimited, ulid.ULID{}, 0, Batch{Run: run(rec)})
	if l.refused("append", err) || err != nil {
		return err != nil
	}
	l.acked[faultLimited][got.First] = rec
	_, err = v.Append(ctx, faultLimited, ulid.ULID{}, 0, Batch{Run: run("over its rate")})
	var rate *RateError
	if !errors.As(err, &rate) && !errors.Is(err, ErrPoisoned) && !errors.Is(err, ErrFull) || rate != nil && (rate.Rate != faultLimits.RateBytes || rate.After <= 0 || rate.After > 3*time.Second) {
		l.errorf("behind %d bytes, a log with a rate of %d: %v", len(rec), faultLimits.RateBytes, err)
	}
	if errors.Is(err, ErrPoisoned) {
		return l.refused("append", err)
	}
	_, err = v.Append(ctx, faultLimited, ulid.ULID{}, 0, Batch{Run: run(strings.Repeat("over its quota", 900))})
	if !errors.Is(err, ErrQuota) && !errors.Is(err, ErrPoisoned) {
		l.errorf("%d bytes to a log with a quota of %d: %v", 14*900, faultLimits.QuotaBytes, err)
	}
	return errors.Is(err, ErrPoisoned) && l.refused("append", err)
}

// seal creates a log and seals it. It reports whether that failed.
func (l *faultyLife) seal(v *Volume) (failed bool) {
	if _, _, err := v.CreateLog(context.Background(), "s", LogOptions{}); l.refused("create", err) || err != nil {
		return err != nil
	}
	_, err := v.SealLog(context.Background(), "s", nil)
	if l.refused("seal", err) {
		return true
	}
	l.sealed = l.sealed || err == nil
	if _, err := v.Append(context.Background(), "s", ulid.ULID{}, 0, Batch{Run: run("late")}); l.sealed && !errors.Is(err, ErrSealed) && !errors.Is(err, ErrPoisoned) {
		l.errorf("an append to a sealed log: %v", err)
	}
	return false
}

// producer returns the producer of log "r" as the volume has it.
func (l *faultyLife) producer(v *Volume) producerState {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if r := v.durable.named("r"); r != nil {
		if slot := r.slot(producerID(1)); slot != 0 {
			return *r.producers[slot-1]
		}
	}
	return producerState{}
}

// resolve opens a producer, resolves what it may have under way, and retires it. It
// reports whether that failed.
func (l *faultyLife) resolve(v *Volume) (failed bool) {
	ctx := context.Background()
	if _, _, err := v.CreateLog(ctx, "r", LogOptions{}); l.refused("create", err) || err != nil {
		return err != nil
	}
	info, err := v.OpenProducer(ctx, "r", producerID(1))
	if errors.Is(err, ErrRetired) { // in an earlier life of the volume, or in what nobody was told of
		return false
	}
	if l.refused("open producer", err) || err != nil {
		return err != nil
	}
	r, err := v.Resolve(ctx, "r", producerID(1), info.LastSequence+1, 0)
	if l.refused("resolve", err) || err != nil {
		return err != nil
	}
	if r.Outcome != NotWritten || r.Producer.Incarnation <= max(info.Incarnation, l.incarnation) {
		l.errorf("a batch behind the last one of incarnation %d is resolved as %+v", info.Incarnation, r)
	}
	l.incarnation = r.Producer.Incarnation
	late := Batch{Sequence: info.LastSequence + 1, Incarnation: info.Incarnation, Run: run("late")}
	if _, err := v.Append(ctx, "r", producerID(1), 0, late); !errors.Is(err, ErrSuperseded) && !errors.Is(err, ErrPoisoned) {
		l.errorf("a batch that was not written arrives: %v", err)
	}
	err = v.RetireProducer(ctx, "r", producerID(1))
	l.retired = l.retired || err == nil
	return l.refused("retire", err)
}

// within reports whether part is in whole, in order.
func within(part, whole []string) bool {
	for _, w := range whole {
		if len(part) > 0 && part[0] == w {
			part = part[1:]
		}
	}
	return len(part) == 0
}

// read returns a log's records, and the LSN of the first. A log that is not there
// has none.
func (l *faultyLife) read(v *Volume, log string) (first LSN, found []string, err error) {
	info, err := v.Log(log)
	if errors.Is(err, ErrLogNotFound) {
		return 1, nil, nil
	}
	r, rerr := v.NewReader(log, ReadOptions{From: info.First})
	if errors.Is(rerr, ErrLSNTruncated) {
		return l.read(v, log) // the janitor was faster
	}
	if err = errors.Join(err, rerr); err != nil {
		return 0, nil, err
	}
	defer r.Close()
	for {
		span, err := r.Next(context.Background())
		switch {
		case err == io.EOF:
			if now, err := v.Log(log); err != nil || info.First+LSN(len(found)) != now.Next {
				l.errorf("a reader ends behind %d records from %d on, and the log is %+v, %v", len(found), info.First, now, err)
			}
			return info.First, found, nil
		case errors.Is(err, ErrLSNTruncated):
			return l.read(v, log)
		case err != nil:
			return 0, nil, err
		}
		recs, err := split(span.Run)
		if err != nil {
			return 0, nil, err
		}
		found = append(found, recs...)
	}
}

// use appends, sets checkpoints and reads until something fails.
func (l *faultyLife) use(v *Volume, rounds int, checkpoints bool) {
	ctx := context.Background()
	l.phase.Store(atAppend)
	for _, log := range []string{"a", "b"} {
		if _, _, err := v.CreateLog(ctx, log, LogOptions{ColocationKey: "fault"}); err != nil {
			l.refused("create", err) // ErrFull, if the first spares could not be made
			return
		}
		if l.acked[log] == nil {
			l.acked[log] = map[LSN]string{}
		}
	}

	// A follower and a waiter, who must not be left behind.
	var waiting sync.WaitGroup
	ends := make(chan error, 2)
	waiting.Go(func() {
		for {
			r, err := v.NewReader("b", ReadOptions{Follow: true})
			for err == nil || errors.Is(err, ErrReadFailed) {
				_, err = r.Next(ctx)
			}
			if !errors.Is(err, ErrLSNTruncated) { // else the janitor was faster
				ends <- err
				return
			}
		}
	})
	waiting.Go(func() {
		_, err := v.WaitDurable(ctx, "b", 1<<40)
		ends <- err
	})
	defer func() {
		if l.poisoned.Load() {
			waiting.Wait() // before the volume is closed
			for range cap(ends) {
				if err := <-ends; !errors.Is(err, ErrPoisoned) {
					l.errorf("a follower or waiter of a poisoned volume ends with %v", err)
				}
			}
		}
	}()

	if info, err := v.Log("b"); err == nil && info.Holder != "" && l.release(v, info.Epoch) {
		return
	}
	for round := range rounds {
		if round == 2 && l.acquire(v) || round == 3 && (l.seal(v) || l.rewind(v)) || round == 4 && (l.resolve(v) || l.limit(v)) {
			break
		}
		l.append(v, round)
		if l.poisoned.Load() {
			break
		}
		if !checkpoints || round%4 != 3 {
			continue
		}
		l.phase.Store(atCheckpoint)
		for _, log := range []string{"a", "b"} { // the other one gives up nothing
			info, err := v.Log(log)
			if err == nil {
				l.given[log] = max(info.Durable(), 1) - 1
				_, err = v.SetCheckpoint(ctx, log, Checkpoint{Name: "cp", LSN: l.given[log], State: []byte(strings.Repeat("s", 100))}, nil)
			}
			if l.refused("checkpoint", err) {
				break
			}
		}
		l.phase.Store(atAppend)
	}
	if l.poisoned.Load() {
		l.after(v)
		return
	}
	l.phase.Store(atRead)
	l.holds("reading", v)
	if cp, err := v.Checkpoint(ctx, "b", "cp"); err == nil && len(cp.State) != 100 {
		l.errorf("the checkpoint has a state of %d bytes", len(cp.State))
	} else if err != nil && !errors.Is(err, ErrCheckpointNotFound) && !errors.Is(err, ErrReadFailed) {
		l.errorf("the checkpoint: %v", err)
	}
}

// append appends to both logs at once.
func (l *faultyLife) append(v *Volume, round int) {
	type client struct {
		log, rec string
		verdict  Verdict
		err      error
	}
	phase := l.phase.Load().(string)
	clients := make([]client, 2)
	var appending sync.WaitGroup
	before := l.poisoned.Load()
	for i, log := range []string{"a", "b"} {
		rec := fmt.Sprintf("%s %d %s", log, len(l.submitted[log]), strings.Repeat("x", 8000+100*round))
		l.submitted[log] = append(l.submitted[log], rec)
		clients[i] = client{log: log, rec: rec}
		appending.Go(func() {
			clients[i].verdict, clients[i].err = v.Append(context.Background(), log, ulid.ULID{}, 0, Batch{Run: run(rec)})
		})
	}
	appending.Wait()
	clients = append(clients, client{log: "a"}, client{log: "b"})
	together, mark := clients[2:], len(l.submitted["a"])
	for i := range together {
		c := &together[i]
		c.rec = fmt.Sprintf("%s %d %s%d", c.log, len(l.submitted[c.log]), wholeMark, mark)
		l.submitted[c.log] = append(l.submitted[c.log], c.rec)
	}
	whole, err := v.Append(context.Background(), "a", ulid.ULID{}, 0, Batch{Run: run(together[0].rec), Parts: []Part{{Log: "b", Run: run(together[1].rec)}}})
	together[0].verdict, together[0].err, together[1].err = whole, err, err
	if err == nil {
		together[1].verdict.First = whole.Parts[0].First
	}
	for _, c := range clients {
		if c.err == nil {
			if before {
				l.errorf("acknowledged behind a poison, at %s", phase)
			}
			l.acked[c.log][c.verdict.First] = c.rec
			continue
		}
		l.refused("append", c.err)
	}
}

// refused reports whether the volume has ended, and checks that an error is one
// that its caller can act on.
func (l *faultyLife) refused(what string, err error) bool {
	switch {
	case err == nil, errors.Is(err, ErrFull):
		return false
	case errors.Is(err, ErrPoisoned):
		l.poisoned.Store(true)
		l.ended = true
		if l.hit == atPrepare && !l.fault.Sticky && errors.Is(err, syscall.ENOSPC) {
			l.errorf("%s: no room to prepare a segment is a poison: %v", what, err)
		}
		return true
	}
	l.errorf("%s: %v", what, err)
	return true
}

// after checks a poisoned volume: for good, and readable.
func (l *faultyLife) after(v *Volume) {
	ctx := context.Background()
	l.fs.Clear()
	if state, detail := v.State(); state != Poisoned || detail == "" {
		l.errorf("state %d (%s) of a poisoned volume", state, detail)
	}
	var errs []error
	_, err := v.Append(ctx, "a", ulid.ULID{}, 0, Batch{Run: run("x")})
	errs = append(errs, err)
	_, _, err = v.CreateLog(ctx, "c", LogOptions{})
	errs = append(errs, err)
	_, err = v.SetCheckpoint(ctx, "a", Checkpoint{Name: "late", LSN: 0}, nil)
	errs = append(errs, err, v.DeleteLog(ctx, "a", ulid.ULID{}))
	_, err = v.OpenProducer(ctx, "a", producerID(1))
	errs = append(errs, err)
	for i, err := range errs {
		if !errors.Is(err, ErrPoisoned) {
			l.errorf("call %d on a poisoned volume: %v", i, err)
		}
	}
	l.holds("poisoned", v)
}

func (l *faultyLife) close(v *Volume) {
	l.phase.Store(atClose)
	err := v.Close()
	if l.poisoned.Load() && !errors.Is(err, ErrPoisoned) {
		l.errorf("close of a poisoned volume: %v", err)
	}
}

// check opens what a power cut left.
func (l *faultyLife) check(mem *disk.Mem) {
	v, err := Open(context.Background(), "/vol", testOptions(mem))
	if err != nil {
		l.errorf("open what is left: %v", err)
		return
	}
	if r := v.Recovery(); r.Verdict == "damaged" {
		l.errorf("what is left is damaged: %+v", r)
	}
	l.holds("what is left", v)
	if len(l.acked) > 0 {
		mustCreate(l.t, v, "after")
		mustAppend(l.t, v, "after", "x")
		if got := readAll(l.t, v, "after", 0); !slices.Equal(got, []string{"x"}) {
			l.errorf("what is left does not go on: %q", got)
		}
	}
	closeTest(l.t, v)
}
