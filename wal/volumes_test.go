package wal

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/replay"
	"github.com/walsvc/walsvc/segment"
)

var volumesRewrite = flag.Bool("volumes.rewrite", false, "write testdata/volumes anew, what is not of a release; read the difference before you keep it")

// volumesDir holds a directory for each format version that was ever released,
// and the one that will be.
const volumesDir = "../testdata/volumes"

// volumesNow is that of the version written today.
var volumesNow = filepath.Join(volumesDir, fmt.Sprint(segment.FormatVersion))

// TestVolumes opens every volume under testdata/volumes, of every format version,
// and compares what it finds with the text beside it: read-only, as walctl
// verify does, and as the service does, which then appends and opens again.
func TestVolumes(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(volumesDir, "*", "*.tar.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d volumes, %v", len(paths), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(path, ".tar.gz")
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			about, want, _ := strings.Cut(string(text), "\n\n")
			if len(about) < 10 {
				t.Errorf("it does not say what it shows: %q", about)
			}
			if got := look(t, unpack(t, path)); got != want {
				t.Errorf("%s is found as\n%s\nnot, as %s.txt says, as\n%s", path, got, name, want)
			}
		})
	}
}

// TestVolumesAreMade makes the volumes of today's format again: whoever changes
// a byte of what is written sees it here, and must not once it was released.
func TestVolumesAreMade(t *testing.T) {
	frozen := released(t)
	texts := map[string]bool{}
	for _, made := range madeVolumes {
		path := filepath.Join(volumesNow, made.name)
		texts[path+".txt"] = true
		t.Run(made.name, func(t *testing.T) {
			files := filesOf(t, makeVolume(t, made))
			text := made.about + "\n\n" + look(t, files)
			_, err := os.Stat(path + ".tar.gz")
			missing := errors.Is(err, os.ErrNotExist)
			if *volumesRewrite && (missing || !frozen) {
				pack(t, path+".tar.gz", files)
				if err := os.WriteFile(path+".txt", []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if missing {
				t.Fatalf("%s.tar.gz is missing; go test ./wal -run VolumesAreMade -volumes.rewrite", path)
			}
			advice := "if that is meant: go test ./wal -run VolumesAreMade -volumes.rewrite"
			if frozen {
				advice = "a release has written that; so does what follows, or with another segment.FormatVersion"
			}
			was := unpack(t, path+".tar.gz")
			if names, wasNames := slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(was)); !slices.Equal(names, wasNames) {
				t.Fatalf("the files are %q now, were %q: %s", names, wasNames, advice)
			}
			for name := range files {
				if !made.compressed && !bytes.Equal(files[name], was[name]) {
					at := 0
					for at < min(len(files[name]), len(was[name])) && files[name][at] == was[name][at] {
						at++
					}
					t.Errorf("%s is another one from byte %d on: %s", name, at, advice)
				}
			}
			if wasText, err := os.ReadFile(path + ".txt"); err != nil || string(wasText) != text {
				t.Errorf("%v; it is found as\n%s\nand was found as\n%s\n%s", err, text, wasText, advice)
			}
		})
	}
	paths, err := filepath.Glob(filepath.Join(volumesNow, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if !texts[path] {
			t.Errorf("%s: nothing makes this volume", path)
		}
	}
}

// TestVolumesHaveEverything says what the volumes of today's format are to
// hold: each case of the tail rule, and each kind of frame, command and codec.
func TestVolumesHaveEverything(t *testing.T) {
	missing := map[string]bool{}
	for _, r := range replay.Rules() {
		missing[string(r.Case)] = true
	}
	for k := segment.KindCommands; k <= segment.KindSeal; k++ {
		missing[k.String()] = true
	}
	for k := range CommandKind(64) {
		if strings.HasPrefix(k.String(), "command(") {
			continue
		}
		missing[k.String()] = true
	}
	for c := codec.None; c.Valid(); c++ {
		missing["codec "+c.String()] = true
	}
	paths, err := filepath.Glob(filepath.Join(volumesNow, "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(strings.TrimSuffix(path, ".tar.gz") + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return r == ' ' || r == '\n' || r == ',' || r == ';' }) {
			delete(missing, word)
		}
		_, err = walkFrames(loadFiles(t, unpack(t, path)), func(f *segment.Frame) {
			delete(missing, f.Header.Kind.String())
			for _, b := range f.Blocks {
				delete(missing, "codec "+b.Codec.String())
			}
			if f.Header.Kind != segment.KindCommands {
				return
			}
			commands, err := DecodeCommands(nil, f.Meta)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			for _, c := range commands {
				delete(missing, c.Kind.String())
			}
		})
		if err != nil && !strings.Contains(string(text), "open: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	for what := range missing {
		t.Errorf("no volume has %s", what)
	}
}

// released reports whether the changelog has a release, whose volumes are not
// to be changed any more.
func released(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	return releaseHeading.Match(b)
}

var releaseHeading = regexp.MustCompile(`(?m)^## \[?v?[0-9]+\.[0-9]+`)

func TestReleaseHeading(t *testing.T) {
	for text, want := range map[string]bool{
		"# Changelog\n\n## Unreleased\n": false, "## Unreleased\n\n## 0.1.0, 2026-12-24\n": true, "## v1.0.0\n": true, "## [1.2.3] - 2027\n": true,
		"as of ## 1.0": false,
	} {
		if got := releaseHeading.MatchString(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

// look says what a volume holds, in words that are not to change: as Verify finds
// it, and as Open does.
func look(t *testing.T, files map[string][]byte) string {
	t.Helper()
	var out strings.Builder
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Verify(t.Context(), dir, nil)
	if err != nil {
		fmt.Fprintf(&out, "verify: %s\n", kindOf(t, err))
	} else {
		fmt.Fprintf(&out, "verify: %s, %d segments, %d frames, %d records\n", verdictOf(&found.Recovery), found.Segments, found.Frames, found.Records)
		writeDamage(&out, found.Damage)
	}
	if after := filesOf(t, subdir{disk.OS(disk.OSOptions{}), dir}); !maps.EqualFunc(files, after, bytes.Equal) {
		t.Error("verify has changed the volume")
	}

	fs := loadFiles(t, files)
	var strangers []string
	o := Options{FS: fs, PrepareRate: -1, Codec: "none", Events: Events{Stranger: func(name string) { strangers = append(strangers, name) }}}
	v, err := Open(t.Context(), "/vol", o)
	if err != nil {
		fmt.Fprintf(&out, "open: %s\n", kindOf(t, err))
		return out.String()
	}
	state := "writable"
	if v.readOnly != nil {
		state = "read-only"
	}
	r := v.Recovery()
	fmt.Fprintf(&out, "open: %s; %s, %d frames, %d rewritten, %d discarded\n", state, verdictOf(&r), r.Frames, r.RewrittenFrames, r.DiscardedFrames)
	writeDamage(&out, r.Damage)
	for _, name := range strangers {
		fmt.Fprintf(&out, "  stranger %s\n", name)
	}
	fmt.Fprintf(&out, "state: %08x\n", crc32.ChecksumIEEE(encodeSnapshot(v.durable, places{})))
	logs := writeLogs(t, &out, v)
	if v.readOnly != nil {
		closeTest(t, v)
		after := filesOf(t, fs)
		if delete(after, "LOCK"); !maps.EqualFunc(without(files, "LOCK"), after, bytes.Equal) {
			t.Error("opening it read-only has changed the volume")
		}
		return out.String()
	}
	goesOn(t, fs, v, logs)
	return out.String()
}

// subdir is a file system with one directory in place of "/vol".
type subdir struct {
	disk.FS
	dir string
}

func (s subdir) List(string) ([]disk.Entry, error) { return s.FS.List(s.dir) }
func (s subdir) Open(path string, write bool) (disk.File, error) {
	return s.FS.Open(filepath.Join(s.dir, filepath.Base(path)), write)
}

func without(files map[string][]byte, name string) map[string][]byte {
	files = maps.Clone(files)
	delete(files, name)
	return files
}

// kindOf names what callers test an error for.
func kindOf(t *testing.T, err error) string {
	t.Helper()
	for _, kind := range []error{ErrNoVolume, ErrVersion, ErrDamaged} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	t.Errorf("an error of no kind: %v", err)
	return "another error"
}

func verdictOf(r *Recovery) string { return r.Verdict + ", " + r.Case }

func writeDamage(out *strings.Builder, damage []Damage) {
	for _, d := range damage {
		fmt.Fprintf(out, "  damage: %s in %s at %d, frame %d", d.Case, d.File, d.Offset, d.Sequence)
		for _, l := range d.Logs {
			fmt.Fprintf(out, "; %s %d to %d", l.Log, l.First, l.Last)
		}
		fmt.Fprintln(out)
	}
}

// writeLogs says what is in each log, in a paragraph each.
func writeLogs(t *testing.T, out *strings.Builder, v *Volume) []LogInfo {
	t.Helper()
	logs, more := v.ListLogs("", "", 1000)
	if more {
		t.Fatal("more logs than one page has")
	}
	for _, l := range logs {
		fmt.Fprintf(out, "\nlog %s: %s, number %d, epoch %d, created %s\n", l.Name, l.ID, v.durable.named(l.Name).number, l.Epoch, l.Created.Format(time.RFC3339Nano))
		if l.Holder != "" {
			fmt.Fprintf(out, "  writer %s, by request %s\n", l.Holder, v.durable.named(l.Name).acquired)
		}
		if !l.Sealed.IsZero() {
			fmt.Fprintf(out, "  sealed %s\n", l.Sealed.Format(time.RFC3339Nano))
		}
		if o := l.Options; o.QuotaBytes != 0 || o.MaxRecordBytes != 0 || len(o.Labels) > 0 || o.ColocationKey != "" {
			labels := crc32.NewIEEE()
			for _, k := range slices.Sorted(maps.Keys(o.Labels)) {
				fmt.Fprintf(labels, "%q=%q ", k, o.Labels[k])
			}
			fmt.Fprintf(out, "  options: quota %d, record %d, colocation key of %d bytes, %d labels %08x\n", o.QuotaBytes, o.MaxRecordBytes, len(o.ColocationKey), len(o.Labels), labels.Sum32())
		}
		fmt.Fprintf(out, "  records %d to %d: %d bytes live, log checksum %08x", l.First, l.Durable(), l.LiveBytes, uint32(l.Checksum))
		held := readRecords(t, v, l)
		sum := crc32.NewIEEE()
		for lsn := l.First; lsn < l.Next; lsn++ {
			rec, ok := held[lsn]
			if ok {
				fmt.Fprintf(sum, "%d %q ", lsn, rec)
			}
		}
		fmt.Fprintf(out, ", %d read, content %08x\n", len(held), sum.Sum32())
		for _, r := range l.Lost {
			fmt.Fprintf(out, "  lost %d to %d\n", r.First, r.Last)
		}
		writeCheckpoints(t, out, v, l.Name)
		writeCursors(t, out, v, l.Name)
		writeProducers(t, out, v, l, held)
	}
	return logs
}

// readRecords reads what can be read of a log. What cannot is said to be lost.
func readRecords(t *testing.T, v *Volume, l LogInfo) map[LSN]string {
	t.Helper()
	held := map[LSN]string{}
	for lsn := l.First; lsn < l.Next; {
		r, err := v.NewReader(l.Name, ReadOptions{From: lsn})
		if err == nil {
			for {
				var span Span
				if span, err = r.Next(context.Background()); err != nil {
					break
				}
				for rest := span.Run; len(rest) > 0; lsn++ {
					var rec []byte
					if rec, rest, err = records.Next(rest); err != nil {
						t.Fatal(err)
					}
					held[lsn] = string(rec)
				}
			}
			r.Close()
		}
		switch {
		case errors.Is(err, ErrDataLoss):
			lsn++
		case !errors.Is(err, io.EOF):
			t.Fatalf("read %q at LSN %d: %v", l.Name, lsn, err)
		}
	}
	return held
}

func writeCheckpoints(t *testing.T, out *strings.Builder, v *Volume, log string) {
	t.Helper()
	cps, err := v.Checkpoints(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, listed := range cps {
		state := "no state"
		cp, err := v.Checkpoint(t.Context(), log, listed.Name)
		switch {
		case errors.Is(err, ErrDataLoss):
			state = "its state is lost"
		case err != nil:
			t.Fatal(err)
		case len(cp.State) > 0:
			state = fmt.Sprintf("state %q", cp.State)
		}
		fmt.Fprintf(out, "  checkpoint %s: LSN %d, version %d, set %s, %s\n", listed.Name, listed.LSN, listed.Version, listed.SetAt.Format(time.RFC3339Nano), state)
	}
}

func writeCursors(t *testing.T, out *strings.Builder, v *Volume, log string) {
	t.Helper()
	cursors, err := v.Cursors(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cursors {
		fmt.Fprintf(out, "  cursor %s: LSN %d, cap %d, policy %d, %s, %d bytes in %d records, set %s", c.Name, c.LSN, c.Cap, c.Policy, c.State,
			c.LiveBytes, c.Records, c.SetAt.Format(time.RFC3339Nano))
		if c.State == CursorLost {
			fmt.Fprintf(out, ", evicted %s", c.EvictedAt.Format(time.RFC3339Nano))
		}
		out.WriteByte('\n')
	}
}

// writeProducers says what is remembered of each producer, after a retry of
// every batch whose records are still there was answered with it.
func writeProducers(t *testing.T, out *strings.Builder, v *Volume, l LogInfo, held map[LSN]string) {
	t.Helper()
	for _, p := range v.durable.named(l.Name).producers {
		sum := crc32.NewIEEE()
		retried := 0
		for q := p.last - p.kept() + 1; q <= p.last; q++ {
			b, known := p.recall(q)
			if !known {
				b.sequence = q
			}
			fmt.Fprintf(sum, "%d %d %d %08x %08x %d ", b.sequence, b.first, b.count, b.runSum, uint32(b.checksum), b.epoch)
			var recs []string
			for lsn := b.first; lsn < b.first+LSN(b.count); lsn++ {
				if rec, ok := held[lsn]; ok {
					recs = append(recs, rec)
				}
			}
			if v.readOnly != nil || len(recs) < int(b.count) || p.retired {
				continue
			}
			again := Batch{Sequence: b.sequence, Incarnation: p.incarnation, Run: run(recs...)}
			var parts []PartVerdict
			for _, part := range p.partsOf(q) {
				fmt.Fprintf(sum, "%d %d %d %08x %08x %d ", part.log, part.first, part.count, part.runSum, uint32(part.checksum), part.epoch)
				other := v.durable.logs.get(part.log)
				parts = append(parts, PartVerdict{Log: other.id, Name: other.name, First: part.first, Count: part.count, Checksum: part.checksum, Epoch: part.epoch})
				again.Parts = append(again.Parts, Part{Log: other.name, Run: run(readAll(t, v, other.name, part.first)[:part.count]...)})
			}
			got, err := v.Append(t.Context(), l.Name, p.id, 0, again)
			if err != nil || !got.Repeated || got.First != b.first || got.Count != b.count || got.Checksum != b.checksum || !slices.Equal(got.Parts, parts) {
				t.Errorf("log %q: a retry of batch %d of %s: %+v, %v", l.Name, b.sequence, p.id, got, err)
			}
			retried++
		}
		fmt.Fprintf(out, "  producer %s: %d batches, the last %d remembered %08x, %d retried, active at %d", p.id, p.last, p.kept(), sum.Sum32(), retried, p.active)
		if p.incarnation > 1 {
			fmt.Fprintf(out, ", incarnation %d", p.incarnation)
		}
		if p.retired {
			fmt.Fprint(out, ", retired")
		}
		fmt.Fprintln(out)
	}
}

// goesOn has the volume work on, and opens it once more: what was there is there.
func goesOn(t *testing.T, fs disk.FS, v *Volume, logs []LogInfo) {
	t.Helper()
	if len(logs) == 0 {
		logs = []LogInfo{mustCreate(t, v, "orders")}
	}
	logs = logs[:min(len(logs), 5)]
	before := map[string]map[LSN]string{}
	for _, l := range logs { // all of them, before a checkpoint of one lets records of others go
		before[l.Name] = readRecords(t, v, l)
	}
	for i, l := range logs {
		rec := fmt.Sprintf("one more %d", i)
		switch got, err := v.Append(t.Context(), l.Name, ulid.ULID{}, l.Epoch, Batch{Expected: l.Next, Run: run(rec)}); {
		case !l.Sealed.IsZero():
			wantSealed(t, err, l.Next)
		case err != nil:
			t.Fatalf("append to %q: %+v, %v", l.Name, got, err)
		default:
			before[l.Name][l.Next] = rec
		}
		mustCheckpoint(t, v, l.Name, "one-more", l.Durable(), "state")
	}
	closeTest(t, v)
	v, err := Open(t.Context(), "/vol", Options{FS: fs, PrepareRate: -1, Codec: "none"})
	if err != nil {
		t.Fatalf("open it again: %v", err)
	}
	v.janitor.stop() // or it gives up what is below the checkpoints between two looks
	for name, want := range before {
		l, err := v.Log(name)
		if err != nil {
			t.Fatal(err)
		}
		// What lies below its checkpoints may be given up by now.
		maps.DeleteFunc(want, func(lsn LSN, _ string) bool { return lsn < l.First })
		if got := readRecords(t, v, l); !maps.Equal(got, want) {
			t.Errorf("log %q has %d records, want %d", name, len(got), len(want))
		}
		cp := l.Durable()
		if l.Sealed.IsZero() {
			cp--
		}
		wantState(t, v, name, "one-more", cp, "state")
	}
	closeTest(t, v)
}

// pack writes files as an archive, in the order of their names.
func pack(t *testing.T, path string, files map[string][]byte) {
	t.Helper()
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, buf.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// unpack is the inverse of pack.
func unpack(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}
