package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/walsvc/walsvc/internal/limits"
	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// ScaleLoad says how much of everything a service is given.
type ScaleLoad struct {
	Logs        int // at least 1
	Producers   int // of all logs together, at least 1
	Batches     int // of each producer; 0 for none
	Checkpoints int // set on one log after the other; 0 for none
	State       int // bytes of a checkpoint's state, at most limits.MaxCheckpointState
	Size        int // of a record in bytes
	Progress    func(done, all int, what string)
}

// A ScaleStep is one thing that was done again and again. What a service
// allocates for it at the beginning and at the end says whether it becomes dearer
// with what there is; on a busy machine the latencies do not.
type ScaleStep struct {
	What      string  `json:"what"`
	Count     int     `json:"count"`
	PerSecond float64 `json:"per_second"`
	Latency   Latency `json:"latency_us"`
	// FirstBytes and LastBytes are what the service's heap was given for each one in
	// the first tenth and in the last, everything else included that went on.
	FirstBytes float64 `json:"first_bytes"`
	LastBytes  float64 `json:"last_bytes"`
}

// A ScaleReport is what `walctl bench scale -o json` prints.
type ScaleReport struct {
	Steps        []ScaleStep `json:"steps"`
	OpenUS       float64     `json:"open_us"`       // after SIGKILL, until it is ready
	JournalBytes uint64      `json:"journal_bytes"` // that the segments take in the end
	WrittenBytes uint64      `json:"written_bytes"` // of segments that were filled
	Snapshots    uint64      `json:"snapshots"`     // written until the kill
	RSSBytes     uint64      `json:"rss_bytes"`     // of the service before the kill
	OpenedBytes  uint64      `json:"opened_rss"`    // and right behind it
}

// scaleAtOnce is how many calls are under way at once: so many share commits.
const scaleAtOnce = 64

// A scaling is a run of Scale.
type scaling struct {
	t           *Target
	l           ScaleLoad
	report      *ScaleReport
	logs        walsvcv1.LogServiceClient
	appends     walsvcv1.AppendServiceClient
	replays     walsvcv1.ReplayServiceClient
	checkpoints walsvcv1.CheckpointServiceClient
}

