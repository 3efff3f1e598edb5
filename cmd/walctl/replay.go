package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// replayJSON is the text on the JSON of records, for the help.
const replayJSON = `JSON, one object per line: lsn, and data (a string) or, where a record is not
valid UTF-8, data_base64.`

// recordResult is a record as walctl prints it with -o json.
type recordResult struct {
	LSN    client.LSN `json:"lsn"`
	Text   *string    `json:"data,omitempty"`
	Binary []byte     `json:"data_base64,omitempty"`
}

func newRecordResult(r client.Record) recordResult {
	if !utf8.Valid(r.Data) {
		return recordResult{LSN: r.LSN, Binary: r.Data}
	}
	text := string(r.Data)
	return recordResult{LSN: r.LSN, Text: &text}
}

func newReplayCommand(g *globals) *cobra.Command {
	var o client.ReplayOptions
	var from, to uint64
	var fromTime, toTime timeFlag
	cmd := &cobra.Command{
		Use:   "replay LOG",
		Short: "Write a log's records to standard output",
		Long: `Write a log's records to standard output, each with a newline behind it: from
the oldest kept, an LSN, a time or behind a checkpoint or cursor, to the end, an
LSN or a time. It does not move the cursor.

A time is when the service committed a record, as RFC 3339 spells it
(2026-03-09T14:00:00Z), or how long ago (2h, "2h ago"). --from-time is refused as
LSN_TRUNCATED if records committed since then may no longer be kept.

` + replayJSON,
		Example: `  walctl replay orders --from 100 --to 199
  walctl replay orders --checkpoint engine -o json
  walctl replay orders --from-time 2h --to-time 2026-03-09T14:00:00Z`,
		GroupID:           groupOnline,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.From, o.To = client.LSN(from), client.LSN(to)
			o.FromTime, o.ToTime = fromTime.Time, toTime.Time
			switch {
			case o.Follow && to != 0:
				return usagef("--follow has no end and --to is one")
			case to != 0 && to < from:
				return usagef("--to %d is before --from %d", to, from)
			case !o.ToTime.IsZero() && o.ToTime.Before(o.FromTime):
				return usagef("--to-time %s is before --from-time %s", &toTime, &fromTime)
			}
			return g.withClient(cmd, func(_ context.Context, c *client.Client) error {
				return g.replay(cmd, c.Log(args[0]), o)
			})
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&from, "from", 0, "first `LSN`; 0 means the oldest kept")
	flags.StringVar(&o.Checkpoint, "checkpoint", "", "begin behind the checkpoint of this `name`")
	flags.StringVar(&o.Cursor, "cursor", "", "begin behind the cursor of this `name`")
	flags.Uint64Var(&to, "to", 0, "last `LSN`; 0 means the end")
	flags.Var(&fromTime, "from-time", "begin with the first record committed at this `time` or after it")
	flags.Var(&toTime, "to-time", "end with the last record committed before this `time` or at it")
	flags.BoolVar(&o.Follow, "follow", false, "go on with what is appended, until interrupted")
	cmd.MarkFlagsMutuallyExclusive("from", "from-time", "checkpoint", "cursor")
	cmd.MarkFlagsMutuallyExclusive("to", "to-time")
	cmd.MarkFlagsMutuallyExclusive("to-time", "follow")
	must(cmd.RegisterFlagCompletionFunc("cursor", g.completeCursorFlag))
	must(cmd.RegisterFlagCompletionFunc("checkpoint", g.completeCheckpointFlag))
	return cmd
}

// A timeFlag is a time on the command line: a point, or how long ago.
type timeFlag struct{ time.Time }

// Type implements pflag.Value.
func (t *timeFlag) Type() string { return "time" }

// String implements pflag.Value.
func (t *timeFlag) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Set implements pflag.Value.
func (t *timeFlag) Set(text string) error {
	ago, _ := strings.CutSuffix(text, " ago")
	if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
		t.Time = time.Now().Add(-d)
		return nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("want a time such as 2026-03-09T14:00:00Z, or how long ago such as 2h")
	}
	t.Time = at
	return nil
}

