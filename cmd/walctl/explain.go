package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/server"
)

// explainResult is what `walctl explain` prints: rows of the service's table of
// errors.
type explainResult struct {
	Reasons []reasonResult `json:"reasons"`
	all     bool
}

type reasonResult struct {
	Reason     string  `json:"reason"`
	Code       string  `json:"code"`
	Means      string  `json:"means"`
	Changed    string  `json:"changed"`
	Repeated   string  `json:"repeated"`
	RetryAfter float64 `json:"retry_after_seconds"`
	Next       string  `json:"next"`
}

func newExplainCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [REASON]",
		Short: "Explain a reason that the service refuses or fails with",
		Long: `Explain a reason that the service refuses or fails with: what it means, what the
call changed, what the Go client repeats by itself, and what to do next. Without
a REASON it lists all of them. No service is asked.

A call that "nothing" was changed by made nothing durable, now or later, and
used up no sequence. With "unknown" it may be durable by now, or be found so at
the next start: repeat it with the same producer and sequence, or look.

JSON: reasons [{reason, code (of the status), means, changed ("nothing" or
"unknown"), repeated (by the Go client; "" for nothing), retry_after_seconds (0
where waiting alone does not help), next}].`,
		GroupID: groupTry,
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return g.print(cmd, explainAll())
			}
			r, err := explainReason(args[0])
			if err != nil {
				return err
			}
			return g.print(cmd, r)
		},
		ValidArgsFunction: completeReason,
	}
}

func explainAll() explainResult {
	r := explainResult{all: true}
	for _, row := range server.Table {
		r.Reasons = append(r.Reasons, newReasonResult(row))
	}
	return r
}

// explainReason finds a reason however it is spelled: FULL, full, lsn-ahead.
func explainReason(name string) (explainResult, error) {
	spelled := strings.ReplaceAll(strings.ToUpper(name), "-", "_")
	for _, row := range server.Table {
		if row.Reason == spelled {
			return explainResult{Reasons: []reasonResult{newReasonResult(row)}}, nil
		}
	}
	return explainResult{}, &failure{code: exitUsage, err: fmt.Errorf("no reason is called %q", name), next: "see walctl explain for all of them"}
}

func newReasonResult(row server.Row) reasonResult {
	return reasonResult{
		Reason: row.Reason, Code: row.Code.String(), Means: row.Means, Changed: row.Effect.String(),
		Repeated: row.Retried, RetryAfter: row.Retry.Seconds(), Next: row.Hint,
	}
}

func (e explainResult) tables() []grid {
	if e.all {
		t := grid{head: []string{"REASON", "CHANGED", "MEANS"}}
		for _, r := range e.Reasons {
			t.rows = append(t.rows, []any{r.Reason, mood{r.Changed, r.Changed != server.Nothing.String()}, r.Means})
		}
		return []grid{t}
	}
	var tables []grid
	for _, r := range e.Reasons {
		tables = append(tables, r.table())
	}
	return tables
}

func (r reasonResult) table() grid {
	changed := "nothing: it made nothing durable, now or later, and used up no sequence"
	if r.Changed != server.Nothing.String() {
		changed = "unknown: it may be durable by now, or be found so at the next start"
	}
	waiting := "not by itself"
	if r.RetryAfter > 0 {
		waiting = "perhaps: the same call may succeed after " + time.Duration(r.RetryAfter*float64(time.Second)).String()
	}
	return grid{title: r.Reason, rows: [][]any{
		{"means", r.Means},
		{"changed", mood{changed, r.Changed != server.Nothing.String()}},
		{"next", r.Next},
		{"waiting helps", waiting},
		{"the client repeats", cmp.Or(r.Repeated, "nothing")},
		{"code", r.Code},
	}}
}

// completeReason offers the reasons.
func completeReason(_ *cobra.Command, args []string, _ string) (names []cobra.Completion, d cobra.ShellCompDirective) {
	d = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, d
	}
	for _, row := range server.Table {
		names = append(names, cobra.CompletionWithDesc(row.Reason, row.Means))
	}
	return names, d
}
