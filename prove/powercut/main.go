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
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
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
	cuts, control, perDisk, clients int
	peers                           int
	seed                            uint64
	lying                           bool
	binary, format                  string
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var o options
	flags := flag.NewFlagSet("powercut", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.cuts, "cuts", 200, "how often to cut")
	flags.IntVar(&o.control, "control", 20, "how often to cut on a disk whose sync does nothing, to see that cuts hurt; 0 for not")
	flags.IntVar(&o.peers, "peers", 0, "how often to cut each peer; 0 for no peers")
	flags.IntVar(&o.perDisk, "per-disk", 10, "cuts of one disk, one after the other, before it begins anew")
	flags.IntVar(&o.clients, "clients", 4, "clients at once")
	flags.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "`seed` of what is random")
	flags.BoolVar(&o.lying, "lying-sync", false, "all cuts on a disk whose sync does nothing: acknowledged data must be lost")
	flags.StringVar(&o.binary, "walsvc", "", "walsvc `executable`; by default it is built")
	flags.StringVar(&o.format, "o", "table", "`format` of the result: table or json")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.cuts < 1 || o.control < 0 || o.peers < 0 || o.perDisk < 1 || o.clients < 1 || o.format != "table" && o.format != "json" {
		return errors.New("want no arguments, at least one of -cuts, -per-disk and -clients, and -o table or json")
	}
	dir, err := os.MkdirTemp("", "powercut-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return err
	}
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
	results, err := proof(ctx, o, dir, stderr)
	for _, r := range results {
		keep = keep || len(r.Evidence) > 0
	}
	if err := errors.Join(err, show(stdout, o.format, results)); err != nil {
		return err
	}
	return verdict(results)
}

// proof runs the trials and returns their results as far as they came.
func proof(ctx context.Context, o options, dir string, progress io.Writer) (results []result, err error) {
	p := plan{cuts: o.cuts, perDisk: o.perDisk, seed: o.seed, dir: dir, progress: progress}
	lying := p
	lying.lying, lying.perDisk = true, 1 // what a lying disk lost once is lost in all that follows
	if !o.lying {
		lying.cuts = o.control
	}
	peers := p
	peers.cuts = o.peers
	ours := &walsvc{binary: o.binary, clients: o.clients}
	trials := []struct {
		plan
		subject
	}{{p, ours}, {lying, ours}}
	if o.lying {
		trials = trials[1:]
	}
	others := findRedis(o.clients)
	for _, name := range slices.Sorted(maps.Keys(journals)) {
		others = append(others, &library{journal: name})
	}
	for _, s := range others {
		trials = append(trials, struct {
			plan
			subject
		}{peers, s})
	}
	for _, t := range trials {
		if t.cuts == 0 {
			continue
		}
		r, err := run(ctx, t.plan, t.subject)
		results = append(results, r)
		if err != nil {
			return results, err
		}
	}
	return results, nil
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
		switch {
		case r.Lying && 2*r.CutsWithLoss < r.Cuts:
			errs = append(errs, fmt.Errorf("the cuts are too gentle: a sync that does nothing lost acknowledged data in %d of %d", r.CutsWithLoss, r.Cuts))
		case r.Subject != service:
			// What peers do is told and not judged.
		case !r.Lying && (!r.tally.clean() || r.Refused > 0):
			errs = append(errs, fmt.Errorf("%s: %d lost, %d reappeared, %d garbage, %d times refused to start; again with -seed %d",
				r.Subject, r.Lost, r.Reappeared, r.Garbage, r.Refused, r.Seed))
		case !r.Lying && r.Acknowledged == 0:
			errs = append(errs, fmt.Errorf("%s acknowledged nothing", r.Subject))
		}
	}
	return errors.Join(errs...)
}

// examplesOfPeer is how many of a peer's examples the table shows, in a line each.
const examplesOfPeer = 3

func show(w io.Writer, format string, results []result) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "subject\tsync\tcuts\twhile opening\tacknowledged\tlost\treappeared\tgarbage\tcuts with loss\trefused to start\tended by itself\tseconds\t")
	for _, r := range results {
		sync := "honest"
		if r.Lying {
			sync = "lies"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t\n", r.Subject, sync, r.Cuts, r.WhileOpening, r.Acknowledged,
			r.Lost, r.Reappeared, r.Garbage, r.CutsWithLoss, r.Refused, r.Ended, r.Seconds)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.Lying {
			continue
		}
		for i, e := range r.Examples {
			if r.Subject != service {
				if i == examplesOfPeer {
					break
				}
				e, _, _ = strings.Cut(e, "\n")
			}
			fmt.Fprintf(w, "%s: %s\n", r.Subject, e)
		}
		for _, e := range r.Evidence {
			fmt.Fprintf(w, "%s: disk before it was started: %s\n", r.Subject, e)
		}
	}
	return nil
}