func newTailCommand(g *globals) *cobra.Command {
	var last uint64
	o := client.ReplayOptions{Follow: true}
	cmd := &cobra.Command{
		Use:   "tail LOG",
		Short: "Follow a log's records as they come",
		Long: `Write the last records of a log to standard output, then go on with what is
appended, until interrupted, or until nobody reads the output any more. It is
replay --follow, begun near the end, and goes on by itself when the service was
restarted.

` + replayJSON,
		Example:           "  walctl tail orders --last 0",
		GroupID:           groupOnline,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				log := c.Log(args[0])
				info, err := log.Info(ctx)
				if err != nil {
					return err
				}
				o.From = info.Next - min(client.LSN(last), info.Next-info.First)
				return g.replay(cmd, log, o)
			})
		},
	}
	cmd.Flags().Uint64VarP(&last, "last", "n", 10, "`number` of records to begin with")
	return cmd
}

// lookForReader is how often a follower looks whether somebody still reads.
const lookForReader = 250 * time.Millisecond

// errNobodyReads ends a follower whose output goes nowhere.
var errNobodyReads = errors.New("nobody reads the output any more")

// replay writes records until their end. The interrupt that ends a follower is
// no error: there is no other end, but that nobody reads any more (tail LOG | head -1).
func (g *globals) replay(cmd *cobra.Command, log *client.Log, o client.ReplayOptions) error {
	ctx, end := context.WithCancelCause(cmd.Context())
	defer end(nil)
	out := newLazyWriter(cmd.OutOrStdout())
	if o.Follow {
		out.failed = end // there may be no next record to tell it with
		go func() {
			tick := time.NewTicker(lookForReader)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					if readerGone(cmd.OutOrStdout()) {
						end(errNobodyReads)
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	err := g.writeRecords(ctx, out, log, o)
	if errors.Is(err, errNobodyReads) {
		return nil // and there is nowhere to write the rest to
	}
	if o.Follow && cmd.Context().Err() != nil {
		err = nil
	}
	if e := out.close(); err == nil {
		err = e
	}
	return err
}

func (g *globals) writeRecords(ctx context.Context, out *lazyWriter, log *client.Log, o client.ReplayOptions) error {
	var line bytes.Buffer
	spell := json.NewEncoder(&line)
	spell.SetEscapeHTML(false)
	o.Reuse = true
	for r, err := range log.Replay(ctx, o) {
		if err != nil {
			return err
		}
		line.Reset()
		if g.format == formatJSON {
			err = spell.Encode(newRecordResult(r))
		} else {
			line.Write(r.Data)
			line.WriteByte('\n')
		}
		if err == nil {
			err = out.write(line.Bytes())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A lazyWriter writes in large pieces, and nothing much later than it came: a
// replay must not pay for each record, and a follower must not sit on one.
type lazyWriter struct {
	mu    sync.Mutex
	w     *bufio.Writer
	timer *time.Timer // flushes; running while something is buffered
	armed bool
	err   error // of a flush in the background
	// failed, unless nil, is told of that error.
	failed func(error)
}

// laziness is how late something may be written.
const laziness = 10 * time.Millisecond

func newLazyWriter(w io.Writer) *lazyWriter {
	l := &lazyWriter{w: bufio.NewWriterSize(w, 64<<10)}
	l.timer = time.AfterFunc(time.Hour, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.armed = false
		l.err = l.w.Flush() // a bufio.Writer keeps its first error
		if l.err != nil && l.failed != nil {
			l.failed(l.err)
		}
	})
	l.timer.Stop()
	return l
}

// write takes bytes. It returns the error of any write so far.
func (l *lazyWriter) write(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if !l.armed {
		l.armed = true
		l.timer.Reset(laziness)
	}
	_, err := l.w.Write(b)
	return err
}

// close writes what is left.
func (l *lazyWriter) close() error {
	l.timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	return l.w.Flush()
}
