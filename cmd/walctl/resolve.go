package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// resolveResult is what `walctl resolve` prints.
type resolveResult struct {
	Log          string     `json:"log"`
	Producer     string     `json:"producer"`
	Sequence     uint64     `json:"sequence"`
	Outcome      string     `json:"outcome"`
	FirstLSN     client.LSN `json:"first_lsn"`
	Count        int        `json:"count"`
	Epoch        uint64     `json:"epoch"`
	LastSequence uint64     `json:"last_sequence"`
	// Parts are what a batch over several logs appended to the others.
	Parts []resolvedPart `json:"parts"`
}

type resolvedPart struct {
	LogID    string     `json:"log_id"`
	FirstLSN client.LSN `json:"first_lsn"`
	Count    int        `json:"count"`
	Epoch    uint64     `json:"epoch"`
}

func (r resolveResult) tables() []grid {
	rows := [][]any{{"log", r.Log}, {"producer", r.Producer}, {"sequence", r.Sequence}, {"outcome", r.Outcome}}
	switch {
	case r.Outcome != client.Committed.String() && r.Outcome != client.Discarded.String():
	case r.FirstLSN == 0:
		rows = append(rows, []any{"at", "a position that is no longer kept"})
	default:
		rows = append(rows, []any{"at", fmt.Sprintf("LSN %d to %d of epoch %d", r.FirstLSN, r.FirstLSN+client.LSN(r.Count)-1, r.Epoch)})
	}
	for _, p := range r.Parts {
		rows = append(rows, []any{"and at", fmt.Sprintf("LSN %d to %d of epoch %d of log %s", p.FirstLSN, p.FirstLSN+client.LSN(p.Count)-1, p.Epoch, cmp.Or(p.LogID, "that was deleted since"))})
	}
	return []grid{{rows: append(rows, []any{"last sequence", r.LastSequence})}}
}

func newResolveCommand(g *globals) *cobra.Command {
	var epoch uint64
	cmd := &cobra.Command{
		Use:   "resolve LOG PRODUCER SEQUENCE",
		Short: "Find out what became of a batch whose outcome is unknown",
		Long: `Find out, once for all, what became of a producer's batch whose outcome is
unknown. Whatever else the producer has under way is ended first, so that what is
"not written" never will be: a client that still appends as this producer is told
SUPERSEDED.

JSON: log, producer, sequence, outcome ("committed", "not written", "fenced" if it
is not written and its epoch is over, or "discarded" if it was committed and a
rewind discarded it since), first_lsn (0 unless it was committed and its position
is still kept), count, epoch, last_sequence (of the producer), parts (of a batch
over several logs: log_id, first_lsn, count, epoch).`,
		Example:           "  walctl resolve orders 01JD3W8Z7Q4T5R6Y7P8N9M0KXA 42",
		GroupID:           groupOnline,
		Args:              exactArgs(3),
		ValidArgsFunction: g.completeLog,
	}
	cmd.Flags().Uint64Var(&epoch, "epoch", 0, "`epoch` that the batch stated; 0 for none")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		u := &client.UnknownError{Epoch: epoch}
		var err error
		if u.Producer, err = ulid.ParseStrict(args[1]); err != nil {
			return usagef("producer %q is not a ULID of 26 characters", args[1])
		}
		if u.Sequence, err = strconv.ParseUint(args[2], 10, 64); err != nil || u.Sequence == 0 {
			return usagef("sequence %q is not a number from 1", args[2])
		}
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			r, err := c.Log(args[0]).Resolve(ctx, u)
			if err != nil {
				return err
			}
			parts := []resolvedPart{}
			for _, p := range r.Parts {
				part := resolvedPart{FirstLSN: p.LSN, Count: p.Count, Epoch: p.Epoch}
				if p.Log != (ulid.ULID{}) {
					part.LogID = p.Log.String()
				}
				parts = append(parts, part)
			}
			return g.print(cmd, resolveResult{
				Log: args[0], Producer: u.Producer.String(), Sequence: u.Sequence, Outcome: r.Outcome.String(),
				FirstLSN: r.Receipt.LSN, Count: r.Receipt.Count, Epoch: r.Receipt.Epoch, LastSequence: r.LastSequence, Parts: parts,
			})
		})
	}
	return cmd
}
