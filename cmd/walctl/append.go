package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/limits"
)

// appendResult is what `walctl append` prints.
type appendResult struct {
	Log              string     `json:"log"`
	Records          uint64     `json:"records"`
	Bytes            uint64     `json:"bytes"`
	FirstLSN         client.LSN `json:"first_lsn"`
	LastLSN          client.LSN `json:"last_lsn"`
	Receipt          string     `json:"receipt"`
	WrittenSeconds   float64    `json:"written_seconds"`
	Seconds          float64    `json:"seconds"`
	RecordsPerSecond float64    `json:"records_per_second"`
}

func (a appendResult) tables() []grid {
	rows := [][]any{{"log", a.Log}, {"records", a.Records}}
	if a.Records > 0 {
		rows = append(rows, []any{"at", fmt.Sprintf("LSN %d to %d", a.FirstLSN, a.LastLSN)})
	}
	if a.WrittenSeconds > 0 {
		rows = append(rows, []any{"written in", time.Duration(a.WrittenSeconds * float64(time.Second))})
	}
	return []grid{{rows: append(rows,
		[]any{"bytes", size(a.Bytes)},
		[]any{"took", time.Duration(a.Seconds * float64(time.Second))},
		[]any{"rate", rate(a.RecordsPerSecond)},
	)}}
}

func newAppendCommand(g *globals) *cobra.Command {
	var file string
	var create bool
	var epoch uint64
	cmd := &cobra.Command{
		Use:   "append {LOG | LOG=FILE...}",
		Short: "Append lines as records",
		Long: `Append the lines of standard input, or of a file, to a log: one record each,
without the newline. An empty line is an empty record. Lines are pipelined, and
each one counted is durable. If others append to the log meanwhile, their
records lie between the first LSN and the last.

After an error, what was appended is reported all the same, and the message says
which line to go on with.

With --written the service also tells when it has handed records to its file
system, and not synced them yet: they survive the service then, and not its
machine. How long that took for the last line is told beside how long it took
until all was durable.

With LOG=FILE, or LOG@EPOCH=FILE for a log that has a writer, all lines of all the
files are one batch: it lands in all of the logs, or in none. They are up to 16 logs
with one colocation key, and at most 8 MiB. JSON then: logs (log, records, bytes,
epoch, first_lsn, last_lsn, receipt), records, bytes, written_seconds, seconds.

JSON: log, records, bytes, first_lsn, last_lsn (0 without records), receipt (of
the last record, for walctl verify-receipt; empty without records),
written_seconds (0 without --written), seconds, records_per_second.`,
		Example: `  walctl append orders --create --file orders.jsonl
  echo hello | walctl append greetings
  walctl append data=rows.jsonl index=entries.jsonl`,
		GroupID: groupOnline,
		Args: func(cmd *cobra.Command, args []string) error {
			together := len(args) > 0 && !slices.ContainsFunc(args, func(a string) bool { return !strings.Contains(a, "=") })
			if !together {
				return exactArgs(1)(cmd, args)
			}
			for _, flag := range []string{"file", "epoch", "create"} {
				if cmd.Flags().Changed(flag) {
					return fmt.Errorf("--%s is for one log by its name, not for LOG=FILE", flag)
				}
			}
			return nil
		},
		ValidArgsFunction: g.completeLog,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Contains(args[0], "=") {
				return g.appendTogether(cmd, args)
			}
			in, total, err := openInput(cmd, file)
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // only read
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				if create {
					if _, _, err := c.CreateLog(ctx, args[0], client.LogOptions{}); err != nil && !errors.Is(err, client.ErrLogExists) {
						return err
					}
				}
				l := c.Log(args[0])
				l.UseEpoch(epoch)
				bar := newBar(cmd.ErrOrStderr(), "append to "+args[0], total)
				r, err := appendLines(ctx, l, in, g.written, bar.add)
				bar.stop()
				if err == nil && r.Records == 0 { // nothing asked yet whether there is such a log
					_, err = c.GetLog(ctx, args[0])
				}
				if err != nil && r.Records == 0 {
					return err
				}
				return errors.Join(g.print(cmd, r), err)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "-", "`file` to read; - means standard input")
	cmd.Flags().Uint64Var(&epoch, "epoch", 0, "`epoch` of the log's writer; 0 for a log that has none")
	cmd.Flags().BoolVar(&create, "create", false, "create the log if there is none")
	cmd.Flags().BoolVar(&g.written, "written", false, "tell, too, when it was written and not yet durable")
	return cmd
}

