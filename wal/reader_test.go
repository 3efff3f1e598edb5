package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/segment"
)

// openLarge opens a volume whose frames take blocks of every size.
func openLarge(t testing.TB, fs disk.FS, codec string) *Volume {
	t.Helper()
	o := testOptions(fs)
	o.SegmentSize, o.SnapshotEvery, o.Codec = 1<<20, 1<<20, codec
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// opened returns the records of spans, and how many of them came in stored blocks.
func opened(t testing.TB, spans []Span) (all []string, stored int) {
	t.Helper()
	for _, s := range spans {
		raw := s.Run
		if s.Stored != nil {
			var err error
			if crc32.Checksum(s.Stored, castagnoli) != s.Checksum {
				t.Fatalf("the block at LSN %d has another checksum", s.First)
			}
			if raw, err = s.Codec.Open(nil, s.Stored, int(s.RawSize)); err != nil {
				t.Fatal(err)
			}
			stored += int(s.Count)
		}
		recs, err := split(raw)
		if err != nil || len(recs) != int(s.Count) {
			t.Fatalf("span of %d at LSN %d has %d records, %v", s.Count, s.First, len(recs), err)
		}
		all = append(all, recs...)
	}
	return all, stored
}

// TestStoredBlocks reads blocks that hold one log and blocks that hold several,
// whole and in part. A block goes out as it lies only if every record in it is
// wanted and is this log's: it would hand one client the records of another.
func TestStoredBlocks(t *testing.T) {
	for _, name := range []string{"none", "s2", "zstd"} {
		t.Run(name, func(t *testing.T) {
			c, err := codec.Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			v := openLarge(t, disk.NewMem(), name)
			defer closeTest(t, v)
			secret := strings.Repeat("secret ", 1000)
			mustCreate(t, v, "a")
			mustCreate(t, v, "b")
			s := newSeat(t, v)
			a, b := s.bind("a", ulid.ULID{}), s.bind("b", ulid.ULID{})
			var want []string
			batch := func(n, size int) Batch {
				var recs []string
				for range n {
					recs = append(recs, fmt.Sprintf("%d %s", len(want), strings.Repeat("x", size)))
					want = append(want, recs[len(recs)-1])
				}
				return Batch{Binding: a, Run: run(recs...)}
			}
			other := func() Batch { return Batch{Binding: b, Run: run(secret)} }
			for _, frame := range [][]Batch{
				{batch(4, 5000), batch(4, 5000)},          // LSN 1 to 8: a's alone
				{batch(2, 5000), other(), batch(2, 5000)}, // 9 to 12: b's between
				{other(), batch(4, 5000)},                 // 13 to 16: b's in front
				{batch(4, 5000), other()},                 // 17 to 20: b's behind
				{batch(4, 100)},                           // 21 to 24: a's alone, small
				{batch(8, 5000)},                          // 25 to 32: a's alone
			} {
				for _, got := range s.verdicts(frame...) {
					if got.Err != nil {
						t.Fatal(got.Err)
					}
				}
			}
			all := []codec.Codec{codec.None, codec.S2, codec.Zstd}
			for _, tc := range []struct {
				name   string
				o      ReadOptions
				stored int
			}{
				{"everything", ReadOptions{Codecs: all}, 16},
				{"no block asked for", ReadOptions{}, 0},
				{"of this codec", ReadOptions{Codecs: []codec.Codec{c}}, 16},
				{"of other codecs", ReadOptions{Codecs: others(all, c)}, 0},
				{"from within the first block", ReadOptions{From: 2, Codecs: all}, 8},
				{"from within its second batch", ReadOptions{From: 5, Codecs: all}, 8},
				{"to within the last block", ReadOptions{To: 31, Codecs: all}, 8},
				{"small spans", ReadOptions{Max: 1, Codecs: all}, 16},
				{"blocks of several logs", ReadOptions{From: 9, To: 20, Codecs: all}, 0},
			} {
				r, err := v.NewReader("a", tc.o)
				if err != nil {
					t.Fatal(err)
				}
				spans, err := drain(r)
				if err != nil {
					t.Fatalf("%s: %v", tc.name, err)
				}
				for _, span := range spans {
					if raw, err := span.Codec.Open(nil, span.Stored, int(span.RawSize)); span.Stored != nil && (err != nil || strings.Contains(string(raw), secret)) {
						t.Errorf("%s: the block at LSN %d has another log's record, %v", tc.name, span.First, err)
					}
				}
				got, stored := opened(t, spans)
				from, to := max(tc.o.From, 1), tc.o.To
				if to == 0 {
					to = LSN(len(want))
				}
				equal(t, got, want[from-1:to])
				if stored != tc.stored {
					t.Errorf("%s: %d records came in stored blocks, want %d", tc.name, stored, tc.stored)
				}
				r.Close()
			}
			// What was given up is not handed out either, with the rest of its block.
			if _, err := v.Truncate(context.Background(), "a", 3); err != nil {
				t.Fatal(err)
			}
			r, err := v.NewReader("a", ReadOptions{Codecs: all})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			spans, err := drain(r)
			if err != nil {
				t.Fatal(err)
			}
			got, stored := opened(t, spans)
			equal(t, got, want[2:])
			if stored != 8 {
				t.Errorf("after a truncation %d records came in stored blocks, want 8", stored)
			}
		})
	}
}

func others(all []codec.Codec, but codec.Codec) (out []codec.Codec) {
	for _, c := range all {
		if c != but {
			out = append(out, c)
		}
	}
	return out
}

// TestFollowAcrossSegments follows a log while the journal rolls under it and
// the segments behind it are recycled: it sees every record once, in order, and
// each as soon as it is durable.
func TestFollowAcrossSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openPlain(t, disk.NewMem())
		defer closeTest(t, v)
		mustCreate(t, v, "log")
		mustCreate(t, v, "noise")
		r, err := v.NewReader("log", ReadOptions{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		read := make(chan []string, 1)
		go func() {
			for {
				recs, err := follow(t.Context(), r, 1)
				if err != nil {
					t.Error(err)
					close(read)
					return
				}
				read <- recs
				if recs[len(recs)-1] == "end" {
					return
				}
			}
		}()
		oldest := v.journal.Segments()[0]
		for n := range 120 {
			rec := fmt.Sprintf("%d %s", n, strings.Repeat("x", n*97%9000))
			got := mustAppend(t, v, "log", rec)
			mustAppend(t, v, "noise", rec)
			synctest.Wait()
			select {
			case recs := <-read:
				equal(t, recs, []string{rec})
			default:
				t.Fatalf("LSN %d is durable, and the follower has not seen it", got.First)
			}
			if n%10 == 9 {
				mustCheckpoint(t, v, "log", "cp", got.First, "")
				mustCheckpoint(t, v, "noise", "cp", got.First, "")
				time.Sleep(2 * limits.OpenSegmentIdle) // its reader lets go of segments
			}
		}
		if s := v.Status(); s.Rolls < 8 || s.Recycles < 4 || v.journal.Segments()[0] == oldest {
			t.Errorf("too little happened: %d rolls, %d segments recycled", s.Rolls, s.Recycles)
		}
		mustAppend(t, v, "log", "end")
		<-read
	})
}

