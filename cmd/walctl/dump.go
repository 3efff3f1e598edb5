package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/segment"
	"github.com/walsvc/walsvc/wal"
)

// explainVolume gives an error about a volume's directory its next step.
func explainVolume(err error) error {
	switch {
	case errors.Is(err, wal.ErrNoVolume):
		return &failure{code: exitNotFound, err: err, next: "name the directory that walsvc was started with (--data); look whether its disk is mounted"}
	case errors.Is(err, segment.ErrBadName): // walsvc does not open it either, and no repair mends that
		return &failure{code: exitFailed, err: err, next: "find out where that file comes from, and move it out of the directory if it is not walsvc's"}
	case errors.Is(err, syscall.ENOTDIR):
		return &failure{code: exitUsage, err: err, next: "name the directory of a volume, not a file in it"}
	case errors.Is(err, fs.ErrPermission):
		return &failure{code: exitFailed, err: err, next: "run walctl as the user that walsvc runs as: the files of a volume are that one's alone"}
	case errors.Is(err, wal.ErrVersion):
		return &failure{code: exitFailed, err: err, next: "use the walctl of the walsvc that wrote it, or a newer one"}
	}
	return err
}

// dumpFrame is a frame as `walctl dump --frames -o json` prints it, on a line.
type dumpFrame struct {
	Pos      string        `json:"pos"`
	Sequence uint64        `json:"sequence"`
	Kind     string        `json:"kind"`
	Promise  uint64        `json:"promise"`
	Time     time.Time     `json:"time"`
	Size     int64         `json:"size"`
	Blocks   []dumpBlock   `json:"blocks"`
	Snapshot *dumpSnapshot `json:"snapshot,omitempty"`
	Commands []dumpCommand `json:"commands,omitempty"`
}

type dumpBlock struct {
	Codec  string `json:"codec"`
	Raw    uint32 `json:"raw"`
	Stored uint32 `json:"stored"`
	Bad    string `json:"bad,omitempty"`
}

type dumpSnapshot struct {
	Cut  string `json:"cut"`
	Part uint64 `json:"part"`
	Last bool   `json:"last"`
}

// dumpCommand is one command; which keys are there depends on its kind.
type dumpCommand struct {
	Kind       string     `json:"kind"`
	Log        string     `json:"log"`
	Number     uint64     `json:"number"`
	ID         string     `json:"id,omitempty"`
	Checkpoint string     `json:"checkpoint,omitempty"`
	Version    uint64     `json:"version,omitempty"`
	Producer   string     `json:"producer,omitempty"`
	Slot       uint64     `json:"slot,omitempty"`
	Sequence   uint64     `json:"producer_sequence,omitempty"`
	Parts      uint32     `json:"parts,omitempty"`
	Lead       string     `json:"lead,omitempty"`
	Epoch      uint64     `json:"epoch,omitempty"`
	Holder     string     `json:"holder,omitempty"`
	Cursor     string     `json:"cursor,omitempty"`
	Cap        uint64     `json:"cap,omitempty"`
	FirstLSN   uint64     `json:"first_lsn,omitempty"`
	LastLSN    uint64     `json:"last_lsn,omitempty"`
	Checksum   string     `json:"checksum,omitempty"`
	Time       *time.Time `json:"time,omitempty"`
	Block      *uint32    `json:"block,omitempty"`
	Offset     *uint32    `json:"offset,omitempty"`
	Size       *uint32    `json:"size,omitempty"`
}

func newDumpFrame(f *wal.DumpedFrame, commands bool) dumpFrame {
	d := dumpFrame{
		Pos: f.Pos.String(), Sequence: f.Header.Sequence, Kind: f.Header.Kind.String(), Promise: f.Header.Promise,
		Time: time.Unix(0, f.Header.Time).UTC(), Size: f.Header.Size(), Blocks: []dumpBlock{},
	}
	for i, b := range f.Blocks {
		block := dumpBlock{Codec: b.Codec.String(), Raw: b.RawSize, Stored: b.StoredSize}
		if err := f.BadBlock(i); err != nil {
			block.Bad = err.Error()
		}
		d.Blocks = append(d.Blocks, block)
	}
	if s := f.Snapshot; s != nil {
		d.Snapshot = &dumpSnapshot{s.Cut.String(), s.Part, s.Last}
	}
	if commands {
		for i := range f.Commands {
			d.Commands = append(d.Commands, describeCommand(&f.Commands[i], f.Name))
		}
	}
	return d
}