// Scale gives the target's own service many logs, producers and checkpoints, looks
// at them, and kills and starts it. It calls the service as anybody's client would,
// and repeats nothing.
func (t *Target) Scale(ctx context.Context, l ScaleLoad) (_ *ScaleReport, err error) {
	if t.process == nil {
		return nil, errNotOwn
	}
	conn, err := grpc.NewClient(t.process.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	s := &scaling{
		t: t, l: l, report: &ScaleReport{}, logs: walsvcv1.NewLogServiceClient(conn), appends: walsvcv1.NewAppendServiceClient(conn),
		replays: walsvcv1.NewReplayServiceClient(conn), checkpoints: walsvcv1.NewCheckpointServiceClient(conn),
	}
	return s.report, s.run(ctx)
}

func scaleLog(i int) string { return fmt.Sprintf("scale/%07d", i) }

// scaleProducer makes ULIDs that do not come in order.
func scaleProducer(i int) string {
	n := uint32(i) * 2654435761
	return ulid.ULID{0: 1, 1: byte(n >> 24), 2: byte(n >> 16), 3: byte(n >> 8), 4: byte(n), 15: 1}.String()
}

func (s *scaling) run(ctx context.Context) error {
	l := s.l
	records := &walsvcv1.Records{Record: [][]byte{NewCutter(l.Size, 0, 1).Next()}}
	state := make([]byte, 0, l.State+l.Size)
	for cut := NewCutter(l.Size, 0, 1); len(state) < l.State; {
		state = append(state, cut.Next()...)
	}
	producers := make([]struct {
		sync.Mutex
		last uint64 // sequence
	}, l.Producers)
	for i, step := range []struct {
		what  string
		count int
		do    func(i int) error
	}{
		{"create a log", l.Logs, func(i int) error {
			_, err := s.logs.CreateLog(ctx, &walsvcv1.CreateLogRequest{Name: scaleLog(i)})
			return err
		}},
		{"open a producer", l.Producers, func(i int) error {
			_, err := s.appends.OpenProducer(ctx, &walsvcv1.OpenProducerRequest{Log: scaleLog(i % l.Logs), Producer: scaleProducer(i)})
			return err
		}},
		{"append a batch", l.Producers * l.Batches, func(i int) error {
			p := i % l.Producers
			producers[p].Lock() // its batches come one behind the other
			defer producers[p].Unlock()
			producers[p].last++
			_, err := s.appends.Append(ctx, &walsvcv1.AppendRequest{
				Log: scaleLog(p % l.Logs), Producer: scaleProducer(p), Sequence: producers[p].last, Records: records,
			})
			return err
		}},
		{"set a checkpoint", l.Checkpoints, func(i int) error {
			_, err := s.checkpoints.SetCheckpoint(ctx, &walsvcv1.SetCheckpointRequest{Log: scaleLog(i % l.Logs), Name: "engine", State: state[:l.State]})
			return err
		}},
		{"read a checkpoint", min(l.Checkpoints, l.Logs), func(i int) error {
			_, err := s.checkpoints.GetCheckpoint(ctx, &walsvcv1.GetCheckpointRequest{Log: scaleLog(i), Name: "engine"})
			return err
		}},
		{"replay a log", l.Logs, func(i int) error {
			_, err := s.replays.Read(ctx, &walsvcv1.ReadRequest{Log: scaleLog(i), MaxRecords: 1000, MaxBytes: 1 << 20})
			return err
		}},
		{"list all logs", 20, func(int) error { return s.list(ctx) }},
	} {
		if step.count == 0 {
			continue
		}
		if l.Progress != nil {
			l.Progress(i, 8, step.what)
		}
		one, err := s.step(ctx, step.count, step.do)
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		one.What = step.what
		s.report.Steps = append(s.report.Steps, one)
	}
	return s.reopen(ctx)
}

// list lists all logs, a page at a time.
func (s *scaling) list(ctx context.Context) error {
	req := &walsvcv1.ListLogsRequest{PageSize: limits.MaxPageSize}
	for {
		resp, err := s.logs.ListLogs(ctx, req)
		if err != nil || resp.GetNextPageToken() == "" {
			return err
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

// step does something so many times, several at once, and counts.
func (s *scaling) step(ctx context.Context, count int, do func(i int) error) (r ScaleStep, err error) {
	latencies := newRecorder()
	tenth := max(1, count/10)
	began := time.Now()
	part := func(from, to int) (float64, error) {
		before, err := s.t.admin.scrape(ctx)
		if err == nil {
			err = atOnceFrom(ctx, from, to, func(i int) error {
				start := time.Now()
				err := do(i)
				latencies.record(i, time.Since(start))
				return err
			})
		}
		if err != nil {
			return 0, err
		}
		after, err := s.t.admin.scrape(ctx)
		return (after[metricAllocated] - before[metricAllocated]) / float64(max(1, to-from)), err
	}
	if r.FirstBytes, err = part(0, tenth); err != nil {
		return r, err
	}
	if _, err = part(tenth, max(tenth, count-tenth)); err != nil {
		return r, err
	}
	if r.LastBytes, err = part(max(tenth, count-tenth), count); err != nil {
		return r, err
	}
	if count <= tenth { // there was but one part
		r.LastBytes = r.FirstBytes
	}
	r.Count, r.PerSecond, r.Latency = count, float64(count)/time.Since(began).Seconds(), latencyOf(latencies.take())
	return r, nil
}

// atOnceFrom calls do for each number from one to below another, several at once,
// until one fails, and returns an error of those that did.
func atOnceFrom(ctx context.Context, from, to int, do func(i int) error) error {
	var (
		all  sync.WaitGroup
		next atomic.Int64
	)
	next.Store(int64(from))
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for range scaleAtOnce {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < to && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					fail(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// reopen notes what the service has come to, kills it and starts it.
func (s *scaling) reopen(ctx context.Context) error {
	if s.l.Progress != nil {
		s.l.Progress(7, 8, "killing and starting the service")
	}
	status, err := s.t.Status(ctx)
	if err != nil {
		return err
	}
	before, err := s.t.admin.scrape(ctx)
	if err != nil {
		return err
	}
	opened, err := s.t.restartCold(ctx)
	if err != nil {
		return err
	}
	after, err := s.t.admin.scrape(ctx)
	if err != nil {
		return err
	}
	r := s.report
	r.OpenUS = float64(opened.Nanoseconds()) / 1e3
	r.JournalBytes = status.GetSegments() * status.GetSegmentBytes()
	r.WrittenBytes = status.GetRolls() * status.GetSegmentBytes()
	r.Snapshots = status.GetSnapshots()
	r.RSSBytes, r.OpenedBytes = uint64(before[metricRSS]), uint64(after[metricRSS])
	return nil
}
