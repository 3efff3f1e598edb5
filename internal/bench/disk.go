package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// A Mode is one way of making a write durable. Its spelling is what tables and
// JSON show.
type Mode string

// The modes, in the order in which they are measured. Each is one write, then
// one sync (fdatasync on Linux).
const (
	Appended     Mode = "appended"     // behind the end of a growing file
	Preallocated Mode = "preallocated" // into space that fallocate reserved and nobody wrote
	Overwritten  Mode = "overwritten"  // over blocks that were written before
	Direct       Mode = "direct"       // the same with O_DIRECT, past the page cache
)

var modes = []Mode{Appended, Preallocated, Overwritten, Direct}

// DiskSizes are the sizes of RavenDB's table, in bytes.
var DiskSizes = []int64{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}

// DiskOptions says what Disk measures, and within which bounds. Dir is required.
type DiskOptions struct {
	// Dir is an existing directory on the disk in question. It may be a volume's
	// own: the files made in it are not taken for a volume's.
	Dir string
	// Sizes of one write in bytes, multiples of 4 KiB; default DiskSizes.
	Sizes []int64
	// Duration of one cell; default 500 ms. A cell ends with the first write
	// that ends after it, so a slow disk takes one write longer.
	Duration time.Duration
	// Space bounds what the files in Dir take together, in bytes; default
	// 512 MiB. Never more than half of what is free is taken. Sizes that do not
	// fit into half of it are skipped.
	Space int64

	// fs opens the files, with O_DIRECT if asked; tests look over its shoulder.
	fs func(direct bool) disk.FS
	// now is the clock; tests bring their own.
	now func() time.Time
}

func (o DiskOptions) withDefaults() DiskOptions {
	if len(o.Sizes) == 0 {
		o.Sizes = DiskSizes
	}
	if o.Duration <= 0 {
		o.Duration = 500 * time.Millisecond
	}
	if o.Space <= 0 {
		o.Space = 512 << 20
	}
	if o.fs == nil {
		o.fs = func(direct bool) disk.FS {
			if direct {
				return disk.OS(disk.OSOptions{Direct: disk.DirectAlways})
			}
			return disk.OS(disk.OSOptions{Direct: disk.DirectNever})
		}
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

// A DiskCell is one size written one way.
type DiskCell struct {
	Mode           Mode    `json:"mode"`
	Size           int64   `json:"size"`              // bytes of one write
	Syncs          int64   `json:"syncs"`             // writes made durable one after the other
	SyncsPerSecond float64 `json:"syncs_per_second"`  // over the time in write and sync only
	BytesPerSecond float64 `json:"bytes_per_second"`  // likewise
	Latency        Latency `json:"latency_us"`        // of write and sync together
	Skipped        string  `json:"skipped,omitempty"` // why nothing was measured; empty if something was
}

// DiskReport is the whole table, by size and then by mode.
type DiskReport struct {
	Dir     string      `json:"dir"`
	Cells   []DiskCell  `json:"cells"`
	Verdict DiskVerdict `json:"verdict"`
}

// Cell returns one cell of the table, or nil if it was not measured.
func (r *DiskReport) Cell(mode Mode, size int64) *DiskCell {
	for i := range r.Cells {
		if c := &r.Cells[i]; c.Mode == mode && c.Size == size && c.Skipped == "" {
			return c
		}
	}
	return nil
}

// Disk measures durable writes on the disk of a directory. progress is called
// before each cell, with the number of cells done and of all, and may be nil.
//
// Its files are removed when it returns, also when ctx ends it. They keep their
// names until then: a file without a name is synced with less work by some file
// systems (btrfs logs nothing for it), and would be measured too fast.
func Disk(ctx context.Context, o DiskOptions, progress func(done, all int, what string)) (_ *DiskReport, err error) {
	o = o.withDefaults()
	if progress == nil {
		progress = func(int, int, string) {}
	}
	for _, size := range o.Sizes {
		if size <= 0 || size%limits.BlockSize != 0 {
			return nil, fmt.Errorf("size %d: want a multiple of %d bytes", size, limits.BlockSize)
		}
	}
	free, err := o.fs(false).Free(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("free space of %s: %w", o.Dir, err)
	}
	fileSize := min(o.Space, int64(min(free/2, 1<<62))) / 2 &^ (limits.BlockSize - 1)
	var largest int64
	for _, size := range o.Sizes {
		if size <= fileSize {
			largest = max(largest, size)
		}
	}
	if largest == 0 {
		return nil, fmt.Errorf("%s: %d bytes free, too few to measure anything", o.Dir, free)
	}
	p := newProbe(o, fileSize, largest)
	defer func() { err = errors.Join(err, p.remove(p.written), p.remove(p.fresh)) }()

	all := len(o.Sizes)*len(modes) + 1
	progress(0, all, "writing a file to overwrite")
	if err := p.write(ctx); err != nil {
		return nil, fmt.Errorf("write %s: %w", p.written, err)
	}
	direct := takesDirect(p.written)

	report := &DiskReport{Dir: o.Dir}
	for _, size := range o.Sizes {
		for _, mode := range modes {
			progress(len(report.Cells)+1, all, fmt.Sprintf("%s %s", SizeName(size), mode))
			cell := DiskCell{Mode: mode, Size: size}
			switch {
			case size > p.fileSize:
				cell.Skipped = "not enough space"
			case mode == Direct && !direct:
				cell.Skipped = "no O_DIRECT here"
			default:
				err := p.cell(ctx, &cell)
				if errors.Is(err, errors.ErrUnsupported) {
					cell.Skipped = "not supported here"
				} else if err != nil {
					return nil, fmt.Errorf("%s writes of %s: %w", mode, SizeName(size), err)
				}
			}
			report.Cells = append(report.Cells, cell)
		}
	}
	report.Verdict = judge(report)
	progress(all, all, "done")
	return report, nil
}

// probe holds what the cells of one run share.
type probe struct {
	o        DiskOptions
	written  string // a file written from end to end once, for Overwritten and Direct
	fresh    string // made anew for each cell of the others
	fileSize int64  // of both, at most
	buffer   []byte // what is written
	stamp    uint64
}

// newProbe returns a probe with files of fileSize and writes of at most largest
// bytes. It touches nothing yet.
func newProbe(o DiskOptions, fileSize, largest int64) *probe {
	name := func(what string) string {
		return filepath.Join(o.Dir, fmt.Sprintf("walctl-disk-%d.%s", os.Getpid(), what))
	}
	p := &probe{o: o, written: name("written"), fresh: name("fresh"), fileSize: fileSize, buffer: disk.AlignedBuffer(int(largest))}
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p.buffer) // never fails
	return p
}

// next gives every 4 KiB of the first n bytes of the buffer a number of its
// own: a disk that drops repeated blocks would be measured too fast.
func (p *probe) next(n int64) []byte {
	for at := int64(0); at < n; at += limits.BlockSize {
		p.stamp++
		binary.LittleEndian.PutUint64(p.buffer[at:], p.stamp)
	}
	return p.buffer[:n]
}

// write makes the file that is overwritten, durably.
func (p *probe) write(ctx context.Context) (err error) {
	f, err := p.o.fs(false).Create(p.written)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	step := min(int64(len(p.buffer)), 1<<20)
	for at := int64(0); at < p.fileSize; at += step {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := f.WriteAt(p.next(min(step, p.fileSize-at)), at); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), p.o.fs(false).SyncDir(p.o.Dir))
}