// TestFollowerFallsBehind: a follower whose next record is given up is told so,
// with what there is, and is not led on elsewhere; a new one at the beginning
// of what is left reads on.
func TestFollowerFallsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openPlain(t, disk.NewMem())
		defer closeTest(t, v)
		mustCreate(t, v, "log")
		rec := func(n LSN) string { return fmt.Sprintf("%d %s", n, strings.Repeat("x", 9000)) }
		mustAppend(t, v, "log", rec(1))
		r, err := v.NewReader("log", ReadOptions{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := follow(t.Context(), r, 1); err != nil || got[0] != rec(1) {
			t.Fatalf("%.20q, %v", got, err)
		}
		last := LSN(1)
		for v.Status().Recycles < 3 {
			last = mustAppend(t, v, "log", rec(last+1)).First
			mustCheckpoint(t, v, "log", "cp", last-1, "")
			time.Sleep(2 * limits.OpenSegmentIdle)
		}
		info, err := v.Log("log")
		if err != nil {
			t.Fatal(err)
		}
		var gone *RangeError
		if _, err := follow(t.Context(), r, 1); !errors.Is(err, ErrLSNTruncated) || !errors.As(err, &gone) || gone.Asked != 2 || gone.First != info.First || gone.Next != info.Next {
			t.Fatalf("the follower: %v (%+v), the log has %d to %d", err, gone, info.First, info.Next-1)
		}
		for at, got := range readAll(t, v, "log", gone.First) {
			if want := rec(gone.First + LSN(at)); got != want {
				t.Fatalf("LSN %d is %.20q", gone.First+LSN(at), got)
			}
		}
	})
}

