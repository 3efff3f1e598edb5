package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/walsvc/walsvc/client"
	"github.com/walsvc/walsvc/internal/disk"
	"github.com/walsvc/walsvc/internal/docstore"
	"github.com/walsvc/walsvc/internal/proofs"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/prove/power"
	"github.com/walsvc/walsvc/wal"
)

// TestEngine takes the power away from an engine's own disk, before one change of it
// after the other, while the service lives elsewhere: what a checkpoint names is there
// when the engine is opened again, since the log has given up what it covers.
func TestEngine(t *testing.T) {
	proofs.Need(t, proofs.FUSE)
	volume, err := wal.Open(t.Context(), "/vol", wal.Options{FS: disk.NewMem(), Create: true, SegmentSize: 256 << 10, PrepareRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	service := server.New(volume, server.Options{Log: slog.New(slog.DiscardHandler)})
	listener := bufconn.Listen(64 << 10)
	served := make(chan error, 1)
	go func() { served <- service.Serve(listener) }()
	t.Cleanup(func() {
		service.Stop()
		if err := errors.Join(<-served, volume.Close()); err != nil {
			t.Error(err)
		}
	})
	for change := 0; ; change++ {
		options := docstore.Options{Name: "engine", Shards: 1, Pages: 2, Prefix: fmt.Sprintf("cut-%d/", change), Client: client.Options{
			Dial: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) })},
		}}
		d := power.New(power.Strict, 0)
		d.CutAfter(change, false)
		acked := map[string]string{}
		live := func(s *docstore.Store) error {
			for i := range 8 {
				key, doc := fmt.Sprint("key-", i%5), fmt.Sprint("document ", i)
				if err := s.Put(t.Context(), key, []byte(doc)); err != nil {
					return err
				}
				acked[key] = doc
				if i%3 == 2 {
					if _, err := s.Checkpoint(t.Context(), 0); err != nil {
						return err
					}
				}
			}
			return nil
		}
		go func() { <-d.Off(); d.Abandon() }() // whoever waits for the disk dies with it
		err := onDisk(t, d, options, live)
		select {
		case <-d.Off():
		default:
			t.Errorf("change %d: %v", change, err)
		}
		whole := err == nil
		after, _ := d.Survivor(rand.New(rand.NewPCG(uint64(change), 0)), power.Loss{Survive: []float64{0, 0.5, 1}[change%3]})
		if err := onDisk(t, after, options, func(s *docstore.Store) error {
			for key, want := range acked {
				if doc, _, err := s.Get(t.Context(), key); err != nil || string(doc) != want {
					t.Errorf("change %d: %s is %q, want %q; %v", change, key, doc, want, err)
				}
			}
			return nil
		}); err != nil {
			t.Errorf("change %d: %v", change, err)
		}
		if whole {
			return
		}
	}
}

// onDisk has an engine live on a disk.
func onDisk(t *testing.T, d *power.Disk, o docstore.Options, live func(*docstore.Store) error) error {
	t.Helper()
	mount := t.TempDir()
	m, err := power.Mount(d, mount)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	o.Dir = filepath.Join(mount, "engines", "first")
	s, err := docstore.Open(t.Context(), "/sim", o)
	if err != nil {
		return err
	}
	defer s.Close()
	return live(s)
}
