package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/walsvc/walsvc/internal/awake"
	"github.com/walsvc/walsvc/internal/limits"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == echoCommand {
		if err := serveEcho(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) (err error) {
	var (
		f       = flag.NewFlagSet("peers", flag.ContinueOnError)
		binary  = f.String("walsvc", "", "walsvc `executable` to measure (required)")
		dir     = f.String("dir", "", "`directory` on the disk to measure; default the one for temporary files")
		callers = f.String("callers", "1,64,256", "`numbers` of callers, with commas")
		rounds  = f.Int("rounds", 5, "`number` of interleaved rounds")
		length  = f.Duration("duration", time.Second, "`time` of each work in each round")
		warm    = f.Duration("warm", time.Second, "`time` under load before the first work of a round")
		size    = f.Int("size", 400, "`bytes` of a record")
		records = f.Int("records", 1_000_000, "`number` of records to read back; 0 for none")
		only    = f.String("only", "", "measure those whose name contains one of these `words`, with commas, and walsvc")
		out     = f.String("out", "", "`directory` for peers.json, peers.md and the plots; default none")
		keep    = f.Bool("keep-awake", false, "keep processors from halting whoever is measured, and not only for walsvc --keep-awake")
		format  = f.String("o", "table", "`format` printed: table, markdown or json")
	)
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	o := options{rounds: *rounds, duration: *length, warm: *warm, size: *size, records: *records, say: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}}
	switch {
	case *binary == "":
		return errors.New("-walsvc: name the executable to measure")
	case *rounds < 1 || *length <= 0 || *warm <= 0 || *records < 0:
		return errors.New("-rounds, -duration and -warm are more than nothing, -records is not less")
	case *size < 1 || *size > limits.MaxRecordSize:
		return fmt.Errorf("-size %d: want 1 to %d", *size, limits.MaxRecordSize)
	case !slices.Contains([]string{"table", "markdown", "json"}, *format):
		return fmt.Errorf("-o %s: want table, markdown or json", *format)
	}
	for _, text := range strings.Split(*callers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxCallers {
			return fmt.Errorf("-callers %s: want numbers from 1 to %d", *callers, maxCallers)
		}
		o.works = append(o.works, work{Callers: n})
	}
	o.works = append(o.works, work{Callers: 1, Pipelined: true})

	if o.dir, err = os.MkdirTemp(*dir, "walsvc-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	if err := os.Chmod(o.dir, 0o755); err != nil { // PostgreSQL is another user
		return err
	}
	entries, missing := everybody(ctx, *binary, o.dir)
	if *keep {
		held, err := awake.Hold()
		if err != nil {
			return err
		}
		defer func() { _ = held.Close() }() // it is let go, whatever closing says
	} else if held, err := awake.Hold(); err != nil {
		missing = append(missing, fmt.Sprintf("walsvc --keep-awake: %v", err))
	} else {
		_ = held.Close() // as above
		kept := &walsvc{binary: *binary, args: []string{"--keep-awake"}, awake: true}
		entries = slices.Insert(entries, 2, entry{kept, true}, entry{&onOne{subject: kept}, false})
	}
	entries = slices.DeleteFunc(entries, func(e entry) bool { return !wanted(e.about().Name, *only) })
	m, err := look(ctx, o.dir)
	if err != nil {
		return fmt.Errorf("measure the disk: %w", err)
	}
	m.KeptAwake = *keep
	for _, what := range missing {
		o.say("not here: %s", what)
	}
	r := run{options: o, entries: entries}
	if err := r.measure(ctx); err != nil {
		return err
	}
	rep := r.report(m, missing)
	if *format == "json" {
		err = rep.writeJSON(os.Stdout)
	} else {
		err = rep.write(os.Stdout, *format == "markdown")
	}
	if *out != "" {
		err = errors.Join(err, rep.save(*out))
	}
	return errors.Join(err, r.results[0].err) // without walsvc, this is no comparison
}

// maxCallers is how many connections PostgreSQL is started for, less some.
const maxCallers = 256

// wanted reports whether a subject is to be measured. The first one always is:
// ratios are of it.
func wanted(name, only string) bool {
	if only == "" || name == "walsvc" {
		return true
	}
	return slices.ContainsFunc(strings.Split(only, ","), func(word string) bool {
		return strings.Contains(strings.ToLower(name), strings.ToLower(word))
	})
}

// everybody returns all subjects that are here, walsvc first, and says what is
// not. Programs that are built are built into dir.
func everybody(ctx context.Context, binary, dir string) (all []entry, missing []string) {
	shipped := &walsvc{binary: binary}
	all = append(all, entry{shipped, true}, entry{&onOne{subject: shipped}, false},
		entry{&walsvc{binary: binary, each: true}, false}, entry{&echo{}, false})
	all = append(all, libraries()...)
	if bin, v, err := buildNATS(ctx, dir); err != nil {
		missing = append(missing, err.Error())
	} else {
		all = append(all, entry{&nats{binary: bin, v: v}, false}, entry{&nats{binary: bin, v: v, gathered: true}, true})
	}
	if s, err := findRedis(ctx); err != nil {
		missing = append(missing, err.Error())
	} else {
		library := *s
		library.library = true
		all = append(all, entry{s, true}, entry{&onOne{subject: s}, false}, entry{&library, false}, entry{&onOne{subject: &library}, false})
	}
	if bin, v, as, err := findPostgres(ctx); err != nil {
		missing = append(missing, err.Error())
	} else {
		all = append(all, entry{&postgres{bin: bin, v: v, as: as}, false}, entry{&postgres{bin: bin, v: v, as: as, gathered: true}, true})
	}
	return all, missing
}

// libraries returns what is built in.
func libraries() []entry {
	return []entry{
		{&loop{}, false},
		{&etcd{}, false}, {&etcd{gathered: true}, true},
		{&raftWAL{}, false}, {&raftWAL{gathered: true}, true},
		{&tidwall{}, false}, {&tidwall{gathered: true}, true},
		{&bbolt{}, false}, {&bbolt{gathered: true}, true},
		{&pebbleDB{}, false}, {&pebbleDB{gathered: true}, true},
	}
}