// TestOldestKept: who reads from the oldest record kept is given the one that is when it
// is read, however many went since the reader was made, and is told of what goes later.
func TestOldestKept(t *testing.T) {
	for _, tc := range []struct {
		name  string
		o     ReadOptions
		read  int // of them before some are truncated
		first LSN // kept then
		want  []string
		err   error
	}{
		{"some", ReadOptions{}, 0, 4, []string{"4", "5", "6", "7"}, io.EOF},
		{"some of those asked for", ReadOptions{To: 4}, 0, 3, []string{"3", "4"}, io.EOF},
		{"all that were asked for", ReadOptions{To: 2}, 0, 4, nil, io.EOF},
		{"all that there were", ReadOptions{}, 0, 7, []string{"7"}, io.EOF},
		{"all", ReadOptions{}, 0, 8, nil, io.EOF},
		{"all that were committed by then", ReadOptions{ToTime: time.Now().Add(time.Hour)}, 0, 7, nil, io.EOF},
		{"who asks for one", ReadOptions{From: 1}, 0, 4, nil, ErrLSNTruncated},
		{"who has one", ReadOptions{}, 1, 4, []string{"1"}, ErrLSNTruncated},
		{"who goes on", ReadOptions{}, 3, 4, []string{"1", "2", "3", "4", "5", "6"}, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := openPlain(t, disk.NewMem())
			defer closeTest(t, v)
			mustCreate(t, v, "log")
			for i := range 6 {
				mustAppend(t, v, "log", strconv.Itoa(i+1))
			}
			tc.o.Max = 1
			r, err := v.NewReader("log", tc.o)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := follow(t.Context(), r, tc.read)
			if err != nil {
				t.Fatal(err)
			}
			mustAppend(t, v, "log", "7")
			if _, err := v.Truncate(t.Context(), "log", tc.first); err != nil {
				t.Fatal(err)
			}
			rest, err := follow(t.Context(), r, 7)
			if !errors.Is(err, tc.err) {
				t.Errorf("it ends with %v, want %v", err, tc.err)
			}
			equal(t, append(got, rest...), tc.want)
		})
	}
}

