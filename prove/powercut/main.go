// Command powercut takes the power from walsvc, again and again, and finds
// everything that it acknowledged.
//
// It mounts a file system that holds unsynced data back, runs the unmodified
// service on it under several clients, cuts at random moments, keeps a random
// part of what was not synced, restarts, and compares. See README.md.
//
// It exits with 1 if something acknowledged was lost, if something came back or
// was never submitted, if the service refused to start, if the cuts turn out to
// be too gentle, or if this machine cannot mount.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/walsvc/walsvc/prove/power"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		fmt.Fprintln(os.Stderr, child(os.Args[2:], os.Stdin, os.Stdout))
		os.Exit(1) // it never ends well: it appends until it is killed
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	cuts, control, direct, peers int
	perDisk, clients             int
	seed                         uint64
	lying                        bool
	only, binary, format         string
	dir                          string // for everything that is made
}

// formats are what -o may be.
var formats = map[string]func(io.Writer, []result) error{"table": showTable, "markdown": showMarkdown, "json": showJSON}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var o options
	flags := flag.NewFlagSet("powercut", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.cuts, "cuts", 200, "how often to cut")
	flags.IntVar(&o.control, "control", 20, "how often to cut on a disk whose sync does nothing, to see that cuts hurt; 0 for not")
	flags.IntVar(&o.direct, "direct", 20, "how often to cut when it writes past the page cache (O_DIRECT); 0 for not")
	flags.IntVar(&o.peers, "peers", 20, "how often to cut each peer, on each kind of disk; 0 for no peers")
	flags.IntVar(&o.perDisk, "per-disk", 10, "cuts of one disk, one after the other, before it begins anew")
	flags.IntVar(&o.clients, "clients", 4, "clients at once")
	flags.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "`seed` of what is random")
	flags.BoolVar(&o.lying, "lying-sync", false, "all cuts on a disk whose sync does nothing: acknowledged data must be lost")
	flags.StringVar(&o.only, "only", "", "cut only what has this `text` in its name")
	flags.StringVar(&o.binary, "walsvc", "", "walsvc `executable`; by default it is built")
	flags.StringVar(&o.format, "o", "table", "`format` of the result: table, markdown or json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.cuts < 1 || o.control < 0 || o.direct < 0 || o.peers < 0 || o.perDisk < 1 || o.clients < 1 || formats[o.format] == nil {
		return errors.New("want no arguments, at least one of -cuts, -per-disk and -clients, and -o table, markdown or json")
	}
	dir, err := os.MkdirTemp("", "powercut-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return err
	}
	o.dir = dir
	keep := false
	defer func() {
		if keep {
			fmt.Fprintln(stderr, "kept:", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if o.binary == "" {
		if o.binary, err = build(ctx, dir); err != nil {
			return err
		}
	}
	results, err := proof(ctx, o, stderr)
	for _, r := range results {
		keep = keep || len(r.Evidence) > 0
	}
	if err := errors.Join(err, formats[o.format](stdout, results)); err != nil {
		return err
	}
	return verdict(results)
}

// A trialOf is a subject and how it is put to the proof.
type trialOf struct {
	plan
	subject
}

// finders find peers on this machine, by what they are called when they are not there.
var finders = []struct {
	name string
	find func(options) ([]subject, error)
}{
	{"libraries", findLibraries},
	{"Redis", findRedis},
	{"NATS JetStream", findNATS},
}

// trials returns what there is to do, and results for what is not there.
func trials(o options, progress io.Writer) (todo []trialOf, absent []result) {
	add := func(s subject, cuts int, kind power.Kind) {
		p := plan{cuts: cuts, perDisk: o.perDisk, kind: kind, seed: o.seed, dir: o.dir, progress: progress}
		if kind == power.Lying {
			p.perDisk = 1 // what it lost once is lost in all that follows
		}
		if cuts > 0 && strings.Contains(s.name(), o.only) {
			todo = append(todo, trialOf{p, s})
		}
	}
	ours := &walsvc{binary: o.binary, clients: o.clients}
	if o.lying {
		o.control = o.cuts
	} else {
		add(ours, o.cuts, power.Strict)
	}
	add(ours, o.control, power.Lying)
	add(&walsvc{binary: o.binary, clients: o.clients, direct: true}, o.direct, power.Strict)
	if o.peers == 0 {
		return todo, nil
	}
	for _, f := range finders {
		peers, err := f.find(o)
		if err != nil && strings.Contains(f.name, o.only) {
			absent = append(absent, result{Subject: f.name, Absent: err.Error()})
		}
		for _, s := range peers {
			add(s, o.peers, power.Strict)
			add(s, o.peers, power.Journaling)
		}
	}
	return todo, absent
}

// proof runs the trials and returns their results as far as they came.
func proof(ctx context.Context, o options, progress io.Writer) (results []result, err error) {
	todo, absent := trials(o, progress)
	for _, t := range todo {
		r, err := run(ctx, t.plan, t.subject)
		results = append(results, r)
		if err != nil {
			return results, err
		}
	}
	return append(results, absent...), nil
}

// build builds walsvc as its own module has it.
func build(ctx context.Context, dir string) (string, error) {
	const module = "github.com/walsvc/walsvc"
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the sources of walsvc: %w; run this in prove, or name the executable with -walsvc", err)
	}
	binary := filepath.Join(dir, "walsvc")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/walsvc")
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build walsvc: %w\n%s", err, out)
	}
	return binary, nil
}

// verdict returns what the results say against the subjects, or against the proof.
func verdict(results []result) error {
	var errs []error
	for _, r := range results {
		lies := r.Disk == power.Lying.String()
		switch {
		case lies && 2*r.CutsWithLoss < r.Cuts:
			errs = append(errs, fmt.Errorf("the cuts are too gentle: a sync that does nothing lost acknowledged data in %d of %d", r.CutsWithLoss, r.Cuts))
		case lies || !r.Judged:
		case !r.tally.clean() || r.Refused > 0 || r.Failed > 0:
			errs = append(errs, fmt.Errorf("%s: %d lost, %d reappeared, %d garbage, %d times refused to start, %d times failed under load; again with -seed %d",
				r.Subject, r.Lost, r.Reappeared, r.Garbage, r.Refused, r.Failed, r.Seed))
		case r.Acknowledged == 0:
			errs = append(errs, fmt.Errorf("%s acknowledged nothing", r.Subject))
		}
	}
	return errors.Join(errs...)
}