// cell measures one size one way, for the options' duration and at least once.
func (p *probe) cell(ctx context.Context, cell *DiskCell) (err error) {
	f, err := p.open(cell.Mode)
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}()

	var (
		at       int64
		busy     time.Duration
		h        = newHistogram()
		start    = p.o.now()
		deadline = start.Add(p.o.Duration)
	)
	for cell.Syncs == 0 || start.Before(deadline) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if at+cell.Size > p.fileSize { // round the end, outside the measured time
			at = 0
			if cell.Mode == Appended || cell.Mode == Preallocated {
				// Closed first: an open file keeps its space.
				err, f = f.Close(), nil
				if err != nil {
					return err
				}
				if f, err = p.open(cell.Mode); err != nil {
					return err
				}
			}
		}
		data := p.next(cell.Size)
		start = p.o.now()
		if _, err := f.WriteAt(data, at); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		took := p.o.now().Sub(start)
		record(h, took)
		busy += took
		at += cell.Size
		cell.Syncs++
	}
	cell.SyncsPerSecond = float64(cell.Syncs) / busy.Seconds()
	cell.BytesPerSecond = cell.SyncsPerSecond * float64(cell.Size)
	cell.Latency = latencyOf(h)
	return nil
}

// open returns a file in the condition that the mode is about, durable as it is.
func (p *probe) open(mode Mode) (disk.File, error) {
	switch mode {
	case Overwritten, Direct:
		return p.o.fs(mode == Direct).Open(p.written, true)
	}
	if err := p.remove(p.fresh); err != nil {
		return nil, err
	}
	f, err := p.o.fs(false).Create(p.fresh)
	if err != nil {
		return nil, err
	}
	if mode == Preallocated {
		err = preallocate(p.fresh, p.fileSize)
	}
	if err = errors.Join(err, f.Sync(), p.o.fs(false).SyncDir(p.o.Dir)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (p *probe) remove(path string) error {
	if err := p.o.fs(false).Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SizeName spells a size in bytes as the tables do.
func SizeName(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
