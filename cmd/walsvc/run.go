package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/walsvc/walsvc/internal/awake"
	"github.com/walsvc/walsvc/internal/config"
	"github.com/walsvc/walsvc/internal/processors"
	"github.com/walsvc/walsvc/internal/server"
	"github.com/walsvc/walsvc/internal/telemetry"
	"github.com/walsvc/walsvc/segment"
	"github.com/walsvc/walsvc/wal"
)

// run executes walsvc with arguments and returns when it has stopped. The first
// signal, or the end of ctx, drains; the second signal returns at once, with
// whatever is left running.
func run(ctx context.Context, signals <-chan os.Signal, args, environ []string, stdout, stderr io.Writer) error {
	started := false
	root := &cobra.Command{
		Use:   "walsvc",
		Short: "Serve a write-ahead log over gRPC",
		Long: `Serve a volume of write-ahead logs over gRPC until SIGTERM or SIGINT.

Settings come from flags, WALSVC_* variables and a YAML file, in that order;
"walsvc config" prints what comes out.`,
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRun:  func(*cobra.Command, []string) { started = true },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	config.Flags(root.PersistentFlags())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return config.FlagError(err) })
	load := func(cmd *cobra.Command) (config.Config, error) {
		c, err := config.Load(cmd.Root().PersistentFlags(), environ)
		if err != nil {
			return c, &failure{code: exitUsage, err: err, next: "see walsvc help"}
		}
		return c, nil
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := load(cmd)
		if err != nil {
			return err
		}
		if names := config.Unknown(cmd.Root().PersistentFlags(), environ); len(names) > 0 {
			newLogger(c, stderr).Warn("variables of the environment that are no settings: nothing comes of them", "names", names)
		}
		return serve(cmd.Context(), signals, c, stdout, stderr)
	}
	root.AddCommand(configCommand(load), versionCommand(), exitCodesTopic())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		if !started {
			return &failure{code: exitUsage, err: err, next: "see walsvc help"}
		}
		return err
	}
	return nil
}

// serve wires the service, top to bottom, and takes it apart in reverse:
//
//	          config.Config
//	                |
//	    +-----------+------------+
//	    v                        v
//	wal.Open(data) --events--> slog, telemetry ---- admin address
//	    |     \
//	    |      `- poisoned ------.
//	    v                        v
//	wal.Volume -----------> server.New --- health, reflection, interceptors
//	                             |
//	           unix socket, tcp -+- Serve      ready lines, READY=1
//	                             |
//	         first signal ------ Drain         STOPPING=1, bounded by drain-deadline
//	                             |
//	                        Volume.Close       writes the last promise; a disk that hangs
//	                                           beyond the deadline is not waited for
//
// It says ready only after recovery has said what it found and the listeners
// are bound.
func serve(ctx context.Context, signals <-chan os.Signal, c config.Config, stdout, stderr io.Writer) (err error) {
	log := newLogger(c, stderr)
	tlsConfig, err := tlsOf(c) // before the volume: a typo must not cost a recovery
	if err != nil {
		return err
	}

	if c.TLSAnyClient && c.Listen != "" {
		log.Warn("clients are asked for no certificate: whoever reaches the address can read, append and delete", "listen", c.Listen)
	}

	if c.KeepAwake {
		held, err := awake.Hold() // not to recover first and find then that it may not
		if err == nil {
			err = held.Close()
		}
		if err != nil {
			return &failure{code: exitUsage, err: err, next: "run walsvc as a user who may write /dev/cpu_dma_latency, or without --keep-awake"}
		}
	}

	metrics := telemetry.NewMetrics()
	if c.Admin != "" { // also while the volume recovers
		admin, err := serveAdmin(ctx, metrics, c.Admin, log, stdout)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, admin.Stop()) }()
	}
	var frame func(wal.FrameInfo) // nobody looks, nobody counts
	if c.Admin != "" {
		frame = metrics.Frame
	}
	poisoned := make(chan struct{})
	volume, err := open(ctx, signals, c.Data, wal.Options{
		SegmentSize: int64(c.SegmentSize),
		Codec:       c.Codec,
		Direct:      c.Direct,
		PrepareRate: int64(c.PrepareRate),
		Create:      c.Create || !c.DataNamed,
		Events:      eventsTo(log, sync.OnceFunc(func() { close(poisoned) }), filepath.Base(c.SocketPath()), frame),
	})
	if err != nil || volume == nil {
		return err
	}
	draining := false // then drain closes it
	defer func() {
		if !draining {
			err = errors.Join(err, volume.Close())
		}
	}()
	metrics.Watch(volume.Status)
	if c.KeepAwake {
		defer awake.Start(awake.Options{Work: volume.DurableFrame, Log: log}).Stop()
	}
	if err := printRecovery(stdout, c.Data, volume.Recovery()); err != nil {
		return err
	}
	if s := volume.Status(); s.State == wal.ReadOnly {
		if _, err := fmt.Fprintf(stdout, "  %s\n", s.Detail); err != nil {
			return fmt.Errorf("say that the volume is read-only: %w", err)
		}
	}

	listeners, err := listen(ctx, c)
	if err != nil {
		return err
	}
	s := server.New(volume, server.Options{
		Log:            log,
		TLS:            tlsConfig,
		MaxConnections: connectionsWithin(c.MaxConnections, log),
		AdminRate:      c.AdminRate,
		Poisoned:       poisoned,
		Version:        version(),
		FormatVersion:  segment.FormatVersion,
		Codec:          c.Codec,
		Direct:         c.Direct,
	})
	if c.Processors == config.ProcessorsAuto {
		defer processors.Start(processors.Options{Carried: s.Received}).Stop()
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listeners...) }()
	var ready strings.Builder // said in one piece: who has seen a line has all of them
	for _, l := range listeners {
		fmt.Fprintf(&ready, "ready %s:%s\n", l.Addr().Network(), l.Addr())
	}
	if _, err := io.WriteString(stdout, ready.String()); err != nil {
		s.Stop()
		return errors.Join(fmt.Errorf("say ready: %w", err), <-served)
	}
	notify(log, "READY=1")

	select {
	case err := <-served:
		return err
	case sig := <-signals:
		log.Info("draining", "signal", sig.String(), "deadline", c.DrainDeadline)
	case <-ctx.Done():
		log.Info("draining", "cause", context.Cause(ctx), "deadline", c.DrainDeadline)
	}
	notify(log, "STOPPING=1")
	draining = true
	return drain(s, volume, served, signals, c.DrainDeadline, log)
}

