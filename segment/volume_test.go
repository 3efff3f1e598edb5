package segment

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// put makes a file of the volume hold b, or removes it if b is nil.
func put(t *testing.T, fsys disk.FS, name string, b []byte) {
	t.Helper()
	path := filepath.Join("v", name)
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if b == nil {
		return
	}
	f, err := fsys.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// names lists the volume's directory.
func names(t *testing.T, fsys disk.FS) (names []string) {
	t.Helper()
	entries, err := fsys.List("v")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}

func TestNames(t *testing.T) {
	for name, want := range map[string]role{
		"VOLUME":                               roleVolume,
		"LOCK":                                 roleKnown,
		"walsvc.sock":                          roleKnown,
		"000000000000002a.wal":                 roleSegment,
		"ffffffffffffffff.wal":                 roleSegment,
		"000000000000002a.gap":                 roleGap,
		"000000000000002a.gap.tmp":             roleTmp,
		"x.gap.tmp":                            roleStranger,
		"spare-01arz3ndektsv4rrffq69g5fav.seg": roleSpare,
		"VOLUME.tmp":                           roleTmp,
		"000000000000002a.wal.tmp":             roleTmp,
		"spare-01arz3ndektsv4rrffq69g5fav.seg.tmp": roleTmp,
		"LOCK.tmp":       roleStranger,
		"VOLUME.tmp.tmp": roleStranger,
		"x.wal.tmp":      roleStranger,
		"notes.txt":      roleStranger,
		"volume":         roleStranger,
		"lost+found":     roleStranger,
		"":               roleStranger,
	} {
		if r, _, err := classify(name); r != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", name, r, err, want)
		}
	}
	for _, name := range []string{
		"2a.wal", "000000000000002A.wal", "0000000000000000.wal", "00000000000000002a.wal", ".wal", "00000000000000_1.wal",
		"xyz.gap", ".gap", "2a.gap", "0000000000000000.gap", "000000000000002A.gap",
		"+00000000000002a.wal", "spare.seg", ".seg", "spare-.seg", "spare-01ARZ3NDEKTSV4RRFFQ69G5FAV.seg",
		"spare-81arz3ndektsv4rrffq69g5fav.seg", "spare-01arz3ndektsv4rrffq69g5fai.seg", "000000000000002a.seg",
	} {
		if _, _, err := classify(name); !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestOpenRefuses wants each thing that can be wrong with a directory to have
// its own error, for writing and for reading alike, and nothing to be changed.
func TestOpenRefuses(t *testing.T) {
	newer := sampleVolume()
	newer.version = 2
	header := make([]byte, limits.SegmentHeaderSize)
	for _, tc := range []struct {
		name   string
		change func(fs *disk.Mem)
		want   error
		says   string
	}{
		{"no VOLUME and nothing else", func(fs *disk.Mem) { put(t, fs, "VOLUME", nil) }, ErrNotVolume, "mounted"},
		{"no VOLUME and a gap", func(fs *disk.Mem) {
			put(t, fs, "VOLUME", nil)
			put(t, fs, "0000000000000001.gap", sampleGap().encode())
		}, ErrNotVolume, ""},
		{"no VOLUME and a spare", func(fs *disk.Mem) {
			put(t, fs, "VOLUME", nil)
			put(t, fs, "spare-01arz3ndektsv4rrffq69g5fav.seg", header)
		}, ErrNotVolume, ""},
		{"no VOLUME beside a segment", func(fs *disk.Mem) {
			put(t, fs, "VOLUME", nil)
			put(t, fs, "0000000000000001.wal", header)
		}, ErrVolumeFileLost, "0000000000000001"},
		{"empty VOLUME", func(fs *disk.Mem) { put(t, fs, "VOLUME", []byte{}) }, ErrBadVolumeFile, "0 bytes"},
		{"zeroed VOLUME", func(fs *disk.Mem) { put(t, fs, "VOLUME", make([]byte, volSize)) }, ErrBadVolumeFile, ""},
		{"VOLUME with a tail", func(fs *disk.Mem) { put(t, fs, "VOLUME", append(sampleVolume().encode(), 1)) }, ErrBadVolumeFile, "65 bytes"},
		{"newer VOLUME", func(fs *disk.Mem) { put(t, fs, "VOLUME", newer.encode()) }, ErrNewerVersion, "format version 2"},
		{"malformed segment name", func(fs *disk.Mem) { put(t, fs, "1.wal", header) }, ErrBadName, `"1.wal"`},
		{"malformed gap name", func(fs *disk.Mem) { put(t, fs, "xyz.gap", header) }, ErrBadName, `"xyz.gap"`},
		{"malformed spare name", func(fs *disk.Mem) { put(t, fs, "old.seg", header) }, ErrBadName, `"old.seg"`},
		{"gap that is a directory", func(fs *disk.Mem) {
			if err := fs.MkdirAll("v/0000000000000001.gap"); err != nil {
				t.Fatal(err)
			}
		}, ErrBadName, "directory"},
		{"segment that is a directory", func(fs *disk.Mem) {
			if err := fs.MkdirAll("v/0000000000000001.wal"); err != nil {
				t.Fatal(err)
			}
		}, ErrBadName, "directory"},
	} {
		for _, readOnly := range []bool{false, true} {
			fs := disk.NewMem()
			o := testOptions(fs)
			if err := Create(o); err != nil {
				t.Fatal(err)
			}
			tc.change(fs)
			before := names(t, fs)
			o.ReadOnly = readOnly
			j, err := Open(o)
			if err == nil {
				t.Fatalf("%s: opened (%v)", tc.name, j.Close())
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %v, want %v that says %q", tc.name, err, tc.want, tc.says)
			}
			if after := names(t, fs); !slices.Equal(before, after) {
				t.Errorf("%s: the directory went from %q to %q", tc.name, before, after)
			}
			lock, err := fs.Lock("v/LOCK")
			if err != nil {
				t.Fatalf("%s: the lock is not given back: %v", tc.name, err)
			}
			if err := lock.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestOpenWithGap opens a volume that lacks segments: what was in them, and
// whether anybody needs it, is not for Open to say.
func TestOpenWithGap(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		fs := disk.NewMem()
		o := testOptions(fs)
		if err := Create(o); err != nil {
			t.Fatal(err)
		}
		want := []ID{3, 4, 7, 1 << 60}
		for _, id := range want {
			put(t, fs, segmentName(id), make([]byte, limits.SegmentHeaderSize))
		}
		o.ReadOnly = readOnly
		j, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := j.Segments(); !slices.Equal(got, want) {
			t.Errorf("segments %v, want %v", got, want)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenMissingDirectory(t *testing.T) {
	fsys := disk.NewMem()
	if _, err := Open(testOptions(fsys)); !errors.Is(err, ErrNotVolume) {
		t.Errorf("%v", err)
	}
	if _, err := fsys.List("v"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening what is not there made the directory: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	for _, size := range []int64{1, limits.MinSegmentSize - limits.BlockSize, limits.MinSegmentSize + 1, limits.MaxSegmentSize + limits.BlockSize, -limits.BlockSize} {
		o.SegmentSize = size
		if err := Create(o); err == nil {
			t.Errorf("segment size %d was taken", size)
		}
	}
	o = testOptions(fs)
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	if err := Create(o); !errors.Is(err, ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	put(t, fs, "VOLUME", nil)
	put(t, fs, "0000000000000001.wal", []byte{1})
	if err := Create(o); !errors.Is(err, ErrVolumeFileLost) {
		t.Errorf("over segments: %v", err)
	}
	put(t, fs, "0000000000000001.wal", nil)
	put(t, fs, "VOLUME.tmp", []byte("a crash left this"))
	if err := Create(o); err != nil {
		t.Errorf("over unfinished work: %v", err)
	}
}

// TestOpenTidies wants unfinished work of ours removed, spares of a wrong size
// too, and everything else left alone and told.
func TestOpenTidies(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	if err := Create(o); err != nil {
		t.Fatal(err)
	}
	spare := "spare-01arz3ndektsv4rrffq69g5fav.seg"
	short := "spare-01arz3ndektsv4rrffq69g5faw.seg"
	for _, name := range []string{"VOLUME.tmp", "0000000000000009.wal.tmp", "0000000000000009.gap.tmp", spare + ".tmp", short, "notes.txt", "x.tmp", "walsvc.sock"} {
		put(t, fs, name, []byte("?"))
	}
	put(t, fs, spare, make([]byte, limits.MinSegmentSize))
	if err := fs.MkdirAll("v/lost+found"); err != nil {
		t.Fatal(err)
	}
	strangers := []string{"lost+found", "notes.txt", "x.tmp"}

	before := names(t, fs)
	o.ReadOnly = true
	j := mustOpen(t, o)
	if got := j.Strangers(); !slices.Equal(got, strangers) {
		t.Errorf("strangers %q, want %q", got, strangers)
	}
	if after := names(t, fs); !slices.Equal(before, after) {
		t.Errorf("opened read-only, the directory went from %q to %q", before, after)
	}

	o.ReadOnly = false
	var told []string
	o.Events.Stranger = func(name string) { told = append(told, name) }
	j = mustOpen(t, o)
	if !slices.Equal(told, strangers) {
		t.Errorf("told of %q, want %q", told, strangers)
	}
	want := []string{"LOCK", "VOLUME", "lost+found", "notes.txt", spare, "walsvc.sock", "x.tmp"}
	if got := names(t, fs); !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if s := j.Space(); s.Spares != 1 {
		t.Errorf("%d spares", s.Spares)
	}
}

func TestLock(t *testing.T) {
	fs := disk.NewMem()
	o := testOptions(fs)
	newJournal(t, o)
	if _, err := Open(o); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	if err := Create(o); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("create over a volume in use: %v", err)
	}
	o.ReadOnly = true
	j := mustOpen(t, o) // a volume in use can be looked at
	_, err := j.Append(testDraft(1, 1))
	_, err2 := j.Resume(Resume{})
	for _, err := range []error{err, err2, j.Sync(), j.Release(j.Below(1)), j.Admit(1, Reserve{Spare: TakeSpare})} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("writing to it: %v", err)
		}
	}
}
