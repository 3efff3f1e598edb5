package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// statusResult is what `walctl status` prints.
type statusResult struct {
	Version          string         `json:"version"`
	FormatVersion    uint32         `json:"format_version"`
	VolumeID         string         `json:"volume_id"`
	State            string         `json:"state"`
	Detail           string         `json:"detail"`
	UptimeSeconds    float64        `json:"uptime_seconds"`
	RSSBytes         uint64         `json:"rss_bytes"`
	Recovery         recoveryResult `json:"recovery"`
	Logs             uint64         `json:"logs"`
	DurableFrame     uint64         `json:"durable_frame"`
	Segments         uint64         `json:"segments"`
	SegmentBytes     uint64         `json:"segment_bytes"`
	Spares           uint64         `json:"spares"`
	AppendableBytes  uint64         `json:"appendable_bytes"`
	DiskFreeBytes    uint64         `json:"disk_free_bytes"`
	Commits          uint64         `json:"commits"`
	Syncs            uint64         `json:"syncs"`
	Records          uint64         `json:"records"`
	RawBytes         uint64         `json:"raw_bytes"`
	StoredBytes      uint64         `json:"stored_bytes"`
	RecordsPerSync   float64        `json:"records_per_sync"`
	CompressionRatio float64        `json:"compression_ratio"`
	Rolls            uint64         `json:"rolls"`
	Recycles         uint64         `json:"recycles"`
	Snapshots        uint64         `json:"snapshots"`
	LostRecords      uint64         `json:"lost_records"`
	Lost             []damagedLog   `json:"lost"`
}

type recoveryResult struct {
	Verdict         string         `json:"verdict"`
	Case            string         `json:"case"`
	Detail          string         `json:"detail"`
	Frames          uint64         `json:"frames"`
	LastSequence    uint64         `json:"last_sequence"`
	RewrittenFrames uint64         `json:"rewritten_frames"`
	DiscardedFrames uint64         `json:"discarded_frames"`
	DiscardedBytes  uint64         `json:"discarded_bytes"`
	TookSeconds     float64        `json:"took_seconds"`
	Damage          []damageResult `json:"damage"`
}

type damageResult struct {
	File     string       `json:"file"`
	Offset   uint64       `json:"offset"`
	Sequence uint64       `json:"sequence"`
	Case     string       `json:"case"`
	Detail   string       `json:"detail"`
	Logs     []damagedLog `json:"logs"`
}

type damagedLog struct {
	Log      string `json:"log"`
	FirstLSN uint64 `json:"first_lsn"`
	LastLSN  uint64 `json:"last_lsn"`
}

func newStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the service, its volume and what recovery found",
		Long: `Show the service, its volume and what recovery found when it was started.
Counters count from the start of the service.

It exits with 5 if recovery found damage, and with 4 if the volume takes no
appends for another reason.

JSON: version, format_version, volume_id, state ("serving", "draining",
"read_only", "poisoned", "full", "disk_stalled"), detail, uptime_seconds, rss_bytes, recovery
{verdict ("clean", "torn", "damaged"), case, detail, frames, last_sequence,
rewritten_frames, discarded_frames, discarded_bytes, took_seconds, damage
[{file, offset, sequence, case, detail, logs [{log, first_lsn, last_lsn}]}]},
logs, durable_frame, segments, segment_bytes, spares, appendable_bytes,
disk_free_bytes, commits, syncs, records, raw_bytes, stored_bytes,
records_per_sync, compression_ratio (raw to stored), rolls, recycles, snapshots,
lost_records (given up by repairs, and not truncated since), lost [{log,
first_lsn, last_lsn}] (of very many, the first).`,
		GroupID: groupOnline,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				info, err := c.ServerInfo(ctx)
				if err != nil {
					return err
				}
				s, err := c.Status(ctx)
				if err != nil {
					return err
				}
				r := newStatusResult(info, s)
				if err := g.print(cmd, r); err != nil {
					return err
				}
				return r.failure()
			})
		},
	}
}

func newStatusResult(info *walsvcv1.GetServerInfoResponse, s *walsvcv1.GetStatusResponse) statusResult {
	rec := s.GetRecovery()
	r := statusResult{
		Version: info.GetVersion(), FormatVersion: info.GetFormatVersion(),
		VolumeID: s.GetVolumeId(), State: stateName(s.GetState()), Detail: s.GetDetail(),
		UptimeSeconds: s.GetUptime().AsDuration().Seconds(), RSSBytes: s.GetRssBytes(),
		Recovery: recoveryResult{
			Verdict: rec.GetVerdict(), Case: rec.GetCase(), Detail: rec.GetDetail(), Frames: rec.GetFrames(),
			LastSequence: rec.GetLastSequence(), RewrittenFrames: rec.GetRewrittenFrames(),
			DiscardedFrames: rec.GetDiscardedFrames(), DiscardedBytes: rec.GetDiscardedBytes(),
			TookSeconds: rec.GetTook().AsDuration().Seconds(), Damage: []damageResult{},
		},
		Logs: s.GetLogs(), DurableFrame: s.GetDurableFrame(),
		Segments: s.GetSegments(), SegmentBytes: s.GetSegmentBytes(), Spares: s.GetSpares(),
		AppendableBytes: s.GetAppendableBytes(), DiskFreeBytes: s.GetDiskFreeBytes(),
		Commits: s.GetCommits(), Syncs: s.GetSyncs(), Records: s.GetRecords(),
		RawBytes: s.GetRawBytes(), StoredBytes: s.GetStoredBytes(),
		RecordsPerSync:   ratio(s.GetRecords(), s.GetSyncs()),
		CompressionRatio: ratio(s.GetRawBytes(), s.GetStoredBytes()),
		Rolls:            s.GetRolls(), Recycles: s.GetRecycles(), Snapshots: s.GetSnapshots(),
		LostRecords: s.GetLostRecords(), Lost: newDamagedLogs(s.GetLost()),
	}
	for _, d := range rec.GetDamage() {
		r.Recovery.Damage = append(r.Recovery.Damage, damageResult{
			d.GetFile(), d.GetOffset(), d.GetSequence(), d.GetCase(), d.GetDetail(), newDamagedLogs(d.GetLogs()),
		})
	}
	return r
}

