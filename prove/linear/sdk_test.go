package linear

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	sdk "github.com/walsvc/walsvc/client"
)

// An sdkClient calls the service through the SDK, which appends once whatever
// happens in between. What the SDK may repeat by itself and what shows when it is
// done twice is for rawClients.
type sdkClient struct {
	*client
	logs *sdk.Client
}

// openSDK opens a client of the SDK through the proxy.
func (w *world) openSDK(o sdk.Options) *sdk.Client {
	w.t.Helper()
	o.Dial = []grpc.DialOption{
		grpc.WithConnectParams(reconnect),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), // see connect
	}
	c, err := sdk.Open(w.ctx, "unix:"+w.proxy.listener.Addr().String(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// newSDK returns a client of a log. Several may share a connection.
func (w *world) newSDK(log string, logs *sdk.Client) *sdkClient {
	return &sdkClient{client: w.newClient("sdk", log), logs: logs}
}

// call does one operation.
func (c *sdkClient) call(in input, ask func(log *sdk.Log) (output, error)) {
	end := c.begin(in)
	out, err := ask(c.logs.Log(c.log))
	if err != nil {
		var e *sdk.Error
		out = output{Unknown: true}
		switch {
		case errors.Is(err, sdk.ErrDataLoss), errors.Is(err, sdk.ErrProtocol):
			c.w.fail("log %s: %w", c.log, err)
		case errors.Is(err, sdk.ErrUnknownOutcome):
			out.Reason = "OUTCOME_UNKNOWN" // the volume is poisoned
		case errors.Is(err, sdk.ErrAfterRefusal):
			// Of an earlier append of the other clients on the connection.
			out.Reason = "DRAINING"
		case errors.As(err, &e) && e.Reason != "":
			out = output{Reason: e.Reason, Figures: e.Metadata}
		}
	}
	end(out)
}

// work does something.
func (c *sdkClient) work() {
	if !c.changing() {
		c.get()
		return
	}
	switch c.rng.IntN(10) {
	case 8:
		c.verifyText()
	case 9:
		c.w.outlive(c.completeCheckpoint)
	case 0, 1, 2, 3:
		c.w.outlive(c.append)
	case 4:
		c.replay()
	case 5:
		c.get()
	case 6:
		c.setCheckpoint()
	case 7:
		c.getCheckpoint()
	}
}

func (c *sdkClient) append() {
	in := input{Kind: appendRecords, Records: c.batch(4)}
	var opts []sdk.AppendOption
	if _, _, next := c.look(); c.rng.IntN(4) == 0 {
		in.Expected = c.likely(next, 3)
		opts = append(opts, sdk.ExpectLSN(sdk.LSN(in.Expected)))
	}
	batch := make([][]byte, len(in.Records))
	for i, r := range in.Records {
		batch[i] = []byte(r)
	}
	c.call(in, func(log *sdk.Log) (output, error) {
		// Not bounded: the SDK goes on until it knows.
		r, err := log.AppendBatch(context.WithoutCancel(c.w.ctx), batch, opts...)
		return output{
			ID: r.Log.String(), First: uint64(r.LSN), Count: uint64(r.Count), Sum: &r.LogChecksum, Through: uint64(r.Through),
			Epoch: r.Epoch, Volume: r.Volume.String(), Committed: nanoseconds(r.Committed), // the SDK says of no append that it is repeated
		}, err
	})
}

// flood appends records of 1 KiB without waiting for any, and has each one that was
// taken counted. It returns when all are acknowledged.
func (c *sdkClient) flood(n int, taken chan<- struct{}) {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	ctx := context.WithoutCancel(c.w.ctx)
	for range n {
		c.made++
		in := input{Kind: appendRecords, Records: []string{fmt.Sprintf("%s.%d %01000d", c.name, c.made, 0)}}
		end := c.begin(in)
		f := c.logs.Log(c.log).AppendAsync(ctx, []byte(in.Records[0]))
		taken <- struct{}{}
		waiting.Go(func() {
			<-f.Written()
			r, err := f.Wait(ctx)
			if err != nil {
				c.w.fail("log %s: append: %w", c.log, err)
			}
			// Without the volume, which would make it a receipt: those of records that share
			// a batch are not of what the model appends together.
			end(output{
				ID: r.Log.String(), First: uint64(r.LSN), Count: 1, Sum: &r.LogChecksum, Through: uint64(r.Through), Epoch: r.Epoch,
				Committed: nanoseconds(r.Committed),
			})
		})
	}
}

// replay reads on from somewhere, over as many streams as it takes: what it
// yields is there, and need not be all.
func (c *sdkClient) replay() {
	_, first, next := c.look()
	from := next - min(next-first, c.rng.Uint64N(20))
	c.call(input{Kind: seeRecords, LSN: from}, func(log *sdk.Log) (output, error) {
		ctx, cancel := c.bound()
		defer cancel()
		out := output{First: from}
		for r, err := range log.Replay(ctx, sdk.ReplayOptions{From: sdk.LSN(from)}) {
			if err != nil && len(out.Records) == 0 {
				return output{Unknown: true}, nil // read says more of refusals
			}
			if err != nil {
				break
			}
			if uint64(r.LSN) != from+uint64(len(out.Records)) {
				c.w.fail("log %s: replay: record %d has LSN %d", c.log, from+uint64(len(out.Records)), r.LSN)
			}
			out.Records = append(out.Records, string(r.Data))
		}
		return out, nil
	})
}

func (c *sdkClient) get() {
	c.call(input{Kind: getLog}, func(log *sdk.Log) (output, error) {
		ctx, cancel := c.bound()
		defer cancel()
		i, err := log.Info(ctx)
		return output{Info: &info{
			ID: i.ID.String(), Epoch: i.Epoch, First: uint64(i.First), Next: uint64(i.Next), Live: i.LiveBytes, Sum: i.LogChecksum,
			Options: options{Quota: i.Options.QuotaBytes, MaxRecord: uint64(i.Options.MaxRecordBytes), Rate: i.Options.RateBytes},
			Holder:  i.Writer,
		}}, err
	})
}

func (c *sdkClient) setCheckpoint() {
	_, first, next := c.look()
	was, expected := c.condition()
	low := max(was.LSN, first)
	in := input{Kind: setCheckpoint, Name: was.Name, Version: expected, LSN: c.likely(low+c.rng.Uint64N(max(next, low)-low+1), 3)}
	in.State = c.batch(1)[0]
	var opts []sdk.CheckpointOption
	if expected != nil {
		opts = append(opts, sdk.ExpectVersion(*expected))
	}
	c.call(in, func(log *sdk.Log) (output, error) {
		ctx, cancel := c.boundChange()
		defer cancel()
		cp, err := log.SetCheckpoint(ctx, in.Name, sdk.LSN(in.LSN), []byte(in.State), opts...)
		return output{Checkpoints: []checkpoint{sdkCheckpoint(cp)}}, err
	})
}

// completeCheckpoint takes a checkpoint in two steps, and asks for the second one again
// until it is answered, in the next lives too: what an earlier try did is found then.
func (c *sdkClient) completeCheckpoint() {
	_, first, next := c.look()
	was, _ := c.condition()
	in := input{Kind: beginCheckpoint, Name: was.Name, LSN: c.likely(max(was.LSN, first, next-1), 2)}
	in.LSN = min(in.LSN, next-1)
	begun, end := c.beginOpen(in)
	var out output
	bounded := func(d time.Duration, try func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(c.w.ctx, d)
		defer cancel()
		return try(ctx)
	}
	var p *sdk.PendingCheckpoint
	err := bounded(c.timeout, func(ctx context.Context) (err error) {
		p, err = c.logs.Log(c.log).BeginCheckpoint(ctx, in.Name, sdk.LSN(in.LSN))
		return err
	})
	if err != nil {
		out, _ = c.outcome(err)
	}
	end(out)
	if err != nil {
		return
	}
	set, end := c.beginOpen(input{Kind: setCheckpoint, Name: in.Name, LSN: in.LSN, State: c.batch(1)[0], Begun: true})
	for tried := false; ; tried = true {
		var cp sdk.Checkpoint
		err := bounded(limit, func(ctx context.Context) (err error) {
			cp, err = p.Complete(ctx, []byte(set.State))
			return err
		})
		var version uint64
		switch out, version = c.outcome(err); {
		case err == nil:
			out, version = output{Checkpoints: []checkpoint{sdkCheckpoint(cp)}}, cp.Version-1
			out.Checkpoints[0].State = ""
		case out.Unknown && c.w.goesOn():
			continue
		}
		if err == nil || out.Reason == checkpointConflict {
			set.Version = &version
			c.w.history.amend(func() { begun.Version = &version })
		}
		if tried && err != nil { // the earlier try may have set it, and somebody else since
			out = output{Unknown: true}
		}
		end(out)
		return
	}
}

// outcome returns what an error of a checkpoint says, and the version that was expected
// of it, if it tells.
func (c *sdkClient) outcome(err error) (output, uint64) {
	var e *sdk.Error
	if errors.Is(err, sdk.ErrCheckpointBackwards) {
		return output{Reason: checkpointBackwards}, 0
	}
	if !errors.As(err, &e) || e.Reason == "" || errors.Is(err, sdk.ErrUnknownOutcome) {
		return output{Unknown: true}, 0
	}
	out := output{Reason: e.Reason, Figures: e.Metadata}
	return out, told(&out, "expected_version")
}

func (c *sdkClient) getCheckpoint() {
	was, _ := c.condition()
	c.call(input{Kind: getCheckpoint, Name: was.Name}, func(log *sdk.Log) (output, error) {
		ctx, cancel := c.bound()
		defer cancel()
		cp, err := log.Checkpoint(ctx, was.Name)
		return output{Checkpoints: []checkpoint{sdkCheckpoint(cp)}}, err
	})
}

func sdkCheckpoint(cp sdk.Checkpoint) checkpoint {
	return checkpoint{Name: cp.Name, LSN: uint64(cp.LSN), Version: cp.Version, State: string(cp.State), Size: uint64(cp.StateSize)}
}