// open opens the volume. A signal meanwhile ends it at once, with no volume and
// no error: nothing was taken yet, and the next start recovers all the same.
func open(ctx context.Context, signals <-chan os.Signal, dir string, o wal.Options) (*wal.Volume, error) {
	type result struct {
		volume *wal.Volume
		err    error
	}
	opened := make(chan result, 1)
	go func() {
		v, err := wal.Open(ctx, dir, o)
		opened <- result{v, err}
	}()
	select {
	case r := <-opened:
		return r.volume, r.err
	case <-signals:
		return nil, nil
	}
}

// errInterrupted is what a second signal ends with.
var errInterrupted error = &failure{code: exitInterrupted, err: errors.New("stopped at once by a second signal")}

// drain stops s in order and closes the volume. A deadline that passes is told,
// and no failure: what was sequenced lands with the volume's Close. Only if the
// disk hangs by then, or later, it returns at once, with both left running: the
// disk may never answer, and nothing acknowledged depends on it.
func drain(s *server.Server, volume *wal.Volume, served <-chan error, signals <-chan os.Signal, deadline time.Duration, log *slog.Logger) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), deadline, errors.New("drain deadline passed"))
	defer cancel()
	stopped := make(chan error, 1)
	go func() {
		if err := s.Drain(ctx); err != nil {
			log.Warn("connections cut", "cause", err)
		}
		stopped <- errors.Join(<-served, volume.Close())
	}()
	look := ctx.Done()
	for {
		select {
		case err := <-stopped:
			return err
		case <-signals:
			return errInterrupted
		case <-look:
		}
		stall, changed := volume.Stalled()
		if stall != nil {
			return &failure{
				code: exitFailed,
				err:  fmt.Errorf("stopped while the disk hangs, since %s: %s", stall.Since.UTC().Format(time.RFC3339), stall.Operation),
				next: "look at the disk; nothing acknowledged is lost, and the next start recovers what the disk has",
			}
		}
		look = changed
	}
}

func configCommand(load func(*cobra.Command) (config.Config, error)) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective settings",
		Long:  "Print the effective settings, as YAML that --config takes or as JSON.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(cmd)
			if err != nil {
				return err
			}
			switch format {
			case "yaml":
				return c.WriteYAML(cmd.OutOrStdout())
			case "json":
				return c.WriteJSON(cmd.OutOrStdout())
			}
			return &failure{code: exitUsage, err: fmt.Errorf("output %q: want yaml or json", format), next: "see walsvc help config"}
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "yaml", "yaml or json")
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of walsvc and of the volumes it writes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "walsvc %s, format %d\n", version(), segment.FormatVersion)
			return err
		},
	}
}

