package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/walsvc/walsvc/prove/power"
)

var (
	// errCut says that the power went before a subject was ready.
	errCut = errors.New("the power went")
	// errRefused says that a subject ended instead of getting ready.
	errRefused = errors.New("refused to start")
)

// volume is the directory of a subject, in the root of its disk.
const volume = "volume"

// A subject is a program that claims to keep what it acknowledged. It is
// started, used, and killed, one at a time and again and again.
type subject interface {
	name() string
	// version returns which one it is, or nothing.
	version(ctx context.Context) string
	// judged says that what it loses fails the proof. What others lose is told.
	judged() bool
	// makesDirectory says that it makes the directory volume itself, and durable.
	// Others find it there.
	makesDirectory() bool
	// start starts it on the directory volume of a mount and returns when it is ready,
	// or errCut if d goes off first, or errRefused. In both cases it is dead.
	start(ctx context.Context, d *power.Disk, mount string) error
	// verify compares what it serves with what it promised.
	verify(ctx context.Context, l *ledger, say func(string, ...any)) (tally, error)
	// load uses it until ctx ends. It returns a failure that no cut explains.
	load(ctx context.Context, l *ledger, seed uint64) error
	// kill cuts its power and returns when it is dead.
	kill(d *power.Disk) error
	// said returns the last that it printed.
	said() string
}

// A repairer is a subject whose documentation says what to do by hand when it
// refuses to start. What is lost is counted after that.
type repairer interface {
	repair(ctx context.Context, mount string) error
}

// A plan says how a subject is put to the proof.
type plan struct {
	cuts     int
	perDisk  int // cuts of a disk, before it begins anew
	kind     power.Kind
	seed     uint64
	dir      string // of the mount, and of evidence
	progress io.Writer
}

// A result is one row of the table.
type result struct {
	Subject      string `json:"subject"`
	Version      string `json:"version,omitempty"`
	Judged       bool   `json:"judged"`
	Absent       string `json:"absent,omitempty"` // why it was not cut at all
	Disk         string `json:"disk"`
	Cuts         int    `json:"cuts"`
	WhileOpening int    `json:"cuts_while_opening"`
	Acknowledged int    `json:"acknowledged"`
	tally
	CutsWithLoss int      `json:"cuts_with_loss"` // after which acknowledged records were not there, or not served at all
	Refused      int      `json:"refused_to_start"`
	Failed       int      `json:"failed_under_load"`
	Dropped      int      `json:"unsynced_changes_dropped"`
	Syncs        int      `json:"syncs"`
	Renames      int      `json:"renames"`
	Seed         uint64   `json:"seed"`
	Seconds      float64  `json:"seconds"`
	Examples     []string `json:"examples"`
	Evidence     []string `json:"evidence,omitempty"`
}

const (
	patience    = 30 * time.Second // for a start or a comparison
	loadLimit   = 2 * time.Second  // after which the power goes in any case
	linger      = 5 * time.Millisecond
	slowSync    = time.Millisecond // of every second disk
	maxExamples = 20

	examplesOfCut = 3
	progressEvery = 20 // cuts

	// How many changes a cut lets pass: any number up to the first is as likely
	// as any other while opening, and of the second while loaded, each order of
	// magnitude.
	openingChanges = 16
	loadChanges    = 1500
	// The last cut of a disk lets more pass, so that something was acknowledged on
	// each: that of a disk that lies is the only one.
	lastChanges  = 40
	openingOneIn = 5 // cuts that come while opening
	sectorsOneIn = 3 // cuts that tear blocks into sectors
)

// A trial is a subject on its way through a plan.
type trial struct {
	plan
	subject subject
	rng     *rand.Rand
	r       result

	disk     *power.Disk
	evidence *power.Disk // as disk was when the power came back
	ledger   *ledger
	cutsHere int // of this disk
}

// run puts a subject to the proof. The result counts what went wrong with the
// subject; an error is about the proof.
func run(ctx context.Context, p plan, s subject) (result, error) {
	began := time.Now()
	t := &trial{plan: p, subject: s, rng: rand.New(rand.NewPCG(p.seed, 0)),
		r: result{Subject: s.name(), Version: s.version(ctx), Judged: s.judged(), Disk: p.kind.String(), Seed: p.seed, Examples: []string{}}}
	t.fresh()
	for t.r.Cuts < p.cuts || t.cutsHere > 0 {
		if err := t.life(ctx); err != nil {
			return t.r, err
		}
	}
	t.r.Seconds = time.Since(began).Seconds()
	return t.r, nil
}

// fresh begins anew with an empty disk.
func (t *trial) fresh() {
	if t.ledger != nil {
		t.r.Acknowledged += t.ledger.acked
	}
	t.disk = power.New(t.kind, time.Duration(t.rng.IntN(2))*slowSync)
	t.evidence, t.ledger, t.cutsHere = nil, newLedger(), 0
	if !t.subject.makesDirectory() {
		t.disk.Mkdir(volume)
	}
}

