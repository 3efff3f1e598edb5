package wal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

// inspected makes a volume with two logs, whose batches of three records of 100
// bytes each take a frame of their own, and closes it. Frames are small, so
// nothing is compressed, and each is one block of the disk.
func inspected(t *testing.T, batches int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "volume")
	v, err := Open(t.Context(), dir, Options{Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range []string{"orders", "users"} {
		if _, _, err := v.CreateLog(t.Context(), log, LogOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	appendThrees(t, v, batches)
	if _, err := v.SetCheckpoint(t.Context(), "users", Checkpoint{Name: "engine", LSN: 3, State: []byte("state of the engine")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func appendThrees(t *testing.T, v *Volume, batches int) {
	t.Helper()
	for i := range batches {
		var run []byte
		for r := range 3 {
			run = records.Append(run, []byte(fmt.Sprintf("%0100d", i*3+r)))
		}
		for _, log := range []string{"orders", "users"} {
			if _, err := v.Append(t.Context(), log, ulid.ULID{}, 0, Batch{Run: run}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// contents returns every file of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// find returns the frames of a volume that appended to a log, and all frames.
func find(t *testing.T, dir, log string) (appends []segment.Frame, lsns []LSN) {
	t.Helper()
	_, err := Dump(t.Context(), dir, DumpOptions{}, func(f *DumpedFrame) error {
		for _, c := range f.Commands {
			if c.Kind == CommandAppend && f.Name(c.Log) == log {
				appends, lsns = append(appends, *f.Frame), append(lsns, c.First)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return appends, lsns
}

// flip changes one bit of a segment's file.
func flip(t *testing.T, dir string, id segment.ID, offset int64) {
	t.Helper()
	path := filepath.Join(dir, id.String()+".wal")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[offset] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, dir string) *Verification {
	t.Helper()
	before := contents(t, dir)
	v, err := Verify(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, contents(t, dir)) {
		t.Error("verify changed the volume")
	}
	return v
}

func spell(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestVerifyClean(t *testing.T) {
	dir := inspected(t, 20)
	var done, total int64
	v, err := Verify(t.Context(), dir, func(d, all int64) {
		if d < done || d > all {
			t.Errorf("progress went from %d to %d of %d", done, d, all)
		}
		done, total = d, all
	})
	if err != nil {
		t.Fatal(err)
	}
	if v.Verdict != "clean" || v.Records != 120 || len(v.Damage) != 0 || v.Segments < 2 || v.Volume.IsZero() {
		t.Errorf("found %s", spell(v))
	}
	// The last frame is the promise of the one before.
	if v.DurableFrame != v.LastSequence-1 || v.Frames == 0 {
		t.Errorf("durable frame %d of %d, %d frames", v.DurableFrame, v.LastSequence, v.Frames)
	}
	if done != total || total == 0 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
}

func TestVerifyNamesWhatABadBlockHeld(t *testing.T) {
	dir := inspected(t, 20)
	frames, lsns := find(t, dir, "orders")
	f := frames[4]
	flip(t, dir, f.Pos.Segment, f.Pos.Offset+f.Blocks[0].Offset+7)
	v := verify(t, dir)
	want := []DamagedLog{{Log: "orders", First: lsns[4], Last: lsns[4] + 2}}
	if v.Verdict != "damaged" || len(v.Damage) != 1 || !slices.Equal(v.Damage[0].Logs, want) || v.Records != 117 {
		t.Fatalf("found %s", spell(v))
	}
	d := v.Damage[0]
	if d.File != f.Pos.Segment.String()+".wal" || d.Offset != f.Pos.Offset || d.Sequence != f.Header.Sequence || d.Case != "damaged-block" {
		t.Errorf("damage %s, want it at %s", spell(d), f.Pos)
	}
}

func TestVerifyLeavesOutWhatWasTruncated(t *testing.T) {
	dir := inspected(t, 4)
	o := Options{PrepareRate: -1}
	v, err := Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Truncate(t.Context(), "orders", 6); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	frames, _ := find(t, dir, "orders")
	for _, f := range frames[:2] { // LSN 1 to 6
		flip(t, dir, f.Pos.Segment, f.Pos.Offset+f.Blocks[0].Offset+7)
	}
	found := verify(t, dir)
	if len(found.Damage) != 2 || len(found.Damage[0].Logs) != 0 || !slices.Equal(found.Damage[1].Logs, []DamagedLog{{"orders", 6, 6}}) {
		t.Errorf("found %s", spell(found))
	}
}

func TestVerifyNamesWhatALostFrameHeld(t *testing.T) {
	for _, tc := range []struct {
		name   string
		offset func(f segment.Frame) int64
		what   string
	}{
		{"header", func(f segment.Frame) int64 { return f.Pos.Offset + 20 }, "damaged-header"},
		{"directory", func(f segment.Frame) int64 {
			return f.Pos.Offset + limits.FrameHeaderSize + int64(f.Header.BlocksSize) + 3
		}, "damaged-directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := inspected(t, 20)
			frames, lsns := find(t, dir, "users")
			f := frames[2]
			flip(t, dir, f.Pos.Segment, tc.offset(f))
			v := verify(t, dir)
			want := []DamagedLog{{Log: "users", First: lsns[2], Last: lsns[2] + 2}}
			if v.Verdict != "damaged" || len(v.Damage) != 1 || !slices.Equal(v.Damage[0].Logs, want) ||
				v.Damage[0].Case != tc.what || v.Damage[0].Offset != f.Pos.Offset || v.Records != 117 {
				t.Errorf("found %s", spell(v))
			}
		})
	}
}

func TestVerifyNamesACheckpoint(t *testing.T) {
	dir := inspected(t, 2)
	var at *segment.Frame
	if _, err := Dump(t.Context(), dir, DumpOptions{}, func(f *DumpedFrame) error {
		if len(f.Commands) == 1 && f.Commands[0].Kind == CommandSetCheckpoint {
			at = f.Frame
		}
		return nil
	}); err != nil || at == nil {
		t.Fatalf("no checkpoint found: %v", err)
	}
	flip(t, dir, at.Pos.Segment, at.Pos.Offset+at.Blocks[0].Offset)
	v := verify(t, dir)
	if len(v.Damage) != 1 || !strings.Contains(v.Damage[0].Detail, `checkpoint "engine" of log "users"`) || len(v.Damage[0].Logs) != 0 {
		t.Errorf("found %s", spell(v))
	}
}

func TestVerifyMissingPieces(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(dir string, ids []string) error
		file  func(ids []string) string
		what  string
	}{
		{"segment in the middle", func(dir string, ids []string) error { return os.Remove(filepath.Join(dir, ids[1])) },
			func(ids []string) string { return ids[1] }, "missing-segment"},
		{"VOLUME", func(dir string, _ []string) error { return os.Remove(filepath.Join(dir, "VOLUME")) },
			func([]string) string { return "VOLUME" }, "volume-file"},
		{"VOLUME emptied", func(dir string, _ []string) error { return os.Truncate(filepath.Join(dir, "VOLUME"), 0) },
			func([]string) string { return "VOLUME" }, "volume-file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := inspected(t, 20)
			var ids []string
			for path := range contents(t, dir) {
				if strings.HasSuffix(path, ".wal") {
					ids = append(ids, filepath.Base(path))
				}
			}
			slices.Sort(ids)
			if len(ids) < 3 {
				t.Fatalf("%d segments, want 3 and more", len(ids))
			}
			if err := tc.spoil(dir, ids); err != nil {
				t.Fatal(err)
			}
			v := verify(t, dir)
			if v.Verdict != "damaged" || len(v.Damage) != 1 || v.Damage[0].File != tc.file(ids) || v.Damage[0].Case != tc.what {
				t.Errorf("found %s", spell(v))
			}
			if r, err := Dump(t.Context(), dir, DumpOptions{}, func(*DumpedFrame) error { return nil }); err != nil || r.Verdict != "damaged" {
				t.Errorf("dump: %+v, %v", r, err)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	if _, err := Verify(t.Context(), t.TempDir(), nil); !errors.Is(err, ErrNoVolume) {
		t.Errorf("empty directory: %v", err)
	}
	if _, err := Verify(t.Context(), filepath.Join(t.TempDir(), "missing"), nil); !errors.Is(err, ErrNoVolume) {
		t.Errorf("missing directory: %v", err)
	}
	dir := inspected(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, dir, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Dump(ctx, dir, DumpOptions{}, func(*DumpedFrame) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled dump: %v", err)
	}
	broken := errors.New("broken")
	if _, err := Dump(t.Context(), dir, DumpOptions{}, func(*DumpedFrame) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("dump: %v, want the function's error", err)
	}
}

// A volume in use is never called damaged, however often segments begin and go
// while it is read.
func TestVerifyWhileInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	v, err := Open(t.Context(), dir, Options{Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range []string{"orders", "users"} {
		if _, _, err := v.CreateLog(t.Context(), log, LogOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	verifyInUse(t, v, dir, func(i int) bool { return i < 8 })
}

// verifyInUse verifies a volume, as often as again says, while its logs are appended to and
// truncated, and once more when it is closed.
func verifyInUse(t *testing.T, v *Volume, dir string, again func(i int) bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		defer cancel()
		for i := 0; again(i); i++ {
			found, err := Verify(t.Context(), dir, nil)
			if err != nil || found.Verdict == "damaged" {
				done <- errors.Join(err, fmt.Errorf("verification %d: %s", i, spell(found)))
				return
			}
		}
		done <- nil
	}()
	for i := 0; ctx.Err() == nil; i++ {
		appendThrees(t, v, 1)
		if i%10 != 9 {
			continue
		}
		for _, log := range []string{"orders", "users"} {
			if _, err := v.Truncate(t.Context(), log, LSN(i*3-5)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	closeTest(t, v)
	if found := verify(t, dir); found.Verdict != "clean" {
		t.Errorf("after closing: %s", spell(found))
	}
}

// TestVerifyWhileTheMiddleGoes is the same with a log that keeps what it has, so that
// segments go from the middle, and the gap grows while it is read.
func TestVerifyWhileTheMiddleGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	v, err := Open(t.Context(), dir, Options{Create: true, SegmentSize: limits.MinSegmentSize, PrepareRate: -1, SnapshotEvery: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range []string{"idle", "orders", "users"} {
		mustCreate(t, v, log)
	}
	for range 3 {
		mustAppend(t, v, "idle", strings.Repeat("i", 20_000))
		appendThrees(t, v, 5)
	}
	verifyInUse(t, v, dir, func(i int) bool { return i < 8 || len(v.journal.Gaps()) == 0 })
}

func TestDumpFromAndLimit(t *testing.T) {
	dir := inspected(t, 20)
	before := contents(t, dir)
	var all []segment.Pos
	r, err := Dump(t.Context(), dir, DumpOptions{}, func(f *DumpedFrame) error {
		all = append(all, f.Pos)
		return nil
	})
	if err != nil || r.Verdict != "clean" || !slices.IsSortedFunc(all, segment.Pos.Compare) || len(all) < 40 {
		t.Fatalf("%d frames, %+v, %v", len(all), r, err)
	}
	for _, i := range []int{0, 1, len(all) / 2, len(all) - 1} {
		var got []segment.Pos
		collect := func(f *DumpedFrame) error {
			got = append(got, f.Pos)
			return nil
		}
		if r, err := Dump(t.Context(), dir, DumpOptions{From: all[i]}, collect); err != nil || r == nil || !slices.Equal(got, all[i:]) {
			t.Errorf("from %s: %d frames, want %d: %v", all[i], len(got), len(all[i:]), err)
		}
		got = nil
		end := min(i+3, len(all))
		if _, err := Dump(t.Context(), dir, DumpOptions{From: all[i], Limit: 3}, collect); err != nil || !slices.Equal(got, all[i:end]) {
			t.Errorf("three from %s: %v, want %v: %v", all[i], got, all[i:end], err)
		}
	}
	if !maps.Equal(before, contents(t, dir)) {
		t.Error("dump changed the volume")
	}
}

func TestDumpShowsSnapshotsAndBadBlocks(t *testing.T) {
	dir := inspected(t, 30)
	frames, _ := find(t, dir, "users")
	f := frames[1]
	flip(t, dir, f.Pos.Segment, f.Pos.Offset+f.Blocks[0].Offset)
	var snapshots, bad int
	if _, err := Dump(t.Context(), dir, DumpOptions{}, func(f *DumpedFrame) error {
		if (f.Header.Kind == segment.KindSnapshot) != (f.Snapshot != nil) {
			t.Errorf("%s: kind %s, snapshot %v", f.Pos, f.Header.Kind, f.Snapshot)
		}
		if f.Snapshot != nil {
			snapshots++
		}
		if f.Bad != nil {
			bad++
			if len(f.Bad) != 1 || !errors.Is(f.Bad[0], segment.ErrBadBlock) {
				t.Errorf("%s: bad blocks %v", f.Pos, f.Bad)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if snapshots == 0 || bad != 1 {
		t.Errorf("%d snapshot parts, %d frames with bad blocks; want some and 1", snapshots, bad)
	}
}

// A frame that was lost where every frame verifies cannot be made by hand; the
// auditor is told of one.
func TestAuditorFindsAHole(t *testing.T) {
	a := newAuditor(&knownLogs{state: NewState()})
	pos := func(n int64) segment.Pos { return segment.Pos{Segment: 4, Offset: n * limits.BlockSize} }
	frame := func(at int64, commands ...Command) {
		var meta []byte
		for i := range commands {
			meta = AppendCommand(meta, &commands[i])
		}
		f := &segment.Frame{Pos: pos(at), Header: segment.Header{Kind: segment.KindCommands}, Meta: bytes.Clone(meta)}
		if err := a.frame(f, nil); err != nil {
			t.Fatal(err)
		}
	}
	frame(1, Command{Kind: CommandCreateLog, Log: 7, Name: "orders"})
	frame(2, Command{Kind: CommandAppend, Log: 7, First: 1, Count: 3})
	frame(3, Command{Kind: CommandAppend, Log: 8, First: 100, Count: 1}) // its beginning is gone: no hole
	frame(4, Command{Kind: CommandAppend, Log: 7, First: 6, Count: 1}, Command{Kind: CommandAppend, Log: 8, First: 101, Count: 1})
	holes := slices.Clone(a.holes)
	var r Recovery
	logs := &knownLogs{names: map[uint64]string{}, first: map[uint64]LSN{}, state: NewState()}
	walked := &replay.Recovery{Tail: replay.CaseClean}
	a.explain(&r, walked, logs, 4, nil)
	sumUp(&r, walked, false)
	want := []DamagedLog{{Log: "orders", First: 4, Last: 5}}
	if r.Verdict != "damaged" || len(r.Damage) != 1 || r.Damage[0].Case != caseHole || !slices.Equal(r.Damage[0].Logs, want) {
		t.Errorf("found %s", spell(r))
	}
	r = Recovery{Verdict: "clean"}
	a.explain(&r, walked, logs, 5, nil)
	sumUp(&r, walked, false)
	if r.Verdict != "clean" {
		t.Errorf("frames that were released while they were read: %s", spell(r))
	}
	// From the middle, while they were read: of a hole at a gap's edge the log gave up all.
	logs.whole, logs.next = true, map[uint64]LSN{7: 7, 8: 102}
	for _, tc := range []struct {
		gap   segment.Gap
		first LSN // that the log keeps
		want  string
	}{
		{segment.Gap{From: 4, To: 6}, 6, "clean"}, {segment.Gap{From: 2, To: 4}, 6, "clean"},
		{segment.Gap{From: 4, To: 6}, 5, "damaged"}, {segment.Gap{From: 5, To: 6}, 6, "damaged"}, {segment.Gap{From: 2, To: 3}, 6, "damaged"},
	} {
		r, logs.first = Recovery{Verdict: "clean"}, map[uint64]LSN{7: tc.first, 8: 100}
		b := *a
		b.holes = slices.Clone(holes)
		b.explain(&r, walked, logs, 1, []segment.Gap{tc.gap})
		sumUp(&r, walked, false)
		if r.Verdict != tc.want {
			t.Errorf("gap %s, kept from %d: %s", tc.gap, tc.first, spell(r))
		}
	}

	// A frame with copies, that went when what it has was truncated.
	for first, want := range map[LSN]string{4: "clean", 3: "damaged"} {
		r, logs.first = Recovery{Verdict: "clean"}, map[uint64]LSN{7: first}
		b := *a
		b.holes = []hole{{hit{log: 7, first: 1, last: 3, pos: pos(9)}, pos(8), pos(10)}}
		b.explain(&r, walked, logs, 1, nil)
		sumUp(&r, walked, false)
		if r.Verdict != want {
			t.Errorf("copies, kept from %d: %s", first, spell(r))
		}
	}
}
