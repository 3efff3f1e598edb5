package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/certify"
	"github.com/walsvc/walsvc/internal/disk"
)

// certifyResult is what `walctl certify DIR` prints.
type certifyResult struct{ *certify.Report }

func (r certifyResult) tables() []grid {
	summary := grid{rows: [][]any{
		{"directory", r.Dir},
		{"verdict", mood{string(r.Verdict), r.Verdict.Bad()}},
	}}
	if r.Place != nil {
		summary.rows = append(summary.rows,
			[]any{"file system", fmt.Sprintf("%s on %s, at %s", r.Place.FileSystem, r.Place.Source, r.Place.MountPoint)},
			[]any{"options", wrap(strings.Join(r.Place.Options, ", "), 64)})
	}
	found := grid{title: "Found", head: []string{"check", "", "what"}}
	for _, f := range r.Findings {
		found.rows = append(found.rows, []any{f.Check, mood{string(f.Level), f.Level != certify.Good}, wrap(f.Detail, 54)})
	}
	grids := []grid{summary, found}
	if r.Cut == nil {
		return grids
	}
	lanes := grid{title: fmt.Sprintf("Cuts (%s): %d", r.Cut.Kind, r.Cut.Cuts),
		head: []string{"lane", "acknowledged", "compared", "lost", "torn", "reappeared"}}
	for _, l := range r.Cut.Lanes {
		lanes.rows = append(lanes.rows, []any{l.Lane, l.Acknowledged, l.Checked, l.Lost, l.Torn, l.Reappeared})
	}
	lanes.rows = append(lanes.rows, []any{"never synced", r.Cut.Unsynced, r.Cut.Unsynced, r.Cut.Dropped, "", ""})
	grids = append(grids, lanes)
	if len(r.Cut.Losses) > 0 {
		const shown = 20
		losses := grid{title: "Not as acknowledged", head: []string{"cut", "lane", "", "what"}}
		for _, l := range r.Cut.Losses[:min(shown, len(r.Cut.Losses))] {
			losses.rows = append(losses.rows, []any{l.Cut, l.Lane, string(l.Kind), l.What})
		}
		grids = append(grids, losses)
	}
	return grids
}

// wrap breaks a text at its spaces into lines of at most so many bytes.
func wrap(text string, width int) string {
	var b strings.Builder
	at := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case at == 0:
		case at+1+len(word) > width:
			b.WriteByte('\n')
			at = 0
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}

// runResult is what `walctl certify DIR --witness` prints when it is interrupted.
type runResult struct{ *certify.RunResult }

func (r runResult) tables() []grid {
	return []grid{{rows: [][]any{
		{"directory", r.Dir},
		{"run", r.Run},
		{"acknowledged", r.Acknowledged},
		{"next", "it ended without a power cut: remove " + filepath.Join(r.Dir, certify.Home) + ", or compare it with --after"},
	}}}
}

// witnessResult is what `walctl certify --listen` prints when it is interrupted.
type witnessResult struct {
	Records []certify.Record `json:"records"`
}

func (r witnessResult) tables() []grid {
	t := grid{head: []string{"RUN", "ACKNOWLEDGED"}, empty: "nobody came"}
	for _, record := range r.Records {
		t.rows = append(t.rows, []any{record.Run, steps(record)})
	}
	return []grid{t}
}

func steps(r certify.Record) (n uint64) {
	for _, step := range r.Acked {
		n += step
	}
	return n
}

// certifyFlags are those of `walctl certify`.
type certifyFlags struct {
	cut     string
	cuts    int
	load    time.Duration
	yes     bool
	witness string
	listen  string
	after   string
}

