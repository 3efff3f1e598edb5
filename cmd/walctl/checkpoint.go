package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/limits"
)

// checkpointResult is a checkpoint as walctl prints it.
type checkpointResult struct {
	Name      string     `json:"name"`
	LSN       client.LSN `json:"lsn"`
	Version   uint64     `json:"version"`
	StateSize int        `json:"state_size"`
	SetTime   time.Time  `json:"set_time"`
	State     []byte     `json:"state,omitempty"` // base64 in JSON
}

// checkpointJSON is the text on its JSON, for the help.
const checkpointJSON = `name, lsn, version (how often it was set), state_size, set_time (RFC 3339)`

func newCheckpointResult(c client.Checkpoint) checkpointResult {
	return checkpointResult{c.Name, c.LSN, c.Version, c.StateSize, c.Set.UTC(), c.State}
}

func (c checkpointResult) tables() []grid {
	return []grid{{rows: [][]any{
		{"checkpoint", c.Name},
		{"lsn", uint64(c.LSN)},
		{"version", c.Version},
		{"state", size(c.StateSize)},
		{"set", c.SetTime},
	}}}
}

func newCheckpointCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Set, get, list and delete checkpoints",
		Long: `Set, get, list and delete the checkpoints of a log. A checkpoint says "my own
storage holds everything up to this LSN": an engine recovers from it, and the
records above it are held.`,
		GroupID: groupOnline,
		Args:    noArgs,
		RunE:    help,
	}
	cmd.AddCommand(newCheckpointSetCommand(g), newCheckpointGetCommand(g), newCheckpointListCommand(g), newCheckpointDeleteCommand(g))
	return cmd
}

// expectVersion adds the flag --expect-version and returns what it says.
func expectVersion(cmd *cobra.Command) func() []client.CheckpointOption {
	version := cmd.Flags().Uint64("expect-version", 0, "refuse unless the checkpoint has this `version`; 0: unless there is none")
	return func() []client.CheckpointOption {
		if !cmd.Flags().Changed("expect-version") {
			return nil
		}
		return []client.CheckpointOption{client.ExpectVersion(*version)}
	}
}

func newCheckpointSetCommand(g *globals) *cobra.Command {
	var lsn uint64
	var state, stateFile string
	cmd := &cobra.Command{
		Use:   "set LOG NAME --lsn LSN",
		Short: "Set a checkpoint",
		Long: `Set a checkpoint to an LSN that is durable and not below the one it has. What
was below is let go when every other checkpoint of the log is above it too.

JSON: ` + checkpointJSON + `.`,
		Example:           "  walctl checkpoint set orders engine --lsn 1000 --state-file engine.checkpoint",
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeCheckpoint,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&lsn, "lsn", 0, "`LSN` up to which the engine's own storage holds everything")
	flags.StringVar(&state, "state", "", "the engine's own state, as `text`")
	flags.StringVar(&stateFile, "state-file", "", "the engine's own state, from a `file` of at most 1 MiB; - means standard input")
	cmd.MarkFlagsMutuallyExclusive("state", "state-file")
	expected := expectVersion(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !flags.Changed("lsn") {
			return usagef("--lsn is missing")
		}
		bytes := []byte(state)
		if stateFile != "" {
			var err error
			if bytes, err = readState(cmd, stateFile); err != nil {
				return err
			}
		}
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			cp, err := c.Log(args[0]).SetCheckpoint(ctx, args[1], client.LSN(lsn), bytes, expected()...)
			if err != nil {
				return err
			}
			return g.print(cmd, newCheckpointResult(cp))
		})
	}
	return cmd
}

// readState reads the state of a checkpoint, and no more than one may have.
func readState(cmd *cobra.Command, path string) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("--state-file: %w", err)
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limits.MaxCheckpointState+1))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if len(b) > limits.MaxCheckpointState {
		return nil, usagef("--state-file: %s is over %s, the most a checkpoint carries; let it name a file of yours", path, size(limits.MaxCheckpointState))
	}
	return b, nil
}

func newCheckpointGetCommand(g *globals) *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "get LOG NAME",
		Short: "Show a checkpoint, or print its state",
		Long: `Show a checkpoint or, with --raw, write its state to standard output as it is.

JSON: ` + checkpointJSON + `, state (base64;
absent if empty).`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				cp, err := c.Log(args[0]).Checkpoint(ctx, args[1])
				if err != nil {
					return err
				}
				if raw {
					_, err := cmd.OutOrStdout().Write(cp.State)
					return err
				}
				return g.print(cmd, newCheckpointResult(cp))
			})
		},
		ValidArgsFunction: g.completeCheckpoint,
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "write the state and nothing else")
	return cmd
}

// checkpointList is what `walctl checkpoint list` prints.
type checkpointList struct {
	Log         string             `json:"log"`
	Checkpoints []checkpointResult `json:"checkpoints"`
}

func (l checkpointList) tables() []grid {
	t := grid{head: []string{"CHECKPOINT", "LSN", "VERSION", "STATE", "SET"}, empty: "no checkpoints"}
	for _, c := range l.Checkpoints {
		t.rows = append(t.rows, []any{c.Name, uint64(c.LSN), c.Version, size(c.StateSize), c.SetTime})
	}
	return []grid{t}
}

func newCheckpointListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list LOG",
		Short: "List the checkpoints of a log",
		Long: `List the checkpoints of a log by name.

JSON: log, checkpoints [], each with ` + checkpointJSON + `.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				all, err := c.Log(args[0]).Checkpoints(ctx)
				if err != nil {
					return err
				}
				list := checkpointList{Log: args[0], Checkpoints: []checkpointResult{}}
				for _, cp := range all {
					list.Checkpoints = append(list.Checkpoints, newCheckpointResult(cp))
				}
				return g.print(cmd, list)
			})
		},
		ValidArgsFunction: g.completeLog,
	}
}

func newCheckpointDeleteCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete LOG NAME",
		Short: "Delete a checkpoint, which then holds nothing any more",
		Long: `Delete a checkpoint, which then holds nothing any more. The log's records stay
until they are truncated or another checkpoint lets them go.

JSON: log, checkpoint, deleted.`,
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeCheckpoint,
	}
	expected := expectVersion(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			if err := c.Log(args[0]).DeleteCheckpoint(ctx, args[1], expected()...); err != nil {
				return err
			}
			return g.print(cmd, deletedResult{Log: args[0], Checkpoint: args[1], Deleted: true})
		})
	}
	return cmd
}

func newTruncateCommand(g *globals) *cobra.Command {
	var before uint64
	cmd := &cobra.Command{
		Use:   "truncate LOG --before LSN",
		Short: "Give up the records below an LSN",
		Long: `Give up a log's records below an LSN. It never passes the log's lowest
checkpoint or cursor; the space comes back segment by segment.

JSON: ` + logJSON + `.`,
		GroupID:           groupOnline,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&before, "before", 0, "oldest `LSN` to keep")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !flags.Changed("before") {
			return usagef("--before is missing")
		}
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			info, err := c.Log(args[0]).Truncate(ctx, client.LSN(before))
			if err != nil {
				return err
			}
			return g.print(cmd, newLogResult(info))
		})
	}
	return cmd
}
