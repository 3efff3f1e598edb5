package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/docstore"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/wal"
)

// memService is a service in this process, on a disk in memory that loses what was
// not synced when it is killed.
type memService struct {
	socket string
	rng    *rand.Rand
	disk   *disk.Mem
	volume *wal.Volume
	server *server.Server
	served sync.WaitGroup
	kills  int

	// sabotage, if not nil, breaks a promise from the second kill on: what it makes of
	// a log's records is read of it.
	sabotage func([]client.Record) []client.Record
}

func newMemService(t *testing.T) *memService {
	t.Helper()
	dir, err := os.MkdirTemp("", "wd-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &memService{socket: filepath.Join(dir, "s"), rng: rand.New(rand.NewPCG(1, 1)), disk: disk.NewMem()}
	t.Cleanup(func() {
		if s.server != nil {
			_ = s.kill()
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *memService) start(ctx context.Context) (string, error) {
	var err error
	s.volume, err = wal.Open(ctx, "/vol", wal.Options{FS: s.disk, Create: true, SegmentSize: 64 << 10, PrepareRate: -1, Codec: "none"})
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		return "", errors.Join(err, s.volume.Close())
	}
	s.server = server.New(s.volume, server.Options{Log: slog.New(slog.DiscardHandler)})
	served := s.server
	s.served.Go(func() { _ = served.Serve(listener) })
	return "recovered", nil
}

func (s *memService) kill() error {
	s.server.Stop() // first: nobody may hear of what comes after the disk's last moment
	s.served.Wait()
	s.disk = s.disk.CrashClone(s.rng, 0.5)
	_ = s.volume.Close() // of a disk that is gone
	s.server = nil
	s.kills++
	return nil
}

func (s *memService) target() string { return "unix:" + s.socket }

func (s *memService) passing(err error) bool { return (&walsvcProcess{}).passing(err) }

func (s *memService) counters(context.Context) (serviceCounters, error) {
	return serviceCounters{records: 10, syncs: 1}, nil
}

func (s *memService) connect(ctx context.Context) (demoConn, error) {
	c, err := client.Open(ctx, s.target(), client.Options{})
	if err != nil {
		return nil, err
	}
	return memConn{walsvcConn{c}, s}, nil
}

type memConn struct {
	walsvcConn
	s *memService
}

// read reads what the sabotage leaves of a log.
func (c memConn) read(ctx context.Context, log string) (client.LSN, iter.Seq2[client.Record, error], error) {
	first, records, err := c.walsvcConn.read(ctx, log)
	if err != nil || c.s.sabotage == nil || c.s.kills < 2 {
		return first, records, err
	}
	var all []client.Record
	for r, err := range records {
		if err != nil {
			return 0, nil, err
		}
		all = append(all, r)
	}
	if len(all) > 10 {
		all = c.s.sabotage(all)
	}
	return first, func(yield func(client.Record, error) bool) {
		for i, r := range all {
			r.LSN = first + client.LSN(i)
			if !yield(r, nil) {
				return
			}
		}
	}, nil
}

func TestDemo(t *testing.T) {
	for _, test := range []struct {
		name     string
		sabotage func([]client.Record) []client.Record
		broken   func(tally) bool // what must be found; nil for nothing
	}{
		{name: "a service that keeps its promises"},
		{
			name:     "a service that loses its last acknowledged records",
			sabotage: func(all []client.Record) []client.Record { return all[:len(all)/2] },
			broken:   func(t tally) bool { return t.lost > 0 },
		},
		{
			name:     "a service that tries an append again that had landed",
			sabotage: func(all []client.Record) []client.Record { return append(all, all[len(all)-1]) },
			// Which of the two it is called depends on what the reading saw of the first.
			broken: func(t tally) bool { return t.duplicated+t.outOfOrder > 0 },
		},
		{
			name: "a service that swaps two records",
			sabotage: func(all []client.Record) []client.Record {
				n := len(all)
				all[n-1], all[n-2] = all[n-2], all[n-1]
				return all
			},
			broken: func(t tally) bool { return t.outOfOrder > 0 },
		},
		{
			name: "a service that makes records up",
			sabotage: func(all []client.Record) []client.Record {
				made := docstore.Op{Kind: docstore.Put, Session: 9999, Number: 1, Key: "k"}
				return append(slices.Clip(all), client.Record{Data: made.AppendTo(nil)})
			},
			broken: func(t tally) bool { return t.foreign > 0 },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			service := newMemService(t)
			service.sabotage = test.sabotage
			var docs []docEntry
			for i := range 100 {
				docs = append(docs, docEntry{fmt.Sprintf("key-%d", i), fmt.Appendf(nil, "doc %d", i)})
			}
			d := newDemo(demoPlan{
				docs: docs, dir: t.TempDir(), shards: 2, clients: 4, window: 20,
				kills: 4, every: 2, duration: 0, rounds: 5, seed: 1,
			}, service, t.Logf)
			got, err := d.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d.kills != 4 || d.fewestInFlight == 0 || d.engineKills != 3 || d.failovers != 2 {
				t.Errorf("%d kills with at least %d in flight, %d of the engine, %d failovers", d.kills, d.fewestInFlight, d.engineKills, d.failovers)
			}
			if test.broken == nil {
				if !got.ok() || got.acked == 0 {
					t.Errorf("found %+v", got)
				}
			} else if got.ok() || !test.broken(got) {
				t.Errorf("the breach was not found: %+v", got)
			}
		})
	}
}
