package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/walsvc/walsvc/internal/bench"
)

// postgres is PostgreSQL with a table of records. Each caller has a connection,
// since that is where PostgreSQL merges commits; gathered, one connection COPYs
// what arrived meanwhile, the quickest way into a table that there is.
//
// The log has no more in it than durability takes: wal_level minimal, no
// replication. Its files are recycled, and no checkpoint and no vacuum runs.
type postgres struct {
	bin      string // directory of initdb and postgres
	v        string
	gathered bool
	as       *syscall.Credential // PostgreSQL refuses to be root

	process *process
	config  *pgx.ConnConfig
	conns   []*pgx.Conn
}

// findPostgres returns the directory of the newest PostgreSQL there is.
func findPostgres(ctx context.Context) (bin, version string, as *syscall.Credential, err error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		bin = filepath.Dir(path)
	}
	debian, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", "", nil, err
	}
	if len(debian) > 0 {
		slices.Sort(debian)
		bin = filepath.Dir(debian[len(debian)-1])
	}
	if bin == "" {
		return "", "", nil, fmt.Errorf("postgres: %w; Debian has it in the package postgresql", exec.ErrNotFound)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", "", nil, err
	}
	if m := regexp.MustCompile(`\d+\.\d+`).Find(out); m != nil {
		version = string(m)
	}
	if os.Getuid() != 0 {
		return bin, version, nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return bin, version, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return "", "", nil, errors.New("postgres refuses to be root, and there is no user postgres or nobody")
}

func (s *postgres) about() about {
	a := about{Name: "PostgreSQL, INSERT", Version: s.v, Reached: unixSocket,
		How: "synchronous_commit on, wal_level minimal, WAL recycled, no vacuum or checkpoint; a connection and a prepared INSERT for each caller"}
	if s.gathered {
		a.Name = "PostgreSQL, gathered"
		a.How = "the same; one connection COPYs what arrived while it copied"
	}
	return a
}

// postgresPort names the socket; nothing listens on TCP.
const postgresPort = "5432"

func (s *postgres) start(ctx context.Context, dir string, _ bool) error {
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		if err := s.initialize(ctx, dir, data); err != nil {
			return err
		}
	}
	args := []string{"-D", data, "-k", dir}
	for k, v := range map[string]string{
		"port": postgresPort, "listen_addresses": "", "max_connections": "300",
		"fsync": "on", "synchronous_commit": "on", "wal_level": "minimal", "max_wal_senders": "0",
		"shared_buffers": "256MB", "wal_buffers": "16MB", "min_wal_size": "1GB", "max_wal_size": "8GB",
		"checkpoint_timeout": "1h", "autovacuum": "off", "max_parallel_workers_per_gather": "0",
		"logging_collector": "off", "huge_pages": "off",
	} {
		args = append(args, "-c", k+"="+v)
	}
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%s user=walsvc dbname=postgres", dir, postgresPort))
	if err != nil {
		return err
	}
	s.config = config
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	if s.process, err = startProcess(ctx, cmd, func(ctx context.Context) error {
		return s.connect(ctx, 1)
	}); err != nil {
		return err
	}
	_, err = s.conns[0].Exec(ctx, `CREATE TABLE IF NOT EXISTS log (lsn bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea NOT NULL)`)
	return err
}

// initialize makes a cluster, without syncing it: nothing is kept in it yet.
func (s *postgres) initialize(ctx context.Context, dir, data string) error {
	if s.as != nil {
		if err := os.Chown(dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", data, "-N", "-A", "trust", "-U", "walsvc", "-E", "UTF8", "--no-locale")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// connect makes connections until there are so many.
func (s *postgres) connect(ctx context.Context, n int) error {
	for len(s.conns) < n {
		c, err := pgx.ConnectConfig(ctx, s.config)
		if err != nil {
			return err
		}
		s.conns = append(s.conns, c)
	}
	return nil
}

func (s *postgres) logs(ctx context.Context, callers int, pipelined bool) ([]bench.Log, error) {
	if s.gathered {
		return []bench.Log{gather(s.copyIn, bench.PipelineRecords)}, nil
	}
	if pipelined {
		return nil, errNoPipeline
	}
	if err := s.connect(ctx, callers); err != nil {
		return nil, err
	}
	const insert = "insert"
	logs := make([]bench.Log, callers)
	for i := range logs {
		c := s.conns[i]
		if _, err := c.Prepare(ctx, insert, `INSERT INTO log (data) VALUES ($1)`); err != nil { // or has it
			return nil, err
		}
		logs[i] = called(func(ctx context.Context, record []byte) error {
			_, err := c.Exec(ctx, insert, record)
			return err
		})
	}
	return logs, nil
}

func (s *postgres) copyIn(ctx context.Context, records [][]byte) error {
	i, row := -1, make([]any, 1)
	_, err := s.conns[0].CopyFrom(ctx, pgx.Identifier{"log"}, []string{"data"}, pgx.CopyFromFunc(func() ([]any, error) {
		if i++; i == len(records) {
			return nil, nil //nolint:nilnil // that is how it ends
		}
		row[0] = records[i]
		return row, nil
	}))
	return err
}

func (s *postgres) replay(ctx context.Context, yield func([]byte) error) error {
	rows, err := s.conns[0].Query(ctx, `SELECT data FROM log ORDER BY lsn`, pgx.QueryResultFormats{pgx.BinaryFormatCode})
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := yield(rows.RawValues()[0]); err != nil {
			return err
		}
	}
	return rows.Err()
}

// stop ends the server at once and without a checkpoint, which PostgreSQL
// recovers from as from a crash. With SIGKILL its other processes, which are in
// sessions of their own, would be in the way of the next start.
func (s *postgres) stop(ctx context.Context) error {
	for _, c := range s.conns {
		_ = c.Close(ctx) // nothing is pending
	}
	s.conns = nil
	if s.process != nil {
		_ = s.process.Cmd.Process.Signal(syscall.SIGQUIT) // it may be gone already
		select {
		case <-s.process.Exited():
		case <-ctx.Done():
		}
	}
	s.process.kill()
	s.process = nil
	return nil
}
