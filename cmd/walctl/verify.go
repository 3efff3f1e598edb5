package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/wal"
)

// verifyResult is what `walctl verify` prints.
type verifyResult struct {
	Dir            string         `json:"dir"`
	Verdict        string         `json:"verdict"`
	Case           string         `json:"case"`
	Detail         string         `json:"detail"`
	Segments       int            `json:"segments"`
	Gaps           int            `json:"gaps"`
	Frames         uint64         `json:"frames"`
	Records        uint64         `json:"records"`
	DurableFrame   uint64         `json:"durable_frame"`
	DiscardedBytes int64          `json:"discarded_bytes"`
	Damage         []verifyDamage `json:"damage"`
	Lost           []verifyLog    `json:"lost"`
}

type verifyDamage struct {
	File     string      `json:"file"`
	Offset   int64       `json:"offset"`
	Sequence uint64      `json:"sequence"`
	Case     string      `json:"case"`
	Detail   string      `json:"detail"`
	Logs     []verifyLog `json:"logs"`
	Repaired bool        `json:"repaired"`
}

type verifyLog struct {
	Log      string `json:"log"`
	FirstLSN uint64 `json:"first_lsn"`
	LastLSN  uint64 `json:"last_lsn"`
}

func newVerifyResult(dir string, v *wal.Verification) verifyResult {
	r := verifyResult{
		Dir: dir, Verdict: v.Verdict, Case: v.Case, Detail: v.Detail, Segments: v.Segments, Gaps: v.Gaps, Frames: v.Frames,
		Records: v.Records, DurableFrame: v.DurableFrame, DiscardedBytes: v.DiscardedBytes,
		Damage: newVerifyDamage(v.Damage), Lost: newVerifyLogs(v.Lost),
	}
	return r
}

func newVerifyDamage(damage []wal.Damage) []verifyDamage {
	list := []verifyDamage{}
	for _, d := range damage {
		list = append(list, verifyDamage{d.File, d.Offset, d.Sequence, d.Case, d.Detail, newVerifyLogs(d.Logs), d.Repaired})
	}
	return list
}

func newVerifyLogs(logs []wal.DamagedLog) []verifyLog {
	list := []verifyLog{}
	for _, l := range logs {
		list = append(list, verifyLog{l.Log, uint64(l.First), uint64(l.Last)})
	}
	return list
}

func (r verifyResult) damaged() bool { return r.Verdict == "damaged" }

func (r verifyResult) tables() []grid {
	summary := grid{rows: [][]any{
		{"volume", r.Dir},
		{"verdict", mood{fmt.Sprintf("%s (%s)", r.Verdict, r.Case), r.damaged()}},
		{"", r.Detail},
		{"segments", r.Segments},
		{"gaps", r.Gaps},
		{"frames", r.Frames},
		{"records", r.Records},
		{"durable frame", r.DurableFrame},
		{"discarded", size(r.DiscardedBytes)},
	}}
	tables := []grid{summary}
	if len(r.Damage) > 0 {
		tables = append(tables, damageGrid(r.Damage))
	}
	if len(r.Lost) > 0 {
		lost := grid{title: "Given up by repairs", head: []string{"log", "LSNs"}}
		for _, l := range r.Lost {
			lost.rows = append(lost.rows, []any{l.Log, fmt.Sprintf("%d-%d", l.FirstLSN, l.LastLSN)})
		}
		tables = append(tables, lost)
	}
	return tables
}

// damageGrid lists damage, a row for each log that it hit.
func damageGrid(list []verifyDamage) grid {
	damage := grid{title: "Damage", head: []string{"file", "offset", "frame", "case", "what", "log", "LSNs"}}
	for _, d := range list {
		what := d.Detail
		if d.Repaired {
			what += "; given up"
		}
		row := []any{d.File, fmt.Sprintf("%#x", d.Offset), d.Sequence, d.Case, what}
		for _, l := range d.Logs {
			damage.rows = append(damage.rows, append(row, l.Log, fmt.Sprintf("%d-%d", l.FirstLSN, l.LastLSN)))
			row = []any{"", "", "", "", ""}
		}
		if len(d.Logs) == 0 {
			damage.rows = append(damage.rows, row)
		}
	}
	return damage
}

func newVerifyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Read a whole volume and say whether everything in it is sound",
		Long: `Read every frame, directory and block of the volume in DIR and check what they
say of themselves and of each other. Nothing is written and no lock is taken:
the volume may be in use.

The verdict is clean, torn (the last write did not reach the disk; nothing that
was acknowledged is lost), repaired (what is damaged was given up by walctl
repair) or damaged. Damage names file, offset, and the logs and LSNs that are
lost. The exit code is ` + strconv.Itoa(exitDamage) + ` for damaged, else 0.

JSON: dir, verdict, case, detail, segments, gaps (where others were released between
them), frames, records, durable_frame, discarded_bytes, damage [] with file, offset,
sequence, case, detail, logs [] of log, first_lsn and last_lsn, and repaired; lost []
of log, first_lsn and last_lsn.`,
		Example: `  walctl verify /var/lib/walsvc
  walctl verify /var/lib/walsvc -o json | jq -r '.damage[].logs[].log'`,
		GroupID: groupOffline,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("directory %q: %w", args[0], err)
			}
			line := newStatusLine(cmd.ErrOrStderr())
			v, err := wal.Verify(cmd.Context(), dir, line.bytes)
			line.clear()
			if err != nil {
				return explainVolume(err)
			}
			r := newVerifyResult(dir, v)
			if err := g.print(cmd, r); err != nil || !r.damaged() {
				return err
			}
			return damagedVolume(r)
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	}
}

// damagedVolume is how a command ends that found damage.
func damagedVolume(r verifyResult) error {
	next := "copy the volume before anything else, then restore the logs that are named from their own backups or peers; to go on without, see walctl repair --plan "
	if !strings.HasSuffix(r.Case, "block") {
		next = "copy the volume before anything else; walctl repair says what it takes to go on: walctl repair --plan "
	}
	next += r.Dir
	return &failure{code: exitDamage, err: fmt.Errorf("volume %s is damaged", r.Dir), next: next}
}
