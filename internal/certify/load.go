package certify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"sync"

	"github.com/walsvc/walsvc/internal/disk"
)

// lanesOf returns the load of a site.
func lanesOf(s site) []lane {
	lanes := []lane{&blocksLane{site: s}, &filesLane{site: s}}
	j := &journal{site: s}
	for i := range journals {
		lanes = append(lanes, &journalLane{j, i})
	}
	return lanes
}

// laneNames are those of lanesOf.
var laneNames = func() (names []string) {
	for _, l := range lanesOf(site{}) {
		names = append(names, l.name())
	}
	return names
}()

// acks are how far each lane was acknowledged.
type acks struct {
	mu      sync.Mutex
	steps   map[string]uint64
	changed chan struct{} // holds one if there may be news
}

func newAcks() *acks {
	return &acks{steps: map[string]uint64{}, changed: make(chan struct{}, 1)}
}

// set says that a lane has come as far as a step.
func (a *acks) set(lane string, step uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.steps[lane] = step
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// all returns how far each lane is.
func (a *acks) all() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.steps)
}

// A load is lanes under way.
type load struct {
	lanes  []lane
	acks   *acks
	begun  map[string]uint64 // what was acknowledged of each lane at the start
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan struct{} // closed when a lane has failed

	mu  sync.Mutex
	err error // of the first lane that failed
}

// startLoad makes what the lanes work on, durably, and starts them. They run
// until stop, or until one of them fails.
func startLoad(ctx context.Context, s site, a *acks) (*load, error) {
	l := &load{lanes: lanesOf(s), acks: a, failed: make(chan struct{})}
	for _, lane := range l.lanes {
		last, err := lane.begin(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("prepare %s: %w", lane.name(), err), l.end())
		}
		a.set(lane.name(), last)
	}
	l.begun = a.all()
	ctx, l.cancel = context.WithCancel(ctx)
	for _, lane := range l.lanes {
		l.wg.Go(func() { l.drive(ctx, lane, l.begun[lane.name()]) })
	}
	return l, nil
}

// least returns how many steps the slowest lane has made.
func (l *load) least() uint64 {
	least := uint64(math.MaxUint64)
	for lane, step := range l.acks.all() {
		least = min(least, step-l.begun[lane])
	}
	return least
}

// drive makes the steps of a lane behind the last one.
func (l *load) drive(ctx context.Context, lane lane, last uint64) {
	for n := last + 1; ctx.Err() == nil; n++ {
		err := lane.step(ctx, n)
		if err == nil {
			l.acks.set(lane.name(), n)
			continue
		}
		if ctx.Err() == nil {
			l.fail(fmt.Errorf("%s: step %d: %w", lane.name(), n, err))
		}
		return
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.failed)
	}
}

// stop ends the lanes and closes what they have open. It returns what the first
// one failed with, if one did before.
func (l *load) stop() error {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.end())
}

func (l *load) end() (err error) {
	for _, lane := range l.lanes {
		err = errors.Join(err, lane.end())
	}
	return err
}

// compare checks every lane of a site against what was acknowledged.
func compare(ctx context.Context, s site, acked map[string]uint64) (*CutResult, error) {
	r := &CutResult{Cuts: 1, Lanes: []LaneResult{}, Losses: []Loss{}}
	lanes := lanesOf(s)
	for _, lane := range lanes {
		t := &tally{LaneResult: LaneResult{Lane: lane.name()}}
		if err := lane.check(ctx, acked[lane.name()], t); err != nil {
			err = fmt.Errorf("check %s: %w", lane.name(), err)
			for _, l := range lanes {
				err = errors.Join(err, l.end())
			}
			return nil, err
		}
		r.add(t)
	}
	for _, lane := range lanes {
		if err := lane.end(); err != nil {
			return nil, fmt.Errorf("check %s: %w", lane.name(), err)
		}
	}
	return r, nil
}

// removeTree takes a directory away with everything in it, if it is there.
func removeTree(fsys disk.FS, dir string) error {
	entries, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name)
		if e.IsDir {
			err = removeTree(fsys, path)
		} else {
			err = fsys.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	return fsys.Remove(dir)
}
