package disk_test

import (
	"sync"
	"testing"
	"time"

	"github.com/walsvc/walsvc/internal/disk"
)

// What a device should take it takes at the least, and one operation at a time:
// four files written and synced at once take as long as one behind the other.
// How much more it takes is the machine's, and no test's.
func TestModelTakesItsTime(t *testing.T) {
	const writes, size = 4, 1 << 20
	d := disk.Device{Name: "test", Sync: time.Millisecond, Bandwidth: 1 << 30}
	var ops sync.Map
	fs := disk.Model(disk.Record(disk.NewMem(), func(op disk.Op) {
		if op.Done() {
			n, _ := ops.LoadOrStore(op.Kind, new(int))
			*n.(*int)++
		}
	}), d)
	if err := fs.MkdirAll("/dir"); err != nil {
		t.Fatal(err)
	}
	var files [writes]disk.File
	for i := range files {
		f, err := fs.Create("/dir/" + string(rune('a'+i)))
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	began := time.Now()
	var all sync.WaitGroup
	for _, f := range files {
		all.Go(func() {
			if n, err := f.WriteAt(make([]byte, size), 0); n != size || err != nil {
				t.Errorf("wrote %d: %v", n, err)
			}
			if err := f.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := fs.SyncDir("/dir"); err != nil {
		t.Fatal(err)
	}
	want := writes*(time.Second*size/(1<<30)+d.Sync) + d.Sync
	if took := time.Since(began); took < want {
		t.Errorf("took %v, less than the %v of the device", took, want)
	}

	p := make([]byte, size)
	if n, err := files[0].ReadAt(p, 0); n != size || err != nil {
		t.Errorf("read %d: %v", n, err)
	}
	for i, f := range files {
		if err := f.Close(); err != nil {
			t.Errorf("close %d: %v", i, err)
		}
	}
	for kind, want := range map[disk.OpKind]int{disk.OpWrite: writes, disk.OpRead: 1, disk.OpSync: 0, disk.OpSyncDir: 0, disk.OpClose: writes} {
		got := 0
		if n, ok := ops.Load(kind); ok {
			got = *n.(*int)
		}
		if got != want {
			t.Errorf("%d operations %s beneath, want %d", got, kind, want)
		}
	}
}

// A device without a speed costs nothing, and an error beneath comes through.
func TestModelHandsErrorsOn(t *testing.T) {
	mem := disk.NewMem()
	fs := disk.Model(mem, disk.Device{})
	if _, err := fs.Open("/missing", false); err == nil {
		t.Error("opened what is missing")
	}
	f, err := fs.Create("/file")
	if err != nil {
		t.Fatal(err)
	}
	mem.SetCapacity(4 << 10)
	if _, err := f.WriteAt(make([]byte, 64<<10), 0); err == nil {
		t.Error("wrote more than fits")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if over := disk.ModelError(10*time.Microsecond, 5); over < 0 {
		t.Errorf("ended %v early", -over)
	}
}
