package bench

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/walsvc/walsvc/batcher"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// RealDisk names the disk of a directory among those of Disks.
const RealDisk = "real"

var devices = []disk.Device{disk.HardDisk, disk.CloudSSD, disk.NVMe}

// Disks names the disks that a rig can be on: the real one and the modelled ones.
func Disks() []string {
	names := []string{RealDisk}
	for _, d := range devices {
		names = append(names, d.Name)
	}
	return names
}

// OpenDisk returns the disk of that name of Disks.
func OpenDisk(name string) (disk.FS, error) {
	fs := disk.OS(disk.OSOptions{})
	if name == RealDisk {
		return fs, nil
	}
	for _, d := range devices {
		if d.Name == name {
			return disk.Model(fs, d), nil
		}
	}
	return nil, fmt.Errorf("disk %q: want one of %q", name, Disks())
}

// RigOptions say where a rig is. FS and Dir are required.
type RigOptions struct {
	FS  disk.FS
	Dir string // exists; the volume is made in it, and removed
	// SegmentSize is in bytes; default limits.DefaultSegmentSize.
	SegmentSize int64
}

// rigSpares is how many spares a rig has: more than it fills before it releases.
const rigSpares = 4

// A Rig is a journal as the engine has it, without the sequencing of package
// wal, for buses to commit their frames to: package segment on a disk of
// internal/disk, in segments that were written before and are recycled. One bus
// at a time may use it.
type Rig struct {
	dir     string
	journal *segment.Journal
	draft   segment.Draft   // scratch of Commit, which never runs twice at a time
	rolled  chan segment.ID // that began; what is before it may go
	failed  chan error      // has the first error
	helpers sync.WaitGroup
}

// OpenRig makes a volume, with all its segments written.
func OpenRig(ctx context.Context, o RigOptions) (*Rig, error) {
	dir, err := os.MkdirTemp(o.Dir, "walsvc-rig-")
	if err != nil {
		return nil, err
	}
	r := &Rig{dir: dir, rolled: make(chan segment.ID, 1), failed: make(chan error, 1)}
	if err := r.open(ctx, o); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r.helpers.Go(r.recycle)
	return r, nil
}

// Close removes the volume. Nothing may be under way.
func (r *Rig) Close() error {
	close(r.rolled)
	r.helpers.Wait()
	return errors.Join(r.journal.Close(), os.RemoveAll(r.dir))
}

// open makes a volume with as many spares as it may have, and begins its
// journal with fewer wanted: from then on segments are recycled and nothing is
// prepared, which would take the disk's time away from what is measured.
func (r *Rig) open(ctx context.Context, o RigOptions) error {
	ready := make(chan struct{}, rigSpares)
	so := segment.Options{
		FS: o.FS, Dir: filepath.Join(r.dir, "volume"), SegmentSize: cmp.Or(o.SegmentSize, limits.DefaultSegmentSize), Spares: rigSpares, PrepareRate: -1,
		Events: segment.Events{Prepared: func(int64, time.Duration) { ready <- struct{}{} }, PrepareFailed: r.Fail},
	}
	if err := segment.Create(so); err != nil {
		return err
	}
	if err := r.begin(so); err != nil {
		return err
	}
	var err error
	for i := 0; i < so.Spares && err == nil; i++ {
		err = r.Wait(ctx, ready)
	}
	if err := errors.Join(err, r.journal.Close()); err != nil {
		return err
	}
	so.Spares, so.Events.Prepared = 0, nil
	return r.begin(so)
}

// begin begins the journal of an empty volume.
func (r *Rig) begin(so segment.Options) (err error) {
	if r.journal, err = segment.Open(so); err != nil {
		return err
	}
	if _, err := r.journal.Resume(segment.Resume{}); err != nil {
		return errors.Join(err, r.journal.Close())
	}
	return nil
}

// recycle gives back segments that are behind the last one, as the janitor of a
// volume would whose logs are truncated.
func (r *Rig) recycle() {
	for id := range r.rolled {
		if err := r.journal.Release(r.journal.Below(id)); err != nil {
			r.Fail(err)
		}
	}
}

// Fail ends waiting with err. Only the first one counts.
func (r *Rig) Fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

// Wait returns when there is a token or the channel is closed, or with an error
// as soon as there is one.
func (r *Rig) Wait(ctx context.Context, token <-chan struct{}) error {
	select {
	case <-token:
		return nil
	case err := <-r.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Sleep returns after d, or with an error as soon as there is one.
func (r *Rig) Sleep(ctx context.Context, d time.Duration) error {
	over := make(chan struct{})
	clock := time.AfterFunc(d, func() { close(over) })
	defer clock.Stop()
	return r.Wait(ctx, over)
}

// CommitTimes are when a frame began to be written and synced, and was durable.
type CommitTimes struct{ Write, Sync, End time.Time }

// Commit writes and syncs a frame, as package wal does. It is for Options.Submit
// of a bus.
func (r *Rig) Commit(f *batcher.Frame) (t CommitTimes, err error) {
	d := &r.draft
	d.Kind, d.Time, d.Meta, d.Blocks = segment.KindCommands, time.Now().UnixNano(), f.Meta(), d.Blocks[:0]
	for _, b := range f.Blocks() {
		d.Blocks = append(d.Blocks, segment.Block(b))
	}
	t.Write = time.Now()
	w, err := r.journal.Append(d)
	t.Sync = time.Now()
	if err == nil {
		err = r.journal.Sync()
	}
	t.End = time.Now()
	clear(d.Blocks)
	if w.Rolled {
		select {
		case r.rolled <- w.Ref.Pos.Segment:
		default: // the one before is under way, and the next one will do
		}
	}
	return t, err
}

// A Caller makes one append after the other.
type Caller struct {
	Run    []byte // what it appends, as a run of package records
	landed chan error
}

// NewCaller returns a caller without a run.
func NewCaller() *Caller { return &Caller{landed: make(chan error, 1)} }

// Landed implements batcher.Rider.
func (c *Caller) Landed(_ uint64, err error) { c.landed <- err }

// Wait returns when what the caller put on a frame is durable, or with the error
// that it landed with.
func (c *Caller) Wait() error { return <-c.landed }

// Board puts the caller's run on a frame, with about what a command of package wal
// takes. REQUIRES: boarded.
func (c *Caller) Board(f *batcher.Frame) {
	const log = 1
	block, offset := f.AddRecords(log, c.Run)
	var command [3 * binary.MaxVarintLen64]byte
	b := binary.AppendUvarint(command[:0], log)
	b = binary.AppendUvarint(b, uint64(block))
	b = binary.AppendUvarint(b, uint64(offset))
	f.AppendCommand(b)
	f.Ride(c)
}
