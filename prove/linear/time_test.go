package linear

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// When a record was committed is told with the acknowledgement and by whoever verifies
// its receipt, and is the same whoever tells it. So the times are gathered first, from
// all that was heard; a search then knows them, also of appends that were not answered.

// times returns the commit times that a log's history tells, by the first record of the
// batch: nobody else appended such a one.
func times(all []*operation) (map[string]int64, error) {
	at := map[string]int64{}
	var err error
	learn := func(o *operation, record string, time int64) {
		if was := at[record]; was != 0 && was != time {
			err = errors.Join(err, fmt.Errorf("record <%.24s> was committed at %d, and at %d: %s", record, was, time, describe(&o.In, &o.Out)))
		}
		at[record] = time
	}
	type place struct {
		log          string
		epoch, first uint64
	}
	records := map[place]string{}
	for _, o := range all {
		r, ok := receiptOf(&o.In, &o.Out)
		if !ok {
			continue
		}
		records[place{r.Of, r.Epoch, r.First}] = o.In.Records[0]
		if r.Committed != 0 {
			learn(o, o.In.Records[0], r.Committed)
		}
	}
	for _, o := range all {
		if r := o.In.Receipt; r != nil && o.Out.Verdict == proven && o.In.Twist == "" {
			learn(o, records[place{r.Of, r.Epoch, r.First}], o.Out.Committed)
		}
	}
	return at, err
}

// inOrder says whether commit times go on as clients saw them to: over all logs of the
// volume, what was acknowledged before something was asked for was not committed behind it.
func (h *history) inOrder() error {
	type moment struct {
		at        int64
		committed int64
		returned  bool
		o         *operation
	}
	var all []moment
	h.mu.Lock()
	for _, o := range h.operations {
		if o.In.Kind == appendRecords && o.Out.succeeded() && o.Out.Committed != 0 {
			all = append(all, moment{o.Call, o.Out.Committed, false, o}, moment{o.Return, o.Out.Committed, true, o})
		}
	}
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b moment) int { return int(a.at - b.at) })
	var latest moment
	for _, m := range all {
		switch {
		case m.returned && m.committed >= latest.committed:
			latest = m
		case !m.returned && m.committed < latest.committed:
			return fmt.Errorf("the clock went back: %s was committed at %d, after log %s: %s",
				describe(&m.o.In, &m.o.Out), m.committed, latest.o.In.Log, describe(&latest.o.In, &latest.o.Out))
		}
	}
	return nil
}

// around returns the commit times of the records next to an LSN of which it is known:
// of the last one below it, and of the first one from it on; 0 if there is none.
func (s *state) around(lsn uint64) (before, behind int64) {
	for r := s.tail; r != nil; r = r.before {
		switch {
		case r.time == 0:
		case r.lsn < lsn:
			return r.time, behind
		default:
			behind = r.time
		}
	}
	return 0, behind
}

// stepReadBetween: a read from one commit time to another, both of which were told of
// before it was asked for. It has exactly what was committed between, as far as anybody
// knows when that was. What was committed since a time and is not kept any more, or may
// have been, is not passed over.
func (s *state) stepReadBetween(in *input, out *output) (*state, bool) {
	switch {
	case out.Reason == rewound:
		return s, s.heard(out, 0)
	case out.Reason == lsnTruncated: // of one from the oldest record, behind what it gave out
		n, ok := s.narrowed(2, s.high)
		if !ok {
			return nil, false
		}
		return n.told(out)
	case !out.succeeded():
		return nil, false
	}
	first := out.First
	if len(out.Records) == 0 {
		return s, true // nothing, and it is not said from where on
	}
	end := first + uint64(len(out.Records))
	n, ok := s.narrowed(s.low, first)
	if in.Since == 0 {
		n, ok = s.narrowed(first, first)
	}
	if !ok || !s.holds(first, out.Records) {
		return nil, false
	}
	if in.Since != 0 {
		before, behind := s.around(first)
		if before >= in.Since || behind != 0 && behind < in.Since {
			return nil, false
		}
	}
	if in.Until != 0 {
		before, behind := s.around(end)
		return n, before <= in.Until && (behind == 0 || behind > in.Until)
	}
	return n, end <= s.next() && (!out.Complete || end == s.next())
}

// replayBetween replays what was committed at a time or since, until another time, or
// both: times at which something was committed, or right before.
func (c *rawClient) replayBetween() {
	c.view.mu.Lock()
	recent := slices.Clone(c.view.recent)
	c.view.mu.Unlock()
	if len(recent) == 0 {
		return
	}
	some := func() int64 { return recent[c.rng.IntN(len(recent))] - c.rng.Int64N(2) }
	in := input{Kind: readRecords}
	switch c.rng.IntN(4) {
	case 0:
		in.Until = some()
	case 1:
		in.Since, in.Until = some(), some()
		if in.Since > in.Until {
			in.Since, in.Until = in.Until, in.Since
		}
	default:
		in.Since = some()
	}
	c.call(in, func(ctx context.Context) (output, error) {
		req := &walsvcv1.ReplayRequest{Log: c.log}
		if in.Since != 0 {
			req.FromTime = timestamppb.New(timeOf(in.Since))
		}
		if in.Until != 0 {
			req.ToTime = timestamppb.New(timeOf(in.Until))
		}
		out := output{Complete: in.Until == 0}
		stream, err := c.replays.Replay(ctx, req)
		for err == nil {
			var m *walsvcv1.ReplayResponse
			if m, err = stream.Recv(); err != nil {
				break
			}
			if out.First == 0 {
				out.First = m.GetFirstLsn()
			}
			c.dense(out.First+uint64(len(out.Records)), m)
			out.Records = append(out.Records, text(m.GetRecords())...)
			out.Complete = in.Until == 0 && (c.log != owned || m.GetDurableLsn()+1 == out.First+uint64(len(out.Records)))
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err != nil && len(out.Records) > 0 && heard(err).Reason != rewound {
			return output{Unknown: true}, nil
		}
		return out, err
	})
}
