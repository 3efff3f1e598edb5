package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// cursorResult is a cursor as walctl prints it.
type cursorResult struct {
	Name       string     `json:"name"`
	LSN        client.LSN `json:"lsn"`
	State      string     `json:"state"`
	CapBytes   uint64     `json:"cap_bytes"`
	Policy     string     `json:"policy"`
	LiveBytes  uint64     `json:"live_bytes"`
	LagRecords uint64     `json:"lag_records"`
	LagSeconds *float64   `json:"lag_seconds,omitempty"`
	SetTime    time.Time  `json:"set_time"`
	EvictTime  *time.Time `json:"evict_time,omitempty"`

	RewoundEpoch   uint64     `json:"rewound_epoch,omitempty"`
	RewoundFromLSN client.LSN `json:"rewound_from_lsn,omitempty"`
}

// cursorJSON is the text on its JSON, for the help.
const cursorJSON = `name, lsn, state (reserved, extended, at-risk, lost or rewound), cap_bytes,
policy (evict or hold), live_bytes, lag_records, lag_seconds (absent if it is not
known), set_time (RFC 3339), evict_time (of a lost one), rewound_epoch and
rewound_from_lsn (of a rewound one)`

func newCursorResult(c client.Cursor) cursorResult {
	r := cursorResult{
		Name: c.Name, LSN: c.LSN, State: c.State.String(), CapBytes: c.Cap, Policy: c.Policy.String(),
		LiveBytes: c.LiveBytes, LagRecords: c.Records, SetTime: c.Set.UTC(),
		RewoundEpoch: c.Rewound, RewoundFromLSN: c.RewoundFrom,
	}
	if c.Lag >= 0 {
		seconds := c.Lag.Seconds()
		r.LagSeconds = &seconds
	}
	if !c.Evicted.IsZero() {
		at := c.Evicted.UTC()
		r.EvictTime = &at
	}
	return r
}

// state is the cursor's for people: all is well while it is far below its cap.
func (c cursorResult) state() any {
	switch c.State {
	case client.CursorAtRisk.String(), client.CursorLost.String(), client.CursorRewound.String():
		return mood{c.State, true}
	case client.CursorReserved.String():
		return mood{c.State, false}
	}
	return c.State
}

// lag is the cursor's in time, for people.
func (c cursorResult) lag() string {
	if c.LagSeconds == nil {
		return "?"
	}
	return round(time.Duration(*c.LagSeconds * float64(time.Second))).String()
}

func (c cursorResult) tables() []grid {
	rows := [][]any{
		{"cursor", c.Name},
		{"lsn", uint64(c.LSN)},
		{"state", c.state()},
		{"holds", fmt.Sprintf("%s of %s, then %s", size(c.LiveBytes), size(c.CapBytes), c.Policy)},
		{"lag", grouped(c.LagRecords) + " records, " + c.lag()},
		{"set", c.SetTime},
	}
	if c.RewoundEpoch != 0 {
		rows = append(rows, []any{"rewound", fmt.Sprintf("from LSN %d, by epoch %d", c.RewoundFromLSN, c.RewoundEpoch)})
	}
	if c.EvictTime != nil {
		rows = append(rows, []any{"evicted", *c.EvictTime})
	}
	return []grid{{rows: rows}}
}

func newCursorCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cursor",
		Short: "Set, get, list and delete cursors",
		Long: `Set, get, list and delete the cursors of a log. A cursor says how far a named
reader has come, and holds the records above that, up to a cap. Beyond the cap
it is evicted, and its reader is told: CURSOR_LOST.`,
		GroupID: groupOnline,
		Args:    noArgs,
		RunE:    help,
	}
	cmd.AddCommand(newCursorSetCommand(g), newCursorGetCommand(g), newCursorListCommand(g), newCursorDeleteCommand(g))
	return cmd
}

// expectLSN adds the flag --expect-lsn and returns what it says.
func expectLSN(cmd *cobra.Command) func() *client.LSN {
	lsn := cmd.Flags().Uint64("expect-lsn", 0, "refuse unless the cursor is at this `LSN`")
	return func() *client.LSN {
		if !cmd.Flags().Changed("expect-lsn") {
			return nil
		}
		return (*client.LSN)(lsn)
	}
}

// A bytesFlag is a number of bytes as the value of a flag: see parseSize.
type bytesFlag uint64

// String implements pflag.Value: a number, so that help knows the zero value.
func (b *bytesFlag) String() string { return strconv.FormatUint(uint64(*b), 10) }

// Type implements pflag.Value.
func (b *bytesFlag) Type() string { return "bytes" }

// Set implements pflag.Value.
func (b *bytesFlag) Set(text string) error {
	n, err := parseSize(text)
	if err == nil {
		*b = bytesFlag(n)
	}
	return err
}

// parseSize reads a number of bytes: plain, or with KiB, MiB, GiB, TiB or PiB behind it.
func parseSize(text string) (uint64, error) {
	units := map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40, "PiB": 50}
	digits, shift := text, uint(0)
	for unit, by := range units {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			digits, shift = strings.TrimSpace(rest), by
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > ^uint64(0)>>shift {
		return 0, fmt.Errorf("%q is no number of bytes, such as 1048576 or 64MiB", text)
	}
	return n << shift, nil
}

