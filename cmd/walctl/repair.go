package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/wal"
)

// repairResult is what `walctl repair` prints: the plan, and whether it was done.
type repairResult struct {
	Dir         string             `json:"dir"`
	Volume      string             `json:"volume"`
	Needed      bool               `json:"needed"`
	Applied     bool               `json:"applied"`
	ReadOnly    bool               `json:"read_only"`
	Damage      []verifyDamage     `json:"damage"`
	Backup      string             `json:"backup"`
	Files       []string           `json:"files"`
	Writes      string             `json:"writes"`
	LostFrames  uint64             `json:"lost_frames"`
	Records     []repairRecords    `json:"records"`
	Checkpoints []repairCheckpoint `json:"checkpoints"`
	Producers   []repairProducers  `json:"producers"`
	Logs        []repairLog        `json:"logs"`
	Unsure      []string           `json:"unsure"`
}

type repairRecords struct {
	Log      string `json:"log"`
	FirstLSN uint64 `json:"first_lsn"`
	LastLSN  uint64 `json:"last_lsn"`
	Open     bool   `json:"open"`
	Epoch    uint64 `json:"epoch"`
}

type repairCheckpoint struct {
	Log        string `json:"log"`
	Checkpoint string `json:"checkpoint"`
}

type repairProducers struct {
	Log   string `json:"log"`
	Count int    `json:"count"`
}

type repairLog struct {
	Number uint64 `json:"number"`
	Log    string `json:"log"`
	Detail string `json:"detail"`
}

func newRepairResult(p *wal.RepairPlan) repairResult {
	r := repairResult{
		Dir: p.Dir, Volume: p.Volume.String(), Needed: p.Needed, ReadOnly: p.ReadOnly, Damage: newVerifyDamage(p.Damage),
		Files: append([]string{}, p.Files...), Writes: p.Writes, LostFrames: p.Frames,
		Records: []repairRecords{}, Checkpoints: []repairCheckpoint{}, Producers: []repairProducers{}, Logs: []repairLog{},
		Unsure: append([]string{}, p.Unsure...),
	}
	if len(p.Files) > 0 {
		r.Backup = p.Backup
	}
	for _, l := range p.Records {
		r.Records = append(r.Records, repairRecords{l.Log, uint64(l.First), uint64(l.Last), l.Open, uint64(l.Epoch)})
	}
	for _, c := range p.Checkpoints {
		r.Checkpoints = append(r.Checkpoints, repairCheckpoint{c.Log, c.Name})
	}
	for _, f := range p.Producers {
		r.Producers = append(r.Producers, repairProducers{f.Log, f.Count})
	}
	for _, l := range p.Logs {
		r.Logs = append(r.Logs, repairLog{l.Number, l.Name, l.Detail})
	}
	return r
}

func (r repairResult) tables() []grid {
	verdict := mood{"no need: nothing is damaged that no repair took account of", false}
	switch {
	case r.Applied:
		verdict = mood{"done: walsvc serves the volume again", false}
	case r.Needed && r.ReadOnly:
		verdict = mood{"needed: the volume opens read-only, or not at all", true}
	case r.Needed:
		verdict = mood{"possible: the volume is served, without what is damaged", true}
	}
	summary := grid{rows: [][]any{{"volume", r.Dir}, {"repair", verdict}}}
	if !r.Needed {
		return []grid{summary}
	}
	if len(r.Files) > 0 {
		summary.rows = append(summary.rows, []any{"backup", r.Backup})
		for i, name := range r.Files {
			what := ""
			if i == 0 {
				what = "copies"
			}
			summary.rows = append(summary.rows, []any{what, name})
		}
	}
	summary.rows = append(summary.rows, []any{"writes", r.Writes}, []any{"lost frames", r.LostFrames})
	tables := []grid{summary, damageGrid(r.Damage)}

	records := grid{title: "Given up", head: []string{"log", "LSNs", "what"}, empty: "No record is given up."}
	for i, l := range r.Records {
		if i == maxLogRows {
			records.title = fmt.Sprintf("Given up (the first %d of %d ranges)", maxLogRows, len(r.Records))
			break
		}
		lsns, what := fmt.Sprintf("%d-%d", l.FirstLSN, l.LastLSN), "reads answer DATA_LOSS"
		if l.Open {
			lsns = fmt.Sprintf("%d-", l.FirstLSN)
			what = fmt.Sprintf("whatever was there, if anything; reads answer DATA_LOSS, epoch %d begins behind LSN %d", l.Epoch, l.LastLSN)
		}
		records.rows = append(records.rows, []any{l.Log, lsns, what})
	}
	tables = append(tables, records)
	others := grid{title: "Besides", head: []string{"log", "what"}}
	for _, c := range r.Checkpoints {
		others.rows = append(others.rows, []any{c.Log, fmt.Sprintf("the state of checkpoint %s is lost, its LSN is not", c.Checkpoint)})
	}
	for _, p := range r.Producers {
		others.rows = append(others.rows, []any{p.Log, fmt.Sprintf("producers that have to be opened again: %d", p.Count)})
	}
	for _, l := range r.Logs {
		name := l.Log
		if name == "" {
			name = fmt.Sprintf("#%d", l.Number)
		}
		others.rows = append(others.rows, []any{name, l.Detail})
	}
	for i, log := range r.Unsure {
		if i == maxLogRows {
			others.title = fmt.Sprintf("Besides (the first %d of %d logs that may have been sealed or rewound)", maxLogRows, len(r.Unsure))
			break
		}
		others.rows = append(others.rows, []any{log, "it may have been sealed or rewound in what is lost, and goes on as if it had not been"})
	}
	if len(others.rows) > 0 {
		tables = append(tables, others)
	}
	return tables
}