// life is one mount: start, compare, load, cut; or a cut while starting. A disk
// that has had its cuts, or all cuts are done, is compared a last time.
func (t *trial) life(ctx context.Context) (err error) {
	mount := filepath.Join(t.dir, "mount")
	if err := os.MkdirAll(mount, 0o700); err != nil {
		return err
	}
	m, err := power.Mount(t.disk, mount)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, m.Unmount())
		syncs, renames := t.disk.Counts()
		t.r.Syncs += syncs
		t.r.Renames += renames
		if err == nil {
			t.restore()
		}
	}()
	last := t.r.Cuts >= t.cuts || t.cutsHere >= t.perDisk
	opening := !last && !t.lastCut() && t.rng.IntN(openingOneIn) == 0
	if opening {
		t.disk.CutAfter(t.rng.IntN(openingChanges), t.atSync())
	}

	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = t.subject.start(starting, t.disk, mount)
	repaired := false
	if errors.Is(err, errRefused) && t.cutsHere > 0 {
		t.r.Refused++
		t.wrong(err.Error())
		if r, ok := t.subject.(repairer); ok {
			repaired = true
			t.disk.CutAfter(math.MaxInt32, false) // not now
			if err = r.repair(starting, mount); err == nil {
				err = t.subject.start(starting, t.disk, mount)
			} else {
				err = fmt.Errorf("%w: %w", errRefused, err)
			}
		}
	}
	switch {
	case errors.Is(err, errCut):
		t.cut()
		t.r.WhileOpening++
		return nil
	case errors.Is(err, errRefused) && t.cutsHere > 0:
		if t.ledger.acked > 0 {
			t.r.CutsWithLoss++
		}
		t.cutsHere = t.perDisk + 1
		return nil
	case err != nil:
		return fmt.Errorf("start %s: %w\n%s", t.subject.name(), err, t.subject.said())
	}

	verifying, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	go func() {
		select {
		case <-t.disk.Off(): // late in the opening: it was ready, and does not answer any more
			cancel()
		case <-verifying.Done():
		}
	}()
	var examples []string
	found, err := t.subject.verify(verifying, t.ledger, func(format string, args ...any) {
		if len(examples) < examplesOfCut {
			examples = append(examples, fmt.Sprintf(format, args...))
		}
	})
	if !found.clean() {
		t.r.tally.add(found)
		if found.Lost > 0 {
			t.r.CutsWithLoss++
		}
		t.wrong(examples...)
		t.cutsHere = t.perDisk + 1 // what is lost stays lost: it would be counted again
		return t.subject.kill(t.disk)
	}
	if err != nil {
		select {
		case <-t.disk.Off():
			t.cut()
			t.r.WhileOpening++
			return t.subject.kill(t.disk)
		default:
		}
		return errors.Join(fmt.Errorf("compare: %w\n%s", err, t.subject.said()), t.subject.kill(t.disk))
	}
	if last || repaired {
		t.cutsHere = t.perDisk + 1
		return t.subject.kill(t.disk)
	}
	return t.load(ctx)
}

// load uses the subject until the power goes.
func (t *trial) load(ctx context.Context) error {
	least := 0.0
	if t.lastCut() {
		least = math.Log(lastChanges)
	}
	t.disk.CutAfter(int(math.Exp(least+t.rng.Float64()*(math.Log(loadChanges)-least))), t.atSync())
	loading, stop := context.WithCancel(ctx)
	defer stop()
	loaded := make(chan error, 1)
	seed := t.rng.Uint64()
	go func() { loaded <- t.subject.load(loading, t.ledger, seed) }()
	limit := time.NewTimer(loadLimit)
	defer limit.Stop()
	var ended error
	select {
	case <-t.disk.Off():
		// The disk has stood still since. Whatever is acknowledged all the same was
		// acknowledged without it, and has to be there.
		moment := time.NewTimer(linger)
		defer moment.Stop()
		select {
		case <-moment.C:
		case <-ctx.Done():
		}
	case <-limit.C:
	case <-ctx.Done():
	case ended = <-loaded:
		loaded <- nil
	}
	err := t.subject.kill(t.disk) // the power goes here, if it has not yet
	stop()
	ended = errors.Join(ended, <-loaded)
	if err := errors.Join(err, ctx.Err()); err != nil {
		return fmt.Errorf("load: %w\n%s", err, t.subject.said())
	}
	if ended != nil {
		t.r.Failed++
		t.wrong(fmt.Sprintf("failed under load: %v\n%s", ended, t.subject.said()))
	}
	t.cut()
	return nil
}

// lastCut says whether the next cut is the last of this disk.
func (t *trial) lastCut() bool { return t.cutsHere == t.perDisk-1 }

// atSync says whether the next cut hits a sync: most do, for little is unsynced
// at other moments, and some do not, for those have to be survived as well.
func (t *trial) atSync() bool { return t.rng.IntN(4) != 0 }

func (t *trial) cut() {
	t.r.Cuts++
	t.cutsHere++
	if t.r.Cuts%progressEvery == 0 {
		fmt.Fprintf(t.progress, "%s: %d of %d cuts, %d acknowledged\n", t.subject.name(), t.r.Cuts, t.cuts, t.r.Acknowledged+t.ledger.acked)
	}
}

// restore is the power coming back, on the same disk or a fresh one.
func (t *trial) restore() {
	if t.cutsHere > t.perDisk {
		t.fresh()
		return
	}
	lost := 0
	t.disk, lost = t.disk.Survivor(t.rng, power.Loss{Survive: t.rng.Float64(), Sectors: t.rng.IntN(sectorsOneIn) == 0})
	t.r.Dropped += lost
	t.evidence = t.disk.Clone()
}

// wrong takes note of an example, and keeps what the subject was started on.
func (t *trial) wrong(what ...string) {
	for _, w := range what {
		if len(t.r.Examples) < maxExamples {
			t.r.Examples = append(t.r.Examples, fmt.Sprintf("cut %d: %s", t.r.Cuts, w))
		}
	}
	if t.evidence == nil || t.kind == power.Lying || !t.subject.judged() || len(t.r.Evidence) >= maxExamples {
		return
	}
	dir := filepath.Join(t.dir, fmt.Sprintf("evidence-%d", t.r.Cuts))
	if err := t.evidence.Export(dir); err != nil {
		t.r.Examples = append(t.r.Examples, fmt.Sprintf("cut %d: no evidence: %v", t.r.Cuts, err))
		return
	}
	t.r.Evidence = append(t.r.Evidence, dir)
}