func describeCommand(c *wal.Command, name func(uint64) string) dumpCommand {
	d := dumpCommand{Kind: c.Kind.String(), Log: name(c.Log), Number: c.Log}
	at := time.Unix(0, c.Time).UTC()
	switch c.Kind {
	case wal.CommandCreateLog:
		d.ID, d.Time = c.ID.String(), &at
	case wal.CommandOpenProducer, wal.CommandRetireProducer, wal.CommandResolveProducer:
		d.Producer = c.Producer.String()
	case wal.CommandAppend, wal.CommandAppendPart:
		d.Epoch, d.Slot, d.Sequence = uint64(c.Epoch), c.Slot, c.Sequence
		d.FirstLSN, d.LastLSN, d.Checksum = uint64(c.First), uint64(c.Last()), fmt.Sprintf("%08x", uint32(c.Checksum))
		d.Block, d.Offset, d.Size = &c.Block, &c.Offset, &c.Size
		if d.Parts = c.Parts; c.Lead != 0 {
			d.Lead = name(c.Lead)
		}
	case wal.CommandMoveRecords:
		d.Epoch, d.FirstLSN, d.LastLSN, d.Time = uint64(c.Epoch), uint64(c.First), uint64(c.Last()), &at
		d.Checksum = fmt.Sprintf("%08x", uint32(c.Checksum))
		d.Block, d.Offset, d.Size = &c.Block, &c.Offset, &c.Size
	case wal.CommandSetCheckpoint:
		d.Checkpoint, d.LastLSN, d.Version, d.Time = c.Name, uint64(c.LSN), c.Version, &at
		d.Block, d.Offset, d.Size = &c.Block, &c.Offset, &c.Size
	case wal.CommandMoveCheckpoint:
		d.Checkpoint, d.Version = c.Name, c.Version
		d.Block, d.Offset, d.Size = &c.Block, &c.Offset, &c.Size
	case wal.CommandDeleteCheckpoint:
		d.Checkpoint = c.Name
	case wal.CommandTruncate:
		d.FirstLSN = uint64(c.First)
	case wal.CommandSetWriter:
		d.Epoch, d.Holder = uint64(c.Epoch), c.Name
	case wal.CommandRewind:
		d.Epoch, d.Holder, d.LastLSN, d.Checksum = uint64(c.Epoch), c.Name, uint64(c.LSN), fmt.Sprintf("%08x", uint32(c.Checksum))
	case wal.CommandSealLog:
		d.Epoch, d.LastLSN, d.Checksum, d.Time = uint64(c.Epoch), uint64(c.First-1), fmt.Sprintf("%08x", uint32(c.Checksum)), &at
	case wal.CommandSetCursor, wal.CommandEvictCursor:
		d.Cursor, d.LastLSN, d.Cap, d.Time = c.Name, uint64(c.LSN), c.Cap, &at
	case wal.CommandDeleteCursor:
		d.Cursor = c.Name
	}
	return d
}

