package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// holderResult is a holder as walctl prints it.
type holderResult struct {
	Kind        string `json:"kind"`
	Log         string `json:"log,omitempty"`
	Name        string `json:"name,omitempty"`
	LSN         uint64 `json:"lsn,omitempty"`
	Lowest      bool   `json:"lowest,omitempty"`
	CursorState string `json:"cursor_state,omitempty"`
	LiveBytes   uint64 `json:"live_bytes"`
	Segment     string `json:"segment,omitempty"`
	Segments    uint64 `json:"segments"`
	MovedLSN    uint64 `json:"moved_lsn,omitempty"`
}

func newHolderResult(h *walsvcv1.Holder) holderResult {
	r := holderResult{
		Kind: strings.ToLower(strings.TrimPrefix(h.GetKind().String(), "HOLDER_KIND_")),
		Log:  h.GetLog(), Name: h.GetName(), LSN: h.GetLsn(), Lowest: h.GetLowest(), LiveBytes: h.GetLiveBytes(), Segments: h.GetSegments(),
		MovedLSN: h.GetMovedLsn(),
	}
	if h.GetSegment() != 0 {
		r.Segment = fmt.Sprintf("%016x", h.GetSegment())
	}
	if s := h.GetCursorState(); s != walsvcv1.CursorState_CURSOR_STATE_UNSPECIFIED {
		r.CursorState = client.CursorState(s).String()
	}
	return r
}

// holderList is what `walctl holders` prints.
type holderList struct {
	Holders []holderResult `json:"holders"`
}

func (l holderList) tables() []grid {
	t := grid{head: []string{"LOG", "HOLDER", "NAME", "STATE", "LSN", "HOLDS", "SEGMENTS", "FROM", "MOVED"}, empty: "no holders"}
	for _, h := range l.Holders {
		state := h.CursorState
		if h.Kind == "log" {
			state = "nothing let go"
		}
		var lsn any
		if lsn = ""; h.LSN != 0 {
			lsn = h.LSN
		}
		lowest := ""
		if h.Lowest {
			lowest = "*"
		}
		moved := "-"
		if h.MovedLSN != 0 {
			moved = fmt.Sprintf("to %d", h.MovedLSN)
		}
		t.rows = append(t.rows, []any{cmp.Or(h.Log, "-"), h.Kind + lowest, cmp.Or(h.Name, "-"), cmp.Or(state, "-"), lsn, size(h.LiveBytes), h.Segments, cmp.Or(h.Segment, "-"), moved})
	}
	return []grid{t}
}

func newHoldersCommand(g *globals) *cobra.Command {
	var most int
	cmd := &cobra.Command{
		Use:   "holders [PREFIX]",
		Short: "List who keeps records, and segments, from being given up",
		Long: `List who keeps records of the logs whose names begin with a prefix, and with them
segments of the journal: checkpoints, cursors, logs that have neither and were not
truncated, the snapshot that opening begins at, and replays in segments that were
released. Those that need the most segments come first; * marks the lowest of
each log. To get space back, move it forward, delete it, or truncate the log. Of a log
with little left in segments that nobody else keeps, the records are moved forward
by the service itself; MOVED says up to which LSN.

JSON: holders [], each with kind (checkpoint, cursor, log, snapshot or readers), log,
name, lsn (first record that it holds), lowest (nobody of the log holds an older one),
cursor_state, live_bytes, segment (oldest that it needs, as its file is called),
segments (from that one on, also those that only others need), moved_lsn (records from lsn up to it were moved forward).`,
		Example:           "  walctl holders --most 10",
		GroupID:           groupOnline,
		Args:              maxArgs(1),
		ValidArgsFunction: g.completeLog,
	}
	cmd.Flags().IntVarP(&most, "most", "n", 0, "list at most this `number`; 0: all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if most < 0 {
			return usagef("--most %d is negative", most)
		}
		prefix := strings.Join(args, "")
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			list := holderList{Holders: []holderResult{}}
			for h, err := range c.Holders(ctx, prefix) {
				if err != nil {
					return err
				}
				list.Holders = append(list.Holders, newHolderResult(h))
			}
			slices.SortStableFunc(list.Holders, func(a, b holderResult) int {
				return cmp.Or(cmp.Compare(b.Segments, a.Segments), cmp.Compare(b.LiveBytes, a.LiveBytes))
			})
			if most > 0 {
				list.Holders = list.Holders[:min(most, len(list.Holders))]
			}
			return g.print(cmd, list)
		})
	}
	return cmd
}
