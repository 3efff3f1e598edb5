package segment

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/walsvc/walsvc/internal/disk"
)

// TestTranscript runs the scripts of testdata/transcript and compares what the
// disk was asked to write, make durable, rename and remove, in that order.
// What the preparer asks comes after what the command asks: it is held up
// meanwhile.
//
//	create [size=B]          make a volume of segments of B bytes, 64 KiB by default
//	open                     open it
//	resume [upto=N]          resume behind what a scan finds, or behind draft N, with nothing rewritten
//	append N size=B          append draft N with a block of B bytes, at most 10000
//	sync                     sync
//	release BEFORE           release the segments below
//	release ids=(N,..)       release these segments
//	pin N                    open a reader of segment N
//	unpin                    close it
//	gaps                     show the gaps, and where the frames before each end
//	retry                    let the preparer try again after a failure
//	close                    close the journal
//	crash                    close the journal and lose what was not synced
//	capacity BYTES           let the disk hold no more
//	ls                       list the directory
func TestTranscript(t *testing.T) {
	datadriven.Walk(t, "testdata/transcript", func(t *testing.T, path string) {
		s := &script{mem: disk.NewMem(), spares: map[string]string{}, gate: make(chan struct{})}
		s.attach()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			err := s.run(t, d)
			if err != nil {
				fmt.Fprintf(&s.out, "error: %v\n", err)
			}
			if s.j != nil {
				if s.j.usable() == nil {
					s.j.recycleReleased() // or wait until the pool has
				}
				s.preparer(t)
			}
			return spareULID.ReplaceAllStringFunc(s.out.String(), s.spareAlias)
		})
		if s.j != nil {
			s.closing()
			if err := s.j.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

var spareULID = regexp.MustCompile(`spare-[0-9a-z]{26}\.seg`)

type script struct {
	mem     *disk.Mem
	fs      *disk.Faulty
	o       Options
	j       *Journal
	out     strings.Builder
	spares  map[string]string // aliases, since ULIDs are no reading
	gate    chan struct{}     // what the preparer waits for before each spare
	closing func()            // lets it go on without
	reader  *Reader           // of pin
}

// attach puts the recorder around s.mem.
func (s *script) attach() {
	fs := disk.NewFaulty(disk.Record(s.mem, func(op disk.Op) {
		if mutates(op) || op.Done() && (op.Kind == disk.OpLock || op.Kind == disk.OpUnlock) {
			fmt.Fprintln(&s.out, op)
		}
	}))
	s.fs = fs
	s.o = testOptions(fs)
	s.o.Spares = 3
	s.o.Rand = rand.NewChaCha8([32]byte{byte(len(s.spares))})
	s.o.Seal = func(id ID, limit int) []byte { return fmt.Appendf(nil, "index of %s", id) }
}

// gatePreparer has the preparer wait at the gate from now on.
func (s *script) gatePreparer() {
	// Asking for free space is the first thing the preparer does for a spare.
	closing := make(chan struct{})
	s.closing = sync.OnceFunc(func() { close(closing) })
	s.fs.Before(func(op disk.Op) error {
		if op.Kind == disk.OpFree {
			select {
			case <-s.gate:
			case <-closing:
			}
		}
		return nil
	})
}

func (s *script) spareAlias(name string) string {
	if s.spares[name] == "" {
		s.spares[name] = fmt.Sprintf("spare-%d.seg", len(s.spares)+1)
	}
	return s.spares[name]
}

// preparer lets the preparer work until it has nothing to do.
func (s *script) preparer(t *testing.T) {
	s.j.mu.Lock()
	idle := !s.j.resumed || len(s.j.spares) >= s.j.target || s.j.prepareErr != nil
	s.j.mu.Unlock()
	if idle {
		return
	}
	fmt.Fprintln(&s.out, "-- preparer")
	for {
		s.j.mu.Lock()
		idle, changed := len(s.j.spares) >= s.j.target || s.j.prepareErr != nil, s.j.changed
		err := s.j.prepareErr
		s.j.mu.Unlock()
		if idle {
			if err != nil {
				fmt.Fprintf(&s.out, "error: %v\n", err)
			}
			return
		}
		select {
		case s.gate <- struct{}{}:
		case <-changed:
		}
	}
}

func (s *script) run(t *testing.T, d *datadriven.TestData) (err error) {
	switch d.Cmd {
	case "create":
		if d.HasArg("size") {
			d.ScanArgs(t, "size", &s.o.SegmentSize)
		}
		return Create(s.o)
	case "open":
		s.gatePreparer()
		s.j, err = Open(s.o)
		return err
	case "resume":
		found, r, err := survivors(s.j)
		if err != nil {
			return err
		}
		if d.HasArg("upto") {
			var n int
			d.ScanArgs(t, "upto", &n)
			i := slices.IndexFunc(found, func(s survivor) bool { return s.n == n })
			r.Cut, r.Rewrite = found[i].end, nil
		}
		s.j.releaseMu.Lock() // the pool comes after
		defer s.j.releaseMu.Unlock()
		refs, err := s.j.Resume(r)
		for _, ref := range refs {
			fmt.Fprintf(&s.out, "rewritten: frame %d at %s\n", ref.Sequence, ref.Pos)
		}
		fmt.Fprintf(&s.out, "durable: %d\n", s.j.Durable())
		return err
	case "append":
		var n, size int
		scanKey(t, d, &n)
		d.ScanArgs(t, "size", &size)
		w, err := s.j.Append(testDraft(uint64(n), size))
		if err == nil {
			fmt.Fprintf(&s.out, "frame %d at %s promises %d\n", w.Ref.Sequence, w.Ref.Pos, w.Header.Promise)
		}
		return err
	case "sync":
		err := s.j.Sync()
		fmt.Fprintf(&s.out, "durable: %d\n", s.j.Durable())
		return err
	case "release":
		if d.HasArg("ids") {
			return s.j.Release(scanIDs(t, d))
		}
		var before uint64
		scanKey(t, d, &before)
		return s.j.Release(s.j.Below(ID(before)))
	case "pin":
		var id uint64
		scanKey(t, d, &id)
		s.reader, err = s.j.Reader(ID(id))
		return err
	case "unpin":
		return s.reader.Close()
	case "gaps":
		for _, g := range s.j.Gaps() {
			hdr, err := s.j.Header(g.From)
			if err != nil {
				return err
			}
			fmt.Fprintf(&s.out, "%s behind %s\n", g, hdr.Cut.End)
		}
		return nil
	case "retry":
		s.j.mu.Lock()
		s.j.prepareErr = nil // so that the end of the retry is seen
		s.j.mu.Unlock()
		s.j.kickPool()
		return nil
	case "close":
		s.closing()
		err := s.j.Close()
		s.j = nil
		return err
	case "crash":
		s.closing()
		err := s.j.Close()
		s.out.Reset()
		s.mem, s.j = s.mem.CrashClone(nil, 0), nil
		s.attach()
		return err
	case "capacity":
		var bytes int64
		scanKey(t, d, &bytes)
		s.mem.SetCapacity(bytes)
		return nil
	case "ls":
		entries, err := s.mem.List("v")
		for _, e := range entries {
			fmt.Fprintf(&s.out, "%s %d\n", e.Name, e.Size)
		}
		return err
	}
	d.Fatalf(t, "no such command")
	return nil
}

// scanKey reads a command's first argument.
func scanKey(t *testing.T, d *datadriven.TestData, v any) {
	if _, err := fmt.Sscan(d.CmdArgs[0].Key, v); err != nil {
		d.Fatalf(t, "%v", err)
	}
}

// scanIDs reads a command's ids.
func scanIDs(t *testing.T, d *datadriven.TestData) (ids []ID) {
	arg, _ := d.Arg("ids")
	for i := range arg.Vals {
		var id uint64
		arg.Scan(t, i, &id)
		ids = append(ids, ID(id))
	}
	return ids
}
