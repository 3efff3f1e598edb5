package certify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

var (
	// ErrCannotCut says that a file system cannot be shut down, or that the
	// directory is not where it is mounted.
	ErrCannotCut = errors.New("file system cannot be shut down")

	// ErrOthers says that a file system has files of others, and that nobody
	// said that it may be shut down nevertheless.
	ErrOthers = errors.New("file system has other files")
)

// CutOptions say how often Cuts cuts, and after what.
type CutOptions struct {
	Options
	// Cuts is how many; default 5.
	Cuts int
	// For is how long the load runs before each, at least; default 1 s. It also
	// runs until each lane has made minSteps.
	For time.Duration
	// Yes allows it on a file system that has files of others. They are as safe
	// as in a crash: what was synced stays, and an orderly unmount comes first.
	Yes bool

	cutter cutter
}

// minSteps is how many steps each lane makes at least before a cut: as many as
// it has kinds of steps, a few times over, and a checkpoint's worth.
const minSteps = 33

// A cutter takes away what was not made durable.
type cutter interface {
	// fs returns the file system as it is at present.
	fs() disk.FS
	// cut makes every later operation fail, calls drain, which returns when
	// nobody has a file open any more, and brings back what survived.
	cut(drain func()) error
}

// Cuts inspects a directory, then runs a load in it and shuts its file system
// down under the load, again and again, and comes to a verdict. It ends early
// when something was lost.
//
// The directory must be where an ext4, xfs or f2fs is mounted that nobody else
// uses, and the caller root. It returns ErrCannotCut, disk.ErrShared or ErrOthers
// before anything was done to it.
func Cuts(ctx context.Context, o CutOptions, p Progress) (_ *Report, err error) {
	o.Options = o.Options.withDefaults()
	if o.Cuts <= 0 {
		o.Cuts = 5
	}
	if o.For <= 0 {
		o.For = time.Second
	}
	if o.cutter == nil {
		if o.cutter, err = newShutdowns(o); err != nil {
			return nil, err
		}
	}
	all := o.Cuts + 1
	p.step(0, all, "inspecting")
	r, err := inspect(ctx, o.Options, nil)
	if err != nil {
		return nil, err
	}
	home, err := newHome(o.cutter.fs(), o.Dir)
	if err != nil {
		return nil, err
	}
	r.Cut = &CutResult{Kind: KindShutdown, Lanes: []LaneResult{}, Losses: []Loss{}}
	run := ulid.MustNew(ulid.Now(), rand.Reader)
	for round := 1; round <= o.Cuts && r.Cut.Bad() == 0; round++ {
		p.step(round, all, fmt.Sprintf("cut %d: load", round))
		var cut *CutResult
		if cut, err = cutOnce(ctx, o, site{dir: home, run: run, round: uint32(round)}); err != nil {
			err = fmt.Errorf("cut %d: %w", round, err)
			break
		}
		r.Cut.merge(cut)
	}
	r.judge()
	if r.Verdict != Dishonest {
		err = errors.Join(err, removeTree(o.cutter.fs(), home))
	}
	p.step(all, all, "done")
	if err != nil {
		return nil, err
	}
	return r, nil
}

// merge takes in the result of one more cut.
func (r *CutResult) merge(cut *CutResult) {
	r.Cuts++
	r.Acknowledged += cut.Acknowledged
	r.Checked += cut.Checked
	r.Lost += cut.Lost
	r.Torn += cut.Torn
	r.Reappeared += cut.Reappeared
	r.Unsynced += cut.Unsynced
	r.Dropped += cut.Dropped
	r.Gentle += cut.Gentle
	for _, l := range cut.Losses {
		l.Cut = r.Cuts
		r.Losses = append(r.Losses, l)
	}
	for _, l := range cut.Lanes {
		i := slices.IndexFunc(r.Lanes, func(have LaneResult) bool { return have.Lane == l.Lane })
		if i < 0 {
			r.Lanes = append(r.Lanes, l)
			continue
		}
		have := &r.Lanes[i]
		have.Acknowledged += l.Acknowledged
		have.Checked += l.Checked
		have.Lost += l.Lost
		have.Torn += l.Torn
		have.Reappeared += l.Reappeared
	}
}

// cutOnce runs a load, cuts, and compares.
func cutOnce(ctx context.Context, o CutOptions, s site) (*CutResult, error) {
	s.fs = o.cutter.fs()
	a := newAcks()
	l, err := startLoad(ctx, s, a)
	if err != nil {
		return nil, err
	}
	if err := o.wait(ctx, l); err != nil {
		return nil, errors.Join(err, l.stop())
	}
	// What is acknowledged from here on does not count. In a power cut nobody
	// lives to see it, but a kernel that shuts a file system down lets syncs that
	// are under way return without an error, and forgets what they covered: ext4
	// that of an appended block in one cut of six, xfs that of a directory in one
	// of sixty. Blocks that were written before, as a volume's, were never among it.
	acked := a.all()
	err = o.cutter.cut(func() { _ = l.stop() }) // the cut is why they fail
	if err != nil {
		return nil, err
	}
	s.fs = o.cutter.fs()
	r, err := compare(ctx, s, acked)
	if err != nil {
		return nil, err
	}
	// Lanes that go on from an earlier round have had their first steps counted.
	for i := range r.Lanes {
		begun := l.begun[r.Lanes[i].Lane]
		r.Lanes[i].Acknowledged -= begun
		r.Acknowledged -= begun
	}
	return r, nil
}

// wait returns when the load has run for long enough, or with why it ended.
func (o *CutOptions) wait(ctx context.Context, l *load) error {
	timer := time.NewTimer(o.For)
	defer timer.Stop()
	for late := false; ; {
		if late && l.least() >= minSteps {
			return nil
		}
		select {
		case <-timer.C:
			late = true
		case <-l.acks.changed:
		case <-l.failed:
			return errors.New("the load failed before the cut")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// shutdowns cuts by shutting the real file system down.
type shutdowns struct {
	dir   string
	place *disk.Place
	disk  disk.FS
}

// cuttable are the file systems that can be shut down, as far as is known.
var cuttable = []string{"ext4", "xfs", "f2fs"}

// newShutdowns finds out whether a directory's file system may be cut, which it
// does by unmounting it once in order.
func newShutdowns(o CutOptions) (*shutdowns, error) {
	place, err := o.locate(o.Dir)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, fmt.Errorf("%s: %w: it takes Linux", o.Dir, ErrCannotCut)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains(cuttable, place.FileSystem):
		return nil, fmt.Errorf("%s: %w: it is of type %s", o.Dir, ErrCannotCut, place.FileSystem)
	case !place.MountedAt(o.Dir):
		return nil, fmt.Errorf("%s: %w: it is not where its file system is mounted, which is %s", o.Dir, ErrCannotCut, place.MountPoint)
	}
	entries, err := o.fs.List(o.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name != "lost+found" && e.Name != Home && !o.Yes {
			return nil, fmt.Errorf("%s: %w: %s, for one", o.Dir, ErrOthers, e.Name)
		}
	}
	// Whoever has a file open there would lose it: then it does not unmount.
	if err := disk.Remount(place); err != nil {
		return nil, err
	}
	return &shutdowns{o.Dir, place, o.fs}, nil
}

func (s *shutdowns) fs() disk.FS { return s.disk }

func (s *shutdowns) cut(drain func()) error {
	err := disk.Shutdown(s.dir)
	drain()
	if err != nil {
		return err
	}
	if err := disk.Remount(s.place); err != nil {
		return fmt.Errorf("%s was shut down and has to be mounted anew: %w", s.dir, err)
	}
	return nil
}
