package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/walsvc/walsvc/internal/limits"
)

// TestMemAgreesWithOS runs the same random operations on the real file system
// and on the one in memory: every result and every class of error is the same.
func TestMemAgreesWithOS(t *testing.T) {
	for _, o := range []OSOptions{{}, {Direct: DirectAlways}, {Direct: DirectNever}} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("direct=%v/seed=%d", o.Direct, seed), func(t *testing.T) {
				mem := NewMem()
				if err := mem.MkdirAll("/vol"); err != nil {
					t.Fatal(err)
				}
				real := newDriver(OS(o), t.TempDir(), seed)
				fake := newDriver(mem, "/vol", seed)
				for step := range 600 {
					want, got := real.step(), fake.step()
					if got != want {
						t.Fatalf("step %d: the real one says\n%s\nthe one in memory\n%s", step, want, got)
					}
				}
				real.close()
				fake.close()
			})
		}
	}
}

// driver turns a seed into operations and their results into text.
type driver struct {
	fs   FS
	dir  string
	rng  *rand.Rand
	open []File
	lock io.Closer
}

func newDriver(fs FS, dir string, seed uint64) *driver {
	return &driver{fs: fs, dir: dir, rng: rand.New(rand.NewPCG(seed, 0))}
}

func (d *driver) name() string {
	return string(rune('a' + d.rng.IntN(5)))
}

func (d *driver) path() string { return filepath.Join(d.dir, d.name()) }

// file returns one of the open files, which may be closed by now.
func (d *driver) file() (int, File) {
	i := d.rng.IntN(len(d.open))
	return i, d.open[i]
}

// span draws a place for a read or a write: half of them whole blocks.
func (d *driver) span() (off int64, n int) {
	if d.rng.IntN(2) == 0 {
		return limits.BlockSize * int64(d.rng.IntN(6)), limits.BlockSize * (1 + d.rng.IntN(3))
	}
	return int64(d.rng.IntN(20000)), 1 + d.rng.IntN(9000)
}

func (d *driver) step() string {
	choice := d.rng.IntN(20)
	if len(d.open) == 0 {
		choice = 0
	}
	switch choice {
	case 0, 1:
		path := d.path()
		f, err := d.fs.Create(path)
		if err == nil {
			d.open = append(d.open, f)
		}
		return say("create", filepath.Base(path), err)
	case 2:
		path, write := d.path(), d.rng.IntN(3) > 0
		f, err := d.fs.Open(path, write)
		if err == nil {
			d.open = append(d.open, f)
		}
		return say("open", filepath.Base(path), write, err)
	case 3:
		from, to := d.path(), d.path()
		return say("rename", filepath.Base(from), filepath.Base(to), d.fs.Rename(from, to))
	case 4:
		path := d.path()
		return say("remove", filepath.Base(path), d.fs.Remove(path))
	case 5:
		entries, err := d.fs.List(d.dir)
		return say("list", entries, err)
	case 6:
		return say("sync-dir", d.fs.SyncDir(d.dir))
	case 7:
		sub := filepath.Join(d.dir, "deep", d.name(), d.name())
		return say("mkdir", d.fs.MkdirAll(sub))
	case 8:
		if d.lock == nil {
			lock, err := d.fs.Lock(filepath.Join(d.dir, "LOCK"))
			d.lock = lock
			return say("lock", err)
		}
		_, err := d.fs.Lock(filepath.Join(d.dir, "LOCK"))
		again := say("lock again", err)
		err = d.lock.Close()
		d.lock = nil
		return again + say("unlock", err)
	case 9:
		i, f := d.file()
		return say("sync", i, f.Sync())
	case 10:
		i, f := d.file()
		size := int64(d.rng.IntN(30000))
		return say("truncate", i, size, f.Truncate(size))
	case 11:
		i, f := d.file()
		if d.rng.IntN(2) == 0 {
			return say("keep", i)
		}
		return say("close", i, f.Close())
	case 12:
		i, f := d.file()
		size, err := f.Size()
		return say("size", i, size, err)
	case 13, 14, 15:
		i, f := d.file()
		off, n := d.span()
		p := bytes.Repeat([]byte{0xEE}, n)
		n, err := f.ReadAt(p, off)
		return say("read", i, off, n, fmt.Sprintf("%x", p[:n]), err)
	default:
		i, f := d.file()
		off, n := d.span()
		p := AlignedBuffer(n + 1)[d.rng.IntN(2):][:n] // half of them askew in memory
		for j := range p {
			p[j] = byte(d.rng.Uint32())
		}
		if d.rng.IntN(4) == 0 {
			clear(p)
		}
		n, err := f.WriteAt(p, off)
		return say("write", i, off, n, err)
	}
}