// TestOldestKeptGoes: a reader from the oldest record kept, whose segment goes while it is
// looked for there, goes on at what is left; one that follows and finds nothing left waits.
func TestOldestKeptGoes(t *testing.T) {
	for _, left := range []int{0, 1} {
		t.Run(strconv.Itoa(left), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := disk.NewFaulty(disk.NewMem())
				v := openPlain(t, fs)
				defer closeTest(t, v)
				mustCreate(t, v, "log")
				mustCreate(t, v, "noise")
				rec := func(n LSN) string { return fmt.Sprintf("%d %s", n, strings.Repeat("x", 9000)) }
				last := LSN(0)
				for v.Status().Rolls < 3 {
					last = mustAppend(t, v, "log", rec(last+1)).First
				}
				first := last + 1 - LSN(left)
				r, err := v.NewReader("log", ReadOptions{Follow: true})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				synctest.Wait() // the first who reads is to be the reader
				oldest := v.journal.Segments()[0]
				var goes atomic.Bool
				fs.Before(func(op disk.Op) error {
					if op.Kind == disk.OpRead && goes.CompareAndSwap(false, true) {
						if _, err := v.Truncate(t.Context(), "log", first); err != nil {
							t.Error(err)
						}
						for n := 0; n < 100 && v.journal.Segments()[0] == oldest; n++ {
							mustAppend(t, v, "noise", rec(1))
							time.Sleep(time.Millisecond) // of the bubble's clock
						}
					}
					return nil
				})
				read := make(chan []string, 1)
				go func() {
					recs, err := follow(t.Context(), r, left+1)
					if err != nil {
						t.Error(err)
					}
					read <- recs
				}()
				time.Sleep(time.Minute) // of the bubble's clock
				var want []string
				for lsn := first; lsn <= last; lsn++ {
					want = append(want, rec(lsn))
				}
				mustAppend(t, v, "log", rec(last+1))
				equal(t, <-read, append(want, rec(last+1)))
			})
		})
	}
}

// TestFollowTo: a reader that follows to an LSN waits for it and ends there.
func TestFollowTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := openPlain(t, disk.NewMem())
		defer closeTest(t, v)
		mustCreate(t, v, "log")
		r, err := v.NewReader("log", ReadOptions{Follow: true, To: 3})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		read := make(chan []string, 1)
		go func() {
			recs, err := follow(t.Context(), r, 100)
			if !errors.Is(err, io.EOF) {
				t.Errorf("it ends with %v", err)
			}
			read <- recs
		}()
		for _, recs := range [][]string{{"1"}, {"2", "3", "4"}} {
			synctest.Wait()
			if len(read) > 0 {
				t.Fatal("it ended before it had come there")
			}
			mustAppend(t, v, "log", recs...)
		}
		equal(t, <-read, []string{"1", "2", "3"})
	})
}

// TestClaimOfEveryRecord claims each record of a log that spans many segments,
// before and after a restart and a truncation: what is kept is proven and told
// from anything else, what was given up passes unproven.
func TestClaimOfEveryRecord(t *testing.T) {
	mem := disk.NewMem()
	v := openTest(t, mem)
	info := mustCreate(t, v, "log")
	rng := rand.New(rand.NewPCG(1, 2))
	sums := []Checksum{0}           // behind each LSN
	begins := map[LSN]bool{1: true} // first records of batches
	for len(sums) < 300 {
		var recs []string
		for range 1 + rng.IntN(5) {
			recs = append(recs, strings.Repeat(string(rune('a'+rng.IntN(26))), 1+rng.IntN(3000)))
			sums = append(sums, Checksum(crc32.Update(uint32(sums[len(sums)-1]), castagnoli, run(recs[len(recs)-1]))))
		}
		got := mustAppend(t, v, "log", recs...)
		begins[got.First] = true
		if got.Checksum != sums[len(sums)-1] {
			t.Fatalf("LSN %d has checksum %08x, want %08x", len(sums)-1, got.Checksum, sums[len(sums)-1])
		}
	}
	check := func(what string, first LSN) {
		t.Helper()
		for lsn := LSN(1); lsn < LSN(len(sums)); lsn++ {
			c := Claim{Log: info.ID, Epoch: 1, LSN: lsn, Checksum: sums[lsn]}
			if err := v.CheckClaim("log", c); err != nil {
				t.Fatalf("%s: LSN %d: %v", what, lsn, err)
			}
			// Each batch tells what was before it: nothing else has to be kept.
			known := lsn >= first
			c.Checksum++
			if err := v.CheckClaim("log", c); errors.Is(err, ErrDataLoss) != known {
				t.Fatalf("%s: LSN %d with another checksum: %v, and it is known: %t", what, lsn, err, known)
			}
		}
		beyond := Claim{Log: info.ID, Epoch: 1, LSN: LSN(len(sums)), Checksum: sums[len(sums)-1]}
		if err := v.CheckClaim("log", beyond); !errors.Is(err, ErrDataLoss) {
			t.Errorf("%s: beyond the end: %v", what, err)
		}
	}
	check("at first", 1)
	closeTest(t, v)
	v = openTest(t, mem)
	check("after a restart", 1)
	var within LSN = 100
	for begins[within] {
		within++
	}
	if _, err := v.Truncate(context.Background(), "log", within); err != nil {
		t.Fatal(err)
	}
	check("after a truncation", within)
	closeTest(t, v)
}