func newCursorSetCommand(g *globals) *cobra.Command {
	var lsn uint64
	var capacity string
	var o client.CursorOptions
	var hold, evict bool
	cmd := &cobra.Command{
		Use:   "set LOG NAME --lsn LSN",
		Short: "Create a cursor or move it",
		Long: `Create a cursor, or move it to the last record that its reader is done with.
It moves forward alone, unless --reset is given, which also takes a cursor that
is lost: its reader knows then what it missed.

JSON: ` + cursorJSON + `.`,
		Example: `  walctl cursor set orders mailer --lsn 0 --create --cap 64MiB
  walctl cursor set orders mailer --lsn 1000 --expect-lsn 900`,
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeCursor,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&lsn, "lsn", 0, "`LSN` of the last record that the reader is done with; 0 before the first")
	flags.StringVar(&capacity, "cap", "", "`bytes` it may hold, such as 64MiB; default what it has, or 1 GiB, or half the log's quota")
	flags.BoolVar(&evict, "evict", false, "beyond its cap it holds nothing any more (what a new cursor does)")
	flags.BoolVar(&hold, "hold", false, "beyond its cap it goes on holding, until the quota or the disk is full")
	flags.BoolVar(&o.Create, "create", false, "refuse if there is a cursor of that name")
	flags.BoolVar(&o.Reset, "reset", false, "take the LSN also if it is lower, or if the cursor is lost")
	expected := expectLSN(cmd)
	cmd.MarkFlagsMutuallyExclusive("create", "expect-lsn")
	cmd.MarkFlagsMutuallyExclusive("hold", "evict")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !flags.Changed("lsn") {
			return usagef("--lsn is missing")
		}
		if flags.Changed("cap") {
			n, err := parseSize(capacity)
			if err != nil || n == 0 {
				return usagef("--cap: %q is no number of bytes from 1 on, such as 64MiB", capacity)
			}
			o.Cap = n
		}
		switch {
		case hold:
			o.Policy = client.HoldOverCap
		case evict:
			o.Policy = client.EvictOverCap
		}
		o.Expected = expected()
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			cur, err := c.Log(args[0]).SetCursor(ctx, args[1], client.LSN(lsn), o)
			if err != nil {
				return err
			}
			return g.print(cmd, newCursorResult(cur))
		})
	}
	return cmd
}

func newCursorGetCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "get LOG NAME",
		Short: "Show a cursor, also one that is lost",
		Long: `Show how far a cursor's reader has come, and what it holds.

JSON: ` + cursorJSON + `.`,
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeCursor,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				cur, err := c.Log(args[0]).Cursor(ctx, args[1])
				if err != nil {
					return err
				}
				return g.print(cmd, newCursorResult(cur))
			})
		},
	}
}

// cursorList is what `walctl cursor list` prints.
type cursorList struct {
	Log     string         `json:"log"`
	Cursors []cursorResult `json:"cursors"`
}

func (l cursorList) tables() []grid {
	t := grid{head: []string{"CURSOR", "LSN", "STATE", "HOLDS", "CAP", "POLICY", "LAG", "", "SET"}, empty: "no cursors"}
	for _, c := range l.Cursors {
		t.rows = append(t.rows, []any{c.Name, uint64(c.LSN), c.state(), size(c.LiveBytes), size(c.CapBytes), c.Policy, c.LagRecords, c.lag(), c.SetTime})
	}
	return []grid{t}
}

func newCursorListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list LOG",
		Short: "List the cursors of a log",
		Long: `List the cursors of a log by name.

JSON: log, cursors [], each with ` + cursorJSON + `.`,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				all, err := c.Log(args[0]).Cursors(ctx)
				if err != nil {
					return err
				}
				list := cursorList{Log: args[0], Cursors: []cursorResult{}}
				for _, cur := range all {
					list.Cursors = append(list.Cursors, newCursorResult(cur))
				}
				return g.print(cmd, list)
			})
		},
	}
}

// deletedCursor is what `walctl cursor delete` prints.
type deletedCursor struct {
	Log     string `json:"log"`
	Cursor  string `json:"cursor"`
	Deleted bool   `json:"deleted"`
}

func (d deletedCursor) tables() []grid {
	return []grid{{rows: [][]any{{"deleted", "cursor " + d.Cursor + " of log " + d.Log}}}}
}

func newCursorDeleteCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete LOG NAME",
		Short: "Delete a cursor, which then holds nothing any more",
		Long: `Delete a cursor, which then holds nothing any more. The log's records stay until
they are truncated or another cursor or checkpoint lets them go.

JSON: log, cursor, deleted.`,
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeCursor,
	}
	expected := expectLSN(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			if err := c.Log(args[0]).DeleteCursor(ctx, args[1], expected()); err != nil {
				return err
			}
			return g.print(cmd, deletedCursor{Log: args[0], Cursor: args[1], Deleted: true})
		})
	}
	return cmd
}

// completeCursor offers the names of the logs and then those of the log's cursors.
func (g *globals) completeCursor(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return g.completeLog(cmd, args, prefix)
	}
	return g.cursorNames(cmd, args[0]), cobra.ShellCompDirectiveNoFileComp
}

// completeCursorFlag offers the cursors of the log in the first argument.
func (g *globals) completeCursorFlag(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.cursorNames(cmd, args[0]), cobra.ShellCompDirectiveNoFileComp
}

func (g *globals) cursorNames(cmd *cobra.Command, log string) (names []cobra.Completion) {
	g.completing(cmd, func(ctx context.Context, c *client.Client) {
		all, err := c.Log(log).Cursors(ctx)
		if err != nil {
			return
		}
		for _, cur := range all {
			names = append(names, cobra.CompletionWithDesc(cur.Name, fmt.Sprintf("LSN %d, %s", cur.LSN, cur.State)))
		}
	})
	return names
}
