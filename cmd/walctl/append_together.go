package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/limits"
	"github.com/walsvc/walsvc/internal/records"
)

// togetherResult is what `walctl append LOG=FILE...` prints.
type togetherResult struct {
	Logs    []togetherLog `json:"logs"`
	Records uint64        `json:"records"`
	Bytes   uint64        `json:"bytes"`
	Written float64       `json:"written_seconds"`
	Seconds float64       `json:"seconds"`
}

type togetherLog struct {
	Log      string     `json:"log"`
	Records  uint64     `json:"records"`
	Bytes    uint64     `json:"bytes"`
	Epoch    uint64     `json:"epoch"`
	FirstLSN client.LSN `json:"first_lsn"`
	LastLSN  client.LSN `json:"last_lsn"`
	Receipt  string     `json:"receipt"`
}

func (t togetherResult) tables() []grid {
	g := grid{head: []string{"log", "records", "bytes", "LSNs", "epoch"}}
	for _, l := range t.Logs {
		g.rows = append(g.rows, []any{l.Log, l.Records, size(l.Bytes), fmt.Sprintf("%d to %d", l.FirstLSN, l.LastLSN), l.Epoch})
	}
	if t.Written == 0 {
		return []grid{g}
	}
	took := func(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
	return []grid{g, {rows: [][]any{{"written in", took(t.Written)}, {"took", took(t.Seconds)}}}}
}

// A target is a log to append to, and the file that has the lines.
type target struct {
	log, file string
	epoch     uint64 // of the log's writer; 0 for a log that has none
}

// parseTarget reads LOG=FILE or LOG@EPOCH=FILE: a log's name has neither character.
func parseTarget(arg string) (t target, err error) {
	name, file, _ := strings.Cut(arg, "=")
	name, epoch, stated := strings.Cut(name, "@")
	t = target{log: name, file: file}
	if stated {
		t.epoch, err = strconv.ParseUint(epoch, 10, 64)
	}
	if err != nil || stated && t.epoch == 0 || name == "" || file == "" {
		return t, usagef("%q is not LOG=FILE or LOG@EPOCH=FILE", arg)
	}
	return t, nil
}

// appendTogether appends all lines of all files as one batch.
func (g *globals) appendTogether(cmd *cobra.Command, args []string) error {
	if len(args) > limits.MaxBatchLogs {
		return usagef("%d logs: one batch is over at most %d", len(args), limits.MaxBatchLogs)
	}
	var targets []target
	var parts []client.Part
	left := limits.MaxBatchSize
	for _, arg := range args {
		t, err := parseTarget(arg)
		if err != nil {
			return err
		}
		part, err := readPart(cmd, t.file, &left)
		if err != nil {
			return fmt.Errorf("%s: %w", t.file, err)
		}
		if len(part.Records) == 0 {
			return usagef("%s has no lines: every log of a batch gets at least one record", t.file)
		}
		targets, parts = append(targets, t), append(parts, part)
	}
	return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
		var logs []*client.Log
		for _, t := range targets {
			l := c.Log(t.log)
			l.UseEpoch(t.epoch)
			logs = append(logs, l)
		}
		group, err := c.Group(logs...)
		if err != nil {
			return err
		}
		began := time.Now()
		future := group.AppendAsync(ctx, parts...)
		var out togetherResult
		if g.written {
			select {
			case <-future.Written():
				out.Written = time.Since(began).Seconds()
			case <-ctx.Done():
			}
		}
		receipts, err := future.Wait(ctx)
		if err != nil {
			return err
		}
		out.Seconds = time.Since(began).Seconds()
		for i, r := range receipts {
			l := togetherLog{Log: targets[i].log, Records: uint64(r.Count), Epoch: r.Epoch, FirstLSN: r.LSN, LastLSN: r.Through, Receipt: r.String()}
			for _, record := range parts[i].Records {
				l.Bytes += uint64(len(record))
			}
			out.Logs = append(out.Logs, l)
			out.Records += l.Records
			out.Bytes += l.Bytes
		}
		return g.print(cmd, out)
	})
}

// readPart reads a file's lines as records, which take no more than left, in bytes,
// and less than a batch has.
func readPart(cmd *cobra.Command, file string, left *int) (part client.Part, err error) {
	in, _, err := openInput(cmd, file)
	if err != nil {
		return part, err
	}
	defer func() { _ = in.Close() }() // only read
	reader := bufio.NewReaderSize(in, 256<<10)
	for {
		line, err := readLine(reader)
		switch {
		case errors.Is(err, io.EOF):
			return part, nil
		case err != nil:
			return part, fmt.Errorf("line %d: %w", len(part.Records)+1, err)
		}
		if *left -= records.Size(len(line)); *left < 0 || len(part.Records) == limits.MaxBatchRecords {
			return part, usagef("line %d: what lands together is one batch: at most %s in all files, and %d lines in each", len(part.Records)+1, size(limits.MaxBatchSize), limits.MaxBatchRecords)
		}
		part.Records = append(part.Records, bytes.Clone(line))
	}
}