// String spells a command as one line of the text form, without indentation.
func (d dumpCommand) String() string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%-17s  %s", d.Kind, d.Log)
	switch {
	case d.Kind == wal.CommandSetWriter.String():
		fmt.Fprintf(b, "  epoch %d", d.Epoch)
		if d.Holder == "" {
			b.WriteString("  without a writer")
		} else {
			fmt.Fprintf(b, "  %q", d.Holder)
		}
	case d.Kind == wal.CommandRewind.String():
		fmt.Fprintf(b, "  behind LSN %d  epoch %d  checksum %s", d.LastLSN, d.Epoch, d.Checksum)
		if d.Holder != "" {
			fmt.Fprintf(b, "  %q", d.Holder)
		}
	case d.Kind == wal.CommandSealLog.String():
		fmt.Fprintf(b, "  behind LSN %d  epoch %d  checksum %s", d.LastLSN, d.Epoch, d.Checksum)
	case d.Kind == wal.CommandTruncate.String():
		fmt.Fprintf(b, "  first %d", d.FirstLSN)
	case d.Cursor != "":
		fmt.Fprintf(b, "  %q", d.Cursor)
		if d.Cap != 0 {
			fmt.Fprintf(b, "  LSN %d  cap %s", d.LastLSN, size(d.Cap))
		}
	case d.Checkpoint != "":
		fmt.Fprintf(b, "  %q", d.Checkpoint)
		if d.Version != 0 {
			fmt.Fprintf(b, "  version %d", d.Version)
		}
		if d.Kind == wal.CommandSetCheckpoint.String() {
			fmt.Fprintf(b, "  LSN %d", d.LastLSN)
		}
	case d.FirstLSN != 0:
		fmt.Fprintf(b, "  LSN %d-%d  epoch %d  checksum %s", d.FirstLSN, d.LastLSN, d.Epoch, d.Checksum)
		if d.Slot != 0 {
			fmt.Fprintf(b, "  producer %d/%d", d.Slot, d.Sequence)
		}
		switch {
		case d.Parts == 1:
			b.WriteString("  leads 1 part")
		case d.Parts > 0:
			fmt.Fprintf(b, "  leads %d parts", d.Parts)
		case d.Lead != "":
			fmt.Fprintf(b, "  with %s", d.Lead)
		}
	case d.Producer != "":
		fmt.Fprintf(b, "  %s", d.Producer)
	case d.ID != "":
		fmt.Fprintf(b, "  number %d  %s", d.Number, d.ID)
	}
	if d.Size != nil {
		fmt.Fprintf(b, "  block %d+%d  %s", *d.Block, *d.Offset, size(*d.Size))
	}
	return b.String()
}

// String spells a frame as one line of the text form.
func (d dumpFrame) String() string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s  %8d  %-8s  promise %-8d  %s  %9s", d.Pos, d.Sequence, d.Kind, d.Promise,
		d.Time.Format("2006-01-02T15:04:05.000000Z"), size(d.Size))
	if s := d.Snapshot; s != nil {
		fmt.Fprintf(b, "  part %d of the state before %s", s.Part, s.Cut)
		if s.Last {
			b.WriteString(", the last")
		}
	}
	for _, c := range d.Blocks {
		fmt.Fprintf(b, "  %s %d>%d", c.Codec, c.Raw, c.Stored)
		if c.Bad != "" {
			b.WriteString(" BAD")
		}
	}
	return b.String()
}

// dumpStats sums a volume up; it is what `walctl dump` prints by default.
type dumpStats struct {
	Dir          string           `json:"dir"`
	Verdict      string           `json:"verdict,omitempty"`
	First        string           `json:"first"`
	Last         string           `json:"last"`
	FirstTime    time.Time        `json:"first_time"`
	LastTime     time.Time        `json:"last_time"`
	Segments     int              `json:"segments"`
	Frames       map[string]int64 `json:"frames"`
	FrameBytes   int64            `json:"frame_bytes"`
	PaddingBytes int64            `json:"padding_bytes"`
	Blocks       map[string]int64 `json:"blocks"`
	BadBlocks    int64            `json:"bad_blocks"`
	RawBytes     int64            `json:"raw_bytes"`
	StoredBytes  int64            `json:"stored_bytes"`
	Compression  float64          `json:"compression_ratio"`
	Commands     map[string]int64 `json:"commands"`
	Records      int64            `json:"records"`
	PerFrame     float64          `json:"records_per_frame"`
	Logs         []dumpLog        `json:"logs"`

	segment segment.ID
	logs    map[uint64]*dumpLog
}

type dumpLog struct {
	Log      string `json:"log"`
	Batches  int64  `json:"batches"`
	Records  int64  `json:"records"`
	Bytes    int64  `json:"bytes"`
	FirstLSN uint64 `json:"first_lsn"`
	LastLSN  uint64 `json:"last_lsn"`
}

func newDumpStats(dir string) *dumpStats {
	return &dumpStats{Dir: dir, Frames: map[string]int64{}, Blocks: map[string]int64{}, Commands: map[string]int64{}, Logs: []dumpLog{}, logs: map[uint64]*dumpLog{}}
}

