package certify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/walsvc/walsvc/internal/disk"
)

// Home is the name of the directory that a load works in, within the one that is
// tested. It stays after a verdict of Dishonest, to be looked at.
const Home = "walsvc-certify"

// minFree is what a load wants to have free, in bytes; it takes a fifth of it.
const minFree = 64 << 20

var (
	// ErrRunThere says that an earlier load was not compared yet, or was found
	// to have lost something.
	ErrRunThere = errors.New("what an earlier run left is there")

	// ErrNoRun says that no load left anything: it never ran in that directory,
	// or what it ran on is not mounted, or is gone.
	ErrNoRun = errors.New("no run left anything here")

	// ErrNoRoom says that there is too little space for a load.
	ErrNoRoom = errors.New("too little space")
)

// newHome makes the directory of a load.
func newHome(fsys disk.FS, dir string) (string, error) {
	home := filepath.Join(dir, Home)
	if _, err := fsys.List(home); err == nil {
		return "", fmt.Errorf("%s: %w", home, ErrRunThere)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	free, err := fsys.Free(dir)
	if err != nil {
		return "", err
	}
	if free < minFree {
		return "", fmt.Errorf("%s: %w: %d MiB are free, it takes %d", dir, ErrNoRoom, free>>20, minFree>>20)
	}
	return home, fsys.MkdirAll(home)
}

// runFile tells after a restart which run it was, and whether it was one.
const runFile = "RUN"

// writeRun makes a run's identity durable.
func writeRun(fsys disk.FS, home string, run ulid.ULID, boot string) error {
	f, err := fsys.Create(filepath.Join(home, runFile))
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(run.String()+" "+boot+"\n"), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return fsys.SyncDir(home)
}

// readRun returns the identity of the run that left something in home.
func readRun(fsys disk.FS, home string) (run ulid.ULID, boot string, err error) {
	f, err := fsys.Open(filepath.Join(home, runFile), false)
	if errors.Is(err, fs.ErrNotExist) {
		return run, "", fmt.Errorf("%s: %w", home, ErrNoRun)
	}
	if err != nil {
		return run, "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 256))
	if err = errors.Join(err, f.Close()); err != nil {
		return run, "", err
	}
	id, boot, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if run, err = ulid.ParseStrict(id); err != nil {
		return run, "", fmt.Errorf("%s: %w: %w", filepath.Join(home, runFile), ErrNoRun, err)
	}
	return run, boot, nil
}

// A RunResult is a load that ended otherwise than by a power cut.
type RunResult struct {
	Dir          string            `json:"dir"`
	Run          ulid.ULID         `json:"run"`
	Acknowledged uint64            `json:"acknowledged"` // steps
	Acked        map[string]uint64 `json:"acked"`        // by lane
}

// Witnessed runs a load and writes what was acknowledged to a witness, as soon as
// it was: one line for each lane with news, many times a second. It ends with
// ctx, if the power does not go first, and leaves all as it is for After. started
// is called once the load runs, news with each line; both may be nil.
//
// It ends with an error if the load fails, and if the witness does: what nobody
// keeps proves nothing.
func Witnessed(ctx context.Context, o Options, witness io.Writer, started func(ulid.ULID), news func(steps uint64)) (*RunResult, error) {
	o = o.withDefaults()
	home, err := newHome(o.fs, o.Dir)
	if err != nil {
		return nil, err
	}
	run := ulid.MustNew(ulid.Now(), rand.Reader)
	boot := ""
	if place, err := o.locate(o.Dir); err == nil {
		boot = place.Boot
	} else if !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	if err := writeRun(o.fs, home, run, boot); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(witness, "%s%s\n", helloAcks, run); err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	a := newAcks()
	l, err := startLoad(ctx, site{fs: o.fs, dir: home, run: run}, a)
	if err != nil {
		return nil, err
	}
	if started != nil {
		started(run)
	}
	var told map[string]uint64
	for done := false; err == nil && !done; {
		select {
		case <-a.changed:
		case <-l.failed:
			done = true
		case <-ctx.Done():
			done = true
		}
		is := a.all()
		if _, err = io.WriteString(witness, spell(told, is)); err != nil {
			err = fmt.Errorf("witness: %w", err)
		}
		told = is
		if news != nil {
			news(sum(is))
		}
	}
	if err := errors.Join(err, l.stop()); err != nil {
		return nil, err
	}
	acked := a.all()
	return &RunResult{Dir: o.Dir, Run: run, Acknowledged: sum(acked), Acked: acked}, nil
}

func sum(steps map[string]uint64) (n uint64) {
	for _, step := range steps {
		n += step
	}
	return n
}

// After compares what is in a directory with what a witness heard before the
// power was cut, and comes to a verdict. record finds what was heard of a run.
// What the run left is removed, unless something was lost.
//
// It returns ErrNoRun if no run left anything, which may be the worst of all: an
// empty file system where there was one with files.
func After(ctx context.Context, o Options, record func(run ulid.ULID) (*Record, error), p Progress) (*Report, error) {
	o = o.withDefaults()
	home := filepath.Join(o.Dir, Home)
	run, boot, err := readRun(o.fs, home)
	if err != nil {
		return nil, err
	}
	heard, err := record(run)
	if err != nil {
		return nil, err
	}
	if heard.Run != run {
		return nil, fmt.Errorf("%s is of run %s, the record of %s: %w", home, run, heard.Run, ErrNoRecord)
	}
	p.step(0, 2, "comparing")
	// Before anything else is written: a file system that is not looked at
	// changes no less than one that is.
	cut, err := compare(ctx, site{fs: o.fs, dir: home, run: run}, heard.Acked)
	if err != nil {
		return nil, err
	}
	p.step(1, 2, "inspecting")
	r, err := inspect(ctx, o, nil)
	if err != nil {
		return nil, err
	}
	cut.Kind = KindPower
	cut.Restarted = r.Place == nil || r.Place.Boot != boot
	r.Cut = cut
	r.judge()
	if r.Verdict != Dishonest {
		err = removeTree(o.fs, home)
	}
	return r, err
}
