package main

import (
	"context"
	"fmt"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
)

// producerResult is a producer as walctl prints it.
type producerResult struct {
	ID           string     `json:"id"`
	LastSequence uint64     `json:"last_sequence"`
	Incarnation  uint64     `json:"incarnation"`
	ActiveLSN    client.LSN `json:"active_lsn"`
	Retired      bool       `json:"retired"`
	MadeWay      bool       `json:"made_way"`
}

// producerJSON is the text on its JSON, for the help.
const producerJSON = `id, last_sequence (its last batch, 0 if none),
incarnation, active_lsn (the log's last LSN when it last appended, or was opened;
0 if it made way), retired, made_way (for others: it has no slot any more)`

// state says in one word how a producer stands.
func (p producerResult) state() string {
	switch {
	case p.Retired:
		return "retired"
	case p.MadeWay:
		return "made way"
	}
	return "open"
}

// active spells the LSN for people.
func (p producerResult) active() any {
	if p.MadeWay {
		return "-"
	}
	return uint64(p.ActiveLSN)
}

func newProducerCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "producer",
		Short: "List and retire the producers of a log",
		Long: `List and retire the producers of a log: who appended to it, and how many batches.
That is what makes a repeated append land once.`,
		GroupID: groupOnline,
		Args:    noArgs,
		RunE:    help,
	}
	cmd.AddCommand(newProducerListCommand(g), newProducerRetireCommand(g))
	return cmd
}

// producerList is what `walctl producer list` prints.
type producerList struct {
	Producers []producerResult `json:"producers"`
}

func (l producerList) tables() []grid {
	t := grid{head: []string{"PRODUCER", "STATE", "BATCHES", "INCARNATION", "ACTIVE"}, empty: "no producers"}
	for _, p := range l.Producers {
		t.rows = append(t.rows, []any{p.ID, mood{p.state(), p.Retired}, p.LastSequence, p.Incarnation, p.active()})
	}
	return []grid{t}
}

func newProducerListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "list LOG",
		Short: "List what a log remembers of its producers",
		Long: `List what a log remembers of its producers, in the order of their IDs: those that
are open, and those that made way for others since they had not appended for
longest. ACTIVE is the log's last LSN when a producer last appended; the lowest
makes way next.

JSON: producers [], each with ` + producerJSON + `.`,
		Args:              exactArgs(1),
		ValidArgsFunction: g.completeLog,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				list := producerList{Producers: []producerResult{}}
				for p, err := range c.Log(args[0]).Producers(ctx) {
					if err != nil {
						return err
					}
					list.Producers = append(list.Producers, producerResult{p.ID.String(), p.LastSequence, p.Incarnation, p.Active, p.Retired, p.MadeWay})
				}
				return g.print(cmd, list)
			})
		},
	}
}

// retiredResult is what `walctl producer retire` prints.
type retiredResult struct {
	Log      string `json:"log"`
	Producer string `json:"producer"`
	Retired  bool   `json:"retired"`
}

func (r retiredResult) tables() []grid {
	text := mood{"retired for good: nothing more of it lands", true}
	if !r.Retired {
		text = mood{"not retired", false}
	}
	return []grid{{rows: [][]any{{"log", r.Log}, {"producer", r.Producer}, {"state", text}}}}
}

func newProducerRetireCommand(g *globals) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "retire LOG PRODUCER",
		Short: "End a producer for good",
		Long: `End a producer for good. Nothing more of it lands, wherever it is on its way, and
whoever appends as this producer is told PRODUCER_RETIRED: a process that keeps
its producer across restarts (Options.Producer) cannot append any more until it
is given another one. There is no way back. What it appended stays. It asks
first, unless --yes is given.

JSON: log, producer, retired (false if the answer was no).`,
		Example:           "  walctl producer retire orders 01JD3W8Z7Q4T5R6Y7P8N9M0KXA",
		Args:              exactArgs(2),
		ValidArgsFunction: g.completeLog,
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		producer, err := ulid.ParseStrict(args[1])
		if err != nil {
			return usagef("producer %q is not a ULID of 26 characters", args[1])
		}
		return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
			if !yes {
				question := fmt.Sprintf("Producer %s will never append to log %q again, and whoever appends as it is refused from now on. Retire it for good?", producer, args[0])
				if yes, err = confirm(cmd, question); err != nil {
					return err
				}
			}
			if yes {
				if err := c.Log(args[0]).RetireProducer(ctx, producer); err != nil {
					return err
				}
			}
			return g.print(cmd, retiredResult{args[0], producer.String(), yes})
		})
	}
	return cmd
}
