package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// What the contract costs: the same appends to two logs of one service, in turn.
// One log is shared, and its batches say nothing about themselves. The other has
// a writer, and each batch states a producer's sequence, the writer's epoch and
// the LSN it expects. Both speak the wire by themselves, since the SDK does not
// append without a producer, and the same way: what differs is the service's
// part, and what the fields weigh.

// A contractLoad is what is appended, both ways.
type contractLoad struct {
	what     string
	name     string
	inFlight int // batches unacknowledged; at most limits.ProducerWindow
	count    int // records in each
}

var contractLoads = []contractLoad{
	{"one batch of 1 record in flight", "one", 1, 1},
	{"64 batches of 1 record in flight", "many", 64, 1},
	{"64 batches of 128 records in flight", "large", 64, 128},
}

// contractGate is what of the throughput has to be left, and what the median
// latency may come to, 1 being what it is without.
const contractGate, contractLatencyGate = 0.9, 1.1

// The figures of CompareContract: a load's name between two of these.
const (
	plainPrefix     = "plain_"
	contractPrefix  = "contract_"
	perSecondSuffix = "_records_per_second"
	p50Suffix       = "_p50_us"
	toPlainSuffix   = "_to_plain"
)

// CompareContract measures what epochs, sequences and conditions cost: o.Rounds
// pairs, of which every other one begins with the other side.
func CompareContract(ctx context.Context, o CompareOptions) (_ *Comparison, err error) {
	o.Target.Connections, o.Target.Logs = 1, 2
	t, err := NewTarget(ctx, o.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close(context.WithoutCancel(ctx))) }()
	t.Truncate(ctx)
	if err := t.Warm(ctx, o.Warm, func(n, all int) { o.progress(n, all, "warming up: segments recycled") }); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(t.process.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	plain, err := newPlainAppends(ctx, conn, t.logs[0].Name(), o.Size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plain.close()) }()
	contract, err := newContractAppends(ctx, conn, t.logs[1].Name(), o.Size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, contract.close()) }()
	var steps []step
	var rows []row
	for _, l := range contractLoads {
		round := 0
		steps = append(steps, step{l.what, func(ctx context.Context, f Figures) error {
			round++
			sides := []*rawAppends{plain, contract}
			if round%2 == 0 {
				sides = []*rawAppends{contract, plain}
			}
			for _, s := range sides {
				got, err := s.run(ctx, l, o.Duration)
				if err != nil {
					return err
				}
				f[s.prefix+l.name+perSecondSuffix], f[s.prefix+l.name+p50Suffix] = got.PerSecond, got.Latency.P50
			}
			return nil
		}})
		rows = append(rows, contractRows(l)...)
	}
	return o.rounds(ctx, steps, rows)
}

// WriteContract writes what one side did in the rounds of CompareContract in the
// form of Go benchmarks, which benchstat reads: plain is the one without.
func WriteContract(w io.Writer, c *Comparison, plain bool) error {
	prefix := contractPrefix
	if plain {
		prefix = plainPrefix
	}
	for _, f := range c.Rounds {
		for _, l := range contractLoads {
			if _, err := fmt.Fprintf(w, "BenchmarkAppend/inflight=%d/records=%d 1 %.1f p50-us %.0f records/s\n", l.inFlight, l.count,
				f[prefix+l.name+p50Suffix], f[prefix+l.name+perSecondSuffix]); err != nil {
				return err
			}
		}
	}
	return nil
}

// contractRows compare a load's throughput and its median latency.
func contractRows(l contractLoad) []row {
	rows := make([]row, 0, 2)
	for _, one := range []struct {
		what, suffix, format string
		gate                 float64
		atMost               bool
	}{
		{"throughput", perSecondSuffix, "%.0f/s; without %.0f/s", contractGate, false},
		{"p50", p50Suffix, "%.0f us; without %.0f us", contractLatencyGate, true},
	} {
		with, without := contractPrefix+l.name+one.suffix, plainPrefix+l.name+one.suffix
		rows = append(rows, row{l.what + ", " + one.what, l.name + one.suffix + toPlainSuffix, over(with, without), one.gate, 0, one.atMost, "x",
			func(m Figures) string { return fmt.Sprintf(one.format, m[with], m[without]) }})
	}
	return rows
}

// rawAppends append to one log on a stream of their own.
type rawAppends struct {
	prefix string
	stream grpc.BidiStreamingClient[walsvcv1.AppendStreamRequest, walsvcv1.AppendStreamResponse]
	cut    *Cutter
	full   bool // each batch states a sequence and the LSN it expects
	// sequence and next are those of the next batch.
	sequence, next uint64
}

