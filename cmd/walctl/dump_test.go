package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
	"github.com/walsvc/walsvc/segment"
	"github.com/walsvc/walsvc/wal"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files instead of comparing with them")

// golden compares with a file in testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (look at it, then go test -rewrite):\n%s", name, got)
	}
}

// fixedVolume makes a volume that is the same in every run, with a command of
// each kind, by way of the journal: a wal.Volume has its own ideas about time.
func fixedVolume(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "volume")
	const epoch = 1_700_000_000_000_000_000
	o := segment.Options{
		FS: disk.OS(disk.OSOptions{}), Dir: dir, SegmentSize: limits.MinSegmentSize, PrepareRate: -1,
		Rand: rand.NewChaCha8([32]byte{7}), Now: func() int64 { return epoch },
	}
	if err := segment.Create(o); err != nil {
		t.Fatal(err)
	}
	j, err := segment.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := j.Resume(segment.Resume{}); err != nil {
		t.Fatal(err)
	}

	sequence := int64(0)
	write := func(kind segment.Kind, c codec.Codec, raw []byte, commands ...wal.Command) {
		d := segment.Draft{Kind: kind, Time: epoch + sequence*1_500_000}
		sequence++
		for i := range commands {
			d.Meta = wal.AppendCommand(d.Meta, &commands[i])
		}
		if raw != nil {
			stored := raw
			if c == codec.S2 {
				stored = literalS2(raw)
			}
			d.Blocks = []segment.Block{{
				Codec: c, RawSize: uint32(len(raw)), Checksum: crc32.Checksum(stored, crc32.MakeTable(crc32.Castagnoli)), Stored: stored,
			}}
		}
		if _, err := j.Append(&d); err != nil {
			t.Fatal(err)
		}
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	run := func(n int) (b []byte) {
		for i := range n {
			b = records.Append(b, fmt.Appendf(nil, `{"id":%d,"name":"walsvc"}`, i))
		}
		return b
	}
	id := func(n byte) (u ulid.ULID) {
		u[15] = n
		return u
	}
	three, hundred := run(3), run(100)
	sum := func(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
	whole := func(b []byte) wal.Place { return wal.Place{Size: uint32(len(b))} }
	write(segment.KindCommands, 0, nil,
		wal.Command{Kind: wal.CommandCreateLog, Log: 1, Name: "orders", ID: id(1), Time: epoch},
		wal.Command{Kind: wal.CommandCreateLog, Log: 2, Name: "users", ID: id(2), Time: epoch},
		wal.Command{Kind: wal.CommandCreateLog, Log: 3, Name: "data", ID: id(4), Time: epoch, Options: wal.LogOptions{ColocationKey: "engine"}},
		wal.Command{Kind: wal.CommandCreateLog, Log: 4, Name: "index", ID: id(5), Time: epoch, Options: wal.LogOptions{ColocationKey: "engine"}},
		wal.Command{Kind: wal.CommandOpenProducer, Log: 1, Producer: id(9)})
	write(segment.KindCommands, codec.None, three,
		wal.Command{Kind: wal.CommandAppend, Log: 1, Epoch: 1, Slot: 1, Sequence: 1, First: 1, Count: 3, RunSum: sum(three), Checksum: wal.Checksum(sum(three)), Place: whole(three)})
	write(segment.KindCommands, codec.S2, hundred,
		wal.Command{Kind: wal.CommandAppend, Log: 2, Epoch: 1, First: 1, Count: 100, RunSum: sum(hundred), Checksum: wal.Checksum(sum(hundred)), Place: whole(hundred)})
	write(segment.KindPromise, 0, nil)
	write(segment.KindCommands, codec.None, []byte("engine"),
		wal.Command{Kind: wal.CommandSetCheckpoint, Log: 2, Name: "nightly", LSN: 60, Version: 1, Time: epoch, RunSum: sum([]byte("engine")), Place: wal.Place{Size: 6}},
		wal.Command{Kind: wal.CommandMoveCheckpoint, Log: 2, Name: "nightly", Version: 1, Place: wal.Place{Size: 6}},
		wal.Command{Kind: wal.CommandTruncate, Log: 2, First: 51},
		wal.Command{Kind: wal.CommandDeleteCheckpoint, Log: 2, Name: "nightly"},
		wal.Command{Kind: wal.CommandSetWriter, Log: 2, Epoch: 2, Name: "db-1", ID: id(3)},
		wal.Command{Kind: wal.CommandSetWriter, Log: 2, Epoch: 3},
		wal.Command{Kind: wal.CommandSetCursor, Log: 2, Name: "reader", LSN: 60, Cap: 100, Time: epoch},
		wal.Command{Kind: wal.CommandEvictCursor, Log: 2, Name: "reader", LSN: 60, Cap: 100, Time: epoch},
		wal.Command{Kind: wal.CommandDeleteCursor, Log: 2, Name: "reader"},
		wal.Command{Kind: wal.CommandResolveProducer, Log: 1, Producer: id(9), Incarnation: 2},
		wal.Command{Kind: wal.CommandRetireProducer, Log: 1, Producer: id(9)},
		wal.Command{Kind: wal.CommandSealLog, Log: 2, Epoch: 3, First: 101, Checksum: wal.Checksum(sum(hundred)), Start: uint64(len(hundred)), Time: epoch},
		wal.Command{Kind: wal.CommandDeleteLog, Log: 1})
	write(segment.KindPromise, 0, nil)
	write(segment.KindCommands, codec.None, three,
		wal.Command{Kind: wal.CommandAppend, Log: 3, Epoch: 1, First: 1, Count: 3, RunSum: sum(three), Checksum: wal.Checksum(sum(three)), Place: whole(three), Parts: 1},
		wal.Command{Kind: wal.CommandAppendPart, Log: 4, Lead: 3, Epoch: 1, First: 1, Count: 3, RunSum: sum(three), Checksum: wal.Checksum(sum(three)), Place: whole(three)})
	write(segment.KindPromise, 0, nil)
	return dir
}

// literalS2 spells bytes as an S2 block without compressing them: what an
// encoder makes of them differs from one processor to another.
func literalS2(raw []byte) []byte {
	b := binary.AppendUvarint(nil, uint64(len(raw)))
	b = append(b, 61<<2) // a literal whose length follows in two bytes
	b = binary.LittleEndian.AppendUint16(b, uint16(len(raw)-1))
	return append(b, raw...)
}

func TestDumpGolden(t *testing.T) {
	dir := fixedVolume(t)
	for _, tc := range []struct {
		file string
		args []string
	}{
		{"dump-frames.txt", []string{"--frames"}},
		{"dump-commands.txt", []string{"--commands"}},
		{"dump-both.txt", []string{"--frames", "--commands", "--limit", "3"}},
		{"dump-stats.txt", nil},
		{"dump-frames.json", []string{"--frames", "-o", "json", "--from", "0000000000000001/00003000"}},
		{"dump-commands.json", []string{"--commands", "-o", "json"}},
		{"dump-stats.json", []string{"--stats", "-o", "json"}},
	} {
		t.Run(tc.file, func(t *testing.T) {
			stdout, stderr, code := invoke(t.Context(), append([]string{"dump", dir}, tc.args...)...)
			if code != exitOK || stderr != "" {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			if strings.Contains(tc.file, "json") && !strings.Contains(tc.file, "stats") {
				for line := range strings.Lines(stdout) {
					if !json.Valid([]byte(line)) {
						t.Errorf("no JSON: %s", line)
					}
				}
			}
			golden(t, tc.file, strings.ReplaceAll(stdout, dir, "VOLUME"))
		})
	}
}

func TestDumpRefusals(t *testing.T) {
	dir := fixedVolume(t)
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"bad position", []string{dir, "--from", "12"}, exitUsage, "segment/offset in hexadecimal"},
		{"negative limit", []string{dir, "--limit", "-1"}, exitUsage, "--limit -1"},
		{"two kinds of JSON", []string{dir, "--stats", "--frames", "-o", "json"}, exitUsage, "ask for one of them"},
		{"no volume", []string{t.TempDir()}, exitNotFound, "next: name the directory"},
		{"no directory", []string{}, exitUsage, "walctl dump DIR"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, stderr, code := invoke(t.Context(), append([]string{"dump"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.says) {
				t.Errorf("exit %d, want %d; said %q, want %q", code, tc.code, stderr, tc.says)
			}
		})
	}
}
