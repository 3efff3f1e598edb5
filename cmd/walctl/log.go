package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// logJSON is the text on the JSON of a log, for the help of commands that print one.
const logJSON = `name, id, epoch, writer (empty if the log is shared), first_lsn, next_lsn,
durable_lsn, log_checksum (eight hex digits), live_bytes, create_time (RFC
3339), seal_time (likewise, or null if the log is not sealed), options {quota_bytes, max_record_bytes, rate_bytes, labels,
colocation_key}, lost_records (given up by repairs)`

// logResult is a log as walctl prints it.
type logResult struct {
	Name        string     `json:"name"`
	ID          string     `json:"id"`
	Epoch       uint64     `json:"epoch"`
	Writer      string     `json:"writer"`
	FirstLSN    client.LSN `json:"first_lsn"`
	NextLSN     client.LSN `json:"next_lsn"`
	DurableLSN  client.LSN `json:"durable_lsn"`
	LogChecksum string     `json:"log_checksum"`
	LiveBytes   uint64     `json:"live_bytes"`
	CreateTime  time.Time  `json:"create_time"`
	SealTime    *time.Time `json:"seal_time"`
	Options     logOptions `json:"options"`
	LostRecords uint64     `json:"lost_records"`
}

type logOptions struct {
	QuotaBytes     uint64            `json:"quota_bytes"`
	MaxRecordBytes uint32            `json:"max_record_bytes"`
	RateBytes      uint64            `json:"rate_bytes"`
	Labels         map[string]string `json:"labels"`
	ColocationKey  string            `json:"colocation_key"`
}

func newLogResult(i client.LogInfo) logResult {
	labels := i.Options.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	var sealed *time.Time
	if !i.Sealed.IsZero() {
		at := i.Sealed.UTC()
		sealed = &at
	}
	return logResult{
		Name: i.Name, ID: i.ID.String(), Epoch: i.Epoch, Writer: i.Writer, FirstLSN: i.First, NextLSN: i.Next, DurableLSN: i.Durable(),
		LogChecksum: fmt.Sprintf("%08x", i.LogChecksum), LiveBytes: i.LiveBytes, CreateTime: i.Created.UTC(), SealTime: sealed,
		Options:     logOptions{i.Options.QuotaBytes, i.Options.MaxRecordBytes, i.Options.RateBytes, labels, i.Options.ColocationKey},
		LostRecords: i.LostRecords,
	}
}

func (l logResult) tables() []grid {
	rows := [][]any{
		{"log", l.Name},
		{"id", l.ID},
		{"epoch", l.Epoch},
		{"records", lsnRange(l.FirstLSN, l.NextLSN)},
		{"live bytes", size(l.LiveBytes)},
		{"checksum", l.LogChecksum},
		{"created", l.CreateTime},
	}
	if l.SealTime != nil {
		rows = append(rows, []any{"sealed", *l.SealTime})
	}
	if l.LostRecords > 0 {
		rows = append(rows, []any{"given up by repairs", mood{grouped(l.LostRecords) + " records", true}})
	}
	if l.Writer != "" {
		rows = append(rows, []any{"writer", l.Writer})
	}
	if l.Options.QuotaBytes > 0 {
		rows = append(rows, []any{"quota", size(l.Options.QuotaBytes)})
	}
	if l.Options.RateBytes > 0 {
		rows = append(rows, []any{"rate", size(l.Options.RateBytes).String() + "/s"})
	}
	if l.Options.MaxRecordBytes > 0 {
		rows = append(rows, []any{"largest record", size(l.Options.MaxRecordBytes)})
	}
	for _, key := range slices.Sorted(maps.Keys(l.Options.Labels)) {
		rows = append(rows, []any{"label " + key, l.Options.Labels[key]})
	}
	if l.Options.ColocationKey != "" {
		rows = append(rows, []any{"colocation key", l.Options.ColocationKey})
	}
	return []grid{{rows: rows}}
}

// lsnRange spells the records a log keeps.
func lsnRange(first, next client.LSN) string {
	if first == next {
		return fmt.Sprintf("none, the next is LSN %d", next)
	}
	return fmt.Sprintf("LSN %d to %d", first, next-1)
}

func newLogCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "log",
		Short:   "Create, list, get and delete logs",
		GroupID: groupOnline,
		Args:    noArgs,
		RunE:    help,
	}
	cmd.AddCommand(newLogCreateCommand(g), newLogListCommand(g), newLogGetCommand(g), newLogDeleteCommand(g))
	return cmd
}

// createdResult is what `walctl log create` prints.
type createdResult struct {
	logResult
	Created bool `json:"created"`
}