// newPlainAppends binds a log without a word of the contract.
func newPlainAppends(ctx context.Context, conn *grpc.ClientConn, log string, size int) (*rawAppends, error) {
	a := &rawAppends{prefix: plainPrefix, cut: NewCutter(size, 0, 1)}
	return a, a.bind(ctx, conn, &walsvcv1.Bind{Binding: 1, Log: log})
}

// newContractAppends makes itself the log's writer and binds a producer of its own.
func newContractAppends(ctx context.Context, conn *grpc.ClientConn, log string, size int) (*rawAppends, error) {
	a := &rawAppends{prefix: contractPrefix, cut: NewCutter(size, 0, 1), full: true}
	service := walsvcv1.NewAppendServiceClient(conn)
	producer := ulid.MustNew(ulid.Now(), rand.Reader).String()
	opened, err := service.OpenProducer(ctx, &walsvcv1.OpenProducerRequest{Log: log, Producer: producer})
	if err != nil {
		return nil, err
	}
	writer, err := service.AcquireWriter(ctx, &walsvcv1.AcquireWriterRequest{Log: log, Holder: "walctl-bench", Producer: producer})
	if err != nil {
		return nil, err
	}
	a.sequence, a.next = opened.GetLastSequence()+1, writer.GetLog().GetNextLsn()
	return a, a.bind(ctx, conn, &walsvcv1.Bind{
		Binding: 1, Log: log, Producer: producer, Epoch: writer.GetLog().GetEpoch(), Incarnation: opened.GetIncarnation(),
	})
}

func (a *rawAppends) bind(ctx context.Context, conn *grpc.ClientConn, b *walsvcv1.Bind) (err error) {
	if a.stream, err = walsvcv1.NewAppendServiceClient(conn).AppendStream(ctx); err != nil {
		return err
	}
	if err := a.stream.Send(&walsvcv1.AppendStreamRequest{Binds: []*walsvcv1.Bind{b}}); err != nil {
		return err
	}
	for {
		m, err := a.stream.Recv()
		if err != nil {
			return err
		}
		if bounds := m.GetBounds(); len(bounds) > 0 {
			return refused(bounds[0].GetRefusal())
		}
	}
}

// refused returns a refusal as an error, nil for none.
func refused(r *walsvcv1.Refusal) error {
	if r == nil {
		return nil
	}
	return fmt.Errorf("refused: %s: %s", r.GetReason(), r.GetMessage())
}

// run keeps batches in flight for the duration, one message for what each
// message acknowledged, and waits for the last.
func (a *rawAppends) run(ctx context.Context, l contractLoad, d time.Duration) (Throughput, error) {
	var (
		latency = newHistogram()
		sent    = make([]time.Time, 0, l.inFlight) // of what is in flight, oldest first
		start   = time.Now()
		acked   int64
	)
	if err := a.send(l, l.inFlight); err != nil {
		return Throughput{}, err
	}
	for range l.inFlight {
		sent = append(sent, start)
	}
	for len(sent) > 0 {
		m, err := a.stream.Recv()
		if err != nil {
			return Throughput{}, err
		}
		now := time.Now()
		over := now.Sub(start) >= d
		for i, v := range m.GetVerdicts() {
			if err := refused(v.GetRefusal()); err != nil {
				return Throughput{}, err
			}
			if !over {
				record(latency, now.Sub(sent[i]))
				acked += int64(v.GetCount())
			}
		}
		n := len(m.GetVerdicts())
		sent = append(sent[:0], sent[n:]...)
		if over || n == 0 {
			continue
		}
		if err := a.send(l, n); err != nil {
			return Throughput{}, err
		}
		for range n {
			sent = append(sent, now)
		}
		if err := ctx.Err(); err != nil {
			return Throughput{}, err
		}
	}
	return Throughput{Appends: acked, PerSecond: float64(acked) / d.Seconds(), Latency: latencyOf(latency)}, nil
}

// send sends n batches in one message.
func (a *rawAppends) send(l contractLoad, n int) error {
	m := &walsvcv1.AppendStreamRequest{Batches: make([]*walsvcv1.Batch, n)}
	for i := range m.Batches {
		b := &walsvcv1.Batch{Binding: 1, Records: &walsvcv1.Records{Record: make([][]byte, l.count)}}
		for j := range b.Records.Record {
			b.Records.Record[j] = a.cut.Next()
		}
		if a.full {
			b.Sequence, b.ExpectedLsn = a.sequence, a.next
			a.sequence++
			a.next += uint64(l.count)
		}
		m.Batches[i] = b
	}
	return a.stream.Send(m)
}

// close ends the stream in order.
func (a *rawAppends) close() error {
	if err := a.stream.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := a.stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
