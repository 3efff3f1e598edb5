package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// contractProof is where each promise's proofs are, by its number.
const contractProof = "docs/durability.md#the-promises"

// What a promise is worth at a service at present.
const (
	promiseKept   = "kept"
	promisePaused = "paused" // what was promised holds, and nothing new is taken
	promiseBroken = "broken" // recovery found that something acknowledged is damaged
)

// A promise is what every walsvc promises, and what that comes to at one.
type promise struct {
	text string
	now  func(s *standing) (state, now string)
}

// promises are those of README.md, in its order and words.
var promises = []promise{
	{"An acknowledged append survives any crash of process, machine or power.", (*standing).durable},
	{"A batch is atomic, also one over several logs: all of its records become durable, or none.", (*standing).atomic},
	{"After a crash, what is served is a gapless prefix that covers every ack.", (*standing).gapless},
	{"No answer, not even a refusal, shows what a crash could still take back.", (*standing).waiting},
	{"What recovery found is made durable before it is vouched for.", (*standing).recovered},
	{"A failed write or sync poisons the volume; a sync is never retried; reads go on.", (*standing).poison},
	{"Damage is told from a torn tail by evidence, never cut off silently, and named.", (*standing).evidence},
	{"A retry with the same producer and sequence returns the first append's LSN, never a duplicate.", (*standing).retries},
	{"An append that states an epoch lands only in that epoch: a fenced writer is told, and lands nothing.", (*standing).epochs},
	{"A full disk refuses appends before the ack; everything else goes on, and appends resume.", (*standing).room},
	{"Memory, queues, messages, names and streams are bounded, and every bound is documented.", (*standing).bounds},
}

// standing is what a service says of itself.
type standing struct {
	info   *walsvcv1.GetServerInfoResponse
	status *walsvcv1.GetStatusResponse
	state  string
}

// limit returns a bound of the service; 0 for one it does not know.
func (s *standing) limit(name string) uint64 {
	for _, l := range s.info.GetLimits() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return 0
}

// span returns a bound that is a time.
func (s *standing) span(name string) time.Duration {
	return time.Duration(s.limit(name)) * time.Millisecond
}

func (s *standing) damaged() bool { return s.status.GetRecovery().GetVerdict() == "damaged" }

// taking is the state of a promise about what is appended.
func (s *standing) taking() string {
	if s.state == "serving" {
		return promiseKept
	}
	return promisePaused
}

// reading is the state of a promise about what was acknowledged.
func (s *standing) reading() string {
	if s.damaged() {
		return promiseBroken
	}
	return promiseKept
}

// passing says how writes pass the page cache.
func passing(direct string) string {
	switch direct {
	case disk.DirectNever.String():
		return "through the page cache"
	case disk.DirectAlways.String():
		return "past the page cache, where the file system takes that"
	}
	return "past the page cache, where the file system takes that and nobody reads along"
}

func (s *standing) durable() (state, now string) {
	through := passing(s.info.GetDirect())
	now = "each ack waits for a write " + through + ", and for its sync; walctl certify says whether a disk keeps its word"
	switch {
	case s.damaged():
		now = fmt.Sprintf("the disk damaged what was acknowledged, in %d places; walctl status names them", len(s.status.GetRecovery().GetDamage()))
		return promiseBroken, now
	case s.state != "serving":
		now = "nothing more is acknowledged at present: the volume is " + s.state
	}
	if n := s.status.GetLostRecords(); n > 0 {
		now += fmt.Sprintf("; %s records were given up by repairs, walctl status names them", grouped(n))
	}
	return s.taking(), now
}

func (s *standing) atomic() (state, now string) {
	return s.taking(), fmt.Sprintf("up to %s records in %v, or in not quite half a segment if that is less, over up to %d logs", grouped(s.limit("MaxBatchRecords")), size(s.limit("MaxBatchSize")), s.limit("MaxBatchLogs"))
}

func (s *standing) gapless() (state, now string) {
	r := s.status.GetRecovery()
	now = fmt.Sprintf("recovery found the journal %s (%s): %s frames cut off, none of them acknowledged", r.GetVerdict(), r.GetCase(), grouped(r.GetDiscardedFrames()))
	if s.damaged() {
		now = fmt.Sprintf("recovery found the journal damaged (%s): nothing was cut off, and reading what is damaged fails with DATA_LOSS", r.GetCase())
	}
	return s.reading(), now
}

func (s *standing) waiting() (state, now string) {
	if stall := s.status.GetStall(); stall != nil {
		return promiseKept, fmt.Sprintf("answers wait for the disk, which hangs since %s: %s", cell(stall.GetBeginTime().AsTime(), false), stall.GetOperation())
	}
	return promiseKept, fmt.Sprintf("everything up to frame %s is durable, and nothing else is shown", grouped(s.status.GetDurableFrame()))
}

func (s *standing) recovered() (state, now string) {
	if s.state == "read_only" {
		return promiseKept, "nothing was written: the volume is read-only"
	}
	return promiseKept, fmt.Sprintf("%s frames without a promise were rewritten and synced before anything was served", grouped(s.status.GetRecovery().GetRewrittenFrames()))
}