func (s *dumpStats) add(f *wal.DumpedFrame) {
	if s.First == "" {
		s.First, s.FirstTime = f.Pos.String(), time.Unix(0, f.Header.Time).UTC()
	}
	s.Last, s.LastTime = f.Pos.String(), time.Unix(0, f.Header.Time).UTC()
	if f.Pos.Segment != s.segment {
		s.segment = f.Pos.Segment
		s.Segments++
	}
	s.Frames[f.Header.Kind.String()]++
	s.FrameBytes += f.Header.Size()
	s.PaddingBytes += f.Header.Size() - int64(f.Header.DirectorySize) - int64(f.Header.BlocksSize)
	for i, b := range f.Blocks {
		s.Blocks[b.Codec.String()]++
		s.RawBytes += int64(b.RawSize)
		s.StoredBytes += int64(b.StoredSize)
		if f.BadBlock(i) != nil {
			s.BadBlocks++
		}
	}
	for i := range f.Commands {
		c := &f.Commands[i]
		s.Commands[c.Kind.String()]++
		if !c.Appends() {
			continue
		}
		l := s.logs[c.Log]
		if l == nil {
			l = &dumpLog{Log: f.Name(c.Log), FirstLSN: uint64(c.First)}
			s.logs[c.Log] = l
		}
		l.Batches++
		l.Records += int64(c.Count)
		l.Bytes += int64(c.Size)
		l.LastLSN = uint64(c.Last())
		s.Records += int64(c.Count)
	}
}

// finish derives what follows from the sums.
func (s *dumpStats) finish() {
	if s.StoredBytes > 0 {
		s.Compression = float64(s.RawBytes) / float64(s.StoredBytes)
	}
	if n := s.Frames[segment.KindCommands.String()]; n > 0 {
		s.PerFrame = float64(s.Records) / float64(n)
	}
	for _, number := range slices.Sorted(maps.Keys(s.logs)) {
		s.Logs = append(s.Logs, *s.logs[number])
	}
}

// maxLogRows is how many logs a table shows; JSON has them all.
const maxLogRows = 20

func (s *dumpStats) tables() []grid {
	counts := func(m map[string]int64) string {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, fmt.Sprintf("%s %s", grouped(uint64(m[k])), k))
		}
		return strings.Join(parts, ", ")
	}
	summary := grid{rows: [][]any{
		{"volume", s.Dir},
		{"from", fmt.Sprintf("%s  %s", s.First, s.FirstTime.Format(time.RFC3339Nano))},
		{"to", fmt.Sprintf("%s  %s", s.Last, s.LastTime.Format(time.RFC3339Nano))},
		{"segments", s.Segments},
		{"frames", fmt.Sprintf("%s; %s, of which %s is padding and headers", counts(s.Frames), size(s.FrameBytes), size(s.PaddingBytes))},
		{"blocks", fmt.Sprintf("%s; %s stored as %s (%.1fx)", counts(s.Blocks), size(s.RawBytes), size(s.StoredBytes), s.Compression)},
		{"commands", counts(s.Commands)},
		{"records", fmt.Sprintf("%s, %.1f a frame", grouped(uint64(s.Records)), s.PerFrame)},
	}}
	if s.BadBlocks > 0 {
		summary.rows = append(summary.rows, []any{"bad blocks", mood{grouped(uint64(s.BadBlocks)), true}})
	}
	if s.Verdict != "" {
		summary.rows = append(summary.rows, []any{"verdict", mood{s.Verdict, s.Verdict == "damaged"}})
	}
	logs := grid{title: "Logs", head: []string{"log", "batches", "records", "bytes", "LSNs"}, empty: "Nothing was appended."}
	byBytes := slices.SortedFunc(slices.Values(s.Logs), func(a, b dumpLog) int { return int(b.Bytes - a.Bytes) })
	for i, l := range byBytes {
		if i == maxLogRows {
			logs.title = fmt.Sprintf("Logs (the largest %d of %d)", maxLogRows, len(byBytes))
			break
		}
		logs.rows = append(logs.rows, []any{l.Log, uint64(l.Batches), uint64(l.Records), size(l.Bytes), fmt.Sprintf("%d-%d", l.FirstLSN, l.LastLSN)})
	}
	return []grid{summary, logs}
}