// openInput opens a file to read lines from and tells its size; 0 if it has none.
func openInput(cmd *cobra.Command, path string) (in io.ReadCloser, total int64, err error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, usagef("--file: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		total = info.Size()
	}
	return f, total, nil
}

// linesAhead is how many lines are appended before the first of them is durable.
const linesAhead = 64 << 10

// appendLines appends lines until their end, an error or the end of ctx, waits
// for what is in flight, and counts what is durable; with written, also how long the
// last line took to be written. progress is told the bytes
// of each line that is durable. The error names the first line that is not known to be.
func appendLines(ctx context.Context, log *client.Log, in io.Reader, written bool, progress func(n int)) (appendResult, error) {
	r := appendResult{Log: log.Name()}
	began := time.Now()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	type line struct {
		append *client.Future
		size   int
	}
	lines := make(chan line, linesAhead)
	var readErr error // why there are no more; set before lines is closed
	go func() {
		defer close(lines)
		reader := bufio.NewReaderSize(in, 256<<10)
		for ctx.Err() == nil {
			text, err := readLine(reader)
			if err != nil {
				readErr = err
				return
			}
			select {
			case lines <- line{log.AppendAsync(ctx, text), len(text)}:
			case <-ctx.Done():
			}
		}
	}()
	next := func() (l line, err error) {
		select {
		case l, more := <-lines:
			if !more {
				return line{}, cmp.Or(context.Cause(ctx), readErr)
			}
			return l, nil
		case <-ctx.Done(): // the reader may wait for a line that never comes
			return line{}, context.Cause(ctx)
		}
	}
	var last client.Receipt
	var failed error
	for failed == nil {
		l, err := next()
		if err == nil && written {
			select {
			case <-l.append.Written():
				r.WrittenSeconds = time.Since(began).Seconds()
			case <-ctx.Done():
			}
		}
		var receipt client.Receipt
		if err == nil {
			receipt, err = l.append.Wait(ctx)
		}
		if failed = err; err != nil {
			break
		}
		if r.Records == 0 {
			r.FirstLSN = receipt.LSN
		}
		r.LastLSN, last = receipt.LSN, receipt
		r.Records++
		r.Bytes += uint64(l.size)
		progress(l.size + 1)
	}
	r.Seconds, r.Receipt = time.Since(began).Seconds(), last.String()
	r.RecordsPerSecond = float64(r.Records) / r.Seconds
	if errors.Is(failed, io.EOF) {
		return r, nil
	}
	return r, fmt.Errorf("line %d: %w", r.Records+1, failed)
}

// errLongLine is returned for a line that is no record.
var errLongLine = &failure{
	code: exitUsage,
	err:  fmt.Errorf("it is over %s, the most a record has", size(limits.MaxRecordSize)),
	next: "split it; the lines before it are durable",
}

// readLine returns the next line without its newline, valid until the next
// call, and io.EOF after the last. A line over what a record may have is an
// error before memory is taken for it.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == nil || errors.Is(err, io.EOF) && len(line) > 0 {
		return bytes.TrimSuffix(line, []byte{'\n'}), nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = r.ReadSlice('\n')
		if len(long)+len(line) > limits.MaxRecordSize+1 {
			return nil, errLongLine
		}
		long = append(long, line...)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if long = bytes.TrimSuffix(long, []byte{'\n'}); len(long) > limits.MaxRecordSize {
		return nil, errLongLine
	}
	return long, nil
}