func newCertifyCommand(g *globals) *cobra.Command {
	var o certifyFlags
	cmd := &cobra.Command{
		Use:   "certify {DIR | --listen ADDR}",
		Short: "Test whether a disk keeps what it says is durable",
		Long: `Test whether the disk of DIR, with its file system and mount options, keeps what
it says is durable, and say so in a verdict that claims no more than was tested.

Alone, it looks for what speaks against the disk, in one to two seconds:
mount options, devices and their caches, the operations that a volume needs, how
long a sync takes, and whether each one has the device empty its cache.

With --cut shutdown it shuts the file system down under load, unmounts it and
mounts it again, as often as --cuts says: what was not synced is gone then. DIR
must be where an ext4, xfs or f2fs of its own is mounted, and you root. The
device and its cache stay untested. --yes if there are files of others in it.

The real test takes a power cut and another machine, the witness:

  other$  walctl certify --listen 10.0.0.2:7401
  this$   walctl certify DIR --witness 10.0.0.2:7401
          ... now pull the plug, start the machine, mount DIR ...
  this$   walctl certify DIR --after 10.0.0.2:7401

--witness - writes the record to standard output, for a pipe to where it
survives, and --after takes it as a file. A witness is reached in the clear and
trusts whoever comes: keep it in a network of your own.

A load works in DIR/walsvc-certify and takes about 16 MiB.

The verdict is nothing-found, suspect or certified, with exit code 0; unfit or
inconclusive, with 1; or dishonest, with 5.

JSON: dir, verdict, words [], place {file_system, source, mount_point, root,
options [], devices [] of name, number, model, write_cache, rotational, backing
and on [], kernel, boot} or null, findings [] of check, level (good, suspicion or
against) and detail, sync_us {p50, p99, p999}, cut {kind, cuts, acknowledged,
checked, lost, torn, reappeared, unsynced, dropped, gentle, restarted, lanes [] of lane,
acknowledged, checked, lost, torn and reappeared, losses [] of cut, lane, kind
and what} or null, tested [], not_tested []. With --witness: dir, run,
acknowledged, acked {}. With --listen: records [] of run and acked {}.`,
		Example: `  walctl certify /var/lib/walsvc
  walctl certify /mnt/new --cut shutdown --cuts 20 -o json`,
		GroupID: groupOffline,
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			if o.listen != "" {
				return runWitness(cmd, g, o.listen)
			}
			dir, err := realDir(args[0])
			if err != nil {
				return err
			}
			return explainCertify(o.run(cmd, g, certify.Options{Dir: dir}), dir)
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
	}
	flags := cmd.Flags()
	flags.StringVar(&o.cut, "cut", "", "what to `cut`: shutdown")
	flags.IntVar(&o.cuts, "cuts", 5, "how many cuts with --cut")
	flags.DurationVar(&o.load, "for", 0, "how long the load runs: before each cut (default 1s), or with --witness (default until interrupted)")
	flags.BoolVarP(&o.yes, "yes", "y", false, "cut a file system that has other files, too")
	flags.StringVar(&o.witness, "witness", "", "run a load until the power goes, and tell a witness at `HOST:PORT`, or - for standard output")
	flags.StringVar(&o.listen, "listen", "", "be a witness at `HOST:PORT`, until interrupted")
	flags.StringVar(&o.after, "after", "", "compare what is there with a `record`: HOST:PORT of a witness, or a file")
	cmd.MarkFlagsMutuallyExclusive("cut", "witness", "listen", "after")
	must(cmd.RegisterFlagCompletionFunc("cut", cobra.FixedCompletions([]string{certify.KindShutdown}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (o *certifyFlags) check(args []string) error {
	switch {
	case (o.listen != "") == (len(args) == 1):
		return usagef("want a directory or --listen, and not both")
	case o.cut != "" && o.cut != certify.KindShutdown:
		return usagef("--cut %s: must be %s", o.cut, certify.KindShutdown)
	case o.cuts < 1 || o.load < 0:
		return usagef("--cuts %d, --for %v: want more than nothing", o.cuts, o.load)
	case o.load > 0 && o.cut == "" && o.witness == "":
		return usagef("--for is for --cut and --witness")
	}
	return nil
}

// realDir returns a directory as the kernel knows it.
func realDir(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("directory %q: %w", dir, err)
	}
	return path, nil
}

// run does what the flags say, and prints the result.
func (o *certifyFlags) run(cmd *cobra.Command, g *globals, of certify.Options) error {
	ctx := cmd.Context()
	line := newStatusLine(cmd.ErrOrStderr())
	var report *certify.Report
	var err error
	switch {
	case o.witness != "":
		return o.runLoad(cmd, g, of)
	case o.cut != "":
		report, err = certify.Cuts(ctx, certify.CutOptions{Options: of, Cuts: o.cuts, For: o.load, Yes: o.yes}, line.steps)
	case o.after != "":
		report, err = certify.After(ctx, of, func(run ulid.ULID) (*certify.Record, error) { return o.record(ctx, run) }, line.steps)
	default:
		report, err = certify.Inspect(ctx, of, line.steps)
	}
	line.clear()
	if err != nil {
		return err
	}
	if err := g.print(cmd, certifyResult{report}); err != nil {
		return err
	}
	if g.format != formatJSON {
		out := cmd.OutOrStdout()
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
		if err := prose(out, report.Words); err != nil {
			return err
		}
	}
	return verdictOf(report)
}

// verdictOf is how a command ends that came to a bad verdict.
func verdictOf(r *certify.Report) error {
	err := fmt.Errorf("%s: the verdict is %s", r.Dir, r.Verdict)
	switch r.Verdict {
	case certify.Dishonest:
		return &failure{code: exitDamage, err: err, next: "put no volume there; what was found is in " + filepath.Join(r.Dir, certify.Home) + ", remove it when you have looked at it"}
	case certify.Unfit:
		return &failure{code: exitFailed, err: err, next: "change what is named above, then test again"}
	case certify.Inconclusive:
		return &failure{code: exitFailed, err: err, next: "cut the power itself, at the plug, while the load runs"}
	}
	return nil
}

// record finds what a witness heard of a run.
func (o *certifyFlags) record(ctx context.Context, run ulid.ULID) (*certify.Record, error) {
	f, err := os.Open(o.after)
	if errors.Is(err, fs.ErrNotExist) {
		if _, _, split := net.SplitHostPort(o.after); split == nil {
			return certify.FetchRecord(ctx, o.after, run)
		}
	}
	if err != nil {
		return nil, err
	}
	r, err := certify.ReadRecord(f)
	return r, errors.Join(err, f.Close())
}

// runLoad runs a load until the power goes.
func (o *certifyFlags) runLoad(cmd *cobra.Command, g *globals, of certify.Options) (err error) {
	ctx := cmd.Context()
	witness := cmd.OutOrStdout()
	if o.witness != "-" {
		conn, err := certify.DialWitness(ctx, o.witness)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		witness = conn
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stderr := cmd.ErrOrStderr()
	line := newStatusLine(stderr)
	started := func(run ulid.ULID) { // only now: preparing takes as long as it takes
		if o.load > 0 {
			time.AfterFunc(o.load, cancel)
		}
		fmt.Fprintf(stderr, "run %s is under way: pull the plug when you like, then walctl certify %s --after RECORD\n", run, of.Dir)
	}
	began := time.Now()
	r, err := certify.Witnessed(ctx, of, witness, started, func(steps uint64) {
		line.says(func() string {
			return fmt.Sprintf("%s steps acknowledged in %v", grouped(steps), time.Since(began).Round(time.Second))
		})
	})
	line.clear()
	if err != nil || o.witness == "-" {
		return err
	}
	return g.print(cmd, runResult{r})
}

// runWitness keeps records until it is interrupted.
func runWitness(cmd *cobra.Command, g *globals, addr string) error {
	ln, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "witness tcp:%s\n", ln.Addr())
	w := certify.NewWitness()
	if err := w.Serve(cmd.Context(), ln); err != nil {
		return err
	}
	return g.print(cmd, witnessResult{append([]certify.Record{}, w.Records()...)})
}

// explainCertify gives errors their next steps.
func explainCertify(err error, dir string) error {
	home := filepath.Join(dir, certify.Home)
	next := ""
	code := exitFailed
	switch {
	case err == nil:
		return nil
	case errors.Is(err, certify.ErrRunThere):
		next = "compare it with --after, or remove " + home
	case errors.Is(err, certify.ErrNoRun):
		code, next = exitNotFound, "mount what the load ran on; if it is mounted, the file system has lost all of it"
	case errors.Is(err, certify.ErrNoRecord):
		code, next = exitNotFound, "ask the witness that was told of the run"
	case errors.Is(err, certify.ErrNoRoom):
		next = "make room"
	case errors.Is(err, certify.ErrCannotCut):
		next = "mount an ext4 or xfs of its own there, or cut the power; see walctl certify --help"
	case errors.Is(err, certify.ErrOthers):
		next = "pass --yes if a crash may hit them"
	case errors.Is(err, disk.ErrShared):
		next = "stop who uses it, be it a shell that stands in it (fuser -vm " + dir + ") or a container that has it mounted (grep " + dir + " /proc/*/mountinfo)"
	case errors.Is(err, fs.ErrPermission):
		next = "run it as root"
	case dialled(err):
		next = "start walctl certify --listen on the other machine, and name its address"
	default:
		return err
	}
	return &failure{code: code, err: err, next: next}
}

// dialled reports whether nobody could be connected to.
func dialled(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}
