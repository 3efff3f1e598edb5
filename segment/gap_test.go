package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
)

// journalOf returns a new journal of n segments with a frame in each, all durable. Frame
// n is in segment n.
func journalOf(t *testing.T, o Options, n int) *Journal {
	t.Helper()
	j := newJournal(t, o)
	for i := range n {
		w := appendSync(t, j, testDraft(uint64(i+1), 40_000))
		if w.Ref.Pos.Segment != ID(i+1) {
			t.Fatalf("frame %d at %s", i+1, w.Ref.Pos)
		}
	}
	awaitPool(t, j)
	return j
}

func mustRelease(t *testing.T, j *Journal, ids ...ID) {
	t.Helper()
	if err := j.Release(ids); err != nil {
		t.Fatalf("release %v: %v", ids, err)
	}
}

// read returns the bytes of a file of the volume.
func read(t *testing.T, fsys disk.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open(filepath.Join("v", name), false)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := readAt(f, b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// gapFiles lists the files of gaps.
func gapFiles(t *testing.T, fsys disk.FS) (ids []ID) {
	t.Helper()
	for _, name := range names(t, fsys) {
		if r, id, err := classify(name); err != nil {
			t.Fatal(err)
		} else if r == roleGap {
			ids = append(ids, id)
		}
	}
	return ids
}

// wantGaps compares the gaps of a journal, and the headers that they keep with those that
// the segments had.
func wantGaps(t *testing.T, j *Journal, headers map[ID]*SegmentHeader, want ...Gap) {
	t.Helper()
	got := j.Gaps()
	if !slices.Equal(got, want) {
		t.Errorf("gaps %v, want %v", got, want)
	}
	for _, g := range got {
		hdr, err := j.Header(g.From)
		if err != nil || *hdr != *headers[g.From] {
			t.Errorf("the header of gap %s: %+v, %v, want %+v", g, hdr, err, headers[g.From])
		}
		for id := g.From; id <= g.To; id++ {
			if _, err := j.Reader(id); !errors.Is(err, ErrReleased) {
				t.Errorf("a reader of segment %s: %v", id, err)
			}
			if _, err := j.Header(id); id > g.From && !errors.Is(err, ErrReleased) {
				t.Errorf("the header of segment %s: %v", id, err)
			}
		}
		if behind := j.Behind(g.From - 1); behind != g.To+1 {
			t.Errorf("behind %s comes %s, want %s", g.From-1, behind, g.To+1)
		}
	}
}

func headersOf(t *testing.T, j *Journal) map[ID]*SegmentHeader {
	t.Helper()
	headers := map[ID]*SegmentHeader{}
	for _, id := range j.Segments() {
		hdr, err := j.Header(id)
		if err != nil {
			t.Fatal(err)
		}
		headers[id] = hdr
	}
	return headers
}

// TestOpenGaps opens volumes with files of gaps, whatever they say: what verifies takes
// the segments in it out of the journal, and what does not is as if it were not there.
// Only what nobody needs any more is removed, and that not by opening.
func TestOpenGaps(t *testing.T) {
	first := disk.NewMem()
	j := journalOf(t, testOptions(first), 9)
	headers := headersOf(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	encoded := func(from, to ID) []byte { return (&gapFile{Gap: Gap{from, to}, header: headers[from]}).encode() }
	strange := *headers[4]
	strange.Volume = ulid.ULID{1}
	whole := []ID{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, tc := range []struct {
		name     string
		files    map[ID][]byte // of gaps
		gone     []ID          // segments without a file
		segments []ID
		gaps     []Gap
		left     []ID // files of gaps once the volume was in use
	}{
		{"two", map[ID][]byte{3: encoded(3, 4), 6: encoded(6, 6)}, []ID{3, 4, 6}, []ID{1, 2, 5, 7, 8, 9}, []Gap{{3, 4}, {6, 6}}, []ID{3, 6}},
		{"beside segments in it", map[ID][]byte{3: encoded(3, 6)}, []ID{4}, []ID{1, 2, 7, 8, 9}, []Gap{{3, 6}}, []ID{3}},
		{"one in another", map[ID][]byte{3: encoded(3, 6), 5: encoded(5, 6)}, []ID{3, 4, 6}, []ID{1, 2, 7, 8, 9}, []Gap{{3, 6}}, []ID{3}},
		{"some in another", map[ID][]byte{3: encoded(3, 8), 4: encoded(4, 4), 6: encoded(6, 7)}, []ID{4, 6}, []ID{1, 2, 9}, []Gap{{3, 8}}, []ID{3}},
		{"one in another that does not verify", map[ID][]byte{3: {}, 5: encoded(5, 6)}, []ID{3, 5, 6}, []ID{1, 2, 4, 7, 8, 9}, []Gap{{5, 6}}, []ID{3, 5}},
		{"one that does not verify in another", map[ID][]byte{3: encoded(3, 6), 5: {}}, []ID{3, 4, 5, 6}, []ID{1, 2, 7, 8, 9}, []Gap{{3, 6}}, []ID{3}},
		{"one that ends behind another", map[ID][]byte{3: encoded(3, 5), 4: encoded(4, 6)}, []ID{4, 5, 6}, []ID{1, 2, 7, 8, 9}, []Gap{{3, 6}}, []ID{3, 4}},
		{"one behind another", map[ID][]byte{3: encoded(3, 4), 5: encoded(5, 6)}, []ID{3, 5}, []ID{1, 2, 7, 8, 9}, []Gap{{3, 6}}, []ID{3, 5}},
		{"before the oldest segment", map[ID][]byte{2: encoded(2, 3), 5: encoded(5, 5)}, []ID{1, 2, 3, 5}, []ID{4, 6, 7, 8, 9}, []Gap{{5, 5}}, []ID{5}},
		{"of the oldest segments", map[ID][]byte{1: encoded(1, 3)}, nil, []ID{4, 5, 6, 7, 8, 9}, nil, nil},
		{"empty", map[ID][]byte{4: {}}, nil, whole, nil, []ID{4}},
		{"too short", map[ID][]byte{4: encoded(4, 4)[:gapFileSize-1]}, nil, whole, nil, []ID{4}},
		{"too long", map[ID][]byte{4: append(encoded(4, 4), 0)}, nil, whole, nil, []ID{4}},
		{"zeroes", map[ID][]byte{4: make([]byte, gapFileSize)}, nil, whole, nil, []ID{4}},
		{"of another segment", map[ID][]byte{4: encoded(5, 5)}, nil, whole, nil, []ID{4}},
		{"of another volume", map[ID][]byte{4: (&gapFile{Gap: Gap{4, 4}, header: &strange}).encode()}, nil, whole, nil, []ID{4}},
		{"one does not verify", map[ID][]byte{4: make([]byte, 10), 6: encoded(6, 6)}, []ID{4, 6}, []ID{1, 2, 3, 5, 7, 8, 9}, []Gap{{6, 6}}, []ID{4, 6}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := first.CrashClone(nil, 1)
			for id, b := range tc.files {
				put(t, fs, gapName(id), b)
			}
			for _, id := range tc.gone {
				put(t, fs, segmentName(id), nil)
			}
			before := names(t, fs)
			unfinished := gapName(4) + tmpSuffix
			put(t, fs, unfinished, encoded(4, 5))
			o := testOptions(fs)
			for _, o.ReadOnly = range []bool{true, false} {
				j := mustOpen(t, o)
				wantGaps(t, j, headers, tc.gaps...)
				if got := j.Segments(); !slices.Equal(got, tc.segments) {
					t.Errorf("segments %v, want %v", got, tc.segments)
				}
				after := names(t, fs)
				if o.ReadOnly != slices.Contains(after, unfinished) {
					t.Errorf("read-only: %v, the directory has %q", o.ReadOnly, after)
				}
				after = slices.DeleteFunc(after, func(name string) bool { return name == unfinished })
				if !slices.Equal(after, before) {
					t.Errorf("opening went from %q to %q", before, after)
				}
				if o.ReadOnly {
					continue
				}
				j.recycleReleased() // as the pool does after Resume
				if left := gapFiles(t, fs); !slices.Equal(left, tc.left) {
					t.Errorf("files of gaps %v are left, want %v", left, tc.left)
				}
				var left []ID
				for _, name := range names(t, fs) {
					if r, id, _ := classify(name); r == roleSegment {
						left = append(left, id)
					}
				}
				if !slices.Equal(left, tc.segments) {
					t.Errorf("files of segments %v are left, want %v", left, tc.segments)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				wantGaps(t, mustOpen(t, o), headers, tc.gaps...)
			}
		})
	}
}

// TestEveryChangedByteOfAGapIsNoGap opens a volume with each byte of a gap's file changed.
func TestEveryChangedByteOfAGapIsNoGap(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	j := journalOf(t, o, 4)
	mustRelease(t, j, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b := read(t, mem, gapName(2))
	o.ReadOnly = true
	for at := range b {
		b[at] ^= 1 << (at % 8)
		put(t, mem, gapName(2), b)
		j, err := Open(o)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if gaps := j.Gaps(); len(gaps) > 0 {
			t.Errorf("byte %d: gaps %v", at, gaps)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		b[at] ^= 1 << (at % 8)
	}
	put(t, mem, gapName(2), b)
	if gaps := mustOpen(t, o).Gaps(); !slices.Equal(gaps, []Gap{{2, 2}}) {
		t.Errorf("unchanged: gaps %v", gaps)
	}
}

// TestOpenRefusesGaps has no verdict on what may not be read, or is of a newer version.
func TestOpenRefusesGaps(t *testing.T) {
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	o := testOptions(faulty)
	j := journalOf(t, o, 4)
	mustRelease(t, j, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	good := read(t, mem, gapName(2))
	newer := bytes.Clone(good)
	binary.LittleEndian.PutUint32(newer[limits.SegmentHeaderSize+gapVersion:], FormatVersion+1)
	resealGap(newer)
	newerHeader := bytes.Clone(good)
	binary.LittleEndian.PutUint32(newerHeader[segVersion:], FormatVersion+1)
	resealGap(newerHeader)
	is := func(op disk.Op) bool { return op.Name == gapName(2) }
	for _, tc := range []struct {
		name  string
		b     []byte
		fault *disk.Fault
		want  error
	}{
		{"newer", newer, nil, ErrNewerVersion},
		{"with a newer header", newerHeader, nil, ErrNewerVersion},
		{"may not be opened", good, &disk.Fault{Kinds: []disk.OpKind{disk.OpOpen}, Only: is, Err: syscall.EACCES}, fs.ErrPermission},
	} {
		for _, o.ReadOnly = range []bool{true, false} {
			put(t, mem, gapName(2), tc.b)
			before := names(t, mem)
			if tc.fault != nil {
				faulty.Inject(*tc.fault)
			}
			j, err := Open(o)
			if err == nil {
				t.Fatalf("%s: opened (%v)", tc.name, j.Close())
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), ID(2).String()) {
				t.Errorf("%s: %v, want %v about %s", tc.name, err, tc.want, ID(2))
			}
			faulty.Clear()
			if after := names(t, mem); !slices.Equal(before, after) {
				t.Errorf("%s: the directory went from %q to %q", tc.name, before, after)
			}
		}
	}
	o.ReadOnly = false
	put(t, mem, gapName(2), good)
	mustOpen(t, o) // the lock was given back
}

// TestGapThatIsNotRead opens a volume with the file of a gap that the disk does not read: it
// is as if it were not there, and once it is read again it is as ever. No segment is begun
// that it may speak of.
func TestGapThatIsNotRead(t *testing.T) {
	for _, kind := range []disk.OpKind{disk.OpOpen, disk.OpRead, disk.OpClose} {
		t.Run(kind.String(), func(t *testing.T) {
			mem := disk.NewMem()
			faulty := disk.NewFaulty(mem)
			o := testOptions(faulty)
			j := journalOf(t, o, 6)
			headers := headersOf(t, j)
			mustRelease(t, j, 2, 4)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			o.Rand = rand.NewChaCha8([32]byte{2})
			fault := disk.Fault{Kinds: []disk.OpKind{kind}, Only: func(op disk.Op) bool { return op.Name == gapName(4) }}
			faulty.Inject(fault)
			j = mustOpen(t, o) // it is asked twice
			wantGaps(t, j, headers, Gap{2, 2}, Gap{4, 4})
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			fault.Sticky = true
			faulty.Inject(fault)
			j = mustOpen(t, o)
			wantGaps(t, j, headers, Gap{2, 2})
			if unread := j.UnreadGaps(); len(unread) != 1 || !errors.Is(unread[4], syscall.EIO) {
				t.Errorf("unread: %v", unread)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			lost := mem.CrashClone(nil, 1)
			for _, id := range []ID{5, 6} { // all behind it
				put(t, lost, segmentName(id), nil)
			}
			again := disk.NewFaulty(lost)
			again.Inject(fault)
			ol := o
			ol.FS = again
			j = mustOpen(t, ol)
			if _, err := j.Resume(Resume{Cut: Cut{End: Pos{3, limits.SegmentHeaderSize}}}); !errors.Is(err, syscall.EIO) || j.Poisoned() != nil {
				t.Errorf("resumed behind 3: %v", err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			faulty.Clear()
			wantGaps(t, mustOpen(t, o), headers, Gap{2, 2}, Gap{4, 4})
		})
	}
}

// TestOpenWhileAnotherProcessReleases opens a volume to look at it while the process that
// writes replaces a gap's file by others, between the listing and the reading: what is
// missing then is in a gap, whichever it finds.
func TestOpenWhileAnotherProcessReleases(t *testing.T) {
	for _, tc := range []struct {
		name    string
		release []ID
		want    []Gap
	}{
		{"the segment before it", []ID{4}, []Gap{{4, 5}}},
		{"two before it", []ID{3, 4}, []Gap{{3, 5}}},
		{"all before it", []ID{1, 2, 3, 4}, nil},
		{"the one behind it", []ID{6}, []Gap{{5, 6}}},
		{"another one", []ID{2}, []Gap{{2, 2}, {5, 5}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mem := disk.NewMem()
			j := journalOf(t, testOptions(mem), 8)
			headers := headersOf(t, j)
			mustRelease(t, j, 5)
			looks := disk.NewFaulty(mem)
			var once sync.Once
			looks.Before(func(op disk.Op) error {
				if op.Kind == disk.OpOpen && op.Name == gapName(5) {
					once.Do(func() { mustRelease(t, j, tc.release...) })
				}
				return nil
			})
			o := testOptions(looks)
			o.ReadOnly = true
			look := mustOpen(t, o)
			for id := look.Segments()[0]; id < 8; id++ {
				if !slices.Contains(look.Segments(), id) && !slices.ContainsFunc(look.Gaps(), func(g Gap) bool { return g.covers(id) }) {
					t.Errorf("segment %s seems to be lost; segments %v, gaps %v", id, look.Segments(), look.Gaps())
				}
			}
			wantGaps(t, mustOpen(t, o), headers, tc.want...)
		})
	}
}

// TestOpenGapThatIsNeverThere ends, whatever a directory lists.
func TestOpenGapThatIsNeverThere(t *testing.T) {
	faulty := disk.NewFaulty(disk.NewMem())
	o := testOptions(faulty)
	j := journalOf(t, o, 4)
	mustRelease(t, j, 2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	faulty.Before(func(op disk.Op) error {
		if op.Kind == disk.OpOpen && op.Name == gapName(2) {
			return fs.ErrNotExist
		}
		return nil
	})
	for _, o.ReadOnly = range []bool{true, false} {
		if gaps := mustOpen(t, o).Gaps(); len(gaps) > 0 {
			t.Errorf("gaps %v", gaps)
		}
	}
}

// TestNoRoomForAGap: on a full disk what is in the middle stays, each run for itself, and
// with it the gaps that there were; what nothing lies before is released. Nothing is
// poisoned, and when there is room, all goes.
func TestNoRoomForAGap(t *testing.T) {
	is := func(op disk.Op) bool { return strings.HasSuffix(op.Name, gapSuffix+tmpSuffix) }
	for _, kind := range []disk.OpKind{disk.OpCreate, disk.OpWrite, disk.OpSync, disk.OpRename} {
		for _, tc := range []struct {
			name          string
			before, asked []ID
			at            int // that gap's file has no room
			sticky        bool
			segments      []ID
			gaps          []Gap
			then          []Gap // once there is room
		}{
			{"one", nil, []ID{5}, 0, true, []ID{1, 2, 3, 4, 5, 6, 7, 8, 9}, nil, []Gap{{5, 5}}},
			{"one, and the oldest", nil, []ID{1, 2, 5}, 0, true, []ID{3, 4, 5, 6, 7, 8, 9}, nil, []Gap{{5, 5}}},
			{"the first of two, and the oldest", nil, []ID{1, 4, 6, 7}, 0, false, []ID{2, 3, 4, 5, 8, 9}, []Gap{{6, 7}}, []Gap{{4, 4}, {6, 7}}},
			{"the second of two", nil, []ID{4, 6, 7}, 1, false, []ID{1, 2, 3, 5, 6, 7, 8, 9}, []Gap{{4, 4}}, []Gap{{4, 4}, {6, 7}}},
			{"one that grows", []ID{5}, []ID{6}, 0, true, []ID{1, 2, 3, 4, 6, 7, 8, 9}, []Gap{{5, 5}}, []Gap{{5, 6}}},
			{"one that grows at its beginning", []ID{5}, []ID{3, 4}, 0, true, []ID{1, 2, 3, 4, 6, 7, 8, 9}, []Gap{{5, 5}}, []Gap{{3, 5}}},
			{"two that join", []ID{4, 6}, []ID{5}, 0, true, []ID{1, 2, 3, 5, 7, 8, 9}, []Gap{{4, 4}, {6, 6}}, []Gap{{4, 6}}},
			{"one, and what is before another", []ID{3}, []ID{1, 2, 5}, 0, true, []ID{4, 5, 6, 7, 8, 9}, nil, []Gap{{5, 5}}},
			{"one that is needed no more", []ID{3}, []ID{1, 2}, 0, true, []ID{4, 5, 6, 7, 8, 9}, nil, nil},
		} {
			t.Run(fmt.Sprintf("%s/%s", kind, tc.name), func(t *testing.T) {
				mem := disk.NewMem()
				faulty := disk.NewFaulty(mem)
				o := testOptions(faulty)
				j := journalOf(t, o, 9)
				headers := headersOf(t, j)
				mustRelease(t, j, tc.before...)
				faulty.Inject(disk.Fault{Kinds: []disk.OpKind{kind}, Only: is, Err: syscall.ENOSPC, At: tc.at, Sticky: tc.sticky})
				err := j.Release(tc.asked)
				if full := faulty.Fired() > 0; full != errors.Is(err, ErrNoSpace) || full != errors.Is(err, syscall.ENOSPC) {
					t.Errorf("release: %v; the disk was full: %v", err, full)
				}
				if err == nil && tc.then != nil {
					t.Error("released without room")
				}
				look := func(segments []ID, gaps []Gap) {
					t.Helper()
					if err := j.Poisoned(); err != nil {
						t.Errorf("poisoned: %v", err)
					}
					if got := j.Segments(); !slices.Equal(got, segments) {
						t.Errorf("segments %v, want %v", got, segments)
					}
					wantGaps(t, j, headers, gaps...)
					for _, id := range segments {
						if hdr, err := j.Header(id); err != nil || hdr != headers[id] {
							t.Errorf("the header of segment %s: %+v, %v", id, hdr, err)
						}
					}
					if _, _, err := survivors(j); err != nil {
						t.Error(err)
					}
					want := []string{lockName, volumeName}
					for _, id := range segments {
						want = append(want, segmentName(id))
					}
					for _, g := range gaps {
						want = append(want, gapName(g.From))
					}
					got := slices.DeleteFunc(names(t, mem), isSpareName)
					slices.Sort(want)
					if slices.Sort(got); !slices.Equal(got, want) {
						t.Errorf("the directory has %q, want %q", got, want)
					}
				}
				look(tc.segments, tc.gaps)
				faulty.Clear()
				mustRelease(t, j, tc.asked...)
				look(slices.DeleteFunc(slices.Clone(tc.segments), func(id ID) bool { return slices.Contains(tc.asked, id) }), tc.then)
				appendSync(t, j, testDraft(100, 100))
			})
		}
	}
}

// TestGapOnAFullDisk releases from the middle on a disk without a free block: the dead
// space of a segment that stays makes room, as long as there is any.
func TestGapOnAFullDisk(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	j := journalOf(t, o, 8)
	headers := headersOf(t, j)
	mem.SetCapacity(5 << 20)
	mem.SetNamesTakeRoom(true)
	fillDisk(t, mem)
	mustRelease(t, j, 3)
	wantGaps(t, j, headers, Gap{3, 3})
	if found, _, err := survivors(j); err != nil || len(found) != 7+6 { // a frame each, and seals
		t.Errorf("%d frames are left, %v", len(found), err)
	}
	for _, id := range j.Segments() {
		if end, _, known := j.deadSpace(id); known {
			if _, err := j.giveUp(end); err != nil {
				t.Fatal(err)
			}
		}
	}
	fillDisk(t, mem)
	if err := j.Release([]ID{5}); !errors.Is(err, ErrNoSpace) || j.Poisoned() != nil {
		t.Errorf("release: %v; poisoned: %v", err, j.Poisoned())
	}
	if got := j.Segments(); !slices.Contains(got, 5) {
		t.Errorf("segments %v", got)
	}
	mem.SetCapacity(6 << 20)
	mustRelease(t, j, 5)
	wantGaps(t, j, headers, Gap{3, 3}, Gap{5, 5})
}

// TestNoRoomToProveAGap: segments in a gap that may not be durable keep their names until
// there is room for its file, and what is before them does not wait for that.
func TestNoRoomToProveAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := disk.NewMem()
		faulty := disk.NewFaulty(mem)
		o := testOptions(faulty)
		j := journalOf(t, o, 6)
		faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpSyncDir}})
		if err := j.Release([]ID{3, 4}); !errors.Is(err, ErrPoisoned) {
			t.Fatalf("release: %v", err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		faulty.Inject(disk.Fault{
			Kinds: []disk.OpKind{disk.OpWrite}, Err: syscall.ENOSPC, Sticky: true,
			Only: func(op disk.Op) bool { return op.Name == gapName(3)+tmpSuffix },
		})
		o.Rand = rand.NewChaCha8([32]byte{2})
		j = mustOpen(t, o)
		_, r, err := survivors(j)
		if err == nil {
			_, err = j.Resume(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		there := func(ids ...ID) {
			t.Helper()
			for id := ID(1); id <= 4; id++ {
				if got := slices.Contains(names(t, mem), segmentName(id)); got != slices.Contains(ids, id) {
					t.Errorf("segment %s is there: %v", id, got)
				}
			}
			if err := j.Poisoned(); err != nil {
				t.Errorf("poisoned: %v", err)
			}
		}
		there(1, 2, 3, 4)
		mustRelease(t, j, 1)
		there(2, 3, 4)
		faulty.Clear()
		<-time.After(2 * retryMin)
		synctest.Wait()
		there(2)
	})
}

// TestResumeBehindGaps: no segment is begun that a gap speaks of, also where the newest one
// is lost that was behind it.
func TestResumeBehindGaps(t *testing.T) {
	mem := disk.NewMem()
	o := testOptions(mem)
	j := journalOf(t, o, 6)
	mustRelease(t, j, 4, 5)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, mem, segmentName(6), nil)
	o.Rand = rand.NewChaCha8([32]byte{2})
	j = mustOpen(t, o)
	before := names(t, mem)
	for id := ID(1); id <= 8; id++ {
		if id == 5 || id == 6 {
			continue // the segment begun is the one behind
		}
		if _, err := j.Resume(Resume{Cut: Cut{End: Pos{id, limits.SegmentHeaderSize}}}); err == nil || j.Poisoned() != nil {
			t.Fatalf("resumed behind %s: %v", id, err)
		}
	}
	if after := names(t, mem); !slices.Equal(before, after) {
		t.Errorf("the directory went from %q to %q", before, after)
	}
	if _, err := j.Resume(Resume{Cut: Cut{End: Pos{6, limits.SegmentHeaderSize}}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, o)
	if ids, gaps := j.Segments(), j.Gaps(); !slices.Equal(ids, []ID{1, 2, 3, 7}) || !slices.Equal(gaps, []Gap{{4, 5}}) {
		t.Errorf("segments %v, gaps %v", ids, gaps)
	}
}

// TestGapAfterOneThatStays: what is left of a gap's file that could not be written, nor
// removed, is in nobody's way.
func TestGapAfterOneThatStays(t *testing.T) {
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	j := journalOf(t, testOptions(faulty), 4)
	unfinished := gapName(2) + tmpSuffix
	faulty.Inject(disk.Fault{
		Kinds: []disk.OpKind{disk.OpWrite, disk.OpRemove}, Sticky: true,
		Only: func(op disk.Op) bool { return op.Name == unfinished },
	})
	if err := j.Release([]ID{2}); !errors.Is(err, syscall.EIO) || j.Poisoned() != nil {
		t.Errorf("release: %v; poisoned: %v", err, j.Poisoned())
	}
	if got := names(t, mem); !slices.Contains(got, unfinished) || !slices.Contains(got, segmentName(2)) {
		t.Errorf("the directory has %q", got)
	}
	faulty.Clear()
	mustRelease(t, j, 2)
	if got := names(t, mem); slices.Contains(got, unfinished) || slices.Contains(got, segmentName(2)) {
		t.Errorf("the directory has %q", got)
	}
}

// TestGapThatWasToldToHaveFailed: a gap's file whose renaming was told to have failed, and
// that is there, hides no other that was written since.
func TestGapThatWasToldToHaveFailed(t *testing.T) {
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	o := testOptions(faulty)
	j := journalOf(t, o, 9)
	headers := headersOf(t, j)
	mustRelease(t, j, 6)
	faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpRename}, Late: true, Only: func(op disk.Op) bool { return op.To == gapName(5) }})
	if err := j.Release([]ID{5}); !errors.Is(err, syscall.EIO) || j.Poisoned() != nil {
		t.Errorf("release: %v; poisoned: %v", err, j.Poisoned())
	}
	mustRelease(t, j, 7)
	wantGaps(t, j, headers, Gap{6, 7})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		o.Rand = rand.NewChaCha8([32]byte{2})
		j = mustOpen(t, o)
		wantGaps(t, j, headers, Gap{5, 7})
		if got := j.Segments(); !slices.Equal(got, []ID{1, 2, 3, 4, 8, 9}) {
			t.Errorf("segments %v", got)
		}
		j.recycleReleased() // as the pool does after Resume
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := gapFiles(t, mem); !slices.Equal(got, []ID{5}) {
		t.Errorf("files of gaps %v", got)
	}
}

// TestPoisonedJournalRemovesNoGap: it asks the disk for nothing more.
func TestPoisonedJournalRemovesNoGap(t *testing.T) {
	mem := disk.NewMem()
	faulty := disk.NewFaulty(mem)
	j := journalOf(t, testOptions(faulty), 5)
	mustRelease(t, j, 4)
	faulty.Inject(disk.Fault{Kinds: []disk.OpKind{disk.OpRemove}})
	mustRelease(t, j, 3) // the file of the gap that was stays
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := gapFiles(t, mem); !slices.Equal(got, []ID{3, 4}) {
		t.Fatalf("files of gaps %v", got)
	}
	j = mustOpen(t, testOptions(faulty))
	_ = j.poisoned("test", errors.New("something else"))
	j.recycleReleased()
	if got := gapFiles(t, mem); !slices.Equal(got, []ID{3, 4}) {
		t.Errorf("poisoned, it left the files of gaps %v", got)
	}
}
