package disk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/walsvc/walsvc/internal/limits"
)

// lockerEnv makes the test binary a process that locks the named file, says
// how that went, and holds the lock until its standard input ends.
const lockerEnv = "DISK_TEST_LOCK"

func TestMain(m *testing.M) {
	path := os.Getenv(lockerEnv)
	if path == "" {
		goleak.VerifyTestMain(m) // exits
	}
	_, err := OS(OSOptions{}).Lock(path)
	fmt.Println(class(err))
	_, _ = os.Stdin.Read(make([]byte, 1)) // its end is the only news
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	mem := NewMem()
	if err := mem.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, fsys := range map[string]FS{
		"os": OS(OSOptions{}), "mem": mem, "faulty": NewFaulty(mem), "record": Record(mem, func(Op) {}),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "LOCK")
			first, err := fsys.Lock(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = fsys.Lock(path)
			var pe *fs.PathError
			if !errors.Is(err, ErrLocked) || !errors.As(err, &pe) || pe.Path != path {
				t.Fatalf("second lock: %v, want ErrLocked with the path", err)
			}
			other, err := fsys.Lock(filepath.Join(dir, "OTHER"))
			if err != nil {
				t.Fatalf("lock of another volume: %v", err)
			}
			if err := errors.Join(other.Close(), first.Close()); err != nil {
				t.Fatal(err)
			}
			if err := first.Close(); !errors.Is(err, fs.ErrClosed) {
				t.Fatalf("second unlock: %v, want ErrClosed", err)
			}
			again, err := fsys.Lock(path)
			if err != nil {
				t.Fatalf("lock after unlock: %v", err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := fsys.Lock(filepath.Join(dir, "missing", "LOCK")); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("lock in a missing directory: %v, want ErrNotExist", err)
			}
		})
	}
}

// TestLockOfAnotherProcess proves that the lock holds against another process
// and ends with it, also when it is killed.
func TestLockOfAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "LOCK")
	start := func() (said string, kill func()) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), lockerEnv+"="+path)
		in, err := cmd.StdinPipe() // stays open while the process lives
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line), func() {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // says that it was killed
			_ = in.Close()
		}
	}

	ours, err := OS(OSOptions{}).Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	said, kill := start()
	if said != ErrLocked.Error() {
		t.Fatalf("other process said %q, want %q", said, ErrLocked)
	}
	kill()
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}

	said, kill = start()
	if said != "<nil>" {
		t.Fatalf("other process said %q, want success", said)
	}
	if _, err := OS(OSOptions{}).Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("lock that another process has: %v, want ErrLocked", err)
	}
	kill()
	ours, err = OS(OSOptions{}).Lock(path)
	if err != nil {
		t.Fatalf("lock after the other process was killed: %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDirect writes aligned, askew in memory, and at odd places, and reads it
// all back. It runs the same where the file system refuses O_DIRECT.
func TestDirect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := OS(OSOptions{Direct: DirectAlways}).Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.(*osFile).direct != nil {
		t.Log("the file system takes O_DIRECT")
	} else {
		t.Log("the file system does not take O_DIRECT: writes are buffered")
	}
	want := make([]byte, 3*bounceSize)
	write := func(p []byte, off int64, fill byte) {
		t.Helper()
		for i := range p {
			p[i] = fill ^ byte(i>>8) ^ byte(i)
		}
		if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
			t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
		}
		copy(want[off:], p)
		got := make([]byte, len(p))
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("read back %d+%d: differs, %v", off, len(p), err)
		}
	}
	write(AlignedBuffer(len(want)), 0, 1)
	write(AlignedBuffer(2*bounceSize + limits.BlockSize + 1)[1:], limits.BlockSize, 2) // bounces three times
	write(AlignedBuffer(100), 2*limits.BlockSize+17, 3)                                // dirties a cached page ...
	write(AlignedBuffer(limits.BlockSize), 2*limits.BlockSize, 4)                      // ... beneath a direct write
	write(AlignedBuffer(limits.BlockSize+1), 5*limits.BlockSize, 5)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("second Close: %v, want ErrClosed", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the file has %d bytes that are not those written, %v", len(got), err)
	}
}

