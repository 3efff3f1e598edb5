package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/bench"
)

// nats is nats-server with a JetStream stream in files, which syncs every write
// (sync_interval: always). A message is synced by itself; only an atomic batch,
// of up to 1,000, has one sync for all.
type nats struct {
	binary   string
	v        string
	gathered bool // into atomic batches

	process *process
	conn    *natsgo.Conn
	js      jetstream.JetStream
	stream  jetstream.Stream
	batches int
}

// natsModule has the server. It is a tool of this module, which pins it.
const natsModule = "github.com/nats-io/nats-server/v2"

// buildNATS builds the server into a directory.
func buildNATS(ctx context.Context, dir string) (binary, version string, err error) {
	binary = filepath.Join(dir, "nats-server")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, natsModule).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build nats-server, which takes to be run within the module bench: %w\n%s", err, bytes.TrimSpace(out))
	}
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if m := regexp.MustCompile(`v(\d\S+)`).FindSubmatch(out); err == nil && m != nil {
		version = string(m[1])
	}
	return binary, version, err
}

func (s *nats) about() about {
	a := about{Name: "NATS JetStream", Version: s.v, Reached: loopback,
		How: "file store, sync_interval always; one connection; PublishAsync, which is its pipeline"}
	if s.gathered {
		a.Name = "NATS JetStream, gathered"
		a.How = "file store, sync_interval always; one connection; the client makes atomic batches of up to 1,000 of what arrived meanwhile"
	}
	return a
}

const (
	natsStream  = "LOG"
	natsSubject = "log"
	// natsBatch is the most messages in an atomic batch, a bound of the server's.
	natsBatch = 1000
)

func (s *nats) start(ctx context.Context, dir string, _ bool) (err error) {
	config, ports := filepath.Join(dir, "nats.conf"), filepath.Join(dir, "ports")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nports_file_dir: %q\njetstream {\n  store_dir: %q\n  sync_interval: always\n  max_file_store: 64GB\n}\n", ports, filepath.Join(dir, "store"))
	if err := errors.Join(os.RemoveAll(ports), os.MkdirAll(ports, 0o700), os.WriteFile(config, []byte(text), 0o600)); err != nil {
		return err
	}
	address := regexp.MustCompile(`nats://[^"]+`)
	s.process, err = startProcess(ctx, exec.Command(s.binary, "-c", config), func(ctx context.Context) error {
		files, err := filepath.Glob(filepath.Join(ports, "*.ports"))
		if err != nil || len(files) == 0 {
			return errors.Join(err, os.ErrNotExist)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		url := address.FindString(string(b))
		if url == "" {
			return fmt.Errorf("no address in %q", b)
		}
		if s.conn, err = natsgo.Connect(url, natsgo.NoReconnect()); err != nil {
			return err
		}
		err = s.open(ctx)
		if err != nil {
			s.conn.Close()
		}
		return err
	})
	return err
}

func (s *nats) open(ctx context.Context) (err error) {
	if s.js, err = jetstream.New(s.conn, jetstream.WithPublishAsyncMaxPending(bench.PipelineRecords)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a server that is not ready does not answer
	defer cancel()
	s.stream, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: natsStream, Subjects: []string{natsSubject},
		Storage: jetstream.FileStorage, AllowAtomicPublish: true})
	return err
}

func (s *nats) logs(ctx context.Context, _ int, _ bool) ([]bench.Log, error) {
	if s.gathered {
		return []bench.Log{gather(s.batch, natsBatch)}, nil
	}
	type flying struct {
		future jetstream.PubAckFuture
		ack    acknowledge
	}
	// The server answers in order, so one goroutine hears all answers until the
	// load is over.
	queue := make(chan flying, bench.PipelineRecords)
	go func() {
		for {
			select {
			case f := <-queue:
				select {
				case <-f.future.Ok():
					f.ack(client.Receipt{}, nil)
				case err := <-f.future.Err():
					f.ack(client.Receipt{}, err)
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	var mu sync.Mutex
	return []bench.Log{sent(func(ctx context.Context, record []byte, ack acknowledge) {
		mu.Lock()
		defer mu.Unlock()
		future, err := s.js.PublishAsync(natsSubject, record)
		if err != nil {
			ack(client.Receipt{}, err)
			return
		}
		select {
		case queue <- flying{future, ack}:
		case <-ctx.Done():
		}
	})}, nil
}

// batch publishes an atomic batch; the last message commits it and is answered
// when all are durable.
func (s *nats) batch(ctx context.Context, records [][]byte) error {
	s.batches++
	id := strconv.Itoa(s.batches)
	for i, r := range records {
		m := &natsgo.Msg{Subject: natsSubject, Data: r, Header: natsgo.Header{
			"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}}
		if i+1 < len(records) {
			if err := s.conn.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header["Nats-Batch-Commit"] = []string{"1"}
		if _, err := s.js.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (s *nats) replay(ctx context.Context, yield func([]byte) error) error {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return err
	}
	if info.State.Msgs == 0 {
		return nil
	}
	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(bench.PipelineRecords))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for range info.State.Msgs {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if err := yield(m.Data()); err != nil {
			return err
		}
	}
	return nil
}

func (s *nats) stop(context.Context) error {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	s.process.kill()
	s.process = nil
	return nil
}
