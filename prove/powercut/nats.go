package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/walsvc/walsvc/prove/power"
)

// nats is nats-server with JetStream, one server and one stream in files, under
// several connections that publish.
type nats struct {
	binary  string
	always  bool // sync_interval: always
	clients int
	next    atomic.Uint32 // number of the next client

	process *process
	url     string
}

// natsModule has the server. It is a tool of this module, which pins it.
const natsModule = "github.com/nats-io/nats-server/v2"

// findNATS builds the server and returns it with each way to sync.
func findNATS(o options) ([]subject, error) {
	binary := filepath.Join(o.dir, "nats-server")
	cmd := exec.Command("go", "build", "-o", binary, natsModule)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return []subject{
		&nats{binary: binary, always: true, clients: o.clients},
		&nats{binary: binary, clients: o.clients},
	}, nil
}

func (s *nats) name() string {
	if s.always {
		return "NATS JetStream, always"
	}
	return "NATS JetStream, default"
}

func (*nats) judged() bool { return false }

var natsVersion = regexp.MustCompile(`v(\d\S+)`)

func (s *nats) version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, s.binary, "--version").Output()
	if m := natsVersion.FindSubmatch(out); err == nil && m != nil {
		return string(m[1])
	}
	return ""
}

func (*nats) makesDirectory() bool { return false }

func (s *nats) start(ctx context.Context, d *power.Disk, mount string) error {
	interval := "" // by default two minutes
	if s.always {
		interval = "sync_interval: always"
	}
	config := filepath.Join(filepath.Dir(mount), "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream {\n  store_dir: %q\n  %s\n}\n", filepath.Join(mount, volume), interval)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	var address atomic.Value
	ready := make(chan struct{})
	var once sync.Once
	p, err := startProcess(program{name: s.binary, args: []string{"-c", config}, err: func(line string) {
		if _, at, ok := strings.Cut(line, "Listening for client connections on "); ok {
			address.Store(at)
		}
		if strings.Contains(line, "Server is ready") {
			once.Do(func() { close(ready) })
		}
	}})
	if err != nil {
		return err
	}
	s.process = p
	if err := p.wait(ctx, d, ready); err != nil {
		return err
	}
	s.url = fmt.Sprint("nats://", address.Load())
	return nil
}

func (s *nats) kill(d *power.Disk) error { return s.process.kill(d) }

func (s *nats) said() string { return s.process.tell() }

// connect returns a connection that ends with the server.
func (s *nats) connect() (*natsgo.Conn, jetstream.JetStream, error) {
	c, err := natsgo.Connect(s.url, natsgo.NoReconnect())
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(c)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, js, nil
}

func (s *nats) verify(ctx context.Context, l *ledger, say func(string, ...any)) (tally, error) {
	c, js, err := s.connect()
	if err != nil {
		return tally{}, err
	}
	defer c.Close()
	stream, err := js.Stream(ctx, peerLog)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return l.compare(peerLog, true, 1, nil, say), nil
	}
	if err != nil {
		return tally{}, fmt.Errorf("stream: %w", err)
	}
	var records []found
	if stream.CachedInfo().State.Msgs > 0 {
		consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
		if err != nil {
			return tally{}, fmt.Errorf("consumer: %w", err)
		}
		messages, err := consumer.Messages()
		if err != nil {
			return tally{}, fmt.Errorf("messages: %w", err)
		}
		defer messages.Stop()
		for {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				return tally{}, fmt.Errorf("next message: %w", err)
			}
			meta, err := m.Metadata()
			if err != nil {
				return tally{}, err
			}
			records = append(records, found{meta.Sequence.Stream, m.Data()})
			if meta.NumPending == 0 {
				break
			}
		}
	}
	return l.compare(peerLog, true, 1, records, say), nil
}

func (s *nats) load(ctx context.Context, l *ledger, _ uint64) error {
	c, js, err := s.connect()
	if err != nil {
		return nil // the power cut
	}
	defer c.Close()
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: peerLog, Subjects: []string{peerLog}, Storage: jetstream.FileStorage})
	if err != nil {
		return nil
	}
	var running sync.WaitGroup
	for range s.clients {
		number := s.next.Add(1)
		running.Go(func() { s.publish(ctx, l, number) })
	}
	running.Wait()
	return nil
}

// publish keeps a window of messages in flight, until its connection breaks or
// ctx ends.
func (s *nats) publish(ctx context.Context, l *ledger, number uint32) {
	c, js, err := s.connect()
	if err != nil {
		return
	}
	defer c.Close()
	type flying struct {
		u *unit
		f jetstream.PubAckFuture
	}
	queue := make(chan flying, window)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for a := range queue {
			select {
			case ack := <-a.f.Ok():
				l.acknowledged(a.u, ack.Sequence)
			case <-a.f.Err(): // its outcome is unknown
			case <-ctx.Done():
			}
		}
	})
	defer waiting.Wait()
	defer close(queue)
	for n := uint64(1); ctx.Err() == nil; n++ {
		u := l.submitted(peerLog, unitID{number, n}, 1)
		f, err := js.PublishAsync(peerLog, record(recordID{u.id, 0, 1}))
		if err != nil {
			return
		}
		select {
		case queue <- flying{u, f}:
		case <-ctx.Done():
		}
	}
}