func (d *driver) close() {
	for _, f := range d.open {
		_ = f.Close() // many are closed already
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// say prints what happened, errors by their class: wordings may differ.
func say(words ...any) string {
	for i, w := range words {
		if err, ok := w.(error); ok {
			words[i] = class(err)
		}
	}
	return fmt.Sprintln(words...)
}

func class(err error) error {
	classes := []error{
		fs.ErrExist, fs.ErrNotExist, fs.ErrClosed, io.EOF, ErrLocked,
		syscall.EBADF, syscall.EINVAL, syscall.ENOTEMPTY, syscall.EISDIR, syscall.ENOTDIR,
	}
	if i := slices.IndexFunc(classes, func(c error) bool { return errors.Is(err, c) }); i >= 0 {
		return classes[i]
	}
	return err
}

// TestMisuse asks for what cannot be: the real file system and the one in
// memory refuse it with the same error.
func TestMisuse(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS(OSOptions{}), "mem": NewMem()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			if err := fsys.MkdirAll(at("sub/deep")); err != nil {
				t.Fatal(err)
			}
			create(t, fsys, at("file"), "content")
			f, err := fsys.Open(at("file"), false)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}()
			_, create1 := fsys.Create(at("missing/x"))
			_, create2 := fsys.Create(at("file/x"))
			_, open1 := fsys.Open(at("missing"), false)
			_, open2 := fsys.Open(at("sub"), true)
			_, list1 := fsys.List(at("missing"))
			_, list2 := fsys.List(at("file"))
			_, lock1 := fsys.Lock(at("sub"))
			_, free1 := fsys.Free(at("missing"))
			_, write1 := f.WriteAt([]byte("x"), 0)
			_, write2 := f.WriteAt([]byte("x"), -1)
			_, read1 := f.ReadAt(make([]byte, 1), -1)
			for what, c := range map[string]struct{ got, want error }{
				"create in a missing directory": {create1, fs.ErrNotExist},
				"create in a file":              {create2, syscall.ENOTDIR},
				"open what is missing":          {open1, fs.ErrNotExist},
				"open a directory for writing":  {open2, syscall.EISDIR},
				"list what is missing":          {list1, fs.ErrNotExist},
				"list a file":                   {list2, syscall.ENOTDIR},
				"lock a directory":              {lock1, syscall.EISDIR},
				"free of what is missing":       {free1, fs.ErrNotExist},
				"rename what is missing":        {fsys.Rename(at("missing"), at("x")), fs.ErrNotExist},
				"rename in what is missing":     {fsys.Rename(at("missing/x"), at("missing/y")), fs.ErrNotExist},
				"remove what is missing":        {fsys.Remove(at("missing")), fs.ErrNotExist},
				"remove a full directory":       {fsys.Remove(at("sub")), syscall.ENOTEMPTY},
				"remove an empty directory":     {fsys.Remove(at("sub/deep")), nil},
				"sync a missing directory":      {fsys.SyncDir(at("missing")), fs.ErrNotExist},
				"make a directory in a file":    {fsys.MkdirAll(at("file/x")), syscall.ENOTDIR},
				"write without having asked":    {write1, syscall.EBADF},
				"truncate without having asked": {f.Truncate(0), syscall.EINVAL},
			} {
				if !errors.Is(c.got, c.want) {
					t.Errorf("%s: %v, want %v", what, c.got, c.want)
				}
			}
			if write2 == nil || read1 == nil {
				t.Errorf("before the beginning of a file: write %v, read %v, want errors", write2, read1)
			}
		})
	}
}