func newDumpCommand(g *globals) *cobra.Command {
	var (
		frames, commands, stats bool
		from                    string
		limit                   int
	)
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "Show what lies in a volume: frames, commands, statistics",
		Long: `Show the frames of the volume in DIR (--frames), the commands in them
(--commands), or statistics over them (--stats, the default). Nothing is written
and no lock is taken: the volume may be in use.

A position is a segment and an offset in it, both hexadecimal. A block is shown
as codec, raw bytes > stored bytes.

JSON, one object per line for --frames and --commands: pos, sequence, kind, promise,
time, size, blocks [] of codec, raw, stored and, of one that does not verify, bad (why),
and, where there are any, snapshot {cut, part, last} and commands [], each with kind,
log, number and those that its kind has: id, checkpoint, version, producer, slot,
producer_sequence, parts, lead, epoch, holder, cursor, cap, first_lsn, last_lsn,
checksum, time, and block, offset and size of its bytes.

JSON of --stats, one object: dir, verdict, first and last (positions), first_time,
last_time, segments, frames {} and commands {} (how many of each kind), frame_bytes,
padding_bytes (headers and padding), blocks {} (how many of each codec), bad_blocks,
raw_bytes, stored_bytes, compression_ratio, records, records_per_frame, logs [] of log,
batches, records, bytes, first_lsn, last_lsn.`,
		Example: `  walctl dump /var/lib/walsvc
  walctl dump /var/lib/walsvc --commands --from 000000000000002a/00001000 --limit 10
  walctl dump /var/lib/walsvc --frames -o json | jq 'select(.kind == "snapshot")'`,
		GroupID: groupOffline,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("directory %q: %w", args[0], err)
			}
			o := wal.DumpOptions{Limit: limit}
			if from != "" {
				if o.From, err = segment.ParsePos(from); err != nil {
					return usagef("--from: %w", err)
				}
			}
			if limit < 0 {
				return usagef("--limit %d: want 0 for all, or more", limit)
			}
			if g.format == formatJSON && stats && (frames || commands) {
				return usagef("--stats prints one JSON object and --frames or --commands one a line: ask for one of them")
			}
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			sums := newDumpStats(dir)
			found, err := wal.Dump(cmd.Context(), dir, o, func(f *wal.DumpedFrame) error {
				sums.add(f)
				if !frames && !commands {
					return nil
				}
				return writeFrame(out, g.format, newDumpFrame(f, commands), frames)
			})
			if err = errors.Join(explainVolume(err), out.Flush()); err != nil {
				return err
			}
			if found != nil {
				sums.Verdict = found.Verdict
			}
			if stats || !frames && !commands {
				sums.finish()
				if err := g.print(cmd, sums); err != nil {
					return err
				}
			}
			if found != nil && found.Verdict == "damaged" {
				return damagedVolume(newVerifyResult(dir, &wal.Verification{Recovery: *found}))
			}
			return nil
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	}
	cmd.Flags().BoolVar(&frames, "frames", false, "a line for each frame")
	cmd.Flags().BoolVar(&commands, "commands", false, "a line for each command")
	cmd.Flags().BoolVar(&stats, "stats", false, "statistics; what is printed if nothing else is asked for")
	cmd.Flags().StringVar(&from, "from", "", "first `position` shown")
	cmd.Flags().IntVar(&limit, "limit", 0, "end after so many frames; 0 shows all")
	must(cmd.RegisterFlagCompletionFunc("from", cobra.NoFileCompletions))
	return cmd
}

// writeFrame prints a frame, its commands, or both.
func writeFrame(out io.Writer, f format, d dumpFrame, frames bool) error {
	if f == formatJSON {
		return json.NewEncoder(out).Encode(d)
	}
	if frames {
		if _, err := fmt.Fprintln(out, d); err != nil {
			return err
		}
	}
	for _, c := range d.Commands {
		lead := d.Pos
		if frames {
			lead = strings.Repeat(" ", 8)
		}
		if _, err := fmt.Fprintf(out, "%s  %s\n", lead, c); err != nil {
			return err
		}
	}
	return nil
}
