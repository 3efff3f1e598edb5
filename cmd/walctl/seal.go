package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

func newSealCommand(g *globals) *cobra.Command {
	var yes bool
	var epoch uint64
	cmd := &cobra.Command{
		Use:   "seal LOG",
		Short: "End a log for good: nothing is appended to it any more",
		Long: `End a log for good: what was appended before is there, and nothing comes behind
it. Appends are refused with SEALED, whoever sends them; those who follow the log
end where it does. Reading it, checkpoints, cursors, truncating and deleting go
on. It asks first, unless --yes is given: there is no way back.

JSON: ` + logJSON + `.`,
		Example:           "  walctl seal orders-2025 --yes",
		GroupID:           groupOnline,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	flags.Uint64Var(&epoch, "expect-epoch", 0, "refuse unless the log is in this `epoch`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			info, err := c.GetLog(ctx, args[0])
			if err != nil {
				return err
			}
			if !yes && info.Sealed.IsZero() {
				question := fmt.Sprintf("Seal log %q for good (%s)?", info.Name, lsnRange(info.First, info.Next))
				if yes, err = confirm(cmd, question); err != nil {
					return err
				}
				if !yes {
					return g.print(cmd, newLogResult(info))
				}
			}
			var opts []client.SealOption
			if flags.Changed("expect-epoch") {
				opts = append(opts, client.SealInEpoch(epoch))
			}
			if info, err = c.Log(args[0]).Seal(ctx, opts...); err != nil {
				return err
			}
			return g.print(cmd, newLogResult(info))
		})
	}
	return cmd
}