func (s *standing) poison() (state, now string) {
	if s.state == "poisoned" {
		return promiseKept, "a write or sync failed: nothing more is taken until a restart, and reads go on"
	}
	return promiseKept, fmt.Sprintf("no write or sync has failed since the start; a disk that does not answer for %v is called stalled", s.span("StallAfter"))
}

func (s *standing) evidence() (state, now string) {
	if n := len(s.status.GetRecovery().GetDamage()); n > 0 {
		return promiseKept, fmt.Sprintf("%d damaged places are named by walctl status", n)
	}
	return promiseKept, fmt.Sprintf("the last ack has its evidence on the disk %v after it, every other one with the next frame", s.span("IdlePromiseDelay"))
}

func (s *standing) retries() (state, now string) {
	return s.taking(), fmt.Sprintf("within the last %d batches of a producer, and the last %s producers of a log",
		s.limit("ProducerWindow"), grouped(s.limit("MaxProducersPerLog")))
}

func (s *standing) epochs() (state, now string) {
	return s.taking(), "another one is told FENCED and lands nothing"
}

func (s *standing) room() (state, now string) {
	if s.state == "full" {
		return promiseKept, "appends are refused: " + s.status.GetDetail()
	}
	return promiseKept, fmt.Sprintf("%v can be appended before more is prepared, %v are free on the disk",
		size(s.status.GetAppendableBytes()), size(s.status.GetDiskFreeBytes()))
}

func (s *standing) bounds() (state, now string) {
	return promiseKept, fmt.Sprintf("%d bounds that a client can meet, as JSON and in docs/limits.md", len(s.info.GetLimits()))
}

// contractResult is what `walctl contract` prints.
type contractResult struct {
	Version       string          `json:"version"`
	FormatVersion uint32          `json:"format_version"`
	VolumeID      string          `json:"volume_id"`
	State         string          `json:"state"`
	Detail        string          `json:"detail"`
	Codec         string          `json:"codec"`
	Direct        string          `json:"direct"`
	SegmentBytes  uint64          `json:"segment_bytes"`
	Promises      []promiseResult `json:"promises"`
	Limits        []limitResult   `json:"limits"`
}

type promiseResult struct {
	Number  int    `json:"number"`
	Promise string `json:"promise"`
	State   string `json:"state"`
	Now     string `json:"now"`
	Proof   string `json:"proof"`
}

type limitResult struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
	Unit  string `json:"unit"`
}

func newContractCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "contract",
		Short: "Show what the service promises, as it is configured and is",
		Long: `Show what the service promises, as it is configured and as it is now, with where
each promise is proven. Those that are "paused" hold for what was acknowledged,
and nothing new is taken; "broken" means that recovery found damage to what was
acknowledged.

It exits as walctl status does: with 5 if recovery found damage, and with 4 if
the volume takes no appends for another reason.

JSON: version, format_version, volume_id, state and detail (as in walctl
status), codec, direct, segment_bytes, promises [{number, promise, state
("kept", "paused" or "broken"), now, proof}], limits [{name, value, unit
("bytes", "count" or "ms")}].`,
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
				if err := g.print(cmd, newContractResult(info, s)); err != nil {
					return err
				}
				return newStatusResult(info, s).failure()
			})
		},
	}
}

func newContractResult(info *walsvcv1.GetServerInfoResponse, status *walsvcv1.GetStatusResponse) contractResult {
	s := &standing{info: info, status: status, state: stateName(status.GetState())}
	r := contractResult{
		Version: info.GetVersion(), FormatVersion: info.GetFormatVersion(), VolumeID: status.GetVolumeId(),
		State: s.state, Detail: status.GetDetail(),
		Codec: info.GetCodec(), Direct: info.GetDirect(), SegmentBytes: status.GetSegmentBytes(), Limits: []limitResult{},
	}
	for i, p := range promises {
		state, now := p.now(s)
		r.Promises = append(r.Promises, promiseResult{i + 1, p.text, state, now, contractProof})
	}
	for _, l := range info.GetLimits() {
		r.Limits = append(r.Limits, limitResult{l.GetName(), l.GetValue(), l.GetUnit()})
	}
	return r
}

func (c contractResult) tables() []grid {
	cache := passing(c.Direct)
	list := grid{title: "Promises (proofs by number: " + contractProof + ")"}
	for _, p := range c.Promises {
		list.rows = append(list.rows,
			[]any{p.Number, mood{p.State, p.State != promiseKept}, p.Promise},
			[]any{"", "", p.Now})
	}
	return []grid{
		{title: "Service", rows: [][]any{
			{"version", c.Version},
			{"volume", c.VolumeID},
			{"state", mood{c.State, c.State != "serving"}},
			{"codec", cmp.Or(c.Codec, "not told")},
			{"writes", cache},
			{"segments", size(c.SegmentBytes)},
		}},
		list,
	}
}