func newLogCreateCommand(g *globals) *cobra.Command {
	var o client.LogOptions
	var record bytesFlag
	cmd := &cobra.Command{
		Use:   "create LOG",
		Short: "Create a log, or get the one that is there with the same options",
		Long: `Create a log, or get the one that is there if it has the same options. It is an
error if it has others: options do not change.

JSON: created (false if the log was there), ` + logJSON + `.`,
		Example: "  walctl log create orders --quota 16GiB --label team=shop",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if record > math.MaxUint32 { // what is less, and too much, the service says
				return usagef("--max-record: %s is more than any service takes", size(record))
			}
			o.MaxRecordBytes = uint32(record)
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				info, created, err := c.CreateLog(ctx, args[0], o)
				if err != nil {
					return err
				}
				return g.print(cmd, createdResult{newLogResult(info), created})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.Var((*bytesFlag)(&o.QuotaBytes), "quota", "bound on the log's live `bytes`, such as 16GiB; 0 means none")
	flags.Var(&record, "max-record", "bound on one record in `bytes`, such as 64KiB; 0 means the service's")
	flags.Var((*bytesFlag)(&o.RateBytes), "rate", "bound on the `bytes` appended per second, such as 8MiB; 0 means none")
	flags.StringToStringVar(&o.Labels, "label", nil, "a label of your own, `key=value`; may be repeated")
	flags.StringVar(&o.ColocationKey, "colocation-key", "", "`key` of the logs that must share a volume")
	return cmd
}

// logList is what `walctl log list` prints.
type logList struct {
	Logs []logResult `json:"logs"`
}

func (l logList) tables() []grid {
	t := grid{head: []string{"LOG", "FIRST", "NEXT", "LIVE", "EPOCH", "CREATED", "SEALED"}, empty: "no logs"}
	for _, i := range l.Logs {
		var sealed any = ""
		if i.SealTime != nil {
			sealed = *i.SealTime
		}
		t.rows = append(t.rows, []any{i.Name, uint64(i.FirstLSN), uint64(i.NextLSN), size(i.LiveBytes), i.Epoch, i.CreateTime, sealed})
	}
	return []grid{t}
}

func newLogListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the logs whose names begin with a prefix",
		Long: `List the logs whose names begin with a prefix, in the order of their names.

JSON: logs [], each with ` + logJSON + `.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				list := logList{Logs: []logResult{}}
				for info, err := range c.ListLogs(ctx, prefix) {
					if err != nil {
						return err
					}
					list.Logs = append(list.Logs, newLogResult(info))
				}
				return g.print(cmd, list)
			})
		},
		ValidArgsFunction: g.completeLog,
	}
}

// gotResult is what `walctl log get` prints.
type gotResult struct {
	logResult
	Lost []lsnRangeResult `json:"lost"`
}

type lsnRangeResult struct {
	FirstLSN client.LSN `json:"first_lsn"`
	LastLSN  client.LSN `json:"last_lsn"`
}

func newGotResult(i client.LogInfo) gotResult {
	r := gotResult{newLogResult(i), []lsnRangeResult{}}
	for _, l := range i.Lost {
		r.Lost = append(r.Lost, lsnRangeResult{l.First, l.Last})
	}
	return r
}

func (l gotResult) tables() []grid {
	tables := l.logResult.tables()
	if len(l.Lost) > 0 {
		lost := grid{title: "Given up by repairs", head: []string{"FIRST", "LAST"}}
		for _, r := range l.Lost {
			lost.rows = append(lost.rows, []any{uint64(r.FirstLSN), uint64(r.LastLSN)})
		}
		tables = append(tables, lost)
	}
	return tables
}

func newLogGetCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "get LOG",
		Short: "Show one log",
		Long: `Show one log, as far as it is durable, with the records that repairs gave up:
reading those fails with DATA_LOSS.

JSON: ` + logJSON + `,
lost [{first_lsn, last_lsn}].`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				info, err := c.GetLog(ctx, args[0])
				if err != nil {
					return err
				}
				return g.print(cmd, newGotResult(info))
			})
		},
		ValidArgsFunction: g.completeLog,
	}
}

// deletedResult is what the deleting commands print.
type deletedResult struct {
	Log        string `json:"log"`
	Checkpoint string `json:"checkpoint,omitempty"`
	Deleted    bool   `json:"deleted"`
}

func (d deletedResult) tables() []grid {
	what := "log " + d.Log
	if d.Checkpoint != "" {
		what = "checkpoint " + d.Checkpoint + " of " + what
	}
	said := "not deleted"
	if d.Deleted {
		said = "deleted"
	}
	return []grid{{rows: [][]any{{said, what}}}}
}

func newLogDeleteCommand(g *globals) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete LOG",
		Short: "Delete a log with its records and checkpoints",
		Long: `Delete a log with its records, checkpoints, cursors and producers. It asks first,
unless --yes is given.

JSON: log, deleted.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				info, err := c.GetLog(ctx, args[0])
				if err != nil {
					return err
				}
				if !yes {
					question := fmt.Sprintf("Delete log %q with %s (%s)?", info.Name, lsnRange(info.First, info.Next), size(info.LiveBytes))
					if yes, err = confirm(cmd, question); err != nil {
						return err
					}
				}
				if yes {
					// By id: what was confirmed is what is deleted, not a
					// newer log of the same name.
					if err := c.DeleteLog(ctx, info.Name, info.ID); err != nil {
						return err
					}
				}
				return g.print(cmd, deletedResult{Log: info.Name, Deleted: yes})
			})
		},
		ValidArgsFunction: g.completeLog,
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// confirm asks on standard error and reads the answer from standard input,
// which must be a terminal: a script says --yes.
func confirm(cmd *cobra.Command, question string) (bool, error) {
	if !terminal(cmd.InOrStdin()) {
		return false, &failure{code: exitUsage, err: errors.New("nobody is there to confirm it"), next: "pass --yes"}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