// version is what the build knows: no linker flags to forget.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func newLogger(c config.Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// serveAdmin answers on the admin address, and says where that is.
func serveAdmin(ctx context.Context, m *telemetry.Metrics, address string, log *slog.Logger, stdout io.Writer) (*telemetry.Admin, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, noListener("--admin", fmt.Errorf("listen on admin address %s: %w", address, err))
	}
	a := m.Serve(l, log)
	if _, err := fmt.Fprintf(stdout, "admin http://%s\n", l.Addr()); err != nil {
		return nil, errors.Join(fmt.Errorf("say where the admin address is: %w", err), a.Stop())
	}
	return a, nil
}

// eventsTo logs what happens inside the volume, and has its frames counted if
// frame is not nil. socket is the name of what is not a stranger in the data directory.
func eventsTo(log *slog.Logger, poisoned func(), socket string, frame func(wal.FrameInfo)) wal.Events {
	return wal.Events{
		Frame: frame,
		Poisoned: func(err error) {
			poisoned()
			log.Error("volume poisoned: nothing more is taken; look at the disk, then restart", "err", err)
		},
		Rolled:   func(segment uint64) { log.Debug("segment sealed", "segment", segment) },
		Released: func(segments int) { log.Debug("segments released", "segments", segments) },
		CursorEvicted: func(lost wal.CursorLostError) {
			log.Warn("cursor evicted: its reader loses what it has not read", "log", lost.Log, "cursor", lost.Cursor,
				"lsn", lost.LSN, "next_lsn", lost.Next, "cap_bytes", lost.Cap)
		},
		WriterChanged: func(w wal.WriterChange) {
			if w.Holder == "" {
				log.Info("writer released: the log is shared", "log", w.Log, "epoch", w.Epoch)
				return
			}
			log.Info("writer acquired: whoever was before is fenced", "log", w.Log, "holder", w.Holder, "epoch", w.Epoch)
		},
		ProducerEnded: func(p wal.ProducerChange) {
			about := []any{"log", p.Log, "producer", p.Producer, "last_sequence", p.LastSequence, "incarnation", p.Incarnation}
			switch p.What {
			case wal.ProducerRetired:
				log.Warn("producer retired: nothing more of it lands", about...)
			case wal.ProducerMadeWay:
				log.Info("producer made way for another: it is no longer known where its batches are", about...)
			case wal.ProducerResolved:
				log.Info("producer resolved: what it had under way lands no more", about...)
			}
		},
		Moved: func(logs int, records, bytes uint64) {
			log.Info("records moved forward, out of segments that nobody else kept", "logs", logs, "records", records, "bytes", bytes)
		},
		Snapshot: func(sequence uint64, bytes int64, took time.Duration) {
			log.Debug("snapshot written", "sequence", sequence, "bytes", bytes, "took", took)
		},
		PrepareFailed: func(err error) {
			log.Warn("no segment prepared; appends will be refused when space runs out", "err", err)
		},
		Stranger: func(name string) {
			if name != socket {
				log.Warn("a file in the data directory is not walsvc's, and is left alone", "name", name)
			}
		},
		ClockJump: func(by time.Duration) { log.Warn("the clock jumped", "by", by) },
		Stalled: func(s wal.Stall) {
			log.Error("disk stalled: nothing more is acknowledged until it answers", "operation", s.Operation, "since", s.Since)
		},
		StallEnded: func(s wal.Stall, took time.Duration) {
			log.Warn("disk answers again", "operation", s.Operation, "after", took)
		},
	}
}

// printRecovery says what opening the volume found: one line, and one for each
// damage.
func printRecovery(w io.Writer, dir string, r wal.Recovery) error {
	_, err := fmt.Fprintf(w, "recovered %s: %s (%s), %d frames scanned, %d rewritten, %d discarded, in %v\n",
		dir, r.Verdict, r.Case, r.Frames, r.RewrittenFrames, r.DiscardedFrames, r.Took.Round(time.Microsecond))
	if r.Detail != "" && err == nil {
		_, err = fmt.Fprintf(w, "  %s\n", r.Detail)
	}
	for _, d := range r.Damage {
		if err == nil {
			_, err = fmt.Fprintf(w, "  damaged: %s at %#x: %s: %s\n", d.File, d.Offset, d.Case, d.Detail)
		}
	}
	if err != nil {
		return fmt.Errorf("say what recovery found: %w", err)
	}
	return nil
}