func newRepairCommand(g *globals) *cobra.Command {
	var plan, apply, yes bool
	cmd := &cobra.Command{
		Use:   "repair {--plan | --apply} DIR",
		Short: "Let a damaged volume go on without what is lost",
		Long: `Say what is lost of the damaged volume in DIR and what it takes to go on without
it (--plan; nothing is written, and the volume may be in use), or do exactly that
(--apply; walsvc must not run on it).

--apply copies the damaged files to a directory beside DIR, asks unless --yes is
passed, and adds one segment to the volume. The damaged ones stay where they are:
what verifies in them is served. The records that are named answer DATA_LOSS from
then on, and never get others in their place; where nobody can tell how many
records a log had at its end, one LSN stands for them, and a new epoch begins.

A VOLUME file that is lost or damaged is written anew from the segments' headers,
by a repair of its own: plan again afterwards.

If there is a copy of the volume, or of the logs that are named, restore that
instead. The exit code is 0, also when there is no need, and ` + fmt.Sprint(exitDamage) + ` if the volume
cannot be repaired.

JSON: dir, volume, needed, applied, read_only, damage [] as of verify, backup,
files [], writes, lost_frames, records [] of log, first_lsn, last_lsn, open and
epoch, checkpoints [] of log and checkpoint, producers [] of log and count, logs []
of number, log and detail, unsure [] (logs that may have been sealed or rewound in
what is lost).`,
		Example: `  walctl repair --plan /var/lib/walsvc
  walctl repair --apply /var/lib/walsvc`,
		GroupID: groupOffline,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if plan == apply {
				return usagef("say either --plan or --apply")
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("directory %q: %w", args[0], err)
			}
			line := newStatusLine(cmd.ErrOrStderr())
			o := wal.RepairOptions{Progress: line.bytes}
			p, err := wal.PlanRepair(cmd.Context(), dir, o)
			line.clear()
			if err != nil {
				return explainRepair(dir, err)
			}
			r := newRepairResult(p)
			if plan || !p.Needed {
				return g.print(cmd, r)
			}
			if !yes {
				if err := g.print(cmd, r); err != nil {
					return err
				}
				if yes, err = confirm(cmd, "Give this up for good?"); err != nil {
					return err
				}
				if !yes {
					return &failure{code: exitFailed, err: errors.New("nothing was changed")}
				}
			}
			err = wal.ApplyRepair(cmd.Context(), p, o)
			line.clear()
			if err != nil {
				return explainRepair(dir, err)
			}
			r.Applied = true
			return g.print(cmd, r)
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	}
	flags := cmd.Flags()
	flags.BoolVar(&plan, "plan", false, "say what would be done and lost")
	flags.BoolVar(&apply, "apply", false, "do it")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// explainRepair gives the errors of a repair their exit codes and next steps.
func explainRepair(dir string, err error) error {
	for _, row := range []struct {
		err  error
		code int
		next string
	}{
		{wal.ErrInUse, exitUnavailable, "stop walsvc first"},
		{wal.ErrPlanStale, exitFailed, "look at it again with walctl repair --plan DIR"},
		{wal.ErrBeyondRepair, exitDamage, "restore the volume from a copy"},
		{wal.ErrFull, exitFailed, "make room on the file system, and try again"},
	} {
		if errors.Is(err, row.err) {
			return &failure{code: row.code, err: err, next: strings.ReplaceAll(row.next, "DIR", dir)}
		}
	}
	return explainVolume(err)
}
