package wal

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestRefusalsWait hangs the sync of a frame and asks for what has to be refused
// because of it, or in spite of it: no refusal comes out before the sync has
// returned, since a crash could take back what it was decided on.
func TestRefusalsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		fs := disk.NewFaulty(disk.NewMem())
		v := openPlain(t, fs)
		mustCreate(t, v, "log")
		release := hangSyncs(fs, v)
		appended := make(chan error, 1)
		go func() {
			_, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Run: run("1")})
			appended <- err
		}()
		synctest.Wait()

		asked := []struct {
			name string
			want error
			ask  func(context.Context) error
		}{
			{"an append where another one is", ErrLSNMismatch, func(ctx context.Context) error {
				_, err := v.Append(ctx, "log", ulid.ULID{}, 0, Batch{Expected: 1, Run: run("x")})
				return err
			}},
			{"a log that exists otherwise", ErrLogExists, func(ctx context.Context) error {
				_, _, err := v.CreateLog(ctx, "log", LogOptions{QuotaBytes: 1})
				return err
			}},
			{"a log that is not there", ErrLogNotFound, func(ctx context.Context) error {
				return v.DeleteLog(ctx, "none", ulid.ULID{})
			}},
			{"a checkpoint that is not there", ErrCheckpointNotFound, func(ctx context.Context) error {
				return v.DeleteCheckpoint(ctx, "log", "none", nil)
			}},
		}
		answers := make([]chan error, len(asked))
		for i, a := range asked {
			answers[i] = make(chan error, 1)
			go func() { answers[i] <- a.ask(ctx) }()
		}
		synctest.Wait()
		if len(appended) > 0 {
			t.Errorf("an append was acknowledged before its sync: %v", <-appended)
		}
		for i, a := range asked {
			if len(answers[i]) > 0 {
				t.Fatalf("%s was answered before the sync: %v", a.name, <-answers[i])
			}
		}
		release()
		if err := <-appended; err != nil {
			t.Fatal(err)
		}
		for i, a := range asked {
			if err := <-answers[i]; !errors.Is(err, a.want) {
				t.Errorf("%s: %v, want %v", a.name, err, a.want)
			}
		}
		closeTest(t, v)
	})
}

// hangSyncs has every sync of the segment that is being filled hang until
// release is called.
func hangSyncs(fs *disk.Faulty, v *Volume) (release func()) {
	filling := v.filling().String() + ".wal"
	hang := make(chan struct{})
	fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpSync && op.Name == filling {
			<-hang
		}
		return nil
	})
	return func() { close(hang) }
}

// openPlain is openTest without compression: a codec's package makes channels
// when it is first used, and those made in a bubble are of no use outside.
func openPlain(t testing.TB, fs disk.FS) *Volume {
	t.Helper()
	o := testOptions(fs)
	o.Codec = "none"
	v, err := Open(context.Background(), "/vol", o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return v
}
