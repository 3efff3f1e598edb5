package segment

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/codec"
	"github.com/walsvc/walsvc/internal/limits"
)

// A field is a row of a table in docs/format.md, or what the code says of it.
type field struct {
	name         string
	offset, size int
}

// layouts are the structures on disk as the code has them, under the headings
// of docs/format.md.
var layouts = map[string]struct {
	size   int
	fields []field
}{
	"VOLUME file": {volSize, []field{
		{"magic", volMagic, 8}, {"version", volVersion, 4}, {"reserved", volReserved0, 4}, {"volume", volVolume, 16},
		{"segment size", volSegmentSize, 8}, {"created", volCreated, 8}, {"reserved", volReserved1, 12}, {"checksum", volChecksum, 4},
	}},
	"Segment header": {limits.SegmentHeaderSize, []field{
		{"magic", segMagic, 8}, {"version", segVersion, 4}, {"reserved", segReserved0, 4}, {"volume", segVolume, 16},
		{"segment ID", segID, 8}, {"salt", segSalt, 16}, {"size", segSize, 8}, {"created", segCreated, 8},
		{"cut end segment", segCutEndID, 8}, {"cut end offset", segCutEndOffset, 8},
		{"cut last segment", segCutLastID, 8}, {"cut last offset", segCutLastOffset, 8},
		{"cut sequence", segCutSequence, 8}, {"cut time", segCutTime, 8}, {"cut chain", segCutChain, 4},
		{"reserved", segReserved1, 4}, {"snapshot", segSnapshot, refSize}, {"older snapshot", segOlder, refSize},
		{"reserved", segReserved2, 3900}, {"checksum", segChecksum, 4},
	}},
	"Frame reference": {refSize, []field{
		{"segment ID", refID, 8}, {"offset", refOffset, 8}, {"sequence", refSequence, 8}, {"chain", refChain, 4}, {"reserved", refReserved, 4},
	}},
	"Frame header": {limits.FrameHeaderSize, []field{
		{"magic", frmMagic, 4}, {"version", frmVersion, 2}, {"kind", frmKind, 1}, {"flags", frmFlags, 1},
		{"sequence", frmSequence, 8}, {"promise", frmPromise, 8}, {"term", frmTerm, 8}, {"index", frmIndex, 8},
		{"time", frmTime, 8}, {"chain", frmChain, 4}, {"directory size", frmDirectorySize, 4},
		{"directory checksum", frmDirectorySum, 4}, {"blocks size", frmBlocksSize, 4}, {"blocks raw size", frmBlocksRawSize, 4},
		{"block count", frmBlockCount, 4}, {"reserved", frmReserved, 52}, {"checksum", frmChecksum, 4},
	}},
	"Note of dead space": {noteSize, []field{
		{"magic", noteMagic, 8}, {"offset", noteOffset, 8}, {"reserved", noteReserved, 44}, {"checksum", noteChecksum, 4},
	}},
	"Gap": {limits.BlockSize, []field{
		{"magic", gapMagic, 8}, {"version", gapVersion, 4}, {"reserved", gapReserved0, 4}, {"from", gapFrom, 8}, {"to", gapTo, 8},
		{"header checksum", gapHeaderSum, 4}, {"reserved", gapReserved1, 4056}, {"checksum", gapChecksum, 4},
	}},
	"Block table entry": {blkSize, []field{
		{"codec", blkCodec, 1}, {"version", blkVersion, 1}, {"key ID", blkKeyID, 2}, {"stored size", blkStoredSize, 4},
		{"raw size", blkRawSize, 4}, {"checksum", blkChecksum, 4},
	}},
}

// tables reads the byte tables of docs/format.md, by heading.
func tables(t *testing.T) map[string][]field {
	b, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	found, heading := map[string][]field{}, ""
	for line := range strings.Lines(string(b)) {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(h)
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			continue
		}
		offset, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil {
			continue // a head, a rule, or a table of something else
		}
		size, err := strconv.Atoi(strings.TrimSpace(cells[2]))
		if err != nil {
			t.Fatalf("%s: %q", heading, line)
		}
		found[heading] = append(found[heading], field{strings.TrimSpace(cells[3]), offset, size})
	}
	return found
}

// TestFormatDocument compares docs/format.md with the code, and both with the
// rule that every byte of a structure is accounted for.
func TestFormatDocument(t *testing.T) {
	found := tables(t)
	for heading, want := range layouts {
		rows := found[heading]
		if len(rows) != len(want.fields) {
			t.Errorf("%s: %d rows, the code has %d fields", heading, len(rows), len(want.fields))
			continue
		}
		at := 0
		for i, row := range rows {
			if row != want.fields[i] {
				t.Errorf("%s: row %+v, the code has %+v", heading, row, want.fields[i])
			}
			if row.offset != at {
				t.Errorf("%s: %s begins at %d, the field before ends at %d", heading, row.name, row.offset, at)
			}
			at = row.offset + row.size
		}
		if at != want.size {
			t.Errorf("%s: the table ends at %d, the structure at %d", heading, at, want.size)
		}
		delete(found, heading)
	}
	for heading := range found {
		t.Errorf("%s: a table of nothing in the code", heading)
	}
}