// TestFirstSpanIsABatch: a reader's first span is the first batch, from where it begins,
// and those behind it are each at most twice as long as the one before, until they are
// as long as asked for. So there are few short ones.
func TestFirstSpanIsABatch(t *testing.T) {
	const most, each, batches = 64 << 10, 1000, 400
	v := openTest(t, disk.NewMem())
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	size := len(run(strings.Repeat("x", each)))
	end := func(s Span) LSN { return s.First + LSN(s.Count) }
	for range batches {
		mustAppend(t, v, "log", strings.Repeat("x", each), "y")
	}
	for _, from := range []LSN{1, 2, 301} {
		r, err := v.NewReader("log", ReadOptions{From: from, Max: most})
		if err != nil {
			t.Fatal(err)
		}
		spans, err := drain(r)
		if err != nil {
			t.Fatal(err)
		}
		if first := spans[0]; first.First != from || end(first) != from+2-(from+1)%2 {
			t.Errorf("from LSN %d: the first span is %d to %d", from, first.First, end(first)-1)
		}
		full := 1
		for i, s := range spans {
			// A batch more than that, since a span ends when it is long enough.
			if n := len(s.Run); n >= full+2*size || n > most+2*size || i < len(spans)-1 && n < full {
				t.Errorf("from LSN %d: span %d has %d bytes, want %d", from, i, n, full)
			}
			full = min(max(2*full, smallSpan), most)
		}
		if last := spans[len(spans)-1]; end(last) != 2*batches+1 || full < most {
			t.Errorf("from LSN %d: the last of %d spans is %d to %d, %d bytes are full", from, len(spans), last.First, end(last)-1, full)
		}
	}
}

// aheadFS notes what its files are asked to read ahead, by segment.
type aheadFS struct {
	disk.FS
	asked map[string][]aheadRange
}

type aheadRange struct{ from, to int64 }

func (a *aheadFS) Open(path string, write bool) (disk.File, error) {
	f, err := a.FS.Open(path, write)
	if err != nil {
		return nil, err
	}
	return &aheadFile{f, a, path}, nil
}

type aheadFile struct {
	disk.File
	fs   *aheadFS
	path string
}

func (f *aheadFile) Prefetch(off, n int64) {
	f.fs.asked[f.path] = append(f.fs.asked[f.path], aheadRange{off, off + n})
}

// TestReadAhead: a reader of a log alone in its frames has the disk read ahead of it,
// piece by piece, everything behind a segment's first frame and nothing that was not
// written yet.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, testReadAhead) // so that no frame comes in between for want of appends
}

