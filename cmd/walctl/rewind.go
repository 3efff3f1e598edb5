package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// rewindResult is what `walctl rewind` prints.
type rewindResult struct {
	Log     logResult `json:"log"`
	Rewound bool      `json:"rewound"`
	Records uint64    `json:"records"`
	Bytes   uint64    `json:"bytes"`
}

func (r rewindResult) tables() []grid {
	said := "would discard"
	if r.Rewound {
		said = "discarded"
	}
	what := [][]any{{said, fmt.Sprintf("%s records, %s", grouped(r.Records), size(r.Bytes))}}
	return append([]grid{{rows: what}}, r.Log.tables()...)
}

func newRewindCommand(g *globals) *cobra.Command {
	var after, epoch uint64
	var holder string
	var yes, plan bool
	cmd := &cobra.Command{
		Use:   "rewind LOG --after LSN",
		Short: "Discard a log's records behind an LSN",
		Long: `Discard a log's records behind an LSN, for good: they are never read again. A new
epoch begins, in which their LSNs are given again. It never passes a checkpoint
(HELD). Whatever still appends in an older epoch is FENCED; replays and cursors
that have come beyond are told (REWOUND), and a batch that was discarded is never
appended again (DISCARDED).

It says how many records would go and asks first, unless --yes is given, and
discards what it has shown or nothing: not what came in the meantime.

JSON: log {` + logJSON + `},
rewound (false if nothing was discarded), records and bytes (framed) that were
discarded, or would be.`,
		Example:           "  walctl rewind orders --after 41200 --holder db-2",
		GroupID:           groupOnline,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&after, "after", 0, "last `LSN` to keep; 0 for none")
	flags.StringVar(&holder, "holder", "", "`name` of the writer of the epoch that begins; without it, the log is shared")
	flags.Uint64Var(&epoch, "expect-epoch", 0, "refuse unless the log is in this `epoch`")
	flags.BoolVar(&plan, "plan", false, "say what would be discarded, and discard nothing")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !flags.Changed("after") {
			return usagef("--after is missing")
		}
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			log := c.Log(args[0])
			info, err := log.Info(ctx)
			if err != nil {
				return err
			}
			r := client.Rewind{After: client.LSN(after), Epoch: info.Epoch, Next: info.Next, Holder: holder, Plan: true}
			if flags.Changed("expect-epoch") {
				r.Epoch = epoch
			}
			would, err := log.Rewind(ctx, r)
			if err != nil {
				return err
			}
			if !plan && !yes {
				question := fmt.Sprintf("Discard %s records (%s) of log %q, behind LSN %d, for good?",
					grouped(would.Records), size(would.Bytes), args[0], after)
				if yes, err = confirm(cmd, question); err != nil {
					return err
				}
			}
			if plan || !yes {
				return g.print(cmd, rewindResult{newLogResult(would.Log), false, would.Records, would.Bytes})
			}
			r.Plan = false
			done, err := log.Rewind(ctx, r)
			if err != nil {
				return err
			}
			// Of one that had to be asked for twice the service does not know any more what
			// it took; it took what it was to take, since nobody appended meanwhile.
			return g.print(cmd, rewindResult{newLogResult(done.Log), true, would.Records, would.Bytes})
		})
	}
	return cmd
}