func newDamagedLogs(logs []*walsvcv1.DamagedLog) []damagedLog {
	list := []damagedLog{}
	for _, l := range logs {
		list = append(list, damagedLog{l.GetLog(), l.GetFirstLsn(), l.GetLastLsn()})
	}
	return list
}

// stateName spells a state as its enum does, without the enum's prefix.
func stateName(s walsvcv1.VolumeState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "VOLUME_STATE_"))
}

// ratio divides, and is 0 where there is nothing to divide by.
func ratio(a, b uint64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

func (s statusResult) tables() []grid {
	state := s.State
	if s.Detail != "" {
		state += ": " + s.Detail
	}
	tables := []grid{
		{title: "Service", rows: [][]any{
			{"version", s.Version},
			{"state", mood{state, s.State != "serving"}},
			{"up", time.Duration(s.UptimeSeconds * float64(time.Second))},
			{"memory", size(s.RSSBytes)},
			{"logs", s.Logs},
		}},
		{title: "Recovery", rows: s.Recovery.rows()},
	}
	for _, d := range s.Recovery.Damage {
		tables = append(tables, d.table())
	}
	if len(s.Lost) > 0 {
		tables = append(tables, s.lostTable())
	}
	return append(tables,
		grid{title: "Volume", rows: [][]any{
			{"id", s.VolumeID},
			{"durable frame", s.DurableFrame},
			{"segments", fmt.Sprintf("%s of %s, %s spare", grouped(s.Segments), size(s.SegmentBytes), grouped(s.Spares))},
			{"room for appends", size(s.AppendableBytes)},
			{"free on disk", size(s.DiskFreeBytes)},
		}},
		grid{title: "Since the start", rows: [][]any{
			{"records", s.Records},
			{"commits", s.Commits},
			{"syncs", s.Syncs},
			{"records per sync", s.RecordsPerSync},
			{"bytes", fmt.Sprintf("%s, stored as %s", size(s.RawBytes), size(s.StoredBytes))},
			{"compression", fmt.Sprintf("%.2f to 1", s.CompressionRatio)},
			{"segments rolled", s.Rolls},
			{"segments recycled", s.Recycles},
			{"snapshots", s.Snapshots},
		}},
	)
}

// lostTable lists what repairs gave up: old news, which is not to be forgotten.
func (s statusResult) lostTable() grid {
	t := grid{title: fmt.Sprintf("Given up by repairs: %s records", grouped(s.LostRecords)), head: []string{"LOG", "FIRST", "LAST"}}
	for _, l := range s.Lost {
		t.rows = append(t.rows, []any{l.Log, l.FirstLSN, l.LastLSN})
	}
	return t
}

func (r recoveryResult) rows() [][]any {
	return [][]any{
		{"verdict", mood{r.Verdict, r.Verdict == "damaged"}},
		{"case", strings.TrimSuffix(r.Case+": "+r.Detail, ": ")},
		{"frames read", r.Frames},
		{"frames rewritten", r.RewrittenFrames},
		{"discarded", fmt.Sprintf("%s frames, %s", grouped(r.DiscardedFrames), size(r.DiscardedBytes))},
		{"took", time.Duration(r.TookSeconds * float64(time.Second))},
	}
}

func (d damageResult) table() grid {
	t := grid{title: "Damage", rows: [][]any{
		{"file", d.File},
		{"offset", fmt.Sprintf("%#x", d.Offset)},
		{"frame", d.Sequence},
		{"case", strings.TrimSuffix(d.Case+": "+d.Detail, ": ")},
	}}
	for _, l := range d.Logs {
		t.rows = append(t.rows, []any{"log " + l.Log, mood{fmt.Sprintf("LSN %d to %d", l.FirstLSN, l.LastLSN), true}})
	}
	return t
}

// failure returns an error if all is not well.
func (s statusResult) failure() error {
	switch {
	case s.Recovery.Verdict == "damaged":
		return &failure{code: exitDamage, err: errors.New("recovery found damage"), next: "run walctl verify on the volume, on a copy if you can"}
	case s.State != "serving":
		next := ""
		switch s.State {
		case "poisoned":
			next = "look at the service's disk, then restart it"
		case "disk_stalled":
			next = "look at the service's disk; what waits goes on when it answers"
		case "full":
			next = "move checkpoints forward, truncate, or make room on the disk; appends resume by themselves"
		}
		return &failure{code: exitUnavailable, err: fmt.Errorf("the volume takes no appends: it is %s", s.State), next: next}
	}
	return nil
}