// wantBytes checks that each field of an encoded structure holds what it
// should, little-endian, where the layout says.
func wantBytes(t *testing.T, heading string, b []byte, values map[string]any) {
	t.Helper()
	for _, f := range layouts[heading].fields {
		got := b[f.offset : f.offset+f.size]
		var want []byte
		switch v := values[f.name].(type) {
		case nil:
			want = make([]byte, f.size)
		case string:
			want = []byte(v)
		case []byte:
			want = v
		case uint64:
			want = binary.LittleEndian.AppendUint64(nil, v)[:f.size]
		}
		if string(got) != string(want) {
			t.Errorf("%s: %s is %x, want %x", heading, f.name, got, want)
		}
	}
}

func sampleVolume() *volumeFile {
	return &volumeFile{version: 1, volume: ulid.ULID{1, 2, 3, 15: 9}, segmentSize: 1 << 20, created: 77}
}

func sampleSegment() *SegmentHeader {
	return &SegmentHeader{
		Version: 1, Volume: ulid.ULID{1, 2, 3, 15: 9}, ID: 42, Salt: [16]byte{7, 7, 15: 8}, Size: 1 << 20, Created: 99,
		Cut:           Cut{End: Pos{41, 8192}, Last: Pos{41, 4096}, Sequence: 1000, Chain: 0xabcdef01, Time: 55},
		Snapshot:      FrameRef{Pos: Pos{40, 4096}, Sequence: 900, Chain: 0x11223344},
		OlderSnapshot: FrameRef{Pos: Pos{30, 8192}, Sequence: 800, Chain: 0x55667788},
	}
}

func sampleGap() *gapFile {
	return &gapFile{Gap: Gap{From: 42, To: 45}, header: sampleSegment()}
}

func sampleFrame() (*Header, []byte) {
	dir := appendDirectory(nil, []Block{
		{Codec: codec.Zstd, RawSize: 500, Checksum: 0xdeadbeef, Stored: make([]byte, 300)},
		{Codec: codec.None, RawSize: 100, Checksum: 0xfeedface, Stored: make([]byte, 100)},
	}, []byte("meta"))
	return &Header{
		Version: 1, Kind: KindSnapshot, Chain: 0x01020304, Sequence: 1001, Promise: 1000, Term: 5, Index: 6, Time: 60,
		DirectorySize: uint32(len(dir)), DirectorySum: checksum(dir), BlocksSize: 400, BlocksRawSize: 600, BlockCount: 2,
	}, dir
}

// TestFormatBytes pins where each field lies.
func TestFormatBytes(t *testing.T) {
	v := sampleVolume()
	b := v.encode()
	wantBytes(t, "VOLUME file", b, map[string]any{
		"magic": volumeMagic, "version": uint64(1), "volume": v.volume[:], "segment size": uint64(v.segmentSize),
		"created": uint64(77), "checksum": uint64(checksum(b[:volChecksum])),
	})

	s := sampleSegment()
	b = make([]byte, limits.SegmentHeaderSize)
	s.encode(b)
	ref := make([]byte, refSize)
	older := make([]byte, refSize)
	s.Snapshot.encode(ref)
	s.OlderSnapshot.encode(older)
	wantBytes(t, "Segment header", b, map[string]any{
		"magic": segmentMagic, "version": uint64(1), "volume": s.Volume[:], "segment ID": uint64(42), "salt": s.Salt[:],
		"size": uint64(1 << 20), "created": uint64(99), "cut end segment": uint64(41), "cut end offset": uint64(8192),
		"cut last segment": uint64(41), "cut last offset": uint64(4096), "cut sequence": uint64(1000), "cut time": uint64(55),
		"cut chain": uint64(0xabcdef01), "snapshot": ref, "older snapshot": older, "checksum": uint64(checksum(b[:segChecksum])),
	})
	wantBytes(t, "Frame reference", ref, map[string]any{
		"segment ID": uint64(40), "offset": uint64(4096), "sequence": uint64(900), "chain": uint64(0x11223344),
	})

	header := b
	b = sampleGap().encode()
	if !bytes.Equal(b[:limits.SegmentHeaderSize], header) {
		t.Error("a gap does not begin with the header")
	}
	b = b[limits.SegmentHeaderSize:]
	wantBytes(t, "Gap", b, map[string]any{
		"magic": "WALGAP\r\n", "version": uint64(1), "from": uint64(42), "to": uint64(45),
		"header checksum": uint64(checksum(header[:segChecksum])), "checksum": uint64(checksum(b[:gapChecksum])),
	})

	h, dir := sampleFrame()
	b = make([]byte, limits.FrameHeaderSize)
	h.encode(b, s.life(), 8192)
	identity := append(append([]byte{}, s.Volume[:]...), binary.LittleEndian.AppendUint64(nil, 42)...)
	identity = append(identity, s.Salt[:]...)
	identity = binary.LittleEndian.AppendUint64(identity, 8192)
	wantBytes(t, "Frame header", b, map[string]any{
		"magic": "WFRM", "version": uint64(1), "kind": uint64(2), "sequence": uint64(1001), "promise": uint64(1000),
		"term": uint64(5), "index": uint64(6), "time": uint64(60), "chain": uint64(0x01020304),
		"directory size": uint64(len(dir)), "directory checksum": uint64(checksum(dir)), "blocks size": uint64(400),
		"blocks raw size": uint64(600), "block count": uint64(2),
		"checksum": uint64(checksum(append(identity, b[:frmChecksum]...))),
	})
	wantBytes(t, "Block table entry", dir, map[string]any{
		"codec": uint64(2), "version": uint64(1), "stored size": uint64(300), "raw size": uint64(500), "checksum": uint64(0xdeadbeef),
	})
}