// TestWhichWritesAreDirect puts two files behind one osFile and sees in which
// of them a write lands.
func TestWhichWritesAreDirect(t *testing.T) {
	const large = limits.DirectWriteSize
	for _, c := range []struct {
		name   string
		off    int64
		n      int
		auto   bool
		read   int  // bytes, before the write
		other  bool // what was read is another file
		askew  bool
		direct bool
	}{
		{name: "a block", off: block, n: block, direct: true},
		{name: "a block, askew in memory", off: block, n: block, askew: true, direct: true},
		{name: "blocks at half a block", off: block / 2, n: 2 * block},
		{name: "a sector at a sector", off: 512, n: 512},
		{name: "a block and a half", off: 0, n: block + block/2},
		{name: "a byte", off: 0, n: 1},
		{name: "what is read", n: block, read: block, direct: true},
		{name: "auto, not read", n: block, auto: true, direct: true},
		{name: "auto, read", n: block, auto: true, read: block},
		{name: "auto, a quarter read", n: 4 * block, auto: true, read: block},
		{name: "auto, less than a quarter read", n: 4 * block, auto: true, read: block - 1, direct: true},
		{name: "auto, read, and large", n: large, auto: true, read: large, direct: true},
		{name: "auto, another file was read", n: block, auto: true, read: block, other: true, direct: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			back := &readBack{}
			var files [2]*osFile
			for i := range files {
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					t.Fatal(err)
				}
				info, err := f.Stat()
				if err != nil {
					t.Fatal(err)
				}
				files[i] = &osFile{f: f, info: info, back: back, auto: c.auto}
			}
			f, direct := files[0], files[1]
			f.direct = direct.f
			back.writes(f, block) // says what is being written
			from := f
			if c.other {
				from = direct
			}
			back.reads(&osFile{info: from.info}, c.read) // through a descriptor of its own
			p := AlignedBuffer(c.n + 1)[:c.n]
			if c.askew {
				p = AlignedBuffer(c.n + 1)[1:]
			}
			if n, err := f.WriteAt(p, c.off); n != c.n || err != nil {
				t.Fatalf("WriteAt = %d, %v", n, err)
			}
			var sizes [2]int64
			for i, f := range files {
				size, err := f.Size()
				if err != nil {
					t.Fatal(err)
				}
				sizes[i] = size
			}
			want := [2]int64{c.off + int64(c.n), 0}
			if c.direct {
				want[0], want[1] = want[1], want[0]
			}
			if sizes != want {
				t.Errorf("buffered and direct file have %d bytes, want %d", sizes, want)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReadBack: what a follower reads is kept in the page cache, from the second frame
// on; who looks something up now and then costs little of the direct way.
func TestReadBack(t *testing.T) {
	const frame, frames = 28 << 10, 1000
	for _, c := range []struct {
		name        string
		read, every int // bytes, after so many frames
		least, most int // frames that are kept
	}{
		{"nobody", 0, 1, 0, 0},
		{"a follower", frame, 1, frames - 1, frames - 1},
		{"a follower of a third of it", frame / 3, 1, frames - 1, frames - 1},
		{"a reader of all of it, once", frames / 2 * frame, frames / 2, limits.MaxReadBack / frame, limits.MaxReadBack / frame},
		{"lookups", 64 << 10, 100, 60, 100},
	} {
		opened, err := OS(OSOptions{}).Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		f := opened.(*osFile)
		kept := 0
		for i := range frames {
			if f.back.writes(f, frame) {
				kept++
			}
			if (i+1)%c.every == 0 {
				f.back.reads(f, c.read)
			}
		}
		if kept < c.least || kept > c.most {
			t.Errorf("%s: %d of %d frames went through the page cache, want %d to %d", c.name, kept, frames, c.least, c.most)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCachedAndDirectAgree writes both ways, over each other and before what was
// cached is written back: what is read is what was written last.
func TestCachedAndDirectAgree(t *testing.T) {
	opened, err := OS(OSOptions{}).Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	f := opened.(*osFile)
	const large = limits.DirectWriteSize
	want := AlignedBuffer(3 * large)
	write := func(off, n int, with byte) {
		t.Helper()
		for i := range want[off : off+n] {
			want[off+i] = with
		}
		if _, err := f.WriteAt(want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read back other bytes, %v", err)
		}
	}
	write(0, 3*large, 'a')
	write(2*block, block, 'b') // nobody has read it
	check()
	write(block, block, 'c') // through the page cache ...
	write(large, large, 'd') // ... direct beside it ...
	write(0, large, 'e')     // ... and over it, before it is written back
	write(large-block, 2*block, 'f')
	check()
	f.back.credit.Store(0) // much later
	write(large, block, 'g')
	check()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	check()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestParseDirect: what String writes is read again.
func TestParseDirect(t *testing.T) {
	for _, d := range []Direct{DirectAuto, DirectAlways, DirectNever} {
		if got, err := ParseDirect(d.String()); got != d || err != nil {
			t.Errorf("ParseDirect(%q) = %v, %v", d, got, err)
		}
	}
	if got, err := ParseDirect(""); got != DirectAuto || err != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	if _, err := ParseDirect("true"); err == nil {
		t.Error("true is taken")
	}
}

func TestAlignedBuffer(t *testing.T) {
	for _, n := range []int{0, 1, limits.BlockSize - 1, limits.BlockSize, limits.BlockSize + 1, 1 << 20} {
		b := AlignedBuffer(n)
		if len(b) != n || cap(b) != n || n > 0 && !aligned(b) {
			t.Errorf("AlignedBuffer(%d): length %d, capacity %d, aligned %t", n, len(b), cap(b), aligned(b))
		}
	}
	if aligned(AlignedBuffer(2)[1:]) {
		t.Error("one byte further counts as aligned")
	}
}

// TestPermissions: what a volume holds is for its owner alone.
func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	o := OS(OSOptions{})
	if err := o.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	f, err := o.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{filepath.Dir(dir): 0o700, dir: 0o700, filepath.Join(dir, "f"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", filepath.Base(path), got, want)
		}
	}
}

func TestFree(t *testing.T) {
	dir := t.TempDir()
	free, err := OS(OSOptions{}).Free(dir)
	if err != nil || free == 0 {
		t.Errorf("Free = %d, %v", free, err)
	}
	if _, err := OS(OSOptions{}).Free(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Free of a missing directory: %v, want ErrNotExist", err)
	}
}

// TestRenameStaysInItsDirectory: one SyncDir is to make a rename durable.
func TestRenameStaysInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, fsys := range map[string]FS{"os": OS(OSOptions{}), "mem": NewMem()} {
		t.Run(name, func(t *testing.T) {
			if err := fsys.MkdirAll(filepath.Join(dir, "sub")); err != nil {
				t.Fatal(err)
			}
			create(t, fsys, filepath.Join(dir, "f"), "")
			if err := fsys.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "sub", "f")); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("Rename into another directory: %v, want ErrInvalid", err)
			}
		})
	}
}

// TestMkdirAllSyncs checks which directories are synced, and when.
func TestMkdirAllSyncs(t *testing.T) {
	for _, c := range []struct {
		name, dir string
		exist     []string
		fail      map[string]error // of the sync of a directory
		want      string
		err       error
	}{
		{
			name: "each name is durable before something is made in it",
			dir:  "/mnt/a/b", exist: []string{"/", "/mnt"},
			want: "sync /, mkdir /mnt/a, sync /mnt, mkdir /mnt/a/b, sync /mnt/a",
		},
		{
			name: "a directory that exists may have been left unsynced",
			dir:  "/mnt/a", exist: []string{"/", "/mnt", "/mnt/a"},
			want: "sync /mnt",
		},
		{
			name: "a parent that we may not read",
			dir:  "/mnt/a", exist: []string{"/", "/mnt"},
			fail: map[string]error{"/": syscall.EACCES},
			want: "sync /, mkdir /mnt/a, sync /mnt",
		},
		{
			name: "a parent on a file system without sync",
			dir:  "/mnt/a", exist: []string{"/", "/mnt"},
			fail: map[string]error{"/": syscall.EINVAL},
			want: "sync /, mkdir /mnt/a, sync /mnt",
		},
		{
			name: "a disk that fails",
			dir:  "/mnt/a", exist: []string{"/", "/mnt"},
			fail: map[string]error{"/": syscall.EIO},
			want: "sync /", err: syscall.EIO,
		},
		{
			name: "a name we made has to be durable",
			dir:  "/mnt/a/b", exist: []string{"/", "/mnt"},
			fail: map[string]error{"/mnt": syscall.EINVAL},
			want: "sync /, mkdir /mnt/a, sync /mnt", err: syscall.EINVAL,
		},
		{
			name: "relative",
			dir:  "data/x", exist: []string{"."},
			want: "sync ., mkdir data, sync ., mkdir data/x, sync data",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var did []string
			dirInfo, err := os.Stat(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			err = mkdirAll(c.dir, dirOps{
				stat: func(path string) (fs.FileInfo, error) {
					if slices.Contains(c.exist, path) {
						return dirInfo, nil
					}
					return nil, fs.ErrNotExist
				},
				mkdir: func(dir string) error {
					did = append(did, "mkdir "+dir)
					return nil
				},
				syncDir: func(dir string) error {
					did = append(did, "sync "+dir)
					return c.fail[dir]
				},
			})
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if got := strings.Join(did, ", "); got != c.want {
				t.Errorf("did  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestMkdirAllThroughAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	o := OS(OSOptions{})
	create(t, o, path, "")
	for _, dir := range []string{path, filepath.Join(path, "sub")} {
		if err := o.MkdirAll(dir); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("MkdirAll(%s): %v, want ENOTDIR", filepath.Base(dir), err)
		}
	}
}

// create makes a file with a content and closes it; nothing is synced.
func create(t *testing.T, fsys FS, path, content string) {
	t.Helper()
	f, err := fsys.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