func testReadAhead(t *testing.T) {
	fs := &aheadFS{disk.NewMem(), map[string][]aheadRange{}}
	o := testOptions(fs)
	const segmentSize = 3 * limits.ReplayReadAhead
	o.SegmentSize, o.SnapshotEvery, o.Codec = segmentSize, 1<<30, "none"
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v)
	mustCreate(t, v, "log")
	big := strings.Repeat("x", 1<<20)
	for range 30 {
		mustAppend(t, v, "log", big)
	}
	if got := readAll(t, v, "log", 1); len(got) != 30 {
		t.Fatalf("%d records", len(got))
	}
	ends := map[string]int64{} // of each segment's frames, and where the first one ends
	firsts := map[string]int64{}
	for lsn := LSN(1); lsn <= 30; lsn++ {
		f := frameOf(t, v, "log", lsn)
		path := "/vol/" + f.Pos.Segment.String() + ".wal"
		ends[path] = f.End().Offset
		if firsts[path] == 0 {
			firsts[path] = f.End().Offset
		}
	}
	if len(ends) < 2 {
		t.Fatal("one segment has it all")
	}
	segments := v.journal.Segments()
	current := "/vol/" + segments[len(segments)-1].String() + ".wal"
	// The first record does not wait until the disk has been asked for much: for as much
	// as the first frame.
	first := "/vol/" + segments[0].String() + ".wal"
	if r := fs.asked[first][0]; r.to-r.from > 2<<20 {
		t.Errorf("the first piece is %d to %d", r.from, r.to)
	}
	for path, end := range ends {
		at := firsts[path]
		for _, r := range fs.asked[path] {
			if r.from != at || r.to <= r.from || r.to-r.from > limits.ReplayReadAhead {
				t.Errorf("%s: asked for %d to %d, want a piece from %d", path, r.from, r.to, at)
			}
			at = r.to
		}
		// Behind the last record there is a frame that promises it, at most.
		if path == current && at > end+limits.BlockSize || at < end || at > segmentSize {
			t.Errorf("%s: read ahead up to %d of frames up to %d", path, at, end)
		}
	}
}

// TestDense: reading ahead is for logs that have a quarter of what their readers come
// past, or more, be it of each frame or of many a frame between those that have any.
func TestDense(t *testing.T) {
	for _, c := range []struct {
		own, others uint32
		between     int64 // bytes of frames without a record of the log, in front of each
		want        bool
	}{
		{100, 0, 0, true}, {100, 300, 0, true}, {100, 304, 0, false}, {0, 100, 0, false},
		{100, 0, 3 * limits.BlockSize, true}, {100, 0, 4 * limits.BlockSize, false},
		{100, 100, limits.BlockSize, true}, {100, 100, 2 * limits.BlockSize, false},
	} {
		b := batchFrame{commands: []Command{
			{Kind: CommandAppend, Log: 1, Place: Place{Size: c.own}}, {Kind: CommandAppend, Log: 2, Place: Place{Size: c.others}},
		}, carried: int64(c.own + c.others)}
		if c.own > 0 {
			b.own = []ownBatch{{index: 0}}
		}
		var s share
		pos := segment.Pos{Segment: 1, Offset: limits.SegmentHeaderSize}
		for i := range 40 {
			b.frame = &segment.Frame{Pos: pos, Header: segment.Header{BlocksSize: 1000}}
			if b.frame.Header.Size() != limits.BlockSize {
				t.Fatal("a frame of another size")
			}
			// Of what is in front of the first frame nothing is known.
			if s.see(&b); i > 20 && s.dense() != c.want {
				t.Errorf("%d bytes beside %d and behind %d others, frame %d: %t", c.own, c.others, c.between, i, s.dense())
			}
			pos = b.frame.End()
			pos.Offset += c.between
		}
		// In another segment it goes on as it was.
		b.frame = &segment.Frame{Pos: segment.Pos{Segment: 2, Offset: 900 * limits.BlockSize}, Header: segment.Header{BlocksSize: 1000}}
		if s.see(&b); s.dense() != c.want {
			t.Errorf("%d bytes beside %d and behind %d others, in the next segment: %t", c.own, c.others, c.between, s.dense())
		}
	}
}
